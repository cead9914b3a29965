//! Threads for what waits for storage or for a disk, so that a thread that hears the kernel never
//! does.
//!
//! Unlike `node`'s pool, which belongs to one loop, any thread submits here, and what was done is
//! not taken back: work answers the kernel itself. Dropped, the threads end after what they do; they
//! are not waited for, since the last owner may be one of them.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use node::clock::Clock;
use proto::time::{Duration, Instant};

type Work = Box<dyn FnOnce(Begun) + Send>;

/// How long work may wait for a thread. Where storage does not answer, each thread waits for half a
/// minute; whoever stands far behind is not to wait for all who are in front.
const LONGEST_WAIT: Duration = Duration::from_secs(45);

/// How a piece of work begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begun {
    /// In time.
    InTime,
    /// So late that it should be refused.
    Late,
}

/// Pieces of work that can be left out and wait, for each thread (eyeballed: what is read ahead is
/// to come before its reader, not long before).
const AHEAD: usize = 4;

struct Queue {
    work: VecDeque<(Instant, Work)>,
    /// Work that can as well be left out; done where nothing else waits.
    ahead: VecDeque<(Instant, Work)>,
    is_closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    came: Condvar,
    clock: Clock,
}

impl Shared {
    // No work runs under the lock, so a panic cannot have left it half changed.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        while let Some((since, work)) = self.next() {
            let is_late = self.clock.now().since(since) > LONGEST_WAIT;
            let begun = if is_late { Begun::Late } else { Begun::InTime };
            // A bug in one answer must not stop the others: the kernel gets an error for that one,
            // since an answer that is dropped says so.
            if catch_unwind(AssertUnwindSafe(|| work(begun))).is_err() {
                tracing::error!("an operation of the mount panicked");
            }
        }
    }

    fn next(&self) -> Option<(Instant, Work)> {
        let mut queue = self.queue();
        loop {
            if queue.is_closed {
                return None;
            }
            if let Some(work) = queue.work.pop_front() {
                return Some(work);
            }
            if let Some(work) = queue.ahead.pop_front() {
                return Some(work);
            }
            queue = self.came.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Some threads and what waits for them.
pub(crate) struct Workers {
    shared: Arc<Shared>,
    capacity: usize,
    ahead_capacity: usize,
}

impl Workers {
    /// Starts threads. At most `capacity` pieces of work wait for them.
    pub(crate) fn start(name: &str, threads: usize, capacity: usize) -> io::Result<Workers> {
        let queue = Queue { work: VecDeque::new(), ahead: VecDeque::new(), is_closed: false };
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
            came: Condvar::new(),
            clock: Clock::start(),
        });
        let ahead_capacity = threads.max(1) * AHEAD;
        let workers = Workers { shared: Arc::clone(&shared), capacity, ahead_capacity };
        for _ in 0..threads.max(1) {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(name.to_owned());
            thread.spawn(move || shared.run())?;
        }
        Ok(workers)
    }

    /// Queues work; false where as much waits as may, and the work is dropped.
    #[must_use]
    pub(crate) fn submit(&self, work: impl FnOnce(Begun) + Send + 'static) -> bool {
        let now = self.shared.clock.now();
        let mut queue = self.shared.queue();
        if queue.work.len() >= self.capacity {
            return false;
        }
        queue.work.push_back((now, Box::new(work)));
        drop(queue);
        self.shared.came.notify_one();
        true
    }

    /// Queues work that can as well be left out, behind all that cannot; false where enough of it
    /// waits, and the work is dropped.
    #[must_use]
    pub(crate) fn submit_ahead(&self, work: impl FnOnce(Begun) + Send + 'static) -> bool {
        let now = self.shared.clock.now();
        let mut queue = self.shared.queue();
        if queue.ahead.len() >= self.ahead_capacity {
            return false;
        }
        queue.ahead.push_back((now, Box::new(work)));
        drop(queue);
        self.shared.came.notify_one();
        true
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let dropped = {
            let mut queue = self.shared.queue();
            queue.is_closed = true;
            (std::mem::take(&mut queue.work), std::mem::take(&mut queue.ahead))
        };
        self.shared.came.notify_all();
        // What the closures own answers the kernel when it is dropped: not under the lock.
        drop(dropped);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn work_is_done_and_what_is_too_much_refused() {
        let workers = Workers::start("test", 1, 1).unwrap();
        let (done, all_done) = channel();
        let (go_on, gate) = channel::<()>();
        let first = done.clone();
        assert!(workers.submit(move |_| {
            first.send(0).unwrap();
            gate.recv().unwrap();
        }));
        assert_eq!(all_done.recv().unwrap(), 0, "the thread is busy from here on");
        let (second, third) = (done.clone(), done);
        for _ in 0..AHEAD {
            let third = third.clone();
            assert!(workers.submit_ahead(move |_| third.send(2).unwrap()));
        }
        assert!(!workers.submit_ahead(|_| ()), "enough is to be done ahead");
        assert!(workers.submit(move |_| second.send(1).unwrap()));
        assert!(!workers.submit(|_| ()), "one waits already");
        go_on.send(()).unwrap();
        let order: Vec<i32> = all_done.iter().take(1 + AHEAD).collect();
        assert_eq!(order, [1, 2, 2, 2, 2], "what cannot be left out is done first");
    }

    #[test]
    fn a_panic_stops_nobody_else() {
        let workers = Workers::start("test", 1, 10).unwrap();
        let (done, all_done) = channel();
        assert!(workers.submit(|_| panic!("on purpose")));
        assert!(workers.submit(move |_| done.send(()).unwrap()));
        assert_eq!(all_done.recv(), Ok(()));
    }

    #[test]
    fn what_was_not_begun_is_dropped_with_the_workers() {
        let workers = Workers::start("test", 1, 10).unwrap();
        let (go_on, gate) = channel::<()>();
        let (begun, has_begun) = channel();
        assert!(workers.submit(move |_| {
            begun.send(()).unwrap();
            gate.recv().unwrap();
        }));
        has_begun.recv().unwrap();
        let (answer, dropped) = channel::<()>();
        assert!(workers.submit(move |_| answer.send(()).unwrap()));
        drop(workers);
        assert!(dropped.recv().is_err(), "nobody answers any more");
        go_on.send(()).unwrap();
    }
}
