//! What reconcile does with each of the other nodes: offers, blocks on their way, answers.

use node::logic::network::{Link, NetworkEffect, Peer as NetworkPeer};
use node::logic::refusal::Refusal;
use proto::ids::{BlockId, NodeId, RequestId, RingVersion};
use proto::messages::file::{BlockOffer, BlockOffered, BlockStored, OfferedBlock};
use proto::record::{self, Record};
use proto::status::{ErrorCode, OfferState};
use proto::time::{Duration, Instant};
use proto::wire::bytes_of;

use super::peers::{LONGEST_PAUSE, Offer};
use super::{Reconcile, Scene};
use crate::logic::{Effect, Form, Pending, Ticket};

/// Blocks of one offer.
const OFFER_COUNT: usize = 1024;

/// Bytes of the blocks of one offer, at least one: what the other node expects then is soon there.
const OFFER_BYTES: u64 = 64 << 20;

/// Longest time that the blocks of one offer take at the throttled rate.
const OFFER_SPAN: Duration = Duration::from_millis(4_000);

/// When a block that another node sends is asked for again.
const EXPECTED_PAUSE: Duration = Duration::from_millis(500);

impl Reconcile {
    /// Does what is due. Answers whether a node did not answer.
    pub(in crate::logic) fn tick(&mut self, scene: &mut Scene<'_>, round: u64) -> bool {
        self.begin_pass(scene, round);
        let has_silent = self.peers.tick(scene.now, scene.effects);
        for node in self.peers.nodes() {
            self.drive(scene, node);
        }
        self.delete(scene);
        self.list(scene);
        self.end_pass(scene);
        self.list(scene);
        has_silent
    }

    /// When [`Reconcile::tick`] has something to do.
    pub(in crate::logic) fn next_deadline(&self) -> Option<Instant> {
        let pass = self.next_pass.filter(|_| self.pass.is_none() && self.barrier.is_empty());
        [pass, self.peers.next_deadline(self.throttle.ready_at())].into_iter().flatten().min()
    }

    fn drive(&mut self, scene: &mut Scene<'_>, node: NodeId) {
        let peer = self.peers.get(node);
        if !peer.is_ready(scene.now) || !(peer.takes_offers() || peer.takes_blocks()) {
            return;
        }
        let Some(address) = scene.rings.address(node) else {
            return self.peers.unreachable(scene.now, node, scene.effects);
        };
        let Some(link) = self.peers.link(scene.now, node, address, scene.effects) else { return };
        self.send_wanted(scene, node);
        if self.peers.get(node).takes_offers() {
            self.send_offers(scene, node, link);
        }
    }

    fn send_offers(&mut self, scene: &mut Scene<'_>, node: NodeId, link: Link) {
        let most = self.throttle.bytes_in(OFFER_SPAN).min(OFFER_BYTES);
        let (mut offers, mut items, mut bytes) = (Vec::new(), Vec::new(), 0u64);
        while offers.len() < OFFER_COUNT && (bytes < most || offers.is_empty()) {
            let Some(block) = self.peers.get(node).queue.pop_first() else { break };
            let item = self.items.get(&block).filter(|item| item.missing.contains(&node));
            let Some(held) = item.map(|item| item.held) else { continue };
            bytes += u64::from(held.length);
            let (stamp, replica_count) = (held.stamp, held.replica_count);
            offers.push(Offer { block, stamp, replica_count });
            items.push(OfferedBlock {
                block_uuid: block.to_wire(),
                stamp,
                length: held.length,
                kind: held.kind.to_wire(),
                replica_count,
            });
        }
        if offers.is_empty() {
            return;
        }
        let offer = BlockOffer { ring_version: self.version.0, ..BlockOffer::default() };
        let mut record = record::encode(&offer, &[bytes_of(&items)]);
        let request_id = self.peers.offers_sent(scene.now, node, offers);
        record::set_request_id(&mut record, request_id);
        let to = NetworkPeer::Link(link);
        scene.effects.push(Effect::Network(NetworkEffect::Send { to, record }));
    }

    fn send_wanted(&mut self, scene: &mut Scene<'_>, node: NodeId) {
        while self.throttle.ready_at() <= scene.now
            && self.peers.has_room()
            && self.peers.get(node).takes_blocks()
            && let Some(block) = self.peers.get(node).wanted.pop_front()
        {
            let item = self.items.get(&block).filter(|item| item.missing.contains(&node));
            let Some(held) = item.map(|item| item.held) else { continue };
            let (stamp, replica_count) = (held.stamp, held.replica_count);
            let ticket = scene.works.begin(Pending::Hand { node, block });
            self.throttle.take(scene.now, u64::from(held.length));
            self.peers.reads(node, ticket, Offer { block, stamp, replica_count }, held.length);
            let form = Form::Handed { ring_version: self.version, stamp, replica_count };
            scene.effects.push(Effect::Read { ticket, block, form });
        }
    }

