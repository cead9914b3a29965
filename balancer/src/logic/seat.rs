//! The seat in the group: primary or auxiliary, under which epoch, and until when the lease holds.
//!
//! Everything is counted from before it was asked for, on this process's clock. What may be done
//! under the lease is decided in `mod.rs`.

use std::collections::{BTreeSet, VecDeque};

use proto::ids::{Epoch, LogIndex, NodeId, RequestId};
use proto::messages::node::{LeaseReply, NodeRegistered};
use proto::time::{Duration, Instant};

use super::marks::Doubt;
use super::workers::WORKER_TIMEOUT;

/// How often the lease is renewed.
pub const RENEW_INTERVAL: Duration = Duration::from_millis(250);

/// Taken off the end of a lease, for the time that an answer may be held up in this process.
const LEASE_MARGIN: Duration = Duration::from_millis(100);

/// How long a renewal may stay unanswered before another master is asked.
const RENEW_TIMEOUT: Duration = Duration::from_millis(1_000);

/// The first epoch of a cluster: nobody dealt anything before it.
const FIRST_EPOCH: Epoch = Epoch(1);

/// Tasks that an earlier primary may have dealt are not dealt before the workers had their time to
/// list them, or all of them did.
#[derive(Clone, Debug)]
pub(super) struct Grace {
    /// From when it counts; unknown until all is known that was granted up to `index`.
    known_at: Option<Instant>,
    /// Jobs that were granted up to here are held back.
    index: LogIndex,
    /// A worker that has seen this epoch takes nothing any more of what is in doubt: somebody else
    /// dealt it, under lower ones. None where this process may have dealt it itself.
    barrier: Option<Epoch>,
    /// Workers that listed what they hold, and had seen that epoch.
    listed: BTreeSet<NodeId>,
}

/// What the answer to a renewal changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewed {
    /// Nothing like it was asked.
    NotAsked,
    /// Nothing but the lease.
    Held,
    /// This balancer is the primary under an epoch in which it was not before. An earlier primary
    /// may have dealt what is in doubt, if anything is.
    Began(Option<Doubt>),
    /// It is no primary any more.
    Ended,
}

/// The seat in the group.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    pub(super) group: u64,
    pub(super) epoch: Epoch,
    /// Number of the log entry that gave it.
    pub(super) number: LogIndex,
    is_primary: bool,
    /// The lease is over then.
    until: Instant,
    /// The epoch of the last lease that was held, and how far the feed went when it began: an
    /// earlier primary cannot have dealt what was granted later.
    held: Option<(Epoch, LogIndex)>,
    /// The last epoch under which this process held a lease, whatever became of it.
    last_held: Epoch,
    grace: Option<Grace>,
    /// The most workers that the group had under this epoch, as the masters told; 0 where they told
    /// none.
    worker_count: u64,
    renew_due: Instant,
    /// Renewals without answer, and when they were sent.
    asked: VecDeque<(RequestId, Instant)>,
}

impl Seat {
    /// The seat that the masters gave. A lease of an earlier seat under the same epoch goes on; a
    /// newer seat stays, because a master that lags behind may answer. The lease of a seat that was
    /// given by an earlier entry is void.
    pub(super) fn given(now: Instant, registered: &NodeRegistered, before: Option<&Seat>) -> Seat {
        let (group, epoch) = (registered.group, Epoch(registered.epoch));
        let (number, is_primary) = (LogIndex(registered.index), registered.is_primary == 1);
        let seat = Seat {
            group,
            epoch,
            number,
            is_primary,
            until: Instant(0),
            held: None,
            last_held: before.map_or(Epoch(0), |before| before.last_held),
            grace: None,
            worker_count: 0,
            renew_due: now,
            asked: VecDeque::new(),
        };
        match before {
            // What was in doubt is not any more where the seat is another one.
            Some(before) if before.number < number => seat,
            Some(before) if before.number == number && is_primary && before.epoch == epoch => {
                let Seat { until, held, worker_count, .. } = *before;
                Seat { until, held, grace: before.grace.clone(), worker_count, ..seat }
            }
            Some(before) if number < before.number || epoch < before.epoch => {
                Seat { renew_due: now, asked: VecDeque::new(), ..before.clone() }
            }
            _ => seat,
        }
    }

    /// True while this balancer holds the group's lease.
    pub(super) fn holds_lease(&self, now: Instant) -> bool {
        self.is_primary && now < self.until
    }

    /// True where the masters gave it the primary's seat, whether or not the lease holds.
    pub(super) fn is_primary(&self) -> bool {
        self.is_primary
    }

    /// How far the feed must be known before anything may be dealt or killed under this lease.
    pub(super) fn known_from(&self) -> LogIndex {
        self.held.map_or(LogIndex(u64::MAX), |(_, index)| index)
    }

    /// Nothing is dealt until the lease is renewed.
    pub(super) fn step_down(&mut self, now: Instant) {
        self.until = Instant(0);
        self.renew_due = now;
        // What was asked before the doubt arose does not settle it.
        self.asked.clear();
    }

    /// What is under way will not be answered.
    pub(super) fn disconnected(&mut self) {
        self.asked.clear();
    }

    /// True where a renewal was not answered in time.
    pub(super) fn is_unanswered(&self, now: Instant) -> bool {
        self.asked.front().is_some_and(|&(_, at)| now >= at + RENEW_TIMEOUT)
    }

