//! What a balancer knows of the tasks that its group was granted. Each is in one of three places:
//! it waits, it is dealt (to whom, under which attempt, how far), or it has its outcome.
//!
//! Soft state: it is rebuilt from the masters' feed and the workers' inventories. It decides
//! nothing; `plan.rs` does.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use proto::ids::{Epoch, JobId, LogIndex, NodeId};
use proto::messages::task::TaskRun;
use proto::status::TaskState;

use super::held::{Dealt, HeldIndex, Stage};
use super::marks::{Doubt, implied};
use super::moved::{Moves, Recent};
use super::plan::{Needs, WINDOW};
use super::ranges::Ranges;
use super::waiting::Waiting;

/// A job as a grant names it.
#[derive(Clone, Copy, Debug)]
pub struct GrantedJob<'a> {
    /// The job.
    pub job: JobId,
    /// Its `job_submit` record.
    pub record: &'a [u8],
    /// Number of its tasks.
    pub task_count: u64,
    /// Higher is dealt first.
    pub priority: i32,
    /// True where none of its tasks is dealt until it is released.
    pub is_held: bool,
    /// What one task uses.
    pub needs: Needs,
    /// Attempts of the range go under this number at least: it was another group's before. 0 where
    /// it was not.
    pub move_number: Epoch,
}

/// A job of which the group was granted tasks.
#[derive(Clone, Debug)]
pub struct JobTasks {
    /// The `job_submit` record.
    pub record: Vec<u8>,
    /// Number of its tasks, those of other groups included.
    pub task_count: u64,
    /// Log index of its first grant: older jobs of equal priority come first.
    pub index: LogIndex,
    /// Higher is dealt first.
    pub priority: i32,
    /// True where none of its tasks is dealt until it is released.
    pub is_held: bool,
    /// What one task uses.
    pub needs: Needs,
    /// Everything that was granted; a grant that arrives again changes nothing.
    pub(super) granted: Ranges,
    /// What waits to be dealt.
    pub(super) waiting: Waiting,
    /// What the grants by themselves say may have been dealt.
    pub(super) implied: Ranges,
    /// What the primary told its auxiliary that may have been dealt: at the primary what the
    /// auxiliary acknowledged, at the auxiliary what it was told.
    pub(super) marked: Ranges,
    /// What was another group's before.
    pub(super) moves: Moves,
    /// What is dealt and not settled, by first task.
    dealt: BTreeMap<u64, Dealt>,
    /// Number of tasks in `dealt` that keep a slot.
    busy_count: u64,
    /// Number of the last deal from it.
    served: u64,
    /// Mean time that a task keeps its slot, in microseconds; unknown until one ended.
    mean_us: Option<f64>,
}

/// Stands for a worker where none is known to have the tasks.
pub(super) const NOBODY: NodeId = NodeId(0);

/// Weight of the newest report in the mean: about the last ten count.
const MEAN_WEIGHT: f64 = 0.2;

/// Where one task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The group was not granted it.
    Unknown,
    /// It waits.
    Waiting,
    /// It is dealt.
    Dealt(Dealt),
    /// It has its outcome.
    Settled,
}

impl JobTasks {
    /// Tasks that wait from now on, and did not: where nothing may be dealt without the auxiliary's
    /// knowledge, only those that it knows of may be dealt at once.
    fn put(&mut self, range: Range<u64>, is_bound: bool) {
        if !is_bound {
            self.waiting.open(range);
            return;
        }
        for piece in self.marked.within(&range) {
            self.waiting.open(piece);
        }
        for piece in self.marked.missing(&range) {
            self.waiting.put_beyond(piece);
        }
    }

    fn new(job: &GrantedJob<'_>, index: LogIndex) -> JobTasks {
        JobTasks {
            record: job.record.to_vec(),
            task_count: job.task_count,
            index,
            priority: job.priority,
            is_held: job.is_held,
            needs: job.needs,
            granted: Ranges::default(),
            waiting: Waiting::default(),
            implied: Ranges::default(),
            marked: Ranges::default(),
            moves: Moves::default(),
            dealt: BTreeMap::new(),
            busy_count: 0,
            served: 0,
            mean_us: None,
        }
    }

    /// Number of tasks that wait.
    #[must_use]
    pub fn pending_count(&self) -> u64 {
        self.waiting.count()
    }

