//! What tasks print and how far they say they are, seen while they run; nothing is missed or seen
//! twice when they end or their worker dies.

use std::fs::File;
use std::process::Child;

use cluster_tests::wait::until;
use serde_json::Value;

use crate::cluster::{Cluster, LONG, kill};

const SMALL: &[&str] =
    &["--masters", "1", "--balancers", "1", "--storage", "1", "--workers", "1", "--slots", "1"];

/// Lines that a task prints before it waits, and behind that.
const LINES: u64 = 2_000;

/// A task that prints numbered lines, waits in the middle until the test lets it go on, and ends
/// with the test in any case.
fn script(cluster: &Cluster) -> String {
    let place = cluster.place().display();
    format!(
        "print() {{ i=$1; while [ $i -le $2 ]; do echo $REMUDA_ATTEMPT line $i; i=$((i+1)); done; }}
         print 1 {LINES}; echo $REMUDA_ATTEMPT half >&2
         remuda progress 1/2 half of attempt $REMUDA_ATTEMPT || exit 9
         while [ ! -e {place}/go-$REMUDA_ATTEMPT ]; do [ -d {place} ] || exit 1; sleep 0.05; done
         print $(({LINES}+1)) $((2*{LINES})); echo $REMUDA_ATTEMPT whole >&2; printf end"
    )
}

/// What an attempt prints up to a line.
fn lines(attempt: u64, last: u64) -> String {
    (1..=last).map(|line| format!("{attempt} line {line}\n")).collect()
}

/// `remuda logs` in the background, into files.
struct Follower {
    child: Child,
}

impl Follower {
    fn start(cluster: &Cluster, arguments: &[&str]) -> Follower {
        let file = |name| File::create(cluster.place().join(name)).expect("make a file");
        let mut command = cluster.command(&[&["logs", "--follow"], arguments].concat());
        command.stdout(file("out")).stderr(file("err"));
        Follower { child: command.spawn().expect("run the program") }
    }

    /// What it wrote so far.
    fn said(cluster: &Cluster, name: &str) -> String {
        std::fs::read_to_string(cluster.place().join(name)).expect("it writes UTF-8")
    }

