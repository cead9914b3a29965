//! What a client asks the masters, as ordinary Rust values.
//!
//! Responsible for encoding requests and for refusing what no master would take. Deliberately not
//! for sending, repeating or numbering ([`super::session`]) nor for what comes back
//! ([`super::answers`]).

use std::fmt;

use proto::description::{InputSource, JobDescription, Program, Runtime};
use proto::ids::{FileId, Incarnation, JobId, LogIndex, NodeId, TaskIndex};
use proto::limits;
use proto::messages::job::{
    JobCancel, JobChange, JobDescribe, JobList, JobQuery, JobSubmit, SegmentFold, SegmentQuery,
    TaskQuery,
};
use proto::messages::keyspace::{KeyCompare, KeyRange, KeyTransaction, KeyWrite};
use proto::messages::node::{NodeForget, NodeList, RingChange, RingQuery, RingStatusQuery};
use proto::record::encode;
use proto::status::{JobChangeKind, ProgramKind, RingAction};
use proto::wire::{WireUuid, bytes_of};

use super::explain::explain_query;

/// Longest selector of a job: a name, a UUID, or the beginning of one.
const SELECTOR_BYTES: usize = limits::NAME_BYTES;

/// A job as it is submitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// The job's UUID, chosen by the client so that submitting again is harmless.
    pub job: JobId,
    /// Number of tasks: 1 to 2^32.
    pub task_count: u64,
    /// The script or executable that travels along; empty where the description names one.
    pub program: Vec<u8>,
    /// What `program` is.
    pub program_kind: ProgramKind,
    /// Input files in the order of the description's inputs; nil for one that is given by name.
    pub inputs: Vec<FileId>,
    /// The encoded description; empty for the defaults.
    pub description: Vec<u8>,
    /// Pin under which the inputs were stored; 0 for none.
    pub pin: u128,
}

impl Submission {
    /// A submission of what a description says; `program` is the script that travels along where
    /// the description's program is [`Program::Inline`], else empty.
    ///
    /// # Errors
    /// [`NotSendable`] where the description cannot be encoded. Its meaning is checked by the
    /// masters.
    pub fn new(
        job: JobId,
        description: &JobDescription,
        task_count: u64,
        program: Vec<u8>,
    ) -> Result<Submission, NotSendable> {
        let is_inline =
            matches!(&description.runtime, Runtime::Command { program: Program::Inline, .. });
        let file = |source: &InputSource| match source {
            InputSource::File { file, .. } => *file,
            InputSource::Tree { tree, .. } => *tree,
            InputSource::Name(_) => FileId(0),
        };
        let inputs = description.inputs.iter().map(|input| file(&input.source)).collect();
        let encoded =
            description.encode().map_err(|_| NotSendable { what: "the job's description" })?;
        Ok(Submission {
            job,
            task_count,
            program,
            program_kind: if is_inline { ProgramKind::Inline } else { ProgramKind::Described },
            inputs,
            description: encoded,
            pin: 0,
        })
    }
}

/// Which job is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobSelector {
    /// By its UUID.
    Id(JobId),
    /// By its name, an unambiguous beginning of its UUID, or `last`.
    Text(String),
}

impl JobSelector {
    fn encode(&self) -> Result<(WireUuid, &str), NotSendable> {
        let (job_uuid, selector) = match self {
            JobSelector::Id(job) => (job.to_wire(), ""),
            JobSelector::Text(text) => (WireUuid::default(), text.as_str()),
        };
        if selector.len() > SELECTOR_BYTES || (job_uuid.value() == 0 && selector.is_empty()) {
            return Err(NotSendable { what: "the name of the job" });
        }
        Ok((job_uuid, selector))
    }
}

/// When a job's state is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// At once.
    Now,
    /// When the state is final; the request stays parked at the master until then.
    Final,
}

/// What is changed of a job after its submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// None of its tasks is dealt any more; those that run go on.
    Hold,
    /// Its tasks are dealt again.
    Release,
    /// Jobs of a higher priority are dealt first.
    Priority(i32),
    /// A job in a final state is no longer listed, and what it wrote no longer kept.
    Forget,
}

/// A condition of a transaction: the key's version, 0 where it must not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The key.
    pub key: Vec<u8>,
    /// Log index of its last change.
    pub version: LogIndex,
}

