//! Decisions without sockets, clock or threads, the same under the simulator.

pub mod backoff;
pub mod calls;
pub mod counters;
pub mod explanations;
pub mod following;
pub mod network;
mod outgoing;
pub mod ranges;
pub mod refusal;
pub mod rotation;
pub mod sessions;
pub mod updates;
