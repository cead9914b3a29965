//! What is durable on this node: stores blocks in volumes and files of their own, finds them again
//! after a crash, and reads them back verified.
//!
//! Synchronous and without threads: the disk thread calls [`Disk::store`] and its like, pool threads
//! call [`Reader::read`], the simulator calls both. Every access goes through [`Files`]. The order
//! of writes and syncs is explained in `docs/decisions/storage-disk.md`. Further parts of [`Disk`]
//! are in `own_files.rs`, `append.rs`, `forget.rs` and `compaction.rs`. Deliberately not here: who
//! may store what, and what to answer (`logic/`).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use node::files::Files;
use proto::digest::verify;
use proto::ids::BlockId;
use proto::limits;
use proto::status::BlockKind;

use crate::append::Purpose;
use crate::compaction::Compaction;
use crate::logic::Ticket;
use crate::reader::Shared;
pub use crate::reader::{Block, Held, ReadError, Reader};
pub use crate::recovery::Recovery;
use crate::recovery::{Start, Tail, list_volumes};
use crate::removed::Removed;
use crate::reserve::Reserve;
use crate::space::Space;
use crate::volume::{Bytes, Draft};

/// Bytes that are written to a volume with one sync at most: what a crash may leave to be cut.
const GROUP_BYTES: usize = 8 << 20;

/// Blocks that one node keeps: what bounds the memory of its index (2.4 GB).
const BLOCKS_PER_NODE: usize = 32 << 20;

/// What lies in a volume, and when it is sealed and the next one begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskLimits {
    /// Longest block that lies in a volume; a longer one has a file of its own.
    pub inline_bytes: usize,
    /// Zeros are written ahead of small writes by this much.
    pub prepared_bytes: usize,
    /// Threads that write the files of large blocks; with 1 the caller's, so that the order of
    /// operations is always the same.
    pub file_threads: usize,
    /// Bytes of a volume; at most 128 GiB, so that offsets fit. A write of deletes or of what is
    /// compacted may exceed it.
    pub volume_bytes: u64,
    /// Records of a volume, which bounds its table; exceeded likewise.
    pub volume_records: usize,
    /// Blocks with files of their own in a volume's folder, which bounds what has to be listed.
    pub volume_files: usize,
    /// Room that is kept for deleting and compacting when the disk is full; at most a 16th of what
    /// is free when it is made.
    pub reserve_bytes: u64,
    /// Bytes that one step of compaction moves.
    pub step_bytes: usize,
}

impl Default for DiskLimits {
    fn default() -> DiskLimits {
        DiskLimits {
            // Above this the two more syncs weigh little beside the bytes (eyeballed).
            inline_bytes: 256 << 10,
            // A sync that has no room to allocate takes 152 µs instead of 238 µs (measured, ext4,
            // 4 KiB). The step is eyeballed.
            prepared_bytes: 1 << 20,
            file_threads: 4,
            volume_bytes: 256 << 20,
            volume_records: 1 << 18,
            volume_files: 4096,
            // Half for deletes of 65,536 blocks, half for a step of compaction.
            reserve_bytes: 8 << 20,
            // With its last block well below half of the reserve. A put waits for a step (5 to
            // 10 ms, eyeballed).
            step_bytes: 2 << 20,
        }
    }
}

/// Why the disk's content cannot be used at all.
#[derive(Debug, thiserror::Error)]
#[error("{operation} in {}", folder.display())]
pub struct DiskError {
    operation: &'static str,
    folder: PathBuf,
    source: io::Error,
}

/// A block to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// Returned with the outcome.
    pub ticket: Ticket,
    /// Its name.
    pub block: BlockId,
    /// The context of its digest.
    pub kind: BlockKind,
    /// Round that it is stamped with; where the block is here already the higher one counts.
    pub stamp: u64,
    /// Replicas that it wants, 0 for the cluster's default; the higher one counts likewise.
    pub replica_count: u8,
    /// Its bytes.
    pub content: Vec<u8>,
}

impl Put {
    /// What it raises a block to that is here.
    fn touch(&self) -> Touch {
        Touch { block: self.block, stamp: self.stamp, replica_count: self.replica_count }
    }
}

