//! What executes a task: one trait, one implementation for each runtime.
//!
//! A slot is a thread that executes one task after the other and may block in it. Outcome, start
//! and end are taken per task, the same way for every runtime.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use node::clock;
use proto::description::{Noop, Runtime as RuntimeKind};
use proto::ids::TaskIndex;
use proto::status::{Cause, TaskState};
use proto::time::Duration;

use crate::logic::TaskEnd;
use crate::logic::job::JobSpec;

/// Asks a slot's task to end. Shared by the loop, which sets it, and the slot, which looks.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks.
    pub fn cancel(&self) {
        // Relaxed: the flag carries no data; the thread is unparked behind it.
        self.0.store(true, Ordering::Relaxed);
    }

    /// True once it was asked.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// How a task ended, before it is put beside its times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

/// Executes tasks of one kind, one at a time.
pub trait Runtime: Send {
    /// Executes a task and returns when it ended. A cancelled one ends soon, as lost.
    fn execute(&mut self, spec: &JobSpec, task: TaskIndex, attempt: u64, cancel: &Cancel) -> Ending;
}

/// Executes a task and takes its times.
pub fn execute(
    runtimes: &mut Runtimes,
    slot: u32,
    spec: &JobSpec,
    task: TaskIndex,
    attempt: u64,
    cancel: &Cancel,
) -> TaskEnd {
    let started = clock::time_of_day();
    let ending = runtimes.of(&spec.description.runtime).execute(spec, task, attempt, cancel);
    TaskEnd {
        slot,
        task,
        state: ending.state,
        exit_code: ending.exit_code,
        cause: ending.cause,
        start_unix_us: started.as_micros(),
        wall: clock::time_of_day() - started,
        cpu: ending.cpu,
        peak_memory_bytes: ending.peak_memory_bytes,
    }
}
