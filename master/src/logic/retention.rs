//! How long jobs in a final state are listed, and how long their UUIDs are remembered afterwards.
//!
//! Part of the replicated state: all times are log times, and jobs are forgotten by an entry that
//! the leader proposes when something is due. Deliberately not here: what frees the space that
//! their outputs take on storage. Nothing does yet.

use imbl::OrdMap;
use proto::ids::JobId;
use serde::{Deserialize, Serialize};

const SECOND_US: u64 = 1_000_000;

/// How long a finished job is listed, and its UUID remembered when it no longer is.
pub const RETENTION_US: u64 = 7 * 24 * 3_600 * SECOND_US;

/// Finished jobs that stay listed; above it the oldest are forgotten first.
pub const FINISHED_JOBS: usize = 10_000;

/// A finished job that is younger stays listed however many there are.
pub const YOUNGEST_US: u64 = 3_600 * SECOND_US;

/// Forgotten jobs that are remembered. Above it submissions are answered busy, because the memory
/// of one that is dropped early would let a job run twice (eyeballed: three jobs a second for a
/// week, some 100 MiB).
pub const REMEMBERED_JOBS: usize = 2_000_000;

/// Jobs that one entry forgets, or UUIDs that it drops: `apply` must not take long.
pub const ENTRY_JOBS: usize = 1_000;

/// Jobs in a final state and jobs that were forgotten, by age.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Retention {
    /// Jobs that are listed in a final state, by when that began.
    finished: OrdMap<(u64, JobId), ()>,
    /// When each remembered job was forgotten.
    forgotten: OrdMap<JobId, u64>,
    /// The same by age.
    by_age: OrdMap<(u64, JobId), ()>,
}

impl Retention {
    /// A job's state became final.
    pub fn finish(&mut self, job: JobId, finished_us: u64) {
        self.finished.insert((finished_us, job), ());
    }

    /// A job in a final state is no longer listed.
    pub fn forget(&mut self, job: JobId, finished_us: u64, log_time_us: u64) {
        self.finished.remove(&(finished_us, job));
        self.forgotten.insert(job, log_time_us);
        self.by_age.insert((log_time_us, job), ());
    }

    /// True for a job that was forgotten within the retention time.
    #[must_use]
    pub fn is_forgotten(&self, job: JobId) -> bool {
        self.forgotten.contains_key(&job)
    }

    /// True where no further job can be remembered.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.forgotten.len() >= REMEMBERED_JOBS
    }

    /// Log time from which on something is to be forgotten; `None` where nothing ever is.
    #[must_use]
    pub fn due_us(&self) -> Option<u64> {
        let finished = self
            .finished
            .get_min()
            .map(|&((since, _), ())| since.saturating_add(retention_us(self.finished.len())));
        let remembered =
            self.by_age.get_min().map(|&((since, _), ())| since.saturating_add(RETENTION_US));
        finished.into_iter().chain(remembered).min()
    }

    /// Drops what was remembered long enough, and names the jobs to forget, the oldest first, at
    /// most so many as one entry takes. They are listed until [`Retention::forget`] is called.
    pub fn take_due(&mut self, log_time_us: u64) -> Vec<(JobId, u64)> {
        for _ in 0..ENTRY_JOBS {
            match self.by_age.get_min() {
                Some(&((since, job), ())) if is_over(since, RETENTION_US, log_time_us) => {
                    self.by_age.remove(&(since, job));
                    self.forgotten.remove(&job);
                }
                _ => break,
            }
        }
        let listed = self.finished.len();
        let oldest = self.finished.keys().take(ENTRY_JOBS).enumerate();
        oldest
            .take_while(|(at, (since, _))| is_over(*since, retention_us(listed - at), log_time_us))
            .map(|(_, &(since, job))| (job, since))
            .collect()
    }

    /// Panics on a broken invariant. `finished` counts the jobs in a final state.
    pub fn check_invariants(&self, finished: usize) {
        assert_eq!(self.finished.len(), finished, "every finished job has its age");
        assert_eq!(self.forgotten.len(), self.by_age.len(), "every forgotten job has one age");
    }
}

/// How long the oldest of so many finished jobs is listed.
fn retention_us(finished: usize) -> u64 {
    if finished > FINISHED_JOBS { YOUNGEST_US } else { RETENTION_US }
}

fn is_over(since_us: u64, length_us: u64, log_time_us: u64) -> bool {
    since_us.saturating_add(length_us) <= log_time_us
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Forgets what is due; how many that were.
    fn forget(retention: &mut Retention, log_time_us: u64) -> Vec<u128> {
        let due = retention.take_due(log_time_us);
        for &(job, since) in &due {
            retention.forget(job, since, log_time_us);
        }
        due.into_iter().map(|(job, _)| job.0).collect()
    }

    #[test]
    fn a_finished_job_is_listed_for_a_week_and_remembered_for_another() {
        let mut retention = Retention::default();
        assert_eq!(retention.due_us(), None);
        retention.finish(JobId(1), 50);
        retention.finish(JobId(2), 90);
        assert_eq!(retention.due_us(), Some(50 + RETENTION_US));
        assert_eq!(forget(&mut retention, 49 + RETENTION_US), []);
        assert_eq!(forget(&mut retention, 50 + RETENTION_US), [1]);
        assert!(retention.is_forgotten(JobId(1)) && !retention.is_forgotten(JobId(2)));
        assert_eq!(forget(&mut retention, 49 + 2 * RETENTION_US), [2]);
        assert!(retention.is_forgotten(JobId(1)));
        assert_eq!(retention.due_us(), Some(50 + 2 * RETENTION_US));
        assert_eq!(forget(&mut retention, 50 + 2 * RETENTION_US), []);
        assert!(!retention.is_forgotten(JobId(1)) && retention.is_forgotten(JobId(2)));
        retention.check_invariants(0);
    }

    #[test]
    fn above_ten_thousand_the_oldest_are_forgotten_first_and_none_within_its_first_hour() {
        let mut retention = Retention::default();
        let count = FINISHED_JOBS as u64 + 3;
        for job in 0..count {
            retention.finish(JobId(u128::from(job)), job);
        }
        assert_eq!(retention.due_us(), Some(YOUNGEST_US));
        assert_eq!(forget(&mut retention, YOUNGEST_US - 1), []);
        assert_eq!(forget(&mut retention, YOUNGEST_US + 1), [0, 1]);
        assert_eq!(retention.due_us(), Some(2 + YOUNGEST_US));
        assert_eq!(forget(&mut retention, YOUNGEST_US + count), [2], "no more than are too many");
        retention.check_invariants(FINISHED_JOBS);
    }

    #[test]
    fn one_entry_forgets_a_bounded_number_of_jobs() {
        let mut retention = Retention::default();
        for job in 0..2 * ENTRY_JOBS as u128 + 1 {
            retention.finish(JobId(job), 7);
        }
        let late = 7 + RETENTION_US;
        assert_eq!(forget(&mut retention, late).len(), ENTRY_JOBS);
        assert_eq!(retention.due_us(), Some(late), "the rest is due at once");
        assert_eq!(forget(&mut retention, late).len(), ENTRY_JOBS);
        assert_eq!(forget(&mut retention, late), [2 * ENTRY_JOBS as u128]);
    }
}
