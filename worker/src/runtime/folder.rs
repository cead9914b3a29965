//! The folder of one task: its scratch folder, what it prints, its program where the job brought
//! one.
//!
//! Below `tasks` of the data folder while it runs; removed afterwards, or moved to `kept` beside
//! that. Deliberately not here: what runs in it.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Task;

/// Longest standard output, and longest standard error, that is kept of a task: the first bytes.
pub(super) const OUTPUT_BYTES: u64 = 16 << 20;

/// What stands behind an output that was longer.
const CUT: &str = "\n[remuda: only the first 16 MiB are kept]\n";

/// Permissions of what its owner may do everything with, others nothing.
const PRIVATE: u32 = 0o700;

/// The folder of a task that is being executed.
#[derive(Debug)]
pub(super) struct TaskFolder {
    path: PathBuf,
    /// Whether standard output and standard error were longer than what is kept.
    was_cut: [bool; 2],
}

impl TaskFolder {
    /// Makes it, below the folder of all of them.
    pub(super) fn make(tasks: &Path, task: &Task<'_>) -> io::Result<TaskFolder> {
        let name = format!("{}-{}-{}", task.spec.job, task.index, task.attempt);
        let folder = TaskFolder { path: tasks.join(name), was_cut: [false; 2] };
        if folder.path.exists() {
            remove_folder(&folder.path)?;
        }
        fs::create_dir(&folder.path)?;
        fs::set_permissions(&folder.path, Permissions::from_mode(PRIVATE))?;
        fs::create_dir(folder.inputs())?;
        fs::create_dir(folder.scratch())?;
        fs::create_dir(folder.outputs())?;
        Ok(folder)
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

    pub(super) fn stdout(&self) -> PathBuf {
        self.path.join("stdout")
    }

    pub(super) fn stderr(&self) -> PathBuf {
        self.path.join("stderr")
    }

    /// Writes the program that the job brought, executable.
    pub(super) fn write_program(&self, bytes: &[u8]) -> io::Result<PathBuf> {
        let path = self.path.join("program");
        fs::write(&path, bytes)?;
        fs::set_permissions(&path, Permissions::from_mode(PRIVATE))?;
        Ok(path)
    }

    /// Tells whoever reads what the task printed why it did not run.
    pub(super) fn explain(&self, reason: &str) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).create(true).open(self.stderr())?;
        writeln!(file, "remuda: {reason}")
    }

    /// Cuts what it printed back to [`OUTPUT_BYTES`]. A task that runs goes on behind that, so this
    /// is done again and again, and what stays is the beginning.
    pub(super) fn cut_outputs(&mut self) -> io::Result<()> {
        for (path, was_cut) in [self.stdout(), self.stderr()].iter().zip(&mut self.was_cut) {
            *was_cut |= cut(path)?;
        }
        Ok(())
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

/// Cuts a file to [`OUTPUT_BYTES`]; true where it was longer.
fn cut(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.len() > OUTPUT_BYTES => {
            File::options().write(true).open(path)?.set_len(OUTPUT_BYTES)?;
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
