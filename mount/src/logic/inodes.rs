//! Inodes: which number means which place, and when it may be forgotten.
//!
//! Every root that is shown (a file or tree by UUID, a version of a name, a job) and every tree file
//! inside one is a *part*: a number that is never used again, and a source of entries. An inode is
//! part and entry in one number, so nothing is kept for a single file, however many the kernel
//! knows: only how many of a part's it holds. A part that it holds nothing of is forgotten.
//! The same tree at two places is two parts: a folder of Linux stands at one place.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::ids::{FileId, JobId, LogIndex};
use proto::tree::ModificationTime;

use super::tree::Tree;

/// Bits of an inode that are the entry: more than the largest tree file has room for.
const ENTRY_BITS: u32 = 28;

const _: () = assert!(proto::limits::TREE_BYTES <= 1 << ENTRY_BITS);

/// What the kernel calls a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Inode(pub u64);

/// A part of what is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartId(u64);

impl Inode {
    /// The root of the mount.
    pub const ROOT: Inode = Inode(1);
    /// `files`.
    pub const FILES: Inode = Inode(2);
    /// `names`.
    pub const NAMES: Inode = Inode(3);
    /// `jobs`.
    pub const JOBS: Inode = Inode(4);

    /// An entry of a part.
    #[must_use]
    pub fn of(part: PartId, entry: u32) -> Inode {
        Inode(part.0 << ENTRY_BITS | u64::from(entry))
    }

    /// Which entry of which part it is; `None` for the folders of the mount itself.
    #[must_use]
    pub fn place(self) -> Option<(PartId, u32)> {
        let entry = self.0 & ((1 << ENTRY_BITS) - 1);
        let part = self.0 >> ENTRY_BITS;
        (part > 0).then_some((PartId(part), u32::try_from(entry).unwrap_or(u32::MAX)))
    }
}

/// Why a part is shown: one part for each of these at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// `files/<uuid>`.
    File(FileId),
    /// `names/<name>`, as it was set by this log entry: each version is another folder.
    Name(String, LogIndex),
    /// `jobs/<job>`.
    Job(JobId),
    /// A tree file inside another part, where it stands there.
    Inside(Inode),
}

/// Where a part's entries come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A tree file.
    Stored {
        /// Which.
        tree: FileId,
        /// Its bytes, where they are known.
        length: Option<u64>,
    },
    /// Entries that were made here.
    Given(Arc<Tree>),
}

/// A part and what its root is.
#[derive(Clone, Debug)]
pub struct Part {
    /// Where its entries come from.
    pub source: Source,
    /// The folder that it stands in.
    pub parent: Inode,
    /// Permission bits of its root.
    pub mode: u16,
    /// When its root was last changed, where that is kept.
    pub modified: Option<ModificationTime>,
}

#[derive(Debug)]
struct Known {
    part: Part,
    origin: Origin,
    /// Lookups that the kernel has not forgotten.
    lookups: u64,
    /// Stays although the kernel holds nothing of it.
    is_kept: bool,
}

/// All parts.
#[derive(Debug, Default)]
pub struct Inodes {
    parts: BTreeMap<PartId, Known>,
    by_origin: BTreeMap<Origin, PartId>,
    last: u64,
}

impl Inodes {
    /// The part of an origin, where there is one.
    #[must_use]
    pub fn find(&self, origin: &Origin) -> Option<PartId> {
        self.by_origin.get(origin).copied()
    }

    /// The part of an origin; the first time it is made. Whoever tells the kernel of it calls
    /// [`Inodes::looked_up`] before anybody else can change anything.
    pub fn enter(&mut self, origin: Origin, make: impl FnOnce() -> Part) -> PartId {
        if let Some(part) = self.find(&origin) {
            return part;
        }
        self.last += 1;
        let id = PartId(self.last);
        self.by_origin.insert(origin.clone(), id);
        self.parts.insert(id, Known { part: make(), origin, lookups: 0, is_kept: false });
        id
    }

    /// A part that is known.
    #[must_use]
    pub fn part(&self, part: PartId) -> Option<&Part> {
        self.parts.get(&part).map(|known| &known.part)
    }

    /// The job of whose inputs a part is one, or lies in one; `None` where it is of none.
    #[must_use]
    pub fn job_of(&self, part: PartId) -> Option<JobId> {
        let mut at = part;
        loop {
            match self.parts.get(&at)?.origin {
                Origin::Job(job) => return Some(job),
                // What it lies in is older, so this ends.
                Origin::Inside(inode) => at = inode.place()?.0,
                Origin::File(_) | Origin::Name(..) => return None,
            }
        }
    }

    /// The kernel is told of an inode.
    pub fn looked_up(&mut self, inode: Inode) {
        if let Some(known) = inode.place().and_then(|(part, _)| self.parts.get_mut(&part)) {
            known.lookups += 1;
        }
    }

    /// The kernel forgot an inode as often as it was told of it.
    pub fn forget(&mut self, inode: Inode, times: u64) {
        let Some((part, _)) = inode.place() else {
            return;
        };
        if let Some(known) = self.parts.get_mut(&part) {
            known.lookups = known.lookups.saturating_sub(times);
            self.drop_unused(part);
        }
    }

    /// Keeps a part until [`Inodes::release`], whatever the kernel forgets.
    pub fn keep(&mut self, part: PartId) {
        if let Some(known) = self.parts.get_mut(&part) {
            known.is_kept = true;
        }
    }

