//! Session and transfer together, for whoever has no links to the masters of its own: the client
//! service and the simulator's clients.
//!
//! Deliberately does nothing but pass the ring from one to the other; a worker embeds
//! [`Transfer`] alone and asks for the ring itself.

use std::ops::Range;

use node::logic::network::{Link, NetworkEffect, NetworkEvent};
use proto::time::{Duration, Instant};

use super::answers::Answer;
use super::jobs::Request;
use super::registers;
use super::session::{CallId, Ended, NotCalled, Session};
use super::transfer::{Output, Transfer};

/// How long the masters are asked for the ring before they are asked anew.
const RING_PATIENCE: Duration = Duration::from_secs(10);

/// Something that a [`Client`] needs or has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// A call ended.
    Call(Ended),
    /// A transfer needs or did something; never [`Output::FetchRing`].
    Transfer(Output),
    /// An operation on a register ended.
    Register(registers::Ended),
}

/// A client of a cluster. The contract with the embedding loop is that of its parts.
#[derive(Debug)]
pub struct Client {
    /// The conversation with the masters. Calls go through [`Client::call`].
    session: Session,
    transfer: Transfer,
    ring_call: Option<CallId>,
}

impl Client {
    /// A client that finds its cluster through `addresses` and uses the link numbers of `links`:
    /// the first two for the masters, the others for storage nodes.
    #[must_use]
    pub fn new(links: Range<u32>, addresses: Vec<String>, random: fastrand::Rng) -> Client {
        let [first, second, others] = [0, 1, 2].map(|at| links.start.saturating_add(at));
        let session = Session::new([Link(first), Link(second)], addresses, random);
        let transfer = Transfer::new(others..links.end);
        Client { session, transfer, ring_call: None }
    }

    /// The conversation with the masters.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The transfers.
    #[must_use]
    pub fn transfer(&self) -> &Transfer {
        &self.transfer
    }

    /// The transfers, to begin some.
    pub fn transfer_mut(&mut self) -> &mut Transfer {
        &mut self.transfer
    }

    /// Asks the masters; see [`Session::call`].
    ///
    /// # Errors
    /// [`NotCalled`].
    pub fn call<E: From<NetworkEffect>>(
        &mut self,
        now: Instant,
        request: Request,
        patience: Duration,
        effects: &mut Vec<E>,
    ) -> Result<CallId, NotCalled> {
        self.session.call(now, request, patience, effects)
    }

    /// Ends a call without an answer; see [`Session::cancel`].
    pub fn cancel(&mut self, call: CallId) {
        self.session.cancel(call);
    }

    /// Handles what the network says. False where it is about a link of somebody else.
    pub fn handle<E: From<NetworkEffect>>(
        &mut self,
        now: Instant,
        event: &NetworkEvent<'_>,
        effects: &mut Vec<E>,
    ) -> bool {
        self.session.handle(now, event, effects) || self.transfer.handle(now, event, effects)
    }

    /// Does what time asks for.
    pub fn tick<E: From<NetworkEffect>>(&mut self, now: Instant, effects: &mut Vec<E>) {
        self.session.tick(now, effects);
        self.transfer.tick(now, effects);
    }

    /// When to call [`Client::tick`] if nothing else happens.
    #[must_use]
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let both = [self.session.next_deadline(), self.transfer.next_deadline(now)];
        both.into_iter().flatten().min()
    }

    /// The next thing that is needed or done. Effects that follow from passing the ring on are
    /// added.
    pub fn next_done<E: From<NetworkEffect>>(
        &mut self,
        now: Instant,
        effects: &mut Vec<E>,
    ) -> Option<Done> {
        while let Some(ended) = self.session.next_ended() {
            if self.ring_call != Some(ended.call) {
                return Some(Done::Call(ended));
            }
            self.ring_call = None;
            let ring = match ended.result {
                Ok(Answer::Ring(ring)) => Some(ring),
                Ok(_) | Err(_) => None,
            };
            self.transfer.ring_answered(now, ring, effects);
        }
        if let Some(ended) = self.transfer.next_register() {
            return Some(Done::Register(ended));
        }
        while let Some(output) = self.transfer.next_output() {
            if output != Output::FetchRing {
                return Some(Done::Transfer(output));
            }
            match self.session.call(now, Request::Ring, RING_PATIENCE, effects) {
                Ok(call) => self.ring_call = Some(call),
                Err(_) => self.transfer.ring_answered(now, None, effects),
            }
        }
        None
    }

    /// True where nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.session.is_idle() && self.transfer.is_idle()
    }

    /// True where the owner has to begin a new node; see [`Session::wants_new_node`].
    #[must_use]
    pub fn wants_new_node(&self) -> bool {
        self.session.wants_new_node()
    }

    /// Goes on under another node UUID, with none of the old links open.
    pub fn begin_as_new_node<E: From<NetworkEffect>>(
        &mut self,
        now: Instant,
        random: fastrand::Rng,
        effects: &mut Vec<E>,
    ) {
        self.session.begin_as_new_node(now, random, effects);
        self.transfer.begin_as_new_node(now, effects);
    }

    /// Panics on a broken invariant.
    pub fn check_invariants(&self) {
        self.session.check_invariants();
        self.transfer.check_invariants();
    }
}
