//! The workers of the group, as their heartbeats show them.

use std::collections::BTreeMap;

use node::logic::network::{Inbound, Peer};
use proto::ids::{Incarnation, NodeId};
use proto::messages::task::WorkerHeartbeat;
use proto::time::{Duration, Instant};

use super::plan::{Needs, WorkerView};
use super::tasks::Tasks;

/// How long an unanswered recall keeps the next one back.
const RECALL_PAUSE: Duration = Duration::from_millis(500);

/// One worker.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    pub(super) incarnation: Incarnation,
    /// Number of the log entry that gave it to the group.
    pub(super) assignment: u64,
    peer: Inbound,
    heard_at: Instant,
    slot_count: u32,
    room: Needs,
    is_refusing: bool,
    /// Number of the last deal on this connection.
    last_deal: u64,
    recall_until: Instant,
}

/// All workers that were heard of within the worker timeout.
#[derive(Clone, Debug, Default)]
pub(super) struct Workers {
    workers: BTreeMap<NodeId, Worker>,
}

impl Workers {
    pub(super) fn len(&self) -> usize {
        self.workers.len()
    }

    pub(super) fn slot_count(&self) -> u32 {
        self.workers.values().map(|worker| worker.slot_count).sum()
    }

    pub(super) fn incarnation(&self, worker: NodeId) -> Option<Incarnation> {
        self.workers.get(&worker).map(|worker| worker.incarnation)
    }

    pub(super) fn last_deal(&self, worker: NodeId) -> u64 {
        self.workers.get(&worker).map_or(0, |worker| worker.last_deal)
    }

    pub(super) fn peer(&self, worker: NodeId) -> Option<Inbound> {
        self.workers.get(&worker).map(|worker| worker.peer)
    }

    pub(super) fn heard(&mut self, worker: NodeId, now: Instant) {
        if let Some(worker) = self.workers.get_mut(&worker) {
            worker.heard_at = now;
        }
    }

    pub(super) fn take_heartbeat(
        &mut self,
        now: Instant,
        node: NodeId,
        peer: Inbound,
        heartbeat: &WorkerHeartbeat,
    ) {
        let before = self.workers.get(&node).filter(|before| before.peer == peer);
        let worker = Worker {
            incarnation: Incarnation(heartbeat.worker_incarnation),
            assignment: heartbeat.assignment,
            peer,
            heard_at: now,
            slot_count: heartbeat.slot_count,
            room: Needs { cpu_milli: heartbeat.cpu_milli, memory_bytes: heartbeat.memory_bytes },
            is_refusing: heartbeat.refusing != 0,
            last_deal: before.map_or(0, |before| before.last_deal),
            recall_until: before.map_or(Instant(0), |before| before.recall_until),
        };
        self.workers.insert(node, worker);
    }

    /// A connection ended; the worker's next heartbeat brings the new one. Until then nothing can
    /// be dealt to it.
    pub(super) fn disconnected(&mut self, peer: Peer) {
        for worker in self.workers.values_mut() {
            if Peer::Inbound(worker.peer) == peer {
                worker.is_refusing = true;
            }
        }
    }

    pub(super) fn remove(&mut self, worker: NodeId) {
        self.workers.remove(&worker);
    }

    /// Workers that were not heard of for `timeout`.
    pub(super) fn silent(&self, now: Instant, timeout: Duration) -> Vec<NodeId> {
        let silent = self.workers.iter().filter(|(_, worker)| now >= worker.heard_at + timeout);
        silent.map(|(&id, _)| id).collect()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.workers.values().map(|worker| worker.heard_at + super::WORKER_TIMEOUT).min()
    }

    /// The next deal to a worker: where to, under which number.
    pub(super) fn next_deal(&mut self, worker: NodeId) -> Option<(Inbound, u64, Worker)> {
        let worker = self.workers.get_mut(&worker)?;
        worker.last_deal += 1;
        Some((worker.peer, worker.last_deal, worker.clone()))
    }

    pub(super) fn may_recall(&mut self, now: Instant, worker: NodeId) -> bool {
        let Some(worker) = self.workers.get_mut(&worker) else {
            return false;
        };
        let may = now >= worker.recall_until;
        if may {
            worker.recall_until = now + RECALL_PAUSE;
        }
        may
    }

    pub(super) fn recall_answered(&mut self, worker: NodeId) {
        if let Some(worker) = self.workers.get_mut(&worker) {
            worker.recall_until = Instant(0);
        }
    }

    /// What the plan sees of the workers that take tasks.
    pub(super) fn views(&self, tasks: &Tasks) -> Vec<WorkerView> {
        let mut views: BTreeMap<NodeId, WorkerView> = self
            .workers
            .iter()
            .filter(|(_, worker)| !worker.is_refusing)
            .map(|(&id, worker)| {
                let view = WorkerView {
                    worker: id,
                    slot_count: u64::from(worker.slot_count),
                    room: worker.room,
                    busy_count: 0,
                    busy_us: 0.0,
                };
                (id, view)
            })
            .collect();
        tasks.add_load(&mut views);
        views.into_values().collect()
    }
}
