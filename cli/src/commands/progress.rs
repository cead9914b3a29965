//! Progress: a task tells its own, and everybody sees what runs and how far it is.

use client::logic::jobs::JobSelector;
use client::{Activities, Client};
use node::clock::time_of_day;
use proto::time::Duration;
use serde::Serialize;
use worker::progress::{Progress as Told, VARIABLE};

use super::connect::Asked;
use crate::failure::{During, Failure};
use crate::flags::Progress;
use crate::output::human::Table;
use crate::output::{self, json};

/// `remuda progress`, inside a task: its worker reads it when somebody asks.
pub(crate) fn tell(flags: &Progress) -> Result<(), Failure> {
    let told = Told::new(&flags.part, &flags.text.join(" "))
        .map_err(|error| Failure::usage(error.to_string()))?;
    let Some(file) = std::env::var_os(VARIABLE) else {
        return Err(Failure::usage(format!("${VARIABLE} is not set: this is not inside a task"))
            .hint("the program of a job calls it; see how far tasks are: remuda tasks --running"));
    };
    told.write(file.as_ref()).during(|| format!("write {}", file.display()))
}

/// A running task as it is shown to programs.
#[derive(Debug, Serialize)]
struct Shown {
    task: u64,
    attempt: u64,
    worker: String,
    start_unix_us: u64,
    /// From 0 to 1; `None` where the task says nothing.
    progress: Option<f64>,
    text: String,
}

/// Lists the tasks of a job that run at present. All workers are asked, for nobody else knows.
pub(crate) fn list_running(
    client: &Client,
    job: JobSelector,
    as_json: bool,
) -> Result<(), Failure> {
    let job = client.status(job).asked()?;
    let Activities { mut tasks, silent } =
        client.workers().asked()?.activities(Some(job.job)).asked()?;
    if !silent.is_empty() {
        let count = silent.len();
        output::note(&format!("{count} workers do not answer; what they execute is not listed"));
    }
    tasks.sort_by_key(|(_, activity)| (activity.task, activity.attempt));
    let shown = tasks.into_iter().map(|(place, activity)| Shown {
        task: activity.task.0,
        attempt: activity.attempt,
        worker: place.node.to_string(),
        start_unix_us: activity.start_unix_us,
        progress: activity.progress.map(|thousandths| f64::from(thousandths) / 1_000.0),
        text: activity.text,
    });
    let shown: Vec<Shown> = shown.collect();
    if as_json {
        return json::print(&shown);
    }
    let mut table = Table::new(&["task", "worker", "runs for", "progress", "text"]);
    let now = time_of_day();
    for it in shown {
        // Between two machines' clocks it may seem to have begun in the future.
        let since = now.as_micros().saturating_sub(it.start_unix_us);
        let seconds = Duration::from_micros(since).as_secs_f64();
        let progress = it.progress.map(|part| format!("{:.1} %", part * 100.0));
        table.row(vec![
            it.task.to_string(),
            it.worker,
            format!("{seconds:.1} s"),
            progress.unwrap_or_default(),
            it.text,
        ]);
    }
    output::print(&table.render())
}
