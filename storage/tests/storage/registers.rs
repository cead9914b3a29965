//! The log of the registers under a disk that forgets, fills up and rots, against a model that
//! remembers what was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fastrand::Rng;
use node::files::Files;
use proto::ids::RingVersion;
use proto::register::{Part, Tag};
use storage::logic::Ticket;
use storage::registers::store::{Store, StoreLimits};
use storage::registers::thread::RegisterThread;
use storage::registers::{Change, ChangeError, Job, JobDone, Recovered, Register};

use crate::files::{Fails, FakeFiles};

const LIMITS: StoreLimits = StoreLimits {
    registers: 40,
    value_bytes: 40 * 300,
    prepared_bytes: 500,
    slack_bytes: 1500,
    step_bytes: 400,
};

fn new_files() -> FakeFiles {
    let files = FakeFiles::default();
    files.create_dir_all(Path::new("/data")).unwrap();
    files.sync_dir(Path::new("/")).unwrap();
    files
}

fn open(files: &FakeFiles) -> (Store, Recovered) {
    Store::open(Arc::new(files.clone()), Path::new("/data"), LIMITS).unwrap()
}

fn tag(sequence: u64) -> Tag {
    Tag { sequence, writer: 7, operation: sequence }
}

/// The tag alone decides what is written, so that a wrong value is seen.
fn register(address: u64, tag: Tag) -> Register {
    let mut rng = Rng::with_seed(address ^ tag.sequence.rotate_left(32));
    let mut value = vec![0; rng.usize(0..300)];
    rng.fill(&mut value);
    Register { address, tag, value: Arc::from(value) }
}

fn keep(address: u64, sequence: u64) -> Change {
    Change::Keep(vec![register(address, tag(sequence))])
}

/// Stores and returns the outcomes in the order of the changes.
fn store(store: &mut Store, changes: &[Change]) -> Vec<Result<(), ChangeError>> {
    let job =
        |(at, change): (usize, &Change)| Job { ticket: Ticket(at as u64), change: change.clone() };
    let mut done = store.store(changes.iter().enumerate().map(job).collect());
    done.sort_by_key(|done| done.ticket);
    let tickets: Vec<u64> = done.iter().map(|done| done.ticket.0).collect();
    assert_eq!(tickets, (0..changes.len() as u64).collect::<Vec<_>>());
    done.into_iter().map(|done| done.result).collect()
}

fn log_path(files: &FakeFiles) -> PathBuf {
    let is_log = |name: &PathBuf| name.extension().is_some_and(|extension| extension == "log");
    files.names().into_iter().rfind(is_log).unwrap()
}

/// What may be found of each register and part: one state where it is certain.
#[derive(Debug, Default)]
struct Model {
    registers: BTreeMap<u64, BTreeSet<Option<Tag>>>,
    seals: BTreeMap<Part, BTreeSet<RingVersion>>,
}

impl Model {
    fn change(&mut self, change: &Change, is_sure: bool) {
        let mut register = |address: u64, after: &dyn Fn(Option<Tag>) -> Option<Tag>| {
            let states = self.registers.entry(address).or_insert_with(|| BTreeSet::from([None]));
            let new: BTreeSet<_> = states.iter().map(|&state| after(state)).collect();
            if is_sure {
                states.clear();
            }
            states.extend(new);
        };
        let seal = match change {
            Change::Keep(registers) => {
                for kept in registers {
                    register(kept.address, &|state| state.max(Some(kept.tag)));
                }
                return;
            }
            Change::Seal { part, version } => (*part, *version),
            Change::Forget { part, version, addresses } => {
                addresses.iter().for_each(|&address| register(address, &|_| None));
                (*part, *version)
            }
        };
        let none = RingVersion(0);
        let states = self.seals.entry(seal.0).or_insert_with(|| BTreeSet::from([none]));
        let new: BTreeSet<_> = states.iter().map(|&state| state.max(seal.1)).collect();
        if is_sure {
            states.clear();
        }
        states.extend(new);
    }

    fn check(&mut self, found: &Recovered) {
        assert!(!found.is_damaged);
        let there: BTreeMap<u64, &Register> =
            found.registers.iter().map(|register| (register.address, register)).collect();
        for (&address, states) in &mut self.registers {
            let found = there.get(&address);
            let state = found.map(|found| found.tag);
            assert!(states.contains(&state), "{address} is {state:?}, not one of {states:?}");
            *states = BTreeSet::from([state]);
            if let Some(found) = found {
                assert_eq!(found.value, register(address, found.tag).value);
            }
        }
        let seals: BTreeMap<_, _> = found.seals.iter().copied().collect();
        for (part, states) in &mut self.seals {
            let state = seals.get(part).copied().unwrap_or_default();
            assert!(states.contains(&state), "{part:?} is {state:?}, not one of {states:?}");
            *states = BTreeSet::from([state]);
        }
    }
}

