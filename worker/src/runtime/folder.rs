//! The folder of one task: its scratch folder and what it prints.
//!
//! Below `tasks` of the data folder while it runs; afterwards handed on to the next task where it is
//! as it was, else removed, or moved to `kept` beside that. Deliberately not here: what runs in it.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use proto::ids::TaskIndex;
use proto::limits::STREAM_BYTES;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, fstat, openat, renameat, renameat_with,
    unlinkat,
};
use rustix::io::Errno;
use rustix::path::Arg;

use super::Task;
use super::untouched::{Trace, Untouched};
use crate::logic::CrashedTask;
use crate::spawn::TaskUser;
use crate::spawn::processes::MARK;

/// What stands behind an output that was longer.
const CUT: &str = "\n[remuda: only the first 16 MiB are kept]\n";

/// Permissions of what its owner may do everything with, others nothing.
const PRIVATE: u32 = 0o700;

/// As above, but others may pass through.
const PASSABLE: u32 = 0o711;

/// Folders in each other that are removed from the inside: each takes two descriptors and some of
/// the stack of a thread, and a task makes a hundred thousand of them in a second.
const DEPTH: usize = 64;

/// Folders deeper than that which are moved up: enough for anything that a task left, and an end
/// for one that a process goes on making.
const MOVED: u64 = 1 << 20;

/// The folder of a task that is being executed.
#[derive(Debug)]
pub(super) struct TaskFolder {
    path: PathBuf,
    /// Whose everything is that the task makes; `None` where that is the worker's own user.
    user: Option<TaskUser>,
    /// Whether standard output and standard error were longer than what is kept.
    was_cut: [bool; 2],
    /// What it was like when it was made.
    untouched: Untouched,
}

impl TaskFolder {
    /// Makes it, below the folder of all of them. A task that runs as another user gets what it
    /// writes to as its own, but not the folder around that: what the worker reads there as root is
    /// not to be replaced by a link.
    pub(super) fn make(
        tasks: &Path,
        task: &Task<'_>,
        user: Option<TaskUser>,
    ) -> io::Result<TaskFolder> {
        let path = path_of(tasks, task);
        if path.exists() {
            remove_folder(&path)?;
        }
        fs::create_dir(&path)?;
        let mode = if user.is_some() { PASSABLE } else { PRIVATE };
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        let inner = ["inputs", "scratch", "scratch/outputs", "told"].map(|name| path.join(name));
        inner.iter().try_for_each(fs::create_dir)?;
        let files = ["stdout", "stderr", MARK].map(|name| path.join(name));
        for file in &files {
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
        }
        if let Some(TaskUser { uid, gid }) = user {
            for path in inner.iter().chain(&files) {
                std::os::unix::fs::chown(path, Some(uid), Some(gid))?;
            }
        }
        let untouched = Untouched::of(&path)?;
        Ok(TaskFolder { path, user, was_cut: [false; 2], untouched })
    }

    /// Hands it on to another task, as if it had just been made for that one. If it cannot be, it is
    /// removed.
    pub(super) fn hand_on(mut self, tasks: &Path, task: &Task<'_>) -> io::Result<TaskFolder> {
        let path = path_of(tasks, task);
        match renameat_with(CWD, &self.path, CWD, &path, RenameFlags::NOREPLACE) {
            Ok(()) => {
                self.path = path;
                Ok(self)
            }
            Err(error) => {
                self.remove()?;
                Err(error.into())
            }
        }
    }

    /// Removes it.
    pub(super) fn remove(self) -> io::Result<()> {
        remove_folder(&self.path)
    }

