//! Many seeds on all cores, each run in one thread of its own.
//!
//! A run that panics is a failure like one that breaks a promise: both end with the seed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::planted::Planted;
use crate::report::{Report, Summary};
use crate::trace::Print;
use crate::world::World as Simulated;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Hash of the trace; equal for equal seeds.
    pub trace: u64,
    /// Events of the trace.
    pub events: u64,
    /// What happened.
    pub report: Report,
    /// The first promise that was broken, in words.
    pub failure: Option<String>,
}

/// Which cluster is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// Three members of a replicated bank and its clients: the masters' log alone.
    Bank,
    /// All tiers, running jobs.
    Pipeline,
}

impl World {
    /// Both.
    pub const ALL: [World; 2] = [World::Bank, World::Pipeline];

    /// Runs one seed.
    #[must_use]
    pub fn run(self, seed: u64, print: Print) -> Outcome {
        match self {
            World::Bank => Simulated::of_seed(seed, print).run(),
            World::Pipeline => Simulated::pipeline_of_seed(seed, print).run(),
        }
    }
}

impl std::fmt::Display for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            World::Bank => "bank",
            World::Pipeline => "pipeline",
        })
    }
}

/// A seed that failed and why.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Of which cluster.
    pub world: World,
    /// The mistake that was planted there.
    pub planted: Option<Planted>,
    /// The seed.
    pub seed: u64,
    /// What was broken.
    pub text: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} seed {}: {}", self.world, self.seed, self.text)?;
        match self.planted {
            None => write!(f, "reproduce: make sim WORLD={} SEED={}", self.world, self.seed),
            Some(mistake) => {
                write!(f, "reproduce: make sim PLANTED={} SEED={}", mistake.name(), self.seed)
            }
        }
    }
}

/// Runs one seed with a mistake that the checkers must find.
#[must_use]
pub fn run_with(mistake: Planted, seed: u64, print: Print) -> Outcome {
    let mut world = match mistake.world() {
        World::Bank => Simulated::of_seed(seed, print),
        World::Pipeline => Simulated::pipeline_of_seed(seed, print),
    };
    world.plant(mistake);
    world.run()
}

/// Runs one seed; a panic becomes a failure.
fn guarded(world: World, seed: u64, run: impl Fn(u64) -> Outcome) -> Result<Report, Failure> {
    match catch_unwind(AssertUnwindSafe(|| run(seed))) {
        Ok(Outcome { failure: None, report, .. }) => Ok(report),
        Ok(Outcome { failure: Some(text), .. }) => {
            Err(Failure { world, planted: None, seed, text })
        }
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
            let text = format!("panicked: {}", text.unwrap_or_default());
            Err(Failure { world, planted: None, seed, text })
        }
    }
}

/// Runs seeds from `first` on while `more` says so (it is asked before each), on all cores.
/// Returns what happened and which seeds failed, in the order of the seeds.
pub fn run_while(
    world: World,
    first: u64,
    more: impl Fn(u64) -> bool + Sync,
    run: impl Fn(u64) -> Outcome + Sync,
) -> (Summary, Vec<Failure>) {
    let next = AtomicU64::new(first);
    let results = Mutex::new(Vec::new());
    let threads = thread::available_parallelism().map_or(1, |threads| threads.get());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if !more(seed) {
                        break;
                    }
                    let result = guarded(world, seed, &run);
                    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                    results.push((seed, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_unstable_by_key(|(seed, _)| *seed);
    let (mut summary, mut failures) = (Summary::default(), Vec::new());
    for (_, result) in results {
        match result {
            Ok(report) => summary.add(report),
            Err(failure) => failures.push(failure),
        }
    }
    (summary, failures)
}
