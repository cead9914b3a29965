//! Trees to bytes: one canonical encoding, and which folders become tree files of their own.

use crate::ids::FileId;
use crate::limits::{INLINE_FOLDER_BYTES, TREE_BYTES};
use crate::manifest::name_file;
use crate::tree::{Entry, Folder, MAGIC, Node, TreeError, kind};

/// One file of an encoded tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeFile {
    /// Its UUID.
    pub file: FileId,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A tree as the files that are to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedTree {
    /// The file that names everything else: its UUID is the tree's.
    pub root: TreeFile,
    /// Folders that are files of their own, inner ones before those that name them.
    pub folders: Vec<TreeFile>,
}

impl Folder {
    /// The files of this tree. A sub-folder longer than [`INLINE_FOLDER_BYTES`] becomes a file of
    /// its own, smaller ones stand in their parent, so that equal folders are always cut alike.
    ///
    /// # Errors
    /// [`TreeError::TooLarge`] for a folder that does not fit [`TREE_BYTES`].
    pub fn encode(&self) -> Result<EncodedTree, TreeError> {
        let mut folders = Vec::new();
        let root = tree_file(&self.encode_entries(&mut folders)?)?;
        Ok(EncodedTree { root, folders })
    }

    fn encode_entries(&self, folders: &mut Vec<TreeFile>) -> Result<Vec<u8>, TreeError> {
        let mut bytes = Vec::with_capacity(4 + self.entries.len() * 48);
        // A folder has fewer entries than bytes, and those are limited far below 2^32.
        let too_large = |_| TreeError::TooLarge { length: self.entries.len() };
        let count = u32::try_from(self.entries.len()).map_err(too_large)?;
        bytes.extend_from_slice(&count.to_le_bytes());
        for entry in &self.entries {
            encode_entry(entry, folders, &mut bytes)?;
            if bytes.len() > TREE_BYTES {
                return Err(TreeError::TooLarge { length: bytes.len() });
            }
        }
        Ok(bytes)
    }
}

fn encode_entry(
    entry: &Entry,
    folders: &mut Vec<TreeFile>,
    bytes: &mut Vec<u8>,
) -> Result<(), TreeError> {
    match &entry.node {
        Node::File { file, length } => {
            encode_head(entry, kind::FILE, bytes);
            encode_reference(*file, *length, bytes);
        }
        Node::Tree { tree, length } => {
            encode_head(entry, kind::TREE, bytes);
            encode_reference(*tree, *length, bytes);
        }
        Node::Folder(folder) => {
            let inner = folder.encode_entries(folders)?;
            if inner.len() > INLINE_FOLDER_BYTES {
                let file = tree_file(&inner)?;
                encode_head(entry, kind::TREE, bytes);
                encode_reference(file.file, file.bytes.len() as u64, bytes);
                folders.push(file);
            } else {
                encode_head(entry, kind::FOLDER, bytes);
                bytes.extend_from_slice(&(inner.len() as u32).to_le_bytes());
                bytes.extend_from_slice(&inner);
            }
        }
        Node::Link { target } => {
            encode_head(entry, kind::LINK, bytes);
            bytes.extend_from_slice(&(target.len() as u16).to_le_bytes());
            bytes.extend_from_slice(target);
        }
    }
    Ok(())
}

fn encode_head(entry: &Entry, kind: u8, bytes: &mut Vec<u8>) {
    let time_bit = if entry.modified.is_some() { kind::WITH_TIME } else { 0 };
    bytes.push(kind | time_bit);
    bytes.extend_from_slice(&entry.mode.to_le_bytes());
    bytes.push(entry.name.len() as u8);
    bytes.extend_from_slice(&entry.name);
    if let Some(modified) = entry.modified {
        bytes.extend_from_slice(&modified.seconds.to_le_bytes());
        bytes.extend_from_slice(&modified.nanoseconds.to_le_bytes());
    }
}

fn encode_reference(file: FileId, length: u64, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(bytemuck::bytes_of(&file.to_wire()));
    bytes.extend_from_slice(&length.to_le_bytes());
}

fn tree_file(entries: &[u8]) -> Result<TreeFile, TreeError> {
    let bytes = [&MAGIC[..], entries].concat();
    let length = bytes.len();
    if length > TREE_BYTES {
        return Err(TreeError::TooLarge { length });
    }
    let (file, _) = name_file(&bytes).map_err(|_| TreeError::TooLarge { length })?;
    Ok(TreeFile { file, bytes })
}
