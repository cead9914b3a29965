//! The layers of settings, and what is said of each way to get them wrong.

use std::fs;

use serde::{Deserialize, Serialize};

use super::*;

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    node: NodeConfig,
    worker: Worker,
}

#[derive(Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct Worker {
    slots: u16,
    share: f64,
    runtimes: Vec<Runtime>,
    ports: Vec<u16>,
    offset: Option<i32>,
    limits: Limits,
}

#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct Limits {
    cache_bytes: u64,
    #[serde(with = "crate::config::bytes")]
    results: u64,
    #[serde(with = "crate::config::span")]
    timeout: proto::time::Duration,
}

#[derive(Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Runtime {
    Command,
    Python,
}

impl Default for Worker {
    fn default() -> Worker {
        Worker {
            slots: 2,
            share: 0.5,
            runtimes: vec![Runtime::Command],
            ports: vec![],
            offset: None,
            limits: Limits::default(),
        }
    }
}

struct Given {
    folder: tempfile::TempDir,
    file: String,
    environment: Vec<(String, String)>,
    overrides: Vec<Override>,
}

fn given(file: &str) -> Given {
    let folder = tempfile::tempdir().unwrap();
    Given { folder, file: file.into(), environment: vec![], overrides: vec![] }
}

impl Given {
    fn environment(mut self, variable: &str, value: &str) -> Given {
        self.environment.push((variable.into(), value.into()));
        self
    }

    fn flag(mut self, flag: &str, key: &str, value: &str) -> Given {
        self.overrides.push(Override { flag: flag.into(), key: key.into(), value: value.into() });
        self
    }

    fn load(&self) -> Result<Loaded<Whole>, String> {
        let path = self.folder.path().join("worker.toml");
        fs::write(&path, &self.file).unwrap();
        load(Some(&path), &self.environment, &self.overrides).map_err(|error| self.relative(&error))
    }

    fn relative(&self, text: &impl ToString) -> String {
        text.to_string().replace(&format!("{}/", self.folder.path().display()), "")
    }

    /// The error, which must be this one.
    #[track_caller]
    fn refused(&self, wanted: &str) {
        assert_eq!(self.load().map(|_| ()).unwrap_err(), wanted);
    }
}

const SMALL: &str = "[node]\ndata = 'here'\n";

#[test]
fn each_layer_covers_the_one_below() {
    let file = "[node]\ndata = 'here'\n[worker]\nslots = 3\nshare = 0.25\nports = [1, 2]\n";
    let loaded = given(file)
        .environment("REMUDA_WORKER_SLOTS", "4")
        .environment("REMUDA_WORKER_PORTS", "7, 8,9")
        .environment("REMUDA_WORKER_RUNTIMES", "python,command")
        .environment("REMUDA_NODE_INSECURE", "true")
        .environment("REMUDA_NODE_MASTERS", "tcp://a:1,tcp://b:2")
        .environment("REMUDA_CLUSTER", "of the command line, not of a daemon")
        .environment("REMUDA_LOG", "debug")
        .environment("HOME", "/")
        .flag("--slots", "worker.slots", "5")
        .flag("--cache", "worker.limits.cache_bytes", "18446744073709551615")
        .flag("--offset", "worker.offset", "-3")
        .load()
        .unwrap();
    let Whole { node, worker } = &loaded.settings;
    assert_eq!(worker.slots, 5);
    assert_eq!(worker.share, 0.25);
    assert_eq!(worker.ports, [7, 8, 9]);
    assert_eq!(worker.runtimes, [Runtime::Python, Runtime::Command]);
    assert_eq!(worker.offset, Some(-3));
    assert_eq!(worker.limits.cache_bytes, u64::MAX);
    assert!(node.insecure);
    assert_eq!(node.masters, ["tcp://a:1", "tcp://b:2"]);
    assert_eq!(node.listen, NodeConfig::new("here").listen);
    assert_eq!(loaded.origin("worker.slots").to_string(), "flag --slots");
    assert_eq!(
        loaded.origin("worker.ports").to_string(),
        "environment variable REMUDA_WORKER_PORTS"
    );
    assert_eq!(loaded.origin("node.listen"), &Origin::Default);
}

#[test]
fn without_file_the_environment_is_enough() {
    let environment = [("REMUDA_NODE_DATA".to_owned(), "there".to_owned())];
    let loaded: Loaded<Whole> = load(None, &environment, &[]).unwrap();
    assert_eq!(loaded.settings.node, NodeConfig::new("there"));
    assert_eq!(loaded.settings.worker, Worker::default());
}

