//! Who is heard, who is removed, and what of it becomes an entry.

use proto::ids::LogIndex;
use proto::status::Role;

use super::super::cluster::Cluster;
use super::super::nodes::Registration;
use super::*;

const GRACE: Duration = Duration::from_secs(300);
const TERM: Option<Term> = Some(Term(4));

/// A leader's watch over storage nodes that each have a store of their own number.
struct Watched {
    cluster: Cluster,
    watch: StorageWatch,
    now: Instant,
    index: u64,
}

impl Watched {
    fn new(count: u128) -> Watched {
        let cluster = Cluster::default();
        let watch = StorageWatch::new(GRACE);
        let mut watched = Watched { cluster, watch, now: Instant(1), index: 0 };
        for node in 1..=count {
            watched.register(node);
        }
        watched
    }

    fn apply(&mut self, command: Command) {
        self.index += 1;
        self.cluster.apply(LogIndex(self.index), 0, command);
        self.cluster.check_invariants();
    }

    fn register(&mut self, node: u128) {
        let bare = Registration::bare(NodeId(node), Role::Storage);
        let registration = Registration { store: StoreId(node), weight: 100, ..bare };
        self.apply(Command::Register(registration));
    }

    fn report(&mut self, node: u128, passed_version: u64) {
        let progress = StorageProgress { passed_version, block_count: 7, ..Default::default() };
        let who = (NodeId(node), StoreId(node));
        self.watch.reported(self.now, who, progress, &self.cluster.rings);
    }

    fn tick(&mut self) -> Vec<(Matter, Command)> {
        self.watch.tick(self.now, TERM, &self.cluster.rings)
    }

    /// What is proposed within a time in which these nodes report every second.
    fn pass_time(&mut self, seconds: u64, reporting: &[u128]) -> Vec<Command> {
        let mut proposed = Vec::new();
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            for &node in reporting {
                self.report(node, 0);
            }
            proposed.extend(self.tick().into_iter().map(|(_, command)| command));
        }
        proposed
    }
}

fn removed(nodes: &[u128]) -> Command {
    let nodes = nodes.iter().map(|&node| (NodeId(node), StoreId(node))).collect();
    Command::RingRemoved { nodes }
}

#[test]
fn a_silent_member_is_removed_after_the_grace_and_others_are_not() {
    let mut watched = Watched::new(3);
    assert_eq!(watched.tick(), []);
    assert_eq!(watched.pass_time(299, &[1, 2]), []);
    assert_eq!(watched.watch.removal(NodeId(3)), Some(Duration::from_secs(1)));
    assert_eq!(watched.watch.removal(NodeId(1)), None);
    assert_eq!(watched.watch.silence(NodeId(3)), None, "this leader never heard it");
    assert_eq!(watched.pass_time(1, &[1, 2]), [removed(&[3])]);
    // Not again while that is under way; again when it failed.
    assert_eq!(watched.pass_time(5, &[1, 2]), []);
    watched.watch.settled(Matter::Removal);
    assert_eq!(watched.pass_time(1, &[1, 2]), [removed(&[3])]);
    watched.apply(removed(&[3]));
    watched.watch.settled(Matter::Removal);
    assert_eq!(watched.pass_time(1_000, &[1, 2]), []);
}

#[test]
fn nobody_is_removed_while_most_are_silent() {
    let mut watched = Watched::new(5);
    watched.tick();
    assert_eq!(watched.pass_time(1_000, &[1, 2]), []);
    assert_eq!(watched.pass_time(1, &[1, 2, 3]), [removed(&[4, 5])]);

    let mut only = Watched::new(1);
    only.tick();
    assert_eq!(only.pass_time(1_000, &[]), []);
    let mut pair = Watched::new(2);
    pair.tick();
    assert_eq!(pair.pass_time(301, &[1]), [removed(&[2])]);
}

#[test]
fn what_has_no_effect_is_not_proposed() {
    let mut watched = Watched::new(2);
    let draining = Registration {
        store: StoreId(2),
        incarnation: proto::ids::Incarnation(2),
        ..Registration::bare(NodeId(2), Role::Storage)
    };
    watched.apply(Command::Register(draining));
    watched.tick();
    assert_eq!(watched.pass_time(1_000, &[2]), [], "the last one with a weight");
    assert_eq!(watched.watch.silence(NodeId(2)), Some(Duration::ZERO));
}

