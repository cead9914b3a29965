//! A worker among scripted masters, balancers and storage nodes.

mod bench;
mod explaining;
mod groups;
mod room;
mod segments;

use std::collections::BTreeSet;

use node::logic::network::Sender;
use node::logic::refusal::Refusal;
use proptest::prelude::*;
use proto::description::{JobDescription, Noop, Runtime};
use proto::ids::FileId;
use proto::messages::node::NodeRegister;
use proto::messages::task::{TaskFree, TaskReturned, TaskSettled, WorkerHeartbeat, WorkerStatus};
use proto::record::{Records, encode};
use proto::segment::Segment;
use proto::status::{ErrorCode, Order, Verdict};
use proto::wire::bytes_of;

use super::held::{WaitingRun, task_run, tasks_of};
use super::reports::FRAME_PAUSE;
use super::*;
use bench::{ASSIGNMENT, AUXILIARY, Bench, Deal, EPOCH, JOB, PRIMARY, deal, heartbeats};

#[test]
fn it_registers_joins_its_cluster_and_tells_both_balancers_what_it_holds() {
    let mut bench = Bench::registered();
    assert_eq!(bench.sent::<NodeRegister>(MASTER_LINK).len(), 1);
    assert!(bench.effects.contains(&Effect::Join { cluster: ClusterId(9) }));
    for link in [PRIMARY, AUXILIARY] {
        let beats = heartbeats(&bench.sent::<WorkerHeartbeat>(link));
        assert_eq!(beats.len(), 1, "at once when a balancer is there");
        assert_eq!(({ beats[0].assignment }, { beats[0].epoch }), (ASSIGNMENT, EPOCH));
        assert_eq!(({ beats[0].slot_count }, { beats[0].free_slot_count }), (2, 2));
    }
    bench.hear(PRIMARY, &deal(0..5).record());
    bench.heartbeat_reply(PRIMARY, EPOCH, 1, &[]);
    bench.pass(Duration::from_millis(500));
    let records = bench.sent::<WorkerHeartbeat>(PRIMARY);
    let beat = heartbeats(&records)[0];
    assert_eq!(({ beat.deal_echo }, { beat.free_slot_count }), (1, 0));
    let record = Records::of(&records[0]).next().unwrap().unwrap();
    let [runs] = record.parts::<1>().unwrap();
    let held: u64 = items_of::<TaskRun>(runs).unwrap().iter().map(|run| run.task_count).sum();
    assert_eq!(held, 5);
}

#[test]
fn each_balancer_is_told_how_far_away_it_is() {
    let mut bench = Bench::registered();
    let told = |bench: &mut Bench| {
        [PRIMARY, AUXILIARY].map(|link| {
            let beats = heartbeats(&bench.sent::<WorkerHeartbeat>(link));
            beats.iter().map(|beat| beat.round_trip_us).collect::<Vec<_>>()
        })
    };
    assert_eq!(told(&mut bench), [[0], [0]], "nothing was measured yet");
    bench.pass(Duration::from_millis(40));
    bench.heartbeat_reply(PRIMARY, EPOCH, 0, &[]);
    bench.pass(HEARTBEAT - Duration::from_millis(40));
    assert_eq!(told(&mut bench), [[40_000], [0]]);
    bench.pass(Duration::from_millis(80));
    bench.heartbeat_reply(PRIMARY, EPOCH, 0, &[]);
    // The connection is new, and a heartbeat goes out at once.
    bench.connect(PRIMARY, "");
    assert_eq!(told(&mut bench), [vec![50_000], vec![]], "the way is the same");
}

