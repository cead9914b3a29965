//! A member of a cluster: events in, effects out.
//!
//! Responsible for what comes from outside: requests, messages, time, and what the disk did. What
//! Raft makes of it is drained in `ready`; committed entries are carried out in `apply`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fastrand::Rng;
use proto::ids::LogIndex;
use proto::time::Instant;
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeV2, EntryType, HardState, Message as RaftMessage, MessageType};
use raft::{RawNode, SnapshotStatus, StateRole};

use super::apply::restore;
use super::digests::{Digests, Mark};
use super::effect::{Config, Effect, Event, Failure, HaltReason, Role, StartError};
use super::entry::{Kind, Stamped};
use super::image::{Configuration, SnapshotHead};
use super::log_clock::LogClock;
use super::membership::MemberInfo;
use super::message::{Answer, Message, Reception};
use super::pending::Pending;
use super::reads::Reads;
use super::ready::Outstanding;
use super::storage::Storage;
use super::transfer::{Receiving, Sending, SnapshotPlace};
use crate::disk::Recovered;
use crate::identity::Identity;
use crate::ids::{LogTime, MemberId, Term, Ticket, TransferId};
use crate::job::{Done, Job, Room};
use crate::state_machine::StateMachine;

/// Raft sends at most this many bytes of entries in one message.
const APPEND_BYTES: u64 = 1 << 20;

/// Messages with entries under way to one member without an answer.
const APPENDS_UNDER_WAY: usize = 256;

/// Bytes of entries that a leader takes on before they are committed.
const UNCOMMITTED_BYTES: u64 = 64 << 20;

/// Bytes of entries applied in one go.
const APPLY_BYTES: u64 = 16 << 20;

/// Ticks that are made up for after the driver was late; more are skipped, because a member that
/// stood still must look at its messages before it calls an election.
const TICKS_AT_ONCE: u64 = 2;

/// What a member of `S` wants done.
pub type EffectOf<S> = Effect<<S as StateMachine>::Output, <S as StateMachine>::Snapshot>;

/// One member of a cluster that replicates an `S`.
///
/// The driver hands in events with the time, never an earlier one than before, and carries out the
/// effects in the order given: what is sent before what comes later is given to the disk. It calls
/// again at [`Member::next_deadline`] at the latest. A new member has effects waiting: begin with
/// [`Event::Tick`].
pub struct Member<S: StateMachine> {
    pub(super) config: Config,
    identity: Identity,
    pub(super) me: MemberId,
    pub(super) node: RawNode<Storage>,
    pub(super) machine: S,
    rng: Rng,
    /// In ticks; drawn anew with every new leader, term or role.
    election_timeout: usize,
    pub(super) now: Instant,
    next_tick: Instant,

    pub(super) applied: u64,
    pub(super) applied_term: u64,
    pub(super) log_time: LogTime,
    pub(super) members: BTreeMap<MemberId, MemberInfo>,
    pub(super) configuration: Configuration,

    /// Stamps entries; of the term in which this member last led.
    clock: Option<(u64, LogClock)>,
    pub(super) pending: Pending,
    /// The change of members that is done when the joint configuration is left.
    pub(super) leaving: Option<Ticket>,
    /// A change of members was applied and is not yet on its way to the disk; with the requests
    /// that it answers.
    pub(super) changed: Option<Vec<(Ticket, LogIndex)>>,
    pub(super) reads: Reads,
    pub(super) digests: Digests,

    /// What Raft was drained of and the disk has not confirmed.
    pub(super) outstanding: VecDeque<Outstanding>,
    pub(super) next_batch: u64,

    /// What the disk has for the log.
    pub(super) room: Room,
    /// As leader without room: when leadership is offered to another member next, and who was
    /// asked since all were.
    hand_over_due: Instant,
    handed_to: BTreeSet<MemberId>,
    /// Its last tick was skipped, for want of room.
    skipped_tick: bool,

