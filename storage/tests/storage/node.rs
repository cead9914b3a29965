//! Several storage nodes, each the shipped logic, edge and disk, connected without sockets: what
//! is refused, what is answered, and files that are gathered from several nodes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use fastrand::Rng;
use node::files::Files;
use node::logic::network::{Link, NetworkEffect, NetworkEvent, Peer, Sender};
use node::logic::refusal::Refusal;
use proto::digest::Digest;
use proto::ids::{BlockId, ClusterId, FileId, Incarnation, LogIndex, NodeId, RequestId, StoreId};
use proto::limits::BLOCK_BYTES;
use proto::manifest::{Manifest, name_file};
use proto::messages::file::{
    BlockContent, BlockGet, BlockPresence, BlockPut, BlockQuery, BlockStored, FileRequest,
    FileResponse, StorageCounters, StorageQuery, StorageSpace,
};
use proto::messages::job::JobList;
use proto::messages::node::{NodeRegister, NodeRegistered, RingMember, RingQuery, RingReply};
use proto::record::{self, Message, Record, Records, encode, encode_given, set_request_id};
use proto::ring::{Member, Ring};
use proto::status::{BlockKind, ErrorCode, Role};
use proto::time::{Duration, Instant};
use proto::wire::bytes_of;
use storage::disk::{Disk, DiskLimits};
use storage::edge::{Begun, Finished, Kept, Performer};
use storage::logic::{Bounds, Event, Registration, Storage, StorageLimits};

use crate::files::FakeFiles;

const CLIENT: Link = Link(500);
const NODE_LINKS: u32 = 9_000;
const MASTER: &str = "tcp://master:1";
const CLUSTER: ClusterId = ClusterId(77);

struct Node {
    id: NodeId,
    files: FakeFiles,
    logic: Storage,
    disk: Disk,
    kept: Kept,
    performer: Performer,
    links: BTreeMap<Link, String>,
    /// Puts that the disk has not been given, where a test holds it.
    held: Option<Vec<storage::disk::Put>>,
    /// Records for the client.
    answers: Vec<Vec<u8>>,
    is_dead: bool,
}

impl Node {
    fn new(number: usize, limits: StorageLimits) -> Node {
        let files = FakeFiles::default();
        files.create_dir_all(Path::new("/data")).unwrap();
        files.sync_dir(Path::new("/")).unwrap();
        let disk_limits = DiskLimits { prepared_bytes: 1000, ..DiskLimits::default() };
        let disk = Disk::open(Arc::new(files.clone()), Path::new("/data"), disk_limits).unwrap();
        let id = NodeId(100 + number as u128);
        let registration = Registration {
            node: id,
            incarnation: Incarnation(1),
            store: StoreId(200 + number as u128),
            cluster: ClusterId::default(),
            weight: 100,
            capacity_bytes: 1 << 40,
            zone: String::new(),
            address: address(number),
            telemetry_address: String::new(),
            masters: vec![MASTER.to_owned()],
        };
        Node {
            id,
            files,
            logic: Storage::new(registration, limits, Rng::with_seed(number as u64)),
            performer: Performer::new(disk.reader(), Arc::new(|| (1000, 400))),
            disk,
            kept: Kept::default(),
            links: BTreeMap::new(),
            held: None,
            answers: Vec::new(),
            is_dead: false,
        }
    }
}

fn address(number: usize) -> String {
    format!("tcp://storage:{number}")
}

struct World {
    now: Instant,
    nodes: Vec<Node>,
    ring_version: u64,
    master_is_silent: bool,
    registrations: usize,
    ring_queries: usize,
}

impl World {
    fn new(count: usize) -> World {
        World::with_limits(count, StorageLimits::default())
    }

    fn with_limits(count: usize, limits: StorageLimits) -> World {
        let nodes = (0..count).map(|number| Node::new(number, limits)).collect();
        let mut world = World {
            now: Instant(1),
            nodes,
            ring_version: 3,
            master_is_silent: false,
            registrations: 0,
            ring_queries: 0,
        };
        for at in 0..count {
            world.handle(at, Event::Tick);
        }
        world
    }

