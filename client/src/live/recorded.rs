//! What the finished tasks of a job printed, in the order of the tasks, again and again as more of
//! them finish.
//!
//! Which segment holds the result of which task the masters say, and they know it with the result
//! itself. Deliberately only standard output and standard error: files that tasks wrote are no log.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use proto::ids::{FileId, JobId};
use proto::segment::{Section, TaskOutputs};
use proto::status::OutputKind;

use crate::blocking::Client;
use crate::error::ClientError;
use crate::listed::{Listed, Segments};
use crate::outputs::accepted;

/// What finished tasks of a job printed.
#[derive(Debug)]
pub struct JobLogs<'a> {
    client: &'a Client,
    listed: Listed,
    segments: Segments<Printed>,
    /// Runs that were found and not handed out yet, in the order of the tasks.
    waiting: VecDeque<(Range<u64>, FileId)>,
}

impl Client {
    /// What finished tasks of a job printed; see [`JobLogs::next_log`].
    #[must_use]
    pub fn job_logs(&self, job: JobId) -> JobLogs<'_> {
        JobLogs {
            client: self,
            listed: Listed::new(job),
            segments: Segments::new(job),
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
            self.waiting.extend(self.listed.read(self.client)?);
        }
        while let Some((tasks, segment)) = self.waiting.front_mut() {
            let (printed, end) = self.segments.load(self.client, *segment, tasks.start, printed)?;
            let known = tasks.start..tasks.end.min(end);
            let next = printed.range(known).next().map(|(_, next)| next.clone());
            tasks.start = next.as_ref().map_or(end, |next| next.task_index + 1);
            if tasks.start >= tasks.end {
                self.waiting.pop_front();
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
        self.listed.look_again();
    }
}

/// What the tasks of one job printed according to one segment.
type Printed = BTreeMap<u64, TaskOutputs>;

fn printed(sections: &[Section<'_>]) -> Printed {
    // Which of them count is looked up in the list, task by task.
    let tasks = sections.iter().flat_map(|section| accepted(section, |_| true));
    let streams = tasks.filter_map(|mut task| {
        task.outputs.retain(|it| matches!(it.kind, OutputKind::Stdout | OutputKind::Stderr));
        (!task.outputs.is_empty()).then_some((task.task_index, task))
    });
    streams.collect()
}

#[cfg(test)]
mod tests {
    use proto::segment::{AccountingEntry, NewSection, Output, OutputContent, Segment, encode};

    use super::*;

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
        let segment = Segment::open(&bytes).unwrap();
        let [first, second] = segment.sections() else { panic!("two jobs") };
        assert_eq!(printed(&[*first]), Printed::from([(3, task(3, vec![stream]))]));
        assert!(printed(&[*second]).is_empty());
    }
}
