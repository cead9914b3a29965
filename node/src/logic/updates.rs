//! Numbered publications and how a subscriber misses none for long.
//!
//! PUB/SUB loses what it cannot deliver and tells nobody. So a node numbers its publications
//! ([`Publications`]) and keeps enough to answer a request for its present state; a subscriber
//! ([`Updates`]) delivers them in order, holds what arrives behind a gap, asks for a snapshot and
//! goes on behind it (the Clone pattern). What it promises is the newest status of each node and
//! every alert that the node still keeps, each once. Deliberately not here: sockets, links and who
//! publishes where; see [`crate::pubsub`].

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proto::catalogue::Numbered;
use proto::ids::{Generation, Incarnation, NodeId, RequestId};
use proto::limits;
use proto::messages::telemetry::{TelemetryAlert, TelemetrySnapshot, TelemetryStatus};
use proto::record::{self, Record, RecordError, Records};
use proto::status::Role;
use proto::time::{Duration, Instant};

/// Largest status in bytes; what a node says of itself every two seconds has to be small.
pub const STATUS_BYTES: usize = 1 << 20;

/// Alerts that a node keeps for those who missed them.
pub const ALERTS_KEPT: usize = 100;

/// Nodes that one subscriber follows; twice the largest cluster that is planned for.
pub const PUBLISHERS: usize = 20_000;

/// Publications of one node that are held behind a gap.
const HELD: usize = 64;

/// Bytes that are held behind gaps, of all nodes together.
const HELD_BYTES: usize = 32 << 20;

/// How long the answer to the first request may take; doubled by each further one, up to 8 times:
/// a subscriber that is cut off for a minute is to be up to date seconds after it.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often the wait is doubled.
const DOUBLINGS: u32 = 3;

/// Requests without answer, after which the next one waits for a sign of life.
const REQUESTS: u32 = 8;

const _: () = assert!(
    STATUS_BYTES + ALERTS_KEPT * (limits::ERROR_TEXT_BYTES + limits::FIXED_PART_BYTES)
        < limits::FRAME_BYTES - 2 * limits::FIXED_PART_BYTES
);
const _: () = assert!(STATUS_BYTES + limits::FIXED_PART_BYTES < HELD_BYTES);

/// How much an alert matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum AlertLevel {
    /// A change of state that somebody wants to read about in the morning.
    Change = 1,
    /// Unexpected, but handled.
    Unexpected = 2,
    /// A person must act.
    Act = 3,
}

impl AlertLevel {
    /// The level of an integer from outside; `None` where there is none.
    #[must_use]
    pub const fn from_wire(value: u8) -> Option<AlertLevel> {
        match value {
            1 => Some(AlertLevel::Change),
            2 => Some(AlertLevel::Unexpected),
            3 => Some(AlertLevel::Act),
            _ => None,
        }
    }
}

/// What one node has published in this incarnation.
#[derive(Clone, Debug)]
pub struct Publications {
    node: NodeId,
    role: Role,
    incarnation: Incarnation,
    last_sequence: u64,
    status: Option<Vec<u8>>,
    alerts: VecDeque<Vec<u8>>,
}

impl Publications {
    /// Of a node that has not published yet.
    #[must_use]
    pub fn new(node: NodeId, role: Role, incarnation: Incarnation) -> Publications {
        Publications {
            node,
            role,
            incarnation,
            last_sequence: 0,
            status: None,
            alerts: VecDeque::new(),
        }
    }

    /// Numbers a status and remembers it as the newest. The record is to be published as it is.
    ///
    /// # Panics
    /// If it is larger than [`STATUS_BYTES`].
    pub fn status(&mut self, json: &[u8]) -> &[u8] {
        assert!(json.len() <= STATUS_BYTES, "a status of {} bytes", json.len());
        let status = TelemetryStatus {
            role: self.role.to_wire(),
            incarnation: self.incarnation.0,
            ..Default::default()
        };
        let record = self.numbered(record::encode(&status, &[json]));
        self.status.insert(record)
    }

