//! Quantities as users write them: whole numbers, CPUs, bytes, durations.
//!
//! Each is read by a function that clap calls; what it cannot read it answers with a sentence that
//! says what can be given.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use proto::time::Duration;

/// Units of memory. A letter alone means what schedulers mean by it: a power of 1024.
const BYTES: &[(&str, u64)] = &[
    ("", 1),
    ("B", 1),
    ("K", 1 << 10),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("KB", 1_000),
    ("M", 1 << 20),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("G", 1 << 30),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("T", 1 << 40),
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
];

/// Units of time in microseconds, the longest first.
const TIMES: &[(&str, u64)] = &[
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
];

/// Whole numbers of a range. `note` is what else is good to know, such as what holds without it; or
/// nothing.
pub(crate) fn number<T>(
    range: RangeInclusive<T>,
    note: &'static str,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text| match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => {
            let (first, last) = (range.start(), range.end());
            let note = if note.is_empty() { String::new() } else { format!(" ({note})") };
            Err(format!("a whole number from {first} to {last} is wanted{note}"))
        }
    }
}

/// The address of a register: `7`, `0x1f`.
pub(crate) fn register(text: &str) -> Result<u64, String> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |digits| (digits, 16));
    // The standard library takes a sign as well.
    let is_number = digits.bytes().all(|it| it.is_ascii_hexdigit());
    let address = is_number.then(|| u64::from_str_radix(digits, radix).ok()).flatten();
    address.ok_or_else(|| "a number from 0 to 2^64-1 is wanted, decimal or 0x1f".to_owned())
}

/// CPUs in thousandths: `2`, `0.5`.
pub(crate) fn cpu_milli(text: &str) -> Result<u32, String> {
    let wrong = "a number of CPUs is wanted, such as 2 or 0.5";
    let milli = scaled(text, 1_000).ok_or(wrong)?;
    match u32::try_from(milli) {
        Ok(0) => Err("a task takes at least a thousandth of a CPU: 0.001".to_owned()),
        Ok(milli) => Ok(milli),
        Err(_) => Err(wrong.to_owned()),
    }
}

/// Bytes: `512MiB`, `4G`, `1.5G`, `100000`.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|it: char| it.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = BYTES.iter().find(|(name, _)| *name == unit);
    let bytes = unit.and_then(|(_, size)| scaled(number, *size));
    match bytes {
        Some(0) => {
            Err("0 bytes leave no room: at least 1 is wanted, such as 512M or 4G".to_owned())
        }
        Some(bytes) => Ok(bytes),
        None => Err("a size is wanted, such as 512M, 4G or 1.5GiB".to_owned()),
    }
}

/// A duration: `90s`, `1h30m`, `500ms`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a duration with its units is wanted, such as 90s, 5m or 1h30m".to_owned();
    let mut rest = text;
    let mut units = TIMES;
    let mut micros = 0u64;
    while !rest.is_empty() {
        let digits = rest.find(|it: char| it.is_ascii_alphabetic()).ok_or_else(wrong)?;
        let (number, behind) = rest.split_at(digits);
        let length = behind.find(|it: char| !it.is_ascii_alphabetic()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(length);
        // Each unit at most once, the longer first: 30m1h is a mistake for something else.
        let at = units.iter().position(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let (now, later) = units.split_at(at + 1);
        let size = now.last().map_or(0, |(_, size)| *size);
        let part = scaled(number, size).ok_or_else(wrong)?;
        micros = micros.checked_add(part).ok_or_else(wrong)?;
        (rest, units) = (behind, later);
    }
    if micros == 0 {
        return Err("a duration above 0 is wanted, such as 90s, 5m or 1h30m".to_owned());
    }
    Ok(Duration::from_micros(micros))
}

/// A decimal number times a unit, without rounding what matters: `None` for anything else.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |text: &str| {
        (1..=18).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    if !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let parts: u128 = fraction.parse().ok()?;
    let denominator = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let part = u64::try_from(parts * u128::from(unit) / denominator).ok()?;
    whole.checked_mul(unit)?.checked_add(part)
}

