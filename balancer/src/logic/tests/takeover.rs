//! Marks between the two balancers of a group: what the primary waits for, what its successor holds
//! back.

use node::logic::network::Sender;
use proto::ids::{JobId, NodeId};
use proto::messages::node::{DealMark, LeaseRenew, RunsLost};
use proto::messages::task::{TaskRun, WorkerHeartbeat};
use proto::record::encode;
use proto::status::{AuxiliaryState, FeedKind, Verdict};
use proto::time::Duration;
use proto::wire::bytes_of;

use super::super::explain::Explanation;
use super::super::marks::MARK_TASKS;
use super::scene::{Scene, grant, job_record, run, tasks_of};

const JOB: JobId = JobId(0x0b);
const OTHER: JobId = JobId(0x0c);
const TASKS: u64 = 100_000;

/// A primary whose auxiliary knows everything, and the log says so.
fn in_step() -> Scene {
    let mut scene = Scene::primary(1);
    scene.auxiliary = (AuxiliaryState::Absent, 1);
    scene.wait_renewing(Duration::from_millis(300));
    scene.auxiliary_connects();
    let (mark, bounds) = scene.mark().expect("everything");
    assert_eq!(({ mark.is_complete }, bounds.len()), (1, 0));
    assert!(!scene.balancer.has_auxiliary_in_step());
    scene.knows(&mark);
    assert!(scene.balancer.has_auxiliary_in_step());
    scene.wait(Duration::from_millis(0));
    let (_, renewal) = scene.to_masters::<LeaseRenew>().expect("the leader is told at once");
    assert_eq!({ renewal.auxiliary }, AuxiliaryState::InStep.to_wire());
    assert_eq!({ renewal.auxiliary_incarnation }, 1);
    scene.auxiliary = (AuxiliaryState::InStep, 1);
    scene.answer_lease();
    scene
}

/// The same with a worker, and a job of so many tasks that is granted.
fn in_step_with(task_count: u64) -> (Scene, Sender) {
    let mut scene = in_step();
    let worker = scene.worker(1, 1);
    scene.heartbeat(&worker, 2, 0, &[]);
    scene.feed(10, &[grant(JOB, 6, 0..task_count)], &[job_record(task_count)]);
    (scene, worker)
}

/// Settles what a worker was dealt, after 1 ms for each task.
fn settle(scene: &mut Scene, worker: &Sender, runs: &[TaskRun]) {
    let count: u64 = runs.iter().map(|run| run.task_count).sum();
    scene.free(worker, count * 1_000, runs);
    scene.settled(worker, runs, Verdict::Final);
}

#[test]
fn a_small_job_needs_no_mark() {
    let (mut scene, worker) = in_step_with(MARK_TASKS);
    let deal = scene.deals().remove(0);
    settle(&mut scene, &worker, &[run(JOB, deal.tasks, deal.attempt)]);
    assert_eq!(tasks_of(&scene.deals()), [(2, MARK_TASKS)]);
    assert!(scene.mark().is_none());
}

#[test]
fn nothing_is_dealt_beyond_a_mark_that_is_not_acknowledged() {
    let (mut scene, worker) = in_step_with(TASKS);
    let deal = scene.deals().remove(0);
    assert_eq!(deal.tasks, 0..2);
    let (first, bounds) = scene.mark().expect("the next windows");
    assert_eq!(bounds.len(), 1);
    let (job, from, below) = bounds[0];
    assert_eq!((job, from), (JOB, 0));
    assert!(below > MARK_TASKS && below <= 3 * MARK_TASKS);
    // Tasks of 1 ms: two slots have room for a hundred.
    settle(&mut scene, &worker, &[run(JOB, deal.tasks, deal.attempt)]);
    let deal = scene.deals().remove(0);
    assert_eq!(deal.tasks, 2..MARK_TASKS);
    assert!(scene.mark().is_none(), "one at a time");
    settle(&mut scene, &worker, &[run(JOB, deal.tasks, deal.attempt)]);
    assert!(scene.deals().is_empty());
    scene.knows(&first);
    assert_eq!(tasks_of(&scene.deals()), [(MARK_TASKS, below)], "as far as it is known");
    // The marks run ahead of what is dealt: the next one is on its way already.
    assert!(scene.mark().is_some());
}

