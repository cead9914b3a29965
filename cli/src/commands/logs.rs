//! `remuda logs`: what tasks print, while they run from their workers, afterwards from storage.
//!
//! What was printed goes out as it is, so that it can be piped on; everything that this command
//! says of its own is a note on standard error.

use std::io::{self, Write};

use client::logic::answers::JobSummary;
use client::logic::jobs::JobSelector;
use client::logic::live::Shown;
use client::{Client, FollowEvent, TaskEnded};
use proto::ids::{JobId, TaskIndex};
use proto::segment::TaskOutputs;
use proto::status::{Cause, JobState, OutputKind, TaskState};
use proto::time::Duration;

use super::connect::{Asked, connect};
use super::jobs::selector;
use crate::failure::Failure;
use crate::flags::Logs;
use crate::output::note;

/// The waits between two looks at a job that is followed, doubled while nothing ends.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_LONGEST: Duration = Duration::from_millis(500);

/// Shows what tasks printed, of a whole job or of one task.
pub(crate) fn run(flags: &Logs) -> Result<(), Failure> {
    let (job, task) = parse(&flags.job)?;
    let client = connect(&flags.place)?;
    let job = client.status(job).asked()?;
    if let Some(task) = task.filter(|task| task.0 >= job.task_count) {
        return Err(Failure::usage(format!("job {} has no task {task}", job.job))
            .hint(format!("its tasks are 0 to {}", job.task_count - 1)));
    }
    let mut printer = Printer::new(flags);
    match task.or((job.task_count == 1).then_some(TaskIndex(0))) {
        Some(task) if flags.follow => follow_task(&client, job.job, task, &mut printer),
        Some(task) => show_task(&client, job.job, task, &mut printer),
        None if flags.follow => follow_job(&client, job.job, &mut printer),
        None => show_job(&client, &job, &mut printer),
    }
}

/// `JOB` or `JOB/TASK`. A job whose name has a slash is named by its UUID.
fn parse(text: &str) -> Result<(JobSelector, Option<TaskIndex>), Failure> {
    let Some((job, task)) = text.split_once('/') else { return Ok((selector(text), None)) };
    match task.parse() {
        Ok(task) if !job.is_empty() => Ok((selector(job), Some(TaskIndex(task)))),
        _ => Err(Failure::usage(format!("{text:?} names no task of a job"))
            .hint("write JOB/TASK with the task's index, such as last/0")),
    }
}

fn follow_task(
    client: &Client,
    job: JobId,
    task: TaskIndex,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let mut follow = client.follow_task(job, task).asked()?;
    while let Some(event) = follow.next_event().asked()? {
        printer.event(task, event)?;
    }
    Ok(())
}

fn show_task(
    client: &Client,
    job: JobId,
    task: TaskIndex,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let mut follow = client.follow_task(job, task).asked()?;
    let events = follow.so_far().asked()?;
    let has_ended = events.iter().any(|event| matches!(event, FollowEvent::Ended(_)));
    for event in events {
        printer.event(task, event)?;
    }
    match follow.worker() {
        _ if has_ended => {}
        Some(worker) => {
            note(&format!("task {task} runs on worker {}; --follow waits", worker.node))
        }
        None => note(&format!("task {task} does not run yet; --follow waits for it")),
    }
    Ok(())
}

fn show_job(client: &Client, job: &JobSummary, printer: &mut Printer) -> Result<(), Failure> {
    let mut logs = client.job_logs(job.job);
    while let Some(log) = logs.next_log().asked()? {
        printer.log(client, &log)?;
    }
    let left = job.task_count - job.done_count - job.failed_count;
    if left > 0 && !job.state.is_final() {
        note(&format!("{left} of {} tasks have not ended; --follow waits", job.task_count));
    }
    if job.failed_count > 0 {
        let (failed, all) = (job.failed_count, job.task_count);
        let which = format!("remuda tasks {} --state failed", job.job);
        note(&format!("{failed} of {all} tasks failed; which: {which}"));
    }
    Ok(())
}

fn follow_job(client: &Client, job: JobId, printer: &mut Printer) -> Result<(), Failure> {
    let mut logs = client.job_logs(job);
    let mut pause = PAUSE;
    let mut ended_before = 0;
    loop {
        let job = client.status(JobSelector::Id(job)).asked()?;
        let ended = job.done_count + job.failed_count;
        let is_final = job.state.is_final();
        if is_final {
            logs.look_again();
        }
        if ended > ended_before || is_final {
            while let Some(log) = logs.next_log().asked()? {
                printer.log(client, &log)?;
            }
            pause = PAUSE;
        }
        if is_final {
            if job.state != JobState::Done {
                let (failed, all) = (job.failed_count, job.task_count);
                note(&format!("the job is {}: {failed} of {all} tasks failed", job.state));
            }
            return Ok(());
        }
        ended_before = ended;
        std::thread::park_timeout(pause.to_std());
        pause = pause.times(2).min(PAUSE_LONGEST);
    }
}

