//! Why tasks are where they are, as far as the masters know: what has its outcome, what is held or
//! not granted yet, what was tried before, and what no worker of the roster can take.
//!
//! Deliberately not here: where a granted task waits or runs. That is soft state of balancers and
//! workers, who are asked themselves.

use std::ops::Range;

use node::logic::explanations::{Room, Why, explain_reply};
use proto::description::{DEFAULT_CPU_MILLI, JobDescription};
use proto::messages::job::JobSubmit;
use proto::record::Records;
use proto::status::Reason;

use super::cluster::Cluster;
use super::jobs::{Attempts, Job};
use super::nodes::Node;
use super::queries::Surroundings;

/// The reply about a task of a job, or about the job as a whole. The group that it names is that of
/// the first task that has no outcome: a large job is several groups'.
#[must_use]
pub fn explain(
    cluster: &Cluster,
    job: &Job,
    task: Option<u64>,
    around: &Surroundings<'_>,
) -> Vec<u8> {
    let asked = task.map_or(0..job.task_count, |task| task..task.saturating_add(1));
    let asked = asked.start.min(job.task_count)..asked.end.min(job.task_count);
    let mut whys = Vec::new();
    if around.leader.is_none() {
        whys.push(Why::new(Reason::NoLeader, asked.start, length(&asked)));
    }
    let unfinished = job.unfinished(asked.clone());
    match job.state.is_final() {
        true => explain_final(job, &asked, &mut whys),
        false if unfinished.is_empty() => {
            whys.push(Why::new(Reason::Finished, asked.start, length(&asked)));
        }
        false => explain_unfinished(cluster, job, around, &unfinished, &mut whys),
    }
    let first = unfinished.first().map_or(asked.start, |piece| piece.start);
    let grant = job.grants.iter().find(|grant| grant.tasks.contains(&first));
    let group = grant.map_or(0, |grant| grant.group);
    explain_reply(cluster.applied, group, &whys)
}

fn length(range: &Range<u64>) -> u64 {
    range.end - range.start
}

/// A reason for the tasks of all pieces together; `None` where they are none.
fn why(reason: Reason, pieces: &[Range<u64>]) -> Option<Why> {
    let first = pieces.iter().find(|piece| !piece.is_empty())?;
    Some(Why::new(reason, first.start, pieces.iter().map(length).sum()))
}

fn explain_final(job: &Job, asked: &Range<u64>, whys: &mut Vec<Why>) {
    let mut finished: Vec<Range<u64>> = job.done.runs(asked.clone()).collect();
    finished.extend(job.failed.values().flat_map(|set| set.runs(asked.clone())));
    finished.sort_by_key(|run| run.start);
    let finished = why(Reason::Finished, &finished);
    let finished_count = finished.as_ref().map_or(0, |why| why.task_count);
    // What has no outcome never gets one, also where the job failed before.
    let left = length(asked) - finished_count;
    if left > 0 {
        whys.push(Why::new(Reason::Cancelled, asked.start, left));
    }
    whys.extend(finished);
}

fn explain_unfinished(
    cluster: &Cluster,
    job: &Job,
    around: &Surroundings<'_>,
    unfinished: &[Range<u64>],
    whys: &mut Vec<Why>,
) {
    if job.is_held {
        whys.extend(why(Reason::Held, unfinished));
    }
    whys.extend(explain_groups(cluster, job, around, unfinished));
    whys.extend(explain_size(cluster, job, unfinished));
    let clip = |tasks: Range<u64>| -> Vec<Range<u64>> {
        let inside = |piece: &Range<u64>| piece.start.max(tasks.start)..piece.end.min(tasks.end);
        unfinished.iter().map(inside).filter(|piece| !piece.is_empty()).collect()
    };
    let later = why(Reason::NotGranted, &clip(job.next_grant..job.task_count));
    whys.extend(later.map(|later| Why { number: job.next_grant, ..later }));
    whys.extend(explain_attempts(job, unfinished));
}