#[test]
fn an_older_epoch_is_refused_once_a_newer_one_was_seen() {
    let mut bench = Bench::registered();
    bench.sent::<WorkerHeartbeat>(AUXILIARY);
    bench.heartbeat_reply(AUXILIARY, EPOCH + 1, 0, &[]);
    // The barrier: the inventory goes out at once, under the new epoch.
    let beats = heartbeats(&bench.sent::<WorkerHeartbeat>(AUXILIARY));
    assert_eq!(beats.iter().map(|beat| beat.epoch).collect::<Vec<_>>(), [EPOCH + 1]);
    bench.hear(PRIMARY, &deal(0..5).record());
    let refusals = bench.sent::<ErrorReply>(PRIMARY);
    let refusal =
        Refusal::from_record(&Records::of(&refusals[0]).next().unwrap().unwrap()).unwrap();
    assert_eq!(refusal.code, ErrorCode::OldEpoch);
    assert_eq!(bench.runs::<TaskReturned>(PRIMARY), [(0..5, EPOCH << 32 | 1, 0)]);
    bench.hear(AUXILIARY, &Deal { epoch: EPOCH + 1, ..deal(0..5) }.record());
    assert_eq!(bench.started().len(), 2);
}

#[test]
fn what_is_meant_for_another_incarnation_or_assignment_is_given_back() {
    let mut bench = Bench::registered();
    bench.hear(PRIMARY, &Deal { incarnation: 6, ..deal(0..5) }.record());
    bench.hear(PRIMARY, &Deal { assignment: ASSIGNMENT - 1, epoch: 99, ..deal(5..6) }.record());
    let returned: Vec<_> =
        bench.runs::<TaskReturned>(PRIMARY).into_iter().map(|(tasks, ..)| tasks).collect();
    assert_eq!(returned, [0..5, 5..6]);
    assert_eq!(
        bench.worker.membership.epoch,
        Epoch(EPOCH),
        "another assignment's epoch says nothing"
    );
    assert!(bench.started().is_empty());
    // A later assignment makes it ask where it belongs.
    bench.sent::<NodeRegister>(MASTER_LINK);
    bench.hear(PRIMARY, &Deal { assignment: ASSIGNMENT + 1, ..deal(6..7) }.record());
    assert_eq!(bench.sent::<NodeRegister>(MASTER_LINK).len(), 1);
}

#[test]
fn senseless_deals_are_refused_and_a_second_one_of_the_same_tasks_is_given_back() {
    let mut bench = Bench::registered();
    for tasks in [5..5, 999_999..1_000_001] {
        bench.hear(PRIMARY, &deal(tasks).record());
        assert_eq!(bench.sent::<ErrorReply>(PRIMARY).len(), 1);
    }
    bench.hear(PRIMARY, &Deal { cpu_milli: 3_000, ..deal(0..1) }.record());
    assert_eq!(bench.runs::<TaskReturned>(PRIMARY).len(), 1, "it needs more CPUs than there are");
    bench.hear(PRIMARY, &deal(0..5).record());
    bench.hear(PRIMARY, &deal(4..9).record());
    assert_eq!(bench.runs::<TaskReturned>(PRIMARY).len(), 1);
}

#[test]
fn a_job_that_cannot_be_read_fails_and_is_reported() {
    let mut bench = Bench::registered();
    let mut record = deal(3..9).record();
    *record.last_mut().unwrap() ^= 0xff;
    let length = record.len();
    record[length - 8..].fill(0xff);
    bench.hear(PRIMARY, &record);
    assert_eq!(bench.frame(), (1, vec![(3..9, TaskState::Failed.to_wire())]));
    assert_eq!(bench.runs::<TaskFree>(PRIMARY).len(), 1);
    bench.acknowledge(1, &[]);
    let settled = bench.runs::<TaskSettled>(PRIMARY);
    assert_eq!(settled, [(3..9, EPOCH << 32 | 1, Verdict::Final.to_wire())]);
    assert_eq!(bench.worker.held.run_count(), 0);
}

#[test]
fn only_what_has_not_begun_is_recalled() {
    let mut bench = Bench::registered();
    bench.hear(PRIMARY, &deal(0..10).record());
    assert_eq!(bench.started(), [(0, 0..1), (1, 1..2)]);
    let all = task_run(JOB, &(0..10), EPOCH << 32 | 1, 0);
    let recall =
        |epoch| encode(&TaskRecall { epoch, ..TaskRecall::default() }, &[bytes_of(&[all])]);
    bench.hear(PRIMARY, &recall(EPOCH - 1));
    assert!(bench.runs::<TaskReturned>(PRIMARY).is_empty(), "of an older epoch");
    bench.hear(PRIMARY, &recall(EPOCH));
    assert_eq!(bench.runs::<TaskReturned>(PRIMARY), [(2..10, EPOCH << 32 | 1, 0)]);
    assert_eq!(bench.worker.held.waiting_count(), 0);
}

