//! Why a task is where it is, in words: for `remuda explain` and for whoever reads a failed
//! simulation.

use std::fmt;

use proto::ids::{JobId, LogIndex, NodeId, TaskIndex};
use proto::status::TaskState;
use proto::time::Instant;

use super::tasks::{JobTasks, Place};
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
    /// An earlier primary may have dealt it: the workers get their time to say so.
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
        /// Tasks of other jobs that wait and come first.
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
            Place::Waiting => Explanation::Waiting(self.reason(now, job, known)),
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

    fn reason(&self, now: Instant, id: JobId, job: &JobTasks) -> Reason {
        let Some(seat) = &self.seat else { return Reason::NoSeat };
        if !seat.holds_lease(now) {
            return Reason::NoLease;
        }
        if !self.may_deal(now) {
            return Reason::FeedBehind;
        }
        if job.index <= seat.held_back() {
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
        let earlier = self.tasks.waiting().take_while(|(other, _)| *other != id);
        let before = earlier.fold(0u64, |sum, (_, job)| sum.saturating_add(job.pending_count()));
        Reason::Busy { before }
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
            Reason::Grace { up_to } => write!(
                f,
                "an earlier primary may have dealt it (it was granted up to log index {up_to}), \
                 and workers have their time to list what they hold"
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
