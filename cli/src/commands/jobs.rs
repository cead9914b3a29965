//! Jobs: waiting for one, its state, its tasks, the list of all, cancelling.

use client::Client;
use client::logic::answers::{JobSummary, OutcomeRun};
use client::logic::jobs::{JobSelector, Request, Until};
use node::stop::Stop;
use proto::ids::{JobId, LogIndex};
use proto::status::{Cause, JobState, TaskState};
use proto::time::Duration;
use serde::Serialize;

use super::connect::{Asked, connect};
use super::progress;
use crate::failure::{During, Failure};
use crate::flags::{Cancel, Jobs, OneJob, Status, Tasks};
use crate::output::human::Table;
use crate::output::progress::Progress;
use crate::output::style::{self, Stream};
use crate::output::{self, json};
use crate::quantity;

/// Jobs and runs of tasks asked for at once.
const PAGE: u32 = 1_000;

/// The state of a job of which nothing is dealt, for people.
const HELD: &str = "held";

/// How often the bar moves.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// The job that a text on the command line means.
pub(crate) fn selector(text: &str) -> JobSelector {
    match text.parse() {
        Ok(job) => JobSelector::Id(job),
        Err(_) => JobSelector::Text(text.to_owned()),
    }
}

/// `remuda wait`.
pub(crate) fn wait(flags: &OneJob) -> Result<(), Failure> {
    wait_for(&connect(&flags.place)?, &selector(&flags.job))
}

/// Waits until a job's state is final; a failure where it is not *done*. Shows a bar on a terminal.
/// Interrupted, it says how to go on: the job does.
pub(crate) fn wait_for(client: &Client, job: &JobSelector) -> Result<(), Failure> {
    // The name may mean another job later: the bar and the end are about one.
    let first = client.status(job.clone()).asked()?;
    let job = JobSelector::Id(first.job);
    let stop = Stop::on_signals().during(|| "watch for signals".into())?;
    let mut progress = Progress::tasks(first.task_count);
    let mut ended = client.begin(Request::Job { job: job.clone(), until: Until::Final });
    let mut shown = first;
    loop {
        let count = shown.done_count + shown.failed_count;
        progress.show_tasks(count, shown.failed_count, shown.running_count);
        if stop.is_requested() {
            drop(progress);
            return Err(interrupted(shown.job));
        }
        if let Some(answer) = ended.wait_for(PROGRESS_INTERVAL).during(|| "wait for it".into())? {
            answer.asked()?;
            break;
        }
        // Nobody else needs to know how far it is.
        if progress.is_seen() {
            shown = client.status(job.clone()).asked()?;
        }
    }
    drop(progress);
    let ended = client.status(job).asked()?;
    verdict(&ended)
}

/// Nobody waits any longer, and the job does not care.
fn interrupted(job: JobId) -> Failure {
    output::note(&format!(
        "job {job} goes on; wait again: remuda wait {job}; cancel it: remuda cancel {job}"
    ));
    Failure::interrupted()
}

fn verdict(job: &JobSummary) -> Result<(), Failure> {
    match job.state {
        JobState::Done => Ok(()),
        JobState::Failed => {
            let text = format!(
                "job {} failed: {} of {} tasks failed, the lowest exit code is {}",
                job.job, job.failed_count, job.task_count, job.exit_code
            );
            Err(Failure::failed(text).hint(format!(
                "see which: remuda tasks {0} --failed; try them again: remuda retry {0} --failed",
                job.job
            )))
        }
        state => Err(Failure::failed(format!(
            "job {} is {state}: {} of {} tasks are done",
            job.job, job.done_count, job.task_count
        ))),
    }
}

/// A job as it is shown to programs.
#[derive(Debug, Serialize)]
struct Shown {
    job: String,
    name: String,
    state: &'static str,
    tasks: u64,
    done: u64,
    failed: u64,
    running: u64,
    lost_attempts: u64,
    crashed_attempts: u64,
    priority: i32,
    held: bool,
    owner: String,
    /// The job whose tasks this one tries again; `None` for one that is no retry.
    retry_of: Option<String>,
    /// Since its submission, without the time in which no master led.
    age_seconds: f64,
    /// The lowest exit code of a failed task that is not 0; 0 where none failed.
    exit_code: i32,
    /// From its submission to its last outcome; `None` while it is not final.
    seconds: Option<f64>,
    segments: u64,
}