#[test]
fn an_order_to_kill_drops_what_waits_and_cancels_what_runs() {
    let mut bench = Bench::registered();
    bench.hear(PRIMARY, &deal(0..10).record());
    bench.started();
    let order = |tasks: Range<u64>| task_run(JOB, &tasks, EPOCH << 32 | 1, Order::Kill.to_wire());
    bench.heartbeat_reply(PRIMARY, EPOCH, 1, &[order(1..5)]);
    assert_eq!(bench.cancelled(), [1]);
    bench.heartbeat_reply(PRIMARY, EPOCH, 1, &[order(1..5)]);
    assert_eq!(bench.cancelled(), [1], "asked once");
    assert_eq!(bench.worker.held.waiting_count(), 5);
    bench.end(1, 1, TaskState::Lost);
    assert_eq!(bench.frame().1, [(1..2, TaskState::Lost.to_wire())]);
    assert_eq!(bench.started(), [(1, 5..6)]);
}

#[test]
fn an_order_of_an_epoch_that_is_over_kills_nothing() {
    let mut bench = Bench::registered();
    bench.heartbeat_reply(AUXILIARY, EPOCH + 1, 0, &[]);
    bench.hear(AUXILIARY, &Deal { epoch: EPOCH + 1, ..deal(0..10) }.record());
    bench.started();
    let order = task_run(JOB, &(0..10), EPOCH << 32 | 1, Order::Kill.to_wire());
    for epoch in [EPOCH, 0] {
        bench.heartbeat_reply(PRIMARY, epoch, 1, &[order]);
        assert!(bench.cancelled().is_empty(), "epoch {epoch} is over");
        assert_eq!(bench.worker.held.waiting_count(), 8);
    }
    bench.heartbeat_reply(AUXILIARY, EPOCH + 1, 1, &[order]);
    assert_eq!(bench.cancelled(), [0, 1]);
    assert_eq!(bench.worker.held.waiting_count(), 0);
}

/// A worker whose slots have a piece of twenty short tasks each.
fn two_pieces() -> Bench {
    let mut bench = Bench::registered();
    bench.hear(PRIMARY, &deal(0..2).record());
    bench.end(0, 1, TaskState::Done);
    bench.end(1, 1, TaskState::Done);
    bench.started();
    bench.hear(PRIMARY, &Deal { attempt: 9, ..deal(100..140) }.record());
    assert_eq!(bench.started(), [(0, 100..120), (1, 120..140)]);
    bench
}

#[test]
fn a_cancelled_slot_gives_up_its_piece_and_what_nobody_killed_runs_later() {
    let mut bench = two_pieces();
    let order = task_run(JOB, &(110..115), 9, Order::Kill.to_wire());
    bench.heartbeat_reply(PRIMARY, EPOCH, 1, &[order]);
    bench.end(0, 5, TaskState::Done);
    bench.handle(Event::Ended { ends: Vec::new(), given_up: vec![0] });
    assert_eq!(bench.started(), [(0, 105..110)]);
    bench.end(0, 5, TaskState::Done);
    assert_eq!(bench.started(), [(0, 115..120)]);
}

