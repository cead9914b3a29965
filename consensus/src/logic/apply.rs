//! Carries out committed entries.
//!
//! Responsible for the order of things within one entry: the fence of terms, log time, the state
//! machine or the configuration, and the answer to whoever asked here. Everything that changes the
//! state depends on the entry alone, so that all members do the same.

use std::ops::Range;

use proto::ids::LogIndex;
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeV2, Entry, EntryType};

use super::digests::Mark;
use super::effect::{Effect, Failure, HaltReason};
use super::entry::{Kind, Origin, Stamped, Verdict};
use super::image::Configuration;
use super::member::{EffectOf, Member};
use super::membership::{MemberChange, MemberInfo};
use super::message::Message;
use super::storage::size;
use crate::ids::Ticket;
use crate::state_machine::{Applied, RestoreError, StateMachine};

/// The state within a snapshot's bytes.
pub(super) fn restore<S: StateMachine>(
    content: &[u8],
    state: Range<usize>,
) -> Result<S, RestoreError> {
    S::restore(content.get(state).unwrap_or_default())
}

impl<S: StateMachine> Member<S> {
    pub(super) fn apply(&mut self, entry: &Entry, effects: &mut Vec<EffectOf<S>>) {
        assert_eq!(entry.index, self.applied + 1, "entries are applied one after the other");
        let new_term = entry.term > self.applied_term;
        self.applied = entry.index;
        self.applied_term = entry.term;
        self.bytes_since_snapshot += size(entry);
        if new_term {
            for ticket in self.pending.end_before(entry.term) {
                effects.push(Effect::Failed { ticket, failure: Failure::Dropped });
            }
            // A leader answers reads only after it committed in its term.
            self.reads.ask_again();
        }
        match entry.get_entry_type() {
            EntryType::EntryNormal => {
                if let Some(stamped) = fenced(&entry.data, entry.term) {
                    self.apply_stamped(entry.index, &stamped, effects);
                }
            }
            EntryType::EntryConfChangeV2 => self.apply_change(entry, effects),
            // Nobody makes these.
            EntryType::EntryConfChange => {}
        }
    }

    fn apply_stamped(&mut self, index: u64, stamped: &Stamped<'_>, effects: &mut Vec<EffectOf<S>>) {
        self.log_time = self.log_time.max(stamped.log_time);
        match stamped.kind {
            Kind::Command => {
                let origin = stamped.origin.member;
                let (index, log_time) = (LogIndex(index), self.log_time);
                let output = self.machine.apply(&Applied { index, log_time, origin }, stamped.body);
                self.digests.command_applied();
                if let Some(ticket) = self.asked_here(stamped) {
                    effects.push(Effect::Completed { ticket, index, output });
                }
            }
            Kind::DigestMark => self.mark(index, effects),
            Kind::DigestVerdict => {
                let Ok(verdict) = bytemuck::try_pod_read_unaligned::<Verdict>(stamped.body) else {
                    return;
                };
                let mark = Mark { index: verdict.index, digest: verdict.digest };
                if self.digests.contradicts(mark) {
                    let index = LogIndex(mark.index);
                    self.halt(HaltReason::Differs { index }, effects);
                }
            }
            // Stands in a change's context, not in an entry of its own.
            Kind::Change => {}
        }
    }

    fn mark(&mut self, index: u64, effects: &mut Vec<EffectOf<S>>) {
        let mark = Mark { index, digest: self.machine.digest() };
        self.digests.marked(mark, self.now);
        if let Some(leader) = self.leader().filter(|&leader| leader != self.me) {
            let bytes = Message::Digest { index, digest: mark.digest }.encode();
            effects.push(Effect::Send { to: leader, bytes });
        }
    }

