//! Whether a description makes sense: what it says must be possible, safe and within the limits.
//! A problem is one sentence that a user can act on.

use std::collections::BTreeSet;
use std::fmt;

use crate::description::{InputSource, JobDescription, Lines, Program, Runtime};
use crate::limits;
use crate::time::Duration;

/// Arguments, variables, output patterns and resources: eyeballed, far above any use.
const LIST_MAX: usize = 4096;

/// Longest environment variable, argument, or path of a program; Linux allows 131,072.
const TEXT_BYTES_MAX: usize = 128 << 10;

/// Longest path of an input or an output pattern.
const PATH_BYTES_MAX: usize = 4095;

/// Most replicas of anything.
const REPLICAS_MAX: u8 = 9;

/// Why a description cannot be accepted, as a sentence for its author.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(String);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Invalid {}

/// Fails with a sentence where a condition does not hold.
macro_rules! demand {
    ($condition:expr, $($sentence:tt)+) => {
        if !$condition {
            return Err(Invalid(format!($($sentence)+)));
        }
    };
}

impl JobDescription {
    /// Checks that the description makes sense. Client, masters and worker each ask; the first
    /// problem is told.
    ///
    /// # Errors
    /// [`Invalid`].
    pub fn validate(&self) -> Result<(), Invalid> {
        demand!(
            self.name.len() <= limits::NAME_BYTES && !self.name.contains(char::is_control),
            "the job's name is longer than {} bytes or contains control characters",
            limits::NAME_BYTES
        );
        demand!(
            self.owner.len() <= limits::NAME_BYTES && !self.owner.contains(char::is_control),
            "the job's owner is longer than {} bytes or contains control characters",
            limits::NAME_BYTES
        );
        self.validate_runtime()?;
        self.validate_environment()?;
        self.validate_inputs()?;
        self.validate_outputs()?;
        self.validate_resources()?;
        demand!(self.array.step != 0, "the step of an array must be at least 1");
        if let Some(Lines { text_length, .. }) = self.lines {
            demand!(
                text_length <= limits::FILE_BYTES,
                "the file of --each-line is longer than a file may be"
            );
        }
        if let Some(retry) = &self.retry {
            let mut end = 0;
            for run in &retry.tasks {
                demand!(
                    run.start >= end && run.start < run.end && run.end <= limits::TASKS_PER_JOB,
                    "the tasks to try again are not in ascending order, or no tasks of a job"
                );
                end = run.end;
            }
        }
        demand!(
            self.replica_count <= REPLICAS_MAX,
            "{} replicas are more than {REPLICAS_MAX}",
            self.replica_count
        );
        Ok(())
    }

    fn validate_runtime(&self) -> Result<(), Invalid> {
        let (program, arguments) = match &self.runtime {
            Runtime::Command { program, arguments } => (program, arguments),
            Runtime::Noop(noop) => {
                demand!(
                    noop.shortest <= noop.longest,
                    "the shortest noop task takes longer than the longest"
                );
                demand!(
                    noop.failed_per_million <= 1_000_000,
                    "of a million noop tasks more than a million are to fail"
                );
                demand!(
                    noop.output_bytes as usize <= limits::PACKED_OUTPUT_BYTES,
                    "a noop task prints at most {} bytes",
                    limits::PACKED_OUTPUT_BYTES
                );
                return Ok(());
            }
            Runtime::Stored { file, length } => {
                demand!(!file.is_nil(), "the file of the job's description is not named");
                demand!(
                    *length <= limits::DESCRIPTION_FILE_BYTES as u64,
                    "the job's description has {length} bytes, more than {}",
                    limits::DESCRIPTION_FILE_BYTES
                );
                return Ok(());
            }
            Runtime::Fold { .. } => return Ok(()),
        };
        match program {
            Program::Path(path) => {
                demand!(!path.is_empty(), "the program is empty");
                demand!(
                    path.len() <= PATH_BYTES_MAX && !path.contains(&0),
                    "the program's path is longer than {PATH_BYTES_MAX} bytes or contains NUL"
                );
                demand!(
                    path.starts_with(b"/") || !path.contains(&b'/'),
                    "the program {:?} is neither an absolute path of the worker nor a name; \
                     a program of your own is uploaded",
                    String::from_utf8_lossy(path)
                );
            }
            Program::File(file) => demand!(!file.is_nil(), "the program's file is not named"),
            Program::Inline => {}
        }
        demand!(
            arguments.len() <= LIST_MAX,
            "{} arguments are more than {LIST_MAX}",
            arguments.len()
        );
        for (at, argument) in arguments.iter().enumerate() {
            demand!(
                argument.len() <= TEXT_BYTES_MAX && !argument.contains(&0),
                "argument {} is longer than {TEXT_BYTES_MAX} bytes or contains NUL",
                at + 1
            );
        }
        Ok(())
    }

