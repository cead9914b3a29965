//! How processes of tasks are started: by a small helper process, which the worker asks.
//!
//! - [`helper_main`] is the helper; the program starts itself again with [`ENTRY`] for it
//! - [`Spawner`] is the worker's end: starts the helper, asks it, hands its answers to the slots
//! - [`TaskUser`] is who the helper becomes, and with it all tasks
//! - `processes.rs` finds what a predecessor left running
//!
//! `docs/decisions/spawn-helper.md` says why. Deliberately not here: what a task is.

pub(crate) mod processes;
mod starter;
mod user;
mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, Thread};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{Shutdown, shutdown};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::cgroup::Cgroups;
use processes::MARK;
pub use starter::helper_main;
pub use user::TaskUser;
pub(crate) use wire::{Answer, Command};
use wire::{Incoming, Request, encode, send_with};

/// The first argument by which a program that runs a worker knows that it is to be its helper: it
/// calls [`helper_main`] then and nothing else.
pub const ENTRY: &str = "--spawn-helper";

/// How long a helper may take to kill what runs before it is killed itself.
const PATIENCE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

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
    /// The running program with [`ENTRY`], also when its file was replaced since.
    #[must_use]
    pub fn this_one(user: Option<TaskUser>) -> HelperProgram {
        HelperProgram { program: "/proc/self/exe".into(), arguments: vec![ENTRY.into()], user }
    }
}

/// Starts processes through a helper, which is started with the first of them, and again where it
/// died. Copies share it; with the last of them it ends.
#[derive(Clone, Debug)]
pub struct Spawner {
    shared: Arc<Shared>,
    cgroups: Cgroups,
}

#[derive(Debug)]
struct Shared {
    program: HelperProgram,
    folder: PathBuf,
    left: Vec<OsString>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connection: Option<Connection>,
    last_id: u64,
}

/// A mutex whose holders leave nothing half done, also where they panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Spawner {
    /// Tasks run below the folder `tasks` of a worker's data folder. What a predecessor left
    /// running there is killed first, and what it left lying is removed.
    ///
    /// # Errors
    /// Where something does not end, or the folder cannot be made.
    pub fn open(data: &Path, program: HelperProgram) -> io::Result<Spawner> {
        let data = &data.canonicalize()?;
        let folder = data.join("tasks");
        fs::create_dir_all(&folder)?;
        let folder = folder.canonicalize()?;
        let user = program.user;
        if let Some(user) = user {
            user.admit(data)?;
            user.admit(&folder)?;
        }
        // The helper first, which the mark of this folder tells: it could start something more.
        let mut killed = processes::kill_left_over(&folder, user)?;
        let mut left = Vec::new();
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let path = entry.path();
            if path.is_dir() {
                if processes::was_running(&path) {
                    left.push(entry.file_name());
                }
                killed += processes::kill_left_over(&path, user)?;
                if let Err(error) = crate::runtime::remove_folder(&path) {
                    // The next start tries it again; tasks have folders of their own.
                    tracing::warn!(folder = %path.display(), %error,
                        "what a task left cannot be removed");
                }
            }
        }
        if killed > 0 {
            tracing::info!(killed, "the worker ended what its predecessor left running");
        }
        let state = Mutex::default();
        let shared = Arc::new(Shared { program, folder, left, state });
        Ok(Spawner { shared, cgroups: Cgroups::default() })
    }

    /// The same, and tasks with a memory limit get cgroups of their own where there are any.
    #[must_use]
    pub fn with_cgroups(self, cgroups: Cgroups) -> Spawner {
        Spawner { cgroups, ..self }
    }

    /// What enforces memory limits.
    pub(crate) fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    /// Where the folders of tasks are; absolute.
    pub(crate) fn folder(&self) -> &Path {
        &self.shared.folder
    }

    /// Names of the folders in which a process ran when a predecessor of this worker died.
    pub(crate) fn left(&self) -> &[OsString] {
        &self.shared.left
    }

    /// Who processes run as, where that is another user than the worker's.
    pub(crate) fn user(&self) -> Option<TaskUser> {
        self.shared.program.user
    }

    /// Kills what runs in the folder of a task that nobody watches any more.
    pub(crate) fn kill_left_over(&self, folder: &Path) -> io::Result<usize> {
        processes::kill_left_over(folder, self.user())
    }

    /// Starts a process on behalf of this thread, which is unparked when it ended. With the entrance
    /// of a cgroup, it is in that before its program begins; if it cannot enter, it runs outside.
    ///
    /// # Errors
    /// Where there is no helper and none can be started. That is no fault of the command's.
    pub(crate) fn spawn(
        &self,
        command: Command,
        entrance: Option<BorrowedFd<'_>>,
    ) -> io::Result<Running> {
        let mut state = lock(&self.shared.state);
        if state.connection.as_ref().is_some_and(|it| lock(&it.waiting).is_dead) {
            tracing::warn!("the spawn helper died: another one is started");
            state.connection = None;
        }
        state.last_id += 1;
        let id = state.last_id;
        let bytes = encode(&Request::Spawn { id, command, has_cgroup: entrance.is_some() })
            .map_err(|_| io::Error::other("the command is larger than a helper takes"))?;
        let connection = match &mut state.connection {
            Some(connection) => connection,
            none => none.insert(Connection::start(&self.shared.program, &self.shared.folder)?),
        };
        let waiter = Waiter { thread: std::thread::current(), answers: VecDeque::new() };
        lock(&connection.waiting).waiters.insert(id, waiter);
        let running =
            Running { id, waiting: connection.waiting.clone(), shared: self.shared.clone() };
        match entrance {
            Some(entrance) => send_with(&connection.stream, &bytes, entrance)?,
            None => connection.stream.write_all(&bytes)?,
        }
        Ok(running)
    }

    /// Closes the connection, as the end of the worker's process does.
    #[cfg(test)]
    pub(crate) fn hang_up(&self) {
        let state = lock(&self.shared.state);
        let stream = state.connection.as_ref().map(|connection| &connection.stream);
        shutdown(stream.unwrap(), Shutdown::Both).unwrap();
    }

    /// The helper's process; `None` while there is none.
    #[cfg(test)]
    pub(crate) fn helper(&self) -> Option<Pid> {
        let state = lock(&self.shared.state);
        state.connection.as_ref().map(|connection| Pid::from_child(&connection.child))
    }
}

