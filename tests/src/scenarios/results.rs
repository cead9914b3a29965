//! Stories of outcomes: lost, late, told twice, contradicted.

use proto::messages::node::RunsLost;
use proto::messages::task::{
    TaskFree, TaskRun, TaskSettled, WorkerRequest, WorkerStatus, WorkerStatusReply,
};
use proto::record::{Message, Record};
use proto::status::{TaskState, Verdict};
use proto::time::{Duration, Instant};
use proto::wire::items_of;

use super::stage::{Told, arrives, begins, cast, failing, job, ms, stage, tell};
use crate::faults::{Death, Fault};
use crate::process::Recipe;
use crate::process::jobs::JobPlan;
use crate::story::{Scene, What};

/// A status of this state, and from whom.
fn status<'a>(scene: &'a Scene<'_>, state: TaskState) -> Option<(&'a str, WorkerStatus)> {
    arrives::<WorkerStatus>(scene).filter(|(_, status)| status.state == state.to_wire())
}

/// The runs of a record that has one list of them.
fn runs_of<M: Message>(record: &Record<'_>) -> Vec<TaskRun> {
    if record.message_type() != M::TYPE {
        return Vec::new();
    }
    let parts = record.open::<M, 1>().ok();
    let runs = parts.and_then(|(_, [runs])| items_of::<TaskRun>(runs).map(<[_]>::to_vec));
    runs.unwrap_or_default()
}

/// A worker tells its balancer that a slot is free; what it tells the masters of the task is lost
/// twice. Where `dies` is true the worker dies then and takes the outcome with it.
#[must_use]
pub fn a_completion_is_lost_after_the_balancer_was_told_free(dies: bool) -> Told {
    let (mut lost, mut is_free) = (0, false);
    let world = stage(cast(&[1, 1], vec![job(1, ms(200))]));
    tell(
        world,
        Box::new(move |scene, turn| {
            if let Some((worker, _)) = status(scene, TaskState::Done)
                && lost < 2
            {
                lost += 1;
                turn.lose("a completion was lost");
                if dies && is_free && lost == 1 {
                    turn.kill(scene, worker, Duration::from_secs(20));
                }
            }
            if let Some((worker, _)) = arrives::<TaskFree>(scene)
                && !std::mem::replace(&mut is_free, true)
            {
                turn.fact("the balancer was told free");
                if dies && lost == 1 {
                    turn.kill(scene, worker, Duration::from_secs(20));
                }
            }
        }),
    )
}

/// A failed attempt is committed, the leader dies before the worker hears of it and stays dead, and
/// the worker reports the same attempt to the next one.
#[must_use]
pub fn a_failed_attempt_is_reported_twice_across_a_leader_change() -> Told {
    let plan = JobPlan { retries: 1, ..failing(&job(1, ms(200))) };
    let world = stage(cast(&[1], vec![plan]));
    let (mut attempt, mut dead) = (0, None::<String>);
    tell(
        world,
        Box::new(move |scene, turn| {
            if let Some((_, status)) = status(scene, TaskState::Failed) {
                match &dead {
                    None => attempt = status.attempt,
                    Some(dead) if status.attempt == attempt && scene.at != dead => {
                        turn.fact("it was reported to another master");
                    }
                    Some(_) => {}
                }
            }
            if let Some((master, _)) = arrives::<WorkerStatusReply>(scene)
                && dead.is_none()
            {
                turn.lose("the acknowledgement was lost");
                let leader = scene.names("m").into_iter().find(|name| scene.leads(name));
                let leader = leader.unwrap_or_else(|| master.to_owned());
                turn.kill(scene, &leader, Duration::from_secs(30));
                dead = Some(leader);
            }
        }),
    )
}

