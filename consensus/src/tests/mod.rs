//! Tests of several parts together: the log under damage, and clusters of members in one thread.

mod cluster;
mod disk;
mod ledger;
mod log;
mod members;
mod memory_files;
mod replication;
mod room;
mod snapshots;