    fn ring(&self) -> Ring {
        let members = self.members().iter().map(Member::from).collect();
        Ring::new(proto::ids::RingVersion(self.ring_version), 1 << 16, members).unwrap()
    }

    fn members(&self) -> Vec<RingMember> {
        let members = self.nodes.iter().enumerate().map(|(number, node)| RingMember {
            node_uuid: node.id.to_wire(),
            store_uuid: StoreId(200 + number as u128).to_wire(),
            weight: 100,
            zone: 0,
            address_length: address(number).len() as u64,
        });
        members.collect()
    }

    fn owners(&self, block: BlockId) -> Vec<usize> {
        let owners = self.ring().owners(block, 2);
        owners.iter().map(|id| self.nodes.iter().position(|node| node.id == *id).unwrap()).collect()
    }

    /// What a master says; the test's stand-in for a whole cluster of them.
    fn master(&mut self, asked: &[u8]) -> Option<Vec<u8>> {
        if self.master_is_silent {
            return None;
        }
        let asked = Records::of(asked).next().unwrap().unwrap();
        let mut answer = match asked.message_type() {
            NodeRegister::TYPE => {
                let register: NodeRegister = asked.read().unwrap();
                assert_eq!({ register.role }, Role::Storage.to_wire());
                self.registrations += 1;
                encode(&NodeRegistered { index: 9, ..NodeRegistered::default() }, &[b""])
            }
            RingQuery::TYPE => {
                self.ring_queries += 1;
                let reply = RingReply {
                    ring_version: self.ring_version,
                    partition_count: 1 << 16,
                    replica_count: 2,
                    ..RingReply::default()
                };
                let addresses: String = (0..self.nodes.len()).map(address).collect();
                encode(&reply, &[bytes_of(&self.members()), addresses.as_bytes()])
            }
            other => panic!("a storage node asks a master {other}"),
        };
        set_request_id(&mut answer, asked.request_id());
        Some(answer)
    }

    fn deliver(&mut self, at: usize, from: Link, record: &[u8]) {
        if self.nodes[at].is_dead {
            return;
        }
        let record = Records::of(record).next().unwrap().unwrap();
        let sender = Sender {
            peer: Peer::Link(from),
            node: NodeId(1),
            role: Role::Client,
            incarnation: Incarnation(0),
        };
        self.handle(at, Event::Network(NetworkEvent::Record { sender, record }));
    }

    fn handle(&mut self, at: usize, event: Event<'_>) {
        let mut effects = Vec::new();
        let node = &mut self.nodes[at];
        node.logic.handle(self.now, event, &mut effects);
        node.logic.check_invariants();
        for effect in effects {
            let node = &mut self.nodes[at];
            match node.kept.begin(effect) {
                Begun::Network(effect) => self.network(at, effect),
                Begun::Put(put) => match &mut node.held {
                    Some(held) => held.push(put),
                    None => {
                        for done in node.disk.store(vec![put]) {
                            self.handle(at, Event::PutDone(done));
                        }
                    }
                },
                Begun::Work(work) => {
                    let done = node.performer.perform(work);
                    match node.kept.finish(done) {
                        Finished::Event(event) => self.handle(at, event),
                        Finished::Network(effect) => self.network(at, effect),
                    }
                }
                Begun::Join(cluster) => assert_eq!(cluster, CLUSTER),
                Begun::Nothing => {}
            }
        }
    }

