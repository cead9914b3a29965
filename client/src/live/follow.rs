//! Following one task from before its beginning to its end: from its worker while it runs, from
//! storage when its result is recorded, every byte once.
//!
//! How much was shown is [`Position`]'s matter, whom to ask [`Workers`]'. This only takes turns and
//! waits in between.

use std::collections::VecDeque;

use proto::ids::{JobId, TaskIndex};
use proto::status::{Cause, OutputKind, TaskState};
use proto::time::{Duration, Instant};

use super::{WorkerPlace, Workers};
use crate::blocking::Client;
use crate::error::ClientError;
use crate::logic::answers::OutcomeRun;
use crate::logic::live::{Chunk, Position, Shown};

/// The waits between two looks, doubled while nothing comes: the first, the longest for a task that
/// prints, and the longest for one that is looked for.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_RUNNING: Duration = Duration::from_millis(200);
const PAUSE_SEARCHING: Duration = Duration::from_millis(500);

/// The end of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskEnded {
    /// Done, failed or cancelled.
    pub state: TaskState,
    /// Exit code, minus the signal's number where one ended it.
    pub exit_code: i32,
    /// Why.
    pub cause: Cause,
}

/// How often it is looked whether a running task ended, or runs elsewhere, although its worker says
/// that it goes on: a worker that the masters have given up may not know it.
const LOOK_AROUND: Duration = Duration::from_secs(5);

/// Looking for a task means asking all workers. For each of them it is done this much more seldom,
/// so that a thousand are asked once in a second.
const PAUSE_PER_WORKER: Duration = Duration::from_millis(1);

/// What happens to a task that is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FollowEvent {
    /// An attempt, whose output follows from its beginning, or more of its output.
    Shown(Shown),
    /// The task printed more than is kept: the rest of this stream is lost.
    Cut(OutputKind),
    /// Its result is recorded and all its output was shown.
    Ended(TaskEnded),
}

/// A task that is followed.
#[derive(Debug)]
pub struct TaskFollow<'a> {
    workers: Workers<'a>,
    job: JobId,
    task: TaskIndex,
    position: Position,
    stage: Stage,
    pause: Duration,
    /// When it is looked around while the task runs.
    look_due: Instant,
    events: VecDeque<FollowEvent>,
}

#[derive(Debug)]
enum Stage {
    /// It does not run, or nobody knows yet where.
    Searching,
    /// It runs there.
    Running(WorkerPlace),
    Ended,
}

impl Client {
    /// Follows a task: see [`TaskFollow::next_event`].
    ///
    /// # Errors
    /// As [`Client::workers`].
    pub fn follow_task(&self, job: JobId, task: TaskIndex) -> Result<TaskFollow<'_>, ClientError> {
        Ok(TaskFollow {
            workers: self.workers()?,
            job,
            task,
            position: Position::default(),
            stage: Stage::Searching,
            pause: PAUSE,
            look_due: Instant(0),
            events: VecDeque::new(),
        })
    }
}

