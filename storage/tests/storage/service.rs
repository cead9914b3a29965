//! A whole storage node with its sockets, threads and files, between a client and a stand-in for
//! the masters that says only what such a node asks.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use node::clock::Clock;
use node::config::NodeConfig;
use node::logic::network::{Identity, Link, NetworkEffect, NetworkEvent, Peer};
use node::network::{Exposure, Network};
use node::stop::Stop;
use proto::digest::Digest;
use proto::ids::{BlockId, ClusterId, Incarnation, NodeId, RequestId};
use proto::messages::file::{BlockContent, BlockGet, BlockPut, BlockStored};
use proto::messages::node::{
    NodeRegister, NodeRegistered, RingMember, RingQuery, RingReply, StorageReport, StorageTold,
};
use proto::messages::register::{RegisterRead, RegisterValue, RegisterWrite, RegisterWritten};
use proto::record::{Message, Record, encode, set_request_id};
use proto::status::{BlockKind, Role};
use proto::time::{Duration, Instant};
use proto::wire::bytes_of;
use storage::config::{Config, StorageConfig};

const CLUSTER: ClusterId = ClusterId(42);
const LINK: Link = Link(7);

fn identity(node: u128, role: Role, cluster: ClusterId) -> Identity {
    Identity {
        node: NodeId(node),
        role,
        cluster,
        incarnation: Incarnation(u64::from(role == Role::Master)),
        version: "test".to_owned(),
        address: String::new(),
    }
}

/// Answers what a storage node asks a master: it is registered, and alone on the ring.
struct Master {
    address: String,
    stop: Stop,
    registered: Receiver<String>,
    thread: Option<JoinHandle<()>>,
}

impl Master {
    fn start() -> Master {
        let clock = Clock::start();
        let identity = identity(1, Role::Master, CLUSTER);
        let bound = Network::bind(identity, "tcp://127.0.0.1:0", Exposure::Loopback, clock);
        let mut network = bound.unwrap();
        let address = network.bound_address().unwrap().to_owned();
        let stop = Stop::new();
        let waker = network.waker();
        stop.on_request(move || waker.wake());
        let (report, registered) = channel();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut member = None;
            while !stopped.is_requested() {
                let mut answers = Vec::new();
                network.poll(None, &mut |event| {
                    if let NetworkEvent::Record { sender, record } = event {
                        let mut answer = answer(&record, &mut member, &report);
                        set_request_id(&mut answer, record.request_id());
                        answers.push((sender.peer, answer));
                    }
                });
                for (to, record) in answers {
                    network.perform(NetworkEffect::Send { to, record });
                }
            }
        });
        Master { address, stop, registered, thread: Some(thread) }
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.stop.request();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(
    asked: &Record<'_>,
    member: &mut Option<(RingMember, String)>,
    report: &Sender<String>,
) -> Vec<u8> {
    if asked.message_type() == NodeRegister::TYPE {
        let (register, [address, ..]) = asked.open::<NodeRegister, 3>().unwrap();
        let address = std::str::from_utf8(address).unwrap().to_owned();
        report.send(address.clone()).unwrap();
        let item = RingMember {
            node_uuid: asked.node().to_wire(),
            store_uuid: register.store_uuid,
            weight: register.weight,
            zone: 0,
            address_length: address.len() as u64,
        };
        *member = Some((item, address));
        return encode(&NodeRegistered::default(), &[b""]);
    }
    if asked.message_type() == StorageReport::TYPE {
        let told = StorageTold { ring_version: 1, lease_ms: 10_000, ..StorageTold::default() };
        return encode(&told, &[]);
    }
    assert_eq!(asked.message_type(), RingQuery::TYPE);
    let (item, address) = member.as_ref().unwrap();
    let reply = RingReply {
        ring_version: 1,
        partition_count: 16,
        replica_count: 1,
        ..RingReply::default()
    };
    encode(&reply, &[bytes_of(&[*item]), address.as_bytes(), &[], &[], &[]])
}

/// A storage node in threads of this process.
struct Started {
    stop: Stop,
    thread: Option<JoinHandle<Result<(), storage::StorageError>>>,
}

