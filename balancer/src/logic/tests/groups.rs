//! Several groups: ranges and workers that were another group's, seats in other groups.

use node::logic::network::Sender;
use proto::ids::{JobId, RequestId};
use proto::messages::node::{FeedItem, FeedPull, LeaseRenew, NodeRegister, RunsLost};
use proto::messages::task::{TaskRun, WorkerHeartbeat};
use proto::record::encode;
use proto::status::{AuxiliaryState, ErrorCode, Order, TaskState, Verdict};
use proto::time::Duration;
use proto::wire::bytes_of;

use super::super::explain::{Explanation, Reason};
use super::scene::{Scene, ended, grant, job_record, run, tasks_of};

const JOB: JobId = JobId(0x0b);
const OTHER: JobId = JobId(0x0c);
/// An attempt of the group that was lost, under its epoch.
const OLD: u64 = 2 << 32 | 7;
/// The number of the entry that moved its ranges: higher than any epoch before.
const MOVE: u64 = 4;

/// A range that was another group's.
fn moved(job: JobId, index: u64, tasks: std::ops::Range<u64>) -> FeedItem {
    FeedItem { move_number: MOVE, ..grant(job, index, tasks) }
}

impl Scene {
    /// A heartbeat whose last runs were dealt under another assignment.
    fn heartbeat_with(
        &mut self,
        worker: &Sender,
        beat: WorkerHeartbeat,
        own: &[TaskRun],
        foreign: &[TaskRun],
    ) {
        let beat = WorkerHeartbeat { foreign_count: foreign.len() as u64, ..beat };
        self.worker_says(worker, &encode(&beat, &[bytes_of(&[own, foreign].concat())]));
    }

    /// Time passes; the leader answers, and a worker of the group goes on saying the same.
    fn wait_beating(&mut self, ms: u64, worker: &Sender, own: &[TaskRun], foreign: &[TaskRun]) {
        for _ in 0..ms / 500 {
            self.wait_renewing(Duration::from_millis(500));
            let beat = WorkerHeartbeat { deal_echo: 9, ..self.beat(worker, 4) };
            self.heartbeat_with(worker, beat, own, foreign);
        }
    }
}

/// The primary of a group under epoch 3 that is granted tasks, and a moment later gets the range of
/// a group that is lost, of the same job.
fn heir() -> (Scene, Sender) {
    let mut scene = Scene::primary(1);
    scene.lease_of(3);
    let worker = scene.worker(1, 1);
    scene.heartbeat(&worker, 4, 0, &[]);
    scene.feed(10, &[grant(JOB, 6, 0..2)], &[job_record(100)]);
    assert_eq!(tasks_of(&scene.deals()), [(0, 2)]);
    scene.feed_index = 20;
    scene.feed(20, &[moved(JOB, 20, 50..54)], &[job_record(100)]);
    (scene, worker)
}

impl Scene {
    /// The primary gets a later epoch, and its doubts of the time before are over.
    fn lease_of(&mut self, epoch: u64) {
        self.epoch = epoch;
        self.wait_renewing(Duration::from_millis(3_500));
        assert!(self.balancer.is_primary(self.now));
    }
}

