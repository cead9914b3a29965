//! Elections, commits, restarts, reads, log time.

use proto::time::Duration;

use super::cluster::{Cluster, Outcome, id};
use crate::ids::LogTime;
use crate::job::Done;
use crate::logic::{Config, Event, Failure, HaltReason, Role};

#[test]
fn a_single_voter_leads_at_once_and_commits() {
    let mut cluster = Cluster::of_one();
    assert!(cluster.now.0 < 1_100_000, "nobody else could answer, so it does not wait");
    cluster.commit(id(1), b"one");
    assert_eq!(cluster.commands(id(1)), vec![b"one".to_vec()]);
}

#[test]
fn every_member_takes_commands_and_all_apply_the_same() {
    let mut cluster = Cluster::of_three();
    for round in 0..10_u8 {
        for member in 1..=3 {
            cluster.commit(id(member), &[round, member as u8]);
        }
    }
    cluster.agree();
    let lines = cluster.member(id(1)).state().lines.clone();
    assert_eq!(lines.len(), 30);
    assert!(lines.iter().all(|line| line.origin.0 == u64::from(line.command[1])));
}

#[test]
fn one_commit_of_an_idle_cluster_costs_one_sync_at_each_member() {
    let mut cluster = Cluster::of_three();
    cluster.run(Duration::from_secs(1));
    let count = |cluster: &Cluster| {
        cluster.nodes.values().map(|node| node.files.sync_count()).collect::<Vec<_>>()
    };
    let before = count(&cluster);
    cluster.commit(id(1), b"one");
    cluster.run(Duration::from_secs(3));
    let after: Vec<usize> = count(&cluster).iter().zip(&before).map(|(a, b)| a - b).collect();
    assert_eq!(after, vec![1, 1, 1]);
}

#[test]
fn a_commit_waits_for_no_timer() {
    let mut cluster = Cluster::of_three();
    let begin = cluster.now;
    cluster.commit(id(2), b"through a follower");
    // Forward, append, sync, answer, commit index: each 1 ms here.
    assert!(cluster.now.since(begin) <= Duration::from_millis(7));
}

#[test]
fn an_idle_cluster_writes_nothing_but_a_digest_once() {
    let config = Config { digest_every: Duration::from_secs(2), ..Config::default() };
    let mut cluster = Cluster::three_with(config);
    cluster.commit(id(1), b"one");
    let index = cluster.member(id(1)).last_index();
    cluster.run(Duration::from_secs(10));
    // A mark and a verdict.
    assert_eq!(cluster.member(id(1)).last_index().0, index.0 + 2);
    assert!(cluster.nodes.values().all(|node| node.halted.is_none()));
}

#[test]
fn a_member_whose_state_differs_stops_and_the_others_go_on() {
    let config = Config { digest_every: Duration::from_secs(2), ..Config::default() };
    for broken in 1..=3 {
        let mut cluster = Cluster::three_with(config.clone());
        cluster.commit(id(1), b"one");
        cluster.agree();
        let node = cluster.nodes.get_mut(&id(broken)).unwrap();
        *node.member.as_mut().unwrap().state_mut() = Default::default();
        cluster.run(Duration::from_secs(5));
        for (&member, node) in &cluster.nodes {
            let differs = matches!(node.halted, Some(HaltReason::Differs { .. }));
            assert_eq!(differs, member == id(broken), "{member} of {broken}");
        }
        cluster.kill(id(broken));
        cluster.run_until("another leads", |cluster| cluster.leader().is_some());
        let leader = cluster.leader().unwrap();
        cluster.commit(leader, b"two");
    }
}

#[test]
fn a_dead_leader_is_replaced_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::of_three();
    for number in 0..20 {
        cluster.commit(id(1), &[number]);
    }
    let begin = cluster.now;
    cluster.kill(id(1));
    cluster.run_until("another leads", |cluster| cluster.leader().is_some());
    let leader = cluster.leader().unwrap();
    cluster.commit(leader, b"after");
    assert!(cluster.now.since(begin) < Duration::from_millis(1_500));
    cluster.start(id(1));
    cluster.agree();
    let mut expected: Vec<Vec<u8>> = (0..20).map(|number| vec![number]).collect();
    expected.push(b"after".to_vec());
    assert_eq!(cluster.commands(id(1)), expected);
}

