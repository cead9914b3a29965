//! What a balancer decides: which tasks it deals to whom, and what it asks the masters.
//!
//! Pure: no sockets, clock, threads or randomness of its own. Everything in it is soft state: lease
//! and grants come from the masters, what is dealt from the workers' inventories.
//!
//! - [`tasks`]: where each granted task is; `held.rs`: the same by worker
//! - `feed.rs`, `seat.rs`, `lost.rs`: grants, lease, and questions about tasks that vanished;
//!   `answers.rs`: what the masters say to them
//! - [`marks`]: how far tasks may have been dealt; `auxiliary.rs`: what a primary tells its auxiliary
//!   of it, `followed.rs`: what the auxiliary takes; `moved.rs`: ranges that were another group's
//! - `workers.rs`, `inventory.rs`: who is there, and what the workers say; `foreign.rs`: what they
//!   execute of other groups
//! - [`plan`]: who gets what, a pure function; `dealing.rs`: deals and recalls
//! - [`explain`]: why a task is where it is

mod answers;
mod auxiliary;
mod dealing;
pub mod explain;
mod feed;
mod followed;
mod foreign;
mod held;
mod inventory;
mod lost;
pub mod marks;
mod moved;
pub mod plan;
pub mod ranges;
mod seat;
pub mod tasks;
#[cfg(test)]
mod tests;
mod waiting;
mod workers;

use std::ops::Range;

use fastrand::Rng;
use node::logic::network::{Link, NetworkEffect, NetworkEvent, Peer, Sender};
use node::logic::rotation::Rotation;
use proto::ids::{Epoch, Incarnation, NodeId, RequestId};
use proto::messages::job::ExplainQuery;
use proto::messages::node::{DealMark, DealMarkReply, LeaseRenew, NodeRegister, WorkersSilent};
use proto::messages::session::ErrorReply;
use proto::messages::task::TaskRun;
use proto::record::{Message, Record, RecordError, encode, set_request_id};
use proto::status::{ErrorCode, Role};
use proto::time::{Duration, Instant};
use proto::wire::bytes_of;
use serde::Serialize;

use self::auxiliary::{AUXILIARY_LINK, Auxiliary, Primary};
use self::dealing::Replan;
use self::feed::Feed;
use self::followed::Followed;
pub use self::held::{Dealt, Stage};
use self::lost::Lost;
pub use self::seat::RENEW_INTERVAL;
use self::seat::Seat;
use self::tasks::Tasks;
pub use self::workers::WORKER_TIMEOUT;
use self::workers::Workers;

/// The link to a master.
pub const MASTER_LINK: Link = Link(0);

/// How long a registration may stay unanswered before another master is asked.
const REGISTER_TIMEOUT: Duration = Duration::from_millis(1_000);

/// Jobs that a renewal names: the largest ones.
const RUNNING_JOBS: usize = 64;

/// What a balancer is.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Its UUID.
    pub node: NodeId,
    /// How often its data folder was started.
    pub incarnation: Incarnation,
    /// Addresses of the masters.
    pub masters: Vec<String>,
    /// Where workers reach it.
    pub address: String,
    /// Where its telemetry is published; empty where it is not.
    pub telemetry_address: String,
    /// Its failure zone.
    pub zone: String,
}

/// What happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// Something on the network.
    Network(NetworkEvent<'a>),
    /// A deadline passed.
    Tick,
}

/// The registration with the masters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Registering {
    /// It is sent then.
    Due(Instant),
    /// It was sent; another master is asked then.
    Sent(RequestId, Instant),
    /// It was answered on this connection.
    Done,
}

