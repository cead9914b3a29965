//! Outcomes on their way to the masters: joined into runs of what really ran, sent in numbered
//! status frames, one unacknowledged at a time, kept until they are acknowledged.

use std::collections::VecDeque;
use std::ops::Range;

use proto::ids::{FileId, Incarnation, JobId, RequestId};
use proto::messages::task::{TaskRun, WorkerSegment, WorkerStatus};
use proto::record::{Envelope, encode};
use proto::segment::AccountingEntry;
use proto::status::{Cause, TaskState};
use proto::wire::bytes_of;

/// Bytes of the records of one status frame; a record that is larger alone has a frame of its own.
const FRAME_BYTES: usize = 60 << 10;

/// Bytes of unacknowledged outcomes and of outputs and accounting that are not durable at which the
/// worker takes no new tasks. A task that wrote nothing costs 64 bytes, a run about a hundred: room
/// for a million tasks without masters.
pub const RESULT_BYTES: usize = 64 << 20;

/// What became of consecutive tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Their job.
    pub job: JobId,
    /// The tasks.
    pub tasks: Range<u64>,
    /// The attempt that ran.
    pub attempt: u64,
    /// Done, failed, crashed or lost.
    pub state: TaskState,
    /// Exit code, minus the signal's number where one ended it.
    pub exit_code: i32,
    /// Why, where the state alone does not say it.
    pub cause: Cause,
    /// The segment that holds what they wrote; nil where there is none yet.
    pub segment: FileId,
    /// What they used, in the order of the tasks; none for tasks that could not begin.
    pub entries: Vec<AccountingEntry>,
}

impl Outcome {
    fn extends(&self, before: &Outcome) -> bool {
        before.tasks.end == self.tasks.start
            && (before.job, before.attempt, before.state) == (self.job, self.attempt, self.state)
            && (before.exit_code, before.cause, before.segment)
                == (self.exit_code, self.cause, self.segment)
    }
}

/// A durable segment whose tasks were reported before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSegment {
    /// The segment.
    pub file: FileId,
    /// The tasks whose entries it holds.
    pub runs: Vec<TaskRun>,
}

impl StoredSegment {
    fn bytes(&self) -> usize {
        size_of::<WorkerSegment>() + self.runs.len() * size_of::<TaskRun>()
    }
}

/// A status frame that waits for its acknowledgement.
#[derive(Clone, Debug, Default)]
pub struct StatusFrame {
    /// Its number.
    pub number: u64,
    /// The outcomes in it.
    pub outcomes: Vec<Outcome>,
    /// The segments in it.
    pub segments: Vec<StoredSegment>,
}

/// Outcomes that wait, and the frame that is under way.
#[derive(Clone, Debug, Default)]
pub struct Results {
    waiting: VecDeque<Outcome>,
    segments: VecDeque<StoredSegment>,
    under_way: Option<StatusFrame>,
    last_number: u64,
    /// Entries of all outcomes that are not acknowledged.
    entry_count: usize,
    /// Tasks of those of them that are crashes.
    crash_count: u64,
}

/// Tasks that crashed, of an outcome.
fn crashes_of(outcome: &Outcome) -> u64 {
    match outcome.state {
        TaskState::Crashed => outcome.tasks.end - outcome.tasks.start,
        _ => 0,
    }
}

impl Results {
    /// Adds what became of tasks.
    pub fn add(&mut self, mut outcome: Outcome) {
        self.entry_count += outcome.entries.len();
        self.crash_count += crashes_of(&outcome);
        if let Some(before) = self.waiting.back_mut()
            && outcome.extends(before)
        {
            before.tasks.end = outcome.tasks.end;
            before.entries.append(&mut outcome.entries);
            return;
        }
        self.waiting.push_back(outcome);
    }

    /// Adds a segment that is durable.
    pub fn add_segment(&mut self, segment: StoredSegment) {
        self.segments.push_back(segment);
    }

