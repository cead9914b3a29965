//! A worker: executes tasks in slots and reports what became of them, straight to the masters.
//!
//! - [`logic`]: which deals are taken, which slot executes what, what is reported to whom; pure
//! - [`slots`]: the threads that execute, and how their work comes back
//! - [`runtime`]: what executing means, one implementation for each runtime
//! - [`inputs`]: what tasks need from storage before they start
//! - [`running`]: which tasks run at present; [`progress`] and `live.rs`: what they say and print
//!   meanwhile, for whoever asks
//! - [`spawn`]: the helper process that starts processes of tasks
//! - `evidence.rs`: what ran when earlier incarnations died, until the masters know it
//! - [`cgroup`]: what the kernel enforces limits of memory and processes with, where it may be used
//! - `room.rs`: whether there is room on the disk
//! - [`config`] and `service.rs`: settings, and the one event loop that [`run`] runs

pub mod cgroup;
pub mod config;
mod evidence;
pub mod inputs;
mod live;
pub mod logic;
pub mod progress;
mod room;
pub mod running;
pub mod runtime;
mod service;
pub mod slots;
pub mod spawn;

pub use service::{WorkerError, run};
