//! Cgroups, by which the kernel enforces what a task may use of memory, and how many processes it
//! may have, where the worker may make some.
//!
//! A task with a memory limit gets one of its own below the worker's own cgroup, of version 1 or 2,
//! and it is removed with whatever still runs in it. What a predecessor left is removed at the start.
//! Where none may be made, which is usual without root and in containers, there are none, and whoever
//! watches a task measures its memory instead. `crowd.rs` bounds processes, by a cgroup for each
//! helper; `locate.rs` finds where. Deliberately not here: how a process gets into one (`spawn/`), and
//! what becomes of a task that reached its limit.

mod crowd;
mod locate;

use std::collections::BTreeSet;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proto::ids::NodeId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

pub use crowd::ProcessLimit;
pub(crate) use crowd::{Crowd, Crowds};
use locate::{Version, folder_of};

/// What is written to see whether a limit can be set at all.
const PROBE_BYTES: u64 = 64 << 20;

/// How often removing is tried, each time waiting up to [`PATIENCE`] for one that was killed.
const ROUNDS: usize = 50;

const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// More than the kernel asks for at a time where it has no choice but to kill (eyeballed).
const NEAR_BYTES: u64 = 256 << 10;

/// How long a cgroup without processes may stay busy before it is tried again (eyeballed: the last
/// one has just left it).
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };

/// Processes that are killed at a time: each takes a descriptor meanwhile.
const CHUNK: usize = 128;

impl Version {
    /// The files that set a limit, with their values; whether it does not hold without them.
    fn settings(self, limit_bytes: u64) -> [(&'static str, String, bool); 3] {
        let limit = limit_bytes.to_string();
        match self {
            // In this order: memory and swap together may not be less than memory. Without the
            // last, a task at its limit waits for ever.
            Version::V1 => [
                ("memory.limit_in_bytes", limit.clone(), true),
                ("memory.memsw.limit_in_bytes", limit, false),
                ("memory.oom_control", "0".to_owned(), false),
            ],
            Version::V2 => [
                ("memory.max", limit, true),
                ("memory.swap.max", "0".to_owned(), false),
                ("memory.oom.group", "1".to_owned(), false),
            ],
        }
    }
}

/// Where tasks get cgroups of their own, if they do. Copies share it.
#[derive(Clone, Debug, Default)]
pub struct Cgroups {
    place: Option<Arc<Place>>,
    crowds: Crowds,
}

#[derive(Debug)]
struct Place {
    version: Version,
    /// The cgroup below which those of tasks are made.
    folder: PathBuf,
    /// How their names begin: with the worker's node and process.
    name: String,
    made_count: AtomicU64,
}

impl Cgroups {
    /// Below this process's own cgroup, where that works; says in the log whether it does. Removes
    /// what a predecessor of this node left there, with what runs in it.
    #[must_use]
    pub fn open(node: NodeId) -> Cgroups {
        match Place::find(&of_node(node)) {
            Ok(place) => {
                tracing::info!(version = ?place.version, folder = %place.folder.display(),
                    "memory limits of tasks are enforced by cgroups");
                Cgroups { place: Some(Arc::new(place)), ..Cgroups::default() }
            }
            Err(reason) => {
                tracing::info!(reason, "no cgroups for tasks: their memory is measured instead");
                Cgroups::default()
            }
        }
    }

    /// The same, and helpers get cgroups with a limit of processes where that works, else the user of
    /// tasks a limit where they have one of their own. To be called before a helper is started.
    #[must_use]
    pub fn with_process_limit(self, node: NodeId, limit: ProcessLimit) -> Cgroups {
        Cgroups { crowds: Crowds::open(&of_node(node), limit), ..self }
    }

    /// What bounds the processes of tasks.
    pub(crate) fn crowds(&self) -> &Crowds {
        &self.crowds
    }

    /// How memory limits are enforced, for people.
    #[must_use]
    pub fn way(&self) -> &'static str {
        match self.place.as_ref().map(|place| place.version) {
            Some(Version::V1) => "cgroup v1",
            Some(Version::V2) => "cgroup v2",
            None => "measured",
        }
    }

    /// Those of tasks that are there.
    #[cfg(test)]
    pub(crate) fn made(&self) -> Vec<PathBuf> {
        let Some(place) = &self.place else { return Vec::new() };
        let entries = fs::read_dir(&place.folder).unwrap().map(|entry| entry.unwrap());
        let own = entries.filter(|it| it.file_name().to_str().unwrap().starts_with(&place.name));
        own.map(|entry| entry.path()).collect()
    }

