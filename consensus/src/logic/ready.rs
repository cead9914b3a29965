//! Drains Raft into effects, in the one order that is safe.
//!
//! A leader's messages leave at once; what must be durable goes to the disk; what a follower
//! answers leaves only when all that was drained before it is durable; committed entries are
//! applied. Also here: the snapshots that Raft asks to be sent, received and taken.
//!
//! The commit index is not written on its own: it rides in the next batch, or is learned from the
//! leader after a restart. That loses nothing, because what is committed is durable on a majority.
//! A change of members is the exception: who applied one writes at once that it is committed.
//! Otherwise all could come back with the configuration before it, and wait for a member that is
//! gone for good. (Even in the moment before that write nobody can elect itself with voters that no
//! longer count: the next change is proposed only after this one was applied, and every batch
//! carries the commit index, so a configuration on disk lags by one step at most, and the quorums
//! of neighbouring configurations meet.)

use std::collections::VecDeque;

use proto::ids::LogIndex;
use proto::time::Instant;
use protobuf::Message as _;
use raft::eraftpb::{Message as RaftMessage, MessageType};
use raft::{Ready, SnapshotStatus};

use super::apply::restore;
use super::effect::{Effect, HaltReason};
use super::image::{self, SnapshotHead};
use super::member::{EffectOf, Member};
use super::message::{Message, Reception};
use super::transfer::{Receiving, Sending, SnapshotPlace};
use crate::ids::{BatchId, MemberId, Term, Ticket, TransferId};
use crate::job::{Batch, HardState, Job, Room};
use crate::state_machine::StateMachine;

/// Batches that wait for the disk; what comes after them is left in Raft.
const OUTSTANDING_MAX: usize = 1024;

/// Messages that wait for the same batch; the oldest are dropped beyond that. The sender of what
/// they answer asks again, as it does where a link loses them.
const MESSAGES_MAX: usize = 4096;

/// Bytes of applied entries after which a snapshot is taken where there is no room for the log.
const TIGHT_BYTES: usize = 1 << 20;

/// What was drained from Raft and waits for a batch, in order. Portions with nothing to be durable
/// belong to the batch before them, so that the disk bounds how many of these there are, however
/// long it takes.
#[derive(Debug)]
pub(super) struct Outstanding {
    /// Raft's number of the last portion in it.
    pub(super) number: u64,
    /// What must be durable.
    batch: BatchId,
    /// When the first portion was drained.
    pub(super) since: Instant,
    /// Leave when it is durable.
    messages: Vec<RaftMessage>,
    /// Changes of members that are answered when it is durable.
    changes: Vec<(Ticket, LogIndex)>,
}

impl Outstanding {
    /// Takes in a later portion, of which nothing must be durable.
    fn join(&mut self, number: u64, messages: Vec<RaftMessage>) {
        self.number = number;
        self.messages.extend(messages);
        let surplus = self.messages.len().saturating_sub(MESSAGES_MAX);
        self.messages.drain(..surplus);
    }
}

impl<S: StateMachine> Member<S> {
    pub(super) fn drain(&mut self, effects: &mut Vec<EffectOf<S>>) {
        while !self.halted && self.outstanding.len() < OUTSTANDING_MAX && self.node.has_ready() {
            let ready = self.node.ready();
            self.drain_one(ready, effects);
        }
    }

    fn drain_one(&mut self, mut ready: Ready, effects: &mut Vec<EffectOf<S>>) {
        for message in ready.take_messages() {
            self.send(&message, effects);
        }
        for read in ready.take_read_states() {
            self.reads.confirm(&read.request_ctx, read.index);
        }
        let mut reset = None;
        if !ready.snapshot().is_empty() {
            let metadata = ready.snapshot().get_metadata().clone();
            reset = Some((metadata.index, metadata.term));
            self.node.mut_store().install(metadata);
        }
        if let Some(hard) = ready.hs() {
            self.node.mut_store().set_hard(hard.clone());
        }
        let entries = ready.take_entries();
        self.node.mut_store().append(&entries);
        let mut waiting = Vec::new();
        for message in ready.take_persisted_messages() {
            // These promise nothing that a crash could take back, and a slow disk must not make a
            // member look dead.
            match message.get_msg_type() {
                MessageType::MsgHeartbeatResponse | MessageType::MsgReadIndex => {
                    self.send(&message, effects);
                }
                _ => waiting.push(message),
            }
        }
        let batch = ready.must_sync().then(|| self.persist(reset, entries, effects));
        let number = ready.number();
        let committed = ready.take_committed_entries();
        self.node.advance_append_async(ready);
        if let Some(batch) = batch {
            self.wait_for_disk(number, batch, waiting, Vec::new());
        } else if let Some(last) = self.outstanding.back_mut() {
            last.join(number, waiting);
        } else {
            self.node.on_persist_ready(number);
            for message in waiting {
                self.send(&message, effects);
            }
        }
        if let Some((index, _)) = reset {
            self.install(index, effects);
        }
        for entry in &committed {
            if self.halted {
                return;
            }
            self.apply(entry, effects);
        }
        self.tell_raft_applied();
        if let Some(changes) = self.changed.take() {
            let batch = self.persist(None, Vec::new(), effects);
            self.wait_for_disk(number, batch, Vec::new(), changes);
        }
    }

