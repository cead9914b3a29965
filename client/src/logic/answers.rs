//! What the masters answer, as ordinary Rust values.
//!
//! Responsible for checking every length, count and value of what comes back before anybody uses
//! it, and for putting the records of a listing together. What is asked is [`super::jobs`]'
//! matter, when it is asked again [`super::session`]'s.

#[cfg(test)]
#[path = "answers_tests.rs"]
mod tests;

use std::fmt;
use std::ops::Range;

use proto::description::JobDescription;
use proto::ids::{FileId, Incarnation, JobId, LogIndex, NodeId, RingVersion};
use proto::limits;
use proto::messages::job::{
    JobAccepted, JobDescribed, JobStatus, ListEnd, SegmentFolded, SegmentList, SegmentRange,
    TaskOutcome, TaskOutcomes,
};
use proto::messages::keyspace::{KeyEntry, KeyResult};
use proto::messages::node::{NodeEntry, NodeForgotten, RingChanged};
use proto::record::{Message, Record, RecordError};
use proto::status::{Cause, JobState, ProgramKind, Role, TaskState};
use proto::time::Duration;
use proto::wire::{WireUuid, items_of};

use super::explain::{self, read_reply};
use super::jobs::{JobSelector, Request};
use super::rings::{RingAnswer, RingStanding, read_ring, read_ring_status};

/// Records of one listing; a master sends far fewer at a time.
const LISTED_RECORDS: usize = 100_000;

/// A job's state at one log index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSummary {
    /// The job.
    pub job: JobId,
    /// For people; not unique, may be empty.
    pub name: String,
    /// Its state.
    pub state: JobState,
    /// Log index of the state that this is read from.
    pub index: LogIndex,
    /// Number of tasks.
    pub task_count: u64,
    /// Tasks that ended with exit code 0.
    pub done_count: u64,
    /// Tasks that ended otherwise, for good.
    pub failed_count: u64,
    /// Tasks that workers hold, as far as the balancers told.
    pub running_count: u64,
    /// Attempts that were lost and are not counted against the tasks.
    pub lost_attempts: u64,
    /// Log time of the submission.
    pub submitted: Duration,
    /// How long ago that was, as far as the master could tell: time without a leading master is
    /// not counted.
    pub age: Duration,
    /// Log time of the last outcome; `None` while it is not final.
    pub finished: Option<Duration>,
    /// The lowest exit code that is not 0 of a failed task; 0 where none failed.
    pub exit_code: i32,
    /// Segments that are listed for the job.
    pub segment_count: u64,
    /// Higher is dealt first.
    pub priority: i32,
    /// None of its tasks is dealt until it is released.
    pub is_held: bool,
    /// Attempts that took their worker with them.
    pub crashed_attempts: u64,
    /// The job whose failed tasks this one tries again.
    pub retry_of: Option<JobId>,
    /// Who submitted it, as that client said.
    pub owner: String,
}

/// What a job is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedJob {
    /// The job.
    pub job: JobId,
    /// Log index of the state that this is read from.
    pub index: LogIndex,
    /// Number of tasks.
    pub task_count: u64,
    /// What `program` is.
    pub program_kind: ProgramKind,
    /// The script or executable that travelled along; empty where the description names one.
    pub program: Vec<u8>,
    /// The input files that the submission listed; of one given by name, what it pointed to then.
    pub input_files: Vec<FileId>,
    /// Everything else, validated, without names. A long one is a file, which its runtime names.
    pub description: JobDescription,
}

/// Consecutive tasks with the same outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutcomeRun {
    /// The tasks.
    pub tasks: Range<u64>,
    /// What became of them.
    pub state: TaskState,
    /// Why.
    pub cause: Cause,
    /// Exit code, minus the signal's number where one ended it.
    pub exit_code: i32,
    /// Attempts of each that ended before the one that has the outcome, or at all where none has.
    pub earlier_attempts: u32,
}

