//! Requests that are asked again until they are answered: the zguide's Lazy Pirate, as logic.
//!
//! Responsible for which requests are in flight on which line, for time limits, new sockets, waits
//! and giving up. A request keeps its id through all attempts, so that whoever serves it can tell
//! a repetition. Deliberately not for what replies say: the caller reads them.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use proto::ids::RequestId;
use proto::messages::session::ErrorReply;
use proto::record::{Message, Record, set_request_id};
use proto::status::ErrorCode;
use proto::time::{Duration, Instant};

use super::backoff::Backoff;
use super::network::{Link, NetworkEffect, NetworkEvent, Peer};
use super::refusal::Refusal;

/// How patiently a request is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallPolicy {
    /// How long one attempt waits for its reply before the socket is taken for broken.
    pub timeout: Duration,
    /// Attempts altogether.
    pub attempts: u32,
    /// Time altogether, from the call.
    pub patience: Duration,
}

/// Bounds of the table of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallLimits {
    /// Requests in flight.
    pub calls: usize,
    /// Bytes of their records, which are kept until they are answered.
    pub bytes: usize,
}

/// Why a request ended without its reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// As many requests are in flight as may be; nothing was sent.
    #[error("too many requests are in flight")]
    TooMany,
    /// The line has no address to ask at; nothing was sent.
    #[error("no address to ask at is known")]
    NoAddress,
    /// Nobody answered. A request that changes something may have had its effect.
    #[error("no answer after {attempts} attempts in {waited}{}", last_of(.last))]
    GaveUp {
        /// How often it was sent.
        attempts: u32,
        /// Time since the call.
        waited: Duration,
        /// The last refusal, where there was one.
        last: Option<Refusal>,
    },
    /// It was refused, and asking again does not help.
    #[error("{}: {}", .0.code, .0.text)]
    Refused(Refusal),
    /// The line was removed.
    #[error("the line that it was asked on was removed")]
    Removed,
}

fn last_of(last: &Option<Refusal>) -> String {
    last.as_ref()
        .map_or(String::new(), |it| format!("; the last refusal was {}: {}", it.code, it.text))
}

/// A request that ended without its reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedCall {
    /// The request.
    pub request: RequestId,
    /// Why.
    pub error: CallError,
}

/// What an event was to the requests in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    /// Nothing of theirs; the logic looks at it.
    NotOurs,
    /// A reply to the request; the logic reads it and says [`Calls::answered`] when it was the
    /// last one.
    Reply(RequestId),
    /// It was acted upon, or dropped and counted as late; there is nothing left to do.
    Done,
}

/// What came of all requests so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallCounters {
    /// Requests asked.
    pub called: u64,
    /// Requests answered.
    pub answered: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Attempts after the first.
    pub repeated: u64,
    /// Sockets given up for a new one.
    pub reset: u64,
    /// Replies to requests that are not in flight any more.
    pub late: u64,
}

/// A link and the addresses that it may lead to.
#[derive(Debug)]
struct Line {
    addresses: Vec<String>,
    /// Which of them is, or will be next, connected.
    at: usize,
    /// Where a node that does not lead sent us; overrides `at` until the line fails.
    instead: Option<String>,
    state: LineState,
    /// In a row.
    failures: u32,
    /// Requests in flight on it.
    calls: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineState {
    Closed,
    Open,
    /// Closed after a failure, to be opened at the instant if anything is to be asked.
    Waiting {
        until: Instant,
    },
}

impl Line {
    fn address(&self) -> Option<String> {
        self.instead.as_ref().or_else(|| self.addresses.get(self.at)).cloned()
    }
}

#[derive(Debug)]
struct Call {
    link: Link,
    record: Vec<u8>,
    policy: CallPolicy,
    began: Instant,
    attempts: u32,
    refusals: u32,
    state: CallState,
    last: Option<Refusal>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CallState {
    /// Waits for its line to be opened.
    Held,
    Sent {
        until: Instant,
    },
    /// Refused for now; sent again at the instant.
    Waiting {
        until: Instant,
    },
}

impl Call {
    /// When something must be done about it if nothing happens.
    fn due(&self) -> Instant {
        let end = self.began + self.policy.patience;
        match self.state {
            CallState::Held => end,
            CallState::Sent { until } | CallState::Waiting { until } => until.min(end),
        }
    }

