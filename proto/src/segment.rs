//! Segments: files in which a worker packs what it has to say of many tasks.
//!
//! A segment is [`MAGIC`], one section for each job, the index, and a [`SegmentTail`]. A section is
//! the job's [`AccountingEntry`]s, packed, in the order of their tasks. Who wants one job's range
//! reads the tail, then the index, then that section and nothing else. Written once and named by
//! its content, so it carries no checksum of its own. Deliberately not here: storing it, and which
//! of its entries the masters accepted.

use std::fmt;
use std::ops::Range;

use crate::ids::JobId;
use crate::macros::item;
use crate::wire::{WireUuid, bytes_of, items_of};

/// The first bytes of a segment; the last of them is the version.
pub const MAGIC: [u8; 8] = *b"RmdSegm\x01";

/// Bytes of an entry.
pub const ENTRY_BYTES: usize = size_of::<AccountingEntry>();
const _: () = assert!(ENTRY_BYTES == 64);

/// Bytes at the end of a segment from which everything else is found.
pub const TAIL_BYTES: usize = size_of::<SegmentTail>();

item! {
    /// What one attempt of a task used.
    "accounting_entry" AccountingEntry {
        /// The task.
        task_index: u64,
        /// The attempt whose outcome was recorded.
        attempt: u64,
        /// When it began by the worker's clock, microseconds since 1970.
        start_unix_us: u64,
        /// How long it took, in microseconds.
        wall_us: u64,
        /// CPU time that it used, in microseconds.
        cpu_us: u64,
        /// Largest resident memory that it had, in bytes.
        peak_memory_bytes: u64,
        /// The worker that executed it.
        node_uuid: WireUuid,
    }
}

item! {
    /// Where in a segment a job's entries stand.
    "segment_section" SegmentSection {
        /// The job.
        job_uuid: WireUuid,
        /// Where its first entry begins, in bytes from the start of the segment.
        offset: u64,
        /// Number of its entries.
        entry_count: u64,
        /// Lowest task of the section.
        first_task: u64,
        /// Highest task of the section.
        last_task: u64,
    }
}

item! {
    /// The end of a segment.
    "segment_tail" SegmentTail {
        /// Where the index begins, in bytes from the start of the segment; it ends here.
        index_offset: u64,
        /// The same bytes with which the segment begins.
        magic: u64,
    }
}

/// Bytes that are not a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentError {
    /// They do not begin and end as a segment of a version that is known.
    NotASegment,
    /// The index lies outside, or is not made of whole items.
    Index,
    /// A section lies outside, does not begin where the one before ends, or its entries are not in
    /// order.
    Section {
        /// Which of the index.
        position: usize,
    },
}

impl fmt::Display for SegmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SegmentError::NotASegment => f.write_str("no segment of a version that is known"),
            SegmentError::Index => f.write_str("the segment's index cannot be read"),
            SegmentError::Section { position } => {
                write!(f, "section {position} of the segment cannot be read")
            }
        }
    }
}

impl std::error::Error for SegmentError {}

/// Packs entries into a segment: one section for each job, in the order given. The entries of a
/// section are in the order of their tasks.
///
/// # Panics
/// If a section is empty or out of order: a bug of ours.
#[must_use]
pub fn encode(sections: &[(JobId, &[AccountingEntry])]) -> Vec<u8> {
    let entries: usize = sections.iter().map(|(_, entries)| entries.len()).sum();
    let index_bytes = sections.len() * size_of::<SegmentSection>();
    let mut bytes =
        Vec::with_capacity(MAGIC.len() + entries * ENTRY_BYTES + index_bytes + TAIL_BYTES);
    bytes.extend_from_slice(&MAGIC);
    let mut index = Vec::with_capacity(sections.len());
    for (job, entries) in sections {
        assert!(are_in_order(entries), "the entries of {job} are out of order");
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            panic!("a section of {job} without entries");
        };
        index.push(SegmentSection {
            job_uuid: job.to_wire(),
            offset: bytes.len() as u64,
            entry_count: entries.len() as u64,
            first_task: first.task_index,
            last_task: last.task_index,
        });
        bytes.extend_from_slice(bytes_of(entries));
    }
    let index_offset = bytes.len() as u64;
    bytes.extend_from_slice(bytes_of(&index));
    let tail = SegmentTail { index_offset, magic: u64::from_le_bytes(MAGIC) };
    bytes.extend_from_slice(bytes_of(&[tail]));
    bytes
}