#[test]
fn what_stands_behind_a_long_task_runs_in_another_slot_or_is_given_back() {
    let mut bench = two_pieces();
    bench.handle(Event::TakenBack { slot: 0, tasks: 103..120 });
    assert!(bench.started().is_empty(), "both slots have tasks");
    assert_eq!(bench.worker.held.waiting_count(), 17);
    // What ended before it was taken back is told later.
    bench.end(0, 2, TaskState::Done);
    bench.end(1, 20, TaskState::Done);
    assert_eq!(bench.started(), [(1, 103..120)]);
    let recall = TaskRecall { epoch: EPOCH, ..TaskRecall::default() };
    bench.handle(Event::TakenBack { slot: 1, tasks: 104..120 });
    bench.hear(PRIMARY, &encode(&recall, &[bytes_of(&[task_run(JOB, &(110..120), 9, 0)])]));
    assert_eq!(bench.runs::<TaskReturned>(PRIMARY), [(110..120, 9, 0)]);
    // Nothing of a slot that has something else by now.
    bench.handle(Event::TakenBack { slot: 1, tasks: 200..210 });
    bench.end(1, 1, TaskState::Done);
    assert_eq!(bench.started(), [(1, 104..110)]);
    bench.handle(Event::Stop);
    bench.runs::<TaskReturned>(PRIMARY);
    bench.handle(Event::TakenBack { slot: 1, tasks: 105..110 });
    assert_eq!(bench.runs::<TaskReturned>(PRIMARY), [(105..110, 9, 0)], "it stops");
}

#[test]
fn runs_are_split_by_outcome_and_one_frame_is_under_way() {
    let mut bench = Bench::registered();
    bench.hear(PRIMARY, &deal(0..2).record());
    bench.end(0, 1, TaskState::Done);
    assert_eq!(bench.frame(), (1, vec![(0..1, TaskState::Done.to_wire())]), "at once when idle");
    bench.end(1, 1, TaskState::Done);
    bench.hear(PRIMARY, &Deal { attempt: 9, ..deal(100..140) }.record());
    bench.end(0, 20, TaskState::Done);
    bench.end(1, 3, TaskState::Done);
    bench.end(1, 1, TaskState::Failed);
    bench.end(1, 16, TaskState::Done);
    assert_eq!(bench.frame(), (0, vec![]), "nothing while one is under way");
    let freed: u64 =
        bench.runs::<TaskFree>(PRIMARY).iter().map(|(tasks, ..)| tasks.end - tasks.start).sum();
    assert_eq!(freed, 42, "the slots are free before the masters know");
    bench.acknowledge(1, &[]);
    let [done, failed] = [TaskState::Done, TaskState::Failed].map(TaskState::to_wire);
    let runs = vec![(1..2, done), (100..123, done), (123..124, failed), (124..140, done)];
    assert_eq!(bench.frame(), (2, runs));
}

#[test]
fn a_frame_is_sent_again_to_the_next_master_under_its_number() {
    let mut bench = Bench::registered();
    bench.hear(PRIMARY, &deal(0..1).record());
    bench.end(0, 1, TaskState::Done);
    let (number, runs) = bench.frame();
    bench.pass(Duration::from_millis(800));
    let opened: Vec<String> = bench
        .effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Network(NetworkEffect::Open { link: MASTER_LINK, address }) => {
                Some(address.clone())
            }
            _ => None,
        })
        .collect();
    assert_eq!(opened.len(), 2, "{opened:?}");
    assert_ne!(opened[0], opened[1]);
    bench.connect(MASTER_LINK, "m1,m2");
    assert_eq!(bench.frame(), (number, runs));
    bench.acknowledge(number + 5, &[]);
    assert!(bench.runs::<TaskSettled>(PRIMARY).is_empty(), "of no frame that was sent");
    bench.acknowledge(number, &[]);
    assert_eq!(bench.runs::<TaskSettled>(PRIMARY).len(), 1);
    assert_eq!(bench.worker.held.run_count(), 0);
}

#[test]
fn a_busy_worker_gathers_what_it_reports_and_an_idle_one_does_not_wait() {
    let mut bench = Bench::registered();
    bench.hear(PRIMARY, &deal(0..3).record());
    bench.end(0, 1, TaskState::Done);
    let (number, _) = bench.frame();
    assert_eq!(number, 1, "nothing was reported lately");
    bench.acknowledge(number, &[]);
    // Another task runs, and will end soon.
    bench.end(0, 1, TaskState::Done);
    assert_eq!(bench.frame().0, 0);
    assert_eq!(bench.worker.next_deadline(bench.now), Some(bench.now + FRAME_PAUSE));
    bench.pass(FRAME_PAUSE);
    let (number, _) = bench.frame();
    assert_eq!(number, 2);
    bench.acknowledge(number, &[]);
    bench.end(1, 1, TaskState::Done);
    assert_eq!(bench.frame().0, 3, "nothing else runs");
}

