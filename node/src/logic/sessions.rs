//! Connections of one node: who is at the other end, in which generation, and what is refused.
//!
//! Responsible for `hello` in both directions, generations and sequence numbers, malformed and
//! late records, `ping`, the queues of outgoing frames and their bounds. Real sockets and the
//! simulator drive the same code: they carry [`Route`]s and frames. Deliberately not for what the
//! records of the tiers mean, nor for retries ([`super::calls`]).
//!
//! Each direction of a connection stamps its own generation, so a record of an earlier connection
//! is recognised by whoever receives it, whatever the transport does with old bytes.

mod inbound;
mod links;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proto::catalogue::PROTOCOL_VERSION;
use proto::ids::{ClusterId, Generation, NodeId, RequestId};
use proto::messages::session::{ErrorReply, Ping, Pong};
use proto::record::{Envelope, Message, Record, RecordError, encode};
use proto::status::{ErrorCode, Role};
use proto::time::{Duration, Instant};

use super::counters::Counters;
use super::network::{
    Greeting, Identity, Inbound, Link, NetworkEffect, NetworkEvent, NetworkLimits, Peer, RoutingId,
    Sender,
};
use super::outgoing::{Outgoing, Queued};
use inbound::InboundState;
use links::LinkState;

/// How long a `hello` that left may stay unanswered before it is said again.
const HELLO_AGAIN: Duration = Duration::from_secs(2);

/// Malformed records of one frame that are answered; the rest of the frame is not read.
const ANSWERED_ERRORS_PER_FRAME: u32 = 8;

/// On which connection a frame came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source<'a> {
    /// On the socket that was opened for a link in a generation.
    Link(Link, Generation),
    /// On the bound socket, from the peer of a routing id.
    Bound(&'a [u8]),
}

/// Where a frame is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Through the socket that was opened for a link in a generation.
    Link(Link, Generation),
    /// Through the bound socket, to the peer of a routing id.
    Bound(Inbound, RoutingId),
}

impl Route {
    /// The peer at its end.
    #[must_use]
    pub fn peer(&self) -> Peer {
        match self {
            Route::Link(link, _) => Peer::Link(*link),
            Route::Bound(inbound, _) => Peer::Inbound(*inbound),
        }
    }
}

/// What an effect asks of whoever owns the sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketChange {
    /// Open a socket for a link; one of an earlier generation is closed at once.
    Open {
        /// The link.
        link: Link,
        /// The generation under which its frames come and go.
        generation: Generation,
        /// Where to.
        address: String,
    },
    /// Send what is queued as far as the socket takes it, then close it.
    Close {
        /// The link.
        link: Link,
        /// The frames that were queued, in order.
        last_frames: Vec<Vec<u8>>,
    },
}

/// Generation and number of the newest record heard in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Heard {
    generation: Generation,
    sequence: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admission {
    /// The next one, with this many lost before it.
    Next {
        missing: u64,
    },
    Repeated,
    OldGeneration,
    NewGeneration,
}

impl Heard {
    fn from(envelope: Envelope) -> Heard {
        let Envelope { generation, sequence, .. } = envelope;
        Heard { generation: Generation(generation), sequence }
    }

    /// Judges a record and notes its number where it is the next one. A sender that does not count
    /// (generation 0 throughout) is always next.
    fn admit(&mut self, envelope: Envelope) -> Admission {
        let Heard { generation, sequence } = Heard::from(envelope);
        if generation < self.generation {
            return Admission::OldGeneration;
        }
        if generation > self.generation {
            return Admission::NewGeneration;
        }
        if generation.0 == 0 {
            return Admission::Next { missing: 0 };
        }
        if sequence <= self.sequence {
            return Admission::Repeated;
        }
        let missing = sequence - self.sequence - 1;
        self.sequence = sequence;
        Admission::Next { missing }
    }
}

/// True where a list of addresses names one that another list does not.
fn names_more(before: &str, now: &str) -> bool {
    let is_new = |address: &str| !before.split(',').any(|known| known == address);
    before != now && now.split(',').any(|address| !address.is_empty() && is_new(address))
}

/// Whoever hears what happens.
type Deliver<'a> = dyn FnMut(NetworkEvent<'_>) + 'a;

