//! The command line without a cluster: exit codes, what goes to which stream, and how errors are
//! said.

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The program in a folder, where it finds no cluster by itself.
fn remuda(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_remuda"))
        .args(arguments)
        .current_dir(folder)
        .env("XDG_RUNTIME_DIR", folder)
        .env("XDG_CONFIG_HOME", folder)
        .env_remove("REMUDA_CLUSTER")
        .stdin(Stdio::null())
        .output()
        .expect("run the program")
}

/// Runs a command that must fail with this exit code and say nothing as data; what it complains.
#[track_caller]
fn fails(folder: &Path, arguments: &[&str], exit: i32) -> String {
    let output = remuda(folder, arguments);
    let said = String::from_utf8(output.stderr).expect("it says UTF-8");
    assert_eq!(output.status.code(), Some(exit), "{arguments:?}: {said}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    // A daemon's log lines come before it.
    assert!(said.lines().any(|line| line.starts_with("error: ")), "{arguments:?}: {said}");
    assert!(!said.contains('\u{1b}'), "{arguments:?}: {said}");
    said
}

fn config(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("write a configuration");
    path.display().to_string()
}

#[test]
fn help_and_version_are_data() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, word) in [
        (&["--help"][..], "Exit codes: 0 success, 1 the job or the command failed"),
        (&["--version"], "remuda 0."),
        (&["submit", "--help"], "A-B[:STEP]"),
        (&["submit", "--help"], "{line} for its line"),
        (&["dev", "--help"], "--no-restart"),
    ] {
        let output = remuda(folder.path(), arguments);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{arguments:?}");
        assert!(text.contains(word), "{arguments:?}: {text}");
    }
}

#[test]
fn wrong_usage_is_2() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, word) in [
        (&["frobnicate"][..], "unrecognized subcommand"),
        (&["submit", "--noop", "--array", "5-4"], "it is empty"),
        (&["submit", "--noop", "--array", "0-4294967296"], "a job has at most 4294967296 tasks"),
        (&["submit"], "nothing says what the tasks are"),
        (&["submit", "true"], "unexpected argument 'true'"),
        (&["submit", "--hold", "true", "-x"], "stand behind --: submit -- true"),
        (&["submit", "--", "./absent"], "the program ./absent cannot be read"),
        (&["submit", "--input", "absent", "--", "true"], "the input absent cannot be read"),
        (&["submit", "--each-line", "-", "--", "true"], "there would be no task"),
        (&["submit", "--each-line", "-", "--script", "-"], "both ask for standard input"),
        (&["submit", "--script", "x", "--upload"], "--upload goes with a program"),
        (&["get", "job:x/y"], "is no task of a job"),
        (&["submit", "--noop", "--name", "a\nb"], "name"),
        (&["dev", "--masters", "2"], "1, 3 or 5 masters"),
        (&["dev", "status"], ".remuda holds no local cluster"),
        (&["dev", "stop", "--dir", "nothing"], "nothing holds no local cluster"),
        (&["jobs", "--cluster", "nowhere"], "no known cluster, no file and no address"),
        (&["get", "nowhere:x"], "nowhere:x"),
        (&["put", "x", "a/../b"], "a/../b"),
        (&["put", "x", "name:"], "is no name"),
        (&["cat", "data"], "hint: write name:data, or job:data for a job"),
        (&["jobs", "--limit", "0"], "'--limit <N>'"),
        (&["submit", "--script", "absent"], "the script absent cannot be read: No such file"),
        (&["submit", "--each-line", "/dev/null", "--", "true"], "hint: pipe the lines into it"),
    ] {
        let said = fails(folder.path(), arguments, 2);
        assert!(said.contains(word), "{arguments:?}: {said}");
    }
}

#[test]
fn no_cluster_is_3_and_says_how_to_get_one() {
    let folder = tempfile::tempdir().unwrap();
    let said = fails(folder.path(), &["jobs"], 3);
    assert!(said.contains("\n\nhint: start one: remuda dev --detach"), "{said}");
}

#[test]
fn a_folder_of_somebody_else_is_not_filled() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("thesis.tex"), "").unwrap();
    let said = fails(folder.path(), &["dev", "--dir", "."], 2);
    assert!(said.contains("it has thesis.tex"), "{said}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_configuration_is_shown_with_the_origin_of_each_value() {
    let folder = tempfile::tempdir().unwrap();
    let path = config(folder.path(), "worker.toml", "[node]\ndata = \"d\"\n[worker]\nslots = 3\n");
    let arguments = ["serve", "worker", "--config", &path, "--insecure", "--show-config"];
    let output = remuda(folder.path(), &arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for line in [
        format!("slots = 3  # {path}:4"),
        "insecure = true  # flag --insecure".into(),
        "log = \"info\"  # default".into(),
    ] {
        assert!(text.contains(&line), "{text}");
    }
    assert!(!folder.path().join("d").exists(), "nothing is started");
}

#[test]
fn a_wrong_configuration_names_file_line_and_key() {
    let folder = tempfile::tempdir().unwrap();
    for tier in ["master", "balancer", "worker", "storage"] {
        let text = "[node]\ndata = \"d\"\nfrobs = 1\n";
        let path = config(folder.path(), "wrong.toml", text);
        let said = fails(folder.path(), &["serve", tier, "--config", &path], 2);
        assert!(said.contains(&format!("{path}:3: node.frobs: unknown key")), "{said}");
    }
    let said = fails(folder.path(), &["serve", "worker", "--config", "absent.toml"], 2);
    assert!(said.contains("absent.toml"), "{said}");
}

#[test]
fn a_cluster_is_made_once_in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[node]\ndata = \"master\"\nlisten = \"tcp://127.0.0.1:7000\"\n";
    let path = config(folder.path(), "master.toml", text);
    let made = remuda(folder.path(), &["cluster", "init", "--config", &path]);
    let cluster = String::from_utf8(made.stdout).unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let said = fails(folder.path(), &["cluster", "init", "--config", &path], 2);
    assert!(said.contains(&format!("a master of cluster {} already", cluster.trim())), "{said}");
    // The folder is a master's of that cluster from now on.
    let other = text.replace("[node]", "[node]\ncluster = '00000000-0000-0000-0000-000000000001'");
    let path = config(folder.path(), "other.toml", &other);
    let said = fails(folder.path(), &["serve", "master", "--config", &path], 1);
    assert!(said.contains(&format!("belongs to cluster {}", cluster.trim())), "{said}");
    let text = "[node]\ndata = \"master\"\nmasters = [\"tcp://127.0.0.1:7000\"]\n";
    let path = config(folder.path(), "worker.toml", text);
    let said = fails(folder.path(), &["serve", "worker", "--config", &path], 1);
    assert!(said.contains("belongs to a master, this is a worker"), "{said}");
}

#[test]
fn an_address_of_other_machines_is_not_bound_without_keys() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[node]\ndata = \"s\"\nlisten = \"tcp://0.0.0.0:0\"\n\
                masters = [\"tcp://127.0.0.1:7000\"]\n";
    let path = config(folder.path(), "storage.toml", text);
    let said = fails(folder.path(), &["serve", "storage", "--config", &path], 1);
    assert!(said.contains("allow it with --insecure"), "{said}");
}
