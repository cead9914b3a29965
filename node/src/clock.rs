//! The only place where a clock is read.
//!
//! Responsible for monotonic time, which every `logic/` gets handed in, and for the time of day,
//! which is shown to people and stamped into what they read. Deliberately not for waiting: a loop
//! waits in its poll until its next deadline.

use proto::time::{Duration, Instant};

/// One process's monotonic clock. Copies agree with each other; two clocks that were started
/// apart do not, so a process starts one and hands copies of it to its threads.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    /// A clock that reads zero now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one source of time")]
    pub fn start() -> Clock {
        Clock { origin: std::time::Instant::now() }
    }

    /// Microseconds since the start; never goes back. Stands still while the machine is suspended,
    /// so that a deadline is not missed merely because a lid was closed.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant(u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}

/// Time of day as microseconds since 1970 (UTC): for people and records, never for deciding an
/// order or a deadline, because it may jump in either direction. Zero where the machine's clock
/// stands before 1970.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one source of time")]
pub fn time_of_day() -> Duration {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let micros = since.map_or(0, |since| since.as_micros());
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_moves_on_and_copies_agree() {
        let clock = Clock::start();
        let copy = clock;
        let first = clock.now();
        let mut then = copy.now();
        assert!(first <= then);
        // A microsecond passes while this spins.
        while then == first {
            then = copy.now();
        }
        assert!(clock.now() >= then);
    }

    #[test]
    fn the_time_of_day_is_after_this_was_written() {
        assert!(time_of_day() > Duration::from_secs(1_760_000_000));
    }
}
