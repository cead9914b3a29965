//! A whole worker, its sockets and slots real, among scripted masters, balancers and storage nodes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;
use std::thread::JoinHandle;

use node::clock::Clock;
use node::config::NodeConfig;
use node::logic::network::{Identity, NetworkEffect, NetworkEvent};
use node::network::{Exposure, Network};
use node::stop::Stop;
use proto::description::{JobDescription, Noop, Runtime};
use proto::ids::{ClusterId, Incarnation, JobId, NodeId, TaskIndex};
use proto::messages::file::{BlockPresence, BlockPut, BlockQuery, BlockStored};
use proto::messages::node::{NodeRegister, NodeRegistered, RingMember, RingQuery, RingReply};
use proto::messages::task::{
    TaskFree, TaskRun, TaskSettled, WorkerHeartbeat, WorkerHeartbeatReply, WorkerRequest,
    WorkerSegment, WorkerStatus, WorkerStatusReply,
};
use proto::record::{Message, Record, encode, set_request_id};
use proto::segment::Segment;
use proto::status::{ProgramKind, Role, Verdict};
use proto::wire::{bytes_of, items_of};
use worker::config::{Config, WorkerConfig};

const CLUSTER: ClusterId = ClusterId(0xc1);
const JOB: JobId = JobId(0x70);
const STORAGE: NodeId = NodeId(3);

/// A peer that answers by a script on a thread of its own, until it is dropped.
struct Scripted {
    address: String,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

type Script = Box<dyn FnMut(&Record<'_>) -> Vec<Vec<u8>> + Send>;

impl Scripted {
    fn start(node: NodeId, role: Role, mut script: Script) -> Scripted {
        let identity = Identity {
            node,
            role,
            cluster: CLUSTER,
            incarnation: Incarnation(1),
            version: String::new(),
            address: String::new(),
        };
        let clock = Clock::start();
        let mut network =
            Network::bind(identity, "tcp://127.0.0.1:0", Exposure::Loopback, clock).unwrap();
        let address = network.bound_address().unwrap().to_owned();
        let stop = Stop::new();
        let waker = network.waker();
        stop.on_request(move || waker.wake());
        let stopping = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopping.is_requested() {
                let mut answers = Vec::new();
                network.poll(None, &mut |event| {
                    if let NetworkEvent::Record { sender, record } = event {
                        let sent = script(&record);
                        answers.extend(sent.into_iter().map(|record| (sender.peer, record)));
                    }
                });
                for (to, record) in answers {
                    network.perform(NetworkEffect::Send { to, record });
                }
            }
        });
        Scripted { address, stop, thread: Some(thread) }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.stop.request();
        let joined = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || joined.is_none_or(|joined| joined.is_ok()));
    }
}

fn answer_to(record: &Record<'_>, mut answer: Vec<u8>) -> Vec<Vec<u8>> {
    set_request_id(&mut answer, record.request_id());
    vec![answer]
}

/// Keeps blocks; tells the segments in them.
fn storage(segments: mpsc::Sender<Vec<u8>>) -> Script {
    Box::new(move |record| match record.message_type() {
        BlockQuery::TYPE => {
            let [blocks] = record.parts::<1>().unwrap();
            let presence = BlockPresence { ring_version: 4, ..BlockPresence::default() };
            answer_to(record, encode(&presence, &[&vec![0; blocks.len() / 16]]))
        }
        BlockPut::TYPE => {
            let (put, [content]) = record.open::<BlockPut, 1>().unwrap();
            segments.send(content.to_vec()).unwrap();
            let stored = BlockStored { block_uuid: put.block_uuid, ..BlockStored::default() };
            answer_to(record, encode(&stored, &[]))
        }
        _ => Vec::new(),
    })
}

/// Registers the worker, tells the ring, acknowledges status frames.
fn master(balancer: String, storage: String, outcomes: mpsc::Sender<WorkerStatus>) -> Script {
    let mut came = BTreeMap::<u64, BTreeSet<u32>>::new();
    let mut acknowledge = move |frame: u64, position: u32, count: u32, record: &Record<'_>| {
        let came = came.entry(frame).or_default();
        came.insert(position);
        if came.len() < count as usize {
            return Vec::new();
        }
        let reply =
            WorkerStatusReply { worker_incarnation: 1, frame, ..WorkerStatusReply::default() };
        answer_to(record, encode(&reply, &[b""]))
    };
    Box::new(move |record| match record.message_type() {
        NodeRegister::TYPE => {
            let registered = NodeRegistered {
                index: 40,
                group: 1,
                epoch: 3,
                ring_version: 4,
                ..NodeRegistered::default()
            };
            answer_to(record, encode(&registered, &[balancer.as_bytes()]))
        }
        RingQuery::TYPE => {
            let member = RingMember {
                node_uuid: STORAGE.to_wire(),
                store_uuid: STORAGE.to_wire(),
                weight: 1,
                address_length: storage.len() as u64,
                ..RingMember::default()
            };
            let reply = RingReply {
                ring_version: 4,
                partition_count: 16,
                replica_count: 1,
                ..RingReply::default()
            };
            let members = [member];
            let parts: [&[u8]; 5] = [bytes_of(&members), storage.as_bytes(), &[], &[], &[]];
            answer_to(record, encode(&reply, &parts))
        }
        WorkerStatus::TYPE => {
            let status: WorkerStatus = record.read().unwrap();
            outcomes.send(status).unwrap();
            acknowledge(status.frame, status.frame_position, status.frame_count, record)
        }
        WorkerSegment::TYPE => {
            let report: WorkerSegment = record.read().unwrap();
            acknowledge(report.frame, report.frame_position, report.frame_count, record)
        }
        _ => Vec::new(),
    })
}