    /// Bytes of what is not acknowledged.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let frame = self.under_way.as_ref();
        let outcomes = self.waiting.len() + frame.map_or(0, |frame| frame.outcomes.len());
        let segments = frame.into_iter().flat_map(|frame| &frame.segments).chain(&self.segments);
        let segments: usize = segments.map(StoredSegment::bytes).sum();
        outcomes * size_of::<Outcome>() + self.entry_count * size_of::<AccountingEntry>() + segments
    }

    /// True where nothing waits and nothing is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.segments.is_empty() && self.under_way.is_none()
    }

    /// The frame that is under way.
    #[must_use]
    pub fn under_way(&self) -> Option<&StatusFrame> {
        self.under_way.as_ref()
    }

    /// True where what waits is as much as one frame holds.
    #[must_use]
    pub fn fills_a_frame(&self) -> bool {
        self.waiting.len() >= FRAME_BYTES / size_of::<WorkerStatus>()
    }

    /// Makes the next frame of what waits, as much as one holds, unless one is under way.
    pub fn next_frame(&mut self) -> Option<&StatusFrame> {
        if self.under_way.is_some() || (self.waiting.is_empty() && self.segments.is_empty()) {
            return None;
        }
        let count = self.waiting.len().min(FRAME_BYTES / size_of::<WorkerStatus>());
        let mut left = FRAME_BYTES - count * size_of::<WorkerStatus>();
        let outcomes: Vec<Outcome> = self.waiting.drain(..count).collect();
        let mut segments = Vec::new();
        while let Some(segment) = self.segments.front()
            && (segment.bytes() <= left || (outcomes.is_empty() && segments.is_empty()))
        {
            left = left.saturating_sub(segment.bytes());
            segments.extend(self.segments.pop_front());
        }
        self.last_number += 1;
        let number = self.last_number;
        self.under_way = Some(StatusFrame { number, outcomes, segments });
        self.under_way.as_ref()
    }

    /// The masters acknowledged a frame. Returns it where it is the one that is under way.
    pub fn acknowledge(&mut self, number: u64) -> Option<StatusFrame> {
        let frame = self.under_way.take_if(|frame| frame.number == number)?;
        self.entry_count -=
            frame.outcomes.iter().map(|outcome| outcome.entries.len()).sum::<usize>();
        self.crash_count -= frame.outcomes.iter().map(crashes_of).sum::<u64>();
        Some(frame)
    }

    /// Tasks whose crash is not acknowledged.
    #[must_use]
    pub fn crash_count(&self) -> u64 {
        self.crash_count
    }

    /// Walks everything and panics on a broken invariant.
    pub fn check_invariants(&self) {
        let under_way = self.under_way.iter().flat_map(|frame| &frame.outcomes);
        let all = self.waiting.iter().chain(under_way);
        assert_eq!(all.clone().map(crashes_of).sum::<u64>(), self.crash_count, "crashes");
        let entries: usize = all.map(|outcome| outcome.entries.len()).sum();
        assert_eq!(entries, self.entry_count, "the count of entries");
        for outcome in &self.waiting {
            let tasks = outcome.tasks.end - outcome.tasks.start;
            let entries = outcome.entries.len() as u64;
            assert!(entries == 0 || entries == tasks, "an entry for each task, or none");
        }
    }
}

