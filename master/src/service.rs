//! The one event loop of a master, and how its data folder comes to be.
//!
//! Nothing here decides anything about the cluster, and nothing here waits for the disk while the
//! loop runs: log and snapshots are the disk threads'.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use consensus::{
    Disk, DiskError, DiskThread, Done, HaltReason, Identity as MemberIdentity, Member, MemberId,
    Room, StartError,
};
use node::clock::Clock;
use node::config::NodeConfig;
use node::daemon::{self, Daemon, DaemonError, system};
use node::data_folder::DataFolder;
use node::files::{Files, RealFiles};
use node::logic::network::{Link, NetworkEffect, NetworkEvent};
use node::logic::updates::AlertLevel;
use node::network::Network;
use node::stop::Stop;
use proto::ids::ClusterId;
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
    /// What every daemon needs cannot be had.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
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
    /// The member stopped: going on could break a promise.
    #[error("this master stopped itself: {0}")]
    Halted(HaltReason),
    /// None of the masters through which it was to join answered.
    #[error("no master answers at {0}")]
    NoAnswer(String),
    /// A master through which it was to join refused.
    #[error("{0}")]
    NotAdmitted(String),
    /// Stopped before it had joined.
    #[error("stopped before any master answered")]
    Stopped,
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
    let mut folder = daemon::open_folder(settings, Role::Master)?;
    let bits = || node::random::bits().map_err(system("draw randomness"));
    let cluster = match folder.cluster() {
        Some(cluster) => cluster,
        None => ClusterId::from_random(bits()?),
    };
    folder.join(cluster).map_err(DaemonError::DataFolder)?;
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
    let mut folder = daemon::open_folder(&settings, Role::Master)?;
    let files: Arc<dyn Files> = Arc::new(RealFiles);
    let path = consensus_folder(folder.path());
    let opened = match Disk::open(&files, &path) {
        Err(DiskError::NotMade(_)) => {
            become_member(&settings, &mut folder, &files, Patience::UntilStopped(&stop))?;
            Disk::open(&files, &path)
        }
        opened => opened,
    };
    let (disk, recovered) = opened.map_err(MasterError::Disk)?;
    let member = recovered.identity();
    for damaged in recovered.damaged_snapshots() {
        tracing::warn!(path = %damaged.display(), "a damaged snapshot was passed over");
    }
    let daemon = Daemon::listen(&settings, Role::Master, folder, &stop)?;
    let incarnation = daemon.folder.incarnation();
    let setting = Setting {
        node: daemon.folder.node(),
        incarnation,
        member: member.member,
        address: daemon.address().to_owned(),
        telemetry_address: daemon.publisher.address().to_owned(),
        repair_grace: master.repair_grace(),
        zone: master.zone,
        join: settings.masters,
    };
    tracing::info!(cluster = %member.cluster, member = %setting.member, "the master starts");
    let behaviour = consensus::Config {
        incarnation,
        snapshot_after_bytes: usize::try_from(master.snapshot_bytes).unwrap_or(usize::MAX),
        ..consensus::Config::default()
    };
    let (member_random, random) = (daemon::generator()?, daemon::generator()?);
    let (cluster, now) = (member.cluster, daemon.clock.now());
    let member = Member::new(behaviour, recovered, Cluster::default(), member_random, now)
        .map_err(MasterError::Start)?;
    let logic = Master::new(setting, cluster, member, random);
    let done = Arc::new(Mutex::new(VecDeque::new()));
    let (waker, queue) = (daemon.network.waker(), done.clone());
    let disk = DiskThread::start::<Cluster>(disk, move |finished: Done| {
        queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(finished);
        waker.wake();
    })
    .map_err(system("start a thread"))?;
    Service { stop, daemon, logic, disk, done, room: Room::Enough }.run()
}

/// Makes an empty data folder a member's of the cluster to which the masters named in the
/// configuration belong, and returns the cluster's UUID. The member takes part once it runs.
///
/// # Errors
/// [`MasterError`], also where none of the masters answers; a folder that is a master's already is
/// left as it is.
pub fn join(config: &Config) -> Result<ClusterId, MasterError> {
    let mut folder = daemon::open_folder(&config.node, Role::Master)?;
    let files: Arc<dyn Files> = Arc::new(RealFiles);
    become_member(&config.node, &mut folder, &files, Patience::OneRound)
}

/// How long masters are looked for.
#[derive(Clone, Copy)]
enum Patience<'a> {
    /// Each address is tried once.
    OneRound,
    /// Until one answers.
    UntilStopped(&'a Stop),
}

