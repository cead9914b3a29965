//! The structures of an EROFS image, byte for byte (`Documentation/filesystems/erofs.rst` and
//! `fs/erofs/erofs_fs.h` of Linux 6.12). All numbers are little-endian; what is not named is 0.

/// Bytes of a block, the unit of places.
pub const BLOCK_BYTES: u64 = 1 << BLOCK_BITS;

const BLOCK_BITS: u8 = 12;

/// Blocks that a large page has: what begins on a multiple of them can be mapped by one.
pub(super) const BLOCKS_PER_LARGE_PAGE: u64 = super::BIG_FILE_BYTES / BLOCK_BYTES;

/// Where the superblock is; the first kilobyte is left to boot loaders.
pub(super) const SUPERBLOCK_AT: u64 = 1_024;

/// Where the second device is described.
pub(super) const SLOT_AT: u64 = SUPERBLOCK_AT + SUPERBLOCK_BYTES as u64;

/// The root's inode is the first behind both, whether there is a second device or not.
pub(super) const ROOT_AT: u64 = SLOT_AT + SLOT_BYTES as u64;

const SUPERBLOCK_BYTES: usize = 128;
const SLOT_BYTES: usize = 128;

/// Bytes of an inode, which begins on a multiple of them, so that it lies in one block.
pub(super) const INODE_BYTES: u64 = 64;

/// Bytes of the index that follows the inode of a file on the second device.
pub(super) const INDEX_BYTES: u64 = 8;

/// The number of an inode is its place in these.
const NUMBER_UNIT: u64 = 32;

const MAGIC: u32 = 0xE0F5_E1E2;

/// Inodes have modification times of their own.
const COMPATIBLE_MTIME: u32 = 2;

/// Files may be cut into chunks, and there is another device.
const INCOMPATIBLE_CHUNKS: u32 = 4;
const INCOMPATIBLE_DEVICES: u32 = 8;

/// A chunk's place names its device.
const CHUNK_INDEXES: u16 = 0x20;

const _: () = assert!(ROOT_AT.is_multiple_of(INODE_BYTES));
// The superblock has 16 bits for the number of the root, which is in the first block or the second.
const _: () = assert!((2 * BLOCK_BYTES) / NUMBER_UNIT <= u16::MAX as u64);

/// The number of the inode at an offset.
pub(super) fn number(at: u64) -> u64 {
    at / NUMBER_UNIT
}

/// Copies bytes into others; what would lie behind their end is left out.
fn put(bytes: &mut [u8], at: usize, part: &[u8]) {
    if let Some(place) = bytes.get_mut(at..).and_then(|rest| rest.get_mut(..part.len())) {
        place.copy_from_slice(part);
    }
}

/// The superblock.
pub(super) struct Superblock {
    pub(super) root_at: u64,
    pub(super) inode_count: u64,
    pub(super) primary_blocks: u32,
    pub(super) uuid: [u8; 16],
    pub(super) has_big: bool,
}

impl Superblock {
    pub(super) fn encode(&self) -> [u8; SUPERBLOCK_BYTES] {
        let mut bytes = [0; SUPERBLOCK_BYTES];
        put(&mut bytes, 0, &MAGIC.to_le_bytes());
        put(&mut bytes, 8, &COMPATIBLE_MTIME.to_le_bytes());
        put(&mut bytes, 12, &[BLOCK_BITS]);
        // Below 2^16, as is asserted above.
        put(&mut bytes, 14, &(number(self.root_at) as u16).to_le_bytes());
        put(&mut bytes, 16, &self.inode_count.to_le_bytes());
        put(&mut bytes, 36, &self.primary_blocks.to_le_bytes());
        put(&mut bytes, 48, &self.uuid);
        if self.has_big {
            let features = INCOMPATIBLE_CHUNKS | INCOMPATIBLE_DEVICES;
            put(&mut bytes, 80, &features.to_le_bytes());
            put(&mut bytes, 86, &1_u16.to_le_bytes());
            let slot = SLOT_AT / SLOT_BYTES as u64;
            put(&mut bytes, 88, &(slot as u16).to_le_bytes());
        }
        bytes
    }
}

