//! Asking the workers themselves what they execute and what a running task printed.
//!
//! Nobody but a worker knows which of its tasks runs at this moment, so whoever looks for one asks
//! all workers, some at a time. That is coarse with thousands of workers: one look for a task is as
//! many small requests, and takes as long as the slowest of those who do not answer. So the worker
//! that has a task is asked alone until it has it no more, and who keeps silent is left alone for a
//! while.

mod follow;
mod recorded;

use std::collections::BTreeMap;

use proto::ids::{Incarnation, JobId, NodeId, TaskIndex};
use proto::record::Record;
use proto::status::{OutputKind, Role};
use proto::time::{Duration, Instant};

use crate::blocking::Client;
use crate::direct::{Direct, Heard, Took};
use crate::error::ClientError;
use crate::logic::live::{
    Activity, Chunk, activity_query, output_pull, read_activities, read_chunk,
};

pub use follow::{FollowEvent, TaskEnded, TaskFollow};
pub use recorded::JobLogs;

/// How long what the masters said of the workers is believed.
const ROSTER: Duration = Duration::from_secs(2);

/// How long a worker that did not answer is left alone, unless it was started again.
const LEFT_ALONE: Duration = Duration::from_secs(10);

/// A worker, as the masters know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerPlace {
    /// The worker.
    pub node: NodeId,
    /// How often its data folder was started.
    pub incarnation: Incarnation,
    /// Where it is reached.
    pub address: String,
}

/// What the workers execute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activities {
    /// The tasks, in no order, with their workers.
    pub tasks: Vec<(WorkerPlace, Activity)>,
    /// Workers that did not answer, so that what they execute is missing here.
    pub silent: Vec<WorkerPlace>,
}

/// A conversation with the workers of a cluster.
#[derive(Debug)]
pub struct Workers<'a> {
    client: &'a Client,
    direct: Direct,
    roster: Vec<WorkerPlace>,
    roster_due: Instant,
    /// Workers that did not answer, until when they are left alone.
    silent: BTreeMap<(NodeId, Incarnation), Instant>,
}

impl Client {
    /// Begins a conversation with the workers.
    ///
    /// # Errors
    /// [`ClientError::Network`] and [`ClientError::Start`] where the process gets no socket or no
    /// randomness.
    pub fn workers(&self) -> Result<Workers<'_>, ClientError> {
        Ok(Workers {
            client: self,
            direct: Direct::new()?,
            roster: Vec::new(),
            roster_due: Instant(0),
            silent: BTreeMap::new(),
        })
    }
}

impl Workers<'_> {
    /// What all workers execute, of one job or of all.
    ///
    /// # Errors
    /// [`ClientError`] where the masters do not say which workers there are.
    pub fn activities(&mut self, job: Option<JobId>) -> Result<Activities, ClientError> {
        self.read_roster()?;
        let roster = self.roster.clone();
        let questions = roster.iter().map(|place| (place, activity_query(job))).collect();
        let mut answers: Vec<Option<Vec<Activity>>> = vec![None; roster.len()];
        self.ask(questions, &mut |at, record| {
            // What cannot be read is as good as silence.
            if let (Ok(read), Some(answer)) = (read_activities(record), answers.get_mut(at)) {
                *answer = Some(read);
            }
            Took::<()>::All
        });
        let mut all = Activities::default();
        for (place, answer) in roster.into_iter().zip(answers) {
            match answer {
                Some(tasks) => {
                    let wanted = tasks.into_iter().filter(|it| job.is_none_or(|job| job == it.job));
                    all.tasks.extend(wanted.map(|activity| (place.clone(), activity)));
                }
                None => all.silent.push(place),
            }
        }
        Ok(all)
    }

    /// The worker that executes a task, in this attempt or a later one.
    ///
    /// # Errors
    /// [`ClientError`] where the masters do not say which workers there are.
    pub fn find(
        &mut self,
        job: JobId,
        task: TaskIndex,
        from_attempt: u64,
    ) -> Result<Option<WorkerPlace>, ClientError> {
        self.read_roster()?;
        let now = self.direct.now();
        self.silent.retain(|_, until| now < *until);
        let is_spoken_to =
            |place: &&WorkerPlace| !self.silent.contains_key(&(place.node, place.incarnation));
        let asked: Vec<WorkerPlace> = self.roster.iter().filter(is_spoken_to).cloned().collect();
        let questions = asked.iter().map(|place| (place, activity_query(Some(job)))).collect();
        let is_it = |it: &Activity| (it.job, it.task) == (job, task) && it.attempt >= from_attempt;
        let found = self.ask(questions, &mut |at, record| match read_activities(record) {
            Ok(tasks) if tasks.iter().any(is_it) => Took::Enough(at),
            _ => Took::All,
        });
        Ok(found.and_then(|at| asked.get(at).cloned()))
    }

    /// What a task printed on its worker from a byte of standard output and one of standard error
    /// on: `take` gets the answers, and is not called where the worker does not execute it or does
    /// not answer.
    pub fn pull(
        &mut self,
        worker: &WorkerPlace,
        job: JobId,
        task: TaskIndex,
        offsets: [(OutputKind, u64); 2],
        take: &mut dyn FnMut(Chunk<'_>),
    ) {
        let question = |(kind, offset)| (worker, output_pull(job, task, kind, offset));
        self.ask(offsets.into_iter().map(question).collect(), &mut |_, record| {
            if let Ok(chunk) = read_chunk(record, job, task) {
                take(chunk);
            }
            Took::<()>::All
        });
    }

    /// Waits, and answers the workers' own questions meanwhile.
    pub fn wait(&mut self, span: Duration) {
        self.direct.wait(span);
    }

    fn now(&self) -> Instant {
        self.direct.now()
    }

    /// A span for each worker that is known.
    fn pause(&self, each: Duration) -> Duration {
        each.times(self.roster.len() as u64)
    }

    fn read_roster(&mut self) -> Result<(), ClientError> {
        if self.now() < self.roster_due {
            return Ok(());
        }
        let nodes = self.client.nodes()?;
        let workers = nodes.into_iter().filter(|it| it.role == Role::Worker);
        let reachable = workers.filter(|it| !it.address.is_empty());
        self.roster = reachable
            .map(|it| WorkerPlace {
                node: it.node,
                incarnation: it.incarnation,
                address: it.address,
            })
            .collect();
        self.roster_due = self.now() + ROSTER;
        Ok(())
    }

    /// Asks workers, some at a time, and hands each answer to `each` with the number of its
    /// question, until `each` has enough. A refusal is no answer.
    fn ask<T>(
        &mut self,
        questions: Vec<(&WorkerPlace, Vec<u8>)>,
        each: &mut dyn FnMut(usize, &Record<'_>) -> Took<T>,
    ) -> Option<T> {
        let until = self.now() + LEFT_ALONE;
        let places: Vec<&WorkerPlace> = questions.iter().map(|(place, _)| *place).collect();
        let questions = questions.into_iter().map(|(place, record)| (&*place.address, record));
        let silent = &mut self.silent;
        self.direct.ask(questions.collect(), &mut |at, heard| match heard {
            Heard::Record(record) => each(at, record),
            Heard::Refused => Took::All,
            Heard::Silence => {
                if let Some(place) = places.get(at) {
                    silent.insert((place.node, place.incarnation), until);
                }
                Took::All
            }
        })
    }
}
