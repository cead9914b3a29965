//! Fetches from storage what the tasks of one job need, into one folder.
//!
//! The folder is shown to nobody before all is there. Deliberately not here: for whom, when, and
//! how long it stays.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use client::logic::transfer::TransferError;
use client::{Client, ClientError};
use mount::InputShown;
use proto::description::{InputSource, JobDescription, Program, Runtime};
use proto::ids::FileId;
use proto::limits::{DESCRIPTION_FILE_BYTES, TREE_DEPTH};
use proto::status::Cause;
use proto::tree::{Entry, Folder, Node, TreeError};

use super::lines::LineReader;
use super::mounted::Shown;
use super::{Missing, PASSABLE, View};
use crate::logic::job::JobSpec;

/// Permissions of what everybody may read and nobody write.
const READABLE: u32 = 0o444;

/// As above for programs and folders.
const EXECUTABLE: u32 = 0o555;

/// Most entries of a tree with all that is in it: a tree may name the same one in it again and
/// again, and all of it would be made here (eyeballed, ten large source trees).
const ENTRIES: u64 = 4_000_000;

/// One fetch.
pub(super) struct Fetch<'a> {
    pub(super) client: &'a Arc<Client>,
    /// Where to; absent at the beginning.
    pub(super) folder: PathBuf,
    /// Asks for room on the disk.
    pub(super) reserve: &'a dyn Fn(u64) -> Result<(), Missing>,
    /// Whether anybody still waits for it.
    pub(super) is_wanted: &'a dyn Fn() -> bool,
    /// Shows inputs through a mount, and says where; `None` where they are to be materialised.
    pub(super) show: Option<&'a dyn Fn(Shown) -> Result<PathBuf, String>>,
}

