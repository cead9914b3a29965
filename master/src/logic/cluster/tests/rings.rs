//! The ring as its nodes come, go, die and pass: what the masters keep of it.

use consensus::StateMachine;
use proto::ids::{RingVersion, StoreId};
use proto::limits;
use proto::messages::node::{OlderRing, RegisterRun, RingMember, RingReply};
use proto::register::{self, Part};
use proto::ring::{Member, Ring};
use proto::status::RingState;

use super::*;
use crate::logic::commands::RingChange;
use crate::logic::ring::PartMove;

/// What is read from a `ring_reply`.
struct Told {
    newest: Ring,
    /// The versions before it, the newest first, and whether blocks may lie by them.
    older: Vec<(Ring, bool)>,
    /// By which version each part of the registers goes.
    parts: Vec<RingVersion>,
    addresses: String,
}

impl Driven {
    fn storage(&mut self, node: u128, store: u128, weight: u32, zone: &str) -> Output {
        let bare = Registration::bare(NodeId(node), Role::Storage);
        let (store, zone) = (StoreId(store), zone.to_owned());
        let address = format!("tcp://{node}/");
        let output =
            self.apply(Command::Register(Registration { store, weight, zone, address, ..bare }));
        assert!(matches!(output, Output::Registered { .. }), "{output:?}");
        output
    }

    /// Storage nodes 1 to `count`, each with a store of its own number; nothing moves.
    fn with_storage(count: u128) -> Driven {
        let mut driven = Driven::new();
        for node in 1..=count {
            driven.storage(node, node, 100, "");
        }
        driven.pass_all();
        driven
    }

    fn pass(&mut self, passes: &[(u128, u64)]) {
        let pass = |&(node, version)| (NodeId(node), StoreId(node), RingVersion(version));
        self.apply(Command::RingPassed { passes: passes.iter().map(pass).collect() });
    }

    /// Every node reports a full pass under the newest version, until nothing moves.
    fn pass_all(&mut self) {
        for _ in 0..3 {
            let newest = self.cluster.rings.newest();
            let standings = self.cluster.rings.standings().map(|it| &it.place);
            let passes = standings.map(|place| (place.node, place.store, newest)).collect();
            self.apply(Command::RingPassed { passes });
        }
        let (oldest, newest) = self.versions();
        assert_eq!(oldest, newest, "all passed");
    }

    fn remove_silent(&mut self, nodes: &[u128]) {
        let nodes = nodes.iter().map(|&node| (NodeId(node), StoreId(node))).collect();
        self.apply(Command::RingRemoved { nodes });
    }

    fn take_back(&mut self, node: u128) {
        self.apply(Command::RingReturned { nodes: vec![(NodeId(node), StoreId(node))] });
    }

    fn ring(&mut self, change: RingChange, is_forced: bool) -> Output {
        let request = RequestId(self.index + 1);
        let asker = Asker { client: NodeId(3), request, session_index: LogIndex(0) };
        self.apply(Command::Client(asker, ClientChange::Ring { change, is_forced }))
    }

    /// A change that is carried out.
    #[track_caller]
    fn change(&mut self, change: RingChange) {
        let output = self.ring(change, false);
        assert!(matches!(output, Output::RingChanged { .. }), "{output:?}");
    }

    /// What a change is refused with, which then changes nothing.
    #[track_caller]
    fn no_change(&mut self, change: RingChange, is_forced: bool) -> (ErrorCode, String) {
        let before = self.cluster.rings.clone();
        let output = self.ring(change, is_forced);
        assert_eq!(self.cluster.rings, before);
        match output {
            Output::Refused { code, text } => (code, text),
            other => panic!("it is refused: {other:?}"),
        }
    }

    fn forget_storage(&mut self, node: u128) -> Output {
        let request = RequestId(self.index + 1);
        let asker = Asker { client: NodeId(3), request, session_index: LogIndex(0) };
        let (node, incarnation) = (NodeId(node), Incarnation(1));
        self.apply(Command::Client(asker, ClientChange::ForgetNode { node, incarnation }))
    }

    /// The oldest and the newest version.
    fn versions(&self) -> (u64, u64) {
        (self.cluster.rings.oldest().0, self.cluster.rings.newest().0)
    }

