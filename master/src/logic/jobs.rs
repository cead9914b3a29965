//! Jobs: what was submitted, which ranges are granted, what became of the tasks.
//!
//! Everything here is part of the replicated state and changes only inside `apply`. It knows
//! nothing of balancers' or workers' addresses; who holds which task is soft state of a balancer.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use node::logic::ranges::without;
use proto::description::MAX_LOST_ATTEMPTS;
use proto::ids::{FileId, JobId, LogIndex};
use proto::messages::task::TaskRun;
use proto::status::{Cause, JobState, TaskState, Verdict};
use serde::{Deserialize, Serialize};

use super::grants::{Grant, Share};
use super::segments::SegmentList;
use super::submissions::{Digest, Resolved};
use super::tasks::{RunMap, TaskSet, outside};

/// Outcome of a task for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Failure {
    /// Exit code, minus the signal's number where one ended it.
    pub exit_code: i32,
    /// Why.
    pub cause: Cause,
}

/// What is remembered of an unfinished task's ended attempts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempts {
    /// Ended with another exit code than 0.
    pub failed: u32,
    /// Took their worker with them.
    pub crashed: u32,
    /// Numbers of the attempts that were lost; at most [`MAX_LOST_ATTEMPTS`].
    pub lost: Vec<u64>,
    /// The newest attempt that was counted in any of these ways.
    pub newest: u64,
}

impl Attempts {
    /// How many ended.
    #[must_use]
    pub fn ended(&self) -> u32 {
        // At most MAX_LOST_ATTEMPTS + 1 of them.
        let lost = u32::try_from(self.lost.len()).unwrap_or(u32::MAX);
        self.failed.saturating_add(self.crashed).saturating_add(lost)
    }
}

/// A run of tasks as a worker or balancer reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedRun {
    /// The job.
    pub job: JobId,
    /// The tasks.
    pub tasks: Range<u64>,
    /// The attempt that ran.
    pub attempt: u64,
    /// What became of them: done, failed, crashed, lost or returned.
    pub state: TaskState,
    /// Exit code, minus the signal's number where one ended it.
    pub exit_code: i32,
    /// Why, where the state alone does not say it.
    pub cause: Cause,
    /// The segment that holds what they wrote; nil where there is none yet.
    pub segment: FileId,
}

/// One job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The `job_submit` record, stamps cleared and names resolved: what the balancers get.
    pub record: Arc<[u8]>,
    /// Digest of the record as it was submitted, which tells whether a second submission is the
    /// same: names may have moved meanwhile.
    pub submitted: Digest,
    /// Its name, for people.
    pub name: String,
    /// Who submitted it, for people.
    pub owner: String,
    /// Number of tasks.
    pub task_count: u64,
    /// Times that a task is tried again after a failure.
    pub retries: u32,
    /// Crashes after which a task fails.
    pub max_crashes: u32,
    /// Failed tasks after which the job fails; no bound where absent.
    pub max_fails: Option<u64>,
    /// Higher is dealt first.
    pub priority: i32,
    /// None of its tasks is dealt until it is released.
    pub is_held: bool,
    /// Log index of the newest change of the two above that the feed has; 0 where there is none.
    pub changed: LogIndex,
    /// The job some of whose tasks this one tries again.
    pub retry_of: Option<JobId>,
    /// Never goes back.
    pub state: JobState,
    /// Log index of the submission.
    pub index: LogIndex,
    /// Log time of the submission, in microseconds.
    pub submitted_us: u64,
    /// Log time at which the state became final; 0 until then.
    pub finished_us: u64,
    /// Tasks that are done.
    pub done: TaskSet,
    /// Tasks that failed for good, by how.
    pub failed: BTreeMap<Failure, TaskSet>,
    /// What is remembered of unfinished tasks whose attempts ended.
    pub attempts: RunMap<Attempts>,
    /// Attempts of finished tasks before the one that has the outcome: the tasks by how many there
    /// were, none of those that had none.
    pub earlier: BTreeMap<u32, TaskSet>,
    /// Attempts that were lost, of all tasks, finished ones included.
    pub lost_attempts: u64,
    /// Attempts that took their worker with them, of all tasks.
    pub crashed_attempts: u64,
    /// Ranges that groups deal, in the order of their tasks.
    pub grants: Vec<Grant>,
    /// What of them each group has.
    pub shares: BTreeMap<u64, Share>,
    /// The first task that no group has been granted yet.
    pub next_grant: u64,
    /// Where outputs and accounting are.
    pub segments: SegmentList,
}

