//! Whether the accounting of a job is what it should be: of tasks drawn at random, each has one
//! entry in the segment that the masters name for it.

use std::collections::BTreeMap;

use client::Client;
use node::clock::Clock;
use proto::description::Noop;
use proto::ids::{FileId, JobId, NodeId, TaskIndex};
use proto::segment::{AccountingEntry, Segment};
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
    let drawn: Vec<u64> = (0..SAMPLE).map(|_| random.u64(0..task_count)).collect();
    let clock = Clock::start();
    let by_segment = loop {
        match find(client, job, &drawn)? {
            Ok(found) => break found,
            Err(missing) if clock.now().0 > PATIENCE.0 => {
                return Err(Failure::failed(format!("no segment has task {missing}")));
            }
            Err(_) => std::thread::park_timeout(PAUSE.to_std()),
        }
    };
    let nodes = client.nodes().asked()?;
    let workers = nodes.iter().filter(|it| it.role == Role::Worker).map(|it| it.node);
    let workers: Vec<NodeId> = workers.collect();
    for (segment, tasks) in by_segment {
        let bytes = client.get_bytes(segment).asked()?;
        let opened = Segment::open(&bytes).during(|| format!("read segment {segment}"))?;
        for task in tasks {
            let sections = opened.sections().iter().filter(|section| section.job == job);
            let mut entries = sections.filter_map(|section| {
                let entries = section.entries;
                let at = entries.binary_search_by_key(&task, |entry| entry.task_index).ok()?;
                entries.get(at).copied()
            });
            match (entries.next(), entries.next()) {
                (Some(entry), None) => check_entry(&entry, noop, &workers)?,
                (found, _) => {
                    let count = if found.is_some() { "two entries" } else { "no entry" };
                    let text = format!("segment {segment} has {count} of task {task}");
                    return Err(Failure::failed(text));
                }
            }
        }
    }
    Ok(())
}

/// The segments of the drawn tasks, or the first task that none has.
fn find(
    client: &Client,
    job: JobId,
    drawn: &[u64],
) -> Result<Result<BTreeMap<FileId, Vec<u64>>, u64>, Failure> {
    let mut ranges = Vec::new();
    let mut after = Some(0);
    while let Some(from) = after {
        let page = client.segments(job, from).asked()?;
        ranges.extend(page.items);
        after = page.next;
    }
    ranges.sort_by_key(|range| range.tasks.start);
    let mut by_segment: BTreeMap<FileId, Vec<u64>> = BTreeMap::new();
    for task in drawn {
        let before = ranges.partition_point(|range| range.tasks.start <= *task);
        let range = before.checked_sub(1).and_then(|at| ranges.get(at));
        match range.filter(|range| range.tasks.contains(task)) {
            Some(range) => by_segment.entry(range.segment).or_default().push(*task),
            None => return Ok(Err(*task)),
        }
    }
    Ok(Ok(by_segment))
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
