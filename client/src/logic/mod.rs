//! Decisions without sockets, clock or threads, the same under the simulator.

pub mod answers;
pub mod client;
pub mod explain;
pub mod files;
pub mod jobs;
pub mod live;
pub mod registers;
pub mod ring_view;
pub mod rings;
pub mod session;
pub mod transfer;
