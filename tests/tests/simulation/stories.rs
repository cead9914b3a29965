//! Each named story, and that it happened as it says.

use cluster_tests::scenarios::stage::{JOB, SECOND_JOB, Told};
use cluster_tests::scenarios::{changes, groups, results, takeover};
use proto::status::JobState;
use proto::time::Duration;

/// Fails where a promise was broken or something of the story did not happen.
fn happened(told: &Told, facts: &[&str]) {
    assert_eq!(told.outcome.failure, None, "{}", told.notes);
    for fact in facts {
        assert!(told.count(fact) > 0, "it never happened that {fact}:\n{}", told.notes);
    }
}

#[test]
fn a_completion_lost_after_the_balancer_was_told_free_is_reported_again() {
    let told = results::a_completion_is_lost_after_the_balancer_was_told_free(false);
    happened(&told, &["a completion was lost", "the balancer was told free"]);
    assert_eq!(told.job(JOB).state, JobState::Done);
    assert_eq!(told.notes.attempts(JOB), [1], "its worker has the outcome");
}

#[test]
fn a_completion_lost_with_its_worker_is_made_anew() {
    let told = results::a_completion_is_lost_after_the_balancer_was_told_free(true);
    happened(&told, &["a completion was lost", "the balancer was told free"]);
    assert_eq!(told.job(JOB).state, JobState::Done);
    assert_eq!(told.notes.attempts(JOB), [2], "{}", told.notes);
}

#[test]
fn a_failed_attempt_reported_twice_across_a_leader_change_counts_once() {
    let told = results::a_failed_attempt_is_reported_twice_across_a_leader_change();
    happened(&told, &["the acknowledgement was lost", "it was reported to another master"]);
    assert_eq!(told.job(JOB).state, JobState::Failed);
    assert_eq!(told.notes.attempts(JOB), [2], "one retry was asked for:\n{}", told.notes);
}

#[test]
fn a_cut_off_workers_failure_does_not_count_against_the_healthy_second_attempt() {
    let told = results::a_cut_off_worker_reports_a_failure_while_the_second_attempt_is_well();
    happened(
        &told,
        &["the failure came while the second attempt ran", "the second attempt was well"],
    );
    assert_eq!(told.job(JOB).state, JobState::Done);
    assert_eq!(told.notes.attempts(JOB), [2], "{}", told.notes);
}

#[test]
fn tasks_of_a_worker_that_is_restarted_run_once_more() {
    let told = results::a_worker_is_restarted_while_its_tasks_run();
    happened(
        &told,
        &["its next life reported what crashed", "its balancer asked for what it held"],
    );
    assert_eq!(told.job(JOB).state, JobState::Done);
    let mut attempts = told.notes.attempts(JOB);
    attempts.sort_unstable();
    assert_eq!(attempts, [1, 2, 2], "{}", told.notes);
}

#[test]
fn a_deal_lost_on_its_way_to_a_living_worker_is_dealt_again() {
    let told = results::a_deal_is_lost_on_its_way_to_a_living_worker();
    happened(&told, &["a deal was lost", "the balancer asked for it as never begun"]);
    assert_eq!(told.job(JOB).state, JobState::Done);
    assert_eq!(told.notes.attempts(JOB), [1, 1, 1]);
    assert_eq!(told.job(JOB).lost_attempts, 0, "what never began is no lost attempt");
}

#[test]
fn a_retry_that_nobody_holds_is_found_and_dealt() {
    let told = results::a_task_is_settled_and_nobody_holds_its_retry();
    happened(&told, &["the news of the retry was lost", "the balancer asked for the task"]);
    assert_eq!(told.job(JOB).state, JobState::Failed);
    assert_eq!(told.notes.attempts(JOB), [2]);
}

#[test]
fn a_submission_whose_acknowledgement_was_lost_is_accepted_once() {
    let told = changes::the_acknowledgement_of_a_submission_is_lost();
    happened(&told, &["the acknowledgement was lost", "it was submitted again"]);
    assert_eq!(told.end().jobs.len(), 1);
    assert_eq!(told.job(JOB).state, JobState::Done);
    assert_eq!(told.notes.attempts(JOB), [1, 1, 1]);
}

#[test]
fn a_cancellation_that_races_with_the_completion_ends_as_the_one_or_the_other() {
    let (mut done, mut cancelled, mut late) = (0, 0, 0);
    for step in 0..24 {
        let after = Duration::from_millis(90 + step);
        let told = changes::a_cancellation_races_with_the_completion(after);
        happened(&told, &[]);
        let job = told.job(JOB);
        match job.state {
            JobState::Done => done += 1,
            JobState::Cancelled => cancelled += 1,
            other => panic!("the job is {other:?}"),
        }
        assert_eq!(job.done.len(), u64::from(job.state == JobState::Done));
        late += told.count("a completion came behind the cancellation");
    }
    assert!(done > 0 && cancelled > 0, "{done} done, {cancelled} cancelled");
    assert!(late > 0, "no completion came too late in {cancelled} races");
}

#[test]
fn a_completion_in_flight_does_not_change_what_was_read_as_cancelled() {
    let told = changes::a_completion_is_in_flight_when_its_job_is_cancelled_and_read();
    happened(&told, &["it was read as cancelled", "a completion came behind the cancellation"]);
    assert_eq!((told.job(JOB).state, told.job(JOB).done.len()), (JobState::Cancelled, 0));
}