#[test]
fn a_moved_range_is_dealt_after_the_worker_timeout_when_the_masters_say_what_is_unfinished() {
    let (mut scene, worker) = heir();
    assert!(scene.deals().is_empty(), "whoever has it may list it");
    let place = scene.explain(JOB, 50);
    assert!(matches!(place, Explanation::Waiting(Reason::Grace { .. })), "{place:?}");
    // What was granted as usual goes on meanwhile.
    scene.feed(21, &[grant(OTHER, 21, 0..1)], &[job_record(1)]);
    assert_eq!(tasks_of(&scene.deals()), [(0, 1)]);
    let own = [run(JOB, 0..2, 3 << 32 | 1), run(OTHER, 0..1, 3 << 32 | 1)];
    scene.wait_beating(2_500, &worker, &own, &[]);
    assert!(scene.to_masters::<RunsLost>().is_none() && scene.deals().is_empty());
    scene.wait_beating(1_000, &worker, &own, &[]);
    let (request, question, runs) = scene.asked_with_runs::<RunsLost>().expect("a question");
    assert_eq!(({ question.epoch }, proto::ids::NodeId::from(question.worker_uuid).0), (3, 0));
    let asked: Vec<_> = runs.iter().map(|it| (it.first_task, it.task_count, it.state)).collect();
    assert_eq!(asked, [(50, 4, TaskState::Returned.to_wire())]);
    // All but one had their outcome.
    scene.fates(request, &[run(JOB, 52..53, 0)]);
    let deals = scene.deals();
    assert_eq!(tasks_of(&deals), [(52, 53)]);
    assert_eq!(deals[0].attempt >> 32, MOVE, "higher than every attempt of the lost group");
    assert_eq!(scene.explain(JOB, 50), Explanation::Settled);
}

#[test]
fn what_a_worker_lists_of_a_moved_range_is_taken_over_and_dealt_to_nobody() {
    let (mut scene, worker) = heir();
    let moved_here = scene.worker(2, 1);
    let running = [run(JOB, 51..53, OLD)];
    let own = [run(JOB, 0..2, 3 << 32 | 1)];
    for _ in 0..7 {
        let beat = WorkerHeartbeat { assignment: 20, ..scene.beat(&moved_here, 2) };
        scene.heartbeat_with(&moved_here, beat, &[], &running);
        scene.wait_beating(500, &worker, &own, &[]);
    }
    assert!(matches!(scene.explain(JOB, 51), Explanation::Dealt { attempt: OLD, .. }));
    let (request, _, runs) = scene.asked_with_runs::<RunsLost>().expect("a question");
    let asked: Vec<_> = runs.iter().map(|it| (it.first_task, it.task_count)).collect();
    assert_eq!(asked, [(50, 1), (53, 1)]);
    scene.fates(request, &[]);
    assert!(scene.orders(&moved_here).is_empty() && scene.deals().is_empty());
    scene.settled(&moved_here, &running, Verdict::Final);
    assert_eq!(scene.explain(JOB, 51), Explanation::Settled);
    // One that was cut off and lists a task that has its outcome by now is told to stop.
    let late = scene.worker(3, 1);
    let beat = WorkerHeartbeat { assignment: 20, ..scene.beat(&late, 2) };
    scene.heartbeat_with(&late, beat, &[], &[run(JOB, 50..51, OLD)]);
    assert_eq!(scene.orders(&late).len(), 1);
}

#[test]
fn a_moved_range_beside_a_granted_one_is_dealt_under_numbers_of_its_own() {
    let (mut scene, worker) = heir();
    scene.feed(22, &[grant(JOB, 22, 54..60)], &[job_record(100)]);
    let own = [run(JOB, 0..2, 3 << 32 | 1), run(JOB, 54..56, 3 << 32 | 1)];
    assert_eq!(tasks_of(&scene.deals()), [(54, 56)]);
    scene.wait_beating(3_500, &worker, &own, &[]);
    let (request, _, runs) = scene.asked_with_runs::<RunsLost>().expect("a question");
    scene.fates(request, &runs);
    scene.free(&worker, 40, &own);
    let deals = scene.deals();
    let numbers: Vec<_> = deals.iter().map(|it| (it.tasks.clone(), it.attempt >> 32)).collect();
    assert_eq!(numbers, [(50..54, MOVE), (56..60, 3)]);
    // A later epoch is higher than the number of the move, and so is every attempt under it.
    scene.settled(&worker, &[run(JOB, 50..54, deals[0].attempt)], Verdict::Again);
    let again = scene.deals().remove(0);
    assert!(again.tasks.start == 50 && again.attempt > deals[0].attempt);
    scene.settled(&worker, &[run(JOB, 50..54, again.attempt)], Verdict::Again);
    scene.deals();
    scene.lease_of(5);
    let (request, _, runs) = scene.asked_with_runs::<RunsLost>().expect("a question");
    scene.heartbeat(&worker, 4, 9, &[]);
    scene.fates(request, &runs);
    let deals = scene.deals();
    assert!(!deals.is_empty() && deals.iter().all(|it| it.attempt >> 32 == 5), "{deals:?}");
}

