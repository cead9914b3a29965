//! Storage nodes as the tests need them: they keep blocks in a map, answer what they are told to,
//! and are reached after a tenth of a millisecond.

use std::collections::{BTreeMap, VecDeque};

use node::logic::network::{Link, NetworkEffect, NetworkEvent, Peer, Sender};
use node::logic::refusal::Refusal;
use proto::digest::verify;
use proto::ids::{BlockId, ClusterId, FileId, Incarnation, LogIndex, NodeId, RingVersion, StoreId};
use proto::messages::file::{
    BlockContent, BlockGet, BlockPresence, BlockPut, BlockQuery, BlockStored,
};
use proto::record::{Envelope, Message, Record, Records, encode};
use proto::ring::{Member, Ring};
use proto::status::{BlockKind, ErrorCode, Role};
use proto::time::{Duration, Instant};
use proto::wire::{WireUuid, items_of};

use super::super::{GetId, Output, PutId, PutReport, PutTerms, Transfer, TransferError};
use crate::logic::files::{BlockSource, FilePlan, FilePlanner};
use crate::logic::rings::{OlderVersion, RingAnswer};

/// One way.
const LATENCY: Duration = Duration::from_micros(100);

/// What a node does with requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    /// Answers.
    Well,
    /// Hears and says nothing.
    Silent,
    /// Refuses everything that stores.
    Refuses(ErrorCode),
    /// Says `busy` to so many requests, then it is well.
    Busy(u32),
    /// Sends wrong bytes.
    Damaged,
}

#[derive(Debug)]
pub(super) struct FakeNode {
    pub(super) mood: Mood,
    pub(super) blocks: BTreeMap<BlockId, (BlockKind, Vec<u8>)>,
    pub(super) hand_offs: BTreeMap<BlockId, NodeId>,
    pub(super) queries: u32,
    pub(super) puts: u32,
    pub(super) gets: u32,
    /// How often it took on a block.
    pub(super) taken: BTreeMap<BlockId, u32>,
    /// Replicas that it was told a block is to have.
    pub(super) wanted: BTreeMap<BlockId, u8>,
    pub(super) ring_version: u64,
    /// How often it got a new address.
    pub(super) moves: u32,
}

#[derive(Debug)]
enum Delivery {
    Connected(Link, NodeId, bool),
    Answer(Link, NodeId, Vec<u8>),
    Request(Link, NodeId, Vec<u8>),
    Ring,
}

/// A transfer, its nodes, and the time in which they live.
pub(super) struct Cluster {
    pub(super) transfer: Transfer,
    pub(super) now: Instant,
    pub(super) nodes: BTreeMap<NodeId, FakeNode>,
    pub(super) version: u64,
    pub(super) replicas: usize,
    /// Members that the masters tell of.
    pub(super) members: Vec<NodeId>,
    /// Versions before it, the newest first, with their members and whether they hold blocks.
    pub(super) older: Vec<(u64, Vec<NodeId>, bool)>,
    pub(super) ring_fetches: u32,
    pub(super) stored: BTreeMap<PutId, Result<PutReport, TransferError>>,
    pub(super) fetched: BTreeMap<GetId, Result<u64, TransferError>>,
    pub(super) pieces: BTreeMap<GetId, Vec<(u64, Vec<u8>)>>,
    pub(super) uses_up: bool,
    pub(super) masters_are_silent: bool,
    pub(super) reads: u32,
    steps: usize,
    sources: BTreeMap<PutId, (FilePlan, Vec<u8>)>,
    links: BTreeMap<Link, NodeId>,
    wire: VecDeque<(Instant, Delivery)>,
}

pub(super) fn id(number: u128) -> NodeId {
    NodeId(number)
}

impl Cluster {
    pub(super) fn new(nodes: u128, replicas: usize) -> Cluster {
        let node = |number| {
            let node = FakeNode {
                mood: Mood::Well,
                blocks: BTreeMap::new(),
                hand_offs: BTreeMap::new(),
                queries: 0,
                puts: 0,
                gets: 0,
                taken: BTreeMap::new(),
                wanted: BTreeMap::new(),
                ring_version: 1,
                moves: 0,
            };
            (id(number), node)
        };
        Cluster {
            transfer: Transfer::new(10..1000),
            now: Instant(1_000_000),
            nodes: (1..=nodes).map(node).collect(),
            version: 1,
            replicas,
            members: (1..=nodes).map(id).collect(),
            older: Vec::new(),
            ring_fetches: 0,
            stored: BTreeMap::new(),
            fetched: BTreeMap::new(),
            pieces: BTreeMap::new(),
            uses_up: true,
            masters_are_silent: false,
            reads: 0,
            steps: 0,
            sources: BTreeMap::new(),
            links: BTreeMap::new(),
            wire: VecDeque::new(),
        }
    }

