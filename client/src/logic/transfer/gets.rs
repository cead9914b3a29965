//! Blocks and files on their way from the storage nodes: one owner first, the next on an error, on
//! silence or on wrong bytes. Every block is proven against its id, a manifest against its file.
//!
//! Deliberately not for what is done with the bytes or for what is in flight to a node.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use proto::digest::{recognise, verify};
use proto::ids::{BlockId, FileId, NodeId};
use proto::limits;
use proto::manifest::Manifest;
use proto::messages::file::{BlockContent, BlockGet};
use proto::record::encode;
use proto::status::{BlockKind, ErrorCode};
use proto::time::Instant;

use super::nodes::Asked;
use super::{FetchKey, GetId, Output, REST, Transfer, TransferError, wrong_bytes};

/// Position of a file's first block, which tells whether it is all or a manifest.
pub(super) const HEAD: usize = usize::MAX;

/// Bytes of one file that are asked for and not used up yet (eyeballed: eight blocks, so that
/// several nodes are read from at once).
const FILE_WINDOW: u64 = 8 * limits::BLOCK_BYTES as u64;

/// What a block of unknown length counts for while it is on its way.
const UNKNOWN_LENGTH: u64 = 512 << 10;

/// What the bytes of a block have to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Kind(BlockKind),
    /// Content or a manifest: the head of a file.
    Either,
}

/// How far one node was asked for a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tried {
    No,
    /// Queued for it, or on its way.
    Asked,
    NotFound,
    Failed,
}

#[derive(Debug)]
struct Fetch {
    block: BlockId,
    expected: Expected,
    length: u64,
    /// The newest version's owners first.
    places: Vec<(NodeId, Tried)>,
    owner_count: usize,
    /// All places have said once that they do not have it, and its owners are asked once more.
    is_second_look: bool,
    /// Since when it fails; `None` where nothing failed.
    failing_since: Option<Instant>,
    is_resting: bool,
}

/// What a get is about.
#[derive(Debug)]
enum Target {
    Block,
    File { file: FileId, range: Range<u64> },
}

#[derive(Debug)]
struct Get {
    target: Target,
    manifest: Option<Arc<Manifest>>,
    /// Blocks that were not asked for yet.
    blocks: Range<usize>,
    fetches: usize,
    /// Bytes asked for or handed over and not used up.
    unconsumed: u64,
    delivered: u64,
}

/// All gets that are under way.
#[derive(Debug, Default)]
pub(super) struct Gets {
    gets: BTreeMap<GetId, Get>,
    fetches: BTreeMap<FetchKey, Fetch>,
    /// Gets with blocks that were not asked for yet.
    growing: BTreeSet<GetId>,
    without_ring: BTreeSet<FetchKey>,
    resting: BTreeSet<(Instant, FetchKey)>,
}

impl Gets {
    pub(super) fn len(&self) -> usize {
        self.gets.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.gets.is_empty()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.resting.first().map(|(due, _)| *due)
    }

    pub(super) fn check_invariants(&self) {
        for (key, fetch) in &self.fetches {
            assert!(self.gets.contains_key(&key.get), "{key:?} belongs to a get");
            let waits = self.without_ring.contains(key)
                || fetch.is_resting
                || fetch.places.iter().any(|(_, tried)| *tried == Tried::Asked);
            assert!(waits, "{key:?} waits for nothing");
        }
        for (id, get) in &self.gets {
            let keys = FetchKey { get: *id, index: 0 }..=FetchKey { get: *id, index: HEAD };
            assert_eq!(self.fetches.range(keys).count(), get.fetches, "fetches of {id:?}");
            assert!(get.fetches > 0 || !get.blocks.is_empty(), "{id:?} has ended");
        }
    }
}

