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
use crate::logic::{Event, PIECE, STALL, TaskEnd};
use crate::runtime::{Cancel, Equipment, Runtimes, Task};

/// What a slot is to execute, one task after the other.
#[derive(Debug)]
struct Piece {
    spec: Arc<JobSpec>,
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
    /// What of the piece has not begun.
    rest: Range<u64>,
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
    /// When it got the piece, or an end of it was taken last.
    moved_at: Instant,
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
        equipment: &Equipment,
        wake: impl Fn() + Clone + Send + 'static,
    ) -> io::Result<Slots> {
        let clock = equipment.clock;
        let mut slots = Slots { clock, slots: Vec::new(), look_at: None };
        for number in 0..count {
            let shared = Arc::new(Shared::default());
            let thread = std::thread::Builder::new().name(format!("slot {number}"));
            let wake = WakeAtEnd(wake.clone());
            let runtimes = Runtimes::new(equipment.clone());
            let run = Executor { number, clock, runtimes, shared: shared.clone(), wake };
            let thread = Some(thread.spawn(move || run.run())?);
            let moved_at = clock.now();
            slots.slots.push(Slot { shared, thread, cancel: None, left: 0, moved_at });
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
        slot.moved_at = self.clock.now();
        if slot.left > 1 {
            self.look_at.get_or_insert(slot.moved_at + PIECE);
        }
        let mut state = slot.shared.state();
        state.piece = Some(Piece { spec, attempt, cancel });
        state.rest = tasks;
        drop(state);
        slot.shared.changed.notify_one();
    }

    /// Asks a slot to end what it executes and not to begin the rest.
    pub fn cancel(&self, number: u32) {
        if let Some(cancel) = self.slots.get(number as usize).and_then(|slot| slot.cancel.as_ref())
        {
            cancel.cancel();
        }
    }

    /// What ended since the last look.
    ///
    /// # Panics
    /// If a slot's thread did: a bug of ours, and its task would never end.
    pub fn take(&mut self) -> Option<Event<'static>> {
        let (mut ends, mut given_up) = (Vec::new(), Vec::new());
        let now = self.clock.now();
        let mut is_long_piece_out = false;
        for (slot, number) in self.slots.iter_mut().zip(0..) {
            if slot.left == 0 {
                continue;
            }
            let mut state = slot.shared.state();
            if !state.ends.is_empty() {
                slot.moved_at = now;
            }
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
        self.look_at = is_long_piece_out.then(|| now + PIECE);
        let is_any = !ends.is_empty() || !given_up.is_empty();
        is_any.then_some(Event::Ended { ends, given_up })
    }

    /// Takes back what stands behind a task that takes much longer than those before it did: a slot
    /// and the tasks that it will not begin.
    pub fn take_back(&mut self) -> Option<Event<'static>> {
        let now = self.clock.now();
        let stalled = |slot: &Slot| slot.left > 1 && now.since(slot.moved_at) >= STALL;
        for (slot, number) in self.slots.iter_mut().zip(0..) {
            if !stalled(slot) {
                continue;
            }
            let mut state = slot.shared.state();
            let count = state.rest.end - state.rest.start;
            // Where none of the piece has begun, the slot's thread got no time yet.
            if count > 0 && count < slot.left {
                slot.left -= count;
                let tasks = std::mem::take(&mut state.rest);
                return Some(Event::TakenBack { slot: number, tasks });
            }
        }
        None
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
    runtimes: Runtimes,
    shared: Arc<Shared>,
    wake: WakeAtEnd<W>,
}

impl<W: Fn()> Executor<W> {
    fn run(mut self) {
        while let Some(piece) = self.next_piece() {
            // The time of day may jump: it is asked for once in a piece, and what lies between is
            // measured.
            let epoch = time_of_day() - Duration(self.clock.now().0);
            let mut next = self.next_task(&piece, None);
            while let Some(index) = next {
                let (spec, attempt) = (piece.spec.as_ref(), piece.attempt);
                let task = Task { spec, index: TaskIndex(index), attempt, started: Instant(0) };
                let end = self.runtimes.execute(self.number, task, epoch, &piece.cancel);
                next = self.next_task(&piece, Some(end));
            }
            (self.wake.0)();
        }
    }

