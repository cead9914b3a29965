//! What a worker holds: runs that wait, tasks that run, outcomes that the masters have not
//! acknowledged. The inventory of every heartbeat is read from here.
//!
//! It knows nothing of slots' threads or processes, and nothing of messages.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use proto::ids::JobId;
use proto::messages::task::TaskRun;
use proto::status::TaskState;

use super::job::JobSpec;

/// A run that waits, whole or what is left of it.
#[derive(Clone, Debug)]
pub struct WaitingRun {
    /// Its job.
    pub spec: Arc<JobSpec>,
    /// The tasks.
    pub tasks: Range<u64>,
    /// The attempt under which they were dealt.
    pub attempt: u64,
}

/// Tasks handed to a slot.
#[derive(Clone, Debug)]
pub struct Started {
    /// Their job.
    pub spec: Arc<JobSpec>,
    /// The tasks that have not ended.
    pub tasks: Range<u64>,
    /// The attempt.
    pub attempt: u64,
}

/// Everything that the worker holds.
#[derive(Clone, Debug, Default)]
pub struct Held {
    waiting: VecDeque<WaitingRun>,
    /// By slot.
    started: BTreeMap<u32, Started>,
    /// Ended and not settled: (job, attempt) → first task → (end, state).
    ended: BTreeMap<(JobId, u64), BTreeMap<u64, (u64, TaskState)>>,
    waiting_count: u64,
}

impl Held {
    /// Number of tasks that wait.
    #[must_use]
    pub fn waiting_count(&self) -> u64 {
        self.waiting_count
    }

    /// Number of runs of all kinds: what a heartbeat lists.
    #[must_use]
    pub fn run_count(&self) -> usize {
        let ended: usize = self.ended.values().map(BTreeMap::len).sum();
        self.waiting.len() + self.started.len() + ended
    }

    /// Takes a dealt run in.
    pub fn wait(&mut self, run: WaitingRun) {
        self.waiting_count += run.tasks.end - run.tasks.start;
        self.waiting.push_back(run);
    }

    /// The run whose tasks start next.
    #[must_use]
    pub fn next(&self) -> Option<&WaitingRun> {
        self.waiting.front()
    }

    /// Hands the first tasks of the first waiting run, at most `limit`, to a slot.
    ///
    /// # Panics
    /// If the slot has tasks: a bug of ours.
    pub fn start(&mut self, slot: u32, limit: u64) -> Option<Started> {
        let run = self.waiting.front_mut()?;
        let end = run.tasks.end.min(run.tasks.start + limit.max(1));
        let tasks = run.tasks.start..end;
        run.tasks.start = end;
        let started = Started { spec: run.spec.clone(), tasks: tasks.clone(), attempt: run.attempt };
        if run.tasks.is_empty() {
            self.waiting.pop_front();
        }
        self.waiting_count -= tasks.end - tasks.start;
        let before = self.started.insert(slot, started.clone());
        assert!(before.is_none(), "slot {slot} has tasks");
        Some(started)
    }

    /// What runs in a slot.
    #[must_use]
    pub fn started(&self, slot: u32) -> Option<&Started> {
        self.started.get(&slot)
    }

    /// The slots with their tasks.
    pub fn slots(&self) -> impl Iterator<Item = (u32, &Started)> {
        self.started.iter().map(|(&slot, started)| (slot, started))
    }

    /// The first tasks of a slot ended in `state`. Returns true where the slot is free now.
    pub fn end(&mut self, slot: u32, count: u64, state: TaskState) -> bool {
        let Some(started) = self.started.get_mut(&slot) else { return false };
        let end = started.tasks.end.min(started.tasks.start + count);
        let tasks = started.tasks.start..end;
        started.tasks.start = end;
        let key = (started.spec.job, started.attempt);
        let is_free = started.tasks.is_empty();
        if is_free {
            self.started.remove(&slot);
        }
        add(self.ended.entry(key).or_default(), tasks, state);
        is_free
    }

