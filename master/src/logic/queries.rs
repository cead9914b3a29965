//! Questions that any master answers from the state that it applied.
//!
//! A question carries the highest log index that its asker has seen; a master that lags keeps it
//! until it has caught up, so that nobody sees a job's state go back.

use proto::ids::{JobId, LogIndex, RequestId};
use proto::messages::job::{
    ExplainQuery, JobDescribe, JobDescribed, JobList, JobQuery, JobStatus, JobSubmit, ListEnd,
    SegmentList, SegmentQuery, SegmentRange, TaskOutcome, TaskOutcomes, TaskQuery,
};
use proto::messages::keyspace::{KeyEntry, KeyRange};
use proto::messages::node::{NodeEntry, NodeList, RingQuery, RingStatusQuery};
use proto::record::{Message, Record, RecordError, Records, encode};
use proto::status::{Cause, ErrorCode, JobState, Role, TaskState};
use proto::wire::bytes_of;

use super::cluster::Cluster;
use super::commands::Output;
use super::explain;
use super::jobs::Job;
use super::storage_watch::StorageWatch;

/// Records, or runs, of one answer.
const ANSWER_RECORDS: usize = 1_000;

/// Ranges of segments after which an answer ends: 8 MiB.
const ANSWER_RANGES: usize = (8 << 20) / size_of::<SegmentRange>();

/// Bytes of keys and values after which an answer ends: so that a client which asks for several at
/// a time gets them all, with what may wait for one.
const ANSWER_BYTES: usize = 1 << 20;

pub use super::ring::REPLICAS;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// A job's state.
    Job {
        /// The job; nil where the selector names it.
        job: JobId,
        /// A name, the beginning of a UUID, or `last`.
        selector: String,
        /// Answer when the state is final.
        until_final: bool,
    },
    /// What a job is.
    Description {
        /// The job; nil where the selector names it.
        job: JobId,
        /// As of a job's state.
        selector: String,
    },
    /// Why tasks are where they are.
    Explain {
        /// The job.
        job: JobId,
        /// The task; `None` for the job as a whole.
        task: Option<u64>,
    },
    /// The jobs, newest first.
    Jobs {
        /// Only those submitted before; 0 for the newest.
        before: LogIndex,
        /// At most so many.
        limit: usize,
    },
    /// Outcomes of tasks.
    Tasks {
        /// The job.
        job: JobId,
        /// From this task on.
        first: u64,
        /// At most so many runs.
        limit: usize,
    },
    /// Where outputs and accounting are.
    Segments {
        /// The job.
        job: JobId,
        /// Go on after this position.
        after: u64,
        /// Only those that this fold replaces; 0 for all.
        fold: u64,
    },
    /// Keys in order.
    Keys {
        /// Keys that begin so.
        prefix: Vec<u8>,
        /// Only keys behind this one.
        after: Vec<u8>,
        /// At most so many.
        limit: usize,
    },
    /// The roster.
    Nodes,
    /// The ring.
    Ring,
    /// How the ring stands; only the leader knows.
    RingStatus,
}

/// What is known outside the replicated state and belongs into an answer.
pub struct Surroundings<'a> {
    /// Tasks that are dealt, by job, as far as the balancers told this master.
    pub running: &'a dyn Fn(JobId) -> u64,
    /// Whether somebody leads a group, as far as this master knows.
    pub is_led: &'a dyn Fn(u64) -> bool,
    /// The log's time by now, in microseconds.
    pub log_time_us: u64,
    /// The master's node UUID that leads, where it is known.
    pub leader: Option<proto::ids::NodeId>,
    /// What storage nodes reported, where this master leads.
    pub(super) storage: Option<&'a StorageWatch>,
}

