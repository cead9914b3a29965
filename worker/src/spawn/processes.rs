//! What Linux tells of processes under `/proc`, and how those are found that must not run on.
//!
//! A number of a process is used again, so one is told by its number, its start and the boot of the
//! machine; beside that, tasks are known by the folder that their environment names, and what their
//! helper still has to wait for by who its parent is.

use std::fs::File;
use std::io::{self, Read};
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};
use rustix::time::{ClockId, clock_gettime};

use super::user::TaskUser;

/// Name of the file in a folder that tells the process that runs there.
/// The same in the folder of all tasks, with a number behind it, tells a helper.
pub(crate) const MARK: &str = "process";

/// More than a mark has.
const MARK_BYTES: u64 = 256;

/// The variable that every task has and that names a place in its folder.
pub(crate) const OUTPUTS_VARIABLE: &str = "REMUDA_OUTPUTS";

/// How often killing is tried, each time waiting up to [`PATIENCE`] for one that was killed.
const ROUNDS: usize = 50;

const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// A process.
#[derive(Clone, Copy, Debug)]
struct Process {
    pid: Pid,
    parent: i32,
    group: i32,
    /// Clock ticks from boot to its start.
    start: u64,
    resident_pages: u64,
    is_ended: bool,
}

impl Process {
    fn read(pid: Pid) -> Option<Process> {
        // It is shorter than that, and comes at once.
        let mut text = [0; 1024];
        let length = File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut text).ok()?;
        let text = text.get(..length)?;
        // The second field is the program's name, which may contain anything.
        let behind_name = text.iter().rposition(|&byte| byte == b')')?;
        let text = str::from_utf8(text.get(behind_name + 1..)?).ok()?;
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        Some(Process {
            pid,
            is_ended: matches!(*fields.first()?, "Z" | "X"),
            parent: fields.get(1)?.parse().ok()?,
            group: fields.get(2)?.parse().ok()?,
            start: fields.get(19)?.parse().ok()?,
            resident_pages: fields.get(21)?.parse().ok()?,
        })
    }

    /// Those of the machine that this process may see.
    fn all() -> io::Result<Vec<Process>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let pid = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            found.extend(pid.and_then(Process::read));
        }
        Ok(found)
    }

    /// True for what was started with an output folder below `folder`.
    fn is_task_of(&self, folder: &Path) -> bool {
        let Ok(environment) = std::fs::read(format!("/proc/{}/environ", self.pid)) else {
            return false;
        };
        let mut prefix = format!("{OUTPUTS_VARIABLE}=").into_bytes();
        prefix.extend_from_slice(folder.as_os_str().as_bytes());
        prefix.push(b'/');
        environment.split(|&byte| byte == 0).any(|variable| variable.starts_with(&prefix))
    }
}

/// Which boot of the machine this is; nothing where it is not told.
fn boot() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        text.trim().to_owned()
    })
}

/// The length of every mark.
pub(crate) fn mark_bytes() -> u64 {
    // The numbers and what stands between them.
    (10 + 1 + 20 + 1 + 20 + 1 + boot().len() + 1) as u64
}

/// Clock ticks since boot, of those in which the starts of processes are told.
pub(super) fn ticks() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    let (seconds, nanos) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    seconds.saturating_mul(per_second) + nanos / (1_000_000_000 / per_second)
}

/// What a mark says of a process that was started not before the tick `first` and just now: number,
/// first and last tick of its start, boot. The kernel knows the tick, and is not asked for it: that
/// would be a file of `/proc` more for each task. All are of one length, so that a new one may be
/// written over an old one.
pub(super) fn mark(pid: Pid, first: u64) -> String {
    format!("{:010} {first:020} {:020} {}\n", pid.as_raw_nonzero(), ticks(), boot())
}

/// Makes a mark one that tells no process.
pub(crate) fn unmark(mark: impl AsFd) -> io::Result<()> {
    // That alone is enough: what begins with it is no number of a process.
    rustix::io::pwrite(mark, b"x", 0)?;
    Ok(())
}

/// What a mark says; nothing where it is none. A task may have written to it, or put a pipe in its
/// place: neither may fill the worker's memory or make it wait.
fn text_of_mark(mark: &Path) -> String {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(mark);
    let mut text = String::new();
    let read = file.and_then(|file| file.take(MARK_BYTES).read_to_string(&mut text));
    if read.is_ok() { text } else { String::new() }
}

/// The process of this boot that a mark's text tells, and the ticks in which it was started.
fn told(text: &str) -> Option<(Pid, RangeInclusive<u64>)> {
    let mut parts = text.strip_suffix('\n')?.split(' ');
    let pid = Pid::from_raw(parts.next()?.parse().ok()?)?;
    let starts = parts.next()?.parse().ok()?..=parts.next()?.parse().ok()?;
    (parts.next() == Some(boot()) && parts.next().is_none()).then_some((pid, starts))
}

/// The process that a mark tells, if it still runs. Where tasks have a user of their own,
/// a task could have written the mark: only that user's processes are believed to be meant.
fn marked(mark_file: &Path, user: Option<TaskUser>) -> Option<Process> {
    let (pid, starts) = told(&text_of_mark(mark_file))?;
    let process = Process::read(pid).filter(|process| !process.is_ended)?;
    let is_theirs = user.is_none_or(|user| user_of(pid) == Some(user.uid));
    (is_theirs && starts.contains(&process.start)).then_some(process)
}

/// Whether a folder's mark tells a process of this boot, whatever became of it since: it ran when
/// its worker died. After a boot nobody knows, and the task is not blamed for the machine's end.
pub(super) fn was_running(folder: &Path) -> bool {
    told(&text_of_mark(&folder.join(MARK))).is_some()
}

