//! The runtime that packs many segments of a job into one, for the masters.
//!
//! What was accepted from the old segments is gathered into a file without a name, in small parts
//! that are each in the order of the tasks, and merged from there section by section: memory is
//! bounded by the number of segments, whatever is in them. The new segment is stored before the
//! masters hear of it, and whatever fails, the old ones stay listed. Deliberately not here: when
//! segments are folded, and which.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use client::logic::answers::Answer;
use client::logic::jobs::Request;
use client::logic::session::CallFailure;
use client::{Begun, Client, ClientError, owned_output};
use proto::description::Runtime as RuntimeKind;
use proto::ids::{FileId, Incarnation, JobId, NodeId};
use proto::limits::{FOLDED_SECTION_BYTES, FOLDED_SEGMENT_BYTES, SEGMENT_INDEX_BYTES};
use proto::segment::{
    AccountingEntry, ENTRY_BYTES, MAGIC, NewSection, Output, SegmentError, SegmentSection,
    SegmentWriter, TaskOutputs,
};
use proto::status::{Cause, ErrorCode, TaskState};
use proto::time::Duration;
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::{Cancel, Ending, Runtime, Task};

/// Bytes of a part, of which one for each segment may be in memory: 8 MiB of a thousand. A task
/// that is longer has a part of its own.
const PART_BYTES: usize = 8 << 10;

/// Bytes of what is gathered for one segment; the rest is room for the index.
const GATHERED_BYTES: u64 = FOLDED_SEGMENT_BYTES - SEGMENT_INDEX_BYTES as u64;

/// How often somebody who waits looks whether the task was cancelled.
const LOOK: Duration = Duration::from_millis(100);

/// Folds segments.
#[derive(Debug)]
pub(super) struct FoldRuntime {
    client: Arc<Client>,
    /// The worker, in whose name the masters are told: they take it from no other client.
    worker: (NodeId, Incarnation),
    /// A folder of the worker's own, on its disk.
    place: PathBuf,
}

