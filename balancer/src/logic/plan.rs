//! Who gets how many tasks of which job: a pure function of a view, with nothing to tune.
//!
//! Prefetch is measured in time. A worker gets about [`WINDOW`] of work at the job's measured rate, and
//! as much as the way to it takes, so that its slots never wait for a round trip, and no more, so that a
//! late joiner still finds work. While the rate is unknown it gets one task for each free slot.

use proto::ids::{JobId, NodeId};
use proto::time::Duration;

/// Work that a worker holds ahead: some hundred round trips, and short enough that a recall is rare.
pub const WINDOW: Duration = Duration::from_millis(50);

/// Most tasks that one worker holds of one job, however short they are.
pub const WINDOW_TASKS: u64 = 65_536;

/// What tasks use of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Thousandths of a CPU.
    pub cpu_milli: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
}

impl Needs {
    /// True where a machine of this size can execute one task that needs `task`.
    #[must_use]
    pub fn holds(&self, task: &Needs) -> bool {
        task.cpu_milli <= self.cpu_milli && task.memory_bytes <= self.memory_bytes
    }

    /// What `count` tasks use together.
    #[must_use]
    pub fn times(&self, count: u64) -> Needs {
        Needs {
            cpu_milli: self.cpu_milli.saturating_mul(count),
            memory_bytes: self.memory_bytes.saturating_mul(count),
        }
    }

    /// What both use together.
    #[must_use]
    pub fn plus(&self, other: &Needs) -> Needs {
        Needs {
            cpu_milli: self.cpu_milli.saturating_add(other.cpu_milli),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
        }
    }
}

/// A worker that takes tasks.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerView {
    /// The worker.
    pub worker: NodeId,
    /// Its slots.
    pub slot_count: u64,
    /// What its tasks may use together.
    pub room: Needs,
    /// What the tasks that it holds use together.
    pub used: Needs,
    /// Tasks that it holds and that keep, or will keep, a slot.
    pub busy_count: u64,
    /// Time that those will take all its slots together, as far as the jobs' rates are known, less what
    /// its slots execute during a round trip; it may be negative.
    pub busy_us: f64,
}

impl WorkerView {
    /// Slots without a task.
    #[must_use]
    pub fn idle_slots(&self) -> u64 {
        self.slot_count.saturating_sub(self.busy_count)
    }

    /// Tasks beyond its slots.
    #[must_use]
    pub fn surplus(&self) -> u64 {
        self.busy_count.saturating_sub(self.slot_count)
    }

    /// Tasks of these needs that it could begin at once.
    #[must_use]
    pub fn free_lanes(&self, needs: &Needs) -> u64 {
        let lanes = |room: u64, used: u64, need: u64| {
            room.saturating_sub(used).checked_div(need).unwrap_or(u64::MAX)
        };
        let cpu = lanes(self.room.cpu_milli, self.used.cpu_milli, needs.cpu_milli);
        let memory = lanes(self.room.memory_bytes, self.used.memory_bytes, needs.memory_bytes);
        self.idle_slots().min(cpu).min(memory)
    }

    /// How much of its window is filled.
    fn filled(&self) -> f64 {
        self.busy_us / window_us(self)
    }
}

