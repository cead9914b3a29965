//! `make sim`: runs seeds of the simulator and says what happened in them.
//!
//! Exits with 1 where a promise was broken, and prints the command that shows it again; with 2 for
//! a wrong use.

use std::process::ExitCode;

use cluster_tests::planted::Planted;
use cluster_tests::report::Summary;
use cluster_tests::runs::{Failure, Outcome, World, run_while, run_with};
use cluster_tests::trace::Print;

const USAGE: &str = "usage: simulate [--bank | --pipeline | --planted MISTAKE] \
                     (--seeds N [--first S] | --seed N [--trace] | --minutes M)";

/// A kind of cluster, and the mistake in it.
type Cluster = (World, Option<Planted>);

enum Wanted {
    Seeds { first: u64, count: u64 },
    One { seed: u64, print: Print },
    Minutes(u64),
}

/// Which clusters, both where none is named, with which mistake, and what of them.
fn wanted(mut arguments: impl Iterator<Item = String>) -> Option<(Vec<Cluster>, Wanted)> {
    let mut clusters = Vec::new();
    let (mut seeds, mut first, mut seed, mut minutes) = (None, 1, None, None);
    let mut print = Print::Nothing;
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next()?.parse::<u64>().ok();
        match argument.as_str() {
            "--seeds" => seeds = Some(number()?),
            "--first" => first = number()?,
            "--seed" => seed = Some(number()?),
            "--minutes" => minutes = Some(number()?),
            "--bank" => clusters.push((World::Bank, None)),
            "--pipeline" => clusters.push((World::Pipeline, None)),
            "--planted" => {
                let name = arguments.next()?;
                let Some(mistake) = Planted::named(&name) else {
                    let names: Vec<&str> = Planted::ALL.iter().map(|it| it.name()).collect();
                    eprintln!("{name} is none of the mistakes {}", names.join(", "));
                    return None;
                };
                clusters.push((mistake.world(), Some(mistake)));
            }
            "--trace" => print = Print::Lines,
            _ => return None,
        }
    }
    if clusters.is_empty() {
        clusters = World::ALL.map(|world| (world, None)).to_vec();
    }
    let wanted = match (seeds, seed, minutes) {
        (Some(count), None, None) => Some(Wanted::Seeds { first, count }),
        (None, Some(seed), None) => Some(Wanted::One { seed, print }),
        (None, None, Some(minutes)) => Some(Wanted::Minutes(minutes)),
        _ => None,
    };
    wanted.map(|wanted| (clusters, wanted))
}

/// Runs a seed of a cluster, with the mistake that is planted there.
fn run((world, mistake): Cluster, seed: u64, print: Print) -> Outcome {
    match mistake {
        None => world.run(seed, print),
        Some(mistake) => run_with(mistake, seed, print),
    }
}

fn show_one(cluster: Cluster, seed: u64, print: Print) -> bool {
    let world = cluster.0;
    let Outcome { trace, events, report, failure } = run(cluster, seed, print);
    print!("{report}");
    println!("{world}: seed {seed}: {events} events, trace {trace:016x}");
    if let Some(text) = &failure {
        println!("{}", Failure { world, planted: cluster.1, seed, text: text.clone() });
    }
    failure.is_none()
}

fn show((world, planted): Cluster, (summary, failures): (Summary, Vec<Failure>)) -> bool {
    print!("{summary}");
    println!("{world}: {} seeds kept every promise, {} did not", summary.runs(), failures.len());
    let is_good = failures.is_empty();
    for failure in failures {
        println!("{}", Failure { planted, ..failure });
    }
    is_good
}

fn simulate(cluster: Cluster, wanted: &Wanted, share: u64) -> bool {
    let world = cluster.0;
    let quietly = |seed| run(cluster, seed, Print::Nothing);
    match *wanted {
        Wanted::One { seed, print } => show_one(cluster, seed, print),
        Wanted::Seeds { first, count } => {
            let more = |seed| seed < first.saturating_add(count);
            show(cluster, run_while(world, first, more, quietly))
        }
        Wanted::Minutes(minutes) => {
            let clock = node::clock::Clock::start();
            let span = minutes.saturating_mul(60) / share;
            let end = clock.now() + proto::time::Duration::from_secs(span);
            // Fresh seeds each time: the wall clock is what differs between two calls.
            let first = node::clock::time_of_day().as_micros();
            println!("{world}: seeds from {first} on");
            show(cluster, run_while(world, first, |_| clock.now() < end, quietly))
        }
    }
}

fn main() -> ExitCode {
    let Some((clusters, wanted)) = wanted(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let mut is_good = true;
    for &cluster in &clusters {
        is_good &= simulate(cluster, &wanted, clusters.len() as u64);
    }
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
