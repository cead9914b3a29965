//! One operation of a register: which replicas were asked what, and what follows from the answers
//! of a majority.
//!
//! A write asks a majority for their tags and then stores a higher one at a majority. A read asks a
//! majority for what they have; where not all of a majority have the highest of it, the reader
//! stores that at a majority before it tells it, so that no later read tells an older one.

use std::collections::BTreeMap;

use node::logic::refusal::Refusal;
use proto::ids::{NodeId, RingVersion};
use proto::messages::register::{RegisterRead, RegisterWrite};
use proto::record::encode;
use proto::register::{Tag, majority};
use proto::status::ErrorCode;
use proto::time::{Duration, Instant};
use proto::wire::WireUuid;

use super::{Found, Place, RegisterError};

/// How long a replica may be silent before it is asked again, doubled with each time up to
/// [`DOUBLINGS`]: what was asked may have been lost on the way.
const PATIENCE: Duration = Duration::from_millis(300);

const DOUBLINGS: u32 = 4;

/// Pause before a replica is asked again that could not be asked, or did not say how long to wait.
const REST: Duration = Duration::from_millis(50);

/// Longest pause that a replica may ask for.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// What an operation is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    /// Stores the value under a tag of this writer and number.
    Write {
        writer: u128,
        number: u64,
        value: Vec<u8>,
    },
    /// Looks at what one node has.
    Local,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// Asks what the replicas have; with the highest of it.
    Ask(Found),
    /// Stores this. Its tag stays the same however often that is tried, and by whatever version.
    Store(Found),
}

/// How far one replica is in this round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// It is to be asked at this time.
    Due(Instant),
    /// It was asked, and will be again at this time.
    Asked(Instant),
    /// It has this tag durably.
    Has(Tag),
    /// It goes by another version of the ring.
    Stale,
    /// It refused for good.
    Refused,
}

#[derive(Clone, Copy, Debug)]
struct Replica {
    heard: Heard,
    attempts: u32,
}

/// An operation that is under way.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) address: u64,
    kind: Kind,
    phase: Phase,
    /// Answers to an earlier round are not taken: they say nothing about what was asked since.
    pub(super) round: u32,
    version: RingVersion,
    replicas: BTreeMap<NodeId, Replica>,
    pub(super) until: Instant,
    /// What went wrong last.
    why: String,
}

impl Operation {
    pub(super) fn new(address: u64, kind: Kind, until: Instant) -> Operation {
        Operation {
            address,
            kind,
            phase: Phase::Ask(Found::default()),
            round: 0,
            version: RingVersion(0),
            replicas: BTreeMap::new(),
            until,
            why: String::new(),
        }
    }

    /// True where it has no replicas to ask.
    pub(super) fn is_lost(&self) -> bool {
        self.replicas.is_empty()
    }

    /// Goes by what the ring says now. Where that is another version, everything that the replicas
    /// of the old one said is void, but for the tag that was chosen.
    pub(super) fn place(&mut self, now: Instant, place: Place) {
        if place.version == self.version && !self.is_lost() {
            for replica in self.replicas.values_mut() {
                if replica.heard == Heard::Stale {
                    // Either it lags or the masters do.
                    replica.heard = Heard::Due(now + REST);
                }
            }
            return;
        }
        self.version = place.version;
        let new = Replica { heard: Heard::Due(now), attempts: 0 };
        self.replicas = place.replicas.into_iter().map(|node| (node, new)).collect();
        if let Phase::Ask(highest) = &mut self.phase {
            *highest = Found::default();
        }
        self.round += 1;
    }

    /// When a replica is to be asked, or the operation is given up.
    pub(super) fn deadline(&self) -> Instant {
        let due = |replica: &Replica| match replica.heard {
            Heard::Due(at) | Heard::Asked(at) => Some(at),
            Heard::Has(_) | Heard::Stale | Heard::Refused => None,
        };
        self.replicas.values().filter_map(due).fold(self.until, Instant::min)
    }

    /// Whom to ask now, and the record that does it.
    pub(super) fn asks(&mut self, now: Instant) -> Vec<(NodeId, Vec<u8>)> {
        let mut asks = Vec::new();
        let mut record = None;
        for (node, replica) in &mut self.replicas {
            match replica.heard {
                Heard::Due(at) | Heard::Asked(at) if at <= now => {}
                _ => continue,
            }
            let patience = PATIENCE.times(1 << replica.attempts.min(DOUBLINGS));
            replica.attempts = replica.attempts.saturating_add(1);
            replica.heard = Heard::Asked(now + patience);
            let of = (self.address, self.version, &self.kind);
            let record = record.get_or_insert_with(|| record_of(of, &self.phase));
            asks.push((*node, record.clone()));
        }
        asks
    }

    /// A replica could not be asked, said nothing or has to be asked once more.
    pub(super) fn failed(&mut self, node: NodeId, again: Instant, why: &str) {
        let Some(replica) = self.replicas.get_mut(&node) else { return };
        if let Heard::Asked(_) = replica.heard {
            replica.heard = Heard::Due(again);
            if !why.is_empty() {
                self.why = format!("storage node {node}: {why}");
            }
        }
    }

