//! Several storage nodes, each the shipped logic, edge and disk, connected without sockets, with a
//! stand-in for the masters that keeps the ring's versions as they do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;

use fastrand::Rng;
use node::files::Files;
use node::logic::network::{Link, NetworkEffect, NetworkEvent, Peer, Sender};
use node::logic::refusal::Refusal;
use proto::digest::Digest;
use proto::ids::{
    BlockId, ClusterId, FileId, Incarnation, LogIndex, NodeId, RequestId, RingVersion, StoreId,
};
use proto::limits::BLOCK_BYTES;
use proto::manifest::name_file;
use proto::messages::file::{BlockPut, BlockStored, FileResponse};
use proto::messages::node::{
    NodeRegister, NodeRegistered, OlderRing, RingMember, RingQuery, RingReply, StorageProgress,
    StorageReport, StorageTold,
};
use proto::record::{Message, Record, Records, encode, set_request_id};
use proto::ring::{Member, Ring};
use proto::status::{BlockKind, ErrorCode, Role};
use proto::time::{Duration, Instant};
use proto::wire::{bytes_of, items_of};
use storage::disk::{Disk, DiskLimits, Put};
use storage::disk_thread::{DiskDone, Job};
use storage::edge::{Begun, Finished, Kept, Performer, disk_event};
use storage::logic::{Event, Registration, Storage, StorageLimits};

use crate::files::FakeFiles;

pub(crate) const CLIENT: Link = Link(500);
/// Links of a node to those that connected to it.
const INBOUND: u32 = 9_000;
const MASTER: &str = "tcp://master:1";
const CLUSTER: ClusterId = ClusterId(77);
const PARTITIONS: u64 = 1 << 16;

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) files: FakeFiles,
    pub(crate) logic: Storage,
    pub(crate) disk: Disk,
    pub(crate) kept: Kept,
    performer: Performer,
    links: BTreeMap<Link, String>,
    /// Who connected, by the number of the link on which it is answered.
    inbound: Vec<(usize, Link)>,
    /// Puts that the disk has not been given, where a test holds it.
    pub(crate) held: Option<Vec<Put>>,
    /// Records for the client.
    pub(crate) answers: Vec<Vec<u8>>,
    pub(crate) is_dead: bool,
    store: StoreId,
}

impl Node {
    pub(crate) fn new(number: usize, limits: StorageLimits) -> Node {
        Node::with_store(number, limits, StoreId(200 + number as u128))
    }

    /// A node with an empty folder.
    pub(crate) fn with_store(number: usize, limits: StorageLimits, store: StoreId) -> Node {
        let files = FakeFiles::default();
        files.create_dir_all(Path::new("/data")).unwrap();
        files.sync_dir(Path::new("/")).unwrap();
        let disk_limits = DiskLimits { prepared_bytes: 1000, ..DiskLimits::default() };
        let disk = Disk::open(Arc::new(files.clone()), Path::new("/data"), disk_limits).unwrap();
        let id = NodeId(100 + number as u128);
        let registration = Registration {
            node: id,
            incarnation: Incarnation(1),
            store,
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
            inbound: Vec::new(),
            held: None,
            answers: Vec::new(),
            is_dead: false,
            store,
        }
    }

    pub(crate) fn has(&self, block: BlockId) -> bool {
        self.disk.reader().contains(block)
    }

    pub(crate) fn block_count(&self) -> usize {
        self.disk.reader().list(None, usize::MAX).len()
    }
}

fn address(number: usize) -> String {
    format!("tcp://storage:{number}")
}

/// A version of the ring: nodes with their weights.
#[derive(Clone)]
struct Version {
    version: u64,
    members: Vec<(usize, u32)>,
}

/// What is under way.
enum Delivery {
    Record { at: usize, from: Link, record: Vec<u8> },
    Event { at: usize, event: Event<'static> },
}

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) nodes: Vec<Node>,
    /// The oldest first.
    versions: Vec<Version>,
    /// Nodes that an entry removed: they are not waited for.
    removed: BTreeSet<usize>,
    pub(crate) reports: BTreeMap<usize, StorageProgress>,
    /// Nodes that the masters do not know until they register.
    pub(crate) forgotten: BTreeSet<usize>,
    pub(crate) master_is_silent: bool,
    pub(crate) lease_ms: u64,
    pub(crate) pass_round: u64,
    pub(crate) scrub_round: u64,
    pub(crate) registrations: usize,
    pub(crate) ring_queries: usize,
    /// Blocks that nodes sent to each other: from, to, which.
    pub(crate) moved: Vec<(usize, usize, BlockId)>,
    deliveries: VecDeque<Delivery>,
    is_running: bool,
}

