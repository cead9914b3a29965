//! A small cluster of models around the real balancer: masters that know the truth, two workers,
//! lossy connections, restarts. Whatever happens, every task is final in the end; no attempt is
//! used twice; nothing is killed that is still of use.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fastrand::Rng;
use node::logic::network::{NetworkEffect, NetworkEvent, Peer, Sender};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use proto::ids::{ClusterId, JobId, LogIndex, NodeId, RequestId};
use proto::messages::node::{
    FeedBatch, FeedPull, LeaseRenew, LeaseReply, NodeRegister, NodeRegistered, RunsLost,
    RunsUnfinished,
};
use proto::messages::session::ErrorReply;
use proto::messages::task::{
    TaskFree, TaskRecall, TaskReturned, TaskRun, TaskSettled, WorkerHeartbeat,
    WorkerHeartbeatReply, WorkerRequest,
};
use proto::record::{Message, Records, encode, set_request_id};
use proto::status::{ErrorCode, Order, Role, TaskState, Verdict};
use proto::time::{Duration, Instant};
use proto::wire::bytes_of;

use super::super::{Balancer, Counters, Event, MASTER_LINK};
use super::scene::{Door, ended, grant, job_record, master, read, run, runs_in, setting};

const JOB: JobId = JobId(0x0b);
const TASKS: u64 = 50;
const GRANTED_AT: u64 = 6;
const SLOTS: usize = 2;

/// A worker as far as a balancer sees it.
#[derive(Default)]
struct Worker {
    node: NodeId,
    incarnation: u64,
    sender: Option<Sender>,
    /// Deals and orders on their way to it.
    inbox: VecDeque<Vec<u8>>,
    /// What it says, on its way to the balancer.
    outbox: VecDeque<Vec<u8>>,
    epoch: u64,
    echo: u64,
    waiting: VecDeque<(u64, u64)>,
    running: Vec<(u64, u64)>,
    ended: Vec<(u64, u64, TaskState)>,
}

impl Worker {
    fn inventory(&self) -> Vec<TaskRun> {
        let of = |&(task, attempt): &(u64, u64), state: TaskState| TaskRun {
            state: state.to_wire(),
            ..run(JOB, task..task + 1, attempt)
        };
        let waiting = self.waiting.iter().map(|held| of(held, TaskState::Queued));
        let running = self.running.iter().map(|held| of(held, TaskState::Running));
        let ended = self.ended.iter().map(|&(task, attempt, state)| of(&(task, attempt), state));
        waiting.chain(running).chain(ended).collect()
    }

    fn say(&mut self, record: Vec<u8>) {
        if self.sender.is_some() {
            self.outbox.push_back(record);
        }
    }

    fn heartbeat(&mut self) {
        let heartbeat = WorkerHeartbeat {
            worker_incarnation: self.incarnation,
            assignment: 7,
            epoch: self.epoch,
            deal_echo: self.echo,
            slot_count: SLOTS as u32,
            cpu_milli: 1_000 * SLOTS as u64,
            memory_bytes: 1 << 30,
            group: 1,
            ..WorkerHeartbeat::default()
        };
        let record = encode(&heartbeat, &[bytes_of(&self.inventory())]);
        self.say(record);
    }

    fn start(&mut self) {
        while self.running.len() < SLOTS
            && let Some(next) = self.waiting.pop_front()
        {
            self.running.push(next);
        }
    }

    fn end(&mut self, at: usize, state: TaskState) {
        self.start();
        if self.running.is_empty() {
            return;
        }
        let (task, attempt) = self.running.remove(at % self.running.len());
        self.ended.push((task, attempt, state));
        let free = TaskFree { busy_us: 5_000, ..TaskFree::default() };
        self.say(encode(&free, &[bytes_of(&[run(JOB, task..task + 1, attempt)])]));
        self.start();
    }
}

/// Everything.
struct World {
    now: Instant,
    balancer: Balancer,
    effects: Vec<NetworkEffect>,
    door: Door,
    incarnation: u64,
    epoch: u64,
    registered: u64,
    is_linked: bool,
    to_master: VecDeque<Vec<u8>>,
    from_master: VecDeque<Vec<u8>>,
    parked: Option<RequestId>,
    feed_index: u64,
    /// Tasks that have their outcome.
    done: BTreeSet<u64>,
    /// The attempts under which each task was dealt.
    attempts: BTreeMap<u64, Vec<u64>>,
    workers: Vec<Worker>,
    /// What balancers did that were restarted since.
    past: Vec<Counters>,
}

