//! What a balancer decides: which tasks it deals to whom, and what it asks the masters.
//!
//! Pure: no sockets, clock, threads or randomness of its own. Everything in it is soft state: lease
//! and grants come from the masters, what is dealt from the workers' inventories.

mod feed;
mod lost;
pub mod plan;
pub mod ranges;
pub mod tasks;
mod workers;

use std::collections::BTreeMap;
use std::ops::Range;

use fastrand::Rng;
use node::logic::network::{Inbound, Link, NetworkEffect, NetworkEvent, Peer, Sender};
use node::logic::rotation::Rotation;
use proto::ids::{Epoch, Incarnation, JobId, LogIndex, NodeId};
use proto::messages::job::JobSubmit;
use proto::messages::node::{
    FeedBatch, LeaseRenew, LeaseReply, NodeRegister, NodeRegistered, RunsUnfinished,
};
use proto::messages::session::ErrorReply;
use proto::messages::task::{
    TaskFree, TaskRecall, TaskReturned, TaskRun, TaskSettled, WorkerHeartbeat,
    WorkerHeartbeatReply, WorkerRequest,
};
use proto::record::{Message, Record, RecordError, Records, encode};
use proto::status::{Order, Role, TaskState, Verdict};
use proto::time::{Duration, Instant};
use proto::wire::{bytes_of, items_of};

use self::feed::Feed;
use self::lost::Lost;
use self::plan::{JobView, plan};
use self::ranges::Ranges;
use self::tasks::{Dealt, Tasks};
use self::workers::Workers;

/// The link to a master.
const MASTER_LINK: Link = Link(0);

/// How often the lease is renewed.
const RENEW_INTERVAL: Duration = Duration::from_millis(250);

/// Taken off the end of a lease, for the time that an answer may be held up in this process.
const LEASE_MARGIN: Duration = Duration::from_millis(100);

/// How long a request to the masters may stay unanswered before another one is asked.
const MASTER_TIMEOUT: Duration = Duration::from_millis(1_000);

/// How long a worker may be silent before its tasks are dealt again.
const WORKER_TIMEOUT: Duration = Duration::from_secs(3);

/// What a balancer is.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Its UUID.
    pub node: NodeId,
    /// How often its data folder was started.
    pub incarnation: Incarnation,
    /// Addresses of the masters.
    pub masters: Vec<String>,
    /// Where workers reach it.
    pub address: String,
    /// Where its telemetry is published; empty where it is not.
    pub telemetry_address: String,
    /// Its failure zone.
    pub zone: String,
}

/// What happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// Something on the network.
    Network(NetworkEvent<'a>),
    /// A deadline passed.
    Tick,
}

/// The seat in the group.
#[derive(Clone, Copy, Debug, Default)]
struct Seat {
    group: u64,
    epoch: Epoch,
    is_primary: bool,
    /// The lease is over then; counted from before it was asked for.
    until: Instant,
    /// When it is renewed.
    renew_due: Instant,
    /// When the renewal that is under way was sent.
    asked_at: Option<Instant>,
}

/// A balancer.
#[derive(Debug)]
pub struct Balancer {
    setting: Setting,
    masters: Rotation,
    /// When the registration is sent, or given up where it is unanswered; `None` once answered.
    register_due: Option<Instant>,
    is_register_pending: bool,
    seat: Option<Seat>,
    feed: Feed,
    tasks: Tasks,
    workers: Workers,
    lost: Lost,
    last_attempt: u32,
    /// Tasks granted up to this index may be held by workers that have not reported yet: they are
    /// not dealt before then.
    grace: Option<(Instant, LogIndex)>,
}

impl Balancer {
    /// A balancer that knows nobody yet. `random` spreads its retries.
    #[must_use]
    pub fn new(setting: Setting, random: Rng) -> Balancer {
        let masters = Rotation::new(MASTER_LINK, setting.masters.clone(), random);
        Balancer {
            setting,
            masters,
            register_due: None,
            is_register_pending: false,
            seat: None,
            feed: Feed::default(),
            tasks: Tasks::default(),
            workers: Workers::default(),
            lost: Lost::default(),
            last_attempt: 0,
            grace: None,
        }
    }

