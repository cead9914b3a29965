//! The masters: the only owners of truth about jobs, results, names, membership and leases.
//!
//! [`logic`] decides: `logic/cluster.rs` is the replicated state, changed by nothing but the
//! commands of `logic/commands.rs` in the order of the log; `logic/mod.rs` is what a process adds
//! to it. `service.rs` is the event loop; the log on disk is `consensus`'s.

pub mod config;
pub mod logic;
mod service;

pub use config::Config;
pub use service::{MasterError, init, join, run};
