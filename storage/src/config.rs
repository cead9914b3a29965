//! Settings of a storage node: what every daemon has, and the table `[storage]`.

use node::config::NodeConfig;
use proto::time::Duration;
use serde::{Deserialize, Serialize};

use crate::logic::Upkeep;

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
    /// MiB of blocks that it sends to other nodes in a second when the ring changes or a node has
    /// died; 0 for as fast as it goes.
    pub move_mib_per_s: u64,
    /// Seconds after which it looks again whether all that it holds lies where it belongs.
    pub pass_period_s: u64,
    /// Seconds in which it checks the digest of every block once.
    pub scrub_period_s: u64,
}

impl StorageConfig {
    /// The pace that these settings ask for; a period of 0 counts as a second.
    #[must_use]
    pub fn upkeep(&self) -> Upkeep {
        Upkeep {
            move_bytes_per_s: self.move_mib_per_s.saturating_mul(1 << 20),
            pass_period: seconds(self.pass_period_s),
            scrub_period: seconds(self.scrub_period_s),
            ..Upkeep::default()
        }
    }
}

fn seconds(count: u64) -> Duration {
    Duration::from_millis(1_000).times(count.max(1))
}

impl Default for StorageConfig {
    fn default() -> StorageConfig {
        StorageConfig {
            weight: 100,
            zone: String::new(),
            capacity_bytes: 0,
            read_threads: 4,
            move_mib_per_s: 200,
            pass_period_s: 600,
            scrub_period_s: 7 * 24 * 3600,
        }
    }
}