    /// Number of waiting tasks that may be dealt now, but for the lease and for whether the job is
    /// held.
    #[must_use]
    pub fn open_count(&self) -> u64 {
        self.waiting.open_count()
    }

    /// True where a task waits because an earlier primary may have dealt it: the workers have their
    /// time to list it.
    #[must_use]
    pub fn is_doubtful(&self, task: u64) -> bool {
        self.waiting.is_doubtful(task)
    }

    /// Number of tasks that keep a slot, or wait at a worker.
    #[must_use]
    pub fn busy_count(&self) -> u64 {
        self.busy_count
    }

    /// When it was dealt from last; a later deal has a higher number.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.served
    }

    /// Mean time that a task keeps its slot, in microseconds.
    #[must_use]
    pub fn mean_us(&self) -> Option<f64> {
        self.mean_us
    }

    /// True where a task may have been dealt, as far as grants and marks tell.
    #[must_use]
    pub fn may_be_dealt(&self, task: u64) -> bool {
        self.implied.contains(task) || self.marked.contains(task)
    }

    /// Where a task stands.
    #[must_use]
    pub fn place(&self, task: u64) -> Place {
        if let Some((_, dealt)) = self.overlaps(&(task..task.saturating_add(1))).first() {
            return Place::Dealt(*dealt);
        }
        match (self.granted.contains(task), self.waiting.contains(task)) {
            (false, _) => Place::Unknown,
            (true, true) => Place::Waiting,
            (true, false) => Place::Settled,
        }
    }

    fn clip(&self, range: &Range<u64>) -> Range<u64> {
        range.start.min(self.task_count)..range.end.min(self.task_count)
    }

    /// The parts of dealt runs that lie in `range`, in order.
    pub(super) fn overlaps(&self, range: &Range<u64>) -> Vec<(Range<u64>, Dealt)> {
        let before = self.dealt.range(..range.start).next_back().map(|(&first, _)| first);
        self.dealt
            .range(before.unwrap_or(range.start)..range.end.max(range.start))
            .map(|(&first, dealt)| (first.max(range.start)..dealt.end.min(range.end), *dealt))
            .filter(|(piece, _)| piece.start < piece.end)
            .collect()
    }
}

/// A job with the index in which its dealt runs are noted.
pub(super) struct Dealing<'a> {
    id: JobId,
    pub(super) job: &'a mut JobTasks,
    index: &'a mut HeldIndex,
}

impl Dealing<'_> {
    pub(super) fn put(&mut self, first: u64, dealt: Dealt) {
        self.index.add(self.id, first, &dealt);
        if dealt.stage == Stage::Busy {
            self.job.busy_count += dealt.end - first;
        }
        self.job.dealt.insert(first, dealt);
    }

    fn take(&mut self, first: u64) -> Option<Dealt> {
        let dealt = self.job.dealt.remove(&first)?;
        self.index.remove(self.id, first, &dealt);
        if dealt.stage == Stage::Busy {
            self.job.busy_count -= dealt.end - first;
        }
        Some(dealt)
    }

    /// Takes out exactly `piece`, which lies in one dealt run; what the run has beside it stays.
    fn take_piece(&mut self, piece: &Range<u64>) -> Option<Dealt> {
        let (&first, _) = self.job.dealt.range(..=piece.start).next_back()?;
        let whole = self.take(first)?;
        if first < piece.start {
            self.put(first, Dealt { end: piece.start, ..whole });
        }
        if piece.end < whole.end {
            self.put(piece.end, whole);
        }
        Some(Dealt { end: piece.end, ..whole })
    }

    /// Puts a run in, joined with one before it that is in the same place.
    fn put_joined(&mut self, first: u64, dealt: Dealt) {
        let before = self.job.dealt.range(..first).next_back();
        let joined = before
            .filter(|(_, before)| before.end == first && before.is_like(&dealt))
            .map(|(&before, _)| before);
        match joined.and_then(|before| Some((before, self.take(before)?))) {
            Some((before, run)) => self.put(before, Dealt { end: dealt.end, ..run }),
            None => self.put(first, dealt),
        }
    }

    fn set_stage(&mut self, piece: &Range<u64>, stage: Stage) {
        if let Some(dealt) = self.take_piece(piece) {
            self.put_joined(piece.start, Dealt { stage, ..dealt });
        }
    }
}