fn are_in_order(entries: &[AccountingEntry]) -> bool {
    let key = |entry: &AccountingEntry| (entry.task_index, entry.attempt);
    entries.windows(2).all(|pair| key(&pair[0]) <= key(&pair[1]))
}

/// Where the index of a segment of `length` bytes lies, by its last [`TAIL_BYTES`].
///
/// # Errors
/// [`SegmentError`] where they are no tail, or do not fit the length.
pub fn read_tail(tail: &[u8], length: u64) -> Result<Range<u64>, SegmentError> {
    let Some([tail]) = items_of::<SegmentTail>(tail) else {
        return Err(SegmentError::NotASegment);
    };
    if { tail.magic } != u64::from_le_bytes(MAGIC) {
        return Err(SegmentError::NotASegment);
    }
    let end = length.checked_sub(TAIL_BYTES as u64).ok_or(SegmentError::NotASegment)?;
    let index = tail.index_offset..end;
    let is_inside = index.start >= MAGIC.len() as u64 && index.start <= index.end;
    let is_whole = is_inside && (index.end - index.start) % size_of::<SegmentSection>() as u64 == 0;
    if is_whole { Ok(index) } else { Err(SegmentError::Index) }
}

/// The sections that an index names, checked against where the index begins.
///
/// # Errors
/// [`SegmentError`] where sections do not fill what is before the index one after the other.
pub fn read_index(index: &[u8], index_offset: u64) -> Result<&[SegmentSection], SegmentError> {
    let sections = items_of::<SegmentSection>(index).ok_or(SegmentError::Index)?;
    let mut free_from = MAGIC.len() as u64;
    for (position, section) in sections.iter().enumerate() {
        let wrong = SegmentError::Section { position };
        let bytes = section.bytes().ok_or(wrong)?;
        let is_next = bytes.start == free_from && bytes.end <= index_offset;
        if !is_next || section.entry_count == 0 || section.first_task > section.last_task {
            return Err(wrong);
        }
        free_from = bytes.end;
    }
    if free_from != index_offset {
        return Err(SegmentError::Index);
    }
    Ok(sections)
}

impl SegmentSection {
    /// Where its entries lie in the segment; `None` where that is beyond any file.
    #[must_use]
    pub fn bytes(&self) -> Option<Range<u64>> {
        let length = self.entry_count.checked_mul(ENTRY_BYTES as u64)?;
        Some(self.offset..self.offset.checked_add(length)?)
    }

    /// The entries, from the bytes of this section.
    ///
    /// # Errors
    /// [`SegmentError::Section`], always with position 0, where they are not what the index says.
    pub fn read<'a>(&self, bytes: &'a [u8]) -> Result<&'a [AccountingEntry], SegmentError> {
        let wrong = SegmentError::Section { position: 0 };
        let entries = items_of::<AccountingEntry>(bytes).ok_or(wrong)?;
        let first = entries.first().map(|entry| entry.task_index);
        let last = entries.last().map(|entry| entry.task_index);
        let is_it = entries.len() as u64 == self.entry_count
            && (first, last) == (Some(self.first_task), Some(self.last_task));
        if is_it && are_in_order(entries) { Ok(entries) } else { Err(wrong) }
    }
}

/// A whole segment, read in place.
#[derive(Clone, Debug)]
pub struct Segment<'a> {
    sections: Vec<(JobId, &'a [AccountingEntry])>,
}

