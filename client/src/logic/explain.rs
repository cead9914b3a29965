//! Why tasks are where they are, as nodes tell it, as ordinary Rust values.
//!
//! Responsible for checking what comes from nodes, and for putting together what several of them
//! say. Deliberately not for whom to ask, and not for the words that people read.

use proto::ids::{JobId, LogIndex, NodeId, TaskIndex};
use proto::messages::job::{ExplainQuery, ExplainReply, Explanation};
use proto::record::{Message, Record, RecordError, encode};
use proto::status::{Reason, Role};
use proto::wire::items_of;

/// The number that stands for the job as a whole where a task is named.
const WHOLE_JOB: u64 = u64::MAX;

/// Most explanations of one reply that are read.
const EXPLANATIONS: usize = 64;

/// Why some tasks are where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The tier of the node that says so.
    pub tier: Role,
    /// The node that says so.
    pub by: NodeId,
    /// Why.
    pub reason: Reason,
    /// The first of the tasks.
    pub first_task: u64,
    /// Number of the tasks, which need not be consecutive.
    pub task_count: u64,
    /// The node that the reason speaks of.
    pub subject: Option<NodeId>,
    /// What it counts is the reason's matter.
    pub number: u64,
    /// What is said beside, without control characters; may be empty.
    pub text: String,
}

/// What one node knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Log index of a master's state; 0 from others.
    pub index: LogIndex,
    /// The balancer group that has the tasks; `None` where that is not known.
    pub group: Option<u64>,
    /// The reasons, the most pressing first.
    pub told: Vec<Told>,
}

/// Asks a node why a task, or a job as a whole, is where it is.
#[must_use]
pub fn explain_query(job: JobId, task: Option<TaskIndex>, seen: LogIndex) -> Vec<u8> {
    let query = ExplainQuery {
        job_uuid: job.to_wire(),
        task_index: task.map_or(WHOLE_JOB, |task| task.0),
        seen_index: seen.0,
        ..ExplainQuery::default()
    };
    encode(&query, &[])
}

/// What a node of a tier answers. A reason of a later version is passed over.
///
/// # Errors
/// Where the record is another message or its parts do not fit.
pub fn read_reply(record: &Record<'_>, tier: Role) -> Result<Reply, RecordError> {
    let (reply, [items, mut texts]) = record.open::<ExplainReply, 2>()?;
    let part = |part| RecordError::Part { message_type: ExplainReply::TYPE, part };
    let items = items_of::<Explanation>(items).ok_or(part("explanations"))?;
    let mut told = Vec::new();
    for item in items.iter().take(EXPLANATIONS) {
        let length = item.text_length as usize;
        let (text, rest) = texts.split_at_checked(length).ok_or(part("texts"))?;
        texts = rest;
        let Some(reason) = Reason::from_wire(item.reason) else { continue };
        let text = String::from_utf8_lossy(text);
        told.push(Told {
            tier,
            by: record.node(),
            reason,
            first_task: item.first_task,
            task_count: item.task_count,
            subject: Some(NodeId::from(item.subject_uuid)).filter(|node| *node != NodeId(0)),
            number: item.number,
            // A terminal must not have to believe that there are none.
            text: text.chars().map(|it| if it.is_control() { ' ' } else { it }).collect(),
        });
    }
    Ok(Reply {
        index: LogIndex(reply.index),
        group: Some(reply.group).filter(|group| *group != 0),
        told,
    })
}

/// Puts together what a master, a balancer and workers say of the same tasks: who is nearer to them
/// knows better, and what two of them say is said once. The most pressing comes first.
#[must_use]
pub fn merge(master: Vec<Told>, balancer: Vec<Told>, workers: Vec<Told>) -> Vec<Told> {
    let is_at_worker = |it: &Told| matches!(it.reason, Reason::AtWorker | Reason::Reporting);
    let answers = |node: Option<NodeId>| workers.iter().any(|it| Some(it.by) == node);
    let has = |told: &[Told], reason: Reason| told.iter().any(|it| it.reason == reason);
    let mut all: Vec<Told> = Vec::new();
    // Of tasks that have their outcome the masters know, and a balancer forgets them.
    let says_finished = has(&master, Reason::Finished) || has(&master, Reason::Cancelled);
    for it in balancer {
        let is_known_better = is_at_worker(&it) && answers(it.subject);
        let is_said = it.reason == Reason::Finished && says_finished;
        if !is_known_better && !is_said {
            all.push(it);
        }
    }
    for it in master {
        // Only the balancer compares with the workers that it reaches, and knows what runs of a
        // job that is held.
        let is_settled = match it.reason {
            Reason::TooLarge | Reason::NoWorker => {
                has(&all, Reason::TooLarge) || has(&all, Reason::NoWorker)
            }
            Reason::Held => has(&all, Reason::Held),
            _ => false,
        };
        let is_said = all.iter().any(|other| {
            (other.reason, other.first_task) == (it.reason, it.first_task)
                && it.reason != Reason::Retried
        });
        if !is_settled && !is_said {
            all.push(it);
        }
    }
    // Where all of them are full, one says why for the balancer, which only counts them.
    for it in workers {
        let full = all
            .iter_mut()
            .find(|other| other.reason == Reason::WorkersFull && other.subject == Some(it.by));
        match full {
            Some(full) if it.reason == Reason::WorkersFull => full.text = it.text,
            _ => all.push(it),
        }
    }
    all.sort_by_key(|it| (pressing(it.reason), it.first_task, it.subject));
    all
}

