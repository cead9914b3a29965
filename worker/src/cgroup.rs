//! Cgroups, by which the kernel enforces what a task may use of memory, where the worker may make
//! some.
//!
//! A task with a limit gets one of its own below the worker's own cgroup, of version 1 or 2, and it
//! is removed with whatever still runs in it. What a predecessor left is removed at the start. Where
//! none may be made, which is usual without root and in containers, there are none, and whoever
//! watches a task measures its memory instead. Deliberately not here: how a process gets into one
//! (`spawn/`), and what becomes of a task that reached its limit.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proto::ids::NodeId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

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

/// Which of the kernel's two interfaces the controller of memory has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

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
        let node = node.to_string();
        let of_node = format!("remuda-{}-", node.get(..8).unwrap_or(&node));
        match Place::find(&of_node) {
            Ok(place) => {
                tracing::info!(version = ?place.version, folder = %place.folder.display(),
                    "memory limits of tasks are enforced by cgroups");
                Cgroups { place: Some(Arc::new(place)) }
            }
            Err(reason) => {
                tracing::info!(reason, "no cgroups for tasks: their memory is measured instead");
                Cgroups::default()
            }
        }
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
        self.place.as_ref().map(|place| place.make(limit_bytes)).transpose()
    }
}

impl Place {
    /// Finds it and tries it; the error is a sentence for the log.
    fn find(of_node: &str) -> Result<Place, String> {
        let read = |path: &str| fs::read_to_string(path).map_err(|it| format!("{path}: {it}"));
        let (version, own) = locate(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?)?;
        let folder = match version {
            Version::V1 => own,
            Version::V2 => with_memory(own).map_err(|it| format!("hand on memory: {it}"))?,
        };
        let at_folder = |it: io::Error| format!("{}: {it}", folder.display());
        for entry in fs::read_dir(&folder).map_err(at_folder)? {
            let entry = entry.map_err(at_folder)?;
            if entry.file_name().as_encoded_bytes().starts_with(of_node.as_bytes()) {
                remove(&entry.path()).map_err(at_folder)?;
            }
        }
        let name = format!("{of_node}{}", std::process::id());
        let place = Place { version, folder, name, made_count: AtomicU64::new(0) };
        place.make(PROBE_BYTES).map_err(|it| format!("{}: {it}", place.folder.display()))?;
        Ok(place)
    }

