//! The one event loop of a worker: network and slots in, logic, effects out.
//!
//! Nothing here decides anything, and nothing here waits for a task: that is the slots' threads'.

use std::io;
use std::sync::Arc;

use client::{Client, ClientError};
use node::daemon::{self, Daemon, DaemonError, system};
use node::logic::explanations::explain_reply;
use node::logic::network::{NetworkEffect, NetworkEvent, Peer};
use node::logic::refusal::Refusal;
use node::logic::updates::AlertLevel;
use node::stop::Stop;
use proto::ids::{LogIndex, TaskIndex};
use proto::messages::job::ExplainQuery;
use proto::messages::session::ErrorReply;
use proto::record::{Message, Record, set_request_id};
use proto::status::{ErrorCode, Role};
use proto::time::{Duration, Instant};
use serde_json::json;

use crate::cgroup::{Cgroups, ProcessLimit};
use crate::config::{Config, TASK_PROCESSES, WorkerConfig};
use crate::evidence::Evidence;
use crate::inputs::Inputs;
use crate::live;
use crate::logic::{Effect, Event, Setting, Worker};
use crate::room;
use crate::running::Running;
use crate::runtime::{Equipment, task_of};
use crate::slots::Slots;
use crate::spawn::{HelperProgram, Spawner, TaskUser, left_running};

/// How often the status is published.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Why a worker cannot run.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// What every daemon needs cannot be had.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// What reaches storage cannot be started.
    #[error("start the client of storage")]
    Client(#[source] ClientError),
}

/// Runs a worker until `stop` is requested and what it has is delivered, or a few seconds later.
///
/// # Errors
/// [`WorkerError`], at the start; or when the first master that it meets belongs to another
/// cluster than its folder.
pub fn run(config: Config, stop: &Stop) -> Result<(), WorkerError> {
    let Config { node: settings, worker } = config;
    let masters = settings.masters.clone();
    let folder = daemon::open_folder_below_masters(&settings, Role::Worker)?;
    let daemon = Daemon::listen(&settings, Role::Worker, folder, stop)?;
    let folder = &daemon.folder;
    let setting = Setting {
        node: folder.node(),
        incarnation: folder.incarnation(),
        cluster: folder.cluster().unwrap_or_default(),
        masters: settings.masters.clone(),
        address: daemon.address().to_owned(),
        telemetry_address: daemon.publisher.address().to_owned(),
        ..machine(&worker).map_err(system("ask the system what the machine has"))?
    };
    let user = TaskUser::of_setting(&worker.user).map_err(system("find the user of tasks"))?;
    if let Some(user) = user {
        tracing::info!(uid = user.uid, gid = user.gid, "tasks run as another user");
    }
    // Before the folders go that tell it.
    let left = left_running(folder.path()).map_err(system("find what ran when the worker died"))?;
    let left = left.iter().filter_map(|name| task_of(name)).collect();
    let evidence = Evidence::keep(folder.path(), left);
    let evidence = evidence.map_err(system("note what ran when the worker died"))?;
    let spawner = Spawner::open(folder.path(), HelperProgram::this_one(user));
    let spawner = spawner.map_err(system("clear what an earlier start left running"))?;
    let limit = process_limit(&worker, setting.slot_count);
    let cgroups = Cgroups::open(setting.node).with_process_limit(setting.node, limit);
    let (spawner, memory_limits) = (spawner.with_cgroups(cgroups.clone()), cgroups.way());
    let waker = daemon.network.waker();
    let client = Arc::new(Client::connect(masters.clone()).map_err(WorkerError::Client)?);
    let clock = daemon.clock;
    let inputs = Inputs::open(folder.path(), folder.incarnation(), &worker, clock, client.clone());
    let inputs = inputs.map_err(system("make the folder of inputs"))?;
    let equipment = Equipment::new(clock, spawner, client, inputs, &masters)
        .of_worker(setting.node, setting.incarnation);
    let (running, inputs) = (equipment.running.clone(), equipment.inputs.clone());
    let slots = Slots::start(setting.slot_count, &equipment, move || waker.wake());
    let slots = slots.map_err(system("start a thread for each slot"))?;
    let random = daemon::generator()?;
    let slot_count = setting.slot_count;
    let logic = Worker::new(setting, random);
    let status_due = daemon.clock.now();
    let service = Service {
        daemon,
        logic,
        slots,
        running,
        inputs,
        memory_limits,
        evidence: Some(evidence),
        slot_count,
        status_due,
        is_short_of_room: false,
    };
    service.run(stop)
}

/// How many processes and threads tasks may have. The helpers are the same user's.
fn process_limit(worker: &WorkerConfig, slot_count: u32) -> ProcessLimit {
    let each = if worker.task_processes == 0 { TASK_PROCESSES } else { worker.task_processes };
    let together = u64::from(each).saturating_add(1).saturating_mul(u64::from(slot_count));
    ProcessLimit { each, together }
}

/// What the machine has, where the settings leave it open.
fn machine(worker: &WorkerConfig) -> io::Result<Setting> {
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
        zone: worker.zone.clone(),
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
    daemon: Daemon,
    logic: Worker,
    slots: Slots,
    running: Running,
    inputs: Inputs,
    /// How they are enforced.
    memory_limits: &'static str,
    /// What ran when earlier incarnations died, until the masters acknowledged it.
    evidence: Option<Evidence>,
    slot_count: u32,
    /// When the status is published again, and the disk looked at.
    status_due: Instant,
    /// Whether that had too little room the last time.
    is_short_of_room: bool,
}

