//! Settings of a master: what every daemon has, and the table `[master]`.

use node::config::NodeConfig;
use proto::time::Duration;
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
    /// Seconds for which a storage node may be silent before it is removed from the ring and what
    /// it has is copied from the others; at least 2. The same for all masters: the one that leads
    /// goes by it.
    pub repair_grace_s: u64,
}

/// Seconds below which no silence is long.
const REPAIR_GRACE_MIN_S: u64 = 2;

impl MasterConfig {
    /// How long a storage node may be silent before it is removed from the ring.
    #[must_use]
    pub fn repair_grace(&self) -> Duration {
        Duration::from_secs(self.repair_grace_s.max(REPAIR_GRACE_MIN_S))
    }
}

impl Default for MasterConfig {
    fn default() -> MasterConfig {
        MasterConfig { zone: String::new(), snapshot_bytes: 64 << 20, repair_grace_s: 300 }
    }
}
