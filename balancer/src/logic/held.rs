//! Which dealt runs each worker has, and how much of them keeps a slot: so that a worker's
//! heartbeat or death costs what that worker holds, not what the whole group was dealt.
//!
//! An index over `tasks.rs` and nothing else: it decides nothing and knows nothing by itself.

use std::collections::{BTreeMap, BTreeSet};

use proto::ids::{JobId, NodeId};
use proto::status::TaskState;

/// Where a dealt run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It waits at its worker, is on its way there, or runs.
    Busy,
    /// It ended; the outcome is on its way to the masters.
    Free,
    /// Its worker does not have it (any more): the masters are asked what became of it. The state
    /// is what they are told, *lost* or *returned*.
    Asked(TaskState),
}

/// Consecutive tasks dealt together and not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dealt {
    /// Index behind the last task; the first is the key.
    pub end: u64,
    /// The attempt.
    pub attempt: u64,
    /// Who has them.
    pub worker: NodeId,
    /// Number of the deal on the worker's connection; 0 for one of an earlier connection, or one
    /// that this balancer did not deal itself.
    pub deal: u64,
    /// Where they stand.
    pub stage: Stage,
}

impl Dealt {
    /// True where `other` says the same of other tasks.
    pub(super) fn is_like(&self, other: &Dealt) -> bool {
        Dealt { end: 0, ..*self } == Dealt { end: 0, ..*other }
    }
}

/// The dealt runs by worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HeldIndex {
    runs: BTreeMap<NodeId, BTreeSet<(JobId, u64)>>,
    asked: BTreeSet<(NodeId, JobId, u64)>,
    /// Tasks that keep a slot.
    busy: BTreeMap<NodeId, BTreeMap<JobId, u64>>,
}

impl HeldIndex {
    pub(super) fn add(&mut self, job: JobId, first: u64, dealt: &Dealt) {
        self.runs.entry(dealt.worker).or_default().insert((job, first));
        match dealt.stage {
            Stage::Busy => {
                let busy = self.busy.entry(dealt.worker).or_default().entry(job).or_default();
                *busy += dealt.end - first;
            }
            Stage::Free => {}
            Stage::Asked(_) => {
                self.asked.insert((dealt.worker, job, first));
            }
        }
    }

    pub(super) fn remove(&mut self, job: JobId, first: u64, dealt: &Dealt) {
        if let Some(runs) = self.runs.get_mut(&dealt.worker) {
            runs.remove(&(job, first));
            if runs.is_empty() {
                self.runs.remove(&dealt.worker);
            }
        }
        match dealt.stage {
            Stage::Busy => {
                let Some(jobs) = self.busy.get_mut(&dealt.worker) else { return };
                if let Some(busy) = jobs.get_mut(&job) {
                    *busy -= dealt.end - first;
                    if *busy == 0 {
                        jobs.remove(&job);
                    }
                }
                if jobs.is_empty() {
                    self.busy.remove(&dealt.worker);
                }
            }
            Stage::Free => {}
            Stage::Asked(_) => {
                self.asked.remove(&(dealt.worker, job, first));
            }
        }
    }

    /// The first tasks of a worker's runs, in the order of jobs and tasks.
    pub(super) fn runs_of(&self, worker: NodeId) -> impl Iterator<Item = (JobId, u64)> + '_ {
        self.runs.get(&worker).into_iter().flatten().copied()
    }

    /// The runs whose fate is to be asked, worker by worker.
    pub(super) fn asked(&self) -> impl Iterator<Item = (NodeId, JobId, u64)> + '_ {
        self.asked.iter().copied()
    }

    /// Tasks that keep a slot of a worker, by job.
    pub(super) fn busy_of(&self, worker: NodeId) -> impl Iterator<Item = (JobId, u64)> + '_ {
        self.busy.get(&worker).into_iter().flatten().map(|(&job, &count)| (job, count))
    }

    /// True where no task keeps a slot anywhere.
    pub(super) fn is_idle(&self) -> bool {
        self.busy.is_empty()
    }
}