    /// The newest durable snapshot of this member.
    pub(super) latest: Option<SnapshotPlace>,
    /// A snapshot of its own that is being written.
    pub(super) writing: Option<SnapshotHead>,
    pub(super) write_again: Instant,
    pub(super) bytes_since_snapshot: usize,
    pub(super) sendings: BTreeMap<MemberId, Sending>,
    next_transfer: u64,
    pub(super) receiving: Option<(MemberId, Receiving)>,

    told: (Option<MemberId>, Term, Role),
    /// Whether it was told who the members are, as the disk has them.
    has_begun: bool,
    pub(super) told_applied: u64,
    pub(super) halted: bool,
}

impl<S: StateMachine> Member<S> {
    /// Longest command that can be invoked.
    pub const COMMAND_BYTES: usize = 8 << 20;

    /// A member from what its disk holds. `initial` is the state of a member that has no snapshot
    /// yet, because it is about to join.
    ///
    /// # Errors
    /// Where the state machine does not understand its snapshot, or the settings are unusable.
    pub fn new(
        config: Config,
        recovered: Recovered,
        initial: S,
        mut rng: Rng,
        now: Instant,
    ) -> Result<Member<S>, StartError> {
        let Recovered { identity, hard, snapshot, entries, .. } = recovered;
        let me = identity.member;
        let mut machine = initial;
        let mut latest = None;
        let mut members = BTreeMap::new();
        let mut configuration = Configuration::default();
        let mut metadata = Default::default();
        let mut log_time = LogTime::default();
        if let Some((head, content, state)) = snapshot {
            machine = restore(&content, state)?;
            metadata = head.metadata();
            let (index, term, length) = (head.index, head.term, content.len() as u64);
            latest = Some(SnapshotPlace { index, term, length });
            SnapshotHead { members, configuration, log_time, .. } = head;
        }
        let (term, vote, commit) = (hard.term, hard.vote, hard.commit);
        let hard_state = HardState { term, vote, commit, ..HardState::default() };
        let raft_config = raft_config(&config, me, metadata.index)?;
        let ticks = config.election_ticks;
        let election_timeout = rng.usize(ticks..2 * ticks);
        let (applied, applied_term) = (metadata.index, metadata.term);
        let storage = Storage::new(hard_state, metadata, entries);
        // What it logs is told by effects, or follows from them.
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&raft_config, storage, &logger)
            .map_err(|error| StartError::Config(error.to_string()))?;
        let mut member = Member {
            identity,
            me,
            node,
            machine,
            rng,
            election_timeout,
            now,
            next_tick: now + config.tick,
            applied,
            applied_term,
            log_time,
            members,
            configuration,
            clock: None,
            pending: Pending::new(config.pending_max, config.pending_bytes_max),
            leaving: None,
            changed: None,
            reads: Reads::new(me, config.incarnation.0, config.pending_max),
            digests: Digests::new(config.digest_every, now),
            outstanding: VecDeque::new(),
            next_batch: 1,
            room: Room::Enough,
            hand_over_due: now,
            handed_to: BTreeSet::new(),
            skipped_tick: false,
            latest,
            writing: None,
            write_again: now,
            bytes_since_snapshot: 0,
            sendings: BTreeMap::new(),
            next_transfer: 1,
            receiving: None,
            told: (None, Term(0), Role::Learner),
            has_begun: false,
            told_applied: applied,
            halted: false,
            config,
        };
        if member.configuration.voters == [me.0] && !member.configuration.is_joint() {
            // Nobody else could answer, so there is nothing to wait for.
            member.node.campaign().map_err(|error| StartError::Config(error.to_string()))?;
        }
        Ok(member)
    }

    /// Decides what to do about one event.
    pub fn handle(&mut self, now: Instant, event: Event, effects: &mut Vec<EffectOf<S>>) {
        self.handle_all(now, [event], effects);
    }

    /// Decides what to do about events that are there at once. Their commands share messages and
    /// batches.
    pub fn handle_all(
        &mut self,
        now: Instant,
        events: impl IntoIterator<Item = Event>,
        effects: &mut Vec<EffectOf<S>>,
    ) {
        if self.halted {
            return;
        }
        self.now = self.now.max(now);
        if !self.has_begun {
            self.has_begun = true;
            // A snapshot names them, and no entry of the log that will be applied again.
            effects.push(Effect::MembersChanged { members: self.members.clone() });
        }
        self.run_ticks(effects);
        for event in events {
            self.take(event, effects);
            if self.halted {
                return;
            }
        }
        self.settle(effects);
    }

    /// When to call [`Member::handle`] with [`Event::Tick`] if nothing else happens; `None` after a
    /// halt.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        (!self.halted).then_some(self.next_tick)
    }

    fn run_ticks(&mut self, effects: &mut Vec<EffectOf<S>>) {
        if self.now < self.next_tick {
            return;
        }
        for _ in 0..TICKS_AT_ONCE {
            if self.now < self.next_tick {
                break;
            }
            self.next_tick += self.config.tick;
            // A member that waits for its disk does not campaign: Raft wants all of a candidate's
            // log durable, and it would be a slow leader.
            if self.is_leader() || (self.outstanding.is_empty() && !self.skips_tick()) {
                // Raft drew one from the operating system, and a simulation must be able to repeat
                // it. It is looked at in a tick and nowhere else.
                self.node.raft.set_randomized_election_timeout(self.election_timeout);
                self.node.tick();
            }
        }
        if self.next_tick <= self.now {
            self.next_tick = self.now + self.config.tick;
        }
        for ticket in self.pending.expire(self.now) {
            effects.push(Effect::Failed { ticket, failure: Failure::Unknown });
        }
        for ticket in self.reads.expire(self.now) {
            effects.push(Effect::Failed { ticket, failure: Failure::NoLeader });
        }
        let now = self.now;
        let stuck = self.sendings.iter().filter(|(_, sending)| sending.is_stuck(now));
        for to in stuck.map(|(&to, _)| to).collect::<Vec<_>>() {
            self.stop_sending(to, SnapshotStatus::Failure);
        }
        if self.receiving.as_ref().is_some_and(|(_, receiving)| receiving.is_stuck(now)) {
            self.receiving = None;
        }
        if self.is_leader() {
            self.look_for_successor();
        }
        if self.is_leader() && self.digests.is_mark_due(self.now) {
            // Refused while leadership is handed over; the next leader marks.
            let _ = self.propose(Kind::DigestMark, self.internal_origin(), &[]);
        }
    }

    fn take(&mut self, event: Event, effects: &mut Vec<EffectOf<S>>) {
        match event {
            Event::Tick => {}
            Event::Message { from, bytes } => match Message::decode(&bytes) {
                Some(message) => self.on_message(from, message, effects),
                None => tracing::warn!(%from, "a message cannot be decoded"),
            },
            Event::Unreachable(member) => {
                self.node.report_unreachable(member.0);
                if self.sendings.contains_key(&member) {
                    self.stop_sending(member, SnapshotStatus::Failure);
                }
            }
            Event::Invoke { ticket, command } => self.on_invoke(ticket, &command, effects),
            Event::Read { ticket } => {
                if self.stands_still() {
                    effects.push(Effect::Failed { ticket, failure: Failure::NoLeader });
                } else if !self.reads.insert(ticket, self.now + self.config.patience) {
                    effects.push(Effect::Failed { ticket, failure: Failure::Busy });
                }
            }
            Event::ChangeMembers { ticket, change } => self.on_change(ticket, change, effects),
            Event::Transfer { to } => self.on_transfer(to),
            Event::Disk(done) => self.on_done(done, effects),
        }
    }

    fn on_message(&mut self, from: MemberId, message: Message<'_>, effects: &mut Vec<EffectOf<S>>) {
        match message {
            Message::Raft(bytes) => self.on_raft(from, bytes),
            Message::Forward(head, command) => {
                let answer = self.on_forward(from, head, command).err().map(Answer::No);
                self.answer(from, head, answer, effects);
            }
            Message::ForwardChange(head, change) => {
                let answer = self.on_forward_change(from, head, &change);
                self.answer(from, head, answer, effects);
            }
            Message::Answer { incarnation, ticket, answer } => {
                if incarnation == self.config.incarnation.0 && self.pending.remove(ticket) {
                    effects.push(self.outcome(ticket, answer));
                }
            }
            Message::Offer { transfer, length, raft } => {
                self.on_offer(from, transfer, length, raft, effects);
            }
            Message::Piece { transfer, offset, bytes } => {
                self.on_piece(from, transfer, offset, bytes, effects);
            }
            Message::Credit { transfer, received, reception } => {
                self.on_credit(from, transfer, received, reception, effects);
            }
            Message::Digest { index, digest } => self.digests.told(from, Mark { index, digest }),
        }
    }

    /// A message of Raft's. What could make it panic by its form alone is refused here.
    fn on_raft(&mut self, from: MemberId, bytes: &[u8]) {
        let Ok(message) = RaftMessage::parse_from_bytes(bytes) else {
            tracing::warn!(%from, "a message of Raft's cannot be decoded");
            return;
        };
        let addressed = message.from == from.0 && message.to == self.me.0;
        if !addressed || !is_expected(&message) {
            tracing::warn!(%from, "an unexpected message of Raft's");
            return;
        }
        let is_asked_to_lead = message.get_msg_type() == MessageType::MsgTimeoutNow;
        if is_asked_to_lead && self.is_installing() {
            // A campaign would look for entries that the snapshot replaced.
            return;
        }
        if is_asked_to_lead && self.room != Room::Enough {
            // The one that asks has no less.
            return;
        }
        if self.room == Room::Gone && !message.entries.is_empty() {
            // Entries wait for the disk already; these would wait in memory. The leader sends them
            // again.
            return;
        }
        if let Err(error) = self.node.step(message) {
            tracing::debug!(%from, %error, "Raft refused a message");
        }
    }

    pub(super) fn on_transfer(&mut self, to: Option<MemberId>) {
        if self.is_leader()
            && let Some(to) = to.or_else(|| self.successor())
        {
            self.node.transfer_leader(to.0);
        }
    }

    /// As leader: gives leadership away where another could do more with it.
    fn look_for_successor(&mut self) {
        if self.room != Room::Enough {
            // Without room it may wait long for its disk too, and must still ask all in turn.
            if self.now >= self.hand_over_due {
                self.hand_over();
            }
        } else if self.waits_long_for_disk() {
            self.on_transfer(None);
        }
    }

    /// The voter that could lead soonest; one that was asked in vain only where there is no other.
    fn successor(&self) -> Option<MemberId> {
        let progress = self.node.raft.prs();
        let others = self.members.iter().filter(|(id, info)| info.voter && **id != self.me);
        others
            .filter_map(|(id, _)| Some((progress.get(id.0)?, *id)))
            .max_by_key(|(progress, id)| {
                (progress.recent_active, !self.handed_to.contains(id), progress.matched)
            })
            .map(|(_, id)| id)
    }

    /// Offers leadership to a member that may have room, one after the other. Not all the time:
    /// while leadership is handed over nothing is accepted, and all may be without room.
    fn hand_over(&mut self) {
        self.hand_over_due = self.now + self.config.patience;
        let Some(successor) = self.successor() else { return };
        self.on_transfer(Some(successor));
        if !self.handed_to.insert(successor) {
            // There is nobody left who was not asked: another round begins.
            self.handed_to = BTreeSet::from([successor]);
        }
    }

    /// It follows nobody, for want of room, and would answer nothing: another is to be asked.
    pub(super) fn stands_still(&self) -> bool {
        self.room == Room::Gone && !self.is_leader()
    }

    /// For a member without room time passes half as fast, so that it campaigns after all others:
    /// it leads only where nobody else does.
    fn skips_tick(&mut self) -> bool {
        self.skipped_tick = self.room != Room::Enough && !self.skipped_tick;
        self.skipped_tick
    }

    fn on_room(&mut self, room: Room, text: &str, effects: &mut Vec<EffectOf<S>>) {
        if room == Room::Enough {
            tracing::info!(member = %self.me, "the disk has room for the log again");
        } else {
            tracing::warn!(member = %self.me, ?room, reason = text, "the disk is full");
        }
        let was = std::mem::replace(&mut self.room, room);
        if room == Room::Enough {
            self.handed_to.clear();
        } else if let Some(latest) = self.latest.filter(|_| was == Room::Enough) {
            // The snapshot before it, and the log from there on, are given up.
            effects.push(Effect::Disk(Job::Compact { through: latest.index }));
        }
    }

    fn on_done(&mut self, done: Done, effects: &mut Vec<EffectOf<S>>) {
        match done {
            Done::Persisted { batch } => self.on_persisted(batch, effects),
            Done::SnapshotWritten { index, length } => {
                self.on_snapshot_written(index, length, effects);
            }
            Done::SnapshotStored { index } => self.on_snapshot_stored(index, effects),
            Done::SnapshotFailed { index, error } => {
                tracing::warn!(%index, error, "a snapshot could not be written");
                if self.writing.take_if(|head| head.index == index).is_some() {
                    self.write_again = self.now + self.config.patience;
                } else if let Some((from, receiving)) = self.receiving.take() {
                    self.credit(from, &receiving, Reception::Stopped, effects);
                }
            }
            Done::SnapshotRead { transfer, offset, bytes } => {
                self.on_snapshot_read(transfer, offset, bytes, effects);
            }
            Done::Room { room, text } => self.on_room(room, &text, effects),
            Done::Failed { error } => self.halt(HaltReason::Disk(error), effects),
        }
    }

    pub(super) fn halt(&mut self, reason: HaltReason, effects: &mut Vec<EffectOf<S>>) {
        tracing::error!(%reason, "the member stops");
        self.halted = true;
        effects.push(Effect::Halt { reason });
    }

    /// Drains Raft and does what follows from it, until nothing more does.
    fn settle(&mut self, effects: &mut Vec<EffectOf<S>>) {
        loop {
            self.drain(effects);
            if self.halted {
                return;
            }
            self.observe(effects);
            let ready = self.reads.release(self.applied);
            let index = LogIndex(self.applied);
            effects.extend(ready.into_iter().map(|ticket| Effect::ReadReady { ticket, index }));
            if let Some(context) = self.reads.begin(self.now) {
                self.node.read_index(context);
                continue;
            }
            if self.judge() {
                continue;
            }
            break;
        }
        if self.applied > self.told_applied {
            self.told_applied = self.applied;
            effects.push(Effect::Applied { through: LogIndex(self.applied) });
        }
        self.write_snapshot(effects);
    }

    /// Tells about a new leader, term or role, and does what they bring.
    fn observe(&mut self, effects: &mut Vec<EffectOf<S>>) {
        let seen = (self.leader(), self.term(), self.role());
        if seen == self.told {
            return;
        }
        let (leader, term, role) = seen;
        if (leader, term) != (self.told.0, self.told.1) {
            self.reads.ask_again();
            if self.receiving.as_ref().is_some_and(|(_, one)| one.complete.is_none()) {
                self.receiving = None;
            }
        }
        self.told = seen;
        if role == Role::Leader {
            self.leader_clock();
        } else {
            self.sendings.clear();
        }
        let ticks = self.config.election_ticks;
        self.election_timeout = self.rng.usize(ticks..2 * ticks);
        let leader_text = leader.map(|leader| leader.0);
        tracing::info!(member = %self.me, leader = leader_text, %term, ?role, "a new constellation");
        effects.push(Effect::LeaderChanged { leader, term, role });
    }

    /// The clock of this member's reign, which begins at the last stamp in its log.
    pub(super) fn leader_clock(&mut self) -> &mut LogClock {
        let term = self.node.raft.term;
        if self.clock.is_none_or(|(of, _)| of != term) {
            let last = self.last_stamp();
            self.clock = Some((term, LogClock::start(last, self.now)));
        }
        &mut self.clock.as_mut().expect("it was just started").1
    }

    fn last_stamp(&self) -> LogTime {
        let log = &self.node.raft.raft_log;
        let entries = log.unstable_entries().iter().rev().chain(log.store().entries().rev());
        let stamp = entries.filter_map(|entry| match entry.get_entry_type() {
            EntryType::EntryNormal => Some(Stamped::decode(&entry.data)?.log_time),
            EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                let change = ConfChangeV2::parse_from_bytes(&entry.data).ok()?;
                Some(Stamped::decode(&change.context)?.log_time)
            }
        });
        { stamp }.next().unwrap_or_default().max(self.log_time)
    }

    fn judge(&mut self) -> bool {
        if !self.is_leader() {
            return false;
        }
        let Some(mark) = self.digests.judge(self.me, &self.configuration.voters) else {
            return false;
        };
        let verdict = super::entry::Verdict { index: mark.index, digest: mark.digest };
        let origin = self.internal_origin();
        self.propose(Kind::DigestVerdict, origin, bytemuck::bytes_of(&verdict)).is_ok()
    }

    pub(super) fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    pub(super) fn leads_in(&self, term: u64) -> bool {
        self.is_leader() && self.node.raft.term == term
    }

    /// Its disk stands still, or nearly: another could answer sooner.
    fn waits_long_for_disk(&self) -> bool {
        let long = self.config.tick.times(2 * self.config.election_ticks as u64);
        self.outstanding.front().is_some_and(|oldest| self.now.since(oldest.since) >= long)
    }

    /// A received snapshot is in force here and not yet durable in the log.
    fn is_installing(&self) -> bool {
        self.node.raft.raft_log.applied < self.applied
    }

    pub(super) fn new_transfer(&mut self) -> TransferId {
        self.next_transfer += 1;
        // Another start of this member numbers from elsewhere.
        TransferId(self.config.incarnation.0 << 32 | (self.next_transfer & u64::from(u32::MAX)))
    }

    /// What the member is.
    #[must_use]
    pub fn role(&self) -> Role {
        match self.node.raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            StateRole::Follower if self.node.raft.promotable() => Role::Follower,
            StateRole::Follower => Role::Learner,
        }
    }

    /// Who leads, as far as known here.
    #[must_use]
    pub fn leader(&self) -> Option<MemberId> {
        Some(MemberId(self.node.raft.leader_id)).filter(|leader| leader.0 != 0)
    }

    /// The term that the member is in.
    #[must_use]
    pub fn term(&self) -> Term {
        Term(self.node.raft.term)
    }

    /// Whose folder it started from.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The last entry that is in the state.
    #[must_use]
    pub fn applied_index(&self) -> LogIndex {
        LogIndex(self.applied)
    }

    /// The last entry that is known to be committed.
    #[must_use]
    pub fn committed_index(&self) -> LogIndex {
        LogIndex(self.node.raft.raft_log.committed)
    }

    /// The last entry of the log here, committed or not.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        LogIndex(self.node.raft.raft_log.last_index())
    }

    /// The log's time at the last applied entry.
    #[must_use]
    pub fn log_time(&self) -> LogTime {
        self.log_time
    }

    /// What an entry proposed now would be stamped; `None` where this member does not lead.
    #[must_use]
    pub fn leader_time(&self, now: Instant) -> Option<LogTime> {
        let (term, clock) = self.clock?;
        self.leads_in(term).then(|| clock.read(now))
    }

    /// The newest durable snapshot's last entry; 0 where there is none.
    #[must_use]
    pub fn snapshot_index(&self) -> LogIndex {
        self.latest.map_or(LogIndex(0), |place| place.index)
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> &S {
        &self.machine
    }

    /// Digest of the state.
    #[must_use]
    pub fn state_digest(&self) -> [u8; 32] {
        self.machine.digest()
    }

    /// Everybody in the cluster, as of the last applied entry.
    #[must_use]
    pub fn members(&self) -> &BTreeMap<MemberId, MemberInfo> {
        &self.members
    }

    /// At the leader: up to where each member has the log. Empty elsewhere.
    #[must_use]
    pub fn progress(&self) -> BTreeMap<MemberId, LogIndex> {
        let progress = self.node.raft.prs().iter().filter(|_| self.is_leader());
        progress.map(|(&id, one)| (MemberId(id), LogIndex(one.matched))).collect()
    }

    /// How much room the disk has for the log.
    #[must_use]
    pub fn room(&self) -> Room {
        self.room
    }

    /// Requests that wait here for their fate.
    #[must_use]
    pub fn pending_count(&self) -> usize {
        self.pending.len()
    }

    /// Answers "what is it doing?" in one line, for people.
    #[must_use]
    pub fn explain(&self) -> String {
        let leader = self.leader().map_or("nobody".to_owned(), |leader| leader.to_string());
        format!(
            "member {}: {:?} in term {} under {leader}; applied {}, committed {}, last {}; {} \
             batches wait for the disk (room: {:?}); {} requests pending; {} snapshots going \
             out, {} coming in; halted: {}",
            self.me,
            self.role(),
            self.term(),
            self.applied,
            self.committed_index(),
            self.last_index(),
            self.outstanding.len(),
            self.room,
            self.pending.len(),
            self.sendings.len(),
            usize::from(self.receiving.is_some()),
            self.halted
        )
    }

    /// Walks the whole member and panics on a broken invariant.
    pub fn check_invariants(&self) {
        self.pending.check_invariants();
        self.reads.check_invariants();
        let log = &self.node.raft.raft_log;
        log.store().check_invariants();
        assert!(self.applied <= log.committed, "only what is committed is applied");
        assert!(log.applied <= self.applied);
        assert!(self.latest.is_none_or(|place| place.index.0 <= self.applied));
        assert!(self.outstanding.iter().is_sorted_by_key(|one| one.number));
        let known: Vec<u64> = self.members.keys().map(|id| id.0).collect();
        let mut configured: Vec<u64> = self.configuration.ids().collect();
        configured.sort_unstable();
        configured.dedup();
        assert_eq!(known, configured, "every member's address is known, and nobody else's");
        for (id, info) in &self.members {
            assert_eq!(info.voter, self.configuration.voters.contains(&id.0));
        }
    }

    /// Breaks the state behind the log's back.
    #[cfg(test)]
    pub(crate) fn state_mut(&mut self) -> &mut S {
        &mut self.machine
    }
}

