//! Settings of a worker: what every daemon has, and the table `[worker]`.

use node::config::NodeConfig;
use serde::{Deserialize, Serialize};

/// All settings of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Table `[node]`.
    pub node: NodeConfig,
    /// Table `[worker]`.
    #[serde(default)]
    pub worker: WorkerConfig,
}

/// Table `[worker]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerConfig {
    /// Tasks that it executes at a time; 0 for as many as the machine has CPUs.
    pub slots: u32,
    /// Thousandths of a CPU that tasks may use together; 0 for 1,000 for each slot.
    pub cpu_milli: u64,
    /// Bytes of memory that tasks may use together; 0 for what the machine has.
    pub memory_bytes: u64,
    /// Its failure zone (a rack, a building); empty where there is only one.
    pub zone: String,
}