impl Fetch<'_> {
    /// Fetches all that there is. Whoever calls it removes the folder where it fails.
    pub(super) fn whole(&self, spec: &JobSpec) -> Result<View, Missing> {
        let spec = match &spec.description.runtime {
            Runtime::Stored { file, length } => self.stored(spec, *file, *length)?,
            Runtime::Command { .. } | Runtime::Noop(_) | Runtime::Fold { .. } => spec.clone(),
        };
        fs::create_dir_all(&self.folder)
            .and_then(|()| set_mode(&self.folder, PASSABLE))
            .map_err(|error| self.trouble(&error))?;
        let inputs = match self.show {
            Some(show) => self.shown(&spec, show)?,
            None => self.materialised(&spec)?,
        };
        let program = self.program(&spec)?;
        let lines = spec.description.lines;
        let lines = lines.map(|lines| LineReader::new(self.client.clone(), lines));
        Ok(View { spec, inputs, program, lines })
    }

    /// Has the inputs shown by a mount, after a look whether they exist: whoever reads what does
    /// not would get an error that says less.
    fn shown(
        &self,
        spec: &JobSpec,
        show: &dyn Fn(Shown) -> Result<PathBuf, String>,
    ) -> Result<PathBuf, Missing> {
        let mut shown = Shown::new();
        for file in unnamed(spec) {
            let length = self.length(file, &format!("the input file {file}"))?;
            let input = InputShown::File { file, length, is_executable: false };
            shown.push((file.to_string(), input));
        }
        for input in &spec.description.inputs {
            self.go_on()?;
            let whose = format!("the input {:?}", input.name);
            let seen = match &input.source {
                InputSource::File { file, length, is_executable } => {
                    let (file, wanted, is_executable) = (*file, *length, *is_executable);
                    let found = self.length(file, &whose)?;
                    if wanted != found {
                        return Err(other_length(&whose, wanted, found));
                    }
                    InputShown::File { file, length: found, is_executable }
                }
                InputSource::Tree { tree, length } => {
                    self.client.read_tree(*tree).map_err(|error| missing(&whose, &error))?;
                    InputShown::Tree { tree: *tree, length: *length }
                }
                InputSource::Name(pointer) => return Err(not_resolved(&whose, pointer)),
            };
            shown.push((input.name.clone(), seen));
        }
        show(shown).map_err(Missing::Trouble)
    }

    /// Bytes of a file.
    fn length(&self, file: FileId, whose: &str) -> Result<u64, Missing> {
        let mut pieces = self.client.stream(file, 0..0);
        while pieces.next_piece().map_err(|error| missing(whose, &error))?.is_some() {}
        Ok(pieces.length().unwrap_or(0))
    }

    /// Makes the inputs as files.
    fn materialised(&self, spec: &JobSpec) -> Result<PathBuf, Missing> {
        let inputs = self.folder.join("inputs");
        fs::create_dir_all(&inputs).map_err(|error| self.trouble(&error))?;
        for file in unnamed(spec) {
            let whose = format!("the input file {file}");
            self.file(file, None, &inputs.join(file.to_string()), READABLE, &whose)?;
        }
        for input in &spec.description.inputs {
            self.input(&inputs, &input.name, &input.source)?;
        }
        // All that is in them was made with its own mode; these stand around it.
        let names = spec.description.inputs.iter().map(|input| Path::new(&input.name));
        let around = names.flat_map(|name| name.ancestors().skip(1)).chain([Path::new("")]);
        for folder in around {
            set_mode(&inputs.join(folder), EXECUTABLE).map_err(|error| self.trouble(&error))?;
        }
        Ok(inputs)
    }

    fn stored(&self, spec: &JobSpec, file: FileId, length: u64) -> Result<JobSpec, Missing> {
        let whose = format!("the description {file} of the job");
        let limit = DESCRIPTION_FILE_BYTES as u64;
        let begun = self.client.begin_get(file, 0..u64::MAX, limit);
        let bytes = begun.wait().map_err(ClientError::from).and_then(|it| it);
        let bytes = bytes.map_err(|error| not_started(missing(&whose, &error)))?;
        if bytes.len() as u64 != length {
            return Err(not_started(other_length(&whose, length, bytes.len() as u64)));
        }
        with_stored(spec, &bytes)
            .map_err(|why| Missing::Job(Cause::NotStarted, format!("{whose}: {why}")))
    }

    fn input(&self, inputs: &Path, name: &str, source: &InputSource) -> Result<(), Missing> {
        let whose = format!("the input {name:?}");
        let path = inputs.join(name);
        let around = path.parent().unwrap_or(inputs);
        fs::create_dir_all(around).map_err(|error| self.trouble(&error))?;
        match source {
            InputSource::File { file, length, is_executable } => {
                let mode = if *is_executable { EXECUTABLE } else { READABLE };
                self.file(*file, Some(*length), &path, mode, &whose)
            }
            InputSource::Tree { tree, .. } => self.tree(*tree, &path, &whose),
            InputSource::Name(pointer) => Err(not_resolved(&whose, pointer)),
        }
    }

    fn program(&self, spec: &JobSpec) -> Result<Option<PathBuf>, Missing> {
        let Runtime::Command { program, .. } = &spec.description.runtime else { return Ok(None) };
        let path = self.folder.join("program");
        match program {
            Program::Path(_) => return Ok(None),
            Program::Inline if spec.program.is_empty() => {
                let text = "the program of the job is empty".to_owned();
                return Err(Missing::Job(Cause::NotStarted, text));
            }
            Program::Inline => {
                let write = || {
                    fs::write(&path, &spec.program)?;
                    set_mode(&path, EXECUTABLE)
                };
                write().map_err(|error| self.trouble(&error))?;
            }
            Program::File(file) => {
                let whose = format!("the program {file}");
                self.file(*file, None, &path, EXECUTABLE, &whose).map_err(not_started)?;
            }
        }
        Ok(Some(path))
    }

    /// Writes a file of storage. The descriptor is closed when this returns, and is not passed on
    /// to what is started meanwhile: a program that somebody could write to cannot be executed.
    fn file(
        &self,
        file: FileId,
        wanted: Option<u64>,
        path: &Path,
        mode: u32,
        whose: &str,
    ) -> Result<(), Missing> {
        let target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let target = target.map_err(|error| self.trouble(&error))?;
        let (mut pieces, mut reserved, mut found) = (self.client.stream(file, 0..u64::MAX), 0, 0);
        loop {
            self.go_on()?;
            let piece = pieces.next_piece().map_err(|error| missing(whose, &error))?;
            let Some(piece) = piece else { break };
            let length = pieces.length().unwrap_or(0);
            if let Some(wanted) = wanted.filter(|wanted| *wanted != length) {
                return Err(other_length(whose, wanted, length));
            }
            if reserved == 0 {
                reserved = length;
                (self.reserve)(length)?;
            }
            let written = target.write_all_at(&piece.content, piece.offset);
            written.map_err(|error| self.trouble(&error))?;
            found += piece.content.len() as u64;
        }
        if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
            return Err(other_length(whose, wanted, found));
        }
        target.set_permissions(Permissions::from_mode(mode)).map_err(|error| self.trouble(&error))
    }

    fn tree(&self, tree: FileId, path: &Path, whose: &str) -> Result<(), Missing> {
        let folder = self.client.read_tree(tree).map_err(|error| missing(whose, &error))?;
        let mut size = Size::default();
        let folder = self.whole_tree(&folder, 1, &mut size, whose)?;
        (self.reserve)(size.bytes)?;
        self.go_on()?;
        let made = self.client.get_folder(&folder, path, &mut |_| {});
        made.map_err(|error| missing(whose, &error))?;
        set_mode(path, EXECUTABLE).map_err(|error| self.trouble(&error))
    }

    /// A tree with all trees in it as its own folders, with the modes that inputs have.
    fn whole_tree(
        &self,
        folder: &Folder,
        depth: usize,
        size: &mut Size,
        whose: &str,
    ) -> Result<Folder, Missing> {
        self.go_on()?;
        let bad = |error: TreeError| missing(whose, &ClientError::Tree(error));
        if depth > TREE_DEPTH {
            return Err(bad(TreeError::Depth));
        }
        let mut entries = Vec::with_capacity(folder.entries().len());
        for entry in folder.entries() {
            size.entries += 1;
            if size.entries > ENTRIES {
                let text = format!("{whose} has more than {ENTRIES} files and folders");
                return Err(Missing::Job(Cause::InputFailed, text));
            }
            let node = match &entry.node {
                Node::File { file, length } => {
                    size.bytes = size.bytes.saturating_add(*length);
                    Node::File { file: *file, length: *length }
                }
                Node::Folder(inner) => {
                    Node::Folder(self.whole_tree(inner, depth + 1, size, whose)?)
                }
                Node::Tree { tree, .. } => {
                    let inner = self.client.read_tree(*tree);
                    let inner = inner.map_err(|error| missing(whose, &error))?;
                    Node::Folder(self.whole_tree(&inner, depth + 1, size, whose)?)
                }
                Node::Link { target } => Node::Link { target: target.clone() },
            };
            let mode = shown_mode(entry);
            entries.push(Entry { name: entry.name.clone(), mode, modified: entry.modified, node });
        }
        Folder::new(entries).map_err(bad)
    }

    /// Ends a fetch that nobody waits for any more.
    fn go_on(&self) -> Result<(), Missing> {
        if (self.is_wanted)() { Ok(()) } else { Err(Missing::Cancelled) }
    }

    /// Trouble with this machine's disk.
    fn trouble(&self, error: &io::Error) -> Missing {
        Missing::Trouble(format!("inputs cannot be kept in {}: {error}", self.folder.display()))
    }
}

