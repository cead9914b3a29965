//! A job whose program, inputs and lines are on this machine: looked at, stored, described.
//!
//! [`Draft::check`] finds every mistake that this machine can see; [`Client::upload`] then stores
//! what is not on the cluster yet and makes the [`Submission`]. Deliberately not here: how a job is
//! written down by its user, and submitting it.

mod draft;
mod lines;
mod survey;

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use proto::description::{Array, Input, InputSource, JobDescription, Lines, Program, Runtime};
use proto::ids::{FileId, JobId};
use proto::limits;
use proto::messages::job::JobSubmit;
use proto::name::Pointer;
use proto::tree::Folder;
use proto::wire::WireUuid;

use crate::blocking::Client;
use crate::error::ClientError;
use crate::local::FileProgress;
use crate::logic::jobs::{NotSendable, Submission};
use crate::tree::{Resolved, Times, TreeProgress};

pub use draft::{
    CheckedDraft, Draft, DraftError, DraftInput, DraftProgram, InputFrom, LinesFrom, Tasks, Work,
};
use lines::LineIndex;
pub use survey::{Extent, Survey};

/// A UUID for a new job.
///
/// # Errors
/// [`ClientError::Start`] where the operating system gives no randomness.
pub fn new_job_id() -> Result<JobId, ClientError> {
    Ok(JobId::from_random(node::random::bits().map_err(ClientError::Start)?))
}