impl Query {
    /// The question of a record, with the index that its asker has seen; `None` for a record that
    /// is no question.
    ///
    /// # Errors
    /// Where the record cannot be read.
    pub fn of(record: &Record<'_>) -> Result<Option<(Query, LogIndex)>, RecordError> {
        let limit = |asked: u32| match asked {
            0 => ANSWER_RECORDS,
            asked => (asked as usize).min(ANSWER_RECORDS),
        };
        Ok(Some(match record.message_type() {
            JobQuery::TYPE => {
                let (query, [selector]) = record.open::<JobQuery, 1>()?;
                let job = Query::Job {
                    job: query.job_uuid.into(),
                    selector: String::from_utf8_lossy(selector).into_owned(),
                    until_final: query.until_final == 1,
                };
                (job, LogIndex(query.seen_index))
            }
            JobDescribe::TYPE => {
                let (query, [selector]) = record.open::<JobDescribe, 1>()?;
                let selector = String::from_utf8_lossy(selector).into_owned();
                let description = Query::Description { job: query.job_uuid.into(), selector };
                (description, LogIndex(query.seen_index))
            }
            ExplainQuery::TYPE => {
                let query = record.read::<ExplainQuery>()?;
                let task = Some(query.task_index).filter(|task| *task != u64::MAX);
                let explain = Query::Explain { job: query.job_uuid.into(), task };
                (explain, LogIndex(query.seen_index))
            }
            JobList::TYPE => {
                let query = record.read::<JobList>()?;
                let before = LogIndex(query.before_index);
                let jobs = Query::Jobs { before, limit: limit(query.limit) };
                (jobs, LogIndex(query.seen_index))
            }
            TaskQuery::TYPE => {
                let query = record.read::<TaskQuery>()?;
                let job = query.job_uuid.into();
                let tasks =
                    Query::Tasks { job, first: query.first_task, limit: limit(query.limit) };
                (tasks, LogIndex(query.seen_index))
            }
            SegmentQuery::TYPE => {
                let query = record.read::<SegmentQuery>()?;
                let (job, fold) = (query.job_uuid.into(), query.fold);
                let segments = Query::Segments { job, after: query.after, fold };
                (segments, LogIndex(query.seen_index))
            }
            KeyRange::TYPE => {
                let (query, [prefix, after]) = record.open::<KeyRange, 2>()?;
                let keys = Query::Keys {
                    prefix: prefix.to_vec(),
                    after: after.to_vec(),
                    limit: limit(query.limit),
                };
                (keys, LogIndex(query.seen_index))
            }
            NodeList::TYPE => (Query::Nodes, LogIndex(record.read::<NodeList>()?.seen_index)),
            RingQuery::TYPE => (Query::Ring, LogIndex(0)),
            RingStatusQuery::TYPE => (Query::RingStatus, LogIndex(0)),
            _ => return Ok(None),
        }))
    }

    /// The records of the answer; `None` where it is to be kept until the job's state is final.
    ///
    /// # Errors
    /// The refusal that the asker gets.
    pub fn answer(
        &self,
        cluster: &Cluster,
        around: &Surroundings<'_>,
    ) -> Result<Option<Vec<Vec<u8>>>, Output> {
        Ok(Some(match self {
            Query::Job { until_final, .. } => {
                let id = self.job(cluster)?;
                let job = job(cluster, id)?;
                if *until_final && !job.state.is_final() {
                    return Ok(None);
                }
                vec![job_status(cluster, id, job, (around.running)(id), around.log_time_us)]
            }
            Query::Description { .. } => {
                let id = self.job(cluster)?;
                vec![job_described(cluster, id, job(cluster, id)?)?]
            }
            Query::Explain { job: id, task } => {
                vec![explain::explain(cluster, job(cluster, *id)?, *task, around)]
            }
            Query::Jobs { before, limit } => jobs(cluster, *before, *limit, around),
            Query::Tasks { job: id, first, limit } => {
                vec![task_outcomes(cluster, *id, job(cluster, *id)?, *first, *limit)]
            }
            Query::Segments { job: id, after, fold } => {
                vec![segments(cluster, *id, job(cluster, *id)?, *after, *fold)]
            }
            Query::Keys { prefix, after, limit } => keys(cluster, prefix, after, *limit),
            Query::Nodes => nodes(cluster, around),
            Query::Ring => vec![cluster.rings.reply(&cluster.nodes)],
            Query::RingStatus => {
                let text = "how the ring stands is known to the leader alone";
                let refusal = || Output::refused(ErrorCode::NotLeader, text);
                vec![cluster.rings.status(around.storage.ok_or_else(refusal)?)]
            }
        }))
    }

    /// The job that a question about one job means.
    ///
    /// # Errors
    /// Where there is none, or several.
    pub fn job(&self, cluster: &Cluster) -> Result<JobId, Output> {
        let (Query::Job { job, selector, .. } | Query::Description { job, selector }) = self else {
            return Err(Output::refused(ErrorCode::Invalid, "the question names no job"));
        };
        if job.is_nil() { select(cluster, selector) } else { Ok(*job) }
    }
}

