//! Room that is given back: compaction, deleting on a full disk, the thread that does it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fastrand::Rng;
use node::files::{Files, RealFiles};
use proto::digest::Digest;
use proto::ids::BlockId;
use proto::status::BlockKind;
use storage::disk::{Disk, DiskLimits, Put, PutError, ReadError, Touch};
use storage::disk_thread::{DiskDone, DiskThread, Job};
use storage::logic::Ticket;

use crate::disk::{LIMITS, new_files, open};

/// A block of its own kind of content.
fn block_of(seed: u64, length: usize) -> Put {
    let mut content = vec![0; length];
    Rng::with_seed(1000 + seed).fill(&mut content);
    let kind = BlockKind::Content;
    let block = Digest::of(kind, &content).block_id();
    Put { ticket: Ticket(seed), block, kind, stamp: seed, replica_count: 0, content }
}

fn store_all(disk: &mut Disk, puts: &[Put]) {
    for put in puts {
        assert!(disk.store(vec![put.clone()])[0].result.is_ok());
    }
}

fn delete_all(disk: &mut Disk, puts: &[Put]) {
    let blocks: Vec<BlockId> = puts.iter().map(|put| put.block).collect();
    assert_eq!(disk.delete(&blocks), Ok(blocks.len() as u64));
}

const LONG: DiskLimits = DiskLimits {
    volume_bytes: 20_000,
    volume_records: 1000,
    volume_files: 1000,
    step_bytes: 1500,
    ..LIMITS
};

/// Deleted and stored again in one volume, then moved by a write that is torn.
#[test]
fn a_delete_that_is_moved_does_not_forget_what_was_stored_behind_it() {
    // From where the move is written on.
    for operations in 16..32 {
        for seed in 0..60 {
            let files = new_files();
            let mut disk = open(&files, LONG);
            let victim = block_of(0, 100);
            let kept = [block_of(1, 900), block_of(2, 900)];
            let dead: Vec<Put> = (10..20).map(|seed| block_of(seed, 900)).collect();
            store_all(&mut disk, std::slice::from_ref(&victim));
            store_all(&mut disk, &kept);
            delete_all(&mut disk, std::slice::from_ref(&victim));
            store_all(&mut disk, &dead);
            store_all(&mut disk, std::slice::from_ref(&victim));
            delete_all(&mut disk, &dead);
            files.fail_after(operations);
            disk.upkeep();
            files.lose_power(&mut Rng::with_seed(seed));
            for _ in 0..2 {
                let mut disk = open(&files, LONG);
                for put in kept.iter().chain([&victim]) {
                    assert!(disk.reader().read(put.block).is_ok(), "{operations} {seed}");
                }
                while disk.upkeep() {}
            }
        }
    }
}

/// Moved, but the cut of the old volume was lost with the power; then the new volume goes first.
#[test]
fn a_block_that_a_crash_left_twice_does_not_come_back_when_it_is_deleted() {
    for operations in 0..32 {
        for seed in 0..10 {
            let files = new_files();
            let mut disk = open(&files, LONG);
            let victim = block_of(0, 900);
            // So many that they are not moved with the victim.
            let kept = [block_of(1, 900), block_of(2, 900)];
            let dead: Vec<Put> = (10..27).map(|seed| block_of(seed, 900)).collect();
            store_all(&mut disk, &kept);
            store_all(&mut disk, &dead);
            store_all(&mut disk, std::slice::from_ref(&victim));
            // The volume is full, so that the deletes go to the next one.
            delete_all(&mut disk, &dead);
            files.fail_after(operations);
            disk.upkeep();
            files.lose_power(&mut Rng::with_seed(seed));
            let mut disk = open(&files, LONG);
            delete_all(&mut disk, std::slice::from_ref(&victim));
            let filling: Vec<Put> = (30..60).map(|seed| block_of(seed, 900)).collect();
            store_all(&mut disk, &filling);
            delete_all(&mut disk, &filling);
            disk.upkeep();
            drop(disk);
            for _ in 0..2 {
                let mut disk = open(&files, LONG);
                assert!(!disk.reader().contains(victim.block), "{operations} {seed}");
                for put in &kept {
                    assert!(disk.reader().read(put.block).is_ok());
                }
                while disk.upkeep() {}
            }
        }
    }
}

