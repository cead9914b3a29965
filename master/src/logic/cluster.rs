//! The replicated state and the table of contents of `apply`.
//!
//! Pure: it changes only by commands in the order of the log, uses nothing but its arguments, and
//! is therefore the same on every master that applied the same entries (invariant 10). Soft state
//! that only serves waiting askers lives in `replies.rs`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use imbl::OrdMap;
use proto::ids::{JobId, LogIndex};
use proto::status::{ErrorCode, JobState, Role};
use serde::{Deserialize, Serialize};

use super::commands::{AnsweredRun, Asker, ClientChange, Command, Output, ReportedSegment};
use super::folds::Folds;
pub use super::grants::FeedEntry;
use super::grants::Grants;
use super::jobs::{Job, ReportedRun};
use super::keyspace::Keyspace;
use super::nodes::{Nodes, Registration};
use super::retention::{ENTRY_JOBS, REMEMBERED_JOBS, Retention};
use super::ring::Rings;
use super::sessions::{Admission, Sessions};
use super::submissions::{Submission, digest};

/// Jobs that may be listed. Above it a submission is answered busy.
const LISTED_JOBS: usize = 200_000;

/// Everything that the masters own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// Jobs by UUID.
    pub jobs: OrdMap<JobId, Arc<Job>>,
    /// Jobs in the order of submission.
    pub jobs_by_index: OrdMap<LogIndex, JobId>,
    /// What the groups deal.
    pub grants: Grants,
    /// Jobs whose tasks are treated otherwise than they were granted, in the order of the log; each
    /// unfinished job at most once.
    pub(super) changed: OrdMap<(LogIndex, JobId), ()>,
    /// Jobs that ended, in the order of the log; bounded.
    pub(super) ended: OrdMap<(LogIndex, JobId), ()>,
    /// A reader of the feed that has nothing behind this index must start anew.
    pub(super) feed_floor: LogIndex,
    /// Newest index of anything in the feed.
    pub(super) feed_index: LogIndex,
    /// Roster, groups.
    pub nodes: Nodes,
    /// The ring of storage nodes.
    pub rings: Rings,
    /// Names and small values.
    pub keyspace: Keyspace,
    /// Request windows of clients.
    pub sessions: Sessions,
    /// Jobs that are or were finished, by age.
    pub retention: Retention,
    /// Segments that are packed into one, and the masters' own jobs that do it.
    pub folds: Folds,
    /// Log index of the last applied command.
    pub applied: LogIndex,
}

impl Cluster {
    /// Applies one entry.
    pub fn apply(&mut self, index: LogIndex, log_time_us: u64, command: Command) -> Output {
        self.applied = index;
        match command {
            Command::Client(asker, change) => self.apply_client(asker, change, index, log_time_us),
            Command::Register(registration) => self.register(registration, index),
            Command::Complete { worker, incarnation, frame, runs, segments } => {
                let known = self.nodes.nodes.get(&worker).cloned();
                if let Some(node) = &known
                    && node.registration.incarnation == incarnation
                    && frame <= node.last_frame
                {
                    return match &node.frame_reply {
                        Some(reply) if frame == node.last_frame => reply.clone(),
                        _ => Output::refused(
                            ErrorCode::TooOld,
                            format!("status frame {frame} was followed by {}", node.last_frame),
                        ),
                    };
                }
                let (again, refused) = self.record_runs(&runs, index, log_time_us);
                let mut changed = self.add_segments(segments);
                changed.extend(runs.iter().filter(|it| !it.segment.is_nil()).map(|it| it.job));
                self.begin_folds(&changed, index, log_time_us);
                let reply = Output::Runs { index, again, refused };
                if let Some(mut node) = known
                    && node.registration.incarnation == incarnation
                {
                    node.last_frame = frame;
                    node.frame_reply = Some(reply.clone());
                    self.nodes.nodes.insert(worker, node);
                }
                reply
            }
            Command::LeaseExpired { group, epoch, successor, incarnation } => {
                self.nodes.expire_lease(group, epoch, (successor, incarnation), index);
                Output::Noted
            }
            Command::AuxiliaryNoted { group, epoch, incarnation, is_in_step } => {
                self.nodes.note_auxiliary(group, epoch, incarnation, is_in_step);
                Output::Noted
            }
            Command::SeatVacated { group, epoch, node, incarnation } => {
                self.nodes.vacate_seat(group, epoch, (node, incarnation));
                Output::Noted
            }
            Command::GroupLost { group, epoch, heir } => {
                self.lose_group(group, epoch, heir, index);
                Output::Noted
            }
            Command::WorkersSilent { group, epoch, workers } => {
                self.nodes.silence(group, epoch, &workers);
                self.grant_more_of_all(index);
                Output::Noted
            }
            Command::WorkersMoved { moves } => {
                self.nodes.move_workers(&moves, index);
                self.grant_more_of_all(index);
                Output::Noted
            }
            Command::RunsLost { runs } => {
                let (again, refused) = self.record_runs(&runs, index, log_time_us);
                Output::Runs { index, again, refused }
            }
            Command::RingPassed { passes } => {
                self.rings.pass(&passes);
                Output::Noted
            }
            Command::RingRemoved { nodes } => {
                self.rings.remove_silent(&nodes);
                Output::Noted
            }
            Command::RingReturned { nodes } => {
                self.rings.take_back(&nodes);
                Output::Noted
            }
            Command::RegistersActivated { moves } => {
                self.rings.activate(&moves);
                Output::RegistersActivated { index }
            }
            Command::Retain => {
                let due = self.retention.take_due(log_time_us);
                due.iter().for_each(|(job, _)| self.forget(*job, log_time_us));
                Output::Retained { is_more: due.len() >= ENTRY_JOBS }
            }
        }
    }

