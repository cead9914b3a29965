//! A tree file as a mount needs it: every entry has a number, so that an inode is two numbers.
//!
//! Entries stand level by level, so a folder's are beside each other and in order of their names.
//! Folders that are tree files of their own are leaves here. What a tree file may contain is
//! [`proto::tree`]'s matter.

use std::collections::VecDeque;
use std::ops::Range;

use proto::ids::FileId;
use proto::tree::{Folder, ModificationTime, Node};

/// Permission bits of a folder of which nobody said any: a tree's own, and those of the mount.
pub const FOLDER_MODE: u16 = 0o755;

/// Permission bits of a file of which nobody said any.
pub const FILE_MODE: u16 = 0o644;

/// Permission bits of a link: those of what it leads to count.
pub const LINK_MODE: u16 = 0o777;

/// When what has no time was last changed: long ago for `make`, but behind 1980, before which
/// archives of some kinds cannot say.
pub const NO_TIME: ModificationTime = ModificationTime { seconds: 1_000_000_000, nanoseconds: 0 };

/// What stands under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A file.
    File {
        /// Its content.
        file: FileId,
        /// Its bytes.
        length: u64,
    },
    /// A symbolic link.
    Link {
        /// Its target as it stands.
        target: Box<[u8]>,
    },
    /// A folder whose entries stand in the same tree.
    Folder {
        /// Their numbers.
        children: Range<u32>,
    },
    /// A folder that is a tree file of its own.
    Tree {
        /// The tree file.
        tree: FileId,
        /// Its bytes.
        length: u64,
    },
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its name; empty for the root.
    pub name: Box<[u8]>,
    /// Permission bits.
    pub mode: u16,
    /// When it was last changed, where that is kept.
    pub modified: Option<ModificationTime>,
    /// Number of the folder that it stands in; the root's own for the root.
    pub parent: u32,
    /// What it is.
    pub what: What,
}

/// Numbered entries; 0 is the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    items: Vec<Item>,
}

/// A folder that is taken apart, and the entries that it gives.
pub(super) struct Entry<F> {
    pub(super) name: Box<[u8]>,
    pub(super) mode: u16,
    pub(super) modified: Option<ModificationTime>,
    pub(super) part: Part<F>,
}

/// What an entry is before it has a number.
pub(super) enum Part<F> {
    Leaf(What),
    Folder(F),
}

impl Tree {
    /// A decoded tree file.
    #[must_use]
    pub fn of_folder(folder: &Folder) -> Tree {
        Tree::flatten(folder, |folder| {
            let entries = folder.entries().iter().map(|entry| Entry {
                name: entry.name.clone().into(),
                mode: entry.mode,
                modified: entry.modified,
                part: match &entry.node {
                    Node::Folder(inner) => Part::Folder(inner),
                    Node::File { file, length } => {
                        Part::Leaf(What::File { file: *file, length: *length })
                    }
                    Node::Tree { tree, length } => {
                        Part::Leaf(What::Tree { tree: *tree, length: *length })
                    }
                    Node::Link { target } => {
                        Part::Leaf(What::Link { target: target.clone().into() })
                    }
                },
            });
            entries.collect()
        })
    }

    /// One file as a tree: the root is the file.
    #[must_use]
    pub fn of_file(file: FileId, length: u64, mode: u16) -> Tree {
        let what = What::File { file, length };
        let item = Item { name: Box::default(), mode, modified: None, parent: 0, what };
        Tree { items: vec![item] }
    }

    /// Numbers entries level by level; `expand` gives those of a folder in order of their names.
    pub(super) fn flatten<F>(root: F, expand: impl Fn(F) -> Vec<Entry<F>>) -> Tree {
        let root_item = Item {
            name: Box::default(),
            mode: FOLDER_MODE,
            modified: None,
            parent: 0,
            what: What::Folder { children: 0..0 },
        };
        let mut items = vec![root_item];
        let mut open = VecDeque::from([(0, root)]);
        while let Some((parent, folder)) = open.pop_front() {
            let first = number(items.len());
            for entry in expand(folder) {
                let what = match entry.part {
                    Part::Leaf(what) => what,
                    Part::Folder(inner) => {
                        open.push_back((number(items.len()), inner));
                        What::Folder { children: 0..0 }
                    }
                };
                let Entry { name, mode, modified, .. } = entry;
                items.push(Item { name, mode, modified, parent, what });
            }
            let end = number(items.len());
            if let Some(item) = items.get_mut(parent as usize) {
                item.what = What::Folder { children: first..end };
            }
        }
        Tree { items }
    }

