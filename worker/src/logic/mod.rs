//! What a worker decides: which deals it takes, which slot executes what, what it reports to whom.
//!
//! Pure: no sockets, clock, threads or randomness of its own. It does not know how a task is
//! executed, only when it starts and how it ended.

mod balancers;
pub mod held;
pub mod job;
pub mod results;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use fastrand::Rng;
use node::logic::network::{Link, NetworkEffect, NetworkEvent, Peer};
use node::logic::rotation::Rotation;
use proto::ids::{Epoch, FileId, Incarnation, JobId, NodeId, TaskIndex};
use proto::messages::node::{NodeRegister, NodeRegistered};
use proto::messages::session::ErrorReply;
use proto::messages::task::{
    TaskFree, TaskRecall, TaskReturned, TaskRun, TaskSettled, WorkerHeartbeatReply, WorkerRequest,
    WorkerStatusReply,
};
use proto::record::{Message, Record, RecordError, encode};
use proto::status::{Cause, ErrorCode, Order, Role, TaskState, Verdict};
use proto::time::{Duration, Instant};
use proto::wire::{bytes_of, items_of};

use self::balancers::Balancers;
use self::held::{Held, WaitingRun};
use self::job::JobSpec;
use self::results::{Outcome, RESULT_BYTES, Results};

/// The link to a master.
const MASTER_LINK: Link = Link(0);

/// How long a status frame may stay unanswered before another master is asked.
const FRAME_TIMEOUT: Duration = Duration::from_millis(1_500);

/// How long a registration may stay unanswered before another master is asked, and how soon it is
/// repeated while there is no balancer.
const REGISTER_TIMEOUT: Duration = Duration::from_millis(1_000);

/// How often a registered worker asks again who its balancers are.
const REGISTER_INTERVAL: Duration = Duration::from_secs(10);

/// Short tasks are handed to a slot in pieces that take about this long, so that the hand-over
/// costs little and a recall still finds what has not begun.
const PIECE: Duration = Duration::from_millis(2);

/// Most tasks of a piece.
const PIECE_TASKS: u64 = 256;

/// Weight of the newest task in a job's mean duration.
const MEAN_WEIGHT: f64 = 0.1;

/// Most runs that a worker holds: what a heartbeat lists.
const HELD_RUNS: usize = 20_000;

/// What a worker is.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Its UUID.
    pub node: NodeId,
    /// How often its data folder was started.
    pub incarnation: Incarnation,
    /// Addresses of the masters.
    pub masters: Vec<String>,
    /// Where its telemetry is published; empty where it is not.
    pub telemetry_address: String,
    /// Its failure zone.
    pub zone: String,
    /// Tasks that it executes at a time.
    pub slot_count: u32,
    /// Thousandths of a CPU that tasks may use together.
    pub cpu_milli: u64,
    /// Bytes of memory that tasks may use together.
    pub memory_bytes: u64,
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskEnd {
    /// The slot that executed it.
    pub slot: u32,
    /// The task.
    pub task: TaskIndex,
    /// Done, failed or lost.
    pub state: TaskState,
    /// Exit code, minus the signal's number where one ended it.
    pub exit_code: i32,
    /// Why, where the state alone does not say it.
    pub cause: Cause,
    /// When it began, microseconds since 1970.
    pub start_unix_us: u64,
    /// How long it took.
    pub wall: Duration,
    /// CPU time that it used.
    pub cpu: Duration,
    /// Largest resident memory that it had, in bytes.
    pub peak_memory_bytes: u64,
}

/// What happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// Something on the network.
    Network(NetworkEvent<'a>),
    /// Tasks ended; those of one slot in the order of their indices.
    Ended(Vec<TaskEnd>),
    /// A deadline passed.
    Tick,
    /// The operator stops the worker: what has not begun is given back, what runs is lost.
    Stop,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// On the network.
    Network(NetworkEffect),
    /// Execute tasks in a slot, one after the other.
    Start {
        /// The slot.
        slot: u32,
        /// Their job.
        spec: Arc<JobSpec>,
        /// The tasks.
        tasks: Range<u64>,
        /// The attempt.
        attempt: u64,
    },
    /// End what runs in a slot, and do not begin what was handed to it: all ends as lost.
    Cancel {
        /// The slot.
        slot: u32,
    },
}

