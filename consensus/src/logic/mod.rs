//! The member: decides, and touches nothing of the world.
//!
//! `member` is the table of contents (events in, accessors out); `ready` drains Raft into effects
//! in the one order that is safe; `apply` carries out committed entries. The nouns beside them keep
//! what each needs and nothing of Raft: requests that wait (`pending`), reads, snapshots under way
//! (`transfer`), digests, log time. No clock, no disk, no socket, no randomness of its own.

mod apply;
mod digests;
mod effect;
mod entry;
pub(crate) mod image;
mod log_clock;
mod member;
mod membership;
mod message;
mod pending;
mod reads;
mod ready;
mod requests;
mod storage;
mod transfer;

pub use effect::{Config, Effect, Event, Failure, HaltReason, Role, StartError};
pub(crate) use image::Configuration;
pub use image::SnapshotHead;
pub use member::{EffectOf, Member};
pub use membership::{MemberChange, MemberInfo};