    /// Numbers an alert and keeps it. Its text is cut at [`limits::ERROR_TEXT_BYTES`]. The record
    /// is to be published as it is.
    pub fn alert(&mut self, level: AlertLevel, text: &str) -> &[u8] {
        let text = &text[..text.floor_char_boundary(limits::ERROR_TEXT_BYTES)];
        let alert = TelemetryAlert {
            role: self.role.to_wire(),
            incarnation: self.incarnation.0,
            level: level as u8,
            ..Default::default()
        };
        let record = self.numbered(record::encode(&alert, &[text.as_bytes()]));
        if self.alerts.len() == ALERTS_KEPT {
            self.alerts.pop_front();
        }
        self.alerts.push_back(record);
        self.alerts.back().map_or(&[], Vec::as_slice)
    }

    /// The answer to a `telemetry_snapshot_request`, to be sent over the connection that it came
    /// on.
    #[must_use]
    pub fn snapshot(&self, request_id: RequestId) -> Vec<u8> {
        let records: Vec<u8> = self.status.iter().chain(&self.alerts).flatten().copied().collect();
        let snapshot = TelemetrySnapshot {
            incarnation: self.incarnation.0,
            last_sequence: self.last_sequence,
            ..Default::default()
        };
        let mut snapshot = record::encode(&snapshot, &[&records]);
        record::set_request_id(&mut snapshot, request_id);
        snapshot
    }

    fn numbered(&mut self, mut record: Vec<u8>) -> Vec<u8> {
        self.last_sequence += 1;
        let generation = Generation::of(self.incarnation, 0);
        record::stamp(&mut record, self.node, generation.0, self.last_sequence);
        record
    }
}

/// One publication, delivered in its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// Who published it.
    pub publisher: NodeId,
    /// Its tier.
    pub role: Role,
    /// Its start.
    pub incarnation: Incarnation,
    /// Its number among the publications of that start, from 1.
    pub sequence: u64,
    /// What it says.
    pub news: News,
}

/// What a publication says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// What the node says of itself: a JSON object, as bytes that nobody has checked.
    Status(Vec<u8>),
    /// Something that a person should know.
    Alert {
        /// How much it matters.
        level: AlertLevel,
        /// One sentence.
        text: String,
    },
}

/// What a subscriber wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpdateEffect {
    /// Send a `telemetry_snapshot_request` to this node, if it can be reached; if it cannot,
    /// nothing is to be done.
    Ask(NodeId),
    /// Hand this on.
    Deliver(Update),
}

/// What happened so far, for metrics and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpdateCounters {
    /// Publications handed on.
    pub delivered: u64,
    /// Publications and snapshots that were known already or of an earlier incarnation.
    pub stale: u64,
    /// Times that a publication arrived behind a gap where there was none before.
    pub gaps: u64,
    /// Times that a node came back with a higher incarnation.
    pub restarts: u64,
    /// Snapshots asked for.
    pub asked: u64,
    /// Publications behind a gap for which there was no room; a later snapshot covers them.
    pub not_held: u64,
    /// Publications of nodes beyond [`PUBLISHERS`].
    pub not_followed: u64,
}

/// Follows the publications of many nodes.
#[derive(Debug, Default)]
pub struct Updates {
    publishers: BTreeMap<NodeId, Publisher>,
    /// When to ask whom again.
    deadlines: BTreeSet<(Instant, NodeId)>,
    held_bytes: usize,
    counters: UpdateCounters,
}

#[derive(Debug, Default)]
struct Publisher {
    incarnation: Incarnation,
    /// Everything up to this number is delivered, or outdated by what is.
    contained: u64,
    /// What arrived behind a gap, by number.
    held: BTreeMap<u64, Held>,
    /// Requests since the last answer.
    asked: u32,
    ask_again: Option<Instant>,
}

#[derive(Debug)]
struct Held {
    update: Update,
    bytes: usize,
}

impl Updates {
    /// Follows nobody yet.
    #[must_use]
    pub fn new() -> Updates {
        Updates::default()
    }

    /// A node can be reached (again): asks for its state, because what it published before is
    /// unknown or may have been lost.
    pub fn connected(&mut self, now: Instant, node: NodeId, effects: &mut Vec<UpdateEffect>) {
        if self.follow(node) {
            self.settle(node);
            self.ask(now, node, effects);
        }
    }

