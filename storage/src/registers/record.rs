//! How a change of a register lies in the log.
//!
//! A record is a head of 80 bytes with a checksum over itself and the value behind it, padded to a
//! multiple of 8. It names its log and its place, so that bytes which an earlier file left on the
//! disk, or which a value brought along, are not taken for one.

use bytemuck::{Pod, Zeroable};
use proto::ids::RingVersion;
use proto::limits;
use proto::register::{Part, Tag};
use proto::wire::WireUuid;

/// Records begin at multiples of this.
pub(super) const ALIGNMENT: usize = 8;

/// Bytes of a head.
pub(super) const HEAD_BYTES: usize = size_of::<Head>();
const _: () = assert!(HEAD_BYTES.is_multiple_of(ALIGNMENT));

/// The first four bytes of every head.
pub(super) const MAGIC: [u8; 4] = *b"RREG";

const KEEP: u8 = 1;
const SEAL: u8 = 2;
const FORGET: u8 = 3;

/// The head of a record.
#[derive(Clone, Copy, Default, Pod, Zeroable)]
#[repr(C, packed)]
struct Head {
    magic: [u8; 4],
    kind: u8,
    reserved: [u8; 3],
    /// Number of the log.
    log: u32,
    /// Bytes of the value.
    length: u32,
    /// Where in the log this head lies.
    offset: u64,
    /// Where the write began that this record is part of. Everything before was synced by then.
    write_offset: u64,
    /// The register; of a seal the part.
    address: u64,
    /// Sequence of the tag; of a seal the version.
    sequence: u64,
    writer: WireUuid,
    operation: u64,
    reserved_too: u32,
    /// CRC-32C of all bytes before it and of the value.
    checksum: u32,
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry<'a> {
    /// A copy.
    Keep { address: u64, tag: Tag, value: &'a [u8] },
    /// A part is not served under this version, nor under an older one.
    Seal { part: Part, version: RingVersion },
    /// There is no copy any more.
    Forget { address: u64 },
}

/// Bytes that the record of a value of `length` takes.
pub(super) const fn record_bytes(length: usize) -> u64 {
    (HEAD_BYTES + length.next_multiple_of(ALIGNMENT)) as u64
}

/// Records that are written together, at one place of one log.
#[derive(Debug)]
pub(super) struct Batch {
    log: u32,
    write_offset: u64,
    pub(super) bytes: Vec<u8>,
}

impl Batch {
    pub(super) fn new(log: u32, write_offset: u64) -> Batch {
        Batch { log, write_offset, bytes: Vec::new() }
    }

    /// Adds a record. Values are below 4 GiB by their limit.
    pub(super) fn push(&mut self, entry: &Entry<'_>) {
        let mut head = Head {
            magic: MAGIC,
            log: self.log,
            offset: self.write_offset + self.bytes.len() as u64,
            write_offset: self.write_offset,
            ..Head::default()
        };
        let mut content: &[u8] = &[];
        match *entry {
            Entry::Keep { address, tag, value } => {
                (head.kind, head.address, head.length) = (KEEP, address, value.len() as u32);
                head.sequence = tag.sequence;
                head.writer = WireUuid::new(tag.writer);
                head.operation = tag.operation;
                content = value;
            }
            Entry::Seal { part, version } => {
                (head.kind, head.address, head.sequence) = (SEAL, u64::from(part.0), version.0);
            }
            Entry::Forget { address } => (head.kind, head.address) = (FORGET, address),
        }
        head.checksum = checksum_of(&head, content);
        self.bytes.extend_from_slice(bytemuck::bytes_of(&head));
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

fn checksum_of(head: &Head, content: &[u8]) -> u32 {
    let bytes = bytemuck::bytes_of(head);
    let covered = bytes.split_last_chunk::<4>().map_or(bytes, |(covered, _)| covered);
    crc32c::crc32c_append(crc32c::crc32c(covered), content)
}

/// Bytes of the value that a head at this place announces; `None` where there is no head.
pub(super) fn announced(bytes: &[u8], log: u32, offset: u64) -> Option<usize> {
    let head: Head = bytemuck::try_pod_read_unaligned(bytes.get(..HEAD_BYTES)?).ok()?;
    let (own_log, own_offset, length) = (head.log, head.offset, head.length as usize);
    let is_here = head.magic == MAGIC && own_log == log && own_offset == offset;
    (is_here && length <= limits::REGISTER_VALUE_BYTES).then_some(length)
}

/// The record at this place and where the write began that it is part of; `None` where there is
/// no good one.
pub(super) fn record_at(bytes: &[u8], log: u32, offset: u64) -> Option<(Entry<'_>, u64)> {
    let length = announced(bytes, log, offset)?;
    let head: Head = bytemuck::try_pod_read_unaligned(bytes.get(..HEAD_BYTES)?).ok()?;
    let value = bytes.get(HEAD_BYTES..)?.get(..length)?;
    let (checksum, write_offset) = (head.checksum, head.write_offset);
    if checksum != checksum_of(&head, value) || write_offset > offset {
        return None;
    }
    let entry = match head.kind {
        KEEP => {
            let (sequence, operation) = (head.sequence, head.operation);
            let tag = Tag { sequence, writer: head.writer.value(), operation };
            Entry::Keep { address: head.address, tag, value }
        }
        SEAL => {
            let part = Part(u32::try_from(head.address).ok()?);
            Entry::Seal { part, version: RingVersion(head.sequence) }
        }
        FORGET => Entry::Forget { address: head.address },
        _ => return None,
    };
    Some((entry, write_offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_where_they_were_written_and_nowhere_else() {
        let tag = Tag { sequence: 7, writer: 1 << 100, operation: 3 };
        let entries = [
            Entry::Keep { address: u64::MAX, tag, value: b"seventeen letters" },
            Entry::Seal { part: Part(255), version: RingVersion(9) },
            Entry::Keep { address: 0, tag: Tag::default(), value: b"" },
            Entry::Forget { address: 5 },
        ];
        let mut batch = Batch::new(3, 4096);
        entries.iter().for_each(|entry| batch.push(entry));
        let mut at = 0;
        for entry in entries {
            let (bytes, offset) = (&batch.bytes[at..], 4096 + at as u64);
            assert_eq!(record_at(bytes, 3, offset), Some((entry, 4096)));
            assert_eq!(record_at(bytes, 4, offset), None, "another log");
            assert_eq!(record_at(bytes, 3, offset + 8), None, "another place");
            let length = announced(bytes, 3, offset).unwrap();
            assert_eq!(
                record_at(&bytes[..HEAD_BYTES + length - length.min(1)], 3, offset).is_some(),
                length == 0
            );
            at += record_bytes(length) as usize;
        }
        assert_eq!(at, batch.bytes.len());
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let mut batch = Batch::new(0, 0);
        let tag = Tag { sequence: 1, writer: 2, operation: 3 };
        batch.push(&Entry::Keep { address: 1, tag, value: b"12345678" });
        for bit in 0..batch.bytes.len() * 8 {
            let mut bytes = batch.bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(record_at(&bytes, 0, 0), None, "bit {bit}");
        }
    }
}
