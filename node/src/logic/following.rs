//! Which nodes are followed, and over which link each is asked for a snapshot.
//!
//! Ties [`super::updates`] to the network: a followed node is a link to its ordinary port, which
//! says who it is as soon as it is connected. Deliberately not here: the subscription itself, which
//! has no answer and no state; see [`crate::pubsub`].

use std::collections::BTreeMap;

use proto::catalogue::Numbered;
use proto::ids::NodeId;
use proto::messages::telemetry::{TelemetrySnapshot, TelemetrySnapshotRequest};
use proto::record::{self, Record, RecordError};
use proto::time::Instant;

use super::network::{Link, NetworkEffect, NetworkEvent, Peer};
use super::updates::{Update, UpdateEffect, Updates};

/// What following nodes wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FollowingEffect {
    /// For the network.
    Network(NetworkEffect),
    /// Hand this on.
    Deliver(Update),
}

/// The followed nodes.
#[derive(Debug, Default)]
pub struct Following {
    updates: Updates,
    /// The links that belong to us, and who was found behind each.
    links: BTreeMap<Link, Option<NodeId>>,
    nodes: BTreeMap<NodeId, Link>,
}

impl Following {
    /// Nobody yet.
    #[must_use]
    pub fn new() -> Following {
        Following::default()
    }

    /// Follows the node whose ordinary port is `address`, over a link of the caller's choice that
    /// is used for nothing else.
    pub fn follow(&mut self, link: Link, address: String, effects: &mut Vec<FollowingEffect>) {
        self.links.insert(link, None);
        effects.push(FollowingEffect::Network(NetworkEffect::Open { link, address }));
    }

    /// Follows the node behind a link no longer and forgets it.
    pub fn forget(&mut self, link: Link, effects: &mut Vec<FollowingEffect>) {
        let Some(node) = self.links.remove(&link) else { return };
        effects.push(FollowingEffect::Network(NetworkEffect::Close { link }));
        if let Some(node) = node
            && self.nodes.get(&node) == Some(&link)
        {
            self.nodes.remove(&node);
            self.updates.forget(node);
        }
    }

    /// A publication arrived.
    ///
    /// # Errors
    /// [`RecordError`] where it is none.
    pub fn publication(
        &mut self,
        now: Instant,
        record: &Record<'_>,
        effects: &mut Vec<FollowingEffect>,
    ) -> Result<(), RecordError> {
        let mut wanted = Vec::new();
        let taken = self.updates.publication(now, record, &mut wanted);
        self.perform(wanted, effects);
        taken
    }

    /// Something came from the network. True where it belongs to a link of ours, so that nobody
    /// else need look at it.
    ///
    /// # Errors
    /// [`RecordError`] where a snapshot is none of the node behind its link.
    pub fn network(
        &mut self,
        now: Instant,
        event: &NetworkEvent<'_>,
        effects: &mut Vec<FollowingEffect>,
    ) -> Result<bool, RecordError> {
        let mut wanted = Vec::new();
        let mut taken = Ok(());
        match event {
            NetworkEvent::Connected { link, sender, .. } if self.links.contains_key(link) => {
                if let Some(Some(former)) = self.links.insert(*link, Some(sender.node))
                    && former != sender.node
                {
                    // Another node took over the address.
                    self.nodes.remove(&former);
                    self.updates.forget(former);
                }
                if let Some(former) = self.nodes.insert(sender.node, *link)
                    && former != *link
                {
                    self.links.insert(former, None);
                }
                self.updates.connected(now, sender.node, &mut wanted);
            }
            NetworkEvent::Refused { link, .. } if self.links.contains_key(link) => {}
            NetworkEvent::Overflowing { peer: Peer::Link(link) }
                if self.links.contains_key(link) => {}
            NetworkEvent::Record { sender, record } => {
                let Peer::Link(link) = sender.peer else { return Ok(false) };
                if !self.links.contains_key(&link) {
                    return Ok(false);
                }
                // What else may come is a refusal of the request, which is repeated anyway.
                if record.message_type() == TelemetrySnapshot::NUMBER {
                    taken = if record.node() == sender.node {
                        self.updates.snapshot(record, &mut wanted)
                    } else {
                        let message_type = TelemetrySnapshot::NUMBER;
                        Err(RecordError::Value { message_type, field: "node_uuid" })
                    };
                }
            }
            _ => return Ok(false),
        }
        self.perform(wanted, effects);
        taken.map(|()| true)
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant, effects: &mut Vec<FollowingEffect>) {
        let mut wanted = Vec::new();
        self.updates.tick(now, &mut wanted);
        self.perform(wanted, effects);
    }

    /// When [`Following::tick`] wants to be called.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.updates.next_deadline()
    }

    /// Numbers, gaps and requests so far.
    #[must_use]
    pub fn updates(&self) -> &Updates {
        &self.updates
    }

    /// Asserts what holds between two calls.
    ///
    /// # Panics
    /// Where it does not: a bug.
    pub fn check_invariants(&self) {
        self.updates.check_invariants();
        for (node, link) in &self.nodes {
            assert_eq!(self.links.get(link), Some(&Some(*node)), "{node} behind {link:?}");
        }
    }

    fn perform(&self, wanted: Vec<UpdateEffect>, effects: &mut Vec<FollowingEffect>) {
        for effect in wanted {
            match effect {
                UpdateEffect::Deliver(update) => effects.push(FollowingEffect::Deliver(update)),
                // One that is not connected yet is asked as soon as it is.
                UpdateEffect::Ask(node) => {
                    if let Some(&link) = self.nodes.get(&node) {
                        let record = record::encode(&TelemetrySnapshotRequest::default(), &[]);
                        let send = NetworkEffect::Send { to: Peer::Link(link), record };
                        effects.push(FollowingEffect::Network(send));
                    }
                }
            }
        }
    }
}
