//! How long a job takes to be accepted, whatever its size, and what it costs the leading master in
//! memory.

use client::logic::jobs::Submission;
use node::clock::Clock;
use proto::description::{JobDescription, Noop, Runtime};
use proto::ids::JobId;
use proto::time::Duration;

use super::cluster::{BenchCluster, resident_memory};
use super::noop::new_job;
use super::{Line, Printer, mib, ms, quantile};
use crate::commands::connect::Asked;
use crate::failure::{During, Failure};

/// Jobs of each size; the median counts.
const ROUNDS: usize = 9;

/// Tasks that outlast the measurement, so that no results come into it.
const TASK_TIME: Duration = Duration::from_secs(600);

/// A size with the metrics of its acknowledgement and, where one is kept, of its memory.
type Size = (u64, &'static str, Option<&'static str>);

const SIZES: [Size; 3] = [
    (100_000, "ack_ms_1e5", None),
    (1_000_000, "ack_ms_1e6", Some("leader_mib_1e6")),
    (100_000_000, "ack_ms_1e8", Some("leader_mib_1e8")),
];

/// Takes the figures.
pub(super) fn run(cluster: &BenchCluster, printer: Printer) -> Result<(), Failure> {
    // The first of all pays for connections.
    let leader = cluster.leader()?;
    submit_and_cancel(cluster, leader, 1)?;
    for (task_count, acknowledged, memory) in SIZES {
        let mut times = Vec::with_capacity(ROUNDS);
        let mut growths = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let (time, growth) = submit_and_cancel(cluster, leader, task_count)?;
            times.push(time);
            growths.push(growth);
        }
        times.sort_unstable();
        growths.sort_unstable();
        let time = quantile(&times, 0.5).unwrap_or_default();
        printer.line(&Line::new("submit", acknowledged, ms(time), "ms"))?;
        if let Some(metric) = memory {
            let growth = growths.get(ROUNDS / 2).copied().unwrap_or_default();
            printer.line(&Line::new("submit", metric, mib(growth), "MiB"))?;
        }
    }
    if cluster.leader()? != leader {
        return Err(Failure::failed("another master leads now: its memory was not measured"));
    }
    Ok(())
}

/// The time until a job was acknowledged, and by how many bytes the leader grew.
fn submit_and_cancel(
    cluster: &BenchCluster,
    leader: u32,
    task_count: u64,
) -> Result<(Duration, u64), Failure> {
    let client = cluster.client();
    let job: JobId = new_job()?;
    let noop = Noop { shortest: TASK_TIME, longest: TASK_TIME, ..Noop::default() };
    let description = JobDescription::new(Runtime::Noop(noop));
    let submission =
        Submission::new(job, &description, task_count, Vec::new()).during(|| "submit".into())?;
    let clock = Clock::start();
    let before = resident_memory(leader)?;
    let begin = clock.now();
    client.submit(submission).asked()?;
    let time = clock.now().since(begin);
    let growth = resident_memory(leader)?.saturating_sub(before);
    client.cancel(job).asked()?;
    Ok((time, growth))
}
