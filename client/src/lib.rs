//! The Rust client library of a Remuda cluster.
//!
//! [`logic`] decides: how masters are found, how requests are repeated, where blocks go and come
//! from. It is pure, and the worker, the mount and the simulator drive it inside their own loops.

pub mod logic;
