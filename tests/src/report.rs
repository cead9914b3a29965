//! What happened in a run: counts by name, and their sums and medians over many runs.
//!
//! A simulation in which nothing went wrong proves nothing, so every kind of trouble is counted
//! and a test fails where one that the faults can cause never came up.

use std::collections::BTreeMap;
use std::fmt;

macro_rules! happenings {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// Something worth counting.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Happening {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Happening {
            /// All of them, in the order in which they are printed.
            pub const ALL: &'static [Happening] = &[$(Happening::$name,)+];

            /// Its name in reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Happening::$name => $text,)+
                }
            }
        }
    };
}

happenings! {
    /// A member became leader.
    Elections = "elections",
    /// The leader died or was cut off, and another one led later.
    FailOvers = "fail-overs",
    /// An auxiliary became the primary of its group.
    TakeOvers = "take-overs",
    /// Requests that a client had answered.
    Acknowledged = "acknowledged requests",
    /// Reads of the sum that a client had answered.
    Audits = "answered reads",
    /// Requests that a client sent again because no answer came.
    Retries = "requests sent again",
    /// Requests that reached the state machine a second time and were answered from its memory.
    Duplicates = "duplicate requests",
    /// Jobs that a client was told are accepted.
    Jobs = "jobs accepted",
    /// Jobs that were held, released or given another priority.
    Changes = "changes of jobs",
    /// Jobs that were forgotten and refused when they were submitted again.
    Forgotten = "jobs forgotten",
    /// States of the masters that were compared.
    States = "states compared",
    /// Processes that died at once.
    Crashes = "crashes",
    /// Crashes that came while a process was starting from its disk.
    CrashesInRecovery = "crashes in recovery",
    /// Machines that lost power with everything that was not synced.
    PowerLosses = "power losses",
    /// Times at which every member lost power together.
    Blackouts = "blackouts",
    /// Unsynced writes of which nothing was left after a power loss.
    LostWrites = "lost writes",
    /// Unsynced writes of which a part was left.
    TornWrites = "torn tails",
    /// Unsynced creations, renames and removals that were undone.
    LostNames = "lost names",
    /// Members that were given a snapshot instead of entries.
    Snapshots = "snapshot catch-ups",
    /// Connections that ended while both sides lived or one died.
    Disconnects = "disconnects",
    /// Connections made again under the same generation.
    Reconnects = "reconnects",
    /// Frames that a disconnect, a death or a full queue swallowed.
    FramesLost = "frames lost",
    /// Records of an earlier connection that a receiver dropped.
    StaleRecords = "stale records dropped",
    /// Sequence gaps that a receiver noticed.
    Gaps = "sequence gaps",
    /// Records that a full queue of the sender dropped.
    Overflows = "records overflowed",
    /// Sessions that were opened again because the receiver had restarted.
    SecondHellos = "hellos repeated",
    /// Processes that stood still for a while.
    Pauses = "pauses",
    /// Processes that stood still for longer than the timeouts of the others.
    Freezes = "freezes",
    /// Processes that died and stayed dead.
    StayedDead = "stayed dead",
    /// Times at which all masters were killed together.
    MastersDown = "all masters killed",
    /// Times at which everything was killed together.
    AllKilled = "everything killed",
    /// Directions that carried nothing for a while.
    Partitions = "partitions",
    /// Links that were slow for a while.
    SlowLinks = "slow links",
    /// Links on which frames were lost for a while.
    LossyLinks = "lossy links",
    /// Disks that were slow for a while.
    SlowDisks = "slow disks",
    /// Files that a client was told are stored.
    FilesStored = "files stored",
    /// Reads of files that came to an end, every byte compared.
    FilesRead = "files read",
    /// Files that one storage node answered as a whole, every byte compared.
    WholeFiles = "whole files read",
    /// Reads of files that a client was told failed.
    ReadsFailed = "reads failed",
    /// Files that the storage nodes' full disks kept from being stored for a while.
    FilesRefused = "files refused",
    /// Blocks that a full disk refused.
    PutsRefused = "blocks refused",
    /// Requests that a storage node refused because too much was going on.
    Busy = "busy refusals",
    /// Segments that a committed entry names, each found durable on every replica.
    Segments = "segments committed",
    /// Folds whose segment took the place of others.
    Folds = "segments folded",
    /// Tasks whose accounting and outputs were read back and compared.
    Results = "results read back",
    /// Tasks that went back to a balancer's queue.
    Requeues = "tasks re-queued",
    /// Balancer groups whose ranges and workers went to others.
    GroupsLost = "groups lost",
    /// Ranges that went from a lost group to another one.
    RangesMoved = "ranges moved",
    /// Workers that went to another group.
    WorkersMoved = "workers moved",
    /// Tasks that another group had dealt before.
    DealtByHeirs = "tasks dealt by heirs",
    /// Tasks that ran when their worker died, as its next life reports them.
    CrashedTasks = "tasks crashed",
    /// Tasks that two attempts finished, of which the masters refused the later one.
    SecondCompletions = "duplicate completions",
    /// Deals that reached a worker when their epoch was over.
    RefusedEpochs = "refused epochs",
    /// Bits that flipped on a disk.
    BitRot = "flipped bits",
    /// Blocks that a storage node found to have another digest than they should.
    DamagedBlocks = "damaged blocks",
    /// Versions of the ring that were announced.
    RingVersions = "ring versions",
    /// Times at which all older versions of the ring were dropped.
    RingsDrained = "rings drained",
    /// Orders of an administrator that were done.
    RingChanges = "ring changes ordered",
    /// Members that were removed because they were silent.
    NodesRemoved = "silent nodes removed",
    /// Blocks that a storage node handed over to another one.
    BlocksMoved = "blocks moved",
    /// Blocks that a storage node deleted since they belong to others.
    BlocksDeleted = "moved blocks deleted",
    /// Offers of blocks that somebody else was about to send.
    OffersExpected = "offers expected",
    /// Offers of blocks that were not taken.
    OffersRefused = "offers refused",
    /// Requests that went by a version of the ring that was too old.
    StaleRings = "stale ring refusals",
    /// Damaged blocks that were fetched from another node.
    BlocksMended = "blocks mended",
    /// Disks that were full for a while.
    FullDisks = "full disks",
    /// Members and storage nodes whose disk was lost.
    EmptyDisks = "empty disks",
    /// Members that took the place of one whose disk was lost, and vote.
    Replacements = "members replaced",
    /// Processes that gave up because their disk failed them.
    DiskFailures = "stopped by a disk",
    /// Seconds from the end of the faults until everything was done.
    Recovery = "seconds until done",
}

