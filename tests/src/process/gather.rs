//! Reads back what a finished job's tasks wrote, and compares all of it with what the job's seed
//! says.

use std::collections::BTreeMap;
use std::ops::Range;

use ::client::logic::client::Client;
use ::client::logic::transfer::{GetId, Output, TransferError};
use node::logic::network::NetworkEffect;
use proto::ids::{FileId, TaskIndex};
use proto::segment::Segment;
use proto::status::OutputKind;
use proto::time::{Duration, Instant};

use super::jobs::JobPlan;
use super::{Note, Request};
use crate::checkers::{Violation, check};
use crate::report::Happening;

/// How long to wait after a failure.
const REST: Duration = Duration::from_millis(500);

/// Segments that are read at a time.
const AT_ONCE: usize = 4;

/// How long a segment may stay unreadable when all is mended.
const PATIENCE: Duration = Duration::from_secs(60);

/// A promise about what tasks wrote.
const PROMISE: &str = "invariant 7: what tasks wrote is there once they are finished";

/// How far a finished job's results are read.
pub(super) struct Gather {
    plan: JobPlan,
    /// Whether every task of it has its outcome.
    is_whole: bool,
    /// The next page of the list of segments; `None` where all are listed.
    page: Option<u64>,
    /// Tasks accepted from each segment that is not read.
    wanted: BTreeMap<FileId, Vec<Range<u64>>>,
    readings: BTreeMap<GetId, (FileId, Vec<u8>)>,
    /// Tasks whose results were found, or lost with a single disk.
    seen: Vec<bool>,
    rest_until: Instant,
}

impl Gather {
    pub(super) fn new(plan: JobPlan, is_whole: bool) -> Gather {
        let seen = vec![false; plan.task_count as usize];
        let (wanted, readings) = (BTreeMap::new(), BTreeMap::new());
        Gather { plan, is_whole, page: Some(0), wanted, readings, seen, rest_until: Instant(0) }
    }

    /// The page of the job's segments to ask for.
    pub(super) fn next_page(&self) -> Option<u64> {
        self.page
    }

    /// Where a list of the job's segments goes on, and the tasks accepted from each.
    pub(super) fn listed(
        &mut self,
        ranges: impl Iterator<Item = (FileId, Range<u64>)>,
        next: Option<u64>,
    ) -> Result<(), Violation> {
        for (file, tasks) in ranges {
            self.wanted.entry(file).or_default().push(tasks);
        }
        self.page = next;
        if self.is_done() { self.complete() } else { Ok(()) }
    }

    pub(super) fn is_done(&self) -> bool {
        self.page.is_none() && self.wanted.is_empty()
    }

    /// When to call [`Gather::read`] if nothing else happens.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let is_waiting = self.readings.is_empty() && !self.wanted.is_empty();
        is_waiting.then_some(self.rest_until)
    }

    /// Begins to read what is listed, a few segments at a time.
    pub(super) fn read(
        &mut self,
        now: Instant,
        client: &mut Client,
        effects: &mut Vec<NetworkEffect>,
    ) {
        if now < self.rest_until {
            return;
        }
        for &file in self.wanted.keys() {
            if self.readings.len() >= AT_ONCE {
                break;
            }
            if self.readings.values().any(|(reading, _)| *reading == file) {
                continue;
            }
            let transfer = client.transfer_mut();
            let get = transfer.get_file(now, file, 0..u64::MAX, None, effects);
            self.readings.insert(get.expect("a client has few transfers"), (file, Vec::new()));
        }
    }

    /// Takes what a transfer brought. `mended` is since when nothing goes wrong any more.
    pub(super) fn transferred(
        &mut self,
        now: Instant,
        mended: Option<Instant>,
        output: &Output,
        requests: &mut Vec<Request>,
    ) {
        match output {
            Output::Piece { get, offset, content } => {
                let Some((_, bytes)) = self.readings.get_mut(get) else { return };
                let begin = usize::try_from(*offset).expect("a segment is short");
                bytes.resize(bytes.len().max(begin + content.len()), 0);
                bytes[begin..begin + content.len()].copy_from_slice(content);
            }
            Output::Fetched { get, result } => {
                let Some((file, bytes)) = self.readings.remove(get) else { return };
                let Some(tasks) = self.wanted.remove(&file) else { return };
                match result {
                    Ok(_) => {
                        if let Err(broken) = self.compare(file, &bytes, &tasks) {
                            requests.push(Request::Note(Note::Broken(broken)));
                        }
                        let count: u64 = tasks.iter().map(|tasks| tasks.end - tasks.start).sum();
                        requests.push(Request::Note(Note::Count(Happening::Results, count)));
                    }
                    Err(error) => {
                        let since = mended.map_or(Duration::ZERO, |at| now.since(at));
                        if !matches!(error, TransferError::NotFound { .. }) && since <= PATIENCE {
                            self.wanted.insert(file, tasks);
                            self.rest_until = now + REST;
                            return;
                        }
                        let why = error.to_string();
                        requests.push(Request::Note(Note::Unreadable { file, why }));
                        for task in tasks.into_iter().flatten() {
                            self.seen[task as usize] = true;
                        }
                    }
                }
                if self.is_done()
                    && let Err(broken) = self.complete()
                {
                    requests.push(Request::Note(Note::Broken(broken)));
                }
            }
            _ => {}
        }
    }

    /// Compares what a segment has of the tasks that were accepted from it.
    fn compare(
        &mut self,
        file: FileId,
        bytes: &[u8],
        accepted: &[Range<u64>],
    ) -> Result<(), Violation> {
        let JobPlan { job, noop, .. } = self.plan;
        let wrong = |seen: String| Violation {
            promise: PROMISE,
            seen: format!("segment {file}, job {job}: {seen}"),
        };
        let segment = Segment::open(bytes).map_err(|error| wrong(error.to_string()))?;
        let sections: Vec<_> = segment.sections().iter().filter(|it| it.job == job).collect();
        for task in accepted.iter().cloned().flatten() {
            let entries = sections.iter().flat_map(|section| section.entries);
            if !entries.clone().any(|entry| entry.task_index == task) {
                return Err(wrong(format!("task {task} has no accounting")));
            }
            let printed = noop.printed(TaskIndex(task));
            let outputs = sections.iter().flat_map(|section| section.outputs_of(TaskIndex(task)));
            let outputs: Vec<_> = outputs.map(|output| (output.kind, output.content)).collect();
            let expected = (OutputKind::Stdout, Ok(&printed[..]));
            let is_same = outputs.iter().all(|output| *output == expected);
            if outputs.is_empty() != printed.is_empty() || !is_same {
                return Err(wrong(format!("task {task} wrote something else")));
            }
            self.seen[task as usize] = true;
        }
        Ok(())
    }

    /// Tasks that wrote something have a segment; a crash may cost accounting alone.
    fn complete(&self) -> Result<(), Violation> {
        let missing = self.seen.iter().position(|seen| !seen);
        let may_lack = !self.is_whole || self.plan.noop.output_bytes == 0;
        let is_complete = missing.is_none() || may_lack;
        check(is_complete, PROMISE, || {
            format!("job {}: nothing is left of task {missing:?}", self.plan.job)
        })
    }
}