#[test]
fn a_whole_cluster_restarts_from_its_disks() {
    let mut cluster = Cluster::of_three();
    for number in 0..50 {
        cluster.commit(id(u64::from(number) % 3 + 1), &[number]);
    }
    for round in 0..3 {
        for member in 1..=3 {
            cluster.kill(id(member));
        }
        for member in 1..=3 {
            cluster.start(id(member));
        }
        cluster.run_until("somebody leads", |cluster| cluster.leader().is_some());
        let leader = cluster.leader().unwrap();
        cluster.commit(leader, &[100 + round]);
        cluster.agree();
        assert_eq!(cluster.commands(id(2)).len(), 51 + usize::from(round));
    }
}

#[test]
fn what_a_deposed_leader_could_not_commit_ends_as_dropped() {
    let mut cluster = Cluster::of_three();
    cluster.commit(id(1), b"one");
    cluster.cut.insert(id(1));
    let ticket = cluster.ask(id(1), b"never");
    cluster.run_until("another leads", |cluster| {
        cluster.leader().is_some_and(|leader| leader != id(1))
    });
    let leader = cluster.leader().unwrap();
    cluster.commit(leader, b"two");
    cluster.cut.clear();
    cluster.agree();
    assert_eq!(cluster.outcome(ticket), Some(Outcome::Failed(Failure::Dropped)));
    assert_eq!(cluster.commands(id(1)), vec![b"one".to_vec(), b"two".to_vec()]);
}

#[test]
fn a_request_whose_fate_stays_unknown_ends_as_that() {
    let mut cluster = Cluster::of_three();
    cluster.cut.extend([id(2), id(3)]);
    let begin = cluster.now;
    let ticket = cluster.ask(id(2), b"lost on the way");
    cluster.run_until("it ends", |cluster| cluster.outcome(ticket).is_some());
    assert_eq!(cluster.outcome(ticket), Some(Outcome::Failed(Failure::Unknown)));
    let patience = cluster.config.patience + cluster.config.tick.times(2);
    assert!(cluster.now.since(begin) <= patience);
    assert_eq!(cluster.invoke(id(2), b"no leader"), Outcome::Failed(Failure::NoLeader));
}

#[test]
fn what_waits_is_bounded() {
    let config = Config { pending_max: 4, pending_bytes_max: 100, ..Config::default() };
    let mut cluster = Cluster::with(config);
    assert_eq!(cluster.invoke(id(1), &[0; 101]), Outcome::Failed(Failure::Busy));
    let tickets: Vec<_> = (0..5).map(|number| cluster.ask(id(1), &[number])).collect();
    assert_eq!(cluster.outcome(tickets[4]), Some(Outcome::Failed(Failure::Busy)));
    cluster.run(Duration::from_millis(5));
    assert!(matches!(cluster.outcome(tickets[3]), Some(Outcome::Completed(..))));
    assert_eq!(cluster.member(id(1)).pending_count(), 0);
}

#[test]
fn a_read_sees_what_was_acknowledged_elsewhere() {
    let mut cluster = Cluster::of_three();
    let begin = cluster.now;
    for number in 0..5 {
        let index = cluster.commit(id(1), &[number]);
        for member in 1..=3 {
            let Outcome::ReadReady(read) = cluster.read(id(member)) else { panic!("no read") };
            assert!(read >= index && cluster.member(id(member)).applied_index() >= index);
        }
    }
    assert!(cluster.now.since(begin) < Duration::from_millis(150), "reads wait for no timer");
}

#[test]
fn a_leader_without_a_majority_answers_no_read() {
    let mut cluster = Cluster::of_three();
    cluster.cut.insert(id(1));
    assert_eq!(cluster.read(id(1)), Outcome::Failed(Failure::NoLeader));
}

