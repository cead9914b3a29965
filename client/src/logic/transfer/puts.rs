//! Blocks on their way to the storage nodes: ask all owners, send what is missing, and count a
//! block as stored only when as many nodes as there are replicas said that it is durable.
//!
//! Deliberately not for reading the source or for what is in flight to a node.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proto::ids::{BlockId, NodeId, RequestId};
use proto::messages::file::{BlockPut, BlockQuery, BlockStored};
use proto::record::encode;
use proto::status::ErrorCode;
use proto::time::Instant;
use proto::wire::{WireUuid, bytes_of};

use super::nodes::Asked;
use super::{
    BlockKey, Output, PutId, PutReport, PutTerms, REST, SourceBlock, Transfer, TransferError,
};

/// Blocks that are being asked about or sent at a time, of all puts together.
const ACTIVE_BLOCKS: usize = 16_384;

/// Blocks of one question: 64 KiB of UUIDs.
const QUERY_BLOCKS: usize = 4096;

/// Blocks that are looked at for one that all of its nodes have room for, so that one slow node
/// does not hold up what others could take.
const LOOKED_AT: usize = 64;

/// What is known of one node that should hold a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PlaceState {
    /// Asked whether it has the block.
    Asked,
    /// It has not.
    Absent,
    /// The source is being read for it.
    Reading(RequestId),
    /// The block is on its way.
    Sent(RequestId),
    /// It said that the block is durable there.
    Durable,
    /// It cannot have it.
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    node: NodeId,
    /// The dead owner whose place this node takes; nil for an owner.
    hand_off: NodeId,
    state: PlaceState,
}

/// A block that is asked about or sent.
#[derive(Debug)]
struct ActiveBlock {
    source: SourceBlock,
    terms: PutTerms,
    places: Vec<Place>,
    /// Nodes that may still take a dead owner's place, the first at the end.
    spare: Vec<NodeId>,
    replicas: usize,
    /// Since when nothing about it succeeded; `None` where nothing failed.
    failing_since: Option<Instant>,
    was_sent: bool,
    disk_full: bool,
}

impl ActiveBlock {
    fn count(&self, is: impl Fn(PlaceState) -> bool) -> usize {
        self.places.iter().filter(|place| is(place.state)).count()
    }

    fn place(&mut self, node: NodeId) -> Option<&mut Place> {
        self.places.iter_mut().rev().find(|place| place.node == node)
    }
}

/// A put that has not ended.
#[derive(Debug)]
struct Put {
    blocks: Vec<SourceBlock>,
    terms: PutTerms,
    /// The first block that was not begun.
    next: usize,
    /// Positions of blocks that stand in the list before: a file of zeros sends one.
    doubles: BTreeSet<usize>,
    unfinished: usize,
    report: PutReport,
}

/// All puts that are under way.
#[derive(Debug, Default)]
pub(super) struct Puts {
    puts: BTreeMap<PutId, Put>,
    unstarted: VecDeque<PutId>,
    active: BTreeMap<BlockKey, ActiveBlock>,
    /// Blocks to be sent whose source has not been asked for.
    ready: BTreeSet<BlockKey>,
    without_ring: BTreeSet<BlockKey>,
    resting: BTreeSet<(Instant, BlockKey)>,
}

impl Puts {
    pub(super) fn len(&self) -> usize {
        self.puts.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.puts.is_empty()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.resting.first().map(|(due, _)| *due)
    }

    pub(super) fn check_invariants(&self) {
        for (key, block) in &self.active {
            let put = self.puts.get(&key.put);
            assert!(put.is_some_and(|put| key.index < put.next), "{key:?} belongs to a put");
            let live = block.count(|state| state != PlaceState::Failed);
            assert!(live <= block.replicas, "{key:?} is on its way to too many nodes");
            let waits = self.without_ring.contains(key)
                || self.ready.contains(key)
                || self.resting.iter().any(|(_, it)| it == key);
            assert!(waits || live > 0, "{key:?} waits for nothing");
        }
        for put in self.puts.values() {
            assert!(put.unfinished > 0, "a finished put is kept");
        }
        assert!(self.active.len() <= ACTIVE_BLOCKS, "too many blocks at a time");
    }
}

