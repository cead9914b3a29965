//! What a master decides. Pure: no sockets, clock, threads or randomness of its own.
//!
//! `cluster` is the replicated state, changed only by `commands` in the order of the log; `Master`
//! here is what a process adds to it: who asked for what and waits, which questions wait for a
//! newer state, which balancers wait for news. All of that is lost with the process, and whoever
//! waited asks again.

pub mod cluster;
pub mod commands;
mod feeds;
mod frames;
pub mod jobs;
pub mod keyspace;
mod members;
pub mod nodes;
pub mod queries;
pub mod sessions;
mod state;
pub mod tasks;

use std::collections::BTreeMap;

use consensus::{Failure, HaltReason, Job as DiskJob, Member, MemberId, MemberInfo, Ticket};
use node::logic::network::{Greeting, NetworkEffect, NetworkEvent, Peer, Sender};
use proto::ids::{Epoch, Incarnation, JobId, LogIndex, NodeId, RequestId, StoreId};
use proto::limits;
use proto::messages::job::{JobAccepted, JobCancel, JobSubmit};
use proto::messages::keyspace::{KeyCompare, KeyResult, KeyTransaction, KeyWrite};
use proto::messages::node::{
    FeedPull, LeaseRenew, LeaseReply, NodeRegister, NodeRegistered, RunsLost, RunsUnfinished,
};
use proto::messages::raft::{MemberJoin, MemberJoined, RaftMessage};
use proto::messages::session::ErrorReply;
use proto::messages::task::{TaskRun, WorkerSegment, WorkerStatus, WorkerStatusReply};
use proto::record::{Message, Record, RecordError, encode, set_request_id};
use proto::status::{ErrorCode, Role, Verdict};
use proto::time::{Duration, Instant};
use proto::wire::{bytes_of, items_of};

use self::cluster::Cluster;
use self::commands::{AnsweredRun, Asker, ClientChange, Command, Compare, Output, Write};
use self::feeds::Feeds;
use self::frames::{Frames, StatusFrame};
use self::jobs::{ReportedRun, verdict_run};
use self::members::Members;
use self::nodes::Registration;
use self::queries::{Asked, Query, Surroundings};

/// How long a balancer's lease lasts from the moment when it asked.
const LEASE: Duration = Duration::from_millis(900);

/// Questions that wait for a newer state or a final job; more are answered busy.
const WAITING_QUERIES: usize = 200_000;

/// What a refused asker waits before it asks again, in milliseconds.
const RETRY_MS: u32 = 50;

/// What a master is.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Its UUID.
    pub node: NodeId,
    /// How often its data folder was started.
    pub incarnation: Incarnation,
    /// Its number among the masters.
    pub member: MemberId,
    /// Where others reach it.
    pub address: String,
    /// Where its telemetry is published; empty where it is not.
    pub telemetry_address: String,
    /// Its failure zone.
    pub zone: String,
    /// Masters that it may join through; none for the first.
    pub join: Vec<String>,
}

/// What happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// Something on the network.
    Network(NetworkEvent<'a>),
    /// The disk did something.
    Disk(consensus::Done),
    /// A deadline passed.
    Tick,
}

/// What is to be done, in the order given.
#[derive(Debug)]
pub enum Effect {
    /// On the network.
    Network(NetworkEffect),
    /// On the disk.
    Disk(Box<DiskJob<Cluster>>),
    /// What peers that say `hello` are told from now on.
    Greet(Greeting),
    /// The member has stopped: the process ends.
    Halt(HaltReason),
}

/// Who waits for a command or a read.
#[derive(Clone, Debug)]
enum Waiting {
    /// A client, for its change.
    Client { peer: Peer, request: RequestId, job: JobId },
    /// A node, for its registration.
    Registration { peer: Peer, request: RequestId, node: NodeId },
    /// This master, for its own registration.
    OwnRegistration,
    /// A worker, for its status frame.
    Frame { peer: Peer, request: RequestId, incarnation: Incarnation, frame: u64 },
    /// A balancer, for runs that it asked about.
    Lost { peer: Peer, request: RequestId },
    /// A balancer, for its lease.
    Lease { peer: Peer, request: RequestId, node: NodeId, incarnation: Incarnation, epoch: Epoch },
    /// Anybody, for an answer from a state that has all that was acknowledged before.
    Question(Asked),
    /// A new master, for its place.
    Join { peer: Peer, request: RequestId },
    /// This master, for members that it promoted.
    Promotion,
}