    /// An entry.
    #[must_use]
    pub fn item(&self, number: u32) -> Option<&Item> {
        self.items.get(number as usize)
    }

    /// How many entries there are, the root included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Never true: the root is an entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Numbers of a folder's entries; `None` where it is no folder of this tree.
    #[must_use]
    pub fn children(&self, folder: u32) -> Option<Range<u32>> {
        match &self.item(folder)?.what {
            What::Folder { children } => Some(children.clone()),
            What::File { .. } | What::Link { .. } | What::Tree { .. } => None,
        }
    }

    /// Number of a folder's entry of that name.
    #[must_use]
    pub fn child(&self, folder: u32, name: &[u8]) -> Option<u32> {
        let children = self.children(folder)?;
        let items = self.items.get(children.start as usize..children.end as usize)?;
        let found = items.binary_search_by(|item| (*item.name).cmp(name)).ok()?;
        Some(children.start + number(found))
    }
}

/// Tree files have at most 2^28 bytes, and an entry takes ten at least.
fn number(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::tree::Entry as Stored;

    use super::*;

    fn file(name: &str, id: u128) -> Stored {
        let node = Node::File { file: FileId(id), length: 3 };
        Stored { name: name.into(), mode: 0o644, modified: None, node }
    }

    fn folder(name: &str, entries: Vec<Stored>) -> Stored {
        let node = Node::Folder(Folder::new(entries).unwrap());
        Stored { name: name.into(), mode: 0o700, modified: None, node }
    }

    #[test]
    fn entries_are_found_by_name_and_know_their_folder() {
        let inner = folder("b", vec![file("x", 1), folder("empty", vec![])]);
        let link = Node::Link { target: b"../a".to_vec() };
        let link = Stored { name: b"\xff".to_vec(), mode: 0o777, modified: None, node: link };
        let stored = Folder::new(vec![file("a", 2), inner, file("c", 3), link]).unwrap();
        let tree = Tree::of_folder(&stored);
        assert_eq!((tree.len(), tree.children(0)), (7, Some(1..5)));
        let b = tree.child(0, b"b").unwrap();
        assert_eq!(tree.item(b).unwrap().mode, 0o700);
        let x = tree.child(b, b"x").unwrap();
        let item = tree.item(x).unwrap();
        assert_eq!((item.parent, &item.what), (b, &What::File { file: FileId(1), length: 3 }));
        let empty = tree.child(b, b"empty").unwrap();
        assert_eq!(tree.children(empty).unwrap().len(), 0);
        assert!(tree.child(0, b"\xff").is_some());
        assert_eq!(
            (tree.child(0, b"x"), tree.child(x, b"x"), tree.children(x)),
            (None, None, None)
        );
        assert_eq!((tree.item(7), tree.child(99, b"a")), (None, None));
    }

    #[test]
    fn a_file_is_its_own_root() {
        let tree = Tree::of_file(FileId(4), 9, 0o755);
        let item = tree.item(0).unwrap();
        assert_eq!((item.mode, &item.what), (0o755, &What::File { file: FileId(4), length: 9 }));
        assert_eq!((tree.children(0), tree.is_empty()), (None, false));
    }

    fn any_entries() -> impl Strategy<Value = Vec<Stored>> {
        let leaf = ("[a-d]{1,3}", any::<u128>()).prop_map(|(name, id)| file(&name, id));
        let entry = leaf.prop_recursive(4, 60, 8, |inner| {
            ("[a-d]{1,3}", unique(inner)).prop_map(|(name, entries)| folder(&name, entries))
        });
        unique(entry)
    }

    fn unique(entry: impl Strategy<Value = Stored>) -> impl Strategy<Value = Vec<Stored>> {
        proptest::collection::vec(entry, 0..8).prop_map(|mut entries| {
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            entries.dedup_by(|a, b| a.name == b.name);
            entries
        })
    }

    fn agrees(stored: &Folder, tree: &Tree, at: u32) {
        let children = tree.children(at).unwrap();
        assert_eq!(children.len(), stored.entries().len());
        for (entry, number) in stored.entries().iter().zip(children) {
            let item = tree.item(number).unwrap();
            assert_eq!((&*item.name, item.mode, item.parent), (&*entry.name, entry.mode, at));
            assert_eq!(tree.child(at, &entry.name), Some(number));
            if let Node::Folder(inner) = &entry.node {
                agrees(inner, tree, number);
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_added(entries in any_entries()) {
            let stored = Folder::new(entries).unwrap();
            agrees(&stored, &Tree::of_folder(&stored), 0);
        }
    }
}