impl Transfer {
    pub(super) fn begin_put(&mut self, put: PutId, blocks: Vec<SourceBlock>, terms: PutTerms) {
        let mut seen = BTreeSet::new();
        let numbered = blocks.iter().enumerate();
        let doubles: BTreeSet<usize> =
            numbered.filter(|(_, it)| !seen.insert(it.block)).map(|(index, _)| index).collect();
        let length = |index: &usize| blocks.get(*index).map_or(0, |block| block.length);
        let report = PutReport {
            block_count: blocks.len() as u64,
            block_bytes: blocks.iter().map(|block| block.length).sum(),
            present_count: doubles.len() as u64,
            present_bytes: doubles.iter().map(length).sum(),
            ..PutReport::default()
        };
        if blocks.is_empty() {
            self.outputs.push_back(Output::Stored { put, result: Ok(report) });
            return;
        }
        let unfinished = blocks.len() - doubles.len();
        self.puts.puts.insert(put, Put { blocks, terms, next: 0, doubles, unfinished, report });
        self.puts.unstarted.push_back(put);
    }

    pub(super) fn start_puts(&mut self, now: Instant) {
        while self.puts.active.len() < ACTIVE_BLOCKS
            && let Some(&id) = self.puts.unstarted.front()
        {
            let Some(put) = self.puts.puts.get_mut(&id) else {
                self.puts.unstarted.pop_front();
                continue;
            };
            let Some(&source) = put.blocks.get(put.next) else {
                self.puts.unstarted.pop_front();
                continue;
            };
            let key = BlockKey { put: id, index: put.next };
            put.next += 1;
            if put.doubles.contains(&key.index) {
                continue;
            }
            let block = ActiveBlock {
                source,
                terms: put.terms,
                places: Vec::new(),
                spare: Vec::new(),
                replicas: 0,
                failing_since: None,
                was_sent: false,
                disk_full: false,
            };
            self.puts.active.insert(key, block);
            self.place_block(now, key);
        }
    }

    /// Decides by the newest ring where a block belongs, and asks there.
    fn place_block(&mut self, now: Instant, key: BlockKey) {
        self.clear_places(key);
        let Some(block) = self.puts.active.get_mut(&key) else {
            return;
        };
        let Some((placement, replicas)) =
            self.view.placement(block.source.block, block.terms.replica_count)
        else {
            if self.view.usable().is_none() {
                self.view.want_newer_than(self.view.version());
            }
            self.puts.without_ring.insert(key);
            return;
        };
        block.replicas = replicas;
        block.spare = placement.candidates;
        block.spare.reverse();
        if placement.owners.len() < replicas {
            let why = format!(
                "the ring has {} storage nodes where {replicas} replicas are wanted",
                placement.owners.len()
            );
            self.rest_put(now, key, &why);
            return;
        }
        for owner in placement.owners {
            self.add_place(now, key, owner, NodeId::default());
        }
        self.review(now, key, "all its owners are dead");
    }

    /// Asks a node for a block that it should hold; where it is known to be dead its place stays
    /// open for another one.
    fn add_place(&mut self, now: Instant, key: BlockKey, node: NodeId, hand_off: NodeId) {
        let is_down = self.nodes.get(node).is_some_and(|it| it.is_down(now));
        let address = self.view.address(node).map(str::to_owned);
        let is_reached =
            !is_down && address.is_some_and(|address| self.nodes.reach(node, &address).is_some());
        let state = if is_reached { PlaceState::Asked } else { PlaceState::Failed };
        if let Some(block) = self.puts.active.get_mut(&key) {
            block.places.push(Place { node, hand_off, state });
            if is_reached {
                self.nodes.queue_query(node, key);
            }
        }
    }

    /// Gives up what is under way for a block; what was sent may still arrive and harms nothing.
    fn clear_places(&mut self, key: BlockKey) {
        self.puts.ready.remove(&key);
        self.puts.without_ring.remove(&key);
        if let Some(block) = self.puts.active.get_mut(&key) {
            for place in block.places.drain(..) {
                if let PlaceState::Reading(request) = place.state {
                    self.nodes.forget(place.node, request);
                }
            }
        }
    }

