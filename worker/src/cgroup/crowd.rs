//! How many processes and threads a task may have at a time: no task that starts others without end
//! takes the machine from the other tasks, or from the worker.
//!
//! Each helper is in a cgroup of the controller `pids` with whatever it starts. A task so costs nothing
//! more than a look at a counter, and what leaves its group or session is still in there. Where none
//! may be made and tasks have a user of their own, that user gets a limit for all tasks together.
//! Deliberately not here: what becomes of a task that reached it.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::process::{Pid, getpriority_process, setpriority_process};

use super::locate::folder_of;
use super::{clear, entry, kill_but, remove, set};

/// More than such a file has.
const EVENTS_BYTES: usize = 256;

/// The nice value of a thread that ends a crowd; the system's smallest.
const PREFERRED: i32 = -20;

/// How many processes and threads there may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessLimit {
    /// Of one task.
    pub each: u32,
    /// Of all tasks together, where only that can be had.
    pub together: u64,
}

/// Where helpers get cgroups that bound them, if they do. Copies share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Crowds {
    limit: Option<ProcessLimit>,
    place: Option<Arc<Place>>,
}

#[derive(Debug)]
struct Place {
    folder: PathBuf,
    /// How their names begin: with the worker's node and process.
    name: String,
    made_count: AtomicU64,
}

impl Crowds {
    /// Below this process's own cgroup, where that works; says in the log whether it does. Removes
    /// what a predecessor left there, with what runs in it.
    pub(super) fn open(of_node: &str, limit: ProcessLimit) -> Crowds {
        let none = Crowds { limit: Some(limit), place: None };
        match Place::find(of_node, limit.each) {
            Ok(place) => {
                tracing::info!(limit = limit.each, folder = %place.folder.display(),
                    "processes of tasks are bounded by cgroups");
                Crowds { place: Some(Arc::new(place)), ..none }
            }
            Err(reason) => {
                tracing::info!(reason, "no cgroups that bound the processes of tasks");
                none
            }
        }
    }

    /// The most of one task, where that is bounded.
    pub(crate) fn limit(&self) -> Option<u32> {
        self.place.as_ref().and(self.limit).map(|limit| limit.each)
    }

    /// The most of all tasks together, where none of them is bounded.
    pub(crate) fn together(&self) -> Option<u64> {
        let limit = self.limit.filter(|_| self.place.is_none());
        limit.map(|limit| limit.together)
    }

    /// Bounds a helper that has not started anything yet. `None` where it gets no cgroup.
    pub(crate) fn admit(&self, helper: Pid) -> Option<Crowd> {
        let limit = self.limit()?;
        let made = self.place.as_ref().map(|place| place.make(limit, helper))?;
        let made = made.and_then(|crowd| crowd.admit().map(|()| crowd));
        let warn = |error: &io::Error| {
            tracing::warn!(%error, "a helper gets no cgroup that bounds its processes");
        };
        made.inspect_err(warn).ok()
    }
}

impl Place {
    /// Finds it and tries it; the error is a sentence for the log.
    fn find(of_node: &str, limit: u32) -> Result<Place, String> {
        let (_, folder) = folder_of("pids")?;
        let at_folder = |it: io::Error| format!("{}: {it}", folder.display());
        clear(&folder, of_node).map_err(at_folder)?;
        let name = format!("{of_node}{}-helper", std::process::id());
        let place = Place { folder: folder.clone(), name, made_count: AtomicU64::new(0) };
        // Nobody is admitted to it.
        place.make(limit, rustix::process::getpid()).map_err(at_folder)?;
        Ok(place)
    }

    fn make(&self, limit: u32, helper: Pid) -> io::Result<Crowd> {
        // Relaxed: only that no number comes twice matters.
        let number = self.made_count.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!("{}-{number}", self.name));
        fs::create_dir(&path)?;
        // The helper is one of them.
        let limit = limit.saturating_add(1);
        let opened = || {
            set(&path.join("pids.max"), &limit.to_string())?;
            File::open(path.join("pids.events"))
        };
        match opened() {
            Ok(events) => {
                let (known, is_closed) = (AtomicU64::new(0), AtomicBool::new(false));
                Ok(Crowd { path, limit, events, known, is_closed, helper })
            }
            Err(error) => {
                let _ = fs::remove_dir(&path);
                Err(error)
            }
        }
    }
}

