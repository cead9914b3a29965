//! The helper: a small process that starts what it is asked to, one process at a time, says how it
//! ended, and kills.
//!
//! Whatever a process leaves behind becomes a child of its helper, which so knows whether anything is
//! left, and ends it. It lives as long as the other end of its standard input, a socket. When that is closed, however
//! the worker ended, it kills what runs and ends too. Deliberately not here: which program, which
//! folder, which limit.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use node::descriptors;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open,
    set_child_subreaper, set_dumpable_behavior,
};

use super::processes;
use super::wire::{Answer, Command, Incoming, Request, encode, receive};

/// How often a busy program is tried again (eyeballed: such a moment takes microseconds).
const BUSY_TRIES: usize = 5;

const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// How often what a process left is killed: it may start others as fast as they are found.
const ROUNDS: usize = 50;

/// How long what was killed is given until it is waited for again.
const WAIT_PAUSE: Duration = Duration::from_millis(5);

/// How often those are waited for that lost their parent while the process runs.
const SWEEP: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Runs the helper over the socket that is its standard input, until that is closed.
#[must_use]
pub fn helper_main() -> ExitCode {
    let stream = match io::stdin().as_fd().try_clone_to_owned() {
        Ok(stream) => UnixStream::from(stream),
        Err(_) => return ExitCode::FAILURE,
    };
    if stream.peer_addr().is_err() {
        return ExitCode::FAILURE;
    }
    // Programs that use `select` fail with higher descriptors than they were made for.
    let soft_limit = std::env::args().nth(2).and_then(|limit| limit.parse().ok());
    if soft_limit.is_some_and(|limit| descriptors::lower(limit).is_err()) {
        return ExitCode::FAILURE;
    }
    let Ok(nothing) = File::open("/dev/null") else { return ExitCode::FAILURE };
    let mut helper = Helper {
        stream,
        nothing,
        incoming: Incoming::default(),
        entrances: VecDeque::new(),
        is_reaper: set_child_subreaper(Some(rustix::process::getpid())).is_ok(),
        is_closed: false,
        child: None,
    };
    let ended = helper.run();
    if let Some(child) = helper.child.take() {
        child.kill();
        // Nobody is left who would want to know how it ended.
        let _ = wait_killing(child.pid);
    }
    if helper.is_reaper {
        end_rest();
    }
    if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The leader of a process group that has not been waited for, so that its number is its own.
struct Child {
    /// The request.
    id: u64,
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
}

/// What waiting for any child says.
enum Waited {
    /// This one ended.
    Ended(Pid, Usage),
    /// There are some, and none ended.
    NotYet,
    /// There are none.
    Nobody,
}

/// Waits for a child and tells what it used.
fn wait(pid: Pid) -> io::Result<Usage> {
    match wait_for(pid.as_raw_nonzero().get(), 0)? {
        Waited::Ended(_, usage) => Ok(usage),
        Waited::NotYet | Waited::Nobody => Err(io::Error::other("it is no child")),
    }
}

/// Waits for a child that ended or was killed. One that another process traces cannot be waited for
/// before that ended; where a process started its tracer itself, that lost its parent and is a child of
/// this one.
fn wait_killing(pid: Pid) -> io::Result<Usage> {
    for _ in 0..ROUNDS {
        match wait_for(pid.as_raw_nonzero().get(), libc::WNOHANG)? {
            Waited::Ended(_, usage) => return Ok(usage),
            Waited::Nobody => return Err(io::Error::other("it is no child")),
            Waited::NotYet => processes::kill_children()?,
        }
        std::thread::park_timeout(WAIT_PAUSE);
    }
    Err(io::Error::other("somebody else traces it"))
}

/// Waits for a child, or for any, as wait4 does.
fn wait_for(pid: i32, options: i32) -> io::Result<Waited> {
    let mut status = 0;
    // SAFETY: all bytes zero is a value of this struct of integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let waited = loop {
        // SAFETY: both pointers are to locals of the right types that outlive the call.
        let waited = unsafe { libc::wait4(pid, &raw mut status, options, &raw mut usage) };
        if waited >= 0 {
            break waited;
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::ECHILD) => return Ok(Waited::Nobody),
            _ => return Err(error),
        }
    };
    let Some(pid) = Pid::from_raw(waited) else { return Ok(Waited::NotYet) };
    let status = ExitStatus::from_raw(status);
    let exit_code = status.code().or(status.signal().map(|signal| -signal)).unwrap_or(-1);
    let micros = |time: libc::timeval| {
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        seconds.saturating_mul(1_000_000).saturating_add(u64::try_from(time.tv_usec).unwrap_or(0))
    };
    let usage = Usage {
        exit_code,
        cpu_us: micros(usage.ru_utime).saturating_add(micros(usage.ru_stime)),
        peak_memory_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0).saturating_mul(1024),
    };
    Ok(Waited::Ended(pid, usage))
}

/// Ends all that a process left, whatever group or environment it gave itself: it lost its parent and
/// became a child of this process. True where certainly nothing is left.
fn end_rest() -> bool {
    for _ in 0..ROUNDS {
        loop {
            match wait_for(-1, libc::WNOHANG) {
                Ok(Waited::Ended(..)) => {}
                Ok(Waited::NotYet) => break,
                Ok(Waited::Nobody) => return true,
                Err(_) => return false,
            }
        }
        if processes::kill_children().is_err() {
            return false;
        }
    }
    false
}

struct Helper {
    stream: UnixStream,
    /// What a process reads that reads its standard input.
    nothing: File,
    incoming: Incoming,
    /// Of cgroups, whose records have not come as a whole.
    entrances: VecDeque<OwnedFd>,
    /// Whether processes that lose their parent become children of this one.
    is_reaper: bool,
    /// Whether other processes of its user are kept out of this one.
    is_closed: bool,
    child: Option<Child>,
}