/// A job with waiting tasks; in the view, highest priority first, then the oldest.
#[derive(Clone, Debug, PartialEq)]
pub struct JobView {
    /// The job.
    pub job: JobId,
    /// Its priority.
    pub priority: i32,
    /// What one task uses.
    pub needs: Needs,
    /// Tasks that wait.
    pub pending_count: u64,
    /// Tasks that are dealt.
    pub busy_count: u64,
    /// When it was dealt from last; a later deal has a higher number.
    pub served: u64,
    /// Mean time that one keeps its slot, in microseconds; unknown until one ended.
    pub mean_us: Option<f64>,
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deal {
    /// To whom.
    pub worker: NodeId,
    /// Of which job.
    pub job: JobId,
    /// How many tasks.
    pub task_count: u64,
}

/// Decides what to deal. Among jobs of the same priority the one with the fewest dealt tasks comes
/// first, then the one that was passed over longest, so that a small job beside a huge one finishes
/// promptly; among workers the one with the least to do.
#[must_use]
pub fn plan(workers: &[WorkerView], jobs: &[JobView]) -> Vec<Deal> {
    let mut workers: Vec<WorkerView> =
        workers.iter().filter(|worker| worker.slot_count > 0).cloned().collect();
    let mut jobs = jobs.to_vec();
    let mut deals = Vec::new();
    loop {
        jobs.retain(|job| job.pending_count > 0);
        let Some(at) = neediest(&workers) else { break };
        let Some(job) = next_job(&workers[at], &mut jobs) else {
            workers.swap_remove(at);
            continue;
        };
        let task_count = share(&workers[at], job);
        if task_count == 0 {
            // The job comes first and has no room now: what is narrower waits, or it never got any.
            workers.swap_remove(at);
            continue;
        }
        let worker = &mut workers[at];
        deals.push(Deal { worker: worker.worker, job: job.job, task_count });
        worker.busy_count += task_count;
        worker.used = worker.used.plus(&job.needs.times(task_count));
        let mean_us = job.mean_us.unwrap_or(window_us(worker));
        worker.busy_us += task_count as f64 * mean_us.max(1.0);
        job.busy_count += task_count;
        job.pending_count -= task_count;
    }
    deals
}

/// Of the jobs whose tasks fit the worker and that have the highest priority of those, the one with
/// the fewest dealt tasks.
fn next_job<'a>(worker: &WorkerView, jobs: &'a mut [JobView]) -> Option<&'a mut JobView> {
    let order = |job: &JobView| (std::cmp::Reverse(job.priority), job.busy_count, job.served);
    jobs.iter_mut().filter(|job| worker.room.holds(&job.needs)).min_by_key(|job| order(job))
}

/// Time that all slots of a worker offer within the window.
fn window_us(worker: &WorkerView) -> f64 {
    WINDOW.as_micros() as f64 * worker.slot_count as f64
}

/// The worker with the least to do for its slots, of those that need something: a slot is empty,
/// or less than half of the window is left.
fn neediest(workers: &[WorkerView]) -> Option<usize> {
    let load = |worker: &WorkerView| (worker.idle_slots() == 0, worker.filled());
    let in_need = workers.iter().enumerate().filter(|(_, worker)| {
        worker.idle_slots() > 0 || (worker.filled() < 0.5 && worker.busy_count < WINDOW_TASKS)
    });
    let order = |left: &WorkerView, right: &WorkerView| {
        load(left).partial_cmp(&load(right)).unwrap_or(std::cmp::Ordering::Equal)
    };
    in_need.min_by(|(_, left), (_, right)| order(left, right)).map(|(at, _)| at)
}