#[test]
fn doubts_of_a_take_over_and_of_a_move_end_each_at_its_own_time() {
    let (mut scene, worker) = heir();
    // It is replaced and comes back: all that was granted is in doubt for 3 s from now on.
    let own = [run(JOB, 0..2, 3 << 32 | 1)];
    scene.wait_beating(1_000, &worker, &own, &[]);
    scene.epoch = 5;
    scene.wait_renewing(Duration::from_millis(300));
    scene.feed(30, &[moved(OTHER, 30, 0..1)], &[job_record(2)]);
    scene.wait_beating(1_500, &worker, &own, &[]);
    scene.feed(31, &[moved(OTHER, 31, 1..2)], &[job_record(2)]);
    scene.effects.clear();
    scene.wait_beating(2_000, &worker, &own, &[]);
    let (request, _, runs) = scene.asked_with_runs::<RunsLost>().expect("a question");
    assert!(runs.iter().any(|it| JobId::from(it.job_uuid) == JOB && it.first_task == 50));
    assert!(!runs.iter().any(|it| JobId::from(it.job_uuid) == OTHER && it.first_task == 1));
    scene.fates(request, &[]);
    scene.wait_beating(1_500, &worker, &own, &[]);
    let mut asked = Vec::new();
    while let Some((request, _, runs)) = scene.asked_with_runs::<RunsLost>() {
        asked.extend(runs.iter().map(|it| (JobId::from(it.job_uuid), { it.first_task })));
        scene.fates(request, &[]);
    }
    assert!(asked.contains(&(OTHER, 1)), "{asked:?}");
}

#[test]
fn the_auxiliary_takes_a_moved_range_for_dealt_without_a_word() {
    let mut scene = Scene::auxiliary();
    let primary = scene.primary_node();
    let mark = proto::messages::node::DealMark {
        group: 1,
        epoch: 1,
        auxiliary_incarnation: 1,
        mark: 1,
        feed_index: 5,
        is_complete: 1,
        ..proto::messages::node::DealMark::default()
    };
    assert_eq!(scene.told(&primary, mark, &[]), Some(1));
    let items = [grant(OTHER, 6, 0..1_000), moved(JOB, 7, 0..1_000)];
    let mut items = items.to_vec();
    items[1].job_offset = job_record(1_000).len() as u64;
    scene.feed(10, &items, &[job_record(1_000), job_record(1_000)]);
    scene.wait_renewing(Duration::from_millis(4_000));
    assert!(scene.to_masters::<RunsLost>().is_none(), "it is not for an auxiliary to ask");
    let worker = scene.worker(1, 1);
    scene.heartbeat(&worker, 4, 0, &[]);
    (scene.is_primary, scene.epoch, scene.feed_index) = (1, 5, 10);
    scene.wait_renewing(Duration::from_millis(300));
    // Above the mark of its grant the other job is dealt at once; of the moved range nothing.
    let deals = scene.deals();
    assert!(deals.iter().all(|deal| deal.job == OTHER && deal.tasks.start >= 64), "{deals:?}");
    assert!(!deals.is_empty());
    assert!(matches!(scene.explain(JOB, 999), Explanation::Waiting(Reason::Grace { .. })));
}

