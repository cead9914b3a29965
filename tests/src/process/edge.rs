//! The sockets' side of a process: the shipped `Sessions` and what a socket owner does around it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use node::logic::network::{
    Greeting, Identity, Link, NetworkEffect, NetworkEvent, NetworkLimits, Peer,
};
use node::logic::sessions::{Route, Sessions, SocketChange, Source as From};
use proto::ids::{ClusterId, Generation};
use proto::limits;
use proto::time::Instant;

use crate::network::Source;
use crate::process::{Event, Queue, Request};
use crate::report::{Happening, Report};

/// The connections of one process.
pub(crate) struct Edge {
    sessions: Sessions,
    /// Peers whose socket took no more, by the route on which that showed.
    blocked: BTreeMap<Vec<u8>, Peer>,
    repeated_hellos: u64,
    /// Bytes that may wait for one peer.
    queued_bytes: usize,
    /// Bytes of the longest record that was sent.
    longest: usize,
    /// Peers to which something was sent since the queues were last shown.
    grown: RefCell<BTreeSet<Peer>>,
}

impl Edge {
    pub(crate) fn new(identity: Identity, limits: NetworkLimits) -> Edge {
        Edge {
            sessions: Sessions::new(identity, limits),
            blocked: BTreeMap::new(),
            repeated_hellos: 0,
            queued_bytes: limits.queued_bytes,
            longest: 0,
            grown: RefCell::default(),
        }
    }

    /// Carries out what the logic wants of the network.
    pub(crate) fn perform(
        &mut self,
        now: Instant,
        effect: NetworkEffect,
        requests: &mut Vec<Request>,
    ) {
        if let NetworkEffect::Send { to, record } = &effect {
            self.grown.get_mut().insert(*to);
            // A queue that is empty takes any record, however long.
            self.longest = self.longest.max(record.len());
        }
        match self.sessions.perform(now, effect) {
            None => {}
            Some(SocketChange::Open { link, generation, address }) => {
                let routing_id = node::logic::network::RoutingId::of(self.sessions.identity().node);
                requests.push(Request::Open {
                    link: link.0,
                    generation: generation.0,
                    routing_id: routing_id.as_bytes().to_vec(),
                    address,
                });
            }
            Some(SocketChange::Close { link, last_frames }) => {
                requests.push(Request::Close { link: link.0, last_frames });
            }
        }
    }

    /// Hands the network's part of an event to the sessions: a frame that came, or what is due.
    /// What they make of it goes to `deliver`.
    pub(crate) fn hear(
        &mut self,
        now: Instant,
        event: &Event<'_>,
        mut deliver: impl FnMut(NetworkEvent<'_>),
    ) {
        match event {
            Event::Tick if self.next_deadline().is_some_and(|deadline| deadline <= now) => {
                self.sessions.tick(now, &mut deliver);
            }
            Event::Arrived { source, frame } => self.receive(now, source, frame, deliver),
            Event::Tick | Event::Worked(_) | Event::Finish => {}
        }
    }

    fn receive(
        &mut self,
        now: Instant,
        source: &Source,
        frame: &[u8],
        mut deliver: impl FnMut(NetworkEvent<'_>),
    ) {
        let from = match source {
            Source::Link { link, generation } => From::Link(Link(*link), Generation(*generation)),
            Source::Inbound { routing_id } => From::Bound(routing_id),
        };
        let repeated_hellos = &mut self.repeated_hellos;
        self.sessions.receive(now, from, frame, &mut |event| {
            if let NetworkEvent::Connected { again: true, .. } = event {
                *repeated_hellos += 1;
            }
            deliver(event);
        });
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.sessions.next_deadline()
    }

    pub(crate) fn take_frame(&mut self) -> Option<(Route, Vec<u8>)> {
        self.sessions.take_frame()
    }

    /// A socket did not take a frame now.
    pub(crate) fn put_back(&mut self, route: &Route, frame: Vec<u8>) {
        self.blocked.insert(socket_of(route), route.peer());
        self.sessions.put_back(route, frame);
    }

    /// A socket takes frames again.
    pub(crate) fn unblock(&mut self, socket: &Source) {
        let key = match socket {
            Source::Link { link, .. } => link.to_le_bytes().to_vec(),
            Source::Inbound { routing_id } => routing_id.clone(),
        };
        if let Some(peer) = self.blocked.remove(&key) {
            self.sessions.unblock(peer);
        }
    }

    pub(crate) fn unreachable(&mut self, route: &Route) {
        self.sessions.unreachable(route);
    }

    /// What peers that say `hello` are told from now on.
    pub(crate) fn set_greeting(&mut self, greeting: Greeting) {
        self.sessions.set_greeting(greeting);
    }

    /// The process belongs to this cluster from now on.
    pub(crate) fn set_cluster(&mut self, cluster: ClusterId) {
        self.sessions.set_cluster(cluster);
    }

    pub(crate) fn check_invariants(&self) {
        self.sessions.check_invariants();
    }

    /// Shows the queues to which something was added.
    pub(crate) fn queues(&self, each: &mut dyn FnMut(Queue)) {
        let bound = self.queued_bytes + self.longest.max(limits::PACKED_FRAME_BYTES);
        for peer in std::mem::take(&mut *self.grown.borrow_mut()) {
            let length = self.sessions.queued_bytes(peer);
            each(Queue { name: "bytes for one peer", length, bound });
        }
    }

    /// Adds what the sessions counted in this life.
    pub(crate) fn report(&self, report: &mut Report) {
        let counters = self.sessions.counters();
        report.add(Happening::StaleRecords, counters.old_generation);
        report.add(Happening::Gaps, counters.missing);
        report.add(Happening::Overflows, counters.overflowed);
        report.add(Happening::SecondHellos, self.repeated_hellos);
        assert_eq!(counters.malformed.total(), 0, "the simulated network damages nothing");
    }
}

fn socket_of(route: &Route) -> Vec<u8> {
    match route {
        Route::Link(link, _) => link.0.to_le_bytes().to_vec(),
        Route::Bound(_, routing_id) => routing_id.as_bytes().to_vec(),
    }
}
