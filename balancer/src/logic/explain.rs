//! Why tasks are where they are: for `remuda explain`, and for whoever reads a failed simulation.
//!
//! Tasks that are dealt are told of with their worker, which knows more; of tasks that wait, all is
//! told that would have to change before one of them is dealt.

use std::fmt;

use node::logic::explanations::{Room, Why, explain_reply};
use proto::ids::{JobId, LogIndex, NodeId, TaskIndex};
use proto::messages::job::ExplainQuery;
use proto::record::{Record, RecordError, set_request_id};
use proto::status::{Reason as WireReason, TaskState};
use proto::time::Instant;

use super::plan::Needs;
use super::seat::Seat;
use super::tasks::{JobTasks, Place};
use super::workers::Standing;
use super::{Balancer, Stage};

/// Why a task is not done yet, as far as a balancer can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Explanation {
    /// The masters named no such job to this group, or it ended.
    UnknownJob,
    /// The group was not granted the task (yet).
    NotGranted,
    /// It has its outcome.
    Settled,
    /// A worker has it, waiting or running.
    Dealt {
        /// The worker.
        worker: NodeId,
        /// The attempt.
        attempt: u64,
    },
    /// It ended; the worker has not said yet that the masters recorded its outcome.
    Ended {
        /// The worker.
        worker: NodeId,
        /// The attempt.
        attempt: u64,
    },
    /// Its worker no longer has it; the masters are asked whether it has an outcome.
    Asked {
        /// The worker that had it.
        worker: NodeId,
        /// The attempt.
        attempt: u64,
        /// What the masters are told of that attempt.
        state: TaskState,
    },
    /// It waits.
    Waiting(Reason),
}

/// What a task waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The balancer has no seat in a group yet: it reaches no master.
    NoSeat,
    /// The balancer does not hold the lease: it follows, or reaches no leader.
    NoLease,
    /// The balancer does not know yet what an earlier primary was granted.
    FeedBehind,
    /// The job is held until it is released.
    Held,
    /// An earlier primary, or the group that was granted it first, may have dealt it: the workers
    /// get their time to say so.
    Grace {
        /// Jobs granted up to here are held back.
        up_to: LogIndex,
    },
    /// No worker was heard of lately.
    NoWorker,
    /// No worker that takes tasks is large enough for one.
    TooLarge,
    /// Every worker that is large enough has enough to do.
    Busy {
        /// Tasks that wait of jobs with a higher priority.
        before: u64,
    },
}

impl Balancer {
    /// Answers why a task is not done.
    #[must_use]
    pub fn explain(&self, now: Instant, job: JobId, task: TaskIndex) -> Explanation {
        let Some(known) = self.tasks.job(job) else {
            return Explanation::UnknownJob;
        };
        match known.place(task.0) {
            Place::Unknown => Explanation::NotGranted,
            Place::Settled => Explanation::Settled,
            Place::Waiting => {
                let is_doubtful = known.is_doubtful(task.0);
                Explanation::Waiting(self.reason(now, job, known, is_doubtful))
            }
            Place::Dealt(dealt) => {
                let (worker, attempt) = (dealt.worker, dealt.attempt);
                match dealt.stage {
                    Stage::Busy => Explanation::Dealt { worker, attempt },
                    Stage::Free => Explanation::Ended { worker, attempt },
                    Stage::Asked(state) => Explanation::Asked { worker, attempt, state },
                }
            }
        }
    }

    fn reason(&self, now: Instant, id: JobId, job: &JobTasks, is_doubtful: bool) -> Reason {
        let Some(seat) = &self.seat else { return Reason::NoSeat };
        if !seat.holds_lease(now) {
            return Reason::NoLease;
        }
        if !self.may_deal(now) {
            return Reason::FeedBehind;
        }
        if job.is_held {
            return Reason::Held;
        }
        if is_doubtful {
            return Reason::Grace { up_to: seat.held_back() };
        }
        if self.workers.reachable_count() == 0 {
            return Reason::NoWorker;
        }
        let nodes = self.workers.nodes();
        let views =
            nodes.iter().filter_map(|&node| self.workers.view(node, seat.epoch, &self.tasks));
        let large_enough = views.filter(|view| view.room.holds(&job.needs));
        if large_enough.count() == 0 {
            return Reason::TooLarge;
        }
        Reason::Busy { before: self.count_before(id, job) }
    }

    /// Jobs that have tasks to be dealt, and a worker that could take one.
    fn rivals(&self, id: JobId) -> impl Iterator<Item = &JobTasks> {
        let is_rival = move |(other, job): &(JobId, &JobTasks)| {
            *other != id && self.workers.rooms().any(|(_, _, room)| room.holds(&job.needs))
        };
        self.tasks.waiting().filter(is_rival).map(|(_, job)| job)
    }

