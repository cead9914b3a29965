//! Trees: immutable folders, as a file that lists names and file UUIDs.
//!
//! Equal folders have one encoding and so one UUID: entries in one order, every value written in
//! one way, everything else refused. Sub-folders stand inside their parent's encoding as long as
//! they are small (`docs/decisions/trees.md`). Links are kept as data; who follows them is to stay
//! in the tree. Fetching, storing and showing trees is the client's and the mount's matter.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::ids::FileId;
use crate::limits;

pub use encode::{EncodedTree, TreeFile};

/// The first eight bytes of a tree file: a name and a version.
pub const MAGIC: [u8; 8] = *b"RmdTree\x01";

/// A sub-folder with a shorter encoding stands in its parent.
const TREE_FILE_BYTES_MIN: u64 = (MAGIC.len() + limits::INLINE_FOLDER_BYTES + 1) as u64;

/// A folder: its entries in bytewise order of their names, each name once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    entries: Vec<Entry>,
    depth: usize,
}

/// One name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Raw bytes: 1 to 255, neither `/` nor NUL, not `.` nor `..`.
    pub name: Vec<u8>,
    /// Permission bits, at most `0o777`; the three executable bits make a program. Owners, setuid
    /// and the like are not kept.
    pub mode: u16,
    /// When it was last changed, where that is kept.
    pub modified: Option<ModificationTime>,
    /// What it is.
    pub node: Node,
}

/// A time of last change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModificationTime {
    /// Seconds since 1970; negative before.
    pub seconds: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// What stands under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A file.
    File {
        /// Its content.
        file: FileId,
        /// Its bytes.
        length: u64,
    },
    /// A folder that stands inside its parent's encoding, or that is not encoded yet.
    Folder(Folder),
    /// A folder that is a tree file of its own and must be fetched to be seen.
    Tree {
        /// The tree file.
        tree: FileId,
        /// Its bytes.
        length: u64,
    },
    /// A symbolic link: its target as it stands, 1 to 4,095 bytes without NUL. It may be absolute
    /// or contain `..`: then it leads nowhere, since links are not followed out of the tree.
    Link {
        /// The target.
        target: Vec<u8>,
    },
}

/// Why something is not a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreeError {
    /// The bytes do not begin as a tree of this version.
    Magic,
    /// The bytes end too early, or go on behind the tree, or a length inside does not fit.
    Length {
        /// Where, in bytes from the start.
        offset: usize,
    },
    /// A name that no entry may have.
    Name {
        /// The name, made printable.
        name: String,
    },
    /// A name that does not stand behind the one before it: unsorted, or there twice.
    Order {
        /// The name, made printable.
        name: String,
    },
    /// An entry with a value that does not exist, or that must be written otherwise.
    Entry {
        /// Its name, made printable.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Folders inside each other beyond [`limits::TREE_DEPTH`].
    Depth,
    /// A tree file above [`limits::TREE_BYTES`].
    TooLarge {
        /// Its bytes.
        length: usize,
    },
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TreeError::Magic => f.write_str("not a tree of this version"),
            TreeError::Length { offset } => {
                write!(f, "the tree is damaged: a length at byte {offset} does not fit")
            }
            TreeError::Name { name } => write!(
                f,
                "{name:?} is no name for an entry: it takes 1 to {} bytes without slash and NUL, \
                 and neither . nor ..",
                limits::NAME_BYTES
            ),
            TreeError::Order { name } => {
                write!(f, "the entry {name:?} is there twice or not in order")
            }
            TreeError::Entry { name, problem } => write!(f, "the entry {name:?} {problem}"),
            TreeError::Depth => {
                write!(f, "more than {} folders inside each other", limits::TREE_DEPTH)
            }
            TreeError::TooLarge { length } => {
                write!(f, "a tree of {length} bytes is above the limit of {}", limits::TREE_BYTES)
            }
        }
    }
}

impl std::error::Error for TreeError {}

impl Default for Folder {
    fn default() -> Folder {
        Folder { entries: Vec::new(), depth: 1 }
    }
}

