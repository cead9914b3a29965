//! The masters' feed of a group: what was pulled, what is pulled next.
//!
//! One pull is always outstanding; the masters park it until there is something new. It
//! acknowledges everything before it. A batch that answers no pull of ours, or repeats what is
//! known, changes nothing.

use proto::description::{DEFAULT_CPU_MILLI, JobDescription};
use proto::ids::{Epoch, Incarnation, JobId, LogIndex, RequestId};
use proto::messages::job::JobSubmit;
use proto::messages::node::{FeedBatch, FeedItem, FeedPull};
use proto::record::{Records, encode, set_request_id};
use proto::time::{Duration, Instant};

use super::plan::Needs;
use super::tasks::{Granted, GrantedJob, Tasks};

/// How long a pull may stay unanswered after the leader told that there is something to pull.
const OVERDUE: Duration = Duration::from_millis(1_000);

/// The pull that is under way.
#[derive(Clone, Copy, Debug)]
struct Pull {
    request: RequestId,
    sent_at: Instant,
}

/// How far the feed has been read.
#[derive(Clone, Debug, Default)]
pub(super) struct Feed {
    /// Everything up to here is known.
    after: LogIndex,
    /// Where a complete feed goes on.
    resume: Option<(JobId, u64)>,
    /// What the pages of the complete feed that is being read contain for certain: the oldest
    /// state of any, because they may come from several masters.
    complete_to: LogIndex,
    /// A complete feed was read to its end.
    is_ready: bool,
    under_way: Option<Pull>,
    /// The next pull waits until then.
    due: Instant,
}

impl Feed {
    /// True once everything that was granted up to `index` is known.
    pub(super) fn reaches(&self, index: LogIndex) -> bool {
        self.is_ready && self.after >= index
    }

    /// True where no complete feed is being read.
    pub(super) fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// Everything up to here is known, but for what a complete feed that is being read still brings.
    pub(super) fn after(&self) -> LogIndex {
        self.after
    }

    /// The pull under way will not be answered.
    pub(super) fn disconnected(&mut self) {
        self.under_way = None;
        self.due = Instant(0);
    }

    /// The masters refused the pull; it is repeated then.
    pub(super) fn refused(&mut self, again_at: Instant) {
        self.under_way = None;
        self.due = again_at;
    }

    /// True where this is the request of the pull under way.
    pub(super) fn is_pulled_by(&self, request: RequestId) -> bool {
        self.under_way.is_some_and(|pull| pull.request == request)
    }

    /// The leader says how far the feed goes: a pull that should have been answered was lost.
    pub(super) fn goes_to(&mut self, now: Instant, index: LogIndex) {
        if index > self.after && self.under_way.is_some_and(|pull| now >= pull.sent_at + OVERDUE) {
            self.under_way = None;
        }
    }

    /// True where a batch begins a complete feed: what was known before is void.
    pub(super) fn begins_anew(&self, batch: &FeedBatch) -> bool {
        batch.is_complete == 1 && self.resume.is_none()
    }

    /// True where an item of the batch is news.
    pub(super) fn is_new(&self, batch: &FeedBatch, item: &FeedItem) -> bool {
        batch.is_complete == 1 || LogIndex(item.index) > self.after
    }

    /// Takes note of a batch whose items were taken in.
    pub(super) fn advance(&mut self, batch: &FeedBatch) {
        self.under_way = None;
        let up_to = LogIndex(batch.up_to_index);
        if batch.is_complete == 0 {
            self.after = self.after.max(up_to);
            return;
        }
        self.complete_to = if self.resume.is_some() { self.complete_to.min(up_to) } else { up_to };
        let next: JobId = batch.next_job_uuid.into();
        self.resume = (!next.is_nil()).then_some((next, batch.next_task));
        self.is_ready = self.resume.is_none();
        if self.is_ready {
            // What changed while the pages were read comes again, and changes nothing twice.
            self.after = self.complete_to;
        }
    }

    /// When the next pull is to be sent.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.under_way.is_none().then_some(self.due)
    }

    /// Asks for what follows, unless that was asked already.
    pub(super) fn pull(
        &mut self,
        now: Instant,
        group: u64,
        incarnation: Incarnation,
        request: RequestId,
    ) -> Option<Vec<u8>> {
        if self.under_way.is_some() || now < self.due {
            return None;
        }
        self.under_way = Some(Pull { request, sent_at: now });
        let (job, task) = self.resume.unwrap_or_default();
        let pull = FeedPull {
            group,
            incarnation: incarnation.0,
            // A page of a complete feed goes on with it, whatever was known before it began.
            after_index: if self.resume.is_some() { 0 } else { self.after.0 },
            resume_job_uuid: job.to_wire(),
            resume_task: task,
            ..FeedPull::default()
        };
        let mut record = encode(&pull, &[]);
        set_request_id(&mut record, request);
        Some(record)
    }
}

/// Takes a granted range into the tasks. One that cannot be read is passed over: the masters
/// checked the job when they accepted it.
pub(super) fn take_grant(item: &FeedItem, how: Granted, jobs: &[u8], tasks: &mut Tasks) {
    let offset = usize::try_from(item.job_offset).unwrap_or(usize::MAX);
    let Some(records) = jobs.get(offset..) else {
        return;
    };
    let Some(Ok(record)) = Records::of(records).next() else {
        return;
    };
    let Ok((submit, [_, _, description])) = record.open::<JobSubmit, 3>() else {
        return;
    };
    // A job in the given form has no description; what cannot be read is the worker's to refuse.
    let needs = match JobDescription::decode(description) {
        Ok(description) => Needs {
            cpu_milli: u64::from(description.cpu_milli),
            memory_bytes: description.memory_bytes,
        },
        Err(_) => Needs { cpu_milli: u64::from(DEFAULT_CPU_MILLI), memory_bytes: 0 },
    };
    let granted = GrantedJob {
        job: item.job_uuid.into(),
        record: &records[..record.length()],
        task_count: submit.task_count,
        priority: item.priority,
        is_held: item.is_held == 1,
        needs,
        move_number: Epoch(item.move_number),
    };
    let range = item.first_task..item.first_task.saturating_add(item.task_count);
    tasks.grant(&granted, &range, LogIndex(item.index), how);
}