/// Consecutive tasks whose recorded result is in one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentTasks {
    /// The segment, a file on storage.
    pub segment: FileId,
    /// The tasks.
    pub tasks: Range<u64>,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSummary {
    /// The node.
    pub node: NodeId,
    /// Its tier.
    pub role: Role,
    /// How often its data folder was started.
    pub incarnation: Incarnation,
    /// True for the leading master and for a primary balancer.
    pub leads: bool,
    /// Balancer group of a worker or balancer; member number of a master.
    pub group: u64,
    /// Slots of a worker.
    pub slot_count: u32,
    /// Log index of its registration.
    pub index: LogIndex,
    /// Where others reach it.
    pub address: String,
    /// Where its PUB socket is bound.
    pub telemetry_address: String,
    /// Its failure zone.
    pub zone: String,
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
    /// Log index of its last change.
    pub version: LogIndex,
}

/// What the masters answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The job is committed.
    Accepted {
        /// The job.
        job: JobId,
        /// Log index of its entry.
        index: LogIndex,
    },
    /// A job's state (also the answer to a cancellation or another change).
    Job(JobSummary),
    /// What a job is.
    Description(Box<DescribedJob>),
    /// Why tasks are where they are, as far as the masters know.
    Explained(explain::Reply),
    /// Jobs, newest first.
    Jobs {
        /// The jobs.
        jobs: Vec<JobSummary>,
        /// `before` of the next page; `None` where this was all.
        next: Option<LogIndex>,
    },
    /// Outcomes in the order of the tasks, without gap.
    Outcomes {
        /// The runs.
        runs: Vec<OutcomeRun>,
        /// `first_task` of the next page; `None` where this was all.
        next: Option<u64>,
    },
    /// Segments.
    Segments {
        /// The ranges accepted from each.
        ranges: Vec<SegmentTasks>,
        /// `after` of the next page; `None` where this was all.
        next: Option<u64>,
    },
    /// What became of a fold.
    Folded {
        /// True where the new segment is listed instead of the old ones.
        is_listed: bool,
        /// Log index of the entry.
        index: LogIndex,
    },
    /// The nodes of the cluster.
    Nodes(Vec<NodeSummary>),
    /// A node is no longer in the roster.
    NodeForgotten {
        /// Log index of the entry.
        index: LogIndex,
    },
    /// What became of a transaction.
    Transaction {
        /// True where the conditions held and the writes are committed.
        is_applied: bool,
        /// Log index of the entry.
        index: LogIndex,
    },
    /// Keys in order.
    Keys {
        /// The keys.
        keys: Vec<KeyValue>,
        /// True where more keys follow behind the last of these.
        is_more: bool,
    },
    /// The ring.
    Ring(RingAnswer),
    /// A change of the ring is in the log.
    RingChanged {
        /// Version of the ring after it.
        version: RingVersion,
        /// Log index of the entry.
        index: LogIndex,
    },
    /// How the ring stands.
    RingStatus(RingStanding),
}

/// Why an answer is not usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadAnswer {
    /// It cannot be read, or is another message than the request asks for.
    Record(RecordError),
    /// A listing ended with another number of records than arrived: some were lost on the way.
    Incomplete,
}

impl fmt::Display for BadAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadAnswer::Record(error) => write!(f, "the answer cannot be read: {error}"),
            BadAnswer::Incomplete => f.write_str("records of the answer were lost on the way"),
        }
    }
}

impl std::error::Error for BadAnswer {}

impl From<RecordError> for BadAnswer {
    fn from(error: RecordError) -> BadAnswer {
        BadAnswer::Record(error)
    }
}

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Accepted(JobId),
    Job,
    Description(Option<JobId>),
    Explained,
    Jobs,
    Outcomes { job: JobId, first_task: u64 },
    Segments(JobId),
    Folded,
    Nodes,
    NodeForgotten,
    Transaction,
    Keys,
    Ring,
    RingChanged,
    RingStatus,
}

/// Puts the records of one answer together.
#[derive(Clone, Debug)]
pub struct AnswerReader {
    expected: Expected,
    jobs: Vec<JobSummary>,
    nodes: Vec<NodeSummary>,
    keys: Vec<KeyValue>,
}

