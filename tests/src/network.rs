//! Links with the semantics of ZeroMQ over TCP: DEALER sockets that connect, ROUTER sockets that
//! listen.
//!
//! Each (opener, link, generation) is a socket of its own; while it is connected there is a FIFO
//! pipe each way. Nothing is duplicated and nothing is reordered inside a connection; what is
//! queued or in flight when it ends, or beyond the high-water mark, is lost without a word. A lost
//! connection is made again after a delay, under the same generation. A partition stops the bytes
//! of one direction: they arrive late if it heals soon and are lost if the heartbeats of ZMTP give
//! up first. Knows nothing of records: frames are bytes, made and read by `Sessions`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fastrand::Rng;
use proto::time::{Duration, Instant};

use crate::agenda::Agenda;
use crate::process::ProcessId;
use crate::random::span;
use crate::report::{Happening, Report};
use crate::world::Delivery;

/// How long ZMTP heartbeats endure silence before they drop a connection.
pub(crate) const SILENCE: Duration = Duration::from_secs(6);

/// First delay before a connection is tried again (RECONNECT_IVL) and the longest one.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Bytes that a link moves in a microsecond: 1 Gbit/s.
const BYTES_PER_MICROSECOND: u64 = 125;

/// One DEALER socket; a link that is closed and opened again is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SocketId(pub(crate) u64);

/// From whom a frame came, as the receiver's edge would say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// An answer on a link that the receiver opened.
    Link {
        /// Its number.
        link: u32,
        /// The generation of the socket on which it arrived.
        generation: u64,
    },
    /// A peer that connected to the receiver.
    Inbound {
        /// Its ZeroMQ routing id.
        routing_id: Vec<u8>,
    },
}

/// Direction within a socket's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the opener to the listener.
    Forth,
    /// From the listener to the opener.
    Back,
}

/// What the network has entered into the agenda for itself.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// A socket tries to connect.
    Connect(SocketId),
    /// The first frame of a pipe arrives, unless the pipe's flow was begun anew meanwhile.
    Arrive { socket: SocketId, way: Way, flow: u64 },
    /// The connection ends, if it still is that one.
    Lose { socket: SocketId, connection: u64 },
    /// Heartbeats give up on a blocked direction, if it is still the same blockage.
    Silence { from: ProcessId, to: ProcessId, blockage: u64 },
}

/// A frame that reached a process.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) to: ProcessId,
    pub(crate) source: Source,
    pub(crate) frame: Vec<u8>,
}

#[derive(Debug, Default)]
struct Pipe {
    in_flight: VecDeque<Vec<u8>>,
    last_arrival: Instant,
    flow: u64,
    stalled: bool,
}

#[derive(Debug)]
struct Socket {
    opener: ProcessId,
    listener: Option<ProcessId>,
    link: u32,
    generation: u64,
    routing_id: Vec<u8>,
    open: bool,
    connected: bool,
    /// One side of the present connection has died; what it sent still arrives.
    dying: Option<Way>,
    connection: u64,
    attempts: u32,
    waiting: VecDeque<Vec<u8>>,
    forth: Pipe,
    back: Pipe,
}

impl Socket {
    fn pipe(&mut self, way: Way) -> &mut Pipe {
        match way {
            Way::Forth => &mut self.forth,
            Way::Back => &mut self.back,
        }
    }

    fn in_flight(&self) -> usize {
        self.forth.in_flight.len() + self.back.in_flight.len()
    }
}

/// How the network behaves in a run; drawn from the seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// Shortest time from one process to another.
    pub(crate) latency: Duration,
    /// What is added at most, drawn for each frame.
    pub(crate) jitter: Duration,
    /// Frames that a pipe holds before further ones are lost.
    pub(crate) high_water_mark: usize,
}

/// All sockets of a run.
#[derive(Debug)]
pub(crate) struct Network {
    rng: Rng,
    weather: Weather,
    addresses: BTreeMap<String, ProcessId>,
    listening: BTreeSet<ProcessId>,
    sockets: BTreeMap<SocketId, Socket>,
    next_socket: u64,
    links: BTreeMap<(ProcessId, u32), SocketId>,
    /// Which socket a listener's routing id means at present (ROUTER_HANDOVER: the newest).
    routes: BTreeMap<(ProcessId, Vec<u8>), SocketId>,
    blocked: BTreeMap<(ProcessId, ProcessId), u64>,
    next_blockage: u64,
    slow: BTreeMap<(ProcessId, ProcessId), Duration>,
}