/// The job that a person means: `last`, a UUID or its beginning, a name (the newest job of it).
fn select(cluster: &Cluster, selector: &str) -> Result<JobId, Output> {
    let not_found = |text: String| Output::refused(ErrorCode::NotFound, text);
    let newest = || cluster.jobs_by_index.iter().rev().map(|(_, id)| *id);
    if selector == "last" {
        return newest().next().ok_or_else(|| not_found("there is no job yet".into()));
    }
    let named = newest().find(|id| cluster.jobs[id].name == selector);
    if let Some(id) = named {
        return Ok(id);
    }
    let digits: String = selector.chars().filter(|digit| *digit != '-').collect();
    let is_beginning = !digits.is_empty() && digits.chars().all(|digit| digit.is_ascii_hexdigit());
    let matches = |id: &JobId| format!("{:032x}", id.0).starts_with(&digits.to_lowercase());
    let mut matching = newest().filter(|id| is_beginning && matches(id));
    match (matching.next(), matching.next()) {
        (Some(id), None) => Ok(id),
        (Some(one), Some(other)) => Err(Output::refused(
            ErrorCode::Invalid,
            format!("{selector:?} is ambiguous: {one} and {other} begin so; give more digits"),
        )),
        _ => Err(not_found(format!("there is no job {selector:?}"))),
    }
}

fn job(cluster: &Cluster, id: JobId) -> Result<&Job, Output> {
    let found = cluster.jobs.get(&id).map(|job| &**job);
    found.ok_or_else(|| cluster.no_job(id))
}

/// A job's state as a record, at a log time in microseconds.
#[must_use]
pub fn job_status(
    cluster: &Cluster,
    id: JobId,
    job: &Job,
    running_count: u64,
    log_time_us: u64,
) -> Vec<u8> {
    let exit_codes = job.failed.keys().map(|failure| failure.exit_code);
    let status = JobStatus {
        job_uuid: id.to_wire(),
        state: job.state.to_wire(),
        index: cluster.applied.0,
        task_count: job.task_count,
        done_count: job.done.len(),
        failed_count: job.failed_count(),
        running_count: if job.state.is_final() { 0 } else { running_count },
        lost_attempts: job.lost_attempts,
        submitted_us: job.submitted_us,
        finished_us: job.finished_us,
        exit_code: exit_codes.filter(|&code| code != 0).min().unwrap_or(0),
        segment_count: job.segments.len() as u64,
        priority: job.priority,
        is_held: u8::from(job.is_held),
        crashed_attempts: job.crashed_attempts,
        retry_of_uuid: job.retry_of.unwrap_or_default().to_wire(),
        age_us: log_time_us.saturating_sub(job.submitted_us),
        ..JobStatus::default()
    };
    encode(&status, &[job.name.as_bytes(), job.owner.as_bytes()])
}

/// What a job is, from the record that the balancers get.
fn job_described(cluster: &Cluster, id: JobId, job: &Job) -> Result<Vec<u8>, Output> {
    // The record was read before it was kept.
    let kept = Records::of(&job.record).next().and_then(Result::ok);
    let opened = kept.as_ref().and_then(|record| record.open::<JobSubmit, 3>().ok());
    let Some((submit, parts)) = opened else {
        let text = format!("what job {id} is cannot be read");
        return Err(Output::refused(ErrorCode::Invalid, text));
    };
    let described = JobDescribed {
        job_uuid: id.to_wire(),
        index: cluster.applied.0,
        task_count: job.task_count,
        program_kind: submit.program_kind,
        ..JobDescribed::default()
    };
    Ok(encode(&described, &parts))
}

fn jobs(
    cluster: &Cluster,
    before: LogIndex,
    limit: usize,
    around: &Surroundings<'_>,
) -> Vec<Vec<u8>> {
    let before = if before.0 == 0 { LogIndex(u64::MAX) } else { before };
    let mut next = 0;
    let mut records = Vec::new();
    for (index, id) in cluster.jobs_by_index.range(..before).rev().take(limit) {
        let running = (around.running)(*id);
        records.push(job_status(cluster, *id, &cluster.jobs[id], running, around.log_time_us));
        next = index.0;
    }
    let is_all = cluster.jobs_by_index.range(..LogIndex(next)).next().is_none();
    records.push(list_end(cluster, records.len(), if is_all { 0 } else { next }));
    records
}

fn list_end(cluster: &Cluster, count: usize, next: u64) -> Vec<u8> {
    let end = ListEnd { count: count as u64, next, index: cluster.applied.0, ..ListEnd::default() };
    encode(&end, &[])
}

/// The state of tasks that have no outcome of their own.
fn without_outcome(job: &Job) -> TaskState {
    match job.state {
        JobState::Queued | JobState::Running => TaskState::Queued,
        JobState::Done | JobState::Failed | JobState::Cancelled => TaskState::Cancelled,
    }
}

