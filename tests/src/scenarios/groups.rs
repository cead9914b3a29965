//! Stories of several balancer groups: one is lost, one comes late, one is only slow.

use std::collections::BTreeMap;

use proto::messages::task::{WorkerHeartbeatReply, WorkerRequest};
use proto::time::{Duration, Instant};

use super::stage::{SECOND_JOB, Told, arrives, begins, cast_with, job, ms, stage, tell};
use crate::faults::{Death, Fault};
use crate::process::jobs::JobPlan;
use crate::process::{Recipe, place_of};
use crate::story::{Scene, Turn};

/// Who dealt to each worker last, and under which group and epoch.
#[derive(Default)]
struct Dealers {
    last: BTreeMap<String, (String, u64, u64)>,
}

impl Dealers {
    /// Looks at a deal, and notes where another group dealt to the worker before.
    fn sees(&mut self, scene: &Scene<'_>, turn: &mut Turn) {
        let Some((from, request)) = arrives::<WorkerRequest>(scene) else { return };
        let dealer = (from.to_owned(), request.group, request.epoch);
        let before = self.last.insert(scene.at.to_owned(), dealer);
        let before = before.filter(|(_, group, _)| *group != request.group);
        let Some((_, _, epoch)) = before else { return };
        turn.fact(match request.epoch < epoch {
            true => "a worker was dealt to by another group, under a lower epoch",
            false => "a worker was dealt to by another group, under a higher epoch",
        });
    }

    /// The workers that a group dealt to last.
    fn workers_of(&self, number: u64) -> Vec<String> {
        let of_group = self.last.iter().filter(|(_, (_, group, _))| *group == number);
        of_group.map(|(name, _)| name.clone()).collect()
    }

    /// A balancer that dealt for a group.
    fn of_group(&self, number: u64) -> Option<String> {
        let dealers = self.last.values();
        dealers.filter(|(_, group, _)| *group == number).map(|(name, ..)| name.clone()).next()
    }
}

/// The only balancer of the second group dies for good while tasks run. Its worker goes to the
/// first group, whose epoch is lower, and with it what runs there.
#[must_use]
pub fn a_worker_is_moved_to_a_group_whose_epoch_is_lower() -> Told {
    let world = stage(cast_with(3, &[2, 2], vec![job(12, Duration::from_secs(8))]));
    let (mut dealers, mut is_dead) = (Dealers::default(), false);
    tell(
        world,
        Box::new(move |scene, turn| {
            dealers.sees(scene, turn);
            if begins(scene)
                && !is_dead
                && let Some(balancer) = dealers.of_group(2)
            {
                is_dead = true;
                turn.fact("the only balancer of a group died");
                let (process, death) = (scene.named(&balancer), Death::ForGood);
                turn.begin_after(ms(300), Fault::Crash { process, death, down: Duration::ZERO });
            }
        }),
    )
}

/// The only balancer of the second group dies for good while tasks run, and their job is cancelled
/// before the group is given up: no range of it comes to the heir, which its worker is moved to.
#[must_use]
pub fn a_job_is_cancelled_while_its_group_has_nobody() -> Told {
    let plan = JobPlan { cancel_after: Some(ms(3_000)), ..job(12, Duration::from_secs(60)) };
    let world = stage(cast_with(3, &[2, 2], vec![plan]));
    let (mut dealers, mut left) = (Dealers::default(), Vec::new());
    tell(
        world,
        Box::new(move |scene, turn| {
            dealers.sees(scene, turn);
            if begins(scene)
                && left.is_empty()
                && let Some(balancer) = dealers.of_group(2)
            {
                left = dealers.workers_of(2);
                turn.fact("the only balancer of a group died");
                let (process, death) = (scene.named(&balancer), Death::ForGood);
                turn.begin_after(ms(300), Fault::Crash { process, death, down: Duration::ZERO });
            }
            if let Some((_, reply)) = arrives::<WorkerHeartbeatReply>(scene)
                && reply.run_count > 0
                && left.iter().any(|name| name == scene.at)
            {
                turn.fact("a worker that was left was told what to kill");
            }
        }),
    )
}

/// The names of the balancers of a group, as the leader has them.
fn seats(scene: &Scene<'_>, number: u64) -> Vec<String> {
    let masters = scene.names("m");
    let leader = masters.iter().find(|name| scene.leads(name));
    let cluster = leader.and_then(|name| scene.cluster(name));
    let Some(group) = cluster.and_then(|it| it.nodes.groups.get(&number)) else {
        return Vec::new();
    };
    let seats = [group.primary, group.auxiliary].into_iter().flatten();
    seats.map(|node| Recipe::Balancer { place: place_of(node) }.name()).collect()
}

/// A job that is submitted when the groups have changed.
fn later(task_count: u64, after: Duration) -> JobPlan {
    JobPlan { job: SECOND_JOB, after, ..job(task_count, ms(500)) }
}

/// Both balancers of the second group stand still for so long that the group is lost, and go on. A
/// second job comes when they have had time for another seat.
#[must_use]
pub fn a_group_is_lost_while_its_balancers_stand_still() -> Told {
    let plans = vec![job(20, Duration::from_secs(4)), later(20, Duration::from_secs(28))];
    let world = stage(cast_with(4, &[2, 2], plans));
    let (mut dealers, mut frozen) = (Dealers::default(), Vec::new());
    tell(
        world,
        Box::new(move |scene, turn| {
            dealers.sees(scene, turn);
            if let Some((from, _)) = arrives::<WorkerRequest>(scene)
                && scene.now >= Instant(0) + Duration::from_secs(28)
                && frozen.iter().any(|name| name == from)
            {
                turn.fact("a balancer that stood still deals again");
            }
            if begins(scene) && frozen.is_empty() && dealers.of_group(2).is_some() {
                turn.fact("a group stood still");
                frozen = seats(scene, 2);
                for name in &frozen {
                    let (process, lasts) = (scene.named(name), Duration::from_secs(10));
                    turn.begin_after(ms(300), Fault::Pause { process, lasts });
                }
            }
        }),
    )
}

/// A third balancer comes while tasks run, begins a group and is given a worker. A second job comes
/// then, which both groups share.
#[must_use]
pub fn a_third_balancer_comes_while_tasks_run() -> Told {
    let plans = vec![job(60, Duration::from_secs(2)), later(40, Duration::from_secs(14))];
    let mut world = stage(cast_with(3, &[2, 2, 2, 2], plans));
    let (process, death) = (world.named("b3").expect("it is cast"), Death::Killed);
    // It is down before it has said a word.
    world.enter(Instant(1), Fault::Crash { process, death, down: Duration::from_secs(9) });
    let mut dealers = Dealers::default();
    tell(world, Box::new(move |scene, turn| dealers.sees(scene, turn)))
}
