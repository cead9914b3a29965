//! Deals and recalls: carries out what `plan.rs` decides, and only as far as an event can have
//! changed it.

use std::ops::Range;

use node::logic::network::{NetworkEffect, Peer};
use proto::ids::{Epoch, NodeId};
use proto::messages::job::JobSubmit;
use proto::messages::task::{TaskRecall, WorkerRequest};
use proto::record::{Records, encode};
use proto::time::{Duration, Instant};
use proto::wire::bytes_of;

use super::plan::{JobView, Needs, WorkerView, plan};
use super::tasks::run_of;
use super::{Balancer, Dealt, Stage};

/// Jobs that one plan looks at: the highest priority first, then the oldest. A worker's window has
/// room for a few.
const PLANNED_JOBS: usize = 256;

/// How often it is looked for tasks to take back: looking costs a visit to every worker.
const RECALL_INTERVAL: Duration = Duration::from_millis(20);

/// Whose share may have changed since the last plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replan {
    /// Nobody's.
    Nothing,
    /// One worker's.
    Worker(NodeId),
    /// Perhaps everybody's.
    Everyone,
}

impl Replan {
    pub(super) fn and_worker(self, worker: NodeId) -> Replan {
        match self {
            Replan::Nothing => Replan::Worker(worker),
            Replan::Worker(other) if other == worker => self,
            _ => Replan::Everyone,
        }
    }
}

impl Balancer {
    /// Deals what changed, and takes back what idles behind a busy slot elsewhere.
    pub(super) fn deal(&mut self, now: Instant, effects: &mut Vec<NetworkEffect>) {
        let nodes = match std::mem::replace(&mut self.replan, Replan::Nothing) {
            Replan::Nothing => Vec::new(),
            Replan::Worker(worker) => vec![worker],
            Replan::Everyone => self.workers.nodes(),
        };
        if !nodes.is_empty() && !self.tasks.is_drained() {
            let workers = self.views(&nodes);
            let jobs = self.planned_jobs(&workers);
            for deal in plan(&workers, &jobs) {
                self.carry_out(&deal, effects);
            }
        }
        if !nodes.is_empty() && !self.tasks.is_idle() && self.views(&nodes).iter().any(has_room) {
            self.wants_recall = true;
        }
        if self.wants_recall && now >= self.recall_from {
            self.wants_recall = false;
            self.recall_from = now + RECALL_INTERVAL;
            self.recall(now, effects);
        }
    }

    fn views(&self, nodes: &[NodeId]) -> Vec<WorkerView> {
        let Some(seat) = &self.seat else { return Vec::new() };
        let views =
            nodes.iter().filter_map(|&node| self.workers.view(node, seat.epoch, &self.tasks));
        views.collect()
    }

    /// The jobs that a plan for these workers looks at.
    fn planned_jobs(&self, workers: &[WorkerView]) -> Vec<JobView> {
        let mut rooms: Vec<Needs> = workers.iter().map(|worker| worker.room).collect();
        rooms.sort_by_key(|room| (room.cpu_milli, room.memory_bytes));
        rooms.dedup();
        let fits = |needs: &Needs| rooms.iter().any(|room| room.holds(needs));
        let waiting = self.tasks.waiting();
        let planned = waiting.filter(|(_, job)| fits(&job.needs));
        planned
            .take(PLANNED_JOBS)
            .map(|(id, job)| JobView {
                job: id,
                priority: job.priority,
                needs: job.needs,
                pending_count: job.open_count(),
                busy_count: job.busy_count(),
                served: job.served(),
                mean_us: job.mean_us(),
            })
            .collect()
    }