#[test]
fn a_full_disk_can_be_deleted_from_compacted_and_filled_again() {
    let limits = DiskLimits { reserve_bytes: 4096, ..LONG };
    let files = new_files();
    let mut disk = open(&files, limits);
    files.limit_room(Some(100_000));
    let mut rng = Rng::with_seed(7);
    let mut held: Vec<Put> = Vec::new();
    let mut next = 0;
    for round in 0..40 {
        let before = held.len();
        loop {
            let put = block_of(next, rng.usize(1..1000));
            next += 1;
            match disk.store(vec![put.clone()])[0].result {
                Ok(_) => held.push(put),
                Err(error) => {
                    assert_eq!(error, PutError::DiskFull);
                    break;
                }
            }
        }
        assert!(held.len() > before, "round {round}: what was deleted made room");
        // Few of each volume: none is worth compacting while there is room.
        rng.shuffle(&mut held);
        let kept = held.len() * 6 / 7;
        delete_all(&mut disk, &held.split_off(kept));
        let mut steps = 0;
        while disk.upkeep() {
            steps += 1;
            assert!(steps < 10_000, "it comes to an end");
        }
        if round % 10 == 0 {
            disk = open(&files, limits);
        }
        for put in &held {
            assert_eq!(disk.reader().read(put.block).unwrap().content, put.content);
        }
    }
    let counters = disk.reader().counters();
    assert_eq!({ counters.block_count }, held.len() as u64);
}

#[test]
fn removed_volumes_are_not_missing_and_missing_ones_are() {
    let files = new_files();
    let mut disk = open(&files, LIMITS);
    let kept = block_of(0, 10);
    store_all(&mut disk, std::slice::from_ref(&kept));
    for round in 0..100 {
        let puts: Vec<Put> = (0..6).map(|at| block_of(10 + round * 6 + at, 900)).collect();
        store_all(&mut disk, &puts);
        delete_all(&mut disk, &puts);
        while disk.upkeep() {}
    }
    drop(disk);
    let names = files.names();
    let count =
        |end: &str| names.iter().filter(|name| name.to_string_lossy().ends_with(end)).count();
    assert!(count(".volume") < 80, "{} of hundreds", count(".volume"));
    assert_eq!(count("removed"), 1);
    let mut disk = open(&files, LIMITS);
    assert_eq!(disk.recovery().damaged_count, 0);
    assert!(disk.reader().contains(kept.block));
    let puts: Vec<Put> = (1000..1020).map(|seed| block_of(seed, 900)).collect();
    store_all(&mut disk, &puts);
    drop(disk);
    let sealed: Vec<PathBuf> =
        files.names().into_iter().filter(|name| is_sealed(&files, name)).collect();
    for name in sealed {
        let files = files.copy();
        files.remove(&name).unwrap();
        assert_eq!(open(&files, LIMITS).recovery().damaged_count, 1, "{}", name.display());
    }
    // An empty one that has a table lost what it had.
    let tables =
        files.names().into_iter().find(|name| name.extension().is_some_and(|e| e == "table"));
    let victim = tables.unwrap().with_extension("volume");
    files.open(&victim, node::files::Open::Existing).unwrap().set_len(0).unwrap();
    assert_eq!(open(&files, LIMITS).recovery().damaged_count, 1);
}

/// Has a table, so that it is not the last one.
fn is_sealed(files: &crate::files::FakeFiles, name: &Path) -> bool {
    let table = name.with_extension("table");
    name.extension().is_some_and(|e| e == "volume") && files.names().contains(&table)
}

