//! The segments of one job: which tasks' results each holds, and which of them are being folded.
//!
//! Part of the replicated state. Positions in the list never change, and what was listed only ever
//! moves to a higher one, so that a reader who goes on behind the last one that it read misses
//! nothing: what a fold makes stands at the end. When a fold begins, and who carries it out, is the
//! matter of `folds.rs`.

use std::collections::BTreeMap;
use std::ops::Range;

use proto::ids::FileId;
use serde::{Deserialize, Serialize};

/// The level of a segment that is as large as one may be: it is folded no more.
pub const FULL: u8 = u8::MAX;

/// A segment that is reported once more gets its ranges joined if it is among the last so many:
/// more than one is under way of few workers only.
const RECENT: usize = 8;

/// Ranges of a job accepted from one segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Its position: counted from 1 in the order in which the segments were listed.
    pub number: u64,
    /// The segment, a file on storage.
    pub file: FileId,
    /// How often what it holds was folded; [`FULL`] where it is not folded any more.
    pub level: u8,
    /// The fold that replaces it; 0 for none. Its ranges do not change from then on.
    pub fold: u64,
    /// The tasks whose recorded result it holds, in their order.
    pub tasks: Vec<Range<u64>>,
}

/// The segments of one job, in the order of their numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SegmentList {
    segments: Vec<Segment>,
    last_number: u64,
    /// Segments that no fold has, by level.
    free: BTreeMap<u8, u64>,
}

impl SegmentList {
    /// Number of segments.
    #[must_use]
    pub fn len(&self) -> usize {
        self.segments.len()
    }

    /// True where nothing is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// The segments, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter()
    }

    /// The segments behind a number; with a fold's number only those that it replaces.
    pub fn behind(&self, number: u64, fold: u64) -> impl Iterator<Item = &Segment> {
        let from = self.segments.partition_point(|segment| segment.number <= number);
        let behind = self.segments.get(from..).unwrap_or_default();
        behind.iter().filter(move |segment| fold == 0 || segment.fold == fold)
    }

    /// Segments of a level that no fold has.
    #[must_use]
    pub fn free_count(&self, level: u8) -> u64 {
        self.free.get(&level).copied().unwrap_or(0)
    }

    /// The levels that have segments which no fold has.
    pub fn free_levels(&self) -> impl Iterator<Item = (u8, u64)> {
        self.free.iter().map(|(&level, &count)| (level, count))
    }

    /// Notes that `file` holds what these tasks left.
    pub fn add(&mut self, file: FileId, tasks: Vec<Range<u64>>) {
        let mut recent = self.segments.iter_mut().rev().take(RECENT);
        let known = recent.find(|it| it.file == file && it.fold == 0 && it.level == 0);
        match known {
            Some(segment) => {
                segment.tasks.extend(tasks);
                join(&mut segment.tasks);
            }
            None => self.push(file, 0, tasks),
        }
    }

    fn push(&mut self, file: FileId, level: u8, mut tasks: Vec<Range<u64>>) {
        join(&mut tasks);
        self.last_number += 1;
        let number = self.last_number;
        self.segments.push(Segment { number, file, level, fold: 0, tasks });
        *self.free.entry(level).or_default() += 1;
    }

    /// Gives the first free segments of a level, at most `limit`, to a fold. Returns how many it
    /// has. A segment that is listed twice among them is listed once from then on, at the last of
    /// its positions: a reader who is between the two has yet to meet that one.
    pub fn begin_fold(&mut self, fold: u64, level: u8, limit: u64) -> u64 {
        // For each file, its last position and everything that it holds.
        let mut files: BTreeMap<FileId, (u64, Vec<Range<u64>>)> = BTreeMap::new();
        let mut taken = 0;
        for segment in &mut self.segments {
            if segment.level == level && segment.fold == 0 && taken < limit {
                taken += 1;
                segment.fold = fold;
                let (last, tasks) = files.entry(segment.file).or_default();
                *last = segment.number;
                tasks.append(&mut segment.tasks);
            }
        }
        let count = files.len() as u64;
        self.segments.retain_mut(|segment| {
            if segment.fold != fold {
                return true;
            }
            let last = files.get_mut(&segment.file).filter(|(last, _)| *last == segment.number);
            let Some((_, tasks)) = last else { return false };
            segment.tasks = std::mem::take(tasks);
            join(&mut segment.tasks);
            true
        });
        self.take_free(level, taken);
        count
    }

    /// Replaces the first `count` segments of a fold by `file`, which is nil where nothing of them
    /// was accepted. The others are free again.
    pub fn end_fold(&mut self, fold: u64, count: u64, file: FileId, level: u8) {
        let mut left = count;
        let mut tasks = Vec::new();
        let free = &mut self.free;
        self.segments.retain_mut(|segment| {
            if segment.fold != fold {
                return true;
            }
            if left == 0 {
                segment.fold = 0;
                *free.entry(segment.level).or_default() += 1;
                return true;
            }
            left -= 1;
            tasks.append(&mut segment.tasks);
            false
        });
        if !file.is_nil() {
            self.push(file, level, tasks);
        }
    }

    fn take_free(&mut self, level: u8, count: u64) {
        let left = self.free_count(level).saturating_sub(count);
        if left == 0 {
            self.free.remove(&level);
        } else {
            self.free.insert(level, left);
        }
    }

    /// Segments that a fold has.
    #[must_use]
    pub fn count_of(&self, fold: u64) -> u64 {
        self.segments.iter().filter(|segment| segment.fold == fold).count() as u64
    }

    /// Walks the list and panics on a broken invariant.
    pub fn check_invariants(&self) {
        let mut free: BTreeMap<u8, u64> = BTreeMap::new();
        let mut before = 0;
        for segment in &self.segments {
            assert!(segment.number > before, "positions ascend");
            before = segment.number;
            if segment.fold == 0 {
                *free.entry(segment.level).or_default() += 1;
            }
            assert!(segment.tasks.is_sorted_by(|a, b| a.end < b.start), "ranges are joined");
        }
        assert!(before <= self.last_number, "a position that was not given out");
        assert_eq!(free, self.free, "the count of free segments");
    }
}

