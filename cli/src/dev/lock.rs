//! The lock of a local cluster's folder: held while its supervisor lives, and says who that is.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::failure::{During, Failure};

const FILE: &str = "lock";

/// The lock of a folder, held by this process until it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Who holds a folder's lock.
#[derive(Debug)]
pub(crate) struct Holder {
    /// Its process.
    pub(crate) pid: u32,
    process: OwnedFd,
}

impl Lock {
    /// Takes the lock of a folder; `None` where another process has it.
    pub(crate) fn take(folder: &Path) -> Result<Option<Lock>, Failure> {
        let path = folder.join(FILE);
        let failed = || format!("lock {}", path.display());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).during(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error).during(failed),
        }
        let pid = format!("{}\n", std::process::id());
        file.set_len(0).and_then(|()| file.write_all(pid.as_bytes())).during(failed)?;
        Ok(Some(Lock { _file: file }))
    }
}

/// True where a process holds the lock of a folder, of whichever kind the folder is.
pub(crate) fn is_held(folder: &Path) -> bool {
    let Ok(file) = File::open(folder.join(FILE)) else {
        return false;
    };
    // Taken only to see; given back at the end of this function.
    let taken = rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared);
    taken == Err(rustix::io::Errno::WOULDBLOCK)
}

impl Holder {
    /// The process that holds a folder's lock, if one does.
    pub(crate) fn find(folder: &Path) -> Option<Holder> {
        let pid = read_pid(folder)?;
        let raw = Pid::from_raw(i32::try_from(pid).ok()?)?;
        let process = pidfd_open(raw, PidfdFlags::empty()).ok()?;
        // The number was its own when the descriptor was made if it is there still now: a holder
        // that ended in between gave the lock back, and a new one wrote another number.
        (is_held(folder) && read_pid(folder) == Some(pid)).then_some(Holder { pid, process })
    }

    /// Asks it to end.
    pub(crate) fn ask_to_end(&self) -> Result<(), Failure> {
        pidfd_send_signal(&self.process, Signal::TERM)
            .during(|| format!("ask process {} to end", self.pid))
    }

    /// Waits until it ended, at most so many seconds; true where it did.
    pub(crate) fn wait(&self, seconds: u32) -> bool {
        let timeout = Timespec { tv_sec: seconds.into(), tv_nsec: 0 };
        let mut ended = [PollFd::new(&self.process, PollFlags::IN)];
        matches!(poll(&mut ended, Some(&timeout)), Ok(1..))
    }
}

fn read_pid(folder: &Path) -> Option<u32> {
    let mut text = String::new();
    File::open(folder.join(FILE)).ok()?.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_once_and_names_its_holder() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_held(folder.path()) && Holder::find(folder.path()).is_none());
        let lock = Lock::take(folder.path()).unwrap().unwrap();
        assert!(Lock::take(folder.path()).unwrap().is_none());
        assert!(is_held(folder.path()));
        assert_eq!(Holder::find(folder.path()).unwrap().pid, std::process::id());
        drop(lock);
        assert!(!is_held(folder.path()) && Holder::find(folder.path()).is_none());
    }
}
