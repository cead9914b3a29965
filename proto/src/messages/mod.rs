//! The wire structs, one file for each conversation.

pub mod file;
pub mod job;
pub mod keyspace;
pub mod node;
pub mod raft;
pub mod register;
pub mod session;
pub mod task;
pub mod telemetry;
