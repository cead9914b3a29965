//! Outcomes on their way to the masters: joined into runs of what really ran, sent in numbered
//! status frames, one unacknowledged at a time, kept until they are acknowledged.

use std::collections::VecDeque;
use std::ops::Range;

use proto::ids::{FileId, Incarnation, JobId};
use proto::messages::task::{TaskRun, WorkerSegment, WorkerStatus};
use proto::record::encode;
use proto::status::{Cause, TaskState};
use proto::wire::bytes_of;

/// Runs, or segments, of one status frame: about 64 KiB of records.
const FRAME_RECORDS: usize = 400;

/// Bytes of unacknowledged outcomes at which the worker takes no new tasks. A run costs about a
/// hundred bytes: room for a day without masters in all but the most fragmented of jobs.
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
}

impl Results {
    /// Adds what became of tasks.
    pub fn add(&mut self, outcome: Outcome) {
        if let Some(before) = self.waiting.back_mut()
            && outcome.extends(before)
        {
            before.tasks.end = outcome.tasks.end;
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
        let under_way = self.under_way.as_ref();
        let outcomes = self.waiting.len() + under_way.map_or(0, |frame| frame.outcomes.len());
        let of_segment = |segment: &StoredSegment| segment.runs.len() * size_of::<TaskRun>();
        let segments: usize = self.segments.iter().map(of_segment).sum();
        outcomes * size_of::<Outcome>() + segments
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

    /// Makes the next frame of everything that waits, unless one is under way.
    pub fn next_frame(&mut self) -> Option<&StatusFrame> {
        if self.under_way.is_some() || (self.waiting.is_empty() && self.segments.is_empty()) {
            return None;
        }
        let outcomes = self.waiting.len().min(FRAME_RECORDS);
        let segments = self.segments.len().min(FRAME_RECORDS - outcomes);
        self.last_number += 1;
        self.under_way = Some(StatusFrame {
            number: self.last_number,
            outcomes: self.waiting.drain(..outcomes).collect(),
            segments: self.segments.drain(..segments).collect(),
        });
        self.under_way.as_ref()
    }

    /// The masters acknowledged a frame. Returns it where it is the one that is under way.
    pub fn acknowledge(&mut self, number: u64) -> Option<StatusFrame> {
        let is_it = self.under_way.as_ref().is_some_and(|frame| frame.number == number);
        if is_it { self.under_way.take() } else { None }
    }
}

impl StatusFrame {
    /// The records of the frame, one after the other.
    #[must_use]
    pub fn records(&self, incarnation: Incarnation) -> Vec<Vec<u8>> {
        let count = self.outcomes.len() + self.segments.len();
        let frame_count = u32::try_from(count).unwrap_or(u32::MAX);
        let outcomes = self.outcomes.iter().zip(0u32..).map(|(outcome, frame_position)| {
            let status = WorkerStatus {
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
        let segments = self.segments.iter().zip(first_segment..).map(|(segment, frame_position)| {
            let message = WorkerSegment {
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
        Outcome {
            job: JobId(1),
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
        }
        let frame = results.next_frame().expect("something waits").clone();
        let runs: Vec<_> = frame.outcomes.iter().map(|run| run.tasks.clone()).collect();
        assert_eq!(runs, [0..5, 5..6, 6..10]);
        assert_eq!(frame.records(Incarnation(1)).len(), 3);
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
    }
}
