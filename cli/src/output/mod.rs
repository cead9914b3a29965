//! What commands print: data on standard output, for people or as JSON, and all else on standard
//! error.
//!
//! Everything can be read without colour; where there is a terminal, `style` adds some. Writing never
//! panics: a reader that goes away ends the command quietly.

pub(crate) mod human;
pub(crate) mod json;
pub(crate) mod progress;
pub(crate) mod style;

use std::io::Write;

use crate::failure::Failure;

/// Writes data to standard output at once.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// Writes data that need not be text to standard output at once.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| Failure::output(&error))
}

/// Says something on standard error that is no failure.
pub(crate) fn note(text: &str) {
    // Nobody who reads it is no reason to stop.
    let label = style::Stream::Error.paint(style::note(), "note:");
    let _ = writeln!(std::io::stderr(), "{label} {text}");
}