#[test]
fn a_worker_that_lists_or_settles_all_that_may_be_dealt_does_not_stop_the_job() {
    for is_listed in [true, false] {
        let mut scene = in_step();
        scene.feed(10, &[grant(JOB, 6, 0..TASKS)], &[job_record(TASKS)]);
        assert!(scene.mark().is_none(), "a window is open");
        // It was silent, and has what it was dealt before this primary knew of it.
        let below = MARK_TASKS;
        let runs = [run(JOB, 0..below + 2, (1 << 32) | 1)];
        let worker = scene.worker(1, 1);
        if is_listed {
            scene.heartbeat(&worker, 2, 0, &runs);
        } else {
            scene.settled(&worker, &runs, Verdict::Final);
        }
        let (mark, bounds) = scene.mark().expect("the next mark");
        assert!(bounds[0].2 > below + 2, "{bounds:?}");
        scene.knows(&mark);
        let other = scene.worker(2, 1);
        scene.heartbeat(&other, 2, 0, &[]);
        assert_eq!(tasks_of(&scene.deals()), [(below + 2, below + 4)]);
    }
}

#[test]
fn marks_stay_ahead_so_that_dealing_waits_for_none() {
    let (mut scene, worker) = in_step_with(TASKS);
    let (mut messages, mut dealt) = (0u64, 0u64);
    for _ in 0..200 {
        if let Some((mark, _)) = scene.mark() {
            messages += 1;
            scene.knows(&mark);
        }
        for deal in scene.deals() {
            dealt += deal.count();
            settle(&mut scene, &worker, &[run(JOB, deal.tasks, deal.attempt)]);
        }
    }
    assert!(dealt > 5_000, "{dealt}");
    assert!(messages * 50 < dealt, "{messages} messages for {dealt} tasks");
}

#[test]
fn a_silent_auxiliary_is_waited_for_until_the_log_says_that_it_is_absent() {
    let (mut scene, worker) = in_step_with(TASKS);
    let deal = scene.deals().remove(0);
    settle(&mut scene, &worker, &[run(JOB, deal.tasks, deal.attempt)]);
    let deal = scene.deals().remove(0);
    assert_eq!(deal.tasks.end, MARK_TASKS);
    settle(&mut scene, &worker, &[run(JOB, deal.tasks, deal.attempt)]);
    scene.wait_renewing(Duration::from_millis(600));
    assert!(scene.deals().is_empty());
    // The log still says that it is in step: whoever is promoted now would deal beyond the mark.
    scene.wait_renewing(Duration::from_millis(2_000));
    assert!(scene.deals().is_empty());
    scene.wait(Duration::from_millis(250));
    let (_, renewal) = scene.to_masters::<LeaseRenew>().expect("a renewal");
    assert_eq!({ renewal.auxiliary }, AuxiliaryState::Absent.to_wire());
    scene.auxiliary = (AuxiliaryState::Absent, 1);
    scene.answer_lease();
    scene.heartbeat(&worker, 2, 1, &[]);
    assert_eq!(tasks_of(&scene.deals()), [(MARK_TASKS, MARK_TASKS + 100)]);
    // It answers again: it is told everything, and in step from then on.
    scene.wait_renewing(Duration::from_millis(600));
    scene.auxiliary_connects();
    let (mark, bounds) = scene.mark().expect("everything");
    assert_eq!({ mark.is_complete }, 1);
    assert!(matches!(bounds[..], [(JOB, 0, below)] if below >= MARK_TASKS + 100), "{bounds:?}");
    scene.knows(&mark);
    assert!(scene.balancer.has_auxiliary_in_step());
}

