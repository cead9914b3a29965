//! What users do to jobs after their submission: hold, release, priority, retry, forget.

use cluster_tests::wait::until;
use serde_json::Value;

use crate::cluster::{Cluster, LONG, kill};

/// One slot: what runs first is what was dealt first.
const NARROW: &[&str] =
    &["--masters", "1", "--balancers", "1", "--storage", "1", "--workers", "1", "--slots", "1"];

/// Waits for the end of a job; its exit code.
#[track_caller]
fn wait(cluster: &Cluster, job: &str) -> i32 {
    cluster.run(&["wait", job]).exit
}

/// What a task of a job printed.
#[track_caller]
fn printed(cluster: &Cluster, job: &str, task: u64) -> String {
    cluster.run(&["cat", &format!("job:{job}/{task}/stdout")]).ok()
}

#[test]
fn a_job_on_hold_is_passed_over_until_it_is_released() {
    let cluster = Cluster::start(NARROW);
    let held = cluster.submit(&["--array", "0-299", "--priority", "5", "--", "sleep", "0.02"]);
    until("it runs", LONG, || (cluster.job(&held)["done"].as_u64() > Some(0)).then_some(()));
    let shown = cluster.run(&["hold", &held, "--json"]).json();
    assert_eq!((&shown["held"], &shown["priority"]), (&Value::Bool(true), &Value::from(5)));
    assert!(cluster.run(&["status", &held]).ok().contains("state    held"));
    until("nothing of it is dealt", LONG, || (cluster.job(&held)["running"] == 0).then_some(()));
    // What comes later and has a lower priority is done meanwhile.
    let done = cluster.job(&held)["done"].clone();
    assert_eq!(wait(&cluster, &cluster.submit(&["--array", "0-9", "--", "true"])), 0);
    let now = cluster.job(&held);
    assert_eq!((&now["done"], &now["held"]), (&done, &Value::Bool(true)));
    cluster.run(&["release", &held]).ok();
    assert_eq!(wait(&cluster, &held), 0);
    assert_eq!(cluster.job(&held)["held"], false);
    let said = cluster.run(&["hold", &held]);
    assert!(said.exit == 2 && said.stderr.contains("none of its tasks is left"), "{said:?}");

    // One that begins so, and is cancelled so.
    let held = cluster.submit(&["--hold", "--", "true"]);
    assert_eq!(wait(&cluster, &cluster.submit(&["--", "true"])), 0);
    let now = cluster.job(&held);
    assert_eq!((&now["state"], &now["held"]), (&Value::from("queued"), &Value::Bool(true)));
    assert_eq!(cluster.run(&["cancel", &held, "--json"]).json()["state"], "cancelled");
}

#[test]
fn jobs_of_a_higher_priority_are_dealt_first() {
    let cluster = Cluster::start(NARROW);
    let place = cluster.place();
    let blocker = "until test -e go; do sleep 0.01; done";
    let blocker = format!("cd {}; touch begun; {blocker}", place.display());
    cluster.submit(&["--", "sh", "-c", &blocker]);
    until("the slot is taken", LONG, || place.join("begun").exists().then_some(()));
    let job = |name: &str, priority: &str| {
        let say = format!("echo {name} >> {}/order", place.display());
        let array = ["--array", "0-3", "--priority", priority, "--", "sh", "-c", &say];
        cluster.submit(&array)
    };
    let (low, high) = (job("low", "-1"), job("high", "3"));
    let raised = job("raised", "0");
    let shown = cluster.run(&["priority", &raised, "7", "--json"]).json();
    assert_eq!(shown["priority"], 7);
    std::fs::write(place.join("go"), "").unwrap();
    for job in [&low, &high, &raised] {
        assert_eq!(wait(&cluster, job), 0);
    }
    let order = std::fs::read_to_string(place.join("order")).unwrap();
    // One task of each may have waited at the worker since before.
    let places = |name| order.lines().enumerate().filter(move |(_, line)| *line == name);
    let last = |name| places(name).last().unwrap().0;
    let second = |name| places(name).nth(1).unwrap().0;
    assert!(last("raised") < second("high") && last("high") < second("low"), "{order}");
}