/// The order in which reasons are told: what stops everything first, what is as it should be last.
fn pressing(reason: Reason) -> u8 {
    match reason {
        Reason::NoLeader => 0,
        Reason::Cancelled => 1,
        Reason::Held => 2,
        Reason::NoBalancer => 3,
        Reason::TakingOver => 4,
        Reason::NoWorker => 5,
        Reason::TooLarge => 6,
        Reason::WorkersFull => 7,
        Reason::Asked => 8,
        Reason::Inputs => 9,
        Reason::Behind => 10,
        Reason::SlotsBusy => 11,
        Reason::AtWorker => 12,
        Reason::NotGranted => 13,
        Reason::Next => 14,
        Reason::Reporting => 15,
        Reason::Running => 16,
        Reason::Retried => 17,
        Reason::Finished => 18,
    }
}

#[cfg(test)]
mod tests {
    use proto::record::Records;
    use proto::wire::bytes_of;

    use super::*;

    const MASTER: NodeId = NodeId(1);
    const BALANCER: NodeId = NodeId(2);
    const WORKER: NodeId = NodeId(3);

    fn told(by: NodeId, reason: Reason, first_task: u64, subject: Option<NodeId>) -> Told {
        let tier = match by {
            MASTER => Role::Master,
            BALANCER => Role::Balancer,
            _ => Role::Worker,
        };
        let text = String::new();
        Told { tier, by, reason, first_task, task_count: 1, subject, number: 0, text }
    }

    fn reasons(all: &[Told]) -> Vec<(Reason, NodeId)> {
        all.iter().map(|it| (it.reason, it.by)).collect()
    }

    #[test]
    fn who_is_nearer_to_a_task_knows_better() {
        let balancer = |subject| told(BALANCER, Reason::AtWorker, 4, Some(subject));
        let worker = told(WORKER, Reason::Inputs, 4, Some(WORKER));
        let all = merge(Vec::new(), vec![balancer(WORKER)], vec![worker.clone()]);
        assert_eq!(reasons(&all), [(Reason::Inputs, WORKER)]);
        // A worker that does not answer is spoken for by the balancer.
        let all = merge(Vec::new(), vec![balancer(NodeId(9))], vec![worker]);
        assert_eq!(reasons(&all), [(Reason::Inputs, WORKER), (Reason::AtWorker, BALANCER)]);
    }

    #[test]
    fn what_two_tiers_say_is_said_once_and_the_most_pressing_first() {
        let master =
            vec![told(MASTER, Reason::Retried, 0, None), told(MASTER, Reason::TooLarge, 0, None)];
        let balancer = vec![
            told(BALANCER, Reason::Running, 0, None),
            told(BALANCER, Reason::TooLarge, 2, None),
        ];
        let all = merge(master, balancer, Vec::new());
        let wanted =
            [(Reason::TooLarge, BALANCER), (Reason::Running, BALANCER), (Reason::Retried, MASTER)];
        assert_eq!(reasons(&all), wanted);
        let done = vec![told(MASTER, Reason::Finished, 0, None)];
        let settled = vec![told(BALANCER, Reason::Finished, 0, None)];
        assert_eq!(reasons(&merge(done, settled, Vec::new())), [(Reason::Finished, MASTER)]);
    }

    #[test]
    fn a_full_worker_says_why() {
        let count = Told { number: 2, ..told(BALANCER, Reason::WorkersFull, 0, Some(WORKER)) };
        let why =
            Told { text: "the disk is full".into(), ..told(WORKER, Reason::WorkersFull, 0, None) };
        let all = merge(Vec::new(), vec![count.clone()], vec![why]);
        assert_eq!(all, [Told { text: "the disk is full".into(), ..count }]);
    }

    #[test]
    fn what_nodes_say_is_checked() {
        let item = |reason: u8, text: &str| Explanation {
            reason,
            first_task: 7,
            task_count: 2,
            number: 3,
            text_length: u32::try_from(text.len()).unwrap(),
            ..Explanation::default()
        };
        let items = [item(Reason::Behind.to_wire(), "a\x1bb"), item(250, "later"), item(0, "cd")];
        let reply = |texts: &[u8]| {
            encode(
                &ExplainReply { index: 5, ..ExplainReply::default() },
                &[bytes_of(&items), texts],
            )
        };
        let read =
            |bytes: &[u8]| read_reply(&Records::of(bytes).next().unwrap().unwrap(), Role::Balancer);
        let good = read(&reply(b"a\x1bblatercd")).unwrap();
        assert_eq!((good.index, good.group), (LogIndex(5), None));
        let told: Vec<(Reason, &str)> = good.told.iter().map(|it| (it.reason, &*it.text)).collect();
        assert_eq!(told, [(Reason::Behind, "a b"), (Reason::Finished, "cd")]);
        assert!(read(&reply(b"a\x1bblaterc")).is_err(), "a text is missing");
        let other = explain_query(JobId(1), None, LogIndex(0));
        assert!(read(&other).is_err());
    }
}
