//! What storage nodes hold durably against what anybody was told: an acknowledged file survives the
//! loss of any (replicas - 1) nodes (invariant 5), and a segment that a committed completion names
//! is durable by then (7).
//!
//! A block counts as held once a node's disk has it so that a power loss would leave it, whatever
//! the node said, until a delete of it is durable there. In a run at most one node loses its disk or
//! has rotten bits, so that whatever was acknowledged with two replicas has one that must be there;
//! and a delete, wherever the ring moves blocks to, leaves as many replicas as there are wanted.

use std::collections::{BTreeMap, BTreeSet};

use proto::ids::{BlockId, FileId, RingVersion};

use crate::checkers::{Violation, check};

/// A disk of a machine: the machine's process, and how many disks it lost before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DiskId {
    /// The process's place in the world.
    pub(crate) process: usize,
    /// From 0.
    pub(crate) number: u64,
}

/// What is known of all blocks of a run.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    /// Who ever held a block durably, and by which ring it took it on; version 0 for one that is
    /// known only because it said so later.
    holders: BTreeMap<BlockId, BTreeMap<DiskId, RingVersion>>,
    /// Replicas of a file by ring version, as far as masters showed it.
    replicas: BTreeMap<RingVersion, usize>,
    /// Deletes that began and of whose end nothing is known: the disk may have the block or not.
    doubtful: BTreeSet<(DiskId, BlockId)>,
    /// Disks that were lost or have rotten bits.
    bad: BTreeSet<DiskId>,
    /// Files that a client was told are stored, with their blocks.
    stored: BTreeMap<FileId, Vec<BlockId>>,
    /// Those that were stored before somebody asked one node for them last.
    asked: BTreeSet<FileId>,
    /// Segments that a committed entry names.
    committed: BTreeSet<FileId>,
}

impl Blocks {
    /// A master shows a ring of so many nodes.
    pub(crate) fn ring(&mut self, version: RingVersion, nodes: usize) {
        const REPLICAS: usize = 2;
        self.replicas.insert(version, nodes.min(REPLICAS));
    }

    /// A disk has a block durably, taken on by this version of the ring.
    pub(crate) fn durable(&mut self, disk: DiskId, block: BlockId, version: RingVersion) {
        self.holders.entry(block).or_default().entry(disk).or_insert(version);
        self.doubtful.remove(&(disk, block));
    }

    /// A disk begins to forget a block: when its process dies now, it may have it or not.
    pub(crate) fn let_go(&mut self, disk: DiskId, block: BlockId) {
        if self.holders.get(&block).is_some_and(|holders| holders.contains_key(&disk)) {
            self.doubtful.insert((disk, block));
        }
    }

    /// A disk durably forgot a block: whatever the ring is by then, as many
    /// replicas are left as the version has owners for by which the node goes. One on a bad disk may
    /// have been there when it was confirmed. True where the disk was known to have the block.
    pub(crate) fn deleted(
        &mut self,
        disk: DiskId,
        block: BlockId,
        version: RingVersion,
    ) -> Result<bool, Violation> {
        self.doubtful.remove(&(disk, block));
        let wanted = self.replicas.range(..=version).next_back().map_or(1, |(_, &count)| count);
        let Some(holders) = self.holders.get_mut(&block) else { return Ok(false) };
        let was_there = holders.remove(&disk).is_some();
        let sure = holders.keys().filter(|&&holder| !self.doubtful.contains(&(holder, block)));
        let (bad, good): (Vec<DiskId>, Vec<DiskId>) =
            sure.partition(|holder| self.bad.contains(holder));
        let promise = "a block is deleted only after all of its owners have it durably";
        let left = good.len() + bad.len().min(1);
        check(self.bad.contains(&disk) || left >= wanted, promise, || {
            format!(
                "block {block} was deleted on {disk:?} at ring {version}, of {wanted} replicas \
                     {good:?} and on bad disks {bad:?} are left"
            )
        })?;
        Ok(was_there)
    }

