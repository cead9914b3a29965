//! Asking the workers themselves what they execute and what a running task printed.
//!
//! Nobody but a worker knows which of its tasks runs at this moment, so whoever looks for one asks
//! all workers, some at a time. That is coarse with thousands of workers: one look for a task is as
//! many small requests, and takes as long as the slowest of those who do not answer. So the worker
//! that has a task is asked alone until it has it no more, and who keeps silent is left alone for a
//! while. The conversation is one of its own, beside the client's with masters and storage nodes.

mod follow;
mod recorded;

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;

use node::clock::Clock;
use node::logic::backoff::Backoff;
use node::logic::calls::{CallError, CallLimits, CallPolicy, Calls, FailedCall, Handled};
use node::logic::network::{Link, NetworkEvent};
use node::network::Network;
use node::random;
use proto::ids::{Incarnation, JobId, NodeId, RequestId, TaskIndex};
use proto::record::Record;
use proto::status::{OutputKind, Role};
use proto::time::{Duration, Instant};

use crate::blocking::Client;
use crate::error::ClientError;
use crate::logic::live::{
    Activity, Chunk, activity_query, output_pull, read_activities, read_chunk,
};
use crate::service::new_network;

pub use follow::{FollowEvent, TaskEnded, TaskFollow};
pub use recorded::JobLogs;

/// A worker that is alive answers at once, but may be reached only after a lost packet or two.
const POLICY: CallPolicy = CallPolicy {
    timeout: Duration::from_millis(1_000),
    attempts: 2,
    patience: Duration::from_millis(2_000),
};

/// Waits between attempts.
const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(20), longest: Duration::from_millis(200) };

/// Workers that are asked at the same time.
const AT_ONCE: usize = 64;

/// Open connections; ZeroMQ has about a thousand sockets for a process.
const LINES: usize = 256;

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
    network: Network,
    clock: Clock,
    calls: Calls,
    roster: Vec<WorkerPlace>,
    roster_due: Instant,
    /// Open lines, the longest unused first.
    lines: VecDeque<(String, Link)>,
    /// Workers that did not answer, until when they are left alone.
    silent: BTreeMap<(NodeId, Incarnation), Instant>,
    last_request: RequestId,
}

impl Client {
    /// Begins a conversation with the workers.
    ///
    /// # Errors
    /// [`ClientError::Network`] and [`ClientError::Start`] where the process gets no socket or no
    /// randomness.
    pub fn workers(&self) -> Result<Workers<'_>, ClientError> {
        let clock = Clock::start();
        let random = random::generator().map_err(ClientError::Start)?;
        let limits = CallLimits { calls: AT_ONCE, bytes: usize::MAX };
        Ok(Workers {
            client: self,
            network: new_network(clock)?,
            clock,
            calls: Calls::new(BACKOFF, limits, random),
            roster: Vec::new(),
            roster_due: clock.now(),
            lines: VecDeque::new(),
            silent: BTreeMap::new(),
            last_request: RequestId(0),
        })
    }
}