/// Why segments are not folded.
#[derive(Debug, thiserror::Error)]
enum NotFolded {
    /// Nobody wants it any more.
    #[error("it was cancelled")]
    Cancelled,
    /// The masters or storage.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The worker's disk.
    #[error("what is folded cannot be kept on this worker's disk")]
    Disk(#[from] io::Error),
    /// A part of our own cannot be read.
    #[error("what was gathered cannot be read")]
    Part(#[from] SegmentError),
}

impl FoldRuntime {
    pub(super) fn new(
        client: Arc<Client>,
        worker: (NodeId, Incarnation),
        place: PathBuf,
    ) -> FoldRuntime {
        FoldRuntime { client, worker, place }
    }

    /// What the masters are told of a fold.
    fn request(&self, job: JobId, fold: u64, segment: FileId, segment_count: u64) -> Request {
        let (worker, incarnation) = self.worker;
        Request::Fold { job, fold, segment, segment_count, worker, incarnation }
    }

    fn fold(&self, job: JobId, fold: u64, cancel: &Cancel) -> Result<(), NotFolded> {
        tracing::info!(%job, fold, "segments are being folded");
        let mut sections = self.client.fold_sections(job, fold);
        let mut gathered = Gathered::new(unnamed_file(&self.place)?, job)?;
        let segment_count = loop {
            let Some(section) = sections.next_section()? else { break sections.listed_count() };
            give_up(cancel)?;
            gathered.begin_segment(section.position);
            gathered.add(section.entries()?, section.outputs()?)?;
            if let Some(count) = gathered.cut() {
                break count;
            }
        };
        if segment_count == 0 {
            // The fold is over, or its job forgotten.
            return Ok(());
        }
        let segment = if gathered.parts.is_empty() {
            FileId(0)
        } else {
            let file = gathered.merge(unnamed_file(&self.place)?, cancel)?;
            // The file has no name but this one.
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let (segment, _, begun) = self.client.begin_put_file(Path::new(&path))?;
            wait(begun, cancel)?;
            segment
        };
        let request = self.request(job, fold, segment, segment_count);
        let answer = wait(self.client.begin(request), cancel)?;
        let Answer::Folded { is_listed, .. } = answer else {
            return Err(ClientError::OtherAnswer.into());
        };
        tracing::info!(%job, fold, segment_count, %segment, is_listed, "segments were folded");
        Ok(())
    }

    /// Tells the masters that they need not wait for a fold. The task's outcome says the same, but
    /// may stand behind a status frame that waits for this very fold to make room.
    fn came_to_nothing(&self, job: JobId, fold: u64, cancel: &Cancel) {
        let request = self.request(job, fold, FileId(0), 0);
        if let Err(error) = wait(self.client.begin(request), cancel) {
            let error = node::log::chain(&error);
            tracing::debug!(%job, fold, %error, "nobody was told that a fold came to nothing");
        }
    }
}

impl Runtime for FoldRuntime {
    fn execute(&mut self, task: &Task<'_>, cancel: &Cancel) -> Ending {
        let RuntimeKind::Fold { job, fold } = task.spec.description.runtime else {
            unreachable!("whoever chooses the runtime goes by the description");
        };
        ending(self.fold(job, fold, cancel), |error| {
            let error = node::log::chain(&error);
            tracing::warn!(%job, fold, %error, "segments are not folded; tried again later");
            self.came_to_nothing(job, fold, cancel);
        })
    }
}

/// How the task ends. Where the fold failed, `tell` says so to the masters before.
fn ending(result: Result<(), NotFolded>, tell: impl FnOnce(NotFolded)) -> Ending {
    match result {
        Ok(()) => Ending::exit(0),
        Err(NotFolded::Cancelled) => Ending::of(TaskState::Lost, 0, Cause::Cancelled),
        Err(NotFolded::Client(error)) if is_gone(&error) => Ending::exit(0),
        Err(error) => {
            tell(error);
            Ending::exit(1)
        }
    }
}

/// True where the masters do not know the job any more.
fn is_gone(error: &ClientError) -> bool {
    let ClientError::Call(CallFailure::Refused { code, .. }) = error else { return false };
    matches!(code, ErrorCode::NotFound | ErrorCode::Forgotten)
}

fn give_up(cancel: &Cancel) -> Result<(), NotFolded> {
    if cancel.is_cancelled() { Err(NotFolded::Cancelled) } else { Ok(()) }
}

fn wait<T>(mut begun: Begun<T>, cancel: &Cancel) -> Result<T, NotFolded> {
    loop {
        if let Some(result) = begun.wait_for(LOOK).map_err(ClientError::from)? {
            return Ok(result?);
        }
        give_up(cancel)?;
    }
}

/// A file that is gone when it is closed, also where the worker is killed.
fn unnamed_file(place: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match openat(CWD, place, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        // Not every file system has such files; there, a name is taken away at once.
        Err(_) => {
            let path = place.join(format!("fold-{:?}", std::thread::current().id()));
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(true).open(&path)?;
            std::fs::remove_file(&path)?;
            Ok(file)
        }
    }
}

/// Tasks that are packed until there are enough of them.
#[derive(Debug, Default)]
struct Packed {
    entries: Vec<AccountingEntry>,
    outputs: Vec<TaskOutputs>,
    bytes: usize,
}

impl Packed {
    fn push(&mut self, entry: AccountingEntry, outputs: Vec<Output>, bytes: usize) {
        self.bytes += bytes;
        self.entries.push(entry);
        if !outputs.is_empty() {
            let AccountingEntry { task_index, attempt, .. } = entry;
            self.outputs.push(TaskOutputs { task_index, attempt, outputs });
        }
    }
}

/// A segment on its way to a file.
struct Written {
    job: JobId,
    file: File,
    writer: SegmentWriter,
    buffer: Vec<u8>,
}

impl Written {
    fn new(mut file: File, job: JobId) -> io::Result<Written> {
        file.write_all(&MAGIC)?;
        Ok(Written { job, file, writer: SegmentWriter::default(), buffer: Vec::new() })
    }

    /// Writes a section of what is packed; `None` where there is nothing.
    fn write(&mut self, packed: &mut Packed) -> io::Result<Option<SegmentSection>> {
        let Packed { entries, outputs, .. } = std::mem::take(packed);
        if entries.is_empty() {
            return Ok(None);
        }
        let section = NewSection { job: self.job, entries: &entries, outputs: &outputs };
        self.buffer.clear();
        let placed = self.writer.section(&section, &mut self.buffer);
        self.file.write_all(&self.buffer)?;
        Ok(Some(placed))
    }

    fn finish(mut self) -> io::Result<File> {
        self.buffer.clear();
        self.writer.finish(&mut self.buffer);
        self.file.write_all(&self.buffer)?;
        Ok(self.file)
    }
}

/// Bytes of one task in a segment.
fn packed_bytes(outputs: &[Output]) -> usize {
    ENTRY_BYTES + outputs.iter().map(Output::packed_bytes).sum::<usize>()
}

/// What was gathered of the old segments, in parts.
struct Gathered {
    written: Written,
    parts: Vec<SegmentSection>,
    /// Number of the segment that is gathered, and the parts before it.
    segment: (u64, usize),
    /// Bytes of parts that one segment may hold.
    limit: u64,
}

impl Gathered {
    fn new(file: File, job: JobId) -> io::Result<Gathered> {
        Ok(Gathered {
            written: Written::new(file, job)?,
            parts: Vec::new(),
            segment: (0, 0),
            limit: GATHERED_BYTES,
        })
    }

    /// What is added from now on is of the segment with this number, counted from 0.
    fn begin_segment(&mut self, position: u64) {
        if position != self.segment.0 {
            self.segment = (position, self.parts.len());
        }
    }

    /// Adds a section: the entries of all its tasks, in their order, and their outputs likewise.
    fn add(&mut self, entries: Vec<AccountingEntry>, outputs: Vec<TaskOutputs>) -> io::Result<()> {
        let mut packed = Packed::default();
        let mut outputs = outputs.into_iter().peekable();
        for entry in entries {
            let of_task = outputs.next_if(|it| it.task_index == { entry.task_index });
            let of_task = of_task.map(|it| it.outputs).unwrap_or_default();
            let bytes = packed_bytes(&of_task);
            if packed.bytes + bytes > PART_BYTES {
                self.parts.extend(self.written.write(&mut packed)?);
            }
            packed.push(entry, of_task, bytes);
        }
        self.parts.extend(self.written.write(&mut packed)?);
        Ok(())
    }

    /// Where more was gathered than one segment may hold: takes back what is of the segment that is
    /// gathered, and returns how many there were before it. The first one always fits.
    fn cut(&mut self) -> Option<u64> {
        let (position, part_count) = self.segment;
        let is_full = self.written.writer.length() > self.limit && position > 0;
        is_full.then(|| {
            self.parts.truncate(part_count);
            position
        })
    }

    /// Writes everything in the order of the tasks, each of them once.
    fn merge(self, to: File, cancel: &Cancel) -> Result<File, NotFolded> {
        let mut parts = self.parts;
        parts.sort_by_key(|part| part.first_task);
        let mut parts = parts.into_iter().enumerate().peekable();
        let from = self.written.file;
        let mut merged = Written::new(to, self.written.job)?;
        // Parts that have begun, by their next task.
        let mut open: BTreeMap<(u64, usize), Part> = BTreeMap::new();
        let mut packed = Packed::default();
        loop {
            let begun = open.first_key_value().map(|(&(task, _), _)| task);
            let next = parts.peek().map(|(_, part)| part.first_task);
            let Some(task) = [begun, next].into_iter().flatten().min() else { break };
            while let Some((number, part)) = parts.next_if(|(_, part)| part.first_task <= task) {
                open.insert((part.first_task, number), Part::read(&from, &part)?);
            }
            let mut best: Option<(AccountingEntry, Vec<Output>)> = None;
            while let Some(first) = open.first_entry().filter(|first| first.key().0 == task) {
                let ((_, number), mut part) = first.remove_entry();
                if let Some(found) = part.tasks.pop_front() {
                    let rank = |(entry, outputs): &(AccountingEntry, Vec<Output>)| {
                        (!outputs.is_empty(), entry.attempt)
                    };
                    if best.as_ref().is_none_or(|best| rank(best) < rank(&found)) {
                        best = Some(found);
                    }
                }
                if let Some((entry, _)) = part.tasks.front() {
                    open.insert((entry.task_index, number), part);
                }
            }
            let Some((entry, outputs)) = best else { continue };
            let bytes = packed_bytes(&outputs);
            packed.push(entry, outputs, bytes);
            if packed.bytes >= FOLDED_SECTION_BYTES {
                give_up(cancel)?;
                merged.write(&mut packed)?;
            }
        }
        merged.write(&mut packed)?;
        Ok(merged.finish()?)
    }
}

/// A part that is in memory.
struct Part {
    tasks: VecDeque<(AccountingEntry, Vec<Output>)>,
}

impl Part {
    fn read(from: &File, placed: &SegmentSection) -> Result<Part, NotFolded> {
        let place = placed.bytes().ok_or(SegmentError::Index)?;
        let mut bytes = vec![0; (place.end - place.start) as usize];
        from.read_exact_at(&mut bytes, place.start)?;
        let section = placed.read(&bytes)?;
        let mut outputs = section.outputs().peekable();
        let mut tasks = VecDeque::with_capacity(section.entries.len());
        for entry in section.entries {
            let mut of_task = Vec::new();
            while let Some(output) = outputs.next_if(|it| it.task.0 == { entry.task_index }) {
                of_task.push(owned_output(&output));
            }
            tasks.push_back((*entry, of_task));
        }
        Ok(Part { tasks })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use proto::segment::{OutputContent, Segment};
    use proto::status::OutputKind;

    use super::*;

    const JOB: JobId = JobId(5);

    fn entry(task_index: u64, attempt: u64) -> AccountingEntry {
        AccountingEntry { task_index, attempt, wall_us: task_index ^ 7, ..Default::default() }
    }

    fn printed(bytes: Vec<u8>) -> Output {
        Output {
            kind: OutputKind::Stdout,
            name: Vec::new(),
            mode: 0,
            is_cut: false,
            content: OutputContent::Packed(bytes),
        }
    }

    fn stored(name: &str) -> Output {
        let content = OutputContent::File { file: FileId(77), length: 1 << 40 };
        Output { kind: OutputKind::File, name: name.into(), mode: 0o755, is_cut: false, content }
    }

    fn file() -> File {
        unnamed_file(&std::env::temp_dir()).unwrap()
    }

    fn cancel() -> Cancel {
        Cancel::new(std::thread::current())
    }

    /// What a merged segment has, task by task, and the number of its sections.
    fn read(file: &File) -> (BTreeMap<u64, (u64, Vec<Output>)>, usize) {
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let segment = Segment::open(&bytes).unwrap();
        let mut found = BTreeMap::new();
        let mut end = 0;
        for section in segment.sections() {
            assert_eq!(section.job, JOB);
            for entry in section.entries {
                assert!(entry.task_index >= end, "tasks ascend over all sections");
                end = entry.task_index + 1;
                let outputs = section.outputs_of(proto::ids::TaskIndex(entry.task_index));
                let outputs = outputs.map(|it| owned_output(&it)).collect();
                assert_eq!({ entry.wall_us }, entry.task_index ^ 7);
                found.insert(entry.task_index, (entry.attempt, outputs));
            }
        }
        (found, segment.sections().len())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10))]

        #[test]
        fn a_merged_segment_has_every_task_once_with_what_it_wrote(
            // For each task: its segment, and how long what it prints is; nothing for 0.
            tasks in prop::collection::vec((0usize..7, 0usize..600), 1..400),
            long in prop::collection::vec(0usize..400, 0..4),
        ) {
            let mut expected = BTreeMap::new();
            let mut segments = vec![(Vec::new(), Vec::new()); 7];
            for (task, &(segment, length)) in tasks.iter().enumerate() {
                let length = if long.contains(&task) { 500_000 + length } else { length };
                let mut outputs = Vec::new();
                if length > 0 {
                    outputs.push(printed(vec![task as u8; length]));
                }
                if length % 5 == 1 {
                    outputs.push(stored("a/b"));
                }
                let (task_index, attempt) = (task as u64 * 3, 1 + length as u64);
                let (entries, written): &mut (Vec<_>, Vec<_>) = &mut segments[segment];
                entries.push(entry(task_index, attempt));
                if !outputs.is_empty() {
                    written.push(TaskOutputs { task_index, attempt, outputs: outputs.clone() });
                }
                expected.insert(task_index, (attempt, outputs));
            }
            let mut gathered = Gathered::new(file(), JOB).unwrap();
            for (position, (entries, outputs)) in segments.into_iter().enumerate() {
                gathered.begin_segment(position as u64);
                gathered.add(entries, outputs).unwrap();
                prop_assert_eq!(gathered.cut(), None);
            }
            let merged = gathered.merge(file(), &cancel()).unwrap();
            let (found, section_count) = read(&merged);
            prop_assert!(found == expected);
            let bytes: usize = expected.values().map(|(_, outputs)| packed_bytes(outputs)).sum();
            prop_assert!(section_count <= 1 + bytes / FOLDED_SECTION_BYTES);
        }
    }

