//! Balancer groups as the log has them: who holds the lease under which epoch, and whether the
//! auxiliary knows how far the primary may have dealt.
//!
//! When a lease is over is the leader's matter (`leases.rs`); here is what becomes of it then.

use proto::ids::{Epoch, Incarnation, LogIndex, NodeId};
use serde::{Deserialize, Serialize};

use super::nodes::Nodes;

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
}

impl Nodes {
    /// Gives a balancer a seat in group 1: the primary's where it is free or was its own, else the
    /// auxiliary's. Whoever was restarted knows nothing any more: a primary gets a new epoch, an
    /// auxiliary must be told everything again.
    pub(super) fn seat_balancer(&mut self, balancer: NodeId, index: LogIndex) -> u64 {
        const FIRST_GROUP: u64 = 1;
        let mut group = self.groups.get(&FIRST_GROUP).cloned().unwrap_or_default();
        if group.primary.is_none() || group.primary == Some(balancer) {
            group.is_all_dealt = group.primary.is_some();
            group.primary = Some(balancer);
            self.next_epoch(&mut group, index);
        } else {
            group.auxiliary = Some(balancer);
            group.in_step = None;
        }
        self.groups.insert(FIRST_GROUP, group);
        FIRST_GROUP
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
mod tests {
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
}