    fn apply_change(&mut self, entry: &Entry, effects: &mut Vec<EffectOf<S>>) {
        let Ok(raft_change) = ConfChangeV2::parse_from_bytes(&entry.data) else { return };
        // Raft leaves a joint configuration by an empty change of its own.
        let leaves = raft_change.changes.is_empty();
        let stamped = fenced(&raft_change.context, entry.term);
        if stamped.is_none() && !leaves {
            return;
        }
        let configuration = match self.node.apply_conf_change(&raft_change) {
            Ok(configuration) => Configuration::from(&configuration),
            Err(error) => {
                // The same at every member: the configuration stays.
                tracing::warn!(%error, index = entry.index, "a change of members is impossible");
                if let Some(ticket) = stamped.and_then(|stamped| self.asked_here(&stamped)) {
                    let failure = Failure::Refused;
                    effects.push(Effect::Failed { ticket, failure });
                }
                return;
            }
        };
        if self.is_leader() && self.node.raft.prs().get(self.me.0).is_none() {
            // It came to lead while it was leaving. Raft would panic on its next entry.
            let term = self.node.raft.term;
            self.node.raft.become_follower(term, raft::INVALID_ID);
        }
        if let Some(stamped) = &stamped {
            self.log_time = self.log_time.max(stamped.log_time);
            if let Some(MemberChange::AddLearner { member, address }) =
                MemberChange::decode(stamped.body)
            {
                self.members.insert(member, MemberInfo { address, voter: false });
            }
        }
        self.configure(configuration);
        effects.push(Effect::MembersChanged { members: self.members.clone() });
        // A change in two steps is done after the second.
        let asked = stamped.map(|stamped| stamped.origin).filter(|origin| self.is_mine(*origin));
        let ticket = asked.map(|origin| origin.ticket).or_else(|| self.leaving.take());
        if self.configuration.is_joint() {
            self.leaving = ticket;
            ticket.into_iter().for_each(|ticket| self.pending.hold(ticket));
        }
        let done = ticket.filter(|&ticket| self.leaving.is_none() && self.pending.remove(ticket));
        let answers = self.changed.get_or_insert_default();
        answers.extend(done.map(|ticket| (ticket, LogIndex(entry.index))));
    }

    fn configure(&mut self, configuration: Configuration) {
        self.configuration = configuration;
        let known = &self.configuration;
        self.members.retain(|id, _| known.ids().any(|known| known == id.0));
        for (id, info) in &mut self.members {
            info.voter = known.voters.contains(&id.0);
        }
    }

    fn is_mine(&self, origin: Origin) -> bool {
        (origin.member, origin.incarnation) == (self.me, self.config.incarnation.0)
    }

    /// The ticket of an entry that somebody waits for at this member.
    fn asked_here(&mut self, stamped: &Stamped<'_>) -> Option<Ticket> {
        let origin = stamped.origin;
        (self.is_mine(origin) && self.pending.remove(origin.ticket)).then_some(origin.ticket)
    }

    pub(super) fn fail_pending_as_unknown(&mut self, effects: &mut Vec<EffectOf<S>>) {
        for ticket in self.pending.end_all() {
            effects.push(Effect::Failed { ticket, failure: Failure::Unknown });
        }
    }
}

/// An entry of ours, if its proposer led when it was put into the log. Raft lets a follower pass on
/// what a deposed leader proposed; such an entry has no effect anywhere.
pub(super) fn fenced(bytes: &[u8], term: u64) -> Option<Stamped<'_>> {
    Stamped::decode(bytes).filter(|stamped| stamped.proposer_term == term)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{LogTime, MemberId};

    #[test]
    fn what_a_deposed_leader_proposed_has_no_effect_in_another_term() {
        let origin = Origin { member: MemberId(1), incarnation: 1, ticket: Ticket(1) };
        let (kind, log_time, body) = (Kind::Command, LogTime(1), &b"command"[..]);
        let stamped = Stamped { kind, origin, proposer_term: 4, log_time, body };
        let bytes = stamped.encode();
        assert_eq!(fenced(&bytes, 4), Some(stamped));
        assert_eq!(fenced(&bytes, 5), None);
        assert_eq!(fenced(b"", 4), None);
    }
}
