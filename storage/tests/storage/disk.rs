//! The disk of a storage node under a disk that forgets, fills up and rots, against a model that
//! remembers what was acknowledged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use fastrand::Rng;
use proptest::prelude::*;
use proto::digest::Digest;
use proto::ids::BlockId;
use proto::status::BlockKind;
use storage::disk::{Disk, DiskLimits, Held, Put, PutError, ReadError, Stored, Touch};
use storage::logic::Ticket;

use crate::files::{Fails, FakeFiles};

pub(crate) const LIMITS: DiskLimits = DiskLimits {
    inline_bytes: 1000,
    prepared_bytes: 700,
    file_threads: 1,
    volume_bytes: 6000,
    volume_records: 6,
    volume_files: 2,
    reserve_bytes: 4096,
    step_bytes: 1500,
};

fn folder() -> PathBuf {
    PathBuf::from("/data")
}

pub(crate) fn open(files: &FakeFiles, limits: DiskLimits) -> Disk {
    Disk::open(Arc::new(files.clone()), &folder(), limits).unwrap()
}

pub(crate) fn new_files() -> FakeFiles {
    use node::files::Files;
    let files = FakeFiles::default();
    files.create_dir_all(&folder()).unwrap();
    files.sync_dir(Path::new("/")).unwrap();
    files
}

/// A block that only `number` decides: most are small, some have a file of their own.
fn content(number: u64) -> Vec<u8> {
    let mut rng = Rng::with_seed(number);
    let length = match rng.u8(0..8) {
        0 => 0,
        1..=3 => rng.usize(1..200),
        4 | 5 => rng.usize(200..=1000),
        _ => rng.usize(1001..3000),
    };
    let mut content = vec![0; length];
    rng.fill(&mut content);
    content
}

fn put(number: u64) -> Put {
    static PUTS: LazyLock<Vec<Put>> = LazyLock::new(|| (0..64).map(make_put).collect());
    PUTS.get(number as usize).cloned().unwrap_or_else(|| make_put(number))
}

fn make_put(number: u64) -> Put {
    let content = content(number);
    let kind = if number.is_multiple_of(5) { BlockKind::Manifest } else { BlockKind::Content };
    let block = Digest::of(kind, &content).block_id();
    let replica_count = (number % 4) as u8;
    Put { ticket: Ticket(number), block, kind, stamp: number, replica_count, content }
}

/// Stores and returns the outcomes in the order of the puts.
fn store(disk: &mut Disk, numbers: &[u64]) -> Vec<Result<Stored, PutError>> {
    let puts = numbers.iter().enumerate().map(|(at, &number)| {
        let mut put = put(number);
        put.ticket = Ticket(at as u64);
        put
    });
    let mut done = disk.store(puts.collect());
    done.sort_by_key(|done| done.ticket);
    let tickets: Vec<_> = done.iter().map(|done| done.ticket.0).collect();
    assert_eq!(tickets, (0..numbers.len() as u64).collect::<Vec<_>>());
    done.into_iter().map(|done| done.result).collect()
}

/// Something that is asked of the disk.
#[derive(Clone, Debug)]
enum Op {
    Put(Vec<u64>),
    Touch {
        numbers: Vec<u64>,
        stamp: u64,
        replica_count: u8,
    },
    Delete(Vec<u64>),
    /// So many steps of upkeep.
    Upkeep(usize),
}

#[derive(Clone, Debug)]
enum Step {
    Op(Op),
    Restart,
    PowerLoss {
        seed: u64,
    },
    /// The process is killed: what it wrote is there, synced or not.
    UntilKilled {
        ops: Vec<Op>,
        operations: u64,
    },
    UntilPowerLoss {
        ops: Vec<Op>,
        operations: u64,
        seed: u64,
    },
    WithRoom {
        ops: Vec<Op>,
        room: usize,
    },
    Rot {
        file: usize,
        offset: usize,
        bit: u8,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let numbers = || prop::collection::vec(0u64..60, 1..8);
    prop_oneof![
        6 => numbers().prop_map(Op::Put),
        2 => (numbers(), 0u64..100, 0u8..5).prop_map(|(numbers, stamp, replica_count)| {
            Op::Touch { numbers, stamp, replica_count }
        }),
        4 => numbers().prop_map(Op::Delete),
        4 => (1usize..6).prop_map(Op::Upkeep),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let ops = || prop::collection::vec(op(), 1..4);
    prop_oneof![
        8 => op().prop_map(Step::Op),
        1 => Just(Step::Restart),
        2 => any::<u64>().prop_map(|seed| Step::PowerLoss { seed }),
        6 => (ops(), 0u64..60, any::<u64>()).prop_map(|(ops, operations, seed)| {
            Step::UntilPowerLoss { ops, operations, seed }
        }),
        3 => (ops(), 0u64..60).prop_map(|(ops, operations)| {
            Step::UntilKilled { ops, operations }
        }),
        1 => (ops(), 0usize..6000).prop_map(|(ops, room)| Step::WithRoom { ops, room }),
    ]
}

fn rot() -> impl Strategy<Value = Step> {
    (any::<usize>(), any::<usize>(), 0u8..8).prop_map(|(file, offset, bit)| Step::Rot {
        file,
        offset,
        bit,
    })
}

/// What may be true of a block. [`Model::check`] finds out which.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Whether it is there.
    may_be_there: bool,
    may_be_gone: bool,
    stamp: (u64, u64),
    replica_count: (u8, u8),
}

impl Known {
    fn gone() -> Known {
        Known { may_be_gone: true, ..Known::default() }
    }

