//! Registers on a storage node: what a replica answers, and how parts move when the ring changes.
//!
//! - `replica.rs`: reads, writes, seals and copies; `copies.rs`: what is durable here
//! - `mover.rs`: seal, copy, activate; `parts.rs`: who keeps what under which version
//!
//! A replica shows only what is durable, and serves a part only under the version that is active
//! for it and not sealed here. The protocol, with reasons: `docs/decisions/registers.md`.

mod copies;
mod driving;
mod frames;
mod mover;
mod parts;
mod replica;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use fastrand::Rng;
use node::logic::network::Peer;
use node::logic::refusal::Refusal;
use proto::ids::{NodeId, RequestId, RingVersion, StoreId};
use proto::limits;
use proto::messages::node::RegisterActivate;
use proto::messages::register::{RegisterCopied, RegisterSealed};
use proto::record::{self, Message, Record};
use proto::register::Part;
use proto::ring::Ring;
use proto::time::Instant;
use proto::wire::bytes_of;

use self::copies::{Copies, Page};
pub(super) use self::driving::Lines;
use self::mover::{Ask, Mover, What};
use self::parts::Parts;
use super::admission::{Admission, Bounds};
use super::{Asker, Ticket};
use crate::registers::{Change, Job, JobDone, Recovered};

/// Changes that are on their way to the disk.
const BOUNDS: Bounds =
    Bounds { peer_count: 1024, peer_bytes: 16 << 20, count: 4096, bytes: 64 << 20 };

/// Copies that are forgotten with one change.
const FORGET_COUNT: usize = 4096;

/// What registers want done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// To make a change durable; answered by [`Registers::done`].
    Change(Job),
    /// To answer a request.
    Answer(Asker, Vec<u8>),
    /// To refuse one.
    Refuse(Asker, Refusal),
    /// To ask another storage node.
    Ask(NodeId, Vec<u8>),
    /// To ask the leader.
    AskLeader(Vec<u8>),
    /// To ask the masters for the ring soon.
    AskRing,
}

/// Who wants something of this replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// Somebody else.
    Asker(Asker),
    /// This node's mover.
    Mover(RequestId),
}

/// What a change is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Write { asker: Asker, address: u64 },
    Seal { origin: Origin, part: Part, version: RingVersion, first_address: u64 },
    Copy { origin: Origin, part: Part, version: RingVersion },
    Forget,
}

/// A change that is on its way to the disk.
#[derive(Debug)]
struct Pending {
    purpose: Purpose,
    change: Change,
    /// What was admitted of whom.
    admitted: Option<(Peer, usize)>,
}

/// The registers of a storage node.
#[derive(Debug)]
pub(super) struct Registers {
    parts: Parts,
    copies: Copies,
    /// What is refused: sealed, or about to be.
    refused: BTreeMap<Part, RingVersion>,
    mover: Mover,
    changes: Admission,
    pending: BTreeMap<Ticket, Pending>,
    next_ticket: u64,
    /// The part whose copies are being forgotten: until that is durable nothing of it is taken on, as
    /// it would be forgotten with them.
    forgetting: Option<Part>,
    is_damaged: bool,
    rng: Rng,
}

impl Registers {
    pub(super) fn new(node: NodeId, store: StoreId, mut rng: Rng) -> Registers {
        Registers {
            parts: Parts::new(node, store),
            copies: Copies::default(),
            refused: BTreeMap::new(),
            mover: Mover::new(rng.fork()),
            changes: Admission::new(BOUNDS),
            pending: BTreeMap::new(),
            next_ticket: 0,
            forgetting: None,
            is_damaged: false,
            rng,
        }
    }

    /// Takes in what a start found, before anything else happens.
    pub(super) fn recover(&mut self, recovered: Recovered) {
        self.is_damaged = recovered.is_damaged;
        self.refused.extend(recovered.seals.iter().copied());
        self.copies.recover(recovered);
    }

    /// Takes in all versions of the ring that are not left and the active one of each part.
    pub(super) fn learn(
        &mut self,
        now: Instant,
        rings: &[&Ring],
        active: &[RingVersion],
        acts: &mut Vec<Act>,
    ) {
        self.parts.learn(rings, active);
        self.copies.divide(self.parts.count());
        self.mover.learn(now, &self.parts);
        self.forget(acts);
        self.tick(now, acts);
    }

    /// Begins what is due.
    pub(super) fn tick(&mut self, now: Instant, acts: &mut Vec<Act>) {
        self.mover.tick(now, &self.parts);
        self.pump(now, acts);
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.mover.next_deadline()
    }

    /// Performs what the mover asks for; questions to this node at once.
    fn pump(&mut self, now: Instant, acts: &mut Vec<Act>) {
        loop {
            let asks = self.mover.take_asks();
            if asks.is_empty() {
                break;
            }
            asks.into_iter().for_each(|ask| self.ask(now, ask, acts));
        }
        let moves = self.mover.take_finished(now);
        if !moves.is_empty() {
            let activate = RegisterActivate::default();
            acts.push(Act::AskLeader(record::encode(&activate, &[bytes_of(&moves)])));
        }
    }

