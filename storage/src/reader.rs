//! The reading side: finds blocks through the index and verifies what it reads.
//!
//! Any number of threads read at the same time, beside the one that stores. A block whose bytes
//! turn out to be wrong is forgotten, so that it can be stored again, and counted. Deliberately
//! not here: what becomes durable when (`disk.rs`).

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use node::files::{File, Files, Open};
use proto::digest::verify;
use proto::ids::BlockId;
use proto::messages::file::StorageCounters;
use proto::status::BlockKind;

use crate::index::{Entry, Index, Place};
use crate::volume::{ALIGNMENT, HEAD_BYTES};

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
        let entry = self.shared.get(block).ok_or(ReadError::NotFound)?;
        let mut bytes = head(entry.kind, entry.length as usize);
        let begin = bytes.len();
        let read = self.read_entry(block, &entry, &mut bytes);
        let is_right = |bytes: &[u8]| {
            verify(entry.kind, block, bytes.get(begin..).unwrap_or_default()).is_ok()
        };
        match read {
            Ok(()) if is_right(&bytes) => Ok((entry.kind, bytes)),
            Ok(()) => {
                self.forget_damaged(block, entry);
                Err(ReadError::Damaged)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.forget_damaged(block, entry);
                Err(ReadError::Damaged)
            }
            Err(error) => {
                tracing::error!(%block, %error, "a block cannot be read");
                Err(ReadError::Failed)
            }
        }
    }

    /// Appends what is on the disk of a block.
    fn read_entry(&self, block: BlockId, entry: &Entry, bytes: &mut Vec<u8>) -> io::Result<()> {
        let length = entry.length as usize;
        match entry.place {
            Place::Inline { offset } => {
                let file = self.shared.volume(entry.volume)?;
                file.append_at(bytes, length, u64::from(offset) * ALIGNMENT + HEAD_BYTES)
            }
            Place::OwnFile => {
                let path = self.shared.own_path(entry.volume, block);
                self.shared.files.open(&path, Open::Existing)?.append_at(bytes, length, 0)
            }
        }
    }

    fn forget_damaged(&self, block: BlockId, entry: Entry) {
        let mut index = self.shared.index.write().unwrap_or_else(PoisonError::into_inner);
        let was_there = index.remove(block, entry);
        drop(index);
        if was_there {
            self.shared.damaged_count.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%block, volume = entry.volume, "a block is damaged and forgotten");
            // Without its table the volume is verified at the next start, so that the block does
            // not come back. Where that fails, the next read finds the damage again.
            let _ = self.shared.files.remove(&self.shared.table_path(entry.volume));
        }
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

    fn volume(&self, volume: u32) -> io::Result<Arc<dyn File>> {
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

    pub(crate) fn insert(&self, entries: &[(BlockId, Entry)]) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        for &(block, entry) in entries {
            index.insert(block, entry);
        }
    }

    /// Whether the file of a block is there and as long as its record says.
    pub(crate) fn has_own_file(&self, block: BlockId, entry: &Entry) -> bool {
        let path = self.own_path(entry.volume, block);
        let length = self.files.open(&path, Open::Existing).and_then(|file| file.len());
        length.is_ok_and(|length| length == u64::from(entry.length))
    }
}

pub(crate) fn own_name(block: BlockId) -> String {
    format!("{:032x}", block.0)
}