    fn is_there(&self) -> bool {
        self.may_be_there && !self.may_be_gone
    }

    /// It is raised, or may be.
    fn raise(&mut self, stamp: u64, replica_count: u8, is_sure: bool) {
        self.stamp.1 = self.stamp.1.max(stamp);
        self.replica_count.1 = self.replica_count.1.max(replica_count);
        if is_sure {
            self.stamp.0 = self.stamp.0.max(stamp);
            self.replica_count.0 = self.replica_count.0.max(replica_count);
        }
    }
}

/// What must hold: acknowledged blocks are there, deleted ones are not, stamps never fall, whatever
/// is there is right.
struct Model {
    files: FakeFiles,
    disk: Disk,
    known: BTreeMap<BlockId, Known>,
    has_rotted: bool,
}

impl Model {
    fn new() -> Model {
        let files = new_files();
        let disk = open(&files, LIMITS);
        let known = (0..60).map(|number| (put(number).block, Known::gone())).collect();
        Model { files, disk, known, has_rotted: false }
    }

    fn known(&mut self, number: u64) -> &mut Known {
        self.known.get_mut(&put(number).block).unwrap()
    }

    fn put(&mut self, numbers: &[u64]) -> Vec<Result<Stored, PutError>> {
        let reader = self.disk.reader();
        let before: Vec<bool> = numbers.iter().map(|&n| reader.contains(put(n).block)).collect();
        let counters = reader.counters();
        let results = store(&mut self.disk, numbers);
        let mut stored = 0;
        for ((&number, result), was_there) in numbers.iter().zip(&results).zip(before) {
            let Put { stamp, replica_count, .. } = put(number);
            let known = self.known(number);
            match result {
                Ok(it) => {
                    assert!(it.was_present || !was_there);
                    stored += u64::from(!it.was_present && !was_there);
                    if known.is_there() || was_there {
                        known.raise(stamp, replica_count, true);
                    } else {
                        let (stamp, replica_count) =
                            ((stamp, stamp), (replica_count, replica_count));
                        *known =
                            Known { may_be_there: true, may_be_gone: false, stamp, replica_count };
                    }
                }
                Err(PutError::DiskFull | PutError::Failed) => {
                    if !known.may_be_there {
                        known.stamp = (stamp, stamp);
                        known.replica_count = (replica_count, replica_count);
                    }
                    known.may_be_there = true;
                    known.raise(stamp, replica_count, false);
                }
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(reader.counters().put_count - counters.put_count, stored);
        results
    }

    fn touch(&mut self, numbers: &[u64], stamp: u64, replica_count: u8) {
        let touches = numbers.iter().map(|&number| {
            let block = put(number).block;
            Touch { block, stamp, replica_count }
        });
        let touched = self.disk.touch(touches.collect());
        let reader = self.disk.reader();
        for (&number, is_raised) in numbers.iter().zip(touched) {
            let is_there = reader.contains(put(number).block);
            assert!(is_there || !is_raised);
            if is_there {
                self.known(number).raise(stamp, replica_count, is_raised);
            }
        }
    }

    fn delete(&mut self, numbers: &[u64]) -> Result<u64, PutError> {
        let blocks: Vec<BlockId> = numbers.iter().map(|&number| put(number).block).collect();
        let deleted = self.disk.delete(&blocks);
        for &number in numbers {
            let known = self.known(number);
            known.may_be_gone = true;
            if deleted.is_ok() {
                *known = Known::gone();
            }
        }
        deleted
    }

    fn op(&mut self, op: &Op) {
        match op {
            Op::Put(numbers) => {
                self.put(numbers);
            }
            Op::Touch { numbers, stamp, replica_count } => {
                self.touch(numbers, *stamp, *replica_count);
            }
            Op::Delete(numbers) => {
                // Where it failed the model knows less.
                let _ = self.delete(numbers);
            }
            Op::Upkeep(count) => {
                for _ in 0..*count {
                    self.disk.upkeep();
                }
            }
        }
    }

    fn restart(&mut self) {
        self.disk = open(&self.files, LIMITS);
        if !self.has_rotted {
            assert_eq!(self.disk.recovery().damaged_count, 0, "a torn write is no damage");
        }
    }

    fn lose_power(&mut self, seed: u64) {
        self.files.lose_power(&mut Rng::with_seed(seed));
        self.restart();
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Op(Op::Put(numbers)) => {
                let results = self.put(numbers);
                assert!(results.iter().all(Result::is_ok), "{results:?}");
            }
            Step::Op(Op::Delete(numbers)) => assert!(self.delete(numbers).is_ok()),
            Step::Op(op) => self.op(op),
            Step::Restart => self.restart(),
            Step::PowerLoss { seed } => self.lose_power(*seed),
            Step::UntilPowerLoss { ops, operations, seed } => {
                self.files.fail_after(*operations);
                ops.iter().for_each(|op| self.op(op));
                self.lose_power(*seed);
            }
            Step::UntilKilled { ops, operations } => {
                self.files.fail_after(*operations);
                ops.iter().for_each(|op| self.op(op));
                self.files.stop_failing();
                self.restart();
            }
            Step::WithRoom { ops, room } => {
                self.files.limit_room(Some(*room));
                for op in ops {
                    self.op(op);
                    self.check();
                }
                self.files.limit_room(None);
            }
            Step::Rot { file, offset, bit } => {
                let names = self.files.names();
                let Some(name) = names.get(file % names.len().max(1)) else {
                    return;
                };
                let length = self.files.length(name);
                if length > 0 {
                    self.files.flip_bit(name, offset % length, *bit);
                    self.has_rotted = true;
                }
            }
        }
        self.check();
    }

    fn check(&mut self) {
        let reader = self.disk.reader();
        let mut present = 0;
        let mut bytes = 0;
        for number in 0..60 {
            let put = put(number);
            let held = reader.held(put.block);
            assert_eq!(reader.presence(&[put.block]), [u8::from(held.is_some())]);
            let known = &self.known[&put.block];
            match reader.read(put.block) {
                Ok(block) => {
                    assert_eq!(block.content, put.content);
                    assert_eq!(block.kind, put.kind);
                    let held = held.unwrap();
                    assert_eq!((held.kind, held.length as usize), (put.kind, put.content.len()));
                    if !self.has_rotted {
                        assert!(known.may_be_there, "{number} is back");
                        let (stamp, replica_count) = (known.stamp, known.replica_count);
                        assert!((stamp.0..=stamp.1).contains(&held.stamp), "{held:?} {known:?}");
                        let replicas = replica_count.0..=replica_count.1;
                        assert!(replicas.contains(&held.replica_count), "{held:?} {known:?}");
                    }
                    present += 1;
                    bytes += put.content.len() as u64;
                }
                Err(ReadError::NotFound) => {
                    assert!(held.is_none());
                    assert!(known.may_be_gone || self.has_rotted, "{number} is lost");
                }
                Err(ReadError::Damaged) => {
                    assert!(held.is_some() && self.has_rotted, "{number} is damaged");
                    assert!(!reader.contains(put.block), "a damaged block can be stored again");
                }
                Err(ReadError::Failed | ReadError::Range) => panic!("nothing fails here"),
            }
            // Whoever was told may rely on it.
            let known = match reader.held(put.block) {
                Some(Held { stamp, replica_count, .. }) => Known {
                    may_be_there: true,
                    may_be_gone: false,
                    stamp: (stamp, stamp),
                    replica_count: (replica_count, replica_count),
                },
                None => Known::gone(),
            };
            self.known.insert(put.block, known);
        }
        let listed = reader.list(None, 100);
        let there = self.known.iter().filter(|(_, known)| known.is_there());
        assert!(listed.iter().map(|held| held.block).eq(there.map(|(&block, _)| block)));
        let counters = reader.counters();
        let (block_count, block_bytes) = (counters.block_count, counters.block_bytes);
        // Equal contents under equal kinds are one block.
        assert_eq!(block_count, listed.len() as u64);
        assert!(block_count <= present && block_bytes <= bytes);
    }

    /// Compacts all that there is to compact.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            if !self.disk.upkeep() {
                return;
            }
        }
        panic!("upkeep has no end");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_was_acknowledged_survives_what_was_deleted_does_not_and_stamps_never_fall(
        steps in prop::collection::vec(step(), 1..30)
    ) {
        let mut model = Model::new();
        for step in &steps {
            model.step(step);
        }
        model.settle();
        model.check();
        model.restart();
        model.check();
    }

