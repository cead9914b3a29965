//! JSON for programs: one value in one line.

use serde::Serialize;

use crate::failure::{During, Failure};

/// Prints a value as one line of JSON.
pub(crate) fn print(value: &impl Serialize) -> Result<(), Failure> {
    let mut line = serde_json::to_string(value).during(|| "write JSON".into())?;
    line.push('\n');
    super::print(&line)
}
