//! A worker that is moved from one balancer group to another.

use super::*;

const LATER: u64 = ASSIGNMENT + 5;
/// The link to the balancer of the new group, beside those to the old one's.
const NEW: Link = Link(3);

/// The place that the masters give a worker in group 2, whose epoch is lower.
fn registered(index: u64, balancers: &[u8]) -> Vec<u8> {
    let registered = NodeRegistered { index, group: 2, epoch: 1, ..NodeRegistered::default() };
    encode(&registered, &[balancers])
}

fn links(effects: &[Effect]) -> Vec<(Link, String)> {
    let of_link = |effect: &Effect| match effect {
        Effect::Network(NetworkEffect::Close { link }) => Some((*link, String::new())),
        Effect::Network(NetworkEffect::Open { link, address }) => Some((*link, address.clone())),
        _ => None,
    };
    effects.iter().filter_map(of_link).collect()
}

/// With two tasks that run, dealt by the group before.
fn moved() -> Bench {
    let mut bench = Bench::registered();
    bench.hear(PRIMARY, &deal(0..2).record());
    bench.effects.clear();
    bench.hear(MASTER_LINK, &registered(LATER, b"b3"));
    assert_eq!(links(&bench.effects), [(NEW, "b3".to_owned())]);
    bench.connect(NEW, "");
    bench
}

/// What is said to a balancer: assignment, epoch, group, whether it takes tasks, foreign runs.
fn said(bench: &mut Bench, link: Link) -> Vec<(u64, u64, u64, u8, u64)> {
    let beats = heartbeats(&bench.sent::<WorkerHeartbeat>(link));
    let of =
        |it: &WorkerHeartbeat| (it.assignment, it.epoch, it.group, it.refusing, it.foreign_count);
    beats.iter().map(of).collect()
}

fn new_deal(tasks: Range<u64>) -> Deal {
    Deal { assignment: LATER, group: 2, epoch: 1, attempt: 1 << 32 | 9, ..deal(tasks) }
}

#[test]
fn it_goes_on_in_the_new_group_under_that_groups_lower_epoch() {
    let mut bench = moved();
    assert_eq!(said(&mut bench, NEW), [(LATER, 1, 2, 0, 2)]);
    bench.hear(NEW, &deal(5..6).record());
    bench.hear(NEW, &Deal { group: 1, ..new_deal(5..6) }.record());
    assert_eq!(bench.runs::<TaskReturned>(NEW).len(), 2, "of the group before");
    bench.hear(NEW, &new_deal(6..8).record());
    assert_eq!(bench.worker.held.waiting_count(), 2);
    bench.pass(HEARTBEAT);
    assert_eq!(said(&mut bench, NEW), [(LATER, 1, 2, 0, 2)], "what it dealt is not foreign");
}

#[test]
fn a_lower_assignment_is_refused_whatever_its_epoch() {
    let mut bench = moved();
    bench.hear(MASTER_LINK, &registered(LATER - 1, b"b9"));
    let known = bench.worker.membership;
    assert_eq!((known.assignment, known.group), (LATER, 2), "a master that lags");
    for link in [PRIMARY, NEW] {
        bench.hear(link, &Deal { epoch: 99, attempt: 99 << 32, ..deal(5..6) }.record());
        assert_eq!(bench.runs::<TaskReturned>(link), [(5..6, 99 << 32, 0)]);
    }
    bench.heartbeat_reply(NEW, 99, 0, &[]);
    assert_eq!(bench.worker.membership.epoch, Epoch(1), "its epoch says nothing");
}

