//! Everything that is wrong with a configuration file, not only what a daemon would stumble over
//! first.
//!
//! Reads the file as a daemon would, notes what is wrong, takes it out and reads again. Looks at
//! the file alone: not at the environment, and not at whether a folder or address can be had.

use std::path::Path;

use serde::de::DeserializeOwned;

use super::read::{self, Entry, Reader, Setting, Table};
use super::{ConfigError, Origin};

/// What is wrong with the configuration file of a tier, whose settings are a struct of tables; in
/// the order of the lines, and behind them what is not set.
#[must_use]
pub fn check<T: DeserializeOwned>(path: &Path) -> Vec<ConfigError> {
    let tables = read::fields_of::<T>().iter();
    check_into::<T>(path, tables.map(|table| ((*table).to_owned(), Entry::table())).collect())
}

/// What is wrong with a file whose keys are in no table.
#[must_use]
pub fn check_flat<T: DeserializeOwned>(path: &Path) -> Vec<ConfigError> {
    check_into::<T>(path, Table::new())
}

fn check_into<T: DeserializeOwned>(path: &Path, mut settings: Table) -> Vec<ConfigError> {
    if let Err((first, rest)) = read::file(path, &mut settings) {
        let mut found: Vec<ConfigError> = std::iter::once(first).chain(rest).collect();
        found.sort_by_key(line_of);
        return found;
    }
    let mut found = Vec::new();
    // Each turn takes a value out of the tree, or puts in one that was missing: it ends.
    while let Err(error) = read_once::<T>(&mut settings, path) {
        let goes_on = match &error {
            ConfigError::Value { origin: Origin::File { .. }, key, .. } => {
                let parts: Vec<&str> = key.split('.').collect();
                read::remove(&mut settings, &parts).is_some()
            }
            ConfigError::Missing { key, .. } => {
                let parts: Vec<&str> = key.split('.').collect();
                let entry = match parts.as_slice() {
                    [_] => Entry::table(),
                    _ => Entry { setting: Setting::Text("any".into()), origin: Origin::Default },
                };
                read::set(&mut settings, &parts, entry).is_ok()
            }
            // The value that was put in is none for this key.
            _ => break,
        };
        if !follows(&error, &found) {
            found.push(error);
        }
        if !goes_on {
            break;
        }
    }
    found.sort_by_key(line_of);
    found
}

/// The line that an error is about; behind all others where it is about none.
fn line_of(error: &ConfigError) -> usize {
    match error {
        ConfigError::Value { origin: Origin::File { line, .. }, .. }
        | ConfigError::Syntax { line, .. } => *line,
        _ => usize::MAX,
    }
}

/// Reads the tree, and leaves it as it was.
fn read_once<T: DeserializeOwned>(settings: &mut Table, path: &Path) -> Result<(), ConfigError> {
    let root = Entry { setting: Setting::Table(std::mem::take(settings)), origin: Origin::Default };
    let read = T::deserialize(Reader::root(&root)).map_err(|wrong| wrong.finish(Some(path)));
    if let Setting::Table(table) = root.setting {
        *settings = table;
    }
    read.map(drop)
}

/// True where a value is missing only because it, or the table that it is in, was taken out.
fn follows(error: &ConfigError, found: &[ConfigError]) -> bool {
    let ConfigError::Missing { key: missing, .. } = error else { return false };
    found.iter().any(|before| match before {
        ConfigError::Value { key, .. } => missing
            .strip_prefix(key.as_str())
            .is_some_and(|it| it.is_empty() || it.starts_with('.')),
        _ => false,
    })
}
