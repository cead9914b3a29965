//! The runtime that runs a program: has its inputs brought, gives it a folder, watches its limits,
//! and says how it ended.
//!
//! The process is started, waited for and killed by the spawn helper. A task whose end nobody saw,
//! because the helper died, is lost, not failed. Deliberately not here: fetching programs and
//! inputs from storage (`inputs/`), what exactly is started (`invocation.rs`), and what becomes of
//! what a task printed.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use node::clock::{Clock, time_of_day};
use proto::status::{Cause, TaskState};
use proto::time::Duration;
use rustix::event::{EventfdFlags, Timespec, eventfd};

use super::folder::TaskFolder;
use super::invocation::{self, Invocation, progress};
use super::untouched::Trace;
use super::{Cancel, Ending, Equipment, Runtime, Task, outputs};
use crate::cgroup::Cgroup;
use crate::inputs::{Missing, Prepared};
use crate::logic::{EXIT_NOT_STARTED, RunningStage};
use crate::room;
use crate::running::RunningTask;
use crate::spawn::processes::group_memory;
use crate::spawn::{Answer, HelperDied, Running, TellsStart};

/// How often memory and the length of what is printed are looked at.
const SAMPLE: Duration = Duration::from_millis(100);

/// How long a slot rests where the machine, not the task, kept it from starting one.
const REST: Duration = Duration::from_secs(1);

/// Minus the number of SIGKILL, the signal that limits and cancellation send.
const EXIT_KILLED: i32 = -9;

/// Executes tasks that are processes.
#[derive(Debug)]
pub(super) struct CommandRuntime {
    clock: Clock,
    equipment: Equipment,
    /// Where the running program lies, which tasks may want to call.
    programs: Option<PathBuf>,
    /// A folder that the last task left as it was.
    spare: Option<TaskFolder>,
    /// A counter by which whoever cancels wakes this slot; made with the first task.
    wake: Option<Arc<OwnedFd>>,
}

/// How a process ended.
struct Ended {
    ending: Ending,
    /// True where certainly no process of the task is left.
    is_alone: bool,
    /// Whether the disk was seen without room while it ran.
    was_full: bool,
}

/// Why a task is not, or not known to be, executed to its end.
enum Obstacle {
    /// The task's own fault, as a sentence for its author.
    Task(Cause, String),
    /// The machine's or storage's: another attempt may succeed.
    Machine(Cause, io::Error),
    /// It was cancelled before it began.
    Cancelled,
    /// Nobody knows how it ended.
    HelperDied,
}

impl From<Missing> for Obstacle {
    fn from(missing: Missing) -> Obstacle {
        match missing {
            Missing::Job(cause, reason) => Obstacle::Task(cause, reason),
            Missing::Trouble(reason) => {
                Obstacle::Machine(Cause::InputFailed, io::Error::other(reason))
            }
            Missing::Cancelled => Obstacle::Cancelled,
        }
    }
}

impl From<io::Error> for Obstacle {
    fn from(error: io::Error) -> Obstacle {
        Obstacle::Machine(room::cause_of(&error), error)
    }
}

impl From<HelperDied> for Obstacle {
    fn from(_: HelperDied) -> Obstacle {
        Obstacle::HelperDied
    }
}

impl CommandRuntime {
    pub(super) fn new(equipment: Equipment) -> CommandRuntime {
        let program = std::env::current_exe().ok();
        let programs = program.and_then(|program| Some(program.parent()?.to_owned()));
        let (spare, wake) = (None, None);
        CommandRuntime { clock: equipment.clock, equipment, programs, spare, wake }
    }

    /// A folder for a task: the spare one, or a new one.
    fn folder(&mut self, task: &Task<'_>) -> io::Result<TaskFolder> {
        let spawner = &self.equipment.spawner;
        if let Some(spare) = self.spare.take() {
            match spare.hand_on(spawner.folder(), task) {
                Ok(folder) => return Ok(folder),
                Err(error) => tracing::debug!(%error, "a folder is not used again"),
            }
        }
        TaskFolder::make(spawner.folder(), task, spawner.user())
    }

