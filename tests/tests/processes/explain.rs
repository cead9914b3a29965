//! Why jobs do not run, what they used, and how the cluster is, as the command line tells it of
//! real processes: healthy ones, frozen ones, dead ones.

use cluster_tests::wait::until;
use serde_json::Value;

use crate::cluster::{Cluster, Frozen, LONG, Said, kill};

const SMALL: &[&str] =
    &["--masters", "1", "--balancers", "1", "--storage", "1", "--workers", "1", "--slots", "1"];

/// A task that runs until its job is cancelled.
const ENDLESS: &[&str] = &["--noop", "--noop-shortest", "600000000"];

/// What a job, or a task of it, waits for, as soon as this is the first reason.
#[track_caller]
fn reason(cluster: &Cluster, arguments: &[&str], wanted: &str) -> Value {
    until(wanted, LONG, || {
        let said = cluster.run(&[&["explain"], arguments, &["--json"]].concat()).json();
        let first = said["reasons"].as_array().expect("a list").first().cloned();
        first.filter(|it| it["reason"] == wanted)
    })
}

/// Asks again until the answer is as wanted.
#[track_caller]
fn health(cluster: &Cluster, what: &str, is_it: impl Fn(&Said) -> bool) -> Said {
    until(what, LONG, || Some(cluster.run(&["health"])).filter(&is_it))
}

#[test]
fn a_job_says_what_holds_it_up() {
    let cluster = Cluster::start(SMALL);
    let worker = cluster.tier("worker")[0].node.clone();

    let said = cluster.run(&["submit", "--cpus", "64", "--mem", "1024T", "--", "true"]);
    assert!(said.stderr.contains("no worker is large enough"), "{said:?}");
    let large = said.ok().trim().to_owned();
    let told = reason(&cluster, &[&large], "too_large");
    assert_eq!((&told["subject"], &told["number"]), (&Value::from(worker.clone()), &1_000.into()));
    let words = told["words"].as_str().expect("a sentence");
    assert!(words.contains("a task takes 64 CPUs and 1.0 PiB of memory"), "{words}");
    assert!(words.contains("has 1 CPU and "), "{words}");
    cluster.run(&["cancel", &large]).ok();
    assert_eq!(reason(&cluster, &[&large, "0"], "cancelled")["told_by"], "master");

    let job = cluster.submit(&[ENDLESS, &["--array", "0-9"]].concat());
    let told = reason(&cluster, &[&job, "0"], "running");
    assert_eq!((&told["told_by"], &told["subject"]), (&"worker".into(), &Value::from(worker)));
    let told = reason(&cluster, &[&job, "5"], "slots_busy");
    assert_eq!((&told["told_by"], &told["number"]), (&"balancer".into(), &1.into()));
    let text = cluster.run(&["explain", &job]).ok();
    assert!(text.contains("is running: 0 of 10 tasks have their outcome\n"), "{text}");
    assert!(text.contains("\n- 9 tasks, from 1 on: all slots are busy, with 1 task\n"), "{text}");
    assert!(text.contains("\n- task 0: runs at worker tcp://"), "{text}");

    let urgent = cluster.submit(&[ENDLESS, &["--priority", "5", "--array", "0-2"]].concat());
    assert_eq!(reason(&cluster, &[&job, "5"], "behind")["number"], 3);
    cluster.run(&["cancel", &urgent]).ok();
    cluster.run(&["hold", &job]).ok();
    let told = reason(&cluster, &[&job], "held");
    assert!(told["advice"].as_str().expect("a hint").contains("remuda release"), "{told}");
    cluster.run(&["cancel", &job]).ok();

    let failed = cluster.submit(&["--", "/bin/sh", "-c", "exit 3"]);
    cluster.run(&["wait", &failed]);
    let text = cluster.run(&["explain", &failed, "0"]).ok();
    assert!(text.ends_with(" is failed\n- failed with exit code 3\n"), "{text}");
    let none = cluster.run(&["explain", &failed, "1"]);
    assert_eq!(none.exit, 2, "{none:?}");
}

