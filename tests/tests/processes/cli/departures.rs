//! `remuda nodes forget`: who is refused, and that a node which left for good is missed by nobody
//! until it comes back.

use std::collections::BTreeSet;

use cluster_tests::wait::until;
use serde_json::Value;

use super::documented;
use crate::cluster::{Cluster, LONG, Listed, Said, kill};

const SHAPE: &[&str] = &[
    "--masters",
    "1",
    "--balancers",
    "2",
    "--storage",
    "1",
    "--workers",
    "2",
    "--slots",
    "1",
    "--no-restart",
];

/// Asks how the cluster is until that is so.
#[track_caller]
fn until_health(cluster: &Cluster, exit: i32, words: &str) {
    until(&format!("health with {words:?}"), LONG, || {
        let said = cluster.run(&["health"]);
        let line = said.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        (said.exit == exit && line.contains(words)).then_some(())
    });
}

fn forget(cluster: &Cluster, node: &Listed) -> Said {
    cluster.run(&["nodes", "forget", &node.node])
}

#[track_caller]
fn is_listed(cluster: &Cluster, node: &Listed) -> bool {
    let nodes = cluster.run(&["nodes", "--json"]).json();
    nodes.as_array().expect("a list of nodes").iter().any(|it| it["node"] == node.node.as_str())
}

/// The workers that execute tasks of a job.
#[track_caller]
fn busy_workers(cluster: &Cluster, job: &str) -> BTreeSet<String> {
    let tasks = cluster.run(&["tasks", job, "--running", "--json"]).json();
    let worker = |it: &Value| it["worker"].as_str().expect("a node").to_owned();
    tasks.as_array().expect("a list of tasks").iter().map(worker).collect()
}

#[test]
fn a_worker_that_left_for_good_is_forgotten_and_one_that_comes_back_works() {
    let cluster = Cluster::start(SHAPE);
    until_health(&cluster, 0, "worker ok 2 of 2");
    let worker = cluster.tier("worker").remove(0);
    let alive = forget(&cluster, &worker);
    assert_eq!(alive.exit, 1, "{alive:?}");
    assert!(alive.stderr.contains(" answers: it has not left"), "{alive:?}");
    assert!(is_listed(&cluster, &worker));

    kill(worker.pid.expect("it runs"));
    until_health(&cluster, 1, "worker degraded 1 of 2");
    let forgotten = cluster.run(&["nodes", "forget", &worker.address, "--json"]).ok();
    let documented = documented::read();
    let section = documented.get("remuda nodes forget").expect("it is documented");
    assert_eq!(section.differences(&forgotten), [""; 0]);
    assert!(forgotten.contains(&worker.node), "{forgotten}");
    assert!(!is_listed(&cluster, &worker));
    until_health(&cluster, 0, "worker ok 1 of 1");
    let unknown = forget(&cluster, &worker);
    assert_eq!(unknown.exit, 1, "{unknown:?}");
    assert!(unknown.stderr.contains("there is no node"), "{unknown:?}");
    cluster.submit(&["--wait", "--", "true"]);

    cluster.start_again(&worker.name);
    until_health(&cluster, 0, "worker ok 2 of 2");
    let job = cluster.submit(&["--array", "0-1", "--", "sleep", "600"]);
    let both: BTreeSet<String> = cluster.tier("worker").into_iter().map(|it| it.node).collect();
    assert!(both.contains(&worker.node), "{both:?}");
    until("tasks on both workers", LONG, || (busy_workers(&cluster, &job) == both).then_some(()));
    cluster.run(&["cancel", &job]).ok();
}

#[test]
fn a_worker_whose_folder_is_lost_is_not_taken_for_the_one_that_has_its_address() {
    // A mount would stay behind in the folder.
    let cluster = Cluster::start(&[SHAPE, &["--inputs", "materialise"]].concat());
    until_health(&cluster, 0, "worker ok 2 of 2");
    let lost = cluster.tier("worker").remove(0);
    kill(lost.pid.expect("it runs"));
    until_health(&cluster, 1, "worker degraded 1 of 2");
    let folder = cluster.folder().join(&lost.name);
    std::fs::rename(&folder, cluster.place().join("gone")).expect("move the folder");
    std::fs::create_dir(folder).expect("make an empty one");
    cluster.start_again(&lost.name);
    until_health(&cluster, 1, "worker degraded 2 of 3");
    let nodes = cluster.run(&["nodes", "--json"]).json();
    let of_address = |it: &&Value| it["address"] == lost.address.as_str();
    let found = nodes.as_array().expect("a list of nodes").iter().filter(of_address);
    let mut answers: Vec<(bool, bool)> =
        found.map(|it| (it["node"] == lost.node.as_str(), it["answers"] == true)).collect();
    answers.sort_unstable();
    assert_eq!(answers, [(false, true), (true, false)]);
    let ambiguous = cluster.run(&["nodes", "forget", &lost.address]);
    assert_eq!(ambiguous.exit, 2, "{ambiguous:?}");
    forget(&cluster, &lost).ok();
    until_health(&cluster, 0, "worker ok 2 of 2");
}

#[test]
fn a_balancer_is_forgotten_without_its_seat_and_a_storage_node_stays() {
    let cluster = Cluster::start(SHAPE);
    until_health(&cluster, 0, "balancer ok 2 of 2");
    cluster.leader("balancer");
    let auxiliary = cluster.tier("balancer").into_iter().find(|it| !it.leads).expect("one");
    kill(auxiliary.pid.expect("it runs"));
    until_health(&cluster, 1, "balancer degraded 1 of 2");
    let said = until("a seat that is free", LONG, || {
        let said = forget(&cluster, &auxiliary);
        let is_seated = said.exit == 1 && said.stderr.contains(" has a seat in group 1");
        assert!(said.exit == 0 || is_seated, "{said:?}");
        (said.exit == 0).then_some(said)
    });
    assert!(said.stdout.ends_with(" is forgotten\n"), "{said:?}");
    until_health(&cluster, 0, "balancer ok 1 of 1");
    cluster.submit(&["--wait", "--", "true"]);
    cluster.start_again(&auxiliary.name);
    until_health(&cluster, 0, "with an auxiliary");

    let storage = cluster.tier("storage").remove(0);
    kill(storage.pid.expect("it runs"));
    let refused = forget(&cluster, &storage);
    assert_eq!(refused.exit, 1, "{refused:?}");
    assert!(refused.stderr.contains("would be lost"), "{refused:?}");
    assert!(is_listed(&cluster, &storage));
}
