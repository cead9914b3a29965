//! A balancer between scripted masters and workers: each test tells one story.

mod explaining;
mod groups;
mod model;
mod scene;
mod takeover;

use node::logic::network::{NetworkEffect, NetworkEvent, Peer};
use proto::ids::{JobId, LogIndex};
use proto::messages::node::{FeedPull, LeaseRenew, NodeRegister, RunsLost};
use proto::messages::session::ErrorReply;
use proto::messages::task::{TaskRecall, WorkerHeartbeat, WorkerHeartbeatReply};
use proto::record::Message;
use proto::status::{ErrorCode, Order, TaskState, Verdict};
use proto::time::Duration;

use super::explain::{Explanation, Reason};
use super::*;
use scene::{Scene, Turn, grant, job_record, run};

const JOB: JobId = JobId(0x0b);
const OTHER: JobId = JobId(0x0c);

#[test]
fn it_registers_renews_and_pulls_on_each_connection() {
    let mut scene = Scene::new();
    scene.tick();
    assert!(matches!(scene.effects[..], [NetworkEffect::Open { link: MASTER_LINK, .. }]));
    scene.connect();
    assert_eq!(scene.types_to_masters(), [NodeRegister::TYPE]);
    scene.register(1, 1);
    assert_eq!(scene.types_to_masters(), [LeaseRenew::TYPE, FeedPull::TYPE]);
    scene.effects.clear();
    scene.connect();
    assert_eq!(scene.types_to_masters(), [NodeRegister::TYPE]);
}

#[test]
fn tasks_are_dealt_in_order_one_for_each_slot_until_the_rate_is_known() {
    let mut scene = Scene::primary(1);
    let worker = scene.worker(1, 1);
    scene.heartbeat(&worker, 2, 0, &[]);
    scene.feed(10, &[grant(JOB, 6, 0..100)], &[job_record(100)]);
    let deals = scene.deals();
    assert_eq!(scene::tasks_of(&deals), [(0, 2)]);
    assert_eq!((deals[0].attempt >> 32, deals[0].number), (1, 1));
    // Two tasks of 10 ms: the window of 50 ms in two slots has room for ten.
    scene.free(&worker, 20_000, &[run(JOB, 0..2, deals[0].attempt)]);
    assert_eq!(scene::tasks_of(&scene.deals()), [(2, 12)]);
    scene.settled(&worker, &[run(JOB, 0..2, deals[0].attempt)], Verdict::Final);
    assert_eq!(scene.explain(JOB, 0), Explanation::Settled);
    assert!(matches!(scene.explain(JOB, 2), Explanation::Dealt { .. }));
    assert_eq!(scene.explain(JOB, 12), Explanation::Waiting(Reason::Busy { before: 0 }));
}

#[test]
fn a_deal_that_the_worker_does_not_list_after_its_echo_is_dealt_again() {
    let mut scene = Scene::primary(1);
    let worker = scene.worker(1, 1);
    scene.heartbeat(&worker, 1, 0, &[]);
    scene.feed(10, &[grant(JOB, 6, 0..1)], &[job_record(1)]);
    let first = scene.deals().remove(0);
    // This heartbeat left before the deal could arrive.
    scene.heartbeat(&worker, 1, 0, &[]);
    assert!(scene.to_masters::<RunsLost>().is_none());
    scene.heartbeat(&worker, 1, first.number, &[]);
    let (request, _, runs) = scene.asked_with_runs::<RunsLost>().expect("a question");
    assert_eq!(runs[0].state, TaskState::Returned.to_wire());
    assert!(matches!(scene.explain(JOB, 0), Explanation::Asked { .. }));
    scene.fates(request, &runs);
    let second = scene.deals().remove(0);
    assert!(second.attempt > first.attempt);
}

#[test]
fn deals_of_an_earlier_connection_are_missed_on_the_next_one() {
    let mut scene = Scene::primary(1);
    let worker = scene.worker(1, 1);
    scene.heartbeat(&worker, 1, 0, &[]);
    scene.feed(10, &[grant(JOB, 6, 0..1)], &[job_record(1)]);
    assert_eq!(scene.deals().len(), 1);
    let again = scene.worker(1, 1);
    assert_ne!(worker.peer, again.peer);
    scene.heartbeat(&again, 1, 0, &[]);
    assert!(scene.to_masters::<RunsLost>().is_some(), "what was lost with a connection is asked");
}

