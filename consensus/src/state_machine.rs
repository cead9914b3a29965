//! What a user of the crate brings: a state and how commands change it.
//!
//! Responsible for the contract between a member and the state that it replicates. Deliberately
//! not for deduplication: a command that was asked for twice is applied twice unless the state
//! machine remembers requests.

use proto::ids::LogIndex;

use crate::ids::{LogTime, MemberId};

/// A state that every member of a cluster has, because all apply the same commands in the same
/// order.
pub trait StateMachine: Sized {
    /// What a command answers. Delivered at the member that was asked; thrown away at others.
    type Output;

    /// The state at one moment, shared with the living one rather than copied.
    type Snapshot: Send + 'static;

    /// Carries out one command. Must depend on the state and the arguments alone, and must not
    /// fail: a command that makes no sense is one that changes nothing.
    fn apply(&mut self, at: &Applied, command: &[u8]) -> Self::Output;

    /// Whether a command is carried out even where the disk is nearly full, because it makes room
    /// or the state machine does not work without it. Such commands are short and few.
    #[must_use]
    fn is_needed_without_room(_command: &[u8]) -> bool {
        false
    }

    /// The state now. Runs between two commands, so it must be cheap: copy on write.
    fn snapshot(&self) -> Self::Snapshot;

    /// A snapshot as bytes. Runs on the disk's thread and may take its time.
    fn encode(snapshot: &Self::Snapshot) -> Vec<u8>;

    /// The state that [`StateMachine::encode`] made the bytes from.
    ///
    /// # Errors
    /// Where the bytes are not such a state. Their checksum was right, so this is another version
    /// of the state machine or a bug; the member stops.
    fn restore(bytes: &[u8]) -> Result<Self, RestoreError>;

    /// A digest of everything that `apply` reads, over one canonical form. Members that applied
    /// the same commands must have the same; one that differs is stopped.
    fn digest(&self) -> [u8; 32];
}

/// Where in the log a command stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its index.
    pub index: LogIndex,
    /// The log's time when it was proposed, the same at every member.
    pub log_time: LogTime,
    /// The member that was asked for it.
    pub origin: MemberId,
}

/// Bytes that are not a state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a state of this state machine: {0}")]
pub struct RestoreError(pub String);