#[test]
fn a_restarted_auxiliary_is_told_everything_again() {
    let mut scene = in_step();
    scene.feed(10, &[grant(JOB, 6, 0..TASKS)], &[job_record(TASKS)]);
    let (mark, _) = scene.mark().unwrap_or_default();
    scene.auxiliary = (AuxiliaryState::Absent, 2);
    scene.wait_renewing(Duration::from_millis(300));
    assert!(!scene.balancer.has_auxiliary_in_step());
    // What its predecessor knew is no knowledge of its own.
    scene.knows(&mark);
    assert!(!scene.balancer.has_auxiliary_in_step());
    scene.auxiliary_connects();
    let (mark, bounds) = scene.mark().expect("everything");
    assert_eq!(({ mark.is_complete }, { mark.auxiliary_incarnation }), (1, 2));
    assert!(matches!(bounds[..], [(JOB, 0, below)] if below < 3 * MARK_TASKS), "{bounds:?}");
}

#[test]
fn a_primary_that_begins_anew_under_its_epoch_goes_on_counting_its_marks() {
    let mut scene = in_step();
    // For a moment it has no auxiliary.
    scene.auxiliary = (AuxiliaryState::Unknown, 0);
    scene.wait_renewing(Duration::from_millis(300));
    assert!(!scene.balancer.has_auxiliary_in_step());
    scene.auxiliary = (AuxiliaryState::Absent, 1);
    scene.wait_renewing(Duration::from_millis(300));
    scene.auxiliary_connects();
    let (mark, _) = scene.mark().expect("everything");
    assert_eq!(({ mark.is_complete }, { mark.epoch }, { mark.mark }), (1, 1, 2));
    scene.knows(&mark);
    assert!(scene.balancer.has_auxiliary_in_step());
}

#[test]
fn a_primary_that_begins_anew_deals_nothing_while_the_log_has_its_auxiliary_in_step() {
    let mut scene = in_step();
    let worker = scene.worker(1, 1);
    scene.is_primary = 0;
    scene.wait_renewing(Duration::from_millis(300));
    scene.feed(10, &[grant(JOB, 6, 0..TASKS)], &[job_record(TASKS)]);
    scene.heartbeat(&worker, 2, 0, &[]);
    scene.is_primary = 1;
    scene.wait_renewing(Duration::from_millis(300));
    assert!(scene.balancer.is_primary(scene.now));
    assert!(scene.deals().is_empty(), "a successor would rely on the marks");
    scene.wait(Duration::from_millis(250));
    let (_, renewal) = scene.to_masters::<LeaseRenew>().expect("a renewal");
    assert_eq!({ renewal.auxiliary }, AuxiliaryState::Absent.to_wire());
    // It is being logged.
    scene.auxiliary = (AuxiliaryState::Unknown, 1);
    scene.answer_lease();
    scene.wait_renewing(Duration::from_millis(600));
    assert!(scene.deals().is_empty());
    scene.auxiliary = (AuxiliaryState::Absent, 1);
    scene.wait_renewing(Duration::from_millis(300));
    assert_eq!(tasks_of(&scene.deals()), [(0, 2)]);
}

#[test]
fn marks_of_a_primary_that_reads_its_feed_anew_are_of_no_ended_job() {
    let mut scene = in_step();
    let record = [job_record(TASKS)];
    scene.feed(10, &[grant(JOB, 6, 0..TASKS)], &record);
    let worker = scene.worker(1, 1);
    for (index, job, next) in [(12, JOB, Some((JOB, 1))), (14, OTHER, Some((OTHER, TASKS)))] {
        let request = scene.pull().0;
        scene.batch(request, index, 1, next, &[grant(job, index, 0..TASKS)], &record);
    }
    // The second page knows of a job that nobody can have dealt before the first.
    scene.settled(&worker, &[run(OTHER, 0..2, 1)], Verdict::Final);
    let (mark, bounds) = scene.mark().expect("a mark");
    assert_eq!((bounds[0].0, { mark.feed_index }), (OTHER, u64::MAX));
    scene.knows(&mark);
    let request = scene.pull().0;
    scene.batch(request, 14, 1, None, &[], &[]);
    scene.settled(&worker, &[run(OTHER, 2..MARK_TASKS * 2, 1)], Verdict::Final);
    let (mark, _) = scene.mark().expect("a mark");
    assert_eq!({ mark.feed_index }, 12, "the oldest page");
}