/// A balancer.
#[derive(Debug)]
pub struct Balancer {
    setting: Setting,
    masters: Rotation,
    registering: Registering,
    /// When the masters last answered anything but "not now".
    answered_at: Instant,
    /// Before this, a master that names another one is not followed.
    follow_from: Instant,
    last_request: RequestId,
    seat: Option<Seat>,
    feed: Feed,
    tasks: Tasks,
    workers: Workers,
    lost: Lost,
    /// As primary: what it does for its auxiliary.
    auxiliary: Auxiliary,
    /// As auxiliary: what its primary told it.
    followed: Followed,
    /// Sequence of the attempts dealt under `attempt_epoch`.
    attempt_sequence: u32,
    attempt_epoch: Epoch,
    replan: Replan,
    /// True while the last event left it allowed to deal.
    was_dealing: bool,
    /// A worker has an empty slot: it is looked for tasks to take back from another one, not
    /// before `recall_from`.
    wants_recall: bool,
    recall_from: Instant,
    counters: Counters,
}

/// What a balancer did since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Tasks dealt.
    pub dealt: u64,
    /// Tasks that went back to the queue, whatever the reason.
    pub requeued: u64,
    /// Tasks whose worker fell silent or was restarted, or whose deal was lost on its way.
    pub asked: u64,
    /// Workers that fell silent.
    pub silent_workers: u64,
    /// Runs that workers were told to kill.
    pub kill_orders: u64,
    /// Recalls sent.
    pub recalls: u64,
    /// Leases lost to a newer epoch.
    pub step_downs: u64,
    /// Epochs under which it became the primary.
    pub promotions: u64,
}

impl Balancer {
    /// A balancer that knows nobody yet. `random` spreads its retries.
    #[must_use]
    pub fn new(setting: Setting, random: Rng) -> Balancer {
        let masters = Rotation::new(MASTER_LINK, setting.masters.clone(), random);
        Balancer {
            setting,
            masters,
            registering: Registering::Due(Instant(0)),
            answered_at: Instant(0),
            follow_from: Instant(0),
            last_request: RequestId(0),
            seat: None,
            feed: Feed::default(),
            tasks: Tasks::default(),
            workers: Workers::default(),
            lost: Lost::default(),
            auxiliary: Auxiliary::default(),
            followed: Followed::default(),
            attempt_sequence: 0,
            attempt_epoch: Epoch(0),
            replan: Replan::Nothing,
            was_dealing: false,
            wants_recall: false,
            recall_from: Instant(0),
            counters: Counters::default(),
        }
    }

    /// Decides what to do about one event.
    pub fn handle(&mut self, now: Instant, event: Event<'_>, effects: &mut Vec<NetworkEffect>) {
        if let Event::Network(event) = event {
            self.on_network(now, event, effects);
        }
        self.tick(now, effects);
        let may_deal = self.may_deal(now);
        if may_deal && !self.was_dealing {
            self.replan = Replan::Everyone;
        }
        self.was_dealing = may_deal;
        if may_deal {
            self.deal(now, effects);
        }
        self.tick_auxiliary(now, effects);
    }

