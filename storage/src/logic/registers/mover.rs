//! Moves parts of the registers to the newest version of the ring: seals a majority of the
//! replicas of the version that is left, copies their highest tags to a majority of the new ones,
//! then asks the masters to activate it.
//!
//! Every replica under the newest version tries, one after the other, so that usually the first
//! does it all; two at once do no harm, nor does a death at any step. A part is moved page by
//! page, so that its size does not matter. Deliberately not here: what a replica answers
//! (`replica.rs`), and how the questions get to it (`mod.rs`).

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use node::logic::backoff::Backoff;
use node::logic::refusal::Refusal;
use proto::ids::{NodeId, RequestId, RingVersion};
use proto::messages::node::RegisterMove;
use proto::register::{Part, majority};
use proto::status::ErrorCode;
use proto::time::{Duration, Instant};

use super::copies::Page;
use super::parts::Parts;
use crate::registers::Register;

/// Parts that one node moves at the same time; each holds a few pages in memory.
pub(super) const MOVES_AT_ONCE: usize = 16;

/// How much later than the replica before it a replica begins: longer than all parts take where
/// nothing is wrong (eyeballed).
const STAGGER: Duration = Duration::from_millis(2_000);

/// How long a replica or the leader may take before it is asked again.
const AGAIN: Duration = Duration::from_millis(1_000);

/// How long a move may take no step before its place is given to another.
const PATIENCE: Duration = Duration::from_millis(4_000);

/// How soon a replica that could not answer is asked again at the earliest.
const SOON: Duration = Duration::from_millis(20);

/// Waits before a part is tried again.
const RETRY: Backoff =
    Backoff { first: Duration::from_millis(200), longest: Duration::from_millis(5_000) };

/// A question to a replica; this node may be that itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) node: NodeId,
    pub(super) request_id: RequestId,
    pub(super) part: Part,
    pub(super) what: What,
}

/// What a replica is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// To seal, and for a page.
    Seal { version: RingVersion, first_address: u64 },
    /// To keep copies.
    Copy { version: RingVersion, registers: Vec<Register> },
}

/// A part that waits to be moved.
#[derive(Clone, Copy, Debug)]
struct Due {
    at: Instant,
    failures: u32,
}

/// A part that is being moved.
#[derive(Debug)]
struct Move {
    from: RingVersion,
    to: RingVersion,
    failures: u32,
    /// The page begins here.
    first_address: u64,
    step: Step,
    /// When those that have not answered are asked again.
    again: Instant,
    give_up: Instant,
}

#[derive(Debug)]
enum Step {
    /// Pages of replicas that have sealed the part.
    Seal { pages: BTreeMap<NodeId, Page> },
    /// The highest tags of the page, the replicas that have them, and where the next page begins.
    Copy { registers: Vec<Register>, done: BTreeSet<NodeId>, next: Option<u64> },
}

/// A part that is copied.
#[derive(Clone, Copy, Debug)]
struct Finished {
    from: RingVersion,
    to: RingVersion,
    is_told: bool,
}

/// The parts that this node moves.
#[derive(Debug)]
pub(super) struct Mover {
    waiting: BTreeMap<Part, Due>,
    moves: BTreeMap<Part, Move>,
    finished: BTreeMap<Part, Finished>,
    /// Whether the leader is asked, and when it is asked again.
    is_telling: bool,
    tell_again: Instant,
    asked: BTreeMap<RequestId, (Part, NodeId)>,
    next_request: u64,
    asks: Vec<Ask>,
    rng: Rng,
}

impl Mover {
    pub(super) fn new(rng: Rng) -> Mover {
        Mover {
            waiting: BTreeMap::new(),
            moves: BTreeMap::new(),
            finished: BTreeMap::new(),
            is_telling: false,
            tell_again: Instant(0),
            asked: BTreeMap::new(),
            next_request: 0,
            asks: Vec::new(),
            rng,
        }
    }

    /// Parts that are still to be moved by this node, or being moved.
    pub(super) fn count(&self) -> usize {
        self.waiting.len() + self.moves.len() + self.finished.len()
    }

    /// The ring is known anew.
    pub(super) fn learn(&mut self, now: Instant, parts: &Parts) {
        let newest = parts.newest();
        self.finished.retain(|&part, finished| parts.active(part) == Some(finished.from));
        for part in parts.all() {
            let Some(active) = parts.active(part) else { return };
            let rank = parts.rank(newest, part).filter(|_| active < newest);
            let moving = self.moves.get(&part).map(|it| it.from == active && it.to == newest);
            if moving == Some(false) || rank.is_none() {
                self.drop_move(part);
            }
            let Some(rank) = rank else {
                self.waiting.remove(&part);
                continue;
            };
            if moving == Some(true) || self.finished.contains_key(&part) {
                continue;
            }
            // Whoever had begun goes on with the new version at once.
            let stagger =
                if moving.is_some() { Duration::ZERO } else { STAGGER.times(rank as u64) };
            let due = Due { at: now + stagger, failures: 0 };
            self.waiting.entry(part).or_insert(due);
        }
    }

