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
use storage::disk::{Disk, DiskLimits, Put, PutError, ReadError, Stored};
use storage::logic::Ticket;

use crate::files::{Fails, FakeFiles};

const LIMITS: DiskLimits = DiskLimits {
    inline_bytes: 1000,
    prepared_bytes: 700,
    file_threads: 1,
    volume_bytes: 6000,
    volume_records: 6,
    volume_files: 2,
};

fn folder() -> PathBuf {
    PathBuf::from("/data")
}

fn open(files: &FakeFiles, limits: DiskLimits) -> Disk {
    Disk::open(Arc::new(files.clone()), &folder(), limits).unwrap()
}

fn new_files() -> FakeFiles {
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
    Put { ticket: Ticket(number), block, kind, stamp: number, content }
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

#[derive(Clone, Debug)]
enum Step {
    Put(Vec<u64>),
    Restart,
    PowerLoss {
        seed: u64,
    },
    /// The process is killed: what it wrote is there, synced or not.
    PutUntilKilled {
        numbers: Vec<u64>,
        operations: u64,
    },
    PutUntilPowerLoss {
        numbers: Vec<u64>,
        operations: u64,
        seed: u64,
    },
    PutWithRoom {
        numbers: Vec<u64>,
        room: usize,
    },
    Rot {
        file: usize,
        offset: usize,
        bit: u8,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let numbers = || prop::collection::vec(0u64..60, 1..8);
    prop_oneof![
        6 => numbers().prop_map(Step::Put),
        1 => Just(Step::Restart),
        2 => any::<u64>().prop_map(|seed| Step::PowerLoss { seed }),
        4 => (numbers(), 0u64..40, any::<u64>()).prop_map(|(numbers, operations, seed)| {
            Step::PutUntilPowerLoss { numbers, operations, seed }
        }),
        2 => (numbers(), 0u64..40).prop_map(|(numbers, operations)| {
            Step::PutUntilKilled { numbers, operations }
        }),
        1 => (numbers(), 0usize..6000).prop_map(|(numbers, room)| {
            Step::PutWithRoom { numbers, room }
        }),
        1 => (any::<usize>(), any::<usize>(), 0u8..8).prop_map(|(file, offset, bit)| {
            Step::Rot { file, offset, bit }
        }),
    ]
}

/// A second copy in the same batch is as sure as the first.
fn was_there_or_new(acknowledged: &BTreeMap<u64, bool>, number: u64) -> bool {
    acknowledged.get(&number).copied().unwrap_or(false)
}

/// What must hold: acknowledged blocks are there, whatever is there is right.
struct Model {
    files: FakeFiles,
    disk: Disk,
    /// Whether the block was acknowledged and nothing rotted since.
    acknowledged: BTreeMap<u64, bool>,
    has_rotted: bool,
}

impl Model {
    fn new() -> Model {
        let files = new_files();
        let disk = open(&files, LIMITS);
        Model { files, disk, acknowledged: BTreeMap::new(), has_rotted: false }
    }

    fn put(&mut self, numbers: &[u64]) -> Vec<Result<Stored, PutError>> {
        let reader = self.disk.reader();
        let before: Vec<bool> = numbers.iter().map(|&n| reader.contains(put(n).block)).collect();
        let counters = reader.counters();
        let results = store(&mut self.disk, numbers);
        let mut stored = 0;
        for ((&number, result), was_there) in numbers.iter().zip(&results).zip(before) {
            match result {
                Ok(it) => {
                    assert!(it.was_present || !was_there);
                    stored += u64::from(!it.was_present && !was_there);
                    // A block that was present may have rotted where nothing reads it yet.
                    let is_sure = !it.was_present || was_there_or_new(&self.acknowledged, number);
                    self.acknowledged.insert(number, is_sure);
                }
                Err(PutError::DiskFull | PutError::Failed) => assert!(!was_there),
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(reader.counters().put_count - counters.put_count, stored);
        results
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
            Step::Put(numbers) => {
                let results = self.put(numbers);
                assert!(results.iter().all(Result::is_ok), "{results:?}");
            }
            Step::Restart => self.restart(),
            Step::PowerLoss { seed } => self.lose_power(*seed),
            Step::PutUntilPowerLoss { numbers, operations, seed } => {
                self.files.fail_after(*operations);
                self.put(numbers);
                self.lose_power(*seed);
            }
            Step::PutUntilKilled { numbers, operations } => {
                self.files.fail_after(*operations);
                self.put(numbers);
                self.files.stop_failing();
                self.restart();
            }
            Step::PutWithRoom { numbers, room } => {
                self.files.limit_room(Some(*room));
                self.put(numbers);
                self.check();
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
                    // Which blocks it hits is the disk's matter: none is promised from here on.
                    self.acknowledged.values_mut().for_each(|is_sure| *is_sure = false);
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
            let is_there = reader.contains(put.block);
            assert_eq!(reader.presence(&[put.block]), [u8::from(is_there)]);
            let is_sure = self.acknowledged.get(&number) == Some(&true);
            match reader.read(put.block) {
                Ok(block) => {
                    assert!(is_there);
                    assert_eq!(block.content, put.content);
                    assert_eq!(block.kind, put.kind);
                    if !self.has_rotted {
                        // Whoever was told that it is there may rely on it.
                        self.acknowledged.insert(number, true);
                    }
                    present += 1;
                    bytes += put.content.len() as u64;
                }
                Err(ReadError::NotFound) => assert!(!is_there && !is_sure, "{number} is lost"),
                Err(ReadError::Damaged) => {
                    assert!(is_there && !is_sure, "{number} is damaged");
                    assert!(!reader.contains(put.block), "a damaged block can be stored again");
                }
                Err(ReadError::Failed | ReadError::Range) => panic!("nothing fails here"),
            }
        }
        // Equal contents under equal kinds are one block.
        let distinct: std::collections::BTreeSet<BlockId> = (0..60)
            .map(|number| put(number).block)
            .filter(|&block| reader.contains(block))
            .collect();
        let counters = reader.counters();
        let (block_count, block_bytes) = (counters.block_count, counters.block_bytes);
        assert_eq!(block_count, distinct.len() as u64);
        assert!(block_count <= present && block_bytes <= bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn what_was_acknowledged_survives_and_nothing_wrong_is_served(
        steps in prop::collection::vec(step(), 1..25)
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
    let large = Put { ticket: Ticket(0), block, kind: BlockKind::Content, stamp: 0, content };
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
