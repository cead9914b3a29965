//! Balancers: deal the tasks of granted ranges to workers. Soft state only; the masters own the
//! truth.
//!
//! - [`logic`]: what is dealt to whom, and what the masters are asked; pure
//! - [`config`] and `service.rs`: settings, and the one event loop that [`run`] runs

pub mod config;
pub mod logic;
mod service;

pub use service::run;
