//! The records of a volume: how a block lies on disk, and how a volume is read back after a crash.
//!
//! A volume is an append-only file of records. Each begins with a head of 64 bytes with a checksum
//! of its own. That of a block is followed by the block's bytes, or by nothing where the block has a
//! file of its own: then the record is what makes that file count. Others raise a block's stamp or
//! delete it. This file encodes heads and decides which records of a file are good. Deliberately not here: when to write, sync and roll (`disk.rs`), and
//! where a block is found (`index.rs`).

use std::io;

use bytemuck::{Pod, Zeroable};
use node::files::File;
use proto::digest::verify;
use proto::ids::BlockId;
use proto::status::BlockKind;
use proto::wire::WireUuid;

use crate::index::{Entry, NO_TOUCH, Place};

/// Heads lie at multiples of this, so that the search behind a bad record knows where to look.
pub(crate) const ALIGNMENT: u64 = 64;

/// Bytes of a head.
pub(crate) const HEAD_BYTES: u64 = size_of::<Head>() as u64;
const _: () = assert!(HEAD_BYTES == ALIGNMENT);

/// The first four bytes of every head.
const MAGIC: u32 = u32::from_le_bytes(*b"RBLK");

/// What a record is, on the disk.
pub(crate) mod form {
    /// A block, behind the head.
    pub(crate) const INLINE: u8 = 0;
    /// A block with a file in the folder of the record's volume.
    pub(crate) const OWN_FILE: u8 = 1;
    /// A block is raised.
    pub(crate) const TOUCH: u8 = 2;
    /// A block is forgotten.
    pub(crate) const DELETE: u8 = 3;
    /// A block with a file in the folder of another volume.
    pub(crate) const FILE_ELSEWHERE: u8 = 4;
}

/// The head of a record. It names its volume and its place, so that bytes which a block brought
/// along, or which an earlier file left on the disk, are not taken for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, packed)]
struct Head {
    magic: u32,
    kind: u8,
    form: u8,
    replica_count: u8,
    reserved: u8,
    volume: u32,
    /// Bytes of the block.
    length: u32,
    block: WireUuid,
    stamp: u64,
    /// Where in the volume this head lies.
    offset: u64,
    /// Where the write began that this record is part of. Everything before was synced by then.
    write_offset: u64,
    /// Of a delete the volume of the record that it is about, of a block with a file elsewhere the
    /// volume in whose folder that is.
    other_volume: u32,
    /// CRC-32C of all bytes before it.
    checksum: u32,
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A block is here.
    Block(Entry),
    /// A block that an earlier record put here is raised.
    Touch {
        /// Its round, not below the one that it had.
        stamp: u64,
        /// Its replicas, not below what they were.
        replica_count: u8,
    },
    /// A block that lies in that volume is forgotten. It says nothing of the same block in another
    /// volume, so that it may be moved behind a later record of it.
    Delete {
        /// The volume.
        about: u32,
    },
}

/// A record of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) block: BlockId,
    /// Where its head lies in the volume.
    pub(crate) offset: u64,
    pub(crate) what: What,
}

impl Record {
    /// Bytes in the volume, padding included.
    fn bytes(&self) -> u64 {
        match &self.what {
            What::Block(entry) => entry.record_bytes(),
            What::Touch { .. } | What::Delete { .. } => HEAD_BYTES,
        }
    }
}

/// Bytes of a block behind its head, padding included.
pub(crate) fn content_bytes(entry: &Entry) -> u64 {
    match entry.place {
        Place::Inline { .. } => u64::from(entry.length).next_multiple_of(ALIGNMENT),
        Place::OwnFile { .. } => 0,
    }
}

/// Records that are written to a volume with one write.
#[derive(Debug)]
pub(crate) struct Batch {
    volume: u32,
    write_offset: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) records: Vec<Record>,
    /// Damaged blocks that it forgets, as the index had them.
    pub(crate) forgotten: Vec<(BlockId, Entry)>,
}

/// A block whose record is to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draft<'a> {
    pub(crate) block: BlockId,
    pub(crate) kind: BlockKind,
    /// Bytes of the block.
    pub(crate) length: u32,
    pub(crate) stamp: u64,
    pub(crate) replica_count: u8,
    pub(crate) bytes: Bytes<'a>,
}

/// Where the bytes of a [`Draft`] are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bytes<'a> {
    /// They go behind the head.
    Inline(&'a [u8]),
    /// They are in a file in the folder of that volume.
    OwnFile(u32),
}

impl Batch {
    /// Goes to `volume` at `write_offset`; made in `buffer`, whose content does not matter.
    pub(crate) fn new(volume: u32, write_offset: u64, mut buffer: Vec<u8>) -> Batch {
        buffer.clear();
        Batch { volume, write_offset, bytes: buffer, records: Vec::new(), forgotten: Vec::new() }
    }