#[test]
fn what_a_silent_worker_held_is_asked_for_and_dealt_again_but_for_what_is_final() {
    let mut scene = Scene::primary(1);
    let silent = scene.worker(1, 1);
    scene.heartbeat(&silent, 2, 0, &[]);
    scene.feed(10, &[grant(JOB, 6, 0..2)], &[job_record(2)]);
    let first = scene.deals().remove(0);
    assert_eq!(first.tasks, 0..2);
    let other = scene.worker(2, 1);
    for _ in 0..7 {
        scene.wait_renewing(Duration::from_millis(500));
        scene.heartbeat(&other, 2, 0, &[]);
    }
    let (request, question, runs) = scene.asked_with_runs::<RunsLost>().expect("a question");
    assert_eq!(NodeId::from(question.worker_uuid), silent.node);
    assert_eq!(runs[0].state, TaskState::Lost.to_wire());
    // Task 0 was recorded before the worker died.
    scene.fates(request, &[run(JOB, 1..2, first.attempt)]);
    let deals = scene.deals();
    assert_eq!(scene::tasks_of(&deals), [(1, 2)]);
    assert_eq!(deals[0].worker, other.node);
    assert!(deals[0].attempt > first.attempt);
    assert_eq!(scene.explain(JOB, 0), Explanation::Settled);
    // It was only cut off, and still runs both: one is finished, the other dealt elsewhere.
    scene.heartbeat(&silent, 2, 0, &[run(JOB, 0..2, first.attempt)]);
    let orders = scene.orders(&silent);
    assert_eq!(orders.iter().map(|order| order.task_count).sum::<u64>(), 2, "{orders:?}");
}

#[test]
fn a_worker_that_comes_back_while_its_tasks_are_asked_for_keeps_them() {
    let mut scene = Scene::primary(1);
    let worker = scene.worker(1, 1);
    scene.heartbeat(&worker, 1, 0, &[]);
    scene.feed(10, &[grant(JOB, 6, 0..1)], &[job_record(1)]);
    let deal = scene.deals().remove(0);
    scene.wait_renewing(Duration::from_millis(3_500));
    let (request, _, runs) = scene.asked_with_runs::<RunsLost>().expect("a question");
    scene.heartbeat(&worker, 1, deal.number, &[run(JOB, 0..1, deal.attempt)]);
    assert!(scene.orders(&worker).is_empty(), "a healthy run is not killed");
    scene.fates(request, &runs);
    assert!(scene.deals().is_empty(), "it is not dealt twice");
    assert!(matches!(scene.explain(JOB, 0), Explanation::Dealt { .. }));
}

#[test]
fn an_older_attempt_is_not_killed_while_the_newer_one_has_no_worker() {
    let mut scene = Scene::primary(1);
    let first = scene.worker(1, 1);
    scene.heartbeat(&first, 1, 0, &[]);
    scene.feed(10, &[grant(JOB, 6, 0..1)], &[job_record(1)]);
    let old = scene.deals().remove(0);
    scene.wait_renewing(Duration::from_millis(3_100));
    let (request, _, runs) = scene.asked_with_runs::<RunsLost>().expect("a question");
    let second = scene.worker(2, 1);
    scene.heartbeat(&second, 1, 0, &[]);
    scene.fates(request, &runs);
    assert_eq!(scene.deals().len(), 1, "the second attempt");
    // The second worker dies as well, and the first one comes back: it has the only run there is.
    let restarted = scene.worker(2, 2);
    scene.heartbeat(&restarted, 1, 0, &[]);
    let (request, _, runs) = scene.asked_with_runs::<RunsLost>().expect("a question");
    scene.heartbeat(&first, 1, old.number, &[run(JOB, 0..1, old.attempt)]);
    assert!(scene.orders(&first).is_empty());
    scene.fates(request, &runs);
    scene.heartbeat(&first, 1, old.number, &[run(JOB, 0..1, old.attempt)]);
    let orders = scene.orders(&first);
    let third = scene.deals();
    assert_eq!(orders.len(), third.len(), "superseded only by what is dealt");
}