    /// The masters acknowledged the outcome of these tasks.
    pub fn settle(&mut self, job: JobId, tasks: &Range<u64>, attempt: u64) {
        if let Some(runs) = self.ended.get_mut(&(job, attempt)) {
            remove(runs, tasks);
            if runs.is_empty() {
                self.ended.remove(&(job, attempt));
            }
        }
    }

    /// Takes what waits of these tasks away. Returns the pieces.
    pub fn recall(&mut self, job: JobId, tasks: &Range<u64>, attempt: u64) -> Vec<Range<u64>> {
        let mut taken = Vec::new();
        let mut kept = VecDeque::with_capacity(self.waiting.len());
        for run in self.waiting.drain(..) {
            let inside = run.tasks.start.max(tasks.start)..run.tasks.end.min(tasks.end);
            if run.spec.job != job || run.attempt != attempt || inside.start >= inside.end {
                kept.push_back(run);
                continue;
            }
            for rest in [run.tasks.start..inside.start, inside.end..run.tasks.end] {
                if rest.start < rest.end {
                    kept.push_back(WaitingRun { tasks: rest, ..run.clone() });
                }
            }
            self.waiting_count -= inside.end - inside.start;
            taken.push(inside);
        }
        self.waiting = kept;
        taken
    }

    /// Takes everything that waits away.
    pub fn recall_all(&mut self) -> Vec<WaitingRun> {
        self.waiting_count = 0;
        self.waiting.drain(..).collect()
    }

    /// Everything that is held, for a heartbeat.
    #[must_use]
    pub fn inventory(&self) -> Vec<TaskRun> {
        let run = |job: JobId, tasks: &Range<u64>, attempt: u64, state: TaskState| TaskRun {
            job_uuid: job.to_wire(),
            first_task: tasks.start,
            task_count: tasks.end - tasks.start,
            attempt,
            state: state.to_wire(),
        };
        let waiting = self
            .waiting
            .iter()
            .map(|held| run(held.spec.job, &held.tasks, held.attempt, TaskState::Queued));
        let started = self
            .started
            .values()
            .map(|held| run(held.spec.job, &held.tasks, held.attempt, TaskState::Running));
        let ended = self.ended.iter().flat_map(|(&(job, attempt), runs)| {
            runs.iter().map(move |(&first, &(end, state))| run(job, &(first..end), attempt, state))
        });
        waiting.chain(started).chain(ended).collect()
    }

    /// Walks everything and panics on a broken invariant.
    pub fn check_invariants(&self) {
        let waiting: u64 = self.waiting.iter().map(|run| run.tasks.end - run.tasks.start).sum();
        assert_eq!(waiting, self.waiting_count, "the count of waiting tasks");
        assert!(self.waiting.iter().all(|run| !run.tasks.is_empty()), "an empty run waits");
        assert!(self.started.values().all(|run| !run.tasks.is_empty()), "a slot without tasks");
    }
}

/// Adds tasks in a state, joined with a run that they touch.
fn add(runs: &mut BTreeMap<u64, (u64, TaskState)>, tasks: Range<u64>, state: TaskState) {
    if let Some((_, (end, before))) = runs.range_mut(..tasks.start).next_back()
        && *end == tasks.start
        && *before == state
    {
        *end = tasks.end;
        return;
    }
    runs.insert(tasks.start, (tasks.end, state));
}

/// Takes tasks away; a run that reaches out of them is cut.
fn remove(runs: &mut BTreeMap<u64, (u64, TaskState)>, tasks: &Range<u64>) {
    let before = runs.range(..=tasks.start).next_back().map_or(tasks.start, |(&first, _)| first);
    let touched: Vec<(u64, u64, TaskState)> = runs
        .range(before..tasks.end.max(before))
        .map(|(&first, &(end, state))| (first, end, state))
        .filter(|&(first, end, _)| first < tasks.end && end > tasks.start)
        .collect();
    for (first, end, state) in touched {
        runs.remove(&first);
        if first < tasks.start {
            runs.insert(first, (tasks.start, state));
        }
        if tasks.end < end {
            runs.insert(tasks.end, (end, state));
        }
    }
}