fn raft_config(config: &Config, me: MemberId, applied: u64) -> Result<raft::Config, StartError> {
    let ticks = config.election_ticks;
    if config.tick.as_micros() == 0 || ticks == 0 || me.0 == 0 {
        return Err(StartError::Config("a tick, an election and a member are not 0".to_owned()));
    }
    let raft_config = raft::Config {
        id: me.0,
        election_tick: ticks,
        heartbeat_tick: config.heartbeat_ticks,
        applied,
        max_size_per_msg: APPEND_BYTES,
        max_inflight_msgs: APPENDS_UNDER_WAY,
        check_quorum: true,
        pre_vote: true,
        min_election_tick: ticks,
        max_election_tick: 2 * ticks,
        batch_append: true,
        max_uncommitted_size: UNCOMMITTED_BYTES,
        max_committed_size_per_ready: APPLY_BYTES,
        ..raft::Config::default()
    };
    raft_config.validate().map_err(|error| StartError::Config(error.to_string()))?;
    Ok(raft_config)
}

/// Whether a message is one that members send each other, in a form that Raft takes for granted.
/// Proposals are not: a member passes requests on itself. Snapshots come as an offer.
fn is_expected(message: &RaftMessage) -> bool {
    match message.get_msg_type() {
        MessageType::MsgAppend => {
            let mut next = message.index;
            message.entries.iter().all(|entry| {
                next = next.saturating_add(1);
                entry.index == next && entry.term <= message.term
            })
        }
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => message.entries.len() == 1,
        MessageType::MsgAppendResponse
        | MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgHeartbeat
        | MessageType::MsgHeartbeatResponse
        | MessageType::MsgTimeoutNow
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse => true,
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgPropose
        | MessageType::MsgSnapshot
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum
        | MessageType::MsgTransferLeader => false,
    }
}
