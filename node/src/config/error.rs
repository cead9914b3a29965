//! What can be wrong with settings, said so that the operator knows what to change and where.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::{self, Expected, Unexpected};

use super::{Origin, nearest};

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read configuration {}", path.display())]
    Read {
        /// The file as it was named.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{}:{line}: not TOML: {text}", path.display())]
    Syntax {
        /// The file as it was named.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the parser says.
        text: String,
    },
    /// A key that does not exist, or one with a value that it cannot have.
    #[error("{origin}: {key}: {text}")]
    Value {
        /// Who set it.
        origin: Origin,
        /// The key with its tables, `worker.slots`.
        key: String,
        /// What is wrong and what is allowed.
        text: String,
    },
    /// A key without default that nobody set.
    #[error("{key} is not set: set it in {}, or by {variable}", file_or_any(file.as_deref()))]
    Missing {
        /// The file that was read, if any.
        file: Option<PathBuf>,
        /// The key with its tables, `node.data`.
        key: String,
        /// The environment variable that would set it.
        variable: String,
    },
    /// A value without TOML form; the settings themselves are good.
    #[error("show configuration: {text}")]
    NotShown {
        /// What the writer says.
        text: String,
    },
}

fn file_or_any(file: Option<&Path>) -> String {
    file.map_or("a configuration file".into(), |path| path.display().to_string())
}

/// What is wrong while the settings are being read; the place is added on the way out.
#[derive(Debug)]
pub(super) struct Wrong {
    what: What,
    place: Option<(String, Origin)>,
}

#[derive(Debug)]
enum What {
    Text(String),
    Missing(&'static str),
}

impl Wrong {
    /// Adds the place, unless one further in is known.
    pub(super) fn at(mut self, key: &str, origin: &Origin) -> Wrong {
        if self.place.is_none() {
            self.place = Some((key.to_owned(), origin.clone()));
        }
        self
    }

    pub(super) fn finish(self, file: Option<&Path>) -> ConfigError {
        let (key, origin) = self.place.unwrap_or_else(|| (String::new(), Origin::Default));
        match self.what {
            What::Text(text) => ConfigError::Value { origin, key, text },
            What::Missing(field) => {
                let key = super::read::join(&key, field);
                let variable =
                    format!("{}{}", super::PREFIX, key.replace('.', "_").to_ascii_uppercase());
                ConfigError::Missing { file: file.map(Path::to_owned), key, variable }
            }
        }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Text(text) => f.write_str(text),
            What::Missing(field) => write!(f, "{field} is not set"),
        }
    }
}

impl std::error::Error for Wrong {}

impl de::Error for Wrong {
    fn custom<T: fmt::Display>(text: T) -> Wrong {
        Wrong { what: What::Text(text.to_string()), place: None }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Wrong {
        Wrong::custom(format_args!("is {found}, but must be {expected}"))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Wrong {
        Wrong::custom(format_args!("is {found}, but must be {expected}"))
    }

    fn unknown_variant(found: &str, expected: &'static [&'static str]) -> Wrong {
        Wrong::custom(format_args!("is {found:?}; allowed are {}", expected.join(", ")))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Wrong {
        if expected.is_empty() {
            return Wrong::custom("unknown key; none is allowed here");
        }
        let meant = nearest(field, expected).map(|it| format!(" (is {it} meant?)"));
        Wrong::custom(format_args!(
            "unknown key{}; allowed are {}",
            meant.unwrap_or_default(),
            expected.join(", ")
        ))
    }

    fn missing_field(field: &'static str) -> Wrong {
        Wrong { what: What::Missing(field), place: None }
    }
}