#[test]
fn the_old_group_is_told_until_what_it_dealt_is_settled() {
    let mut bench = moved();
    for link in [PRIMARY, AUXILIARY] {
        let told = (ASSIGNMENT, EPOCH, 1, 3, 0);
        assert!(said(&mut bench, link).contains(&told), "it was moved");
    }
    // It has its say about what it dealt, and nothing more.
    let order = task_run(JOB, &(1..2), EPOCH << 32 | 1, Order::Kill.to_wire());
    bench.heartbeat_reply(PRIMARY, EPOCH + 1, 1, &[order]);
    assert_eq!(bench.worker.membership.epoch, Epoch(1));
    assert_eq!(bench.cancelled(), [1]);
    bench.hear(NEW, &new_deal(6..7).record());
    bench.end(0, 1, TaskState::Done);
    bench.end(1, 1, TaskState::Lost);
    bench.pass(HEARTBEAT);
    for link in [PRIMARY, AUXILIARY, NEW] {
        bench.heartbeat_reply(link, 0, 1, &[]);
    }
    assert!(links(&bench.effects).iter().all(|(link, _)| *link == NEW), "not settled");
    let (frame, _) = bench.frame();
    bench.acknowledge(frame, &[]);
    let (frame, _) = bench.frame();
    bench.acknowledge(frame, &[]);
    assert_eq!(bench.runs::<TaskSettled>(PRIMARY).len(), 2);
    bench.effects.clear();
    bench.pass(HEARTBEAT + HEARTBEAT);
    assert_eq!(links(&bench.effects), [(PRIMARY, String::new()), (AUXILIARY, String::new())]);
    assert!(bench.worker.held.holds_up_to(LATER), "what the new group dealt runs");
}

#[test]
fn balancers_of_an_old_group_that_do_not_answer_are_left() {
    let mut bench = Bench::registered();
    bench.hear(PRIMARY, &deal(0..2).record());
    // Both fall silent, and are looked for again.
    bench.pass(Duration::from_millis(3_100));
    bench.connect(AUXILIARY, "");
    bench.effects.clear();
    bench.hear(MASTER_LINK, &registered(LATER, b"b3"));
    assert_eq!(links(&bench.effects), [(PRIMARY, String::new()), (PRIMARY, "b3".to_owned())]);
    bench.connect(PRIMARY, "");
    for _ in 0..7 {
        bench.pass(HEARTBEAT);
        bench.heartbeat_reply(PRIMARY, 0, 0, &[]);
    }
    assert!(links(&bench.effects).contains(&(AUXILIARY, String::new())));
    assert!(bench.worker.held.holds_up_to(ASSIGNMENT), "what it dealt runs on");
}

#[test]
fn moved_again_it_leaves_the_oldest_group_first_where_links_are_short() {
    let mut bench = moved();
    bench.hear(NEW, &new_deal(6..7).record());
    bench.effects.clear();
    bench.hear(MASTER_LINK, &registered(LATER + 1, b"b4,b5"));
    let opened = [(Link(4), "b4".to_owned()), (PRIMARY, String::new()), (PRIMARY, "b5".to_owned())];
    assert_eq!(links(&bench.effects), opened);
    // And back: the link that is there goes on, as one of its group.
    bench.connect(Link(4), "");
    bench.effects.clear();
    bench.hear(MASTER_LINK, &registered(LATER + 2, b"b3"));
    assert!(!links(&bench.effects).iter().any(|(link, _)| *link == NEW));
    assert_eq!(said(&mut bench, NEW), [(LATER + 2, 1, 2, 0, 3)]);
}

#[test]
fn a_worker_whose_balancers_are_all_silent_asks_again_each_second() {
    let mut bench = Bench::registered();
    bench.effects.clear();
    bench.pass(Duration::from_millis(3_100));
    for _ in 0..3 {
        assert_eq!(bench.sent::<NodeRegister>(MASTER_LINK).len(), 1);
        let same = NodeRegistered { group: 1, epoch: EPOCH, ..NodeRegistered::default() };
        let same = NodeRegistered { index: ASSIGNMENT, ..same };
        bench.hear(MASTER_LINK, &encode(&same, &[b"b1,b2"]));
        bench.pass(Duration::from_millis(1_000));
    }
}
