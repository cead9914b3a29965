//! One value that one thread makes and another one waits for, by blocking or as a future.
//!
//! A channel of one value of its own, because the standard library's can only be blocked on. It
//! needs no runtime: the future is woken by whoever completes it, under any executor.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use proto::time::Duration;

#[derive(Debug)]
struct State<T> {
    value: Option<T>,
    is_closed: bool,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

impl<T> Shared<T> {
    // A panic elsewhere leaves the value as it was: there is nothing half done to be afraid of.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, value: Option<T>) {
        let waker = {
            let mut state = self.lock();
            if value.is_some() {
                state.value = value;
            }
            state.is_closed = true;
            state.waker.take()
        };
        self.changed.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The value will not come: whoever should have made it has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the client was stopped")
    }
}

impl std::error::Error for Closed {}

/// The end that makes the value. Dropped without one, it closes the other end.
#[derive(Debug)]
pub(crate) struct Completer<T>(Arc<Shared<T>>);

impl<T> Completer<T> {
    pub(crate) fn complete(self, value: T) {
        self.0.close(Some(value));
    }
}

impl<T> Drop for Completer<T> {
    fn drop(&mut self) {
        if !self.0.lock().is_closed {
            self.0.close(None);
        }
    }
}

/// The end that waits: [`Pending::wait`], or `await` it under any executor.
#[derive(Debug)]
#[must_use = "what was begun goes on, but nobody learns how it ended"]
pub struct Pending<T>(Arc<Shared<T>>);

impl<T> Pending<T> {
    /// Blocks until the value is there.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn wait(self) -> Result<T, Closed> {
        let mut state = self.0.lock();
        loop {
            if let Some(value) = state.value.take() {
                return Ok(value);
            }
            if state.is_closed {
                return Err(Closed);
            }
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The value where it comes within `longest`; `None` leaves it to be waited for again.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn wait_for(&mut self, longest: Duration) -> Result<Option<T>, Closed> {
        let state = self.0.lock();
        let is_open = |state: &mut State<T>| state.value.is_none() && !state.is_closed;
        let waited = self.0.changed.wait_timeout_while(state, longest.to_std(), is_open);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match state.value.take() {
            Some(value) => Ok(Some(value)),
            None if state.is_closed => Err(Closed),
            None => Ok(None),
        }
    }

    /// The value where it is there already.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn try_take(&mut self) -> Result<Option<T>, Closed> {
        let mut state = self.0.lock();
        match state.value.take() {
            Some(value) => Ok(Some(value)),
            None if state.is_closed => Err(Closed),
            None => Ok(None),
        }
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T, Closed>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.lock();
        if let Some(value) = state.value.take() {
            return Poll::Ready(Ok(value));
        }
        if state.is_closed {
            return Poll::Ready(Err(Closed));
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

/// The two ends.
pub(crate) fn completion<T>() -> (Completer<T>, Pending<T>) {
    let state = State { value: None, is_closed: false, waker: None };
    let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
    (Completer(Arc::clone(&shared)), Pending(shared))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_value_crosses_threads() {
        let (completer, mut pending) = completion();
        assert_eq!(pending.wait_for(Duration::from_millis(1)), Ok(None));
        let waiter = std::thread::spawn(move || pending.wait());
        completer.complete(7);
        assert_eq!(waiter.join().unwrap(), Ok(7));
    }

    #[test]
    fn a_dropped_end_closes_the_other() {
        let (completer, mut pending) = completion::<u8>();
        assert_eq!(pending.try_take(), Ok(None));
        drop(completer);
        assert_eq!(pending.try_take(), Err(Closed));
        assert_eq!(pending.wait_for(Duration::from_secs(600)), Err(Closed));
        assert_eq!(pending.wait(), Err(Closed));
    }

    struct Count(AtomicU32);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_future_is_woken_once_its_value_is_there() {
        let (completer, mut pending) = completion();
        let count = Arc::new(Count(AtomicU32::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let mut context = Context::from_waker(&waker);
        assert!(Pin::new(&mut pending).poll(&mut context).is_pending());
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
        completer.complete("here");
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert_eq!(Pin::new(&mut pending).poll(&mut context), Poll::Ready(Ok("here")));
    }
}