    /// A publication arrived.
    ///
    /// # Errors
    /// [`RecordError`] where it is none; nothing was changed then.
    pub fn publication(
        &mut self,
        now: Instant,
        record: &Record<'_>,
        effects: &mut Vec<UpdateEffect>,
    ) -> Result<(), RecordError> {
        let update = read(record)?;
        let (node, sequence) = (update.publisher, update.sequence);
        if !self.follow(node) || !self.is_current(node, update.incarnation) {
            return Ok(());
        }
        let Some(publisher) = self.publishers.get_mut(&node) else {
            return Ok(());
        };
        if sequence <= publisher.contained || publisher.held.contains_key(&sequence) {
            self.counters.stale += 1;
            return Ok(());
        }
        if sequence == publisher.contained.saturating_add(1) {
            publisher.contained = sequence;
            self.counters.delivered += 1;
            effects.push(UpdateEffect::Deliver(update));
            self.release(node, effects);
            return Ok(());
        }
        if publisher.held.is_empty() {
            self.counters.gaps += 1;
        }
        let bytes = record.body().len();
        if publisher.held.len() < HELD && self.held_bytes + bytes <= HELD_BYTES {
            self.held_bytes += bytes;
            publisher.held.insert(sequence, Held { update, bytes });
        } else {
            self.counters.not_held += 1;
        }
        if publisher.ask_again.is_none() {
            self.ask(now, node, effects);
        }
        Ok(())
    }

    /// A snapshot arrived.
    ///
    /// # Errors
    /// [`RecordError`] where it is none, or contains what is no publication of the same node and
    /// start; nothing was changed then.
    pub fn snapshot(
        &mut self,
        record: &Record<'_>,
        effects: &mut Vec<UpdateEffect>,
    ) -> Result<(), RecordError> {
        let (snapshot, [records]) = record.open::<TelemetrySnapshot, 1>()?;
        let node = record.node();
        let incarnation = Incarnation(snapshot.incarnation);
        let mut contained = BTreeMap::new();
        for inner in Records::of(records) {
            let update = read(&inner?)?;
            let own = update.publisher == node && update.incarnation == incarnation;
            if !own || update.sequence > snapshot.last_sequence {
                let message_type = TelemetrySnapshot::NUMBER;
                return Err(RecordError::Part { message_type, part: "records" });
            }
            contained.insert(update.sequence, update);
        }
        if !self.follow(node) || !self.is_current(node, incarnation) {
            return Ok(());
        }
        let Some(publisher) = self.publishers.get_mut(&node) else {
            return Ok(());
        };
        let known = publisher.contained;
        if snapshot.last_sequence < known {
            self.counters.stale += 1;
        } else {
            for (_, update) in contained.into_iter().filter(|&(sequence, _)| sequence > known) {
                self.counters.delivered += 1;
                effects.push(UpdateEffect::Deliver(update));
            }
            publisher.contained = snapshot.last_sequence;
        }
        self.release(node, effects);
        Ok(())
    }

    /// Time has passed: asks those again that have not answered.
    pub fn tick(&mut self, now: Instant, effects: &mut Vec<UpdateEffect>) {
        while let Some(&(due, node)) = self.deadlines.first()
            && due <= now
        {
            self.ask(now, node, effects);
        }
    }

