//! A worker of the pipeline: the shipped logic, and slots in which noop tasks take virtual time.
//!
//! A slot executes one piece at a time, one task after the other, and hands back what ended as the
//! threads of a real one would. Folds are `folding.rs`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use ::worker::logic::job::JobSpec;
use ::worker::logic::packing::OUTPUT_BYTES;
use ::worker::logic::results::RESULT_BYTES;
use ::worker::logic::{CrashedTask, Effect, Event as LogicEvent, STALL, Setting, TaskEnd, Worker};
use fastrand::Rng;
use node::logic::network::{Identity, NetworkEffect, NetworkEvent};
use proto::description::{Noop, Runtime};
use proto::ids::{Incarnation, JobId, TaskIndex};
use proto::record::Records;
use proto::segment::{Output, OutputContent};
use proto::status::{Cause, OutputKind, Role, TaskState};
use proto::time::{Duration, Instant};

use super::folding::{Folder, is_own};
use super::marks::Marks;
use super::witness::Witness;
use super::{Edge, Event, Note, Queue, Recipe, Request, Start, Tier, node_id};
use crate::network::Source;
use crate::pipeline::{cluster_of, masters};
use crate::report::{Happening, Report};

/// What a task takes beside the time that it waits.
const OVERHEAD: Duration = Duration(1);

/// Runs at which a worker takes no more, and one that it took before.
const HELD_RUNS: usize = 20_001;

/// A piece in a slot.
struct Piece {
    spec: Arc<JobSpec>,
    tasks: Range<u64>,
    attempt: u64,
    /// When the first of them began.
    began: Instant,
    is_cancelled: bool,
    /// Whether its tasks fail whatever they are.
    is_ill: bool,
}

impl Piece {
    fn noop(&self) -> &Noop {
        let Runtime::Noop(noop) = &self.spec.description.runtime else {
            unreachable!("only noop jobs are submitted");
        };
        noop
    }

    /// Exit code and end of the task that runs.
    fn running(&self) -> (i32, Instant) {
        let outcome = self.noop().outcome(TaskIndex(self.tasks.start));
        let exit_code = if self.is_ill { 1 } else { outcome.exit_code };
        (exit_code, self.began + outcome.duration + OVERHEAD)
    }

    /// What is told of the task that runs if the worker dies.
    fn mark(&self) -> CrashedTask {
        let task = TaskIndex(self.tasks.start);
        CrashedTask { job: self.spec.job, task, attempt: self.attempt }
    }

    /// What the task that runs prints.
    fn outputs(&self) -> Vec<Output> {
        let printed = self.noop().printed(TaskIndex(self.tasks.start));
        if printed.is_empty() {
            return Vec::new();
        }
        let (kind, content) = (OutputKind::Stdout, OutputContent::Packed(printed));
        vec![Output { kind, name: Vec::new(), mode: 0, is_cut: false, content }]
    }
}

/// A running worker.
pub(crate) struct WorkerProcess {
    edge: Edge,
    logic: Worker,
    slots: BTreeMap<u32, Piece>,
    folder: Folder,
    /// Whether every task fails here.
    is_ill: bool,
    witness: Witness,
    marks: Marks,
    now: Instant,
}

impl WorkerProcess {
    pub(crate) fn start(
        (place, slot_count, is_ill): (usize, u32, bool),
        start: &Start<'_>,
        requests: &mut Vec<Request>,
    ) -> WorkerProcess {
        let (node, incarnation) = (node_id(b'w', place, 0), Incarnation(start.life));
        let address = Recipe::Worker { place, slot_count, is_ill }.address();
        let cluster = cluster_of(start);
        let identity = Identity {
            node,
            role: Role::Worker,
            cluster,
            incarnation,
            version: "simulated".to_owned(),
            address: address.clone(),
        };
        let setting = Setting {
            node,
            incarnation,
            cluster,
            masters: masters(start.member_count),
            address,
            telemetry_address: String::new(),
            zone: String::new(),
            slot_count,
            cpu_milli: u64::from(slot_count) * 1_000,
            memory_bytes: 64 << 30,
        };
        let (marks, tasks) = Marks::open(start.files);
        let mut process = WorkerProcess {
            edge: Edge::new(identity, start.limits),
            logic: Worker::new(setting, Rng::with_seed(start.seed)),
            slots: BTreeMap::new(),
            folder: Folder::new(place, start),
            is_ill,
            witness: Witness::new(incarnation, start.planted),
            marks,
            now: start.now,
        };
        requests.push(Request::Note(Note::Count(Happening::CrashedTasks, tasks.len() as u64)));
        let mut effects = Vec::new();
        process.logic.handle(start.now, LogicEvent::Crashed { tasks }, &mut effects);
        process.perform(start.now, effects, requests);
        process.handle(start.now, Event::Tick, requests);
        process
    }

