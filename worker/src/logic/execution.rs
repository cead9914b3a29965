//! Which slot executes what, and what follows from how it ended.

use std::ops::Range;

use node::logic::network::NetworkEffect;
use proto::description::Runtime;
use proto::ids::FileId;
use proto::messages::task::TaskFree;
use proto::record::encode;
use proto::segment::{AccountingEntry, Output};
use proto::status::{Cause, TaskState};
use proto::time::{Duration, Instant};
use proto::wire::bytes_of;

use super::held::{Started, WaitingRun, task_run};
use super::packing::Written;
use super::results::Outcome;
use super::{CrashedTask, Effect, MEANS, Means, TaskEnd, Worker};

/// Short tasks are handed to a slot in pieces that take about this long, so that the hand-over
/// costs little and a recall still finds what has not begun.
pub const PIECE: Duration = Duration::from_millis(5);

/// How long a task of a piece takes until what stands behind it is taken out of its slot: a few times
/// what the whole piece was to take, which means a task that is not like those before it.
pub const STALL: Duration = Duration::from_millis(20);

/// How long ends are gathered before the balancers hear of them, while there is enough to do: less
/// than half of what is dealt ahead, at which they deal more.
const GATHERING: Duration = Duration::from_millis(20);

/// Most tasks of a piece.
const PIECE_TASKS: u64 = 1_024;

/// Bytes of outputs that the tasks of a piece may be expected to make: no slot fills the worker's
/// memory before it is asked again.
const PIECE_BYTES: f64 = (1 << 20) as f64;

/// Weight of the newest task in a job's means.
const MEAN_WEIGHT: f64 = 0.1;

impl Worker {
    pub(super) fn on_end(&mut self, end: TaskEnd) {
        let Some(started) = self.held.started(end.slot) else { return };
        let (job, attempt, task) = (started.spec.job, started.attempt, started.tasks.start);
        let job_task_count = started.spec.task_count;
        let description = &started.spec.description;
        let needs = (u64::from(description.cpu_milli), description.memory_bytes);
        debug_assert_eq!(task, end.task.0, "a slot's tasks end in order");
        // The masters' own jobs are nobody's to account for.
        let is_fold = matches!(description.runtime, Runtime::Fold { .. });
        let is_shutdown = end.state == TaskState::Lost && self.stop_at.is_some();
        let wall_us = end.wall.as_micros();
        let entry = AccountingEntry {
            task_index: task,
            attempt,
            start_unix_us: end.start_unix_us,
            wall_us,
            cpu_us: end.cpu.as_micros(),
            peak_memory_bytes: end.peak_memory_bytes,
            node_uuid: self.setting.node.to_wire(),
        };
        let output_bytes: usize = end.outputs.iter().map(Output::packed_bytes).sum();
        let outcome = Outcome {
            job,
            tasks: task..task + 1,
            attempt,
            state: end.state,
            exit_code: end.exit_code,
            cause: if is_shutdown { Cause::Shutdown } else { end.cause },
            segment: FileId(0),
            entries: if is_fold { Vec::new() } else { vec![entry] },
        };
        if end.state == TaskState::Lost || end.outputs.is_empty() {
            self.results.add(outcome);
        } else {
            let outputs = end.outputs;
            self.packing.add(Written { outcome, outputs, job_task_count });
        }
        self.ended_count += 1;
        if end.state != TaskState::Lost {
            let newest = Means { wall_us: wall_us as f64, output_bytes: output_bytes as f64 };
            let means = self.means.entry(job).or_insert(newest);
            means.wall_us += MEAN_WEIGHT * (newest.wall_us - means.wall_us);
            means.output_bytes += MEAN_WEIGHT * (newest.output_bytes - means.output_bytes);
        }
        let (busy_us, runs) = self.freed.entry(job).or_default();
        *busy_us += wall_us;
        let state = end.state.to_wire();
        match runs.last_mut() {
            Some(last)
                if last.first_task + last.task_count == task
                    && (last.attempt, last.state) == (attempt, state) =>
            {
                last.task_count += 1;
            }
            _ => runs.push(task_run(job, &(task..task + 1), attempt, state)),
        }
        if self.held.end(end.slot) {
            self.free(end.slot, needs);
        }
    }

    /// The masters count it against the task, once, whether they heard before that the attempt was
    /// lost or not.
    pub(super) fn on_crash(&mut self, CrashedTask { job, task, attempt }: CrashedTask) {
        self.results.add(Outcome {
            job,
            tasks: task.0..task.0.saturating_add(1),
            attempt,
            state: TaskState::Crashed,
            exit_code: 0,
            cause: Cause::CutOff,
            segment: FileId(0),
            entries: Vec::new(),
        });
    }

