//! What a job asks for holds when the leader dies amid it: retries, limits, cancellation.

use std::path::Path;

use cluster_tests::wait::until;
use serde_json::Value;

use crate::cluster::{Cluster, LONG, kill};
use crate::crashes::DEADLY;

/// A job and what must become of it.
struct Case {
    name: &'static str,
    flags: &'static [&'static str],
    script: &'static str,
    state: &'static str,
    /// Attempts that began; each writes a line.
    attempts: std::ops::RangeInclusive<usize>,
    /// The cause of the failure of its first task.
    cause: Option<&'static str>,
}

const CASES: &[Case] = &[
    Case {
        name: "retried",
        flags: &["--retries", "2"],
        script: "sleep 0.7; test $(wc -l < $TOLD/retried) -ge 3",
        state: "done",
        attempts: 3..=3,
        cause: None,
    },
    Case {
        name: "hopeless",
        flags: &["--retries", "2"],
        script: "sleep 0.7; exit 9",
        state: "failed",
        attempts: 3..=3,
        cause: None,
    },
    Case {
        name: "failing",
        flags: &["--array", "0-99", "--max-fails", "3"],
        script: "sleep 0.7; exit 9",
        state: "failed",
        attempts: 4..=40,
        cause: None,
    },
    Case {
        name: "endless",
        flags: &["--time-limit", "3s"],
        script: "sleep 3600",
        state: "failed",
        attempts: 1..=1,
        cause: Some("time_limit"),
    },
    Case {
        name: "cancelled",
        flags: &["--array", "0-1"],
        script: "sleep 3600",
        state: "cancelled",
        attempts: 2..=2,
        cause: None,
    },
];

/// Lines that the attempts of a job wrote so far.
fn attempts(told: &Path, name: &str) -> usize {
    std::fs::read_to_string(told.join(name)).unwrap_or_default().lines().count()
}

#[track_caller]
fn submit(cluster: &Cluster, told: &Path, name: &str, flags: &[&str], script: &str) -> String {
    let variable = format!("TOLD={}", told.display());
    let script = format!("echo attempt >> $TOLD/{name}; {script}");
    let program = ["--name", name, "--env", &variable, "--", "sh", "-euc", &script];
    cluster.submit(&[flags, &program].concat())
}

#[test]
fn what_a_job_asks_for_holds_when_the_leader_dies() {
    let shape = ["--balancers", "1", "--storage", "1", "--slots", "4", "--no-restart"];
    let cluster = Cluster::start(&shape);
    let told = cluster.place().join("told");
    std::fs::create_dir(&told).unwrap();
    for case in CASES {
        submit(&cluster, &told, case.name, case.flags, case.script);
    }
    for case in CASES {
        until(case.name, LONG, || (attempts(&told, case.name) > 0).then_some(()));
    }
    until("both of them", LONG, || (attempts(&told, "cancelled") == 2).then_some(()));
    cluster.run(&["cancel", "cancelled"]).ok();
    let leader = cluster.leader("master");
    kill(leader.pid.unwrap());
    for case in CASES {
        let exit = i32::from(case.state != "done");
        let waited = cluster.run(&["wait", case.name]);
        assert_eq!(waited.exit, exit, "{}: {waited:?}", case.name);
        let it = cluster.job(case.name);
        assert_eq!(it["state"], case.state, "{}: {it}", case.name);
        let count = attempts(&told, case.name);
        assert!(case.attempts.contains(&count), "{}: {count} attempts: {it}", case.name);
        let tasks = cluster.run(&["tasks", case.name, "--json"]).json();
        let cause = case.cause.map_or(Value::Null, Value::from);
        assert_eq!(tasks[0]["cause"], cause, "{}: {tasks}", case.name);
    }
    assert_ne!(cluster.leader("master").node, leader.node);
}

#[test]
fn crashes_are_counted_across_the_death_of_a_leader() {
    let shape = ["--balancers", "1", "--storage", "1", "--workers", "1", "--slots", "1"];
    let cluster = Cluster::start(&[&shape[..], &["--no-restart"]].concat());
    let told = cluster.place().join("told");
    let variable = format!("TOLD={}", told.display());
    let program = ["--env", &variable, "--", "sh", "-euc", DEADLY];
    let job = cluster.submit(&[&["--max-crashes", "2"], &program[..]].concat());
    let count = || std::fs::read_to_string(&told).unwrap_or_default().lines().count();
    let until_dead = || {
        until("a dead worker", LONG, || cluster.tier("worker")[0].pid.is_none().then_some(()));
    };
    until_dead();
    assert_eq!(count(), 1);
    cluster.run(&["dev", "start", "worker-1"]).ok();
    until("the second crash", LONG, || (count() == 2).then_some(()));
    until_dead();
    // One crash is counted, the other one is told to the next leader.
    let leader = cluster.leader("master");
    kill(leader.pid.unwrap());
    cluster.run(&["dev", "start", "worker-1"]).ok();
    assert_eq!(cluster.run(&["wait", &job]).exit, 1);
    assert_eq!((cluster.job(&job)["state"].as_str(), count()), (Some("failed"), 2));
    assert_ne!(cluster.leader("master").node, leader.node);
}
