//! The description of a job: everything that a submission says beside the number of its tasks.
//!
//! It travels as one version byte and `postcard`, inline up to [`limits::DESCRIPTION_BYTES`] and as
//! a file above that. The defaults of a submission stand here and nowhere else. What is read from
//! outside is [validated](JobDescription::validate) before anybody acts on it; executing it is the
//! worker's matter.

mod noop;
#[cfg(test)]
mod tests;
mod validation;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::ids::{FileId, JobId, TaskIndex};
use crate::limits;
use crate::time::Duration;

pub use noop::{Noop, NoopOutcome};
pub use validation::Invalid;

/// The first byte of an encoded description.
pub const DESCRIPTION_VERSION: u8 = 2;

/// `--retries`: a non-zero exit is the task's answer.
pub const DEFAULT_RETRIES: u32 = 0;

/// `--max-crashes`: how often a task's worker may die with it.
pub const DEFAULT_MAX_CRASHES: u32 = 5;

/// Lost attempts of one task before it fails: shutdowns and cut-offs are not its fault, but an end
/// there must be.
pub const MAX_LOST_ATTEMPTS: u32 = 100;

/// `--cpus` in thousandths.
pub const DEFAULT_CPU_MILLI: u32 = 1000;

/// What a job is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobDescription {
    /// For people, and for `job_query`; not unique, may be empty.
    pub name: String,
    /// What executes its tasks, and what they are.
    pub runtime: Runtime,
    /// Environment variables of its tasks, in this order, on top of the worker's and below
    /// Remuda's own.
    pub environment: Vec<(String, String)>,
    /// What its tasks see under `$REMUDA_INPUTS`.
    pub inputs: Vec<Input>,
    /// Patterns of files in the scratch folder that are outputs beside those in
    /// `$REMUDA_OUTPUTS`.
    pub outputs: Vec<String>,
    /// For `--each-line`: what `{line}` stands for in each task.
    pub lines: Option<Lines>,
    /// For `--array`: what `{index}` stands for in each task.
    pub array: Array,
    /// Thousandths of a CPU that a task takes.
    pub cpu_milli: u32,
    /// Bytes of memory that a task may use; 0 for no limit.
    pub memory_bytes: u64,
    /// Named resources that a task takes, such as `gpu`.
    pub resources: BTreeMap<String, u64>,
    /// How long an attempt may take.
    pub time_limit: Option<Duration>,
    /// How often a failed task is attempted again.
    pub retries: u32,
    /// How often a task's worker may die with it before the task failed.
    pub max_crashes: u32,
    /// The job stops dealing once more tasks than this failed.
    pub max_fails: Option<u64>,
    /// Jobs of a higher one are dealt first.
    pub priority: i32,
    /// Whether none of its tasks is dealt before it is released.
    pub is_held: bool,
    /// Whether the scratch folder stays after a task.
    pub keep_scratch: bool,
    /// Replicas of what its tasks write; 0 for the cluster's default.
    pub replica_count: u8,
    /// Who submits it, as that client says: for people.
    pub owner: String,
    /// For `remuda retry`: which tasks of which job its tasks are.
    pub retry: Option<Retry>,
}

/// The tasks of another job that a job tries again. Task 0 of the new job is the first of them, and
/// so on; `{index}` and `{line}` stand for what they stood for there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// The other job.
    pub job: JobId,
    /// Its tasks, ascending, none twice.
    pub tasks: Vec<Range<u64>>,
}

impl Retry {
    /// The other job's task that `task` of the new one tries again; none beyond the last.
    #[must_use]
    pub fn origin(&self, task: TaskIndex) -> Option<TaskIndex> {
        let mut left = task.0;
        for run in &self.tasks {
            let count = run.end.saturating_sub(run.start);
            if left < count {
                return Some(TaskIndex(run.start + left));
            }
            left -= count;
        }
        None
    }
}

/// What executes a job's tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Runtime {
    /// A program of any kind.
    Command {
        /// What is executed.
        program: Program,
        /// Its arguments as raw bytes; `{index}` and `{line}` are replaced.
        arguments: Vec<Vec<u8>>,
    },
    /// Nothing, for measuring.
    Noop(Noop),
    /// A program whose description would be too long to travel inline: the rest of it is a file.
    Stored {
        /// An encoded [`JobDescription`]. Its runtime, environment, inputs, outputs and tasks to
        /// try again hold instead of those of the description that names it; all else in it is
        /// ignored.
        file: FileId,
        /// Its bytes, at most [`limits::DESCRIPTION_FILE_BYTES`].
        length: u64,
    },
    /// Segments of a job are packed into one. Only the masters submit it.
    Fold {
        /// The job whose segments they are.
        job: JobId,
        /// Number of the fold, under which the masters list them.
        fold: u64,
    },
}

/// Where a program comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Program {
    /// The worker's own: an absolute path, or a name that is looked up.
    Path(Vec<u8>),
    /// A file on storage, which is fetched completely before it is started.
    File(FileId),
    /// The `program` bytes of the submission: a script with a shebang line, or an executable.
    Inline,
}

