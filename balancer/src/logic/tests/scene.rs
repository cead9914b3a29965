//! A balancer with its masters and workers in a test's hands.

use std::collections::BTreeMap;
use std::ops::Range;

use fastrand::Rng;
use node::logic::network::{
    Identity, Link, NetworkEffect, NetworkEvent, NetworkLimits, Peer, RoutingId, Sender,
};
use node::logic::sessions::{Sessions, Source};
use proto::description::{JobDescription, Program, Runtime};
use proto::ids::{ClusterId, Incarnation, JobId, LogIndex, NodeId, RequestId, TaskIndex};
use proto::messages::job::JobSubmit;
use proto::messages::node::{
    DealBound, DealMark, DealMarkReply, FeedBatch, FeedItem, FeedPull, LeaseRenew, LeaseReply,
    NodeRegister, NodeRegistered, RunsUnfinished,
};
use proto::messages::session::ErrorReply;
use proto::messages::task::{
    TaskFree, TaskRecall, TaskReturned, TaskRun, TaskSettled, WorkerHeartbeat,
    WorkerHeartbeatReply, WorkerRequest,
};
use proto::record::{Message, Records, encode, set_request_id};
use proto::status::{AuxiliaryState, ErrorCode, FeedKind, Role, TaskState, Verdict};
use proto::time::{Duration, Instant};
use proto::wire::{bytes_of, items_of};

use super::super::auxiliary::AUXILIARY_LINK;
use super::super::explain::Explanation;
use super::super::{Balancer, Event, MASTER_LINK, Setting};

const CLUSTER: ClusterId = ClusterId(0xc1);
const BALANCER: NodeId = NodeId(0xba);
const AUXILIARY: NodeId = NodeId(0xbb);

/// A deal as a worker gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) worker: NodeId,
    pub(super) job: JobId,
    pub(super) tasks: Range<u64>,
    pub(super) attempt: u64,
    pub(super) number: u64,
}

impl Turn {
    pub(super) fn count(&self) -> u64 {
        self.tasks.end - self.tasks.start
    }
}

/// First task and end of each deal.
pub(super) fn tasks_of(deals: &[Turn]) -> Vec<(u64, u64)> {
    deals.iter().map(|deal| (deal.tasks.start, deal.tasks.end)).collect()
}

/// Reads a record of one type, with its request id.
pub(super) fn read<T: Message>(record: &[u8]) -> Option<(RequestId, T)> {
    let record = Records::of(record).next()?.ok()?;
    let message = (record.message_type() == T::TYPE).then(|| record.read::<T>().ok())??;
    Some((record.request_id(), message))
}

/// The runs of a record whose only variable part they are.
pub(super) fn runs_in<T: Message>(record: &[u8]) -> Vec<TaskRun> {
    let record = Records::of(record).next().unwrap().unwrap();
    let (_, [runs]) = record.open::<T, 1>().unwrap();
    items_of::<TaskRun>(runs).unwrap().to_vec()
}

pub(super) fn run(job: JobId, tasks: Range<u64>, attempt: u64) -> TaskRun {
    TaskRun {
        job_uuid: job.to_wire(),
        first_task: tasks.start,
        task_count: tasks.end - tasks.start,
        attempt,
        state: TaskState::Running.to_wire(),
    }
}

pub(super) fn grant(job: JobId, index: u64, tasks: Range<u64>) -> FeedItem {
    FeedItem {
        index,
        kind: FeedKind::Grant.to_wire(),
        job_uuid: job.to_wire(),
        first_task: tasks.start,
        task_count: tasks.end - tasks.start,
        ..FeedItem::default()
    }
}

pub(super) fn ended(job: JobId, index: u64) -> FeedItem {
    FeedItem {
        index,
        kind: FeedKind::JobEnded.to_wire(),
        job_uuid: job.to_wire(),
        ..FeedItem::default()
    }
}

