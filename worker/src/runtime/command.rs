//! The runtime that runs a program: chooses it, gives it a folder and an environment, watches its
//! limits, and says how it ended.
//!
//! The process is started, waited for and killed by the spawn helper. A task whose end nobody saw,
//! because the helper died, is lost, not failed. Deliberately not here: fetching programs and
//! inputs from storage, and what becomes of what a task printed.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use node::clock::Clock;
use proto::description::{Program, Runtime as RuntimeKind};
use proto::status::{Cause, TaskState};
use proto::time::{Duration, Instant};

use super::folder::TaskFolder;
use super::{Cancel, Ending, Runtime, Task};
use crate::logic::EXIT_NOT_STARTED;
use crate::spawn::processes::{OUTPUTS_VARIABLE, group_memory, kill_left_over};
use crate::spawn::{Answer, Command, HelperDied, Running, Spawner};

/// How often memory and the length of what is printed are looked at.
const SAMPLE: Duration = Duration::from_millis(100);

/// How long a slot rests where the machine, not the task, kept it from starting one.
const REST: Duration = Duration::from_secs(1);

/// Minus the number of SIGKILL, the signal that limits and cancellation send.
const EXIT_KILLED: i32 = -9;

/// The environment that tasks have of a worker, with what it is where the worker lacks it too.
const OWN_VARIABLES: [(&str, &str); 3] =
    [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("HOME", "/"), ("LANG", "C.UTF-8")];

/// Executes tasks that are processes.
#[derive(Debug)]
pub(super) struct CommandRuntime {
    clock: Clock,
    spawner: Spawner,
}

/// Why a task is not, or not known to be, executed to its end.
enum Obstacle {
    /// The task's own fault, as a sentence for its author.
    Task(Cause, String),
    /// The machine's: another attempt may succeed.
    Machine(io::Error),
    /// Nobody knows how it ended.
    HelperDied,
}

impl From<io::Error> for Obstacle {
    fn from(error: io::Error) -> Obstacle {
        Obstacle::Machine(error)
    }
}

impl From<HelperDied> for Obstacle {
    fn from(_: HelperDied) -> Obstacle {
        Obstacle::HelperDied
    }
}

impl CommandRuntime {
    pub(super) fn new(clock: Clock, spawner: Spawner) -> CommandRuntime {
        CommandRuntime { clock, spawner }
    }

    fn run(
        &self,
        task: &Task<'_>,
        folder: &mut TaskFolder,
        cancel: &Cancel,
    ) -> Result<Ending, Obstacle> {
        let description = &task.spec.description;
        if description.lines.is_some() {
            let text = "this worker cannot read the lines of --each-line yet";
            return Err(Obstacle::Task(Cause::InputFailed, text.to_owned()));
        }
        if !description.inputs.is_empty() || !task.spec.input_files.is_empty() {
            let text = "this worker cannot show inputs yet";
            return Err(Obstacle::Task(Cause::InputFailed, text.to_owned()));
        }
        let running = self.spawner.spawn(command(task, folder)?)?;
        self.watch(task, folder, cancel, &running)
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
        let limit = description.time_limit.map(|limit| task.started + limit);
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
        let made = TaskFolder::make(self.spawner.folder(), task);
        let mut folder = match made {
            Ok(folder) => folder,
            Err(error) => {
                tracing::warn!(job = %task.spec.job, task = %task.index, %error,
                    "the folder of a task cannot be made");
                cancel.wait(self.clock, self.clock.now() + REST);
                return Ending::of(TaskState::Lost, 0, Cause::NotStarted);
            }
        };
        let ending = match self.run(task, &mut folder, cancel) {
            Ok(ending) => ending,
            Err(Obstacle::Task(cause, reason)) => {
                tracing::debug!(job = %task.spec.job, task = %task.index, reason,
                    "a task was not started");
                if let Err(error) = folder.explain(&reason) {
                    tracing::warn!(%error, "a task's standard error cannot be written");
                }
                Ending::of(TaskState::Failed, EXIT_NOT_STARTED, cause)
            }
            Err(Obstacle::Machine(error)) => {
                tracing::warn!(job = %task.spec.job, task = %task.index, %error,
                    "a task cannot be executed here");
                cancel.wait(self.clock, self.clock.now() + REST);
                Ending::of(TaskState::Lost, 0, Cause::NotStarted)
            }
            Err(Obstacle::HelperDied) => {
                if let Err(error) = kill_left_over(folder.path()) {
                    tracing::warn!(%error, "a task that nobody watches runs on");
                }
                Ending::of(TaskState::Lost, 0, Cause::CutOff)
            }
        };
        if let Err(error) = folder.close(task.spec.description.keep_scratch) {
            tracing::warn!(job = %task.spec.job, task = %task.index, %error,
                "the folder of a task cannot be cleared");
        }
        ending
    }
}

