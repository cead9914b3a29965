//! A tree as a file-system image (EROFS) that nobody stores: its metadata is written here in
//! memory, and it is known which file's bytes lie where behind it.
//!
//! - [`Gathering`] makes the nodes of an image from a job's inputs, tree file after tree file.
//! - [`build`] writes the metadata of nodes and gives their content its places.
//! - [`Image`] says what lies where; whoever serves it reads the content from elsewhere.
//!
//! The structures on the disk stand in `format`, which of them is where is decided in `build`, the
//! entries of folders are `folder`'s. Deliberately without compression, extended attributes and
//! checksums: nothing of the image is ever written anywhere.

mod build;
mod content;
mod folder;
mod format;
mod gathering;
mod outline;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;

use proto::ids::FileId;

pub use build::build;
pub use content::{Content, Device, Piece, Placed};
pub use format::BLOCK_BYTES;
pub use gathering::{Gathering, GatheringError};

/// Nodes of one image (eyeballed: some 300 MB while it is built). More are shown without an image.
pub const NODES: usize = 2_000_000;

/// Metadata of one image in bytes (eyeballed: it is kept as long as the image is shown).
pub const METADATA_BYTES: u64 = 256 << 20;

/// Files from this size on lie on the second device, each on a multiple of it: the size of a large
/// page.
pub const BIG_FILE_BYTES: u64 = 2 << 20;

/// What stands at one place of a tree that is shown as an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Position of the folder that it stands in, which comes before it; 0 for the root.
    pub parent: u32,
    /// Its name: 1 to 255 bytes, neither slash nor NUL; empty for the root.
    pub name: Vec<u8>,
    /// Permission bits, at most `0o777`.
    pub mode: u16,
    /// When it was last changed: seconds since 1970, negative before, and nanoseconds.
    pub mtime: (i64, u32),
    /// What it is.
    pub kind: NodeKind,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A folder: the nodes that name it as their parent.
    Folder,
    /// A file.
    File {
        /// Its content.
        file: FileId,
        /// Its bytes.
        length: u64,
    },
    /// A symbolic link.
    Link {
        /// Its target: 1 to 4,095 bytes without NUL.
        target: Vec<u8>,
    },
}

/// Why nodes are no image. What they mean may still be shown in another way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The first node is missing or no folder.
    #[error("an image begins with a folder")]
    Root,
    /// A node that cannot be.
    #[error("the entry {name:?} {problem}")]
    Node {
        /// Its name, made printable.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// More nodes than [`NODES`].
    #[error("{count} entries are above the {NODES} of an image")]
    TooManyNodes {
        /// How many.
        count: usize,
    },
    /// Names and links take more than [`METADATA_BYTES`].
    #[error("names and links take more than the {METADATA_BYTES} bytes of an image")]
    TooMuchMetadata,
    /// The content takes more than 2^32 blocks of [`BLOCK_BYTES`].
    #[error("the files take more than the 16 TiB of an image")]
    TooMuchContent,
}

/// The metadata of an image, and what lies behind it.
pub struct Image {
    metadata: Vec<u8>,
    content: Content,
}

impl Image {
    /// The first bytes of the primary file; what lies behind them is content, or zero.
    #[must_use]
    pub fn metadata(&self) -> &[u8] {
        &self.metadata
    }

    /// Length of the primary file: a multiple of [`BLOCK_BYTES`].
    #[must_use]
    pub fn primary_bytes(&self) -> u64 {
        self.content.end(Device::Primary).max(self.metadata.len() as u64)
    }

    /// Length of the second device: a multiple of [`BLOCK_BYTES`]; 0 where there is none.
    #[must_use]
    pub fn big_bytes(&self) -> u64 {
        self.content.end(Device::Big)
    }

    /// What lies at an offset, from there to the end of its file; `None` where it is metadata or
    /// zero.
    #[must_use]
    pub fn at(&self, device: Device, offset: u64) -> Option<Piece> {
        self.pieces(device, offset..u64::MAX).next().filter(|piece| piece.at == offset)
    }

    /// What lies in a range, in order. Between the pieces is metadata or zero.
    pub fn pieces(&self, device: Device, range: Range<u64>) -> impl Iterator<Item = Piece> {
        self.content.pieces(device, range)
    }

    /// All content that is not empty, each once, in the order of a device: what a folder's files
    /// hold lies beside each other.
    pub fn files(&self, device: Device) -> impl ExactSizeIterator<Item = Placed> {
        self.content.files(device)
    }

    /// Bytes of memory that it takes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.metadata.capacity() as u64 + self.content.memory_bytes()
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let metadata = self.metadata.len();
        f.debug_struct("Image").field("metadata", &metadata).finish_non_exhaustive()
    }
}