/// How many tasks of a job a worker gets: one for each free slot, and where the job's rate is known
/// what fills the window.
fn share(worker: &WorkerView, job: &JobView) -> u64 {
    let free = worker.free_lanes(&job.needs);
    let ahead = match job.mean_us {
        Some(mean_us) if worker.filled() < 0.5 => {
            let left_us = (window_us(worker) - worker.busy_us).max(0.0);
            // Shorter than a microsecond is as good as a microsecond: the window is full of tasks.
            let by_time = (left_us / mean_us.max(1.0)) as u64;
            by_time.min(WINDOW_TASKS.saturating_sub(worker.busy_count))
        }
        _ => 0,
    };
    ahead.max(free).min(job.pending_count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(id: u128, slot_count: u64, busy_count: u64, busy_us: f64) -> WorkerView {
        let room = Needs { cpu_milli: 1000 * slot_count, memory_bytes: 1 << 30 };
        let used = Needs { cpu_milli: 1000 * busy_count, memory_bytes: 0 };
        WorkerView { worker: NodeId(id), slot_count, room, used, busy_count, busy_us }
    }

    fn job(id: u128, pending_count: u64, busy_count: u64, mean_us: Option<f64>) -> JobView {
        let needs = Needs { cpu_milli: 1000, memory_bytes: 0 };
        JobView {
            job: JobId(id),
            priority: 0,
            needs,
            pending_count,
            busy_count,
            served: 0,
            mean_us,
        }
    }

    fn of(deals: &[Deal], id: u128) -> u64 {
        deals.iter().filter(|deal| deal.job == JobId(id)).map(|deal| deal.task_count).sum()
    }

    #[test]
    fn one_task_for_each_slot_while_the_rate_is_unknown() {
        let deals = plan(&[worker(1, 2, 0, 0.0), worker(2, 2, 0, 0.0)], &[job(9, 100, 0, None)]);
        assert_eq!(of(&deals, 9), 4);
    }

    #[test]
    fn a_known_rate_fills_the_window_and_no_more() {
        let deals = plan(&[worker(1, 2, 0, 0.0)], &[job(9, 1_000_000, 0, Some(20.0))]);
        assert_eq!(of(&deals, 9), 5_000);
        let full = plan(&[worker(1, 2, 5_000, 100_000.0)], &[job(9, 1_000_000, 0, Some(20.0))]);
        assert!(full.is_empty());
    }

    #[test]
    fn long_tasks_are_not_hoarded() {
        let deals = plan(&[worker(1, 4, 0, 0.0)], &[job(9, 100, 0, Some(10e6))]);
        assert_eq!(of(&deals, 9), 4);
    }

    #[test]
    fn endless_short_tasks_are_bounded() {
        let deals = plan(&[worker(1, 2, 0, 0.0)], &[job(9, u64::MAX, 0, Some(0.0))]);
        assert_eq!(of(&deals, 9), WINDOW_TASKS);
    }

    #[test]
    fn a_small_job_comes_before_a_huge_one_of_the_same_priority() {
        let huge = job(1, 1 << 40, 10_000, Some(100.0));
        let deals = plan(&[worker(1, 2, 0, 0.0)], &[huge, job(2, 3, 0, Some(100.0))]);
        assert_eq!(deals.first().map(|deal| deal.job), Some(JobId(2)));
        assert_eq!(of(&deals, 2), 3);
        assert!(of(&deals, 1) > 0);
    }

    #[test]
    fn a_higher_priority_is_dealt_first() {
        let urgent = JobView { priority: 5, ..job(2, 2, 50, None) };
        let deals = plan(&[worker(1, 2, 0, 0.0)], &[urgent, job(1, 10, 0, None)]);
        assert_eq!(of(&deals, 2), 2);
        assert_eq!(of(&deals, 1), 0);
    }

    #[test]
    fn a_task_goes_only_where_it_fits() {
        let needs = Needs { cpu_milli: 4000, memory_bytes: 0 };
        let wide = JobView { needs, ..job(9, 10, 0, None) };
        let deals =
            plan(&[worker(1, 2, 0, 0.0), worker(2, 4, 0, 0.0)], &[wide, job(8, 1, 5, None)]);
        let to = |id: u128| deals.iter().filter(move |deal| deal.worker == NodeId(id));
        assert!(to(1).all(|deal| deal.job == JobId(8)), "{deals:?}");
        assert!(to(2).any(|deal| deal.job == JobId(9)), "{deals:?}");
    }

    #[test]
    fn wide_tasks_are_spread_instead_of_queued() {
        let needs = Needs { cpu_milli: 4000, memory_bytes: 0 };
        let wide = JobView { needs, ..job(9, 4, 0, None) };
        let deals = plan(&[worker(1, 4, 0, 0.0), worker(2, 4, 0, 0.0)], &[wide]);
        let counts: Vec<_> = deals.iter().map(|deal| (deal.worker.0, deal.task_count)).collect();
        assert_eq!(counts, [(1, 1), (2, 1)]);
    }

    #[test]
    fn work_is_spread_over_the_workers() {
        let workers: Vec<_> = (1..=5).map(|id| worker(id, 1, 0, 0.0)).collect();
        let deals = plan(&workers, &[job(9, 5, 0, Some(50_000.0))]);
        let mut who: Vec<_> = deals.iter().map(|deal| deal.worker).collect();
        who.sort();
        who.dedup();
        assert_eq!((who.len(), of(&deals, 9)), (5, 5));
    }
}
