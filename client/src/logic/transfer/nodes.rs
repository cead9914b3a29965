//! The storage nodes that a transfer talks to: their links, what is in flight to each, and which of
//! them are silent.
//!
//! Deliberately not for which block goes where: see [`super::puts`] and [`super::gets`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use node::logic::network::{Link, NetworkEffect, Peer};
use proto::ids::{NodeId, RequestId, RingVersion};
use proto::time::{Duration, Instant};

use super::{BlockKey, FetchKey};
use crate::logic::registers::AskKey;

/// Contents on their way to one node, or asked of it: eight blocks, a quarter of a second on
/// 1 Gbit/s, and half of what the session queues for one peer.
const WINDOW_BYTES: u64 = 32 << 20;

/// Requests of one kind on their way to one node, for small blocks.
const WINDOW_REQUESTS: usize = 4096;

/// The windows to begin with: a storage node syncs many small blocks together, and reads few at
/// once for one peer.
const FIRST_PUTS: usize = 512;
const FIRST_GETS: usize = 64;

/// A node that says that it cannot take blocks at present is asked again for this long: it learns a
/// newer ring within that time. One that says so for longer is cut off, and another takes its place.
const UNWILLING_PATIENCE: Duration = Duration::from_secs(1);

/// A node that said nothing of the kind for this long gets the whole patience again.
const UNWILLING_FORGOTTEN: Duration = Duration::from_secs(5);

/// What is left of the window at least when a node says `busy`.
const SMALL_WINDOW: usize = 16;

/// A node that was asked for a block and says nothing for this long is passed over: another one is
/// asked as well. What it still answers is taken, so that slow links are merely slow. Reads are to
/// go on within half a second when a node dies.
const GET_PATIENCE: Duration = Duration::from_millis(300);

/// A block that was asked for is not waited for any longer.
const GET_LOST: Duration = Duration::from_secs(30);

/// A node that was given blocks and says nothing for this long counts as dead.
const PUT_PATIENCE: Duration = Duration::from_secs(3);

/// More patience for each mebibyte that is on its way to the node: 4 MiB/s are slow, not dead.
const PUT_PATIENCE_PER_MIB: Duration = Duration::from_millis(250);

/// A block that stays unacknowledged though its node talks was lost on its way.
const PUT_LOST: Duration = Duration::from_secs(60);

/// How long a dead node is left alone, doubled with each time in a row, at most the second.
const LEFT_ALONE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What a request to a node is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Which of these it holds.
    Query(Vec<BlockKey>),
    /// To store a block.
    Put(BlockKey),
    /// To send a block.
    Get(FetchKey),
    /// What it has of a register, or to keep it.
    Register(AskKey),
}

/// A request that a node has not answered.
#[derive(Clone, Debug)]
pub(super) struct InFlight {
    pub(super) asked: Asked,
    bytes: u64,
    since: Instant,
    /// Version of the ring that it goes by.
    version: RingVersion,
}

/// One storage node.
#[derive(Debug)]
pub(super) struct Node {
    address: String,
    pub(super) link: Option<Link>,
    /// Requests that store or ask, and those that fetch: the first are given more time.
    puts: BTreeMap<RequestId, InFlight>,
    gets: BTreeMap<RequestId, InFlight>,
    /// Fetches for which another node was asked meanwhile.
    late_gets: BTreeMap<RequestId, InFlight>,
    bytes: u64,
    last_heard: Instant,
    /// It said `busy`; `None` again once somebody looked after that time.
    held_until: Option<Instant>,
    /// Requests that it is given at a time: halved when it says `busy`, one more for each answer.
    put_window: usize,
    get_window: usize,
    /// It counts as dead.
    down_until: Option<Instant>,
    /// Reads try others first.
    is_suspect: bool,
    failures: u32,
    /// From when to when it said that it cannot take blocks.
    unwilling: Option<(Instant, Instant)>,
    pub(super) to_query: VecDeque<BlockKey>,
    pub(super) to_get: VecDeque<FetchKey>,
    pub(super) query_in_flight: Option<RequestId>,
}

