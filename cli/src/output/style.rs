//! Colours: on a terminal whose user did not ask for none (`NO_COLOR`), and never alone: what they
//! tell is there as a word as well.

use std::ffi::OsStr;
use std::io::{IsTerminal, stderr, stdout};

use clap::builder::styling::{AnsiColor, Style, Styles};

/// Something that colours are written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output.
    Output,
    /// Standard error.
    Error,
}

impl Stream {
    fn has_colour(self) -> bool {
        let is_terminal = match self {
            Stream::Output => stdout().is_terminal(),
            Stream::Error => stderr().is_terminal(),
        };
        let variable = |name| std::env::var_os(name);
        wants_colour(is_terminal, variable("NO_COLOR").as_deref(), variable("TERM").as_deref())
    }

    /// The text in this style where the stream has colours, else as it is.
    pub(crate) fn paint(self, style: Style, text: &str) -> String {
        if self.has_colour() { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

fn wants_colour(is_terminal: bool, no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    let is_refused = no_color.is_some_and(|it| !it.is_empty());
    is_terminal && !is_refused && term.is_none_or(|it| it != "dumb")
}

/// The colours of help and of wrong usage.
pub(crate) fn help() -> Styles {
    Styles::styled()
        .header(AnsiColor::Green.on_default().bold())
        .usage(AnsiColor::Green.on_default().bold())
        .literal(AnsiColor::Cyan.on_default().bold())
        .placeholder(AnsiColor::Cyan.on_default())
        .error(error())
        .valid(hint())
        .invalid(AnsiColor::Yellow.on_default())
}

/// The word before an error.
pub(crate) fn error() -> Style {
    AnsiColor::Red.on_default().bold()
}

/// The word before what to do about it.
pub(crate) fn hint() -> Style {
    AnsiColor::Cyan.on_default().bold()
}

/// The word before something that is no failure.
pub(crate) fn note() -> Style {
    AnsiColor::Yellow.on_default().bold()
}

/// The style of a state of a job, task or tier; no style for a word that is none.
pub(crate) fn state(word: &str) -> Style {
    match word {
        "done" | "ok" => AnsiColor::Green.on_default(),
        "running" => AnsiColor::Blue.on_default(),
        "failed" | "down" => AnsiColor::Red.on_default().bold(),
        "cancelled" | "held" | "degraded" | "draining" | "removed" => {
            AnsiColor::Yellow.on_default()
        }
        _ => Style::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_whose_users_want_them() {
        let text = |it: &'static str| Some(OsStr::new(it));
        assert!(wants_colour(true, None, text("xterm")));
        assert!(wants_colour(true, text(""), None), "an empty NO_COLOR asks for nothing");
        assert!(!wants_colour(false, None, text("xterm")));
        assert!(!wants_colour(true, text("1"), text("xterm")));
        assert!(!wants_colour(true, None, text("dumb")));
    }
}
