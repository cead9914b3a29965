//! Scrubbing: the digest of every own block is checked once in a period, evenly spread, or at once
//! where a user asks for it.
//!
//! One block at a time, so that readers hardly feel it. Begins anywhere, so that a node that is
//! often restarted checks all its blocks all the same. What becomes of a damaged block is
//! `mend.rs`'s matter.

use std::collections::VecDeque;

use fastrand::Rng;
use proto::ids::BlockId;
use proto::time::{Duration, Instant};

use super::{Effect, Pending, Ticket, Works};
use crate::disk::{Held, ReadError};

/// Blocks that are listed at once.
const LIST_COUNT: usize = 256;

/// How soon an empty node looks again whether there is something to check.
const EMPTY_PAUSE: Duration = Duration::from_secs(60);

/// How far a round is, for the leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ScrubProgress {
    pub(super) round: u64,
    pub(super) done: u64,
    pub(super) total: u64,
}

/// The state of scrubbing.
#[derive(Debug)]
pub(super) struct Scrub {
    period: Duration,
    /// Listed up to here.
    cursor: Option<BlockId>,
    /// True where the list has ended and begins again.
    is_at_end: bool,
    listed: VecDeque<Held>,
    listing: Option<Ticket>,
    verifying: Option<(Ticket, Held)>,
    due: Instant,
    /// The round that is being done as fast as it goes.
    urgent: Option<u64>,
    progress: ScrubProgress,
}

impl Scrub {
    pub(super) fn new(period: Duration, rng: &mut Rng) -> Scrub {
        Scrub {
            period,
            cursor: Some(BlockId(rng.u128(..))),
            is_at_end: false,
            listed: VecDeque::new(),
            listing: None,
            verifying: None,
            due: Instant(0),
            urgent: None,
            progress: ScrubProgress::default(),
        }
    }

    /// Begins what is due. Answers whether a round has ended.
    pub(super) fn tick(
        &mut self,
        now: Instant,
        round: u64,
        works: &mut Works,
        effects: &mut Vec<Effect>,
    ) -> bool {
        if self.urgent.is_none() && round > self.progress.round {
            self.urgent = Some(round);
            (self.progress.done, self.progress.total) = (0, 0);
            (self.cursor, self.is_at_end, self.listing) = (None, false, None);
            self.listed.clear();
            self.due = now;
        }
        if self.verifying.is_some() || self.listing.is_some() || self.due > now {
            return false;
        }
        if let Some(held) = self.listed.pop_front() {
            let ticket = works.begin(Pending::Verify);
            self.verifying = Some((ticket, held));
            effects.push(Effect::Verify { ticket, block: held.block });
            return false;
        }
        if self.is_at_end {
            (self.cursor, self.is_at_end) = (None, false);
            if let Some(round) = self.urgent.take() {
                self.progress = ScrubProgress { round, done: 0, total: 0 };
                self.due = now + EMPTY_PAUSE;
                return true;
            }
        }
        let ticket = works.begin(Pending::ListScrub);
        self.listing = Some(ticket);
        effects.push(Effect::List { ticket, after: self.cursor, limit: LIST_COUNT });
        false
    }

    /// The next blocks to check.
    pub(super) fn listed(&mut self, now: Instant, ticket: Ticket, held: Vec<Held>, total: u64) {
        if self.listing != Some(ticket) {
            return;
        }
        self.listing = None;
        self.is_at_end = held.len() < LIST_COUNT;
        self.cursor = held.last().map(|held| held.block).or(self.cursor);
        self.listed = held.into();
        if self.urgent.is_some() {
            self.progress.total = self.progress.total.max(total);
        } else {
            let pause = Duration(self.period.0 / total.max(1));
            self.due = now + if total == 0 { EMPTY_PAUSE } else { pause };
        }
    }

    /// A block is checked; answers with it where it is damaged.
    pub(super) fn verified(
        &mut self,
        now: Instant,
        ticket: Ticket,
        result: Result<(), ReadError>,
        total: u64,
    ) -> Option<Held> {
        let (_, held) = self.verifying.take_if(|(verifying, _)| *verifying == ticket)?;
        if self.urgent.is_some() {
            self.progress.done = (self.progress.done + 1).min(self.progress.total);
        } else {
            self.due = now + Duration(self.period.0 / total.max(1));
        }
        (result == Err(ReadError::Damaged)).then_some(held)
    }

    /// How far it is.
    pub(super) fn progress(&self) -> ScrubProgress {
        self.progress
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        (self.verifying.is_none() && self.listing.is_none()).then_some(self.due)
    }
}