/// Writes what tasks printed where it belongs.
#[derive(Debug)]
struct Printer {
    only: Option<OutputKind>,
    has_prefix: bool,
    /// The task whose line of this stream is not complete.
    open: [Option<TaskIndex>; 2],
}

impl Printer {
    fn new(flags: &Logs) -> Printer {
        let only = match (flags.stdout, flags.stderr) {
            (true, _) => Some(OutputKind::Stdout),
            (false, true) => Some(OutputKind::Stderr),
            (false, false) => None,
        };
        Printer { only, has_prefix: flags.prefix, open: [None; 2] }
    }

    fn event(&mut self, task: TaskIndex, event: FollowEvent) -> Result<(), Failure> {
        match event {
            FollowEvent::Shown(Shown::Attempt { instead_of: None, .. }) => {}
            FollowEvent::Shown(Shown::Attempt { instead_of: Some(_), .. }) => note(&format!(
                "task {task} is executed again: another attempt follows from its beginning"
            )),
            FollowEvent::Shown(Shown::Printed { kind, content }) => {
                self.print(task, kind, &content)?;
            }
            FollowEvent::Cut(kind) => self.cut(task, kind),
            FollowEvent::Ended(TaskEnded { state: TaskState::Done, .. }) => {}
            FollowEvent::Ended(TaskEnded { state: TaskState::Failed, exit_code, cause }) => {
                let why = match cause {
                    Cause::None => String::new(),
                    cause => format!(" ({cause})"),
                };
                note(&format!("task {task} failed with exit code {exit_code}{why}"));
            }
            FollowEvent::Ended(TaskEnded { state, .. }) => {
                note(&format!("task {task} is {state}"));
            }
        }
        Ok(())
    }

    fn log(&mut self, client: &Client, log: &TaskOutputs) -> Result<(), Failure> {
        let task = TaskIndex(log.task_index);
        for stream in &log.outputs {
            if self.only.is_some_and(|only| only != stream.kind) {
                continue;
            }
            let content = client.read_output(stream).asked()?;
            self.print(task, stream.kind, &content)?;
            if stream.is_cut {
                self.cut(task, stream.kind);
            }
        }
        Ok(())
    }

    fn cut(&self, task: TaskIndex, kind: OutputKind) {
        if self.only.is_none_or(|only| only == kind) {
            note(&format!("task {task} printed more; what is kept of {kind} ends here"));
        }
    }

    fn print(&mut self, task: TaskIndex, kind: OutputKind, content: &[u8]) -> Result<(), Failure> {
        let written = match (self.only, kind) {
            (Some(only), kind) if only != kind => Ok(()),
            (Some(_), _) | (None, OutputKind::Stdout) => {
                let mut stdout = io::stdout().lock();
                self.write(&mut stdout, 0, task, content).and_then(|()| stdout.flush())
            }
            (None, _) => self.write(&mut io::stderr().lock(), 1, task, content),
        };
        written.map_err(|error| Failure::output(&error))
    }

    fn write(
        &mut self,
        target: &mut dyn Write,
        stream: usize,
        task: TaskIndex,
        content: &[u8],
    ) -> io::Result<()> {
        if !self.has_prefix {
            return target.write_all(content);
        }
        let Some(open) = self.open.get_mut(stream) else { return Ok(()) };
        let mut text = Vec::with_capacity(content.len() + content.len() / 4);
        if open.is_some_and(|open| open != task) {
            text.push(b'\n');
            *open = None;
        }
        for line in content.split_inclusive(|byte| *byte == b'\n') {
            if open.is_none() {
                text.extend_from_slice(format!("{task}: ").as_bytes());
            }
            text.extend_from_slice(line);
            *open = (!line.ends_with(b"\n")).then_some(task);
        }
        target.write_all(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_named_behind_its_job() {
        let text = |text: &str| JobSelector::Text(text.to_owned());
        assert_eq!(parse("last"), Ok((text("last"), None)));
        assert_eq!(parse("my job/17"), Ok((text("my job"), Some(TaskIndex(17)))));
        let id = JobId(0x1234);
        assert_eq!(parse(&format!("{id}/0")), Ok((JobSelector::Id(id), Some(TaskIndex(0)))));
        for wrong in ["last/", "last/x", "/3", "last/-1", "last/1/2", "last/1/stdout"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn lines_begin_with_their_task_where_that_is_wanted() {
        let mut printer = Printer { only: None, has_prefix: true, open: [None; 2] };
        let mut text = Vec::new();
        for (task, content) in [(3, "one\ntw"), (3, "o\n\n"), (4, "open"), (5, "next"), (5, "\n")] {
            printer.write(&mut text, 0, TaskIndex(task), content.as_bytes()).unwrap();
        }
        assert_eq!(String::from_utf8(text).unwrap(), "3: one\n3: two\n3: \n4: open\n5: next\n");
        let mut plain = Printer { has_prefix: false, ..printer };
        let mut text = Vec::new();
        plain.write(&mut text, 0, TaskIndex(3), b"as\xffit is").unwrap();
        assert_eq!(text, b"as\xffit is");
    }
}
