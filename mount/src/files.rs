//! Files and trees out of blocks: manifests, tree files, ranges of bytes, and what is read ahead.
//!
//! What is known is answered on the caller's thread, everything else by threads that may wait for
//! storage (`resolvers`), which in turn wait for those that fetch blocks (`blocks.rs`) and never for
//! each other.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use proto::ids::{BlockId, FileId};
use proto::limits::{BLOCK_BYTES, TREE_BYTES};
use proto::manifest::Manifest;
use proto::tree::{Folder, MAGIC};

use crate::blocks::{Blocks, part_of};
use crate::cache::BlockName;
use crate::logic::lru::Lru;
use crate::logic::read_ahead::ReadAhead;
use crate::logic::tree::Tree;
use crate::origin::{Origin, OriginError};
use crate::refusal::Refusal;
use crate::workers::{Begun, Workers};

/// Bytes of tree files whose entries are kept in memory, where they take three times as much. One
/// that is larger is kept while it is the newest.
const TREES_BYTES: u64 = 64 << 20;

/// Bytes of manifests that are kept in memory: 64 MiB of them describe files of 8 TiB.
const MANIFESTS_BYTES: u64 = 64 << 20;

/// Blocks of a file that are read ahead of one who reads on (eyeballed: as many as the client
/// library fetches of one file at a time).
const AHEAD_BLOCKS: u32 = 8;

/// Files of which it is remembered who reads them where.
const AHEAD_FILES: usize = 1_024;

type TreeThen = Box<dyn FnOnce(Result<Arc<Tree>, Refusal>) + Send>;
type ReadThen = Box<dyn FnOnce(Result<Bytes, Refusal>) + Send>;

/// A part of a block that is wanted.
struct Piece {
    name: BlockName,
    /// Bytes of the whole block.
    length: usize,
    part: Range<usize>,
}

#[derive(Default)]
struct Waiting(BTreeMap<FileId, Vec<TreeThen>>);

/// What the bytes of a file are that nobody said anything about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Recognised {
    /// Bytes, so many of them.
    File(u64),
    /// A tree file of so many bytes.
    Tree(u64),
}

/// Files and trees.
pub(crate) struct Files {
    blocks: Arc<Blocks>,
    origin: Arc<dyn Origin>,
    manifests: Mutex<Lru<FileId, Arc<Manifest>>>,
    trees: Mutex<Lru<FileId, Arc<Tree>>>,
    waiting: Mutex<Waiting>,
    ahead: Mutex<ReadAhead<FileId>>,
    resolvers: Workers,
}