    #[test]
    fn the_same_segments_make_the_same_file_whoever_folds_them() {
        let make = || {
            let mut gathered = Gathered::new(file(), JOB).unwrap();
            for segment in 0..3 {
                gathered.begin_segment(segment);
                let entries: Vec<_> = (0..100).map(|n| entry(n * 3 + segment, 1)).collect();
                gathered.add(entries, Vec::new()).unwrap();
            }
            let merged = gathered.merge(file(), &cancel()).unwrap();
            let mut bytes = vec![0; merged.metadata().unwrap().len() as usize];
            merged.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        };
        assert_eq!(make(), make());
    }

    #[test]
    fn of_a_task_that_is_met_twice_what_it_wrote_is_kept() {
        let mut gathered = Gathered::new(file(), JOB).unwrap();
        let outputs = vec![printed(b"text".to_vec())];
        let written = TaskOutputs { task_index: 4, attempt: 2, outputs: outputs.clone() };
        gathered.add(vec![entry(4, 3)], Vec::new()).unwrap();
        gathered.begin_segment(1);
        gathered.add(vec![entry(4, 2), entry(9, 1)], vec![written]).unwrap();
        let merged = gathered.merge(file(), &cancel()).unwrap();
        assert_eq!(read(&merged).0, BTreeMap::from([(4, (2, outputs)), (9, (1, Vec::new()))]));
    }

