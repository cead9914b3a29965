//! What an operator sets: defaults < file < environment < flags.
//!
//! A tier's settings are one struct of tables, `#[serde(deny_unknown_fields)]` on each: `node`
//! ([`NodeConfig`]) and one that is called as the tier. Key `slots` of table `worker` is
//! `[worker] slots = 8` in the file, `REMUDA_WORKER_SLOTS=8` in the environment and whatever flag
//! the tier gives it. Everything wrong is an error that names where it was set, its key and what is
//! allowed there; nothing is ignored. Deliberately not here: what a setting means.

mod check;
mod error;
mod nearest;
mod node_config;
mod quantity;
mod read;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use check::{check, check_flat};
pub use error::ConfigError;
pub use nearest::nearest;
pub use node_config::NodeConfig;
pub use quantity::{bytes, span};
use read::{Entry, Setting, Table};

/// What every environment variable of ours begins with.
const PREFIX: &str = "REMUDA_";

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A line of the configuration file.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A variable of the environment.
    Environment {
        /// Its name.
        variable: String,
    },
    /// A flag of the command line.
    Flag {
        /// As it is written, `--listen`.
        flag: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Environment { variable } => write!(f, "environment variable {variable}"),
            Origin::Flag { flag } => write!(f, "flag {flag}"),
        }
    }
}

/// A value given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The flag as it is written, for errors: `--slots`.
    pub flag: String,
    /// The key that it sets, with its tables: `worker.slots`.
    pub key: String,
    /// The text that was given; a list is separated by commas.
    pub value: String,
}

/// Settings together with where each came from.
#[derive(Clone, Debug)]
pub struct Loaded<T> {
    /// The settings.
    pub settings: T,
    origins: BTreeMap<String, Origin>,
}

/// Reads settings of type `T`, a struct whose fields are tables. `environment` is
/// [`environment()`], or what a test puts in its place; variables that name none of `T`'s tables
/// (`REMUDA_CLUSTER`, `REMUDA_LOG`) are not meant for it.
///
/// # Errors
/// [`ConfigError`] where the file cannot be read, is not TOML, or any value has an unknown key, the
/// wrong type, or is missing.
pub fn load<T: DeserializeOwned>(
    file: Option<&Path>,
    environment: &[(String, String)],
    overrides: &[Override],
) -> Result<Loaded<T>, ConfigError> {
    let mut settings = Table::new();
    for &table in read::fields_of::<T>() {
        settings.insert(table.to_owned(), Entry::table());
    }
    if let Some(path) = file {
        // Whoever starts a process wants to know one reason why it does not; `check` tells all.
        read::file(path, &mut settings).map_err(|(first, _)| first)?;
    }
    for (variable, value) in environment {
        let Some((table, key)) = table_and_key(variable, &settings) else {
            continue;
        };
        let origin = Origin::Environment { variable: variable.clone() };
        let entry = Entry { setting: Setting::Text(value.clone()), origin };
        read::set(&mut settings, &[&table, &key], entry)?;
    }
    for Override { flag, key, value } in overrides {
        let origin = Origin::Flag { flag: flag.clone() };
        let entry = Entry { setting: Setting::Text(value.clone()), origin };
        let path: Vec<&str> = key.split('.').collect();
        read::set(&mut settings, &path, entry)?;
    }
    let mut origins = BTreeMap::new();
    read::origins(&settings, "", &mut origins);
    let root = Entry { setting: Setting::Table(settings), origin: Origin::Default };
    let settings = T::deserialize(read::Reader::root(&root)).map_err(|wrong| wrong.finish(file))?;
    Ok(Loaded { settings, origins })
}

/// The variables of this process's environment that begin with `REMUDA_`, sorted. One that is not
/// UTF-8 keeps a replacement sign in its place, which no setting accepts silently.
#[must_use]
pub fn environment() -> Vec<(String, String)> {
    let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
    let mut ours: Vec<(String, String)> = std::env::vars_os()
        .map(|(variable, value)| (text(variable), text(value)))
        .filter(|(variable, _)| variable.starts_with(PREFIX))
        .collect();
    ours.sort();
    ours
}

/// `REMUDA_WORKER_SLOTS` is key `slots` of table `worker`, if there is such a table.
fn table_and_key(variable: &str, settings: &Table) -> Option<(String, String)> {
    let rest = variable.strip_prefix(PREFIX)?;
    let (table, key) = rest.split_once('_')?;
    let table = table.to_ascii_lowercase();
    settings.contains_key(&table).then(|| (table, key.to_ascii_lowercase()))
}

impl<T> Loaded<T> {
    /// Where the value of a key (`worker.slots`) comes from.
    #[must_use]
    pub fn origin(&self, key: &str) -> &Origin {
        self.origins.get(key).unwrap_or(&Origin::Default)
    }
}

impl<T: Serialize> Loaded<T> {
    /// What `--show-config` prints: a configuration file that sets exactly what holds now, with a
    /// comment behind each value that says where it comes from. Optional values that nobody set are
    /// left out.
    ///
    /// # Errors
    /// [`ConfigError::NotShown`] where a value has no TOML form, such as a number above 2^63.
    pub fn show(&self) -> Result<String, ConfigError> {
        let table = toml::Table::try_from(&self.settings)
            .map_err(|error| ConfigError::NotShown { text: error.to_string() })?;
        let mut text = String::new();
        self.show_table(&table, "", &mut text);
        Ok(text)
    }

    fn show_table(&self, table: &toml::Table, path: &str, text: &mut String) {
        let (tables, values): (Vec<_>, Vec<_>) =
            table.iter().partition(|(_, value)| value.is_table());
        if !values.is_empty() && !path.is_empty() {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&format!("[{path}]\n"));
        }
        for (key, value) in values {
            let origin = self.origin(&read::join(path, key));
            text.push_str(&format!("{key} = {value}  # {origin}\n"));
        }
        for (key, value) in tables {
            if let Some(inner) = value.as_table() {
                self.show_table(inner, &read::join(path, key), text);
            }
        }
    }
}

#[cfg(test)]
mod tests;
