//! The one event loop of a balancer: network in, logic, network out.
//!
//! Nothing here decides anything. There is nothing to wait for but the network: a balancer keeps
//! nothing on disk but who it is.

use node::daemon::{self, Daemon, DaemonError};
use node::logic::network::{Greeting, NetworkEffect, NetworkEvent};
use node::logic::updates::AlertLevel;
use node::stop::Stop;
use proto::ids::ClusterId;
use proto::limits;
use proto::status::Role;
use proto::time::{Duration, Instant};
use serde::Serialize;

use crate::config::Config;
use crate::logic::{Balancer, Counters, Event, MASTER_LINK, Setting};

/// How often the status is published where nothing else happens.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

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
    #[serde(flatten)]
    done: Counters,
    auxiliary_in_step: bool,
}

impl Status {
    fn of(logic: &Balancer, now: Instant) -> Status {
        let (group, epoch) = logic.group().unwrap_or_default();
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
            done: logic.counters(),
            auxiliary_in_step: logic.has_auxiliary_in_step(),
        }
    }
}

/// Runs a balancer until `stop` is requested.
///
/// # Errors
/// [`DaemonError`], at the start; or when the first master that it meets belongs to another cluster
/// than its folder.
pub fn run(config: Config, stop: Stop) -> Result<(), DaemonError> {
    let Config { node: settings, balancer } = config;
    let folder = daemon::open_folder_below_masters(&settings, Role::Balancer)?;
    let daemon = Daemon::listen(&settings, Role::Balancer, folder, &stop)?;
    let setting = Setting {
        node: daemon.folder.node(),
        incarnation: daemon.folder.incarnation(),
        masters: settings.masters,
        address: daemon.address().to_owned(),
        telemetry_address: daemon.publisher.address().to_owned(),
        zone: balancer.zone,
    };
    let logic = Balancer::new(setting, daemon::generator()?);
    let mut service = Service { stop, daemon, logic, shown: Shown::default() };
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
    auxiliary_in_step: bool,
}

struct Service {
    stop: Stop,
    daemon: Daemon,
    logic: Balancer,
    shown: Shown,
}

impl Service {
    /// Waits until something happens, and acts on it.
    fn turn(&mut self) -> Result<(), DaemonError> {
        let mut effects: Vec<NetworkEffect> = Vec::new();
        let mut joined = None;
        let deadline = self.logic.next_deadline();
        let wake_at = deadline.map_or(self.shown.due, |deadline| deadline.min(self.shown.due));
        let Daemon { clock, publisher, network, .. } = &mut self.daemon;
        let logic = &mut self.logic;
        network.poll(Some(wake_at), &mut |event| {
            note_cluster(&event, &mut joined);
            match publisher.answer(&event) {
                Some(answer) => effects.push(answer),
                None => logic.handle(clock.now(), Event::Network(event), &mut effects),
            }
        });
        let now = clock.now();
        if self.logic.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.logic.handle(now, Event::Tick, &mut effects);
        }
        if let Some(cluster) = joined {
            self.join(cluster)?;
        }
        for effect in effects {
            self.daemon.network.perform(effect);
        }
        self.daemon.network.flush();
        self.publish(now);
        Ok(())
    }

    /// A master accepted this node: the folder belongs to its cluster from now on.
    fn join(&mut self, cluster: ClusterId) -> Result<(), DaemonError> {
        self.daemon.join(cluster)?;
        self.daemon.network.set_greeting(Greeting {
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
            self.daemon.publisher.alert(AlertLevel::Change, &text);
        }
        if status.auxiliary_in_step != self.shown.auxiliary_in_step {
            let verb = if status.auxiliary_in_step { "is in step" } else { "is not in step" };
            tracing::info!(group = status.group, epoch = status.epoch, "the auxiliary {verb}");
        }
        self.shown = Shown {
            auxiliary_in_step: status.auxiliary_in_step,
            due: now + STATUS_INTERVAL,
            epoch: status.epoch,
            is_primary: status.is_primary,
        };
        match serde_json::to_vec(&status) {
            Ok(json) => self.daemon.publisher.status(&json),
            Err(error) => tracing::warn!(%error, "the status has no JSON form"),
        }
    }
}

impl Status {
    /// The status, where it is due or something of importance changed.
    fn of_change(logic: &Balancer, now: Instant, shown: &Shown) -> Option<Status> {
        let (_, epoch) = logic.group().unwrap_or_default();
        let is_news = (logic.is_primary(now), epoch.0) != (shown.is_primary, shown.epoch)
            || logic.has_auxiliary_in_step() != shown.auxiliary_in_step;
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
