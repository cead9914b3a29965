//! Why something that a client was asked to do failed.

use std::path::{Path, PathBuf};

use node::network::NetworkError;
use proto::description::NotADescription;
use proto::ids::{FileId, JobId, TaskIndex};
use proto::manifest::ManifestError;
use proto::name::NameError;
use proto::segment::SegmentError;
use proto::status::TaskState;
use proto::tree::TreeError;

use crate::completion::Closed;
use crate::logic::jobs::NotSendable;
use crate::logic::registers::RegisterError;
use crate::logic::session::CallFailure;
use crate::logic::transfer::TransferError;

/// Why something that a client was asked to do failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The process gets no socket.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The operating system gives no randomness or no thread.
    #[error("start the client")]
    Start(#[source] std::io::Error),
    /// The masters refused, or were not reached.
    #[error(transparent)]
    Call(#[from] CallFailure),
    /// A request that no master would take.
    #[error(transparent)]
    NotSendable(#[from] NotSendable),
    /// Storing or fetching failed.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// An operation on a register failed.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// A file on this machine cannot be read or written.
    #[error("{operation} {}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file that is longer than a file of a cluster may be.
    #[error(transparent)]
    TooLong(#[from] ManifestError),
    /// A file that is longer than what it was asked into.
    #[error("the file has {length} bytes where at most {limit} are wanted in memory")]
    TooLarge {
        /// Bytes that were asked for.
        length: u64,
        /// The limit.
        limit: u64,
    },
    /// Something failed with one of many files of this machine.
    #[error("{}", path.display())]
    At {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: Box<ClientError>,
    },
    /// Something of this machine that a tree does not hold.
    #[error("{} is {what}: a tree holds files, folders and links", path.display())]
    NotStorable {
        /// Where it is.
        path: PathBuf,
        /// What it is, with its article.
        what: &'static str,
    },
    /// A folder that is no tree, or a file that is none.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// What should hold the outputs of tasks is no segment.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// A file that should be the description of a job is none.
    #[error("the description {file} of the job")]
    Description {
        /// The file.
        file: FileId,
        /// Why not.
        source: NotADescription,
    },
    /// Tasks to try again that lie too far apart from each other.
    #[error(
        "the tasks to try again are {runs} separate runs, more than the description of one \
             job holds"
    )]
    TooScattered {
        /// How many runs, or as many as were looked at.
        runs: usize,
    },
    /// A task that its job does not have.
    #[error("job {job} has no task {task}")]
    NoTask {
        /// The job.
        job: JobId,
        /// The task.
        task: TaskIndex,
    },
    /// A file that has another length than the tree that names it says.
    #[error("the file has {found} bytes or more where its tree says {wanted}")]
    OtherLength {
        /// What the tree says.
        wanted: u64,
        /// What was fetched.
        found: u64,
    },
    /// A path inside a tree that would climb.
    #[error("the path {path:?} has a part . or ..")]
    Path {
        /// The path, made printable.
        path: String,
    },
    /// A path inside a tree where nothing is.
    #[error("there is nothing at {path:?} in the tree")]
    NoEntry {
        /// The path, made printable.
        path: String,
    },
    /// A task without an outcome.
    #[error("task {task} is {state}: what it writes is there when it has ended")]
    NotEnded {
        /// The task.
        task: u64,
        /// Its state.
        state: TaskState,
    },
    /// Something that a task did not write.
    #[error("task {task} wrote no {path:?}")]
    NoOutput {
        /// The task.
        task: u64,
        /// The path, made printable.
        path: String,
    },
    /// Outputs of one task that cannot stand beside each other.
    #[error("the output {name:?} is there twice, or inside another one that is no folder")]
    OutputNames {
        /// The path, made printable.
        name: String,
    },
    /// A path inside a tree that ends at a link.
    #[error("it is a link to {target:?}: links in a tree are not followed")]
    IsLink {
        /// What it points to, made printable.
        target: String,
    },
    /// What may be no name, or points to what is not known.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A name that nobody set.
    #[error("there is no name {name:?}")]
    NoName {
        /// The name.
        name: String,
    },
    /// A name that somebody else set while it was to be removed.
    #[error("the name {name:?} was changed meanwhile")]
    NameChanged {
        /// The name.
        name: String,
    },
    /// The client was stopped.
    #[error(transparent)]
    Stopped(#[from] Closed),
    /// The masters answered another question. Reading answers checks this, so it is a fault of
    /// this library.
    #[error("the answer is not the one that was asked for")]
    OtherAnswer,
}

impl ClientError {
    /// Trouble with a file of this machine.
    pub(crate) fn file(operation: &'static str, path: &Path, source: std::io::Error) -> Self {
        ClientError::File { operation, path: path.to_owned(), source }
    }

    /// Says which of many files it was about, where it does not say so itself.
    pub(crate) fn at(self, path: &Path) -> Self {
        match self {
            ClientError::File { .. } | ClientError::At { .. } => self,
            other => ClientError::At { path: path.to_owned(), source: Box::new(other) },
        }
    }
}
