//! What the masters say: the seat, the lease, the feed, the fate of tasks, and refusals.

use node::logic::network::{NetworkEffect, Peer};
use proto::ids::{JobId, LogIndex, RequestId};
use proto::messages::node::{FeedBatch, FeedItem, LeaseReply, NodeRegistered, RunsUnfinished};
use proto::messages::session::ErrorReply;
use proto::messages::task::{TaskRun, WorkerHeartbeatReply};
use proto::record::{Message, Record, RecordError, encode};
use proto::status::{ErrorCode, FeedKind, Order};
use proto::time::{Duration, Instant};
use proto::wire::{bytes_of, items_of};

use super::auxiliary::Auxiliary;
use super::dealing::Replan;
use super::feed::Feed;
use super::followed::Followed;
use super::lost::{Fate, Lost};
use super::marks::Doubt;
use super::seat::{Renewed, Seat};
use super::tasks::{Granted, Tasks};
use super::workers::WORKER_TIMEOUT;
use super::{Balancer, Registering, feed, range_of};

/// How long a request waits that a master could not serve for now, where it says nothing else.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a master may have nothing but excuses before another one is asked.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long after following one master's word for who leads the next one's is not taken: two that
/// each name the other must not keep a balancer running to and fro.
const FOLLOW_PAUSE: Duration = Duration::from_millis(200);

impl Balancer {
    pub(super) fn on_master_record(
        &mut self,
        now: Instant,
        record: &Record<'_>,
        effects: &mut Vec<NetworkEffect>,
    ) -> Result<(), RecordError> {
        let request = record.request_id();
        match record.message_type() {
            NodeRegistered::TYPE => {
                let (registered, [_]) = record.open::<NodeRegistered, 1>()?;
                if matches!(self.registering, Registering::Sent(sent, _) if sent == request) {
                    self.registering = Registering::Done;
                    self.answered_at = now;
                    let seat = Seat::given(now, &registered, self.seat.as_ref());
                    let is_anew = self.seat.as_ref().is_some_and(|it| it.number != seat.number);
                    if is_anew {
                        self.begin_anew(effects);
                    } else if !seat.is_primary() {
                        self.auxiliary.dismiss(&mut self.tasks, effects);
                        self.tasks.drop_doubt();
                    }
                    self.workers.set_group(seat.group, is_anew);
                    self.seat = Some(seat);
                }
            }
            LeaseReply::TYPE => {
                let (reply, [address]) = record.open::<LeaseReply, 1>()?;
                let address = String::from_utf8_lossy(address);
                self.on_lease(now, request, &reply, &address, effects);
            }
            FeedBatch::TYPE => {
                let (batch, [items, jobs]) = record.open::<FeedBatch, 2>()?;
                if self.feed.is_pulled_by(request) {
                    self.on_feed(now, &batch, items_of(items).unwrap_or_default(), jobs, effects);
                }
            }
            RunsUnfinished::TYPE => {
                let (_, [runs]) = record.open::<RunsUnfinished, 1>()?;
                self.on_fates(request, items_of(runs).unwrap_or_default());
            }
            ErrorReply::TYPE => {
                let (error, [_, instead]) = record.open::<ErrorReply, 2>()?;
                let instead = std::str::from_utf8(instead).unwrap_or_default();
                self.on_refusal(now, request, &error, instead, effects);
            }
            _ => {}
        }
        Ok(())
    }

    /// The seat is another one, and perhaps in another group: what was known for the one before is
    /// that group's.
    fn begin_anew(&mut self, effects: &mut Vec<NetworkEffect>) {
        self.auxiliary.dismiss(&mut self.tasks, effects);
        self.auxiliary = Auxiliary::default();
        self.followed = Followed::default();
        self.tasks = Tasks::default();
        self.feed = Feed::default();
        self.lost = Lost::default();
        self.replan = Replan::Everyone;
    }