impl AnswerReader {
    /// A reader for the answer to a request.
    #[must_use]
    pub fn of(request: &Request) -> AnswerReader {
        let expected = match request {
            Request::Submit(submission) => Expected::Accepted(submission.job),
            Request::Job { .. } | Request::Cancel(_) | Request::Change { .. } => Expected::Job,
            Request::Describe(JobSelector::Id(job)) => Expected::Description(Some(*job)),
            Request::Describe(JobSelector::Text(_)) => Expected::Description(None),
            Request::Explain { .. } => Expected::Explained,
            Request::Jobs { .. } => Expected::Jobs,
            Request::Outcomes { job, first_task, .. } => {
                Expected::Outcomes { job: *job, first_task: *first_task }
            }
            Request::Segments { job, .. } => Expected::Segments(*job),
            Request::Fold { .. } => Expected::Folded,
            Request::Nodes => Expected::Nodes,
            Request::ForgetNode { .. } => Expected::NodeForgotten,
            Request::Transaction { .. } => Expected::Transaction,
            Request::Keys { .. } => Expected::Keys,
            Request::Ring => Expected::Ring,
            Request::ChangeRing { .. } => Expected::RingChanged,
            Request::RingStatus => Expected::RingStatus,
        };
        AnswerReader { expected, jobs: Vec::new(), nodes: Vec::new(), keys: Vec::new() }
    }

    /// Forgets the records of a listing that arrived so far, because it is asked again.
    pub fn restart(&mut self) {
        self.jobs.clear();
        self.nodes.clear();
        self.keys.clear();
    }

    /// Takes the next record of the answer: the whole answer where it is the last one, with the
    /// log index of the state that it was read from (0 where it tells none).
    ///
    /// # Errors
    /// [`BadAnswer`]; the reader is then as [restarted](AnswerReader::restart).
    pub fn take(&mut self, record: &Record<'_>) -> Result<Option<(Answer, LogIndex)>, BadAnswer> {
        let taken = self.take_record(record);
        if taken.is_err() {
            self.restart();
        }
        taken
    }

    fn take_record(
        &mut self,
        record: &Record<'_>,
    ) -> Result<Option<(Answer, LogIndex)>, BadAnswer> {
        let whole = match self.expected {
            Expected::Accepted(job) => read_accepted(record, job)?,
            Expected::Job => {
                let job = read_job(record)?;
                let index = job.index;
                (Answer::Job(job), index)
            }
            Expected::Description(job) => read_description(record, job)?,
            Expected::Explained => {
                let reply = read_reply(record, Role::Master)?;
                let index = reply.index;
                (Answer::Explained(reply), index)
            }
            Expected::Outcomes { job, first_task } => read_outcomes(record, job, first_task)?,
            Expected::Segments(job) => read_segments(record, job)?,
            Expected::Folded => {
                let folded: SegmentFolded = record.read()?;
                let index = LogIndex(folded.index);
                (Answer::Folded { is_listed: folded.is_listed == 1, index }, index)
            }
            Expected::NodeForgotten => {
                let index = LogIndex(record.read::<NodeForgotten>()?.index);
                (Answer::NodeForgotten { index }, index)
            }
            Expected::Transaction => read_transaction(record)?,
            Expected::Ring => (Answer::Ring(read_ring(record)?), LogIndex(0)),
            Expected::RingChanged => {
                let changed: RingChanged = record.read()?;
                let (version, index) = (RingVersion(changed.ring_version), LogIndex(changed.index));
                (Answer::RingChanged { version, index }, index)
            }
            Expected::RingStatus => (Answer::RingStatus(read_ring_status(record)?), LogIndex(0)),
            Expected::Jobs | Expected::Nodes | Expected::Keys => return self.take_listed(record),
        };
        Ok(Some(whole))
    }