impl Client {
    /// Stores the program, the inputs and the lines of a job, and a description that is too long to
    /// travel inline; what is on storage already costs a question. When this returns, all of it is
    /// durable. `progress` hears of files of the inputs.
    ///
    /// Names stay names, so that they are looked up when the job is accepted, except where a path
    /// behind one is meant or the description has become a file.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn upload(
        &self,
        draft: CheckedDraft,
        job: JobId,
        progress: &mut dyn FnMut(TreeProgress),
    ) -> Result<Submission, ClientError> {
        let task_count = draft.task_count();
        let CheckedDraft { draft, lines, .. } = draft;
        let Draft { settings, work, inputs, tasks } = draft;
        let (runtime, script) = self.runtime(work)?;
        let (lines, array) = match (tasks, lines) {
            (Tasks::EachLine(from), Some(index)) => {
                (Some(self.lines(from, index)?), Array::default())
            }
            (Tasks::Array { array, .. }, _) => (None, array),
            // Checking made an index.
            (Tasks::EachLine(_), None) => return Err(ClientError::OtherAnswer),
        };
        let mut so_far = TreeProgress::default();
        let mut sources = Vec::with_capacity(inputs.len());
        for DraftInput { name, from } in inputs {
            let source = self.input(from, &mut so_far, progress)?;
            sources.push(Input { name, source });
        }
        let inputs = sources;
        let description = JobDescription { runtime, inputs, lines, array, ..settings };
        self.submission(job, task_count, description, script)
    }

    /// The runtime, and the script where one is to travel along.
    fn runtime(&self, work: Work) -> Result<(Runtime, Vec<u8>), ClientError> {
        let (program, arguments) = match work {
            Work::Noop(noop) => return Ok((Runtime::Noop(noop), Vec::new())),
            Work::Command { program, arguments } => (program, arguments),
        };
        let (program, script) = match program {
            DraftProgram::Installed(path) => (Program::Path(path), Vec::new()),
            DraftProgram::Local(path) => (Program::File(self.put_file(&path)?), Vec::new()),
            DraftProgram::Script(script) => (Program::Inline, script),
        };
        Ok((Runtime::Command { program, arguments }, script))
    }

    fn lines(&self, from: LinesFrom, index: LineIndex) -> Result<Lines, ClientError> {
        let text = match from {
            LinesFrom::Memory(text) => self.put_bytes(text)?,
            LinesFrom::Local(path) => {
                let (text, length, begun) = self.begin_put_file(&path)?;
                begun.wait()??;
                if length != index.text_length {
                    let changed = std::io::Error::other("it was changed while it was read");
                    return Err(ClientError::file("read", &path, changed));
                }
                text
            }
        };
        let offsets = self.put_bytes(index.offsets)?;
        Ok(Lines { text, text_length: index.text_length, offsets })
    }

    fn input(
        &self,
        from: InputFrom,
        so_far: &mut TreeProgress,
        progress: &mut dyn FnMut(TreeProgress),
    ) -> Result<InputSource, ClientError> {
        match from {
            InputFrom::Local(path) => self.local_input(&path, so_far, progress),
            InputFrom::Name { name, path } if path.is_empty() => Ok(InputSource::Name(name)),
            InputFrom::Name { name, path } => {
                let pointer = self.name(&name)?.pointer;
                self.resolved_input(self.resolve(pointer, &path)?)
            }
            InputFrom::File { file, path } => self.resolved_input(self.resolve_file(file, &path)?),
        }
    }

    fn local_input(
        &self,
        path: &Path,
        so_far: &mut TreeProgress,
        progress: &mut dyn FnMut(TreeProgress),
    ) -> Result<InputSource, ClientError> {
        let metadata = std::fs::metadata(path);
        let metadata = metadata.map_err(|error| ClientError::file("look at", path, error))?;
        let before = *so_far;
        let mut sum = |now: TreeProgress| {
            *so_far =
                TreeProgress { files: before.files + now.files, bytes: before.bytes + now.bytes };
            progress(*so_far);
        };
        if metadata.is_dir() {
            let tree = self.put_tree(path, Times::Without, &mut sum)?.pointer;
            return Ok(InputSource::Tree { tree: tree.file, length: tree.length });
        }
        let mut part = |it: FileProgress| sum(TreeProgress { files: 0, bytes: it.done });
        let Pointer { file, length, .. } = self.put_file_with(path, &mut part)?.pointer;
        sum(TreeProgress { files: 1, bytes: length });
        let is_executable = metadata.mode() & 0o111 != 0;
        Ok(InputSource::File { file, length, is_executable })
    }

    /// An input that is on storage already.
    fn resolved_input(&self, found: Resolved) -> Result<InputSource, ClientError> {
        match found {
            Resolved::File { file, length, mode } => {
                let length = match length {
                    Some(length) => length,
                    None => self.file_length(file)?,
                };
                let is_executable = mode.is_some_and(|mode| mode & 0o111 != 0);
                Ok(InputSource::File { file, length, is_executable })
            }
            Resolved::Folder(folder) => {
                let tree = self.put_folder(&folder)?;
                Ok(InputSource::Tree { tree: tree.file, length: tree.length })
            }
            Resolved::Link(target) => {
                let target = String::from_utf8_lossy(&target).into_owned();
                Err(ClientError::IsLink { target })
            }
        }
    }

    /// Stores the list of a folder whose files are on storage: a folder inside a tree becomes a
    /// tree of its own.
    fn put_folder(&self, folder: &Folder) -> Result<Pointer, ClientError> {
        let encoded = folder.encode()?;
        let mut begun = Vec::with_capacity(encoded.folders.len());
        for inner in encoded.folders {
            begun.push(self.begin_put_bytes(inner.bytes)?.1);
        }
        for inner in begun {
            inner.wait()??;
        }
        let length = encoded.root.bytes.len() as u64;
        let file = self.put_bytes(encoded.root.bytes)?;
        Ok(Pointer { is_tree: true, file, length })
    }

    /// Bytes of a file on storage.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn file_length(&self, file: FileId) -> Result<u64, ClientError> {
        let mut pieces = self.stream(file, 0..1);
        while pieces.next_piece()?.is_some() {}
        pieces.length().ok_or(ClientError::OtherAnswer)
    }

    /// Decides what travels along and what is stored.
    pub(crate) fn submission(
        &self,
        job: JobId,
        task_count: u64,
        mut description: JobDescription,
        script: Vec<u8>,
    ) -> Result<Submission, ClientError> {
        let fit = fit(&description, script.len())?;
        if fit == Fit::AllTravels {
            return Ok(Submission::new(job, &description, task_count, script)?);
        }
        if let Runtime::Command { program: program @ Program::Inline, .. } =
            &mut description.runtime
        {
            *program = Program::File(self.put_bytes(script)?);
        }
        if fit == Fit::DescriptionIsStored {
            description = self.stored(description)?;
        }
        Ok(Submission::new(job, &description, task_count, Vec::new())?)
    }

    /// A short description that names the long one.
    fn stored(&self, mut long: JobDescription) -> Result<JobDescription, ClientError> {
        for input in &mut long.inputs {
            if let InputSource::Name(name) = &input.source {
                let pointer = self.name(name)?.pointer;
                input.source = of_pointer(pointer);
            }
        }
        let inner = JobDescription {
            runtime: long.runtime,
            environment: std::mem::take(&mut long.environment),
            inputs: std::mem::take(&mut long.inputs),
            outputs: std::mem::take(&mut long.outputs),
            retry: long.retry.clone(),
            // All else is said by the description that names it.
            ..JobDescription::new(Runtime::Noop(proto::description::Noop::default()))
        };
        // The masters want to know the job, and no more.
        if let Some(retry) = &mut long.retry {
            retry.tasks.clear();
        }
        let encoded = inner.encode().map_err(|_| TOO_LONG)?;
        let length = encoded.len() as u64;
        let file = self.put_bytes(encoded)?;
        Ok(JobDescription { runtime: Runtime::Stored { file, length }, ..long })
    }
}