#[test]
fn a_primary_in_step_deals_a_moved_range_without_a_mark() {
    let mut scene = Scene::primary(1);
    scene.lease_of(3);
    scene.auxiliary = (AuxiliaryState::Absent, 1);
    scene.wait_renewing(Duration::from_millis(300));
    scene.auxiliary_connects();
    let (mark, _) = scene.mark().expect("everything");
    scene.knows(&mark);
    scene.auxiliary = (AuxiliaryState::InStep, 1);
    scene.wait_renewing(Duration::from_millis(300));
    let worker = scene.worker(1, 1);
    scene.heartbeat(&worker, 4, 0, &[]);
    scene.feed(10, &[moved(JOB, 10, 0..1_000)], &[job_record(1_000)]);
    scene.wait_beating(3_500, &worker, &[], &[]);
    let (request, _, runs) = scene.asked_with_runs::<RunsLost>().expect("a question");
    scene.fates(request, &runs);
    assert_eq!(tasks_of(&scene.deals()), [(0, 4)]);
    assert!(scene.mark().is_none());
}

#[test]
fn runs_of_other_groups_keep_slots_and_are_left_alone() {
    let mut scene = Scene::primary(1);
    let worker = scene.worker(1, 1);
    let foreign = [run(JOB, 7..9, OLD), run(OTHER, 0..1, OLD)];
    let beat = scene.beat(&worker, 4);
    scene.heartbeat_with(&worker, beat, &[], &foreign);
    let (request, _, runs) = scene.asked_with_runs::<RunsLost>().expect("both jobs are unknown");
    scene.fates(request, &runs);
    scene.feed(10, &[grant(JOB, 6, 0..5)], &[job_record(100)]);
    let beat = scene.beat(&worker, 4);
    scene.heartbeat_with(&worker, beat, &[], &foreign);
    assert!(scene.orders(&worker).is_empty(), "they are not of this group's");
    let deals = scene.deals();
    assert_eq!(tasks_of(&deals), [(0, 1)], "three of four slots are taken");
    assert_eq!(scene.explain(JOB, 7), Explanation::NotGranted);
    // A slot becomes free by the end of one of them.
    scene.free(&worker, 10, &[run(OTHER, 0..1, OLD)]);
    assert_eq!(tasks_of(&scene.deals()), [(1, 2)]);
    // Nobody asks for them when the worker falls silent.
    scene.wait_renewing(Duration::from_millis(3_500));
    let (_, _, runs) = scene.asked_with_runs::<RunsLost>().expect("a question");
    let asked: Vec<_> = runs.iter().map(|it| (it.first_task, it.task_count)).collect();
    assert_eq!(asked, [(0, 1), (1, 1)]);
}

#[test]
fn runs_of_another_group_are_killed_when_their_job_ended() {
    let mut scene = Scene::primary(1);
    let worker = scene.worker(1, 1);
    let beat = scene.beat(&worker, 4);
    scene.heartbeat_with(&worker, beat, &[], &[run(JOB, 7..9, OLD)]);
    scene.effects.retain(|_| true);
    assert!(scene.orders(&worker).is_empty());
    scene.feed(10, &[ended(JOB, 10)], &[]);
    let orders = scene.orders(&worker);
    let kill = Order::Kill.to_wire();
    assert_eq!(orders.iter().map(|it| (it.first_task, it.state)).collect::<Vec<_>>(), [(7, kill)]);
}

impl Scene {
    /// A worker lists runs of another group. Returns the jobs of what it must kill.
    fn kills(&mut self, worker: &Sender, foreign: &[TaskRun]) -> Vec<JobId> {
        let beat = self.beat(worker, 4);
        self.heartbeat_with(worker, beat, &[], foreign);
        self.orders(worker).iter().map(|order| order.job_uuid.into()).collect()
    }

    /// What the masters are asked, by first task and number.
    fn questions(&mut self) -> Option<(RequestId, Vec<(u64, u64)>)> {
        let (request, _, runs) = self.asked_with_runs::<RunsLost>()?;
        assert!(runs.iter().all(|run| run.state == TaskState::Returned.to_wire()));
        Some((request, runs.iter().map(|run| (run.first_task, run.task_count)).collect()))
    }
}

