//! Which tasks run here at present, and where: what the slots tell, for whoever asks what a task
//! does before its end.
//!
//! Deliberately not here: what a running task printed or says of its progress. That stands in the
//! files that are named here.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::ids::{JobId, TaskIndex};

use crate::logic::RunningStage;

/// A task that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningTask {
    /// Its job.
    pub job: JobId,
    /// Which of its tasks.
    pub task: TaskIndex,
    /// The attempt.
    pub attempt: u64,
    /// When it began by this machine's clock, in microseconds since 1970.
    pub start_unix_us: u64,
    /// What it printed so far; absent before its process started.
    pub stdout: PathBuf,
    /// What it printed as errors so far; absent before its process started.
    pub stderr: PathBuf,
    /// What it says of its progress; absent where it says nothing.
    pub progress: PathBuf,
}

/// The tasks that run. Copies share it.
#[derive(Clone, Debug, Default)]
pub struct Running {
    tasks: Arc<Mutex<Tasks>>,
}

#[derive(Debug, Default)]
struct Tasks {
    /// In the order of their beginnings; one for each slot at most.
    by_number: BTreeMap<u64, RunningTask>,
    /// How far they are.
    stages: BTreeMap<u64, RunningStage>,
    last_number: u64,
}

impl Running {
    /// Lists a task until what is returned is dropped.
    #[must_use]
    pub fn begin(&self, task: RunningTask) -> Listed {
        let mut tasks = self.tasks();
        tasks.last_number += 1;
        let number = tasks.last_number;
        tasks.by_number.insert(number, task);
        tasks.stages.insert(number, RunningStage::Inputs);
        Listed { running: self.clone(), number }
    }

    /// All that run, in the order in which they began.
    #[must_use]
    pub fn list(&self) -> Vec<RunningTask> {
        self.tasks().by_number.values().cloned().collect()
    }

    /// A task that runs; its latest attempt where an earlier one is still being ended.
    #[must_use]
    pub fn find(&self, job: JobId, task: TaskIndex) -> Option<RunningTask> {
        let tasks = self.tasks();
        let found = tasks.by_number.values().filter(|it| (it.job, it.task) == (job, task));
        found.max_by_key(|it| it.attempt).cloned()
    }

    /// How far a task is, as [`Running::find`] finds it.
    #[must_use]
    pub fn stage(&self, job: JobId, task: TaskIndex) -> Option<RunningStage> {
        let tasks = self.tasks();
        let found = tasks.by_number.iter().filter(|(_, it)| (it.job, it.task) == (job, task));
        let (number, _) = found.max_by_key(|(_, it)| it.attempt)?;
        tasks.stages.get(number).copied()
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        // Nothing is half done where a holder panics, so the list is good.
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task that is listed as running as long as this lives.
#[derive(Debug)]
pub struct Listed {
    running: Running,
    number: u64,
}

impl Listed {
    /// It is so far now.
    pub fn is_at(&self, stage: RunningStage) {
        self.running.tasks().stages.insert(self.number, stage);
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut tasks = self.running.tasks();
        tasks.by_number.remove(&self.number);
        tasks.stages.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(task: u64, attempt: u64) -> RunningTask {
        RunningTask {
            job: JobId(7),
            task: TaskIndex(task),
            attempt,
            start_unix_us: 0,
            stdout: "stdout".into(),
            stderr: "stderr".into(),
            progress: "progress".into(),
        }
    }

    #[test]
    fn a_task_is_listed_while_it_runs() {
        let running = Running::default();
        let first = running.begin(task(3, 9));
        let second = running.begin(task(3, 8));
        let third = running.begin(task(1, 5));
        assert_eq!(running.list(), [task(3, 9), task(3, 8), task(1, 5)]);
        assert_eq!(running.find(JobId(7), TaskIndex(3)), Some(task(3, 9)));
        drop(first);
        assert_eq!(running.find(JobId(7), TaskIndex(3)), Some(task(3, 8)));
        assert_eq!(running.find(JobId(8), TaskIndex(3)), None);
        assert_eq!(running.stage(JobId(7), TaskIndex(1)), Some(RunningStage::Inputs));
        third.is_at(RunningStage::Outputs);
        assert_eq!(running.stage(JobId(7), TaskIndex(1)), Some(RunningStage::Outputs));
        assert_eq!(running.stage(JobId(8), TaskIndex(1)), None);
        drop(second);
        drop(third);
        assert!(running.list().is_empty());
    }
}