    /// A replica refused. True where it goes by another version of the ring.
    pub(super) fn refused(&mut self, now: Instant, node: NodeId, refusal: &Refusal) -> bool {
        let Some(replica) = self.replicas.get_mut(&node) else { return false };
        if let Heard::Has(_) = replica.heard {
            // It was asked twice, and answered before.
            return false;
        }
        self.why = format!("storage node {node}: {}", refusal.text);
        let is_stale = refusal.code == ErrorCode::StaleRing;
        replica.heard = match refusal.code {
            ErrorCode::StaleRing => Heard::Stale,
            // Trying again would fill the time that is left, and no disk is emptied so soon.
            ErrorCode::DiskFull => Heard::Refused,
            code if code.is_retryable() => {
                Heard::Due(now + refusal.retry_after.clamp(REST, LONGEST_REST))
            }
            _ => Heard::Refused,
        };
        is_stale
    }

    /// A replica that was asked what it has has told it.
    pub(super) fn take_value(&mut self, node: NodeId, found: Found) {
        if let Phase::Ask(highest) = &mut self.phase
            && let Some(replica) = self.replicas.get_mut(&node)
        {
            replica.heard = Heard::Has(found.tag);
            if found.tag > highest.tag {
                *highest = found;
            }
        }
    }

    /// A replica has what it was told to store, or what is higher.
    pub(super) fn take_written(&mut self, node: NodeId) {
        if let Phase::Store(stored) = &self.phase
            && let Some(replica) = self.replicas.get_mut(&node)
        {
            replica.heard = Heard::Has(stored.tag);
        }
    }

    /// True where an answer by this version of the ring is one to what was asked.
    pub(super) fn goes_by(&self, version: RingVersion) -> bool {
        version == self.version || self.kind == Kind::Local
    }

    /// What follows from the answers so far: the end of the operation, or `None`.
    pub(super) fn decide(&mut self, now: Instant) -> Option<Result<Found, RegisterError>> {
        let needed = majority(self.replicas.len());
        let refusals = self.count(|heard| heard == Heard::Refused);
        if !self.is_lost() && self.replicas.len() - refusals < needed {
            return Some(Err(self.failure()));
        }
        match &self.phase {
            Phase::Store(stored) => {
                let holders = self.count(|heard| heard == Heard::Has(stored.tag));
                (holders >= needed).then(|| Ok(stored.clone()))
            }
            Phase::Ask(highest) => {
                let answers = self.count(|heard| matches!(heard, Heard::Has(_)));
                let holders = self.count(|heard| heard == Heard::Has(highest.tag));
                if answers < needed {
                    return None;
                }
                if holders >= needed && !matches!(self.kind, Kind::Write { .. }) {
                    return Some(Ok(highest.clone()));
                }
                let highest = highest.clone();
                self.store(now, highest)
            }
        }
    }

    /// Goes on to the second phase.
    fn store(&mut self, now: Instant, highest: Found) -> Option<Result<Found, RegisterError>> {
        let stored = match &mut self.kind {
            Kind::Read | Kind::Local => highest,
            Kind::Write { writer, number, value } => {
                let Some(sequence) = highest.tag.sequence.checked_add(1) else {
                    "its tag is the highest that there is".clone_into(&mut self.why);
                    return Some(Err(self.failure()));
                };
                let tag = Tag { sequence, writer: *writer, operation: *number };
                Found { tag, value: std::mem::take(value) }
            }
        };
        for replica in self.replicas.values_mut() {
            // Who told the reader that it has the tag has it durably.
            if replica.heard != Heard::Has(stored.tag) {
                *replica = Replica { heard: Heard::Due(now), attempts: 0 };
            }
        }
        self.phase = Phase::Store(stored);
        self.round += 1;
        None
    }

    fn count(&self, is_counted: impl Fn(Heard) -> bool) -> usize {
        self.replicas.values().filter(|replica| is_counted(replica.heard)).count()
    }

    /// Why it ended without success.
    pub(super) fn failure(&self) -> RegisterError {
        let why = if self.is_lost() {
            "the ring has no storage nodes".to_owned()
        } else if self.why.is_empty() {
            "no majority of its replicas answers".to_owned()
        } else {
            self.why.clone()
        };
        let is_write = matches!(self.kind, Kind::Write { .. });
        match self.phase {
            // What one replica has may still be read and written back by others.
            Phase::Store(_) if is_write => {
                RegisterError::OutcomeUnknown { address: self.address, why }
            }
            _ => RegisterError::Unavailable { address: self.address, why },
        }
    }

    pub(super) fn check_invariants(&self) {
        if let Phase::Ask(highest) = &self.phase {
            let told = self.replicas.values().filter_map(|replica| match replica.heard {
                Heard::Has(tag) => Some(tag),
                _ => None,
            });
            assert_eq!(
                highest.tag,
                told.max().unwrap_or_default(),
                "the highest tag that was told"
            );
        }
    }
}

fn record_of((address, version, kind): (u64, RingVersion, &Kind), phase: &Phase) -> Vec<u8> {
    match phase {
        Phase::Ask(_) => {
            let is_write = matches!(kind, Kind::Write { .. });
            let read = RegisterRead {
                register_address: address,
                ring_version: version.0,
                wants_value: u8::from(!is_write),
                is_local: u8::from(*kind == Kind::Local),
                ..Default::default()
            };
            encode(&read, &[])
        }
        Phase::Store(Found { tag, value }) => {
            let write = RegisterWrite {
                register_address: address,
                ring_version: version.0,
                sequence: tag.sequence,
                writer_uuid: WireUuid::new(tag.writer),
                operation: tag.operation,
                ..Default::default()
            };
            encode(&write, &[value])
        }
    }
}
