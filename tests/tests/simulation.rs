//! The cluster in virtual time: fixed seeds under faults, and proofs that the simulator itself is
//! worth something (it repeats itself, it finds a planted mistake).

use cluster_tests::report::Happening;
use cluster_tests::runs::{Outcome, run, run_on_lying_disks, run_while};
use cluster_tests::scenarios;
use cluster_tests::trace::Print;

/// Seeds that every commit runs.
const SEEDS: u64 = 200;

fn quietly(seed: u64) -> Outcome {
    run(seed, Print::Nothing)
}

#[test]
fn two_hundred_seeds_keep_every_promise() {
    let (summary, failures) = run_while(1, |seed| seed <= SEEDS, quietly);
    println!("{summary}");
    for failure in &failures {
        println!("{failure}");
    }
    assert!(failures.is_empty(), "{} seeds failed, see above", failures.len());
    assert_eq!(summary.missing(), Vec::<&str>::new(), "what never happened was not tested");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [3, 77, 1_000_003] {
        assert_eq!(quietly(seed), quietly(seed));
    }
    assert_ne!(quietly(1).trace, quietly(2).trace);
}

#[test]
fn a_lying_fsync_is_found() {
    let (summary, failures) = run_while(1, |seed| seed <= 40, run_on_lying_disks);
    println!("{} of 40 seeds found it, first: {:?}", failures.len(), failures.first());
    assert!(!failures.is_empty(), "{} seeds saw nothing wrong", summary.runs());
}

#[test]
fn a_calm_cluster_elects_one_leader_and_answers_everything_the_first_time() {
    let outcome = scenarios::calm(1);
    assert_eq!(outcome.failure, None);
    assert_eq!(outcome.report.count(Happening::FailOvers), 0);
    assert_eq!(outcome.report.count(Happening::Duplicates), 0);
    assert!(outcome.report.count(Happening::Acknowledged) > 500, "{}", outcome.report);
}

#[test]
fn a_leader_that_stays_dead_is_replaced() {
    let outcome = scenarios::each_member_dies_in_turn(1);
    assert_eq!(outcome.failure, None);
    assert!(outcome.report.count(Happening::FailOvers) > 0, "{}", outcome.report);
    assert_eq!(outcome.report.count(Happening::PowerLosses), 3);
}

#[test]
fn a_member_that_lost_its_disk_is_replaced_by_a_new_one() {
    let outcome = scenarios::the_founder_loses_its_disk(1);
    assert_eq!(outcome.failure, None);
    assert_eq!(outcome.report.count(Happening::Replacements), 1);
}

#[test]
fn a_flipped_bit_of_the_log_is_refused_with_its_place() {
    let failure = scenarios::a_bit_of_the_log_flips(1).failure.unwrap_or_default();
    assert!(failure.contains("is damaged at byte"), "{failure}");
}
