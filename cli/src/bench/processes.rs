//! Jobs of ordinary processes, from submission until the client knows what became of each.

use client::Client;
use client::logic::jobs::{JobSelector, Submission};
use node::clock::Clock;
use proto::description::{JobDescription, Program, Runtime};
use proto::status::{JobState, TaskState};
use proto::time::Duration;

use super::noop::new_job;
use crate::commands::connect::Asked;
use crate::commands::jobs::outcomes;
use crate::failure::{During, Failure};

/// Runs a job of a program that every worker has and that succeeds; how long it took.
pub(super) fn job(
    client: &Client,
    program: &str,
    arguments: &[&str],
    task_count: u64,
) -> Result<Duration, Failure> {
    let job = new_job()?;
    let runtime = Runtime::Command {
        program: Program::Path(program.into()),
        arguments: arguments.iter().map(|it| it.as_bytes().to_vec()).collect(),
    };
    let description = JobDescription::new(runtime);
    let submission =
        Submission::new(job, &description, task_count, Vec::new()).during(|| "submit".into())?;
    let clock = Clock::start();
    let begin = clock.now();
    client.submit(submission).asked()?;
    let selector = JobSelector::Id(job);
    let ended = client.wait(selector.clone()).asked()?;
    let mut runs = Vec::new();
    outcomes(client, &selector, |run| {
        runs.push(run);
        Ok(())
    })?;
    let time = clock.now().since(begin);
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
