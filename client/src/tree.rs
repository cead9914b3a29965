//! Folders of this machine as trees of a cluster, and back; what stands where inside a tree.
//!
//! Responsible for reading tree files and for finding paths in them. Walking a local folder is
//! `tree/put.rs`, recreating one `tree/get.rs`. What a tree may contain is [`proto::tree`]'s matter.

pub(crate) mod get;
mod put;

use std::collections::VecDeque;

use proto::ids::FileId;
use proto::limits::{TREE_BYTES, TREE_DEPTH};
use proto::name::Pointer;
use proto::tree::{Folder, MAGIC, Node, TreeError};

pub(crate) use put::kind_name;

use crate::blocking::{Begun, Client};
use crate::error::ClientError;

/// Files that are under way together. With [`SMALL_BYTES`] it bounds the memory of a transfer.
const IN_FLIGHT: usize = 128;

/// Files up to this size are read and written as a whole (eyeballed: below it the round trip costs
/// more than the bytes).
const SMALL_BYTES: u64 = 256 << 10;

/// How far storing or fetching a folder is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeProgress {
    /// Files that are there.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What is done with times of last change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// They are left out, so that equal folders are one tree.
    Without,
    /// They are kept.
    Keep,
}

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// A file.
    File {
        /// Its content.
        file: FileId,
        /// Its bytes, where they are known without asking storage.
        length: Option<u64>,
        /// Its permission bits, where it stands in a tree.
        mode: Option<u16>,
    },
    /// A folder.
    Folder(Folder),
    /// A symbolic link with this target; links are shown, not followed.
    Link(Vec<u8>),
}

/// Things that were begun, the oldest first, and what each is about.
struct Window<T, A>(VecDeque<(A, Begun<T>)>);

impl<T, A> Window<T, A> {
    fn new() -> Window<T, A> {
        Window(VecDeque::with_capacity(IN_FLIGHT))
    }

    fn push(&mut self, about: A, begun: Begun<T>) {
        self.0.push_back((about, begun));
    }

    /// The oldest one where there are more than `left`, to be waited for.
    fn pop_above(&mut self, left: usize) -> Option<(A, Begun<T>)> {
        if self.0.len() > left { self.0.pop_front() } else { None }
    }
}

impl Client {
    /// Fetches one tree file. Folders that are tree files of their own stand in it as
    /// [`Node::Tree`].
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Tree`] where the file is no tree.
    pub fn read_tree(&self, tree: FileId) -> Result<Folder, ClientError> {
        let bytes = self.begin_get(tree, 0..u64::MAX, TREE_BYTES as u64).wait()??;
        Ok(Folder::decode(&bytes)?)
    }

    /// What a pointer and a path inside it lead to: parts divided by slashes, empty ones and a
    /// trailing slash mean nothing.
    ///
    /// # Errors
    /// [`ClientError::Path`] for a path with `.` or `..`, [`ClientError::NoEntry`] where nothing is
    /// there, and those of [`Client::read_tree`].
    pub fn resolve(&self, from: Pointer, path: &[u8]) -> Result<Resolved, ClientError> {
        let mut found = if from.is_tree {
            Resolved::Folder(self.read_tree(from.file)?)
        } else {
            Resolved::File { file: from.file, length: Some(from.length), mode: None }
        };
        for part in parts(path)? {
            let no_entry = || ClientError::NoEntry { path: lossy(path) };
            let Resolved::Folder(folder) = found else {
                return Err(no_entry());
            };
            let entry = folder.entry(part).ok_or_else(no_entry)?;
            found = match &entry.node {
                Node::File { file, length } => {
                    let (length, mode) = (Some(*length), Some(entry.mode));
                    Resolved::File { file: *file, length, mode }
                }
                Node::Folder(folder) => Resolved::Folder(folder.clone()),
                Node::Tree { tree, .. } => Resolved::Folder(self.read_tree(*tree)?),
                Node::Link { target } => Resolved::Link(target.clone()),
            };
        }
        Ok(found)
    }

    /// As [`Client::resolve`], from a file of which nobody said whether it is a tree: it is one
    /// where its bytes are.
    ///
    /// # Errors
    /// As [`Client::resolve`].
    pub fn resolve_file(&self, file: FileId, path: &[u8]) -> Result<Resolved, ClientError> {
        let is_inside = parts(path)?.next().is_some();
        let begins_as_tree = || -> Result<bool, ClientError> {
            let head = self.begin_get(file, 0..MAGIC.len() as u64, MAGIC.len() as u64);
            Ok(head.wait()?? == MAGIC)
        };
        if is_inside || begins_as_tree()? {
            match self.resolve(Pointer { is_tree: true, file, length: 0 }, path) {
                // A file may begin like a tree and be none, or be larger than one may be.
                Err(ClientError::Tree(_) | ClientError::TooLarge { .. }) if !is_inside => {}
                resolved => return resolved,
            }
        }
        Ok(Resolved::File { file, length: None, mode: None })
    }
}

/// The parts of a path inside a tree.
fn parts(path: &[u8]) -> Result<impl Iterator<Item = &[u8]>, ClientError> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
    if parts.clone().any(|part| part == b"." || part == b"..") {
        return Err(ClientError::Path { path: lossy(path) });
    }
    Ok(parts)
}

fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// The depth of a folder inside one of depth `outer`.
pub(crate) fn deeper(outer: usize) -> Result<usize, TreeError> {
    if outer < TREE_DEPTH { Ok(outer + 1) } else { Err(TreeError::Depth) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_never_climb() {
        let split = |path: &'static [u8]| parts(path).map(|it| it.collect::<Vec<_>>());
        assert_eq!(split(b"/a//b/").unwrap(), [b"a", b"b"]);
        assert!(split(b"").unwrap().is_empty());
        assert_eq!(split(b"..a/b..").unwrap().len(), 2);
        for path in [&b".."[..], b"a/..", b"a/../b", b"./a"] {
            assert!(matches!(split(path), Err(ClientError::Path { .. })));
        }
    }
}