/// What a report did to a job.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// Runs that are not final: to be dealt again.
    pub again: Vec<Range<u64>>,
    /// Runs that had their outcome before: what was reported of them is dropped.
    pub refused: Vec<Range<u64>>,
    /// Groups, with how many of their tasks have their outcome now.
    pub finished: Vec<(u64, u64)>,
}

impl Job {
    /// A job as submitted, nothing granted.
    #[must_use]
    pub fn new(resolved: Resolved, submitted: Digest, index: LogIndex, submitted_us: u64) -> Job {
        let Resolved { record, task_count, description } = resolved;
        Job {
            record,
            submitted,
            name: description.name,
            owner: description.owner,
            task_count,
            retries: description.retries,
            max_crashes: description.max_crashes,
            max_fails: description.max_fails,
            priority: description.priority,
            is_held: description.is_held,
            changed: LogIndex(0),
            retry_of: description.retry.map(|retry| retry.job),
            state: JobState::Queued,
            index,
            submitted_us,
            finished_us: 0,
            done: TaskSet::default(),
            failed: BTreeMap::new(),
            attempts: RunMap::default(),
            earlier: BTreeMap::new(),
            lost_attempts: 0,
            crashed_attempts: 0,
            grants: Vec::new(),
            shares: BTreeMap::new(),
            next_grant: 0,
            segments: SegmentList::default(),
        }
    }

    /// Number of tasks that failed for good.
    #[must_use]
    pub fn failed_count(&self) -> u64 {
        self.failed.values().map(TaskSet::len).sum()
    }

    /// Number of tasks that have their outcome.
    #[must_use]
    pub fn finished_count(&self) -> u64 {
        self.done.len() + self.failed_count()
    }

    /// The pieces of `range` whose tasks have no outcome.
    #[must_use]
    pub fn unfinished(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let range = range.start..range.end.min(self.task_count);
        if self.state.is_final() || range.start >= range.end {
            return Vec::new();
        }
        let mut sets = vec![&self.done];
        sets.extend(self.failed.values());
        outside(range, &sets)
    }

    /// Records what became of a run. Idempotent: tasks that have their outcome keep it (the first
    /// completion that commits wins), an attempt is counted once.
    pub fn record(&mut self, run: &ReportedRun) -> Recorded {
        let mut recorded = Recorded::default();
        let mut accepted = Vec::new();
        let unfinished = self.unfinished(run.tasks.clone());
        recorded.refused = without(run.tasks.clone(), &unfinished);
        for piece in unfinished {
            for (tasks, attempts) in self.attempts.split(piece) {
                let attempts = attempts.unwrap_or_default();
                let count = tasks.end - tasks.start;
                match self.decide(run, count, attempts) {
                    Decision::Done(earlier) => {
                        self.attempts.remove(tasks.clone());
                        remember(&mut self.earlier, tasks.clone(), earlier);
                        self.done.insert(tasks.clone());
                        accepted.push(tasks);
                    }
                    Decision::Failed(failure, earlier) => {
                        self.attempts.remove(tasks.clone());
                        remember(&mut self.earlier, tasks.clone(), earlier);
                        self.failed.entry(failure).or_default().insert(tasks.clone());
                        accepted.push(tasks);
                    }
                    Decision::Again(Some(attempts)) => {
                        self.attempts.set(tasks.clone(), attempts);
                        recorded.again.push(tasks);
                    }
                    Decision::Again(None) => recorded.again.push(tasks),
                }
            }
        }
        recorded.finished = self.leave_shares(&accepted);
        if !run.segment.is_nil() && !accepted.is_empty() {
            self.segments.add(run.segment, accepted);
        }
        if self.state == JobState::Queued {
            self.state = JobState::Running;
        }
        recorded
    }

    /// What one report means for `count` tasks with these earlier attempts.
    fn decide(&mut self, run: &ReportedRun, count: u64, mut attempts: Attempts) -> Decision {
        let failure = Failure { exit_code: run.exit_code, cause: run.cause };
        let is_newer = run.attempt > attempts.newest;
        let earlier = attempts.ended();
        match run.state {
            // One that was given up as lost has the outcome after all.
            TaskState::Done if attempts.lost.contains(&run.attempt) => {
                self.lost_attempts = self.lost_attempts.saturating_sub(count);
                Decision::Done(earlier - 1)
            }
            TaskState::Done => Decision::Done(earlier),
            TaskState::Failed if is_newer => {
                attempts.failed += 1;
                attempts.newest = run.attempt;
                if attempts.failed > self.retries {
                    Decision::Failed(failure, earlier)
                } else {
                    Decision::Again(Some(attempts))
                }
            }
            TaskState::Crashed => {
                let evidence = attempts.lost.iter().position(|&lost| lost == run.attempt);
                if let Some(evidence) = evidence {
                    attempts.lost.remove(evidence);
                    self.lost_attempts = self.lost_attempts.saturating_sub(count);
                } else if !is_newer {
                    return Decision::Again(None);
                }
                attempts.newest = attempts.newest.max(run.attempt);
                attempts.crashed += 1;
                self.crashed_attempts += count;
                if attempts.crashed >= self.max_crashes {
                    Decision::Failed(failure, attempts.ended() - 1)
                } else {
                    Decision::Again(Some(attempts))
                }
            }
            TaskState::Lost if is_newer => {
                attempts.lost.push(run.attempt);
                attempts.newest = run.attempt;
                self.lost_attempts += count;
                if attempts.lost.len() > MAX_LOST_ATTEMPTS as usize {
                    Decision::Failed(failure, earlier)
                } else {
                    Decision::Again(Some(attempts))
                }
            }
            _ => Decision::Again(None),
        }
    }

