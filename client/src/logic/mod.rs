//! Decisions without sockets, clock or threads, the same under the simulator.

pub mod jobs;
