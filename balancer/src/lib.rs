//! Balancers: deal the tasks of granted ranges to workers. Soft state only; the masters own the
//! truth.

pub mod logic;