/// A worker.
#[derive(Debug)]
pub struct Worker {
    setting: Setting,
    masters: Rotation,
    /// When the registration is sent again, or given up where it is unanswered.
    register_due: Instant,
    is_register_pending: bool,
    /// Number of the log entry that gave this worker to its group; 0 before.
    assignment: u64,
    group: u64,
    balancers: Balancers,
    /// Highest epoch seen under the assignment.
    epoch: Epoch,
    held: Held,
    free_slots: BTreeSet<u32>,
    cpu_used: u64,
    memory_used: u64,
    /// Mean duration of a job's tasks, in microseconds.
    means: BTreeMap<JobId, f64>,
    results: Results,
    /// When the frame under way is given up, or sent again.
    frame_due: Option<Instant>,
    /// What became free since the balancers were last told: by job, with the time it took.
    freed: BTreeMap<JobId, (u64, Vec<TaskRun>)>,
    is_stopping: bool,
}

impl Worker {
    /// A worker that knows nobody yet. `random` spreads its retries.
    #[must_use]
    pub fn new(setting: Setting, random: Rng) -> Worker {
        let masters = Rotation::new(MASTER_LINK, setting.masters.clone(), random);
        let free_slots = (0..setting.slot_count).collect();
        Worker {
            setting,
            masters,
            register_due: Instant(0),
            is_register_pending: false,
            assignment: 0,
            group: 0,
            balancers: Balancers::default(),
            epoch: Epoch(0),
            held: Held::default(),
            free_slots,
            cpu_used: 0,
            memory_used: 0,
            means: BTreeMap::new(),
            results: Results::default(),
            frame_due: None,
            freed: BTreeMap::new(),
            is_stopping: false,
        }
    }

    /// Decides what to do about one event.
    pub fn handle(&mut self, now: Instant, event: Event<'_>, effects: &mut Vec<Effect>) {
        let mut network = Vec::new();
        match event {
            Event::Network(event) => self.on_network(now, event, effects, &mut network),
            Event::Ended(ends) => ends.iter().for_each(|end| self.on_end(end)),
            Event::Tick => {}
            Event::Stop => self.stop(effects, &mut network),
        }
        self.start_tasks(effects);
        self.tell_freed(&mut network);
        self.send_frame(now, &mut network);
        self.tick(now, &mut network);
        effects.extend(network.into_iter().map(Effect::Network));
    }

    /// When to call [`Worker::handle`] with [`Event::Tick`] if nothing else happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let register = self.masters.is_connected().then_some(self.register_due);
        [self.masters.next_deadline(), register, self.frame_due, self.balancers.next_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// True where a stopping worker has nothing left to deliver.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.is_stopping
            && self.results.is_empty()
            && self.free_slots.len() == self.setting.slot_count as usize
    }

    /// What this worker holds, for `explain` and telemetry.
    #[must_use]
    pub fn held(&self) -> &Held {
        &self.held
    }

    /// Walks the whole state and panics on a broken invariant.
    pub fn check_invariants(&self) {
        self.held.check_invariants();
        let busy = self.held.slots().count();
        assert_eq!(
            busy + self.free_slots.len(),
            self.setting.slot_count as usize,
            "every slot is free or has tasks"
        );
        assert!(self.free_slots.iter().all(|&slot| self.held.started(slot).is_none()));
        assert!(self.cpu_used <= self.setting.cpu_milli, "more CPU is used than there is");
        assert!(self.memory_used <= self.setting.memory_bytes, "more memory than there is");
    }

