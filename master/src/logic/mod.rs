//! What the masters decide. Pure: no sockets, clock, threads or randomness.

pub mod cluster;
pub mod commands;
pub mod jobs;
pub mod keyspace;
pub mod nodes;
pub mod sessions;
pub mod tasks;
