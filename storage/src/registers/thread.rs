//! The thread that makes changes of registers durable: takes all that wait, stores them together,
//! tells the loop, and rewrites the log in steps between them.
//!
//! A thread of its own, so that a register is not behind the megabytes of blocks.

use std::io;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

use super::store::Store;
use super::{Job, JobDone};

/// Changes that are stored with one call at most; those behind wait for the next.
const GROUP_COUNT: usize = 4096;

/// A store and its thread, owned by the loop. Dropping it waits for what is being stored.
#[derive(Debug)]
pub struct RegisterThread {
    jobs: Option<Sender<Job>>,
    done: Receiver<JobDone>,
    thread: Option<JoinHandle<()>>,
}

impl RegisterThread {
    /// Starts the thread. `wake` is called from it after each group: it gets the loop out of its
    /// poll, and the loop then calls [`RegisterThread::take`].
    ///
    /// # Errors
    /// Where the operating system refuses a thread.
    pub fn start(store: Store, wake: impl Fn() + Send + 'static) -> io::Result<RegisterThread> {
        let (jobs, waiting) = channel();
        let (report, done) = channel();
        let thread = std::thread::Builder::new().name("registers".into());
        let thread = thread.spawn(move || run(store, &waiting, &report, &wake))?;
        Ok(RegisterThread { jobs: Some(jobs), done, thread: Some(thread) })
    }

    /// Hands over a change. The logic's admission bounds how many wait.
    ///
    /// # Panics
    /// Where the thread panicked: a bug there is as loud as one on the loop.
    pub fn change(&self, job: Job) {
        let jobs = self.jobs.as_ref().expect("there until it is dropped");
        jobs.send(job).expect("the registers' thread runs until it is dropped");
    }

    /// The next outcome.
    #[must_use]
    pub fn take(&self) -> Option<JobDone> {
        self.done.try_recv().ok()
    }
}

impl Drop for RegisterThread {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // Where it panicked its message is printed.
            let _ = thread.join();
        }
    }
}

fn run(mut store: Store, waiting: &Receiver<Job>, report: &Sender<JobDone>, wake: &dyn Fn()) {
    let mut has_more = store.tidy();
    loop {
        let first = if has_more { waiting.try_recv() } else { wait(waiting) };
        match first {
            Ok(first) => {
                let mut jobs = vec![first];
                jobs.extend(waiting.try_iter().take(GROUP_COUNT - 1));
                for done in store.store(jobs) {
                    // Nobody listens while the node stops.
                    let _ = report.send(done);
                }
                wake();
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return,
        }
        has_more = store.tidy();
    }
}

fn wait(waiting: &Receiver<Job>) -> Result<Job, TryRecvError> {
    waiting.recv().map_err(|_| TryRecvError::Disconnected)
}