    /// When [`Updates::tick`] wants to be called.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(due, _)| due)
    }

    /// Forgets a node that is no longer followed.
    pub fn forget(&mut self, node: NodeId) {
        self.settle(node);
        if let Some(publisher) = self.publishers.remove(&node) {
            self.held_bytes -= publisher.held.values().map(|held| held.bytes).sum::<usize>();
        }
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> UpdateCounters {
        self.counters
    }

    /// Asserts what holds between two calls.
    ///
    /// # Panics
    /// Where it does not: a bug.
    pub fn check_invariants(&self) {
        let mut bytes = 0;
        for (node, publisher) in &self.publishers {
            if let Some((&first, _)) = publisher.held.first_key_value() {
                let next = publisher.contained.saturating_add(1);
                assert!(first > next, "{node}: {first} is held needlessly");
                assert!(publisher.ask_again.is_some(), "{node}: nobody asks for what is missing");
            }
            if let Some(due) = publisher.ask_again {
                assert!(self.deadlines.contains(&(due, *node)), "{node}: a lost deadline");
            }
            assert!(publisher.held.len() <= HELD);
            bytes += publisher.held.values().map(|held| held.bytes).sum::<usize>();
        }
        let asking = self.publishers.values().filter(|p| p.ask_again.is_some()).count();
        assert_eq!(asking, self.deadlines.len());
        assert_eq!(bytes, self.held_bytes);
        assert!(self.publishers.len() <= PUBLISHERS && bytes <= HELD_BYTES);
    }

    /// True where the node is followed, or was taken in now.
    fn follow(&mut self, node: NodeId) -> bool {
        let full = self.publishers.len() >= PUBLISHERS;
        match self.publishers.entry(node) {
            Entry::Occupied(_) => true,
            Entry::Vacant(_) if full => {
                self.counters.not_followed += 1;
                false
            }
            Entry::Vacant(vacant) => {
                vacant.insert(Publisher::default());
                true
            }
        }
    }

    /// True where an incarnation is the node's newest; begins anew where it is a newer one.
    fn is_current(&mut self, node: NodeId, incarnation: Incarnation) -> bool {
        let Some(publisher) = self.publishers.get(&node) else {
            return false;
        };
        let known = publisher.incarnation;
        if incarnation < known {
            self.counters.stale += 1;
            return false;
        }
        if incarnation > known {
            if known != Incarnation::default() {
                self.counters.restarts += 1;
            }
            self.forget(node);
            self.publishers.insert(node, Publisher { incarnation, ..Publisher::default() });
        }
        true
    }

    /// Delivers what was held and has its turn; stops asking where nothing is missing any more.
    fn release(&mut self, node: NodeId, effects: &mut Vec<UpdateEffect>) {
        let Some(publisher) = self.publishers.get_mut(&node) else {
            return;
        };
        while let Some(first) = publisher.held.first_entry() {
            let sequence = *first.key();
            if sequence > publisher.contained.saturating_add(1) {
                // Asking again at once would let a node that answers wrongly keep us busy.
                return;
            }
            let held = first.remove();
            self.held_bytes -= held.bytes;
            if sequence > publisher.contained {
                publisher.contained = sequence;
                self.counters.delivered += 1;
                effects.push(UpdateEffect::Deliver(held.update));
            }
        }
        self.settle(node);
    }

    fn settle(&mut self, node: NodeId) {
        if let Some(publisher) = self.publishers.get_mut(&node) {
            publisher.asked = 0;
            if let Some(due) = publisher.ask_again.take() {
                self.deadlines.remove(&(due, node));
            }
        }
    }

    fn ask(&mut self, now: Instant, node: NodeId, effects: &mut Vec<UpdateEffect>) {
        let Some(publisher) = self.publishers.get_mut(&node) else {
            return;
        };
        if let Some(due) = publisher.ask_again.take() {
            self.deadlines.remove(&(due, node));
        }
        if publisher.asked >= REQUESTS {
            // A later publication begins anew: it shows that the node lives.
            publisher.asked = 0;
            publisher.held.values().for_each(|held| self.held_bytes -= held.bytes);
            publisher.held.clear();
            return;
        }
        let due = now + PATIENCE.times(1 << publisher.asked.min(DOUBLINGS));
        publisher.asked += 1;
        publisher.ask_again = Some(due);
        self.deadlines.insert((due, node));
        self.counters.asked += 1;
        effects.push(UpdateEffect::Ask(node));
    }
}

/// The publication in a record.
fn read(record: &Record<'_>) -> Result<Update, RecordError> {
    let message_type = record.message_type();
    let wrong = |field| RecordError::Value { message_type, field };
    let (role, incarnation, news) = if message_type == TelemetryAlert::NUMBER {
        let (alert, [text]) = record.open::<TelemetryAlert, 1>()?;
        let level = AlertLevel::from_wire(alert.level).ok_or(wrong("level"))?;
        let text = str::from_utf8(text).map_err(|_| wrong("text"))?.to_owned();
        (alert.role, alert.incarnation, News::Alert { level, text })
    } else {
        let (status, [json]) = record.open::<TelemetryStatus, 1>()?;
        (status.role, status.incarnation, News::Status(json.to_vec()))
    };
    let sequence = record.envelope().sequence;
    if sequence == 0 {
        return Err(wrong("sequence"));
    }
    Ok(Update {
        publisher: record.node(),
        role: Role::from_wire(role).ok_or(wrong("role"))?,
        incarnation: Incarnation(incarnation),
        sequence,
        news,
    })
}

#[cfg(test)]
#[path = "updates_tests.rs"]
mod tests;
