//! Reads that must see everything acknowledged before them.
//!
//! Responsible for their rounds: a round asks the leader for an index that a majority confirms, and
//! all reads that came before it began share its answer. One round is under way at a time; it
//! begins at once when none is, and is asked again when its answer does not come (Raft drops such
//! requests silently without a leader, and before a leader's first commit).

use std::collections::BTreeMap;

use proto::time::{Duration, Instant};

use crate::ids::{MemberId, Ticket};

/// After this a round is asked again: several round trips between machines of one site (eyeballed).
const RETRY: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug)]
struct Read {
    ticket: Ticket,
    until: Instant,
}

#[derive(Debug)]
struct Round {
    context: Vec<u8>,
    asked: Instant,
    reads: Vec<Read>,
}

/// All reads at this member.
#[derive(Debug)]
pub(super) struct Reads {
    /// Makes contexts unique: no other member, start or round has the same.
    identity: [u8; 16],
    round_count: u64,
    waiting: Vec<Read>,
    round: Option<Round>,
    /// Answered, by the index up to which the state must be applied.
    confirmed: BTreeMap<u64, Vec<Read>>,
    count: usize,
    count_max: usize,
}

impl Reads {
    pub(super) fn new(member: MemberId, incarnation: u64, count_max: usize) -> Reads {
        let mut identity = [0; 16];
        identity[..8].copy_from_slice(&member.0.to_le_bytes());
        identity[8..].copy_from_slice(&incarnation.to_le_bytes());
        let (waiting, confirmed) = (Vec::new(), BTreeMap::new());
        Reads { identity, round_count: 0, waiting, round: None, confirmed, count: 0, count_max }
    }

    /// Takes a read in; `false` where too many wait.
    pub(super) fn insert(&mut self, ticket: Ticket, until: Instant) -> bool {
        let room = self.count < self.count_max;
        if room {
            self.waiting.push(Read { ticket, until });
            self.count += 1;
        }
        room
    }

    /// Begins a round if one is due; the answer is the context to ask with.
    pub(super) fn begin(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.round.is_some() || self.waiting.is_empty() {
            return None;
        }
        self.round_count += 1;
        let mut context = self.identity.to_vec();
        context.extend(self.round_count.to_le_bytes());
        let reads = std::mem::take(&mut self.waiting);
        self.round = Some(Round { context: context.clone(), asked: now, reads });
        Some(context)
    }

    /// Gives up a round, so that the next one has its reads too.
    pub(super) fn ask_again(&mut self) {
        if let Some(mut round) = self.round.take() {
            round.reads.append(&mut self.waiting);
            self.waiting = round.reads;
        }
    }

    /// Gives up a round that takes too long, and ends reads that waited long enough.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Ticket> {
        if self.round.as_ref().is_some_and(|round| now.since(round.asked) >= RETRY) {
            self.ask_again();
        }
        let mut ended = Vec::new();
        let mut keep = |read: &Read| {
            let stays = now < read.until;
            if !stays {
                ended.push(read.ticket);
            }
            stays
        };
        self.waiting.retain(&mut keep);
        if let Some(round) = &mut self.round {
            round.reads.retain(&mut keep);
        }
        self.confirmed.retain(|_, reads| {
            reads.retain(&mut keep);
            !reads.is_empty()
        });
        self.count -= ended.len();
        ended
    }

    /// A round's answer came.
    pub(super) fn confirm(&mut self, context: &[u8], index: u64) {
        if let Some(round) = self.round.take_if(|round| round.context == context) {
            self.confirmed.entry(index).or_default().extend(round.reads);
        }
    }

    /// Reads that a state applied up to here may answer.
    pub(super) fn release(&mut self, applied: u64) -> Vec<Ticket> {
        let mut ready = Vec::new();
        while let Some(first) = self.confirmed.first_entry().filter(|one| *one.key() <= applied) {
            ready.extend(first.remove().into_iter().map(|read| read.ticket));
        }
        self.count -= ready.len();
        ready
    }

    pub(super) fn check_invariants(&self) {
        let asked = self.round.as_ref().map_or(0, |round| round.reads.len());
        let confirmed: usize = self.confirmed.values().map(Vec::len).sum();
        assert_eq!(self.count, self.waiting.len() + asked + confirmed);
        assert!(self.count <= self.count_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_share_rounds_and_wait_for_the_state() {
        let far = Instant(1_000_000_000);
        let mut reads = Reads::new(MemberId(1), 1, 3);
        assert!(reads.insert(Ticket(1), far));
        let first = reads.begin(Instant(0)).unwrap();
        assert!(reads.insert(Ticket(2), far));
        // A read that came later must not use an index that was confirmed earlier.
        assert_eq!(reads.begin(Instant(0)), None);
        reads.confirm(&first, 10);
        assert_eq!(reads.release(9), vec![]);
        assert_eq!(reads.release(10), vec![Ticket(1)]);
        let second = reads.begin(Instant(0)).unwrap();
        assert!(reads.insert(Ticket(3), Instant(5)));
        assert_eq!(reads.expire(Instant(RETRY.as_micros())), vec![Ticket(3)]);
        let third = reads.begin(Instant(RETRY.as_micros())).unwrap();
        reads.confirm(&second, 11);
        assert_eq!(reads.release(99), vec![], "a round that was given up confirms nothing");
        reads.confirm(&third, 12);
        assert_eq!(reads.release(12), vec![Ticket(2)]);
        reads.check_invariants();
    }
}
