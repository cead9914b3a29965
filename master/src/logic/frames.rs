//! Status frames of workers, put together from their records.
//!
//! The records of one frame come one behind the other on one connection; where one was lost the
//! whole frame is dropped, and the worker sends it again.

use std::collections::BTreeMap;

use node::logic::network::{Peer, Sender};
use proto::ids::{FileId, Incarnation};
use proto::limits;
use proto::messages::task::{TaskRun, WorkerSegment, WorkerStatus};
use proto::record::{Message, Record, RecordError};
use proto::status::{Cause, TaskState};
use proto::wire::items_of;

use super::commands::ReportedSegment;
use super::jobs::ReportedRun;

/// Most records of one frame.
const FRAME_RECORDS: u32 = 4_096;

/// A whole frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct StatusFrame {
    pub(super) number: u64,
    pub(super) runs: Vec<ReportedRun>,
    pub(super) segments: Vec<ReportedSegment>,
}

/// A frame of which records are missing.
#[derive(Clone, Debug, Default)]
struct Partial {
    frame: StatusFrame,
    count: u32,
    next: u32,
}

/// The frames that are being put together, at most one for each connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Frames {
    partial: BTreeMap<Peer, Partial>,
}

impl Frames {
    /// Takes a record; returns the frame that it completes.
    ///
    /// # Errors
    /// Where the record cannot be read or has values that do not exist. The frame is dropped then.
    pub(super) fn take(
        &mut self,
        sender: &Sender,
        record: &Record<'_>,
    ) -> Result<Option<StatusFrame>, RecordError> {
        let before = self.partial.remove(&sender.peer);
        let wrong = |field| RecordError::Value { message_type: record.message_type(), field };
        let mut run = None;
        let mut segment = None;
        let (incarnation, number, position, count) = match record.message_type() {
            WorkerStatus::TYPE => {
                let status = record.read::<WorkerStatus>()?;
                run = Some(reported(&status).ok_or_else(|| wrong("state"))?);
                (status.worker_incarnation, status.frame, status.frame_position, status.frame_count)
            }
            _ => {
                let (message, [runs]) = record.open::<WorkerSegment, 1>()?;
                let runs = items_of::<TaskRun>(runs).ok_or_else(|| wrong("runs"))?;
                let runs: Option<Vec<_>> =
                    runs.iter().map(|run| Some((run.job_uuid.into(), range_of(run)?))).collect();
                let file: FileId = message.segment_uuid.into();
                segment = Some(ReportedSegment { file, runs: runs.ok_or_else(|| wrong("runs"))? });
                (
                    message.worker_incarnation,
                    message.frame,
                    message.frame_position,
                    message.frame_count,
                )
            }
        };
        if Incarnation(incarnation) != sender.incarnation {
            return Err(wrong("worker_incarnation"));
        }
        if count > FRAME_RECORDS || position >= count {
            return Err(wrong("frame_count"));
        }
        let mut partial = match before {
            Some(partial) if position != 0 => partial,
            _ => {
                Partial { frame: StatusFrame { number, ..StatusFrame::default() }, count, next: 0 }
            }
        };
        if (partial.frame.number, partial.count, partial.next) != (number, count, position) {
            return Ok(None);
        }
        partial.next += 1;
        partial.frame.runs.extend(run);
        partial.frame.segments.extend(segment);
        if partial.next == count {
            return Ok(Some(partial.frame));
        }
        self.partial.insert(sender.peer, partial);
        Ok(None)
    }

    /// A connection ended.
    pub(super) fn forget(&mut self, peer: Peer) {
        self.partial.remove(&peer);
    }
}

fn reported(status: &WorkerStatus) -> Option<ReportedRun> {
    let state = TaskState::from_wire(status.state)?;
    let is_outcome = matches!(
        state,
        TaskState::Done
            | TaskState::Failed
            | TaskState::Crashed
            | TaskState::Lost
            | TaskState::Returned
    );
    let end = status.first_task.checked_add(status.task_count)?;
    (is_outcome && end <= limits::TASKS_PER_JOB).then_some(ReportedRun {
        job: status.job_uuid.into(),
        tasks: status.first_task..end,
        attempt: status.attempt,
        state,
        exit_code: status.exit_code,
        cause: Cause::from_wire(status.cause)?,
        segment: status.segment_uuid.into(),
    })
}

fn range_of(run: &TaskRun) -> Option<std::ops::Range<u64>> {
    let end = run.first_task.checked_add(run.task_count)?;
    (end <= limits::TASKS_PER_JOB).then_some(run.first_task..end)
}

/// A run that a balancer asks about; `None` where it is neither lost nor returned.
pub(super) fn lost_run(run: &TaskRun) -> Option<ReportedRun> {
    let state = TaskState::from_wire(run.state)?;
    let cause = match state {
        TaskState::Lost => Cause::CutOff,
        TaskState::Returned => Cause::None,
        _ => return None,
    };
    Some(ReportedRun {
        job: run.job_uuid.into(),
        tasks: range_of(run)?,
        attempt: run.attempt,
        state,
        exit_code: 0,
        cause,
        segment: FileId(0),
    })
}
