//! How many descriptors a process may have open: a daemon takes what the system allows, and knows
//! what it was started with, for the processes that it starts.

use std::sync::OnceLock;

use rustix::io;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More than any daemon needs. Some systems allow a thousand times as many, and programs that walk
/// all that might be open take seconds then.
const MOST: u64 = 1 << 20;

/// The soft limit that this process was started with.
static ORIGINAL: OnceLock<Option<u64>> = OnceLock::new();

/// Raises the soft limit to the hard one. The soft limit is low on most systems for the sake of old
/// programs that use `select`: they are to have it still, see [`original`].
///
/// # Errors
/// As the operating system says; nothing was changed then.
pub fn raise() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    ORIGINAL.get_or_init(|| limit.current);
    let wanted = limit.maximum.unwrap_or(MOST).min(MOST);
    match limit.current {
        Some(current) if current < wanted => {
            setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit })
        }
        _ => Ok(()),
    }
}

/// The soft limit that this process was started with; `None` where nothing raised it, or there was
/// none.
#[must_use]
pub fn original() -> Option<u64> {
    ORIGINAL.get().copied().flatten()
}

/// Lowers the soft limit of this process to this one.
///
/// # Errors
/// As the operating system says.
pub fn lower(soft_limit: u64) -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(soft_limit), ..limit })
}
