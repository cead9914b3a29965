//! What a start does: fills the index from tables and volumes, and cuts what was never
//! acknowledged.
//!
//! Afterwards every block in the index is durable and every block that was ever acknowledged and
//! is not damaged is in it. Damage among good records is counted and passed over, never served.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use node::files::{File, Open, read_all, replace};
use proto::ids::BlockId;

use crate::index::{Entry, Place};
use crate::reader::{Shared, own_name};
use crate::removed::Removed;
use crate::space::Space;
use crate::table::{decode_table, encode_table};
use crate::volume::{Check, Extent, Record, What, scan};

/// What the start found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Volumes there are, without removed ones.
    pub volume_count: u64,
    /// Volumes that were read whole, for want of a table that fits.
    pub scanned_count: u64,
    /// Bytes behind the last good record that were cut: a write that was never acknowledged.
    pub cut_bytes: u64,
    /// Bad places among good records.
    pub damaged_count: u64,
}

/// The volume that is being written.
pub(crate) struct Tail {
    pub(crate) volume: u32,
    pub(crate) file: Arc<dyn File>,
    /// Where the next record goes.
    pub(crate) end: u64,
    /// Up to here the file is allocated.
    pub(crate) prepared: u64,
    pub(crate) records: Vec<Record>,
    /// Blocks with files in its folder that it has a record of.
    pub(crate) file_count: usize,
}

/// Writes the table of a sealed volume. Without it the volume is read at the next start.
pub(crate) fn write_table(shared: &Shared, volume: u32, volume_bytes: u64, records: &[Record]) {
    let table = encode_table(volume, volume_bytes, records);
    if let Err(error) = replace(&*shared.files, &shared.table_path(volume), &table) {
        tracing::warn!(%error, volume, "the table of a sealed volume cannot be written");
    }
}

/// The numbers of the volumes in order. Removes what replacing a table left behind.
pub(crate) fn list_volumes(shared: &Shared) -> io::Result<Vec<u32>> {
    let mut volumes = Vec::new();
    for name in shared.files.list(&shared.folder)? {
        let Some(text) = name.to_str() else { continue };
        if let Some(number) = text.strip_suffix(".volume") {
            let number = u32::from_str_radix(number, 16);
            let number = number.map_err(|_| {
                let path = shared.folder.join(&name);
                io::Error::new(ErrorKind::InvalidData, format!("{}: no volume", path.display()))
            })?;
            volumes.push(number);
        } else if text.ends_with(".new") {
            shared.files.remove(&shared.folder.join(&name))?;
        }
    }
    volumes.sort_unstable();
    Ok(volumes)
}

/// What a start learns, volume after volume.
#[derive(Default)]
pub(crate) struct Start {
    pub(crate) space: Space,
    pub(crate) recovery: Recovery,
    pub(crate) removed: Removed,
    /// Blocks with a file of their own in volumes that were scanned: whether the files are there
    /// is asked when all deletes are known.
    unproven: Vec<(BlockId, u32)>,
    /// Blocks that the last volume deletes, with the folder of the file that may still be there.
    deleted: Vec<(BlockId, u32)>,
}

impl Start {
    /// Nothing but which volumes were removed is known.
    pub(crate) fn new(removed: Removed) -> Start {
        Start { removed, ..Start::default() }
    }

    /// Reports volumes that are missing among these, which are in order.
    pub(crate) fn find_missing(&mut self, volumes: &[u32]) {
        let mut expected = 0;
        for &volume in volumes {
            if let Some(volume) = self.removed.first_missing(expected, volume) {
                self.recovery.damaged_count += 1;
                tracing::error!(volume, "a volume is missing");
                break;
            }
            expected = volume.saturating_add(1);
        }
        if self.removed.is_damaged() {
            self.recovery.damaged_count += 1;
            tracing::error!("the list of removed volumes is damaged; missing ones are not noticed");
        }
    }

    pub(crate) fn recover_sealed(&mut self, shared: &Shared, volume: u32) -> io::Result<()> {
        let file = shared.files.open(&shared.volume_path(volume), Open::Existing)?;
        let length = file.len()?;
        let table = read_all(&*shared.files, &shared.table_path(volume));
        if length == 0 {
            // A process that was killed leaves a length that was never synced.
            file.sync_data()?;
            if table.is_ok() {
                // Compaction removes the table first.
                self.recovery.damaged_count += 1;
                tracing::error!(volume, "a sealed volume lost all that it had");
            }
            self.removed.mark(volume);
            return Ok(());
        }
        self.recovery.volume_count += 1;
        self.space.begin(volume);
        let table = table.ok().and_then(|table| decode_table(&table, volume, length));
        if let Some(table) = table {
            shared.apply(volume, &table.records, &mut self.space);
            self.space.seal(volume, length);
            return Ok(());
        }
        file.sync_data()?;
        self.recovery.scanned_count += 1;
        let found = scan(&*file, volume, Extent::Sealed, Check::Contents)?;
        if found.damaged > 0 {
            tracing::error!(volume, damaged = found.damaged, "a sealed volume is damaged");
        }
        self.recovery.damaged_count += found.damaged;
        self.note_own(volume, &found.good);
        shared.apply(volume, &found.good, &mut self.space);
        self.space.seal(volume, length);
        write_table(shared, volume, length, &found.good);
        Ok(())
    }

