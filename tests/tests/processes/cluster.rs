//! A real local cluster for one test: the program as users have it, in folders of its own.
//!
//! Nothing is built here. When it goes out of scope its processes are ended, and killed where they
//! do not end; nothing else is ever signalled.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError};

use cluster_tests::wait::until;
use proto::time::Duration;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;

/// Long enough for a machine that does much else.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Longer than any command may take that ends by itself.
const LONGEST: Duration = Duration::from_secs(150);

/// What a worker says whose predecessor was killed, which nobody but a test does here.
const KILLED: &str = "the worker died with tasks the last time";

/// The program, next to where tests lie.
pub(crate) fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let deps = test.parent().expect("a test lies in a folder");
    let program = deps.parent().expect("which lies in another").join("remuda");
    assert!(
        program.is_file(),
        "{} is missing: build it before these tests, `cargo build -p cli`",
        program.display()
    );
    program
}

/// What a command said and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) exit: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    pub(crate) fn of(output: Output) -> Said {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it says UTF-8");
        Said {
            exit: output.status.code().unwrap_or(-1),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Standard output of a command that must succeed.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.exit, 0, "{self:?}");
        self.stdout
    }

    /// Standard output as JSON of a command that must succeed.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

/// A process as `dev status` lists it.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) tier: String,
    pub(crate) node: String,
    pub(crate) pid: Option<u32>,
    pub(crate) address: String,
    pub(crate) leads: bool,
    pub(crate) starts: u64,
}

/// A local cluster, and a place for its user.
pub(crate) struct Cluster {
    home: tempfile::TempDir,
    /// Parts of the warnings that this test provokes.
    provoked: Mutex<Vec<&'static str>>,
}

impl Cluster {
    /// A running cluster; `shape` are flags of `remuda dev`.
    #[track_caller]
    pub(crate) fn start(shape: &[&str]) -> Cluster {
        let cluster = Cluster::home();
        cluster.dev(shape).ok();
        cluster
    }

    /// A place for a cluster, without one.
    pub(crate) fn home() -> Cluster {
        // On a real disk: /tmp lies in memory on many machines.
        Cluster::home_in(Path::new(env!("CARGO_TARGET_TMPDIR")))
    }

    /// A place for a cluster inside of a folder.
    pub(crate) fn home_in(room: &Path) -> Cluster {
        let home = tempfile::Builder::new().prefix("remuda-test-").tempdir_in(room);
        let home = home.expect("make a folder");
        std::fs::create_dir(home.path().join("run")).expect("make a folder");
        Cluster { home, provoked: Mutex::default() }
    }

    /// Says that a warning with these words is no surprise. Every other one, and every error, in a
    /// log of this cluster fails the test at its end.
    pub(crate) fn provokes(&self, words: &'static str) {
        self.provoked.lock().unwrap_or_else(PoisonError::into_inner).push(words);
    }

    /// What nobody expected in the logs.
    fn surprises(&self) -> Vec<String> {
        let provoked = self.provoked.lock().unwrap_or_else(PoisonError::into_inner);
        let is_surprise = |line: &&str| {
            let is_provoked = provoked.iter().chain([&KILLED]).any(|words| line.contains(words));
            line.contains(" ERROR ") || (line.contains(" WARN ") && !is_provoked)
        };
        let folders = std::fs::read_dir(self.folder()).into_iter().flatten().flatten();
        let names = folders.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names
            .flat_map(|name| {
                let log = self.log(&name);
                let lines = log.lines().filter(is_surprise);
                lines.map(|line| format!("{name}: {line}")).collect::<Vec<String>>()
            })
            .collect()
    }

    /// A folder that is removed with the cluster.
    pub(crate) fn place(&self) -> &Path {
        self.home.path()
    }

    /// The cluster's folder.
    pub(crate) fn folder(&self) -> PathBuf {
        self.home.path().join(".remuda")
    }

