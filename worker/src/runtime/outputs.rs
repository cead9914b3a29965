//! What a task wrote, gathered when its process group has ended: standard output and standard error,
//! what is in `$REMUDA_OUTPUTS`, and what its `--output` patterns mean in the scratch folder.
//!
//! Small contents come back as bytes, to be packed with those of other tasks; larger ones are stored
//! as files of their own before this returns, so that an outcome that names them is never early
//! (invariant 7). Whatever a task does to its folder, nothing outside of it is read: every name is
//! opened from the folder above it, and links are kept, never followed. Deliberately not here: which
//! segment they get into.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::fs::File;
use std::future::Future;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use client::logic::transfer::{PutReport, TransferError};
use client::{Begun, Client, ClientError};
use proto::limits::{
    LINK_TARGET_BYTES, OUTPUTS_PER_TASK, PACKED_OUTPUT_BYTES, PACKED_TASK_BYTES, TREE_DEPTH,
};
use proto::segment::{Output, OutputContent, OutputEntry};
use proto::status::{Cause, OutputKind, TaskState};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, readlinkat, statat};

use super::folder::TaskFolder;
use super::pattern::Pattern;
use super::{Cancel, Ending};
use crate::spawn::TaskUser;

/// Longest path of an output; Linux opens no longer one at once.
const NAME_BYTES: usize = 4_095;

/// Folders of one task's outputs that are looked into, empty or not.
const FOLDERS: usize = 4 * OUTPUTS_PER_TASK;

/// Files of one task that are on their way to storage together.
const UNDER_WAY: usize = 32;

/// What `job:JOB/TASK/…` means by these names is standard output and standard error.
const STREAMS: [&[u8]; 2] = [b"stdout", b"stderr"];

/// The folder of outputs, seen from the scratch folder.
const OUTPUTS: &[u8] = b"outputs";

/// Why there are no outputs.
#[derive(Debug)]
enum NotGathered {
    /// The task's own fault, as a sentence for its author.
    Task(String),
    /// The machine's or storage's: another attempt may succeed.
    Machine(String),
    /// Nobody wants them any more.
    Cancelled,
}

/// Adds to an ending what the task wrote. `patterns` are those of its description. What is wrong
/// with the outputs fails a task that was done, and a sentence on its standard error says why; where
/// this machine or storage fails, the attempt is lost.
pub(super) fn gather(
    ending: Ending,
    folder: &mut TaskFolder,
    patterns: &[String],
    client: &Client,
    cancel: &Cancel,
) -> Ending {
    if ending.state == TaskState::Lost {
        return ending;
    }
    let is_done = ending.state == TaskState::Done;
    let mut gathering = Gathering::new(client, cancel, folder.user());
    let mut gathered = gathering.all(folder, patterns, is_done);
    let mut ending = ending;
    if let Err(NotGathered::Task(reason)) = &gathered {
        if is_done {
            (ending.state, ending.cause) = (TaskState::Failed, Cause::OutputFailed);
        }
        // What it printed is kept, and says why the rest is not, as far as it left a place for it.
        if let Err(error) = folder.explain(reason) {
            tracing::warn!(folder = %folder.path().display(), reason, %error,
                "nobody is told why a task's outputs are not kept");
        }
        gathering = Gathering::new(client, cancel, folder.user());
        gathered = gathering.streams(folder);
    }
    match gathered {
        Ok(()) => Ending { outputs: gathering.outputs, ..ending },
        Err(NotGathered::Cancelled) => Ending::of(TaskState::Lost, 0, Cause::Cancelled),
        Err(NotGathered::Task(why) | NotGathered::Machine(why)) => {
            tracing::warn!(
                folder = %folder.path().display(),
                why,
                "what a task wrote cannot be kept; the attempt is lost"
            );
            Ending::of(TaskState::Lost, 0, Cause::OutputFailed)
        }
    }
}

impl From<io::Error> for NotGathered {
    fn from(error: io::Error) -> NotGathered {
        NotGathered::Machine(error.to_string())
    }
}

/// Something that is there, not read yet.
struct Listed {
    name: Vec<u8>,
    mode: u16,
    what: What,
}

