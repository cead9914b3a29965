//! The other storage nodes as this one hands blocks over to them: what is offered to each, what it
//! wants, what is on its way.
//!
//! Knows nothing of passes and owners: it is told which blocks to offer to whom and says what
//! became of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use node::logic::network::{Link, NetworkEffect, Peer as NetworkPeer};
use proto::ids::{BlockId, NodeId, RequestId};
use proto::time::{Duration, Instant};

use crate::logic::{Effect, Ticket};

/// Links to nodes that blocks are offered to are numbered from here on.
const FIRST_LINK: u32 = 2 << 16;

/// Their numbers come again after as many.
const LINK_NUMBERS: u32 = 1 << 16;

/// Links that are kept open; with more nodes than this, idle ones are closed.
const LINKS: usize = 128;

/// How long a node may take to answer an offer, or to store a block: longer than a disk hesitates.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(5_000);

/// Blocks on their way to one node.
pub(super) const IN_FLIGHT: usize = 8;

/// Bytes on their way to all nodes: what their blocks take of this node's memory.
const BYTES_IN_FLIGHT: u64 = 64 << 20;

/// First pause after a failure, doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Longest pause before something that failed is tried again.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_millis(2_000);

/// How often a peer whose turn for a link has not come looks again.
const LINK_PAUSE: Duration = Duration::from_millis(100);

/// A block as it was offered: an answer counts only while the block is still that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) block: BlockId,
    pub(super) stamp: u64,
    pub(super) replica_count: u8,
}

/// Offers that a node has not answered.
#[derive(Debug)]
pub(super) struct Offered {
    pub(super) request_id: RequestId,
    pub(super) offers: Vec<Offer>,
    deadline: Instant,
}

/// A block on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sending {
    pub(super) offer: Offer,
    pub(super) length: u32,
    deadline: Instant,
}

/// One of the other nodes.
#[derive(Debug, Default)]
pub(super) struct Peer {
    link: Option<Link>,
    address: String,
    /// Blocks that are to be offered.
    pub(super) queue: BTreeSet<BlockId>,
    /// Blocks that are to be offered again, and when.
    later: BTreeSet<(Instant, BlockId)>,
    pub(super) offered: Option<Offered>,
    /// Blocks that it wants.
    pub(super) wanted: VecDeque<BlockId>,
    /// Blocks that are being read for it.
    reading: BTreeMap<Ticket, (Offer, u32)>,
    sending: BTreeMap<RequestId, Sending>,
    failures: u32,
    /// It does not answer.
    pub(super) is_silent: bool,
    not_before: Instant,
}

impl Peer {
    fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.offered.is_none() && !self.is_sending()
    }

    fn is_sending(&self) -> bool {
        !self.wanted.is_empty() || !self.reading.is_empty() || !self.sending.is_empty()
    }

    /// Blocks that are being read or sent.
    fn in_flight(&self) -> usize {
        self.reading.len() + self.sending.len()
    }

    /// Whether a block is with the peer, asked, wanted or under way.
    fn is_busy_with(&self, block: BlockId) -> bool {
        let offered = self.offered.iter().flat_map(|offered| &offered.offers);
        let read = self.reading.values().map(|(offer, _)| offer);
        let sent = self.sending.values().map(|sending| &sending.offer);
        offered.chain(read).chain(sent).any(|offer| offer.block == block)
    }

    /// Whether it may be asked now.
    pub(super) fn is_ready(&self, now: Instant) -> bool {
        self.not_before <= now
    }

    fn pause(&mut self, now: Instant) {
        let pause = FIRST_PAUSE.times(1 << self.failures.min(10)).0.min(LONGEST_PAUSE.0);
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + Duration(pause);
    }

    /// What was on its way is offered again.
    fn requeue(&mut self) -> u64 {
        let offered = self.offered.take();
        self.queue.extend(offered.iter().flat_map(|it| &it.offers).map(|offer| offer.block));
        self.queue.extend(self.wanted.drain(..));
        let lengths = self.reading.values().map(|(_, length)| *length);
        let lengths = lengths.chain(self.sending.values().map(|sending| sending.length));
        let bytes = lengths.map(u64::from).sum();
        self.queue.extend(std::mem::take(&mut self.reading).values().map(|it| it.0.block));
        self.queue.extend(std::mem::take(&mut self.sending).values().map(|it| it.offer.block));
        bytes
    }

    /// Whether it can be offered something: what it wants goes first, as that was promised.
    pub(super) fn takes_offers(&self) -> bool {
        self.offered.is_none() && self.wanted.len() < IN_FLIGHT && !self.queue.is_empty()
    }

    /// Whether a block that it wants can be sent.
    pub(super) fn takes_blocks(&self) -> bool {
        !self.wanted.is_empty() && self.in_flight() < IN_FLIGHT
    }

    /// When something is due; `sends_at` is when blocks may be sent, to whomever.
    fn next_deadline(&self, sends_at: Option<Instant>) -> Option<Instant> {
        let offered = self.offered.as_ref().map(|offered| offered.deadline);
        let sending = self.sending.values().map(|sending| sending.deadline).min();
        let later = self.later.first().map(|(due, _)| *due);
        let asks = self.takes_offers().then_some(self.not_before);
        let sends = sends_at.filter(|_| self.takes_blocks()).map(|at| at.max(self.not_before));
        [offered, sending, later, asks, sends].into_iter().flatten().min()
    }
}