impl Node {
    fn new(address: String) -> Node {
        Node {
            address,
            link: None,
            puts: BTreeMap::new(),
            gets: BTreeMap::new(),
            late_gets: BTreeMap::new(),
            bytes: 0,
            last_heard: Instant::default(),
            held_until: None,
            put_window: FIRST_PUTS,
            get_window: FIRST_GETS,
            down_until: None,
            is_suspect: false,
            failures: 0,
            unwilling: None,
            to_query: VecDeque::new(),
            to_get: VecDeque::new(),
            query_in_flight: None,
        }
    }

    /// True where it counts as dead at present.
    pub(super) fn is_down(&self, now: Instant) -> bool {
        self.down_until.is_some_and(|until| now < until)
    }

    /// True where another block of so many bytes may be sent to it.
    pub(super) fn has_room_for_put(&self, now: Instant, bytes: u64) -> bool {
        self.has_room(now, bytes, self.puts.len() < self.put_window)
    }

    /// True where another block of so many bytes may be asked of it.
    pub(super) fn has_room_for_get(&self, now: Instant, bytes: u64) -> bool {
        let count = self.gets.len() + self.late_gets.len();
        self.has_room(now, bytes, count < self.get_window)
    }

    /// True where something may be asked about a register: blocks that are on their way do not stop
    /// it.
    pub(super) fn has_room_for_register(&self, now: Instant) -> bool {
        !self.is_held(now) && self.gets.len() + self.late_gets.len() < self.get_window
    }

    /// A node with nothing in flight takes anything, so that the largest block is never refused for
    /// ever.
    fn has_room(&self, now: Instant, bytes: u64, is_in_window: bool) -> bool {
        let is_idle = self.puts.is_empty() && self.gets.is_empty() && self.late_gets.is_empty();
        let fits = is_in_window && self.bytes.saturating_add(bytes) <= WINDOW_BYTES;
        !self.is_held(now) && (is_idle || fits)
    }

    /// True where nothing may be sent because it said `busy`.
    pub(super) fn is_held(&self, now: Instant) -> bool {
        self.held_until.is_some_and(|until| now < until)
    }

    /// What reads prefer: nodes that answer, then those with little in flight.
    pub(super) fn read_rank(&self, now: Instant) -> (bool, bool, u64) {
        (self.is_down(now), self.is_suspect, self.bytes)
    }

    fn first(requests: &BTreeMap<RequestId, InFlight>) -> Option<Instant> {
        requests.first_key_value().map(|(_, request)| request.since)
    }

    fn put_deadline(&self) -> Option<Instant> {
        let since = Node::first(&self.puts)?;
        let patience = PUT_PATIENCE + PUT_PATIENCE_PER_MIB.times(self.bytes >> 20);
        Some((since.max(self.last_heard) + patience).min(since + PUT_LOST))
    }

    fn get_deadline(&self) -> Option<Instant> {
        let since = Node::first(&self.gets)?;
        Some(since.max(self.last_heard) + GET_PATIENCE)
    }

    fn lost_deadline(&self) -> Option<Instant> {
        Node::first(&self.late_gets).map(|since| since + GET_LOST)
    }

    fn window(&mut self, asked: &Asked) -> &mut usize {
        match asked {
            Asked::Get(_) | Asked::Register(_) => &mut self.get_window,
            Asked::Query(_) | Asked::Put(_) => &mut self.put_window,
        }
    }

    fn requests(&mut self, asked: &Asked) -> &mut BTreeMap<RequestId, InFlight> {
        match asked {
            Asked::Get(_) | Asked::Register(_) => &mut self.gets,
            Asked::Query(_) | Asked::Put(_) => &mut self.puts,
        }
    }
}

/// What became overdue at a node.
#[derive(Debug)]
pub(super) enum Overdue {
    /// The node counts as dead: everything that was in flight or queued there.
    Dead(NodeId, Vec<Asked>),
    /// These requests were passed over; the node may be alive.
    Late(NodeId, Vec<Asked>),
}

/// All nodes that were ever spoken to, by UUID.
#[derive(Debug)]
pub(super) struct Nodes {
    nodes: BTreeMap<NodeId, Node>,
    links: BTreeMap<Link, NodeId>,
    /// Nodes with something in their queues.
    waiting: BTreeSet<NodeId>,
    range: Range<u32>,
    last_request: u64,
    /// Version of the ring that requests go by.
    version: RingVersion,
    effects: Vec<NetworkEffect>,
}

