//! The command line as a whole: what every command prints and how it ends, held by reviewed files;
//! JSON as it is documented; signals, pipes and colours.

mod departures;
mod documented;
mod groups;
mod rings;
mod session;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use cluster_tests::wait::until;
use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::{Cluster, LONG, Said, program};
use session::Session;

const SMALL: &[&str] =
    &["--masters", "1", "--balancers", "1", "--storage", "1", "--workers", "1", "--slots", "2"];

/// Every command with the words that lead to it, as the manual has a page for each.
fn commands(cluster: &Cluster) -> Vec<Vec<String>> {
    cluster.run(&["man", "pages"]).ok();
    let pages = std::fs::read_dir(cluster.place().join("pages")).expect("the manual");
    let names = pages.map(|page| page.expect("a page").file_name().to_string_lossy().into_owned());
    let names: BTreeSet<String> = names.collect();
    let words = names.iter().map(|name| {
        let name = name.strip_suffix(".1").expect("a page of section 1");
        name.split('-').skip(1).map(str::to_owned).collect::<Vec<String>>()
    });
    // The help of `help` is that of all others.
    words.filter(|words| words.first().is_none_or(|it| it != "help")).collect()
}

fn help(cluster: &Cluster, words: &[String]) -> Said {
    let words = words.iter().map(String::as_str).chain(["--help"]).collect::<Vec<_>>();
    cluster.run(&words)
}

#[test]
fn the_help_of_every_command_is_the_reviewed_one() {
    let cluster = Cluster::home();
    let commands = commands(&cluster);
    assert!(commands.len() > 25, "{commands:?}");
    let mut text = String::new();
    for words in &commands {
        let line = [&["remuda".to_owned()], words.as_slice()].concat().join(" ");
        text.push_str(&format!("$ {line} --help\n{}\n", help(&cluster, words).ok()));
    }
    session::check("help", &text);
    let alone = cluster.run(&[]);
    assert_eq!(alone.exit, 2, "{alone:?}");
    assert!(alone.stderr.contains("Run jobs:"), "{alone:?}");
    assert_eq!(cluster.run(&["help"]).ok(), cluster.run(&["--help"]).ok());
}

#[test]
fn the_version_names_a_commit_or_says_that_nobody_knows_it() {
    let cluster = Cluster::home();
    let said = cluster.run(&["--version"]).ok();
    let built_from = said.strip_prefix("remuda 0.1.0 (").and_then(|it| it.strip_suffix(")\n"));
    let is_commit = |it: &str| it.len() >= 7 && it.chars().all(|it| it.is_ascii_hexdigit());
    let is_known = |it: &str| {
        it == "built outside of its repository" || it.strip_prefix("commit ").is_some_and(is_commit)
    };
    assert!(built_from.is_some_and(is_known), "{said}");
}

/// Exit codes 2 and 3, and 1 where no cluster is needed for it.
#[test]
fn what_is_wrong_is_said_in_the_reviewed_words() {
    let cluster = Cluster::home();
    write(cluster.place(), "script", "echo hello\n");
    let mut session = Session::new(&cluster, "wrong");
    for line in [
        "submti -- true",
        "submit",
        "submit echo hello",
        "submit --array 9-0 -- true",
        "submit --cpus many -- true",
        "submit --wait --dry-run -- true",
        "submit --input data=absent -- true",
        "submit --env A -- true",
        "submit -- ./script",
        "get",
        "get data",
        "cat job:last",
        "ls ftp:x",
        "tasks --state odd",
        "progress 40%",
        "progress much",
        "dev --masters 2",
        "dev --workers many",
        "dev --slots 0",
        "serve master --config absent.toml",
        "completion csh",
        // What a number, a size, a duration or an id may be.
        "priority last high",
        "submit --priority 1.5 -- true",
        "submit --retries often -- true",
        "submit --max-crashes 5000000000 -- true",
        "submit --max-fails 1% -- true",
        "submit --cpus 0 -- true",
        "submit --mem lots -- true",
        "submit --mem 0 -- true",
        "submit --time-limit 90 -- true",
        "submit --time-limit 0s -- true",
        "submit --job mine -- true",
        "submit --noop seed",
        "explain last first",
        "jobs --limit 0",
        "mount there --cache-size 1x",
        "bench noop --tasks 0",
        "nodes forget",
        "nodes --follow forget 7",
        // Nothing says which cluster, none is there, nobody listens.
        "jobs",
        "submit -- true",
        "jobs --cluster nowhere",
        "nodes --cluster tcp://127.0.0.1:1",
        "dev status",
        "dev stop",
    ] {
        let exit = session.run(line).exit;
        assert!([1, 2, 3].contains(&exit), "{line}: {exit}");
    }
    session.end();
}

