//! To whom a group goes that is given up, and which workers go to other groups where all are led.
//!
//! The leader's soft state, as the leases are. Deliberately not here: when a lease is over
//! (`leases.rs`), and which moves make the groups even (`balance.rs`).

use std::collections::BTreeSet;

use proto::ids::NodeId;
use proto::time::{Duration, Instant};

use super::super::balance;
use super::super::commands::Command;
use super::super::grants::Grants;
use super::super::nodes::{Node, Nodes};
use super::{ALL_GROUPS, Leases, Proposal, Proposed};

/// How long all leases must have been held before workers are moved, and the time between two
/// entries that move some.
const SETTLED: Duration = Duration::from_secs(1);

/// How long a balancer is left out whose group was given up because it reached no worker, the
/// first time; twice as long each time after. What it was granted stands still for some seven
/// seconds before the group is given up, a third of this (eyeballed).
pub(super) const FIRST_REST: Duration = Duration::from_secs(20);

/// How often that is doubled at most: to some twenty minutes.
const DOUBLINGS: u32 = 6;

/// A balancer whose group was given up because it reached no worker: it is given none for a while.
#[derive(Clone, Copy, Debug)]
pub(super) struct BackOff {
    /// How often that was so since it last reached one.
    times: u32,
    /// It is given workers again then.
    until: Instant,
}

impl Leases {
    /// Other groups that somebody leads, and whether that one reaches a worker.
    fn heirs(&self, now: Instant, lost: u64, nodes: &Nodes) -> impl Iterator<Item = (u64, bool)> {
        let others = nodes.groups.iter().filter(move |(number, _)| **number != lost);
        others.filter_map(move |(number, group)| {
            let lease = self.leases.get(number)?;
            let heard = self.heard.get(&group.primary?);
            let reaches = heard.is_some_and(|heard| heard.reachable_count > 0);
            lease.is_held(now, Duration::ZERO).then_some((*number, reaches))
        })
    }

    /// True where another group is led by a balancer that reaches workers.
    pub(super) fn is_other_reaching(&self, now: Instant, number: u64, nodes: &Nodes) -> bool {
        self.heirs(now, number, nodes).any(|(_, reaches)| reaches)
    }

    /// Who goes on with what a lost group has: the lightest of those that reach workers, one that
    /// has workers before one that has none. Where nobody reaches any and nobody leads the group,
    /// the lightest that is led: its workers come with it. `None` where there is none.
    pub(super) fn heir(
        &self,
        now: Instant,
        lost: u64,
        is_left: bool,
        nodes: &Nodes,
    ) -> Option<u64> {
        let must_reach = !is_left || self.is_other_reaching(now, lost, nodes);
        let heirs = self.heirs(now, lost, nodes).filter(|(_, reaches)| *reaches || !must_reach);
        let slots = |number: &u64| nodes.groups.get(number).map_or(0, |group| group.slot_count);
        let numbers = heirs.map(|(number, _)| number);
        numbers.min_by_key(|number| (slots(number) == 0, slots(number)))
    }

    /// The workers of a group that nobody of it reached.
    pub(super) fn suspect(&mut self, group: u64, nodes: &Nodes) {
        let of_group = nodes.workers().filter(|node| node.group == group);
        let known = of_group.map(|node| (node.registration.node, node.registration.incarnation));
        self.suspects.extend(known);
    }

    /// These balancers reached no worker, and are left out for longer each time. Where that is
    /// said again of the same time, it counts once.
    pub(super) fn leave_out(
        &mut self,
        now: Instant,
        balancers: impl Iterator<Item = NodeId>,
        nodes: &Nodes,
    ) {
        self.back_offs.retain(|node, _| nodes.nodes.contains_key(node));
        for node in balancers {
            let known = self.back_offs.get(&node).copied();
            if known.is_some_and(|it| now < it.until) {
                continue;
            }
            let times = known.map_or(0, |it| it.times.saturating_add(1).min(DOUBLINGS));
            let until = now + FIRST_REST.times(1 << times);
            self.back_offs.insert(node, BackOff { times, until });
        }
    }

    /// True where a group is given no workers: all its balancers are left out, and another group is
    /// there that reaches some.
    fn is_left_out(&self, now: Instant, number: u64, nodes: &Nodes) -> bool {
        let Some(group) = nodes.groups.get(&number) else { return false };
        let is_off = |node: NodeId| self.back_offs.get(&node).is_some_and(|it| now < it.until);
        let mut seats = [group.primary, group.auxiliary].into_iter().flatten();
        seats.all(is_off) && self.is_other_reaching(now, number, nodes)
    }

    /// True where the primary of a group that has workers reaches none of them, and another group is
    /// there that reaches some: more workers would be lost to it as well.
    fn has_lost_sight(&self, now: Instant, number: u64, nodes: &Nodes) -> bool {
        let primary = nodes.groups.get(&number).and_then(|group| group.primary);
        let heard = primary.and_then(|primary| self.heard.get(&primary));
        let reaches = heard.is_some_and(|heard| heard.reachable_count > 0);
        let has_workers = nodes.workers().any(|node| node.group == number);
        has_workers && !reaches && self.is_other_reaching(now, number, nodes)
    }

    /// Balances the groups' workers where all are led.
    pub(super) fn balance(
        &mut self,
        now: Instant,
        nodes: &Nodes,
        grants: &Grants,
    ) -> Option<Proposal> {
        let is_due = nodes.groups.len() > 1 && now >= self.move_due && self.moving.is_none();
        if !is_due || !balance::is_uneven(nodes) && self.suspects.is_empty() {
            return None;
        }
        if !self.leases.values().all(|lease| lease.is_held(now, SETTLED)) {
            return None;
        }
        self.move_due = now + SETTLED;
        self.clear_suspects(nodes);
        let is_trusted = |node: &Node| {
            self.suspects.get(&node.registration.node) != Some(&node.registration.incarnation)
        };
        let groups = nodes.groups.keys().copied();
        let is_fit = |number| {
            !self.is_left_out(now, number, nodes) && !self.has_lost_sight(now, number, nodes)
        };
        let receivers: BTreeSet<u64> = groups.filter(|&number| is_fit(number)).collect();
        let moves = balance::moves(nodes, grants, is_trusted, &receivers);
        if moves.is_empty() {
            return None;
        }
        let command = Command::WorkersMoved { moves };
        let serial = self.last_serial.give_next();
        self.moving = Some(Proposed::new(command.clone(), serial));
        Some((ALL_GROUPS, serial, command))
    }

    /// Suspects nobody any more where all workers of all groups are reached but those that the log
    /// has as silent.
    fn clear_suspects(&mut self, nodes: &Nodes) {
        if self.suspects.is_empty() {
            return;
        }
        let are_reached = nodes.groups.iter().all(|(&number, group)| {
            let heard = group.primary.and_then(|primary| self.heard.get(&primary));
            let reached = heard.map_or(0, |heard| heard.reachable_count as usize);
            let is_there = |node: &&Node| node.group == number && node.slot_count() > 0;
            reached >= nodes.workers().filter(is_there).count()
        });
        if are_reached {
            self.suspects.clear();
        }
    }
}
