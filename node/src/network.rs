//! The ZeroMQ side of a node: one bound ROUTER, a DEALER for each link, one poll.
//!
//! Responsible for socket options, for carrying frames between sockets and
//! [`Sessions`], and for waiting without using the processor. What frames mean, who is refused and
//! what is queued is the sessions' matter. One thread owns it; others use its [`Waker`].

use std::collections::{BTreeMap, BTreeSet};

use proto::ids::{ClusterId, Generation};
use proto::limits;
use proto::time::{Duration, Instant};

use crate::clock::Clock;
use crate::exposure::{self, Exposed};
use crate::logic::counters::Counters;
use crate::logic::network::{
    Greeting, Identity, Link, NetworkEffect, NetworkEvent, NetworkLimits, Peer, RoutingId,
};
use crate::logic::sessions::{Route, Sessions, SocketChange, Source};
use crate::waker::Waker;

/// Frames that libzmq holds for one peer in each direction. Few, because it counts frames and not
/// bytes: the queues that are bounded in bytes are the sessions', and records pack there while the
/// socket is full. 64 packed frames are 4 MiB, more than loopback or a network has in flight
/// (eyeballed; `examples/message_rate.rs` shows what it costs).
const HIGH_WATER_MARK: i32 = 64;

/// Frames and bytes that are read from one socket before the others get their turn.
const READ_FRAMES: u32 = 64;
const READ_BYTES: usize = 4 << 20;

/// Frames from here on are handed to libzmq without a copy (eyeballed: below it the copy is
/// cheaper than the bookkeeping).
const UNCOPIED_BYTES: usize = 1 << 10;

/// The bound socket does not tell when a full peer has room again, so it is tried again after this,
/// and each time after twice as long, up to the longest.
const FIRST_RETRY: Duration = Duration::from_millis(1);
const LONGEST_RETRY: Duration = Duration::from_millis(50);

/// How long what was sent last may take to leave when a socket is closed.
const LINGER_MS: i32 = 1_000;
const RECONNECT_MS: i32 = 100;
/// Below the time in which fail-over should be noticed.
const RECONNECT_LONGEST_MS: i32 = 1_000;
const HANDSHAKE_MS: i32 = 5_000;
/// Against half-open connections only; that a node works is shown by its own heartbeats.
const HEARTBEAT_MS: i32 = 5_000;
/// Generous, because a slow reader at the high-water mark looks like a dead one.
const HEARTBEAT_TIMEOUT_MS: i32 = 30_000;
/// Workers that connect at the same moment after a restart.
const BACKLOG: i32 = 1_024;

/// Whether a node may listen without keys where other machines reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// On loopback only.
    Loopback,
    /// Anywhere: the operator said that the network is trusted.
    Insecure,
}

/// Why a node has no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// An address that strangers can reach, or that is none.
    #[error(transparent)]
    Exposed(#[from] Exposed),
    /// The socket cannot be made or bound.
    #[error("bind {address}")]
    Bind {
        /// As it was given.
        address: String,
        /// What libzmq says.
        source: zmq::Error,
    },
    /// The process has no descriptor left to be woken by.
    #[error("make an event descriptor")]
    Waker(#[source] std::io::Error),
}

/// A node's sockets.
pub struct Network {
    sessions: Sessions,
    clock: Clock,
    waker: Waker,
    bound: Option<Bound>,
    links: BTreeMap<Link, OpenSocket>,
    /// Links whose socket took no more; the poll tells when it does.
    full_links: BTreeSet<Link>,
    /// Inbound peers whose queue in libzmq is full: when to try again, and how long that is.
    full_inbound: BTreeMap<Peer, (Instant, Duration)>,
    incoming: Incoming,
    wakeups: u64,
    // Last: the context waits for its sockets.
    context: zmq::Context,
}

struct Bound {
    socket: zmq::Socket,
    address: String,
}

struct OpenSocket {
    socket: zmq::Socket,
    generation: Generation,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network")
            .field("bound", &self.bound_address())
            .field("sessions", &self.sessions)
            .finish_non_exhaustive()
    }
}

/// Buffers for what is read, kept between reads.
struct Incoming {
    id: zmq::Message,
    frame: zmq::Message,
}