    fn network(&mut self, at: usize, effect: NetworkEffect) {
        match effect {
            NetworkEffect::Open { link, address } => {
                self.nodes[at].links.insert(link, address);
                let sender = Sender {
                    peer: Peer::Link(link),
                    node: NodeId(2),
                    role: Role::Master,
                    incarnation: Incarnation(1),
                };
                self.handle(
                    at,
                    Event::Network(NetworkEvent::Connected {
                        link,
                        sender,
                        cluster: CLUSTER,
                        applied_index: LogIndex(0),
                        window: 64,
                        masters: MASTER.to_owned(),
                        again: false,
                    }),
                );
            }
            NetworkEffect::Close { link } => {
                self.nodes[at].links.remove(&link);
            }
            NetworkEffect::Send { to: Peer::Link(CLIENT), record } => {
                self.nodes[at].answers.push(record);
            }
            NetworkEffect::Send { to: Peer::Link(link), record } if link.0 >= 1 << 16 => {
                let Some(to) = self.nodes[at].links.get(&link) else { return };
                let to = (0..self.nodes.len()).find(|&number| address(number) == *to).unwrap();
                self.deliver(to, Link(NODE_LINKS + at as u32), &record);
            }
            NetworkEffect::Send { to: Peer::Link(link), record } if link.0 >= NODE_LINKS => {
                let to = (link.0 - NODE_LINKS) as usize;
                let its = self.nodes[to].links.iter().find(|it| *it.1 == address(at));
                if let Some((&link, _)) = its {
                    self.deliver(to, link, &record);
                }
            }
            NetworkEffect::Send { to: Peer::Link(link), record } => {
                assert_eq!(self.nodes[at].links.get(&link).unwrap(), MASTER);
                if let Some(answer) = self.master(&record) {
                    self.deliver(at, link, &answer);
                }
            }
            NetworkEffect::Send { to, .. } => panic!("nobody is {to:?}"),
        }
    }

    /// Lets time pass until nothing is due for a second.
    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let due = self.nodes.iter().map(|node| node.logic.next_deadline());
            let next = due.flatten().min().filter(|next| *next <= end);
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            for at in 0..self.nodes.len() {
                self.handle(at, Event::Tick);
            }
        }
        self.now = end;
    }

    fn ask(&mut self, at: usize, mut record: Vec<u8>) -> Answer {
        set_request_id(&mut record, RequestId(42));
        self.deliver(at, CLIENT, &record);
        self.answer(at)
    }

    fn answer(&mut self, at: usize) -> Answer {
        let mut answers = std::mem::take(&mut self.nodes[at].answers);
        assert_eq!(answers.len(), 1, "one answer");
        Answer(answers.remove(0))
    }

    fn put(&mut self, at: usize, kind: BlockKind, content: &[u8]) -> BlockId {
        let (block, record) = put_record(kind, content, self.ring_version);
        let answer = self.ask(at, record);
        let stored: BlockStored = answer.record().read().unwrap();
        assert_eq!(BlockId::from(stored.block_uuid), block);
        block
    }

    /// Stores a file as a client does: each block on its two owners.
    fn put_file(&mut self, content: &[u8]) -> FileId {
        let (file, manifest) = name_file(content).unwrap();
        // An empty file is one empty block.
        for block in content.chunks(BLOCK_BYTES).chain(content.is_empty().then_some(content)) {
            self.put_replicas(BlockKind::Content, block);
        }
        if let Some(manifest) = manifest {
            self.put_replicas(BlockKind::Manifest, &manifest.encode());
        }
        file
    }

    fn put_replicas(&mut self, kind: BlockKind, content: &[u8]) {
        let block = Digest::of(kind, content).block_id();
        for at in self.owners(block) {
            self.put(at, kind, content);
        }
    }

    fn assert_idle(&self) {
        for node in &self.nodes {
            assert_eq!(node.kept.count(), 0, "nothing is kept");
            assert!(
                node.logic.explain().ends_with("0 puts, 0 reads and 0 whole files are going on")
            );
        }
    }
}

struct Answer(Vec<u8>);

