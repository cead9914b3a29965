//! The runtime that does nothing, for measuring: outcome, duration and what is printed follow from
//! the task's index and the job's seed.

use node::clock::Clock;
use proto::description::Runtime as RuntimeKind;
use proto::segment::{Output, OutputContent};
use proto::status::{Cause, OutputKind, TaskState};
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
        let printed = noop.printed(task.index);
        let outputs = (!printed.is_empty()).then(|| Output {
            kind: OutputKind::Stdout,
            name: Vec::new(),
            mode: 0,
            is_cut: false,
            content: OutputContent::Packed(printed),
        });
        Ending { outputs: outputs.into_iter().collect(), ..Ending::exit(outcome.exit_code) }
    }
}
