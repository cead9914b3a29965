//! How every process of Remuda runs: event loop, sockets, clock, stop, config, log.
//!
//! It knows how to move records and time, not what they mean: no tier's words occur here.

pub mod bare;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod data_folder;
pub mod descriptors;
pub mod exposure;
pub mod files;
pub mod log;
pub mod logic;
pub mod network;
pub mod pool;
pub mod pubsub;
pub mod random;
pub mod rpc;
pub mod stop;
pub mod waker;