impl Network {
    pub(crate) fn new(rng: Rng, weather: Weather) -> Network {
        Network {
            rng,
            weather,
            addresses: BTreeMap::new(),
            listening: BTreeSet::new(),
            sockets: BTreeMap::new(),
            next_socket: 1,
            links: BTreeMap::new(),
            routes: BTreeMap::new(),
            blocked: BTreeMap::new(),
            next_blockage: 1,
            slow: BTreeMap::new(),
        }
    }

    /// A process answers under an address from now on, until it dies.
    pub(crate) fn listen(&mut self, process: ProcessId, address: &str) {
        self.addresses.insert(address.to_owned(), process);
        self.listening.insert(process);
    }

    /// Opens a socket; the one that the link had is closed.
    pub(crate) fn open(
        &mut self,
        agenda: &mut Agenda<Delivery>,
        opener: ProcessId,
        (link, generation): (u32, u64),
        routing_id: Vec<u8>,
        address: &str,
    ) {
        self.close(opener, link);
        let id = SocketId(self.next_socket);
        self.next_socket += 1;
        self.links.insert((opener, link), id);
        let socket = Socket {
            opener,
            listener: self.addresses.get(address).copied(),
            link,
            generation,
            routing_id,
            open: true,
            connected: false,
            dying: None,
            connection: 0,
            attempts: 0,
            waiting: VecDeque::new(),
            forth: Pipe::default(),
            back: Pipe::default(),
        };
        self.sockets.insert(id, socket);
        let handshake = self.latency(opener, opener, 0).times(3);
        agenda.after(handshake, Delivery::Network(Step::Connect(id)));
    }

