//! What the finished tasks of a job printed, in the order of the tasks, again and again as more of
//! them finish.
//!
//! Which segment holds the result of which task the masters say, and they know it with the result
//! itself. Deliberately only standard output and standard error: files that tasks wrote are no log.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use node::logic::ranges::gaps;
use proto::ids::{FileId, JobId};
use proto::segment::{Segment, TaskOutputs};
use proto::status::OutputKind;

use crate::blocking::Client;
use crate::error::ClientError;
use crate::outputs::accepted;

/// Bytes of segments that are kept in case the next task's output is in one of them: workers finish
/// tasks by turns, so that neighbours lie in as many segments as there are workers.
const KEPT_BYTES: usize = 128 << 20;

/// What finished tasks of a job printed.
#[derive(Debug)]
pub struct JobLogs<'a> {
    client: &'a Client,
    job: JobId,
    segments: Segments,
    /// Where the last page of the listing begins: what is new is there, or behind it.
    page: u64,
    /// Tasks that were found in the listing: beginnings and ends of runs.
    seen: BTreeMap<u64, u64>,
    /// Runs that were found and not handed out yet, in the order of the tasks.
    waiting: VecDeque<(Range<u64>, FileId)>,
}

impl Client {
    /// What finished tasks of a job printed; see [`JobLogs::next_log`].
    #[must_use]
    pub fn job_logs(&self, job: JobId) -> JobLogs<'_> {
        JobLogs {
            client: self,
            job,
            segments: Segments::default(),
            page: 0,
            seen: BTreeMap::new(),
            waiting: VecDeque::new(),
        }
    }
}

impl JobLogs<'_> {
    /// What the next task printed whose result is recorded and was not handed out before; `None`
    /// where there is none at present. Tasks come in their order as far as they are known when the
    /// list is read, which is when all known ones were handed out. A task that printed nothing is
    /// passed over.
    ///
    /// # Errors
    /// [`ClientError`] where the masters or storage do not answer.
    pub fn next_log(&mut self) -> Result<Option<TaskOutputs>, ClientError> {
        if self.waiting.is_empty() {
            self.read_list()?;
        }
        while let Some((tasks, segment)) = self.waiting.front_mut() {
            let printed = self.segments.load(self.client, self.job, *segment)?;
            let next = printed.range(tasks.clone()).next().map(|(_, next)| next.clone());
            match &next {
                Some(next) if next.task_index + 1 < tasks.end => tasks.start = next.task_index + 1,
                _ => drop(self.waiting.pop_front()),
            }
            if next.is_some() {
                return Ok(next);
            }
        }
        Ok(None)
    }

    /// Reads the list from its beginning when it is read next. Masters may add a task's result to
    /// what they listed earlier, so who wants all of a job that ended looks once more.
    pub fn look_again(&mut self) {
        self.page = 0;
    }

    fn read_list(&mut self) -> Result<(), ClientError> {
        let mut new = Vec::new();
        loop {
            let page = self.client.segments(self.job, self.page)?;
            for listed in page.items {
                let runs = add(&mut self.seen, listed.tasks);
                new.extend(runs.into_iter().map(|run| (run, listed.segment)));
            }
            match page.next {
                Some(next) => self.page = next,
                None => break,
            }
        }
        new.sort_by_key(|(tasks, _)| tasks.start);
        self.waiting.extend(new);
        Ok(())
    }
}

/// Adds a run to a set of runs; what of it was not there.
fn add(seen: &mut BTreeMap<u64, u64>, run: Range<u64>) -> Vec<Range<u64>> {
    let before = seen.range(..run.start).next_back().filter(|(_, end)| **end >= run.start);
    let first = before.map_or(run.start, |(start, _)| *start);
    // Also those that only touch it: together they are one run from now on.
    let old: Vec<Range<u64>> =
        seen.range(first..=run.end).map(|(start, end)| *start..*end).collect();
    let new = gaps(run.clone(), old.iter().cloned());
    if !new.is_empty() {
        for old in &old {
            seen.remove(&old.start);
        }
        let end = old.last().map_or(run.end, |old| old.end.max(run.end));
        seen.insert(first, end);
    }
    new
}

