//! Table `[node]`: what every daemon has, whichever its tier.

use std::path::PathBuf;

use proto::ids::ClusterId;
use serde::de::{Error as _, Unexpected};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::network::Exposure;

/// Settings that every tier has.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Folder that holds all that this node keeps; made where it is missing.
    pub data: PathBuf,
    /// Where this node listens, `tcp://HOST:PORT`. Port 0 takes a free one.
    #[serde(default = "any_port_of_loopback", deserialize_with = "address")]
    pub listen: String,
    /// Where other nodes reach this one, where that differs from `listen` (a wildcard or a
    /// translated address).
    #[serde(default, deserialize_with = "address_or_none")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reachable: Option<String>,
    /// Where this node publishes its telemetry, `tcp://HOST:PORT`. Port 0 takes a free one.
    #[serde(default = "any_port_of_loopback", deserialize_with = "address")]
    pub telemetry: String,
    /// Addresses of masters. One that works is enough: it knows the others.
    #[serde(default, deserialize_with = "addresses")]
    pub masters: Vec<String>,
    /// The cluster that this node belongs to, if it shall refuse to join another.
    #[serde(default, deserialize_with = "cluster_or_none", serialize_with = "id_text")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterId>,
    /// Allows to listen without keys on an address that other machines reach.
    #[serde(default)]
    pub insecure: bool,
    /// What is logged, unless `REMUDA_LOG` says otherwise: a level, or levels by module.
    #[serde(default = "info")]
    pub log: String,
    /// File that the log is appended to; standard error where it is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_file: Option<PathBuf>,
}

impl NodeConfig {
    /// The defaults, with the one setting that has none.
    #[must_use]
    pub fn new(data: impl Into<PathBuf>) -> NodeConfig {
        NodeConfig {
            data: data.into(),
            listen: any_port_of_loopback(),
            reachable: None,
            telemetry: any_port_of_loopback(),
            masters: Vec::new(),
            cluster: None,
            insecure: false,
            log: info(),
            log_file: None,
        }
    }

    /// Where it may listen without keys.
    #[must_use]
    pub fn exposure(&self) -> Exposure {
        if self.insecure { Exposure::Insecure } else { Exposure::Loopback }
    }
}

fn any_port_of_loopback() -> String {
    "tcp://127.0.0.1:0".into()
}

fn info() -> String {
    "info".into()
}

fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.strip_prefix("tcp://").and_then(|rest| rest.rsplit_once(':'))
    else {
        return false;
    };
    let closed = host.starts_with('[') == host.ends_with(']');
    let bare = !host.contains(':') || host.starts_with('[');
    let visible = !host.is_empty() && host.chars().all(|c| c.is_ascii_graphic() && c != '/');
    visible && closed && bare && port.parse::<u16>().is_ok()
}

fn checked<E: serde::de::Error>(text: String) -> Result<String, E> {
    if is_address(&text) {
        return Ok(text);
    }
    let expected = "an address such as tcp://10.0.0.1:7000";
    Err(E::invalid_value(Unexpected::Str(&text), &expected))
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    checked(String::deserialize(deserializer)?)
}

fn address_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Option::<String>::deserialize(deserializer)?.map(checked).transpose()
}

fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Vec::<String>::deserialize(deserializer)?.into_iter().map(checked).collect()
}

fn cluster_or_none<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<ClusterId>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
}

fn id_text<S: Serializer>(cluster: &Option<ClusterId>, serializer: S) -> Result<S::Ok, S::Error> {
    match cluster {
        Some(cluster) => serializer.collect_str(cluster),
        None => serializer.serialize_none(),
    }
}