#[test]
fn a_reply_that_was_asked_for_before_the_auxiliary_fell_silent_does_not_let_it_go() {
    let mut scene = in_step();
    scene.wait_renewing(Duration::from_millis(100));
    let worker = scene.worker(1, 1);
    scene.heartbeat(&worker, 2, 0, &[]);
    scene.feed(10, &[grant(JOB, 6, 0..TASKS)], &[job_record(TASKS)]);
    let deal = scene.deals().remove(0);
    settle(&mut scene, &worker, &[run(JOB, deal.tasks, deal.attempt)]);
    let deal = scene.deals().remove(0);
    settle(&mut scene, &worker, &[run(JOB, deal.tasks, deal.attempt)]);
    // The last renewal before patience ends is answered late, and from before the note.
    scene.wait_renewing(Duration::from_millis(350));
    let mut early = None;
    while early.is_none() {
        scene.wait(Duration::from_millis(1));
        early = scene.to_masters::<LeaseRenew>();
    }
    let (request, renewal) = early.expect("a renewal");
    assert_eq!({ renewal.auxiliary }, AuxiliaryState::InStep.to_wire());
    scene.wait(Duration::from_millis(150));
    let (_, renewal) = scene.to_masters::<LeaseRenew>().expect("a renewal");
    assert_eq!({ renewal.auxiliary }, AuxiliaryState::Absent.to_wire());
    scene.auxiliary = (AuxiliaryState::Absent, 1);
    scene.lease_reply(request, 1, 1, 10);
    scene.heartbeat(&worker, 2, 2, &[]);
    assert!(scene.deals().is_empty(), "the log may have it in step");
    scene.answer_lease();
    scene.heartbeat(&worker, 2, 2, &[]);
    assert_eq!(tasks_of(&scene.deals())[0].0, MARK_TASKS);
}

/// An auxiliary that read the feed.
fn auxiliary() -> (Scene, node::logic::network::Sender) {
    let mut scene = Scene::auxiliary();
    scene.feed(10, &[grant(JOB, 6, 0..TASKS)], &[job_record(TASKS)]);
    let primary = scene.primary_node();
    (scene, primary)
}

fn mark_of(mark: u64, is_complete: u8) -> DealMark {
    DealMark {
        group: 1,
        epoch: 1,
        auxiliary_incarnation: 1,
        mark,
        feed_index: 10,
        is_complete,
        ..DealMark::default()
    }
}

#[test]
fn the_promoted_one_deals_what_is_above_the_mark_at_once_and_asks_for_the_rest_later() {
    let (mut scene, primary) = auxiliary();
    assert_eq!(scene.told(&primary, mark_of(1, 1), &[]), Some(1));
    assert_eq!(scene.told(&primary, mark_of(2, 0), &[(JOB, 0, 500)]), Some(2));
    let worker = scene.worker(1, 1);
    scene.heartbeat(&worker, 4, 0, &[run(JOB, 490..492, (1 << 32) | 1)]);
    (scene.is_primary, scene.epoch, scene.feed_index) = (1, 2, 10);
    scene.wait_renewing(Duration::from_millis(300));
    assert_eq!(tasks_of(&scene.deals()), [(500, 502)], "two slots are free");
    let place = scene.explain(JOB, 100);
    assert!(matches!(place, Explanation::Waiting(_)), "{place:?}");
    assert!(matches!(scene.explain(JOB, 490), Explanation::Dealt { .. }), "it is listed");
    let mut held = vec![run(JOB, 490..492, (1 << 32) | 1), run(JOB, 500..502, (2 << 32) | 1)];
    for _ in 0..7 {
        scene.wait_renewing(Duration::from_millis(500));
        scene.heartbeat(&worker, 4, 1, &held);
    }
    let (request, _, runs) = scene.asked_with_runs::<RunsLost>().expect("a question");
    let asked: Vec<(u64, u64)> = runs.iter().map(|it| (it.first_task, it.task_count)).collect();
    assert_eq!(asked, [(0, 490), (492, 8)]);
    // All but one of them had their outcome.
    scene.fates(request, &[run(JOB, 77..78, 0)]);
    settle(&mut scene, &worker, &held.split_off(1));
    let deals = scene.deals();
    assert_eq!(tasks_of(&deals)[0], (77, 78));
    assert!(deals.iter().all(|deal| deal.attempt >> 32 == 2));
    assert_eq!(scene.explain(JOB, 100), Explanation::Settled);
}