    fn on_network(
        &mut self,
        now: Instant,
        event: NetworkEvent<'_>,
        effects: &mut Vec<Effect>,
        network: &mut Vec<NetworkEffect>,
    ) {
        match event {
            NetworkEvent::Connected { link: MASTER_LINK, masters, .. } => {
                self.masters.connected(&masters);
                self.is_register_pending = false;
                self.register_due = now;
                self.frame_due = None;
            }
            NetworkEvent::Connected { link, .. } => self.balancers.connected(link),
            NetworkEvent::Refused { link: MASTER_LINK, .. } => self.masters.fail(now, network),
            NetworkEvent::Refused { link, .. } => self.balancers.refused(now, link, network),
            NetworkEvent::Record { sender, record } => {
                // A record that cannot be read was counted where it was framed; one whose parts
                // do not fit is treated as if it had been lost on the way.
                let _ = self.on_record(now, sender.peer, &record, effects, network);
            }
            NetworkEvent::Joined { .. }
            | NetworkEvent::Gone { .. }
            | NetworkEvent::Overflowing { .. } => {}
        }
    }

    fn on_record(
        &mut self,
        now: Instant,
        peer: Peer,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
        network: &mut Vec<NetworkEffect>,
    ) -> Result<(), RecordError> {
        let Peer::Link(link) = peer else { return Ok(()) };
        match record.message_type() {
            NodeRegistered::TYPE if link == MASTER_LINK => {
                let (registered, [balancers]) = record.open::<NodeRegistered, 1>()?;
                self.on_registered(now, &registered, balancers, network);
            }
            WorkerStatusReply::TYPE if link == MASTER_LINK => {
                let (reply, [runs]) = record.open::<WorkerStatusReply, 1>()?;
                self.on_acknowledged(&reply, items_of(runs).unwrap_or_default(), network);
            }
            ErrorReply::TYPE if link == MASTER_LINK => {
                let (_, [_, instead]) = record.open::<ErrorReply, 2>()?;
                match std::str::from_utf8(instead) {
                    Ok(instead) if !instead.is_empty() => {
                        self.masters.follow(now, instead, network);
                    }
                    _ => self.masters.fail(now, network),
                }
            }
            WorkerRequest::TYPE => {
                let (request, parts) = record.open::<WorkerRequest, 3>()?;
                self.on_deal(link, record, &request, parts, network);
            }
            WorkerHeartbeatReply::TYPE => {
                let (reply, [runs]) = record.open::<WorkerHeartbeatReply, 1>()?;
                self.epoch = self.epoch.max(Epoch(reply.epoch));
                self.balancers.answered(now, link, reply.last_deal);
                for run in items_of::<TaskRun>(runs).unwrap_or_default() {
                    if Order::from_wire(run.state) == Some(Order::Kill) {
                        self.kill(run, effects);
                    }
                }
            }
            TaskRecall::TYPE => {
                let (recall, [runs]) = record.open::<TaskRecall, 1>()?;
                if Epoch(recall.epoch) >= self.epoch {
                    self.give_back(link, items_of(runs).unwrap_or_default(), network);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn on_registered(
        &mut self,
        now: Instant,
        registered: &NodeRegistered,
        balancers: &[u8],
        network: &mut Vec<NetworkEffect>,
    ) {
        self.is_register_pending = false;
        if (self.assignment, self.group) != (registered.index, registered.group) {
            // Epochs are compared under one assignment only.
            self.epoch = Epoch(registered.epoch);
            (self.assignment, self.group) = (registered.index, registered.group);
        }
        let addresses = String::from_utf8_lossy(balancers);
        self.balancers.set_addresses(now, &addresses, network);
        let soon = self.balancers.is_empty();
        self.register_due = now + if soon { REGISTER_TIMEOUT } else { REGISTER_INTERVAL };
    }

    fn on_deal(
        &mut self,
        link: Link,
        record: &Record<'_>,
        request: &WorkerRequest,
        parts: [&[u8]; 3],
        network: &mut Vec<NetworkEffect>,
    ) {
        let to = Peer::Link(link);
        if Epoch(request.epoch) < self.epoch {
            let refusal = ErrorReply {
                code: ErrorCode::OldEpoch.to_wire(),
                refused_type: WorkerRequest::TYPE,
                ..ErrorReply::default()
            };
            let text = format!(
                "epoch {} is over: this worker has seen epoch {}",
                { request.epoch },
                self.epoch
            );
            let mut reply = encode(&refusal, &[text.as_bytes(), b""]);
            proto::record::set_request_id(&mut reply, record.request_id());
            network.push(NetworkEffect::Send { to, record: reply });
            return;
        }
        self.epoch = Epoch(request.epoch);
        let tasks = request.first_task..request.first_task.saturating_add(request.task_count);
        let is_meant = request.worker_incarnation == self.setting.incarnation.0
            && request.assignment == self.assignment;
        let has_room = self.held.run_count() < HELD_RUNS && !self.is_refusing();
        let spec = JobSpec::of(request, parts);
        match spec {
            Ok(spec) if is_meant && has_room && self.fits(&spec) => {
                self.held.wait(WaitingRun { spec, tasks, attempt: request.attempt });
            }
            Err(_) if is_meant => {
                // Dealing it again would not help: every task of it fails here and now.
                self.results.add(Outcome {
                    job: request.job_uuid.into(),
                    tasks,
                    attempt: request.attempt,
                    state: TaskState::Failed,
                    exit_code: EXIT_NOT_STARTED,
                    cause: Cause::NotStarted,
                    segment: FileId(0),
                });
            }
            _ => {
                let run = TaskRun {
                    job_uuid: request.job_uuid,
                    first_task: tasks.start,
                    task_count: tasks.end - tasks.start,
                    attempt: request.attempt,
                    state: 0,
                };
                self.send_returned(to, &[run], network);
            }
        }
    }

    /// True where one task of the job fits the whole machine.
    fn fits(&self, spec: &JobSpec) -> bool {
        u64::from(spec.description.cpu_milli) <= self.setting.cpu_milli
            && spec.description.memory_bytes <= self.setting.memory_bytes
    }

    fn is_refusing(&self) -> bool {
        self.is_stopping || self.results.bytes() >= RESULT_BYTES
    }

    fn send_returned(&self, to: Peer, runs: &[TaskRun], network: &mut Vec<NetworkEffect>) {
        if runs.is_empty() {
            return;
        }
        let returned = TaskReturned {
            worker_incarnation: self.setting.incarnation.0,
            ..TaskReturned::default()
        };
        let record = encode(&returned, &[bytes_of(runs)]);
        network.push(NetworkEffect::Send { to, record });
    }

    fn give_back(&mut self, link: Link, runs: &[TaskRun], network: &mut Vec<NetworkEffect>) {
        let mut returned = Vec::new();
        for run in runs {
            let tasks = run.first_task..run.first_task.saturating_add(run.task_count);
            for piece in self.held.recall(run.job_uuid.into(), &tasks, run.attempt) {
                returned.push(TaskRun {
                    first_task: piece.start,
                    task_count: piece.end - piece.start,
                    state: 0,
                    ..*run
                });
            }
        }
        self.send_returned(Peer::Link(link), &returned, network);
    }

    fn kill(&mut self, run: &TaskRun, effects: &mut Vec<Effect>) {
        let job: JobId = run.job_uuid.into();
        let tasks = run.first_task..run.first_task.saturating_add(run.task_count);
        self.held.recall(job, &tasks, run.attempt);
        for (slot, started) in self.held.slots() {
            let is_it = started.spec.job == job && started.attempt == run.attempt;
            if is_it && started.tasks.start < tasks.end && started.tasks.end > tasks.start {
                effects.push(Effect::Cancel { slot });
            }
        }
        // What ended and waits for the masters is theirs to drop: its outcome may be the first.
    }

    fn on_end(&mut self, end: &TaskEnd) {
        let Some(started) = self.held.started(end.slot) else { return };
        let (spec, attempt, task) = (started.spec.clone(), started.attempt, started.tasks.start);
        debug_assert_eq!(task, end.task.0, "a slot's tasks end in order");
        let outcome = Outcome {
            job: spec.job,
            tasks: task..task + 1,
            attempt,
            state: end.state,
            exit_code: end.exit_code,
            cause: end.cause,
            segment: FileId(0),
        };
        self.results.add(outcome);
        let wall_us = end.wall.as_micros();
        let mean = self.means.entry(spec.job).or_insert(wall_us as f64);
        *mean += MEAN_WEIGHT * (wall_us as f64 - *mean);
        let (busy_us, runs) = self.freed.entry(spec.job).or_default();
        *busy_us += wall_us;
        match runs.last_mut() {
            Some(last)
                if last.first_task + last.task_count == task
                    && last.attempt == attempt
                    && last.state == end.state.to_wire() =>
            {
                last.task_count += 1;
            }
            _ => runs.push(TaskRun {
                job_uuid: spec.job.to_wire(),
                first_task: task,
                task_count: 1,
                attempt,
                state: end.state.to_wire(),
            }),
        }
        if self.held.end(end.slot, 1, end.state) {
            self.free_slots.insert(end.slot);
            self.cpu_used -= u64::from(spec.description.cpu_milli);
            self.memory_used -= spec.description.memory_bytes;
        }
    }

    /// Fills the free slots with what waits, in the order in which it was dealt.
    fn start_tasks(&mut self, effects: &mut Vec<Effect>) {
        while let Some(&slot) = self.free_slots.first() {
            let Some(run) = self.held.next() else { break };
            let cpu = u64::from(run.spec.description.cpu_milli);
            let memory = run.spec.description.memory_bytes;
            let fits = self.cpu_used + cpu <= self.setting.cpu_milli
                && self.memory_used + memory <= self.setting.memory_bytes;
            if !fits {
                break;
            }
            let piece = match self.means.get(&run.spec.job) {
                Some(mean) => (PIECE.as_micros() as f64 / mean.max(1.0)) as u64,
                None => 1,
            };
            // What waits is shared by the free slots before one of them gets much of it.
            let share = self.held.waiting_count().div_ceil(self.free_slots.len() as u64);
            let limit = piece.clamp(1, PIECE_TASKS).min(share);
            let Some(started) = self.held.start(slot, limit) else { break };
            self.free_slots.remove(&slot);
            self.cpu_used += cpu;
            self.memory_used += memory;
            effects.push(Effect::Start {
                slot,
                spec: started.spec,
                tasks: started.tasks,
                attempt: started.attempt,
            });
        }
    }

    fn tell_freed(&mut self, network: &mut Vec<NetworkEffect>) {
        for (_, (busy_us, runs)) in std::mem::take(&mut self.freed) {
            let free = TaskFree {
                worker_incarnation: self.setting.incarnation.0,
                busy_us,
                ..TaskFree::default()
            };
            self.balancers.send_all(&encode(&free, &[bytes_of(&runs)]), network);
        }
        if self.means.len() > HELD_RUNS {
            self.means.clear();
        }
    }

    /// Sends the next status frame where none is under way, or the one under way again where the
    /// link is new.
    fn send_frame(&mut self, now: Instant, network: &mut Vec<NetworkEffect>) {
        if !self.masters.is_connected() || self.assignment == 0 {
            return;
        }
        let is_new = self.results.next_frame().is_some();
        if !is_new && (self.results.under_way().is_none() || self.frame_due.is_some()) {
            return;
        }
        let Some(frame) = self.results.under_way() else { return };
        for record in frame.records(self.setting.incarnation) {
            self.masters.send(record, network);
        }
        self.frame_due = Some(now + FRAME_TIMEOUT);
    }

    fn on_acknowledged(
        &mut self,
        reply: &WorkerStatusReply,
        again: &[TaskRun],
        network: &mut Vec<NetworkEffect>,
    ) {
        if reply.worker_incarnation != self.setting.incarnation.0 {
            return;
        }
        let Some(frame) = self.results.acknowledge(reply.frame) else { return };
        self.frame_due = None;
        let settled = |run: TaskRun, verdict: Verdict| TaskRun { state: verdict.to_wire(), ..run };
        let mut runs: Vec<TaskRun> =
            again.iter().map(|&run| settled(run, Verdict::Again)).collect();
        for outcome in &frame.outcomes {
            self.held.settle(outcome.job, &outcome.tasks, outcome.attempt);
            let whole = TaskRun {
                job_uuid: outcome.job.to_wire(),
                first_task: outcome.tasks.start,
                task_count: outcome.tasks.end - outcome.tasks.start,
                attempt: outcome.attempt,
                state: 0,
            };
            runs.extend(without(whole, again).into_iter().map(|run| settled(run, Verdict::Final)));
        }
        let message = TaskSettled {
            worker_incarnation: self.setting.incarnation.0,
            ..TaskSettled::default()
        };
        self.balancers.send_all(&encode(&message, &[bytes_of(&runs)]), network);
    }

    fn stop(&mut self, effects: &mut Vec<Effect>, network: &mut Vec<NetworkEffect>) {
        self.is_stopping = true;
        let waiting = self.held.recall_all();
        let returned: Vec<TaskRun> = waiting
            .iter()
            .map(|run| TaskRun {
                job_uuid: run.spec.job.to_wire(),
                first_task: run.tasks.start,
                task_count: run.tasks.end - run.tasks.start,
                attempt: run.attempt,
                state: 0,
            })
            .collect();
        for peer in self.balancers.peers() {
            self.send_returned(peer, &returned, network);
        }
        effects.extend(self.held.slots().map(|(slot, _)| Effect::Cancel { slot }));
    }

    /// What is due at its time: registration, frames without answer, heartbeats, links.
    fn tick(&mut self, now: Instant, network: &mut Vec<NetworkEffect>) {
        if self.frame_due.is_some_and(|due| now >= due) {
            self.frame_due = None;
            self.masters.fail(now, network);
        }
        if self.masters.is_connected() && now >= self.register_due {
            if self.is_register_pending {
                self.is_register_pending = false;
                self.masters.fail(now, network);
            } else {
                self.is_register_pending = true;
                self.register_due = now + REGISTER_TIMEOUT;
                self.masters.send(self.registration(), network);
            }
        }
        self.masters.tick(now, network);
        if self.assignment != 0 {
            let heartbeat = balancers::Heartbeat {
                incarnation: self.setting.incarnation,
                assignment: self.assignment,
                epoch: self.epoch,
                slot_count: self.setting.slot_count,
                free_slot_count: u32::try_from(self.free_slots.len()).unwrap_or(u32::MAX),
                cpu_milli: self.setting.cpu_milli,
                memory_bytes: self.setting.memory_bytes,
                refusing: if self.is_stopping { 2 } else { u8::from(self.is_refusing()) },
            };
            self.balancers.tick(now, &heartbeat, &self.held, network);
        }
    }

    fn registration(&self) -> Vec<u8> {
        let register = NodeRegister {
            role: Role::Worker.to_wire(),
            incarnation: self.setting.incarnation.0,
            slot_count: self.setting.slot_count,
            cpu_milli: self.setting.cpu_milli,
            capacity_bytes: self.setting.memory_bytes,
            ..NodeRegister::default()
        };
        let telemetry = self.setting.telemetry_address.as_bytes();
        encode(&register, &[b"", telemetry, self.setting.zone.as_bytes()])
    }
}

/// Exit code of a task whose program could not be started, as shells have it.
const EXIT_NOT_STARTED: i32 = 127;

/// The pieces of `whole` that none of `holes` (of the same job and attempt) covers.
fn without(whole: TaskRun, holes: &[TaskRun]) -> Vec<TaskRun> {
    let mut pieces = vec![whole];
    for hole in holes {
        let is_same = hole.job_uuid == whole.job_uuid && hole.attempt == whole.attempt;
        if !is_same {
            continue;
        }
        let hole = hole.first_task..hole.first_task.saturating_add(hole.task_count);
        pieces = pieces
            .into_iter()
            .flat_map(|piece| {
                let end = piece.first_task + piece.task_count;
                let left = piece.first_task..end.min(hole.start.max(piece.first_task));
                let right = hole.end.clamp(piece.first_task, end)..end;
                let is_outside = hole.end <= piece.first_task || hole.start >= end;
                let parts = if is_outside { [piece.first_task..end, 0..0] } else { [left, right] };
                parts.into_iter().filter(|part| part.start < part.end).map(move |part| TaskRun {
                    first_task: part.start,
                    task_count: part.end - part.start,
                    ..piece
                })
            })
            .collect();
    }
    pieces
}
