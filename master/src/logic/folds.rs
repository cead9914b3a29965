//! Folds: where a job has many segments, they are packed into one by a task of the masters' own.
//!
//! Everything here is part of the replicated state and changes only inside `apply`. A fold marks
//! the segments that it replaces and makes an internal job of one task, which is granted and dealt
//! as any other, to whichever worker. What that worker stored takes the place of the marked segments
//! in one entry, which has no effect where they are no longer listed. An internal job has no place
//! among the jobs of users, and whatever becomes of its task, theirs goes on. Deliberately not here:
//! how segments are packed.

pub mod patience;

use std::sync::Arc;

use imbl::OrdMap;
use proto::description::{JobDescription, Runtime};
use proto::digest::Digest;
use proto::ids::{FileId, JobId, LogIndex};
use proto::messages::job::JobSubmit;
use proto::record::encode;
use proto::status::{BlockKind, ErrorCode, ProgramKind};
use serde::{Deserialize, Serialize};

use super::cluster::Cluster;
use super::commands::Output;
use super::jobs::Job;
use super::segments::FULL;
use super::submissions::{Resolved, digest};

/// Segments of one level of a job that are folded. A worker reads them once, four MiB at a time;
/// a job of 10^7 tasks that print a line makes about two thousand.
const FOLD_AT: u64 = 1_024;

/// Listed segments of all jobs at which workers are slowed down while a fold is under way. A
/// segment with its ranges takes a few hundred bytes of each master, so this is some 20 MiB.
const LISTED: u64 = 65_536;

/// Where half of that is listed, so many of one level are worth a fold (eyeballed).
const WORTH_WHILE: u64 = 16;

/// Folds that may be planned for no other reason (eyeballed).
const PRESSED: usize = 8;

/// How long a fold rests that came to nothing, in microseconds of log time; twice as long each
/// time.
const FIRST_REST_US: u64 = 10_000_000;

/// How long it rests at most.
const LONGEST_REST_US: u64 = 600_000_000;

/// The key whose value takes the place of [`FOLD_AT`], in decimal digits.
pub const FOLD_AT_KEY: &[u8] = b"setting/fold_segments";

/// The key whose value takes the place of [`LISTED`], in decimal digits.
pub const LISTED_KEY: &[u8] = b"setting/listed_segments";

/// A fold that is not over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fold {
    /// The level of the segments that it replaces.
    pub level: u8,
    /// How many they are.
    pub segment_count: u64,
    /// Internal jobs that came to nothing.
    pub failures: u32,
    /// The internal job; `None` while the fold rests.
    pub task: Option<JobId>,
    /// Log time until which it rests.
    pub rests_until_us: u64,
}

/// All folds. Part of the replicated state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Folds {
    /// By job and number.
    folds: OrdMap<(JobId, u64), Fold>,
    /// Internal jobs, with the fold that each belongs to, whether that is over or not.
    tasks: OrdMap<JobId, (JobId, u64)>,
    /// Folds that rest, by the time until which they do.
    resting: OrdMap<(u64, JobId, u64), ()>,
    /// Levels of jobs by the number of segments that no fold has, where it is two or more.
    foldable: OrdMap<(u64, JobId, u8), ()>,
    /// Segments listed for all jobs.
    listed: u64,
    last_number: u64,
}

impl Folds {
    /// True for an internal job.
    #[must_use]
    pub fn is_task(&self, job: JobId) -> bool {
        self.tasks.contains_key(&job)
    }

    /// Number of internal jobs.
    #[must_use]
    pub fn task_count(&self) -> usize {
        self.tasks.len()
    }

    /// Segments listed for all jobs.
    #[must_use]
    pub fn listed(&self) -> u64 {
        self.listed
    }

    /// A fold that is not over.
    #[must_use]
    pub fn get(&self, job: JobId, number: u64) -> Option<&Fold> {
        self.folds.get(&(job, number))
    }

    /// The folds that are not over.
    pub fn iter(&self) -> impl Iterator<Item = (JobId, u64, &Fold)> {
        self.folds.iter().map(|(&(job, number), fold)| (job, number, fold))
    }

    /// Forgets what is known of the segments of a job; `add` undoes it.
    fn remove(&mut self, id: JobId, job: &Job) {
        self.listed = self.listed.saturating_sub(job.segments.len() as u64);
        for (level, count) in job.segments.free_levels() {
            self.foldable.remove(&(count, id, level));
        }
    }

    fn add(&mut self, id: JobId, job: &Job) {
        self.listed += job.segments.len() as u64;
        for (level, count) in job.segments.free_levels() {
            if count >= 2 && level != FULL {
                self.foldable.insert((count, id, level), ());
            }
        }
    }
}

impl Cluster {
    fn setting(&self, key: &[u8], default: u64) -> u64 {
        let value = self.keyspace.get(key).and_then(|value| str::from_utf8(&value.bytes).ok());
        value.and_then(|text| text.trim().parse().ok()).unwrap_or(default)
    }

