//! How every process of Remuda runs: event loop, sockets, clock, stop, config, log.
//!
//! It knows how to move records and time, not what they mean: no tier's words occur here.

pub mod files;
pub mod clock;
pub mod stop;
pub mod pool;
pub mod config;
pub mod log;
pub mod random;
pub mod data_folder;
pub mod logic;
pub mod pubsub;
pub mod exposure;
pub mod network;
pub mod waker;
pub mod rpc;
