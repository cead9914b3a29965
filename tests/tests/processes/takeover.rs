//! Balancers of a pair take over from each other while a job runs.

use cluster_tests::wait::until;
use serde_json::Value;

use crate::cluster::{Cluster, Frozen, LONG, Listed, kill};
use crate::work::{assert_ends, ended, submit, until_it_goes_on, until_it_works};

const SHAPE: &[&str] =
    &["--masters", "1", "--balancers", "2", "--workers", "2", "--slots", "2", "--no-restart"];

/// The number behind `epoch` in a line of a balancer's log.
fn epoch_in(line: &str) -> Option<u64> {
    let (_, behind) = line.split_once("deals in group 1 under epoch ")?;
    behind.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The epochs under which a balancer dealt, in the order of its log.
fn epochs(cluster: &Cluster, name: &str) -> Vec<u64> {
    let log = cluster.log(name);
    log.lines().filter(|line| !line.contains("does not deal")).filter_map(epoch_in).collect()
}

/// The primary and the other one.
fn pair(cluster: &Cluster) -> (Listed, Listed) {
    let primary = cluster.leader("balancer");
    let balancers = cluster.tier("balancer");
    let other = balancers.into_iter().find(|it| it.name != primary.name);
    (primary, other.expect("a second balancer"))
}

/// Waits until a primary said that its auxiliary knows how far it may have dealt.
#[track_caller]
fn until_in_step(cluster: &Cluster, primary: &str) {
    until("an auxiliary in step", LONG, || {
        cluster.log(primary).contains("the auxiliary is in step").then_some(())
    });
}

#[test]
fn a_job_goes_on_under_a_higher_epoch_when_the_primary_is_killed_and_stays_dead() {
    let cluster = Cluster::start(SHAPE);
    let (primary, other) = pair(&cluster);
    until_in_step(&cluster, &primary.name);
    let job = submit(&cluster, 3_000);
    until_it_works(&cluster, &job);
    let before = epochs(&cluster, &primary.name);
    kill(primary.pid.expect("it runs"));
    assert_ends(&cluster, &job, 3_000);
    let after = epochs(&cluster, &other.name);
    assert!(after.last() > before.last(), "{before:?}, {after:?}");
    assert_eq!(cluster.leader("balancer").name, other.name);
    // The dead one comes back as the auxiliary, and takes over when the other one dies.
    cluster.start_again(&primary.name);
    until_in_step(&cluster, &other.name);
    let job = submit(&cluster, 3_000);
    until_it_works(&cluster, &job);
    kill(other.pid.expect("it runs"));
    assert_ends(&cluster, &job, 3_000);
    assert!(epochs(&cluster, &primary.name).last() > after.last());
}

#[test]
fn a_primary_that_was_frozen_follows_the_one_that_took_over() {
    let cluster = Cluster::start(SHAPE);
    let (primary, other) = pair(&cluster);
    until_in_step(&cluster, &primary.name);
    let job = submit(&cluster, 3_000);
    until_it_works(&cluster, &job);
    let frozen = Frozen::freeze(primary.pid.expect("it runs"));
    let before = ended(&cluster, &job);
    until_it_goes_on(&cluster, &job, before + 100, LONG);
    drop(frozen);
    assert_ends(&cluster, &job, 3_000);
    assert_eq!(cluster.leader("balancer").name, other.name);
    until_in_step(&cluster, &other.name);
    let of_thawed = epochs(&cluster, &primary.name);
    let of_other = epochs(&cluster, &other.name);
    assert!(of_other.last() > of_thawed.last(), "{of_thawed:?}, {of_other:?}");
    let nodes: Value = cluster.run(&["nodes", "--json"]).json();
    assert!(nodes.to_string().contains(&primary.node), "it is still one of the nodes");
}
