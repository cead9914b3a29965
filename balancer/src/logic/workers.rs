//! The workers of the group, as their heartbeats show them.

mod gone;

use std::collections::{BTreeMap, BTreeSet};

use node::logic::network::{Inbound, Peer};
use proto::description::DEFAULT_CPU_MILLI;
use proto::ids::{Epoch, Incarnation, JobId, NodeId};
use proto::messages::task::{TaskRun, WorkerHeartbeat};
use proto::time::{Duration, Instant};

use super::foreign::Foreign;
use super::plan::{Needs, WINDOW, WorkerView};
use super::tasks::Tasks;

/// How long a worker may be silent before its tasks are dealt again.
pub const WORKER_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a silent worker is counted among those that cannot be reached.
const FORGET: Duration = Duration::from_secs(600);

/// Workers that a balancer knows: as many as the network remembers peers.
const WORKERS: usize = 20_000;

/// The longest way to a worker and back that its window covers: who says more is not believed, and
/// whatever it is dealt ahead is nobody else's for as long.
const LONGEST_ROUND_TRIP: Duration = Duration::from_secs(2);

/// How long an unanswered recall keeps the next one back.
const RECALL_PAUSE: Duration = Duration::from_millis(500);

/// Whether a worker can be dealt tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It takes tasks.
    Takes,
    /// Its unacknowledged results reached their bound.
    Full,
    /// It is shutting down.
    Leaves,
    /// It was moved to another group, and finishes what it was dealt by this one.
    Moved,
    /// It gave back or refused what it was dealt, or could not be sent more: until its next
    /// heartbeat says why.
    Paused,
    /// Its connection ended; its next heartbeat comes on a new one.
    Disconnected,
    /// It was not heard of within the worker timeout.
    Silent,
}

/// One worker.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    pub(super) incarnation: Incarnation,
    /// The group that it says it belongs to; 0 where that was said to a seat given up since.
    group: u64,
    /// Number of the log entry that gave it to the group.
    pub(super) assignment: u64,
    /// The highest epoch that it has seen: it refuses lower ones.
    epoch: Epoch,
    pub(super) peer: Inbound,
    heard_at: Instant,
    /// How long a word to it and its answer take.
    round_trip: Duration,
    slot_count: u32,
    room: Needs,
    /// What it executes that is not of this group: it keeps slots as well.
    foreign: Foreign,
    pub(super) standing: Standing,
    /// Number of the last deal on this connection.
    pub(super) last_deal: u64,
    /// Until then its answer to a recall is waited for.
    recall_until: Instant,
}

/// What a heartbeat shows beside its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It comes from an incarnation that is over, or from one worker too many.
    Refused,
    /// The worker is known on this connection.
    Known,
    /// The connection is new.
    NewConnection,
    /// The worker was restarted: what its predecessor held died with it.
    Restarted,
}

/// All workers that were heard of lately.
#[derive(Clone, Debug, Default)]
pub(super) struct Workers {
    /// The group of this balancer's seat.
    group: u64,
    workers: BTreeMap<NodeId, Worker>,
    /// Those of whose foreign runs the masters are to be asked.
    unasked: BTreeSet<NodeId>,
    /// No worker falls silent before.
    check_at: Option<Instant>,
    /// What the masters are told of those that are gone.
    telling: gone::Telling,
}

impl Workers {
    /// This balancer has a seat in this group. In another one than before it knows no workers until
    /// they say where they belong; the numbers of their deals go on.
    pub(super) fn set_group(&mut self, group: u64, is_anew: bool) {
        self.group = group;
        if is_anew {
            self.unasked.clear();
            self.workers.values_mut().for_each(|worker| {
                (worker.group, worker.foreign) = (0, Foreign::default());
            });
        }
    }

    /// Number of workers of the group.
    pub(super) fn count(&self) -> usize {
        self.of_group().count()
    }

