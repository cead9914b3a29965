//! The program `remuda`: every tier as a daemon, local clusters, and the commands of a client.
//!
//! Responsible for nothing but the way from arguments to exit code. What flags there are stands in
//! `flags`, what each command does in `commands`.

mod bench;
mod commands;
mod dev;
mod failure;
mod flags;
mod identity;
mod output;
mod owner;
mod quantity;

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|first| first == worker::spawn::ENTRY) {
        return worker::spawn::helper_main();
    }
    match commands::run(flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
