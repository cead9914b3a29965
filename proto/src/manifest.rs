//! The manifest of a file of several blocks: its length and the digests of its blocks.
//!
//! A file of up to one block (0 to 4 MiB) has none: its UUID is that of its only block. A larger
//! file's UUID is that of its manifest, which is itself a block under a context of its own (see
//! [`crate::digest`]). One file has exactly one manifest: everything that could be said in two
//! ways is refused. Fetching and storing are the client's matter.

use std::fmt;
use std::ops::Range;

use crate::digest::{Digest, verify};
use crate::ids::{BlockId, FileId};
use crate::limits::{BLOCK_BYTES, BLOCKS_PER_FILE, FILE_BYTES, WHOLE_FILE_BYTES};
use crate::status::BlockKind;

/// The first eight bytes: a name and a version.
pub const MAGIC: [u8; 8] = *b"RmdFile\x01";

const HEAD_BYTES: usize = 24;
const DIGEST_BYTES: usize = size_of::<Digest>();
const _: () = assert!(HEAD_BYTES + BLOCKS_PER_FILE * DIGEST_BYTES <= WHOLE_FILE_BYTES);

/// Length and blocks of a file of more than one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    length: u64,
    blocks: Vec<Digest>,
}

/// Why bytes are not a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManifestError {
    /// They do not verify against the file's UUID.
    Digest,
    /// They do not begin as one of this version.
    Magic,
    /// Blocks of another size than this version's.
    BlockSize {
        /// What it says.
        block_bytes: u64,
    },
    /// A length that needs no manifest, or that is above the limit.
    Length {
        /// What it says.
        length: u64,
    },
    /// Another number of digests than the length asks for.
    BlockCount {
        /// How many there should be.
        wanted: u64,
        /// Bytes of digests that there are.
        found_bytes: usize,
    },
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ManifestError::Digest => f.write_str("the manifest is not that of the file"),
            ManifestError::Magic => f.write_str("not a manifest of this version"),
            ManifestError::BlockSize { block_bytes } => {
                write!(f, "blocks of {block_bytes} bytes where {BLOCK_BYTES} are expected")
            }
            ManifestError::Length { length } => write!(
                f,
                "a file of {length} bytes has no manifest: it takes more than {BLOCK_BYTES} and \
                 at most {FILE_BYTES}"
            ),
            ManifestError::BlockCount { wanted, found_bytes } => {
                write!(f, "{found_bytes} bytes of digests where {wanted} digests are expected")
            }
        }
    }
}

impl std::error::Error for ManifestError {}

impl Manifest {
    /// The manifest of a file by the content digests of its blocks; all blocks but the last have
    /// 4 MiB.
    ///
    /// # Errors
    /// [`ManifestError::Length`] and [`ManifestError::BlockCount`].
    pub fn new(length: u64, blocks: Vec<Digest>) -> Result<Manifest, ManifestError> {
        check_count(length, blocks.len() * DIGEST_BYTES)?;
        Ok(Manifest { length, blocks })
    }

    /// Bytes of the file.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Digests of the blocks in order, under the context of content.
    #[must_use]
    pub fn blocks(&self) -> &[Digest] {
        &self.blocks
    }

    /// Block and size of one position; `None` behind the last.
    #[must_use]
    pub fn block(&self, index: usize) -> Option<(BlockId, usize)> {
        let digest = self.blocks.get(index)?;
        let rest = self.length - index as u64 * BLOCK_BYTES as u64;
        Some((digest.block_id(), rest.min(BLOCK_BYTES as u64) as usize))
    }

    /// Indices of the blocks that hold the bytes from `offset` on, `length` of them or as many as
    /// the file has.
    #[must_use]
    pub fn blocks_of(&self, offset: u64, length: u64) -> Range<usize> {
        let end = offset.saturating_add(length).min(self.length);
        if offset >= end {
            return 0..0;
        }
        let block = BLOCK_BYTES as u64;
        (offset / block) as usize..end.div_ceil(block) as usize
    }

    /// The bytes that are stored and digested: [`MAGIC`], length and block size as `u64`, then the
    /// digests.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + self.blocks.len() * DIGEST_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.length.to_le_bytes());
        bytes.extend_from_slice(&(BLOCK_BYTES as u64).to_le_bytes());
        self.blocks.iter().for_each(|block| bytes.extend_from_slice(&block.0));
        bytes
    }

    /// The file that has this manifest.
    #[must_use]
    pub fn file_id(&self) -> FileId {
        Digest::of(BlockKind::Manifest, &self.encode()).file_id()
    }

    /// Reads a manifest without proving whose it is; see [`Manifest::open`].
    ///
    /// # Errors
    /// All but [`ManifestError::Digest`].
    pub fn decode(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let Some((head, digests)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
            return Err(ManifestError::Magic);
        };
        let (magic, numbers) = head.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(ManifestError::Magic);
        }
        let (numbers, _) = numbers.as_chunks::<8>();
        let [length, block_bytes] = [0, 1].map(|at| u64::from_le_bytes(numbers[at]));
        if block_bytes != BLOCK_BYTES as u64 {
            return Err(ManifestError::BlockSize { block_bytes });
        }
        check_count(length, digests.len())?;
        let (digests, _) = digests.as_chunks::<DIGEST_BYTES>();
        Ok(Manifest { length, blocks: digests.iter().copied().map(Digest).collect() })
    }

    /// Proves that bytes are the manifest of `file`, and reads them. Nothing of a manifest is
    /// trusted before.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn open(file: FileId, bytes: &[u8]) -> Result<Manifest, ManifestError> {
        verify(BlockKind::Manifest, BlockId(file.0), bytes).map_err(|_| ManifestError::Digest)?;
        Manifest::decode(bytes)
    }
}