impl Answer {
    fn record(&self) -> Record<'_> {
        let record = Records::of(&self.0).next().unwrap().unwrap();
        if !record.is_given_form() {
            assert_eq!(record.request_id(), RequestId(42));
        }
        record
    }

    fn code(&self) -> ErrorCode {
        self.refusal().code
    }

    fn refusal(&self) -> Refusal {
        Refusal::from_record(&self.record()).unwrap()
    }

    fn file(&self) -> (FileResponse, &[u8]) {
        if self.record().message_type() != FileResponse::TYPE {
            panic!("refused: {:?}", self.refusal());
        }
        let (response, [content]) = self.record().open::<FileResponse, 1>().unwrap();
        // Both borrow the answer, not the record that was read for a moment.
        let length = content.len();
        (response, &self.0[self.0.len() - length..])
    }
}

fn put_record(kind: BlockKind, content: &[u8], ring_version: u64) -> (BlockId, Vec<u8>) {
    let block = Digest::of(kind, content).block_id();
    let put = BlockPut {
        block_uuid: block.to_wire(),
        kind: kind.to_wire(),
        ring_version,
        ..BlockPut::default()
    };
    (block, encode(&put, &[content]))
}

fn get_record(block: BlockId, ring_version: u64, offset: u64, length: u64) -> Vec<u8> {
    let block_uuid = block.to_wire();
    encode(&BlockGet { block_uuid, ring_version, offset, length, ..BlockGet::default() }, &[])
}

fn file_record(file: FileId) -> Vec<u8> {
    encode(&FileRequest { file_uuid: file.to_wire(), ..FileRequest::default() }, &[])
}

fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut content = vec![0; length];
    Rng::with_seed(seed).fill(&mut content);
    content
}

#[test]
fn a_node_registers_once_and_refuses_puts_until_it_knows_the_ring() {
    let mut world = World::new(1);
    world.master_is_silent = true;
    world.nodes[0] = Node::new(0, StorageLimits::default());
    world.registrations = 0;
    world.handle(0, Event::Tick);
    let (_, record) = put_record(BlockKind::Content, b"early", 3);
    assert_eq!(world.ask(0, record.clone()).code(), ErrorCode::Unavailable);
    assert!(world.nodes[0].logic.explain().contains("refusing puts"));
    // Nor does it know who else may have a file.
    assert_eq!(world.ask(0, file_record(FileId(9))).code(), ErrorCode::Unavailable);
    world.master_is_silent = false;
    world.pass(Duration::from_secs(10));
    assert_eq!(world.registrations, 1);
    assert_eq!(world.nodes[0].logic.ring_version().0, 3);
    assert_eq!(world.ask(0, record).record().message_type(), BlockStored::TYPE);
    assert!((8..=10).contains(&world.ring_queries), "{}", world.ring_queries);
}

#[test]
fn a_stored_block_is_found_and_read_whole_or_in_pieces() {
    let mut world = World::new(1);
    let content = bytes(100_000, 1);
    let block = world.put(0, BlockKind::Content, &content);
    let again = world.ask(0, put_record(BlockKind::Content, &content, 3).1);
    assert_eq!({ again.record().read::<BlockStored>().unwrap().was_present }, 1);
    for (offset, length, wanted) in [
        (0, 0, &content[..]),
        (10, 0, &content[10..]),
        (99_999, 50, &content[99_999..]),
        (500, 7, &content[500..507]),
        (100_000, 0, &[]),
    ] {
        let answer = world.ask(0, get_record(block, 3, offset, length));
        let record = answer.record();
        let (head, [piece]) = record.open::<BlockContent, 1>().unwrap();
        assert_eq!(piece, wanted);
        assert_eq!({ head.block_length }, 100_000);
        assert_eq!({ head.offset }, offset);
        assert_eq!(head.kind, BlockKind::Content.to_wire());
    }
    assert_eq!(world.ask(0, get_record(block, 3, 100_001, 0)).code(), ErrorCode::Invalid);
    assert_eq!(world.ask(0, get_record(BlockId(5), 3, 0, 0)).code(), ErrorCode::NotFound);
    assert_eq!(world.ask(0, get_record(BlockId(5), 0, 0, 0)).code(), ErrorCode::NotFound);
    let query = BlockQuery { ring_version: 3, ..BlockQuery::default() };
    let blocks = [BlockId(5).to_wire(), block.to_wire()];
    let answer = world.ask(0, encode(&query, &[bytes_of(&blocks)]));
    assert_eq!(answer.record().open::<BlockPresence, 1>().unwrap().1[0], [0, 1]);

    let answer = world.ask(0, encode(&StorageQuery::default(), &[]));
    let record = answer.record();
    let (space, [counters]) = record.open::<StorageSpace, 1>().unwrap();
    assert_eq!(({ space.total_bytes }, { space.free_bytes }), (1000, 400));
    let wanted = StorageCounters {
        block_count: 1,
        block_bytes: 100_000,
        put_count: 1,
        put_bytes: 100_000,
        get_count: 5,
        get_bytes: 100_000 + 99_990 + 1 + 7,
        damaged_count: 0,
    };
    assert_eq!(counters, bytes_of(&[wanted]));
    world.assert_idle();
}

