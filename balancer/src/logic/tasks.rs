//! What a balancer knows of the tasks that its group was granted: which wait, which are dealt to
//! whom under which attempt.
//!
//! Soft state: it is rebuilt from the masters' feed and the workers' inventories. It decides
//! nothing; `plan.rs` does.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use proto::ids::{JobId, LogIndex, NodeId};

use super::plan::{Needs, WINDOW, WorkerView};
use super::ranges::Ranges;

/// Tasks dealt together and not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dealt {
    /// Index behind the last task; the first is the key.
    pub end: u64,
    /// The attempt.
    pub attempt: u64,
    /// Who has them.
    pub worker: NodeId,
    /// Number of the deal on the worker's connection; 0 for one that was adopted.
    pub deal: u64,
    /// They ended; their outcome is on its way to the masters.
    pub is_free: bool,
}

/// A job as a grant names it.
#[derive(Clone, Copy, Debug)]
pub struct GrantedJob<'a> {
    /// The job.
    pub job: JobId,
    /// Its `job_submit` record.
    pub record: &'a [u8],
    /// Higher is dealt first.
    pub priority: i32,
    /// What one task uses.
    pub needs: Needs,
}

/// A job of which the group was granted tasks.
#[derive(Clone, Debug)]
pub struct JobTasks {
    /// The `job_submit` record.
    pub record: Vec<u8>,
    /// Log index of its first grant: older jobs of equal priority come first.
    pub index: LogIndex,
    /// Higher is dealt first.
    pub priority: i32,
    /// What one task uses.
    pub needs: Needs,
    /// Everything that was granted; a grant that arrives again changes nothing.
    granted: Ranges,
    /// What waits to be dealt.
    pending: Ranges,
    /// What is dealt and not settled, by first task.
    dealt: BTreeMap<u64, Dealt>,
    /// Number of tasks in `dealt` whose slot is not free.
    busy_count: u64,
    /// Mean time that a task keeps its slot, in microseconds; unknown until one ended.
    mean_us: Option<f64>,
}

/// Weight of the newest report in the mean: about the last ten count.
const MEAN_WEIGHT: f64 = 0.2;

impl JobTasks {
    fn new(job: &GrantedJob<'_>, index: LogIndex) -> JobTasks {
        JobTasks {
            record: job.record.to_vec(),
            index,
            priority: job.priority,
            needs: job.needs,
            granted: Ranges::default(),
            pending: Ranges::default(),
            dealt: BTreeMap::new(),
            busy_count: 0,
            mean_us: None,
        }
    }

    /// Number of tasks that wait.
    #[must_use]
    pub fn pending_count(&self) -> u64 {
        self.pending.count()
    }

    /// Number of tasks that keep a slot, or wait at a worker.
    #[must_use]
    pub fn busy_count(&self) -> u64 {
        self.busy_count
    }

    /// Mean time that a task keeps its slot, in microseconds.
    #[must_use]
    pub fn mean_us(&self) -> Option<f64> {
        self.mean_us
    }

    /// Cuts what is dealt at the borders of `range` and returns the first tasks of the pieces that
    /// lie inside.
    fn cut(&mut self, range: &Range<u64>) -> Vec<u64> {
        for border in [range.start, range.end] {
            if let Some((_, before)) = self.dealt.range_mut(..border).next_back()
                && before.end > border
            {
                let behind = *before;
                before.end = border;
                self.dealt.insert(border, behind);
            }
        }
        self.dealt.range(range.clone()).map(|(&first, _)| first).collect()
    }

    fn take_dealt(&mut self, first: u64) -> Option<Dealt> {
        let dealt = self.dealt.remove(&first)?;
        if !dealt.is_free {
            self.busy_count -= dealt.end - first;
        }
        Some(dealt)
    }
}