    /// Tasks of other jobs that wait and come first. Jobs of the same priority take turns,
    /// whichever is older.
    fn count_before(&self, id: JobId, job: &JobTasks) -> u64 {
        let first = self.rivals(id).filter(|other| other.priority > job.priority);
        first.fold(0u64, |sum, other| sum.saturating_add(other.open_count()))
    }

    /// The answer to `explain_query`, from whichever seat.
    pub(super) fn explain_reply(
        &self,
        now: Instant,
        record: &Record<'_>,
    ) -> Result<Vec<u8>, RecordError> {
        let query = record.read::<ExplainQuery>()?;
        let task = Some(TaskIndex(query.task_index)).filter(|task| task.0 != u64::MAX);
        let whys = self.explain_tasks(now, query.job_uuid.into(), task);
        let group = self.seat.as_ref().map_or(0, |seat| seat.group);
        let mut reply = explain_reply(LogIndex(0), group, &whys);
        set_request_id(&mut reply, record.request_id());
        Ok(reply)
    }

    /// Why a task of a job is where it is, or all tasks of it that were granted here and have no
    /// outcome, those of one reason together. Nothing is said of a job that is not known here.
    #[must_use]
    pub fn explain_tasks(&self, now: Instant, id: JobId, task: Option<TaskIndex>) -> Vec<Why> {
        let Some(job) = self.tasks.job(id) else { return Vec::new() };
        if let Some(task) = task {
            let one = |reason| Why::new(reason, task.0, 1);
            return match job.place(task.0) {
                Place::Unknown => Vec::new(),
                Place::Settled => vec![one(WireReason::Finished)],
                Place::Waiting => {
                    let is_doubtful = job.is_doubtful(task.0);
                    self.explain_waiting(now, id, job, is_doubtful, &one(WireReason::Next))
                }
                Place::Dealt(dealt) => vec![Why {
                    subject: dealt.worker,
                    number: if dealt.stage == Stage::Busy { 0 } else { dealt.attempt },
                    ..one(reason_of(dealt.stage))
                }],
            };
        }
        let mut whys: Vec<Why> = Vec::new();
        for (tasks, dealt) in job.overlaps(&(0..job.task_count)) {
            let (reason, count) = (reason_of(dealt.stage), tasks.end - tasks.start);
            let is_it = |it: &&mut Why| (it.reason, it.subject) == (reason, dealt.worker);
            match whys.iter_mut().find(is_it) {
                Some(known) => known.task_count += count,
                None => {
                    let why = Why::new(reason, tasks.start, count);
                    whys.push(Why { subject: dealt.worker, ..why });
                }
            }
        }
        // Where there are many workers, those with the most tasks are told of.
        whys.sort_by_key(|why| std::cmp::Reverse(why.task_count));
        let mut all = Vec::new();
        for is_doubtful in [true, false] {
            let pieces = job.waiting.within(&(0..job.task_count));
            let of_kind = pieces.iter().filter(|it| job.is_doubtful(it.start) == is_doubtful);
            let (first, count) = of_kind.fold((u64::MAX, 0), |(first, count), piece| {
                (piece.start.min(first), count + (piece.end - piece.start))
            });
            if count > 0 {
                let next = Why::new(WireReason::Next, first, count);
                all.extend(self.explain_waiting(now, id, job, is_doubtful, &next));
            }
        }
        all.extend(whys);
        all
    }

    /// What keeps waiting tasks from being dealt; `next` says which tasks these are.
    fn explain_waiting(
        &self,
        now: Instant,
        id: JobId,
        job: &JobTasks,
        is_doubtful: bool,
        next: &Why,
    ) -> Vec<Why> {
        let with = |reason| Why { reason, ..next.clone() };
        let Some(seat) = &self.seat else {
            let text = "it has not been able to register with the masters".to_owned();
            return vec![Why { text, ..with(WireReason::NoBalancer) }];
        };
        if !seat.holds_lease(now) {
            let text = "it does not hold the lease of its group".to_owned();
            return vec![Why { number: seat.group, text, ..with(WireReason::NoBalancer) }];
        }
        if self.auxiliary.forbids_dealing() {
            let text = "the masters still take its auxiliary for in step".to_owned();
            return vec![Why { text, ..with(WireReason::TakingOver) }];
        }
        if !self.may_deal(now) {
            let text = "it still reads what the masters granted".to_owned();
            return vec![Why { text, ..with(WireReason::TakingOver) }];
        }
        if job.is_held {
            return vec![with(WireReason::Held)];
        }
        if is_doubtful {
            let until = seat.grace_deadline().or(self.tasks.moved_deadline());
            let left = until.map_or(0, |until| until.since(now).as_millis());
            return vec![Why { number: left, ..with(WireReason::TakingOver) }];
        }
        self.explain_workers(seat, id, job, next)
    }

