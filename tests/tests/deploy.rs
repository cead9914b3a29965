//! The example configurations under `deploy/`: each is read by its tier, and mentions every setting
//! that the tier has.

use std::path::PathBuf;

use node::config;
use serde::Serialize;
use serde::de::DeserializeOwned;

fn example(tier: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(format!("{tier}.toml"))
}

/// Reads the tier's example and compares its keys with those of `T`.
fn check<T: DeserializeOwned + Serialize>(tier: &str) {
    let path = example(tier);
    let loaded = match config::load::<T>(Some(&path), &[], &[]) {
        Ok(loaded) => loaded,
        Err(error) => panic!("{tier}: {error}"),
    };
    let text = std::fs::read_to_string(&path).expect("an example");
    let settings = toml::Table::try_from(&loaded.settings).expect("settings are TOML");
    for (table, keys) in settings {
        for key in keys.as_table().expect("settings are tables").keys() {
            let is_mentioned = text
                .lines()
                .any(|line| line.trim_start_matches("# ").starts_with(&format!("{key} = ")));
            assert!(is_mentioned, "{}: {table}.{key} is not mentioned", path.display());
        }
    }
}

#[test]
fn every_example_is_read_by_its_tier_and_mentions_every_setting() {
    check::<master::Config>("master");
    check::<balancer::config::Config>("balancer");
    check::<worker::config::Config>("worker");
    check::<storage::config::Config>("storage");
}

#[test]
fn an_unknown_key_is_refused_with_its_place() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("worker.toml");
    let text = std::fs::read_to_string(example("worker")).expect("an example");
    std::fs::write(&path, text.replace("slots = 0", "slotz = 0")).expect("written");
    let error = config::load::<worker::config::Config>(Some(&path), &[], &[])
        .expect_err("the key does not exist")
        .to_string();
    assert!(error.contains("slotz") && error.contains("slots"), "{error}");
}

#[test]
fn the_configuration_of_each_node_of_a_phase_is_read_by_its_tier() {
    let deploy = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    for (phase, node_count) in [("phase-1", 6), ("phase-4", 11)] {
        let files = std::fs::read_dir(deploy.join(phase)).expect("a folder");
        let files = files.map(|entry| entry.expect("an entry").path());
        let configs: Vec<PathBuf> =
            files.filter(|path| path.extension().is_some_and(|it| it == "toml")).collect();
        assert_eq!(configs.len(), node_count, "{phase}");
        for path in configs {
            let node = path.file_stem().and_then(|name| name.to_str()).expect("a name");
            let read = match node.split('-').next() {
                Some("master") => read::<master::Config>(&path),
                Some("balancer") => read::<balancer::config::Config>(&path),
                Some("worker") => read::<worker::config::Config>(&path),
                _ => read::<storage::config::Config>(&path),
            };
            assert_eq!(read, Ok(()), "{}", path.display());
        }
    }
}

fn read<T: DeserializeOwned + Serialize>(path: &std::path::Path) -> Result<(), String> {
    config::load::<T>(Some(path), &[], &[]).map(drop).map_err(|error| error.to_string())
}
