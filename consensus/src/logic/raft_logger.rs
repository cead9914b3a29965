//! What the `raft` crate logs, passed on to ours.
//!
//! Its levels are taken down one step: an election is news to this crate's users through an effect.

use slog::{Drain, Level, Logger, Never, OwnedKVList, Record, o};

struct Forward;

impl Drain for Forward {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
        let text = record.msg();
        match record.level() {
            Level::Critical | Level::Error => tracing::error!("{text}"),
            Level::Warning => tracing::info!("{text}"),
            Level::Info => tracing::debug!("{text}"),
            Level::Debug | Level::Trace => tracing::trace!("{text}"),
        }
        Ok(())
    }

    fn is_enabled(&self, level: Level) -> bool {
        // Raft formats whole messages for its debug level; nobody reads them.
        level.is_at_least(Level::Info)
    }
}

/// A logger for Raft.
pub(super) fn logger() -> Logger {
    Logger::root(Forward, o!())
}
