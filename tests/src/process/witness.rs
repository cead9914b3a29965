//! What a worker is told, heard beside its logic.
//!
//! Knows which deals are of an epoch that is over, so that obeying one shows (invariant 6), and
//! alters what the logic hears or hears early where a mistake is planted.

use std::collections::BTreeSet;
use std::ops::Range;

use node::logic::network::{NetworkEvent, Peer, Sender};
use proto::ids::{Epoch, Incarnation, JobId};
use proto::messages::file::{BlockPut, BlockStored};
use proto::messages::node::NodeRegistered;
use proto::messages::task::{TaskRun, WorkerHeartbeatReply, WorkerRequest, WorkerStatusReply};
use proto::record::{Envelope, Message, Record, Records, encode};
use proto::status::{Role, Verdict};
use proto::wire::{bytes_of, items_of};

use crate::checkers::{Violation, check};
use crate::planted::Planted;

/// What a worker was told so far in this life.
pub(super) struct Witness {
    incarnation: Incarnation,
    planted: Option<Planted>,
    assignment: u64,
    epoch: Epoch,
    /// Completions of its own that were not the first of their task.
    second_count: u64,
    /// Deals that came when their epoch was over: job, first task, number of tasks, attempt.
    over: BTreeSet<(JobId, u64, u64, u64)>,
}

impl Witness {
    pub(super) fn new(incarnation: Incarnation, planted: Option<Planted>) -> Witness {
        Witness {
            incarnation,
            planted,
            assignment: 0,
            epoch: Epoch(0),
            second_count: 0,
            over: BTreeSet::new(),
        }
    }

    /// Deals that came when their epoch was over.
    pub(super) fn over_count(&self) -> u64 {
        self.over.len() as u64
    }

    /// Completions of the worker that the masters refused since they had one.
    pub(super) fn second_count(&self) -> u64 {
        self.second_count
    }

    /// Hears a record before the worker does. Returns what the worker hears instead, where a
    /// mistake makes that something else.
    pub(super) fn hears(
        &mut self,
        record: &Record<'_>,
        holds: impl Fn(JobId, &Range<u64>, u64) -> bool,
    ) -> Option<Vec<u8>> {
        match record.message_type() {
            NodeRegistered::TYPE => {
                let registered: NodeRegistered = record.read().ok()?;
                if registered.index > self.assignment {
                    (self.assignment, self.epoch) = (registered.index, Epoch(registered.epoch));
                } else if registered.index == self.assignment {
                    self.epoch = self.epoch.max(Epoch(registered.epoch));
                }
                None
            }
            WorkerHeartbeatReply::TYPE => {
                let reply: WorkerHeartbeatReply = record.read().ok()?;
                // Epochs are compared under one assignment only.
                if reply.assignment == self.assignment {
                    self.epoch = self.epoch.max(Epoch(reply.epoch));
                }
                None
            }
            WorkerRequest::TYPE => self.is_dealt(record, holds),
            WorkerStatusReply::TYPE => {
                let (mut reply, [runs]) = record.open::<WorkerStatusReply, 1>().ok()?;
                let is_final =
                    |run: &&TaskRun| Verdict::from_wire(run.state) == Some(Verdict::Final);
                let runs = items_of::<TaskRun>(runs)?;
                self.second_count +=
                    runs.iter().filter(is_final).map(|run| run.task_count).sum::<u64>();
                if self.planted != Some(Planted::DuplicateCompletion) {
                    return None;
                }
                let runs: Vec<TaskRun> =
                    runs.iter().filter(|run| !is_final(run)).copied().collect();
                reply.run_count = runs.len() as u64;
                Some(encode(&reply, &[bytes_of(&runs)]))
            }
            _ => None,
        }
    }

    fn is_dealt(
        &mut self,
        record: &Record<'_>,
        holds: impl Fn(JobId, &Range<u64>, u64) -> bool,
    ) -> Option<Vec<u8>> {
        let (mut request, parts) = record.open::<WorkerRequest, 3>().ok()?;
        let is_meant = request.worker_incarnation == self.incarnation.0
            && request.assignment == self.assignment;
        if !is_meant || Epoch(request.epoch) >= self.epoch {
            return None;
        }
        let (job, first, count) = (request.job_uuid.into(), request.first_task, request.task_count);
        // One that was taken in time and is dealt again changes nothing.
        if !holds(job, &(first..first.saturating_add(count)), request.attempt) {
            self.over.insert((job, first, count, request.attempt));
        }
        if self.planted != Some(Planted::OldEpoch) {
            return None;
        }
        request.epoch = self.epoch.0;
        Some(encode(&request, &parts))
    }

    /// The worker begins tasks.
    pub(super) fn begins(
        &self,
        job: JobId,
        tasks: &Range<u64>,
        attempt: u64,
    ) -> Result<(), Violation> {
        let is_over = self.over.iter().any(|&(dealt, first, count, of)| {
            let is_within = first < tasks.end && tasks.start < first.saturating_add(count);
            dealt == job && of == attempt && is_within
        });
        check(!is_over, "invariant 6: nobody obeys a lower epoch than it has seen", || {
            format!("tasks {tasks:?} of job {job}, attempt {attempt:x}, epoch {}", self.epoch)
        })
    }

    /// What the worker hears at once after it sent a record, where a mistake makes it so.
    pub(super) fn hears_early(&self, to: Peer, record: &[u8], tell: impl FnOnce(NetworkEvent<'_>)) {
        if self.planted != Some(Planted::EarlyOutcome) || record.first() != Some(&BlockPut::TYPE) {
            return;
        }
        let Some(Ok(record)) = Records::of(record).next() else { return };
        let Ok(put) = record.read::<BlockPut>() else { return };
        let stored = BlockStored {
            envelope: Envelope { request_id: record.request_id().0, ..Envelope::default() },
            block_uuid: put.block_uuid,
            ring_version: put.ring_version,
            ..BlockStored::default()
        };
        let answer = encode(&stored, &[]);
        let Some(Ok(record)) = Records::of(&answer).next() else { return };
        let (node, role, incarnation) = (record.node(), Role::Storage, Incarnation(0));
        tell(NetworkEvent::Record { sender: Sender { peer: to, node, role, incarnation }, record });
    }
}
