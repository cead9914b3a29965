//! Plans come to an end, and make groups even.

use proptest::prelude::*;
use proto::ids::LogIndex;
use proto::status::Role;

use super::super::nodes::Registration;
use super::*;

/// Groups with workers of these slots, worker by worker.
fn groups(count: u64, workers: &[(u64, u32)]) -> Nodes {
    let mut nodes = Nodes::default();
    for balancer in 1..count * 2 {
        let bare = Registration::bare(NodeId(u128::from(balancer)), Role::Balancer);
        nodes.register(bare, LogIndex(balancer));
    }
    assert_eq!(nodes.groups.len() as u64, count);
    for (&(group, slot_count), number) in workers.iter().zip(1000..) {
        let bare = Registration::bare(NodeId(number), Role::Worker);
        nodes.register(Registration { slot_count, ..bare }, LogIndex(100));
        nodes.move_workers(&[(NodeId(number), group)], LogIndex(101));
    }
    nodes.check_invariants();
    nodes
}

fn slots(nodes: &Nodes) -> Vec<u64> {
    nodes.groups.values().map(|group| group.slot_count).collect()
}

/// All groups.
fn all(nodes: &Nodes) -> BTreeSet<u64> {
    nodes.groups.keys().copied().collect()
}

/// The moves where these groups have so much to do.
fn with(nodes: &Nodes, outstanding: &[(u64, u64)]) -> Vec<(NodeId, u64)> {
    moves(nodes, &Grants::of(outstanding), |_| true, &all(nodes))
}

fn plan(nodes: &Nodes) -> Vec<(NodeId, u64)> {
    with(nodes, &[])
}

#[test]
fn workers_of_one_group_are_shared_with_a_new_one() {
    let mut nodes = groups(2, &[(1, 4), (1, 4), (1, 4), (1, 4)]);
    assert!(is_uneven(&nodes));
    let moves = plan(&nodes);
    assert_eq!(moves.len(), 2);
    nodes.move_workers(&moves, LogIndex(200));
    assert_eq!(slots(&nodes), [8, 8]);
    assert!(plan(&nodes).is_empty() && !is_uneven(&nodes));
}

#[test]
fn a_single_worker_stays_and_so_does_what_is_even_enough() {
    assert!(plan(&groups(2, &[(1, 4)])).is_empty());
    assert!(plan(&groups(1, &[(1, 4), (1, 4)])).is_empty());
    // 8 and 9 slots differ by less than an eighth of 9.
    assert!(plan(&groups(2, &[(1, 4), (1, 4), (2, 8), (2, 1)])).is_empty());
}

#[test]
fn a_group_whose_slots_are_busy_gives_one_worker_and_no_more_to_an_idle_one() {
    let mut nodes = groups(2, &[(1, 4), (1, 4), (1, 4), (1, 4)]);
    let first = with(&nodes, &[(1, 100)]);
    assert_eq!(first.len(), 1, "so that the new group is granted tasks at all");
    nodes.move_workers(&first, LogIndex(200));
    assert!(with(&nodes, &[(1, 100)]).is_empty(), "what is granted stays where it is");
    // The new group has work for more; or the old one less than it has slots.
    assert_eq!(with(&nodes, &[(1, 100), (2, 4)]).len(), 1);
    assert_eq!(with(&nodes, &[(1, 11)]).len(), 1);
}

#[test]
fn workers_that_do_not_count_are_not_moved() {
    let nodes = groups(2, &[(1, 4), (1, 4), (1, 4), (1, 4)]);
    let is_alive = |node: &Node| node.registration.node.0 >= 1002;
    let moves = moves(&nodes, &Grants::default(), is_alive, &all(&nodes));
    assert_eq!(moves.len(), 1);
    assert!(moves.iter().all(|(worker, _)| worker.0 >= 1002));
}

#[test]
fn a_group_that_receives_none_is_given_none_and_may_give() {
    let nodes = groups(3, &[(1, 4), (1, 4), (1, 4), (1, 4), (2, 4)]);
    let moves = |receivers: &[u64]| {
        let receivers = receivers.iter().copied().collect();
        let plan = moves(&nodes, &Grants::default(), |_| true, &receivers);
        let mut groups: Vec<u64> = plan.into_iter().map(|(_, group)| group).collect();
        groups.sort_unstable();
        groups
    };
    assert_eq!(moves(&[1, 2]), [2]);
    assert_eq!(moves(&[2, 3]), [2, 3]);
    assert_eq!(moves(&[]), [0; 0]);
}

proptest! {
    #[test]
    fn plans_end_and_leave_no_move_that_would_help(
        count in 1u64..5,
        workers in prop::collection::vec((1u64..5, 0u32..40), 0..150),
    ) {
        let workers: Vec<(u64, u32)> =
            workers.into_iter().map(|(group, slots)| ((group - 1) % count + 1, slots)).collect();
        let mut nodes = groups(count, &workers);
        let squares = |nodes: &Nodes| -> u64 { slots(nodes).iter().map(|it| it * it).sum() };
        let mut entries = 0;
        loop {
            let moves = plan(&nodes);
            if moves.is_empty() {
                break;
            }
            prop_assert!(moves.len() <= MOVES);
            let before = squares(&nodes);
            nodes.move_workers(&moves, LogIndex(200 + entries));
            nodes.check_invariants();
            prop_assert!(squares(&nodes) < before);
            entries += 1;
            prop_assert!(entries < 20);
        }
        let (most, fewest) =
            (slots(&nodes).into_iter().max().unwrap(), slots(&nodes).into_iter().min().unwrap());
        let heaviest: Vec<u64> =
            nodes.groups.iter().filter(|(_, it)| it.slot_count == most).map(|(it, _)| *it).collect();
        let last = heaviest.last().unwrap();
        let of_heaviest = nodes.workers().filter(|node| node.group == *last);
        let mut fits = of_heaviest
            .map(Node::slot_count)
            .filter(|&slots| slots > 0 && slots < most - fewest);
        prop_assert!(!differ(most, fewest) || fits.next().is_none(), "{:?}", slots(&nodes));
    }
}
