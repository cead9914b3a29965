//! Requests: from here or passed on by another member, into the log or back with a reason.
//!
//! Responsible for bounds, for passing requests on to the leader, for stamping what a leader puts
//! into the log, and for which changes of members can be made now. How a request ends once it is
//! in the log is `apply`'s.

use proto::ids::LogIndex;
use raft::ProgressState;
use raft::eraftpb::ConfChangeV2;

use super::effect::{Effect, Failure};
use super::entry::{Kind, Origin, Stamped};
use super::member::{EffectOf, Member};
use super::membership::MemberChange;
use super::message::{Answer, Forwarded, Message};
use crate::ids::{MemberId, Ticket};
use crate::job::Room;
use crate::state_machine::StateMachine;

/// Entries that a learner may lag and still become a voter: a moment's worth under load
/// (eyeballed).
const LAG_MAX: u64 = 1024;

impl<S: StateMachine> Member<S> {
    pub(super) fn on_invoke(
        &mut self,
        ticket: Ticket,
        command: &[u8],
        effects: &mut Vec<EffectOf<S>>,
    ) {
        let failure = if command.len() > Self::COMMAND_BYTES {
            Some(Failure::TooLarge)
        } else if self.stands_still() {
            Some(Failure::NoLeader)
        } else if !self.pending.has_room(command.len()) {
            Some(Failure::Busy)
        } else if let Some(leader) = self.leader() {
            let term = self.node.raft.term;
            let until = self.now + self.config.patience;
            if leader == self.me {
                let proposed = self.propose_command(self.origin(ticket), command);
                if proposed.is_ok() {
                    self.pending.insert(ticket, term, command.len(), until);
                }
                proposed.err()
            } else {
                self.pending.insert(ticket, term, command.len(), until);
                let message = Message::Forward(self.forwarded(ticket), command);
                effects.push(Effect::Send { to: leader, bytes: message.encode() });
                None
            }
        } else {
            Some(Failure::NoLeader)
        };
        effects.extend(failure.map(|failure| Effect::Failed { ticket, failure }));
    }

    pub(super) fn on_change(
        &mut self,
        ticket: Ticket,
        change: MemberChange,
        effects: &mut Vec<EffectOf<S>>,
    ) {
        let answer = if !change.is_well_formed() {
            Some(Answer::No(Failure::Refused))
        } else if !self.pending.has_room(0) {
            Some(Answer::No(Failure::Busy))
        } else if let Some(leader) = self.leader() {
            let term = self.node.raft.term;
            let until = self.now + self.config.patience;
            if leader == self.me {
                let answer = self.propose_change(self.origin(ticket), &change);
                if answer.is_none() {
                    self.pending.insert(ticket, term, 0, until);
                }
                answer
            } else {
                self.pending.insert(ticket, term, 0, until);
                let message = Message::ForwardChange(self.forwarded(ticket), change);
                effects.push(Effect::Send { to: leader, bytes: message.encode() });
                None
            }
        } else {
            Some(Answer::No(Failure::NoLeader))
        };
        effects.extend(answer.map(|answer| self.outcome(ticket, answer)));
    }

    pub(super) fn on_forward(
        &mut self,
        from: MemberId,
        head: Forwarded,
        command: &[u8],
    ) -> Result<(), Failure> {
        if !self.leads_in(head.term) {
            return Err(Failure::NoLeader);
        }
        if command.len() > Self::COMMAND_BYTES {
            return Err(Failure::TooLarge);
        }
        self.propose_command(origin_of(from, head), command)
    }

    /// Puts a command into the log, if there is room for it.
    fn propose_command(&mut self, origin: Origin, command: &[u8]) -> Result<(), Failure> {
        let has_room = match self.room {
            Room::Enough => true,
            Room::Short => S::is_needed_without_room(command),
            Room::Gone => false,
        };
        if !has_room {
            return Err(Failure::NoRoom);
        }
        self.propose(Kind::Command, origin, command)
    }

    pub(super) fn on_forward_change(
        &mut self,
        from: MemberId,
        head: Forwarded,
        change: &MemberChange,
    ) -> Option<Answer> {
        if !self.leads_in(head.term) {
            return Some(Answer::No(Failure::NoLeader));
        }
        self.propose_change(origin_of(from, head), change)
    }

