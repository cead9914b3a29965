//! Blocks on this machine's disk: a file for each, in a folder that no other process uses.
//!
//! A block gets its name when all of it is written. That is not synced: after a crash a file may
//! hold anything, and so it is told as unverified until its digest was checked again (`blocks.rs`).
//! How many bytes are kept, and which go first, is decided there too.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use proto::ids::BlockId;
use proto::status::BlockKind;
use rustix::fs::FlockOperation;
use rustix::io::ReadWriteFlags;

/// Version of the layout; a folder of another one is left alone.
const LAYOUT: &str = "blocks-1";

const PART: &str = ".part";

/// Linux's `RWF_DONTCACHE` (from 6.14 on): the pages of a write go when the disk has them.
const UNCACHED: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// Blocks from here on are written so. Smaller ones may well be read again from the disk's file, a
/// part at a time (eyeballed).
const UNCACHED_BYTES: usize = 1 << 20;

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A file or folder in it.
    #[error("{operation} {}", path.display())]
    Folder {
        /// What was tried.
        operation: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another process uses it.
    #[error("the cache folder {} is used by another process", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
}

/// Which block, and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BlockName {
    pub(crate) block: BlockId,
    pub(crate) is_manifest: bool,
}

impl BlockName {
    pub(crate) fn content(block: BlockId) -> BlockName {
        BlockName { block, is_manifest: false }
    }

    pub(crate) fn manifest(block: BlockId) -> BlockName {
        BlockName { block, is_manifest: true }
    }

    pub(crate) fn kind(self) -> BlockKind {
        if self.is_manifest { BlockKind::Manifest } else { BlockKind::Content }
    }

    fn file_name(self) -> String {
        let kind = if self.is_manifest { "manifest" } else { "content" };
        format!("{:032x}.{kind}", self.block.0)
    }

    fn of_file(name: &str) -> Option<BlockName> {
        let (block, kind) = name.split_once('.')?;
        let is_manifest = match kind {
            "manifest" => true,
            "content" => false,
            _ => return None,
        };
        let block = BlockId(u128::from_str_radix(block, 16).ok()?);
        let found = BlockName { block, is_manifest };
        (found.file_name() == name).then_some(found)
    }
}

/// A block that was found at the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) name: BlockName,
    pub(crate) bytes: u64,
    written: SystemTime,
}

/// Files that this process has begun to write: a mount that ends and one that follows it may write
/// beside each other for a moment.
static WRITES: AtomicU64 = AtomicU64::new(0);

/// The folder.
#[derive(Debug)]
pub(crate) struct Cache {
    blocks: PathBuf,
}

/// Keeps other processes, and other mounts of this one, out of the folder. Given back when it is
/// dropped or the process ends, however it does.
#[derive(Debug)]
pub(crate) struct CacheLock(File);

impl Drop for CacheLock {
    fn drop(&mut self) {
        // A child that is being started holds the file as well, until it has become another program.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

impl Cache {
    /// Opens a folder, which is made where it is not there; what it holds, the oldest first.
    pub(crate) fn open(folder: &Path) -> Result<(Cache, CacheLock, Vec<Found>), CacheError> {
        let failed = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| CacheError::Folder { operation, path, source }
        };
        let blocks = folder.join(LAYOUT);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&blocks);
        made.map_err(failed("make the cache folder", &blocks))?;
        let path = folder.join("lock");
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(false).write(true).mode(0o600);
        let lock = options.open(&path).map_err(failed("open", &path))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(CacheError::InUse { path: folder.to_owned() });
            }
            Err(error) => return Err(failed("lock", &path)(error.into())),
        }
        let (cache, lock) = (Cache { blocks }, CacheLock(lock));
        let found = cache.scan().map_err(failed("read the cache folder", &cache.blocks))?;
        Ok((cache, lock, found))
    }

    fn scan(&self) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for folder in fs::read_dir(&self.blocks)? {
            let folder = folder?;
            if !folder.file_type()?.is_dir() {
                continue;
            }
            for file in fs::read_dir(folder.path())? {
                let file = file?;
                let name = file.file_name();
                let Some(name) = name.to_str() else {
                    continue;
                };
                if name.ends_with(PART) {
                    fs::remove_file(file.path())?;
                } else if let Some(name) = BlockName::of_file(name) {
                    let metadata = file.metadata()?;
                    let written = metadata.modified()?;
                    found.push(Found { name, bytes: metadata.len(), written });
                }
            }
        }
        found.sort_by_key(|it| (it.written, it.name));
        Ok(found)
    }

    fn path(&self, name: BlockName) -> PathBuf {
        let file_name = name.file_name();
        self.blocks.join(file_name.get(..2).unwrap_or_default()).join(file_name)
    }

    /// A part of a block. The block is that long, or it is an error.
    pub(crate) fn read(&self, name: BlockName, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let file = File::open(self.path(name))?;
        let mut content = vec![0; length];
        file.read_exact_at(&mut content, offset)?;
        Ok(content)
    }

    /// All bytes of a block's file.
    pub(crate) fn read_whole(&self, name: BlockName) -> io::Result<Vec<u8>> {
        fs::read(self.path(name))
    }

    /// Keeps a block.
    pub(crate) fn write(&self, name: BlockName, content: &[u8]) -> io::Result<()> {
        let path = self.path(name);
        let count = WRITES.fetch_add(1, Ordering::Relaxed);
        let part = path.with_extension(format!("{count}{PART}"));
        let written = self.write_part(&part, content).and_then(|()| fs::rename(&part, &path));
        if written.is_err() {
            // The error that led here is the one to tell.
            let _ = fs::remove_file(&part);
        }
        written
    }

    fn write_part(&self, part: &Path, content: &[u8]) -> io::Result<()> {
        let open = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(part);
        let file = match open() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if let Some(folder) = part.parent() {
                    let made = fs::DirBuilder::new().mode(0o700).create(folder);
                    made.or_else(|error| match error.kind() {
                        ErrorKind::AlreadyExists => Ok(()),
                        _ => Err(error),
                    })?;
                }
                open()?
            }
            opened => opened?,
        };
        let written = write_uncached(&file, content);
        (&file).write_all(content.get(written..).unwrap_or_default())
    }

    /// Lets go of a block; one that is gone already is no trouble.
    pub(crate) fn remove(&self, name: BlockName) {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(block = %name.block, %error, "a cached block cannot be removed");
            }
            _ => {}
        }
    }
}

