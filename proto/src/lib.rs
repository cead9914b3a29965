//! What two processes of Remuda must agree about, byte for byte, and nothing else.
//!
//! No sockets, no files, no clock. Every tier and every client depends on this crate; it depends
//! on none of ours.

pub mod time;
