//! Whole clusters of shipped logic in virtual time, and real processes under faults.
//!
//! The simulator: [`runs`] runs seeds, `world` joins machines, network and disks in one thread,
//! `process` holds the shipped logic of each tier, `faults` and `workload` say what goes wrong and
//! what users do, `checkers` what must be true nevertheless, [`report`] what happened. It covers no
//! libzmq, kernel or real disk; tests with real processes do.

mod agenda;
mod bank;
mod checkers;
mod disk;
mod faults;
mod machine;
pub mod needs;
mod network;
mod pipeline;
pub mod planted;
mod process;
mod random;
pub mod registers;
pub mod report;
pub mod runs;
pub mod scenarios;
pub mod story;
pub mod trace;
pub mod wait;
mod workload;
mod world;

pub use checkers::linear;
pub use needs::{Need, has};