/// The connections of one node.
///
/// The driver's contract: after each batch of [`Sessions::receive`], [`Sessions::perform`] and
/// [`Sessions::tick`] it takes frames until [`Sessions::take_frame`] has none, puts back what a
/// socket did not take, says [`Sessions::unblock`] when it does again, and calls `tick` at
/// [`Sessions::next_deadline`].
#[derive(Debug)]
pub struct Sessions {
    identity: Identity,
    greeting: Greeting,
    limits: NetworkLimits,
    /// Generations given out so far, of links and of inbound sessions.
    opened: u32,
    links: BTreeMap<Link, LinkState>,
    /// When to say `hello` again to those that did not answer.
    hello_due: BTreeSet<(Instant, Link)>,
    inbound: BTreeMap<Inbound, InboundState>,
    last_inbound: u64,
    routes: BTreeMap<RoutingId, Inbound>,
    /// Which session is a node's newest, for those that count generations.
    nodes: BTreeMap<NodeId, Inbound>,
    /// Who is forgotten first: clients before nodes of a tier, the longest silent first.
    idle: BTreeSet<(bool, u64, Inbound)>,
    frames_heard: u64,
    /// Peers with frames to hand out, in turn.
    ready: VecDeque<Peer>,
    overflowing: Vec<Peer>,
    /// Links for which no socket could be made, and why.
    unopened: Vec<(Link, String)>,
    counters: Counters,
}

impl Sessions {
    /// A node without connections.
    #[must_use]
    pub fn new(identity: Identity, limits: NetworkLimits) -> Sessions {
        Sessions {
            identity,
            greeting: Greeting::default(),
            limits,
            opened: 0,
            links: BTreeMap::new(),
            hello_due: BTreeSet::new(),
            inbound: BTreeMap::new(),
            last_inbound: 0,
            routes: BTreeMap::new(),
            nodes: BTreeMap::new(),
            idle: BTreeSet::new(),
            frames_heard: 0,
            ready: VecDeque::new(),
            overflowing: Vec::new(),
            unopened: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// Who this node is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Totals since the start.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What the next peers that say `hello` are told. Where it names a master that was not named
    /// before, those that said it already are told as well: they may outlive all others.
    pub fn set_greeting(&mut self, greeting: Greeting) {
        let is_more = names_more(&self.greeting.masters, &greeting.masters);
        self.greeting = greeting;
        if is_more {
            let told: Vec<Inbound> = self.nodes.values().copied().collect();
            told.into_iter().for_each(|inbound| self.answer_hello(inbound, RequestId(0)));
        }
    }

    /// Says from now on which cluster this node belongs to, for one that learned it late.
    pub fn set_cluster(&mut self, cluster: ClusterId) {
        self.identity.cluster = cluster;
    }

    /// Says from now on where this node can be reached.
    pub fn set_address(&mut self, address: String) {
        self.identity.address = address;
    }

    /// Bytes that wait to be sent to a peer; 0 for one that is gone.
    #[must_use]
    pub fn queued_bytes(&self, peer: Peer) -> usize {
        match peer {
            Peer::Link(link) => self.links.get(&link).map_or(0, |it| it.outgoing.bytes()),
            Peer::Inbound(inbound) => {
                self.inbound.get(&inbound).map_or(0, |it| it.outgoing.bytes())
            }
        }
    }

    /// Carries out an effect; returns what remains to be done with sockets.
    #[must_use]
    pub fn perform(&mut self, now: Instant, effect: NetworkEffect) -> Option<SocketChange> {
        match effect {
            NetworkEffect::Open { link, address } => Some(self.open(now, link, address)),
            NetworkEffect::Close { link } => self.close(link),
            NetworkEffect::Send { to, record } => {
                self.send(to, record);
                None
            }
        }
    }

    /// Queues an encoded record. What becomes of it the driver never learns: it is sent, lost with
    /// its connection, or dropped and counted.
    pub fn send(&mut self, to: Peer, record: Vec<u8>) {
        let Some(outgoing) = outgoing_of(&mut self.links, &mut self.inbound, to) else {
            self.counters.unroutable += 1;
            return;
        };
        match outgoing.push(record) {
            Queued::Yes => self.counters.records_queued += 1,
            Queued::BeganOverflowing => {
                self.counters.overflowed += 1;
                self.overflowing.push(to);
            }
            Queued::Overflowing => self.counters.overflowed += 1,
        }
        if !outgoing.listed && !outgoing.blocked {
            outgoing.listed = true;
            self.ready.push_back(to);
        }
    }

    /// Handles a frame from outside.
    pub fn receive(
        &mut self,
        now: Instant,
        source: Source<'_>,
        frame: &[u8],
        deliver: &mut Deliver<'_>,
    ) {
        self.counters.frames_received += 1;
        match source {
            Source::Link(link, generation) => {
                self.receive_on_link(now, link, generation, frame, deliver);
            }
            Source::Bound(id) => self.receive_inbound(id, frame, deliver),
        }
    }

    /// Says again what was not answered and reports queues that overflow.
    pub fn tick(&mut self, now: Instant, deliver: &mut Deliver<'_>) {
        for peer in std::mem::take(&mut self.overflowing) {
            deliver(NetworkEvent::Overflowing { peer });
        }
        for (link, text) in std::mem::take(&mut self.unopened) {
            self.refused(link, ErrorCode::Invalid, text, deliver);
        }
        self.repeat_hellos(now);
    }

    /// No socket could be made for a link that [`SocketChange::Open`] asked for: the logic hears
    /// that it is refused.
    pub fn not_opened(&mut self, link: Link, text: String) {
        self.unopened.retain(|(it, _)| *it != link);
        self.unopened.push((link, text));
    }

    /// When to call [`Sessions::tick`] if nothing else happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        if !self.overflowing.is_empty() || !self.unopened.is_empty() {
            return Some(Instant::default());
        }
        self.hello_due.first().map(|(due, _)| *due)
    }

