//! What workers say of tasks that run, as ordinary Rust values, and how much of a task's output was
//! shown.
//!
//! Responsible for checking what comes from workers, and for showing every byte of an attempt once,
//! whether it comes from the worker that runs it or from storage afterwards. Deliberately not for
//! whom to ask and when.

use proto::ids::{JobId, TaskIndex};
use proto::messages::task::{ActivityList, ActivityQuery, OutputChunk, OutputPull, TaskActivity};
use proto::record::{Message, Record, RecordError, encode};
use proto::status::OutputKind;
use proto::wire::items_of;

/// Progress of a task that says nothing of it.
const NOTHING_SAID: u16 = u16::MAX;

/// The whole, in the unit in which progress travels.
const WHOLE: u16 = 1_000;

/// A task that is being executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activity {
    /// Its job.
    pub job: JobId,
    /// The task.
    pub task: TaskIndex,
    /// The attempt.
    pub attempt: u64,
    /// When it began by its worker's clock, in microseconds since 1970.
    pub start_unix_us: u64,
    /// Thousandths of it that are done, as it says itself; `None` where it says nothing.
    pub progress: Option<u16>,
    /// What it says beside, without control characters; may be empty.
    pub text: String,
}

/// What a running task printed, from a byte on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// The attempt that printed it.
    pub attempt: u64,
    /// Standard output or standard error.
    pub kind: OutputKind,
    /// Where the content begins.
    pub offset: u64,
    /// The bytes; none where it printed no more yet.
    pub content: &'a [u8],
}

/// Asks a worker what it executes, of one job or of all.
#[must_use]
pub fn activity_query(job: Option<JobId>) -> Vec<u8> {
    let job_uuid = job.map(JobId::to_wire).unwrap_or_default();
    encode(&ActivityQuery { job_uuid, ..ActivityQuery::default() }, &[])
}

/// Asks a worker what a task printed from a byte on.
#[must_use]
pub fn output_pull(job: JobId, task: TaskIndex, kind: OutputKind, offset: u64) -> Vec<u8> {
    let pull = OutputPull {
        job_uuid: job.to_wire(),
        task_index: task.0,
        kind: kind.to_wire(),
        offset,
        ..OutputPull::default()
    };
    encode(&pull, &[])
}

/// What a worker executes.
///
/// # Errors
/// Where the record is another message or its parts do not fit.
pub fn read_activities(record: &Record<'_>) -> Result<Vec<Activity>, RecordError> {
    let (_, [items, mut texts]) = record.open::<ActivityList, 2>()?;
    let part = |part| RecordError::Part { message_type: ActivityList::TYPE, part };
    let items = items_of::<TaskActivity>(items).ok_or(part("activities"))?;
    let mut activities = Vec::with_capacity(items.len());
    for item in items {
        let length = usize::from(item.text_length);
        let (text, rest) = texts.split_at_checked(length).ok_or(part("texts"))?;
        texts = rest;
        let text = String::from_utf8_lossy(text);
        let progress = item.progress;
        activities.push(Activity {
            job: item.job_uuid.into(),
            task: TaskIndex(item.task_index),
            attempt: item.attempt,
            start_unix_us: item.start_unix_us,
            progress: (progress != NOTHING_SAID).then_some(progress.min(WHOLE)),
            // A worker sends none; a terminal must not have to believe that.
            text: text.chars().map(|it| if it.is_control() { ' ' } else { it }).collect(),
        });
    }
    Ok(activities)
}

/// What a task of a job printed.
///
/// # Errors
/// Where the record is another message, its parts do not fit, or it is about another task.
pub fn read_chunk<'a>(
    record: &Record<'a>,
    job: JobId,
    task: TaskIndex,
) -> Result<Chunk<'a>, RecordError> {
    let (chunk, [content]) = record.open::<OutputChunk, 1>()?;
    let value = |field| RecordError::Value { message_type: OutputChunk::TYPE, field };
    if (chunk.job_uuid, { chunk.task_index }) != (job.to_wire(), task.0) {
        return Err(value("task_index"));
    }
    let kind = OutputKind::from_wire(chunk.kind).ok_or(value("kind"))?;
    Ok(Chunk { attempt: chunk.attempt, kind, offset: chunk.offset, content })
}

/// Something to show of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// An attempt, whose output follows from its beginning.
    Attempt {
        /// Which.
        attempt: u64,
        /// The attempt whose output came before it, and is not the task's; `None` where this is the
        /// first.
        instead_of: Option<u64>,
    },
    /// More of what the attempt printed.
    Printed {
        /// Standard output or standard error.
        kind: OutputKind,
        /// The bytes; never none.
        content: Vec<u8>,
    },
}

/// How much of a task's output was shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The attempt; 0 before the first.
    attempt: u64,
    stdout: u64,
    stderr: u64,
}

impl Position {
    /// The attempt whose output is shown; `None` before the first.
    #[must_use]
    pub fn attempt(&self) -> Option<u64> {
        (self.attempt > 0).then_some(self.attempt)
    }

    /// The byte of a stream that is to be shown next.
    #[must_use]
    pub fn offset(&self, kind: OutputKind) -> u64 {
        match kind {
            OutputKind::Stderr => self.stderr,
            _ => self.stdout,
        }
    }

    /// Takes what a worker says of a task that it executes. What an earlier attempt prints is not
    /// shown: a worker that was given up runs on for a while.
    pub fn live(&mut self, chunk: Chunk<'_>) -> Vec<Shown> {
        if chunk.attempt < self.attempt { Vec::new() } else { self.take(chunk) }
    }

