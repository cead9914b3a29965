//! Masters whose disk is full: leadership moves to one that has room, a single one refuses with a
//! clear error what would need more, and all goes on when there is room again.

use std::fs;

use client::logic::jobs::Submission;
use client::{Client, ClientError};
use cluster_tests::wait::until;
use cluster_tests::{Need, has};
use proto::description::{JobDescription, Program, Runtime};
use proto::ids::JobId;
use proto::time::Duration;

use crate::cluster::{Cluster, Frozen, LONG};
use crate::small_disk::SmallDisk;

/// Room for two files of the log, and less than another when something else takes the rest.
const DISK: &str = "80m";

/// More submissions than half a file of the log has room for.
const SUBMISSIONS: usize = 600;

/// A cluster whose masters have small disks. The disks are unmounted after it ended.
fn cluster(masters: usize) -> (Cluster, Vec<SmallDisk>) {
    let cluster = Cluster::home_in(&std::env::temp_dir());
    let number = masters.to_string();
    cluster.dev(&["--masters", &number, "--balancers", "1", "--storage", "1"]).ok();
    let names: Vec<String> = cluster.tier("master").into_iter().map(|it| it.name).collect();
    cluster.stop();
    let disks =
        names.iter().map(|name| SmallDisk::under(&cluster.folder().join(name), DISK)).collect();
    cluster.dev(&[]).ok();
    for words in ["the disk is full", "a snapshot could not be written"] {
        cluster.provokes(words);
    }
    (cluster, disks)
}

/// A job whose entry in the log is large.
fn large(job: JobId) -> Submission {
    let mut script = b"#!/bin/sh\nexit 0\n# ".to_vec();
    script.resize(28 << 10, b'x');
    let runtime = Runtime::Command { program: Program::Inline, arguments: Vec::new() };
    Submission::new(job, &JobDescription::new(runtime), 1, script).expect("not too long")
}

fn client(cluster: &Cluster, patience: Duration) -> Client {
    let addresses = cluster.tier("master").into_iter().map(|it| it.address).collect();
    let mut client = Client::connect(addresses).expect("a client");
    client.set_patience(patience);
    client
}

/// Submits until `ends`, or an error; what was acknowledged.
fn submit_until(
    client: &Client,
    seed: u64,
    mut ends: impl FnMut(usize) -> bool,
) -> (Vec<JobId>, Result<(), ClientError>) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut acknowledged = Vec::new();
    while !ends(acknowledged.len()) {
        let job = JobId(random.u128(..));
        match client.submit(large(job)) {
            Ok(_) => acknowledged.push(job),
            Err(error) => return (acknowledged, Err(error)),
        }
    }
    (acknowledged, Ok(()))
}

#[track_caller]
fn assert_done(cluster: &Cluster, jobs: &[JobId]) {
    for job in jobs {
        cluster.run(&["wait", &job.to_string()]).ok();
    }
}

#[test]
fn a_single_master_with_a_full_disk_says_so_loses_nothing_and_goes_on() {
    if !has(Need::Root) {
        return;
    }
    let (cluster, disks) = cluster(1);
    let first = cluster.submit(&["--noop", "3"]);
    cluster.run(&["wait", &first]).ok();
    let filler = disks[0].fill();
    let client = client(&cluster, Duration::from_secs(5));
    let (jobs, refused) = submit_until(&client, 1, |count| count > SUBMISSIONS);
    let refused = refused.expect_err("there is no room for so many").to_string();
    println!("{} were acknowledged, then: {refused}", jobs.len());
    assert!(refused.starts_with("the masters' disk is full: "), "{refused}");
    let said = cluster.run(&["submit", "--noop", "3"]);
    assert_eq!(said.exit, 1, "{said:?}");
    assert!(said.stderr.starts_with("error: the masters' disk is full: free space"), "{said:?}");
    // What makes room is carried out, and what is asked is answered.
    cluster.run(&["forget", &first]).ok();
    assert_ne!(cluster.run(&["status", &first]).exit, 0);
    assert!(jobs.iter().all(|job| cluster.job(&job.to_string())["tasks"] == 1));
    fs::remove_file(filler).expect("it is there");
    until("room", LONG, || {
        cluster
            .log(&cluster.leader("master").name)
            .contains("has room for the log again")
            .then_some(())
    });
    assert_done(&cluster, &jobs);
    let job = cluster.submit(&["--noop", "3"]);
    cluster.run(&["wait", &job]).ok();
}

#[test]
fn a_leader_with_a_full_disk_hands_over_and_jobs_go_on() {
    if !has(Need::Root) {
        return;
    }
    let (cluster, disks) = cluster(3);
    let full = cluster.leader("master");
    let disk =
        disks.iter().find(|disk| disk.folder().ends_with(&full.name)).expect("a disk of its own");
    let filler = disk.fill();
    let client = client(&cluster, LONG);
    let moved = || cluster.leader("master").name != full.name;
    let (mut jobs, went) = submit_until(&client, 2, |count| {
        assert!(count <= SUBMISSIONS, "leadership does not move");
        count % 20 == 19 && moved()
    });
    went.expect("all are accepted");
    // The full one fills up to its last byte and hears no more; the others go on.
    let (more, went) = submit_until(&client, 3, |count| count >= SUBMISSIONS);
    went.expect("all are accepted");
    jobs.extend(more);
    assert!(moved());
    fs::remove_file(filler).expect("it is there");
    until("room", LONG, || {
        cluster.log(&full.name).contains("has room for the log again").then_some(())
    });
    assert_done(&cluster, &jobs);
    // It counts again: without it there is no majority when another one is gone.
    let leader = cluster.leader("master");
    let _frozen = Frozen::freeze(leader.pid.expect("it runs"));
    let job = cluster.submit(&["--noop", "3"]);
    cluster.run(&["wait", &job]).ok();
}
