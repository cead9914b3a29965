//! How far a task says it is: a short text in a file of its own, written by the task, read by its
//! worker.
//!
//! `remuda progress` writes it inside a task; a script may write the same words itself, such as
//! `echo 40% half way >$REMUDA_PROGRESS`. Nothing of it is believed further than it can be shown: a
//! file that says something else says nothing.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::str::FromStr;

use proto::limits::PROGRESS_TEXT_BYTES;

/// The environment variable of a task that names the file.
pub const VARIABLE: &str = "REMUDA_PROGRESS";

/// What is read of the file: a part, a blank, and the longest text, with room to spare.
pub(crate) const FILE_BYTES: usize = 2 * PROGRESS_TEXT_BYTES;

/// The whole, in the unit in which progress travels.
const WHOLE: u16 = 1_000;

/// How far a task is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Thousandths of it that are done, at most 1000.
    pub thousandths: u16,
    /// What it says beside, in one line of at most [`PROGRESS_TEXT_BYTES`]; may be empty.
    pub text: String,
}

/// Words that tell no progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("progress is a part of the whole: 40%, 0.4 or 3/7, and a text behind it if wanted")]
pub struct NoProgress;

impl Progress {
    /// Progress as it is told: a part, and a text, which is cut where it is too long.
    ///
    /// # Errors
    /// [`NoProgress`] where the part is none: `40%`, `0.4` and `3/7` are.
    pub fn new(part: &str, text: &str) -> Result<Progress, NoProgress> {
        let thousandths = thousandths(part).ok_or(NoProgress)?;
        // It is shown on terminals: a control character could say something to those.
        let text: String = text.chars().map(|it| if it.is_control() { ' ' } else { it }).collect();
        let text = text.trim();
        let end = text.floor_char_boundary(PROGRESS_TEXT_BYTES);
        let text = text.get(..end).unwrap_or_default().trim_end().to_owned();
        Ok(Progress { thousandths, text })
    }

    /// Writes it in place of what stood in the file, in one step: who reads meanwhile reads either.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn write(&self, file: &Path) -> io::Result<()> {
        let mut name = file.file_name().unwrap_or_default().to_owned();
        // Processes of one task may tell at the same time.
        name.push(format!(".{}", std::process::id()));
        let new = file.with_file_name(name);
        let written = fs::write(&new, format!("{self}\n")).and_then(|()| fs::rename(&new, file));
        if written.is_err() {
            // The error that led here is the one to tell.
            let _ = fs::remove_file(&new);
        }
        written
    }
}

/// The first line of a file.
impl FromStr for Progress {
    type Err = NoProgress;

    fn from_str(line: &str) -> Result<Progress, NoProgress> {
        let line = line.lines().next().unwrap_or_default().trim_start();
        let (part, text) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        Progress::new(part, text)
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (percent, tenth) = (self.thousandths / 10, self.thousandths % 10);
        match tenth {
            0 => write!(f, "{percent}%")?,
            _ => write!(f, "{percent}.{tenth}%")?,
        }
        if self.text.is_empty() { Ok(()) } else { write!(f, " {}", self.text) }
    }
}

fn thousandths(part: &str) -> Option<u16> {
    let number = |text: &str| text.parse::<f64>().ok().filter(|it| it.is_finite() && *it >= 0.0);
    let of_whole = match (part.strip_suffix('%'), part.split_once('/')) {
        (Some(percent), _) => number(percent)? / 100.0,
        (None, Some((done, whole))) => number(done)? / number(whole).filter(|it| *it > 0.0)?,
        (None, None) => number(part)?,
    };
    // Cut, not rounded: what is shown as the whole is the whole. The small step makes up for
    // fractions that binary numbers do not have.
    let is_part = of_whole <= 1.0;
    is_part.then(|| (of_whole * f64::from(WHOLE) + 1e-6).floor() as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(line: &str) -> Option<(u16, String)> {
        line.parse::<Progress>().ok().map(|it| (it.thousandths, it.text))
    }

    #[test]
    fn parts_are_percent_fractions_or_counts() {
        for (line, thousandths, text) in [
            ("40%", 400, ""),
            ("0.4 half way", 400, "half way"),
            ("3/7\tof the files\nmore lines", 428, "of the files"),
            ("  12.34%  x ", 123, "x"),
            ("29%", 290, ""),
            ("0", 0, ""),
            ("1", 1_000, ""),
            ("100%", 1_000, ""),
            ("99.99%", 999, ""),
            ("7/7 done\r", 1_000, "done"),
        ] {
            assert_eq!(told(line), Some((thousandths, text.to_owned())), "{line:?}");
        }
        let wrong = ["", "40", "1.5", "101%", "-1%", "3/0", "0/0", "8/7", "nan", "inf%", "%", "/"];
        for line in wrong.iter().chain(&["1/nan", "half", "1/2/3"]) {
            assert_eq!(told(line), None, "{line:?}");
        }
    }

    #[test]
    fn a_text_is_one_line_for_terminals_and_not_too_long() {
        let told = Progress::new("1/2", "\x1b[2Ja\tb\nc").unwrap();
        assert_eq!(told.text, "[2Ja b c");
        let long = Progress::new("1/2", &"€".repeat(100)).unwrap();
        assert_eq!(long.text, "€".repeat(PROGRESS_TEXT_BYTES / 3));
        assert!(long.to_string().len() < FILE_BYTES);
    }

    #[test]
    fn what_is_written_is_read_and_replaces_what_stood_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("progress");
        for progress in [Progress::new("12.5%", "an eighth"), Progress::new("7/7", "")] {
            let progress = progress.unwrap();
            progress.write(&file).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap().parse(), Ok(progress));
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        assert!(Progress::default().write(&folder.path().join("absent/progress")).is_err());
    }
}