    fn gave_up(&self, now: Instant) -> CallError {
        let (attempts, waited) = (self.attempts, now.since(self.began));
        CallError::GaveUp { attempts, waited, last: self.last.clone() }
    }
}

/// Requests in flight.
///
/// The driver hands every network event to [`Calls::handle`] and calls [`Calls::tick`] at
/// [`Calls::next_deadline`]; effects go to the network as they are.
#[derive(Debug)]
pub struct Calls {
    backoff: Backoff,
    limits: CallLimits,
    random: fastrand::Rng,
    lines: BTreeMap<Link, Line>,
    calls: BTreeMap<RequestId, Call>,
    due: BTreeSet<(Instant, RequestId)>,
    bytes: usize,
    counters: CallCounters,
}

impl Calls {
    /// No requests yet. `random` draws the waits.
    #[must_use]
    pub fn new(backoff: Backoff, limits: CallLimits, random: fastrand::Rng) -> Calls {
        Calls {
            backoff,
            limits,
            random,
            lines: BTreeMap::new(),
            calls: BTreeMap::new(),
            due: BTreeSet::new(),
            bytes: 0,
            counters: CallCounters::default(),
        }
    }

    /// Totals since the start.
    #[must_use]
    pub fn counters(&self) -> &CallCounters {
        &self.counters
    }

    /// Requests in flight.
    #[must_use]
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// True where no request is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// True while a request is in flight.
    #[must_use]
    pub fn is_waiting(&self, request: RequestId) -> bool {
        self.calls.contains_key(&request)
    }

    /// Says to which addresses a link may lead; they are tried in turn. An open connection to one
    /// of them, or to the node that one of them named instead, goes on.
    pub fn set_line(&mut self, link: Link, addresses: Vec<String>) {
        let line = self.lines.entry(link).or_insert_with(|| Line {
            addresses: Vec::new(),
            at: 0,
            instead: None,
            state: LineState::Closed,
            failures: 0,
            calls: 0,
        });
        let current = line.addresses.get(line.at);
        line.at = addresses.iter().position(|it| Some(it) == current).unwrap_or(0);
        line.addresses = addresses;
    }

    /// The address that a line leads to, or is going to lead to.
    #[must_use]
    pub fn address(&self, link: Link) -> Option<String> {
        self.lines.get(&link).and_then(Line::address)
    }

    /// Closes a line; what is in flight on it fails.
    pub fn remove_line(
        &mut self,
        link: Link,
        effects: &mut Vec<NetworkEffect>,
        failed: &mut Vec<FailedCall>,
    ) {
        if self.lines.remove(&link).is_some() {
            effects.push(NetworkEffect::Close { link });
            self.fail_line(link, &CallError::Removed, failed);
        }
    }

    /// Asks. The record gets the id, which must not be in flight; whoever asks chooses it. The line
    /// is opened where it is not.
    ///
    /// # Errors
    /// [`CallError::TooMany`] and [`CallError::NoAddress`]; then nothing was sent.
    pub fn call(
        &mut self,
        now: Instant,
        request: RequestId,
        link: Link,
        mut record: Vec<u8>,
        policy: CallPolicy,
        effects: &mut Vec<NetworkEffect>,
    ) -> Result<(), CallError> {
        assert!(!self.calls.contains_key(&request), "request {request} is in flight");
        let line = self.lines.get_mut(&link).filter(|line| line.address().is_some());
        let line = line.ok_or(CallError::NoAddress)?;
        let bytes = self.bytes.saturating_add(record.len());
        if self.calls.len() >= self.limits.calls || bytes > self.limits.bytes {
            return Err(CallError::TooMany);
        }
        line.calls += 1;
        let state = line.state;
        set_request_id(&mut record, request);
        self.bytes = bytes;
        self.counters.called += 1;
        let call = Call {
            link,
            record,
            policy,
            began: now,
            attempts: 0,
            refusals: 0,
            state: CallState::Held,
            last: None,
        };
        self.due.insert((call.due(), request));
        self.calls.insert(request, call);
        match state {
            LineState::Closed => self.open_line(now, link, effects),
            LineState::Open => self.send(now, request, effects),
            LineState::Waiting { .. } => {}
        }
        Ok(())
    }

