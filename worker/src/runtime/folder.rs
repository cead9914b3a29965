//! The folder of one task: its scratch folder and what it prints.
//!
//! Below `tasks` of the data folder while it runs; removed afterwards, or moved to `kept` beside
//! that. Deliberately not here: what runs in it.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use proto::ids::TaskIndex;
use proto::limits::STREAM_BYTES;

use super::Task;
use crate::logic::CrashedTask;
use crate::spawn::TaskUser;
use crate::spawn::processes::MARK;

/// What stands behind an output that was longer.
const CUT: &str = "\n[remuda: only the first 16 MiB are kept]\n";

/// Permissions of what its owner may do everything with, others nothing.
const PRIVATE: u32 = 0o700;

/// As above, but others may pass through.
const PASSABLE: u32 = 0o711;

/// The folder of a task that is being executed.
#[derive(Debug)]
pub(super) struct TaskFolder {
    path: PathBuf,
    /// Whether standard output and standard error were longer than what is kept.
    was_cut: [bool; 2],
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
        let name = format!("{}-{}-{}", task.spec.job, task.index, task.attempt);
        let folder = TaskFolder { path: tasks.join(name), was_cut: [false; 2] };
        if folder.path.exists() {
            remove_folder(&folder.path)?;
        }
        fs::create_dir(&folder.path)?;
        let mode = if user.is_some() { PASSABLE } else { PRIVATE };
        fs::set_permissions(&folder.path, Permissions::from_mode(mode))?;
        let folders = [folder.inputs(), folder.scratch(), folder.outputs(), folder.told()];
        folders.iter().try_for_each(fs::create_dir)?;
        if let Some(TaskUser { uid, gid }) = user {
            let files = [folder.stdout(), folder.stderr(), folder.path.join(MARK)];
            for file in &files {
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
            }
            for path in folders.iter().chain(&files) {
                std::os::unix::fs::chown(path, Some(uid), Some(gid))?;
            }
        }
        Ok(folder)
    }

    /// Notes that nothing runs here any more: who dies from now on did not interrupt the task.
    pub(super) fn unmark(&self) -> io::Result<()> {
        fs::remove_file(self.path.join(MARK))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
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

    /// After its end: says where an output was cut, and removes the folder unless it is to be kept.
    pub(super) fn close(mut self, is_kept: bool) -> io::Result<()> {
        if !is_kept {
            return remove_folder(&self.path);
        }
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

/// Removes a folder with all that is in it, also where a task took the permission away.
pub(crate) fn remove_folder(path: &Path) -> io::Result<()> {
    if fs::remove_dir_all(path).is_ok() {
        return Ok(());
    }
    allow_removal(path)?;
    fs::remove_dir_all(path)
}

fn allow_removal(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(PRIVATE))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            allow_removal(&entry.path())?;
        }
    }
    Ok(())
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
        for other in ["", "process", "a-b-c", "1-2", &name[1..], &name[..40]] {
            assert_eq!(task_of(OsStr::new(other)), None, "{other}");
        }
    }
}