/// Groups that nobody deals for, with the tasks that they were granted.
fn explain_groups(
    cluster: &Cluster,
    job: &Job,
    around: &Surroundings<'_>,
    unfinished: &[Range<u64>],
) -> Vec<Why> {
    let mut whys: Vec<Why> = Vec::new();
    for grant in &job.grants {
        let has_seats = cluster.nodes.groups.contains_key(&grant.group);
        if has_seats && (around.is_led)(grant.group) {
            continue;
        }
        let inside =
            |piece: &Range<u64>| piece.start.max(grant.tasks.start)..piece.end.min(grant.tasks.end);
        let pieces: Vec<Range<u64>> =
            unfinished.iter().map(inside).filter(|piece| !piece.is_empty()).collect();
        let Some(new) = why(Reason::NoBalancer, &pieces) else { continue };
        match whys.iter_mut().find(|known| known.number == grant.group) {
            Some(known) => known.task_count += new.task_count,
            None => whys.push(Why { number: grant.group, ..new }),
        }
    }
    whys
}

/// Whether a worker of the roster that is not silent could execute one of the tasks.
fn explain_size(cluster: &Cluster, job: &Job, unfinished: &[Range<u64>]) -> Option<Why> {
    let needs = needs_of(job);
    let room = |node: &Node| Room {
        cpu_milli: node.registration.cpu_milli,
        memory_bytes: node.registration.capacity_bytes,
    };
    let holds =
        |room: &Room| needs.cpu_milli <= room.cpu_milli && needs.memory_bytes <= room.memory_bytes;
    let workers = || cluster.nodes.workers().filter(|node| !node.is_silent);
    if workers().any(|node| holds(&room(node))) {
        return None;
    }
    let key = |node: &&Node| (node.registration.cpu_milli, node.registration.capacity_bytes);
    let Some(largest) = workers().max_by_key(key) else {
        return why(Reason::NoWorker, unfinished);
    };
    let too_large = why(Reason::TooLarge, unfinished)?;
    Some(Why {
        subject: largest.registration.node,
        number: largest.registration.cpu_milli,
        text: room(largest).to_string(),
        ..too_large
    })
}

/// What one task of a job uses.
fn needs_of(job: &Job) -> Room {
    let kept = Records::of(&job.record).next().and_then(Result::ok);
    let opened = kept.as_ref().and_then(|record| record.open::<JobSubmit, 3>().ok());
    // The record was read before it was kept; an empty description is that of the defaults.
    let description = opened.and_then(|(_, [_, _, it])| JobDescription::decode(it).ok());
    description.map_or(Room { cpu_milli: u64::from(DEFAULT_CPU_MILLI), memory_bytes: 0 }, |it| {
        Room { cpu_milli: u64::from(it.cpu_milli), memory_bytes: it.memory_bytes }
    })
}

/// The tasks that were tried before, and what became of the one that was tried most often.
fn explain_attempts(job: &Job, unfinished: &[Range<u64>]) -> Option<Why> {
    let tried = unfinished.iter().flat_map(|piece| job.attempts.split(piece.clone()));
    let tried: Vec<(Range<u64>, Attempts)> =
        tried.filter_map(|(tasks, attempts)| Some((tasks, attempts?))).collect();
    let (_, most) = tried.iter().max_by_key(|(_, attempts)| attempts.ended())?;
    let pieces: Vec<Range<u64>> = tried.iter().map(|(tasks, _)| tasks.clone()).collect();
    let counts = [
        (u64::from(most.failed), "failed"),
        (u64::from(most.crashed), "crashed"),
        (most.lost.len() as u64, "lost"),
    ];
    let text: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    let retried = why(Reason::Retried, &pieces)?;
    Some(Why { number: u64::from(most.ended()), text: text.join(", "), ..retried })
}
