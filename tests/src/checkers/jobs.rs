//! What the masters' states and the clients' answers say of jobs: an accepted submission stays
//! (invariant 1) and has one effect however often it was sent (11), a task's outcome is the one
//! that it had and never changes (2), a job's state never goes back (3), and masters that applied
//! equally much are equal (10).

use std::collections::BTreeMap;
use std::ops::Range;

use ::client::logic::answers::JobSummary;
use ::master::logic::cluster::Cluster;
use ::master::logic::jobs::Job;
use consensus::StateMachine;
use proto::ids::{JobId, NodeId, TaskIndex};
use proto::status::{Cause, JobState};

use crate::checkers::{Violation, check};
use crate::process::jobs::JobPlan;
use crate::process::keys::KEYS;

/// A job as it was asked for and what is known of it.
#[derive(Debug)]
struct Known {
    task_count: u64,
    /// Exit code of each task.
    expected: Vec<i32>,
    /// Whether a client cancels it.
    may_be_cancelled: bool,
    /// Whether a client has it forgotten when it is final.
    may_be_forgotten: bool,
    /// Whether a client was told that it is final.
    is_told_final: bool,
    /// The first applied index at which a master had forgotten it.
    forgotten: Option<u64>,
    /// Log index of its entry, once a master had it.
    entry: Option<u64>,
    /// Whether a client was told that it is accepted.
    is_accepted: bool,
    /// The newest state that any master showed: as of this index, with these outcomes.
    newest: u64,
    state: JobState,
    has_outcome: Vec<bool>,
    outcome_count: u64,
}

impl Known {
    /// Whether a state in which the job's entry has this index, or which has no such job, may
    /// follow or precede what was seen: once forgotten it is gone.
    fn stays(&mut self, applied: u64, found: Option<u64>) -> bool {
        if found.is_some() {
            return found == self.entry && self.forgotten.is_none_or(|at| applied < at);
        }
        let may_be_gone = self.may_be_forgotten && (self.is_told_final || rank(self.state) == 2);
        if may_be_gone {
            self.forgotten = Some(self.forgotten.map_or(applied, |at| at.min(applied)));
        }
        may_be_gone
    }

    fn failed_count(&self) -> u64 {
        self.expected.iter().filter(|&&code| code != 0).count() as u64
    }

    fn final_state(&self) -> JobState {
        if self.failed_count() == 0 { JobState::Done } else { JobState::Failed }
    }
}

/// What a client was told of a job.
#[derive(Clone, Copy, Debug)]
struct Telling {
    /// As of which log index.
    index: u64,
    state: JobState,
    /// Tasks done and failed.
    counts: (u64, u64),
}

/// The jobs of a run.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    jobs: BTreeMap<JobId, Known>,
    digests: BTreeMap<u64, [u8; 32]>,
    /// The numbers that the masters had, by key and applied index.
    numbers: BTreeMap<(Vec<u8>, u64), u64>,
    /// Log index of the entry that wrote a number to a key.
    versions: BTreeMap<(Vec<u8>, u64), u64>,
    /// Outcomes that a master had of a job when it was last looked through.
    looked: BTreeMap<(usize, JobId), (u64, JobState, usize)>,
    /// What each client was told last.
    told: BTreeMap<(NodeId, JobId), Telling>,
}

fn rank(state: JobState) -> u8 {
    match state {
        JobState::Queued => 0,
        JobState::Running => 1,
        _ => 2,
    }
}

/// Whether a state may follow another.
fn follows(before: JobState, after: JobState) -> bool {
    before == after || rank(before) < rank(after)
}