impl World {
    fn new() -> World {
        let worker = |number: u128| Worker {
            node: NodeId(0x10 + number),
            incarnation: 1,
            ..Worker::default()
        };
        World {
            now: Instant(1_000_000),
            balancer: Balancer::new(setting(1), Rng::with_seed(5)),
            effects: Vec::new(),
            door: Door::new(),
            incarnation: 1,
            epoch: 0,
            registered: 0,
            is_linked: false,
            to_master: VecDeque::new(),
            from_master: VecDeque::new(),
            parked: None,
            feed_index: GRANTED_AT,
            done: BTreeSet::new(),
            attempts: BTreeMap::new(),
            workers: vec![worker(1), worker(2)],
            past: Vec::new(),
        }
    }

    fn handle(&mut self, event: Event<'_>) {
        self.balancer.handle(self.now, event, &mut self.effects);
        self.balancer.check_invariants();
        self.perform();
    }

    fn perform(&mut self) {
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                NetworkEffect::Open { .. } => self.unlink(true),
                NetworkEffect::Close { .. } => self.unlink(false),
                NetworkEffect::Send { to: Peer::Link(_), record } => {
                    self.to_master.push_back(record);
                }
                NetworkEffect::Send { to, record } => {
                    self.check_sent(&record);
                    let open = |worker: &&mut Worker| {
                        worker.sender.is_some_and(|sender| sender.peer == to)
                    };
                    if let Some(worker) = self.workers.iter_mut().find(open) {
                        worker.inbox.push_back(record);
                    }
                }
            }
        }
    }

    /// What leaves the balancer must be right when it leaves.
    fn check_sent(&mut self, record: &[u8]) {
        if let Some((_, deal)) = read::<WorkerRequest>(record) {
            for task in deal.first_task..deal.first_task + deal.task_count {
                let earlier = self.attempts.entry(task).or_default();
                assert!(
                    earlier.iter().all(|&earlier| earlier < deal.attempt),
                    "task {task} is dealt as attempt {} after {earlier:?}",
                    { deal.attempt }
                );
                earlier.push(deal.attempt);
            }
        }
        if record[0] == WorkerHeartbeatReply::TYPE {
            for order in runs_in::<WorkerHeartbeatReply>(record) {
                assert_eq!(order.state, Order::Kill.to_wire());
                for task in order.first_task..order.first_task + order.task_count {
                    let is_final = self.done.contains(&task);
                    let newest = self.attempts[&task].last().copied().unwrap_or_default();
                    assert!(is_final || newest > order.attempt, "a healthy run is killed");
                }
            }
        }
    }

    fn unlink(&mut self, is_opening: bool) {
        self.is_linked = is_opening;
        self.to_master.clear();
        self.from_master.clear();
        self.parked = None;
        if is_opening {
            // Stands for the master's answer to `hello`.
            self.from_master.push_back(Vec::new());
        }
    }

    fn wait(&mut self, span: Duration) {
        let until = self.now + span;
        let mut ticks = 0;
        while let Some(due) = self.balancer.next_deadline().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.handle(Event::Tick);
            ticks += 1;
            assert!(ticks < 1_000, "it turns in place");
        }
        self.now = until;
    }

    // The masters.

    fn reply(&mut self, request: RequestId, mut record: Vec<u8>) {
        set_request_id(&mut record, request);
        self.from_master.push_back(record);
    }

    fn refuse(&mut self, request: RequestId, code: ErrorCode) {
        let refusal = ErrorReply { code: code.to_wire(), ..ErrorReply::default() };
        self.reply(request, encode(&refusal, &[b"", b""]));
    }

    fn master_reads(&mut self) {
        let Some(record) = self.to_master.pop_front() else { return };
        if let Some((request, register)) = read::<NodeRegister>(&record) {
            if register.incarnation > self.registered {
                self.registered = register.incarnation;
                self.epoch += 1;
            }
            let registered = NodeRegistered {
                index: GRANTED_AT - 1,
                group: 1,
                epoch: self.epoch,
                is_primary: 1,
                ..NodeRegistered::default()
            };
            self.reply(request, encode(&registered, &[b""]));
        } else if let Some((request, _)) = read::<LeaseRenew>(&record) {
            let reply = LeaseReply {
                epoch: self.epoch,
                is_primary: 1,
                lease_ms: 900,
                feed_index: self.feed_index,
                ..LeaseReply::default()
            };
            self.reply(request, encode(&reply, &[b""]));
        } else if let Some((request, pull)) = read::<FeedPull>(&record) {
            self.pulled(request, &pull);
        } else if let Some((request, lost)) = read::<RunsLost>(&record) {
            if lost.epoch < self.epoch {
                return self.refuse(request, ErrorCode::OldEpoch);
            }
            let unfinished: Vec<TaskRun> = runs_in::<RunsLost>(&record)
                .iter()
                .flat_map(|run| {
                    (run.first_task..run.first_task + run.task_count).map(|task| TaskRun {
                        first_task: task,
                        task_count: 1,
                        ..*run
                    })
                })
                .filter(|run| !self.done.contains(&{ run.first_task }))
                .collect();
            let answer = encode(&RunsUnfinished::default(), &[bytes_of(&unfinished)]);
            self.reply(request, answer);
        }
    }

    fn pulled(&mut self, request: RequestId, pull: &FeedPull) {
        if pull.after_index == 0 {
            // Pages of two items.
            let unfinished: Vec<u64> =
                (pull.resume_task..TASKS).filter(|task| !self.done.contains(task)).collect();
            let page = &unfinished[..unfinished.len().min(20)];
            let next = unfinished.get(page.len()).copied();
            let items: Vec<_> =
                page.iter().map(|&task| grant(JOB, GRANTED_AT, task..task + 1)).collect();
            let batch = FeedBatch {
                group: 1,
                up_to_index: self.feed_index,
                is_complete: 1,
                next_job_uuid: next.map_or(JobId(0), |_| JOB).to_wire(),
                next_task: next.unwrap_or_default(),
                ..FeedBatch::default()
            };
            let record = encode(&batch, &[bytes_of(&items), &job_record(TASKS)]);
            self.reply(request, record);
        } else if pull.after_index < self.feed_index {
            self.news(request);
        } else {
            self.parked = Some(request);
        }
    }

    fn news(&mut self, request: RequestId) {
        let batch = FeedBatch { group: 1, up_to_index: self.feed_index, ..FeedBatch::default() };
        let record = encode(&batch, &[bytes_of(&[ended(JOB, self.feed_index)]), b""]);
        self.reply(request, record);
    }

    /// The masters record a worker's outcomes and the worker tells its balancer.
    fn record(&mut self, at: usize) {
        let worker = &mut self.workers[at];
        let mut settled = Vec::new();
        for (task, attempt, state) in worker.ended.drain(..) {
            if state == TaskState::Done {
                self.done.insert(task);
            }
            let is_final = self.done.contains(&task);
            let verdict = if is_final { Verdict::Final } else { Verdict::Again };
            let run = run(JOB, task..task + 1, attempt);
            settled.push(TaskRun { state: verdict.to_wire(), ..run });
        }
        if !settled.is_empty() {
            worker.say(encode(&TaskSettled::default(), &[bytes_of(&settled)]));
        }
        if self.done.len() == TASKS as usize && self.feed_index == GRANTED_AT {
            self.feed_index += 1;
            if let Some(request) = self.parked.take() {
                self.news(request);
            }
        }
    }

    fn balancer_reads_master(&mut self) {
        let Some(record) = self.from_master.pop_front() else { return };
        if record.is_empty() {
            return self.handle(Event::Network(NetworkEvent::Connected {
                link: MASTER_LINK,
                sender: master(),
                cluster: ClusterId(1),
                applied_index: LogIndex(1),
                window: 64,
                masters: String::new(),
                again: false,
            }));
        }
        let record = Records::of(&record).next().unwrap().unwrap();
        self.handle(Event::Network(NetworkEvent::Record { sender: master(), record }));
    }

    // The workers.

    fn balancer_reads_worker(&mut self, at: usize) {
        let Some(sender) = self.workers[at].sender else { return };
        let Some(record) = self.workers[at].outbox.pop_front() else { return };
        let record = Records::of(&record).next().unwrap().unwrap();
        self.handle(Event::Network(NetworkEvent::Record { sender, record }));
    }

    fn worker_reads(&mut self, at: usize) {
        let worker = &mut self.workers[at];
        let Some(record) = worker.inbox.pop_front() else { return };
        if let Some((_, deal)) = read::<WorkerRequest>(&record) {
            if deal.epoch < worker.epoch {
                let refusal =
                    ErrorReply { code: ErrorCode::OldEpoch.to_wire(), ..ErrorReply::default() };
                return worker.say(encode(&refusal, &[b"", b""]));
            }
            worker.epoch = deal.epoch;
            let tasks = deal.first_task..deal.first_task + deal.task_count;
            if deal.worker_incarnation == worker.incarnation {
                worker.waiting.extend(tasks.map(|task| (task, deal.attempt)));
            } else {
                let returned = run(JOB, tasks, deal.attempt);
                worker.say(encode(&TaskReturned::default(), &[bytes_of(&[returned])]));
            }
        } else if let Some((_, reply)) = read::<WorkerHeartbeatReply>(&record) {
            worker.epoch = worker.epoch.max(reply.epoch);
            worker.echo = reply.last_deal;
            for order in runs_in::<WorkerHeartbeatReply>(&record) {
                let is_it = |&(task, attempt): &(u64, u64)| {
                    let tasks = order.first_task..order.first_task + order.task_count;
                    attempt == order.attempt && tasks.contains(&task)
                };
                worker.waiting.retain(|held| !is_it(held));
                while let Some(at) = worker.running.iter().position(is_it) {
                    worker.end(at, TaskState::Lost);
                }
            }
        } else if record[0] == TaskRecall::TYPE {
            let mut returned = Vec::new();
            for asked in runs_in::<TaskRecall>(&record) {
                let tasks = asked.first_task..asked.first_task + asked.task_count;
                worker.waiting.retain(|&(task, attempt)| {
                    let is_it = attempt == asked.attempt && tasks.contains(&task);
                    if is_it {
                        returned.push(run(JOB, task..task + 1, attempt));
                    }
                    !is_it
                });
            }
            if !returned.is_empty() {
                worker.say(encode(&TaskReturned::default(), &[bytes_of(&returned)]));
            }
        }
    }

    /// A worker's connection ends and it connects again.
    fn reconnect(&mut self, at: usize) {
        let before = self.workers[at].sender.take();
        if let Some(sender) = before {
            self.handle(Event::Network(NetworkEvent::Gone { sender }));
        }
        let worker = &mut self.workers[at];
        worker.inbox.clear();
        worker.outbox.clear();
        worker.echo = 0;
        worker.sender = Some(self.door.open(worker.node, Role::Worker, worker.incarnation));
        worker.heartbeat();
    }

    /// A worker dies with all that it holds and starts anew.
    fn restart_worker(&mut self, at: usize) {
        let worker = &mut self.workers[at];
        worker.incarnation += 1;
        worker.waiting.clear();
        worker.running.clear();
        worker.ended.clear();
        worker.epoch = 0;
        self.reconnect(at);
    }

    fn restart_balancer(&mut self) {
        self.incarnation += 1;
        self.past.push(self.balancer.counters());
        self.balancer = Balancer::new(setting(self.incarnation), Rng::with_seed(self.incarnation));
        self.effects.clear();
        self.unlink(false);
        for at in 0..self.workers.len() {
            self.workers[at].sender = None;
            self.reconnect(at);
        }
        self.handle(Event::Tick);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Wait(ms) => self.wait(Duration::from_millis(ms)),
            Step::Masters => {
                self.master_reads();
                self.balancer_reads_master();
            }
            Step::LoseToMaster => drop(self.to_master.pop_front()),
            Step::LoseFromMaster => {
                // The answer to `hello` is not lost: it is asked for until it comes.
                if self.from_master.front().is_some_and(|record| !record.is_empty()) {
                    self.from_master.pop_front();
                }
            }
            Step::ToWorker(at) => self.worker_reads(at),
            Step::FromWorker(at) => self.balancer_reads_worker(at),
            Step::LoseToWorker(at) => drop(self.workers[at].inbox.pop_front()),
            Step::LoseFromWorker(at) => drop(self.workers[at].outbox.pop_front()),
            Step::End(at, slot, state) => self.workers[at].end(slot, state),
            Step::Record(at) => self.record(at),
            Step::Heartbeat(at) => self.workers[at].heartbeat(),
            Step::Reconnect(at) => self.reconnect(at),
            Step::RestartWorker(at) => self.restart_worker(at),
            Step::RestartBalancer => self.restart_balancer(),
        }
    }

    /// Everything works from now on, one round every 50 ms. Returns whether all is done in time.
    fn finish(&mut self) -> bool {
        for at in 0..self.workers.len() {
            if self.workers[at].sender.is_none() {
                self.reconnect(at);
            }
        }
        for round in 0..2_000 {
            self.wait(Duration::from_millis(50));
            for at in 0..self.workers.len() {
                if round % 10 == 0 {
                    self.workers[at].heartbeat();
                }
                self.workers[at].end(0, TaskState::Done);
                self.record(at);
            }
            for _ in 0..100 {
                self.master_reads();
                self.balancer_reads_master();
                for at in 0..self.workers.len() {
                    self.balancer_reads_worker(at);
                    self.worker_reads(at);
                }
            }
            let is_empty = self.balancer.tasks().jobs().next().is_none();
            if self.done.len() == TASKS as usize && is_empty {
                return true;
            }
        }
        false
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Wait(u64),
    Masters,
    LoseToMaster,
    LoseFromMaster,
    ToWorker(usize),
    FromWorker(usize),
    LoseToWorker(usize),
    LoseFromWorker(usize),
    End(usize, usize, TaskState),
    Record(usize),
    Heartbeat(usize),
    Reconnect(usize),
    RestartWorker(usize),
    RestartBalancer,
}

