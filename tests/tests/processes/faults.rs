//! Processes are killed while a cluster works; no accepted job and no file is lost.

use cluster_tests::wait::until;

use crate::cluster::{Cluster, LONG, kill};
use crate::work::{assert_ends, submit, until_it_works};

#[test]
fn a_killed_worker_costs_attempts_and_nothing_else() {
    let shape = ["--masters", "1", "--workers", "2", "--slots", "2", "--no-restart"];
    let cluster = Cluster::start(&shape);
    let job = submit(&cluster, 3_000);
    until_it_works(&cluster, &job);
    kill(cluster.tier("worker")[0].pid.unwrap());
    assert_ends(&cluster, &job, 3_000);
}

#[test]
fn a_dead_leader_stops_nothing() {
    let cluster = Cluster::start(&["--no-restart"]);
    let job = submit(&cluster, 3_000);
    until_it_works(&cluster, &job);
    let before = cluster.leader("master");
    kill(before.pid.unwrap());
    let after = until("another leader", LONG, || {
        cluster.tier("master").into_iter().find(|it| it.leads && it.node != before.node)
    });
    assert_ne!(after.node, before.node);
    assert_ends(&cluster, &job, 3_000);
    assert!(cluster.tier("master").iter().any(|it| it.pid.is_none()), "it stays dead");
}

#[test]
fn a_job_of_a_million_tasks_survives_a_restart_of_all_masters() {
    let cluster = Cluster::start(&["--workers", "0"]);
    let job = cluster.submit(&["--noop", "3", "--array", "0-999999", "--name", "kept"]);
    for master in cluster.tier("master") {
        kill(master.pid.unwrap());
    }
    until("all masters again", LONG, || {
        let masters = cluster.tier("master");
        masters.iter().all(|it| it.starts == 2 && it.pid.is_some()).then_some(())
    });
    let status = cluster.job("kept");
    assert_eq!((&status["job"], &status["tasks"]), (&job.as_str().into(), &1_000_000.into()));
    assert_eq!(status["state"], "queued");
    // The whole cluster goes down and comes back with workers.
    cluster.stop();
    cluster.dev(&["--workers", "2"]).ok();
    assert_eq!(cluster.run(&["wait", &job]).exit, 0);
    let ended = cluster.job(&job);
    assert_eq!((&ended["done"], &ended["failed"]), (&1_000_000.into(), &0.into()));
}

#[test]
fn a_file_outlives_a_storage_node() {
    let cluster = Cluster::start(&["--masters", "1", "--workers", "0", "--no-restart"]);
    let content: Vec<u8> = (0..13_000_000u32).map(|it| (it % 253) as u8).collect();
    std::fs::write(cluster.place().join("before"), &content).unwrap();
    let source = cluster.run(&["put", "before"]).ok();
    kill(cluster.tier("storage")[1].pid.unwrap());
    cluster.run(&["get", source.trim(), "after"]).ok();
    assert!(std::fs::read(cluster.place().join("after")).unwrap() == content);
    // And with one node dead there are two left for what comes new.
    std::fs::write(cluster.place().join("new"), &content[1..]).unwrap();
    let source = cluster.run(&["put", "new"]).ok();
    let printed = cluster.command(&["cat", source.trim()]).output().unwrap();
    assert!(printed.stdout == content[1..]);
}

#[test]
fn a_balancer_that_was_killed_goes_on_with_what_is_unfinished() {
    let shape = ["--masters", "1", "--balancers", "1", "--storage", "1", "--slots", "2"];
    let cluster = Cluster::start(&shape);
    let job = submit(&cluster, 3_000);
    until_it_works(&cluster, &job);
    kill(cluster.tier("balancer")[0].pid.unwrap());
    assert_ends(&cluster, &job, 3_000);
    assert_eq!(cluster.tier("balancer")[0].starts, 2);
}