    fn end(mut self) {
        let ended =
            until("the end of following", LONG, || self.child.try_wait().expect("it is our child"));
        assert!(ended.success(), "{ended}");
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It has ended where the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The one running task of a job, as soon as it told its progress.
fn running(cluster: &Cluster, job: &str) -> Value {
    until("a running task with progress", LONG, || {
        let tasks = cluster.run(&["tasks", job, "--running", "--json"]).json();
        let tasks = tasks.as_array().expect("a list").clone();
        tasks.into_iter().find(|it| !it["progress"].is_null())
    })
}

fn attempt(task: &Value) -> u64 {
    task["attempt"].as_u64().expect("a number")
}

fn let_go(cluster: &Cluster, attempt: u64) {
    File::create(cluster.place().join(format!("go-{attempt}"))).expect("make a file");
}

#[test]
fn a_task_is_followed_from_before_its_beginning_to_its_end() {
    let cluster = Cluster::start(SMALL);
    // The only slot is taken, so that following begins before the task.
    let first = cluster.submit(&["--noop", "--noop-shortest", "600000000"]);
    let job = cluster.submit(&["--name", "lines", "--", "/bin/sh", "-c", &script(&cluster)]);
    let follower = Follower::start(&cluster, &["lines"]);
    let waits = cluster.run(&["logs", "lines/0"]);
    assert!(waits.stderr.contains("does not run yet"), "{waits:?}");
    cluster.run(&["cancel", &first]).ok();
    let task = running(&cluster, &job);
    let attempt = attempt(&task);
    // All of the first half is seen while the task waits: it comes from the worker.
    until("the first half", LONG, || {
        (Follower::said(&cluster, "out") == lines(attempt, LINES)).then_some(())
    });
    let half = format!("{attempt} half\n");
    until("the first half", LONG, || (Follower::said(&cluster, "err") == half).then_some(()));
    assert_eq!((&task["task"], &task["progress"]), (&0.into(), &0.5.into()));
    assert_eq!(task["text"], format!("half of attempt {attempt}"));
    assert_eq!(task["worker"], cluster.tier("worker")[0].node.as_str());
    let table = cluster.run(&["tasks", &job, "--state", "running"]).ok();
    assert!(table.contains("50.0 %    half of attempt "), "{table}");
    let so_far = cluster.run(&["logs", &job, "--stderr"]);
    assert_eq!(so_far.stdout, half);
    assert!(so_far.stderr.contains("task 0 runs on worker"), "{so_far:?}");
    let_go(&cluster, attempt);
    follower.end();
    let whole = lines(attempt, 2 * LINES) + "end";
    let errors = format!("{half}{attempt} whole\n");
    assert!(Follower::said(&cluster, "out") == whole, "not every byte once");
    assert_eq!(Follower::said(&cluster, "err"), errors);
    // Afterwards it is the same from storage, and nothing runs.
    for arguments in [&["logs", &job][..], &["logs", "last/0", "--follow"]] {
        let said = cluster.run(arguments);
        assert!((said.exit, &said.stdout) == (0, &whole), "{arguments:?}");
        assert_eq!(said.stderr, errors);
    }
    assert_eq!(cluster.run(&["tasks", &job, "--running", "--json"]).json(), Value::Array(vec![]));
}

#[test]
fn following_goes_on_with_the_attempt_after_a_lost_one() {
    let shape = ["--masters", "1", "--balancers", "1", "--storage", "1", "--workers", "2"];
    let cluster = Cluster::start(&[&shape[..], &["--slots", "1", "--no-restart"]].concat());
    let job = cluster.submit(&["--", "/bin/sh", "-c", &script(&cluster)]);
    let follower = Follower::start(&cluster, &[&job, "--stdout"]);
    let task = running(&cluster, &job);
    let (lost, worker) = (attempt(&task), task["worker"].clone());
    until("the first half", LONG, || {
        (Follower::said(&cluster, "out") == lines(lost, LINES)).then_some(())
    });
    let workers = cluster.tier("worker");
    let of_task = workers.iter().find(|it| worker == it.node.as_str());
    kill(of_task.expect("it is one of them").pid.expect("it runs"));
    let again = until("another attempt", LONG, || {
        let tasks = cluster.run(&["tasks", &job, "--running", "--json"]).json();
        let tasks = tasks.as_array().expect("a list").clone();
        tasks.into_iter().find(|it| it["worker"] != worker)
    });
    let attempt = attempt(&again);
    assert!(attempt > lost, "{again}");
    let_go(&cluster, attempt);
    follower.end();
    let whole = lines(attempt, 2 * LINES) + "end";
    let said = Follower::said(&cluster, "out");
    assert!(said == lines(lost, LINES) + &whole, "not every byte of both attempts once");
    assert_eq!(
        Follower::said(&cluster, "err"),
        "note: task 0 is executed again: another attempt follows from its beginning\n"
    );
    assert!(cluster.run(&["logs", &job]).stdout == whole, "what counts is the last attempt");
}

#[test]
fn the_output_of_a_job_comes_in_the_order_of_its_tasks() {
    let cluster = Cluster::start(SMALL);
    let script =
        "echo out of $REMUDA_TASK; echo error of $REMUDA_TASK >&2; exit $((REMUDA_TASK % 3))";
    let job = cluster.submit(&["--array", "0-19", "--", "/bin/sh", "-c", script]);
    let followed = cluster.run(&["logs", &job, "--follow", "--prefix"]);
    assert_eq!(followed.exit, 0, "{followed:?}");
    let mut lines: Vec<&str> = followed.stdout.lines().collect();
    lines.sort_by_key(|line| line.split(':').next().and_then(|it| it.parse::<u64>().ok()));
    let wanted: Vec<String> = (0..20).map(|task| format!("{task}: out of {task}")).collect();
    assert_eq!(lines, wanted);
    assert!(followed.stderr.contains("the job is failed: 13 of 20 tasks failed"), "{followed:?}");

    let all = |what: &str| (0..20).map(|task| format!("{what} of {task}\n")).collect::<String>();
    let said = cluster.run(&["logs", &job]);
    let note = format!("note: 13 of 20 tasks failed; which: remuda tasks {job} --state failed\n");
    assert_eq!((said.exit, said.stdout, said.stderr), (0, all("out"), all("error") + &note));
    let errors = cluster.run(&["logs", &job, "--stderr"]);
    assert_eq!((errors.stdout, errors.stderr), (all("error"), note));
    let one = cluster.run(&["logs", &format!("{job}/7")]);
    assert_eq!(one.stdout, "out of 7\n");
    assert_eq!(one.stderr, "error of 7\nnote: task 7 failed with exit code 1\n");
}

#[test]
fn what_cannot_be_shown_or_told_says_why() {
    let cluster = Cluster::start(SMALL);
    let job = cluster.submit(&["--noop", "--wait"]);
    for (arguments, exit, why) in [
        (&["logs", "nothing"][..], 1, "there is no job"),
        (&["logs", "last/x"], 2, "names no task"),
        (&["logs", "last/1"], 2, "has no task 1"),
        (&["progress", "1/2"], 2, "this is not inside a task"),
        (&["progress", "half"], 2, "40%, 0.4 or 3/7"),
    ] {
        let said = cluster.run(arguments);
        assert_eq!(said.exit, exit, "{said:?}");
        assert!(said.stderr.contains(why), "{said:?}");
    }
    let said = cluster.run(&["logs", &job]);
    assert_eq!((said.exit, said.stdout, said.stderr), (0, String::new(), String::new()));
}