impl<'a> Segment<'a> {
    /// Reads and checks all of it.
    ///
    /// # Errors
    /// [`SegmentError`].
    pub fn open(bytes: &'a [u8]) -> Result<Segment<'a>, SegmentError> {
        if !bytes.starts_with(&MAGIC) {
            return Err(SegmentError::NotASegment);
        }
        let tail = bytes.last_chunk::<TAIL_BYTES>().ok_or(SegmentError::NotASegment)?;
        let index = read_tail(tail, bytes.len() as u64)?;
        let index_bytes =
            bytes.get(index.start as usize..index.end as usize).ok_or(SegmentError::Index)?;
        let mut sections = Vec::new();
        for (position, section) in read_index(index_bytes, index.start)?.iter().enumerate() {
            let wrong = SegmentError::Section { position };
            let range = section.bytes().ok_or(wrong)?;
            let entries = bytes.get(range.start as usize..range.end as usize).ok_or(wrong)?;
            let entries = section.read(entries).map_err(|_| wrong)?;
            sections.push((section.job_uuid.into(), entries));
        }
        Ok(Segment { sections })
    }

    /// The sections: job and entries.
    #[must_use]
    pub fn sections(&self) -> &[(JobId, &'a [AccountingEntry])] {
        &self.sections
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(task_index: u64, attempt: u64) -> AccountingEntry {
        AccountingEntry { task_index, attempt, wall_us: task_index ^ 7, ..Default::default() }
    }

    fn sections() -> Vec<(JobId, Vec<AccountingEntry>)> {
        vec![
            (JobId(5), (0..10).map(|task| entry(task, 1)).collect()),
            (JobId(2), vec![entry(3, 9), entry(70, 8)]),
        ]
    }

    fn encoded(sections: &[(JobId, Vec<AccountingEntry>)]) -> Vec<u8> {
        let sections: Vec<_> =
            sections.iter().map(|(job, entries)| (*job, entries.as_slice())).collect();
        encode(&sections)
    }

    #[test]
    fn one_jobs_entries_are_read_without_the_rest() {
        let bytes = encoded(&sections());
        let length = bytes.len() as u64;
        let index = read_tail(&bytes[bytes.len() - TAIL_BYTES..], length).unwrap();
        let at = index.start;
        let named = read_index(&bytes[index.start as usize..index.end as usize], at).unwrap();
        let section = named.iter().find(|section| section.job_uuid == JobId(2).to_wire()).unwrap();
        assert_eq!(({ section.first_task }, { section.last_task }), (3, 70));
        let range = section.bytes().unwrap();
        assert_eq!(range.end - range.start, 128);
        let entries = section.read(&bytes[range.start as usize..range.end as usize]).unwrap();
        assert_eq!(entries, [entry(3, 9), entry(70, 8)]);
    }

    #[test]
    fn another_version_is_no_segment() {
        let mut bytes = encoded(&sections());
        bytes[7] = 2;
        assert_eq!(Segment::open(&bytes).unwrap_err(), SegmentError::NotASegment);
        assert_eq!(Segment::open(&[]).unwrap_err(), SegmentError::NotASegment);
        assert!(Segment::open(&encode(&[])).unwrap().sections().is_empty());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            counts in prop::collection::vec(
                (any::<u128>(), prop::collection::btree_set(any::<u64>(), 1..40)), 0..6,
            ),
        ) {
            let written: Vec<(JobId, Vec<AccountingEntry>)> = counts
                .into_iter()
                .map(|(job, tasks)| {
                    (JobId(job), tasks.into_iter().map(|task| entry(task, 3)).collect())
                })
                .collect();
            let bytes = encoded(&written);
            let read = Segment::open(&bytes).unwrap();
            let read: Vec<(JobId, Vec<AccountingEntry>)> =
                read.sections().iter().map(|(job, entries)| (*job, entries.to_vec())).collect();
            prop_assert_eq!(read, written);
        }

        #[test]
        fn damaged_bytes_never_panic_and_cut_ones_are_refused(
            at in any::<prop::sample::Index>(),
            flip in 1u8..,
            cut in any::<prop::sample::Index>(),
        ) {
            let bytes = encoded(&sections());
            let mut damaged = bytes.clone();
            damaged[at.index(bytes.len())] ^= flip;
            if let Ok(segment) = Segment::open(&damaged) {
                prop_assert_eq!(segment.sections().len(), 2);
            }
            prop_assert!(Segment::open(&bytes[..cut.index(bytes.len())]).is_err());
        }
    }
}