    /// Nodes and weights of the newest version.
    fn members(&self) -> Vec<(u128, u32)> {
        let members = self.cluster.rings.members(self.cluster.rings.newest());
        members.iter().map(|place| (place.node.0, place.weight)).collect()
    }

    fn state(&self, node: u128) -> RingState {
        self.cluster.rings.state(NodeId(node))
    }

    fn told(&self) -> Told {
        let bytes = self.cluster.rings.reply(&self.cluster.nodes);
        let record = Records::of(&bytes).next().unwrap().unwrap();
        let (reply, [members, addresses, older, older_members, runs]) =
            record.open::<RingReply, 5>().unwrap();
        let ring = |version: u64, members: &[RingMember]| {
            let members: Vec<Member> = members.iter().map(Member::from).collect();
            Ring::new(RingVersion(version), reply.partition_count, members).unwrap()
        };
        let mut rest = items_of::<RingMember>(older_members).unwrap();
        let mut read = |item: &OlderRing| {
            let (own, behind) = rest.split_at(item.member_count as usize);
            rest = behind;
            (ring(item.ring_version, own), item.holds_blocks == 1)
        };
        let older = items_of::<OlderRing>(older).unwrap().iter().map(&mut read).collect();
        assert!(rest.is_empty());
        let runs = items_of::<RegisterRun>(runs).unwrap();
        let parts = runs.iter().flat_map(|run| {
            std::iter::repeat_n(RingVersion(run.ring_version), run.part_count as usize)
        });
        Told {
            newest: ring(reply.ring_version, items_of::<RingMember>(members).unwrap()),
            older,
            parts: parts.collect(),
            addresses: String::from_utf8(addresses.to_vec()).unwrap(),
        }
    }

    /// Has all parts moved to the newest version.
    fn move_parts(&mut self) {
        let to = self.cluster.rings.newest();
        let active = self.told().parts;
        let part = |(part, from)| PartMove { part, from, to };
        let moves = (0..).zip(active).map(part).collect();
        self.apply(Command::RegistersActivated { moves });
    }
}

fn add(node: u128) -> RingChange {
    RingChange::Add { node: NodeId(node), weight: 0, zone: None }
}

fn drain(node: u128) -> RingChange {
    RingChange::Drain { node: NodeId(node) }
}

fn remove(node: u128) -> RingChange {
    RingChange::Remove { node: NodeId(node) }
}

#[test]
fn nodes_join_by_themselves_and_a_spare_waits_to_be_added() {
    let mut driven = Driven::new();
    assert_eq!(driven.versions(), (0, 0));
    assert_eq!(driven.told().newest.members(), []);
    driven.storage(1, 1, 100, "");
    assert_eq!((driven.versions(), driven.members()), ((1, 1), vec![(1, 100)]));
    driven.storage(2, 2, 0, "");
    assert_eq!(driven.versions(), (1, 1), "it owns nothing");
    assert_eq!(driven.state(2), RingState::Spare);
    // Again, and at another address: the same member.
    driven.storage(1, 1, 100, "");
    let moved = Registration {
        incarnation: Incarnation(2),
        address: "tcp://elsewhere".into(),
        store: StoreId(1),
        weight: 100,
        ..Registration::bare(NodeId(1), Role::Storage)
    };
    driven.apply(Command::Register(moved));
    assert_eq!(driven.versions(), (1, 1));
    assert_eq!(driven.told().addresses, "tcp://elsewhere");
    let (code, text) = driven.no_change(add(2), false);
    assert_eq!(code, ErrorCode::Invalid);
    assert!(text.contains("--weight"), "{text}");
    driven.change(RingChange::Add { node: NodeId(2), weight: 50, zone: None });
    assert_eq!((driven.versions(), driven.members()), ((1, 2), vec![(1, 100), (2, 50)]));
    assert_eq!(driven.state(2), RingState::Member);
}

