//! The thread that stores: takes every put that waits, stores them together, tells the loop.
//!
//! Group commit without a timer: what arrives while one sync is under way waits for the next, so
//! an idle node answers after one sync and a busy one shares each sync among many. What is stored
//! and how is [`crate::disk`]'s matter.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use crate::disk::{Disk, Put, PutDone};

/// Puts that are stored with one call at most; those behind wait for the next.
const GROUP_COUNT: usize = 4096;

/// Blocks above this wait for those below it, so that small ones do not wait for megabytes.
const LARGE_BYTES: usize = 256 << 10;

/// A disk and its thread, owned by the loop. Dropping it waits for what is being stored.
#[derive(Debug)]
pub struct DiskThread {
    puts: Option<Sender<Put>>,
    done: Receiver<PutDone>,
    thread: Option<JoinHandle<()>>,
}

impl DiskThread {
    /// Starts the thread. `wake` is called from it after each group: it gets the loop out of its
    /// poll, and the loop then calls [`DiskThread::take`].
    ///
    /// # Errors
    /// Where the operating system refuses a thread.
    pub fn start(disk: Disk, wake: impl Fn() + Send + 'static) -> io::Result<DiskThread> {
        let (puts, waiting) = channel();
        let (report, done) = channel();
        let thread = std::thread::Builder::new().name("disk".into());
        let thread = thread.spawn(move || run(disk, &waiting, &report, &wake))?;
        Ok(DiskThread { puts: Some(puts), done, thread: Some(thread) })
    }

    /// Hands over a block to be stored. The logic's admission bounds how many wait.
    ///
    /// # Panics
    /// Where the thread panicked: a bug there is as loud as one on the loop.
    pub fn put(&self, put: Put) {
        let puts = self.puts.as_ref().expect("there until it is dropped");
        puts.send(put).expect("the disk thread runs until it is dropped");
    }

    /// The next outcome.
    #[must_use]
    pub fn take(&self) -> Option<PutDone> {
        self.done.try_recv().ok()
    }
}

impl Drop for DiskThread {
    fn drop(&mut self) {
        self.puts = None;
        if let Some(thread) = self.thread.take() {
            // Where it panicked its message is printed.
            let _ = thread.join();
        }
    }
}

fn run(mut disk: Disk, waiting: &Receiver<Put>, report: &Sender<PutDone>, wake: &dyn Fn()) {
    while let Ok(first) = waiting.recv() {
        let mut puts = vec![first];
        puts.extend(waiting.try_iter().take(GROUP_COUNT - 1));
        let (large, small): (Vec<_>, Vec<_>) =
            puts.into_iter().partition(|put| put.content.len() > LARGE_BYTES);
        for group in [small, large] {
            if group.is_empty() {
                continue;
            }
            for done in disk.store(group) {
                // Nobody listens while the node stops.
                let _ = report.send(done);
            }
            wake();
        }
    }
}
