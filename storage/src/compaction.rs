//! Giving room back: what is live in a volume that is mostly dead goes to the last volume.
//!
//! A volume is emptied from its end: the last live records are written to the last volume and
//! synced, then the file is cut in front of where they were. So each step gives back at least what
//! it takes, a crash between the two leaves a block twice and never not at all, and a full disk can
//! be compacted with the reserve. What is left at last is an empty file: it says that the volume
//! was removed and is not missing. Files of large blocks stay where they are. Why it is right:
//! `docs/decisions/storage-disk.md`.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use node::files::read_all;
use proto::ids::BlockId;

use crate::append::Purpose;
use crate::disk::{Disk, PutError};
use crate::index::{Entry, Place};
use crate::reader::Soundness;
use crate::recovery::remove_unrecorded;
use crate::table::decode_table;
use crate::volume::{Batch, Bytes, Check, Draft, Extent, Record, What, scan};

/// The last volume is sealed, so that it can be compacted, when it has this part of a volume's
/// bytes and less than half of that is live.
const WORTH_SEALING: u64 = 64;

/// A full disk compacts volumes of which this part is not live: it writes at most 16 bytes for one
/// that it gets (eyeballed).
const DEAD_PART_OF_NEED: u64 = 16;

/// A volume that is being emptied.
#[derive(Debug)]
pub(crate) struct Compaction {
    volume: u32,
    /// Its records, without those that were cut off.
    records: Vec<Record>,
}

/// What a step writes.
#[derive(Default)]
struct Moved {
    blocks: Vec<(BlockId, Entry, Vec<u8>)>,
    touches: BTreeSet<BlockId>,
    deletes: Vec<(BlockId, u32)>,
    /// Where the volume is cut.
    cut: u64,
    /// Records that stay.
    kept: usize,
}

/// Why a step did not succeed.
enum Stop {
    /// There is nothing to do.
    Done,
    /// The disk does not do it now.
    Disk,
    /// That volume cannot be read.
    Volume(u32),
}

impl From<PutError> for Stop {
    fn from(_: PutError) -> Stop {
        Stop::Disk
    }
}

impl Disk {
    /// Does one bounded step of what may wait until nothing else is to do: forgets on the disk
    /// what reads found damaged, or compacts. True where there may be more.
    pub fn upkeep(&mut self) -> bool {
        if !self.has_upkeep() {
            return false;
        }
        if self.has_damaged() {
            self.is_stalled = self.forget_damaged().is_err();
            return self.has_upkeep();
        }
        match self.compact() {
            Ok(()) => {}
            Err(Stop::Volume(volume)) => {
                tracing::error!(volume, "a volume cannot be compacted");
                self.space.give_up(volume);
                self.compaction = None;
                self.is_stalled = true;
            }
            Err(Stop::Done | Stop::Disk) => self.is_stalled = true,
        }
        self.has_upkeep()
    }

    /// Has `alarm` called when a read finds a damaged block: [`Disk::upkeep`] has something to do
    /// then. The first one counts.
    pub fn on_damage(&self, alarm: impl Fn() + Send + Sync + 'static) {
        let _ = self.shared.alarm.set(Box::new(alarm));
    }

    /// Whether [`Disk::upkeep`] has something to do.
    #[must_use]
    pub fn has_upkeep(&self) -> bool {
        let is_due = self.has_damaged()
            || self.compaction.is_some()
            || self.space.has_victim()
            || self.is_worth_sealing()
            || !self.reserve.is_whole()
            || self.victim_of_need().is_some();
        is_due && !self.is_stalled && !self.has_failed
    }

    fn is_worth_sealing(&self) -> bool {
        let end = self.tail.end;
        end > 0
            && end >= self.limits.volume_bytes / WORTH_SEALING
            && self.space.live_bytes(self.tail.volume).saturating_mul(2) < end
    }

    fn compact(&mut self) -> Result<(), Stop> {
        let mut work = match self.compaction.take() {
            Some(work) => work,
            None => self.begin_compaction()?,
        };
        match self.compact_part(&mut work) {
            Ok(()) => {}
            Err(Stop::Volume(volume)) => return Err(Stop::Volume(volume)),
            Err(stop) => {
                self.compaction = Some(work);
                return Err(stop);
            }
        }
        if work.records.is_empty() {
            self.finish(work.volume);
        } else {
            self.compaction = Some(work);
        }
        if !self.reserve.is_whole() {
            // Where there is no room yet the next step tries again.
            let _ = self.reserve.fill();
        }
        Ok(())
    }

    fn compact_part(&mut self, work: &mut Compaction) -> Result<(), Stop> {
        let moved = self.next_part(work)?;
        self.write_moved(work, &moved)?;
        self.cut(work, &moved)
    }