    fn take_listed(
        &mut self,
        record: &Record<'_>,
    ) -> Result<Option<(Answer, LogIndex)>, BadAnswer> {
        let count = self.jobs.len() + self.nodes.len() + self.keys.len();
        if record.message_type() == ListEnd::TYPE {
            let end: ListEnd = record.read()?;
            if end.count != count as u64 {
                return Err(BadAnswer::Incomplete);
            }
            let answer = match self.expected {
                Expected::Jobs => {
                    let next = Some(LogIndex(end.next)).filter(|next| next.0 != 0);
                    Answer::Jobs { jobs: std::mem::take(&mut self.jobs), next }
                }
                Expected::Nodes => Answer::Nodes(std::mem::take(&mut self.nodes)),
                _ => Answer::Keys { keys: std::mem::take(&mut self.keys), is_more: end.next != 0 },
            };
            return Ok(Some((answer, LogIndex(end.index))));
        }
        if count >= LISTED_RECORDS {
            let message_type = record.message_type();
            return Err(RecordError::TooLong { message_type, length: count as u64 }.into());
        }
        match self.expected {
            Expected::Jobs => self.jobs.push(read_job(record)?),
            Expected::Nodes => self.nodes.push(read_node(record)?),
            _ => self.keys.push(read_key(record)?),
        }
        Ok(None)
    }
}

pub(super) fn value<T: Message>(field: &'static str) -> RecordError {
    RecordError::Value { message_type: T::TYPE, field }
}

pub(super) fn text<T: Message>(bytes: &[u8], field: &'static str) -> Result<String, RecordError> {
    let text = std::str::from_utf8(bytes).map_err(|_| value::<T>(field))?;
    Ok(text.to_owned())
}

fn tasks<T: Message>(first: u64, count: u64) -> Result<Range<u64>, RecordError> {
    match first.checked_add(count) {
        Some(end) if count > 0 => Ok(first..end),
        _ => Err(value::<T>("task_count")),
    }
}

fn read_accepted(record: &Record<'_>, job: JobId) -> Result<(Answer, LogIndex), RecordError> {
    let accepted: JobAccepted = record.read()?;
    if JobId::from(accepted.job_uuid) != job {
        return Err(value::<JobAccepted>("job_uuid"));
    }
    let index = LogIndex(accepted.index);
    Ok((Answer::Accepted { job, index }, index))
}

fn read_job(record: &Record<'_>) -> Result<JobSummary, RecordError> {
    let (status, [name, owner]) = record.open::<JobStatus, 2>()?;
    let ended = status.done_count.checked_add(status.failed_count);
    if ended.is_none_or(|ended| ended > status.task_count) {
        return Err(value::<JobStatus>("task_count"));
    }
    Ok(JobSummary {
        job: status.job_uuid.into(),
        name: text::<JobStatus>(name, "name")?,
        state: JobState::from_wire(status.state).ok_or(value::<JobStatus>("state"))?,
        index: LogIndex(status.index),
        task_count: status.task_count,
        done_count: status.done_count,
        failed_count: status.failed_count,
        running_count: status.running_count,
        lost_attempts: status.lost_attempts,
        submitted: Duration(status.submitted_us),
        age: Duration(status.age_us),
        finished: Some(Duration(status.finished_us)).filter(|it| *it != Duration::ZERO),
        exit_code: status.exit_code,
        segment_count: status.segment_count,
        priority: status.priority,
        is_held: status.is_held == 1,
        crashed_attempts: status.crashed_attempts,
        retry_of: Some(JobId::from(status.retry_of_uuid)).filter(|job| !job.is_nil()),
        owner: text::<JobStatus>(owner, "owner")?,
    })
}

fn read_description(
    record: &Record<'_>,
    asked: Option<JobId>,
) -> Result<(Answer, LogIndex), RecordError> {
    let (described, [program, files, description]) = record.open::<JobDescribed, 3>()?;
    let wrong = value::<JobDescribed>;
    let job = JobId::from(described.job_uuid);
    if asked.is_some_and(|asked| asked != job) {
        return Err(wrong("job_uuid"));
    }
    if !(1..=limits::TASKS_PER_JOB).contains(&{ described.task_count }) {
        return Err(wrong("task_count"));
    }
    let files = items_of::<WireUuid>(files).ok_or(wrong("input_files"))?;
    let description = JobDescription::decode(description).map_err(|_| wrong("description"))?;
    // Whoever shows its inputs relies on their paths staying inside a folder.
    description.validate().map_err(|_| wrong("description"))?;
    let index = LogIndex(described.index);
    let described = DescribedJob {
        job,
        index,
        task_count: described.task_count,
        program_kind: ProgramKind::from_wire(described.program_kind)
            .ok_or(wrong("program_kind"))?,
        program: program.to_vec(),
        input_files: files.iter().map(|&file| file.into()).collect(),
        description,
    };
    Ok((Answer::Description(Box::new(described)), index))
}

