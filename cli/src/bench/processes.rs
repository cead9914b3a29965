//! Jobs of ordinary processes, from submission until the client knows what became of each.

use client::Client;
use proto::description::{JobDescription, Program, Runtime};
use proto::status::{JobState, TaskState};
use proto::time::Duration;

use super::noop::{Ran, new_job, timed_job};
use crate::failure::Failure;

/// Runs a job of a program that every worker has and that succeeds; how long it took.
pub(super) fn job(
    client: &Client,
    program: &str,
    arguments: &[&str],
    task_count: u64,
) -> Result<Duration, Failure> {
    let runtime = Runtime::Command {
        program: Program::Path(program.into()),
        arguments: arguments.iter().map(|it| it.as_bytes().to_vec()).collect(),
    };
    let description = JobDescription::new(runtime);
    let Ran { ended, runs, time } = timed_job(client, new_job()?, &description, task_count)?;
    let mut next = 0;
    for run in runs {
        if run.tasks.start != next || (run.state, run.exit_code) != (TaskState::Done, 0) {
            let text = format!("task {next} of {program} did not succeed: {run:?}");
            return Err(Failure::failed(text));
        }
        next = run.tasks.end;
    }
    if ended.state != JobState::Done || next != task_count {
        let text = format!("the job is {} with {next} of {task_count} outcomes", ended.state);
        return Err(Failure::failed(text));
    }
    Ok(time)
}
