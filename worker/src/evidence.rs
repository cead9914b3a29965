//! Which tasks ran when earlier incarnations of this worker died, on disk until the masters
//! acknowledged it: a worker that dies once more before that tells it the next time.
//!
//! Deliberately not here: how it is known that a task ran, and what its death counts.

use std::fmt::Write;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use node::files::{RealFiles, read_all, replace};

use crate::logic::CrashedTask;
use crate::runtime::{name_of, task_of};

/// Name of the file in the data folder.
const FILE: &str = "crashed";

/// Most tasks that are kept, the latest: several deaths of the largest worker. Who dies more often
/// without ever reaching a master has other troubles than what its tasks are counted.
const TASKS: usize = 16_384;

/// What is not acknowledged.
#[derive(Debug)]
pub(crate) struct Evidence {
    path: PathBuf,
    tasks: Vec<CrashedTask>,
}

impl Evidence {
    /// What a data folder keeps, and these tasks beside it: they are durable when this returns.
    ///
    /// # Errors
    /// As the operating system says.
    pub(crate) fn keep(data: &Path, left: Vec<CrashedTask>) -> io::Result<Evidence> {
        let path = data.join(FILE);
        let known = match read_all(&RealFiles, &path) {
            Ok(known) => known,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let known = String::from_utf8_lossy(&known);
        let mut tasks: Vec<CrashedTask> =
            known.lines().filter_map(|line| task_of(line.as_ref())).collect();
        if left.iter().all(|task| tasks.contains(task)) {
            return Ok(Evidence { path, tasks });
        }
        tasks.retain(|task| !left.contains(task));
        tasks.extend(left);
        tasks.drain(..tasks.len().saturating_sub(TASKS));
        let mut text = String::new();
        for task in &tasks {
            // Writing into a text never fails.
            let _ = writeln!(text, "{}", name_of(task));
        }
        replace(&RealFiles, &path, text.as_bytes())?;
        Ok(Evidence { path, tasks })
    }

    /// The tasks, those that ran last at the end.
    pub(crate) fn tasks(&self) -> &[CrashedTask] {
        &self.tasks
    }

    /// All of it was acknowledged. Where this fails it is told again, which changes nothing.
    ///
    /// # Errors
    /// As the operating system says.
    pub(crate) fn forget(self) -> io::Result<()> {
        match std::fs::remove_file(self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::ids::{JobId, TaskIndex};

    use super::*;

    fn task(task: u64, attempt: u64) -> CrashedTask {
        CrashedTask { job: JobId(7), task: TaskIndex(task), attempt }
    }

    #[test]
    fn evidence_is_kept_until_it_is_forgotten() {
        let data = tempfile::tempdir().unwrap();
        let keep = |left: &[CrashedTask]| Evidence::keep(data.path(), left.to_vec()).unwrap();
        assert!(keep(&[]).tasks().is_empty());
        assert!(!data.path().join(FILE).exists(), "nothing is written for nothing");
        assert_eq!(keep(&[task(1, 9), task(2, 9)]).tasks(), [task(1, 9), task(2, 9)]);
        // The next incarnation died as well, with another task and one that was left lying.
        assert_eq!(keep(&[task(2, 9), task(1, 10)]).tasks(), [task(1, 9), task(2, 9), task(1, 10)]);
        let kept = keep(&[]);
        assert_eq!(kept.tasks(), [task(1, 9), task(2, 9), task(1, 10)]);
        kept.forget().unwrap();
        let none = keep(&[]);
        assert!(none.tasks().is_empty());
        none.forget().unwrap();
    }

    #[test]
    fn evidence_is_bounded_and_the_latest_stays() {
        let data = tempfile::tempdir().unwrap();
        let many: Vec<CrashedTask> = (0..TASKS as u64).map(|index| task(index, 1)).collect();
        Evidence::keep(data.path(), many).unwrap();
        let kept = Evidence::keep(data.path(), vec![task(0, 2)]).unwrap();
        assert_eq!(kept.tasks().len(), TASKS);
        assert_eq!((kept.tasks()[0], kept.tasks().last()), (task(1, 1), Some(&task(0, 2))));
    }

    #[test]
    fn a_line_that_tells_no_task_is_no_evidence() {
        let data = tempfile::tempdir().unwrap();
        std::fs::write(data.path().join(FILE), b"\xff\n\nabc-1-2\n").unwrap();
        assert!(Evidence::keep(data.path(), Vec::new()).unwrap().tasks().is_empty());
    }
}
