//! One client's conversation with the masters: finding them, the window, repetition, and reading
//! one's own writes.
//!
//! Responsible for what makes a request have the effect of one (invariant 11) and for never showing
//! a state older than one seen before. When a socket is silent too long and where to ask next is
//! [`Calls`]' matter, what requests and answers say is [`super::jobs`]' and
//! [`super::answers`]'.

mod scout;
#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use node::logic::backoff::Backoff;
use node::logic::calls::{CallError, CallLimits, CallPolicy, Calls, FailedCall, Handled};
use node::logic::network::{Link, NetworkEffect, NetworkEvent};
use proto::ids::{ClusterId, LogIndex, RequestId};
use proto::limits;
use proto::messages::session::Ping;
use proto::record::{Record, encode};
use proto::status::{ErrorCode, Role};
use proto::time::{Duration, Instant};

use super::answers::{Answer, AnswerReader, BadAnswer};
use super::jobs::{NotSendable, Request};
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

/// Names a call within its [`Session`]. Unlike a request id it stays the same when the request has
/// to be asked under another number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// Why a call was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotCalled {
    /// As many requests are in flight as the masters allow. The request is handed back; there is
    /// room after the next answer.
    Full(Box<Request>),
    /// No master would take it.
    NotSendable(NotSendable),
}

