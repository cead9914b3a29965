//! Spans of time and numbers of bytes as people write them: `"250 ms"`, `"5 min"`, `"64 MiB"`.
//!
//! For fields of settings: `#[serde(with = "node::config::span")]` on a
//! [`proto::time::Duration`], `#[serde(with = "node::config::bytes")]` on a `u64`. A number
//! without unit is refused, because nobody can tell what it means.

/// What a unit is called and how many of the smallest one it holds, in ascending order.
type Units = &'static [(&'static str, u64)];

const TIME: Units = &[
    ("us", 1),
    ("ms", 1_000),
    ("s", 1_000_000),
    ("min", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
];

const BYTES: Units =
    &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

/// Exact: digits, at most one point, a unit, and a whole number of the smallest unit.
fn parse(text: &str, units: Units) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(digits);
    let (_, size) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let scale = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let (whole, fraction): (u128, u128) = (whole.parse().ok()?, fraction.parse().ok()?);
    let parts = whole.checked_mul(scale)?.checked_add(fraction)?.checked_mul(u128::from(*size))?;
    (parts % scale == 0).then(|| u64::try_from(parts / scale).ok())?
}

/// In the largest unit of which it is a whole number.
fn format(value: u64, units: Units) -> String {
    let fitting =
        units.iter().rev().find(|(_, size)| value >= *size && value.is_multiple_of(*size));
    match fitting.or(units.first()) {
        Some((unit, size)) => format!("{} {unit}", value / size),
        None => value.to_string(),
    }
}

/// Spans of time: `us`, `ms`, `s`, `min`, `h`, `d`.
pub mod span {
    use proto::time::Duration;
    use serde::de::{Error, Unexpected};
    use serde::{Deserialize, Deserializer, Serializer};

    /// Reads `"0.9 s"`.
    ///
    /// # Errors
    /// Where the text is no number with a unit of time.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        let span = super::parse(&text, super::TIME).map(Duration::from_micros);
        let expected = "a time such as \"250 ms\" or \"5 min\" (us, ms, s, min, h, d)";
        span.ok_or_else(|| D::Error::invalid_value(Unexpected::Str(&text), &expected))
    }

    /// Writes the same.
    ///
    /// # Errors
    /// As the serializer says.
    pub fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format(span.as_micros(), super::TIME))
    }
}

/// Numbers of bytes: `B`, `KiB`, `MiB`, `GiB`, `TiB`.
pub mod bytes {
    use serde::de::{Error, Unexpected};
    use serde::{Deserialize, Deserializer, Serializer};

    /// Reads `"64 MiB"`.
    ///
    /// # Errors
    /// Where the text is no number with a unit of bytes.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        let expected = "a size such as \"64 MiB\" (B, KiB, MiB, GiB, TiB)";
        super::parse(&text, super::BYTES)
            .ok_or_else(|| D::Error::invalid_value(Unexpected::Str(&text), &expected))
    }

    /// Writes the same.
    ///
    /// # Errors
    /// As the serializer says.
    pub fn serialize<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format(*bytes, super::BYTES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_read_exactly() {
        let good = [
            ("250 ms", 250_000),
            ("250ms", 250_000),
            ("0.9 s", 900_000),
            ("0.000001 s", 1),
            (" 7 d ", 604_800_000_000),
            ("0 s", 0),
        ];
        for (text, micros) in good {
            assert_eq!(parse(text, TIME), Some(micros), "{text}");
        }
        assert_eq!(parse("1.5 KiB", BYTES), Some(1536));
        let bad = [
            "",
            "3",
            "s",
            "3 m",
            "3 S",
            "-3 s",
            "1.2.3 s",
            ".5 s",
            "5. s",
            "0.0000001 s",
            "3 s 2",
            "999999999999 d",
            "1e3 s",
            "٣ s",
        ];
        for text in bad {
            assert_eq!(parse(text, TIME), None, "{text}");
        }
        assert_eq!(parse("0.3 B", BYTES), None);
        assert_eq!(parse(&format!("0.{} s", "0".repeat(60)), TIME), None);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..1_000 {
            let value = rng.u64(..) >> rng.u32(0..64);
            for units in [TIME, BYTES] {
                assert_eq!(parse(&format(value, units), units), Some(value));
            }
        }
        assert_eq!(format(90_000_000, TIME), "90 s");
        assert_eq!(format(300_000_000, TIME), "5 min");
        assert_eq!(format(0, BYTES), "0 B");
        assert_eq!(format(64 << 20, BYTES), "64 MiB");
    }
}