    /// Blocks of which it is not known whether a disk has them.
    pub(crate) fn doubts(&self, disk: DiskId) -> Vec<BlockId> {
        let its = self.doubtful.range((disk, BlockId(0))..=(disk, BlockId(u128::MAX)));
        its.map(|&(_, block)| block).collect()
    }

    /// A process that started again has a block or not of which that was not known.
    pub(crate) fn resolved(&mut self, disk: DiskId, block: BlockId, is_there: bool) {
        self.doubtful.remove(&(disk, block));
        if !is_there && let Some(holders) = self.holders.get_mut(&block) {
            holders.remove(&disk);
        }
    }

    /// Blocks that have to be kept, and of which a good disk has a replica: all of acknowledged
    /// files, and committed segments.
    pub(crate) fn kept(&self) -> BTreeSet<BlockId> {
        let segments = self.committed.iter().map(|segment| BlockId(segment.0));
        let all = self.stored.values().flatten().copied().chain(segments);
        all.filter(|block| self.is_safe(block)).collect()
    }

    fn is_safe(&self, block: &BlockId) -> bool {
        let holders = self.holders.get(block);
        holders.is_some_and(|all| all.keys().any(|disk| !self.bad.contains(disk)))
    }

    /// True for a disk that was lost or has rotten bits.
    pub(crate) fn is_bad(&self, disk: DiskId) -> bool {
        self.bad.contains(&disk)
    }

    /// A disk was lost, or bits of it are rotten.
    pub(crate) fn spoil(&mut self, disk: DiskId) {
        self.bad.insert(disk);
    }

    /// What a disk must have after its process started again; nothing for a bad one.
    pub(crate) fn expected(&self, disk: DiskId) -> Vec<BlockId> {
        if self.bad.contains(&disk) {
            return Vec::new();
        }
        let held = self.holders.iter().filter(|(_, holders)| holders.contains_key(&disk));
        let blocks = held.map(|(&block, _)| block);
        blocks.filter(|&block| !self.doubtful.contains(&(disk, block))).collect()
    }

    /// Fewest replicas that whoever stored the block was to wait for. A node takes a block on only
    /// by a ring that is not older than its own, so that the rings of the holders are a bound; by one
    /// that is newer and has fewer nodes, replicas may have been deleted again.
    fn wanted(&self, holders: &BTreeMap<DiskId, RingVersion>) -> usize {
        let newest = holders.values().max().copied().unwrap_or_default();
        let known = self.replicas.range(..=newest).next_back();
        let newer = self.replicas.range(newest..);
        known.into_iter().chain(newer).map(|(_, &replicas)| replicas).min().unwrap_or(1).max(1)
    }

    fn check_replicas(&self, block: BlockId, promise: &'static str) -> Result<(), Violation> {
        let none = BTreeMap::new();
        let holders = self.holders.get(&block).unwrap_or(&none);
        let wanted = self.wanted(holders);
        check(holders.len() >= wanted, promise, || {
            format!("block {block} is durable on {holders:?}, of {wanted} replicas")
        })
    }

    /// A client was told that a file is stored.
    pub(crate) fn acknowledged(
        &mut self,
        file: FileId,
        blocks: Vec<BlockId>,
    ) -> Result<(), Violation> {
        for &block in &blocks {
            let promise = "invariant 5: an acknowledged file is durable on every replica";
            self.check_replicas(block, promise)?;
        }
        self.stored.insert(file, blocks);
        Ok(())
    }

    /// Files that a client was told are stored.
    pub(crate) fn stored(&self) -> impl Iterator<Item = FileId> {
        self.stored.keys().copied()
    }

    /// A file could not be read although nothing hinders it. Fine only where a bad disk had the
    /// only replica.
    pub(crate) fn unreadable(&self, file: FileId, why: &str) -> Result<(), Violation> {
        let is_kept = match self.stored.get(&file) {
            Some(blocks) => blocks.iter().all(|block| self.is_safe(block)),
            // A segment is a file of one block, which has the file's name.
            None => self.committed.contains(&file) && self.is_safe(&BlockId(file.0)),
        };
        let promise = "invariant 5: an acknowledged file survives the loss of (replicas - 1) nodes";
        check(!is_kept, promise, || format!("file {file}: {why}"))
    }