#[test]
fn an_older_ring_is_refused_and_a_newer_one_fetched() {
    let mut world = World::new(1);
    let block = world.put(0, BlockKind::Content, b"present");
    let old = |kind| put_record(kind, b"old", 2).1;
    assert_eq!(world.ask(0, old(BlockKind::Content)).code(), ErrorCode::StaleRing);
    let query = BlockQuery { ring_version: 2, ..BlockQuery::default() };
    assert_eq!(world.ask(0, encode(&query, &[&[]])).code(), ErrorCode::StaleRing);
    // What is there is right under any ring; what is not may be elsewhere under the newer one.
    assert_eq!(
        world.ask(0, get_record(block, 2, 0, 0)).record().message_type(),
        BlockContent::TYPE
    );
    assert_eq!(world.ask(0, get_record(BlockId(5), 2, 0, 0)).code(), ErrorCode::StaleRing);
    world.ring_version = 4;
    world.pass(Duration::from_millis(60));
    assert_eq!(world.nodes[0].logic.ring_version().0, 3);
    let stored = world.ask(0, put_record(BlockKind::Content, b"new", 4).1);
    assert_eq!(stored.record().message_type(), BlockStored::TYPE);
    assert_eq!(world.nodes[0].logic.ring_version().0, 4);
}

#[test]
fn what_makes_no_sense_is_refused_with_its_reason() {
    let mut world = World::new(1);
    let (_, mut wrong) = put_record(BlockKind::Content, b"bytes", 3);
    *wrong.last_mut().unwrap() ^= 1;
    assert_eq!(world.ask(0, wrong).code(), ErrorCode::WrongDigest);
    let large = vec![0; BLOCK_BYTES + 1];
    let (_, large) = put_record(BlockKind::Content, &large, 3);
    assert_eq!(world.ask(0, large).code(), ErrorCode::TooLarge);
    let put = BlockPut { kind: 9, ring_version: 3, ..BlockPut::default() };
    assert_eq!(world.ask(0, encode(&put, &[b""])).code(), ErrorCode::Invalid);
    assert_eq!(world.ask(0, encode(&JobList::default(), &[])).code(), ErrorCode::UnknownType);
    let refused = world.ask(0, encode(&JobList::default(), &[])).refusal();
    assert_eq!(refused.refused_type, JobList::TYPE);
    // Nothing is answered to an answer.
    let error = Refusal::new(ErrorCode::Invalid, 0, "no").to_record(RequestId(7));
    world.deliver(0, CLIENT, &error);
    assert!(world.nodes[0].answers.is_empty());
    world.assert_idle();
}

