//! `remuda accounting`: what the tasks of a job used, task by task, and all together.
//!
//! Rows are printed as they are read, so that a job of a hundred million tasks needs no more memory
//! than a small one. What a spread tells of the whole is made beside; see `Spread`.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;

use client::logic::answers::{JobSummary, OutcomeRun};
use client::{Accounting, Client};
use proto::ids::{JobId, NodeId};
use proto::segment::AccountingEntry;
use proto::status::TaskState;
use proto::time::Duration;
use serde::Serialize;

use super::connect::{Asked, connect};
use super::jobs::selector;
use crate::failure::{During, Failure};
use crate::flags;
use crate::output;
use crate::quantity::{shown_bytes, shown_time};

/// Runs of outcomes asked for at once.
const PAGE: u32 = 1_000;

/// Bytes of rows that are printed together.
const PRINTED: usize = 64 << 10;

/// What a task used may follow its outcome by so much.
const LATE: Duration = Duration::from_secs(3);

/// Of a job that ended longer ago nothing is on its way any more.
const LONG_AGO: Duration = Duration::from_secs(10);

/// Between two looks for what is late.
const PAUSE: Duration = Duration::from_millis(200);

/// A task as it is shown to programs.
#[derive(Debug, Serialize)]
struct Row {
    task: u64,
    state: &'static str,
    exit_code: i32,
    /// How often it was tried.
    attempts: u64,
    /// The number of the attempt that has the outcome.
    attempt: u64,
    node: String,
    start_unix_us: u64,
    wall_us: u64,
    cpu_us: u64,
    peak_memory_bytes: u64,
}

/// The names of a row's values.
const CSV_HEAD: &str = "task,state,exit_code,attempts,attempt,node,start_unix_us,wall_us,cpu_us,\
                        peak_memory_bytes\n";

/// All together, as it is shown to programs.
#[derive(Debug, Serialize)]
struct Summary {
    /// Tasks that ended and of which it is known what they used.
    tasks: u64,
    /// Tasks that ended and of which it is not known.
    without_accounting: u64,
    wall_us: Figures,
    cpu_us: Figures,
    peak_memory_bytes: Figures,
}

/// What is told of many values. Percentiles are exact within one in a hundred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Figures {
    sum: u64,
    mean: u64,
    p50: u64,
    p95: u64,
    max: u64,
}

/// How rows are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Table,
    Csv,
    Json,
}

/// `remuda accounting`.
pub(crate) fn run(flags: &flags::Accounting) -> Result<(), Failure> {
    let client = connect(&flags.place)?;
    let job = client.status(selector(&flags.job)).asked()?;
    let mut accounting = client.accounting(job.job).asked()?;
    await_late(&job, &mut accounting)?;
    let form = match (flags.csv, flags.json) {
        (true, _) => Form::Csv,
        (_, true) => Form::Json,
        _ => Form::Table,
    };
    let mut rows = Rows::new(form, &job);
    let mut outcomes = Outcomes::new(&client, job.job);
    while let Some(entry) = accounting.next_entry().asked()? {
        let run = outcomes.of(entry.task_index)?;
        rows.add(&row(&entry, run.as_ref()))?;
    }
    // To count those of which nothing is known.
    outcomes.skip_to_end()?;
    let without = outcomes.finished_count.saturating_sub(rows.wall.count);
    rows.end(without)
}

/// Waits for what is still on its way of a job that has just ended.
fn await_late(job: &JobSummary, accounting: &mut Accounting<'_>) -> Result<(), Failure> {
    let ended_count = job.done_count + job.failed_count;
    // By the log's time, which is that of no clock here.
    let ended_ago = job.finished.map(|at| job.age - (at - job.submitted));
    let is_new = ended_ago.is_some_and(|span| span < LONG_AGO);
    let mut waited = Duration::ZERO;
    while is_new && waited < LATE && accounting.listed_count() < ended_count {
        std::thread::park_timeout(PAUSE.to_std());
        waited = waited + PAUSE;
        accounting.look_again().asked()?;
    }
    Ok(())
}

fn row(entry: &AccountingEntry, run: Option<&OutcomeRun>) -> Row {
    let state = run.map_or(TaskState::Queued, |run| run.state);
    Row {
        task: entry.task_index,
        state: state.name(),
        exit_code: run.map_or(0, |run| run.exit_code),
        attempts: run.map_or(1, |run| u64::from(run.earlier_attempts) + 1),
        attempt: entry.attempt,
        node: NodeId::from(entry.node_uuid).to_string(),
        start_unix_us: entry.start_unix_us,
        wall_us: entry.wall_us,
        cpu_us: entry.cpu_us,
        peak_memory_bytes: entry.peak_memory_bytes,
    }
}

/// Outcomes of a job's tasks, read in their order.
struct Outcomes<'a> {
    client: &'a Client,
    job: JobId,
    runs: VecDeque<OutcomeRun>,
    /// Where the next page begins; `None` behind the last.
    next: Option<u64>,
    /// Tasks that ended, of the runs that were read.
    finished_count: u64,
}