impl Jobs {
    /// A client will ask for this job.
    pub(crate) fn planned(&mut self, plan: &JobPlan) {
        let expected: Vec<i32> =
            (0..plan.task_count).map(|task| plan.noop.outcome(TaskIndex(task)).exit_code).collect();
        let known = Known {
            task_count: plan.task_count,
            has_outcome: vec![false; expected.len()],
            outcome_count: 0,
            expected,
            may_be_cancelled: plan.cancel_after.is_some(),
            may_be_forgotten: plan.is_forgotten,
            is_told_final: false,
            forgotten: None,
            entry: None,
            is_accepted: false,
            newest: 0,
            state: JobState::Queued,
        };
        self.jobs.insert(plan.job, known);
    }

    /// A master starts again from its disk.
    pub(crate) fn started(&mut self, master: usize) {
        self.looked.retain(|(at, _), _| *at != master);
    }

    /// A master has this state.
    pub(crate) fn state(&mut self, master: usize, cluster: &Cluster) -> Result<(), Violation> {
        let applied = cluster.applied.0;
        let digest = cluster.digest();
        let known = *self.digests.entry(applied).or_insert(digest);
        check(known == digest, "invariant 10: equal applied index, equal state", || {
            format!("the state of master {master} at {applied} differs from that of others")
        })?;
        let is_asked = |job: &JobId| self.jobs.contains_key(job) || cluster.folds.is_task(*job);
        check(
            cluster.jobs.keys().all(is_asked),
            "the masters have only jobs that were submitted",
            || format!("master {master} at {applied}"),
        )?;
        self.numbers(applied, cluster)?;
        for (id, known) in &mut self.jobs {
            let found = cluster.jobs.get(id);
            if let Some(entry) = known.entry
                && entry <= applied
            {
                let index = found.map(|job| job.index.0);
                let is_kept = known.stays(applied, index);
                check(
                    is_kept,
                    "invariants 1 and 11: a committed job stays, with one entry",
                    || format!("job {id} of entry {entry}: master {master} has {index:?}"),
                )?;
            }
            let Some(job) = found else { continue };
            known.entry.get_or_insert(job.index.0);
            let look = (job.finished_count(), job.state, job.segments.len());
            if self.looked.insert((master, *id), look) != Some(look) {
                known.compare(*id, applied, job)?;
            }
        }
        Ok(())
    }

    /// Each key is written by one client, with ever higher numbers.
    fn numbers(&mut self, applied: u64, cluster: &Cluster) -> Result<(), Violation> {
        for (key, value) in cluster.keyspace.range(KEYS, b"") {
            let number = String::from_utf8_lossy(&value.bytes).parse().unwrap_or(u64::MAX);
            let of_key = |from: u64, to: u64| (key.to_vec(), from)..(key.to_vec(), to);
            let before = self.numbers.range(of_key(0, applied)).next_back();
            let after = self.numbers.range(of_key(applied, u64::MAX)).next();
            let is_higher = before.is_none_or(|(_, before)| *before <= number)
                && after.is_none_or(|(_, after)| number <= *after);
            let promise = "invariant 11: a retried request has the effect of one request";
            check(is_higher, promise, || {
                let key = String::from_utf8_lossy(key);
                format!("{key} is {number} at {applied}, {before:?} before, {after:?} later")
            })?;
            self.numbers.insert((key.to_vec(), applied), number);
            let version = value.version.0;
            let known = *self.versions.entry((key.to_vec(), number)).or_insert(version);
            check(known == version, promise, || {
                let key = String::from_utf8_lossy(key);
                format!("{number} was written to {key} at {known} and at {version}")
            })?;
        }
        Ok(())
    }

    /// A client was told that its job is committed.
    pub(crate) fn accepted(&mut self, job: JobId, index: u64) -> Result<bool, Violation> {
        let known = self.jobs.get_mut(&job);
        check(
            known.as_ref().is_some_and(|known| known.entry == Some(index)),
            "invariants 1 and 11: what is acknowledged is committed, once",
            || {
                let entry = known.as_ref().map(|known| known.entry);
                format!("job {job} was acknowledged at {index}, the masters know {entry:?}")
            },
        )?;
        Ok(known.is_some_and(|known| !std::mem::replace(&mut known.is_accepted, true)))
    }