    fn of_group(&self) -> impl Iterator<Item = (NodeId, &Worker)> {
        let all = self.workers.iter().map(|(&node, worker)| (node, worker));
        all.filter(|(_, worker)| worker.group == self.group && worker.standing != Standing::Moved)
    }

    fn reachable(&self) -> impl Iterator<Item = (NodeId, &Worker)> {
        self.of_group().filter(|(_, worker)| worker.standing != Standing::Silent)
    }

    /// True where the worker says that this balancer's group is, or was, its own.
    pub(super) fn knows_group(&self, worker: NodeId) -> bool {
        self.workers.get(&worker).is_some_and(|worker| worker.group == self.group)
    }

    /// True where the worker belongs to the group.
    pub(super) fn is_ours(&self, worker: NodeId) -> bool {
        let is_moved = |worker: &Worker| worker.standing == Standing::Moved;
        self.knows_group(worker) && !self.workers.get(&worker).is_some_and(is_moved)
    }

    /// The workers that were heard of within the worker timeout: how they stand, and what their
    /// tasks may use together.
    pub(super) fn rooms(&self) -> impl Iterator<Item = (NodeId, Standing, Needs)> {
        self.reachable().map(|(node, worker)| (node, worker.standing, worker.room))
    }

    /// Number of workers that were heard of within the worker timeout.
    pub(super) fn reachable_count(&self) -> usize {
        self.reachable().count()
    }

    /// Slots of those.
    pub(super) fn slot_count(&self) -> u32 {
        self.reachable().fold(0u32, |sum, (_, worker)| sum.saturating_add(worker.slot_count))
    }

    pub(super) fn get(&self, worker: NodeId) -> Option<&Worker> {
        self.workers.get(&worker)
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
    ) -> Heard {
        let incarnation = Incarnation(heartbeat.worker_incarnation);
        let known = self.workers.get(&node);
        let heard = match known {
            Some(known) if incarnation < known.incarnation => return Heard::Refused,
            None if self.workers.len() >= WORKERS => return Heard::Refused,
            Some(known) if incarnation > known.incarnation => Heard::Restarted,
            Some(known) if known.peer == peer => Heard::Known,
            _ => Heard::NewConnection,
        };
        let before = known.filter(|_| heard == Heard::Known);
        let worker = Worker {
            incarnation,
            group: heartbeat.group,
            assignment: heartbeat.assignment,
            epoch: Epoch(heartbeat.epoch),
            peer,
            heard_at: now,
            round_trip: Duration(heartbeat.round_trip_us).min(LONGEST_ROUND_TRIP),
            slot_count: heartbeat.slot_count,
            room: Needs { cpu_milli: heartbeat.cpu_milli, memory_bytes: heartbeat.memory_bytes },
            standing: match heartbeat.refusing {
                0 => Standing::Takes,
                1 => Standing::Full,
                3 => Standing::Moved,
                _ => Standing::Leaves,
            },
            foreign: before.map_or_else(Foreign::default, |before| before.foreign.judged()),
            last_deal: before.map_or(0, |before| before.last_deal),
            recall_until: before.map_or(Instant(0), |before| before.recall_until),
        };
        self.workers.insert(node, worker);
        self.unasked.remove(&node);
        let silent_at = now + WORKER_TIMEOUT;
        self.check_at = Some(self.check_at.map_or(silent_at, |at| at.min(silent_at)));
        heard
    }

    /// A connection ended; the worker's next heartbeat brings the new one. One that was moved away
    /// does not come back.
    pub(super) fn disconnected(&mut self, worker: NodeId, peer: Peer) {
        let is_it = |known: &Worker| Peer::Inbound(known.peer) == peer;
        let is_moved = |known: &Worker| is_it(known) && known.standing == Standing::Moved;
        if !self.workers.get(&worker).is_some_and(is_moved) {
            self.stand(worker, peer, Standing::Disconnected);
        }
    }

