//! Registers are linearizable whatever happens to their replicas, links and clients; and a checker
//! that says so finds each of the mistakes that such code is known for.

use cluster_tests::linear::{self, Action};
use cluster_tests::registers::{Mistake, run};
use proto::time::Duration;

const SEEDS: u64 = 200;

const SPAN: Duration = Duration::from_secs(10);

#[test]
fn two_hundred_histories_of_registers_are_linearizable() {
    let (mut reads, mut writes, mut unknown) = (0, 0, 0);
    let (mut crashes, mut lost, mut deaths) = (0, 0, 0);
    for seed in 1..=SEEDS {
        let run = run(seed, None, SPAN);
        if let Err(error) = linear::check(&run.history) {
            panic!("seed {seed}: {error}");
        }
        reads += run.history.iter().filter(|it| matches!(it.action, Action::Read(_))).count();
        writes += run.history.iter().filter(|it| matches!(it.action, Action::Write(_))).count();
        unknown += run.history.iter().filter(|it| it.end.is_none()).count();
        crashes += run.crashes;
        lost += run.lost;
        deaths += run.deaths;
    }
    println!(
        "registers: {reads} reads, {writes} writes ({unknown} of unknown outcome), {crashes} \
         crashes, {lost} lost records, {deaths} clients died in the middle"
    );
    let count = SEEDS as usize;
    assert!(reads > 1_000 * count && writes > 1_000 * count, "too little was done");
    assert!(unknown > 0 && crashes > 0 && lost > 0 && deaths > 0, "too little went wrong");
}

/// Runs seeds until one shows the mistake.
fn is_found(mistake: Mistake) {
    for seed in 1..=SEEDS {
        if let Err(error) = linear::check(&run(seed, Some(mistake), SPAN).history) {
            println!("{mistake:?}: seed {seed}: {error}");
            return;
        }
    }
    panic!("{mistake:?} was not found");
}

#[test]
fn a_read_that_skips_its_write_back_is_found() {
    is_found(Mistake::NoWriteBack);
}

#[test]
fn a_write_that_reuses_a_tag_is_found() {
    is_found(Mistake::ReusedTag);
}

#[test]
fn a_read_that_trusts_a_list_of_who_is_alive_is_found() {
    is_found(Mistake::ListOfTheLiving);
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let histories = [(); 2].map(|()| run(7, None, SPAN).history);
    assert_eq!(histories[0], histories[1]);
}