    /// Somebody asks one storage node for a file.
    pub(crate) fn asked(&mut self, file: FileId) {
        if self.stored.contains_key(&file) {
            self.asked.insert(file);
        }
    }

    /// The node answered that there is no such file, which is true of those that were not stored
    /// when it was asked.
    pub(crate) fn not_found(&self, file: FileId) -> Result<(), Violation> {
        let why = "a storage node says that there is no such file";
        if self.asked.contains(&file) { self.unreadable(file, why) } else { Ok(()) }
    }

    /// A committed entry names a segment. True the first time.
    pub(crate) fn committed(&mut self, segment: FileId) -> Result<bool, Violation> {
        if !self.committed.insert(segment) {
            return Ok(false);
        }
        let promise = "invariant 7: a completion is committed after its outputs are durable";
        self.check_replicas(BlockId(segment.0), promise)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: FileId = FileId(7);
    const BLOCK: BlockId = BlockId(7);

    fn disk(process: usize) -> DiskId {
        DiskId { process, number: 0 }
    }

    fn blocks(holders: &[usize]) -> Blocks {
        let mut blocks = Blocks::default();
        blocks.ring(RingVersion(1), 1);
        blocks.ring(RingVersion(2), 2);
        for &holder in holders {
            blocks.durable(disk(holder), BLOCK, RingVersion(2));
        }
        blocks
    }

    #[test]
    fn a_file_or_segment_on_too_few_nodes_is_found() {
        for (holders, is_fine) in [(&[][..], false), (&[1], false), (&[1, 2], true)] {
            assert_eq!(blocks(holders).acknowledged(FILE, vec![BLOCK]).is_ok(), is_fine);
            assert_eq!(blocks(holders).committed(FILE).is_ok(), is_fine);
        }
        let mut young = Blocks::default();
        young.ring(RingVersion(1), 1);
        young.durable(disk(0), BLOCK, RingVersion(1));
        assert_eq!(young.acknowledged(FILE, vec![BLOCK]), Ok(()));
    }

    #[test]
    fn a_delete_that_leaves_too_few_replicas_is_found() {
        for (left, bad, is_fine) in [(&[2, 3][..], None, true), (&[2, 3], Some(3), true)] {
            let mut blocks = blocks(&[&[1], left].concat());
            bad.into_iter().for_each(|bad| blocks.spoil(disk(bad)));
            assert_eq!(blocks.deleted(disk(1), BLOCK, RingVersion(2)).is_ok(), is_fine);
            assert_eq!(blocks.expected(disk(1)), vec![]);
            assert!(blocks.deleted(disk(2), BLOCK, RingVersion(2)).is_err());
        }
    }

    #[test]
    fn a_delete_in_which_its_process_dies_may_have_happened_or_not() {
        for is_there in [true, false] {
            let mut blocks = blocks(&[1, 2, 3]);
            blocks.let_go(disk(1), BLOCK);
            assert_eq!((blocks.expected(disk(1)), blocks.doubts(disk(1))), (vec![], vec![BLOCK]));
            blocks.resolved(disk(1), BLOCK, is_there);
            let expected = if is_there { vec![BLOCK] } else { vec![] };
            assert_eq!((blocks.expected(disk(1)), blocks.doubts(disk(1))), (expected, vec![]));
        }
    }

    #[test]
    fn a_lost_file_is_found_unless_its_only_disk_is_bad() {
        let mut both = blocks(&[1, 2]);
        both.acknowledged(FILE, vec![BLOCK]).unwrap();
        both.spoil(disk(1));
        assert!(both.unreadable(FILE, "").is_err());
        assert_eq!((both.expected(disk(1)), both.expected(disk(2))), (vec![], vec![BLOCK]));
        both.spoil(disk(2));
        assert!(both.unreadable(FILE, "").is_ok());
    }
}
