//! `remuda completion` and `remuda man`: what shells and readers of manuals want to have as files.
//!
//! Both are made from the same description of the command line as its parsing and its help.

use std::path::Path;

use clap_complete::Shell;

use crate::failure::{During, Failure};
use crate::flags;
use crate::output;

/// Prints a script that completes commands and flags in a shell.
pub(crate) fn print(shell: Shell) -> Result<(), Failure> {
    let mut command = flags::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    output::print_bytes(&script)
}

/// Writes the manual into a folder: a page for the program and one for each command.
pub(crate) fn write_pages(folder: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(folder).during(|| format!("make {}", folder.display()))?;
    clap_mangen::generate_to(flags::command(), folder)
        .during(|| format!("write into {}", folder.display()))
}
