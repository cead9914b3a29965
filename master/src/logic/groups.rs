//! Balancer groups as the log has them: who holds the lease under which epoch, whether the
//! auxiliary knows how far the primary may have dealt, and which workers belong to whom.
//!
//! When a lease is over, a seat free or a group lost is the leader's matter (`leases.rs`); here is
//! what becomes of it then.

use std::collections::BTreeMap;

use proto::ids::{Epoch, Incarnation, LogIndex, NodeId};
use proto::status::Role;
use serde::{Deserialize, Serialize};

use super::grants::FIRST_GROUP;
use super::nodes::{Node, Nodes};

/// A primary balancer and its auxiliary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Holds the lease.
    pub primary: Option<NodeId>,
    /// Follows.
    pub auxiliary: Option<NodeId>,
    /// The epoch of the primary's lease.
    pub epoch: Epoch,
    /// Log index of the entry that granted the epoch.
    pub epoch_index: LogIndex,
    /// True where the primary, when it got the epoch, did not know how far the one before may have
    /// dealt: it takes all that was granted for dealt.
    pub is_all_dealt: bool,
    /// The incarnation of the auxiliary that knows how far the primary may have dealt.
    in_step: Option<Incarnation>,
    /// Slots of its workers but for those that are silent.
    pub slot_count: u64,
    /// Number of those workers.
    pub worker_count: u64,
}

impl Nodes {
    /// Gives a balancer a seat: the one that it has, else the first that is free, else a new
    /// group's. Whoever was restarted knows nothing any more: a primary gets a new epoch, an
    /// auxiliary must be told everything again.
    pub(super) fn seat_balancer(&mut self, balancer: NodeId, index: LogIndex) -> u64 {
        let seats = |group: &Group| [group.primary, group.auxiliary];
        let has =
            |seat: Option<NodeId>| move |(_, group): &(&u64, &Group)| seats(group).contains(&seat);
        let own = self.groups.iter().find(has(Some(balancer)));
        let found = own.or_else(|| self.groups.iter().find(has(None)));
        let found = found.map(|(&number, group)| (number, group.clone()));
        let (number, mut group) = found.unwrap_or_else(|| self.new_group());
        if group.primary.is_none() || group.primary == Some(balancer) {
            group.is_all_dealt = group.primary.is_some();
            group.primary = Some(balancer);
            self.next_epoch(&mut group, index);
        } else {
            group.auxiliary = Some(balancer);
            group.in_step = None;
        }
        self.groups.insert(number, group);
        number
    }

    /// A group under the next number.
    fn new_group(&mut self) -> (u64, Group) {
        self.last_group += 1;
        let number = self.last_group;
        // Workers that came before any balancer belong to the first group.
        let of_group = self.workers().filter(|node| node.group == number);
        let slots: Vec<u64> = of_group.map(Node::slot_count).filter(|slots| *slots > 0).collect();
        let (slot_count, worker_count) = (slots.iter().sum(), slots.len() as u64);
        (number, Group { slot_count, worker_count, ..Group::default() })
    }

    /// The group with the fewest slots.
    pub(super) fn lightest_group(&self) -> u64 {
        let lightest = self.groups.iter().min_by_key(|(_, group)| group.slot_count);
        lightest.map_or(FIRST_GROUP, |(&number, _)| number)
    }

    /// Number of the groups that have workers.
    #[must_use]
    pub fn ready_groups(&self) -> usize {
        self.groups.values().filter(|group| group.slot_count > 0).count()
    }

    pub(super) fn join_group(&mut self, node: &Node) {
        if let Some(group) = self.groups.get_mut(&node.group).filter(|_| node.slot_count() > 0) {
            group.slot_count += node.slot_count();
            group.worker_count += 1;
        }
    }

    pub(super) fn leave_group(&mut self, node: &Node) {
        if let Some(group) = self.groups.get_mut(&node.group).filter(|_| node.slot_count() > 0) {
            group.slot_count = group.slot_count.saturating_sub(node.slot_count());
            group.worker_count = group.worker_count.saturating_sub(1);
        }
    }

    /// An auxiliary is silent: its seat is free, and it must register again. Changes nothing where
    /// the epoch is another one by now, or the auxiliary is not the one that is meant.
    pub fn vacate_seat(&mut self, number: u64, epoch: Epoch, auxiliary: (NodeId, Incarnation)) {
        let (node, incarnation) = auxiliary;
        let is_meant = self.incarnation_of(node) == Some(incarnation);
        let Some(group) = self.groups.get_mut(&number) else { return };
        if group.epoch == epoch && group.auxiliary == Some(node) && is_meant {
            group.auxiliary = None;
            group.in_step = None;
            self.unseat(node);
        }
    }

    fn unseat(&mut self, balancer: NodeId) {
        if let Some(node) = self.nodes.get_mut(&balancer) {
            node.group = 0;
        }
    }