fn some_changes(rng: &mut Rng, clock: &mut u64) -> Vec<Change> {
    let mut addresses: Vec<u64> = (0..30).collect();
    rng.shuffle(&mut addresses);
    let mut addresses = addresses.into_iter();
    let mut take = |count: usize| addresses.by_ref().take(count).collect::<Vec<u64>>();
    let count = rng.usize(1..5);
    let change = |_| {
        *clock += 1;
        let (part, version) = (Part(rng.u32(0..4)), RingVersion(rng.u64(1..9)));
        match rng.u8(0..8) {
            0 => Change::Seal { part, version },
            1 => Change::Forget { part, version, addresses: take(2) },
            _ => {
                let sequence = if rng.u8(0..4) == 0 { rng.u64(1..=*clock) } else { *clock };
                let kept = take(rng.usize(1..4)).into_iter();
                Change::Keep(kept.map(|address| register(address, tag(sequence))).collect())
            }
        }
    };
    (0..count).map(change).collect()
}

#[test]
fn what_was_acknowledged_survives_crashes_at_every_operation() {
    let (mut torn, mut lost, mut rewritten) = (0, 0, BTreeSet::new());
    for seed in 0..150 {
        let mut rng = Rng::with_seed(seed);
        let files = new_files();
        let mut model = Model::default();
        let (mut disk, _) = open(&files);
        let mut clock = 0;
        for _ in 0..60 {
            let is_killed = rng.u8(0..4) == 0;
            if is_killed {
                files.fail_after(rng.u64(0..8));
            }
            let changes = some_changes(&mut rng, &mut clock);
            let results = store(&mut disk, &changes);
            for (change, result) in changes.iter().zip(&results) {
                model.change(change, result.is_ok());
                assert!(is_killed || result.is_ok());
            }
            for _ in 0..rng.usize(0..4) {
                disk.tidy();
            }
            rewritten.insert(log_path(&files));
            if is_killed || rng.u8(0..8) == 0 {
                files.stop_failing();
                drop(disk);
                if rng.bool() {
                    files.lose_power(&mut rng);
                }
                let opened = open(&files);
                model.check(&opened.1);
                disk = opened.0;
            }
        }
        torn += files.losses().torn;
        lost += files.losses().lost;
    }
    assert!(torn > 20 && lost > 100, "{torn} torn and {lost} lost writes");
    assert!(rewritten.len() > 3, "the log was rewritten in the same histories: {rewritten:?}");
}

#[test]
fn each_crash_while_the_log_is_rewritten_leaves_one_that_is_whole() {
    let prepare = || {
        let files = new_files();
        let (mut disk, _) = open(&files);
        let mut model = Model::default();
        for sequence in 1..60 {
            let change = keep(sequence % 12, sequence);
            assert_eq!(store(&mut disk, std::slice::from_ref(&change)), [Ok(())]);
            model.change(&change, true);
        }
        let seal = Change::Seal { part: Part(3), version: RingVersion(5) };
        assert_eq!(store(&mut disk, std::slice::from_ref(&seal)), [Ok(())]);
        model.change(&seal, true);
        (files, disk, model)
    };
    let mut points = 0;
    for operations in 0.. {
        let (files, mut disk, mut model) = prepare();
        let old = log_path(&files);
        files.fail_after(operations);
        while disk.tidy() {
            // Changes go on meanwhile, over what is copied and over what is not.
            for address in [0, 11] {
                let change = keep(address, 100 + operations);
                let result = store(&mut disk, std::slice::from_ref(&change));
                model.change(&change, result == [Ok(())]);
            }
        }
        let is_through = files.list(Path::new("/data")).is_ok();
        files.stop_failing();
        drop(disk);
        files.lose_power(&mut Rng::with_seed(operations));
        model.check(&open(&files).1);
        points = operations;
        if is_through {
            assert_ne!(log_path(&files), old, "the last attempt got through");
            break;
        }
    }
    assert!(points > 20, "only {points} points");
}

#[test]
fn a_log_stays_below_a_multiple_of_what_counts() {
    let files = new_files();
    let (mut disk, _) = open(&files);
    let mut longest = 0;
    for sequence in 1..2000 {
        assert_eq!(store(&mut disk, &[keep(sequence % 5, sequence)]), [Ok(())]);
        disk.tidy();
        longest = longest.max(files.length(&log_path(&files)));
    }
    assert!(longest < 10_000, "{longest}");
    let found = open(&files).1.registers;
    assert_eq!(found, (0..5).map(|it| register(it, tag(1995 + it))).collect::<Vec<_>>());
    assert_eq!(files.names().iter().filter(|name| name.starts_with("/data/registers/")).count(), 1);
}

