//! Each sentence of what becomes of attempts, on one job.

use proto::description::{JobDescription, Noop, Runtime};

use super::*;

const TASKS: u64 = 10;

fn job(change: impl FnOnce(&mut JobDescription)) -> Job {
    let mut description = JobDescription::new(Runtime::Noop(Noop::default()));
    change(&mut description);
    let resolved = Resolved { record: Arc::from([]), task_count: TASKS, description };
    Job::new(resolved, [0; 32], LogIndex(1), 5)
}

/// Reports one task; true where it is to be dealt again.
fn report(job: &mut Job, task: u64, attempt: u64, state: TaskState) -> bool {
    let exit_code = i32::from(state == TaskState::Failed);
    let run = ReportedRun {
        job: JobId(1),
        tasks: task..task + 1,
        attempt,
        state,
        exit_code,
        cause: Cause::None,
        segment: FileId(0),
    };
    let recorded = job.record(&run);
    job.check_invariants();
    !recorded.again.is_empty()
}

fn is_failed(job: &Job, task: u64) -> bool {
    job.failed.values().any(|set| set.contains(task))
}

#[test]
fn a_task_fails_when_its_retries_are_used_up_and_not_before() {
    let mut none = job(|_| {});
    assert!(!report(&mut none, 0, 1, TaskState::Failed));
    assert!(is_failed(&none, 0), "a non-zero exit is the answer unless retries are asked for");
    let mut twice = job(|it| it.retries = 2);
    assert!(report(&mut twice, 0, 1, TaskState::Failed));
    assert!(report(&mut twice, 0, 2, TaskState::Failed));
    assert!(!report(&mut twice, 0, 3, TaskState::Failed));
    assert!(is_failed(&twice, 0));
}

#[test]
fn an_attempt_that_reached_its_time_limit_uses_up_a_retry() {
    let mut job = job(|it| it.retries = 1);
    let run = |attempt| ReportedRun {
        job: JobId(1),
        tasks: 0..1,
        attempt,
        state: TaskState::Failed,
        exit_code: -9,
        cause: Cause::TimeLimit,
        segment: FileId(0),
    };
    assert!(!job.record(&run(1)).again.is_empty());
    assert!(job.record(&run(2)).again.is_empty());
    let how = Failure { exit_code: -9, cause: Cause::TimeLimit };
    assert!(job.failed[&how].contains(0));
}

#[test]
fn a_task_fails_at_the_last_crash_that_is_allowed() {
    let mut job = job(|it| it.max_crashes = 3);
    assert!(report(&mut job, 0, 1, TaskState::Crashed));
    assert!(report(&mut job, 0, 2, TaskState::Crashed));
    assert!(!report(&mut job, 0, 3, TaskState::Crashed));
    assert!(is_failed(&job, 0));
    assert_eq!((job.crashed_attempts, job.lost_attempts), (3, 0));
    assert_eq!(job.earlier_attempts(0..TASKS), (0..1, 2));
}

#[test]
fn crashes_and_failures_are_counted_apart() {
    let mut job = job(|it| {
        it.retries = 1;
        it.max_crashes = 2;
    });
    assert!(report(&mut job, 0, 1, TaskState::Failed));
    assert!(report(&mut job, 0, 2, TaskState::Crashed));
    assert!(report(&mut job, 0, 3, TaskState::Lost));
    assert!(!report(&mut job, 0, 4, TaskState::Crashed));
    assert_eq!(job.earlier_attempts(0..1), (0..1, 3));
}

#[test]
fn a_report_that_comes_twice_counts_once() {
    for state in [TaskState::Failed, TaskState::Crashed, TaskState::Lost] {
        let mut job = job(|it| it.retries = 3);
        for _ in 0..5 {
            assert!(report(&mut job, 0, 1, state), "{state}");
        }
        let attempts = job.attempts.next_run(0..1).expect("it is remembered").1.clone();
        assert_eq!(attempts.ended(), 1, "{state}");
    }
}

#[test]
fn a_superseded_attempt_can_only_succeed() {
    let mut job = job(|_| {});
    assert!(report(&mut job, 0, 5, TaskState::Lost));
    for state in [TaskState::Failed, TaskState::Crashed, TaskState::Lost] {
        assert!(report(&mut job, 0, 4, state), "{state} of an older attempt counts nothing");
    }
    assert_eq!((job.lost_attempts, job.crashed_attempts), (1, 0));
    assert!(!report(&mut job, 0, 4, TaskState::Done));
    assert!(job.done.contains(0));
}

#[test]
fn the_first_completion_wins_and_a_finished_task_stays_so() {
    let mut job = job(|_| {});
    assert!(!report(&mut job, 0, 1, TaskState::Failed));
    let late = ReportedRun {
        job: JobId(1),
        tasks: 0..2,
        attempt: 2,
        state: TaskState::Done,
        exit_code: 0,
        cause: Cause::None,
        segment: FileId(0),
    };
    let recorded = job.record(&late);
    let refused: Vec<u64> = recorded.refused.into_iter().flatten().collect();
    assert_eq!(refused, [0]);
    assert!(is_failed(&job, 0) && !job.done.contains(0) && job.done.contains(1));
}