#[test]
fn a_configuration_is_checked_as_a_whole() {
    let cluster = Cluster::home();
    let place = cluster.place();
    write(place, "worker.toml", "[node]\ndata = '/var/lib/x'\n[worker]\nslots = 3\n");
    write(
        place,
        "open.toml",
        "node = { data = 'x', listen = 'tcp://0.0.0.0:7000' }\nstorage = {}\n",
    );
    write(place, "client.toml", "addresses = ['tcp://10.0.0.1:7101']\n");
    write(
        place,
        "wrong.toml",
        "[node]\nlisten = 'here'\nmaster = []\n[worker]\nslotz = 3\ncpu_milli = 'all'\n[nood]\n",
    );
    write(place, "broken.toml", "[master]\nzone =\n[node\n");
    write(place, "small.toml", "[node]\ndata = 'x'\n");
    let mut session = Session::new(&cluster, "config");
    for (line, exit) in [
        ("config check worker.toml", 0),
        ("config check open.toml", 0),
        ("config check client.toml", 0),
        ("config check wrong.toml", 2),
        ("config check broken.toml", 2),
        ("config check small.toml", 2),
        ("config check small.toml --for balancer", 0),
        ("config check client.toml --for storage", 2),
        ("config check absent.toml", 2),
        ("serve worker --config worker.toml --show-config", 0),
        ("serve worker --config wrong.toml --show-config", 2),
    ] {
        assert_eq!(session.run(line).exit, exit, "{line}");
    }
    session.end();
}

#[test]
fn a_dry_run_checks_everything_and_sends_nothing() {
    let cluster = Cluster::home();
    let place = cluster.place();
    write(place, "data/a", "12345");
    write(place, "data/inner/b", "123");
    write(place, "lines", "one\ntwo\n");
    write(place, "tool", "#!/bin/sh\n");
    let tool = place.join("tool");
    std::fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut session = Session::new(&cluster, "dry_run");
    for (line, exit) in [
        ("submit --dry-run -- true", 0),
        (
            "submit --dry-run --name words --array 10-30:5 --input data --output '*.txt' --env A=b \
             --cpus 0.5 --mem 1G --time-limit 90s --retries 2 --max-fails 7 --keep-scratch -- \
             ./tool {index} 'two words'",
            0,
        ),
        ("submit --dry-run --each-line lines --script tool -- {line}", 0),
        ("submit --dry-run -- echo {line}", 0),
        ("submit --dry-run --input absent -- true", 2),
        // Whether a cluster has something, only a cluster knows.
        ("submit --dry-run --input name:data -- true", 3),
    ] {
        assert_eq!(session.run(line).exit, exit, "{line}");
    }
    session.end();
    let mut pipe = cluster.command(&["submit", "--dry-run", "--input", "data", "--", "true"]);
    let made = Command::new("mkfifo").arg(place.join("data/pipe")).status().unwrap();
    assert!(made.success());
    let refused = pipe.output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("a pipe"), "{refused:?}");
}

#[test]
fn what_commands_of_a_cluster_say_is_reviewed() {
    let cluster = Cluster::start(SMALL);
    jobs(&cluster);
    files(&cluster);
    nodes(&cluster);
}