#[test]
fn runs_of_a_job_that_ended_before_this_balancer_knew_of_them_are_killed() {
    let mut scene = Scene::primary(1);
    let worker = scene.worker(1, 1);
    // The group that dealt them is gone; one job ended while it was.
    scene.feed(10, &[ended(JOB, 10)], &[]);
    let foreign = [run(JOB, 7..9, OLD), run(OTHER, 0..3, OLD)];
    assert_eq!(scene.kills(&worker, &foreign), []);
    let (request, asked) = scene.questions().expect("nobody else could say it");
    assert_eq!(asked, [(7, 2), (0, 3)]);
    // A task of the other job has its outcome, elsewhere.
    scene.fates(request, &[run(OTHER, 1..3, OLD)]);
    for _ in 0..2 {
        assert_eq!(scene.kills(&worker, &foreign), [JOB, OTHER], "until it lists them no more");
    }
    let foreign = [run(OTHER, 1..3, OLD)];
    assert_eq!(scene.kills(&worker, &foreign), []);
    assert_eq!(scene.questions(), None, "it was asked once");
    // The other job ends; the order is lost on its way.
    scene.feed(11, &[ended(OTHER, 11)], &[]);
    assert_eq!(scene.orders(&worker).len(), 1);
    assert_eq!(scene.kills(&worker, &foreign), [OTHER]);
    assert_eq!(scene.questions(), None);
}

#[test]
fn a_feed_that_is_read_anew_may_have_left_out_the_end_of_a_job() {
    let mut scene = Scene::primary(1);
    let worker = scene.worker(1, 1);
    let foreign = [run(JOB, 7..9, OLD)];
    scene.kills(&worker, &foreign);
    let (request, _) = scene.questions().expect("a question");
    scene.fates(request, &foreign);
    assert_eq!(scene.kills(&worker, &foreign), []);
    assert_eq!(scene.questions(), None);
    let (request, _) = scene.pull();
    scene.batch(request, 20, 1, None, &[], &[]);
    assert_eq!(scene.kills(&worker, &foreign), []);
    let (request, _) = scene.questions().expect("the same question");
    scene.fates(request, &[]);
    assert_eq!(scene.kills(&worker, &foreign), [JOB]);
}

#[test]
fn an_auxiliary_asks_about_runs_of_other_groups_when_it_is_the_primary() {
    let mut scene = Scene::auxiliary();
    let worker = scene.worker(1, 1);
    let foreign = [run(JOB, 7..9, OLD)];
    scene.kills(&worker, &foreign);
    assert_eq!(scene.questions(), None);
    (scene.is_primary, scene.epoch) = (1, 5);
    scene.wait_renewing(Duration::from_millis(300));
    let (request, _) = scene.questions().expect("a question");
    scene.fates(request, &[]);
    assert_eq!(scene.kills(&worker, &foreign), [JOB]);
}

#[test]
fn what_a_worker_that_was_moved_away_is_dealt_there_is_not_asked_about() {
    let mut scene = Scene::primary(1);
    let worker = scene.worker(1, 1);
    let beat = WorkerHeartbeat { refusing: 3, ..scene.beat(&worker, 2) };
    scene.heartbeat_with(&worker, beat, &[], &[run(JOB, 7..9, OLD)]);
    assert_eq!(scene.questions(), None);
}

#[test]
fn a_worker_that_was_moved_away_is_dealt_nothing_and_finishes_what_it_has() {
    let mut scene = Scene::primary(1);
    let worker = scene.worker(1, 1);
    scene.heartbeat(&worker, 2, 0, &[]);
    scene.feed(10, &[grant(JOB, 6, 0..10)], &[job_record(10)]);
    let deal = scene.deals().remove(0);
    let held = [run(JOB, deal.tasks.clone(), deal.attempt)];
    let beat = WorkerHeartbeat { refusing: 3, deal_echo: 1, ..scene.beat(&worker, 2) };
    scene.heartbeat_with(&worker, beat, &held, &[]);
    assert_eq!(scene.answer_to(&worker), Some((1, 7, 1)), "it hears what it must kill");
    assert_eq!((scene.balancer.worker_count(), scene.balancer.reachable_count()), (0, 0));
    scene.free(&worker, 20, &held);
    assert!(scene.deals().is_empty());
    assert!(scene.to_masters::<RunsLost>().is_none());
    scene.settled(&worker, &held, Verdict::Final);
    scene.wait_renewing(Duration::from_millis(3_500));
    assert_eq!(scene.balancer.counters().silent_workers, 0, "it left");
    assert!(scene.to_masters::<RunsLost>().is_none());
}

