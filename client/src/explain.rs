//! Why a task, or a job, is where it is: the masters are asked, then the balancers that deal its
//! tasks, then the workers that these name.
//!
//! Whoever does not answer is told of, and the others are asked all the same. What is said is put
//! together by `logic/explain.rs`; the words are whoever's who shows it.

use std::collections::{BTreeMap, BTreeSet};

use proto::ids::{JobId, LogIndex, NodeId, TaskIndex};
use proto::status::{Reason, Role, TaskState};

use crate::blocking::Client;
use crate::direct::{Direct, Heard, Took};
use crate::error::ClientError;
use crate::logic::answers::{Answer, JobSummary, NodeSummary, OutcomeRun};
use crate::logic::explain::{Reply, Told, explain_query, merge, read_reply};
use crate::logic::jobs::{JobSelector, Request};
use crate::logic::live::{Activity, activity_query, read_activities};

/// Workers that are asked: with more of them, what the others say would not be read.
const WORKERS: usize = 64;

/// What all tiers say of a task, or of a job as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// The job.
    pub job: JobSummary,
    /// The task's outcome as the masters have it, where one was asked for.
    pub task: Option<OutcomeRun>,
    /// Thousandths of a CPU that a task takes.
    pub cpu_milli: u64,
    /// Bytes of memory that a task takes; 0 where it says nothing of it.
    pub memory_bytes: u64,
    /// Why, the most pressing first.
    pub told: Vec<Told>,
    /// What the asked workers execute of it at present.
    pub running: Vec<(NodeId, Activity)>,
    /// Nodes that were asked and did not answer.
    pub silent: Vec<NodeSummary>,
    /// The nodes that the others speak of; none where only masters were asked.
    pub nodes: Vec<NodeSummary>,
}

impl Client {
    /// Asks all that can hold a task up, or a job, why it is where it is.
    ///
    /// # Errors
    /// [`ClientError::NoTask`], and [`ClientError`] where the masters do not answer. Others may be
    /// silent.
    pub fn explain(
        &self,
        job: JobSelector,
        task: Option<TaskIndex>,
    ) -> Result<Explained, ClientError> {
        let summary = self.status(job)?;
        let job = summary.job;
        if let Some(task) = task.filter(|task| task.0 >= summary.task_count) {
            return Err(ClientError::NoTask { job, task });
        }
        let master = self.explained_by_masters(job, task)?;
        let outcome = match task {
            Some(task) => self.outcomes(job, task.0, 1)?.items.into_iter().next(),
            None => None,
        };
        let description = self.describe(JobSelector::Id(job))?.description;
        let mut explained = Explained {
            job: summary,
            task: outcome,
            cpu_milli: u64::from(description.cpu_milli),
            memory_bytes: description.memory_bytes,
            told: Vec::new(),
            running: Vec::new(),
            silent: Vec::new(),
            nodes: Vec::new(),
        };
        let has_outcome = |run: &OutcomeRun| {
            matches!(run.state, TaskState::Done | TaskState::Failed | TaskState::Cancelled)
        };
        if explained.job.state.is_final() || explained.task.as_ref().is_some_and(has_outcome) {
            explained.told = merge(master.told, Vec::new(), Vec::new());
            return Ok(explained);
        }
        explained.nodes = self.nodes()?;
        let mut direct = Direct::new()?;
        let query = explain_query(job, task, LogIndex(0));
        let balancers = ask_balancers(&mut direct, &query, master.group, task, &mut explained);
        let workers = ask_workers(&mut direct, &query, &balancers, task, &mut explained);
        explained.told = merge(master.told, balancers, workers);
        Ok(explained)
    }

    /// What the masters alone know of why a task, or a job, is where it is: nobody else is asked.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn explained_by_masters(
        &self,
        job: JobId,
        task: Option<TaskIndex>,
    ) -> Result<Reply, ClientError> {
        match self.begin(Request::Explain { job, task }).wait()?? {
            Answer::Explained(reply) => Ok(reply),
            _ => Err(ClientError::OtherAnswer),
        }
    }
}

/// What the balancers say: of each group the primary, or whoever answers of it.
fn ask_balancers(
    direct: &mut Direct,
    query: &[u8],
    group: Option<u64>,
    task: Option<TaskIndex>,
    explained: &mut Explained,
) -> Vec<Told> {
    let is_asked = |it: &&NodeSummary| {
        // A large job is granted to several groups in parts, a task to one.
        let is_its_group = task.is_none() || group.is_none_or(|group| group == it.group);
        it.role == Role::Balancer && !it.address.is_empty() && is_its_group
    };
    let asked: Vec<NodeSummary> = explained.nodes.iter().filter(is_asked).cloned().collect();
    let mut by_group: BTreeMap<u64, (bool, Vec<Told>)> = BTreeMap::new();
    for (node, reply) in ask(direct, &asked, query, &mut explained.silent) {
        let heard = by_group.entry(node.group).or_default();
        // An auxiliary knows where tasks are, but not what comes next.
        if node.leads || !heard.0 {
            *heard = (node.leads, reply.told);
        }
    }
    by_group.into_values().flat_map(|(_, told)| told).collect()
}

/// What the workers say that the balancers name, and what they execute.
fn ask_workers(
    direct: &mut Direct,
    query: &[u8],
    balancers: &[Told],
    task: Option<TaskIndex>,
    explained: &mut Explained,
) -> Vec<Told> {
    let has_tasks = |it: &&Told| {
        matches!(it.reason, Reason::AtWorker | Reason::Reporting | Reason::WorkersFull)
    };
    let named: BTreeSet<NodeId> =
        balancers.iter().filter(has_tasks).filter_map(|it| it.subject).collect();
    let is_asked = |it: &&NodeSummary| named.contains(&it.node) && !it.address.is_empty();
    let asked: Vec<NodeSummary> =
        explained.nodes.iter().filter(is_asked).take(WORKERS).cloned().collect();
    let replies = ask(direct, &asked, query, &mut explained.silent);
    let told = replies.iter().flat_map(|(_, reply)| reply.told.iter().cloned()).collect();
    let job = explained.job.job;
    let questions = replies.iter().map(|(node, _)| (&*node.address, activity_query(Some(job))));
    let running = &mut explained.running;
    direct.ask(questions.collect(), &mut |at, heard| {
        if let Heard::Record(record) = heard
            && let (Ok(activities), Some((node, _))) = (read_activities(record), replies.get(at))
        {
            let is_it = |it: &Activity| it.job == job && task.is_none_or(|task| task == it.task);
            let wanted = activities.into_iter().filter(is_it);
            running.extend(wanted.map(|activity| (node.node, activity)));
        }
        Took::<()>::All
    });
    running.sort_by_key(|(_, activity)| (activity.task, activity.attempt));
    told
}

/// Asks nodes; those that do not answer are added to `silent`.
fn ask<'a>(
    direct: &mut Direct,
    nodes: &'a [NodeSummary],
    query: &[u8],
    silent: &mut Vec<NodeSummary>,
) -> Vec<(&'a NodeSummary, Reply)> {
    let questions = nodes.iter().map(|node| (&*node.address, query.to_vec())).collect();
    let mut replies = Vec::new();
    direct.ask(questions, &mut |at, heard| {
        let Some(node) = nodes.get(at) else { return Took::<()>::All };
        match heard {
            // What cannot be read is as good as silence.
            Heard::Record(record) => match read_reply(record, node.role) {
                Ok(reply) => replies.push((node, reply)),
                Err(_) => silent.push(node.clone()),
            },
            Heard::Refused | Heard::Silence => silent.push(node.clone()),
        }
        Took::All
    });
    replies
}
