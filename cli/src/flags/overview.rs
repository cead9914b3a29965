//! The command line as a whole: its commands in groups that a newcomer understands, its version,
//! its colours.
//!
//! What a command does and takes stands at the command; here is only where it is listed.

use std::fmt::Write;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory, Error, FromArgMatches};

use super::Flags;
use crate::output::style;

/// The version, and what it was built from.
pub(crate) const VERSION: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("REMUDA_BUILT_FROM"), ")");

/// Every command that is shown, by what one wants to do.
const GROUPS: &[(&str, &[&str])] = &[
    ("Try it", &["dev", "bench"]),
    ("Run jobs", &["submit", "wait", "cancel", "hold", "release", "priority", "retry", "forget"]),
    ("See what jobs do", &["jobs", "status", "tasks", "logs", "explain", "accounting", "progress"]),
    ("Files and results", &["put", "get", "cat", "ls", "rm", "mount"]),
    ("Shared memory", &["register"]),
    ("See how the cluster is", &["nodes", "health", "df"]),
    ("Set up a cluster", &["serve", "cluster", "ring", "config"]),
    ("This program", &["completion", "man", "help"]),
];

/// The command line, as it is parsed, completed and described.
pub(crate) fn command() -> Command {
    let styles = style::help();
    let head = *styles.get_header();
    let command = Flags::command().styles(styles);
    let mut built = command.clone();
    // Adds the command `help`.
    built.build();
    let groups = groups(&built);
    // What stands before the help in other programs stands in place of the list of commands here.
    let template = format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{{before-help}}\
         {head}Options:{head:#}\n{{options}}{{after-help}}"
    );
    command.bin_name("remuda").help_template(template).before_help(groups)
}

/// Reads the arguments of this process; says what is wrong with them, or the help that they ask
/// for, and exits.
pub(crate) fn parse() -> Flags {
    let matches = command().try_get_matches();
    let mut matches = matches.unwrap_or_else(|error| explained(error).exit());
    Flags::from_arg_matches_mut(&mut matches).unwrap_or_else(|error| error.exit())
}

/// Adds what is meant where a program stands after `submit` without `--` before it, as with programs
/// that have no flags of their own behind.
fn explained(mut error: Error) -> Error {
    let is_submit = std::env::args_os().nth(1).is_some_and(|command| command == "submit");
    if is_submit
        && error.kind() == ErrorKind::UnknownArgument
        && let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg)
        && !word.starts_with('-')
    {
        let tip = format!("the program and its arguments stand behind --: submit -- {word}");
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// The commands with what each is for, group by group.
fn groups(command: &Command) -> String {
    let style = style::help();
    let (head, name_style) = (style.get_header(), style.get_literal());
    let shown: Vec<&Command> = command.get_subcommands().filter(|it| !it.is_hide_set()).collect();
    let width = shown.iter().map(|it| it.get_name().len()).max().unwrap_or(0);
    let mut text = String::new();
    for (title, names) in GROUPS {
        // Writing into a text never fails.
        let _ = writeln!(text, "{head}{title}:{head:#}");
        for name in *names {
            let Some(command) = shown.iter().find(|it| it.get_name() == *name) else { continue };
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(text, "  {name_style}{name:width$}{name_style:#}  {about}");
        }
        text.push('\n');
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_stands_in_one_group_and_no_group_names_another() {
        let mut built = command();
        built.build();
        let mut listed: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| *names).copied().collect();
        let shown = built.get_subcommands().filter(|it| !it.is_hide_set());
        let mut shown: Vec<&str> = shown.map(Command::get_name).collect();
        listed.sort_unstable();
        shown.sort_unstable();
        assert_eq!(listed, shown);
    }

    #[test]
    fn every_command_says_what_it_is_for_in_a_line() {
        for line in groups(&command()).lines() {
            // Behind each escape stands a style, up to an `m`.
            let mut parts = line.split('\u{1b}');
            let first = parts.next().unwrap_or_default();
            let rest = parts.filter_map(|part| Some(part.split_once('m')?.1));
            let plain: String = std::iter::once(first).chain(rest).collect();
            assert!(plain.chars().count() < 100, "{plain}");
        }
    }
}