impl Started {
    fn new(folder: &Path, master: &Master) -> Started {
        let node = NodeConfig { masters: vec![master.address.clone()], ..NodeConfig::new(folder) };
        let config = Config { node, storage: StorageConfig::default() };
        let stop = Stop::new();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || storage::run(config, stopped));
        Started { stop, thread: Some(thread) }
    }

    fn end(mut self) {
        self.stop.request();
        self.thread.take().unwrap().join().unwrap().unwrap();
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.stop.request();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Client {
    clock: Clock,
    network: Network,
    deadline: Instant,
}

impl Client {
    fn new(address: &str) -> Client {
        let clock = Clock::start();
        let identity = identity(3, Role::Client, ClusterId::default());
        let mut network = Network::client(identity, clock).unwrap();
        network.perform(NetworkEffect::Open { link: LINK, address: address.to_owned() });
        Client { clock, network, deadline: clock.now() + Duration::from_secs(60) }
    }

    /// Sends all requests at once and collects an answer to each, asking again where it is
    /// refused for now.
    fn ask<T>(&mut self, requests: &[Vec<u8>], read: impl Fn(&Record<'_>) -> Option<T>) -> Vec<T> {
        let mut answers: BTreeMap<u64, T> = BTreeMap::new();
        let mut due: Vec<usize> = (0..requests.len()).collect();
        while answers.len() < requests.len() {
            for at in due.drain(..) {
                let mut record = requests[at].clone();
                set_request_id(&mut record, RequestId(at as u64 + 1));
                self.network.perform(NetworkEffect::Send { to: Peer::Link(LINK), record });
            }
            self.network.poll(Some(self.deadline), &mut |event| {
                if let NetworkEvent::Record { record, .. } = event {
                    let number = record.request_id().0;
                    match read(&record) {
                        Some(answer) => {
                            answers.insert(number, answer);
                        }
                        None => due.push(number as usize - 1),
                    }
                }
            });
            assert!(self.clock.now() < self.deadline, "{} answers", answers.len());
        }
        answers.into_values().collect()
    }
}

fn content(number: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(number);
    let length = if number.is_multiple_of(20) { 300_000 } else { rng.usize(0..6000) };
    let mut content = vec![0; length];
    rng.fill(&mut content);
    content
}

fn get_all(client: &mut Client, blocks: &[BlockId]) {
    let gets = blocks.iter().map(|block| {
        let block_uuid = block.to_wire();
        encode(&BlockGet { block_uuid, ring_version: 1, ..BlockGet::default() }, &[])
    });
    let gets: Vec<_> = gets.collect();
    let contents = client.ask(&gets, |record| {
        let opened = record.open::<BlockContent, 1>().ok()?;
        Some(opened.1[0].to_vec())
    });
    for (number, got) in (0..).zip(contents) {
        assert!(got == content(number), "block {number}");
    }
}

#[test]
fn a_node_keeps_what_it_acknowledged_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let master = Master::start();
    let started = Started::new(folder.path(), &master);
    let address = master.registered.recv().unwrap();
    let mut client = Client::new(&address);
    let mut blocks = Vec::new();
    let puts = (0..200).map(|number| {
        let content = content(number);
        let block = Digest::of(BlockKind::Content, &content).block_id();
        blocks.push(block);
        let put = BlockPut { block_uuid: block.to_wire(), ring_version: 1, ..BlockPut::default() };
        encode(&put, &[&content])
    });
    let puts: Vec<_> = puts.collect();
    let stored = client
        .ask(&puts, |record| Some(BlockId::from(record.read::<BlockStored>().ok()?.block_uuid)));
    assert_eq!(stored, blocks);
    get_all(&mut client, &blocks);
    started.end();
    drop(client);

    let _started = Started::new(folder.path(), &master);
    let address = master.registered.recv().unwrap();
    get_all(&mut Client::new(&address), &blocks);
}

#[test]
fn a_node_keeps_registers_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let master = Master::start();
    let started = Started::new(folder.path(), &master);
    let mut client = Client::new(&master.registered.recv().unwrap());
    let value = |address: u64| address.to_string().repeat(address as usize % 30);
    let writes = (0..300).map(|address| {
        let write = RegisterWrite {
            register_address: address,
            ring_version: 1,
            sequence: 1 + address,
            ..RegisterWrite::default()
        };
        encode(&write, &[value(address).as_bytes()])
    });
    let writes: Vec<_> = writes.collect();
    let written =
        client.ask(&writes, |record| Some(record.read::<RegisterWritten>().ok()?.register_address));
    assert_eq!(written, (0..300).collect::<Vec<u64>>());
    started.end();
    let started = Started::new(folder.path(), &master);
    let mut client = Client::new(&master.registered.recv().unwrap());
    let reads = (0..301).map(|address| {
        let register_address = address;
        let read = RegisterRead { register_address, ring_version: 1, ..RegisterRead::default() };
        encode(&RegisterRead { wants_value: 1, ..read }, &[])
    });
    let reads: Vec<_> = reads.collect();
    let found = client.ask(&reads, |record| {
        let (head, [value]) = record.open::<RegisterValue, 1>().ok()?;
        Some((head.sequence, String::from_utf8(value.to_vec()).unwrap()))
    });
    let expected = (0..300).map(|address| (1 + address, value(address)));
    assert_eq!(found, expected.chain([(0, String::new())]).collect::<Vec<_>>());
    started.end();
}
