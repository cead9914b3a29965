//! What a worker decides: which deals it takes, which slot executes what, what it reports to whom.
//!
//! - `deals.rs`: what balancers say: deals, recalls, orders
//! - `execution.rs`: which slot gets what, and what its ends mean
//! - `explain.rs`: why tasks are where they are, for whoever asks
//! - `reports.rs`: status frames to the masters, registration; `storing.rs`: segments to the ring
//! - `balancers.rs`: heartbeats to the balancers; `round_trip.rs`: how far away each of them is
//! - [`held`], [`job`], [`results`], [`accounting`], [`packing`]: what is remembered
//!
//! Pure: no sockets, clock, threads or randomness of its own. It does not know how a task is
//! executed, only when it starts and how it ended.

pub mod accounting;
mod balancers;
mod deals;
mod execution;
mod explain;
pub mod held;
pub mod job;
pub mod packing;
mod reports;
pub mod results;
mod round_trip;
mod storing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use client::logic::rings::read_ring;
use fastrand::Rng;
use node::logic::network::{Link, NetworkEffect, NetworkEvent, Peer};
use node::logic::rotation::Rotation;
use proto::ids::{ClusterId, Epoch, Incarnation, JobId, NodeId, RequestId, TaskIndex};
use proto::messages::node::{NodeRegistered, RingReply};
use proto::messages::session::ErrorReply;
use proto::messages::task::{
    TaskRecall, TaskRun, WorkerHeartbeatReply, WorkerRequest, WorkerStatusReply,
};
use proto::record::{Message, Record, RecordError};
use proto::segment::Output;
use proto::status::{Cause, TaskState};
use proto::time::{Duration, Instant};
use proto::wire::items_of;

use self::accounting::Accounting;
pub use self::balancers::HEARTBEAT;
use self::balancers::{Balancers, Heartbeat, Membership};
pub use self::deals::EXIT_NOT_STARTED;
pub use self::execution::{PIECE, STALL};
pub use self::explain::RunningStage;
use self::held::Held;
use self::job::JobSpec;
use self::packing::{OUTPUT_BYTES, Packing};
use self::results::{RESULT_BYTES, Results};
pub use self::storing::NewSegment;
use self::storing::Storing;

/// The link to a master.
const MASTER_LINK: Link = Link(0);

/// Most runs that a worker holds: what a heartbeat lists, less than a megabyte.
const HELD_RUNS: usize = 20_000;

/// Most jobs whose means are remembered.
const MEANS: usize = 20_000;

/// How long a stopping worker tries to deliver what it has.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// What a worker is.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Its UUID.
    pub node: NodeId,
    /// How often its data folder was started.
    pub incarnation: Incarnation,
    /// The cluster of its data folder; nil for one that has not met its cluster.
    pub cluster: ClusterId,
    /// Addresses of the masters.
    pub masters: Vec<String>,
    /// Where it listens.
    pub address: String,
    /// Where its telemetry is published; empty where it is not.
    pub telemetry_address: String,
    /// Its failure zone.
    pub zone: String,
    /// Tasks that it executes at a time.
    pub slot_count: u32,
    /// Thousandths of a CPU that tasks may use together.
    pub cpu_milli: u64,
    /// Bytes of memory that tasks may use together.
    pub memory_bytes: u64,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskEnd {
    /// The slot that executed it.
    pub slot: u32,
    /// The task.
    pub task: TaskIndex,
    /// Done, failed or lost.
    pub state: TaskState,
    /// Exit code, minus the signal's number where one ended it.
    pub exit_code: i32,
    /// Why, where the state alone does not say it.
    pub cause: Cause,
    /// When it began, microseconds since 1970.
    pub start_unix_us: u64,
    /// How long it took.
    pub wall: Duration,
    /// CPU time that it used.
    pub cpu: Duration,
    /// Largest resident memory that it had, in bytes.
    pub peak_memory_bytes: u64,
    /// What it wrote: packed within the limits of one task, or durable on storage already. Nothing
    /// is kept of a lost one.
    pub outputs: Vec<Output>,
}

/// An attempt that ran when an earlier incarnation of this worker died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrashedTask {
    /// Its job.
    pub job: JobId,
    /// The task.
    pub task: TaskIndex,
    /// The attempt.
    pub attempt: u64,
}

