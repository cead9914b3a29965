//! What tasks wrote, on its way into segments: many tasks share one, so that a million tasks do not
//! make a million files.
//!
//! The outcome of a task that wrote something waits here until the segment with what it wrote and
//! with its accounting entry is durable; only then is it reported, under the segment's name
//! (invariant 7). So a task alone must not wait for a timer, and many short tasks must not make a
//! segment each:
//!
//! - one segment is under way at a time, and all there is behind it goes into the next one;
//! - where the worker has nothing else to do, one is made at once: nobody else would fill it. Of a
//!   job of many tasks a moment later: more of them may be on the way;
//! - else a second after the last one was begun, or as soon as a megabyte waits.
//!
//! Deliberately not here: storing segments, and tasks that wrote nothing (`accounting.rs`). What the
//! masters refuse later stays in its segment unread: readers go by the ranges that masters accepted.

use std::collections::VecDeque;
use std::collections::btree_map::{BTreeMap, Entry};

use proto::digest::Digest;
use proto::ids::JobId;
use proto::limits::SEGMENT_BYTES;
use proto::segment::{
    self, AccountingEntry, MAGIC, NewSection, Output, SegmentSection, TAIL_BYTES, TaskOutputs,
};
use proto::status::BlockKind;
use proto::time::{Duration, Instant};

use super::results::Outcome;
use super::storing::NewSegment;

/// How far apart segments are begun by a busy worker: a hundred thousand tasks that print a line
/// each, at a thousand a second, make two hundred (`docs/decisions/segments.md`).
const INTERVAL: Duration = Duration::from_secs(1);

/// How long a worker must have had nothing to do where the job has many tasks: longer than its
/// balancer takes to send more.
const LULL: Duration = Duration::from_millis(50);

/// Tasks of a job that may make a segment each.
const FEW: u64 = 64;

/// Bytes that make a segment at once.
const ENOUGH: usize = 1 << 20;

/// Bytes of what tasks wrote, not durable yet, at which the worker takes no new tasks and starts
/// none of those that it has.
pub const OUTPUT_BYTES: usize = 32 << 20;

/// A task that ended and wrote something.
#[derive(Clone, Debug)]
pub struct Written {
    /// What became of it: one task with its entry, of no segment yet.
    pub outcome: Outcome,
    /// What it wrote.
    pub outputs: Vec<Output>,
    /// Tasks of its job.
    pub job_task_count: u64,
}

impl Written {
    /// Bytes that it takes in a segment, and about what it takes in memory.
    fn bytes(&self) -> usize {
        let outputs: usize = self.outputs.iter().map(Output::packed_bytes).sum();
        outputs + size_of::<AccountingEntry>() + size_of::<SegmentSection>()
    }
}

/// Tasks that wait for their segment, and those of the one that is being stored.
#[derive(Clone, Debug, Default)]
pub struct Packing {
    waiting: VecDeque<Written>,
    waiting_bytes: usize,
    /// The outcomes to report when the segment that is being stored is durable; none while no
    /// segment is.
    storing: Vec<Outcome>,
    /// When the last segment was made.
    made_at: Option<Instant>,
    is_urgent: bool,
}

impl Packing {
    /// Adds a task that ended.
    pub fn add(&mut self, written: Written) {
        self.waiting_bytes += written.bytes();
        self.waiting.push_back(written);
    }

    /// From now on nothing waits for more: the worker stops.
    pub fn hurry(&mut self) {
        self.is_urgent = true;
    }

