//! The helper: a small process that starts what it is asked to, says how it ended, and kills.
//!
//! It lives as long as the other end of its standard input, a socket. When that is closed, however
//! the worker ended, it kills what runs and ends too. Deliberately not here: which program, which
//! folder, which limit.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};

use super::processes;
use super::wire::{Answer, Command, Incoming, Request, encode, receive};

/// How often a busy program is tried again (eyeballed: such a moment takes microseconds).
const BUSY_TRIES: usize = 5;

const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// Runs the helper over the socket that is its standard input, until that is closed.
#[must_use]
pub fn helper_main() -> ExitCode {
    let stream = match io::stdin().as_fd().try_clone_to_owned() {
        Ok(stream) => UnixStream::from(stream),
        Err(_) => return ExitCode::FAILURE,
    };
    let mut helper = Helper {
        stream,
        incoming: Incoming::default(),
        entrances: VecDeque::new(),
        children: BTreeMap::new(),
    };
    let ended = helper.run();
    for child in helper.children.values() {
        child.kill();
    }
    for child in helper.children.values() {
        // Nobody is left who would want to know how it ended.
        let _ = child.wait();
    }
    if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The leader of a process group that has not been waited for, so that its number is its own.
struct Child {
    pid: Pid,
    ending: OwnedFd,
}

struct Usage {
    exit_code: i32,
    cpu_us: u64,
    peak_memory_bytes: u64,
}

impl Child {
    fn kill(&self) {
        // It may have no process left but the one that was not waited for.
        let _ = kill_process_group(self.pid, Signal::KILL);
        // It may have gone into a group of somebody else. Its number is its own until the wait.
        let _ = kill_process(self.pid, Signal::KILL);
    }

    fn wait(&self) -> io::Result<Usage> {
        wait(self.pid)
    }
}

/// Waits for a child and tells what it used.
fn wait(pid: Pid) -> io::Result<Usage> {
    let mut status = 0;
    // SAFETY: all bytes zero is a value of this struct of integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to locals of the right types that outlive the call.
        let waited =
            unsafe { libc::wait4(pid.as_raw_nonzero().get(), &raw mut status, 0, &raw mut usage) };
        if waited >= 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    let status = ExitStatus::from_raw(status);
    let exit_code = status.code().or(status.signal().map(|signal| -signal)).unwrap_or(-1);
    let micros = |time: libc::timeval| {
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        seconds.saturating_mul(1_000_000).saturating_add(u64::try_from(time.tv_usec).unwrap_or(0))
    };
    Ok(Usage {
        exit_code,
        cpu_us: micros(usage.ru_utime).saturating_add(micros(usage.ru_stime)),
        peak_memory_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0).saturating_mul(1024),
    })
}

struct Helper {
    stream: UnixStream,
    incoming: Incoming,
    /// Of cgroups, whose records have not come as a whole.
    entrances: VecDeque<OwnedFd>,
    children: BTreeMap<u64, Child>,
}

impl Helper {
    fn run(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let (is_readable, ended) = self.wait_for_any()?;
            for id in ended {
                self.reap(id)?;
            }
            if !is_readable {
                continue;
            }
            let count = match receive(&self.stream, &mut buffer, &mut self.entrances) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.incoming.push(&buffer[..count]);
            while let Some(request) = self.incoming.next().map_err(|_| damaged())? {
                match request {
                    Request::Spawn { id, command, has_cgroup: false } => {
                        self.spawn(id, &command, None)?;
                    }
                    Request::Spawn { id, command, has_cgroup: true } => {
                        let entrance = self.entrances.pop_front().ok_or_else(damaged)?;
                        self.spawn(id, &command, Some(entrance))?;
                    }
                    Request::Kill { id } => {
                        self.children.get(&id).into_iter().for_each(Child::kill)
                    }
                }
            }
        }
    }

    /// Waits until the worker says something or a child ends.
    fn wait_for_any(&self) -> io::Result<(bool, Vec<u64>)> {
        let mut polled = vec![PollFd::new(&self.stream, PollFlags::IN)];
        polled.extend(self.children.values().map(|it| PollFd::new(&it.ending, PollFlags::IN)));
        match poll(&mut polled, None) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok((false, Vec::new())),
            Err(error) => return Err(error.into()),
        }
        let is_ready = |it: &PollFd<'_>| !it.revents().is_empty();
        let ended = self.children.keys().zip(&polled[1..]);
        let ended = ended.filter(|(_, it)| is_ready(it)).map(|(&id, _)| id).collect();
        Ok((is_ready(&polled[0]), ended))
    }

    fn reap(&mut self, id: u64) -> io::Result<()> {
        let Some(child) = self.children.remove(&id) else { return Ok(()) };
        // What the leader left in its group ends with it; the group's number is still its own.
        child.kill();
        let Usage { exit_code, cpu_us, peak_memory_bytes } = child.wait()?;
        self.answer(&Answer::Ended { id, exit_code, cpu_us, peak_memory_bytes })
    }

    fn spawn(&mut self, id: u64, command: &Command, entrance: Option<OwnedFd>) -> io::Result<()> {
        match start(command, entrance) {
            Ok(child) => {
                let pid = child.pid.as_raw_nonzero().get().unsigned_abs();
                self.children.insert(id, child);
                self.answer(&Answer::Started { id, pid })
            }
            Err(error) => {
                let is_of_machine = is_of_machine(&error);
                let mut reason = error.to_string();
                if error.kind() == io::ErrorKind::NotFound {
                    reason += ": this worker has no such program, or not the interpreter that a \
                               script begins with";
                }
                self.answer(&Answer::NotStarted { id, reason, is_of_machine })
            }
        }
    }

    fn answer(&mut self, answer: &Answer) -> io::Result<()> {
        let bytes = encode(answer).map_err(|_| damaged())?;
        self.stream.write_all(&bytes)
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not a record of the worker")
}

