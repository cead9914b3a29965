//! The cluster in virtual time: fixed seeds under faults, and proofs that the simulator itself is
//! worth something (it repeats itself, it finds a planted mistake).

mod planted;
mod registers;
mod stories;

use cluster_tests::report::Happening;
use cluster_tests::runs::{Outcome, World, run_while};
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
    let of_pipelines = [
        "take-overs",
        "jobs accepted",
        "changes of jobs",
        "jobs forgotten",
        "states compared",
        "stayed dead",
        "all masters killed",
        "everything killed",
        "lossy links",
        "files stored",
        "files read",
        "whole files read",
        "reads failed",
        "files refused",
        "blocks refused",
        "busy refusals",
        "segments committed",
        "segments folded",
        "results read back",
        "tasks re-queued",
        "groups lost",
        "ranges moved",
        "workers moved",
        "tasks dealt by heirs",
        "tasks crashed",
        "duplicate completions",
        "refused epochs",
        "flipped bits",
        "damaged blocks",
        "ring versions",
        "rings drained",
        "ring changes ordered",
        "silent nodes removed",
        "blocks moved",
        "moved blocks deleted",
        "offers expected",
        "offers refused",
        "stale ring refusals",
        "blocks mended",
    ];
    assert_eq!(summary.missing(), of_pipelines, "what never happened was not tested");
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
    let of_the_bank = [
        "answered reads",
        "duplicate requests",
        // A full disk makes a storage node refuse, not stop.
        "stopped by a disk",
        // All that may take a file would have to be full at once; that is a story of its own.
        "files refused",
    ];
    let missing: Vec<&str> =
        summary.missing().into_iter().filter(|name| !of_the_bank.contains(name)).collect();
    assert!(missing.is_empty(), "what never happened was not tested: {missing:?}");
}

/// What must arrive again somehow where it is lost once: each number of the catalogue that the
/// pipeline's processes say to each other in the scenario. Telemetry may be missed, and what a
/// worker tells of running tasks is asked anew by whoever watches.
const LOST: &[u8] = &[
    0x01, 0x02, 0x03, 0x04, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16,
    0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x20, 0x21, 0x22, 0x23, 0x30, 0x31, 0x32, 0x33, 0x34, 0x35,
    0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f, 0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47,
    0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x80, 0x81, 0x82,
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
fn full_storage_nodes_refuse_and_stay_readable() {
    let Outcome { failure, report, .. } = scenarios::all_disks_are_full(1);
    assert_eq!(failure, None);
    assert!(report.count(Happening::FilesRefused) > 0, "{report}");
    assert!(report.count(Happening::PutsRefused) > 0, "{report}");
    assert_eq!(report.count(Happening::ReadsFailed), 0, "{report}");
    assert_eq!(report.count(Happening::FilesStored), 2);
}

#[test]
fn files_survive_the_loss_of_a_storage_node() {
    let stories = [scenarios::a_storage_disk_is_lost(1), scenarios::a_storage_node_is_gone(1)];
    for Outcome { failure, report, .. } in stories {
        assert_eq!(failure, None);
        assert_eq!(report.count(Happening::EmptyDisks), 1);
        assert_eq!(report.count(Happening::FilesStored), 2);
    }
}

#[test]
fn rotten_blocks_are_noticed_and_read_elsewhere() {
    let Outcome { failure, report, .. } = scenarios::a_storage_disk_rots(1);
    assert_eq!(failure, None);
    assert!(report.count(Happening::DamagedBlocks) > 0, "{report}");
    assert!(report.count(Happening::FilesRead) > 10, "{report}");
}

#[test]
fn a_flipped_bit_of_the_log_is_refused_with_its_place() {
    let failure = scenarios::a_bit_of_the_log_flips(1).failure.unwrap_or_default();
    assert!(failure.contains("is damaged at byte"), "{failure}");
}