/// All jobs of the group.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    jobs: BTreeMap<JobId, JobTasks>,
    /// Jobs with waiting tasks: highest priority first, then the oldest.
    waiting: BTreeSet<(std::cmp::Reverse<i32>, LogIndex, JobId)>,
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

    /// Jobs with waiting tasks, highest priority first, then the oldest.
    pub fn waiting(&self) -> impl Iterator<Item = (JobId, &JobTasks)> {
        self.waiting.iter().filter_map(|(_, _, id)| Some((*id, self.jobs.get(id)?)))
    }

    /// Adds a granted range; what was granted before is passed over.
    pub fn grant(&mut self, granted: &GrantedJob<'_>, range: &Range<u64>, index: LogIndex) {
        let id = granted.job;
        let job = self.jobs.entry(id).or_insert_with(|| JobTasks::new(granted, index));
        for piece in job.granted.missing(range) {
            job.granted.insert(piece.clone());
            let mut waiting = Ranges::default();
            waiting.insert(piece.clone());
            for (&first, dealt) in &job.dealt {
                waiting.remove(first..dealt.end);
            }
            waiting.iter().for_each(|piece| job.pending.insert(piece));
        }
        self.note_waiting(id);
    }

    /// Forgets a job that is in a final state. Workers that list tasks of it are told to drop them.
    pub fn end_job(&mut self, id: JobId) {
        if let Some(job) = self.jobs.remove(&id) {
            self.waiting.remove(&(std::cmp::Reverse(job.priority), job.index, id));
        }
    }

    /// Takes up to `limit` waiting tasks of a job for a deal.
    pub fn deal(
        &mut self,
        id: JobId,
        limit: u64,
        dealt: impl FnOnce(&Range<u64>) -> Dealt,
    ) -> Option<Range<u64>> {
        let job = self.jobs.get_mut(&id)?;
        let range = job.pending.take_first(limit)?;
        let entry = dealt(&range);
        job.busy_count += range.end - range.start;
        job.dealt.insert(range.start, entry);
        self.note_waiting(id);
        Some(range)
    }

    /// Notes that a worker holds tasks that this balancer did not deal (it was restarted, or
    /// follows). A later attempt elsewhere stays. Returns the pieces that the worker must drop.
    pub fn adopt(&mut self, id: JobId, range: &Range<u64>, held: Dealt) -> Vec<Range<u64>> {
        let Some(job) = self.jobs.get_mut(&id) else {
            return vec![range.clone()];
        };
        let mut superseded = Vec::new();
        let mut unknown = Ranges::default();
        unknown.insert(range.clone());
        for first in job.cut(range) {
            let Some(known) = job.dealt.get(&first).copied() else {
                continue;
            };
            let piece = first..known.end;
            if (known.worker, known.attempt) == (held.worker, held.attempt) {
                unknown.remove(piece);
            } else if known.attempt > held.attempt {
                superseded.push(piece.clone());
                unknown.remove(piece);
            } else {
                job.take_dealt(first);
            }
        }
        for piece in unknown.iter() {
            job.pending.remove(piece.clone());
            job.granted.insert(piece.clone());
            if !held.is_free {
                job.busy_count += piece.end - piece.start;
            }
            job.dealt.insert(piece.start, Dealt { end: piece.end, ..held });
        }
        self.note_waiting(id);
        superseded
    }

    /// The tasks' slots are free. `busy_us` is the time that they kept them, together. Returns
    /// how many of them this balancer took for busy.
    pub fn free(&mut self, id: JobId, range: &Range<u64>, attempt: u64) -> u64 {
        let Some(job) = self.jobs.get_mut(&id) else {
            return 0;
        };
        let mut freed = 0;
        for first in job.cut(range) {
            if let Some(dealt) = job.dealt.get_mut(&first)
                && dealt.attempt == attempt
                && !dealt.is_free
            {
                dealt.is_free = true;
                freed += dealt.end - first;
            }
        }
        job.busy_count -= freed;
        freed
    }

    /// Takes a measured mean into a job's.
    pub fn measure(&mut self, id: JobId, mean_us: f64) {
        if let Some(job) = self.jobs.get_mut(&id) {
            let old = job.mean_us.unwrap_or(mean_us);
            job.mean_us = Some(old + MEAN_WEIGHT * (mean_us - old));
        }
    }

    /// The outcome of tasks is recorded.
    pub fn settle_final(&mut self, id: JobId, range: &Range<u64>) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        for first in job.cut(range) {
            job.take_dealt(first);
        }
        job.pending.remove(range.clone());
        self.note_waiting(id);
    }

    /// Tasks of this attempt go back to the queue, unless a later attempt is dealt.
    pub fn again(&mut self, id: JobId, range: &Range<u64>, attempt: u64) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let mut back = Ranges::default();
        back.insert(range.clone());
        for first in job.cut(range) {
            let Some(dealt) = job.dealt.get(&first).copied() else {
                continue;
            };
            if dealt.attempt > attempt {
                back.remove(first..dealt.end);
            } else {
                job.take_dealt(first);
            }
        }
        for piece in back.iter() {
            for granted in job.granted.within(&piece) {
                job.pending.insert(granted);
            }
        }
        self.note_waiting(id);
    }

    /// Tasks whose fate was asked for have no outcome: they go back to the queue, but for those that
    /// a worker turned out to hold meanwhile.
    pub fn unfinished(&mut self, id: JobId, range: &Range<u64>) {
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let mut back = Ranges::default();
        back.insert(range.clone());
        for first in job.cut(range) {
            if let Some(dealt) = job.dealt.get(&first) {
                back.remove(first..dealt.end);
            }
        }
        for piece in back.iter() {
            for granted in job.granted.within(&piece) {
                job.pending.insert(granted);
            }
        }
        self.note_waiting(id);
    }

    /// Takes dealt tasks out while their fate is asked for; they neither wait nor count as dealt.
    /// Returns the pieces that were dealt under this attempt.
    pub fn question(&mut self, id: JobId, range: &Range<u64>, attempt: u64) -> Vec<Range<u64>> {
        let Some(job) = self.jobs.get_mut(&id) else {
            return Vec::new();
        };
        let mut pieces = Vec::new();
        for first in job.cut(range) {
            if job.dealt.get(&first).is_some_and(|dealt| dealt.attempt == attempt)
                && let Some(dealt) = job.take_dealt(first)
            {
                pieces.push(first..dealt.end);
            }
        }
        pieces
    }

    /// What a worker holds, as far as this balancer knows, in the order of jobs and tasks.
    #[must_use]
    pub fn held_by(&self, worker: NodeId) -> Vec<(JobId, Range<u64>, Dealt)> {
        let mut held = Vec::new();
        for (&id, job) in &self.jobs {
            for (&first, dealt) in &job.dealt {
                if dealt.worker == worker {
                    held.push((id, first..dealt.end, *dealt));
                }
            }
        }
        held
    }

    /// Adds to each worker's view what it has to do.
    pub fn add_load(&self, views: &mut BTreeMap<NodeId, WorkerView>) {
        for job in self.jobs.values() {
            for (&first, dealt) in job.dealt.iter().filter(|(_, dealt)| !dealt.is_free) {
                if let Some(view) = views.get_mut(&dealt.worker) {
                    let count = dealt.end - first;
                    view.busy_count += count;
                    // One task of unknown length may fill a slot for the whole window.
                    let mean_us = job.mean_us.unwrap_or(WINDOW.as_micros() as f64);
                    view.busy_us += count as f64 * mean_us;
                }
            }
        }
    }

    /// Forgets everything, for a complete feed that follows.
    pub fn clear(&mut self) {
        *self = Tasks::default();
    }

    fn note_waiting(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id) else {
            return;
        };
        let key = (std::cmp::Reverse(job.priority), job.index, id);
        if job.pending.is_empty() {
            self.waiting.remove(&key);
        } else {
            self.waiting.insert(key);
        }
    }

    /// Walks everything and panics on a broken invariant.
    pub fn check_invariants(&self) {
        for (&id, job) in &self.jobs {
            let mut end_before = 0;
            let mut busy = 0;
            for (&first, dealt) in &job.dealt {
                assert!(first >= end_before && first < dealt.end, "a task is dealt twice");
                end_before = dealt.end;
                if !dealt.is_free {
                    busy += dealt.end - first;
                }
                assert!(job.pending.within(&(first..dealt.end)).is_empty(), "dealt and waiting");
            }
            assert_eq!(busy, job.busy_count, "the count of busy tasks");
            let key = (std::cmp::Reverse(job.priority), job.index, id);
            assert_eq!(self.waiting.contains(&key), !job.pending.is_empty(), "the waiting list");
        }
    }
}