    pub(super) fn answer(
        &self,
        to: MemberId,
        head: Forwarded,
        answer: Option<Answer>,
        effects: &mut Vec<EffectOf<S>>,
    ) {
        if let Some(answer) = answer {
            let (incarnation, ticket) = (head.incarnation, Ticket(head.ticket));
            let bytes = Message::Answer { incarnation, ticket, answer }.encode();
            effects.push(Effect::Send { to, bytes });
        }
    }

    pub(super) fn outcome(&self, ticket: Ticket, answer: Answer) -> EffectOf<S> {
        match answer {
            Answer::AlreadySo => Effect::Changed { ticket, index: LogIndex(self.applied) },
            Answer::No(failure) => Effect::Failed { ticket, failure },
        }
    }

    /// Puts an entry of ours into the log. Only a leader may.
    pub(super) fn propose(
        &mut self,
        kind: Kind,
        origin: Origin,
        body: &[u8],
    ) -> Result<(), Failure> {
        let bytes = self.stamped(kind, origin, body);
        self.node.propose(Vec::new(), bytes).map_err(|_| Failure::Busy)
    }

    fn stamped(&mut self, kind: Kind, origin: Origin, body: &[u8]) -> Vec<u8> {
        assert!(self.is_leader(), "only a leader proposes");
        let proposer_term = self.node.raft.term;
        let now = self.now;
        let log_time = self.leader_clock().stamp(now);
        Stamped { kind, origin, proposer_term, log_time, body }.encode()
    }

    fn propose_change(&mut self, origin: Origin, change: &MemberChange) -> Option<Answer> {
        let mut raft_change = match self.consider(change) {
            Ok(Some(raft_change)) => raft_change,
            Ok(None) => return Some(Answer::AlreadySo),
            Err(failure) => return Some(Answer::No(failure)),
        };
        if change.removes(self.me) {
            // Raft cannot have a leader that is no member. The next one is asked again.
            self.on_transfer(None);
            return Some(Answer::No(Failure::Busy));
        }
        let context = self.stamped(Kind::Change, origin, &change.encode());
        raft_change.set_context(context.into());
        let proposed = self.node.propose_conf_change(Vec::new(), raft_change);
        proposed.err().map(|_| Answer::No(Failure::Busy))
    }

    /// A change of members for Raft, `None` where all is so already, or why it cannot be made now.
    fn consider(&self, change: &MemberChange) -> Result<Option<ConfChangeV2>, Failure> {
        if self.node.raft.has_pending_conf() || self.configuration.is_joint() {
            return Err(Failure::Busy);
        }
        let Some(raft_change) = change.to_raft(&self.members) else { return Ok(None) };
        if !change.leaves_a_voter(&self.members) {
            return Err(Failure::Refused);
        }
        if let MemberChange::Promote { voters, .. } = change {
            let last = self.node.raft.raft_log.last_index();
            for id in voters {
                let progress = self.node.raft.prs().get(id.0).ok_or(Failure::Refused)?;
                let near = progress.matched.saturating_add(LAG_MAX) >= last;
                let follows = near && progress.state == ProgressState::Replicate;
                if *id != self.me && !follows {
                    return Err(Failure::Behind);
                }
            }
        }
        Ok(Some(raft_change))
    }

    fn forwarded(&self, ticket: Ticket) -> Forwarded {
        let incarnation = self.config.incarnation.0;
        Forwarded { incarnation, ticket: ticket.0, term: self.node.raft.term }
    }

    fn origin(&self, ticket: Ticket) -> Origin {
        Origin { member: self.me, incarnation: self.config.incarnation.0, ticket }
    }

    /// Of entries that nobody asked for: incarnation 0 waits for nothing.
    pub(super) fn internal_origin(&self) -> Origin {
        Origin { member: MemberId(0), incarnation: 0, ticket: Ticket(0) }
    }
}

fn origin_of(from: MemberId, head: Forwarded) -> Origin {
    Origin { member: from, incarnation: head.incarnation, ticket: Ticket(head.ticket) }
}
