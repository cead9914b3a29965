//! How far tasks may have been dealt: what a primary tells its auxiliary before it deals, and what
//! an auxiliary holds back when it becomes primary.
//!
//! Each granted range is dealt in ascending order, so one bound for each range says it all: the
//! *mark*. A grant by itself implies a mark of [`MARK_TASKS`], with no message. Marks only ever say
//! more than was dealt; what they say too much costs a delay at a take-over, nothing else.
//!
//! Who sends marks and waits for them stands in `auxiliary.rs`, who takes them in `followed.rs`.

use std::ops::Range;

use proto::ids::{JobId, LogIndex};

use super::plan::{WINDOW, WINDOW_TASKS};
use super::ranges::Ranges;
use super::tasks::{JobTasks, NOBODY, Tasks};

/// What a grant implies may have been dealt of it: small, because all of that waits for the
/// workers' lists at a take-over; large enough for most machines' first tasks, one for each slot,
/// while the first mark is on its way. Eyeballed.
pub const MARK_TASKS: u64 = 64;

/// Until the workers had their time to list what they hold, nothing is dealt of this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// What was granted later has no earlier primary.
    pub index: LogIndex,
    /// True where all that was granted up to there may have been dealt, because no marks are known.
    pub is_all: bool,
}

/// A mark as it travels: of `job`, the tasks from `first` on and before `below` may have been dealt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The job.
    pub job: JobId,
    /// First task of the granted range.
    pub first: u64,
    /// Index behind the last one that may have been dealt.
    pub below: u64,
}

/// The tasks that the grant of a range implies.
pub(super) fn implied(range: &Range<u64>) -> Range<u64> {
    range.start..range.end.min(range.start.saturating_add(MARK_TASKS))
}

impl JobTasks {
    /// True where any piece of it implies all of itself: it needs no marks.
    pub(super) fn is_all_implied(&self) -> bool {
        self.task_count <= MARK_TASKS
    }

    /// What waits of `range` waits for the workers' lists, as far as it may have been dealt.
    pub(super) fn doubt(&mut self, range: &Range<u64>, doubt: Doubt) {
        if doubt.is_all {
            self.waiting.doubt_waiting(range);
            return;
        }
        for known in [&self.implied, &self.marked] {
            for piece in known.within(range) {
                self.waiting.doubt_waiting(&piece);
            }
        }
    }

    /// How many tasks the group takes within one window: marks are kept that far ahead.
    fn window_tasks(&self, slot_count: u32) -> u64 {
        let slots = u64::from(slot_count);
        let by_time = match self.mean_us() {
            // Less than a microsecond counts as one, as in a plan.
            Some(mean_us) => {
                (WINDOW.as_micros() as f64 * f64::from(slot_count) / mean_us.max(1.0)) as u64
            }
            None => slots,
        };
        by_time.min(WINDOW_TASKS.saturating_mul(slots)).max(MARK_TASKS)
    }

    /// How far each granted range may have been dealt when the auxiliary knows nothing yet, with
    /// two windows to go on; the rest waits for the auxiliary from now on.
    fn bind(&mut self, id: JobId, slot_count: u32, bounds: &mut Vec<Bound>) {
        self.marked = Ranges::default();
        let ahead = 2 * self.window_tasks(slot_count);
        for range in self.granted.iter().collect::<Vec<_>>() {
            let open = self.waiting.open_within(&range);
            let untouched = open.last().filter(|last| last.end == range.end);
            let before: u64 = open.iter().map(|piece| piece.end - piece.start).sum();
            let below = untouched.map_or(range.end, |last| {
                let before = before - (last.end - last.start);
                last.end.min(last.start + ahead.saturating_sub(before))
            });
            self.marked.insert(range.start..below);
            self.waiting.bar(&(below..range.end));
            if !self.is_all_implied() {
                bounds.push(Bound { job: id, first: range.start, below });
            }
        }
    }

    /// The next mark, where less than a window may be dealt.
    fn next_bound(&self, id: JobId, slot_count: u32) -> Option<Bound> {
        let window = self.window_tasks(slot_count);
        if self.waiting.open_count() >= window {
            return None;
        }
        let barred = self.waiting.first_beyond()?;
        let range = self.granted.containing(barred.start)?;
        let wanted = 2 * window - self.waiting.open_count();
        let below = barred.end.min(barred.start + wanted);
        Some(Bound { job: id, first: range.start, below })
    }
}