    fn on_lease(
        &mut self,
        now: Instant,
        request: RequestId,
        reply: &LeaseReply,
        auxiliary: &str,
        effects: &mut Vec<NetworkEffect>,
    ) {
        let Some(seat) = &mut self.seat else { return };
        match seat.renewed(request, reply) {
            Renewed::NotAsked => return,
            Renewed::Held => {}
            Renewed::Began(doubt) => {
                self.counters.promotions += 1;
                self.tasks.unbind();
                self.auxiliary.dismiss(&mut self.tasks, effects);
                match doubt {
                    Some(doubt) => {
                        // Without marks of its own there is nothing to tell old from new.
                        let is_all = doubt.is_all || !self.followed.is_told();
                        self.tasks.begin_doubt(Doubt { is_all, ..doubt });
                    }
                    // What a feed that was read twice put in doubt has no end of its own.
                    None => self.tasks.drop_doubt(),
                }
                self.replan = Replan::Everyone;
            }
            Renewed::Ended => {
                self.auxiliary.dismiss(&mut self.tasks, effects);
                self.tasks.drop_doubt();
            }
        }
        self.answered_at = now;
        self.feed.goes_to(now, LogIndex(reply.feed_index));
        let is_current = |seat: &Seat| seat.is_primary() && seat.epoch.0 == reply.epoch;
        if self.seat.as_ref().is_some_and(is_current) {
            self.auxiliary.told(now, (request, reply), auxiliary, &mut self.tasks, effects);
        }
    }

    fn on_feed(
        &mut self,
        now: Instant,
        batch: &FeedBatch,
        items: &[FeedItem],
        jobs: &[u8],
        effects: &mut Vec<NetworkEffect>,
    ) {
        let Some(seat) = &mut self.seat else { return };
        if self.feed.begins_anew(batch) {
            self.workers.doubt_foreign();
        }
        if self.feed.begins_anew(batch) && self.tasks.jobs().next().is_some() {
            // What was dealt is learnt from the workers' next inventories.
            self.tasks.clear();
            if seat.is_primary() {
                // A master that lags behind leaves out what was known, and perhaps dealt.
                let known = self.feed.after().max(seat.held_back());
                let index = LogIndex(batch.up_to_index).max(known);
                seat.begin_grace(index);
                self.tasks.begin_doubt(Doubt { index, is_all: true });
            }
        }
        let how = if batch.is_complete == 1 { Granted::Piece } else { Granted::Whole };
        for item in items {
            if !self.feed.is_new(batch, item) {
                continue;
            }
            match FeedKind::from_wire(item.kind) {
                Some(FeedKind::Grant) => feed::take_grant(item, how, jobs, &mut self.tasks),
                Some(FeedKind::JobEnded) => self.end_job(now, item.job_uuid.into(), effects),
                Some(FeedKind::JobChanged) => {
                    self.tasks.change(item.job_uuid.into(), item.priority, item.is_held == 1);
                }
                None => {}
            }
        }
        self.tasks.date_moved(now + WORKER_TIMEOUT);
        self.feed.advance(batch);
        let knows_all = |seat: &Seat| seat.is_primary() && self.feed.reaches(seat.known_from());
        if batch.is_complete == 1 && self.seat.as_ref().is_some_and(knows_all) {
            self.tasks.forget_early();
        }
        self.replan = Replan::Everyone;
    }