    #[test]
    fn nothing_wrong_is_served_whatever_rots(
        steps in prop::collection::vec(prop_oneof![4 => step(), 1 => rot()], 1..30)
    ) {
        let mut model = Model::new();
        for step in &steps {
            model.step(step);
        }
    }
}

#[test]
fn wherever_the_power_fails_the_acknowledged_blocks_are_there() {
    let mut acknowledged = 0;
    let mut refused = 0;
    let (mut torn, mut lost) = (0, 0);
    for operations in 0..120 {
        let mut model = Model::new();
        model.put(&[1, 2, 3]);
        model.files.fail_after(operations);
        for numbers in [[10, 11, 12], [13, 14, 15], [16, 17, 18], [19, 20, 21]] {
            for result in model.put(&numbers) {
                match result {
                    Ok(_) => acknowledged += 1,
                    Err(_) => refused += 1,
                }
            }
        }
        model.lose_power(operations);
        model.check();
        torn += model.files.losses().torn;
        lost += model.files.losses().lost;
        let results = model.put(&[10, 15, 21, 30, 31, 32]);
        assert!(results.iter().all(Result::is_ok), "it goes on after the restart");
        model.check();
    }
    assert!(acknowledged > 100 && refused > 100, "{acknowledged} {refused}");
    assert!(torn > 0 && lost > 10, "{torn} {lost}");
}

