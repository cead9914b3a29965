//! What a storage node decides: which requests it takes on, what the disk is asked, what is
//! answered.
//!
//! Pure: time and events come in, effects go out. The bytes of blocks pass through only on their
//! way to the disk, moved; what is read waits at the edge under its ticket until it is answered
//! or discarded. How blocks lie on disk is `disk.rs`, who performs effects `edge.rs` and
//! `service.rs`.

mod admission;
mod assembly;
mod fetches;
mod membership;

use std::collections::BTreeMap;

use fastrand::Rng;
use node::logic::network::{Link, NetworkEffect, NetworkEvent, Peer, Sender};
use node::logic::refusal::Refusal;
use proto::ids::{BlockId, ClusterId, FileId, RequestId, RingVersion};
use proto::limits;
use proto::manifest::Manifest;
use proto::messages::file::{
    BlockContent, BlockGet, BlockPresence, BlockPut, BlockQuery, BlockStored, FileRequest,
    StorageCounters, StorageQuery, StorageSpace,
};
use proto::messages::node::{NodeRegistered, RingReply};
use proto::messages::session::ErrorReply;
use proto::record::{self, Envelope, Message, Record, RecordError};
use proto::status::{BlockKind, ErrorCode};
use proto::time::{Duration, Instant};
use proto::wire::{WireUuid, bytes_of, items_of};

use self::admission::Admission;
pub use self::admission::Bounds;
use self::assembly::Assembly;
use self::fetches::Fetches;
use self::membership::Membership;
pub use self::membership::Registration;
use crate::disk::{Put, PutDone, PutError, ReadError};

/// Names a piece of work of the edges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Blocks that one `block_query` may name.
const BLOCKS_PER_QUERY: usize = 1 << 16;

/// Longest delay that is told with `busy`; each refusal draws its own, so that the refused do not
/// come back together.
const BUSY_DELAY_MS: u64 = 50;

/// Bounds of a storage node's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageLimits {
    /// Blocks that are being stored.
    pub puts: Bounds,
    /// Blocks that are being read, and questions which of them are there.
    pub reads: Bounds,
    /// Whole files that are being gathered, each counted as 32 MiB.
    pub files: Bounds,
}

impl Default for StorageLimits {
    fn default() -> StorageLimits {
        const BLOCK: usize = limits::BLOCK_BYTES;
        StorageLimits {
            // A peer fills the disk's pipe alone; four of them wait for it together.
            puts: Bounds {
                peer_count: 1024,
                peer_bytes: 8 * BLOCK,
                count: 4096,
                bytes: 32 * BLOCK,
            },
            // The bytes of a read are known only when it is done: its count bounds it.
            reads: Bounds { peer_count: 64, peer_bytes: 0, count: 256, bytes: 0 },
            files: Bounds {
                peer_count: 2,
                peer_bytes: 2 * limits::WHOLE_FILE_BYTES,
                count: 8,
                bytes: 8 * limits::WHOLE_FILE_BYTES,
            },
        }
    }
}

/// What happens to a storage node.
#[derive(Debug)]
pub enum Event<'a> {
    /// The network has something.
    Network(NetworkEvent<'a>),
    /// [`Effect::Put`] is done.
    PutDone(PutDone),
    /// [`Effect::Read`] or [`Effect::Keep`] is done; what was found waits at the edge.
    ReadDone {
        /// Which.
        ticket: Ticket,
        /// What was found.
        result: Result<Found, ReadError>,
    },
    /// [`Effect::Query`] is done.
    Queried {
        /// Which.
        ticket: Ticket,
        /// For each block 1 or 0.
        present: Vec<u8>,
    },
    /// [`Effect::Measure`] is done.
    Measured {
        /// Which.
        ticket: Ticket,
        /// What was measured.
        space: Space,
    },
    /// A deadline passed.
    Tick,
}

/// What is known of a block whose bytes wait at the edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it is, as far as a whole file is asked for.
    pub holds: Holds,
    /// Bytes of the whole block.
    pub block_length: u64,
    /// Bytes that will be answered.
    pub answer_length: u64,
}

/// What a block is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holds {
    /// A file of one block, or a piece of a larger one.
    Content,
    /// A file of several blocks that may be answered as a whole.
    Manifest(Manifest),
    /// A file that is too large for that.
    LargeFile {
        /// Its bytes.
        length: u64,
    },
    /// It was stored as a manifest and is none that this version reads.
    NoManifest,
}

