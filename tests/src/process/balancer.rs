//! A balancer of the pipeline: the shipped logic and what its service does around it.

use std::cell::Cell;

use ::balancer::logic::{Balancer, Event as LogicEvent, MASTER_LINK, Setting};
use fastrand::Rng;
use node::logic::network::{Greeting, Identity, NetworkEffect, NetworkEvent, Peer, Sender};
use proto::ids::{ClusterId, Epoch, Incarnation, JobId, NodeId, TaskIndex};
use proto::limits;
use proto::messages::task::WorkerRequest;
use proto::record::{Message, Records};
use proto::status::Role;
use proto::time::{Duration, Instant};

use super::mistakes::Mistakes;
use super::{Edge, Event, Note, Queue, Recipe, Request, Start, Tier, node_id};
use crate::checkers::deals::Deal;
use crate::pipeline::{cluster_of, masters};
use crate::report::{Happening, Report};

/// How often all tasks are looked through: at each step it would be a sixth of a run.
const CHECK: Duration = Duration::from_millis(20);

/// A running balancer.
pub(crate) struct BalancerProcess {
    edge: Edge,
    logic: Balancer,
    mistakes: Mistakes,
    own: (NodeId, Incarnation),
    now: Instant,
    /// When all its tasks were looked through last.
    checked_at: Cell<Instant>,
}

impl BalancerProcess {
    pub(crate) fn start(
        place: usize,
        start: &Start<'_>,
        requests: &mut Vec<Request>,
    ) -> BalancerProcess {
        let (node, incarnation) = (node_id(b'b', place, 0), Incarnation(start.life));
        let address = Recipe::Balancer { place }.address();
        let identity = Identity {
            node,
            role: Role::Balancer,
            cluster: cluster_of(start),
            incarnation,
            version: "simulated".to_owned(),
            address: address.clone(),
        };
        let setting = Setting {
            node,
            incarnation,
            masters: masters(start.member_count),
            address,
            telemetry_address: String::new(),
            zone: String::new(),
        };
        let mut process = BalancerProcess {
            edge: Edge::new(identity, start.limits),
            logic: Balancer::new(setting, Rng::with_seed(start.seed)),
            mistakes: Mistakes::new(start.planted),
            own: (node, incarnation),
            now: start.now,
            checked_at: Cell::new(start.now),
        };
        process.handle(start.now, Event::Tick, requests);
        process
    }

    /// Hears what nobody said, where a mistake is planted.
    fn hear_early(&mut self, now: Instant, peer: Peer, heard: &[u8], requests: &mut Vec<Request>) {
        let Some(Ok(record)) = Records::of(heard).next() else { return };
        let (node, role, incarnation) = (record.node(), Role::Balancer, Incarnation(0));
        let sender = Sender { peer, node, role, incarnation };
        let mut effects = Vec::new();
        let event = LogicEvent::Network(NetworkEvent::Record { sender, record });
        self.logic.handle(now, event, &mut effects);
        for effect in effects {
            self.edge.perform(now, effect, requests);
        }
    }

    /// What a record deals.
    fn deal(&self, record: &[u8]) -> Option<Deal> {
        if record.first() != Some(&WorkerRequest::TYPE) {
            return None;
        }
        let (request, _) = Records::of(record).next()?.ok()?.open::<WorkerRequest, 3>().ok()?;
        let first = request.first_task;
        Some(Deal {
            under: (request.group, Epoch(request.epoch)),
            by: self.own,
            job: request.job_uuid.into(),
            tasks: first..first.saturating_add(request.task_count),
            attempt: request.attempt,
        })
    }

    /// A master accepted this node.
    fn join(&mut self, cluster: ClusterId) {
        self.edge.set_cluster(cluster);
        self.edge.set_greeting(Greeting {
            window: limits::CLIENT_WINDOW,
            masters: self.logic.masters().join(","),
            ..Greeting::default()
        });
    }
}

impl Tier for BalancerProcess {
    fn edge(&mut self) -> &mut Edge {
        &mut self.edge
    }

    fn handle(&mut self, now: Instant, event: Event<'_>, requests: &mut Vec<Request>) {
        self.now = now;
        let mut effects = Vec::new();
        let mut joined = None;
        let (logic, mistakes) = (&mut self.logic, &self.mistakes);
        let deliver = |event: NetworkEvent<'_>| {
            if let NetworkEvent::Connected { link: MASTER_LINK, cluster, .. } = &event
                && !cluster.is_nil()
            {
                joined = Some(*cluster);
            }
            let NetworkEvent::Record { sender, record } = event else {
                return logic.handle(now, LogicEvent::Network(event), &mut effects);
            };
            let heard = mistakes.balancer_hears(&record);
            let altered = heard.as_deref().and_then(|heard| Records::of(heard).next());
            let record = altered.and_then(Result::ok).unwrap_or(record);
            let event = NetworkEvent::Record { sender, record };
            logic.handle(now, LogicEvent::Network(event), &mut effects);
        };
        self.edge.hear(now, &event, deliver);
        match event {
            Event::Tick => self.logic.handle(now, LogicEvent::Tick, &mut effects),
            Event::Worked(_) => unreachable!("a balancer has no disk thread"),
            Event::Arrived { .. } | Event::Finish => {}
        }
        if let Some(cluster) = joined {
            self.join(cluster);
        }
        let mut early = Vec::new();
        for effect in effects {
            if let NetworkEffect::Send { to, record } = &effect {
                early.extend(self.mistakes.balancer_hears_early(record).map(|it| (*to, it)));
                requests.extend(self.deal(record).map(|deal| Request::Note(Note::Dealt(deal))));
            }
            self.edge.perform(now, effect, requests);
        }
        for (peer, heard) in early {
            self.hear_early(now, peer, &heard, requests);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        [self.logic.next_deadline(), self.edge.next_deadline()].into_iter().flatten().min()
    }

    fn check_invariants(&self) {
        if self.now.since(self.checked_at.get()) >= CHECK {
            self.checked_at.set(self.now);
            self.logic.check_invariants();
        }
        self.edge.check_invariants();
    }

    fn queues(&self, each: &mut dyn FnMut(Queue)) {
        self.edge.queues(each);
    }

    fn report(&self, report: &mut Report) {
        self.logic.check_invariants();
        report.add(Happening::Requeues, self.logic.counters().requeued);
    }

    fn describe(&self) -> String {
        let verb = if self.logic.is_primary(self.now) { "deals" } else { "does not deal" };
        format!("{verb}, group and epoch {:?}", self.logic.group())
    }

    fn explain(&self, job: JobId, task: TaskIndex) -> String {
        self.logic.explain(self.now, job, task).to_string()
    }
}
