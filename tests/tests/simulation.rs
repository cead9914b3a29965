//! The cluster in virtual time: fixed seeds under faults, and proofs that the simulator itself is
//! worth something (it repeats itself, it finds a planted mistake).

use cluster_tests::report::Happening;
use cluster_tests::runs::{Outcome, World, run_on_lying_disks, run_while};
use cluster_tests::scenarios;
use cluster_tests::trace::Print;

/// Seeds that every commit runs.
const SEEDS: u64 = 200;

/// Seeds of the whole pipeline that every commit runs: each takes several times as long.
const PIPELINE_SEEDS: u64 = 200;

fn quietly(seed: u64) -> Outcome {
    World::Bank.run(seed, Print::Nothing)
}

#[test]
fn two_hundred_seeds_keep_every_promise() {
    let (summary, failures) = run_while(World::Bank, 1, |seed| seed <= SEEDS, quietly);
    println!("{summary}");
    for failure in &failures {
        println!("{failure}");
    }
    assert!(failures.is_empty(), "{} seeds failed, see above", failures.len());
    let of_jobs = vec!["jobs accepted", "states compared"];
    assert_eq!(summary.missing(), of_jobs, "what never happened was not tested");
}

#[test]
fn pipelines_keep_every_promise() {
    let world = World::Pipeline;
    let (summary, failures) =
        run_while(world, 1, |seed| seed <= PIPELINE_SEEDS, |seed| world.run(seed, Print::Nothing));
    println!("{summary}");
    for failure in &failures {
        println!("{failure}");
    }
    assert!(failures.is_empty(), "{} seeds failed, see above", failures.len());
    let not_drawn = [
        "answered reads",
        "duplicate requests",
        "full disks",
        "empty disks",
        "members replaced",
        "stopped by a disk",
        // A master does not show outside that it took over a snapshot; the bank's members do.
        "snapshot catch-ups",
    ];
    let missing: Vec<&str> =
        summary.missing().into_iter().filter(|name| !not_drawn.contains(name)).collect();
    assert!(missing.is_empty(), "what never happened was not tested: {missing:?}");
}

/// What must arrive again somehow where it is lost once: each number of the catalogue that the
/// pipeline's processes say to each other in the scenario.
const LOST: &[u8] = &[
    0x01, 0x02, 0x08, 0x09, 0x10, 0x11, 0x12, 0x13, 0x30, 0x31, 0x34, 0x35, 0x38, 0x39, 0x3a, 0x3b,
    0x3c, 0x3d, 0x40, 0x41, 0x42, 0x43, 0x44, 0x47, 0x60, 0x61, 0x80, 0x81, 0x82,
];

#[test]
fn a_job_finishes_whichever_record_is_lost() {
    let mut failures = Vec::new();
    for &number in LOST {
        let outcome = scenarios::one_record_is_lost(1, number, 1);
        let name = proto::catalogue::name(number);
        failures.extend(outcome.failure.map(|failure| format!("{name}: {failure}")));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [3, 77, 1_000_003] {
        assert_eq!(quietly(seed), quietly(seed));
    }
    let pipeline = || World::Pipeline.run(2, Print::Nothing);
    assert_eq!(pipeline(), pipeline());
    assert_ne!(quietly(1).trace, quietly(2).trace);
}

#[test]
fn a_lying_fsync_is_found() {
    let (summary, failures) = run_while(World::Bank, 1, |seed| seed <= 40, run_on_lying_disks);
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
