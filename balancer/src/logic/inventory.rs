//! What the workers say: what they hold, what ended, what comes back.
//!
//! A worker's inventory is believed: what it has and this balancer does not know is taken over,
//! what it was dealt and does not list was lost on its way. What is *final* only masters know.

use std::collections::BTreeMap;

use node::logic::network::{Inbound, NetworkEffect, Sender};
use proto::ids::{Epoch, JobId, NodeId};
use proto::messages::session::ErrorReply;
use proto::messages::task::{
    TaskFree, TaskReturned, TaskRun, TaskSettled, WorkerHeartbeat, WorkerHeartbeatReply,
};
use proto::record::{Message, Record, RecordError, encode};
use proto::status::{ErrorCode, Order, TaskState, Verdict};
use proto::time::Instant;
use proto::wire::{bytes_of, items_of};

use super::dealing::Replan;
use super::ranges::Ranges;
use super::tasks::run_of;
use super::workers::Heard;
use super::{Balancer, Dealt, Stage, range_of, refuse};

/// Kill orders of one answer: about 64 KiB; the next heartbeat gets the rest.
const ORDERS: usize = 1_000;

impl Balancer {
    pub(super) fn on_worker_record(
        &mut self,
        now: Instant,
        sender: &Sender,
        peer: Inbound,
        record: &Record<'_>,
        effects: &mut Vec<NetworkEffect>,
    ) -> Result<(), RecordError> {
        let worker = sender.node;
        self.workers.heard(worker, now);
        match record.message_type() {
            WorkerHeartbeat::TYPE => {
                let (heartbeat, [runs]) = record.open::<WorkerHeartbeat, 1>()?;
                let runs = items_of::<TaskRun>(runs).unwrap_or_default();
                self.on_heartbeat(now, sender, peer, &heartbeat, runs, effects);
            }
            TaskFree::TYPE => {
                let (free, [runs]) = record.open::<TaskFree, 1>()?;
                self.on_free(worker, &free, items_of(runs).unwrap_or_default());
            }
            TaskSettled::TYPE => {
                let (_, [runs]) = record.open::<TaskSettled, 1>()?;
                for run in items_of::<TaskRun>(runs).unwrap_or_default() {
                    match Verdict::from_wire(run.state) {
                        Some(Verdict::Final) => {
                            self.tasks.settle_final(run.job_uuid.into(), &range_of(run));
                        }
                        Some(Verdict::Again) => self.on_again(run),
                        None => {}
                    }
                }
            }
            TaskReturned::TYPE => {
                let (_, [runs]) = record.open::<TaskReturned, 1>()?;
                if !self.workers.recall_answered(now, worker) {
                    // It did not want what it was dealt; its next heartbeat says why. Until then
                    // the same tasks would only travel to and fro.
                    self.workers.pause(worker);
                }
                items_of::<TaskRun>(runs).unwrap_or_default().iter().for_each(|run| {
                    self.on_again(run);
                });
            }
            ErrorReply::TYPE => {
                let (error, _) = record.open::<ErrorReply, 2>()?;
                if ErrorCode::from_wire(error.code) == Some(ErrorCode::OldEpoch) {
                    // It obeys a newer epoch. What was refused is missing in its next inventory.
                    self.step_down(now);
                }
                self.workers.pause(worker);
            }
            _ => refuse(sender, record, effects),
        }
        Ok(())
    }

