//! Decisions without disk, sockets, clock or threads.

pub mod image;
pub mod inodes;
pub mod inputs;
pub mod listing;
pub mod lru;
pub mod mounts;
pub mod read_ahead;
pub mod tree;