// Each change under these locks is whole before anything that could panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Files {
    pub(crate) fn new(blocks: Arc<Blocks>, origin: Arc<dyn Origin>, resolvers: Workers) -> Files {
        Files {
            blocks,
            origin,
            manifests: Mutex::new(Lru::new(MANIFESTS_BYTES)),
            trees: Mutex::new(Lru::new(TREES_BYTES)),
            waiting: Mutex::default(),
            ahead: Mutex::new(ReadAhead::new(0, AHEAD_BLOCKS, AHEAD_FILES)),
            resolvers,
        }
    }

    pub(crate) fn blocks(&self) -> &Arc<Blocks> {
        &self.blocks
    }

    pub(crate) fn origin(&self) -> &Arc<dyn Origin> {
        &self.origin
    }

    /// Does something on a thread that may wait. Where too much waits already, or for too long, what
    /// the work owns is dropped, which refuses it.
    pub(crate) fn resolve(&self, work: impl FnOnce() + Send + 'static) {
        let work = move |begun| match begun {
            Begun::InTime => work(),
            Begun::Late => tracing::warn!("an operation waited too long for others: refused"),
        };
        if !self.resolvers.submit(work) {
            tracing::warn!("too much is asked at once: one operation is refused");
        }
    }

    /// Hands a tree on: at once where it is known.
    pub(crate) fn with_tree(
        self: &Arc<Files>,
        tree: FileId,
        length: Option<u64>,
        then: impl FnOnce(Result<Arc<Tree>, Refusal>) + Send + 'static,
    ) {
        if let Some(known) = self.known_tree(tree) {
            return then(Ok(known));
        }
        let mut waiting = lock(&self.waiting);
        let is_first = !waiting.0.contains_key(&tree);
        waiting.0.entry(tree).or_default().push(Box::new(then));
        drop(waiting);
        if is_first {
            let files = Arc::clone(self);
            let load = Loading { files, tree, is_answered: false };
            self.resolve(move || load.run(length));
        }
    }

    fn known_tree(&self, tree: FileId) -> Option<Arc<Tree>> {
        lock(&self.trees).get(&tree).map(|known| Arc::clone(known))
    }

    /// A tree; waits for it. `Ok(None)` where the file is none.
    fn load_tree(
        self: &Arc<Files>,
        tree: FileId,
        length: Option<u64>,
    ) -> Result<Option<Arc<Tree>>, Refusal> {
        if let Some(known) = self.known_tree(tree) {
            return Ok(Some(known));
        }
        let bytes = self.whole(tree, length)?;
        let folder = match Folder::decode(&bytes) {
            Ok(folder) => folder,
            Err(error) => {
                tracing::warn!(%tree, %error, "a file is no tree");
                return Ok(None);
            }
        };
        let loaded = Arc::new(Tree::of_folder(&folder));
        lock(&self.trees).insert(tree, Arc::clone(&loaded), bytes.len() as u64);
        Ok(Some(loaded))
    }

    /// All bytes of a file that is to be a tree; waits for them.
    fn whole(self: &Arc<Files>, file: FileId, length: Option<u64>) -> Result<Vec<u8>, Refusal> {
        let length = match length {
            Some(length) => length,
            None => self.length(file)?,
        };
        if length > TREE_BYTES as u64 {
            tracing::warn!(tree = %file, length, "a tree file is longer than one may be");
            return Err(Refusal::Failed);
        }
        if length > BLOCK_BYTES as u64 {
            self.manifest(file, length)?;
        }
        let pieces = self.known_pieces(file, length, &(0..length)).ok_or(Refusal::Failed)?;
        for piece in pieces.iter().skip(1).take(AHEAD_BLOCKS as usize) {
            self.blocks.fetch_ahead(piece.name);
        }
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        for piece in pieces {
            let content = self.blocks.fetch_and_wait(piece.name)?;
            check_length(&piece, content.len())?;
            bytes.extend_from_slice(&content);
        }
        Ok(bytes)
    }

    /// Bytes of a file that is known by its UUID only; waits for them.
    fn length(self: &Arc<Files>, file: FileId) -> Result<u64, Refusal> {
        let block = BlockId(file.0);
        if self.blocks.is_at_hand(BlockName::content(block)) {
            let content = self.blocks.fetch_and_wait(BlockName::content(block))?;
            return Ok(content.len() as u64);
        }
        if self.blocks.is_at_hand(BlockName::manifest(block)) {
            let content = self.blocks.fetch_and_wait(BlockName::manifest(block))?;
            let manifest = Manifest::decode(&content).map_err(|error| not_a_file(file, &error))?;
            return Ok(manifest.length());
        }
        self.origin.length(file).map_err(|error| match error {
            OriginError::Absent => Refusal::NoEntry,
            OriginError::Failed(_) => {
                tracing::warn!(%file, %error, "a file cannot be looked up");
                Refusal::Unavailable
            }
        })
    }

    /// What a file is; waits for it.
    pub(crate) fn recognise(self: &Arc<Files>, file: FileId) -> Result<Recognised, Refusal> {
        let length = self.length(file)?;
        if (MAGIC.len() as u64..=TREE_BYTES as u64).contains(&length) {
            if length > BLOCK_BYTES as u64 {
                self.manifest(file, length)?;
            }
            let head = self.known_pieces(file, length, &(0..MAGIC.len() as u64));
            let head = head.and_then(|mut pieces| pieces.pop_front()).ok_or(Refusal::Failed)?;
            let content = self.blocks.fetch_and_wait(head.name)?;
            // A file may begin like a tree and be none.
            if content.starts_with(&MAGIC) && self.load_tree(file, Some(length))?.is_some() {
                return Ok(Recognised::Tree(length));
            }
        }
        Ok(Recognised::File(length))
    }

    /// The manifest of a file of several blocks; waits for it.
    fn manifest(self: &Arc<Files>, file: FileId, length: u64) -> Result<Arc<Manifest>, Refusal> {
        if let Some(known) = lock(&self.manifests).get(&file) {
            return Ok(Arc::clone(known));
        }
        let content = self.blocks.fetch_and_wait(BlockName::manifest(BlockId(file.0)))?;
        let manifest = Manifest::decode(&content).map_err(|error| not_a_file(file, &error))?;
        if manifest.length() != length {
            let found = manifest.length();
            tracing::warn!(%file, found, wanted = length, "a file has another length than is said");
            return Err(Refusal::Failed);
        }
        let manifest = Arc::new(manifest);
        lock(&self.manifests).insert(file, Arc::clone(&manifest), content.len() as u64);
        Ok(manifest)
    }

    /// The parts of blocks that hold a range; `None` where the manifest is not known.
    fn known_pieces(
        &self,
        file: FileId,
        length: u64,
        range: &Range<u64>,
    ) -> Option<VecDeque<Piece>> {
        let block_bytes = BLOCK_BYTES as u64;
        if length <= block_bytes {
            let name = BlockName::content(BlockId(file.0));
            let part = range.start as usize..range.end as usize;
            return Some(VecDeque::from([Piece { name, length: length as usize, part }]));
        }
        let manifest = lock(&self.manifests).get(&file).map(|known| Arc::clone(known))?;
        let blocks = manifest.blocks_of(range.start, range.end - range.start);
        let piece = |index: usize| {
            let (block, length) = manifest.block(index)?;
            let begin = index as u64 * block_bytes;
            let within = |at: u64| at.saturating_sub(begin).min(length as u64) as usize;
            let part = within(range.start)..within(range.end);
            Some(Piece { name: BlockName::content(block), length, part })
        };
        blocks.map(piece).collect()
    }

    /// Reads a part of a file of a known length, as much of it as there is, and hands it on: at once
    /// where all of it is here. What lies in one block is not copied.
    pub(crate) fn read(
        self: &Arc<Files>,
        file: FileId,
        length: u64,
        range: Range<u64>,
        then: impl FnOnce(Result<Bytes, Refusal>) + Send + 'static,
    ) {
        let range = range.start.min(length)..range.end.min(length);
        if range.is_empty() {
            return then(Ok(Bytes::new()));
        }
        if let Some(pieces) = self.known_pieces(file, length, &range) {
            self.read_pieces(pieces, Bytes::new(), Box::new(then));
            return self.read_ahead(file, length, &range);
        }
        let files = Arc::clone(self);
        let reader = Reader(Some(then));
        self.resolve(move || {
            if let Err(refusal) = files.manifest(file, length) {
                return reader.answer(Err(fault(refusal)));
            }
            match files.known_pieces(file, length, &range) {
                Some(pieces) => {
                    let then = move |bytes| reader.answer(bytes);
                    files.read_pieces(pieces, Bytes::new(), Box::new(then));
                    files.read_ahead(file, length, &range);
                }
                // It had to make room for others at once.
                None => reader.answer(Err(Refusal::Unavailable)),
            }
        });
    }

    fn read_pieces(
        self: &Arc<Files>,
        mut pieces: VecDeque<Piece>,
        mut so_far: Bytes,
        then: ReadThen,
    ) {
        while let Some(piece) = pieces.pop_front() {
            if let Some(part) = self.blocks.try_read(piece.name, &piece.part) {
                so_far = joined(so_far, part);
                continue;
            }
            let files = Arc::clone(self);
            return self.blocks.fetch(piece.name, move |fetched| {
                let part = fetched.and_then(|content| {
                    check_length(&piece, content.len())?;
                    part_of(&content, &piece.part).ok_or(Refusal::Failed)
                });
                match part {
                    Ok(part) => files.read_pieces(pieces, joined(so_far, part), then),
                    Err(refusal) => then(Err(fault(refusal))),
                }
            });
        }
        then(Ok(so_far));
    }

    fn read_ahead(self: &Arc<Files>, file: FileId, length: u64, range: &Range<u64>) {
        if length <= BLOCK_BYTES as u64 {
            return;
        }
        let Some(manifest) = lock(&self.manifests).get(&file).map(|known| Arc::clone(known)) else {
            return;
        };
        let last = range.end.saturating_sub(1) / BLOCK_BYTES as u64;
        let count = u32::try_from(manifest.blocks().len()).unwrap_or(u32::MAX);
        let Ok(last) = u32::try_from(last) else {
            return;
        };
        let ahead = lock(&self.ahead).read(&file, last, count);
        for index in ahead {
            if let Some((block, _)) = manifest.block(index as usize) {
                self.blocks.fetch_ahead(BlockName::content(block));
            }
        }
    }
}