    fn ask(&mut self, now: Instant, ask: Ask, acts: &mut Vec<Act>) {
        let Ask { node, request_id, part, what } = ask;
        if node == self.parts.node() {
            let origin = Origin::Mover(request_id);
            return match what {
                What::Seal { version, first_address } => {
                    self.seal(now, origin, part, version, first_address, acts);
                }
                What::Copy { version, registers } => {
                    self.copy(now, origin, part, version, registers, acts);
                }
            };
        }
        let mut record = match what {
            What::Seal { version, first_address } => {
                frames::encode_seal(part, version, first_address)
            }
            What::Copy { version, registers } => frames::encode_copy(part, version, &registers),
        };
        record::set_request_id(&mut record, request_id);
        acts.push(Act::Ask(node, record));
    }

    /// Another replica answered what it was asked.
    pub(super) fn answered(&mut self, now: Instant, record: &Record<'_>, acts: &mut Vec<Act>) {
        let request_id = record.request_id();
        match record.message_type() {
            RegisterSealed::TYPE => {
                let Ok((sealed, [entries, values])) = record.open::<RegisterSealed, 2>() else {
                    return;
                };
                let count = self.parts.count();
                let part = Part(sealed.part);
                match frames::read_registers(part, count, entries, values) {
                    Some(registers) => {
                        let page = Page { registers, has_more: sealed.has_more != 0 };
                        self.mover.sealed(now, request_id, page, &self.parts);
                    }
                    None => tracing::warn!(part = part.0, "a page of registers makes no sense"),
                }
            }
            RegisterCopied::TYPE => self.mover.copied(now, request_id, &self.parts),
            _ => {}
        }
        self.tick(now, acts);
    }

    /// The leader activated what it was asked to, or found that something else was done before.
    pub(super) fn activated(&mut self, now: Instant, acts: &mut Vec<Act>) {
        self.mover.told();
        acts.push(Act::AskRing);
        self.pump(now, acts);
    }

    /// Another replica refused what it was asked.
    pub(super) fn refused(
        &mut self,
        now: Instant,
        request_id: RequestId,
        refusal: &Refusal,
        acts: &mut Vec<Act>,
    ) {
        if self.mover.refused(now, request_id, refusal) {
            acts.push(Act::AskRing);
        }
        self.tick(now, acts);
    }

    /// A change is durable, or cannot be.
    ///
    /// # Panics
    /// Where it was never asked for: a bug of ours.
    pub(super) fn done(&mut self, now: Instant, done: JobDone, acts: &mut Vec<Act>) {
        let Some(pending) = self.pending.remove(&done.ticket) else {
            panic!("the disk changed registers under a ticket that no change has");
        };
        if let Some((peer, bytes)) = pending.admitted {
            self.changes.release(peer, bytes);
        }
        if done.result.is_ok() {
            self.copies.apply(pending.change);
        }
        if pending.purpose == Purpose::Forget {
            self.forgetting = None;
            // After an error the next answer about the ring tries again.
            if done.result.is_ok() {
                self.forget(acts);
            }
        }
        self.finish(now, pending.purpose, done.result, acts);
        self.tick(now, acts);
    }

    /// Forgets copies of parts that are elsewhere, a number of them with each change.
    fn forget(&mut self, acts: &mut Vec<Act>) {
        if self.forgetting.is_some() || self.is_damaged {
            return;
        }
        let mut left = self.parts.all().filter(|&part| !self.parts.is_kept(part));
        let found = left.find_map(|part| {
            let addresses = self.copies.addresses(part, FORGET_COUNT);
            let active = self.parts.active(part).filter(|_| !addresses.is_empty())?;
            // Sealed below the active version: it never again says that it has nothing.
            let version = RingVersion(active.0.checked_sub(1)?);
            Some((part, version, addresses))
        });
        let Some((part, version, addresses)) = found else { return };
        self.leave(part, version);
        self.forgetting = Some(part);
        let change = Change::Forget { part, version, addresses };
        self.change(Purpose::Forget, change, None, acts);
    }

    fn change(
        &mut self,
        purpose: Purpose,
        change: Change,
        admitted: Option<(Peer, usize)>,
        acts: &mut Vec<Act>,
    ) {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.pending.insert(ticket, Pending { purpose, change: change.clone(), admitted });
        acts.push(Act::Change(Job { ticket, change }));
    }

    /// Says in words what is going on; `None` where nothing is.
    pub(super) fn explain(&self) -> Option<String> {
        if self.is_damaged {
            return Some(crate::registers::ChangeError::Damaged.to_string());
        }
        let count = self.mover.count();
        (count > 0).then(|| format!("{count} parts of the registers are to be moved"))
    }

    /// Walks the whole state and panics on a broken invariant.
    pub(super) fn check_invariants(&self) {
        self.changes.check_invariants();
        self.mover.check_invariants();
        let admitted = self.pending.values().filter(|pending| pending.admitted.is_some());
        assert_eq!(admitted.count(), self.changes.count(), "changes that are admitted and pending");
        for part in self.parts.all() {
            let sealed = self.copies.sealed(part);
            assert!(sealed <= self.refused.get(&part).copied(), "{part:?} is sealed and served");
        }
    }
}

const _: () = assert!(limits::REGISTER_PAGE_BYTES < BOUNDS.peer_bytes);
