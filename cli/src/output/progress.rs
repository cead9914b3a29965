//! A bar on a terminal for work that takes long. Elsewhere there is none.

use std::io::{IsTerminal, Write};

/// Characters of a full bar.
const WIDTH: u64 = 40;

/// A bar in the last line of the terminal; the line ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    is_shown: bool,
}

impl Progress {
    /// A bar, where standard error is a terminal.
    pub(crate) fn on_terminal() -> Option<Progress> {
        std::io::stderr().is_terminal().then_some(Progress { is_shown: false })
    }

    /// Shows what is done of a whole that nobody knows yet.
    pub(crate) fn count(&mut self, files: u64, bytes: u64) {
        let _ = write!(std::io::stderr(), "\r{files} files, {} MiB", bytes >> 20);
        self.is_shown = true;
    }

    /// Shows how much of the whole is done.
    pub(crate) fn show(&mut self, done: u64, whole: u64) {
        // A terminal that went away is no reason to stop the work.
        let _ = write!(std::io::stderr(), "\r{}", bar(done, whole));
        self.is_shown = true;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            let _ = writeln!(std::io::stderr());
        }
    }
}

fn bar(done: u64, whole: u64) -> String {
    let part = |of: u64| (u128::from(done.min(whole)) * u128::from(of)) / u128::from(whole.max(1));
    let full = usize::try_from(part(WIDTH)).unwrap_or(0);
    let bar = "#".repeat(full);
    format!("[{bar:width$}] {:3} %  {done} of {whole}", part(100), width = WIDTH as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_fills_and_never_overflows() {
        assert_eq!(bar(0, 0), format!("[{}]   0 %  0 of 0", " ".repeat(40)));
        assert!(bar(1, 4).starts_with("[##########  "));
        assert!(bar(u64::MAX, u64::MAX).contains("] 100 %"));
        assert!(bar(9, 4).contains("] 100 %"));
    }
}
