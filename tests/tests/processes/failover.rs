//! Any one process dies, hangs or vanishes with its data folder while a job runs, and stays so: the
//! job ends with every outcome right, and nothing else is started again because of it.
//!
//! What storage nodes do to readers and writers is in `failover_storage`, what a job's limits do
//! in `failover_rules`, networks that are cut in `cutoff`.

use std::path::{Path, PathBuf};

use cluster_tests::wait::until;
use proto::time::Duration;
use serde_json::Value;

use crate::cluster::{Cluster, Frozen, LONG, Listed, kill};
use crate::work::{assert_ends, ended, submit, until_it_goes_on, until_it_works};

/// How long a cluster may take until it goes on. What it should take is measured by `remuda bench
/// recover`; a busy machine must not fail a test.
const RECOVERY: Duration = Duration::from_secs(20);

/// More than a deployment of the first phase, so that each tier has one to lose.
const SHAPE: &[&str] =
    &["--workers", "3", "--slots", "2", "--no-restart", "--inputs", "materialise"];

/// Tasks of a job; a few seconds of work, so that what happens amid it does.
const TASKS: u64 = 6_000;

/// What is done to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is killed, and started again only when its job is over.
    Killed,
    /// It is killed, and its data folder taken away.
    Vanished,
    /// It is stopped, and goes on when its job is over.
    Frozen,
}

/// The process of a tier that the most depends on.
#[track_caller]
fn first_of(cluster: &Cluster, tier: &str) -> Listed {
    match tier {
        "master" | "balancer" => cluster.leader(tier),
        _ => cluster.tier(tier).into_iter().find(|it| it.pid.is_some()).expect("one that runs"),
    }
}

/// Lets the first process of a tier meet its fate amid a job. Returns which it was when the job is
/// over, with what keeps it from going on.
#[track_caller]
fn strike(cluster: &Cluster, tier: &str, fate: Fate) -> (Listed, Option<Frozen>) {
    let victim = first_of(cluster, tier);
    let job = submit(cluster, TASKS);
    until_it_works(cluster, &job);
    let pid = victim.pid.expect("it runs");
    let frozen = match fate {
        Fate::Frozen => Some(Frozen::freeze(pid)),
        Fate::Killed | Fate::Vanished => {
            kill(pid);
            None
        }
    };
    if fate == Fate::Vanished {
        let folder = cluster.folder().join(&victim.name);
        let gone = cluster.place().join(format!("gone-{}", victim.name));
        std::fs::rename(folder, gone).expect("move the folder");
    }
    let before = ended(cluster, &job);
    until_it_goes_on(cluster, &job, before, RECOVERY);
    assert_ends(cluster, &job, TASKS);
    if matches!(tier, "master" | "balancer") {
        assert_ne!(cluster.leader(tier).node, victim.node, "another one leads");
    }
    (victim, frozen)
}

/// Asserts that nothing but these died or was started again.
#[track_caller]
fn assert_only(cluster: &Cluster, before: &[Listed], victims: &[String]) {
    for it in cluster.status() {
        let same =
            before.iter().find(|before| before.name == it.name).expect("it was there before");
        if !victims.contains(&it.name) {
            assert_eq!((it.pid, it.starts), (same.pid, same.starts), "{}", it.name);
        }
    }
}

/// One fate for one process of each of these tiers, one after the other.
#[track_caller]
fn strike_each(fate: Fate, tiers: &[&str]) {
    let cluster = Cluster::start(SHAPE);
    let before = cluster.status();
    let mut victims = Vec::new();
    for tier in tiers {
        let (victim, frozen) = strike(&cluster, tier, fate);
        match fate {
            Fate::Killed => cluster.start_again(&victim.name),
            Fate::Frozen => drop(frozen),
            // One of each tier is missing in the end.
            Fate::Vanished => {}
        }
        if fate != Fate::Frozen {
            victims.push(victim.name);
        }
    }
    assert_only(&cluster, &before, &victims);
    // Whatever came back does its part, whatever did not is missed by nobody.
    let job = submit(&cluster, 300);
    assert_ends(&cluster, &job, 300);
}

const TIERS: &[&str] = &["master", "worker", "balancer", "storage"];

#[test]
fn a_killed_process_of_any_tier_is_missed_by_no_job() {
    strike_each(Fate::Killed, TIERS);
}

#[test]
fn a_process_of_any_tier_may_vanish_with_its_data_folder() {
    strike_each(Fate::Vanished, TIERS);
}

#[test]
fn a_process_of_any_tier_may_hang_and_go_on_later() {
    strike_each(Fate::Frozen, TIERS);
}

#[test]
fn a_job_waits_for_a_balancer_where_both_are_gone() {
    let cluster = Cluster::start(&["--masters", "1", "--slots", "2", "--no-restart"]);
    let job = submit(&cluster, TASKS);
    until_it_works(&cluster, &job);
    let balancers = cluster.tier("balancer");
    balancers.iter().for_each(|it| kill(it.pid.unwrap()));
    // Workers end what they hold, then nothing happens.
    let idle = |it: &Listed| {
        let tasks = cluster.run(&["tasks", &job, "--running", "--json"]).json();
        !tasks.as_array().unwrap().iter().any(|task| task["worker"] == it.node.as_str())
    };
    until("idle workers", LONG, || cluster.tier("worker").iter().all(idle).then_some(()));
    let before = ended(&cluster, &job);
    assert!(before < TASKS, "there is something left to deal");
    // Either of them takes it up again.
    cluster.start_again(&balancers[1].name);
    until_it_goes_on(&cluster, &job, before, RECOVERY);
    assert_ends(&cluster, &job, TASKS);
}

