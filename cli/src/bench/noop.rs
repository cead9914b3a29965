//! Tasks per second: a job of many tasks that do nothing, from its submission until the client
//! knows what became of each.

use client::Client;
use client::logic::answers::{JobSummary, OutcomeRun};
use client::logic::jobs::{JobSelector, Submission};
use node::clock::Clock;
use proto::description::{JobDescription, Noop, Runtime};
use proto::ids::{JobId, TaskIndex};
use proto::status::{JobState, TaskState};
use proto::time::Duration;

use super::cluster::BenchCluster;
use super::{Line, Printer, accounting};
use crate::commands::connect::Asked;
use crate::commands::jobs::outcomes;
use crate::failure::{During, Failure};
use crate::flags::Bench;

/// One task of a thousand fails, with one of three exit codes: nobody can foresee which.
const FAILED_PER_MILLION: u32 = 1_000;

/// Tasks of a job, unless told otherwise.
const TASKS: u64 = 1_000_000;

/// A small job first, so that connections and grants are as in a cluster that works already.
const WARM_UP_TASKS: u64 = 10_000;

/// Takes the figure.
pub(super) fn run(cluster: &BenchCluster, flags: &Bench, printer: Printer) -> Result<(), Failure> {
    let task_count = flags.tasks.unwrap_or(TASKS);
    warm_up(cluster)?;
    let mut times = Vec::new();
    for _ in 0..flags.repeat {
        times.push(job(cluster, task_count)?);
    }
    times.sort_unstable();
    let median = super::quantile(&times, 0.5).ok_or_else(|| Failure::usage("--repeat 0"))?;
    let rate = task_count as f64 / median.as_secs_f64();
    printer.line(&Line::new("noop", "tasks_per_s", rate, "tasks/s"))
}

/// Runs a job that is not measured.
pub(super) fn warm_up(cluster: &BenchCluster) -> Result<(), Failure> {
    job(cluster, WARM_UP_TASKS).map(|_| ())
}

/// A new random job UUID.
pub(super) fn new_job() -> Result<JobId, Failure> {
    Ok(JobId::from_random(node::random::bits().during(|| "draw a job UUID".into())?))
}

/// A job that was run.
pub(super) struct Ran {
    /// What the masters say of it.
    pub(super) ended: JobSummary,
    /// Outcomes of its tasks, as runs.
    pub(super) runs: Vec<OutcomeRun>,
    /// From its submission until all outcomes were known here.
    pub(super) time: Duration,
}

/// Runs one job under a UUID that was drawn for it, and fetches what became of its tasks.
pub(super) fn timed_job(
    client: &Client,
    job: JobId,
    description: &JobDescription,
    task_count: u64,
) -> Result<Ran, Failure> {
    let submission =
        Submission::new(job, description, task_count, Vec::new()).during(|| "submit".into())?;
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
    Ok(Ran { ended, runs, time: clock.now().since(begin) })
}

/// Runs one job and checks every outcome and some of the accounting; how long the job took.
pub(super) fn job(cluster: &BenchCluster, task_count: u64) -> Result<Duration, Failure> {
    let client = cluster.client();
    let job = new_job()?;
    let seed = job.0 as u64;
    let noop = Noop { seed, failed_per_million: FAILED_PER_MILLION, ..Noop::default() };
    let description = JobDescription::new(Runtime::Noop(noop));
    let Ran { ended, runs, time } = timed_job(client, job, &description, task_count)?;
    let mut next = 0;
    let mut failed_count = 0;
    for run in runs {
        if run.tasks.start != next {
            return Err(Failure::failed(format!("no outcome of task {next}")));
        }
        next = run.tasks.end;
        for task in run.tasks {
            let expected = noop.outcome(TaskIndex(task)).exit_code;
            let state = if expected == 0 { TaskState::Done } else { TaskState::Failed };
            failed_count += u64::from(expected != 0);
            if (run.state, run.exit_code) != (state, expected) {
                let found = (run.state, run.exit_code);
                return Err(Failure::failed(format!(
                    "task {task} is {} with exit code {}, expected {state} with {expected}",
                    found.0, found.1
                )));
            }
        }
    }
    let state = if failed_count == 0 { JobState::Done } else { JobState::Failed };
    if next != task_count || ended.failed_count != failed_count || ended.state != state {
        return Err(Failure::failed(format!(
            "the job is {} with {next} of {task_count} outcomes and {} failures, expected \
             {failed_count}",
            ended.state, ended.failed_count
        )));
    }
    accounting::check(client, job, &noop, task_count)?;
    Ok(time)
}