    /// Notes that nothing runs here any more: who dies from now on did not interrupt the task.
    pub(super) fn unmark(&self) -> io::Result<()> {
        self.untouched.unmark()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn user(&self) -> Option<TaskUser> {
        self.user
    }

    /// What the task sees under `$REMUDA_INPUTS`.
    pub(super) fn inputs(&self) -> PathBuf {
        self.path.join("inputs")
    }

    /// Where the task runs.
    pub(super) fn scratch(&self) -> PathBuf {
        self.path.join("scratch")
    }

    /// What the task sees as `$REMUDA_OUTPUTS`.
    pub(super) fn outputs(&self) -> PathBuf {
        self.path.join("scratch/outputs")
    }

    /// Where the task tells something while it runs.
    pub(super) fn told(&self) -> PathBuf {
        self.path.join("told")
    }

    pub(super) fn stdout(&self) -> PathBuf {
        self.path.join("stdout")
    }

    pub(super) fn stderr(&self) -> PathBuf {
        self.path.join("stderr")
    }

    /// Tells whoever reads what the task printed why it did not run, or what is wrong with it.
    pub(super) fn explain(&mut self, reason: &str) -> io::Result<()> {
        let line = format!("remuda: {reason}\n");
        // Where the task printed as much as is kept, the end of that makes room.
        self.was_cut[1] |= cut(&self.stderr(), STREAM_BYTES.saturating_sub(line.len() as u64))?;
        let mut options = OpenOptions::new();
        options.append(true).create(true);
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        options.open(self.stderr())?.write_all(line.as_bytes())
    }

    /// Cuts what it printed back to [`STREAM_BYTES`]. A task that runs goes on behind that, so this
    /// is done again and again, and what stays is the beginning. Tells whether standard output and
    /// standard error were ever longer.
    pub(super) fn cut_outputs(&mut self) -> io::Result<[bool; 2]> {
        for (path, was_cut) in [self.stdout(), self.stderr()].iter().zip(&mut self.was_cut) {
            *was_cut |= cut(path, STREAM_BYTES)?;
        }
        Ok(self.was_cut)
    }

    /// What the task left. Where a process of it may be left, or nobody can tell, that is a change.
    pub(super) fn look(&mut self, is_alone: bool) -> Trace {
        match is_alone {
            true => self.untouched.look(&self.path).unwrap_or(Trace::Changed),
            false => Trace::Changed,
        }
    }

    /// After its end, when what it printed is gathered: the folder comes back where it is, but for
    /// that, as it was, so that another task may have it; or it is removed.
    pub(super) fn clear(mut self, trace: Trace) -> io::Result<Option<TaskFolder>> {
        if trace != Trace::Changed && self.untouched.clear_streams().unwrap_or(false) {
            self.was_cut = [false; 2];
            return Ok(Some(self));
        }
        self.remove()?;
        Ok(None)
    }

    /// After its end: says where an output was cut, and moves the folder to where it is kept.
    pub(super) fn keep(mut self) -> io::Result<()> {
        fs::remove_file(self.path.join(MARK))?;
        self.cut_outputs()?;
        for (path, was_cut) in [self.stdout(), self.stderr()].iter().zip(self.was_cut) {
            if was_cut {
                OpenOptions::new().append(true).open(path)?.write_all(CUT.as_bytes())?;
            }
        }
        let (Some(tasks), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Ok(());
        };
        let kept = tasks.with_file_name("kept");
        fs::create_dir_all(&kept)?;
        let target = kept.join(name);
        if target.exists() {
            remove_folder(&target)?;
        }
        fs::rename(&self.path, target)
    }
}

/// Where the folder of a task is, below the folder of all of them.
fn path_of(tasks: &Path, task: &Task<'_>) -> PathBuf {
    let (job, attempt) = (task.spec.job, task.attempt);
    tasks.join(name_of(&CrashedTask { job, task: task.index, attempt }))
}

/// The name of the folder of a task.
pub(crate) fn name_of(task: &CrashedTask) -> String {
    format!("{}-{}-{}", task.job, task.task, task.attempt)
}

/// The task whose folder has such a name.
pub(crate) fn task_of(name: &OsStr) -> Option<CrashedTask> {
    let mut parts = name.to_str()?.rsplitn(3, '-');
    let (attempt, task, job) = (parts.next()?, parts.next()?, parts.next()?);
    Some(CrashedTask {
        job: job.parse().ok()?,
        task: TaskIndex(task.parse().ok()?),
        attempt: attempt.parse().ok()?,
    })
}

/// Cuts a file to a length; true where it was longer.
fn cut(path: &Path, length: u64) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.len() > length => {
            let mut options = File::options();
            options.write(true).custom_flags(libc::O_NOFOLLOW).open(path)?.set_len(length)?;
            Ok(true)
        }
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes a folder with all that is in it: also where a task took the permission away, however deep
/// folders lie in each other, and whatever a process that outlived its task makes of them meanwhile.
/// No link is followed.
pub(crate) fn remove_folder(path: &Path) -> io::Result<()> {
    let root = open_folder(CWD, path)?;
    let mut moved = 0;
    loop {
        let moved_before = moved;
        clear(&root, &root, DEPTH, &mut moved)?;
        match fs::remove_dir(path) {
            Err(error)
                if error.kind() == ErrorKind::DirectoryNotEmpty
                    && moved > moved_before
                    && moved < MOVED => {}
            removed => return removed,
        }
    }
}

/// Removes what is in a folder. What lies deeper than `depth` is moved up to `root`, and counted.
fn clear(folder: &OwnedFd, root: &OwnedFd, depth: usize, moved: &mut u64) -> io::Result<()> {
    let list = openat(folder, ".", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for entry in Dir::read_from(&list)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let flags = match entry.file_type() {
            FileType::Directory => AtFlags::REMOVEDIR,
            _ => AtFlags::empty(),
        };
        match unlinkat(folder, name, flags) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::ISDIR) => {}
            Err(error) => return Err(error.into()),
        }
        let inner = open_folder(folder, name)?;
        if depth == 0 {
            *moved += 1;
            renameat(folder, name, root, format!("{moved}.moved"))?;
        } else {
            clear(&inner, root, depth - 1, moved)?;
            unlinkat(folder, name, AtFlags::REMOVEDIR)?;
        }
    }
    Ok(())
}

