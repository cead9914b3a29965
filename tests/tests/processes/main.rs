//! Whole clusters of real processes: the program as users have it, real sockets, real disks, real
//! kills.
//!
//! What the simulator cannot see is looked for here: that processes start, find each other, die and
//! come back. Nothing is timed; what must come is waited for.

mod bad_files;
mod changes;
mod cli;
mod cluster;
mod counters;
mod counting;
mod crashes;
mod cutoff;
mod demo;
mod descriptors;
mod disks;
mod explain;
mod failover;
mod failover_rules;
mod failover_storage;
mod faults;
mod files;
mod folding;
mod foreign;
mod garbage;
mod groups;
mod hostile;
mod images;
mod inputs;
mod islands;
mod jobs;
mod joining;
mod lifecycle;
mod live;
mod load;
mod mount;
mod names;
mod outputs;
mod phases;
mod registers;
mod small_disk;
mod strangers;
mod submit;
mod sync;
mod takeover;
mod work;