/// Makes an empty folder a member's of the cluster to which one of the named masters belongs.
fn become_member(
    settings: &NodeConfig,
    folder: &mut DataFolder,
    files: &Arc<dyn Files>,
    patience: Patience<'_>,
) -> Result<ClusterId, MasterError> {
    if settings.masters.is_empty() {
        return Err(MasterError::NoCluster(settings.data.clone()));
    }
    if fixed_address(settings).is_none() {
        return Err(MasterError::NoFixedPort);
    }
    let cluster = discover(settings, folder, patience)?;
    folder.join(cluster).map_err(DaemonError::DataFolder)?;
    let bits = || node::random::bits().map_err(system("draw randomness"));
    let member = MemberIdentity::new(cluster, MemberId::from_random(bits()?), bits()?);
    Disk::join(files, &consensus_folder(folder.path()), &member).map_err(MasterError::Disk)?;
    Ok(cluster)
}

/// The cluster to which the first of the named masters that answers belongs.
fn discover(
    settings: &NodeConfig,
    folder: &DataFolder,
    patience: Patience<'_>,
) -> Result<ClusterId, MasterError> {
    let clock = Clock::start();
    let identity = daemon::identity(folder, Role::Master, String::new());
    let mut network = Network::client(identity, clock).map_err(DaemonError::Network)?;
    let is_stopped = || matches!(patience, Patience::UntilStopped(stop) if stop.is_requested());
    if let Patience::UntilStopped(stop) = patience {
        let waker = network.waker();
        stop.on_request(move || waker.wake());
    }
    let mut refusal = None;
    loop {
        for address in &settings.masters {
            network.perform(NetworkEffect::Open { link: Link(0), address: address.clone() });
            let until = clock.now() + DISCOVERY;
            let mut cluster = None;
            while cluster.is_none() && clock.now() < until && !is_stopped() {
                network.poll(Some(until), &mut |event| match event {
                    NetworkEvent::Connected { cluster: found, .. } => cluster = Some(found),
                    NetworkEvent::Refused { text, .. } => {
                        tracing::warn!("{address}: {text}");
                        refusal = Some(format!("{address}: {text}"));
                    }
                    _ => {}
                });
            }
            if let Some(cluster) = cluster {
                return Ok(cluster);
            }
        }
        match patience {
            Patience::UntilStopped(stop) if !stop.is_requested() => {}
            Patience::UntilStopped(_) => return Err(MasterError::Stopped),
            Patience::OneRound => {
                let asked = || MasterError::NoAnswer(settings.masters.join(", "));
                return Err(refusal.map_or_else(asked, MasterError::NotAdmitted));
            }
        }
    }
}

struct Service {
    stop: Stop,
    logic: Master,
    disk: DiskThread<Cluster>,
    /// What the disk threads have done and the loop has not seen.
    done: Arc<Mutex<VecDeque<Done>>>,
    /// What was last said of the disk's room for the log.
    room: Room,
    // Last: the folder stays locked until the threads that write in it have ended.
    daemon: Daemon,
}

impl Service {
    fn run(mut self) -> Result<(), MasterError> {
        let mut effects = Vec::new();
        let mut status_due = Instant(0);
        while !self.stop.is_requested() {
            loop {
                let next = self.done.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some(done) = next else { break };
                self.logic.handle(self.daemon.clock.now(), Event::Disk(done), &mut effects);
            }
            self.perform(&mut effects)?;
            let deadline = self.logic.next_deadline().map_or(status_due, |due| due.min(status_due));
            let Daemon { clock, publisher, network, .. } = &mut self.daemon;
            let logic = &mut self.logic;
            network.poll(Some(deadline), &mut |event| match publisher.answer(&event) {
                Some(answer) => effects.push(Effect::Network(answer)),
                None => logic.handle(clock.now(), Event::Network(event), &mut effects),
            });
            let now = clock.now();
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
                Effect::Network(effect) => self.daemon.network.perform(effect),
                Effect::Disk(job) => self.disk.give(*job),
                Effect::Greet(greeting) => self.daemon.network.set_greeting(greeting),
                Effect::Halt(reason) => return Err(MasterError::Halted(reason)),
            }
        }
        Ok(())
    }

    fn publish(&mut self) {
        let member = self.logic.member();
        let status = format!(
            r#"{{"leads":{},"term":{},"applied_index":{},"jobs":{},"has_room":{}}}"#,
            self.logic.leads(),
            member.term(),
            member.applied_index(),
            self.logic.cluster().jobs.len(),
            member.room() == Room::Enough,
        );
        let room = member.room();
        self.daemon.publisher.status(status.as_bytes());
        let was = std::mem::replace(&mut self.room, room);
        if was != room {
            let (level, text) = match room {
                Room::Enough => (AlertLevel::Change, "the disk has room for the log again"),
                Room::Short | Room::Gone => {
                    (AlertLevel::Act, "the disk of this master is full: free space on it")
                }
            };
            self.daemon.publisher.alert(level, text);
        }
    }
}