/// Bytes as people read them: `17 B`, `1.5 MiB`.
pub(crate) fn shown_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    // What would be rounded up to 1024.0 is one of the next unit.
    while value >= 1023.95
        && let Some(next) = units.next()
    {
        value /= 1024.0;
        unit = Some(next);
    }
    format!("{value:.1} {}", unit.unwrap_or(&""))
}

/// A measured time for people: `12 µs`, `3.4 ms`, `5.6 s`, and from a minute on a [`span`].
pub(crate) fn shown_time(time: Duration) -> String {
    match time.as_micros() {
        us @ 0..1_000 => format!("{us} µs"),
        us @ 1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        us @ 1_000_000..60_000_000 => format!("{:.1} s", us as f64 / 1e6),
        _ => span(time),
    }
}

/// A duration for people, in its two largest units: `3d 4h`, `2h 5m`, `1m 30s`, `7s`.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.as_micros() / 1_000_000;
    let (days, hours) = (seconds / 86_400, seconds / 3_600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m {rest}s"),
        (0, ..) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_their_two_largest_units() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (90, "1m 30s"), (7_500, "2h 5m"), (273_600, "3d 4h")]
        {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn numbers_are_whole_and_within_their_range() {
        let workers = number(1u32..=256, "default: 2");
        assert_eq!((workers("1"), workers("256")), (Ok(1), Ok(256)));
        for text in ["", "0", "257", "-1", "1.5", "many", "1 ", "99999999999999999999"] {
            let wrong = "a whole number from 1 to 256 is wanted (default: 2)";
            assert_eq!(workers(text), Err(wrong.to_owned()), "{text}");
        }
        let priority = number(-3i32..=3, "");
        assert_eq!(priority("-2"), Ok(-2));
        assert_eq!(priority("high"), Err("a whole number from -3 to 3 is wanted".to_owned()));
    }

    #[test]
    fn registers_are_decimal_or_hexadecimal() {
        for (text, address) in
            [("0", 0), ("17", 17), ("0x1F", 31), ("18446744073709551615", u64::MAX)]
        {
            assert_eq!(register(text), Ok(address), "{text}");
        }
        for text in ["", "0x", "-1", "+1", "0x+1", "1f", "x", "18446744073709551616"] {
            assert!(register(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cpus_are_read_in_thousandths() {
        for (text, milli) in [("1", 1000), ("0.5", 500), ("2.25", 2250), ("0.001", 1)] {
            assert_eq!(cpu_milli(text), Ok(milli), "{text}");
        }
        for text in ["", "0", "0.0001", "-1", "x", "1e3", ".5", "5.", "5000000", "1.5.2"] {
            assert!(cpu_milli(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_have_units_of_1024_unless_they_say_otherwise() {
        for (text, size) in [
            ("100", 100),
            ("4G", 4 << 30),
            ("512MiB", 512 << 20),
            ("1.5K", 1536),
            ("2GB", 2_000_000_000),
            ("1T", 1 << 40),
        ] {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        for text in ["", "0", "0G", "G", "4 G", "4g", "4GiBs", "-4G", "99999999999T", "1.2.3M"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_sums_of_units_the_longest_first() {
        for (text, millis) in [
            ("90s", 90_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("2d", 172_800_000),
            ("500ms", 500),
            ("1.5s", 1_500),
            ("1m1ms", 60_001),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "0s", "90", "s", "30m1h", "1h1h", "1 h", "1w", "-1s", "999999999999999d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bytes_and_times_are_shown_in_the_unit_that_fits() {
        let bytes = [0, 1023, 1024, 1_048_575, 3 << 30].map(shown_bytes);
        assert_eq!(bytes, ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "3.0 GiB"]);
        let times = [7, 1_500, 2_340_000, 125_000_000, 3_720_000_000];
        let times = times.map(|us| shown_time(Duration::from_micros(us)));
        assert_eq!(times, ["7 µs", "1.5 ms", "2.3 s", "2m 5s", "1h 2m"]);
    }
}