    /// Chooses a volume and learns what is in it.
    fn begin_compaction(&mut self) -> Result<Compaction, Stop> {
        if !self.reserve.is_whole() {
            // There may be room by now.
            let _ = self.reserve.fill();
        }
        if self.space.victim().is_none() && self.is_worth_sealing() {
            match self.roll() {
                Ok(()) | Err(PutError::DiskFull) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let volume = self.space.victim().or_else(|| self.victim_of_need()).ok_or(Stop::Done)?;
        let records = self.records_of(volume).map_err(|_| Stop::Volume(volume))?;
        // A table would not fit the volume any more; and an empty volume that has one is damaged.
        match self.shared.files.remove(&self.shared.table_path(volume)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(self.put_error(&error, "remove a table").into());
            }
            _ => {}
        }
        let synced = self.shared.files.sync_dir(&self.shared.folder);
        synced.map_err(|error| self.sync_failed(&error))?;
        Ok(Compaction { volume, records })
    }

    /// What a full disk compacts: whatever gives room where deletes lack it, where puts lack it what
    /// does not take too long for it.
    fn victim_of_need(&self) -> Option<u32> {
        if !self.reserve.is_whole() {
            self.space.fullest_of_dead(u64::MAX)
        } else if self.is_short {
            self.space.fullest_of_dead(DEAD_PART_OF_NEED)
        } else {
            None
        }
    }

    fn records_of(&self, volume: u32) -> std::io::Result<Vec<Record>> {
        let file = self.shared.volume(volume)?;
        let table = read_all(&*self.shared.files, &self.shared.table_path(volume)).ok();
        let length = file.len()?;
        match table.and_then(|table| decode_table(&table, volume, length)) {
            Some(table) if table.has_offsets => Ok(table.records),
            _ => Ok(scan(&*file, volume, Extent::Sealed, Check::Heads)?.good),
        }
    }

    /// Reads the last live records of a volume, as many as one step moves.
    fn next_part(&self, work: &Compaction) -> Result<Moved, Stop> {
        let volume = work.volume;
        let mut moved = Moved { kept: work.records.len(), ..Moved::default() };
        if self.space.live_bytes(volume) == 0 {
            // Nothing of it is needed, and its deletes go with what they are about.
            moved.kept = 0;
            return Ok(moved);
        }
        let mut bytes = 0;
        for record in work.records.iter().rev() {
            if bytes >= self.limits.step_bytes {
                break;
            }
            bytes += self.move_record(volume, record, &mut moved)?;
            moved.kept -= 1;
            moved.cut = record.offset;
        }
        if moved.kept == 0 {
            moved.cut = 0;
        }
        Ok(moved)
    }

    /// Adds a record where it is live; returns the bytes that it takes.
    fn move_record(&self, volume: u32, record: &Record, moved: &mut Moved) -> Result<usize, Stop> {
        let block = record.block;
        match record.what {
            What::Block(here) => {
                let Some(entry) = self.shared.get(block).filter(|it| it.lies_as(&here)) else {
                    return Ok(0);
                };
                let mut content = Vec::new();
                if matches!(entry.place, Place::Inline { .. }) {
                    match self.shared.read_entry(block, &entry, &mut content) {
                        Ok(Soundness::Sound) => {}
                        Ok(Soundness::Damaged) => {
                            self.shared.forget_if_damaged(block, &entry);
                            return Ok(0);
                        }
                        Err(error) => {
                            tracing::error!(%block, %error, "a block cannot be read");
                            return Err(Stop::Volume(volume));
                        }
                    }
                }
                let bytes = entry.record_bytes() as usize;
                // The record says what the touch said.
                moved.touches.remove(&block);
                moved.blocks.push((block, entry, content));
                Ok(bytes)
            }
            What::Touch { .. } => {
                let is_live = self.shared.get(block).is_some_and(|it| it.touched == volume);
                Ok(if is_live && moved.touches.insert(block) { 64 } else { 0 })
            }
            What::Delete { about } => {
                if !self.space.has(about) {
                    return Ok(0);
                }
                moved.deletes.push((block, about));
                Ok(64)
            }
        }
    }

    /// Makes what is moved durable at its new place. Blocks come first: a write that is torn must
    /// not have forgotten one in the volume that is not here yet.
    fn write_moved(&mut self, work: &Compaction, moved: &Moved) -> Result<(), PutError> {
        if moved.blocks.is_empty() && moved.touches.is_empty() && moved.deletes.is_empty() {
            return Ok(());
        }
        self.make_room(Purpose::Compact)?;
        let mut batch = self.batch();
        for (block, entry, content) in &moved.blocks {
            batch.block(&Draft {
                block: *block,
                kind: entry.kind,
                length: entry.length,
                stamp: entry.stamp,
                replica_count: entry.replica_count,
                bytes: match entry.place {
                    Place::Inline { .. } => Bytes::Inline(content),
                    Place::OwnFile { folder } => Bytes::OwnFile(folder),
                },
            });
        }
        self.add_moved(&mut batch, moved);
        self.append(batch, Purpose::Compact)?;
        for &(_, about) in &moved.deletes {
            self.space.delete_moved(work.volume, about);
        }
        Ok(())
    }

    fn add_moved(&self, batch: &mut Batch, moved: &Moved) {
        for &block in &moved.touches {
            if let Some(entry) = self.shared.get(block) {
                batch.touch(block, entry.stamp, entry.replica_count);
            }
        }
        for &(block, about) in &moved.deletes {
            batch.delete(block, about);
        }
    }

    fn cut(&mut self, work: &mut Compaction, moved: &Moved) -> Result<(), Stop> {
        let file = self.shared.volume(work.volume).map_err(|_| Stop::Volume(work.volume))?;
        let cut = file.set_len(moved.cut);
        cut.map_err(|error| self.put_error(&error, "cut a volume"))?;
        file.sync_data().map_err(|error| self.sync_failed(&error))?;
        for record in work.records.drain(moved.kept..) {
            if matches!(record.what, What::Block(_)) {
                self.space.is_cut(work.volume, record.block);
            }
        }
        self.space.cut(work.volume, moved.cut);
        Ok(())
    }

    /// A volume is empty.
    fn finish(&mut self, volume: u32) {
        tracing::debug!(volume, "a volume was compacted and removed");
        self.space.remove(volume);
        self.shared.close(volume);
        if let Err(error) = remove_unrecorded(&self.shared, volume) {
            tracing::warn!(%error, volume, "the files of a removed volume cannot be looked through");
        }
        self.removed.mark(volume);
        self.removed.tidy(&self.shared);
    }
}
