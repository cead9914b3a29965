//! The runtime that does nothing, for measuring: outcome and duration of each task follow from its
//! index and the job's seed.

use node::clock::Clock;
use proto::description::Runtime as RuntimeKind;
use proto::status::{Cause, TaskState};
use proto::time::Duration;

use super::{Cancel, Ending, Runtime, Task};

/// Executes tasks that only take time.
#[derive(Debug)]
pub(super) struct NoopRuntime {
    clock: Clock,
}

impl NoopRuntime {
    pub(super) fn new(clock: Clock) -> NoopRuntime {
        NoopRuntime { clock }
    }
}

impl Runtime for NoopRuntime {
    fn execute(&mut self, task: &Task<'_>, cancel: &Cancel) -> Ending {
        let RuntimeKind::Noop(noop) = &task.spec.description.runtime else {
            unreachable!("whoever chooses the runtime goes by the description");
        };
        let outcome = noop.outcome(task.index);
        if outcome.duration > Duration::ZERO {
            cancel.wait(self.clock, task.started + outcome.duration);
            if cancel.is_cancelled() {
                return Ending::of(TaskState::Lost, 0, Cause::Cancelled);
            }
        }
        Ending::exit(outcome.exit_code)
    }
}