/// A file or tree that tasks see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Where under `$REMUDA_INPUTS`: names separated by `/`, none of them `.` or `..`.
    pub name: String,
    /// What is seen there.
    pub source: InputSource,
}

/// What an input is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InputSource {
    /// A file.
    File {
        /// Which.
        file: FileId,
        /// Its bytes.
        length: u64,
        /// Whether it is shown as a program.
        is_executable: bool,
    },
    /// A folder.
    Tree {
        /// Its tree file.
        tree: FileId,
        /// Bytes of the tree file.
        length: u64,
    },
    /// A name in the masters' keyspace; resolved when the submission is applied, never seen by a
    /// worker.
    Name(String),
}

/// The lines of `--each-line`, a file that each task reads its own piece of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lines {
    /// The lines.
    pub text: FileId,
    /// Bytes of the lines.
    pub text_length: u64,
    /// One more `u64` (little-endian) than there are lines: where each begins in `text`, then the
    /// end. A line ends before its line feed.
    pub offsets: FileId,
}

/// The numbers of `--array 0-999:2`: `first`, then `step` more for each task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Array {
    /// Number of task 0.
    pub first: u64,
    /// Distance of two neighbours.
    pub step: u64,
}

impl Array {
    /// What `{index}` stands for; the highest number where it would be above that.
    #[must_use]
    pub fn number(&self, task: TaskIndex) -> u64 {
        self.first.saturating_add(self.step.saturating_mul(task.0))
    }
}

impl Default for Array {
    fn default() -> Array {
        Array { first: 0, step: 1 }
    }
}

/// Bytes that are not a description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotADescription {
    /// Longer than the limit of where they stand.
    TooLarge {
        /// Their length.
        length: usize,
    },
    /// Written by a version that this one does not know.
    Version {
        /// The first byte.
        version: u8,
    },
    /// They end too early, go on behind it, or have a value that does not exist.
    Damaged,
}

impl fmt::Display for NotADescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotADescription::TooLarge { length } => {
                write!(f, "a job description of {length} bytes is above the limit")
            }
            NotADescription::Version { version } => write!(
                f,
                "a job description of version {version}, this program knows \
                 {DESCRIPTION_VERSION}"
            ),
            NotADescription::Damaged => f.write_str("the job description cannot be read"),
        }
    }
}

impl std::error::Error for NotADescription {}

impl JobDescription {
    /// A description with the defaults of a submission.
    #[must_use]
    pub fn new(runtime: Runtime) -> JobDescription {
        JobDescription {
            name: String::new(),
            runtime,
            environment: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            lines: None,
            array: Array::default(),
            cpu_milli: DEFAULT_CPU_MILLI,
            memory_bytes: 0,
            resources: BTreeMap::new(),
            time_limit: None,
            retries: DEFAULT_RETRIES,
            max_crashes: DEFAULT_MAX_CRASHES,
            max_fails: None,
            priority: 0,
            is_held: false,
            keep_scratch: false,
            replica_count: 0,
            owner: String::new(),
            retry: None,
        }
    }

    /// The description as bytes. Up to [`limits::DESCRIPTION_BYTES`] they travel inline, above
    /// that they are stored as a file.
    ///
    /// # Errors
    /// [`NotADescription::TooLarge`] above [`limits::DESCRIPTION_FILE_BYTES`].
    pub fn encode(&self) -> Result<Vec<u8>, NotADescription> {
        let bytes = postcard::to_extend(self, vec![DESCRIPTION_VERSION]);
        let bytes = bytes.map_err(|_| NotADescription::Damaged)?;
        let length = bytes.len();
        if length > limits::DESCRIPTION_FILE_BYTES {
            return Err(NotADescription::TooLarge { length });
        }
        Ok(bytes)
    }

    /// Reads a description that travelled inline. No bytes at all are the defaults with the
    /// submission's own program, as a request in the given form means them. See also
    /// [`JobDescription::decode_file`].
    ///
    /// # Errors
    /// [`NotADescription`].
    pub fn decode(bytes: &[u8]) -> Result<JobDescription, NotADescription> {
        decode(bytes, limits::DESCRIPTION_BYTES)
    }

    /// Reads a description that was stored as a file. It is not validated yet.
    ///
    /// # Errors
    /// [`NotADescription`].
    pub fn decode_file(bytes: &[u8]) -> Result<JobDescription, NotADescription> {
        decode(bytes, limits::DESCRIPTION_FILE_BYTES)
    }
}

fn decode(bytes: &[u8], limit: usize) -> Result<JobDescription, NotADescription> {
    let length = bytes.len();
    if length > limit {
        return Err(NotADescription::TooLarge { length });
    }
    let Some((version, rest)) = bytes.split_first() else {
        let arguments = Vec::new();
        return Ok(JobDescription::new(Runtime::Command { program: Program::Inline, arguments }));
    };
    if *version != DESCRIPTION_VERSION {
        return Err(NotADescription::Version { version: *version });
    }
    match postcard::take_from_bytes(rest) {
        Ok((description, [])) => Ok(description),
        Ok(_) | Err(_) => Err(NotADescription::Damaged),
    }
}
