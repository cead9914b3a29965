//! The reading side: finds blocks through the index and verifies what it reads.
//!
//! Any number of threads read at the same time, beside the one that stores. A block whose bytes
//! turn out to be wrong is forgotten, so that it can be stored again, and counted. Deliberately
//! not here: what becomes durable when (`disk.rs`).

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use node::files::{File, Files, Open};
use proto::digest::verify;
use proto::ids::BlockId;
use proto::messages::file::StorageCounters;
use proto::status::BlockKind;

use crate::index::{Entry, Index, Place};
use crate::space::Space;
use crate::volume::{ALIGNMENT, Record, read_content};

/// Times that a block is looked up for one read: more than once where it is moved meanwhile, which
/// compaction does once in seconds at most.
const READ_ATTEMPTS: usize = 8;

/// Open volumes that are kept for reading.
const OPEN_VOLUMES: usize = 64;

/// A block as it was read: its digest is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The context of its digest.
    pub kind: BlockKind,
    /// Its bytes.
    pub content: Vec<u8>,
}

/// What is known of a block that is durable here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which.
    pub block: BlockId,
    /// The context of its digest.
    pub kind: BlockKind,
    /// Its bytes.
    pub length: u32,
    /// Round that it is stamped with.
    pub stamp: u64,
    /// Replicas that it wants; 0 for the cluster's default.
    pub replica_count: u8,
}

impl Held {
    fn new(block: BlockId, entry: &Entry) -> Held {
        let Entry { kind, length, stamp, replica_count, .. } = *entry;
        Held { block, kind, length, stamp, replica_count }
    }
}

/// Why a block could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// This node does not hold it.
    #[error("this node does not hold the block")]
    NotFound,
    /// Its bytes are not what they should be; from now on the node does not hold it.
    #[error("the block is damaged here; read another replica")]
    Damaged,
    /// The piece that is asked for begins behind the block's end.
    #[error("the block ends before the offset that is asked for")]
    Range,
    /// The disk failed.
    #[error("the disk failed; read another replica")]
    Failed,
}

/// Reads blocks. Clones share one index; any thread may have one.
#[derive(Clone)]
pub struct Reader {
    pub(crate) shared: Arc<Shared>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("folder", &self.shared.folder).finish_non_exhaustive()
    }
}

impl Reader {
    /// Reads a block and verifies its digest. One that turns out to be damaged is forgotten, so
    /// that it can be stored again.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(&self, block: BlockId) -> Result<Block, ReadError> {
        let (kind, content) = self.read_behind(block, |_, _| Vec::new())?;
        Ok(Block { kind, content })
    }

    /// As [`Reader::read`], with the block's bytes behind what `head` makes of its kind and length:
    /// who sends a block has it where it is sent from, without a copy.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read_behind(
        &self,
        block: BlockId,
        head: impl FnOnce(BlockKind, usize) -> Vec<u8>,
    ) -> Result<(BlockKind, Vec<u8>), ReadError> {
        let mut head = Some(head);
        let mut bytes = Vec::new();
        let mut begin = 0;
        for _ in 0..READ_ATTEMPTS {
            let entry = self.shared.get(block).ok_or(ReadError::NotFound)?;
            if let Some(head) = head.take() {
                bytes = head(entry.kind, entry.length as usize);
                begin = bytes.len();
            }
            bytes.truncate(begin);
            match self.shared.read_entry(block, &entry, &mut bytes) {
                Ok(Soundness::Sound) => return Ok((entry.kind, bytes)),
                Ok(Soundness::Damaged) => {}
                Err(error) => {
                    tracing::error!(%block, %error, "a block cannot be read");
                    return Err(ReadError::Failed);
                }
            }
            // The block may have been moved or deleted meanwhile.
            if self.shared.forget_if_damaged(block, &entry) {
                return Err(ReadError::Damaged);
            }
        }
        tracing::error!(%block, "a block is moved faster than it can be read");
        Err(ReadError::Failed)
    }

    /// Up to `limit` blocks behind `after` (from the first one without it), ascending. From memory.
    #[must_use]
    pub fn list(&self, after: Option<BlockId>, limit: usize) -> Vec<Held> {
        let index = self.shared.index.read().unwrap_or_else(PoisonError::into_inner);
        index.behind(after).take(limit).map(|(block, entry)| Held::new(block, entry)).collect()
    }

    /// What is known of a block; `None` where it is not durable here.
    #[must_use]
    pub fn held(&self, block: BlockId) -> Option<Held> {
        self.shared.get(block).map(|entry| Held::new(block, &entry))
    }

    /// Whether a block is durable here.
    #[must_use]
    pub fn contains(&self, block: BlockId) -> bool {
        self.shared.get(block).is_some()
    }

    /// For each block in order 1 where it is durable here, else 0.
    #[must_use]
    pub fn presence(&self, blocks: &[BlockId]) -> Vec<u8> {
        let index = self.shared.index.read().unwrap_or_else(PoisonError::into_inner);
        blocks.iter().map(|&block| u8::from(index.contains(block))).collect()
    }

    /// What is held and what was stored since the start; what was read is counted by whoever
    /// answers.
    #[must_use]
    pub fn counters(&self) -> StorageCounters {
        let index = self.shared.index.read().unwrap_or_else(PoisonError::into_inner);
        StorageCounters {
            block_count: index.len() as u64,
            block_bytes: index.bytes(),
            put_count: self.shared.put_count.load(Ordering::Relaxed),
            put_bytes: self.shared.put_bytes.load(Ordering::Relaxed),
            damaged_count: self.shared.damaged_count.load(Ordering::Relaxed),
            ..StorageCounters::default()
        }
    }
}