    fn on_again(&mut self, run: &TaskRun) {
        if self.tasks.again(run.job_uuid.into(), &range_of(run), run.attempt) {
            self.requeued(run.task_count);
        }
    }

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
        match self.workers.take_heartbeat(now, worker, peer, heartbeat) {
            Heard::Refused => return,
            Heard::Known => {}
            // Nothing that was sent on the connection before can arrive behind this heartbeat.
            Heard::NewConnection => self.tasks.forget_deals(worker),
            Heard::Restarted => self.give_up(worker),
        }
        self.replan = self.replan.and_worker(worker);
        // What a worker of another group holds is none of this balancer's business, and the epoch
        // of this one none of the worker's.
        let knows_group = self.workers.knows_group(worker);
        let mut orders = Vec::new();
        if knows_group {
            let foreign_count = usize::try_from(heartbeat.foreign_count).unwrap_or(usize::MAX);
            let own = runs.split_at(runs.len().saturating_sub(foreign_count));
            let listed;
            (listed, orders) = self.take_inventory(now, worker, own);
            self.miss(worker, heartbeat.deal_echo, &listed);
            let is_ours = self.workers.is_ours(worker) && heartbeat.slot_count > 0;
            if let Some(seat) = self.seat.as_mut().filter(|_| is_ours) {
                seat.listed(now, worker, Epoch(heartbeat.epoch));
            }
        }
        let epoch = self.seat.as_ref().filter(|seat| knows_group && seat.holds_lease(now));
        let reply = WorkerHeartbeatReply {
            epoch: epoch.map_or(0, |seat| seat.epoch.0),
            last_deal: self.workers.get(worker).map_or(0, |worker| worker.last_deal),
            assignment: epoch.map_or(0, |_| heartbeat.assignment),
            ..WorkerHeartbeatReply::default()
        };
        let record = encode(&reply, &[bytes_of(&orders)]);
        effects.push(NetworkEffect::Send { to: sender.peer, record });
    }

    /// Takes over what a worker lists: what this group dealt it, and what of the tasks that
    /// another one dealt it was moved here. Returns that by job and attempt, and what it must kill.
    fn take_inventory(
        &mut self,
        now: Instant,
        worker: NodeId,
        (own, foreign): (&[TaskRun], &[TaskRun]),
    ) -> (BTreeMap<(JobId, u64), Ranges>, Vec<TaskRun>) {
        let may_order = self.may_deal(now);
        let mut listed: BTreeMap<(JobId, u64), Ranges> = BTreeMap::new();
        let mut orders = Vec::new();
        let mut others = Vec::new();
        let foreign = foreign.iter().map(|run| (run, false));
        for (run, is_own) in own.iter().map(|run| (run, true)).chain(foreign) {
            let (job, tasks) = (run.job_uuid.into(), range_of(run));
            listed.entry((job, run.attempt)).or_default().insert(tasks.clone());
            let stage = match TaskState::from_wire(run.state) {
                Some(TaskState::Queued | TaskState::Running) => Stage::Busy,
                _ => Stage::Free,
            };
            let mut pieces = vec![tasks.clone()];
            if !is_own {
                let [here, elsewhere] = self.tasks.granted_of(job, &tasks);
                pieces = here;
                if stage == Stage::Busy {
                    others.extend(elsewhere.iter().map(|tasks| run_of(job, tasks, run.attempt)));
                }
            }
            let mut superseded = Vec::new();
            for piece in pieces {
                let held = Dealt { end: piece.end, attempt: run.attempt, worker, deal: 0, stage };
                superseded.append(&mut self.tasks.adopt(job, &piece, held));
            }
            // What ended stays: whether its outcome is the first is for the masters to judge.
            if may_order && stage == Stage::Busy && orders.len() < ORDERS {
                orders.extend(superseded.iter().map(|piece| TaskRun {
                    state: Order::Kill.to_wire(),
                    ..run_of(job, piece, run.attempt)
                }));
            }
        }
        let tasks = &self.tasks;
        let over = self.workers.set_foreign(worker, others, |job| tasks.job(job).is_some());
        if may_order {
            let room = ORDERS.saturating_sub(orders.len());
            let kill = |run: &TaskRun| TaskRun { state: Order::Kill.to_wire(), ..*run };
            orders.extend(over.iter().take(room).map(kill));
        }
        self.counters.kill_orders += orders.len() as u64;
        (listed, orders)
    }

    /// What a worker was dealt up to the deal that it echoes, and does not list, was lost on its
    /// way there (or what it said of it was lost on its way back).
    fn miss(&mut self, worker: NodeId, echo: u64, listed: &BTreeMap<(JobId, u64), Ranges>) {
        for (job, tasks, dealt) in self.tasks.held_by(worker) {
            if dealt.deal > echo || matches!(dealt.stage, Stage::Asked(_)) {
                continue;
            }
            let known = listed.get(&(job, dealt.attempt));
            let missing = known.map_or_else(|| vec![tasks.clone()], |known| known.missing(&tasks));
            for piece in missing {
                self.counters.asked += piece.end - piece.start;
                self.tasks.question(worker, job, &piece, dealt.attempt, TaskState::Returned);
            }
        }
    }

    /// A worker is silent or was restarted: what it held is lost, unless the masters know better.
    pub(super) fn give_up(&mut self, worker: NodeId) {
        for (job, tasks, dealt) in self.tasks.held_by(worker) {
            if !matches!(dealt.stage, Stage::Asked(_)) {
                self.counters.asked += tasks.end - tasks.start;
            }
            self.tasks.question(worker, job, &tasks, dealt.attempt, TaskState::Lost);
        }
    }

    fn on_free(&mut self, worker: NodeId, free: &TaskFree, runs: &[TaskRun]) {
        let total = runs.iter().fold(0u64, |sum, run| sum.saturating_add(run.task_count));
        self.replan = self.replan.and_worker(worker);
        for run in runs {
            let freed = self.tasks.free(run.job_uuid.into(), &range_of(run), run.attempt);
            if freed < run.task_count {
                self.workers.foreign_ended(worker, run);
            }
        }
        // All runs of one record are of one job.
        if let Some(run) = runs.first().filter(|_| total > 0)
            && self.tasks.measure(run.job_uuid.into(), free.busy_us as f64 / total as f64)
        {
            self.replan = Replan::Everyone;
        }
    }
}
