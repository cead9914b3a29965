//! What must be true in every run, whatever goes wrong. Each checker is a few sentences of the
//! promises that are made to users, and says in its text what it saw.

pub(crate) mod blocks;
pub(crate) mod deals;
pub(crate) mod history;
pub(crate) mod jobs;
pub(crate) mod leaders;
pub mod linear;
pub(crate) mod transfers;

use std::fmt;

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// The promise.
    pub(crate) promise: &'static str,
    /// What was seen instead.
    pub(crate) seen: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise, self.seen)
    }
}

/// Fails with `promise` where `kept` is not true.
pub(crate) fn check(
    kept: bool,
    promise: &'static str,
    seen: impl FnOnce() -> String,
) -> Result<(), Violation> {
    if kept { Ok(()) } else { Err(Violation { promise, seen: seen() }) }
}
