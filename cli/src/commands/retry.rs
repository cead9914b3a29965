//! `remuda retry`: a new job of those tasks of another one that failed or were cancelled.

use client::logic::jobs::JobSelector;
use proto::status::TaskState;
use serde::Serialize;

use super::connect::{Asked, connect};
use super::jobs::{selector, wait_for};
use crate::failure::Failure;
use crate::flags::Retry;
use crate::output::{self, json};
use crate::owner;

/// The new job as it is shown to programs.
#[derive(Debug, Serialize)]
struct Shown {
    job: String,
    tasks: u64,
    /// The job whose tasks they were first: of a retry, the one that it tries again.
    retry_of: String,
}

/// Submits the new job; its UUID goes to standard output.
pub(super) fn run(flags: &Retry) -> Result<(), Failure> {
    let client = connect(&flags.listing.place)?;
    let other = client.status(selector(&flags.job)).asked()?;
    let failed = flags.failed.then_some(TaskState::Failed);
    let cancelled = flags.cancelled.then_some(TaskState::Cancelled);
    let states: Vec<TaskState> = failed.into_iter().chain(cancelled).collect();
    let job = client::new_job_id().asked()?;
    let change = |settings: &mut proto::description::JobDescription| {
        settings.owner = owner::of_this_process();
        if let Some(name) = &flags.name {
            settings.name.clone_from(name);
        }
    };
    let Some(retried) = client.retry(other.job, &states, job, change).asked()? else {
        let states = states.iter().map(|state| state.name()).collect::<Vec<_>>().join(" or ");
        return Err(Failure::usage(format!("job {} has no {states} tasks", other.job))
            .hint(format!("see what became of its tasks: remuda tasks {}", other.job)));
    };
    let tasks = retried.submission.task_count;
    client.submit(retried.submission).asked()?;
    if flags.listing.json {
        let retry_of = retried.of.to_string();
        json::print(&Shown { job: job.to_string(), tasks, retry_of })?;
    } else {
        output::print(&format!("{job}\n"))?;
    }
    if !other.state.is_final() {
        output::note(&format!(
            "job {} is {}: what fails of it from now on is not tried again",
            other.job, other.state
        ));
    }
    if flags.wait {
        wait_for(&client, &JobSelector::Id(job))?;
    }
    Ok(())
}
