//! The threads that execute tasks, one for each slot, and what they hand back.
//!
//! Each slot has at most one piece of work, a few tasks of one job, and puts the end of each task
//! where the loop finds it. The loop is woken when a piece is done, and looks by itself while one
//! takes longer than it should. Deliberately not here: what a runtime does.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use node::clock::{Clock, time_of_day};
use proto::ids::TaskIndex;
use proto::time::{Duration, Instant};

use crate::logic::job::JobSpec;
use crate::logic::{Event, PIECE, TaskEnd};
use crate::runtime::{Cancel, Runtimes, Task};

/// What a slot is to execute, one task after the other.
#[derive(Debug)]
struct Piece {
    spec: Arc<JobSpec>,
    tasks: Range<u64>,
    attempt: u64,
    cancel: Cancel,
}

/// What a slot's thread and the loop share.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    piece: Option<Piece>,
    ends: Vec<TaskEnd>,
    /// The piece was cancelled and the rest of it will not begin.
    has_given_up: bool,
    is_closed: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is half done where a holder panics, so the state is good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Slot {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Of the piece that it has.
    cancel: Option<Cancel>,
    /// Tasks of it whose end was not taken yet.
    left: u64,
}

/// The slots of a worker. Dropping them cancels what runs and waits for it.
#[derive(Debug)]
pub struct Slots {
    clock: Clock,
    slots: Vec<Slot>,
    /// When the loop looks without being woken; `None` while no piece has several tasks.
    look_at: Option<Instant>,
}

impl Slots {
    /// Starts `count` threads. `wake` is called from them when a piece is done.
    ///
    /// # Errors
    /// Where the operating system refuses a thread.
    pub fn start(
        count: u32,
        clock: Clock,
        wake: impl Fn() + Clone + Send + 'static,
    ) -> io::Result<Slots> {
        let mut slots = Slots { clock, slots: Vec::new(), look_at: None };
        for number in 0..count {
            let shared = Arc::new(Shared::default());
            let thread = std::thread::Builder::new().name(format!("slot {number}"));
            let wake = WakeAtEnd(wake.clone());
            let run = Executor { number, clock, shared: shared.clone(), wake };
            let thread = Some(thread.spawn(move || run.run())?);
            slots.slots.push(Slot { shared, thread, cancel: None, left: 0 });
        }
        Ok(slots)
    }

    /// Hands tasks to a slot.
    ///
    /// # Panics
    /// If the slot has tasks, or does not exist: a bug of ours.
    pub fn execute(&mut self, number: u32, spec: Arc<JobSpec>, tasks: Range<u64>, attempt: u64) {
        let slot = &mut self.slots[number as usize];
        assert_eq!(slot.left, 0, "slot {number} has tasks");
        let Some(thread) = &slot.thread else { return };
        let cancel = Cancel::new(thread.thread().clone());
        slot.cancel = Some(cancel.clone());
        slot.left = tasks.end - tasks.start;
        if slot.left > 1 {
            self.look_at.get_or_insert(self.clock.now() + PIECE);
        }
        slot.shared.state().piece = Some(Piece { spec, tasks, attempt, cancel });
        slot.shared.changed.notify_one();
    }

    /// Asks a slot to end what it executes and not to begin the rest.
    pub fn cancel(&self, number: u32) {
        if let Some(cancel) = self.slots.get(number as usize).and_then(|slot| slot.cancel.as_ref()) {
            cancel.cancel();
        }
    }

    /// What ended since the last look.
    ///
    /// # Panics
    /// If a slot's thread did: a bug of ours, and its task would never end.
    pub fn take(&mut self) -> Option<Event<'static>> {
        let (mut ends, mut given_up) = (Vec::new(), Vec::new());
        let mut is_long_piece_out = false;
        for (slot, number) in self.slots.iter_mut().zip(0..) {
            if slot.left == 0 {
                continue;
            }
            let mut state = slot.shared.state();
            slot.left -= state.ends.len() as u64;
            ends.append(&mut state.ends);
            if std::mem::take(&mut state.has_given_up) {
                slot.left = 0;
                given_up.push(number);
            }
            is_long_piece_out |= slot.left > 1;
            drop(state);
            if slot.thread.as_ref().is_some_and(JoinHandle::is_finished)
                && let Some(Err(panic)) = slot.thread.take().map(JoinHandle::join)
            {
                std::panic::resume_unwind(panic);
            }
        }
        self.look_at = is_long_piece_out.then(|| self.clock.now() + PIECE);
        let is_any = !ends.is_empty() || !given_up.is_empty();
        is_any.then_some(Event::Ended { ends, given_up })
    }

    /// When to look although nobody woke the loop: a task in the middle of a piece may take long,
    /// and the ends before it are not to wait for it.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.look_at
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        for slot in &self.slots {
            slot.shared.state().is_closed = true;
            slot.shared.changed.notify_one();
            slot.cancel.iter().for_each(Cancel::cancel);
        }
        for slot in &mut self.slots {
            let joined = slot.thread.take().map(JoinHandle::join);
            if let Some(Err(panic)) = joined
                && !std::thread::panicking()
            {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// Wakes the loop, at the latest when its thread ends.
struct WakeAtEnd<W: Fn()>(W);

impl<W: Fn()> Drop for WakeAtEnd<W> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// One slot's thread.
struct Executor<W: Fn()> {
    number: u32,
    clock: Clock,
    shared: Arc<Shared>,
    wake: WakeAtEnd<W>,
}

impl<W: Fn()> Executor<W> {
    fn run(self) {
        let mut runtimes = Runtimes::new(self.clock);
        while let Some(piece) = self.next_piece() {
            // The time of day may jump: it is asked for once in a piece, and what lies between is
            // measured.
            let epoch = time_of_day() - Duration(self.clock.now().0);
            let mut has_given_up = false;
            for index in piece.tasks.clone() {
                if piece.cancel.is_cancelled() {
                    has_given_up = true;
                    break;
                }
                let (spec, attempt) = (piece.spec.as_ref(), piece.attempt);
                let task = Task { spec, index: TaskIndex(index), attempt, started: Instant(0) };
                let end = runtimes.execute(self.number, task, epoch, &piece.cancel);
                self.shared.state().ends.push(end);
            }
            if has_given_up {
                self.shared.state().has_given_up = true;
            }
            (self.wake.0)();
        }
    }

    /// Waits for work; `None` at the end.
    fn next_piece(&self) -> Option<Piece> {
        let mut state = self.shared.state();
        loop {
            if state.is_closed {
                return None;
            }
            if let Some(piece) = state.piece.take() {
                return Some(piece);
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
