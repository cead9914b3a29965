//! How other threads wake an event loop out of its poll.
//!
//! A system call is made only while the loop is parked; a loop at work costs its wakers one atomic
//! operation. What is to be done then, the loop looks up in its own queues.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::event::EventfdFlags;

/// The loop works, and nobody has woken it since its last look.
const WORKING: u8 = 0;
/// The loop waits in its poll, or is about to.
const PARKED: u8 = 1;
/// Somebody woke it: it must not park before its next look.
const WOKEN: u8 = 2;

/// Wakes one event loop; clones wake the same.
#[derive(Clone, Debug)]
pub struct Waker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: AtomicU8,
    event: OwnedFd,
}

impl Waker {
    /// A waker and its event descriptor.
    ///
    /// # Errors
    /// Where the process has no descriptor left.
    pub(crate) fn new() -> io::Result<Waker> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Waker { shared: Arc::new(Shared { state: AtomicU8::new(WORKING), event }) })
    }

    /// Makes the loop look at its queues once more. Call it after what it should find is there.
    pub fn wake(&self) {
        // Release: whoever sees WOKEN sees what was queued before. The swap and those of the loop
        // are in one order: either the loop parked before, and is written to, or it finds WOKEN
        // when it wants to park, and does not.
        if self.shared.state.swap(WOKEN, Ordering::AcqRel) == PARKED {
            // It fails only where the counter is full, and then the loop wakes anyway.
            let _ = rustix::io::write(&self.shared.event, &1u64.to_ne_bytes());
        }
    }

    /// The loop wants to wait. False where it must look at its queues first.
    pub(crate) fn park(&self) -> bool {
        let state = &self.shared.state;
        state.compare_exchange(WORKING, PARKED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The loop is awake and about to look at its queues: wakes from here on count for the next
    /// time. `readable` says that the descriptor was.
    pub(crate) fn unpark(&self, readable: bool) {
        // Acquire: what was queued before a wake that is taken back here is seen in the look.
        self.shared.state.swap(WORKING, Ordering::AcqRel);
        if readable {
            let mut count = [0; 8];
            // Nothing to read is as good: it was only to be emptied.
            let _ = rustix::io::read(&self.shared.event, &mut count);
        }
    }

    /// For the poll; valid as long as this waker lives.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.shared.event.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_readable(waker: &Waker) -> bool {
        let mut count = [0; 8];
        rustix::io::read(&waker.shared.event, &mut count).is_ok()
    }

    #[test]
    fn the_descriptor_is_written_only_for_a_parked_loop_and_once() {
        let waker = Waker::new().unwrap();
        waker.wake();
        assert!(!is_readable(&waker));
        assert!(!waker.park(), "it was woken and has not looked");
        waker.unpark(false);
        assert!(waker.park());
        waker.wake();
        waker.wake();
        assert!(is_readable(&waker));
        waker.unpark(false);
        assert!(waker.park());
        assert!(!is_readable(&waker));
    }
}