/// What the tasks of one job printed according to one segment.
type Printed = BTreeMap<u64, TaskOutputs>;

/// Segments that were read, the last read last.
#[derive(Debug, Default)]
struct Segments {
    read: VecDeque<(FileId, usize, Printed)>,
    bytes: usize,
}

impl Segments {
    fn load(&mut self, client: &Client, job: JobId, file: FileId) -> Result<&Printed, ClientError> {
        let known = self.read.iter().position(|(known, ..)| *known == file);
        let at = match known {
            Some(at) => at,
            None => {
                let segment = client.get_bytes(file)?;
                let printed = printed(job, &segment)?;
                self.bytes += segment.len();
                self.read.push_back((file, segment.len(), printed));
                while self.bytes > KEPT_BYTES
                    && self.read.len() > 1
                    && let Some((_, bytes, _)) = self.read.pop_front()
                {
                    self.bytes -= bytes;
                }
                self.read.len() - 1
            }
        };
        let (.., printed) = self.read.get(at).ok_or(ClientError::OtherAnswer)?;
        Ok(printed)
    }
}

fn printed(job: JobId, segment: &[u8]) -> Result<Printed, ClientError> {
    let segment = Segment::open(segment)?;
    let sections = segment.sections().iter().filter(|section| section.job == job);
    // Which of them count is looked up in the list, task by task.
    let tasks = sections.flat_map(|section| accepted(section, |_| true));
    let streams = tasks.filter_map(|mut task| {
        task.outputs.retain(|it| matches!(it.kind, OutputKind::Stdout | OutputKind::Stderr));
        (!task.outputs.is_empty()).then_some((task.task_index, task))
    });
    Ok(streams.collect())
}

#[cfg(test)]
mod tests {
    use proto::segment::{AccountingEntry, NewSection, Output, OutputContent, encode};

    use super::*;

    #[test]
    fn a_set_of_runs_tells_what_is_new() {
        let mut seen = BTreeMap::new();
        for (run, new) in [
            ((10, 20), vec![(10, 20)]),
            ((10, 20), vec![]),
            ((30, 40), vec![(30, 40)]),
            ((15, 35), vec![(20, 30)]),
            ((5, 45), vec![(5, 10), (40, 45)]),
            ((45, 46), vec![(45, 46)]),
            ((0, 5), vec![(0, 5)]),
            ((3, 3), vec![]),
        ] {
            let found = add(&mut seen, run.0..run.1);
            assert!(found.iter().map(|it| (it.start, it.end)).eq(new), "{run:?}: {found:?}");
        }
        assert_eq!(seen, BTreeMap::from([(0, 46)]));
    }

    #[test]
    fn a_segment_tells_what_the_tasks_of_one_job_printed() {
        let job = JobId(7);
        let entry = |task_index| AccountingEntry { task_index, attempt: 1, ..Default::default() };
        let output = |kind, name: &str| Output {
            kind,
            name: name.into(),
            mode: 0,
            is_cut: false,
            content: OutputContent::Packed(b"content".to_vec()),
        };
        let task = |task_index, outputs| TaskOutputs { task_index, attempt: 1, outputs };
        let stream = output(OutputKind::Stderr, "");
        let file = output(OutputKind::File, "file");
        let outputs = [task(3, vec![stream.clone(), file.clone()]), task(4, vec![file])];
        let entries = [1, 3, 4].map(entry);
        let bytes = encode(&[
            NewSection { job, entries: &entries, outputs: &outputs },
            NewSection { job: JobId(8), entries: &entries[..1], outputs: &[] },
        ]);
        assert_eq!(printed(job, &bytes).unwrap(), Printed::from([(3, task(3, vec![stream]))]));
        assert!(printed(JobId(8), &bytes).unwrap().is_empty());
        assert!(matches!(printed(job, b"nothing"), Err(ClientError::Segment(_))));
    }
}
