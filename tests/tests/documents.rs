//! What pages and examples say is so: the configurations under `deploy/` are read by their tiers and
//! mention every setting, and every promise of `docs/semantics.md` names a test.

use std::path::{Path, PathBuf};

use master::logic::retention::{FINISHED_JOBS, RETENTION_US, YOUNGEST_US};
use node::config;
use proto::time::Duration;
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

fn read<T: DeserializeOwned + Serialize>(path: &Path) -> Result<(), String> {
    config::load::<T>(Some(path), &[], &[]).map(drop).map_err(|error| error.to_string())
}

/// Folders with the workspace's sources.
const PACKAGES: &[&str] = &[
    "balancer",
    "cli",
    "client",
    "consensus",
    "master",
    "mount",
    "node",
    "proto",
    "storage",
    "tests",
    "worker",
];

fn sources(folder: &Path, found: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"))
    {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs") {
            found.push_str(&std::fs::read_to_string(&path).expect("a source"));
        }
    }
}

#[test]
fn every_promise_names_a_test_that_exists() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = std::fs::read_to_string(top.join("docs/semantics.md")).expect("a page");
    let mut code = String::new();
    PACKAGES.iter().for_each(|package| sources(&top.join(package), &mut code));
    let promises =
        page.lines().filter(|line| line.starts_with("| ") && line.matches('|').count() > 3);
    let mut promise_count = 0;
    for promise in promises.filter(|line| !line.starts_with("| ---") && !line.ends_with("| test |"))
    {
        promise_count += 1;
        let tests = promise.rsplit('|').nth(1).expect("a column").split('`').skip(1).step_by(2);
        let tests: Vec<&str> = tests.collect();
        assert!(!tests.is_empty(), "no test: {promise}");
        for test in tests {
            assert!(code.contains(&format!("fn {test}(")), "{test} does not exist: {promise}");
        }
    }
    assert!(promise_count > 20, "{promise_count} promises: the page is read wrongly");
}

/// The defaults of design section 13, from where the code has them.
fn defaults() -> Vec<(&'static str, String)> {
    use proto::description::{
        DEFAULT_CPU_MILLI, DEFAULT_MAX_CRASHES, JobDescription, MAX_LOST_ATTEMPTS, Program, Runtime,
    };
    let runtime = Runtime::Command { program: Program::Inline, arguments: Vec::new() };
    let job = JobDescription::new(runtime);
    let none = |is_none: bool| if is_none { "none" } else { "some" }.to_owned();
    let hours = |us: u64| us / 3_600_000_000;
    let time = |it: Duration| match it.as_micros() {
        us if us % 1_000_000 == 0 => format!("{} s", us / 1_000_000),
        us => format!("{} ms", us / 1_000),
    };
    let raft = consensus::Config::default();
    let storage = storage::config::StorageConfig::default();
    vec![
        ("`--retries`", job.retries.to_string()),
        ("`--max-crashes`", DEFAULT_MAX_CRASHES.to_string()),
        ("lost attempts of a task", MAX_LOST_ATTEMPTS.to_string()),
        ("`--max-fails`", none(job.max_fails.is_none())),
        ("`--time-limit`", none(job.time_limit.is_none())),
        ("`--mem`", none(job.memory_bytes == 0)),
        ("`--cpus`", (DEFAULT_CPU_MILLI / 1000).to_string()),
        ("replicas of files", master::logic::queries::REPLICAS.to_string()),
        ("retention of finished jobs", format!("{} days", hours(RETENTION_US) / 24)),
        ("listed finished jobs above which the oldest are forgotten", FINISHED_JOBS.to_string()),
        ("youngest job that is forgotten for that", format!("{} hour", hours(YOUNGEST_US))),
        ("worker timeout", time(balancer::logic::WORKER_TIMEOUT)),
        ("worker heartbeat", time(worker::logic::HEARTBEAT)),
        (
            "silence of a storage node before it is removed",
            time(master::config::MasterConfig::default().repair_grace()),
        ),
        (
            "bytes that a storage node sends to others when blocks move (`move_mib_per_s`)",
            format!("{} MiB/s", storage.move_mib_per_s),
        ),
        (
            "pass of a storage node over all that it holds (`pass_period_s`)",
            format!("every {} minutes", storage.pass_period_s / 60),
        ),
        (
            "time in which it checks the digest of every block (`scrub_period_s`)",
            format!("{} days", storage.scrub_period_s / (24 * 3600)),
        ),
        ("balancer lease", time(master::logic::LEASE)),
        ("renewal of the lease", time(balancer::logic::RENEW_INTERVAL)),
        ("Raft tick", time(raft.tick)),
        ("Raft election", format!("{} ticks", raft.election_ticks)),
    ]
}

#[test]
fn the_defaults_in_the_manual_are_those_of_the_code() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
    let page = std::fs::read_to_string(page).expect("a page");
    let (_, table) = page.split_once("\n## Defaults\n").expect("a chapter on defaults");
    let rows = table.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let rows = rows.filter_map(|row| row.split_once(" | ")).skip(2);
    let written: Vec<(&str, String)> =
        rows.map(|(setting, default)| (setting, default.to_owned())).collect();
    assert_eq!(written, defaults());
}
