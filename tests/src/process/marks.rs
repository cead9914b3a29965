//! What a worker's folder knows of the tasks that run, as the marks in a real worker's folders: the
//! next life reports what ran when this one died.

use std::path::Path;

use ::worker::logic::CrashedTask;
use node::files::{File, Files, Open, read_all};
use proto::ids::{JobId, TaskIndex};

use crate::disk::SimFiles;

/// Where the marks are on a worker's machine.
const FOLDER: &str = "/data";

/// Bytes of a mark: job, task, attempt.
const LENGTH: usize = 32;

/// The marks of one worker.
pub(super) struct Marks {
    file: Box<dyn File>,
    written: Vec<u8>,
}

fn encode(task: &CrashedTask) -> Vec<u8> {
    let numbers = [task.task.0, task.attempt].into_iter().flat_map(u64::to_le_bytes);
    task.job.0.to_le_bytes().into_iter().chain(numbers).collect()
}

fn decode(mark: &[u8; LENGTH]) -> CrashedTask {
    let number = |at: usize| mark[at..at + 8].iter().rev().fold(0, |n, &b| n << 8 | u64::from(b));
    CrashedTask {
        job: JobId(u128::from(number(8)) << 64 | u128::from(number(0))),
        task: TaskIndex(number(16)),
        attempt: number(24),
    }
}

impl Marks {
    /// Opens the marks. Returns also what ran when the life before ended.
    pub(super) fn open(files: &SimFiles) -> (Marks, Vec<CrashedTask>) {
        let path = Path::new(FOLDER).join("marks");
        let trouble = "a worker's disk is always well";
        files.create_dir_all(Path::new(FOLDER)).expect(trouble);
        let file = files.open(&path, Open::Either).expect(trouble);
        let left = read_all(files, &path).expect(trouble);
        let crashed = left.as_chunks::<LENGTH>().0.iter().map(decode).collect();
        file.set_len(0).expect(trouble);
        file.sync_data().expect(trouble);
        (Marks { file, written: Vec::new() }, crashed)
    }

    /// Marks exactly the tasks that run.
    pub(super) fn set(&mut self, running: impl Iterator<Item = CrashedTask>) {
        let marks: Vec<u8> = running.flat_map(|task| encode(&task)).collect();
        if marks == self.written {
            return;
        }
        let trouble = "a worker's disk is always well";
        self.file.write_all_at(&marks, 0).expect(trouble);
        self.file.set_len(marks.len() as u64).expect(trouble);
        self.file.sync_data().expect(trouble);
        self.written = marks;
    }
}