#[test]
fn a_version_is_dropped_only_when_all_passed() {
    let mut driven = Driven::with_storage(3);
    let (_, before) = driven.versions();
    driven.storage(4, 4, 100, "");
    let newest = before + 1;
    assert_eq!(driven.versions(), (before, newest));
    driven.pass(&[(1, newest), (2, newest), (3, newest)]);
    assert_eq!(driven.versions(), (before, newest), "the new one has not passed");
    driven.pass(&[(4, newest - 1)]);
    assert_eq!(driven.versions(), (before, newest), "not under the newest");
    driven
        .apply(Command::RingPassed { passes: vec![(NodeId(4), StoreId(9), RingVersion(newest))] });
    assert_eq!(driven.versions(), (before, newest), "of another store");
    driven.pass(&[(4, newest + 1)]);
    assert_eq!(driven.versions(), (before, newest), "a version that there is not");
    driven.pass(&[(4, newest)]);
    assert_eq!(driven.versions(), (newest, newest));
    assert!(driven.told().older.iter().all(|(_, holds_blocks)| !holds_blocks));
}

#[test]
fn two_changes_in_a_row_are_both_waited_for() {
    let mut driven = Driven::with_storage(3);
    let (_, first) = driven.versions();
    driven.storage(4, 4, 100, "");
    driven.pass(&[(1, first + 1), (2, first + 1), (3, first + 1)]);
    // Before the last one passed, the next change: all have to pass again.
    driven.storage(5, 5, 100, "");
    driven.pass(&[(4, first + 1), (5, first + 2), (4, first + 2)]);
    assert_eq!(driven.versions(), (first, first + 2));
    driven.pass(&[(1, first + 2), (2, first + 2), (3, first + 2)]);
    assert_eq!(driven.versions(), (first + 2, first + 2));
}

#[test]
fn a_hundred_nodes_that_register_at_once_make_few_versions() {
    let mut driven = Driven::new();
    for node in 1..=100 {
        driven.storage(node, node, 100, "");
    }
    assert_eq!(driven.versions(), (1, 8));
    assert_eq!((driven.members().len(), driven.state(100)), (8, RingState::Spare));
    let passes: Vec<(u128, u64)> = (1..=8).map(|node| (node, 8)).collect();
    driven.pass(&passes);
    assert_eq!((driven.versions(), driven.members().len()), ((8, 9), 100));
    assert_eq!(driven.state(100), RingState::Member);
    driven.pass_all();
    assert_eq!(driven.versions(), (9, 9));
}

#[test]
fn a_member_that_never_answers_is_waited_for_until_it_is_removed() {
    let mut driven = Driven::with_storage(3);
    driven.storage(4, 4, 100, "");
    let (oldest, newest) = driven.versions();
    driven.pass(&[(1, newest), (2, newest), (3, newest)]);
    driven.remove_silent(&[4]);
    assert_eq!(driven.versions(), (oldest, newest + 1));
    assert_eq!(driven.state(4), RingState::Removed);
    // Once more, and of another store: nothing happens.
    driven.remove_silent(&[4]);
    driven.apply(Command::RingRemoved { nodes: vec![(NodeId(3), StoreId(9))] });
    assert_eq!(driven.versions(), (oldest, newest + 1));
    driven.pass(&[(1, newest + 1), (2, newest + 1), (3, newest + 1)]);
    assert_eq!(driven.versions(), (newest + 1, newest + 1));
}

#[test]
fn the_last_node_with_a_weight_stays() {
    let mut driven = Driven::with_storage(2);
    driven.storage(3, 3, 0, "");
    for change in [drain(1), remove(1)] {
        let mut driven = Driven { cluster: driven.cluster.clone(), index: driven.index };
        driven.change(change);
        for change in [drain(2), remove(2)] {
            let (code, text) = driven.no_change(change, true);
            assert_eq!(code, ErrorCode::NotAllowed);
            assert!(text.contains("the last one with a weight"), "{text}");
        }
    }
    driven.remove_silent(&[1, 2]);
    assert_eq!(driven.members(), [(2, 100)], "one of the two");
    driven.remove_silent(&[2]);
    assert_eq!(driven.members(), [(2, 100)]);
}

