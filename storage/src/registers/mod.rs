//! What is durable of the registers on this node: one log, group commit, and a rewriting of the
//! log where most of it is superseded.
//!
//! - `record.rs`: how a change lies in the log; `log.rs`: the file, its recovery after a crash
//! - [`store`]: changes become durable together; [`thread`]: the thread that does it
//!
//! Every access goes through [`node::files::Files`]. Who may change what is
//! [`crate::logic`]'s matter, which keeps what is durable in memory and answers from there. The
//! protocol, with reasons: `docs/decisions/registers.md`.

mod log;
mod record;
mod rewrite;
pub mod store;
pub mod thread;

use std::sync::Arc;

use proto::ids::RingVersion;
use proto::register::{Part, Tag};

use crate::logic::Ticket;

/// A copy of a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register {
    /// Which.
    pub address: u64,
    /// What orders it among the writes of this register.
    pub tag: Tag,
    /// Its bytes; at most [`proto::limits::REGISTER_VALUE_BYTES`].
    pub value: Arc<[u8]>,
}

/// A change that is to become durable. Each may be made again without further effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// To keep copies, each where its tag is higher than the one that is there.
    Keep(Vec<Register>),
    /// Never again to serve a part under this version of the ring, nor under an older one.
    Seal {
        /// The part.
        part: Part,
        /// The version.
        version: RingVersion,
    },
    /// [`Change::Seal`], and to forget copies: the part is elsewhere.
    Forget {
        /// The part.
        part: Part,
        /// The version.
        version: RingVersion,
        /// The registers.
        addresses: Vec<u64>,
    },
}

/// A change with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Returned with the outcome.
    pub ticket: Ticket,
    /// What is to become durable.
    pub change: Change,
}

/// What became of a [`Job`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobDone {
    /// Which.
    pub ticket: Ticket,
    /// `Ok` means durable.
    pub result: Result<(), ChangeError>,
}

/// Why a change was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// As many registers, or bytes of them, as a node keeps.
    #[error("this node keeps as many registers as it may; add storage nodes, or write fewer bytes")]
    Full,
    /// No room.
    #[error("the disk is full")]
    DiskFull,
    /// The disk failed. After a failed sync nothing more is stored until the node starts again.
    #[error("the disk failed; see the node's log")]
    Failed,
    /// What was durable once is not there any more.
    #[error(
        "the log of the registers is damaged; remove this node from the ring and let it join \
         again with an empty folder"
    )]
    Damaged,
}

/// What a start found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The copies, by address.
    pub registers: Vec<Register>,
    /// For each part that was ever sealed, the highest version under which it is not served.
    pub seals: Vec<(Part, RingVersion)>,
    /// Bytes that were cut: a write that was never acknowledged.
    pub cut_bytes: u64,
    /// Synced records are bad: the node must not take part in any majority.
    pub is_damaged: bool,
}