fn read_outcomes(
    record: &Record<'_>,
    job: JobId,
    first_task: u64,
) -> Result<(Answer, LogIndex), RecordError> {
    let (page, [outcomes]) = record.open::<TaskOutcomes, 1>()?;
    let wrong = value::<TaskOutcomes>;
    if JobId::from(page.job_uuid) != job {
        return Err(wrong("job_uuid"));
    }
    let mut runs = Vec::new();
    let mut expected = first_task;
    for item in items_of::<TaskOutcome>(outcomes).ok_or(wrong("outcomes"))? {
        let tasks = tasks::<TaskOutcomes>(item.first_task, item.task_count)?;
        if tasks.start != expected {
            return Err(wrong("first_task"));
        }
        expected = tasks.end;
        runs.push(OutcomeRun {
            tasks,
            state: TaskState::from_wire(item.state).ok_or(wrong("state"))?,
            cause: Cause::from_wire(item.cause).ok_or(wrong("cause"))?,
            exit_code: item.exit_code,
            earlier_attempts: item.earlier_attempts,
        });
    }
    // A page that leads back to itself would be asked for ever.
    let next = Some(page.next_task).filter(|next| *next != 0);
    if next.is_some_and(|next| next <= first_task) {
        return Err(wrong("next_task"));
    }
    Ok((Answer::Outcomes { runs, next }, LogIndex(page.index)))
}

fn read_segments(record: &Record<'_>, job: JobId) -> Result<(Answer, LogIndex), RecordError> {
    let (page, [items]) = record.open::<SegmentList, 1>()?;
    let wrong = value::<SegmentList>;
    if JobId::from(page.job_uuid) != job {
        return Err(wrong("job_uuid"));
    }
    let mut ranges = Vec::new();
    for item in items_of::<SegmentRange>(items).ok_or(wrong("ranges"))? {
        let tasks = tasks::<SegmentList>(item.first_task, item.task_count)?;
        ranges.push(SegmentTasks { segment: item.segment_uuid.into(), tasks });
    }
    let next = Some(page.next).filter(|next| *next != 0);
    Ok((Answer::Segments { ranges, next }, LogIndex(page.index)))
}

fn read_transaction(record: &Record<'_>) -> Result<(Answer, LogIndex), RecordError> {
    let result: KeyResult = record.read()?;
    let is_applied = match result.is_applied {
        0 => false,
        1 => true,
        _ => return Err(value::<KeyResult>("is_applied")),
    };
    let index = LogIndex(result.index);
    Ok((Answer::Transaction { is_applied, index }, index))
}

fn read_node(record: &Record<'_>) -> Result<NodeSummary, RecordError> {
    let (entry, [address, telemetry_address, zone]) = record.open::<NodeEntry, 3>()?;
    Ok(NodeSummary {
        node: entry.entry_uuid.into(),
        role: Role::from_wire(entry.role).ok_or(value::<NodeEntry>("role"))?,
        incarnation: Incarnation(entry.incarnation),
        leads: entry.leads != 0,
        group: entry.group,
        slot_count: entry.slot_count,
        index: LogIndex(entry.index),
        address: text::<NodeEntry>(address, "address")?,
        telemetry_address: text::<NodeEntry>(telemetry_address, "telemetry_address")?,
        zone: text::<NodeEntry>(zone, "zone")?,
    })
}

fn read_key(record: &Record<'_>) -> Result<KeyValue, RecordError> {
    let (entry, [key, value]) = record.open::<KeyEntry, 2>()?;
    let version = LogIndex(entry.version);
    Ok(KeyValue { key: key.to_vec(), value: value.to_vec(), version })
}
