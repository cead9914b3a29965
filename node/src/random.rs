//! Where randomness comes from: the operating system, and nowhere else.
//!
//! Logic gets a generator that was seeded here (or by a test); ids are drawn from full bits.

use std::io;

/// 128 random bits, for an id that nobody else has.
///
/// # Errors
/// Where the operating system has no randomness to give.
pub fn bits() -> io::Result<u128> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(format!("draw: {error}")))?;
    Ok(u128::from_le_bytes(bytes))
}

/// A generator for logic: a fast one, which must not make secrets or ids.
///
/// # Errors
/// As [`bits`].
pub fn generator() -> io::Result<fastrand::Rng> {
    Ok(fastrand::Rng::with_seed(bits()? as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_differ() {
        assert_ne!(bits().unwrap(), bits().unwrap());
        assert_ne!(generator().unwrap().u128(..), generator().unwrap().u128(..));
    }
}
