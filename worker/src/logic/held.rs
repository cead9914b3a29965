//! What a worker holds: runs that wait, tasks that run, outcomes that the masters have not
//! acknowledged. The inventory of every heartbeat is read from here.
//!
//! It knows nothing of slots' threads or processes, and nothing of messages.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use node::logic::ranges::without;
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
    /// The assignment under which they were dealt.
    pub assignment: u64,
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
    /// The assignment under which they were dealt.
    pub assignment: u64,
    /// Those of the tasks that a balancer ordered to kill.
    killed: Vec<Range<u64>>,
}

/// Everything that the worker holds.
#[derive(Clone, Debug, Default)]
pub struct Held {
    waiting: VecDeque<WaitingRun>,
    /// By slot.
    started: BTreeMap<u32, Started>,
    /// Ended and not settled: (job, attempt, assignment) → first task → end.
    ended: BTreeMap<(JobId, u64, u64), BTreeMap<u64, u64>>,
    waiting_count: u64,
    ended_run_count: usize,
}

/// A run for an inventory or a message.
pub(super) fn task_run(job: JobId, tasks: &Range<u64>, attempt: u64, state: u8) -> TaskRun {
    TaskRun {
        job_uuid: job.to_wire(),
        first_task: tasks.start,
        task_count: tasks.end - tasks.start,
        attempt,
        state,
    }
}

/// The keys of what ended of an attempt of a job, under whatever assignment.
fn under_any(job: JobId, attempt: u64) -> RangeInclusive<(JobId, u64, u64)> {
    (job, attempt, 0)..=(job, attempt, u64::MAX)
}