    /// A cgroup for one task; `None` where there are none.
    ///
    /// # Errors
    /// Where it cannot be made although that worked at the start.
    pub(crate) fn make(&self, limit_bytes: u64) -> io::Result<Option<Cgroup>> {
        // With version 2 its processes leave the cgroup of their helper for it.
        let processes = self.crowds.limit();
        self.place.as_ref().map(|place| place.make(limit_bytes, processes)).transpose()
    }
}

/// How the names of a node's cgroups begin.
fn of_node(node: NodeId) -> String {
    let node = node.to_string();
    format!("remuda-{}-", node.get(..8).unwrap_or(&node))
}

/// Removes what a predecessor left in a folder, with what runs in it.
fn clear(folder: &Path, of_node: &str) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(of_node.as_bytes()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

impl Place {
    /// Finds it and tries it; the error is a sentence for the log.
    fn find(of_node: &str) -> Result<Place, String> {
        let (version, folder) = folder_of("memory")?;
        clear(&folder, of_node).map_err(|it| format!("{}: {it}", folder.display()))?;
        let name = format!("{of_node}{}", std::process::id());
        let place = Place { version, folder, name, made_count: AtomicU64::new(0) };
        place.make(PROBE_BYTES, None).map_err(|it| format!("{}: {it}", place.folder.display()))?;
        Ok(place)
    }

    fn make(&self, limit_bytes: u64, processes: Option<u32>) -> io::Result<Cgroup> {
        // Relaxed: only that no number comes twice matters.
        let number = self.made_count.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!("{}-{number}", self.name));
        fs::create_dir(&path)?;
        let opened = || {
            for (file, value, is_needed) in self.version.settings(limit_bytes) {
                // Swap is not counted everywhere, and older kernels lack some.
                match set(&path.join(file), &value) {
                    Err(error) if is_needed => return Err(error),
                    _ => {}
                }
            }
            if let (Version::V2, Some(processes)) = (self.version, processes) {
                // Where that controller was not handed on, there is no such limit.
                let _ = set(&path.join("pids.max"), &processes.to_string());
            }
            OpenOptions::new().write(true).open(path.join("cgroup.procs"))
        };
        match opened() {
            Ok(entrance) => {
                Ok(Cgroup { version: self.version, limit_bytes, path, entrance: entrance.into() })
            }
            Err(error) => {
                let _ = fs::remove_dir(&path);
                Err(error)
            }
        }
    }
}

/// The cgroup of one task. With it ends whatever runs in it.
#[derive(Debug)]
pub(crate) struct Cgroup {
    version: Version,
    limit_bytes: u64,
    path: PathBuf,
    entrance: OwnedFd,
}

/// What the kernel counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Charge {
    /// Most memory that was charged at a time, cached pages of files included; with old kernels of
    /// version 2 what is charged now. 0 for as long as no process ever was in it.
    pub(crate) peak_bytes: u64,
    /// Whether the kernel killed because of this very limit, not because the machine had no more.
    pub(crate) is_exceeded: bool,
}

impl Cgroup {
    /// Whoever writes `0` to this gets into it, also a user who could not have opened it.
    pub(crate) fn entrance(&self) -> BorrowedFd<'_> {
        self.entrance.as_fd()
    }

    pub(crate) fn charge(&self) -> Charge {
        let read = |file: &str| fs::read_to_string(self.path.join(file)).unwrap_or_default();
        let number = |file: &str| read(file).trim().parse::<u64>().unwrap_or(0);
        match self.version {
            Version::V1 => {
                let peak_bytes = number("memory.max_usage_in_bytes");
                // Its counts of refusals stay 0 with new kernels. What was refused is at most a
                // few pages, so one that was killed for its limit came close to it.
                let near = (self.limit_bytes / 16).max(NEAR_BYTES);
                let is_at_limit = peak_bytes.saturating_add(near) >= self.limit_bytes;
                let kills = entry(&read("memory.oom_control"), "oom_kill");
                Charge { peak_bytes, is_exceeded: kills > 0 && is_at_limit }
            }
            Version::V2 => {
                let events = read("memory.events");
                Charge {
                    peak_bytes: number("memory.peak").max(number("memory.current")),
                    is_exceeded: entry(&events, "oom_kill") > 0 && entry(&events, "oom") > 0,
                }
            }
        }
    }

    /// Whether a process in it could not be started for the limit of processes.
    pub(crate) fn is_crowded(&self) -> bool {
        let events = || fs::read_to_string(self.path.join("pids.events")).unwrap_or_default();
        self.version == Version::V2 && entry(&events(), "max") > 0
    }

    /// Kills every process in it.
    pub(crate) fn kill(&self) {
        if self.version == Version::V2 {
            // What is killed is not replaced meanwhile.
            let _ = set(&self.path.join("pids.max"), "0");
        }
        kill_all(&self.path);
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            tracing::warn!(%error, cgroup = %self.path.display(),
                "the cgroup of a task cannot be removed");
        }
    }
}

