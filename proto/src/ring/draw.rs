//! The draws of rendezvous hashing in integers: a hash for each (member, partition), its negative
//! logarithm from a table, divided by the weight.
//!
//! The logarithm has 44 bits of fraction. Between two of the table's 1,025 points it is a straight
//! line, at most 2^-20 / 8 / ln 2 = 1.8e-7 off; it is the same error for every member, so it
//! shifts no member's share, and it never decreases, so it reorders no two draws of equal weight.

use crate::ids::NodeId;
use crate::ring::Partition;

const FRACTION_BITS: u32 = 44;
const TABLE_BITS: u32 = 10;
const POINTS: usize = (1 << TABLE_BITS) + 1;

/// `log2(1 + i / 1024)` in units of 2^-44.
static LOG2: [u64; POINTS] = {
    let mut table = [0; POINTS];
    let mut at = 0;
    while at < POINTS {
        table[at] = log2_of_point(at);
        at += 1;
    }
    table
};

/// Binary digits of a logarithm by repeated squaring; each squaring of a number in [1, 2) with 63
/// bits of fraction yields the next digit. Rounding down costs less than one unit of the last one.
const fn log2_of_point(at: usize) -> u64 {
    if at == POINTS - 1 {
        return 1 << FRACTION_BITS;
    }
    let mut number = ((1u128 << TABLE_BITS) + at as u128) << (63 - TABLE_BITS);
    let mut digits = 0;
    let mut digit = 0;
    while digit < FRACTION_BITS {
        number = (number * number) >> 63;
        digits <<= 1;
        if number >> 64 != 0 {
            digits |= 1;
            number >>= 1;
        }
        digit += 1;
    }
    digits
}

/// `-log2(u / 2^64)` in units of 2^-44: next to 0 for the highest `u`, 64 for 1 (and for 0).
fn negative_log2(u: u64) -> u64 {
    let u = u.max(1);
    let zeros = u.leading_zeros();
    // The mantissa without its leading one: 10 bits choose the point, 29 more the place between
    // two points, so that the product below fits: a step of the table is below 2^35.
    let mantissa = (u << zeros) << 1;
    let point = (mantissa >> (64 - TABLE_BITS)) as usize;
    let between = (mantissa << TABLE_BITS) >> 35;
    let (low, high) = (LOG2[point], LOG2[point + 1]);
    let log = low + (((high - low) * between) >> 29);
    ((u64::from(zeros) + 1) << FRACTION_BITS) - log
}

/// SplitMix64's finaliser: every bit of the result depends on every bit of `x`.
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// What a member's draws are made from.
pub(super) fn seed(node: NodeId) -> u64 {
    let (upper, lower) = ((node.0 >> 64) as u64, node.0 as u64);
    mix(mix(upper.wrapping_add(0x9e37_79b9_7f4a_7c15)) ^ lower)
}

/// What a partition's draws are made from.
pub(super) fn salt(partition: Partition) -> u64 {
    mix((u64::from(partition.0) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// The draw of `seed ^ salt`; the lowest wins. `None` for weight 0. The logarithm is below 2^51
/// and so takes 13 more bits before the division; a quotient loses less than one part in 2^25 for
/// the largest weights, and ties go by the node's UUID.
pub(super) fn weighted(seed_and_salt: u64, weight: u32) -> Option<u64> {
    let log = negative_log2(mix(seed_and_salt));
    (log << 13).checked_div(u64::from(weight))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_as_good_as_promised() {
        let mut worst = 0f64;
        let mut x = 1;
        for step in 0..200_000u64 {
            x = mix(x + step);
            let u = x >> (step % 64);
            let exact = 64.0 - (u.max(1) as f64).log2();
            let error = negative_log2(u) as f64 / (1u64 << FRACTION_BITS) as f64 - exact;
            worst = worst.max(error.abs());
        }
        assert!(worst < 1.8e-7, "{worst}");
        assert!(worst > 1.0e-7, "the samples miss the worst places: {worst}");
        assert_eq!(negative_log2(1), 64 << FRACTION_BITS);
        assert_eq!(negative_log2(0), 64 << FRACTION_BITS);
        assert_eq!(negative_log2(1 << 63), 1 << FRACTION_BITS);
        assert!(negative_log2(u64::MAX) < 32);
    }

    #[test]
    fn the_logarithm_never_increases() {
        for middle in [1u64 << 20, 1 << 40, 1 << 53, 1 << 63, (1 << 63) + (1 << 53)] {
            let logs: Vec<u64> = (middle - 500..middle + 500).map(negative_log2).collect();
            assert!(logs.is_sorted_by(|a, b| a >= b), "around {middle}");
        }
    }
}