#[test]
fn a_question_is_repeated_under_its_request_until_it_is_answered() {
    let mut scene = Scene::primary(1);
    let worker = scene.worker(1, 1);
    scene.heartbeat(&worker, 1, 0, &[]);
    scene.feed(10, &[grant(JOB, 6, 0..1)], &[job_record(1)]);
    scene.deals();
    let restarted = scene.worker(1, 2);
    scene.heartbeat(&restarted, 1, 0, &[]);
    let (request, _, runs) = scene.asked_with_runs::<RunsLost>().expect("a question");
    assert_eq!(runs[0].state, TaskState::Lost.to_wire(), "its predecessor died with it");
    scene.wait_renewing(Duration::from_millis(1_100));
    let (repeated, _, _) = scene.asked_with_runs::<RunsLost>().expect("the question again");
    assert_eq!(repeated, request);
    scene.fates(RequestId(request.0 + 77), &[]);
    assert!(matches!(scene.explain(JOB, 0), Explanation::Asked { .. }), "another one's answer");
    scene.fates(request, &[]);
    assert_eq!(scene.explain(JOB, 0), Explanation::Settled);
}

#[test]
fn refused_outcomes_and_returned_tasks_are_dealt_again_under_a_later_attempt() {
    let mut scene = Scene::primary(1);
    let worker = scene.worker(1, 1);
    scene.heartbeat(&worker, 2, 0, &[]);
    scene.feed(10, &[grant(JOB, 6, 0..2)], &[job_record(2)]);
    let first = scene.deals().remove(0);
    scene.free(&worker, 2_000_000, &[run(JOB, 0..1, first.attempt)]);
    scene.settled(&worker, &[run(JOB, 0..1, first.attempt)], Verdict::Again);
    let second = scene.deals().remove(0);
    assert_eq!(second.tasks, 0..1);
    assert!(second.attempt > first.attempt);
    // The same word again is about the earlier attempt.
    scene.settled(&worker, &[run(JOB, 0..1, first.attempt)], Verdict::Again);
    assert!(scene.deals().is_empty());
    scene.returned(&worker, &[run(JOB, 1..2, first.attempt)]);
    assert!(scene.deals().is_empty(), "nothing is forced on a worker that gave tasks back");
    scene.heartbeat(&worker, 2, 2, &[run(JOB, 0..1, second.attempt)]);
    let third = scene.deals().remove(0);
    assert_eq!(third.tasks, 1..2);
    assert!(third.attempt > first.attempt);
}

#[test]
fn a_final_task_is_never_queued_again_by_a_late_word() {
    let mut scene = Scene::primary(1);
    let worker = scene.worker(1, 1);
    scene.heartbeat(&worker, 1, 0, &[]);
    scene.feed(10, &[grant(JOB, 6, 0..1)], &[job_record(1)]);
    let deal = scene.deals().remove(0);
    scene.free(&worker, 10, &[run(JOB, 0..1, deal.attempt)]);
    scene.settled(&worker, &[run(JOB, 0..1, deal.attempt)], Verdict::Final);
    scene.settled(&worker, &[run(JOB, 0..1, deal.attempt)], Verdict::Again);
    scene.returned(&worker, &[run(JOB, 0..1, deal.attempt)]);
    scene.heartbeat(&worker, 1, 1, &[]);
    assert!(scene.deals().is_empty());
    assert_eq!(scene.explain(JOB, 0), Explanation::Settled);
}

#[test]
fn workers_of_a_job_that_ended_are_told_at_once_and_again() {
    let mut scene = Scene::primary(1);
    let worker = scene.worker(1, 1);
    scene.heartbeat(&worker, 2, 0, &[]);
    scene.feed(10, &[grant(JOB, 6, 0..2)], &[job_record(2)]);
    let deal = scene.deals().remove(0);
    scene.orders(&worker);
    scene.feed(20, &[scene::ended(JOB, 20)], &[]);
    let orders = scene.orders(&worker);
    assert_eq!((orders[0].first_task, { orders[0].task_count }), (0, 2));
    assert!(orders.iter().all(|order| order.state == Order::Kill.to_wire()));
    scene.heartbeat(&worker, 2, 1, &[run(JOB, 0..2, deal.attempt)]);
    assert_eq!(scene.orders(&worker).len(), 1, "the first order may have been lost");
    assert_eq!(scene.explain(JOB, 0), Explanation::UnknownJob);
}