/// A write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The key.
    pub key: Vec<u8>,
    /// Its new value; `None` deletes it.
    pub value: Option<Vec<u8>>,
}

/// What is changed of the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingOrder {
    /// What is done.
    pub action: RingAction,
    /// The node; `None` for all, where the action is meant for all.
    pub node: Option<NodeId>,
    /// Its weight from now on; `None` for the one that it registered with.
    pub weight: Option<u32>,
    /// Its failure zone from now on; `None` for the one that it registered with.
    pub zone: Option<String>,
    /// Do it although a change is under way, or although the node that is removed answers.
    pub is_forced: bool,
}

impl RingOrder {
    /// An order for one node, or for all, with nothing special.
    #[must_use]
    pub fn new(action: RingAction, node: Option<NodeId>) -> RingOrder {
        RingOrder { action, node, weight: None, zone: None, is_forced: false }
    }
}

/// What a client asks the masters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Accept a job.
    Submit(Submission),
    /// Tell a job's state.
    Job {
        /// Which job.
        job: JobSelector,
        /// At once, or when it is final.
        until: Until,
    },
    /// Tell what a job is.
    Describe(JobSelector),
    /// Tell what the masters know of why tasks are where they are.
    Explain {
        /// The job.
        job: JobId,
        /// The task; `None` for the job as a whole.
        task: Option<TaskIndex>,
    },
    /// List jobs, newest first.
    Jobs {
        /// Only those submitted before this log index; 0 for the newest.
        before: LogIndex,
        /// At most this many.
        limit: u32,
    },
    /// Cancel a job.
    Cancel(JobId),
    /// Change how a job is treated from now on. Answered by its state then; to *forget*, by its
    /// last one.
    Change {
        /// The job.
        job: JobId,
        /// What is changed.
        change: Change,
    },
    /// Tell the outcomes of a job's tasks.
    Outcomes {
        /// The job.
        job: JobId,
        /// From this task on.
        first_task: u64,
        /// At most this many runs.
        limit: u32,
    },
    /// Tell the segments of a job.
    Segments {
        /// The job.
        job: JobId,
        /// Go on after this position; 0 for the first.
        after: u64,
        /// Only those that this fold replaces; 0 for all.
        fold: u64,
    },
    /// Replace segments by one that holds what was accepted from them.
    Fold {
        /// The job whose segments they are.
        job: JobId,
        /// Number of the fold.
        fold: u64,
        /// The new segment; nil where nothing was accepted.
        segment: FileId,
        /// How many of the fold's segments it holds, the first ones.
        segment_count: u64,
        /// The worker whose task it is, one of the roster.
        worker: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
    },
    /// List the nodes of the cluster.
    Nodes,
    /// Take a node that left for good out of the roster.
    ForgetNode {
        /// The node.
        node: NodeId,
        /// The incarnation that is gone.
        incarnation: Incarnation,
    },
    /// Write keys if all conditions hold.
    Transaction {
        /// The conditions.
        compares: Vec<Compare>,
        /// The writes.
        writes: Vec<Write>,
        /// Pin under which files named by the values were stored; 0 for none.
        pin: u128,
    },
    /// List keys in order.
    Keys {
        /// Those that begin so.
        prefix: Vec<u8>,
        /// Only behind this one; empty for the first.
        after: Vec<u8>,
        /// At most this many.
        limit: u32,
    },
    /// Tell the ring of storage nodes.
    Ring,
    /// Change the ring of storage nodes.
    ChangeRing(RingOrder),
    /// Tell how the ring stands.
    RingStatus,
}

/// A request that no master would take: a length or a count beyond its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotSendable {
    /// What of it.
    pub what: &'static str,
}

impl fmt::Display for NotSendable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is empty, too long or too large", self.what)
    }
}

impl std::error::Error for NotSendable {}

impl Request {
    /// True where the masters remember the reply under the request's number, so that a repetition
    /// has the effect of one.
    #[must_use]
    pub fn is_changing(&self) -> bool {
        matches!(
            self,
            Request::Submit(_)
                | Request::Cancel(_)
                | Request::Change { .. }
                | Request::Transaction { .. }
                | Request::Fold { .. }
                | Request::ForgetNode { .. }
                | Request::ChangeRing(_)
        )
    }