/// What a block that is here is raised to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch {
    /// Which.
    pub block: BlockId,
    /// Round that it is stamped with at least.
    pub stamp: u64,
    /// Replicas that it wants at least.
    pub replica_count: u8,
}

/// A block that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// True where it was durable before.
    pub was_present: bool,
}

/// Why a block was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PutError {
    /// Its bytes are those of another block.
    #[error("the bytes do not have the digest that the block's UUID says")]
    WrongDigest,
    /// More bytes than a block of its kind may have.
    #[error("the block is larger than blocks of its kind may be")]
    TooLarge,
    /// No room.
    #[error("the disk is full")]
    DiskFull,
    /// The disk failed. After a failed sync nothing more is stored until the node starts again.
    #[error("the disk failed; see the node's log")]
    Failed,
}

/// The outcome of a [`Put`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutDone {
    /// Which.
    pub ticket: Ticket,
    /// What became of it. `Ok` means durable.
    pub result: Result<Stored, PutError>,
}

/// The writing side. There is one for a data folder.
pub struct Disk {
    pub(crate) shared: Arc<Shared>,
    pub(crate) limits: DiskLimits,
    pub(crate) tail: Tail,
    /// What is live in which volume.
    pub(crate) space: Space,
    pub(crate) removed: Removed,
    pub(crate) reserve: Reserve,
    /// The volume that is being compacted.
    pub(crate) compaction: Option<Compaction>,
    /// Volumes from whose folders files were removed since the last volume was begun.
    pub(crate) unlinked: BTreeSet<u32>,
    recovery: Recovery,
    /// A sync failed: what it covered may or may not be on the disk, and trying again proves
    /// nothing.
    pub(crate) has_failed: bool,
    /// A put found no room, and none did since.
    pub(crate) is_short: bool,
    /// The last step of compaction did not succeed; there is none before something else is done.
    pub(crate) is_stalled: bool,
    pub(crate) buffer: Vec<u8>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk")
            .field("folder", &self.shared.folder)
            .field("volume", &self.tail.volume)
            .field("end", &self.tail.end)
            .finish_non_exhaustive()
    }
}

impl Disk {
    /// Opens the folder, which must exist, and recovers what it holds: afterwards every block that
    /// was ever acknowledged, was not deleted and is not damaged is there, and everything there is
    /// durable.
    ///
    /// # Errors
    /// Where the folder cannot be read or written.
    ///
    /// # Panics
    /// Where the limits make no sense.
    pub fn open(
        files: Arc<dyn Files>,
        folder: &Path,
        limits: DiskLimits,
    ) -> Result<Disk, DiskError> {
        assert!(limits.volume_bytes <= 128 << 30, "offsets of a volume have 32 bits");
        assert!(limits.volume_records > 0 && limits.volume_files > 0 && limits.volume_bytes > 0);
        let failed =
            |operation| move |source| DiskError { operation, folder: folder.to_owned(), source };
        let parent = folder.to_owned();
        let folder_of_volumes = folder.join("volumes");
        files.create_dir_all(&folder_of_volumes).map_err(failed("make the folder of volumes"))?;
        files.sync_dir(&parent).map_err(failed("sync the folder"))?;
        let shared = Shared::new(files, folder_of_volumes);
        let volumes = list_volumes(&shared).map_err(failed("list the volumes"))?;
        let removed = Removed::read(&shared);
        let removed = removed.map_err(failed("read which volumes were removed"))?;
        let mut start = Start::new(removed);
        start.find_missing(&volumes);
        let (sealed, last) = match volumes.split_last() {
            Some((&last, sealed)) => (sealed, last),
            None => (&[][..], 0),
        };
        for &volume in sealed {
            start.recover_sealed(&shared, volume).map_err(failed("read a sealed volume"))?;
        }
        let tail = start.recover_tail(&shared, last);
        let tail = tail.map_err(failed("recover the last volume"))?;
        let checked = start.check_own_files(&shared, last);
        checked.map_err(failed("look after the files of large blocks"))?;
        let Start { space, recovery, removed, .. } = start;
        shared.damaged_count.store(recovery.damaged_count, Ordering::Relaxed);
        let free = shared.files.free_bytes(&shared.folder).unwrap_or(u64::MAX);
        let wanted = limits.reserve_bytes.min(free / 16);
        let reserve = Reserve::open(&*shared.files, &shared.reserve_path(), wanted);
        let reserve = reserve.map_err(failed("keep a reserve"))?;
        Ok(Disk {
            shared: Arc::new(shared),
            limits,
            tail,
            space,
            removed,
            reserve,
            compaction: None,
            unlinked: BTreeSet::new(),
            recovery,
            has_failed: false,
            is_short: false,
            is_stalled: false,
            buffer: Vec::new(),
        })
    }

