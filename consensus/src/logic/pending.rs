//! Requests that wait at the member where they were asked.
//!
//! Responsible for their bounds and for ending each of them. A request is passed to the leader of
//! one term, and that leader accepts it in no other: once an entry of a later term is applied, what
//! still waits from an earlier one is not in the log and never will be.

use std::collections::BTreeMap;

use proto::time::Instant;

use crate::ids::Ticket;

#[derive(Clone, Copy, Debug)]
struct Waiting {
    term: u64,
    bytes: usize,
    until: Instant,
}

/// The requests, by ticket.
#[derive(Debug)]
pub(super) struct Pending {
    waiting: BTreeMap<Ticket, Waiting>,
    bytes: usize,
    count_max: usize,
    bytes_max: usize,
}

impl Pending {
    pub(super) fn new(count_max: usize, bytes_max: usize) -> Pending {
        Pending { waiting: BTreeMap::new(), bytes: 0, count_max, bytes_max }
    }

    /// Whether one more fits.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.waiting.len() < self.count_max && self.bytes.saturating_add(bytes) <= self.bytes_max
    }

    pub(super) fn insert(&mut self, ticket: Ticket, term: u64, bytes: usize, until: Instant) {
        let before = self.waiting.insert(ticket, Waiting { term, bytes, until });
        assert!(before.is_none(), "ticket {ticket} is used twice");
        self.bytes += bytes;
    }

    /// Keeps one beyond its term: it has had its effect, and only its end is awaited.
    pub(super) fn hold(&mut self, ticket: Ticket) {
        if let Some(waiting) = self.waiting.get_mut(&ticket) {
            waiting.term = u64::MAX;
        }
    }

    /// Ends one; answers whether it waited.
    pub(super) fn remove(&mut self, ticket: Ticket) -> bool {
        let removed = self.waiting.remove(&ticket);
        self.bytes -= removed.map_or(0, |waiting| waiting.bytes);
        removed.is_some()
    }

    fn remove_where(&mut self, ends: impl Fn(&Waiting) -> bool) -> Vec<Ticket> {
        let ended: Vec<Ticket> =
            self.waiting.iter().filter(|(_, one)| ends(one)).map(|(&ticket, _)| ticket).collect();
        for &ticket in &ended {
            self.remove(ticket);
        }
        ended
    }

    /// Ends those of terms before this one.
    pub(super) fn end_before(&mut self, term: u64) -> Vec<Ticket> {
        self.remove_where(|waiting| waiting.term < term)
    }

    /// Ends those that waited long enough.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Ticket> {
        self.remove_where(|waiting| waiting.until <= now)
    }

    /// Ends all.
    pub(super) fn end_all(&mut self) -> Vec<Ticket> {
        self.remove_where(|_| true)
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn check_invariants(&self) {
        assert_eq!(self.bytes, self.waiting.values().map(|waiting| waiting.bytes).sum::<usize>());
        assert!(self.waiting.len() <= self.count_max && self.bytes <= self.bytes_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_end_by_term_and_by_time_and_give_their_room_back() {
        let mut pending = Pending::new(3, 10);
        pending.insert(Ticket(1), 4, 5, Instant(100));
        pending.insert(Ticket(2), 5, 5, Instant(50));
        assert!(!pending.has_room(1));
        assert_eq!(pending.end_before(5), vec![Ticket(1)]);
        pending.hold(Ticket(2));
        assert_eq!(pending.end_before(9), vec![]);
        assert_eq!(pending.expire(Instant(49)), vec![]);
        assert_eq!(pending.expire(Instant(50)), vec![Ticket(2)]);
        assert!(pending.has_room(10) && !pending.has_room(11));
        pending.check_invariants();
    }
}