impl Tasks {
    /// A new primary begins: what may have been dealt under earlier epochs waits until
    /// [`Tasks::end_doubt`].
    pub fn begin_doubt(&mut self, doubt: Doubt) {
        self.doubt = Some(doubt);
        let ids: Vec<JobId> = self.jobs.keys().copied().collect();
        for id in ids {
            let Some(job) = self.jobs.get_mut(&id).filter(|job| job.index <= doubt.index) else {
                continue;
            };
            job.doubt(&(0..job.task_count), doubt);
            self.note_waiting(id);
        }
    }

    /// This balancer is no primary: whoever becomes one doubts anew. Ranges that were moved here
    /// have their own time.
    pub fn drop_doubt(&mut self) {
        for (id, range, _) in self.held_by(NOBODY) {
            self.requeue(id, &range, |dealt| dealt.worker == NOBODY);
        }
        if self.doubt.take().is_none() {
            return;
        }
        let ids: Vec<JobId> = self.jobs.keys().copied().collect();
        for id in ids {
            if let Some(job) = self.jobs.get_mut(&id) {
                let trusted = job.waiting.take_doubtful_but(&job.moves.recent);
                trusted.into_iter().for_each(|piece| job.waiting.open(piece));
            }
            self.note_waiting(id);
        }
    }

    /// From now on nothing is dealt that the auxiliary does not know of. Returns what it must be
    /// told first of all.
    pub fn bind(&mut self, slot_count: u32) -> Vec<Bound> {
        self.unbind();
        self.is_bound = true;
        let mut bounds = Vec::new();
        let ids: Vec<JobId> = self.jobs.keys().copied().collect();
        for id in ids {
            if let Some(job) = self.jobs.get_mut(&id) {
                job.bind(id, slot_count, &mut bounds);
            }
            self.note_waiting(id);
        }
        self.touched.clear();
        bounds
    }

    /// The auxiliary need not know what is dealt.
    pub fn unbind(&mut self) {
        if !std::mem::take(&mut self.is_bound) {
            return;
        }
        self.touched.clear();
        let ids: Vec<JobId> = self.jobs.keys().copied().collect();
        for id in ids {
            if let Some(job) = self.jobs.get_mut(&id) {
                job.waiting.admit(&(0..job.task_count));
            }
            self.note_waiting(id);
        }
    }

    /// Up to `limit` marks that are to be moved, one for each job.
    pub fn next_bounds(&mut self, slot_count: u32, limit: usize) -> Vec<Bound> {
        let mut bounds = Vec::new();
        if !self.is_bound {
            self.touched.clear();
        }
        while bounds.len() < limit
            && let Some(id) = self.touched.pop_first()
        {
            let job = self.jobs.get(&id);
            bounds.extend(job.and_then(|job| job.next_bound(id, slot_count)));
        }
        bounds
    }

    /// Panics where a job waits for the auxiliary, has too little that may be dealt, and neither is
    /// looked at next nor has a mark under way: it would never be dealt.
    pub(super) fn check_marks(&self, is_under_way: impl Fn(JobId) -> bool) {
        for (&id, job) in &self.jobs {
            let is_short = job.waiting.has_beyond() && job.open_count() < MARK_TASKS;
            let is_looked_at = self.touched.contains(&id) || is_under_way(id);
            assert!(!is_short || is_looked_at, "{id:?} waits for a mark that nobody sends");
        }
    }

    /// The auxiliary knows these marks. Returns true where more tasks may be dealt.
    pub fn admit(&mut self, bounds: &[Bound]) -> bool {
        let mut is_any = false;
        for bound in bounds {
            let Some(job) = self.jobs.get_mut(&bound.job) else { continue };
            let before = job.waiting.open_count();
            job.marked.insert(bound.first..bound.below);
            job.waiting.admit(&(bound.first..bound.below));
            is_any |= job.waiting.open_count() > before;
            self.touched.insert(bound.job);
            self.note_waiting(bound.job);
        }
        is_any
    }

    /// A primary knows every job that it or an earlier one may have dealt: marks of others are of
    /// jobs that ended.
    pub fn forget_early(&mut self) {
        self.early.clear();
    }

    /// Takes what the primary tells; `is_complete` where earlier marks are void. Marks of a job
    /// that is not known yet are kept for it, unless `knows_all` says that it ended.
    pub fn follow(&mut self, bounds: &[Bound], is_complete: bool, knows_all: bool) {
        if is_complete {
            self.early.clear();
            self.jobs.values_mut().for_each(|job| job.marked = Ranges::default());
        }
        for bound in bounds {
            let marked = match self.jobs.get_mut(&bound.job) {
                Some(job) => &mut job.marked,
                None if knows_all => continue,
                None => self.early.entry(bound.job).or_default(),
            };
            marked.insert(bound.first..bound.below);
        }
    }
}