/// A job in its simplest form, without a description.
pub(super) fn job_record(task_count: u64) -> Vec<u8> {
    encode(&JobSubmit { task_count, ..JobSubmit::default() }, &[b"#!/bin/true", b"", b""])
}

/// A job whose tasks take several CPUs.
pub(super) fn wide_job_record(task_count: u64, cpu_milli: u32) -> Vec<u8> {
    let runtime = Runtime::Command { program: Program::Inline, arguments: Vec::new() };
    let description = JobDescription { cpu_milli, ..JobDescription::new(runtime) };
    let submit = JobSubmit { task_count, ..JobSubmit::default() };
    encode(&submit, &[b"#!/bin/true", b"", &description.encode().unwrap()])
}

pub(super) fn setting(incarnation: u64) -> Setting {
    Setting {
        node: BALANCER,
        incarnation: Incarnation(incarnation),
        masters: vec!["tcp://10.0.0.1:1".into(), "tcp://10.0.0.2:1".into()],
        address: "tcp://10.0.0.9:1".into(),
        telemetry_address: String::new(),
        zone: String::new(),
    }
}

pub(super) fn master() -> Sender {
    Sender {
        peer: Peer::Link(MASTER_LINK),
        node: NodeId(0xaa),
        role: Role::Master,
        incarnation: Incarnation(1),
    }
}

/// Where real handles of inbound connections come from: they cannot be made up.
#[derive(Debug)]
pub(super) struct Door {
    sessions: Sessions,
    opened: u64,
    nodes: BTreeMap<Peer, NodeId>,
}

impl Door {
    pub(super) fn new() -> Door {
        let sessions = Sessions::new(identity(BALANCER, Role::Balancer, 1), NetworkLimits::NODE);
        Door { sessions, opened: 0, nodes: BTreeMap::new() }
    }

    /// A node connects (anew).
    pub(super) fn open(&mut self, node: NodeId, role: Role, incarnation: u64) -> Sender {
        self.opened += 1;
        let now = Instant(1);
        let mut other = Sessions::new(identity(node, role, incarnation), NetworkLimits::NODE);
        // Each opening counts up the generation.
        for _ in 0..self.opened {
            let address = "tcp://10.0.0.9:1".into();
            let _ = other.perform(now, NetworkEffect::Open { link: Link(1), address });
        }
        let mut joined = None;
        while let Some((_, frame)) = other.take_frame() {
            let id = RoutingId::of(node);
            let source = Source::Bound(id.as_bytes());
            self.sessions.receive(now, source, &frame, &mut |event| {
                if let NetworkEvent::Joined { sender, .. } = event {
                    joined = Some(sender);
                }
            });
        }
        let sender = joined.expect("a hello that is accepted");
        self.nodes.insert(sender.peer, node);
        sender
    }

    /// Who is, or was, at the other end.
    pub(super) fn node_of(&self, peer: Peer) -> NodeId {
        self.nodes[&peer]
    }
}

fn identity(node: NodeId, role: Role, incarnation: u64) -> Identity {
    Identity {
        node,
        role,
        cluster: CLUSTER,
        incarnation: Incarnation(incarnation),
        version: "1".into(),
        address: String::new(),
    }
}

/// A mark: job, first task of the granted range, and bound.
pub(super) type Bound = (JobId, u64, u64);

pub(super) struct Scene {
    pub(super) now: Instant,
    pub(super) balancer: Balancer,
    pub(super) effects: Vec<NetworkEffect>,
    /// What the leader says with each lease.
    pub(super) epoch: u64,
    pub(super) is_primary: u8,
    pub(super) feed_index: u64,
    pub(super) is_all_dealt: u8,
    /// The auxiliary as the leader names it: how it stands, and its incarnation; 0 for none.
    pub(super) auxiliary: (AuxiliaryState, u64),
    /// Workers of the group as the log has them; 0 where the leader says nothing.
    pub(super) worker_count: u64,
    door: Door,
}