    /// Bytes of what waits for a segment.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// True where everything is durable.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.storing.is_empty()
    }

    /// Tasks whose outcome is not reported yet.
    #[must_use]
    pub fn task_count(&self) -> usize {
        self.waiting.len() + self.storing.len()
    }

    /// The segment to store now, if it is time for one; answered by [`Packing::stored`].
    /// `idle_since` says that the worker executes nothing and has nothing to execute.
    pub fn next_segment(
        &mut self,
        now: Instant,
        idle_since: Option<Instant>,
    ) -> Option<NewSegment> {
        if !self.storing.is_empty() || self.waiting.is_empty() {
            return None;
        }
        let due = self.due(idle_since);
        let is_time = self.is_urgent || self.waiting_bytes >= ENOUGH;
        (is_time || due.is_none_or(|due| now >= due)).then(|| {
            self.made_at = Some(now);
            self.make_segment()
        })
    }

    fn make_segment(&mut self) -> NewSegment {
        let mut jobs: BTreeMap<JobId, BTreeMap<u64, Written>> = BTreeMap::new();
        let mut room = SEGMENT_BYTES - MAGIC.len() - TAIL_BYTES;
        while let Some(written) = self.waiting.pop_front() {
            let bytes = written.bytes();
            let tasks = jobs.entry(written.outcome.job).or_default();
            // Two attempts of one task are in two segments: which of them was accepted is told by
            // the segment's name alone.
            match tasks.entry(written.outcome.tasks.start) {
                Entry::Vacant(place) if bytes <= room => place.insert(written),
                _ => {
                    self.waiting.push_front(written);
                    break;
                }
            };
            room -= bytes;
            self.waiting_bytes -= bytes;
        }
        let mut sections = Vec::new();
        for (job, tasks) in jobs.into_iter().filter(|(_, tasks)| !tasks.is_empty()) {
            let (mut entries, mut outputs) = (Vec::new(), Vec::new());
            for (task_index, written) in tasks {
                let Written { mut outcome, outputs: of_task, .. } = written;
                let attempt = outcome.attempt;
                entries.append(&mut outcome.entries);
                outputs.push(TaskOutputs { task_index, attempt, outputs: of_task });
                self.storing.push(outcome);
            }
            sections.push((job, entries, outputs));
        }
        let parts: Vec<NewSection<'_>> = sections
            .iter()
            .map(|(job, entries, outputs)| NewSection { job: *job, entries, outputs })
            .collect();
        let content = segment::encode(&parts);
        let file = Digest::of(BlockKind::Content, &content).file_id();
        for outcome in &mut self.storing {
            outcome.segment = file;
        }
        NewSegment { file, content }
    }

    /// The segment is durable. Returns what is to be reported, in the order of jobs and tasks.
    pub fn stored(&mut self) -> Vec<Outcome> {
        std::mem::take(&mut self.storing)
    }

    /// Until when what waits is to wait for more; `None` for no time at all.
    fn due(&self, idle_since: Option<Instant>) -> Option<Instant> {
        let is_of_many = |written: &Written| written.job_task_count > FEW;
        let lull = if self.waiting.iter().any(is_of_many) { LULL } else { Duration::ZERO };
        let interval = self.made_at? + INTERVAL;
        Some(idle_since.map_or(interval, |since| interval.min(since + lull)))
    }

    /// When [`Packing::next_segment`] has something if nothing else happens.
    #[must_use]
    pub fn next_deadline(&self, idle_since: Option<Instant>) -> Option<Instant> {
        let waits = self.storing.is_empty() && !self.waiting.is_empty();
        self.due(idle_since).filter(|_| waits)
    }

    /// Walks everything and panics on a broken invariant.
    pub fn check_invariants(&self) {
        let waiting: usize = self.waiting.iter().map(Written::bytes).sum();
        assert_eq!(waiting, self.waiting_bytes, "the bytes that wait for a segment");
        for written in &self.waiting {
            let Outcome { tasks, segment, entries, .. } = &written.outcome;
            let is_one = tasks.end == tasks.start + 1 && entries.len() == 1;
            assert!(is_one && segment.is_nil(), "one task with its entry, in no segment");
            assert!(!written.outputs.is_empty(), "a task that wrote nothing waits for a segment");
        }
        let is_named = |outcome: &Outcome| !outcome.segment.is_nil() && outcome.entries.is_empty();
        assert!(self.storing.iter().all(is_named), "what is being stored is in a segment");
    }
}

#[cfg(test)]
mod tests {
    use proto::ids::{FileId, TaskIndex};
    use proto::segment::{OutputContent, Segment};
    use proto::status::{Cause, OutputKind, TaskState};

    use super::*;

    fn written(job: u128, task: u64, attempt: u64, length: usize) -> Written {
        let content = OutputContent::Packed(vec![task as u8; length]);
        let (kind, name) = (OutputKind::Stdout, Vec::new());
        let output = Output { kind, name, mode: 0, is_cut: false, content };
        let entry = AccountingEntry { task_index: task, attempt, ..AccountingEntry::default() };
        let outcome = Outcome {
            job: JobId(job),
            tasks: task..task + 1,
            attempt,
            state: TaskState::Done,
            exit_code: 0,
            cause: Cause::None,
            segment: FileId(0),
            entries: vec![entry],
        };
        Written { outcome, outputs: vec![output], job_task_count: FEW }
    }

    fn packing(all: impl IntoIterator<Item = Written>) -> Packing {
        let mut packing = Packing::default();
        all.into_iter().for_each(|written| packing.add(written));
        packing
    }