/// Writes what the kernel need not keep in memory, as the mount's own pages hold it already; how
/// much was written that way. The rest is written as usual: where the kernel or the file system does
/// not know this, and what failed, which then tells why.
fn write_uncached(mut file: &File, content: &[u8]) -> usize {
    let mut written = 0;
    while content.len() >= UNCACHED_BYTES && written < content.len() {
        let rest = [IoSlice::new(content.get(written..).unwrap_or_default())];
        match rustix::io::pwritev2(file, &rest, written as u64, UNCACHED) {
            Ok(count) if count > 0 => written += count,
            Err(rustix::io::Errno::INTR) => {}
            Ok(_) | Err(_) => break,
        }
    }
    match file.seek(SeekFrom::Start(written as u64)) {
        Ok(_) => written,
        // From the beginning, where the file still stands.
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_back_after_a_restart_and_partial_ones_do_not() {
        let place = tempfile::tempdir().unwrap();
        let (one, two) = (BlockName::content(BlockId(1)), BlockName::manifest(BlockId(1)));
        let (cache, lock, found) = Cache::open(place.path()).unwrap();
        assert!(found.is_empty());
        cache.write(one, b"one").unwrap();
        cache.write(two, b"manifest").unwrap();
        cache.write(one, b"one again").unwrap();
        assert_eq!(cache.read(one, 4, 5).unwrap(), b"again");
        assert!(cache.read(one, 4, 6).is_err());
        assert!(matches!(Cache::open(place.path()), Err(CacheError::InUse { .. })));
        let folder = cache.path(one).parent().unwrap().to_owned();
        drop((cache, lock));

        fs::write(folder.join("0.7.part"), "half").unwrap();
        fs::write(folder.join("somebody's"), "own").unwrap();
        let (cache, _lock, found) = Cache::open(place.path()).unwrap();
        let names: Vec<_> = found.iter().map(|it| (it.name, it.bytes)).collect();
        assert_eq!(names.len(), 2);
        assert!(names.contains(&(one, 9)) && names.contains(&(two, 8)));
        assert!(!folder.join("0.7.part").exists() && folder.join("somebody's").exists());
        cache.remove(one);
        cache.remove(one);
        assert!(cache.read_whole(one).is_err());
        assert_eq!(cache.read_whole(two).unwrap(), b"manifest");
    }

    #[test]
    fn large_blocks_are_on_the_disk_as_they_were_given() {
        let place = tempfile::tempdir().unwrap();
        let (cache, _lock, _) = Cache::open(place.path()).unwrap();
        for (number, length) in
            [UNCACHED_BYTES - 1, UNCACHED_BYTES, (4 << 20) - 77].into_iter().enumerate()
        {
            let content: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let name = BlockName::content(BlockId(number as u128));
            cache.write(name, &content).unwrap();
            assert!(cache.read_whole(name).unwrap() == content, "{length} bytes");
        }
    }

    #[test]
    fn only_what_was_written_here_is_a_block() {
        for name in ["", "x.content", "1.content", "0.", "00000000000000000000000000000001"] {
            assert_eq!(BlockName::of_file(name), None, "{name}");
        }
        let name = BlockName::manifest(BlockId(0xab << 100));
        assert_eq!(BlockName::of_file(&name.file_name()), Some(name));
    }
}
