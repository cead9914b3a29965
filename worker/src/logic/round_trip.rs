//! How far away a balancer is: the time from a heartbeat to its answer.
//!
//! A balancer answers each heartbeat at once, and a connection keeps the order, so counting both tells
//! which answer is to which heartbeat. One heartbeat is timed at a time: nothing grows where many are
//! not answered. An answer that was lost makes the way look longer by the pause between two
//! heartbeats, until the connection is another one.

use proto::time::{Duration, Instant};

/// The longest that is believed: what takes longer waits for something else than the way.
const LONGEST: Duration = Duration::from_secs(2);

/// The part of the newest measurement in the mean is one in so many: about the last two seconds
/// count (eyeballed).
const NEWEST_IN: u64 = 4;

/// The way to one balancer and back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RoundTrip {
    /// Heartbeats that were sent on this connection.
    sent: u64,
    /// Those of them that were answered.
    answered: u64,
    /// The number of the heartbeat that is timed, and when it was sent.
    timed: Option<(u64, Instant)>,
    mean: Option<Duration>,
}

impl RoundTrip {
    /// The connection is new: what was sent on the one before is not answered any more.
    pub(super) fn connected(&mut self) {
        *self = RoundTrip { mean: self.mean, ..RoundTrip::default() };
    }

    /// A heartbeat goes out.
    pub(super) fn asked(&mut self, now: Instant) {
        self.sent += 1;
        self.timed.get_or_insert((self.sent, now));
    }

    /// A heartbeat was answered.
    pub(super) fn answered(&mut self, now: Instant) {
        // A balancer that says more than it was asked for is not far away.
        self.answered = (self.answered + 1).min(self.sent);
        let answered = self.answered;
        let Some((_, asked)) = self.timed.take_if(|(number, _)| *number <= answered) else {
            return;
        };
        let newest = now.since(asked).min(LONGEST);
        self.mean = Some(match self.mean {
            Some(mean) => Duration((mean.0 * (NEWEST_IN - 1) + newest.0) / NEWEST_IN),
            None => newest,
        });
    }

    /// What it takes in the mean; `None` where nothing was measured.
    pub(super) fn mean(&self) -> Option<Duration> {
        self.mean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000;

    /// A heartbeat every half second, each answered after so long: the mean after so many answers.
    fn measured(way: Duration, answers: u64) -> Option<Duration> {
        let pause = Duration::from_millis(500);
        let asked = (0..answers).map(|n| (Instant(0) + pause.times(n), false));
        let answered = asked.clone().map(|(at, _)| (at + way, true));
        let mut events: Vec<(Instant, bool)> = asked.chain(answered).collect();
        events.sort();
        let mut round_trip = RoundTrip::default();
        for (now, is_answer) in events {
            if is_answer { round_trip.answered(now) } else { round_trip.asked(now) }
        }
        round_trip.mean()
    }

    #[test]
    fn the_time_to_the_answer_is_measured_also_where_it_is_longer_than_the_pause() {
        assert_eq!(RoundTrip::default().mean(), None);
        for way in [0, 1, 100, 499, 501, 800, 1_900].map(Duration::from_millis) {
            assert_eq!(measured(way, 20), Some(way));
        }
        assert_eq!(measured(Duration::from_secs(60), 20), Some(LONGEST));
    }

    #[test]
    fn one_slow_answer_among_quick_ones_is_no_long_way() {
        let mut round_trip = RoundTrip::default();
        for (asked, took) in [(0, 8), (500, 88), (1_000, 8)] {
            round_trip.asked(Instant(asked * MS));
            round_trip.answered(Instant((asked + took) * MS));
        }
        assert_eq!(round_trip.mean(), Some(Duration(23 * MS)), "8, then 28, then 23");
    }

    #[test]
    fn heartbeats_in_a_hurry_are_not_taken_for_one_another() {
        let mut round_trip = RoundTrip::default();
        for at in [0, 10, 20] {
            round_trip.asked(Instant(at * MS));
        }
        for at in [100, 110, 120] {
            round_trip.answered(Instant(at * MS));
        }
        assert_eq!(round_trip.mean(), Some(Duration(100 * MS)));
        // This answer was not asked for, and the next heartbeat is timed on its own.
        round_trip.answered(Instant(130 * MS));
        round_trip.asked(Instant(500 * MS));
        round_trip.answered(Instant(600 * MS));
        assert_eq!(round_trip.mean(), Some(Duration(100 * MS)));
    }

    #[test]
    fn what_was_asked_on_another_connection_is_not_waited_for() {
        let mut round_trip = RoundTrip::default();
        round_trip.asked(Instant(0));
        round_trip.connected();
        round_trip.asked(Instant(9_000 * MS));
        round_trip.answered(Instant(9_040 * MS));
        assert_eq!(round_trip.mean(), Some(Duration(40 * MS)));
        round_trip.connected();
        assert_eq!(round_trip.mean(), Some(Duration(40 * MS)), "the way is the same");
    }
}
