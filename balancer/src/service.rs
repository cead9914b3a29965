//! The one event loop of a balancer: network in, logic, network out.
//!
//! Nothing here decides anything. There is nothing to wait for but the network: a balancer keeps
//! nothing on disk but who it is.

use std::io;

use node::clock::Clock;
use node::data_folder::{DataFolder, DataFolderError};
use node::logic::network::{Greeting, Identity, NetworkEffect, NetworkEvent};
use node::logic::updates::{AlertLevel, Publications};
use node::network::{Network, NetworkError};
use node::pubsub::{PubSubError, Publisher};
use node::stop::Stop;
use proto::ids::ClusterId;
use proto::limits;
use proto::messages::telemetry::TelemetrySnapshotRequest;
use proto::record::Message;
use proto::status::Role;
use proto::time::{Duration, Instant};
use serde::Serialize;

use crate::config::Config;
use crate::logic::{Balancer, Counters, Event, MASTER_LINK, Setting};

/// How often the status is published where nothing else happens.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Why a balancer cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data folder is another's, in use, or unreadable; or the masters belong to another
    /// cluster than it does.
    #[error("open the data folder")]
    DataFolder(#[source] DataFolderError),
    /// The address cannot be bound.
    #[error("begin to listen")]
    Network(#[source] NetworkError),
    /// The address for telemetry cannot be bound.
    #[error("publish telemetry")]
    Telemetry(#[source] PubSubError),
    /// There is no randomness to be had.
    #[error("draw randomness")]
    Random(#[source] io::Error),
    /// The configuration names no master.
    #[error("no master is named: set `masters` in table [node], one address is enough")]
    NoMaster,
}

/// What a balancer says of itself.
#[derive(Debug, PartialEq, Serialize)]
struct Status {
    group: u64,
    epoch: u64,
    is_primary: bool,
    job_count: usize,
    pending_count: u64,
    busy_count: u64,
    worker_count: usize,
    reachable_count: usize,
    slot_count: u32,
    dealt: u64,
    requeued: u64,
    asked: u64,
    silent_workers: u64,
    kill_orders: u64,
    recalls: u64,
    step_downs: u64,
}

impl Status {
    fn of(logic: &Balancer, now: Instant) -> Status {
        let (group, epoch) = logic.group().unwrap_or_default();
        let Counters { dealt, requeued, asked, silent_workers, kill_orders, recalls, step_downs } =
            logic.counters();
        let jobs = logic.tasks().jobs();
        let (job_count, pending_count, busy_count) =
            jobs.fold((0, 0u64, 0u64), |(jobs, pending, busy), (_, job)| {
                let pending = pending.saturating_add(job.pending_count());
                (jobs + 1, pending, busy.saturating_add(job.busy_count()))
            });
        Status {
            group,
            epoch: epoch.0,
            is_primary: logic.is_primary(now),
            job_count,
            pending_count,
            busy_count,
            worker_count: logic.worker_count(),
            reachable_count: logic.reachable_count(),
            slot_count: logic.slot_count(),
            dealt,
            requeued,
            asked,
            silent_workers,
            kill_orders,
            recalls,
            step_downs,
        }
    }
}

/// Runs a balancer until `stop` is requested.
///
/// # Errors
/// [`Error`], at the start; or when the first master that it meets belongs to another cluster than
/// its folder.
pub fn run(config: Config, stop: Stop) -> Result<(), Error> {
    let Config { node: settings, balancer } = config;
    if settings.masters.is_empty() {
        return Err(Error::NoMaster);
    }
    let opened = DataFolder::open(&settings.data, Role::Balancer, settings.cluster);
    let folder = opened.map_err(Error::DataFolder)?;
    let clock = Clock::start();
    let identity = Identity {
        node: folder.node(),
        role: Role::Balancer,
        cluster: folder.cluster().unwrap_or_default(),
        incarnation: folder.incarnation(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        address: settings.reachable.clone().unwrap_or_default(),
    };
    let exposure = settings.exposure();
    let network = Network::bind(identity, &settings.listen, exposure, clock);
    let network = network.map_err(Error::Network)?;
    let publications = Publications::new(folder.node(), Role::Balancer, folder.incarnation());
    let publisher = Publisher::bind(network.context(), &settings.telemetry, exposure, publications);
    let publisher = publisher.map_err(Error::Telemetry)?;
    let bound = network.bound_address().unwrap_or_default().to_owned();
    let setting = Setting {
        node: folder.node(),
        incarnation: folder.incarnation(),
        masters: settings.masters,
        address: settings.reachable.unwrap_or(bound),
        telemetry_address: publisher.address().to_owned(),
        zone: balancer.zone,
    };
    tracing::info!(
        node = %setting.node,
        incarnation = %setting.incarnation,
        address = setting.address,
        "the balancer listens"
    );
    let logic = Balancer::new(setting, node::random::generator().map_err(Error::Random)?);
    let waker = network.waker();
    stop.on_request(move || waker.wake());
    let shown = Shown::default();
    let mut service = Service { stop, clock, folder, publisher, network, logic, shown };
    while !service.stop.is_requested() {
        service.turn()?;
    }
    tracing::info!("the balancer stops");
    Ok(())
}

/// What was last published.
#[derive(Debug, Default)]
struct Shown {
    due: Instant,
    epoch: u64,
    is_primary: bool,
}

struct Service {
    stop: Stop,
    clock: Clock,
    folder: DataFolder,
    // Before the network, whose context waits for all its sockets.
    publisher: Publisher,
    network: Network,
    logic: Balancer,
    shown: Shown,
}

impl Service {
    /// Waits until something happens, and acts on it.
    fn turn(&mut self) -> Result<(), Error> {
        let mut effects: Vec<NetworkEffect> = Vec::new();
        let mut joined = None;
        let deadline = self.logic.next_deadline();
        let wake_at = deadline.map_or(self.shown.due, |deadline| deadline.min(self.shown.due));
        let (logic, clock, publisher) = (&mut self.logic, self.clock, &self.publisher);
        self.network.poll(Some(wake_at), &mut |event| {
            note_cluster(&event, &mut joined);
            match snapshot(&event, publisher) {
                Some(answer) => effects.push(answer),
                None => logic.handle(clock.now(), Event::Network(event), &mut effects),
            }
        });
        let now = self.clock.now();
        if self.logic.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.logic.handle(now, Event::Tick, &mut effects);
        }
        if let Some(cluster) = joined {
            self.join(cluster)?;
        }
        for effect in effects {
            self.network.perform(effect);
        }
        self.network.flush();
        self.publish(now);
        Ok(())
    }

    /// A master accepted this node: the folder belongs to its cluster from now on.
    fn join(&mut self, cluster: ClusterId) -> Result<(), Error> {
        self.folder.join(cluster).map_err(Error::DataFolder)?;
        self.network.set_cluster(cluster);
        self.network.set_greeting(Greeting {
            window: limits::CLIENT_WINDOW,
            masters: self.logic.masters().join(","),
            ..Greeting::default()
        });
        Ok(())
    }

    fn publish(&mut self, now: Instant) {
        let status = Status::of_change(&self.logic, now, &self.shown);
        let Some(status) = status else { return };
        if status.is_primary != self.shown.is_primary || status.epoch != self.shown.epoch {
            let text = match status.is_primary {
                true => format!("deals in group {} under epoch {}", status.group, status.epoch),
                false => format!("does not deal in group {}", status.group),
            };
            tracing::info!(group = status.group, epoch = status.epoch, "the balancer {text}");
            self.publisher.alert(AlertLevel::Change, &text);
        }
        self.shown = Shown {
            due: now + STATUS_INTERVAL,
            epoch: status.epoch,
            is_primary: status.is_primary,
        };
        match serde_json::to_vec(&status) {
            Ok(json) => self.publisher.status(&json),
            Err(error) => tracing::warn!(%error, "the status has no JSON form"),
        }
    }
}

impl Status {
    /// The status, where it is due or something of importance changed.
    fn of_change(logic: &Balancer, now: Instant, shown: &Shown) -> Option<Status> {
        let (_, epoch) = logic.group().unwrap_or_default();
        let is_news = (logic.is_primary(now), epoch.0) != (shown.is_primary, shown.epoch);
        (now >= shown.due || is_news).then(|| Status::of(logic, now))
    }
}

/// Notes which cluster the masters belong to.
fn note_cluster(event: &NetworkEvent<'_>, joined: &mut Option<ClusterId>) {
    if let NetworkEvent::Connected { link: MASTER_LINK, sender, cluster, .. } = event
        && sender.role == Role::Master
        && !cluster.is_nil()
    {
        *joined = Some(*cluster);
    }
}

/// The answer to whoever missed telemetry; `None` for anything else.
fn snapshot(event: &NetworkEvent<'_>, publisher: &Publisher) -> Option<NetworkEffect> {
    let NetworkEvent::Record { sender, record } = event else {
        return None;
    };
    let is_asked = record.message_type() == TelemetrySnapshotRequest::TYPE;
    is_asked.then(|| NetworkEffect::Send { to: sender.peer, record: publisher.snapshot(record) })
}
