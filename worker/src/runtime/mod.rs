//! What executes a task: one trait, one implementation for each runtime.
//!
//! A slot is a thread that executes one task after the other and may block in it. Outcome, start
//! and end are taken per task, the same way for every runtime. Deliberately not here: which task is
//! executed where.

mod command;
mod fold;
mod folder;
mod invocation;
mod noop;
mod outputs;
mod pattern;
#[cfg(test)]
mod tests;
mod untouched;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;

use client::Client;
use node::clock::Clock;
use proto::description::Runtime as RuntimeKind;
use proto::ids::{Incarnation, NodeId, TaskIndex};
use proto::segment::Output;
use proto::status::{Cause, TaskState};
use proto::time::{Duration, Instant};

use crate::inputs::Inputs;
use crate::logic::TaskEnd;
use crate::logic::job::JobSpec;
use crate::running::Running;
use crate::spawn::Spawner;
use command::CommandRuntime;
use fold::FoldRuntime;
pub(crate) use folder::{name_of, remove_folder, task_of};
use noop::NoopRuntime;

/// Asks a slot's task to end. Shared by the loop, which asks, and the slot, which looks.
#[derive(Clone, Debug)]
pub struct Cancel {
    asked: Arc<Asked>,
    slot: Thread,
}

#[derive(Debug, Default)]
struct Asked {
    is_cancelled: AtomicBool,
    /// What the slot polls, where it does not just sleep.
    wake: Mutex<Option<Arc<OwnedFd>>>,
}

impl Cancel {
    /// For what a slot's thread is about to execute.
    #[must_use]
    pub fn new(slot: Thread) -> Cancel {
        Cancel { asked: Arc::default(), slot }
    }

    /// Asks, and wakes the slot where it waits.
    pub fn cancel(&self) {
        // Relaxed: the flag carries no data; the lock and unparking order it before the slot's next
        // look.
        self.asked.is_cancelled.store(true, Ordering::Relaxed);
        if let Some(wake) = &*self.wake() {
            // A counter takes more than anybody asks.
            let _ = rustix::io::write(wake, &1u64.to_ne_bytes());
        }
        self.slot.unpark();
    }

    /// True once it was asked.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.asked.is_cancelled.load(Ordering::Relaxed)
    }

    /// From now on the counter `wake` is raised as well. Whoever calls this looks afterwards whether
    /// it was asked before.
    fn raise(&self, wake: &Arc<OwnedFd>) {
        *self.wake() = Some(wake.clone());
    }

    fn wake(&self) -> MutexGuard<'_, Option<Arc<OwnedFd>>> {
        // Nothing is half done where a holder panics.
        self.asked.wake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits on the slot's thread until a moment, or until it is asked.
    fn wait(&self, clock: Clock, until: Instant) {
        while !self.is_cancelled() {
            let left = until.since(clock.now());
            if left == Duration::ZERO {
                break;
            }
            std::thread::park_timeout(left.to_std());
        }
    }
}

/// One task to execute.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// Its job.
    pub spec: &'a JobSpec,
    /// Which of its tasks.
    pub index: TaskIndex,
    /// The attempt.
    pub attempt: u64,
    /// When it began.
    pub started: Instant,
}

/// How a task ended, before it is put beside its times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Done, failed or lost.
    pub state: TaskState,
    /// Exit code, minus the signal's number where one ended it.
    pub exit_code: i32,
    /// Why, where the state alone does not say it.
    pub cause: Cause,
    /// CPU time that it used.
    pub cpu: Duration,
    /// Largest resident memory that it had, in bytes.
    pub peak_memory_bytes: u64,
    /// What it wrote: packed within the limits of one task, or durable on storage already.
    pub outputs: Vec<Output>,
}