#[test]
fn one_change_at_a_time_unless_it_is_forced() {
    let mut driven = Driven::with_storage(4);
    driven.change(remove(4));
    let (code, text) = driven.no_change(remove(3), false);
    assert_eq!(code, ErrorCode::NotAllowed);
    assert!(text.contains("an earlier change is under way"), "{text}");
    // What is so already is no change, and rounds are none of the ring's versions.
    driven.change(add(1));
    driven.change(RingChange::Rebalance);
    driven.change(RingChange::Scrub);
    assert_eq!(driven.cluster.rings.rounds(), (1, 1));
    let (_, newest) = driven.versions();
    let output = driven.ring(remove(3), true);
    let version = RingVersion(newest + 1);
    assert_eq!(output, Output::RingChanged { version, index: LogIndex(driven.index) });
    // By force too only as long as there is room for what the dead need.
    for weight in 1.. {
        let heavier = RingChange::Add { node: NodeId(1), weight, zone: None };
        if driven.versions().1 - driven.versions().0 == 11 {
            let (_, text) = driven.no_change(heavier, true);
            assert!(text.contains("12 versions of the ring are not drained"), "{text}");
            break;
        }
        driven.ring(heavier, true);
    }
    driven.storage(6, 6, 100, "");
    assert_eq!(driven.state(6), RingState::Spare, "it waits");
    driven.remove_silent(&[2]);
    assert_eq!((driven.state(2), driven.state(6)), (RingState::Removed, RingState::Member));
}

#[test]
fn nobody_is_removed_where_there_is_no_room_for_a_version_without_it() {
    let mut driven = Driven::with_storage(4);
    let most = limits::RING_VERSIONS as u64;
    for round in 0..most {
        driven.remove_silent(&[4]);
        driven.take_back(4);
        driven.storage(1, 100 + u128::from(round), 100, "");
    }
    let (oldest, newest) = driven.versions();
    assert_eq!(newest - oldest + 1, most);
    driven.remove_silent(&[2, 3]);
    assert_eq!((driven.versions(), driven.state(2)), ((oldest, newest), RingState::Member));
}

#[test]
fn changes_of_what_is_no_member_are_refused() {
    let mut driven = Driven::with_storage(3);
    driven.apply(Command::Register(Registration::bare(NodeId(50), Role::Worker)));
    for node in [50, 51] {
        for change in [add(node), drain(node), remove(node)] {
            assert_eq!(driven.no_change(change, false).0, ErrorCode::NotFound);
        }
    }
    driven.change(remove(3));
    driven.pass_all();
    for change in [drain(3), remove(3)] {
        let (code, text) = driven.no_change(change, true);
        assert_eq!(code, ErrorCode::Invalid);
        assert!(text.contains("is removed: only a member"), "{text}");
    }
    let zone = Some("z".repeat(256));
    let change = RingChange::Add { node: NodeId(1), weight: 0, zone };
    assert_eq!(driven.no_change(change, false).0, ErrorCode::TooLarge);
}

#[test]
fn a_retried_change_has_the_effect_of_one() {
    let mut driven = Driven::with_storage(3);
    let asker = Asker { client: NodeId(3), request: RequestId(900), session_index: LogIndex(0) };
    let change = ClientChange::Ring { change: RingChange::Rebalance, is_forced: false };
    let first = driven.apply(Command::Client(asker, change.clone()));
    assert_eq!(driven.apply(Command::Client(asker, change)), first);
    assert_eq!(driven.cluster.rings.rounds(), (1, 0));
}

#[test]
fn a_drained_node_is_a_member_until_it_has_handed_over_everything() {
    let mut driven = Driven::with_storage(4);
    driven.move_parts();
    driven.change(drain(4));
    let newest = driven.versions().1;
    assert_eq!(driven.members(), [(1, 100), (2, 100), (3, 100), (4, 0)]);
    assert_eq!(driven.state(4), RingState::Draining);
    driven.pass(&[(1, newest), (2, newest), (3, newest)]);
    assert_eq!(driven.state(4), RingState::Draining, "it has not passed");
    driven.pass(&[(4, newest)]);
    assert_eq!(driven.versions(), (newest, newest));
    assert_eq!(driven.state(4), RingState::Draining, "it still has registers");
    driven.move_parts();
    assert_eq!(driven.state(4), RingState::Drained);
    assert_eq!(driven.members(), [(1, 100), (2, 100), (3, 100)]);
    // It stays out, also when it is started again.
    driven.storage(4, 4, 100, "");
    driven.storage(4, 44, 100, "");
    driven.take_back(4);
    assert_eq!((driven.versions(), driven.state(4)), ((newest, newest), RingState::Drained));
    driven.change(add(4));
    assert_eq!(driven.members().last(), Some(&(4, 100)));
}

