//! Blocks that are fetched from other storage nodes, one node after the other until one has them.
//!
//! Responsible for links to those nodes and for giving up on one that does not answer in time.
//! What the blocks are for is `assembly.rs`'s matter; whether their bytes are right, the edge's.

use std::collections::{BTreeMap, VecDeque};

use node::logic::network::{Link, NetworkEffect, Peer};
use proto::ids::{BlockId, NodeId, RequestId, RingVersion};
use proto::messages::file::BlockGet;
use proto::record;
use proto::time::{Duration, Instant};

use super::{Effect, Ticket};

/// Links to storage nodes are numbered from here on; those below belong to the masters.
const FIRST_LINK: u32 = 1 << 16;

/// Links that are kept open.
const LINKS: usize = 32;

/// How long a node may take: reads go on to another replica within half a second.
const TIMEOUT: Duration = Duration::from_millis(450);

/// Why no node gave a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FetchError {
    /// All that were asked answered that they do not hold it.
    NotFound,
    /// At least one did not answer.
    Unavailable,
}

/// Where a block may be had from.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// Nodes that are still to be asked, with their addresses.
    pub(super) nodes: VecDeque<(NodeId, String)>,
    /// True where one that should have it gave no answer: then it is not known to be nowhere.
    pub(super) has_silent: bool,
}

#[derive(Debug)]
struct Fetch {
    ticket: Ticket,
    block: BlockId,
    /// Nodes that are still to be asked, with their addresses.
    rest: VecDeque<(NodeId, String)>,
    node: NodeId,
    deadline: Instant,
    has_silent: bool,
}

/// A fetch that ended without content.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FetchFailed {
    pub(super) ticket: Ticket,
    pub(super) error: FetchError,
}

/// The fetches that are going on.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    next_request: u64,
    next_link: u32,
    links: BTreeMap<NodeId, Link>,
    in_flight: BTreeMap<RequestId, Fetch>,
}

