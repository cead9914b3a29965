//! Blocks as readers get them: from memory, from this machine's disk, else from storage.
//!
//! However many want a block that is not here, it is fetched once. What was fetched is handed to
//! them first and written to the disk then. A block from the disk whose digest was not checked since
//! this process began is checked before anybody sees a byte of it.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use proto::digest::verify;

use crate::cache::{BlockName, Cache, Found};
use crate::logic::lru::Lru;
use crate::mount::MountCounters;
use crate::origin::{Origin, OriginError};
use crate::refusal::Refusal;
use crate::workers::{Begun, Workers};

/// Bytes of blocks that are kept in memory: what readers are in the midst of, and what the disk
/// could not take (eyeballed: 16 whole blocks).
const RECENT_BYTES: u64 = 64 << 20;

/// Readers that wait for blocks together. The kernel has at most one request for each thread that
/// reads, and some more for what it reads ahead, so this bounds what a broken one could do.
const WAITING: usize = 65_536;

/// What a file takes on a disk is a multiple of this.
const DISK_UNIT: u64 = 4_096;

type Then = Box<dyn FnOnce(Result<Bytes, Refusal>) + Send>;

/// Whether a block's bytes on the disk were checked since this process began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    Verified,
    Unverified,
}

/// A block that is to be fetched.
#[derive(Default)]
struct Wanted {
    /// Who waits for it; nobody where it is fetched ahead.
    then: Vec<Then>,
    /// Whether a thread is at it.
    is_begun: bool,
}

struct State {
    wanted: BTreeMap<BlockName, Wanted>,
    waiting_count: usize,
    recent: Lru<BlockName, Bytes>,
    on_disk: Lru<BlockName, Trust>,
}

#[derive(Debug, Default)]
struct Counters {
    fetched: AtomicU64,
    fetched_bytes: AtomicU64,
    from_disk: AtomicU64,
    damaged: AtomicU64,
    failed: AtomicU64,
}

/// All blocks that are here or can be fetched.
pub(crate) struct Blocks {
    state: Mutex<State>,
    cache: Cache,
    origin: Arc<dyn Origin>,
    workers: Workers,
    counters: Counters,
}