    pub(super) fn ring(&self) -> RingAnswer {
        let member =
            |node: &NodeId| Member { node: *node, store: StoreId(node.0), weight: 1, zone: 0 };
        let of_version = |version: u64, members: &[NodeId]| {
            let members = members.iter().map(member).collect();
            Ring::new(RingVersion(version), 1 << 10, members).unwrap()
        };
        let ring = of_version(self.version, &self.members);
        let older = self.older.iter().map(|(version, members, holds_blocks)| OlderVersion {
            ring: of_version(*version, members),
            holds_blocks: *holds_blocks,
        });
        let older = older.collect();
        let all = self.older.iter().flat_map(|(_, members, _)| members).chain(&self.members);
        let address = |node: &NodeId| (*node, self.address(*node));
        let addresses = all.map(address).collect();
        let register_versions = Vec::new();
        let replica_count = self.replicas;
        RingAnswer { ring, older, replica_count, addresses, register_versions }
    }

    fn address(&self, node: NodeId) -> String {
        format!("tcp://{}:{}", self.nodes[&node].moves, node.0)
    }

    /// The nodes adopt the masters' ring of the next version.
    pub(super) fn next_ring(&mut self, members: Vec<NodeId>) {
        self.version += 1;
        self.members = members;
        for node in self.nodes.values_mut() {
            node.ring_version = self.version;
        }
    }

    pub(super) fn node(&mut self, number: u128) -> &mut FakeNode {
        self.nodes.get_mut(&id(number)).unwrap()
    }

    pub(super) fn put(&mut self, content: &[u8]) -> (FileId, PutId) {
        self.put_with(content, PutTerms::default())
    }

    pub(super) fn put_with(&mut self, content: &[u8], terms: PutTerms) -> (FileId, PutId) {
        let plan = FilePlanner::plan(content).unwrap();
        let mut effects = Vec::new();
        let blocks = plan.blocks.clone();
        let put = self.transfer.put(self.now, blocks, terms, &mut effects).unwrap();
        let file = plan.file;
        self.sources.insert(put, (plan, content.to_vec()));
        self.perform(effects);
        (file, put)
    }

    pub(super) fn get(&mut self, file: FileId, range: std::ops::Range<u64>) -> GetId {
        let mut effects = Vec::new();
        let get = self.transfer.get_file(self.now, file, range, None, &mut effects).unwrap();
        self.perform(effects);
        get
    }

    /// The bytes of a get that has ended well.
    pub(super) fn content(&self, get: GetId) -> Vec<u8> {
        let length = self.fetched[&get].clone().unwrap();
        let mut pieces = self.pieces.get(&get).cloned().unwrap_or_default();
        pieces.sort_unstable();
        let mut content: Vec<u8> = Vec::new();
        let first = pieces.first().map_or(0, |(offset, _)| *offset);
        for (offset, piece) in pieces {
            assert_eq!(offset - first, content.len() as u64, "pieces fit together");
            content.extend(piece);
        }
        assert_eq!(content.len() as u64, length);
        content
    }

    /// How many nodes have a block.
    pub(super) fn replicas_of(&self, block: BlockId) -> usize {
        self.nodes.values().filter(|node| node.blocks.contains_key(&block)).count()
    }

    /// Lets time pass until nothing is under way; returns how long that was.
    pub(super) fn run(&mut self) -> Duration {
        let began = self.now;
        for _ in 0..10_000_000 {
            if !self.step() {
                assert!(self.transfer.is_idle(), "it waits for ever: {:?}", self.transfer);
                return self.now.since(began);
            }
        }
        panic!("it never ends");
    }