/// Every 13th bit of every file: nothing wrong is served, and a deleted block is back only where
/// damage was found.
#[test]
fn one_flipped_bit_among_touches_and_deletes_is_found() {
    let limits = DiskLimits { volume_records: 13, ..LONG };
    let files = new_files();
    let mut disk = open(&files, limits);
    let deleted: Vec<Put> = (0..8).map(|seed| block_of(seed, 50)).collect();
    let kept: Vec<Put> = (8..12).map(|seed| block_of(seed, 50)).collect();
    for (deleted, kept) in deleted.chunks(2).zip(&kept) {
        store_all(&mut disk, deleted);
        store_all(&mut disk, std::slice::from_ref(kept));
        let touch = Touch { block: kept.block, stamp: 100, replica_count: 3 };
        assert_eq!(disk.touch(vec![touch]), [true]);
        delete_all(&mut disk, deleted);
    }
    // What was synced before the last write is known to have been.
    store_all(&mut disk, &[block_of(20, 50), block_of(21, 50)]);
    drop(disk);
    let mut back = 0;
    for name in files.names() {
        for offset in (0..files.length(&name)).step_by(13) {
            let files = files.copy();
            files.flip_bit(&name, offset, (offset % 8) as u8);
            let disk = open(&files, limits);
            let is_found = disk.recovery().damaged_count > 0;
            for put in &deleted {
                match disk.reader().read(put.block) {
                    Ok(block) => {
                        assert_eq!(block.content, put.content);
                        assert!(is_found, "{} at {offset}", name.display());
                        back += 1;
                    }
                    Err(error) => assert_eq!(error, ReadError::NotFound),
                }
            }
            let missing = kept.iter().filter(|put| disk.reader().read(put.block).is_err()).count();
            assert!(missing <= 1, "{} at {offset}", name.display());
            let low = kept.iter().filter_map(|put| disk.reader().held(put.block));
            let low = low.filter(|held| held.stamp < 100).count();
            assert!(low == 0 || is_found, "{} at {offset}", name.display());
        }
    }
    assert!(back > 0, "the last volume has deletes");
}

/// Bytes that a folder takes of the disk.
fn used_bytes(folder: &Path) -> u64 {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            bytes += used_bytes(&entry.path());
        }
        bytes += metadata.blocks() * 512;
    }
    bytes
}

const REAL: DiskLimits = DiskLimits {
    inline_bytes: 64 << 10,
    prepared_bytes: 64 << 10,
    file_threads: 2,
    volume_bytes: 1 << 20,
    volume_records: 10_000,
    volume_files: 100,
    reserve_bytes: 64 << 10,
    step_bytes: 16 << 10,
};

/// Small blocks and one with a file of its own for every eighth.
fn real_blocks(numbers: std::ops::Range<u64>) -> Vec<Put> {
    let length = |seed: u64| if seed.is_multiple_of(8) { 100_000 } else { 4000 };
    numbers.map(|seed| block_of(seed, length(seed))).collect()
}

#[test]
fn deleted_blocks_give_the_disk_their_room_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut disk = Disk::open(Arc::new(RealFiles), folder.path(), REAL).unwrap();
    let puts = real_blocks(0..800);
    assert!(disk.store(puts.clone()).iter().all(|done| done.result.is_ok()));
    let full = used_bytes(folder.path());
    assert!(full > 12_000_000, "{full}");
    let (kept, dead): (Vec<Put>, Vec<Put>) = puts
        .into_iter()
        .enumerate()
        .map(|(at, put)| (at % 10 == 0, put))
        .fold((Vec::new(), Vec::new()), |(mut kept, mut dead), (is_kept, put)| {
            if is_kept {
                kept.push(put)
            } else {
                dead.push(put)
            }
            (kept, dead)
        });
    delete_all(&mut disk, &dead);
    while disk.upkeep() {}
    let left = used_bytes(folder.path());
    let live: usize = kept.iter().map(|put| put.content.len()).sum();
    assert!(left < 2 * live as u64 + (1 << 20), "{left} of {full} for {live}");
    drop(disk);
    let disk = Disk::open(Arc::new(RealFiles), folder.path(), REAL).unwrap();
    assert_eq!(disk.recovery().damaged_count, 0);
    for put in &kept {
        assert_eq!(disk.reader().read(put.block).unwrap().content, put.content);
    }
}

