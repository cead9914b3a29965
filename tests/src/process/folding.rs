//! What folds segments beside a worker: the shipped client logic in the place of its client library.
//!
//! Reads what the masters list for a fold, keeps of each task what counts, stores that as one segment
//! and tells the masters. Deliberately not here: the shipped runtime's own way of merging, which goes
//! through files on a real disk (`worker/src/runtime/fold.rs`).

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use ::client::logic::answers::Answer;
use ::client::logic::client::{Client, Done};
use ::client::logic::files::{FilePlan, FilePlanner};
use ::client::logic::jobs::Request as Question;
use ::client::logic::session::{CallFailure, CallId};
use ::client::logic::transfer::{GetId, Output as Transferred, PutId, PutTerms};
use ::client::owned_output;
use ::worker::logic::{CrashedTask, TaskEnd};
use fastrand::Rng;
use node::logic::network::{NetworkEffect, NetworkLimits};
use proto::ids::{FileId, Incarnation, JobId, NodeId};
use proto::segment::{self, AccountingEntry, NewSection, Output, Segment, TaskOutputs};
use proto::status::{Cause, ErrorCode, TaskState};
use proto::time::{Duration, Instant};

use super::jobs::{edge_of, hear_client};
use super::{Edge, Event, Note, Queue, Request, Start, node_id};
use crate::pipeline::masters;
use crate::report::Happening;

/// Links of the client, none of which the worker's own logic uses.
const LINKS: Range<u32> = 0x1_0000..0x1_0010;

/// How long one call or transfer may take before the fold fails.
const PATIENCE: Duration = Duration::from_secs(5);

/// True for a link of the client.
pub(super) fn is_own(link: u32) -> bool {
    LINKS.contains(&link)
}

/// What a fold waits for.
enum Step {
    /// A page of its segments.
    List(Option<CallId>),
    /// The content of one of them.
    Read(Option<GetId>, Vec<u8>),
    /// That the new one is durable.
    Store(Option<PutId>, Vec<u8>, FilePlan),
    /// That the masters know of it, or that nothing came of the fold.
    Tell(Option<CallId>, FileId, u64, i32),
    /// Nothing: it ended with this exit code.
    Ended(i32),
}

/// A fold in a slot.
struct Fold {
    slot: u32,
    task: CrashedTask,
    began: Instant,
    is_cancelled: bool,
    job: JobId,
    number: u64,
    /// In whose name the masters are told.
    worker: (NodeId, Incarnation),
    /// Where the list goes on.
    after: u64,
    /// Its segments and what counts of each.
    listed: Vec<(FileId, Vec<Range<u64>>)>,
    read_count: usize,
    found: BTreeMap<u64, (AccountingEntry, Vec<Output>)>,
    step: Step,
    /// Whether its segment took the place of the others.
    is_listed: bool,
}

/// The client and what it is to fold, one fold at a time.
pub(super) struct Folder {
    edge: Edge,
    logic: Client,
    rng: Rng,
    node: NodeId,
    worker: (NodeId, Incarnation),
    place: usize,
    limits: NetworkLimits,
    /// Nodes that this process has been.
    nodes: u64,
    folds: VecDeque<Fold>,
    now: Instant,
}

impl Folder {
    pub(super) fn new(place: usize, start: &Start<'_>) -> Folder {
        let mut rng = Rng::with_seed(start.seed ^ 0xf01d);
        let node = node_id(b'd', place, start.life << 16);
        let mut logic = Client::new(LINKS, masters(start.member_count), rng.fork());
        logic.transfer_mut().set_give_up_after(PATIENCE);
        Folder {
            edge: edge_of(node, 1, start.limits),
            logic,
            rng,
            node,
            worker: (node_id(b'w', place, 0), Incarnation(start.life)),
            place,
            limits: start.limits,
            nodes: 1,
            folds: VecDeque::new(),
            now: start.now,
        }
    }

