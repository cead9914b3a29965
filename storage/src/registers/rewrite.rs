//! A log that is being written anew with nothing but what counts, in small steps beside the
//! changes that come in.
//!
//! It gets its name when it is complete and synced; until then the old log is the one that counts,
//! and a crash leaves a file that the next start removes. Changes that are made meanwhile go into
//! both, so that at the end it holds all of them, whatever was copied before or after.

use std::io;
use std::path::{Path, PathBuf};

use node::files::{Files, Open};

use super::log::{Log, name_of};
use super::record::Batch;

/// What has become of a log.
pub(super) struct Rewrite {
    log: Log,
    path: PathBuf,
    /// The first address that is not copied yet.
    pub(super) cursor: u64,
}

impl Rewrite {
    /// Begins the log with this number.
    pub(super) fn begin(files: &dyn Files, folder: &Path, number: u32) -> io::Result<Rewrite> {
        let path = folder.join(name_of(number).with_extension("new"));
        let file = files.open(&path, Open::Either)?;
        file.set_len(0)?;
        Ok(Rewrite { log: Log::new(number, file, 0), path, cursor: 0 })
    }

    /// Records that go to its end.
    pub(super) fn batch(&self) -> Batch {
        self.log.batch()
    }

    /// Writes them, and syncs nothing.
    pub(super) fn write(&mut self, batch: &Batch) -> io::Result<()> {
        self.log.write(&batch.bytes)
    }

    /// Syncs what was written, in each step, so that the last sync has little to do.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.log.sync()
    }

    /// Gives it its name; from then on it is the log.
    pub(super) fn finish(self, files: &dyn Files, folder: &Path) -> io::Result<Log> {
        files.rename(&self.path, &folder.join(name_of(self.log.number)))?;
        files.sync_dir(folder)?;
        Ok(self.log)
    }

    /// Gives it up.
    pub(super) fn abandon(self, files: &dyn Files) {
        // What stays is removed by the next start, or overwritten by the next attempt.
        let _ = files.remove(&self.path);
    }
}