    /// The last reply to a request came, or nobody wants it any more. True where it was in flight.
    pub fn answered(&mut self, request: RequestId) -> bool {
        let known = self.remove(request).is_some();
        self.counters.answered += u64::from(known);
        known
    }

    /// Acts upon what the network says.
    pub fn handle(
        &mut self,
        now: Instant,
        event: &NetworkEvent<'_>,
        effects: &mut Vec<NetworkEffect>,
        failed: &mut Vec<FailedCall>,
    ) -> Handled {
        match event {
            NetworkEvent::Record { sender, record } => {
                let Peer::Link(link) = sender.peer else { return Handled::NotOurs };
                self.record(now, link, record, effects, failed)
            }
            // The requests that the restarted node has not answered it does not know either.
            NetworkEvent::Connected { link, again: true, .. } => {
                let sent = |call: &Call| matches!(call.state, CallState::Sent { .. });
                for request in self.on_line(*link, sent) {
                    self.send(now, request, effects);
                }
                Handled::NotOurs
            }
            NetworkEvent::Refused { link, code, text } => {
                let Some(line) = self.lines.get(link) else { return Handled::NotOurs };
                let refusal = Refusal::new(*code, 0, text.clone());
                if !code.is_retryable() && line.addresses.len() < 2 {
                    effects.push(NetworkEffect::Close { link: *link });
                    self.set_line_state(*link, LineState::Closed);
                    self.fail_line(*link, &CallError::Refused(refusal), failed);
                } else {
                    for request in self.on_line(*link, |_| true) {
                        if let Some(call) = self.calls.get_mut(&request) {
                            call.last = Some(refusal.clone());
                        }
                    }
                    self.reset_line(now, *link, effects);
                    self.give_up_exhausted(now, *link, failed);
                }
                Handled::NotOurs
            }
            NetworkEvent::Connected { .. }
            | NetworkEvent::Masters { .. }
            | NetworkEvent::Joined { .. }
            | NetworkEvent::Gone { .. }
            | NetworkEvent::Overflowing { .. } => Handled::NotOurs,
        }
    }

    fn record(
        &mut self,
        now: Instant,
        link: Link,
        record: &Record<'_>,
        effects: &mut Vec<NetworkEffect>,
        failed: &mut Vec<FailedCall>,
    ) -> Handled {
        let Some(line) = self.lines.get_mut(&link) else { return Handled::NotOurs };
        let request = record.request_id();
        if request.0 == 0 {
            return Handled::NotOurs;
        }
        line.failures = 0;
        if self.calls.get(&request).is_none_or(|call| call.link != link) {
            self.counters.late += 1;
            return Handled::Done;
        }
        if record.message_type() != ErrorReply::TYPE {
            return Handled::Reply(request);
        }
        // Parts that do not fit are as good as no reply: the time limit deals with it.
        let Ok(refusal) = Refusal::from_record(record) else { return Handled::Done };
        if refusal.code.is_retryable() {
            self.refused_for_now(now, link, request, refusal, effects, failed);
        } else {
            self.fail(request, CallError::Refused(refusal), failed);
        }
        Handled::Done
    }

