//! Writing to the last volume: records become durable, then the index learns them.

use std::io;
use std::sync::{Arc, PoisonError};

use node::files::{File, Open};

use crate::disk::{Disk, PutError};
use crate::index::Place;
use crate::recovery::{Tail, write_table};
use crate::volume::Batch;

/// The buffer of a write is kept for the next one up to this size.
const KEPT_BUFFER_BYTES: usize = 1 << 20;

/// A write above this is not slowed down by allocating as it goes (eyeballed).
const SMALL_WRITE_BYTES: usize = 128 << 10;

/// Damaged blocks that one write forgets at most.
const FORGOTTEN_PER_WRITE: usize = 4096;

/// What is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It needs room that nobody gives back soon.
    Put,
    /// It gives room back by and by, and may use half of the reserve.
    Delete,
    /// It gives back at once what it takes, and may use all of the reserve.
    Compact,
}

impl Disk {
    /// Sees to it that the next write has a volume to go to, and that what may not use the reserve
    /// finds it whole.
    pub(crate) fn make_room(&mut self, purpose: Purpose) -> Result<(), PutError> {
        if self.has_failed {
            return Err(PutError::Failed);
        }
        if purpose == Purpose::Put && !self.reserve.is_whole() {
            let filled = self.reserve.fill();
            filled.map_err(|error| self.put_error(&error, "fill the reserve"))?;
        }
        if !self.is_volume_full() {
            return Ok(());
        }
        match self.roll() {
            Err(PutError::DiskFull) if purpose != Purpose::Put => {
                let is_done = self.reserve.give_up(purpose) && self.roll().is_ok();
                if self.has_failed {
                    return Err(PutError::Failed);
                }
                if !is_done {
                    tracing::warn!("the last volume grows beyond its size for want of room");
                }
                Ok(())
            }
            result => result,
        }
    }

    fn is_volume_full(&self) -> bool {
        self.tail.end >= self.limits.volume_bytes
            || self.tail.records.len() >= self.limits.volume_records
            || self.tail.file_count >= self.limits.volume_files
    }

    /// An empty write to the last volume, but for damaged blocks that it forgets: in front of all
    /// else, so that nothing is put anew before.
    pub(crate) fn batch(&mut self) -> Batch {
        let buffer = std::mem::take(&mut self.buffer);
        let mut batch = Batch::new(self.tail.volume, self.tail.end, buffer);
        let mut index = self.shared.index.write().unwrap_or_else(PoisonError::into_inner);
        if index.has_forgotten() {
            batch.forgotten = index.take_forgotten(FORGOTTEN_PER_WRITE);
        }
        drop(index);
        for at in 0..batch.forgotten.len() {
            if let Some((block, entry)) = batch.forgotten.get(at).copied() {
                batch.delete(block, entry.volume);
            }
        }
        batch
    }

    /// Makes records durable, then visible. Nothing is visible where it fails.
    pub(crate) fn append(&mut self, batch: Batch, purpose: Purpose) -> Result<(), PutError> {
        let Batch { bytes, records, forgotten, .. } = batch;
        let mut written = Ok(());
        if !bytes.is_empty() {
            written = self.write_records(&bytes);
            if written == Err(PutError::DiskFull) && self.reserve.give_up(purpose) {
                written = self.write_records(&bytes);
            }
        }
        if written.is_ok() {
            self.shared.apply(self.tail.volume, &records, &mut self.space);
            self.tail.records.extend_from_slice(&records);
            for (block, entry) in forgotten {
                // The same write may have stored it anew, under the same name.
                let is_gone = self.shared.get(block).is_none_or(|new| new.place != entry.place);
                if let Place::OwnFile { folder } = entry.place
                    && is_gone
                {
                    self.remove_own_file(block, folder);
                }
            }
        } else {
            let mut index = self.shared.index.write().unwrap_or_else(PoisonError::into_inner);
            index.return_forgotten(forgotten);
        }
        // A buffer that one large group needed is not kept for ever.
        if bytes.capacity() <= KEPT_BUFFER_BYTES {
            self.buffer = bytes;
        }
        written
    }

    /// Appends to the volume and syncs it.
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
    pub(crate) fn roll(&mut self) -> Result<(), PutError> {
        let volume = self.tail.volume;
        // First: once there is a next volume, this one counts as cut to its end and synced.
        let cut = self.tail.file.set_len(self.tail.end);
        cut.map_err(|error| self.put_error(&error, "cut a volume"))?;
        self.tail.prepared = self.tail.end;
        self.tail.file.sync_data().map_err(|error| self.sync_failed(&error))?;
        // A start looks for files whose delete came to nothing in the last volume only.
        for unlinked in std::mem::take(&mut self.unlinked) {
            let synced = self.shared.files.sync_dir(&self.shared.own_files(unlinked));
            synced.map_err(|error| self.sync_failed(&error))?;
        }
        let next = volume.checked_add(1).ok_or(PutError::DiskFull)?;
        let file = self.begin(next).map_err(|error| self.put_error(&error, "begin a volume"))?;
        let synced = self.shared.files.sync_dir(&self.shared.folder);
        synced.map_err(|error| self.sync_failed(&error))?;
        let records = std::mem::take(&mut self.tail.records);
        write_table(&self.shared, volume, self.tail.end, &records);
        self.space.seal(volume, self.tail.end);
        self.space.begin(next);
        self.tail =
            Tail { volume: next, file, end: 0, prepared: 0, records: Vec::new(), file_count: 0 };
        Ok(())
    }

    fn begin(&self, volume: u32) -> io::Result<Arc<dyn File>> {
        let file = self.shared.files.open(&self.shared.volume_path(volume), Open::Either)?;
        file.set_len(0)?;
        Ok(Arc::from(file))
    }
}