impl World {
    pub(crate) fn new(count: usize) -> World {
        World::with_limits(count, StorageLimits::default())
    }

    pub(crate) fn with_limits(count: usize, limits: StorageLimits) -> World {
        World::with_members(count, (0..count).map(|at| (at, 100)).collect(), limits)
    }

    /// Nodes of which some are members of the ring.
    pub(crate) fn with_members(
        count: usize,
        members: Vec<(usize, u32)>,
        limits: StorageLimits,
    ) -> World {
        let mut world = World {
            now: Instant(1),
            nodes: (0..count).map(|number| Node::new(number, limits)).collect(),
            versions: vec![Version { version: 3, members }],
            removed: BTreeSet::new(),
            reports: BTreeMap::new(),
            forgotten: BTreeSet::new(),
            master_is_silent: false,
            lease_ms: 10_000,
            pass_round: 0,
            scrub_round: 0,
            registrations: 0,
            ring_queries: 0,
            moved: Vec::new(),
            deliveries: VecDeque::new(),
            is_running: false,
        };
        for at in 0..count {
            world.handle(at, Event::Tick);
        }
        world
    }

    fn newest(&self) -> &Version {
        self.versions.last().unwrap()
    }

    pub(crate) fn ring_version(&self) -> u64 {
        self.newest().version
    }

    /// How many versions are not drained.
    pub(crate) fn version_count(&self) -> usize {
        self.versions.len()
    }

    /// The masters log another version.
    pub(crate) fn announce(&mut self, members: &[(usize, u32)]) {
        let version = self.ring_version() + 1;
        let before = self.newest().members.clone();
        let is_gone = |(at, _): &&(usize, u32)| !members.iter().any(|(node, _)| node == at);
        self.removed.extend(before.iter().filter(is_gone).map(|(at, _)| *at));
        members.iter().for_each(|(at, _)| {
            self.removed.remove(at);
        });
        self.versions.push(Version { version, members: members.to_vec() });
    }

    fn ring_of(&self, version: &Version) -> Ring {
        let members = self.members(version).iter().map(Member::from).collect();
        Ring::new(RingVersion(version.version), PARTITIONS, members).unwrap()
    }

    fn members(&self, version: &Version) -> Vec<RingMember> {
        let member = |&(at, weight): &(usize, u32)| RingMember {
            node_uuid: self.nodes[at].id.to_wire(),
            store_uuid: self.nodes[at].store.to_wire(),
            weight,
            zone: 0,
            address_length: address(at).len() as u64,
        };
        version.members.iter().map(member).collect()
    }

    pub(crate) fn owners(&self, block: BlockId) -> Vec<usize> {
        self.owners_of(block, 2)
    }

    pub(crate) fn owners_of(&self, block: BlockId, replica_count: usize) -> Vec<usize> {
        let owners = self.ring_of(self.newest()).owners(block, replica_count);
        owners.iter().map(|id| self.nodes.iter().position(|node| node.id == *id).unwrap()).collect()
    }