#[test]
fn a_draining_node_is_kept_by_adding_it_again() {
    let mut driven = Driven::with_storage(3);
    driven.change(drain(3));
    assert!(matches!(driven.ring(add(3), true), Output::RingChanged { .. }));
    assert_eq!(driven.members(), [(1, 100), (2, 100), (3, 100)]);
    driven.pass_all();
    assert_eq!(driven.state(3), RingState::Member);
}

#[test]
fn one_that_was_silent_comes_back_when_it_is_heard_and_one_that_was_removed_stays_out() {
    let mut driven = Driven::with_storage(4);
    driven.remove_silent(&[4]);
    driven.pass_all();
    let (_, newest) = driven.versions();
    assert!(driven.cluster.rings.wants_back(NodeId(4), StoreId(4)));
    driven.take_back(4);
    assert_eq!((driven.state(4), driven.versions()), (RingState::Member, (newest, newest + 1)));
    // What it passed before it was away does not count.
    driven.pass(&[(1, newest + 1), (2, newest + 1), (3, newest + 1), (4, newest)]);
    assert_eq!(driven.versions(), (newest, newest + 1));
    driven.pass_all();
    driven.remove_silent(&[4]);
    driven.storage(4, 4, 100, "");
    assert_eq!(driven.state(4), RingState::Member, "it registered");
    driven.pass_all();

    driven.change(remove(4));
    driven.pass_all();
    let versions = driven.versions();
    driven.take_back(4);
    driven.storage(4, 4, 100, "");
    assert_eq!((driven.state(4), driven.versions()), (RingState::Removed, versions));
}

#[test]
fn another_store_is_another_member() {
    let mut driven = Driven::with_storage(3);
    let (_, before) = driven.versions();
    driven.storage(3, 33, 100, "");
    assert_eq!(driven.versions(), (before, before + 1));
    let newest = RingVersion(before + 1);
    assert_eq!(driven.cluster.rings.members(newest)[2].store, StoreId(33));
    driven.pass(&[(1, before + 1), (2, before + 1), (3, before + 1)]);
    assert_eq!(driven.versions(), (before, before + 1), "that was the lost store");
    let passes = vec![(NodeId(3), StoreId(33), newest)];
    driven.apply(Command::RingPassed { passes });
    assert_eq!(driven.versions(), (before + 1, before + 1));

    // A hundred that lost their stores while versions wait for them.
    for round in 0..100 {
        driven.storage(2, 200 + round, 100, "");
    }
    driven.pass_all();
    let rings = &driven.cluster.rings;
    assert_eq!(rings.place(NodeId(2)).map(|place| place.store), Some(StoreId(299)));
}

#[test]
fn what_changes_in_the_configuration_of_a_node_counts() {
    let mut driven = Driven::with_storage(3);
    driven.change(RingChange::Add { node: NodeId(1), weight: 70, zone: Some("a".into()) });
    driven.pass_all();
    let restart = |driven: &mut Driven, incarnation, weight, zone: &str| {
        let bare = Registration::bare(NodeId(1), Role::Storage);
        let (store, zone, incarnation) = (StoreId(1), zone.to_owned(), Incarnation(incarnation));
        let registration = Registration { store, zone, incarnation, weight, ..bare };
        driven.apply(Command::Register(registration));
    };
    restart(&mut driven, 2, 100, "");
    assert_eq!(driven.members()[0], (1, 70), "nothing changed there");
    restart(&mut driven, 3, 200, "b");
    let place = driven.cluster.rings.place(NodeId(1)).expect("a member");
    assert_eq!((place.weight, place.zone.as_str()), (200, "b"));
    driven.pass_all();
    restart(&mut driven, 4, 0, "b");
    assert_eq!(driven.state(1), RingState::Draining);
}

