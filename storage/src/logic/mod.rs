//! What a storage node decides: which requests it takes on, what the disk is asked, what is
//! answered, and how blocks get to where they belong.
//!
//! Pure: time and events come in, effects go out. The bytes of blocks pass through only on their
//! way to the disk, moved; what is read waits at the edge under its ticket until it is answered
//! or discarded. How blocks lie on disk is `disk.rs`, who performs effects `edge.rs` and
//! `service.rs`.

mod admission;
mod assembly;
mod blocks;
mod effects;
mod fetches;
mod links;
mod membership;
mod mend;
mod offers;
mod reconcile;
mod refusals;
mod registers;
mod rings;
mod scrub;
mod works;

use std::collections::BTreeMap;

use fastrand::Rng;
use node::logic::network::{Link, NetworkEvent, Peer, Sender};
use node::logic::refusal::Refusal;
use proto::ids::{BlockId, NodeId, RequestId, RingVersion};
use proto::messages::file::{
    BlockContent, BlockGet, BlockOffer, BlockOffered, BlockPut, BlockQuery, BlockStored,
    FileRequest, StorageQuery,
};
use proto::messages::node::{
    NodeRegistered, RegisterActivated, RingReply, StorageProgress, StorageTold,
};
use proto::messages::register::{RegisterCopied, RegisterSealed};
use proto::messages::session::ErrorReply;
use proto::record::{Envelope, Message, Record};
use proto::status::ErrorCode;
use proto::time::Instant;

use self::admission::Admission;
pub use self::admission::{Bounds, StorageLimits, Upkeep};
use self::assembly::Assembly;
pub use self::effects::{Effect, Event, FileAnswer, Form, Found, Holds, Space, Ticket};
use self::fetches::Fetches;
use self::links::Links;
use self::membership::Membership;
pub use self::membership::Registration;
use self::mend::Mends;
use self::offers::Expectations;
use self::reconcile::{Reconcile, Scene};
use self::registers::{Lines, Registers};
use self::scrub::Scrub;
use self::works::{Pending, Works};
use crate::disk::ReadError;

/// Who wants an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asker {
    peer: Peer,
    node: NodeId,
    request_id: RequestId,
    in_given_form: bool,
    message_type: u8,
}

impl Asker {
    /// Request 0 wants no answer; the given form has no place for a number and wants one.
    fn wants_answer(&self) -> bool {
        self.in_given_form || self.request_id.0 != 0
    }
}

/// The state machine of a storage node.
#[derive(Debug)]
pub struct Storage {
    membership: Membership,
    puts: Admission,
    reads: Admission,
    files: Admission,
    works: Works,
    assemblies: BTreeMap<u64, Assembly>,
    next_assembly: u64,
    fetches: Fetches,
    reconcile: Reconcile,
    expectations: Expectations,
    scrub: Scrub,
    mends: Mends,
    registers: Registers,
    register_lines: Lines,
    links: Links,
    /// What was measured last; `None` before the first time.
    space: Option<Space>,
    get_count: u64,
    get_bytes: u64,
    rng: Rng,
}

impl Storage {
    /// A node that begins by registering with the masters.
    #[must_use]
    pub fn new(registration: Registration, limits: StorageLimits, mut rng: Rng) -> Storage {
        let mut reads = limits.reads;
        (reads.peer_bytes, reads.bytes) = (usize::MAX, usize::MAX);
        let (node, store) = (registration.node, registration.store);
        Storage {
            membership: Membership::new(registration, rng.fork()),
            puts: Admission::new(limits.puts),
            reads: Admission::new(reads),
            files: Admission::new(limits.files),
            works: Works::default(),
            assemblies: BTreeMap::new(),
            next_assembly: 0,
            fetches: Fetches::default(),
            reconcile: Reconcile::new(limits.upkeep),
            expectations: Expectations::default(),
            scrub: Scrub::new(limits.upkeep.scrub_period, &mut rng),
            mends: Mends::default(),
            registers: Registers::new(node, store, rng.fork()),
            register_lines: Lines::default(),
            links: Links::default(),
            space: None,
            get_count: 0,
            get_bytes: 0,
            rng,
        }
    }