    /// Goes on with a block after something about one of its places changed.
    fn review(&mut self, now: Instant, key: BlockKey, why: &str) {
        loop {
            let Some(block) = self.puts.active.get_mut(&key) else {
                return;
            };
            if block.count(|state| state == PlaceState::Durable) >= block.replicas {
                self.finish_block(key);
                return;
            }
            if block.count(|state| state != PlaceState::Failed) >= block.replicas {
                break;
            }
            let Some(spare) = block.spare.pop() else {
                self.rest_put(now, key, why);
                return;
            };
            // The spare node takes the place of an owner that nobody stands in for yet.
            let stands_in = |owner: &NodeId| {
                let live = |it: &&Place| it.state != PlaceState::Failed;
                block.places.iter().filter(live).any(|it| it.hand_off == *owner)
            };
            let dead = block.places.iter().filter(|it| it.state == PlaceState::Failed);
            let owners = dead.map(|it| if it.hand_off.is_nil() { it.node } else { it.hand_off });
            let owner = owners.into_iter().find(|it| !stands_in(it)).unwrap_or_default();
            self.add_place(now, key, spare, owner);
        }
        if let Some(block) = self.puts.active.get(&key)
            && block.count(|state| state == PlaceState::Absent) > 0
            && block.count(|state| state == PlaceState::Asked) == 0
        {
            self.puts.ready.insert(key);
        }
    }

    /// No node is left for one of the replicas: tries all again in a while, or gives up.
    fn rest_put(&mut self, now: Instant, key: BlockKey, why: &str) {
        let Some(block) = self.puts.active.get(&key) else {
            return;
        };
        if block.disk_full {
            let block = block.source.block;
            self.fail_put(key.put, TransferError::DiskFull { block });
        } else if !self.gives_up_put(now, key, why) {
            self.clear_places(key);
            self.puts.resting.insert((now + REST, key));
            self.view.want_refresh(now);
        }
    }

    /// Counts a failure of a block; true where it went on for too long and ended the put.
    fn gives_up_put(&mut self, now: Instant, key: BlockKey, why: &str) -> bool {
        let Some(block) = self.puts.active.get_mut(&key) else {
            return true;
        };
        let since = *block.failing_since.get_or_insert(now);
        let is_over = now >= since + self.give_up_after;
        if is_over {
            let (block, why) = (block.source.block, why.to_owned());
            self.fail_put(key.put, TransferError::Unavailable { block, why });
        }
        is_over
    }

    /// The masters did not tell the ring.
    pub(super) fn puts_miss_the_ring(&mut self, now: Instant) {
        for key in self.puts.without_ring.clone() {
            self.gives_up_put(now, key, "the masters do not tell the ring");
        }
    }

    fn finish_block(&mut self, key: BlockKey) {
        self.clear_places(key);
        let Some(block) = self.puts.active.remove(&key) else {
            return;
        };
        let Some(put) = self.puts.puts.get_mut(&key.put) else {
            return;
        };
        if !block.was_sent {
            put.report.present_count += 1;
            put.report.present_bytes += block.source.length;
        }
        put.report.note_replicas(block.replicas);
        put.unfinished -= 1;
        if put.unfinished == 0 {
            let result = Ok(put.report);
            self.puts.puts.remove(&key.put);
            self.outputs.push_back(Output::Stored { put: key.put, result });
        }
    }

    fn fail_put(&mut self, put: PutId, error: TransferError) {
        if self.puts.puts.contains_key(&put) {
            self.forget_put(put);
            self.outputs.push_back(Output::Stored { put, result: Err(error) });
        }
    }

    pub(super) fn forget_put(&mut self, put: PutId) {
        let keys = BlockKey { put, index: 0 }..=BlockKey { put, index: usize::MAX };
        let keys: Vec<BlockKey> = self.puts.active.range(keys).map(|(key, _)| *key).collect();
        for key in keys {
            self.clear_places(key);
            self.puts.active.remove(&key);
        }
        self.puts.resting.retain(|(_, key)| key.put != put);
        self.puts.puts.remove(&put);
    }

    /// Everything that is under way is placed again, by a newer ring. What was sent and stored is
    /// found there when it is asked for.
    pub(super) fn place_puts_anew(&mut self) {
        let keys: Vec<BlockKey> = self.puts.active.keys().copied().collect();
        self.puts.resting.clear();
        for key in keys {
            self.clear_places(key);
            self.puts.resting.insert((Instant::default(), key));
        }
    }

    pub(super) fn wake_puts(&mut self, now: Instant) {
        while let Some(&(due, key)) = self.puts.resting.first()
            && due <= now
        {
            self.puts.resting.pop_first();
            self.place_block(now, key);
        }
        if self.view.usable().is_some() {
            for key in std::mem::take(&mut self.puts.without_ring) {
                self.place_block(now, key);
            }
        }
    }

    pub(super) fn put_waits_for_ring(&mut self, key: BlockKey) {
        if self.puts.active.contains_key(&key) {
            self.clear_places(key);
            self.puts.without_ring.insert(key);
        }
    }

