//! What a commit costs: each master syncs its log once for it, counted by strace.
//!
//! The cluster runs below strace from its start, so that no right to watch the processes of others
//! is needed. Nothing is timed: what is counted are system calls.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use client::Client;
use client::logic::jobs::{JobSelector, Submission};
use cluster_tests::wait::until;
use cluster_tests::{Need, has};
use proto::description::{JobDescription, Noop, Runtime};
use proto::ids::{JobId, LogIndex};

use crate::cluster::{Cluster, LONG, Listed};

/// Commits of one measurement.
const COMMITS: u64 = 25;

/// Measurements, because entries of the cluster's own may fall into one: nodes register late.
const MEASUREMENTS: usize = 10;

/// A running strace.
struct Strace(Child);

impl Drop for Strace {
    fn drop(&mut self) {
        // It ends with the last process below it; the cluster was stopped before.
        let mut left = 3_000;
        while matches!(self.0.try_wait(), Ok(None)) && left > 0 {
            left -= 1;
            std::thread::park_timeout(std::time::Duration::from_millis(10));
        }
        if left == 0 {
            // It may have ended just now.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// A cluster below strace. Fields are dropped in this order: first the cluster ends.
struct Traced {
    cluster: Cluster,
    _strace: Strace,
    /// What the names of strace's files begin with; a thread's number follows.
    traces: PathBuf,
}

impl Traced {
    fn start(shape: &[&str]) -> Traced {
        let cluster = Cluster::home();
        let traces = cluster.place().join("trace");
        let said = File::create(cluster.place().join("said")).expect("make a file");
        let dev = cluster.command(&[&["dev"], shape].concat());
        let mut command = Command::new("strace");
        command
            .args(["-ff", "--seccomp-bpf", "-qq", "-e", "trace=fdatasync,fsync", "-o"])
            .arg(&traces)
            .arg(dev.get_program())
            .args(dev.get_args())
            .current_dir(dev.get_current_dir().expect("it has one"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said);
        for (name, value) in dev.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let strace = Strace(command.spawn().expect("run strace"));
        let traced = Traced { cluster, _strace: strace, traces };
        until("a cluster that answers", LONG, || {
            let said = traced.cluster.run(&["nodes", "--json"]);
            (said.exit == 0).then_some(())
        });
        traced
    }

    /// Syncs of any file by a process until now.
    fn syncs(&self, process: &Listed) -> u64 {
        let pid = process.pid.expect("it runs");
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
        let of_thread = |thread: std::ffi::OsString| -> u64 {
            let mut path = self.traces.clone().into_os_string();
            path.push(".");
            path.push(thread);
            // A thread that made no such call may have no file.
            let text = std::fs::read_to_string(path).unwrap_or_default();
            text.lines().filter(|line| line.contains("sync(") && line.contains("= 0")).count()
                as u64
        };
        threads.map(|thread| of_thread(thread.expect("a thread").file_name())).sum()
    }
}

fn submit(client: &Client) -> (JobId, LogIndex) {
    let job = JobId::from_random(node::random::bits().expect("randomness"));
    let description = JobDescription::new(Runtime::Noop(Noop::default()));
    let submission = Submission::new(job, &description, 1, Vec::new()).expect("a short one");
    (job, client.submit(submission).expect("it is accepted"))
}

/// Returns when every master has applied a job, and so has synced it.
fn until_applied(masters: &[Listed], job: JobId) {
    for master in masters {
        // A client that has seen nothing is answered by the master that it asks first, after a
        // round that tells this one how far it must have come.
        let client = Client::connect(vec![master.address.clone()]).expect("a client");
        client.status(JobSelector::Id(job)).expect("the job is there");
    }
}

#[test]
fn one_commit_costs_each_master_one_sync() {
    if !has(Need::Strace) {
        return;
    }
    let shape = ["--balancers", "1", "--storage", "1", "--workers", "0", "--no-restart"];
    let traced = Traced::start(&shape);
    let leader = traced.cluster.leader("master");
    let masters = traced.cluster.tier("master");
    assert_eq!(masters.len(), 3);
    let client = Client::connect(vec![leader.address]).expect("a client");
    let counts = || -> Vec<u64> { masters.iter().map(|master| traced.syncs(master)).collect() };
    for _ in 0..MEASUREMENTS {
        let (job, first) = submit(&client);
        until_applied(&masters, job);
        let before = counts();
        let mut last = (job, first);
        for commit in 1..=COMMITS {
            last = submit(&client);
            // The next one begins when nobody is busy with this one: two could share a sync.
            until("a sync of each master", LONG, || {
                let now = counts();
                let have_all = now.iter().zip(&before).all(|(now, before)| now - before >= commit);
                have_all.then_some(())
            });
        }
        until_applied(&masters, last.0);
        let costs: Vec<u64> =
            counts().iter().zip(&before).map(|(after, before)| after - before).collect();
        if last.1.0 - first.0 == COMMITS {
            assert_eq!(costs, [COMMITS; 3], "syncs of each master for {COMMITS} commits");
            return;
        }
    }
    panic!("in {MEASUREMENTS} measurements, other entries always came between");
}