    /// Decides what to do about one event. Never blocks, never fails; refusals are answers.
    pub fn handle(&mut self, now: Instant, event: Event<'_>, effects: &mut Vec<Effect>) {
        let begin = effects.len();
        match event {
            Event::Network(event) => self.network(now, event, effects),
            Event::PutDone(done) => self.put_done(now, done, effects),
            Event::ReadDone { ticket, result } => self.read_done(now, ticket, result, effects),
            Event::Touched { ticket, present } => self.touched(now, ticket, &present, effects),
            Event::Deleted { ticket, result } => {
                self.works.end(ticket);
                self.with_reconcile(now, effects, |it, scene| it.deleted(scene, ticket, result));
            }
            Event::Listed { ticket, held, total } => match self.works.end(ticket) {
                Some(Pending::ListScrub) => self.scrub.listed(now, ticket, held, total),
                _ => {
                    self.with_reconcile(now, effects, |it, scene| {
                        it.listed(scene, ticket, &held, total);
                    });
                }
            },
            Event::Verified { ticket, result } => {
                self.works.end(ticket);
                let total = self.space.map_or(0, |space| space.counters.block_count);
                if let Some(held) = self.scrub.verified(now, ticket, result, total) {
                    self.damaged(now, held.block, Some(held));
                }
            }
            Event::Measured { ticket, space } => self.measured(now, ticket, space, effects),
            Event::RegistersDone(done) => {
                self.with_registers(now, effects, |it, acts| it.done(now, done, acts));
            }
            Event::Tick => {}
        }
        self.tick(now, effects);
        self.links.share(begin, effects);
    }

    /// What is due, after every event.
    fn tick(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let version = self.membership.version();
        let failed = self.fetches.tick(now, version, effects);
        self.fetched(now, failed, effects);
        self.membership.tick(now, effects);
        let rounds = self.membership.rounds();
        let has_silent = self.with_reconcile(now, effects, |it, scene| it.tick(scene, rounds.pass));
        if has_silent == Some(true) {
            self.membership.doubts(now);
        }
        let has_ended = self.scrub.tick(now, rounds.scrub, &mut self.works, effects);
        if self.reconcile.take_news() || has_ended {
            self.membership.report_soon(now);
        }
        self.mend(now, effects);
        self.with_registers(now, effects, |it, acts| it.tick(now, acts));
        if self.membership.is_report_due(now) {
            let progress = self.progress();
            self.membership.report(now, progress, effects);
            // For the next one: the disk's threads may take their time.
            let ticket = self.works.begin(Pending::MeasureForReport);
            effects.push(Effect::Measure { ticket });
        }
    }

