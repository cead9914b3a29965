//! A set of task indices as ranges: what is granted, what waits to be dealt.

use std::collections::BTreeMap;
use std::ops::Range;

use node::logic::ranges::gaps;

/// Ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// First index → index behind the last.
    runs: BTreeMap<u64, u64>,
    /// Number of indices.
    count: u64,
}

impl Ranges {
    /// Number of indices in the set.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// True where the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.runs.iter().map(|(&first, &end)| first..end)
    }

    /// The range in which `index` is.
    #[must_use]
    pub fn containing(&self, index: u64) -> Option<Range<u64>> {
        let (&first, &end) = self.runs.range(..=index).next_back()?;
        (index < end).then_some(first..end)
    }

    /// True where `index` is in the set.
    #[must_use]
    pub fn contains(&self, index: u64) -> bool {
        self.containing(index).is_some()
    }

    /// The pieces of `range` that are in the set.
    #[must_use]
    pub fn within(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let mut pieces = Vec::new();
        let before = self.runs.range(..range.start).next_back().map(|(&first, _)| first);
        for (&first, &end) in self.runs.range(before.unwrap_or(range.start)..range.end) {
            let piece = first.max(range.start)..end.min(range.end);
            if piece.start < piece.end {
                pieces.push(piece);
            }
        }
        pieces
    }

    /// The pieces of `range` that are not in the set.
    #[must_use]
    pub fn missing(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        gaps(range.clone(), self.within(range))
    }

    /// Adds all of `range`.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.start >= range.end {
            return;
        }
        self.remove(range.clone());
        self.count += range.end - range.start;
        let (mut first, mut end) = (range.start, range.end);
        if let Some((&before, &before_end)) = self.runs.range(..first).next_back()
            && before_end == first
        {
            first = before;
        }
        if let Some(after_end) = self.runs.remove(&end) {
            end = after_end;
        }
        self.runs.insert(first, end);
    }

    /// Takes all of `range` away.
    pub fn remove(&mut self, range: Range<u64>) {
        for piece in self.within(&range) {
            let before = self.runs.range(..=piece.start).next_back();
            let Some((&first, &end)) = before else {
                continue;
            };
            self.runs.remove(&first);
            if first < piece.start {
                self.runs.insert(first, piece.start);
            }
            if piece.end < end {
                self.runs.insert(piece.end, end);
            }
            self.count -= piece.end - piece.start;
        }
    }

    /// Takes the lowest run away, at most `limit` indices of it.
    pub fn take_first(&mut self, limit: u64) -> Option<Range<u64>> {
        let (&first, &end) = self.runs.first_key_value()?;
        let taken = first..end.min(first.saturating_add(limit));
        self.remove(taken.clone());
        (taken.start < taken.end).then_some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_agree_with_a_plain_array(
            steps in prop::collection::vec((0u64..64, 0u64..20, any::<bool>()), 1..40),
            asked in (0u64..64, 0u64..64),
        ) {
            let mut ranges = Ranges::default();
            let mut plain = [false; 96];
            for (first, count, is_insert) in steps {
                let range = first..first + count;
                plain[first as usize..(first + count) as usize].fill(is_insert);
                if is_insert { ranges.insert(range) } else { ranges.remove(range) }
            }
            let members: Vec<u64> = ranges.iter().flatten().collect();
            let expected: Vec<u64> = (0..96).filter(|&at| plain[at as usize]).collect();
            prop_assert_eq!(&members, &expected);
            prop_assert_eq!(ranges.count(), expected.len() as u64);
            let asked = asked.0..asked.0.max(asked.1);
            let within: Vec<u64> = ranges.within(&asked).into_iter().flatten().collect();
            let missing: Vec<u64> = ranges.missing(&asked).into_iter().flatten().collect();
            let (inside, outside): (Vec<u64>, Vec<u64>) =
                asked.partition(|&at| plain[at as usize]);
            prop_assert_eq!(within, inside);
            prop_assert_eq!(missing, outside);
        }

        #[test]
        fn taking_the_first_takes_each_index_once(
            runs in prop::collection::vec((0u64..200, 1u64..20), 1..10),
            limit in 1u64..7,
        ) {
            let mut ranges = Ranges::default();
            for (first, count) in runs {
                ranges.insert(first..first + count);
            }
            let expected: Vec<u64> = ranges.iter().flatten().collect();
            let mut taken = Vec::new();
            while let Some(range) = ranges.take_first(limit) {
                prop_assert!(range.end - range.start <= limit);
                taken.extend(range);
            }
            prop_assert_eq!(taken, expected);
            prop_assert!(ranges.is_empty());
        }
    }
}