    pub(super) fn edge(&mut self) -> &mut Edge {
        &mut self.edge
    }

    /// Begins a fold in a slot.
    pub(super) fn begin(&mut self, slot: u32, task: CrashedTask, (job, number): (JobId, u64)) {
        self.folds.push_back(Fold {
            slot,
            task,
            began: self.now,
            is_cancelled: false,
            job,
            number,
            worker: self.worker,
            after: 0,
            listed: Vec::new(),
            read_count: 0,
            found: BTreeMap::new(),
            step: Step::List(None),
            is_listed: false,
        });
    }

    pub(super) fn cancel(&mut self, slot: u32) {
        let of_slot = self.folds.iter_mut().filter(|fold| fold.slot == slot);
        of_slot.for_each(|fold| fold.is_cancelled = true);
    }

    /// What is told of the folds if the worker dies.
    pub(super) fn marks(&self) -> impl Iterator<Item = CrashedTask> {
        self.folds.iter().map(|fold| fold.task)
    }

    /// Hands an event to the client and goes on with the folds. Returns those that ended.
    pub(super) fn handle(
        &mut self,
        now: Instant,
        event: &Event<'_>,
        requests: &mut Vec<Request>,
    ) -> Vec<TaskEnd> {
        self.now = now;
        let is_due = self.next_deadline().is_some_and(|deadline| deadline <= now);
        if matches!(event, Event::Tick) && !is_due {
            return Vec::new();
        }
        let mut effects: Vec<NetworkEffect> = Vec::new();
        hear_client(&mut self.edge, &mut self.logic, now, event, &mut effects);
        let mut ends = Vec::new();
        while let Some(done) = self.next_done(now, &mut effects, &mut ends, requests) {
            if let Done::Transfer(Transferred::Piece { get, content, .. }) = &done {
                let count = content.len() as u64;
                self.logic.transfer_mut().consumed(now, *get, count, &mut effects);
            }
            let Some(fold) = self.folds.front_mut() else { continue };
            match done {
                Done::Call(ended) => fold.answered(ended.call, ended.result),
                Done::Transfer(output) => {
                    fold.transferred(now, &output, &mut self.logic, &mut effects);
                }
                Done::Register(_) => unreachable!("nothing of a fold is in a register"),
            }
        }
        if self.logic.wants_new_node() {
            self.nodes += 1;
            let life = self.node.0 as u32 >> 16;
            self.node = node_id(b'd', self.place, u64::from(life) << 16 | self.nodes);
            self.edge = edge_of(self.node, self.nodes, self.limits);
            effects.clear();
            self.logic.begin_as_new_node(now, self.rng.fork(), &mut effects);
        }
        for effect in effects {
            self.edge.perform(now, effect, requests);
        }
        ends
    }

    /// What the logic did, after everything that is to be asked was asked.
    fn next_done(
        &mut self,
        now: Instant,
        effects: &mut Vec<NetworkEffect>,
        ends: &mut Vec<TaskEnd>,
        requests: &mut Vec<Request>,
    ) -> Option<Done> {
        let done = self.logic.next_done(now, effects);
        if done.is_some() {
            return done;
        }
        while let Some(fold) = self.folds.front_mut() {
            fold.go_on(now, &mut self.logic, effects);
            let Some(end) = fold.end(now) else { break };
            let count = u64::from(fold.is_listed);
            requests.push(Request::Note(Note::Count(Happening::Folds, count)));
            ends.push(end);
            self.folds.pop_front();
        }
        self.logic.next_done(now, effects)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let is_over = |fold: &Fold| fold.is_cancelled || !fold.is_waiting();
        let is_due = self.folds.front().is_some_and(is_over);
        let others = [self.logic.next_deadline(self.now), self.edge.next_deadline()];
        others.into_iter().flatten().chain(is_due.then_some(self.now)).min()
    }