/// What happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// Something on the network.
    Network(NetworkEvent<'a>),
    /// Tasks ended; those of one slot in the order of their indices.
    Ended {
        /// How.
        ends: Vec<TaskEnd>,
        /// Slots that were cancelled and do not begin what they have left beside these.
        given_up: Vec<u32>,
    },
    /// A task of a piece takes much longer than those before it: what stands behind it was taken out
    /// of its slot and will not begin there.
    TakenBack {
        /// The slot, which goes on with the one task.
        slot: u32,
        /// The tasks.
        tasks: Range<u64>,
    },
    /// What an earlier incarnation left is known: evidence of which tasks it died with.
    Crashed {
        /// The tasks, in any order.
        tasks: Vec<CrashedTask>,
    },
    /// Whether the disk has too little room to begin tasks, where that changed.
    Room {
        /// True while it has.
        is_short: bool,
    },
    /// A deadline passed.
    Tick,
    /// The operator stops the worker: what has not begun is given back, what runs is lost.
    Stop,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// On the network.
    Network(NetworkEffect),
    /// Execute tasks in a slot, one after the other.
    Start {
        /// The slot.
        slot: u32,
        /// Their job.
        spec: Arc<JobSpec>,
        /// The tasks.
        tasks: Range<u64>,
        /// The attempt.
        attempt: u64,
    },
    /// End what runs in a slot, as lost, and do not begin the rest of what was handed to it.
    Cancel {
        /// The slot.
        slot: u32,
    },
    /// The data folder belongs to this cluster from now on.
    Join {
        /// The cluster.
        cluster: ClusterId,
    },
    /// Something that a person should know, in one sentence.
    Warn(String),
}

/// What is expected of a job's next task.
#[derive(Clone, Copy, Debug)]
struct Means {
    /// How long one takes, in microseconds.
    wall_us: f64,
    /// Bytes that what it wrote takes in a segment.
    output_bytes: f64,
}

/// A worker.
#[derive(Debug)]
pub struct Worker {
    setting: Setting,
    masters: Rotation,
    /// When the registration is sent again, or given up where it is unanswered.
    register_due: Instant,
    is_register_pending: bool,
    membership: Membership,
    balancers: Balancers,
    held: Held,
    free_slots: BTreeSet<u32>,
    cpu_used: u64,
    memory_used: u64,
    /// Of each job's tasks up to now.
    means: BTreeMap<JobId, Means>,
    results: Results,
    /// When the frame under way is given up; `None` where it is to be sent.
    frame_due: Option<Instant>,
    /// A busy master is not sent the frame before this.
    frame_not_before: Option<Instant>,
    /// Since when it executes nothing and has nothing to execute.
    idle_since: Option<Instant>,
    /// When the last frame was made.
    last_frame: Option<Instant>,
    accounting: Accounting,
    packing: Packing,
    storing: Storing,
    /// What became free since the balancers were last told: by job, with the time it took.
    freed: BTreeMap<JobId, (u64, Vec<TaskRun>)>,
    /// When they are told at the latest; `None` where nothing became free.
    free_due: Option<Instant>,
    /// What the balancers were last told of whether this worker takes tasks.
    told_refusing: u8,
    last_request: RequestId,
    /// What a master refused last, for people.
    last_refusal: Option<String>,
    /// Whether the disk has too little room to begin tasks.
    is_short_of_room: bool,
    /// Tasks that ended here.
    ended_count: u64,
    /// When a stopping worker gives up delivering.
    stop_at: Option<Instant>,
}

impl Worker {
    /// A worker that knows nobody yet. `random` spreads its retries.
    #[must_use]
    pub fn new(setting: Setting, random: Rng) -> Worker {
        let masters = Rotation::new(MASTER_LINK, setting.masters.clone(), random);
        let free_slots = (0..setting.slot_count).collect();
        Worker {
            setting,
            masters,
            register_due: Instant(0),
            is_register_pending: false,
            membership: Membership::default(),
            balancers: Balancers::default(),
            held: Held::default(),
            free_slots,
            cpu_used: 0,
            memory_used: 0,
            means: BTreeMap::new(),
            results: Results::default(),
            frame_due: None,
            frame_not_before: None,
            idle_since: None,
            last_frame: None,
            accounting: Accounting::default(),
            packing: Packing::default(),
            storing: Storing::new(),
            freed: BTreeMap::new(),
            free_due: None,
            told_refusing: 0,
            last_request: RequestId(0),
            last_refusal: None,
            is_short_of_room: false,
            ended_count: 0,
            stop_at: None,
        }
    }

