//! A process and the machine on which it lives: its disk, its clock, whether it runs.

use std::collections::VecDeque;

use proto::time::{Duration, Instant};

use crate::disk::SimFiles;
use crate::faults::Death;
use crate::process::{Job, Process, Recipe};
use crate::world::Delivery;

/// A process's monotonic clock: its own origin and its own speed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LocalClock {
    /// What it read at virtual time zero, in microseconds.
    pub(crate) origin: u64,
    /// How much faster than virtual time it runs, in parts per million.
    pub(crate) drift: i64,
}

impl LocalClock {
    /// What the process reads.
    pub(crate) fn local(self, now: Instant) -> Instant {
        let skew = i128::from(now.0) * i128::from(self.drift) / 1_000_000;
        Instant((i128::from(self.origin) + i128::from(now.0) + skew) as u64)
    }

    /// The first virtual instant at which the process reads `local` or more.
    pub(crate) fn virtual_at(self, local: Instant) -> Instant {
        let span = i128::from(local.0.saturating_sub(self.origin));
        let guess = span * 1_000_000 / (1_000_000 + i128::from(self.drift));
        let mut at = Instant(u64::try_from(guess).unwrap_or(0).saturating_sub(2));
        while self.local(at) < local {
            at = Instant(at.0 + 1);
        }
        at
    }
}

/// A process's disk thread: whatever waits when it is free is done together.
#[derive(Debug, Default)]
pub(crate) struct DiskThread {
    /// What is to be done, the next one first.
    pub(crate) jobs: Vec<Job>,
    /// Whether it is at work.
    pub(crate) is_busy: bool,
}

/// A machine with room for one process.
pub(crate) struct Machine {
    /// What the trace calls it.
    pub(crate) name: String,
    /// How its process is started.
    pub(crate) recipe: Recipe,
    /// Its disk; survives the process.
    pub(crate) files: SimFiles,
    /// The clock of the present process.
    pub(crate) clock: LocalClock,
    /// What the clock reads at virtual time zero, where a story says so.
    pub(crate) origin: Option<u64>,
    /// How often a process was started here; what belongs to an earlier life is dropped.
    pub(crate) life: u64,
    /// The process, unless the machine is down.
    pub(crate) process: Option<Process>,
    /// The pause in which it stands still.
    pub(crate) pause: Option<u64>,
    /// What came while it stood still.
    pub(crate) held: VecDeque<Delivery>,
    /// The instant for which a wake is entered in the agenda.
    pub(crate) alarm: Option<Instant>,
    /// Wakes at one and the same instant.
    pub(crate) wakes: (Instant, u32),
    /// The process's disk thread.
    pub(crate) disk: DiskThread,
    /// It dies so when its disk thread works next, for so long.
    pub(crate) doom: Option<(Death, Duration)>,
    /// What its disk takes longer at present.
    pub(crate) slow_disk: Duration,
    /// Whether its disk has no room at present.
    pub(crate) is_full: bool,
    /// Disks that it lost.
    pub(crate) lost_disks: u64,
    /// Whether a process made its folder there.
    pub(crate) has_folder: bool,
    /// Since when the member that lives there has a vote.
    pub(crate) votes_since: Option<Instant>,
    /// Whether its first disk was lost.
    pub(crate) is_successor: bool,
    /// Whether it stays down for the rest of the run.
    pub(crate) is_broken: bool,
}

impl Machine {
    pub(crate) fn new(recipe: Recipe) -> Machine {
        Machine {
            name: recipe.name(),
            recipe,
            files: SimFiles::default(),
            clock: LocalClock::default(),
            origin: None,
            life: 0,
            process: None,
            pause: None,
            held: VecDeque::new(),
            alarm: None,
            wakes: (Instant(0), 0),
            disk: DiskThread::default(),
            doom: None,
            slow_disk: Duration::ZERO,
            is_full: false,
            lost_disks: 0,
            has_folder: false,
            votes_since: None,
            is_successor: false,
            is_broken: false,
        }
    }

    /// True for a process that runs and does not stand still.
    pub(crate) fn is_awake(&self) -> bool {
        self.process.is_some() && self.pause.is_none()
    }

    /// Forgets everything that ended with the process.
    pub(crate) fn die(&mut self) {
        self.process = None;
        self.pause = None;
        self.held.clear();
        self.alarm = None;
        self.doom = None;
        self.disk = DiskThread::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_reached_at_the_instant_at_which_a_process_is_woken() {
        for drift in [-5_000, -1, 0, 1, 5_000] {
            let clock = LocalClock { origin: 77_000_000, drift };
            for wanted in [77_000_000, 77_000_001, 77_123_456, 9_977_123_456] {
                let at = clock.virtual_at(Instant(wanted));
                assert!(clock.local(at) >= Instant(wanted), "{drift} {wanted}");
                assert!(at.0 == 0 || clock.local(Instant(at.0 - 1)) < Instant(wanted));
            }
        }
    }
}
