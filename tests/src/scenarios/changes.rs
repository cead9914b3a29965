//! Stories of what users ask for: submissions, cancellations, reads, and their repetition.

use proto::limits::CLIENT_WINDOW;
use proto::messages::job::{JobAccepted, JobQuery, JobStatus, JobSubmit};
use proto::messages::keyspace::KeyTransaction;
use proto::messages::raft::RaftMessage;
use proto::messages::task::WorkerStatus;
use proto::status::JobState;
use proto::time::{Duration, Instant};

use super::stage::{JOB, SECOND_JOB, SUBMITTED, Told, arrives, begins, cast, job, ms, stage, tell};
use crate::faults::{Death, Fault};
use crate::process::Recipe;
use crate::process::jobs::JobPlan;
use crate::story::Scene;

/// The acknowledgement of a submission is lost together with the leader that accepted it.
#[must_use]
pub fn the_acknowledgement_of_a_submission_is_lost() -> Told {
    let world = stage(cast(&[1], vec![job(3, ms(200))]));
    let mut is_lost = false;
    tell(
        world,
        Box::new(move |scene, turn| {
            if arrives::<JobSubmit>(scene).is_some() {
                turn.fact(if is_lost { "it was submitted again" } else { "it was submitted" });
            }
            if arrives::<JobAccepted>(scene).is_some() && !std::mem::replace(&mut is_lost, true) {
                turn.lose("the acknowledgement was lost");
                if let Some(leader) = scene.names("m").into_iter().find(|name| scene.leads(name)) {
                    turn.kill(scene, &leader, Duration::from_secs(10));
                }
            }
        }),
    )
}

/// A job is cancelled so long after it was accepted; its only task takes 100 ms.
#[must_use]
pub fn a_cancellation_races_with_the_completion(after: Duration) -> Told {
    let plan = JobPlan { cancel_after: Some(after), ..job(1, ms(100)) };
    let mut world = stage(cast(&[1], vec![plan]));
    world.heal_at(Instant(0) + SUBMITTED + Duration::from_secs(4));
    tell(world, Box::new(late_completion))
}

fn late_completion(scene: &Scene<'_>, turn: &mut crate::story::Turn) {
    if arrives::<WorkerStatus>(scene).is_none() {
        return;
    }
    let state = scene.cluster(scene.at).and_then(|cluster| cluster.jobs.get(&JOB));
    if state.is_some_and(|job| job.state == JobState::Cancelled) {
        turn.fact("a completion came behind the cancellation");
    }
}

/// What a worker reports is held up on its way until the job was cancelled and read as that.
#[must_use]
pub fn a_completion_is_in_flight_when_its_job_is_cancelled_and_read() -> Told {
    let plan = JobPlan { cancel_after: Some(Duration::from_secs(1)), ..job(2, ms(300)) };
    let world = stage(cast(&[2], vec![plan]));
    let mut is_parted = false;
    tell(
        world,
        Box::new(move |scene, turn| {
            if begins(scene) && !std::mem::replace(&mut is_parted, true) {
                turn.part(scene, &["w1".to_owned()], &scene.names("m"), Duration::from_secs(3));
            }
            late_completion(scene, turn);
            if let Some((_, status)) = arrives::<JobStatus>(scene)
                && JobState::from_wire(status.state) == Some(JobState::Cancelled)
            {
                turn.fact("it was read as cancelled");
            }
        }),
    )
}