    fn fold_at(&self) -> u64 {
        // More than the default would be more than a worker is built for.
        self.setting(FOLD_AT_KEY, FOLD_AT).clamp(2, FOLD_AT)
    }

    fn listed_limit(&self) -> u64 {
        self.setting(LISTED_KEY, LISTED).max(2)
    }

    /// False where segments are to wait: many are listed and a fold that makes them fewer is under
    /// way. Where none is, waiting would help nobody. How long they wait is bounded by
    /// [`Patience`](patience::Patience).
    #[must_use]
    pub fn has_room_for_segments(&self) -> bool {
        let is_folding = || self.folds.folds.values().any(|fold| fold.task.is_some());
        self.folds.listed < self.listed_limit() || !is_folding()
    }

    /// Changes a job in a way that may add segments.
    pub(super) fn with_segments<R>(&mut self, id: JobId, change: impl FnOnce(&mut Job) -> R) -> R
    where
        R: Default,
    {
        let Some(job) = self.jobs.get_mut(&id) else { return R::default() };
        let job = Arc::make_mut(job);
        let before = job.segments.len();
        let free: Vec<(u8, u64)> = job.segments.free_levels().collect();
        let result = change(job);
        if job.segments.len() != before {
            let folds = &mut self.folds;
            folds.listed -= before as u64;
            for (level, count) in free {
                folds.foldable.remove(&(count, id, level));
            }
            folds.add(id, job);
        }
        result
    }

    /// Begins the folds for which there are segments enough, and those that have rested.
    pub(super) fn begin_folds(&mut self, changed: &[JobId], index: LogIndex, log_time_us: u64) {
        let fold_at = self.fold_at();
        for &id in changed {
            let Some(job) = self.jobs.get(&id) else { continue };
            let enough = |&(level, count): &(u8, u64)| level != FULL && count >= fold_at;
            let levels: Vec<(u8, u64)> = job.segments.free_levels().filter(enough).collect();
            for (level, _) in levels {
                self.begin_fold(id, level, fold_at, index, log_time_us);
            }
        }
        while let Some(&((until_us, id, number), ())) = self.folds.resting.get_min()
            && until_us <= log_time_us
        {
            self.folds.resting.remove(&(until_us, id, number));
            self.begin_task(id, number, index, log_time_us);
        }
        while self.folds.listed >= self.listed_limit() / 2
            && self.folds.folds.len() < PRESSED
            && let Some(&((count, id, level), ())) = self.folds.foldable.get_max()
            && count >= WORTH_WHILE.min(fold_at)
        {
            self.begin_fold(id, level, fold_at, index, log_time_us);
        }
    }

