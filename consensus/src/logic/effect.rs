//! What happens to a member and what it wants done.
//!
//! The closed enums of the member's interface, and its settings. Deliberately without any doing.

use std::collections::BTreeMap;
use std::fmt;

use proto::ids::{Incarnation, LogIndex};
use proto::time::Duration;

use super::membership::{MemberChange, MemberInfo};
use crate::ids::{MemberId, Term, Ticket};
use crate::job::{Done, Job};
use crate::state_machine::RestoreError;

/// How a member behaves. [`Config::default`] has the values for production.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which start of the folder this is; never the same twice, so that an answer to a request of
    /// an earlier start is not taken for one to a request of this.
    pub incarnation: Incarnation,
    /// Raft's unit of time.
    pub tick: Duration,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: usize,
    /// Ticks without a leader after which an election begins, at least; less than twice as many at
    /// most.
    pub election_ticks: usize,
    /// Bytes of applied entries after which a snapshot is taken.
    pub snapshot_after_bytes: usize,
    /// Bytes of entries that are kept in memory behind a snapshot, so that a member which lags a
    /// little is not sent a snapshot.
    pub trailing_bytes: usize,
    /// Requests that may wait at this member; more are answered [`Failure::Busy`].
    pub pending_max: usize,
    /// Bytes of their commands.
    pub pending_bytes_max: usize,
    /// After this an invoke whose fate is not known ends as [`Failure::Unknown`], and a read that
    /// found no leader as [`Failure::NoLeader`].
    pub patience: Duration,
    /// How often members compare the digests of their states, if anything was applied meanwhile.
    pub digest_every: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            incarnation: Incarnation(0),
            tick: Duration::from_millis(50),
            heartbeat_ticks: 2,
            election_ticks: 10,
            snapshot_after_bytes: 64 << 20,
            trailing_bytes: 8 << 20,
            pending_max: 65_536,
            pending_bytes_max: 64 << 20,
            patience: Duration::from_secs(5),
            digest_every: Duration::from_secs(300),
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The deadline came, or nothing in particular.
    Tick,
    /// Bytes that another member's [`Effect::Send`] named. Whoever hands them in has checked that
    /// they come from that member.
    Message {
        /// Who sent them.
        from: MemberId,
        /// What.
        bytes: Vec<u8>,
    },
    /// What was sent to a member may have been lost: its connection ended or overflowed.
    Unreachable(MemberId),
    /// Somebody wants a command carried out. Ends in [`Effect::Completed`] or [`Effect::Failed`].
    Invoke {
        /// The driver's number for it.
        ticket: Ticket,
        /// For the state machine; at most [`Member::COMMAND_BYTES`](super::Member::COMMAND_BYTES).
        command: Vec<u8>,
    },
    /// Somebody wants to read a state that contains everything that was acknowledged before. Ends
    /// in [`Effect::ReadReady`] or [`Effect::Failed`].
    Read {
        /// The driver's number for it.
        ticket: Ticket,
    },
    /// Somebody wants other members. Ends in [`Effect::Changed`] or [`Effect::Failed`].
    ChangeMembers {
        /// The driver's number for it.
        ticket: Ticket,
        /// What to change.
        change: MemberChange,
    },
    /// This member should stop leading in favour of `to`, or of the voter that lags least. Does
    /// nothing where it does not lead.
    Transfer {
        /// The next leader.
        to: Option<MemberId>,
    },
    /// The disk did something.
    Disk(Done),
}