    /// What ended in the slots up to now.
    fn ended(&mut self, now: Instant) -> Option<LogicEvent<'static>> {
        let (mut ends, mut given_up) = (Vec::new(), Vec::new());
        self.slots.retain(|&slot, piece| {
            while piece.tasks.start < piece.tasks.end {
                let (exit_code, end) = piece.running();
                let is_over = end <= now;
                if !is_over && !piece.is_cancelled {
                    return true;
                }
                let (state, exit_code, cause, end) = if is_over {
                    let state = if exit_code == 0 { TaskState::Done } else { TaskState::Failed };
                    (state, exit_code, Cause::None, end)
                } else {
                    (TaskState::Lost, 0, Cause::Cancelled, now)
                };
                let task = TaskIndex(piece.tasks.start);
                let outputs = if is_over { piece.outputs() } else { Vec::new() };
                let (start_unix_us, wall) = (piece.began.0, end.since(piece.began));
                let (cpu, peak_memory_bytes) = (Duration::ZERO, 0);
                ends.push(TaskEnd {
                    slot,
                    task,
                    state,
                    exit_code,
                    cause,
                    start_unix_us,
                    wall,
                    cpu,
                    peak_memory_bytes,
                    outputs,
                });
                piece.tasks.start += 1;
                piece.began = end;
                if piece.is_cancelled && piece.tasks.start < piece.tasks.end {
                    given_up.push(slot);
                    return false;
                }
            }
            false
        });
        (!ends.is_empty()).then_some(LogicEvent::Ended { ends, given_up })
    }

    /// What stands behind a task that takes long, taken out of its slot.
    fn taken_back(&mut self, now: Instant) -> Option<LogicEvent<'static>> {
        self.slots.iter_mut().find_map(|(&slot, piece)| {
            let tasks = piece.tasks.start + 1..piece.tasks.end;
            let is_stalled = !piece.is_cancelled && now.since(piece.began) >= STALL;
            (is_stalled && !tasks.is_empty()).then(|| {
                piece.tasks.end = tasks.start;
                LogicEvent::TakenBack { slot, tasks }
            })
        })
    }

    fn perform(&mut self, now: Instant, effects: Vec<Effect>, requests: &mut Vec<Request>) {
        let mut early = Vec::new();
        for effect in effects {
            match effect {
                Effect::Network(effect) => {
                    if let NetworkEffect::Send { to, record } = &effect {
                        let (logic, early) = (&mut self.logic, &mut early);
                        self.witness.hears_early(*to, record, |event| {
                            logic.handle(now, LogicEvent::Network(event), early);
                        });
                    }
                    self.edge.perform(now, effect, requests);
                }
                Effect::Start { slot, spec, tasks, attempt } => {
                    if let Err(broken) = self.witness.begins(spec.job, &tasks, attempt) {
                        requests.push(Request::Note(Note::Broken(broken)));
                    }
                    let begins = Note::Begins { job: spec.job, tasks: tasks.clone(), attempt };
                    requests.push(Request::Note(begins));
                    if let Runtime::Fold { job, fold } = spec.description.runtime {
                        let task = CrashedTask { job: spec.job, task: TaskIndex(0), attempt };
                        self.folder.begin(slot, task, (job, fold));
                        continue;
                    }
                    let is_ill = self.is_ill;
                    let piece =
                        Piece { spec, tasks, attempt, began: now, is_cancelled: false, is_ill };
                    let before = self.slots.insert(slot, piece);
                    assert!(before.is_none(), "slot {slot} has tasks");
                }
                Effect::Cancel { slot } => {
                    self.folder.cancel(slot);
                    if let Some(piece) = self.slots.get_mut(&slot) {
                        piece.is_cancelled = true;
                    }
                }
                Effect::Join { cluster } => self.edge.set_cluster(cluster),
                // A sentence for people.
                Effect::Warn(_) => {}
            }
        }
        if !early.is_empty() {
            self.perform(now, early, requests);
        }
    }
}

