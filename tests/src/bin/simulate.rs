//! `make sim`: runs seeds of the simulator and says what happened in them.
//!
//! Exits with 1 where a promise was broken, and prints the command that shows it again; with 2 for
//! a wrong use.

use std::process::ExitCode;

use cluster_tests::report::Summary;
use cluster_tests::runs::{Failure, Outcome, World, run_while};
use cluster_tests::trace::Print;

const USAGE: &str = "usage: simulate [--bank | --pipeline] \
                     (--seeds N [--first S] | --seed N [--trace] | --minutes M)";

enum Wanted {
    Seeds { first: u64, count: u64 },
    One { seed: u64, print: Print },
    Minutes(u64),
}

/// Which clusters, both where none is named, and what of them.
fn wanted(mut arguments: impl Iterator<Item = String>) -> Option<(Vec<World>, Wanted)> {
    let mut worlds = Vec::new();
    let (mut seeds, mut first, mut seed, mut minutes) = (None, 1, None, None);
    let mut print = Print::Nothing;
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next()?.parse::<u64>().ok();
        match argument.as_str() {
            "--seeds" => seeds = Some(number()?),
            "--first" => first = number()?,
            "--seed" => seed = Some(number()?),
            "--minutes" => minutes = Some(number()?),
            "--bank" => worlds.push(World::Bank),
            "--pipeline" => worlds.push(World::Pipeline),
            "--trace" => print = Print::Lines,
            _ => return None,
        }
    }
    if worlds.is_empty() {
        worlds = World::ALL.to_vec();
    }
    let wanted = match (seeds, seed, minutes) {
        (Some(count), None, None) => Some(Wanted::Seeds { first, count }),
        (None, Some(seed), None) => Some(Wanted::One { seed, print }),
        (None, None, Some(minutes)) => Some(Wanted::Minutes(minutes)),
        _ => None,
    };
    wanted.map(|wanted| (worlds, wanted))
}

fn show_one(world: World, seed: u64, print: Print) -> bool {
    let Outcome { trace, events, report, failure } = world.run(seed, print);
    print!("{report}");
    println!("{world}: seed {seed}: {events} events, trace {trace:016x}");
    if let Some(text) = &failure {
        println!("{}", Failure { world, seed, text: text.clone() });
    }
    failure.is_none()
}

fn show(world: World, (summary, failures): (Summary, Vec<Failure>)) -> bool {
    print!("{summary}");
    println!("{world}: {} seeds kept every promise, {} did not", summary.runs(), failures.len());
    for failure in &failures {
        println!("{failure}");
    }
    failures.is_empty()
}

fn simulate(world: World, wanted: &Wanted, share: u64) -> bool {
    let quietly = |seed| world.run(seed, Print::Nothing);
    match *wanted {
        Wanted::One { seed, print } => show_one(world, seed, print),
        Wanted::Seeds { first, count } => {
            let more = |seed| seed < first.saturating_add(count);
            show(world, run_while(world, first, more, quietly))
        }
        Wanted::Minutes(minutes) => {
            let clock = node::clock::Clock::start();
            let span = minutes.saturating_mul(60) / share;
            let end = clock.now() + proto::time::Duration::from_secs(span);
            // Fresh seeds each time: the wall clock is what differs between two calls.
            let first = node::clock::time_of_day().as_micros();
            println!("{world}: seeds from {first} on");
            show(world, run_while(world, first, |_| clock.now() < end, quietly))
        }
    }
}

fn main() -> ExitCode {
    let Some((worlds, wanted)) = wanted(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let mut is_good = true;
    for &world in &worlds {
        is_good &= simulate(world, &wanted, worlds.len() as u64);
    }
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