    /// What of the workers keeps waiting tasks from being dealt.
    fn explain_workers(&self, seat: &Seat, id: JobId, job: &JobTasks, next: &Why) -> Vec<Why> {
        let with = |reason| Why { reason, ..next.clone() };
        let key = |(_, _, room): &(NodeId, Standing, Needs)| (room.cpu_milli, room.memory_bytes);
        let Some((largest, _, room)) = self.workers.rooms().max_by_key(key) else {
            return vec![with(WireReason::NoWorker)];
        };
        let large: Vec<(NodeId, Standing)> = self
            .workers
            .rooms()
            .filter(|(_, _, room)| room.holds(&job.needs))
            .map(|(node, standing, _)| (node, standing))
            .collect();
        if large.is_empty() {
            let Needs { cpu_milli, memory_bytes } = room;
            let text = Room { cpu_milli, memory_bytes }.to_string();
            let too_large = with(WireReason::TooLarge);
            return vec![Why { subject: largest, number: cpu_milli, text, ..too_large }];
        }
        let mut whys = Vec::new();
        let mut full = large.iter().filter(|(_, it)| *it == Standing::Full).map(|(node, _)| *node);
        if let Some(first) = full.next() {
            let number = 1 + full.count() as u64;
            whys.push(Why { subject: first, number, ..with(WireReason::WorkersFull) });
        }
        let takes = large.iter().filter(|(_, it)| *it == Standing::Takes).map(|(node, _)| *node);
        let views = takes.filter_map(|node| self.workers.view(node, seat.epoch, &self.tasks));
        let views: Vec<_> = views.collect();
        if views.is_empty() {
            if whys.is_empty() {
                let text = "those that are large enough stop or were cut off".to_owned();
                whys.push(Why { text, ..with(WireReason::NoWorker) });
            }
            return whys;
        }
        let before = self.count_before(id, job);
        if before > 0 {
            whys.push(Why { number: before, ..with(WireReason::Behind) });
        }
        if views.iter().all(|view| view.free_lanes(&job.needs) == 0) {
            let busy = self.tasks.jobs().map(|(_, job)| job.busy_count()).sum();
            let equals = self.rivals(id).filter(|other| other.priority == job.priority).count();
            let text = match equals {
                0 => String::new(),
                1 => "another job of the same priority takes turns with it".to_owned(),
                count => format!("{count} other jobs of the same priority take turns with it"),
            };
            whys.push(Why { number: busy, text, ..with(WireReason::SlotsBusy) });
        }
        if whys.is_empty() {
            whys.push(next.clone());
        }
        whys
    }
}

/// What is said of tasks that are dealt.
fn reason_of(stage: Stage) -> WireReason {
    match stage {
        Stage::Busy => WireReason::AtWorker,
        Stage::Free => WireReason::Reporting,
        Stage::Asked(_) => WireReason::Asked,
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Explanation::UnknownJob => f.write_str("the job ended, or was never granted here"),
            Explanation::NotGranted => {
                f.write_str("the masters have not granted it yet: a large job is granted in parts")
            }
            Explanation::Settled => f.write_str("it has its outcome"),
            Explanation::Dealt { worker, attempt } => {
                write!(f, "worker {worker} has it as attempt {attempt}")
            }
            Explanation::Ended { worker, attempt } => write!(
                f,
                "attempt {attempt} ended at worker {worker}, which waits for the masters to \
                 record it"
            ),
            Explanation::Asked { worker, attempt, state } => write!(
                f,
                "attempt {attempt} at worker {worker} counts as {state}; the masters are asked \
                 whether it has an outcome"
            ),
            Explanation::Waiting(reason) => write!(f, "it waits: {reason}"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NoSeat => f.write_str("this balancer has not been able to register yet"),
            Reason::NoLease => f.write_str("this balancer does not hold the lease of its group"),
            Reason::FeedBehind => {
                f.write_str("this balancer is still reading what the masters granted")
            }
            Reason::Held => f.write_str("its job is held"),
            Reason::Grace { up_to } => write!(
                f,
                "an earlier primary (of what was granted up to log index {up_to}) or another \
                 group may have dealt it, and workers have their time to list what they hold"
            ),
            Reason::NoWorker => f.write_str("no worker can be reached"),
            Reason::TooLarge => f.write_str(
                "no worker that takes tasks has the CPUs and memory that one of them needs",
            ),
            Reason::Busy { before } => write!(
                f,
                "the workers have enough to do, and {before} tasks of other jobs come first"
            ),
        }
    }
}
