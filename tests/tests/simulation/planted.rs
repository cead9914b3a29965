//! Planted mistakes: each is found within the seeds that every commit runs, which find nothing
//! without it.

use std::sync::atomic::{AtomicBool, Ordering};

use cluster_tests::planted::Planted;
use cluster_tests::runs::{run_while, run_with};
use cluster_tests::scenarios::takeover;
use cluster_tests::trace::Print;

use super::SEEDS;

/// Runs seeds until one finds the mistake.
fn is_found(mistake: Planted) {
    let is_over = AtomicBool::new(false);
    let more = |seed| seed <= SEEDS && !is_over.load(Ordering::Relaxed);
    let (summary, failures) = run_while(mistake.world(), 1, more, |seed| {
        let outcome = run_with(mistake, seed, Print::Nothing);
        is_over.fetch_or(outcome.failure.is_some(), Ordering::Relaxed);
        outcome
    });
    let first = failures.first().map(|it| format!("seed {}: {}", it.seed, it.text));
    let first = first.unwrap_or_default();
    println!("{}: {} seeds saw nothing, then {first}", mistake.name(), summary.runs());
    assert!(!first.is_empty(), "{} was not found", mistake.name());
    assert!(first.contains(mistake.broken()), "{} was not found as such", mistake.name());
}

#[test]
fn a_primary_that_does_not_wait_for_its_marks_is_found_by_its_story() {
    let again = "a task began again while its worker was waited for";
    let told = takeover::the_new_primary_cannot_reach_a_worker(Some(Planted::MarkNotAwaited));
    assert!(told.count(again) > 0, "{}", told.notes);
}

macro_rules! found {
    ($($story:ident $mistake:ident;)+) => {
        $(#[test]
        fn $story() {
            is_found(Planted::$mistake);
        })+

        #[test]
        fn every_mistake_is_looked_for() {
            let mut all = vec![$(Planted::$mistake),+];
            // By its story: the seeds show no difference.
            all.push(Planted::MarkNotAwaited);
            assert!(Planted::ALL.iter().all(|mistake| all.contains(mistake)));
        }
    };
}

found! {
    members_whose_disks_lie_about_syncs_are_found LyingSync;
    masters_whose_disks_lie_about_syncs_are_found LyingLog;
    a_storage_node_that_acknowledges_before_the_sync_is_found EarlyAcknowledgement;
    a_storage_node_that_takes_any_answer_for_a_confirmation_is_found HastyDeletion;
    a_master_that_accepts_a_job_before_the_commit_is_found EarlyAcceptance;
    a_master_that_acknowledges_outcomes_before_the_commit_is_found EarlySettlement;
    a_worker_that_counts_a_second_completion_is_found DuplicateCompletion;
    a_worker_that_reports_before_the_outputs_are_durable_is_found EarlyOutcome;
    a_worker_that_does_not_check_the_fence_is_found OldEpoch;
    an_auxiliary_that_deals_under_the_epoch_of_its_primary_is_found TwoPrimaries;
    a_group_that_does_not_know_that_a_range_was_moved_is_found ForgottenMove;
    a_balancer_that_forgets_what_is_to_be_dealt_again_is_found LostRequeue;
    a_master_that_reads_an_old_state_to_a_client_is_found StaleRead;
    masters_that_forget_which_requests_they_had_are_found ForgottenWindow;
}
