//! The masters' feed of a group: what was pulled, what is pulled next.
//!
//! One pull is always outstanding; the masters park it until there is something new. It
//! acknowledges everything before it.

use node::logic::network::NetworkEffect;
use node::logic::rotation::Rotation;
use proto::description::JobDescription;
use proto::ids::{Incarnation, JobId, LogIndex};
use proto::messages::job::JobSubmit;
use proto::messages::node::{FeedBatch, FeedItem, FeedPull};
use proto::record::{Records, encode};
use proto::status::FeedKind;

use super::plan::Needs;
use super::tasks::{GrantedJob, Tasks};

/// How far the feed has been read.
#[derive(Clone, Debug, Default)]
pub(super) struct Feed {
    /// Everything up to here is known.
    after: LogIndex,
    /// Where a complete feed goes on.
    resume: Option<(JobId, u64)>,
    /// Index of the first batch of the complete feed that is being read.
    complete_from: LogIndex,
    /// A complete feed was read to its end.
    is_ready: bool,
    is_pull_outstanding: bool,
}

impl Feed {
    /// True once everything granted is known, up to what is on its way.
    pub(super) fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// The pull under way will not be answered.
    pub(super) fn disconnected(&mut self) {
        self.is_pull_outstanding = false;
    }

    /// True where a batch begins a complete feed: what was known before is void.
    pub(super) fn begins_anew(&self, batch: &FeedBatch) -> bool {
        batch.is_complete == 1 && self.resume.is_none()
    }

    /// Takes note of a batch whose items were taken in.
    pub(super) fn advance(&mut self, batch: &FeedBatch) {
        self.is_pull_outstanding = false;
        if batch.is_complete == 0 {
            self.after = self.after.max(LogIndex(batch.up_to_index));
            return;
        }
        if self.resume.is_none() {
            self.complete_from = LogIndex(batch.up_to_index);
        }
        let next: JobId = batch.next_job_uuid.into();
        self.resume = (!next.is_nil()).then_some((next, batch.next_task));
        self.is_ready = self.resume.is_none();
        if self.is_ready {
            // What changed while the pages were read comes again, and changes nothing twice.
            self.after = self.complete_from;
        }
    }

    /// Asks for what follows, unless that was asked already.
    pub(super) fn pull(
        &mut self,
        group: u64,
        incarnation: Incarnation,
        masters: &Rotation,
        effects: &mut Vec<NetworkEffect>,
    ) {
        if self.is_pull_outstanding || !masters.is_connected() {
            return;
        }
        self.is_pull_outstanding = true;
        let (job, task) = self.resume.unwrap_or_default();
        let pull = FeedPull {
            group,
            incarnation: incarnation.0,
            after_index: self.after.0,
            resume_job_uuid: job.to_wire(),
            resume_task: task,
            ..FeedPull::default()
        };
        masters.send(encode(&pull, &[]), effects);
    }
}

/// Takes one item into the tasks. One that cannot be read is passed over: the masters checked the
/// job when they accepted it.
pub(super) fn take_in(item: &FeedItem, jobs: &[u8], tasks: &mut Tasks) {
    let job: JobId = item.job_uuid.into();
    match FeedKind::from_wire(item.kind) {
        Some(FeedKind::Grant) => {
            let offset = usize::try_from(item.job_offset).unwrap_or(usize::MAX);
            let Some(records) = jobs.get(offset..) else {
                return;
            };
            let Some(Ok(record)) = Records::of(records).next() else {
                return;
            };
            let Ok((_, [_, _, description])) = record.open::<JobSubmit, 3>() else {
                return;
            };
            let Ok(description) = JobDescription::decode(description) else {
                return;
            };
            let needs = Needs {
                cpu_milli: u64::from(description.cpu_milli),
                memory_bytes: description.memory_bytes,
            };
            let granted = GrantedJob {
                job,
                record: &records[..record.length()],
                priority: item.priority,
                needs,
            };
            let range = item.first_task..item.first_task.saturating_add(item.task_count);
            tasks.grant(&granted, &range, LogIndex(item.index));
        }
        Some(FeedKind::JobEnded) => tasks.end_job(job),
        None => {}
    }
}
