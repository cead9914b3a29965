//! Snapshots on disk: one file each, whole or absent.
//!
//! Responsible for writing one so that a crash leaves it complete or not there, for reading pieces
//! of it, and for keeping the last two. What the bytes mean is `logic::image`'s.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use node::files::{Files, Open};
use proto::ids::LogIndex;

use crate::ids::Term;

/// Snapshots are written in pieces, so that the disk's other work gets in between.
const PIECE: usize = 1 << 20;

/// How many are kept: the newest, and the one that takes its place should it be damaged.
const KEPT: usize = 2;

const PREFIX: &str = "snapshot-";
const UNNAMED: &str = "new-snapshot";

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
        let file = self.files.open(&unnamed, Open::Either)?;
        file.set_len(0)?;
        for (number, piece) in content.chunks(PIECE).enumerate() {
            file.write_all_at(piece, (number * PIECE) as u64)?;
        }
        file.sync_data()?;
        drop(file);
        self.files.rename(&unnamed, &self.path(id))?;
        self.files.sync_dir(&self.folder)?;
        // Newer ones were received and not yet taken over; they are not this one's to count.
        for old in self.list()?.into_iter().filter(|&other| other <= id).skip(KEPT) {
            self.files.remove(&self.path(old))?;
        }
        Ok(())
    }
}
