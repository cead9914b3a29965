//! What a member asks of its disk, and what the disk answers.
//!
//! Values that logic makes and an edge carries out. Deliberately without any doing: `disk.rs` does.

use std::sync::Arc;

use proto::ids::LogIndex;
use raft::eraftpb::Entry;

use crate::ids::{BatchId, Term, TransferId};
use crate::logic::SnapshotHead;

/// Work for the disk. Those that concern the log are done in order; a snapshot may be written
/// beside them.
#[derive(Clone, Debug)]
pub enum Job<P> {
    /// Make changes to the log durable. Answered by [`Done::Persisted`]. Several may be given
    /// before the first is answered; they may share one sync.
    Persist(Batch),
    /// Entries up to here are not needed any more. Not answered.
    Compact {
        /// The last entry that may go.
        through: LogIndex,
    },
    /// Write a snapshot of this member's own. Answered by [`Done::SnapshotWritten`] or
    /// [`Done::SnapshotFailed`].
    WriteSnapshot {
        /// What stands beside the state.
        head: SnapshotHead,
        /// The state.
        state: P,
    },
    /// Write a snapshot that the leader sent. Answered by [`Done::SnapshotStored`] or
    /// [`Done::SnapshotFailed`].
    StoreSnapshot {
        /// The last entry that it contains.
        index: LogIndex,
        /// That entry's term.
        term: Term,
        /// The bytes of the file.
        content: Arc<Vec<u8>>,
    },
    /// Read a piece of a snapshot for another member. Answered by [`Done::SnapshotRead`].
    ReadSnapshot {
        /// For which sending.
        transfer: TransferId,
        /// Which snapshot.
        index: LogIndex,
        /// Its last entry's term.
        term: Term,
        /// First byte.
        offset: u64,
        /// How many bytes.
        length: usize,
    },
}

/// What the disk did. The driver hands it to the member as [`crate::Event::Disk`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// This batch and all before it survive a power loss.
    Persisted {
        /// The batch.
        batch: BatchId,
    },
    /// A snapshot of this member's own is durable.
    SnapshotWritten {
        /// The last entry that it contains.
        index: LogIndex,
        /// Bytes of the file.
        length: u64,
    },
    /// A received snapshot is durable.
    SnapshotStored {
        /// The last entry that it contains.
        index: LogIndex,
    },
    /// A snapshot could not be written, for instance because the disk is full. Nothing is lost: the
    /// log still has what it would have replaced.
    SnapshotFailed {
        /// Which.
        index: LogIndex,
        /// Why.
        error: String,
    },
    /// A piece of a snapshot.
    SnapshotRead {
        /// For which sending.
        transfer: TransferId,
        /// First byte.
        offset: u64,
        /// The piece; `None` where the snapshot is gone or cannot be read.
        bytes: Option<Vec<u8>>,
    },
    /// How much room the disk has for the log, where that changed.
    Room {
        /// How much.
        room: Room,
        /// What the disk said.
        text: String,
    },
    /// The log could not be written or synced. The member stops: after a failed sync nobody knows
    /// what is on the disk, and a second sync may succeed without having written it.
    Failed {
        /// Why.
        error: String,
    },
}

/// How much room there is for the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Room {
    /// As much as is needed.
    #[default]
    Enough,
    /// The rest of the file in use, a few MiB, and none for another file.
    Short,
    /// None: what was given to the disk waits there until there is some.
    Gone,
}

/// What a crash must not take back of a member's vote, term and commit index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HardState {
    pub(crate) term: u64,
    pub(crate) vote: u64,
    pub(crate) commit: u64,
}

/// Changes to the log on disk that belong together.
#[derive(Clone, Debug)]
pub struct Batch {
    pub(crate) id: BatchId,
    /// The log begins anew after a snapshot with this index and term.
    pub(crate) reset: Option<(u64, u64)>,
    pub(crate) hard: HardState,
    /// Consecutive. They replace whatever the log has from the first one's index on.
    pub(crate) entries: Vec<Entry>,
}

impl Batch {
    /// Its number, which [`Done::Persisted`] names.
    #[must_use]
    pub fn id(&self) -> BatchId {
        self.id
    }

    /// Bytes of the entries' content.
    #[must_use]
    pub fn size(&self) -> usize {
        self.entries.iter().map(|entry| entry.data.len()).sum()
    }

    /// Number of entries.
    #[must_use]
    pub fn entry_count(&self) -> usize {
        self.entries.len()
    }
}
