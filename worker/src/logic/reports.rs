//! What the masters are told, and what they answer: registration and status frames.

use std::ops::Range;

use node::logic::network::NetworkEffect;
use node::logic::ranges::without;
use node::logic::refusal::Refusal;
use proto::ids::Epoch;
use proto::messages::node::{NodeRegister, NodeRegistered, RingQuery};
use proto::messages::task::{TaskRun, TaskSettled, WorkerStatusReply};
use proto::record::{Envelope, Message, Record, RecordError, encode, set_request_id};
use proto::status::{ErrorCode, Role, TaskState, Verdict};
use proto::time::{Duration, Instant};
use proto::wire::bytes_of;

use super::balancers::Membership;
use super::held::{task_run, tasks_of};
use super::results::Outcome;
use super::storing::{SegmentKind, Stored};
use super::{Effect, Worker};

/// How long a status frame may stay unanswered before another master is asked: what the death of a
/// leader may cost beside an election. A frame that is told twice counts once.
const FRAME_TIMEOUT: Duration = Duration::from_millis(700);

/// How soon a busy worker reports again what is less than a frame: each report is a log entry, and
/// its masters have more to do than to write one for each process that ended.
pub(super) const FRAME_PAUSE: Duration = Duration::from_millis(50);

/// How long a registration may stay unanswered before another master is asked, and how soon it is
/// repeated while there is no balancer.
const REGISTER_TIMEOUT: Duration = Duration::from_millis(1_000);

/// How often a registered worker asks again who its balancers are.
const REGISTER_INTERVAL: Duration = Duration::from_secs(10);

/// The same where its group has one balancer: a second one may come at any time, and the first may
/// die then.
const SHORT_INTERVAL: Duration = Duration::from_secs(3);

/// What a busy master may ask for at most.
const LONGEST_HOLD: Duration = Duration::from_secs(5);

impl Worker {
    pub(super) fn on_registered(
        &mut self,
        now: Instant,
        registered: &NodeRegistered,
        balancers: &[u8],
        network: &mut Vec<NetworkEffect>,
    ) {
        self.is_register_pending = false;
        self.last_refusal = None;
        let is_moved = registered.index > self.membership.assignment;
        let (group, assignment) = (registered.group, registered.index);
        let epoch = Epoch(registered.epoch);
        if is_moved {
            let before = self.membership;
            self.membership = Membership { group, assignment, epoch };
            self.balancers.leave(now, before, network);
        }
        // Epochs are compared under one assignment only.
        let is_same = assignment == self.membership.assignment;
        if is_same && epoch > self.membership.epoch {
            self.membership.epoch = epoch;
            self.balancers.hurry(now);
        }
        if is_same {
            // An older answer, of a master that lags, would lead back to an older group.
            let addresses = String::from_utf8_lossy(balancers);
            self.balancers.set_addresses(now, &addresses, network);
        }
        self.register_due = now
            + match (self.balancers.is_empty(), self.balancers.is_short()) {
                (true, _) => REGISTER_TIMEOUT,
                // The group was lost, perhaps: the sooner this worker knows where its tasks
                // went, the fewer of them are begun elsewhere.
                _ if is_same && !is_moved && self.balancers.are_all_gone() => REGISTER_TIMEOUT,
                (false, true) => SHORT_INTERVAL,
                (false, false) => REGISTER_INTERVAL,
            };
    }