    /// A job is in a final state: whoever executes tasks of it is told at once. A worker that does
    /// not hear it is told in answer to its next heartbeat.
    fn end_job(&mut self, now: Instant, job: JobId, effects: &mut Vec<NetworkEffect>) {
        let mut busy = self.tasks.end_job(job);
        // What another group dealt has nobody else to say so, where that group is gone.
        busy.extend(self.workers.end_foreign(job));
        busy.sort_by_key(|(worker, _)| *worker);
        let Some(seat) = self.seat.as_ref().filter(|seat| seat.holds_lease(now)) else {
            return;
        };
        for of_worker in busy.chunk_by(|(left, _), (right, _)| left == right) {
            let Some(worker) = of_worker.first().and_then(|(node, _)| self.workers.get(*node))
            else {
                continue;
            };
            let kill = |(_, run): &(_, TaskRun)| TaskRun { state: Order::Kill.to_wire(), ..*run };
            let orders: Vec<TaskRun> = of_worker.iter().map(kill).collect();
            self.counters.kill_orders += orders.len() as u64;
            let reply = WorkerHeartbeatReply {
                epoch: seat.epoch.0,
                last_deal: worker.last_deal,
                assignment: worker.assignment,
                ..WorkerHeartbeatReply::default()
            };
            let record = encode(&reply, &[bytes_of(&orders)]);
            effects.push(NetworkEffect::Send { to: Peer::Inbound(worker.peer), record });
        }
    }

    fn on_fates(&mut self, request: RequestId, again: &[TaskRun]) {
        let Some((worker, fates)) = self.lost.answered(request, again) else { return };
        for fate in fates {
            match fate {
                Fate::Final(run) => {
                    self.tasks.settle_final(run.job_uuid.into(), &range_of(&run));
                    self.workers.judge(worker, &run, true);
                }
                Fate::Unfinished(run) => {
                    let tasks = range_of(&run);
                    self.workers.judge(worker, &run, false);
                    if self.tasks.unfinished(run.job_uuid.into(), &tasks, run.attempt) {
                        self.requeued(run.task_count);
                    }
                }
            }
        }
    }

    /// Tasks went back to the queue.
    pub(super) fn requeued(&mut self, task_count: u64) {
        self.counters.requeued = self.counters.requeued.saturating_add(task_count);
        self.replan = Replan::Everyone;
    }

    /// A master does not serve a request: another one is asked where that helps, and only the
    /// refused request is repeated where waiting does.
    fn on_refusal(
        &mut self,
        now: Instant,
        request: RequestId,
        error: &ErrorReply,
        instead: &str,
        effects: &mut Vec<NetworkEffect>,
    ) {
        if !instead.is_empty() {
            if now < self.follow_from {
                self.masters.fail(now, effects);
            } else {
                self.follow_from = now + FOLLOW_PAUSE;
                self.masters.follow(now, instead, effects);
            }
            return;
        }
        match ErrorCode::from_wire(error.code) {
            Some(ErrorCode::OldEpoch) => {
                let again_at = match self.registering {
                    // A later incarnation of this data folder runs: nothing helps but its end.
                    Registering::Sent(sent, _) if sent == request => now + PATIENCE,
                    _ => now,
                };
                self.step_down(now);
                self.lost.disconnected();
                self.feed.disconnected();
                self.registering = Registering::Due(again_at);
            }
            Some(code) if code.is_retryable() && now < self.answered_at + PATIENCE => {
                let wait = Duration::from_millis(u64::from(error.retry_after_ms)).max(PAUSE);
                self.repeat(request, now + wait);
            }
            _ => self.masters.fail(now, effects),
        }
    }

    /// A request that was refused for now is sent again then.
    fn repeat(&mut self, request: RequestId, at: Instant) {
        match self.registering {
            Registering::Sent(sent, _) if sent == request => {
                self.registering = Registering::Due(at);
                return;
            }
            _ => {}
        }
        if self.seat.as_mut().is_some_and(|seat| seat.refused(request, at)) {
            return;
        }
        if self.feed.is_pulled_by(request) {
            self.feed.refused(at);
        } else if self.lost.is_asked_by(request) {
            self.lost.repeat_at(at);
        }
    }

    /// Somebody knows a newer epoch: nothing is dealt until the masters confirm the lease.
    pub(super) fn step_down(&mut self, now: Instant) {
        if let Some(seat) = &mut self.seat {
            self.counters.step_downs += u64::from(seat.holds_lease(now));
            seat.step_down(now);
        }
    }
}