impl Fetches {
    /// Asks nodes in their order for a block. `None` where it is on its way.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        ticket: Ticket,
        block: BlockId,
        sources: Sources,
        version: RingVersion,
        effects: &mut Vec<Effect>,
    ) -> Option<FetchFailed> {
        let fetch = Fetch {
            ticket,
            block,
            rest: sources.nodes,
            node: NodeId::default(),
            deadline: now,
            has_silent: sources.has_silent,
        };
        self.ask_next(now, fetch, version, effects)
    }

    fn ask_next(
        &mut self,
        now: Instant,
        mut fetch: Fetch,
        version: RingVersion,
        effects: &mut Vec<Effect>,
    ) -> Option<FetchFailed> {
        let Some((node, address)) = fetch.rest.pop_front() else {
            let error = match fetch.has_silent {
                true => FetchError::Unavailable,
                false => FetchError::NotFound,
            };
            return Some(FetchFailed { ticket: fetch.ticket, error });
        };
        let link = self.link(node, address, effects);
        self.next_request += 1;
        let request_id = RequestId(self.next_request);
        let get = BlockGet {
            block_uuid: fetch.block.to_wire(),
            ring_version: version.0,
            ..BlockGet::default()
        };
        let mut get = record::encode(&get, &[]);
        record::set_request_id(&mut get, request_id);
        effects.push(Effect::Network(NetworkEffect::Send { to: Peer::Link(link), record: get }));
        fetch.node = node;
        fetch.deadline = now + TIMEOUT;
        self.in_flight.insert(request_id, fetch);
        None
    }

    fn link(&mut self, node: NodeId, address: String, effects: &mut Vec<Effect>) -> Link {
        if let Some(&link) = self.links.get(&node) {
            return link;
        }
        if self.links.len() >= LINKS {
            let is_idle = |node: &NodeId| self.in_flight.values().all(|fetch| fetch.node != *node);
            let idle = self.links.keys().copied().find(is_idle);
            // Where every link is in use there are more nodes than links for as long as that.
            if let Some(link) = idle.and_then(|idle| self.links.remove(&idle)) {
                effects.push(Effect::Network(NetworkEffect::Close { link }));
            }
        }
        let link = Link(FIRST_LINK + self.next_link % FIRST_LINK);
        self.next_link = self.next_link.wrapping_add(1);
        self.links.insert(node, link);
        effects.push(Effect::Network(NetworkEffect::Open { link, address }));
        link
    }

    /// The block that a request was for, where it is one that this still waits for.
    pub(super) fn wanted(&self, link: Link, request_id: RequestId) -> Option<(Ticket, BlockId)> {
        let fetch = self.in_flight.get(&request_id)?;
        (self.links.get(&fetch.node) == Some(&link)).then_some((fetch.ticket, fetch.block))
    }

    /// The content came; where it turns out to be wrong, [`Fetches::begin`] is called again with
    /// what this returns.
    pub(super) fn arrived(&mut self, request_id: RequestId) -> Sources {
        let fetch = self.in_flight.remove(&request_id);
        // Content that turns out to be wrong is as good as no answer.
        fetch.map(|fetch| Sources { nodes: fetch.rest, has_silent: true }).unwrap_or_default()
    }

    /// The node answered that it cannot give the block.
    pub(super) fn refused(
        &mut self,
        now: Instant,
        request_id: RequestId,
        is_absent: bool,
        version: RingVersion,
        effects: &mut Vec<Effect>,
    ) -> Option<FetchFailed> {
        let mut fetch = self.in_flight.remove(&request_id)?;
        fetch.has_silent |= !is_absent;
        self.ask_next(now, fetch, version, effects)
    }

    /// A link is of no use: what was asked on it is asked elsewhere.
    pub(super) fn lost(
        &mut self,
        now: Instant,
        link: Link,
        version: RingVersion,
        effects: &mut Vec<Effect>,
    ) -> Vec<FetchFailed> {
        let Some(node) = self.links.iter().find(|it| *it.1 == link).map(|it| *it.0) else {
            return Vec::new();
        };
        self.abandon(now, node, version, effects)
    }

    fn abandon(
        &mut self,
        now: Instant,
        node: NodeId,
        version: RingVersion,
        effects: &mut Vec<Effect>,
    ) -> Vec<FetchFailed> {
        if let Some(link) = self.links.remove(&node) {
            effects.push(Effect::Network(NetworkEffect::Close { link }));
        }
        let its = self.in_flight.iter().filter(|(_, fetch)| fetch.node == node);
        let its: Vec<RequestId> = its.map(|(request_id, _)| *request_id).collect();
        let refused = its.into_iter();
        refused.filter_map(|id| self.refused(now, id, false, version, effects)).collect()
    }

    /// Gives up on nodes that did not answer in time.
    pub(super) fn tick(
        &mut self,
        now: Instant,
        version: RingVersion,
        effects: &mut Vec<Effect>,
    ) -> Vec<FetchFailed> {
        let late = self.in_flight.values().filter(|fetch| fetch.deadline <= now);
        let mut late: Vec<NodeId> = late.map(|fetch| fetch.node).collect();
        late.dedup();
        let late = late.into_iter();
        late.flat_map(|node| self.abandon(now, node, version, effects)).collect()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.in_flight.values().map(|fetch| fetch.deadline).min()
    }

    pub(super) fn check_invariants(&self) {
        for fetch in self.in_flight.values() {
            assert!(self.links.contains_key(&fetch.node), "a fetch without its link");
        }
    }

    /// Forgets a fetch; true where there was one.
    pub(super) fn cancel(&mut self, ticket: Ticket) -> bool {
        let before = self.in_flight.len();
        self.in_flight.retain(|_, fetch| fetch.ticket != ticket);
        self.in_flight.len() < before
    }
}