    /// A client was told a job's state.
    pub(crate) fn told(&mut self, client: NodeId, summary: &JobSummary) -> Result<(), Violation> {
        let JobSummary { job, state, index, .. } = *summary;
        let counts = (summary.done_count, summary.failed_count);
        let before = self.told.insert((client, job), Telling { index: index.0, state, counts });
        check(
            before.is_none_or(|before| {
                let is_same = rank(before.state) < 2 || before.counts == counts;
                before.index <= index.0 && follows(before.state, state) && is_same
            }),
            "invariant 3: a client never sees a job's state go back",
            || format!("job {job}: {before:?}, then {state:?} at {index}"),
        )?;
        let Some(known) = self.jobs.get_mut(&job) else { return Ok(()) };
        known.is_told_final |= rank(state) == 2;
        let failed = known.failed_count();
        let is_cancelled = state == JobState::Cancelled && known.may_be_cancelled;
        check(
            rank(state) < 2
                || is_cancelled
                || (state, counts) == (known.final_state(), (known.task_count - failed, failed)),
            "a final job counts what its tasks did",
            || format!("{summary:?}, but {failed} tasks fail"),
        )
    }

    /// Outcomes of tasks, and jobs in a final state, as the newest state of a master has them.
    pub(crate) fn recorded(&self) -> u64 {
        let of_job = |known: &Known| known.outcome_count + u64::from(rank(known.state) == 2);
        self.jobs.values().map(of_job).sum()
    }

    /// Jobs that a client was told are accepted and that no master shows as final; each with its
    /// first task without outcome.
    pub(crate) fn unfinished(&self) -> Vec<(JobId, TaskIndex)> {
        let jobs = self.jobs.iter();
        jobs.filter(|(_, known)| rank(known.state) < 2)
            .map(|(&job, known)| {
                let task = known.has_outcome.iter().position(|has| !has).unwrap_or(0);
                (job, TaskIndex(task as u64))
            })
            .collect()
    }
}

