//! The log under crashes and damage.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use proto::ids::LogIndex;

use super::memory_files::MemoryFiles;
use crate::log::{Log, LogError, LogShape};

const SHAPE: LogShape = LogShape { seed: 77, file_bytes: 512 };

fn folder() -> &'static Path {
    Path::new("/log")
}

fn open(files: &MemoryFiles) -> Result<(Log, Vec<Vec<u8>>), LogError> {
    let mut records = Vec::new();
    let log = Log::open(Arc::new(files.clone()), folder(), SHAPE, &mut |record| {
        records.push(record.to_vec());
        Ok(LogIndex(records.len() as u64))
    })?;
    Ok((log, records))
}

fn created() -> MemoryFiles {
    let files = MemoryFiles::default();
    Log::create(&files, folder(), SHAPE).unwrap();
    files
}

fn record(number: usize) -> Vec<u8> {
    vec![number as u8 + 1; 10 + number * 37 % 150]
}

/// A disk with so many records, and them.
fn filled(count: usize) -> (MemoryFiles, Vec<Vec<u8>>) {
    let files = created();
    let (mut log, _) = open(&files).unwrap();
    let records: Vec<Vec<u8>> = (0..count).map(record).collect();
    for (number, record) in records.iter().enumerate() {
        log.append(record, LogIndex(number as u64 + 1)).unwrap();
    }
    (files, records)
}

#[test]
fn what_was_appended_survives_a_crash_and_costs_one_sync() {
    let files = created();
    let (mut log, _) = open(&files).unwrap();
    let before = files.sync_count();
    log.append(b"one", LogIndex(1)).unwrap();
    log.append(b"two", LogIndex(2)).unwrap();
    assert_eq!(files.sync_count(), before + 2);
    files.crash();
    assert_eq!(open(&files).unwrap().1, vec![b"one".to_vec(), b"two".to_vec()]);
}

#[test]
fn a_log_goes_on_over_many_files_and_restarts() {
    let (files, mut records) = filled(20);
    for number in 20..60 {
        files.crash();
        let (mut log, found) = open(&files).unwrap();
        assert_eq!(found, records);
        if log.wants_preparing() {
            log.prepare().unwrap();
            assert!(!log.wants_preparing());
        }
        log.append(&record(number), LogIndex(number as u64)).unwrap();
        records.push(record(number));
    }
    assert!(open(&files).unwrap().0.file_count() > 5);
}

/// Found by the simulator: a record that a killed process wrote and did not sync is read back from
/// the system's memory, others build on it, and then the power fails.
#[test]
fn what_was_read_at_the_start_is_durable() {
    for count in 1..12 {
        let (files, mut records) = filled(count);
        let (mut log, _) = open(&files).unwrap();
        log.prepare().unwrap();
        files.fail();
        log.append(&record(count), LogIndex(1)).unwrap_err();
        files.mend();
        records.push(record(count));
        let (mut log, found) = open(&files).unwrap();
        assert_eq!(found, records);
        // Large enough for the next file.
        log.append(&[9; 450], LogIndex(2)).unwrap();
        records.push(vec![9; 450]);
        files.crash();
        assert_eq!(open(&files).unwrap().1, records);
    }
}

#[test]
fn compaction_uses_old_files_again_and_old_records_never_come_back() {
    let files = created();
    let (mut log, _) = open(&files).unwrap();
    for number in 0..200 {
        log.append(&record(number), LogIndex(number as u64 + 1)).unwrap();
        log.compact(LogIndex(number as u64)).unwrap();
        assert!(files.paths().len() <= 5, "{:?}", files.paths());
        files.crash();
        let (reopened, found) = open(&files).unwrap();
        log = reopened;
        let last = found.len();
        assert!(last >= 1);
        assert_eq!(found, (number + 1 - last..=number).map(record).collect::<Vec<_>>());
        // Reopening numbers the entries anew in this test, so it begins with a fresh log.
        log = replaced(&files, log, number);
    }
}

/// The same log, knowing the true indexes of what it holds.
fn replaced(files: &MemoryFiles, log: Log, last: usize) -> Log {
    drop(log);
    let count = open(files).unwrap().1.len();
    let mut next = last + 1 - count;
    Log::open(Arc::new(files.clone()), folder(), SHAPE, &mut |_| {
        next += 1;
        Ok(LogIndex(next as u64))
    })
    .unwrap()
}

#[test]
fn a_record_larger_than_a_file_gets_a_longer_one() {
    let files = created();
    let (mut log, _) = open(&files).unwrap();
    let large = vec![7; 5_000];
    log.append(b"small", LogIndex(1)).unwrap();
    log.append(&large, LogIndex(2)).unwrap();
    log.append(b"after", LogIndex(3)).unwrap();
    log.compact(LogIndex(2)).unwrap();
    assert_eq!(open(&files).unwrap().1, vec![b"after".to_vec()]);
    assert!(log.file_count() == 1);
}

