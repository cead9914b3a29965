//! The file of the log: appending to it, and what of it counts after a crash.
//!
//! Every group of records is synced before the next is written. Hence a bad record in front of a
//! good one of a later write had been synced: that is damage. Any other bad record belongs to the
//! last write, of which nobody was told, and the log ends in front of it.

use std::io;
use std::path::PathBuf;

use node::files::File;

use super::record::{
    ALIGNMENT, Batch, Entry, HEAD_BYTES, MAGIC, announced, record_at, record_bytes,
};

/// Bytes that recovery reads at once.
const WINDOW_BYTES: usize = 1 << 20;

/// A write above this is not slowed down by allocating as it goes (as for volumes).
const SMALL_WRITE_BYTES: usize = 128 << 10;

/// The name of a log.
pub(super) fn name_of(number: u32) -> PathBuf {
    PathBuf::from(format!("{number:08x}.log"))
}

/// The number in the name of a log.
pub(super) fn number_of(name: &std::path::Path) -> Option<u32> {
    let digits = name.to_str()?.strip_suffix(".log")?;
    u32::from_str_radix(digits, 16).ok()
}

/// An open log.
pub(super) struct Log {
    pub(super) number: u32,
    /// Where the next record goes.
    pub(super) end: u64,
    file: Box<dyn File>,
    /// Up to here the file is allocated.
    prepared: u64,
}

/// Why records are not in the log.
pub(super) enum AppendError {
    /// They could not be written; nothing of them counts.
    Write(io::Error),
    /// They may or may not be durable, and trying again proves nothing.
    Sync(io::Error),
}

impl Log {
    pub(super) fn new(number: u32, file: Box<dyn File>, end: u64) -> Log {
        Log { number, end, file, prepared: end }
    }

    /// Records that go to its end.
    pub(super) fn batch(&self) -> Batch {
        Batch::new(self.number, self.end)
    }

    /// Writes records at the end, and syncs nothing.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.end)?;
        self.end += bytes.len() as u64;
        self.prepared = self.prepared.max(self.end);
        Ok(())
    }

    /// Makes what was written durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Writes records at the end and syncs them. Zeros are written `prepared_bytes` ahead of small
    /// writes, so that their syncs need not allocate.
    pub(super) fn append(
        &mut self,
        bytes: &[u8],
        prepared_bytes: usize,
    ) -> Result<(), AppendError> {
        let end = self.end + bytes.len() as u64;
        if let Err(error) = self.file.write_all_at(bytes, self.end) {
            // What was written of it must not stay in front of what is written next.
            let cut = self.file.set_len(self.end).and_then(|()| self.file.sync_data());
            cut.map_err(AppendError::Sync)?;
            self.prepared = self.end;
            return Err(AppendError::Write(error));
        }
        if end > self.prepared {
            self.prepared = end;
            // Where this fails, the next write finds out for itself.
            if bytes.len() <= SMALL_WRITE_BYTES
                && self.file.write_all_at(&vec![0; prepared_bytes], end).is_ok()
            {
                self.prepared = end + prepared_bytes as u64;
            }
        }
        self.file.sync_data().map_err(AppendError::Sync)?;
        self.end = end;
        Ok(())
    }
}

/// What [`scan`] found beside the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scan {
    /// Where the next record goes; behind the end of the file where that lacks padding.
    pub(super) end: u64,
    /// Bytes behind that which are not zero: what is cut.
    pub(super) cut_bytes: u64,
    /// Records that had been synced are bad.
    pub(super) is_damaged: bool,
}

/// Reads a log and hands over its good records in order.
///
/// # Errors
/// Where it cannot be read.
pub(super) fn scan(
    file: &dyn File,
    number: u32,
    each: &mut dyn FnMut(Entry<'_>),
) -> io::Result<Scan> {
    let mut window = Window { file, length: file.len()?, offset: 0, bytes: Vec::new() };
    let mut end = 0;
    while let Some(length) = announced(window.at(end, HEAD_BYTES)?, number, end) {
        let Some((entry, _)) = record_at(window.at(end, HEAD_BYTES + length)?, number, end) else {
            break;
        };
        each(entry);
        end += record_bytes(length);
    }
    let is_damaged = has_later(&mut window, number, end)?;
    let cut_bytes = if is_damaged { 0 } else { written_behind(&mut window, end)? };
    Ok(Scan { end, cut_bytes, is_damaged })
}

/// Whether a good record lies behind `from` that was written when `from` had been synced.
fn has_later(window: &mut Window<'_>, number: u32, from: u64) -> io::Result<bool> {
    let mut at = from + ALIGNMENT as u64;
    while at < window.length {
        let bytes = window.at(at, WINDOW_BYTES)?;
        let found = bytes.chunks(ALIGNMENT).position(|bytes| bytes.starts_with(&MAGIC));
        let Some(position) = found else {
            at += bytes.len().max(ALIGNMENT) as u64;
            continue;
        };
        at += (position * ALIGNMENT) as u64;
        if let Some(length) = announced(window.at(at, HEAD_BYTES)?, number, at)
            && let Some((_, write_offset)) =
                record_at(window.at(at, HEAD_BYTES + length)?, number, at)
            && write_offset > from
        {
            return Ok(true);
        }
        at += ALIGNMENT as u64;
    }
    Ok(false)
}

/// Bytes behind `from` up to the last one that is not zero: without what was written ahead.
fn written_behind(window: &mut Window<'_>, from: u64) -> io::Result<u64> {
    let (mut at, mut end) = (from, from);
    while at < window.length {
        let bytes = window.at(at, WINDOW_BYTES)?;
        if let Some(last) = bytes.iter().rposition(|&byte| byte != 0) {
            end = at + last as u64 + 1;
        }
        at += bytes.len().max(1) as u64;
    }
    Ok(end - from)
}

/// A piece of the file in memory.
struct Window<'a> {
    file: &'a dyn File,
    /// Of the file.
    length: u64,
    offset: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// The bytes from `offset` on; fewer than `length` only at the end of the file.
    fn at(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        let left = usize::try_from(self.length.saturating_sub(offset)).unwrap_or(usize::MAX);
        let length = length.min(left);
        let behind = self.offset + self.bytes.len() as u64;
        if offset < self.offset || offset + length as u64 > behind {
            self.bytes.clear();
            self.file.append_at(&mut self.bytes, left.min(WINDOW_BYTES.max(length)), offset)?;
            self.offset = offset;
        }
        // The window begins at or before `offset`.
        let bytes = self.bytes.get((offset - self.offset) as usize..).unwrap_or_default();
        Ok(bytes.get(..length).unwrap_or(bytes))
    }
}