#[test]
fn what_is_shown_can_be_loaded_again() {
    let cluster = "6ba7b810-9dad-41d1-80b4-00c04fd430c8";
    let given = given(SMALL)
        .environment("REMUDA_WORKER_SHARE", "0.75")
        .flag("--cluster", "node.cluster", cluster)
        .flag("--cache", "worker.limits.cache_bytes", "9")
        .flag("--timeout", "worker.limits.timeout", "1.5 s");
    let loaded = given.load().unwrap();
    let shown = given.relative(&loaded.show().unwrap());
    assert_eq!(
        shown,
        r#"[node]
cluster = "6ba7b810-9dad-41d1-80b4-00c04fd430c8"  # flag --cluster
data = "here"  # worker.toml:2
insecure = false  # default
listen = "tcp://127.0.0.1:0"  # default
log = "info"  # default
masters = []  # default
telemetry = "tcp://127.0.0.1:0"  # default

[worker]
ports = []  # default
runtimes = ["command"]  # default
share = 0.75  # environment variable REMUDA_WORKER_SHARE
slots = 2  # default

[worker.limits]
cache_bytes = 9  # flag --cache
results = "0 B"  # default
timeout = "1500 ms"  # flag --timeout
"#
    );
    let again = super::tests::given(&shown).load().unwrap();
    assert_eq!(again.settings.node, loaded.settings.node);
    assert_eq!(again.settings.worker, loaded.settings.worker);
}

#[test]
fn unknown_keys_are_named_with_their_place_and_what_is_allowed() {
    let keys = "slots, share, runtimes, ports, offset, limits";
    given("[node]\ndata = 'here'\n\n[worker]\nslots = 1\nslotz = 3\n").refused(&format!(
        "worker.toml:6: worker.slotz: unknown key (is slots meant?); allowed are {keys}"
    ));
    given(SMALL).environment("REMUDA_WORKER_SLOTZ", "3").refused(&format!(
        "environment variable REMUDA_WORKER_SLOTZ: worker.slotz: unknown key (is slots meant?); \
         allowed are {keys}"
    ));
    given(SMALL).flag("--cache", "worker.limits.cash", "3").refused(
        "flag --cache: worker.limits.cash: unknown key; allowed are cache_bytes, results, timeout",
    );
    given("[node]\ndata = 'here'\n[wroker]\n")
        .refused("worker.toml:3: wroker: unknown key (is worker meant?); allowed are node, worker");
}

#[test]
fn wrong_values_are_named_with_their_place_and_what_is_allowed() {
    let worker = |line: &str| given(&format!("{SMALL}[worker]\n{line}\n"));
    worker("slots = 'many'")
        .refused("worker.toml:4: worker.slots: is string \"many\", but must be u16");
    worker("slots = 70_000")
        .refused("worker.toml:4: worker.slots: is integer `70000`, but must be u16");
    worker("slots = 1979-05-27").refused("worker.toml:4: worker.slots: no setting is a date");
    worker("ports = [\n1,\n'x']")
        .refused("worker.toml:6: worker.ports: is string \"x\", but must be u16");
    worker("limits.timeout = '3'").refused(
        "worker.toml:4: worker.limits.timeout: is string \"3\", but must be \
         a time such as \"250 ms\" or \"5 min\" (us, ms, s, min, h, d)",
    );
    worker("limits = { results = '3 MB' }").refused(
        "worker.toml:4: worker.limits.results: is string \"3 MB\", but must be \
         a size such as \"64 MiB\" (B, KiB, MiB, GiB, TiB)",
    );
    worker("runtimes = ['ruby']")
        .refused("worker.toml:4: worker.runtimes: is \"ruby\"; allowed are command, python");
    given(SMALL).environment("REMUDA_WORKER_SLOTS", "-1").refused(
        "environment variable REMUDA_WORKER_SLOTS: worker.slots: is integer `-1`, but must be u16",
    );
    given(SMALL)
        .flag("--slots", "worker.slots", "many")
        .refused("flag --slots: worker.slots: is string \"many\", but must be u16");
    given(SMALL).environment("REMUDA_NODE_INSECURE", "yes").refused(
        "environment variable REMUDA_NODE_INSECURE: node.insecure: \
         is string \"yes\", but must be a boolean",
    );
    given("node = 5").refused("worker.toml:1: node: is integer `5`, but must be struct NodeConfig");
    given("worker = 5")
        .environment("REMUDA_WORKER_SLOTS", "1")
        .refused("worker.toml:1: worker: is a value, but must be a table");
}