/// All of them that have been needed.
#[derive(Debug, Default)]
pub(super) struct Peers {
    next_request: u64,
    next_link: u32,
    by_node: BTreeMap<NodeId, Peer>,
    /// Bytes of the blocks that are being read or sent, to all.
    bytes_in_flight: u64,
}

impl Peers {
    /// Whether there is room for one more block on its way.
    pub(super) fn has_room(&self) -> bool {
        self.bytes_in_flight < BYTES_IN_FLIGHT
    }

    /// The nodes that have been needed.
    pub(super) fn nodes(&self) -> Vec<NodeId> {
        self.by_node.keys().copied().collect()
    }

    pub(super) fn get(&mut self, node: NodeId) -> &mut Peer {
        self.by_node.entry(node).or_default()
    }

    /// True where nobody has heard of it for a while.
    pub(super) fn is_silent(&self, node: NodeId) -> bool {
        self.by_node.get(&node).is_some_and(|peer| peer.is_silent)
    }

    /// A block is to be offered to a node.
    pub(super) fn offer(&mut self, node: NodeId, block: BlockId) {
        self.get(node).queue.insert(block);
    }

    /// The same, after a while.
    pub(super) fn offer_later(&mut self, node: NodeId, block: BlockId, due: Instant) {
        self.get(node).later.insert((due, block));
    }

    /// Nothing of a block is offered to a node any more; false where it is with it already.
    pub(super) fn withdraw(&mut self, node: NodeId, block: BlockId) -> bool {
        let Some(peer) = self.by_node.get_mut(&node) else { return true };
        if peer.is_busy_with(block) {
            return false;
        }
        peer.queue.remove(&block);
        true
    }

    /// Nothing that is offered or on its way counts any more.
    pub(super) fn restart(&mut self) {
        for peer in self.by_node.values_mut() {
            peer.requeue();
            peer.queue.clear();
            peer.later.clear();
        }
        self.bytes_in_flight = 0;
    }

    /// Blocks whose time has come are offered again; who did not answer in time is given up.
    /// Answers whether there was one.
    pub(super) fn tick(&mut self, now: Instant, effects: &mut Vec<Effect>) -> bool {
        let mut late = Vec::new();
        for (&node, peer) in &mut self.by_node {
            while let Some(&(due, block)) = peer.later.first()
                && due <= now
            {
                peer.later.pop_first();
                peer.queue.insert(block);
            }
            let offered = peer.offered.iter().map(|offered| offered.deadline);
            let sending = peer.sending.values().map(|sending| sending.deadline);
            if offered.chain(sending).any(|deadline| deadline <= now) {
                late.push(node);
            }
        }
        let has_late = !late.is_empty();
        for node in late {
            self.fail(now, node, effects);
        }
        has_late
    }

    /// A node is of no use for now: its link is closed, what it was asked is asked again later.
    pub(super) fn fail(&mut self, now: Instant, node: NodeId, effects: &mut Vec<Effect>) {
        let Some(peer) = self.by_node.get_mut(&node) else { return };
        if let Some(link) = peer.link.take() {
            effects.push(Effect::Network(NetworkEffect::Close { link }));
        }
        peer.is_silent = true;
        peer.pause(now);
        self.bytes_in_flight = self.bytes_in_flight.saturating_sub(peer.requeue());
    }

    /// A node that blocks should go to has no address.
    pub(super) fn unreachable(&mut self, now: Instant, node: NodeId, effects: &mut Vec<Effect>) {
        self.fail(now, node, effects);
        self.get(node).not_before = now + LONGEST_PAUSE;
    }

