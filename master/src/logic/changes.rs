//! What users change of a job after its submission: hold, release, priority, forget.
//!
//! Part of `apply`. Deliberately not here: cancelling, which ends a job as outcomes do, and who
//! obeys: the balancers learn of a change by their feed.

use std::sync::Arc;

use proto::ids::{JobId, LogIndex};
use proto::status::ErrorCode;

use super::cluster::Cluster;
use super::commands::{JobChange, Output};
use super::queries;

impl Cluster {
    /// The refusal of a question about a job that is not listed.
    #[must_use]
    pub fn no_job(&self, id: JobId) -> Output {
        if self.retention.is_forgotten(id) {
            Output::refused(
                ErrorCode::Forgotten,
                format!("job {id} was forgotten: a finished job is kept for some time only"),
            )
        } else {
            Output::refused(ErrorCode::NotFound, format!("there is no job {id}"))
        }
    }

    /// Changes how a job is treated from now on. Doing it again changes nothing.
    pub(super) fn change(
        &mut self,
        id: JobId,
        change: JobChange,
        index: LogIndex,
        log_time_us: u64,
    ) -> Output {
        let Some(job) = self.jobs.get(&id).filter(|_| !self.folds.is_task(id)) else {
            return self.no_job(id);
        };
        let state = job.state;
        let (priority, is_held) = match change {
            JobChange::Forget if !state.is_final() => {
                return Output::refused(
                    ErrorCode::Invalid,
                    format!(
                        "job {id} is {state}, and only one that ended can be forgotten: cancel it \
                         first, remuda cancel {id}"
                    ),
                );
            }
            JobChange::Forget => {
                let record = queries::job_status(self, id, job, 0, log_time_us);
                self.forget(id, log_time_us);
                return Output::Forgotten { record };
            }
            _ if state.is_final() => {
                return Output::refused(
                    ErrorCode::Invalid,
                    format!("job {id} is {state}: none of its tasks is left to deal"),
                );
            }
            JobChange::Hold => (job.priority, true),
            JobChange::Release => (job.priority, false),
            JobChange::Priority(priority) => (priority, job.is_held),
        };
        if (job.priority, job.is_held) != (priority, is_held)
            && let Some(job) = self.jobs.get_mut(&id)
        {
            let job = Arc::make_mut(job);
            self.changed.remove(&(job.changed, id));
            let was_held = std::mem::replace(&mut job.is_held, is_held);
            (job.priority, job.changed) = (priority, index);
            if was_held != is_held {
                self.grants.note_held(id, job);
            }
            self.changed.insert((index, id), ());
            self.feed_index = index;
            if was_held && !is_held {
                // Groups that have slots since were granted nothing of it.
                self.grant_more(id, index);
            }
        }
        Output::Changed { job: id }
    }

    /// Takes a job in a final state out of the list.
    pub(super) fn forget(&mut self, id: JobId, log_time_us: u64) {
        self.forget_folds(id, self.applied);
        if let Some(job) = self.jobs.remove(&id) {
            self.jobs_by_index.remove(&job.index);
            self.retention.forget(id, job.finished_us, log_time_us);
        }
    }
}
