//! The rules of architecture and style that a program can check, each one a test.
//!
//! They read the manifests and the text of every file that git knows or would know; what a rule
//! forbids is named with file and line. Budgets (length of files and functions) are printed and
//! not enforced. What the compiler or clippy checks is not repeated here.

mod source;

use std::collections::{BTreeMap, BTreeSet};

use source::{Source, functions, has_word, imports, public_items, root, tree};

/// Which of our crates each crate may use. Crates that do not exist yet have their place already.
const EDGES: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("node", &["proto"]),
    ("consensus", &["proto", "node"]),
    ("master", &["proto", "node", "consensus"]),
    ("balancer", &["proto", "node"]),
    ("storage", &["proto", "node"]),
    ("client", &["proto", "node"]),
    ("mount", &["proto", "node", "client"]),
    ("worker", &["proto", "node", "client", "mount"]),
    ("gateway", &["proto", "node", "client"]),
    ("python", &["proto", "node", "client"]),
    ("cli", EVERY_TIER),
    ("cluster-tests", EVERY_TIER),
];

const EVERY_TIER: &[&str] = &[
    "proto",
    "node",
    "consensus",
    "master",
    "balancer",
    "storage",
    "client",
    "mount",
    "worker",
    "gateway",
];

/// Crates of others that only the named ones of ours may use.
const CONFINED: &[(&str, &[&str])] = &[
    ("raft", &["consensus"]),
    ("raft-proto", &["consensus"]),
    ("zmq", &["node", "cluster-tests"]),
    ("fuser", &["mount"]),
    ("clap", &["cli", "cluster-tests"]),
    ("pyo3", &["python"]),
];

/// All that `proto` may use outside of its tests: who speaks the protocol pays for no more.
const PROTO_USES: &[&str] = &["blake3", "bytemuck", "postcard", "serde", "uuid"];

/// What decides must not touch the world, nor depend on an order that a run does not repeat.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::thread",
    "std::process",
    "tokio",
    "zmq",
    "Instant::now",
    "SystemTime",
    "thread_rng",
    "HashMap",
    "HashSet",
    "unsafe",
    "println!",
    "eprintln!",
];

/// File and module names that say nothing of what is inside.
const EMPTY_NAMES: &[&str] = &[
    "util", "utils", "common", "helper", "helpers", "misc", "manager", "base", "internal", "core",
];

/// Abbreviations that readers must expand each time.
const ABBREVIATIONS: &[&str] = &["msg", "req", "ctx", "mgr"];

/// A lock file beyond this means minutes of compiling before the first try.
const PACKAGES_MAX: usize = 300;

/// One crate of the workspace, from its manifest.
struct Package {
    name: String,
    dir: String,
    manifest: toml::Table,
    /// Names of crates, renames resolved, and whether only its tests use them.
    uses: BTreeMap<String, bool>,
}

