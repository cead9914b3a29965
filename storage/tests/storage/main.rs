//! Tests of the storage node: its disk against a disk that forgets, its logic with that disk, the
//! whole node with sockets and threads.

#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod compaction;
mod disk;
mod files;
mod node;
mod registers;
mod ring;
mod service;
mod world;
