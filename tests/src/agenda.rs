//! What will happen when: one priority queue of virtual time.
//!
//! Deliveries of the same instant come in the order in which they were entered, so that a run
//! depends on nothing but its seed. Time never passes by itself: it jumps to the next delivery.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use proto::time::{Duration, Instant};

#[derive(Debug)]
struct Entry<D> {
    at: Instant,
    sequence: u64,
    delivery: D,
}

impl<D> PartialEq for Entry<D> {
    fn eq(&self, other: &Entry<D>) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<D> Eq for Entry<D> {}

impl<D> PartialOrd for Entry<D> {
    fn partial_cmp(&self, other: &Entry<D>) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<D> Ord for Entry<D> {
    fn cmp(&self, other: &Entry<D>) -> Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// The queue and the present instant.
#[derive(Debug)]
pub(crate) struct Agenda<D> {
    now: Instant,
    next_sequence: u64,
    entries: BinaryHeap<Reverse<Entry<D>>>,
}

impl<D> Agenda<D> {
    pub(crate) fn new() -> Agenda<D> {
        Agenda { now: Instant(0), next_sequence: 0, entries: BinaryHeap::new() }
    }

    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// Enters a delivery; one whose instant is past comes at once.
    pub(crate) fn at(&mut self, at: Instant, delivery: D) {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.entries.push(Reverse(Entry { at: at.max(self.now), sequence, delivery }));
    }

    pub(crate) fn after(&mut self, span: Duration, delivery: D) {
        self.at(self.now + span, delivery);
    }

    /// Jumps to the next delivery.
    pub(crate) fn next(&mut self) -> Option<D> {
        let Reverse(entry) = self.entries.pop()?;
        self.now = entry.at;
        Some(entry.delivery)
    }
}