fn manifest(path: &str) -> toml::Table {
    let text = std::fs::read_to_string(root().join(path)).expect("the manifest is readable");
    text.parse().unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn packages() -> Vec<Package> {
    let workspace = manifest("Cargo.toml");
    let shared = workspace["workspace"]["dependencies"].as_table().expect("a table");
    let members = workspace["workspace"]["members"].as_array().expect("a list").iter();
    members
        .map(|member| {
            let dir = member.as_str().expect("members are strings").to_owned();
            let manifest = manifest(&format!("{dir}/Cargo.toml"));
            let name = manifest["package"]["name"].as_str().expect("a name").to_owned();
            let mut uses = BTreeMap::new();
            read_uses(&manifest, shared, &mut uses);
            for target in manifest.get("target").and_then(toml::Value::as_table).into_iter() {
                for table in target.values().filter_map(toml::Value::as_table) {
                    read_uses(table, shared, &mut uses);
                }
            }
            Package { name, dir, manifest, uses }
        })
        .collect()
}

fn read_uses(table: &toml::Table, shared: &toml::Table, uses: &mut BTreeMap<String, bool>) {
    let sections =
        [("dependencies", false), ("build-dependencies", false), ("dev-dependencies", true)];
    for (section, only_tests) in sections {
        let Some(entries) = table.get(section).and_then(toml::Value::as_table) else {
            continue;
        };
        for (key, entry) in entries {
            let renamed = |entry: &toml::Value| Some(entry.get("package")?.as_str()?.to_owned());
            let name = renamed(entry).or_else(|| shared.get(key).and_then(renamed));
            let only = uses.entry(name.unwrap_or_else(|| key.clone())).or_insert(only_tests);
            *only &= only_tests;
        }
    }
}

/// Fails with everything that was found, not just the first.
#[track_caller]
fn none(rule: &str, found: Vec<String>) {
    let list: String = found.into_iter().map(|breach| format!("\n  {breach}")).collect();
    assert!(list.is_empty(), "{rule}:{list}\n");
}

fn rust_files() -> Vec<Source> {
    tree().into_iter().filter(Source::is_rust).collect()
}

#[test]
fn dependencies_point_one_way() {
    let allowed: BTreeMap<&str, &[&str]> = EDGES.iter().copied().collect();
    let mut found = Vec::new();
    for package in packages() {
        let Some(allowed_here) = allowed.get(package.name.as_str()) else {
            found.push(format!("{} has no place in EDGES", package.name));
            continue;
        };
        for used in package.uses.keys().filter(|used| allowed.contains_key(used.as_str())) {
            if !allowed_here.contains(&used.as_str()) {
                found.push(format!("{} uses {used}", package.name));
            }
        }
    }
    none("an edge between crates that the design does not have", found);
}

#[test]
fn the_allowed_edges_form_no_circle() {
    let mut known = BTreeSet::new();
    for (name, uses) in EDGES {
        let early: Vec<&&str> = uses.iter().filter(|used| !known.contains(*used)).collect();
        assert!(early.is_empty(), "{name} may use {early:?}, which stand after it");
        known.insert(name);
    }
}

#[test]
fn foreign_crates_stay_where_they_belong() {
    let mut found = Vec::new();
    for package in packages() {
        for (foreign, homes) in CONFINED {
            if package.uses.contains_key(*foreign) && !homes.contains(&package.name.as_str()) {
                found.push(format!("{} uses {foreign}, which belongs to {homes:?}", package.name));
            }
        }
        let foreign = package.uses.iter().filter(|(_, only_tests)| !**only_tests);
        for (used, _) in foreign.filter(|_| package.name == "proto") {
            if !PROTO_USES.contains(&used.as_str()) {
                found.push(format!("proto uses {used}"));
            }
        }
    }
    none("a crate of others outside its home", found);
}

#[test]
fn every_crate_inherits_what_the_workspace_sets() {
    let mut found = Vec::new();
    for package in packages() {
        let lints = package.manifest.get("lints").and_then(|lints| lints.get("workspace"));
        if lints != Some(&toml::Value::Boolean(true)) {
            found.push(format!("{}/Cargo.toml: lints", package.dir));
        }
        for key in ["version", "edition", "rust-version", "license"] {
            let own = package.manifest["package"].get(key);
            if own.and_then(|own| own.get("workspace")).is_none() {
                found.push(format!("{}/Cargo.toml: {key}", package.dir));
            }
        }
    }
    none("a crate that does not inherit from the workspace", found);
}

#[test]
fn flags_are_parsed_in_programs_only() {
    let found = rust_files()
        .iter()
        .filter(|file| !file.path.starts_with("cli/") && !file.path.contains("/src/bin/"))
        .flat_map(|file| file.uses_of(&["clap"]))
        .collect();
    none("clap outside cli and bin/", found);
}

#[test]
fn tiers_speak_zeromq_and_nothing_else() {
    let found = rust_files()
        .iter()
        .filter(|file| !file.path.starts_with("gateway/") && !file.path.starts_with("tests/"))
        .flat_map(|file| file.uses_of(&["std::net", "tokio::net"]))
        .collect();
    none("a socket of its own", found);
}

#[test]
fn logic_is_pure() {
    let found = rust_files()
        .iter()
        .filter(|file| file.is_logic())
        .flat_map(|file| file.uses_of(IMPURE))
        .collect();
    none("logic that touches the world or depends on hash order", found);
}

/// Public items of a file of `consensus` that name something of raft.
fn raft_in_public(file: &Source) -> Vec<String> {
    let imported = imports(&file.code);
    let of_raft = |path: &str| path == "raft" || path.starts_with("raft::");
    let mut names = vec!["raft::", "raft_proto::", "eraftpb"];
    names.extend(imported.iter().filter(|i| of_raft(&i.path)).map(|i| i.name.as_str()));
    let mut found = Vec::new();
    for (line, item) in public_items(&file.code) {
        if let Some(name) = names.iter().find(|name| has_word(item, name)) {
            found.push(format!("{}:{line}: {name}", file.path));
        }
    }
    // A glob hides which names it brings.
    for import in imported.iter().filter(|i| of_raft(&i.path) && i.name == "*") {
        found.push(format!("{}:{}: {}", file.path, import.line, import.path));
    }
    found
}

#[test]
fn consensus_shows_no_raft() {
    let files = rust_files();
    let is_root = |file: &&Source| file.path == "consensus/src/lib.rs";
    let crate_root = files.iter().find(is_root).expect("consensus has a root");
    let logic_is_shown = has_word(&crate_root.code, "pub mod logic");
    let found = files
        .iter()
        .filter(|file| file.path.starts_with("consensus/src/"))
        .filter(|file| logic_is_shown || !file.is_logic())
        .flat_map(raft_in_public)
        .collect();
    none("a type of raft in the public interface of consensus", found);
}

#[test]
fn names_say_what_is_inside() {
    let mut found = Vec::new();
    for file in rust_files() {
        let parts = file.path.trim_end_matches(".rs").split('/');
        for part in parts.filter(|part| EMPTY_NAMES.contains(part)) {
            found.push(format!("{}: {part}", file.path));
        }
        let modules: Vec<String> = EMPTY_NAMES.iter().map(|name| format!("mod {name}")).collect();
        let modules: Vec<&str> = modules.iter().map(String::as_str).collect();
        found.extend(file.uses_of(&modules));
        found.extend(file.uses_of(ABBREVIATIONS));
    }
    none("a name that says nothing", found);
}

#[test]
fn every_rust_file_begins_with_its_purpose() {
    let found = rust_files()
        .into_iter()
        .filter(|file| !file.text.starts_with("//! "))
        .map(|file| file.path)
        .collect();
    none("a file without a head that says what it is responsible for", found);
}

/// Where one of `words` stands in a file, as `path:line: word`.
fn mentions(file: &Source, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (line, text) in file.text.lines().enumerate() {
        for word in words.iter().filter(|word| has_word(text, word)) {
            found.push(format!("{}:{}: {word}", file.path, line + 1));
        }
    }
    found
}

/// Written in two halves, so that this file keeps its own rule.
const LEFT_OPEN: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// Places that exist on one machine or in one network only; halves as above.
const ELSEWHERE: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/tmp/", "briefs"),
    concat!("crates.io", "/api"),
    concat!("static.", "crates"),
    concat!("index.", "crates"),
];

