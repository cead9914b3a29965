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
        let Some(node) = self.links.remove(&link) else {
            return;
        };
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
                let Peer::Link(link) = sender.peer else {
                    return Ok(false);
                };
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

#[cfg(test)]
mod tests {
    use proto::ids::{ClusterId, Incarnation, LogIndex, RequestId};
    use proto::record::Records;
    use proto::status::Role;

    use super::super::network::Sender;
    use super::super::updates::Publications;
    use super::*;

    const NOW: Instant = Instant(1);
    const LINK: Link = Link(3);

    fn sender(link: Link, node: u128) -> Sender {
        let (role, incarnation) = (Role::Worker, Incarnation(1));
        Sender { peer: Peer::Link(link), node: NodeId(node), role, incarnation }
    }

    fn connected(link: Link, node: u128) -> NetworkEvent<'static> {
        NetworkEvent::Connected {
            link,
            sender: sender(link, node),
            cluster: ClusterId(1),
            applied_index: LogIndex(0),
            window: 0,
            masters: String::new(),
            again: false,
        }
    }

    fn status(node: u128) -> (Vec<u8>, Vec<u8>) {
        let mut publications = Publications::new(NodeId(node), Role::Worker, Incarnation(1));
        let status = publications.status(b"{}").to_vec();
        let mut snapshot = publications.snapshot(RequestId(0));
        record::stamp(&mut snapshot, NodeId(node), 1, 1);
        (status, snapshot)
    }

    /// What came of an event: whose it was, and where requests went.
    fn heard(
        following: &mut Following,
        event: &NetworkEvent<'_>,
    ) -> (Result<bool, RecordError>, Vec<FollowingEffect>) {
        let mut effects = Vec::new();
        let ours = following.network(NOW, event, &mut effects);
        following.check_invariants();
        (ours, effects)
    }

    fn asks(effects: &[FollowingEffect], link: Link) -> bool {
        matches!(effects, [FollowingEffect::Network(NetworkEffect::Send { to, .. })]
            if *to == Peer::Link(link))
    }

    fn following() -> Following {
        let mut following = Following::new();
        following.follow(LINK, "tcp://a:1".into(), &mut Vec::new());
        following
    }

    #[test]
    fn links_of_others_are_left_alone() {
        let mut following = following();
        assert_eq!(heard(&mut following, &connected(Link(4), 7)), (Ok(false), vec![]));
        let (_, snapshot) = status(7);
        let record = Records::of(&snapshot).next().unwrap().unwrap();
        let event = NetworkEvent::Record { sender: sender(Link(4), 7), record };
        assert_eq!(heard(&mut following, &event), (Ok(false), vec![]));
    }

    #[test]
    fn a_node_is_asked_as_soon_as_it_is_connected_and_not_before() {
        let mut following = following();
        let mut publications = Publications::new(NodeId(7), Role::Worker, Incarnation(1));
        publications.status(b"lost");
        let gap = publications.status(b"{}").to_vec();
        let record = Records::of(&gap).next().unwrap().unwrap();
        let mut effects = Vec::new();
        following.publication(NOW, &record, &mut effects).unwrap();
        assert_eq!(effects, []);
        let (ours, effects) = heard(&mut following, &connected(LINK, 7));
        assert!(ours == Ok(true) && asks(&effects, LINK), "{effects:?}");
    }

    #[test]
    fn a_snapshot_counts_only_from_the_node_behind_the_link() {
        let mut following = following();
        assert_eq!(heard(&mut following, &connected(LINK, 7)).0, Ok(true));
        let (_, foreign) = status(8);
        let record = Records::of(&foreign).next().unwrap().unwrap();
        let event = NetworkEvent::Record { sender: sender(LINK, 7), record };
        let (taken, effects) = heard(&mut following, &event);
        assert!(taken.is_err() && effects.is_empty());
    }

    #[test]
    fn another_node_at_the_address_takes_the_place_of_the_former() {
        let mut following = following();
        assert_eq!(heard(&mut following, &connected(LINK, 7)).0, Ok(true));
        let (_, effects) = heard(&mut following, &connected(LINK, 8));
        assert!(asks(&effects, LINK), "{effects:?}");
        // Node 8 is now found under another address, too: the newest link counts.
        following.follow(Link(5), "tcp://b:1".into(), &mut Vec::new());
        let (_, effects) = heard(&mut following, &connected(Link(5), 8));
        assert!(asks(&effects, Link(5)), "{effects:?}");
        let mut effects = Vec::new();
        following.forget(LINK, &mut effects);
        following.check_invariants();
        assert_eq!(following.nodes.len(), 1);
        following.forget(Link(5), &mut effects);
        following.check_invariants();
        assert!(following.nodes.is_empty() && following.next_deadline().is_none());
    }
}