    fn note_own(&mut self, volume: u32, records: &[Record]) {
        let own = records.iter().filter(|record| is_own(&record.what));
        self.unproven.extend(own.map(|record| (record.block, volume)));
    }

    pub(crate) fn recover_tail(&mut self, shared: &Shared, volume: u32) -> io::Result<Tail> {
        let file = shared.files.open(&shared.volume_path(volume), Open::Either)?;
        shared.files.sync_dir(&shared.folder)?;
        self.recovery.volume_count += 1;
        self.recovery.scanned_count += 1;
        let found = scan(&*file, volume, Extent::Tail, Check::Contents)?;
        if found.end < file.len()? {
            self.recovery.cut_bytes = written_bytes(&*file, found.end)?;
            file.set_len(found.end)?;
        }
        // A process that was killed leaves records that were written and never synced.
        file.sync_data()?;
        if found.damaged > 0 {
            tracing::error!(volume, damaged = found.damaged, "the last volume is damaged");
        }
        self.recovery.damaged_count += found.damaged;
        self.note_own(volume, &found.good);
        self.space.begin(volume);
        let mut index = shared.index.write().unwrap_or_else(PoisonError::into_inner);
        for record in &found.good {
            if let What::Delete { about } = record.what
                && let Some(Entry { volume, place: Place::OwnFile { folder }, .. }) =
                    index.get(record.block)
                && volume == about
            {
                self.deleted.push((record.block, folder));
            }
            index.apply(volume, record, &mut self.space);
        }
        drop(index);
        let is_here = |record: &&Record| match record.what {
            What::Block(entry) => entry.place == Place::OwnFile { folder: volume },
            What::Touch { .. } | What::Delete { .. } => false,
        };
        Ok(Tail {
            volume,
            file: Arc::from(file),
            end: found.end,
            prepared: found.end,
            file_count: found.good.iter().filter(is_here).count(),
            records: found.good,
        })
    }

    /// Looks after the files of large blocks, when all volumes are recovered.
    pub(crate) fn check_own_files(&mut self, shared: &Shared, tail: u32) -> io::Result<()> {
        for (block, volume) in std::mem::take(&mut self.unproven) {
            let Some(entry) = shared.get(block).filter(|entry| entry.volume == volume) else {
                continue;
            };
            if let Place::OwnFile { folder } = entry.place
                && !shared.has_own_file(block, folder, &entry)
            {
                tracing::error!(%block, volume, "the file of a block is missing or too short");
                self.recovery.damaged_count += 1;
                let mut index = shared.index.write().unwrap_or_else(PoisonError::into_inner);
                index.forget(block, &entry);
            }
        }
        // A delete is followed by the removal of the file, unless a crash comes between.
        for (block, folder) in std::mem::take(&mut self.deleted) {
            if !has_file_in(shared, block, folder) {
                remove_if_there(shared, &shared.own_path(folder, block))?;
            }
        }
        remove_unrecorded(shared, tail)
    }
}

fn is_own(what: &What) -> bool {
    matches!(what, What::Block(Entry { place: Place::OwnFile { .. }, .. }))
}

fn has_file_in(shared: &Shared, block: BlockId, folder: u32) -> bool {
    shared.get(block).is_some_and(|entry| entry.place == Place::OwnFile { folder })
}

fn remove_if_there(shared: &Shared, path: &Path) -> io::Result<()> {
    match shared.files.remove(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes the files in a volume's folder that no record refers to: of the last volume those that
/// were being written when the power failed, of a removed one those of which nobody knows.
pub(crate) fn remove_unrecorded(shared: &Shared, volume: u32) -> io::Result<()> {
    let folder = shared.own_files(volume);
    let names: BTreeSet<PathBuf> = match shared.files.list(&folder) {
        Ok(names) => names.into_iter().collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for name in names {
        let text = name.to_str().unwrap_or_default();
        let block = u128::from_str_radix(text, 16).ok().map(BlockId);
        let is_recorded = block.is_some_and(|block| {
            name == Path::new(&own_name(block)) && has_file_in(shared, block, volume)
        });
        if !is_recorded {
            shared.files.remove(&folder.join(name))?;
        }
    }
    Ok(())
}

/// Bytes behind `from` up to the last one that is not zero: without what was written ahead.
fn written_bytes(file: &dyn File, from: u64) -> io::Result<u64> {
    let mut window = vec![0; 1 << 20];
    let mut at = from;
    let mut end = from;
    loop {
        let read = file.read_at(&mut window, at)?;
        if let Some(last) = window[..read].iter().rposition(|&byte| byte != 0) {
            end = at + last as u64 + 1;
        }
        at += read as u64;
        if read < window.len() {
            return Ok(end - from);
        }
    }
}