impl Transfer {
    pub(super) fn begin_block(
        &mut self,
        now: Instant,
        get: GetId,
        block: BlockId,
        kind: BlockKind,
        length: Option<u64>,
    ) {
        self.gets.gets.insert(get, Get::new(Target::Block));
        let length = length.unwrap_or(UNKNOWN_LENGTH);
        self.begin_fetch(now, FetchKey { get, index: HEAD }, block, Expected::Kind(kind), length);
    }

    pub(super) fn begin_file(
        &mut self,
        now: Instant,
        get: GetId,
        file: FileId,
        range: Range<u64>,
        length: Option<u64>,
    ) {
        self.gets.gets.insert(get, Get::new(Target::File { file, range }));
        let block_bytes = limits::BLOCK_BYTES as u64;
        let length = match length {
            None => UNKNOWN_LENGTH,
            Some(length) if length <= block_bytes => length,
            Some(length) => 32 * length.div_ceil(block_bytes),
        };
        let key = FetchKey { get, index: HEAD };
        self.begin_fetch(now, key, BlockId(file.0), Expected::Either, length);
    }

    fn begin_fetch(
        &mut self,
        now: Instant,
        key: FetchKey,
        block: BlockId,
        expected: Expected,
        length: u64,
    ) {
        let fetch = Fetch {
            block,
            expected,
            length,
            places: Vec::new(),
            owner_count: 0,
            is_second_look: false,
            failing_since: None,
            is_resting: false,
        };
        self.gets.fetches.insert(key, fetch);
        if let Some(get) = self.gets.gets.get_mut(&key.get) {
            get.fetches += 1;
        }
        self.place_fetch(now, key);
    }

    /// Finds out by the ring who may have a block, and asks the first.
    fn place_fetch(&mut self, now: Instant, key: FetchKey) {
        let Some(fetch) = self.gets.fetches.get_mut(&key) else {
            return;
        };
        fetch.is_resting = false;
        self.gets.without_ring.remove(&key);
        fetch.is_second_look = false;
        let Some((nodes, owner_count)) = self.view.places(fetch.block) else {
            self.view.want_newer_than(self.view.version());
            fetch.places.clear();
            self.gets.without_ring.insert(key);
            return;
        };
        fetch.owner_count = owner_count;
        fetch.places = nodes.into_iter().map(|node| (node, Tried::No)).collect();
        self.ask_next(now, key, "the ring has no storage nodes");
    }

    /// Asks the best of the nodes that were not asked yet.
    fn ask_next(&mut self, now: Instant, key: FetchKey, why: &str) {
        loop {
            let Some(fetch) = self.gets.fetches.get_mut(&key) else {
                return;
            };
            let rank = |(at, (node, _)): &(usize, &(NodeId, Tried))| {
                let state = self.nodes.get(*node);
                let (down, suspect, bytes) =
                    state.map_or((false, false, 0), |it| it.read_rank(now));
                (down, suspect, *at >= fetch.owner_count, bytes, *at)
            };
            let open =
                fetch.places.iter().enumerate().filter(|(_, (_, tried))| *tried == Tried::No);
            let Some((at, &(node, _))) = open.min_by_key(rank) else {
                return self.rest_get(now, key, why);
            };
            let address = self.view.address(node).map(str::to_owned);
            let is_reached =
                address.is_some_and(|address| self.nodes.reach(node, &address).is_some());
            let tried = if is_reached { Tried::Asked } else { Tried::Failed };
            if let Some(place) = fetch.places.get_mut(at) {
                place.1 = tried;
            }
            if is_reached {
                self.nodes.queue_get(node, key);
                return;
            }
        }
    }

