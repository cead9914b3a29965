//! Snapshots taken, written, sent and installed.

use proto::time::Duration;

use super::cluster::{Cluster, folder, id};
use crate::logic::Config;

fn small() -> Config {
    Config { snapshot_after_bytes: 8 << 10, trailing_bytes: 0, ..Config::default() }
}

fn fill(cluster: &mut Cluster, count: usize) {
    for number in 0..count {
        let leader = cluster.leader().unwrap();
        let mut command = vec![7; 300];
        command[0] = number as u8;
        cluster.commit(leader, &command);
    }
}

#[test]
fn the_log_does_not_grow_without_end() {
    let mut cluster = Cluster::with(small());
    fill(&mut cluster, 600);
    let paths = cluster.nodes[&id(1)].files.paths();
    let logs = paths.iter().filter(|path| path.starts_with(folder().join("log"))).count();
    assert!(logs <= 6, "{paths:?}");
    let snapshots = paths.iter().filter(|path| path.to_string_lossy().contains("/snapshot-"));
    assert_eq!(snapshots.count(), 2);
    cluster.kill(id(1));
    cluster.start(id(1));
    cluster.run_until("it leads again", |cluster| cluster.leader().is_some());
    cluster.run(Duration::from_millis(10));
    assert_eq!(cluster.commands(id(1)).len(), 600);
}

#[test]
fn a_member_that_was_away_for_long_catches_up_by_snapshot() {
    let mut cluster = Cluster::three_with(small());
    cluster.kill(id(3));
    fill(&mut cluster, 120);
    let before = cluster.nodes[&id(3)].installed;
    cluster.start(id(3));
    cluster.agree();
    assert_eq!(cluster.nodes[&id(3)].installed, before + 1);
    assert_eq!(cluster.commands(id(3)).len(), 120);
    // And what it installed is on its disk.
    cluster.kill(id(3));
    cluster.start(id(3));
    assert!(cluster.commands(id(3)).len() >= 60);
    cluster.agree();
}

#[test]
fn a_member_that_was_away_for_a_moment_catches_up_by_log() {
    let mut cluster = Cluster::of_three();
    cluster.kill(id(3));
    fill(&mut cluster, 50);
    let before = cluster.nodes[&id(3)].installed;
    cluster.start(id(3));
    cluster.agree();
    assert_eq!(cluster.nodes[&id(3)].installed, before);
}

#[test]
fn a_crash_at_any_moment_of_an_installation_is_survived() {
    for moment in 0..40 {
        let mut cluster = Cluster::three_with(small());
        cluster.kill(id(3));
        fill(&mut cluster, 60);
        cluster.start(id(3));
        cluster.run(Duration::from_millis(80 + moment));
        cluster.kill(id(3));
        cluster.run(Duration::from_millis(20));
        cluster.start(id(3));
        cluster.agree();
        assert_eq!(cluster.commands(id(3)).len(), 60, "moment {moment}");
    }
}

#[test]
fn a_large_snapshot_travels_in_pieces() {
    let mut cluster = Cluster::with(Config { trailing_bytes: 0, ..Config::default() });
    for number in 0..40 {
        cluster.commit(id(1), &vec![number; 200_000]);
    }
    cluster.join(id(2));
    cluster.agree();
    assert_eq!(cluster.commands(id(2)).len(), 40);
}

#[test]
fn a_damaged_snapshot_is_passed_over_for_the_one_before() {
    let mut cluster = Cluster::with(small());
    fill(&mut cluster, 200);
    cluster.kill(id(1));
    let files = cluster.nodes[&id(1)].files.clone();
    let paths = files.paths();
    let newest = paths.iter().rfind(|path| path.starts_with(folder().join("snapshots"))).unwrap();
    files.change(newest, |content| content[100] ^= 1);
    cluster.start(id(1));
    cluster.run_until("it leads again", |cluster| cluster.leader().is_some());
    cluster.run(Duration::from_millis(10));
    assert_eq!(cluster.commands(id(1)).len(), 200);
}