    fn begin_fold(&mut self, id: JobId, level: u8, limit: u64, index: LogIndex, log_time_us: u64) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        self.folds.remove(id, job);
        self.folds.last_number += 1;
        let number = self.folds.last_number;
        let job = Arc::make_mut(job);
        let segment_count = job.segments.begin_fold(number, level, limit);
        self.folds.add(id, job);
        let fold = Fold { level, segment_count, failures: 0, task: None, rests_until_us: 0 };
        self.folds.folds.insert((id, number), fold);
        self.begin_task(id, number, index, log_time_us);
    }

    /// Makes the internal job of a fold.
    fn begin_task(&mut self, id: JobId, number: u64, index: LogIndex, log_time_us: u64) {
        let Some(fold) = self.folds.folds.get_mut(&(id, number)) else { return };
        let (task, resolved) = internal_job(id, number, fold.failures);
        if self.jobs.contains_key(&task) {
            // Somebody took the UUID for a job of their own.
            return self.rest(id, number, log_time_us);
        }
        fold.task = Some(task);
        self.folds.tasks.insert(task, (id, number));
        let submitted = digest(&resolved.record);
        self.jobs.insert(task, Arc::new(Job::new(resolved, submitted, index, log_time_us)));
        self.grant_more(task, index);
    }

    fn rest(&mut self, id: JobId, number: u64, log_time_us: u64) {
        let Some(fold) = self.folds.folds.get_mut(&(id, number)) else { return };
        let rest_us = FIRST_REST_US.saturating_mul(1 << fold.failures.min(16));
        let until_us = log_time_us.saturating_add(rest_us.min(LONGEST_REST_US));
        fold.failures = fold.failures.saturating_add(1);
        fold.task = None;
        fold.rests_until_us = until_us;
        self.folds.resting.insert((until_us, id, number), ());
    }

    /// An internal job has its outcome: it is forgotten. Where its fold is not over and nobody said
    /// before that it came to nothing, the fold rests and is tried again.
    pub(super) fn fold_task_ended(&mut self, task: JobId, log_time_us: u64) {
        self.jobs.remove(&task);
        let Some((id, number)) = self.folds.tasks.remove(&task) else { return };
        let fold = self.folds.folds.get(&(id, number));
        if fold.is_some_and(|fold| fold.task == Some(task)) {
            self.rest(id, number, log_time_us);
        }
    }

    /// A worker stored the segment that takes the place of the first `segment_count` of a fold; or
    /// it says with no file and none of them that the fold came to nothing. The outcome of its task
    /// may be late: it can wait behind a status frame for which there is no room.
    pub(super) fn end_fold(
        &mut self,
        id: JobId,
        number: u64,
        file: FileId,
        segment_count: u64,
        index: LogIndex,
        log_time_us: u64,
    ) -> Output {
        let Some(job) = self.jobs.get_mut(&id) else {
            return Output::refused(ErrorCode::NotFound, format!("there is no job {id}"));
        };
        let Some(fold) = self.folds.folds.get(&(id, number)) else {
            // The same was asked before, or by another worker with the same result.
            let is_listed = job.segments.iter().any(|segment| segment.file == file);
            return Output::Folded { index, is_listed };
        };
        if segment_count == 0 && file.is_nil() {
            if fold.task.is_some() {
                self.rest(id, number, log_time_us);
            }
            return Output::Folded { index, is_listed: false };
        }
        if segment_count == 0 || segment_count > fold.segment_count {
            let text = format!("fold {number} has {} segments", fold.segment_count);
            return Output::refused(ErrorCode::Invalid, text);
        }
        let is_whole = segment_count == fold.segment_count;
        let level = if is_whole { fold.level.saturating_add(1) } else { FULL };
        if fold.task.is_none() {
            self.folds.resting.remove(&(fold.rests_until_us, id, number));
        }
        self.folds.folds.remove(&(id, number));
        self.folds.remove(id, job);
        let job = Arc::make_mut(job);
        job.segments.end_fold(number, segment_count, file, level);
        self.folds.add(id, job);
        Output::Folded { index, is_listed: true }
    }

    /// A job is forgotten: so are its segments and folds. Called while the job is still there.
    pub(super) fn forget_folds(&mut self, id: JobId, index: LogIndex) {
        let Some(job) = self.jobs.get(&id) else { return };
        self.folds.remove(id, job);
        let of_job = self.folds.folds.range((id, 0)..=(id, u64::MAX));
        let over: Vec<(u64, Fold)> = of_job.map(|((_, it), fold)| (*it, fold.clone())).collect();
        for (number, fold) in over {
            self.folds.folds.remove(&(id, number));
            self.folds.resting.remove(&(fold.rests_until_us, id, number));
            if let Some(task) = fold.task {
                self.leave_feed(task, index);
                self.folds.tasks.remove(&task);
                self.jobs.remove(&task);
            }
        }
    }

    /// Walks the folds and panics on a broken invariant.
    pub(super) fn check_folds(&self) {
        let folds = &self.folds;
        let listed: usize = self.jobs.values().map(|job| job.segments.len()).sum();
        assert_eq!(listed as u64, folds.listed, "the count of listed segments");
        for (&(id, number), fold) in &folds.folds {
            let job = self.jobs.get(&id).expect("a fold has a job");
            assert_eq!(job.segments.count_of(number), fold.segment_count, "all are still listed");
            match fold.task {
                Some(task) => assert_eq!(folds.tasks.get(&task), Some(&(id, number))),
                None => {
                    let rests = (fold.rests_until_us, id, number);
                    assert!(folds.resting.contains_key(&rests), "a fold without a task rests");
                }
            }
        }
        assert!(folds.resting.len() <= folds.folds.len(), "what rests is a fold");
        for task in folds.tasks.keys() {
            let job = self.jobs.get(task).expect("an internal job is a job");
            assert!(!self.jobs_by_index.contains_key(&job.index) || !job.state.is_final());
        }
        for &(count, id, level) in folds.foldable.keys() {
            let job = self.jobs.get(&id).expect("what is foldable has a job");
            assert_eq!(job.segments.free_count(level), count, "the count of foldable segments");
        }
    }
}

/// The internal job of a fold, the first or one that follows a failure.
fn internal_job(id: JobId, number: u64, failures: u32) -> (JobId, Resolved) {
    let name = format!("fold {number} of job {id}");
    // A UUIDv8 of a digest: it is the same on every master, and nobody meets it by accident.
    let origin = format!("remuda: {name}, failures {failures}");
    let task = JobId(Digest::of(BlockKind::Content, origin.as_bytes()).file_id().0);
    let mut description = JobDescription::new(Runtime::Fold { job: id, fold: number });
    description.name = name;
    description.priority = i32::MAX;
    let encoded = description.encode().expect("a fold has a short description");
    let submit = JobSubmit {
        job_uuid: task.to_wire(),
        task_count: 1,
        program_kind: ProgramKind::Described.to_wire(),
        ..JobSubmit::default()
    };
    let record = encode(&submit, &[b"", b"", &encoded]).into();
    (task, Resolved { record, task_count: 1, description })
}

#[cfg(test)]
mod tests;
