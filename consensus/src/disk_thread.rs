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
use std::time::Duration;

use crate::disk::{Disk, LogDisk, SnapshotDisk, Went, explain};
use crate::job::{Done, Job, Room};
use crate::log::LogError;
use crate::state_machine::StateMachine;

/// How often room is looked for where the disk has none: often enough that nobody waits for long
/// when there is some, and it costs one question (eyeballed).
const ROOM_RETRY: Duration = Duration::from_millis(500);

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

    /// All jobs there are; waits for one as long as `idle` says. `None` after the end.
    fn take(&self, idle: Idle) -> Option<VecDeque<Job<P>>> {
        let mut jobs = self.lock();
        while jobs.0.is_empty() && idle != Idle::Return {
            if jobs.1 {
                return None;
            }
            if idle == Idle::Wait {
                jobs = self.changed.wait(jobs).unwrap_or_else(PoisonError::into_inner);
            } else {
                let waited = self.changed.wait_timeout(jobs, ROOM_RETRY);
                let (after, result) = waited.unwrap_or_else(PoisonError::into_inner);
                jobs = after;
                if result.timed_out() && !jobs.1 {
                    break;
                }
            }
        }
        Some(mem::take(&mut jobs.0))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Idle {
    Wait,
    /// Until room is looked for again.
    WaitForRoom,
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
    let mut room = Room::Enough;
    while let Some(jobs) = queue.take(idle) {
        let nothing = jobs.is_empty();
        let mut went = Went::Well;
        for job in jobs {
            match job {
                Job::Persist(batch) => batches.push(batch),
                // It does not wait for room: it may make some. What it gives up is in a durable
                // snapshot, so that nothing that waits here needs it.
                Job::Compact { through } => {
                    went = disk.perform(&mut batches, &mut done);
                    if went == Went::Badly || !disk.compact(through, &mut done) {
                        done.drain(..).for_each(tell);
                        return;
                    }
                }
                _ => unreachable!("only jobs of the log are in its queue"),
            }
        }
        if !batches.is_empty() {
            went = disk.perform(&mut batches, &mut done);
        }
        done.drain(..).for_each(tell);
        let found = match went {
            Went::Badly => return,
            Went::NoRoom(text) => Err((Room::Gone, text)),
            Went::Well => prepare(&mut disk, nothing, room),
        };
        idle = match &found {
            Err(_) => Idle::WaitForRoom,
            Ok(Prepared::Later) => Idle::Wait,
            Ok(Prepared::Yes) if disk.log.wants_preparing() => Idle::Return,
            Ok(Prepared::Yes) => Idle::Wait,
        };
        let (now, text) = found.err().unwrap_or_default();
        if now != room {
            room = now;
            tell(Done::Room { room, text });
        }
    }
}

/// Whether a file was made ready where one was needed.
enum Prepared {
    Yes,
    /// It failed; that matters only if it still fails when the file is needed.
    Later,
}

/// Makes the next file ready in time: when nobody waits, at the latest where the reserve begins,
/// and as soon as there is room where there was none.
fn prepare(disk: &mut LogDisk, is_idle: bool, room: Room) -> Result<Prepared, (Room, String)> {
    let is_due = is_idle || room != Room::Enough || disk.log.needs_preparing();
    if !is_due || !disk.log.wants_preparing() {
        return Ok(Prepared::Yes);
    }
    match disk.log.prepare() {
        Ok(()) => Ok(Prepared::Yes),
        Err(error @ LogError::NoRoom { .. }) => Err((Room::Short, explain(&error))),
        Err(error) => {
            tracing::warn!(error = explain(&error), "cannot make a log file ready");
            Ok(Prepared::Later)
        }
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
