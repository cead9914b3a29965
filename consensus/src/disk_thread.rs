//! Threads around a [`Disk`], so that the loop never waits for it.
//!
//! Responsible for order, group commit and telling what was done: batches that arrive while a sync
//! runs share the next one. Snapshots have a thread of their own, so that writing a large one does
//! not hold up commits. Not bounded here: a member has a bounded number of jobs under way.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::disk::{Disk, LogDisk, SnapshotDisk};
use crate::job::{Done, Job};
use crate::state_machine::StateMachine;

struct Queue<P> {
    jobs: Mutex<(VecDeque<Job<P>>, bool)>,
    changed: Condvar,
}

impl<P> Queue<P> {
    fn new() -> Arc<Queue<P>> {
        Arc::new(Queue { jobs: Mutex::new((VecDeque::new(), false)), changed: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, (VecDeque<Job<P>>, bool)> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, job: Job<P>) {
        self.lock().0.push_back(job);
        self.changed.notify_one();
    }

    fn close(&self) {
        self.lock().1 = true;
        self.changed.notify_one();
    }

    /// All jobs there are; waits for one unless `idle`. `None` after the end.
    fn take(&self, idle: Idle) -> Option<VecDeque<Job<P>>> {
        let mut jobs = self.lock();
        while jobs.0.is_empty() && idle == Idle::Wait {
            if jobs.1 {
                return None;
            }
            jobs = self.changed.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
        Some(mem::take(&mut jobs.0))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Idle {
    Wait,
    Return,
}

/// The threads of one member's folder. Dropping it finishes the jobs that were given and ends them.
pub struct DiskThread<P> {
    log: Arc<Queue<P>>,
    snapshots: Arc<Queue<P>>,
    threads: Vec<JoinHandle<()>>,
}

impl<P: Send + 'static> DiskThread<P> {
    /// Starts the threads. `tell` is called on them with everything that was done, in order for
    /// the log; it should queue it and wake the loop.
    ///
    /// # Errors
    /// Where the operating system gives no thread.
    pub fn start<S>(
        disk: Disk,
        tell: impl Fn(Done) + Send + Clone + 'static,
    ) -> io::Result<DiskThread<P>>
    where
        S: StateMachine<Snapshot = P>,
    {
        let (log, snapshots) = (Queue::new(), Queue::new());
        let Disk { log: log_disk, snapshots: snapshot_disk } = disk;
        let mut started =
            DiskThread { log: log.clone(), snapshots: snapshots.clone(), threads: Vec::new() };
        let tell_log = tell.clone();
        started.spawn("log", move || run_log(log_disk, &log, &tell_log))?;
        started
            .spawn("snapshots", move || run_snapshots::<S>(&snapshot_disk, &snapshots, &tell))?;
        Ok(started)
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
        self.threads.push(thread);
        Ok(())
    }

    /// Gives a job to the threads; never blocks.
    pub fn give(&self, job: Job<P>) {
        match job {
            Job::Persist(_) | Job::Compact { .. } => self.log.push(job),
            other => self.snapshots.push(other),
        }
    }
}

impl<P> Drop for DiskThread<P> {
    fn drop(&mut self) {
        self.log.close();
        self.snapshots.close();
        for thread in self.threads.drain(..) {
            // A thread that panicked said so on standard error; there is nobody to tell here.
            drop(thread.join());
        }
    }
}

fn run_log<P>(mut disk: LogDisk, queue: &Queue<P>, tell: &impl Fn(Done)) {
    let mut batches = Vec::new();
    let mut done = Vec::new();
    let mut idle = Idle::Wait;
    while let Some(jobs) = queue.take(idle) {
        let nothing = jobs.is_empty();
        let mut well = true;
        for job in jobs {
            match job {
                Job::Persist(batch) => batches.push(batch),
                Job::Compact { through } => {
                    well = well && disk.perform(&mut batches, Some(through), &mut done);
                }
                _ => unreachable!("only jobs of the log are in its queue"),
            }
        }
        well = well && disk.perform(&mut batches, None, &mut done);
        done.drain(..).for_each(tell);
        if !well {
            return;
        }
        // A file is made ready only when nobody waits. That may fail where the disk is full, and
        // matters only if it still fails when the file is needed.
        if nothing && let Err(error) = disk.log.prepare() {
            tracing::warn!(error = crate::disk::explain(&error), "cannot make a log file ready");
            idle = Idle::Wait;
            continue;
        }
        idle = if disk.log.wants_preparing() { Idle::Return } else { Idle::Wait };
    }
}

fn run_snapshots<S: StateMachine>(
    disk: &SnapshotDisk,
    queue: &Queue<S::Snapshot>,
    tell: &impl Fn(Done),
) {
    while let Some(jobs) = queue.take(Idle::Wait) {
        for job in jobs {
            disk.perform::<S>(job).into_iter().for_each(tell);
        }
    }
}
