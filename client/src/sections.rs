//! What segments have of a job, section by section, read from storage.
//!
//! The masters list the segments of a job and which tasks each counts for; a segment may hold more
//! than that, such as what a superseded attempt wrote. A segment of one block is fetched whole, a
//! few ahead of whoever reads. A larger one, into which others were folded, is read by ranges: its
//! index, then the sections that are wanted. A fold may take effect while the list is read: what it
//! made stands behind what it replaced, so nothing is missed, and tasks that were met are passed
//! over. Segments that are no longer listed stay on storage. Deliberately not here: what is done
//! with the outputs.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use proto::ids::{FileId, JobId};
use proto::limits::{SEGMENT_BYTES, SEGMENT_INDEX_BYTES};
use proto::segment::{
    AccountingEntry, MAGIC, Section, SegmentError, SegmentSection, TAIL_BYTES, TaskOutputs,
    read_index, read_tail,
};

use crate::blocking::{Begun, Client};
use crate::error::ClientError;
use crate::listed::add;
use crate::outputs::accepted;

/// Segments, or sections of a large one, that are fetched ahead: 16 MiB of memory.
const AHEAD: usize = 4;

/// Bytes at the end of a large segment that are fetched first: the index of most.
const END_BYTES: u64 = 256 << 10;

impl Client {
    /// What segments have of tasks of a job, in the order in which they are listed.
    #[must_use]
    pub fn sections(&self, job: JobId, tasks: Range<u64>) -> Sections<'_> {
        self.listed_sections(job, tasks, 0)
    }

    /// What the segments of a fold have of its job, in the order in which they are listed; nothing
    /// where the fold is over.
    #[must_use]
    pub fn fold_sections(&self, job: JobId, fold: u64) -> Sections<'_> {
        self.listed_sections(job, 0..u64::MAX, fold)
    }

    fn listed_sections(&self, job: JobId, tasks: Range<u64>, fold: u64) -> Sections<'_> {
        Sections {
            client: self,
            job,
            tasks,
            fold,
            next_page: Some(0),
            seen: BTreeMap::new(),
            listed: VecDeque::new(),
            listed_count: 0,
            fetched: VecDeque::new(),
            large: None,
            ready: VecDeque::new(),
        }
    }
}

/// What one segment has of a job, as far as it counts.
#[derive(Clone, Debug)]
pub struct JobSection {
    /// How many segments were listed before this one.
    pub position: u64,
    /// The tasks that count, in their order.
    tasks: Arc<[Range<u64>]>,
    head: SegmentSection,
    bytes: Arc<[u8]>,
    /// Where the section lies in `bytes`.
    place: Range<usize>,
}

impl JobSection {
    fn new(
        position: u64,
        tasks: &Arc<[Range<u64>]>,
        head: SegmentSection,
        bytes: &Arc<[u8]>,
        place: Range<usize>,
    ) -> Result<JobSection, ClientError> {
        let (tasks, bytes) = (Arc::clone(tasks), Arc::clone(bytes));
        let section = JobSection { position, tasks, head, bytes, place };
        section.read()?;
        Ok(section)
    }

    fn read(&self) -> Result<Section<'_>, ClientError> {
        let bytes = self.bytes.get(self.place.clone()).unwrap_or_default();
        Ok(self.head.read(bytes)?)
    }

    fn counts(&self, task: u64) -> bool {
        let behind = self.tasks.partition_point(|range| range.end <= task);
        self.tasks.get(behind).is_some_and(|range| range.contains(&task))
    }

    /// What the attempts used that count, in the order of the tasks: one entry for each task.
    ///
    /// # Errors
    /// [`ClientError::Segment`].
    pub fn entries(&self) -> Result<Vec<AccountingEntry>, ClientError> {
        let section = self.read()?;
        let mut found: Vec<AccountingEntry> = Vec::new();
        for entry in section.entries.iter().filter(|entry| self.counts(entry.task_index)) {
            match found.last_mut().filter(|last| last.task_index == { entry.task_index }) {
                // The attempts of a task stand in their order, and the last one counts.
                Some(last) => *last = *entry,
                None => found.push(*entry),
            }
        }
        Ok(found)
    }

    /// What the attempts wrote that count, in the order of the tasks. Tasks that wrote nothing are
    /// left out.
    ///
    /// # Errors
    /// [`ClientError::Segment`].
    pub fn outputs(&self) -> Result<Vec<TaskOutputs>, ClientError> {
        Ok(accepted(&self.read()?, |task| self.counts(task)))
    }
}

/// What segments have of a job, one section after the other.
pub struct Sections<'a> {
    client: &'a Client,
    job: JobId,
    tasks: Range<u64>,
    /// Only what this fold replaces; 0 for everything.
    fold: u64,
    /// Where the list of segments goes on.
    next_page: Option<u64>,
    /// Tasks that were listed: beginnings and ends of runs.
    seen: BTreeMap<u64, u64>,
    /// Segments to be fetched, with the tasks that they count for.
    listed: VecDeque<(FileId, Vec<Range<u64>>)>,
    /// Segments that were taken from the list.
    listed_count: u64,
    fetched: VecDeque<Fetched>,
    large: Option<Large>,
    ready: VecDeque<JobSection>,
}

