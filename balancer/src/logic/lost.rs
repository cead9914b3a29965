//! Tasks whose fate only the masters can tell: their worker is silent, or a deal was lost on its
//! way; or another group dealt them, of a job that is not known here. One question is under way at a
//! time and is repeated until it is answered.
//!
//! Which tasks those are stands in `tasks.rs` and `foreign.rs`, so none can be forgotten here. Only
//! the primary asks; an auxiliary keeps its questions for the day on which it becomes one.

use proto::ids::{Epoch, JobId, NodeId, RequestId};
use proto::messages::node::RunsLost;
use proto::messages::task::TaskRun;
use proto::record::{encode, set_request_id};
use proto::time::{Duration, Instant};
use proto::wire::bytes_of;

use super::ranges::Ranges;

/// Runs of one question: about 64 KiB.
const RUNS: usize = 1_000;

/// When a question is repeated.
const REPEAT: Duration = Duration::from_millis(1_000);

/// A question.
#[derive(Clone, Debug)]
struct Question {
    request: RequestId,
    worker: NodeId,
    runs: Vec<TaskRun>,
    /// When it is repeated; at once where it was not sent on this connection.
    repeat_at: Instant,
}

/// The question that is under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Lost {
    under_way: Option<Question>,
}

/// What the masters say of a run that they were asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It has its outcome.
    Final(TaskRun),
    /// It has none.
    Unfinished(TaskRun),
}

impl Lost {
    pub(super) fn disconnected(&mut self) {
        self.repeat_at(Instant(0));
    }

    /// The question under way is repeated then.
    pub(super) fn repeat_at(&mut self, at: Instant) {
        if let Some(question) = &mut self.under_way {
            question.repeat_at = at;
        }
    }

    /// True where this is the request of the question under way.
    pub(super) fn is_asked_by(&self, request: RequestId) -> bool {
        self.under_way.as_ref().is_some_and(|question| question.request == request)
    }

    /// When there is something to send; `has_questions` says whether there is more to ask.
    pub(super) fn next_deadline(&self, has_questions: bool) -> Option<Instant> {
        match &self.under_way {
            Some(question) => Some(question.repeat_at),
            None => has_questions.then_some(Instant(0)),
        }
    }

    /// The question that is due, as a record: the one under way again, or the next under `request`,
    /// which is that about so many runs at most of one worker.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        (group, epoch): (u64, Epoch),
        request: RequestId,
        next: impl FnOnce(usize) -> Option<(NodeId, Vec<TaskRun>)>,
    ) -> Option<Vec<u8>> {
        if self.under_way.as_ref().is_some_and(|question| now < question.repeat_at) {
            return None;
        }
        if self.under_way.is_none() {
            let (worker, runs) = next(RUNS)?;
            self.under_way = Some(Question { request, worker, runs, repeat_at: now });
        }
        let question = self.under_way.as_mut()?;
        question.repeat_at = now + REPEAT;
        let message = RunsLost {
            group,
            epoch: epoch.0,
            worker_uuid: question.worker.to_wire(),
            ..RunsLost::default()
        };
        let mut record = encode(&message, &[bytes_of(&question.runs)]);
        set_request_id(&mut record, question.request);
        Some(record)
    }

    /// What became of the runs of an answered question, and at which worker they were. `again` are
    /// those without outcome, of which only what was asked counts; an answer to another question
    /// says nothing.
    pub(super) fn answered(
        &mut self,
        request: RequestId,
        again: &[TaskRun],
    ) -> Option<(NodeId, Vec<Fate>)> {
        let question = self.under_way.take_if(|question| question.request == request)?;
        let mut fates = Vec::new();
        let mut unfinished = std::collections::BTreeMap::<(JobId, u64), Ranges>::new();
        for run in again {
            let key = (run.job_uuid.into(), run.attempt);
            unfinished.entry(key).or_default().insert(super::range_of(run));
        }
        for run in question.runs {
            let tasks = super::range_of(&run);
            let of = |piece: std::ops::Range<u64>| TaskRun {
                first_task: piece.start,
                task_count: piece.end - piece.start,
                ..run
            };
            let Some(ranges) = unfinished.get(&(run.job_uuid.into(), run.attempt)) else {
                fates.push(Fate::Final(run));
                continue;
            };
            fates.extend(ranges.missing(&tasks).into_iter().map(|piece| Fate::Final(of(piece))));
            fates.extend(ranges.within(&tasks).into_iter().map(|it| Fate::Unfinished(of(it))));
        }
        Some((question.worker, fates))
    }
}