    /// The link to a node at this address, opened where it is not. `None` where as many links are
    /// in use as may be: then its turn comes later.
    pub(super) fn link(
        &mut self,
        now: Instant,
        node: NodeId,
        address: &str,
        effects: &mut Vec<Effect>,
    ) -> Option<Link> {
        let peer = self.by_node.get(&node)?;
        if peer.address == address
            && let Some(link) = peer.link
        {
            return Some(link);
        }
        if let Some(old) = peer.link {
            effects.push(Effect::Network(NetworkEffect::Close { link: old }));
            let peer = self.get(node);
            peer.link = None;
            let bytes = peer.requeue();
            self.bytes_in_flight = self.bytes_in_flight.saturating_sub(bytes);
        }
        if self.by_node.values().filter(|peer| peer.link.is_some()).count() >= LINKS {
            let idle = self.by_node.values_mut().find(|it| it.link.is_some() && it.is_idle());
            let Some(link) = idle.and_then(|idle| idle.link.take()) else {
                self.get(node).not_before = now + LINK_PAUSE;
                return None;
            };
            effects.push(Effect::Network(NetworkEffect::Close { link }));
        }
        let link = Link(FIRST_LINK + self.next_link % LINK_NUMBERS);
        self.next_link = self.next_link.wrapping_add(1);
        let peer = self.get(node);
        peer.link = Some(link);
        peer.address = address.to_owned();
        effects.push(Effect::Network(NetworkEffect::Open { link, address: address.to_owned() }));
        Some(link)
    }

    /// The node at the other end of a link.
    pub(super) fn node_at(&self, link: Link) -> Option<NodeId> {
        self.by_node.iter().find(|(_, peer)| peer.link == Some(link)).map(|(node, _)| *node)
    }

    fn request(&mut self) -> RequestId {
        self.next_request += 1;
        RequestId(self.next_request)
    }

    /// Offers are on their way.
    pub(super) fn offers_sent(
        &mut self,
        now: Instant,
        node: NodeId,
        offers: Vec<Offer>,
    ) -> RequestId {
        let request_id = self.request();
        let deadline = now + ANSWER_TIMEOUT;
        self.get(node).offered = Some(Offered { request_id, offers, deadline });
        request_id
    }

    /// The offers that a node answers; `None` where it is not asked.
    pub(super) fn answered(&mut self, node: NodeId, request_id: RequestId) -> Option<Vec<Offer>> {
        let peer = self.by_node.get_mut(&node)?;
        peer.offered.take_if(|it| it.request_id == request_id).map(|offered| offered.offers)
    }

    /// The node is heard and goes by the same version.
    pub(super) fn agrees(&mut self, node: NodeId) {
        let peer = self.get(node);
        (peer.failures, peer.is_silent, peer.not_before) = (0, false, Instant(0));
    }

    /// The node is heard and cannot help for now.
    pub(super) fn refuses(&mut self, now: Instant, node: NodeId) {
        let peer = self.get(node);
        peer.is_silent = false;
        peer.pause(now);
    }

    /// A block is read to be sent to a node.
    pub(super) fn reads(&mut self, node: NodeId, ticket: Ticket, offer: Offer, length: u32) {
        self.bytes_in_flight += u64::from(length);
        self.get(node).reading.insert(ticket, (offer, length));
    }

    /// A block was read. Where the node still waits for it, says to which peer it goes and under
    /// which number.
    pub(super) fn read(
        &mut self,
        now: Instant,
        node: NodeId,
        ticket: Ticket,
        is_there: bool,
    ) -> Option<(NetworkPeer, RequestId)> {
        let peer = self.by_node.get_mut(&node)?;
        let (offer, length) = peer.reading.remove(&ticket)?;
        let link = peer.link.filter(|_| is_there);
        let Some(link) = link else {
            self.bytes_in_flight = self.bytes_in_flight.saturating_sub(u64::from(length));
            return None;
        };
        let request_id = self.request();
        let sending = Sending { offer, length, deadline: now + ANSWER_TIMEOUT };
        self.get(node).sending.insert(request_id, sending);
        Some((NetworkPeer::Link(link), request_id))
    }

    /// The block that a node answers for; `None` where none was sent to it.
    pub(super) fn sent(&mut self, node: NodeId, request_id: RequestId) -> Option<Sending> {
        let sending = self.by_node.get_mut(&node)?.sending.remove(&request_id)?;
        self.bytes_in_flight = self.bytes_in_flight.saturating_sub(u64::from(sending.length));
        Some(sending)
    }

    /// When something is due; `ready_at` is when the throttle lets a block through.
    pub(super) fn next_deadline(&self, ready_at: Instant) -> Option<Instant> {
        let sends_at = self.has_room().then_some(ready_at);
        self.by_node.values().filter_map(|peer| peer.next_deadline(sends_at)).min()
    }

    pub(super) fn check_invariants(&self) {
        let mut bytes = 0;
        for peer in self.by_node.values() {
            assert!(peer.in_flight() <= IN_FLIGHT, "more blocks on their way than may be");
            assert!(peer.link.is_some() || peer.sending.is_empty(), "sent without a link");
            let read = peer.reading.values().map(|(_, length)| u64::from(*length));
            bytes += read.sum::<u64>();
            bytes += peer.sending.values().map(|it| u64::from(it.length)).sum::<u64>();
        }
        assert_eq!(bytes, self.bytes_in_flight, "bytes on their way");
    }
}