    /// A group is given up: its balancers must register again, its workers all go to the heir, and
    /// the ranges as well: what a worker runs then stays with whoever deals its range; the workers
    /// are balanced later. Returns the number from which attempts of its tasks count now; `None`
    /// where nothing was changed, because the epoch is another one by now, or the heir is gone.
    pub(super) fn lose_group(
        &mut self,
        number: u64,
        epoch: Epoch,
        heir: u64,
        index: LogIndex,
    ) -> Option<Epoch> {
        let group = self.groups.get(&number).filter(|group| group.epoch == epoch)?.clone();
        if heir == number || !self.groups.contains_key(&heir) {
            return None;
        }
        let workers = self.workers().filter(|node| node.group == number);
        let moves: Vec<(NodeId, u64)> =
            workers.map(|node| (node.registration.node, heir)).collect();
        self.move_workers(&moves, index);
        self.groups.remove(&number);
        for balancer in [group.primary, group.auxiliary].into_iter().flatten() {
            self.unseat(balancer);
        }
        self.last_epoch = self.last_epoch.next();
        Some(self.last_epoch)
    }

    /// Gives workers to other groups, under the number of this entry. What is no worker, or no
    /// group, is passed over.
    pub fn move_workers(&mut self, moves: &[(NodeId, u64)], index: LogIndex) {
        for &(worker, group) in moves {
            let Some(mut node) = self.nodes.get(&worker).cloned() else { continue };
            let is_worker = node.registration.role == Role::Worker;
            if !is_worker || node.group == group || !self.groups.contains_key(&group) {
                continue;
            }
            self.leave_group(&node);
            (node.group, node.index) = (group, index);
            self.join_group(&node);
            self.nodes.insert(worker, node);
            self.last_move = index;
        }
    }

    /// Walks the groups and panics on a broken invariant.
    pub(super) fn check_groups(&self) {
        let mut slots: BTreeMap<u64, u64> = BTreeMap::new();
        let mut workers: BTreeMap<u64, u64> = BTreeMap::new();
        let mut seats: BTreeMap<NodeId, u64> = BTreeMap::new();
        for node in self.workers() {
            *slots.entry(node.group).or_default() += node.slot_count();
            *workers.entry(node.group).or_default() += u64::from(node.slot_count() > 0);
        }
        for (&number, group) in &self.groups {
            assert!((FIRST_GROUP..=self.last_group).contains(&number), "groups are counted from 1");
            assert!(group.epoch <= self.last_epoch, "an epoch that was never given");
            assert!(group.primary.is_some(), "a group begins with its primary");
            assert_eq!(group.slot_count, slots.get(&number).copied().unwrap_or(0), "its slots");
            let counted = workers.get(&number).copied().unwrap_or(0);
            assert_eq!(group.worker_count, counted, "its workers");
            for balancer in [group.primary, group.auxiliary].into_iter().flatten() {
                assert_eq!(seats.insert(balancer, number), None, "a balancer has one seat");
                let node = self.nodes.get(&balancer).expect("a seat is that of a node");
                assert_eq!(node.group, number, "a balancer knows its group");
            }
        }
        let without = |group: &u64| *group != FIRST_GROUP && !self.groups.contains_key(group);
        assert!(!slots.keys().any(without), "a worker of a group that is gone");
        for node in self.nodes.values().filter(|it| it.registration.role == Role::Balancer) {
            let seat = seats.get(&node.registration.node).copied().unwrap_or(0);
            assert_eq!(node.group, seat, "a balancer that has a group has a seat");
        }
    }

    fn next_epoch(&mut self, group: &mut Group, index: LogIndex) {
        self.last_epoch = self.last_epoch.next();
        group.epoch = self.last_epoch;
        group.epoch_index = index;
        group.in_step = None;
    }

    /// The lease of an epoch is over: the auxiliary becomes the primary under the next one, and the
    /// other way round. Changes nothing where the epoch is another one by now, or the auxiliary is
    /// not the one that is meant. Returns true where it was promoted.
    pub fn expire_lease(
        &mut self,
        number: u64,
        epoch: Epoch,
        successor: (NodeId, Incarnation),
        index: LogIndex,
    ) -> bool {
        let Some(mut group) = self.groups.get(&number).cloned() else { return false };
        let (node, incarnation) = successor;
        let is_meant = self.incarnation_of(node) == Some(incarnation);
        if group.epoch != epoch || group.auxiliary != Some(node) || !is_meant {
            return false;
        }
        group.is_all_dealt = group.in_step != Some(incarnation);
        (group.primary, group.auxiliary) = (group.auxiliary, group.primary);
        self.next_epoch(&mut group, index);
        self.groups.insert(number, group);
        true
    }

    /// The primary of an epoch says whether its auxiliary knows how far it may have dealt.
    pub fn note_auxiliary(
        &mut self,
        number: u64,
        epoch: Epoch,
        incarnation: Incarnation,
        is_in_step: bool,
    ) {
        let Some(mut group) = self.groups.get(&number).cloned() else { return };
        let known = group.auxiliary.and_then(|node| self.incarnation_of(node));
        if group.epoch == epoch && known == Some(incarnation) {
            group.in_step = is_in_step.then_some(incarnation);
            self.groups.insert(number, group);
        }
    }

    /// The auxiliary of a group: who, in which incarnation, and whether it is in step.
    #[must_use]
    pub fn auxiliary_of(&self, group: &Group) -> Option<(NodeId, Incarnation, bool)> {
        let node = group.auxiliary?;
        let incarnation = self.incarnation_of(node)?;
        Some((node, incarnation, group.in_step == Some(incarnation)))
    }

    /// The newest incarnation of a node that registered.
    #[must_use]
    pub fn incarnation_of(&self, node: NodeId) -> Option<Incarnation> {
        self.nodes.get(&node).map(|node| node.registration.incarnation)
    }
}

#[cfg(test)]
mod tests;
