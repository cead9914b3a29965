//! What Raft reads back: the entries since the last snapshot, in memory.
//!
//! Responsible for answering Raft. Not for durability: entries are here as soon as they are on
//! their way to the disk, and Raft is told separately when they arrived.

use std::cell::Cell;
use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{Error, GetEntriesContext, RaftState, StorageError, util};

/// Entries in memory and the snapshot before them.
pub(super) struct Storage {
    hard: HardState,
    /// The configuration at the start; Raft keeps later ones itself.
    start: ConfState,
    /// Index and term of the entry before the first one.
    before: (u64, u64),
    entries: VecDeque<Entry>,
    /// The newest snapshot that is durable here.
    snapshot: SnapshotMetadata,
    /// A member needs a snapshot that contains it, and there is none yet.
    wanted: Cell<bool>,
}

/// Bytes that an entry counts for beside its content (eyeballed).
const ENTRY_BYTES: usize = 64;

/// What an entry counts for where bytes of the log are counted.
pub(super) fn size(entry: &Entry) -> usize {
    entry.data.len() + ENTRY_BYTES
}

impl Storage {
    pub(super) fn new(hard: HardState, snapshot: SnapshotMetadata, entries: Vec<Entry>) -> Storage {
        let before = (snapshot.index, snapshot.term);
        let start = snapshot.get_conf_state().clone();
        let wanted = Cell::new(false);
        Storage { hard, start, before, entries: entries.into(), snapshot, wanted }
    }

    fn first(&self) -> u64 {
        self.before.0 + 1
    }

    pub(super) fn last(&self) -> u64 {
        self.before.0 + self.entries.len() as u64
    }

    pub(super) fn hard(&self) -> &HardState {
        &self.hard
    }

    pub(super) fn set_hard(&mut self, hard: HardState) {
        self.hard = hard;
    }

    /// Appends entries in place of what is there from the first one's index on.
    pub(super) fn append(&mut self, entries: &[Entry]) {
        if let Some(first) = entries.first() {
            assert!(
                (self.first()..=self.last() + 1).contains(&first.index),
                "entry {} does not continue the log {}..={}",
                first.index,
                self.first(),
                self.last()
            );
            self.entries.truncate((first.index - self.first()) as usize);
            self.entries.extend(entries.iter().cloned());
        }
    }

    /// Begins anew after a snapshot that was received.
    pub(super) fn install(&mut self, snapshot: SnapshotMetadata) {
        self.before = (snapshot.index, snapshot.term);
        self.entries.clear();
        self.hard.commit = self.hard.commit.max(snapshot.index);
        self.snapshot = snapshot;
        self.wanted.set(false);
    }

    /// A snapshot became durable here: forgets the entries that it contains, except the newest up
    /// to `trailing` bytes.
    pub(super) fn compact(&mut self, snapshot: SnapshotMetadata, trailing: usize) {
        let covered = snapshot.index.saturating_sub(self.before.0) as usize;
        let mut kept = 0;
        let mut drop = covered;
        for entry in self.entries.range(..covered).rev() {
            kept += size(entry);
            if kept > trailing {
                break;
            }
            drop -= 1;
        }
        if let Some(last) = drop.checked_sub(1).and_then(|at| self.entries.get(at)) {
            self.before = (last.index, last.term);
            self.entries.drain(..drop);
        }
        self.snapshot = snapshot;
        self.wanted.set(false);
    }

    /// Whether a newer snapshot is needed for somebody.
    pub(super) fn is_snapshot_wanted(&self) -> bool {
        self.wanted.get()
    }

    /// All entries in memory.
    pub(super) fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.iter()
    }

    pub(super) fn check_invariants(&self) {
        for (at, entry) in self.entries.iter().enumerate() {
            assert_eq!(entry.index, self.first() + at as u64);
        }
        let terms = self.entries.iter().map(|entry| entry.term);
        assert!(terms.is_sorted() && self.snapshot.index >= self.before.0);
    }
}

fn contains(configuration: &ConfState, id: u64) -> bool {
    let voters = configuration.voters.iter().chain(&configuration.voters_outgoing);
    voters.chain(&configuration.learners).any(|&other| other == id)
}

impl raft::Storage for Storage {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState { hard_state: self.hard.clone(), conf_state: self.start.clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let Some(from) = low.checked_sub(self.first()) else {
            return Err(Error::Store(StorageError::Compacted));
        };
        let to = high - self.first();
        let max_size = max_size.into();
        // Stops where the limit is reached instead of copying all and cutting afterwards; the exact
        // cut is Raft's own.
        let mut taken = Vec::new();
        let mut bytes = 0;
        for entry in self.entries.range(from as usize..to as usize) {
            taken.push(entry.clone());
            bytes += size(entry) as u64;
            if max_size.is_some_and(|most| bytes > most.saturating_mul(2)) {
                break;
            }
        }
        util::limit_size(&mut taken, max_size);
        Ok(taken)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.before.0 {
            return Ok(self.before.1);
        }
        let Some(at) = index.checked_sub(self.first()) else {
            return Err(Error::Store(StorageError::Compacted));
        };
        let entry = self.entries.get(at as usize).ok_or(Error::Store(StorageError::Unavailable))?;
        Ok(entry.term)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        // A member throws away a snapshot of a time before it was added.
        if self.snapshot.index < request_index
            || !contains(self.snapshot.get_conf_state(), to)
            || self.snapshot.index < self.before.0
        {
            self.wanted.set(true);
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        snapshot.set_metadata(self.snapshot.clone());
        Ok(snapshot)
    }
}
