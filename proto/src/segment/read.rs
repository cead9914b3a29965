//! Reading a segment in place: nothing in it is trusted before it was checked.

use std::ops::Range;

use super::{
    AccountingEntry, ENTRY_BYTES, MAGIC, OutputEntry, SegmentError, SegmentSection, SegmentTail,
    TAIL_BYTES, are_in_order,
};
use crate::ids::{FileId, JobId, TaskIndex};
use crate::status::OutputKind;
use crate::wire::items_of;

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
    /// Where it lies in the segment; `None` where that is beyond any file.
    #[must_use]
    pub fn bytes(&self) -> Option<Range<u64>> {
        let entries = self.entry_count.checked_mul(ENTRY_BYTES as u64)?;
        let outputs = self.output_count.checked_mul(size_of::<OutputEntry>() as u64)?;
        let length = entries.checked_add(outputs)?.checked_add(self.byte_count)?;
        Some(self.offset..self.offset.checked_add(length)?)
    }

    /// The section, from its bytes.
    ///
    /// # Errors
    /// [`SegmentError::Section`], always with position 0, where they are not what the index says.
    pub fn read<'a>(&self, bytes: &'a [u8]) -> Result<Section<'a>, SegmentError> {
        let wrong = SegmentError::Section { position: 0 };
        let range = self.bytes().ok_or(wrong)?;
        if bytes.len() as u64 != range.end - range.start {
            return Err(wrong);
        }
        let (entries, rest) = bytes.split_at(self.entry_count as usize * ENTRY_BYTES);
        let outputs_bytes = self.output_count as usize * size_of::<OutputEntry>();
        let (outputs, contents) = rest.split_at(outputs_bytes);
        let entries = items_of::<AccountingEntry>(entries).ok_or(wrong)?;
        let outputs = items_of::<OutputEntry>(outputs).ok_or(wrong)?;
        let first = entries.first().map(|entry| entry.task_index);
        let last = entries.last().map(|entry| entry.task_index);
        let is_it = (first, last) == (Some(self.first_task), Some(self.last_task));
        if !is_it || !are_in_order(entries) {
            return Err(wrong);
        }
        let contents_offset = range.end - self.byte_count;
        let section =
            Section { job: self.job_uuid.into(), entries, outputs, contents, contents_offset };
        let is_good = |entry: &OutputEntry| {
            (self.first_task..=self.last_task).contains(&{ entry.task_index })
                && section.resolve(entry).is_some()
        };
        let in_order = outputs.is_sorted_by_key(|entry| (entry.task_index, entry.attempt));
        if in_order && outputs.iter().all(is_good) { Ok(section) } else { Err(wrong) }
    }
}

/// What a segment has of one job.
#[derive(Clone, Copy, Debug)]
pub struct Section<'a> {
    /// The job.
    pub job: JobId,
    /// What its tasks used, in the order of the tasks.
    pub entries: &'a [AccountingEntry],
    outputs: &'a [OutputEntry],
    contents: &'a [u8],
    /// Where `contents` begin in the segment.
    contents_offset: u64,
}

/// Something that a task wrote, in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputRef<'a> {
    /// The task.
    pub task: TaskIndex,
    /// The attempt that wrote it.
    pub attempt: u64,
    /// What it is.
    pub kind: OutputKind,
    /// Path below `$REMUDA_OUTPUTS`; empty for standard output and standard error.
    pub name: &'a [u8],
    /// Permission bits of a file or folder; 0 for others.
    pub mode: u16,
    /// Whether the task wrote more than is kept.
    pub is_cut: bool,
    /// Its bytes; of a symbolic link, of what it points to.
    pub length: u64,
    /// Its bytes, or the file on storage that has them.
    pub content: Result<&'a [u8], FileId>,
}

impl<'a> Section<'a> {
    /// What its tasks wrote, in the order of the tasks.
    pub fn outputs(&self) -> impl Iterator<Item = OutputRef<'a>> + use<'a> {
        let section = *self;
        section.outputs.iter().filter_map(move |entry| section.resolve(entry))
    }

    /// What one task wrote.
    pub fn outputs_of(&self, task: TaskIndex) -> impl Iterator<Item = OutputRef<'a>> + use<'a> {
        let section = *self;
        let from = section.outputs.partition_point(|entry| entry.task_index < task.0);
        let rest = section.outputs.get(from..).unwrap_or_default();
        rest.iter()
            .take_while(move |entry| entry.task_index == task.0)
            .filter_map(move |entry| section.resolve(entry))
    }

    fn resolve(&self, entry: &OutputEntry) -> Option<OutputRef<'a>> {
        let kind = OutputKind::from_wire(entry.kind)?;
        let name = self.slice(entry.name_offset, u64::from(entry.name_length))?;
        let is_stream = matches!(kind, OutputKind::Stdout | OutputKind::Stderr);
        if is_stream != name.is_empty() || (!is_stream && !is_path(name)) {
            return None;
        }
        let file = FileId::from(entry.file_uuid);
        let content = if file.is_nil() {
            Ok(self.slice(entry.content_offset, entry.content_length)?)
        } else {
            Err(file)
        };
        Some(OutputRef {
            task: TaskIndex(entry.task_index),
            attempt: entry.attempt,
            kind,
            name,
            mode: entry.mode & 0o7777,
            is_cut: entry.is_cut != 0,
            length: entry.content_length,
            content,
        })
    }

    fn slice(&self, offset: u64, length: u64) -> Option<&'a [u8]> {
        let from = usize::try_from(offset.checked_sub(self.contents_offset)?).ok()?;
        let to = from.checked_add(usize::try_from(length).ok()?)?;
        self.contents.get(from..to)
    }
}

/// True where a path leads from a folder to something below it and nowhere else.
fn is_path(name: &[u8]) -> bool {
    !name.contains(&0)
        && name.split(|&byte| byte == b'/').all(|part| !matches!(part, b"" | b"." | b".."))
}

/// A whole segment, read in place.
#[derive(Clone, Debug)]
pub struct Segment<'a> {
    sections: Vec<Section<'a>>,
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
            let bytes = bytes.get(range.start as usize..range.end as usize).ok_or(wrong)?;
            sections.push(section.read(bytes).map_err(|_| wrong)?);
        }
        Ok(Segment { sections })
    }

    /// The sections.
    #[must_use]
    pub fn sections(&self) -> &[Section<'a>] {
        &self.sections
    }
}
