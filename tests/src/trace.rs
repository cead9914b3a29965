//! The trace of a run: one line for each event, and a running hash over all of them.
//!
//! The hash is always kept (the same seed must give the same one); lines are written only where
//! somebody asked to read them. Columns: virtual time, process, role, what.

use std::fmt;
use std::io::Write as _;

use proto::time::Instant;

/// Hash and, if wanted, lines of a run.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    events: u64,
    print: Print,
}

/// Whether the lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Print {
    /// Only the hash is kept.
    Nothing,
    /// Every line goes to the standard output.
    Lines,
}

impl Trace {
    pub(crate) fn new(print: Print) -> Trace {
        Trace { hash: 0xcbf2_9ce4_8422_2325, events: 0, print }
    }

    /// One event. `numbers` is what distinguishes it and goes into the hash; `text` says the same
    /// to people and is not evaluated unless it is printed.
    pub(crate) fn event<T: fmt::Display>(
        &mut self,
        now: Instant,
        who: &str,
        what: &'static str,
        numbers: &[u64],
        text: impl FnOnce() -> T,
    ) {
        self.events += 1;
        self.mix(now.0);
        self.mix(digest(who.as_bytes()));
        self.mix(digest(what.as_bytes()));
        for &number in numbers {
            self.mix(number);
        }
        if self.print == Print::Lines {
            // A reader who closes the pipe early (`| head`) is no failure of the run.
            let (now, text) = (now.to_string(), text());
            let line = writeln!(std::io::stdout(), "{now:>11} {who:<4} {what:<9} {text}");
            drop(line);
        }
    }

    fn mix(&mut self, number: u64) {
        self.hash = (self.hash.rotate_left(5) ^ number).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn events(&self) -> u64 {
        self.events
    }
}

/// A fast digest of bytes for the trace and for comparing states; not against an adversary.
pub(crate) fn digest(bytes: &[u8]) -> u64 {
    let mut hash = bytes.len() as u64;
    let mut mix = |number: u64| {
        hash = (hash.rotate_left(5) ^ number).wrapping_mul(0x517c_c1b7_2722_0a95);
    };
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        mix(u64::from_le_bytes(*word));
    }
    for &byte in rest {
        mix(u64::from(byte));
    }
    hash
}