/// A master.
pub struct Master {
    setting: Setting,
    cluster_uuid: proto::ids::ClusterId,
    member: Member<Cluster>,
    members: Members,
    last_ticket: u64,
    waiting: BTreeMap<Ticket, Waiting>,
    /// Questions that need a newer state.
    late: Vec<(LogIndex, Asked)>,
    /// Questions that wait until a job's state is final.
    watchers: BTreeMap<JobId, Vec<Asked>>,
    watcher_count: usize,
    /// The feed as of this index was looked through for jobs that ended.
    watched: LogIndex,
    feeds: Feeds,
    frames: Frames,
    /// Tasks dealt by job, as each balancer group last told.
    running: BTreeMap<u64, BTreeMap<JobId, u64>>,
    is_registered: bool,
    register_due: Instant,
    /// Whether the masters that the disk names were connected to.
    has_begun: bool,
}

impl Master {
    /// A master around its member, as it was recovered from the disk.
    #[must_use]
    pub fn new(
        setting: Setting,
        cluster_uuid: proto::ids::ClusterId,
        member: Member<Cluster>,
        random: fastrand::Rng,
    ) -> Master {
        let members = Members::new(&setting, random);
        Master {
            setting,
            cluster_uuid,
            member,
            members,
            last_ticket: 0,
            waiting: BTreeMap::new(),
            late: Vec::new(),
            watchers: BTreeMap::new(),
            watcher_count: 0,
            watched: LogIndex(0),
            feeds: Feeds::default(),
            frames: Frames::default(),
            running: BTreeMap::new(),
            is_registered: false,
            register_due: Instant(0),
            has_begun: false,
        }
    }