    fn register(&mut self, registration: Registration, index: LogIndex) -> Output {
        let before = self.nodes.ready_groups();
        let known = self.nodes.nodes.get(&registration.node).map(|node| node.registration.clone());
        let storage = Some(registration.clone()).filter(|it| it.role == Role::Storage);
        let output = self.nodes.register(registration, index);
        if let (Output::Registered { .. }, Some(storage)) = (&output, storage) {
            self.rings.register(&storage, known.as_ref());
        }
        if self.nodes.ready_groups() > before {
            self.grant_more_of_all(index);
        }
        output
    }

    fn apply_client(
        &mut self,
        asker: Asker,
        change: ClientChange,
        index: LogIndex,
        log_time_us: u64,
    ) -> Output {
        // A job's UUID makes a submission idempotent for ever, its number only for a window.
        let reply = match self.sessions.admit(&asker) {
            Admission::Known(reply) => return reply,
            Admission::TooOld(refusal) if !matches!(change, ClientChange::Submit { .. }) => {
                return refusal;
            }
            Admission::TooOld(_) | Admission::New => match change {
                ClientChange::Submit { job, record } => {
                    self.submit(job, &record, index, log_time_us)
                }
                ClientChange::Cancel { job } => self.cancel(job, index, log_time_us),
                ClientChange::Change { job, change } => {
                    self.change(job, change, index, log_time_us)
                }
                ClientChange::Transaction { compares, writes } => {
                    self.keyspace.transact(&compares, writes, index)
                }
                ClientChange::Fold { worker, incarnation, .. }
                    if !self.nodes.is_worker(worker, incarnation) =>
                {
                    let text = "segments are folded by registered workers only";
                    Output::refused(ErrorCode::NotAllowed, text)
                }
                ClientChange::Fold { job, fold, file, segment_count, .. } => {
                    let output = self.end_fold(job, fold, file, segment_count, index, log_time_us);
                    self.begin_folds(&[job], index, log_time_us);
                    output
                }
                ClientChange::ForgetNode { node, incarnation } => {
                    let bond = self.rings.bond(node);
                    let output = self.nodes.forget(node, incarnation, bond, index);
                    if matches!(output, Output::NodeForgotten { .. }) {
                        self.rings.forget(node);
                    }
                    self.grant_more_of_all(index);
                    output
                }
                ClientChange::Ring { change, is_forced } => {
                    match self.rings.change(&change, is_forced) {
                        Ok(()) => Output::RingChanged { version: self.rings.newest(), index },
                        Err(refusal) => refusal,
                    }
                }
            },
        };
        self.sessions.remember(&asker, reply.clone(), index, log_time_us);
        reply
    }

