//! How processes of tasks are started: by small helper processes, which the worker asks.
//!
//! - [`helper_main`] is the helper; the program starts itself again with [`ENTRY`] for it
//! - [`Spawner`] is the worker's end: has a helper for each process that runs
//! - [`TaskUser`] is who the helper becomes, and with it all tasks
//! - `processes.rs` finds what a predecessor left running
//!
//! `docs/decisions/spawn-helper.md` says why. Deliberately not here: what a task is.

pub(crate) mod processes;
mod starter;
mod user;
mod wire;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use node::descriptors;
use proto::time::Duration;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions, kill_process, pidfd_open,
    setrlimit, waitid,
};

use crate::cgroup::{Cgroups, Crowd, Crowds};
use processes::MARK;
pub use starter::helper_main;
pub use user::TaskUser;
pub(crate) use wire::{Answer, Command};
use wire::{Incoming, Request, encode, send_with};

/// The first argument by which a program that runs a worker knows that it is to be its helper: it
/// calls [`helper_main`] then and nothing else.
pub const ENTRY: &str = "--spawn-helper";

/// Name of the folder of all tasks in a worker's data folder.
const TASKS: &str = "tasks";

/// How long a helper may take to kill what runs before it is killed itself.
const PATIENCE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// How long a helper may take to tell of the end of what it was to kill: longer than it tries to end
/// what that left.
const KILL_PATIENCE: Duration = Duration::from_secs(15);

/// How long a helper may leave what it is asked for unread. One that was stopped never reads it.
const WRITE_PATIENCE: std::time::Duration = std::time::Duration::from_secs(15);

/// How often a helper is made to go on while it has one process. Whoever stops it more often than by
/// mistake has to be rid of (eyeballed).
const STOPS: u32 = 10;

/// How often the end of a helper that was killed is looked for.
const END_TRIES: usize = 400;

const END_PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

/// How the helper is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelperProgram {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Who it becomes; `None` where it stays who the worker is.
    pub user: Option<TaskUser>,
}

impl HelperProgram {
    /// The running program with [`ENTRY`], also when its file was replaced since; and with the
    /// limit of descriptors that this process was started with, for what the helper starts.
    #[must_use]
    pub fn this_one(user: Option<TaskUser>) -> HelperProgram {
        let soft_limit = descriptors::original().map(|limit| limit.to_string().into());
        let arguments = std::iter::once(ENTRY.into()).chain(soft_limit).collect();
        HelperProgram { program: "/proc/self/exe".into(), arguments, user }
    }
}

/// Starts processes through helpers, one for each process that runs: each is started when it is first
/// needed and kept for the next process, until it dies. Copies share them; with the last of these they
/// end.
#[derive(Clone, Debug)]
pub struct Spawner {
    shared: Arc<Shared>,
    cgroups: Cgroups,
    patience: Duration,
}

#[derive(Debug)]
struct Shared {
    program: HelperProgram,
    folder: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    helpers: BTreeMap<u64, Arc<Helper>>,
    /// Those of them that nobody uses.
    idle: Vec<u64>,
    /// Of helpers and of requests.
    last_number: u64,
}

/// A mutex whose holders leave nothing half done, also where they panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Names of the folders below `tasks` of a data folder in which a process ran when a predecessor of
/// this worker died. [`Spawner::open`] removes them.
///
/// # Errors
/// Where the folder cannot be read.
pub(crate) fn left_running(data: &Path) -> io::Result<Vec<OsString>> {
    let mut left = Vec::new();
    let entries = match fs::read_dir(data.join(TASKS)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(left),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if processes::was_running(&entry.path()) {
            left.push(entry.file_name());
        }
    }
    Ok(left)
}

