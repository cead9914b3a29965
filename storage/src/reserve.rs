//! Room that is kept for forgetting and compacting, so that a full disk is not full for ever.
//!
//! A file of zeros. Deletes that find no room may use half of it, so that there is always enough for
//! a step of compaction. Nothing is stored until it is whole again: puts cannot eat what deleting
//! gave back.

use std::io;
use std::path::Path;

use node::files::{File, Files, Open};

use crate::append::Purpose;

/// Zeros that are written at once.
const STEP_BYTES: u64 = 1 << 20;

/// The file and how much of it there is.
pub(crate) struct Reserve {
    file: Box<dyn File>,
    bytes: u64,
    wanted: u64,
}

impl Reserve {
    /// Opens it, and fills it as far as there is room.
    ///
    /// # Errors
    /// As the operating system says; a full disk is none, unless there is no room for a name.
    pub(crate) fn open(files: &dyn Files, path: &Path, wanted: u64) -> io::Result<Reserve> {
        let file = files.open(path, Open::Either)?;
        let bytes = file.len()?;
        let mut reserve = Reserve { file, bytes, wanted };
        match reserve.fill() {
            Err(error) if !node::files::is_full(&error) => Err(error),
            _ => Ok(reserve),
        }
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.bytes >= self.wanted
    }

    /// Makes it whole again.
    ///
    /// # Errors
    /// Where there is no room; what it has it keeps.
    pub(crate) fn fill(&mut self) -> io::Result<()> {
        if self.is_whole() {
            return Ok(());
        }
        while self.bytes < self.wanted {
            let step = (self.wanted - self.bytes).min(STEP_BYTES);
            let written = self.file.write_all_at(&vec![0; step as usize], self.bytes);
            // A part may have been written.
            self.bytes = self.file.len()?.min(self.bytes + step);
            written?;
        }
        // Some file systems look for the room no earlier.
        self.file.sync_data()
    }

    /// Gives as much of its room back as this may use; true where it had some.
    pub(crate) fn give_up(&mut self, purpose: Purpose) -> bool {
        let kept = match purpose {
            Purpose::Put => self.wanted,
            Purpose::Delete => self.wanted / 2,
            Purpose::Compact => 0,
        };
        if self.bytes <= kept || self.file.set_len(kept).is_err() {
            return false;
        }
        tracing::warn!(?purpose, "the disk is full; room that was kept for it is used");
        self.bytes = kept;
        true
    }
}