impl Network {
    /// A node that others can connect to. `address` is `tcp://HOST:PORT`; with `*` for the port the
    /// system chooses one, see [`Network::bound_address`]. Where the identity has no address of its
    /// own, peers are told the bound one.
    ///
    /// # Errors
    /// [`NetworkError`] where the address is none, may not be bound or is in use.
    pub fn bind(
        identity: Identity,
        address: &str,
        exposure: Exposure,
        clock: Clock,
    ) -> Result<Network, NetworkError> {
        exposure::check(exposure, address)?;
        let mut network = Network::client(identity, clock)?;
        let failed = |source| NetworkError::Bind { address: address.to_owned(), source };
        let (socket, bound) = network.router(address).map_err(failed)?;
        if network.sessions.identity().address.is_empty() {
            network.sessions.set_address(bound.clone());
        }
        network.bound = Some(Bound { socket, address: bound });
        Ok(network)
    }

    /// A node that only connects to others.
    ///
    /// # Errors
    /// [`NetworkError::Waker`].
    pub fn client(identity: Identity, clock: Clock) -> Result<Network, NetworkError> {
        Ok(Network {
            sessions: Sessions::new(identity, NetworkLimits::NODE),
            clock,
            waker: Waker::new().map_err(NetworkError::Waker)?,
            bound: None,
            links: BTreeMap::new(),
            full_links: BTreeSet::new(),
            full_inbound: BTreeMap::new(),
            incoming: Incoming { id: zmq::Message::new(), frame: zmq::Message::new() },
            wakeups: 0,
            context: zmq::Context::new(),
        })
    }

    fn router(&self, address: &str) -> zmq::Result<(zmq::Socket, String)> {
        let socket = self.context.socket(zmq::ROUTER)?;
        set_common_options(&socket, address)?;
        // Without it a record to a full or unknown peer vanishes silently.
        socket.set_router_mandatory(true)?;
        // Without it a peer that comes back under its id stays mute until TCP notices.
        socket.set_router_handover(true)?;
        socket.set_backlog(BACKLOG)?;
        socket.bind(address)?;
        let bound = socket.get_last_endpoint()?.unwrap_or_else(|_| address.to_owned());
        Ok((socket, bound))
    }

    fn dealer(&self, address: &str) -> zmq::Result<zmq::Socket> {
        let socket = self.context.socket(zmq::DEALER)?;
        set_common_options(&socket, address)?;
        socket.set_identity(RoutingId::of(self.sessions.identity().node).as_bytes())?;
        // Frames for a peer that is not connected stay with the sessions, which bound their bytes.
        socket.set_immediate(true)?;
        socket.set_reconnect_ivl(RECONNECT_MS)?;
        socket.set_reconnect_ivl_max(RECONNECT_LONGEST_MS)?;
        socket.set_heartbeat_ivl(HEARTBEAT_MS)?;
        socket.set_heartbeat_timeout(HEARTBEAT_TIMEOUT_MS)?;
        socket.set_heartbeat_ttl(HEARTBEAT_TIMEOUT_MS)?;
        socket.connect(address)?;
        Ok(socket)
    }

    /// Where others can connect, with the port that the system chose; `None` for a client.
    #[must_use]
    pub fn bound_address(&self) -> Option<&str> {
        self.bound.as_ref().map(|it| it.address.as_str())
    }

    /// The ZeroMQ context, for the sockets of telemetry.
    #[must_use]
    pub fn context(&self) -> &zmq::Context {
        &self.context
    }

    /// Wakes this network's poll from any thread.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// What the next peers that say `hello` are told.
    pub fn set_greeting(&mut self, greeting: Greeting) {
        self.sessions.set_greeting(greeting);
    }

    /// Says from now on which cluster this node belongs to, for one that learned it late.
    pub fn set_cluster(&mut self, cluster: ClusterId) {
        self.sessions.set_cluster(cluster);
    }