    /// A command of this cluster's user, whose working folder is the cluster's place.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .args(arguments)
            .current_dir(self.home.path())
            .env("XDG_RUNTIME_DIR", self.home.path().join("run"))
            .env("XDG_CONFIG_HOME", self.home.path().join("config"))
            .env_remove("REMUDA_CLUSTER")
            .env_remove("COLUMNS")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        let mut command = self.command(arguments);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let child = child.expect("run the program");
        let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).expect("it runs");
        let (sender, ended) = channel();
        std::thread::spawn(move || sender.send(child.wait_with_output()));
        match ended.recv_timeout(LONGEST.to_std()) {
            Ok(output) => Said::of(output.expect("hear from the program")),
            Err(_) => {
                // It may have ended just now.
                let _ = pidfd_send_signal(&process, Signal::KILL);
                panic!("{arguments:?} takes longer than {LONGEST}");
            }
        }
    }

    /// Starts the cluster, again or for the first time, and waits until it answers.
    #[track_caller]
    pub(crate) fn dev(&self, shape: &[&str]) -> Said {
        self.run(&[&["dev", "--detach"], shape].concat())
    }

    /// Ends the cluster.
    #[track_caller]
    pub(crate) fn stop(&self) {
        self.run(&["dev", "stop"]).ok();
    }

    /// Its processes.
    #[track_caller]
    pub(crate) fn status(&self) -> Vec<Listed> {
        let list = self.run(&["dev", "status", "--json"]).json();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let listed = |it: &Value| Listed {
            name: text(&it["name"]),
            tier: text(&it["tier"]),
            node: text(&it["node"]),
            pid: it["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()),
            address: text(&it["address"]),
            leads: it["leads"] == Value::Bool(true),
            starts: it["starts"].as_u64().unwrap_or_default(),
        };
        list.as_array().expect("a list of processes").iter().map(listed).collect()
    }

    /// The processes of a tier.
    #[track_caller]
    pub(crate) fn tier(&self, tier: &str) -> Vec<Listed> {
        self.status().into_iter().filter(|it| it.tier == tier).collect()
    }

    /// The leading process of a tier, as soon as there is one.
    #[track_caller]
    pub(crate) fn leader(&self, tier: &str) -> Listed {
        until(&format!("a leading {tier}"), LONG, || {
            self.tier(tier).into_iter().find(|it| it.leads)
        })
    }

    /// The log of a process.
    pub(crate) fn log(&self, name: &str) -> String {
        let tier = name.split('-').next().unwrap_or_default();
        let path = self.folder().join(name).join(format!("{tier}.log"));
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// Starts a process that is dead, and waits until it is one of the cluster's again.
    #[track_caller]
    pub(crate) fn start_again(&self, name: &str) {
        self.run(&["dev", "start", name]).ok();
        until(&format!("{name} among the nodes"), LONG, || {
            let it = self.status().into_iter().find(|it| it.name == name)?;
            let nodes = self.run(&["nodes", "--json"]);
            let nodes: Value = serde_json::from_str(&nodes.stdout).ok()?;
            let is_it = |node: &&Value| node["node"] == it.node.as_str();
            let known = nodes.as_array()?.iter().find(is_it)?["incarnation"].as_u64()?;
            (it.pid.is_some() && Some(known) == self.incarnation(name)).then_some(())
        });
    }

    /// How often a node's folder was opened.
    fn incarnation(&self, name: &str) -> Option<u64> {
        let text = std::fs::read_to_string(self.folder().join(name).join("identity")).ok()?;
        let identity: toml::Table = text.parse().ok()?;
        u64::try_from(identity.get("incarnation")?.as_integer()?).ok()
    }

    /// The process that keeps the others running.
    pub(crate) fn supervisor(&self) -> Option<u32> {
        let text = std::fs::read_to_string(self.folder().join("lock")).ok()?;
        text.trim().parse().ok()
    }

    /// Submits a job; its UUID.
    #[track_caller]
    pub(crate) fn submit(&self, arguments: &[&str]) -> String {
        self.run(&[&["submit"], arguments].concat()).ok().trim().to_owned()
    }

    /// The state of a job.
    #[track_caller]
    pub(crate) fn job(&self, job: &str) -> Value {
        self.run(&["status", job, "--json"]).json()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the logs of {}:", self.folder().display());
            for entry in std::fs::read_dir(self.folder()).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let log = self.log(&name);
                for line in log.lines().rev().take(5).collect::<Vec<_>>().into_iter().rev() {
                    eprintln!("{name}: {line}");
                }
            }
        }
        let Ok(true) = self.folder().join("dev.toml").try_exists() else { return };
        let stopped = self.command(&["dev", "stop"]).output();
        let is_stopped = stopped.is_ok_and(|output| output.status.success());
        if !is_stopped && let Some(pid) = self.supervisor() {
            kill(pid);
        }
        if !std::thread::panicking() {
            let surprises = self.surprises();
            assert!(surprises.is_empty(), "nobody expected in the logs: {surprises:#?}");
        }
    }
}

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process");
    let process = pidfd_open(pid, PidfdFlags::empty()).expect("the process runs");
    pidfd_send_signal(&process, signal).expect("it may be signalled");
}

/// Ends a process as a power cut would.
pub(crate) fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}

/// A process that is stopped, as on a machine that hangs; goes on when this goes out of scope.
pub(crate) struct Frozen {
    process: OwnedFd,
}

impl Frozen {
    /// Stops it.
    pub(crate) fn freeze(pid: u32) -> Frozen {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process");
        let process = pidfd_open(pid, PidfdFlags::empty()).expect("the process runs");
        pidfd_send_signal(&process, Signal::STOP).expect("it may be signalled");
        Frozen { process }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // It may be gone, with the cluster.
        let _ = pidfd_send_signal(&self.process, Signal::CONT);
    }
}

/// True while a process runs; one that nobody has waited for yet does not.
pub(crate) fn runs(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = status.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}