    /// The nodes that have a block.
    pub(crate) fn holders(&self, block: BlockId) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&at| self.nodes[at].has(block)).collect()
    }

    /// What a master says; the test's stand-in for a whole cluster of them.
    fn master(&mut self, at: usize, asked: &[u8]) -> Option<Vec<u8>> {
        if self.master_is_silent {
            return None;
        }
        let asked = Records::of(asked).next().unwrap().unwrap();
        let mut answer = match asked.message_type() {
            NodeRegister::TYPE => {
                let register: NodeRegister = asked.read().unwrap();
                assert_eq!({ register.role }, Role::Storage.to_wire());
                self.registrations += 1;
                self.forgotten.remove(&at);
                encode(&NodeRegistered { index: 9, ..NodeRegistered::default() }, &[b""])
            }
            RingQuery::TYPE => {
                self.ring_queries += 1;
                self.ring_reply()
            }
            StorageReport::TYPE if self.forgotten.contains(&at) => {
                let code = ErrorCode::OldEpoch;
                Refusal::new(code, StorageReport::TYPE, "who is that").to_record(RequestId(0))
            }
            StorageReport::TYPE => self.report(at, &asked),
            other => panic!("a storage node asks a master {other}"),
        };
        set_request_id(&mut answer, asked.request_id());
        Some(answer)
    }

    fn ring_reply(&self) -> Vec<u8> {
        let reply = RingReply {
            ring_version: self.ring_version(),
            partition_count: PARTITIONS,
            replica_count: 2,
            ..RingReply::default()
        };
        let (newest, older) = self.versions.split_last().unwrap();
        let mut addresses: String = newest.members.iter().map(|(at, _)| address(*at)).collect();
        let (mut items, mut older_members) = (Vec::new(), Vec::new());
        for version in older.iter().rev() {
            items.push(OlderRing {
                ring_version: version.version,
                member_count: version.members.len() as u64,
                holds_blocks: 1,
            });
            older_members.extend(self.members(version));
            addresses.extend(version.members.iter().map(|(at, _)| address(*at)));
        }
        let members = self.members(newest);
        let parts = [
            bytes_of(&members),
            addresses.as_bytes(),
            bytes_of(&items),
            bytes_of(&older_members),
            &[],
        ];
        encode(&reply, &parts)
    }

    fn report(&mut self, at: usize, asked: &Record<'_>) -> Vec<u8> {
        let (report, [progress]) = asked.open::<StorageReport, 1>().unwrap();
        let progress = items_of::<StorageProgress>(progress).unwrap()[0];
        assert_eq!(StoreId::from(report.store_uuid), self.nodes[at].store);
        self.reports.insert(at, progress);
        let newest = self.ring_version();
        let all = self.versions.iter().flat_map(|version| &version.members).map(|(at, _)| *at);
        let waited: BTreeSet<usize> = all.filter(|at| !self.removed.contains(at)).collect();
        let has_passed = |at: &usize| {
            self.reports.get(at).is_some_and(|progress| progress.passed_version >= newest)
        };
        if waited.iter().all(has_passed) {
            self.versions.drain(..self.versions.len() - 1);
        }
        let is_member = waited.contains(&at);
        let told = StorageTold {
            ring_version: newest,
            lease_ms: if is_member { self.lease_ms } else { 0 },
            pass_round: self.pass_round,
            scrub_round: self.scrub_round,
            ..StorageTold::default()
        };
        encode(&told, &[])
    }

    pub(crate) fn deliver(&mut self, at: usize, from: Link, record: &[u8]) {
        self.deliveries.push_back(Delivery::Record { at, from, record: record.to_vec() });
        self.run();
    }

    pub(crate) fn handle(&mut self, at: usize, event: Event<'static>) {
        self.deliveries.push_back(Delivery::Event { at, event });
        self.run();
    }

    fn run(&mut self) {
        if self.is_running {
            return;
        }
        self.is_running = true;
        while let Some(delivery) = self.deliveries.pop_front() {
            match delivery {
                Delivery::Event { at, event } => self.step(at, event),
                Delivery::Record { at, from, record } => {
                    let record = Records::of(&record).next().unwrap().unwrap();
                    let (node, role) = match from.0.checked_sub(INBOUND) {
                        Some(number) if from.0 < 1 << 16 => {
                            let (node, _) = self.nodes[at].inbound[number as usize];
                            (self.nodes[node].id, Role::Storage)
                        }
                        _ => (self.node_behind(at, from), Role::Client),
                    };
                    let peer = Peer::Link(from);
                    let sender = Sender { peer, node, role, incarnation: Incarnation(0) };
                    self.step(at, Event::Network(NetworkEvent::Record { sender, record }));
                }
            }
        }
        self.is_running = false;
    }

    fn step(&mut self, at: usize, event: Event<'_>) {
        if self.nodes[at].is_dead {
            return;
        }
        let mut effects = Vec::new();
        let node = &mut self.nodes[at];
        node.logic.handle(self.now, event, &mut effects);
        node.logic.check_invariants();
        for effect in effects {
            let node = &mut self.nodes[at];
            match node.kept.begin(effect) {
                Begun::Network(effect) => self.network(at, effect),
                Begun::Disk(Job::Put(put)) if node.held.is_some() => {
                    node.held.as_mut().unwrap().push(put);
                }
                Begun::Disk(job) => self.disk(at, job),
                Begun::Work(work) => {
                    let done = node.performer.perform(work);
                    match node.kept.finish(done) {
                        Finished::Event(event) => {
                            self.deliveries.push_back(Delivery::Event { at, event });
                        }
                        Finished::Network(effect) => self.network(at, effect),
                    }
                }
                Begun::Registers(job) => panic!("nobody writes registers here: {job:?}"),
                Begun::Join(cluster) => assert_eq!(cluster, CLUSTER),
                Begun::Nothing => {}
            }
        }
    }

    fn disk(&mut self, at: usize, job: Job) {
        let disk = &mut self.nodes[at].disk;
        let done = match job {
            Job::Put(put) => disk.store(vec![put]).into_iter().map(DiskDone::Put).collect(),
            Job::Touch { ticket, items } => {
                vec![DiskDone::Touched { ticket, present: disk.touch(items) }]
            }
            Job::Delete { ticket, blocks } => {
                vec![DiskDone::Deleted { ticket, result: disk.delete(&blocks) }]
            }
        };
        for done in done {
            self.deliveries.push_back(Delivery::Event { at, event: disk_event(done) });
        }
    }

    /// The disk is given the puts that were held.
    pub(crate) fn release(&mut self, at: usize) {
        let held = self.nodes[at].held.take().unwrap();
        for done in self.nodes[at].disk.store(held) {
            self.handle(at, Event::PutDone(done));
        }
    }

    /// The storage node that a link leads to; some other node where it is none.
    fn node_behind(&self, at: usize, link: Link) -> NodeId {
        let to = self.nodes[at].links.get(&link);
        let number = (0..self.nodes.len()).find(|&number| Some(&address(number)) == to);
        number.map_or(NodeId(1), |number| self.nodes[number].id)
    }

    fn network(&mut self, at: usize, effect: NetworkEffect) {
        match effect {
            NetworkEffect::Open { link, address: to } => {
                let number = (0..self.nodes.len()).find(|&number| address(number) == to);
                self.nodes[at].links.insert(link, to);
                if number.is_some_and(|number| self.nodes[number].is_dead) {
                    return;
                }
                let sender = Sender {
                    peer: Peer::Link(link),
                    node: NodeId(2),
                    role: Role::Master,
                    incarnation: Incarnation(1),
                };
                let event = Event::Network(NetworkEvent::Connected {
                    link,
                    sender,
                    cluster: CLUSTER,
                    applied_index: LogIndex(0),
                    window: 64,
                    masters: MASTER.to_owned(),
                    again: false,
                });
                self.deliveries.push_back(Delivery::Event { at, event });
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
                self.note(at, to, &record);
                let inbound = &mut self.nodes[to].inbound;
                let known = inbound.iter().position(|it| *it == (at, link));
                let number = known.unwrap_or_else(|| {
                    inbound.push((at, link));
                    inbound.len() - 1
                });
                let from = Link(INBOUND + number as u32);
                self.deliveries.push_back(Delivery::Record { at: to, from, record });
            }
            NetworkEffect::Send { to: Peer::Link(link), record } if link.0 >= INBOUND => {
                let (to, link) = self.nodes[at].inbound[(link.0 - INBOUND) as usize];
                if self.nodes[to].links.contains_key(&link) {
                    self.deliveries.push_back(Delivery::Record { at: to, from: link, record });
                }
            }
            NetworkEffect::Send { to: Peer::Link(link), record } => {
                assert_eq!(self.nodes[at].links.get(&link).unwrap(), MASTER);
                if let Some(record) = self.master(at, &record) {
                    self.deliveries.push_back(Delivery::Record { at, from: link, record });
                }
            }
            NetworkEffect::Send { to, .. } => panic!("nobody is {to:?}"),
        }
    }

    fn note(&mut self, from: usize, to: usize, record: &[u8]) {
        let record = Records::of(record).next().unwrap().unwrap();
        if record.message_type() == BlockPut::TYPE {
            let put: BlockPut = record.read().unwrap();
            self.moved.push((from, to, BlockId::from(put.block_uuid)));
        }
    }

    /// Lets time pass until nothing is due before the span ends.
    pub(crate) fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        self.pass_until(end, |_| false);
        self.now = end;
    }

    /// Lets time pass until `is_done`; fails where that takes longer than a while.
    pub(crate) fn pass_to(&mut self, what: &str, is_done: impl Fn(&World) -> bool) {
        let end = self.now + Duration::from_secs(300);
        let is_done = self.pass_until(end, is_done);
        let nodes = self.nodes.iter().map(|node| node.logic.explain());
        assert!(is_done, "in vain: {what}; {:#?} {:#?}", nodes.collect::<Vec<_>>(), self.reports);
    }

    fn pass_until(&mut self, end: Instant, is_done: impl Fn(&World) -> bool) -> bool {
        loop {
            if is_done(self) {
                return true;
            }
            let alive = self.nodes.iter().filter(|node| !node.is_dead);
            let due = alive.filter_map(|node| node.logic.next_deadline()).min();
            let Some(next) = due.filter(|next| *next <= end) else { return false };
            self.now = self.now.max(next);
            for at in 0..self.nodes.len() {
                self.handle(at, Event::Tick);
            }
        }
    }

    /// Lets time pass until all versions but the newest are drained.
    pub(crate) fn drain(&mut self) {
        self.pass_to("older versions are dropped", |world| world.versions.len() == 1);
    }

    pub(crate) fn ask(&mut self, at: usize, mut record: Vec<u8>) -> Answer {
        set_request_id(&mut record, RequestId(42));
        self.deliver(at, CLIENT, &record);
        self.answer(at)
    }

    pub(crate) fn answer(&mut self, at: usize) -> Answer {
        let mut answers = std::mem::take(&mut self.nodes[at].answers);
        assert_eq!(answers.len(), 1, "one answer");
        Answer(answers.remove(0))
    }

    pub(crate) fn put(&mut self, at: usize, kind: BlockKind, content: &[u8]) -> BlockId {
        let (block, record) = put_record(kind, content, self.ring_version());
        let answer = self.ask(at, record);
        let stored: BlockStored = answer.record().read().unwrap();
        assert_eq!(BlockId::from(stored.block_uuid), block);
        block
    }

    /// Stores a file as a client does: each block on its two owners.
    pub(crate) fn put_file(&mut self, content: &[u8]) -> FileId {
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

    pub(crate) fn put_replicas(&mut self, kind: BlockKind, content: &[u8]) -> BlockId {
        let block = Digest::of(kind, content).block_id();
        for at in self.owners(block) {
            self.put(at, kind, content);
        }
        block
    }

    pub(crate) fn assert_idle(&self) {
        for node in &self.nodes {
            assert_eq!(node.kept.count(), 0, "nothing is kept");
            assert!(
                node.logic.explain().ends_with("0 puts, 0 reads and 0 whole files are going on")
            );
        }
    }
}

