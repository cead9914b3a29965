//! Where each block lies: an ordered map in memory.
//!
//! It is what the records of all volumes, applied in order, leave: at the start those of the tables
//! and of the last volume, later those that were just made durable. Nothing here is on the path of
//! a put. Deliberately without any file access; see `disk.rs`.

use std::collections::BTreeMap;
use std::ops::Bound;

use proto::ids::BlockId;
use proto::status::BlockKind;

use crate::space::Space;
use crate::volume::{HEAD_BYTES, Record, What, content_bytes};

/// Where a block's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the volume, behind its head.
    Inline {
        /// Where the head lies, in units of [`crate::volume::ALIGNMENT`].
        offset: u32,
    },
    /// In a file of its own.
    OwnFile {
        /// The volume in whose folder it is: the one that the block was first recorded in.
        folder: u32,
    },
}

/// What is known of a block that is durable here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: BlockKind,
    /// Replicas that it wants; 0 for the cluster's default.
    pub(crate) replica_count: u8,
    /// Where its record is.
    pub(crate) volume: u32,
    pub(crate) place: Place,
    /// Bytes of the block.
    pub(crate) length: u32,
    /// Round of the put, or the one that it was raised to: what sweeps go by.
    pub(crate) stamp: u64,
    /// The volume of the touch that raised it to what it is; [`NO_TOUCH`] where its own record
    /// says it.
    pub(crate) touched: u32,
}

/// No volume.
pub(crate) const NO_TOUCH: u32 = u32::MAX;

// With its id 48 bytes, in an ordered map about 75 (544 bytes for each node of it that holds at
// most 11 and 7.6 on average, and an inner node for every eighth).
const _: () = assert!(size_of::<Entry>() == 32);

impl Entry {
    /// Bytes of its record in the volume, padding included.
    pub(crate) fn record_bytes(&self) -> u64 {
        HEAD_BYTES + content_bytes(self)
    }

    /// Whether the other one says the same of where the block is.
    pub(crate) fn lies_as(&self, other: &Entry) -> bool {
        self.volume == other.volume && self.place == other.place
    }
}

/// The durable blocks, about 75 bytes of memory each.
#[derive(Debug, Default)]
pub(crate) struct Index {
    entries: BTreeMap<BlockId, Entry>,
    bytes: u64,
    /// Blocks that turned out to be damaged and that no record on the disk forgets yet. Each was an
    /// entry before, which bounds them.
    forgotten: Vec<(BlockId, Entry)>,
}

impl Index {
    pub(crate) fn get(&self, block: BlockId) -> Option<Entry> {
        self.entries.get(&block).copied()
    }

    pub(crate) fn contains(&self, block: BlockId) -> bool {
        self.entries.contains_key(&block)
    }

    /// Applies a record of `volume` and keeps account of what is live in which volume.
    pub(crate) fn apply(&mut self, volume: u32, record: &Record, space: &mut Space) {
        match record.what {
            What::Block(entry) => {
                self.bytes += u64::from(entry.length);
                space.live(volume, entry.record_bytes());
                if let Some(old) = self.entries.insert(record.block, entry) {
                    self.left(&old, space);
                    if old.volume != volume {
                        space.superseded(old.volume, record.block);
                    }
                }
            }
            What::Touch { stamp, replica_count } => {
                let Some(entry) = self.entries.get_mut(&record.block) else {
                    return;
                };
                entry.stamp = entry.stamp.max(stamp);
                entry.replica_count = entry.replica_count.max(replica_count);
                space.live(volume, HEAD_BYTES);
                space.dead(entry.touched, HEAD_BYTES);
                entry.touched = volume;
            }
            What::Delete { about } => {
                if let Some(entry) = self.entries.get(&record.block).copied()
                    && entry.volume == about
                {
                    self.entries.remove(&record.block);
                    self.left(&entry, space);
                }
                space.deleted(volume, record.block, about);
            }
        }
    }

    /// An entry is no longer in the map: its records are dead.
    fn left(&mut self, old: &Entry, space: &mut Space) {
        self.bytes -= u64::from(old.length);
        space.dead(old.volume, old.record_bytes());
        space.dead(old.touched, HEAD_BYTES);
    }

    /// Forgets a damaged block, in memory only; true if it still lay where `entry` says.
    pub(crate) fn forget(&mut self, block: BlockId, entry: &Entry) -> bool {
        let is_there = self.entries.get(&block).is_some_and(|it| it.lies_as(entry));
        if is_there {
            self.entries.remove(&block);
            self.bytes -= u64::from(entry.length);
            self.forgotten.push((block, *entry));
        }
        is_there
    }

    /// Whether damaged blocks wait to be forgotten on the disk too.
    pub(crate) fn has_forgotten(&self) -> bool {
        !self.forgotten.is_empty()
    }

    /// Takes up to `limit` of them.
    pub(crate) fn take_forgotten(&mut self, limit: usize) -> Vec<(BlockId, Entry)> {
        let count = self.forgotten.len().min(limit);
        self.forgotten.drain(..count).collect()
    }

    /// They could not be written.
    pub(crate) fn return_forgotten(&mut self, forgotten: Vec<(BlockId, Entry)>) {
        self.forgotten.splice(..0, forgotten);
    }

    /// The blocks behind `after` (from the first one without it), ascending.
    pub(crate) fn behind(
        &self,
        after: Option<BlockId>,
    ) -> impl Iterator<Item = (BlockId, &Entry)> + use<'_> {
        let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries.range((begin, Bound::Unbounded)).map(|(&block, entry)| (block, entry))
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of the blocks.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}