/// When each task of a job began, in microseconds since 1970; the earliest first.
#[track_caller]
fn beginnings(cluster: &Cluster, job: &str, task_count: usize) -> Vec<u64> {
    // What a task used may follow its outcome.
    until("the accounting of all tasks", LONG, || {
        let table = cluster.run(&["accounting", job, "--csv"]).ok();
        let mut lines = table.lines();
        let column = lines.next()?.split(',').position(|name| name == "start_unix_us")?;
        let begun = lines.map(|line| line.split(',').nth(column)?.parse().ok());
        let mut begun = begun.collect::<Option<Vec<u64>>>()?;
        begun.sort_unstable();
        (begun.len() == task_count).then_some(begun)
    })
}

#[test]
fn a_priority_outlives_the_leader_that_took_it() {
    let cluster = Cluster::start(&["--workers", "1", "--slots", "2", "--no-restart"]);
    let of = |count: u32| format!("0-{}", count - 1);
    let job = |count| {
        let array = of(count);
        let flags = ["--noop", "--noop-shortest", "50000", "--noop-longest", "50000", "--array"];
        cluster.submit(&[&flags[..], &[&array]].concat())
    };
    let low = job(400);
    let done = || cluster.job(&low)["done"].as_u64().unwrap_or_default();
    until("the first outcomes", LONG, || (done() > 0).then_some(()));
    let high = job(100);
    cluster.run(&["priority", &high, "5"]).ok();
    let leader = cluster.leader("master");
    let before = done();
    kill(leader.pid.expect("it runs"));
    for job in [&high, &low] {
        assert_eq!(wait(&cluster, job), 0);
    }
    let [low, high] =
        [(&low, 400), (&high, 100)].map(|(job, count)| beginnings(&cluster, job, count));
    let last = high.last().expect("it has tasks");
    let earlier = low.iter().filter(|begun| *begun < last).count() as u64;
    // What ran meanwhile, and what was dealt before anybody knew of the priority.
    assert!(earlier < before + 150, "{earlier} of 400 began before, of which {before} were over");
    assert_ne!(cluster.leader("master").node, leader.node);
    assert!(cluster.tier("master").iter().any(|it| it.pid.is_none()), "it stays dead");
}

#[test]
fn failed_tasks_are_tried_again_with_the_numbers_and_lines_that_they_had() {
    let cluster = Cluster::start(&[&NARROW[..8], &["--slots", "2"]].concat());
    let place = cluster.place().display();
    // A number or line is good once there is a file of its name.
    let script =
        format!("echo {{index}} $REMUDA_INDEX $REMUDA_TASK; test -e {place}/good-{{index}}");
    for good in ["10", "14", "16"] {
        std::fs::write(cluster.place().join(format!("good-{good}")), "").unwrap();
    }
    let first =
        cluster.submit(&["--name", "some", "--array", "10-18:2", "--", "sh", "-c", &script]);
    assert_eq!(wait(&cluster, &first), 1);
    let failed = cluster.run(&["tasks", &first, "--failed", "--json"]).json();
    let failed: Vec<_> = failed.as_array().unwrap().iter().map(|it| &it["first_task"]).collect();
    assert_eq!(failed, [1, 4]);
    std::fs::write(cluster.place().join("good-12"), "").unwrap();
    let said = cluster.run(&["retry", &first, "--failed", "--json"]).json();
    assert_eq!((&said["tasks"], &said["retry_of"]), (&Value::from(2), &Value::from(&*first)));
    let second = said["job"].as_str().unwrap().to_owned();
    assert_eq!(wait(&cluster, &second), 1);
    assert_eq!(printed(&cluster, &second, 0), "12 12 0\n");
    assert_eq!(printed(&cluster, &second, 1), "18 18 1\n");
    // What failed again is tried a third time: it is still what it was in the first job.
    std::fs::write(cluster.place().join("good-18"), "").unwrap();
    let third = cluster.run(&["retry", &second, "--failed", "--wait"]).ok().trim().to_owned();
    assert_eq!(printed(&cluster, &third, 0), "18 18 0\n");
    let shown = cluster.job(&third);
    assert_eq!((&shown["retry_of"], &shown["name"]), (&Value::from(&*first), &Value::from("some")));
    let text = cluster.run(&["status", &third]).ok();
    assert!(text.contains(&format!("tries again 1 task of {first}")), "{text}");
    assert!(shown["owner"].as_str().is_some_and(|it| it.contains('@')), "{shown}");
    let said = cluster.run(&["retry", &third, "--failed"]);
    assert!(said.exit == 2 && said.stderr.contains("has no failed tasks"), "{said:?}");
    assert_eq!(cluster.run(&["retry", &third]).exit, 2, "which ones must be said");

    // Lines, with so much environment that the description is a file.
    std::fs::write(cluster.place().join("lines"), "a a\nb b\nc c\nd d\n").unwrap();
    let script = "echo \"$REMUDA_LINE, ${#LONG}\"
                  case \"{line}\" in b*|d*) test -e $PLACE/mended;; esac";
    let place = format!("PLACE={place}");
    let long = format!("LONG={}", "x".repeat(6_000));
    let each = ["--each-line", "lines", "--env", &long, "--env", &place, "--", "sh", "-c", script];
    let first = cluster.submit(&each);
    assert_eq!(wait(&cluster, &first), 1);
    let second = cluster.run(&["retry", &first, "--failed"]).ok().trim().to_owned();
    assert_eq!(wait(&cluster, &second), 1);
    std::fs::write(cluster.place().join("mended"), "").unwrap();
    let third = cluster.run(&["retry", &second, "--failed", "--wait"]).ok().trim().to_owned();
    assert_eq!(printed(&cluster, &third, 0), "b b, 6000\n");
    assert_eq!(printed(&cluster, &third, 1), "d d, 6000\n");
    assert_eq!(cluster.job(&third)["retry_of"], *first);
}