    /// The next thing that happens; false where nothing will.
    pub(super) fn step(&mut self) -> bool {
        self.take_outputs();
        // Looking at everything costs more, the more there is.
        self.steps += 1;
        let often = 1 + self.sources.len() * self.sources.len() / 1000;
        if self.steps.is_multiple_of(often) {
            self.transfer.check_invariants();
        }
        if self.transfer.is_idle() {
            return false;
        }
        let deadline = self.transfer.next_deadline(self.now);
        let arrival = self.wire.front().map(|(due, _)| *due);
        let mut effects = Vec::new();
        match (arrival, deadline) {
            (Some(due), deadline) if deadline.is_none_or(|deadline| due <= deadline) => {
                self.now = self.now.max(due);
                let (_, delivery) = self.wire.pop_front().unwrap();
                self.deliver(delivery, &mut effects);
            }
            (_, Some(deadline)) => {
                assert!(deadline < self.now + Duration::from_secs(3600));
                self.now = self.now.max(deadline);
                self.transfer.tick(self.now, &mut effects);
            }
            (_, None) => return false,
        }
        self.perform(effects);
        true
    }

    fn take_outputs(&mut self) {
        while let Some(output) = self.transfer.next_output() {
            let mut effects: Vec<NetworkEffect> = Vec::new();
            match output {
                Output::FetchRing => {
                    self.ring_fetches += 1;
                    self.wire.push_back((self.now + LATENCY, Delivery::Ring));
                }
                Output::ReadSource { put, index } => {
                    self.reads += 1;
                    let (plan, content) = &self.sources[&put];
                    let bytes = match plan.source(index).unwrap() {
                        BlockSource::Manifest(bytes) => bytes,
                        BlockSource::File { offset, length } => {
                            &content[offset as usize..(offset + length) as usize]
                        }
                    };
                    self.transfer.source_read(self.now, put, index, Ok(bytes), &mut effects);
                }
                Output::Stored { put, result } => {
                    assert!(self.stored.insert(put, result).is_none(), "{put:?} ended twice");
                }
                Output::Opened { .. } => {}
                Output::Piece { get, offset, content } => {
                    let bytes = content.len() as u64;
                    self.pieces.entry(get).or_default().push((offset, content));
                    if self.uses_up {
                        self.transfer.consumed(self.now, get, bytes, &mut effects);
                    }
                }
                Output::Fetched { get, result } => {
                    assert!(self.fetched.insert(get, result).is_none(), "{get:?} ended twice");
                }
            }
            self.perform(effects);
        }
    }

    fn perform(&mut self, effects: Vec<NetworkEffect>) {
        for effect in effects {
            let due = self.now + LATENCY;
            match effect {
                NetworkEffect::Open { link, address } => {
                    let number = address.rsplit_once(':').unwrap().1.parse().unwrap();
                    let node = id(number);
                    // Nobody is where the node was before it moved.
                    if address == self.address(node) {
                        self.links.insert(link, node);
                        self.wire.push_back((due, Delivery::Connected(link, node, false)));
                    }
                }
                NetworkEffect::Close { link } => {
                    self.links.remove(&link);
                }
                NetworkEffect::Send { to, record } => {
                    let Peer::Link(link) = to else { panic!("to nobody") };
                    if let Some(node) = self.links.get(&link) {
                        self.wire.push_back((due, Delivery::Request(link, *node, record)));
                    }
                }
            }
        }
    }

    fn deliver(&mut self, delivery: Delivery, effects: &mut Vec<NetworkEffect>) {
        match delivery {
            Delivery::Ring => {
                let ring = (!self.masters_are_silent).then(|| self.ring());
                self.transfer.ring_answered(self.now, ring, effects);
            }
            Delivery::Connected(link, node, again) => {
                let is_silent = self.nodes[&node].mood == Mood::Silent;
                if self.links.get(&link) == Some(&node) && !is_silent {
                    let event = NetworkEvent::Connected {
                        link,
                        sender: sender(link, node),
                        cluster: ClusterId(1),
                        applied_index: LogIndex(0),
                        window: 0,
                        masters: String::new(),
                        again,
                    };
                    assert!(self.transfer.handle(self.now, &event, effects));
                }
            }
            Delivery::Request(link, node, record) => {
                if self.links.get(&link) == Some(&node) {
                    let record = Records::of(&record).next().unwrap().unwrap();
                    if let Some(answer) = self.nodes.get_mut(&node).unwrap().answer(&record) {
                        let due = self.now + LATENCY;
                        self.wire.push_back((due, Delivery::Answer(link, node, answer)));
                    }
                }
            }
            Delivery::Answer(link, node, record) => {
                if self.links.get(&link) == Some(&node) {
                    let record = Records::of(&record).next().unwrap().unwrap();
                    let event = NetworkEvent::Record { sender: sender(link, node), record };
                    assert!(self.transfer.handle(self.now, &event, effects));
                }
            }
        }
    }

