//! Settings of a storage node: what every daemon has, and the table `[storage]`.

use node::config::NodeConfig;
use serde::{Deserialize, Serialize};

/// All settings of a storage node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Table `[node]`.
    pub node: NodeConfig,
    /// Table `[storage]`.
    #[serde(default)]
    pub storage: StorageConfig,
}

/// Table `[storage]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageConfig {
    /// This node's share of the ring relative to the others'; 0 for one that owns nothing.
    pub weight: u32,
    /// Its failure zone (a rack, a building); empty where there is only one.
    pub zone: String,
    /// Bytes of disk that it may use; 0 for the whole file system.
    pub capacity_bytes: u64,
    /// Threads that read and verify blocks.
    pub read_threads: usize,
}

impl Default for StorageConfig {
    fn default() -> StorageConfig {
        StorageConfig { weight: 100, zone: String::new(), capacity_bytes: 0, read_threads: 4 }
    }
}