impl Scene {
    /// A worker that has seen this epoch lists what it holds, a moment later.
    fn lists(&mut self, worker: &Sender, epoch: u64, runs: &[TaskRun]) {
        self.wait(Duration::from_millis(1));
        let beat = WorkerHeartbeat { epoch, ..self.beat(worker, 2) };
        self.worker_says(worker, &encode(&beat, &[bytes_of(runs)]));
    }

    /// What the masters are asked of, by first task and number.
    fn doubted(&mut self) -> Option<Vec<(u64, u64)>> {
        let (_, _, runs) = self.asked_with_runs::<RunsLost>()?;
        Some(runs.iter().map(|run| (run.first_task, run.task_count)).collect())
    }
}

#[test]
fn doubts_end_when_all_workers_of_the_group_have_listed_what_they_hold() {
    let (mut scene, primary) = auxiliary();
    assert_eq!(scene.told(&primary, mark_of(1, 1), &[]), Some(1));
    let (one, other) = (scene.worker(1, 1), scene.worker(2, 1));
    let held = [run(JOB, 3..5, (1 << 32) | 1)];
    scene.lists(&one, 1, &held);
    scene.lists(&other, 1, &[]);
    (scene.is_primary, scene.epoch, scene.feed_index) = (1, 2, 10);
    scene.worker_count = 2;
    scene.wait_renewing(Duration::from_millis(300));
    assert!(scene.balancer.is_primary(scene.now));
    scene.lists(&one, 2, &held);
    // A deal of the primary before may still come to one that does not know the epoch.
    scene.lists(&other, 1, &[]);
    scene.lists(&one, 2, &held);
    assert_eq!(scene.doubted(), None);
    scene.lists(&other, 2, &[]);
    assert_eq!(scene.doubted().expect("a question"), [(0, 3), (5, MARK_TASKS - 5)]);
    assert!(matches!(scene.explain(JOB, 3), Explanation::Dealt { .. }), "it is listed");
}

#[test]
fn doubts_do_not_end_early_where_a_worker_is_missing() {
    for worker_count in [0, 2] {
        let (mut scene, primary) = auxiliary();
        assert_eq!(scene.told(&primary, mark_of(1, 1), &[]), Some(1));
        let one = scene.worker(1, 1);
        (scene.is_primary, scene.epoch, scene.feed_index) = (1, 2, 10);
        scene.worker_count = worker_count;
        for _ in 0..5 {
            scene.wait_renewing(Duration::from_millis(500));
            scene.lists(&one, 2, &[]);
            // One that is given to another group is not missed less.
            scene.worker_count = worker_count.min(1);
        }
        assert_eq!(scene.doubted(), None);
        scene.wait_renewing(Duration::from_millis(1_000));
        assert_eq!(scene.doubted().expect("a question"), [(0, MARK_TASKS)]);
    }
}

#[test]
fn a_newcomer_does_not_stand_in_for_a_worker_that_is_missing() {
    let (mut scene, primary) = auxiliary();
    assert_eq!(scene.told(&primary, mark_of(1, 1), &[]), Some(1));
    let (one, cut_off) = (scene.worker(1, 1), scene.worker(2, 1));
    scene.lists(&one, 1, &[]);
    scene.lists(&cut_off, 1, &[]);
    (scene.is_primary, scene.epoch, scene.feed_index) = (1, 2, 10);
    scene.worker_count = 2;
    scene.wait_renewing(Duration::from_millis(300));
    scene.lists(&one, 2, &[]);
    // The masters gave it to the group, and have not said so here.
    let newcomer = scene.worker(3, 1);
    scene.lists(&newcomer, 2, &[]);
    scene.lists(&one, 2, &[]);
    assert_eq!(scene.doubted(), None);
    scene.lists(&cut_off, 2, &[]);
    assert_eq!(scene.doubted().expect("a question"), [(0, MARK_TASKS)]);
}

