//! Stories of balancers that die, come back, or reach nobody.

use std::collections::BTreeSet;

use proto::messages::node::{DealMark, LeaseReply};
use proto::messages::task::WorkerRequest;
use proto::time::{Duration, Instant};

use super::stage::{Told, arrives, begins, cast, job, ms, stage, tell};
use crate::faults::{Death, Fault};
use crate::planted::Planted;
use crate::story::{Scene, Turn, What};
use crate::world::World;

/// Who deals, and who follows.
#[derive(Default)]
struct Group {
    primary: Option<String>,
    epoch: u64,
}

impl Group {
    /// Looks at a deal: true for the first one.
    fn sees(&mut self, scene: &Scene<'_>, turn: &mut Turn) -> bool {
        let Some((from, request)) = arrives::<WorkerRequest>(scene) else { return false };
        let is_first = self.primary.is_none();
        let primary = self.primary.get_or_insert_with(|| from.to_owned());
        if is_first {
            self.epoch = request.epoch;
        } else if request.epoch > self.epoch {
            turn.fact(match *primary == from {
                true => "the same balancer dealt under a higher epoch",
                false => "the other balancer dealt under a higher epoch",
            });
        }
        is_first
    }

    fn primary(&self) -> String {
        self.primary.clone().unwrap_or_default()
    }

    fn auxiliary(&self, scene: &Scene<'_>) -> String {
        let other = scene.names("b").into_iter().find(|name| Some(name) != self.primary.as_ref());
        other.unwrap_or_default()
    }
}

/// The primary is killed while tasks run, and back long before its lease is over.
#[must_use]
pub fn a_balancer_is_killed_and_back_within_its_own_lease() -> Told {
    let world = stage(cast(&[2, 2], vec![job(20, ms(400))]));
    let mut group = Group::default();
    tell(
        world,
        Box::new(move |scene, turn| {
            if group.sees(scene, turn) {
                let (process, death) = (scene.named(&group.primary()), Death::Killed);
                turn.begin_after(ms(700), Fault::Crash { process, death, down: ms(100) });
            }
        }),
    )
}

/// The primary of a job that needs no marks dies while tasks run. All workers reach the other one.
#[must_use]
pub fn a_primary_dies_whose_job_is_small() -> Told {
    let world = stage(cast(&[2, 2], vec![job(20, ms(400))]));
    let (mut group, mut died_at) = (Group::default(), None);
    tell(
        world,
        Box::new(move |scene, turn| {
            if group.sees(scene, turn) {
                let (process, death) = (scene.named(&group.primary()), Death::Killed);
                let down = Duration::from_secs(25);
                turn.begin_after(ms(700), Fault::Crash { process, death, down });
                died_at = Some(scene.now + ms(700));
            }
            if let Some((from, _)) = arrives::<WorkerRequest>(scene)
                && from != group.primary()
                && died_at.is_some_and(|at| scene.now.since(at) < Duration::from_secs(3))
            {
                turn.fact("the other balancer dealt before the workers' time was over");
            }
        }),
    )
}

/// The primary is cut off from all workers, and from nobody else.
#[must_use]
pub fn a_balancer_renews_its_lease_and_reaches_no_worker() -> Told {
    let world = stage(cast(&[2, 2], vec![job(40, ms(400))]));
    let (mut group, mut is_parted) = (Group::default(), false);
    tell(
        world,
        Box::new(move |scene, turn| {
            group.sees(scene, turn);
            if begins(scene) && !std::mem::replace(&mut is_parted, true) {
                let (primary, lasts) = ([group.primary()], Duration::from_secs(30));
                turn.part(scene, &primary, &scene.names("w"), lasts);
            }
        }),
    )
}

/// Tasks that began, and those that began once more before the workers had their time to tell the
/// new primary of them.
struct Watch {
    begun: BTreeSet<u64>,
    died_at: Option<Instant>,
}

impl Watch {
    fn new() -> Watch {
        Watch { begun: BTreeSet::new(), died_at: None }
    }

    fn sees(&mut self, scene: &Scene<'_>, turn: &mut Turn) {
        let What::Begins(_, tasks, _) = &scene.what else { return };
        let is_early = self.died_at.is_some_and(|at| scene.now.since(at) < Duration::from_secs(3));
        for task in (*tasks).clone() {
            if !self.begun.insert(task) {
                turn.fact(match is_early {
                    true => "a task began again while its worker was waited for",
                    false => "a task began again when its worker had its time",
                });
            }
        }
    }
}

/// The worker has free slots only when all tasks are dealt.
fn comes_late(world: &mut World, name: &str) {
    let (process, death) = (world.named(name).expect("it is cast"), Death::Killed);
    let late = Fault::Crash { process, death, down: ms(5_400) };
    world.enter(Instant(1_000_000), late);
}

/// A worker has tasks of the old primary, and the new one does not hear of it: neither what it
/// holds nor what ends there. The job is so large that marks are needed.
#[must_use]
pub fn the_new_primary_cannot_reach_a_worker(mistake: Option<Planted>) -> Told {
    let mut world = stage(cast(&[40, 40, 40], vec![job(80, Duration::from_secs(6))]));
    comes_late(&mut world, "w3");
    if let Some(mistake) = mistake {
        world.plant(mistake);
    }
    let (mut group, mut watch) = (Group::default(), Watch::new());
    tell(
        world,
        Box::new(move |scene, turn| {
            watch.sees(scene, turn);
            if group.sees(scene, turn) {
                // The second one is dealt more than the grant implies.
                let (worker, auxiliary) = (["w2".to_owned()], [group.auxiliary(scene)]);
                turn.part(scene, &worker, &auxiliary, Duration::from_secs(8));
                let process = scene.named(&group.primary());
                let (death, down) = (Death::Killed, Duration::from_secs(25));
                turn.begin_after(ms(500), Fault::Crash { process, death, down });
                watch.died_at = Some(scene.now + ms(500));
            }
        }),
    )
}

/// The auxiliary dies between two marks and is back, empty, when the primary dies. A worker with
/// tasks of the old primary cannot reach it.
#[must_use]
pub fn an_auxiliary_comes_back_empty_between_two_marks() -> Told {
    let mut world = stage(cast(&[40, 40, 40], vec![job(80, Duration::from_secs(6))]));
    comes_late(&mut world, "w3");
    let (mut group, mut watch, mut marks) = (Group::default(), Watch::new(), 0);
    tell(
        world,
        Box::new(move |scene, turn| {
            watch.sees(scene, turn);
            group.sees(scene, turn);
            let Some((primary, _)) = arrives::<DealMark>(scene) else {
                if let Some((_, reply)) = arrives::<LeaseReply>(scene)
                    && watch.died_at.is_some()
                    && (reply.is_primary, reply.is_all_dealt) == (1, 1)
                    && scene.at != group.primary()
                {
                    turn.fact("it was promoted as if all was dealt");
                }
                return;
            };
            marks += 1;
            turn.fact("a mark came");
            if marks == 1 {
                let worker = ["w2".to_owned()];
                turn.part(scene, &worker, &[scene.at.to_owned()], Duration::from_secs(12));
                turn.kill(scene, scene.at, ms(60));
                let (process, death) = (scene.named(primary), Death::Killed);
                let down = Duration::from_secs(25);
                turn.begin_after(ms(150), Fault::Crash { process, death, down });
                watch.died_at = Some(scene.now + ms(150));
            }
        }),
    )
}
