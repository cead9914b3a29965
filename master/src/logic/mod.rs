//! What a master decides. Pure: no sockets, clock, threads or randomness of its own.
//!
//! `cluster` is the replicated state, changed only by `commands` in the order of the log; `Master`
//! here is what a process adds to it: who asked for what and waits, which questions wait for a
//! newer state, which balancers wait for news. All of that is lost with the process, and whoever
//! waited asks again. What a record asks for stands in `requests`, what whoever waits is told in
//! `replies`.

mod assignments;
mod balance;
mod changes;
pub mod cluster;
pub mod commands;
mod departures;
pub mod explain;
mod feeds;
pub mod folds;
mod frames;
pub mod grants;
pub mod groups;
pub mod jobs;
pub mod keyspace;
mod leases;
mod members;
pub mod nodes;
pub mod queries;
mod replies;
mod requests;
pub mod retention;
pub mod ring;
mod ring_requests;
pub mod segments;
pub mod sessions;
mod silence;
mod state;
mod storage_watch;
pub mod submissions;
pub mod tasks;
mod windows;

use std::collections::BTreeMap;

use consensus::{
    HaltReason, Job as DiskJob, LogTime, Member, MemberChange, MemberId, MemberInfo, Ticket,
};
use node::logic::network::{Greeting, Link, NetworkEffect, NetworkEvent, Peer};
use proto::ids::{ClusterId, Incarnation, JobId, LogIndex, NodeId, StoreId};
use proto::limits;
use proto::status::{ErrorCode, Role};
use proto::time::{Duration, Instant};

use self::assignments::{Assignments, Running};
use self::cluster::Cluster;
use self::commands::{Command, Output};
use self::feeds::Feeds;
use self::folds::patience::Patience;
use self::frames::Frames;
pub use self::leases::LEASE;
use self::leases::Leases;
use self::members::Members;
use self::nodes::Registration;
use self::queries::{Asked, Surroundings};
use self::replies::{Waiting, send};
use self::silence::Silences;
use self::storage_watch::StorageWatch;
use self::windows::Windows;

/// Questions that wait for a newer state or a final job; more are answered busy.
const WAITING_QUERIES: usize = 200_000;

/// How often jobs that are due to be forgotten are looked for, so that an idle cluster writes few
/// entries: a minute is nothing beside an hour, the shortest that a job is kept.
const RETENTION_INTERVAL: Duration = Duration::from_secs(60);

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
    /// How long a storage node may be silent before it is removed from the ring.
    pub repair_grace: Duration,
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

/// A master.
pub struct Master {
    setting: Setting,
    cluster_uuid: ClusterId,
    member: Member<Cluster>,
    members: Members,
    last_ticket: u64,
    waiting: BTreeMap<Ticket, Waiting>,
    /// Questions that need a newer state.
    late: Vec<(LogIndex, Asked)>,
    /// Questions that wait until a job's state is final.
    watchers: BTreeMap<JobId, Vec<Asked>>,
    watcher_count: usize,
    windows: Windows,
    /// The feed as of this index was looked through for jobs that ended.
    watched: LogIndex,
    feeds: Feeds,
    frames: Frames,
    /// As leader: when the leases of balancers are over.
    leases: Leases,
    /// As leader: what storage nodes reported.
    storage: StorageWatch,
    /// As leader: how long what names segments was refused.
    segment_patience: Patience,
    /// The log's time, and when it was so by this process's clock.
    log_clock: (LogTime, Instant),
    /// When this master was last told the time.
    now: Instant,
    /// An entry that forgets jobs is under way.
    is_retaining: bool,
    /// Not before this time is the next one proposed.
    retention_due: Instant,
    /// Tasks dealt by job, as each balancer group last told.
    running: Running,
    /// Workers that are told when they belong to another group.
    assignments: Assignments,
    /// As leader: workers that were logged as silent lately.
    silences: Silences,
    is_registered: bool,
    register_due: Instant,
    /// Addresses of the masters as newcomers are told them, the leader's first.
    addresses: String,
}

