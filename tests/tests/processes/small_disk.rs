//! A small disk in memory, for tests of what a full one does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Mounted while it is in scope, whatever happens. Needs root.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of this size (as tmpfs reads it) at a folder, which is made.
    #[track_caller]
    pub(crate) fn mount(at: PathBuf, size: &str) -> SmallDisk {
        fs::create_dir(&at).expect("make a folder");
        let options = format!("size={size},mode=755");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "test"]).arg(&at));
        SmallDisk(at)
    }

    /// Moves a folder with all that is in it to one.
    #[track_caller]
    pub(crate) fn under(folder: &Path, size: &str) -> SmallDisk {
        let was = folder.with_extension("was");
        fs::rename(folder, &was).expect("move the folder");
        let disk = SmallDisk::mount(folder.to_owned(), size);
        run(Command::new("cp").arg("-a").arg(was.join(".")).arg(folder));
        fs::remove_dir_all(was).expect("remove the copy");
        disk
    }

    /// Where it is mounted.
    pub(crate) fn folder(&self) -> &Path {
        &self.0
    }

    /// Something takes all that is left.
    #[track_caller]
    pub(crate) fn fill(&self) -> PathBuf {
        let filler = self.0.join("filler");
        let script = format!("cat /dev/zero > {}", filler.display());
        let filled = Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).status();
        assert!(!filled.expect("run sh").success(), "it has no end");
        filler
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A process of the cluster may still be in it; it goes with the last of them.
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|it| it.success()) || std::thread::panicking());
    }
}

#[track_caller]
fn run(command: &mut Command) {
    let done = command.status().expect("run a program");
    assert!(done.success(), "{command:?}");
}
