//! The runtime that runs a program: has its inputs brought, gives it a folder, watches its limits,
//! and says how it ended.
//!
//! The process is started, waited for and killed by the spawn helper. A task whose end nobody saw,
//! because the helper died, is lost, not failed. Deliberately not here: fetching programs and
//! inputs from storage (`inputs/`), what exactly is started (`invocation.rs`), and what becomes of
//! what a task printed.

use std::io;
use std::path::PathBuf;

use node::clock::{Clock, time_of_day};
use proto::status::{Cause, TaskState};
use proto::time::{Duration, Instant};

use super::folder::TaskFolder;
use super::invocation::{Invocation, progress};
use super::{Cancel, Ending, Equipment, Runtime, Task, outputs};
use crate::inputs::{Missing, Prepared};
use crate::logic::EXIT_NOT_STARTED;
use crate::running::RunningTask;
use crate::spawn::processes::group_memory;
use crate::spawn::{Answer, HelperDied, Running};

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
        Obstacle::Machine(Cause::NotStarted, error)
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
        CommandRuntime { clock: equipment.clock, equipment, programs }
    }

    fn run(
        &self,
        task: &Task<'_>,
        folder: &mut TaskFolder,
        prepared: &Prepared,
        cancel: &Cancel,
    ) -> Result<Ending, Obstacle> {
        let inputs = &self.equipment.inputs;
        let failures = inputs.failure_count();
        let line = prepared.line(task.index, cancel)?;
        let (view, cluster) = (prepared.view(), self.equipment.cluster.as_str());
        let user = self.equipment.spawner.user();
        let programs = self.programs.as_deref();
        let command = Invocation { task, folder, view, line, cluster, user, programs }.command()?;
        let running = self.equipment.spawner.spawn(command)?;
        let ending = self.watch(task, folder, cancel, &running)?;
        if let Err(error) = folder.unmark() {
            // A task that may remove it may.
            tracing::debug!(%error, "what tells that a task runs cannot be removed");
        }
        let may_be_ours = ending.state == TaskState::Failed
            && matches!(ending.cause, Cause::None | Cause::Signal)
            && prepared.view().is_some();
        if !may_be_ours {
            return Ok(ending);
        }
        inputs.mend();
        if inputs.failure_count() == failures {
            return Ok(ending);
        }
        tracing::warn!(job = %task.spec.job, task = %task.index,
            "a task failed while its inputs could not be read: it is attempted again");
        let (state, cause) = (TaskState::Lost, Cause::InputFailed);
        Ok(Ending { state, cause, ..ending })
    }

    /// Waits for the end, which it hastens where a limit is reached or the task is cancelled.
    fn watch(
        &self,
        task: &Task<'_>,
        folder: &mut TaskFolder,
        cancel: &Cancel,
        running: &Running,
    ) -> Result<Ending, Obstacle> {
        let description = &task.spec.description;
        // Bringing the inputs is not the task's time.
        let limit = description.time_limit.map(|limit| self.clock.now() + limit);
        let (mut group, mut killed, mut peak) = (None, None, 0);
        let mut sample_due = self.clock.now() + SAMPLE;
        loop {
            match running.take()? {
                Some(Answer::Started { pid, .. }) => {
                    group = Some(pid);
                    continue;
                }
                Some(Answer::NotStarted { reason, .. }) => {
                    let text = format!("the program cannot be started: {reason}");
                    return Err(Obstacle::Task(Cause::NotStarted, text));
                }
                Some(Answer::Ended { exit_code, cpu_us, peak_memory_bytes, .. }) => {
                    let ending = match killed {
                        // Else it ended by itself before it could be killed.
                        Some((state, cause)) if exit_code == EXIT_KILLED => {
                            Ending::of(state, EXIT_KILLED, cause)
                        }
                        _ if exit_code < 0 => {
                            Ending::of(TaskState::Failed, exit_code, Cause::Signal)
                        }
                        _ => Ending::exit(exit_code),
                    };
                    let peak_memory_bytes = peak_memory_bytes.max(peak);
                    return Ok(Ending {
                        cpu: Duration::from_micros(cpu_us),
                        peak_memory_bytes,
                        ..ending
                    });
                }
                None => {}
            }
            let now = self.clock.now();
            if sample_due <= now {
                sample_due = now + SAMPLE;
                if let Err(error) = folder.cut_outputs() {
                    tracing::warn!(%error, "what a task prints is not bounded");
                }
                if let Some(group) = group
                    && description.memory_bytes > 0
                {
                    peak = peak.max(group_memory(group));
                }
            }
            if killed.is_none() {
                killed = if cancel.is_cancelled() {
                    Some((TaskState::Lost, Cause::Cancelled))
                } else if limit.is_some_and(|limit| limit <= now) {
                    Some((TaskState::Failed, Cause::TimeLimit))
                } else if description.memory_bytes > 0 && peak > description.memory_bytes {
                    Some((TaskState::Failed, Cause::MemoryLimit))
                } else {
                    None
                };
                if killed.is_some() {
                    running.kill();
                }
            }
            let until = match limit {
                Some(limit) if killed.is_none() => limit.min(sample_due),
                _ => sample_due,
            };
            park_until(self.clock, until);
        }
    }
}

/// Waits until a moment, an answer of the helper, or a request to cancel.
fn park_until(clock: Clock, until: Instant) {
    std::thread::park_timeout(until.since(clock.now()).to_std());
}

impl Runtime for CommandRuntime {
    fn execute(&mut self, task: &Task<'_>, cancel: &Cancel) -> Ending {
        let spawner = &self.equipment.spawner;
        let made = TaskFolder::make(spawner.folder(), task, spawner.user());
        let mut folder = match made {
            Ok(folder) => folder,
            Err(error) => {
                tracing::warn!(job = %task.spec.job, task = %task.index, %error,
                    "the folder of a task cannot be made");
                cancel.wait(self.clock, self.clock.now() + REST);
                return Ending::of(TaskState::Lost, 0, Cause::NotStarted);
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
        let view = prepared.as_ref().ok().and_then(Prepared::view);
        // What stands in a description that is a file holds from here on.
        let task = &Task { spec: view.map_or(task.spec, |view| &view.spec), ..*task };
        let ended = match &prepared {
            Ok(prepared) => self.run(task, &mut folder, prepared, cancel),
            Err(missing) => Err(missing.clone().into()),
        };
        let ending = match ended {
            Ok(ending) => ending,
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
        let patterns = &task.spec.description.outputs;
        let client = &self.equipment.client;
        let ending = outputs::gather(ending, &mut folder, patterns, client, cancel);
        drop(listed);
        if let Err(error) = folder.close(task.spec.description.keep_scratch) {
            tracing::warn!(job = %task.spec.job, task = %task.index, %error,
                "the folder of a task cannot be cleared");
        }
        ending
    }
}
