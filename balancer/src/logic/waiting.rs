//! The tasks of a job that wait to be dealt, by what they wait for.
//!
//! A task is in one of three sets, or in none where it is dealt or has its outcome. What moves them
//! stands in `tasks.rs`.

use std::ops::Range;

use super::ranges::Ranges;

/// What waits of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    /// May be dealt.
    open: Ranges,
    /// May be dealt once the auxiliary knows of it.
    beyond: Ranges,
    /// An earlier primary may have dealt them.
    doubtful: Ranges,
}

impl Waiting {
    /// Number of tasks that may be dealt.
    pub(super) fn open_count(&self) -> u64 {
        self.open.count()
    }

    /// Number of tasks.
    pub(super) fn count(&self) -> u64 {
        self.open.count() + self.beyond.count() + self.doubtful.count()
    }

    /// True where a task waits for the auxiliary.
    pub(super) fn has_beyond(&self) -> bool {
        !self.beyond.is_empty()
    }

    /// True where the task waits because an earlier primary may have dealt it.
    pub(super) fn is_doubtful(&self, task: u64) -> bool {
        self.doubtful.contains(task)
    }

    /// True where the task waits.
    pub(super) fn contains(&self, task: u64) -> bool {
        [&self.open, &self.beyond, &self.doubtful].iter().any(|set| set.contains(task))
    }

    /// The pieces of `range` that wait, in order.
    pub(super) fn within(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let sets = [&self.open, &self.beyond, &self.doubtful];
        let mut pieces: Vec<Range<u64>> = sets.iter().flat_map(|set| set.within(range)).collect();
        pieces.sort_by_key(|piece| piece.start);
        pieces
    }

    /// `range` waits no more.
    pub(super) fn remove(&mut self, range: &Range<u64>) {
        for set in [&mut self.open, &mut self.beyond, &mut self.doubtful] {
            set.remove(range.clone());
        }
    }

    /// `range`, which did not wait, may be dealt.
    pub(super) fn open(&mut self, range: Range<u64>) {
        self.open.insert(range);
    }

    /// `range`, which did not wait, may be dealt once the auxiliary knows of it.
    pub(super) fn put_beyond(&mut self, range: Range<u64>) {
        self.beyond.insert(range);
    }

    /// Takes the first tasks that may be dealt, at most `limit`.
    pub(super) fn take_first(&mut self, limit: u64) -> Option<Range<u64>> {
        self.open.take_first(limit)
    }

    /// What waits of `range` is doubtful from now on.
    pub(super) fn doubt_waiting(&mut self, range: &Range<u64>) {
        for piece in self.within(range) {
            self.remove(&piece);
            self.doubtful.insert(piece);
        }
    }

    /// Takes what is doubtful of `range`.
    pub(super) fn take_doubtful(&mut self, range: &Range<u64>) -> Vec<Range<u64>> {
        let pieces = self.doubtful.within(range);
        pieces.iter().for_each(|piece| self.doubtful.remove(piece.clone()));
        pieces
    }

    /// Takes all that is doubtful, but for `kept`.
    pub(super) fn take_doubtful_but(&mut self, kept: &Ranges) -> Vec<Range<u64>> {
        let doubtful: Vec<Range<u64>> = self.doubtful.iter().collect();
        let taken: Vec<Range<u64>> = doubtful.iter().flat_map(|it| kept.missing(it)).collect();
        taken.iter().for_each(|piece| self.doubtful.remove(piece.clone()));
        taken
    }

    /// What of `range` waited for the auxiliary may be dealt.
    pub(super) fn admit(&mut self, range: &Range<u64>) {
        for piece in self.beyond.within(range) {
            self.beyond.remove(piece.clone());
            self.open.insert(piece);
        }
    }

    /// What of `range` may be dealt waits for the auxiliary from now on.
    pub(super) fn bar(&mut self, range: &Range<u64>) {
        for piece in self.open.within(range) {
            self.open.remove(piece.clone());
            self.beyond.insert(piece);
        }
    }

    /// The first of what waits for the auxiliary.
    pub(super) fn first_beyond(&self) -> Option<Range<u64>> {
        self.beyond.iter().next()
    }

    /// What may be dealt, in order.
    pub(super) fn open_within(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        self.open.within(range)
    }

    /// Panics where a task is in two sets.
    pub(super) fn check_invariants(&self) {
        for range in self.beyond.iter().chain(self.doubtful.iter()) {
            assert!(self.open.within(&range).is_empty(), "a task waits twice");
        }
        for range in self.doubtful.iter() {
            assert!(self.beyond.within(&range).is_empty(), "a task waits twice");
        }
    }
}