    fn free(&mut self, slot: u32, (cpu, memory): (u64, u64)) {
        self.free_slots.insert(slot);
        self.cpu_used -= cpu;
        self.memory_used -= memory;
    }

    /// A cancelled slot does not begin what it has left.
    pub(super) fn on_given_up(&mut self, slot: u32, network: &mut Vec<NetworkEffect>) {
        let Some((started, wanted)) = self.held.give_up(slot) else { return };
        let description = &started.spec.description;
        self.free(slot, (u64::from(description.cpu_milli), description.memory_bytes));
        self.wait_again(&started, wanted, network);
    }

    /// A slot goes on with the task that it executes and does not begin what stood behind that.
    pub(super) fn on_taken_back(
        &mut self,
        slot: u32,
        tasks: Range<u64>,
        network: &mut Vec<NetworkEffect>,
    ) {
        let Some((started, wanted)) = self.held.shorten(slot, &tasks) else { return };
        self.wait_again(&started, wanted, network);
    }

    /// What a slot did not begin and nobody ordered to kill waits again, or is given back by a
    /// worker that stops.
    fn wait_again(
        &mut self,
        started: &Started,
        wanted: Vec<Range<u64>>,
        network: &mut Vec<NetworkEffect>,
    ) {
        if self.stop_at.is_some() || self.is_short_of_room {
            let job = started.spec.job;
            let run = |tasks| task_run(job, tasks, started.attempt, 0);
            let returned: Vec<_> = wanted.iter().map(run).collect();
            self.return_to_all(&returned, network);
            return;
        }
        for tasks in wanted.into_iter().rev() {
            let (spec, attempt) = (started.spec.clone(), started.attempt);
            let assignment = started.assignment;
            self.held.wait_first(WaitingRun { spec, tasks, attempt, assignment });
        }
    }

    /// Fills the free slots with what waits, in the order in which it was dealt.
    pub(super) fn start_tasks(&mut self, effects: &mut Vec<Effect>) {
        while !self.is_full()
            && let Some(&slot) = self.free_slots.first()
        {
            let Some(run) = self.held.next() else { break };
            let cpu = u64::from(run.spec.description.cpu_milli);
            let memory = run.spec.description.memory_bytes;
            let fits = self.cpu_used + cpu <= self.setting.cpu_milli
                && self.memory_used + memory <= self.setting.memory_bytes;
            if !fits {
                break;
            }
            let piece = self.means.get(&run.spec.job).map_or(1.0, |means| {
                let by_time = PIECE.as_micros() as f64 / means.wall_us.max(1.0);
                by_time.min(PIECE_BYTES / means.output_bytes.max(1.0))
            });
            // What waits is shared by the free slots before one of them gets much of it.
            let share = self.held.waiting_count().div_ceil(self.free_slots.len() as u64);
            let limit = (piece as u64).clamp(1, PIECE_TASKS).min(share);
            let Some(started) = self.held.start(slot, limit) else { break };
            self.free_slots.remove(&slot);
            self.cpu_used += cpu;
            self.memory_used += memory;
            effects.push(Effect::Start {
                slot,
                spec: started.spec,
                tasks: started.tasks,
                attempt: started.attempt,
            });
        }
    }

    /// Tells balancers what became free, at once unless there is enough to do meanwhile: then a few
    /// ends are told together, which costs everybody less than telling each.
    pub(super) fn tell_or_gather_freed(&mut self, now: Instant, network: &mut Vec<NetworkEffect>) {
        if self.freed.is_empty() {
            return;
        }
        let due = *self.free_due.get_or_insert(now + GATHERING);
        let freed: u64 =
            self.freed.values().flat_map(|(_, runs)| runs).map(|run| run.task_count).sum();
        // As much waits as became free, beyond what is about to begin.
        let wanted = freed + self.free_slots.len() as u64 + u64::from(self.setting.slot_count);
        let is_busy = self.held.waiting_count() >= wanted;
        let may_wait =
            is_busy && now < due && self.stop_at.is_none() && self.membership.assignment != 0;
        if !may_wait {
            self.tell_freed(network);
        }
    }

    /// Tells the balancers which slots became free, at once: they may have more for them.
    pub(super) fn tell_freed(&mut self, network: &mut Vec<NetworkEffect>) {
        for (_, (busy_us, runs)) in std::mem::take(&mut self.freed) {
            let free = TaskFree {
                worker_incarnation: self.setting.incarnation.0,
                busy_us,
                ..TaskFree::default()
            };
            self.balancers.send_all(&encode(&free, &[bytes_of(&runs)]), network);
        }
        self.free_due = None;
        if self.means.len() > MEANS {
            self.means.clear();
        }
    }
}