    /// Totals since the start.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        self.sessions.counters()
    }

    /// Bytes that wait in this process to be sent to a peer.
    #[must_use]
    pub fn queued_bytes(&self, peer: Peer) -> usize {
        self.sessions.queued_bytes(peer)
    }

    /// How often a poll returned, for whatever reason.
    #[must_use]
    pub fn wakeups(&self) -> u64 {
        self.wakeups
    }

    /// Carries out an effect. Records are only queued; see [`Network::flush`].
    pub fn perform(&mut self, effect: NetworkEffect) {
        match self.sessions.perform(self.clock.now(), effect) {
            Some(SocketChange::Open { link, generation, address }) => {
                self.close(link, 0);
                match self.dealer(&address) {
                    Ok(socket) => {
                        self.links.insert(link, OpenSocket { socket, generation });
                    }
                    Err(error) => {
                        let text = format!("cannot connect to {address:?}: {error}");
                        self.sessions.not_opened(link, text);
                    }
                }
            }
            Some(SocketChange::Close { link, last_frames }) => {
                if let Some(open) = self.links.get(&link) {
                    for frame in last_frames {
                        // What a full or unconnected socket does not take is lost with it.
                        if open.socket.send(message(frame), zmq::DONTWAIT).is_err() {
                            break;
                        }
                    }
                }
                self.close(link, LINGER_MS);
            }
            None => {}
        }
    }

    fn close(&mut self, link: Link, linger_ms: i32) {
        self.full_links.remove(&link);
        if let Some(open) = self.links.remove(&link)
            && let Err(error) = open.socket.set_linger(linger_ms)
        {
            tracing::debug!(%error, "set the linger time of a closed socket");
        }
    }

    /// Hands all queued frames to libzmq, as far as it takes them. Called by whoever performed the
    /// effects of a batch of events; [`Network::poll`] does it before it waits as well.
    pub fn flush(&mut self) {
        while let Some((route, frame)) = self.sessions.take_frame() {
            match &route {
                Route::Link(link, _) => match self.links.get(link) {
                    Some(open) if is_writable(&open.socket) => {
                        // A connection that ends in between loses the frame, as one in flight.
                        if open.socket.send(message(frame), zmq::DONTWAIT).is_err() {
                            self.sessions.unreachable(&route);
                        }
                    }
                    Some(_) => {
                        self.full_links.insert(*link);
                        self.sessions.put_back(&route, frame);
                    }
                    None => self.sessions.unreachable(&route),
                },
                Route::Bound(_, id) => {
                    let Some(bound) = &self.bound else { continue };
                    match bound.socket.send(id.as_bytes(), zmq::DONTWAIT | zmq::SNDMORE) {
                        Ok(()) => {
                            if bound.socket.send(message(frame), zmq::DONTWAIT).is_err() {
                                self.sessions.unreachable(&route);
                            }
                            self.full_inbound.remove(&route.peer());
                        }
                        Err(zmq::Error::EAGAIN) => {
                            let wait = self.full_inbound.get(&route.peer());
                            let wait = wait
                                .map_or(FIRST_RETRY, |(_, wait)| wait.times(2).min(LONGEST_RETRY));
                            let again = self.clock.now() + wait;
                            self.full_inbound.insert(route.peer(), (again, wait));
                            self.sessions.put_back(&route, frame);
                        }
                        Err(_) => self.sessions.unreachable(&route),
                    }
                }
            }
        }
    }

    /// Sends what is queued, waits until something happens, and delivers it: records and changes of
    /// connections, a wake, or the deadline (for ever where there is none). Reads a bounded amount
    /// of each socket, so that a caller in a loop serves all peers. Returns how many events were
    /// delivered.
    pub fn poll(
        &mut self,
        deadline: Option<Instant>,
        deliver: &mut dyn FnMut(NetworkEvent<'_>),
    ) -> usize {
        let mut delivered = 0;
        let now = self.clock.now();
        self.sessions.tick(now, &mut |event| {
            delivered += 1;
            deliver(event);
        });
        self.retry_full(now);
        self.flush();
        // What was delivered already the caller acts upon before anything is waited for.
        let deadline = if delivered > 0 { Some(now) } else { deadline };
        let happened = self.wait(deadline);
        let mut counted = |event: NetworkEvent<'_>| {
            delivered += 1;
            deliver(event);
        };
        if happened.bound {
            self.read_bound(&mut counted);
        }
        for link in happened.links {
            self.read_link(link, &mut counted);
        }
        self.flush();
        delivered
    }

    fn retry_full(&mut self, now: Instant) {
        for (peer, (again, wait)) in &mut self.full_inbound {
            if *again <= now {
                *again = now + *wait;
                self.sessions.unblock(*peer);
            }
        }
        self.full_inbound.retain(|peer, _| self.sessions.queued_bytes(*peer) > 0);
    }

    fn timeout_ms(&self, deadline: Option<Instant>) -> i64 {
        let retry = self.full_inbound.values().map(|(again, _)| *again).min();
        let earliest = [deadline, self.sessions.next_deadline(), retry];
        let Some(earliest) = earliest.into_iter().flatten().min() else { return -1 };
        // Rounded up: a loop that wakes before its deadline finds nothing to do and turns in place.
        let wait = earliest.since(self.clock.now()).as_micros().div_ceil(1_000);
        i64::try_from(wait).unwrap_or(i64::MAX).min(i64::from(i32::MAX))
    }

    fn wait(&mut self, deadline: Option<Instant>) -> Happened {
        let mut items = Vec::with_capacity(2 + self.links.len());
        items.push(zmq::PollItem::from_fd(self.waker.descriptor(), zmq::POLLIN));
        if let Some(bound) = &self.bound {
            items.push(bound.socket.as_poll_item(zmq::POLLIN));
        }
        let first_link = items.len();
        for (link, open) in &self.links {
            let full = self.full_links.contains(link);
            let events = if full { zmq::POLLIN | zmq::POLLOUT } else { zmq::POLLIN };
            items.push(open.socket.as_poll_item(events));
        }
        let timeout = if self.waker.park() { self.timeout_ms(deadline) } else { 0 };
        let polled = zmq::poll(&mut items, timeout);
        let mut events = items.iter().map(zmq::PollItem::get_revents);
        let woken = events.next().is_some_and(|it| it.contains(zmq::POLLIN));
        self.waker.unpark(woken);
        self.wakeups += 1;
        match polled {
            Ok(_) => {}
            // A signal: the caller looks what it meant.
            Err(zmq::Error::EINTR) => return Happened::default(),
            Err(error) => panic!("poll sockets that this thread owns: {error}"),
        }
        let mut happened = Happened::default();
        if first_link == 2 {
            happened.bound = events.next().is_some_and(|it| it.contains(zmq::POLLIN));
        }
        for (link, events) in self.links.keys().zip(events) {
            if events.contains(zmq::POLLIN) {
                happened.links.push(*link);
            }
            if events.contains(zmq::POLLOUT) {
                self.full_links.remove(link);
                self.sessions.unblock(Peer::Link(*link));
            }
        }
        happened
    }

    fn read_bound(&mut self, deliver: &mut dyn FnMut(NetworkEvent<'_>)) {
        let Some(bound) = &self.bound else { return };
        let Incoming { id, frame } = &mut self.incoming;
        let mut budget = READ_BYTES;
        for _ in 0..READ_FRAMES {
            if bound.socket.recv(id, zmq::DONTWAIT).is_err() {
                return;
            }
            if !id.get_more() || !receive_last_part(&bound.socket, frame) {
                continue;
            }
            self.sessions.receive(self.clock.now(), Source::Bound(id), frame, deliver);
            let Some(left) = budget.checked_sub(frame.len()) else { return };
            budget = left;
        }
    }

    fn read_link(&mut self, link: Link, deliver: &mut dyn FnMut(NetworkEvent<'_>)) {
        let Some(OpenSocket { socket, generation }) = self.links.get(&link) else { return };
        let frame = &mut self.incoming.frame;
        let source = Source::Link(link, *generation);
        let mut budget = READ_BYTES;
        for _ in 0..READ_FRAMES {
            match socket.recv(frame, zmq::DONTWAIT) {
                Ok(()) if !frame.get_more() => {
                    self.sessions.receive(self.clock.now(), source, frame, deliver);
                }
                Ok(()) => {
                    receive_last_part(socket, frame);
                }
                Err(_) => return,
            }
            let Some(left) = budget.checked_sub(frame.len()) else { return };
            budget = left;
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.flush();
        self.links.clear();
        self.bound = None;
    }
}

#[derive(Debug, Default)]
struct Happened {
    bound: bool,
    links: Vec<Link>,
}

/// Receives the part after one that said there is more. False where it is not the last: nothing of
/// ours has a third part, so the whole message is passed over.
fn receive_last_part(socket: &zmq::Socket, part: &mut zmq::Message) -> bool {
    let mut parts = 0;
    while socket.recv(part, zmq::DONTWAIT).is_ok() {
        parts += 1;
        if !part.get_more() {
            return parts == 1;
        }
    }
    false
}

fn is_writable(socket: &zmq::Socket) -> bool {
    socket.get_events().is_ok_and(|events| events.contains(zmq::POLLOUT))
}

fn message(frame: Vec<u8>) -> zmq::Message {
    if frame.len() < UNCOPIED_BYTES {
        zmq::Message::from(frame.as_slice())
    } else {
        zmq::Message::from(frame)
    }
}

fn set_common_options(socket: &zmq::Socket, address: &str) -> zmq::Result<()> {
    socket.set_ipv6(address.contains('['))?;
    socket.set_sndhwm(HIGH_WATER_MARK)?;
    socket.set_rcvhwm(HIGH_WATER_MARK)?;
    socket.set_linger(LINGER_MS)?;
    socket.set_maxmsgsize(limits::FRAME_BYTES as i64)?;
    socket.set_handshake_ivl(HANDSHAKE_MS)
}