impl From<&JobSummary> for Shown {
    fn from(job: &JobSummary) -> Shown {
        let seconds = |finished: Duration| (finished - job.submitted).as_secs_f64();
        Shown {
            job: job.job.to_string(),
            name: job.name.clone(),
            state: job.state.name(),
            tasks: job.task_count,
            done: job.done_count,
            failed: job.failed_count,
            running: job.running_count,
            lost_attempts: job.lost_attempts,
            crashed_attempts: job.crashed_attempts,
            priority: job.priority,
            held: job.is_held,
            owner: job.owner.clone(),
            retry_of: job.retry_of.map(|other| other.to_string()),
            age_seconds: job.age.as_secs_f64(),
            exit_code: job.exit_code,
            seconds: job.finished.map(seconds),
            segments: job.segment_count,
        }
    }
}

/// `remuda status`.
pub(crate) fn status(flags: &Status) -> Result<(), Failure> {
    let job = connect(&flags.listing.place)?.status(selector(&flags.job)).asked()?;
    show(&job, flags.listing.json)
}

/// `remuda cancel`.
pub(crate) fn cancel(flags: &Cancel) -> Result<(), Failure> {
    let client = connect(&flags.listing.place)?;
    let job = super::change::one(&client, &selector(&flags.job))?;
    show(&client.cancel(job).asked()?, flags.listing.json)
}

/// The state for people. The masters log that a job runs with its first outcome; that tasks are
/// dealt before tells as much.
pub(super) fn seen_state(job: &JobSummary) -> &'static str {
    match job.state {
        _ if job.is_held => HELD,
        JobState::Queued if job.running_count > 0 => JobState::Running.name(),
        state => state.name(),
    }
}

fn paint_state(state: &str) -> String {
    Stream::Output.paint(style::state(state), state)
}

/// Prints one job.
pub(super) fn show(job: &JobSummary, as_json: bool) -> Result<(), Failure> {
    let shown = Shown::from(job);
    if as_json {
        return json::print(&shown);
    }
    let mut lines = vec![
        ("job", shown.job),
        ("name", if shown.name.is_empty() { "-".to_owned() } else { shown.name }),
        ("owner", if shown.owner.is_empty() { "-".to_owned() } else { shown.owner }),
        ("age", quantity::span(job.age)),
        ("state", paint_state(seen_state(job))),
        ("tasks", shown.tasks.to_string()),
        ("done", shown.done.to_string()),
        ("failed", shown.failed.to_string()),
        ("running", shown.running.to_string()),
        ("lost", format!("{} attempts", shown.lost_attempts)),
        ("crashed", format!("{} attempts", shown.crashed_attempts)),
        ("priority", shown.priority.to_string()),
    ];
    if let Some(other) = &shown.retry_of {
        let tasks = if shown.tasks == 1 { "task" } else { "tasks" };
        lines.push(("retry", format!("tries again {} {tasks} of {other}", shown.tasks)));
    }
    if let Some(seconds) = shown.seconds {
        lines.push(("time", format!("{seconds:.3} s")));
    }
    let text = lines.iter().map(|(name, value)| format!("{name:8} {value}").trim_end().to_owned());
    output::print(&(text.collect::<Vec<_>>().join("\n") + "\n"))
}

