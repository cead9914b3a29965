//! The one event loop of a master, and how its data folder comes to be.
//!
//! Nothing here decides anything about the cluster, and nothing here waits for the disk while the
//! loop runs: log and snapshots are the disk threads'.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use consensus::{
    Disk, DiskError, DiskThread, Done, HaltReason, Identity as MemberIdentity, Member, MemberId,
    StartError,
};
use node::clock::Clock;
use node::config::NodeConfig;
use node::data_folder::{DataFolder, DataFolderError};
use node::files::{Files, RealFiles};
use node::logic::network::{Identity, Link, NetworkEffect, NetworkEvent};
use node::logic::updates::Publications;
use node::network::{Network, NetworkError};
use node::pubsub::{PubSubError, Publisher};
use node::stop::Stop;
use proto::ids::ClusterId;
use proto::messages::telemetry::TelemetrySnapshotRequest;
use proto::record::Message;
use proto::status::Role;
use proto::time::{Duration, Instant};

use crate::config::Config;
use crate::logic::cluster::Cluster;
use crate::logic::{Effect, Event, Master, Setting};

/// How long a new master asks one address for its cluster before it tries the next.
const DISCOVERY: Duration = Duration::from_secs(2);

/// How often the state is published.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Why a master cannot run.
#[derive(Debug, thiserror::Error)]
pub enum MasterError {
    /// The data folder is another's, in use, or unreadable.
    #[error("open the data folder")]
    DataFolder(#[source] DataFolderError),
    /// The folder is no master's yet, and no master is named through which it could join.
    #[error(
        "{} belongs to no cluster: make a new one in it with `remuda cluster init`, or name \
         masters of one to join under `masters`", .0.display()
    )]
    NoCluster(PathBuf),
    /// A new cluster's first master must be reachable at an address that stays.
    #[error("give `listen` (or `reachable`) a fixed port: the masters' addresses go into the log")]
    NoFixedPort,
    /// The log or its snapshots cannot be used.
    #[error("open the log")]
    Disk(#[source] DiskError),
    /// The member cannot start from what the disk holds.
    #[error("start from the log")]
    Start(#[source] StartError),
    /// The address cannot be bound.
    #[error("begin to listen")]
    Network(#[source] NetworkError),
    /// Telemetry cannot be published.
    #[error("publish telemetry")]
    Telemetry(#[source] PubSubError),
    /// No thread started, no randomness drawn.
    #[error("{operation}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The member stopped: going on could break a promise.
    #[error("this master stopped itself: {0}")]
    Halted(HaltReason),
    /// Stopped before it had joined.
    #[error("stopped before any master answered")]
    Stopped,
}

fn system(operation: &'static str) -> impl FnOnce(io::Error) -> MasterError {
    move |source| MasterError::System { operation, source }
}

fn consensus_folder(folder: &Path) -> PathBuf {
    folder.join("consensus")
}

/// Where others reach a node that listens as configured; `None` where the port is not fixed.
fn fixed_address(settings: &NodeConfig) -> Option<&str> {
    let address = settings.reachable.as_deref().unwrap_or(&settings.listen);
    let (_, port) = address.rsplit_once(':')?;
    (port != "0" && port != "*").then_some(address)
}

/// Makes a data folder the first master of a new cluster. Returns the cluster's UUID.
///
/// # Errors
/// [`MasterError`]; a folder that is a master's already is left as it is.
pub fn init(config: &Config) -> Result<ClusterId, MasterError> {
    let settings = &config.node;
    let address = fixed_address(settings).ok_or(MasterError::NoFixedPort)?;
    let folder = DataFolder::open(&settings.data, Role::Master, settings.cluster);
    let mut folder = folder.map_err(MasterError::DataFolder)?;
    let bits = || node::random::bits().map_err(system("draw randomness"));
    let cluster = match folder.cluster() {
        Some(cluster) => cluster,
        None => ClusterId::from_random(bits()?),
    };
    folder.join(cluster).map_err(MasterError::DataFolder)?;
    let member = MemberIdentity::new(cluster, MemberId::from_random(bits()?), bits()?);
    let files: Arc<dyn Files> = Arc::new(RealFiles);
    let path = consensus_folder(folder.path());
    Disk::bootstrap(&files, &path, &member, address, &Cluster::default())
        .map_err(MasterError::Disk)?;
    Ok(cluster)
}

/// Runs a master until `stop` is requested.
///
/// # Errors
/// [`MasterError`], at the start; or when the member stopped itself.
pub fn run(config: Config, stop: Stop) -> Result<(), MasterError> {
    let Config { node: settings, master } = config;
    let folder = DataFolder::open(&settings.data, Role::Master, settings.cluster);
    let mut folder = folder.map_err(MasterError::DataFolder)?;
    let clock = Clock::start();
    let files: Arc<dyn Files> = Arc::new(RealFiles);
    let path = consensus_folder(folder.path());
    let opened = match Disk::open(&files, &path) {
        Err(DiskError::NotMade(_)) => {
            join(&settings, &mut folder, &files, clock, &stop)?;
            Disk::open(&files, &path)
        }
        opened => opened,
    };
    let (disk, recovered) = opened.map_err(MasterError::Disk)?;
    let member = recovered.identity();
    for damaged in recovered.damaged_snapshots() {
        tracing::warn!(path = %damaged.display(), "a damaged snapshot was passed over");
    }
    let identity = Identity {
        node: folder.node(),
        role: Role::Master,
        cluster: member.cluster,
        incarnation: folder.incarnation(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        address: settings.reachable.clone().unwrap_or_default(),
    };
    let network = Network::bind(identity, &settings.listen, settings.exposure(), clock)
        .map_err(MasterError::Network)?;
    let publications = Publications::new(folder.node(), Role::Master, folder.incarnation());
    let publisher =
        Publisher::bind(network.context(), &settings.telemetry, settings.exposure(), publications)
            .map_err(MasterError::Telemetry)?;
    let bound = network.bound_address().unwrap_or_default().to_owned();
    let setting = Setting {
        node: folder.node(),
        incarnation: folder.incarnation(),
        member: member.member,
        address: settings.reachable.clone().unwrap_or(bound),
        telemetry_address: publisher.address().to_owned(),
        zone: master.zone,
        join: settings.masters,
    };
    tracing::info!(
        node = %setting.node,
        cluster = %member.cluster,
        member = %setting.member,
        address = setting.address,
        "the master listens"
    );
    let behaviour = consensus::Config {
        incarnation: folder.incarnation(),
        snapshot_after_bytes: usize::try_from(master.snapshot_bytes).unwrap_or(usize::MAX),
        ..consensus::Config::default()
    };
    let generator = || node::random::generator().map_err(system("draw randomness"));
    let (member_random, random) = (generator()?, generator()?);
    let cluster = member.cluster;
    let member = Member::new(behaviour, recovered, Cluster::default(), member_random, clock.now())
        .map_err(MasterError::Start)?;
    let logic = Master::new(setting, cluster, member, random);
    let done = Arc::new(Mutex::new(VecDeque::new()));
    let (waker, queue) = (network.waker(), done.clone());
    let disk = DiskThread::start::<Cluster>(disk, move |finished: Done| {
        queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(finished);
        waker.wake();
    })
    .map_err(system("start a thread"))?;
    let waker = network.waker();
    stop.on_request(move || waker.wake());
    Service { stop, clock, _folder: folder, network, publisher, logic, disk, done }.run()
}

/// Makes an empty folder a member's of the cluster to which one of the named masters belongs.
fn join(
    settings: &NodeConfig,
    folder: &mut DataFolder,
    files: &Arc<dyn Files>,
    clock: Clock,
    stop: &Stop,
) -> Result<(), MasterError> {
    if settings.masters.is_empty() {
        return Err(MasterError::NoCluster(settings.data.clone()));
    }
    if fixed_address(settings).is_none() {
        return Err(MasterError::NoFixedPort);
    }
    let identity = Identity {
        node: folder.node(),
        role: Role::Master,
        cluster: folder.cluster().unwrap_or_default(),
        incarnation: folder.incarnation(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        address: String::new(),
    };
    let mut network = Network::client(identity, clock).map_err(MasterError::Network)?;
    let waker = network.waker();
    stop.on_request(move || waker.wake());
    let mut addresses = settings.masters.iter().cycle();
    let mut cluster = None;
    while cluster.is_none() {
        if stop.is_requested() {
            return Err(MasterError::Stopped);
        }
        let Some(address) = addresses.next() else { break };
        network.perform(NetworkEffect::Open { link: Link(0), address: address.clone() });
        let until = clock.now() + DISCOVERY;
        while cluster.is_none() && clock.now() < until && !stop.is_requested() {
            network.poll(Some(until), &mut |event| match event {
                NetworkEvent::Connected { cluster: found, .. } => cluster = Some(found),
                NetworkEvent::Refused { text, .. } => tracing::warn!("{address}: {text}"),
                _ => {}
            });
        }
    }
    let cluster = cluster.ok_or(MasterError::Stopped)?;
    folder.join(cluster).map_err(MasterError::DataFolder)?;
    let bits = || node::random::bits().map_err(system("draw randomness"));
    let member = MemberIdentity::new(cluster, MemberId::from_random(bits()?), bits()?);
    Disk::join(files, &consensus_folder(folder.path()), &member).map_err(MasterError::Disk)
}

struct Service {
    stop: Stop,
    clock: Clock,
    _folder: DataFolder,
    network: Network,
    publisher: Publisher,
    logic: Master,
    disk: DiskThread<Cluster>,
    /// What the disk threads have done and the loop has not seen.
    done: Arc<Mutex<VecDeque<Done>>>,
}

impl Service {
    fn run(mut self) -> Result<(), MasterError> {
        let mut effects = Vec::new();
        let mut status_due = Instant(0);
        while !self.stop.is_requested() {
            loop {
                let next = self.done.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some(done) = next else { break };
                self.logic.handle(self.clock.now(), Event::Disk(done), &mut effects);
            }
            self.perform(&mut effects)?;
            let deadline = self.logic.next_deadline().map_or(status_due, |due| due.min(status_due));
            let (logic, clock, publisher) = (&mut self.logic, self.clock, &self.publisher);
            self.network.poll(Some(deadline), &mut |event| match event {
                NetworkEvent::Record { sender, record }
                    if record.message_type() == TelemetrySnapshotRequest::TYPE =>
                {
                    let record = publisher.snapshot(&record);
                    let reply = NetworkEffect::Send { to: sender.peer, record };
                    effects.push(Effect::Network(reply));
                }
                event => logic.handle(clock.now(), Event::Network(event), &mut effects),
            });
            let now = self.clock.now();
            if self.logic.next_deadline().is_some_and(|due| due <= now) {
                self.logic.handle(now, Event::Tick, &mut effects);
            }
            if status_due <= now {
                status_due = now + STATUS_INTERVAL;
                self.publish();
            }
            self.perform(&mut effects)?;
        }
        tracing::info!("the master stops");
        Ok(())
    }

    fn perform(&mut self, effects: &mut Vec<Effect>) -> Result<(), MasterError> {
        for effect in effects.drain(..) {
            match effect {
                Effect::Network(effect) => self.network.perform(effect),
                Effect::Disk(job) => self.disk.give(*job),
                Effect::Greet(greeting) => self.network.set_greeting(greeting),
                Effect::Halt(reason) => return Err(MasterError::Halted(reason)),
            }
        }
        Ok(())
    }

    fn publish(&mut self) {
        let member = self.logic.member();
        let status = format!(
            r#"{{"leads":{},"term":{},"applied_index":{},"jobs":{}}}"#,
            self.logic.leads(),
            member.term(),
            member.applied_index(),
            self.logic.cluster().jobs.len(),
        );
        self.publisher.status(status.as_bytes());
    }
}
