//! The time that the log carries, as its leader stamps it.
//!
//! A stamp is the one before it plus what passed on the leader's own monotonic clock. A new leader
//! goes on from the last stamp in its log, so the time between two leaders is not counted: log time
//! never runs fast, and never goes back.

use proto::time::Instant;

use crate::ids::LogTime;

/// Stamps entries while this member leads.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogClock {
    stamp: LogTime,
    at: Instant,
}

impl LogClock {
    /// Goes on from the last stamp of the log.
    pub(super) fn start(last: LogTime, now: Instant) -> LogClock {
        LogClock { stamp: last, at: now }
    }

    /// What an entry proposed now is stamped.
    pub(super) fn read(&self, now: Instant) -> LogTime {
        LogTime(self.stamp.0.saturating_add(now.since(self.at).as_micros()))
    }

    /// Stamps an entry.
    pub(super) fn stamp(&mut self, now: Instant) -> LogTime {
        *self = LogClock { stamp: self.read(now), at: now.max(self.at) };
        self.stamp
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_follow_the_clock_and_never_go_back() {
        let mut clock = LogClock::start(LogTime(100), Instant(5_000));
        assert_eq!(clock.stamp(Instant(5_010)), LogTime(110));
        assert_eq!(clock.stamp(Instant(4_000)), LogTime(110));
        assert_eq!(clock.stamp(Instant(5_020)), LogTime(120));
    }
}
