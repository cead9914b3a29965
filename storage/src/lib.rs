//! The storage nodes.
pub mod disk;
mod index;
pub mod logic;
mod volume;
