//! Whether the accounting of a job is what it should be: of tasks drawn at random, each has one
//! entry in the segment that the masters name for it.

use client::{Accounting, Client};
use node::clock::Clock;
use proto::description::Noop;
use proto::ids::{JobId, NodeId, TaskIndex};
use proto::segment::AccountingEntry;
use proto::status::Role;
use proto::time::Duration;

use crate::commands::connect::Asked;
use crate::failure::{During, Failure};

/// Tasks whose entries are looked at.
const SAMPLE: usize = 1_000;

/// An entry may follow its outcome by two seconds; the rest is for a slow disk.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(50);

/// Checks the entries of tasks drawn from all `task_count`.
pub(super) fn check(
    client: &Client,
    job: JobId,
    noop: &Noop,
    task_count: u64,
) -> Result<(), Failure> {
    let mut random = node::random::generator().during(|| "draw tasks".into())?;
    let mut drawn: Vec<u64> = (0..SAMPLE).map(|_| random.u64(0..task_count)).collect();
    // Neighbours lie in the same segments.
    drawn.sort_unstable();
    let mut accounting = await_listed(client, job, &drawn)?;
    let nodes = client.nodes().asked()?;
    let workers = nodes.iter().filter(|it| it.role == Role::Worker).map(|it| it.node);
    let workers: Vec<NodeId> = workers.collect();
    for task in drawn {
        match &accounting.entries_of(TaskIndex(task)).asked()?[..] {
            [entry] => check_entry(entry, noop, &workers)?,
            entries => {
                let text = format!("task {task} has {} entries in its segment", entries.len());
                return Err(Failure::failed(text));
            }
        }
    }
    Ok(())
}

/// The accounting of a job, once a segment is listed for each of the drawn tasks.
fn await_listed<'a>(
    client: &'a Client,
    job: JobId,
    drawn: &[u64],
) -> Result<Accounting<'a>, Failure> {
    let clock = Clock::start();
    let mut accounting = client.accounting(job).asked()?;
    loop {
        let is_missing = |task: &&u64| accounting.segment_of(TaskIndex(**task)).is_none();
        let Some(missing) = drawn.iter().find(is_missing) else { return Ok(accounting) };
        if clock.now().0 > PATIENCE.0 {
            return Err(Failure::failed(format!("no segment has task {missing}")));
        }
        std::thread::park_timeout(PAUSE.to_std());
        accounting.look_again().asked()?;
    }
}

fn check_entry(entry: &AccountingEntry, noop: &Noop, workers: &[NodeId]) -> Result<(), Failure> {
    let AccountingEntry { task_index, attempt, start_unix_us, wall_us, node_uuid, .. } = *entry;
    let shortest = noop.outcome(TaskIndex(task_index)).duration;
    let is_it = attempt > 0
        && start_unix_us > 0
        && wall_us >= shortest.as_micros()
        && workers.contains(&node_uuid.into());
    if is_it {
        return Ok(());
    }
    Err(Failure::failed(format!("the accounting of task {task_index} is wrong: {entry:?}")))
}
