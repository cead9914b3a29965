//! What tasks wrote, read from storage.
//!
//! Which segments hold it, and how they are read, is `sections.rs`. Writing outputs into a folder is
//! `outputs/get.rs`; what a running task prints is not on storage yet.

mod get;

use std::collections::VecDeque;
use std::ops::Range;

use proto::ids::{JobId, TaskIndex};
use proto::segment::{Output, OutputContent, OutputRef, Section, TaskOutputs};
use proto::status::{OutputKind, TaskState};

use crate::blocking::Client;
use crate::error::ClientError;
use crate::logic::jobs::JobSelector;
use crate::sections::Sections;

impl Client {
    /// What tasks of a job wrote, task by task, as their results were recorded. Tasks that wrote
    /// nothing are left out, and so are those without an outcome.
    #[must_use]
    pub fn outputs(&self, job: JobId, tasks: Range<u64>) -> Outputs<'_> {
        Outputs { sections: self.sections(job, tasks), ready: VecDeque::new() }
    }

    /// What one task wrote; nothing where it wrote nothing.
    ///
    /// # Errors
    /// [`ClientError::NoTask`], [`ClientError::NotEnded`] where it has no outcome yet, and
    /// [`ClientError`].
    pub fn task_outputs(&self, job: JobId, task: TaskIndex) -> Result<Vec<Output>, ClientError> {
        if task.0 >= self.status(JobSelector::Id(job))?.task_count {
            return Err(ClientError::NoTask { job, task });
        }
        // Asked first: an outcome never comes before what it names.
        let outcome = self.outcomes(job, task.0, 1)?.items.into_iter().next();
        let state = outcome.map_or(TaskState::Queued, |run| run.state);
        if !matches!(state, TaskState::Done | TaskState::Failed) {
            return Err(ClientError::NotEnded { task: task.0, state });
        }
        let found = self.outputs(job, task.0..task.0 + 1).next_task()?;
        Ok(found.map(|found| found.outputs).unwrap_or_default())
    }

    /// What one task wrote at a path. Its streams stand at `stdout` and `stderr` and are there also
    /// where it printed nothing.
    ///
    /// # Errors
    /// As [`Client::task_outputs`], and [`ClientError::NoOutput`].
    pub fn output_at(
        &self,
        job: JobId,
        task: TaskIndex,
        path: &[u8],
    ) -> Result<OutputAt, ClientError> {
        let outputs = self.task_outputs(job, task)?;
        at(outputs, path).ok_or_else(|| ClientError::NoOutput {
            task: task.0,
            path: String::from_utf8_lossy(path).into_owned(),
        })
    }

    /// The bytes of an output that fit into memory; of a link, what it points to.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn read_output(&self, output: &Output) -> Result<Vec<u8>, ClientError> {
        match &output.content {
            OutputContent::Packed(bytes) => Ok(bytes.clone()),
            OutputContent::File { file, .. } => self.get_bytes(*file),
        }
    }
}

/// Where an output stands among what its task wrote: its name, or that of its stream.
#[must_use]
pub fn output_path(output: &Output) -> &[u8] {
    match output.kind {
        OutputKind::Stdout => b"stdout",
        OutputKind::Stderr => b"stderr",
        _ => &output.name,
    }
}

/// Bytes of an output.
#[must_use]
pub fn output_length(output: &Output) -> u64 {
    match &output.content {
        OutputContent::Packed(bytes) => bytes.len() as u64,
        OutputContent::File { length, .. } => *length,
    }
}

/// What stands at a path among what a task wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputAt {
    /// A file, a stream or a link.
    One(Output),
    /// A folder, with names from there on.
    Folder(Vec<Output>),
}

fn at(outputs: Vec<Output>, path: &[u8]) -> Option<OutputAt> {
    if path.is_empty() {
        return Some(OutputAt::Folder(outputs));
    }
    let (mut inside, mut is_folder) = (Vec::new(), false);
    for mut output in outputs {
        let Some(rest) = output_path(&output).strip_prefix(path) else {
            continue;
        };
        match rest {
            [] if output.kind == OutputKind::Folder => is_folder = true,
            [] => return Some(OutputAt::One(output)),
            [b'/', name @ ..] => {
                output.name = name.to_vec();
                inside.push(output);
            }
            _ => {}
        }
    }
    if is_folder || !inside.is_empty() {
        return Some(OutputAt::Folder(inside));
    }
    let kind = match path {
        b"stdout" => OutputKind::Stdout,
        b"stderr" => OutputKind::Stderr,
        _ => return None,
    };
    let content = OutputContent::Packed(Vec::new());
    Some(OutputAt::One(Output { kind, name: Vec::new(), mode: 0, is_cut: false, content }))
}

/// What tasks wrote, task by task.
pub struct Outputs<'a> {
    sections: Sections<'a>,
    ready: VecDeque<TaskOutputs>,
}