    /// Decides what to do about one event.
    pub fn handle(&mut self, now: Instant, event: Event<'_>, effects: &mut Vec<NetworkEffect>) {
        if let Event::Network(event) = event {
            self.on_network(now, event, effects);
        }
        self.tick(now, effects);
        if self.may_deal(now) {
            self.deal(effects);
            self.recall(now, effects);
        }
    }

    /// When to call [`Balancer::handle`] with [`Event::Tick`] if nothing else happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let connected = self.masters.is_connected();
        let seat = self.seat.filter(|_| connected);
        [
            self.masters.next_deadline(),
            self.register_due.filter(|_| connected),
            seat.map(|seat| match seat.asked_at {
                Some(asked_at) => asked_at + MASTER_TIMEOUT,
                None => seat.renew_due,
            }),
            self.lost.next_deadline().filter(|_| connected),
            self.workers.next_deadline(),
            self.grace.map(|(until, _)| until),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// True while this balancer holds the group's lease.
    #[must_use]
    pub fn is_primary(&self, now: Instant) -> bool {
        self.seat.is_some_and(|seat| seat.is_primary && now < seat.until)
    }

    /// The jobs whose tasks it deals.
    #[must_use]
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Number of workers that it knows.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        self.workers.len()
    }

    /// Walks the whole state and panics on a broken invariant.
    pub fn check_invariants(&self) {
        self.tasks.check_invariants();
    }

    fn may_deal(&self, now: Instant) -> bool {
        self.is_primary(now) && self.feed.is_ready()
    }

    fn on_network(
        &mut self,
        now: Instant,
        event: NetworkEvent<'_>,
        effects: &mut Vec<NetworkEffect>,
    ) {
        match event {
            NetworkEvent::Connected { link: MASTER_LINK, masters, .. } => {
                self.masters.connected(&masters);
                self.is_register_pending = false;
                self.register_due = Some(now);
                self.feed.disconnected();
                self.lost.disconnected();
                if let Some(seat) = &mut self.seat {
                    seat.asked_at = None;
                }
            }
            NetworkEvent::Refused { link: MASTER_LINK, .. } => self.masters.fail(now, effects),
            NetworkEvent::Record { sender, record } => {
                // A record whose parts do not fit is treated as if it had been lost on the way.
                let _ = self.on_record(now, &sender, &record, effects);
            }
            NetworkEvent::Gone { sender } => self.workers.disconnected(sender.peer),
            NetworkEvent::Connected { .. }
            | NetworkEvent::Refused { .. }
            | NetworkEvent::Joined { .. }
            | NetworkEvent::Overflowing { .. } => {}
        }
    }

    fn on_record(
        &mut self,
        now: Instant,
        sender: &Sender,
        record: &Record<'_>,
        effects: &mut Vec<NetworkEffect>,
    ) -> Result<(), RecordError> {
        match sender.peer {
            Peer::Link(_) => self.on_master_record(now, record, effects),
            Peer::Inbound(peer) if sender.role == Role::Worker => {
                self.on_worker_record(now, sender, peer, record, effects)
            }
            Peer::Inbound(_) => Ok(()),
        }
    }