/// Puts and deletes of few blocks, and the power fails during compaction again and again.
#[test]
fn compaction_that_is_interrupted_brings_nothing_back_and_loses_nothing() {
    for seed in 0..60 {
        let mut rng = Rng::with_seed(seed);
        let mut model = Model::new();
        for _ in 0..40 {
            let mut some = |most: usize| -> Vec<u64> {
                (0..rng.usize(1..most)).map(|_| rng.u64(0..24)).collect()
            };
            let (stored, raised, deleted) = (some(12), some(6), some(16));
            assert!(model.put(&stored).iter().all(Result::is_ok));
            model.touch(&raised, rng.u64(0..100), rng.u8(0..5));
            assert!(model.delete(&deleted).is_ok());
            model.files.fail_after(rng.u64(0..40));
            for _ in 0..rng.usize(0..5) {
                model.disk.upkeep();
            }
            if rng.bool() {
                model.lose_power(rng.u64(..));
            } else {
                model.files.stop_failing();
                model.restart();
            }
            model.check();
        }
        model.settle();
        model.restart();
        model.check();
    }
}

#[test]
fn one_sync_makes_many_small_blocks_durable() {
    let files = new_files();
    let mut disk = open(&files, DiskLimits { inline_bytes: 4000, ..DiskLimits::default() });
    let before = files.syncs();
    let numbers: Vec<u64> = (0..500).collect();
    assert!(store(&mut disk, &numbers).iter().all(Result::is_ok));
    assert_eq!(files.syncs() - before, 1);
}

#[test]
fn a_block_is_stored_once() {
    let files = new_files();
    let mut disk = open(&files, LIMITS);
    let results = store(&mut disk, &[1, 1, 2]);
    let stored: Vec<bool> = results.iter().map(|it| it.unwrap().was_present).collect();
    assert_eq!(stored, [false, true, false]);
    let syncs = files.syncs();
    assert!(store(&mut disk, &[2, 1])[1].unwrap().was_present);
    assert_eq!(files.syncs(), syncs);
    let counters = disk.reader().counters();
    assert_eq!({ counters.put_count }, 2);
}