    /// Makes the state final where every task has an outcome, or too many failed. Returns true
    /// where it became final now.
    pub fn settle(&mut self, log_time_us: u64) -> bool {
        if self.state.is_final() {
            return false;
        }
        let failed = self.failed_count();
        let too_many = self.max_fails.is_some_and(|bound| failed > bound);
        if self.finished_count() < self.task_count && !too_many {
            return false;
        }
        self.end(if failed == 0 { JobState::Done } else { JobState::Failed }, log_time_us);
        true
    }

    /// Puts the job into a final state and keeps only what is still asked for. Its grants are taken
    /// out of the feed by the caller, and whether it is held with them.
    pub fn end(&mut self, state: JobState, log_time_us: u64) {
        self.state = state;
        self.finished_us = log_time_us;
        for (tasks, attempts) in std::mem::take(&mut self.attempts).iter() {
            remember(&mut self.earlier, tasks, attempts.ended());
        }
        self.done.compress();
        self.failed.values_mut().for_each(TaskSet::compress);
        self.earlier.values_mut().for_each(TaskSet::compress);
    }

    /// How many attempts of tasks ended before the one that has the outcome, or at all where none
    /// has: for the first tasks of `range`, up to where that changes.
    #[must_use]
    pub fn earlier_attempts(&self, range: Range<u64>) -> (Range<u64>, u32) {
        let finished = self.earlier.iter().filter_map(|(&count, tasks)| {
            tasks.next_run(range.start, range.end).map(|run| (run, count))
        });
        let unfinished = self.attempts.next_run(range.clone());
        let unfinished = unfinished.map(|(run, attempts)| (run, attempts.ended()));
        match finished.chain(unfinished).min_by_key(|(run, _)| run.start) {
            Some((run, count)) if run.start == range.start => (run, count),
            Some((run, _)) => (range.start..run.start, 0),
            None => (range, 0),
        }
    }

    /// Walks the job and panics on a broken invariant.
    pub fn check_invariants(&self) {
        let mut sets: Vec<&TaskSet> = vec![&self.done];
        sets.extend(self.failed.values());
        for (at, set) in sets.iter().enumerate() {
            for other in &sets[at + 1..] {
                for run in set.runs(0..self.task_count) {
                    let free = outside(run.clone(), &[other]);
                    assert_eq!(free, vec![run], "a task has two outcomes");
                }
            }
        }
        assert!(self.finished_count() <= self.task_count, "more outcomes than tasks");
        self.segments.check_invariants();
        assert!(self.next_grant <= self.task_count, "more granted than there are tasks");
        for (run, _) in self.attempts.iter() {
            let unfinished = self.unfinished(run.clone());
            assert_eq!(unfinished, vec![run], "attempts are kept for unfinished tasks only");
        }
    }
}

/// What becomes of tasks after a report.
enum Decision {
    /// After so many earlier attempts.
    Done(u32),
    /// After so many earlier attempts.
    Failed(Failure, u32),
    /// To be dealt again, with what is remembered of them where that changed.
    Again(Option<Attempts>),
}

/// Notes how many attempts finished tasks had before the one that counts.
fn remember(earlier: &mut BTreeMap<u32, TaskSet>, tasks: Range<u64>, count: u32) {
    if count > 0 {
        earlier.entry(count).or_default().insert(tasks);
    }
}

/// A run with a verdict, as it travels.
#[must_use]
pub fn verdict_run(job: JobId, tasks: &Range<u64>, attempt: u64, verdict: Verdict) -> TaskRun {
    TaskRun {
        job_uuid: job.to_wire(),
        first_task: tasks.start,
        task_count: tasks.end - tasks.start,
        attempt,
        state: verdict.to_wire(),
    }
}

#[cfg(test)]
mod tests;
