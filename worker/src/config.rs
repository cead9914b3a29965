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

/// Processes and threads that a task may have at a time unless told otherwise: more than a program
/// for one machine starts, and few enough for the machine to go on: with 4,096 that never rest, one of
/// two CPUs was not able to end them for minutes.
pub const TASK_PROCESSES: u32 = 1_024;

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
    /// Processes and threads that a task may have at a time; 0 for [`TASK_PROCESSES`].
    pub task_processes: u32,
    /// Who tasks run as where the worker is root: a name or number; empty for `nobody`. A worker that
    /// is not root runs them as itself.
    pub user: String,
    /// How tasks see their inputs.
    pub inputs: InputsWay,
    /// How the mount shows them, where there is one.
    pub mount_way: MountWay,
    /// Bytes that inputs of tasks may take below the data folder, or the mount's cache of them; 0 for
    /// 80 % of what is free at the start.
    pub inputs_bytes: u64,
    /// Its failure zone (a rack, a building); empty where there is only one.
    pub zone: String,
}

/// How tasks see their inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum InputsWay {
    /// Through a mount where one can be had, else materialised.
    #[default]
    Auto,
    /// Through a mount, of which only what is read is fetched; without one, the worker does not
    /// start.
    Mount,
    /// As files that are fetched as a whole before a job's first task starts.
    Materialise,
}

/// How a mount shows the inputs of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MountWay {
    /// As EROFS where the kernel and the worker's rights allow it, else by the plain way.
    #[default]
    Auto,
    /// As EROFS; where that is not possible, the worker does not start.
    Erofs,
    /// By the connection that answers every question itself.
    Plain,
}
