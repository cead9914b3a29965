//! The one event loop of a worker: network and slots in, logic, effects out.
//!
//! Nothing here decides anything, and nothing here waits for a task: that is the slots' threads'.

use std::io;

use node::clock::Clock;
use node::data_folder::{DataFolder, DataFolderError};
use node::logic::network::{Identity, NetworkEffect, NetworkEvent, Peer};
use node::logic::refusal::Refusal;
use node::logic::updates::{AlertLevel, Publications};
use node::network::{Network, NetworkError};
use node::pubsub::{PubSubError, Publisher};
use node::stop::Stop;
use proto::messages::session::ErrorReply;
use proto::messages::telemetry::TelemetrySnapshotRequest;
use proto::record::{Message, Record};
use proto::status::{ErrorCode, Role};
use proto::time::{Duration, Instant};
use serde_json::json;

use crate::config::{Config, WorkerConfig};
use crate::logic::{Effect, Event, Setting, Worker};
use crate::slots::Slots;
use crate::spawn::{HelperProgram, Spawner};

/// How often the status is published.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Why a worker cannot run.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The data folder is another's, in use, or unreadable.
    #[error("open the data folder")]
    DataFolder(#[source] DataFolderError),
    /// The address cannot be bound.
    #[error("begin to listen")]
    Network(#[source] NetworkError),
    /// The telemetry's address cannot be bound.
    #[error("begin to publish")]
    Telemetry(#[source] PubSubError),
    /// The system does not tell what it has, gives no thread or no randomness.
    #[error("{operation}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

fn system(operation: &'static str) -> impl FnOnce(io::Error) -> WorkerError {
    move |source| WorkerError::System { operation, source }
}

/// Runs a worker until `stop` is requested and what it has is delivered, or a few seconds later.
///
/// # Errors
/// [`WorkerError`], at the start; or when the first master that it meets belongs to another
/// cluster than its folder.
pub fn run(config: Config, stop: &Stop) -> Result<(), WorkerError> {
    let Config { node: settings, worker } = config;
    let opened = DataFolder::open(&settings.data, Role::Worker, settings.cluster);
    let folder = opened.map_err(WorkerError::DataFolder)?;
    let clock = Clock::start();
    let identity = Identity {
        node: folder.node(),
        role: Role::Worker,
        cluster: folder.cluster().unwrap_or_default(),
        incarnation: folder.incarnation(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        address: settings.reachable.clone().unwrap_or_default(),
    };
    let network = Network::bind(identity, &settings.listen, settings.exposure(), clock);
    let network = network.map_err(WorkerError::Network)?;
    let bound = network.bound_address().unwrap_or_default().to_owned();
    let publications = Publications::new(folder.node(), Role::Worker, folder.incarnation());
    let exposure = settings.exposure();
    let publisher = Publisher::bind(network.context(), &settings.telemetry, exposure, publications);
    let publisher = publisher.map_err(WorkerError::Telemetry)?;
    let setting = Setting {
        node: folder.node(),
        incarnation: folder.incarnation(),
        cluster: folder.cluster().unwrap_or_default(),
        masters: settings.masters,
        address: settings.reachable.unwrap_or_else(|| bound.clone()),
        telemetry_address: publisher.address().to_owned(),
        ..machine(worker).map_err(system("ask the system what the machine has"))?
    };
    tracing::info!(
        node = %setting.node,
        incarnation = %setting.incarnation,
        address = bound,
        slots = setting.slot_count,
        "the worker listens"
    );
    let spawner = Spawner::open(folder.path(), HelperProgram::this_one());
    let spawner = spawner.map_err(system("clear what an earlier start left running"))?;
    let waker = network.waker();
    let slots = Slots::start(setting.slot_count, clock, &spawner, move || waker.wake());
    let slots = slots.map_err(system("start a thread for each slot"))?;
    let waker = network.waker();
    stop.on_request(move || waker.wake());
    let random = node::random::generator().map_err(system("draw randomness"))?;
    let slot_count = setting.slot_count;
    let logic = Worker::new(setting, random);
    let status_due = clock.now();
    let service =
        Service { clock, folder, network, publisher, logic, slots, slot_count, status_due };
    service.run(stop)
}

/// What the machine has, where the settings leave it open.
fn machine(worker: WorkerConfig) -> io::Result<Setting> {
    let slot_count = match worker.slots {
        0 => u32::try_from(std::thread::available_parallelism()?.get()).unwrap_or(u32::MAX),
        slots => slots,
    };
    Ok(Setting {
        slot_count,
        cpu_milli: match worker.cpu_milli {
            0 => u64::from(slot_count).saturating_mul(1_000),
            cpu_milli => cpu_milli,
        },
        memory_bytes: match worker.memory_bytes {
            0 => machine_memory()?,
            bytes => bytes,
        },
        zone: worker.zone,
        node: Default::default(),
        incarnation: Default::default(),
        cluster: Default::default(),
        masters: Vec::new(),
        address: String::new(),
        telemetry_address: String::new(),
    })
}

/// Bytes of memory of the machine, as Linux tells them.
fn machine_memory() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    let kib = kib.ok_or_else(|| io::Error::other("/proc/meminfo has no MemTotal"))?;
    Ok(kib.saturating_mul(1024))
}

struct Service {
    clock: Clock,
    folder: DataFolder,
    network: Network,
    publisher: Publisher,
    logic: Worker,
    slots: Slots,
    slot_count: u32,
    /// When the status is published again.
    status_due: Instant,
}

impl Service {
    fn run(mut self, stop: &Stop) -> Result<(), WorkerError> {
        let mut effects = Vec::new();
        let mut is_stopping = false;
        while !self.logic.is_finished(self.clock.now()) {
            if stop.is_requested() && !is_stopping {
                is_stopping = true;
                tracing::info!("the worker gives back what it has not begun");
                self.logic.handle(self.clock.now(), Event::Stop, &mut effects);
            }
            if let Some(ended) = self.slots.take() {
                self.logic.handle(self.clock.now(), ended, &mut effects);
            }
            self.perform(&mut effects)?;
            self.publish();
            let now = self.clock.now();
            let own = self.logic.next_deadline(now);
            let deadline = [own, self.slots.next_deadline(), Some(self.status_due)];
            let deadline = deadline.into_iter().flatten().min();
            let (logic, publisher, clock) = (&mut self.logic, &self.publisher, self.clock);
            self.network.poll(deadline, &mut |event| {
                if let Some(answer) = answer(&event, publisher) {
                    effects.push(Effect::Network(answer));
                } else {
                    logic.handle(clock.now(), Event::Network(event), &mut effects);
                }
            });
            let now = self.clock.now();
            if self.logic.next_deadline(now).is_some_and(|deadline| deadline <= now) {
                self.logic.handle(now, Event::Tick, &mut effects);
            }
            self.perform(&mut effects)?;
        }
        tracing::info!("the worker stops");
        Ok(())
    }

    fn perform(&mut self, effects: &mut Vec<Effect>) -> Result<(), WorkerError> {
        for effect in effects.drain(..) {
            match effect {
                Effect::Network(effect) => self.network.perform(effect),
                Effect::Start { slot, spec, tasks, attempt } => {
                    self.slots.execute(slot, spec, tasks, attempt);
                }
                Effect::Cancel { slot } => self.slots.cancel(slot),
                Effect::Join { cluster } => {
                    self.folder.join(cluster).map_err(WorkerError::DataFolder)?;
                    self.network.set_cluster(cluster);
                    tracing::info!(%cluster, "the worker joined the cluster");
                }
                Effect::Warn(text) => {
                    tracing::warn!("{text}");
                    self.publisher.alert(AlertLevel::Unexpected, &text);
                }
            }
        }
        Ok(())
    }

    fn publish(&mut self) {
        let now = self.clock.now();
        if now < self.status_due {
            return;
        }
        self.status_due = now + STATUS_INTERVAL;
        let status = json!({
            "slots": self.slot_count,
            "free_slots": self.logic.free_slot_count(),
            "held_runs": self.logic.held().run_count(),
            "waiting_tasks": self.logic.held().waiting_count(),
            "ended_tasks": self.logic.ended_count(),
            "result_bytes": self.logic.result_bytes(),
            "explanation": self.logic.explain(),
        });
        self.publisher.status(status.to_string().as_bytes());
    }
}

/// The answer to a record of a peer that connected to this worker; `None` for everything that the
/// logic handles.
fn answer(event: &NetworkEvent<'_>, publisher: &Publisher) -> Option<NetworkEffect> {
    let NetworkEvent::Record { sender, record } = event else { return None };
    let Peer::Inbound(_) = sender.peer else { return None };
    let record = match record.message_type() {
        TelemetrySnapshotRequest::TYPE => publisher.snapshot(record),
        // An error is not answered with an error.
        ErrorReply::TYPE => return None,
        _ => not_ours(record),
    };
    Some(NetworkEffect::Send { to: sender.peer, record })
}

fn not_ours(record: &Record<'_>) -> Vec<u8> {
    let text = format!("a worker is not asked for {}", record.layout().name);
    let refusal = Refusal::new(ErrorCode::UnknownType, record.message_type(), text);
    refusal.to_record(record.request_id())
}