    /// Closes a link's socket. What it had sent still arrives.
    pub(crate) fn close(&mut self, opener: ProcessId, link: u32) {
        let Some(id) = self.links.remove(&(opener, link)) else { return };
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        socket.open = false;
        socket.waiting.clear();
        if socket.in_flight() == 0 {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: SocketId) {
        if let Some(socket) = self.sockets.remove(&id)
            && let Some(listener) = socket.listener
            && self.routes.get(&(listener, socket.routing_id.clone())) == Some(&id)
        {
            self.routes.remove(&(listener, socket.routing_id));
        }
    }

    /// Sends on a link's socket; while it is not connected the frame waits in the sender's queue.
    pub(crate) fn send(
        &mut self,
        agenda: &mut Agenda<Delivery>,
        report: &mut Report,
        opener: ProcessId,
        (link, generation): (u32, u64),
        frame: Vec<u8>,
    ) {
        let Some(&id) = self.links.get(&(opener, link)) else { return };
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        if socket.generation != generation {
            return;
        }
        if socket.connected && socket.dying != Some(Way::Forth) {
            self.put(agenda, report, id, Way::Forth, frame);
        } else if socket.waiting.len() < self.weather.high_water_mark {
            socket.waiting.push_back(frame);
        } else {
            report.add(Happening::FramesLost, 1);
        }
    }

    /// Sends to a peer that connected; without a connection the frame is lost (EHOSTUNREACH).
    pub(crate) fn answer(
        &mut self,
        agenda: &mut Agenda<Delivery>,
        report: &mut Report,
        listener: ProcessId,
        routing_id: &[u8],
        frame: Vec<u8>,
    ) {
        let route = self.routes.get(&(listener, routing_id.to_vec())).copied();
        match route.and_then(|id| Some((id, self.sockets.get(&id)?))) {
            Some((id, socket)) if socket.connected && socket.open => {
                self.put(agenda, report, id, Way::Back, frame);
            }
            _ => report.add(Happening::FramesLost, 1),
        }
    }

    fn put(
        &mut self,
        agenda: &mut Agenda<Delivery>,
        report: &mut Report,
        id: SocketId,
        way: Way,
        frame: Vec<u8>,
    ) {
        let Some(socket) = self.sockets.get(&id) else { return };
        let Some(listener) = socket.listener else { return };
        let (from, to) = match way {
            Way::Forth => (socket.opener, listener),
            Way::Back => (listener, socket.opener),
        };
        let latency = self.latency(from, to, frame.len());
        let high_water_mark = self.weather.high_water_mark;
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        let pipe = socket.pipe(way);
        if pipe.in_flight.len() >= high_water_mark {
            report.add(Happening::FramesLost, 1);
            return;
        }
        pipe.in_flight.push_back(frame);
        // Jitter never lets a frame overtake another of its connection.
        let at = (agenda.now() + latency).max(pipe.last_arrival);
        pipe.last_arrival = at;
        let flow = pipe.flow;
        agenda.at(at, Delivery::Network(Step::Arrive { socket: id, way, flow }));
    }

    fn latency(&mut self, from: ProcessId, to: ProcessId, bytes: usize) -> Duration {
        let jitter = span(&mut self.rng, Duration::ZERO, self.weather.jitter);
        let slow = self.slow.get(&(from, to)).copied().unwrap_or(Duration::ZERO);
        let transfer = Duration(bytes as u64 / BYTES_PER_MICROSECOND);
        self.weather.latency + jitter + slow + transfer
    }

    /// Does a step that the agenda says is due; a frame that arrives is returned.
    pub(crate) fn step(
        &mut self,
        agenda: &mut Agenda<Delivery>,
        report: &mut Report,
        step: Step,
    ) -> Option<Arrival> {
        match step {
            Step::Connect(id) => {
                self.connect(agenda, report, id);
                None
            }
            Step::Arrive { socket, way, flow } => self.arrive(report, socket, way, flow),
            Step::Lose { socket, connection } => {
                if self.sockets.get(&socket).is_some_and(|s| s.connection == connection) {
                    self.lose(agenda, report, socket);
                }
                None
            }
            Step::Silence { from, to, blockage } => {
                if self.blocked.get(&(from, to)) == Some(&blockage) {
                    self.cut(agenda, report, from, to);
                }
                None
            }
        }
    }

    fn connect(&mut self, agenda: &mut Agenda<Delivery>, report: &mut Report, id: SocketId) {
        let Some(socket) = self.sockets.get(&id) else { return };
        if socket.connected || !socket.open {
            return;
        }
        let opener = socket.opener;
        let reachable = socket.listener.filter(|&listener| {
            self.listening.contains(&listener)
                && !self.blocked.contains_key(&(opener, listener))
                && !self.blocked.contains_key(&(listener, opener))
        });
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        let Some(listener) = reachable else {
            socket.attempts += 1;
            self.connect_later(agenda, id);
            return;
        };
        socket.connected = true;
        socket.dying = None;
        socket.connection += 1;
        socket.attempts = 0;
        socket.forth = Pipe { flow: socket.forth.flow + 1, ..Pipe::default() };
        socket.back = Pipe { flow: socket.back.flow + 1, ..Pipe::default() };
        if socket.connection > 1 {
            report.add(Happening::Reconnects, 1);
        }
        let waiting = std::mem::take(&mut socket.waiting);
        let route = (listener, socket.routing_id.clone());
        let before = self.routes.insert(route, id);
        if let Some(before) = before.filter(|&before| before != id)
            && self.sockets.get(&before).is_some_and(|socket| socket.open)
        {
            self.lose(agenda, report, before);
        }
        for frame in waiting {
            self.put(agenda, report, id, Way::Forth, frame);
        }
    }

    fn connect_later(&mut self, agenda: &mut Agenda<Delivery>, id: SocketId) {
        let Some(socket) = self.sockets.get(&id) else { return };
        let delay = RECONNECT.0.times(1 << socket.attempts.min(10)).min(RECONNECT.1);
        let delay = delay + span(&mut self.rng, Duration::ZERO, RECONNECT.0);
        agenda.after(delay, Delivery::Network(Step::Connect(id)));
    }

    fn arrive(
        &mut self,
        report: &mut Report,
        id: SocketId,
        way: Way,
        flow: u64,
    ) -> Option<Arrival> {
        let socket = self.sockets.get_mut(&id)?;
        let listener = socket.listener?;
        let (from, to) = match way {
            Way::Forth => (socket.opener, listener),
            Way::Back => (listener, socket.opener),
        };
        let dying = socket.dying;
        let pipe = socket.pipe(way);
        if pipe.flow != flow {
            return None;
        }
        if self.blocked.contains_key(&(from, to)) {
            pipe.stalled = true;
            return None;
        }
        let frame = pipe.in_flight.pop_front()?;
        let (link, generation) = (socket.link, socket.generation);
        let routing_id = socket.routing_id.clone();
        if !socket.open && socket.in_flight() == 0 {
            self.forget(id);
        }
        // The side that is dead receives nothing.
        if dying.is_some_and(|dead| dead != way) {
            report.add(Happening::FramesLost, 1);
            return None;
        }
        let source = match way {
            Way::Forth => Source::Inbound { routing_id },
            Way::Back => Source::Link { link, generation },
        };
        Some(Arrival { to, source, frame })
    }

    /// Ends a connection: what is in flight is lost, the opener tries again later.
    fn lose(&mut self, agenda: &mut Agenda<Delivery>, report: &mut Report, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        report.add(Happening::FramesLost, socket.in_flight() as u64);
        for way in [Way::Forth, Way::Back] {
            let pipe = socket.pipe(way);
            pipe.in_flight.clear();
            pipe.flow += 1;
        }
        let was_connected = socket.connected;
        socket.connected = false;
        socket.dying = None;
        if !socket.open {
            self.forget(id);
            return;
        }
        if let Some(listener) = socket.listener {
            let route = (listener, socket.routing_id.clone());
            if self.routes.get(&route) == Some(&id) {
                self.routes.remove(&route);
            }
        }
        if was_connected {
            report.add(Happening::Disconnects, 1);
            self.connect_later(agenda, id);
        }
    }

    fn between(&self, a: ProcessId, b: ProcessId) -> Vec<SocketId> {
        let ends = |socket: &Socket| (socket.opener, socket.listener);
        let sockets = self.sockets.iter();
        sockets
            .filter(|(_, socket)| {
                ends(socket) == (a, Some(b)) || ends(socket) == (b, Some(a))
            })
            .map(|(&id, _)| id)
            .collect()
    }

    /// Ends every connection between two processes, with loss.
    pub(crate) fn cut(
        &mut self,
        agenda: &mut Agenda<Delivery>,
        report: &mut Report,
        a: ProcessId,
        b: ProcessId,
    ) {
        for id in self.between(a, b) {
            self.lose(agenda, report, id);
        }
    }

    /// Ends every connection of a process that was silent for too long.
    pub(crate) fn cut_off(
        &mut self,
        agenda: &mut Agenda<Delivery>,
        report: &mut Report,
        process: ProcessId,
    ) {
        let touching = |socket: &Socket| {
            socket.opener == process || socket.listener == Some(process)
        };
        let sockets = self.sockets.iter().filter(|(_, socket)| touching(socket));
        for id in sockets.map(|(&id, _)| id).collect::<Vec<_>>() {
            self.lose(agenda, report, id);
        }
    }

    /// Stops the bytes from one process to another.
    pub(crate) fn block(&mut self, agenda: &mut Agenda<Delivery>, from: ProcessId, to: ProcessId) {
        let blockage = self.next_blockage;
        self.next_blockage += 1;
        self.blocked.insert((from, to), blockage);
        agenda.after(SILENCE, Delivery::Network(Step::Silence { from, to, blockage }));
    }

    /// Lets the bytes flow again: what was held up arrives now, in order.
    pub(crate) fn unblock(
        &mut self,
        agenda: &mut Agenda<Delivery>,
        from: ProcessId,
        to: ProcessId,
    ) {
        if self.blocked.remove(&(from, to)).is_none() {
            return;
        }
        for id in self.between(from, to) {
            let latency = self.latency(from, to, 0);
            let Some(socket) = self.sockets.get_mut(&id) else { continue };
            let way = if socket.opener == from { Way::Forth } else { Way::Back };
            let pipe = socket.pipe(way);
            if !std::mem::take(&mut pipe.stalled) {
                continue;
            }
            pipe.flow += 1;
            let flow = pipe.flow;
            let at = agenda.now() + latency;
            pipe.last_arrival = at;
            for _ in 0..pipe.in_flight.len() {
                let step = Step::Arrive { socket: id, way, flow };
                agenda.at(at, Delivery::Network(step));
            }
        }
    }

    /// Adds to the latency from one process to another; zero lifts it.
    pub(crate) fn slow_down(&mut self, from: ProcessId, to: ProcessId, by: Duration) {
        if by == Duration::ZERO {
            self.slow.remove(&(from, to));
        } else {
            self.slow.insert((from, to), by);
        }
    }

    /// A process dies: its queues are gone; of what it had handed to the kernel, a part still
    /// arrives.
    pub(crate) fn die(
        &mut self,
        agenda: &mut Agenda<Delivery>,
        report: &mut Report,
        process: ProcessId,
    ) {
        self.listening.remove(&process);
        let touching = |socket: &Socket| {
            socket.opener == process || socket.listener == Some(process)
        };
        let sockets = self.sockets.iter().filter(|(_, socket)| touching(socket));
        for id in sockets.map(|(&id, _)| id).collect::<Vec<_>>() {
            let Some(socket) = self.sockets.get_mut(&id) else { continue };
            let dead = if socket.opener == process { Way::Forth } else { Way::Back };
            if dead == Way::Forth {
                self.links.remove(&(process, socket.link));
                socket.open = false;
                socket.waiting.clear();
            }
            if !socket.connected {
                if dead == Way::Forth {
                    self.forget(id);
                }
                continue;
            }
            socket.dying = Some(dead);
            let connection = socket.connection;
            let pipe = socket.pipe(dead);
            let kept = self.rng.usize(0..=pipe.in_flight.len());
            report.add(Happening::FramesLost, (pipe.in_flight.len() - kept) as u64);
            pipe.in_flight.truncate(kept);
            let at = if kept == 0 { agenda.now() } else { pipe.last_arrival };
            agenda.at(at, Delivery::Network(Step::Lose { socket: id, connection }));
        }
    }
}
