//! Local clusters come up, are found, stand side by side, and go without a trace.

use cluster_tests::wait::until;

use crate::cluster::{Cluster, LONG, kill, runs};

const SMALL: &[&str] =
    &["--masters", "1", "--balancers", "1", "--storage", "1", "--workers", "1", "--slots", "1"];

#[test]
fn a_cluster_lists_its_processes_and_ends_with_all_of_them() {
    let cluster = Cluster::start(&[]);
    let listed = cluster.status();
    let count = |tier: &str| listed.iter().filter(|it| it.tier == tier).count();
    assert_eq!(["master", "storage", "balancer", "worker"].map(count), [3, 3, 2, 2], "{listed:#?}");
    for tier in ["master", "balancer"] {
        let leaders = listed.iter().filter(|it| it.tier == tier && it.leads).count();
        assert_eq!(leaders, 1, "{tier}: {listed:#?}");
    }
    for it in &listed {
        assert!(it.pid.is_some_and(runs) && it.starts == 1, "{it:?}");
        assert!(it.address.starts_with("tcp://127.0.0.1:"), "{it:?}");
    }
    // The masters know the same nodes under the same addresses.
    let nodes = cluster.run(&["nodes", "--json"]).json();
    for it in &listed {
        let known = nodes.as_array().unwrap().iter().find(|node| node["node"] == it.node.as_str());
        assert_eq!(known.unwrap()["address"], it.address.as_str());
    }
    let supervisor = cluster.supervisor().unwrap();
    cluster.stop();
    assert!(!runs(supervisor));
    for it in &listed {
        assert!(!it.pid.is_some_and(runs), "{it:?}");
    }
    let registry = cluster.place().join("run/remuda");
    assert_eq!(std::fs::read_dir(registry).unwrap().count(), 0);
    let stopped = cluster.run(&["jobs"]);
    assert_eq!(stopped.exit, 3, "{stopped:?}");
    assert!(stopped.stderr.contains("\n\nhint: start it: remuda dev"), "{stopped:?}");
}

#[test]
fn the_processes_end_with_their_supervisor_and_the_folder_can_be_used_again() {
    let cluster = Cluster::start(SMALL);
    let job = cluster.submit(&["--noop", "--array", "0-9", "--wait"]);
    let pids: Vec<u32> = cluster.status().iter().filter_map(|it| it.pid).collect();
    kill(cluster.supervisor().unwrap());
    until("the end of all processes", LONG, || pids.iter().all(|pid| !runs(*pid)).then_some(()));
    cluster.dev(&[]).ok();
    assert_eq!(cluster.job(&job)["state"], "done");
}

#[test]
fn a_process_that_dies_is_started_again_or_left_dead_as_asked() {
    let cluster = Cluster::start(SMALL);
    let before = &cluster.tier("storage")[0];
    kill(before.pid.unwrap());
    let after = until("a second start", LONG, || {
        cluster.tier("storage").into_iter().find(|it| it.starts == 2 && it.pid.is_some())
    });
    assert_eq!((&after.node, &after.address), (&before.node, &before.address));
    cluster.stop();
    cluster.dev(&["--no-restart"]).ok();
    kill(cluster.tier("storage")[0].pid.unwrap());
    let dead = until("a dead process", LONG, || {
        cluster.tier("storage").into_iter().find(|it| it.pid.is_none())
    });
    assert_eq!(dead.starts, 1);
}

#[test]
fn a_folder_holds_one_cluster_that_runs_once() {
    let cluster = Cluster::start(SMALL);
    let second = cluster.dev(&[]);
    assert_eq!(second.exit, 2, "{second:?}");
    assert!(second.stderr.contains("runs already, by process"), "{second:?}");
    let other = cluster.dev(&["--masters", "3"]);
    assert_eq!(other.exit, 2, "{other:?}");
    cluster.stop();
    let other = cluster.dev(&["--masters", "3"]);
    assert_eq!(other.exit, 2, "{other:?}");
    assert!(other.stderr.contains("made with 1 x master"), "{other:?}");
}

#[test]
fn a_data_folder_and_a_port_have_one_daemon() {
    let cluster = Cluster::start(SMALL);
    let storage = &cluster.tier("storage")[0];
    let running = cluster.folder().join("storage-1/storage.toml");
    let text = std::fs::read_to_string(&running).unwrap();
    let second = cluster.run(&["serve", "storage", "--config", running.to_str().unwrap()]);
    assert_eq!(second.exit, 1, "{second:?}");
    let holder = format!("is in use by process {}", storage.pid.unwrap());
    assert!(second.stderr.contains(&holder), "{second:?}");
    let other = cluster.place().join("other.toml");
    std::fs::write(&other, text.replace("storage-1", "another")).unwrap();
    let second = cluster.run(&["serve", "storage", "--config", other.to_str().unwrap()]);
    assert_eq!(second.exit, 1, "{second:?}");
    let port = format!("bind {}: Address already in use", storage.address);
    assert!(second.stderr.contains(&port), "{second:?}");
    // The first ones did not notice.
    cluster.submit(&["--noop", "--wait"]);
    assert_eq!(cluster.tier("storage")[0].starts, 1);
}

#[test]
fn two_clusters_stand_side_by_side_and_none_is_guessed() {
    let cluster = Cluster::home();
    let start =
        |folder: &str| cluster.run(&[&["dev", "--detach", "--dir", folder], SMALL].concat()).ok();
    let addresses = [start("one"), start("two")];
    assert_ne!(addresses[0], addresses[1]);
    let ended = Ended { cluster: &cluster, folders: ["one", "two"] };
    let guess = cluster.run(&["jobs"]);
    assert_eq!(guess.exit, 2, "{guess:?}");
    for folder in ["one", "two"] {
        assert!(guess.stderr.contains(&format!("/{folder}")), "{guess:?}");
    }
    let submit = |place: &str, name: &str| {
        let said =
            cluster.run(&["submit", "--noop", "--wait", "--name", name, "--cluster", place]).ok();
        said.trim().to_owned()
    };
    let jobs = [submit("one", "a"), submit(addresses[1].trim(), "b")];
    for (folder, job) in ["one", "two"].iter().zip(&jobs) {
        let listed = cluster.run(&["jobs", "--json", "--cluster", folder]).json();
        let listed = listed.as_array().unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0]["job"], job.as_str());
    }
    // With one of them gone, the other is the only one that can be meant.
    cluster.run(&["dev", "stop", "--dir", "one"]).ok();
    let listed = cluster.run(&["jobs", "--json"]).json();
    assert_eq!(listed[0]["job"], jobs[1].as_str());
    drop(ended);
}

/// Ends both clusters however the test goes.
struct Ended<'a> {
    cluster: &'a Cluster,
    folders: [&'a str; 2],
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        for folder in self.folders {
            let _ = self.cluster.command(&["dev", "stop", "--dir", folder]).output();
        }
    }
}
