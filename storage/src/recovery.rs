//! What a start does: fills the index from tables and volumes, and cuts what was never
//! acknowledged.
//!
//! Afterwards every block in the index is durable and every block that was ever acknowledged and
//! is not damaged is in it. Damage among good records is counted and passed over, never served.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use node::files::{File, Open, read_all, replace};
use proto::ids::BlockId;

use crate::index::{Entry, Place, decode_table, encode_table};
use crate::reader::{Shared, own_name};
use crate::volume::{Extent, scan};

/// What the start found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Volumes there are.
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
    pub(crate) entries: Vec<(BlockId, Entry)>,
    /// Blocks with files of their own.
    pub(crate) file_count: usize,
}

/// Writes the table of a sealed volume. Without it the volume is read at the next start.
pub(crate) fn write_table(
    shared: &Shared,
    volume: u32,
    volume_bytes: u64,
    entries: &[(BlockId, Entry)],
) {
    let table = encode_table(volume, volume_bytes, entries);
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

pub(crate) fn recover_sealed(
    shared: &Shared,
    volume: u32,
    recovery: &mut Recovery,
) -> io::Result<()> {
    let file = shared.files.open(&shared.volume_path(volume), Open::Existing)?;
    let length = file.len()?;
    let table = read_all(&*shared.files, &shared.table_path(volume)).ok();
    if let Some(entries) = table.and_then(|table| decode_table(&table, volume, length)) {
        shared.insert(&entries);
        return Ok(());
    }
    recovery.scanned_count += 1;
    let mut found = scan(&*file, volume, Extent::Sealed)?;
    found.good.retain(|(block, entry)| {
        let is_there = entry.place != Place::OwnFile || shared.has_own_file(*block, entry);
        found.damaged += u64::from(!is_there);
        is_there
    });
    if found.damaged > 0 {
        tracing::error!(volume, damaged = found.damaged, "a sealed volume is damaged");
    }
    recovery.damaged_count += found.damaged;
    shared.insert(&found.good);
    write_table(shared, volume, length, &found.good);
    Ok(())
}

pub(crate) fn recover_tail(
    shared: &Shared,
    volume: u32,
    recovery: &mut Recovery,
) -> io::Result<Tail> {
    let path = shared.volume_path(volume);
    let file = shared.files.open(&path, Open::Either)?;
    shared.files.sync_dir(&shared.folder)?;
    let mut found = scan(&*file, volume, Extent::Tail)?;
    recovery.scanned_count += 1;
    let is_cut = found.end < file.len()?;
    if is_cut {
        recovery.cut_bytes = written_bytes(&*file, found.end)?;
        file.set_len(found.end)?;
    }
    // A process that was killed leaves records that were written and never synced.
    file.sync_data()?;
    let own_files = shared.own_files(volume);
    let mut names: BTreeSet<PathBuf> = match shared.files.list(&own_files) {
        Ok(names) => names.into_iter().collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => BTreeSet::new(),
        Err(error) => return Err(error),
    };
    let mut file_count = 0;
    found.good.retain(|(block, entry)| {
        if entry.place != Place::OwnFile {
            return true;
        }
        file_count += 1;
        let is_there =
            names.remove(Path::new(&own_name(*block))) && shared.has_own_file(*block, entry);
        found.damaged += u64::from(!is_there);
        is_there
    });
    // What is left has no record: it was being written when the power failed.
    for name in names {
        shared.files.remove(&own_files.join(name))?;
    }
    if found.damaged > 0 {
        tracing::error!(volume, damaged = found.damaged, "the last volume is damaged");
    }
    recovery.damaged_count += found.damaged;
    shared.insert(&found.good);
    Ok(Tail {
        volume,
        file: Arc::from(file),
        end: found.end,
        prepared: found.end,
        entries: found.good,
        file_count,
    })
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