    /// True where asking a second time under another number is harmless: reading, and what names
    /// its job or node. A change of the ring that had its effect would be refused the second time.
    #[must_use]
    pub fn is_repeatable(&self) -> bool {
        !matches!(self, Request::Transaction { .. } | Request::ChangeRing(_))
    }

    /// True where the answer may take as long as a job does.
    #[must_use]
    pub fn is_parked(&self) -> bool {
        matches!(self, Request::Job { until: Until::Final, .. })
    }

    /// The record without its request id. `session` is the log index that opened the session,
    /// `seen` the highest that the client has seen.
    ///
    /// # Errors
    /// [`NotSendable`].
    pub fn encode(&self, session: LogIndex, seen: LogIndex) -> Result<Vec<u8>, NotSendable> {
        match self {
            Request::Submit(submission) => encode_submission(submission, session),
            Request::Job { job, until } => {
                let (job_uuid, selector) = job.encode()?;
                let until_final = u8::from(*until == Until::Final);
                let query =
                    JobQuery { job_uuid, seen_index: seen.0, until_final, ..Default::default() };
                Ok(encode(&query, &[selector.as_bytes()]))
            }
            Request::Describe(job) => {
                let (job_uuid, selector) = job.encode()?;
                let query = JobDescribe { job_uuid, seen_index: seen.0, ..Default::default() };
                Ok(encode(&query, &[selector.as_bytes()]))
            }
            Request::Explain { job, task } => Ok(explain_query(*job, *task, seen)),
            Request::Jobs { before, limit } => {
                let list = JobList {
                    before_index: before.0,
                    limit: *limit,
                    seen_index: seen.0,
                    ..Default::default()
                };
                Ok(encode(&list, &[]))
            }
            Request::Cancel(job) => {
                let cancel = JobCancel {
                    job_uuid: job.to_wire(),
                    session_index: session.0,
                    ..Default::default()
                };
                Ok(encode(&cancel, &[]))
            }
            Request::Change { job, change } => Ok(encode_change(*job, *change, session)),
            Request::Outcomes { job, first_task, limit } => {
                let query = TaskQuery {
                    job_uuid: job.to_wire(),
                    first_task: *first_task,
                    limit: *limit,
                    seen_index: seen.0,
                    ..Default::default()
                };
                Ok(encode(&query, &[]))
            }
            Request::Segments { job, after, fold } => {
                let query = SegmentQuery {
                    job_uuid: job.to_wire(),
                    after: *after,
                    // Whoever folds knows of it by a deal, not by an index that it has seen: a
                    // master that lags must not say that there is nothing to fold.
                    seen_index: if *fold == 0 { seen.0 } else { 0 },
                    fold: *fold,
                    ..Default::default()
                };
                Ok(encode(&query, &[]))
            }
            Request::Fold { job, fold, segment, segment_count, worker, incarnation } => {
                let fold = SegmentFold {
                    job_uuid: job.to_wire(),
                    fold: *fold,
                    session_index: session.0,
                    segment_uuid: segment.to_wire(),
                    segment_count: *segment_count,
                    worker_uuid: worker.to_wire(),
                    worker_incarnation: incarnation.0,
                    ..Default::default()
                };
                Ok(encode(&fold, &[]))
            }
            Request::ForgetNode { node, incarnation } => {
                let forget = NodeForget {
                    entry_uuid: node.to_wire(),
                    incarnation: incarnation.0,
                    session_index: session.0,
                    ..Default::default()
                };
                Ok(encode(&forget, &[]))
            }
            Request::Nodes => {
                Ok(encode(&NodeList { seen_index: seen.0, ..Default::default() }, &[]))
            }
            Request::Transaction { compares, writes, pin } => {
                encode_transaction(compares, writes, *pin, session)
            }
            Request::Keys { prefix, after, limit } => {
                if prefix.len().max(after.len()) > limits::JOB_RECORD_BYTES {
                    return Err(NotSendable { what: "the key" });
                }
                let range = KeyRange { limit: *limit, seen_index: seen.0, ..Default::default() };
                Ok(encode(&range, &[prefix, after]))
            }
            // The whole ring is wanted, whatever version is known.
            Request::Ring => Ok(encode(&RingQuery::default(), &[])),
            Request::ChangeRing(order) => encode_ring_order(order, session),
            Request::RingStatus => Ok(encode(&RingStatusQuery::default(), &[])),
        }
    }
}

