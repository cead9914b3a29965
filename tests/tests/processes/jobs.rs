//! Jobs and files on a cluster where nothing goes wrong.

use proto::description::Noop;
use proto::ids::TaskIndex;
use serde_json::Value;

use crate::cluster::Cluster;

const SMALL: &[&str] =
    &["--masters", "1", "--balancers", "1", "--storage", "3", "--workers", "2", "--slots", "2"];

/// Compares every outcome of a noop job with what its seed says.
#[track_caller]
pub(crate) fn assert_outcomes(cluster: &Cluster, job: &str, noop: &Noop, task_count: u64) {
    assert_runs(&cluster.run(&["tasks", job, "--json"]).json(), noop, task_count);
}

/// The same of what `remuda tasks --json` said.
#[track_caller]
pub(crate) fn assert_runs(runs: &Value, noop: &Noop, task_count: u64) {
    let mut next = 0;
    for run in runs.as_array().expect("a list of runs") {
        let number = |key: &str| run[key].as_u64().expect("a number");
        assert_eq!(number("first_task"), next, "{run}");
        next += number("task_count");
        for task in number("first_task")..next {
            let expected = noop.outcome(TaskIndex(task)).exit_code;
            let state = if expected == 0 { "done" } else { "failed" };
            assert_eq!(
                (run["state"].as_str(), run["exit_code"].as_i64()),
                (Some(state), Some(i64::from(expected)))
            );
        }
    }
    assert_eq!(next, task_count);
}

#[test]
fn a_job_ends_with_the_outcomes_of_its_seed() {
    let cluster = Cluster::start(SMALL);
    let flags = ["--noop", "5", "--noop-failed", "20000", "--array", "0-49999", "--name", "mixed"];
    let job = cluster.submit(&flags);
    let waited = cluster.run(&["wait", "mixed"]);
    assert_eq!(waited.exit, 1, "{waited:?}");
    assert!(waited.stderr.contains("of 50000 tasks failed"), "{waited:?}");
    let noop = Noop { seed: 5, failed_per_million: 20_000, ..Noop::default() };
    assert_outcomes(&cluster, &job, &noop, 50_000);
    let status = cluster.job("mixed");
    assert_eq!((status["job"].as_str(), &status["state"]), (Some(&*job), &"failed".into()));
    assert_eq!(cluster.job(&job[..8])["job"], job.as_str());
    assert_eq!(cluster.job("last")["job"], job.as_str());
    // Submitting the same again is the same job; another content under its UUID is refused.
    let again = [&flags[..], &["--job", &job]].concat();
    assert_eq!(cluster.submit(&again), job);
    let other = cluster.run(&["submit", "--noop", "6", "--job", &job]);
    assert_eq!(other.exit, 2, "{other:?}");
    assert!(other.stderr.contains("exists with another content"), "{other:?}");
    assert_eq!(cluster.run(&["jobs", "--json"]).json().as_array().unwrap().len(), 1);
}

#[test]
fn a_cancelled_job_stays_cancelled() {
    let cluster = Cluster::start(SMALL);
    let slow = ["--noop", "--noop-shortest", "600000000", "--array", "0-999999"];
    let job = cluster.submit(&slow);
    let cancelled = cluster.run(&["cancel", &job, "--json"]).json();
    assert_eq!(cancelled["state"], "cancelled");
    let waited = cluster.run(&["wait", &job]);
    assert_eq!(waited.exit, 1, "{waited:?}");
    // The slots are free again: what comes behind it is executed.
    cluster.submit(&["--noop", "--array", "0-99", "--wait"]);
    assert_eq!(cluster.job(&job)["state"], "cancelled");
}

#[test]
fn files_come_back_as_they_were() {
    let cluster = Cluster::start(SMALL);
    let content: Vec<u8> = (0..9_500_000u32).flat_map(|it| [(it % 251) as u8]).collect();
    for (name, bytes) in [("large", &content[..]), ("small", b"few"), ("empty", b"")] {
        let path = cluster.place().join(name);
        std::fs::write(&path, bytes).unwrap();
        let source = cluster.run(&["put", name]).ok();
        let source = source.trim();
        let again = cluster.run(&["put", name]).ok();
        assert_eq!(again.trim(), source, "equal content is one file");
        cluster.run(&["get", source, "copy"]).ok();
        assert!(std::fs::read(cluster.place().join("copy")).unwrap() == bytes, "{name}");
        let printed = cluster.command(&["cat", source]).output().unwrap();
        assert!(printed.stdout == bytes, "{name}: {}", String::from_utf8_lossy(&printed.stderr));
    }
    for (arguments, exit) in [
        (&["put", "absent"][..], 2),
        (&["get", "file:x"], 2),
        (&["get", "file:00000000-0000-0000-0000-000000000001"], 1),
    ] {
        let said = cluster.run(arguments);
        assert_eq!(said.exit, exit, "{said:?}");
        assert!(said.stderr.starts_with("error: "), "{said:?}");
    }
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let cluster = Cluster::start(SMALL);
    let path = cluster.place().join("large");
    std::fs::write(&path, vec![7; 9_000_000]).unwrap();
    let source = cluster.run(&["put", "large"]).ok();
    let mut command = cluster.command(&["cat", source.trim()]);
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 10];
    let mut stdout = child.stdout.take().unwrap();
    std::io::Read::read_exact(&mut stdout, &mut first).unwrap();
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn listings_are_json_where_asked() {
    let cluster = Cluster::start(SMALL);
    cluster.submit(&["--noop", "--array", "10-20:5", "--wait", "--name", "few"]);
    let jobs = cluster.run(&["jobs", "--json"]).json();
    assert_eq!((&jobs[0]["name"], &jobs[0]["tasks"]), (&"few".into(), &Value::from(3)));
    let tasks = cluster.run(&["tasks", "few", "--json"]).json();
    assert_eq!(
        tasks,
        serde_json::json!([
            {"first_task": 0, "task_count": 3, "state": "done", "exit_code": 0,
             "earlier_attempts": 0}
        ])
    );
    let failed = cluster.run(&["tasks", "few", "--state", "failed", "--json"]).json();
    assert_eq!(failed, serde_json::json!([]));
    let table = cluster.run(&["tasks", "few"]).ok();
    assert_eq!(
        table,
        "TASKS  COUNT  STATE  EXIT CODE  ATTEMPTS  CAUSE\n0-2    3      done   0          1         -\n"
    );
}