#[test]
fn late_evidence_makes_a_lost_attempt_a_crashed_one_once_in_either_order() {
    let mut lost_first = job(|it| it.max_crashes = 2);
    assert!(report(&mut lost_first, 0, 1, TaskState::Lost));
    assert!(report(&mut lost_first, 0, 2, TaskState::Lost));
    assert!(report(&mut lost_first, 0, 1, TaskState::Crashed));
    assert!(report(&mut lost_first, 0, 1, TaskState::Crashed), "the same evidence again");
    assert_eq!((lost_first.crashed_attempts, lost_first.lost_attempts), (1, 1));
    let mut crashed_first = job(|it| it.max_crashes = 2);
    assert!(report(&mut crashed_first, 0, 1, TaskState::Crashed));
    assert!(report(&mut crashed_first, 0, 1, TaskState::Lost));
    assert_eq!((crashed_first.crashed_attempts, crashed_first.lost_attempts), (1, 0));
    for mut job in [lost_first, crashed_first] {
        assert!(!report(&mut job, 0, 3, TaskState::Crashed));
        assert!(is_failed(&job, 0));
    }
}

#[test]
fn lost_attempts_fail_a_task_only_beyond_their_own_limit() {
    let limit = u64::from(MAX_LOST_ATTEMPTS);
    let mut job = job(|_| {});
    for attempt in 1..=limit {
        assert!(report(&mut job, 0, attempt, TaskState::Lost), "attempt {attempt}");
    }
    let remembered = job.attempts.next_run(0..1).expect("it is remembered").1.lost.len();
    assert_eq!(remembered as u64, limit, "what is kept is bounded by the limit");
    assert!(!report(&mut job, 0, limit + 1, TaskState::Lost));
    assert!(is_failed(&job, 0));
    assert!(job.attempts.is_empty());
}

#[test]
fn what_never_started_counts_nothing() {
    let mut job = job(|_| {});
    for attempt in 1..=2 * u64::from(MAX_LOST_ATTEMPTS) {
        assert!(report(&mut job, 0, attempt, TaskState::Returned));
    }
    assert!(job.attempts.is_empty());
    assert_eq!(job.lost_attempts, 0);
    assert!(!report(&mut job, 0, 1, TaskState::Failed), "the attempt was not counted before");
}

#[test]
fn lost_attempts_are_counted_once_for_each_task_however_the_run_is_cut() {
    let mut job = job(|_| {});
    assert!(!report(&mut job, 3, 1, TaskState::Done));
    assert!(report(&mut job, 5, 1, TaskState::Lost));
    let lost = ReportedRun {
        job: JobId(1),
        tasks: 0..TASKS,
        attempt: 2,
        state: TaskState::Lost,
        exit_code: 0,
        cause: Cause::CutOff,
        segment: FileId(0),
    };
    job.record(&lost);
    assert_eq!(job.lost_attempts, 1 + 9, "task 3 has its outcome");
}

#[test]
fn the_job_fails_once_more_tasks_failed_than_are_allowed() {
    let mut job = job(|it| it.max_fails = Some(2));
    for task in 0..2 {
        report(&mut job, task, 1, TaskState::Failed);
        assert!(!job.settle(9));
    }
    report(&mut job, 2, 1, TaskState::Failed);
    assert!(job.settle(9));
    assert_eq!((job.state, job.finished_us), (JobState::Failed, 9));
    assert!(job.unfinished(0..TASKS).is_empty(), "nothing more is dealt");
}

#[test]
fn the_attempts_before_an_outcome_are_remembered() {
    let mut job = job(|it| it.retries = 5);
    for task in [1, 2, 3] {
        report(&mut job, task, 1, TaskState::Failed);
    }
    report(&mut job, 3, 2, TaskState::Crashed);
    for task in [0, 1, 2] {
        report(&mut job, task, 2, TaskState::Done);
    }
    report(&mut job, 4, 1, TaskState::Lost);
    // The attempt that was given up as lost was not: it is the one that counts.
    report(&mut job, 4, 1, TaskState::Done);
    let told = |job: &Job| {
        let mut pieces = Vec::new();
        let mut at = 0;
        while at < TASKS {
            let (run, count) = job.earlier_attempts(at..TASKS);
            at = run.end;
            pieces.push((run.end, count));
        }
        pieces
    };
    assert_eq!(told(&job), [(1, 0), (3, 1), (4, 2), (TASKS, 0)]);
    job.end(JobState::Cancelled, 7);
    assert_eq!(told(&job), [(1, 0), (3, 1), (4, 2), (TASKS, 0)], "also of cancelled tasks");
}
