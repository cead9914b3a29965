//! Sets and runs of task indices: how the state stays small whatever the number of tasks.
//!
//! [`TaskSet`] is a compressed set; [`RunMap`] attaches a value to runs of indices. Both are shared
//! until they are changed, so that a snapshot of the state costs nothing.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use node::logic::ranges::gaps;
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

/// A set of task indices.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskSet {
    members: Arc<RoaringBitmap>,
}

/// Task indices are below 2^32 ([`proto::limits::TASKS_PER_JOB`]); a larger one is no member.
fn index(task: u64) -> u32 {
    u32::try_from(task).unwrap_or(u32::MAX)
}

/// The bitmap's range of `range`; `None` where it is empty.
fn bounds(range: &Range<u64>) -> Option<std::ops::RangeInclusive<u32>> {
    (range.start < range.end).then(|| index(range.start)..=index(range.end - 1))
}

impl TaskSet {
    /// Number of members.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.members.len()
    }

    /// True where there is no member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// True where `task` is a member.
    #[must_use]
    pub fn contains(&self, task: u64) -> bool {
        u32::try_from(task).is_ok_and(|task| self.members.contains(task))
    }

    /// Adds all of `range`.
    pub fn insert(&mut self, range: Range<u64>) {
        if let Some(bounds) = bounds(&range) {
            Arc::make_mut(&mut self.members).insert_range(bounds);
        }
    }

    /// Rewrites the set in its smallest form, for one that no longer changes.
    pub fn compress(&mut self) {
        Arc::make_mut(&mut self.members).optimize();
    }

    /// The next run of members at or behind `from` and before `end`, found without a visit to each
    /// member.
    #[must_use]
    pub fn next_run(&self, from: u64, end: u64) -> Option<Range<u64>> {
        let bounds = bounds(&(from..end))?;
        let first = u64::from(self.members.range(bounds).next()?);
        let mut known_end = first + 1;
        let mut step = 1u64;
        // Gallop, then halve: a run of millions costs some forty look-ups.
        while known_end < end {
            let probe = (known_end + step).min(end);
            if self.contains_all(known_end..probe) {
                known_end = probe;
                step = step.saturating_mul(2);
            } else if step == 1 {
                break;
            } else {
                step /= 2;
            }
        }
        Some(first..known_end)
    }

    /// The runs of members within `range`, in order.
    pub fn runs(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let mut at = range.start;
        std::iter::from_fn(move || {
            let run = self.next_run(at, range.end)?;
            at = run.end;
            Some(run)
        })
    }

    /// True where every index of `range` is a member.
    #[must_use]
    pub fn contains_all(&self, range: Range<u64>) -> bool {
        bounds(&range).is_none_or(|bounds| self.members.contains_range(bounds))
    }
}

/// Values attached to runs of indices; runs with equal values that touch are one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunMap<V> {
    /// First index → (index behind the last, value).
    runs: Arc<BTreeMap<u64, (u64, V)>>,
}

impl<V> Default for RunMap<V> {
    fn default() -> RunMap<V> {
        RunMap { runs: Arc::default() }
    }
}