impl fmt::Display for NotCalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotCalled::Full(_) => f.write_str("too many requests are in flight"),
            NotCalled::NotSendable(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for NotCalled {}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallFailure {
    /// It was refused, and asking again does not help.
    Refused {
        /// The code.
        code: ErrorCode,
        /// A sentence for people.
        text: String,
    },
    /// No master answered in the time given. A request that was sent may have had its effect;
    /// submitting and cancelling may be repeated, a transaction should be looked for first.
    Unreachable {
        /// Time since the call.
        waited: Duration,
        /// What the last of them said, where one said something.
        last: Option<String>,
    },
    /// The masters no longer remember whether the request had its effect: look before repeating.
    OutcomeUnknown,
    /// What came as answer cannot be read.
    BadAnswer(BadAnswer),
}

impl fmt::Display for CallFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallFailure::Refused { code, text } if text.is_empty() => write!(f, "refused: {code}"),
            CallFailure::Refused { text, .. } => f.write_str(text),
            CallFailure::Unreachable { waited, last } => {
                write!(f, "no master answered within {waited}")?;
                last.as_ref().map_or(Ok(()), |last| write!(f, "; the last one said: {last}"))
            }
            CallFailure::OutcomeUnknown => {
                f.write_str("it is not known whether the request had its effect: look before ")?;
                f.write_str("repeating it")
            }
            CallFailure::BadAnswer(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CallFailure {}

/// A call that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The call.
    pub call: CallId,
    /// Its answer.
    pub result: Result<Answer, CallFailure>,
}

/// A request that waits for its answer.
#[derive(Debug)]
struct Pending {
    request: Request,
    reader: AnswerReader,
    began: Instant,
    patience: Duration,
    /// The number under which it is in flight; `None` while it waits for a session.
    number: Option<RequestId>,
    /// Position among the changing requests of this session.
    ordinal: Option<u64>,
    was_sent: bool,
    /// How many requests had been sent more than once when this one was sent.
    repeats_before: u64,
    reissues: u32,
}

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
        let left = (pending.began + pending.patience).since(now);
        let policy = CallPolicy {
            timeout: if pending.request.is_parked() { FOR_EVER } else { ATTEMPT },
            attempts: u32::MAX,
            patience: if pending.patience == FOR_EVER { FOR_EVER } else { left },
        };
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

    fn connected(
        &mut self,
        now: Instant,
        role: Role,
        applied_index: LogIndex,
        window: u32,
        masters: Vec<String>,
        failed: &mut Vec<FailedCall>,
    ) {
        if role != Role::Master {
            if masters.is_empty() {
                self.last_refusal = Some(format!("a {role} that does not know its masters yet"));
                return;
            }
            // On to the masters; what was sent here is asked there, under the same numbers.
            let mut removed = Vec::new();
            self.calls.remove_line(self.link, &mut self.effects, &mut removed);
            self.masters = masters;
            self.calls.set_line(self.link, self.masters.clone());
            failed.extend(removed);
            return;
        }
        self.resets_before = self.calls.counters().reset;
        if !masters.is_empty() {
            self.masters = masters;
            self.calls.set_line(self.link, self.masters.clone());
        }
        // What came before on another connection is repeated on this one.
        for pending in self.pending.values_mut() {
            pending.reader.restart();
        }
        if self.opened.is_none() {
            // This node UUID has asked for nothing before, so any index that exists will do; a
            // master that lags behind may name one from before others were forgotten.
            let index = applied_index.max(self.seen);
            let window = window.clamp(2, limits::CLIENT_WINDOW) as usize;
            self.opened = Some(Opened { index, window, at: now });
            self.send_pending(now);
        }
    }

    fn take_reply(&mut self, now: Instant, number: RequestId, record: &Record<'_>) {
        self.resets_before = self.calls.counters().reset;
        if self.probe == Some(number) {
            self.probe = None;
            self.last_probe = now;
            self.calls.answered(number);
            if self.opened.is_none() {
                self.pass_over();
            }
            return;
        }
        if self.scouting.probe == Some(number) {
            // It lives and knows no masters.
            self.end_scout(&mut Vec::new());
        }
        let Some(&call) = self.numbers.get(&number) else {
            self.calls.answered(number);
            return;
        };
        let Some(pending) = self.pending.get_mut(&call) else {
            return;
        };
        match pending.reader.take(record) {
            Ok(None) => {}
            Ok(Some((answer, index))) => {
                self.seen = self.seen.max(index);
                self.end(now, call, |_| Ok(answer));
            }
            Err(error) => {
                // A listing that lost records is asked for again, as another request.
                let again = error == BadAnswer::Incomplete && pending.reissues < REISSUES;
                if again {
                    pending.reissues += 1;
                    pending.number = None;
                    self.numbers.remove(&number);
                    self.calls.answered(number);
                } else {
                    self.end(now, call, |_| Err(CallFailure::BadAnswer(error)));
                }
            }
        }
    }

    fn take_failed(&mut self, now: Instant, failed: Vec<FailedCall>) {
        for FailedCall { request: number, error } in failed {
            if self.scouting.probe == Some(number) {
                // The other line may still be of use.
                self.end_scout(&mut Vec::new());
                continue;
            }
            if self.probe == Some(number) && self.is_scouting() {
                // What the other address says counts.
                self.follow_scout(&mut Vec::new());
                continue;
            }
            if self.probe == Some(number) {
                self.probe = None;
                if let CallError::Refused(refusal) = error {
                    // The nodes there refuse this client for good.
                    self.refuse_all(now, refusal.code, &refusal.text);
                }
                continue;
            }
            let Some(call) = self.numbers.get(&number).copied() else {
                continue;
            };
            match error {
                CallError::Removed | CallError::TooMany | CallError::NoAddress => {
                    self.numbers.remove(&number);
                    self.ask_elsewhere(now, number, call);
                }
                CallError::GaveUp { last, .. } => {
                    let last = last.map(|it| it.text).or_else(|| self.last_refusal.clone());
                    self.end(now, call, |waited| Err(CallFailure::Unreachable { waited, last }));
                }
                CallError::Refused(refusal) if refusal.code == ErrorCode::TooOld => {
                    self.forgotten(now, number, call);
                }
                CallError::Refused(refusal) => {
                    let (code, text) = (refusal.code, refusal.text);
                    self.end(now, call, |_| Err(CallFailure::Refused { code, text }));
                }
            }
        }
    }

    /// The same request, under the same number, on the line that leads to the masters now.
    fn ask_elsewhere(&mut self, now: Instant, number: RequestId, call: CallId) {
        let (Some(pending), Some(opened)) = (self.pending.get_mut(&call), self.opened) else {
            return;
        };
        let left = (pending.began + pending.patience).since(now);
        let policy = CallPolicy {
            timeout: if pending.request.is_parked() { FOR_EVER } else { ATTEMPT },
            attempts: u32::MAX,
            patience: if pending.patience == FOR_EVER { FOR_EVER } else { left },
        };
        pending.number = None;
        pending.reader.restart();
        let Ok(record) = pending.request.encode(opened.index, self.seen) else {
            return;
        };
        let called = self.calls.call(now, number, self.link, record, policy, &mut self.effects);
        if called.is_ok() {
            pending.number = Some(number);
            self.numbers.insert(number, call);
        }
    }

    /// The masters no longer remember this client. What may be asked twice is asked as a new one.
    fn forgotten(&mut self, now: Instant, number: RequestId, call: CallId) {
        let Some(pending) = self.pending.get_mut(&call) else {
            return;
        };
        // What was sent once and refused had no effect; of several copies another one may have had.
        let was_sent_once = self.calls.counters().repeated == pending.repeats_before;
        let is_repeatable = pending.request.is_repeatable() || was_sent_once;
        if !is_repeatable || pending.reissues >= REISSUES {
            self.end(now, call, |_| Err(CallFailure::OutcomeUnknown));
            return;
        }
        pending.reissues += 1;
        pending.number = None;
        pending.was_sent = false;
        self.numbers.remove(&number);
        self.wants_new_node = true;
    }

    fn refuse_all(&mut self, now: Instant, code: ErrorCode, text: &str) {
        let calls: Vec<CallId> = self.pending.keys().copied().collect();
        for call in calls {
            let text = text.to_owned();
            self.end(now, call, |_| Err(CallFailure::Refused { code, text }));
        }
    }

    fn end(
        &mut self,
        now: Instant,
        call: CallId,
        result: impl FnOnce(Duration) -> Result<Answer, CallFailure>,
    ) {
        let Some(pending) = self.pending.remove(&call) else {
            return;
        };
        if let Some(number) = pending.number {
            self.numbers.remove(&number);
            self.calls.answered(number);
        }
        if pending.ordinal.is_some() {
            self.last_change = Some(now);
        }
        let result = result(now.since(pending.began));
        self.ended.push_back(Ended { call, result });
    }
}

/// The masters, and behind them the nodes that may know others.
/// The masters that a node names.
fn named(masters: &str) -> Vec<String> {
    let masters = masters.split(',').map(str::trim).filter(|it| !it.is_empty());
    masters.take(MASTERS).map(str::to_owned).collect()
}

fn lines(masters: &[String], addresses: &[String]) -> Vec<String> {
    let others = addresses.iter().filter(|address| !masters.contains(address));
    masters.iter().chain(others).cloned().collect()
}
