//! Why tasks are where they are on this worker: what runs, what waits and behind what, and what the
//! masters have not acknowledged.
//!
//! How far a task is that has a slot only the slots know: that is handed in.

use node::logic::explanations::Why;
use proto::ids::{JobId, TaskIndex};
use proto::status::{Reason, TaskState};

use super::Worker;
use super::held::tasks_of;

/// How far a task is that has a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunningStage {
    /// What it reads is brought.
    Inputs,
    /// It is executed.
    Executed,
    /// It ended, and what it wrote is stored.
    Outputs,
}

impl Worker {
    /// What this worker knows of a task of a job, or of all that it holds of the job, those of one
    /// reason together. `stage` tells how far a task is that has a slot, where that is known.
    #[must_use]
    pub fn explain_tasks(
        &self,
        job: JobId,
        task: Option<TaskIndex>,
        stage: &dyn Fn(JobId, TaskIndex) -> Option<RunningStage>,
    ) -> Vec<Why> {
        let mut whys: Vec<Why> = Vec::new();
        let mut add = |reason: Reason, tasks: std::ops::Range<u64>, number: u64, text: String| {
            let asked = task.map_or(tasks.clone(), |task| {
                tasks.start.max(task.0)..tasks.end.min(task.0.saturating_add(1))
            });
            if asked.start >= asked.end {
                return;
            }
            let count = asked.end - asked.start;
            match whys.iter_mut().find(|why| why.reason == reason) {
                Some(known) => {
                    known.task_count += count;
                    known.first_task = known.first_task.min(asked.start);
                }
                None => whys.push(Why { number, text, ..Why::new(reason, asked.start, count) }),
            }
        };
        // In this order: first what waits, in the order in which it starts, then what the slots
        // have, then what ended.
        let mut before = 0u64;
        for run in self.held().inventory() {
            let tasks = tasks_of(&run);
            let (count, attempt) = (tasks.end - tasks.start, run.attempt);
            let is_it = JobId::from(run.job_uuid) == job;
            let state = TaskState::from_wire(run.state);
            match state {
                Some(TaskState::Queued) => {
                    let position = task.map_or(0, |task| task.0.saturating_sub(tasks.start));
                    if is_it {
                        let number = before.saturating_add(position.min(count));
                        add(Reason::AtWorker, tasks, number, self.explain());
                    }
                    before = before.saturating_add(count);
                }
                Some(TaskState::Running) if is_it => {
                    // A slot executes one task at a time; the others of its piece are next.
                    let current = tasks.start..tasks.start.saturating_add(1);
                    let rest = current.end..tasks.end;
                    match stage(job, TaskIndex(current.start)) {
                        Some(RunningStage::Inputs) => {
                            add(Reason::Inputs, current, attempt, String::new());
                        }
                        Some(RunningStage::Outputs) => {
                            let text = "what it wrote is being stored".to_owned();
                            add(Reason::Reporting, current, attempt, text);
                        }
                        Some(RunningStage::Executed) | None => {
                            add(Reason::Running, current, attempt, String::new());
                        }
                    }
                    let position = task.map_or(1, |task| task.0.saturating_sub(tasks.start));
                    add(Reason::AtWorker, rest, position, "a slot has it next".to_owned());
                }
                Some(TaskState::Done) if is_it => {
                    add(Reason::Reporting, tasks, attempt, self.explain_results());
                }
                _ => {}
            }
        }
        let is_stopping = self.stop_at.is_some();
        if self.is_refusing() && !is_stopping {
            let (first, count) = task.map_or((0, 0), |task| (task.0, 1));
            let text = self.explain_results();
            whys.push(Why { number: 1, text, ..Why::new(Reason::WorkersFull, first, count) });
        }
        for why in &mut whys {
            why.subject = self.setting.node;
        }
        whys
    }

    /// Why results are still here.
    fn explain_results(&self) -> String {
        if let Some(trouble) = self.storing.trouble() {
            return format!("what tasks wrote cannot be stored: {trouble}");
        }
        match (self.masters.is_connected(), &self.last_refusal) {
            (true, _) => format!("{} bytes of results are on their way", self.result_bytes()),
            (false, Some(refusal)) => format!("no master takes results: {refusal}"),
            (false, None) => "no master can be reached".to_owned(),
        }
    }
}