#[test]
fn a_worker_of_another_group_is_neither_counted_nor_told_an_epoch() {
    let mut scene = Scene::primary(1);
    scene.feed(10, &[grant(JOB, 6, 0..10)], &[job_record(10)]);
    let worker = scene.worker(1, 1);
    let beat = WorkerHeartbeat { group: 2, ..scene.beat(&worker, 2) };
    scene.heartbeat_with(&worker, beat, &[run(JOB, 0..1, OLD)], &[]);
    assert_eq!(scene.answer_to(&worker), Some((0, 0, 0)));
    assert_eq!((scene.balancer.worker_count(), scene.balancer.slot_count()), (0, 0));
    assert!(scene.deals().is_empty() && scene.orders(&worker).is_empty());
    assert!(matches!(scene.explain(JOB, 0), Explanation::Waiting(Reason::NoWorker)));
}

#[test]
fn a_seat_in_another_group_begins_anew() {
    let mut scene = Scene::primary(1);
    let worker = scene.worker(1, 1);
    scene.heartbeat(&worker, 2, 0, &[]);
    scene.feed(10, &[grant(JOB, 6, 0..10)], &[job_record(10)]);
    let deal = scene.deals().remove(0);
    // Its group was lost while it stood still.
    scene.wait(Duration::from_millis(250));
    let (request, _) = scene.to_masters::<LeaseRenew>().expect("a renewal");
    scene.refuse_request(request, ErrorCode::OldEpoch, "");
    assert!(scene.to_masters::<NodeRegister>().is_some());
    scene.seat((40, 2), 9, 1);
    assert_eq!(scene.balancer.group(), Some((2, proto::ids::Epoch(9))));
    assert!(!scene.balancer.is_primary(scene.now), "the lease of the group before is void");
    assert_eq!(scene.balancer.tasks().jobs().count(), 0);
    let (request, pull) = scene.pull();
    assert_eq!(({ pull.group }, { pull.after_index }), (2, 0), "from the start");
    scene.lease(9, 1, 39);
    scene.batch(request, 41, 1, None, &[], &[]);
    // The worker does not know yet that it was moved: no deal, no epoch that is not of its group.
    let held = [run(JOB, deal.tasks.clone(), deal.attempt)];
    let beat = WorkerHeartbeat { deal_echo: 1, ..scene.beat(&worker, 2) };
    scene.heartbeat_with(&worker, beat, &held, &[]);
    assert_eq!(scene.answer_to(&worker), Some((0, 0, 1)));
    assert!(scene.orders(&worker).is_empty() && scene.deals().is_empty());
    // One of the new group is dealt to; the numbers of deals go on where a link does.
    scene.feed(42, &[grant(OTHER, 42, 0..3)], &[job_record(3)]);
    let beat = WorkerHeartbeat { group: 2, assignment: 43, ..scene.beat(&worker, 2) };
    scene.heartbeat_with(&worker, beat, &[], &held);
    assert!(scene.deals().is_empty(), "both slots are taken");
    scene.free(&worker, 20, &held);
    let deals = scene.deals();
    assert_eq!((deals[0].job, deals[0].number, deals[0].attempt), (OTHER, 2, 9 << 32 | 1));
}

#[test]
fn an_older_seat_of_a_master_that_lags_is_not_taken() {
    let mut scene = Scene::primary(1);
    scene.connect();
    scene.seat((40, 2), 9, 1);
    scene.connect();
    scene.seat((5, 1), 1, 1);
    assert_eq!(scene.balancer.group(), Some((2, proto::ids::Epoch(9))));
    let (_, pull) = scene.to_masters::<FeedPull>().expect("a pull");
    assert_eq!({ pull.group }, 2);
}