/// A worker on which everything fails is cut off while it runs a task. The task is dealt to a
/// healthy one, and while that works the first one is back and reports that it failed.
#[must_use]
pub fn a_cut_off_worker_reports_a_failure_while_the_second_attempt_is_well() -> Told {
    let mut recipes = cast(&[1, 1], vec![job(1, Duration::from_secs(3))]);
    for recipe in &mut recipes {
        if let Recipe::Worker { place: 0, is_ill, .. } = recipe {
            *is_ill = true;
        }
    }
    let mut world = stage(recipes);
    let (process, death) = (world.named("w2").expect("it is cast"), Death::Killed);
    // So that the ill one is dealt the task.
    let late = Fault::Crash { process, death, down: Duration::from_secs(7) };
    world.enter(Instant(1_000_000), late);
    let mut is_second = false;
    tell(
        world,
        Box::new(move |scene, turn| {
            if begins(scene) && scene.at == "w1" {
                let others = [scene.names("m"), scene.names("b")].concat();
                turn.part(scene, &["w1".to_owned()], &others, ms(4_500));
            }
            if begins(scene) && scene.at == "w2" {
                is_second = true;
            }
            if status(scene, TaskState::Failed).is_some() && is_second {
                turn.fact("the failure came while the second attempt ran");
            }
            if status(scene, TaskState::Done).is_some() {
                turn.fact("the second attempt was well");
            }
        }),
    )
}

/// A worker is killed in the middle of two tasks and back at once; what ran is reported as crashed
/// by its next life and as lost by its balancer.
#[must_use]
pub fn a_worker_is_restarted_while_its_tasks_run() -> Told {
    let world = stage(cast(&[2, 1], vec![job(3, Duration::from_secs(2))]));
    let mut is_killed = false;
    tell(
        world,
        Box::new(move |scene, turn| {
            if begins(scene) && scene.at == "w1" && !std::mem::replace(&mut is_killed, true) {
                let (process, death) = (scene.named("w1"), Death::Killed);
                turn.begin_after(ms(500), Fault::Crash { process, death, down: ms(50) });
            }
            if status(scene, TaskState::Crashed).is_some() {
                turn.fact("its next life reported what crashed");
            }
            if let What::Arrives(_, record) = scene.what {
                let lost = runs_of::<RunsLost>(record);
                if lost.iter().any(|run| run.state == TaskState::Lost.to_wire()) {
                    turn.fact("its balancer asked for what it held");
                }
            }
        }),
    )
}

/// The first deal is lost on its way to a worker that lives.
#[must_use]
pub fn a_deal_is_lost_on_its_way_to_a_living_worker() -> Told {
    let world = stage(cast(&[1], vec![job(3, ms(200))]));
    let mut is_lost = false;
    tell(
        world,
        Box::new(move |scene, turn| {
            if arrives::<WorkerRequest>(scene).is_some() && !std::mem::replace(&mut is_lost, true) {
                turn.lose("a deal was lost");
            }
            if let What::Arrives(_, record) = scene.what {
                let lost = runs_of::<RunsLost>(record);
                if lost.iter().any(|run| run.state == TaskState::Returned.to_wire()) {
                    turn.fact("the balancer asked for it as never begun");
                }
            }
        }),
    )
}

/// A task failed and is to be tried again, which the worker was told; what it says of that to the
/// balancers is lost, and then nobody holds the task.
#[must_use]
pub fn a_task_is_settled_and_nobody_holds_its_retry() -> Told {
    let plan = JobPlan { retries: 1, ..failing(&job(1, ms(200))) };
    let world = stage(cast(&[1], vec![plan]));
    let mut lost = std::collections::BTreeSet::new();
    tell(
        world,
        Box::new(move |scene, turn| {
            let What::Arrives(_, record) = scene.what else { return };
            let settled = runs_of::<TaskSettled>(record);
            if settled.iter().any(|run| run.state == Verdict::Again.to_wire())
                && lost.insert(scene.at.to_owned())
            {
                turn.lose("the news of the retry was lost");
            }
            if !runs_of::<RunsLost>(record).is_empty() {
                turn.fact("the balancer asked for the task");
            }
        }),
    )
}