#[test]
fn a_client_never_reads_an_older_state_from_a_lagging_master() {
    let told = changes::a_client_reads_from_a_master_that_lags_behind();
    happened(&told, &["a master was asked that knew less than the client"]);
    assert_eq!(told.job(JOB).state, JobState::Done);
}

#[test]
fn log_time_does_not_follow_a_leader_whose_clock_is_an_hour_ahead() {
    let told = changes::a_leader_has_a_clock_that_is_an_hour_ahead();
    happened(
        &told,
        &["a job was submitted to the leader that is ahead", "a job was submitted to another one"],
    );
    let (first, second) = (told.job(JOB), told.job(SECOND_JOB));
    let between = second.submitted_us - first.submitted_us;
    assert!((1_000_000..=14_000_000).contains(&between), "{between} us between two submissions");
    assert!(second.finished_us - second.submitted_us < 14_000_000);
}

#[test]
fn a_request_repeated_after_its_reply_left_the_window_has_no_second_effect() {
    let told = changes::a_request_is_repeated_after_its_reply_left_the_window();
    let late = "the first write came when its reply was forgotten";
    happened(&told, &["the first write was held up", "another master was asked", late]);
    let written = told.end().keyspace.get(b"number/1.0").expect("it was written");
    assert_eq!(written.bytes, changes::WRITES.to_string().as_bytes());
}

#[test]
fn a_balancer_back_within_its_own_lease_deals_nothing_twice() {
    let told = takeover::a_balancer_is_killed_and_back_within_its_own_lease();
    happened(&told, &["the same balancer dealt under a higher epoch"]);
    assert_eq!(told.job(JOB).state, JobState::Done);
    assert_eq!(told.notes.attempts(JOB), [1; 20], "{}", told.notes);
}

#[test]
fn a_small_job_waits_for_the_workers_lists_only() {
    let told = takeover::a_primary_dies_whose_job_is_small();
    happened(&told, &["the other balancer dealt before the workers' time was over"]);
    assert_eq!(told.job(JOB).state, JobState::Done);
    assert_eq!(told.notes.attempts(JOB), [1; 20], "{}", told.notes);
}

#[test]
fn a_primary_that_reaches_no_worker_is_replaced() {
    let told = takeover::a_balancer_renews_its_lease_and_reaches_no_worker();
    happened(&told, &["the other balancer dealt under a higher epoch"]);
    assert_eq!(told.job(JOB).state, JobState::Done);
}

#[test]
fn tasks_at_a_worker_that_the_new_primary_cannot_reach_are_waited_for() {
    let told = takeover::the_new_primary_cannot_reach_a_worker(None);
    happened(&told, &["the other balancer dealt under a higher epoch"]);
    assert_eq!(told.job(JOB).state, JobState::Done);
    let again = "a task began again while its worker was waited for";
    assert_eq!(told.count(again), 0, "{}", told.notes);
}

#[test]
fn an_auxiliary_that_came_back_empty_takes_everything_for_dealt() {
    let told = takeover::an_auxiliary_comes_back_empty_between_two_marks();
    happened(&told, &["a mark came", "it was promoted as if all was dealt"]);
    assert_eq!(told.job(JOB).state, JobState::Done);
    let again = "a task began again while its worker was waited for";
    assert_eq!(told.count(again), 0, "{}", told.notes);
}

#[test]
fn a_worker_of_a_lost_group_obeys_a_lower_epoch_and_keeps_what_it_runs() {
    let told = groups::a_worker_is_moved_to_a_group_whose_epoch_is_lower();
    let moved = "a worker was dealt to by another group, under a lower epoch";
    happened(&told, &["the only balancer of a group died", moved]);
    assert_eq!(told.job(JOB).state, JobState::Done);
    assert_eq!(told.notes.attempts(JOB), [1; 12], "{}", told.notes);
}

#[test]
fn what_runs_of_a_job_that_was_cancelled_while_its_group_had_nobody_is_killed() {
    let told = groups::a_job_is_cancelled_while_its_group_has_nobody();
    let killed = "a worker that was left was told what to kill";
    happened(&told, &["the only balancer of a group died", killed]);
    assert_eq!(told.job(JOB).state, JobState::Cancelled);
    assert_eq!(told.end().nodes.groups.len(), 1, "the group was given up");
}

#[test]
fn a_group_that_was_lost_while_it_stood_still_deals_under_a_new_seat() {
    let told = groups::a_group_is_lost_while_its_balancers_stand_still();
    happened(&told, &["a group stood still", "a balancer that stood still deals again"]);
    assert_eq!(told.job(JOB).state, JobState::Done);
    assert_eq!(told.notes.attempts(JOB), [1; 20], "{}", told.notes);
    assert_eq!(told.notes.attempts(SECOND_JOB), [1; 20], "{}", told.notes);
}

#[test]
fn workers_go_to_a_balancer_that_comes_late_with_what_they_run() {
    let told = groups::a_third_balancer_comes_while_tasks_run();
    happened(&told, &["a worker was dealt to by another group, under a higher epoch"]);
    assert_eq!(told.job(JOB).state, JobState::Done);
    assert_eq!(told.notes.attempts(JOB), [1; 60], "{}", told.notes);
}