    /// The replicated state as this master has applied it.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        self.member.state()
    }

    /// The member below.
    #[must_use]
    pub fn member(&self) -> &Member<Cluster> {
        &self.member
    }

    /// Decides what to do about one event.
    pub fn handle(&mut self, now: Instant, event: Event<'_>, effects: &mut Vec<Effect>) {
        if !self.has_begun {
            self.has_begun = true;
            // A snapshot names them, and no entry of the log that will be applied again.
            let members = self.member.members().clone();
            self.members.changed(now, self.setting.member, &members, effects);
        }
        match event {
            Event::Network(event) => self.on_network(now, event, effects),
            Event::Disk(done) => self.consensus(now, consensus::Event::Disk(done), effects),
            Event::Tick => {}
        }
        let is_due = self.member.next_deadline().is_some_and(|due| now >= due);
        if is_due {
            self.consensus(now, consensus::Event::Tick, effects);
        }
        self.tick(now, effects);
    }

    /// When to call [`Master::handle`] with [`Event::Tick`] if nothing else happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let register = (!self.is_registered).then_some(self.register_due);
        [self.member.next_deadline(), self.members.next_deadline(), register]
            .into_iter()
            .flatten()
            .min()
    }

    /// Walks the whole state and panics on a broken invariant.
    pub fn check_invariants(&self) {
        self.member.check_invariants();
        self.cluster().check_invariants();
        let watchers: usize = self.watchers.values().map(Vec::len).sum();
        assert_eq!(watchers, self.watcher_count, "the count of watchers");
    }

    /// True where this master leads, as far as it knows.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.member.role() == consensus::Role::Leader
    }

    fn next_ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        Ticket(self.last_ticket)
    }

    fn invoke(&mut self, now: Instant, command: &Command, who: Waiting, effects: &mut Vec<Effect>) {
        let ticket = self.next_ticket();
        self.waiting.insert(ticket, who);
        let command = command.encode();
        self.consensus(now, consensus::Event::Invoke { ticket, command }, effects);
    }

    fn on_network(&mut self, now: Instant, event: NetworkEvent<'_>, effects: &mut Vec<Effect>) {
        match event {
            NetworkEvent::Connected { link, masters, again, .. } => {
                self.members.connected(link, &masters);
                if again {
                    self.unreachable(now, link, effects);
                }
            }
            NetworkEvent::Overflowing { peer: Peer::Link(link) } => {
                self.unreachable(now, link, effects);
            }
            NetworkEvent::Refused { link, .. } => self.members.refused(now, link, effects),
            NetworkEvent::Record { sender, record } => {
                if let Err(error) = self.on_record(now, &sender, &record, effects) {
                    let refusal = Output::refused(ErrorCode::Malformed, error.to_string());
                    self.refuse(&sender, &record, &refusal, effects);
                }
            }
            NetworkEvent::Joined { sender, address, .. } if sender.role == Role::Master => {
                self.members.arrived(sender.peer, address);
            }
            NetworkEvent::Gone { sender } => {
                self.members.left(sender.peer);
                self.feeds.forget(sender.peer);
                self.frames.forget(sender.peer);
                self.late.retain(|(_, asked)| asked.peer != sender.peer);
                for asked in self.watchers.values_mut() {
                    asked.retain(|asked| asked.peer != sender.peer);
                }
                self.watchers.retain(|_, asked| !asked.is_empty());
                self.watcher_count = self.watchers.values().map(Vec::len).sum();
            }
            NetworkEvent::Joined { .. } | NetworkEvent::Overflowing { .. } => {}
        }
    }

    /// What was sent over a link may have been lost.
    fn unreachable(
        &mut self,
        now: Instant,
        link: node::logic::network::Link,
        effects: &mut Vec<Effect>,
    ) {
        for member in self.members.behind(link) {
            self.consensus(now, consensus::Event::Unreachable(member), effects);
        }
    }

    fn on_record(
        &mut self,
        now: Instant,
        sender: &Sender,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RecordError> {
        if let Some((query, seen)) = Query::of(record)? {
            let asked = Asked { peer: sender.peer, request: record.request_id(), query };
            if seen == LogIndex(0) {
                // Somebody who has seen nothing must not be told less than another was before.
                let ticket = self.next_ticket();
                self.waiting.insert(ticket, Waiting::Question(asked));
                self.consensus(now, consensus::Event::Read { ticket }, effects);
            } else {
                self.ask(seen, asked, effects);
            }
            return Ok(());
        }
        match record.message_type() {
            RaftMessage::TYPE if sender.role == Role::Master => {
                let (message, [content]) = record.open::<RaftMessage, 1>()?;
                if message.to_member == self.setting.member.0 {
                    let from = MemberId(message.from_member);
                    self.members.heard(from, sender.peer, effects);
                    let bytes = content.to_vec();
                    self.consensus(now, consensus::Event::Message { from, bytes }, effects);
                }
            }
            JobSubmit::TYPE => self.on_submit(now, sender, record, effects)?,
            JobCancel::TYPE => {
                let cancel = record.read::<JobCancel>()?;
                let job = cancel.job_uuid.into();
                let asker = asker(sender, record, cancel.session_index);
                let change = ClientChange::Cancel { job };
                self.change(now, sender, asker, change, job, effects);
            }
            KeyTransaction::TYPE => {
                let (transaction, parts) = record.open::<KeyTransaction, 3>()?;
                let Some(change) = transaction_of(parts) else {
                    return Err(RecordError::Part {
                        message_type: KeyTransaction::TYPE,
                        part: "bytes",
                    });
                };
                let asker = asker(sender, record, transaction.session_index);
                self.change(now, sender, asker, change, JobId(0), effects);
            }
            NodeRegister::TYPE => self.on_register(now, sender, record, effects)?,
            LeaseRenew::TYPE => self.on_renew(now, sender, record, effects)?,
            FeedPull::TYPE => {
                let pull = record.read::<FeedPull>()?;
                self.feeds.pull(sender.peer, record.request_id(), &pull);
                self.answer_feeds(effects);
            }
            RunsLost::TYPE => self.on_lost(now, sender, record, effects)?,
            WorkerStatus::TYPE | WorkerSegment::TYPE => {
                if record.is_given_form() || sender.role != Role::Worker {
                    let refusal = Output::refused(
                        ErrorCode::NotAllowed,
                        "outcomes are taken from registered workers only: say hello as one",
                    );
                    self.refuse(sender, record, &refusal, effects);
                } else if let Some(frame) = self.frames.take(sender, record)? {
                    self.on_frame(now, sender, record, frame, effects);
                }
            }
            MemberJoin::TYPE if sender.role == Role::Master => {
                self.on_join(now, sender, record, effects)?;
            }
            MemberJoined::TYPE => self.members.joined(),
            ErrorReply::TYPE => {
                let (error, [_, instead]) = record.open::<ErrorReply, 2>()?;
                if error.refused_type == MemberJoin::TYPE {
                    tracing::debug!(code = { error.code }, "joining is refused for now");
                    let instead = String::from_utf8_lossy(instead);
                    self.members.join_refused(now, &instead, effects);
                }
            }
            _ => {
                let name = record.layout().name;
                let text = format!("a master does not take {name}");
                let refusal = Output::refused(ErrorCode::UnknownType, text);
                self.refuse(sender, record, &refusal, effects);
            }
        }
        Ok(())
    }

    fn on_submit(
        &mut self,
        now: Instant,
        sender: &Sender,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RecordError> {
        let (submit, parts) = record.open::<JobSubmit, 3>()?;
        let job = submit.job_uuid.into();
        // What the same submission would carry from another client or at another time is cleared,
        // so that equal content is equal bytes.
        let canonical = JobSubmit {
            job_uuid: submit.job_uuid,
            task_count: submit.task_count,
            program_kind: submit.program_kind,
            ..JobSubmit::default()
        };
        let bytes = encode(&canonical, &parts);
        if let Err(refusal) = cluster::check_submission(&bytes) {
            self.refuse(sender, record, &refusal, effects);
            return Ok(());
        }
        let asker = asker(sender, record, submit.session_index);
        let change = ClientChange::Submit { job, record: bytes };
        self.change(now, sender, asker, change, job, effects);
        Ok(())
    }

    fn change(
        &mut self,
        now: Instant,
        sender: &Sender,
        asker: Asker,
        change: ClientChange,
        job: JobId,
        effects: &mut Vec<Effect>,
    ) {
        let who = Waiting::Client { peer: sender.peer, request: asker.request, job };
        self.invoke(now, &Command::Client(asker, change), who, effects);
    }

    fn on_register(
        &mut self,
        now: Instant,
        sender: &Sender,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RecordError> {
        let (register, parts) = record.open::<NodeRegister, 3>()?;
        let [address, telemetry_address, zone] =
            parts.map(|part| String::from_utf8_lossy(part).into_owned());
        let role = Role::from_wire(register.role)
            .ok_or(RecordError::Value { message_type: NodeRegister::TYPE, field: "role" })?;
        let is_itself = role == sender.role && register.incarnation == sender.incarnation.0;
        if !is_itself || !commands::registers(role) {
            let text = "a node registers as what its hello said it is";
            let refusal = Output::refused(ErrorCode::NotAllowed, text);
            self.refuse(sender, record, &refusal, effects);
            return Ok(());
        }
        let registration = Registration {
            node: sender.node,
            role,
            incarnation: sender.incarnation,
            address,
            telemetry_address,
            zone,
            slot_count: register.slot_count,
            cpu_milli: register.cpu_milli,
            capacity_bytes: register.capacity_bytes,
            store: register.store_uuid.into(),
            weight: register.weight,
            member: 0,
        };
        let (peer, request) = (sender.peer, record.request_id());
        let known = self.cluster().nodes.nodes.get(&sender.node);
        if known.is_some_and(|known| known.registration == registration) {
            // Asked again, for instance after a reconnect: no log entry is owed.
            self.reply_registered(peer, request, sender.node, effects);
            return Ok(());
        }
        let who = Waiting::Registration { peer, request, node: sender.node };
        self.invoke(now, &Command::Register(registration), who, effects);
        Ok(())
    }

    fn on_renew(
        &mut self,
        now: Instant,
        sender: &Sender,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RecordError> {
        let (renew, [running]) = record.open::<LeaseRenew, 1>()?;
        if !self.leads() {
            self.refuse_follower(sender.peer, record.request_id(), LeaseRenew::TYPE, effects);
            return Ok(());
        }
        if renew.epoch != 0 {
            let running = items_of::<TaskRun>(running).unwrap_or_default();
            let counts = running.iter().map(|run| (run.job_uuid.into(), { run.task_count }));
            self.running.insert(renew.group, counts.collect());
        }
        let ticket = self.next_ticket();
        let who = Waiting::Lease {
            peer: sender.peer,
            request: record.request_id(),
            node: sender.node,
            incarnation: sender.incarnation,
            epoch: Epoch(renew.epoch),
        };
        self.waiting.insert(ticket, who);
        self.consensus(now, consensus::Event::Read { ticket }, effects);
        Ok(())
    }

    fn on_lost(
        &mut self,
        now: Instant,
        sender: &Sender,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RecordError> {
        let (lost, [runs]) = record.open::<RunsLost, 1>()?;
        let group = self.cluster().nodes.groups.get(&{ lost.group }).cloned().unwrap_or_default();
        let epoch = Epoch(lost.epoch);
        if group.epoch < epoch {
            // This master lags behind the one that granted the lease.
            self.refuse_follower(sender.peer, record.request_id(), RunsLost::TYPE, effects);
            return Ok(());
        }
        if group.epoch > epoch || group.primary != Some(sender.node) {
            let text = format!("epoch {epoch} of group {} is over", { lost.group });
            let refusal = Output::refused(ErrorCode::OldEpoch, text);
            self.refuse(sender, record, &refusal, effects);
            return Ok(());
        }
        let runs = items_of::<TaskRun>(runs).unwrap_or_default();
        let runs: Option<Vec<ReportedRun>> = runs.iter().map(frames::lost_run).collect();
        let Some(runs) = runs else {
            return Err(RecordError::Value { message_type: RunsLost::TYPE, field: "runs" });
        };
        let who = Waiting::Lost { peer: sender.peer, request: record.request_id() };
        self.invoke(now, &Command::RunsLost { runs }, who, effects);
        Ok(())
    }

    fn on_frame(
        &mut self,
        now: Instant,
        sender: &Sender,
        record: &Record<'_>,
        frame: StatusFrame,
        effects: &mut Vec<Effect>,
    ) {
        let who = Waiting::Frame {
            peer: sender.peer,
            request: record.request_id(),
            incarnation: sender.incarnation,
            frame: frame.number,
        };
        let command = Command::Complete {
            worker: sender.node,
            incarnation: sender.incarnation,
            frame: frame.number,
            runs: frame.runs,
            segments: frame.segments,
        };
        self.invoke(now, &command, who, effects);
    }

    fn on_join(
        &mut self,
        now: Instant,
        sender: &Sender,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RecordError> {
        let (join, [address]) = record.open::<MemberJoin, 1>()?;
        if proto::ids::ClusterId::from(join.cluster_uuid) != self.cluster_uuid {
            let text = format!("this is cluster {}", self.cluster_uuid);
            let refusal = Output::refused(ErrorCode::OtherCluster, text);
            self.refuse(sender, record, &refusal, effects);
            return Ok(());
        }
        if !self.leads() {
            self.refuse_follower(sender.peer, record.request_id(), MemberJoin::TYPE, effects);
            return Ok(());
        }
        tracing::info!(member = { join.member }, node = %sender.node, "a master asks for its place");
        let ticket = self.next_ticket();
        let request = record.request_id();
        self.waiting.insert(ticket, Waiting::Join { peer: sender.peer, request });
        let change = consensus::MemberChange::AddLearner {
            member: MemberId(join.member),
            address: String::from_utf8_lossy(address).into_owned(),
        };
        self.consensus(now, consensus::Event::ChangeMembers { ticket, change }, effects);
        Ok(())
    }

    fn ask(&mut self, seen: LogIndex, asked: Asked, effects: &mut Vec<Effect>) {
        if seen > self.cluster().applied {
            if self.late.len() + self.watcher_count >= WAITING_QUERIES {
                let text = "too many questions wait for a newer state";
                let refusal = Output::refused(ErrorCode::Busy, text);
                self.send_refusal(asked.peer, asked.request, 0, &refusal, effects);
            } else {
                self.late.push((seen, asked));
            }
            return;
        }
        let leader = self.member.leader().and_then(|leader| self.cluster().nodes.master(leader.0));
        let running = |job: JobId| -> u64 {
            self.running.values().filter_map(|counts| counts.get(&job)).sum()
        };
        let around = Surroundings { running: &running, leader };
        match asked.query.answer(self.member.state(), &around) {
            Ok(Some(records)) => {
                for record in records {
                    send(asked.peer, asked.request, record, effects);
                }
            }
            Ok(None) if self.watcher_count >= WAITING_QUERIES => {
                let refusal =
                    Output::refused(ErrorCode::Busy, "too many questions wait for a job's end");
                self.send_refusal(asked.peer, asked.request, 0, &refusal, effects);
            }
            Ok(None) => {
                if let Ok(job) = asked.query.job(self.member.state()) {
                    self.watchers.entry(job).or_default().push(asked);
                    self.watcher_count += 1;
                }
            }
            Err(refusal) => {
                self.send_refusal(asked.peer, asked.request, 0, &refusal, effects);
            }
        }
    }

    /// Hands an event to the member and carries out what it wants.
    fn consensus(&mut self, now: Instant, event: consensus::Event, effects: &mut Vec<Effect>) {
        let mut wanted = Vec::new();
        self.member.handle(now, event, &mut wanted);
        for effect in wanted {
            match effect {
                consensus::Effect::Send { to, bytes } => {
                    self.members.send(self.setting.member, to, &bytes, effects);
                }
                consensus::Effect::Disk(job) => effects.push(Effect::Disk(Box::new(job))),
                consensus::Effect::Completed { ticket, index, output } => {
                    if let Some(who) = self.waiting.remove(&ticket) {
                        self.on_completed(who, index, output, effects);
                    }
                }
                consensus::Effect::Changed { ticket, index } => {
                    match self.waiting.remove(&ticket) {
                        Some(Waiting::Join { peer, request }) => {
                            let joined = MemberJoined {
                                cluster_uuid: self.cluster_uuid.to_wire(),
                                index: index.0,
                                ..MemberJoined::default()
                            };
                            send(peer, request, encode(&joined, &[]), effects);
                        }
                        Some(Waiting::Promotion) => self.members.promotion_ended(),
                        _ => {}
                    }
                }
                consensus::Effect::Failed { ticket, failure } => {
                    if let Some(who) = self.waiting.remove(&ticket) {
                        self.on_failed(now, &who, failure, effects);
                    }
                }
                consensus::Effect::ReadReady { ticket, .. } => {
                    if let Some(who) = self.waiting.remove(&ticket) {
                        self.on_read_ready(who, effects);
                    }
                }
                consensus::Effect::Applied { .. } | consensus::Effect::Installed { .. } => {
                    self.on_applied(effects);
                }
                consensus::Effect::LeaderChanged { .. } => {
                    self.running.clear();
                    self.greet(effects);
                }
                consensus::Effect::MembersChanged { members } => {
                    self.members.changed(now, self.setting.member, &members, effects);
                    self.greet(effects);
                }
                consensus::Effect::Halt { reason } => effects.push(Effect::Halt(reason)),
            }
        }
    }

    /// Tells newcomers where the masters are, the leader first.
    fn greet(&self, effects: &mut Vec<Effect>) {
        let members = self.member.members();
        let leader = self.member.leader();
        let mut masters: Vec<(&MemberId, &MemberInfo)> = members.iter().collect();
        masters.sort_by_key(|(id, _)| (Some(**id) != leader, **id));
        let addresses: Vec<&str> = masters.iter().map(|(_, info)| info.address.as_str()).collect();
        effects.push(Effect::Greet(Greeting {
            applied_index: self.cluster().applied,
            window: limits::CLIENT_WINDOW,
            masters: addresses.join(","),
        }));
    }

    fn on_completed(
        &mut self,
        who: Waiting,
        index: LogIndex,
        output: Output,
        effects: &mut Vec<Effect>,
    ) {
        let (peer, request) = match &who {
            Waiting::Client { peer, request, .. }
            | Waiting::Registration { peer, request, .. }
            | Waiting::Frame { peer, request, .. }
            | Waiting::Lost { peer, request } => (*peer, *request),
            Waiting::OwnRegistration => {
                self.is_registered = true;
                return;
            }
            Waiting::Lease { .. }
            | Waiting::Question(_)
            | Waiting::Join { .. }
            | Waiting::Promotion => return,
        };
        match (who, output) {
            (_, refusal @ Output::Refused { .. }) => {
                self.send_refusal(peer, request, 0, &refusal, effects);
            }
            (_, Output::Accepted { job, index }) => {
                let accepted = JobAccepted {
                    job_uuid: job.to_wire(),
                    index: index.0,
                    ..JobAccepted::default()
                };
                send(peer, request, encode(&accepted, &[]), effects);
            }
            (Waiting::Client { job, .. }, Output::Cancelled { .. }) => {
                if let Some(state) = self.cluster().jobs.get(&job) {
                    let record = queries::job_status(self.cluster(), job, state, 0);
                    send(peer, request, record, effects);
                }
            }
            (_, Output::Transaction { is_applied, index }) => {
                let result = KeyResult {
                    is_applied: u8::from(is_applied),
                    index: index.0,
                    ..KeyResult::default()
                };
                send(peer, request, encode(&result, &[]), effects);
            }
            (Waiting::Registration { node, .. }, Output::Registered { .. }) => {
                self.reply_registered(peer, request, node, effects);
            }
            (Waiting::Frame { incarnation, frame, .. }, Output::Runs { index, again, refused }) => {
                let reply = WorkerStatusReply {
                    worker_incarnation: incarnation.0,
                    frame,
                    index: index.0,
                    ..WorkerStatusReply::default()
                };
                let mut runs = answered_runs(&again, Verdict::Again);
                runs.extend(answered_runs(&refused, Verdict::Final));
                send(peer, request, encode(&reply, &[bytes_of(&runs)]), effects);
            }
            (Waiting::Lost { .. }, Output::Runs { again, .. }) => {
                let reply = RunsUnfinished { index: index.0, ..RunsUnfinished::default() };
                let runs = answered_runs(&again, Verdict::Again);
                send(peer, request, encode(&reply, &[bytes_of(&runs)]), effects);
            }
            _ => {}
        }
    }

    fn on_failed(
        &mut self,
        now: Instant,
        who: &Waiting,
        failure: Failure,
        effects: &mut Vec<Effect>,
    ) {
        let (peer, request) = match who {
            Waiting::Client { peer, request, .. }
            | Waiting::Registration { peer, request, .. }
            | Waiting::Frame { peer, request, .. }
            | Waiting::Lost { peer, request }
            | Waiting::Lease { peer, request, .. }
            | Waiting::Join { peer, request }
            | Waiting::Question(Asked { peer, request, .. }) => (*peer, *request),
            Waiting::OwnRegistration => {
                self.register_due = now + Duration::from_millis(500);
                return;
            }
            Waiting::Promotion => return self.members.promotion_ended(),
        };
        let code = match failure {
            Failure::NoLeader | Failure::Dropped => ErrorCode::NoLeader,
            Failure::Busy | Failure::Behind => ErrorCode::Busy,
            Failure::Unknown => ErrorCode::OutcomeUnknown,
            Failure::TooLarge => ErrorCode::TooLarge,
            Failure::Refused => ErrorCode::Invalid,
        };
        let refusal = Output::refused(code, failure.to_string());
        let refused = if matches!(who, Waiting::Join { .. }) { MemberJoin::TYPE } else { 0 };
        self.send_refusal(peer, request, refused, &refusal, effects);
    }

    fn on_read_ready(&mut self, who: Waiting, effects: &mut Vec<Effect>) {
        let (peer, request, node, incarnation, epoch) = match who {
            Waiting::Question(asked) => return self.ask(LogIndex(0), asked, effects),
            Waiting::Lease { peer, request, node, incarnation, epoch } => {
                (peer, request, node, incarnation, epoch)
            }
            _ => return,
        };
        let cluster = self.cluster();
        let Some(known) = cluster.nodes.nodes.get(&node) else { return };
        let group = cluster.nodes.groups.get(&known.group).cloned().unwrap_or_default();
        let is_this_one = known.registration.incarnation == incarnation;
        let is_primary = is_this_one
            && group.primary == Some(node)
            && (epoch == group.epoch || epoch == Epoch(0));
        let reply = LeaseReply {
            epoch: group.epoch.0,
            is_primary: u8::from(is_primary),
            lease_ms: u32::try_from(LEASE.as_millis()).unwrap_or(u32::MAX),
            feed_index: cluster.feed_index().0,
            ..LeaseReply::default()
        };
        send(peer, request, encode(&reply, &[]), effects);
    }

    /// The state is newer: answers what waited for that.
    fn on_applied(&mut self, effects: &mut Vec<Effect>) {
        let applied = self.cluster().applied;
        let (ready, late) =
            std::mem::take(&mut self.late).into_iter().partition(|(seen, _)| *seen <= applied);
        self.late = late;
        let ready: Vec<(LogIndex, Asked)> = ready;
        for (seen, asked) in ready {
            self.ask(seen, asked, effects);
        }
        if self.watcher_count > 0 {
            let ended = self.cluster().ended_since(self.watched);
            let ended = ended.unwrap_or_else(|| self.watchers.keys().copied().collect());
            for job in ended {
                for asked in self.watchers.remove(&job).unwrap_or_default() {
                    self.watcher_count -= 1;
                    self.ask(LogIndex(0), asked, effects);
                }
            }
        }
        self.watched = applied;
        self.answer_feeds(effects);
        self.greet(effects);
    }

    fn answer_feeds(&mut self, effects: &mut Vec<Effect>) {
        for (peer, request, record) in self.feeds.answers(self.member.state()) {
            send(peer, request, record, effects);
        }
    }

    fn reply_registered(
        &self,
        peer: Peer,
        request: RequestId,
        node: NodeId,
        effects: &mut Vec<Effect>,
    ) {
        let nodes = &self.cluster().nodes;
        let Some(known) = nodes.nodes.get(&node) else { return };
        let group = nodes.groups.get(&known.group).cloned().unwrap_or_default();
        let is_balancer = known.registration.role == Role::Balancer;
        let reply = NodeRegistered {
            index: if is_balancer { group.epoch_index.0 } else { known.index.0 },
            group: known.group,
            epoch: group.epoch.0,
            is_primary: u8::from(group.primary == Some(node)),
            ring_version: nodes.ring_version.0,
            ..NodeRegistered::default()
        };
        let balancers = nodes.balancer_addresses(known.group);
        send(peer, request, encode(&reply, &[balancers.as_bytes()]), effects);
    }

    /// What is due at its time: this master's own registration, links, joining, promotions.
    fn tick(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        // One that has no vote yet is not shown as a master: losing another would stop the cluster.
        let members = self.member.members();
        let votes = members.get(&self.setting.member).is_some_and(|info| info.voter);
        if !self.is_registered && now >= self.register_due && votes {
            self.register_due = now + Duration::from_secs(6);
            let registration = Registration {
                node: self.setting.node,
                role: Role::Master,
                incarnation: self.setting.incarnation,
                address: self.setting.address.clone(),
                telemetry_address: self.setting.telemetry_address.clone(),
                zone: self.setting.zone.clone(),
                slot_count: 0,
                cpu_milli: 0,
                capacity_bytes: 0,
                member: self.setting.member.0,
                store: StoreId(0),
                weight: 0,
            };
            let command = Command::Register(registration);
            self.invoke(now, &command, Waiting::OwnRegistration, effects);
        } else if !self.is_registered && now >= self.register_due {
            self.register_due = now + Duration::from_millis(200);
        }
        self.members.tick(now, &self.setting, self.cluster_uuid, effects);
        if self.leads()
            && let Some(change) = self.members.promotion(now, self.member.members())
        {
            let ticket = self.next_ticket();
            self.waiting.insert(ticket, Waiting::Promotion);
            self.consensus(now, consensus::Event::ChangeMembers { ticket, change }, effects);
        }
    }

    fn refuse(
        &self,
        sender: &Sender,
        record: &Record<'_>,
        refusal: &Output,
        effects: &mut Vec<Effect>,
    ) {
        let (peer, request) = (sender.peer, record.request_id());
        self.send_refusal(peer, request, record.message_type(), refusal, effects);
    }

    fn refuse_follower(
        &self,
        peer: Peer,
        request: RequestId,
        refused_type: u8,
        effects: &mut Vec<Effect>,
    ) {
        let leader = self.member.leader();
        let code = if leader.is_some() { ErrorCode::NotLeader } else { ErrorCode::NoLeader };
        let refusal = Output::refused(code, "this master does not lead");
        self.send_refusal(peer, request, refused_type, &refusal, effects);
    }

    fn send_refusal(
        &self,
        peer: Peer,
        request: RequestId,
        refused_type: u8,
        refusal: &Output,
        effects: &mut Vec<Effect>,
    ) {
        let Output::Refused { code, text } = refusal else { return };
        let members = self.member.members();
        let leader = self.member.leader().and_then(|leader| members.get(&leader));
        let instead = match (code, leader) {
            (ErrorCode::NotLeader, Some(leader)) => leader.address.as_str(),
            _ => "",
        };
        let error = ErrorReply {
            code: code.to_wire(),
            refused_type,
            retry_after_ms: if code.is_retryable() { RETRY_MS } else { 0 },
            ..ErrorReply::default()
        };
        let cut = text.floor_char_boundary(limits::ERROR_TEXT_BYTES);
        let record = encode(&error, &[&text.as_bytes()[..cut], instead.as_bytes()]);
        send(peer, request, record, effects);
    }
}

fn send(to: Peer, request: RequestId, mut record: Vec<u8>, effects: &mut Vec<Effect>) {
    set_request_id(&mut record, request);
    effects.push(Effect::Network(NetworkEffect::Send { to, record }));
}

fn asker(sender: &Sender, record: &Record<'_>, session_index: u64) -> Asker {
    Asker {
        client: sender.node,
        request: record.request_id(),
        session_index: LogIndex(session_index),
    }
}

fn answered_runs(runs: &[AnsweredRun], verdict: Verdict) -> Vec<TaskRun> {
    runs.iter().map(|run| verdict_run(run.job, &run.tasks, run.attempt, verdict)).collect()
}

/// The conditions and writes of a `key_transaction`; `None` where the lengths do not add up.
fn transaction_of([compares, writes, bytes]: [&[u8]; 3]) -> Option<ClientChange> {
    let mut rest = bytes;
    let mut take = |length: u64| -> Option<Vec<u8>> {
        let (taken, behind) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        rest = behind;
        Some(taken.to_vec())
    };
    let compares: Option<Vec<Compare>> = items_of::<KeyCompare>(compares)?
        .iter()
        .map(|item| Some(Compare { key: take(item.key_length)?, version: LogIndex(item.version) }))
        .collect();
    let writes: Option<Vec<Write>> = items_of::<KeyWrite>(writes)?
        .iter()
        .map(|item| {
            let (key, value) = (take(item.key_length)?, take(item.value_length)?);
            Some(Write { key, value: (item.is_delete == 0).then_some(value) })
        })
        .collect();
    Some(ClientChange::Transaction { compares: compares?, writes: writes? })
}
