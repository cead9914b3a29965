//! `remuda config check`: all that is wrong with a configuration file, before a daemon stumbles
//! over the first of it.

use std::path::Path;

use client::find::ClusterFile;
use node::config::{self, ConfigError, Loaded, NodeConfig};
use serde::de::DeserializeOwned;

use crate::failure::Failure;
use crate::flags::{Config, ConfigKind};
use crate::output;

/// Does what is asked of configuration files.
pub(crate) fn run(flags: &Config) -> Result<(), Failure> {
    let Config::Check { file, kind } = flags;
    let kind = match kind {
        Some(kind) => *kind,
        None => kind_of(file)?,
    };
    let exposed = match kind {
        ConfigKind::Master => check(file, |it: &master::Config| &it.node)?,
        ConfigKind::Balancer => check(file, |it: &balancer::config::Config| &it.node)?,
        ConfigKind::Worker => check(file, |it: &worker::config::Config| &it.node)?,
        ConfigKind::Storage => check(file, |it: &storage::config::Config| &it.node)?,
        ConfigKind::Client => {
            none_of(file, &config::check_flat::<ClusterFile>(file))?;
            Vec::new()
        }
    };
    output::print(&format!("{}: good for a {}\n", file.display(), kind.name()))?;
    for address in exposed {
        output::note(&address);
    }
    Ok(())
}

/// Checks a tier's file; what a daemon would say of its addresses.
fn check<C: DeserializeOwned>(
    file: &Path,
    node: fn(&C) -> &NodeConfig,
) -> Result<Vec<String>, Failure> {
    none_of(file, &config::check::<C>(file))?;
    // Where nothing is wrong with the file alone, it can be read.
    let loaded: Loaded<C> = super::serve::load_file(file)?;
    let node = node(&loaded.settings);
    let exposed = [&node.listen, &node.telemetry].into_iter().filter_map(|address| {
        node::exposure::check(node.exposure(), address).err().map(|it| it.to_string())
    });
    Ok(exposed.collect())
}

/// A failure that tells all errors, where there is one.
fn none_of(file: &Path, found: &[ConfigError]) -> Result<(), Failure> {
    let lines: Vec<String> = found.iter().map(|error| node::log::chain(error)).collect();
    match lines.as_slice() {
        [] => Ok(()),
        [only] => Err(Failure::usage(only.clone())),
        _ => {
            let count = lines.len();
            let lines = lines.join("\n  ");
            Err(Failure::usage(format!(
                "{count} things are wrong with {}:\n  {lines}",
                file.display()
            )))
        }
    }
}

/// For whom a file is, as its tables tell: also where they are almost right.
fn kind_of(file: &Path) -> Result<ConfigKind, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::usage(format!("read {}: {error}", file.display())))?;
    // With mistakes in it, what of it can be read tells enough.
    let keys = keys_of(&text);
    let names = ConfigKind::TABLES.map(|(table, _)| table);
    let exact = keys.iter().find_map(|key| names.iter().find(|name| *name == key).copied());
    let near = || keys.iter().find_map(|key| config::nearest(key, &names));
    let table = exact.or_else(near);
    let kind = ConfigKind::TABLES.into_iter().find(|(name, _)| Some(*name) == table);
    kind.map(|(_, kind)| kind).ok_or_else(|| {
        Failure::usage(format!("{} does not say for whom it is", file.display()))
            .hint("say it: --for master, balancer, worker, storage or client")
    })
}

/// The tables of a text, and the keys before the first of them.
fn keys_of(text: &str) -> Vec<String> {
    let mut is_inside = false;
    let keys = text.lines().filter_map(|line| {
        let line = line.trim();
        let table = line.strip_prefix('[').and_then(|it| it.split(']').next());
        is_inside |= table.is_some();
        let key = || line.split_once('=').map(|(key, _)| key).filter(|_| !is_inside);
        let name = table.or_else(key)?.trim();
        name.split('.').next().map(|it| it.trim().to_owned())
    });
    keys.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_tells_for_whom_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.toml");
        let kind = |text: &str| {
            std::fs::write(&path, text).unwrap();
            kind_of(&path).ok()
        };
        assert_eq!(kind("[node]\ndata = 'x'\n[storage]\n"), Some(ConfigKind::Storage));
        assert_eq!(kind("worker.slots = 3\nnode = "), Some(ConfigKind::Worker));
        assert_eq!(kind(" [ wroker ]\nslots = 3\n"), Some(ConfigKind::Worker));
        assert_eq!(kind("addresses = []\n"), Some(ConfigKind::Client));
        assert_eq!(kind("[node]\nworker = 'storage'\n"), None);
    }
}