impl Spawner {
    /// Tasks run below the folder `tasks` of a worker's data folder. What a predecessor left
    /// running there is killed first, and what it left lying is removed.
    ///
    /// # Errors
    /// Where something does not end, or the folder cannot be made.
    pub fn open(data: &Path, program: HelperProgram) -> io::Result<Spawner> {
        let data = &data.canonicalize()?;
        let folder = data.join(TASKS);
        fs::create_dir_all(&folder)?;
        let folder = folder.canonicalize()?;
        let user = program.user;
        if let Some(user) = user {
            user.admit(data)?;
            user.admit(&folder)?;
        }
        let (mut killed, mut tasks) = (0, Vec::new());
        // The helpers first: they could start something more.
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name());
            if path.is_dir() {
                tasks.push(path);
            } else if name.as_bytes().starts_with(MARK.as_bytes()) {
                killed += processes::kill_left_over(&folder, &path, user)?;
                fs::remove_file(&path)?;
            }
        }
        for path in tasks {
            killed += processes::kill_left_over(&path, &path.join(MARK), user)?;
            if let Err(error) = crate::runtime::remove_folder(&path) {
                // The next start tries it again; tasks have folders of their own.
                tracing::warn!(folder = %path.display(), %error,
                    "what a task left cannot be removed");
            }
        }
        if killed > 0 {
            tracing::info!(killed, "the worker ended what its predecessor left running");
        }
        let state = Mutex::default();
        let shared = Arc::new(Shared { program, folder, state });
        Ok(Spawner { shared, cgroups: Cgroups::default(), patience: KILL_PATIENCE })
    }

    /// The same, and tasks with a memory limit get cgroups of their own where there are any.
    #[must_use]
    pub fn with_cgroups(self, cgroups: Cgroups) -> Spawner {
        Spawner { cgroups, ..self }
    }

    /// The same, and helpers have less time to kill.
    #[cfg(test)]
    pub(crate) fn with_patience(self, patience: Duration) -> Spawner {
        Spawner { patience, ..self }
    }

    /// How long a helper may take to tell of the end of what it was to kill.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// What enforces memory limits.
    pub(crate) fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    /// Where the folders of tasks are; absolute.
    pub(crate) fn folder(&self) -> &Path {
        &self.shared.folder
    }

    /// Who processes run as, where that is another user than the worker's.
    pub(crate) fn user(&self) -> Option<TaskUser> {
        self.shared.program.user
    }

    /// Kills what runs in the folder of a task that nobody watches any more.
    pub(crate) fn kill_left_over(&self, folder: &Path) -> io::Result<usize> {
        processes::kill_left_over(folder, &folder.join(MARK), self.user())
    }

    /// Starts a process. With the entrance of a cgroup, it is in that before its program begins; if it
    /// cannot enter, it runs outside.
    ///
    /// # Errors
    /// Where there is no helper and none can be started. That is no fault of the command's.
    pub(crate) fn spawn(
        &self,
        command: Command,
        entrance: Option<BorrowedFd<'_>>,
        tells_start: TellsStart,
    ) -> io::Result<Running> {
        let (id, mut idle) = self.shared.take();
        let has_cgroup = entrance.is_some();
        let tells_start = tells_start == TellsStart::Yes;
        let bytes = encode(&Request::Spawn { id, command, has_cgroup, tells_start });
        let ask = |(number, helper): (u64, Arc<Helper>)| {
            // Where this fails, the helper ends with what is returned.
            let (shared, incoming) = (self.shared.clone(), Incoming::default());
            let (has_started, is_good, stops) = (false, false, 0);
            let running =
                Running { id, number, helper, incoming, has_started, is_good, stops, shared };
            let bytes = bytes
                .as_ref()
                .map_err(|_| io::Error::other("the command is larger than a helper takes"))?;
            match entrance {
                Some(entrance) => send_with(&running.helper.stream, bytes, entrance)?,
                None => (&running.helper.stream).write_all(bytes)?,
            }
            Ok(running)
        };
        if let Some(idle) = idle.take() {
            match ask(idle) {
                Ok(running) => return Ok(running),
                Err(error) => {
                    tracing::warn!(%error, "a spawn helper died: another one is started");
                }
            }
        }
        ask(self.shared.start(self.cgroups.crowds())?)
    }

    /// Closes the connections, as the end of the worker's process does.
    #[cfg(test)]
    pub(crate) fn hang_up(&self) {
        for helper in lock(&self.shared.state).helpers.values() {
            shutdown(&helper.stream, Shutdown::Both).unwrap();
        }
    }

    /// The process of the first helper; `None` while there is none.
    #[cfg(test)]
    pub(crate) fn helper(&self) -> Option<Pid> {
        let state = lock(&self.shared.state);
        state.helpers.values().next().map(|helper| Pid::from_child(&helper.child))
    }
}

impl Shared {
    /// A new number for a request, and a helper that nobody uses if there is one.
    fn take(&self) -> (u64, Option<(u64, Arc<Helper>)>) {
        let mut state = lock(&self.state);
        state.last_number += 1;
        let id = state.last_number;
        let idle = state.idle.pop();
        (id, idle.and_then(|number| Some((number, state.helpers.get(&number)?.clone()))))
    }

    /// Starts another helper.
    fn start(&self, crowds: &Crowds) -> io::Result<(u64, Arc<Helper>)> {
        let number = {
            let mut state = lock(&self.state);
            state.last_number += 1;
            state.last_number
        };
        let mark = self.folder.join(format!("{MARK}-{number}"));
        let helper = Arc::new(Helper::start(&self.program, mark, crowds)?);
        lock(&self.state).helpers.insert(number, helper.clone());
        Ok((number, helper))
    }