/// The cgroup of a helper and of what it starts. With it ends whatever is in it.
#[derive(Debug)]
pub(crate) struct Crowd {
    path: PathBuf,
    limit: u32,
    events: File,
    /// Starts that the kernel refused, as far as somebody looked.
    known: AtomicU64,
    is_closed: AtomicBool,
    helper: Pid,
}

impl Crowd {
    fn admit(&self) -> io::Result<()> {
        set(&self.path.join("cgroup.procs"), &self.helper.to_string())
    }

    /// Whether a process or thread could not be started for the limit since this was last asked.
    pub(crate) fn was_reached(&self) -> bool {
        let mut text = [0; EVENTS_BYTES];
        let read = rustix::io::pread(&self.events, &mut text, 0).unwrap_or(0);
        let text = str::from_utf8(text.get(..read).unwrap_or_default()).unwrap_or_default();
        let count = entry(text, "max");
        // Relaxed: a helper has one task, and one who asks.
        self.known.swap(count, Ordering::Relaxed) < count
    }

    /// Kills all but the helper. Nothing more is started in it from now on, so that what is killed is
    /// not replaced.
    pub(crate) fn kill(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.set_max("0");
        // Thousands that never rest would let this thread have its turn seldom. Where it may not be
        // preferred to them, it takes longer.
        let usual = getpriority_process(None);
        let _ = setpriority_process(None, PREFERRED);
        kill_but(&self.path, Some(self.helper));
        let _ = usual.and_then(|usual| setpriority_process(None, usual));
    }

    /// The next task may start processes again.
    pub(crate) fn reopen(&self) {
        if self.is_closed.swap(false, Ordering::Relaxed) {
            self.set_max(&self.limit.to_string());
            // What was refused meanwhile was nobody's fault.
            self.was_reached();
        }
    }

    fn set_max(&self, value: &str) {
        if let Err(error) = set(&self.path.join("pids.max"), value) {
            tracing::warn!(%error, cgroup = %self.path.display(),
                "the number of processes cannot be changed");
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = set(&self.path.join("pids.max"), "0");
        if let Err(error) = remove(&self.path) {
            tracing::warn!(%error, cgroup = %self.path.display(),
                "the cgroup of a helper cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// Once it is told to, has a shell start processes until the kernel refuses one, which ends that
    /// shell, and stays.
    const GREEDY: &str = "read go; sh -c 'while setsid sleep 3600 & do :; done'; exec sleep 3600";

    fn greedy() -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", GREEDY]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn what_a_helper_starts_is_bounded_and_ends_with_its_cgroup() {
        let name = format!("remuda-test{}-", fastrand::u64(..));
        let crowds = Crowds::open(&name, ProcessLimit { each: 20, together: 20 });
        if crowds.limit().is_none() {
            eprintln!("skipped: this process may not make cgroups that bound processes");
            return;
        }
        let mut child = greedy();
        let crowd = crowds.admit(Pid::from_child(&child)).unwrap();
        assert!(!crowd.was_reached());
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        while !crowd.was_reached() {
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
        let count = |path: &PathBuf| {
            fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default().lines().count()
        };
        let path = crowd.path.clone();
        assert!((2..=21).contains(&count(&path)), "{}", count(&path));
        drop(crowd);
        assert!(!path.exists(), "nothing is left in it");
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }

    #[test]
    fn what_is_killed_is_not_replaced_and_the_helper_goes_on() {
        let name = format!("remuda-test{}-", fastrand::u64(..));
        let crowds = Crowds::open(&name, ProcessLimit { each: 20, together: 20 });
        let mut child = greedy();
        let Some(crowd) = crowds.admit(Pid::from_child(&child)) else {
            eprintln!("skipped: this process may not make cgroups that bound processes");
            child.kill().unwrap();
            child.wait().unwrap();
            return;
        };
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        while !crowd.was_reached() {
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
        crowd.kill();
        let is_alone = || {
            let left = fs::read_to_string(crowd.path.join("cgroup.procs")).unwrap();
            left == format!("{}\n", child.id())
        };
        while !is_alone() {
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
        crowd.reopen();
        assert!(!crowd.was_reached());
        assert_eq!(fs::read_to_string(crowd.path.join("pids.max")).unwrap(), "21\n");
        drop(crowd);
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }
}
