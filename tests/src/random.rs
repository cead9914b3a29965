//! Randomness of a simulated run: one seed, one independent stream for each subsystem.
//!
//! The streams are salted, so that drawing once more in the network does not change what the disks
//! or the workload do: a failing seed stays failing while its cause is narrowed down.

use fastrand::Rng;
use proto::time::Duration;

/// Who draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Latency, jitter, what survives a disconnect.
    Network,
    /// How long the disks take and what they forget.
    Disk,
    /// What users do.
    Workload,
    /// Which faults there are, when and where.
    Faults,
    /// Seeds of the processes' own generators, clocks.
    Process,
}

impl Stream {
    const fn salt(self) -> u64 {
        match self {
            Stream::Network => 0x6e65_7477_6f72_6b00,
            Stream::Disk => 0x6469_736b_0000_0000,
            Stream::Workload => 0x776f_726b_6c6f_6164,
            Stream::Faults => 0x6661_756c_7473_0000,
            Stream::Process => 0x7072_6f63_6573_7300,
        }
    }
}

/// The generator of one stream of a seed.
pub(crate) fn stream(seed: u64, stream: Stream) -> Rng {
    Rng::with_seed(mixed(mixed(seed) ^ stream.salt()))
}

/// Spreads neighbouring seeds over all 64 bits (the finaliser of splitmix64).
fn mixed(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// True `per_mille` times out of a thousand.
pub(crate) fn chance(rng: &mut Rng, per_mille: u32) -> bool {
    rng.u32(0..1000) < per_mille
}

/// A span from `low` to `high`, both included.
pub(crate) fn span(rng: &mut Rng, low: Duration, high: Duration) -> Duration {
    Duration(rng.u64(low.0..=high.0))
}

/// A span around `mean` as if events came independently of each other, at most ten times as long.
pub(crate) fn interval(rng: &mut Rng, mean: Duration) -> Duration {
    let span = -(1.0 - rng.f64()).ln() * mean.0 as f64;
    Duration((span as u64).clamp(1, mean.0.saturating_mul(10).max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_one_seed_differ_and_repeat() {
        let draw = |seed, of| stream(seed, of).u64(..);
        assert_eq!(draw(7, Stream::Disk), draw(7, Stream::Disk));
        assert_ne!(draw(7, Stream::Disk), draw(7, Stream::Network));
        assert_ne!(draw(7, Stream::Disk), draw(8, Stream::Disk));
    }
}