impl Outputs<'_> {
    /// The next task that wrote something; `None` where there are no more at present.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn next_task(&mut self) -> Result<Option<TaskOutputs>, ClientError> {
        loop {
            if let Some(task) = self.ready.pop_front() {
                return Ok(Some(task));
            }
            match self.sections.next_section()? {
                Some(section) => self.ready.extend(section.outputs()?),
                None => return Ok(None),
            }
        }
    }
}

/// What counts of a section: of each task that does the outputs of its last attempt.
pub(crate) fn accepted(section: &Section<'_>, counts: impl Fn(u64) -> bool) -> Vec<TaskOutputs> {
    let mut found: Vec<TaskOutputs> = Vec::new();
    for output in section.outputs() {
        let task = output.task.0;
        if !counts(task) {
            continue;
        }
        // Each attempt with an outcome has an entry, also one that wrote nothing.
        let behind = section.entries.partition_point(|entry| entry.task_index <= task);
        let entry = behind.checked_sub(1).and_then(|at| section.entries.get(at));
        if entry.is_none_or(|it| (it.task_index, it.attempt) != (task, output.attempt)) {
            continue;
        }
        match found.last_mut().filter(|last| last.task_index == task) {
            Some(last) => last.outputs.push(owned_output(&output)),
            None => found.push(TaskOutputs {
                task_index: task,
                attempt: output.attempt,
                outputs: vec![owned_output(&output)],
            }),
        }
    }
    found
}

/// An output of a segment as a value of its own.
#[must_use]
pub fn owned_output(output: &OutputRef<'_>) -> Output {
    let content = match output.content {
        Ok(bytes) => OutputContent::Packed(bytes.to_vec()),
        Err(file) => OutputContent::File { file, length: output.length },
    };
    let (kind, mode, is_cut) = (output.kind, output.mode, output.is_cut);
    Output { kind, name: output.name.to_vec(), mode, is_cut, content }
}

#[cfg(test)]
mod tests {
    use proto::segment::{AccountingEntry, NewSection, Segment, encode};

    use super::*;

    fn output(kind: OutputKind, name: &str, text: &str) -> Output {
        let content = OutputContent::Packed(text.as_bytes().to_vec());
        Output { kind, name: name.as_bytes().to_vec(), mode: 0o644, is_cut: false, content }
    }

    fn entry(task_index: u64, attempt: u64) -> AccountingEntry {
        AccountingEntry { task_index, attempt, ..AccountingEntry::default() }
    }

    fn printed(task_index: u64, attempt: u64, text: &str) -> TaskOutputs {
        let outputs = vec![output(OutputKind::Stdout, "", text)];
        TaskOutputs { task_index, attempt, outputs }
    }

    #[test]
    fn only_the_last_attempt_of_accepted_tasks_counts() {
        let entries =
            [entry(1, 5), entry(2, 5), entry(2, 6), entry(3, 4), entry(3, 7), entry(9, 1)];
        let outputs = [
            printed(1, 5, "one"),
            printed(2, 5, "two, first"),
            printed(2, 6, "two, second"),
            // Its last attempt printed nothing.
            printed(3, 4, "three, first"),
            printed(9, 1, "nine"),
        ];
        let job = JobId(1);
        let bytes = encode(&[NewSection { job, entries: &entries, outputs: &outputs }]);
        let segment = Segment::open(&bytes).unwrap();
        let section = &segment.sections()[0];
        let all = accepted(section, |task| task != 5);
        assert_eq!(all, [outputs[0].clone(), outputs[2].clone(), outputs[4].clone()]);
        assert_eq!(accepted(section, |task| (2..9).contains(&task)), [outputs[2].clone()]);
        assert!(accepted(section, |_| false).is_empty());
    }

    #[test]
    fn a_path_leads_to_one_output_or_to_a_folder() {
        let outputs = || {
            vec![
                output(OutputKind::Stdout, "", "text"),
                output(OutputKind::File, "a", "1"),
                output(OutputKind::File, "b/c", "2"),
                output(OutputKind::Folder, "b/d", ""),
                output(OutputKind::File, "bc", "3"),
            ]
        };
        let one = |name: &str| match at(outputs(), name.as_bytes()) {
            Some(OutputAt::One(output)) => output,
            other => panic!("{other:?}"),
        };
        assert_eq!(one("stdout").content, OutputContent::Packed(b"text".to_vec()));
        assert_eq!(output_length(&one("stderr")), 0);
        assert_eq!(one("b/c").content, OutputContent::Packed(b"2".to_vec()));
        let folder = |name: &str| match at(outputs(), name.as_bytes()) {
            Some(OutputAt::Folder(inside)) => inside,
            other => panic!("{other:?}"),
        };
        assert_eq!(folder(""), outputs());
        let inside = folder("b");
        assert_eq!(inside.iter().map(output_path).collect::<Vec<_>>(), [b"c", b"d"]);
        assert!(folder("b/d").is_empty());
        for absent in ["x", "a/b", "b/c/d", "b/", "std"] {
            assert_eq!(at(outputs(), absent.as_bytes()), None, "{absent}");
        }
    }
}
