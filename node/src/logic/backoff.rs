//! How long to wait before the next attempt: exponential, with full jitter, capped.

use proto::time::Duration;

/// The waits between attempts. With full jitter (a wait is drawn evenly between zero and its bound)
/// many that failed at the same moment do not come back at the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Bound of the first wait; each next bound is twice as long.
    pub first: Duration,
    /// The longest bound.
    pub longest: Duration,
}

impl Backoff {
    /// Longest wait after this many failures in a row; zero after none.
    #[must_use]
    pub fn bound(&self, failures: u32) -> Duration {
        let Some(doublings) = failures.checked_sub(1) else { return Duration::ZERO };
        let factor = 1u64.checked_shl(doublings).unwrap_or(u64::MAX);
        self.first.times(factor).min(self.longest)
    }

    /// A wait after this many failures in a row.
    #[must_use]
    pub fn wait(&self, failures: u32, random: &mut fastrand::Rng) -> Duration {
        Duration::from_micros(random.u64(0..=self.bound(failures).as_micros()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff =
        Backoff { first: Duration::from_millis(10), longest: Duration::from_millis(500) };

    #[test]
    fn bounds_double_up_to_the_cap() {
        let bounds: Vec<u64> = (0..9).map(|n| BACKOFF.bound(n).as_millis()).collect();
        assert_eq!(bounds, [0, 10, 20, 40, 80, 160, 320, 500, 500]);
        assert_eq!(BACKOFF.bound(u32::MAX), BACKOFF.longest);
    }

    #[test]
    fn waits_fill_the_whole_span_evenly() {
        let mut random = fastrand::Rng::with_seed(1);
        for failures in [1, 3, 6, 100] {
            let bound = BACKOFF.bound(failures).as_micros();
            let waits: Vec<u64> =
                (0..10_000).map(|_| BACKOFF.wait(failures, &mut random).as_micros()).collect();
            let mean = waits.iter().sum::<u64>() / waits.len() as u64;
            assert!(waits.iter().all(|wait| *wait <= bound));
            assert!(waits.iter().any(|wait| *wait < bound / 20));
            assert!(waits.iter().any(|wait| *wait > bound - bound / 20));
            assert!(mean.abs_diff(bound / 2) < bound / 20, "mean {mean} of at most {bound}");
        }
    }

    #[test]
    fn the_same_seed_waits_the_same() {
        let draw = |seed| {
            let mut random = fastrand::Rng::with_seed(seed);
            (1..20).map(|n| BACKOFF.wait(n, &mut random)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
