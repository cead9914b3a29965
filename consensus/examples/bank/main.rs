//! A bank on three members, killed again and again while it works.
//!
//! Shows that the `consensus` crate stands alone: a state machine (`bank`), a process around a
//! member with a real disk and real ZeroMQ on loopback (`member`), and clients that move money
//! through any of the three while members are killed with SIGKILL and started again (`drill`).
//! Exits with 1 unless no money was made or lost, every client's replies came in order, every
//! acknowledged transfer is there, and as many kills as asked for fell while transfers ran.
//!
//! `cargo run -p consensus --example bank -- --seconds 20 --kills 6`

mod bank;
mod drill;
mod member;

use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "usage: bank [--seconds N] [--kills N] [--seed N]";

/// The numbers after `--seconds`, `--kills` and `--seed`.
fn settings(mut arguments: impl Iterator<Item = String>) -> Option<drill::Settings> {
    let mut settings = drill::Settings { seconds: 20, kills: 6, seed: 1 };
    while let Some(argument) = arguments.next() {
        let number = arguments.next()?.parse().ok()?;
        match argument.as_str() {
            "--seconds" => settings.seconds = number,
            "--kills" => settings.kills = number,
            "--seed" => settings.seed = number,
            _ => return None,
        }
    }
    Some(settings)
}

fn run() -> Result<(), String> {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.peek().is_some_and(|first| first == member::ARGUMENT) {
        let arguments: Vec<String> = arguments.skip(1).collect();
        let [number, folder, listen] = arguments.as_slice() else { return Err(USAGE.to_owned()) };
        let number = number.parse().map_err(|_| USAGE.to_owned())?;
        return member::run(number, &PathBuf::from(folder), listen);
    }
    let settings = settings(arguments).ok_or(USAGE)?;
    drill::run(&settings)
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("error: {text}");
            ExitCode::FAILURE
        }
    }
}
