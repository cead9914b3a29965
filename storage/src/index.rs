//! Where each block lies: an ordered map in memory, and the table of a sealed volume.
//!
//! The map is filled at the start from the tables of the sealed volumes and from a scan of the last
//! one. A table is written once, when its volume is sealed, and is only a short cut: without it,
//! or where its checksum or the volume's length does not fit, the volume itself is read. Nothing
//! here is on the path of a put. Deliberately without any file access; see `disk.rs`.

use std::collections::BTreeMap;

use bytemuck::{Pod, Zeroable};
use proto::ids::BlockId;
use proto::status::BlockKind;
use proto::wire::WireUuid;

/// Where a block's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the volume, behind its head.
    Inline {
        /// Where the head lies, in units of [`crate::volume::ALIGNMENT`].
        offset: u32,
    },
    /// In a file of its own, in the folder of the volume that refers to it.
    OwnFile,
}

/// What is known of a block that is durable here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: BlockKind,
    pub(crate) volume: u32,
    pub(crate) place: Place,
    /// Bytes of the block.
    pub(crate) length: u32,
    /// Round of the put: what sweeps go by.
    pub(crate) stamp: u64,
}

/// The durable blocks, about 60 bytes of memory each.
#[derive(Debug, Default)]
pub(crate) struct Index {
    entries: BTreeMap<BlockId, Entry>,
    bytes: u64,
}

impl Index {
    pub(crate) fn get(&self, block: BlockId) -> Option<Entry> {
        self.entries.get(&block).copied()
    }

    pub(crate) fn contains(&self, block: BlockId) -> bool {
        self.entries.contains_key(&block)
    }

    pub(crate) fn insert(&mut self, block: BlockId, entry: Entry) {
        self.bytes += u64::from(entry.length);
        if let Some(old) = self.entries.insert(block, entry) {
            self.bytes -= u64::from(old.length);
        }
    }

    /// Removes a block if it still lies where `entry` says; true if it did.
    pub(crate) fn remove(&mut self, block: BlockId, entry: Entry) -> bool {
        let is_there = self.entries.get(&block) == Some(&entry);
        if is_there {
            self.entries.remove(&block);
            self.bytes -= u64::from(entry.length);
        }
        is_there
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of the blocks.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

const MAGIC: [u8; 8] = *b"RmdTabl\x01";

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, packed)]
struct TableHead {
    magic: [u8; 8],
    /// CRC-32C of everything behind it.
    checksum: u32,
    volume: u32,
    /// Length of the sealed volume; another one means that the table is not of this volume.
    volume_bytes: u64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, packed)]
struct TableItem {
    block: WireUuid,
    stamp: u64,
    length: u32,
    offset: u32,
    kind: u8,
    is_inline: u8,
    reserved: u16,
}

/// Bytes in front of what the checksum covers.
const UNCHECKED: usize = 12;

/// The table of a sealed volume.
pub(crate) fn encode_table(
    volume: u32,
    volume_bytes: u64,
    entries: &[(BlockId, Entry)],
) -> Vec<u8> {
    let items = entries.iter().map(|(block, entry)| {
        let (offset, is_inline) = match entry.place {
            Place::Inline { offset } => (offset, 1),
            Place::OwnFile => (0, 0),
        };
        TableItem {
            block: block.to_wire(),
            stamp: entry.stamp,
            length: entry.length,
            offset,
            kind: entry.kind.to_wire(),
            is_inline,
            reserved: 0,
        }
    });
    let head = TableHead { magic: MAGIC, checksum: 0, volume, volume_bytes };
    let mut bytes = bytemuck::bytes_of(&head).to_vec();
    bytes.reserve(entries.len() * size_of::<TableItem>());
    for item in items {
        bytes.extend_from_slice(bytemuck::bytes_of(&item));
    }
    let checksum = crc32c::crc32c(&bytes[UNCHECKED..]);
    bytes[UNCHECKED - 4..UNCHECKED].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// The entries of a table; `None` where it is not the table of this volume as it is now.
pub(crate) fn decode_table(
    bytes: &[u8],
    volume: u32,
    volume_bytes: u64,
) -> Option<Vec<(BlockId, Entry)>> {
    let head: TableHead = bytemuck::pod_read_unaligned(bytes.get(..size_of::<TableHead>())?);
    let (own_volume, own_bytes, checksum) = (head.volume, head.volume_bytes, head.checksum);
    let is_right = head.magic == MAGIC
        && own_volume == volume
        && own_bytes == volume_bytes
        && checksum == crc32c::crc32c(bytes.get(UNCHECKED..)?);
    if !is_right {
        return None;
    }
    let items = proto::wire::items_of::<TableItem>(bytes.get(size_of::<TableHead>()..)?)?;
    let entries = items.iter().map(|item| {
        let place = match item.is_inline {
            1 => Place::Inline { offset: item.offset },
            _ => Place::OwnFile,
        };
        let kind = BlockKind::from_wire(item.kind)?;
        let entry = Entry { kind, volume, place, length: item.length, stamp: item.stamp };
        Some((BlockId::from(item.block), entry))
    });
    entries.collect()
}