    fn refused_for_now(
        &mut self,
        now: Instant,
        link: Link,
        request: RequestId,
        refusal: Refusal,
        effects: &mut Vec<NetworkEffect>,
        failed: &mut Vec<FailedCall>,
    ) {
        let Some(call) = self.calls.get_mut(&request) else { return };
        call.refusals = call.refusals.saturating_add(1);
        let refusals = call.refusals;
        let elsewhere = matches!(refusal.code, ErrorCode::NotLeader | ErrorCode::NoLeader);
        let (retry_after, instead) = (refusal.retry_after, refusal.instead.clone());
        call.last = Some(refusal);
        if call.attempts >= call.policy.attempts {
            let error = call.gave_up(now);
            self.fail(request, error, failed);
            return;
        }
        let wait = retry_after.max(self.backoff.wait(refusals, &mut self.random));
        let Some(line) = self.lines.get_mut(&link) else { return };
        let is_other = line.address().as_ref() != Some(&instead);
        if elsewhere && !instead.is_empty() && is_other {
            line.instead = Some(instead);
            // The first time there is no reason to wait; two that point at each other are slowed.
            let until = if refusals == 1 { now } else { now + wait };
            self.close_line(link, until, effects);
            self.open_due_lines(now, effects);
        } else if elsewhere && instead.is_empty() && line.addresses.len() > 1 {
            line.at = (line.at + 1) % line.addresses.len();
            line.instead = None;
            self.close_line(link, now + wait, effects);
        } else {
            self.set_state(request, CallState::Waiting { until: now + wait });
        }
    }

    /// Ends what ran out of time, replaces sockets on which nothing comes, sends what has waited.
    pub fn tick(
        &mut self,
        now: Instant,
        effects: &mut Vec<NetworkEffect>,
        failed: &mut Vec<FailedCall>,
    ) {
        while let Some(&(due, request)) = self.due.first()
            && due <= now
        {
            let Some(call) = self.calls.get(&request) else { break };
            let (link, state) = (call.link, call.state);
            let is_last = call.attempts >= call.policy.attempts;
            let is_over = now >= call.began + call.policy.patience;
            if is_over || (is_last && !matches!(state, CallState::Waiting { .. })) {
                let error = call.gave_up(now);
                self.fail(request, error, failed);
                // A socket that was silent for a whole time limit is not trusted by the next.
                if let CallState::Sent { until } = state
                    && until <= now
                {
                    self.reset_line(now, link, effects);
                }
            } else if let CallState::Waiting { .. } = state {
                self.resend_after_wait(now, link, request, effects);
            } else {
                self.reset_line(now, link, effects);
            }
            self.give_up_exhausted(now, link, failed);
        }
        self.open_due_lines(now, effects);
    }

    fn resend_after_wait(
        &mut self,
        now: Instant,
        link: Link,
        request: RequestId,
        effects: &mut Vec<NetworkEffect>,
    ) {
        if self.lines.get(&link).is_some_and(|line| line.state == LineState::Open) {
            self.send(now, request, effects);
        } else {
            self.set_state(request, CallState::Held);
        }
    }

    /// When to call [`Calls::tick`] if nothing else happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let calls = self.due.first().map(|(due, _)| *due);
        let lines = self.lines.values().filter_map(|line| match line.state {
            LineState::Waiting { until } if line.calls > 0 => Some(until),
            LineState::Waiting { .. } | LineState::Open | LineState::Closed => None,
        });
        lines.chain(calls).min()
    }

    /// Gives the socket of a line up and goes on at its next address after a wait.
    fn reset_line(&mut self, now: Instant, link: Link, effects: &mut Vec<NetworkEffect>) {
        let Some(line) = self.lines.get_mut(&link) else { return };
        line.failures = line.failures.saturating_add(1);
        if line.instead.take().is_none() {
            line.at = (line.at + 1) % line.addresses.len().max(1);
        }
        let wait = self.backoff.wait(line.failures, &mut self.random);
        self.close_line(link, now + wait, effects);
    }

    fn close_line(&mut self, link: Link, until: Instant, effects: &mut Vec<NetworkEffect>) {
        self.counters.reset += 1;
        self.set_line_state(link, LineState::Waiting { until });
        effects.push(NetworkEffect::Close { link });
        for request in self.on_line(link, |call| matches!(call.state, CallState::Sent { .. })) {
            self.set_state(request, CallState::Held);
        }
    }

    /// A request that was sent as often as it may be is not held for another socket.
    fn give_up_exhausted(&mut self, now: Instant, link: Link, failed: &mut Vec<FailedCall>) {
        let is_exhausted =
            |call: &Call| call.state == CallState::Held && call.attempts >= call.policy.attempts;
        for request in self.on_line(link, is_exhausted) {
            if let Some(call) = self.calls.get(&request) {
                let error = call.gave_up(now);
                self.fail(request, error, failed);
            }
        }
    }

