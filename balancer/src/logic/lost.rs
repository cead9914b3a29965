//! Tasks whose fate only the masters can tell: their worker is silent, or a deal was lost on its
//! way. One question is under way at a time and is repeated until it is answered.

use std::collections::VecDeque;

use node::logic::network::NetworkEffect;
use node::logic::rotation::Rotation;
use proto::ids::{Epoch, NodeId, RequestId};
use proto::messages::node::RunsLost;
use proto::messages::task::TaskRun;
use proto::record::{encode, set_request_id};
use proto::time::{Duration, Instant};
use proto::wire::bytes_of;

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

/// What is asked, and what waits to be asked. Bounded by what the group was granted: a task is
/// dealt, waits, or is in question.
#[derive(Clone, Debug, Default)]
pub(super) struct Lost {
    waiting: VecDeque<(NodeId, TaskRun)>,
    under_way: Option<Question>,
    last_request: u64,
}

impl Lost {
    pub(super) fn add(&mut self, worker: NodeId, run: TaskRun) {
        self.waiting.push_back((worker, run));
    }

    pub(super) fn disconnected(&mut self) {
        if let Some(question) = &mut self.under_way {
            question.repeat_at = Instant(0);
        }
    }

    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.next_deadline().is_some_and(|due| now >= due)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        match &self.under_way {
            Some(question) => Some(question.repeat_at),
            None => (!self.waiting.is_empty()).then_some(Instant(0)),
        }
    }

    pub(super) fn send(
        &mut self,
        now: Instant,
        group: u64,
        epoch: Epoch,
        masters: &Rotation,
        effects: &mut Vec<NetworkEffect>,
    ) {
        if self.under_way.is_none() {
            let Some(&(worker, _)) = self.waiting.front() else {
                return;
            };
            let same = self.waiting.iter().take(RUNS).take_while(|(other, _)| *other == worker);
            let count = same.count();
            let runs = self.waiting.drain(..count).map(|(_, run)| run).collect();
            self.last_request += 1;
            let request = RequestId(self.last_request);
            self.under_way = Some(Question { request, worker, runs, repeat_at: now });
        }
        let Some(question) = &mut self.under_way else {
            return;
        };
        question.repeat_at = now + REPEAT;
        let message = RunsLost {
            group,
            epoch: epoch.0,
            worker_uuid: question.worker.to_wire(),
            ..RunsLost::default()
        };
        let mut record = encode(&message, &[bytes_of(&question.runs)]);
        set_request_id(&mut record, question.request);
        masters.send(record, effects);
    }

    /// The runs of an answered question, cut into those that are unfinished and those that are
    /// final (`true`).
    pub(super) fn answered(
        &mut self,
        request: RequestId,
        again: &[TaskRun],
    ) -> Vec<(TaskRun, bool)> {
        let is_it = self.under_way.as_ref().is_some_and(|question| question.request == request);
        let Some(question) = self.under_way.take_if(|_| is_it) else {
            return Vec::new();
        };
        // Final first: what is unfinished is put back behind it.
        let all = question.runs.iter().map(|&run| (run, true));
        let unfinished = again.iter().map(|&run| (run, false));
        all.chain(unfinished).collect()
    }
}
