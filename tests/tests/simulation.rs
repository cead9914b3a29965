//! The cluster in virtual time: fixed seeds under faults, and proofs that the simulator itself is
//! worth something (it repeats itself, it finds a planted mistake).

use cluster_tests::runs::{run, run_on_lying_disks, run_while};
use cluster_tests::trace::Print;

/// Seeds that every commit runs.
const SEEDS: u64 = 200;

fn quietly(seed: u64) -> cluster_tests::runs::Outcome {
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