    /// What a worker executes that is not of this group. Returns what of it the worker must kill.
    pub(super) fn set_foreign(
        &mut self,
        node: NodeId,
        runs: Vec<TaskRun>,
        is_known: impl Fn(JobId) -> bool,
    ) -> Vec<TaskRun> {
        let Some(worker) = self.workers.get_mut(&node) else { return Vec::new() };
        // What one that was moved away is dealt there is asked about there.
        let is_moved = worker.standing == Standing::Moved;
        let over = worker.foreign.list(runs, |job| is_moved || is_known(job));
        if worker.foreign.has_questions() {
            self.unasked.insert(node);
        }
        over
    }

    /// Tasks of a worker ended; they are not of this group.
    pub(super) fn foreign_ended(&mut self, node: NodeId, run: &TaskRun) {
        self.change_foreign(node, |foreign| foreign.ended(run));
    }

    fn change_foreign(&mut self, node: NodeId, change: impl FnOnce(&mut Foreign)) {
        let Some(worker) = self.workers.get_mut(&node) else { return };
        change(&mut worker.foreign);
        if !worker.foreign.has_questions() {
            self.unasked.remove(&node);
        }
    }

    /// A job ended. Returns what workers execute of it without being of this group.
    pub(super) fn end_foreign(&mut self, job: JobId) -> Vec<(NodeId, TaskRun)> {
        let mut ended = Vec::new();
        for (&node, worker) in &mut self.workers {
            ended.extend(worker.foreign.end_job(job).into_iter().map(|run| (node, run)));
            if !worker.foreign.has_questions() {
                self.unasked.remove(&node);
            }
        }
        ended
    }

    /// Foreign runs of one worker that the masters are to be asked about, at most `limit`.
    pub(super) fn questions(&self, limit: usize) -> Option<(NodeId, Vec<TaskRun>)> {
        let node = *self.unasked.first()?;
        Some((node, self.workers.get(&node)?.foreign.questions(limit)))
    }

    /// True where the masters are to be asked about foreign runs.
    pub(super) fn has_questions(&self) -> bool {
        !self.unasked.is_empty()
    }

    /// The masters said what became of a run of a worker.
    pub(super) fn judge(&mut self, node: NodeId, run: &TaskRun, is_over: bool) {
        self.change_foreign(node, |foreign| foreign.judge(run, is_over));
    }

    /// The feed is read anew: what the masters said of foreign runs may be old.
    pub(super) fn doubt_foreign(&mut self) {
        self.workers.values_mut().for_each(|worker| worker.foreign.doubt());
    }

    /// The worker gets nothing before its next heartbeat.
    pub(super) fn pause(&mut self, worker: NodeId) {
        if let Some(worker) = self.workers.get_mut(&worker)
            && worker.standing == Standing::Takes
        {
            worker.standing = Standing::Paused;
        }
    }

    /// Records to a worker were dropped: it gets nothing before its next heartbeat.
    pub(super) fn overflowing(&mut self, peer: Peer) {
        let node = self.workers.iter().find(|(_, worker)| Peer::Inbound(worker.peer) == peer);
        if let Some((&node, _)) = node {
            self.pause(node);
        }
    }

    fn stand(&mut self, worker: NodeId, peer: Peer, standing: Standing) {
        if let Some(worker) = self.workers.get_mut(&worker)
            && Peer::Inbound(worker.peer) == peer
            && worker.standing != Standing::Silent
        {
            worker.standing = standing;
        }
    }

    /// Workers that fell silent by now.
    pub(super) fn fall_silent(&mut self, now: Instant) -> Vec<NodeId> {
        if self.check_at.is_none_or(|at| now < at) {
            return Vec::new();
        }
        let mut silent = Vec::new();
        self.check_at = None;
        for (&node, worker) in &mut self.workers {
            let until = match worker.standing {
                Standing::Silent => worker.heard_at + FORGET,
                _ => worker.heard_at + WORKER_TIMEOUT,
            };
            if worker.standing != Standing::Silent && now >= until {
                if worker.standing == Standing::Moved {
                    // It is one of another group's, and was only on its way out of this one.
                    worker.group = 0;
                }
                worker.standing = Standing::Silent;
                worker.foreign.drop_questions();
                self.unasked.remove(&node);
                silent.push(node);
            }
            let next = match worker.standing {
                Standing::Silent => worker.heard_at + FORGET,
                _ => until,
            };
            self.check_at = Some(self.check_at.map_or(next, |at| at.min(next)));
        }
        self.workers.retain(|_, worker| {
            worker.standing != Standing::Silent || now < worker.heard_at + FORGET
        });
        silent
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.check_at
    }

