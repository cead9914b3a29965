//! `make sim`: runs seeds of the simulator and says what happened in them.
//!
//! Exits with 1 where a promise was broken, and prints the command that shows it again; with 2 for
//! a wrong use.

use std::process::ExitCode;

use cluster_tests::report::Summary;
use cluster_tests::runs::{Failure, Outcome, run, run_while};
use cluster_tests::trace::Print;

const USAGE: &str = "usage: simulate --seeds N [--first S] | --seed N [--trace] | --minutes M";

enum Wanted {
    Seeds { first: u64, count: u64 },
    One { seed: u64, print: Print },
    Minutes(u64),
}

fn wanted(mut arguments: impl Iterator<Item = String>) -> Option<Wanted> {
    let (mut seeds, mut first, mut seed, mut minutes) = (None, 1, None, None);
    let mut print = Print::Nothing;
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next()?.parse::<u64>().ok();
        match argument.as_str() {
            "--seeds" => seeds = Some(number()?),
            "--first" => first = number()?,
            "--seed" => seed = Some(number()?),
            "--minutes" => minutes = Some(number()?),
            "--trace" => print = Print::Lines,
            _ => return None,
        }
    }
    match (seeds, seed, minutes) {
        (Some(count), None, None) => Some(Wanted::Seeds { first, count }),
        (None, Some(seed), None) => Some(Wanted::One { seed, print }),
        (None, None, Some(minutes)) => Some(Wanted::Minutes(minutes)),
        _ => None,
    }
}

fn show_one(seed: u64, print: Print) -> ExitCode {
    let Outcome { trace, events, report, failure } = run(seed, print);
    print!("{report}");
    println!("seed {seed}: {events} events, trace {trace:016x}");
    match failure {
        None => ExitCode::SUCCESS,
        Some(text) => {
            println!("{}", Failure { seed, text });
            ExitCode::FAILURE
        }
    }
}

fn show((summary, failures): (Summary, Vec<Failure>)) -> ExitCode {
    print!("{summary}");
    println!("{} seeds kept every promise, {} did not", summary.runs(), failures.len());
    for failure in &failures {
        println!("{failure}");
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn main() -> ExitCode {
    match wanted(std::env::args().skip(1)) {
        Some(Wanted::One { seed, print }) => show_one(seed, print),
        Some(Wanted::Seeds { first, count }) => {
            let more = |seed| seed < first.saturating_add(count);
            show(run_while(first, more, |seed| run(seed, Print::Nothing)))
        }
        Some(Wanted::Minutes(minutes)) => {
            let clock = node::clock::Clock::start();
            let end = clock.now() + proto::time::Duration::from_secs(minutes.saturating_mul(60));
            // Fresh seeds each time: the wall clock is what differs between two calls.
            let first = node::clock::time_of_day().as_micros();
            println!("seeds from {first} on");
            show(run_while(first, |_| clock.now() < end, |seed| run(seed, Print::Nothing)))
        }
        None => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}