#[test]
fn addresses_and_ids_are_checked_where_they_are_set() {
    let bad = [
        "127.0.0.1:1",
        "tcp://127.0.0.1",
        "tcp://a:70000",
        "tcp://:1",
        "tcp://::1:5",
        "tcp://[::1:5",
        "tcp://a/b:1",
        "ipc:///tmp/x:1",
        "",
    ];
    for address in bad {
        given(SMALL).flag("--listen", "node.listen", address).refused(&format!(
            "flag --listen: node.listen: is string {address:?}, \
             but must be an address such as tcp://10.0.0.1:7000"
        ));
    }
    for address in ["tcp://[::1]:5", "tcp://master-1.example.org:7000", "tcp://0.0.0.0:0"] {
        let loaded = given(SMALL).flag("--listen", "node.listen", address).load().unwrap();
        assert_eq!(loaded.settings.node.listen, address);
    }
    given("[node]\ndata = 'here'\nmasters = ['tcp://a:1', 'b']\n").refused(
        "worker.toml:3: node.masters: is string \"b\", \
         but must be an address such as tcp://10.0.0.1:7000",
    );
    given("[node]\ndata = 'here'\ncluster = '12'\n").refused(
        "worker.toml:3: node.cluster: \"12\" is not a cluster UUID \
         (a UUID such as 6ba7b810-9dad-41d1-80b4-00c04fd430c8)",
    );
}

#[test]
fn what_is_missing_is_named_with_how_to_set_it() {
    given("").refused("node.data is not set: set it in worker.toml, or by REMUDA_NODE_DATA");
    let error = load::<Whole>(None, &[], &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "node.data is not set: set it in a configuration file, or by REMUDA_NODE_DATA"
    );
}

#[test]
fn files_that_are_none() {
    given("[node]\ndata = \n")
        .refused("worker.toml:2: not TOML: string values must be quoted, expected literal string");
    given("[node]\ndata = 'a'\ndata = 'b'\n").refused("worker.toml:3: not TOML: duplicate key");
    let error = load::<Whole>(Some(Path::new("not-there.toml")), &[], &[]).unwrap_err();
    assert_eq!(error.to_string(), "read configuration not-there.toml");
    assert!(std::error::Error::source(&error).is_some());
}

/// Everything that is wrong with a file, a line each.
fn all_wrong(file: &str) -> Vec<String> {
    let given = given(file);
    let path = given.folder.path().join("worker.toml");
    fs::write(&path, file).unwrap();
    check::<Whole>(&path).iter().map(|error| given.relative(error)).collect()
}

#[test]
fn a_check_tells_all_that_is_wrong_in_the_order_of_the_lines() {
    assert_eq!(all_wrong(SMALL), [""; 0]);
    let file = "[worker]\nslotz = 1\nshare = 'much'\nports = [1, 2, 'x', 'y']\nslots = 1979-05-27\n\
                limits.cash = 1\n[node]\nlisten = 'here'\n[wroker]\nslots = 1\n";
    assert_eq!(
        all_wrong(file),
        [
            "worker.toml:2: worker.slotz: unknown key (is slots meant?); allowed are slots, share, \
             runtimes, ports, offset, limits",
            "worker.toml:3: worker.share: is string \"much\", but must be f64",
            "worker.toml:4: worker.ports: is string \"x\", but must be u16",
            "worker.toml:5: worker.slots: no setting is a date",
            "worker.toml:6: worker.limits.cash: unknown key; allowed are cache_bytes, results, \
             timeout",
            "worker.toml:8: node.listen: is string \"here\", but must be an address such as \
             tcp://10.0.0.1:7000",
            "worker.toml:9: wroker: unknown key (is worker meant?); allowed are node, worker",
            "node.data is not set: set it in worker.toml, or by REMUDA_NODE_DATA",
        ]
    );
}

#[test]
fn a_check_tells_nothing_twice() {
    assert_eq!(
        all_wrong("node = 5\n"),
        ["worker.toml:1: node: is integer `5`, but must be struct NodeConfig"]
    );
    assert_eq!(
        all_wrong("[node]\ndata = 5\n"),
        ["worker.toml:2: node.data: is integer `5`, but must be path string"]
    );
    let twice = all_wrong("[node]\ndata = \n[worker]\nslots = \n[wor\n");
    let lines: Vec<&str> = twice.iter().filter_map(|it| it.get(..25)).collect();
    let lines_of = [2, 4, 5].map(|line| format!("worker.toml:{line}: not TOML: "));
    assert_eq!(lines, lines_of);
    assert_eq!(check::<Whole>(Path::new("not-there.toml")).len(), 1);
}

#[test]
fn a_file_without_tables_is_checked_too() {
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only whether it can be read counts")]
    struct Flat {
        addresses: Vec<String>,
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("client.toml");
    let wrong = |text: &str| {
        fs::write(&path, text).unwrap();
        check_flat::<Flat>(&path).len()
    };
    assert_eq!(wrong("addresses = ['tcp://a:1']"), 0);
    assert_eq!(wrong("adresses = ['tcp://a:1']"), 2, "one that is unknown, one that is missing");
    assert_eq!(wrong("addresses = [1]"), 1);
}
