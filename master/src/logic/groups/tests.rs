//! Seats, and what becomes of groups by entries of the log.

use proto::status::Role;

use super::super::nodes::Registration;
use super::*;

const FIRST: NodeId = NodeId(1);
const SECOND: NodeId = NodeId(2);

fn register(nodes: &mut Nodes, node: NodeId, incarnation: u64, index: u64) {
    let registration = Registration {
        incarnation: Incarnation(incarnation),
        address: format!("tcp://10.0.0.{}:1", node.0),
        ..Registration::bare(node, Role::Balancer)
    };
    nodes.register(registration, LogIndex(index));
    nodes.check_invariants();
}

fn pair() -> Nodes {
    let mut nodes = Nodes::default();
    register(&mut nodes, FIRST, 1, 5);
    register(&mut nodes, SECOND, 1, 6);
    nodes
}

#[test]
fn an_auxiliary_in_step_is_promoted_with_what_it_knows() {
    let mut nodes = pair();
    nodes.note_auxiliary(1, Epoch(1), Incarnation(1), true);
    assert!(nodes.expire_lease(1, Epoch(1), (SECOND, Incarnation(1)), LogIndex(9)));
    let group = nodes.groups[&1].clone();
    assert_eq!((group.primary, group.auxiliary), (Some(SECOND), Some(FIRST)));
    assert_eq!((group.epoch, group.epoch_index), (Epoch(2), LogIndex(9)));
    assert!(!group.is_all_dealt);
    assert_eq!(nodes.auxiliary_of(&group), Some((FIRST, Incarnation(1), false)), "absent");
    // The entry comes a second time, from a leader that did not know of the first.
    assert!(!nodes.expire_lease(1, Epoch(1), (SECOND, Incarnation(1)), LogIndex(10)));
    assert_eq!(nodes.groups[&1], group);
}

#[test]
fn an_auxiliary_that_is_absent_is_promoted_as_if_all_had_been_dealt() {
    let mut nodes = pair();
    nodes.note_auxiliary(1, Epoch(1), Incarnation(1), true);
    nodes.note_auxiliary(1, Epoch(1), Incarnation(1), false);
    assert!(nodes.expire_lease(1, Epoch(1), (SECOND, Incarnation(1)), LogIndex(9)));
    assert!(nodes.groups[&1].is_all_dealt);
}

#[test]
fn an_auxiliary_that_was_restarted_is_absent_until_it_is_in_step_again() {
    let mut nodes = pair();
    nodes.note_auxiliary(1, Epoch(1), Incarnation(1), true);
    register(&mut nodes, SECOND, 2, 7);
    let group = nodes.groups[&1].clone();
    assert_eq!(nodes.auxiliary_of(&group), Some((SECOND, Incarnation(2), false)));
    // What the primary says of its predecessor is void.
    nodes.note_auxiliary(1, Epoch(1), Incarnation(1), true);
    assert!(!nodes.expire_lease(1, Epoch(1), (SECOND, Incarnation(1)), LogIndex(8)));
    assert!(nodes.expire_lease(1, Epoch(1), (SECOND, Incarnation(2)), LogIndex(9)));
    assert!(nodes.groups[&1].is_all_dealt);
}

#[test]
fn a_primary_that_was_restarted_gets_an_epoch_of_its_own_and_knows_nothing() {
    let mut nodes = pair();
    assert!(!nodes.groups[&1].is_all_dealt, "nobody dealt before the first");
    nodes.note_auxiliary(1, Epoch(1), Incarnation(1), true);
    register(&mut nodes, FIRST, 2, 7);
    let group = nodes.groups[&1].clone();
    assert_eq!((group.primary, group.epoch, group.is_all_dealt), (Some(FIRST), Epoch(2), true));
    assert_eq!(nodes.auxiliary_of(&group), Some((SECOND, Incarnation(1), false)));
}

#[test]
fn what_a_primary_says_after_its_epoch_is_void() {
    let mut nodes = pair();
    assert!(nodes.expire_lease(1, Epoch(1), (SECOND, Incarnation(1)), LogIndex(9)));
    let group = nodes.groups[&1].clone();
    nodes.note_auxiliary(1, Epoch(1), Incarnation(1), true);
    assert_eq!(nodes.groups[&1], group);
}

