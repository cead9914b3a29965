//! What happens to a storage node and what it wants done: the words between its logic and the
//! edges, which `edge.rs`, the disk thread and the simulator perform.

use node::logic::network::{NetworkEffect, NetworkEvent, Peer};
use proto::ids::{BlockId, ClusterId, FileId, RequestId, RingVersion};
use proto::manifest::Manifest;
use proto::messages::file::StorageCounters;
use proto::status::BlockKind;

use crate::disk::{Held, Put, PutDone, PutError, ReadError, Touch};
use crate::registers::{Job, JobDone};

/// Names a piece of work of the edges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

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
    /// [`Effect::Touch`] is done.
    Touched {
        /// Which.
        ticket: Ticket,
        /// For each block whether it is here, durably with what it was raised to.
        present: Vec<bool>,
    },
    /// [`Effect::Delete`] is done.
    Deleted {
        /// Which.
        ticket: Ticket,
        /// How many of the blocks were here; after an error they may or may not be.
        result: Result<u64, PutError>,
    },
    /// [`Effect::List`] is done.
    Listed {
        /// Which.
        ticket: Ticket,
        /// What is held, ids ascending.
        held: Vec<Held>,
        /// Number of all blocks that this node holds.
        total: u64,
    },
    /// [`Effect::Verify`] is done.
    Verified {
        /// Which.
        ticket: Ticket,
        /// Whether the bytes are right.
        result: Result<(), ReadError>,
    },
    /// [`Effect::Measure`] is done.
    Measured {
        /// Which.
        ticket: Ticket,
        /// What was measured.
        space: Space,
    },
    /// [`Effect::Registers`] is done.
    RegistersDone(JobDone),
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
    /// As a `block_put` record that hands the block over to another storage node.
    Handed {
        /// By which version of the ring.
        ring_version: RingVersion,
        /// The block's stamp here.
        stamp: u64,
        /// Replicas that it wants.
        replica_count: u8,
    },
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
    /// Durably raise the stamps and replica counts of those blocks that are here; answered by
    /// [`Event::Touched`]. Done in order with [`Effect::Put`] and [`Effect::Delete`].
    Touch {
        /// Returned with the answer.
        ticket: Ticket,
        /// The blocks.
        items: Vec<Touch>,
    },
    /// Durably forget blocks; answered by [`Event::Deleted`].
    Delete {
        /// Returned with the answer.
        ticket: Ticket,
        /// The blocks.
        blocks: Vec<BlockId>,
    },
    /// Say which blocks are held; answered by [`Event::Listed`].
    List {
        /// Returned with the answer.
        ticket: Ticket,
        /// Those behind this one; all where there is none.
        after: Option<BlockId>,
        /// How many at most.
        limit: usize,
    },
    /// Read a block and check its digest; answered by [`Event::Verified`].
    Verify {
        /// Returned with the answer.
        ticket: Ticket,
        /// The block.
        block: BlockId,
    },
    /// Make a change of registers durable; answered by [`Event::RegistersDone`]. Done in order.
    Registers(Job),
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
