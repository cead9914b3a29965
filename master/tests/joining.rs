//! Three masters with real sockets and disks, each in a thread: the first is made by `init`, the
//! others join it by its address.

use std::path::Path;
use std::thread::JoinHandle;

use master::config::MasterConfig;
use master::{Config, MasterError};
use node::clock::Clock;
use node::config::NodeConfig;
use node::logic::network::{Identity, Link, NetworkEffect, NetworkEvent, Peer};
use node::network::Network;
use node::stop::Stop;
use proto::description::{JobDescription, Noop, Runtime};
use proto::ids::{ClusterId, Incarnation, JobId, NodeId, RequestId};
use proto::messages::job::{JobAccepted, JobQuery, JobStatus, JobSubmit, ListEnd};
use proto::messages::node::{NodeEntry, NodeList};
use proto::record::{Message, encode, set_request_id};
use proto::status::{ProgramKind, Role};
use proto::time::Duration;

/// How long anything may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// An address that nobody listens on: one that the system gave, and that was given back.
fn free_address() -> String {
    let network = Network::bind(
        identity(1),
        "tcp://127.0.0.1:*",
        node::network::Exposure::Loopback,
        Clock::start(),
    );
    let network = network.expect("a free port");
    network.bound_address().expect("bound").to_owned()
}

fn identity(number: u128) -> Identity {
    Identity {
        node: NodeId(number),
        role: Role::Client,
        cluster: ClusterId(0),
        incarnation: Incarnation(0),
        version: "test".into(),
        address: String::new(),
    }
}

fn config(folder: &Path, listen: &str, masters: &[String]) -> Config {
    let node = NodeConfig {
        listen: listen.to_owned(),
        masters: masters.to_vec(),
        ..NodeConfig::new(folder)
    };
    Config { node, master: MasterConfig::default() }
}

struct Running {
    stop: Stop,
    thread: Option<JoinHandle<Result<(), MasterError>>>,
}

impl Running {
    fn start(config: Config) -> Running {
        let stop = Stop::new();
        let asked = stop.clone();
        let thread = std::thread::spawn(move || master::run(config, asked));
        Running { stop, thread: Some(thread) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.request();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join().expect("the master's thread does not panic");
            ended.expect("the master ends without an error");
        }
    }
}

/// A client with one link.
struct Client {
    network: Network,
    clock: Clock,
    last_request: u64,
}

impl Client {
    fn new(address: &str, number: u128) -> Client {
        let clock = Clock::start();
        let mut network = Network::client(identity(number), clock).expect("a network");
        network.perform(NetworkEffect::Open { link: Link(0), address: address.to_owned() });
        Client { network, clock, last_request: 0 }
    }

    /// Sends a request and gathers what comes back until `until`; asks again every second.
    fn ask<R>(
        &mut self,
        record: &[u8],
        mut until: impl FnMut(&proto::record::Record<'_>) -> Option<R>,
    ) -> R {
        let started = self.clock.now();
        while self.clock.now() < started + PATIENCE {
            self.last_request += 1;
            let mut record = record.to_vec();
            set_request_id(&mut record, RequestId(self.last_request));
            self.network.perform(NetworkEffect::Send { to: Peer::Link(Link(0)), record });
            let again = self.clock.now() + Duration::from_secs(1);
            let mut found = None;
            while found.is_none() && self.clock.now() < again {
                self.network.poll(Some(again), &mut |event| {
                    if let NetworkEvent::Record { record, .. } = event
                        && found.is_none()
                    {
                        found = until(&record);
                    }
                });
            }
            if let Some(found) = found {
                return found;
            }
        }
        panic!("no answer within {PATIENCE}");
    }

    /// The masters as the node at the other end names them, when it names so many.
    fn told(&mut self, count: usize) -> Vec<String> {
        let started = self.clock.now();
        loop {
            let now = self.clock.now();
            assert!(now < started + PATIENCE, "{count} masters were not named");
            let mut told = Vec::new();
            self.network.poll(Some(now + Duration::from_secs(1)), &mut |event| match event {
                NetworkEvent::Connected { masters, .. } | NetworkEvent::Masters { masters, .. } => {
                    told = masters.split(',').map(str::to_owned).collect();
                }
                _ => {}
            });
            if told.len() == count {
                return told;
            }
        }
    }

    /// Number of masters in the roster.
    fn masters(&mut self) -> usize {
        let mut count = 0;
        self.ask(&encode(&NodeList::default(), &[]), |record| match record.message_type() {
            NodeEntry::TYPE => {
                let entry: NodeEntry = record.read().expect("an entry");
                count += usize::from(entry.role == Role::Master.to_wire());
                None
            }
            ListEnd::TYPE => Some(()),
            _ => None,
        });
        count
    }
}

#[test]
fn two_masters_join_the_first_and_a_job_survives_the_loss_of_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let addresses = [free_address(), free_address(), free_address()];
    let first = config(&folder.path().join("1"), &addresses[0], &[]);
    master::init(&first).expect("a new cluster");
    assert!(master::init(&first).is_err(), "a folder is made a member's once");
    let mut running = vec![Running::start(first)];
    let mut early = Client::new(&addresses[0], 900);
    assert_eq!(early.told(1), addresses[..1]);
    for at in [1, 2] {
        let folder = folder.path().join((at + 1).to_string());
        running.push(Running::start(config(&folder, &addresses[at], &addresses[..1])));
    }
    let mut client = Client::new(&addresses[1], 901);
    let started = client.clock.now();
    while client.masters() < 3 {
        assert!(client.clock.now() < started + PATIENCE, "not all masters have joined");
    }

    let mut told = early.told(3);
    told.sort();
    let mut expected = addresses.clone();
    expected.sort();
    assert_eq!(told, expected, "whoever was connected before is told as well");

    let job = JobId(4711);
    let description = JobDescription::new(Runtime::Noop(Noop::default()));
    let submit = JobSubmit {
        job_uuid: job.to_wire(),
        task_count: 1_000_000,
        program_kind: ProgramKind::Described.to_wire(),
        ..JobSubmit::default()
    };
    let submit = encode(&submit, &[b"", b"", &description.encode().expect("short")]);
    let accepted = client.ask(&submit, |record| record.read::<JobAccepted>().ok());
    assert_eq!(JobId::from(accepted.job_uuid), job);

    // The first master, which led, goes and stays away.
    drop(running.remove(0));
    let query = JobQuery { job_uuid: job.to_wire(), ..JobQuery::default() };
    let query = encode(&query, &[b""]);
    for (at, address) in addresses.iter().enumerate().skip(1) {
        let mut other = Client::new(address, 902 + at as u128);
        let status = other.ask(&query, |record| record.read::<JobStatus>().ok());
        assert_eq!({ status.task_count }, 1_000_000, "asked master {}", at + 1);
    }
}