    pub(super) fn check_invariants(&self) {
        self.logic.check_invariants();
        self.edge.check_invariants();
    }

    pub(super) fn queues(&self, each: &mut dyn FnMut(Queue)) {
        self.edge.queues(each);
    }
}

impl Fold {
    fn is_waiting(&self) -> bool {
        match &self.step {
            Step::List(call) | Step::Tell(call, ..) => call.is_some(),
            Step::Read(get, _) => get.is_some(),
            Step::Store(put, ..) => put.is_some(),
            Step::Ended(_) => false,
        }
    }

    /// Nothing came of it, which the masters are told.
    fn fail(&mut self) {
        self.step = match self.step {
            Step::Tell(..) => Step::Ended(1),
            _ => Step::Tell(None, FileId(0), 0, 1),
        };
    }

    fn answered(&mut self, call: CallId, result: Result<Answer, CallFailure>) {
        let asked = match &self.step {
            Step::List(asked) | Step::Tell(asked, ..) => *asked,
            _ => None,
        };
        if asked != Some(call) {
            return;
        }
        let is_over = |code| matches!(code, ErrorCode::NotFound | ErrorCode::Forgotten);
        match (result, &self.step) {
            (Ok(Answer::Segments { ranges, next }), _) => {
                for range in ranges {
                    match self.listed.last_mut().filter(|(file, _)| *file == range.segment) {
                        Some((_, tasks)) => tasks.push(range.tasks),
                        None => self.listed.push((range.segment, vec![range.tasks])),
                    }
                }
                self.step = match next {
                    Some(after) => {
                        self.after = after;
                        Step::List(None)
                    }
                    None if self.listed.is_empty() => Step::Ended(0),
                    None => Step::Read(None, Vec::new()),
                };
            }
            (Ok(Answer::Folded { is_listed, .. }), &Step::Tell(.., exit_code)) => {
                self.is_listed = is_listed;
                self.step = Step::Ended(exit_code);
            }
            (Err(CallFailure::Refused { code, .. }), _) if is_over(code) => {
                self.step = Step::Ended(0);
            }
            _ => self.fail(),
        }
    }

    fn transferred(
        &mut self,
        now: Instant,
        output: &Transferred,
        logic: &mut Client,
        effects: &mut Vec<NetworkEffect>,
    ) {
        match (output, &mut self.step) {
            (Transferred::Piece { get, offset, content }, Step::Read(reading, bytes))
                if *reading == Some(*get) =>
            {
                let begin = usize::try_from(*offset).expect("a segment is short");
                bytes.resize(bytes.len().max(begin + content.len()), 0);
                bytes[begin..begin + content.len()].copy_from_slice(content);
            }
            (Transferred::Fetched { get, result }, Step::Read(reading, bytes))
                if *reading == Some(*get) =>
            {
                let bytes = std::mem::take(bytes);
                if result.is_err() {
                    return self.fail();
                }
                self.gather(&bytes);
                self.read_count += 1;
                self.step = match self.listed.get(self.read_count) {
                    Some(_) => Step::Read(None, Vec::new()),
                    None => self.merged(),
                };
            }
            (Transferred::ReadSource { put, index }, Step::Store(storing, content, plan))
                if *storing == Some(*put) =>
            {
                assert!(plan.manifest.is_none(), "the segments of a run fit in one block");
                logic.transfer_mut().source_read(now, *put, *index, Ok(content), effects);
            }
            (Transferred::Stored { put, result }, Step::Store(storing, _, plan))
                if *storing == Some(*put) =>
            {
                let (file, count) = (plan.file, self.listed.len() as u64);
                match result {
                    Ok(_) => self.step = Step::Tell(None, file, count, 0),
                    Err(_) => self.fail(),
                }
            }
            _ => {}
        }
    }