    /// The next deal to a worker: where to, under which number.
    pub(super) fn next_deal(&mut self, worker: NodeId) -> Option<&Worker> {
        let worker = self.workers.get_mut(&worker)?;
        worker.last_deal += 1;
        Some(worker)
    }

    /// Notes that a worker is asked to give tasks back. False while an earlier answer is awaited.
    pub(super) fn recall(&mut self, now: Instant, worker: NodeId) {
        if let Some(worker) = self.workers.get_mut(&worker) {
            worker.recall_until = now + RECALL_PAUSE;
        }
    }

    /// Tasks came back. True where they were asked for.
    pub(super) fn recall_answered(&mut self, now: Instant, worker: NodeId) -> bool {
        let Some(worker) = self.workers.get_mut(&worker) else { return false };
        let is_awaited = now < worker.recall_until;
        worker.recall_until = Instant(0);
        is_awaited
    }

    /// Nodes of the workers.
    pub(super) fn nodes(&self) -> Vec<NodeId> {
        self.workers.keys().copied().collect()
    }

    /// What the plan sees of a worker, where it takes tasks under this epoch.
    pub(super) fn view(&self, node: NodeId, epoch: Epoch, tasks: &Tasks) -> Option<WorkerView> {
        let worker = self.workers.get(&node)?;
        let is_ours = worker.group == self.group;
        let takes = is_ours && worker.standing == Standing::Takes && worker.epoch <= epoch;
        takes.then(|| worker.view(node, tasks))
    }

    /// The worker with the most tasks beyond its slots, of those that can be asked to give some
    /// back now.
    pub(super) fn busiest(&self, now: Instant, tasks: &Tasks) -> Option<WorkerView> {
        let can_be_asked = |worker: &Worker| {
            let is_there = !matches!(worker.standing, Standing::Disconnected | Standing::Silent);
            is_there && worker.group == self.group && now >= worker.recall_until
        };
        let asked = self.workers.iter().filter(|(_, worker)| can_be_asked(worker));
        let views = asked.map(|(&node, worker)| worker.view(node, tasks));
        views.filter(|view| view.surplus() > 0).max_by_key(WorkerView::surplus)
    }
}

impl Worker {
    fn view(&self, node: NodeId, tasks: &Tasks) -> WorkerView {
        let (mut busy_count, mut used, mut busy_us) = tasks.load_of(node);
        let foreign = self.foreign.task_count();
        if foreign > 0 {
            // What they use is known to the worker alone: as much as most tasks do.
            let one = Needs { cpu_milli: u64::from(DEFAULT_CPU_MILLI), memory_bytes: 0 };
            busy_count = busy_count.saturating_add(foreign);
            used = used.plus(&one.times(foreign));
            busy_us += foreign as f64 * WINDOW.as_micros() as f64;
        }
        // What it executes until a deal of now is there, and did since it last said so, does not fill
        // its window: the farther away it is, the more it is dealt ahead. Less than nothing means that
        // its slots will have waited by then.
        busy_us -= self.round_trip.as_micros() as f64 * f64::from(self.slot_count);
        WorkerView {
            worker: node,
            slot_count: u64::from(self.slot_count),
            room: self.room,
            used,
            busy_count,
            busy_us,
        }
    }
}

#[cfg(test)]
mod tests {
    use node::logic::network::{
        Identity, Link, NetworkEffect, NetworkEvent, NetworkLimits, RoutingId, Sender,
    };
    use node::logic::sessions::{Sessions, Source};
    use proto::ids::ClusterId;
    use proto::status::Role;