#[test]
fn whoever_does_not_answer_is_named() {
    let cluster = Cluster::start(&["--no-restart", "--workers", "2", "--slots", "1"]);
    let whole = health(&cluster, "a healthy cluster", |said| said.exit == 0);
    let lines: Vec<&str> = whole.stdout.lines().collect();
    assert_eq!(lines.len(), 5, "a head and a line for each tier: {whole:?}");
    assert!(lines[1].starts_with("master    ok     3 of 3  tcp://"), "{whole:?}");
    assert!(lines[2].contains(" deals in group 1 under epoch "), "{whole:?}");

    let job = cluster.submit(&[ENDLESS, &["--array", "0-9"]].concat());
    reason(&cluster, &[&job, "1"], "running");
    let worker = cluster.tier("worker").remove(0);
    let frozen = Frozen::freeze(worker.pid.expect("it runs"));
    let silent = until("a silent worker", LONG, || {
        let said = cluster.run(&["explain", &job, "--json"]).json();
        said["silent"].as_array().expect("a list").first().cloned()
    });
    assert_eq!(silent["node"], worker.node.as_str());
    let degraded = cluster.run(&["health"]);
    assert_eq!(degraded.exit, 1, "{degraded:?}");
    assert!(degraded.stdout.contains("\nworker    degraded  1 of 2"), "{degraded:?}");
    assert!(degraded.stderr.contains(&format!("worker {}", worker.address)), "{degraded:?}");
    let nodes = cluster.run(&["nodes", "--json"]).json();
    let deaf: Vec<&Value> =
        nodes.as_array().expect("a list").iter().filter(|it| it["answers"] == false).collect();
    assert_eq!(deaf.iter().map(|it| &it["node"]).collect::<Vec<_>>(), [&worker.node]);
    drop(frozen);
    health(&cluster, "a healthy cluster", |said| said.exit == 0);

    let storage = cluster.tier("storage").remove(0);
    kill(storage.pid.expect("it runs"));
    let space = cluster.run(&["df", "--json"]).json();
    let of_dead = |it: &&Value| it["node"] == storage.node.as_str();
    let space = space["nodes"].as_array().expect("a list").iter().find(of_dead).cloned();
    let space = space.expect("the dead one is listed");
    assert_eq!((&space["answers"], &space["free_bytes"]), (&false.into(), &Value::Null));

    let mut masters = cluster.tier("master");
    let last = masters.pop().expect("a master");
    for master in masters {
        kill(master.pid.expect("it runs"));
    }
    let down = health(&cluster, "masters without a leader", |said| {
        said.stdout.contains("\nmaster    down      1 of 3  no leader")
    });
    assert_eq!(down.exit, 1, "{down:?}");
    let unknown = cluster.run(&["explain", &job]);
    assert_eq!(unknown.exit, 3, "{unknown:?}");
    kill(last.pid.expect("it runs"));
    let unreachable = cluster.run(&["health"]);
    assert_eq!(unreachable.exit, 3, "{unreachable:?}");
    assert!(unreachable.stderr.contains("hint: "), "{unreachable:?}");
}

#[test]
fn what_tasks_used_is_told_of_each_and_of_all() {
    let cluster = Cluster::start(SMALL);
    let script = "exit $((REMUDA_TASK % 2))";
    let flags = ["--array", "0-19", "--retries", "1", "--name", "used"];
    let job = cluster.submit(&[&flags[..], &["--", "/bin/sh", "-c", script]].concat());
    cluster.run(&["wait", "used"]);
    let told = cluster.run(&["accounting", "used", "--json"]).json();
    assert_eq!(told["job"], job.as_str());
    let rows = told["tasks"].as_array().expect("a list");
    assert_eq!(rows.len(), 20, "{told}");
    let worker = cluster.tier("worker")[0].node.clone();
    let runs = cluster.run(&["tasks", "used", "--json"]).json();
    for (task, row) in rows.iter().enumerate() {
        assert_eq!((&row["task"], &row["node"]), (&task.into(), &Value::from(worker.clone())));
        let is_it = |run: &&Value| {
            let first = run["first_task"].as_u64().expect("a number") as usize;
            let count = run["task_count"].as_u64().expect("a number") as usize;
            (first..first + count).contains(&task)
        };
        let run = runs.as_array().expect("a list").iter().find(is_it).expect("its outcome");
        assert_eq!((&row["state"], &row["exit_code"]), (&run["state"], &run["exit_code"]));
        let number = |key: &str| row[key].as_u64().expect("a number");
        assert!(number("wall_us") > 0 && number("start_unix_us") > 0, "{row}");
        assert_eq!(number("attempts"), 1 + task as u64 % 2, "{row}");
    }
    let summary = &told["summary"];
    assert_eq!((&summary["tasks"], &summary["without_accounting"]), (&20.into(), &0.into()));
    let sum: u64 = rows.iter().filter_map(|row| row["wall_us"].as_u64()).sum();
    assert_eq!(summary["wall_us"]["sum"], sum);

    let csv = cluster.run(&["accounting", &job, "--csv"]).ok();
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 21, "{csv}");
    assert!(lines[0].starts_with("task,state,exit_code,attempts,"), "{csv}");
    assert!(lines[4].starts_with("3,failed,1,2,"), "{csv}");
    let text = cluster.run(&["accounting", &job]).ok();
    assert!(text.contains("\n20 TASKS  SUM "), "{text}");

    cluster.submit(&["--array", "0-9", "--wait", "--", "echo", "{index}"]);
    let space = cluster.run(&["df", "--json"]).json();
    assert!(space["nodes"][0]["blocks"].as_u64().expect("a number") > 0, "{space}");
    assert!(cluster.run(&["df"]).ok().contains("in use, with the 1 replicas of each file"));
}
