//! A client that submits jobs through the shipped client logic, waits until they are final and reads
//! back what their tasks wrote.
//!
//! Whatever comes back but an answer, it asks again under the same job UUID; so does the next life
//! of its machine, which knows the same jobs. Each life is another client node.

use std::collections::{BTreeMap, VecDeque};

use ::client::logic::answers::{Answer, JobSummary};
use ::client::logic::client::{Client, Done};
use ::client::logic::jobs::{Change, JobSelector, Request as Question, Submission, Until, Write};
use ::client::logic::session::{CallFailure, CallId};
use ::client::logic::transfer::Output;
use fastrand::Rng;
use node::logic::network::{Identity, NetworkEffect, NetworkLimits};
use proto::description::{JobDescription, Noop, Runtime};
use proto::ids::{ClusterId, Incarnation, JobId, LogIndex, NodeId, TaskIndex};
use proto::status::{ErrorCode, JobState, Role};
use proto::time::{Duration, Instant};

use super::gather::Gather;
use super::{Edge, Event, Note, Queue, Request, Start, Tier, node_id};
use crate::checkers::Violation;
use crate::pipeline::masters;
use crate::report::Happening;

/// How long one call may take before the client begins anew.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often a client looks at a job that is not final, beside waiting for its end.
const LOOK: Duration = Duration::from_millis(700);

/// Links that the client logic may use.
pub(super) const LINKS: std::ops::Range<u32> = 0..16;

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
    /// When it is cancelled after it was accepted.
    pub(crate) cancel_after: Option<Duration>,
    /// What else is changed of it, and when after it was accepted; what holds it also releases it.
    pub(crate) changes: Vec<(Duration, Change)>,
    /// Whether it is forgotten when its results were read.
    pub(crate) is_forgotten: bool,
}

impl JobPlan {
    /// A job that is submitted, and nothing else.
    pub(crate) fn new(job: JobId, after: Duration, noop: Noop, task_count: u64) -> JobPlan {
        JobPlan {
            job,
            after,
            noop,
            retries: 0,
            task_count,
            cancel_after: None,
            changes: Vec::new(),
            is_forgotten: false,
        }
    }