fn set(file: &Path, value: &str) -> io::Result<()> {
    // One that is missing cannot be created.
    OpenOptions::new().write(true).open(file)?.write_all(value.as_bytes())
}

/// The processes in a cgroup. Those that this process cannot see count as none.
fn processes(cgroup: &Path) -> Vec<Pid> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw).collect()
}

/// Kills what is in a cgroup, and tells when one of them ended; `None` where nothing was there.
fn kill_all(cgroup: &Path) -> Option<OwnedFd> {
    // All at once, with version 2 since Linux 5.14; whoever is left is killed below.
    let _ = set(&cgroup.join("cgroup.kill"), "1");
    kill_but(cgroup, None)
}

/// The same for all but one.
fn kill_but(cgroup: &Path, spared: Option<Pid>) -> Option<OwnedFd> {
    let mut first = None;
    for pids in processes(cgroup).chunks(CHUNK) {
        let open = |&pid: &Pid| Some((pid, pidfd_open(pid, PidfdFlags::empty()).ok()?));
        let opened: Vec<(Pid, OwnedFd)> = pids.iter().filter_map(open).collect();
        // The numbers may have been given to others since they were read.
        let number = |pid: Pid| pid.as_raw_nonzero().get();
        let there: BTreeSet<i32> = processes(cgroup).into_iter().map(number).collect();
        for (pid, process) in opened {
            if there.contains(&number(pid)) && Some(pid) != spared {
                // It may have ended in between.
                let _ = pidfd_send_signal(&process, Signal::KILL);
                first.get_or_insert(process);
            }
        }
    }
    first
}

/// Removes a cgroup with what runs in it.
fn remove(cgroup: &Path) -> io::Result<()> {
    for _ in 0..ROUNDS {
        match fs::remove_dir(cgroup) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            removed => return removed,
        }
        // Waiting may be cut short, and goes on in the next round.
        let _ = match kill_all(cgroup) {
            Some(ending) => poll(&mut [PollFd::new(&ending, PollFlags::IN)], Some(&PATIENCE)),
            None => poll(&mut [], Some(&PAUSE)),
        };
    }
    fs::remove_dir(cgroup)
}

/// The value of a key in a file of lines `key value`; 0 where it is missing.
fn entry(text: &str, key: &str) -> u64 {
    let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
    let value = pairs.find_map(|(name, value)| (name == key).then_some(value));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_predecessor_left_is_removed_with_what_runs_in_it() {
        let node = NodeId::from_random(fastrand::u128(..));
        let cgroups = Cgroups::open(node);
        let Some(left) = cgroups.make(PROBE_BYTES).unwrap() else {
            eprintln!("skipped: this process may not make cgroups with a memory limit");
            return;
        };
        // Its worker died.
        let left = std::mem::ManuallyDrop::new(left);
        let mut child = std::process::Command::new("sleep").arg("3600").spawn().unwrap();
        set(&left.path.join("cgroup.procs"), &child.id().to_string()).unwrap();
        assert_eq!(cgroups.made(), std::slice::from_ref(&left.path));
        let other = Cgroups::open(NodeId::from_random(fastrand::u128(..)));
        assert!(left.path.exists() && other.made().is_empty());
        assert!(Cgroups::open(node).made().is_empty());
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    }

    #[test]
    fn counters_are_read_by_their_whole_name() {
        let events = "low 0\nmax 71\noom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!((entry(events, "oom"), entry(events, "oom_kill")), (3, 2));
        assert_eq!((entry(events, "oo"), entry("oom\noom x\n", "oom")), (0, 0));
    }
}