    /// Nobody is left to be asked: ends the get where the answer is certain or time is up, else
    /// asks all again in a while.
    ///
    /// That nobody has the block is certain only when its owners have said so after all others did:
    /// it may have moved from a node that was asked late to one that was asked early.
    fn rest_get(&mut self, now: Instant, key: FetchKey, why: &str) {
        let Some(fetch) = self.gets.fetches.get_mut(&key) else {
            return;
        };
        if fetch.is_resting || fetch.places.iter().any(|(_, tried)| *tried == Tried::Asked) {
            return;
        }
        let block = fetch.block;
        let all_answered = fetch.places.iter().all(|(_, tried)| *tried == Tried::NotFound);
        if all_answered && !fetch.is_second_look && fetch.owner_count > 0 {
            fetch.is_second_look = true;
            for place in fetch.places.iter_mut().take(fetch.owner_count) {
                place.1 = Tried::No;
            }
            self.ask_next(now, key, why);
        } else if all_answered && !fetch.places.is_empty() {
            self.fail_get(key.get, TransferError::NotFound { block });
        } else if !self.gives_up_get(now, key, why) {
            if let Some(fetch) = self.gets.fetches.get_mut(&key) {
                fetch.is_resting = true;
            }
            self.gets.resting.insert((now + REST, key));
            self.view.want_refresh(now);
        }
    }

    /// Counts a failure of a block; true where it went on for too long and ended the get.
    fn gives_up_get(&mut self, now: Instant, key: FetchKey, why: &str) -> bool {
        let Some(fetch) = self.gets.fetches.get_mut(&key) else {
            return true;
        };
        let since = *fetch.failing_since.get_or_insert(now);
        let is_over = now >= since + self.give_up_after;
        if is_over {
            let (block, why) = (fetch.block, why.to_owned());
            self.fail_get(key.get, TransferError::Unavailable { block, why });
        }
        is_over
    }

    /// The masters did not tell the ring.
    pub(super) fn gets_miss_the_ring(&mut self, now: Instant) {
        for key in self.gets.without_ring.clone() {
            self.gives_up_get(now, key, "the masters do not tell the ring");
        }
    }

    fn fail_get(&mut self, get: GetId, error: TransferError) {
        if self.gets.gets.contains_key(&get) {
            self.forget_get(get);
            self.outputs.push_back(Output::Fetched { get, result: Err(error) });
        }
    }

    pub(super) fn forget_get(&mut self, get: GetId) {
        let keys = FetchKey { get, index: 0 }..=FetchKey { get, index: HEAD };
        let keys: Vec<FetchKey> = self.gets.fetches.range(keys).map(|(key, _)| *key).collect();
        for key in keys {
            self.end_fetch(key);
        }
        self.gets.growing.remove(&get);
        self.gets.gets.remove(&get);
    }

    fn end_fetch(&mut self, key: FetchKey) -> Option<Fetch> {
        let fetch = self.gets.fetches.remove(&key)?;
        self.gets.without_ring.remove(&key);
        if fetch.is_resting {
            self.gets.resting.retain(|(_, resting)| *resting != key);
        }
        if let Some(get) = self.gets.gets.get_mut(&key.get) {
            get.fetches -= 1;
        }
        Some(fetch)
    }

    pub(super) fn place_gets_anew(&mut self) {
        let keys: Vec<FetchKey> = self.gets.fetches.keys().copied().collect();
        self.gets.resting.clear();
        for key in keys {
            if let Some(fetch) = self.gets.fetches.get_mut(&key) {
                fetch.is_resting = true;
                self.gets.resting.insert((Instant::default(), key));
            }
        }
    }

    pub(super) fn wake_gets(&mut self, now: Instant) {
        while let Some(&(due, key)) = self.gets.resting.first()
            && due <= now
        {
            self.gets.resting.pop_first();
            self.place_fetch(now, key);
        }
        if self.view.usable().is_some() {
            for key in std::mem::take(&mut self.gets.without_ring) {
                self.place_fetch(now, key);
            }
        }
    }

    pub(super) fn get_waits_for_ring(&mut self, key: FetchKey) {
        if let Some(fetch) = self.gets.fetches.get_mut(&key) {
            fetch.places.clear();
            if !fetch.is_resting {
                self.gets.without_ring.insert(key);
            }
        }
    }