fn jobs(cluster: &Cluster) {
    let mut session = Session::new(cluster, "jobs");
    for line in [
        "jobs",
        "status",
        "submit --name two --array 0-1 --wait -- sh -c 'echo task $REMUDA_INDEX'",
        "status two",
        "tasks two",
        "logs two --prefix",
        "ls job:two",
        "ls job:two/0",
        "cat job:two/1/stdout",
        "submit --name odd --array 0-4 --wait -- sh -c 'exit $((REMUDA_TASK % 2 * 3))'",
        "wait odd",
        "tasks odd",
        "tasks odd --failed",
        "tasks odd --failed --running",
        "logs odd",
        "submit --name idle --noop --wait --json --array 0-999",
        "cancel idle",
        "jobs",
        "explain odd",
        "explain odd 0",
        "retry odd --failed --wait --name again",
        "status again",
        "retry two --failed",
        "status nobody",
        "cat job:two/7/stdout",
        "submit --hold --name held -- true",
        "status held",
        "tasks held",
        "explain held",
        "jobs --limit 1",
        "cancel held",
        "release held",
        "submit --cpus 64 --name large -- true",
        "hold large",
        "explain large",
        "release large",
        "priority large 7",
        "priority large high",
        "forget large",
        "cancel large",
        "wait large",
        "tasks large",
        "forget large",
        "status large",
    ] {
        session.run(line);
    }
    for line in ["accounting odd", "accounting odd --csv", "accounting held"] {
        session.run_numbers(line);
    }
    session.end();
}

fn files(cluster: &Cluster) {
    let place = cluster.place();
    write(place, "folder/a", "in a\n");
    write(place, "folder/inner/b", "in b\n");
    let mut session = Session::new(cluster, "files");
    for line in [
        "ls",
        "put folder data",
        "put folder/a",
        "ls",
        "ls name:data",
        "ls name:data/inner",
        "cat name:data/a",
        "get name:data copy",
        "get name:data copy",
        "cat name:data",
        "cat name:data/absent",
        "ls name:nothing",
        "submit --dry-run --input name:data -- true",
        "submit --dry-run --input name:data/absent -- true",
        "rm data",
        "rm data",
        "put folder/a --replicas 3",
        "put folder --replicas 6",
        "put absent",
    ] {
        session.run(line);
    }
    session.end();
    assert_eq!(std::fs::read_to_string(place.join("copy/inner/b")).ok().as_deref(), Some("in b\n"));
}

#[test]
fn clusters_are_made_in_the_reviewed_words() {
    let cluster = Cluster::start(SMALL);
    let master = cluster.tier("master").remove(0).address;
    let place = cluster.place();
    let config = |name: &str, listen: &str, masters: &str| {
        let node = format!("[node]\ndata = '{name}'\nlisten = '{listen}'\n{masters}");
        write(place, &format!("{name}.toml"), &node);
    };
    let own = "tcp://127.0.0.1:7000";
    config("first", own, "");
    config("anywhere", "tcp://127.0.0.1:0", "");
    config("second", own, &format!("masters = ['{master}']\n"));
    config("alone", own, "");
    config("lost", own, "masters = ['tcp://127.0.0.1:1']\n");
    let mut session = Session::new(&cluster, "cluster");
    for (line, exit) in [
        ("cluster init --config first.toml", 0),
        ("cluster init --config first.toml", 2),
        ("cluster init --config anywhere.toml", 1),
        ("cluster init --config absent.toml", 2),
        ("cluster init", 2),
        ("cluster join --config second.toml", 0),
        ("cluster join --config second.toml", 2),
        ("cluster join --config first.toml", 2),
        ("cluster join --config alone.toml", 2),
        ("cluster join --config lost.toml", 3),
        ("cluster", 2),
        ("cluster leave", 2),
    ] {
        assert_eq!(session.run(line).exit, exit, "{line}");
    }
    session.end();
}

fn nodes(cluster: &Cluster) {
    let mut session = Session::new(cluster, "nodes");
    session.run("nodes");
    session.run("nodes forget nobody");
    session.run("ring drain nobody");
    session.run("ring add");
    for line in ["dev status", "health", "df", "ring status"] {
        session.run_numbers(line);
    }
    session.end();
}