/// Starts a process, in a cgroup where one is given. What is used here without one lets the standard
/// library start it without a fork, which would copy tables as large as this process.
fn start(command: &Command, entrance: Option<OwnedFd>) -> io::Result<Child> {
    let environment = command.environment.iter();
    let mut process = std::process::Command::new(OsStr::from_bytes(&command.program));
    process
        .arg0(OsStr::from_bytes(&command.name))
        .args(command.arguments.iter().map(|argument| OsStr::from_bytes(argument)))
        .env_clear()
        .envs(environment.map(|(name, value)| (OsStr::from_bytes(name), OsStr::from_bytes(value))))
        .current_dir(OsStr::from_bytes(&command.folder))
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(append_to(&command.stdout)?)
        .stderr(append_to(&command.stderr)?);
    if let Some(entrance) = entrance {
        let enter = move || {
            // Where this fails, its cgroup stays empty: the worker sees that and measures instead.
            let _ = rustix::io::write(&entrance, b"0");
            Ok(())
        };
        // SAFETY: between fork and exec it makes one system call and allocates nothing.
        unsafe { process.pre_exec(enter) };
    }
    let child = spawn(&mut process)?;
    let pid = Pid::from_child(&child);
    let marked = || {
        std::fs::write(OsStr::from_bytes(&command.mark), processes::mark(pid)?)?;
        Ok(pidfd_open(pid, PidfdFlags::empty())?)
    };
    marked().map(|ending| Child { pid, ending }).inspect_err(|_: &io::Error| {
        // What nobody would find or watch must not run.
        let _ = kill_process_group(pid, Signal::KILL);
        let _ = wait(pid);
    })
}

/// Whether a process was not started for want of something that this machine may have again in a
/// moment: a full disk or too many processes of other tasks are no fault of this one's.
fn is_of_machine(error: &io::Error) -> bool {
    let wants = [
        libc::EAGAIN,
        libc::ENOMEM,
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOSPC,
        libc::EDQUOT,
        libc::EROFS,
        libc::EIO,
        libc::ENOTCONN,
        libc::ETXTBSY,
    ];
    error.raw_os_error().is_some_and(|code| wants.contains(&code))
}

/// A program that was written moments ago is busy for as long as a process that its writer was just
/// starting has a copy of the descriptor: until that executes something.
fn spawn(process: &mut std::process::Command) -> io::Result<std::process::Child> {
    for _ in 0..BUSY_TRIES {
        match process.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                std::thread::park_timeout(BUSY_PAUSE);
            }
            spawned => return spawned,
        }
    }
    process.spawn()
}

fn append_to(path: &[u8]) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(OsStr::from_bytes(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_lacks_is_no_fault_of_the_command() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name).into_os_string().into_encoded_bytes();
        let whole = Command {
            program: b"/bin/sleep".to_vec(),
            name: b"sleep".to_vec(),
            arguments: vec![b"1000".to_vec()],
            environment: Vec::new(),
            folder: place(""),
            stdout: place("stdout"),
            stderr: place("stderr"),
            mark: place("process"),
        };
        let refused = |command: &Command| match start(command, None) {
            Ok(child) => panic!("{} runs", child.pid),
            Err(error) => is_of_machine(&error),
        };
        // Where a disk is full, files are still made and nothing gets into them.
        assert!(refused(&Command { mark: b"/dev/full".to_vec(), ..whole.clone() }));
        assert!(!refused(&Command { program: b"/absent".to_vec(), ..whole.clone() }));
        let arguments = vec![vec![b'x'; 1 << 20]];
        assert!(!refused(&Command { arguments, ..whole.clone() }));
        let child = start(&whole, None)
            .map_err(|error| error.to_string())
            .unwrap_or_else(|it| panic!("{it}"));
        child.kill();
        assert_eq!(child.wait().unwrap().exit_code, -9);
    }
}
