//! Settings of a balancer: what every daemon has, and the table `[balancer]`.

use node::config::NodeConfig;
use serde::{Deserialize, Serialize};

/// All settings of a balancer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Table `[node]`.
    pub node: NodeConfig,
    /// Table `[balancer]`.
    #[serde(default)]
    pub balancer: BalancerConfig,
}

/// Table `[balancer]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct BalancerConfig {
    /// Its failure zone (a rack, a building); empty where there is only one.
    pub zone: String,
}
