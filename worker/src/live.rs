//! What a worker tells of tasks while they run: which there are, how far they say they are, and
//! what they printed so far.
//!
//! Everything is read when somebody asks and nothing is kept. It is read on the thread of the loop:
//! at most 64 KiB of a file that was written moments ago, or a file of one line for each slot,
//! which the system has in memory. The files are their task's to replace, so whatever is not a
//! plain file there counts as absent: a link would lead the worker to what the task may not read,
//! a pipe would make it wait.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use node::logic::refusal::Refusal;
use proto::limits::{OUTPUT_CHUNK_BYTES, STREAM_BYTES};
use proto::messages::task::{ActivityList, ActivityQuery, OutputChunk, OutputPull, TaskActivity};
use proto::record::{Envelope, Message, Record, RecordError, encode};
use proto::status::{ErrorCode, OutputKind};
use proto::wire::bytes_of;
use rustix::fs::OFlags;

use crate::progress::{self, Progress};
use crate::running::{Running, RunningTask};

/// Progress of a task that says nothing of it.
const NOTHING_SAID: u16 = u16::MAX;

/// The answer to a question about running tasks; `None` where the record is none.
pub(crate) fn answer(record: &Record<'_>, running: &Running) -> Option<Vec<u8>> {
    let answer = match record.message_type() {
        ActivityQuery::TYPE => activities(record, running),
        OutputPull::TYPE => printed(record, running),
        _ => return None,
    };
    let refused = |refusal: Refusal| refusal.to_record(record.request_id());
    Some(answer.unwrap_or_else(refused))
}

fn malformed(record: &Record<'_>) -> impl Fn(RecordError) -> Refusal {
    let refused_type = record.message_type();
    move |error| Refusal::new(ErrorCode::Malformed, refused_type, error.to_string())
}

fn envelope(record: &Record<'_>) -> Envelope {
    Envelope { request_id: record.request_id().0, ..Envelope::default() }
}

fn activities(record: &Record<'_>, running: &Running) -> Result<Vec<u8>, Refusal> {
    let query = record.read::<ActivityQuery>().map_err(malformed(record))?;
    let (mut activities, mut texts) = (Vec::new(), String::new());
    for task in running.list() {
        let is_wanted = query.job_uuid.value() == 0 || query.job_uuid == task.job.to_wire();
        if !is_wanted {
            continue;
        }
        let told = told(&task.progress);
        let text = told.as_ref().map_or("", |told| told.text.as_str());
        activities.push(TaskActivity {
            job_uuid: task.job.to_wire(),
            task_index: task.task.0,
            attempt: task.attempt,
            start_unix_us: task.start_unix_us,
            progress: told.as_ref().map_or(NOTHING_SAID, |told| told.thousandths),
            // Texts are far shorter; one that were not would be cut with all behind it.
            text_length: u16::try_from(text.len()).unwrap_or(0),
        });
        texts.push_str(text);
    }
    let list = ActivityList { envelope: envelope(record), ..ActivityList::default() };
    Ok(encode(&list, &[bytes_of(&activities), texts.as_bytes()]))
}

/// What a task says of its progress; `None` where it says nothing, or nothing that can be read.
fn told(path: &Path) -> Option<Progress> {
    let bytes = read(path, 0, progress::FILE_BYTES).ok()?;
    String::from_utf8_lossy(&bytes).parse().ok()
}

fn printed(record: &Record<'_>, running: &Running) -> Result<Vec<u8>, Refusal> {
    let pull = record.read::<OutputPull>().map_err(malformed(record))?;
    let refused = |code, text: String| Refusal::new(code, OutputPull::TYPE, text);
    let path: fn(&RunningTask) -> &Path = match OutputKind::from_wire(pull.kind) {
        Some(OutputKind::Stdout) => |task| &task.stdout,
        Some(OutputKind::Stderr) => |task| &task.stderr,
        _ => {
            let text = "a running task is asked for standard output or standard error".to_owned();
            return Err(refused(ErrorCode::Invalid, text));
        }
    };
    let (job, task) = (pull.job_uuid.into(), proto::ids::TaskIndex(pull.task_index));
    let Some(found) = running.find(job, task) else {
        let text = format!("this worker does not execute task {task} of job {job}");
        return Err(refused(ErrorCode::NotFound, text));
    };
    // What a task prints beyond this is cut off again and again while it runs.
    let left = STREAM_BYTES.saturating_sub(pull.offset).min(OUTPUT_CHUNK_BYTES as u64);
    let content = read(path(&found), pull.offset, usize::try_from(left).unwrap_or(0));
    let content = content.map_err(|error| {
        let text = format!("what task {task} of job {job} printed cannot be read: {error}");
        refused(ErrorCode::Unavailable, text)
    })?;
    let chunk = OutputChunk {
        envelope: envelope(record),
        job_uuid: pull.job_uuid,
        task_index: pull.task_index,
        attempt: found.attempt,
        kind: pull.kind,
        offset: pull.offset,
        ..OutputChunk::default()
    };
    Ok(encode(&chunk, &[&content]))
}

