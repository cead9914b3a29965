//! What a record of the log says: one or more batches, as bytes.
//!
//! Responsible for the encoding and for putting the batches of all records together again. Not for
//! where a record lies or whether it is whole: see `log`.

use bytemuck::{Pod, Zeroable};
use raft::eraftpb::{Entry, EntryType};

use crate::job::{Batch, HardState};

const RESET: u8 = 1;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, packed)]
struct BatchHead {
    flags: u8,
    reset_index: u64,
    reset_term: u64,
    term: u64,
    vote: u64,
    commit: u64,
    entry_count: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, packed)]
struct EntryHead {
    index: u64,
    term: u64,
    kind: u8,
    length: u32,
}

/// Kinds of entries; numbers on disk.
const NORMAL: u8 = 0;
const CHANGE: u8 = 1;
const JOINT_CHANGE: u8 = 2;

fn kind_number(kind: EntryType) -> u8 {
    match kind {
        EntryType::EntryNormal => NORMAL,
        EntryType::EntryConfChange => CHANGE,
        EntryType::EntryConfChangeV2 => JOINT_CHANGE,
    }
}

/// Appends a batch to a record's content and answers the highest entry in it, 0 for none.
///
/// # Panics
/// If an entry has 4 GiB of content; the member refuses such commands.
pub(crate) fn encode(batch: &Batch, record: &mut Vec<u8>) -> u64 {
    let (reset_index, reset_term) = batch.reset.unwrap_or_default();
    let head = BatchHead {
        flags: if batch.reset.is_some() { RESET } else { 0 },
        reset_index,
        reset_term,
        term: batch.hard.term,
        vote: batch.hard.vote,
        commit: batch.hard.commit,
        entry_count: u32::try_from(batch.entries.len()).expect("fewer than 2^32 entries"),
    };
    record.extend_from_slice(bytemuck::bytes_of(&head));
    for entry in &batch.entries {
        let head = EntryHead {
            index: entry.index,
            term: entry.term,
            kind: kind_number(entry.get_entry_type()),
            length: u32::try_from(entry.data.len()).expect("an entry below 4 GiB"),
        };
        record.extend_from_slice(bytemuck::bytes_of(&head));
        record.extend_from_slice(&entry.data);
    }
    batch.entries.last().map_or(reset_index, |entry| entry.index)
}

/// The log as far as it was read: what all batches together say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replay {
    pub(crate) hard: HardState,
    /// The last reset, or (0, 0).
    pub(crate) base: (u64, u64),
    /// Consecutive entries.
    pub(crate) entries: Vec<Entry>,
}

fn take<T: Pod>(rest: &mut &[u8]) -> Result<T, String> {
    let (head, tail) = rest.split_at_checked(size_of::<T>()).ok_or("a record is too short")?;
    *rest = tail;
    Ok(bytemuck::pod_read_unaligned(head))
}

impl Replay {
    /// Adds a record and answers the highest entry in it, 0 for none.
    pub(crate) fn add(&mut self, mut record: &[u8]) -> Result<u64, String> {
        let rest = &mut record;
        let mut highest = 0;
        while !rest.is_empty() {
            let head: BatchHead = take(rest)?;
            self.hard = HardState { term: head.term, vote: head.vote, commit: head.commit };
            if head.flags & RESET != 0 {
                self.base = (head.reset_index, head.reset_term);
                self.entries.clear();
                highest = highest.max(head.reset_index);
            }
            for _ in 0..head.entry_count {
                let entry = take_entry(rest)?;
                highest = highest.max(entry.index);
                self.add_entry(entry)?;
            }
        }
        Ok(highest)
    }

    fn add_entry(&mut self, entry: Entry) -> Result<(), String> {
        if let Some(first) = self.entries.first().map(|first| first.index) {
            match entry.index.checked_sub(first).map(|at| at as usize) {
                Some(at) if at <= self.entries.len() => self.entries.truncate(at),
                Some(_) => {
                    return Err(format!("entry {} does not continue the log", entry.index));
                }
                // The oldest file left begins with entries that a later leader's replaced; the
                // file with those before them was needed no more and is gone.
                None => self.entries.clear(),
            }
        }
        self.entries.push(entry);
        Ok(())
    }
}

fn take_entry(rest: &mut &[u8]) -> Result<Entry, String> {
    let head: EntryHead = take(rest)?;
    let (data, tail) =
        rest.split_at_checked(head.length as usize).ok_or("an entry is longer than its record")?;
    *rest = tail;
    let mut entry = Entry::default();
    entry.set_entry_type(match head.kind {
        NORMAL => EntryType::EntryNormal,
        CHANGE => EntryType::EntryConfChange,
        JOINT_CHANGE => EntryType::EntryConfChangeV2,
        other => return Err(format!("an entry of unknown kind {other}")),
    });
    entry.index = head.index;
    entry.term = head.term;
    entry.data = data.to_vec().into();
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::BatchId;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: vec![index as u8; 5].into(), ..Entry::default() }
    }

    fn batch(reset: Option<(u64, u64)>, entries: Vec<Entry>) -> Batch {
        let hard = HardState { term: 7, vote: 3, commit: 9 };
        Batch { id: BatchId(1), reset, hard, entries }
    }

    fn add(replay: &mut Replay, batch: &Batch) -> Result<u64, String> {
        let mut record = Vec::new();
        let highest = encode(batch, &mut record);
        assert_eq!(replay.add(&record)?, highest);
        Ok(highest)
    }

    #[test]
    fn later_entries_replace_the_tail_and_a_reset_replaces_all() {
        let mut replay = Replay::default();
        add(&mut replay, &batch(None, vec![entry(4, 1), entry(5, 1), entry(6, 1)])).unwrap();
        add(&mut replay, &batch(None, vec![entry(5, 2)])).unwrap();
        assert_eq!(replay.entries, vec![entry(4, 1), entry(5, 2)]);
        assert_eq!(replay.hard, HardState { term: 7, vote: 3, commit: 9 });
        assert!(add(&mut replay.clone(), &batch(None, vec![entry(7, 2)])).is_err());
        let mut below = replay.clone();
        add(&mut below, &batch(None, vec![entry(3, 2)])).unwrap();
        assert_eq!(
            below.entries,
            vec![entry(3, 2)],
            "what came before it was removed with its file"
        );
        add(&mut replay, &batch(Some((20, 2)), vec![entry(21, 2)])).unwrap();
        assert_eq!((replay.base, replay.entries), ((20, 2), vec![entry(21, 2)]));
    }

    #[test]
    fn a_record_that_was_cut_is_refused() {
        let mut record = Vec::new();
        encode(&batch(None, vec![entry(4, 1), entry(5, 1)]), &mut record);
        for length in 1..record.len() {
            assert!(Replay::default().add(&record[..length]).is_err(), "{length}");
        }
    }
}