#[test]
fn a_forgotten_job_is_gone_and_does_not_run_a_second_time() {
    let cluster = Cluster::start(NARROW);
    let told = cluster.place().join("told");
    let say = format!("echo once >> {}", told.display());
    let job = cluster.submit(&["--", "sh", "-c", "until test -e go; do sleep 0.01; done"]);
    let said = cluster.run(&["forget", &job]);
    assert!(said.exit == 2 && said.stderr.contains("cancel it first"), "{said:?}");
    cluster.run(&["cancel", &job]).ok();
    assert_eq!(cluster.run(&["forget", &job, "--json"]).json()["state"], "cancelled");

    let uuid = "0b5ec0de-0000-8000-8000-000000000001";
    let submit = ["submit", "--job", uuid, "--", "sh", "-c", &say];
    cluster.run(&submit).ok();
    assert_eq!(wait(&cluster, uuid), 0);
    cluster.run(&submit).ok();
    cluster.run(&["forget", uuid]).ok();
    for command in [
        &submit[..],
        &["status", uuid],
        &["tasks", uuid],
        &["wait", uuid],
        &["cancel", uuid],
        &["forget", uuid],
        &["retry", uuid, "--failed"],
        &["get", &format!("job:{uuid}"), "there"],
    ] {
        let said = cluster.run(command);
        assert!(said.exit == 1 && said.stderr.contains("was forgotten"), "{command:?}: {said:?}");
    }
    assert_eq!(cluster.run(&["jobs", "--json"]).json(), Value::Array(Vec::new()));
    assert_eq!(std::fs::read_to_string(&told).unwrap(), "once\n");
}

#[test]
fn attempts_are_counted_and_shown() {
    let cluster = Cluster::start(NARROW);
    // The odd tasks need a third attempt.
    let script = "n=$(cat $PLACE/$REMUDA_TASK 2>/dev/null || echo 0); n=$((n + 1))
                  echo $n > $PLACE/$REMUDA_TASK
                  test $((REMUDA_TASK % 2)) = 0 || test $n = 3";
    let place = format!("PLACE={}", cluster.place().display());
    let job = ["--array", "0-3", "--env", &place, "--retries", "2", "--", "sh", "-c", script];
    let job = cluster.submit(&job);
    assert_eq!(wait(&cluster, &job), 0);
    let runs = cluster.run(&["tasks", &job, "--json"]).json();
    let runs: Vec<_> = runs.as_array().unwrap().iter().map(|it| &it["earlier_attempts"]).collect();
    assert_eq!(runs, [0, 2, 0, 2]);
    let table = cluster.run(&["tasks", &job]).ok();
    assert!(
        table.contains("ATTEMPTS") && table.contains("1      1      done   0          3"),
        "{table}"
    );
}
