//! Threads for work that blocks (disk, hashing, child processes), so that an event loop never
//! does.
//!
//! Work goes in as a closure with its effect's ticket inside and comes back as a value that the
//! loop takes as an event. Bounded: what is queued, running or not yet taken counts against one
//! limit, and beyond it the work is refused. Deliberately without priorities: whoever needs two
//! classes makes two pools. With one thread the order of submission is the order of execution.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

type Work<T> = Box<dyn FnOnce() -> T + Send>;
type Panic = Box<dyn Any + Send>;

/// The work that was refused because the pool is full.
pub struct Full<T>(pub Box<dyn FnOnce() -> T + Send>);

impl<T> fmt::Debug for Full<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Full")
    }
}

impl<T> fmt::Display for Full<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the pool is full")
    }
}

/// Some threads, owned by one loop. Dropping it throws away the work that has not begun and waits
/// for what runs.
pub struct Pool<T> {
    shared: Arc<Shared<T>>,
    threads: Vec<JoinHandle<()>>,
    capacity: usize,
    /// Submitted and not yet taken.
    outstanding: usize,
}

struct Shared<T> {
    queues: Mutex<Queues<T>>,
    work_came: Condvar,
    wake: Box<dyn Fn() + Send + Sync>,
}

struct Queues<T> {
    work: VecDeque<Work<T>>,
    done: VecDeque<Result<T, Panic>>,
    closed: bool,
}