/// All jobs of the group.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    pub(super) jobs: BTreeMap<JobId, JobTasks>,
    /// Jobs with tasks that may be dealt: highest priority first, then the oldest.
    waiting: BTreeSet<(std::cmp::Reverse<i32>, LogIndex, JobId)>,
    index: HeldIndex,
    /// Deals so far.
    deal_count: u64,
    /// A task that was dealt waits again, since this was last asked.
    is_requeued: bool,
    /// Nothing is dealt that the auxiliary does not know of.
    pub(super) is_bound: bool,
    /// What was granted up to an index may have been dealt by an earlier primary.
    pub(super) doubt: Option<Doubt>,
    /// Jobs whose marks may have to be moved, since that was last looked at.
    pub(super) touched: BTreeSet<JobId>,
    /// Marks of jobs that are not known here (yet).
    pub(super) early: BTreeMap<JobId, Ranges>,
    /// What was moved here lately.
    pub(super) recent: Recent,
}

/// How a granted range came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granted {
    /// As it was granted.
    Whole,
    /// What is unfinished of it.
    Piece,
}

impl Tasks {
    /// The jobs with their UUIDs.
    pub fn jobs(&self) -> impl Iterator<Item = (JobId, &JobTasks)> {
        self.jobs.iter().map(|(&id, job)| (id, job))
    }

    /// One job.
    #[must_use]
    pub fn job(&self, id: JobId) -> Option<&JobTasks> {
        self.jobs.get(&id)
    }

    /// Jobs with tasks that may be dealt, highest priority first, then the oldest.
    pub fn waiting(&self) -> impl Iterator<Item = (JobId, &JobTasks)> {
        self.waiting.iter().filter_map(|(_, _, id)| Some((*id, self.jobs.get(id)?)))
    }

