//! Mistakes that are built into a run to see that the checkers find them: without that their
//! silence about the shipped logic would mean nothing.
//!
//! They are made at the edges of the simulated processes, where the shipped logic meets disks and
//! frames, so that the logic in every run is the shipped one and no other program can contain them.

use crate::runs::World;

macro_rules! mistakes {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal $world:ident $broken:literal,)+) => {
        /// A mistake.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Planted {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Planted {
            /// All of them.
            pub const ALL: &'static [Planted] = &[$(Planted::$name,)+];

            /// Its name on the command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Planted::$name => $text,)+
                }
            }

            /// The cluster that it is planted into.
            #[must_use]
            pub const fn world(self) -> World {
                match self {
                    $(Planted::$name => World::$world,)+
                }
            }

            /// Words of the promise that it breaks; empty where it breaks several.
            #[must_use]
            pub const fn broken(self) -> &'static str {
                match self {
                    $(Planted::$name => $broken,)+
                }
            }
        }
    };
}

mistakes! {
    /// Syncs of the bank's members return without having synced.
    LyingSync = "lying-sync" Bank "",
    /// Syncs of the masters' log return without having synced.
    LyingLog = "lying-log" Pipeline "",
    /// A storage node says that a block is durable before it wrote it.
    EarlyAcknowledgement = "early-acknowledgement" Pipeline "invariant 5",
    /// A storage node takes the answer to an offer for a confirmation, whatever it says.
    HastyDeletion = "hasty-deletion" Pipeline "a block is deleted only after",
    /// A master says that a job is accepted before its entry is committed.
    EarlyAcceptance = "early-acceptance" Pipeline "invariants 1 and 11",
    /// A master acknowledges outcomes before their entry is committed.
    EarlySettlement = "early-settlement" Pipeline "",
    /// A worker takes every completion of its own for the first one, whatever the masters say.
    DuplicateCompletion = "duplicate-completion" Pipeline "invariant 2",
    /// A worker takes a block for durable when it has sent it.
    EarlyOutcome = "early-outcome" Pipeline "invariant 7",
    /// A worker obeys a balancer whose epoch is over.
    OldEpoch = "old-epoch" Pipeline "invariant 6",
    /// An auxiliary takes the group's epoch for its own.
    TwoPrimaries = "two-primaries" Pipeline "invariant 6",
    /// A primary does not wait until its auxiliary knows how far it deals, and the auxiliary never
    /// hears of it.
    MarkNotAwaited = "mark-not-awaited" Pipeline "",
    /// A group takes a range that was another one's for one that nobody ever dealt.
    ForgottenMove = "forgotten-move" Pipeline "a later attempt is always the higher one",
    /// A balancer takes what the masters say is unfinished for finished.
    LostRequeue = "lost-requeue" Pipeline "everything finishes",
    /// A master answers from what it has, however much the asker has seen.
    StaleRead = "stale-read" Pipeline "invariant 3",
    /// Masters take every request for one that they never saw.
    ForgottenWindow = "forgotten-window" Pipeline "invariant 11",
}

impl Planted {
    /// The mistake of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Planted> {
        Planted::ALL.iter().copied().find(|mistake| mistake.name() == name)
    }
}
