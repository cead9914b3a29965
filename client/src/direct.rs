//! Asking nodes themselves, of whatever tier, some at a time, each within two seconds.
//!
//! A conversation of its own, beside the client's with masters and storage nodes: who asks every
//! worker, or whether a node answers at all, must neither disturb what is under way there nor be
//! led to another node. Deliberately not here: which nodes there are, and what answers say.

use std::collections::{BTreeMap, VecDeque};

use node::clock::Clock;
use node::logic::backoff::Backoff;
use node::logic::calls::{CallError, CallLimits, CallPolicy, Calls, FailedCall, Handled};
use node::logic::network::{Link, NetworkEvent};
use node::network::Network;
use node::random;
use proto::ids::RequestId;
use proto::record::Record;
use proto::time::{Duration, Instant};

use crate::error::ClientError;
use crate::service::new_network;

/// A node that is alive answers at once, but may be reached only after a lost packet or two.
const POLICY: CallPolicy = CallPolicy {
    timeout: Duration::from_millis(1_000),
    attempts: 2,
    patience: Duration::from_millis(2_000),
};

/// Waits between attempts.
const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(20), longest: Duration::from_millis(200) };

/// Nodes that are asked at the same time.
const AT_ONCE: usize = 64;

/// Open connections; ZeroMQ has about a thousand sockets for a process.
const LINES: usize = 256;

/// Addresses of masters that are remembered.
const MASTERS: usize = 64;

/// What came of a question.
#[derive(Debug)]
pub(crate) enum Heard<'a, 'r> {
    /// A record of the answer.
    Record(&'a Record<'r>),
    /// A refusal instead of one.
    Refused,
    /// Nothing.
    Silence,
}

/// What the asker says to a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Took<T> {
    /// Records of the same answer follow.
    More,
    /// This was the whole answer.
    All,
    /// So much was wanted and no more: the other questions need no answer.
    Enough(T),
}

/// A conversation with nodes of a cluster.
#[derive(Debug)]
pub(crate) struct Direct {
    network: Network,
    clock: Clock,
    calls: Calls,
    /// Open lines, the longest unused first.
    lines: VecDeque<(String, Link)>,
    last_request: RequestId,
    /// Addresses of masters that nodes named when they were reached.
    masters: Vec<String>,
}

impl Direct {
    /// A conversation with nobody yet.
    ///
    /// # Errors
    /// [`ClientError::Network`] and [`ClientError::Start`] where the process gets no socket or no
    /// randomness.
    pub(crate) fn new() -> Result<Direct, ClientError> {
        let clock = Clock::start();
        let random = random::generator().map_err(ClientError::Start)?;
        let limits = CallLimits { calls: AT_ONCE, bytes: usize::MAX };
        Ok(Direct {
            network: new_network(clock)?,
            clock,
            calls: Calls::new(BACKOFF, limits, random),
            lines: VecDeque::new(),
            last_request: RequestId(0),
            masters: Vec::new(),
        })
    }

    /// The conversation's clock.
    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Addresses of masters that nodes named, in the order in which they were heard of.
    pub(crate) fn masters(&self) -> &[String] {
        &self.masters
    }

