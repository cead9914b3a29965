//! Files as blocks: what a file is called, which blocks it consists of and where in its source they
//! begin.
//!
//! Responsible for the arithmetic only: whoever has the source reads it, once for naming it and
//! once more for what the storage nodes lack.

use proto::digest::{BlockHasher, Digest};
use proto::ids::FileId;
use proto::limits::BLOCK_BYTES;
use proto::manifest::{Manifest, ManifestError};
use proto::status::BlockKind;

use super::transfer::SourceBlock;

/// A file that is ready to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePlan {
    /// The file.
    pub file: FileId,
    /// Its bytes.
    pub length: u64,
    /// Its blocks in order, and behind them the manifest where there is one.
    pub blocks: Vec<SourceBlock>,
    /// The manifest's bytes; `None` for a file of one block.
    pub manifest: Option<Vec<u8>>,
}

/// Where the bytes of a block are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockSource<'a> {
    /// In the file's source.
    File {
        /// The first byte.
        offset: u64,
        /// How many.
        length: u64,
    },
    /// In the plan: the manifest.
    Manifest(&'a [u8]),
}

impl FilePlan {
    /// Where the bytes of a block are; `None` behind the last.
    #[must_use]
    pub fn source(&self, index: usize) -> Option<BlockSource<'_>> {
        let block = self.blocks.get(index)?;
        match (&self.manifest, block.kind) {
            (Some(manifest), BlockKind::Manifest) => Some(BlockSource::Manifest(manifest)),
            _ => {
                let offset = index as u64 * BLOCK_BYTES as u64;
                Some(BlockSource::File { offset, length: block.length })
            }
        }
    }
}

/// Names a file from its bytes, piece by piece.
#[derive(Debug)]
pub struct FilePlanner {
    hasher: BlockHasher,
    in_block: usize,
    length: u64,
    digests: Vec<Digest>,
}

impl Default for FilePlanner {
    fn default() -> FilePlanner {
        FilePlanner::new()
    }
}

impl FilePlanner {
    /// Nothing read yet.
    #[must_use]
    pub fn new() -> FilePlanner {
        let hasher = BlockHasher::new(BlockKind::Content);
        FilePlanner { hasher, in_block: 0, length: 0, digests: Vec::new() }
    }

    /// Takes the next bytes of the file.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.in_block == BLOCK_BYTES {
                self.end_block();
            }
            let (now, rest) = bytes.split_at(bytes.len().min(BLOCK_BYTES - self.in_block));
            self.hasher.update(now);
            self.in_block += now.len();
            self.length += now.len() as u64;
            bytes = rest;
        }
    }

    /// Takes a whole block whose digest is known, such as one of a hole. True where it was taken:
    /// only at the beginning of a block, else its bytes have to come.
    #[must_use]
    pub fn update_block(&mut self, digest: Digest) -> bool {
        if self.in_block == BLOCK_BYTES {
            self.end_block();
        }
        let is_taken = self.in_block == 0;
        if is_taken {
            self.digests.push(digest);
            self.length += BLOCK_BYTES as u64;
        }
        is_taken
    }

    fn end_block(&mut self) {
        self.digests.push(self.hasher.finish());
        self.hasher = BlockHasher::new(BlockKind::Content);
        self.in_block = 0;
    }

    /// The plan, when all bytes were taken.
    ///
    /// # Errors
    /// [`ManifestError::Length`] for a file that is longer than a file may be.
    pub fn finish(mut self) -> Result<FilePlan, ManifestError> {
        // An empty file has one empty block.
        if self.in_block > 0 || self.digests.is_empty() {
            self.end_block();
        }
        let length = self.length;
        let source = |(index, digest): (usize, &Digest)| {
            let begin = index as u64 * BLOCK_BYTES as u64;
            let length = (length - begin).min(BLOCK_BYTES as u64);
            SourceBlock { block: digest.block_id(), kind: BlockKind::Content, length }
        };
        let mut blocks: Vec<SourceBlock> = self.digests.iter().enumerate().map(source).collect();
        if let [only] = self.digests.as_slice() {
            return Ok(FilePlan { file: only.file_id(), length, blocks, manifest: None });
        }
        let manifest = Manifest::new(length, self.digests)?.encode();
        let digest = Digest::of(BlockKind::Manifest, &manifest);
        blocks.push(SourceBlock {
            block: digest.block_id(),
            kind: BlockKind::Manifest,
            length: manifest.len() as u64,
        });
        Ok(FilePlan { file: digest.file_id(), length, blocks, manifest: Some(manifest) })
    }

    /// The plan of a file that is in memory.
    ///
    /// # Errors
    /// As [`FilePlanner::finish`].
    pub fn plan(content: &[u8]) -> Result<FilePlan, ManifestError> {
        let mut planner = FilePlanner::new();
        planner.update(content);
        planner.finish()
    }
}

#[cfg(test)]
mod tests {
    use proto::manifest::name_file;

    use super::*;

    #[test]
    fn blocks_whose_digest_is_known_need_no_bytes() {
        let zeros = vec![0; BLOCK_BYTES];
        let digest = Digest::of(BlockKind::Content, &zeros);
        for behind in [&b""[..], b"behind"] {
            let whole =
                [&zeros, b"between".repeat(BLOCK_BYTES / 7 + 1).as_slice(), &zeros].concat();
            let mut planner = FilePlanner::new();
            assert!(planner.update_block(digest));
            let rest = whole.get(BLOCK_BYTES..).unwrap();
            planner.update(rest.get(..BLOCK_BYTES).unwrap());
            planner.update(rest.get(BLOCK_BYTES..).unwrap());
            assert!(!planner.update_block(digest), "in the midst of a block");
            assert_eq!(planner.finish(), FilePlanner::plan(&whole));
            let mut planner = FilePlanner::new();
            assert!(planner.update_block(digest) && planner.update_block(digest));
            planner.update(behind);
            let whole = [&zeros, zeros.as_slice(), behind].concat();
            assert_eq!(planner.finish(), FilePlanner::plan(&whole));
        }
    }

    #[test]
    fn plans_agree_with_the_names_of_files() {
        for length in [0, 1, BLOCK_BYTES, BLOCK_BYTES + 1, 2 * BLOCK_BYTES, 2 * BLOCK_BYTES + 77] {
            let content: Vec<u8> = (0..length).map(|at| (at / 1000) as u8).collect();
            let mut planner = FilePlanner::new();
            content.chunks(99_991).for_each(|piece| planner.update(piece));
            let plan = planner.finish().unwrap();
            let (file, manifest) = name_file(&content).unwrap();
            assert_eq!(plan.file, file, "{length} bytes");
            assert_eq!(plan.manifest, manifest.map(|it| it.encode()));
            assert_eq!(plan, FilePlanner::plan(&content).unwrap());
            for (index, block) in plan.blocks.iter().enumerate() {
                let bytes = match plan.source(index).unwrap() {
                    BlockSource::File { offset, length } => {
                        &content[offset as usize..(offset + length) as usize]
                    }
                    BlockSource::Manifest(bytes) => bytes,
                };
                assert_eq!(Digest::of(block.kind, bytes).block_id(), block.block);
                assert_eq!(bytes.len() as u64, block.length);
            }
            assert_eq!(plan.source(plan.blocks.len()), None);
        }
    }
}
