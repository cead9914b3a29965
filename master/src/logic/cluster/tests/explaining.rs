//! What the masters know of why tasks are where they are.

use proto::messages::job::{ExplainReply, Explanation};
use proto::status::Reason;

use super::*;
use crate::logic::commands::JobChange;
use crate::logic::explain::explain;
use crate::logic::grants::GRANT_TASKS;
use crate::logic::queries::Surroundings;

const JOB: JobId = JobId(5);

/// A group whose lease nobody holds.
const UNLED: u64 = 3;

/// Reasons with first task, number of tasks and number, and the group.
fn why(driven: &Driven, task: Option<u64>) -> (Vec<(Reason, u64, u64, u64)>, u64) {
    let job = &driven.cluster.jobs[&JOB];
    let around = Surroundings {
        running: &|_| 0,
        is_led: &|group| group != UNLED,
        log_time_us: 0,
        leader: Some(NodeId(1)),
        storage: None,
    };
    let reply = explain(&driven.cluster, job, task, &around);
    let record = Records::of(&reply).next().unwrap().unwrap();
    let (fixed, [items, _]) = record.open::<ExplainReply, 2>().unwrap();
    let shown = |it: &Explanation| {
        (Reason::from_wire(it.reason).unwrap(), it.first_task, it.task_count, it.number)
    };
    (items_of::<Explanation>(items).unwrap().iter().map(shown).collect(), fixed.group)
}

fn register(driven: &mut Driven, role: Role) {
    let node = NodeId(u128::from(role.to_wire()) + 70);
    driven.apply(Command::Register(Registration { node, role, ..worker(1) }));
}

#[test]
fn a_job_waits_for_a_balancer_then_for_a_worker_then_for_a_large_one() {
    let mut driven = Driven::new();
    let record = job_record(JOB, 3, |it| it.cpu_milli = 64_000);
    driven.submit(1, 1, JOB, record);
    let none = [(Reason::NoBalancer, 0, 3, 1), (Reason::NoWorker, 0, 3, 0)];
    assert_eq!(why(&driven, None), (none.to_vec(), 1));
    register(&mut driven, Role::Balancer);
    assert_eq!(why(&driven, Some(2)).0, [(Reason::NoWorker, 2, 1, 0)]);
    register(&mut driven, Role::Worker);
    assert_eq!(why(&driven, None).0, [(Reason::TooLarge, 0, 3, 2_000)]);
    // One that left is none.
    let worker = NodeId(u128::from(Role::Worker.to_wire()) + 70);
    let incarnation = driven.cluster.nodes.incarnation_of(worker).expect("it registered");
    let (epoch, workers) = (driven.cluster.nodes.groups[&1].epoch, vec![(worker, incarnation)]);
    driven.apply(Command::WorkersSilent { group: 1, epoch, workers });
    assert_eq!(why(&driven, None).0, [(Reason::NoWorker, 0, 3, 0)]);
}

#[test]
fn what_is_held_tried_again_not_granted_or_over_is_told() {
    let mut driven = Driven::new();
    register(&mut driven, Role::Balancer);
    register(&mut driven, Role::Worker);
    let count = GRANT_TASKS + 10;
    driven.submit(1, 1, JOB, job_record(JOB, count, |it| it.retries = 3));
    let later = (Reason::NotGranted, GRANT_TASKS, 10, GRANT_TASKS);
    assert_eq!(why(&driven, None).0, [later]);
    driven.report(run(JOB, 4..6, 8, TaskState::Failed));
    driven.report(run(JOB, 5..6, 9, TaskState::Lost));
    driven.report(run(JOB, 0..1, 8, TaskState::Done));
    assert_eq!(why(&driven, Some(5)).0, [(Reason::Retried, 5, 1, 2)]);
    assert_eq!(why(&driven, Some(0)).0, [(Reason::Finished, 0, 1, 0)]);
    assert_eq!(why(&driven, None).0, [later, (Reason::Retried, 4, 2, 2)]);
    let asker = |request| Asker {
        client: NodeId(8),
        request: RequestId(request),
        session_index: LogIndex(0),
    };
    let hold = ClientChange::Change { job: JOB, change: JobChange::Hold };
    driven.apply(Command::Client(asker(1), hold));
    assert_eq!(why(&driven, Some(7)).0, [(Reason::Held, 7, 1, 0)]);
    driven.apply(Command::Client(asker(2), ClientChange::Cancel { job: JOB }));
    assert_eq!(why(&driven, Some(7)).0, [(Reason::Cancelled, 7, 1, 0)]);
    let over = [(Reason::Cancelled, 0, count - 1, 0), (Reason::Finished, 0, 1, 0)];
    assert_eq!(why(&driven, None).0, over);
}

#[test]
fn groups_that_nobody_leads_are_told_and_whose_a_task_is() {
    let mut driven = Driven::new();
    for balancer in 0..6 {
        let bare = Registration::bare(NodeId(200 + balancer), Role::Balancer);
        driven.apply(Command::Register(bare));
    }
    for number in 0..3 {
        let node = NodeId(100 + number);
        driven.apply(Command::Register(Registration { node, ..worker(1) }));
    }
    driven.submit(1, 1, JOB, job_record(JOB, 60, |_| {}));
    // Ten, eight and seven tasks; the rest is granted later.
    let later = (Reason::NotGranted, 25, 35, 25);
    assert_eq!(why(&driven, None), (vec![(Reason::NoBalancer, 18, 7, UNLED), later], 1));
    assert_eq!(why(&driven, Some(20)), (vec![(Reason::NoBalancer, 20, 1, UNLED)], UNLED));
    assert_eq!(why(&driven, Some(12)), (vec![], 2));
    // What the first group had is done: the job is asked about where it goes on.
    driven.report(run(JOB, 0..10, 1, TaskState::Done));
    assert_eq!(why(&driven, None).1, 2);
}