    /// A master refuses: another one is asked, unless it says how long to wait.
    pub(super) fn on_refused(
        &mut self,
        now: Instant,
        record: &Record<'_>,
        network: &mut Vec<NetworkEffect>,
    ) -> Result<(), RecordError> {
        let refusal = Refusal::from_record(record)?;
        let hold = refusal.retry_after.max(Duration::from_millis(10)).min(LONGEST_HOLD);
        let is_register = refusal.refused_type == NodeRegister::TYPE;
        if refusal.refused_type == RingQuery::TYPE {
            self.storing.ring_refused(now + hold);
        } else if refusal.code == ErrorCode::Busy && is_register {
            self.is_register_pending = false;
            self.register_due = now + hold;
        } else if refusal.code == ErrorCode::Busy {
            if self.results.under_way().is_some() {
                self.frame_due = None;
                self.frame_not_before = Some(now + hold);
            }
        } else {
            self.frame_due = None;
            match refusal.instead.as_str() {
                "" => self.masters.fail(now, network),
                instead => self.masters.follow(now, instead, network),
            }
        }
        self.last_refusal = Some(refusal.text);
        Ok(())
    }

    /// Sends the next status frame where none is under way, or the one under way again where the
    /// link is new.
    pub(super) fn send_frame(&mut self, now: Instant, network: &mut Vec<NetworkEffect>) {
        if self.frame_not_before.is_some_and(|due| now >= due) {
            self.frame_not_before = None;
        }
        // The masters know frames by the registration.
        let may_send = self.masters.is_connected() && self.membership.assignment != 0;
        if !may_send || self.frame_due.is_some() || self.frame_not_before.is_some() {
            return;
        }
        if self.frame_pause(now).is_some() {
            return;
        }
        let is_new = self.results.under_way().is_none();
        if self.results.next_frame().is_none() && is_new {
            return;
        }
        if is_new {
            self.last_frame = Some(now);
        }
        let request = self.next_request();
        let Some(frame) = self.results.under_way() else { return };
        for record in frame.records(self.setting.incarnation, request) {
            self.masters.send(record, network);
        }
        self.frame_due = Some(now + FRAME_TIMEOUT);
    }

    /// Until when the next frame waits for more of what this worker executes. Who has nothing else to
    /// execute, or reported nothing lately, reports at once: a single task pays no timer.
    pub(super) fn frame_pause(&self, now: Instant) -> Option<Instant> {
        let until = self.last_frame? + FRAME_PAUSE;
        let is_busy = self.free_slots.len() < self.setting.slot_count as usize;
        let has_more = is_busy && self.stop_at.is_none();
        let is_little = self.results.under_way().is_none() && !self.results.fills_a_frame();
        (now < until && has_more && is_little).then_some(until)
    }

    pub(super) fn on_acknowledged(
        &mut self,
        now: Instant,
        reply: &WorkerStatusReply,
        refused: &[TaskRun],
        network: &mut Vec<NetworkEffect>,
    ) {
        if reply.worker_incarnation != self.setting.incarnation.0 {
            return;
        }
        let Some(frame) = self.results.acknowledge(reply.frame) else { return };
        (self.frame_due, self.frame_not_before) = (None, None);
        let mut runs = Vec::new();
        for run in refused {
            let verdict = Verdict::from_wire(run.state).unwrap_or(Verdict::Again);
            runs.push(TaskRun { state: verdict.to_wire(), ..*run });
        }
        for outcome in frame.outcomes {
            self.held.settle(outcome.job, &outcome.tasks, outcome.attempt);
            let holes: Vec<Range<u64>> = refused
                .iter()
                .filter(|run| {
                    (run.job_uuid, run.attempt) == (outcome.job.to_wire(), outcome.attempt)
                })
                .map(tasks_of)
                .collect();
            let accepted = without(outcome.tasks.clone(), &holes);
            let settled = Verdict::Final.to_wire();
            let run = |tasks| task_run(outcome.job, tasks, outcome.attempt, settled);
            runs.extend(accepted.iter().map(run));
            self.account(now, outcome, &accepted);
        }
        if runs.is_empty() {
            return;
        }
        let worker_incarnation = self.setting.incarnation.0;
        let message = TaskSettled { worker_incarnation, ..TaskSettled::default() };
        self.balancers.send_all(&encode(&message, &[bytes_of(&runs)]), network);
    }

