//! One client's conversation with the masters: finding them, the window, repetition, and reading
//! one's own writes.
//!
//! Responsible for what makes a request have the effect of one (invariant 11) and for never showing
//! a state older than one seen before. When a socket is silent too long and where to ask next is
//! [`Calls`]' matter, what requests and answers say is [`super::jobs`]' and
//! [`super::answers`]'.
//!
//! Here stands what it is asked and sends; in `hearing.rs` what it makes of what it hears, in
//! `scout.rs` the second address beside one that says nothing, in `call.rs` how a call can end.

mod call;
mod hearing;
mod scout;
#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use node::logic::backoff::Backoff;
use node::logic::calls::{CallLimits, CallPolicy, Calls, Handled};
use node::logic::network::{Link, NetworkEffect, NetworkEvent};
use proto::ids::{ClusterId, LogIndex, RequestId};
use proto::limits;
use proto::messages::session::Ping;
use proto::record::encode;
use proto::status::Role;
use proto::time::{Duration, Instant};

use super::answers::AnswerReader;
use super::jobs::Request;
use call::Pending;
pub use call::{CallFailure, CallId, Ended, NotCalled};
use scout::Scouting;

/// How long one attempt waits. A master that was killed says nothing, so this is what its death
/// costs a client; it is as long as most elections take, so that a request which a follower
/// forwarded is rarely asked again while it is on its way.
const ATTEMPT: Duration = Duration::from_millis(700);

/// Waits between attempts.
const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(20), longest: Duration::from_millis(500) };

/// How often a master is asked whether it lives while nothing but parked requests waits for it.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// How long it may take to say so.
const PROBE_ATTEMPT: Duration = Duration::from_millis(1_500);

/// The masters forget a client after an hour; this is sooner, for the drift of clocks.
const IDLE: Duration = Duration::from_secs(50 * 60);

/// The longest span: an answer that takes as long as it takes.
const FOR_EVER: Duration = Duration(u64::MAX);

/// Addresses of masters that are kept.
const MASTERS: usize = 64;

/// How often an answer that cannot be used, or a forgotten session, is met by asking once more.
const REISSUES: u32 = 5;

/// What the masters said when the session was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Opened {
    /// What changing requests carry, so that a forgotten session is noticed.
    index: LogIndex,
    window: usize,
    at: Instant,
}

/// A client's conversation with the masters.
///
/// The embedding loop's contract: hand every [`NetworkEvent`] to [`Session::handle`], perform the
/// effects, call [`Session::tick`] at [`Session::next_deadline`], take [`Session::next_ended`]
/// until there is none, and begin a new node where [`Session::wants_new_node`] says so.
#[derive(Debug)]
pub struct Session {
    link: Link,
    scouting: Scouting,
    /// As the user gave them: nodes of any tier.
    addresses: Vec<String>,
    masters: Vec<String>,
    calls: Calls,
    opened: Option<Opened>,
    pending: BTreeMap<CallId, Pending>,
    numbers: BTreeMap<RequestId, CallId>,
    probe: Option<RequestId>,
    last_probe: Instant,
    last_number: RequestId,
    last_call: u64,
    last_ordinal: u64,
    /// When a changing request was last answered.
    last_change: Option<Instant>,
    seen: LogIndex,
    cluster: ClusterId,
    wants_new_node: bool,
    /// Sockets given up since a master last answered.
    resets_before: u64,
    last_refusal: Option<String>,
    ended: VecDeque<Ended>,
    effects: Vec<NetworkEffect>,
}

impl Session {
    /// A session that finds its masters through `addresses`, nodes of any tier, over one of two
    /// links; the other one serves while it is opened. It connects at the first call. `random`
    /// draws the waits between attempts.
    #[must_use]
    pub fn new(links: [Link; 2], addresses: Vec<String>, random: fastrand::Rng) -> Session {
        let [link, other] = links;
        let limits = CallLimits {
            calls: limits::CLIENT_WINDOW as usize + 1,
            bytes: (limits::CLIENT_WINDOW as usize + 1) * limits::PACKED_FRAME_BYTES,
        };
        let mut calls = Calls::new(BACKOFF, limits, random);
        calls.set_line(link, addresses.clone());
        Session {
            link,
            scouting: Scouting::new(other),
            addresses,
            masters: Vec::new(),
            calls,
            opened: None,
            pending: BTreeMap::new(),
            numbers: BTreeMap::new(),
            probe: None,
            last_probe: Instant::default(),
            last_number: RequestId(0),
            last_call: 0,
            last_ordinal: 0,
            last_change: None,
            seen: LogIndex(0),
            cluster: ClusterId::default(),
            wants_new_node: false,
            resets_before: 0,
            last_refusal: None,
            ended: VecDeque::new(),
            effects: Vec::new(),
        }
    }

