//! Where the content of an image's files lies: equal content once, small files one behind the other
//! on the primary device, large ones on the second.

use std::collections::BTreeMap;
use std::ops::Range;

use proto::ids::FileId;

use super::format::{BLOCK_BYTES, BLOCKS_PER_LARGE_PAGE};
use super::{BIG_FILE_BYTES, ImageError};

/// One of the files that make an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// Metadata and small files.
    Primary,
    /// Files from [`BIG_FILE_BYTES`] on.
    Big,
}

/// A part of a file at its place in an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where its first byte lies on the device.
    pub at: u64,
    /// The file.
    pub file: FileId,
    /// All bytes of the file.
    pub length: u64,
    /// Which of the file's bytes they are.
    pub within: Range<u64>,
}

/// A file at its place in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Where its first byte lies on the device.
    pub at: u64,
    /// The file.
    pub file: FileId,
    /// Its bytes: not 0.
    pub length: u64,
}

#[derive(Clone, Copy, Debug)]
struct Extent {
    file: FileId,
    length: u64,
    /// Where it begins, in blocks.
    block: u32,
}

impl Extent {
    fn at(&self) -> u64 {
        u64::from(self.block) * BLOCK_BYTES
    }
}

/// Files in the order of their places, which do not overlap.
#[derive(Debug, Default)]
pub struct Content {
    small: Vec<Extent>,
    big: Vec<Extent>,
}

impl Content {
    fn extents(&self, device: Device) -> &[Extent] {
        match device {
            Device::Primary => &self.small,
            Device::Big => &self.big,
        }
    }

    /// Where the last file ends, rounded up to blocks; 0 where there is none.
    #[must_use]
    pub fn end(&self, device: Device) -> u64 {
        let last = self.extents(device).last();
        last.map_or(0, |last| last.at() + last.length.next_multiple_of(BLOCK_BYTES))
    }

    /// What lies in a range, in order.
    pub fn pieces(&self, device: Device, range: Range<u64>) -> impl Iterator<Item = Piece> {
        let extents = self.extents(device);
        let behind = extents.partition_point(|extent| extent.at() <= range.start);
        let from = extents.get(behind.saturating_sub(1)..).unwrap_or_default();
        let Range { start, end } = range;
        from.iter().take_while(move |extent| extent.at() < end).filter_map(move |extent| {
            let begin = start.saturating_sub(extent.at());
            let within = begin..extent.length.min(end - extent.at());
            let Extent { file, length, .. } = *extent;
            let is_some = within.start < within.end;
            is_some.then(|| Piece { at: extent.at() + begin, file, length, within })
        })
    }

    /// All files of a device in order.
    pub fn files(&self, device: Device) -> impl ExactSizeIterator<Item = Placed> {
        self.extents(device).iter().map(|extent| Placed {
            at: extent.at(),
            file: extent.file,
            length: extent.length,
        })
    }

    /// Bytes of memory that it takes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        ((self.small.capacity() + self.big.capacity()) * size_of::<Extent>()) as u64
    }
}

/// Content that gets its places.
pub(super) struct Placing {
    content: Content,
    /// Where what has a place begins. The length belongs to it: of two that are told of one file
    /// one is wrong, and only who reads that one is to suffer.
    places: BTreeMap<(FileId, u64), u32>,
    /// The first free block of each device.
    small_next: u64,
    big_next: u64,
}

impl Placing {
    /// Nothing has a place yet; small files may begin at a block.
    pub(super) fn new(first: u64) -> Placing {
        Placing {
            content: Content::default(),
            places: BTreeMap::new(),
            small_next: first,
            big_next: 0,
        }
    }

    /// The block at which a file begins, which is not empty.
    ///
    /// # Errors
    /// [`ImageError::TooMuchContent`].
    pub(super) fn place(&mut self, file: FileId, length: u64) -> Result<u32, ImageError> {
        if let Some(known) = self.places.get(&(file, length)) {
            return Ok(*known);
        }
        let blocks = length.div_ceil(BLOCK_BYTES);
        let (extents, begin, end) = if length < BIG_FILE_BYTES {
            let begin = self.small_next;
            self.small_next += blocks;
            (&mut self.content.small, begin, self.small_next)
        } else {
            let begin = self.big_next.next_multiple_of(BLOCKS_PER_LARGE_PAGE);
            self.big_next = begin + blocks;
            (&mut self.content.big, begin, self.big_next)
        };
        // The second device counts its blocks behind the primary's as well.
        let all = self.small_next.next_multiple_of(BLOCKS_PER_LARGE_PAGE) + self.big_next;
        if end.max(all) > u64::from(u32::MAX) {
            return Err(ImageError::TooMuchContent);
        }
        let block = u32::try_from(begin).map_err(|_| ImageError::TooMuchContent)?;
        extents.push(Extent { file, length, block });
        self.places.insert((file, length), block);
        Ok(block)
    }

    pub(super) fn finish(mut self) -> Content {
        self.content.small.shrink_to_fit();
        self.content.big.shrink_to_fit();
        self.content
    }
}
