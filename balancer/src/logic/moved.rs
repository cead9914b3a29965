//! Ranges that were another group's before: under which numbers their attempts go, and until when
//! workers of that group have their time to list what they execute of them.
//!
//! All of such a range may have been dealt, whatever marks that group had. The auxiliary takes it
//! for dealt as well, so that nothing need be told of it.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use proto::ids::{Epoch, JobId};
use proto::status::TaskState;
use proto::time::Instant;

use super::held::{Dealt, Stage};
use super::ranges::Ranges;
use super::tasks::{NOBODY, Tasks};

/// The moved ranges of a job.
#[derive(Clone, Debug, Default)]
pub(super) struct Moves {
    /// By the number of their move.
    ranges: BTreeMap<Epoch, Ranges>,
    /// What workers may still list.
    pub(super) recent: Ranges,
}

impl Moves {
    /// A range was moved here under this number.
    pub(super) fn note(&mut self, number: Epoch, range: Range<u64>) {
        self.ranges.entry(number).or_default().insert(range);
    }

    /// The first tasks of `range` that were moved under one number, and that number; 0 for what
    /// was granted here at first.
    pub(super) fn first_of(&self, range: Range<u64>) -> (Range<u64>, Epoch) {
        let (mut end, mut number) = (range.end, Epoch(0));
        for (&of, ranges) in &self.ranges {
            for piece in ranges.within(&range) {
                if piece.start > range.start {
                    end = end.min(piece.start);
                } else {
                    end = end.min(piece.end);
                    number = of;
                }
            }
        }
        (range.start..end, number)
    }
}

/// Moved ranges that were read together.
#[derive(Clone, Debug)]
struct Read {
    /// Workers have their time to list them until then.
    until: Instant,
    ranges: Vec<(JobId, Range<u64>)>,
}

/// The moved ranges that workers may still list.
#[derive(Clone, Debug, Default)]
pub(super) struct Recent {
    read: VecDeque<Read>,
    /// Read just now.
    new: Vec<(JobId, Range<u64>)>,
}

impl Recent {
    pub(super) fn add(&mut self, job: JobId, range: Range<u64>) {
        self.new.push((job, range));
    }
}

impl Tasks {
    /// Workers have until then to list what was read of moved ranges since this was last called.
    pub fn date_moved(&mut self, until: Instant) {
        let ranges = std::mem::take(&mut self.recent.new);
        if !ranges.is_empty() {
            self.recent.read.push_back(Read { until, ranges });
        }
    }

    /// When [`Tasks::end_moved`] has something to do.
    #[must_use]
    pub fn moved_deadline(&self) -> Option<Instant> {
        self.recent.read.front().map(|read| read.until)
    }

    /// Nobody listed what is left of moved ranges by now: a primary asks the masters what became
    /// of it before it is dealt. Returns true where there was anything.
    pub fn end_moved(&mut self, now: Instant, is_primary: bool) -> bool {
        let mut is_any = false;
        while let Some(read) = self.recent.read.pop_front_if(|read| now >= read.until) {
            is_any = true;
            for (id, range) in read.ranges {
                self.end_moved_range(id, &range, is_primary);
                self.note_waiting(id);
            }
        }
        is_any
    }

    fn end_moved_range(&mut self, id: JobId, range: &Range<u64>, is_primary: bool) {
        let has_doubt = self.doubt.is_some();
        let Some(mut dealing) = self.dealing(id) else { return };
        dealing.job.moves.recent.remove(range.clone());
        if has_doubt {
            // An earlier primary of this group may have dealt it as well.
            return;
        }
        for piece in dealing.job.waiting.take_doubtful(range) {
            if is_primary {
                let stage = Stage::Asked(TaskState::Returned);
                let asked = Dealt { end: piece.end, attempt: 0, worker: NOBODY, deal: 0, stage };
                dealing.put(piece.start, asked);
            } else {
                dealing.job.waiting.open(piece);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deal_ends_where_another_number_begins() {
        let mut moves = Moves::default();
        assert_eq!(moves.first_of(3..9), (3..9, Epoch(0)));
        moves.note(Epoch(7), 10..20);
        moves.note(Epoch(8), 20..25);
        assert_eq!(moves.first_of(0..30), (0..10, Epoch(0)));
        assert_eq!(moves.first_of(10..30), (10..20, Epoch(7)));
        assert_eq!(moves.first_of(15..18), (15..18, Epoch(7)));
        assert_eq!(moves.first_of(20..30), (20..25, Epoch(8)));
        assert_eq!(moves.first_of(25..30), (25..30, Epoch(0)));
    }
}
