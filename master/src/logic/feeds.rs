//! Balancers that wait for news of their group, and the batches that they get.

use std::collections::BTreeMap;

use node::logic::network::Peer;
use proto::ids::{JobId, LogIndex, RequestId};
use proto::limits::FRAME_BYTES;
use proto::messages::node::{FeedBatch, FeedItem, FeedPull};
use proto::record::encode;
use proto::status::FeedKind;
use proto::wire::bytes_of;

use super::cluster::{Cluster, FeedEntry};

/// Items of one batch.
const ITEMS: usize = 1_000;

/// Bytes of job records of one batch, at which it is cut at the next log index.
const JOB_BYTES: usize = 1 << 20;

/// A balancer's open question.
#[derive(Clone, Copy, Debug)]
struct Pull {
    request: RequestId,
    group: u64,
    after: LogIndex,
    resume: (JobId, u64),
}

/// The open questions, at most one for each connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Feeds {
    pulls: BTreeMap<Peer, Pull>,
}

impl Feeds {
    /// A balancer asks for what is behind `after_index`.
    pub(super) fn pull(&mut self, peer: Peer, request: RequestId, pull: &FeedPull) {
        let resume = (pull.resume_job_uuid.into(), pull.resume_task);
        let after = LogIndex(pull.after_index);
        self.pulls.insert(peer, Pull { request, group: pull.group, after, resume });
    }

    /// A connection ended.
    pub(super) fn forget(&mut self, peer: Peer) {
        self.pulls.remove(&peer);
    }

    /// The answers that can be given now.
    pub(super) fn answers(&mut self, cluster: &Cluster) -> Vec<(Peer, RequestId, Vec<u8>)> {
        let mut answers = Vec::new();
        self.pulls.retain(|&peer, pull| match batch(cluster, pull) {
            Some(record) => {
                answers.push((peer, pull.request, record));
                false
            }
            None => true,
        });
        answers
    }
}

/// What a balancer gets; `None` where there is nothing new.
fn batch(cluster: &Cluster, pull: &Pull) -> Option<Vec<u8>> {
    let is_resumed = !pull.resume.0.is_nil();
    if is_resumed || !cluster.feed_reaches(pull.after) {
        return Some(complete(cluster, pull));
    }
    if cluster.feed_index() <= pull.after {
        return None;
    }
    let mut entries = cluster.feed(pull.group, pull.after);
    let mut up_to = cluster.feed_index();
    if let Some(cut) = cut(cluster, &entries) {
        entries.truncate(cut);
        up_to = entries.last().map_or(up_to, FeedEntry::index);
    }
    if bytes_in(cluster, &entries) > FRAME_BYTES / 2 {
        // One entry may give a group all that another one had, and only whole entries are told.
        return Some(complete(cluster, pull));
    }
    let batch = FeedBatch { group: pull.group, up_to_index: up_to.0, ..FeedBatch::default() };
    Some(record(cluster, batch, &entries))
}

/// All that is granted to the group, or the next part of it.
fn complete(cluster: &Cluster, pull: &Pull) -> Vec<u8> {
    let (entries, next) = cluster.complete_feed(pull.group, pull.resume, ITEMS);
    let (next_job, next_task) = next.unwrap_or_default();
    let batch = FeedBatch {
        group: pull.group,
        // Never 0, so that the next pull is not taken for another first one.
        up_to_index: cluster.applied.0.max(1),
        is_complete: 1,
        next_job_uuid: next_job.to_wire(),
        next_task,
        ..FeedBatch::default()
    };
    record(cluster, batch, &entries)
}

/// What these take in a batch at most.
fn bytes_in(cluster: &Cluster, entries: &[FeedEntry]) -> usize {
    let of_entry = |entry: &FeedEntry| {
        let job = match entry {
            FeedEntry::Grant { job, .. } => cluster.jobs.get(job),
            FeedEntry::Changed { .. } | FeedEntry::Ended { .. } => None,
        };
        size_of::<FeedItem>() + job.map_or(0, |job| job.record.len())
    };
    entries.iter().map(of_entry).sum()
}

/// Where a batch that is too long ends: behind a whole log index. `None` where it is not too long.
fn cut(cluster: &Cluster, entries: &[FeedEntry]) -> Option<usize> {
    let mut bytes = 0;
    for (at, entry) in entries.iter().enumerate() {
        let is_full = at >= ITEMS || bytes >= JOB_BYTES;
        if is_full && entries[at - 1].index() != entry.index() {
            return Some(at);
        }
        if let FeedEntry::Grant { job, .. } = entry {
            bytes += cluster.jobs.get(job).map_or(0, |job| job.record.len());
        }
    }
    None
}

fn record(cluster: &Cluster, batch: FeedBatch, entries: &[FeedEntry]) -> Vec<u8> {
    let mut jobs = Vec::new();
    let mut offsets: BTreeMap<JobId, u64> = BTreeMap::new();
    let items: Vec<FeedItem> = entries
        .iter()
        .filter_map(|entry| match entry {
            FeedEntry::Changed { index, job: id } => cluster.jobs.get(id).map(|job| FeedItem {
                index: index.0,
                kind: FeedKind::JobChanged.to_wire(),
                job_uuid: id.to_wire(),
                priority: job.priority,
                is_held: u8::from(job.is_held),
                ..FeedItem::default()
            }),
            FeedEntry::Ended { index, job } => Some(FeedItem {
                index: index.0,
                kind: FeedKind::JobEnded.to_wire(),
                job_uuid: job.to_wire(),
                ..FeedItem::default()
            }),
            FeedEntry::Grant { index, job: id, first_task, task_count, move_number } => {
                let job = cluster.jobs.get(id)?;
                let job_offset = *offsets.entry(*id).or_insert_with(|| {
                    let offset = jobs.len() as u64;
                    jobs.extend_from_slice(&job.record);
                    offset
                });
                Some(FeedItem {
                    index: index.0,
                    kind: FeedKind::Grant.to_wire(),
                    job_uuid: id.to_wire(),
                    first_task: *first_task,
                    task_count: *task_count,
                    priority: job.priority,
                    is_held: u8::from(job.is_held),
                    job_offset,
                    move_number: move_number.0,
                })
            }
        })
        .collect();
    encode(&batch, &[bytes_of(&items), &jobs])
}
