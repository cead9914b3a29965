//! Where log lines go and which are kept.
//!
//! Lines are written by `tracing` with fields named by the glossary (`job=`, `task=`, `node=`,
//! `epoch=`). Which are kept is `REMUDA_LOG`, else the setting. Deliberately without rotation: the
//! file is opened for appending, so whatever rotates logs may copy and truncate it.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// The variable that decides which lines are kept, before any setting.
pub const VARIABLE: &str = "REMUDA_LOG";

/// Logging that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// What says which lines are kept makes no sense.
    #[error(
        "{whence}: {filter:?} does not say what to log (a level such as debug, or levels by \
         module such as info,worker=trace)"
    )]
    Filter {
        /// Where it was set.
        whence: String,
        /// What was set.
        filter: String,
        /// What the parser says.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The file cannot be opened.
    #[error("open log file {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Logging was started before in this process.
    #[error("start logging")]
    Started {
        /// What the library says.
        source: tracing::subscriber::SetGlobalDefaultError,
    },
}

/// Starts logging for the whole process: to `file`, or to standard error, with colours where that
/// is a terminal and `NO_COLOR` is not set. `setting` is what [`VARIABLE`] covers.
///
/// # Errors
/// [`LogError`].
pub fn start(setting: &str, file: Option<&Path>) -> Result<(), LogError> {
    let variable = std::env::var(VARIABLE).ok();
    let filter = filter(variable.as_deref(), setting)?;
    let started = match file {
        Some(path) => tracing::subscriber::set_global_default(lines(filter, append(path)?, false)),
        None => {
            let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            tracing::subscriber::set_global_default(lines(filter, io::stderr, colours))
        }
    };
    started.map_err(|source| LogError::Started { source })
}

/// An empty variable counts as none.
/// An error and all that lies behind it, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

fn filter(variable: Option<&str>, setting: &str) -> Result<EnvFilter, LogError> {
    let (whence, filter) = match variable {
        Some(variable) if !variable.is_empty() => (VARIABLE, variable),
        _ => ("node.log", setting),
    };
    EnvFilter::builder().parse(filter).map_err(|source| LogError::Filter {
        whence: whence.to_owned(),
        filter: filter.to_owned(),
        source,
    })
}

fn append(path: &Path) -> Result<Arc<File>, LogError> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.map(Arc::new).map_err(|source| LogError::Open { path: path.to_owned(), source })
}

fn lines<W>(filter: EnvFilter, writer: W, colours: bool) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(colours)
        // A line that finds no room on a full disk is lost. To complain of it on standard error,
        // which is on the same disk, would end the process.
        .log_internal_errors(false)
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(variable: Option<&str>, setting: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "kept from before\n").unwrap();
        let subscriber = lines(filter(variable, setting).unwrap(), append(&path).unwrap(), false);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(job = 7, "first");
            tracing::debug!("second");
            tracing::trace!(target: "elsewhere", "third");
        });
        std::fs::read_to_string(&path).unwrap()
    }

    #[test]
    fn lines_are_appended_with_level_and_fields_and_without_colours() {
        let log = logged(None, "info");
        assert!(log.starts_with("kept from before\n"), "{log}");
        assert!(log.contains(" INFO node::log::tests: first job=7\n"), "{log}");
        assert!(!log.contains("second") && !log.contains('\u{1b}'), "{log}");
    }

    #[test]
    fn the_variable_covers_the_setting() {
        assert!(logged(Some("debug"), "error").contains("second"));
        assert!(logged(Some(""), "debug").contains("second"));
        let by_module = logged(Some("error,elsewhere=trace"), "error");
        assert!(by_module.contains("third") && !by_module.contains("first"), "{by_module}");
    }

    #[test]
    fn nonsense_is_refused_and_names_its_source() {
        let error = filter(Some("node=loud"), "info").unwrap_err();
        assert!(error.to_string().starts_with("REMUDA_LOG: \"node=loud\" does not say"), "{error}");
        let error = filter(None, "node=loud").unwrap_err();
        assert!(error.to_string().starts_with("node.log: "), "{error}");
        let error = append(Path::new("not/there/log")).unwrap_err();
        assert_eq!(error.to_string(), "open log file not/there/log");
    }
}