    fn submit(&mut self, id: JobId, record: &[u8], index: LogIndex, log_time_us: u64) -> Output {
        if let Some(job) = self.jobs.get(&id) {
            return if job.submitted == digest(record) {
                Output::Accepted { job: id, index: job.index }
            } else {
                Output::refused(
                    ErrorCode::JobDiffers,
                    format!(
                        "job {id} exists with another content: \
                         give the new job a UUID of its own, or submit exactly the same again"
                    ),
                )
            };
        }
        if self.retention.is_forgotten(id) {
            return self.no_job(id);
        }
        let submission = match Submission::check(record) {
            Ok(submission) => submission,
            Err(refusal) => return refusal,
        };
        if self.jobs.len() >= LISTED_JOBS {
            return Output::refused(
                ErrorCode::Busy,
                format!(
                    "{LISTED_JOBS} jobs are listed: wait until some are forgotten, or have \
                     finished ones forgotten with `remuda forget JOB`"
                ),
            );
        }
        if self.retention.is_full() {
            return Output::refused(
                ErrorCode::Busy,
                format!(
                    "{REMEMBERED_JOBS} jobs were forgotten within the last days, and no more can \
                     be remembered"
                ),
            );
        }
        let resolved = match submission.resolve(&self.keyspace) {
            Ok(resolved) => resolved,
            Err(refusal) => return refusal,
        };
        let job = Job::new(resolved, digest(record), index, log_time_us);
        self.jobs.insert(id, Arc::new(job));
        self.jobs_by_index.insert(index, id);
        self.grant_more(id, index);
        Output::Accepted { job: id, index }
    }

    fn cancel(&mut self, id: JobId, index: LogIndex, log_time_us: u64) -> Output {
        let is_task = self.folds.is_task(id);
        let Some(job) = self.jobs.get_mut(&id).filter(|_| !is_task) else {
            return self.no_job(id);
        };
        if !job.state.is_final() {
            Arc::make_mut(job).end(JobState::Cancelled, log_time_us);
            self.leave_feed(id, index);
        }
        Output::Cancelled { job: id }
    }

    /// Records reported runs; returns those that must be dealt again, and those that had their
    /// outcome before.
    fn record_runs(
        &mut self,
        runs: &[ReportedRun],
        index: LogIndex,
        log_time_us: u64,
    ) -> (Vec<AnsweredRun>, Vec<AnsweredRun>) {
        let (mut again, mut refused) = (Vec::new(), Vec::new());
        for run in runs {
            let answer = |tasks| AnsweredRun { job: run.job, tasks, attempt: run.attempt };
            let open = self.jobs.get(&run.job).filter(|job| !job.state.is_final());
            let Some(is_held) = open.map(|job| job.is_held) else {
                refused.push(answer(run.tasks.clone()));
                continue;
            };
            let (recorded, is_settled) = self.with_segments(run.job, |job| {
                let recorded = job.record(run);
                (recorded, job.settle(log_time_us))
            });
            for (group, count) in recorded.finished {
                self.grants.subtract(group, count, is_held);
            }
            refused.extend(recorded.refused.into_iter().map(answer));
            if is_settled {
                self.leave_feed(run.job, index);
                if self.folds.is_task(run.job) {
                    self.fold_task_ended(run.job, log_time_us);
                }
                again.retain(|other: &AnsweredRun| other.job != run.job);
                continue;
            }
            again.extend(recorded.again.into_iter().map(answer));
            self.grant_more(run.job, index);
        }
        (again, refused)
    }

    /// Lists segments; returns the jobs that have them.
    fn add_segments(&mut self, segments: Vec<ReportedSegment>) -> Vec<JobId> {
        let mut changed = Vec::new();
        for segment in segments {
            let mut tasks_of_jobs: BTreeMap<JobId, Vec<Range<u64>>> = BTreeMap::new();
            for (id, tasks) in segment.runs {
                tasks_of_jobs.entry(id).or_default().push(tasks);
            }
            for (id, tasks) in tasks_of_jobs {
                self.with_segments(id, |job| job.segments.add(segment.file, tasks));
                changed.push(id);
            }
        }
        changed
    }

    /// Walks the whole state and panics on a broken invariant.
    pub fn check_invariants(&self) {
        let mut finished = 0;
        let mut changed = 0;
        for (id, job) in &self.jobs {
            job.check_invariants();
            finished += usize::from(job.state.is_final());
            changed += usize::from(self.changed.contains_key(&(job.changed, *id)));
            assert!(!self.retention.is_forgotten(*id), "a forgotten job is listed");
            let place = self.jobs_by_index.get(&job.index);
            let has_place = !self.folds.is_task(*id);
            assert_eq!(place == Some(id), has_place, "every job of a user has its place");
        }
        let placed = self.jobs.len() - self.folds.task_count();
        assert_eq!(placed, self.jobs_by_index.len(), "no place without a job");
        self.check_grants();
        self.check_folds();
        assert_eq!(self.changed.len(), changed, "no change of a job without the job");
        self.retention.check_invariants(finished);
        self.nodes.check_invariants();
        self.rings.check_invariants();
        let storage = self.nodes.storage().map(|node| node.registration.node);
        let standing = self.rings.standings().map(|standing| standing.place.node);
        assert!(storage.eq(standing), "every storage node of the roster has a standing");
        self.sessions.check_invariants();
    }
}

#[cfg(test)]
mod tests;