    fn wait_for_disk(
        &mut self,
        number: u64,
        batch: BatchId,
        messages: Vec<RaftMessage>,
        changes: Vec<(Ticket, LogIndex)>,
    ) {
        let since = self.now;
        self.outstanding.push_back(Outstanding { number, batch, since, messages, changes });
    }

    /// Gives changes of the log to the disk.
    fn persist(
        &mut self,
        reset: Option<(u64, u64)>,
        entries: Vec<raft::eraftpb::Entry>,
        effects: &mut Vec<EffectOf<S>>,
    ) -> BatchId {
        let id = BatchId(self.next_batch);
        self.next_batch += 1;
        let hard = self.node.store().hard();
        let hard = HardState { term: hard.term, vote: hard.vote, commit: hard.commit };
        effects.push(Effect::Disk(Job::Persist(Batch { id, reset, hard, entries })));
        id
    }

    pub(super) fn on_persisted(&mut self, batch: BatchId, effects: &mut Vec<EffectOf<S>>) {
        let Some(at) = self.outstanding.iter().position(|one| one.batch == batch) else {
            return;
        };
        let done: VecDeque<Outstanding> = self.outstanding.drain(..=at).collect();
        if let Some(last) = done.back() {
            self.node.on_persist_ready(last.number);
        }
        for one in done {
            for message in one.messages {
                self.send(&message, effects);
            }
            let changes = one.changes.into_iter();
            effects.extend(changes.map(|(ticket, index)| Effect::Changed { ticket, index }));
        }
        self.tell_raft_applied();
    }

    /// Raft may know of what is applied only when it is also durable here; a snapshot is applied
    /// before.
    fn tell_raft_applied(&mut self) {
        let log = &self.node.raft.raft_log;
        if self.applied > log.applied && self.applied <= log.committed.min(log.persisted) {
            self.node.advance_apply_to(self.applied);
        }
    }

    fn send(&mut self, message: &RaftMessage, effects: &mut Vec<EffectOf<S>>) {
        let to = MemberId(message.to);
        if message.get_msg_type() == MessageType::MsgSnapshot {
            self.begin_sending(to, message, effects);
        } else {
            let raft = encode(message);
            effects.push(Effect::Send { to, bytes: Message::Raft(&raft).encode() });
        }
    }

    fn begin_sending(
        &mut self,
        to: MemberId,
        message: &RaftMessage,
        effects: &mut Vec<EffectOf<S>>,
    ) {
        let place = self.latest.expect("Raft sends only a snapshot that there is");
        let transfer = self.new_transfer();
        let raft = encode(message);
        let offer = Message::Offer { transfer, length: place.length, raft: &raft };
        effects.push(Effect::Send { to, bytes: offer.encode() });
        self.sendings.insert(to, Sending::new(transfer, place, self.now));
        self.continue_sending(to, 0, effects);
    }

    fn continue_sending(&mut self, to: MemberId, received: u64, effects: &mut Vec<EffectOf<S>>) {
        let Some(sending) = self.sendings.get_mut(&to) else { return };
        let SnapshotPlace { index, term, .. } = sending.place;
        let transfer = sending.transfer;
        for (offset, length) in sending.credit(received, self.now) {
            let job = Job::ReadSnapshot { transfer, index, term, offset, length };
            effects.push(Effect::Disk(job));
        }
    }

    pub(super) fn stop_sending(&mut self, to: MemberId, status: SnapshotStatus) {
        if self.sendings.remove(&to).is_some() {
            self.node.report_snapshot(to.0, status);
        }
    }

    pub(super) fn on_snapshot_read(
        &mut self,
        transfer: TransferId,
        offset: u64,
        bytes: Option<Vec<u8>>,
        effects: &mut Vec<EffectOf<S>>,
    ) {
        let Some((&to, _)) = self.sendings.iter().find(|(_, one)| one.transfer == transfer) else {
            return;
        };
        match bytes {
            Some(bytes) if !bytes.is_empty() => {
                let piece = Message::Piece { transfer, offset, bytes: &bytes };
                effects.push(Effect::Send { to, bytes: piece.encode() });
            }
            // A newer snapshot took its place; Raft will ask for that one.
            _ => self.stop_sending(to, SnapshotStatus::Failure),
        }
    }

