//! What balancers say: deals, recalls, orders; and what is given back to them.

use node::logic::network::{Link, NetworkEffect, Peer};
use node::logic::refusal::Refusal;
use proto::ids::{Epoch, FileId, JobId};
use proto::limits;
use proto::messages::task::{TaskReturned, TaskRun, WorkerRequest};
use proto::record::{Message, Record, RecordError, encode};
use proto::status::{Cause, ErrorCode, Order, TaskState};
use proto::time::Instant;
use proto::wire::bytes_of;

use super::held::{WaitingRun, task_run, tasks_of};
use super::job::JobSpec;
use super::results::Outcome;
use super::{Effect, STOP_PATIENCE, Worker};

/// Exit code of a task whose program could not be started, as shells have it.
pub const EXIT_NOT_STARTED: i32 = 127;

impl Worker {
    /// A deal is taken, given back, or refused with a reason and given back.
    pub(super) fn on_deal(
        &mut self,
        now: Instant,
        link: Link,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
        network: &mut Vec<NetworkEffect>,
    ) -> Result<(), RecordError> {
        let (request, parts) = record.open::<WorkerRequest, 3>()?;
        let job: JobId = request.job_uuid.into();
        let end = request.first_task.checked_add(request.task_count);
        let end = end.filter(|&end| request.task_count > 0 && end <= request.job_task_count);
        let Some(end) = end.filter(|&end| end <= limits::TASKS_PER_JOB) else {
            let text = "the tasks that are dealt are not tasks of the job";
            refuse(link, record, ErrorCode::Invalid, text.into(), network);
            return Ok(());
        };
        let tasks = request.first_task..end;
        let run = task_run(job, &tasks, request.attempt, 0);
        // Epochs are compared under one assignment only; who knows neither is told about epochs.
        let is_meant = request.worker_incarnation == self.setting.incarnation.0
            && request.assignment == self.membership.assignment
            && request.group == self.membership.group;
        if (is_meant || request.epoch == 0) && Epoch(request.epoch) < self.membership.epoch {
            let (found, epoch) = ({ request.epoch }, self.membership.epoch);
            let text = format!("epoch {found} is over: this worker has seen epoch {epoch}");
            refuse(link, record, ErrorCode::OldEpoch, text, network);
            self.send_returned(link, &[run], network);
            return Ok(());
        }
        if !is_meant {
            if request.assignment > self.membership.assignment {
                // The masters moved this worker and their answer is on its way, or was lost.
                self.register_due = now;
            }
            self.send_returned(link, &[run], network);
            return Ok(());
        }
        self.membership.epoch = Epoch(request.epoch);
        if self.is_refusing() || self.held.holds(job, &tasks, request.attempt) {
            self.send_returned(link, &[run], network);
            return Ok(());
        }
        match JobSpec::of(&request, parts) {
            Ok(spec) if self.fits(&spec) => {
                let (attempt, assignment) = (request.attempt, request.assignment);
                self.held.wait(WaitingRun { spec, tasks, attempt, assignment });
            }
            Ok(_) => self.send_returned(link, &[run], network),
            Err(error) => {
                // Dealing it again would not help: every task of it fails here and now.
                effects.push(Effect::Warn(format!("job {job} cannot be executed here: {error}")));
                let state = TaskState::Failed;
                let (attempt, assignment) = (request.attempt, request.assignment);
                self.held.add_ended(job, tasks.clone(), attempt, assignment);
                let freed = TaskRun { state: state.to_wire(), ..run };
                self.freed.entry(job).or_default().1.push(freed);
                self.results.add(Outcome {
                    job,
                    tasks,
                    attempt: request.attempt,
                    state,
                    exit_code: EXIT_NOT_STARTED,
                    cause: Cause::NotStarted,
                    segment: FileId(0),
                    entries: Vec::new(),
                });
            }
        }
        Ok(())
    }

    /// True where one task of the job fits the whole machine.
    fn fits(&self, spec: &JobSpec) -> bool {
        u64::from(spec.description.cpu_milli) <= self.setting.cpu_milli
            && spec.description.memory_bytes <= self.setting.memory_bytes
    }

    fn send_returned(&self, link: Link, runs: &[TaskRun], network: &mut Vec<NetworkEffect>) {
        if !runs.is_empty() {
            let record = self.returned(runs);
            network.push(NetworkEffect::Send { to: Peer::Link(link), record });
        }
    }

    /// Tells all balancers that these tasks were not begun and will not be.
    pub(super) fn return_to_all(&self, runs: &[TaskRun], network: &mut Vec<NetworkEffect>) {
        if !runs.is_empty() {
            self.balancers.send_all(&self.returned(runs), network);
        }
    }

    fn returned(&self, runs: &[TaskRun]) -> Vec<u8> {
        let worker_incarnation = self.setting.incarnation.0;
        encode(&TaskReturned { worker_incarnation, ..TaskReturned::default() }, &[bytes_of(runs)])
    }

    /// Gives back everything that waits.
    pub(super) fn return_waiting(&mut self, network: &mut Vec<NetworkEffect>) {
        let waiting = self.held.recall_all();
        let run = |run: &WaitingRun| task_run(run.spec.job, &run.tasks, run.attempt, 0);
        let returned: Vec<TaskRun> = waiting.iter().map(run).collect();
        self.return_to_all(&returned, network);
    }

    /// Gives back what waits of these runs.
    pub(super) fn give_back(
        &mut self,
        link: Link,
        runs: &[TaskRun],
        network: &mut Vec<NetworkEffect>,
    ) {
        let mut returned = Vec::new();
        for run in runs {
            let job = run.job_uuid.into();
            let pieces = self.held.recall(job, &tasks_of(run), run.attempt);
            returned.extend(pieces.iter().map(|piece| task_run(job, piece, run.attempt, 0)));
        }
        self.send_returned(link, &returned, network);
    }

    /// Carries out the orders of a heartbeat's answer. What ended and waits for the masters stays:
    /// its outcome may be the first.
    pub(super) fn obey(&mut self, orders: &[TaskRun], effects: &mut Vec<Effect>) {
        for run in orders.iter().filter(|run| Order::from_wire(run.state) == Some(Order::Kill)) {
            let (job, tasks) = (run.job_uuid.into(), tasks_of(run));
            self.held.recall(job, &tasks, run.attempt);
            let slots = self.held.kill(job, &tasks, run.attempt);
            effects.extend(slots.into_iter().map(|slot| Effect::Cancel { slot }));
        }
    }

    /// The operator stops the worker.
    pub(super) fn stop(
        &mut self,
        now: Instant,
        effects: &mut Vec<Effect>,
        network: &mut Vec<NetworkEffect>,
    ) {
        if self.stop_at.is_some() {
            return;
        }
        self.stop_at = Some(now + STOP_PATIENCE);
        self.accounting.hurry();
        self.packing.hurry();
        self.return_waiting(network);
        effects.extend(self.held.slots().map(|(slot, _)| Effect::Cancel { slot }));
    }
}

fn refuse(
    link: Link,
    record: &Record<'_>,
    code: ErrorCode,
    text: String,
    network: &mut Vec<NetworkEffect>,
) {
    let refusal = Refusal::new(code, WorkerRequest::TYPE, text).to_record(record.request_id());
    network.push(NetworkEffect::Send { to: Peer::Link(link), record: refusal });
}
