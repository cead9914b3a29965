//! What is durable on this node: stores blocks in volumes and files of their own, finds them again
//! after a crash, and reads them back verified.
//!
//! Synchronous and without threads: the disk thread calls [`Disk::store`], pool threads call
//! [`Reader::read`], the simulator calls both. Every access goes through [`Files`]. The order of
//! writes and syncs is explained in `docs/decisions/storage-disk.md`. Deliberately not here: who
//! may store what, and what to answer (`logic/`).

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use node::files::{File, Files, Open};
use proto::digest::verify;
use proto::ids::BlockId;
use proto::limits;
use proto::status::BlockKind;

use crate::index::{Entry, Place};
use crate::logic::Ticket;
use crate::reader::Shared;
pub use crate::reader::{Block, ReadError, Reader};
pub use crate::recovery::Recovery;
use crate::recovery::{Tail, list_volumes, recover_sealed, recover_tail, write_table};
use crate::volume::{ALIGNMENT, append_record, record_bytes};

/// Bytes that are written to a volume with one sync at most: what a crash may leave to be cut.
const GROUP_BYTES: usize = 8 << 20;

/// The buffer of a write is kept for the next one up to this size.
const KEPT_BUFFER_BYTES: usize = 1 << 20;

/// A write above this is not slowed down by allocating as it goes (eyeballed).
const SMALL_WRITE_BYTES: usize = 128 << 10;