    use super::super::plan::{JobView, plan};
    use super::*;

    const WORKER: NodeId = NodeId(5);

    fn sessions(node: NodeId, role: Role) -> Sessions {
        let identity = Identity {
            node,
            role,
            cluster: ClusterId(9),
            incarnation: Incarnation(1),
            version: "1".into(),
            address: String::new(),
        };
        Sessions::new(identity, NetworkLimits::NODE)
    }

    /// A real handle of an inbound connection: it cannot be made up.
    pub(super) fn inbound() -> Inbound {
        let (mut here, mut there) =
            (sessions(NodeId(1), Role::Balancer), sessions(WORKER, Role::Worker));
        let open = NetworkEffect::Open { link: Link(1), address: "tcp://10.0.0.9:1".into() };
        let _ = there.perform(Instant(1), open);
        let mut joined = None;
        while let Some((_, frame)) = there.take_frame() {
            let id = RoutingId::of(WORKER);
            here.receive(Instant(1), Source::Bound(id.as_bytes()), &frame, &mut |event| {
                if let NetworkEvent::Joined { sender: Sender { peer, .. }, .. } = event {
                    joined = Some(peer);
                }
            });
        }
        let Some(Peer::Inbound(inbound)) = joined else { panic!("a hello that is accepted") };
        inbound
    }

    /// A worker with two slots that measured this way to the balancer, and holds nothing.
    fn away(round_trip: Duration) -> WorkerView {
        let mut workers = Workers::default();
        workers.set_group(1, true);
        let heartbeat = WorkerHeartbeat {
            worker_incarnation: 1,
            epoch: 1,
            slot_count: 2,
            cpu_milli: 2_000,
            memory_bytes: 1 << 30,
            group: 1,
            round_trip_us: round_trip.as_micros(),
            ..WorkerHeartbeat::default()
        };
        let heard = workers.take_heartbeat(Instant(1), WORKER, inbound(), &heartbeat);
        assert_eq!(heard, Heard::NewConnection);
        workers.view(WORKER, Epoch(1), &Tasks::default()).unwrap()
    }

    /// How many tasks of a millisecond it is dealt.
    fn dealt(worker: WorkerView) -> u64 {
        let job = JobView {
            job: JobId(7),
            priority: 0,
            needs: Needs { cpu_milli: 1_000, memory_bytes: 0 },
            pending_count: 1_000_000,
            busy_count: 0,
            served: 0,
            mean_us: Some(1_000.0),
        };
        plan(&[worker], &[job]).iter().map(|deal| deal.task_count).sum()
    }

    #[test]
    fn a_worker_is_dealt_as_much_more_ahead_as_it_is_farther_away() {
        let ms = Duration::from_millis;
        for (way, tasks) in [(ms(0), 100), (ms(100), 300), (ms(2_000), 4_100)] {
            assert_eq!(dealt(away(way)), tasks, "{way}");
        }
        for way in [ms(2_001), Duration(u64::MAX)] {
            assert_eq!(dealt(away(way)), 4_100, "{way} is not believed");
        }
    }

    #[test]
    fn a_worker_far_away_is_dealt_to_before_what_it_holds_is_less_than_the_way() {
        let holds = |round_trip, count: u64| {
            let view = away(round_trip);
            let busy_us = view.busy_us + 1_000.0 * count as f64;
            let used = Needs { cpu_milli: 1_000 * count, memory_bytes: 0 };
            dealt(WorkerView { busy_count: count, busy_us, used, ..view })
        };
        // Two slots: half a window is 50 tasks, and 100 ms are 200.
        assert_eq!([holds(Duration::ZERO, 40), holds(Duration::ZERO, 60)], [60, 0]);
        let way = Duration::from_millis(100);
        assert_eq!([holds(way, 240), holds(way, 260)], [60, 0]);
    }
}
