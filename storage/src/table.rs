//! The table of a sealed volume: its records without the blocks' bytes.
//!
//! Written once, when the volume is sealed, and only a short cut: without it, or where its checksum
//! or the volume's length does not fit, the volume itself is read. Deliberately without any file
//! access; see `recovery.rs`.

use bytemuck::{Pod, Zeroable};
use proto::ids::BlockId;
use proto::wire::{WireUuid, items_of};

use crate::volume::{ALIGNMENT, Fields, Record, form};

const MAGIC: [u8; 8] = *b"RmdTabl\x02";

/// Tables of volumes that have blocks only, without the offsets of those with a file of their own.
const OLD_MAGIC: [u8; 8] = *b"RmdTabl\x01";

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
    /// In units of [`ALIGNMENT`].
    offset: u32,
    other_volume: u32,
    kind: u8,
    form: u8,
    replica_count: u8,
    reserved: u8,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, packed)]
struct OldItem {
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

/// What a table says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// The records in their order.
    pub(crate) records: Vec<Record>,
    /// Whether their offsets are right.
    pub(crate) has_offsets: bool,
}

/// The table of a sealed volume.
pub(crate) fn encode_table(volume: u32, volume_bytes: u64, records: &[Record]) -> Vec<u8> {
    let head = TableHead { magic: MAGIC, checksum: 0, volume, volume_bytes };
    let mut bytes = bytemuck::bytes_of(&head).to_vec();
    bytes.reserve(size_of_val(records));
    for record in records {
        let fields = Fields::of(volume, &record.what);
        let item = TableItem {
            block: record.block.to_wire(),
            stamp: fields.stamp,
            length: fields.length,
            // `open` refuses volumes that could grow beyond what fits.
            offset: (record.offset / ALIGNMENT) as u32,
            other_volume: fields.other_volume,
            kind: fields.kind,
            form: fields.form,
            replica_count: fields.replica_count,
            reserved: 0,
        };
        bytes.extend_from_slice(bytemuck::bytes_of(&item));
    }
    let checksum = crc32c::crc32c(&bytes[UNCHECKED..]);
    bytes[UNCHECKED - 4..UNCHECKED].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// The records of a table; `None` where it is not the table of this volume as it is now.
pub(crate) fn decode_table(bytes: &[u8], volume: u32, volume_bytes: u64) -> Option<Table> {
    let head: TableHead = bytemuck::pod_read_unaligned(bytes.get(..size_of::<TableHead>())?);
    let (own_volume, own_bytes, checksum) = (head.volume, head.volume_bytes, head.checksum);
    let is_right = own_volume == volume
        && own_bytes == volume_bytes
        && checksum == crc32c::crc32c(bytes.get(UNCHECKED..)?);
    if !is_right {
        return None;
    }
    let items = bytes.get(size_of::<TableHead>()..)?;
    let record = |block: WireUuid, offset: u32, fields: Fields| {
        let offset = u64::from(offset) * ALIGNMENT;
        let what = fields.what(volume, offset)?;
        Some(Record { block: BlockId::from(block), offset, what })
    };
    let records: Option<Vec<Record>> = match head.magic {
        MAGIC => items_of::<TableItem>(items)?
            .iter()
            .map(|item| record(item.block, item.offset, item.fields()))
            .collect(),
        OLD_MAGIC => items_of::<OldItem>(items)?
            .iter()
            .map(|item| record(item.block, item.offset, item.fields()))
            .collect(),
        _ => return None,
    };
    Some(Table { records: records?, has_offsets: head.magic == MAGIC })
}

impl TableItem {
    fn fields(&self) -> Fields {
        Fields {
            form: self.form,
            kind: self.kind,
            replica_count: self.replica_count,
            length: self.length,
            stamp: self.stamp,
            other_volume: self.other_volume,
        }
    }
}

impl OldItem {
    fn fields(&self) -> Fields {
        Fields {
            form: if self.is_inline == 1 { form::INLINE } else { form::OWN_FILE },
            kind: self.kind,
            length: self.length,
            stamp: self.stamp,
            ..Fields::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::status::BlockKind;

    use super::*;
    use crate::index::{Entry, NO_TOUCH, Place};
    use crate::volume::What;

    fn block(place: Place, replica_count: u8) -> What {
        What::Block(Entry {
            kind: BlockKind::Manifest,
            replica_count,
            volume: 7,
            place,
            length: 300,
            stamp: 11,
            touched: NO_TOUCH,
        })
    }

    #[test]
    fn a_table_says_what_the_records_say() {
        let whats = [
            block(Place::Inline { offset: 0 }, 3),
            block(Place::OwnFile { folder: 7 }, 0),
            block(Place::OwnFile { folder: 2 }, 5),
            What::Touch { stamp: 12, replica_count: 4 },
            What::Delete { about: 3 },
        ];
        let records: Vec<Record> = (0..)
            .zip(whats)
            .map(|(at, what)| Record { block: BlockId(at), offset: at as u64 * ALIGNMENT, what })
            .collect();
        let bytes = encode_table(7, 6400, &records);
        let table = decode_table(&bytes, 7, 6400).unwrap();
        assert_eq!(table, Table { records, has_offsets: true });
        assert_eq!(decode_table(&bytes, 8, 6400), None);
        assert_eq!(decode_table(&bytes, 7, 6401), None);
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 4;
            assert_eq!(decode_table(&bytes, 7, 6400), None, "byte {at}");
        }
    }

    #[test]
    fn a_table_of_the_first_form_is_read_without_numbers_of_replicas() {
        let item = |block: u128, is_inline| OldItem {
            block: BlockId(block).to_wire(),
            stamp: 11,
            length: 300,
            offset: u32::from(is_inline) * 9,
            kind: BlockKind::Manifest.to_wire(),
            is_inline,
            reserved: 0,
        };
        let head = TableHead { magic: OLD_MAGIC, checksum: 0, volume: 7, volume_bytes: 6400 };
        let mut bytes = bytemuck::bytes_of(&head).to_vec();
        bytes.extend_from_slice(bytemuck::bytes_of(&item(1, 1)));
        bytes.extend_from_slice(bytemuck::bytes_of(&item(2, 0)));
        let checksum = crc32c::crc32c(&bytes[UNCHECKED..]);
        bytes[UNCHECKED - 4..UNCHECKED].copy_from_slice(&checksum.to_le_bytes());
        let table = decode_table(&bytes, 7, 6400).unwrap();
        assert!(!table.has_offsets);
        let whats: Vec<What> = table.records.iter().map(|record| record.what).collect();
        let own = block(Place::OwnFile { folder: 7 }, 0);
        assert_eq!(whats, [block(Place::Inline { offset: 9 }, 0), own]);
    }
}