    /// Addresses of the masters, the leader first where it was known; empty before one was found.
    #[must_use]
    pub fn masters(&self) -> &[String] {
        &self.masters
    }

    /// The cluster; nil before a node of it answered.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The highest log index that an answer told.
    #[must_use]
    pub fn seen(&self) -> LogIndex {
        self.seen
    }

    /// True where a request may be called now.
    #[must_use]
    pub fn has_room(&self, request: &Request) -> bool {
        // The last place is the ring's: without it no transfer goes on.
        let reserved = usize::from(*request != Request::Ring);
        let window = self.window();
        let is_free = self.pending.len() + reserved < window.max(2);
        if request.is_parked() {
            // Waiting for many jobs must not keep others from being submitted.
            let parked = self.pending.values().filter(|it| it.request.is_parked()).count();
            return is_free && parked < window / 2;
        }
        is_free && (!request.is_changing() || self.has_room_for_change())
    }

    /// The masters keep the replies of the last window of changing requests, so the oldest
    /// unanswered one must be among them.
    fn has_room_for_change(&self) -> bool {
        let oldest = self.pending.values().filter_map(|it| it.ordinal).min();
        oldest.is_none_or(|oldest| self.last_ordinal + 1 - oldest < self.window() as u64)
    }

    fn window(&self) -> usize {
        self.opened.map_or(limits::CLIENT_WINDOW as usize, |it| it.window)
    }

    /// Asks. Ends with an [`Ended`]; `patience` is how long it is tried altogether, which does not
    /// count for a request that waits for a job's end.
    ///
    /// # Errors
    /// [`NotCalled`], with the request where there is room later.
    pub fn call<E: From<NetworkEffect>>(
        &mut self,
        now: Instant,
        request: Request,
        patience: Duration,
        effects: &mut Vec<E>,
    ) -> Result<CallId, NotCalled> {
        request.encode(LogIndex(0), LogIndex(0)).map_err(NotCalled::NotSendable)?;
        if !self.has_room(&request) {
            return Err(NotCalled::Full(Box::new(request)));
        }
        let ordinal = request.is_changing().then(|| {
            self.last_ordinal += 1;
            self.last_ordinal
        });
        if ordinal.is_some() && self.was_idle_too_long(now) {
            self.wants_new_node = true;
        }
        self.last_call += 1;
        let call = CallId(self.last_call);
        let pending = Pending {
            reader: AnswerReader::of(&request),
            patience: if request.is_parked() { FOR_EVER } else { patience },
            request,
            began: now,
            number: None,
            ordinal,
            was_sent: false,
            repeats_before: 0,
            reissues: 0,
        };
        self.pending.insert(call, pending);
        self.send_pending(now);
        self.hand_out(effects);
        Ok(call)
    }

    /// Ends a call without an answer. What was sent may still have its effect.
    pub fn cancel(&mut self, call: CallId) {
        if let Some(pending) = self.pending.remove(&call)
            && let Some(number) = pending.number
        {
            self.numbers.remove(&number);
            self.calls.answered(number);
        }
    }

    fn was_idle_too_long(&self, now: Instant) -> bool {
        let is_quiet = self.pending.values().all(|it| it.ordinal.is_none() || it.number.is_none());
        let last = self.last_change.or(self.opened.map(|opened| opened.at));
        is_quiet && last.is_some_and(|last| now.since(last) >= IDLE)
    }

    /// True where the masters may have forgotten this client, so that it has to go on as a new one:
    /// the owner begins a new node (another node UUID, new sockets) and says so by
    /// [`Session::begin_as_new_node`]. Nothing that changes anything is sent before.
    #[must_use]
    pub fn wants_new_node(&self) -> bool {
        // What cannot be repeated under another name is waited for under this one.
        let keeps = |it: &Pending| it.was_sent && !it.request.is_repeatable();
        self.wants_new_node && !self.pending.values().any(keeps)
    }