impl Known {
    /// Compares what a master has of the job as of `applied` with what others had.
    fn compare(&mut self, id: JobId, applied: u64, job: &Job) -> Result<(), Violation> {
        let mut found = vec![false; self.expected.len()];
        let mut sets = vec![(0, Cause::None, &job.done)];
        sets.extend(job.failed.iter().map(|(how, set)| (how.exit_code, how.cause, set)));
        for (exit_code, cause, set) in sets {
            let mut from = 0;
            while let Some(Range { start, end }) = set.next_run(from, self.task_count) {
                let run = start as usize..end as usize;
                let tasks = self.expected[run.clone()].iter().zip(&mut found[run]);
                for (task, (&expected, is_found)) in (start..).zip(tasks) {
                    check(
                        exit_code == expected && cause == Cause::None,
                        "invariant 2: a recorded outcome is what the task did",
                        || {
                            let seen = format!("{exit_code} {cause:?}, not {expected}");
                            format!("task {task} of job {id} at {applied}: {seen}")
                        },
                    )?;
                    *is_found = true;
                }
                from = end;
            }
        }
        let mut named = vec![false; found.len()];
        for range in job.segments.iter().flat_map(|segment| &segment.tasks) {
            for task in range.clone() {
                let before = std::mem::replace(&mut named[task as usize], true);
                let promise = "invariant 2: a task's result is recorded exactly once";
                check(!before && found[task as usize], promise, || {
                    format!("task {task} of job {id} at {applied}: two segments have it, or none")
                })?;
            }
        }
        let is_newer = applied >= self.newest;
        let (old, new) =
            if is_newer { (&self.has_outcome, &found) } else { (&found, &self.has_outcome) };
        let gone = (0..found.len()).find(|&task| old[task] && !new[task]);
        check(gone.is_none(), "invariant 2: a task keeps its outcome", || {
            format!("task {gone:?} of job {id} has none at {applied}, or had one too early")
        })?;
        let (before, after) =
            if is_newer { (self.state, job.state) } else { (job.state, self.state) };
        check(follows(before, after), "invariant 3: a job's state never goes back", || {
            format!("job {id}: {before:?}, then {after:?}, around {applied}")
        })?;
        let is_closed = rank(before) < 2 || old == new;
        check(is_closed, "invariant 3: what was read of a final job stays so", || {
            format!("job {id} is {before:?}, and outcomes of it change around {applied}")
        })?;
        let ends = [Some(self.final_state()), self.may_be_cancelled.then_some(JobState::Cancelled)];
        let is_settled = rank(job.state) < 2 || ends.contains(&Some(job.state));
        check(is_settled, "a job ends as its tasks did", || {
            format!("job {id} is {:?} at {applied}", job.state)
        })?;
        if is_newer {
            (self.newest, self.state, self.has_outcome) = (applied, job.state, found);
            self.outcome_count = job.finished_count();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ::master::logic::submissions::Resolved;
    use ::master::logic::tasks::TaskSet;
    use proto::description::{JobDescription, Noop, Runtime};
    use proto::ids::LogIndex;
    use proto::time::Duration;

    use super::*;

    fn plan() -> JobPlan {
        let (job, noop) = (JobId(1), Noop::default());
        let after = Duration::ZERO;
        JobPlan { is_forgotten: true, ..JobPlan::new(job, after, noop, 10) }
    }

    fn empty(applied: u64) -> Cluster {
        let mut cluster = Cluster::default();
        cluster.applied = LogIndex(applied);
        cluster
    }

    fn cluster(applied: u64, done: Range<u64>, state: JobState) -> Cluster {
        let description = JobDescription::new(Runtime::Noop(Noop::default()));
        let resolved = Resolved { record: Vec::new().into(), task_count: 10, description };
        let mut job = Job::new(resolved, [0; 32], LogIndex(1), 0);
        let mut set = TaskSet::default();
        set.insert(done);
        (job.done, job.state) = (set, state);
        let mut cluster = empty(applied);
        cluster.jobs.insert(JobId(1), job.into());
        cluster
    }

    fn jobs() -> Jobs {
        let mut jobs = Jobs::default();
        jobs.planned(&plan());
        jobs.state(0, &cluster(5, 0..5, JobState::Running)).unwrap();
        jobs
    }

    #[test]
    fn what_goes_on_is_fine() {
        let mut jobs = jobs();
        jobs.state(1, &cluster(4, 0..3, JobState::Running)).unwrap();
        jobs.state(1, &cluster(9, 0..10, JobState::Done)).unwrap();
        assert_eq!(jobs.accepted(JobId(1), 1), Ok(true));
        assert!(jobs.unfinished().is_empty());
        jobs.state(1, &empty(12)).unwrap();
        jobs.state(0, &cluster(11, 0..10, JobState::Done)).unwrap();
    }

    #[test]
    fn differing_masters_lost_outcomes_lost_jobs_and_states_that_go_back_are_found() {
        assert!(jobs().state(1, &cluster(5, 0..6, JobState::Running)).is_err());
        assert!(jobs().state(1, &cluster(6, 0..4, JobState::Running)).is_err());
        assert!(jobs().state(1, &cluster(4, 0..6, JobState::Running)).is_err());
        assert!(jobs().state(1, &cluster(6, 0..6, JobState::Queued)).is_err());
        assert!(jobs().state(1, &cluster(6, 0..10, JobState::Failed)).is_err());
        assert!(jobs().state(1, &empty(6)).is_err(), "it was not final when it was forgotten");
        let mut jobs_over = jobs();
        jobs_over.state(1, &cluster(9, 0..10, JobState::Done)).unwrap();
        jobs_over.state(1, &empty(12)).unwrap();
        assert!(jobs_over.state(0, &cluster(13, 0..10, JobState::Done)).is_err(), "it came back");
        assert!(jobs().accepted(JobId(1), 2).is_err());
    }
}