/// A segment that is under way.
struct Fetched {
    position: u64,
    file: FileId,
    tasks: Arc<[Range<u64>]>,
    bytes: Begun<Vec<u8>>,
}

/// A segment that is read section by section.
struct Large {
    position: u64,
    file: FileId,
    tasks: Arc<[Range<u64>]>,
    wanted: VecDeque<SegmentSection>,
    under_way: VecDeque<(SegmentSection, Begun<Vec<u8>>)>,
}

impl Sections<'_> {
    /// The next section that has tasks which count; `None` where there are no more at present.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn next_section(&mut self) -> Result<Option<JobSection>, ClientError> {
        loop {
            if let Some(section) = self.ready.pop_front() {
                return Ok(Some(section));
            }
            if let Some(large) = &mut self.large {
                match large.next_section(self.client)? {
                    Some(section) => return Ok(Some(section)),
                    None => self.large = None,
                }
                continue;
            }
            self.fetch_ahead()?;
            let Some(Fetched { position, file, tasks, bytes }) = self.fetched.pop_front() else {
                return Ok(None);
            };
            match bytes.wait()? {
                Ok(bytes) => self.take_whole(position, &tasks, bytes)?,
                Err(ClientError::TooLarge { length, .. }) => {
                    let index = fetch_index(self.client, file, length)?;
                    let wanted = wanted(&index, self.job, &tasks).copied().collect();
                    let under_way = VecDeque::new();
                    self.large = Some(Large { position, file, tasks, wanted, under_way });
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// How many segments were listed so far; all of them where there is no next section.
    #[must_use]
    pub fn listed_count(&self) -> u64 {
        self.listed_count + self.listed.len() as u64
    }

    fn take_whole(
        &mut self,
        position: u64,
        tasks: &Arc<[Range<u64>]>,
        bytes: Vec<u8>,
    ) -> Result<(), ClientError> {
        let index = index_of(&bytes)?;
        let bytes: Arc<[u8]> = bytes.into();
        for head in wanted(&index, self.job, tasks) {
            let place = head.bytes().ok_or(SegmentError::Index)?;
            let place = place.start as usize..place.end as usize;
            self.ready.push_back(JobSection::new(position, tasks, *head, &bytes, place)?);
        }
        Ok(())
    }

    fn fetch_ahead(&mut self) -> Result<(), ClientError> {
        while self.fetched.len() < AHEAD {
            let Some((file, tasks)) = self.listed.pop_front() else {
                if !self.list()? {
                    return Ok(());
                }
                continue;
            };
            let bytes = self.client.begin_get(file, 0..u64::MAX, SEGMENT_BYTES as u64);
            let (position, tasks) = (self.listed_count, tasks.into());
            self.listed_count += 1;
            self.fetched.push_back(Fetched { position, file, tasks, bytes });
        }
        Ok(())
    }

    /// Fetches a page of the list; false where there is none.
    fn list(&mut self) -> Result<bool, ClientError> {
        let Some(after) = self.next_page else {
            return Ok(false);
        };
        let page = self.client.segments_of_fold(self.job, after, self.fold)?;
        self.next_page = page.next;
        for item in page.items {
            let wanted = item.tasks.start.max(self.tasks.start)..item.tasks.end.min(self.tasks.end);
            let mut new = match wanted.is_empty() {
                true => Vec::new(),
                false => add(&mut self.seen, wanted),
            };
            // A fold is told how many of its segments were read, whatever is in them.
            if new.is_empty() && self.fold == 0 {
                continue;
            }
            match self.listed.back_mut() {
                Some((segment, ranges)) if *segment == item.segment => {
                    ranges.append(&mut new);
                    // A file that is listed twice has them in any order.
                    ranges.sort_by_key(|range| range.start);
                }
                _ => self.listed.push_back((item.segment, new)),
            }
        }
        Ok(true)
    }
}

impl Large {
    fn next_section(&mut self, client: &Client) -> Result<Option<JobSection>, ClientError> {
        while self.under_way.len() < AHEAD
            && let Some(head) = self.wanted.pop_front()
        {
            self.under_way.push_back((head, begin_section(client, self.file, &head)?));
        }
        let Some((head, bytes)) = self.under_way.pop_front() else {
            return Ok(None);
        };
        let bytes: Arc<[u8]> = bytes.wait()??.into();
        let place = 0..bytes.len();
        Ok(Some(JobSection::new(self.position, &self.tasks, head, &bytes, place)?))
    }
}

/// The sections of a job that have tasks of some ranges, which are in order.
pub(crate) fn wanted<'a>(
    index: &'a [SegmentSection],
    job: JobId,
    tasks: &'a [Range<u64>],
) -> impl Iterator<Item = &'a SegmentSection> {
    index.iter().filter(move |head| {
        let behind = tasks.partition_point(|range| range.end <= head.first_task);
        let meets = tasks.get(behind).is_some_and(|range| range.start <= head.last_task);
        meets && JobId::from(head.job_uuid) == job
    })
}