    pub(super) fn send_query(&mut self, now: Instant, node: NodeId) {
        let Some(state) = self.nodes.get_mut(node) else {
            return;
        };
        if state.query_in_flight.is_some() || state.is_held(now) || state.link.is_none() {
            return;
        }
        let mut keys = Vec::new();
        let mut blocks: Vec<WireUuid> = Vec::new();
        let mut terms = None;
        while keys.len() < QUERY_BLOCKS
            && let Some(&key) = state.to_query.front()
        {
            // What was given up meanwhile is not asked for.
            let wanted = self.puts.active.get(&key).filter(|block| {
                let is_asked = |it: &Place| it.node == node && it.state == PlaceState::Asked;
                block.places.iter().any(is_asked)
            });
            if let Some(block) = wanted {
                if terms.is_some_and(|terms| terms != block.terms) {
                    break;
                }
                terms = Some(block.terms);
                blocks.push(block.source.block.to_wire());
                keys.push(key);
            }
            state.to_query.pop_front();
        }
        let Some(PutTerms { pin, replica_count }) = terms else {
            return;
        };
        let query = BlockQuery {
            ring_version: self.view.version().0,
            pin_uuid: WireUuid::new(pin.uuid),
            pin_round: pin.round,
            replica_count,
            ..Default::default()
        };
        let record = encode(&query, &[bytes_of(&blocks)]);
        if let Some(request) = self.nodes.book(now, node, Asked::Query(keys), 0) {
            self.nodes.send(now, node, request, record);
        }
    }

    pub(super) fn query_again(&mut self, now: Instant, node: NodeId, key: BlockKey) {
        let place = self.puts.active.get_mut(&key).and_then(|block| block.place(node));
        if place.is_some_and(|place| place.state == PlaceState::Asked)
            && !self.gives_up_put(now, key, "its storage nodes are busy")
        {
            let address = self.view.address(node).map(str::to_owned);
            if address.is_some_and(|address| self.nodes.reach(node, &address).is_some()) {
                self.nodes.queue_query(node, key);
            } else {
                self.put_failed(now, node, key, "it has no address");
            }
        }
    }

    pub(super) fn take_presence(
        &mut self,
        now: Instant,
        node: NodeId,
        keys: &[BlockKey],
        present: &[u8],
    ) {
        if present.len() != keys.len() || present.iter().any(|flag| *flag > 1) {
            for key in keys {
                self.put_failed(now, node, *key, "it answered another question");
            }
            return;
        }
        for (key, flag) in keys.iter().zip(present) {
            let place = self.puts.active.get_mut(key).and_then(|block| block.place(node));
            if let Some(place) = place
                && place.state == PlaceState::Asked
            {
                let is_present = *flag == 1;
                let place_state = if is_present { PlaceState::Durable } else { PlaceState::Absent };
                place.state = place_state;
                self.review(now, *key, "");
            }
        }
    }

    /// Asks for the source of blocks that all of their nodes have room for.
    pub(super) fn read_sources(&mut self, now: Instant) {
        let looked_at: Vec<BlockKey> = self.puts.ready.iter().copied().take(LOOKED_AT).collect();
        let mut without_room = 0;
        let mut next = looked_at;
        while let Some(&last) = next.last() {
            for key in next {
                if !self.read_source(now, key) {
                    without_room += 1;
                }
            }
            if without_room >= LOOKED_AT {
                break;
            }
            let behind = (std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded);
            next = self.puts.ready.range(behind).copied().take(LOOKED_AT).collect();
        }
    }

    /// False where one of the block's nodes has no room at present.
    fn read_source(&mut self, now: Instant, key: BlockKey) -> bool {
        let Some(block) = self.puts.active.get(&key) else {
            return true;
        };
        let length = block.source.length;
        let absent = block.places.iter().filter(|it| it.state == PlaceState::Absent);
        let targets: Vec<NodeId> = absent.map(|place| place.node).collect();
        for node in &targets {
            let state = self.nodes.get(*node);
            if state.is_none_or(|it| it.is_down(now) || it.link.is_none()) {
                self.puts.ready.remove(&key);
                self.put_failed(now, *node, key, "it does not answer");
                return true;
            }
        }
        let has_room = |node: &NodeId| {
            self.nodes.get(*node).is_some_and(|it| it.has_room_for_put(now, length))
        };
        if !targets.iter().all(has_room) {
            return false;
        }
        self.puts.ready.remove(&key);
        for node in targets {
            let request = self.nodes.book(now, node, Asked::Put(key), length);
            let place = self.puts.active.get_mut(&key).and_then(|block| block.place(node));
            if let (Some(place), Some(request)) = (place, request) {
                place.state = PlaceState::Reading(request);
            }
        }
        self.outputs.push_back(Output::ReadSource { put: key.put, index: key.index });
        true
    }

