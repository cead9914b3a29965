//! Submissions: what a `job_submit` record must be, and what becomes of it when it is applied.
//!
//! A name used for an input is looked up when the entry is applied, so that every master finds the
//! same file: balancers and workers never see a name. Pure, and part of `apply`.

use std::sync::Arc;

use proto::description::{Input, InputSource, JobDescription, Program, Runtime};
use proto::ids::FileId;
use proto::limits;
use proto::messages::job::JobSubmit;
use proto::name::{self, Pointer};
use proto::record::{Records, encode};
use proto::status::ErrorCode;
use proto::wire::{WireUuid, bytes_of, items_of};

use super::commands::Output;
use super::keyspace::Keyspace;

/// Digest of a submission.
pub type Digest = [u8; 32];

/// Digest of a `job_submit` record whose stamps are cleared. Equal content has an equal one.
#[must_use]
pub fn digest(record: &[u8]) -> Digest {
    *blake3::hash(record).as_bytes()
}

/// A `job_submit` record that makes sense.
#[derive(Clone, Debug)]
pub struct Submission<'a> {
    record: &'a [u8],
    submit: JobSubmit,
    program: &'a [u8],
    input_files: &'a [u8],
    description: JobDescription,
}

/// A submission without names.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The `job_submit` record, stamps cleared.
    pub record: Arc<[u8]>,
    /// Number of tasks.
    pub task_count: u64,
    /// What the record says beside it.
    pub description: JobDescription,
}

fn invalid(text: String) -> Output {
    Output::refused(ErrorCode::Invalid, text)
}

fn too_large(text: String) -> Output {
    Output::refused(ErrorCode::TooLarge, text)
}

impl<'a> Submission<'a> {
    /// Checks a `job_submit` record: at the door of every master, and again in `apply`.
    ///
    /// # Errors
    /// The refusal that the client gets.
    pub fn check(record: &'a [u8]) -> Result<Submission<'a>, Output> {
        let malformed = |text: String| Output::refused(ErrorCode::Malformed, text);
        let mut records = Records::of(record);
        let parsed = match (records.next(), records.next()) {
            (Some(Ok(parsed)), None) => parsed,
            (Some(Err(error)), _) => return Err(malformed(error.to_string())),
            _ => return Err(malformed("one job_submit record is expected".into())),
        };
        let opened = parsed.open::<JobSubmit, 3>();
        let (submit, [program, input_files, description]) =
            opened.map_err(|error| malformed(error.to_string()))?;
        if record.len() > limits::JOB_RECORD_BYTES {
            return Err(too_large(format!(
                "the job's record has {} bytes, the limit is {}: \
                 store the program or the description as a file",
                record.len(),
                limits::JOB_RECORD_BYTES
            )));
        }
        let task_count = submit.task_count;
        if task_count == 0 || task_count > limits::TASKS_PER_JOB {
            return Err(invalid(format!(
                "a job has 1 to {} tasks, not {task_count}",
                limits::TASKS_PER_JOB
            )));
        }
        if input_files.len() / size_of::<WireUuid>() > limits::INPUTS_PER_JOB {
            return Err(too_large(format!(
                "a job has at most {} inputs: put them into a tree",
                limits::INPUTS_PER_JOB
            )));
        }
        let description =
            JobDescription::decode(description).map_err(|error| invalid(error.to_string()))?;
        description.validate().map_err(|error| invalid(error.to_string()))?;
        if matches!(description.runtime, Runtime::Fold { .. }) {
            return Err(invalid("segments are folded by the masters' own jobs only".into()));
        }
        let is_stored = matches!(description.runtime, Runtime::Stored { .. });
        if let Some(retry) = description.retry.as_ref().filter(|_| !is_stored) {
            let retried: u64 = retry.tasks.iter().map(|run| run.end - run.start).sum();
            if retried != task_count {
                return Err(invalid(format!(
                    "the job has {task_count} tasks and names {retried} to try again"
                )));
            }
        }
        let is_inline =
            matches!(&description.runtime, Runtime::Command { program: Program::Inline, .. });
        if is_inline && program.is_empty() {
            return Err(invalid("the job has no program: send a script or name one".into()));
        }
        let submission = Submission { record, submit, program, input_files, description };
        submission.check_input_files()?;
        Ok(submission)
    }

    fn has_names(&self) -> bool {
        let mut sources = self.description.inputs.iter().map(|input| &input.source);
        sources.any(|source| matches!(source, InputSource::Name(_)))
    }

    /// What names resolve to takes the place of the nil that stands for each in the list of files.
    fn check_input_files(&self) -> Result<(), Output> {
        let listed = self.input_files.len() / size_of::<WireUuid>();
        let inputs = self.description.inputs.len();
        if self.has_names() && listed != inputs {
            return Err(invalid(format!(
                "the job lists {listed} input files for {inputs} inputs: list one for each input, \
                 nil where it is given by name"
            )));
        }
        Ok(())
    }

    /// The submission with every name replaced by what it points to now.
    ///
    /// # Errors
    /// The refusal that the client gets: there is no such name, or the job's record would be too
    /// long without it.
    pub fn resolve(self, names: &Keyspace) -> Result<Resolved, Output> {
        let task_count = self.submit.task_count;
        if !self.has_names() {
            let Submission { record, description, .. } = self;
            return Ok(Resolved { record: record.into(), task_count, description });
        }
        let Submission { submit, program, input_files, mut description, .. } = self;
        let files = items_of::<WireUuid>(input_files).unwrap_or_default();
        let mut files: Vec<WireUuid> = files.to_vec();
        for (input, file) in description.inputs.iter_mut().zip(&mut files) {
            if let Some((source, found)) = follow(input, names)? {
                input.source = source;
                *file = found.to_wire();
            }
        }
        let too_long = |what: &str, length: usize, limit: usize| {
            too_large(format!(
                "the job's {what} has {length} bytes once its names are resolved, the limit is \
                 {limit}: put the inputs into a folder and name that"
            ))
        };
        let encoded = description.encode().map_err(|error| invalid(error.to_string()))?;
        if encoded.len() > limits::DESCRIPTION_BYTES {
            return Err(too_long("description", encoded.len(), limits::DESCRIPTION_BYTES));
        }
        let submit = JobSubmit {
            job_uuid: submit.job_uuid,
            task_count,
            program_kind: submit.program_kind,
            ..JobSubmit::default()
        };
        let record = encode(&submit, &[program, bytes_of(&files), &encoded]);
        if record.len() > limits::JOB_RECORD_BYTES {
            return Err(too_long("record", record.len(), limits::JOB_RECORD_BYTES));
        }
        Ok(Resolved { record: record.into(), task_count, description })
    }
}

/// What an input that is given by name is; `None` for one that is not.
fn follow(input: &Input, names: &Keyspace) -> Result<Option<(InputSource, FileId)>, Output> {
    let InputSource::Name(name) = &input.source else { return Ok(None) };
    let key = name::key(name).map_err(|error| invalid(error.to_string()))?;
    let Some(value) = names.get(&key) else {
        return Err(Output::refused(
            ErrorCode::NotFound,
            format!(
                "there is no name {name:?}, which is to be the input {:?}: set it with \
                 `remuda put PATH {name}`, or see with `remuda ls` which names there are",
                input.name
            ),
        ));
    };
    let Pointer { is_tree, file, length } = Pointer::decode(&value.bytes)
        .map_err(|error| invalid(format!("the name {name:?}: {error}")))?;
    let source = if is_tree {
        InputSource::Tree { tree: file, length }
    } else {
        InputSource::File { file, length, is_executable: false }
    };
    Ok(Some((source, file)))
}