impl Outcomes<'_> {
    fn new(client: &Client, job: JobId) -> Outcomes<'_> {
        Outcomes { client, job, runs: VecDeque::new(), next: Some(0), finished_count: 0 }
    }

    /// The run of a task that lies behind those that were asked for before.
    fn of(&mut self, task: u64) -> Result<Option<OutcomeRun>, Failure> {
        loop {
            match self.runs.front() {
                Some(run) if task < run.tasks.end => return Ok(Some(run.clone())),
                Some(_) => drop(self.runs.pop_front()),
                None => {
                    if !self.read()? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Reads a page; false where there is none.
    fn read(&mut self) -> Result<bool, Failure> {
        let Some(first) = self.next else { return Ok(false) };
        let page = self.client.outcomes(self.job, first, PAGE).asked()?;
        let ended = |run: &&OutcomeRun| matches!(run.state, TaskState::Done | TaskState::Failed);
        let finished = page.items.iter().filter(ended);
        self.finished_count += finished.map(|run| run.tasks.end - run.tasks.start).sum::<u64>();
        self.runs.extend(page.items);
        self.next = page.next;
        Ok(true)
    }

    fn skip_to_end(&mut self) -> Result<(), Failure> {
        self.runs.clear();
        while self.read()? {
            self.runs.clear();
        }
        Ok(())
    }
}

/// Rows on their way out, and what they are together.
struct Rows {
    form: Form,
    job: JobId,
    is_final: bool,
    /// Digits of the highest task.
    task_width: usize,
    text: String,
    wall: Spread,
    cpu: Spread,
    memory: Spread,
}

impl Rows {
    fn new(form: Form, job: &JobSummary) -> Rows {
        let task_width = job.task_count.saturating_sub(1).to_string().len().max(4);
        let text = match form {
            Form::Csv => CSV_HEAD.to_owned(),
            Form::Json => format!("{{\"job\":\"{}\",\"tasks\":[", job.job),
            Form::Table => line(
                task_width,
                ["TASK", "STATE", "ATTEMPTS", "WALL", "CPU", "MEMORY", "STARTED", "WORKER"],
            ),
        };
        let (wall, cpu, memory) = (Spread::default(), Spread::default(), Spread::default());
        let is_final = job.state.is_final();
        Rows { form, job: job.job, is_final, task_width, text, wall, cpu, memory }
    }

    fn add(&mut self, row: &Row) -> Result<(), Failure> {
        match self.form {
            Form::Csv => {
                let Row { task, state, exit_code, attempts, attempt, node, .. } = row;
                let Row { start_unix_us, wall_us, cpu_us, peak_memory_bytes, .. } = row;
                // Writing into a text never fails. None of the values has a comma.
                let _ = writeln!(
                    self.text,
                    "{task},{state},{exit_code},{attempts},{attempt},{node},{start_unix_us},\
                     {wall_us},{cpu_us},{peak_memory_bytes}"
                );
            }
            Form::Json => {
                let comma = if self.wall.count > 0 { "," } else { "" };
                self.text += comma;
                self.text += &serde_json::to_string(row).during(|| "write JSON".into())?;
            }
            Form::Table => {
                let time = |us| shown_time(Duration::from_micros(us));
                let attempts = row.attempts.to_string();
                let (task, started) = (row.task.to_string(), utc(row.start_unix_us));
                let (wall, cpu) = (time(row.wall_us), time(row.cpu_us));
                let memory = shown_bytes(row.peak_memory_bytes);
                let cells =
                    [&task, row.state, &attempts, &wall, &cpu, &memory, &started, &row.node];
                self.text += &line(self.task_width, cells);
            }
        }
        self.wall.add(row.wall_us);
        self.cpu.add(row.cpu_us);
        self.memory.add(row.peak_memory_bytes);
        if self.text.len() < PRINTED {
            return Ok(());
        }
        output::print(&std::mem::take(&mut self.text))
    }

    fn end(mut self, without_accounting: u64) -> Result<(), Failure> {
        let summary = Summary {
            tasks: self.wall.count,
            without_accounting,
            wall_us: self.wall.figures(),
            cpu_us: self.cpu.figures(),
            peak_memory_bytes: self.memory.figures(),
        };
        match self.form {
            Form::Csv => {}
            Form::Json => {
                let summary = serde_json::to_string(&summary).during(|| "write JSON".into())?;
                let _ = writeln!(self.text, "],\"summary\":{summary}}}");
            }
            Form::Table => self.text += &table(&summary),
        }
        output::print(&self.text)?;
        if without_accounting > 0 && self.form != Form::Json {
            let job = self.job;
            let why = match self.is_final {
                true => "a worker that dies takes what it did not say within two seconds with it",
                false => "it follows an outcome within two seconds, unless its worker dies",
            };
            let tasks = if without_accounting == 1 { "task" } else { "tasks" };
            output::note(&format!(
                "of {without_accounting} {tasks} of job {job} that ended it is not known what was \
                 used: {why}"
            ));
        }
        Ok(())
    }
}

/// A row for people. The widths are fixed, so that no row has to wait for the next one.
fn line(task_width: usize, cells: [&str; 8]) -> String {
    let widths = [task_width, 9, 8, 13, 13, 10, 19, 0];
    let cells = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
    cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
}

fn table(summary: &Summary) -> String {
    let time = |us| shown_time(Duration::from_micros(us));
    let all = format!("{} tasks", summary.tasks);
    let mut table = output::human::Table::new(&[&all, "sum", "mean", "p50", "p95", "max"]);
    for (name, it) in [("wall", summary.wall_us), ("CPU", summary.cpu_us)] {
        let cells = [it.sum, it.mean, it.p50, it.p95, it.max].map(time);
        table.row([vec![name.to_owned()], cells.to_vec()].concat());
    }
    let it = summary.peak_memory_bytes;
    let cells = [it.mean, it.p50, it.p95, it.max].map(shown_bytes);
    // Peaks of different moments have no sum.
    table.row([vec!["memory".to_owned(), String::new()], cells.to_vec()].concat());
    format!("\n{}", table.render())
}

/// Day and time of day in UTC, of microseconds since 1970.
fn utc(unix_us: u64) -> String {
    let seconds = unix_us / 1_000_000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Counted from the first of March of the year 0, so that leap days end their years; an era has
    // 400 years and 146,097 days.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year_of_era = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// Many values in little memory: counted by their first eight binary digits.
#[derive(Clone, Debug, Default)]
struct Spread {
    count: u64,
    sum: u64,
    max: u64,
    /// How many values begin so; by digits and the number of those that follow.
    counts: BTreeMap<u64, u64>,
}

impl Spread {
    /// Binary digits of a value that count, but for the first.
    const DIGITS: u32 = 7;

    fn add(&mut self, value: u64) {
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
        self.max = self.max.max(value);
        *self.counts.entry(Spread::bucket(value)).or_default() += 1;
    }

    /// Grows with the value.
    fn bucket(value: u64) -> u64 {
        let dropped = (u64::BITS - value.leading_zeros()).saturating_sub(Spread::DIGITS + 1);
        (u64::from(dropped) << Spread::DIGITS) + (value >> dropped)
    }

    /// The value in the middle of a bucket.
    fn middle(bucket: u64) -> u64 {
        let dropped = (bucket >> Spread::DIGITS).saturating_sub(1);
        let digits = bucket - (dropped << Spread::DIGITS);
        (digits << dropped) + ((1u64 << dropped) >> 1)
    }

    /// The value that a part of a hundred of all values does not exceed.
    fn percentile(&self, percent: u64) -> u64 {
        let rank = self.count.saturating_mul(percent).div_ceil(100);
        let mut seen = 0;
        for (&bucket, &count) in &self.counts {
            seen += count;
            if seen >= rank {
                return Spread::middle(bucket).min(self.max);
            }
        }
        self.max
    }

    fn figures(&self) -> Figures {
        Figures {
            sum: self.sum,
            mean: self.sum.checked_div(self.count).unwrap_or(0),
            p50: self.percentile(50),
            p95: self.percentile(95),
            max: self.max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_exact_within_one_in_a_hundred() {
        for scale in [1, 997, 1_000_003, 1 << 40] {
            let mut spread = Spread::default();
            (1..=1_000u64).rev().for_each(|value| spread.add(value * scale));
            let figures = spread.figures();
            assert_eq!((figures.max, figures.sum), (1_000 * scale, 500_500 * scale));
            for (found, wanted) in [(figures.p50, 500 * scale), (figures.p95, 950 * scale)] {
                assert!(found.abs_diff(wanted) <= wanted / 100, "{found} instead of {wanted}");
            }
        }
        let mut spread = Spread::default();
        assert_eq!(spread.figures(), Figures { sum: 0, mean: 0, p50: 0, p95: 0, max: 0 });
        spread.add(u64::MAX);
        assert!(spread.figures().p50 >= u64::MAX / 100 * 99);
    }

    #[test]
    fn small_values_are_exact() {
        let exact = (0..256).all(|value| Spread::middle(Spread::bucket(value)) == value);
        assert!(exact);
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        for (unix_s, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_709_251_199, "2024-02-29 23:59:59"),
            (4_107_542_400, "2100-03-01 00:00:00"),
        ] {
            assert_eq!(utc(unix_s * 1_000_000), text);
        }
    }

    #[test]
    fn rows_stand_under_their_names() {
        let head = ["TASK", "STATE", "ATTEMPTS", "WALL", "CPU", "MEMORY", "STARTED", "WORKER"];
        let cells = ["7", "done", "1", "1.0 s", "2 µs", "1.0 MiB", "1970-01-01 00:00:00", "w"];
        let (head, row) = (line(4, head), line(4, cells));
        for (name, cell) in [("STATE", "done"), ("CPU", "2 µs"), ("WORKER", "w\n")] {
            assert_eq!(head.find(name), row.find(cell).map(|at| row[..at].chars().count()));
        }
    }
}