/// The input files that a deal lists and the description does not name: it lists all of them, for
/// whoever places tasks near them.
fn unnamed(spec: &JobSpec) -> BTreeSet<FileId> {
    let inputs = spec.description.inputs.iter();
    let named: BTreeSet<FileId> = inputs
        .filter_map(|input| match &input.source {
            InputSource::File { file, .. } => Some(*file),
            InputSource::Tree { tree, .. } => Some(*tree),
            InputSource::Name(_) => None,
        })
        .collect();
    let listed = spec.input_files.iter().copied();
    listed.filter(|file| !file.is_nil() && !named.contains(file)).collect()
}

#[derive(Default)]
struct Size {
    entries: u64,
    bytes: u64,
}

/// Whoever owns a file may execute it or not; everybody here may as its owner does, and nobody
/// may write.
fn shown_mode(entry: &Entry) -> u16 {
    let is_executable = match entry.node {
        Node::File { .. } => entry.mode & 0o100 != 0,
        Node::Folder(_) | Node::Tree { .. } => true,
        // The mode of a link means nothing and is always the same.
        Node::Link { .. } => return entry.mode,
    };
    // Both are at most 0o777.
    (if is_executable { EXECUTABLE } else { READABLE }) as u16
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// The job with what stands in the file of its description.
fn with_stored(spec: &JobSpec, bytes: &[u8]) -> Result<JobSpec, String> {
    let stored = JobDescription::decode_file(bytes).map_err(|error| error.to_string())?;
    stored.validate().map_err(|error| error.to_string())?;
    if !matches!(stored.runtime, Runtime::Command { .. }) {
        return Err("a stored description is of a program, and this one is not".to_owned());
    }
    let description = JobDescription {
        runtime: stored.runtime,
        environment: stored.environment,
        inputs: stored.inputs,
        outputs: stored.outputs,
        retry: stored.retry,
        ..spec.description.clone()
    };
    Ok(JobSpec { description, ..spec.clone() })
}

fn not_resolved(whose: &str, pointer: &str) -> Missing {
    let text = format!(
        "{whose} is still the name {pointer:?}: masters resolve names when a job is submitted, so \
         this job came by an older one; submit it again"
    );
    Missing::Job(Cause::InputFailed, text)
}

fn other_length(whose: &str, wanted: u64, found: u64) -> Missing {
    let text = format!("{whose} has {found} bytes, and the job was submitted with {wanted}");
    Missing::Job(Cause::InputFailed, text)
}

/// A task without its program is not one with a bad input.
fn not_started(missing: Missing) -> Missing {
    match missing {
        Missing::Job(_, text) => Missing::Job(Cause::NotStarted, text),
        other => other,
    }
}

/// What an error means for the tasks that need it.
pub(super) fn missing(whose: &str, error: &ClientError) -> Missing {
    let text = format!("{whose} cannot be fetched: {}", node::log::chain(error));
    if is_final(error) { Missing::Job(Cause::InputFailed, text) } else { Missing::Trouble(text) }
}

/// Whether it would be the same at every attempt.
fn is_final(error: &ClientError) -> bool {
    match error {
        ClientError::At { source, .. } => is_final(source),
        ClientError::Transfer(error) => {
            matches!(error, TransferError::NotFound { .. } | TransferError::NotAFile { .. })
        }
        ClientError::Tree(_) | ClientError::TooLarge { .. } | ClientError::OtherLength { .. } => {
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proto::description::{DESCRIPTION_VERSION, Input, Retry};
    use proto::ids::{BlockId, JobId};
    use proto::tree::ModificationTime;

    use super::*;

    fn spec() -> JobSpec {
        let runtime = Runtime::Stored { file: FileId(9), length: 1 };
        let mut description = JobDescription::new(runtime);
        description.memory_bytes = 7;
        JobSpec {
            job: JobId(1),
            task_count: 1,
            program: b"#!".to_vec(),
            input_files: Vec::new(),
            description,
        }
    }

    #[test]
    fn a_stored_description_holds_where_it_says_something() {
        let runtime = Runtime::Command { program: Program::Inline, arguments: vec![b"1".to_vec()] };
        let mut stored = JobDescription::new(runtime);
        stored.outputs = vec!["*.txt".to_owned()];
        stored.environment = vec![("A".to_owned(), "B".to_owned())];
        stored.memory_bytes = 8;
        stored.retry = Some(Retry { job: JobId(3), tasks: vec![4..6, 8..9] });
        let merged = with_stored(&spec(), &stored.encode().unwrap()).unwrap();
        assert_eq!(merged.description.runtime, stored.runtime);
        assert_eq!(merged.description.outputs, stored.outputs);
        assert_eq!(merged.description.environment, stored.environment);
        assert_eq!(merged.description.retry, stored.retry);
        assert_eq!((merged.description.memory_bytes, merged.program), (7, b"#!".to_vec()));
    }

    #[test]
    fn a_stored_description_is_believed_only_where_it_makes_sense() {
        let mut climbing = JobDescription::new(Runtime::Command {
            program: Program::Inline,
            arguments: Vec::new(),
        });
        climbing.outputs = vec!["../x".to_owned()];
        for (bytes, why) in [
            ([DESCRIPTION_VERSION].to_vec(), "cannot be read"),
            (spec().description.encode().unwrap(), "this one is not"),
            (climbing.encode().unwrap(), "../x"),
        ] {
            let error = with_stored(&spec(), &bytes).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn what_is_named_is_not_shown_again() {
        let mut spec = spec();
        let input = |name: &str, source| Input { name: name.to_owned(), source };
        spec.description.inputs = vec![
            input("a", InputSource::File { file: FileId(1), length: 1, is_executable: false }),
            input("b", InputSource::Tree { tree: FileId(2), length: 1 }),
        ];
        spec.input_files = [3, 1, 2, 0, 3].map(FileId).to_vec();
        assert!(unnamed(&spec).into_iter().eq([FileId(3)]));
    }

    #[test]
    fn only_what_would_be_the_same_elsewhere_is_the_jobs_fault() {
        let block = BlockId(3);
        let not_found = ClientError::Transfer(TransferError::NotFound { block });
        let why = "nobody answers".to_owned();
        let unavailable = ClientError::Transfer(TransferError::Unavailable { block, why });
        assert!(matches!(missing("it", &unavailable), Missing::Trouble(_)));
        let deep = ClientError::At { path: "a/b".into(), source: Box::new(not_found) };
        let Missing::Job(Cause::InputFailed, text) = missing("the input \"x\"", &deep) else {
            panic!("what nobody has may come");
        };
        assert!(text.starts_with("the input \"x\" cannot be fetched: a/b: no storage node"));
    }

    #[test]
    fn nobody_may_write_to_what_is_shown() {
        let file = Node::File { file: FileId(1), length: 1 };
        let modified = Some(ModificationTime { seconds: 1, nanoseconds: 2 });
        for (node, mode, shown) in [
            (file.clone(), 0o640, 0o444),
            (file.clone(), 0o755, 0o555),
            (file, 0o010, 0o444),
            (Node::Folder(Folder::default()), 0o700, 0o555),
            (Node::Link { target: b"x".to_vec() }, 0o777, 0o777),
        ] {
            let entry = Entry { name: b"x".to_vec(), mode, modified, node };
            assert_eq!(shown_mode(&entry), shown);
        }
    }
}