pub(crate) struct Answer(pub(crate) Vec<u8>);

impl Answer {
    pub(crate) fn record(&self) -> Record<'_> {
        let record = Records::of(&self.0).next().unwrap().unwrap();
        if !record.is_given_form() {
            assert_eq!(record.request_id(), RequestId(42));
        }
        record
    }

    pub(crate) fn code(&self) -> ErrorCode {
        self.refusal().code
    }

    pub(crate) fn refusal(&self) -> Refusal {
        Refusal::from_record(&self.record()).unwrap()
    }

    pub(crate) fn file(&self) -> (FileResponse, &[u8]) {
        if self.record().message_type() != FileResponse::TYPE {
            panic!("refused: {:?}", self.refusal());
        }
        let (response, [content]) = self.record().open::<FileResponse, 1>().unwrap();
        // Both borrow the answer, not the record that was read for a moment.
        let length = content.len();
        (response, &self.0[self.0.len() - length..])
    }
}

pub(crate) fn put_record(kind: BlockKind, content: &[u8], ring_version: u64) -> (BlockId, Vec<u8>) {
    let block = Digest::of(kind, content).block_id();
    let put = BlockPut {
        block_uuid: block.to_wire(),
        kind: kind.to_wire(),
        ring_version,
        ..BlockPut::default()
    };
    (block, encode(&put, &[content]))
}

pub(crate) fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut content = vec![0; length];
    Rng::with_seed(seed).fill(&mut content);
    content
}