    /// The next frame to send, and where to. Frames of one peer come in order, peers in turn.
    pub fn take_frame(&mut self) -> Option<(Route, Vec<u8>)> {
        while let Some(peer) = self.ready.pop_front() {
            let route = match peer {
                Peer::Link(link) => {
                    self.links.get(&link).map(|it| Route::Link(link, it.outgoing.generation()))
                }
                Peer::Inbound(inbound) => {
                    self.inbound.get(&inbound).map(|it| Route::Bound(inbound, it.route.clone()))
                }
            };
            let outgoing = outgoing_of(&mut self.links, &mut self.inbound, peer);
            let (Some(route), Some(outgoing)) = (route, outgoing) else { continue };
            outgoing.listed = false;
            if let Some(frame) = outgoing.pop() {
                if !outgoing.is_empty() {
                    outgoing.listed = true;
                    self.ready.push_back(peer);
                }
                self.counters.frames_sent += 1;
                return Some((route, frame));
            }
        }
        None
    }

    /// Takes back the frame that [`Sessions::take_frame`] returned last for this route, because the
    /// socket does not take it now. The peer's frames wait until [`Sessions::unblock`].
    pub fn put_back(&mut self, route: &Route, frame: Vec<u8>) {
        self.counters.frames_sent -= 1;
        match self.outgoing_at(route) {
            Some(outgoing) => {
                outgoing.put_back(frame);
                outgoing.blocked = true;
                outgoing.listed = false;
                let peer = route.peer();
                self.ready.retain(|it| *it != peer);
            }
            None => self.counters.unroutable += 1,
        }
    }

    /// The socket takes frames for a peer again.
    pub fn unblock(&mut self, peer: Peer) {
        if let Some(outgoing) = outgoing_of(&mut self.links, &mut self.inbound, peer) {
            outgoing.blocked = false;
            if !outgoing.is_empty() && !outgoing.listed {
                outgoing.listed = true;
                self.ready.push_back(peer);
            }
        }
    }

    /// The transport has no way to a peer: what is queued for it is dropped. The session stays,
    /// since the peer may come back on its connection.
    pub fn unreachable(&mut self, route: &Route) {
        self.counters.frames_sent -= 1;
        self.counters.unroutable += 1;
        if let Some(outgoing) = self.outgoing_at(route) {
            let dropped = outgoing.clear() as u64;
            outgoing.blocked = false;
            self.counters.unroutable += dropped;
        }
    }

    fn outgoing_at(&mut self, route: &Route) -> Option<&mut Outgoing> {
        let outgoing = outgoing_of(&mut self.links, &mut self.inbound, route.peer())?;
        match route {
            Route::Link(_, generation) if *generation != outgoing.generation() => None,
            Route::Link(..) | Route::Bound(..) => Some(outgoing),
        }
    }

    /// A generation that no connection had. After 2^32 of them (a peer that connects a hundred
    /// thousand times a second needs half a day) the last one is given out again, which costs the
    /// protection against late records, nothing else.
    fn next_generation(&mut self) -> Generation {
        self.opened = self.opened.saturating_add(1);
        Generation::of(self.identity.incarnation, self.opened)
    }