    /// Keeps what the accepted tasks used, for the next segment.
    fn account(&mut self, now: Instant, outcome: Outcome, accepted: &[Range<u64>]) {
        if !matches!(outcome.state, TaskState::Done | TaskState::Failed) {
            return;
        }
        let mut entries = outcome.entries;
        if accepted.first() != Some(&outcome.tasks) {
            let mut pieces = accepted.iter().peekable();
            entries.retain(|entry| {
                while pieces.next_if(|piece| piece.end <= entry.task_index).is_some() {}
                pieces.peek().is_some_and(|piece| piece.contains(&{ entry.task_index }))
            });
        }
        self.accounting.add(now, outcome.job, entries);
    }

    /// What is due at its time: registration, frames without answer, the link.
    pub(super) fn tick_masters(&mut self, now: Instant, network: &mut Vec<NetworkEffect>) {
        if self.frame_due.is_some_and(|due| now >= due) {
            self.frame_due = None;
            self.masters.fail(now, network);
        }
        if self.balancers.take_silent() && !self.is_register_pending {
            self.register_due = now;
        }
        if self.masters.is_connected() && now >= self.register_due {
            if self.is_register_pending {
                self.is_register_pending = false;
                self.masters.fail(now, network);
            } else {
                self.is_register_pending = true;
                self.register_due = now + REGISTER_TIMEOUT;
                let registration = self.registration();
                self.masters.send(registration, network);
            }
        }
        self.masters.tick(now, network);
    }

    /// Hands the next segments to the storage nodes, and takes what became of those before: what is
    /// durable is reported from now on.
    pub(super) fn store_segments(
        &mut self,
        now: Instant,
        effects: &mut Vec<Effect>,
        network: &mut Vec<NetworkEffect>,
    ) {
        self.storing.tick(now, network);
        let is_busy = self.free_slots.len() < self.setting.slot_count as usize;
        let is_idle = !is_busy && self.held.waiting_count() == 0;
        self.idle_since = is_idle.then(|| self.idle_since.unwrap_or(now));
        loop {
            if let Some(stored) = self.storing.take_stored(now, network) {
                match stored {
                    Stored::Durable(SegmentKind::Accounting) => {
                        let segment = self.accounting.stored();
                        segment.into_iter().for_each(|segment| self.results.add_segment(segment));
                    }
                    Stored::Durable(SegmentKind::Outputs) => {
                        let outcomes = self.packing.stored();
                        outcomes.into_iter().for_each(|outcome| self.results.add(outcome));
                    }
                    Stored::Failed(why) => effects.push(Effect::Warn(format!(
                        "what tasks left is not on storage yet and is tried again: {why}"
                    ))),
                }
            } else if let Some(segment) = self.packing.next_segment(now, self.idle_since) {
                self.storing.store(now, SegmentKind::Outputs, segment, network);
            } else if let Some(segment) = self.accounting.next_segment(now) {
                self.storing.store(now, SegmentKind::Accounting, segment, network);
            } else {
                break;
            }
        }
        if self.masters.is_connected()
            && let Some(query) = self.storing.ring_query(now)
        {
            let mut record = encode(&query, &[]);
            set_request_id(&mut record, self.next_request());
            self.masters.send(record, network);
        }
    }

    fn registration(&mut self) -> Vec<u8> {
        let register = NodeRegister {
            envelope: Envelope { request_id: self.next_request().0, ..Envelope::default() },
            role: Role::Worker.to_wire(),
            incarnation: self.setting.incarnation.0,
            slot_count: self.setting.slot_count,
            cpu_milli: self.setting.cpu_milli,
            capacity_bytes: self.setting.memory_bytes,
            ..NodeRegister::default()
        };
        let setting = &self.setting;
        let parts = [&setting.address, &setting.telemetry_address, &setting.zone];
        encode(&register, &parts.map(|part| part.as_bytes()))
    }
}
