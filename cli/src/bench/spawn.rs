//! Tasks per second of a job whose tasks are processes that do nothing, beside how many of them
//! this machine starts and waits for when nothing else is done.

use std::process::{Command, Stdio};

use node::clock::Clock;
use proto::time::Duration;

use super::cluster::{BenchCluster, Shape};
use super::{Line, Printer, processes};
use crate::failure::{During, Failure};
use crate::flags::Bench;

/// The shortest program there is.
const PROGRAM: &str = "/bin/true";

/// Tasks of a job, unless told otherwise.
const TASKS: u64 = 10_000;

/// A small job first, so that connections, grants and measured rates are as in a cluster that
/// works already.
const WARM_UP_TASKS: u64 = 500;

/// Processes that are started to know the limit, each time.
const LIMIT_PROCESSES: u32 = 4_000;

const LIMIT: &str = "posix_spawn of /bin/true, as many in flight as slots";

/// Takes the figure.
pub(super) fn run(
    cluster: &BenchCluster,
    shape: Shape,
    flags: &Bench,
    printer: Printer,
) -> Result<(), Failure> {
    let task_count = flags.tasks.unwrap_or(TASKS);
    processes::job(cluster.client(), PROGRAM, &[], WARM_UP_TASKS)?;
    // Before and behind the jobs: the limit is what the machine reached at its best.
    let before = limit(LIMIT_PROCESSES, shape.slot_count())?;
    let mut times = Vec::new();
    for _ in 0..flags.repeat {
        times.push(processes::job(cluster.client(), PROGRAM, &[], task_count)?);
    }
    let limit = before.max(limit(LIMIT_PROCESSES, shape.slot_count())?);
    times.sort_unstable();
    let median = super::quantile(&times, 0.5).ok_or_else(|| Failure::usage("--repeat 0"))?;
    let rate = task_count as f64 / median.as_secs_f64();
    printer.line(&Line::new("spawn", "tasks_per_s", rate, "tasks/s").beside(limit, LIMIT))
}

/// Processes a second of `count`, with so many in flight: each thread starts one and waits for its
/// end.
fn limit(count: u32, in_flight: u32) -> Result<f64, Failure> {
    let each = (count / in_flight.max(1)).max(1);
    let clock = Clock::start();
    let begin = clock.now();
    std::thread::scope(|scope| {
        let starters: Vec<_> = (0..in_flight).map(|_| scope.spawn(|| start(each))).collect();
        starters.into_iter().try_for_each(|starter| match starter.join() {
            Ok(started) => started,
            Err(_) => Err(Failure::failed("a thread that starts processes panicked")),
        })
    })?;
    let time: Duration = clock.now().since(begin);
    Ok(f64::from(each) * f64::from(in_flight) / time.as_secs_f64())
}

/// Starts so many processes, one after the other. With nothing asked for but an argument list the
/// standard library takes posix_spawn.
fn start(count: u32) -> Result<(), Failure> {
    for _ in 0..count {
        let status = Command::new(PROGRAM).stdin(Stdio::inherit()).status();
        let status = status.during(|| format!("start {PROGRAM}"))?;
        if !status.success() {
            return Err(Failure::failed(format!("{PROGRAM} failed: {status}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_measured_with_any_number_in_flight() {
        for in_flight in [1, 3] {
            assert!(limit(30, in_flight).unwrap() > 0.0);
        }
    }
}
