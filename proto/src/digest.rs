//! Digests: how bytes get their UUID, and how they are verified against it.
//!
//! A digest is BLAKE3 in its `derive_key` mode under one of two contexts, so that no file's content
//! can pass for a manifest and no manifest for content: the context under which a block verifies
//! tells which of the two it is. What a manifest holds is [`crate::manifest`]'s matter.

use std::fmt;

use crate::ids::{BlockId, FileId};
use crate::limits;
use crate::status::BlockKind;

/// Context string of a block of content.
pub const CONTENT_CONTEXT: &str = "Remuda 2026-11-21 block content";

/// Context string of a manifest.
pub const MANIFEST_CONTEXT: &str = "Remuda 2026-11-21 file manifest";

/// A BLAKE3 digest of 32 bytes; which context it is under, its place says.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of a whole block.
    #[must_use]
    pub fn of(kind: BlockKind, bytes: &[u8]) -> Digest {
        let mut hasher = BlockHasher::new(kind);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The UUIDv8 (RFC 9562) made from the digest: its first 16 bytes in order, with the upper four
    /// bits of byte 6 replaced by 8 (the version) and the upper two bits of byte 8 by binary 10
    /// (the variant). 122 bits of the digest are in it. As a 128-bit number the first byte is the
    /// highest, so `upper` on the wire is bytes 0 to 7 read big-endian.
    #[must_use]
    pub const fn to_uuid(self) -> u128 {
        let mut number = 0u128;
        let mut at = 0;
        while at < 16 {
            number = number << 8 | self.0[at] as u128;
            at += 1;
        }
        number & !(0xf << 76) & !(0x3 << 62) | (0x8 << 76) | (0x2 << 62)
    }

    /// The block that has this digest.
    #[must_use]
    pub const fn block_id(self) -> BlockId {
        BlockId(self.to_uuid())
    }

    /// The file whose only block, or whose manifest, has this digest.
    #[must_use]
    pub const fn file_id(self) -> FileId {
        FileId(self.to_uuid())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Makes the digest of a block from pieces that come one after the other.
#[derive(Clone, Debug)]
pub struct BlockHasher(blake3::Hasher);

impl BlockHasher {
    /// Begins a block of the given kind.
    #[must_use]
    pub fn new(kind: BlockKind) -> BlockHasher {
        BlockHasher(blake3::Hasher::new_derive_key(match kind {
            BlockKind::Content => CONTENT_CONTEXT,
            BlockKind::Manifest => MANIFEST_CONTEXT,
        }))
    }

    /// Goes on with the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of everything so far.
    #[must_use]
    pub fn finish(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

/// Bytes that are not those of the block that they are said to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongDigest {
    /// The block that was wanted.
    pub wanted: BlockId,
    /// The block that the bytes are.
    pub found: BlockId,
}

impl fmt::Display for WrongDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the bytes are those of block {}, not of {}", self.found, self.wanted)
    }
}

impl std::error::Error for WrongDigest {}

/// Checks that bytes are the named block of the given kind, and returns their full digest.
///
/// # Errors
/// [`WrongDigest`] where they are another.
pub fn verify(kind: BlockKind, block: BlockId, bytes: &[u8]) -> Result<Digest, WrongDigest> {
    let digest = Digest::of(kind, bytes);
    let found = digest.block_id();
    if found == block { Ok(digest) } else { Err(WrongDigest { wanted: block, found }) }
}

/// Finds out what a whole block holds: the kind under which it verifies.
///
/// # Errors
/// [`WrongDigest`] (as of content) where it verifies under neither.
pub fn recognise(block: BlockId, bytes: &[u8]) -> Result<(BlockKind, Digest), WrongDigest> {
    let largest_content = limits::BLOCK_BYTES;
    if bytes.len() > largest_content {
        return verify(BlockKind::Manifest, block, bytes).map(|it| (BlockKind::Manifest, it));
    }
    match verify(BlockKind::Content, block, bytes) {
        Ok(digest) => Ok((BlockKind::Content, digest)),
        Err(wrong) => match verify(BlockKind::Manifest, block, bytes) {
            Ok(digest) => Ok((BlockKind::Manifest, digest)),
            Err(_) => Err(wrong),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_known_bytes_never_changes() {
        let content = Digest::of(BlockKind::Content, b"remuda");
        let manifest = Digest::of(BlockKind::Manifest, b"remuda");
        assert_eq!(
            content.to_string(),
            "2b88415ef702b6953f0bd81a5fd14f152435b8ac97ba7d8854fbe3d74fb5808f"
        );
        assert_eq!(
            manifest.to_string(),
            "a669041075537c11aba945819b99408c92d352bd0a32ae50fa23e85c15be4f40"
        );
        assert_eq!(content.file_id().to_string(), "2b88415e-f702-8695-bf0b-d81a5fd14f15");
        let uuid = uuid::Uuid::from_u128(content.to_uuid());
        assert_eq!(uuid.get_version_num(), 8);
        assert_eq!(uuid.get_variant(), uuid::Variant::RFC4122);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&content.0[..16]);
        assert_eq!(uuid, uuid::Builder::from_custom_bytes(bytes).into_uuid());
    }

    #[test]
    fn pieces_give_the_digest_of_the_whole() {
        let bytes: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        let mut hasher = BlockHasher::new(BlockKind::Content);
        bytes.chunks(777).for_each(|piece| hasher.update(piece));
        assert_eq!(hasher.finish(), Digest::of(BlockKind::Content, &bytes));
    }

    #[test]
    fn only_the_right_bytes_of_the_right_kind_verify() {
        for kind in [BlockKind::Content, BlockKind::Manifest] {
            let block = Digest::of(kind, b"bytes").block_id();
            assert_eq!(recognise(block, b"bytes").map(|it| it.0), Ok(kind));
            assert!(verify(kind, block, b"bytes").is_ok());
            assert!(verify(kind, block, b"bytez").is_err());
            assert!(recognise(block, b"bytez").is_err());
        }
        let content = Digest::of(BlockKind::Content, b"bytes").block_id();
        assert!(verify(BlockKind::Manifest, content, b"bytes").is_err());
        let large = vec![7; limits::BLOCK_BYTES + 1];
        let manifest = Digest::of(BlockKind::Manifest, &large).block_id();
        assert_eq!(recognise(manifest, &large).map(|it| it.0), Ok(BlockKind::Manifest));
        let too_large_content = Digest::of(BlockKind::Content, &large).block_id();
        assert!(recognise(too_large_content, &large).is_err());
    }
}