    /// Takes what stands on storage of the attempt whose result is recorded, whichever it is.
    pub fn recorded(&mut self, chunk: Chunk<'_>) -> Vec<Shown> {
        self.take(chunk)
    }

    fn take(&mut self, chunk: Chunk<'_>) -> Vec<Shown> {
        let mut shown = Vec::new();
        if chunk.attempt != self.attempt {
            shown.push(Shown::Attempt { attempt: chunk.attempt, instead_of: self.attempt() });
            *self = Position { attempt: chunk.attempt, stdout: 0, stderr: 0 };
        }
        let at = match chunk.kind {
            OutputKind::Stderr => &mut self.stderr,
            _ => &mut self.stdout,
        };
        // What was shown already is passed over. Bytes behind a gap are asked for again from where
        // the gap begins: they were meant for another attempt.
        let passed = at.checked_sub(chunk.offset).and_then(|it| usize::try_from(it).ok());
        let new = passed.and_then(|passed| chunk.content.get(passed..)).unwrap_or_default();
        if !new.is_empty() {
            *at += new.len() as u64;
            shown.push(Shown::Printed { kind: chunk.kind, content: new.to_vec() });
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use proto::record::Records;
    use proto::wire::bytes_of;

    use super::*;

    const JOB: JobId = JobId(0x0b);
    const STDOUT: OutputKind = OutputKind::Stdout;
    const STDERR: OutputKind = OutputKind::Stderr;

    fn chunk(attempt: u64, kind: OutputKind, offset: u64, content: &str) -> Chunk<'_> {
        Chunk { attempt, kind, offset, content: content.as_bytes() }
    }

    fn printed(kind: OutputKind, content: &str) -> Shown {
        Shown::Printed { kind, content: content.into() }
    }

    fn attempt(attempt: u64, instead_of: Option<u64>) -> Shown {
        Shown::Attempt { attempt, instead_of }
    }

    #[test]
    fn every_byte_of_an_attempt_is_shown_once_live_and_from_storage() {
        let mut position = Position::default();
        assert_eq!(position.attempt(), None);
        let first = position.live(chunk(1, STDOUT, 0, "ab"));
        assert_eq!(first, [attempt(1, None), printed(STDOUT, "ab")]);
        assert_eq!(position.live(chunk(1, STDERR, 0, "x")), [printed(STDERR, "x")]);
        assert_eq!(position.live(chunk(1, STDOUT, 2, "")), []);
        assert_eq!(position.live(chunk(1, STDOUT, 1, "bc")), [printed(STDOUT, "c")]);
        assert_eq!((position.offset(STDOUT), position.offset(STDERR)), (3, 1));
        assert_eq!(position.recorded(chunk(1, STDOUT, 0, "abcd")), [printed(STDOUT, "d")]);
        assert_eq!(position.recorded(chunk(1, STDERR, 0, "x")), []);
        assert_eq!(position.attempt(), Some(1));
    }

    #[test]
    fn a_new_attempt_begins_at_its_beginning() {
        let mut position = Position::default();
        position.live(chunk(1, STDOUT, 0, "abc"));
        // The answer to a question that was meant for the attempt before.
        assert_eq!(position.live(chunk(3, STDOUT, 3, "zz")), [attempt(3, Some(1))]);
        assert_eq!(position.offset(STDOUT), 0);
        assert_eq!(position.live(chunk(3, STDOUT, 0, "a")), [printed(STDOUT, "a")]);
        // A worker that was given up is not listened to, unless its result was recorded.
        assert_eq!(position.live(chunk(1, STDOUT, 1, "bcd")), []);
        let recorded = position.recorded(chunk(1, STDOUT, 0, "abcd"));
        assert_eq!(recorded, [attempt(1, Some(3)), printed(STDOUT, "abcd")]);
    }

    #[test]
    fn what_workers_say_is_checked() {
        let item = |task, progress, text: &str| TaskActivity {
            job_uuid: JOB.to_wire(),
            task_index: task,
            attempt: 2,
            start_unix_us: 9,
            progress,
            text_length: u16::try_from(text.len()).unwrap(),
        };
        let items = [item(1, 400, "a\x1bb"), item(2, u16::MAX, ""), item(3, 2_000, "cd")];
        let list = |texts: &[u8]| encode(&ActivityList::default(), &[bytes_of(&items), texts]);
        let read = |bytes: &[u8]| read_activities(&Records::of(bytes).next().unwrap().unwrap());
        let told: Vec<(u64, Option<u16>, String)> = read(&list(b"a\x1bbcd"))
            .unwrap()
            .into_iter()
            .map(|it| (it.task.0, it.progress, it.text))
            .collect();
        let wanted = [
            (1, Some(400), "a b".to_owned()),
            (2, None, String::new()),
            (3, Some(1_000), "cd".into()),
        ];
        assert_eq!(told, wanted);
        assert!(read(&list(b"a\x1bbc")).is_err(), "a text is missing");

        let answer = |kind, task| {
            let chunk = OutputChunk {
                job_uuid: JOB.to_wire(),
                task_index: task,
                attempt: 2,
                kind,
                offset: 5,
                ..OutputChunk::default()
            };
            encode(&chunk, &[b"text"])
        };
        let check = |bytes: &[u8], wanted: Option<Chunk<'_>>| {
            let record = Records::of(bytes).next().unwrap().unwrap();
            assert_eq!(read_chunk(&record, JOB, TaskIndex(7)).ok(), wanted);
        };
        check(&answer(STDERR.to_wire(), 7), Some(chunk(2, STDERR, 5, "text")));
        check(&answer(0, 7), None);
        check(&answer(STDERR.to_wire(), 8), None);
        check(&list(b"a\x1bbcd"), None);
    }
}