impl<V: Clone + PartialEq> RunMap<V> {
    /// Number of runs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// True where no index has a value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The runs with their values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Range<u64>, &V)> {
        self.runs.iter().map(|(&first, (end, value))| (first..*end, value))
    }

    /// Cuts `range` where the value changes: each piece with its value, or without one.
    #[must_use]
    pub fn split(&self, range: Range<u64>) -> Vec<(Range<u64>, Option<V>)> {
        let mut pieces = Vec::new();
        let mut at = range.start;
        let from =
            self.runs.range(..=range.start).next_back().map_or(range.start, |(&first, _)| first);
        for (&first, (end, value)) in self.runs.range(from..range.end.max(from)) {
            let (first, end) = (first.max(range.start), (*end).min(range.end));
            if first >= end {
                continue;
            }
            if at < first {
                pieces.push((at..first, None));
            }
            pieces.push((first..end, Some(value.clone())));
            at = end;
        }
        if at < range.end {
            pieces.push((at..range.end, None));
        }
        pieces
    }

    /// The first run that touches `range`, as far as it lies inside.
    #[must_use]
    pub fn next_run(&self, range: Range<u64>) -> Option<(Range<u64>, &V)> {
        let before = self.runs.range(..range.start).next_back();
        let inside = self.runs.range(range.start..range.end.max(range.start)).next();
        let mut found = before.into_iter().chain(inside);
        found
            .find(|(_, (end, _))| *end > range.start)
            .map(|(&first, (end, value))| (first.max(range.start)..(*end).min(range.end), value))
            .filter(|(run, _)| !run.is_empty())
    }

    /// Takes the values of `range` away.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.start >= range.end || self.runs.is_empty() {
            return;
        }
        let runs = Arc::make_mut(&mut self.runs);
        if let Some((&first, &(end, ref value))) = runs.range(..range.start).next_back()
            && end > range.start
        {
            let value = value.clone();
            if end > range.end {
                runs.insert(range.end, (end, value.clone()));
            }
            runs.insert(first, (range.start, value));
        }
        let inside: Vec<u64> = runs.range(range.clone()).map(|(&first, _)| first).collect();
        for first in inside {
            if let Some((end, value)) = runs.remove(&first)
                && end > range.end
            {
                runs.insert(range.end, (end, value));
            }
        }
    }

    /// Gives all of `range` a value.
    pub fn set(&mut self, range: Range<u64>, value: V) {
        if range.start >= range.end {
            return;
        }
        self.remove(range.clone());
        let runs = Arc::make_mut(&mut self.runs);
        let (mut first, mut end) = (range.start, range.end);
        if let Some((&before, (before_end, before_value))) = runs.range(..first).next_back()
            && *before_end == first
            && *before_value == value
        {
            first = before;
        }
        if let Some((after_end, after_value)) = runs.get(&end)
            && *after_value == value
        {
            let joined = end;
            end = *after_end;
            runs.remove(&joined);
        }
        runs.insert(first, (end, value));
    }
}

/// The pieces of `range` that are members of none of `sets`.
#[must_use]
pub fn outside(range: Range<u64>, sets: &[&TaskSet]) -> Vec<Range<u64>> {
    let mut pieces = vec![range];
    for set in sets.iter().filter(|set| !set.is_empty()) {
        let left = pieces.into_iter().flat_map(|piece| gaps(piece.clone(), set.runs(piece)));
        pieces = left.collect();
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range_of((first, end): (u64, u64)) -> Range<u64> {
        first..first.max(end)
    }

    proptest! {
        #[test]
        fn a_run_map_agrees_with_a_plain_array(
            steps in prop::collection::vec((0u64..64, 0u64..20, prop::option::of(0u8..3)), 1..40),
            asked in (0u64..64, 0u64..64),
        ) {
            let mut map = RunMap::default();
            let mut plain = [None; 96];
            for (first, count, value) in steps {
                match value {
                    Some(value) => map.set(first..first + count, value),
                    None => map.remove(first..first + count),
                }
                for slot in &mut plain[first as usize..(first + count) as usize] {
                    *slot = value;
                }
            }
            let mut seen = Vec::new();
            for (run, value) in map.split(range_of(asked)) {
                seen.extend(run.map(|_| value));
            }
            let range = asked.0 as usize..asked.0.max(asked.1) as usize;
            prop_assert_eq!(&seen[..], &plain[range]);
            let found = map.next_run(range_of(asked)).map(|(run, value)| (run, *value));
            let first = map.split(range_of(asked)).into_iter().find(|(_, value)| value.is_some());
            prop_assert_eq!(found, first.and_then(|(run, value)| Some((run, value?))));
            let mut end_before = None;
            for (run, value) in map.iter() {
                prop_assert!(run.start < run.end);
                prop_assert!(end_before != Some((run.start, *value)), "touching runs are one");
                end_before = Some((run.end, *value));
            }
        }

        #[test]
        fn what_is_outside_agrees_with_a_plain_array(
            inserted in prop::collection::vec((0u64..200, 0u64..50), 0..12),
            asked in (0u64..250, 0u64..250),
        ) {
            let mut sets = [TaskSet::default(), TaskSet::default()];
            let mut plain = [false; 300];
            for (at, (first, count)) in inserted.into_iter().enumerate() {
                sets[at % 2].insert(first..first + count);
                plain[first as usize..(first + count) as usize].fill(true);
            }
            let range = asked.0..asked.0.max(asked.1);
            let mut left: Vec<u64> = Vec::new();
            for piece in outside(range.clone(), &[&sets[0], &sets[1]]) {
                left.extend(piece);
            }
            let expected: Vec<u64> = range.filter(|&task| !plain[task as usize]).collect();
            prop_assert_eq!(left, expected);
        }
    }
}
