//! Several balancer groups: a job is shared by them, and one of them is lost for good.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::process::{Child, Stdio};

use cluster_tests::wait::until;

use crate::cluster::{Cluster, Frozen, LONG, kill};
use crate::work::{assert_ends, submit, until_it_works};

const PAIRS: &[&str] = &[
    "--masters",
    "1",
    "--balancers",
    "4",
    "--storage",
    "1",
    "--workers",
    "4",
    "--slots",
    "2",
    "--no-restart",
];

/// The nodes of a tier by their groups.
fn groups(cluster: &Cluster, tier: &str) -> BTreeMap<u64, BTreeSet<String>> {
    let nodes = cluster.run(&["nodes", "--json"]).json();
    let mut groups: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    for it in nodes.as_array().expect("a list of nodes").iter().filter(|it| it["tier"] == tier) {
        let node = it["node"].as_str().expect("a node").to_owned();
        groups.entry(it["group"].as_u64().expect("a group")).or_default().insert(node);
    }
    groups
}

/// Waits until each of the groups has so many balancers, and so many workers.
#[track_caller]
pub(crate) fn until_shared(cluster: &Cluster, expected: &[(u64, usize, usize)]) {
    let counts = |tier: &str| -> Vec<(u64, usize)> {
        groups(cluster, tier).into_iter().map(|(group, nodes)| (group, nodes.len())).collect()
    };
    let wanted = |of: fn(&(u64, usize, usize)) -> (u64, usize)| -> Vec<(u64, usize)> {
        expected.iter().map(of).collect()
    };
    let (balancers, workers) = (wanted(|it| (it.0, it.1)), wanted(|it| (it.0, it.2)));
    until(&format!("groups, balancers and workers {expected:?}"), LONG, || {
        (counts("balancer") == balancers && counts("worker") == workers).then_some(())
    });
}

/// The processes of a group's balancers.
#[track_caller]
fn balancers_of(cluster: &Cluster, group: u64) -> Vec<u32> {
    let members = groups(cluster, "balancer").remove(&group).expect("the group");
    let listed = cluster.tier("balancer").into_iter();
    listed.filter(|it| members.contains(&it.node)).map(|it| it.pid.expect("it runs")).collect()
}

/// Names of the workers of a group.
#[track_caller]
fn workers_of(cluster: &Cluster, group: u64) -> BTreeSet<String> {
    let members = groups(cluster, "worker").remove(&group).expect("the group");
    let listed = cluster.tier("worker").into_iter();
    listed.filter(|it| members.contains(&it.node)).map(|it| it.name).collect()
}

/// A job whose tasks tell where they run, once for each attempt.
struct Telling<'a> {
    cluster: &'a Cluster,
    job: String,
}

