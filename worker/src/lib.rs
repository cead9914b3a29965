//! A worker: executes tasks in slots and reports what became of them, straight to the masters.

pub mod logic;