/// Who a process runs as.
fn user_of(pid: Pid) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Bytes of memory that the processes of a group have resident together; what they share counts
/// for each.
pub(crate) fn group_memory(group: u32) -> u64 {
    let all = Process::all().unwrap_or_default();
    let own = all.iter().filter(|process| u32::try_from(process.group) == Ok(group));
    let pages: u64 = own.map(|process| process.resident_pages).sum();
    pages.saturating_mul(rustix::param::page_size() as u64)
}

/// Kills every child of this process, and waits a moment for one of them. Their own children become
/// this one's, where it is the one that gets those whose parents ended.
///
/// # Errors
/// Where `/proc` cannot be read.
pub(super) fn kill_children() -> io::Result<()> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let children: Vec<Process> =
        Process::all()?.into_iter().filter(|it| it.parent == own).collect();
    // A child's number is its own until it is waited for.
    for child in &children {
        let _ = kill_process(child.pid, Signal::KILL);
    }
    let first = children.iter().find(|child| !child.is_ended);
    if let Some(Ok(ending)) = first.map(|child| pidfd_open(child.pid, PidfdFlags::empty())) {
        let _ = poll(&mut [PollFd::new(&ending, PollFlags::IN)], Some(&PATIENCE));
    }
    Ok(())
}

/// Kills the process that a mark tells, and its group, and whatever else was started as a task
/// below a folder; returns when they have ended, with their number.
///
/// # Errors
/// Where `/proc` cannot be read or something does not end.
pub(super) fn kill_left_over(
    folder: &Path,
    mark_file: &Path,
    user: Option<TaskUser>,
) -> io::Result<usize> {
    let mut killed = 0;
    for _ in 0..ROUNDS {
        let marked = marked(mark_file, user);
        let mut found: Vec<Process> = Process::all()?
            .into_iter()
            .filter(|process| !process.is_ended && process.is_task_of(folder))
            .collect();
        found.extend(marked);
        let Some(first) = found.first() else { return Ok(killed) };
        let ending = pidfd_open(first.pid, PidfdFlags::empty());
        if let Some(leader) = marked
            && leader.group == leader.pid.as_raw_nonzero().get()
        {
            // It may have ended in between.
            let _ = kill_process_group(leader.pid, Signal::KILL);
        }
        for process in &found {
            // The number may have been given to another one since it was read.
            let is_same = Process::read(process.pid).is_some_and(|now| now.start == process.start);
            if is_same && kill_process(process.pid, Signal::KILL).is_ok() {
                killed += 1;
            }
        }
        if let Ok(ending) = ending {
            let _ = poll(&mut [PollFd::new(&ending, PollFlags::IN)], Some(&PATIENCE));
        }
    }
    let text = format!("processes that were started below {} do not end", folder.display());
    Err(io::Error::other(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_tells_one_process_only() {
        let folder = tempfile::tempdir().unwrap();
        let own = rustix::process::getpid();
        let start = Process::read(own).unwrap().start;
        let text = mark(own, start);
        assert_eq!(text.len() as u64, mark_bytes());
        std::fs::write(folder.path().join(MARK), &text).unwrap();
        assert_eq!(marked(&folder.path().join(MARK), None).unwrap().pid, own);
        let uid = rustix::process::getuid().as_raw();
        let of = |uid| marked(&folder.path().join(MARK), Some(TaskUser { uid, gid: 0 }));
        assert!(of(uid).is_some() && of(uid + 1).is_none());
        assert!(was_running(folder.path()));
        let later = mark(own, start + 1);
        let earlier = text.replace(&text[32..52], &format!("{:020}", start - 1));
        for other in [&later, &earlier, "", "1", "x y z", &text[..text.len() - 3]] {
            std::fs::write(folder.path().join(MARK), other).unwrap();
            assert!(marked(&folder.path().join(MARK), None).is_none(), "{other:?}");
        }
        for (text, was) in [(later.as_str(), true), ("", false), (&text[..text.len() - 1], false)] {
            std::fs::write(folder.path().join(MARK), text).unwrap();
            assert_eq!(was_running(folder.path()), was, "{text:?}");
        }
        std::fs::write(folder.path().join(MARK), "7 9 9 another-boot\n").unwrap();
        assert!(!was_running(folder.path()));
        let large = File::create(folder.path().join(MARK)).unwrap();
        large.set_len(1 << 40).unwrap();
        assert!(!was_running(folder.path()) && marked(&folder.path().join(MARK), None).is_none());
        std::fs::write(folder.path().join(MARK), &text).unwrap();
        unmark(File::options().write(true).open(folder.path().join(MARK)).unwrap()).unwrap();
        assert!(!was_running(folder.path()));
        std::fs::write(folder.path().join(MARK), &text).unwrap();
        assert!(was_running(folder.path()));
        std::fs::remove_file(folder.path().join(MARK)).unwrap();
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, folder.path().join(MARK), mode).unwrap();
        assert!(!was_running(folder.path()));
    }

    #[test]
    fn the_kernel_says_that_a_process_started_when_it_was_started() {
        let first = ticks();
        let mut child = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let text = mark(Pid::from_child(&child), first);
        let start = Process::read(Pid::from_child(&child)).unwrap().start;
        child.kill().unwrap();
        child.wait().unwrap();
        let (pid, starts) = told(&text).unwrap();
        assert!(pid == Pid::from_child(&child) && starts.contains(&start), "{start} of {starts:?}");
    }

    #[test]
    fn a_group_has_memory() {
        let group = rustix::process::getpgrp().as_raw_nonzero().get();
        assert!(group_memory(u32::try_from(group).unwrap()) > 100_000);
        assert_eq!(group_memory(u32::MAX), 0);
    }
}
