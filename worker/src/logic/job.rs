//! What a worker knows of a job whose tasks it was dealt.

use std::sync::Arc;

use proto::description::{JobDescription, NotADescription, Program, Runtime};
use proto::ids::{FileId, JobId};
use proto::messages::task::WorkerRequest;
use proto::status::ProgramKind;
use proto::wire::{WireUuid, items_of};

/// A job as it was dealt.
#[derive(Clone, Debug, PartialEq)]
pub struct JobSpec {
    /// The job.
    pub job: JobId,
    /// Number of its tasks.
    pub task_count: u64,
    /// A script or executable, where the deal carried one.
    pub program: Vec<u8>,
    /// Input files that the deal named beside the description's.
    pub input_files: Vec<FileId>,
    /// Everything else.
    pub description: JobDescription,
}

/// A deal that cannot be executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAJob {
    /// The program kind does not exist.
    ProgramKind(u8),
    /// The description cannot be read.
    Description(NotADescription),
    /// The description makes no sense.
    Invalid(String),
}

impl std::fmt::Display for NotAJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NotAJob::ProgramKind(kind) => write!(f, "program kind {kind} does not exist"),
            NotAJob::Description(error) => write!(f, "{error}"),
            NotAJob::Invalid(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for NotAJob {}

impl JobSpec {
    /// Reads the job of a deal.
    ///
    /// # Errors
    /// [`NotAJob`] where the deal names something that does not exist.
    pub fn of(
        request: &WorkerRequest,
        [program, input_files, description]: [&[u8]; 3],
    ) -> Result<Arc<JobSpec>, NotAJob> {
        let kind = ProgramKind::from_wire(request.program_kind)
            .ok_or(NotAJob::ProgramKind(request.program_kind))?;
        let description = match kind {
            ProgramKind::Inline if description.is_empty() => {
                JobDescription::new(Runtime::Command {
                    program: Program::Inline,
                    arguments: Vec::new(),
                })
            }
            _ => JobDescription::decode(description).map_err(NotAJob::Description)?,
        };
        description.validate().map_err(|error| NotAJob::Invalid(error.to_string()))?;
        let input_files = items_of::<WireUuid>(input_files).unwrap_or_default();
        Ok(Arc::new(JobSpec {
            job: request.job_uuid.into(),
            task_count: request.job_task_count,
            program: program.to_vec(),
            input_files: input_files.iter().map(|&file| file.into()).collect(),
            description,
        }))
    }
}