/// `remuda jobs`.
pub(crate) fn list(flags: &Jobs) -> Result<(), Failure> {
    let client = connect(&flags.listing.place)?;
    let mut jobs: Vec<JobSummary> = Vec::new();
    let mut before = LogIndex(0);
    loop {
        let left = flags.limit.saturating_sub(u32::try_from(jobs.len()).unwrap_or(u32::MAX));
        let page = client.jobs(before, left.min(PAGE)).asked()?;
        let is_empty = page.items.is_empty();
        jobs.extend(page.items);
        match page.next {
            Some(next) if !is_empty && jobs.len() < flags.limit as usize => before = next,
            _ => break,
        }
    }
    if flags.listing.json {
        return json::print(&jobs.iter().map(Shown::from).collect::<Vec<_>>());
    }
    let mut table =
        Table::new(&["job", "name", "owner", "age", "state", "tasks", "done", "failed", "running"]);
    for job in &jobs {
        let it = Shown::from(job);
        let counts = [it.tasks, it.done, it.failed, it.running].map(|count| count.to_string());
        let state = seen_state(job).to_owned();
        let age = quantity::span(job.age);
        table.row([vec![it.job, it.name, it.owner, age, state], counts.to_vec()].concat());
    }
    output::print(&table.render())
}

/// Consecutive tasks with one outcome as they are shown to programs.
#[derive(Debug, Serialize)]
struct ShownRun {
    first_task: u64,
    task_count: u64,
    state: &'static str,
    exit_code: i32,
    /// Before the one that has the outcome, or at all where none has.
    earlier_attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'static str>,
}

/// Calls `each` with the outcomes of a job's tasks, in their order.
pub(crate) fn outcomes(
    client: &Client,
    job: &JobSelector,
    mut each: impl FnMut(OutcomeRun) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let job = match job {
        JobSelector::Id(job) => *job,
        text @ JobSelector::Text(_) => client.status(text.clone()).asked()?.job,
    };
    let mut first = Some(0);
    while let Some(from) = first {
        let page = client.outcomes(job, from, PAGE).asked()?;
        page.items.into_iter().try_for_each(&mut each)?;
        first = page.next;
    }
    Ok(())
}

/// `remuda tasks`.
pub(crate) fn tasks(flags: &Tasks) -> Result<(), Failure> {
    let client = connect(&flags.listing.place)?;
    let job = client.status(selector(&flags.job)).asked()?;
    let this = JobSelector::Id(job.job);
    // The masters do not know which of the dealt tasks run.
    if flags.running || flags.state.as_deref() == Some(TaskState::Running.name()) {
        return progress::list_running(&client, this, flags.listing.json);
    }
    let state = flags.state.as_deref().or(flags.failed.then_some(TaskState::Failed.name()));
    let wanted = |seen: TaskState| state.is_none_or(|it| it == seen.name());
    let mut shown = Vec::new();
    outcomes(&client, &this, |run| {
        if wanted(run.state) {
            shown.push(ShownRun {
                first_task: run.tasks.start,
                task_count: run.tasks.end - run.tasks.start,
                state: run.state.name(),
                exit_code: run.exit_code,
                earlier_attempts: run.earlier_attempts,
                cause: Some(run.cause).filter(|it| *it != Cause::None).map(Cause::name),
            });
        }
        Ok(())
    })?;
    if flags.listing.json {
        return json::print(&shown);
    }
    let mut table = Table::new(&["tasks", "count", "state", "exit code", "attempts", "cause"]);
    for run in shown {
        let has_ended = [TaskState::Done, TaskState::Failed].map(TaskState::name);
        let (exit_code, attempts) = match has_ended.contains(&run.state) {
            true => (run.exit_code.to_string(), run.earlier_attempts.saturating_add(1)),
            false => (String::new(), run.earlier_attempts),
        };
        let tasks = match run.task_count {
            1 => run.first_task.to_string(),
            count => format!("{}-{}", run.first_task, run.first_task + count - 1),
        };
        table.row(vec![
            tasks,
            run.task_count.to_string(),
            run.state.to_owned(),
            exit_code,
            if attempts == 0 { String::new() } else { attempts.to_string() },
            run.cause.unwrap_or_default().to_owned(),
        ]);
    }
    output::print(&table.render())?;
    if wanted(TaskState::Queued) && job.running_count > 0 {
        let count = job.running_count;
        output::note(&format!(
            "{count} of the queued tasks run at present: remuda tasks {} --running",
            flags.job
        ));
    }
    Ok(())
}