/// What is to be started for a task.
fn command(task: &Task<'_>, folder: &TaskFolder) -> Result<Command, Obstacle> {
    let RuntimeKind::Command { program, arguments } = &task.spec.description.runtime else {
        unreachable!("whoever chooses the runtime goes by the description");
    };
    let environment = environment(task, folder);
    let (program, name) = match program {
        Program::Path(path) => (look_up(path, environment.get(OsStr::new("PATH")))?, path.clone()),
        Program::Inline if task.spec.program.is_empty() => {
            return Err(not_started("the program of the job is empty"));
        }
        Program::Inline => {
            let path = folder.write_program(&task.spec.program)?;
            (path.clone(), into_bytes(path))
        }
        Program::File(file) => {
            return Err(not_started(&format!(
                "this worker cannot fetch programs such as {file} yet"
            )));
        }
    };
    let index = task.spec.description.array.number(task.index).to_string();
    let arguments = arguments.iter().map(|argument| substitute(argument, index.as_bytes()));
    let environment = environment.into_iter();
    Ok(Command {
        program: into_bytes(program),
        name,
        arguments: arguments.collect(),
        environment: environment.map(|(key, it)| (key.into_vec(), it.into_vec())).collect(),
        folder: into_bytes(folder.scratch()),
        stdout: into_bytes(folder.stdout()),
        stderr: into_bytes(folder.stderr()),
        mark: into_bytes(folder.path().join(crate::spawn::processes::MARK)),
    })
}

fn into_bytes(path: PathBuf) -> Vec<u8> {
    path.into_os_string().into_vec()
}

fn not_started(reason: &str) -> Obstacle {
    Obstacle::Task(Cause::NotStarted, reason.to_owned())
}

/// The worker's own, below the job's, below Remuda's.
fn environment(task: &Task<'_>, folder: &TaskFolder) -> BTreeMap<OsString, OsString> {
    let own = OWN_VARIABLES.iter().map(|&(name, default)| {
        (name.into(), std::env::var_os(name).unwrap_or_else(|| default.into()))
    });
    let jobs = &task.spec.description.environment;
    let jobs = jobs.iter().map(|(name, value)| (name.into(), value.into()));
    let remudas: [(&str, OsString); 5] = [
        ("REMUDA_JOB", task.spec.job.to_string().into()),
        ("REMUDA_TASK", task.index.to_string().into()),
        ("REMUDA_ATTEMPT", task.attempt.to_string().into()),
        ("REMUDA_INPUTS", folder.inputs().into()),
        (OUTPUTS_VARIABLE, folder.outputs().into()),
    ];
    let remudas = remudas.into_iter().map(|(name, value)| (name.into(), value));
    own.chain(jobs).chain(remudas).collect()
}

/// The executable that an absolute path or a name means.
fn look_up(program: &[u8], path: Option<&OsString>) -> Result<PathBuf, Obstacle> {
    let name = OsStr::from_bytes(program);
    if program.contains(&b'/') {
        return Ok(name.into());
    }
    let folders = path.map(|path| std::env::split_paths(path).collect::<Vec<PathBuf>>());
    let mut candidates = folders.unwrap_or_default().into_iter().map(|folder| folder.join(name));
    candidates.find(|candidate| is_executable(candidate)).ok_or_else(|| {
        not_started(&format!(
            "there is no program {name:?} in the PATH of this worker; a program of your own is \
             uploaded with the job"
        ))
    })
}

fn is_executable(path: &Path) -> bool {
    path.is_absolute()
        && path.metadata().is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

/// An argument with every `{index}` replaced.
fn substitute(argument: &[u8], index: &[u8]) -> Vec<u8> {
    const PLACE: &[u8] = b"{index}";
    let (mut result, mut rest) = (Vec::with_capacity(argument.len()), argument);
    while let Some((&first, behind)) = rest.split_first() {
        if let Some(behind) = rest.strip_prefix(PLACE) {
            result.extend_from_slice(index);
            rest = behind;
        } else {
            result.push(first);
            rest = behind;
        }
    }
    result
}

#[cfg(test)]
mod substitution {
    use super::substitute;

    #[test]
    fn every_place_is_replaced_and_nothing_else() {
        for (argument, wanted) in [
            ("{index}", "12"),
            ("a{index}b{index}{index}", "a12b1212"),
            ("{{index}}", "{12}"),
            ("{index", "{index"),
            ("{line} {Index}", "{line} {Index}"),
            ("", ""),
        ] {
            assert_eq!(substitute(argument.as_bytes(), b"12"), wanted.as_bytes());
        }
    }
}
