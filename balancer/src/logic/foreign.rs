//! What a worker executes that is not of this group: another one dealt it before the worker was
//! moved here. It keeps slots, and to stop it is the other group's matter.
//!
//! That group may be gone, and the job may have ended before its range came here or this balancer
//! heard of it: then nobody else is left to say so. The masters are therefore asked once what became
//! of runs of jobs that are not known here, and what has its outcome, or whose job ended, is killed.

use std::collections::BTreeMap;
use std::ops::Range;

use node::logic::ranges::without;
use proto::ids::JobId;
use proto::messages::task::TaskRun;
use proto::status::TaskState;

use super::range_of;
use super::ranges::Ranges;
use super::tasks::run_of;

/// Tasks by job and attempt.
type Attempts = BTreeMap<(JobId, u64), Ranges>;

fn key(run: &TaskRun) -> (JobId, u64) {
    (run.job_uuid.into(), run.attempt)
}

/// The runs of one worker that are not of this group.
#[derive(Clone, Debug, Default)]
pub(super) struct Foreign {
    /// What it listed last.
    runs: Vec<TaskRun>,
    /// What of that the masters are to be asked about.
    unasked: Vec<TaskRun>,
    /// What had no outcome when the masters were asked: the group that dealt it is there, or its
    /// range comes here. That the job ended is in the feed then.
    open: Attempts,
    /// What has its outcome, or is of a job that ended.
    over: Attempts,
}

impl Foreign {
    /// Number of tasks.
    pub(super) fn task_count(&self) -> u64 {
        self.runs.iter().fold(0, |sum, run| sum.saturating_add(run.task_count))
    }

    /// What the masters said, without the runs, which the worker lists anew.
    pub(super) fn judged(&self) -> Foreign {
        Foreign { open: self.open.clone(), over: self.over.clone(), ..Foreign::default() }
    }

    /// The worker lists these. Returns those that it must kill.
    pub(super) fn list(
        &mut self,
        runs: Vec<TaskRun>,
        is_known: impl Fn(JobId) -> bool,
    ) -> Vec<TaskRun> {
        self.open = of_these(&self.open, &runs);
        self.over = of_these(&self.over, &runs);
        let unknown = runs.iter().filter(|run| !is_known(run.job_uuid.into()));
        self.unasked = unknown.flat_map(|run| self.unjudged(run)).collect();
        self.runs = runs;
        self.runs.iter().flat_map(|run| pieces(run, &within(&self.over, run))).collect()
    }

    /// The parts of a run of which the masters said nothing yet.
    fn unjudged(&self, run: &TaskRun) -> Vec<TaskRun> {
        let judged = [within(&self.open, run), within(&self.over, run)].concat();
        pieces(run, &without(range_of(run), &judged))
    }

    /// What the masters are to be asked about, at most `limit` runs.
    pub(super) fn questions(&self, limit: usize) -> Vec<TaskRun> {
        let returned = TaskState::Returned.to_wire();
        let asked = self.unasked.iter().take(limit);
        asked.map(|run| TaskRun { state: returned, ..*run }).collect()
    }

    /// True where there is something to ask.
    pub(super) fn has_questions(&self) -> bool {
        !self.unasked.is_empty()
    }

    /// Nothing is asked any more: the worker is silent.
    pub(super) fn drop_questions(&mut self) {
        self.unasked.clear();
    }

    /// The masters said what became of a run.
    pub(super) fn judge(&mut self, run: &TaskRun, is_over: bool) {
        let judged = if is_over { &mut self.over } else { &mut self.open };
        judged.entry(key(run)).or_default().insert(range_of(run));
        cut(&mut self.unasked, run);
    }

    /// The feed is read anew, which says nothing of jobs that ended: what had no outcome is asked
    /// about again.
    pub(super) fn doubt(&mut self) {
        self.open.clear();
    }

    /// A job ended. Returns what the worker must kill of it, at once and when it lists it again.
    pub(super) fn end_job(&mut self, job: JobId) -> Vec<TaskRun> {
        let of_job = |run: &&TaskRun| JobId::from(run.job_uuid) == job;
        let runs: Vec<TaskRun> = self.runs.iter().filter(of_job).copied().collect();
        runs.iter().for_each(|run| self.judge(run, true));
        runs
    }

    /// Tasks of the worker ended.
    pub(super) fn ended(&mut self, run: &TaskRun) {
        cut(&mut self.runs, run);
        cut(&mut self.unasked, run);
    }
}

/// The parts of a run that are among those judged.
fn within(judged: &Attempts, run: &TaskRun) -> Vec<Range<u64>> {
    judged.get(&key(run)).map_or_else(Vec::new, |ranges| ranges.within(&range_of(run)))
}

/// What was judged of these runs.
fn of_these(judged: &Attempts, runs: &[TaskRun]) -> Attempts {
    let mut kept = Attempts::new();
    for run in runs {
        for piece in within(judged, run) {
            kept.entry(key(run)).or_default().insert(piece);
        }
    }
    kept
}

/// Parts of a run as runs.
fn pieces(run: &TaskRun, parts: &[Range<u64>]) -> Vec<TaskRun> {
    let (job, attempt) = key(run);
    parts.iter().map(|tasks| run_of(job, tasks, attempt)).collect()
}

/// Takes the tasks of `run` out of runs of the same attempt.
fn cut(runs: &mut Vec<TaskRun>, run: &TaskRun) {
    let rest = |known: TaskRun| match key(&known) == key(run) {
        false => vec![known],
        true => pieces(&known, &without(range_of(&known), &[range_of(run)])),
    };
    *runs = std::mem::take(runs).into_iter().flat_map(rest).collect();
}
