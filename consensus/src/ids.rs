//! Numbers that this crate's interface speaks of, one type for each idea.
//!
//! Log positions and incarnations are `proto::ids`'; what only a member and its driver know is
//! here.

use std::fmt;

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}

numbers! {
    /// A member: drawn when its folder is made, never used again after it was removed. Never 0.
    MemberId;
    /// One reign: at most one member leads in it.
    Term;
    /// Microseconds of the time that the log carries. It runs no faster than a clock, never goes
    /// back, and stands still while nobody leads.
    LogTime;
    /// The driver's own number of a request; it comes back with the answer. Not used twice within
    /// an incarnation.
    Ticket;
    /// One batch of changes to the log on disk, in the order of their making.
    BatchId;
    /// One sending of a snapshot to one member.
    TransferId;
}

impl MemberId {
    /// A member's number from random bits; the caller brings the randomness.
    #[must_use]
    pub const fn from_random(bits: u128) -> MemberId {
        let folded = (bits as u64) ^ ((bits >> 64) as u64);
        MemberId(if folded == 0 { 1 } else { folded })
    }
}