/// `count` balancers that register one after the other, the first at index 1.
fn balancers(count: u64) -> Nodes {
    let mut nodes = Nodes::default();
    for node in 1..=count {
        register(&mut nodes, NodeId(u128::from(node)), 1, node);
    }
    nodes
}

fn add_worker(nodes: &mut Nodes, number: u128, slot_count: u32, index: u64) -> u64 {
    let bare = Registration::bare(NodeId(100 + number), Role::Worker);
    let registration = Registration { slot_count, ..bare };
    nodes.register(registration, LogIndex(index));
    nodes.check_invariants();
    nodes.nodes[&NodeId(100 + number)].group
}

/// The seats of all groups: number, primary, auxiliary.
fn seats(nodes: &Nodes) -> Vec<(u64, u128, u128)> {
    let id = |seat: Option<NodeId>| seat.map_or(0, |node| node.0);
    nodes.groups.iter().map(|(&it, group)| (it, id(group.primary), id(group.auxiliary))).collect()
}

#[test]
fn two_balancers_are_a_pair_and_others_make_groups_of_their_own() {
    assert_eq!(seats(&balancers(1)), [(1, 1, 0)]);
    assert_eq!(seats(&balancers(2)), [(1, 1, 2)]);
    assert_eq!(seats(&balancers(3)), [(1, 1, 2), (2, 3, 0)]);
    assert_eq!(seats(&balancers(4)), [(1, 1, 2), (2, 3, 4)]);
    assert_eq!(seats(&balancers(5)), [(1, 1, 2), (2, 3, 4), (3, 5, 0)]);
    let nodes = balancers(5);
    let epochs: Vec<u64> = nodes.groups.values().map(|group| group.epoch.0).collect();
    assert_eq!(epochs, [1, 2, 3], "one counter for all groups");
}

#[test]
fn whoever_is_restarted_keeps_its_seat() {
    let mut nodes = balancers(5);
    let before = seats(&nodes);
    for (at, node) in [3, 4, 5, 1, 2].into_iter().enumerate() {
        register(&mut nodes, NodeId(node), 2, 10 + at as u64);
        assert_eq!(seats(&nodes), before);
    }
    assert_eq!(nodes.groups[&2].epoch, Epoch(4), "a primary has a new epoch");
    assert!(nodes.groups[&2].is_all_dealt);
    assert_eq!(nodes.last_epoch, Epoch(6), "an auxiliary has none");
    // The same incarnation asks again: nothing changes.
    let same = nodes.clone();
    register(&mut nodes, NodeId(3), 2, 20);
    assert_eq!(nodes, same);
}

#[test]
fn a_vacated_seat_is_the_next_ones_and_its_owner_gets_another() {
    let mut nodes = balancers(2);
    nodes.note_auxiliary(1, Epoch(1), Incarnation(1), true);
    let same = nodes.clone();
    nodes.vacate_seat(1, Epoch(7), (SECOND, Incarnation(1)));
    nodes.vacate_seat(1, Epoch(1), (SECOND, Incarnation(7)));
    nodes.vacate_seat(1, Epoch(1), (FIRST, Incarnation(1)));
    nodes.vacate_seat(2, Epoch(1), (SECOND, Incarnation(1)));
    assert_eq!(nodes, same, "another epoch, incarnation, seat or group is meant");
    nodes.vacate_seat(1, Epoch(1), (SECOND, Incarnation(1)));
    nodes.check_invariants();
    assert_eq!(seats(&nodes), [(1, 1, 0)]);
    assert!(nodes.nodes[&SECOND].has_lost_seat());
    // Nobody can be promoted who has no seat.
    assert!(!nodes.expire_lease(1, Epoch(1), (SECOND, Incarnation(1)), LogIndex(8)));
    // It comes back in the same incarnation, and finds its seat free.
    register(&mut nodes, SECOND, 1, 9);
    assert_eq!(seats(&nodes), [(1, 1, 2)]);
    assert_eq!(nodes.nodes[&SECOND].index, LogIndex(9));
    let group = nodes.groups[&1].clone();
    assert_eq!(nodes.auxiliary_of(&group), Some((SECOND, Incarnation(1), false)), "absent");
    // Now another one comes first.
    nodes.vacate_seat(1, Epoch(1), (SECOND, Incarnation(1)));
    register(&mut nodes, NodeId(3), 1, 10);
    register(&mut nodes, SECOND, 1, 11);
    assert_eq!(seats(&nodes), [(1, 1, 3), (2, 2, 0)]);
    // The word of the primary of an earlier auxiliary is void.
    nodes.vacate_seat(1, Epoch(1), (SECOND, Incarnation(1)));
    assert_eq!(seats(&nodes), [(1, 1, 3), (2, 2, 0)]);
}