#[test]
fn a_repeated_batch_does_not_bring_an_ended_job_back() {
    let mut scene = Scene::primary(1);
    scene.feed(10, &[grant(JOB, 6, 0..2)], &[job_record(2)]);
    scene.feed(20, &[scene::ended(JOB, 20)], &[]);
    scene.feed(10, &[grant(JOB, 6, 0..2)], &[job_record(2)]);
    assert_eq!(scene.explain(JOB, 0), Explanation::UnknownJob);
    // A batch that answers no pull of this connection is nobody's.
    scene.batch(RequestId(9_999), 30, 0, None, &[grant(OTHER, 25, 0..2)], &[job_record(2)]);
    assert_eq!(scene.explain(OTHER, 0), Explanation::UnknownJob);
}

#[test]
fn the_oldest_page_of_a_complete_feed_says_how_far_it_goes() {
    let mut scene = Scene::new();
    scene.connect();
    scene.register(1, 1);
    scene.lease(1, 1, 50);
    let (request, pull) = scene.pull();
    assert_eq!({ pull.after_index }, 0);
    let resume = Some((OTHER, 0));
    scene.batch(request, 50, 1, resume, &[grant(JOB, 6, 0..2)], &[job_record(2)]);
    let (request, pull) = scene.pull();
    assert_eq!(JobId::from(pull.resume_job_uuid), OTHER);
    // The second page comes from a master that lags behind the first.
    scene.batch(request, 40, 1, None, &[], &[]);
    let (request, pull) = scene.pull();
    assert_eq!({ pull.after_index }, 40);
    let worker = scene.worker(1, 1);
    scene.heartbeat(&worker, 4, 0, &[]);
    assert!(scene.deals().is_empty(), "what the leader knew at the lease is not known here yet");
    assert_eq!(scene.explain(JOB, 0), Explanation::Waiting(Reason::FeedBehind));
    scene.batch(request, 50, 0, None, &[grant(OTHER, 45, 0..1)], &[job_record(1)]);
    assert_eq!(scene.deals().len(), 2, "both jobs");
}

#[test]
fn a_pull_that_was_lost_is_sent_again_when_the_leader_tells_of_news() {
    let mut scene = Scene::primary(1);
    scene.pull();
    scene.wait_renewing(Duration::from_millis(2_000));
    assert!(scene.to_masters::<FeedPull>().is_none(), "there is nothing to pull");
    scene.feed_index = 40;
    scene.wait_renewing(Duration::from_millis(500));
    let (_, pull) = scene.pull();
    assert_eq!({ pull.after_index }, 5);
}

#[test]
fn a_new_epoch_waits_for_inventories_before_it_deals_what_was_granted() {
    let mut scene = Scene::new();
    scene.connect();
    scene.register(2, 1);
    scene.lease(2, 1, 6);
    let request = scene.pull().0;
    scene.batch(request, 8, 1, None, &[grant(JOB, 6, 0..2)], &[job_record(2)]);
    let worker = scene.worker(1, 1);
    let held = run(JOB, 0..1, (1 << 32) | 4);
    scene.heartbeat(&worker, 3, 0, &[held]);
    assert!(scene.orders(&worker).is_empty());
    assert!(scene.deals().is_empty());
    assert_eq!(scene.explain(JOB, 1), Explanation::Waiting(Reason::Grace { up_to: LogIndex(6) }));
    // What was granted after the lease began, no earlier primary can have dealt.
    scene.feed(20, &[grant(OTHER, 9, 0..1)], &[job_record(1)]);
    assert_eq!(scene.deals().iter().map(|deal| deal.job).collect::<Vec<_>>(), [OTHER]);
    for _ in 0..7 {
        scene.wait_renewing(Duration::from_millis(500));
        scene.heartbeat(&worker, 3, 1, &[held, run(OTHER, 0..1, (2 << 32) | 1)]);
    }
    assert!(scene.deals().is_empty(), "it may have its outcome by now");
    let (request, _, runs) = scene.asked_with_runs::<RunsLost>().expect("a question");
    assert_eq!((runs[0].first_task, { runs[0].task_count }), (1, 1));
    assert_eq!(runs[0].state, TaskState::Returned.to_wire());
    scene.fates(request, &runs);
    let deals = scene.deals();
    assert_eq!(scene::tasks_of(&deals), [(1, 2)]);
    assert_eq!(deals[0].attempt >> 32, 2);
}