impl<T> fmt::Debug for Pool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("threads", &self.threads.len())
            .field("capacity", &self.capacity)
            .field("outstanding", &self.outstanding)
            .finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Pool<T> {
    /// Starts `threads` threads called `name`. At most `capacity` pieces of work are outstanding.
    /// `wake` is called from a pool thread after each completion: it gets the loop out of its
    /// poll, and the loop then calls [`Pool::take`].
    ///
    /// # Errors
    /// Where the operating system refuses a thread.
    ///
    /// # Panics
    /// Without a thread or without capacity.
    pub fn start(
        name: &str,
        threads: usize,
        capacity: usize,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<Pool<T>> {
        assert!(threads > 0 && capacity > 0, "pool {name} could never do anything");
        let shared = Arc::new(Shared {
            queues: Mutex::new(Queues {
                work: VecDeque::new(),
                done: VecDeque::new(),
                closed: false,
            }),
            work_came: Condvar::new(),
            wake: Box::new(wake),
        });
        let mut pool = Pool { shared, threads: Vec::new(), capacity, outstanding: 0 };
        for _ in 0..threads {
            let shared = Arc::clone(&pool.shared);
            let thread = std::thread::Builder::new().name(name.to_owned());
            pool.threads.push(thread.spawn(move || shared.run())?);
        }
        Ok(pool)
    }

    /// Queues work.
    ///
    /// # Errors
    /// [`Full`], with the work, where as much as the pool may hold is outstanding.
    pub fn submit(&mut self, work: impl FnOnce() -> T + Send + 'static) -> Result<(), Full<T>> {
        if self.outstanding >= self.capacity {
            return Err(Full(Box::new(work)));
        }
        self.outstanding += 1;
        self.shared.queues().work.push_back(Box::new(work));
        self.shared.work_came.notify_one();
        Ok(())
    }

    /// The next completion, in the order in which work ended.
    ///
    /// # Panics
    /// With the panic of the work, where it panicked: a bug on a pool thread is as loud as one on
    /// the loop.
    pub fn take(&mut self) -> Option<T> {
        let done = self.shared.queues().done.pop_front()?;
        self.outstanding -= 1;
        match done {
            Ok(value) => Some(value),
            Err(panic) => resume_unwind(panic),
        }
    }

    /// How much was submitted and not yet taken.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }
}

impl<T> Shared<T> {
    fn queues(&self) -> MutexGuard<'_, Queues<T>> {
        // No work runs under the lock, so a panic cannot have left the queues half changed.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        while let Some(work) = self.next() {
            let done = catch_unwind(AssertUnwindSafe(work));
            self.queues().done.push_back(done);
            (self.wake)();
        }
    }

    fn next(&self) -> Option<Work<T>> {
        let mut queues = self.queues();
        loop {
            if queues.closed {
                return None;
            }
            if let Some(work) = queues.work.pop_front() {
                return Some(work);
            }
            queues = self.work_came.wait(queues).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<T> Drop for Pool<T> {
    fn drop(&mut self) {
        let thrown_away = {
            let mut queues = self.shared.queues();
            queues.closed = true;
            std::mem::take(&mut queues.work)
        };
        self.shared.work_came.notify_all();
        // What the closures own may run code of its own when it is dropped: not under the lock.
        drop(thrown_away);
        for thread in self.threads.drain(..) {
            // A pool thread panics only where `wake` does; that thread's message is printed.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    fn pool(threads: usize, capacity: usize) -> (Pool<u32>, Receiver<()>) {
        let (woken, wakes) = channel();
        let pool = Pool::start("test", threads, capacity, move || {
            let _ = woken.send(());
        });
        (pool.unwrap(), wakes)
    }

    #[test]
    fn one_thread_keeps_the_order_and_wakes_after_each() {
        let (mut pool, wakes) = pool(1, 100);
        for i in 0..100 {
            pool.submit(move || i).unwrap();
        }
        for i in 0..100 {
            wakes.recv().unwrap();
            assert_eq!(pool.take(), Some(i));
        }
        assert_eq!(pool.take(), None);
        assert_eq!(pool.outstanding(), 0);
    }

    #[test]
    fn threads_work_at_the_same_time() {
        let (mut pool, wakes) = pool(2, 2);
        let meeting = Arc::new(std::sync::Barrier::new(2));
        for i in 0..2 {
            let meeting = Arc::clone(&meeting);
            pool.submit(move || {
                meeting.wait();
                i
            })
            .unwrap();
        }
        wakes.recv().unwrap();
        wakes.recv().unwrap();
        assert_eq!(pool.take().unwrap() + pool.take().unwrap(), 1);
    }

    #[test]
    fn what_was_not_taken_counts_against_the_bound() {
        let (mut pool, wakes) = pool(1, 2);
        pool.submit(|| 1).unwrap();
        pool.submit(|| 2).unwrap();
        let Full(refused) = pool.submit(|| 3).unwrap_err();
        wakes.recv().unwrap();
        assert!(pool.submit(|| 4).is_err(), "done but not taken");
        assert_eq!(pool.take(), Some(1));
        pool.submit(refused).unwrap();
        wakes.recv().unwrap();
        wakes.recv().unwrap();
        assert_eq!((pool.take(), pool.take()), (Some(2), Some(3)));
    }

    #[test]
    fn a_panic_reaches_the_owner_and_the_thread_goes_on() {
        let (mut pool, wakes) = pool(1, 2);
        pool.submit(|| panic!("of the test, on purpose")).unwrap();
        pool.submit(|| 7).unwrap();
        wakes.recv().unwrap();
        wakes.recv().unwrap();
        let panic = catch_unwind(AssertUnwindSafe(|| pool.take())).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"of the test, on purpose"));
        assert_eq!(pool.take(), Some(7));
    }

    #[test]
    fn dropping_waits_for_what_runs_and_throws_away_the_rest() {
        let (mut pool, _wakes) = pool(1, 10);
        let (began, begins) = channel();
        let (let_go, held) = channel::<()>();
        let (ended, ends) = channel();
        let never = ended.clone();
        pool.submit(move || {
            began.send(()).unwrap();
            held.recv().unwrap();
            ended.send("first").unwrap();
            1
        })
        .unwrap();
        begins.recv().unwrap();
        pool.submit(move || {
            never.send("second").unwrap();
            2
        })
        .unwrap();
        let shared = Arc::clone(&pool.shared);
        let dropper = std::thread::spawn(move || drop(pool));
        while !shared.queues().closed {
            std::thread::yield_now();
        }
        let_go.send(()).unwrap();
        dropper.join().unwrap();
        assert_eq!(ends.iter().collect::<Vec<_>>(), ["first"]);
    }
}