#[test]
fn a_busy_master_is_given_its_time_and_another_is_followed() {
    let mut bench = Bench::registered();
    bench.hear(PRIMARY, &deal(0..1).record());
    bench.end(0, 1, TaskState::Done);
    let (number, runs) = bench.frame();
    let mut refusal = Refusal::new(ErrorCode::Busy, WorkerStatus::TYPE, "too much at a time");
    refusal.retry_after = Duration::from_millis(300);
    bench.effects.clear();
    bench.hear(MASTER_LINK, &refusal.to_record(RequestId(1)));
    bench.pass(Duration::from_millis(299));
    assert_eq!(bench.frame().0, 0);
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.frame(), (number, runs), "on the same link");
    let mut refusal = Refusal::new(ErrorCode::NotLeader, WorkerStatus::TYPE, "ask the leader");
    refusal.instead = "m2".into();
    bench.hear(MASTER_LINK, &refusal.to_record(RequestId(1)));
    let open = NetworkEffect::Open { link: MASTER_LINK, address: "m2".into() };
    assert!(bench.effects.contains(&Effect::Network(open)));
}

#[test]
fn settled_runs_are_final_or_again_before_the_inventory_lacks_them() {
    let mut bench = Bench::registered();
    bench.hear(PRIMARY, &deal(0..2).record());
    bench.end(0, 1, TaskState::Done);
    let (number, _) = bench.frame();
    bench.acknowledge(number, &[]);
    bench.end(1, 1, TaskState::Done);
    bench.hear(PRIMARY, &Deal { attempt: 9, ..deal(10..30) }.record());
    bench.end(0, 10, TaskState::Failed);
    let (number, _) = bench.frame();
    bench.acknowledge(number, &[]);
    bench.pass(FRAME_PAUSE);
    let (number, runs) = bench.frame();
    assert_eq!(runs, [(10..20, TaskState::Failed.to_wire())]);
    bench.runs::<TaskSettled>(PRIMARY);
    bench.effects.clear();
    bench.worker.balancers.hurry(bench.now);
    bench.acknowledge(number, &[task_run(JOB, &(12..15), 9, Verdict::Again.to_wire())]);
    let to_primary = |effect: &Effect| match effect {
        Effect::Network(NetworkEffect::Send { to: Peer::Link(PRIMARY), record }) => Some(record[0]),
        _ => None,
    };
    let order: Vec<u8> = bench.effects.iter().filter_map(to_primary).collect();
    assert_eq!(order, [TaskSettled::TYPE, WorkerHeartbeat::TYPE]);
    let [settled, again] = [Verdict::Final, Verdict::Again].map(Verdict::to_wire);
    let runs = bench.runs::<TaskSettled>(PRIMARY);
    assert_eq!(runs, [(12..15, 9, again), (10..12, 9, settled), (15..20, 9, settled)]);
    // What is dealt again is another one's to account for.
    let mut entries = Vec::new();
    bench.now += Duration::from_secs(2);
    if let Some(segment) = bench.worker.accounting.next_segment(bench.now) {
        let segment = Segment::open(&segment.content).unwrap();
        entries.extend(segment.sections().iter().flat_map(|section| section.entries.to_vec()));
    }
    let tasks: Vec<u64> = entries.iter().map(|entry| entry.task_index).collect();
    assert_eq!(tasks, [0, 1, 10, 11, 15, 16, 17, 18, 19]);
}