fn encode_change(job: JobId, change: Change, session: LogIndex) -> Vec<u8> {
    let (kind, priority) = match change {
        Change::Hold => (JobChangeKind::Hold, 0),
        Change::Release => (JobChangeKind::Release, 0),
        Change::Priority(priority) => (JobChangeKind::Priority, priority),
        Change::Forget => (JobChangeKind::Forget, 0),
    };
    let change = JobChange {
        job_uuid: job.to_wire(),
        session_index: session.0,
        change: kind.to_wire(),
        priority,
        ..Default::default()
    };
    encode(&change, &[])
}

fn encode_ring_order(order: &RingOrder, session: LogIndex) -> Result<Vec<u8>, NotSendable> {
    let zone = order.zone.as_deref().unwrap_or_default();
    if zone.len() > limits::NAME_BYTES {
        return Err(NotSendable { what: "the zone" });
    }
    if order.weight == Some(0) {
        return Err(NotSendable { what: "the weight" });
    }
    let change = RingChange {
        action: order.action.to_wire(),
        node_uuid: order.node.unwrap_or_default().to_wire(),
        weight: order.weight.unwrap_or(0),
        is_forced: u8::from(order.is_forced),
        session_index: session.0,
        sets_zone: u8::from(order.zone.is_some()),
        ..Default::default()
    };
    Ok(encode(&change, &[zone.as_bytes()]))
}

fn encode_submission(it: &Submission, session: LogIndex) -> Result<Vec<u8>, NotSendable> {
    if !(1..=limits::TASKS_PER_JOB).contains(&it.task_count) {
        return Err(NotSendable { what: "the number of tasks" });
    }
    if it.inputs.len() > limits::INPUTS_PER_JOB {
        return Err(NotSendable { what: "the list of input files" });
    }
    if it.description.len() > limits::DESCRIPTION_BYTES {
        return Err(NotSendable { what: "the job's description" });
    }
    let submit = JobSubmit {
        job_uuid: it.job.to_wire(),
        session_index: session.0,
        pin_uuid: WireUuid::new(it.pin),
        task_count: it.task_count,
        program_kind: it.program_kind.to_wire(),
        ..Default::default()
    };
    let inputs: Vec<WireUuid> = it.inputs.iter().map(|file| file.to_wire()).collect();
    let parts: [&[u8]; 3] = [&it.program, bytes_of(&inputs), &it.description];
    let length: usize = parts.iter().map(|part| part.len()).sum();
    if length + size_of::<JobSubmit>() > limits::JOB_RECORD_BYTES {
        return Err(NotSendable { what: "the script of the job" });
    }
    Ok(encode(&submit, &parts))
}

fn encode_transaction(
    compares: &[Compare],
    writes: &[Write],
    pin: u128,
    session: LogIndex,
) -> Result<Vec<u8>, NotSendable> {
    let mut bytes = Vec::new();
    let mut conditions = Vec::with_capacity(compares.len());
    for compare in compares {
        bytes.extend_from_slice(&compare.key);
        let key_length = compare.key.len() as u64;
        conditions.push(KeyCompare { key_length, version: compare.version.0 });
    }
    let mut changes = Vec::with_capacity(writes.len());
    for write in writes {
        let value = write.value.as_deref().unwrap_or_default();
        bytes.extend_from_slice(&write.key);
        bytes.extend_from_slice(value);
        changes.push(KeyWrite {
            key_length: write.key.len() as u64,
            value_length: value.len() as u64,
            is_delete: u8::from(write.value.is_none()),
        });
    }
    let parts: [&[u8]; 3] = [bytes_of(&conditions), bytes_of(&changes), &bytes];
    let length: usize = parts.iter().map(|part| part.len()).sum();
    if length + size_of::<KeyTransaction>() > limits::PACKED_FRAME_BYTES {
        return Err(NotSendable { what: "the transaction" });
    }
    let transaction = KeyTransaction {
        session_index: session.0,
        pin_uuid: WireUuid::new(pin),
        ..Default::default()
    };
    Ok(encode(&transaction, &parts))
}
