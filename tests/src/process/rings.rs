//! An administrator who changes the ring of storage nodes, as `remuda ring` does it.
//!
//! Each order is repeated until the masters take it on, or refuse it for so long that it makes no
//! sense any more: a node that is to be drained may be out of the ring by itself. What was drained
//! or removed is added again in the end, however long that takes.

use ::client::logic::client::{Client, Done};
use ::client::logic::jobs::{Request as Question, RingOrder};
use ::client::logic::session::CallFailure;
use fastrand::Rng;
use node::logic::network::NetworkEffect;
use proto::ids::{JobId, TaskIndex};
use proto::status::RingAction;
use proto::time::{Duration, Instant};

use super::jobs::{LINKS, edge_of, hear_client};
use super::{Edge, Event, Note, Queue, Request, Start, Tier, node_id};
use crate::pipeline::masters;
use crate::report::Happening;

/// How long one order may take; the shipped client repeats it meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long it waits after a refusal.
const REST: Duration = Duration::from_millis(1_000);

/// So many refusals of one order are taken for an answer.
const REFUSALS: u32 = 15;

/// Something to order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    /// When, after the start.
    pub(crate) after: Duration,
    /// What is done.
    pub(crate) action: RingAction,
    /// To the storage node of this place, on its first disk; `None` for all.
    pub(crate) place: Option<usize>,
    /// Whether an earlier change may be under way.
    pub(crate) is_forced: bool,
}

impl Order {
    /// As the client library has it.
    fn wish(&self) -> RingOrder {
        let node = self.place.map(|place| node_id(b's', place, 0));
        RingOrder { is_forced: self.is_forced, ..RingOrder::new(self.action, node) }
    }
}

/// A running administrator.
pub(crate) struct RingClient {
    edge: Edge,
    logic: Client,
    orders: Vec<Order>,
    /// Orders that are done with.
    done: usize,
    begin_at: Instant,
    started: Instant,
    refusals: u32,
    is_asking: bool,
    now: Instant,
}

impl RingClient {
    pub(crate) fn start(
        place: usize,
        orders: &[Order],
        start: &Start<'_>,
        requests: &mut Vec<Request>,
    ) -> RingClient {
        let node = node_id(b'r', place, start.life << 16);
        let mut process = RingClient {
            edge: edge_of(node, 1, start.limits),
            logic: Client::new(LINKS, masters(start.member_count), Rng::with_seed(start.seed)),
            orders: orders.to_vec(),
            done: 0,
            begin_at: start.now,
            started: start.now,
            refusals: 0,
            is_asking: false,
            now: start.now,
        };
        process.handle(start.now, Event::Tick, requests);
        process
    }

    /// When the next order is due.
    fn due(&self) -> Option<Instant> {
        let order = self.orders.get(self.done).filter(|_| !self.is_asking)?;
        Some(self.begin_at.max(self.started + order.after))
    }

    fn ask(&mut self, now: Instant, effects: &mut Vec<NetworkEffect>) {
        if self.due().is_some_and(|due| due <= now)
            && let Some(order) = self.orders.get(self.done)
        {
            let question = Question::ChangeRing(order.wish());
            self.is_asking = self.logic.call(now, question, PATIENCE, effects).is_ok();
        }
    }

    fn next(&mut self) {
        self.done += 1;
        self.refusals = 0;
    }

    /// An order was answered, or not.
    fn ended(&mut self, now: Instant, failure: Option<CallFailure>, requests: &mut Vec<Request>) {
        self.is_asking = false;
        let Some(failure) = failure else {
            self.next();
            return requests.push(Request::Note(Note::Count(Happening::RingChanges, 1)));
        };
        self.begin_at = now + REST;
        if let CallFailure::Refused { .. } = failure {
            self.refusals += 1;
            let has_to_be = self.orders[self.done].action == RingAction::Add;
            if self.refusals >= REFUSALS && !has_to_be {
                self.next();
            }
        }
    }
}

impl Tier for RingClient {
    fn edge(&mut self) -> &mut Edge {
        &mut self.edge
    }

    fn handle(&mut self, now: Instant, event: Event<'_>, requests: &mut Vec<Request>) {
        self.now = now;
        let mut effects: Vec<NetworkEffect> = Vec::new();
        hear_client(&mut self.edge, &mut self.logic, now, &event, &mut effects);
        if matches!(event, Event::Finish) {
            self.orders.iter_mut().for_each(|order| order.after = Duration::ZERO);
        }
        while let Some(done) = self.logic.next_done(now, &mut effects) {
            if let Done::Call(ended) = done {
                self.ended(now, ended.result.err(), requests);
            }
        }
        self.ask(now, &mut effects);
        for effect in effects {
            self.edge.perform(now, effect, requests);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let due = self.due().filter(|due| *due > self.now);
        let others = [self.logic.next_deadline(self.now), self.edge.next_deadline(), due];
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
        self.done == self.orders.len()
    }

    fn describe(&self) -> String {
        format!("ordered {} of {}", self.done, self.orders.len())
    }

    fn explain(&self, _job: JobId, _task: TaskIndex) -> String {
        self.describe()
    }
}
