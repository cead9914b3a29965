//! What a balancer tells whoever asks why tasks are where they are.

use node::logic::explanations::Why;
use proto::ids::TaskIndex;
use proto::messages::job::{ExplainQuery, ExplainReply, Explanation as Told};
use proto::messages::node::FeedItem;
use proto::status::{FeedKind, Reason as Wire};
use proto::wire::items_of;

use super::scene::{ended, wide_job_record};
use super::*;

impl Scene {
    /// Reasons with first task, number of tasks, subject and number.
    fn why(&self, job: JobId, task: Option<u64>) -> Vec<(Wire, u64, u64, u128, u64)> {
        let whys = self.balancer.explain_tasks(self.now, job, task.map(TaskIndex));
        let shown = |it: Why| (it.reason, it.first_task, it.task_count, it.subject.0, it.number);
        whys.into_iter().map(shown).collect()
    }

    /// A worker's heartbeat that says whether it takes tasks.
    fn heartbeat_refusing(&mut self, worker: &Sender, refusing: u8) {
        let heartbeat = WorkerHeartbeat {
            worker_incarnation: 1,
            assignment: 7,
            epoch: self.epoch,
            slot_count: 2,
            cpu_milli: 2_000,
            memory_bytes: 1 << 30,
            refusing,
            group: 1,
            ..WorkerHeartbeat::default()
        };
        self.worker_says(worker, &encode(&heartbeat, &[b""]));
    }
}

#[test]
fn of_a_job_all_is_told_that_holds_tasks_up_and_where_the_others_are() {
    let mut scene = Scene::primary(1);
    assert_eq!(scene.why(JOB, None), [], "nothing is known of it");
    let worker = scene.worker(1, 1);
    scene.feed(10, &[grant(JOB, 6, 0..5)], &[job_record(5)]);
    assert_eq!(scene.why(JOB, None), [(Wire::NoWorker, 0, 5, 0, 0)]);
    scene.heartbeat(&worker, 2, 0, &[]);
    let attempt = scene.deals()[0].attempt;
    let node = worker.node.0;
    let waiting = (Wire::SlotsBusy, 2, 3, 0, 2);
    assert_eq!(scene.why(JOB, None), [waiting, (Wire::AtWorker, 0, 2, node, 0)]);
    assert_eq!(scene.why(JOB, Some(1)), [(Wire::AtWorker, 1, 1, node, 0)]);
    assert_eq!(scene.why(JOB, Some(4)), [(Wire::SlotsBusy, 4, 1, 0, 2)]);
    assert_eq!(scene.why(JOB, Some(9)), [], "it was not granted");
    // A job with a higher priority comes first, a huge one that fits nowhere does not.
    let urgent = FeedItem { priority: 3, ..grant(OTHER, 12, 0..7) };
    let job_offset = job_record(7).len() as u64;
    let huge = FeedItem { priority: 9, job_offset, ..grant(JobId(0x0d), 13, 0..2) };
    scene.feed(14, &[urgent, huge], &[job_record(7), wide_job_record(2, 64_000)]);
    let behind = (Wire::Behind, 4, 1, 0, 7);
    assert_eq!(scene.why(JOB, Some(4)), [behind, (Wire::SlotsBusy, 4, 1, 0, 2)]);
    assert_eq!(scene.why(JobId(0x0d), None), [(Wire::TooLarge, 0, 2, node, 2_000)]);
    scene.feed(15, &[ended(OTHER, 15)], &[]);
    scene.free(&worker, 1_000_000, &[run(JOB, 0..1, attempt)]);
    assert_eq!(scene.why(JOB, Some(0)), [(Wire::Reporting, 0, 1, node, attempt)]);
    scene.settled(&worker, &[run(JOB, 0..1, attempt)], Verdict::Final);
    assert_eq!(scene.why(JOB, Some(0)), [(Wire::Finished, 0, 1, 0, 0)]);
    let held =
        FeedItem { kind: FeedKind::JobChanged.to_wire(), is_held: 1, ..grant(JOB, 16, 0..0) };
    scene.feed(16, &[held], &[]);
    assert_eq!(scene.why(JOB, Some(4)), [(Wire::Held, 4, 1, 0, 0)]);
}

#[test]
fn workers_whose_results_are_not_stored_are_counted_and_one_is_named() {
    let mut scene = Scene::primary(1);
    let workers = [scene.worker(1, 1), scene.worker(2, 1)];
    for worker in &workers {
        scene.heartbeat_refusing(worker, 1);
    }
    scene.feed(10, &[grant(JOB, 6, 0..1)], &[job_record(1)]);
    assert_eq!(scene.why(JOB, None), [(Wire::WorkersFull, 0, 1, workers[0].node.0, 2)]);
    scene.heartbeat_refusing(&workers[0], 2);
    assert_eq!(scene.why(JOB, None), [(Wire::WorkersFull, 0, 1, workers[1].node.0, 1)]);
    scene.heartbeat_refusing(&workers[1], 2);
    assert_eq!(scene.why(JOB, None), [(Wire::NoWorker, 0, 1, 0, 0)]);
}

#[test]
fn a_balancer_that_does_not_deal_says_so_to_whoever_asks() {
    let mut scene = Scene::new();
    scene.connect();
    scene.register(2, 1);
    scene.lease(2, 1, 6);
    let request = scene.pull().0;
    scene.batch(request, 8, 1, None, &[grant(JOB, 6, 0..2)], &[job_record(2)]);
    let [(Wire::TakingOver, 0, 2, 0, left)] = scene.why(JOB, None)[..] else {
        panic!("{:?}", scene.why(JOB, None));
    };
    assert!((1..=3_000).contains(&left), "{left} ms");
    scene.wait(Duration::from_secs(2));
    // Its lease is over, and nobody renewed it.
    let client = scene.client(1);
    let query =
        ExplainQuery { job_uuid: JOB.to_wire(), task_index: u64::MAX, ..ExplainQuery::default() };
    scene.worker_says(&client, &encode(&query, &[]));
    let answer = scene.effects.iter().rev().find_map(|effect| match effect {
        NetworkEffect::Send { to, record } if *to == client.peer => Some(record.clone()),
        _ => None,
    });
    let answer = answer.expect("an answer");
    let record = proto::record::Records::of(&answer).next().unwrap().unwrap();
    let (reply, [items, _]) = record.open::<ExplainReply, 2>().unwrap();
    let told = items_of::<Told>(items).unwrap();
    assert_eq!({ reply.group }, 1);
    assert_eq!((told[0].reason, { told[0].task_count }), (Wire::NoBalancer.to_wire(), 2));
}