/// Who waits for a part of a file: told that it cannot be had now where nobody gets to it.
struct Reader<F: FnOnce(Result<Bytes, Refusal>)>(Option<F>);

impl<F: FnOnce(Result<Bytes, Refusal>)> Reader<F> {
    fn answer(mut self, bytes: Result<Bytes, Refusal>) {
        if let Some(then) = self.0.take() {
            then(bytes);
        }
    }
}

impl<F: FnOnce(Result<Bytes, Refusal>)> Drop for Reader<F> {
    fn drop(&mut self) {
        if let Some(then) = self.0.take() {
            then(Err(Refusal::Unavailable));
        }
    }
}

/// A tree that is being loaded. Those who wait for it are answered when this is done or dropped.
struct Loading {
    files: Arc<Files>,
    tree: FileId,
    is_answered: bool,
}

impl Loading {
    fn run(mut self, length: Option<u64>) {
        let loaded = self.files.load_tree(self.tree, length);
        let loaded = loaded.map_err(fault).and_then(|tree| tree.ok_or(Refusal::Failed));
        self.answer(&loaded);
    }

    fn answer(&mut self, loaded: &Result<Arc<Tree>, Refusal>) {
        // Who comes from here on is somebody else's to answer.
        self.is_answered = true;
        let waiting = lock(&self.files.waiting).0.remove(&self.tree).unwrap_or_default();
        for then in waiting {
            then(loaded.clone());
        }
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        if !self.is_answered {
            self.answer(&Err(Refusal::Unavailable));
        }
    }
}

/// What a tree or a manifest names has to be there: that it is not is no ordinary answer.
fn fault(refusal: Refusal) -> Refusal {
    if refusal == Refusal::NoEntry { Refusal::Failed } else { refusal }
}

fn not_a_file(file: FileId, error: &dyn std::error::Error) -> Refusal {
    tracing::warn!(%file, error = %error, "a manifest cannot be read");
    Refusal::Failed
}

fn check_length(piece: &Piece, found: usize) -> Result<(), Refusal> {
    if found == piece.length {
        return Ok(());
    }
    let (block, wanted) = (piece.name.block, piece.length);
    tracing::warn!(%block, found, wanted, "a block has another length than is said");
    Err(Refusal::Failed)
}

/// Two parts as one: copied only where both hold something. The kernel asks for at most a mebibyte
/// at a time, so this is small.
fn joined(before: Bytes, next: Bytes) -> Bytes {
    if before.is_empty() { next } else { [before, next].concat().into() }
}
