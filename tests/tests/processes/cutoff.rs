//! Links fail: a node hears nobody, or not those of another tier, for a while. Work goes on around
//! it, it comes back by itself, and every outcome is right.

use std::io::Read;
use std::process::Stdio;

use cluster_tests::wait::until;
use proto::description::Noop;
use proto::time::Duration;

use crate::cluster::LONG;
use crate::failover_storage::size;
use crate::islands::Islands;
use crate::jobs::assert_runs;
use crate::work::{assert_ends, ended, submit, until_it_goes_on};

/// How long a cluster may take until it goes on.
const RECOVERY: Duration = Duration::from_secs(20);

/// A second of work or two.
const TASKS: u64 = 1_500;

/// Cuts a machine off from others amid a job and mends that when the job is over.
#[track_caller]
fn strike(islands: &Islands, one: &str, others: &[&str]) {
    let job = submit(islands, TASKS);
    until("the first outcomes", LONG, || (ended(islands, &job) > 0).then_some(()));
    islands.cut(one, others);
    let before = ended(islands, &job);
    until_it_goes_on(islands, &job, before, RECOVERY);
    assert_ends(islands, &job, TASKS);
    islands.heal(one);
}

#[test]
fn whoever_is_cut_off_is_missed_by_no_job_and_comes_back() {
    let Some(islands) = Islands::start("") else { return };
    let everybody = islands.all(&["master", "storage", "balancer", "worker", "client"]);
    // From the other masters only: whoever asks it must turn to the one that leads now.
    let leader = islands.leader("master");
    strike(&islands, leader, &islands.all(&["master"]));
    // From everybody, at the same time.
    let leader = islands.leader("master");
    strike(&islands, leader, &everybody);
    strike(&islands, "worker-1", &everybody);
    // Primaries that reach only a part of the others; the second one finds what the first one left.
    let primary = islands.leader("balancer");
    strike(&islands, primary, &islands.all(&["master"]));
    assert_ne!(islands.leader("balancer"), primary, "another one deals now");
    until("the one that was cut off", LONG, || {
        (islands.log(primary).matches("does not deal").count() > 1).then_some(())
    });
    let primary = islands.leader("balancer");
    strike(&islands, primary, &islands.all(&["worker"]));
    assert_ne!(islands.leader("balancer"), primary, "another one deals now");
    strike(&islands, "storage-2", &everybody);
    // All are there and do their part.
    let job = submit(&islands, 300);
    assert_ends(&islands, &job, 300);
    until("all workers at work", LONG, || {
        let job = submit(&islands, 300);
        assert_ends(&islands, &job, 300);
        let nodes = islands.nodes();
        (nodes.len() == everybody.len() - 1).then_some(())
    });
}

#[test]
fn reads_and_writes_go_on_while_a_storage_node_is_cut_off() {
    let Some(islands) = Islands::start("") else { return };
    let mut random = fastrand::Rng::with_seed(1);
    let mut content = vec![0; 40 << 20];
    random.fill(&mut content);
    std::fs::write(islands.place().join("first"), &content).unwrap();
    let everybody = islands.all(&["master", "storage", "balancer", "worker", "client"]);
    let source = islands.run(&["put", "first"]).ok();
    let mut command = islands.command(&["cat", source.trim()]);
    let mut reader = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = reader.stdout.take().unwrap();
    let mut bytes = vec![0; 1 << 20];
    stdout.read_exact(&mut bytes).unwrap();
    islands.cut("storage-1", &everybody);
    stdout.read_to_end(&mut bytes).unwrap();
    assert!(reader.wait().unwrap().success());
    assert!(bytes == content, "what was read");
    // And what is written meanwhile is there without it.
    content.rotate_left(1);
    std::fs::write(islands.place().join("second"), &content).unwrap();
    let source = islands.run(&["put", "second"]).ok();
    islands.run(&["get", source.trim(), "copy"]).ok();
    assert!(std::fs::read(islands.place().join("copy")).unwrap() == content, "what was written");
    islands.heal("storage-1");
}