    /// Decides what to do about one event. What it says to a balancer is in an order that never
    /// shows less than what was said before: ends, then settled runs, then the inventory.
    pub fn handle(&mut self, now: Instant, event: Event<'_>, effects: &mut Vec<Effect>) {
        let mut network = Vec::new();
        if matches!(event, Event::Network(_)) {
            // What follows from it may be said to balancers, behind the ends that came before.
            self.tell_freed(&mut network);
        }
        match event {
            Event::Network(event) => self.on_network(now, event, effects, &mut network),
            Event::Ended { ends, given_up } => {
                ends.into_iter().for_each(|end| self.on_end(end));
                given_up.iter().for_each(|&slot| self.on_given_up(slot, &mut network));
            }
            Event::TakenBack { slot, tasks } => self.on_taken_back(slot, tasks, &mut network),
            Event::Crashed { tasks } => tasks.into_iter().for_each(|task| self.on_crash(task)),
            Event::Room { is_short } => self.on_room(is_short, effects, &mut network),
            Event::Tick => {}
            Event::Stop => self.stop(now, effects, &mut network),
        }
        self.tell_or_gather_freed(now, &mut network);
        self.tick_masters(now, &mut network);
        self.store_segments(now, effects, &mut network);
        // Behind the segments, which make room for more.
        self.start_tasks(effects);
        self.send_frame(now, &mut network);
        self.tick_balancers(now, &mut network);
        effects.extend(network.into_iter().map(Effect::Network));
    }