#[test]
fn nothing_is_left_open() {
    let files = tree();
    let found = files.iter().flat_map(|file| mentions(file, LEFT_OPEN)).collect();
    none("a mark of something unfinished", found);
}

#[test]
fn no_file_names_a_machine_or_a_registry() {
    let files = tree();
    let found = files.iter().flat_map(|file| mentions(file, ELSEWHERE)).collect();
    none("a path or host that others do not have", found);
}

#[test]
fn white_space_is_plain() {
    let mut found = Vec::new();
    for file in tree() {
        for (line, text) in file.text.split('\n').enumerate() {
            // In a Makefile tabs mean something.
            let tab = text.contains('\t') && file.path != "Makefile";
            if tab || text.ends_with([' ', '\t', '\r']) {
                found.push(format!("{}:{}", file.path, line + 1));
            }
        }
        if !file.text.is_empty() && !file.text.ends_with('\n') {
            found.push(format!("{}: no line break at the end", file.path));
        }
    }
    none("a tab, or a blank or carriage return at the end of a line", found);
}

#[test]
fn few_packages_are_locked_and_all_come_from_the_registry() {
    let lock = manifest("Cargo.lock");
    let locked = lock["package"].as_array().expect("a list");
    assert!(locked.len() < PACKAGES_MAX, "{} packages in Cargo.lock", locked.len());
    let registry = "registry+https://github.com/rust-lang/crates.io-index";
    let found = locked
        .iter()
        .filter(|package| package.get("source").is_some_and(|s| s.as_str() != Some(registry)))
        .map(|package| format!("{} from {}", package["name"], package["source"]))
        .collect();
    none("a package from elsewhere", found);
}

#[test]
fn every_decision_is_linked() {
    let files = tree();
    let indexes: String = files
        .iter()
        .filter(|f| ["docs/architecture.md", "docs/decisions/README.md"].contains(&f.path.as_str()))
        .map(|file| file.text.as_str())
        .collect();
    let found = files
        .iter()
        .filter_map(|file| file.path.strip_prefix("docs/decisions/"))
        .filter(|name| *name != "README.md" && !indexes.contains(&format!("{name})")))
        .map(str::to_owned)
        .collect();
    none("a decision that no page links", found);
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut found = Vec::new();
    for page in tree().into_iter().filter(|file| file.path.ends_with(".md")) {
        let path = root().join(&page.path);
        let folder = path.parent().expect("a page is in a folder");
        for link in page.text.split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap_or_default();
            if !target.is_empty() && !target.contains(':') && !folder.join(target).exists() {
                found.push(format!("{}: {target}", page.path));
            }
        }
    }
    none("a link to nothing", found);
}