#[test]
fn more_than_the_disk_is_given_at_once_is_busy() {
    let bounds = Bounds { peer_count: 3, peer_bytes: 1000, count: 10, bytes: 10_000 };
    let mut world =
        World::with_limits(1, StorageLimits { puts: bounds, ..StorageLimits::default() });
    world.nodes[0].held = Some(Vec::new());
    let send = |world: &mut World, length: usize, seed| {
        let (_, mut record) = put_record(BlockKind::Content, &bytes(length, seed), 3);
        set_request_id(&mut record, RequestId(42));
        world.deliver(0, CLIENT, &record);
    };
    send(&mut world, 400, 1);
    send(&mut world, 400, 2);
    assert!(world.nodes[0].answers.is_empty(), "nothing is acknowledged before it is durable");
    send(&mut world, 400, 3);
    let busy = world.answer(0).refusal();
    assert_eq!(busy.code, ErrorCode::Busy);
    assert!(busy.retry_after > Duration::ZERO);
    send(&mut world, 10, 4);
    send(&mut world, 10, 5);
    assert_eq!(world.answer(0).code(), ErrorCode::Busy);
    let held = world.nodes[0].held.replace(Vec::new()).unwrap();
    assert_eq!(held.len(), 3);
    for done in world.nodes[0].disk.store(held) {
        world.handle(0, Event::PutDone(done));
    }
    assert_eq!(world.nodes[0].answers.len(), 3);
    world.nodes[0].held = None;
    world.nodes[0].answers.clear();
    world.put(0, BlockKind::Content, &bytes(400, 3));
    world.assert_idle();
}

#[test]
fn a_full_disk_is_said_so_and_stays_readable() {
    let mut world = World::new(1);
    let content = bytes(5000, 1);
    let block = world.put(0, BlockKind::Content, &content);
    world.nodes[0].files.limit_room(Some(0));
    let answer = world.ask(0, put_record(BlockKind::Content, &bytes(300_000, 2), 3).1);
    assert_eq!(answer.code(), ErrorCode::DiskFull);
    let answer = world.ask(0, get_record(block, 3, 0, 0));
    assert_eq!(answer.record().open::<BlockContent, 1>().unwrap().1[0], content);
    world.nodes[0].files.limit_room(None);
    world.put(0, BlockKind::Content, &bytes(300_000, 2));
}

#[test]
fn any_node_answers_with_a_whole_file() {
    let mut world = World::new(5);
    for (length, seed) in [(0, 1), (1000, 2), (BLOCK_BYTES, 3), (3 * BLOCK_BYTES + 17, 4)] {
        let content = bytes(length, seed);
        let file = world.put_file(&content);
        for at in 0..5 {
            let answer = world.ask(at, file_record(file));
            let (response, got) = answer.file();
            assert!(got == content, "{length} bytes from node {at}");
            assert_eq!(FileId::from(response.file_uuid), file);
            assert_eq!({ response.ring_version }, 3);
            // As given: 41 bytes in, 49 bytes and the content out.
            let request = FileRequest { file_uuid: file.to_wire(), ..FileRequest::default() };
            let request = encode_given(&request, &[]);
            assert_eq!(request.len(), 41);
            world.deliver(at, CLIENT, &request);
            let answer = world.answer(at);
            assert!(answer.record().is_given_form());
            assert_eq!(answer.0.len(), 49 + length);
            assert!(answer.file().1 == content);
        }
    }
    world.assert_idle();
}

