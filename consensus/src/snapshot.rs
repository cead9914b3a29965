//! Snapshots on disk: one file each, whole or absent.
//!
//! Responsible for writing one so that a crash leaves it complete or not there, for reading pieces
//! of it, and for keeping the last two. What the bytes mean is `logic::image`'s.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use node::files::{Files, Open, is_full};
use proto::ids::LogIndex;

use crate::ids::Term;

/// Snapshots are written in pieces, so that the disk's other work gets in between.
const PIECE: usize = 1 << 20;

/// How many are kept: the newest, and the one that takes its place should it be damaged.
const KEPT: usize = 2;

const PREFIX: &str = "snapshot-";
const UNNAMED: &str = "new-snapshot";

/// A file that is given up where a snapshot finds no room, so that the log can be cut on a full
/// disk. As large as the last snapshot and a quarter more, and at least so large.
const RESERVE: &str = "reserve";
const RESERVE_BYTES: usize = 1 << 20;

/// Which snapshot: its last entry and that one's term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SnapshotId {
    pub(crate) index: LogIndex,
    pub(crate) term: Term,
}

impl SnapshotId {
    fn name(self) -> String {
        format!("{PREFIX}{:020}-{:020}", self.index.0, self.term.0)
    }

    fn of(name: &Path) -> Option<SnapshotId> {
        let (index, term) = name.to_str()?.strip_prefix(PREFIX)?.split_once('-')?;
        Some(SnapshotId { index: LogIndex(index.parse().ok()?), term: Term(term.parse().ok()?) })
    }
}

/// The folder in which a member's snapshots are.
#[derive(Clone)]
pub(crate) struct Snapshots {
    files: Arc<dyn Files>,
    folder: PathBuf,
}

impl Snapshots {
    pub(crate) fn new(files: Arc<dyn Files>, folder: PathBuf) -> Snapshots {
        Snapshots { files, folder }
    }

    pub(crate) fn path(&self, id: SnapshotId) -> PathBuf {
        self.folder.join(id.name())
    }

    /// Makes an empty folder, removing what an interrupted attempt left there.
    pub(crate) fn create(&self) -> io::Result<()> {
        self.files.create_dir_all(&self.folder)?;
        for found in self.files.list(&self.folder)? {
            self.files.remove(&self.folder.join(found))?;
        }
        Ok(())
    }

    /// All there are, newest first. Removes one that was being written.
    pub(crate) fn list(&self) -> io::Result<Vec<SnapshotId>> {
        let mut found = Vec::new();
        for name in self.files.list(&self.folder)? {
            if name.as_os_str() == UNNAMED {
                self.files.remove(&self.folder.join(name))?;
            } else {
                found.extend(SnapshotId::of(&name));
            }
        }
        found.sort_unstable_by(|one, other| other.cmp(one));
        Ok(found)
    }

    /// Makes the names durable that a process which was killed may have left in the system's
    /// memory only; the content of a named file is.
    pub(crate) fn settle(&self) -> io::Result<()> {
        self.files.sync_dir(&self.folder)
    }

    pub(crate) fn read(&self, id: SnapshotId) -> io::Result<Vec<u8>> {
        node::files::read_all(self.files.as_ref(), &self.path(id))
    }

    /// Reads a piece; short only where the snapshot ends.
    pub(crate) fn read_piece(
        &self,
        id: SnapshotId,
        offset: u64,
        length: usize,
    ) -> io::Result<Vec<u8>> {
        let file = self.files.open(&self.path(id), Open::Existing)?;
        let left = file.len()?.saturating_sub(offset);
        let mut piece = vec![0; length.min(usize::try_from(left).unwrap_or(usize::MAX))];
        let read = file.read_at(&mut piece, offset)?;
        piece.truncate(read);
        Ok(piece)
    }

    /// Writes a snapshot; when this returns it survives a power loss, and older ones than the one
    /// before it are gone.
    pub(crate) fn write(&self, id: SnapshotId, content: &[u8]) -> io::Result<()> {
        let unnamed = self.folder.join(UNNAMED);
        match self.fill(&unnamed, content.chunks(PIECE)) {
            Err(error) if is_full(&error) && self.give_reserve_up()? => {
                self.fill(&unnamed, content.chunks(PIECE))?;
            }
            filled => filled?,
        }
        self.files.rename(&unnamed, &self.path(id))?;
        self.files.sync_dir(&self.folder)?;
        // Newer ones were received and not yet taken over; they are not this one's to count.
        for old in self.list()?.into_iter().filter(|&other| other <= id).skip(KEPT) {
            self.files.remove(&self.path(old))?;
        }
        self.keep_reserve(content.len());
        Ok(())
    }

    /// Makes a file of these pieces durable; where it fails it takes no room.
    fn fill<'a>(&self, path: &Path, pieces: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
        let file = self.files.open(path, Open::Either)?;
        let write = || {
            file.set_len(0)?;
            let mut offset = 0;
            for piece in pieces {
                file.write_all_at(piece, offset)?;
                offset += piece.len() as u64;
            }
            file.sync_data()
        };
        let filled = write();
        if filled.is_err() {
            // A cut file is removed at the next start; that it may fail changes nothing.
            let _ = file.set_len(0);
        }
        filled
    }

    /// Removes the reserve; answers whether there was one.
    fn give_reserve_up(&self) -> io::Result<bool> {
        let is_there = self.files.list(&self.folder)?.iter().any(|it| it.as_os_str() == RESERVE);
        if is_there {
            self.files.remove(&self.folder.join(RESERVE))?;
            self.files.sync_dir(&self.folder)?;
        }
        Ok(is_there)
    }

    /// Sees to it that there is a reserve for a snapshot of this length. Without it snapshots only
    /// fail earlier on a full disk, and the next one tries again.
    fn keep_reserve(&self, length: usize) {
        let wanted = (length + length / 4).max(RESERVE_BYTES);
        let path = self.folder.join(RESERVE);
        let known = self.files.open(&path, Open::Existing).and_then(|file| file.len());
        if known.is_ok_and(|known| known >= wanted as u64) {
            return;
        }
        let zeros = vec![0; PIECE];
        let pieces = (0..wanted.div_ceil(PIECE)).map(|_| zeros.as_slice());
        if let Err(error) = self.fill(&path, pieces) {
            tracing::debug!(%error, "no reserve for the next snapshot");
            // An empty one would promise room that is not there.
            let _ = self.files.remove(&path);
        }
    }
}