#[test]
fn what_is_moved_can_be_read_all_the_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut disk = Disk::open(Arc::new(RealFiles), folder.path(), REAL).unwrap();
    let kept = real_blocks(0..40);
    store_all(&mut disk, &kept);
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (reader, kept, is_done) = (disk.reader(), &kept, &is_done);
            scope.spawn(move || {
                let mut rng = Rng::with_seed(thread);
                while !is_done.load(Ordering::Relaxed) {
                    let put = &kept[rng.usize(0..kept.len())];
                    assert_eq!(reader.read(put.block).unwrap().content, put.content);
                }
            });
        }
        for round in 1..30 {
            let puts = real_blocks(round * 1000..round * 1000 + 60);
            assert!(disk.store(puts.clone()).iter().all(|done| done.result.is_ok()));
            delete_all(&mut disk, &puts);
            while disk.upkeep() {}
        }
        is_done.store(true, Ordering::Relaxed);
    });
    assert_eq!({ disk.reader().counters().damaged_count }, 0);
}

/// Waits for outcomes of the thread, woken by it.
fn outcomes(
    thread: &DiskThread,
    woken: &std::sync::mpsc::Receiver<()>,
    count: usize,
) -> Vec<DiskDone> {
    let mut all = Vec::new();
    while all.len() < count {
        woken.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
        while let Some(done) = thread.take() {
            all.push(done);
        }
    }
    all
}

#[test]
fn the_thread_keeps_the_order_of_what_is_asked_of_one_block() {
    let files = new_files();
    let disk = open(&files, LIMITS);
    let reader = disk.reader();
    let (wake, woken) = std::sync::mpsc::channel();
    let thread = DiskThread::start(disk, move || {
        let _ = wake.send(());
    });
    let thread = thread.unwrap();
    let put = block_of(1, 50);
    let block = put.block;
    let touch = |ticket, stamp| {
        let items = vec![Touch { block, stamp, replica_count: 0 }];
        Job::Touch { ticket: Ticket(ticket), items }
    };
    let delete = |ticket| Job::Delete { ticket: Ticket(ticket), blocks: vec![block] };
    for job in [
        touch(2, 7),
        Job::Put(put.clone()),
        touch(3, 9),
        delete(4),
        touch(5, 50),
        delete(6),
        Job::Put(put),
        touch(7, 11),
    ] {
        thread.submit(job);
    }
    let all = outcomes(&thread, &woken, 8);
    let touched: Vec<(u64, bool)> = all
        .iter()
        .filter_map(|done| match done {
            DiskDone::Touched { ticket, present } => Some((ticket.0, present[0])),
            _ => None,
        })
        .collect();
    assert_eq!(touched, [(2, false), (3, true), (5, false), (7, true)]);
    let deleted: Vec<_> = all
        .iter()
        .filter_map(|done| match done {
            DiskDone::Deleted { ticket, result } => Some((ticket.0, *result)),
            _ => None,
        })
        .collect();
    assert_eq!(deleted, [(4, Ok(1)), (6, Ok(0))]);
    assert_eq!(reader.held(block).unwrap().stamp, 11);
}

#[test]
fn the_thread_compacts_and_forgets_damaged_blocks_by_itself() {
    let files = new_files();
    let disk = open(&files, LIMITS);
    let reader = disk.reader();
    let (wake, woken) = std::sync::mpsc::channel();
    let thread = DiskThread::start(disk, move || {
        let _ = wake.send(());
    });
    let thread = thread.unwrap();
    let puts: Vec<Put> = (0..40).map(|seed| block_of(seed, 900)).collect();
    for put in &puts {
        thread.submit(Job::Put(put.clone()));
    }
    outcomes(&thread, &woken, 40);
    let full = files.used();
    let blocks: Vec<BlockId> = puts.iter().skip(1).map(|put| put.block).collect();
    thread.submit(Job::Delete { ticket: Ticket(99), blocks });
    outcomes(&thread, &woken, 1);
    for _ in 0..3000 {
        if files.used() < full / 3 {
            break;
        }
        // Nothing wakes this thread for what happens in between.
        let _ = woken.recv_timeout(std::time::Duration::from_millis(10));
    }
    assert!(files.used() < full / 3, "{} of {full}", files.used());
    let needle = &puts[0].content;
    for name in files.names() {
        let bytes = node::files::read_all(&files, &name).unwrap();
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
            files.flip_bit(&name, at, 3);
        }
    }
    assert_eq!(reader.read(puts[0].block), Err(ReadError::Damaged));
    drop(thread);
    // Nothing was asked of the thread since, and a start knows it all the same.
    assert!(!open(&files, LIMITS).reader().contains(puts[0].block));
}
