//! Whether the disk of a worker's data folder has room, and who took it.
//!
//! A worker whose disk is full takes no tasks until there is room again: each would be a lost attempt,
//! of which a task has only so many. What it knows already goes its way, from memory. Deliberately not
//! here: what is stored on storage nodes, whose disks are their own.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use proto::limits::STREAM_BYTES;
use proto::status::Cause;

/// Less than this is too little to begin a task with: what one may print to both of its streams.
const FEW_BYTES: u64 = 2 * STREAM_BYTES;

/// Fewer files than this are too few (eyeballed: a task that does nothing has eight).
const FEW_FILES: u64 = 1_000;

/// How much more there must be before tasks are taken again, so that one does not end what it waits
/// for.
const ENOUGH: u64 = 2;

/// Less than this is nothing: a task that writes was refused it, or will be.
const NOTHING_BYTES: u64 = 1 << 20;

/// As above, of files.
const NOTHING_FILES: u64 = 16;

/// Files and folders that are looked at to see who took the room.
const ENTRIES: usize = 100_000;

/// What is left on a disk for those who are not root.
#[derive(Clone, Copy, Debug)]
struct Left {
    bytes: u64,
    /// `u64::MAX` where the file system has no limit of its own.
    files: u64,
}

impl Left {
    /// `None` where the system does not say.
    fn on_disk_of(folder: &Path) -> Option<Left> {
        let disk = rustix::fs::statvfs(folder).ok()?;
        let files = if disk.f_files == 0 { u64::MAX } else { disk.f_favail };
        Some(Left { bytes: disk.f_bavail.saturating_mul(disk.f_frsize), files })
    }

    fn is_below(self, bytes: u64, files: u64) -> bool {
        self.bytes < bytes || self.files < files
    }
}

/// Whether there is too little room below a folder to begin tasks; `was_short` is what was found the
/// last time. Where the system does not say, there is enough.
pub(crate) fn is_short(folder: &Path, was_short: bool) -> bool {
    let times = if was_short { ENOUGH } else { 1 };
    let few = |left: Left| left.is_below(FEW_BYTES * times, FEW_FILES * times);
    Left::on_disk_of(folder).is_some_and(few)
}

/// Whether there is next to nothing left.
pub(crate) fn is_full(folder: &Path) -> bool {
    Left::on_disk_of(folder).is_some_and(|left| left.is_below(NOTHING_BYTES, NOTHING_FILES))
}

/// What an attempt that was not begun for an error is told to have been lost for.
pub(crate) fn cause_of(error: &io::Error) -> Cause {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => Cause::DiskFull,
        _ => Cause::NotStarted,
    }
}

/// Whether a task's folder takes at least half of what the folders of all tasks take together.
pub(crate) fn took_most(own: &Path, all: &Path) -> bool {
    let others = fs::read_dir(all).into_iter().flatten().flatten().map(|entry| entry.path());
    let others = others.filter(|path| path != own).map(|path| blocks_in(&path));
    blocks_in(own) >= others.fold(0, u64::saturating_add)
}

/// Blocks that the first [`ENTRIES`] of what is in a folder take. No link is followed.
fn blocks_in(folder: &Path) -> u64 {
    let (mut folders, mut blocks, mut count) = (vec![folder.to_owned()], 0u64, 0);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            count += 1;
            if count > ENTRIES {
                return blocks;
            }
            let Ok(metadata) = entry.metadata() else { continue };
            blocks = blocks.saturating_add(metadata.blocks());
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_took_the_room_is_found() {
        let place = tempfile::tempdir().unwrap();
        let (few, much) = (place.path().join("few"), place.path().join("much"));
        fs::create_dir_all(much.join("a/b")).unwrap();
        fs::create_dir(&few).unwrap();
        fs::write(few.join("file"), vec![1; 10_000]).unwrap();
        fs::write(much.join("a/b/file"), vec![1; 1_000_000]).unwrap();
        std::os::unix::fs::symlink(&much, few.join("link")).unwrap();
        assert!(took_most(&much, place.path()));
        assert!(!took_most(&few, place.path()));
        // Alone, it is nobody else's fault.
        fs::remove_dir_all(&much).unwrap();
        assert!(took_most(&few, place.path()));
    }

    #[test]
    fn a_disk_is_short_until_there_is_clearly_more() {
        let left = |bytes, files| Left { bytes, files };
        let few = |left: Left, times| left.is_below(FEW_BYTES * times, FEW_FILES * times);
        assert!(few(left(FEW_BYTES - 1, u64::MAX), 1));
        assert!(!few(left(FEW_BYTES, u64::MAX), 1) && few(left(FEW_BYTES, u64::MAX), 2));
        assert!(few(left(u64::MAX, FEW_FILES - 1), 1) && !few(left(u64::MAX, 2 * FEW_FILES), 2));
        assert!(!is_full(Path::new("/absent")) && !is_short(Path::new("/absent"), true));
    }
}