impl Folder {
    /// A folder of entries in any order.
    ///
    /// # Errors
    /// [`TreeError`] for a name or value that may not be, a name that is there twice, and folders
    /// too deep inside each other.
    pub fn new(mut entries: Vec<Entry>) -> Result<Folder, TreeError> {
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Folder::from_sorted(entries)
    }

    fn from_sorted(entries: Vec<Entry>) -> Result<Folder, TreeError> {
        let mut depth = 1;
        let mut before: Option<&Entry> = None;
        for entry in &entries {
            check_entry(entry)?;
            if before.is_some_and(|before| before.name >= entry.name) {
                return Err(TreeError::Order { name: printable(&entry.name) });
            }
            if let Node::Folder(folder) = &entry.node {
                depth = depth.max(folder.depth() + 1);
            }
            before = Some(entry);
        }
        if depth > limits::TREE_DEPTH {
            return Err(TreeError::Depth);
        }
        Ok(Folder { entries, depth })
    }

    /// The entries in order.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Folders inside each other, this one included; tree files of their own count nothing.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// The entry of a name.
    #[must_use]
    pub fn entry(&self, name: &[u8]) -> Option<&Entry> {
        let found = self.entries.binary_search_by(|entry| entry.name.as_slice().cmp(name));
        found.ok().and_then(|at| self.entries.get(at))
    }

    /// The files and the tree files that this folder and the folders inside it name, with their
    /// lengths, in the order of the encoding; what is named twice comes twice. What those tree
    /// files name is not among them.
    #[must_use]
    pub fn references(&self) -> Vec<Reference> {
        let mut found = Vec::new();
        self.collect_references(&mut found);
        found
    }

    fn collect_references(&self, found: &mut Vec<Reference>) {
        for entry in &self.entries {
            match &entry.node {
                Node::File { file, length } => {
                    found.push(Reference { file: *file, length: *length, is_tree: false });
                }
                Node::Tree { tree, length } => {
                    found.push(Reference { file: *tree, length: *length, is_tree: true });
                }
                Node::Folder(folder) => folder.collect_references(found),
                Node::Link { .. } => {}
            }
        }
    }
}

/// A file that a tree names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The file.
    pub file: FileId,
    /// Its bytes.
    pub length: u64,
    /// True for a tree file, which names others.
    pub is_tree: bool,
}

/// What holds for one entry whatever stands beside it.
fn check_entry(entry: &Entry) -> Result<(), TreeError> {
    let name = &entry.name;
    let is_name = (1..=limits::NAME_BYTES).contains(&name.len())
        && !name.contains(&b'/')
        && !name.contains(&0)
        && name != b"."
        && name != b"..";
    if !is_name {
        return Err(TreeError::Name { name: printable(name) });
    }
    let problem = match &entry.node {
        _ if entry.mode > 0o777 => "has a mode above 0777",
        _ if entry.modified.is_some_and(|it| it.nanoseconds >= 1_000_000_000) => {
            "has a modification time with a second or more of nanoseconds"
        }
        Node::File { length, .. } if *length > limits::FILE_BYTES => "is longer than a file may be",
        Node::Tree { length, .. }
            if !(TREE_FILE_BYTES_MIN..=limits::TREE_BYTES as u64).contains(length) =>
        {
            "is a folder with a tree file of its own and has not the length of one"
        }
        Node::Link { target }
            if !(1..=limits::LINK_TARGET_BYTES).contains(&target.len()) || target.contains(&0) =>
        {
            "is a link whose target is empty, too long or contains NUL"
        }
        Node::File { .. } | Node::Folder(_) | Node::Tree { .. } | Node::Link { .. } => {
            return Ok(());
        }
    };
    Err(TreeError::Entry { name: printable(name), problem })
}

/// A name for an error message: what is not UTF-8 replaced, not longer than a name.
fn printable(name: &[u8]) -> String {
    String::from_utf8_lossy(name.get(..limits::NAME_BYTES).unwrap_or(name)).into_owned()
}

/// Numbers of kinds as they stand in the encoding; the highest bit says that a modification time
/// follows.
mod kind {
    pub(super) const FILE: u8 = 1;
    pub(super) const FOLDER: u8 = 2;
    pub(super) const TREE: u8 = 3;
    pub(super) const LINK: u8 = 4;
    pub(super) const WITH_TIME: u8 = 0x80;
}