    pub(super) fn on_credit(
        &mut self,
        from: MemberId,
        transfer: TransferId,
        received: u64,
        reception: Reception,
        effects: &mut Vec<EffectOf<S>>,
    ) {
        if self.sendings.get(&from).is_none_or(|sending| sending.transfer != transfer) {
            return;
        }
        match reception {
            Reception::Going => self.continue_sending(from, received, effects),
            Reception::Done => self.stop_sending(from, SnapshotStatus::Finish),
            Reception::Stopped => self.stop_sending(from, SnapshotStatus::Failure),
        }
    }

    pub(super) fn on_offer(
        &mut self,
        from: MemberId,
        transfer: TransferId,
        length: u64,
        raft: &[u8],
        effects: &mut Vec<EffectOf<S>>,
    ) {
        let done = |reception| {
            let bytes = Message::Credit { transfer, received: 0, reception }.encode();
            Effect::Send { to: from, bytes }
        };
        let Some(message) = self.offered(from, raft) else {
            effects.push(done(Reception::Stopped));
            return;
        };
        let metadata = message.get_snapshot().get_metadata();
        let index = LogIndex(metadata.index);
        let log = &self.node.raft.raft_log;
        if metadata.index <= log.committed || log.match_term(metadata.index, metadata.term) {
            // Raft takes nothing from it but its index.
            if let Err(error) = self.node.step(message) {
                tracing::debug!(%from, %error, "Raft refused a snapshot");
            }
            effects.push(done(Reception::Done));
            return;
        }
        match Receiving::new(transfer, index, length, raft, self.now) {
            Some(receiving) => self.receiving = Some((from, receiving)),
            None => effects.push(done(Reception::Stopped)),
        }
    }

    /// Raft's message of an offer, if it is one for this member at this time.
    fn offered(&self, from: MemberId, raft: &[u8]) -> Option<RaftMessage> {
        let message = RaftMessage::parse_from_bytes(raft).ok()?;
        let expected = message.get_msg_type() == MessageType::MsgSnapshot
            && message.from == from.0
            && message.to == self.me.0
            && message.term >= self.node.raft.term
            && message.get_snapshot().get_metadata().index > 0;
        expected.then_some(message)
    }

    pub(super) fn credit(
        &self,
        to: MemberId,
        receiving: &Receiving,
        reception: Reception,
        effects: &mut Vec<EffectOf<S>>,
    ) {
        let (transfer, received) = (receiving.transfer, receiving.received());
        let bytes = Message::Credit { transfer, received, reception }.encode();
        effects.push(Effect::Send { to, bytes });
    }

    pub(super) fn on_piece(
        &mut self,
        from: MemberId,
        transfer: TransferId,
        offset: u64,
        bytes: &[u8],
        effects: &mut Vec<EffectOf<S>>,
    ) {
        let current = |one: &mut (MemberId, Receiving)| one.0 == from && one.1.transfer == transfer;
        let Some((_, mut receiving)) = self.receiving.take_if(current) else {
            // Of a transfer that was given up here; the sender must not wait for it.
            let (received, reception) = (0, Reception::Stopped);
            let bytes = Message::Credit { transfer, received, reception }.encode();
            effects.push(Effect::Send { to: from, bytes });
            return;
        };
        if !receiving.add(offset, bytes, self.now) {
            self.credit(from, &receiving, Reception::Stopped, effects);
            return;
        }
        self.credit(from, &receiving, Reception::Going, effects);
        if let Some(content) = receiving.finish() {
            let Some(head) = self.offered_head(from, &receiving, &content) else {
                tracing::warn!(%from, "a snapshot arrived damaged");
                self.credit(from, &receiving, Reception::Stopped, effects);
                return;
            };
            let (index, term) = (head.index, head.term);
            effects.push(Effect::Disk(Job::StoreSnapshot { index, term, content }));
        }
        self.receiving = Some((from, receiving));
    }

    /// The head of a complete snapshot, if it is the one that was offered.
    fn offered_head(
        &self,
        from: MemberId,
        receiving: &Receiving,
        content: &[u8],
    ) -> Option<SnapshotHead> {
        let (head, _) = image::decode(content).ok()?;
        let message = self.offered(from, &receiving.raft)?;
        let metadata = message.get_snapshot().get_metadata();
        (head.index.0 == metadata.index && head.term.0 == metadata.term).then_some(head)
    }