#[test]
fn changes_that_wait_together_share_a_sync_and_a_known_one_needs_none() {
    let files = new_files();
    let (mut disk, _) = open(&files);
    let before = files.syncs();
    let changes: Vec<Change> = (0..20).map(|address| keep(address, 9)).collect();
    assert!(store(&mut disk, &changes).iter().all(Result::is_ok));
    assert_eq!(files.syncs(), before + 1);
    assert_eq!(store(&mut disk, &[keep(3, 9), keep(4, 8)]), [Ok(()), Ok(())]);
    assert_eq!(files.syncs(), before + 1);
}

#[test]
fn after_a_failed_sync_nothing_is_stored_until_the_next_start() {
    let files = new_files();
    let (mut disk, _) = open(&files);
    assert_eq!(store(&mut disk, &[keep(1, 1)]), [Ok(())]);
    files.fail_syncs(Fails::All);
    assert_eq!(store(&mut disk, &[keep(1, 2)]), [Err(ChangeError::Failed)]);
    files.fail_syncs(Fails::None);
    assert_eq!(store(&mut disk, &[keep(1, 3)]), [Err(ChangeError::Failed)]);
    let (mut disk, _) = open(&files);
    assert_eq!(store(&mut disk, &[keep(1, 4)]), [Ok(())]);
}

#[test]
fn a_full_disk_refuses_and_keeps_what_is_there() {
    let files = new_files();
    let (mut disk, _) = open(&files);
    assert_eq!(store(&mut disk, &[keep(1, 1)]), [Ok(())]);
    files.limit_room(Some(700));
    let results: Vec<_> = (2..40).map(|it| store(&mut disk, &[keep(it, 1)])[0]).collect();
    let stored = 1 + results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(results.last(), Some(&Err(ChangeError::DiskFull)));
    files.limit_room(None);
    assert_eq!(store(&mut disk, &[keep(1, 2)]), [Ok(())]);
    drop(disk);
    let found = open(&files).1;
    assert_eq!(found.registers.len(), stored);
    assert_eq!(found.registers[0], register(1, tag(2)));
}

#[test]
fn more_registers_or_bytes_than_the_bound_are_refused_and_forgetting_makes_room() {
    let files = new_files();
    let (mut disk, _) = open(&files);
    let small = |address, length: usize, sequence| {
        let value = Arc::from(vec![1; length]);
        Change::Keep(vec![Register { address, tag: tag(sequence), value }])
    };
    let changes: Vec<Change> = (0..41).map(|address| small(address, 1, 1)).collect();
    let results = store(&mut disk, &changes);
    assert!(results[..40].iter().all(Result::is_ok));
    assert_eq!(results[40], Err(ChangeError::Full));
    assert_eq!(store(&mut disk, &[small(5, 2, 2)]), [Ok(())], "what is there may be written");
    assert_eq!(store(&mut disk, &[small(5, LIMITS.value_bytes, 3)]), [Err(ChangeError::Full)]);
    let forget =
        Change::Forget { part: Part(0), version: RingVersion(1), addresses: vec![0, 1, 99] };
    assert_eq!(store(&mut disk, &[forget]), [Ok(())]);
    assert_eq!(store(&mut disk, &[small(40, 1, 1)]), [Ok(())]);
    let found = open(&files).1;
    assert_eq!(found.registers.len(), 39);
    assert_eq!(found.seals, [(Part(0), RingVersion(1))]);
}

#[test]
fn damage_in_front_of_later_writes_takes_the_node_out_of_every_majority() {
    let files = new_files();
    let (mut disk, _) = open(&files);
    for address in 0..5 {
        assert_eq!(store(&mut disk, &[keep(address, 1)]), [Ok(())]);
    }
    drop(disk);
    files.flip_bit(&log_path(&files), 33, 3);
    let (mut disk, found) = open(&files);
    assert!(found.is_damaged && found.registers.is_empty());
    assert_eq!(store(&mut disk, &[keep(9, 1)]), [Err(ChangeError::Damaged)]);
    assert!(!disk.tidy());
    drop(disk);
    assert!(open(&files).1.is_damaged, "the next start finds it again");
}

#[test]
fn the_thread_tells_of_every_change_and_finishes_before_it_is_dropped() {
    let files = new_files();
    let (wake, woken) = std::sync::mpsc::channel();
    let wake = move || wake.send(()).unwrap_or_default();
    let thread = RegisterThread::start(open(&files).0, wake).unwrap();
    for address in 0..20 {
        thread.change(Job { ticket: Ticket(address), change: keep(address, 1) });
    }
    let mut done: Vec<JobDone> = Vec::new();
    while done.len() < 20 {
        let timeout = std::time::Duration::from_secs(20);
        woken.recv_timeout(timeout).expect("the thread wakes the loop");
        done.extend(std::iter::from_fn(|| thread.take()));
    }
    assert!(done.iter().all(|done| done.result.is_ok()));
    thread.change(Job { ticket: Ticket(20), change: keep(20, 1) });
    drop(thread);
    assert_eq!(open(&files).1.registers.len(), 21);
}