/// Targets that a page tells its reader to make: in code spans and on lines of code blocks.
fn named_targets(page: &str) -> Vec<String> {
    let spans = page.split('`').filter_map(|span| span.strip_prefix("make "));
    let lines = page.lines().map(|line| line.trim_start().trim_start_matches("$ "));
    let lines = lines.filter_map(|line| line.strip_prefix("make "));
    spans
        .chain(lines)
        .flat_map(|words| words.split_whitespace().take_while(|word| !word.starts_with('#')))
        .filter(|word| word.chars().all(|letter| letter.is_ascii_lowercase()))
        .map(str::to_owned)
        .collect()
}

#[test]
fn make_targets_that_pages_name_exist() {
    let files = tree();
    let makefile = files.iter().find(|file| file.path == "Makefile").expect("there is a Makefile");
    let targets: BTreeSet<&str> =
        makefile.text.lines().filter_map(|line| Some(line.split_once(':')?.0)).collect();
    let mut found = Vec::new();
    for page in files.iter().filter(|file| ["README.md", "CONTRIBUTING.md"].contains(&&*file.path))
    {
        for target in named_targets(&page.text) {
            if !targets.contains(target.as_str()) {
                found.push(format!("{}: make {target}", page.path));
            }
        }
    }
    none("a target that the Makefile does not have", found);
}

/// Lines of a file that count towards its budget: those before its tests.
fn own_lines(file: &Source) -> usize {
    file.code.lines().take_while(|line| line.trim() != "#[cfg(test)]").count()
}

#[test]
fn budgets_are_printed() {
    let mut functions_seen = 0;
    let is_test = |path: &str| path.contains("tests/") || path.ends_with("/tests.rs");
    for file in rust_files().into_iter().filter(|file| !is_test(&file.path)) {
        let lines = own_lines(&file);
        let budget = match file.path.rsplit('/').next() {
            Some("lib.rs" | "mod.rs") => 150,
            Some("main.rs") => 60,
            _ => 800,
        };
        if lines > budget {
            println!("budget: {} has {lines} lines, {budget} are planned", file.path);
        }
        for (line, name, length) in functions(&file.code) {
            functions_seen += 1;
            if length > 70 && line < lines {
                println!("budget: {}:{line}: {name} has {length} lines, 70 planned", file.path);
            }
        }
        for (line, text) in file.text.lines().enumerate() {
            if text.chars().count() > 100 {
                println!("budget: {}:{} is wider than 100", file.path, line + 1);
            }
        }
    }
    assert!(functions_seen > 0, "the scanner finds no function in the whole tree");
}

#[test]
fn the_rules_find_what_they_forbid() {
    let impure = "//! Pure.\nuse std::{collections::BTreeMap, fs};\nfn f() { HashMap::new() }\n";
    let logic = Source::planted("worker/src/logic/tasks.rs", impure);
    assert!(logic.is_logic());
    let file = "worker/src/logic/tasks.rs";
    assert_eq!(logic.uses_of(IMPURE), [format!("{file}:2: std::fs"), format!("{file}:3: HashMap")]);

    let shown = "use raft::{RawNode, eraftpb::Entry as E};\npub struct A { node: RawNode }\n\
                 pub fn f(entry: &E) {}\npub struct B(pub raft::Config);\npub use raft::Ready;\n";
    let lines: Vec<String> = raft_in_public(&Source::planted("consensus/src/a.rs", shown))
        .iter()
        .map(|found| found.replace("consensus/src/a.rs:", ""))
        .collect();
    assert_eq!(lines, ["3: E", "4: raft::", "5: raft::"]);
    let glob = Source::planted("consensus/src/a.rs", "use raft::prelude::*;\n");
    assert_eq!(raft_in_public(&glob).len(), 1);

    let page = Source::planted("docs/a.md", concat!("see /wo", "rk/x\n", "net/wo", "rk/y\n"));
    assert_eq!(mentions(&page, ELSEWHERE).len(), 2);
    assert_eq!(named_targets("`make sim SEED=1`\n```\nmake test # all\n```\n"), ["sim", "test"]);
}
