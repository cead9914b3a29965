//! Nodes that left: workers that are silent, whose slots do not count, and nodes that are
//! forgotten.
//!
//! Part of `apply`. Whether a node is alive is not known here, only what was said of it and what it
//! holds; whether the ring still needs a storage node is told by `ring`. One that was forgotten by mistake, or is silent to its primary alone, registers again:
//! workers and balancers ask for their place every ten seconds. Deliberately not here: masters, who
//! are replaced and not forgotten.

use proto::ids::{Epoch, Incarnation, LogIndex, NodeId};
use proto::status::{ErrorCode, Role};

use super::commands::Output;
use super::nodes::{Node, Nodes};

impl Nodes {
    /// True where the slots of a worker, in this incarnation, count for a group.
    pub(super) fn counts(&self, group: u64, (id, incarnation): (NodeId, Incarnation)) -> bool {
        let node = self.nodes.get(&id).filter(|node| node.group == group && !node.is_silent);
        node.is_some() && self.is_worker(id, incarnation)
    }

    /// The primary of an epoch has not heard of workers for long: their slots do not count until
    /// they register again.
    pub(super) fn silence(&mut self, group: u64, epoch: Epoch, workers: &[(NodeId, Incarnation)]) {
        if self.groups.get(&group).is_none_or(|group| group.epoch != epoch) {
            return;
        }
        for &worker in workers {
            if self.counts(group, worker)
                && let Some(node) = self.nodes.get(&worker.0).cloned()
            {
                self.leave_group(&node);
                self.nodes.insert(worker.0, Node { is_silent: true, ..node });
            }
        }
    }

    /// A node that was silent said that it is there.
    pub(super) fn end_silence(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get(&id).filter(|node| node.is_silent).cloned() {
            let node = Node { is_silent: false, ..node };
            self.join_group(&node);
            self.nodes.insert(id, node);
        }
    }

    /// Takes a node in the incarnation that is gone out of the roster. Refused where it is another
    /// incarnation by now, and where something is bound to the node; `ring_bond` says what of the
    /// ring is.
    pub(super) fn forget(
        &mut self,
        id: NodeId,
        incarnation: Incarnation,
        ring_bond: Option<String>,
        index: LogIndex,
    ) -> Output {
        let Some(node) = self.nodes.get(&id).cloned() else {
            return Output::refused(ErrorCode::NotFound, format!("there is no node {id}"));
        };
        let known = node.registration.incarnation;
        if known != incarnation {
            let text = format!("node {id} was started again: incarnation {known} has registered");
            return Output::refused(ErrorCode::OldEpoch, text);
        }
        if let Some(text) = bond(id, &node).or(ring_bond) {
            return Output::refused(ErrorCode::NotAllowed, text);
        }
        self.leave_group(&node);
        self.nodes.remove(&id);
        Output::NodeForgotten { index }
    }

    /// True where this is the newest incarnation of a worker of the roster.
    #[must_use]
    pub fn is_worker(&self, id: NodeId, incarnation: Incarnation) -> bool {
        let registration = self.nodes.get(&id).map(|node| &node.registration);
        registration.is_some_and(|it| it.role == Role::Worker && it.incarnation == incarnation)
    }
}

/// Why a node has to stay, in words; `None` where it may go.
fn bond(id: NodeId, node: &Node) -> Option<String> {
    match node.registration.role {
        Role::Balancer if node.group != 0 => Some(format!(
            "balancer {id} has a seat in group {}: it is free some seconds after the balancer fell \
             silent; one that was alone keeps it until another balancer was started",
            node.group
        )),
        Role::Master => Some(format!(
            "node {id} is a master: one that is gone is replaced by another one under its address"
        )),
        _ => None,
    }
}