/// A thread that waits for what becomes of its process.
#[derive(Debug)]
struct Waiter {
    thread: Thread,
    answers: VecDeque<Answer>,
}

#[derive(Debug, Default)]
struct Waiting {
    is_dead: bool,
    waiters: BTreeMap<u64, Waiter>,
}

/// The helper is gone, and nobody knows how the process ended.
#[derive(Debug)]
pub(crate) struct HelperDied;

/// A process that the helper was asked for.
#[derive(Debug)]
pub(crate) struct Running {
    id: u64,
    waiting: Arc<Mutex<Waiting>>,
    shared: Arc<Shared>,
}

impl Running {
    /// What the helper said next of it.
    pub(crate) fn take(&self) -> Result<Option<Answer>, HelperDied> {
        let mut waiting = lock(&self.waiting);
        let is_dead = waiting.is_dead;
        let waiter = waiting.waiters.get_mut(&self.id);
        match waiter.and_then(|waiter| waiter.answers.pop_front()) {
            None if is_dead => Err(HelperDied),
            answer => Ok(answer),
        }
    }

    /// Has its process group killed.
    pub(crate) fn kill(&self) {
        let mut state = lock(&self.shared.state);
        let Some(connection) = &mut state.connection else { return };
        // Where another helper serves by now, the next look says that this one's is gone.
        if Arc::ptr_eq(&connection.waiting, &self.waiting)
            && let Ok(bytes) = encode(&Request::Kill { id: self.id })
        {
            // As above for one that just died.
            let _ = connection.stream.write_all(&bytes);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.waiting).waiters.remove(&self.id);
    }
}

/// A helper.
#[derive(Debug)]
struct Connection {
    child: Child,
    stream: UnixStream,
    waiting: Arc<Mutex<Waiting>>,
    reader: Option<JoinHandle<()>>,
}

impl Connection {
    fn start(program: &HelperProgram, folder: &Path) -> io::Result<Connection> {
        let (stream, theirs) = UnixStream::pair()?;
        let mut command = std::process::Command::new(&program.program);
        if let Some(user) = program.user {
            // Other groups are given up as well: a root that names a user does that.
            command.uid(user.uid).gid(user.gid);
        }
        let child = command
            .arg0("remuda-spawn-helper")
            .args(&program.arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            // Signals of a terminal are for the worker, which ends its helper itself.
            .process_group(0)
            .spawn()?;
        let pid = Pid::from_child(&child);
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let mut connection = Connection { child, stream, waiting, reader: None };
        fs::write(folder.join(MARK), processes::mark(pid)?)?;
        let (stream, waiting) = (connection.stream.try_clone()?, connection.waiting.clone());
        let reader = std::thread::Builder::new().name("spawn helper".to_owned());
        connection.reader = Some(reader.spawn(move || hand_out(stream, &waiting))?);
        Ok(connection)
    }
}

impl Drop for Connection {
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
        let _ = self.child.wait();
        if let Some(Err(panic)) = self.reader.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Hands the helper's answers to the threads that wait for them, until the helper is gone.
fn hand_out(mut stream: UnixStream, waiting: &Mutex<Waiting>) {
    let mut incoming = Incoming::default();
    let mut buffer = vec![0; 64 << 10];
    'reading: loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => incoming.push(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        }
        loop {
            let answer = match incoming.next::<Answer>() {
                Ok(Some(answer)) => answer,
                Ok(None) => break,
                Err(_) => break 'reading,
            };
            let mut waiting = lock(waiting);
            let Some(waiter) = waiting.waiters.get_mut(&answer.id()) else { continue };
            // That it started is looked up when the memory is; nobody waits for it.
            let is_end = !matches!(answer, Answer::Started { .. });
            waiter.answers.push_back(answer);
            if is_end {
                waiter.thread.unpark();
            }
        }
    }
    // A helper that says what it should not is not heard any more, and ends by this.
    let _ = shutdown(&stream, Shutdown::Both);
    let mut waiting = lock(waiting);
    waiting.is_dead = true;
    waiting.waiters.values().for_each(|waiter| waiter.thread.unpark());
}