    fn submission(&self) -> Submission {
        let description = JobDescription {
            retries: self.retries,
            // Workers die as often as a run's faults want.
            max_crashes: 1_000,
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
    /// What its tasks wrote is being read back.
    Final,
    Gathered,
    /// It was forgotten, and is submitted once more, which must be refused.
    Forgotten,
    /// It was refused.
    Over,
}

/// A job and how far it is.
struct Wish {
    plan: JobPlan,
    /// When it is submitted.
    due: Instant,
    stage: Stage,
    /// When it is cancelled.
    cancel_at: Option<Instant>,
    /// What is changed of it, and when.
    changes: VecDeque<(Instant, Change)>,
}

/// What a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Submit,
    Wait,
    Look,
    Cancel,
    Change,
    Forget,
    List,
    /// One of the client's other questions.
    Ask,
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
    jobs: Vec<Wish>,
    calls: BTreeMap<CallId, (usize, Purpose)>,
    /// Jobs that are final and what is read back of them.
    gathers: BTreeMap<usize, Gather>,
    /// What it still wants to know beside its jobs, the last one first.
    questions: Vec<Question>,
    /// Since when it is to come to an end.
    finishing: Option<Instant>,
    look_at: Instant,
    now: Instant,
}

pub(super) fn edge_of(node: NodeId, nodes: u64, limits: NetworkLimits) -> Edge {
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

/// Everything that the masters answer beside what jobs need.
fn questions(job: JobId) -> Vec<Question> {
    let (prefix, key) = (b"simulated/".to_vec(), b"simulated/key".to_vec());
    let writes = vec![Write { key, value: Some(b"value".to_vec()) }];
    vec![
        Question::Cancel(job),
        Question::Keys { prefix, after: Vec::new(), limit: 10 },
        Question::Transaction { compares: Vec::new(), writes, pin: 0 },
        Question::Nodes,
        Question::Outcomes { job, first_task: 0, limit: 10 },
        Question::Describe(JobSelector::Id(job)),
        Question::Jobs { before: LogIndex(0), limit: 10 },
    ]
}

impl JobClient {
    pub(crate) fn start(
        place: usize,
        jobs: &[JobPlan],
        is_curious: bool,
        start: &Start<'_>,
        requests: &mut Vec<Request>,
    ) -> JobClient {
        let mut rng = Rng::with_seed(start.seed);
        let node = node_id(b'c', place, start.life << 16);
        let mut logic = Client::new(LINKS, masters(start.member_count), rng.fork());
        logic.transfer_mut().set_give_up_after(PATIENCE);
        let questions = if is_curious { questions(jobs[0].job) } else { Vec::new() };
        let jobs = jobs
            .iter()
            .map(|plan| Wish {
                plan: plan.clone(),
                due: start.now + plan.after,
                stage: Stage::Planned,
                cancel_at: None,
                changes: VecDeque::new(),
            })
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
            gathers: BTreeMap::new(),
            questions,
            finishing: None,
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
        // About a job that is over, so that every question has an answer.
        if is_looking
            && self.jobs[0].stage == Stage::Gathered
            && let Some(question) = self.questions.last()
            && !self.is_calling(0, Purpose::Ask)
            && let Ok(call) = self.logic.call(now, question.clone(), PATIENCE, effects)
        {
            self.calls.insert(call, (0, Purpose::Ask));
        }
        for index in 0..self.jobs.len() {
            let Wish { plan, due, stage, cancel_at, changes } = &self.jobs[index];
            let selector = JobSelector::Id(plan.job);
            let mut wanted = Vec::new();
            match stage {
                Stage::Planned if *due <= now => {
                    wanted.push((Purpose::Submit, Question::Submit(plan.submission())));
                }
                Stage::Accepted => {
                    let wait = Question::Job { job: selector.clone(), until: Until::Final };
                    wanted.push((Purpose::Wait, wait));
                    if cancel_at.is_some_and(|at| at <= now) {
                        wanted.push((Purpose::Cancel, Question::Cancel(plan.job)));
                    }
                    if let Some(&(_, change)) = changes.front().filter(|(at, _)| *at <= now) {
                        let change = Question::Change { job: plan.job, change };
                        wanted.push((Purpose::Change, change));
                    }
                    if is_looking {
                        let look = Question::Job { job: selector, until: Until::Now };
                        wanted.push((Purpose::Look, look));
                    }
                }
                Stage::Final => {
                    let after = self.gathers.get(&index).and_then(Gather::next_page);
                    let job = plan.job;
                    let list = |after| (Purpose::List, Question::Segments { job, after, fold: 0 });
                    wanted.extend(after.map(list));
                }
                // What was read as cancelled stays so.
                Stage::Gathered
                    if is_looking && plan.cancel_after.is_some() && !plan.is_forgotten =>
                {
                    let look = Question::Job { job: selector, until: Until::Now };
                    wanted.push((Purpose::Look, look));
                }
                Stage::Gathered if plan.is_forgotten => {
                    let change = Question::Change { job: plan.job, change: Change::Forget };
                    wanted.push((Purpose::Forget, change));
                }
                Stage::Forgotten => {
                    wanted.push((Purpose::Submit, Question::Submit(plan.submission())));
                }
                Stage::Planned | Stage::Gathered | Stage::Over => {}
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

    /// What the logic did, after everything that is to be read was begun.
    fn next_done(&mut self, now: Instant, effects: &mut Vec<NetworkEffect>) -> Option<Done> {
        let done = self.logic.next_done(now, effects);
        if done.is_some() {
            return done;
        }
        for (&place, gather) in &mut self.gathers {
            gather.read(now, &mut self.logic, effects);
            if gather.is_done() {
                let stage = &mut self.jobs[place].stage;
                *stage = (*stage).max(Stage::Gathered);
            }
        }
        self.gathers.retain(|_, gather| !gather.is_done());
        self.logic.next_done(now, effects)
    }

    fn answered(
        &mut self,
        call: CallId,
        result: Result<Answer, CallFailure>,
        requests: &mut Vec<Request>,
    ) {
        let Some((place, purpose)) = self.calls.remove(&call) else { return };
        let Wish { plan, stage, cancel_at, changes, .. } = &mut self.jobs[place];
        match result {
            Ok(Answer::Accepted { .. }) if *stage == Stage::Forgotten => {
                let promise = "invariant 11: a retried request has the effect of one request";
                let seen = format!("job {} was accepted after it was forgotten", plan.job);
                requests.push(Request::Note(Note::Broken(Violation { promise, seen })));
            }
            Ok(_) if purpose == Purpose::Ask => {
                self.questions.pop();
            }
            Ok(Answer::Segments { ranges, next }) => {
                let Some(gather) = self.gathers.get_mut(&place) else { return };
                let ranges = ranges.into_iter().map(|range| (range.segment, range.tasks));
                if let Err(broken) = gather.listed(ranges, next) {
                    requests.push(Request::Note(Note::Broken(broken)));
                }
            }
            Ok(Answer::Accepted { job, index }) => {
                *stage = (*stage).max(Stage::Accepted);
                *cancel_at = plan.cancel_after.map(|after| self.now + after);
                if changes.is_empty() {
                    *changes = plan.changes.iter().map(|it| (self.now + it.0, it.1)).collect();
                }
                requests.push(Request::Note(Note::Accepted { job, index: index.0 }));
            }
            Ok(Answer::Job(summary)) => self.told(place, purpose, summary, requests),
            Err(CallFailure::Unreachable { .. } | CallFailure::OutcomeUnknown) => {
                requests.push(Request::Note(Note::Count(Happening::Retries, 1)));
            }
            Err(CallFailure::Refused { code: ErrorCode::Forgotten, .. }) if plan.is_forgotten => {
                // An earlier life of the client asked for it, or this one just now.
                *stage = if purpose == Purpose::Submit { Stage::Over } else { Stage::Forgotten };
                changes.clear();
                self.gathers.remove(&place);
            }
            // It ended before.
            Err(CallFailure::Refused { code: ErrorCode::Invalid, .. })
                if purpose == Purpose::Change =>
            {
                changes.clear();
            }
            Err(CallFailure::Refused { code: ErrorCode::NotFound, text })
                if *stage >= Stage::Accepted =>
            {
                let promise = "invariant 3: a client never sees a job's state go back";
                let seen = format!("job {} was accepted, then: {text}", plan.job);
                requests.push(Request::Note(Note::Broken(Violation { promise, seen })));
            }
            other => {
                let reason = format!("job {}: {other:?}", plan.job);
                requests.push(Request::GiveUp { reason, is_disk: false });
            }
        }
    }
}

impl JobClient {
    /// A job's state came, and with it that a change was made.
    fn told(
        &mut self,
        place: usize,
        purpose: Purpose,
        summary: JobSummary,
        requests: &mut Vec<Request>,
    ) {
        let Wish { plan, stage, cancel_at, changes, .. } = &mut self.jobs[place];
        match purpose {
            Purpose::Cancel => *cancel_at = None,
            Purpose::Forget => {
                *stage = Stage::Forgotten;
                requests.push(Request::Note(Note::Count(Happening::Forgotten, 1)));
            }
            Purpose::Change => {
                changes.pop_front();
                requests.push(Request::Note(Note::Count(Happening::Changes, 1)));
            }
            // What an earlier life asked for may be carried out after what this one asked for.
            _ if summary.is_held && changes.is_empty() => {
                changes.push_back((self.now, Change::Release));
            }
            _ => {}
        }
        if summary.state.is_final() && *stage < Stage::Final {
            *stage = Stage::Final;
            let is_whole = summary.state != JobState::Cancelled;
            self.gathers.insert(place, Gather::new(plan.clone(), is_whole));
        }
        let (client, summary) = (self.node, Box::new(summary));
        requests.push(Request::Note(Note::Told { client, summary }));
    }
}

/// Hands an event to a client's sockets and logic, as its loop does.
pub(super) fn hear_client(
    edge: &mut Edge,
    logic: &mut Client,
    now: Instant,
    event: &Event<'_>,
    effects: &mut Vec<NetworkEffect>,
) {
    edge.hear(now, event, |event| {
        logic.handle(now, &event, effects);
    });
    if matches!(event, Event::Tick) {
        logic.tick(now, effects);
    }
}

impl Tier for JobClient {
    fn edge(&mut self) -> &mut Edge {
        &mut self.edge
    }

    fn handle(&mut self, now: Instant, event: Event<'_>, requests: &mut Vec<Request>) {
        self.now = now;
        let mut effects: Vec<NetworkEffect> = Vec::new();
        hear_client(&mut self.edge, &mut self.logic, now, &event, &mut effects);
        match event {
            Event::Tick | Event::Arrived { .. } => {}
            Event::Worked(_) => unreachable!("a client has no disk thread"),
            Event::Finish => {
                self.finishing = Some(now);
                for wish in &mut self.jobs {
                    wish.due = now.min(wish.due);
                    wish.changes.iter_mut().for_each(|(at, _)| *at = now.min(*at));
                }
            }
        }
        while let Some(done) = self.next_done(now, &mut effects) {
            match done {
                Done::Call(ended) => self.answered(ended.call, ended.result, requests),
                Done::Transfer(output) => {
                    if let Output::Piece { get, content, .. } = &output {
                        let (get, count) = (*get, content.len() as u64);
                        self.logic.transfer_mut().consumed(now, get, count, &mut effects);
                    }
                    for gather in self.gathers.values_mut() {
                        gather.transferred(now, self.finishing, &output, requests);
                    }
                }
                Done::Register(_) => unreachable!("it uses no registers"),
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
        let due = |wish: &Wish| match wish.stage {
            // One that is due already is being submitted.
            Stage::Planned => (wish.due > self.now).then_some(wish.due),
            Stage::Accepted => {
                let change_at = wish.changes.front().map(|&(at, _)| at);
                let due = [wish.cancel_at, change_at].into_iter().flatten();
                due.filter(|&at| at > self.now).chain([self.look_at]).min()
            }
            Stage::Gathered if wish.plan.cancel_after.is_some() => Some(self.look_at),
            // Where the masters could not be asked at once.
            Stage::Gathered | Stage::Forgotten if wish.plan.is_forgotten => Some(self.look_at),
            Stage::Final | Stage::Gathered | Stage::Forgotten | Stage::Over => None,
        };
        let question = (!self.questions.is_empty()).then_some(self.look_at);
        let gathers = self.gathers.values().filter_map(Gather::next_deadline);
        let jobs = self.jobs.iter().filter_map(due);
        let others = [self.logic.next_deadline(self.now), self.edge.next_deadline()];
        others.into_iter().flatten().chain(jobs).chain(gathers).chain(question).min()
    }

    fn check_invariants(&self) {
        self.logic.check_invariants();
        self.edge.check_invariants();
    }

    fn queues(&self, each: &mut dyn FnMut(Queue)) {
        self.edge.queues(each);
    }

    fn is_settled(&self) -> bool {
        let last = |wish: &Wish| match wish.plan.is_forgotten {
            true => Stage::Over,
            false => Stage::Gathered,
        };
        self.questions.is_empty() && self.jobs.iter().all(|wish| wish.stage == last(wish))
    }

    fn describe(&self) -> String {
        let stages: Vec<String> =
            self.jobs.iter().map(|wish| format!("{:?}", wish.stage)).collect();
        format!("jobs {}", stages.join(", "))
    }

    fn explain(&self, _job: JobId, _task: TaskIndex) -> String {
        let calls: Vec<String> = self.calls.values().map(|call| format!("{call:?}")).collect();
        format!("{}; asks {}", self.describe(), calls.join(", "))
    }
}
