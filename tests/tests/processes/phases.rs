//! The phases under `deploy/`: their configurations start the clusters that their READMEs describe,
//! and these survive what is said there.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use cluster_tests::wait::until;
use serde_json::Value;

use crate::cluster::{Cluster, LONG, program};

/// Tasks of the job that runs meanwhile.
const TASKS: u64 = 60;

/// What task `index` finds in its input and prints.
fn line(index: u64) -> String {
    format!("{}\n", index * index + 7)
}

/// A phase that runs in a folder of its own.
struct Phase {
    /// A place for it, passable for whoever its tasks run as; no cluster of `dev` is in it.
    place: Cluster,
    /// What starts and stops it, below `deploy/`.
    script: &'static str,
    /// What the script is told by variables.
    variables: Vec<(&'static str, String)>,
}

impl Phase {
    /// Starts a phase as processes of this machine.
    #[track_caller]
    fn start(script: &'static str) -> Phase {
        Phase::start_with(script, vec![("PORTS", free_ports().to_string())])
    }

    #[track_caller]
    fn start_with(script: &'static str, variables: Vec<(&'static str, String)>) -> Phase {
        let place = Cluster::home_in(&std::env::temp_dir());
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(place.place(), everybody).expect("make it passable");
        let phase = Phase { place, script, variables };
        let started = phase.script("start", &[]);
        assert!(started.contains("nodes run"), "{started}");
        phase
    }

    fn folder(&self) -> PathBuf {
        self.place.place().join("phase")
    }

    /// Runs the phase's own script; what it printed.
    #[track_caller]
    fn script(&self, what: &str, arguments: &[&str]) -> String {
        let deploy = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy");
        let mut command = Command::new("timeout");
        command.arg("120").arg(deploy.join(self.script)).arg(what).arg(self.folder());
        command.args(arguments).env("REMUDA", program());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let output = command.output().expect("run the script");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{what}: {said}{errors}");
        said
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> crate::cluster::Said {
        let cluster = self.script("addresses", &[]);
        let (command, rest) = arguments.split_first().expect("a command");
        self.place.run(&[&[*command, "--cluster", cluster.trim()], rest].concat())
    }

    /// The names of the nodes of a tier, those that lead it first.
    #[track_caller]
    fn tier(&self, tier: &str) -> Vec<String> {
        let nodes = self.run(&["nodes", "--json"]).json();
        let mut nodes: Vec<Value> = nodes.as_array().expect("a list of nodes").clone();
        nodes.retain(|node| node["tier"] == tier);
        nodes.sort_by_key(|node| node["leads"] != Value::Bool(true));
        // Port 7203 is balancer 3's, in every phase.
        let name = |node: &Value| {
            let port: u32 = node["address"].as_str()?.rsplit(':').next()?.parse().ok()?;
            Some(format!("{tier}-{}", port % 100))
        };
        nodes.iter().map(|node| name(node).expect("an address of ours")).collect()
    }

    /// A job each of whose tasks prints a line of its own input. Its UUID.
    #[track_caller]
    fn submit(&self) -> String {
        let input = self.place.place().join("input");
        std::fs::create_dir(&input).expect("make a folder");
        for index in 0..TASKS {
            std::fs::write(input.join(index.to_string()), line(index)).expect("write an input");
        }
        let input = format!("lines={}", input.display());
        let array = format!("0-{}", TASKS - 1);
        let task = "sleep 0.2; cat \"$REMUDA_INPUTS/lines/{index}\"";
        let submit = ["submit", "--array", &array, "--input", &input, "--", "/bin/sh", "-c", task];
        self.run(&submit).ok().trim().to_owned()
    }

    #[track_caller]
    fn done(&self, job: &str) -> u64 {
        self.run(&["status", job, "--json"]).json()["done"].as_u64().expect("a number")
    }

    /// Waits until some tasks are done; not nearly all may be.
    #[track_caller]
    fn until_it_works(&self, job: &str) {
        let done = until("the first tasks", LONG, || Some(self.done(job)).filter(|&it| it >= 5));
        assert!(done < TASKS * 4 / 5, "the kill comes too late: {done} of {TASKS} are done");
    }

    /// Waits for the end of the job and compares what each task printed.
    #[track_caller]
    fn assert_ends(&self, job: &str) {
        self.run(&["wait", job]).ok();
        let results = self.place.place().join("results");
        let source = format!("job:{job}");
        self.run(&["get", &source, results.to_str().expect("UTF-8")]).ok();
        for index in 0..TASKS {
            let printed = std::fs::read_to_string(results.join(index.to_string()).join("stdout"));
            assert_eq!(printed.ok(), Some(line(index)), "task {index}");
        }
    }
}

impl Drop for Phase {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.folder().join("log");
            for entry in std::fs::read_dir(log).into_iter().flatten().flatten() {
                let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
                let from = text.lines().count().saturating_sub(5);
                let name = entry.file_name();
                text.lines().skip(from).for_each(|line| eprintln!("{}: {line}", name.display()));
            }
        }
        self.script("stop", &[]);
    }
}

/// What the ports of a phase may begin with: nobody listens at any of its own.
fn free_ports() -> u32 {
    let is_free = |port: u32| {
        u16::try_from(port).is_ok_and(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
    };
    // Below those that the system gives to whoever asks for any.
    let all_free = |prefix: &u32| {
        (1..=4).all(|tier| (1..=3).all(|node| is_free(prefix * 1000 + tier * 100 + node)))
    };
    // Tests of one run begin at the same moment: each looks at prefixes of its own.
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id() % 20 + 10 * CALLS.fetch_add(1, Ordering::Relaxed);
    (first..first + 10).map(|prefix| 10 + prefix % 20).find(all_free).expect("free ports")
}

/// While a job runs, kills one process of each tier, of masters and balancers the one that leads.
#[track_caller]
fn assert_survives_one_of_each_tier(phase: &Phase) {
    let job = phase.submit();
    phase.until_it_works(&job);
    let mut dead = Vec::new();
    for tier in ["worker", "storage", "balancer", "master"] {
        let victim = phase.tier(tier).swap_remove(0);
        phase.script("kill", &[&victim]);
        dead.push(victim);
    }
    phase.assert_ends(&job);
    let status = phase.script("status", &[]);
    for node in dead {
        assert!(status.contains(&format!("{node} does not run")), "it stays dead: {status}");
    }
}

#[test]
fn phase_1_survives_a_worker() {
    let phase = Phase::start("phase-1/run");
    assert_eq!(phase.tier("worker").len(), 3);
    let job = phase.submit();
    phase.until_it_works(&job);
    phase.script("kill", &["worker-2"]);
    phase.assert_ends(&job);
    assert!(phase.script("status", &[]).contains("worker-2 does not run"), "it stays dead");
}

#[test]
fn phase_4_survives_one_process_of_each_tier() {
    assert_survives_one_of_each_tier(&Phase::start("phase-4/run"));
}

#[test]
#[ignore = "it needs a Docker engine and the images: make test-containers"]
fn phase_4_survives_one_container_of_each_tier() {
    let network = format!("172.31.{}", std::process::id() % 256);
    let tag = "test".to_owned();
    let phase = Phase::start_with("images/phase-4", vec![("NETWORK", network), ("TAG", tag)]);
    assert_survives_one_of_each_tier(&phase);
}
