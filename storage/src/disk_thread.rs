//! The thread that stores: takes every job that waits, performs them together, tells the loop.
//!
//! Group commit without a timer: what arrives while one sync is under way waits for the next, so
//! an idle node answers after one sync and a busy one shares each sync among many. While nothing
//! waits, volumes are compacted, one bounded step after the other. What is stored and how is
//! [`crate::disk`]'s matter.

use std::collections::BTreeSet;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use proto::ids::BlockId;

use crate::disk::{Disk, Put, PutDone, PutError, Touch};
use crate::logic::Ticket;

/// Jobs that are performed with one call at most; those behind wait for the next.
const GROUP_COUNT: usize = 4096;

/// Groups between two steps of upkeep while something waits all the time (eyeballed): a step takes as
/// long as a few of them.
const GROUPS_PER_UPKEEP: u32 = 16;

/// Blocks above this wait for those below it, so that small ones do not wait for megabytes.
const LARGE_BYTES: usize = 256 << 10;

/// What the disk is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// [`Disk::store`].
    Put(Put),
    /// [`Disk::touch`].
    Touch {
        /// Returned with the outcome.
        ticket: Ticket,
        /// What is raised.
        items: Vec<Touch>,
    },
    /// [`Disk::delete`].
    Delete {
        /// Returned with the outcome.
        ticket: Ticket,
        /// What is forgotten.
        blocks: Vec<BlockId>,
    },
}

/// The outcome of a [`Job`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskDone {
    /// Of a put.
    Put(PutDone),
    /// Of a touch.
    Touched {
        /// Which.
        ticket: Ticket,
        /// For each item in order whether the block is here, durably raised.
        present: Vec<bool>,
    },
    /// Of a delete.
    Deleted {
        /// Which.
        ticket: Ticket,
        /// How many of the blocks were here, as soon as all are durably forgotten.
        result: Result<u64, PutError>,
    },
}

/// Jobs that may be performed kind after kind: no block is named by jobs whose order that would
/// change.
#[derive(Default)]
struct Group {
    small: Vec<Put>,
    large: Vec<Put>,
    touches: Vec<(Ticket, Vec<Touch>)>,
    deletes: Vec<(Ticket, Vec<BlockId>)>,
    touched: BTreeSet<BlockId>,
    deleted: BTreeSet<BlockId>,
}

impl Group {
    /// Whether `job` may be performed with what the group holds.
    fn fits(&self, job: &Job) -> bool {
        match job {
            Job::Put(put) => {
                !self.touched.contains(&put.block) && !self.deleted.contains(&put.block)
            }
            Job::Touch { items, .. } => !items.iter().any(|it| self.deleted.contains(&it.block)),
            Job::Delete { .. } => true,
        }
    }

    fn add(&mut self, job: Job) {
        match job {
            Job::Put(put) if put.content.len() > LARGE_BYTES => self.large.push(put),
            Job::Put(put) => self.small.push(put),
            Job::Touch { ticket, items } => {
                self.touched.extend(items.iter().map(|item| item.block));
                self.touches.push((ticket, items));
            }
            Job::Delete { ticket, blocks } => {
                self.deleted.extend(&blocks);
                self.deletes.push((ticket, blocks));
            }
        }
    }

    /// Performs all and calls `told` after each kind, since the next one may take long.
    fn perform(self, disk: &mut Disk, told: &mut dyn FnMut(Vec<DiskDone>)) {
        for puts in [self.small, self.large] {
            if !puts.is_empty() {
                told(disk.store(puts).into_iter().map(DiskDone::Put).collect());
            }
        }
        if !self.touches.is_empty() {
            let items = self.touches.iter().flat_map(|(_, items)| items).copied().collect();
            let mut present = disk.touch(items).into_iter();
            let touched = self.touches.into_iter().map(|(ticket, items)| {
                let present = present.by_ref().take(items.len()).collect();
                DiskDone::Touched { ticket, present }
            });
            told(touched.collect());
        }
        // Each for itself, so that each can tell how many were here.
        let deletes = self.deletes.into_iter();
        let deleted = deletes
            .map(|(ticket, blocks)| DiskDone::Deleted { ticket, result: disk.delete(&blocks) });
        let deleted: Vec<DiskDone> = deleted.collect();
        if !deleted.is_empty() {
            told(deleted);
        }
    }
}

