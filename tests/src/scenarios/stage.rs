//! What named stories share: a small cluster of all tiers, a job, and what is left at the end.

use std::sync::Arc;

use ::master::logic::cluster::Cluster;
use ::master::logic::jobs::Job;
use proto::description::Noop;
use proto::ids::JobId;
use proto::record::{Message, Record};
use proto::time::{Duration, Instant};

use crate::faults::Swarm;
use crate::pipeline::worker;
use crate::process::Recipe;
use crate::process::jobs::JobPlan;
use crate::runs::Outcome;
use crate::story::{Notes, Plot, Scene, What};
use crate::trace::Print;
use crate::world::World;

/// The first job of a story.
pub const JOB: JobId = JobId(9 << 64 | 1);

/// The second job of a story that has two.
pub const SECOND_JOB: JobId = JobId(9 << 64 | 2);

/// When the first job is submitted: everybody has met by then.
pub(super) const SUBMITTED: Duration = Duration::from_secs(6);

/// When the faults of a story end at the latest.
const END: Duration = Duration::from_secs(40);

/// What is left of a story.
#[derive(Clone, Debug)]
pub struct Told {
    /// How the run ended.
    pub outcome: Outcome,
    /// What was noted.
    pub notes: Notes,
    end: Cluster,
}

impl Told {
    /// A job as the masters have it at the end.
    ///
    /// # Panics
    /// Where they have no such job.
    #[must_use]
    pub fn job(&self, job: JobId) -> &Arc<Job> {
        self.end.jobs.get(&job).expect("the job was submitted")
    }

    /// What the masters have at the end.
    #[must_use]
    pub fn end(&self) -> &Cluster {
        &self.end
    }

    /// How often something happened.
    #[must_use]
    pub fn count(&self, fact: &str) -> u64 {
        self.notes.count(fact)
    }
}

/// The milliseconds as a span.
pub(super) const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A job of so many tasks, each of which takes so long and ends well.
pub(super) fn job(task_count: u64, each: Duration) -> JobPlan {
    let noop = Noop { seed: 1, shortest: each, longest: each, ..Noop::default() };
    JobPlan::new(JOB, SUBMITTED, noop, task_count)
}

/// The same, but every task fails.
pub(super) fn failing(plan: &JobPlan) -> JobPlan {
    JobPlan { noop: Noop { failed_per_million: 1_000_000, ..plan.noop }, ..plan.clone() }
}

/// Three masters, two balancers, a worker for each number of slots, and who submits the jobs where
/// there are any.
pub(super) fn cast(slots: &[u32], jobs: Vec<JobPlan>) -> Vec<Recipe> {
    cast_with(2, slots, jobs)
}

/// The same with so many balancers.
pub(super) fn cast_with(balancers: usize, slots: &[u32], jobs: Vec<JobPlan>) -> Vec<Recipe> {
    let mut recipes: Vec<Recipe> = (0..3).map(|place| Recipe::Master { place }).collect();
    recipes.extend((0..balancers).map(|place| Recipe::Balancer { place }));
    recipes.extend(slots.iter().enumerate().map(|(place, &slots)| worker(place, slots)));
    if !jobs.is_empty() {
        recipes.push(Recipe::JobClient { place: 0, jobs, is_curious: false });
    }
    recipes
}

/// The world of a story before it begins.
pub(super) fn stage(recipes: Vec<Recipe>) -> World {
    let mut world = World::of(1, Swarm::calm(), Print::Nothing, recipes);
    world.heal_at(Instant(0) + END);
    world
}

/// Tells a story to its end.
pub(super) fn tell(mut world: World, plot: Plot) -> Told {
    world.tell(plot);
    let (outcome, notes, end) = world.run_told();
    Told { outcome, notes, end: end.unwrap_or_default() }
}

/// The record that arrives, where it is one of this type, and from whom.
pub(super) fn arrives<'a, M: Message>(scene: &'a Scene<'_>) -> Option<(&'a str, M)> {
    let What::Arrives(from, record) = scene.what else { return None };
    Some((from, read(record)?))
}

fn read<M: Message>(record: &Record<'_>) -> Option<M> {
    (record.message_type() == M::TYPE).then(|| record.read::<M>().ok()).flatten()
}

/// True where a worker begins tasks.
pub(super) fn begins(scene: &Scene<'_>) -> bool {
    matches!(scene.what, What::Begins(..))
}
