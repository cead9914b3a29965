//! The runtime that does nothing, for measuring: exit code and duration of each task follow from a
//! seed, so that a benchmark can tell every outcome without having run it, and runs of equal
//! outcomes cannot be foreseen by whoever deals them.

use serde::{Deserialize, Serialize};

use crate::ids::TaskIndex;
use crate::time::Duration;

/// What tasks of the noop runtime pretend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noop {
    /// Where everything follows from.
    pub seed: u64,
    /// Shortest duration of a task.
    pub shortest: Duration,
    /// Longest duration of a task; a task takes something between the two.
    pub longest: Duration,
    /// Of a million tasks, how many end with an exit code that is not 0.
    pub failed_per_million: u32,
    /// Bytes that each task prints, at most [`PACKED_OUTPUT_BYTES`](crate::limits::PACKED_OUTPUT_BYTES);
    /// see [`Noop::printed`].
    pub output_bytes: u32,
}

/// How one task of the noop runtime ends, in every attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoopOutcome {
    /// Exit code: 0, or 1 to 3.
    pub exit_code: i32,
    /// How long it takes.
    pub duration: Duration,
}

impl Noop {
    /// How a task ends.
    #[must_use]
    pub fn outcome(&self, task: TaskIndex) -> NoopOutcome {
        let mut random = SplitMix { state: mix(self.seed) ^ task.0 };
        let is_failed = random.below(1_000_000) < u64::from(self.failed_per_million);
        let exit_code = if is_failed { 1 + random.below(3) as i32 } else { 0 };
        let spread = self.longest.0.saturating_sub(self.shortest.0).saturating_add(1);
        let duration = self.shortest + Duration(random.below(spread));
        NoopOutcome { exit_code, duration }
    }

    /// What a task prints, in every attempt: lower-case letters and a line feed at the end.
    #[must_use]
    pub fn printed(&self, task: TaskIndex) -> Vec<u8> {
        let mut random = SplitMix { state: mix(self.seed ^ 1) ^ task.0 };
        let mut text: Vec<u8> =
            (0..self.output_bytes).map(|_| b'a' + random.below(26) as u8).collect();
        if let Some(last) = text.last_mut() {
            *last = b'\n';
        }
        text
    }
}

/// The generator SplitMix64: part of what two programs agree about, so it is spelt out here.
struct SplitMix {
    state: u64,
}

impl SplitMix {
    /// A number below `bound` (which is above 0), by the upper half of a product.
    fn below(&mut self, bound: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        ((u128::from(mix(self.state)) * u128::from(bound)) >> 64) as u64
    }
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noop() -> Noop {
        let [shortest, longest] = [100, 199].map(Duration::from_micros);
        Noop { seed: 7, shortest, longest, failed_per_million: 250_000, output_bytes: 20 }
    }

    #[test]
    fn outcomes_never_change() {
        let outcomes: Vec<(i32, u64)> = (0..8)
            .map(|task| noop().outcome(TaskIndex(task)))
            .map(|outcome| (outcome.exit_code, outcome.duration.0))
            .collect();
        assert_eq!(
            outcomes,
            [(0, 130), (0, 127), (0, 132), (0, 110), (2, 161), (0, 187), (0, 174), (0, 127)]
        );
    }

    #[test]
    fn what_is_printed_never_changes() {
        let printed = |task| String::from_utf8(noop().printed(TaskIndex(task))).unwrap();
        assert_eq!([printed(0), printed(1)], ["bikyuzycyuvqwqokzyx\n", "tirvkarerbgrxvxsqwh\n"]);
        assert_eq!(Noop::default().printed(TaskIndex(0)), b"");
    }

    #[test]
    fn outcomes_have_the_asked_shares() {
        let outcomes: Vec<NoopOutcome> =
            (0..100_000).map(|task| noop().outcome(TaskIndex(task))).collect();
        let failed = outcomes.iter().filter(|outcome| outcome.exit_code != 0).count();
        assert!((24_000..26_000).contains(&failed), "{failed}");
        assert!(outcomes.iter().all(|outcome| (0..=3).contains(&outcome.exit_code)));
        let durations = || outcomes.iter().map(|outcome| outcome.duration.0);
        assert_eq!((durations().min(), durations().max()), (Some(100), Some(199)));
        let quick = Noop { seed: 7, ..Noop::default() };
        let outcome = quick.outcome(TaskIndex(u64::MAX));
        assert_eq!(outcome, NoopOutcome { exit_code: 0, duration: Duration::ZERO });
    }
}
