//! Segments: files in which a worker packs what it has to say of many tasks.
//!
//! A segment is [`MAGIC`], one section for each job, the index, and a [`SegmentTail`]. A section is
//! the job's [`AccountingEntry`]s, packed, in the order of their tasks, its [`OutputEntry`]s
//! likewise, and the names and small contents that these point to; large outputs are files of their
//! own. Who wants one job's range reads the tail, then the index, then that section and nothing
//! else; of a large segment, into which others were folded, a job has many sections, each of tasks
//! behind those of the one before. Written once and named by its content, so it carries no checksum
//! of its own. Deliberately not here: storing it, and which of its entries the masters accepted.

mod read;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::ids::{FileId, JobId};
use crate::macros::item;
use crate::status::OutputKind;
use crate::wire::{WireUuid, bytes_of};

pub use read::{OutputRef, Section, Segment, read_index, read_tail};

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
    /// Something that a task wrote.
    "output_entry" OutputEntry {
        /// The task.
        task_index: u64,
        /// The attempt that wrote it.
        attempt: u64,
        /// See the list of output kinds.
        kind: u8,
        /// Permission bits of a file or folder; 0 for others.
        mode: u16,
        /// 1 where the task wrote more than is kept.
        is_cut: u8,
        /// Bytes of its path below `$REMUDA_OUTPUTS`; 0 for standard output and standard error.
        name_length: u16,
        /// Where its path begins, in bytes from the start of the segment.
        name_offset: u64,
        /// Its bytes; of a symbolic link, of what it points to.
        content_length: u64,
        /// Where its bytes begin, in bytes from the start of the segment; 0 where `file_uuid` has
        /// them.
        content_offset: u64,
        /// The file on storage that it is; zero where its bytes are in the segment.
        file_uuid: WireUuid,
    }
}

item! {
    /// Where in a segment what it has of a job stands: its entries, then its outputs, then the
    /// bytes that these point to.
    "segment_section" SegmentSection {
        /// The job.
        job_uuid: WireUuid,
        /// Where its first entry begins, in bytes from the start of the segment.
        offset: u64,
        /// Number of its entries.
        entry_count: u64,
        /// Number of its outputs.
        output_count: u64,
        /// Length of the names and contents of its outputs.
        byte_count: u64,
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

/// Something that a task wrote, on its way into a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// What it is.
    pub kind: OutputKind,
    /// Path below `$REMUDA_OUTPUTS`, with `/` between names; empty for standard output and standard
    /// error.
    pub name: Vec<u8>,
    /// Permission bits of a file or folder; 0 for others.
    pub mode: u16,
    /// Whether the task wrote more than is kept.
    pub is_cut: bool,
    /// What is in it.
    pub content: OutputContent,
}

/// What is in an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputContent {
    /// These bytes, which are packed in the segment; of a symbolic link, what it points to.
    Packed(Vec<u8>),
    /// A file on storage.
    File {
        /// Which.
        file: FileId,
        /// Its bytes.
        length: u64,
    },
}

impl Output {
    /// Bytes that it takes in a segment.
    #[must_use]
    pub fn packed_bytes(&self) -> usize {
        let content = match &self.content {
            OutputContent::Packed(bytes) => bytes.len(),
            OutputContent::File { .. } => 0,
        };
        size_of::<OutputEntry>() + self.name.len() + content
    }
}

/// What one attempt of a task wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskOutputs {
    /// The task.
    pub task_index: u64,
    /// The attempt.
    pub attempt: u64,
    /// What it wrote.
    pub outputs: Vec<Output>,
}

/// What a segment gets of one job.
#[derive(Clone, Copy, Debug)]
pub struct NewSection<'a> {
    /// The job.
    pub job: JobId,
    /// What its tasks used, in the order of the tasks; at least one.
    pub entries: &'a [AccountingEntry],
    /// What tasks among these wrote, in the order of the tasks.
    pub outputs: &'a [TaskOutputs],
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

