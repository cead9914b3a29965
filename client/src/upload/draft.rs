//! A job as its user means it, and whether it can be made: everything that this machine can tell is
//! looked at before anything is stored.
//!
//! Deliberately not here: storing (`upload.rs`), and what only the cluster knows, such as whether a
//! name is there.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use proto::description::{
    Array, Input, InputSource, Invalid, JobDescription, Lines, Noop, Program, Runtime,
};
use proto::ids::FileId;
use proto::limits;

use super::lines::{LINES_MAX, LineIndex};

/// A job whose program, inputs and lines may still be on this machine.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Everything else: name, environment, outputs, limits. Its runtime, inputs, lines and array
    /// are not looked at.
    pub settings: JobDescription,
    /// What its tasks execute.
    pub work: Work,
    /// What its tasks see.
    pub inputs: Vec<DraftInput>,
    /// How many tasks there are, and what distinguishes them.
    pub tasks: Tasks,
}

/// What tasks execute.
#[derive(Clone, Debug)]
pub enum Work {
    /// A program of any kind.
    Command {
        /// Which.
        program: DraftProgram,
        /// Its arguments; `{index}` and `{line}` are replaced.
        arguments: Vec<Vec<u8>>,
    },
    /// Nothing, for measuring.
    Noop(Noop),
}

/// Where a program is at present.
#[derive(Clone, Debug)]
pub enum DraftProgram {
    /// On the workers: an absolute path, or a name that they look up.
    Installed(Vec<u8>),
    /// On this machine: an executable file, or a script.
    Local(PathBuf),
    /// A script that begins with `#!`.
    Script(Vec<u8>),
}

/// Something that tasks see under `$REMUDA_INPUTS`.
#[derive(Clone, Debug)]
pub struct DraftInput {
    /// Where they see it: names separated by `/`.
    pub name: String,
    /// Where it is at present.
    pub from: InputFrom,
}

/// Where an input is at present.
#[derive(Clone, Debug)]
pub enum InputFrom {
    /// A file or folder of this machine.
    Local(PathBuf),
    /// What a name of the cluster points to, or something inside it where the path is not empty.
    Name {
        /// The name.
        name: String,
        /// The path inside.
        path: Vec<u8>,
    },
    /// A file or tree of the cluster, or something inside it.
    File {
        /// The file.
        file: FileId,
        /// The path inside.
        path: Vec<u8>,
    },
}

/// The tasks of a job.
#[derive(Clone, Debug)]
pub enum Tasks {
    /// So many, with numbers.
    Array {
        /// Their numbers.
        array: Array,
        /// How many there are.
        count: u64,
    },
    /// One for each line.
    EachLine(LinesFrom),
}

/// Where lines are at present.
#[derive(Clone, Debug)]
pub enum LinesFrom {
    /// In a file of this machine.
    Local(PathBuf),
    /// In memory.
    Memory(Vec<u8>),
}