#[test]
fn at_the_bound_of_its_results_it_takes_no_new_tasks_and_says_so() {
    let mut bench = Bench::registered();
    bench.sent::<WorkerHeartbeat>(PRIMARY);
    bench.fill_results();
    bench.tick();
    assert_eq!(heartbeats(&bench.sent::<WorkerHeartbeat>(PRIMARY))[0].refusing, 1);
    bench.hear(PRIMARY, &deal(0..5).record());
    assert_eq!(bench.runs::<TaskReturned>(PRIMARY), [(0..5, EPOCH << 32 | 1, 0)]);
    // What is not stored counts as much as what is not acknowledged.
    bench.acknowledge(1, &[]);
    bench.hear(PRIMARY, &deal(0..5).record());
    assert_eq!(bench.runs::<TaskReturned>(PRIMARY).len(), 1);
    assert!(bench.worker.explain().contains("not acknowledged"));
}

#[test]
fn it_holds_no_more_runs_than_a_heartbeat_lists() {
    let mut bench = Bench::registered();
    let description = JobDescription::new(Runtime::Noop(Noop::default()));
    let spec = Arc::new(JobSpec {
        job: JobId(5),
        task_count: 1,
        program: Vec::new(),
        input_files: Vec::new(),
        description,
    });
    for run in 0..HELD_RUNS as u64 + 1 {
        let run = WaitingRun {
            spec: spec.clone(),
            tasks: 2 * run..2 * run + 1,
            attempt: 1,
            assignment: 1,
        };
        bench.worker.held.wait(run);
    }
    bench.tick();
    assert_eq!(bench.started().len(), 2);
    bench.hear(PRIMARY, &deal(0..5).record());
    assert_eq!(bench.runs::<TaskReturned>(PRIMARY).len(), 1);
    bench.end(0, 1, TaskState::Done);
    bench.acknowledge(1, &[]);
    bench.end(1, 1, TaskState::Done);
    bench.pass(FRAME_PAUSE);
    bench.acknowledge(2, &[]);
    bench.hear(PRIMARY, &deal(0..5).record());
    assert!(bench.runs::<TaskReturned>(PRIMARY).is_empty());
}

#[test]
fn a_stopping_worker_gives_back_what_waits_and_ends_when_all_is_delivered() {
    let mut bench = Bench::registered();
    bench.hear(PRIMARY, &deal(0..10).record());
    bench.sent::<WorkerHeartbeat>(PRIMARY);
    bench.handle(Event::Stop);
    assert_eq!(bench.runs::<TaskReturned>(PRIMARY), [(2..10, EPOCH << 32 | 1, 0)]);
    assert_eq!(bench.cancelled(), [0, 1]);
    assert_eq!(heartbeats(&bench.sent::<WorkerHeartbeat>(PRIMARY))[0].refusing, 2);
    bench.end(0, 1, TaskState::Lost);
    bench.end(1, 1, TaskState::Lost);
    bench.hear(PRIMARY, &Deal { attempt: 9, ..deal(20..21) }.record());
    assert_eq!(bench.runs::<TaskReturned>(PRIMARY), [(20..21, 9, 0)]);
    assert!(!bench.worker.is_finished(bench.now));
    bench.acknowledge(1, &[task_run(JOB, &(0..1), EPOCH << 32 | 1, Verdict::Again.to_wire())]);
    bench.acknowledge(2, &[]);
    assert!(bench.worker.is_finished(bench.now));
    let mut bench = Bench::registered();
    bench.hear(PRIMARY, &deal(0..1).record());
    bench.handle(Event::Stop);
    assert!(!bench.worker.is_finished(bench.now));
    assert!(bench.worker.is_finished(bench.now + STOP_PATIENCE), "not without end");
}

/// One step of a random life.
#[derive(Clone, Debug)]
enum Step {
    Deal { first: u64, count: u64, is_old: bool },
    End { slot: u32, count: u64, state: TaskState, printed: usize },
    Store,
    GiveUp { slot: u32 },
    TakeBack { slot: u32 },
    Acknowledge { refused: Range<u64> },
    Recall { tasks: Range<u64> },
    Kill { tasks: Range<u64> },
    Pass(u64),
    Reconnect(u32),
    Stop,
}