/// Performs jobs in an order that is theirs for every single block. `told` is called several times
/// with outcomes, not in the order of the jobs.
pub fn perform(disk: &mut Disk, jobs: Vec<Job>, told: &mut dyn FnMut(Vec<DiskDone>)) {
    let mut group = Group::default();
    for job in jobs {
        if !group.fits(&job) {
            std::mem::take(&mut group).perform(disk, told);
        }
        group.add(job);
    }
    group.perform(disk, told);
}

/// What the thread is told.
enum Told {
    Job(Job),
    /// A read found a damaged block.
    Damaged,
    Stop,
}

/// A disk and its thread, owned by the loop. Dropping it waits for what is being stored.
#[derive(Debug)]
pub struct DiskThread {
    jobs: Sender<Told>,
    done: Receiver<DiskDone>,
    thread: Option<JoinHandle<()>>,
}

impl DiskThread {
    /// Starts the thread. `wake` is called from it after each group: it gets the loop out of its
    /// poll, and the loop then calls [`DiskThread::take`].
    ///
    /// # Errors
    /// Where the operating system refuses a thread.
    pub fn start(disk: Disk, wake: impl Fn() + Send + 'static) -> io::Result<DiskThread> {
        let (jobs, waiting) = channel();
        let (report, done) = channel();
        let alarm = Mutex::new(jobs.clone());
        disk.on_damage(move || {
            let alarm = alarm.lock().unwrap_or_else(PoisonError::into_inner);
            // A reader may outlive the thread.
            let _ = alarm.send(Told::Damaged);
        });
        let thread = std::thread::Builder::new().name("disk".into());
        let thread = thread.spawn(move || run(disk, &waiting, &report, &wake))?;
        Ok(DiskThread { jobs, done, thread: Some(thread) })
    }

    /// Hands over a job. The logic's admission bounds how many wait.
    ///
    /// # Panics
    /// Where the thread panicked: a bug there is as loud as one on the loop.
    pub fn submit(&self, job: Job) {
        self.jobs.send(Told::Job(job)).expect("the disk thread runs until it is dropped");
    }

    /// The next outcome.
    #[must_use]
    pub fn take(&self) -> Option<DiskDone> {
        self.done.try_recv().ok()
    }
}

impl Drop for DiskThread {
    fn drop(&mut self) {
        // Where it panicked it does not listen, and its message is printed.
        let _ = self.jobs.send(Told::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(mut disk: Disk, waiting: &Receiver<Told>, report: &Sender<DiskDone>, wake: &dyn Fn()) {
    let mut groups_since_upkeep = 0;
    loop {
        let first = if disk.has_upkeep() {
            waiting.try_recv().ok()
        } else {
            match waiting.recv() {
                Ok(told) => Some(told),
                Err(_) => return,
            }
        };
        let is_idle = first.is_none();
        let told = first.into_iter().chain(waiting.try_iter()).take(GROUP_COUNT);
        let mut jobs = Vec::new();
        let mut is_stopping = false;
        for told in told {
            match told {
                Told::Job(job) => jobs.push(job),
                Told::Damaged => groups_since_upkeep = GROUPS_PER_UPKEEP,
                Told::Stop => is_stopping = true,
            }
        }
        if !jobs.is_empty() {
            perform(&mut disk, jobs, &mut |outcomes| {
                for done in outcomes {
                    // Nobody listens while the node stops.
                    let _ = report.send(done);
                }
                wake();
            });
        }
        if is_stopping {
            if disk.has_damaged() {
                disk.upkeep();
            }
            return;
        }
        groups_since_upkeep += 1;
        if is_idle || groups_since_upkeep >= GROUPS_PER_UPKEEP {
            disk.upkeep();
            groups_since_upkeep = 0;
        }
    }
}