    /// Asks nodes at addresses, some at a time, and hands what each says to `each` with the number
    /// of its question, until `each` has enough.
    pub(crate) fn ask<T>(
        &mut self,
        questions: Vec<(&str, Vec<u8>)>,
        each: &mut dyn FnMut(usize, Heard<'_, '_>) -> Took<T>,
    ) -> Option<T> {
        let mut in_flight: BTreeMap<RequestId, usize> = BTreeMap::new();
        let mut waiting = questions.into_iter().enumerate();
        let mut enough = None;
        loop {
            while in_flight.len() < AT_ONCE
                && enough.is_none()
                && let Some((at, (address, record))) = waiting.next()
            {
                match self.send(address, record) {
                    Ok(request) => drop(in_flight.insert(request, at)),
                    Err(_) => drop(each(at, Heard::Silence)),
                }
            }
            if in_flight.is_empty() || enough.is_some() {
                break;
            }
            let failed = self.turn(None, &mut |request, record| {
                let Some(&at) = in_flight.get(&request) else { return true };
                let took = match enough {
                    Some(_) => Took::All,
                    None => each(at, Heard::Record(record)),
                };
                if let Took::More = took {
                    return false;
                }
                in_flight.remove(&request);
                if let Took::Enough(value) = took {
                    enough = Some(value);
                }
                true
            });
            for FailedCall { request, error } in failed {
                let Some(at) = in_flight.remove(&request) else { continue };
                let _: Took<T> = match &error {
                    CallError::GaveUp { last: Some(_), .. } | CallError::Refused(_) => {
                        each(at, Heard::Refused)
                    }
                    _ => each(at, Heard::Silence),
                };
            }
        }
        // Answers that still come are passed over.
        for request in in_flight.keys() {
            self.calls.answered(*request);
        }
        enough
    }

    /// Waits, and answers the nodes' own questions meanwhile.
    pub(crate) fn wait(&mut self, span: Duration) {
        let until = self.clock.now() + span;
        while self.clock.now() < until {
            self.turn(Some(until), &mut |_, _| true);
        }
    }

    /// Sends a request on the line to an address.
    fn send(&mut self, address: &str, record: Vec<u8>) -> Result<RequestId, CallError> {
        if address.is_empty() {
            return Err(CallError::NoAddress);
        }
        let mut effects = Vec::new();
        let known = self.lines.iter().position(|(known, _)| known == address);
        let line = match known.and_then(|at| self.lines.remove(at)) {
            Some(line) => line,
            None => {
                let next = u32::try_from(self.lines.len()).unwrap_or(u32::MAX);
                let link = match self.lines.len() >= LINES {
                    // More lines than questions at once: the longest unused one waits for nothing.
                    true => self.lines.pop_front().map_or(Link(next), |(_, link)| {
                        self.calls.remove_line(link, &mut effects, &mut Vec::new());
                        link
                    }),
                    false => Link(next),
                };
                self.calls.set_line(link, vec![address.to_owned()]);
                (address.to_owned(), link)
            }
        };
        let link = line.1;
        self.lines.push_back(line);
        let now = self.clock.now();
        self.last_request = self.last_request.next();
        let request = self.last_request;
        let called = self.calls.call(now, request, link, record, POLICY, &mut effects);
        effects.drain(..).for_each(|effect| self.network.perform(effect));
        called.map(|()| request)
    }

    /// One turn of the network: replies go to `reply`, which says whether that was the whole
    /// answer; what failed is returned.
    fn turn(
        &mut self,
        until: Option<Instant>,
        reply: &mut dyn FnMut(RequestId, &Record<'_>) -> bool,
    ) -> Vec<FailedCall> {
        let (mut effects, mut failed) = (Vec::new(), Vec::new());
        let deadline = [until, self.calls.next_deadline()].into_iter().flatten().min();
        let (calls, clock, known) = (&mut self.calls, self.clock, &mut self.masters);
        let mut answered = Vec::new();
        self.network.poll(deadline, &mut |event| {
            if let NetworkEvent::Connected { masters, .. } = &event {
                let new = masters.split(',').filter(|it| !it.is_empty());
                for master in new {
                    if known.len() < MASTERS && !known.iter().any(|it| it == master) {
                        known.push(master.to_owned());
                    }
                }
            }
            let handled = calls.handle(clock.now(), &event, &mut effects, &mut failed);
            if let (Handled::Reply(request), NetworkEvent::Record { record, .. }) =
                (handled, &event)
                && reply(request, record)
            {
                answered.push(request);
            }
        });
        for request in answered {
            self.calls.answered(request);
        }
        self.calls.tick(self.clock.now(), &mut effects, &mut failed);
        effects.drain(..).for_each(|effect| self.network.perform(effect));
        failed
    }
}