    /// When to call [`Balancer::handle`] with [`Event::Tick`] if nothing else happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let silence = self.workers.next_deadline();
        let grace = self.seat.as_ref().and_then(Seat::grace_deadline);
        let auxiliary = self.auxiliary.next_deadline();
        let moved = self.tasks.moved_deadline();
        let mut deadlines = vec![self.masters.next_deadline(), silence, grace, auxiliary, moved];
        if self.was_dealing {
            deadlines.push(self.wants_recall.then_some(self.recall_from));
        }
        if self.masters.is_connected() {
            match self.registering {
                Registering::Due(at) | Registering::Sent(_, at) => deadlines.push(Some(at)),
                Registering::Done => {
                    deadlines.push(self.seat.as_ref().map(Seat::renew_deadline));
                    deadlines.push(self.feed.next_deadline());
                    if self.was_dealing {
                        let more = self.tasks.has_questions() || self.workers.has_questions();
                        deadlines.push(self.lost.next_deadline(more));
                    }
                }
            }
        }
        deadlines.into_iter().flatten().min()
    }

    /// True while this balancer holds the group's lease.
    #[must_use]
    pub fn is_primary(&self, now: Instant) -> bool {
        self.seat.as_ref().is_some_and(|seat| seat.holds_lease(now))
    }

    /// The group that it belongs to and the newest epoch of it that is known here, once it is
    /// registered.
    #[must_use]
    pub fn group(&self) -> Option<(u64, Epoch)> {
        self.seat.as_ref().map(|seat| (seat.group, seat.epoch))
    }

    /// The jobs whose tasks it deals.
    #[must_use]
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Number of workers of its group that it knows.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        self.workers.count()
    }

    /// Number of workers that were heard of within the worker timeout.
    #[must_use]
    pub fn reachable_count(&self) -> usize {
        self.workers.reachable_count()
    }

    /// Slots of the workers that can be reached.
    #[must_use]
    pub fn slot_count(&self) -> u32 {
        self.workers.slot_count()
    }

    /// What it did since its start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Addresses of the masters, as far as they are known here.
    #[must_use]
    pub fn masters(&self) -> &[String] {
        self.masters.addresses()
    }

    /// True where this primary's auxiliary knows how far it may have dealt.
    #[must_use]
    pub fn has_auxiliary_in_step(&self) -> bool {
        self.auxiliary.is_in_step()
    }

    /// Walks the whole state and panics on a broken invariant.
    pub fn check_invariants(&self) {
        self.tasks.check_invariants();
        self.auxiliary.check_invariants(&self.tasks);
        assert!(!self.was_dealing || self.seat.is_some(), "a balancer without a seat deals");
        assert!(
            !self.was_dealing || self.replan == Replan::Nothing,
            "what changed was not planned for"
        );
    }

    /// True where tasks may be dealt, recalled and killed, and the masters asked for their fate:
    /// the lease holds, everything is known that an earlier primary can have dealt, and no successor
    /// would rely on marks that this one does not keep.
    fn may_deal(&self, now: Instant) -> bool {
        let holder = self.seat.as_ref().filter(|seat| seat.holds_lease(now));
        let knows_all = holder.is_some_and(|seat| self.feed.reaches(seat.known_from()));
        knows_all && !self.auxiliary.forbids_dealing()
    }

    /// As primary: sends the auxiliary what it must know.
    fn tick_auxiliary(&mut self, now: Instant, effects: &mut Vec<NetworkEffect>) {
        let Some(seat) = self.seat.as_mut().filter(|seat| seat.is_primary()) else { return };
        let slot_count = self.workers.slot_count();
        let feed = self.feed.is_ready().then(|| self.feed.after());
        let (group, last_request) = (seat.group, self.last_request);
        let primary = Primary { group, feed, slot_count, last_request };
        let was_news = self.auxiliary.is_news();
        self.auxiliary.tick(now, &primary, &mut self.tasks, effects);
        if self.auxiliary.is_news() && !was_news {
            seat.hurry(now);
        }
    }

    fn next_request(&mut self) -> RequestId {
        self.last_request = self.last_request.next();
        self.last_request
    }

    fn on_network(
        &mut self,
        now: Instant,
        event: NetworkEvent<'_>,
        effects: &mut Vec<NetworkEffect>,
    ) {
        match event {
            NetworkEvent::Connected { link: MASTER_LINK, masters, .. } => {
                self.masters.connected(&masters);
                self.registering = Registering::Due(now);
                self.answered_at = now;
                self.feed.disconnected();
                self.lost.disconnected();
                if let Some(seat) = &mut self.seat {
                    seat.disconnected();
                }
            }
            NetworkEvent::Connected { link: AUXILIARY_LINK, sender, .. } => {
                self.auxiliary.connected(now, &sender, effects);
            }
            NetworkEvent::Refused { link: AUXILIARY_LINK, .. } => {
                self.auxiliary.refused(now, effects);
            }
            NetworkEvent::Masters { link: MASTER_LINK, masters } => self.masters.learn(&masters),
            NetworkEvent::Refused { link: MASTER_LINK, .. } => self.masters.fail(now, effects),
            NetworkEvent::Record { sender, record } => {
                // A record whose parts do not fit is treated as if it had been lost on the way.
                let _ = self.on_record(now, &sender, &record, effects);
            }
            NetworkEvent::Gone { sender } => self.workers.disconnected(sender.node, sender.peer),
            NetworkEvent::Overflowing { peer } => self.workers.overflowing(peer),
            NetworkEvent::Connected { .. }
            | NetworkEvent::Masters { .. }
            | NetworkEvent::Refused { .. }
            | NetworkEvent::Joined { .. } => {}
        }
    }

    fn on_record(
        &mut self,
        now: Instant,
        sender: &Sender,
        record: &Record<'_>,
        effects: &mut Vec<NetworkEffect>,
    ) -> Result<(), RecordError> {
        match sender.peer {
            Peer::Link(MASTER_LINK) => self.on_master_record(now, record, effects),
            Peer::Link(AUXILIARY_LINK) if record.message_type() == DealMarkReply::TYPE => {
                let reply = record.read::<DealMarkReply>()?;
                if self.auxiliary.acknowledged(&reply, &mut self.tasks) {
                    self.replan = Replan::Everyone;
                }
                Ok(())
            }
            Peer::Link(_) => Ok(()),
            Peer::Inbound(_)
                if sender.role == Role::Balancer && record.message_type() == DealMark::TYPE =>
            {
                self.on_mark(now, sender, record, effects)
            }
            Peer::Inbound(peer) if sender.role == Role::Worker => {
                self.on_worker_record(now, sender, peer, record, effects)
            }
            Peer::Inbound(_) if record.message_type() == ExplainQuery::TYPE => {
                let reply = self.explain_reply(now, record)?;
                effects.push(NetworkEffect::Send { to: sender.peer, record: reply });
                Ok(())
            }
            Peer::Inbound(_) => {
                refuse(sender, record, effects);
                Ok(())
            }
        }
    }

    /// What is due at its time: links, registration, lease, feed, questions, silent workers.
    fn tick(&mut self, now: Instant, effects: &mut Vec<NetworkEffect>) {
        for worker in self.workers.fall_silent(now) {
            self.counters.silent_workers += u64::from(self.workers.is_ours(worker));
            self.give_up(worker);
        }
        let feed = &self.feed;
        let is_known = |seat: &Seat| feed.reaches(seat.known_from().max(seat.held_back()));
        let known = self.workers.heard_lately(now);
        if self.seat.as_mut().is_some_and(|seat| seat.end_grace(now, is_known(seat), known)) {
            self.tasks.end_doubt();
            self.replan = Replan::Everyone;
        }
        let is_primary = self.seat.as_ref().is_some_and(Seat::is_primary);
        if self.tasks.end_moved(now, is_primary) {
            self.replan = Replan::Everyone;
        }
        let is_unanswered = match self.registering {
            Registering::Sent(_, until) => now >= until,
            Registering::Due(_) => false,
            Registering::Done => self.seat.as_ref().is_some_and(|seat| seat.is_unanswered(now)),
        };
        if self.masters.is_connected() && is_unanswered {
            self.masters.fail(now, effects);
        }
        self.masters.tick(now, effects);
        if !self.masters.is_connected() {
            return;
        }
        match self.registering {
            Registering::Due(at) if now >= at => self.register(now, effects),
            Registering::Due(_) | Registering::Sent(..) => {}
            Registering::Done => self.ask(now, effects),
        }
    }

    fn register(&mut self, now: Instant, effects: &mut Vec<NetworkEffect>) {
        let request = self.next_request();
        self.registering = Registering::Sent(request, now + REGISTER_TIMEOUT);
        let register = NodeRegister {
            role: Role::Balancer.to_wire(),
            incarnation: self.setting.incarnation.0,
            ..NodeRegister::default()
        };
        let (address, telemetry) = (&self.setting.address, &self.setting.telemetry_address);
        let parts = [address.as_bytes(), telemetry.as_bytes(), self.setting.zone.as_bytes()];
        self.send_master(encode(&register, &parts), request, effects);
    }

    /// Asks the masters what is due: the lease, the feed, the fate of tasks.
    fn ask(&mut self, now: Instant, effects: &mut Vec<NetworkEffect>) {
        let request = self.next_request();
        let may_deal = self.may_deal(now);
        let Some(seat) = &mut self.seat else { return };
        if seat.renew(now, request) {
            let renewal = self.renewal();
            self.send_master(renewal, request, effects);
            if may_deal {
                self.tell_gone(now, effects);
            }
        }
        let Some(seat) = &self.seat else { return };
        let (group, epoch) = (seat.group, seat.epoch);
        let request = self.next_request();
        let incarnation = self.setting.incarnation;
        if let Some(pull) = self.feed.pull(now, group, incarnation, request) {
            self.masters.send(pull, effects);
        }
        let request = self.next_request();
        let (tasks, workers) = (&self.tasks, &self.workers);
        let next = |limit| tasks.questions(limit).or_else(|| workers.questions(limit));
        if may_deal && let Some(question) = self.lost.ask(now, (group, epoch), request, next) {
            self.masters.send(question, effects);
        }
    }

    /// Tells the masters of workers that are gone.
    fn tell_gone(&mut self, now: Instant, effects: &mut Vec<NetworkEffect>) {
        let gone = self.workers.take_gone(now);
        let Some(seat) = self.seat.as_ref().filter(|_| !gone.is_empty()) else { return };
        let (group, epoch) = (seat.group, seat.epoch.0);
        let silent = WorkersSilent { group, epoch, ..WorkersSilent::default() };
        self.masters.send(encode(&silent, &[bytes_of(&gone)]), effects);
    }

    fn renewal(&self) -> Vec<u8> {
        let busy = self.tasks.jobs().filter(|(_, job)| job.busy_count() > 0);
        let mut running: Vec<TaskRun> = busy
            .map(|(id, job)| TaskRun {
                job_uuid: id.to_wire(),
                task_count: job.busy_count(),
                ..TaskRun::default()
            })
            .collect();
        let dealt_count = running.iter().fold(0u64, |sum, run| sum.saturating_add(run.task_count));
        running.sort_by_key(|run| std::cmp::Reverse(run.task_count));
        running.truncate(RUNNING_JOBS);
        let (auxiliary, incarnation) = self.auxiliary.state();
        let count = |workers: usize| u32::try_from(workers).unwrap_or(u32::MAX);
        let renew = LeaseRenew {
            group: self.seat.as_ref().map_or(0, |seat| seat.group),
            incarnation: self.setting.incarnation.0,
            epoch: self.seat.as_ref().map_or(0, Seat::asked_epoch),
            worker_count: count(self.workers.count()),
            reachable_count: count(self.workers.reachable_count()),
            slot_count: self.workers.slot_count(),
            dealt_count,
            auxiliary: auxiliary.to_wire(),
            auxiliary_incarnation: incarnation.0,
            ..LeaseRenew::default()
        };
        encode(&renew, &[bytes_of(&running)])
    }

    fn send_master(
        &self,
        mut record: Vec<u8>,
        request: RequestId,
        effects: &mut Vec<NetworkEffect>,
    ) {
        set_request_id(&mut record, request);
        self.masters.send(record, effects);
    }
}

/// Answers a record that is not for a balancer.
fn refuse(sender: &Sender, record: &Record<'_>, effects: &mut Vec<NetworkEffect>) {
    if record.message_type() == ErrorReply::TYPE {
        return;
    }
    let refusal = ErrorReply {
        code: ErrorCode::UnknownType.to_wire(),
        refused_type: record.message_type(),
        ..ErrorReply::default()
    };
    let text = "this is a balancer: ask one of the masters that its hello_reply names";
    let mut reply = encode(&refusal, &[text.as_bytes(), b""]);
    set_request_id(&mut reply, record.request_id());
    effects.push(NetworkEffect::Send { to: sender.peer, record: reply });
}

/// The tasks of a run.
fn range_of(run: &TaskRun) -> Range<u64> {
    run.first_task..run.first_task.saturating_add(run.task_count)
}
