//! What may be proposed to the log, and what `apply` answers.
//!
//! A command holds everything that `apply` decides by: nothing is read from a clock or a
//! configuration there. The encoding is postcard behind one version byte.

use proto::ids::{Epoch, Incarnation, JobId, LogIndex, NodeId, RequestId, RingVersion, StoreId};
use proto::status::{ErrorCode, Role};
use serde::{Deserialize, Serialize};

use super::jobs::ReportedRun;
use super::nodes::Registration;
use super::ring::PartMove;

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
    /// Change how a job is treated from now on.
    Change {
        /// The job.
        job: JobId,
        /// What is changed.
        change: JobChange,
    },
    /// Write keys if all conditions hold.
    Transaction {
        /// The conditions.
        compares: Vec<Compare>,
        /// The writes.
        writes: Vec<Write>,
    },
    /// Replace segments by one that holds what was accepted from them.
    Fold {
        /// The job whose segments they are.
        job: JobId,
        /// Number of the fold.
        fold: u64,
        /// The new segment; nil where nothing was accepted.
        file: proto::ids::FileId,
        /// How many of the fold's segments it holds, the first ones.
        segment_count: u64,
        /// The worker whose task it is.
        worker: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
    },
    /// Take a node that left for good out of the roster.
    ForgetNode {
        /// The node.
        node: NodeId,
        /// The incarnation that is gone.
        incarnation: Incarnation,
    },
    /// Change the ring.
    Ring {
        /// What is changed.
        change: RingChange,
        /// Also while an earlier change is under way.
        is_forced: bool,
    },
}

/// What is changed of the ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RingChange {
    /// A node becomes a member, or gets another weight or zone.
    Add {
        /// The node.
        node: NodeId,
        /// Its weight; 0 for the one that it has.
        weight: u32,
        /// Its zone; the one that it has where none is given.
        zone: Option<String>,
    },
    /// A node hands over what it has and owns nothing any more.
    Drain {
        /// The node.
        node: NodeId,
    },
    /// A node is no longer waited for.
    Remove {
        /// The node.
        node: NodeId,
    },
    /// Every node looks at once whether all that it has lies where it belongs.
    Rebalance,
    /// Every node checks the digests of all that it has at once.
    Scrub,
}

/// What is changed of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobChange {
    /// None of its tasks is dealt any more.
    Hold,
    /// Its tasks are dealt again.
    Release,
    /// It has another priority.
    Priority(i32),
    /// It is no longer listed. Only for a job in a final state.
    Forget,
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
    /// The leader found the lease of a group's epoch over: its auxiliary becomes the primary.
    LeaseExpired {
        /// The group.
        group: u64,
        /// The epoch that is over.
        epoch: Epoch,
        /// The auxiliary.
        successor: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
    },
    /// A primary says whether its auxiliary knows how far it may have dealt.
    AuxiliaryNoted {
        /// The group.
        group: u64,
        /// The primary's epoch.
        epoch: Epoch,
        /// The auxiliary's incarnation that is meant.
        incarnation: Incarnation,
        /// True where it knows.
        is_in_step: bool,
    },
    /// A balancer cannot tell what became of runs.
    RunsLost {
        /// The runs, as lost or returned.
        runs: Vec<ReportedRun>,
    },
    /// What was finished for so long that it is due to be forgotten is forgotten.
    Retain,
    /// The leader heard nothing of an auxiliary for long: its seat is free for another balancer.
    SeatVacated {
        /// The group.
        group: u64,
        /// Its epoch.
        epoch: Epoch,
        /// The auxiliary.
        node: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
    },
    /// The leader found that nobody deals for a group, or that those who do reach no worker: what it
    /// has goes to another group.
    GroupLost {
        /// The group.
        group: u64,
        /// The epoch that is over.
        epoch: Epoch,
        /// The group that goes on with it.
        heir: u64,
    },
    /// The primary of a group has not heard of workers for long.
    WorkersSilent {
        /// The group.
        group: u64,
        /// Its epoch.
        epoch: Epoch,
        /// The workers, each with its incarnation.
        workers: Vec<(NodeId, Incarnation)>,
    },
    /// The leader balances the groups: workers go to others.
    WorkersMoved {
        /// Each worker, with its new group.
        moves: Vec<(NodeId, u64)>,
    },
    /// Storage nodes reported to the leader that their pass was full.
    RingPassed {
        /// Each node, with its store and the version of the ring that it passed.
        passes: Vec<(NodeId, StoreId, RingVersion)>,
    },
    /// The leader has not heard members of the ring for as long as dead ones are waited for.
    RingRemoved {
        /// Each node, with its store.
        nodes: Vec<(NodeId, StoreId)>,
    },
    /// The leader hears storage nodes again that were removed because they were silent.
    RingReturned {
        /// Each node, with its store.
        nodes: Vec<(NodeId, StoreId)>,
    },
    /// Storage nodes moved parts of the registers to another version of the ring.
    RegistersActivated {
        /// The parts.
        moves: Vec<PartMove>,
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
    /// The job is treated as asked for.
    Changed {
        /// The job.
        job: JobId,
    },
    /// The job is no longer listed.
    Forgotten {
        /// Its last state, as a `job_status` record.
        record: Vec<u8>,
    },
    /// What was due is forgotten.
    Retained {
        /// There may be more: one entry forgets so many and no more.
        is_more: bool,
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
    /// The node is no longer in the roster.
    NodeForgotten {
        /// Log index of the entry.
        index: LogIndex,
    },
    /// What became of a fold.
    Folded {
        /// Log index of the entry.
        index: LogIndex,
        /// The new segment is listed.
        is_listed: bool,
    },
    /// The ring is as asked for.
    RingChanged {
        /// Its newest version.
        version: RingVersion,
        /// Log index of the entry.
        index: LogIndex,
    },
    /// What is active of the moved parts of the registers is in the ring.
    RegistersActivated {
        /// Log index of the entry.
        index: LogIndex,
    },
    /// What the leader proposed of itself is carried out, or came too late.
    Noted,
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