/// JSON of a command, and which one it is in `docs/json.md`.
const JSON: &[(&str, &[&str])] = &[
    ("remuda jobs", &["jobs", "--json"]),
    ("remuda status", &["status", "first", "--json"]),
    ("remuda tasks", &["tasks", "first", "--json"]),
    ("remuda tasks", &["tasks", "sleeps", "--json"]),
    ("remuda tasks --running", &["tasks", "sleeps", "--running", "--json"]),
    ("remuda submit", &["submit", "--json", "--", "true"]),
    ("remuda submit --dry-run", &["submit", "--dry-run", "--json", "--input", "x", "--", "true"]),
    ("remuda submit --dry-run", &["submit", "--dry-run", "--json", "--noop"]),
    ("remuda explain", &["explain", "sleeps", "--json"]),
    ("remuda explain", &["explain", "first", "1", "--json"]),
    ("remuda hold", &["hold", "sleeps", "--json"]),
    ("remuda release", &["release", "sleeps", "--json"]),
    ("remuda priority", &["priority", "sleeps", "--json", "3"]),
    ("remuda accounting", &["accounting", "prints", "--json"]),
    ("remuda cancel", &["cancel", "sleeps", "--json"]),
    ("remuda retry", &["retry", "first", "--failed", "--json"]),
    ("remuda forget", &["forget", "sleeps", "--json"]),
    ("remuda ls", &["ls", "--json"]),
    ("remuda ls SOURCE", &["ls", "name:folder", "--json"]),
    ("remuda ls SOURCE", &["ls", "job:first/0", "--json"]),
    ("remuda ls job:JOB", &["ls", "job:first", "--json"]),
    ("remuda register set", &["register", "set", "7", "x", "--json"]),
    ("remuda register get", &["register", "get", "7", "--json"]),
    ("remuda register get", &["register", "get", "8", "--json"]),
    ("remuda nodes", &["nodes", "--json"]),
    ("remuda health", &["health", "--json"]),
    ("remuda df", &["df", "--json"]),
    ("remuda ring status", &["ring", "status", "--json"]),
    ("remuda dev status", &["dev", "status", "--json"]),
];

/// Documented, and not run here: why.
const NOT_RUN: &[(&str, &str)] = &[
    ("remuda bench", "it starts clusters of its own and measures for a long time"),
    ("remuda nodes --follow", "it does not end; another test reads what it prints"),
    ("remuda register watch", "it does not end; another test reads what it prints"),
    ("remuda nodes forget", "a node has to leave for it; another test reads what it prints"),
];

