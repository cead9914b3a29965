//! The time of one task on an idle cluster: submitted, run, committed and known to the client
//! before the next is submitted.

use client::logic::jobs::{JobSelector, Submission};
use node::bare;
use node::clock::Clock;
use proto::description::{JobDescription, Noop, Runtime};
use proto::status::JobState;
use proto::time::Duration;

use super::cluster::BenchCluster;
use super::noop::new_job;
use super::{Line, Printer, ms, quantile};
use crate::commands::connect::Asked;
use crate::failure::{During, Failure};

const WARM_UP: usize = 50;

const ROUNDS: usize = 500;

/// Messages one after the other on the way of one task: submission, its replication and the
/// acknowledgement, grant, deal, outcome, its replication and the acknowledgement, answer.
const MESSAGES: f64 = 9.0;

/// Log entries one after the other: the submission and the outcome.
const SYNCS: f64 = 2.0;

/// About what the messages of the path carry.
const MESSAGE_BYTES: usize = 256;

const LIMIT: &str = "9 one-way messages at half of ZeroMQ's round trip + 2 fdatasync";

/// Takes the figures. `sync` is the disk's median.
pub(super) fn run(cluster: &BenchCluster, sync: Duration, printer: Printer) -> Result<(), Failure> {
    let clock = Clock::start();
    let trips = bare::round_trips(clock, ROUNDS, MESSAGE_BYTES)
        .during(|| "measure ZeroMQ's round trip".into())?;
    let trip = quantile(&trips, 0.5).unwrap_or_default();
    printer.line(&Line::new("zeromq", "round_trip_p50_ms", ms(trip), "ms"))?;
    let mut times = Vec::with_capacity(ROUNDS);
    for round in 0..WARM_UP + ROUNDS {
        let time = one_task(cluster, clock)?;
        if round >= WARM_UP {
            times.push(time);
        }
    }
    times.sort_unstable();
    let limit = MESSAGES * ms(trip) / 2.0 + SYNCS * ms(sync);
    for (metric, share) in [("p50_ms", 0.5), ("p99_ms", 0.99)] {
        let time = quantile(&times, share).unwrap_or_default();
        printer.line(&Line::new("latency", metric, ms(time), "ms").beside(limit, LIMIT))?;
    }
    Ok(())
}

fn one_task(cluster: &BenchCluster, clock: Clock) -> Result<Duration, Failure> {
    let client = cluster.client();
    let job = new_job()?;
    let description = JobDescription::new(Runtime::Noop(Noop::default()));
    let submission =
        Submission::new(job, &description, 1, Vec::new()).during(|| "submit".into())?;
    let begin = clock.now();
    client.submit(submission).asked()?;
    let ended = client.wait(JobSelector::Id(job)).asked()?;
    let time = clock.now().since(begin);
    match ended.state {
        JobState::Done => Ok(time),
        state => Err(Failure::failed(format!("the task's job is {state}"))),
    }
}