fn step() -> impl Strategy<Value = Step> {
    let range = (0u64..300, 1u64..60).prop_map(|(first, count)| first..first + count);
    let state = prop::sample::select(vec![TaskState::Done, TaskState::Failed, TaskState::Lost]);
    prop_oneof![
        5 => (0u64..300, 1u64..40, prop::bool::weighted(0.1))
            .prop_map(|(first, count, is_old)| Step::Deal { first, count, is_old }),
        10 => (0u32..2, 1u64..20, state, prop::sample::select(vec![0, 0, 20, 400_000]))
            .prop_map(|(slot, count, state, printed)| Step::End { slot, count, state, printed }),
        4 => Just(Step::Store),
        1 => (0u32..2).prop_map(|slot| Step::GiveUp { slot }),
        2 => (0u32..2).prop_map(|slot| Step::TakeBack { slot }),
        5 => range.clone().prop_map(|refused| Step::Acknowledge { refused }),
        1 => range.clone().prop_map(|tasks| Step::Recall { tasks }),
        1 => range.prop_map(|tasks| Step::Kill { tasks }),
        2 => (0u64..2_900_000).prop_map(Step::Pass),
        1 => (0u32..3).prop_map(Step::Reconnect),
        1 => prop::bool::weighted(0.05)
            .prop_map(|stop| if stop { Step::Stop } else { Step::Pass(1) }),
    ]
}

/// What the scripted cluster knows of every dealt task, by task and attempt.
#[derive(Default)]
struct Known {
    dealt: BTreeSet<(u64, u64)>,
    gone: BTreeSet<(u64, u64)>,
    busy: BTreeMap<u32, (Range<u64>, u64)>,
}

fn live(steps: Vec<Step>) {
    let mut bench = Bench::registered();
    let mut known = Known::default();
    let mut attempt = EPOCH << 32;
    for step in steps {
        match step {
            Step::Deal { first, count, is_old } => {
                attempt += 1;
                let epoch = if is_old { EPOCH - 1 } else { EPOCH };
                let dealt = Deal { attempt, epoch, ..deal(first..first + count) };
                known.dealt.extend((first..first + count).map(|task| (task, attempt)));
                bench.hear(PRIMARY, &dealt.record());
            }
            Step::End { slot, count, state, printed } => {
                let Some((tasks, _)) = known.busy.get_mut(&slot) else { continue };
                let count = count.min(tasks.end - tasks.start);
                tasks.start += count;
                if tasks.is_empty() {
                    known.busy.remove(&slot);
                }
                bench.end_with(slot, count, state, printed);
            }
            Step::Store => bench.serve_storage(),
            Step::GiveUp { slot } => {
                if known.busy.remove(&slot).is_some() {
                    bench.handle(Event::Ended { ends: Vec::new(), given_up: vec![slot] });
                }
            }
            Step::TakeBack { slot } => {
                let Some((tasks, _)) = known.busy.get_mut(&slot) else { continue };
                let rest = tasks.start + 1..tasks.end;
                if !rest.is_empty() {
                    tasks.end = rest.start;
                    bench.handle(Event::TakenBack { slot, tasks: rest });
                }
            }
            Step::Acknowledge { refused } => {
                let Some(frame) = bench.worker.results.under_way() else { continue };
                let number = frame.number;
                let refused: Vec<TaskRun> = frame
                    .outcomes
                    .iter()
                    .map(|outcome| {
                        let tasks = outcome.tasks.start.max(refused.start)
                            ..outcome.tasks.end.min(refused.end);
                        (tasks, outcome.attempt)
                    })
                    .filter(|(tasks, _)| !tasks.is_empty())
                    .map(|(tasks, attempt)| task_run(JOB, &tasks, attempt, 1))
                    .collect();
                let ended = frame
                    .outcomes
                    .iter()
                    .flat_map(|outcome| outcome.tasks.clone().map(|task| (task, outcome.attempt)));
                known.gone.extend(ended);
                bench.acknowledge(number, &refused);
            }
            Step::Recall { tasks } => {
                let run = task_run(JOB, &tasks, attempt, 0);
                let recall = TaskRecall { epoch: EPOCH, ..TaskRecall::default() };
                bench.hear(PRIMARY, &encode(&recall, &[bytes_of(&[run])]));
            }
            Step::Kill { tasks } => {
                let run = task_run(JOB, &tasks, attempt, Order::Kill.to_wire());
                let waiting = bench.worker.held.inventory();
                let waiting =
                    waiting.iter().filter(|held| held.state == 0 && { held.attempt } == attempt);
                let killed = waiting.flat_map(tasks_of).filter(|task| tasks.contains(task));
                known.gone.extend(killed.map(|task| (task, attempt)));
                bench.heartbeat_reply(PRIMARY, EPOCH, 0, &[run]);
                // What a slot gives up of them later is gone as well.
                let busy = known.busy.values().filter(|(_, of)| *of == attempt);
                let killed =
                    busy.flat_map(|(of, _)| of.clone()).filter(|task| tasks.contains(task));
                known.gone.extend(killed.map(|task| (task, attempt)));
            }
            Step::Pass(micros) => {
                bench.pass(Duration(micros));
                bench.heartbeat_reply(PRIMARY, EPOCH, 0, &[]);
                bench.heartbeat_reply(AUXILIARY, EPOCH, 0, &[]);
            }
            Step::Reconnect(link) => bench.connect(Link(link), "m1,m2"),
            Step::Stop => bench.handle(Event::Stop),
        }
        for effect in &bench.effects {
            if let Effect::Start { slot, tasks, attempt, .. } = effect {
                let before = known.busy.insert(*slot, (tasks.clone(), *attempt));
                assert!(before.is_none(), "slot {slot} is booked twice");
            }
        }
        for (tasks, attempt, _) in bench.runs::<TaskReturned>(PRIMARY) {
            known.gone.extend(tasks.map(|task| (task, attempt)));
        }
        bench.effects.clear();
        let held: BTreeSet<(u64, u64)> = bench
            .worker
            .held
            .inventory()
            .iter()
            .flat_map(|run| tasks_of(run).map(|task| (task, run.attempt)))
            .collect();
        for task in known.dealt.difference(&known.gone) {
            assert!(held.contains(task), "{task:?} was dealt and nobody was told that it is gone");
        }
    }
}