/// Blocks that one node keeps: what bounds the memory of its index (2 GB).
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
    /// Bytes of a volume; at most 128 GiB, so that offsets fit.
    pub volume_bytes: u64,
    /// Records of a volume, which bounds its table.
    pub volume_records: usize,
    /// Blocks with files of their own in a volume's folder, which bounds what has to be listed.
    pub volume_files: usize,
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
    /// Round that its record is stamped with.
    pub stamp: u64,
    /// Its bytes.
    pub content: Vec<u8>,
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
    shared: Arc<Shared>,
    limits: DiskLimits,
    tail: Tail,
    recovery: Recovery,
    /// A sync failed: what it covered may or may not be on the disk, and trying again proves
    /// nothing.
    has_failed: bool,
    buffer: Vec<u8>,
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
    /// was ever acknowledged and is not damaged is there, and everything there is durable.
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
        let mut recovery = Recovery { volume_count: volumes.len() as u64, ..Recovery::default() };
        let (sealed, last) = match volumes.split_last() {
            Some((&last, sealed)) => (sealed, last),
            None => (&[][..], 0),
        };
        for (expected, &volume) in (0..).zip(volumes.iter()) {
            if volume != expected {
                recovery.damaged_count += 1;
                tracing::error!(volume = expected, "a volume is missing");
                break;
            }
        }
        for &volume in sealed {
            recover_sealed(&shared, volume, &mut recovery)
                .map_err(failed("read a sealed volume"))?;
        }
        let tail = recover_tail(&shared, last, &mut recovery)
            .map_err(failed("recover the last volume"))?;
        shared.damaged_count.store(recovery.damaged_count, Ordering::Relaxed);
        let shared = Arc::new(shared);
        Ok(Disk { shared, limits, tail, recovery, has_failed: false, buffer: Vec::new() })
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
    /// it. Blocks are visible to readers only then.
    pub fn store(&mut self, puts: Vec<Put>) -> Vec<PutDone> {
        let mut done = Vec::with_capacity(puts.len());
        let mut waiting: Vec<Put> = Vec::new();
        let mut copies: Vec<Put> = Vec::new();
        let mut named = BTreeSet::new();
        for put in puts {
            match self.check(&put) {
                Err(error) => done.push(PutDone { ticket: put.ticket, result: Err(error) }),
                Ok(true) => {
                    let stored = Stored { was_present: true };
                    done.push(PutDone { ticket: put.ticket, result: Ok(stored) });
                }
                Ok(false) if named.insert(put.block) => waiting.push(put),
                Ok(false) => copies.push(put),
            }
        }
        let mut rest = &waiting[..];
        while !rest.is_empty() {
            let result = if self.is_full() { self.roll() } else { Ok(()) };
            if let Err(error) = result {
                let failed = |put: &Put| PutDone { ticket: put.ticket, result: Err(error) };
                done.extend(rest.iter().map(failed));
                break;
            }
            let (group, behind) = rest.split_at(self.group_size(rest));
            self.store_group(group, &mut done);
            rest = behind;
        }
        for copy in copies {
            let result = if self.shared.get(copy.block).is_some() {
                Ok(Stored { was_present: true })
            } else {
                let first = waiting.iter().find(|put| put.block == copy.block);
                let outcome = done.iter().find(|it| first.is_some_and(|f| f.ticket == it.ticket));
                outcome.map_or(Err(PutError::Failed), |outcome| outcome.result)
            };
            done.push(PutDone { ticket: copy.ticket, result });
        }
        done
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
    fn is_own(&self, put: &Put) -> bool {
        put.content.len() > self.limits.inline_bytes
    }

    fn is_full(&self) -> bool {
        self.tail.end >= self.limits.volume_bytes
            || self.tail.entries.len() >= self.limits.volume_records
            || self.tail.file_count >= self.limits.volume_files
    }

    /// How many of `puts`, at least one, go into the volume with the next sync.
    fn group_size(&self, puts: &[Put]) -> usize {
        let room = usize::try_from(self.limits.volume_bytes.saturating_sub(self.tail.end))
            .unwrap_or(usize::MAX);
        let mut room = room.min(GROUP_BYTES);
        let mut records = self.limits.volume_records.saturating_sub(self.tail.entries.len());
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
        let write_offset = self.tail.end;
        let mut entries = Vec::with_capacity(puts.len());
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let mut offset = write_offset;
        for (put, _) in puts.iter().zip(&results).filter(|(_, result)| result.is_ok()) {
            let is_own = self.is_own(put);
            let place = if is_own {
                Place::OwnFile
            } else {
                // `open` refuses volumes that could grow beyond what fits.
                Place::Inline { offset: (offset / ALIGNMENT) as u32 }
            };
            let entry = Entry {
                kind: put.kind,
                volume: self.tail.volume,
                place,
                length: put.content.len() as u32,
                stamp: put.stamp,
            };
            let content = if is_own { &[][..] } else { &put.content[..] };
            append_record(&mut buffer, write_offset, put.block, &entry, content);
            offset += record_bytes(&entry);
            entries.push((put.block, entry));
        }
        let written = if buffer.is_empty() { Ok(()) } else { self.write_records(&buffer) };
        match written {
            Ok(()) => self.count_stored(&entries),
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
        // A buffer that one large group needed is not kept for ever.
        if buffer.capacity() <= KEPT_BUFFER_BYTES {
            self.buffer = buffer;
        }
        done.extend(puts.iter().zip(results).map(|(put, result)| PutDone {
            ticket: put.ticket,
            result: result.map(|()| Stored { was_present: false }),
        }));
    }

    fn count_stored(&mut self, entries: &[(BlockId, Entry)]) {
        self.shared.insert(entries);
        for (_, entry) in entries {
            self.shared.put_count.fetch_add(1, Ordering::Relaxed);
            self.shared.put_bytes.fetch_add(u64::from(entry.length), Ordering::Relaxed);
            self.tail.file_count += usize::from(entry.place == Place::OwnFile);
        }
        self.tail.entries.extend_from_slice(entries);
    }

    /// Writes the files of large blocks and makes them and their names durable. They do not count
    /// before their records are in the volume.
    fn write_own_files(&mut self, puts: &[Put], results: &mut [Result<(), PutError>]) {
        let is_own = |(_, put): &(usize, &Put)| self.is_own(put);
        let own: Vec<(usize, &Put)> = puts.iter().enumerate().filter(is_own).collect();
        if own.is_empty() {
            return;
        }
        let folder = self.shared.own_files(self.tail.volume);
        if self.tail.file_count == 0 {
            let made = self.shared.files.create_dir_all(&folder);
            let made = made.map_err(|error| self.put_error(&error, "make a folder"));
            let made = made.and_then(|()| {
                let synced = self.shared.files.sync_dir(&self.shared.folder);
                synced.map_err(|error| self.sync_failed(&error))
            });
            if let Err(error) = made {
                own.iter().for_each(|&(at, _)| results[at] = Err(error));
                return;
            }
        }
        let own = own.into_iter().map(|(at, put)| {
            let path = self.shared.own_path(self.tail.volume, put.block);
            OwnFile { at, content: &put.content, temporary: path.with_extension("new"), path }
        });
        let own: Vec<OwnFile<'_>> = own.collect();
        let written = write_files(&*self.shared.files, &own, self.limits.file_threads);
        for (own, written) in own.iter().zip(written) {
            results[own.at] = match written {
                Ok(()) => {
                    let renamed = self.shared.files.rename(&own.temporary, &own.path);
                    renamed.map_err(|error| self.put_error(&error, "rename a large block"))
                }
                Err(WriteError::Write(error)) => {
                    let _ = self.shared.files.remove(&own.temporary);
                    Err(self.put_error(&error, "write a large block"))
                }
                Err(WriteError::Sync(error)) => Err(self.sync_failed(&error)),
            };
        }
        if let Err(error) = self.shared.files.sync_dir(&folder) {
            let error = self.sync_failed(&error);
            own.iter().for_each(|own| results[own.at] = Err(error));
        }
    }

    /// Appends records to the volume and syncs it.
    fn write_records(&mut self, buffer: &[u8]) -> Result<(), PutError> {
        if self.has_failed {
            return Err(PutError::Failed);
        }
        let start = self.tail.end;
        let end = start + buffer.len() as u64;
        if let Err(error) = self.tail.file.write_all_at(buffer, start) {
            // What was written of it must not stay in front of what is written next, nor name
            // files of large blocks that are about to be removed.
            let cut = self.tail.file.set_len(start).and_then(|()| self.tail.file.sync_data());
            cut.map_err(|error| self.sync_failed(&error))?;
            self.tail.prepared = start;
            return Err(self.put_error(&error, "write to a volume"));
        }
        if end > self.tail.prepared {
            self.tail.prepared = end;
            if buffer.len() <= SMALL_WRITE_BYTES {
                // Where this fails, the next write finds out for itself.
                if self.tail.file.write_all_at(&vec![0; self.limits.prepared_bytes], end).is_ok() {
                    self.tail.prepared = end + self.limits.prepared_bytes as u64;
                }
            }
        }
        self.tail.file.sync_data().map_err(|error| self.sync_failed(&error))?;
        self.tail.end = end;
        Ok(())
    }

    /// Seals the volume and begins the next one.
    fn roll(&mut self) -> Result<(), PutError> {
        let volume = self.tail.volume;
        // First: once there is a next volume, this one counts as cut to its end and synced.
        let cut = self.tail.file.set_len(self.tail.end);
        cut.map_err(|error| self.put_error(&error, "cut a volume"))?;
        self.tail.prepared = self.tail.end;
        self.tail.file.sync_data().map_err(|error| self.sync_failed(&error))?;
        let next = volume.checked_add(1).ok_or(PutError::DiskFull)?;
        let file = self.shared.files.open(&self.shared.volume_path(next), Open::Either);
        let file = file.and_then(|file| file.set_len(0).map(|()| file));
        let file = file.map_err(|error| self.put_error(&error, "begin a volume"))?;
        let synced = self.shared.files.sync_dir(&self.shared.folder);
        synced.map_err(|error| self.sync_failed(&error))?;
        // Damaged blocks were forgotten meanwhile and must not come back through the table.
        let is_current = |&(block, entry): &(BlockId, Entry)| self.shared.get(block) == Some(entry);
        let entries = std::mem::take(&mut self.tail.entries);
        let entries: Vec<_> = entries.into_iter().filter(is_current).collect();
        write_table(&self.shared, volume, self.tail.end, &entries);
        let file: Arc<dyn File> = Arc::from(file);
        self.tail =
            Tail { volume: next, file, end: 0, prepared: 0, entries: Vec::new(), file_count: 0 };
        Ok(())
    }

    /// What a failed operation means for a put.
    fn put_error(&self, error: &io::Error, operation: &'static str) -> PutError {
        if is_full(error) {
            tracing::warn!(%error, operation, "the disk is full");
            return PutError::DiskFull;
        }
        tracing::error!(%error, operation, "the disk failed");
        PutError::Failed
    }

    fn sync_failed(&mut self, error: &io::Error) -> PutError {
        tracing::error!(%error, "a sync failed; nothing more is stored until the next start");
        self.has_failed = true;
        PutError::Failed
    }
}

/// The file of a large block while it is being written.
struct OwnFile<'a> {
    /// Position of its put.
    at: usize,
    content: &'a [u8],
    temporary: PathBuf,
    path: PathBuf,
}

