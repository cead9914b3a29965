//! The segments of a job, task by task: which one holds what of which task, and the ones that were
//! read lately.
//!
//! What the masters list is in the order in which results were recorded; who reads a job from its
//! first task to its last meets the same few segments again and again. Deliberately not here: what
//! is looked for in a segment.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use node::logic::ranges::gaps;
use proto::ids::{FileId, JobId};
use proto::limits::SEGMENT_BYTES;
use proto::segment::{Section, Segment, SegmentSection};

use crate::blocking::Client;
use crate::error::ClientError;
use crate::sections::{begin_section, fetch_index};

/// Bytes of segments that are kept in case what is wanted next is in one of them: workers finish
/// tasks by turns, so that neighbours lie in as many segments as there are workers.
const KEPT_BYTES: usize = 128 << 20;

/// Segments, or sections of large ones, that are kept, and indexes of large ones (eyeballed).
const KEPT: usize = 4_096;

/// Which segment counts for which tasks of a job.
#[derive(Debug)]
pub(crate) struct Listed {
    job: JobId,
    /// Where the last page of the listing begins: what is new is there, or behind it.
    page: u64,
    /// Tasks that were found in the listing: beginnings and ends of runs.
    seen: BTreeMap<u64, u64>,
}

impl Listed {
    /// The list of a job, not read yet.
    pub(crate) fn new(job: JobId) -> Listed {
        Listed { job, page: 0, seen: BTreeMap::new() }
    }

    /// Reads what is new in the list; in the order of the tasks.
    ///
    /// # Errors
    /// [`ClientError`] where the masters do not answer.
    pub(crate) fn read(
        &mut self,
        client: &Client,
    ) -> Result<Vec<(Range<u64>, FileId)>, ClientError> {
        let mut new = Vec::new();
        loop {
            let page = client.segments(self.job, self.page)?;
            for listed in page.items {
                let runs = add(&mut self.seen, listed.tasks);
                new.extend(runs.into_iter().map(|run| (run, listed.segment)));
            }
            match page.next {
                Some(next) => self.page = next,
                None => break,
            }
        }
        new.sort_by_key(|(tasks, _)| tasks.start);
        Ok(new)
    }

    /// Reads the list from its beginning when it is read next. Masters may add a task's result to
    /// what they listed earlier.
    pub(crate) fn look_again(&mut self) {
        self.page = 0;
    }
}

/// Adds a run to a set of runs; what of it was not there.
pub(crate) fn add(seen: &mut BTreeMap<u64, u64>, run: Range<u64>) -> Vec<Range<u64>> {
    let before = seen.range(..run.start).next_back().filter(|(_, end)| **end >= run.start);
    let first = before.map_or(run.start, |(start, _)| *start);
    // Also those that only touch it: together they are one run from now on.
    let old: Vec<Range<u64>> =
        seen.range(first..=run.end).map(|(start, end)| *start..*end).collect();
    let new = gaps(run.clone(), old.iter().cloned());
    if !new.is_empty() {
        for old in &old {
            seen.remove(&old.start);
        }
        let end = old.last().map_or(run.end, |old| old.end.max(run.end));
        seen.insert(first, end);
    }
    new
}

/// What is wanted of the segments that were read, the last read last. Of a large segment, into which
/// others were folded, one section is read at a time.
#[derive(Debug)]
pub(crate) struct Segments<T> {
    job: JobId,
    read: VecDeque<Part<T>>,
    bytes: usize,
    /// The job's sections of large segments, in the order of their tasks.
    indexes: BTreeMap<FileId, Vec<SegmentSection>>,
}

/// A segment, or a section of one.
#[derive(Debug)]
struct Part<T> {
    file: FileId,
    /// The tasks of which it says all that the segment does.
    tasks: Range<u64>,
    bytes: usize,
    found: T,
}