    fn offset(&self) -> u64 {
        self.write_offset + self.bytes.len() as u64
    }

    /// Adds a block.
    pub(crate) fn block(&mut self, draft: &Draft<'_>) {
        let Draft { block, kind, length, stamp, replica_count, bytes } = *draft;
        let (place, content) = match bytes {
            // `open` refuses volumes that could grow beyond what fits.
            Bytes::Inline(content) => {
                (Place::Inline { offset: (self.offset() / ALIGNMENT) as u32 }, content)
            }
            Bytes::OwnFile(folder) => (Place::OwnFile { folder }, &[][..]),
        };
        let volume = self.volume;
        let entry = Entry { kind, replica_count, volume, place, length, stamp, touched: NO_TOUCH };
        self.record(block, What::Block(entry));
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT as usize), 0);
    }

    /// Adds what raises a block.
    pub(crate) fn touch(&mut self, block: BlockId, stamp: u64, replica_count: u8) {
        self.record(block, What::Touch { stamp, replica_count });
    }

    /// Adds what forgets the block that lies in volume `about`.
    pub(crate) fn delete(&mut self, block: BlockId, about: u32) {
        self.record(block, What::Delete { about });
    }

    fn record(&mut self, block: BlockId, what: What) {
        let offset = self.offset();
        let fields = Fields::of(self.volume, &what);
        let mut head = Head {
            magic: MAGIC,
            kind: fields.kind,
            form: fields.form,
            replica_count: fields.replica_count,
            reserved: 0,
            volume: self.volume,
            length: fields.length,
            block: block.to_wire(),
            stamp: fields.stamp,
            offset,
            write_offset: self.write_offset,
            other_volume: fields.other_volume,
            checksum: 0,
        };
        head.checksum = checksum_of(&head);
        self.bytes.extend_from_slice(bytemuck::bytes_of(&head));
        self.records.push(Record { block, offset, what });
    }
}

fn checksum_of(head: &Head) -> u32 {
    let bytes = bytemuck::bytes_of(head);
    crc32c::crc32c(&bytes[..bytes.len() - size_of::<u32>()])
}

/// A head that was read and is what it should be at that place.
struct Found {
    record: Record,
    write_offset: u64,
}

fn head_at(bytes: &[u8], volume: u32, offset: u64) -> Option<Found> {
    let bytes = bytes.get(..size_of::<Head>())?;
    let head: Head = bytemuck::pod_read_unaligned(bytes);
    let Head { magic, checksum, .. } = head;
    if magic != MAGIC || checksum != checksum_of(&head) {
        return None;
    }
    let (own_volume, own_offset, write_offset) = (head.volume, head.offset, head.write_offset);
    if own_volume != volume || own_offset != offset || write_offset > offset {
        return None;
    }
    let fields = Fields {
        form: head.form,
        kind: head.kind,
        replica_count: head.replica_count,
        length: head.length,
        stamp: head.stamp,
        other_volume: head.other_volume,
    };
    let what = fields.what(volume, offset)?;
    Some(Found { record: Record { block: BlockId::from(head.block), offset, what }, write_offset })
}

/// What heads and the items of tables have in common.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fields {
    pub(crate) form: u8,
    pub(crate) kind: u8,
    pub(crate) replica_count: u8,
    pub(crate) length: u32,
    pub(crate) stamp: u64,
    pub(crate) other_volume: u32,
}

impl Fields {
    /// What a record of `volume` at `offset` with these fields says.
    pub(crate) fn what(&self, volume: u32, offset: u64) -> Option<What> {
        let Fields { replica_count, stamp, other_volume, .. } = *self;
        let place = match self.form {
            form::INLINE => Place::Inline { offset: u32::try_from(offset / ALIGNMENT).ok()? },
            form::OWN_FILE => Place::OwnFile { folder: volume },
            form::FILE_ELSEWHERE => Place::OwnFile { folder: other_volume },
            form::TOUCH => return Some(What::Touch { stamp, replica_count }),
            form::DELETE => return Some(What::Delete { about: other_volume }),
            _ => return None,
        };
        let kind = BlockKind::from_wire(self.kind)?;
        let length = self.length;
        let touched = NO_TOUCH;
        Some(What::Block(Entry { kind, replica_count, volume, place, length, stamp, touched }))
    }

