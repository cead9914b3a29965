//! The masters: the only owners of truth about jobs, results, names, membership and leases.
//!
//! [`logic`] decides: `logic/cluster.rs` is the replicated state, changed by nothing but the
//! commands of `logic/commands.rs` in the order of the log.

pub mod logic;