#[test]
fn an_auxiliary_keeps_books_and_never_acts() {
    let mut scene = Scene::new();
    scene.connect();
    scene.register(1, 0);
    scene.lease(1, 0, 5);
    let request = scene.pull().0;
    scene.batch(request, 8, 1, None, &[grant(JOB, 6, 0..2)], &[job_record(2)]);
    let worker = scene.worker(1, 1);
    let held = [run(JOB, 0..1, 1 << 32), run(OTHER, 0..1, 1 << 32)];
    scene.heartbeat(&worker, 2, 0, &held);
    assert!(matches!(scene.explain(JOB, 0), Explanation::Dealt { .. }));
    assert_eq!(scene.explain(JOB, 1), Explanation::Waiting(Reason::NoLease));
    assert!(scene.orders(&worker).is_empty());
    scene.is_primary = 0;
    scene.wait_renewing(Duration::from_secs(5));
    assert!(scene.deals().is_empty());
    assert!(scene.to_masters::<RunsLost>().is_none(), "only the primary asks");
    // The leader promotes it: the questions that it kept are asked now.
    (scene.is_primary, scene.epoch) = (1, 2);
    scene.wait_renewing(Duration::from_millis(500));
    let (_, question, runs) = scene.asked_with_runs::<RunsLost>().expect("a question");
    assert_eq!(({ question.epoch }, runs.len()), (2, 1));
}

#[test]
fn nothing_is_dealt_after_the_lease_and_dealing_goes_on_with_the_next() {
    let mut scene = Scene::primary(1);
    let worker = scene.worker(1, 1);
    scene.heartbeat(&worker, 1, 0, &[]);
    scene.wait(Duration::from_millis(799));
    assert!(scene.balancer.is_primary(scene.now));
    scene.wait(Duration::from_millis(1));
    assert!(!scene.balancer.is_primary(scene.now));
    scene.feed(10, &[grant(JOB, 6, 0..1)], &[job_record(1)]);
    scene.heartbeat(&worker, 1, 0, &[]);
    assert!(scene.deals().is_empty());
    assert_eq!(scene.explain(JOB, 0), Explanation::Waiting(Reason::NoLease));
    scene.answer_lease();
    assert_eq!(scene.deals().len(), 1);
}

#[test]
fn a_lease_counts_from_its_own_request_and_old_answers_count_for_nothing() {
    let mut scene = Scene::primary(1);
    let asked_at = scene.now;
    scene.wait(Duration::from_millis(300));
    let (request, _) = scene.to_masters::<LeaseRenew>().expect("a renewal");
    scene.lease_reply(RequestId(request.0 + 1_000), 1, 1, 5);
    scene.wait(Duration::from_millis(400));
    scene.lease_reply(request, 1, 1, 5);
    scene.now = asked_at + Duration::from_millis(250 + 799);
    assert!(scene.balancer.is_primary(scene.now));
    scene.now += Duration::from_millis(60);
    assert!(!scene.balancer.is_primary(scene.now));
}

#[test]
fn a_worker_that_knows_a_newer_epoch_makes_it_ask_first() {
    let mut scene = Scene::primary(1);
    let worker = scene.worker(1, 1);
    scene.heartbeat(&worker, 1, 0, &[]);
    scene.feed(10, &[grant(JOB, 6, 0..1)], &[job_record(1)]);
    assert_eq!(scene.deals().len(), 1);
    let refusal = ErrorReply { code: ErrorCode::OldEpoch.to_wire(), ..ErrorReply::default() };
    scene.worker_says(&worker, &encode(&refusal, &[b"", b""]));
    assert!(!scene.balancer.is_primary(scene.now));
    assert_eq!(scene.balancer.counters().step_downs, 1);
    scene.answer_lease();
    assert!(scene.balancer.is_primary(scene.now), "the masters know better than one worker");
    // Its heartbeat says which epoch it obeys: nothing lower is dealt to it.
    let newer = WorkerHeartbeat {
        worker_incarnation: 1,
        epoch: 9,
        slot_count: 1,
        cpu_milli: 1_000,
        group: 1,
        ..WorkerHeartbeat::default()
    };
    scene.worker_says(&worker, &encode(&newer, &[b""]));
    scene.feed(20, &[grant(OTHER, 12, 0..1)], &[job_record(1)]);
    assert!(scene.deals().is_empty());
}

