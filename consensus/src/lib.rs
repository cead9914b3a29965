//! A replicated state machine as a library.
//!
//! A user brings a [`StateMachine`] and three things of its own: connections between the members,
//! a clock, and a loop. [`Member`] decides and touches nothing of the world: it is handed an
//! [`Event`] and the time, and names what must be done as [`Effect`]s. What concerns the disk is a
//! [`Job`], carried out by [`Disk`] (in the same thread, as the simulator does) or by a
//! [`DiskThread`] (as a service does); what it answers goes back as [`Event::Disk`].
//!
//! Where to find what:
//! - `state_machine`: the trait that a user implements.
//! - `logic/`: the member. Elections and replication are the `raft` crate's, which no public item
//!   names; forwarding, log time, reads, snapshots in pieces, membership and digests are ours.
//! - `log`: checksummed records in preallocated files, with recovery.
//! - `snapshot`, `identity`, `record`: the other things in the folder.
//! - `disk`, `disk_thread`: who carries out jobs, and how batches share one sync.
//!
//! `examples/bank` is a whole user: a state machine, a process around a member, clients, and kills.
//!
//! What connections must promise: the messages of one sender arrive in the order in which they were
//! sent, none twice, and none of an earlier connection after one of a later. Losing them is
//! allowed. (A rejection that overtakes another makes the `raft` crate 0.7.0 stop with an
//! assertion, tikv/raft-rs#557.)

mod disk;
mod disk_thread;
mod identity;
mod ids;
mod job;
mod log;
mod logic;
mod record;
mod snapshot;
mod state_machine;
#[cfg(test)]
mod tests;

pub use disk::{Disk, DiskError, Recovered};
pub use disk_thread::DiskThread;
pub use identity::Identity;
pub use ids::{BatchId, LogTime, MemberId, Term, Ticket, TransferId};
pub use job::{Batch, Done, Job, Room};
pub use log::{Log, LogError, LogShape};
pub use logic::{
    Config, Effect, EffectOf, Event, Failure, HaltReason, Member, MemberChange, MemberInfo, Role,
    SnapshotHead, StartError,
};
pub use state_machine::{Applied, RestoreError, StateMachine};
