//! An auxiliary's side of the marks: what its primary told it, under which epoch.

use node::logic::network::{NetworkEffect, Sender};
use proto::ids::{Epoch, LogIndex};
use proto::messages::node::{DealBound, DealMark, DealMarkReply};
use proto::record::{Record, RecordError, encode};
use proto::time::Instant;
use proto::wire::items_of;

use super::Balancer;
use super::marks::Bound;

/// How far the marks of a primary are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Followed {
    /// The primary's epoch; 0 where no primary told anything.
    epoch: Epoch,
    /// Number of the last message that is known.
    mark: u64,
}

impl Followed {
    /// True where marks are known at all.
    pub(super) fn is_told(&self) -> bool {
        self.epoch != Epoch(0)
    }

    /// True where a message is news that fits what is known.
    fn takes(&self, mark: &DealMark) -> bool {
        let is_same = Epoch(mark.epoch) == self.epoch;
        match mark.is_complete {
            1 => Epoch(mark.epoch) > self.epoch || (is_same && { mark.mark } > self.mark),
            _ => is_same && { mark.mark } == self.mark + 1,
        }
    }
}

impl Balancer {
    /// The primary tells how far it will have dealt.
    pub(super) fn on_mark(
        &mut self,
        now: Instant,
        sender: &Sender,
        record: &Record<'_>,
        effects: &mut Vec<NetworkEffect>,
    ) -> Result<(), RecordError> {
        let (mark, [bounds]) = record.open::<DealMark, 1>()?;
        let Some(seat) = &self.seat else { return Ok(()) };
        let incarnation = self.setting.incarnation.0;
        let is_meant = mark.group == seat.group && mark.auxiliary_incarnation == incarnation;
        if !is_meant || Epoch(mark.epoch) < seat.epoch || seat.holds_lease(now) {
            return Ok(());
        }
        if self.followed.takes(&mark) {
            let bounds = items_of::<DealBound>(bounds).unwrap_or_default();
            let bounds: Vec<Bound> = bounds
                .iter()
                .map(|bound| Bound {
                    job: bound.job_uuid.into(),
                    first: bound.first_task,
                    below: bound.dealt_below,
                })
                .collect();
            let knows_all = self.feed.reaches(LogIndex(mark.feed_index));
            self.tasks.follow(&bounds, mark.is_complete == 1, knows_all);
            self.followed = Followed { epoch: Epoch(mark.epoch), mark: mark.mark };
        }
        let known = Followed { epoch: Epoch(mark.epoch), mark: mark.mark };
        if known != self.followed {
            // Something before it is not known here, or it is an old one: no answer, and the
            // primary begins anew where it waits for one.
            return Ok(());
        }
        let record = encode(&DealMarkReply::to(&mark), &[]);
        effects.push(NetworkEffect::Send { to: sender.peer, record });
        Ok(())
    }
}
