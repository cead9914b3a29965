//! What the tasks of a job used: time, CPU, memory, and where they ran.
//!
//! It stands in the segments that the masters list, beside what tasks wrote. An entry may follow
//! its outcome by two seconds, and a worker that dies takes those with it, so that a task may have
//! an outcome and no entry for ever. Deliberately not here: what became of the tasks.

use std::ops::Range;

use proto::ids::{FileId, JobId, TaskIndex};
use proto::segment::{AccountingEntry, Section};

use crate::blocking::Client;
use crate::error::ClientError;
use crate::listed::{Listed, Segments};

/// What the tasks of a job used.
#[derive(Debug)]
pub struct Accounting<'a> {
    client: &'a Client,
    listed: Listed,
    /// Runs of tasks with the segment that counts for them, in the order of the tasks.
    runs: Vec<(Range<u64>, FileId)>,
    /// Entries by task; of several attempts of one, in their order.
    segments: Segments<Vec<AccountingEntry>>,
    /// The run that is read, and the task in it from which on.
    at: usize,
    next_task: u64,
}

impl Client {
    /// What the tasks of a job used, as far as it is recorded.
    ///
    /// # Errors
    /// [`ClientError`] where the masters do not answer.
    pub fn accounting(&self, job: JobId) -> Result<Accounting<'_>, ClientError> {
        let mut accounting = Accounting {
            client: self,
            listed: Listed::new(job),
            runs: Vec::new(),
            segments: Segments::new(job),
            at: 0,
            next_task: 0,
        };
        accounting.look_again()?;
        Ok(accounting)
    }
}

impl Accounting<'_> {
    /// Reads what was recorded meanwhile. What was handed out before a task that is new now is not
    /// handed out again, nor is the new one.
    ///
    /// # Errors
    /// [`ClientError`] where the masters do not answer.
    pub fn look_again(&mut self) -> Result<(), ClientError> {
        self.listed.look_again();
        self.runs.extend(self.listed.read(self.client)?);
        self.runs.sort_by_key(|(tasks, _)| tasks.start);
        self.at = self.runs.partition_point(|(tasks, _)| tasks.end <= self.next_task);
        Ok(())
    }

    /// Number of tasks that a segment counts for: a few of them may have no entry all the same.
    #[must_use]
    pub fn listed_count(&self) -> u64 {
        self.runs.iter().map(|(tasks, _)| tasks.end - tasks.start).sum()
    }

    /// The segment that counts for a task; `None` where none is recorded.
    #[must_use]
    pub fn segment_of(&self, task: TaskIndex) -> Option<FileId> {
        let before = self.runs.partition_point(|(tasks, _)| tasks.start <= task.0);
        let (tasks, segment) = self.runs.get(before.checked_sub(1)?)?;
        tasks.contains(&task.0).then_some(*segment)
    }

    /// All entries of a task in the segment that counts for it, in the order of its attempts: the
    /// last one is that of its outcome.
    ///
    /// # Errors
    /// [`ClientError`] where storage does not answer, or has no segment there.
    pub fn entries_of(&mut self, task: TaskIndex) -> Result<Vec<AccountingEntry>, ClientError> {
        let Some(segment) = self.segment_of(task) else { return Ok(Vec::new()) };
        let (entries, _) = self.segments.load(self.client, segment, task.0, entries)?;
        Ok(of_tasks(entries, task.0..task.0.saturating_add(1)).to_vec())
    }

    /// The entry of the next task that has one, in the order of the tasks; `None` behind the last.
    /// Memory is bounded, whatever the size of the job.
    ///
    /// # Errors
    /// As [`Accounting::entries_of`].
    pub fn next_entry(&mut self) -> Result<Option<AccountingEntry>, ClientError> {
        while let Some((tasks, segment)) = self.runs.get(self.at) {
            let wanted = tasks.start.max(self.next_task)..tasks.end;
            let (entries, end) =
                self.segments.load(self.client, *segment, wanted.start, entries)?;
            let in_run = of_tasks(entries, wanted);
            if let Some(first) = in_run.first() {
                let task = first.task_index;
                let of_task = in_run.partition_point(|entry| entry.task_index <= task);
                self.next_task = task.saturating_add(1);
                return Ok(in_run.get(of_task.saturating_sub(1)).copied());
            }
            self.next_task = tasks.end.min(end);
            if end >= tasks.end {
                self.at += 1;
            }
        }
        Ok(None)
    }
}

/// The entries of these tasks.
fn of_tasks(entries: &[AccountingEntry], tasks: Range<u64>) -> &[AccountingEntry] {
    let first = entries.partition_point(|entry| entry.task_index < tasks.start);
    let end = entries.partition_point(|entry| entry.task_index < tasks.end);
    entries.get(first..end).unwrap_or_default()
}

/// What sections of one job have, in the order of tasks and attempts.
fn entries(sections: &[Section<'_>]) -> Vec<AccountingEntry> {
    let mut entries: Vec<AccountingEntry> =
        sections.iter().flat_map(|section| section.entries).copied().collect();
    entries.sort_by_key(|entry| (entry.task_index, entry.attempt));
    entries
}

#[cfg(test)]
mod tests {
    use proto::ids::JobId;
    use proto::segment::{NewSection, Segment, encode};

    use super::*;

    fn entry(task_index: u64, attempt: u64) -> AccountingEntry {
        AccountingEntry { task_index, attempt, ..AccountingEntry::default() }
    }

    #[test]
    fn a_segment_tells_what_the_tasks_of_one_job_used() {
        let of_job = [entry(1, 5), entry(3, 4), entry(3, 6)];
        let section = |job, entries| NewSection { job, entries, outputs: &[] };
        let other = [entry(2, 1)];
        let bytes = encode(&[section(JobId(7), &of_job), section(JobId(8), &other)]);
        let segment = Segment::open(&bytes).unwrap();
        let found = entries(&segment.sections()[..1]);
        assert_eq!(found, of_job);
        assert_eq!(of_tasks(&found, 3..4), [entry(3, 4), entry(3, 6)]);
        assert_eq!(of_tasks(&found, 2..3), []);
        assert_eq!(of_tasks(&found, 0..10), of_job);
        assert!(entries(&[]).is_empty());
    }
}