    fn carry_out(&mut self, deal: &super::plan::Deal, effects: &mut Vec<NetworkEffect>) {
        let sequence = self.attempt_sequence();
        let Some(seat) = &self.seat else { return };
        let Some(worker) = self.workers.next_deal(deal.worker) else { return };
        let mut left = deal.task_count;
        while left > 0 {
            // What was moved here has attempts of another group, under epochs that may be higher
            // than this one's.
            let entry = |tasks: &Range<u64>, moved: Epoch| Dealt {
                end: tasks.end,
                attempt: (seat.epoch.max(moved).0 << 32) | sequence,
                worker: deal.worker,
                deal: worker.last_deal,
                stage: Stage::Busy,
            };
            let Some((tasks, dealt)) = self.tasks.deal(deal.job, left, entry) else { break };
            left -= tasks.end - tasks.start;
            self.counters.dealt += tasks.end - tasks.start;
            let Some(job) = self.tasks.job(deal.job) else { break };
            let request = WorkerRequest {
                job_uuid: deal.job.to_wire(),
                first_task: tasks.start,
                task_count: tasks.end - tasks.start,
                attempt: dealt.attempt,
                epoch: seat.epoch.0,
                deal: worker.last_deal,
                worker_incarnation: worker.incarnation.0,
                assignment: worker.assignment,
                group: seat.group,
                ..WorkerRequest::default()
            };
            if let Some(record) = request_of(&job.record, request) {
                effects.push(NetworkEffect::Send { to: Peer::Inbound(worker.peer), record });
            }
        }
    }

    /// The number of the next attempt within its epoch: higher than that of any task that waits
    /// was. It is the same for what was moved here: a later epoch is higher than the number of the
    /// move as well.
    fn attempt_sequence(&mut self) -> u64 {
        let Some(seat) = &self.seat else { return 0 };
        if self.attempt_epoch != seat.epoch {
            (self.attempt_epoch, self.attempt_sequence) = (seat.epoch, 0);
        }
        if self.tasks.take_requeued() || self.attempt_sequence == 0 {
            // At a requeue every millisecond it takes fifty days; a restart brings a new epoch.
            self.attempt_sequence = self.attempt_sequence.saturating_add(1);
        }
        u64::from(self.attempt_sequence)
    }

    /// Takes back what the busiest worker has not begun where another has nothing to do.
    fn recall(&mut self, now: Instant, effects: &mut Vec<NetworkEffect>) {
        let Some(seat) = &self.seat else { return };
        let views = self.views(&self.workers.nodes());
        let idle: Vec<&WorkerView> = views.iter().filter(|view| has_room(view)).collect();
        if idle.is_empty() {
            return;
        }
        let Some(busiest) = self.workers.busiest(now, &self.tasks) else { return };
        let mut wanted = busiest.surplus().div_ceil(2);
        let mut runs = Vec::new();
        let mut held = self.tasks.held_by(busiest.worker);
        held.retain(|(job, _, dealt)| {
            // What no idle worker has room for would only come back here.
            let needs = self.tasks.job(*job).map(|job| job.needs).unwrap_or_default();
            dealt.stage == Stage::Busy && idle.iter().any(|view| view.free_lanes(&needs) > 0)
        });
        held.sort_by_key(|(_, tasks, dealt)| std::cmp::Reverse((dealt.attempt, tasks.start)));
        for (job, tasks, dealt) in held {
            if wanted == 0 {
                break;
            }
            let first = tasks.end - wanted.min(tasks.end - tasks.start);
            wanted -= tasks.end - first;
            runs.push(run_of(job, &(first..tasks.end), dealt.attempt));
        }
        let Some(worker) = self.workers.get(busiest.worker) else { return };
        if runs.is_empty() {
            // Another group's tasks keep it busy: others are asked meanwhile.
            self.workers.recall(now, busiest.worker);
            return;
        }
        let recall = TaskRecall { epoch: seat.epoch.0, ..TaskRecall::default() };
        let record = encode(&recall, &[bytes_of(&runs)]);
        effects.push(NetworkEffect::Send { to: Peer::Inbound(worker.peer), record });
        self.workers.recall(now, busiest.worker);
        self.counters.recalls += 1;
    }
}

/// True where a worker could begin something at once.
fn has_room(view: &WorkerView) -> bool {
    view.idle_slots() > 0
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