/// Deals all tasks at the first heartbeat; tells what became free and what is settled.
fn balancer(noop: Noop, task_count: u64, told: mpsc::Sender<(u8, u64)>) -> Script {
    let mut has_dealt = false;
    Box::new(move |record| match record.message_type() {
        WorkerHeartbeat::TYPE => {
            let beat: WorkerHeartbeat = record.read().unwrap();
            let mut answers = Vec::new();
            if !has_dealt {
                has_dealt = true;
                let request = WorkerRequest {
                    job_uuid: JOB.to_wire(),
                    task_count,
                    job_task_count: task_count,
                    attempt: 3 << 32 | 1,
                    epoch: 3,
                    deal: 1,
                    worker_incarnation: beat.worker_incarnation,
                    assignment: beat.assignment,
                    group: 1,
                    program_kind: ProgramKind::Described.to_wire(),
                    ..WorkerRequest::default()
                };
                let description = JobDescription::new(Runtime::Noop(noop)).encode().unwrap();
                answers.push(encode(&request, &[b"", b"", &description]));
            }
            let reply = WorkerHeartbeatReply {
                epoch: 3,
                last_deal: 1,
                assignment: beat.assignment,
                ..WorkerHeartbeatReply::default()
            };
            answers.push(encode(&reply, &[b""]));
            answers
        }
        TaskFree::TYPE | TaskSettled::TYPE => {
            let [runs] = record.parts::<1>().unwrap();
            let runs = items_of::<TaskRun>(runs).unwrap();
            if record.message_type() == TaskSettled::TYPE {
                assert!(runs.iter().all(|run| run.state == Verdict::Final.to_wire()));
            }
            let count = runs.iter().map(|run| run.task_count).sum();
            told.send((record.message_type(), count)).unwrap();
            Vec::new()
        }
        _ => Vec::new(),
    })
}

#[test]
fn every_task_is_executed_reported_settled_and_accounted_for() {
    const TASKS: u64 = 50_000;
    let noop = Noop { seed: 11, failed_per_million: 1_000, ..Noop::default() };
    let (segments_to, segments) = mpsc::channel();
    let (outcomes_to, outcomes) = mpsc::channel();
    let (told_to, told) = mpsc::channel();
    let storage = Scripted::start(STORAGE, Role::Storage, storage(segments_to));
    let balancer = Scripted::start(NodeId(2), Role::Balancer, balancer(noop, TASKS, told_to));
    let script = master(balancer.address.clone(), storage.address.clone(), outcomes_to);
    let master = Scripted::start(NodeId(1), Role::Master, script);

    let folder = tempfile::tempdir().unwrap();
    let mut node = NodeConfig::new(folder.path());
    node.masters = vec![master.address.clone()];
    let config = Config { node, worker: WorkerConfig { slots: 2, ..WorkerConfig::default() } };
    let stop = Stop::new();
    let stopping = stop.clone();
    let running = std::thread::spawn(move || worker::run(config, &stopping));

    let (mut freed, mut settled) = (0, 0);
    while settled < TASKS {
        match told.recv().unwrap() {
            (TaskFree::TYPE, count) => freed += count,
            (_, count) => settled += count,
        }
    }
    assert_eq!((freed, settled), (TASKS, TASKS));
    stop.request();
    running.join().unwrap().unwrap();

    let mut reported = BTreeMap::new();
    for status in outcomes.try_iter() {
        for task in status.first_task..status.first_task + status.task_count {
            let before = reported.insert(task, status.exit_code);
            assert_eq!(before, None, "task {task} is reported twice");
        }
    }
    let expected = (0..TASKS).map(|task| (task, noop.outcome(TaskIndex(task)).exit_code));
    assert!(reported.into_iter().eq(expected));
    let mut accounted = BTreeSet::new();
    for content in segments.try_iter() {
        for section in Segment::open(&content).unwrap().sections() {
            assert_eq!(section.job, JOB);
            accounted.extend(section.entries.iter().map(|entry| entry.task_index));
        }
    }
    assert!(accounted.into_iter().eq(0..TASKS));
}

#[test]
fn a_worker_that_is_stopped_before_it_met_anybody_ends() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = NodeConfig::new(folder.path());
    node.masters = vec!["tcp://127.0.0.1:1".into()];
    let stop = Stop::new();
    stop.request();
    worker::run(Config { node, worker: WorkerConfig::default() }, &stop).unwrap();
}