impl Scene {
    pub(super) fn new() -> Scene {
        Scene {
            now: Instant(1_000_000),
            balancer: Balancer::new(setting(1), Rng::with_seed(3)),
            effects: Vec::new(),
            epoch: 1,
            is_primary: 1,
            feed_index: 5,
            is_all_dealt: 0,
            auxiliary: (AuxiliaryState::Unknown, 0),
            worker_count: 0,
            door: Door::new(),
        }
    }

    /// A primary that has read an empty feed.
    pub(super) fn primary(epoch: u64) -> Scene {
        let scene = Scene::seated(epoch, 1);
        assert!(scene.balancer.is_primary(scene.now));
        scene
    }

    /// An auxiliary that has read an empty feed.
    pub(super) fn auxiliary() -> Scene {
        Scene::seated(1, 0)
    }

    fn seated(epoch: u64, is_primary: u8) -> Scene {
        let mut scene = Scene::new();
        scene.connect();
        scene.register(epoch, is_primary);
        scene.lease(epoch, is_primary, 5);
        let request = scene.pull().0;
        scene.batch(request, 5, 1, None, &[], &[]);
        scene
    }

    pub(super) fn event(&mut self, event: NetworkEvent<'_>) {
        self.balancer.handle(self.now, Event::Network(event), &mut self.effects);
        self.balancer.check_invariants();
    }

    pub(super) fn tick(&mut self) {
        self.balancer.handle(self.now, Event::Tick, &mut self.effects);
        self.balancer.check_invariants();
    }