/// Whether bytes that were read are those of the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Soundness {
    Sound,
    /// They are not, or they are not there.
    Damaged,
}

/// What reading and writing side share.
pub(crate) struct Shared {
    pub(crate) files: Arc<dyn Files>,
    /// The folder of volumes.
    pub(crate) folder: PathBuf,
    pub(crate) index: RwLock<Index>,
    volumes: Mutex<BTreeMap<u32, Arc<dyn File>>>,
    pub(crate) put_count: AtomicU64,
    pub(crate) put_bytes: AtomicU64,
    pub(crate) damaged_count: AtomicU64,
    /// Called when a block is found damaged, so that it is soon forgotten on the disk too.
    pub(crate) alarm: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Shared {
    pub(crate) fn new(files: Arc<dyn Files>, folder: PathBuf) -> Shared {
        Shared {
            files,
            folder,
            index: RwLock::default(),
            volumes: Mutex::default(),
            put_count: AtomicU64::new(0),
            put_bytes: AtomicU64::new(0),
            damaged_count: AtomicU64::new(0),
            alarm: OnceLock::new(),
        }
    }

    pub(crate) fn volume_path(&self, volume: u32) -> PathBuf {
        self.folder.join(format!("{volume:08x}.volume"))
    }

    pub(crate) fn table_path(&self, volume: u32) -> PathBuf {
        self.folder.join(format!("{volume:08x}.table"))
    }

    pub(crate) fn own_files(&self, volume: u32) -> PathBuf {
        self.folder.join(format!("{volume:08x}"))
    }

    pub(crate) fn own_path(&self, volume: u32, block: BlockId) -> PathBuf {
        self.own_files(volume).join(own_name(block))
    }

    fn open_volumes(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<dyn File>>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of what says which volumes there were.
    pub(crate) fn removed_path(&self) -> PathBuf {
        self.folder.join("removed")
    }

    pub(crate) fn reserve_path(&self) -> PathBuf {
        self.folder.join("reserve")
    }

    /// A volume is not read any more.
    pub(crate) fn close(&self, volume: u32) {
        self.open_volumes().remove(&volume);
    }

    pub(crate) fn volume(&self, volume: u32) -> io::Result<Arc<dyn File>> {
        if let Some(file) = self.open_volumes().get(&volume) {
            return Ok(Arc::clone(file));
        }
        let file = self.files.open(&self.volume_path(volume), Open::Existing)?;
        let file: Arc<dyn File> = Arc::from(file);
        let mut open = self.open_volumes();
        while open.len() >= OPEN_VOLUMES {
            // The lowest number is the oldest volume, which is the least likely to be read again.
            open.pop_first();
        }
        open.insert(volume, Arc::clone(&file));
        Ok(file)
    }

    pub(crate) fn get(&self, block: BlockId) -> Option<Entry> {
        self.index.read().unwrap_or_else(PoisonError::into_inner).get(block)
    }

    /// Applies records of `volume` that are durable.
    pub(crate) fn apply(&self, volume: u32, records: &[Record], space: &mut Space) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        for record in records {
            index.apply(volume, record, space);
        }
    }

    /// Appends what is on the disk of a block.
    pub(crate) fn read_entry(
        &self,
        block: BlockId,
        entry: &Entry,
        bytes: &mut Vec<u8>,
    ) -> io::Result<Soundness> {
        let begin = bytes.len();
        let read = match entry.place {
            Place::Inline { offset } => self
                .volume(entry.volume)
                .and_then(|file| read_content(&*file, u64::from(offset) * ALIGNMENT, entry, bytes)),
            Place::OwnFile { folder } => {
                let file = self.files.open(&self.own_path(folder, block), Open::Existing);
                file.and_then(|file| file.append_at(bytes, entry.length as usize, 0))
            }
        };
        match read {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Soundness::Damaged),
            Err(error) => return Err(error),
        }
        let content = bytes.get(begin..).unwrap_or_default();
        let is_right = verify(entry.kind, block, content).is_ok();
        Ok(if is_right { Soundness::Sound } else { Soundness::Damaged })
    }

    /// Forgets a block that was read as `entry` says and was not what it should be; false where it
    /// is elsewhere by now or sound after all, because it was moved, or deleted and stored again,
    /// while it was read.
    pub(crate) fn forget_if_damaged(&self, block: BlockId, entry: &Entry) -> bool {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        if !index.get(block).is_some_and(|it| it.lies_as(entry)) {
            return false;
        }
        // Under the lock nothing moves: what is in the index is on the disk.
        let read = self.read_entry(block, entry, &mut Vec::new());
        let is_forgotten = matches!(read, Ok(Soundness::Damaged)) && index.forget(block, entry);
        drop(index);
        if is_forgotten {
            self.damaged_count.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%block, volume = entry.volume, "a block is damaged and forgotten");
            if let Some(alarm) = self.alarm.get() {
                alarm();
            }
        }
        is_forgotten
    }

    /// Whether the file of a block is there and as long as its record says.
    pub(crate) fn has_own_file(&self, block: BlockId, folder: u32, entry: &Entry) -> bool {
        let path = self.own_path(folder, block);
        let length = self.files.open(&path, Open::Existing).and_then(|file| file.len());
        length.is_ok_and(|length| length == u64::from(entry.length))
    }
}

pub(crate) fn own_name(block: BlockId) -> String {
    format!("{:032x}", block.0)
}