    /// Goes on under another node UUID, with none of the old links open.
    pub fn begin_as_new_node<E: From<NetworkEffect>>(
        &mut self,
        now: Instant,
        random: fastrand::Rng,
        effects: &mut Vec<E>,
    ) {
        let links = [self.link, self.scouting.link];
        let mut fresh = Session::new(links, std::mem::take(&mut self.addresses), random);
        fresh.calls.set_line(self.link, lines(&self.masters, &fresh.addresses));
        fresh.masters = std::mem::take(&mut self.masters);
        fresh.last_number = self.last_number;
        fresh.last_call = self.last_call;
        fresh.seen = self.seen;
        fresh.cluster = self.cluster;
        fresh.ended = std::mem::take(&mut self.ended);
        for (call, mut pending) in std::mem::take(&mut self.pending) {
            if pending.was_sent && !pending.request.is_repeatable() {
                let result = Err(CallFailure::OutcomeUnknown);
                fresh.ended.push_back(Ended { call, result });
                continue;
            }
            pending.number = None;
            pending.was_sent = false;
            pending.reader.restart();
            if pending.ordinal.is_some() {
                fresh.last_ordinal += 1;
                pending.ordinal = Some(fresh.last_ordinal);
            }
            fresh.pending.insert(call, pending);
        }
        *self = fresh;
        self.send_pending(now);
        self.hand_out(effects);
    }

    /// Handles what the network says. False where it is about a link of somebody else.
    pub fn handle<E: From<NetworkEffect>>(
        &mut self,
        now: Instant,
        event: &NetworkEvent<'_>,
        effects: &mut Vec<E>,
    ) -> bool {
        let mut failed = Vec::new();
        let handled = self.calls.handle(now, event, &mut self.effects, &mut failed);
        let is_ours = match event {
            NetworkEvent::Connected {
                link,
                sender,
                cluster,
                applied_index,
                window,
                masters,
                ..
            } if *link == self.link || self.is_scouting() && *link == self.scouting.link => {
                self.cluster = *cluster;
                let (index, masters) = (*applied_index, named(masters));
                let is_of_use = sender.role == Role::Master || !masters.is_empty();
                if *link == self.scouting.link && is_of_use {
                    self.follow_scout(&mut failed);
                } else if is_of_use {
                    self.end_scout(&mut failed);
                }
                self.connected(now, sender.role, index, *window, masters, &mut failed);
                true
            }
            // While another tier is asked for them, its next `hello` tells.
            NetworkEvent::Masters { link, masters } if *link == self.link => {
                let masters = named(masters);
                if !self.masters.is_empty() && !masters.is_empty() {
                    self.masters = masters;
                    self.calls.set_line(self.link, self.masters.clone());
                }
                true
            }
            NetworkEvent::Refused { link, text, .. }
                if *link == self.link || *link == self.scouting.link =>
            {
                self.last_refusal = Some(text.clone());
                true
            }
            NetworkEvent::Record { record, .. } => match handled {
                Handled::Reply(number) => {
                    self.take_reply(now, number, record);
                    true
                }
                Handled::Done => true,
                Handled::NotOurs => false,
            },
            _ => false,
        };
        self.take_failed(now, failed);
        self.send_pending(now);
        self.hand_out(effects);
        is_ours
    }

    /// Does what time asks for.
    pub fn tick<E: From<NetworkEffect>>(&mut self, now: Instant, effects: &mut Vec<E>) {
        let mut failed = Vec::new();
        self.calls.tick(now, &mut self.effects, &mut failed);
        self.take_failed(now, failed);
        self.scout(now);
        let overdue = self
            .pending
            .iter()
            .filter(|(_, it)| it.number.is_none() && now >= it.began + it.patience);
        let overdue: Vec<CallId> = overdue.map(|(call, _)| *call).collect();
        for call in overdue {
            let last = self.last_refusal.clone();
            self.end(now, call, |waited| Err(CallFailure::Unreachable { waited, last }));
        }
        // When no master answers, the nodes that the user named may know new ones.
        let resets = self.calls.counters().reset - self.resets_before;
        let is_in_vain = resets >= 2 * self.masters.len() as u64;
        if !self.masters.is_empty() && is_in_vain && !self.is_scouting() {
            self.resets_before = self.calls.counters().reset;
            self.calls.set_line(self.link, lines(&self.masters, &self.addresses));
        }
        self.send_pending(now);
        self.hand_out(effects);
    }