#[test]
fn what_is_here_is_raised_with_one_sync_and_only_where_it_rises() {
    let files = new_files();
    let mut disk = open(&files, DiskLimits::default());
    store(&mut disk, &[1, 2, 3]);
    let absent = put(4).block;
    let touch = |number: u64, stamp, replica_count| Touch {
        block: put(number).block,
        stamp,
        replica_count,
    };
    let syncs = files.syncs();
    let items = vec![touch(1, 9, 0), touch(2, 0, 4), Touch { block: absent, ..touch(1, 9, 9) }];
    assert_eq!(disk.touch(items.clone()), [true, true, false]);
    assert_eq!(files.syncs() - syncs, 1);
    assert_eq!(disk.touch(items), [true, true, false]);
    assert_eq!(disk.touch(vec![touch(3, 3, 3), touch(1, 5, 1)]), [true, true]);
    assert_eq!(files.syncs() - syncs, 1, "neither rises");
    let mut again = put(1);
    (again.stamp, again.replica_count) = (20, 0);
    assert_eq!(disk.store(vec![again])[0].result, Ok(Stored { was_present: true }));
    assert_eq!(files.syncs() - syncs, 2);
    drop(disk);
    let reader = open(&files, DiskLimits::default()).reader();
    let told = |number: u64| {
        let held = reader.held(put(number).block).unwrap();
        (held.stamp, held.replica_count)
    };
    assert_eq!([told(1), told(2), told(3)], [(20, 1), (2, 4), (3, 3)]);
    assert_eq!(reader.held(absent), None);
    let all = reader.list(None, 10);
    assert_eq!(all.len(), 3);
    assert!(all.is_sorted_by_key(|held| held.block));
    assert_eq!(reader.list(None, 2), all[..2]);
    assert_eq!(reader.list(Some(all[0].block), 9), all[1..]);
}

#[test]
fn bytes_of_another_block_are_refused_before_anything_is_written() {
    let files = new_files();
    let mut disk = open(&files, LIMITS);
    let mut wrong = put(1);
    wrong.content.push(0);
    let mut wrong_kind = put(2);
    wrong_kind.kind = BlockKind::Manifest;
    let syncs = files.syncs();
    for put in [wrong, wrong_kind] {
        let block = put.block;
        let done = disk.store(vec![put]);
        assert_eq!(done[0].result, Err(PutError::WrongDigest));
        assert!(!disk.reader().contains(block));
    }
    let content = vec![0; proto::limits::BLOCK_BYTES + 1];
    let block = Digest::of(BlockKind::Content, &content).block_id();
    let kind = BlockKind::Content;
    let large = Put { ticket: Ticket(0), block, kind, stamp: 0, replica_count: 0, content };
    assert_eq!(disk.store(vec![large])[0].result, Err(PutError::TooLarge));
    assert_eq!(files.syncs(), syncs);
}

#[test]
fn a_full_disk_refuses_stays_readable_and_goes_on_when_there_is_room() {
    let limits = DiskLimits { volume_files: 10_000, inline_bytes: 1000, ..DiskLimits::default() };
    let files = new_files();
    let mut disk = open(&files, limits);
    assert!(store(&mut disk, &[1, 2, 3]).iter().all(Result::is_ok));
    files.limit_room(Some(0));
    // Small blocks go on for a while: room for them is written ahead.
    let mut numbers = 4..;
    let (mut refused, mut refused_small) = (Vec::new(), 0);
    while refused_small < 3 {
        let number = numbers.next().unwrap();
        match store(&mut disk, &[number])[0] {
            Ok(_) => assert!(disk.reader().read(put(number).block).is_ok()),
            Err(error) => {
                assert_eq!(error, PutError::DiskFull);
                assert_eq!(disk.reader().read(put(number).block), Err(ReadError::NotFound));
                refused.push(number);
                refused_small += u32::from(content(number).len() <= 1000);
            }
        }
    }
    assert!(refused.len() > 100, "large ones from the first on");
    assert_eq!(disk.reader().read(put(1).block).unwrap().content, content(1));
    files.limit_room(None);
    assert!(store(&mut disk, &refused).iter().all(Result::is_ok));
    drop(disk);
    let disk = open(&files, limits);
    for number in 1..numbers.start {
        assert_eq!(disk.reader().read(put(number).block).unwrap().content, content(number));
    }
    assert_eq!(disk.recovery().damaged_count, 0);
}