/// Room and counters as the edge knows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes of the file system.
    pub total_bytes: u64,
    /// Bytes that are free there.
    pub free_bytes: u64,
    /// The disk's counters; what was answered is counted in the logic.
    pub counters: StorageCounters,
}

/// How the bytes that are read wait at the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As a `block_content` record with a piece of the block.
    Record {
        /// First byte.
        offset: u64,
        /// Bytes; 0 for all from `offset` on.
        length: u64,
    },
    /// As they are, to be part of a file.
    Kept,
}

/// The answer to a `file_request`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileAnswer {
    /// Whom to.
    pub to: Peer,
    /// To which request.
    pub request_id: RequestId,
    /// True where the asker knows only the given struct.
    pub in_given_form: bool,
    /// The file.
    pub file: FileId,
    /// This node's ring version.
    pub ring_version: RingVersion,
    /// Its blocks in order.
    pub pieces: Vec<Ticket>,
}

/// What a storage node wants done.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Something of the network.
    Network(NetworkEffect),
    /// Store a block; answered by [`Event::PutDone`] when it is durable.
    Put(Put),
    /// Read a block and keep it in the given form; answered by [`Event::ReadDone`].
    Read {
        /// Under which it is kept.
        ticket: Ticket,
        /// The block.
        block: BlockId,
        /// In which form.
        form: Form,
    },
    /// Verify and keep the bytes of a block that another node sent; answered by
    /// [`Event::ReadDone`].
    Keep {
        /// Under which it is kept.
        ticket: Ticket,
        /// The block that it should be.
        block: BlockId,
        /// Of which kind.
        kind: BlockKind,
        /// Its bytes.
        content: Vec<u8>,
    },
    /// Find out which blocks are durable here; answered by [`Event::Queried`].
    Query {
        /// Returned with the answer.
        ticket: Ticket,
        /// The blocks.
        blocks: Vec<BlockId>,
    },
    /// Measure room and counters; answered by [`Event::Measured`].
    Measure {
        /// Returned with the answer.
        ticket: Ticket,
    },
    /// Send the record that is kept under a ticket.
    Answer {
        /// Whom to.
        to: Peer,
        /// To which request.
        request_id: RequestId,
        /// Where the record is kept; no longer afterwards.
        ticket: Ticket,
    },
    /// Compose a file of what is kept and send it.
    AnswerFile(FileAnswer),
    /// Forget what is kept under a ticket.
    Discard {
        /// Which.
        ticket: Ticket,
    },
    /// From now on this node belongs to a cluster: durably, and told to every peer.
    Join {
        /// Which.
        cluster: ClusterId,
    },
}

/// Who wants an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asker {
    peer: Peer,
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

/// What the edges are working on.
#[derive(Clone, Copy, Debug)]
enum Pending {
    Put { asker: Asker, block: BlockId, bytes: usize },
    Get { asker: Asker, version: RingVersion },
    Query { asker: Asker },
    Measure { asker: Asker },
    Piece { assembly: u64 },
}