fn check_count(length: u64, digest_bytes: usize) -> Result<(), ManifestError> {
    if length <= BLOCK_BYTES as u64 || length > FILE_BYTES {
        return Err(ManifestError::Length { length });
    }
    let wanted = length.div_ceil(BLOCK_BYTES as u64);
    if digest_bytes as u64 != wanted * DIGEST_BYTES as u64 {
        return Err(ManifestError::BlockCount { wanted, found_bytes: digest_bytes });
    }
    Ok(())
}

/// The UUID of a file that is in memory, and its manifest where it has more than one block. What
/// is stored are the blocks (each [`BLOCK_BYTES`], the last one shorter; one empty block for an
/// empty file) and the manifest.
///
/// # Errors
/// [`ManifestError::Length`] for a file above [`FILE_BYTES`].
pub fn name_file(content: &[u8]) -> Result<(FileId, Option<Manifest>), ManifestError> {
    if content.len() <= BLOCK_BYTES {
        return Ok((Digest::of(BlockKind::Content, content).file_id(), None));
    }
    let blocks = content.chunks(BLOCK_BYTES);
    let blocks = blocks.map(|block| Digest::of(BlockKind::Content, block)).collect();
    let manifest = Manifest::new(content.len() as u64, blocks)?;
    Ok((manifest.file_id(), Some(manifest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Manifest {
        let blocks = (0..3).map(|n| Digest([n; 32])).collect();
        Manifest::new(2 * BLOCK_BYTES as u64 + 5, blocks).unwrap()
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let manifest = example();
        let bytes = manifest.encode();
        assert_eq!(Manifest::decode(&bytes), Ok(manifest.clone()));
        assert_eq!(Manifest::open(manifest.file_id(), &bytes), Ok(manifest.clone()));
        assert_eq!(Manifest::open(FileId(1), &bytes), Err(ManifestError::Digest));
        assert_eq!(manifest.file_id().to_string(), "556161b3-5640-8744-96fb-3a9bea975f83");
    }

    #[test]
    fn blocks_are_found_by_position() {
        let manifest = example();
        let block = BLOCK_BYTES as u64;
        assert_eq!(manifest.block(2), Some((Digest([2; 32]).block_id(), 5)));
        assert_eq!(manifest.block(1).map(|it| it.1), Some(BLOCK_BYTES));
        assert_eq!(manifest.block(3), None);
        assert_eq!(manifest.blocks_of(0, 1), 0..1);
        assert_eq!(manifest.blocks_of(block - 1, 2), 0..2);
        assert_eq!(manifest.blocks_of(block, u64::MAX), 1..3);
        assert_eq!(manifest.blocks_of(manifest.length(), 1), 0..0);
        assert_eq!(manifest.blocks_of(7, 0), 0..0);
    }

    #[test]
    fn what_is_not_canonical_is_refused() {
        let good = example().encode();
        for (at, refusal) in [
            (0, "not a manifest of this version"),
            (7, "not a manifest of this version"),
            (15, "a file of"),
            (18, "blocks of"),
        ] {
            let mut bytes = good.clone();
            bytes[at] ^= 0x40;
            let error = Manifest::decode(&bytes).unwrap_err().to_string();
            assert!(error.starts_with(refusal), "{at}: {error}");
        }
        for bytes in [&good[..good.len() - 1], &good[..good.len() - 32], &good[..23], &[]] {
            assert!(Manifest::decode(bytes).is_err());
        }
        let longer = [&good[..], &[0; 32]].concat();
        assert!(matches!(Manifest::decode(&longer), Err(ManifestError::BlockCount { .. })));
        let one = Manifest::new(BLOCK_BYTES as u64, vec![Digest::default()]);
        assert!(matches!(one, Err(ManifestError::Length { .. })));
        let length = FILE_BYTES + 1;
        assert_eq!(Manifest::new(length, vec![]), Err(ManifestError::Length { length }));
    }

    #[test]
    fn the_largest_manifest_fits_a_plain_answer() {
        let blocks = vec![Digest([9; 32]); BLOCKS_PER_FILE];
        let manifest = Manifest::new(FILE_BYTES, blocks).unwrap();
        let bytes = manifest.encode();
        assert!(bytes.len() <= WHOLE_FILE_BYTES);
        assert_eq!(Manifest::decode(&bytes), Ok(manifest));
    }

    #[test]
    fn a_file_is_named_by_content_or_manifest() {
        let content = vec![1; BLOCK_BYTES + 1];
        let (one, manifest) = name_file(&content[1..]).unwrap();
        assert_eq!(manifest, None);
        assert_eq!(one.0, Digest::of(BlockKind::Content, &content[1..]).block_id().0);
        let (two, manifest) = name_file(&content).unwrap();
        let manifest = manifest.unwrap();
        assert_eq!((two, manifest.blocks().len()), (manifest.file_id(), 2));
        assert_eq!(name_file(&[]).unwrap().0.to_string(), "4c937e03-71ee-85f6-8114-59f9bf592eb1");
    }
}
