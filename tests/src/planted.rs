//! Mistakes that are built into a run to see that the checkers find them: without that their
//! silence about the shipped logic would mean nothing.
//!
//! They are made at the edges of the simulated processes, where the shipped logic meets disks and
//! frames, so that the logic in every run is the shipped one and no other program can contain them.

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// Syncs of the bank's members return without having synced.
    LyingSync,
    /// A storage node says that a block is durable before it wrote it.
    EarlyAcknowledgement,
    /// A worker takes every completion of its own for the first one, whatever the masters say.
    DuplicateCompletion,
    /// A worker takes a block for durable when it has sent it.
    EarlyOutcome,
    /// A worker obeys a balancer whose epoch is over.
    OldEpoch,
}

impl Planted {
    /// All that concern the pipeline.
    pub const PIPELINE: [Planted; 4] = [
        Planted::EarlyAcknowledgement,
        Planted::DuplicateCompletion,
        Planted::EarlyOutcome,
        Planted::OldEpoch,
    ];
    /// Words of the promise that it breaks.
    #[must_use]
    pub const fn broken(self) -> &'static str {
        match self {
            Planted::LyingSync => "",
            Planted::EarlyAcknowledgement => "invariant 5",
            Planted::DuplicateCompletion => "invariant 2",
            Planted::EarlyOutcome => "invariant 7",
            Planted::OldEpoch => "invariant 6",
        }
    }
}
