//! Raising and deleting blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use proto::ids::BlockId;

use crate::append::Purpose;
use crate::disk::{Disk, PutError, Touch};
use crate::index::{Entry, Place};

/// Records that are written at once: 4 MiB of them.
const RECORDS_PER_WRITE: usize = 65_536;

impl Disk {
    /// Raises stamps and numbers of replicas, durably, with one sync for all; nothing is written
    /// where nothing rises. For each item in order false where the block is not here or could not
    /// be raised.
    #[expect(clippy::needless_pass_by_value, reason = "handed over, as what is stored")]
    pub fn touch(&mut self, items: Vec<Touch>) -> Vec<bool> {
        self.is_stalled = false;
        self.raise(&items).into_iter().map(|raised| raised == Ok(true)).collect()
    }

    /// For each item whether the block is here, or why it could not be raised.
    pub(crate) fn raise(&mut self, items: &[Touch]) -> Vec<Result<bool, PutError>> {
        let rising = self.rising(items);
        let mut failed: BTreeMap<BlockId, PutError> = BTreeMap::new();
        for part in rising.chunks(RECORDS_PER_WRITE) {
            if let Err(error) = self.write_touches(part) {
                failed.extend(part.iter().map(|touch| (touch.block, error)));
            }
        }
        let index = self.shared.index.read().unwrap_or_else(PoisonError::into_inner);
        let raised = items.iter().map(|item| match failed.get(&item.block) {
            Some(&error) => Err(error),
            None => Ok(index.contains(item.block)),
        });
        raised.collect()
    }

    /// What is here and rises, each block once.
    fn rising(&self, items: &[Touch]) -> Vec<Touch> {
        let index = self.shared.index.read().unwrap_or_else(PoisonError::into_inner);
        let mut rising: BTreeMap<BlockId, Touch> = BTreeMap::new();
        for item in items {
            let Some(Entry { stamp, replica_count, .. }) = index.get(item.block) else {
                continue;
            };
            if item.stamp > stamp || item.replica_count > replica_count {
                let touch = Touch { block: item.block, stamp, replica_count };
                let touch = rising.entry(item.block).or_insert(touch);
                touch.stamp = touch.stamp.max(item.stamp);
                touch.replica_count = touch.replica_count.max(item.replica_count);
            }
        }
        rising.into_values().collect()
    }

    fn write_touches(&mut self, touches: &[Touch]) -> Result<(), PutError> {
        self.make_room(Purpose::Put)?;
        let mut batch = self.batch();
        for touch in touches {
            batch.touch(touch.block, touch.stamp, touch.replica_count);
        }
        self.append(batch, Purpose::Put)
    }

    /// Forgets blocks durably and gives their room back: that of own files at once, that in volumes
    /// by and by. Returns how many of them were here. A full disk can still do it.
    ///
    /// # Errors
    /// Where it is not certain that all are forgotten; those that are not are still served.
    pub fn delete(&mut self, blocks: &[BlockId]) -> Result<u64, PutError> {
        if self.has_failed {
            // One that is not here may have been in a write whose sync failed.
            return Err(PutError::Failed);
        }
        self.is_stalled = false;
        let blocks: BTreeSet<BlockId> = blocks.iter().copied().collect();
        let blocks: Vec<BlockId> = blocks.into_iter().collect();
        let mut count = 0;
        for part in blocks.chunks(RECORDS_PER_WRITE) {
            count += self.delete_part(part)?;
        }
        self.forget_damaged()?;
        Ok(count)
    }

    fn delete_part(&mut self, blocks: &[BlockId]) -> Result<u64, PutError> {
        let index = self.shared.index.read().unwrap_or_else(PoisonError::into_inner);
        let here = blocks.iter().filter_map(|&block| Some((block, index.get(block)?)));
        let here: Vec<(BlockId, Entry)> = here.collect();
        drop(index);
        if here.is_empty() {
            return Ok(0);
        }
        self.make_room(Purpose::Delete)?;
        let mut batch = self.batch();
        for (block, entry) in &here {
            batch.delete(*block, entry.volume);
        }
        self.append(batch, Purpose::Delete)?;
        for (block, entry) in &here {
            if let Place::OwnFile { folder } = entry.place {
                self.remove_own_file(*block, folder);
            }
        }
        Ok(here.len() as u64)
    }

    /// Forgets on the disk what reads found damaged.
    pub(crate) fn forget_damaged(&mut self) -> Result<(), PutError> {
        while self.has_damaged() {
            self.make_room(Purpose::Delete)?;
            let batch = self.batch();
            self.append(batch, Purpose::Delete)?;
        }
        Ok(())
    }

    pub(crate) fn has_damaged(&self) -> bool {
        self.shared.index.read().unwrap_or_else(PoisonError::into_inner).has_forgotten()
    }

    /// The record of a large block is forgotten: so goes its file.
    pub(crate) fn remove_own_file(&mut self, block: BlockId, folder: u32) {
        self.unlinked.insert(folder);
        if let Err(error) = self.shared.files.remove(&self.shared.own_path(folder, block))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%block, %error, "the file of a deleted block cannot be removed");
        }
    }
}