#[test]
fn the_last_record_is_kept_where_the_next_file_has_no_room_for_its_first() {
    let files = created();
    let (mut log, _) = open(&files).unwrap();
    log.append(b"a vote", LogIndex(0)).unwrap();
    log.prepare().unwrap();
    files.leave_free(Some(0));
    let large = vec![7; 5_000];
    let refused = log.append(&large, LogIndex(1));
    assert!(matches!(refused, Err(LogError::NoRoom { .. })), "{refused:?}");
    log.compact(LogIndex(9)).unwrap();
    files.crash();
    let (mut log, found) = open(&files).unwrap();
    assert_eq!(found, vec![b"a vote".to_vec()]);
    files.leave_free(None);
    log.append(&large, LogIndex(1)).unwrap();
    log.compact(LogIndex(1)).unwrap();
    files.crash();
    assert!(open(&files).unwrap().1 == [large], "what came after it takes its place");
}

#[test]
fn a_missing_file_is_named() {
    let (files, _) = filled(20);
    let paths = files.paths();
    node::files::Files::remove(&files, &paths[1]).unwrap();
    let error = open(&files).err().unwrap();
    assert!(matches!(error, LogError::Damaged { path, .. } if path == paths[1]));
}

#[test]
fn a_log_is_not_used_after_a_failed_sync() {
    let (files, _) = filled(3);
    let (mut log, _) = open(&files).unwrap();
    files.fail();
    assert!(log.append(b"lost", LogIndex(9)).is_err());
    let again = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        log.append(b"lost", LogIndex(9)).is_ok()
    }));
    assert!(again.is_err());
}

proptest! {
    /// One flipped bit anywhere: all records, or all but the last (which looks torn), or a refusal.
    #[test]
    fn a_flipped_bit_never_takes_a_record_silently(
        count in 1_usize..25, at in any::<prop::sample::Index>(), bit in 0_u8..8,
    ) {
        let (files, records) = filled(count);
        let paths = files.paths();
        let total = paths.len() * 512;
        let at = at.index(total);
        files.change(&paths[at / 512], |content| content[at % 512] ^= 1 << bit);
        match open(&files) {
            Ok((_, found)) => {
                prop_assert!(found == records || found == records[..count - 1]);
            }
            Err(LogError::Damaged { path, .. }) => prop_assert!(paths.contains(&path)),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    /// A file cut anywhere is refused by name.
    #[test]
    fn a_cut_file_is_refused(count in 1_usize..25, at in any::<prop::sample::Index>()) {
        let (files, _) = filled(count);
        let paths = files.paths();
        let at = at.index(paths.len() * 512);
        let path = &paths[at / 512];
        files.change(path, |content| content.truncate(at % 512));
        let error = open(&files).err().expect("a cut file is damage");
        let is_named = matches!(error, LogError::Damaged { path: named, .. } if named == *path);
        prop_assert!(is_named);
    }

    /// The last record written only in part, at any byte, and other bytes after it: it is gone, all
    /// others are there, and the log goes on.
    #[test]
    fn a_torn_last_record_is_dropped(
        count in 1_usize..25, kept in any::<prop::sample::Index>(), noise in any::<u8>(),
    ) {
        let (files, mut records) = filled(count - 1);
        let before = files.copy();
        let (mut log, _) = open(&files).unwrap();
        log.append(&record(count), LogIndex(count as u64)).unwrap();
        // Where the two disks differ is what the last append wrote.
        let last = files.paths().pop().unwrap();
        if before.paths().contains(&last) {
            let old = node::files::read_all(&before, &last).unwrap();
            files.change(&last, |content| {
                let changed: Vec<usize> =
                    (0..old.len()).filter(|&at| old[at] != content[at]).collect();
                let kept = kept.index(changed.len());
                for &at in &changed[kept..] {
                    content[at] = if at % 3 == 0 { noise } else { old[at] };
                }
                // Chance may have written the same byte; then the record would be whole.
                content[changed[kept]] = !content[changed[kept]] & 1 | old[changed[kept]] & 0xfe;
            });
        }
        let (mut log, found) = open(&files).unwrap();
        if found != records {
            records.push(record(count));
        }
        prop_assert_eq!(&found, &records);
        log.append(b"next", LogIndex(99)).unwrap();
        records.push(b"next".to_vec());
        prop_assert_eq!(open(&files).unwrap().1, records);
    }
}