    /// True where the lease is to be renewed now; it is taken as asked under `request`.
    pub(super) fn renew(&mut self, now: Instant, request: RequestId) -> bool {
        if now < self.renew_due {
            return false;
        }
        self.renew_due = now + RENEW_INTERVAL;
        self.asked.push_back((request, now));
        true
    }

    /// True where this is the request of a renewal; it counts as answered from now on.
    fn take_asked(&mut self, request: RequestId) -> Option<Instant> {
        let at = self.asked.iter().position(|&(asked, _)| asked == request)?;
        let answered = self.asked.drain(..=at).next_back();
        answered.map(|(_, asked_at)| asked_at)
    }

    /// A renewal was refused for now. False where this is not the request of one.
    pub(super) fn refused(&mut self, request: RequestId, again_at: Instant) -> bool {
        let is_it = self.take_asked(request).is_some();
        if is_it {
            self.renew_due = again_at;
        }
        is_it
    }

    /// The epoch under which a renewal is asked: 0 from an auxiliary.
    pub(super) fn asked_epoch(&self) -> u64 {
        if self.is_primary { self.epoch.0 } else { 0 }
    }

    /// A renewal was answered.
    pub(super) fn renewed(&mut self, request: RequestId, reply: &LeaseReply) -> Renewed {
        let Some(asked_at) = self.take_asked(request) else {
            return Renewed::NotAsked;
        };
        let epoch = Epoch(reply.epoch);
        if epoch < self.epoch {
            return Renewed::Held;
        }
        self.epoch = epoch;
        let was_primary = std::mem::replace(&mut self.is_primary, reply.is_primary == 1);
        if !self.is_primary {
            // Primary again, even under the same epoch, it begins anew: its doubts are gone.
            (self.until, self.held, self.grace) = (Instant(0), None, None);
            return if was_primary { Renewed::Ended } else { Renewed::Held };
        }
        let lease = Duration::from_millis(u64::from(reply.lease_ms)) - LEASE_MARGIN;
        self.until = asked_at + lease;
        if self.held.is_some_and(|(held, _)| held == epoch) {
            self.worker_count = self.worker_count.max(reply.group_worker_count);
            return Renewed::Held;
        }
        let index = LogIndex(reply.feed_index);
        self.held = Some((epoch, index));
        self.worker_count = reply.group_worker_count;
        self.grace = None;
        let is_new = epoch > std::mem::replace(&mut self.last_held, epoch);
        if epoch == FIRST_EPOCH {
            return Renewed::Began(None);
        }
        self.begin_grace(index);
        if let Some(grace) = self.grace.as_mut().filter(|_| is_new) {
            grace.barrier = Some(epoch);
        }
        Renewed::Began(Some(Doubt { index, is_all: reply.is_all_dealt == 1 }))
    }

    /// The lease is renewed at once: there is something to tell.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.renew_due = now;
    }

    /// What was granted up to `index` may be held by workers that have not listed it yet, also what
    /// this process dealt.
    pub(super) fn begin_grace(&mut self, index: LogIndex) {
        let listed = BTreeSet::new();
        self.grace = Some(Grace { known_at: None, index, barrier: None, listed });
    }

    /// A worker of the group that has seen this epoch listed what it holds.
    pub(super) fn listed(&mut self, now: Instant, worker: NodeId, epoch: Epoch) {
        let Some(grace) = &mut self.grace else { return };
        let is_barred = grace.barrier.is_some_and(|barrier| epoch >= barrier);
        // What is listed of jobs that are not known yet is lost.
        if is_barred && grace.known_at.is_some_and(|at| now > at) {
            grace.listed.insert(worker);
        }
    }

    /// True where the grace ended by now: all workers of the group listed, as many as the log has and
    /// each of `known`, those that were heard of lately; or it took long enough. It is counted from
    /// when everything `is_known` that it is about: what workers list of jobs that are not known here
    /// is lost.
    pub(super) fn end_grace(
        &mut self,
        now: Instant,
        is_known: bool,
        mut known: impl Iterator<Item = NodeId>,
    ) -> bool {
        let worker_count = self.worker_count;
        let Some(grace) = &mut self.grace else { return false };
        if !is_known {
            grace.known_at = None;
            grace.listed.clear();
            return false;
        }
        let until = *grace.known_at.get_or_insert(now) + WORKER_TIMEOUT;
        // One that came just now does not stand in for one that is cut off.
        let have_all_listed = worker_count > 0
            && grace.listed.len() as u64 >= worker_count
            && known.all(|worker| grace.listed.contains(&worker));
        self.grace.take_if(|_| have_all_listed || now >= until).is_some()
    }

    /// Jobs granted up to here are held back.
    pub(super) fn held_back(&self) -> LogIndex {
        self.grace.as_ref().map_or(LogIndex(0), |grace| grace.index)
    }

    /// When something is due that needs a master.
    pub(super) fn renew_deadline(&self) -> Instant {
        let timeout = self.asked.front().map(|&(_, at)| at + RENEW_TIMEOUT);
        timeout.map_or(self.renew_due, |timeout| timeout.min(self.renew_due))
    }

    /// When something is due that needs nobody.
    pub(super) fn grace_deadline(&self) -> Option<Instant> {
        let known_at = self.grace.as_ref().and_then(|grace| grace.known_at);
        known_at.map(|at| at + WORKER_TIMEOUT)
    }
}