    /// A helper is used no more: it waits for the next process, or it ends.
    fn give_back(&self, number: u64, is_good: bool) {
        let mut state = lock(&self.state);
        if is_good {
            state.idle.push(number);
        } else {
            // Whoever holds it last ends it, outside of the lock.
            state.helpers.remove(&number);
        }
    }
}

/// Whether somebody wants to know that a process runs before it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TellsStart {
    /// [`Answer::Started`] comes first.
    Yes,
    /// The first answer is the last one.
    No,
}

/// The helper is gone, and nobody knows how the process ended.
#[derive(Debug)]
pub(crate) struct HelperDied;

/// A process that a helper was asked for. If this is dropped before its end was told, it is killed
/// together with its helper, which also ends where it could not end all that the process left: it
/// would try that again with each process after it.
#[derive(Debug)]
pub(crate) struct Running {
    id: u64,
    number: u64,
    helper: Arc<Helper>,
    incoming: Incoming,
    has_started: bool,
    /// Whether the helper can have another process.
    is_good: bool,
    /// How often the helper was found stopped.
    stops: u32,
    shared: Arc<Shared>,
}

impl Running {
    /// What the helper says next of it; `None` where it says nothing for so long, or something is
    /// written to `wake` before.
    pub(crate) fn wait(
        &mut self,
        patience: Timespec,
        wake: BorrowedFd<'_>,
    ) -> Result<Option<Answer>, HelperDied> {
        loop {
            match self.incoming.next::<Answer>() {
                Ok(Some(answer)) if answer.id() == self.id => {
                    match answer {
                        // Told again and again, it would keep the worker from all else.
                        Answer::Started { .. } if self.has_started => return Err(HelperDied),
                        Answer::Started { .. } => self.has_started = true,
                        Answer::NotStarted { .. } => self.is_good = true,
                        Answer::Ended { is_alone, .. } => self.is_good = is_alone,
                    }
                    return Ok(Some(answer));
                }
                Ok(None) => {}
                // A helper that says what it should not is not heard any more.
                Ok(Some(_)) | Err(_) => return Err(HelperDied),
            }
            let mut polled = [
                PollFd::new(&self.helper.stream, PollFlags::IN),
                PollFd::from_borrowed_fd(wake, PollFlags::IN),
            ];
            match poll(&mut polled, Some(&patience)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return Err(HelperDied),
            }
            if polled[0].revents().is_empty() {
                return Ok(None);
            }
            let mut buffer = [0; 4096];
            match (&self.helper.stream).read(&mut buffer) {
                Ok(0) => return Err(HelperDied),
                Ok(count) => self.incoming.push(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(HelperDied),
            }
        }
    }

    /// Whether it started, or tried to start, more processes and threads than it may have.
    pub(crate) fn is_crowded(&self) -> bool {
        self.helper.crowd.as_ref().is_some_and(Crowd::was_reached)
    }

    /// Has its process group killed, and all that it started where that is bounded.
    pub(crate) fn kill(&self) {
        if let Ok(bytes) = encode(&Request::Kill { id: self.id }) {
            // That it died is told by the next wait.
            let _ = (&self.helper.stream).write_all(&bytes);
        }
        // What left the group, too: the helper would find it generation by generation.
        self.helper.crowd.iter().for_each(Crowd::kill);
    }

    /// Makes the helper go on where somebody stopped it: a task of the same user may, also while the
    /// helper has no process, and the next one would not begin. False where that was done too often.
    pub(crate) fn goes_on(&mut self) -> bool {
        // Its number is its own until it is waited for, which its last holder does. This tells of a
        // stop and not of an end.
        let helper = Pid::from_child(&self.helper.child);
        let stopped = waitid(WaitId::Pid(helper), WaitIdOptions::STOPPED | WaitIdOptions::NOHANG);
        if stopped.is_ok_and(|it| it.is_some_and(|status| status.stopped())) {
            self.stops += 1;
            // One that ended meanwhile is told by the next wait.
            let _ = kill_process(helper, Signal::CONT);
        }
        self.stops <= STOPS
    }

    /// Kills the helper, not what it started.
    pub(crate) fn kill_helper(&self) {
        // Its number is its own until it is waited for, which its last holder does.
        let _ = kill_process(Pid::from_child(&self.helper.child), Signal::KILL);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_good {
            self.helper.crowd.iter().for_each(Crowd::reopen);
        }
        self.shared.give_back(self.number, self.is_good);
    }
}

/// A helper, which ends when this is dropped.
#[derive(Debug)]
struct Helper {
    child: Child,
    stream: UnixStream,
    /// Tells a later worker which process it was.
    mark: PathBuf,
    /// Dropped behind the helper's end: what it left ends with it.
    crowd: Option<Crowd>,
}

impl Helper {
    fn start(program: &HelperProgram, mark: PathBuf, crowds: &Crowds) -> io::Result<Helper> {
        let (stream, theirs) = UnixStream::pair()?;
        stream.set_write_timeout(Some(WRITE_PATIENCE))?;
        let mut command = std::process::Command::new(&program.program);
        if let Some(user) = program.user {
            // Other groups are given up as well: a root that names a user does that.
            command.uid(user.uid).gid(user.gid);
            if let Some(most) = crowds.together() {
                // Where there are no cgroups, its own processes are all that a user can be told from.
                let bound = move || {
                    let limit = Rlimit { current: Some(most), maximum: Some(most) };
                    Ok(setrlimit(Resource::Nproc, limit)?)
                };
                // SAFETY: between fork and exec it makes one system call and allocates nothing.
                unsafe { command.pre_exec(bound) };
            }
        }
        let first = processes::ticks();
        let child = command
            .arg0("remuda-spawn-helper")
            .args(&program.arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            // Signals of a terminal are for the worker, which ends its helpers itself.
            .process_group(0)
            .spawn()?;
        let pid = Pid::from_child(&child);
        // From here on it ends if anything fails.
        let mut helper = Helper { child, stream, mark, crowd: None };
        fs::write(&helper.mark, processes::mark(pid, first))?;
        helper.crowd = crowds.admit(pid);
        Ok(helper)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // Closing this end is what tells the helper to end.
        let _ = shutdown(&self.stream, Shutdown::Both);
        let ending = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty());
        let has_ended = ending.is_ok_and(|ending| {
            poll(&mut [PollFd::new(&ending, PollFlags::IN)], Some(&PATIENCE)).is_ok_and(|it| it > 0)
        });
        if !has_ended {
            let _ = self.child.kill();
        }
        // One that is traced cannot be waited for before its tracer ended, which nobody may see to.
        for _ in 0..END_TRIES {
            if !matches!(self.child.try_wait(), Ok(None)) {
                break;
            }
            std::thread::park_timeout(END_PAUSE);
        }
        // The next start would find that it tells nothing that runs.
        let _ = fs::remove_file(&self.mark);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process whose helper says these things, and what the helpers are among.
    fn running(answers: &[Answer]) -> (Running, Arc<Shared>) {
        let (stream, mut theirs) = UnixStream::pair().unwrap();
        for answer in answers {
            theirs.write_all(&encode(answer).unwrap()).unwrap();
        }
        let child = std::process::Command::new("true").spawn().unwrap();
        let helper = Arc::new(Helper { child, stream, mark: "/absent".into(), crowd: None });
        let program = HelperProgram::this_one(None);
        let folder = PathBuf::new();
        let helpers = BTreeMap::from([(1, helper.clone())]);
        let state = Mutex::new(State { helpers, ..State::default() });
        let shared = Arc::new(Shared { program, folder, state });
        let (incoming, has_started, is_good, stops) = (Incoming::default(), false, false, 0);
        let (id, number) = (7, 1);
        let of = shared.clone();
        let running =
            Running { id, number, helper, incoming, has_started, is_good, stops, shared: of };
        (running, shared)
    }

    fn wait(running: &mut Running) -> Result<Option<Answer>, HelperDied> {
        let (wake, _other) = UnixStream::pair().unwrap();
        running.wait(PATIENCE, std::os::fd::AsFd::as_fd(&wake))
    }

    #[test]
    fn a_helper_is_used_again_only_where_nothing_of_its_process_is_left() {
        let ended = |is_alone| {
            let (exit_code, cpu_us, peak_memory_bytes) = (0, 1, 1);
            Answer::Ended { id: 7, exit_code, cpu_us, peak_memory_bytes, is_alone }
        };
        let refused = Answer::NotStarted { id: 7, reason: String::new(), is_of_machine: false };
        for (answer, is_used) in [(ended(true), true), (ended(false), false), (refused, true)] {
            let (mut running, shared) = running(&[answer]);
            assert!(matches!(wait(&mut running), Ok(Some(_))));
            drop(running);
            let state = lock(&shared.state);
            assert_eq!((state.idle.len(), state.helpers.len()), (is_used.into(), is_used.into()));
        }
    }

    #[test]
    fn a_helper_that_tells_a_start_again_is_not_heard_any_more() {
        let started = || Answer::Started { id: 7, pid: 1 };
        let (mut running, _shared) = running(&[started(), started()]);
        assert!(matches!(wait(&mut running), Ok(Some(_))));
        assert!(wait(&mut running).is_err());
    }
}