    pub(super) fn on_snapshot_stored(&mut self, index: LogIndex, effects: &mut Vec<EffectOf<S>>) {
        let complete =
            |one: &mut (MemberId, Receiving)| one.1.index == index && one.1.complete.is_some();
        let Some((from, receiving)) = self.receiving.take_if(complete) else { return };
        self.credit(from, &receiving, Reception::Done, effects);
        let Some(message) = self.offered(from, &receiving.raft) else { return };
        // Raft decides whether it still needs it; then the next portion drained has it, and
        // `install` finds the content here.
        self.receiving = Some((from, receiving));
        if let Err(error) = self.node.step(message) {
            tracing::debug!(%from, %error, "Raft refused a snapshot");
        }
        self.drain(effects);
        self.receiving = None;
    }

    /// The state becomes that of a received snapshot.
    fn install(&mut self, index: u64, effects: &mut Vec<EffectOf<S>>) {
        let content = self.receiving.as_ref().and_then(|(_, one)| one.complete.clone());
        let content = content.expect("a snapshot is received before Raft gets it");
        let (head, state) = image::decode(&content).expect("it was decoded when it arrived");
        assert_eq!(head.index.0, index, "the snapshot is the one that Raft took");
        match restore(&content, state) {
            Ok(machine) => self.machine = machine,
            Err(error) => return self.halt(HaltReason::Snapshot(error), effects),
        }
        tracing::info!(index, "the state is taken over from another member's snapshot");
        self.applied = index;
        self.applied_term = head.term.0;
        self.told_applied = index;
        self.log_time = self.log_time.max(head.log_time);
        self.bytes_since_snapshot = 0;
        let length = content.len() as u64;
        self.latest = Some(SnapshotPlace { index: head.index, term: head.term, length });
        self.members = head.members;
        self.configuration = head.configuration;
        effects.push(Effect::Installed { index: LogIndex(index) });
        effects.push(Effect::MembersChanged { members: self.members.clone() });
        // What waits here may be in the snapshot or not.
        self.fail_pending_as_unknown(effects);
    }

    /// Begins a snapshot of this member's own where the log has grown enough.
    pub(super) fn write_snapshot(&mut self, effects: &mut Vec<EffectOf<S>>) {
        let grown = self.bytes_since_snapshot >= self.config.snapshot_after_bytes;
        // Without room the log is cut as soon as that may free a file.
        let is_tight = self.room != Room::Enough && self.bytes_since_snapshot >= TIGHT_BYTES;
        let wanted = grown || is_tight || self.node.store().is_snapshot_wanted();
        let newer = self.latest.is_none_or(|place| place.index.0 < self.applied);
        if !wanted || !newer || self.writing.is_some() || self.now < self.write_again {
            return;
        }
        let head = SnapshotHead {
            index: LogIndex(self.applied),
            term: Term(self.applied_term),
            log_time: self.log_time,
            members: self.members.clone(),
            configuration: self.configuration.clone(),
        };
        self.bytes_since_snapshot = 0;
        self.writing = Some(head.clone());
        let state = self.machine.snapshot();
        effects.push(Effect::Disk(Job::WriteSnapshot { head, state }));
    }

    pub(super) fn on_snapshot_written(
        &mut self,
        index: LogIndex,
        length: u64,
        effects: &mut Vec<EffectOf<S>>,
    ) {
        let Some(head) = self.writing.take_if(|head| head.index == index) else { return };
        if self.latest.is_some_and(|place| place.index >= index) {
            // One that was received overtook it.
            return;
        }
        self.node.mut_store().compact(head.metadata(), self.config.trailing_bytes);
        // The log on disk reaches back to the snapshot before, so that it can take this one's place
        // should it be damaged.
        let through = match self.room {
            Room::Enough => self.latest.map(|before| before.index),
            Room::Short | Room::Gone => Some(index),
        };
        if let Some(through) = through {
            effects.push(Effect::Disk(Job::Compact { through }));
        }
        self.latest = Some(SnapshotPlace { index, term: head.term, length });
    }
}

fn encode(message: &RaftMessage) -> Vec<u8> {
    message.write_to_bytes().expect("a message in memory can be encoded")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_messages_that_wait_for_a_batch_the_newest_are_kept() {
        let (batch, since) = (BatchId(1), Instant(0));
        let (messages, changes) = (Vec::new(), Vec::new());
        let mut waiting = Outstanding { number: 0, batch, since, messages, changes };
        let count = 2 * MESSAGES_MAX as u64;
        for index in 1..=count {
            waiting.join(index, vec![RaftMessage { index, ..RaftMessage::default() }]);
        }
        assert_eq!(waiting.number, count);
        assert_eq!(waiting.messages.len(), MESSAGES_MAX);
        assert_eq!(waiting.messages.last().map(|message| message.index), Some(count));
    }
}