#[test]
fn a_storage_node_is_forgotten_when_nothing_lies_by_it() {
    let mut driven = Driven::with_storage(4);
    driven.move_parts();
    let refusal = |driven: &mut Driven| match driven.forget_storage(4) {
        Output::Refused { code: ErrorCode::NotAllowed, text } => text,
        other => panic!("it stays: {other:?}"),
    };
    assert!(refusal(&mut driven).contains("has a place in the ring"));
    driven.change(remove(4));
    assert!(refusal(&mut driven).contains("still being moved"));
    driven.pass_all();
    assert!(refusal(&mut driven).contains("still being moved"), "registers go by its version");
    driven.move_parts();
    assert!(matches!(driven.forget_storage(4), Output::NodeForgotten { .. }));
    // Whoever comes back is a new one.
    driven.storage(4, 4, 100, "");
    assert_eq!(driven.state(4), RingState::Member);
}

#[test]
fn a_storage_node_does_not_become_something_else() {
    let mut driven = Driven::with_storage(2);
    let worker = Registration::bare(NodeId(2), Role::Worker);
    let output = driven.apply(Command::Register(worker));
    assert!(matches!(output, Output::Refused { code: ErrorCode::NotAllowed, .. }), "{output:?}");
    assert_eq!(driven.state(2), RingState::Member);
}

#[test]
fn zones_have_the_same_numbers_in_all_versions_of_an_answer() {
    let mut driven = Driven::new();
    for (node, zone) in [(1, "m"), (2, "z"), (3, "a"), (4, "m")] {
        driven.storage(node, node, 100, zone);
    }
    let told = driven.told();
    assert_eq!(told.older.len(), 3);
    let all = told.older.iter().map(|(ring, _)| ring).chain([&told.newest]);
    for member in all.flat_map(Ring::members) {
        let zone = [1, 2, 0, 1][member.node.0 as usize - 1];
        assert_eq!(member.zone, zone, "{member:?}");
    }
    // Addresses stand for each member of each version, the newest first.
    let newest = "tcp://1/tcp://2/tcp://3/tcp://4/";
    let older = "tcp://1/tcp://2/tcp://3/tcp://1/tcp://2/tcp://1/";
    assert_eq!(told.addresses, format!("{newest}{older}"));
}

#[test]
fn parts_with_the_same_replicas_go_by_the_newest_version_at_once_and_others_are_moved() {
    let mut driven = Driven::with_storage(3);
    driven.move_parts();
    let before = driven.told();
    assert!(before.parts.iter().all(|version| *version == before.newest.version()));
    driven.storage(4, 4, 100, "");
    let told = driven.told();
    let mut stays = 0;
    for (part, active) in (0..).map(Part).zip(&told.parts) {
        let replicas = |ring: &Ring| {
            let mut nodes = register::replicas(ring, part);
            nodes.sort_unstable();
            nodes
        };
        let is_same = replicas(&before.newest) == replicas(&told.newest);
        let expected = if is_same { &told.newest } else { &before.newest };
        assert_eq!(*active, expected.version(), "{part:?}");
        stays += usize::from(is_same);
    }
    assert!((1..told.parts.len()).contains(&stays), "{stays} stay");
    let elsewhere = driven.cluster.rings.part_count_elsewhere();
    assert_eq!(elsewhere, (told.parts.len() - stays) as u64);

    // The same nodes, but one lost what it had.
    driven.pass_all();
    driven.move_parts();
    driven.storage(1, 11, 100, "");
    let lost = driven.told();
    for (part, active) in (0..).map(Part).zip(&lost.parts) {
        let has_lost = register::replicas(&lost.newest, part).contains(&NodeId(1));
        assert_eq!(*active < lost.newest.version(), has_lost, "{part:?}");
    }
}

