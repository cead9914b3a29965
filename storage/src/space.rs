//! How much of each volume is still needed: what compaction goes by.
//!
//! A record is *live* while the disk would say something else without it: that of a block as long
//! as the block lies there, the touch that last raised a block until its record says the same, a
//! delete as long as the volume with the record that it is about is there. Pure: `Index::apply`
//! keeps it true, `compaction.rs` asks.

use std::collections::{BTreeMap, BTreeSet};

use proto::ids::BlockId;

use crate::volume::HEAD_BYTES;

#[derive(Clone, Copy, Debug, Default)]
struct Volume {
    /// Length of its file; 0 for the one that is being written.
    bytes: u64,
    live: u64,
    is_sealed: bool,
}

impl Volume {
    fn is_worth_it(&self) -> bool {
        self.is_sealed && self.live.saturating_mul(2) < self.bytes
    }
}

/// The volumes that are there, and what is live in them.
#[derive(Debug, Default)]
pub(crate) struct Space {
    volumes: BTreeMap<u32, Volume>,
    /// Sealed volumes of which less than half is live.
    worth_it: BTreeSet<u32>,
    /// Live deletes by the volume that they are about and the one in which they are.
    deletes: BTreeMap<(u32, u32), u64>,
    /// Records of blocks that lie in a later volume now and that no delete is about: a crash came
    /// between moving and cutting. Their volume goes first, since a delete of the block as it lies
    /// now would not be about them.
    superseded: BTreeSet<(u32, BlockId)>,
}

impl Space {
    /// There is a further volume.
    pub(crate) fn begin(&mut self, volume: u32) {
        self.volumes.insert(volume, Volume::default());
    }

    /// A volume has this length and is not written any more.
    pub(crate) fn seal(&mut self, volume: u32, bytes: u64) {
        if let Some(it) = self.volumes.get_mut(&volume) {
            (it.bytes, it.is_sealed) = (bytes, true);
            self.judge(volume);
        }
    }

    /// A volume was cut to this length, at the offset of one of its records.
    pub(crate) fn cut(&mut self, volume: u32, bytes: u64) {
        self.seal(volume, bytes);
    }

    /// A volume is gone: no delete about it is needed any more.
    pub(crate) fn remove(&mut self, volume: u32) {
        self.volumes.remove(&volume);
        self.worth_it.remove(&volume);
        let about = self.deletes.range((volume, 0)..=(volume, u32::MAX));
        let about: Vec<(u32, u64)> = about.map(|(&(_, within), &count)| (within, count)).collect();
        self.deletes.retain(|&(about, within), _| about != volume && within != volume);
        self.superseded.retain(|&(within, _)| within != volume);
        for (within, count) in about {
            self.dead(within, count * HEAD_BYTES);
        }
    }

    /// Whether a volume is there.
    pub(crate) fn has(&self, volume: u32) -> bool {
        self.volumes.contains_key(&volume)
    }

    /// Bytes more of a volume are live.
    pub(crate) fn live(&mut self, volume: u32, bytes: u64) {
        if let Some(it) = self.volumes.get_mut(&volume) {
            it.live += bytes;
            self.judge(volume);
        }
    }

    /// Bytes less of a volume are live.
    pub(crate) fn dead(&mut self, volume: u32, bytes: u64) {
        if let Some(it) = self.volumes.get_mut(&volume) {
            it.live = it.live.saturating_sub(bytes);
            self.judge(volume);
        }
    }

    fn judge(&mut self, volume: u32) {
        if self.volumes.get(&volume).is_some_and(Volume::is_worth_it) {
            self.worth_it.insert(volume);
        } else {
            self.worth_it.remove(&volume);
        }
    }

    /// A block's record in `old` was replaced by one in a later volume.
    pub(crate) fn superseded(&mut self, old: u32, block: BlockId) {
        self.superseded.insert((old, block));
    }

    /// That record is gone.
    pub(crate) fn is_cut(&mut self, volume: u32, block: BlockId) {
        self.superseded.remove(&(volume, block));
    }

    /// There is a delete in `volume` of the block's record in `about`.
    pub(crate) fn deleted(&mut self, volume: u32, block: BlockId, about: u32) {
        self.superseded.remove(&(about, block));
        if about != volume && self.has(about) {
            *self.deletes.entry((about, volume)).or_default() += 1;
            self.live(volume, HEAD_BYTES);
        }
    }

    /// A delete in `volume` of a record in `about` was moved elsewhere.
    pub(crate) fn delete_moved(&mut self, volume: u32, about: u32) {
        if about == volume {
            return;
        }
        if let Some(count) = self.deletes.get_mut(&(about, volume)) {
            *count -= 1;
            if *count == 0 {
                self.deletes.remove(&(about, volume));
            }
            self.dead(volume, HEAD_BYTES);
        }
    }

    /// Bytes of a volume that are live.
    pub(crate) fn live_bytes(&self, volume: u32) -> u64 {
        self.volumes.get(&volume).map_or(0, |it| it.live)
    }

    /// Whether a step of compaction would find a volume.
    pub(crate) fn has_victim(&self) -> bool {
        !self.superseded.is_empty() || !self.worth_it.is_empty()
    }

    /// The volume that is to be compacted next: the one with the fewest live bytes of those of
    /// which less than half is live.
    pub(crate) fn victim(&self) -> Option<u32> {
        if let Some(&(volume, _)) = self.superseded.first() {
            return Some(volume);
        }
        self.worth_it.iter().copied().min_by_key(|&volume| self.live_bytes(volume))
    }

    /// The sealed volume with the most bytes that are not live, where these are at least one in
    /// `part` of it: what a full disk goes by.
    pub(crate) fn fullest_of_dead(&self, part: u64) -> Option<u32> {
        if !self.superseded.is_empty() {
            return self.victim();
        }
        let dead = |it: &Volume| it.bytes.saturating_sub(it.live);
        let sealed = self.volumes.iter().filter(|(_, it)| {
            it.is_sealed && dead(it) > 0 && dead(it).saturating_mul(part) >= it.bytes
        });
        sealed.max_by_key(|(_, it)| dead(it)).map(|(&volume, _)| volume)
    }

    /// A volume cannot be read: it is left as it is.
    pub(crate) fn give_up(&mut self, volume: u32) {
        self.worth_it.remove(&volume);
        if let Some(it) = self.volumes.get_mut(&volume) {
            it.is_sealed = false;
        }
    }
}