/// The tasks of a run that came in a message.
pub(super) fn tasks_of(run: &TaskRun) -> Range<u64> {
    run.first_task..run.first_task.saturating_add(run.task_count)
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
        self.waiting.len() + self.started.len() + self.ended_run_count
    }

    /// True where some of these tasks are held under this attempt.
    #[must_use]
    pub fn holds(&self, job: JobId, tasks: &Range<u64>, attempt: u64) -> bool {
        let touches = |other: &Range<u64>| other.start < tasks.end && other.end > tasks.start;
        let waiting = self.waiting.iter().map(|run| (run.spec.job, run.attempt, &run.tasks));
        let started = self.started.values().map(|run| (run.spec.job, run.attempt, &run.tasks));
        let is_held = waiting
            .chain(started)
            .any(|(id, other, of)| (id, other) == (job, attempt) && touches(of));
        let mut ended = self.ended.range(under_any(job, attempt)).flat_map(|(_, runs)| runs);
        is_held || ended.any(|(&first, &end)| touches(&(first..end)))
    }

    /// True where something is held that was dealt under this assignment, or under an earlier one: its
    /// group may have taken that over with the worker.
    #[must_use]
    pub fn holds_up_to(&self, assignment: u64) -> bool {
        self.waiting.iter().any(|run| run.assignment <= assignment)
            || self.started.values().any(|run| run.assignment <= assignment)
            || self.ended.keys().any(|(_, _, of)| *of <= assignment)
    }

    /// Takes a dealt run in.
    pub fn wait(&mut self, run: WaitingRun) {
        self.waiting_count += run.tasks.end - run.tasks.start;
        self.waiting.push_back(run);
    }

    /// Takes a run back in that a slot did not begin: it is the next to start.
    pub fn wait_first(&mut self, run: WaitingRun) {
        self.waiting_count += run.tasks.end - run.tasks.start;
        self.waiting.push_front(run);
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
        let end = run.tasks.end.min(run.tasks.start.saturating_add(limit.max(1)));
        let tasks = run.tasks.start..end;
        run.tasks.start = end;
        let (spec, attempt, assignment) = (run.spec.clone(), run.attempt, run.assignment);
        if run.tasks.is_empty() {
            self.waiting.pop_front();
        }
        self.waiting_count -= tasks.end - tasks.start;
        let started = Started { spec, tasks, attempt, assignment, killed: Vec::new() };
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

    /// The first task of a slot ended. Returns true where the slot is free now.
    pub fn end(&mut self, slot: u32) -> bool {
        let Some(started) = self.started.get_mut(&slot) else { return false };
        let task = started.tasks.start;
        started.tasks.start += 1;
        let (job, attempt, assignment) = (started.spec.job, started.attempt, started.assignment);
        let is_free = started.tasks.is_empty();
        if is_free {
            self.started.remove(&slot);
        }
        self.add_ended(job, task..task + 1, attempt, assignment);
        is_free
    }

    /// A slot goes on with one task and does not begin the others, which are these. Returns what it
    /// had, and what of them is still wanted.
    pub fn shorten(&mut self, slot: u32, tasks: &Range<u64>) -> Option<(Started, Vec<Range<u64>>)> {
        let started = self.started.get_mut(&slot)?;
        if tasks.start <= started.tasks.start || tasks.end != started.tasks.end {
            return None;
        }
        let before = started.clone();
        started.tasks.end = tasks.start;
        let wanted = without(tasks.clone(), &before.killed);
        Some((before, wanted))
    }

    /// A slot does not begin what it has left. Returns that, and what of it is still wanted.
    pub fn give_up(&mut self, slot: u32) -> Option<(Started, Vec<Range<u64>>)> {
        let started = self.started.remove(&slot)?;
        let wanted = without(started.tasks.clone(), &started.killed);
        Some((started, wanted))
    }

    /// Adds tasks that ended; they are listed until they are settled. Consecutive ones are one run
    /// whatever their outcomes, so that a heartbeat stays small.
    pub fn add_ended(&mut self, job: JobId, tasks: Range<u64>, attempt: u64, assignment: u64) {
        let runs = self.ended.entry((job, attempt, assignment)).or_default();
        if let Some((_, end)) = runs.range_mut(..tasks.start).next_back()
            && *end == tasks.start
        {
            *end = tasks.end;
        } else if runs.insert(tasks.start, tasks.end).is_none() {
            self.ended_run_count += 1;
        }
    }

    /// The masters acknowledged the outcome of these tasks.
    pub fn settle(&mut self, job: JobId, tasks: &Range<u64>, attempt: u64) {
        let mut emptied = Vec::new();
        for (&key, runs) in self.ended.range_mut(under_any(job, attempt)) {
            let first = runs.range(..=tasks.start).next_back().map(|(&first, _)| first);
            let first = first.unwrap_or(tasks.start);
            let touched: Vec<Range<u64>> = runs
                .range(first..tasks.end.max(first))
                .map(|(&first, &end)| first..end)
                .filter(|run| run.start < tasks.end && run.end > tasks.start)
                .collect();
            for run in touched {
                runs.remove(&run.start);
                self.ended_run_count -= 1;
                for rest in without(run, std::slice::from_ref(tasks)) {
                    runs.insert(rest.start, rest.end);
                    self.ended_run_count += 1;
                }
            }
            if runs.is_empty() {
                emptied.push(key);
            }
        }
        emptied.iter().for_each(|key| drop(self.ended.remove(key)));
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
            for rest in without(run.tasks.clone(), std::slice::from_ref(&inside)) {
                kept.push_back(WaitingRun { tasks: rest, ..run.clone() });
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

    /// Notes that these tasks are not wanted any more. Returns the slots that have some of them.
    pub fn kill(&mut self, job: JobId, tasks: &Range<u64>, attempt: u64) -> Vec<u32> {
        let mut slots = Vec::new();
        for (&slot, started) in &mut self.started {
            let is_it = started.spec.job == job && started.attempt == attempt;
            let inside = started.tasks.start.max(tasks.start)..started.tasks.end.min(tasks.end);
            if is_it && inside.start < inside.end && !started.killed.contains(&inside) {
                started.killed.push(inside);
                slots.push(slot);
            }
        }
        slots
    }

    /// Everything that is held. What ended is listed as *done* whatever its outcome: that is the
    /// masters' to know.
    #[must_use]
    pub fn inventory(&self) -> Vec<TaskRun> {
        self.listed().map(|(_, run)| run).collect()
    }

    /// Everything that is held, for the heartbeat to balancers of an assignment: what was dealt
    /// under it comes first, and so many runs of others behind it.
    #[must_use]
    pub fn inventory_for(&self, assignment: u64) -> (Vec<TaskRun>, u64) {
        let mut runs = Vec::with_capacity(self.run_count());
        let mut foreign = Vec::new();
        for (of, run) in self.listed() {
            if of == assignment { runs.push(run) } else { foreign.push(run) }
        }
        let foreign_count = foreign.len() as u64;
        runs.append(&mut foreign);
        (runs, foreign_count)
    }

    /// Everything that is held, each with the assignment under which it was dealt.
    fn listed(&self) -> impl Iterator<Item = (u64, TaskRun)> {
        let [queued, running, done] =
            [TaskState::Queued, TaskState::Running, TaskState::Done].map(TaskState::to_wire);
        let waiting = self.waiting.iter().map(move |held| {
            (held.assignment, task_run(held.spec.job, &held.tasks, held.attempt, queued))
        });
        let started = self.started.values().map(move |held| {
            (held.assignment, task_run(held.spec.job, &held.tasks, held.attempt, running))
        });
        let ended = self.ended.iter().flat_map(move |(&(job, attempt, assignment), runs)| {
            runs.iter().map(move |(&first, &end)| {
                (assignment, task_run(job, &(first..end), attempt, done))
            })
        });
        waiting.chain(started).chain(ended)
    }

    /// Walks everything and panics on a broken invariant.
    pub fn check_invariants(&self) {
        let waiting: u64 = self.waiting.iter().map(|run| run.tasks.end - run.tasks.start).sum();
        assert_eq!(waiting, self.waiting_count, "the count of waiting tasks");
        assert!(self.waiting.iter().all(|run| !run.tasks.is_empty()), "an empty run waits");
        assert!(self.started.values().all(|run| !run.tasks.is_empty()), "a slot without tasks");
        let ended: usize = self.ended.values().map(BTreeMap::len).sum();
        assert_eq!(ended, self.ended_run_count, "the count of ended runs");
        for runs in self.ended.values() {
            let mut end_before = 0;
            for (&first, &end) in runs {
                assert!(first >= end_before && first < end, "ended runs overlap");
                end_before = end;
            }
        }
        let mut held: Vec<(JobId, u64, u64, u64)> = self
            .inventory()
            .iter()
            .map(|run| (run.job_uuid.into(), run.attempt, run.first_task, tasks_of(run).end))
            .collect();
        held.sort_unstable();
        for pair in held.windows(2) {
            let ((job, attempt, _, end), (next_job, next_attempt, first, _)) = (pair[0], pair[1]);
            let is_same = (job, attempt) == (next_job, next_attempt);
            assert!(!is_same || first >= end, "task {first} of {job} is held twice");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_ended_and_is_not_settled_agrees_with_a_plain_array(
            steps in prop::collection::vec((0u64..60, 1u64..20, any::<bool>()), 1..40),
        ) {
            let mut held = Held::default();
            let mut plain = [false; 80];
            for (first, count, is_settled) in steps {
                let tasks = first..first + count;
                if is_settled {
                    held.settle(JobId(1), &tasks, 1);
                    plain[first as usize..tasks.end as usize].fill(false);
                } else {
                    for task in tasks.filter(|&task| !plain[task as usize]) {
                        held.add_ended(JobId(1), task..task + 1, 1, 1);
                    }
                    plain[first as usize..(first + count) as usize].fill(true);
                }
                held.check_invariants();
            }
            let listed: Vec<u64> = held.inventory().iter().flat_map(tasks_of).collect();
            let mut listed_in_order = listed.clone();
            listed_in_order.sort_unstable();
            let expected: Vec<u64> = (0..80).filter(|&task| plain[task as usize]).collect();
            prop_assert_eq!(listed_in_order, expected);
        }
    }
}