#[test]
fn a_stale_activation_is_refused() {
    let mut driven = Driven::with_storage(3);
    driven.move_parts();
    driven.storage(4, 4, 100, "");
    driven.storage(5, 5, 100, "");
    let parts = driven.told().parts;
    let (first, newest) = (RingVersion(3), RingVersion(5));
    assert_eq!((parts.iter().min(), driven.versions()), (Some(&first), (3, 5)));
    let part = parts.iter().position(|version| *version == first).unwrap();
    let mut activate = |from: u64, to: u64| {
        let (from, to) = (RingVersion(from), RingVersion(to));
        let moves = vec![
            PartMove { part: part as u32, from, to },
            PartMove { part: 256, from, to },
            PartMove { part: u32::MAX, from, to },
        ];
        let output = driven.apply(Command::RegistersActivated { moves });
        assert_eq!(output, Output::RegistersActivated { index: LogIndex(driven.index) });
        driven.told().parts[part]
    };
    for (from, to) in [(2, 5), (4, 5), (3, 2), (3, 3), (3, 6), (3, 1)] {
        assert_eq!(activate(from, to), first, "{from} to {to}");
    }
    assert_eq!(activate(3, 5), newest);
    // Whoever moved it to the version between comes too late.
    for (from, to) in [(3, 4), (5, 4)] {
        assert_eq!(activate(from, to), newest);
    }
}

#[test]
fn a_version_is_kept_while_registers_go_by_it() {
    let mut driven = Driven::with_storage(3);
    driven.move_parts();
    driven.storage(4, 4, 100, "");
    driven.pass_all();
    let told = driven.told();
    let kept: Vec<(u64, bool)> =
        told.older.iter().map(|(ring, holds_blocks)| (ring.version().0, *holds_blocks)).collect();
    assert_eq!(kept, [(3, false)]);
    driven.move_parts();
    assert_eq!(driven.told().older.len(), 0);
    assert_eq!(driven.cluster.rings.part_count_elsewhere(), 0);
}

#[test]
fn a_snapshot_has_the_whole_ring() {
    let mut driven = Driven::with_storage(4);
    driven.move_parts();
    driven.storage(5, 5, 100, "zone");
    driven.remove_silent(&[2]);
    driven.ring(drain(1), true);
    driven.change(RingChange::Scrub);
    let bytes = Cluster::encode(&StateMachine::snapshot(&driven.cluster));
    let mut restored = Cluster::restore(&bytes).expect("what was encoded is read");
    restored.check_invariants();
    assert_eq!(restored, driven.cluster);
    assert_eq!(restored.digest(), driven.cluster.digest());
    let command = Command::RingReturned { nodes: vec![(NodeId(2), StoreId(2))] };
    for cluster in [&mut restored, &mut driven.cluster] {
        cluster.apply(LogIndex(900), 0, command.clone());
    }
    assert_eq!(restored.digest(), driven.cluster.digest());
}

/// One step of the walk below: what happens, and to which node.
fn steps() -> impl Strategy<Value = Vec<(u8, u128, bool)>> {
    prop::collection::vec((0u8..10, 1u128..8, any::<bool>()), 1..120)
}

proptest! {
    #[test]
    fn whatever_happens_the_invariants_hold_and_all_is_drained_in_the_end(steps in steps()) {
        let mut driven = Driven::new();
        driven.storage(1, 1, 100, "");
        let mut stores = 100;
        for (what, node, is_forced) in steps {
            let newest = driven.versions().1;
            match what {
                0 | 1 => drop(driven.storage(node, node, 100, ["", "z"][usize::from(is_forced)])),
                2 => {
                    stores += 1;
                    driven.storage(node, stores, 100, "");
                }
                3 => driven.remove_silent(&[node, node + 1]),
                4 => driven.take_back(node),
                5 => drop(driven.ring(drain(node), is_forced)),
                6 => drop(driven.ring(remove(node), is_forced)),
                7 => drop(driven.ring(add(node), is_forced)),
                8 => driven.pass(&[(node, newest), (node + 1, newest.saturating_sub(1))]),
                _ => driven.move_parts(),
            }
        }
        driven.pass_all();
        driven.move_parts();
        let (oldest, newest) = driven.versions();
        prop_assert_eq!(oldest, newest);
        prop_assert_eq!(driven.told().older.len(), 0);
        let rings = &driven.cluster.rings;
        prop_assert!(rings.standings().all(|it| rings.state(it.place.node) != RingState::Draining));
    }
}