impl StatusFrame {
    /// The records of the frame, one after the other.
    #[must_use]
    pub fn records(&self, incarnation: Incarnation, request: RequestId) -> Vec<Vec<u8>> {
        let count = self.outcomes.len() + self.segments.len();
        let frame_count = u32::try_from(count).unwrap_or(u32::MAX);
        let envelope = Envelope { request_id: request.0, ..Envelope::default() };
        let outcomes = self.outcomes.iter().zip(0u32..).map(|(outcome, frame_position)| {
            let status = WorkerStatus {
                envelope,
                job_uuid: outcome.job.to_wire(),
                state: outcome.state.to_wire(),
                first_task: outcome.tasks.start,
                task_count: outcome.tasks.end - outcome.tasks.start,
                attempt: outcome.attempt,
                exit_code: outcome.exit_code,
                cause: outcome.cause.to_wire(),
                worker_incarnation: incarnation.0,
                frame: self.number,
                frame_position,
                frame_count,
                segment_uuid: outcome.segment.to_wire(),
                ..WorkerStatus::default()
            };
            encode(&status, &[])
        });
        let first_segment = u32::try_from(self.outcomes.len()).unwrap_or(u32::MAX);
        let segments =
            self.segments.iter().zip(first_segment..).map(|(segment, frame_position)| {
                let message = WorkerSegment {
                    envelope,
                    worker_incarnation: incarnation.0,
                    frame: self.number,
                    frame_position,
                    frame_count,
                    segment_uuid: segment.file.to_wire(),
                    ..WorkerSegment::default()
                };
                encode(&message, &[bytes_of(&segment.runs)])
            });
        outcomes.chain(segments).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(tasks: Range<u64>, exit_code: i32) -> Outcome {
        let entry = |task_index| AccountingEntry { task_index, ..Default::default() };
        Outcome {
            job: JobId(1),
            entries: tasks.clone().map(entry).collect(),
            tasks,
            attempt: 7,
            state: if exit_code == 0 { TaskState::Done } else { TaskState::Failed },
            exit_code,
            cause: Cause::None,
            segment: FileId(0),
        }
    }

    #[test]
    fn equal_outcomes_of_consecutive_tasks_are_one_run() {
        let mut results = Results::default();
        for task in 0..10 {
            results.add(outcome(task..task + 1, i32::from(task == 5)));
            results.check_invariants();
        }
        let frame = results.next_frame().expect("something waits").clone();
        let runs: Vec<_> = frame.outcomes.iter().map(|run| run.tasks.clone()).collect();
        assert_eq!(runs, [0..5, 5..6, 6..10]);
        assert_eq!(frame.records(Incarnation(1), RequestId(1)).len(), 3);
        let entries = frame.outcomes.iter().flat_map(|run| &run.entries);
        assert!(entries.map(|entry| entry.task_index).eq(0..10));
    }

    #[test]
    fn a_crash_counts_until_it_is_acknowledged() {
        let mut results = Results::default();
        for task in 0..3 {
            let crashed = Outcome { entries: Vec::new(), ..outcome(task..task + 1, 0) };
            results.add(Outcome { state: TaskState::Crashed, ..crashed });
        }
        results.add(outcome(3..4, 0));
        let number = results.next_frame().expect("something waits").number;
        assert_eq!(results.crash_count(), 3);
        results.check_invariants();
        assert!(results.acknowledge(number).is_some());
        assert_eq!(results.crash_count(), 0);
        results.check_invariants();
    }

    #[test]
    fn one_frame_is_under_way_and_kept_until_acknowledged() {
        let mut results = Results::default();
        results.add(outcome(0..1, 0));
        assert_eq!(results.next_frame().map(|frame| frame.number), Some(1));
        results.add(outcome(1..2, 0));
        assert!(results.next_frame().is_none());
        assert!(results.acknowledge(2).is_none(), "an acknowledgement of nothing");
        assert!(results.acknowledge(1).is_some());
        assert!(results.acknowledge(1).is_none(), "a second acknowledgement");
        assert_eq!(results.next_frame().map(|frame| frame.number), Some(2));
        results.check_invariants();
    }

    #[test]
    fn a_frame_holds_no_more_than_its_bytes() {
        let mut results = Results::default();
        for task in 0..2_000 {
            results.add(outcome(2 * task..2 * task + 1, 0));
        }
        for file in 1..40 {
            let run = TaskRun { task_count: 1, ..TaskRun::default() };
            results.add_segment(StoredSegment { file: FileId(file), runs: vec![run; 700] });
        }
        let (mut outcomes, mut segments) = (0, 0);
        while let Some(frame) = results.next_frame().cloned() {
            let records = frame.records(Incarnation(1), RequestId(1));
            assert!(records.iter().map(Vec::len).sum::<usize>() <= FRAME_BYTES);
            outcomes += frame.outcomes.len();
            segments += frame.segments.len();
            assert!(results.acknowledge(frame.number).is_some());
        }
        assert_eq!((outcomes, segments), (2_000, 39));
        assert!(results.is_empty());
        assert_eq!(results.bytes(), 0);
    }
}