fn steps() -> impl Strategy<Value = Step> {
    let state = prop_oneof![
        4 => Just(TaskState::Done),
        1 => Just(TaskState::Failed),
    ];
    prop_oneof![
        4 => (1u64..700).prop_map(Step::Wait),
        1 => (2_500u64..4_000).prop_map(Step::Wait),
        20 => Just(Step::Masters),
        1 => Just(Step::LoseToMaster),
        1 => Just(Step::LoseFromMaster),
        12 => (0usize..2).prop_map(Step::ToWorker),
        12 => (0usize..2).prop_map(Step::FromWorker),
        1 => (0usize..2).prop_map(Step::LoseToWorker),
        1 => (0usize..2).prop_map(Step::LoseFromWorker),
        10 => (0usize..2, 0usize..SLOTS, state).prop_map(|(at, slot, state)| {
            Step::End(at, slot, state)
        }),
        6 => (0usize..2).prop_map(Step::Record),
        6 => (0usize..2).prop_map(Step::Heartbeat),
        1 => (0usize..2).prop_map(Step::Reconnect),
        1 => (0usize..2).prop_map(Step::RestartWorker),
        1 => Just(Step::RestartBalancer),
    ]
}

/// The world after the first connections, before anything was dealt.
fn begun() -> World {
    let mut world = World::new();
    world.handle(Event::Tick);
    for at in 0..world.workers.len() {
        world.reconnect(at);
    }
    for _ in 0..8 {
        world.master_reads();
        world.balancer_reads_master();
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_task_is_final_in_the_end(steps in prop::collection::vec(steps(), 0..400)) {
        let mut world = begun();
        for step in steps {
            world.step(step);
        }
        if !world.finish() {
            let open: Vec<_> = (0..TASKS)
                .map(proto::ids::TaskIndex)
                .map(|task| (task, world.balancer.explain(world.now, JOB, task)))
                .filter(|(task, _)| !world.done.contains(&task.0))
                .collect();
            prop_assert!(false, "not finished: {open:?}");
        }
    }
}

#[test]
fn the_random_steps_reach_every_way_of_losing_a_task() {
    let mut runner = TestRunner::deterministic();
    let mut seen = Vec::new();
    let mut restarts = 0;
    for _ in 0..60 {
        let steps = prop::collection::vec(steps(), 300).new_tree(&mut runner).unwrap();
        let mut world = begun();
        steps.current().into_iter().for_each(|step| world.step(step));
        assert!(world.finish());
        restarts += world.past.len();
        seen.append(&mut world.past);
        seen.push(world.balancer.counters());
    }
    let total = |count: fn(&Counters) -> u64| seen.iter().map(count).sum::<u64>();
    assert!(restarts > 0);
    assert!(total(|counters| counters.asked) > 0, "no fate was ever asked for");
    assert!(total(|counters| counters.requeued) > 0, "nothing was ever dealt again");
    assert!(total(|counters| counters.silent_workers) > 0, "no worker was ever silent");
    assert!(total(|counters| counters.kill_orders) > 0, "nothing was ever superseded");
    assert!(total(|counters| counters.recalls) > 0, "nothing was ever recalled");
}

#[test]
fn without_faults_each_task_is_dealt_once() {
    let mut world = begun();
    assert!(world.finish());
    assert_eq!(world.attempts.len(), TASKS as usize);
    // What is recalled for an idle worker is dealt again; nothing else is.
    let recalled = world.balancer.counters().requeued;
    let dealt: u64 = world.attempts.values().map(|attempts| attempts.len() as u64).sum();
    assert_eq!(dealt, TASKS + recalled);
    assert_eq!(world.balancer.counters().asked, 0);
}