    /// What this slot is woken by.
    fn wake(&mut self) -> io::Result<Arc<OwnedFd>> {
        if let Some(wake) = &self.wake {
            return Ok(wake.clone());
        }
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        self.wake = Some(wake.clone());
        Ok(wake)
    }

    fn run(
        &mut self,
        task: &Task<'_>,
        folder: &mut TaskFolder,
        prepared: &Prepared,
        cancel: &Cancel,
    ) -> Result<Ended, Obstacle> {
        let wake = self.wake()?;
        cancel.raise(&wake);
        let failures = prepared.failure_count();
        let origin = invocation::origin(task)?;
        let line = prepared.line(origin, cancel)?;
        let (view, cluster) = (prepared.view(), self.equipment.cluster.as_str());
        let user = self.equipment.spawner.user();
        let programs = self.programs.as_deref();
        let command = Invocation { task, origin, folder, view, line, cluster, user, programs };
        let command = command.command()?;
        // Removed on every way out, with what left the task's process group.
        let cgroup = self.cgroup(task);
        let entrance = cgroup.as_ref().map(Cgroup::entrance);
        let has_limit = task.spec.description.memory_bytes != 0;
        let tells_start = if has_limit { TellsStart::Yes } else { TellsStart::No };
        let mut running = self.equipment.spawner.spawn(command, entrance, tells_start)?;
        let ended = self.watch(task, folder, cancel, &mut running, &wake, cgroup.as_ref())?;
        drop((running, cgroup));
        if let Err(error) = folder.unmark() {
            // A task that may remove it may.
            tracing::debug!(%error, "what tells that a task runs cannot be removed");
        }
        let ended = self.blame_inputs(task, prepared, failures, ended);
        Ok(self.blame_disk(task, folder, ended))
    }

    /// A task that ran while inputs could not be read is attempted again: it failed for that, or
    /// took what it could read for all that there is.
    fn blame_inputs(
        &self,
        task: &Task<'_>,
        prepared: &Prepared,
        failures: u64,
        ended: Ended,
    ) -> Ended {
        let (state, cause) = (ended.ending.state, ended.ending.cause);
        let is_its_own = state != TaskState::Lost && matches!(cause, Cause::None | Cause::Signal);
        if !is_its_own || prepared.view().is_none() {
            return ended;
        }
        self.equipment.inputs.mend();
        if prepared.failure_count() == failures {
            return ended;
        }
        tracing::warn!(job = %task.spec.job, task = %task.index,
            "inputs could not be read while a task ran: it is attempted again");
        let (state, cause) = (TaskState::Lost, Cause::InputFailed);
        Ended { ending: Ending { state, cause, ..ended.ending }, ..ended }
    }

    /// A task that failed on a full disk says so, and is attempted again where others filled it.
    fn blame_disk(&self, task: &Task<'_>, folder: &TaskFolder, ended: Ended) -> Ended {
        let (state, cause) = (ended.ending.state, ended.ending.cause);
        let is_it = state == TaskState::Failed && matches!(cause, Cause::None | Cause::Signal);
        if !is_it || !ended.was_full {
            return ended;
        }
        let is_own_fault = room::took_most(folder.path(), self.equipment.spawner.folder());
        tracing::warn!(job = %task.spec.job, task = %task.index, is_own_fault,
            "a task failed while the disk was full");
        let state = if is_own_fault { TaskState::Failed } else { TaskState::Lost };
        Ended { ending: Ending { state, cause: Cause::DiskFull, ..ended.ending }, ..ended }
    }