    /// Reconcile with what it needs; nothing is done while no ring is known.
    fn with_reconcile<T>(
        &mut self,
        now: Instant,
        effects: &mut Vec<Effect>,
        act: impl FnOnce(&mut Reconcile, &mut Scene<'_>) -> T,
    ) -> Option<T> {
        let rings = self.membership.rings()?;
        let own = self.membership.node();
        let mut scene = Scene { now, own, rings, works: &mut self.works, effects };
        Some(act(&mut self.reconcile, &mut scene))
    }

    /// When to call [`Storage::handle`] with [`Event::Tick`] if nothing else happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let deadlines = [
            self.fetches.next_deadline(),
            self.membership.next_deadline(),
            self.reconcile.next_deadline(),
            self.scrub.next_deadline(),
            self.registers.next_deadline(),
            self.mends.next_deadline().filter(|_| self.membership.rings().is_some()),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Walks the whole state and panics on a broken invariant.
    pub fn check_invariants(&self) {
        self.puts.check_invariants();
        self.reads.check_invariants();
        self.files.check_invariants();
        self.fetches.check_invariants();
        self.reconcile.check_invariants();
        self.expectations.check_invariants();
        self.mends.check_invariants();
        self.registers.check_invariants();
        self.links.check_invariants();
        assert_eq!(self.works.put_count(), self.puts.count(), "puts that are admitted and pending");
        assert_eq!(self.works.read_count(), self.reads.count(), "reads");
        assert_eq!(self.assemblies.len(), self.files.count(), "files");
    }

    /// Blocks and pieces of them that were answered since the start, and their bytes.
    #[must_use]
    pub fn answered(&self) -> (u64, u64) {
        (self.get_count, self.get_bytes)
    }

    /// The ring version that this node goes by; 0 before it knows one.
    #[must_use]
    pub fn ring_version(&self) -> RingVersion {
        self.membership.version()
    }

    /// How far this node is with what it looks after, as it reports to the leader.
    #[must_use]
    pub fn progress(&self) -> StorageProgress {
        let pass = self.reconcile.progress();
        let scrub = self.scrub.progress();
        let space = self.space.unwrap_or_default();
        StorageProgress {
            ring_version: self.membership.version().0,
            passed_version: pass.passed_version,
            pass_round: pass.pass_round,
            scrub_round: scrub.round,
            block_count: space.counters.block_count,
            block_bytes: space.counters.block_bytes,
            pass_done: pass.pass_done,
            pass_total: pass.pass_total,
            lacking_count: pass.lacking_count,
            foreign_count: pass.foreign_count,
            moved_count: pass.moved_count,
            moved_bytes: pass.moved_bytes,
            scrub_done: scrub.done,
            scrub_total: scrub.total,
            damaged_count: space.counters.damaged_count,
            mended_count: self.mends.mended_count,
            total_bytes: space.total_bytes,
            free_bytes: space.free_bytes,
        }
    }

    fn measured_for_report(&mut self, now: Instant, space: Space) {
        if self.space.replace(space).is_none() {
            self.membership.report_soon(now);
        }
    }

    /// Addresses of the masters, as far as they are known here.
    #[must_use]
    pub fn masters(&self) -> &[String] {
        self.membership.masters()
    }

    /// Says in words what this node is doing and why it may be refusing.
    #[must_use]
    pub fn explain(&self) -> String {
        let registers = self.registers.explain().map(|text| format!("; {text}"));
        let registers = registers.unwrap_or_default();
        format!(
            "{}; {} blocks wait for their owners; {} puts, {} reads and {} whole files are going on\
             {registers}",
            self.membership.explain(),
            self.reconcile.open_count(),
            self.puts.count(),
            self.reads.count(),
            self.files.count()
        )
    }

    fn network(&mut self, now: Instant, event: NetworkEvent<'_>, effects: &mut Vec<Effect>) {
        match event {
            NetworkEvent::Record { sender, record } => self.record(now, sender, &record, effects),
            NetworkEvent::Connected { link, cluster, masters, again, .. } => {
                self.membership.connected(now, link, cluster, &masters, effects);
                if again {
                    self.link_lost(now, link, effects);
                }
            }
            NetworkEvent::Masters { link, masters } => self.membership.named(link, &masters),
            NetworkEvent::Refused { link, code, text } => {
                tracing::warn!(?link, %code, text, "a node refuses this one");
                self.membership.lost(now, link, effects);
                self.link_lost(now, link, effects);
            }
            NetworkEvent::Joined { .. }
            | NetworkEvent::Gone { .. }
            | NetworkEvent::Overflowing { .. } => {}
        }
    }

    fn link_lost(&mut self, now: Instant, link: Link, effects: &mut Vec<Effect>) {
        for link in self.links.carried(link) {
            let version = self.membership.version();
            let failed = self.fetches.lost(now, link, version, effects);
            self.fetched(now, failed, effects);
            self.reconcile.link_lost(now, link, effects);
        }
    }

    fn record(
        &mut self,
        now: Instant,
        sender: Sender,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let mut sender = sender;
        if let Peer::Link(link) = &mut sender.peer {
            let Some(receiver) = self.links.receiver(*link, record) else { return };
            *link = receiver;
        }
        let asker = Asker {
            peer: sender.peer,
            node: sender.node,
            request_id: record.request_id(),
            in_given_form: record.is_given_form(),
            message_type: record.message_type(),
        };
        match (record.message_type(), sender.peer) {
            (BlockPut::TYPE, _) => self.block_put(now, asker, record, effects),
            (BlockGet::TYPE, _) => self.block_get(now, asker, record, effects),
            (BlockQuery::TYPE, _) => self.block_query(now, asker, record, effects),
            (BlockOffer::TYPE, _) => self.block_offer(now, asker, record, effects),
            (FileRequest::TYPE, _) => self.file_request(asker, record, effects),
            (StorageQuery::TYPE, _) => self.storage_query(asker, effects),
            (BlockContent::TYPE, Peer::Link(link)) => {
                self.content_came(now, link, record, effects);
            }
            (BlockOffered::TYPE | BlockStored::TYPE, Peer::Link(link))
                if !self.reconcile.is_from(link, asker.node) =>
            {
                self.reconcile.link_lost(now, link, effects);
            }
            (BlockOffered::TYPE, Peer::Link(link)) => {
                self.with_reconcile(now, effects, |it, scene| it.offered(scene, link, record));
            }
            (BlockStored::TYPE, Peer::Link(link)) => {
                self.with_reconcile(now, effects, |it, scene| it.handed(scene, link, record));
            }
            (NodeRegistered::TYPE | RingReply::TYPE | StorageTold::TYPE, Peer::Link(_)) => {
                self.master_answered(now, record);
                self.registers_learn(now, record, effects);
            }
            (RegisterSealed::TYPE | RegisterCopied::TYPE, Peer::Link(link)) => {
                if !self.is_register_line_to(link, asker.node) {
                    return;
                }
                self.with_registers(now, effects, |it, acts| it.answered(now, record, acts));
            }
            (RegisterActivated::TYPE, Peer::Link(_)) => {
                self.with_registers(now, effects, |it, acts| it.activated(now, acts));
            }
            (request, _) if Registers::is_request(request) => {
                self.with_registers(now, effects, |it, acts| it.asked(now, asker, record, acts));
            }
            (ErrorReply::TYPE, Peer::Link(link)) => {
                if let Ok(refusal) = Refusal::from_record(record) {
                    self.refused(now, link, record.request_id(), &refusal, effects);
                }
            }
            // An answer to an answer would never end.
            (ErrorReply::TYPE, _) => {}
            _ => {
                let name = record.layout().name;
                let text = format!("a storage node does not answer {name}");
                let code = ErrorCode::UnknownType;
                self.refuse(asker, Refusal::new(code, asker.message_type, text), effects);
            }
        }
    }

    /// A master answered: where the ring is newer than before, everything is looked at anew.
    fn master_answered(&mut self, now: Instant, record: &Record<'_>) {
        let before = self.membership.version();
        self.membership.answered(now, record);
        let version = self.membership.version();
        if version > before {
            self.reconcile.restart(now, version, self.works.puts());
            self.expectations.clear();
        }
    }

    /// Somebody refused what this node asked.
    fn refused(
        &mut self,
        now: Instant,
        link: Link,
        request_id: RequestId,
        refusal: &Refusal,
        effects: &mut Vec<Effect>,
    ) {
        if self.fetches.wanted(link, request_id).is_some() {
            return self.refused_elsewhere(now, request_id, refusal.code, effects);
        }
        if self.is_register_line(link) {
            return self.with_registers(now, effects, |it, acts| {
                it.refused(now, request_id, refusal, acts);
            });
        }
        if self.reconcile.owns(link) {
            let refused = self.with_reconcile(now, effects, |it, scene| {
                it.refused(scene, link, request_id, refusal)
            });
            if refused == Some(true) {
                self.membership.saw(now, self.membership.version().next());
            }
            return;
        }
        self.membership.refused(now, link, request_id, refusal, effects);
    }

    /// A block that is to be handed over was read.
    fn hand_read(
        &mut self,
        now: Instant,
        ticket: Ticket,
        (node, block): (NodeId, BlockId),
        result: &Result<Found, ReadError>,
        effects: &mut Vec<Effect>,
    ) {
        self.works.end(ticket);
        self.with_reconcile(now, effects, |it, scene| {
            it.read(scene, ticket, (node, block), result.is_ok());
        });
        match result {
            Err(ReadError::Damaged) => self.damaged(now, block, None),
            // Forgotten meanwhile: there is nothing to hand over.
            Err(ReadError::NotFound) => self.reconcile.lost(block),
            _ => {}
        }
    }
}

fn envelope(asker: Asker) -> Envelope {
    Envelope { request_id: asker.request_id.0, ..Envelope::default() }
}