    /// True where no job has tasks that may be dealt.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.waiting.is_empty()
    }

    /// True where no task keeps a slot.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.index.is_idle()
    }

    /// True once after a task that was dealt went back to the queue: the next deal needs a higher
    /// attempt. Tasks that were never dealt may share the number of others, so it grows slowly.
    pub fn take_requeued(&mut self) -> bool {
        std::mem::take(&mut self.is_requeued)
    }

    pub(super) fn dealing(&mut self, id: JobId) -> Option<Dealing<'_>> {
        let job = self.jobs.get_mut(&id)?;
        Some(Dealing { id, job, index: &mut self.index })
    }

    /// Adds a granted range; what was granted before is passed over.
    pub fn grant(
        &mut self,
        granted: &GrantedJob<'_>,
        range: &Range<u64>,
        index: LogIndex,
        how: Granted,
    ) {
        let id = granted.job;
        let early = &mut self.early;
        let job = self.jobs.entry(id).or_insert_with(|| {
            let marked = early.remove(&id).unwrap_or_default();
            JobTasks { marked, ..JobTasks::new(granted, index) }
        });
        let range = job.clip(range);
        let is_moved = granted.move_number != Epoch(0);
        let implied = if is_moved { range.clone() } else { implied(&range) };
        let doubt = self.doubt.filter(|doubt| index <= doubt.index);
        if self.is_bound && (is_moved || how == Granted::Whole || job.is_all_implied()) {
            job.marked.insert(implied.clone());
        }
        for piece in job.granted.missing(&range) {
            job.granted.insert(piece.clone());
            job.put(piece.clone(), self.is_bound);
            if is_moved {
                job.waiting.doubt_waiting(&piece);
                job.moves.recent.insert(piece.clone());
                self.recent.add(id, piece);
            }
        }
        job.implied.insert(implied);
        if is_moved {
            job.moves.note(granted.move_number, range.clone());
        }
        if let Some(doubt) = doubt {
            job.doubt(&range, doubt);
        }
        self.touch(id);
        self.note_waiting(id);
    }

    /// The marks of a job may have to be moved.
    fn touch(&mut self, id: JobId) {
        if self.is_bound {
            self.touched.insert(id);
        }
    }

    /// A job has another priority, or is held, or no longer.
    pub fn change(&mut self, id: JobId, priority: i32, is_held: bool) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        self.waiting.remove(&(std::cmp::Reverse(job.priority), job.index, id));
        (job.priority, job.is_held) = (priority, is_held);
        self.note_waiting(id);
    }

    /// Forgets a job that is in a final state. Returns what workers still execute of it.
    pub fn end_job(&mut self, id: JobId) -> Vec<(NodeId, TaskRun)> {
        self.early.remove(&id);
        self.touched.remove(&id);
        let Some(job) = self.jobs.remove(&id) else {
            return Vec::new();
        };
        self.waiting.remove(&(std::cmp::Reverse(job.priority), job.index, id));
        let mut busy = Vec::new();
        for (&first, dealt) in &job.dealt {
            self.index.remove(id, first, dealt);
            if dealt.stage == Stage::Busy {
                busy.push((dealt.worker, run_of(id, &(first..dealt.end), dealt.attempt)));
            }
        }
        busy
    }

    /// Takes up to `limit` waiting tasks of a job for a deal. `dealt` is asked with the tasks and
    /// the number under which they were moved here, 0 where they were not.
    pub fn deal(
        &mut self,
        id: JobId,
        limit: u64,
        dealt: impl FnOnce(&Range<u64>, Epoch) -> Dealt,
    ) -> Option<(Range<u64>, Dealt)> {
        self.deal_count += 1;
        let served = self.deal_count;
        let mut dealing = self.dealing(id)?;
        let taken = dealing.job.waiting.take_first(limit)?;
        let (range, number) = dealing.job.moves.first_of(taken.clone());
        if range.end < taken.end {
            dealing.job.waiting.open(range.end..taken.end);
        }
        dealing.job.served = served;
        let entry = dealt(&range, number);
        dealing.put(range.start, entry);
        self.touch(id);
        self.note_waiting(id);
        Some((range, entry))
    }

    /// Notes that a worker lists tasks: that it still has what it was dealt, or that it has what
    /// this balancer did not deal (it was restarted, or follows). Returns the pieces that are
    /// finished or dealt elsewhere, which the worker need not execute.
    pub fn adopt(&mut self, id: JobId, range: &Range<u64>, held: Dealt) -> Vec<Range<u64>> {
        let Some(mut dealing) = self.dealing(id) else {
            return vec![range.clone()];
        };
        let range = dealing.job.clip(range);
        let mut superseded = Vec::new();
        let mut unknown = Ranges::default();
        unknown.insert(range.clone());
        for (piece, known) in dealing.job.overlaps(&range) {
            unknown.remove(piece.clone());
            if (known.worker, known.attempt) == (held.worker, held.attempt) {
                if known.stage != held.stage {
                    dealing.set_stage(&piece, held.stage);
                }
            } else if known.attempt >= held.attempt {
                // One whose own worker lost it is in nobody's hands: whoever has it keeps it.
                if !matches!(known.stage, Stage::Asked(_)) {
                    superseded.push(piece);
                }
            } else {
                dealing.take_piece(&piece);
                dealing.put_joined(piece.start, Dealt { end: piece.end, ..held });
            }
        }
        for piece in unknown.iter() {
            let waiting = dealing.job.waiting.within(&piece);
            let foreign = dealing.job.granted.missing(&piece);
            for taken in waiting.iter().chain(&foreign) {
                dealing.job.waiting.remove(taken);
                dealing.job.granted.insert(taken.clone());
                dealing.put_joined(taken.start, Dealt { end: taken.end, ..held });
            }
            let mut settled = Ranges::default();
            settled.insert(piece);
            waiting.into_iter().chain(foreign).for_each(|taken| settled.remove(taken));
            superseded.extend(settled.iter());
        }
        self.touch(id);
        self.note_waiting(id);
        superseded
    }

    /// The parts of a range that were granted here, and those that were not.
    #[must_use]
    pub fn granted_of(&self, id: JobId, range: &Range<u64>) -> [Vec<Range<u64>>; 2] {
        match self.jobs.get(&id) {
            Some(job) => [job.granted.within(range), job.granted.missing(range)],
            None => [Vec::new(), vec![range.clone()]],
        }
    }

    /// The tasks' slots are free. Returns how many of them this balancer took for busy.
    pub fn free(&mut self, id: JobId, range: &Range<u64>, attempt: u64) -> u64 {
        let Some(mut dealing) = self.dealing(id) else { return 0 };
        let mut freed = 0;
        for (piece, dealt) in dealing.job.overlaps(range) {
            if dealt.attempt == attempt && dealt.stage != Stage::Free {
                freed += piece.end - piece.start;
                dealing.set_stage(&piece, Stage::Free);
            }
        }
        freed
    }

    /// Takes a measured mean into a job's. Returns true where it is the first.
    pub fn measure(&mut self, id: JobId, mean_us: f64) -> bool {
        let Some(job) = self.jobs.get_mut(&id) else { return false };
        let old = job.mean_us.replace(mean_us);
        if let Some(old) = old {
            job.mean_us = Some(old + MEAN_WEIGHT * (mean_us - old));
        }
        old.is_none()
    }

    /// The outcome of tasks is recorded.
    pub fn settle_final(&mut self, id: JobId, range: &Range<u64>) {
        let Some(mut dealing) = self.dealing(id) else { return };
        let range = dealing.job.clip(range);
        for (piece, _) in dealing.job.overlaps(&range) {
            dealing.take_piece(&piece);
        }
        dealing.job.waiting.remove(&range);
        // Of what was not granted yet it is known as well.
        dealing.job.granted.insert(range);
        self.touch(id);
        self.note_waiting(id);
    }

    /// Tasks of this attempt go back to the queue, unless they are dealt under a later one or have
    /// their outcome. Returns true where one went back.
    pub fn again(&mut self, id: JobId, range: &Range<u64>, attempt: u64) -> bool {
        self.requeue(id, range, |dealt| dealt.attempt <= attempt)
    }

    /// Tasks whose fate was asked for under this attempt have no outcome: they go back to the
    /// queue, but for those that a worker turned out to hold meanwhile.
    pub fn unfinished(&mut self, id: JobId, range: &Range<u64>, attempt: u64) -> bool {
        let is_asked = |dealt: &Dealt| matches!(dealt.stage, Stage::Asked(_));
        self.requeue(id, range, |dealt| is_asked(dealt) && dealt.attempt == attempt)
    }

    pub(super) fn requeue(
        &mut self,
        id: JobId,
        range: &Range<u64>,
        is_meant: impl Fn(&Dealt) -> bool,
    ) -> bool {
        let is_bound = self.is_bound;
        let Some(mut dealing) = self.dealing(id) else { return false };
        let mut is_any = false;
        for (piece, dealt) in dealing.job.overlaps(range) {
            if is_meant(&dealt) {
                dealing.take_piece(&piece);
                dealing.job.put(piece, is_bound);
                is_any = true;
            }
        }
        self.is_requeued |= is_any;
        self.touch(id);
        self.note_waiting(id);
        is_any
    }

    /// A worker does not have these tasks of this attempt: the masters are asked for their fate.
    pub fn question(
        &mut self,
        worker: NodeId,
        id: JobId,
        range: &Range<u64>,
        attempt: u64,
        state: TaskState,
    ) {
        let Some(mut dealing) = self.dealing(id) else { return };
        for (piece, dealt) in dealing.job.overlaps(range) {
            let is_it = dealt.worker == worker && dealt.attempt == attempt;
            if is_it && !matches!(dealt.stage, Stage::Asked(_)) {
                dealing.set_stage(&piece, Stage::Asked(state));
            }
        }
    }

    /// Nobody listed what an earlier primary may have dealt: the masters are asked what became of
    /// it before it is dealt again. What was moved here lately has its own time.
    pub fn end_doubt(&mut self) {
        self.doubt = None;
        let ids: Vec<JobId> = self.jobs.keys().copied().collect();
        for id in ids {
            let Some(mut dealing) = self.dealing(id) else { continue };
            let recent = &dealing.job.moves.recent;
            for piece in dealing.job.waiting.take_doubtful_but(recent) {
                let stage = Stage::Asked(TaskState::Returned);
                let asked = Dealt { end: piece.end, attempt: 0, worker: NOBODY, deal: 0, stage };
                dealing.put(piece.start, asked);
            }
        }
    }

    /// Up to `limit` runs of one worker whose fate is to be asked.
    #[must_use]
    pub fn questions(&self, limit: usize) -> Option<(NodeId, Vec<TaskRun>)> {
        let (worker, _, _) = self.index.asked().next()?;
        let of_worker = self.index.asked().take_while(|(other, _, _)| *other == worker);
        let runs = of_worker.take(limit).filter_map(|(_, id, first)| {
            let dealt = self.jobs.get(&id)?.dealt.get(&first)?;
            let Stage::Asked(state) = dealt.stage else { return None };
            let run = run_of(id, &(first..dealt.end), dealt.attempt);
            Some(TaskRun { state: state.to_wire(), ..run })
        });
        Some((worker, runs.collect()))
    }

    /// True where the fate of tasks is to be asked.
    #[must_use]
    pub fn has_questions(&self) -> bool {
        self.index.asked().next().is_some()
    }

    /// What a worker holds, as far as this balancer knows, in the order of jobs and tasks.
    #[must_use]
    pub fn held_by(&self, worker: NodeId) -> Vec<(JobId, Range<u64>, Dealt)> {
        let run = |(id, first): (JobId, u64)| {
            let dealt = self.jobs.get(&id)?.dealt.get(&first)?;
            Some((id, first..dealt.end, *dealt))
        };
        self.index.runs_of(worker).filter_map(run).collect()
    }

    /// A worker's connection is new: deals of the one before are in its next inventory or lost.
    pub fn forget_deals(&mut self, worker: NodeId) {
        let runs: Vec<(JobId, u64)> = self.index.runs_of(worker).collect();
        for (id, first) in runs {
            if let Some(dealt) = self.jobs.get_mut(&id).and_then(|job| job.dealt.get_mut(&first)) {
                dealt.deal = 0;
            }
        }
    }

    /// What keeps a worker busy: number of tasks, what they use, and the microseconds that they
    /// will take one after the other.
    #[must_use]
    pub fn load_of(&self, worker: NodeId) -> (u64, Needs, f64) {
        let mut load = (0u64, Needs::default(), 0.0);
        for (id, count) in self.index.busy_of(worker) {
            let Some(job) = self.jobs.get(&id) else { continue };
            load.0 += count;
            load.1 = load.1.plus(&job.needs.times(count));
            // One task of unknown length may fill a slot for the whole window.
            let mean_us = job.mean_us.unwrap_or(WINDOW.as_micros() as f64);
            load.2 += count as f64 * mean_us.max(1.0);
        }
        load
    }

    /// Forgets everything, for a complete feed that follows.
    pub fn clear(&mut self) {
        let mut early = std::mem::take(&mut self.early);
        for (&id, job) in &mut self.jobs {
            early.insert(id, std::mem::take(&mut job.marked));
        }
        // What was dealt will wait again, until the workers list it.
        *self = Tasks {
            is_requeued: true,
            is_bound: self.is_bound,
            doubt: self.doubt,
            early,
            ..Tasks::default()
        };
    }

    pub(super) fn note_waiting(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id) else {
            return;
        };
        let key = (std::cmp::Reverse(job.priority), job.index, id);
        if job.waiting.open_count() == 0 || job.is_held {
            self.waiting.remove(&key);
        } else {
            self.waiting.insert(key);
        }
    }

    /// Walks everything and panics on a broken invariant.
    pub fn check_invariants(&self) {
        let mut index = HeldIndex::default();
        for (&id, job) in &self.jobs {
            let mut end_before = 0;
            let mut busy = 0;
            for (&first, dealt) in &job.dealt {
                assert!(first >= end_before && first < dealt.end, "a task is dealt twice");
                end_before = dealt.end;
                index.add(id, first, dealt);
                if dealt.stage == Stage::Busy {
                    busy += dealt.end - first;
                }
                let range = first..dealt.end;
                assert!(job.waiting.within(&range).is_empty(), "dealt and waiting");
                assert!(job.granted.missing(&range).is_empty(), "dealt and not granted");
            }
            for range in job.waiting.within(&(0..u64::MAX)) {
                assert!(job.granted.missing(&range).is_empty(), "waits and was not granted");
            }
            job.waiting.check_invariants();
            assert!(self.is_bound || !job.waiting.has_beyond(), "waits for no auxiliary");
            assert_eq!(busy, job.busy_count, "the count of busy tasks");
            let key = (std::cmp::Reverse(job.priority), job.index, id);
            let may_be_dealt = job.waiting.open_count() > 0 && !job.is_held;
            assert_eq!(self.waiting.contains(&key), may_be_dealt, "the waiting list");
        }
        assert_eq!(index, self.index, "the index by worker");
    }
}

/// A run as it travels; its state is for the caller to say.
pub(super) fn run_of(job: JobId, tasks: &Range<u64>, attempt: u64) -> TaskRun {
    TaskRun {
        job_uuid: job.to_wire(),
        first_task: tasks.start,
        task_count: tasks.end - tasks.start,
        attempt,
        state: 0,
    }
}