impl Nodes {
    /// No nodes yet; their links get numbers out of `range`.
    pub(super) fn new(range: Range<u32>) -> Nodes {
        Nodes {
            nodes: BTreeMap::new(),
            links: BTreeMap::new(),
            waiting: BTreeSet::new(),
            range,
            last_request: 0,
            version: RingVersion(0),
            effects: Vec::new(),
        }
    }

    pub(super) fn take_effects(&mut self) -> std::vec::Drain<'_, NetworkEffect> {
        self.effects.drain(..)
    }

    pub(super) fn owns(&self, link: Link) -> bool {
        self.range.contains(&link.0)
    }

    pub(super) fn node_of(&self, link: Link) -> Option<NodeId> {
        self.links.get(&link).copied()
    }

    /// Requests go by this version of the ring from now on.
    pub(super) fn set_version(&mut self, version: RingVersion) {
        self.version = version;
    }

    /// True for a request that goes by an older version than those that are sent now.
    pub(super) fn is_outdated(&self, node: NodeId, request: RequestId) -> bool {
        let Some(state) = self.nodes.get(&node) else {
            return false;
        };
        let all = [&state.puts, &state.gets, &state.late_gets];
        let found = all.into_iter().find_map(|requests| requests.get(&request));
        found.is_some_and(|it| it.version < self.version)
    }

    /// All nodes that were ever spoken to.
    pub(super) fn known(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    /// True where a node is known under another address.
    pub(super) fn has_moved(&self, node: NodeId, address: &str) -> bool {
        self.nodes.get(&node).is_some_and(|state| state.address != address)
    }

    pub(super) fn get(&self, node: NodeId) -> Option<&Node> {
        self.nodes.get(&node)
    }

    pub(super) fn get_mut(&mut self, node: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(&node)
    }

    /// The nodes that have something in their queues.
    pub(super) fn take_waiting(&mut self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.waiting)
    }

    /// Queues the question whether a node holds a block.
    pub(super) fn queue_query(&mut self, node: NodeId, key: BlockKey) {
        if let Some(state) = self.nodes.get_mut(&node) {
            state.to_query.push_back(key);
            self.waiting.insert(node);
        }
    }

    /// Queues a fetch.
    pub(super) fn queue_get(&mut self, node: NodeId, key: FetchKey) {
        if let Some(state) = self.nodes.get_mut(&node) {
            state.to_get.push_back(key);
            self.waiting.insert(node);
        }
    }

    /// Looks at a node's queues again when something changes.
    pub(super) fn wait_on(&mut self, node: NodeId) {
        self.waiting.insert(node);
    }

    /// A node that may be sent to: it has an address and an open link.
    pub(super) fn reach(&mut self, node: NodeId, address: &str) -> Option<&mut Node> {
        let state = self.nodes.entry(node).or_insert_with(|| Node::new(address.to_owned()));
        if state.address != address {
            address.clone_into(&mut state.address);
            if let Some(link) = state.link.take() {
                self.links.remove(&link);
                self.effects.push(NetworkEffect::Close { link });
            }
        }
        if state.link.is_none() {
            let mut free = self.range.clone().map(Link);
            let link = free.find(|link| !self.links.contains_key(link))?;
            let address = address.to_owned();
            self.effects.push(NetworkEffect::Open { link, address });
            self.links.insert(link, node);
            state.link = Some(link);
        }
        Some(state)
    }

    /// Takes a request into the books and gives it its number. It is sent by [`Nodes::send`].
    pub(super) fn book(
        &mut self,
        now: Instant,
        node: NodeId,
        asked: Asked,
        bytes: u64,
    ) -> Option<RequestId> {
        let state = self.nodes.get_mut(&node)?;
        self.last_request += 1;
        let request = RequestId(self.last_request);
        state.bytes += bytes;
        if let Asked::Query(_) = asked {
            state.query_in_flight = Some(request);
        }
        let requests = state.requests(&asked);
        requests.insert(request, InFlight { asked, bytes, since: now, version: self.version });
        Some(request)
    }

    /// Sends the record of a booked request. False where it is no longer in the books.
    pub(super) fn send(
        &mut self,
        now: Instant,
        node: NodeId,
        request: RequestId,
        mut record: Vec<u8>,
    ) -> bool {
        let Some(state) = self.nodes.get_mut(&node) else {
            return false;
        };
        let Some(link) = state.link else {
            return false;
        };
        let in_flight = match state.puts.get_mut(&request) {
            Some(in_flight) => Some(in_flight),
            None => state.gets.get_mut(&request),
        };
        let Some(in_flight) = in_flight else {
            return false;
        };
        in_flight.since = now;
        in_flight.version = self.version;
        proto::record::set_request_id(&mut record, request);
        self.effects.push(NetworkEffect::Send { to: Peer::Link(link), record });
        true
    }

    /// Takes an answered request out of the books.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        node: NodeId,
        request: RequestId,
    ) -> Option<Asked> {
        self.heard(now, node);
        let asked = self.forget(node, request);
        if let (Some(state), Some(asked)) = (self.nodes.get_mut(&node), &asked) {
            let window = state.window(asked);
            *window = (*window + 1).min(WINDOW_REQUESTS);
        }
        asked
    }

    /// A node said something: it is alive.
    pub(super) fn heard(&mut self, now: Instant, node: NodeId) {
        if let Some(state) = self.nodes.get_mut(&node) {
            state.last_heard = now;
            state.is_suspect = false;
            state.failures = 0;
            state.down_until = None;
        }
    }

    /// Takes a request out of the books without an answer.
    pub(super) fn forget(&mut self, node: NodeId, request: RequestId) -> Option<Asked> {
        let state = self.nodes.get_mut(&node)?;
        let in_flight = state.puts.remove(&request);
        let in_flight = in_flight.or_else(|| state.gets.remove(&request));
        let in_flight = in_flight.or_else(|| state.late_gets.remove(&request))?;
        state.bytes -= in_flight.bytes;
        if state.query_in_flight == Some(request) {
            state.query_in_flight = None;
        }
        Some(in_flight.asked)
    }

    /// The node asked for patience: it is given less at a time.
    pub(super) fn hold(&mut self, now: Instant, node: NodeId, asked: &Asked, until: Instant) {
        if let Some(state) = self.nodes.get_mut(&node) {
            // Many answers say so at once; they are about one window.
            if !state.is_held(now) {
                let window = state.window(asked);
                *window = (*window / 2).max(SMALL_WINDOW);
            }
            state.held_until = state.held_until.max(Some(until));
        }
    }

    /// The node cannot take blocks at present: true where it may soon.
    pub(super) fn has_patience(&mut self, now: Instant, node: NodeId) -> bool {
        let Some(state) = self.nodes.get_mut(&node) else {
            return false;
        };
        let since = match state.unwilling {
            Some((since, last)) if now < last + UNWILLING_FORGOTTEN => since,
            _ => now,
        };
        state.unwilling = Some((since, now));
        now < since + UNWILLING_PATIENCE
    }

    /// The node took blocks, or said which it has.
    pub(super) fn took_on(&mut self, node: NodeId) {
        if let Some(state) = self.nodes.get_mut(&node) {
            state.unwilling = None;
        }
    }

    /// Nothing is sent to the node for a while.
    pub(super) fn pause(&mut self, node: NodeId, until: Instant) {
        if let Some(state) = self.nodes.get_mut(&node) {
            state.held_until = state.held_until.max(Some(until));
        }
    }

    /// Goes on with nodes whose time of patience is over.
    pub(super) fn release(&mut self, now: Instant) {
        for (node, state) in &mut self.nodes {
            if state.held_until.is_some_and(|until| now >= until) {
                state.held_until = None;
                self.waiting.insert(*node);
            }
        }
    }

    /// The node counts as dead: closes its link and returns everything that waited for it.
    pub(super) fn declare_down(&mut self, now: Instant, node: NodeId) -> Vec<Asked> {
        let Some(state) = self.nodes.get_mut(&node) else {
            return Vec::new();
        };
        let alone = LEFT_ALONE.0.times(1 << state.failures.min(5)).min(LEFT_ALONE.1);
        state.failures = state.failures.saturating_add(1);
        state.down_until = Some(now + alone);
        state.is_suspect = true;
        if let Some(link) = state.link.take() {
            self.links.remove(&link);
            self.effects.push(NetworkEffect::Close { link });
        }
        self.take_all(node)
    }

    /// Everything that is in flight to a node or queued for it, taken out of the books.
    pub(super) fn take_all(&mut self, node: NodeId) -> Vec<Asked> {
        let Some(state) = self.nodes.get_mut(&node) else {
            return Vec::new();
        };
        state.bytes = 0;
        state.query_in_flight = None;
        let mut all: Vec<Asked> = std::mem::take(&mut state.puts)
            .into_values()
            .chain(std::mem::take(&mut state.gets).into_values())
            .chain(std::mem::take(&mut state.late_gets).into_values())
            .map(|request| request.asked)
            .collect();
        if !state.to_query.is_empty() {
            all.push(Asked::Query(state.to_query.drain(..).collect()));
        }
        all.extend(state.to_get.drain(..).map(Asked::Get));
        all
    }

    /// All links are gone together with the node that opened them. Returns whose they were.
    pub(super) fn lose_links(&mut self) -> Vec<NodeId> {
        let lost: Vec<NodeId> = std::mem::take(&mut self.links).into_values().collect();
        for node in &lost {
            if let Some(state) = self.nodes.get_mut(node) {
                state.link = None;
            }
        }
        lost
    }

    /// Finds the nodes that are silent for too long.
    pub(super) fn take_overdue(&mut self, now: Instant) -> Vec<Overdue> {
        let mut overdue = Vec::new();
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for node in ids {
            let Some(state) = self.nodes.get_mut(&node) else {
                continue;
            };
            if let Some(since) = Node::first(&state.puts)
                && state.put_deadline().is_some_and(|deadline| now >= deadline)
            {
                if state.last_heard > since {
                    // It talks, so this request was lost.
                    let lost = state.puts.first_key_value().map(|(request, _)| *request);
                    let lost = lost.and_then(|request| self.forget(node, request));
                    overdue.push(Overdue::Late(node, lost.into_iter().collect()));
                } else {
                    overdue.push(Overdue::Dead(node, self.declare_down(now, node)));
                }
                continue;
            }
            if let Some(since) = Node::first(&state.late_gets)
                && state.lost_deadline().is_some_and(|deadline| now >= deadline)
            {
                if state.last_heard > since {
                    let lost = state.late_gets.first_key_value().map(|(request, _)| *request);
                    lost.and_then(|request| self.forget(node, request));
                } else {
                    overdue.push(Overdue::Dead(node, self.declare_down(now, node)));
                }
                continue;
            }
            if state.get_deadline().is_some_and(|deadline| now >= deadline) {
                state.is_suspect = true;
                let late = state.gets.values().map(|request| request.asked.clone()).collect();
                state.late_gets.append(&mut state.gets);
                overdue.push(Overdue::Late(node, late));
            }
        }
        overdue
    }

    /// When the next node is silent for too long, or one that was held may be sent to. A time of
    /// patience that is over counts until [`Nodes::release`] was called: whoever slept past it must
    /// not sleep on.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let of_node = |node: &Node| {
            let silent = [node.put_deadline(), node.get_deadline(), node.lost_deadline()];
            silent.into_iter().chain([node.held_until]).flatten().min()
        };
        self.nodes.values().filter_map(of_node).min()
    }

    pub(super) fn check_invariants(&self) {
        for (node, state) in &self.nodes {
            let all = [&state.puts, &state.gets, &state.late_gets];
            let bytes: u64 = all.iter().flat_map(|it| it.values()).map(|it| it.bytes).sum();
            assert_eq!(state.bytes, bytes, "bytes to {node}");
            let count: usize = all.iter().map(|it| it.len()).sum();
            // Puts and gets have a window each; a query may be sent beside them.
            assert!(count <= 2 * WINDOW_REQUESTS + 1, "windows of {node}");
            if let Some(link) = state.link {
                assert_eq!(self.links.get(&link), Some(node), "{link:?} is known by its number");
            }
            if let Some(request) = state.query_in_flight {
                assert!(state.puts.contains_key(&request), "the query is in the books");
            }
        }
    }
}