/// Something to be done, in the order given.
#[derive(Clone, Debug)]
pub enum Effect<O, P> {
    /// Send bytes to a member. They may be lost, but must not overtake each other.
    Send {
        /// To whom.
        to: MemberId,
        /// What.
        bytes: Vec<u8>,
    },
    /// Work for the disk.
    Disk(Job<P>),
    /// A command was carried out. Its effect survives whatever a majority survives.
    Completed {
        /// The driver's number.
        ticket: Ticket,
        /// Where it stands in the log.
        index: LogIndex,
        /// What it answered.
        output: O,
    },
    /// The members were changed, or were already so.
    Changed {
        /// The driver's number.
        ticket: Ticket,
        /// Log index of the configuration.
        index: LogIndex,
    },
    /// A request ends without an answer.
    Failed {
        /// The driver's number.
        ticket: Ticket,
        /// What is known about it.
        failure: Failure,
    },
    /// The state now contains all that was acknowledged before the read was asked for.
    ReadReady {
        /// The driver's number.
        ticket: Ticket,
        /// The state is at least at this index.
        index: LogIndex,
    },
    /// Entries up to here are applied.
    Applied {
        /// The last of them.
        through: LogIndex,
    },
    /// The whole state was replaced by a snapshot of the leader's; what was derived from it must
    /// be derived anew.
    Installed {
        /// The last entry that it contains.
        index: LogIndex,
    },
    /// Another leader, term or role than before.
    LeaderChanged {
        /// Who leads, if anybody is known to.
        leader: Option<MemberId>,
        /// In which term.
        term: Term,
        /// What this member is.
        role: Role,
    },
    /// Other members than before: connect to them. The first effect of all says who they are at the
    /// start. This member itself may be missing from it: it was removed, or is about to join.
    MembersChanged {
        /// All, this one included.
        members: BTreeMap<MemberId, MemberInfo>,
    },
    /// The member has stopped and reacts to nothing any more. The process should end.
    Halt {
        /// Why.
        reason: HaltReason,
    },
}

/// Why a request ended without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// There is no leader, or it changed before it accepted. It had no effect.
    NoLeader,
    /// Too much is waiting, leadership is being handed over, or another change of members is under
    /// way. It had no effect.
    Busy,
    /// It was accepted by a leader that was deposed, and the next one does not have it. It had no
    /// effect.
    Dropped,
    /// The disk of the leader is full, and it could not hand leadership over. It had no effect.
    NoRoom,
    /// The command is too long. It had no effect.
    TooLarge,
    /// This change of members cannot be made: it would leave no voter, or promotes a stranger. It
    /// had no effect.
    Refused,
    /// The member that should become a voter lags too far behind. It had no effect.
    Behind,
    /// It may have had its effect, or may still have it. Whoever repeats it must be recognised by
    /// the state machine.
    Unknown,
}

impl Failure {
    /// True where the request certainly had no effect and never will.
    #[must_use]
    pub const fn is_without_effect(self) -> bool {
        !matches!(self, Failure::Unknown)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Failure::NoLeader => "there is no leader at the moment",
            Failure::Busy => "too much is waiting",
            Failure::Dropped => "the leader was deposed before it was committed",
            Failure::NoRoom => "the leader's disk is full",
            Failure::TooLarge => "the command is too long",
            Failure::Refused => "this change of members cannot be made",
            Failure::Behind => "the member lags too far behind to become a voter",
            Failure::Unknown => "the outcome is unknown; look before repeating",
        })
    }
}

/// What a member is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// It has no vote: it is new, or not (or no longer) in the cluster.
    Learner,
    /// It votes and follows, or waits for a leader.
    Follower,
    /// It asks for votes.
    Candidate,
    /// It decides what comes next in the log.
    Leader,
}

/// Why a member stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HaltReason {
    /// The log could not be made durable.
    Disk(String),
    /// Its state differs from the majority's after the same commands: a bug, or broken memory.
    Differs {
        /// After which entry.
        index: LogIndex,
    },
    /// The state machine does not understand a snapshot that the leader sent.
    Snapshot(RestoreError),
}

impl fmt::Display for HaltReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HaltReason::Disk(text) => write!(f, "the log could not be made durable: {text}"),
            HaltReason::Differs { index } => {
                write!(f, "the state after entry {index} differs from the majority's")
            }
            HaltReason::Snapshot(error) => write!(f, "the leader's snapshot: {error}"),
        }
    }
}

/// Why a member cannot start from what its disk holds.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state machine does not understand its snapshot.
    #[error("restore the state from the snapshot")]
    Restore(#[from] RestoreError),
    /// The settings contradict each other.
    #[error("the settings of consensus are not usable: {0}")]
    Config(String),
}
