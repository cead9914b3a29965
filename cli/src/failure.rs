//! How a command fails: exit code, one sentence, and what to do about it.
//!
//! Exit codes are 0 for success, 1 where the job or the command itself failed, 2 for wrong usage,
//! 3 where the cluster cannot be reached, 130 where the user interrupted a wait. A reader that went
//! away (a broken pipe) is no failure.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::output::style::{self, Stream};

/// What the caller's shell is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Whoever read the output has enough of it.
    ReaderGone = 0,
    /// The job failed, or the command could not do what it was asked.
    Failed = 1,
    /// The command line or a configuration is wrong.
    Usage = 2,
    /// No master answers.
    Unreachable = 3,
    /// Ctrl-C while something was waited for, as shells tell it.
    Interrupted = 130,
}

/// A command that did not succeed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    exit: Exit,
    text: String,
    hint: Option<String>,
}

impl Failure {
    /// The job failed, or the command could not do what it was asked.
    pub(crate) fn failed(text: impl Into<String>) -> Failure {
        Failure { exit: Exit::Failed, text: text.into(), hint: None }
    }

    /// The command line or a configuration is wrong.
    pub(crate) fn usage(text: impl Into<String>) -> Failure {
        Failure { exit: Exit::Usage, ..Failure::failed(text) }
    }

    /// No master answers.
    pub(crate) fn unreachable(text: impl Into<String>) -> Failure {
        Failure { exit: Exit::Unreachable, ..Failure::failed(text) }
    }

    /// The user did not want to wait any longer, and was told how to go on.
    pub(crate) fn interrupted() -> Failure {
        Failure { exit: Exit::Interrupted, ..Failure::failed("") }
    }

    /// Standard output could not be written.
    pub(crate) fn output(error: &io::Error) -> Failure {
        let exit = match error.kind() {
            io::ErrorKind::BrokenPipe => Exit::ReaderGone,
            _ => Exit::Failed,
        };
        Failure { exit, ..Failure::failed(format!("write the output: {error}")) }
    }

    /// Another process of ours failed with this exit code and has said why.
    pub(crate) fn said(code: Option<i32>) -> Failure {
        let exit = match code {
            Some(2) => Exit::Usage,
            Some(3) => Exit::Unreachable,
            _ => Exit::Failed,
        };
        Failure { exit, ..Failure::failed("") }
    }

    /// Adds what to do about it.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Failure {
        Failure { hint: Some(hint.into()), ..self }
    }

    /// Says it on standard error; the exit code for the shell.
    pub(crate) fn report(&self) -> ExitCode {
        if self.exit != Exit::ReaderGone && !self.text.is_empty() {
            let mut stderr = io::stderr().lock();
            let label = Stream::Error.paint(style::error(), "error:");
            // Nobody who reads it changes nothing about the exit code.
            let _ = writeln!(stderr, "{label} {}", self.text);
            if let Some(hint) = &self.hint {
                let label = Stream::Error.paint(style::hint(), "hint:");
                let _ = writeln!(stderr, "\n{label} {hint}");
            }
        }
        ExitCode::from(self.exit as u8)
    }
}

/// Says what was tried where an error passes.
pub(crate) trait During<T> {
    /// Turns an error into a failure that begins with what was tried.
    fn during(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Error> During<T> for Result<T, E> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure::failed(format!("{}: {}", what(), node::log::chain(&error))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_tells_what_was_tried_and_everything_behind() {
        let inner = io::Error::new(io::ErrorKind::NotFound, "not there");
        let outer = node::log::LogError::Open { path: "x".into(), source: inner };
        let failure = Err::<(), _>(outer).during(|| "start".into()).unwrap_err();
        assert_eq!(failure, Failure::failed("start: open log file x: not there"));
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let gone = Failure::output(&io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(gone.exit, Exit::ReaderGone);
        let full = Failure::output(&io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(full.exit, Exit::Failed);
    }
}