#[test]
fn doubts_about_what_it_dealt_itself_do_not_end_early() {
    for is_read_anew in [false, true] {
        let (mut scene, primary) = auxiliary();
        assert_eq!(scene.told(&primary, mark_of(1, 1), &[]), Some(1));
        let one = scene.worker(1, 1);
        (scene.is_primary, scene.epoch, scene.feed_index) = (1, 2, 10);
        scene.worker_count = 1;
        scene.wait_renewing(Duration::from_millis(300));
        if is_read_anew {
            let request = scene.pull().0;
            let record = [job_record(TASKS)];
            scene.batch(request, 12, 1, None, &[grant(JOB, 6, 0..TASKS)], &record);
        } else {
            for is_primary in [0, 1] {
                scene.is_primary = is_primary;
                scene.wait_renewing(Duration::from_millis(300));
            }
        }
        assert!(scene.balancer.is_primary(scene.now));
        // A deal of a moment ago may not have come to the worker yet.
        scene.lists(&one, 2, &[]);
        scene.lists(&one, 2, &[]);
        assert_eq!(scene.doubted(), None);
    }
}

#[test]
fn one_that_is_primary_again_under_its_epoch_doubts_again() {
    for is_registered in [false, true] {
        let (mut scene, primary) = auxiliary();
        assert_eq!(scene.told(&primary, mark_of(1, 1), &[(JOB, 0, 500)]), Some(1));
        let worker = scene.worker(1, 1);
        scene.heartbeat(&worker, 2, 0, &[]);
        (scene.is_primary, scene.epoch, scene.feed_index) = (1, 2, 10);
        scene.wait_renewing(Duration::from_millis(300));
        let deal = scene.deals().remove(0);
        assert_eq!(deal.tasks, 500..502);
        scene.is_primary = 0;
        if is_registered {
            scene.effects.clear();
            scene.connect();
            scene.register(2, 0);
            scene.effects.clear();
        } else {
            scene.wait_renewing(Duration::from_millis(300));
        }
        assert!(!scene.balancer.is_primary(scene.now));
        scene.is_primary = 1;
        scene.wait_renewing(Duration::from_millis(300));
        assert!(scene.balancer.is_primary(scene.now));
        settle(&mut scene, &worker, &[run(JOB, deal.tasks, deal.attempt)]);
        assert_eq!(scene.deals()[0].tasks.start, 502, "it may have been dealt before");
    }
}

#[test]
fn a_master_that_lags_behind_takes_no_newer_seat_away() {
    let (mut scene, primary) = auxiliary();
    assert_eq!(scene.told(&primary, mark_of(1, 1), &[(JOB, 0, 500)]), Some(1));
    let worker = scene.worker(1, 1);
    scene.heartbeat(&worker, 2, 0, &[]);
    (scene.is_primary, scene.epoch, scene.feed_index) = (1, 2, 10);
    scene.wait_renewing(Duration::from_millis(300));
    let deal = scene.deals().remove(0);
    scene.effects.clear();
    scene.connect();
    scene.register(1, 0);
    assert_eq!(scene.balancer.group(), Some((1, proto::ids::Epoch(2))));
    assert!(scene.balancer.is_primary(scene.now), "the lease of epoch 2 holds");
    scene.wait_renewing(Duration::from_millis(300));
    assert_eq!(scene.balancer.counters().promotions, 1);
    settle(&mut scene, &worker, &[run(JOB, deal.tasks, deal.attempt)]);
    assert_eq!(scene.deals()[0].tasks.start, 502);
}