impl Ending {
    /// Of a task that ended by itself and wrote nothing.
    #[must_use]
    pub fn exit(exit_code: i32) -> Ending {
        let state = if exit_code == 0 { TaskState::Done } else { TaskState::Failed };
        Ending {
            state,
            exit_code,
            cause: Cause::None,
            cpu: Duration::ZERO,
            peak_memory_bytes: 0,
            outputs: Vec::new(),
        }
    }

    /// Of a task that did not end by itself.
    #[must_use]
    pub fn of(state: TaskState, exit_code: i32, cause: Cause) -> Ending {
        Ending { state, cause, ..Ending::exit(exit_code) }
    }
}

/// Executes tasks of one kind, one at a time, on the thread of one slot.
pub trait Runtime: Send {
    /// Executes a task and returns when it ended. A cancelled one ends soon, as lost.
    fn execute(&mut self, task: &Task<'_>, cancel: &Cancel) -> Ending;
}

/// What the runtimes of all slots of a worker share.
#[derive(Clone, Debug)]
pub struct Equipment {
    /// The worker's clock.
    pub clock: Clock,
    /// Starts processes.
    pub spawner: Spawner,
    /// Reaches storage.
    pub client: Arc<Client>,
    /// Where they tell what runs.
    pub running: Running,
    /// Brings what tasks need.
    pub inputs: Inputs,
    /// Addresses of masters, as tasks that are clients too are told them.
    pub cluster: String,
    /// The worker and its incarnation; zero where nobody asks the masters in its name.
    pub worker: (NodeId, Incarnation),
}

impl Equipment {
    /// With nothing running yet, for a cluster with masters at these addresses.
    #[must_use]
    pub fn new(
        clock: Clock,
        spawner: Spawner,
        client: Arc<Client>,
        inputs: Inputs,
        masters: &[String],
    ) -> Equipment {
        let (running, cluster) = (Running::default(), masters.join(","));
        let worker = (NodeId(0), Incarnation(0));
        Equipment { clock, spawner, client, running, inputs, cluster, worker }
    }

    /// The same for a worker of the roster, in whose name segments are folded.
    #[must_use]
    pub fn of_worker(self, node: NodeId, incarnation: Incarnation) -> Equipment {
        Equipment { worker: (node, incarnation), ..self }
    }
}

/// The runtimes of one slot.
#[derive(Debug)]
pub struct Runtimes {
    clock: Clock,
    command: CommandRuntime,
    noop: NoopRuntime,
    fold: FoldRuntime,
}

impl Runtimes {
    /// All that this worker has.
    #[must_use]
    pub fn new(equipment: Equipment) -> Runtimes {
        let clock = equipment.clock;
        let place = equipment.spawner.folder().to_owned();
        let fold = FoldRuntime::new(equipment.client.clone(), equipment.worker, place);
        let command = CommandRuntime::new(equipment);
        Runtimes { clock, command, noop: NoopRuntime::new(clock), fold }
    }

    fn of(&mut self, kind: &RuntimeKind) -> &mut dyn Runtime {
        match kind {
            RuntimeKind::Noop(_) => &mut self.noop,
            RuntimeKind::Fold { .. } => &mut self.fold,
            RuntimeKind::Command { .. } | RuntimeKind::Stored { .. } => &mut self.command,
        }
    }

    /// Executes a task and takes its times. `epoch` is the time of day at which the clock read
    /// zero.
    pub fn execute(
        &mut self,
        slot: u32,
        task: Task<'_>,
        epoch: Duration,
        cancel: &Cancel,
    ) -> TaskEnd {
        let started = self.clock.now();
        let task = Task { started, ..task };
        let ending = self.of(&task.spec.description.runtime).execute(&task, cancel);
        TaskEnd {
            slot,
            task: task.index,
            state: ending.state,
            exit_code: ending.exit_code,
            cause: ending.cause,
            start_unix_us: epoch.as_micros().saturating_add(started.0),
            wall: self.clock.now().since(started),
            cpu: ending.cpu,
            peak_memory_bytes: ending.peak_memory_bytes,
            outputs: ending.outputs,
        }
    }
}
