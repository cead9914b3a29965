//! Trying tasks of a job again: a new job of these tasks, alike in all else.
//!
//! What `{index}` and `{line}` stand for comes from the job that the tasks were first submitted
//! with, so a retry of a retry names that one. Deliberately not here: submitting it.

use std::ops::Range;

use proto::description::{JobDescription, Retry, Runtime};
use proto::ids::JobId;
use proto::limits;
use proto::status::TaskState;

use crate::blocking::Client;
use crate::error::ClientError;
use crate::logic::answers::DescribedJob;
use crate::logic::jobs::{JobSelector, Submission};

/// Runs of tasks asked for at once.
const PAGE: u32 = 1_000;

/// Runs of tasks that a job may try again: with up to ten bytes for each they fit into the file of
/// a description.
const RUNS: usize = 400_000;

const _: () = assert!(10 * RUNS < limits::DESCRIPTION_FILE_BYTES);

/// A job that tries tasks of another one again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retried {
    /// The job whose tasks they were first.
    pub of: JobId,
    /// What is submitted.
    pub submission: Submission,
}

impl Client {
    /// Makes a submission under the UUID `job` of those tasks of another job that are in one of
    /// these states. `change` may change anything of its settings. What it needs is on storage
    /// already. `None` where there is no such task.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn retry(
        &self,
        other: JobId,
        states: &[TaskState],
        job: JobId,
        change: impl FnOnce(&mut JobDescription),
    ) -> Result<Option<Retried>, ClientError> {
        let DescribedJob { program, description, .. } = self.describe(JobSelector::Id(other))?;
        let mut description = self.whole(description)?;
        let tasks = self.tasks_in(other, states)?;
        let task_count: u64 = tasks.iter().map(|run| run.end - run.start).sum();
        if task_count == 0 {
            return Ok(None);
        }
        let retry = match &description.retry {
            Some(before) => Retry { job: before.job, tasks: through(&before.tasks, &tasks) },
            None => Retry { job: other, tasks },
        };
        if retry.tasks.len() > RUNS {
            return Err(ClientError::TooScattered { runs: retry.tasks.len() });
        }
        let of = retry.job;
        description.retry = Some(retry);
        description.is_held = false;
        change(&mut description);
        // Only the description of a program may be a file.
        if matches!(description.runtime, Runtime::Noop(_))
            && description.encode().is_ok_and(|it| it.len() > limits::DESCRIPTION_BYTES)
        {
            let runs = description.retry.map_or(0, |retry| retry.tasks.len());
            return Err(ClientError::TooScattered { runs });
        }
        let submission = self.submission(job, task_count, description, program)?;
        Ok(Some(Retried { of, submission }))
    }

    /// A description with what of it is a file.
    fn whole(&self, description: JobDescription) -> Result<JobDescription, ClientError> {
        let Runtime::Stored { file, .. } = description.runtime else { return Ok(description) };
        let limit = limits::DESCRIPTION_FILE_BYTES as u64;
        let bytes = self.begin_get(file, 0..u64::MAX, limit).wait()??;
        let stored = JobDescription::decode_file(&bytes);
        let stored = stored.map_err(|source| ClientError::Description { file, source })?;
        Ok(JobDescription {
            runtime: stored.runtime,
            environment: stored.environment,
            inputs: stored.inputs,
            outputs: stored.outputs,
            retry: stored.retry,
            ..description
        })
    }

    /// The tasks of a job in one of these states, as runs.
    fn tasks_in(&self, job: JobId, states: &[TaskState]) -> Result<Vec<Range<u64>>, ClientError> {
        let mut tasks: Vec<Range<u64>> = Vec::new();
        let mut first = Some(0);
        while let Some(from) = first {
            let page = self.outcomes(job, from, PAGE)?;
            for run in page.items.into_iter().filter(|run| states.contains(&run.state)) {
                push(&mut tasks, run.tasks);
            }
            if tasks.len() > RUNS {
                return Err(ClientError::TooScattered { runs: tasks.len() });
            }
            first = page.next;
        }
        Ok(tasks)
    }
}

/// Adds a run behind others, joined with the last where it touches it.
fn push(runs: &mut Vec<Range<u64>>, run: Range<u64>) {
    match runs.last_mut().filter(|last| last.end == run.start) {
        Some(last) => last.end = run.end,
        None => runs.push(run),
    }
}

/// What tasks of a retry are in the job that it tries again: `tasks` counts within `origins`.
fn through(origins: &[Range<u64>], tasks: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut found = Vec::new();
    let mut origins = origins.iter();
    let (mut run, mut begin) = (0..0, 0);
    for wanted in tasks {
        let mut at = wanted.start;
        while at < wanted.end {
            if at >= begin + (run.end - run.start) {
                begin += run.end - run.start;
                let Some(next) = origins.next() else { return found };
                run = next.clone();
                continue;
            }
            let first = run.start + (at - begin);
            let count = (wanted.end - at).min(run.end - first);
            push(&mut found, first..first + count);
            at += count;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proto::ids::TaskIndex;

    use super::*;

    fn runs(runs: &[(u64, u64)]) -> Vec<Range<u64>> {
        runs.iter().map(|&(first, end)| first..end).collect()
    }

    #[test]
    fn a_retry_of_a_retry_names_the_tasks_of_the_first_job() {
        let origins = vec![2..5, 70..71, 90..100];
        for tasks in [
            &[(0, 14)][..],
            &[(1, 4)],
            &[(3, 4)],
            &[(0, 1), (2, 3), (5, 6), (13, 14)],
            &[(2, 7), (9, 10)],
            &[],
        ] {
            let tasks = runs(tasks);
            let found = through(&origins, &tasks);
            let retry = Retry { job: JobId(1), tasks: origins.clone() };
            let origin = |task| retry.origin(TaskIndex(task)).map(|it| it.0);
            let expected: Option<Vec<u64>> = tasks.into_iter().flatten().map(origin).collect();
            assert_eq!(Some(found.iter().cloned().flatten().collect::<Vec<u64>>()), expected);
            assert!(found.windows(2).all(|pair| pair[0].end < pair[1].start), "{found:?}");
        }
        let beyond = through(&origins, &runs(&[(13, 20)]));
        assert_eq!(beyond, runs(&[(99, 100)]), "what is not there is left out");
    }
}