    /// A cgroup for a task that has a memory limit; `None` also where none can be made.
    fn cgroup(&self, task: &Task<'_>) -> Option<Cgroup> {
        let limit_bytes = task.spec.description.memory_bytes;
        if limit_bytes == 0 {
            return None;
        }
        self.equipment.spawner.cgroups().make(limit_bytes).unwrap_or_else(|error| {
            tracing::warn!(job = %task.spec.job, task = %task.index, %error,
                "a task gets no cgroup: its memory is measured instead");
            None
        })
    }

    /// Tells a task's author which limit it reached.
    fn explain_crowd(&self, folder: &mut TaskFolder) {
        let Some(limit) = self.equipment.spawner.cgroups().crowds().limit() else { return };
        let reason = format!(
            "the task started more than {limit} processes and threads, the most that its worker \
             lets one have at a time (task_processes)"
        );
        if let Err(error) = folder.explain(&reason) {
            tracing::warn!(%error, "a task's standard error cannot be written");
        }
    }

    /// Waits for the end, which it hastens where a limit is reached or the task is cancelled.
    fn watch(
        &self,
        task: &Task<'_>,
        folder: &mut TaskFolder,
        cancel: &Cancel,
        running: &mut Running,
        wake: &OwnedFd,
        cgroup: Option<&Cgroup>,
    ) -> Result<Ended, Obstacle> {
        let description = &task.spec.description;
        // Bringing the inputs is not the task's time.
        let limit = description.time_limit.map(|limit| self.clock.now() + limit);
        let (mut group, mut killed, mut given_up) = (None, None, None);
        let (mut is_crowded, mut was_full) = (false, false);
        let crowded =
            |running: &Running| running.is_crowded() || cgroup.is_some_and(Cgroup::is_crowded);
        let mut memory = Memory {
            limit_bytes: description.memory_bytes,
            cgroup,
            peak_bytes: 0,
            excess: Excess::None,
        };
        let mut sample_due = self.clock.now() + SAMPLE;
        loop {
            let until = match limit {
                Some(limit) if killed.is_none() => limit.min(sample_due),
                _ => sample_due,
            };
            // Whoever cancelled before this task looked raised nothing.
            let patience = match (cancel.is_cancelled(), killed.is_none()) {
                (true, true) => Duration::ZERO,
                _ => until.since(self.clock.now()),
            };
            match running.wait(timespec(patience), wake.as_fd())? {
                Some(Answer::Started { pid, .. }) => {
                    group = Some(pid);
                    continue;
                }
                // What is being killed starts no process any more.
                Some(Answer::NotStarted { .. })
                    if matches!(killed, Some((_, Cause::Cancelled))) =>
                {
                    return Err(Obstacle::Cancelled);
                }
                Some(Answer::NotStarted { reason, is_of_machine, .. }) => {
                    let text = format!("the program cannot be started: {reason}");
                    return Err(match is_of_machine {
                        true => Obstacle::Machine(Cause::NotStarted, io::Error::other(text)),
                        false => Obstacle::Task(Cause::NotStarted, text),
                    });
                }
                Some(Answer::Ended { exit_code, cpu_us, peak_memory_bytes, is_alone, .. }) => {
                    memory.look(None);
                    is_crowded |= crowded(running);
                    let ending = match killed {
                        // Else it ended by itself before it could be killed.
                        Some((state, cause)) if exit_code == EXIT_KILLED => {
                            Ending::of(state, EXIT_KILLED, cause)
                        }
                        // Whichever of its processes that was, and whatever the others made of it.
                        _ if memory.excess == Excess::Enforced => {
                            Ending::of(TaskState::Failed, EXIT_KILLED, Cause::MemoryLimit)
                        }
                        _ if is_crowded => {
                            Ending::of(TaskState::Failed, EXIT_KILLED, Cause::ProcessLimit)
                        }
                        _ if exit_code < 0 => {
                            Ending::of(TaskState::Failed, exit_code, Cause::Signal)
                        }
                        _ => Ending::exit(exit_code),
                    };
                    let peak_memory_bytes = peak_memory_bytes.max(memory.peak_bytes);
                    let cpu = Duration::from_micros(cpu_us);
                    let ending = Ending { cpu, peak_memory_bytes, ..ending };
                    // Nobody asks that of a task that is done.
                    was_full |= exit_code != 0 && room::is_full(folder.path());
                    return Ok(Ended { ending, is_alone, was_full });
                }
                None => {
                    // Lowered, also where that was raised for the piece before; it may not be up.
                    let _ = rustix::io::read(wake, &mut [0; 8]);
                }
            }
            let now = self.clock.now();
            if given_up.is_some_and(|given_up| given_up <= now) {
                // The task may have stopped it, or it waits for what does not end.
                tracing::warn!(job = %task.spec.job, task = %task.index,
                    "a spawn helper does not end its task: it is killed");
                running.kill_helper();
                return Err(Obstacle::HelperDied);
            }
            if sample_due <= now {
                sample_due = now + SAMPLE;
                if let Err(error) = folder.cut_outputs() {
                    tracing::warn!(%error, "what a task prints is not bounded");
                }
                memory.look(group);
                is_crowded |= crowded(running);
                was_full |= room::is_full(folder.path());
                if !running.goes_on() {
                    tracing::warn!(job = %task.spec.job, task = %task.index,
                        "a spawn helper is stopped again and again: it is killed");
                    running.kill_helper();
                    return Err(Obstacle::HelperDied);
                }
            }
            if killed.is_none() {
                killed = if cancel.is_cancelled() {
                    Some((TaskState::Lost, Cause::Cancelled))
                } else if limit.is_some_and(|limit| limit <= now) {
                    Some((TaskState::Failed, Cause::TimeLimit))
                } else if memory.excess != Excess::None {
                    Some((TaskState::Failed, Cause::MemoryLimit))
                } else if is_crowded {
                    Some((TaskState::Failed, Cause::ProcessLimit))
                } else {
                    None
                };
                if killed.is_some() {
                    running.kill();
                    given_up = Some(now + self.equipment.spawner.patience());
                    cgroup.into_iter().for_each(Cgroup::kill);
                }
            }
        }
    }
}