    fn make(&self, limit_bytes: u64) -> io::Result<Cgroup> {
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

    /// Kills every process in it.
    pub(crate) fn kill(&self) {
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
    let mut first = None;
    for pid in processes(cgroup) {
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        // The number may have been given to another one since it was read.
        if processes(cgroup).contains(&pid) {
            // It may have ended in between.
            let _ = pidfd_send_signal(&process, Signal::KILL);
            first.get_or_insert(process);
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

/// The cgroup of version 2 whose children can have limits of memory: the worker's own, or the one
/// around it where that was handed to the worker and the worker put into a child of it (systemd's
/// `Delegate` with `DelegateSubgroup`). One that has processes itself cannot hand memory on.
fn with_memory(own: PathBuf) -> io::Result<PathBuf> {
    let hand_on = |cgroup: &Path| {
        let file = cgroup.join("cgroup.subtree_control");
        let has_memory = fs::read_to_string(&file)?.split_whitespace().any(|it| it == "memory");
        if has_memory { Ok(()) } else { set(&file, "+memory") }
    };
    match hand_on(&own) {
        Ok(()) => Ok(own),
        Err(error) => match own.parent() {
            Some(around) if is_delegated(around) => hand_on(around).map(|()| around.to_owned()),
            _ => Err(error),
        },
    }
}

/// Whether systemd leaves what is below a cgroup to those who run in it.
fn is_delegated(cgroup: &Path) -> bool {
    ["user.delegate", "trusted.delegate"].iter().any(|name| {
        let mut value = [0; 1];
        rustix::fs::getxattr(cgroup, *name, &mut value).is_ok_and(|count| count == 1)
            && value == *b"1"
    })
}

/// The folder of a process's own cgroup that the controller of memory looks at, from what
/// `/proc/self/cgroup` and `/proc/self/mountinfo` say.
fn locate(own: &str, mounts: &str) -> Result<(Version, PathBuf), String> {
    let lines = own.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        Some((fields.next()?, fields.next()?, fields.next()?))
    });
    let of_memory = |controllers: &str| controllers.split(',').any(|it| it == "memory");
    let mut found = None;
    for (number, controllers, path) in lines {
        if of_memory(controllers) {
            // Where both versions are there, the controller is with one of them only.
            found = Some((Version::V1, path));
        } else if number == "0" && found.is_none() {
            found = Some((Version::V2, path));
        }
    }
    let (version, path) = found.ok_or("this process is in no cgroup that limits memory")?;
    for line in mounts.lines() {
        let Some((mount, kind)) = line.split_once(" - ") else { continue };
        let mount: Vec<&str> = mount.split(' ').collect();
        let kind: Vec<&str> = kind.split(' ').collect();
        let ([_, _, _, root, point, ..], [kind, _, options, ..]) = (&mount[..], &kind[..]) else {
            continue;
        };
        let is_it = match version {
            Version::V1 => *kind == "cgroup" && of_memory(options),
            Version::V2 => *kind == "cgroup2",
        };
        // What was mounted may begin further down, and not contain this process.
        let Ok(below) = Path::new(path).strip_prefix(unescape(root)) else { continue };
        if is_it && !path.split('/').any(|part| part == "..") {
            return Ok((version, unescape(point).join(below)));
        }
    }
    Err(format!("the cgroup {path} is not mounted here"))
}

/// A path of `mountinfo`, in which spaces and the like are backslashes with three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut parts = text.split('\\');
    let mut path = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) if code.is_ascii() => {
                path.push(char::from(code));
                path.push_str(&part[3..]);
            }
            _ => {
                path.push('\\');
                path.push_str(part);
            }
        }
    }
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1_MOUNTS: &str = "\
        22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
        31 22 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:7 - cgroup cgroup rw,memory\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_own_cgroup_is_found() {
        let v2 = "30 22 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let inner = "50 40 0:32 /docker/1f /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let spaced = "30 22 0:26 / /a\\040b\\134 rw - cgroup2 none rw\n";
        let moved = "30 22 0:26 /other /elsewhere rw - cgroup2 none rw\n\
                     31 22 0:26 /batch /batch rw - cgroup2 none rw\n";
        for (own, mounts, version, path) in [
            (
                "4:memory:/a/b:c\n1:cpu,cpuacct:/\n0::/x\n",
                V1_MOUNTS,
                Version::V1,
                "/sys/fs/cgroup/memory/a/b:c",
            ),
            ("0::/x\n2:hugetlb,memory:/\n", V1_MOUNTS, Version::V1, "/sys/fs/cgroup/memory/"),
            ("1:name=systemd:/y\n0::/x\n", V1_MOUNTS, Version::V2, "/sys/fs/cgroup/unified/x"),
            ("0::/user.slice/s\n", v2, Version::V2, "/sys/fs/cgroup/user.slice/s"),
            ("0::/\n", v2, Version::V2, "/sys/fs/cgroup/"),
            ("4:memory:/docker/1f\n", inner, Version::V1, "/sys/fs/cgroup/memory/"),
            ("0::/x\n", spaced, Version::V2, "/a b\\/x"),
            ("0::/batch/x\n", moved, Version::V2, "/batch/x"),
        ] {
            let found = locate(own, mounts).unwrap();
            assert_eq!(found, (version, PathBuf::from(path)), "{own}");
        }
    }

    #[test]
    fn what_cannot_be_reached_is_told() {
        let v2 = "30 22 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        for (own, mounts, reason) in [
            ("", V1_MOUNTS, "in no cgroup"),
            ("1:cpu:/\nmemory\n", V1_MOUNTS, "in no cgroup"),
            ("4:memory:/a\n", v2, "/a is not mounted"),
            ("0::/a\n", "", "/a is not mounted"),
            ("0::/a\n", "30 22 - cgroup2\n\n30 22 0:26 / /x rw cgroup2 - x\n", "not mounted"),
            ("0::/../a\n", v2, "/../a is not mounted"),
            ("0::/ab\n", "30 22 0:26 /a /x rw - cgroup2 cgroup2 rw\n", "/ab is not mounted"),
        ] {
            let error = locate(own, mounts).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

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