/// Up to `longest` bytes of a plain file from `offset` on; none of one that is absent.
fn read(path: &Path, offset: u64, longest: usize) -> io::Result<Vec<u8>> {
    // Opening a pipe does not wait with the second flag.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    // A second name of a plain file may be that of a file of somebody else.
    if !metadata.is_file() || metadata.nlink() > 1 {
        return Err(io::Error::other("it is not a plain file"));
    }
    let there = metadata.len().saturating_sub(offset);
    let mut content = vec![0; longest.min(usize::try_from(there).unwrap_or(usize::MAX))];
    let mut count = 0;
    while let Some(rest) = content.get_mut(count..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + count as u64) {
            Ok(0) => break,
            Ok(read) => count += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    content.truncate(count);
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use proto::ids::{JobId, RequestId, TaskIndex};
    use proto::record::{Records, set_request_id};
    use proto::wire::{WireUuid, items_of};

    use super::*;
    use crate::running::Listed;

    const JOB: JobId = JobId(0x0b);

    struct Bench {
        folder: tempfile::TempDir,
        running: Running,
        listed: Vec<Listed>,
    }

    impl Bench {
        fn new() -> Bench {
            let folder = tempfile::tempdir().unwrap();
            Bench { folder, running: Running::default(), listed: Vec::new() }
        }

        /// Lists a task whose files are `stdout-N` and so on.
        fn begin(&mut self, job: JobId, task: u64, attempt: u64) {
            let file = |what: &str| self.folder.path().join(format!("{what}-{task}"));
            let task = RunningTask {
                job,
                task: TaskIndex(task),
                attempt,
                start_unix_us: 1_000 + task,
                stdout: file("stdout"),
                stderr: file("stderr"),
                progress: file("progress"),
            };
            self.listed.push(self.running.begin(task));
        }

        fn write(&self, name: &str, content: &[u8]) {
            fs::write(self.folder.path().join(name), content).unwrap();
        }

        /// Asks, and hands the answer to `look`.
        fn ask<T>(&self, mut question: Vec<u8>, look: impl FnOnce(&Record<'_>) -> T) -> T {
            set_request_id(&mut question, RequestId(7));
            let question = Records::of(&question).next().unwrap().unwrap();
            let answer = answer(&question, &self.running).unwrap();
            let answer = Records::of(&answer).next().unwrap().unwrap();
            assert_eq!(answer.request_id(), RequestId(7));
            look(&answer)
        }

        fn activities(&self, job: WireUuid) -> Vec<(u64, u64, u64, u16, String)> {
            let query = ActivityQuery { job_uuid: job, ..ActivityQuery::default() };
            self.ask(encode(&query, &[]), |answer| {
                let (_, [items, mut texts]) = answer.open::<ActivityList, 2>().unwrap();
                let mut read = Vec::new();
                for item in items_of::<TaskActivity>(items).unwrap() {
                    let (text, rest) = texts.split_at(usize::from(item.text_length));
                    let text = String::from_utf8(text.to_vec()).unwrap();
                    let TaskActivity { task_index, attempt, start_unix_us, progress, .. } = *item;
                    read.push((task_index, attempt, start_unix_us, progress, text));
                    texts = rest;
                }
                assert!(texts.is_empty());
                read
            })
        }

        fn pull(&self, task: u64, kind: OutputKind, offset: u64) -> Result<Vec<u8>, ErrorCode> {
            let pull = OutputPull {
                job_uuid: JOB.to_wire(),
                task_index: task,
                kind: kind.to_wire(),
                offset,
                ..OutputPull::default()
            };
            self.ask(encode(&pull, &[]), |answer| {
                if let Ok(refusal) = Refusal::from_record(answer) {
                    assert!(!refusal.text.is_empty());
                    return Err(refusal.code);
                }
                let (chunk, [content]) = answer.open::<OutputChunk, 1>().unwrap();
                assert_eq!(({ chunk.task_index }, { chunk.offset }), (task, offset));
                Ok(content.to_vec())
            })
        }
    }

    #[test]
    fn running_tasks_are_listed_with_what_they_say() {
        let mut bench = Bench::new();
        assert_eq!(bench.activities(WireUuid::default()), []);
        bench.begin(JOB, 3, 1);
        bench.begin(JobId(0x0c), 4, 2);
        bench.begin(JOB, 5, 6);
        bench.write("progress-3", b"3/4 nearly\n");
        bench.write("progress-4", b"what?\n");
        bench.write("progress-5", "50% größer".as_bytes());
        let third = (3, 1, 1_003, 750, "nearly".to_owned());
        let fifth = (5, 6, 1_005, 500, "größer".to_owned());
        let fourth = (4, 2, 1_004, NOTHING_SAID, String::new());
        let all = bench.activities(WireUuid::default());
        assert_eq!(all, [third.clone(), fourth, fifth.clone()]);
        assert_eq!(bench.activities(JOB.to_wire()), [third, fifth.clone()]);
        bench.listed.remove(0);
        assert_eq!(bench.activities(JOB.to_wire()), [fifth]);
    }

    #[test]
    fn output_comes_in_bounded_pieces_from_any_byte_on() {
        let mut bench = Bench::new();
        bench.begin(JOB, 3, 1);
        assert_eq!(bench.pull(3, OutputKind::Stdout, 0), Ok(Vec::new()), "nothing is there yet");
        let content: Vec<u8> = (0..200_000u32).map(|at| (at % 251) as u8).collect();
        bench.write("stdout-3", &content);
        bench.write("stderr-3", b"oh");
        let mut read = Vec::new();
        loop {
            let piece = bench.pull(3, OutputKind::Stdout, read.len() as u64).unwrap();
            assert!(piece.len() <= OUTPUT_CHUNK_BYTES);
            if piece.is_empty() {
                break;
            }
            read.extend(piece);
        }
        assert!(read == content);
        assert_eq!(bench.pull(3, OutputKind::Stderr, 1), Ok(b"h".to_vec()));
        assert_eq!(bench.pull(3, OutputKind::Stdout, u64::MAX), Ok(Vec::new()));
        assert_eq!(bench.pull(4, OutputKind::Stdout, 0), Err(ErrorCode::NotFound));
        assert_eq!(bench.pull(3, OutputKind::File, 0), Err(ErrorCode::Invalid));
        // What is cut off at the end is not shown before.
        let stdout = File::options().write(true).open(bench.folder.path().join("stdout-3"));
        stdout.unwrap().set_len(STREAM_BYTES + 10).unwrap();
        assert_eq!(bench.pull(3, OutputKind::Stdout, STREAM_BYTES - 3).unwrap().len(), 3);
        assert_eq!(bench.pull(3, OutputKind::Stdout, STREAM_BYTES), Ok(Vec::new()));
    }

    #[test]
    fn what_a_task_puts_in_place_of_its_files_is_not_read() {
        let mut bench = Bench::new();
        let path = |name: &str| bench.folder.path().join(name);
        fs::write(path("secret"), b"40% secret").unwrap();
        symlink(path("secret"), path("stdout-1")).unwrap();
        fs::hard_link(path("secret"), path("stderr-1")).unwrap();
        symlink(path("secret"), path("progress-1")).unwrap();
        let pipe = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, path("stdout-2"), pipe).unwrap();
        fs::create_dir(path("stderr-2")).unwrap();
        bench.begin(JOB, 1, 1);
        bench.begin(JOB, 2, 1);
        for task in [1, 2] {
            for kind in [OutputKind::Stdout, OutputKind::Stderr] {
                assert_eq!(bench.pull(task, kind, 0), Err(ErrorCode::Unavailable), "{task} {kind}");
            }
        }
        let activities = bench.activities(WireUuid::default());
        assert!(activities.iter().all(|it| it.3 == NOTHING_SAID && it.4.is_empty()));
    }

    #[test]
    fn other_questions_are_left_to_others() {
        let running = Running::default();
        let record = encode(&ActivityList::default(), &[b"", b""]);
        let record = Records::of(&record).next().unwrap().unwrap();
        assert_eq!(answer(&record, &running), None);
    }
}