    /// When to call [`Worker::handle`] with [`Event::Tick`] if nothing else happens.
    #[must_use]
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let has_master = self.masters.is_connected();
        let register = has_master.then_some(self.register_due);
        let pause = self.frame_pause(now).filter(|_| !self.results.is_empty());
        let frame = self.frame_not_before.or(self.frame_due).or(pause);
        let balancers = self.balancers.next_deadline().filter(|_| self.membership.assignment != 0);
        let storing = self.storing.next_deadline(now, has_master);
        let segments =
            [self.accounting.next_deadline(), self.packing.next_deadline(self.idle_since), storing];
        let stop_at = self.stop_at.filter(|&stop_at| stop_at > now);
        let masters = self.masters.next_deadline();
        let all = [masters, register, frame, balancers, stop_at, self.free_due];
        all.into_iter().chain(segments).flatten().min()
    }

    /// True where a stopping worker has nothing left to deliver, or tried for long enough.
    #[must_use]
    pub fn is_finished(&self, now: Instant) -> bool {
        let is_delivered = self.results.is_empty()
            && self.accounting.is_empty()
            && self.packing.is_empty()
            && self.free_slots.len() == self.setting.slot_count as usize;
        self.stop_at.is_some_and(|stop_at| is_delivered || now >= stop_at)
    }

    /// What this worker holds, for `explain` and telemetry.
    #[must_use]
    pub fn held(&self) -> &Held {
        &self.held
    }

    /// Slots without a task.
    #[must_use]
    pub fn free_slot_count(&self) -> u32 {
        u32::try_from(self.free_slots.len()).unwrap_or(u32::MAX)
    }

    /// Tasks that ended here since the start, whatever their outcome.
    #[must_use]
    pub fn ended_count(&self) -> u64 {
        self.ended_count
    }

    /// True until the masters acknowledged all that was told of by [`Event::Crashed`].
    #[must_use]
    pub fn owes_evidence(&self) -> bool {
        self.results.crash_count() > 0
    }

    /// Bytes of outcomes that are not acknowledged, and of outputs and accounting that are not
    /// durable.
    #[must_use]
    pub fn result_bytes(&self) -> usize {
        let segments = self.storing.bytes();
        self.results.bytes() + self.accounting.bytes() + self.packing.bytes() + segments
    }

    /// Why this worker executes nothing more than it does, in one sentence.
    #[must_use]
    pub fn explain(&self) -> String {
        if self.stop_at.is_some() {
            return "it is stopping".into();
        }
        if self.membership.assignment == 0 {
            let refusal = self.last_refusal.as_deref().map(|text| format!(": {text}"));
            let known = self.setting.masters.join(", ");
            let refusal = refusal.unwrap_or_default();
            return format!("it is not registered with a master ({known}){refusal}");
        }
        if self.balancers.is_empty() {
            return format!("group {} has no balancer at present", self.membership.group);
        }
        if self.is_short_of_room {
            return "the disk of its data folder is full: it begins no tasks until there is room"
                .into();
        }
        if self.is_refusing() {
            let (bytes, tasks) = (self.result_bytes(), self.packing.task_count());
            let trouble = self.storing.trouble().map(|text| format!(": {text}"));
            let trouble = trouble.unwrap_or_default();
            return format!(
                "{bytes} bytes of its results are not acknowledged yet, outputs of {tasks} tasks \
                 are not on storage{trouble}"
            );
        }
        match self.held.next() {
            None => "it was dealt nothing more".into(),
            Some(_) if self.free_slots.is_empty() => "all slots are busy".into(),
            Some(run) => {
                format!("the next task, of job {}, waits for CPUs or memory", run.spec.job)
            }
        }
    }

    /// Walks the whole state and panics on a broken invariant.
    pub fn check_invariants(&self) {
        self.held.check_invariants();
        self.results.check_invariants();
        self.accounting.check_invariants();
        self.packing.check_invariants();
        self.storing.check_invariants();
        let busy = self.held.slots().count();
        assert_eq!(
            busy + self.free_slots.len(),
            self.setting.slot_count as usize,
            "every slot is free or has tasks"
        );
        assert!(self.free_slots.iter().all(|&slot| self.held.started(slot).is_none()));
        let needs = self.held.slots().map(|(_, started)| &started.spec.description);
        let (cpu, memory) = needs.fold((0, 0), |(cpu, memory), needs| {
            (cpu + u64::from(needs.cpu_milli), memory + needs.memory_bytes)
        });
        assert_eq!((self.cpu_used, self.memory_used), (cpu, memory), "what running tasks use");
        assert!(self.cpu_used <= self.setting.cpu_milli, "more CPU is used than there is");
        assert!(self.memory_used <= self.setting.memory_bytes, "more memory than there is");
        assert_eq!(
            self.freed.is_empty(),
            self.free_due.is_none(),
            "the balancers will be told what became free"
        );
        if !self.is_refusing() && self.free_slots.len() == self.setting.slot_count as usize {
            assert!(self.held.next().is_none(), "tasks wait while every slot is free");
        }
    }

    fn on_network(
        &mut self,
        now: Instant,
        event: NetworkEvent<'_>,
        effects: &mut Vec<Effect>,
        network: &mut Vec<NetworkEffect>,
    ) {
        if self.storing.handle(now, &event, network) {
            return;
        }
        match event {
            NetworkEvent::Connected { link: MASTER_LINK, masters, cluster, .. } => {
                self.masters.connected(&masters);
                self.storing.master_changed(now);
                self.is_register_pending = false;
                self.register_due = now;
                (self.frame_due, self.frame_not_before) = (None, None);
                if self.setting.cluster.is_nil() && !cluster.is_nil() {
                    self.setting.cluster = cluster;
                    effects.push(Effect::Join { cluster });
                }
            }
            NetworkEvent::Connected { link, .. } => self.balancers.connected(now, link),
            NetworkEvent::Masters { link: MASTER_LINK, masters } => self.masters.learn(&masters),
            NetworkEvent::Refused { link: MASTER_LINK, text, .. } => {
                self.last_refusal = Some(text);
                self.masters.fail(now, network);
            }
            NetworkEvent::Refused { link, .. } => self.balancers.refused(now, link, network),
            NetworkEvent::Record { sender, record } => {
                // A record that cannot be read was counted where it was framed; one whose parts
                // do not fit is treated as if it had been lost on the way.
                let Peer::Link(link) = sender.peer else { return };
                let _ = if link == MASTER_LINK {
                    self.on_master_record(now, &record, network)
                } else if self.balancers.has(link) {
                    self.on_balancer_record(now, link, &record, effects, network)
                } else {
                    Ok(())
                };
            }
            NetworkEvent::Masters { .. }
            | NetworkEvent::Joined { .. }
            | NetworkEvent::Gone { .. }
            | NetworkEvent::Overflowing { .. } => {}
        }
    }

    fn on_master_record(
        &mut self,
        now: Instant,
        record: &Record<'_>,
        network: &mut Vec<NetworkEffect>,
    ) -> Result<(), RecordError> {
        match record.message_type() {
            NodeRegistered::TYPE => {
                let (registered, [balancers]) = record.open::<NodeRegistered, 1>()?;
                self.on_registered(now, &registered, balancers, network);
            }
            WorkerStatusReply::TYPE => {
                let (reply, [runs]) = record.open::<WorkerStatusReply, 1>()?;
                self.on_acknowledged(now, &reply, items_of(runs).unwrap_or_default(), network);
            }
            RingReply::TYPE => self.storing.ring_answered(now, read_ring(record).ok(), network),
            ErrorReply::TYPE => self.on_refused(now, record, network)?,
            _ => {}
        }
        Ok(())
    }

    fn on_balancer_record(
        &mut self,
        now: Instant,
        link: Link,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
        network: &mut Vec<NetworkEffect>,
    ) -> Result<(), RecordError> {
        match record.message_type() {
            WorkerRequest::TYPE => self.on_deal(now, link, record, effects, network)?,
            WorkerHeartbeatReply::TYPE => {
                let (reply, [runs]) = record.open::<WorkerHeartbeatReply, 1>()?;
                self.balancers.answered(now, link, reply.last_deal);
                let membership = self.balancers.former(link).unwrap_or(&mut self.membership);
                if reply.assignment != membership.assignment {
                    // Its balancer has a seat in another group, or does not hold the lease.
                    return Ok(());
                }
                let is_news = Epoch(reply.epoch) > membership.epoch;
                membership.epoch = membership.epoch.max(Epoch(reply.epoch));
                if Epoch(reply.epoch) == membership.epoch {
                    // One that was replaced, or holds no lease, orders nothing.
                    self.obey(items_of(runs).unwrap_or_default(), effects);
                }
                if is_news {
                    // The inventory that answers is the barrier: from now on older ones are over.
                    self.balancers.hurry(now);
                }
            }
            TaskRecall::TYPE => {
                let (recall, [runs]) = record.open::<TaskRecall, 1>()?;
                let membership = self.balancers.former(link).unwrap_or(&mut self.membership);
                if Epoch(recall.epoch) >= membership.epoch {
                    self.give_back(link, items_of(runs).unwrap_or_default(), network);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// True where this worker takes no new tasks at present.
    fn is_refusing(&self) -> bool {
        self.stop_at.is_some()
            || self.is_full()
            || self.result_bytes() >= RESULT_BYTES
            || self.held.run_count() >= HELD_RUNS
    }

    /// True where what tasks wrote fills its room, or something fills the disk: more tasks would only
    /// add to it.
    fn is_full(&self) -> bool {
        self.is_short_of_room || self.packing.bytes() >= OUTPUT_BYTES
    }

    fn on_room(
        &mut self,
        is_short: bool,
        effects: &mut Vec<Effect>,
        network: &mut Vec<NetworkEffect>,
    ) {
        let said = match is_short {
            true => "the disk of the data folder is full: no tasks are begun until there is room",
            false => "there is room on the disk of the data folder again: tasks are begun",
        };
        if is_short != self.is_short_of_room {
            self.is_short_of_room = is_short;
            effects.push(Effect::Warn(said.to_owned()));
        }
        if is_short {
            // Nobody takes back what a worker has too little of to fill its slots.
            self.return_waiting(network);
        }
    }

    fn tick_balancers(&mut self, now: Instant, network: &mut Vec<NetworkEffect>) {
        if self.membership.assignment == 0 {
            return;
        }
        let refusing = if self.stop_at.is_some() { 2 } else { u8::from(self.is_refusing()) };
        if refusing != self.told_refusing {
            self.told_refusing = refusing;
            self.balancers.hurry(now);
        }
        let heartbeat = Heartbeat {
            incarnation: self.setting.incarnation,
            membership: self.membership,
            slot_count: self.setting.slot_count,
            free_slot_count: self.free_slot_count(),
            cpu_milli: self.setting.cpu_milli,
            memory_bytes: self.setting.memory_bytes,
            refusing,
        };
        if self.balancers.next_deadline().is_some_and(|due| due <= now) {
            // The inventory shows these ends.
            self.tell_freed(network);
        }
        self.balancers.tick(now, &heartbeat, &self.held, network);
    }

    fn next_request(&mut self) -> RequestId {
        self.last_request = self.last_request.next();
        self.last_request
    }
}