/// Packs entries and outputs into a segment: one section for each job, in the order given.
///
/// # Panics
/// As [`SegmentWriter::section`].
#[must_use]
pub fn encode(sections: &[NewSection<'_>]) -> Vec<u8> {
    let mut writer = SegmentWriter::default();
    let mut bytes = MAGIC.to_vec();
    for section in sections {
        writer.section(section, &mut bytes);
    }
    writer.finish(&mut bytes);
    bytes
}

/// Packs a segment section by section, for one that does not fit into memory. What it makes follows
/// [`MAGIC`], piece by piece. A job may have several sections then.
#[derive(Clone, Debug, Default)]
pub struct SegmentWriter {
    index: Vec<SegmentSection>,
}

impl SegmentWriter {
    /// Bytes of what was made so far, [`MAGIC`] included.
    #[must_use]
    pub fn length(&self) -> u64 {
        let end = self.index.last().and_then(SegmentSection::bytes).map(|bytes| bytes.end);
        end.unwrap_or(MAGIC.len() as u64)
    }

    /// Appends a section to `bytes`, and says where in the segment it stands.
    ///
    /// # Panics
    /// If the section is empty or out of order, or an output's task has no entry in it: a bug of
    /// ours.
    pub fn section(&mut self, section: &NewSection<'_>, bytes: &mut Vec<u8>) -> SegmentSection {
        let NewSection { job, entries, outputs } = section;
        assert!(are_in_order(entries), "the entries of {job} are out of order");
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            panic!("a section of {job} without entries");
        };
        let tasks = first.task_index..=last.task_index;
        let key = |outputs: &TaskOutputs| (outputs.task_index, outputs.attempt);
        assert!(outputs.is_sorted_by_key(key), "the outputs of {job} are out of order");
        assert!(outputs.iter().all(|it| tasks.contains(&it.task_index)), "outputs of another task");
        let offset = self.length();
        bytes.extend_from_slice(bytes_of(entries));
        let output_count: usize = outputs.iter().map(|task| task.outputs.len()).sum();
        let mut contents = Vec::new();
        let before = size_of_val(*entries) + output_count * size_of::<OutputEntry>();
        let contents_offset = offset + before as u64;
        for task in *outputs {
            for output in &task.outputs {
                let entry = place(task, output, contents_offset, &mut contents);
                bytes.extend_from_slice(bytes_of(&[entry]));
            }
        }
        bytes.extend_from_slice(&contents);
        let placed = SegmentSection {
            job_uuid: job.to_wire(),
            offset,
            entry_count: entries.len() as u64,
            output_count: output_count as u64,
            byte_count: contents.len() as u64,
            first_task: *tasks.start(),
            last_task: *tasks.end(),
        };
        self.index.push(placed);
        placed
    }

    /// Appends the index and the tail.
    pub fn finish(self, bytes: &mut Vec<u8>) {
        let index_offset = self.length();
        bytes.extend_from_slice(bytes_of(&self.index));
        let tail = SegmentTail { index_offset, magic: u64::from_le_bytes(MAGIC) };
        bytes.extend_from_slice(bytes_of(&[tail]));
    }
}

/// Adds an output's name and bytes to `contents`, which stand at `offset` of the segment.
fn place(task: &TaskOutputs, output: &Output, offset: u64, contents: &mut Vec<u8>) -> OutputEntry {
    let name_offset = offset + contents.len() as u64;
    contents.extend_from_slice(&output.name);
    let (content_offset, content_length, file) = match &output.content {
        OutputContent::Packed(bytes) => {
            let at = offset + contents.len() as u64;
            contents.extend_from_slice(bytes);
            (at, bytes.len() as u64, FileId(0))
        }
        OutputContent::File { file, length } => (0, *length, *file),
    };
    OutputEntry {
        task_index: task.task_index,
        attempt: task.attempt,
        kind: output.kind.to_wire(),
        mode: output.mode,
        is_cut: u8::from(output.is_cut),
        name_length: u16::try_from(output.name.len())
            .expect("whoever gathers outputs checks names"),
        name_offset,
        content_length,
        content_offset,
        file_uuid: file.to_wire(),
    }
}

fn are_in_order(entries: &[AccountingEntry]) -> bool {
    entries.is_sorted_by_key(|entry| (entry.task_index, entry.attempt))
}