enum What {
    /// A file below the folder with this position among the roots.
    File(usize),
    Link(Vec<u8>),
    Folder,
}

/// A file of its own on its way to storage.
struct UnderWay {
    name: Vec<u8>,
    begun: Begun<PutReport>,
    /// Keeps what is read from existing.
    _file: File,
}

struct Gathering<'a> {
    client: &'a Client,
    cancel: &'a Cancel,
    /// Whose files are read, where that is not the worker's own user.
    user: Option<TaskUser>,
    outputs: Vec<Output>,
    /// Bytes that may still be packed.
    room: usize,
    under_way: VecDeque<UnderWay>,
    folder_count: usize,
}

impl<'a> Gathering<'a> {
    fn new(client: &'a Client, cancel: &'a Cancel, user: Option<TaskUser>) -> Gathering<'a> {
        Gathering {
            client,
            cancel,
            user,
            outputs: Vec::new(),
            room: PACKED_TASK_BYTES - STREAMS.len() * size_of::<OutputEntry>(),
            under_way: VecDeque::new(),
            folder_count: 0,
        }
    }

    /// Everything. A task that is done is told which patterns mean nothing.
    fn all(
        &mut self,
        folder: &mut TaskFolder,
        patterns: &[String],
        is_done: bool,
    ) -> Result<(), NotGathered> {
        let scratch = open_root(&folder.scratch())?;
        let outputs = open_inside(scratch.as_fd(), OUTPUTS, OFlags::DIRECTORY);
        let mut listed = Vec::new();
        let outputs = match outputs {
            Ok(outputs) => {
                self.list(&outputs, 0, None, &mut listed)?;
                Some(outputs)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(at(b"$REMUDA_OUTPUTS", error)),
        };
        let mut patterns: Vec<(Pattern, bool)> =
            patterns.iter().map(|text| (Pattern::new(text), false)).collect();
        if !patterns.is_empty() {
            self.list(&scratch, 1, Some(&mut patterns), &mut listed)?;
        }
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        check_names(&listed)?;
        let names: usize = listed.iter().map(Listed::packed_bytes).sum();
        self.room = self.room.checked_sub(names).ok_or_else(|| {
            NotGathered::Task(format!(
                "the names of its {} outputs take more than {PACKED_TASK_BYTES} bytes: put them \
                 into an archive",
                listed.len()
            ))
        })?;
        for (pattern, _) in patterns.iter().filter(|(_, is_met)| is_done && !is_met) {
            let note = format!("nothing in the scratch folder matches --output {}", pattern.text());
            folder.explain(&note)?;
        }
        self.begin_streams(folder, false)?;
        for Listed { name, mode, what } in listed {
            let (kind, content) = match what {
                What::Link(target) => (OutputKind::Link, OutputContent::Packed(target)),
                What::Folder => (OutputKind::Folder, OutputContent::Packed(Vec::new())),
                What::File(root) => {
                    let root = outputs.as_ref().filter(|_| root == 0).unwrap_or(&scratch);
                    let file = open_inside(root.as_fd(), &name, OFlags::empty());
                    let file = File::from(file.map_err(|error| at(&name, error))?);
                    (OutputKind::File, self.content(file, &name)?)
                }
            };
            self.outputs.push(Output { kind, name, mode, is_cut: false, content });
        }
        self.finish()
    }

    /// Standard output and standard error only, as far as the task left them as they were.
    fn streams(&mut self, folder: &mut TaskFolder) -> Result<(), NotGathered> {
        self.begin_streams(folder, true)?;
        self.finish()
    }

    fn begin_streams(
        &mut self,
        folder: &mut TaskFolder,
        is_lenient: bool,
    ) -> Result<(), NotGathered> {
        let was_cut = folder.cut_outputs()?;
        let root = open_root(folder.path())?;
        let kinds = [OutputKind::Stdout, OutputKind::Stderr];
        for ((kind, name), is_cut) in kinds.into_iter().zip(STREAMS).zip(was_cut) {
            match self.begin_stream(&root, kind, name, is_cut) {
                Err(NotGathered::Task(_)) if is_lenient => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn begin_stream(
        &mut self,
        root: &OwnedFd,
        kind: OutputKind,
        name: &[u8],
        is_cut: bool,
    ) -> Result<(), NotGathered> {
        let file = match open_inside(root.as_fd(), name, OFlags::empty()) {
            Ok(file) => File::from(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(at(name, error)),
        };
        let content = self.content(file, name)?;
        if !matches!(&content, OutputContent::Packed(bytes) if bytes.is_empty()) {
            self.outputs.push(Output { kind, name: Vec::new(), mode: 0, is_cut, content });
        }
        Ok(())
    }

    /// Lists what is in a folder: all of it, or what patterns mean.
    fn list(
        &mut self,
        root: &OwnedFd,
        root_number: usize,
        mut patterns: Option<&mut Vec<(Pattern, bool)>>,
        listed: &mut Vec<Listed>,
    ) -> Result<(), NotGathered> {
        // Paths with whether all that is inside is wanted.
        let mut folders = vec![(Vec::new(), patterns.is_none())];
        while let Some((path, is_wanted)) = folders.pop() {
            if self.cancel.is_cancelled() {
                return Err(NotGathered::Cancelled);
            }
            let wrong = |error: rustix::io::Errno| at(&path, error);
            let folder = open_inside(root.as_fd(), &path, OFlags::DIRECTORY);
            let folder = folder.map_err(|error| at(&path, error))?;
            let mut is_empty = true;
            for entry in Dir::read_from(&folder).map_err(wrong)? {
                let entry = entry.map_err(wrong)?;
                let name = entry.file_name().to_bytes();
                if matches!(name, b"." | b"..") {
                    continue;
                }
                is_empty = false;
                let inner = if path.is_empty() { name.to_vec() } else { [&path, name].join(&b'/') };
                let is_wanted = match &mut patterns {
                    Some(patterns) if !is_wanted => match choose(patterns, &inner) {
                        Choice::Nothing => continue,
                        Choice::Inside => false,
                        Choice::All => true,
                    },
                    _ => true,
                };
                let wrong = |error: rustix::io::Errno| at(&inner, error);
                let found = statat(&folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW);
                let found = found.map_err(wrong)?;
                let kind = FileType::from_raw_mode(found.st_mode);
                if kind == FileType::Directory {
                    self.check_folder(&inner)?;
                    folders.push((inner, is_wanted));
                    continue;
                }
                if !is_wanted {
                    continue;
                }
                let what = match kind {
                    FileType::RegularFile => What::File(root_number),
                    FileType::Symlink => {
                        let target = readlinkat(&folder, entry.file_name(), Vec::new());
                        What::Link(target.map_err(wrong)?.into_bytes())
                    }
                    other => return Err(NotGathered::Task(not_kept(&inner, other))),
                };
                add(listed, Listed { name: inner, mode: permissions(found.st_mode), what })?;
            }
            if is_empty && is_wanted && !path.is_empty() {
                let found = fstat(&folder).map_err(|error| at(&path, error))?;
                let mode = permissions(found.st_mode);
                add(listed, Listed { name: path, mode, what: What::Folder })?;
            }
        }
        Ok(())
    }

    fn check_folder(&mut self, path: &[u8]) -> Result<(), NotGathered> {
        self.folder_count += 1;
        let depth = path.iter().filter(|&&byte| byte == b'/').count();
        if self.folder_count > FOLDERS || depth >= TREE_DEPTH {
            return Err(NotGathered::Task(format!(
                "its outputs are in more than {FOLDERS} folders, or more than {TREE_DEPTH} inside \
                 each other: put them into an archive"
            )));
        }
        Ok(())
    }

    /// What is in a file: its bytes where there is room for them, else the file is stored.
    fn content(&mut self, file: File, name: &[u8]) -> Result<OutputContent, NotGathered> {
        if self.cancel.is_cancelled() {
            return Err(NotGathered::Cancelled);
        }
        let found = fstat(&file).map_err(|error| at(name, error))?;
        let kind = FileType::from_raw_mode(found.st_mode);
        if kind != FileType::RegularFile {
            return Err(NotGathered::Task(not_kept(name, kind)));
        }
        // Where the system lets everybody give a second name to any file, a task could name one
        // that it may not read.
        if self.user.is_some_and(|user| user.uid != found.st_uid) {
            let name = OsStr::from_bytes(name).display();
            let text = format!("the output {name} belongs to another user than the task");
            return Err(NotGathered::Task(text));
        }
        let room = self.room.min(PACKED_OUTPUT_BYTES);
        if u64::try_from(found.st_size).is_ok_and(|length| length <= room as u64) {
            let mut bytes = Vec::with_capacity(found.st_size as usize);
            let read = (&file).take(room as u64 + 1).read_to_end(&mut bytes);
            read.map_err(|error| at(name, error))?;
            // One that something still writes to may have become too long.
            if bytes.len() <= room {
                self.room -= bytes.len();
                return Ok(OutputContent::Packed(bytes));
            }
        }
        if self.under_way.len() >= UNDER_WAY {
            self.finish_first()?;
        }
        // This very file, whatever its path means by now.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let begun = self.client.begin_put_file(Path::new(&path));
        let (stored, length, begun) = begun.map_err(|error| not_stored(name, &error))?;
        self.under_way.push_back(UnderWay { name: name.to_vec(), begun, _file: file });
        Ok(OutputContent::File { file: stored, length })
    }

    /// Waits until everything is durable.
    fn finish(&mut self) -> Result<(), NotGathered> {
        while !self.under_way.is_empty() {
            self.finish_first()?;
        }
        Ok(())
    }

    fn finish_first(&mut self) -> Result<(), NotGathered> {
        let Some(UnderWay { name, mut begun, _file }) = self.under_way.pop_front() else {
            return Ok(());
        };
        // Parked, this thread is woken by the client as well as by who cancels.
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(stored) = Pin::new(&mut begun).poll(&mut context) {
                let stored = stored.map_err(ClientError::Stopped).flatten();
                return stored.map(drop).map_err(|error| not_stored(&name, &error));
            }
            if self.cancel.is_cancelled() {
                return Err(NotGathered::Cancelled);
            }
            std::thread::park();
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Listed {
    /// Bytes that it takes in a segment beside the content of a file.
    fn packed_bytes(&self) -> usize {
        let target = if let What::Link(target) = &self.what { target.len() } else { 0 };
        size_of::<OutputEntry>() + self.name.len() + target
    }
}

fn add(listed: &mut Vec<Listed>, found: Listed) -> Result<(), NotGathered> {
    let shown = OsStr::from_bytes(&found.name).display();
    let is_long_link = matches!(&found.what, What::Link(to) if to.len() > LINK_TARGET_BYTES);
    if found.name.len() > NAME_BYTES || is_long_link {
        let text = format!("the path of an output is longer than {NAME_BYTES} bytes: {shown}");
        return Err(NotGathered::Task(text));
    }
    if listed.len() >= OUTPUTS_PER_TASK {
        return Err(NotGathered::Task(format!(
            "it left more than {OUTPUTS_PER_TASK} files, links and empty folders as outputs: put \
             them into an archive"
        )));
    }
    listed.push(found);
    Ok(())
}

/// Outputs of both folders get into one: each has a place of its own there.
fn check_names(listed: &[Listed]) -> Result<(), NotGathered> {
    let mut names = BTreeSet::new();
    for Listed { name, .. } in listed {
        let shown = OsStr::from_bytes(name).display();
        let first = name.split(|&byte| byte == b'/').next().unwrap_or_default();
        if STREAMS.contains(&first) {
            return Err(NotGathered::Task(format!(
                "the output {shown} has the place of what the task printed: give it another name \
                 than stdout and stderr"
            )));
        }
        let parents = name.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let mut parents = parents.filter_map(|(at, _)| name.get(..at));
        if parents.any(|parent| names.contains(parent)) || !names.insert(name.as_slice()) {
            return Err(NotGathered::Task(format!(
                "two outputs are called {shown}, or one of them is a folder: $REMUDA_OUTPUTS and \
                 what --output means get into one folder"
            )));
        }
    }
    Ok(())
}

/// What patterns want of something in the scratch folder.
enum Choice {
    Nothing,
    /// Perhaps something inside of it.
    Inside,
    /// All of it.
    All,
}

/// What patterns want of a path; notes which of them mean it.
fn choose(patterns: &mut [(Pattern, bool)], path: &[u8]) -> Choice {
    // What is there is an output anyway, under the name that it has there.
    let is_outputs = path == OUTPUTS;
    let mut choice = Choice::Nothing;
    for (pattern, is_met) in patterns {
        if is_outputs {
            *is_met |= pattern.reaches_into(path) && pattern.text().starts_with("outputs/");
        } else if pattern.matches(path) {
            *is_met = true;
            choice = Choice::All;
        } else if pattern.reaches_into(path) && !matches!(choice, Choice::All) {
            choice = Choice::Inside;
        }
    }
    choice
}

/// Opens something below a folder without following links, neither on the way nor at its end.
/// Nothing is waited for: a pipe that nobody writes to opens as well.
fn open_inside(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let mut above: Option<OwnedFd> = None;
    let mut names = path.split(|&byte| byte == b'/').peekable();
    let always = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    loop {
        let folder = above.as_ref().map_or(root, AsFd::as_fd);
        let name = match names.next() {
            None | Some(b"") => &b"."[..],
            Some(name) => name,
        };
        let name = OsStr::from_bytes(name);
        if names.peek().is_none() {
            return Ok(openat(folder, name, flags | OFlags::RDONLY | always, Mode::empty())?);
        }
        let way = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        above = Some(openat(folder, name, way, Mode::empty())?);
    }
}

/// Opens a folder of ours, which no task can replace.
fn open_root(path: &Path) -> Result<OwnedFd, NotGathered> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(|error| at(b"folder", error))
}

fn permissions(mode: u32) -> u16 {
    (mode & 0o777) as u16
}

/// Trouble with something that a task left: its own fault where it took a permission away, or goes
/// on changing what was looked at.
fn at(name: &[u8], error: impl Into<io::Error>) -> NotGathered {
    let error = error.into();
    let text = format!("the output {} cannot be read: {error}", OsStr::from_bytes(name).display());
    let is_its_fault = [libc::EACCES, libc::EPERM, libc::ENOENT, libc::ENOTDIR, libc::ELOOP];
    match error.raw_os_error() {
        Some(code) if is_its_fault.contains(&code) => NotGathered::Task(text),
        _ => NotGathered::Machine(text),
    }
}

fn not_kept(name: &[u8], kind: FileType) -> String {
    let kind = match kind {
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::Directory => "a folder by now",
        FileType::Symlink => "a link by now",
        _ => "a device",
    };
    let name = OsStr::from_bytes(name).display();
    format!("the output {name} is {kind}: files, folders and links are kept")
}

fn not_stored(name: &[u8], error: &ClientError) -> NotGathered {
    let name = OsStr::from_bytes(name).display();
    match error {
        ClientError::TooLong(_)
        | ClientError::Transfer(
            TransferError::Source { .. } | TransferError::SourceChanged { .. },
        ) => NotGathered::Task(format!("{name} cannot be stored: {error}")),
        _ => NotGathered::Machine(format!("{name} cannot be stored: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_another_user_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let (own, linked) = (folder.path().join("own"), folder.path().join("linked"));
        std::fs::write(&own, "not the task's").unwrap();
        std::fs::hard_link(&own, &linked).unwrap();
        let client = Client::connect(Vec::new()).unwrap();
        let cancel = Cancel::new(std::thread::current());
        let uid = rustix::process::getuid().as_raw();
        let content = |user| {
            let mut gathering = Gathering::new(&client, &cancel, user);
            gathering.content(File::open(&linked).unwrap(), b"linked")
        };
        let refused = content(Some(TaskUser { uid: uid + 1, gid: 0 }));
        assert!(
            matches!(&refused, Err(NotGathered::Task(text)) if text.contains("another user")),
            "{refused:?}"
        );
        assert!(content(Some(TaskUser { uid, gid: 0 })).is_ok() && content(None).is_ok());
    }
}