proptest! {
    #[test]
    fn no_slot_is_booked_twice_and_no_task_vanishes(steps in prop::collection::vec(step(), 1..80)) {
        live(steps);
    }
}

#[test]
fn ends_are_told_together_while_enough_waits_and_at_once_where_it_does_not() {
    let freed = |bench: &mut Bench| -> u64 {
        let runs = bench.runs::<TaskFree>(PRIMARY);
        runs.into_iter().map(|(tasks, ..)| tasks.end - tasks.start).sum()
    };
    let mut bench = Bench::registered();
    bench.hear(PRIMARY, &deal(0..20).record());
    bench.hear(PRIMARY, &Deal { attempt: EPOCH << 32 | 2, ..deal(20..1_020) }.record());
    bench.end(0, 1, TaskState::Done);
    assert_eq!(freed(&mut bench), 0, "hundreds wait");
    bench.end(1, 1, TaskState::Done);
    bench.pass(Duration::from_millis(19));
    assert_eq!(freed(&mut bench), 0);
    bench.pass(Duration::from_millis(1));
    assert_eq!(freed(&mut bench), 2, "what is gathered does not wait for more");
    // Whatever may follow from what somebody says comes behind the ends before it.
    bench.end(0, 1, TaskState::Done);
    bench.hear(PRIMARY, &Deal { attempt: EPOCH << 32 | 3, ..deal(2_000..2_001) }.record());
    assert_eq!(freed(&mut bench), 1);
    // Where as much became free as waits, more is wanted.
    let mut rounds = 0;
    while bench.worker.held().waiting_count() > 0 {
        bench.end(rounds % 2, 1, TaskState::Done);
        rounds += 1;
    }
    assert!(freed(&mut bench) > 0);
    let mut bench = Bench::registered();
    bench.hear(PRIMARY, &deal(0..2).record());
    bench.end(0, 1, TaskState::Done);
    assert_eq!(freed(&mut bench), 1, "nothing waits");
}