    /// Asks for more blocks of files whose bytes were used up.
    pub(super) fn start_gets(&mut self, now: Instant) {
        let growing: Vec<GetId> = self.gets.growing.iter().copied().collect();
        for id in growing {
            while let Some(get) = self.gets.gets.get_mut(&id)
                && get.unconsumed < FILE_WINDOW
                && let Some(index) = get.blocks.next()
            {
                let found = get.manifest.as_ref().and_then(|manifest| manifest.block(index));
                let Some((block, length)) = found else {
                    continue;
                };
                get.unconsumed += length as u64;
                let key = FetchKey { get: id, index };
                let expected = Expected::Kind(BlockKind::Content);
                self.begin_fetch(now, key, block, expected, length as u64);
            }
            if self.gets.gets.get(&id).is_none_or(|get| get.blocks.is_empty()) {
                self.gets.growing.remove(&id);
            }
        }
    }

    pub(super) fn take_consumed(&mut self, _now: Instant, get: GetId, bytes: u64) {
        if let Some(get) = self.gets.gets.get_mut(&get) {
            get.unconsumed = get.unconsumed.saturating_sub(bytes);
        }
    }

    pub(super) fn send_gets(&mut self, now: Instant, node: NodeId) {
        loop {
            let Some(state) = self.nodes.get_mut(node) else {
                return;
            };
            let Some(&key) = state.to_get.front() else {
                return;
            };
            let is_asked = |it: &&Fetch| {
                it.places.iter().any(|(at, tried)| *at == node && *tried == Tried::Asked)
            };
            let Some(fetch) = self.gets.fetches.get(&key).filter(is_asked) else {
                state.to_get.pop_front();
                continue;
            };
            if !state.has_room_for_get(now, fetch.length) || state.link.is_none() {
                return;
            }
            state.to_get.pop_front();
            let get = BlockGet {
                block_uuid: fetch.block.to_wire(),
                ring_version: self.view.version().0,
                ..Default::default()
            };
            if let Some(request) = self.nodes.book(now, node, Asked::Get(key), fetch.length) {
                self.nodes.send(now, node, request, encode(&get, &[]));
            }
        }
    }

    pub(super) fn get_again(&mut self, now: Instant, node: NodeId, key: FetchKey) {
        let is_asked = |it: &Fetch| it.places.contains(&(node, Tried::Asked));
        if self.gets.fetches.get(&key).is_some_and(is_asked)
            && !self.gives_up_get(now, key, "its storage nodes are busy")
        {
            self.nodes.queue_get(node, key);
        }
    }

    pub(super) fn get_failed(&mut self, now: Instant, node: NodeId, key: FetchKey, why: &str) {
        self.tried(now, node, key, Tried::Failed, why);
    }

    pub(super) fn get_refused(
        &mut self,
        now: Instant,
        node: NodeId,
        key: FetchKey,
        code: ErrorCode,
        text: &str,
    ) {
        let is_absent = code == ErrorCode::NotFound;
        let tried = if is_absent { Tried::NotFound } else { Tried::Failed };
        self.tried(now, node, key, tried, text);
    }

    fn tried(&mut self, now: Instant, node: NodeId, key: FetchKey, how: Tried, why: &str) {
        let Some(fetch) = self.gets.fetches.get_mut(&key) else {
            return;
        };
        let Some(place) = fetch.places.iter_mut().find(|(at, _)| *at == node) else {
            return;
        };
        // What was passed over as late may still say that it has nothing.
        let was_asked = std::mem::replace(&mut place.1, how) == Tried::Asked;
        if was_asked || how == Tried::NotFound {
            self.ask_next(now, key, &format!("node {node}: {why}"));
        }
    }