    /// When to call [`Session::tick`] if nothing else happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let held = self.pending.values().filter(|it| it.number.is_none());
        let held = held.map(|it| it.began + it.patience).min();
        let probe = self.wants_probe().then_some(self.last_probe + PROBE_INTERVAL);
        let all = [self.calls.next_deadline(), held, probe, self.scouting.due];
        all.into_iter().flatten().min()
    }

    /// The next call that ended.
    pub fn next_ended(&mut self) -> Option<Ended> {
        self.ended.pop_front()
    }

    /// True where no call waits for an answer.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// Panics on a broken invariant.
    pub fn check_invariants(&self) {
        self.calls.check_invariants();
        assert!(self.opened.is_none() || !self.is_scouting(), "an opened session has one line");
        let in_flight = self.pending.values().filter(|it| it.number.is_some()).count();
        assert_eq!(self.numbers.len(), in_flight, "every number belongs to a call");
        for (number, call) in &self.numbers {
            let pending = self.pending.get(call);
            assert!(
                pending.is_some_and(|it| it.number == Some(*number)),
                "{number} is of {call:?}"
            );
            assert!(self.calls.is_waiting(*number), "{number} is in flight");
            assert!(*number <= self.last_number, "numbers ascend");
        }
        let changes: Vec<u64> = self.pending.values().filter_map(|it| it.ordinal).collect();
        if let (Some(first), Some(last)) = (changes.iter().min(), changes.iter().max()) {
            assert!(last - first < u64::from(limits::CLIENT_WINDOW), "the window of changes");
        }
    }

    fn hand_out<E: From<NetworkEffect>>(&mut self, effects: &mut Vec<E>) {
        effects.extend(self.effects.drain(..).map(E::from));
    }

    fn next_number(&mut self) -> RequestId {
        self.last_number = self.last_number.next();
        self.last_number
    }

    /// Sends what waits for a session, and opens one where there is something to send.
    fn send_pending(&mut self, now: Instant) {
        if self.pending.is_empty() {
            if let Some(probe) = self.probe.take() {
                self.calls.answered(probe);
                self.end_scout(&mut Vec::new());
            }
            return;
        }
        let Some(opened) = self.opened else {
            if !self.scouting.is_resting || now >= self.last_probe + PROBE_INTERVAL {
                self.scouting.is_resting = false;
                self.send_probe(now);
            }
            return;
        };
        let held = self.pending.iter().filter(|(_, it)| it.number.is_none());
        let held: Vec<CallId> = held.map(|(call, _)| *call).collect();
        for call in held {
            self.send_call(now, call, opened);
        }
        if self.wants_probe() && now >= self.last_probe + PROBE_INTERVAL {
            self.send_probe(now);
        }
    }

    fn send_call(&mut self, now: Instant, call: CallId, opened: Opened) {
        let number = self.next_number();
        let Some(pending) = self.pending.get_mut(&call) else {
            return;
        };
        if pending.ordinal.is_some() && self.wants_new_node {
            return;
        }
        let policy = pending.policy(now);
        let Ok(record) = pending.request.encode(opened.index, self.seen) else {
            return;
        };
        // The table of calls is larger than the window, so it has room.
        let called = self.calls.call(now, number, self.link, record, policy, &mut self.effects);
        if called.is_ok() {
            pending.number = Some(number);
            pending.was_sent = true;
            pending.repeats_before = self.calls.counters().repeated;
            self.numbers.insert(number, call);
        }
    }

    /// Only parked requests are in flight: nobody would notice that the master died.
    fn wants_probe(&self) -> bool {
        self.probe.is_none()
            && !self.pending.is_empty()
            && self.pending.values().all(|it| it.request.is_parked() || it.number.is_none())
    }

    fn send_probe(&mut self, now: Instant) {
        if self.probe.is_some() {
            return;
        }
        self.last_probe = now;
        let number = self.next_number();
        let policy = CallPolicy { timeout: PROBE_ATTEMPT, attempts: u32::MAX, patience: FOR_EVER };
        let record = encode(&Ping::default(), &[]);
        let called = self.calls.call(now, number, self.link, record, policy, &mut self.effects);
        if called.is_ok() {
            self.probe = Some(number);
            self.scout_later(now);
        }
    }
}

/// The masters that a node names.
fn named(masters: &str) -> Vec<String> {
    let masters = masters.split(',').map(str::trim).filter(|it| !it.is_empty());
    masters.take(MASTERS).map(str::to_owned).collect()
}

/// The masters, and behind them the nodes that may know others.
fn lines(masters: &[String], addresses: &[String]) -> Vec<String> {
    let others = addresses.iter().filter(|address| !masters.contains(address));
    masters.iter().chain(others).cloned().collect()
}
