//! How fast blocks move: a token bucket over their bytes.

use proto::time::{Duration, Instant};

/// What an idle bucket gathers, as a share of a second: enough for small blocks to go in batches,
/// too little to be felt by readers (eyeballed).
const BURST_SHARE: u64 = 10;

/// Says when the next block may be sent.
#[derive(Debug)]
pub(super) struct Throttle {
    /// Bytes in a second; 0 for as fast as it goes.
    rate: u64,
    /// When all that was taken so far is paid for, at the rate.
    paid: Instant,
}

impl Throttle {
    pub(super) fn new(rate: u64) -> Throttle {
        Throttle { rate, paid: Instant(0) }
    }

    /// When something may be taken again; not in the future where it may be at once.
    pub(super) fn ready_at(&self) -> Instant {
        let burst = Duration::from_secs(1).0 / BURST_SHARE;
        Instant(self.paid.0.saturating_sub(burst))
    }

    /// Takes bytes; a block larger than what was gathered is paid for afterwards.
    pub(super) fn take(&mut self, now: Instant, bytes: u64) {
        if self.rate == 0 {
            return;
        }
        let span = u128::from(bytes) * 1_000_000 / u128::from(self.rate);
        let span = Duration(u64::try_from(span).unwrap_or(u64::MAX));
        self.paid = self.paid.max(now) + span;
    }

    /// Bytes that it lets through in `span`; without end where nothing is throttled.
    pub(super) fn bytes_in(&self, span: Duration) -> u64 {
        match self.rate {
            0 => u64::MAX,
            rate => (u128::from(rate) * u128::from(span.0) / 1_000_000) as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lets_the_rate_through_and_no_more() {
        let mut throttle = Throttle::new(1 << 20);
        let (mut now, mut taken) = (Instant(5_000_000), 0u64);
        let end = now + Duration::from_secs(10);
        while now < end {
            throttle.take(now, 64 << 10);
            taken += 64 << 10;
            now = now.max(throttle.ready_at());
        }
        let wanted = 10 << 20;
        assert!((wanted..wanted + (256 << 10)).contains(&taken), "{taken}");
        // A pause does not add up to more than a short burst.
        now += Duration::from_secs(100);
        let before = now;
        let mut burst = 0u64;
        while throttle.ready_at() <= now {
            throttle.take(before, 64 << 10);
            burst += 64 << 10;
        }
        assert!(burst <= 256 << 10, "{burst}");
    }

    #[test]
    fn a_rate_of_zero_does_not_throttle() {
        let mut throttle = Throttle::new(0);
        throttle.take(Instant(1), u64::MAX);
        assert_eq!(throttle.ready_at(), Instant(0));
    }
}