    fn validate_environment(&self) -> Result<(), Invalid> {
        let count = self.environment.len();
        demand!(count <= LIST_MAX, "{count} environment variables are more than {LIST_MAX}");
        for (name, value) in &self.environment {
            demand!(
                !name.is_empty() && !name.contains(['=', '\0']),
                "{name:?} is no name for an environment variable"
            );
            demand!(
                !name.starts_with("REMUDA_"),
                "the environment variable {name} is Remuda's own: another name is needed"
            );
            demand!(
                name.len() + value.len() < TEXT_BYTES_MAX && !value.contains('\0'),
                "the environment variable {name:.80} is longer than {TEXT_BYTES_MAX} bytes or \
                 contains NUL"
            );
        }
        Ok(())
    }

    fn validate_inputs(&self) -> Result<(), Invalid> {
        let count = self.inputs.len();
        demand!(
            count <= limits::INPUTS_PER_JOB,
            "{count} inputs are more than {}: put them into a folder and name that",
            limits::INPUTS_PER_JOB
        );
        let mut names = BTreeSet::new();
        for input in &self.inputs {
            let name = &input.name;
            demand!(
                is_inside(name),
                "the input name {name:?} must be a path inside the inputs: without `..`, `.`, \
                 empty parts, and with parts up to {} bytes",
                limits::NAME_BYTES
            );
            demand!(names.insert(name.as_str()), "two inputs are named {name:?}");
            let (file, length) = match &input.source {
                InputSource::File { file, length, .. } => (file, *length),
                InputSource::Tree { tree, length } => (tree, *length),
                InputSource::Name(pointer) => {
                    demand!(
                        (1..=limits::NAME_BYTES).contains(&pointer.len())
                            && !pointer.contains(char::is_control),
                        "{pointer:?} is no name of a file or tree"
                    );
                    continue;
                }
            };
            demand!(!file.is_nil(), "the input {name:?} names no file");
            demand!(
                length <= limits::FILE_BYTES,
                "the input {name:?} is longer than a file may be"
            );
        }
        for name in &names {
            let parents = name.match_indices('/').map(|(at, _)| &name[..at]);
            for parent in parents {
                demand!(
                    !names.contains(parent),
                    "the input {name:?} would lie inside the input {parent:?}"
                );
            }
        }
        Ok(())
    }

    fn validate_outputs(&self) -> Result<(), Invalid> {
        let count = self.outputs.len();
        demand!(count <= LIST_MAX, "{count} output patterns are more than {LIST_MAX}");
        for pattern in &self.outputs {
            demand!(
                is_inside(pattern),
                "the output pattern {pattern:?} must be a path inside the scratch folder: without \
                 `..`, `.` and empty parts"
            );
        }
        Ok(())
    }

    fn validate_resources(&self) -> Result<(), Invalid> {
        demand!(self.cpu_milli > 0, "a task must take at least a thousandth of a CPU");
        let count = self.resources.len();
        demand!(count <= LIST_MAX, "{count} named resources are more than {LIST_MAX}");
        for name in self.resources.keys() {
            demand!(
                (1..=limits::NAME_BYTES).contains(&name.len())
                    && name.chars().all(|it| it.is_alphanumeric() || "-_./".contains(it)),
                "{name:?} is no name for a resource: it takes letters, digits, and any of - _ . /"
            );
        }
        demand!(
            self.time_limit != Some(Duration::ZERO),
            "a time limit of 0 leaves no time for the task"
        );
        Ok(())
    }
}

/// True for a relative path that stays where it is put.
fn is_inside(path: &str) -> bool {
    path.len() <= PATH_BYTES_MAX
        && !path.contains('\0')
        && path.split('/').all(|part| {
            (1..=limits::NAME_BYTES).contains(&part.len()) && part != "." && part != ".."
        })
}
