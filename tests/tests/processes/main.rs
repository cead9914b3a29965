//! Whole clusters of real processes: the program as users have it, real sockets, real disks, real
//! kills.
//!
//! What the simulator cannot see is looked for here: that processes start, find each other, die and
//! come back. Nothing is timed; what must come is waited for.

mod cluster;
mod faults;
mod files;
mod foreign;
mod garbage;
mod jobs;
mod lifecycle;