    /// Ends [`Inodes::keep`]. Nobody finds the part by its origin any more; what the kernel holds
    /// of it stays good until it forgets it.
    pub fn release(&mut self, origin: &Origin) -> Option<PartId> {
        let part = self.by_origin.remove(origin)?;
        if let Some(known) = self.parts.get_mut(&part) {
            known.is_kept = false;
        }
        self.drop_unused(part);
        Some(part)
    }

    fn drop_unused(&mut self, part: PartId) {
        let is_unused = |known: &Known| known.lookups == 0 && !known.is_kept;
        if self.parts.get(&part).is_some_and(is_unused)
            && let Some(known) = self.parts.remove(&part)
            && self.by_origin.get(&known.origin) == Some(&part)
        {
            self.by_origin.remove(&known.origin);
        }
    }

    /// Origins and parts that are kept, in order.
    pub fn kept(&self) -> impl Iterator<Item = (&Origin, PartId)> {
        let all = self.by_origin.iter().map(|(origin, part)| (origin, *part));
        all.filter(|(_, part)| self.parts.get(part).is_some_and(|known| known.is_kept))
    }

    /// How many parts are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// True where none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Panics on a broken invariant.
    pub fn check_invariants(&self) {
        for (origin, part) in &self.by_origin {
            let known = self.parts.get(part).expect("what has an origin is known");
            assert_eq!(&known.origin, origin, "each stands under its own origin");
        }
        for known in self.parts.values() {
            let is_found = self.by_origin.contains_key(&known.origin);
            assert!(is_found || !known.is_kept, "what is kept can be found");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part() -> Part {
        let source = Source::Stored { tree: FileId(1), length: None };
        Part { source, parent: Inode::ROOT, mode: 0o755, modified: None }
    }

    #[test]
    fn an_inode_is_part_and_entry() {
        for own in [Inode::ROOT, Inode::FILES, Inode::NAMES, Inode::JOBS] {
            assert_eq!(own.place(), None);
        }
        for (part, entry) in [(1, 0), (1, 77), (9, (1 << ENTRY_BITS) - 1), (1 << 35, 3)] {
            let part = PartId(part);
            assert_eq!(Inode::of(part, entry).place(), Some((part, entry)));
        }
    }

    #[test]
    fn a_part_lives_as_long_as_the_kernel_holds_any_of_it() {
        let mut inodes = Inodes::default();
        let origin = Origin::Name("data".to_owned(), LogIndex(3));
        let first = inodes.enter(origin.clone(), part);
        inodes.looked_up(Inode::of(first, 0));
        inodes.looked_up(Inode::of(first, 7));
        inodes.looked_up(Inode::of(first, 7));
        inodes.forget(Inode::of(first, 7), 2);
        assert_eq!(inodes.enter(origin.clone(), || panic!("it is known")), first);
        inodes.forget(Inode::of(first, 0), 1);
        assert!(inodes.is_empty() && inodes.find(&origin).is_none());
        let second = inodes.enter(origin, part);
        assert_ne!(first, second, "a number is never used again");
        // What is not known any more is forgotten in vain.
        inodes.forget(Inode::of(first, 7), 1);
        inodes.forget(Inode::ROOT, 1);
        assert_eq!(inodes.len(), 1);
    }

    #[test]
    fn a_part_is_of_the_job_in_whose_inputs_it_lies() {
        let mut inodes = Inodes::default();
        let job = inodes.enter(Origin::Job(JobId(5)), part);
        let name = inodes.enter(Origin::Name("data".to_owned(), LogIndex(3)), part);
        let mut inside = |part_of| inodes.enter(Origin::Inside(Inode::of(part_of, 7)), part);
        let (first, other) = (inside(job), inside(name));
        let second = inside(first);
        assert_eq!([job, first, second].map(|it| inodes.job_of(it)), [Some(JobId(5)); 3]);
        assert_eq!([name, other].map(|it| inodes.job_of(it)), [None; 2]);
    }

    #[test]
    fn a_released_part_is_found_no_more_but_serves_those_who_hold_it() {
        let mut inodes = Inodes::default();
        let origin = Origin::Job(JobId(5));
        let first = inodes.enter(origin.clone(), part);
        inodes.keep(first);
        assert_eq!(inodes.kept().count(), 1);
        inodes.looked_up(Inode::of(first, 0));
        inodes.forget(Inode::of(first, 0), 1);
        assert_eq!(inodes.find(&origin), Some(first));
        inodes.looked_up(Inode::of(first, 0));
        assert_eq!(inodes.release(&origin), Some(first));
        assert!(inodes.find(&origin).is_none() && inodes.part(first).is_some());
        let second = inodes.enter(origin.clone(), part);
        inodes.looked_up(Inode::of(second, 0));
        inodes.forget(Inode::of(first, 0), 1);
        assert!(inodes.part(first).is_none());
        assert_eq!(inodes.find(&origin), Some(second), "the newer one is another");
    }

    proptest! {
        #[test]
        fn whatever_happens_the_table_is_whole(
            steps in proptest::collection::vec((0u8..5, 0u128..4, 0u64..3), 0..200),
        ) {
            let mut inodes = Inodes::default();
            let mut last = PartId(1);
            for (step, id, times) in steps {
                let origin = Origin::File(FileId(id));
                match step {
                    0 | 1 => {
                        last = inodes.enter(origin, part);
                        inodes.looked_up(Inode::of(last, 0));
                    }
                    2 => inodes.forget(Inode::of(last, 0), times),
                    3 => {
                        if let Some(part) = inodes.find(&origin) {
                            inodes.keep(part);
                        }
                    }
                    _ => {
                        inodes.release(&origin);
                    }
                }
                inodes.check_invariants();
            }
        }
    }
}
