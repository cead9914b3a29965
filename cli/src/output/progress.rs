//! A bar on a terminal for work that takes long. Elsewhere there is none.

use std::fmt::Write;

use client::TreeProgress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// How often the bar is drawn (eyeballed: smooth enough to see that it moves).
const DRAWN_PER_S: u8 = 10;

const FILES: &str = "{spinner} {msg} files, {bytes} ({bytes_per_sec})";
const BYTES: &str = "[{bar:40}] {percent:>3} %  {bytes} of {total_bytes} ({bytes_per_sec})";
const BLOCKS: &str = "[{bar:40}] {percent:>3} %  {pos} of {len} blocks{msg}";
const TASKS: &str = "[{bar:40}] {percent:>3} %  {pos} of {len} tasks ({rate}){msg}";

/// A bar in the last line of a terminal; it is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Files and bytes of which nobody knows how many there are.
    pub(crate) fn files() -> Progress {
        Progress::new(ProgressBar::no_length(), FILES)
    }

    /// Bytes of a known number.
    pub(crate) fn bytes(whole: u64) -> Progress {
        Progress::new(ProgressBar::new(whole), BYTES)
    }

    /// Tasks of a job.
    pub(crate) fn tasks(whole: u64) -> Progress {
        Progress::new(ProgressBar::new(whole), TASKS)
    }

    /// Blocks of storage nodes, of which nobody knows yet how many there are.
    pub(crate) fn blocks() -> Progress {
        Progress::new(ProgressBar::new(0), BLOCKS)
    }

    fn new(bar: ProgressBar, template: &str) -> Progress {
        // It draws nothing where standard error is no terminal.
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(DRAWN_PER_S));
        // A wrong template would cost its looks only; a test reads them all.
        if let Ok(style) = ProgressStyle::with_template(template) {
            // Its own rate has four digits behind the point.
            let style = style.with_key("rate", |state: &ProgressState, text: &mut dyn Write| {
                // A text in memory takes whatever is written.
                let _ = write!(text, "{:.1}/s", state.per_sec());
            });
            bar.set_style(style.progress_chars("## "));
        }
        Progress { bar }
    }

    /// True where somebody sees it: else nobody need ask how far the work is.
    pub(crate) fn is_seen(&self) -> bool {
        !self.bar.is_hidden()
    }

    /// Shows what is done of a whole that nobody knows yet.
    pub(crate) fn count(&mut self, so_far: TreeProgress) {
        if self.is_seen() {
            self.bar.set_message(so_far.files.to_string());
            self.bar.set_position(so_far.bytes);
        }
    }

    /// Shows how much of the whole is done.
    pub(crate) fn show(&mut self, done: u64) {
        self.bar.set_position(done);
    }

    /// Shows how many blocks are done of all, and how many bytes were moved.
    pub(crate) fn show_blocks(&mut self, done: u64, whole: u64, moved: &str) {
        self.bar.set_message(format!(", {moved} moved"));
        self.bar.set_length(whole);
        self.bar.set_position(done);
    }

    /// Shows how many tasks have an outcome, how many of them failed, and how many run.
    pub(crate) fn show_tasks(&mut self, ended: u64, failed: u64, running: u64) {
        let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
        self.bar.set_message(format!("{failed}, {running} running"));
        self.bar.set_position(ended);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_can_be_read() {
        for template in [FILES, BYTES, BLOCKS, TASKS] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
        assert!(ProgressStyle::with_template("{bar:x").is_err(), "it refuses what is wrong");
    }
}