    /// Time passes; what is due is done when it is due.
    pub(super) fn wait(&mut self, span: Duration) {
        let until = self.now + span;
        let mut ticks = 0;
        while let Some(due) = self.balancer.next_deadline().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.tick();
            ticks += 1;
            assert!(ticks < 1_000, "it turns in place: {:?}", self.balancer.next_deadline());
        }
        self.now = until;
        self.tick();
    }

    /// Time passes and the leader answers each renewal.
    pub(super) fn wait_renewing(&mut self, span: Duration) {
        let until = self.now + span;
        while self.now < until {
            self.wait(Duration::from_millis(50));
            if self.to_masters::<LeaseRenew>().is_some() {
                self.answer_lease();
            }
        }
    }

    pub(super) fn explain(&self, job: JobId, task: u64) -> Explanation {
        let explanation = self.balancer.explain(self.now, job, TaskIndex(task));
        assert!(!explanation.to_string().is_empty());
        explanation
    }

    // The masters.

    fn master_says(&mut self, mut record: Vec<u8>, request: RequestId) {
        set_request_id(&mut record, request);
        let record = Records::of(&record).next().unwrap().unwrap();
        self.event(NetworkEvent::Record { sender: master(), record });
    }

    /// A master accepts the link.
    pub(super) fn connect(&mut self) {
        self.tick();
        self.event(NetworkEvent::Connected {
            link: MASTER_LINK,
            sender: master(),
            cluster: CLUSTER,
            applied_index: LogIndex(5),
            window: 64,
            masters: "tcp://10.0.0.1:1,tcp://10.0.0.2:1".into(),
            again: false,
        });
    }

    pub(super) fn register(&mut self, epoch: u64, is_primary: u8) {
        self.seat((5, 1), epoch, is_primary);
    }

    /// Answers the registration: the number of the seat and its group.
    pub(super) fn seat(&mut self, (index, group): (u64, u64), epoch: u64, is_primary: u8) {
        let (request, register) = self.to_masters::<NodeRegister>().expect("a registration");
        assert_eq!(register.role, Role::Balancer.to_wire());
        self.effects.clear();
        let registered =
            NodeRegistered { index, group, epoch, is_primary, ..NodeRegistered::default() };
        self.master_says(encode(&registered, &[b""]), request);
    }

    pub(super) fn lease(&mut self, epoch: u64, is_primary: u8, feed_index: u64) {
        (self.epoch, self.is_primary, self.feed_index) = (epoch, is_primary, feed_index);
        self.answer_lease();
    }

    /// Answers the newest renewal; all before it are done with.
    pub(super) fn answer_lease(&mut self) {
        let (request, _) = self.to_masters::<LeaseRenew>().expect("a renewal");
        self.forget::<LeaseRenew>();
        self.lease_reply(request, self.epoch, self.is_primary, self.feed_index);
    }

    pub(super) fn lease_reply(
        &mut self,
        request: RequestId,
        epoch: u64,
        is_primary: u8,
        feed_index: u64,
    ) {
        let (state, incarnation) = self.auxiliary;
        let (node, address) = match incarnation {
            0 => (NodeId(0), ""),
            _ => (AUXILIARY, "tcp://10.0.0.8:1"),
        };
        let reply = LeaseReply {
            epoch,
            is_primary,
            lease_ms: 900,
            feed_index,
            is_all_dealt: self.is_all_dealt,
            auxiliary: state.to_wire(),
            auxiliary_uuid: node.to_wire(),
            auxiliary_incarnation: incarnation,
            group_worker_count: self.worker_count,
            ..LeaseReply::default()
        };
        self.master_says(encode(&reply, &[address.as_bytes()]), request);
    }

    /// The pull that is outstanding; it is taken out of what was sent.
    pub(super) fn pull(&mut self) -> (RequestId, FeedPull) {
        let pull = self.to_masters::<FeedPull>().expect("a pull");
        self.forget::<FeedPull>();
        pull
    }

    /// Answers the outstanding pull.
    pub(super) fn feed(&mut self, up_to: u64, items: &[FeedItem], jobs: &[Vec<u8>]) {
        let (request, _) = self.pull();
        self.batch(request, up_to, 0, None, items, jobs);
    }

    pub(super) fn batch(
        &mut self,
        request: RequestId,
        up_to_index: u64,
        is_complete: u8,
        resume: Option<(JobId, u64)>,
        items: &[FeedItem],
        jobs: &[Vec<u8>],
    ) {
        let (next_job, next_task) = resume.unwrap_or_default();
        let batch = FeedBatch {
            group: 1,
            up_to_index,
            is_complete,
            next_job_uuid: next_job.to_wire(),
            next_task,
            ..FeedBatch::default()
        };
        self.master_says(encode(&batch, &[bytes_of(items), &jobs.concat()]), request);
    }

    /// Answers a question: these runs have no outcome.
    pub(super) fn fates(&mut self, request: RequestId, again: &[TaskRun]) {
        self.forget::<proto::messages::node::RunsLost>();
        self.master_says(encode(&RunsUnfinished::default(), &[bytes_of(again)]), request);
    }

    pub(super) fn refuse_request(&mut self, request: RequestId, code: ErrorCode, instead: &str) {
        self.effects.clear();
        let refusal = ErrorReply { code: code.to_wire(), ..ErrorReply::default() };
        self.master_says(encode(&refusal, &[b"", instead.as_bytes()]), request);
    }

    fn sent_to_masters(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.effects.iter().filter_map(|effect| match effect {
            NetworkEffect::Send { to: Peer::Link(MASTER_LINK), record } => Some(record),
            _ => None,
        })
    }

    /// Types of what was sent to the masters.
    pub(super) fn types_to_masters(&self) -> Vec<u8> {
        self.sent_to_masters().map(|record| record[0]).collect()
    }

    /// The newest record of a type that was sent to the masters.
    pub(super) fn to_masters<T: Message>(&self) -> Option<(RequestId, T)> {
        self.sent_to_masters().filter_map(|record| read::<T>(record)).last()
    }

    /// The same with its runs; it is taken out of what was sent.
    pub(super) fn asked_with_runs<T: Message>(&mut self) -> Option<(RequestId, T, Vec<TaskRun>)> {
        let found = self.sent_to_masters().filter(|record| record[0] == T::TYPE).last()?.clone();
        self.forget::<T>();
        let (request, message) = read::<T>(&found)?;
        Some((request, message, runs_in::<T>(&found)))
    }

    fn forget<T: Message>(&mut self) {
        self.effects.retain(|effect| match effect {
            NetworkEffect::Send { record, .. } => record[0] != T::TYPE,
            _ => true,
        });
    }

    /// True where the link to the master was closed.
    pub(super) fn closed(&self) -> bool {
        self.effects.iter().any(|effect| matches!(effect, NetworkEffect::Close { .. }))
    }

    // The other balancer of the group.

    /// The auxiliary accepts the link.
    pub(super) fn auxiliary_connects(&mut self) {
        let sender = self.auxiliary_sender();
        self.event(NetworkEvent::Connected {
            link: AUXILIARY_LINK,
            sender,
            cluster: CLUSTER,
            applied_index: LogIndex(0),
            window: 64,
            masters: String::new(),
            again: false,
        });
    }

    fn auxiliary_sender(&self) -> Sender {
        Sender {
            peer: Peer::Link(AUXILIARY_LINK),
            node: AUXILIARY,
            role: Role::Balancer,
            incarnation: Incarnation(self.auxiliary.1),
        }
    }

    /// The newest message of marks since it was last asked: job, first task and bound of each.
    pub(super) fn mark(&mut self) -> Option<(DealMark, Vec<Bound>)> {
        let mut sent = self.effects.iter().filter_map(|effect| match effect {
            NetworkEffect::Send { to: Peer::Link(AUXILIARY_LINK), record } => Some(record),
            _ => None,
        });
        let record = sent.next_back()?.clone();
        self.forget::<DealMark>();
        let (_, mark) = read::<DealMark>(&record)?;
        let record = Records::of(&record).next().unwrap().unwrap();
        let (_, [bounds]) = record.open::<DealMark, 1>().unwrap();
        let bounds = items_of::<DealBound>(bounds).unwrap();
        let bound =
            |it: &DealBound| (JobId::from(it.job_uuid), { it.first_task }, { it.dealt_below });
        Some((mark, bounds.iter().map(bound).collect()))
    }

    /// The auxiliary knows a message.
    pub(super) fn knows(&mut self, mark: &DealMark) {
        let record = encode(&DealMarkReply::to(mark), &[]);
        let record = Records::of(&record).next().unwrap().unwrap();
        let sender = self.auxiliary_sender();
        self.event(NetworkEvent::Record { sender, record });
    }

    /// The other balancer connects as the primary.
    pub(super) fn primary_node(&mut self) -> Sender {
        self.door.open(AUXILIARY, Role::Balancer, 1)
    }

    /// The primary tells how far it will have dealt. Returns the last mark that is known, if that
    /// is answered.
    pub(super) fn told(
        &mut self,
        primary: &Sender,
        mark: DealMark,
        bounds: &[(JobId, u64, u64)],
    ) -> Option<u64> {
        let bound = |&(job, first_task, dealt_below): &(JobId, u64, u64)| DealBound {
            job_uuid: job.to_wire(),
            first_task,
            dealt_below,
        };
        let bounds: Vec<DealBound> = bounds.iter().map(bound).collect();
        self.worker_says(primary, &encode(&mark, &[bytes_of(&bounds)]));
        let answer = self.effects.iter().rev().find_map(|effect| match effect {
            NetworkEffect::Send { to, record } if *to == primary.peer => {
                read::<DealMarkReply>(record)
            }
            _ => None,
        });
        self.forget::<DealMarkReply>();
        answer.map(|(_, reply)| reply.mark)
    }

    // The workers.

    /// A worker connects (anew).
    pub(super) fn worker(&mut self, number: u128, incarnation: u64) -> Sender {
        self.door.open(NodeId(0x10 + number), Role::Worker, incarnation)
    }

    /// A client connects.
    pub(super) fn client(&mut self, number: u128) -> Sender {
        self.door.open(NodeId(0xc0 + number), Role::Client, 1)
    }

    pub(super) fn worker_says(&mut self, sender: &Sender, record: &[u8]) {
        let record = Records::of(record).next().unwrap().unwrap();
        self.event(NetworkEvent::Record { sender: *sender, record });
    }

    pub(super) fn heartbeat(&mut self, sender: &Sender, slots: u32, echo: u64, runs: &[TaskRun]) {
        let heartbeat = WorkerHeartbeat { deal_echo: echo, ..self.beat(sender, slots) };
        self.worker_says(sender, &encode(&heartbeat, &[bytes_of(runs)]));
    }

    /// The heartbeat of a worker of group 1 that takes tasks and heard of no deal.
    pub(super) fn beat(&self, sender: &Sender, slots: u32) -> WorkerHeartbeat {
        WorkerHeartbeat {
            worker_incarnation: sender.incarnation.0,
            assignment: 7,
            epoch: self.epoch,
            slot_count: slots,
            cpu_milli: 1_000 * u64::from(slots),
            memory_bytes: 1 << 30,
            group: 1,
            ..WorkerHeartbeat::default()
        }
    }

    /// The last answer to a worker's heartbeat: epoch, assignment, last deal.
    pub(super) fn answer_to(&self, worker: &Sender) -> Option<(u64, u64, u64)> {
        self.effects.iter().rev().find_map(|effect| match effect {
            NetworkEffect::Send { to, record } if *to == worker.peer => {
                let (_, it) = read::<WorkerHeartbeatReply>(record)?;
                Some((it.epoch, it.assignment, it.last_deal))
            }
            _ => None,
        })
    }

    pub(super) fn free(&mut self, sender: &Sender, busy_us: u64, runs: &[TaskRun]) {
        let free = TaskFree { busy_us, ..TaskFree::default() };
        self.worker_says(sender, &encode(&free, &[bytes_of(runs)]));
    }

    pub(super) fn settled(&mut self, sender: &Sender, runs: &[TaskRun], verdict: Verdict) {
        let judged = |run: &TaskRun| TaskRun { state: verdict.to_wire(), ..*run };
        let runs: Vec<TaskRun> = runs.iter().map(judged).collect();
        self.worker_says(sender, &encode(&TaskSettled::default(), &[bytes_of(&runs)]));
    }

    pub(super) fn returned(&mut self, sender: &Sender, runs: &[TaskRun]) {
        self.worker_says(sender, &encode(&TaskReturned::default(), &[bytes_of(runs)]));
    }

    /// The deals since it was last asked.
    pub(super) fn deals(&mut self) -> Vec<Turn> {
        let turn = |record: &Vec<u8>| {
            let (_, request) = read::<WorkerRequest>(record)?;
            Some((request.job_uuid, request))
        };
        let mut deals = Vec::new();
        for effect in &self.effects {
            let NetworkEffect::Send { to, record } = effect else { continue };
            let Some((job, request)) = turn(record) else { continue };
            let worker = self.door.node_of(*to);
            deals.push(Turn {
                worker,
                job: job.into(),
                tasks: request.first_task..request.first_task + request.task_count,
                attempt: request.attempt,
                number: request.deal,
            });
        }
        self.forget::<WorkerRequest>();
        deals
    }

    /// What a worker was ordered since it was last asked.
    pub(super) fn orders(&mut self, worker: &Sender) -> Vec<TaskRun> {
        let mut orders = Vec::new();
        for effect in &self.effects {
            if let NetworkEffect::Send { to, record } = effect
                && *to == worker.peer
                && record[0] == WorkerHeartbeatReply::TYPE
            {
                orders.extend(runs_in::<WorkerHeartbeatReply>(record));
            }
        }
        self.forget::<WorkerHeartbeatReply>();
        orders
    }

    /// The recall that was sent since it was last asked.
    pub(super) fn recall(&mut self) -> Option<(NodeId, Vec<TaskRun>)> {
        let found = self.effects.iter().find_map(|effect| match effect {
            NetworkEffect::Send { to, record } if record[0] == TaskRecall::TYPE => {
                Some((self.door.node_of(*to), runs_in::<TaskRecall>(record)))
            }
            _ => None,
        });
        self.forget::<TaskRecall>();
        found
    }
}