#[test]
fn after_a_failed_sync_nothing_is_stored_until_the_next_start() {
    let small = (0..60).find(|&number| content(number).len() <= 1000).unwrap();
    let large = (0..60).find(|&number| content(number).len() > 1000).unwrap();
    for victim in [small, large] {
        let files = new_files();
        let mut disk = open(&files, LIMITS);
        assert!(store(&mut disk, &[50])[0].is_ok());
        files.fail_syncs(Fails::All);
        assert_eq!(store(&mut disk, &[victim]), [Err(PutError::Failed)]);
        files.fail_syncs(Fails::None);
        // The next sync would succeed, and prove nothing about what the failed one covered.
        assert_eq!(store(&mut disk, &[victim, 51]), [Err(PutError::Failed); 2]);
        assert!(!disk.reader().contains(put(victim).block));
        assert_eq!(disk.reader().read(put(50).block).unwrap().content, content(50));
        assert!(store(&mut disk, &[50])[0].unwrap().was_present);
        drop(disk);
        let mut disk = open(&files, LIMITS);
        assert!(store(&mut disk, &[victim, 51]).iter().all(Result::is_ok));
    }
}

/// Every bit of every file, one at a time: nothing wrong is served, all other blocks are.
#[test]
fn one_flipped_bit_costs_one_block_at_most() {
    let numbers: Vec<u64> = (0..9).collect();
    let files = new_files();
    let mut disk = open(&files, LIMITS);
    for &number in &numbers {
        // One write each, so that a bad record is known to have been acknowledged.
        assert!(store(&mut disk, &[number])[0].is_ok());
    }
    drop(disk);
    let mut damaged = 0;
    for name in files.names() {
        for offset in (0..files.length(&name).min(8000)).step_by(13) {
            let files = files.copy();
            files.flip_bit(&name, offset, (offset % 8) as u8);
            let mut disk = open(&files, LIMITS);
            let reader = disk.reader();
            let mut missing = Vec::new();
            for &number in &numbers {
                match reader.read(put(number).block) {
                    Ok(block) => assert_eq!(block.content, content(number)),
                    Err(_) => missing.push(number),
                }
            }
            assert!(missing.len() <= 1, "{} at {offset}: {missing:?}", name.display());
            damaged += missing.len();
            assert!(store(&mut disk, &missing).iter().all(|it| it.is_ok_and(|it| !it.was_present)));
            for &number in &numbers {
                assert_eq!(reader.read(put(number).block).unwrap().content, content(number));
            }
        }
    }
    assert!(damaged > 100);
}

#[test]
fn a_damaged_block_is_counted_and_can_be_stored_again() {
    let files = new_files();
    let mut disk = open(&files, LIMITS);
    let numbers: Vec<u64> = (0..30).filter(|&number| content(number).len() > 100).collect();
    assert!(store(&mut disk, &numbers).iter().all(Result::is_ok));
    let victim = numbers[0];
    let needle = content(victim);
    for name in files.names() {
        let bytes = node::files::read_all(&files, &name).unwrap();
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
            files.flip_bit(&name, at + needle.len() / 2, 3);
        }
    }
    assert_eq!(disk.reader().read(put(victim).block), Err(ReadError::Damaged));
    assert_eq!(disk.reader().read(put(victim).block), Err(ReadError::NotFound));
    let counters = disk.reader().counters();
    assert_eq!({ counters.damaged_count }, 1);
    // A restart does not bring it back from a table, and does not lose the others.
    disk.upkeep();
    drop(disk);
    let mut disk = open(&files, LIMITS);
    assert!(!disk.reader().contains(put(victim).block));
    for &number in &numbers[1..] {
        assert!(disk.reader().read(put(number).block).is_ok());
    }
    assert!(!store(&mut disk, &[victim])[0].unwrap().was_present);
    assert_eq!(disk.reader().read(put(victim).block).unwrap().content, needle);
}

#[test]
fn without_tables_the_volumes_are_read() {
    use node::files::Files;
    let files = new_files();
    let mut disk = open(&files, LIMITS);
    let numbers: Vec<u64> = (0..60).collect();
    assert!(store(&mut disk, &numbers).iter().all(Result::is_ok));
    drop(disk);
    let disk = open(&files, LIMITS);
    assert!(disk.recovery().volume_count > 5);
    assert_eq!(disk.recovery().scanned_count, 1, "only the last one");
    drop(disk);
    let tables =
        files.names().into_iter().filter(|name| name.extension().is_some_and(|e| e == "table"));
    for (at, table) in tables.enumerate() {
        if at % 2 == 0 {
            files.remove(&table).unwrap();
        } else {
            files.flip_bit(&table, 20, 1);
        }
    }
    let disk = open(&files, LIMITS);
    assert_eq!(disk.recovery().scanned_count, disk.recovery().volume_count);
    assert_eq!(disk.recovery().damaged_count, 0);
    for number in numbers {
        assert_eq!(disk.reader().read(put(number).block).unwrap().content, content(number));
    }
}