    #[test]
    fn what_does_not_fit_into_one_segment_is_taken_back() {
        let mut gathered = Gathered::new(file(), JOB).unwrap();
        gathered.add(vec![entry(4, 1)], Vec::new()).unwrap();
        assert_eq!(gathered.cut(), None);
        gathered.begin_segment(1);
        gathered.add(vec![entry(2, 1)], Vec::new()).unwrap();
        gathered.begin_segment(2);
        gathered.add(vec![entry(1, 1)], Vec::new()).unwrap();
        gathered.add(vec![entry(7, 1)], Vec::new()).unwrap();
        gathered.limit = gathered.written.writer.length() - 1;
        assert_eq!(gathered.cut(), Some(2));
        let merged = gathered.merge(file(), &cancel()).unwrap();
        assert!(read(&merged).0.keys().eq(&[2, 4]));
    }

    #[test]
    fn only_of_a_fold_that_failed_the_masters_are_told_that_it_came_to_nothing() {
        let gone = CallFailure::Refused { code: ErrorCode::NotFound, text: String::new() };
        let results = [
            (Err(NotFolded::Disk(io::ErrorKind::StorageFull.into())), true, 1),
            (Err(NotFolded::Client(ClientError::Segment(SegmentError::NotASegment))), true, 1),
            (Err(NotFolded::Client(ClientError::Call(gone))), false, 0),
            (Err(NotFolded::Cancelled), false, 0),
            (Ok(()), false, 0),
        ];
        for (result, expected, exit_code) in results {
            let (text, mut is_told) = (format!("{result:?}"), false);
            let ending = ending(result, |_| is_told = true);
            assert_eq!((is_told, ending.exit_code), (expected, exit_code), "{text}");
        }
    }

    #[test]
    fn a_cancelled_fold_ends_in_the_middle() {
        let mut gathered = Gathered::new(file(), JOB).unwrap();
        let outputs = |task_index| TaskOutputs {
            task_index,
            attempt: 1,
            outputs: vec![printed(vec![0; 700_000])],
        };
        gathered.add((0..4).map(|n| entry(n, 1)).collect(), (0..4).map(outputs).collect()).unwrap();
        let cancel = cancel();
        cancel.cancel();
        assert!(matches!(gathered.merge(file(), &cancel), Err(NotFolded::Cancelled)));
    }
}