    /// Keeps what counts of a segment: of several attempts of a task the last one.
    fn gather(&mut self, bytes: &[u8]) {
        let (_, counted) = &self.listed[self.read_count];
        let segment = Segment::open(bytes).expect("what was read was verified");
        for section in segment.sections().iter().filter(|section| section.job == self.job) {
            for &entry in section.entries {
                let AccountingEntry { task_index, attempt, .. } = entry;
                if !counted.iter().any(|tasks| tasks.contains(&task_index)) {
                    continue;
                }
                let outputs = section.outputs().filter(|it| it.task.0 == task_index);
                let outputs = outputs.filter(|it| it.attempt == attempt);
                let found = (entry, outputs.map(|it| owned_output(&it)).collect());
                let rank = |(entry, outputs): &(AccountingEntry, Vec<Output>)| {
                    (!outputs.is_empty(), entry.attempt)
                };
                let known = self.found.get(&task_index);
                if known.is_none_or(|known| rank(known) <= rank(&found)) {
                    self.found.insert(task_index, found);
                }
            }
        }
    }

    /// What was gathered, as one segment.
    fn merged(&mut self) -> Step {
        if self.found.is_empty() {
            return Step::Tell(None, FileId(0), self.listed.len() as u64, 0);
        }
        let (mut entries, mut outputs) = (Vec::new(), Vec::new());
        for (task_index, (entry, of_task)) in std::mem::take(&mut self.found) {
            if !of_task.is_empty() {
                outputs.push(TaskOutputs { task_index, attempt: entry.attempt, outputs: of_task });
            }
            entries.push(entry);
        }
        let section = NewSection { job: self.job, entries: &entries, outputs: &outputs };
        let content = segment::encode(&[section]);
        let plan = FilePlanner::plan(&content).expect("the segments of a run are short");
        Step::Store(None, content, plan)
    }

    /// Asks for what it waits for next.
    fn go_on(&mut self, now: Instant, logic: &mut Client, effects: &mut Vec<NetworkEffect>) {
        if self.is_waiting() {
            return;
        }
        let (job, fold) = (self.job, self.number);
        let is_asked = match &mut self.step {
            Step::List(asked) => {
                let question = Question::Segments { job, after: self.after, fold };
                *asked = logic.call(now, question, PATIENCE, effects).ok();
                asked.is_some()
            }
            Step::Tell(asked, segment, segment_count, _) => {
                let (segment, segment_count) = (*segment, *segment_count);
                let (worker, incarnation) = self.worker;
                let question =
                    Question::Fold { job, fold, segment, segment_count, worker, incarnation };
                *asked = logic.call(now, question, PATIENCE, effects).ok();
                asked.is_some()
            }
            Step::Read(reading, _) => {
                let (file, _) = self.listed[self.read_count];
                let transfer = logic.transfer_mut();
                *reading = transfer.get_file(now, file, 0..u64::MAX, None, effects).ok();
                reading.is_some()
            }
            Step::Store(storing, _, plan) => {
                let blocks = plan.blocks.clone();
                *storing = logic.transfer_mut().put(now, blocks, PutTerms::default(), effects).ok();
                storing.is_some()
            }
            Step::Ended(_) => true,
        };
        if !is_asked {
            self.step = Step::Ended(1);
        }
    }

    /// How it ended, where it did.
    fn end(&self, now: Instant) -> Option<TaskEnd> {
        let (state, exit_code, cause) = match self.step {
            _ if self.is_cancelled => (TaskState::Lost, 0, Cause::Cancelled),
            Step::Ended(0) => (TaskState::Done, 0, Cause::None),
            Step::Ended(exit_code) => (TaskState::Failed, exit_code, Cause::None),
            _ => return None,
        };
        Some(TaskEnd {
            slot: self.slot,
            task: self.task.task,
            state,
            exit_code,
            cause,
            start_unix_us: self.began.0,
            wall: now.since(self.began),
            cpu: Duration::ZERO,
            peak_memory_bytes: 0,
            outputs: Vec::new(),
        })
    }
}