impl TaskFollow<'_> {
    /// Waits for the next thing that happens to the task, however long that takes; `None` after its
    /// end.
    ///
    /// # Errors
    /// [`ClientError`] where the masters or storage do not answer, or there is no such task. The
    /// call may be repeated.
    pub fn next_event(&mut self) -> Result<Option<FollowEvent>, ClientError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            let place = match &self.stage {
                Stage::Ended => return Ok(None),
                Stage::Searching => None,
                Stage::Running(place) => Some(place.clone()),
            };
            match place {
                Some(_) if self.look_due <= self.workers.now() => {
                    // Where it runs nowhere in a later attempt, its worker is asked on.
                    let later = self.position.attempt().map_or(0, |it| it.saturating_add(1));
                    self.search(later)?;
                }
                Some(place) => self.pull(&place),
                None => {
                    if !self.search(self.position.attempt().unwrap_or(0))? {
                        let longest = PAUSE_SEARCHING.max(self.workers.pause(PAUSE_PER_WORKER));
                        self.wait(longest);
                    }
                }
            }
        }
    }

    /// What the task printed so far, without waiting for anything.
    ///
    /// # Errors
    /// As [`TaskFollow::next_event`].
    pub fn so_far(&mut self) -> Result<Vec<FollowEvent>, ClientError> {
        if let Stage::Searching = self.stage {
            self.search(0)?;
        }
        let mut all = Vec::new();
        loop {
            let place = match &self.stage {
                Stage::Running(place) => Some(place.clone()),
                Stage::Searching | Stage::Ended => None,
            };
            let is_more = place.is_some_and(|place| self.pull_once(&place) == Pulled::More);
            all.extend(self.events.drain(..));
            if !is_more {
                return Ok(all);
            }
        }
    }

    /// The worker that executes it, where that is known.
    #[must_use]
    pub fn worker(&self) -> Option<&WorkerPlace> {
        match &self.stage {
            Stage::Running(place) => Some(place),
            Stage::Searching | Stage::Ended => None,
        }
    }

    fn wait(&mut self, longest: Duration) {
        self.workers.wait(self.pause);
        self.pause = self.pause.times(2).min(longest);
    }

    /// Looks whether it ended, else where it runs in this attempt or a later one. True where one of
    /// both is known now.
    fn search(&mut self, from_attempt: u64) -> Result<bool, ClientError> {
        // In this order: a task that ends between the two looks is found at the next one, and a
        // result that was there at the first is never missed.
        let page = self.workers.client.outcomes(self.job, self.task.0, 1)?;
        let run = page.items.into_iter().find(|run| run.tasks.contains(&self.task.0));
        let run = run.ok_or(ClientError::NoTask { job: self.job, task: self.task })?;
        if matches!(run.state, TaskState::Done | TaskState::Failed | TaskState::Cancelled) {
            self.take_recorded(&run)?;
            self.stage = Stage::Ended;
            return Ok(true);
        }
        let found = self.workers.find(self.job, self.task, from_attempt)?;
        let wait = LOOK_AROUND.max(self.workers.pause(PAUSE_PER_WORKER));
        self.look_due = self.workers.now() + wait;
        let Some(place) = found else { return Ok(false) };
        self.stage = Stage::Running(place);
        self.pause = PAUSE;
        Ok(true)
    }

    fn pull(&mut self, place: &WorkerPlace) {
        match self.pull_once(place) {
            Pulled::More => self.pause = PAUSE,
            Pulled::NoMoreYet => self.wait(PAUSE_RUNNING),
            Pulled::Gone => {
                // It ended, or its worker did.
                self.stage = Stage::Searching;
                self.pause = PAUSE;
                self.wait(PAUSE_SEARCHING);
            }
        }
    }

    fn pull_once(&mut self, place: &WorkerPlace) -> Pulled {
        let kinds = [OutputKind::Stdout, OutputKind::Stderr];
        let offsets = kinds.map(|kind| (kind, self.position.offset(kind)));
        let (position, events) = (&mut self.position, &mut self.events);
        let mut pulled = Pulled::Gone;
        self.workers.pull(place, self.job, self.task, offsets, &mut |chunk| {
            let shown = position.live(chunk);
            match (pulled, shown.is_empty()) {
                (_, false) => pulled = Pulled::More,
                (Pulled::Gone, true) => pulled = Pulled::NoMoreYet,
                (_, true) => {}
            }
            events.extend(shown.into_iter().map(FollowEvent::Shown));
        });
        pulled
    }

    fn take_recorded(&mut self, run: &OutcomeRun) -> Result<(), ClientError> {
        let client = self.workers.client;
        let printed = match run.state {
            TaskState::Cancelled => None,
            // With the result the masters learn where its output is.
            _ => client.outputs(self.job, self.task.0..self.task.0 + 1).next_task()?,
        };
        let (attempt, outputs) = printed.map(|it| (it.attempt, it.outputs)).unwrap_or_default();
        for output in outputs {
            let kind = output.kind;
            if !matches!(kind, OutputKind::Stdout | OutputKind::Stderr) {
                continue;
            }
            let content = client.read_output(&output)?;
            let chunk = Chunk { attempt, kind, offset: 0, content: &content };
            let shown = self.position.recorded(chunk);
            self.events.extend(shown.into_iter().map(FollowEvent::Shown));
            if output.is_cut {
                self.events.push_back(FollowEvent::Cut(kind));
            }
        }
        let OutcomeRun { state, exit_code, cause, .. } = *run;
        self.events.push_back(FollowEvent::Ended(TaskEnded { state, exit_code, cause }));
        Ok(())
    }
}

/// What came of asking for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pulled {
    More,
    NoMoreYet,
    /// Its worker does not execute it any more, or does not answer.
    Gone,
}