const TOO_LONG: NotSendable = NotSendable { what: "the job's description" };

fn of_pointer(pointer: Pointer) -> InputSource {
    let Pointer { is_tree, file, length } = pointer;
    if is_tree {
        InputSource::Tree { tree: file, length }
    } else {
        InputSource::File { file, length, is_executable: false }
    }
}

/// What of a job travels inside its submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    /// Script and description.
    AllTravels,
    /// The description; the script is a file.
    ScriptIsStored,
    /// Neither.
    DescriptionIsStored,
}

fn fit(description: &JobDescription, script_bytes: usize) -> Result<Fit, NotSendable> {
    // The masters replace names by what they point to, which may be longer.
    let mut longest = description.clone();
    for input in &mut longest.inputs {
        if let InputSource::Name(name) = &input.source {
            let unknown = Pointer { is_tree: false, file: FileId(u128::MAX), length: u64::MAX };
            let resolved = of_pointer(unknown);
            // A short name takes less than a UUID, a long one more: what counts is the longer.
            if name.len() < LONGEST_POINTER_BYTES {
                input.source = resolved;
            }
        }
    }
    let length = longest.encode().map_err(|_| TOO_LONG)?.len();
    if length > limits::DESCRIPTION_BYTES {
        return Ok(Fit::DescriptionIsStored);
    }
    let inputs = description.inputs.len() * size_of::<WireUuid>();
    if size_of::<JobSubmit>() + script_bytes + inputs + length > limits::JOB_RECORD_BYTES {
        return Ok(Fit::ScriptIsStored);
    }
    Ok(Fit::AllTravels)
}

/// Bytes of an encoded UUID and length: what a name becomes takes no more.
const LONGEST_POINTER_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn command(arguments: Vec<Vec<u8>>) -> JobDescription {
        JobDescription::new(Runtime::Command { program: Program::Inline, arguments })
    }

    #[test]
    fn what_is_short_travels_along() {
        let short = command(Vec::new());
        assert_eq!(fit(&short, 1000), Ok(Fit::AllTravels));
        assert_eq!(fit(&short, limits::JOB_RECORD_BYTES), Ok(Fit::ScriptIsStored));
        let long = command(vec![vec![b'a'; limits::DESCRIPTION_BYTES]]);
        assert_eq!(fit(&long, 10), Ok(Fit::DescriptionIsStored));
        let too_long = command(vec![vec![b'a'; limits::DESCRIPTION_FILE_BYTES]]);
        assert_eq!(fit(&too_long, 10), Err(TOO_LONG));
    }

    /// A submission that travels whole is one that can be sent, to the byte.
    #[test]
    fn the_longest_script_that_travels_can_be_sent() {
        use crate::logic::jobs::Request;
        use proto::ids::LogIndex;

        let mut description = command(vec![b"argument".to_vec()]);
        for at in 0..20 {
            let source = InputSource::File { file: FileId(9), length: 4, is_executable: true };
            description.inputs.push(Input { name: format!("input-{at}"), source });
        }
        let mut longest = limits::JOB_RECORD_BYTES;
        while fit(&description, longest) != Ok(Fit::AllTravels) {
            longest -= 1;
        }
        let sent = |length: usize| {
            let script = vec![b'#'; length];
            let submission = Submission::new(JobId(1), &description, 1, script).unwrap();
            Request::Submit(submission).encode(LogIndex(1), LogIndex(1))
        };
        assert!(sent(longest).is_ok());
        assert!(sent(longest + 1).is_err());
    }

    #[test]
    fn names_leave_room_for_what_they_point_to() {
        let with = |name: &str, count: usize| {
            let mut description = command(Vec::new());
            for at in 0..count {
                let source = InputSource::Name(name.to_owned());
                description.inputs.push(Input { name: format!("{at:03}"), source });
            }
            description
        };
        let count = (1..500).find(|count| fit(&with("n", *count), 0) != Ok(Fit::AllTravels));
        let mut last = with("n", count.unwrap() - 1);
        for input in &mut last.inputs {
            let (tree, length) = (FileId(u128::MAX), limits::FILE_BYTES);
            input.source = InputSource::Tree { tree, length };
        }
        assert!(last.encode().unwrap().len() <= limits::DESCRIPTION_BYTES);
        // Names that are long themselves are measured as they are.
        let name = "n".repeat(limits::NAME_BYTES);
        assert_eq!(fit(&with(&name, 16), 0), Ok(Fit::DescriptionIsStored));
    }
}