impl Helper {
    fn run(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let (is_readable, has_ended) = self.wait_for_any()?;
            if has_ended {
                self.reap()?;
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
                    Request::Spawn { id, command, has_cgroup, tells_start } => {
                        let entrance = match has_cgroup {
                            true => Some(self.entrances.pop_front().ok_or_else(damaged)?),
                            false => None,
                        };
                        self.spawn(id, &command, entrance, tells_start)?;
                    }
                    Request::Kill { id } => {
                        self.child.iter().filter(|it| it.id == id).for_each(Child::kill);
                    }
                }
            }
        }
    }

    /// Waits until the worker says something or the child ends: which of them. Those that lost their
    /// parents and ended are not left lying while the child runs on.
    fn wait_for_any(&mut self) -> io::Result<(bool, bool)> {
        let is_ready = |it: &PollFd<'_>| !it.revents().is_empty();
        let worker = PollFd::new(&self.stream, PollFlags::IN);
        let (count, ready) = match &self.child {
            None => {
                let mut polled = [worker];
                (poll(&mut polled, None), (is_ready(&polled[0]), false))
            }
            Some(child) => {
                let mut polled = [worker, PollFd::new(&child.ending, PollFlags::IN)];
                let count = poll(&mut polled, self.is_reaper.then_some(&SWEEP));
                (count, (is_ready(&polled[0]), is_ready(&polled[1])))
            }
        };
        match count {
            Ok(0) => {
                self.sweep()?;
                Ok((false, false))
            }
            Ok(_) => Ok(ready),
            Err(Errno::INTR) => Ok((false, false)),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for those that ended besides the child.
    fn sweep(&mut self) -> io::Result<()> {
        while let Waited::Ended(pid, usage) = wait_for(-1, libc::WNOHANG)? {
            if let Some(child) = self.child.take_if(|child| child.pid == pid) {
                // It ended just now. Its number is given to nobody else for a long time.
                return self.ended(&child, &usage);
            }
        }
        Ok(())
    }

    fn reap(&mut self) -> io::Result<()> {
        let Some(child) = self.child.take() else { return Ok(()) };
        // What the leader left in its group ends with it; the group's number is still its own.
        child.kill();
        let usage = wait_killing(child.pid)?;
        self.ended(&child, &usage)
    }

    fn ended(&mut self, child: &Child, usage: &Usage) -> io::Result<()> {
        let is_alone = self.is_reaper && end_rest();
        let &Usage { exit_code, cpu_us, peak_memory_bytes } = usage;
        let id = child.id;
        self.answer(&Answer::Ended { id, exit_code, cpu_us, peak_memory_bytes, is_alone })
    }

    fn spawn(
        &mut self,
        id: u64,
        command: &Command,
        entrance: Option<OwnedFd>,
        tells_start: bool,
    ) -> io::Result<()> {
        if self.child.is_some() {
            return Err(damaged());
        }
        if !self.is_closed {
            // A process of the same user could else trace this one and say anything in its name. Not
            // before the worker wrote down which process this is: where `/proc` hides what one may
            // not trace, it could not. What is executed here is open again.
            set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
            self.is_closed = true;
        }
        match start(id, command, &self.nothing, entrance) {
            Ok(child) => {
                let pid = child.pid.as_raw_nonzero().get().unsigned_abs();
                self.child = Some(child);
                if tells_start { self.answer(&Answer::Started { id, pid }) } else { Ok(()) }
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
fn start(id: u64, command: &Command, stdin: &File, entrance: Option<OwnedFd>) -> io::Result<Child> {
    let environment = command.environment.iter();
    let mut process = std::process::Command::new(OsStr::from_bytes(&command.program));
    process
        .arg0(OsStr::from_bytes(&command.name))
        .args(command.arguments.iter().map(|argument| OsStr::from_bytes(argument)))
        .env_clear()
        .envs(environment.map(|(name, value)| (OsStr::from_bytes(name), OsStr::from_bytes(value))))
        .current_dir(OsStr::from_bytes(&command.folder))
        .process_group(0)
        .stdin(stdin.try_clone()?)
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
    let first = processes::ticks();
    let child = spawn(&mut process)?;
    let pid = Pid::from_child(&child);
    let marked = || {
        // Over the mark of the task before, which is as long.
        let mark = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(OsStr::from_bytes(&command.mark));
        mark?.write_all(processes::mark(pid, first).as_bytes())?;
        Ok(pidfd_open(pid, PidfdFlags::empty())?)
    };
    marked().map(|ending| Child { id, pid, ending }).inspect_err(|_: &io::Error| {
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
        let nothing = File::open("/dev/null").unwrap();
        let refused = |command: &Command| match start(0, command, &nothing, None) {
            Ok(child) => panic!("{} runs", child.pid),
            Err(error) => is_of_machine(&error),
        };
        // Where a disk is full, files are still made and nothing gets into them.
        assert!(refused(&Command { mark: b"/dev/full".to_vec(), ..whole.clone() }));
        assert!(!refused(&Command { program: b"/absent".to_vec(), ..whole.clone() }));
        let arguments = vec![vec![b'x'; 1 << 20]];
        assert!(!refused(&Command { arguments, ..whole.clone() }));
        let child = start(0, &whole, &nothing, None)
            .map_err(|error| error.to_string())
            .unwrap_or_else(|it| panic!("{it}"));
        child.kill();
        assert_eq!(wait(child.pid).unwrap().exit_code, -9);
    }
}
