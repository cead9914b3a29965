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
use crate::random::{chance, span};
use crate::report::{Happening, Report};
use crate::world::Delivery;

/// How long ZMTP heartbeats endure silence before they drop a connection.
pub(crate) const SILENCE: Duration = Duration::from_secs(6);

/// First delay before a connection is tried again (RECONNECT_IVL) and the longest one.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// When TCP sends what was lost again for the first time, and how late it may get.
const RETRANSMISSION: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));

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

/// A socket that took no more takes frames again.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) to: ProcessId,
    pub(crate) socket: Source,
}

/// What a step brought to processes.
#[derive(Debug, Default)]
pub(crate) struct Brought {
    pub(crate) arrival: Option<Arrival>,
    pub(crate) room: Option<Room>,
}

/// Why a frame was not sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotSent {
    /// The socket takes no more at present (EAGAIN): the frame back.
    Full(Vec<u8>),
    /// There is no way to that peer (EHOSTUNREACH).
    Unreachable,
}

#[derive(Debug, Default)]
struct Pipe {
    in_flight: VecDeque<Vec<u8>>,
    last_arrival: Instant,
    flow: u64,
    stalled: bool,
    /// A frame was refused since there was no room; the sender is told when there is.
    is_awaited: bool,
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
    /// Frames that a pipe holds before it takes no more.
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
    /// Of a thousand frames, how many are lost on the wire.
    lossy: BTreeMap<(ProcessId, ProcessId), u32>,
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
            lossy: BTreeMap::new(),
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
        self.close(agenda, opener, link, Vec::new());
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
            forth: Pipe::default(),
            back: Pipe::default(),
        };
        self.sockets.insert(id, socket);
        let handshake = self.latency(opener, opener, 0).times(3);
        agenda.after(handshake, Delivery::Network(Step::Connect(id)));
    }

    /// Closes a link's socket after it took what it can of some last frames. What it had sent
    /// still arrives.
    pub(crate) fn close(
        &mut self,
        agenda: &mut Agenda<Delivery>,
        opener: ProcessId,
        link: u32,
        last_frames: Vec<Vec<u8>>,
    ) {
        let Some(id) = self.links.remove(&(opener, link)) else { return };
        if self.sockets.get(&id).is_some_and(|socket| socket.connected) {
            for frame in last_frames {
                if self.put(agenda, id, Way::Forth, frame).is_err() {
                    break;
                }
            }
        }
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        socket.open = false;
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

    /// Who is at the other end of a process's socket.
    pub(crate) fn sender(&self, to: ProcessId, source: &Source) -> Option<ProcessId> {
        match source {
            Source::Link { link, .. } => {
                let socket = self.sockets.get(self.links.get(&(to, *link))?)?;
                socket.listener
            }
            Source::Inbound { routing_id } => {
                let socket = self.sockets.get(self.routes.get(&(to, routing_id.clone()))?)?;
                Some(socket.opener)
            }
        }
    }

    /// Sends on a link's socket; one that is not connected takes nothing.
    pub(crate) fn send(
        &mut self,
        agenda: &mut Agenda<Delivery>,
        opener: ProcessId,
        (link, generation): (u32, u64),
        frame: Vec<u8>,
    ) -> Result<(), NotSent> {
        let id = self.links.get(&(opener, link)).copied().ok_or(NotSent::Unreachable)?;
        let socket = self.sockets.get_mut(&id).ok_or(NotSent::Unreachable)?;
        if socket.generation != generation {
            return Err(NotSent::Unreachable);
        }
        if !socket.connected {
            socket.forth.is_awaited = true;
            return Err(NotSent::Full(frame));
        }
        self.put(agenda, id, Way::Forth, frame)
    }

    /// Sends to a peer that connected.
    pub(crate) fn answer(
        &mut self,
        agenda: &mut Agenda<Delivery>,
        listener: ProcessId,
        routing_id: &[u8],
        frame: Vec<u8>,
    ) -> Result<(), NotSent> {
        let route = self.routes.get(&(listener, routing_id.to_vec())).copied();
        match route.and_then(|id| Some((id, self.sockets.get(&id)?))) {
            Some((id, socket)) if socket.connected && socket.open => {
                self.put(agenda, id, Way::Back, frame)
            }
            _ => Err(NotSent::Unreachable),
        }
    }

    fn put(
        &mut self,
        agenda: &mut Agenda<Delivery>,
        id: SocketId,
        way: Way,
        frame: Vec<u8>,
    ) -> Result<(), NotSent> {
        let socket = self.sockets.get(&id).ok_or(NotSent::Unreachable)?;
        let listener = socket.listener.ok_or(NotSent::Unreachable)?;
        let (from, to) = match way {
            Way::Forth => (socket.opener, listener),
            Way::Back => (listener, socket.opener),
        };
        let latency = self.latency(from, to, frame.len());
        let high_water_mark = self.weather.high_water_mark;
        let socket = self.sockets.get_mut(&id).ok_or(NotSent::Unreachable)?;
        let pipe = socket.pipe(way);
        if pipe.in_flight.len() >= high_water_mark {
            pipe.is_awaited = true;
            return Err(NotSent::Full(frame));
        }
        pipe.in_flight.push_back(frame);
        // Jitter never lets a frame overtake another of its connection.
        let at = (agenda.now() + latency).max(pipe.last_arrival);
        pipe.last_arrival = at;
        let flow = pipe.flow;
        agenda.at(at, Delivery::Network(Step::Arrive { socket: id, way, flow }));
        Ok(())
    }

    fn latency(&mut self, from: ProcessId, to: ProcessId, bytes: usize) -> Duration {
        let jitter = span(&mut self.rng, Duration::ZERO, self.weather.jitter);
        let slow = self.slow.get(&(from, to)).copied().unwrap_or(Duration::ZERO);
        let transfer = Duration(bytes as u64 / BYTES_PER_MICROSECOND);
        let mut again = Duration::ZERO;
        if let Some(&per_mille) = self.lossy.get(&(from, to)) {
            let mut pause = RETRANSMISSION.0;
            while again < RETRANSMISSION.1 && chance(&mut self.rng, per_mille) {
                again = again + pause;
                pause = pause.times(2);
            }
        }
        self.weather.latency + jitter + slow + transfer + again
    }

    /// Does a step that the agenda says is due.
    pub(crate) fn step(
        &mut self,
        agenda: &mut Agenda<Delivery>,
        report: &mut Report,
        step: Step,
    ) -> Brought {
        match step {
            Step::Connect(id) => {
                let room = self.connect(agenda, report, id);
                return Brought { room, ..Brought::default() };
            }
            Step::Arrive { socket, way, flow } => {
                return self.arrive(report, socket, way, flow).unwrap_or_default();
            }
            Step::Lose { socket, connection } => {
                if self.sockets.get(&socket).is_some_and(|s| s.connection == connection) {
                    self.lose(agenda, report, socket);
                }
            }
            Step::Silence { from, to, blockage } => {
                if self.blocked.get(&(from, to)) == Some(&blockage) {
                    self.cut(agenda, report, from, to);
                }
            }
        }
        Brought::default()
    }

    fn connect(
        &mut self,
        agenda: &mut Agenda<Delivery>,
        report: &mut Report,
        id: SocketId,
    ) -> Option<Room> {
        let socket = self.sockets.get(&id)?;
        if socket.connected || !socket.open {
            return None;
        }
        let opener = socket.opener;
        let reachable = socket.listener.filter(|&listener| {
            self.listening.contains(&listener)
                && !self.blocked.contains_key(&(opener, listener))
                && !self.blocked.contains_key(&(listener, opener))
        });
        let socket = self.sockets.get_mut(&id)?;
        let Some(listener) = reachable else {
            socket.attempts += 1;
            self.connect_later(agenda, id);
            return None;
        };
        socket.connected = true;
        socket.dying = None;
        socket.connection += 1;
        socket.attempts = 0;
        let is_awaited = socket.forth.is_awaited;
        socket.forth = Pipe { flow: socket.forth.flow + 1, ..Pipe::default() };
        socket.back = Pipe { flow: socket.back.flow + 1, ..Pipe::default() };
        if socket.connection > 1 {
            report.add(Happening::Reconnects, 1);
        }
        let name = Source::Link { link: socket.link, generation: socket.generation };
        let route = (listener, socket.routing_id.clone());
        let before = self.routes.insert(route, id);
        if let Some(before) = before.filter(|&before| before != id)
            && self.sockets.get(&before).is_some_and(|socket| socket.open)
        {
            self.lose(agenda, report, before);
        }
        is_awaited.then_some(Room { to: opener, socket: name })
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
    ) -> Option<Brought> {
        let socket = self.sockets.get_mut(&id)?;
        let listener = socket.listener?;
        let (from, to) = match way {
            Way::Forth => (socket.opener, listener),
            Way::Back => (listener, socket.opener),
        };
        let opener_side = Source::Link { link: socket.link, generation: socket.generation };
        let listener_side = Source::Inbound { routing_id: socket.routing_id.clone() };
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
        let is_awaited = std::mem::take(&mut pipe.is_awaited);
        if !socket.open && socket.in_flight() == 0 {
            self.forget(id);
        }
        let (source, sender_side) = match way {
            Way::Forth => (listener_side, opener_side),
            Way::Back => (opener_side, listener_side),
        };
        let room = is_awaited.then_some(Room { to: from, socket: sender_side });
        // The side that is dead receives nothing.
        if dying.is_some_and(|dead| dead != way) {
            report.add(Happening::FramesLost, 1);
            return Some(Brought { room, arrival: None });
        }
        Some(Brought { room, arrival: Some(Arrival { to, source, frame }) })
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
            .filter(|(_, socket)| ends(socket) == (a, Some(b)) || ends(socket) == (b, Some(a)))
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
        let touching =
            |socket: &Socket| socket.opener == process || socket.listener == Some(process);
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

    /// Loses so many of a thousand frames from one process to another on the wire, which TCP sends
    /// again; 0 lifts it.
    pub(crate) fn lose_some(&mut self, from: ProcessId, to: ProcessId, per_mille: u32) {
        if per_mille == 0 {
            self.lossy.remove(&(from, to));
        } else {
            self.lossy.insert((from, to), per_mille);
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
        let touching =
            |socket: &Socket| socket.opener == process || socket.listener == Some(process);
        let sockets = self.sockets.iter().filter(|(_, socket)| touching(socket));
        for id in sockets.map(|(&id, _)| id).collect::<Vec<_>>() {
            let Some(socket) = self.sockets.get_mut(&id) else { continue };
            let dead = if socket.opener == process { Way::Forth } else { Way::Back };
            if dead == Way::Forth {
                self.links.remove(&(process, socket.link));
                socket.open = false;
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

#[cfg(test)]
mod tests {
    use super::*;

    const A: ProcessId = ProcessId(0);
    const B: ProcessId = ProcessId(1);

    struct Pair {
        network: Network,
        agenda: Agenda<Delivery>,
        report: Report,
        refused: Vec<u8>,
    }

    impl Pair {
        fn new(seed: u64) -> Pair {
            let weather =
                Weather { latency: Duration(100), jitter: Duration(2_000), high_water_mark: 100 };
            let mut network = Network::new(Rng::with_seed(seed), weather);
            network.listen(B, "sim://b");
            let (agenda, report) = (Agenda::new(), Report::default());
            let mut pair = Pair { network, agenda, report, refused: Vec::new() };
            pair.open(1);
            pair
        }

        fn open(&mut self, generation: u64) {
            let routing_id = b"Ra".to_vec();
            self.network.open(&mut self.agenda, A, (0, generation), routing_id, "sim://b");
        }

        fn send(&mut self, generation: u64, frames: std::ops::Range<u8>) {
            for frame in frames {
                let sent = self.network.send(&mut self.agenda, A, (0, generation), vec![frame]);
                if let Err(NotSent::Full(frame)) = sent {
                    self.refused.extend(frame);
                }
            }
        }

        /// What arrives within so many milliseconds.
        fn run(&mut self, milliseconds: u64) -> Vec<u8> {
            let end = self.agenda.now() + Duration::from_millis(milliseconds);
            self.agenda.at(end, Delivery::Look);
            let mut arrived = Vec::new();
            while let Some(delivery) = self.agenda.next() {
                match delivery {
                    Delivery::Network(step) => {
                        let step = self.network.step(&mut self.agenda, &mut self.report, step);
                        arrived.extend(step.arrival.into_iter().flat_map(|it| it.frame));
                        if step.room.is_some() {
                            for frame in std::mem::take(&mut self.refused) {
                                self.send(1, frame..frame + 1);
                            }
                        }
                    }
                    _ => break,
                }
            }
            arrived
        }
    }

    #[test]
    fn frames_arrive_in_order_also_those_sent_before_the_connection() {
        let mut pair = Pair::new(1);
        pair.send(1, 0..20);
        assert_eq!(pair.run(50), (0..20).collect::<Vec<u8>>());
        pair.send(1, 20..30);
        assert_eq!(pair.run(50), (20..30).collect::<Vec<u8>>());
    }

    #[test]
    fn a_cut_loses_what_is_in_flight_and_the_socket_connects_again() {
        let mut pair = Pair::new(2);
        pair.run(50);
        pair.send(1, 0..9);
        pair.network.cut(&mut pair.agenda, &mut pair.report, A, B);
        pair.send(1, 9..12);
        assert_eq!(pair.refused, [9, 10, 11]);
        assert_eq!(pair.run(1_000), [9, 10, 11]);
        assert_eq!(pair.report.count(Happening::FramesLost), 9);
        assert_eq!(pair.report.count(Happening::Reconnects), 1);
    }

    #[test]
    fn a_partition_delays_and_after_a_while_loses() {
        let mut pair = Pair::new(3);
        pair.run(50);
        pair.network.block(&mut pair.agenda, A, B);
        pair.send(1, 0..3);
        assert_eq!(pair.run(3_000), Vec::<u8>::new());
        pair.network.unblock(&mut pair.agenda, A, B);
        assert_eq!(pair.run(50), [0, 1, 2]);
        pair.network.block(&mut pair.agenda, A, B);
        pair.send(1, 3..6);
        assert_eq!(pair.run(7_000), Vec::<u8>::new());
        pair.network.unblock(&mut pair.agenda, A, B);
        pair.send(1, 6..7);
        assert_eq!(pair.run(11_000), [6]);
    }

    #[test]
    fn bytes_of_a_closed_socket_still_arrive() {
        let mut pair = Pair::new(4);
        pair.run(50);
        pair.send(1, 0..3);
        pair.open(2);
        let mut arrived = pair.run(50);
        pair.send(2, 10..13);
        arrived.extend(pair.run(50));
        assert_eq!(arrived, [0, 1, 2, 10, 11, 12]);
    }

    #[test]
    fn of_what_a_dead_process_sent_a_part_arrives() {
        let mut sizes = BTreeSet::new();
        for seed in 0..40 {
            let mut pair = Pair::new(seed);
            pair.run(50);
            pair.send(1, 0..5);
            pair.network.die(&mut pair.agenda, &mut pair.report, A);
            let arrived = pair.run(500);
            assert_eq!(arrived, (0..arrived.len() as u8).collect::<Vec<u8>>());
            sizes.insert(arrived.len());
        }
        assert_eq!(sizes, (0..=5).collect());
    }
}