impl Master {
    /// A master around its member, as it was recovered from the disk.
    #[must_use]
    pub fn new(
        setting: Setting,
        cluster_uuid: ClusterId,
        member: Member<Cluster>,
        random: fastrand::Rng,
    ) -> Master {
        let members = Members::new(&setting, random);
        let storage = StorageWatch::new(setting.repair_grace);
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
            windows: Windows::default(),
            watched: LogIndex(0),
            feeds: Feeds::default(),
            frames: Frames::default(),
            leases: Leases::default(),
            storage,
            segment_patience: Patience::default(),
            log_clock: (LogTime::default(), Instant(0)),
            now: Instant(0),
            is_retaining: false,
            retention_due: Instant(0),
            running: Running::default(),
            assignments: Assignments::default(),
            silences: Silences::default(),
            is_registered: false,
            register_due: Instant(0),
            addresses: String::new(),
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
        self.now = now;
        match event {
            Event::Network(event) => self.on_network(now, event, effects),
            Event::Disk(done) => self.consensus(now, consensus::Event::Disk(done), effects),
            // The member says at its first event who the masters are.
            Event::Tick => self.consensus(now, consensus::Event::Tick, effects),
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
        let leases = self.leases.next_deadline();
        let (member, members) = (self.member.next_deadline(), self.members.next_deadline());
        let (storage, retention) = (self.storage.next_deadline(), self.next_retention());
        let deadlines = [member, members, register, leases, storage, retention];
        deadlines.into_iter().flatten().min()
    }

    /// The log's time by now in microseconds: the leader knows it, another master goes on from the
    /// last entry by its own clock.
    fn log_time_us(&self) -> u64 {
        let (stamp, at) = self.log_clock;
        let known = self.member.leader_time(self.now).map(|time| time.0);
        known.unwrap_or_else(|| stamp.0.saturating_add(self.now.since(at).as_micros()))
    }

    /// When jobs are to be forgotten next; `None` where this master does not lead, or none is ever
    /// due as things are.
    fn next_retention(&self) -> Option<Instant> {
        let due = self.cluster().retention.due_us().filter(|_| self.leads())?;
        let wait = Duration::from_micros(due.saturating_sub(self.log_time_us()));
        (!self.is_retaining).then(|| self.retention_due.max(self.now + wait))
    }

    /// Proposes that jobs are forgotten where some are due.
    fn retain(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.next_retention().is_some_and(|due| now >= due) {
            self.is_retaining = true;
            self.retention_due = now + RETENTION_INTERVAL;
            self.invoke(now, &Command::Retain, Waiting::Retention, effects);
        }
    }

    /// Tasks of a job that are dealt, as far as the balancers told.
    fn running_count(&self, job: JobId) -> u64 {
        self.running.count(job, &self.cluster().nodes)
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
        self.wait(ticket, who);
        let command = command.encode();
        self.consensus(now, consensus::Event::Invoke { ticket, command }, effects);
    }

    fn read(&mut self, now: Instant, who: Waiting, effects: &mut Vec<Effect>) {
        let ticket = self.next_ticket();
        self.wait(ticket, who);
        self.consensus(now, consensus::Event::Read { ticket }, effects);
    }

    fn change_members(
        &mut self,
        now: Instant,
        change: MemberChange,
        who: Waiting,
        effects: &mut Vec<Effect>,
    ) {
        let ticket = self.next_ticket();
        self.wait(ticket, who);
        self.consensus(now, consensus::Event::ChangeMembers { ticket, change }, effects);
    }

    fn on_network(&mut self, now: Instant, event: NetworkEvent<'_>, effects: &mut Vec<Effect>) {
        match event {
            NetworkEvent::Connected { link, masters, again, .. } => {
                self.members.connected(link, &masters);
                if again {
                    self.unreachable(now, link, effects);
                }
            }
            NetworkEvent::Masters { link, masters } => self.members.named(link, &masters),
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
            NetworkEvent::Joined { sender, .. } => self.assignments.joined(&sender),
            NetworkEvent::Gone { sender } => {
                self.members.left(sender.peer);
                self.assignments.left(&sender);
                self.feeds.forget(sender.peer);
                self.frames.forget(sender.peer);
                self.late.retain(|(_, asked)| asked.peer != sender.peer);
                for asked in self.watchers.values_mut() {
                    asked.retain(|asked| asked.peer != sender.peer);
                }
                self.windows.forget(sender.peer);
                self.watchers.retain(|_, asked| !asked.is_empty());
                self.watcher_count = self.watchers.values().map(Vec::len).sum();
            }
            NetworkEvent::Overflowing { .. } => {}
        }
    }

    /// What was sent over a link may have been lost.
    fn unreachable(&mut self, now: Instant, link: Link, effects: &mut Vec<Effect>) {
        for member in self.members.behind(link) {
            self.consensus(now, consensus::Event::Unreachable(member), effects);
        }
    }

    fn ask(&mut self, seen: LogIndex, asked: Asked, effects: &mut Vec<Effect>) {
        if seen > self.cluster().applied {
            if self.late.len() + self.watcher_count >= WAITING_QUERIES {
                let text = "too many questions wait for a newer state";
                let refusal = Output::refused(ErrorCode::Busy, text);
                self.send_refusal(asked.peer, asked.request, 0, &refusal, effects);
            } else {
                self.windows.opened(asked.peer);
                self.late.push((seen, asked));
            }
            return;
        }
        let leader = self.member.leader().and_then(|leader| self.cluster().nodes.master(leader.0));
        let running = |job: JobId| self.running_count(job);
        let is_led = |group: u64| self.leases.is_led(group);
        let log_time_us = self.log_time_us();
        let storage = self.leads().then_some(&self.storage);
        let around =
            Surroundings { running: &running, is_led: &is_led, log_time_us, leader, storage };
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
                    self.watch(job, asked, effects);
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
        if self.member.log_time() != self.log_clock.0 {
            self.log_clock = (self.member.log_time(), now);
        }
        for effect in wanted {
            match effect {
                consensus::Effect::Send { to, bytes } => {
                    self.members.send(self.setting.member, to, &bytes, effects);
                }
                consensus::Effect::Disk(job) => effects.push(Effect::Disk(Box::new(job))),
                consensus::Effect::Completed { ticket, index, output } => {
                    if let Some(who) = self.waited(ticket) {
                        self.on_completed(who, index, output, effects);
                    }
                }
                consensus::Effect::Changed { ticket, index } => {
                    if let Some(who) = self.waited(ticket) {
                        self.on_changed(&who, index, effects);
                    }
                }
                consensus::Effect::Failed { ticket, failure } => {
                    if let Some(who) = self.waited(ticket) {
                        self.on_failed(now, &who, failure, effects);
                    }
                }
                consensus::Effect::ReadReady { ticket, .. } => {
                    if let Some(who) = self.waited(ticket) {
                        self.on_read_ready(who, effects);
                    }
                }
                consensus::Effect::Applied { .. } | consensus::Effect::Installed { .. } => {
                    self.on_applied(effects);
                }
                consensus::Effect::LeaderChanged { .. } => {
                    self.running = Running::default();
                    self.name_masters();
                    self.greet(effects);
                }
                consensus::Effect::MembersChanged { members } => {
                    self.members.changed(now, self.setting.member, &members, effects);
                    self.name_masters();
                    self.greet(effects);
                }
                consensus::Effect::Halt { reason } => effects.push(Effect::Halt(reason)),
            }
        }
    }

    /// Notes where the masters are, the leader first.
    fn name_masters(&mut self) {
        let members = self.member.members();
        let leader = self.member.leader();
        let mut masters: Vec<(&MemberId, &MemberInfo)> = members.iter().collect();
        masters.sort_by_key(|(id, _)| (Some(**id) != leader, **id));
        let addresses: Vec<&str> = masters.iter().map(|(_, info)| info.address.as_str()).collect();
        self.addresses = addresses.join(",");
    }

    /// Says what newcomers are told from now on.
    fn greet(&self, effects: &mut Vec<Effect>) {
        effects.push(Effect::Greet(Greeting {
            applied_index: self.cluster().applied,
            window: limits::CLIENT_WINDOW,
            masters: self.addresses.clone(),
        }));
    }

    /// The state is newer: answers what waited for that.
    fn on_applied(&mut self, effects: &mut Vec<Effect>) {
        let applied = self.cluster().applied;
        let (ready, late) =
            std::mem::take(&mut self.late).into_iter().partition(|(seen, _)| *seen <= applied);
        self.late = late;
        let ready: Vec<(LogIndex, Asked)> = ready;
        for (seen, asked) in ready {
            self.windows.closed(asked.peer);
            self.ask(seen, asked, effects);
        }
        if self.watcher_count > 0 {
            let ended = self.cluster().ended_since(self.watched);
            let ended = ended.unwrap_or_else(|| self.watchers.keys().copied().collect());
            for job in ended {
                for asked in self.take_watchers(job) {
                    self.ask(LogIndex(0), asked, effects);
                }
            }
        }
        self.watched = applied;
        self.tell_assignments(effects);
        self.answer_feeds(effects);
        self.greet(effects);
    }

    fn answer_feeds(&mut self, effects: &mut Vec<Effect>) {
        for (peer, request, record) in self.feeds.answers(self.member.state()) {
            send(peer, request, record, effects);
        }
    }

    /// What is due at its time: this master's own registration, links, joining, promotions, ends of
    /// leases.
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
        self.retain(now, effects);
        self.members.tick(now, &self.setting, self.cluster_uuid, effects);
        let term = self.leads().then(|| self.member.term());
        let Cluster { nodes, grants, rings, .. } = self.member.state();
        let of_storage = self.storage.tick(now, term, rings);
        for (group, serial, command) in self.leases.tick(now, term, nodes, grants) {
            tracing::info!(?command, "proposed");
            self.invoke(now, &command, Waiting::Group(group, serial), effects);
        }
        for (matter, command) in of_storage {
            tracing::info!(?command, "proposed");
            self.invoke(now, &command, Waiting::Storage(matter), effects);
        }
        if self.leads()
            && let Some(change) = self.members.promotion(now, self.member.members())
        {
            self.change_members(now, change, Waiting::Promotion, effects);
        }
    }
}