    /// The reading side.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader { shared: Arc::clone(&self.shared) }
    }

    /// What [`Disk::open`] found.
    #[must_use]
    pub fn recovery(&self) -> Recovery {
        self.recovery
    }

    /// Stores blocks and returns when they are durable: all small ones with one sync of the
    /// volume (of each 8 MiB), large ones with one of each file and one of their folder before
    /// it. Blocks are visible to readers only then. Those that were here before are raised to the
    /// put's stamp and number of replicas, with one further sync where any rises.
    pub fn store(&mut self, puts: Vec<Put>) -> Vec<PutDone> {
        self.is_stalled = false;
        let mut done = Vec::with_capacity(puts.len());
        let mut waiting: Vec<Put> = Vec::new();
        let mut present: Vec<Put> = Vec::new();
        let mut copies: Vec<Put> = Vec::new();
        let mut named: BTreeMap<BlockId, usize> = BTreeMap::new();
        for put in puts {
            match self.check(&put) {
                Err(error) => done.push(PutDone { ticket: put.ticket, result: Err(error) }),
                Ok(true) => present.push(put),
                Ok(false) => match named.get(&put.block).and_then(|&at| waiting.get_mut(at)) {
                    None => {
                        named.insert(put.block, waiting.len());
                        waiting.push(put);
                    }
                    Some(first) => {
                        first.stamp = first.stamp.max(put.stamp);
                        first.replica_count = first.replica_count.max(put.replica_count);
                        copies.push(put);
                    }
                },
            }
        }
        let mut rest = &waiting[..];
        while !rest.is_empty() {
            if let Err(error) = self.make_room(Purpose::Put) {
                let failed = |put: &Put| PutDone { ticket: put.ticket, result: Err(error) };
                done.extend(rest.iter().map(failed));
                break;
            }
            let (group, behind) = rest.split_at(self.group_size(rest));
            self.store_group(group, &mut done);
            rest = behind;
        }
        for copy in copies {
            if self.shared.get(copy.block).is_some() {
                present.push(copy);
                continue;
            }
            let first = waiting.iter().find(|put| put.block == copy.block);
            let outcome = done.iter().find(|it| first.is_some_and(|f| f.ticket == it.ticket));
            let result = outcome.map_or(Err(PutError::Failed), |outcome| outcome.result);
            done.push(PutDone { ticket: copy.ticket, result });
        }
        if !waiting.is_empty() {
            self.is_short = done.iter().any(|done| done.result == Err(PutError::DiskFull));
        }
        self.raise_present(present, &mut done);
        done
    }

    fn raise_present(&mut self, present: Vec<Put>, done: &mut Vec<PutDone>) {
        if present.is_empty() {
            return;
        }
        let touches: Vec<Touch> = present.iter().map(Put::touch).collect();
        let raised = self.raise(&touches);
        let mut gone = Vec::new();
        for (put, raised) in present.into_iter().zip(raised) {
            let result = match raised {
                Ok(true) => Ok(Stored { was_present: true }),
                Ok(false) => {
                    gone.push(put);
                    continue;
                }
                Err(error) => Err(error),
            };
            done.push(PutDone { ticket: put.ticket, result });
        }
        if !gone.is_empty() {
            // A read found them damaged just now. Each time fewer are here.
            done.extend(self.store(gone));
        }
    }

    /// True where the block is there already.
    fn check(&self, put: &Put) -> Result<bool, PutError> {
        let largest = match put.kind {
            BlockKind::Content => limits::BLOCK_BYTES,
            BlockKind::Manifest => limits::WHOLE_FILE_BYTES,
        };
        if put.content.len() > largest {
            return Err(PutError::TooLarge);
        }
        if verify(put.kind, put.block, &put.content).is_err() {
            return Err(PutError::WrongDigest);
        }
        let index = self.shared.index.read().unwrap_or_else(PoisonError::into_inner);
        if index.contains(put.block) {
            return Ok(true);
        }
        if self.has_failed {
            return Err(PutError::Failed);
        }
        if index.len() >= BLOCKS_PER_NODE {
            return Err(PutError::DiskFull);
        }
        Ok(false)
    }

    /// Whether a block gets a file of its own.
    pub(crate) fn is_own(&self, put: &Put) -> bool {
        put.content.len() > self.limits.inline_bytes
    }

    /// How many of `puts`, at least one, go into the volume with the next sync.
    fn group_size(&self, puts: &[Put]) -> usize {
        let room = usize::try_from(self.limits.volume_bytes.saturating_sub(self.tail.end))
            .unwrap_or(usize::MAX);
        let mut room = room.min(GROUP_BYTES);
        let mut records = self.limits.volume_records.saturating_sub(self.tail.records.len());
        let mut files = self.limits.volume_files.saturating_sub(self.tail.file_count);
        let mut count = 0;
        for put in puts {
            let is_own = self.is_own(put);
            if count > 0 && (room == 0 || records == 0 || (is_own && files == 0)) {
                break;
            }
            room = room.saturating_sub(if is_own { 64 } else { put.content.len() + 64 });
            records = records.saturating_sub(1);
            files = files.saturating_sub(usize::from(is_own));
            count += 1;
        }
        count
    }

    fn store_group(&mut self, puts: &[Put], done: &mut Vec<PutDone>) {
        let mut results = vec![Ok(()); puts.len()];
        self.write_own_files(puts, &mut results);
        let mut batch = self.batch();
        let mut bytes = 0;
        let mut count = 0;
        for (put, _) in puts.iter().zip(&results).filter(|(_, result)| result.is_ok()) {
            batch.block(&Draft {
                block: put.block,
                kind: put.kind,
                length: put.content.len() as u32,
                stamp: put.stamp,
                replica_count: put.replica_count,
                bytes: if self.is_own(put) {
                    Bytes::OwnFile(self.tail.volume)
                } else {
                    Bytes::Inline(&put.content)
                },
            });
            count += 1;
            bytes += put.content.len() as u64;
        }
        match self.append(batch, Purpose::Put) {
            Ok(()) => {
                self.shared.put_count.fetch_add(count, Ordering::Relaxed);
                self.shared.put_bytes.fetch_add(bytes, Ordering::Relaxed);
                let own = puts.iter().zip(&results);
                let own = own.filter(|(put, result)| result.is_ok() && self.is_own(put)).count();
                self.tail.file_count += own;
            }
            Err(error) => {
                for (put, result) in puts.iter().zip(&mut results) {
                    if result.is_ok() && self.is_own(put) && !self.has_failed {
                        // Without its record the file does not count; only its room matters.
                        // After a failed sync nobody knows whether the record is there.
                        let path = self.shared.own_path(self.tail.volume, put.block);
                        let _ = self.shared.files.remove(&path);
                    }
                    *result = result.and(Err(error));
                }
            }
        }
        done.extend(puts.iter().zip(results).map(|(put, result)| PutDone {
            ticket: put.ticket,
            result: result.map(|()| Stored { was_present: false }),
        }));
    }

    /// What a failed operation means for a put.
    pub(crate) fn put_error(&self, error: &io::Error, operation: &'static str) -> PutError {
        if node::files::is_full(error) {
            tracing::warn!(%error, operation, "the disk is full");
            return PutError::DiskFull;
        }
        tracing::error!(%error, operation, "the disk failed");
        PutError::Failed
    }

    pub(crate) fn sync_failed(&mut self, error: &io::Error) -> PutError {
        tracing::error!(%error, "a sync failed; nothing more is stored until the next start");
        self.has_failed = true;
        PutError::Failed
    }
}
