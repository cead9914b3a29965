//! A client that submits jobs through the shipped client logic and waits until they are final.
//!
//! Whatever comes back but an answer, it asks again under the same job UUID; so does the next life
//! of its machine, which knows the same jobs. Each life is another client node.

use std::collections::BTreeMap;

use ::client::logic::answers::Answer;
use ::client::logic::client::{Client, Done};
use ::client::logic::jobs::{JobSelector, Request as Question, Submission, Until};
use ::client::logic::session::{CallFailure, CallId};
use fastrand::Rng;
use node::logic::network::{Identity, NetworkEffect, NetworkLimits};
use proto::description::{JobDescription, Noop, Runtime};
use proto::ids::{ClusterId, Incarnation, JobId, NodeId, TaskIndex};
use proto::status::Role;
use proto::time::{Duration, Instant};

use super::{Edge, Event, Note, Request, Start, Tier, node_id};
use crate::pipeline::masters;
use crate::report::Happening;

/// How long one call may take before the client begins anew.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often a client looks at a job that is not final, beside waiting for its end.
const LOOK: Duration = Duration::from_millis(700);

/// Links that the client logic may use.
const LINKS: std::ops::Range<u32> = 0..16;

/// A job that a client wants done.
#[derive(Clone, Debug)]
pub(crate) struct JobPlan {
    /// Its UUID, the same in each life.
    pub(crate) job: JobId,
    /// When it is submitted after the client's start.
    pub(crate) after: Duration,
    /// What its tasks do.
    pub(crate) noop: Noop,
    /// How often a task is tried again after a failure.
    pub(crate) retries: u32,
    /// Number of tasks.
    pub(crate) task_count: u64,
}

impl JobPlan {
    fn submission(&self) -> Submission {
        let description = JobDescription {
            retries: self.retries,
            ..JobDescription::new(Runtime::Noop(self.noop))
        };
        Submission::new(self.job, &description, self.task_count, Vec::new())
            .expect("a noop description is short")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Planned,
    Accepted,
    Final,
}

/// What a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Submit,
    Wait,
    Look,
}

/// A running client.
pub(crate) struct JobClient {
    edge: Edge,
    logic: Client,
    rng: Rng,
    node: NodeId,
    place: usize,
    limits: NetworkLimits,
    /// Nodes that this process has been.
    nodes: u64,
    jobs: Vec<(JobPlan, Instant, Stage)>,
    calls: BTreeMap<CallId, (usize, Purpose)>,
    look_at: Instant,
    now: Instant,
}

fn edge_of(node: NodeId, nodes: u64, limits: NetworkLimits) -> Edge {
    let identity = Identity {
        node,
        role: Role::Client,
        cluster: ClusterId(0),
        // Generations of one life never repeat, whatever node it is.
        incarnation: Incarnation(nodes),
        version: "simulated".to_owned(),
        address: String::new(),
    };
    Edge::new(identity, limits)
}

impl JobClient {
    pub(crate) fn start(
        place: usize,
        jobs: &[JobPlan],
        start: &Start<'_>,
        requests: &mut Vec<Request>,
    ) -> JobClient {
        let mut rng = Rng::with_seed(start.seed);
        let node = node_id(b'c', place, start.life << 16);
        let logic = Client::new(LINKS, masters(start.member_count), rng.fork());
        let jobs = jobs
            .iter()
            .map(|plan| (plan.clone(), start.now + plan.after, Stage::Planned))
            .collect();
        let mut process = JobClient {
            edge: edge_of(node, 1, start.limits),
            logic,
            rng,
            node,
            place,
            limits: start.limits,
            nodes: 1,
            jobs,
            calls: BTreeMap::new(),
            look_at: start.now + LOOK,
            now: start.now,
        };
        process.handle(start.now, Event::Tick, requests);
        process
    }

    fn is_calling(&self, job: usize, purpose: Purpose) -> bool {
        self.calls.values().any(|&it| it == (job, purpose))
    }