#[test]
fn a_lost_group_gives_its_workers_to_the_heir_and_its_balancers_begin_anew() {
    let mut nodes = balancers(5);
    let groups: Vec<u64> = (0..6).map(|it| add_worker(&mut nodes, it, 4, 20 + it as u64)).collect();
    assert_eq!(groups, [1, 2, 3, 1, 2, 3], "a new worker goes to the lightest group");
    let same = nodes.clone();
    for (epoch, heir) in [(1, 1), (9, 1), (2, 2), (2, 7)] {
        assert_eq!(nodes.lose_group(2, Epoch(epoch), heir, LogIndex(30)), None);
        assert_eq!(nodes, same, "epoch {epoch}, heir {heir}");
    }
    assert_eq!(nodes.lose_group(2, Epoch(2), 1, LogIndex(30)), Some(Epoch(4)));
    nodes.check_invariants();
    assert_eq!(seats(&nodes), [(1, 1, 2), (3, 5, 0)]);
    let slots: Vec<u64> = nodes.groups.values().map(|group| group.slot_count).collect();
    assert_eq!((slots, nodes.last_move), (vec![16, 8], LogIndex(30)));
    for (worker, index) in [(101, 30), (104, 30), (100, 20), (102, 22)] {
        assert_eq!(nodes.nodes[&NodeId(worker)].index, LogIndex(index), "worker {worker}");
    }
    // The same entry from a leader that did not know of the first.
    let same = nodes.clone();
    assert_eq!(nodes.lose_group(2, Epoch(2), 1, LogIndex(31)), None);
    assert_eq!(nodes, same);
    // Both balancers come back, in the same incarnation: the free seats, in order.
    register(&mut nodes, NodeId(4), 1, 32);
    register(&mut nodes, NodeId(3), 1, 33);
    assert_eq!(seats(&nodes), [(1, 1, 2), (3, 5, 4), (4, 3, 0)], "no number is given twice");
    let group = &nodes.groups[&4];
    assert_eq!((group.epoch, group.is_all_dealt), (Epoch(5), false));
    assert_eq!(nodes.lose_group(2, Epoch(2), 1, LogIndex(34)), None, "that was another one");
}

#[test]
fn a_worker_that_is_moved_has_the_number_of_the_entry() {
    let mut nodes = balancers(3);
    add_worker(&mut nodes, 0, 4, 20);
    let moves = [(NodeId(100), 2), (NodeId(1), 2), (NodeId(55), 2), (NodeId(100), 9)];
    nodes.move_workers(&moves, LogIndex(30));
    nodes.check_invariants();
    let worker = &nodes.nodes[&NodeId(100)];
    assert_eq!((worker.group, worker.index), (2, LogIndex(30)));
    assert_eq!(nodes.nodes[&NodeId(1)].group, 1, "a balancer is not moved");
    // To where it is already: the same entry again.
    let same = nodes.clone();
    nodes.move_workers(&moves, LogIndex(31));
    assert_eq!(nodes, same);
    // It is restarted with more slots: its group stays.
    let bare = Registration::bare(NodeId(100), Role::Worker);
    let again = Registration { slot_count: 6, incarnation: Incarnation(2), ..bare };
    nodes.register(again, LogIndex(32));
    nodes.check_invariants();
    assert_eq!((nodes.nodes[&NodeId(100)].group, nodes.groups[&2].slot_count), (2, 6));
}

#[test]
fn workers_that_came_before_any_balancer_are_the_first_groups() {
    let mut nodes = Nodes::default();
    assert_eq!(add_worker(&mut nodes, 0, 4, 1), 1);
    assert_eq!(add_worker(&mut nodes, 1, 4, 2), 1);
    register(&mut nodes, FIRST, 1, 3);
    assert_eq!(nodes.groups[&1].slot_count, 8);
}