/// Opens a folder that is about to be removed, and takes every permission in it.
fn open_folder(above: impl AsFd, name: impl Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(above, name, flags, Mode::empty())?;
    if fstat(&folder)?.st_mode & PRIVATE != PRIVATE {
        // This very folder, whatever its path means by now.
        let path = format!("/proc/self/fd/{}", folder.as_raw_fd());
        fs::set_permissions(path, Permissions::from_mode(PRIVATE))?;
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use proto::ids::JobId;

    use super::*;

    #[test]
    fn a_folder_tells_its_task() {
        let (job, task) = (JobId(u128::MAX / 3), TaskIndex(70));
        let name = format!("{job}-{task}-4294967297");
        let wanted = CrashedTask { job, task, attempt: 4_294_967_297 };
        assert_eq!(task_of(OsStr::new(&name)), Some(wanted));
        assert_eq!(name_of(&wanted), name);
        for other in ["", "process", "a-b-c", "1-2", &name[1..], &name[..40]] {
            assert_eq!(task_of(OsStr::new(other)), None, "{other}");
        }
    }

    #[test]
    fn a_folder_is_removed_however_deep_and_closed_and_no_link_is_followed() {
        let place = tempfile::tempdir().unwrap();
        let (outside, path) = (place.path().join("outside"), place.path().join("task"));
        fs::create_dir_all(outside.join("kept")).unwrap();
        fs::set_permissions(outside.join("kept"), Permissions::from_mode(0o500)).unwrap();
        fs::create_dir_all(path.join("closed/inside")).unwrap();
        fs::write(path.join("closed/inside/file"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, path.join("closed/link")).unwrap();
        std::os::unix::fs::symlink(&outside, path.join("closed/inside/link")).unwrap();
        fs::create_dir(path.join("1.moved")).unwrap();
        // Paths are not that long: each folder is made in the one before.
        let mut folder = open_folder(CWD, &path).unwrap();
        for _ in 0..20_000 {
            rustix::fs::mkdirat(&folder, "a", Mode::RWXU).unwrap();
            let file = OFlags::CREATE | OFlags::WRONLY;
            openat(&folder, "file", file, Mode::empty()).unwrap();
            folder = open_folder(&folder, "a").unwrap();
        }
        for closed in ["closed/inside", "closed"] {
            fs::set_permissions(path.join(closed), Permissions::from_mode(0o000)).unwrap();
        }
        remove_folder(&path).unwrap();
        assert!(!path.exists());
        assert_eq!(fs::metadata(outside.join("kept")).unwrap().permissions().mode() & 0o777, 0o500);
        assert_eq!(remove_folder(&path).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