/// The counts of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    counts: BTreeMap<Happening, u64>,
    /// How full each kind of queue was at most, and its bound.
    fills: BTreeMap<&'static str, (usize, usize)>,
}

impl Report {
    pub(crate) fn add(&mut self, happening: Happening, count: u64) {
        if count > 0 {
            *self.counts.entry(happening).or_default() += count;
        }
    }

    /// Notes how full a queue is. Of several bounds the one that was nearest is kept.
    pub(crate) fn fill(&mut self, queue: &'static str, length: usize, bound: usize) {
        let most = self.fills.entry(queue).or_insert((0, bound));
        if length * most.1 >= most.0 * bound {
            *most = (length, bound);
        }
    }

    /// How often it happened.
    #[must_use]
    pub fn count(&self, happening: Happening) -> u64 {
        self.counts.get(&happening).copied().unwrap_or(0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for happening in Happening::ALL {
            writeln!(f, "{:>24} {:>9}", happening.name(), self.count(*happening))?;
        }
        Ok(())
    }
}

/// Many runs together.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    reports: Vec<Report>,
}

impl Summary {
    /// Adds a run.
    pub fn add(&mut self, report: Report) {
        self.reports.push(report);
    }

    /// Number of runs.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.reports.len()
    }

    /// How often it happened in all runs together.
    #[must_use]
    pub fn total(&self, happening: Happening) -> u64 {
        self.reports.iter().map(|report| report.count(happening)).sum()
    }

    /// What never happened in any of the runs.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let all = Happening::ALL.iter();
        all.filter(|happening| self.total(**happening) == 0).map(|h| h.name()).collect()
    }

    fn median(&self, happening: Happening) -> u64 {
        let mut counts: Vec<u64> = self.reports.iter().map(|r| r.count(happening)).collect();
        counts.sort_unstable();
        counts.get(counts.len() / 2).copied().unwrap_or(0)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>24} {:>9} {:>9} {:>9}", "in each run", "median", "most", "total")?;
        for &happening in Happening::ALL {
            let most = self.reports.iter().map(|report| report.count(happening)).max();
            let (median, total) = (self.median(happening), self.total(happening));
            let most = most.unwrap_or(0);
            writeln!(f, "{:>24} {median:>9} {most:>9} {total:>9}", happening.name())?;
        }
        if self.total(Happening::States) > 0 {
            writeln!(
                f,
                "the state of each master is compared every 200 ms of virtual time and at each new \
                 job, of one of them looked through as often; all tasks of a balancer every 20 ms; \
                 everything else after each step"
            )?;
        }
        let mut fullest = Report::default();
        for (queue, (length, bound)) in self.reports.iter().flat_map(|report| &report.fills) {
            fullest.fill(queue, *length, *bound);
        }
        for (queue, (length, bound)) in fullest.fills {
            writeln!(f, "fullest queue: {length} of {bound} {queue}")?;
        }
        Ok(())
    }
}