#[test]
fn a_master_without_a_leader_is_waited_for_and_left_after_a_while() {
    let mut scene = Scene::new();
    scene.connect();
    let (request, _) = scene.to_masters::<NodeRegister>().expect("a registration");
    scene.refuse_request(request, ErrorCode::NoLeader, "");
    assert!(scene.types_to_masters().is_empty(), "not at once");
    scene.wait(Duration::from_millis(100));
    let (request, _) = scene.to_masters::<NodeRegister>().expect("again");
    scene.wait(Duration::from_millis(400));
    scene.refuse_request(request, ErrorCode::NoLeader, "");
    assert!(!scene.closed(), "a leader is being elected");
    scene.wait(Duration::from_millis(100));
    let (request, _) = scene.to_masters::<NodeRegister>().expect("again");
    scene.now += Duration::from_secs(2);
    scene.refuse_request(request, ErrorCode::NoLeader, "");
    assert!(scene.closed(), "this one has been of no use for too long");
}

#[test]
fn it_follows_to_the_leader_but_not_to_and_fro() {
    let mut scene = Scene::new();
    scene.connect();
    let (request, _) = scene.to_masters::<NodeRegister>().expect("a registration");
    scene.refuse_request(request, ErrorCode::NotLeader, "tcp://10.0.0.2:1");
    let opened = |effects: &[NetworkEffect]| {
        effects.iter().any(|effect| {
            matches!(effect, NetworkEffect::Open { address, .. } if address == "tcp://10.0.0.2:1")
        })
    };
    assert!(opened(&scene.effects));
    scene.connect();
    let (request, _) = scene.to_masters::<NodeRegister>().expect("a registration");
    scene.refuse_request(request, ErrorCode::NotLeader, "tcp://10.0.0.1:1");
    assert!(scene.closed(), "the second within a moment is waited out");
}

#[test]
fn tasks_behind_a_busy_slot_are_recalled_for_an_idle_one() {
    let mut scene = Scene::primary(1);
    let busy = scene.worker(1, 1);
    scene.heartbeat(&busy, 1, 0, &[]);
    scene.feed(10, &[grant(JOB, 6, 0..9)], &[job_record(9)]);
    let first = scene.deals().remove(0);
    // Tasks of 10 ms: the rest fits the window.
    scene.free(&busy, 10_000, &[run(JOB, 0..1, first.attempt)]);
    let ahead = scene.deals().remove(0);
    assert_eq!(ahead.tasks, 1..6);
    scene.settled(&busy, &[run(JOB, 0..1, first.attempt)], Verdict::Final);
    let idle = scene.worker(2, 1);
    scene.heartbeat(&idle, 1, 0, &[]);
    assert_eq!(scene.deals().remove(0).tasks, 6..9);
    scene.free(&idle, 30_000, &[run(JOB, 6..9, first.attempt)]);
    scene.settled(&idle, &[run(JOB, 6..9, first.attempt)], Verdict::Final);
    // Its slot is empty while four tasks wait behind one: half of those come back.
    scene.wait(Duration::from_millis(30));
    scene.heartbeat(&idle, 1, 1, &[]);
    let (worker, recalled) = scene.recall().expect("a recall");
    assert_eq!(worker, busy.node);
    assert_eq!((recalled[0].first_task, { recalled[0].task_count }), (4, 2));
    scene.wait(Duration::from_millis(100));
    scene.heartbeat(&idle, 1, 1, &[]);
    assert!(scene.recall().is_none(), "the answer is awaited");
    scene.returned(&busy, &recalled);
    let deals = scene.deals();
    assert_eq!((deals[0].worker, deals[0].tasks.clone()), (idle.node, 4..6));
}