    /// A node is reached elsewhere from now on.
    pub(super) fn move_node(&mut self, number: u128) {
        self.node(number).moves += 1;
        self.links.retain(|_, at| *at != id(number));
    }

    /// A node is restarted: what is on its way to it or from it is lost, what it stored is not.
    pub(super) fn restart(&mut self, number: u128) {
        let node = id(number);
        self.wire.retain(|(_, delivery)| match delivery {
            Delivery::Request(_, at, _) | Delivery::Answer(_, at, _) => *at != node,
            Delivery::Connected(..) | Delivery::Ring => true,
        });
        let links: Vec<Link> =
            self.links.iter().filter(|(_, at)| **at == node).map(|(link, _)| *link).collect();
        for link in links {
            self.wire.push_back((self.now + LATENCY, Delivery::Connected(link, node, true)));
        }
    }
}

fn sender(link: Link, node: NodeId) -> Sender {
    Sender { peer: Peer::Link(link), node, role: Role::Storage, incarnation: Incarnation(1) }
}

impl FakeNode {
    fn answer(&mut self, record: &Record<'_>) -> Option<Vec<u8>> {
        let request = record.request_id();
        let envelope = Envelope { request_id: request.0, ..Default::default() };
        let refused = |code| {
            let mut refusal = Refusal::new(code, record.message_type(), "as told");
            refusal.retry_after = Duration::from_millis(20);
            Some(refusal.to_record(request))
        };
        let is_get = record.message_type() == BlockGet::TYPE;
        match &mut self.mood {
            Mood::Silent => return None,
            Mood::Refuses(code) if !is_get => return refused(*code),
            Mood::Busy(0) => self.mood = Mood::Well,
            Mood::Busy(left) => {
                *left -= 1;
                return refused(ErrorCode::Busy);
            }
            Mood::Well | Mood::Refuses(_) | Mood::Damaged => {}
        }
        match record.message_type() {
            BlockQuery::TYPE => {
                self.queries += 1;
                let (query, [blocks]) = record.open::<BlockQuery, 1>().unwrap();
                if query.ring_version < self.ring_version {
                    return refused(ErrorCode::StaleRing);
                }
                if query.ring_version > self.ring_version {
                    return refused(ErrorCode::Unavailable);
                }
                let blocks = items_of::<WireUuid>(blocks).unwrap();
                let wanted = blocks.iter().map(|block| ((*block).into(), query.replica_count));
                self.wanted.extend(wanted);
                let has = |block: &WireUuid| u8::from(self.blocks.contains_key(&(*block).into()));
                let present: Vec<u8> = blocks.iter().map(has).collect();
                Some(encode(&BlockPresence { envelope, ..Default::default() }, &[&present]))
            }
            BlockPut::TYPE => {
                self.puts += 1;
                let (put, [content]) = record.open::<BlockPut, 1>().unwrap();
                let block = BlockId::from(put.block_uuid);
                let kind = BlockKind::from_wire(put.kind).unwrap();
                if put.ring_version < self.ring_version {
                    return refused(ErrorCode::StaleRing);
                }
                if put.ring_version > self.ring_version {
                    return refused(ErrorCode::Unavailable);
                }
                if verify(kind, block, content).is_err() {
                    return refused(ErrorCode::WrongDigest);
                }
                self.blocks.insert(block, (kind, content.to_vec()));
                *self.taken.entry(block).or_default() += 1;
                self.wanted.insert(block, put.replica_count);
                let hand_off = NodeId::from(put.hand_off_uuid);
                if !hand_off.is_nil() {
                    self.hand_offs.insert(block, hand_off);
                }
                let block_uuid = put.block_uuid;
                Some(encode(&BlockStored { envelope, block_uuid, ..Default::default() }, &[]))
            }
            BlockGet::TYPE => {
                self.gets += 1;
                let get: BlockGet = record.read().unwrap();
                if get.ring_version < self.ring_version {
                    return refused(ErrorCode::StaleRing);
                }
                let Some((kind, content)) = self.blocks.get(&get.block_uuid.into()) else {
                    return refused(ErrorCode::NotFound);
                };
                let mut content = content.clone();
                if self.mood == Mood::Damaged {
                    content.iter_mut().for_each(|byte| *byte ^= 1);
                }
                let head = BlockContent {
                    envelope,
                    block_uuid: get.block_uuid,
                    kind: kind.to_wire(),
                    block_length: content.len() as u64,
                    ..Default::default()
                };
                Some(encode(&head, &[&content]))
            }
            other => panic!("a storage node is not asked {other}"),
        }
    }
}
