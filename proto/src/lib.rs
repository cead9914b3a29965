//! What two processes of Remuda must agree about, byte for byte, and nothing else.
//!
//! Message structs, ids, limits, status codes, digests and the ring's placement rule. No sockets,
//! no files, no clock. Every tier and every client depends on this crate; it depends on none of
//! ours. Start with [`record`] (how a message is framed) and [`catalogue`] (which there are).

pub mod catalogue;
pub mod description;
pub mod digest;
pub mod ids;
pub mod limits;
mod macros;
pub mod manifest;
pub mod messages;
pub mod name;
pub mod record;
pub mod register;
pub mod ring;
pub mod segment;
pub mod status;
pub mod time;
pub mod tree;
pub mod wire;
