//! Where the bytes of what is stored come from.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::digest::Digest;
use proto::limits::BLOCK_BYTES;
use proto::status::BlockKind;
use rustix::fs::SeekFrom;

use crate::error::ClientError;
use crate::logic::files::{FilePlan, FilePlanner};

/// Bytes that can be read block by block, a second time where a storage node failed.
pub(crate) trait Source: Send {
    /// The bytes from `offset` on, `length` of them, or what went wrong. `buffer` may be used.
    fn read<'a>(
        &'a mut self,
        offset: u64,
        length: u64,
        buffer: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], String>;
}

/// Bytes in memory.
pub(crate) struct Memory(pub(crate) Arc<[u8]>);

impl Source for Memory {
    fn read<'a>(
        &'a mut self,
        offset: u64,
        length: u64,
        _buffer: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], String> {
        let end = offset.saturating_add(length);
        let range = usize::try_from(offset).ok().zip(usize::try_from(end).ok());
        let bytes = range.and_then(|(begin, end)| self.0.get(begin..end));
        bytes.ok_or_else(|| "it has no such bytes".to_owned())
    }
}

/// A file of this machine. It is opened for each block, so that ten thousand waiting files are not
/// ten thousand open ones.
pub(crate) struct LocalFile(pub(crate) PathBuf);

impl Source for LocalFile {
    fn read<'a>(
        &'a mut self,
        offset: u64,
        length: u64,
        buffer: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], String> {
        buffer.clear();
        buffer.resize(usize::try_from(length).unwrap_or(0), 0);
        let read = File::open(&self.0).and_then(|file| file.read_exact_at(buffer, offset));
        read.map_err(|error| format!("{}: {error}", self.0.display()))?;
        Ok(buffer)
    }
}

/// Names a file of this machine by reading all of it, but for blocks that are holes.
pub(crate) fn plan_file(path: &Path) -> Result<FilePlan, ClientError> {
    let failed =
        |operation| move |source| ClientError::File { operation, path: path.to_owned(), source };
    let file = File::open(path).map_err(failed("open"))?;
    let length = file.metadata().map_err(failed("look at"))?.len();
    let mut buffer =
        vec![0; BLOCK_BYTES.min(usize::try_from(length).unwrap_or(BLOCK_BYTES).max(1))];
    let mut planner = FilePlanner::new();
    let mut zeros = None;
    let mut at = 0;
    loop {
        if is_hole(&file, at, length) {
            let digest =
                zeros.get_or_insert_with(|| Digest::of(BlockKind::Content, &vec![0; BLOCK_BYTES]));
            if planner.update_block(*digest) {
                at += BLOCK_BYTES as u64;
                continue;
            }
        }
        let count = file.read_at(&mut buffer, at).map_err(failed("read"))?;
        if count == 0 {
            return Ok(planner.finish()?);
        }
        planner.update(buffer.get(..count).unwrap_or_default());
        at += count as u64;
    }
}

/// Whether a whole block at an offset has no bytes on the disk. False where that is not known.
fn is_hole(file: &File, offset: u64, length: u64) -> bool {
    let end = offset + BLOCK_BYTES as u64;
    if !offset.is_multiple_of(BLOCK_BYTES as u64) || end > length {
        return false;
    }
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(data) => data >= end,
        // There is a hole up to the end.
        Err(error) => error == rustix::io::Errno::NXIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_zeros() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sparse");
        let file = File::create(&path).unwrap();
        file.write_all_at(b"first", 0).unwrap();
        let at = 3 * BLOCK_BYTES as u64 + 77;
        file.write_all_at(b"data", at).unwrap();
        file.set_len(5 * BLOCK_BYTES as u64 + 5).unwrap();
        let content = std::fs::read(&path).unwrap();
        assert_eq!(plan_file(&path).unwrap(), FilePlanner::plan(&content).unwrap());
        file.set_len(2 * BLOCK_BYTES as u64).unwrap();
        let content = std::fs::read(&path).unwrap();
        assert_eq!(plan_file(&path).unwrap(), FilePlanner::plan(&content).unwrap());
    }

    #[test]
    fn both_sources_read_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let content: Vec<u8> = (0..BLOCK_BYTES + 1000).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let plan = plan_file(&path).unwrap();
        assert_eq!(plan, FilePlanner::plan(&content).unwrap());
        let mut memory = Memory(Arc::from(content.clone()));
        let mut file = LocalFile(path);
        let mut buffer = Vec::new();
        for (offset, length) in [(0, 10), (4_000_000, 1000), (0, content.len() as u64)] {
            let wanted = &content[offset as usize..(offset + length) as usize];
            assert_eq!(memory.read(offset, length, &mut buffer).unwrap(), wanted);
            assert_eq!(file.read(offset, length, &mut buffer).unwrap(), wanted);
        }
        let behind = content.len() as u64;
        assert!(memory.read(behind, 1, &mut buffer).is_err());
        assert!(file.read(behind, 1, &mut buffer).is_err());
        assert!(matches!(
            plan_file(&folder.path().join("absent")),
            Err(ClientError::File { operation: "open", .. })
        ));
    }
}