impl<'a> Telling<'a> {
    /// Submits it; each task takes so many seconds.
    #[track_caller]
    fn submit(cluster: &'a Cluster, task_count: u64, seconds: &str) -> Telling<'a> {
        let told = cluster.place().join("told");
        let script = format!("echo $REMUDA_TASK $PWD >> {}; sleep {seconds}", told.display());
        let array = format!("0-{}", task_count - 1);
        let job = cluster.submit(&["--array", &array, "--", "sh", "-c", &script]);
        Telling { cluster, job }
    }

    /// What was told: task and worker of each attempt.
    fn attempts(&self) -> Vec<(u64, String)> {
        let told = std::fs::read_to_string(self.cluster.place().join("told")).unwrap_or_default();
        let attempt = |line: &str| {
            let (task, folder) = line.split_once(' ')?;
            let worker = folder.split('/').find(|part| part.starts_with("worker-"))?;
            Some((task.parse().ok()?, worker.to_owned()))
        };
        told.lines().filter_map(attempt).collect()
    }

    /// Names of the workers that began a task.
    fn workers(&self) -> BTreeSet<String> {
        self.attempts().into_iter().map(|(_, worker)| worker).collect()
    }

    #[track_caller]
    fn until_begun(&self, count: usize) {
        until("tasks that run", LONG, || (self.attempts().len() >= count).then_some(()));
    }

    #[track_caller]
    fn assert_done(&self, task_count: u64) {
        assert_eq!(self.cluster.run(&["wait", &self.job]).exit, 0);
        assert_eq!(self.cluster.job(&self.job)["done"], task_count);
    }

    /// Every task was begun exactly once.
    #[track_caller]
    fn assert_once(&self, task_count: u64) {
        let mut tasks: Vec<u64> = self.attempts().into_iter().map(|(task, _)| task).collect();
        tasks.sort_unstable();
        assert_eq!(tasks, (0..task_count).collect::<Vec<_>>(), "{:?}", self.attempts());
    }
}

#[test]
fn four_balancers_are_two_groups_that_share_a_job() {
    let cluster = Cluster::start(PAIRS);
    until_shared(&cluster, &[(1, 2, 2), (2, 2, 2)]);
    let job = Telling::submit(&cluster, 24, "0.5");
    job.assert_done(24);
    job.assert_once(24);
    for group in [1, 2] {
        let workers = workers_of(&cluster, group);
        assert!(!job.workers().is_disjoint(&workers), "group {group} dealt nothing");
    }
    let job = submit(&cluster, 3_000);
    assert_ends(&cluster, &job, 3_000);
}

#[test]
fn what_runs_when_a_whole_group_is_lost_is_not_run_again() {
    let cluster = Cluster::start(PAIRS);
    until_shared(&cluster, &[(1, 2, 2), (2, 2, 2)]);
    let lost = workers_of(&cluster, 2);
    // Eight run; as many of either group's tasks wait.
    let job = Telling::submit(&cluster, 16, "20");
    job.until_begun(8);
    assert!(!job.workers().is_disjoint(&lost), "what is done to the group would prove nothing");
    balancers_of(&cluster, 2).into_iter().for_each(kill);
    until("workers of one group", LONG, || {
        let groups = groups(&cluster, "worker");
        (groups.keys().eq([&1]) && groups[&1].len() == 4).then_some(())
    });
    job.assert_done(16);
    job.assert_once(16);
}

/// A balancer that this test started.
struct Joined(Child);

impl Drop for Joined {
    fn drop(&mut self) {
        // It ends with this test, however that ends.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts one more balancer.
fn join(cluster: &Cluster) -> Joined {
    let master = cluster.leader("master").address;
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    let config = cluster.place().join("third.toml");
    let text = format!(
        "[node]\ndata = {:?}\nlisten = \"tcp://127.0.0.1:{port}\"\nmasters = [{master:?}]\n",
        cluster.place().join("third"),
    );
    std::fs::write(&config, text).expect("write a configuration");
    drop(listener);
    let parent = std::process::id().to_string();
    let config = config.to_str().expect("a path in UTF-8");
    let mut command = cluster.command(&["serve", "balancer", "--config", config]);
    command.args(["--parent", &parent]).stdout(Stdio::null()).stderr(Stdio::null());
    Joined(command.spawn().expect("start a balancer"))
}

#[test]
fn a_third_balancer_takes_over_its_share_of_the_workers() {
    let shape = ["--masters", "1", "--storage", "1", "--workers", "2", "--slots", "2"];
    let cluster = Cluster::start(&[&shape[..], &["--balancers", "2", "--no-restart"]].concat());
    until_shared(&cluster, &[(1, 2, 2)]);
    // What runs when its worker is moved goes on, under the group that dealt it.
    let job = Telling::submit(&cluster, 8, "6");
    job.until_begun(4);
    let third = join(&cluster);
    until_shared(&cluster, &[(1, 2, 1), (2, 1, 1)]);
    job.assert_done(8);
    job.assert_once(8);
    // And the other way round, when it is gone.
    let job = submit(&cluster, 3_000);
    until_it_works(&cluster, &job);
    drop(third);
    until("all workers back", LONG, || groups(&cluster, "worker").keys().eq([&1]).then_some(()));
    assert_ends(&cluster, &job, 3_000);
}

#[test]
fn a_pair_that_was_frozen_until_its_group_was_lost_comes_back_with_new_seats() {
    let cluster = Cluster::start(PAIRS);
    until_shared(&cluster, &[(1, 2, 2), (2, 2, 2)]);
    let running = submit(&cluster, 6_000);
    until_it_works(&cluster, &running);
    let frozen: Vec<Frozen> = balancers_of(&cluster, 1).into_iter().map(Frozen::freeze).collect();
    assert_ends(&cluster, &running, 6_000);
    until("workers of the other group", LONG, || {
        groups(&cluster, "worker").keys().eq([&2]).then_some(())
    });
    let later = submit(&cluster, 3_000);
    assert_ends(&cluster, &later, 3_000);
    let job = Telling::submit(&cluster, 8, "8");
    job.until_begun(8);
    drop(frozen);
    until_shared(&cluster, &[(2, 2, 2), (3, 2, 2)]);
    job.assert_done(8);
    job.assert_once(8);
    let last = submit(&cluster, 3_000);
    assert_ends(&cluster, &last, 3_000);
}