#[test]
fn a_dead_and_a_damaged_replica_are_passed_over() {
    let mut world = World::new(6);
    // A file of which the asked node holds nothing, whose first block is looked for on a dead node
    // first, and whose second on one that has it damaged.
    let found = (0..100).find_map(|seed| {
        let content = bytes(2 * BLOCK_BYTES, seed);
        let block = |at: usize| {
            let start = at * BLOCK_BYTES;
            Digest::of(BlockKind::Content, &content[start..start + BLOCK_BYTES]).block_id()
        };
        let blocks = [block(0), block(1)];
        let manifest = BlockId(name_file(&content).unwrap().0.0);
        let [dead, victim] = blocks.map(|block| world.owners(block)[0]);
        let holders = [blocks[0], blocks[1], manifest].map(|block| world.owners(block)).concat();
        let asked = (0..6).find(|at| !holders.contains(at))?;
        let is_apart = !world.owners(blocks[1]).contains(&dead) && dead != victim;
        is_apart.then_some((content, blocks[1], dead, victim, asked))
    });
    let (content, damaged, dead, victim, asked) = found.unwrap();
    let file = world.put_file(&content);
    world.nodes[dead].is_dead = true;
    let name = format!("{:032x}", damaged.0);
    let path = world.nodes[victim].files.names().into_iter().find(|path| path.ends_with(&name));
    world.nodes[victim].files.flip_bit(&path.unwrap(), 12_345, 2);
    set_request_id_and_send(&mut world, asked, file);
    assert!(world.nodes[asked].answers.is_empty(), "the dead node has not answered yet");
    world.pass(Duration::from_millis(500));
    assert!(world.answer(asked).file().1 == content);
    let reader = world.nodes[victim].disk.reader();
    assert!(!reader.contains(damaged));
    assert_eq!({ reader.counters().damaged_count }, 1);
    world.assert_idle();
}

fn set_request_id_and_send(world: &mut World, at: usize, file: FileId) {
    let mut record = file_record(file);
    record::set_request_id(&mut record, RequestId(42));
    world.deliver(at, CLIENT, &record);
}

#[test]
fn not_found_needs_the_answers_of_all_candidates() {
    let mut world = World::new(3);
    let file = FileId(Digest::of(BlockKind::Content, b"nowhere").to_uuid());
    assert_eq!(world.ask(0, file_record(file)).code(), ErrorCode::NotFound);
    world.nodes[1].is_dead = true;
    set_request_id_and_send(&mut world, 0, file);
    assert!(world.nodes[0].answers.is_empty());
    world.pass(Duration::from_millis(500));
    assert_eq!(world.answer(0).code(), ErrorCode::Unavailable);
    world.assert_idle();
}

#[test]
fn a_file_that_is_too_large_is_refused_with_the_way_to_get_it() {
    let mut world = World::new(3);
    let blocks = (0..9).map(|n| Digest([n; 32])).collect();
    let manifest = Manifest::new(8 * BLOCK_BYTES as u64 + 1, blocks).unwrap();
    world.put_replicas(BlockKind::Manifest, &manifest.encode());
    for at in 0..3 {
        let refusal = world.ask(at, file_record(manifest.file_id())).refusal();
        assert_eq!(refusal.code, ErrorCode::TooLarge);
        assert!(refusal.text.contains("block_get"), "{}", refusal.text);
    }
    // Its manifest is a block like others.
    let block = BlockId(manifest.file_id().0);
    let at = world.owners(block)[0];
    let answer = world.ask(at, get_record(block, 3, 0, 0));
    let record = answer.record();
    let (head, [content]) = record.open::<BlockContent, 1>().unwrap();
    assert_eq!(head.kind, BlockKind::Manifest.to_wire());
    assert_eq!(content, manifest.encode());
    world.assert_idle();
}

#[test]
fn a_manifest_without_its_blocks_ends_in_an_error() {
    let mut world = World::new(3);
    let blocks = (0..8).map(|n| Digest([n; 32])).collect();
    let manifest = Manifest::new(8 * BLOCK_BYTES as u64, blocks).unwrap();
    world.put_replicas(BlockKind::Manifest, &manifest.encode());
    assert_eq!(world.ask(0, file_record(manifest.file_id())).code(), ErrorCode::NotFound);
    let nonsense = world.put(0, BlockKind::Manifest, b"not a manifest");
    assert_eq!(world.ask(0, file_record(FileId(nonsense.0))).code(), ErrorCode::Invalid);
    world.assert_idle();
}