/// Whether a task used more memory than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Excess {
    /// It did not.
    None,
    /// It was seen to.
    Measured,
    /// The kernel killed a process of it for that.
    Enforced,
}

/// What is known of a task's memory.
struct Memory<'a> {
    /// 0 for no limit.
    limit_bytes: u64,
    cgroup: Option<&'a Cgroup>,
    peak_bytes: u64,
    excess: Excess,
}

impl Memory<'_> {
    /// Looks at it. Where the kernel enforces the limit, what its cgroup says counts and nothing
    /// else: the sum over the processes of a group would count what they share more than once.
    fn look(&mut self, group: Option<u32>) {
        if self.limit_bytes == 0 {
            return;
        }
        let charge = self.cgroup.map(Cgroup::charge).filter(|charge| charge.peak_bytes > 0);
        if let Some(charge) = charge {
            self.peak_bytes = self.peak_bytes.max(charge.peak_bytes);
            if charge.is_exceeded {
                self.excess = Excess::Enforced;
            }
        } else if let Some(group) = group {
            self.peak_bytes = self.peak_bytes.max(group_memory(group));
            if self.peak_bytes > self.limit_bytes {
                self.excess = Excess::Measured;
            }
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    let (seconds, micros) = (duration.as_micros() / 1_000_000, duration.as_micros() % 1_000_000);
    let tv_sec = seconds.try_into().unwrap_or(i64::MAX);
    Timespec { tv_sec, tv_nsec: (micros * 1_000).try_into().unwrap_or(0) }
}

impl Runtime for CommandRuntime {
    fn execute(&mut self, task: &Task<'_>, cancel: &Cancel) -> Ending {
        let mut folder = match self.folder(task) {
            Ok(folder) => folder,
            Err(error) => {
                tracing::warn!(job = %task.spec.job, task = %task.index, %error,
                    "the folder of a task cannot be made");
                cancel.wait(self.clock, self.clock.now() + REST);
                return Ending::of(TaskState::Lost, 0, room::cause_of(&error));
            }
        };
        let listed = self.equipment.running.begin(RunningTask {
            job: task.spec.job,
            task: task.index,
            attempt: task.attempt,
            start_unix_us: time_of_day().as_micros(),
            stdout: folder.stdout(),
            stderr: folder.stderr(),
            progress: progress(&folder),
        });
        let prepared = self.equipment.inputs.prepare(task.spec, cancel);
        listed.is_at(RunningStage::Executed);
        let view = prepared.as_ref().ok().and_then(Prepared::view);
        // What stands in a description that is a file holds from here on.
        let task = &Task { spec: view.map_or(task.spec, |view| &view.spec), ..*task };
        let ended = match &prepared {
            Ok(prepared) => self.run(task, &mut folder, prepared, cancel),
            Err(missing) => Err(missing.clone().into()),
        };
        let is_alone = ended.as_ref().is_ok_and(|ended| ended.is_alone);
        let ending = match ended {
            Ok(ended) => {
                if ended.ending.cause == Cause::ProcessLimit {
                    self.explain_crowd(&mut folder);
                }
                if (ended.ending.state, ended.ending.cause) == (TaskState::Lost, Cause::DiskFull) {
                    cancel.wait(self.clock, self.clock.now() + REST);
                }
                ended.ending
            }
            Err(Obstacle::Cancelled) => Ending::of(TaskState::Lost, 0, Cause::Cancelled),
            Err(Obstacle::Task(cause, reason)) => {
                tracing::debug!(job = %task.spec.job, task = %task.index, reason,
                    "a task was not started");
                if let Err(error) = folder.explain(&reason) {
                    tracing::warn!(%error, "a task's standard error cannot be written");
                }
                Ending::of(TaskState::Failed, EXIT_NOT_STARTED, cause)
            }
            Err(Obstacle::Machine(cause, error)) => {
                tracing::warn!(job = %task.spec.job, task = %task.index, %error,
                    "a task cannot be executed here");
                cancel.wait(self.clock, self.clock.now() + REST);
                Ending::of(TaskState::Lost, 0, cause)
            }
            Err(Obstacle::HelperDied) => {
                if let Err(error) = self.equipment.spawner.kill_left_over(folder.path()) {
                    tracing::warn!(%error, "a task that nobody watches runs on");
                }
                Ending::of(TaskState::Lost, 0, Cause::CutOff)
            }
        };
        listed.is_at(RunningStage::Outputs);
        let patterns = &task.spec.description.outputs;
        let client = &self.equipment.client;
        let was_lost = ending.state == TaskState::Lost;
        let trace = folder.look(is_alone);
        let ending = match trace {
            Trace::Nothing if patterns.is_empty() => ending,
            _ => outputs::gather(ending, &mut folder, patterns, client, cancel),
        };
        if ending.state == TaskState::Lost && !was_lost {
            // Storage that refuses at once would else see all attempts of a short task within
            // seconds.
            cancel.wait(self.clock, self.clock.now() + REST);
        }
        drop(listed);
        let cleared = match task.spec.description.keep_scratch {
            true => folder.keep().map(|()| None),
            false => folder.clear(trace),
        };
        match cleared {
            Ok(spare) => self.spare = spare,
            Err(error) => tracing::warn!(job = %task.spec.job, task = %task.index, %error,
                "the folder of a task cannot be cleared"),
        }
        ending
    }
}

impl Drop for CommandRuntime {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.spare.take().map(TaskFolder::remove) {
            tracing::warn!(%error, "a folder that no task has cannot be removed");
        }
    }
}
