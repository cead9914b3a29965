//! Settings of a master: what every daemon has, and the table `[master]`.

use node::config::NodeConfig;
use serde::{Deserialize, Serialize};

/// All settings of a master.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Table `[node]`. `masters` are those through which a new master joins; none for the one that
    /// `remuda cluster init` made.
    pub node: NodeConfig,
    /// Table `[master]`.
    #[serde(default)]
    pub master: MasterConfig,
}

/// Table `[master]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MasterConfig {
    /// Its failure zone (a rack, a building); empty where there is only one.
    pub zone: String,
    /// Bytes of applied log after which a snapshot is taken and the log cut.
    pub snapshot_bytes: u64,
}

impl Default for MasterConfig {
    fn default() -> MasterConfig {
        MasterConfig { zone: String::new(), snapshot_bytes: 64 << 20 }
    }
}