/// A master is cut off from the others, and when it lags behind the client is cut off from all but
/// that one, which knows less than the client has seen.
#[must_use]
pub fn a_client_reads_from_a_master_that_lags_behind() -> Told {
    let world = stage(cast(&[2], vec![job(300, ms(50))]));
    let (mut lagging, mut is_alone) = (None::<String>, false);
    tell(
        world,
        Box::new(move |scene, turn| {
            if let Some((from, status)) = arrives::<JobStatus>(scene)
                && status.done_count > 0
                && !is_alone
            {
                let masters = scene.names("m");
                let is_slow = |name: &&String| !scene.leads(name) && *name != from;
                let slow = lagging.clone().or_else(|| masters.iter().find(is_slow).cloned());
                let Some(slow) = slow else { return };
                let others: Vec<String> =
                    masters.into_iter().filter(|name| *name != slow).collect();
                is_alone = lagging.is_some();
                let parted = if is_alone { "c1" } else { &slow };
                turn.part(scene, &[parted.to_owned()], &others, ms(5_000));
                lagging = Some(slow);
            }
            if let Some((_, query)) = arrives::<JobQuery>(scene)
                && lagging.as_deref() == Some(scene.at)
                && scene.cluster(scene.at).is_some_and(|it| it.applied.0 < query.seen_index)
            {
                turn.fact("a master was asked that knew less than the client");
            }
        }),
    )
}

/// The first leader's clock is an hour ahead of those of the others. It dies between two jobs.
#[must_use]
pub fn a_leader_has_a_clock_that_is_an_hour_ahead() -> Told {
    let second = JobPlan { job: SECOND_JOB, after: Duration::from_secs(14), ..job(4, ms(500)) };
    let mut world = stage(cast(&[1], vec![job(4, ms(500)), second]));
    for (name, origin) in [("m1", 3_600_000_000), ("m2", 0), ("m3", 1_000_000)] {
        let process = world.named(name).expect("it is cast");
        world.set_clock(process, origin);
    }
    let (process, death) = (world.named("m1").expect("it is cast"), Death::Killed);
    let down = Duration::from_secs(20);
    world.enter(Instant(10_000_000), Fault::Crash { process, death, down });
    tell(
        world,
        Box::new(|scene, turn| {
            if arrives::<JobSubmit>(scene).is_some() {
                let leads = |name: &&str| scene.leads(name);
                turn.fact(match ["m1", "m2", "m3"].iter().find(|name| leads(name)) {
                    Some(&"m1") => "a job was submitted to the leader that is ahead",
                    Some(_) => "a job was submitted to another one",
                    None => "a job was submitted to nobody",
                });
            }
        }),
    )
}

/// A client's write is held up between a follower and the leader. The client repeats it at another
/// master, is answered, and writes so often that the reply is forgotten; then the first one comes.
#[must_use]
pub fn a_request_is_repeated_after_its_reply_left_the_window() -> Told {
    let (mut recipes, pause) = (cast(&[1], Vec::new()), Duration::ZERO);
    recipes.push(Recipe::KeyClient {
        place: 0,
        after: SUBMITTED,
        pause,
        count: WRITES,
        fold_at: 0,
    });
    let world = stage(recipes);
    let (mut held, mut written) = (None::<String>, 0);
    tell(
        world,
        Box::new(move |scene, turn| {
            if let Some((from, _)) = arrives::<KeyTransaction>(scene)
                && from == "k1"
            {
                let leader = scene.names("m").into_iter().find(|name| scene.leads(name));
                match (&held, leader) {
                    (None, Some(leader)) if leader == scene.at => {
                        // It is to ask a follower first.
                        turn.lose("the leader was asked first");
                    }
                    (None, Some(leader)) => {
                        let way = (scene.named(scene.at), scene.named(&leader));
                        turn.begin(Fault::Block { ways: vec![way], lasts: ms(5_500) });
                        held = Some(scene.at.to_owned());
                        turn.fact("the first write was held up");
                    }
                    (Some(held), _) if held != scene.at => {
                        written += 1;
                        turn.fact("another master was asked");
                    }
                    _ => {}
                }
            }
            // What was held up comes with everything else that the follower said meanwhile.
            if let Some((from, _)) = arrives::<RaftMessage>(scene)
                && held.as_deref() == Some(from)
                && scene.leads(scene.at)
                && written > u64::from(CLIENT_WINDOW)
            {
                turn.fact("the first write came when its reply was forgotten");
            }
        }),
    )
}

/// Writes of the client of
/// [`a_request_is_repeated_after_its_reply_left_the_window`].
pub const WRITES: u64 = 400;