/// The state machine of a storage node.
#[derive(Debug)]
pub struct Storage {
    membership: Membership,
    puts: Admission,
    reads: Admission,
    files: Admission,
    pending: BTreeMap<Ticket, Pending>,
    next_ticket: u64,
    assemblies: BTreeMap<u64, Assembly>,
    next_assembly: u64,
    fetches: Fetches,
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
        Storage {
            membership: Membership::new(registration, rng.fork()),
            puts: Admission::new(limits.puts),
            reads: Admission::new(reads),
            files: Admission::new(limits.files),
            pending: BTreeMap::new(),
            next_ticket: 0,
            assemblies: BTreeMap::new(),
            next_assembly: 0,
            fetches: Fetches::default(),
            get_count: 0,
            get_bytes: 0,
            rng,
        }
    }

    /// Decides what to do about one event. Never blocks, never fails; refusals are answers.
    pub fn handle(&mut self, now: Instant, event: Event<'_>, effects: &mut Vec<Effect>) {
        match event {
            Event::Network(event) => self.network(now, event, effects),
            Event::PutDone(done) => self.put_done(done, effects),
            Event::ReadDone { ticket, result } => self.read_done(now, ticket, result, effects),
            Event::Queried { ticket, present } => self.queried(ticket, &present, effects),
            Event::Measured { ticket, space } => self.measured(ticket, space, effects),
            Event::Tick => {}
        }
        let version = self.membership.version();
        let failed = self.fetches.tick(now, version, effects);
        self.fetched(failed, effects);
        self.membership.tick(now, effects);
    }

    /// When to call [`Storage::handle`] with [`Event::Tick`] if nothing else happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let deadlines = [self.fetches.next_deadline(), self.membership.next_deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// Walks the whole state and panics on a broken invariant.
    pub fn check_invariants(&self) {
        self.puts.check_invariants();
        self.reads.check_invariants();
        self.files.check_invariants();
        self.fetches.check_invariants();
        let count = |is: fn(&Pending) -> bool| self.pending.values().filter(|it| is(it)).count();
        let puts = count(|it| matches!(it, Pending::Put { .. }));
        let pieces = count(|it| matches!(it, Pending::Piece { .. }));
        assert_eq!(puts, self.puts.count(), "puts that are admitted and pending");
        assert_eq!(self.pending.len() - puts - pieces, self.reads.count(), "reads");
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

    /// Says in words what this node is doing and why it may be refusing.
    #[must_use]
    pub fn explain(&self) -> String {
        format!(
            "{}; {} puts, {} reads and {} whole files are going on",
            self.membership.explain(),
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
                    self.fetches_lost(now, link, effects);
                }
            }
            NetworkEvent::Masters { link, masters } => self.membership.named(link, &masters),
            NetworkEvent::Refused { link, code, text } => {
                tracing::warn!(?link, %code, text, "a node refuses this one");
                self.membership.lost(now, link, effects);
                self.fetches_lost(now, link, effects);
            }
            NetworkEvent::Joined { .. }
            | NetworkEvent::Gone { .. }
            | NetworkEvent::Overflowing { .. } => {}
        }
    }

    fn fetches_lost(&mut self, now: Instant, link: Link, effects: &mut Vec<Effect>) {
        let version = self.membership.version();
        let failed = self.fetches.lost(now, link, version, effects);
        self.fetched(failed, effects);
    }

    fn record(
        &mut self,
        now: Instant,
        sender: Sender,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let asker = Asker {
            peer: sender.peer,
            request_id: record.request_id(),
            in_given_form: record.is_given_form(),
            message_type: record.message_type(),
        };
        match (record.message_type(), sender.peer) {
            (BlockPut::TYPE, _) => self.block_put(now, asker, record, effects),
            (BlockGet::TYPE, _) => self.block_get(now, asker, record, effects),
            (BlockQuery::TYPE, _) => self.block_query(now, asker, record, effects),
            (FileRequest::TYPE, _) => self.file_request(asker, record, effects),
            (StorageQuery::TYPE, _) => self.storage_query(asker, effects),
            (BlockContent::TYPE, Peer::Link(link)) => {
                self.content_came(now, link, record, effects);
            }
            (NodeRegistered::TYPE | RingReply::TYPE, Peer::Link(_)) => {
                self.membership.answered(now, record);
            }
            (ErrorReply::TYPE, Peer::Link(link)) => match Refusal::from_record(record) {
                Ok(refusal) if self.fetches.wanted(link, record.request_id()).is_some() => {
                    self.refused_elsewhere(now, record.request_id(), refusal.code, effects);
                }
                Ok(refusal) => {
                    self.membership.refused(now, record.request_id(), &refusal, effects);
                }
                Err(_) => {}
            },
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

    fn block_put(
        &mut self,
        now: Instant,
        asker: Asker,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let (put, [content]) = match record.open::<BlockPut, 1>() {
            Ok(opened) => opened,
            Err(error) => return self.malformed(asker, &error, effects),
        };
        if !self.is_current(now, asker, RingVersion(put.ring_version), effects) {
            return;
        }
        let Some(kind) = BlockKind::from_wire(put.kind) else {
            let text = format!("there is no kind {} of blocks", put.kind);
            let refusal = Refusal::new(ErrorCode::Invalid, BlockPut::TYPE, text);
            return self.refuse(asker, refusal, effects);
        };
        let bytes = content.len();
        if !self.puts.admit(asker.peer, bytes) {
            return self.busy(asker, "as many blocks as the disk is given at once", effects);
        }
        let block = BlockId::from(put.block_uuid);
        let ticket = self.ticket(Pending::Put { asker, block, bytes });
        let content = content.to_vec();
        effects.push(Effect::Put(Put { ticket, block, kind, stamp: put.pin_round, content }));
    }

    fn put_done(&mut self, done: PutDone, effects: &mut Vec<Effect>) {
        let Some(Pending::Put { asker, block, bytes }) = self.pending.remove(&done.ticket) else {
            panic!("the disk stored a block under a ticket that no put has");
        };
        self.puts.release(asker.peer, bytes);
        let code = match done.result {
            Ok(stored) => {
                let stored = BlockStored {
                    envelope: envelope(asker),
                    block_uuid: block.to_wire(),
                    ring_version: self.membership.version().0,
                    was_present: u8::from(stored.was_present),
                    ..BlockStored::default()
                };
                return self.send(asker, record::encode(&stored, &[]), effects);
            }
            Err(PutError::WrongDigest) => ErrorCode::WrongDigest,
            Err(PutError::TooLarge) => ErrorCode::TooLarge,
            Err(PutError::DiskFull) => ErrorCode::DiskFull,
            Err(PutError::Failed) => ErrorCode::Unavailable,
        };
        let text = done.result.err().map(|error| error.to_string()).unwrap_or_default();
        self.refuse(asker, Refusal::new(code, BlockPut::TYPE, text), effects);
    }

    fn block_get(
        &mut self,
        now: Instant,
        asker: Asker,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let get: BlockGet = match record.read() {
            Ok(get) => get,
            Err(error) => return self.malformed(asker, &error, effects),
        };
        let version = RingVersion(get.ring_version);
        self.membership.saw(now, version);
        if !self.reads.admit(asker.peer, 0) {
            return self.busy(asker, "as many blocks as the disk is asked for at once", effects);
        }
        let ticket = self.ticket(Pending::Get { asker, version });
        let form = Form::Record { offset: get.offset, length: get.length };
        effects.push(Effect::Read { ticket, block: BlockId::from(get.block_uuid), form });
    }

    fn read_done(
        &mut self,
        now: Instant,
        ticket: Ticket,
        result: Result<Found, ReadError>,
        effects: &mut Vec<Effect>,
    ) {
        let (asker, version) = match self.pending.get(&ticket) {
            Some(&Pending::Piece { assembly }) => {
                return self.piece_done(now, ticket, assembly, result, effects);
            }
            Some(&Pending::Get { asker, version }) => (asker, version),
            _ => panic!("the disk read a block under a ticket that no read has"),
        };
        self.pending.remove(&ticket);
        self.reads.release(asker.peer, 0);
        match result {
            Ok(found) if asker.wants_answer() => {
                self.get_count += 1;
                self.get_bytes += found.answer_length;
                let (to, request_id) = (asker.peer, asker.request_id);
                effects.push(Effect::Answer { to, request_id, ticket });
            }
            Ok(_) => effects.push(Effect::Discard { ticket }),
            // By an older ring the asker may ask the wrong nodes: that is no "not found".
            Err(ReadError::NotFound) if version.0 != 0 && version < self.ring_version() => {
                self.stale_ring(asker, version, effects);
            }
            Err(error) => {
                let code = match error {
                    ReadError::NotFound => ErrorCode::NotFound,
                    ReadError::Range => ErrorCode::Invalid,
                    ReadError::Damaged | ReadError::Failed => ErrorCode::Unavailable,
                };
                let refusal = Refusal::new(code, asker.message_type, error.to_string());
                self.refuse(asker, refusal, effects);
            }
        }
    }

    fn block_query(
        &mut self,
        now: Instant,
        asker: Asker,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let (query, [blocks]) = match record.open::<BlockQuery, 1>() {
            Ok(opened) => opened,
            Err(error) => return self.malformed(asker, &error, effects),
        };
        if !self.is_current(now, asker, RingVersion(query.ring_version), effects) {
            return;
        }
        let blocks = items_of::<WireUuid>(blocks).unwrap_or_default();
        if blocks.len() > BLOCKS_PER_QUERY {
            let text = format!("a query names {BLOCKS_PER_QUERY} blocks at most");
            let refusal = Refusal::new(ErrorCode::TooLarge, BlockQuery::TYPE, text);
            return self.refuse(asker, refusal, effects);
        }
        if !self.reads.admit(asker.peer, 0) {
            return self.busy(asker, "as many blocks as the disk is asked for at once", effects);
        }
        let blocks = blocks.iter().map(|&block| BlockId::from(block)).collect();
        let ticket = self.ticket(Pending::Query { asker });
        effects.push(Effect::Query { ticket, blocks });
    }

    fn queried(&mut self, ticket: Ticket, present: &[u8], effects: &mut Vec<Effect>) {
        let Some(Pending::Query { asker }) = self.pending.remove(&ticket) else {
            panic!("the disk answered a query that there is not");
        };
        self.reads.release(asker.peer, 0);
        let presence = BlockPresence {
            envelope: envelope(asker),
            ring_version: self.membership.version().0,
            ..BlockPresence::default()
        };
        self.send(asker, record::encode(&presence, &[present]), effects);
    }

    fn storage_query(&mut self, asker: Asker, effects: &mut Vec<Effect>) {
        if !self.reads.admit(asker.peer, 0) {
            return self.busy(asker, "as much as the disk is asked for at once", effects);
        }
        let ticket = self.ticket(Pending::Measure { asker });
        effects.push(Effect::Measure { ticket });
    }

    fn measured(&mut self, ticket: Ticket, space: Space, effects: &mut Vec<Effect>) {
        let Some(Pending::Measure { asker }) = self.pending.remove(&ticket) else {
            panic!("the edge measured what nobody asked for");
        };
        self.reads.release(asker.peer, 0);
        let mut counters = space.counters;
        counters.get_count = self.get_count;
        counters.get_bytes = self.get_bytes;
        let answer = StorageSpace {
            envelope: envelope(asker),
            total_bytes: space.total_bytes,
            free_bytes: space.free_bytes,
            ..StorageSpace::default()
        };
        self.send(asker, record::encode(&answer, &[bytes_of(&[counters])]), effects);
    }

    /// Whether a request goes by a ring that is not older than this node's; refuses it otherwise.
    fn is_current(
        &mut self,
        now: Instant,
        asker: Asker,
        version: RingVersion,
        effects: &mut Vec<Effect>,
    ) -> bool {
        self.membership.saw(now, version);
        let own = self.membership.version();
        if own.0 == 0 {
            let text = "this node does not know the ring yet";
            let mut refusal = Refusal::new(ErrorCode::Unavailable, asker.message_type, text);
            refusal.retry_after = Duration::from_millis(1 + self.rng.u64(0..BUSY_DELAY_MS));
            self.refuse(asker, refusal, effects);
            return false;
        }
        if version < own {
            self.stale_ring(asker, version, effects);
            return false;
        }
        true
    }

    fn stale_ring(&self, asker: Asker, version: RingVersion, effects: &mut Vec<Effect>) {
        let own = self.membership.version();
        let text = format!("the ring has version {own}, the request goes by {version}");
        let refusal = Refusal::new(ErrorCode::StaleRing, asker.message_type, text);
        self.refuse(asker, refusal, effects);
    }

    fn busy(&mut self, asker: Asker, what: &str, effects: &mut Vec<Effect>) {
        let text = format!("{what} are in flight");
        let mut refusal = Refusal::new(ErrorCode::Busy, asker.message_type, text);
        refusal.retry_after = Duration::from_millis(1 + self.rng.u64(0..BUSY_DELAY_MS));
        self.refuse(asker, refusal, effects);
    }

    fn malformed(&self, asker: Asker, error: &RecordError, effects: &mut Vec<Effect>) {
        let refusal = Refusal::new(ErrorCode::Malformed, asker.message_type, error.to_string());
        self.refuse(asker, refusal, effects);
    }

    fn refuse(&self, asker: Asker, mut refusal: Refusal, effects: &mut Vec<Effect>) {
        refusal.refused_type = asker.message_type;
        self.send(asker, refusal.to_record(asker.request_id), effects);
    }

    fn send(&self, asker: Asker, record: Vec<u8>, effects: &mut Vec<Effect>) {
        if asker.wants_answer() {
            effects.push(Effect::Network(NetworkEffect::Send { to: asker.peer, record }));
        }
    }

    fn ticket(&mut self, pending: Pending) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.pending.insert(ticket, pending);
        ticket
    }
}

fn envelope(asker: Asker) -> Envelope {
    Envelope { request_id: asker.request_id.0, ..Envelope::default() }
}