impl<T> Segments<T> {
    /// Segments of a job, none read yet.
    pub(crate) fn new(job: JobId) -> Segments<T> {
        Segments { job, read: VecDeque::new(), bytes: 0, indexes: BTreeMap::new() }
    }

    /// What `wanted` finds in what a segment has of the job, fetched where it was not read lately:
    /// of a task and of those behind it, up to the one that is returned beside it.
    ///
    /// # Errors
    /// [`ClientError`] where storage does not answer, or the segment cannot be read.
    pub(crate) fn load(
        &mut self,
        client: &Client,
        file: FileId,
        task: u64,
        wanted: impl FnOnce(&[Section<'_>]) -> T,
    ) -> Result<(&T, u64), ClientError> {
        let is_it = |part: &Part<T>| part.file == file && part.tasks.contains(&task);
        let at = match self.read.iter().position(is_it) {
            Some(at) => at,
            None => {
                let part = self.fetch(client, file, task, wanted)?;
                self.bytes += part.bytes;
                self.read.push_back(part);
                while (self.bytes > KEPT_BYTES || self.read.len() > KEPT)
                    && self.read.len() > 1
                    && let Some(oldest) = self.read.pop_front()
                {
                    self.bytes -= oldest.bytes;
                }
                self.read.len() - 1
            }
        };
        let part = self.read.get(at).ok_or(ClientError::OtherAnswer)?;
        Ok((&part.found, part.tasks.end))
    }

    fn fetch(
        &mut self,
        client: &Client,
        file: FileId,
        task: u64,
        wanted: impl FnOnce(&[Section<'_>]) -> T,
    ) -> Result<Part<T>, ClientError> {
        if !self.indexes.contains_key(&file) {
            match client.begin_get(file, 0..u64::MAX, SEGMENT_BYTES as u64).wait()? {
                Ok(bytes) => {
                    let segment = Segment::open(&bytes)?;
                    let sections = segment.sections().iter().filter(|it| it.job == self.job);
                    let sections: Vec<Section<'_>> = sections.copied().collect();
                    let (tasks, found) = (0..u64::MAX, wanted(&sections));
                    return Ok(Part { file, tasks, bytes: bytes.len(), found });
                }
                Err(ClientError::TooLarge { length, .. }) => {
                    let mut index = fetch_index(client, file, length)?;
                    index.retain(|head| JobId::from(head.job_uuid) == self.job);
                    while self.indexes.len() >= KEPT {
                        self.indexes.pop_first();
                    }
                    self.indexes.insert(file, index);
                }
                Err(error) => return Err(error),
            }
        }
        let index = self.indexes.get(&file).map(Vec::as_slice).unwrap_or_default();
        let at = index.partition_point(|head| head.last_task < task);
        let before = at.checked_sub(1).and_then(|before| index.get(before));
        let first = before.map_or(0, |before| before.last_task.saturating_add(1));
        let Some(head) = index.get(at) else {
            return Ok(Part { file, tasks: first..u64::MAX, bytes: 0, found: wanted(&[]) });
        };
        let bytes = begin_section(client, file, head)?.wait()??;
        let found = wanted(&[head.read(&bytes)?]);
        let tasks = first..head.last_task.saturating_add(1);
        Ok(Part { file, tasks, bytes: bytes.len(), found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_runs_tells_what_is_new() {
        let mut seen = BTreeMap::new();
        for (run, new) in [
            ((10, 20), vec![(10, 20)]),
            ((10, 20), vec![]),
            ((30, 40), vec![(30, 40)]),
            ((15, 35), vec![(20, 30)]),
            ((5, 45), vec![(5, 10), (40, 45)]),
            ((45, 46), vec![(45, 46)]),
            ((0, 5), vec![(0, 5)]),
            ((3, 3), vec![]),
        ] {
            let found = add(&mut seen, run.0..run.1);
            assert!(found.iter().map(|it| (it.start, it.end)).eq(new), "{run:?}: {found:?}");
        }
        assert_eq!(seen, BTreeMap::from([(0, 46)]));
    }
}