impl Tier for WorkerProcess {
    fn edge(&mut self) -> &mut Edge {
        &mut self.edge
    }

    fn second_edge(&mut self) -> Option<&mut Edge> {
        Some(self.folder.edge())
    }

    fn handle(&mut self, now: Instant, event: Event<'_>, requests: &mut Vec<Request>) {
        self.now = now;
        let mut effects = Vec::new();
        if let Some(ended) = self.ended(now) {
            self.logic.handle(now, ended, &mut effects);
        }
        while let Some(taken_back) = self.taken_back(now) {
            self.logic.handle(now, taken_back, &mut effects);
        }
        let is_folders = matches!(&event, Event::Arrived { source: Source::Link { link, .. }, .. } if is_own(*link));
        let (own, folders) =
            if is_folders { (&Event::Tick, &event) } else { (&event, &Event::Tick) };
        let ends = self.folder.handle(now, folders, requests);
        if !ends.is_empty() {
            let given_up = Vec::new();
            self.logic.handle(now, LogicEvent::Ended { ends, given_up }, &mut effects);
        }
        let logic = &mut self.logic;
        let witness = &mut self.witness;
        self.edge.hear(now, own, |event| {
            let NetworkEvent::Record { sender, record } = event else {
                return logic.handle(now, LogicEvent::Network(event), &mut effects);
            };
            let held = logic.held();
            let heard = witness.hears(&record, |job, tasks, of| held.holds(job, tasks, of));
            let altered = heard.as_deref().and_then(|heard| Records::of(heard).next());
            let record = altered.and_then(Result::ok).unwrap_or(record);
            let event = NetworkEvent::Record { sender, record };
            logic.handle(now, LogicEvent::Network(event), &mut effects);
        });
        match event {
            Event::Tick => logic.handle(now, LogicEvent::Tick, &mut effects),
            Event::Worked(_) => unreachable!("a worker has no disk thread"),
            Event::Arrived { .. } | Event::Finish => {}
        }
        self.perform(now, effects, requests);
        self.marks.set(self.slots.values().map(Piece::mark).chain(self.folder.marks()));
    }

    fn next_deadline(&self) -> Option<Instant> {
        let slots = self.slots.values();
        let ends = slots.map(|it| if it.is_cancelled { self.now } else { it.running().1 });
        let own = [self.logic.next_deadline(self.now), self.edge.next_deadline()];
        own.into_iter().chain([self.folder.next_deadline()]).flatten().chain(ends).min()
    }

    fn check_invariants(&self) {
        self.logic.check_invariants();
        self.edge.check_invariants();
        self.folder.check_invariants();
    }

    fn queues(&self, each: &mut dyn FnMut(Queue)) {
        let length = self.logic.held().run_count();
        each(Queue { name: "runs that a worker holds", length, bound: HELD_RUNS });
        let (length, bound) = (self.logic.result_bytes(), RESULT_BYTES + OUTPUT_BYTES);
        each(Queue { name: "bytes of a worker's results", length, bound });
        self.edge.queues(each);
        self.folder.queues(each);
    }

    fn report(&self, report: &mut Report) {
        report.add(Happening::RefusedEpochs, self.witness.over_count());
        report.add(Happening::SecondCompletions, self.witness.second_count());
    }

    fn describe(&self) -> String {
        let held = self.logic.held();
        format!("holds {} runs, {} tasks wait", held.run_count(), held.waiting_count())
    }

    fn explain(&self, _job: JobId, _task: TaskIndex) -> String {
        let bytes = self.logic.result_bytes();
        format!("{}; {}; {bytes} bytes of results", self.describe(), self.logic.explain())
    }
}
