//! What masters and balancers hear, and say too early, where a mistake is planted.
//!
//! Those of workers are in `witness.rs`, those of disks in the world and in `storage.rs`.

use node::logic::network::Sender;
use proto::ids::{LogIndex, NodeId};
use proto::messages::job::{JobAccepted, JobQuery, JobSubmit};
use proto::messages::keyspace::KeyTransaction;
use proto::messages::node::{
    DealMark, DealMarkReply, FeedBatch, FeedItem, LeaseReply, RunsUnfinished,
};
use proto::messages::task::{WorkerStatus, WorkerStatusReply};
use proto::record::{Message, Record, Records, encode, set_request_id};
use proto::wire::{bytes_of, items_of};

use crate::planted::Planted;

/// The mistake of one process.
pub(super) struct Mistakes {
    planted: Option<Planted>,
    /// Requests that came as if from a client of their own.
    strangers: u128,
}

impl Mistakes {
    pub(super) fn new(planted: Option<Planted>) -> Mistakes {
        Mistakes { planted, strangers: 0 }
    }

    /// What a master hears instead of a record, and from whom.
    pub(super) fn master_hears(
        &mut self,
        sender: &mut Sender,
        record: &Record<'_>,
    ) -> Option<Vec<u8>> {
        match self.planted? {
            Planted::StaleRead if record.message_type() == JobQuery::TYPE => {
                let (mut query, parts) = record.open::<JobQuery, 1>().ok()?;
                query.seen_index = 1;
                Some(encode(&query, &parts))
            }
            Planted::ForgottenWindow if record.message_type() == KeyTransaction::TYPE => {
                self.strangers += 1;
                let stranger = self.strangers << 96 | u128::from(sender.incarnation.0) << 80;
                sender.node = NodeId(sender.node.0 ^ stranger);
                None
            }
            _ => None,
        }
    }

    /// What a master answers to a record before it did anything about it.
    pub(super) fn master_answers(&self, record: &Record<'_>, applied: LogIndex) -> Option<Vec<u8>> {
        let mut reply = match self.planted? {
            Planted::EarlyAcceptance if record.message_type() == JobSubmit::TYPE => {
                let (submit, _) = record.open::<JobSubmit, 3>().ok()?;
                let index = applied.next().0;
                let job_uuid = submit.job_uuid;
                encode(&JobAccepted { job_uuid, index, ..JobAccepted::default() }, &[])
            }
            Planted::EarlySettlement if record.message_type() == WorkerStatus::TYPE => {
                let status: WorkerStatus = record.read().ok()?;
                if status.frame_position + 1 != status.frame_count {
                    return None;
                }
                let reply = WorkerStatusReply {
                    worker_incarnation: status.worker_incarnation,
                    frame: status.frame,
                    index: applied.0,
                    ..WorkerStatusReply::default()
                };
                encode(&reply, &[&[]])
            }
            _ => return None,
        };
        set_request_id(&mut reply, record.request_id());
        Some(reply)
    }

    /// What a balancer hears at once after it sent a record.
    pub(super) fn balancer_hears_early(&self, record: &[u8]) -> Option<Vec<u8>> {
        if self.planted != Some(Planted::MarkNotAwaited) {
            return None;
        }
        let record = Records::of(record).next()?.ok()?;
        if record.message_type() != DealMark::TYPE {
            return None;
        }
        let (mark, _) = record.open::<DealMark, 1>().ok()?;
        let mut reply = encode(&DealMarkReply::to(&mark), &[]);
        set_request_id(&mut reply, record.request_id());
        Some(reply)
    }

    /// What a balancer hears instead of a record.
    pub(super) fn balancer_hears(&self, record: &Record<'_>) -> Option<Vec<u8>> {
        match self.planted? {
            Planted::MarkNotAwaited if record.message_type() == DealMark::TYPE => {
                let (mut mark, _) = record.open::<DealMark, 1>().ok()?;
                mark.bound_count = 0;
                Some(encode(&mark, &[&[]]))
            }
            Planted::ForgottenMove if record.message_type() == FeedBatch::TYPE => {
                let (batch, [items, rest]) = record.open::<FeedBatch, 2>().ok()?;
                let mut items = items_of::<FeedItem>(items)?.to_vec();
                items.iter_mut().for_each(|item| item.move_number = 0);
                Some(encode(&batch, &[bytes_of(&items), rest]))
            }
            Planted::LostRequeue if record.message_type() == RunsUnfinished::TYPE => {
                let (mut answer, _) = record.open::<RunsUnfinished, 1>().ok()?;
                answer.run_count = 0;
                Some(encode(&answer, &[&[]]))
            }
            Planted::TwoPrimaries if record.message_type() == LeaseReply::TYPE => {
                let (mut reply, parts) = record.open::<LeaseReply, 1>().ok()?;
                reply.is_primary = 1;
                Some(encode(&reply, &parts))
            }
            _ => None,
        }
    }
}
