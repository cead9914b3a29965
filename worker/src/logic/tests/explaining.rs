//! What a worker tells whoever asks why tasks are where they are.

use node::logic::explanations::Why;
use proto::status::Reason;

use super::*;

/// Reasons with first task, number of tasks and number, of a task or of the whole job.
fn why(
    bench: &Bench,
    task: Option<u64>,
    first: Option<RunningStage>,
) -> Vec<(Reason, u64, u64, u64)> {
    let stage = |_: JobId, task: TaskIndex| first.filter(|_| task.0 == 0);
    let whys = bench.worker.explain_tasks(JOB, task.map(TaskIndex), &stage);
    assert!(whys.iter().all(|it| it.subject == NodeId(0xa)), "it speaks of itself: {whys:?}");
    let shown = |it: Why| (it.reason, it.first_task, it.task_count, it.number);
    whys.into_iter().map(shown).collect()
}

#[test]
fn it_tells_what_runs_what_waits_behind_what_and_what_ended() {
    let mut bench = Bench::registered();
    assert_eq!(why(&bench, None, None), []);
    bench.hear(PRIMARY, &deal(0..10).record());
    assert_eq!(bench.started(), [(0, 0..1), (1, 1..2)]);
    let attempt = deal(0..1).attempt;
    let waits = (Reason::AtWorker, 2, 8, 0);
    assert_eq!(why(&bench, None, None), [waits, (Reason::Running, 0, 2, attempt)]);
    assert_eq!(why(&bench, Some(7), None), [(Reason::AtWorker, 7, 1, 5)]);
    assert_eq!(why(&bench, Some(99), None), []);
    for (stage, reason) in [
        (RunningStage::Inputs, Reason::Inputs),
        (RunningStage::Executed, Reason::Running),
        (RunningStage::Outputs, Reason::Reporting),
    ] {
        assert_eq!(why(&bench, Some(0), Some(stage)), [(reason, 0, 1, attempt)]);
    }
    bench.end(0, 1, TaskState::Done);
    assert_eq!(why(&bench, Some(0), None), [(Reason::Reporting, 0, 1, attempt)]);
}

#[test]
fn a_full_worker_says_that_it_takes_nothing() {
    let mut bench = Bench::registered();
    bench.fill_results();
    assert_eq!(why(&bench, None, None), [(Reason::WorkersFull, 0, 0, 1)]);
}
