//! A whole balancer over real sockets: it registers, renews, reads the feed, deals to a worker that
//! connects, answers for its telemetry, and stops when it is asked to.

use std::thread;

use balancer::config::{BalancerConfig, Config};
use balancer::run;
use node::clock::Clock;
use node::config::NodeConfig;
use node::daemon::DaemonError;
use node::logic::network::{Identity, Link, NetworkEffect, NetworkEvent};
use node::network::{Exposure, Network};
use node::stop::Stop;
use proto::ids::{ClusterId, Incarnation, JobId, NodeId};
use proto::messages::job::JobSubmit;
use proto::messages::node::{
    FeedBatch, FeedItem, FeedPull, LeaseRenew, LeaseReply, NodeRegister, NodeRegistered,
};
use proto::messages::task::{WorkerHeartbeat, WorkerRequest};
use proto::messages::telemetry::{TelemetrySnapshot, TelemetrySnapshotRequest};
use proto::record::{Message, Record, encode, set_request_id};
use proto::status::{FeedKind, Role};
use proto::time::Duration;
use proto::wire::bytes_of;

const CLUSTER: ClusterId = ClusterId(0xc1);
const JOB: JobId = JobId(0x0b);
const LINK: Link = Link(1);

/// Far more than it takes; only a balancer that hangs gets there.
const PATIENCE: Duration = Duration::from_secs(30);

fn identity(node: u128, role: Role) -> Identity {
    Identity {
        node: NodeId(node),
        role,
        cluster: CLUSTER,
        incarnation: Incarnation(1),
        version: "1".into(),
        address: String::new(),
    }
}

/// What a master that leads answers; the address under which a balancer registered is noted.
fn answer(record: &Record<'_>, address: &mut Option<String>) -> Option<Vec<u8>> {
    let mut reply = match record.message_type() {
        NodeRegister::TYPE => {
            let (_, [at, _, _]) = record.open::<NodeRegister, 3>().ok()?;
            *address = Some(String::from_utf8(at.to_vec()).ok()?);
            let registered = NodeRegistered {
                index: 5,
                group: 1,
                epoch: 1,
                is_primary: 1,
                ..NodeRegistered::default()
            };
            encode(&registered, &[b""])
        }
        LeaseRenew::TYPE => {
            let lease = LeaseReply {
                epoch: 1,
                is_primary: 1,
                lease_ms: 900,
                feed_index: 6,
                ..LeaseReply::default()
            };
            encode(&lease, &[b""])
        }
        FeedPull::TYPE if record.read::<FeedPull>().ok()?.after_index == 0 => {
            let item = FeedItem {
                index: 6,
                kind: FeedKind::Grant.to_wire(),
                job_uuid: JOB.to_wire(),
                task_count: 3,
                ..FeedItem::default()
            };
            let submit = JobSubmit { task_count: 3, ..JobSubmit::default() };
            let job = encode(&submit, &[b"#!/bin/true", b"", b""]);
            let batch =
                FeedBatch { group: 1, up_to_index: 6, is_complete: 1, ..FeedBatch::default() };
            encode(&batch, &[bytes_of(&[item]), &job])
        }
        _ => return None,
    };
    set_request_id(&mut reply, record.request_id());
    Some(reply)
}

fn heartbeat() -> Vec<u8> {
    let heartbeat = WorkerHeartbeat {
        worker_incarnation: 1,
        assignment: 7,
        slot_count: 2,
        cpu_milli: 2_000,
        memory_bytes: 1 << 30,
        group: 1,
        ..WorkerHeartbeat::default()
    };
    encode(&heartbeat, &[b""])
}

#[test]
fn it_deals_to_a_worker_and_stops() {
    let clock = Clock::start();
    let folder = tempfile::tempdir().unwrap();
    let mut master =
        Network::bind(identity(1, Role::Master), "tcp://127.0.0.1:*", Exposure::Loopback, clock)
            .unwrap();
    let masters = vec![master.bound_address().unwrap().to_owned()];
    let config = Config {
        node: NodeConfig { masters, ..NodeConfig::new(folder.path()) },
        balancer: BalancerConfig::default(),
    };
    let stop = Stop::new();
    let stopped = stop.clone();
    let balancer = thread::spawn(move || run(config, stopped));

    let mut worker = Network::client(identity(2, Role::Worker), clock).unwrap();
    let (mut address, mut is_open) = (None, false);
    let (mut dealt, mut snapshot) = (None, None);
    while (dealt.is_none() || snapshot.is_none()) && clock.now().0 < PATIENCE.0 {
        let mut effects = Vec::new();
        let soon = Some(clock.now() + Duration::from_millis(5));
        master.poll(soon, &mut |event| {
            if let NetworkEvent::Record { sender, record } = event
                && let Some(reply) = answer(&record, &mut address)
            {
                effects.push(NetworkEffect::Send { to: sender.peer, record: reply });
            }
        });
        effects.into_iter().for_each(|effect| master.perform(effect));
        master.flush();
        if let Some(address) = address.clone().filter(|_| !is_open) {
            is_open = true;
            worker.perform(NetworkEffect::Open { link: LINK, address });
        }
        let mut effects = Vec::new();
        worker.poll(Some(clock.now()), &mut |event| match event {
            NetworkEvent::Connected { sender, masters, .. } => {
                assert_eq!(sender.role, Role::Balancer);
                assert!(masters.starts_with("tcp://"), "it names the masters");
                let request = encode(&TelemetrySnapshotRequest::default(), &[]);
                for record in [heartbeat(), request] {
                    effects.push(NetworkEffect::Send { to: sender.peer, record });
                }
            }
            NetworkEvent::Record { record, .. } => match record.message_type() {
                WorkerRequest::TYPE => dealt = Some(record.read::<WorkerRequest>().unwrap()),
                TelemetrySnapshot::TYPE => {
                    snapshot = Some(record.read::<TelemetrySnapshot>().unwrap());
                }
                _ => {}
            },
            _ => {}
        });
        effects.into_iter().for_each(|effect| worker.perform(effect));
        worker.flush();
    }
    stop.request();
    balancer.join().unwrap().unwrap();
    let dealt = dealt.expect("a deal");
    assert_eq!(JobId::from(dealt.job_uuid), JOB);
    assert_eq!(({ dealt.first_task }, { dealt.task_count }, { dealt.job_task_count }), (0, 2, 3));
    assert_eq!(({ dealt.attempt }, { dealt.epoch }), ((1 << 32) | 1, 1));
    assert_eq!({ snapshot.expect("a snapshot").incarnation }, 1);
}

#[test]
fn without_a_master_it_says_what_to_set() {
    let folder = tempfile::tempdir().unwrap();
    let config =
        Config { node: NodeConfig::new(folder.path()), balancer: BalancerConfig::default() };
    let error = run(config, Stop::new()).unwrap_err();
    assert!(matches!(error, DaemonError::NoMaster));
    assert!(error.to_string().contains("`masters`"), "{error}");
}