    /// Tells an end and says what is next; `None` where that was the last one, or the rest is given up.
    /// Both at once: the loop that saw the last end may hand over another piece.
    fn next_task(&self, piece: &Piece, end: Option<TaskEnd>) -> Option<u64> {
        let mut state = self.shared.state();
        state.ends.extend(end);
        if !state.rest.is_empty() && piece.cancel.is_cancelled() {
            state.has_given_up = true;
            state.rest = 0..0;
        }
        state.rest.next()
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use proto::description::{JobDescription, Noop, Runtime};
    use proto::ids::{Incarnation, JobId};
    use proto::status::{Cause, TaskState};

    use super::*;
    use crate::config::{InputsWay, WorkerConfig};
    use crate::inputs::Inputs;
    use crate::spawn::{HelperProgram, Spawner};

    fn spec(runtime: Runtime) -> Arc<JobSpec> {
        Arc::new(JobSpec {
            job: JobId(1),
            task_count: 1_000_000,
            program: Vec::new(),
            input_files: Vec::new(),
            description: JobDescription::new(runtime),
        })
    }

    struct Bench {
        slots: Slots,
        woken: mpsc::Receiver<()>,
        _data: tempfile::TempDir,
    }

    impl Bench {
        fn new(count: u32) -> Bench {
            let (wake, woken) = mpsc::channel();
            let wake = move || {
                // Nobody listens while the slots are dropped.
                let _ = wake.send(());
            };
            let data = tempfile::tempdir().unwrap();
            // What these tests execute needs no helper, so it is never started.
            let spawner = Spawner::open(data.path(), HelperProgram::this_one(None)).unwrap();
            // Nothing of theirs is on storage, so no address is asked.
            let client = Arc::new(client::Client::connect(Vec::new()).unwrap());
            let clock = Clock::start();
            let settings = WorkerConfig { inputs: InputsWay::Materialise, ..Default::default() };
            let (incarnation, reader) = (Incarnation(1), client.clone());
            let inputs = Inputs::open(data.path(), incarnation, &settings, clock, reader);
            let equipment = Equipment::new(clock, spawner, client, inputs.unwrap(), &[]);
            let slots = Slots::start(count, &equipment, wake).unwrap();
            Bench { slots, woken, _data: data }
        }

        /// Waits until so many tasks ended and slots gave up.
        fn wait(&mut self, end_count: usize, given_up_count: usize) -> (Vec<TaskEnd>, Vec<u32>) {
            let (mut ends, mut given_up) = (Vec::new(), Vec::new());
            while ends.len() < end_count || given_up.len() < given_up_count {
                self.woken.recv().unwrap();
                if let Some(Event::Ended { ends: more, given_up: slots }) = self.slots.take() {
                    ends.extend(more);
                    given_up.extend(slots);
                }
            }
            (ends, given_up)
        }
    }

    #[test]
    fn every_task_runs_once_in_order_with_its_own_outcome_and_times() {
        let noop = Noop { seed: 3, failed_per_million: 300_000, ..Noop::default() };
        let mut bench = Bench::new(2);
        let before = time_of_day();
        for round in 0..20 {
            for slot in 0..2 {
                let first = 1_000 * u64::from(round * 2 + slot);
                bench.slots.execute(slot, spec(Runtime::Noop(noop)), first..first + 1_000, 1);
            }
            let (ends, given_up) = bench.wait(2_000, 0);
            assert!(given_up.is_empty());
            for slot in 0..2 {
                let of_slot: Vec<&TaskEnd> = ends.iter().filter(|end| end.slot == slot).collect();
                let first = 1_000 * u64::from(round * 2 + slot);
                assert!(of_slot.iter().map(|end| end.task.0).eq(first..first + 1_000));
                for end in of_slot {
                    assert_eq!(end.exit_code, noop.outcome(end.task).exit_code);
                    assert_eq!(end.state == TaskState::Done, end.exit_code == 0);
                    // A step of the machine's clock during this test is not expected.
                    assert!(end.start_unix_us + 2 >= before.as_micros());
                }
            }
        }
    }

    #[test]
    fn a_task_takes_as_long_as_it_says() {
        let span = Duration::from_millis(3);
        let noop = Noop { shortest: span, longest: span, ..Noop::default() };
        let mut bench = Bench::new(1);
        bench.slots.execute(0, spec(Runtime::Noop(noop)), 0..2, 1);
        let (ends, _) = bench.wait(2, 0);
        assert!(ends.iter().all(|end| end.wall >= span));
        assert!(ends[1].start_unix_us >= ends[0].start_unix_us + span.as_micros());
    }

    #[test]
    fn what_stands_behind_a_long_task_is_taken_back_once() {
        let span = Duration::from_secs(3_600);
        let noop = Noop { shortest: span, longest: span, ..Noop::default() };
        let mut bench = Bench::new(1);
        bench.slots.execute(0, spec(Runtime::Noop(noop)), 5..9, 1);
        let taken_back = loop {
            if let Some(event) = bench.slots.take_back() {
                break event;
            }
            std::thread::yield_now();
        };
        let Event::TakenBack { slot: 0, tasks } = taken_back else { panic!("{taken_back:?}") };
        assert_eq!(tasks, 6..9);
        assert!(bench.slots.take_back().is_none());
        bench.slots.cancel(0);
        let (ends, given_up) = bench.wait(1, 0);
        assert!(ends[0].task.0 == 5 && ends.len() == 1 && given_up.is_empty());
    }

    #[test]
    fn each_task_is_of_its_piece_whenever_the_loop_looks_and_takes_back() {
        let mut bench = Bench::new(1);
        for seed in 0..5_000 {
            // Outcomes follow from the seed, so that a task shows of which piece it was.
            let noop = Noop { seed, failed_per_million: 500_000, ..Noop::default() };
            let mut wanted = 10 * seed..10 * seed + 1 + seed % 7;
            bench.slots.execute(0, spec(Runtime::Noop(noop)), wanted.clone(), 1);
            while !wanted.is_empty() {
                if let Some(Event::Ended { ends, .. }) = bench.slots.take() {
                    for end in ends {
                        assert_eq!(Some(end.task.0), wanted.next());
                        assert_eq!(end.exit_code, noop.outcome(end.task).exit_code, "{end:?}");
                    }
                }
                bench.slots.slots[0].moved_at = Instant(0);
                if let Some(Event::TakenBack { tasks, .. }) = bench.slots.take_back() {
                    assert!(tasks.start > wanted.start && tasks.end == wanted.end, "{tasks:?}");
                    wanted.end = tasks.start;
                }
            }
        }
    }

    #[test]
    fn a_cancelled_slot_ends_what_runs_and_gives_up_the_rest() {
        let span = Duration::from_secs(3_600);
        let noop = Noop { shortest: span, longest: span, ..Noop::default() };
        let mut bench = Bench::new(2);
        bench.slots.execute(0, spec(Runtime::Noop(noop)), 5..9, 1);
        bench.slots.execute(1, spec(Runtime::Noop(Noop::default())), 0..1, 1);
        assert_eq!(bench.wait(1, 0).0[0].slot, 1);
        assert!(bench.slots.next_deadline().is_some(), "a piece of several tasks is out");
        bench.slots.cancel(0);
        let (ends, given_up) = bench.wait(0, 1);
        // It may have been cancelled before it began the first task.
        assert!(ends.len() <= 1 && given_up == [0]);
        assert!(
            ends.iter().all(|end| (end.state, end.cause) == (TaskState::Lost, Cause::Cancelled))
        );
        assert_eq!(bench.slots.next_deadline(), None);
        // The next piece is not cancelled, and dropping the slots does not wait for an hour.
        bench.slots.execute(0, spec(Runtime::Noop(Noop::default())), 0..1, 2);
        assert_eq!(bench.wait(1, 0).0[0].state, TaskState::Done);
        bench.slots.execute(0, spec(Runtime::Noop(noop)), 9..10, 3);
    }
}
