//! Why something that a client was asked to do failed.

use std::path::PathBuf;

use node::network::NetworkError;
use proto::manifest::ManifestError;

use crate::completion::Closed;
use crate::logic::jobs::NotSendable;
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
    /// The client was stopped.
    #[error(transparent)]
    Stopped(#[from] Closed),
    /// The masters answered another question. Reading answers checks this, so it is a fault of
    /// this library.
    #[error("the answer is not the one that was asked for")]
    OtherAnswer,
}