enum WriteError {
    Write(io::Error),
    Sync(io::Error),
}

impl OwnFile<'_> {
    fn write(&self, files: &dyn Files) -> Result<(), WriteError> {
        let file = files.open(&self.temporary, Open::Either).map_err(WriteError::Write)?;
        file.set_len(0).map_err(WriteError::Write)?;
        file.write_all_at(self.content, 0).map_err(WriteError::Write)?;
        file.sync_data().map_err(WriteError::Sync)
    }
}

/// Writes and syncs files, several at the same time: a disk is faster with more to do, and copying
/// megabytes into the page cache takes a processor longer than the sync takes the disk (measured).
fn write_files(
    files: &dyn Files,
    own: &[OwnFile<'_>],
    threads: usize,
) -> Vec<Result<(), WriteError>> {
    let write = |part: &[OwnFile<'_>]| part.iter().map(|own| own.write(files)).collect::<Vec<_>>();
    if threads <= 1 || own.len() <= 1 {
        return write(own);
    }
    std::thread::scope(|scope| {
        let parts = own.chunks(own.len().div_ceil(threads));
        let started = parts.map(|part| {
            let thread = std::thread::Builder::new().name("large blocks".into());
            // Where there is no further thread, this one does it.
            thread.spawn_scoped(scope, move || write(part)).map_err(|_| part)
        });
        let started: Vec<_> = started.collect();
        let ended = started.into_iter().map(|part| match part {
            Ok(thread) => thread.join().expect("writing a file does not panic"),
            Err(part) => write(part),
        });
        ended.flatten().collect()
    })
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}