impl Blocks {
    /// Blocks of which at most `limit` bytes are kept on the disk.
    pub(crate) fn new(
        cache: Cache,
        found: Vec<Found>,
        limit: u64,
        origin: Arc<dyn Origin>,
        workers: Workers,
    ) -> Blocks {
        let mut on_disk = Lru::new(limit);
        for block in found {
            let gone = on_disk.insert(block.name, Trust::Unverified, on_disk_bytes(block.bytes));
            gone.iter().for_each(|(name, _)| cache.remove(*name));
        }
        on_disk.shrink_to(limit).iter().for_each(|(name, _)| cache.remove(*name));
        let state = State {
            wanted: BTreeMap::new(),
            waiting_count: 0,
            recent: Lru::new(RECENT_BYTES),
            on_disk,
        };
        let counters = Counters::default();
        Blocks { state: Mutex::new(state), cache, origin, workers, counters }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is whole before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A part of a block where it is here and trusted; nothing is waited for but the disk. `None`
    /// also where the part does not lie within the block.
    pub(crate) fn try_read(&self, name: BlockName, part: &Range<usize>) -> Option<Bytes> {
        let mut state = self.state();
        if let Some(content) = state.recent.get(&name) {
            return part_of(content, part);
        }
        if state.on_disk.get(&name).copied() != Some(Trust::Verified) {
            return None;
        }
        drop(state);
        match self.cache.read(name, part.start as u64, part.len()) {
            Ok(content) => Some(content.into()),
            Err(error) => {
                // It may have had to go just now; else something is wrong with it.
                if error.kind() != ErrorKind::NotFound {
                    tracing::warn!(block = %name.block, %error, "a cached block cannot be read");
                }
                self.forget(name);
                None
            }
        }
    }

    fn forget(&self, name: BlockName) {
        self.state().on_disk.remove(&name);
        self.cache.remove(name);
    }

    /// True where a block is here, or on its way.
    pub(crate) fn is_at_hand(&self, name: BlockName) -> bool {
        let state = self.state();
        state.recent.contains(&name)
            || state.on_disk.contains(&name)
            || state.wanted.contains_key(&name)
    }

    /// Gets a whole block and hands it on: at once, or on another thread when it is here.
    pub(crate) fn fetch(
        self: &Arc<Blocks>,
        name: BlockName,
        then: impl FnOnce(Result<Bytes, Refusal>) + Send + 'static,
    ) {
        let mut state = self.state();
        if let Some(content) = state.recent.get(&name).map(|content| content.clone()) {
            drop(state);
            return then(Ok(content));
        }
        if state.waiting_count >= WAITING {
            drop(state);
            tracing::warn!("more than {WAITING} readers wait: one more is refused");
            return then(Err(Refusal::Unavailable));
        }
        state.waiting_count += 1;
        let wanted = state.wanted.entry(name).or_default();
        wanted.then.push(Box::new(then));
        // What was to be fetched ahead stands behind what somebody waits for: it is queued again.
        let is_first = wanted.then.len() == 1 && !wanted.is_begun;
        drop(state);
        if is_first {
            let blocks = Arc::clone(self);
            if !self.workers.submit(move |begun| blocks.bring(name, begun)) {
                tracing::warn!(block = %name.block, "too much is fetched at once: one is refused");
                self.answer(name, &Err(Refusal::Unavailable));
            }
        }
    }

    /// Gets a whole block and waits for it. Not for threads that fetch blocks themselves.
    pub(crate) fn fetch_and_wait(self: &Arc<Blocks>, name: BlockName) -> Result<Bytes, Refusal> {
        let (sender, content) = channel();
        self.fetch(name, move |fetched| {
            // Who waited is gone only where the process ends.
            let _ = sender.send(fetched);
        });
        content.recv().unwrap_or(Err(Refusal::Unavailable))
    }

    /// Fetches a block that will probably be read, or checks it, where there is nothing better to
    /// do.
    pub(crate) fn fetch_ahead(self: &Arc<Blocks>, name: BlockName) {
        let mut state = self.state();
        let is_here = state.recent.contains(&name)
            || state.on_disk.peek(&name) == Some(&Trust::Verified)
            || state.wanted.contains_key(&name);
        if is_here {
            return;
        }
        // Whoever wants it meanwhile waits for this fetch.
        state.wanted.insert(name, Wanted::default());
        drop(state);
        let blocks = Arc::clone(self);
        if !self.workers.submit_ahead(move |begun| blocks.bring(name, begun)) {
            let mut state = self.state();
            let is_unwanted = |it: &Wanted| it.then.is_empty() && !it.is_begun;
            if state.wanted.get(&name).is_some_and(is_unwanted) {
                state.wanted.remove(&name);
            }
        }
    }

    /// Hands a block, or why there is none, to all who wait for it.
    fn answer(&self, name: BlockName, fetched: &Result<Bytes, Refusal>) {
        let mut state = self.state();
        let waiting = state.wanted.remove(&name).unwrap_or_default().then;
        state.waiting_count -= waiting.len();
        if let Ok(content) = fetched {
            let bytes = content.len() as u64;
            state.recent.insert(name, content.clone(), bytes);
        }
        drop(state);
        for then in waiting {
            then(fetched.clone());
        }
    }

    /// Brings a block here, whatever happens, and answers those who wait for it.
    fn bring(&self, name: BlockName, begun: Begun) {
        match self.state().wanted.get_mut(&name) {
            Some(wanted) if !wanted.is_begun => wanted.is_begun = true,
            // Another thread is at it, or was.
            _ => return,
        }
        if begun == Begun::Late {
            tracing::warn!(block = %name.block, "a block cannot be read: others took too long");
            return self.answer(name, &Err(Refusal::Unavailable));
        }
        let brought = catch_unwind(AssertUnwindSafe(|| self.obtain(name)));
        let Ok(brought) = brought else {
            tracing::error!(block = %name.block, "fetching a block panicked");
            return self.answer(name, &Err(Refusal::Unavailable));
        };
        match brought {
            Ok((content, is_new)) => {
                self.answer(name, &Ok(content.clone()));
                if is_new {
                    self.keep(name, &content);
                }
            }
            Err(refusal) => self.answer(name, &Err(refusal)),
        }
    }

    /// A verified block, and whether the disk does not have it yet.
    fn obtain(&self, name: BlockName) -> Result<(Bytes, bool), Refusal> {
        let trust = self.state().on_disk.get(&name).copied();
        if let Some(trust) = trust
            && let Some(content) = self.read_from_disk(name, trust)
        {
            return Ok((content.into(), false));
        }
        match self.origin.block(name) {
            Ok(content) => {
                self.counters.fetched.fetch_add(1, Ordering::Relaxed);
                self.counters.fetched_bytes.fetch_add(content.len() as u64, Ordering::Relaxed);
                Ok((content, true))
            }
            Err(error) => {
                tracing::warn!(block = %name.block, %error, "a block cannot be read");
                // What a tree names and nobody has is a fault, not a file that does not exist.
                let is_absent = matches!(error, OriginError::Absent);
                if !is_absent {
                    self.counters.failed.fetch_add(1, Ordering::Relaxed);
                }
                Err(if is_absent { Refusal::NoEntry } else { Refusal::Unavailable })
            }
        }
    }

    fn read_from_disk(&self, name: BlockName, trust: Trust) -> Option<Vec<u8>> {
        let content = match self.cache.read_whole(name) {
            Ok(content) => content,
            Err(error) => {
                tracing::warn!(block = %name.block, %error, "a cached block cannot be read");
                self.forget(name);
                return None;
            }
        };
        if trust == Trust::Unverified {
            if verify(name.kind(), name.block, &content).is_err() {
                self.counters.damaged.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(block = %name.block, "a cached block is damaged: fetched again");
                self.forget(name);
                return None;
            }
            if let Some(trust) = self.state().on_disk.get(&name) {
                *trust = Trust::Verified;
            }
        }
        self.counters.from_disk.fetch_add(1, Ordering::Relaxed);
        Some(content)
    }

    fn keep(&self, name: BlockName, content: &[u8]) {
        let bytes = on_disk_bytes(content.len() as u64);
        if bytes > self.state().on_disk.limit() {
            return;
        }
        if let Err(error) = self.cache.write(name, content) {
            tracing::warn!(block = %name.block, %error, "a block cannot be cached");
            if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
                // Others need the disk as well: half of what is kept makes room.
                let mut state = self.state();
                let half = state.on_disk.bytes() / 2;
                let gone = state.on_disk.shrink_to(half);
                drop(state);
                gone.iter().for_each(|(name, _)| self.cache.remove(*name));
            }
            return;
        }
        let gone = self.state().on_disk.insert(name, Trust::Verified, bytes);
        gone.iter().for_each(|(name, _)| self.cache.remove(*name));
    }

    /// Ends the use of the disk: the folder is about to be another's. Readers that are left get their
    /// blocks from storage.
    pub(crate) fn leave_disk(&self) {
        self.state().on_disk = Lru::new(0);
    }

    /// What was done since the start.
    pub(crate) fn counters(&self) -> MountCounters {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        MountCounters {
            fetched: count(&self.counters.fetched),
            fetched_bytes: count(&self.counters.fetched_bytes),
            from_disk: count(&self.counters.from_disk),
            damaged: count(&self.counters.damaged),
            failed: count(&self.counters.failed),
            disk_bytes: self.state().on_disk.bytes(),
        }
    }
}

/// A part of a block, which it keeps in memory; `None` where the block ends before.
pub(crate) fn part_of(content: &Bytes, part: &Range<usize>) -> Option<Bytes> {
    (part.start <= part.end && part.end <= content.len()).then(|| content.slice(part.clone()))
}

fn on_disk_bytes(bytes: u64) -> u64 {
    bytes.div_ceil(DISK_UNIT).max(1) * DISK_UNIT
}

#[cfg(test)]
mod tests;