/// Why a job cannot be made of a draft.
#[derive(Debug, thiserror::Error)]
pub enum DraftError {
    /// Something of this machine is not there, or may not be read.
    #[error("the {what} {} cannot be read", path.display())]
    Unreadable {
        /// What it was to be.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something is no file, nor a folder where one may be.
    #[error("the {what} {} is {found}", path.display())]
    OtherKind {
        /// What it was to be.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What it is, with its article.
        found: &'static str,
    },
    /// A program without the right to be executed.
    #[error("the program {} is not executable", .0.display())]
    NotExecutable(PathBuf),
    /// A file that no kernel would start.
    #[error("the program {} is neither an executable nor begins with #!", .0.display())]
    NotAProgram(PathBuf),
    /// A script that nobody says how to run.
    #[error("the script does not begin with #! and an interpreter")]
    NoInterpreter,
    /// A text without lines.
    #[error("the file of lines is empty: there would be no task")]
    NoLines,
    /// A text with too many lines.
    #[error("the file of lines has more than {LINES_MAX} lines")]
    TooManyLines,
    /// A text that cannot be read.
    #[error("the lines cannot be read")]
    ReadLines(#[source] std::io::Error),
    /// A number of tasks that no job has.
    #[error("a job has 1 to {} tasks, not {count}", limits::TASKS_PER_JOB)]
    TaskCount {
        /// The number.
        count: u64,
    },
    /// Settings that no master would accept.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

/// A draft that was looked at.
#[derive(Clone, Debug)]
pub struct CheckedDraft {
    pub(super) draft: Draft,
    pub(super) lines: Option<LineIndex>,
    task_count: u64,
}

impl CheckedDraft {
    /// Number of tasks of the job.
    #[must_use]
    pub fn task_count(&self) -> u64 {
        self.task_count
    }
}

/// Stands for what is not stored yet while a description is checked.
const ANY_FILE: FileId = FileId(u128::MAX);

impl Draft {
    /// A job of a single task with the defaults of a submission.
    #[must_use]
    pub fn new(work: Work) -> Draft {
        Draft {
            settings: JobDescription::new(Runtime::Noop(Noop::default())),
            work,
            inputs: Vec::new(),
            tasks: Tasks::Array { array: Array::default(), count: 1 },
        }
    }

    /// Looks at everything of this machine that the job needs, and at all settings. Reads the
    /// lines once.
    ///
    /// # Errors
    /// [`DraftError`]: the first problem.
    pub fn check(self) -> Result<CheckedDraft, DraftError> {
        if let Tasks::Array { count, .. } = self.tasks
            && !(1..=limits::TASKS_PER_JOB).contains(&count)
        {
            return Err(DraftError::TaskCount { count });
        }
        self.trial().validate()?;
        if let Work::Command { program, .. } = &self.work {
            check_program(program)?;
        }
        for input in &self.inputs {
            if let InputFrom::Local(path) = &input.from {
                check_input(path)?;
            }
        }
        let lines = match &self.tasks {
            Tasks::Array { .. } => None,
            Tasks::EachLine(LinesFrom::Memory(text)) => Some(LineIndex::of(text.as_slice())?),
            Tasks::EachLine(LinesFrom::Local(path)) => {
                let (file, _) = open_file("file of lines", path)?;
                Some(LineIndex::of(file)?)
            }
        };
        let task_count = match (&self.tasks, &lines) {
            (Tasks::Array { count, .. }, _) => *count,
            (_, Some(lines)) if lines.line_count > 0 => lines.line_count,
            _ => return Err(DraftError::NoLines),
        };
        Ok(CheckedDraft { draft: self, lines, task_count })
    }

    /// The description as it will be, but for the UUIDs of what is not stored yet.
    fn trial(&self) -> JobDescription {
        let runtime = match &self.work {
            Work::Noop(noop) => Runtime::Noop(*noop),
            Work::Command { program, arguments } => {
                let program = match program {
                    DraftProgram::Installed(path) => Program::Path(path.clone()),
                    DraftProgram::Local(_) => Program::File(ANY_FILE),
                    DraftProgram::Script(_) => Program::Inline,
                };
                Runtime::Command { program, arguments: arguments.clone() }
            }
        };
        let input = |input: &DraftInput| {
            let source = match &input.from {
                InputFrom::Name { name, path } if path.is_empty() => {
                    InputSource::Name(name.clone())
                }
                _ => InputSource::File { file: ANY_FILE, length: 0, is_executable: false },
            };
            Input { name: input.name.clone(), source }
        };
        let (lines, array) = match &self.tasks {
            Tasks::Array { array, .. } => (None, *array),
            Tasks::EachLine(_) => {
                let lines = Lines { text: ANY_FILE, text_length: 0, offsets: ANY_FILE };
                (Some(lines), Array::default())
            }
        };
        let inputs = self.inputs.iter().map(input).collect();
        JobDescription { runtime, inputs, lines, array, ..self.settings.clone() }
    }
}

/// Opens a file, which may be a link to one.
fn open_file(what: &'static str, path: &Path) -> Result<(File, Metadata), DraftError> {
    let unreadable = |source| DraftError::Unreadable { what, path: path.to_owned(), source };
    // A pipe would wait for its writer: it is looked at before it is opened.
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        let found = if metadata.is_dir() { "a folder" } else { "no ordinary file" };
        return Err(DraftError::OtherKind { what, path: path.to_owned(), found });
    }
    let file = File::open(path).map_err(unreadable)?;
    Ok((file, metadata))
}

fn check_program(program: &DraftProgram) -> Result<(), DraftError> {
    match program {
        DraftProgram::Installed(_) => Ok(()),
        DraftProgram::Script(script) if script.starts_with(b"#!") => Ok(()),
        DraftProgram::Script(_) => Err(DraftError::NoInterpreter),
        DraftProgram::Local(path) => {
            let (mut file, metadata) = open_file("program", path)?;
            if metadata.permissions().mode() & 0o111 == 0 {
                return Err(DraftError::NotExecutable(path.clone()));
            }
            let mut head = Vec::new();
            let read = file.by_ref().take(4).read_to_end(&mut head);
            read.map_err(|source| {
                let path = path.clone();
                DraftError::Unreadable { what: "program", path, source }
            })?;
            if head.starts_with(b"#!") || head == b"\x7fELF" {
                Ok(())
            } else {
                Err(DraftError::NotAProgram(path.clone()))
            }
        }
    }
}

fn check_input(path: &Path) -> Result<(), DraftError> {
    let unreadable =
        |source| DraftError::Unreadable { what: "input", path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(unreadable)?.is_dir() {
        return std::fs::read_dir(path).map(|_| ()).map_err(unreadable);
    }
    open_file("input", path).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(program: DraftProgram) -> Work {
        Work::Command { program, arguments: Vec::new() }
    }

    fn installed() -> Draft {
        Draft::new(work(DraftProgram::Installed(b"true".to_vec())))
    }

    #[track_caller]
    fn refused(draft: Draft, says: &str) {
        let error = draft.check().unwrap_err();
        let mut text = error.to_string();
        if let Some(source) = std::error::Error::source(&error) {
            text.push_str(&source.to_string());
        }
        assert!(text.contains(says), "{text}");
    }

    fn write(folder: &Path, name: &str, content: &[u8], mode: u32) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn programs_of_this_machine_are_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let local = |name, content: &[u8], mode| {
            let path = write(folder.path(), name, content, mode);
            Draft::new(work(DraftProgram::Local(path)))
        };
        assert!(local("script", b"#!/bin/sh\n", 0o755).check().is_ok());
        assert!(local("binary", b"\x7fELF\x02", 0o700).check().is_ok());
        refused(local("text", b"#!/bin/sh\n", 0o644), "is not executable");
        refused(local("other", b"echo hello\n", 0o755), "nor begins with #!");
        refused(local("empty", b"", 0o755), "nor begins with #!");
        let absent = folder.path().join("absent");
        refused(Draft::new(work(DraftProgram::Local(absent))), "No such file");
        let itself = folder.path().to_owned();
        refused(Draft::new(work(DraftProgram::Local(itself))), "is a folder");
        let script = |text: &[u8]| Draft::new(work(DraftProgram::Script(text.to_vec())));
        assert!(script(b"#!/bin/sh\necho").check().is_ok());
        refused(script(b"echo"), "does not begin with #!");
    }

    #[test]
    fn inputs_are_looked_at_and_named_inside_their_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), "data", b"1", 0o644);
        let with = |inputs: &[(&str, &Path)]| {
            let input = |(name, path): &(&str, &Path)| DraftInput {
                name: (*name).to_owned(),
                from: InputFrom::Local((*path).to_owned()),
            };
            Draft { inputs: inputs.iter().map(input).collect(), ..installed() }
        };
        assert!(with(&[("a", &path), ("b/c", folder.path())]).check().is_ok());
        refused(with(&[("a", &folder.path().join("absent"))]), "No such file");
        refused(with(&[("a", Path::new("/dev/null"))]), "is no ordinary file");
        refused(with(&[("../a", &path)]), "must be a path inside the inputs");
        refused(with(&[("a", &path), ("a", &path)]), "two inputs are named \"a\"");
        refused(with(&[("a", &path), ("a/b", &path)]), "would lie inside the input");
    }

    #[test]
    fn a_job_has_tasks() {
        let array =
            |count| Draft { tasks: Tasks::Array { array: Array::default(), count }, ..installed() };
        assert_eq!(array(7).check().unwrap().task_count(), 7);
        refused(array(0), "a job has 1 to 4294967296 tasks, not 0");
        refused(array(limits::TASKS_PER_JOB + 1), "not 4294967297");
        let lines = |text: &[u8]| Draft {
            tasks: Tasks::EachLine(LinesFrom::Memory(text.to_vec())),
            ..installed()
        };
        assert_eq!(lines(b"a\nb").check().unwrap().task_count(), 2);
        refused(lines(b""), "there would be no task");
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), "lines", b"a\nb\nc\n", 0o644);
        let local =
            |path: PathBuf| Draft { tasks: Tasks::EachLine(LinesFrom::Local(path)), ..installed() };
        assert_eq!(local(path).check().unwrap().task_count(), 3);
        refused(local(folder.path().join("absent")), "No such file");
    }
}