impl<'a> Workers<'a> {
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
            ControlFlow::<()>::Continue(())
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
        let now = self.clock.now();
        self.silent.retain(|_, until| now < *until);
        let is_spoken_to =
            |place: &&WorkerPlace| !self.silent.contains_key(&(place.node, place.incarnation));
        let asked: Vec<WorkerPlace> = self.roster.iter().filter(is_spoken_to).cloned().collect();
        let questions = asked.iter().map(|place| (place, activity_query(Some(job)))).collect();
        let is_it = |it: &Activity| (it.job, it.task) == (job, task) && it.attempt >= from_attempt;
        let found = self.ask(questions, &mut |at, record| match read_activities(record) {
            Ok(tasks) if tasks.iter().any(is_it) => ControlFlow::Break(at),
            _ => ControlFlow::Continue(()),
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
            ControlFlow::<()>::Continue(())
        });
    }

    /// Waits, and answers the workers' own questions meanwhile.
    pub fn wait(&mut self, span: Duration) {
        let until = self.clock.now() + span;
        while self.clock.now() < until {
            self.turn(Some(until), &mut |_, _| {});
        }
    }

    /// A span for each worker that is known.
    fn pause(&self, each: Duration) -> Duration {
        each.times(self.roster.len() as u64)
    }

    fn read_roster(&mut self) -> Result<(), ClientError> {
        let now = self.clock.now();
        if now < self.roster_due {
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
        self.roster_due = self.clock.now() + ROSTER;
        Ok(())
    }

    /// Asks workers, some at a time, and hands each answer to `each` with the number of its
    /// question, until `each` has enough. A refusal is no answer.
    fn ask<T>(
        &mut self,
        questions: Vec<(&WorkerPlace, Vec<u8>)>,
        each: &mut dyn FnMut(usize, &Record<'_>) -> ControlFlow<T>,
    ) -> Option<T> {
        let mut in_flight: BTreeMap<RequestId, (usize, &WorkerPlace)> = BTreeMap::new();
        let mut waiting = questions.into_iter().enumerate();
        let mut enough = None;
        loop {
            while in_flight.len() < AT_ONCE
                && enough.is_none()
                && let Some((at, (place, record))) = waiting.next()
            {
                if let Ok(request) = self.send(&place.address, record) {
                    in_flight.insert(request, (at, place));
                }
            }
            if in_flight.is_empty() || enough.is_some() {
                break;
            }
            let failed = self.turn(None, &mut |request, record| {
                if let Some((at, _)) = in_flight.remove(&request)
                    && enough.is_none()
                    && let ControlFlow::Break(value) = each(at, record)
                {
                    enough = Some(value);
                }
            });
            for FailedCall { request, error } in failed {
                if let Some((_, place)) = in_flight.remove(&request)
                    && let CallError::GaveUp { last: None, .. } = error
                {
                    let until = self.clock.now() + LEFT_ALONE;
                    self.silent.insert((place.node, place.incarnation), until);
                }
            }
        }
        // Answers that still come are passed over.
        for request in in_flight.keys() {
            self.calls.answered(*request);
        }
        enough
    }

    /// Sends a request on the line to an address.
    fn send(&mut self, address: &str, record: Vec<u8>) -> Result<RequestId, CallError> {
        let mut effects = Vec::new();
        let known = self.lines.iter().position(|(known, _)| known == address);
        let line = match known.and_then(|at| self.lines.remove(at)) {
            Some(line) => line,
            None => {
                let next = u32::try_from(self.lines.len()).unwrap_or(u32::MAX);
                let link = match self.lines.len() >= LINES {
                    // More lines than questions at once: the longest unused one waits for nothing.
                    true => self.lines.pop_front().map_or(Link(next), |(_, link)| {
                        self.calls.remove_line(link, &mut effects, &mut Vec::new());
                        link
                    }),
                    false => Link(next),
                };
                self.calls.set_line(link, vec![address.to_owned()]);
                (address.to_owned(), link)
            }
        };
        let link = line.1;
        self.lines.push_back(line);
        let now = self.clock.now();
        self.last_request = self.last_request.next();
        let request = self.last_request;
        let called = self.calls.call(now, request, link, record, POLICY, &mut effects);
        effects.drain(..).for_each(|effect| self.network.perform(effect));
        called.map(|()| request)
    }

    /// One turn of the network: replies go to `reply`, what failed is returned.
    fn turn(
        &mut self,
        until: Option<Instant>,
        reply: &mut dyn FnMut(RequestId, &Record<'_>),
    ) -> Vec<FailedCall> {
        let (mut effects, mut failed) = (Vec::new(), Vec::new());
        let deadline = [until, self.calls.next_deadline()].into_iter().flatten().min();
        let (calls, clock) = (&mut self.calls, self.clock);
        let mut answered = Vec::new();
        self.network.poll(deadline, &mut |event| {
            let handled = calls.handle(clock.now(), &event, &mut effects, &mut failed);
            if let (Handled::Reply(request), NetworkEvent::Record { record, .. }) =
                (handled, &event)
            {
                reply(request, record);
                answered.push(request);
            }
        });
        for request in answered {
            self.calls.answered(request);
        }
        self.calls.tick(self.clock.now(), &mut effects, &mut failed);
        effects.drain(..).for_each(|effect| self.network.perform(effect));
        failed
    }
}