    /// Begins what is due and asks again where nobody answered.
    pub(super) fn tick(&mut self, now: Instant, parts: &Parts) {
        let late = self.moves.iter().filter(|(_, it)| it.give_up <= now);
        let late: Vec<Part> = late.map(|(&part, _)| part).collect();
        late.into_iter().for_each(|part| self.postpone(now, part));
        let silent = self.moves.iter().filter(|(_, it)| it.again <= now);
        let silent: Vec<Part> = silent.map(|(&part, _)| part).collect();
        silent.into_iter().for_each(|part| self.ask(now, part, parts));
        while self.moves.len() < MOVES_AT_ONCE {
            // The longest due first, so that parts that cannot be moved hold no others up.
            let due = self.waiting.iter().min_by_key(|(_, due)| due.at);
            let due = due.filter(|(_, due)| due.at <= now);
            let Some((part, due)) = due.map(|(&part, &due)| (part, due)) else { break };
            self.waiting.remove(&part);
            self.begin(now, part, due.failures, parts);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let moves = self.moves.values().map(|it| it.again.min(it.give_up));
        let has_room = self.moves.len() < MOVES_AT_ONCE;
        let waiting = self.waiting.values().filter(|_| has_room).map(|due| due.at);
        let tell = (!self.finished.is_empty()).then_some(self.tell_again);
        moves.chain(waiting).chain(tell).min()
    }

    /// The questions that have come up.
    pub(super) fn take_asks(&mut self) -> Vec<Ask> {
        std::mem::take(&mut self.asks)
    }

    /// What the leader shall be asked to activate now; empty for nothing. While one question is
    /// under way the next gathers, so that hundreds of parts take a few.
    pub(super) fn take_finished(&mut self, now: Instant) -> Vec<RegisterMove> {
        let is_new = self.finished.values().any(|finished| !finished.is_told);
        if self.finished.is_empty() || !(self.tell_again <= now || (is_new && !self.is_telling)) {
            return Vec::new();
        }
        self.is_telling = true;
        self.tell_again = now + AGAIN;
        let mut told = Vec::with_capacity(self.finished.len());
        for (part, finished) in &mut self.finished {
            finished.is_told = true;
            let (from_version, to_version) = (finished.from.0, finished.to.0);
            told.push(RegisterMove { part: part.0, from_version, to_version });
        }
        told
    }

    /// The leader answered; what it did is in the ring.
    pub(super) fn told(&mut self) {
        self.is_telling = false;
    }

    fn begin(&mut self, now: Instant, part: Part, failures: u32, parts: &Parts) {
        let to = parts.newest();
        let Some(from) = parts.active(part).filter(|&from| from < to) else { return };
        let step = Step::Seal { pages: BTreeMap::new() };
        let give_up = now + PATIENCE;
        let it = Move { from, to, failures, first_address: 0, step, again: now, give_up };
        self.moves.insert(part, it);
        if parts.knows(from) && parts.replicas(from, part).is_empty() {
            // Where nobody keeps a part, nothing was ever acknowledged of it.
            self.finish(part);
        } else {
            self.ask(now, part, parts);
        }
    }

    /// Asks all that have not answered yet.
    fn ask(&mut self, now: Instant, part: Part, parts: &Parts) {
        let Some(it) = self.moves.get_mut(&part) else { return };
        it.again = now + AGAIN;
        let (version, what) = match &it.step {
            Step::Seal { .. } => {
                (it.from, What::Seal { version: it.from, first_address: it.first_address })
            }
            Step::Copy { registers, .. } => {
                (it.to, What::Copy { version: it.to, registers: registers.clone() })
            }
        };
        for &node in parts.replicas(version, part) {
            let has_answered = match &it.step {
                Step::Seal { pages } => pages.contains_key(&node),
                Step::Copy { done, .. } => done.contains(&node),
            };
            if !has_answered {
                self.next_request += 1;
                let request_id = RequestId(self.next_request);
                self.asked.insert(request_id, (part, node));
                self.asks.push(Ask { node, request_id, part, what: what.clone() });
            }
        }
    }

    /// A replica has sealed a part.
    pub(super) fn sealed(
        &mut self,
        now: Instant,
        request_id: RequestId,
        page: Page,
        parts: &Parts,
    ) {
        let Some((part, node)) = self.asked.remove(&request_id) else { return };
        let Some(it) = self.moves.get_mut(&part) else { return };
        let Step::Seal { pages } = &mut it.step else { return };
        if page.registers.first().is_some_and(|first| first.address < it.first_address)
            || (page.has_more && page.registers.is_empty())
        {
            tracing::warn!(%node, part = part.0, "a page of registers makes no sense");
            return;
        }
        pages.insert(node, page);
        if pages.len() < majority(parts.replicas(it.from, part).len()) {
            return;
        }
        let (registers, next) = merge(std::mem::take(pages));
        it.step = Step::Copy { registers, done: BTreeSet::new(), next };
        self.go_on(now, part, parts);
    }

    /// A replica has copies durably.
    pub(super) fn copied(&mut self, now: Instant, request_id: RequestId, parts: &Parts) {
        let Some((part, node)) = self.asked.remove(&request_id) else { return };
        let Some(it) = self.moves.get_mut(&part) else { return };
        let Step::Copy { registers, done, .. } = &mut it.step else { return };
        done.insert(node);
        if done.len() >= majority(parts.replicas(it.to, part).len()) {
            registers.clear();
            self.go_on(now, part, parts);
        }
    }

    /// The next step of a move whose step is done, or whose page has nothing to copy.
    fn go_on(&mut self, now: Instant, part: Part, parts: &Parts) {
        self.asked.retain(|_, (of, _)| *of != part);
        let Some(it) = self.moves.get_mut(&part) else { return };
        it.give_up = now + PATIENCE;
        if let Step::Copy { registers, next, .. } = &it.step
            && registers.is_empty()
        {
            match *next {
                Some(next) => {
                    it.first_address = next;
                    it.step = Step::Seal { pages: BTreeMap::new() };
                }
                None => return self.finish(part),
            }
        }
        self.ask(now, part, parts);
    }

    fn finish(&mut self, part: Part) {
        self.asked.retain(|_, (of, _)| *of != part);
        if let Some(it) = self.moves.remove(&part) {
            let finished = Finished { from: it.from, to: it.to, is_told: false };
            self.finished.insert(part, finished);
        }
    }

    /// A replica refused. True where the ring should be asked for.
    pub(super) fn refused(
        &mut self,
        now: Instant,
        request_id: RequestId,
        refusal: &Refusal,
    ) -> bool {
        let Some((part, node)) = self.asked.remove(&request_id) else { return false };
        if refusal.code == ErrorCode::StaleRing {
            self.postpone(now, part);
            return true;
        }
        if !refusal.code.is_retryable() {
            tracing::warn!(%node, code = %refusal.code, text = refusal.text, "no move of registers");
        }
        // Without a delay it is nothing that passes soon.
        if refusal.retry_after > Duration::ZERO
            && let Some(it) = self.moves.get_mut(&part)
        {
            it.again = it.again.min(now + refusal.retry_after.max(SOON));
        }
        false
    }

    fn postpone(&mut self, now: Instant, part: Part) {
        if let Some(it) = self.drop_move(part) {
            let failures = it.failures.saturating_add(1);
            let at = now + RETRY.wait(failures, &mut self.rng).max(SOON);
            self.waiting.insert(part, Due { at, failures });
        }
    }

    fn drop_move(&mut self, part: Part) -> Option<Move> {
        let it = self.moves.remove(&part)?;
        self.asked.retain(|_, (of, _)| *of != part);
        Some(it)
    }

    pub(super) fn check_invariants(&self) {
        assert!(self.moves.len() <= MOVES_AT_ONCE, "more moves than the bound");
        for part in self.moves.keys() {
            assert!(!self.waiting.contains_key(part), "{part:?} waits and is moved");
        }
        for (part, _) in self.asked.values() {
            assert!(self.moves.contains_key(part), "a question without its move");
        }
    }
}

/// The highest tags of the pages, up to where all of them reach, and where the next page begins.
fn merge(pages: BTreeMap<NodeId, Page>) -> (Vec<Register>, Option<u64>) {
    let ends = pages.values().filter(|page| page.has_more);
    let ends = ends.filter_map(|page| page.registers.last());
    let end = ends.map(|register| register.address).min().unwrap_or(u64::MAX);
    let mut highest: BTreeMap<u64, Register> = BTreeMap::new();
    let all = pages.into_values().flat_map(|page| page.registers);
    for register in all.filter(|register| register.address <= end) {
        let there = highest.get(&register.address);
        if there.is_none_or(|there| there.tag < register.tag) {
            highest.insert(register.address, register);
        }
    }
    (highest.into_values().collect(), end.checked_add(1))
}
