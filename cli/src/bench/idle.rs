//! What a cluster costs that has nothing to do: the CPU of its busiest process, and the entries
//! that it adds to its log.

use client::logic::jobs::{JobSelector, Submission};
use node::clock::Clock;
use proto::description::{JobDescription, Noop, Runtime};
use proto::ids::LogIndex;
use proto::status::Role;
use proto::time::Duration;

use super::cluster::BenchCluster;
use super::noop::new_job;
use super::{Line, Printer};
use crate::commands::connect::Asked;
use crate::dev;
use crate::failure::{During, Failure};

/// Time for what follows a start and a job: registrations, accounting, leases of everybody.
const SETTLE: Duration = Duration::from_secs(5);

/// How long it is looked at.
const SPAN: Duration = Duration::from_secs(20);

/// What `/proc` counts CPU time in; 100 a second wherever Linux runs.
const TICKS_PER_S: f64 = 100.0;

const TIERS: [Role; 4] = [Role::Master, Role::Storage, Role::Balancer, Role::Worker];

/// Takes the figures.
pub(super) fn run(cluster: &BenchCluster, printer: Printer) -> Result<(), Failure> {
    let client = cluster.client();
    let job = new_job()?;
    let description = JobDescription::new(Runtime::Noop(Noop::default()));
    let submission =
        Submission::new(job, &description, 1, Vec::new()).during(|| "submit".into())?;
    client.submit(submission).asked()?;
    client.wait(JobSelector::Id(job)).asked()?;
    let clock = Clock::start();
    let index =
        || -> Result<LogIndex, Failure> { Ok(client.status(JobSelector::Id(job)).asked()?.index) };
    pause(clock, SETTLE);
    let entries = index()?.0;
    let before = used(cluster)?;
    let begin = clock.now();
    pause(clock, SPAN);
    let span = clock.now().since(begin).as_secs_f64();
    let after = used(cluster)?;
    let entries = index()?.0.saturating_sub(entries);
    let mut busiest = (0, "");
    for ((name, ticks), (_, earlier)) in after.iter().zip(&before) {
        busiest = busiest.max((ticks.saturating_sub(*earlier), name));
    }
    let percent = busiest.0 as f64 / TICKS_PER_S / span * 100.0;
    printer.line(&Line::new("idle", "cpu_percent", percent, "%"))?;
    if !printer.json {
        eprintln!("the busiest was {}", busiest.1);
    }
    let per_min = entries as f64 / span * 60.0;
    printer.line(&Line::new("idle", "log_entries_per_min", per_min, "entries"))
}

fn pause(clock: Clock, span: Duration) {
    let end = clock.now() + span;
    while clock.now() < end {
        std::thread::park_timeout(end.since(clock.now()).to_std());
    }
}

/// CPU time that each process of the cluster used so far, in ticks.
fn used(cluster: &BenchCluster) -> Result<Vec<(String, u64)>, Failure> {
    let mut used = Vec::new();
    for tier in TIERS {
        for (name, pid) in dev::running(cluster.folder(), tier)? {
            let path = format!("/proc/{pid}/stat");
            let stat = std::fs::read_to_string(&path).during(|| format!("read {path}"))?;
            let ticks = ticks(&stat).ok_or_else(|| Failure::failed(format!("read {path}")))?;
            used.push((name, ticks));
        }
    }
    Ok(used)
}

/// User and system time of a line of `/proc/PID/stat`. The second field may hold anything, up to
/// the last parenthesis.
fn ticks(stat: &str) -> Option<u64> {
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(number(11)? + number(12)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_process_is_read_behind_its_name() {
        let stat = "77 (a) b) S 1 77 77 0 -1 4194560 1 0 0 0 31 11 5 7 20 0 1 0 99 8 9";
        assert_eq!(ticks(stat), Some(42));
        assert!(ticks(&std::fs::read_to_string("/proc/self/stat").unwrap()).is_some());
        assert_eq!(ticks("77 (a) S 1"), None);
    }
}