    fn open_due_lines(&mut self, now: Instant, effects: &mut Vec<NetworkEffect>) {
        let due = |line: &Line| matches!(line.state, LineState::Waiting { until } if until <= now);
        let due: Vec<Link> =
            self.lines.iter().filter(|(_, line)| due(line)).map(|(link, _)| *link).collect();
        for link in due {
            if self.lines.get(&link).is_some_and(|line| line.calls > 0) {
                self.open_line(now, link, effects);
            } else {
                self.set_line_state(link, LineState::Closed);
            }
        }
    }

    fn open_line(&mut self, now: Instant, link: Link, effects: &mut Vec<NetworkEffect>) {
        let Some(address) = self.lines.get(&link).and_then(Line::address) else { return };
        self.set_line_state(link, LineState::Open);
        effects.push(NetworkEffect::Open { link, address });
        for request in self.on_line(link, |call| call.state == CallState::Held) {
            self.send(now, request, effects);
        }
    }

    fn send(&mut self, now: Instant, request: RequestId, effects: &mut Vec<NetworkEffect>) {
        let Some(call) = self.calls.get_mut(&request) else { return };
        call.attempts += 1;
        self.counters.repeated += u64::from(call.attempts > 1);
        let record = call.record.clone();
        effects.push(NetworkEffect::Send { to: Peer::Link(call.link), record });
        let until = now + call.policy.timeout;
        self.set_state(request, CallState::Sent { until });
    }

    fn on_line(&self, link: Link, wanted: impl Fn(&Call) -> bool) -> Vec<RequestId> {
        let on_line = self.calls.iter().filter(|(_, call)| call.link == link && wanted(call));
        on_line.map(|(request, _)| *request).collect()
    }

    fn set_line_state(&mut self, link: Link, state: LineState) {
        if let Some(line) = self.lines.get_mut(&link) {
            line.state = state;
        }
    }

    fn set_state(&mut self, request: RequestId, state: CallState) {
        let Some(call) = self.calls.get_mut(&request) else { return };
        self.due.remove(&(call.due(), request));
        call.state = state;
        self.due.insert((call.due(), request));
    }

    fn remove(&mut self, request: RequestId) -> Option<Call> {
        let call = self.calls.remove(&request)?;
        self.due.remove(&(call.due(), request));
        self.bytes -= call.record.len();
        if let Some(line) = self.lines.get_mut(&call.link) {
            line.calls -= 1;
        }
        Some(call)
    }

    fn fail(&mut self, request: RequestId, error: CallError, failed: &mut Vec<FailedCall>) {
        if self.remove(request).is_some() {
            self.counters.failed += 1;
            failed.push(FailedCall { request, error });
        }
    }

    fn fail_line(&mut self, link: Link, error: &CallError, failed: &mut Vec<FailedCall>) {
        for request in self.on_line(link, |_| true) {
            self.fail(request, error.clone(), failed);
        }
    }

    /// Walks the whole state and panics where it contradicts itself.
    pub fn check_invariants(&self) {
        assert_eq!(self.due.len(), self.calls.len(), "every call has one due time");
        let bytes: usize = self.calls.values().map(|call| call.record.len()).sum();
        assert_eq!(self.bytes, bytes, "bytes in flight");
        assert!(self.calls.len() <= self.limits.calls, "too many calls");
        for (link, line) in &self.lines {
            assert_eq!(self.on_line(*link, |_| true).len(), line.calls, "calls on {link:?}");
        }
        for (request, call) in &self.calls {
            assert!(self.due.contains(&(call.due(), *request)), "due time of {request}");
            let line = self.lines.get(&call.link).map(|line| line.state);
            match (call.state, line) {
                (_, None | Some(LineState::Closed)) => panic!("{request} waits on a closed line"),
                (CallState::Held, Some(LineState::Open)) => panic!("{request} was not sent"),
                (CallState::Sent { .. }, Some(LineState::Waiting { .. })) => {
                    panic!("{request} waits for an answer on no socket")
                }
                _ => {}
            }
        }
    }
}