#[test]
fn a_storage_node_that_is_cut_off_amid_a_write_costs_no_byte_of_it() {
    let Some(islands) = Islands::start("") else { return };
    let mut random = fastrand::Rng::with_seed(2);
    let mut content = vec![0; 40 << 20];
    random.fill(&mut content);
    std::fs::write(islands.place().join("file"), &content).unwrap();
    // The client sends each byte twice: several seconds.
    islands.slow_down(160_000);
    let everybody = islands.all(&["master", "storage", "balancer", "worker", "client"]);
    let folder = islands.place().join("storage-2");
    let before = size(&folder);
    let mut writer = islands.command(&["put", "file"]).stdout(Stdio::piped()).spawn().unwrap();
    until("the first blocks of the file", LONG, || (size(&folder) > before).then_some(()));
    islands.cut("storage-2", &everybody);
    assert!(writer.try_wait().unwrap().is_none(), "it was cut off amid the write");
    let mut source = String::new();
    writer.stdout.take().unwrap().read_to_string(&mut source).unwrap();
    assert!(writer.wait().unwrap().success());
    // While it is cut off, when it is back, and without another one: each block is on two nodes.
    for without in [Some("storage-2"), None, Some("storage-1"), Some("storage-3")] {
        islands.heal("storage-2");
        if let Some(node) = without {
            islands.cut(node, &everybody);
        }
        islands.run(&["get", source.trim(), "copy"]).ok();
        let copy = islands.place().join("copy");
        assert!(std::fs::read(&copy).unwrap() == content, "without {without:?}");
        std::fs::remove_file(copy).unwrap();
        without.iter().for_each(|node| islands.heal(node));
    }
}

#[test]
fn slow_and_lossy_links_lose_nothing() {
    let Some(islands) = Islands::start("") else { return };
    islands.lose(2);
    islands.slow_down(4_000);
    let job = submit(&islands, TASKS);
    assert_ends(&islands, &job, TASKS);
    let content: Vec<u8> = (0..600_000_u32).map(|it| (it % 251) as u8).collect();
    std::fs::write(islands.place().join("file"), &content).unwrap();
    let source = islands.run(&["put", "file"]).ok();
    islands.run(&["get", source.trim(), "copy"]).ok();
    assert!(std::fs::read(islands.place().join("copy")).unwrap() == content);
}

#[test]
fn a_master_that_was_away_catches_up_by_a_snapshot_while_jobs_run() {
    let Some(mut islands) = Islands::start("snapshot_bytes = 65536") else { return };
    let leader = islands.leader("master");
    let away = islands.all(&["master"]).into_iter().find(|name| *name != leader).unwrap();
    islands.kill(away);
    // One task of a hundred fails, so that the outcomes do not come to a few runs.
    let many = ["submit", "--noop", "5", "--noop-failed", "10000", "--array", "0-999999"];
    let job = islands.run(&many).ok();
    assert_eq!(islands.run(&["wait", job.trim()]).exit, 1);
    let noop = Noop { seed: 5, failed_per_million: 10_000, ..Noop::default() };
    let running = submit(&islands, 4 * TASKS);
    islands.begin(away);
    until("a snapshot of another member", LONG, || {
        islands.log(away).contains("another member's snapshot").then_some(())
    });
    assert_ends(&islands, &running, 4 * TASKS);
    // With one of the others gone, nothing is committed without the one that was away.
    let other = islands.all(&["master"]).into_iter().find(|name| *name != leader && *name != away);
    islands.kill(other.unwrap());
    let job_after = submit(&islands, 300);
    assert_ends(&islands, &job_after, 300);
    assert_runs(&islands.run(&["tasks", job.trim(), "--json"]).json(), &noop, 1_000_000);
}