/// Lines that tasks wrote so far.
fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).unwrap_or_default().lines().count()
}

/// Submits tasks that are a shell script; `$TOLD` is a folder for what they tell.
#[track_caller]
fn submit_script(cluster: &Cluster, script: &str, flags: &[&str]) -> (String, PathBuf) {
    let told = cluster.place().join("told");
    std::fs::create_dir_all(&told).expect("make a folder");
    let variable = format!("TOLD={}", told.display());
    let program = ["--env", &variable, "--", "sh", "-euc", script];
    (cluster.submit(&[flags, &program].concat()), told)
}

#[test]
fn a_late_result_of_a_worker_that_hung_is_as_good_as_the_second_attempts() {
    let shape = ["--masters", "1", "--storage", "1", "--slots", "1", "--no-restart"];
    let cluster = Cluster::start(&shape);
    // The first attempt ends while its worker hangs; the second one would take for ever, and fail.
    let script = "if mkdir $TOLD/first; then sleep 1; touch $TOLD/over; exit 0; fi
                  touch $TOLD/second; sleep 3600; exit 9";
    let (job, told) = submit_script(&cluster, script, &[]);
    let has = |name: &'static str| until(name, LONG, || told.join(name).exists().then_some(()));
    has("first");
    let busy = |it: &Listed| {
        let tasks = cluster.run(&["tasks", &job, "--running", "--json"]).json();
        tasks
            .as_array()
            .is_some_and(|tasks| tasks.iter().any(|task| task["worker"] == it.node.as_str()))
    };
    let worker = until("the worker that has the task", LONG, || {
        cluster.tier("worker").into_iter().find(|it| busy(it))
    });
    let frozen = Frozen::freeze(worker.pid.unwrap());
    has("over");
    has("second");
    drop(frozen);
    assert_eq!(cluster.run(&["wait", &job]).exit, 0);
    // The second attempt was ended, and its worker has its slot again.
    for it in cluster.tier("worker") {
        until("an idle worker", LONG, || (!busy(&it)).then_some(()));
    }
    cluster.submit(&["--noop", "--array", "0-9", "--wait"]);
}

#[test]
fn workers_go_on_without_masters_and_deliver_when_these_are_back() {
    let cluster = Cluster::start(&["--storage", "1", "--slots", "2", "--no-restart"]);
    let script = "echo $REMUDA_TASK >> $TOLD/begun; until test -e $TOLD/go; do sleep 0.05; done
                  echo $REMUDA_TASK >> $TOLD/over";
    let (job, told) = submit_script(&cluster, script, &["--array", "0-3"]);
    until("four tasks that run", LONG, || (lines(&told.join("begun")) == 4).then_some(()));
    let masters = cluster.tier("master");
    let others = cluster.status();
    masters.iter().for_each(|it| kill(it.pid.unwrap()));
    std::fs::write(told.join("go"), "").unwrap();
    until("four tasks that ended", LONG, || (lines(&told.join("over")) == 4).then_some(()));
    let asked = cluster.run(&["status", &job]);
    assert_eq!(asked.exit, 3, "{asked:?}");
    for it in &masters {
        cluster.run(&["dev", "start", &it.name]).ok();
    }
    assert_eq!(cluster.run(&["wait", &job]).exit, 0);
    // Nothing was done twice, and nothing but the masters was started again.
    let it = cluster.job(&job);
    assert_eq!((lines(&told.join("begun")), &it["lost_attempts"]), (4, &Value::from(0)), "{it}");
    let names: Vec<String> = masters.into_iter().map(|it| it.name).collect();
    assert_only(&cluster, &others, &names);
}

#[test]
fn a_cluster_that_is_killed_as_a_whole_goes_on_with_all_that_it_acknowledged() {
    let cluster = Cluster::start(&["--slots", "2", "--no-restart"]);
    let content = vec![42; 300_000];
    std::fs::write(cluster.place().join("kept"), &content).unwrap();
    let source = cluster.run(&["put", "kept"]).ok();
    let job = submit(&cluster, TASKS);
    let mut random = node::random::generator().unwrap();
    for _ in 0..2 {
        until("the first outcomes", LONG, || (ended(&cluster, &job) > 0).then_some(()));
        let moment = Duration::from_millis(random.u64(0..400));
        eprintln!("all are killed after {moment}");
        let mut pids: Vec<u32> = cluster.status().iter().filter_map(|it| it.pid).collect();
        pids.push(cluster.supervisor().unwrap());
        std::thread::park_timeout(moment.to_std());
        let before = ended(&cluster, &job);
        pids.iter().copied().for_each(kill);
        for pid in pids {
            // What it held, the lock of the folder too, is free when it is gone.
            let stat = std::path::PathBuf::from(format!("/proc/{pid}/stat"));
            until("the end of a killed process", LONG, || {
                let stat = std::fs::read_to_string(&stat).unwrap_or_default();
                (stat.is_empty() || stat.contains(") Z ")).then_some(())
            });
        }
        // Nobody is asked between the last look and the kill.
        cluster.dev(&["--no-restart"]).ok();
        let after = ended(&cluster, &job);
        assert!(after >= before, "{after} of {before} outcomes are left");
    }
    assert_ends(&cluster, &job, TASKS);
    cluster.run(&["get", source.trim(), "copy"]).ok();
    assert!(std::fs::read(cluster.place().join("copy")).unwrap() == content);
}
