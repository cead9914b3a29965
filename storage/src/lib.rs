//! A storage node: keeps write-once blocks, durable before they are acknowledged, verified whenever
//! they are read.
//!
//! - [`logic`]: which requests are taken on and what is answered; pure
//! - [`edge`]: effects become work, what was read waits until it is answered
//! - [`disk`]: how blocks become durable and are found again (`volume.rs`: the records,
//!   `index.rs`: where each block lies, `reader.rs`, `recovery.rs`) and how their room is given
//!   back (`forget.rs`, `compaction.rs`); [`disk_thread`]: many puts share a sync
//! - [`registers`]: the same for copies of registers, with a log and a thread of their own
//! - [`config`] and `service.rs`: settings, and the one event loop that [`run`] runs
//!
//! The order of writes and syncs, with reasons: `docs/decisions/storage-disk.md`.

mod append;
mod compaction;
pub mod config;
pub mod disk;
pub mod disk_thread;
pub mod edge;
mod forget;
mod index;
pub mod logic;
mod own_files;
mod reader;
mod recovery;
pub mod registers;
mod removed;
mod reserve;
mod service;
mod space;
mod table;
mod volume;

pub use service::{StorageError, run};
