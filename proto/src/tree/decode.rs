//! Bytes to trees. Bytes come from outside: every length is checked before it is used, and what
//! the encoder would have written otherwise is refused, so that equal folders have one UUID.

use crate::ids::FileId;
use crate::limits::{INLINE_FOLDER_BYTES, TREE_BYTES, TREE_DEPTH};
use crate::tree::{Entry, Folder, MAGIC, ModificationTime, Node, TreeError, kind, printable};
use crate::wire::WireUuid;

/// The smallest entry: kind, mode, length of the name, a name of one byte, a link's length and
/// target.
const ENTRY_BYTES_MIN: usize = 1 + 2 + 1 + 1 + 2 + 1;

impl Folder {
    /// Reads one tree file. Whoever follows [`Node::Tree`] entries counts the depth himself: a
    /// tree cannot contain itself (its UUID is a digest of what it contains), but it can be deep.
    ///
    /// # Errors
    /// [`TreeError`] for everything that [`Folder::encode`] does not write.
    pub fn decode(bytes: &[u8]) -> Result<Folder, TreeError> {
        if bytes.len() > TREE_BYTES {
            return Err(TreeError::TooLarge { length: bytes.len() });
        }
        let Some(rest) = bytes.strip_prefix(&MAGIC) else {
            return Err(TreeError::Magic);
        };
        let mut reader = Reader { rest, end: bytes.len() };
        let folder = reader.folder(1)?;
        if reader.rest.is_empty() { Ok(folder) } else { Err(reader.wrong_length()) }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    /// Offset of the end of `rest` from the start of the file, for error messages.
    end: usize,
}

impl<'a> Reader<'a> {
    fn wrong_length(&self) -> TreeError {
        TreeError::Length { offset: self.end - self.rest.len() }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], TreeError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(self.wrong_length())?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], TreeError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(self.wrong_length())?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u16(&mut self) -> Result<u16, TreeError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, TreeError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, TreeError> {
        self.array().map(u64::from_le_bytes)
    }

    fn file(&mut self) -> Result<FileId, TreeError> {
        let uuid: WireUuid = bytemuck::pod_read_unaligned(&self.array::<16>()?);
        Ok(uuid.into())
    }

    fn folder(&mut self, depth: usize) -> Result<Folder, TreeError> {
        if depth > TREE_DEPTH {
            return Err(TreeError::Depth);
        }
        let count = self.u32()? as usize;
        if count > self.rest.len() / ENTRY_BYTES_MIN {
            return Err(self.wrong_length());
        }
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            entries.push(self.entry(depth)?);
        }
        Folder::from_sorted(entries)
    }

    fn entry(&mut self, depth: usize) -> Result<Entry, TreeError> {
        let [kind] = self.array()?;
        let mode = self.u16()?;
        let [name_length] = self.array()?;
        let name = self.take(name_length as usize)?.to_vec();
        let modified = if kind & kind::WITH_TIME == 0 {
            None
        } else {
            let seconds = self.u64()? as i64;
            Some(ModificationTime { seconds, nanoseconds: self.u32()? })
        };
        let node = match kind & !kind::WITH_TIME {
            kind::FILE => Node::File { file: self.file()?, length: self.u64()? },
            kind::TREE => Node::Tree { tree: self.file()?, length: self.u64()? },
            kind::FOLDER => Node::Folder(self.inline_folder(depth, &name)?),
            kind::LINK => {
                let length = self.u16()? as usize;
                Node::Link { target: self.take(length)?.to_vec() }
            }
            _ => {
                let problem = "is of a kind that does not exist";
                return Err(TreeError::Entry { name: printable(&name), problem });
            }
        };
        Ok(Entry { name, mode, modified, node })
    }

    fn inline_folder(&mut self, depth: usize, name: &[u8]) -> Result<Folder, TreeError> {
        let length = self.u32()? as usize;
        if length > INLINE_FOLDER_BYTES {
            let problem = "is a folder that takes a tree file of its own";
            return Err(TreeError::Entry { name: printable(name), problem });
        }
        let inner = self.take(length)?;
        let mut reader = Reader { rest: inner, end: self.end - self.rest.len() };
        let folder = reader.folder(depth + 1)?;
        if reader.rest.is_empty() { Ok(folder) } else { Err(reader.wrong_length()) }
    }
}
