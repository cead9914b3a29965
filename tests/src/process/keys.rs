//! A client that writes a key again and again, each time with the next number.
//!
//! Where the outcome of a write is not known it goes on with another key, and so does the next
//! life: only then no earlier write of that key may come later.

use ::client::logic::client::{Client, Done};
use ::client::logic::jobs::{Request as Question, Write};
use ::client::logic::session::CallFailure;
use ::master::logic::folds::FOLD_AT_KEY;
use fastrand::Rng;
use node::logic::network::NetworkEffect;
use proto::ids::{JobId, TaskIndex};
use proto::time::{Duration, Instant};

use super::jobs::{LINKS, edge_of, hear_client};
use super::{Edge, Event, Note, Queue, Request, Start, Tier, node_id};
use crate::pipeline::masters;
use crate::report::Happening;

/// What the keys begin with.
pub(crate) const KEYS: &[u8] = b"number/";

/// How long one write may take; the shipped client repeats it meanwhile.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running client.
pub(crate) struct KeyClient {
    edge: Edge,
    logic: Client,
    /// When the next write may begin, and how long it rests between two.
    begin_at: Instant,
    pause: Duration,
    /// What is written next.
    next: u64,
    last: u64,
    life: u64,
    /// Writes whose outcome is not known.
    unknown: u64,
    is_writing: bool,
    /// A setting that is written before anything else; 0 where there is none.
    fold_at: u64,
    now: Instant,
}

impl KeyClient {
    /// A client that writes the numbers from 1 to `last`.
    pub(crate) fn start(
        (place, after, pause, last, fold_at): (usize, Duration, Duration, u64, u64),
        start: &Start<'_>,
        requests: &mut Vec<Request>,
    ) -> KeyClient {
        let node = node_id(b'k', place, start.life << 16);
        let mut process = KeyClient {
            edge: edge_of(node, 1, start.limits),
            logic: Client::new(LINKS, masters(start.member_count), Rng::with_seed(start.seed)),
            begin_at: start.now + after,
            pause,
            next: 1,
            last,
            life: start.life,
            unknown: 0,
            is_writing: false,
            fold_at,
            now: start.now,
        };
        process.handle(start.now, Event::Tick, requests);
        process
    }

    fn write(&mut self, now: Instant, effects: &mut Vec<NetworkEffect>) {
        if self.is_writing || now < self.begin_at || self.next > self.last {
            return;
        }
        let (key, number) = match self.fold_at {
            0 => {
                let key = format!("{}.{}", self.life, self.unknown);
                ([KEYS, key.as_bytes()].concat(), self.next)
            }
            fold_at => (FOLD_AT_KEY.to_vec(), fold_at),
        };
        let writes = vec![Write { key, value: Some(number.to_string().into_bytes()) }];
        let question = Question::Transaction { compares: Vec::new(), writes, pin: 0 };
        self.is_writing = self.logic.call(now, question, PATIENCE, effects).is_ok();
    }
}

impl Tier for KeyClient {
    fn edge(&mut self) -> &mut Edge {
        &mut self.edge
    }

    fn handle(&mut self, now: Instant, event: Event<'_>, requests: &mut Vec<Request>) {
        self.now = now;
        let mut effects: Vec<NetworkEffect> = Vec::new();
        hear_client(&mut self.edge, &mut self.logic, now, &event, &mut effects);
        if matches!(event, Event::Finish) {
            self.last = self.last.min(self.next);
        }
        while let Some(done) = self.logic.next_done(now, &mut effects) {
            let Done::Call(ended) = done else { continue };
            self.is_writing = false;
            match ended.result {
                Ok(_) if self.fold_at > 0 => self.fold_at = 0,
                Ok(_) => {
                    self.next += 1;
                    self.begin_at = now + self.pause;
                }
                Err(CallFailure::Unreachable { .. } | CallFailure::OutcomeUnknown) => {
                    self.unknown += 1;
                    requests.push(Request::Note(Note::Count(Happening::Retries, 1)));
                }
                Err(failure) => {
                    let reason = format!("write {}: {failure}", self.next);
                    requests.push(Request::GiveUp { reason, is_disk: false });
                }
            }
        }
        self.write(now, &mut effects);
        for effect in effects {
            self.edge.perform(now, effect, requests);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let begin = (self.begin_at > self.now).then_some(self.begin_at);
        let others = [self.logic.next_deadline(self.now), self.edge.next_deadline(), begin];
        others.into_iter().flatten().min()
    }

    fn check_invariants(&self) {
        self.logic.check_invariants();
        self.edge.check_invariants();
    }

    fn queues(&self, each: &mut dyn FnMut(Queue)) {
        self.edge.queues(each);
    }

    fn is_settled(&self) -> bool {
        self.next > self.last
    }

    fn describe(&self) -> String {
        format!("writes {} of {}", self.next, self.last)
    }

    fn explain(&self, _job: JobId, _task: TaskIndex) -> String {
        self.describe()
    }
}