    /// A block that is to be sent was read, or could not be.
    pub(in crate::logic) fn read(
        &mut self,
        scene: &mut Scene<'_>,
        ticket: Ticket,
        (node, block): (NodeId, BlockId),
        is_there: bool,
    ) {
        match self.peers.read(scene.now, node, ticket, is_there) {
            Some((to, request_id)) => {
                scene.effects.push(Effect::Answer { to, request_id, ticket });
            }
            None if is_there => scene.effects.push(Effect::Discard { ticket }),
            None => self.peers.offer_later(node, block, scene.now + LONGEST_PAUSE),
        }
    }

    /// A block is not here any more: it was damaged.
    pub(in crate::logic) fn lost(&mut self, block: BlockId) {
        self.finish(block);
    }

    /// A node answered offers.
    pub(in crate::logic) fn offered(
        &mut self,
        scene: &mut Scene<'_>,
        link: Link,
        record: &Record<'_>,
    ) {
        let Some(node) = self.peers.node_at(link) else { return };
        let Some(offers) = self.peers.answered(node, record.request_id()) else { return };
        let opened = record.open::<BlockOffered, 1>().ok();
        let states = opened.filter(|(head, [states])| {
            RingVersion(head.ring_version) == self.version && states.len() == offers.len()
        });
        let Some((_, [states])) = states else {
            offers.iter().for_each(|offer| self.peers.offer(node, offer.block));
            return self.peers.refuses(scene.now, node);
        };
        self.peers.agrees(node);
        for (offer, &state) in offers.into_iter().zip(states) {
            match OfferState::from_wire(state) {
                Some(OfferState::Durable) => {
                    self.confirm(scene, node, offer);
                    continue;
                }
                Some(OfferState::Wanted) => self.peers.get(node).wanted.push_back(offer.block),
                Some(OfferState::Expected) => {
                    self.peers.offer_later(node, offer.block, scene.now + EXPECTED_PAUSE);
                }
                Some(OfferState::Refused) | None => {
                    self.peers.offer_later(node, offer.block, scene.now + LONGEST_PAUSE);
                }
            }
            if let Some(item) = self.items.get_mut(&offer.block) {
                item.is_lacking = true;
            }
        }
    }

    /// A node stored a block that was sent to it.
    pub(in crate::logic) fn handed(
        &mut self,
        scene: &mut Scene<'_>,
        link: Link,
        record: &Record<'_>,
    ) {
        let Some(node) = self.peers.node_at(link) else { return };
        let Some(sent) = self.peers.sent(node, record.request_id()) else { return };
        let is_current = record.read::<BlockStored>().is_ok_and(|stored| {
            RingVersion(stored.ring_version) == self.version
                && BlockId::from(stored.block_uuid) == sent.offer.block
        });
        if !is_current {
            self.peers.offer(node, sent.offer.block);
            return self.peers.refuses(scene.now, node);
        }
        self.peers.agrees(node);
        self.moved_count += 1;
        self.moved_bytes += u64::from(sent.length);
        self.confirm(scene, node, sent.offer);
    }

    /// A node refused offers or a block. Answers whether it may know a newer version.
    pub(in crate::logic) fn refused(
        &mut self,
        scene: &mut Scene<'_>,
        link: Link,
        request_id: RequestId,
        refusal: &Refusal,
    ) -> bool {
        let Some(node) = self.peers.node_at(link) else { return false };
        let blocks: Vec<BlockId> = match self.peers.sent(node, request_id) {
            Some(sent) => vec![sent.offer.block],
            None => {
                let offers = self.peers.answered(node, request_id).unwrap_or_default();
                offers.iter().map(|offer| offer.block).collect()
            }
        };
        if blocks.is_empty() {
            return false;
        }
        let is_of_block = matches!(
            refusal.code,
            ErrorCode::DiskFull | ErrorCode::WrongDigest | ErrorCode::TooLarge | ErrorCode::Invalid
        );
        for block in blocks {
            match is_of_block {
                true => self.peers.offer_later(node, block, scene.now + LONGEST_PAUSE),
                false => self.peers.offer(node, block),
            }
        }
        if !is_of_block {
            self.peers.refuses(scene.now, node);
        }
        refusal.code == ErrorCode::StaleRing
    }

    /// A link cannot be used, or the node behind it forgot what it was asked.
    pub(in crate::logic) fn link_lost(
        &mut self,
        now: Instant,
        link: Link,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(node) = self.peers.node_at(link) {
            self.peers.fail(now, node, effects);
        }
    }
}