impl Service {
    fn run(mut self, stop: &Stop) -> Result<(), WorkerError> {
        let mut effects = Vec::new();
        let mut is_stopping = false;
        let tasks = self.evidence.as_ref().map_or(Vec::new(), |it| it.tasks().to_vec());
        if !tasks.is_empty() {
            tracing::warn!(count = tasks.len(), "the worker died with tasks the last time");
            self.logic.handle(self.daemon.clock.now(), Event::Crashed { tasks }, &mut effects);
        }
        while !self.logic.is_finished(self.daemon.clock.now()) {
            if stop.is_requested() && !is_stopping {
                is_stopping = true;
                tracing::info!("the worker gives back what it has not begun");
                self.logic.handle(self.daemon.clock.now(), Event::Stop, &mut effects);
            }
            if let Some(ended) = self.slots.take() {
                self.logic.handle(self.daemon.clock.now(), ended, &mut effects);
            }
            while let Some(taken_back) = self.slots.take_back() {
                self.logic.handle(self.daemon.clock.now(), taken_back, &mut effects);
            }
            self.perform(&mut effects)?;
            if let Some(evidence) = self.evidence.take_if(|_| !self.logic.owes_evidence())
                && let Err(error) = evidence.forget()
            {
                tracing::warn!(%error, "what an earlier start died with will be told again");
            }
            self.look_around(&mut effects);
            self.perform(&mut effects)?;
            let now = self.daemon.clock.now();
            let own = self.logic.next_deadline(now);
            let deadline = [own, self.slots.next_deadline(), Some(self.status_due)];
            let deadline = deadline.into_iter().flatten().min();
            let Daemon { clock, publisher, network, .. } = &mut self.daemon;
            let (logic, running) = (&mut self.logic, &self.running);
            network.poll(deadline, &mut |event| match publisher
                .answer(&event)
                .or_else(|| answer(&event, running, logic))
            {
                Some(answer) => effects.push(Effect::Network(answer)),
                None => logic.handle(clock.now(), Event::Network(event), &mut effects),
            });
            let now = clock.now();
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
                Effect::Network(effect) => self.daemon.network.perform(effect),
                Effect::Start { slot, spec, tasks, attempt } => {
                    self.slots.execute(slot, spec, tasks, attempt);
                }
                Effect::Cancel { slot } => self.slots.cancel(slot),
                Effect::Join { cluster } => self.daemon.join(cluster)?,
                Effect::Warn(text) => {
                    tracing::warn!("{text}");
                    self.daemon.publisher.alert(AlertLevel::Unexpected, &text);
                }
            }
        }
        Ok(())
    }

    /// Looks at the disk and tells how this worker is, once in a while.
    fn look_around(&mut self, effects: &mut Vec<Effect>) {
        let now = self.daemon.clock.now();
        if now < self.status_due {
            return;
        }
        self.status_due = now + STATUS_INTERVAL;
        let is_short = room::is_short(self.daemon.folder.path(), self.is_short_of_room);
        if is_short != self.is_short_of_room {
            self.is_short_of_room = is_short;
            self.logic.handle(now, Event::Room { is_short }, effects);
        }
        self.publish();
    }

    fn publish(&mut self) {
        let inputs = self.inputs.status();
        let status = json!({
            "slots": self.slot_count,
            "free_slots": self.logic.free_slot_count(),
            "held_runs": self.logic.held().run_count(),
            "waiting_tasks": self.logic.held().waiting_count(),
            "ended_tasks": self.logic.ended_count(),
            "result_bytes": self.logic.result_bytes(),
            "inputs": inputs.way,
            "inputs_jobs": inputs.jobs,
            "inputs_bytes": inputs.bytes,
            "inputs_bytes_limit": inputs.limit,
            "memory_limits": self.memory_limits,
            "explanation": self.logic.explain(),
        });
        self.daemon.publisher.status(status.to_string().as_bytes());
    }
}

/// The answer to a record of a peer that connected to this worker; `None` for everything that the
/// logic handles.
fn answer(event: &NetworkEvent<'_>, running: &Running, logic: &Worker) -> Option<NetworkEffect> {
    let NetworkEvent::Record { sender, record } = event else { return None };
    let Peer::Inbound(_) = sender.peer else { return None };
    let record = match live::answer(record, running) {
        Some(answer) => answer,
        None if record.message_type() == ExplainQuery::TYPE => explain(record, running, logic),
        // An error is not answered with an error.
        None if record.message_type() == ErrorReply::TYPE => return None,
        None => not_ours(record),
    };
    Some(NetworkEffect::Send { to: sender.peer, record })
}

/// Why tasks are where they are.
fn explain(record: &Record<'_>, running: &Running, logic: &Worker) -> Vec<u8> {
    let query = match record.read::<ExplainQuery>() {
        Ok(query) => query,
        Err(error) => {
            let refused = record.message_type();
            let refusal = Refusal::new(ErrorCode::Malformed, refused, error.to_string());
            return refusal.to_record(record.request_id());
        }
    };
    let task = Some(TaskIndex(query.task_index)).filter(|task| task.0 != u64::MAX);
    let stage = |job, task| running.stage(job, task);
    let whys = logic.explain_tasks(query.job_uuid.into(), task, &stage);
    let mut reply = explain_reply(LogIndex(0), 0, &whys);
    set_request_id(&mut reply, record.request_id());
    reply
}

fn not_ours(record: &Record<'_>) -> Vec<u8> {
    let text = format!("a worker is not asked for {}", record.layout().name);
    let refusal = Refusal::new(ErrorCode::UnknownType, record.message_type(), text);
    refusal.to_record(record.request_id())
}
