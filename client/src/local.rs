//! Single files of this machine to storage and back, for whoever wants to see how far it is.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proto::ids::FileId;
use proto::name::Pointer;
use proto::time::Duration;

use crate::blocking::Client;
use crate::error::ClientError;
use crate::logic::transfer::PutReport;
use crate::source::{LocalFile, Source, plan_file};

/// How often it is told how far storing is.
const TOLD_EVERY: Duration = Duration::from_millis(100);

/// Something of this machine that was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// What it is called there.
    pub pointer: Pointer,
    /// What of it was there before, and what was sent.
    pub report: PutReport,
}

/// How far storing or fetching one file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileProgress {
    /// Bytes that were handled.
    pub done: u64,
    /// Bytes of the file.
    pub whole: u64,
}

impl Client {
    /// As [`Client::put_file`], telling how much was sent. What is on storage already is not sent,
    /// and naming the file, for which it is read a first time, is not told.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn put_file_with(
        &self,
        path: &Path,
        progress: &mut dyn FnMut(FileProgress),
    ) -> Result<Stored, ClientError> {
        let plan = plan_file(path)?;
        let (file, whole) = (plan.file, plan.length);
        let sent = Arc::new(AtomicU64::new(0));
        let source = Counted { source: LocalFile(path.to_owned()), read: Arc::clone(&sent) };
        let mut begun = self.begin_put(plan, Box::new(source));
        loop {
            if let Some(stored) = begun.wait_for(TOLD_EVERY)? {
                let pointer = Pointer { is_tree: false, file, length: whole };
                return Ok(Stored { pointer, report: stored? });
            }
            // Blocks that are sent to several nodes are read for each.
            let done = sent.load(Ordering::Relaxed).min(whole);
            progress(FileProgress { done, whole });
        }
    }

    /// Fetches a file into a file of this machine, which is made or replaced in one step when all
    /// of it is there. Returns its bytes.
    ///
    /// # Errors
    /// [`ClientError`]; what was there before is there still.
    pub fn get_file(&self, file: FileId, path: &Path) -> Result<u64, ClientError> {
        self.get_file_with(file, path, &mut |_| {})
    }

    /// As [`Client::get_file`], telling how much has arrived.
    ///
    /// # Errors
    /// As [`Client::get_file`].
    pub fn get_file_with(
        &self,
        file: FileId,
        path: &Path,
        progress: &mut dyn FnMut(FileProgress),
    ) -> Result<u64, ClientError> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{file}.part"));
        let part = path.with_file_name(name);
        let target = std::fs::File::create(&part);
        let target = target.map_err(|error| ClientError::file("make", path, error))?;
        let written = self.write_pieces(file, &target, path, progress).and_then(|length| {
            std::fs::rename(&part, path)
                .map_err(|error| ClientError::file("rename", path, error))?;
            Ok(length)
        });
        if written.is_err() {
            // The error that led here is the one to tell.
            let _ = std::fs::remove_file(&part);
        }
        written
    }

    /// Writes a file into one of this machine, which stands at a path and is empty. Returns its
    /// bytes.
    pub(crate) fn write_pieces(
        &self,
        file: FileId,
        target: &std::fs::File,
        path: &Path,
        progress: &mut dyn FnMut(FileProgress),
    ) -> Result<u64, ClientError> {
        let mut pieces = self.stream(file, 0..u64::MAX);
        let mut done = 0;
        while let Some(piece) = pieces.next_piece()? {
            target
                .write_all_at(&piece.content, piece.offset)
                .map_err(|source| ClientError::file("write", path, source))?;
            done += piece.content.len() as u64;
            progress(FileProgress { done, whole: pieces.length().unwrap_or(done) });
        }
        Ok(done)
    }
}

/// A source that counts what is read of it.
struct Counted<S> {
    source: S,
    read: Arc<AtomicU64>,
}

impl<S: Source> Source for Counted<S> {
    fn read<'a>(
        &'a mut self,
        offset: u64,
        length: u64,
        buffer: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], String> {
        let bytes = self.source.read(offset, length, buffer)?;
        self.read.fetch_add(length, Ordering::Relaxed);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Memory;

    #[test]
    fn a_counted_source_reads_the_same_and_counts_what_it_gave() {
        let read = Arc::new(AtomicU64::new(0));
        let memory = Memory(Arc::from(&b"some bytes"[..]));
        let mut source = Counted { source: memory, read: Arc::clone(&read) };
        let mut buffer = Vec::new();
        assert_eq!(source.read(5, 5, &mut buffer).unwrap(), b"bytes");
        assert!(source.read(5, 6, &mut buffer).is_err());
        assert_eq!(read.load(Ordering::Relaxed), 5);
    }
}