    /// Asks whatever is to be asked now.
    fn ask(&mut self, now: Instant, effects: &mut Vec<NetworkEffect>) {
        let is_looking = self.look_at <= now;
        if is_looking {
            self.look_at = now + LOOK;
        }
        for index in 0..self.jobs.len() {
            let (plan, due, stage) = &self.jobs[index];
            let selector = JobSelector::Id(plan.job);
            let mut wanted = Vec::new();
            match stage {
                Stage::Planned if *due <= now => {
                    wanted.push((Purpose::Submit, Question::Submit(plan.submission())));
                }
                Stage::Accepted => {
                    let wait = Question::Job { job: selector.clone(), until: Until::Final };
                    wanted.push((Purpose::Wait, wait));
                    if is_looking {
                        let look = Question::Job { job: selector, until: Until::Now };
                        wanted.push((Purpose::Look, look));
                    }
                }
                Stage::Planned | Stage::Final => {}
            }
            for (purpose, question) in wanted {
                if self.is_calling(index, purpose) {
                    continue;
                }
                if let Ok(call) = self.logic.call(now, question, PATIENCE, effects) {
                    self.calls.insert(call, (index, purpose));
                }
            }
        }
    }

    fn answered(
        &mut self,
        call: CallId,
        result: Result<Answer, CallFailure>,
        requests: &mut Vec<Request>,
    ) {
        let Some((index, _)) = self.calls.remove(&call) else { return };
        let (plan, _, stage) = &mut self.jobs[index];
        match result {
            Ok(Answer::Accepted { job, index }) => {
                *stage = (*stage).max(Stage::Accepted);
                requests.push(Request::Note(Note::Accepted { job, index: index.0 }));
            }
            Ok(Answer::Job(summary)) => {
                if summary.state.is_final() {
                    *stage = Stage::Final;
                }
                let (client, summary) = (self.node, Box::new(summary));
                requests.push(Request::Note(Note::Told { client, summary }));
            }
            Err(CallFailure::Unreachable { .. } | CallFailure::OutcomeUnknown) => {
                requests.push(Request::Note(Note::Count(Happening::Retries, 1)));
            }
            other => {
                let reason = format!("job {}: {other:?}", plan.job);
                requests.push(Request::GiveUp { reason, is_disk: false });
            }
        }
    }
}

impl Tier for JobClient {
    fn edge(&mut self) -> &mut Edge {
        &mut self.edge
    }

    fn handle(&mut self, now: Instant, event: Event<'_>, requests: &mut Vec<Request>) {
        self.now = now;
        let mut effects: Vec<NetworkEffect> = Vec::new();
        let logic = &mut self.logic;
        match event {
            Event::Tick => {
                self.edge.tick(now, |event| {
                    logic.handle(now, &event, &mut effects);
                });
                logic.tick(now, &mut effects);
            }
            Event::Arrived { source, frame } => {
                self.edge.receive(now, &source, frame, |event| {
                    logic.handle(now, &event, &mut effects);
                });
            }
            Event::Worked(_) => unreachable!("a client has no disk thread"),
            Event::Finish => self.jobs.iter_mut().for_each(|(_, due, _)| *due = now.min(*due)),
        }
        while let Some(done) = self.logic.next_done(now, &mut effects) {
            if let Done::Call(ended) = done {
                self.answered(ended.call, ended.result, requests);
            }
        }
        if self.logic.wants_new_node() {
            self.nodes += 1;
            let life = self.node.0 as u32 >> 16;
            self.node = node_id(b'c', self.place, u64::from(life) << 16 | self.nodes);
            self.edge = edge_of(self.node, self.nodes, self.limits);
            effects.clear();
            let random = self.rng.fork();
            self.logic.begin_as_new_node(now, random, &mut effects);
        }
        self.ask(now, &mut effects);
        for effect in effects {
            self.edge.perform(now, effect, requests);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let due = |(_, due, stage): &(JobPlan, Instant, Stage)| match stage {
            // One that is due already is being submitted.
            Stage::Planned => (*due > self.now).then_some(*due),
            Stage::Accepted => Some(self.look_at),
            Stage::Final => None,
        };
        let jobs = self.jobs.iter().filter_map(due);
        let others = [self.logic.next_deadline(self.now), self.edge.next_deadline()];
        others.into_iter().flatten().chain(jobs).min()
    }

    fn check_invariants(&self) {
        self.logic.check_invariants();
        self.edge.check_invariants();
    }

    fn is_settled(&self) -> bool {
        self.jobs.iter().all(|(_, _, stage)| *stage == Stage::Final)
    }

    fn describe(&self) -> String {
        let stages: Vec<String> =
            self.jobs.iter().map(|(_, _, stage)| format!("{stage:?}")).collect();
        format!("jobs {}", stages.join(", "))
    }

    fn explain(&self, _job: JobId, _task: TaskIndex) -> String {
        let calls: Vec<String> = self.calls.values().map(|call| format!("{call:?}")).collect();
        format!("{}; asks {}", self.describe(), calls.join(", "))
    }
}