#[test]
fn tasks_that_fit_no_idle_worker_are_not_recalled() {
    let mut scene = Scene::primary(1);
    let large = scene.worker(1, 1);
    scene.heartbeat(&large, 2, 0, &[]);
    scene.feed(10, &[grant(JOB, 6, 0..9)], &[scene::wide_job_record(9, 2_000)]);
    let first = scene.deals().remove(0);
    assert_eq!(first.tasks, 0..1, "it takes the whole machine");
    scene.free(&large, 10_000, &[run(JOB, 0..1, first.attempt)]);
    assert_eq!(scene.deals().len(), 1);
    let small = scene.worker(2, 1);
    scene.heartbeat(&small, 1, 0, &[]);
    scene.wait(Duration::from_millis(30));
    scene.heartbeat(&small, 1, 0, &[]);
    assert!(scene.recall().is_none());
}

#[test]
fn a_small_job_finishes_beside_a_huge_one() {
    let mut scene = Scene::primary(1);
    let worker = scene.worker(1, 1);
    scene.heartbeat(&worker, 1, 0, &[]);
    scene.feed(10, &[grant(JOB, 6, 0..1_000_000)], &[job_record(1_000_000)]);
    let mut deal = scene.deals().remove(0);
    scene.feed(20, &[grant(OTHER, 12, 0..3)], &[job_record(3)]);
    let mut small = 0;
    for _ in 0..8 {
        scene.free(&worker, 1_000, &[run(deal.job, deal.tasks.clone(), deal.attempt)]);
        scene.settled(&worker, &[run(deal.job, deal.tasks.clone(), deal.attempt)], Verdict::Final);
        let deals = scene.deals();
        small += deals.iter().filter(|deal| deal.job == OTHER).map(Turn::count).sum::<u64>();
        if let Some(next) = deals.into_iter().next() {
            deal = next;
        }
    }
    assert_eq!(small, 3);
}

#[test]
fn what_is_not_for_a_balancer_is_refused() {
    let mut scene = Scene::primary(1);
    let client = scene.client(7);
    let pull = encode(&FeedPull::default(), &[]);
    scene.worker_says(&client, &pull);
    let refused = scene.effects.iter().find_map(|effect| match effect {
        NetworkEffect::Send { to, record } if *to == client.peer => {
            scene::read::<ErrorReply>(record)
        }
        _ => None,
    });
    let (_, refused) = refused.expect("a refusal");
    assert_eq!({ refused.code }, ErrorCode::UnknownType.to_wire());
}

#[test]
fn a_connection_that_ended_gets_no_deals() {
    let mut scene = Scene::primary(1);
    let worker = scene.worker(1, 1);
    scene.heartbeat(&worker, 1, 0, &[]);
    scene.event(NetworkEvent::Gone { sender: worker });
    scene.feed(10, &[grant(JOB, 6, 0..1)], &[job_record(1)]);
    assert!(scene.deals().is_empty());
    let again = scene.worker(1, 1);
    scene.heartbeat(&again, 1, 0, &[]);
    assert_eq!(scene.deals().len(), 1);
}

#[test]
fn heartbeats_are_answered_with_the_epoch_and_the_last_deal() {
    let mut scene = Scene::primary(1);
    let worker = scene.worker(1, 1);
    scene.feed(10, &[grant(JOB, 6, 0..1)], &[job_record(1)]);
    scene.heartbeat(&worker, 1, 0, &[]);
    let deal = scene.deals().remove(0);
    scene.heartbeat(&worker, 1, 0, &[run(JOB, 0..1, deal.attempt)]);
    let reply = scene.effects.iter().rev().find_map(|effect| match effect {
        NetworkEffect::Send { to: Peer::Inbound(_), record } => {
            scene::read::<WorkerHeartbeatReply>(record)
        }
        _ => None,
    });
    let (_, reply) = reply.expect("an answer");
    assert_eq!(({ reply.epoch }, { reply.last_deal }), (1, deal.number));
    assert!(scene.effects.iter().all(|effect| match effect {
        NetworkEffect::Send { record, .. } => scene::read::<TaskRecall>(record).is_none(),
        _ => true,
    }));
}