    /// The fields of a record of `volume`.
    pub(crate) fn of(volume: u32, what: &What) -> Fields {
        match *what {
            What::Block(Entry { kind, replica_count, place, length, stamp, .. }) => {
                let (form, other_volume) = match place {
                    Place::Inline { .. } => (form::INLINE, 0),
                    Place::OwnFile { folder } if folder == volume => (form::OWN_FILE, 0),
                    Place::OwnFile { folder } => (form::FILE_ELSEWHERE, folder),
                };
                Fields { form, kind: kind.to_wire(), replica_count, length, stamp, other_volume }
            }
            What::Touch { stamp, replica_count } => {
                Fields { form: form::TOUCH, stamp, replica_count, ..Fields::default() }
            }
            What::Delete { about } => {
                Fields { form: form::DELETE, other_volume: about, ..Fields::default() }
            }
        }
    }
}

/// Whether a later volume exists, so that everything in this one was synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// It was cut to its end and synced: whatever is bad there is damage.
    Sealed,
    /// The last write may be torn.
    Tail,
}

/// What of a volume is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// Its heads.
    Heads,
    /// The digests of the blocks in it as well.
    Contents,
}

/// What a volume holds.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Records whose head is good and whose block, where it lies in the volume and is checked, too.
    pub(crate) good: Vec<Record>,
    /// Where the next record goes. What lies behind was never acknowledged.
    pub(crate) end: u64,
    /// Bad records in front of good ones of a later write: they had been synced.
    pub(crate) damaged: u64,
}

/// Reads a volume from its beginning and checks every record in it.
///
/// # Errors
/// Where it cannot be read.
pub(crate) fn scan(file: &dyn File, volume: u32, extent: Extent, check: Check) -> io::Result<Scan> {
    let length = file.len()?;
    let mut good: Vec<Record> = Vec::new();
    let mut bad: Vec<u64> = Vec::new();
    // Everything in front of this offset was synced, and so acknowledged.
    let mut synced = match extent {
        Extent::Sealed => length,
        Extent::Tail => 0,
    };
    let mut end = 0;
    let mut at = 0;
    let mut content = Vec::new();
    while at < length {
        let mut head = [0; size_of::<Head>()];
        let read = file.read_at(&mut head, at)?;
        let Some(found) = head_at(&head[..read], volume, at) else {
            bad.push(at);
            match next_head(file, volume, at + ALIGNMENT, length)? {
                Some(next) => at = next,
                None => break,
            }
            continue;
        };
        synced = synced.max(found.write_offset);
        let next = at.saturating_add(found.record.bytes());
        if check == Check::Heads || is_content_good(file, &found.record, &mut content)? {
            good.push(found.record);
            end = next;
        } else {
            bad.push(at);
        }
        at = next;
    }
    // The first bad record of the last write ends the volume: what follows belongs to the same
    // write, which nobody was told about. The record that tells where the last write began lies
    // behind every damaged one, so that either it or this cut is the end.
    if let Some(&cut) = bad.iter().find(|&&offset| offset >= synced) {
        good.retain(|record| record.offset < cut);
        end = cut;
    }
    let damaged = bad.iter().filter(|&&offset| offset < synced).count() as u64;
    Ok(Scan { good, end, damaged })
}

fn is_content_good(file: &dyn File, record: &Record, content: &mut Vec<u8>) -> io::Result<bool> {
    let What::Block(entry @ Entry { place: Place::Inline { .. }, .. }) = &record.what else {
        return Ok(true);
    };
    content.clear();
    read_content(file, record.offset, entry, content)?;
    Ok(verify(entry.kind, record.block, content).is_ok())
}

/// Appends the bytes of a block whose head lies at `offset`; fewer than it should have where the
/// volume ends before, or where no block is as long as its record says.
pub(crate) fn read_content(
    file: &dyn File,
    offset: u64,
    entry: &Entry,
    content: &mut Vec<u8>,
) -> io::Result<()> {
    let length = entry.length as usize;
    if length > proto::limits::WHOLE_FILE_BYTES {
        return Ok(());
    }
    file.append_at(content, length, offset + HEAD_BYTES)
}

/// Bytes that the search for the next head reads at once.
const WINDOW_BYTES: usize = 1 << 20;

fn next_head(file: &dyn File, volume: u32, from: u64, length: u64) -> io::Result<Option<u64>> {
    let mut window = vec![0; WINDOW_BYTES];
    let mut at = from;
    while at < length {
        let read = file.read_at(&mut window, at)?;
        for (position, bytes) in window[..read].chunks_exact(ALIGNMENT as usize).enumerate() {
            if !bytes.starts_with(&MAGIC.to_le_bytes()) {
                continue;
            }
            let offset = at + position as u64 * ALIGNMENT;
            if head_at(bytes, volume, offset).is_some() {
                return Ok(Some(offset));
            }
        }
        if read < window.len() {
            break;
        }
        at += read as u64;
    }
    Ok(None)
}