#[test]
fn a_primary_keeps_no_marks_of_jobs_that_ended() {
    let mut scene = in_step();
    scene.feed(10, &[grant(JOB, 6, 0..TASKS)], &[job_record(TASKS)]);
    let request = scene.pull().0;
    scene.batch(request, 12, 1, Some((OTHER, 0)), &[], &[]);
    assert_eq!(scene.balancer.tasks().early.len(), 1, "its mark, for when it is read again");
    let request = scene.pull().0;
    scene.batch(request, 12, 1, None, &[], &[]);
    assert!(scene.balancer.tasks().early.is_empty(), "it ended");
}

#[test]
fn a_grant_by_itself_holds_back_one_window() {
    let (mut scene, primary) = auxiliary();
    assert_eq!(scene.told(&primary, mark_of(1, 1), &[]), Some(1));
    let worker = scene.worker(1, 1);
    scene.heartbeat(&worker, 1, 0, &[]);
    (scene.is_primary, scene.epoch, scene.feed_index) = (1, 2, 10);
    scene.wait_renewing(Duration::from_millis(300));
    assert_eq!(tasks_of(&scene.deals()), [(MARK_TASKS, MARK_TASKS + 1)]);
}

#[test]
fn one_that_was_not_in_step_takes_all_that_was_granted_for_dealt() {
    for is_told in [false, true] {
        let (mut scene, primary) = auxiliary();
        if is_told {
            // It knows marks, but the log says that more may have been dealt since.
            scene.told(&primary, mark_of(1, 1), &[]);
            scene.is_all_dealt = 1;
        }
        let worker = scene.worker(1, 1);
        scene.heartbeat(&worker, 1, 0, &[]);
        (scene.is_primary, scene.epoch, scene.feed_index) = (1, 2, 10);
        scene.wait_renewing(Duration::from_millis(300));
        assert!(scene.deals().is_empty());
        scene.feed(12, &[grant(OTHER, 12, 0..1)], &[job_record(1)]);
        assert_eq!(scene.deals().remove(0).job, OTHER, "nobody can have dealt what came later");
    }
}

#[test]
fn the_workers_time_to_list_begins_when_the_feed_is_read() {
    let mut scene = Scene::new();
    scene.connect();
    scene.register(2, 1);
    scene.lease(2, 1, 10);
    let request = scene.pull().0;
    let first = grant(OTHER, 6, 0..1);
    scene.batch(request, 10, 1, Some((JOB, 0)), &[first], &[job_record(1)]);
    // The leader dies between the pages.
    scene.pull();
    let worker = scene.worker(1, 1);
    let held = [run(JOB, 0..2, (1 << 32) | 1)];
    for _ in 0..8 {
        scene.wait_renewing(Duration::from_millis(500));
        scene.heartbeat(&worker, 4, 0, &held);
    }
    let request = scene.pull().0;
    scene.batch(request, 10, 1, None, &[grant(JOB, 7, 0..4)], &[job_record(4)]);
    assert!(scene.deals().is_empty(), "a predecessor dealt of it");
    scene.wait_renewing(Duration::from_millis(500));
    scene.heartbeat(&worker, 4, 0, &held);
    assert!(scene.deals().is_empty());
    assert!(matches!(scene.explain(JOB, 0), Explanation::Dealt { .. }));
    for _ in 0..6 {
        scene.wait_renewing(Duration::from_millis(500));
        scene.heartbeat(&worker, 4, 0, &held);
    }
    let (request, _, runs) = scene.asked_with_runs::<RunsLost>().expect("a question");
    scene.fates(request, &runs);
    assert_eq!(scene.deals().iter().map(|deal| deal.count()).sum::<u64>(), 2, "two slots");
}