/// Sorts ranges and joins those that touch.
fn join(ranges: &mut Vec<Range<u64>>) {
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges.drain(..) {
        match joined.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    *ranges = joined;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(first: u64, end: u64) -> Vec<Range<u64>> {
        std::iter::once(first..end).collect()
    }

    fn list(count: u64) -> SegmentList {
        let mut list = SegmentList::default();
        for number in 0..count {
            list.add(FileId(u128::from(number) + 1), one(number * 10, number * 10 + 10));
        }
        list.check_invariants();
        list
    }

    fn numbers(list: &SegmentList) -> Vec<u64> {
        list.iter().map(|segment| segment.number).collect()
    }

    #[test]
    fn a_fold_replaces_its_segments_by_one_at_the_end() {
        let mut list = list(6);
        assert_eq!(list.begin_fold(9, 0, 4), 4);
        assert_eq!((list.free_count(0), list.count_of(9)), (2, 4));
        assert_eq!(list.behind(1, 9).map(|it| it.number).collect::<Vec<_>>(), [2, 3, 4]);
        list.end_fold(9, 4, FileId(77), 1);
        list.check_invariants();
        assert_eq!(numbers(&list), [5, 6, 7]);
        let folded = list.behind(6, 0).next().unwrap();
        assert_eq!((folded.file, folded.level, &folded.tasks), (FileId(77), 1, &one(0, 40)));
        assert_eq!(list.free_levels().collect::<Vec<_>>(), [(0, 2), (1, 1)]);
    }

    #[test]
    fn what_a_fold_had_no_room_for_is_free_again() {
        let mut list = list(5);
        list.begin_fold(9, 0, 5);
        list.end_fold(9, 2, FileId(77), FULL);
        list.check_invariants();
        assert_eq!(numbers(&list), [3, 4, 5, 6]);
        assert_eq!(list.free_levels().collect::<Vec<_>>(), [(0, 3), (FULL, 1)]);
    }

    #[test]
    fn a_segment_that_is_being_folded_keeps_its_ranges() {
        let mut list = list(2);
        list.begin_fold(9, 0, 2);
        list.add(FileId(1), one(90, 95));
        assert_eq!(numbers(&list), [1, 2, 3]);
        list.end_fold(9, 2, FileId(77), 1);
        let rest: Vec<_> = list.iter().map(|it| (it.file, it.tasks.clone())).collect();
        assert_eq!(rest, [(FileId(1), one(90, 95)), (FileId(77), one(0, 20))]);
        list.check_invariants();
    }

    #[test]
    fn a_segment_that_is_listed_twice_is_folded_once() {
        let mut list = list(20);
        // Too far behind to be joined.
        list.add(FileId(1), one(500, 501));
        assert_eq!((list.len(), list.begin_fold(9, 0, 100)), (21, 20));
        list.check_invariants();
        // At its last place: who has read the first one still meets everything.
        assert!(numbers(&list).into_iter().eq(2..=21));
        let last = list.behind(20, 9).next().unwrap();
        assert_eq!((last.file, &last.tasks), (FileId(1), &vec![0..10, 500..501]));
        list.end_fold(9, 20, FileId(0), 1);
        assert!(list.is_empty(), "what nobody accepted is not listed");
        list.check_invariants();
    }

    #[test]
    fn a_reader_in_the_middle_of_the_list_misses_nothing_when_a_fold_begins() {
        for page in 0..=23 {
            let mut list = list(20);
            for (file, first) in [(1, 500), (5, 600), (1, 700)] {
                list.add(FileId(file), one(first, first + 1));
            }
            let mut all: Vec<Range<u64>> = list.iter().flat_map(|it| it.tasks.clone()).collect();
            let first_page = list.iter().filter(|it| it.number <= page);
            let mut read: Vec<Range<u64>> = first_page.flat_map(|it| it.tasks.clone()).collect();
            list.begin_fold(9, 0, 100);
            list.check_invariants();
            read.extend(list.behind(page, 0).flat_map(|it| it.tasks.clone()));
            join(&mut all);
            join(&mut read);
            assert_eq!(read, all, "a first page that ends with {page}");
        }
    }
}