/// The index of a segment that is in memory.
pub(crate) fn index_of(bytes: &[u8]) -> Result<Vec<SegmentSection>, ClientError> {
    let tail = bytes.last_chunk::<TAIL_BYTES>().filter(|_| bytes.starts_with(&MAGIC));
    let index = read_tail(tail.ok_or(SegmentError::NotASegment)?, bytes.len() as u64)?;
    let within = bytes.get(index.start as usize..index.end as usize);
    Ok(read_index(within.ok_or(SegmentError::Index)?, index.start)?.to_vec())
}

/// The index of a segment of so many bytes on storage.
pub(crate) fn fetch_index(
    client: &Client,
    file: FileId,
    length: u64,
) -> Result<Vec<SegmentSection>, ClientError> {
    let from = length.saturating_sub(END_BYTES);
    let end = client.get_range(file, from..length)?;
    let tail = end.last_chunk::<TAIL_BYTES>().ok_or(SegmentError::NotASegment)?;
    let index = read_tail(tail, length)?;
    if index.end - index.start > SEGMENT_INDEX_BYTES as u64 {
        return Err(SegmentError::Index.into());
    }
    let bytes = match index.start.checked_sub(from) {
        Some(start) => {
            let within = start as usize..(index.end - from) as usize;
            end.get(within).ok_or(SegmentError::Index)?.to_vec()
        }
        None => client.get_range(file, index.clone())?,
    };
    Ok(read_index(&bytes, index.start)?.to_vec())
}

/// Begins to fetch a section of a large segment.
pub(crate) fn begin_section(
    client: &Client,
    file: FileId,
    head: &SegmentSection,
) -> Result<Begun<Vec<u8>>, ClientError> {
    let range = head.bytes().ok_or(SegmentError::Index)?;
    if range.end - range.start > SEGMENT_BYTES as u64 {
        return Err(SegmentError::Section { position: 0 }.into());
    }
    Ok(client.begin_get(file, range, SEGMENT_BYTES as u64))
}

#[cfg(test)]
mod tests {
    use proto::segment::{NewSection, SegmentWriter};

    use super::*;

    fn entry(task_index: u64, attempt: u64) -> AccountingEntry {
        AccountingEntry { task_index, attempt, ..AccountingEntry::default() }
    }

    /// A segment in which a job has three sections and another one stands between them.
    fn segment() -> Vec<u8> {
        let mut writer = SegmentWriter::default();
        let mut bytes = MAGIC.to_vec();
        for (job, tasks) in [(1, 0..10), (2, 3..4), (1, 10..12), (1, 40..60)] {
            let entries: Vec<_> = tasks.map(|task| entry(task, 1)).collect();
            let section = NewSection { job: JobId(job), entries: &entries, outputs: &[] };
            writer.section(&section, &mut bytes);
        }
        writer.finish(&mut bytes);
        bytes
    }

    #[test]
    fn only_sections_with_wanted_tasks_are_read() {
        let index = index_of(&segment()).unwrap();
        let firsts = |ranges: &[(u64, u64)]| -> Vec<u64> {
            let ranges: Vec<Range<u64>> = ranges.iter().map(|&(from, to)| from..to).collect();
            wanted(&index, JobId(1), &ranges).map(|head| head.first_task).collect()
        };
        assert_eq!(firsts(&[(0, 60)]), [0, 10, 40]);
        assert_eq!(firsts(&[(9, 10), (12, 40)]), [0]);
        assert_eq!(firsts(&[(11, 12), (59, 70)]), [10, 40]);
        assert!(firsts(&[(12, 40)]).is_empty() && firsts(&[(60, 61)]).is_empty());
        assert!(firsts(&[]).is_empty());
    }

    #[test]
    fn only_the_last_attempt_of_tasks_that_count_has_an_entry() {
        let entries = [entry(1, 5), entry(2, 5), entry(2, 6), entry(3, 7), entry(9, 1)];
        let bytes: Arc<[u8]> = proto::segment::encode(&[NewSection {
            job: JobId(1),
            entries: &entries,
            outputs: &[],
        }])
        .into();
        let head = index_of(&bytes).unwrap()[0];
        let place = head.bytes().unwrap();
        let place = place.start as usize..place.end as usize;
        let tasks: Arc<[Range<u64>]> = [2..3, 8..20].into();
        let section = JobSection::new(0, &tasks, head, &bytes, place.clone()).unwrap();
        assert_eq!(section.entries().unwrap(), [entries[2], entries[4]]);
        assert!(section.outputs().unwrap().is_empty());
        let cut = JobSection::new(0, &tasks, head, &bytes, place.start..place.end - 1);
        assert!(matches!(cut, Err(ClientError::Segment(_))));
    }
}