    pub(super) fn take_content(
        &mut self,
        now: Instant,
        node: NodeId,
        key: FetchKey,
        head: &BlockContent,
        content: &[u8],
    ) {
        let Some(fetch) = self.gets.fetches.get(&key) else {
            return;
        };
        let is_whole = head.offset == 0
            && head.block_length == content.len() as u64
            && BlockId::from(head.block_uuid) == fetch.block;
        if !is_whole {
            return self.get_failed(now, node, key, "it sent another block, or a piece of one");
        }
        let proven = match fetch.expected {
            Expected::Kind(kind) => verify(kind, fetch.block, content).map(|_| kind),
            Expected::Either => recognise(fetch.block, content).map(|(kind, _)| kind),
        };
        match proven {
            Ok(kind) => self.take_proven(key, kind, content),
            Err(wrong) => self.get_failed(now, node, key, &wrong_bytes(wrong)),
        }
    }

    fn take_proven(&mut self, key: FetchKey, kind: BlockKind, content: &[u8]) {
        let id = key.get;
        self.end_fetch(key);
        let Some(get) = self.gets.gets.get_mut(&id) else {
            return;
        };
        match &get.target {
            Target::Block => self.deliver(id, 0, content.to_vec()),
            Target::File { file, range } if key.index == HEAD && kind == BlockKind::Manifest => {
                let manifest = match Manifest::open(*file, content) {
                    Ok(manifest) => manifest,
                    Err(error) => {
                        let error = TransferError::NotAFile { file: *file, why: error.to_string() };
                        return self.fail_get(id, error);
                    }
                };
                let length = manifest.length();
                let wanted = range.end.saturating_sub(range.start);
                get.blocks = manifest.blocks_of(range.start, wanted);
                get.manifest = Some(Arc::new(manifest));
                self.gets.growing.insert(id);
                self.outputs.push_back(Output::Opened { get: id, length });
            }
            Target::File { file, range } => {
                let index = if key.index == HEAD { 0 } else { key.index };
                // The digest proves the block, not that the manifest tells the truth about it.
                let said = get.manifest.as_ref().and_then(|manifest| manifest.block(index));
                if let Some((block, length)) = said
                    && length != content.len()
                {
                    let why = format!(
                        "its manifest says that block {block} has {length} bytes, and it has {}",
                        content.len()
                    );
                    let error = TransferError::NotAFile { file: *file, why };
                    return self.fail_get(id, error);
                }
                if key.index == HEAD {
                    let length = content.len() as u64;
                    self.outputs.push_back(Output::Opened { get: id, length });
                }
                let begin = index as u64 * limits::BLOCK_BYTES as u64;
                let length = content.len() as u64;
                let from = range.start.saturating_sub(begin).min(length);
                let to = range.end.saturating_sub(begin).min(length).max(from);
                // Only what is handed over has to be used up.
                get.unconsumed = get.unconsumed.saturating_sub(length - (to - from));
                let piece = content.get(from as usize..to as usize).unwrap_or_default();
                if !piece.is_empty() {
                    self.deliver(id, begin + from, piece.to_vec());
                }
            }
        }
        let has_ended = |get: &Get| get.fetches == 0 && get.blocks.is_empty();
        if let Some(get) = self.gets.gets.get(&id).filter(|get| has_ended(get)) {
            let result = Ok(get.delivered);
            self.gets.gets.remove(&id);
            self.gets.growing.remove(&id);
            self.outputs.push_back(Output::Fetched { get: id, result });
        }
    }

    fn deliver(&mut self, id: GetId, offset: u64, content: Vec<u8>) {
        if let Some(get) = self.gets.gets.get_mut(&id) {
            get.delivered += content.len() as u64;
            self.outputs.push_back(Output::Piece { get: id, offset, content });
        }
    }
}

impl Get {
    fn new(target: Target) -> Get {
        let blocks = 0..0;
        Get { target, manifest: None, blocks, fetches: 0, unconsumed: 0, delivered: 0 }
    }
}
