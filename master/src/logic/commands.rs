//! What may be proposed to the log, and what `apply` answers.
//!
//! A command holds everything that `apply` decides by: nothing is read from a clock or a
//! configuration there. The encoding is postcard behind one version byte.

use proto::ids::{Incarnation, JobId, LogIndex, NodeId, RequestId};
use proto::status::{ErrorCode, Role};
use serde::{Deserialize, Serialize};

use super::jobs::ReportedRun;
use super::nodes::Registration;

/// Version of the encoding below.
const VERSION: u8 = 1;

/// Who asks for a change, and under which number its reply is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asker {
    /// The client.
    pub client: NodeId,
    /// Number of the request within the client's life.
    pub request: RequestId,
    /// Log index that the client was told when its session began.
    pub session_index: LogIndex,
}

/// A condition of a keyspace transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// The key.
    pub key: Vec<u8>,
    /// Log index of its last change; 0 where it must not exist.
    pub version: LogIndex,
}

/// A write of a keyspace transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// The key.
    pub key: Vec<u8>,
    /// Its new value; absent to delete it.
    pub value: Option<Vec<u8>>,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ClientChange {
    /// Accept a job.
    Submit {
        /// The job.
        job: JobId,
        /// Its `job_submit` record, stamps cleared.
        record: Vec<u8>,
    },
    /// Cancel a job.
    Cancel {
        /// The job.
        job: JobId,
    },
    /// Write keys if all conditions hold.
    Transaction {
        /// The conditions.
        compares: Vec<Compare>,
        /// The writes.
        writes: Vec<Write>,
    },
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// What a client asks for.
    Client(Asker, ClientChange),
    /// A node of another tier says that it is there.
    Register(Registration),
    /// A worker's status frame.
    Complete {
        /// The worker.
        worker: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
        /// Number of the frame within the incarnation.
        frame: u64,
        /// What became of tasks.
        runs: Vec<ReportedRun>,
        /// Segments stored after the outcome of their tasks was reported.
        segments: Vec<ReportedSegment>,
    },
    /// A balancer cannot tell what became of runs.
    RunsLost {
        /// The runs, as lost or returned.
        runs: Vec<ReportedRun>,
    },
}

/// A segment that a worker reports for tasks whose outcome it reported before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedSegment {
    /// The segment.
    pub file: proto::ids::FileId,
    /// The tasks whose entries it holds, with the attempt that the entry is of.
    pub runs: Vec<(JobId, std::ops::Range<u64>)>,
}

/// A run that was not recorded as it was reported, or that was asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnsweredRun {
    /// The job.
    pub job: JobId,
    /// The tasks.
    pub tasks: std::ops::Range<u64>,
    /// The attempt that was reported.
    pub attempt: u64,
}

/// What `apply` answers, to whom it may concern.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// The job is accepted.
    Accepted {
        /// The job.
        job: JobId,
        /// Log index of its entry.
        index: LogIndex,
    },
    /// The job is in a final state.
    Cancelled {
        /// The job.
        job: JobId,
    },
    /// Whether the transaction was applied, and where.
    Transaction {
        /// The conditions held.
        is_applied: bool,
        /// Log index of the entry.
        index: LogIndex,
    },
    /// The node is in the roster.
    Registered {
        /// Log index of the entry that registered this incarnation.
        index: LogIndex,
    },
    /// Answers a status frame, or a question about runs.
    Runs {
        /// Log index of the entry.
        index: LogIndex,
        /// The unfinished ones.
        again: Vec<AnsweredRun>,
        /// Those that had their outcome before, so that what was reported now is dropped.
        refused: Vec<AnsweredRun>,
    },
    /// Refused.
    Refused {
        /// Why.
        code: ErrorCode,
        /// In words.
        text: String,
    },
}

impl Output {
    /// A refusal.
    #[must_use]
    pub fn refused(code: ErrorCode, text: impl Into<String>) -> Output {
        Output::Refused { code, text: text.into() }
    }
}

impl Command {
    /// The bytes that go into the log.
    ///
    /// # Panics
    /// Never for a value of this type: it has no maps with unknown length and no custom encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("commands have an encoding")
    }

    /// The command of an entry; `None` where the bytes are none, which `apply` answers and counts
    /// but never panics on.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Command> {
        match bytes.split_first() {
            Some((&VERSION, rest)) => postcard::from_bytes(rest).ok(),
            _ => None,
        }
    }
}

/// True for a role that registers with the masters.
#[must_use]
pub fn registers(role: Role) -> bool {
    matches!(role, Role::Balancer | Role::Worker | Role::Storage | Role::Gateway)
}