fn task_outcomes(cluster: &Cluster, id: JobId, job: &Job, first: u64, limit: usize) -> Vec<u8> {
    let mut outcomes = Vec::new();
    let mut at = first;
    while at < job.task_count && outcomes.len() < limit {
        let done = job.done.next_run(at, job.task_count).map(|run| (run, None));
        let failed = job.failed.iter().filter_map(|(failure, set)| {
            set.next_run(at, job.task_count).map(|run| (run, Some(*failure)))
        });
        let next = done.into_iter().chain(failed).min_by_key(|(run, _)| run.start);
        let (run, state, failure) = match next {
            Some((run, None)) if run.start == at => (run, TaskState::Done, None),
            Some((run, how)) if run.start == at => (run, TaskState::Failed, how),
            other => {
                let end = other.map_or(job.task_count, |(run, _)| run.start);
                (at..end, without_outcome(job), None)
            }
        };
        let (tasks, earlier_attempts) = job.earlier_attempts(run);
        at = tasks.end;
        outcomes.push(TaskOutcome {
            first_task: tasks.start,
            task_count: tasks.end - tasks.start,
            state: state.to_wire(),
            cause: failure.map_or(Cause::None, |how| how.cause).to_wire(),
            exit_code: failure.map_or(0, |how| how.exit_code),
            earlier_attempts,
        });
    }
    let reply = TaskOutcomes {
        job_uuid: id.to_wire(),
        index: cluster.applied.0,
        next_task: if at < job.task_count { at } else { 0 },
        ..TaskOutcomes::default()
    };
    encode(&reply, &[bytes_of(&outcomes)])
}

fn segments(cluster: &Cluster, id: JobId, job: &Job, after: u64, fold: u64) -> Vec<u8> {
    let mut ranges = Vec::new();
    let mut next = 0;
    let mut listed = job.segments.behind(after, fold).peekable();
    for _ in 0..ANSWER_RECORDS {
        let Some(segment) = listed.next() else { break };
        ranges.extend(segment.tasks.iter().map(|tasks| SegmentRange {
            segment_uuid: segment.file.to_wire(),
            first_task: tasks.start,
            task_count: tasks.end - tasks.start,
        }));
        next = if listed.peek().is_some() { segment.number } else { 0 };
        if ranges.len() >= ANSWER_RANGES {
            break;
        }
    }
    let reply = SegmentList {
        job_uuid: id.to_wire(),
        index: cluster.applied.0,
        next,
        ..SegmentList::default()
    };
    encode(&reply, &[bytes_of(&ranges)])
}

fn keys(cluster: &Cluster, prefix: &[u8], after: &[u8], limit: usize) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    let (mut bytes, mut is_full) = (0, false);
    for (key, value) in cluster.keyspace.range(prefix, after) {
        let entry = KeyEntry { version: value.version.0, ..KeyEntry::default() };
        let record = encode(&entry, &[key, &value.bytes]);
        bytes += record.len();
        records.push(record);
        is_full = records.len() >= limit || bytes >= ANSWER_BYTES;
        if is_full {
            break;
        }
    }
    records.push(list_end(cluster, records.len(), u64::from(is_full)));
    records
}

fn nodes(cluster: &Cluster, around: &Surroundings<'_>) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    for (id, node) in &cluster.nodes.nodes {
        let known = &node.registration;
        let leads = match known.role {
            Role::Master => around.leader == Some(*id),
            Role::Balancer => {
                let group = cluster.nodes.groups.get(&node.group);
                group.is_some_and(|group| group.primary == Some(*id))
            }
            _ => false,
        };
        let entry = NodeEntry {
            entry_uuid: id.to_wire(),
            role: known.role.to_wire(),
            incarnation: known.incarnation.0,
            leads: u8::from(leads),
            group: node.group,
            slot_count: known.slot_count,
            index: node.index.0,
            ..NodeEntry::default()
        };
        // Users may have given a storage node another zone than the one that it registered with.
        let zone = cluster.rings.standing(*id).map_or(&known.zone, |it| &it.place.zone);
        let parts = [&known.address, &known.telemetry_address, zone];
        records.push(encode(&entry, &parts.map(|part| part.as_bytes())));
    }
    records.push(list_end(cluster, records.len(), 0));
    records
}

/// A question that waits, and who asked it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Whom the answer goes to.
    pub peer: node::logic::network::Peer,
    /// The id to repeat in it.
    pub request: RequestId,
    /// The question.
    pub query: Query,
}

#[cfg(test)]
mod tests;