#[test]
fn log_time_never_goes_back_nor_runs_fast() {
    let mut cluster = Cluster::of_three();
    let begin = cluster.now;
    for round in 0..4 {
        let leader = cluster.leader().unwrap();
        for number in 0..5 {
            cluster.commit(leader, &[round, number]);
            cluster.run(Duration::from_millis(30));
        }
        cluster.kill(leader);
        cluster.run_until("another leads", |cluster| cluster.leader().is_some());
        cluster.start(leader);
        cluster.agree();
    }
    let lines = cluster.member(id(1)).state().lines.clone();
    assert!(lines.is_sorted_by_key(|line| line.log_time));
    let passed = lines.last().unwrap().log_time.0 - lines[0].log_time.0;
    assert!(passed <= cluster.now.since(begin).as_micros());
    assert!(passed > 4 * 4 * 30_000, "a reign's time is counted");
    assert!(cluster.member(id(1)).log_time() >= LogTime(passed));
}

#[test]
fn leadership_is_handed_over_without_a_pause() {
    let mut cluster = Cluster::of_three();
    cluster.commit(id(1), b"one");
    cluster.give(id(1), Event::Transfer { to: Some(id(3)) });
    let begin = cluster.now;
    cluster.run_until("member 3 leads", |cluster| cluster.member(id(3)).role() == Role::Leader);
    assert!(cluster.now.since(begin) < Duration::from_millis(100));
    cluster.give(id(3), Event::Transfer { to: None });
    cluster.run_until("another leads", |cluster| {
        cluster.leader().is_some_and(|leader| leader != id(3))
    });
}

#[test]
fn a_member_whose_disk_fails_stops_and_does_not_try_again() {
    let mut cluster = Cluster::of_three();
    cluster.nodes[&id(2)].files.fail();
    cluster.commit(id(1), b"one");
    cluster.run(Duration::from_millis(10));
    assert!(matches!(cluster.nodes[&id(2)].halted, Some(HaltReason::Disk(_))));
    assert_eq!(cluster.member(id(2)).next_deadline(), None);
    cluster.give(id(2), Event::Disk(Done::Failed { error: String::new() }));
    assert!(cluster.commit(id(3), b"two").0 > 0);
}

#[test]
fn a_member_with_a_standing_disk_is_heard_but_acknowledges_nothing() {
    let mut cluster = Cluster::of_three();
    cluster.nodes.get_mut(&id(2)).unwrap().disk_stands = true;
    cluster.cut.insert(id(3));
    let ticket = cluster.ask(id(1), b"one");
    // Its heartbeats keep the leader in office, but there is no majority of disks.
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.leader(), Some(id(1)));
    assert!(matches!(cluster.outcome(ticket), None | Some(Outcome::Completed(..))));
    assert_eq!(cluster.outcome(ticket), None);
    cluster.nodes.get_mut(&id(2)).unwrap().disk_stands = false;
    cluster.run(Duration::from_millis(10));
    assert!(matches!(cluster.outcome(ticket), Some(Outcome::Completed(..))));
}

#[test]
fn a_leader_with_a_standing_disk_hands_over() {
    let mut cluster = Cluster::of_three();
    cluster.nodes.get_mut(&id(1)).unwrap().disk_stands = true;
    let ticket = cluster.ask(id(2), b"one");
    cluster.run_until("another leads", |cluster| cluster.leader() != Some(id(1)));
    cluster.run_until("it is answered", |cluster| cluster.outcome(ticket).is_some());
    assert!(matches!(cluster.outcome(ticket), Some(Outcome::Completed(..))));
    cluster.nodes.get_mut(&id(1)).unwrap().disk_stands = false;
    cluster.agree();
}

#[test]
fn nonsense_from_a_member_does_no_harm() {
    let mut cluster = Cluster::of_three();
    let mut rng = fastrand::Rng::with_seed(3);
    for _ in 0..2_000 {
        let mut bytes: Vec<u8> = (0..rng.usize(0..80)).map(|_| rng.u8(..)).collect();
        if let Some(kind) = bytes.first_mut() {
            // Raft's own messages are of members that are trusted to speak Raft.
            *kind = rng.u8(2..10);
        }
        cluster.give(id(1), Event::Message { from: id(2), bytes });
    }
    cluster.commit(id(3), b"one");
}