#[test]
fn a_new_leader_and_one_that_stood_still_give_the_full_time() {
    let mut watched = Watched::new(3);
    watched.tick();
    assert_eq!(watched.pass_time(200, &[1, 2]), []);
    watched.watch.tick(watched.now, None, &watched.cluster.rings);
    assert_eq!(watched.pass_time(299, &[1, 2]), []);
    // It stood still: what the third one said may lie before it.
    watched.now += Duration::from_secs(100);
    assert_eq!(watched.tick(), []);
    assert_eq!(watched.pass_time(299, &[1, 2]), []);
    assert_eq!(watched.pass_time(1, &[1, 2]), [removed(&[3])]);
    // One that joined just now has the full time as well.
    let mut young = Watched::new(2);
    young.tick();
    assert_eq!(young.pass_time(1_000, &[1, 2]), []);
    young.register(3);
    assert_eq!(young.pass_time(300, &[1, 2]), []);
    assert_eq!(young.pass_time(1, &[1, 2]), [removed(&[3])]);
}

#[test]
fn passes_are_proposed_together_one_entry_at_a_time() {
    let mut watched = Watched::new(3);
    watched.tick();
    assert_eq!(watched.cluster.rings.newest(), RingVersion(3));
    let pass = |node| (NodeId(node), StoreId(node), RingVersion(3));
    for passed in [0, 2, 4] {
        watched.report(1, passed);
        assert_eq!(watched.tick(), [], "not under the newest version");
    }
    watched.report(1, 3);
    let first = Command::RingPassed { passes: vec![pass(1)] };
    assert_eq!(watched.tick(), [(Matter::Passes, first.clone())]);
    for node in [1, 2, 3, 9] {
        watched.report(node, 3);
    }
    assert_eq!(watched.tick(), []);
    watched.apply(first);
    watched.watch.settled(Matter::Passes);
    let rest = Command::RingPassed { passes: vec![pass(1), pass(2), pass(3)] };
    assert_eq!(watched.tick(), [(Matter::Passes, rest.clone())]);
    watched.apply(rest);
    watched.watch.settled(Matter::Passes);
    for node in [1, 2, 3] {
        watched.report(node, 3);
    }
    assert_eq!(watched.tick(), [], "nothing is logged while nothing moves");
    assert_eq!(watched.cluster.rings.oldest(), RingVersion(3));
}

#[test]
fn one_that_was_removed_for_its_silence_is_heard_again() {
    let mut watched = Watched::new(3);
    watched.tick();
    watched.apply(removed(&[3]));
    assert_eq!(watched.pass_time(2, &[1, 2]), []);
    watched.report(3, 0);
    let nodes = vec![(NodeId(3), StoreId(3))];
    let back = Command::RingReturned { nodes };
    assert_eq!(watched.tick(), [(Matter::Return, back.clone())]);
    watched.report(3, 0);
    assert_eq!(watched.tick(), [], "that is under way");
    watched.apply(back);
    watched.watch.settled(Matter::Return);
    watched.watch.returns.clear();
    watched.report(3, 0);
    assert_eq!(watched.tick(), []);
}

#[test]
fn members_have_a_lease_and_one_that_is_being_removed_has_none() {
    let mut watched = Watched::new(3);
    watched.tick();
    let lease = |watched: &Watched, node, store| {
        let of = (NodeId(node), StoreId(store));
        watched.watch.lease_of(of.0, of.1, &watched.cluster.rings)
    };
    assert_eq!(lease(&watched, 3, 3), LEASE);
    assert_eq!((lease(&watched, 3, 4), lease(&watched, 4, 4)), (Duration::ZERO, Duration::ZERO));
    assert_eq!(watched.pass_time(300, &[1, 2]), [removed(&[3])]);
    assert_eq!(lease(&watched, 3, 3), Duration::ZERO);
    let short = StorageWatch::new(Duration::from_secs(4));
    let rings = &watched.cluster.rings;
    assert_eq!(short.lease_of(NodeId(1), StoreId(1), rings), Duration::from_secs(2));
}

#[test]
fn who_answers_is_known_after_some_seconds() {
    let mut watched = Watched::new(2);
    watched.tick();
    assert!(!watched.watch.has_listened());
    watched.pass_time(3, &[1]);
    assert!(watched.watch.has_listened());
    assert!(watched.watch.answers(NodeId(1)) && !watched.watch.answers(NodeId(2)));
    assert_eq!({ watched.watch.progress(NodeId(1), StoreId(1)).block_count }, 7);
    assert_eq!({ watched.watch.progress(NodeId(1), StoreId(2)).block_count }, 0);
    watched.pass_time(3, &[]);
    assert!(!watched.watch.answers(NodeId(1)));
    assert_eq!(watched.watch.silence(NodeId(1)), Some(Duration::from_secs(3)));
}
