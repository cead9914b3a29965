//! `remuda ring`: who may be drained and removed, what is waited for, and what `put --replicas` says.

use cluster_tests::wait::until;
use serde_json::Value;

use super::{SMALL, write};
use crate::cluster::{Cluster, Frozen, LONG, Listed, Said};

const THREE: &[&str] = &[
    "--masters",
    "1",
    "--balancers",
    "1",
    "--storage",
    "3",
    "--workers",
    "1",
    "--slots",
    "1",
    "--no-restart",
];

fn ring(cluster: &Cluster, arguments: &[&str]) -> Said {
    cluster.run(&[&["ring"], arguments].concat())
}

#[track_caller]
fn is_refused(said: &Said, exit: i32, words: &str) {
    assert_eq!(said.exit, exit, "{said:?}");
    assert!(said.stderr.contains(words) && said.stdout.is_empty(), "{said:?}");
}

fn status(cluster: &Cluster) -> Value {
    ring(cluster, &["status", "--json"]).json()
}

/// What a node is to the ring, by its UUID.
fn state(status: &Value, node: &Listed) -> String {
    let nodes = status["nodes"].as_array().expect("a list of nodes");
    let found = nodes.iter().find(|it| it["node"] == node.node.as_str());
    found.map_or_else(String::new, |it| it["state"].as_str().expect("a state").to_owned())
}

/// All nodes are members, and nothing moves.
fn until_at_rest(cluster: &Cluster, count: usize) -> Value {
    until("a ring at rest", LONG, || {
        let status = status(cluster);
        let nodes = status["nodes"].as_array().expect("a list of nodes");
        let members = nodes.iter().filter(|it| it["state"] == "member").count();
        let at_rest = status["version"] == status["oldest_version"] && members == count;
        at_rest.then_some(status)
    })
}

#[test]
fn the_last_storage_node_stays_and_strangers_are_told_apart() {
    let cluster = Cluster::start(SMALL);
    until_at_rest(&cluster, 1);
    let storage = cluster.tier("storage").remove(0);
    let worker = cluster.tier("worker").remove(0);
    for change in [&["drain"][..], &["remove"], &["drain", "--force"], &["remove", "--force"]] {
        let said = ring(&cluster, &[change, &[&*storage.node]].concat());
        assert_eq!(said.exit, 1, "{change:?}: {said:?}");
        let is_told = ["the last one", "answers"].iter().any(|it| said.stderr.contains(it));
        assert!(is_told, "{change:?}: {said:?}");
    }
    is_refused(&ring(&cluster, &["remove", "--force", &storage.node]), 1, "the last one");
    is_refused(&ring(&cluster, &["drain", &worker.address]), 2, "is no storage node");
    is_refused(&ring(&cluster, &["drain", "nobody"]), 1, "there is no node \"nobody\"");
    is_refused(&ring(&cluster, &["add", &storage.node, "--weight", "0"]), 2, "--weight <W>");
    assert_eq!(state(&status(&cluster), &storage), "member");

    let same = ring(&cluster, &["add", &storage.address]).ok();
    assert!(same.contains("nothing is to be changed"), "{same}");
    write(cluster.place(), "file", "some bytes");
    let put = cluster.run(&["put", "file", "--replicas", "3"]);
    assert!(put.stderr.contains("3 replicas are wanted, and there are nodes for 1"), "{put:?}");
    let again = cluster.run(&["put", "file"]);
    assert!(again.stderr.contains("1 of 1 blocks, 10 B of 10 B, were on storage"), "{again:?}");
    assert_eq!(put.ok(), again.ok());
    for round in ["rebalance", "scrub"] {
        let said = ring(&cluster, &[round, "--wait"]).ok();
        assert_eq!(said.lines().count(), 2, "{said}");
    }
}

#[test]
fn a_drained_node_has_handed_over_all_that_it_had() {
    let cluster = Cluster::start(THREE);
    until_at_rest(&cluster, 3);
    let place = cluster.place();
    for at in 0..20 {
        write(place, &format!("folder/{at}"), &format!("file {at}"));
    }
    cluster.run(&["put", "folder", "data", "--replicas", "2"]).ok();
    let leaving = cluster.tier("storage").remove(0);
    let said = ring(&cluster, &["drain", &leaving.node, "--wait"]).ok();
    assert!(said.contains("hands over what it has"), "{said}");
    assert_eq!(state(&status(&cluster), &leaving), "drained");
    // What the master tells of a node is a second old.
    until("an empty node", LONG, || {
        let status = status(&cluster);
        let mut nodes = status["nodes"].as_array().expect("a list of nodes").iter();
        let blocks = nodes.find(|it| it["node"] == leaving.node.as_str())?["blocks"].as_u64();
        (blocks == Some(0)).then_some(())
    });
    crate::cluster::kill(leaving.pid.expect("it runs"));
    cluster.run(&["get", "name:data", "copy"]).ok();
    for at in 0..20 {
        let copied = std::fs::read_to_string(place.join(format!("copy/{at}")));
        assert_eq!(copied.ok(), Some(format!("file {at}")));
    }
    // It is no part of the ring any more: nothing but the roster knows of it.
    cluster.run(&["nodes", "forget", &leaving.node]).ok();
    assert_eq!(state(&status(&cluster), &leaving), "");
}

#[test]
fn one_change_at_a_time_unless_it_is_forced() {
    let cluster = Cluster::start(THREE);
    until_at_rest(&cluster, 3);
    write(cluster.place(), "file", "some bytes");
    cluster.run(&["put", "file", "data", "--replicas", "3"]).ok();
    let storage = cluster.tier("storage");
    let [one, other, silent] = &storage[..] else { panic!("three storage nodes: {storage:?}") };
    let frozen = Frozen::freeze(silent.pid.expect("it runs"));
    // It cannot be done while a member that is not removed yet says nothing.
    ring(&cluster, &["drain", &one.node]).ok();
    is_refused(&ring(&cluster, &["drain", &other.node]), 1, "an earlier change is under way");
    let status = status(&cluster);
    assert!(status["oldest_version"].as_u64() < status["version"].as_u64(), "{status}");
    assert_eq!(state(&status, one), "draining");
    // Files are read meanwhile, and a change of mind is possible.
    assert_eq!(cluster.run(&["cat", "name:data"]).ok(), "some bytes");
    ring(&cluster, &["add", &one.node, "--force"]).ok();
    drop(frozen);
    let status = until_at_rest(&cluster, 3);
    assert_eq!(state(&status, one), "member");
}