    fn deliver_record(&mut self, sender: Sender, record: Record<'_>, deliver: &mut Deliver<'_>) {
        if record.message_type() == Ping::TYPE {
            let envelope = Envelope { request_id: record.request_id().0, ..Default::default() };
            self.send(sender.peer, encode(&Pong { envelope, ..Default::default() }, &[]));
            return;
        }
        self.counters.records_delivered += 1;
        deliver(NetworkEvent::Record { sender, record });
    }

    /// Walks the whole state and panics where it contradicts itself.
    pub fn check_invariants(&self) {
        for (link, state) in &self.links {
            state.outgoing.check_invariants();
            self.check_listed(Peer::Link(*link), &state.outgoing);
        }
        for (inbound, state) in &self.inbound {
            state.outgoing.check_invariants();
            self.check_listed(Peer::Inbound(*inbound), &state.outgoing);
            assert_eq!(self.routes.get(&state.route), Some(inbound), "route of {inbound:?}");
            assert!(self.idle.contains(&state.idle_key(*inbound)), "{inbound:?} is not in idle");
        }
        assert!(self.inbound.len() <= self.limits.peers.max(1), "too many peers");
        assert_eq!(self.inbound.len(), self.routes.len(), "routes");
        assert_eq!(self.inbound.len(), self.idle.len(), "idle");
        for (node, inbound) in &self.nodes {
            let state = self.inbound.get(inbound).and_then(|it| it.session.as_ref());
            assert_eq!(state.map(|it| it.sender.node), Some(*node), "newest session of {node}");
        }
        for (_, link) in &self.hello_due {
            assert!(self.links.contains_key(link), "{link:?} waits for hello and is not open");
        }
    }

    fn check_listed(&self, peer: Peer, outgoing: &Outgoing) {
        let listed = self.ready.iter().filter(|it| **it == peer).count();
        assert_eq!(listed, usize::from(outgoing.listed), "{peer:?} in the list of the ready");
        assert!(
            outgoing.is_empty() || outgoing.listed || outgoing.blocked,
            "{peer:?} has frames that nobody takes"
        );
    }
}

fn outgoing_of<'a>(
    links: &'a mut BTreeMap<Link, LinkState>,
    inbound: &'a mut BTreeMap<Inbound, InboundState>,
    peer: Peer,
) -> Option<&'a mut Outgoing> {
    match peer {
        Peer::Link(link) => links.get_mut(&link).map(|it| &mut it.outgoing),
        Peer::Inbound(number) => inbound.get_mut(&number).map(|it| &mut it.outgoing),
    }
}

/// Which record a malformed one claims to be; 0 where it cannot be told.
fn claimed_type(error: RecordError) -> u8 {
    match error {
        RecordError::TooShort { .. } => 0,
        RecordError::HeaderLength { message_type, .. }
        | RecordError::Truncated { message_type, .. }
        | RecordError::TooLong { message_type, .. }
        | RecordError::UnknownType { message_type }
        | RecordError::OtherType { message_type, .. }
        | RecordError::Part { message_type, .. }
        | RecordError::Value { message_type, .. } => message_type,
    }
}

fn is_error_reply(message_type: u8) -> bool {
    message_type == ErrorReply::TYPE
}

/// Why a peer of this version and cluster is not talked to; `None` where nothing stands against it.
fn mismatch(
    identity: &Identity,
    role: Role,
    version: u32,
    cluster: ClusterId,
) -> Option<(ErrorCode, String)> {
    if version != PROTOCOL_VERSION {
        let (own, older) = (identity.role, version < PROTOCOL_VERSION);
        let change = if older { role } else { own };
        let text = format!(
            "this {own} speaks protocol version {PROTOCOL_VERSION}, the {role} version {version}: \
             install a newer version of Remuda on the {change}'s side"
        );
        return Some((ErrorCode::OtherVersion, text));
    }
    let own = identity.cluster;
    if !cluster.is_nil() && !own.is_nil() && cluster != own {
        let or_folder = match role {
            Role::Client | Role::Gateway => "",
            Role::Master | Role::Balancer | Role::Worker | Role::Storage => {
                " or another data folder"
            }
        };
        let text = format!(
            "this {} belongs to cluster {own}, the {role} to {cluster}: give the {role} an address \
             of its own cluster{or_folder}",
            identity.role
        );
        return Some((ErrorCode::OtherCluster, text));
    }
    None
}
