//! Which workers go to another group, so that all groups have about as many slots: a pure plan,
//! made by the leader and carried out by a log entry.
//!
//! A move makes the sum of the squares of the groups' slots smaller, so plans come to an end, and
//! where none is made nothing is logged.

use std::collections::{BTreeMap, BTreeSet};

use proto::ids::NodeId;

use super::grants::Grants;
use super::nodes::{Node, Nodes};

/// Workers that one entry moves at most.
const MOVES: usize = 64;

/// Groups differ too much where the lightest has this part of the heaviest less: one eighth. A
/// smaller difference is not worth the links that a move costs (eyeballed).
const PART: u64 = 8;

/// True where groups differ so much that a plan is worth making.
pub(super) fn is_uneven(nodes: &Nodes) -> bool {
    let slots = || nodes.groups.values().map(|group| group.slot_count);
    let (heaviest, lightest) = (slots().max().unwrap_or(0), slots().min().unwrap_or(0));
    differ(heaviest, lightest)
}

fn differ(heaviest: u64, lightest: u64) -> bool {
    (heaviest - lightest) * PART > heaviest
}

/// A group as a plan sees it.
#[derive(Debug, Default)]
struct Side {
    slots: u64,
    /// Slots and UUID of each worker that may be moved.
    workers: Vec<(u64, NodeId)>,
}

/// Workers with their new groups, those of `counts` only, and none for a group beside `receivers`. A
/// group whose slots are busy gives workers only to one that has work for them: granted tasks stay
/// where they are.
pub(super) fn moves(
    nodes: &Nodes,
    grants: &Grants,
    counts: impl Fn(&Node) -> bool,
    receivers: &BTreeSet<u64>,
) -> Vec<(NodeId, u64)> {
    let mut sides: BTreeMap<u64, Side> =
        nodes.groups.keys().map(|&number| (number, Side::default())).collect();
    for node in nodes.workers().filter(|node| node.slot_count() > 0 && counts(node)) {
        if let Some(side) = sides.get_mut(&node.group) {
            side.slots += node.slot_count();
            side.workers.push((node.slot_count(), node.registration.node));
        }
    }
    let mut moves: BTreeMap<NodeId, u64> = BTreeMap::new();
    while moves.len() < MOVES {
        let slots = |(&number, side): (&u64, &Side)| (side.slots, number);
        let received = sides.iter().filter(|(number, _)| receivers.contains(number));
        let Some((lightest, to)) = received.map(slots).min() else { break };
        let Some((heaviest, from)) = sides.iter().map(slots).max() else { break };
        let has_work = |group| grants.outstanding(group) >= sides[&group].slots;
        let is_useful = lightest == 0 || !has_work(from) || has_work(to) || grants.has_ungranted();
        if !differ(heaviest, lightest) || !is_useful {
            break;
        }
        let gap = heaviest - lightest;
        let Some(side) = sides.get_mut(&from) else { break };
        // The one after which they differ least.
        let fits = side.workers.iter().enumerate().filter(|(_, (slots, _))| *slots < gap);
        let best = fits.min_by_key(|(_, (slots, node))| (gap.abs_diff(2 * slots), *node));
        let Some((at, &(slots, worker))) = best else { break };
        side.workers.swap_remove(at);
        side.slots -= slots;
        if let Some(side) = sides.get_mut(&to) {
            side.slots += slots;
            side.workers.push((slots, worker));
        }
        moves.insert(worker, to);
    }
    // One that came back to where it was has not moved.
    moves.retain(|worker, to| nodes.nodes.get(worker).is_some_and(|node| node.group != *to));
    moves.into_iter().collect()
}

#[cfg(test)]
mod tests;