#[test]
fn json_is_as_documented() {
    let cluster = Cluster::start(SMALL);
    write(cluster.place(), "x", "x");
    write(cluster.place(), "folder/inner/file", "x");
    std::os::unix::fs::symlink("file", cluster.place().join("folder/link")).unwrap();
    cluster.run(&["put", "folder", "folder"]).ok();
    let script = "echo out; echo x > $REMUDA_OUTPUTS/x; ln -s x $REMUDA_OUTPUTS/y; \
                  mkdir $REMUDA_OUTPUTS/z; exit $((REMUDA_TASK * 3))";
    let first = ["submit", "--name", "first", "--array", "0-1", "--wait", "--", "sh", "-c", script];
    assert_eq!(cluster.run(&first).exit, 1);
    cluster.submit(&["--name", "prints", "--wait", "--", "echo", "it"]);
    // Takes both slots until it is cancelled.
    cluster.submit(&["--name", "sleeps", "--array", "0-5", "--", "sleep", "600"]);
    let is_running = || cluster.run(&["tasks", "sleeps", "--running", "--json"]).ok() != "[]\n";
    until("a task that runs", LONG, || is_running().then_some(()));
    let documented = documented::read();
    let mut found = Vec::new();
    for (command, arguments) in JSON {
        let Some(section) = documented.get(*command) else {
            found.push(format!("{command} is not documented"));
            continue;
        };
        let printed = cluster.run(arguments);
        let differences = section.differences(&printed.stdout);
        found.extend(differences.iter().map(|it| format!("{arguments:?}: {it}")));
    }
    // Nothing is documented that nobody looks at, and nothing printed that nobody documented.
    let run = JSON.iter().map(|(command, _)| *command);
    let known: Vec<&str> = run.chain(NOT_RUN.iter().map(|(command, _)| *command)).collect();
    for command in documented.keys() {
        if !known.contains(&command.as_str()) {
            found.push(format!("{command} is documented and not run here"));
        }
    }
    for words in commands(&cluster) {
        let command = [&["remuda".to_owned()], words.as_slice()].concat().join(" ");
        let has_json = help(&cluster, &words).ok().contains(" --json");
        if has_json && !documented.contains_key(&command) {
            found.push(format!("{command} has --json, and docs/json.md says nothing of it"));
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let cluster = Cluster::start(SMALL);
    cluster.run(&["submit", "--name", "one", "--wait", "--", "echo", "it"]).ok();
    write(cluster.place(), "x", "x");
    cluster.run(&["put", "x", "x"]).ok();
    for arguments in [
        &["jobs"][..],
        &["jobs", "--json"],
        &["status", "one"],
        &["tasks", "one"],
        &["logs", "one"],
        &["ls"],
        &["cat", "name:x"],
        &["nodes"],
        &["health"],
        &["df"],
        &["explain", "one"],
        &["accounting", "one", "--csv"],
        &["dev", "status"],
        &["submit", "--dry-run", "--", "true"],
        &["--help"],
        &["submit", "--help"],
        &["--version"],
        &["completion", "bash"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = cluster.command(arguments).stdout(writer).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{arguments:?}: {output:?}");
    }
    // A full disk is one, and is told.
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = cluster.command(&["jobs"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left"), "{output:?}");
}

/// A command that is killed at the latest when the test ends.
struct Waiting(Child);

impl Drop for Waiting {
    fn drop(&mut self) {
        // It may have ended, as it should.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Waiting {
    fn start(cluster: &Cluster, arguments: &[&str]) -> Waiting {
        let mut command = cluster.command(arguments);
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Waiting(command.spawn().expect("run the program"))
    }

    /// Interrupts it as soon as it listens to that; how it ends and what it says.
    fn interrupt(mut self) -> (Option<i32>, String) {
        let pid = self.0.id();
        until("a command that waits", LONG, || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
            let caught = u64::from_str_radix(caught.trim(), 16).ok()?;
            (caught >> 1 & 1 == 1).then_some(())
        });
        kill_process(Pid::from_child(&self.0), Signal::INT).expect("it runs");
        let stderr = self.0.stderr.take().expect("a pipe");
        let said = std::io::read_to_string(stderr).expect("it says UTF-8");
        (self.0.wait().expect("it ended").code(), said)
    }
}

#[test]
fn an_interrupted_wait_says_that_the_job_goes_on() {
    let cluster = Cluster::start(SMALL);
    let mut submit = Waiting::start(&cluster, &["submit", "--wait", "--", "sleep", "600"]);
    let mut job = String::new();
    let stdout = submit.0.stdout.take().expect("a pipe");
    BufReader::new(stdout).read_line(&mut job).expect("it says UTF-8");
    let job = job.trim();
    let expected = format!(
        "note: job {job} goes on; wait again: remuda wait {job}; cancel it: remuda cancel {job}\n"
    );
    assert_eq!(submit.interrupt(), (Some(130), expected.clone()));
    assert_ne!(cluster.job(job)["state"], "cancelled");
    assert_eq!(Waiting::start(&cluster, &["wait", job]).interrupt(), (Some(130), expected));
    cluster.run(&["cancel", job]).ok();
    let waited = cluster.run(&["wait", job]);
    assert_eq!(waited.exit, 1, "{waited:?}");
}

#[test]
fn what_nodes_say_is_as_documented() {
    let cluster = Cluster::start(SMALL);
    let documented = documented::read();
    let section = documented.get("remuda nodes --follow").expect("it is documented");
    let mut follow = Waiting::start(&cluster, &["nodes", "--follow", "--json"]);
    let lines = BufReader::new(follow.0.stdout.take().expect("a pipe")).lines();
    let lines: Vec<String> = lines.take(5).map(|line| line.expect("it says UTF-8")).collect();
    assert_eq!(section.differences(&lines.join("\n")), [""; 0]);
    assert_eq!(follow.interrupt().0, Some(0));
}

/// What a command prints to a terminal.
fn on_terminal(cluster: &Cluster, arguments: &str, variables: &[(&str, &str)]) -> String {
    let line = format!("{} {arguments}", program().display());
    // `script` runs it on a terminal of its own.
    let mut command = Command::new("script");
    let own = cluster.command(&[]);
    let environment = own.get_envs().filter_map(|(name, value)| Some((name, value?)));
    command
        .args(["-qec", &line, "/dev/null"])
        .envs(environment)
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .envs(variables.iter().copied())
        .current_dir(cluster.place())
        .stdin(Stdio::null());
    let output = command.output().expect("run script");
    String::from_utf8(output.stdout).expect("it says UTF-8")
}

#[test]
fn colours_are_for_terminals_and_for_those_who_want_them() {
    let cluster = Cluster::start(SMALL);
    cluster.run(&["submit", "--name", "bad", "--wait", "--", "false"]);
    let red = "\x1b[1m\x1b[31mfailed\x1b[0m";
    for arguments in ["jobs", "status bad", "tasks bad"] {
        let coloured = on_terminal(&cluster, arguments, &[]);
        assert!(coloured.contains(red), "{arguments}: {coloured:?}");
        for variable in [("NO_COLOR", "1"), ("TERM", "dumb")] {
            let plain = on_terminal(&cluster, arguments, &[variable]);
            assert!(plain.contains("failed") && !plain.contains('\x1b'), "{plain:?}");
            // The colours are all that differs, and how old the job is by now.
            let mut stripped = coloured.clone();
            for code in ["\x1b[1m", "\x1b[31m", "\x1b[0m"] {
                stripped = stripped.replace(code, "");
            }
            assert_eq!(without_ages(&stripped), without_ages(&plain), "{arguments}");
        }
    }
    let wrong = on_terminal(&cluster, "cat name:absent", &[]);
    assert!(wrong.contains("\x1b[1m\x1b[31merror:\x1b[0m "), "{wrong:?}");
}

#[test]
fn scratch_is_kept_only_where_that_was_asked_for() {
    let cluster = Cluster::start(SMALL);
    let kept = |name: &str| find(&cluster.folder(), name);
    for (flags, is_kept) in [(&[][..], false), (&["--keep-scratch"], true)] {
        let name = format!("left-behind-{is_kept}");
        let script = format!("echo it > {name}");
        let arguments = [flags, &["--wait", "--", "sh", "-c", &script]].concat();
        cluster.submit(&arguments);
        assert_eq!(kept(&name).is_some(), is_kept, "{:?}", kept(&name));
    }
}

/// The words of a text but for numbers of seconds.
fn without_ages(text: &str) -> Vec<&str> {
    let is_age =
        |word: &&str| word.strip_suffix('s').is_some_and(|number| number.parse::<f64>().is_ok());
    text.split_whitespace().filter(|word| !is_age(word)).collect()
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    for entry in std::fs::read_dir(folder).ok()?.flatten() {
        if entry.file_name() == name {
            return Some(entry.path());
        }
        if entry.file_type().is_ok_and(|it| it.is_dir())
            && let Some(found) = find(&entry.path(), name)
        {
            return Some(found);
        }
    }
    None
}

#[test]
fn shells_complete_commands_and_flags() {
    let cluster = Cluster::home();
    let completed = |shell: &str| cluster.run(&["completion", shell]).ok();
    let ask = |word: &str, words: &str, at: usize| {
        let script = format!(
            "source /dev/stdin; COMP_WORDS=({words}); COMP_CWORD={at}; \
             _remuda remuda {word} remuda; echo \"${{COMPREPLY[@]}}\""
        );
        let mut bash = Command::new("bash");
        let bash = bash.args(["--norc", "-c", &script]).stdin(Stdio::piped());
        let mut bash = bash.stdout(Stdio::piped()).spawn().expect("run bash");
        let mut stdin = bash.stdin.take().expect("a pipe");
        std::io::Write::write_all(&mut stdin, completed("bash").as_bytes()).expect("it reads");
        drop(stdin);
        let output = bash.wait_with_output().expect("hear from bash");
        String::from_utf8(output.stdout).expect("it says UTF-8")
    };
    assert_eq!(ask("su", "remuda su", 1), "submit\n");
    assert_eq!(ask("--keep", "remuda submit --keep", 2), "--keep-scratch\n");
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(completed(shell).contains("keep-scratch"), "{shell}");
    }
}

#[test]
fn what_is_installed_and_given_away_is_complete() {
    let cluster = Cluster::home();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let place = cluster.place();
    let installed = Command::new("make")
        .args(["--no-print-directory", "install", "PREFIX=/usr"])
        .arg(format!("DESTDIR={}", place.join("image").display()))
        .arg(format!("PROGRAM={}", program().display()))
        .current_dir(&root)
        .output()
        .expect("run make");
    assert!(installed.status.success(), "{installed:?}");
    let image = place.join("image/usr");
    for path in [
        "bin/remuda",
        "share/man/man1/remuda.1",
        "share/man/man1/remuda-cluster-init.1",
        "share/bash-completion/completions/remuda",
        "share/zsh/site-functions/_remuda",
        "share/fish/vendor_completions.d/remuda.fish",
    ] {
        assert!(image.join(path).is_file(), "{path}");
    }
    let page = std::fs::read_to_string(image.join("share/man/man1/remuda-submit.1")).unwrap();
    assert!(page.contains(".TH remuda-submit 1"), "{page}");

    let pack = |out: &str| {
        let packed = Command::new(root.join("scripts/dist"))
            .args([program(), place.join(out)])
            .env("TARGET", "some-target")
            .output()
            .expect("run scripts/dist");
        assert!(packed.status.success(), "{packed:?}");
        PathBuf::from(String::from_utf8(packed.stdout).expect("a path").trim_end())
    };
    let archive = pack("one");
    assert_eq!(archive.file_name().unwrap(), "remuda-0.1.0-some-target.tar.gz");
    let listed = Command::new("tar").arg("tzf").arg(&archive).output().expect("run tar");
    let listed = String::from_utf8(listed.stdout).expect("paths");
    for path in [
        "bin/remuda",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "docs/operations.md",
        "deploy/worker.toml",
        "deploy/systemd/remuda-master.service",
        "deploy/systemd/remuda-balancer.service",
        "deploy/systemd/remuda-storage.service",
        "deploy/systemd/remuda-worker.service",
        "share/man/man1/remuda.1",
        "share/bash-completion/completions/remuda",
        "share/zsh/site-functions/_remuda",
        "share/fish/vendor_completions.d/remuda.fish",
    ] {
        let path = format!("remuda-0.1.0-some-target/{path}");
        assert!(listed.lines().any(|it| it == path), "{path} is not in\n{listed}");
    }
    let is_page = |it: &&str| it.contains("/share/man/man1/remuda") && it.ends_with(".1");
    let pages = std::fs::read_dir(image.join("share/man/man1")).expect("the manual").count();
    assert_eq!(listed.lines().filter(is_page).count(), pages);
    // It runs where it is unpacked, and the units start what lies in it.
    let unpacked = Command::new("tar").arg("xzf").arg(&archive).arg("-C").arg(place).status();
    assert!(unpacked.expect("run tar").success());
    let unpacked = place.join("remuda-0.1.0-some-target");
    let version = Command::new(unpacked.join("bin/remuda")).arg("--version").output();
    assert!(version.expect("run what was unpacked").status.success());
    for tier in ["master", "balancer", "storage", "worker"] {
        let unit = unpacked.join(format!("deploy/systemd/remuda-{tier}.service"));
        let unit = std::fs::read_to_string(unit).expect("a unit");
        assert!(unit.contains(&format!("bin/remuda serve {tier} --config ")), "{unit}");
    }
    assert_eq!(dead_links(&unpacked.join("README.md"), &unpacked), Vec::<String>::new());
    let same = std::fs::read(pack("two")).unwrap() == std::fs::read(&archive).unwrap();
    assert!(same, "the same program and sources give the same archive");
}

/// Links of a page to files that are not in its folder.
fn dead_links(page: &Path, folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(page).expect("a page");
    let links = text.split("](").skip(1).filter_map(|behind| behind.split(')').next());
    let files = links.filter(|link| !link.contains("://") && !link.starts_with('#'));
    files.filter(|link| !folder.join(link).exists()).map(str::to_owned).collect()
}

fn write(place: &Path, name: &str, content: &str) {
    let path = place.join(name);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("make it");
    std::fs::write(path, content).expect("make it");
}