    pub(super) fn take_source(
        &mut self,
        now: Instant,
        key: BlockKey,
        content: Result<&[u8], String>,
    ) {
        let Some(block) = self.puts.active.get_mut(&key) else {
            return;
        };
        let id: BlockId = block.source.block;
        let content = match content {
            Ok(content) if content.len() as u64 == block.source.length => content,
            Ok(_) => return self.fail_put(key.put, TransferError::SourceChanged { block: id }),
            Err(why) => return self.fail_put(key.put, TransferError::Source { why }),
        };
        for place in &mut block.places {
            let PlaceState::Reading(request) = place.state else {
                continue;
            };
            let put = BlockPut {
                block_uuid: id.to_wire(),
                kind: block.source.kind.to_wire(),
                ring_version: self.view.version().0,
                pin_uuid: WireUuid::new(block.terms.pin.uuid),
                pin_round: block.terms.pin.round,
                hand_off_uuid: place.hand_off.to_wire(),
                replica_count: block.terms.replica_count,
                ..Default::default()
            };
            self.nodes.send(now, place.node, request, encode(&put, &[content]));
            place.state = PlaceState::Sent(request);
            block.was_sent = true;
        }
    }

    pub(super) fn take_stored(
        &mut self,
        now: Instant,
        node: NodeId,
        key: BlockKey,
        request: RequestId,
        stored: &BlockStored,
    ) {
        let Some(block) = self.puts.active.get_mut(&key) else {
            return;
        };
        let (id, length) = (block.source.block, block.source.length);
        let Some(place) = block.place(node).filter(|it| it.state == PlaceState::Sent(request))
        else {
            return;
        };
        if BlockId::from(stored.block_uuid) != id {
            self.put_failed(now, node, key, "it stored another block");
            return;
        }
        place.state = PlaceState::Durable;
        block.failing_since = None;
        if let Some(put) = self.puts.puts.get_mut(&key.put) {
            put.report.sent_bytes += length;
        }
        self.review(now, key, "");
    }

    /// The block has to be sent to the node once more, because what was sent did not arrive or was
    /// too much for it.
    pub(super) fn put_again(&mut self, now: Instant, node: NodeId, key: BlockKey) {
        let Some(block) = self.puts.active.get_mut(&key) else {
            return;
        };
        if let Some(place) = block.place(node)
            && let PlaceState::Sent(_) | PlaceState::Reading(_) = place.state
        {
            place.state = PlaceState::Absent;
            let is_ready = block.count(|state| state == PlaceState::Asked) == 0;
            if !self.gives_up_put(now, key, "its storage nodes are busy") && is_ready {
                self.puts.ready.insert(key);
            }
        }
    }

    pub(super) fn put_failed(&mut self, now: Instant, node: NodeId, key: BlockKey, why: &str) {
        let place = self.puts.active.get_mut(&key).and_then(|block| block.place(node));
        if let Some(place) = place
            && place.state != PlaceState::Durable
            && place.state != PlaceState::Failed
        {
            if let PlaceState::Reading(request) = place.state {
                self.nodes.forget(node, request);
            }
            place.state = PlaceState::Failed;
            self.review(now, key, &format!("node {node}: {why}"));
        }
    }

    pub(super) fn put_refused(
        &mut self,
        now: Instant,
        node: NodeId,
        key: BlockKey,
        code: ErrorCode,
        text: String,
    ) {
        let Some(block) = self.puts.active.get_mut(&key) else {
            return;
        };
        let id = block.source.block;
        match code {
            ErrorCode::DiskFull => {
                block.disk_full = true;
                self.put_failed(now, node, key, &text);
            }
            ErrorCode::PinLapsed => self.fail_put(key.put, TransferError::PinLapsed),
            ErrorCode::WrongDigest => {
                self.fail_put(key.put, TransferError::SourceChanged { block: id });
            }
            _ if code.is_retryable() => self.put_failed(now, node, key, &text),
            _ => self.fail_put(key.put, TransferError::Refused { code, text }),
        }
    }
}