    fn on_master_record(
        &mut self,
        now: Instant,
        record: &Record<'_>,
        effects: &mut Vec<NetworkEffect>,
    ) -> Result<(), RecordError> {
        match record.message_type() {
            NodeRegistered::TYPE => {
                let (registered, [_]) = record.open::<NodeRegistered, 1>()?;
                self.on_registered(now, &registered, effects);
            }
            LeaseReply::TYPE => self.on_lease(&record.read::<LeaseReply>()?),
            FeedBatch::TYPE => {
                let (batch, [items, jobs]) = record.open::<FeedBatch, 2>()?;
                self.on_feed(now, &batch, items_of(items).unwrap_or_default(), jobs, effects);
            }
            RunsUnfinished::TYPE => {
                let (_, [runs]) = record.open::<RunsUnfinished, 1>()?;
                let again = items_of::<TaskRun>(runs).unwrap_or_default();
                for (run, is_final) in self.lost.answered(record.request_id(), again) {
                    let tasks = range_of(&run);
                    match is_final {
                        true => self.tasks.settle_final(run.job_uuid.into(), &tasks),
                        false => self.tasks.unfinished(run.job_uuid.into(), &tasks),
                    }
                }
            }
            ErrorReply::TYPE => {
                let (_, [_, instead]) = record.open::<ErrorReply, 2>()?;
                match std::str::from_utf8(instead) {
                    Ok(instead) if !instead.is_empty() => {
                        self.masters.follow(now, instead, effects);
                    }
                    _ => self.masters.fail(now, effects),
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
        effects: &mut Vec<NetworkEffect>,
    ) {
        const FIRST_EPOCH: u64 = 1;
        self.register_due = None;
        let epoch = Epoch(registered.epoch);
        let is_primary = registered.is_primary == 1;
        let is_new = self.seat.is_none_or(|seat| seat.epoch != epoch);
        if is_new && is_primary && registered.epoch != FIRST_EPOCH {
            // An earlier primary may have dealt anything that was granted before this epoch.
            self.grace = Some((now + WORKER_TIMEOUT, LogIndex(registered.index)));
        }
        let until = self.seat.map_or(Instant(0), |seat| seat.until);
        self.seat = Some(Seat {
            group: registered.group,
            epoch,
            is_primary,
            until,
            renew_due: now,
            asked_at: None,
        });
        self.feed.pull(registered.group, self.setting.incarnation, &self.masters, effects);
    }

    fn on_lease(&mut self, reply: &LeaseReply) {
        let Some(seat) = &mut self.seat else { return };
        let Some(asked_at) = seat.asked_at.take() else {
            return;
        };
        seat.renew_due = asked_at + RENEW_INTERVAL;
        if Epoch(reply.epoch) < seat.epoch {
            return;
        }
        seat.epoch = Epoch(reply.epoch);
        seat.is_primary = reply.is_primary == 1;
        let lease = Duration::from_millis(u64::from(reply.lease_ms)) - LEASE_MARGIN;
        seat.until = asked_at + lease;
    }

    fn on_feed(
        &mut self,
        now: Instant,
        batch: &FeedBatch,
        items: &[proto::messages::node::FeedItem],
        jobs: &[u8],
        effects: &mut Vec<NetworkEffect>,
    ) {
        let Some(seat) = self.seat else { return };
        if self.feed.begins_anew(batch) && self.tasks.jobs().next().is_some() {
            // What was dealt is learnt from the workers' next inventories.
            self.tasks.clear();
            self.grace = Some((now + WORKER_TIMEOUT, LogIndex(batch.up_to_index)));
        }
        for item in items {
            feed::take_in(item, jobs, &mut self.tasks);
        }
        self.feed.advance(batch);
        self.feed.pull(seat.group, self.setting.incarnation, &self.masters, effects);
    }

    fn on_worker_record(
        &mut self,
        now: Instant,
        sender: &Sender,
        peer: Inbound,
        record: &Record<'_>,
        effects: &mut Vec<NetworkEffect>,
    ) -> Result<(), RecordError> {
        match record.message_type() {
            WorkerHeartbeat::TYPE => {
                let (heartbeat, [runs]) = record.open::<WorkerHeartbeat, 1>()?;
                let runs = items_of::<TaskRun>(runs).unwrap_or_default();
                self.on_heartbeat(now, sender, peer, &heartbeat, runs, effects);
            }
            TaskFree::TYPE => {
                let (free, [runs]) = record.open::<TaskFree, 1>()?;
                let runs = items_of::<TaskRun>(runs).unwrap_or_default();
                self.workers.heard(sender.node, now);
                self.on_free(&free, runs);
            }
            TaskSettled::TYPE => {
                let (_, [runs]) = record.open::<TaskSettled, 1>()?;
                for run in items_of::<TaskRun>(runs).unwrap_or_default() {
                    let (job, tasks) = (run.job_uuid.into(), range_of(run));
                    match Verdict::from_wire(run.state) {
                        Some(Verdict::Final) => self.tasks.settle_final(job, &tasks),
                        Some(Verdict::Again) => self.tasks.again(job, &tasks, run.attempt),
                        None => {}
                    }
                }
            }
            TaskReturned::TYPE => {
                let (_, [runs]) = record.open::<TaskReturned, 1>()?;
                self.workers.recall_answered(sender.node);
                for run in items_of::<TaskRun>(runs).unwrap_or_default() {
                    self.tasks.again(run.job_uuid.into(), &range_of(run), run.attempt);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A worker told what it holds: what it has and this balancer does not know is taken over, what
    /// it was dealt and does not have was lost on its way.
    fn on_heartbeat(
        &mut self,
        now: Instant,
        sender: &Sender,
        peer: Inbound,
        heartbeat: &WorkerHeartbeat,
        runs: &[TaskRun],
        effects: &mut Vec<NetworkEffect>,
    ) {
        let worker = sender.node;
        if let Some(before) = self.workers.incarnation(worker)
            && before.0 > heartbeat.worker_incarnation
        {
            return;
        }
        let is_restarted =
            self.workers.incarnation(worker) < Some(Incarnation(heartbeat.worker_incarnation));
        if is_restarted {
            // What its predecessor held died with it.
            self.give_up(worker, TaskState::Lost);
        }
        self.workers.take_heartbeat(now, worker, peer, heartbeat);
        let is_primary = self.may_deal(now);
        let mut orders = Vec::new();
        let mut listed: BTreeMap<(JobId, u64), Ranges> = BTreeMap::new();
        for run in runs {
            let (job, tasks) = (run.job_uuid.into(), range_of(run));
            listed.entry((job, run.attempt)).or_default().insert(tasks.clone());
            let is_free = !matches!(
                TaskState::from_wire(run.state),
                Some(TaskState::Queued | TaskState::Running)
            );
            let held = Dealt { end: tasks.end, attempt: run.attempt, worker, deal: 0, is_free };
            for piece in self.tasks.adopt(job, &tasks, held) {
                // Superseded by a later attempt, or of a job that ended. Ended tasks stay: their
                // outcome is for the masters to judge.
                if is_primary && !is_free {
                    orders.push(TaskRun {
                        first_task: piece.start,
                        task_count: piece.end - piece.start,
                        state: Order::Kill.to_wire(),
                        ..*run
                    });
                }
            }
        }
        for (job, tasks, dealt) in self.tasks.held_by(worker) {
            if dealt.deal > heartbeat.deal_echo {
                continue;
            }
            let known = listed.get(&(job, dealt.attempt));
            let missing = known.map_or_else(|| vec![tasks.clone()], |known| known.missing(&tasks));
            for piece in missing {
                self.question(worker, job, &piece, dealt.attempt, TaskState::Returned);
            }
        }
        let reply = WorkerHeartbeatReply {
            epoch: self.seat.filter(|_| is_primary).map_or(0, |seat| seat.epoch.0),
            last_deal: self.workers.last_deal(worker),
            ..WorkerHeartbeatReply::default()
        };
        let record = encode(&reply, &[bytes_of(&orders)]);
        effects.push(NetworkEffect::Send { to: sender.peer, record });
    }

    fn on_free(&mut self, free: &TaskFree, runs: &[TaskRun]) {
        let total: u64 = runs.iter().map(|run| run.task_count).sum();
        for run in runs {
            let job = run.job_uuid.into();
            self.tasks.free(job, &range_of(run), run.attempt);
            if total > 0 {
                self.tasks.measure(job, free.busy_us as f64 / total as f64);
            }
        }
    }

    /// Asks the masters what became of tasks that a worker no longer has.
    fn question(
        &mut self,
        worker: NodeId,
        job: JobId,
        tasks: &Range<u64>,
        attempt: u64,
        state: TaskState,
    ) {
        for piece in self.tasks.question(job, tasks, attempt) {
            self.lost.add(
                worker,
                TaskRun {
                    job_uuid: job.to_wire(),
                    first_task: piece.start,
                    task_count: piece.end - piece.start,
                    attempt,
                    state: state.to_wire(),
                },
            );
        }
    }

    fn give_up(&mut self, worker: NodeId, state: TaskState) {
        for (job, tasks, dealt) in self.tasks.held_by(worker) {
            self.question(worker, job, &tasks, dealt.attempt, state);
        }
    }

    /// What is due at its time: links, registration, lease, questions, silent workers.
    fn tick(&mut self, now: Instant, effects: &mut Vec<NetworkEffect>) {
        for worker in self.workers.silent(now, WORKER_TIMEOUT) {
            self.give_up(worker, TaskState::Lost);
            self.workers.remove(worker);
        }
        if self.grace.is_some_and(|(until, _)| now >= until) {
            self.grace = None;
        }
        let asked_at = self.seat.and_then(|seat| seat.asked_at);
        if self.masters.is_connected() && asked_at.is_some_and(|at| now >= at + MASTER_TIMEOUT) {
            self.masters.fail(now, effects);
        }
        self.register(now, effects);
        self.masters.tick(now, effects);
        if !self.masters.is_connected() || self.register_due.is_some() {
            return;
        }
        self.renew(now, effects);
        if let Some(seat) = self.seat
            && self.lost.is_overdue(now)
        {
            self.lost.send(now, seat.group, seat.epoch, &self.masters, effects);
        }
    }

    fn register(&mut self, now: Instant, effects: &mut Vec<NetworkEffect>) {
        if !self.masters.is_connected() || self.register_due.is_none_or(|due| now < due) {
            return;
        }
        if self.is_register_pending {
            self.is_register_pending = false;
            self.masters.fail(now, effects);
            return;
        }
        self.is_register_pending = true;
        self.register_due = Some(now + MASTER_TIMEOUT);
        let register = NodeRegister {
            role: Role::Balancer.to_wire(),
            incarnation: self.setting.incarnation.0,
            ..NodeRegister::default()
        };
        let (address, telemetry) = (&self.setting.address, &self.setting.telemetry_address);
        let parts = [address.as_bytes(), telemetry.as_bytes(), self.setting.zone.as_bytes()];
        self.masters.send(encode(&register, &parts), effects);
    }

    fn renew(&mut self, now: Instant, effects: &mut Vec<NetworkEffect>) {
        let Some(seat) = &mut self.seat else { return };
        if seat.asked_at.is_some() || now < seat.renew_due {
            return;
        }
        seat.asked_at = Some(now);
        let mut running: Vec<TaskRun> = self
            .tasks
            .jobs()
            .filter(|(_, job)| job.busy_count() > 0)
            .map(|(id, job)| TaskRun {
                job_uuid: id.to_wire(),
                task_count: job.busy_count(),
                ..TaskRun::default()
            })
            .collect();
        let dealt_count = running.iter().map(|run| run.task_count).sum();
        running.sort_by_key(|run| std::cmp::Reverse(run.task_count));
        running.truncate(64);
        let renew = LeaseRenew {
            group: seat.group,
            incarnation: self.setting.incarnation.0,
            epoch: if seat.is_primary { seat.epoch.0 } else { 0 },
            worker_count: u32::try_from(self.workers.len()).unwrap_or(u32::MAX),
            reachable_count: u32::try_from(self.workers.len()).unwrap_or(u32::MAX),
            slot_count: self.workers.slot_count(),
            dealt_count,
            ..LeaseRenew::default()
        };
        self.masters.send(encode(&renew, &[bytes_of(&running)]), effects);
    }

    fn deal(&mut self, effects: &mut Vec<NetworkEffect>) {
        let Some(seat) = self.seat else { return };
        if self.tasks.waiting().next().is_none() {
            return;
        }
        let held_back = self.grace.map_or(LogIndex(0), |(_, index)| index);
        let jobs: Vec<JobView> = self
            .tasks
            .waiting()
            .filter(|(_, job)| job.index > held_back)
            .map(|(id, job)| JobView {
                job: id,
                priority: job.priority,
                needs: job.needs,
                pending_count: job.pending_count(),
                busy_count: job.busy_count(),
                mean_us: job.mean_us(),
            })
            .collect();
        let workers = self.workers.views(&self.tasks);
        for deal in plan(&workers, &jobs) {
            let Some((peer, number, worker)) = self.workers.next_deal(deal.worker) else {
                continue;
            };
            self.last_attempt = self.last_attempt.wrapping_add(1);
            let attempt = (seat.epoch.0 << 32) | u64::from(self.last_attempt);
            let mut left = deal.task_count;
            while left > 0 {
                let entry = |tasks: &Range<u64>| Dealt {
                    end: tasks.end,
                    attempt,
                    worker: deal.worker,
                    deal: number,
                    is_free: false,
                };
                let Some(tasks) = self.tasks.deal(deal.job, left, entry) else {
                    break;
                };
                left -= tasks.end - tasks.start;
                let Some(job) = self.tasks.job(deal.job) else {
                    break;
                };
                let request = WorkerRequest {
                    job_uuid: deal.job.to_wire(),
                    first_task: tasks.start,
                    task_count: tasks.end - tasks.start,
                    attempt,
                    epoch: seat.epoch.0,
                    deal: number,
                    worker_incarnation: worker.incarnation.0,
                    assignment: worker.assignment,
                    group: seat.group,
                    ..WorkerRequest::default()
                };
                if let Some(record) = request_of(&job.record, request) {
                    effects.push(NetworkEffect::Send { to: Peer::Inbound(peer), record });
                }
            }
        }
    }

    /// Takes back what the busiest worker has not begun where another has nothing to do.
    fn recall(&mut self, now: Instant, effects: &mut Vec<NetworkEffect>) {
        let Some(seat) = self.seat else { return };
        if self.tasks.waiting().next().is_some() {
            return;
        }
        let views = self.workers.views(&self.tasks);
        let idle: u64 =
            views.iter().map(|view| view.slot_count.saturating_sub(view.busy_count)).sum();
        let surplus = |view: &plan::WorkerView| view.busy_count.saturating_sub(view.slot_count);
        let Some(busiest) = views.iter().max_by_key(|view| surplus(view)) else {
            return;
        };
        if idle == 0 || surplus(busiest) == 0 || !self.workers.may_recall(now, busiest.worker) {
            return;
        }
        let mut wanted = surplus(busiest).div_ceil(2);
        let mut runs = Vec::new();
        let mut held = self.tasks.held_by(busiest.worker);
        held.retain(|(_, _, dealt)| !dealt.is_free);
        held.sort_by_key(|(_, tasks, dealt)| std::cmp::Reverse((dealt.attempt, tasks.start)));
        for (job, tasks, dealt) in held {
            if wanted == 0 {
                break;
            }
            let first = tasks.end - wanted.min(tasks.end - tasks.start);
            wanted -= tasks.end - first;
            runs.push(TaskRun {
                job_uuid: job.to_wire(),
                first_task: first,
                task_count: tasks.end - first,
                attempt: dealt.attempt,
                state: 0,
            });
        }
        if let Some(peer) = self.workers.peer(busiest.worker) {
            let recall = TaskRecall { epoch: seat.epoch.0, ..TaskRecall::default() };
            let record = encode(&recall, &[bytes_of(&runs)]);
            effects.push(NetworkEffect::Send { to: Peer::Inbound(peer), record });
        }
    }
}

/// The tasks of a run.
fn range_of(run: &TaskRun) -> Range<u64> {
    run.first_task..run.first_task.saturating_add(run.task_count)
}

/// A deal of a job that came as a `job_submit` record; `None` where the masters sent garbage.
fn request_of(record: &[u8], request: WorkerRequest) -> Option<Vec<u8>> {
    let record = Records::of(record).next()?.ok()?;
    let (submit, [program, inputs, description]) = record.open::<JobSubmit, 3>().ok()?;
    let request = WorkerRequest {
        job_task_count: submit.task_count,
        program_kind: submit.program_kind,
        ..request
    };
    Some(encode(&request, &[program, inputs, description]))
}