#[test]
fn a_complete_feed_of_a_master_that_lags_behind_leaves_nothing_undoubted() {
    let mut scene = Scene::primary(2);
    let worker = scene.worker(1, 1);
    scene.heartbeat(&worker, 1, 0, &[]);
    scene.wait_renewing(Duration::from_millis(2_900));
    scene.heartbeat(&worker, 1, 0, &[]);
    scene.wait_renewing(Duration::from_millis(500));
    let old = grant(OTHER, 6, 0..1);
    let newer = grant(JOB, 9, 0..1);
    scene.feed(10, &[old, newer], &[job_record(1)]);
    assert_eq!(scene.deals().len(), 1);
    let request = scene.pull().0;
    scene.batch(request, 8, 1, None, &[old], &[job_record(1)]);
    scene.feed(10, &[newer], &[job_record(1)]);
    let other = scene.worker(2, 1);
    scene.heartbeat(&other, 4, 0, &[]);
    assert!(scene.deals().is_empty(), "either may have been dealt a moment ago");
}

#[test]
fn a_mark_after_one_that_was_lost_and_one_of_an_older_epoch_are_not_acknowledged() {
    let (mut scene, primary) = auxiliary();
    assert_eq!(scene.told(&primary, mark_of(2, 0), &[(JOB, 0, 500)]), None, "it came back empty");
    assert_eq!(scene.told(&primary, mark_of(3, 1), &[(JOB, 0, 600)]), Some(3));
    assert_eq!(scene.told(&primary, mark_of(3, 1), &[(JOB, 0, 600)]), Some(3), "sent twice");
    assert_eq!(scene.told(&primary, mark_of(5, 0), &[(JOB, 0, 700)]), None);
    assert_eq!(scene.told(&primary, mark_of(1, 1), &[]), None, "it is not taken, so not known");
    let other = DealMark { auxiliary_incarnation: 9, ..mark_of(4, 0) };
    assert_eq!(scene.told(&primary, other, &[]), None, "it means a predecessor");
    let newer = DealMark { epoch: 4, ..mark_of(1, 1) };
    assert_eq!(scene.told(&primary, newer, &[]), Some(1));
    assert_eq!(scene.told(&primary, mark_of(4, 0), &[]), None, "the primary before");
}

#[test]
fn a_primary_that_thaws_deals_nothing_and_follows() {
    let (mut scene, worker) = in_step_with(TASKS);
    let deal = scene.deals().remove(0);
    scene.mark();
    // It stood still, and the first thing that it sees is a slot that became free.
    scene.now += Duration::from_secs(10);
    settle(&mut scene, &worker, &[run(JOB, deal.tasks, deal.attempt)]);
    assert!(scene.deals().is_empty());
    (scene.is_primary, scene.epoch, scene.auxiliary) = (0, 2, (AuxiliaryState::Absent, 1));
    scene.wait_renewing(Duration::from_millis(300));
    assert!(!scene.balancer.is_primary(scene.now));
    let primary = scene.primary_node();
    let mark = DealMark { epoch: 2, ..mark_of(1, 1) };
    assert_eq!(scene.told(&primary, mark, &[(JOB, 0, 1_000)]), Some(1));
    assert!(scene.mark().is_none(), "it tells nobody any more");
    assert_eq!(NodeId(0xbb), primary.node);
}

#[test]
fn a_held_job_is_not_dealt_until_it_is_released_and_priorities_change() {
    let mut scene = Scene::primary(1);
    let changed = |job: JobId, index: u64, priority: i32, is_held: u8| {
        let item = proto::messages::node::FeedItem { index, ..Default::default() };
        let kind = FeedKind::JobChanged.to_wire();
        let job_uuid = job.to_wire();
        proto::messages::node::FeedItem { kind, job_uuid, priority, is_held, ..item }
    };
    let held = proto::messages::node::FeedItem { is_held: 1, ..grant(JOB, 6, 0..4) };
    scene.feed(10, &[held, grant(OTHER, 7, 0..4)], &[job_record(4)]);
    scene.feed(11, &[changed(OTHER, 11, 0, 1)], &[]);
    let worker = scene.worker(1, 1);
    scene.heartbeat(&worker, 1, 0, &[]);
    assert!(scene.deals().is_empty());
    scene.feed(12, &[changed(JOB, 12, 0, 0), changed(OTHER, 12, 7, 0)], &[]);
    let deals = scene.deals();
    assert_eq!((deals.len(), deals[0].job), (1, OTHER), "the higher priority");
}