/// What is said of the second device: its blocks, and which number its first one has when those of
/// the primary are counted before.
pub(super) fn slot(blocks: u32, first: u32) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    put(&mut bytes, 64, &blocks.to_le_bytes());
    put(&mut bytes, 68, &first.to_le_bytes());
    bytes
}

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    Link,
}

impl Kind {
    /// As a mode has it.
    fn bits(self) -> u16 {
        match self {
            Kind::File => 0o100_000,
            Kind::Folder => 0o040_000,
            Kind::Link => 0o120_000,
        }
    }

    /// As an entry of a folder has it.
    pub(super) fn in_folder(self) -> u8 {
        match self {
            Kind::File => 1,
            Kind::Folder => 2,
            Kind::Link => 7,
        }
    }
}

/// Where the bytes of an inode are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In consecutive blocks of the primary; 0 where there are none.
    Plain {
        /// The first of them.
        block: u32,
    },
    /// Whole blocks as above, the rest behind the inode.
    Inline {
        /// The first of the whole blocks.
        block: u32,
    },
    /// In one chunk of so many blocks, of which the index behind the inode tells the place.
    Chunk {
        /// Not 0.
        blocks: u64,
    },
}

/// An inode.
pub(super) struct Inode {
    pub(super) kind: Kind,
    /// Permission bits.
    pub(super) mode: u16,
    pub(super) size: u64,
    pub(super) place: Place,
    pub(super) serial: u32,
    pub(super) owner: (u32, u32),
    pub(super) mtime: (i64, u32),
    pub(super) link_count: u32,
}

impl Inode {
    pub(super) fn encode(&self) -> [u8; INODE_BYTES as usize] {
        let (layout, place) = match self.place {
            Place::Plain { block } => (0_u16, block),
            Place::Inline { block } => (2, block),
            Place::Chunk { blocks } => {
                let bits = blocks.next_power_of_two().trailing_zeros();
                (4, bits | u32::from(CHUNK_INDEXES))
            }
        };
        let mut bytes = [0; INODE_BYTES as usize];
        put(&mut bytes, 0, &(1 | layout << 1).to_le_bytes());
        put(&mut bytes, 4, &(self.kind.bits() | self.mode).to_le_bytes());
        put(&mut bytes, 8, &self.size.to_le_bytes());
        put(&mut bytes, 16, &place.to_le_bytes());
        put(&mut bytes, 20, &self.serial.to_le_bytes());
        put(&mut bytes, 24, &self.owner.0.to_le_bytes());
        put(&mut bytes, 28, &self.owner.1.to_le_bytes());
        put(&mut bytes, 32, &self.mtime.0.to_le_bytes());
        put(&mut bytes, 40, &self.mtime.1.to_le_bytes());
        put(&mut bytes, 44, &self.link_count.to_le_bytes());
        bytes
    }
}

/// The index behind the inode of a file whose one chunk begins at a block of the second device.
pub(super) fn index(block: u32) -> [u8; INDEX_BYTES as usize] {
    let mut bytes = [0; INDEX_BYTES as usize];
    put(&mut bytes, 2, &1_u16.to_le_bytes());
    put(&mut bytes, 4, &block.to_le_bytes());
    bytes
}

/// Bytes of a folder's or a link's content: whole blocks, and the rest that stands behind the inode
/// in the same block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Split {
    pub(super) blocks: u64,
    /// 0 where there is no rest, or where it would not fit beside the inode: then it has a block.
    pub(super) tail: u64,
}

/// How so many bytes are split.
pub(super) fn split(size: u64) -> Split {
    let tail = size % BLOCK_BYTES;
    if INODE_BYTES + tail > BLOCK_BYTES {
        return Split { blocks: size.div_ceil(BLOCK_BYTES), tail: 0 };
    }
    Split { blocks: size / BLOCK_BYTES, tail }
}