    /// The tasks of a segment, with the lengths of what they wrote.
    fn tasks(segment: &NewSegment) -> Vec<(u128, u64, usize)> {
        let segment = Segment::open(&segment.content).unwrap();
        let mut tasks = Vec::new();
        for section in segment.sections() {
            for entry in section.entries {
                let outputs = section.outputs_of(TaskIndex(entry.task_index));
                let length: usize = outputs.map(|output| output.content.unwrap().len()).sum();
                tasks.push((section.job.0, entry.task_index, length));
            }
        }
        tasks
    }

    #[test]
    fn an_idle_worker_waits_for_nothing_and_a_busy_one_a_second() {
        let now = Instant(5);
        let mut packing = packing([written(1, 0, 1, 20)]);
        assert_eq!(packing.next_deadline(None), None, "the first one waits for nothing");
        let segment = packing.next_segment(now, None).unwrap();
        assert_eq!(tasks(&segment), [(1, 0, 20)]);
        packing.add(written(1, 1, 1, 20));
        assert_eq!(packing.next_segment(now + INTERVAL, Some(now)), None, "one at a time");
        assert_eq!(packing.stored()[0].segment, segment.file);
        assert_eq!(packing.next_segment(now, None), None);
        let due = packing.next_deadline(None).unwrap();
        assert_eq!(due, now + INTERVAL);
        assert!(packing.clone().next_segment(due, None).is_some());
        assert!(
            packing.clone().next_segment(now, Some(now)).is_some(),
            "nobody else would fill it"
        );
        let mut stopping = packing.clone();
        stopping.hurry();
        assert!(stopping.next_segment(now, None).is_some());
        packing.add(written(1, 2, 1, ENOUGH));
        let segment = packing.next_segment(now, None).unwrap();
        assert_eq!(tasks(&segment), [(1, 1, 20), (1, 2, ENOUGH)]);
        packing.check_invariants();
        assert_eq!((packing.bytes(), packing.stored().len()), (0, 2));
        assert!(packing.is_empty());
    }

    #[test]
    fn tasks_of_many_share_a_segment_also_where_they_come_one_by_one() {
        let of_many = |task| Written { job_task_count: FEW + 1, ..written(1, task, 1, 20) };
        let mut packing = packing([of_many(0)]);
        let (now, soon) = (Instant(5), Instant(5) + Duration::from_millis(7));
        assert!(packing.next_segment(now, Some(now)).is_some(), "the first one waits for nothing");
        packing.stored();
        packing.add(of_many(1));
        assert_eq!(packing.next_segment(soon, Some(soon)), None, "more may be on the way");
        assert_eq!(packing.next_deadline(Some(soon)), Some(soon + LULL));
        packing.add(of_many(2));
        let segment = packing.next_segment(soon + LULL, Some(soon)).unwrap();
        assert_eq!(tasks(&segment).len(), 2);
    }

    #[test]
    fn everything_is_in_one_segment_which_is_no_longer_than_a_block() {
        let length = proto::limits::PACKED_TASK_BYTES - 100;
        let all = (0..40).map(|task| written(u128::from(task % 3), 100 - task, 1, length));
        let mut packing = packing(all);
        let mut seen = Vec::new();
        while let Some(segment) = packing.next_segment(Instant(5), Some(Instant(5))) {
            assert!(segment.content.len() <= SEGMENT_BYTES);
            let reported = packing.stored();
            let named = reported.iter().map(|it| (it.job.0, it.tasks.start, length));
            assert!(named.eq(tasks(&segment)), "outcomes of a segment are those of its entries");
            assert!(reported.iter().all(|outcome| outcome.segment == segment.file));
            packing.check_invariants();
            seen.extend(tasks(&segment));
        }
        seen.sort_unstable();
        let mut wanted: Vec<_> =
            (0..40).map(|task| (u128::from(task % 3), 100 - task, length)).collect();
        wanted.sort_unstable();
        assert_eq!(seen, wanted);
    }

    #[test]
    fn two_attempts_of_a_task_are_in_two_segments() {
        let mut packing = packing([written(1, 7, 1, 5), written(1, 8, 1, 5), written(1, 7, 2, 5)]);
        packing.add(written(1, 9, 2, 5));
        let segment = packing.next_segment(Instant(5), Some(Instant(5))).unwrap();
        assert_eq!(tasks(&segment), [(1, 7, 5), (1, 8, 5)]);
        assert_eq!(packing.stored().len(), 2);
        let segment = packing.next_segment(Instant(5), Some(Instant(5))).unwrap();
        assert_eq!(tasks(&segment), [(1, 7, 5), (1, 9, 5)]);
        assert!(packing.stored().iter().all(|outcome| outcome.attempt == 2));
    }
}
