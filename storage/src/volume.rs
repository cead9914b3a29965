//! The records of a volume: how a block lies on disk, and how a volume is read back after a crash.
//!
//! A volume is an append-only file of records. Each begins with a head of 64 bytes with a checksum
//! of its own and is followed by the block's bytes, or by nothing where the block has a file of its
//! own: then the record is what makes that file count. This file encodes heads and decides which
//! records of a file are good. Deliberately not here: when to write, sync and roll (`disk.rs`), and
//! where a block is found (`index.rs`).

use std::io;

use bytemuck::{Pod, Zeroable};
use node::files::File;
use proto::digest::verify;
use proto::ids::BlockId;
use proto::status::BlockKind;
use proto::wire::WireUuid;

use crate::index::{Entry, Place};

/// Heads lie at multiples of this, so that the search behind a bad record knows where to look.
pub(crate) const ALIGNMENT: u64 = 64;

/// Bytes of a head.
pub(crate) const HEAD_BYTES: u64 = size_of::<Head>() as u64;
const _: () = assert!(HEAD_BYTES == ALIGNMENT);

/// The first four bytes of every head.
const MAGIC: u32 = u32::from_le_bytes(*b"RBLK");

const INLINE: u8 = 0;
const OWN_FILE: u8 = 1;

/// The head of a record. It names its volume and its place, so that bytes which a block brought
/// along, or which an earlier file left on the disk, are not taken for one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, packed)]
struct Head {
    magic: u32,
    kind: u8,
    place: u8,
    reserved: u16,
    volume: u32,
    /// Bytes of the block.
    length: u32,
    block: WireUuid,
    stamp: u64,
    /// Where in the volume this head lies.
    offset: u64,
    /// Where the write began that this record is part of. Everything before was synced by then.
    write_offset: u64,
    reserved_too: u32,
    /// CRC-32C of all bytes before it.
    checksum: u32,
}

/// Bytes that a record takes with its padding.
#[must_use]
pub(crate) fn record_bytes(entry: &Entry) -> u64 {
    let content = match entry.place {
        Place::Inline { .. } => u64::from(entry.length),
        Place::OwnFile => 0,
    };
    HEAD_BYTES + content.next_multiple_of(ALIGNMENT)
}

/// Appends the record of a block to `buffer`, which is going to be written at `write_offset`.
/// `content` is empty for a block with a file of its own.
pub(crate) fn append_record(
    buffer: &mut Vec<u8>,
    write_offset: u64,
    block: BlockId,
    entry: &Entry,
    content: &[u8],
) {
    let offset = write_offset + buffer.len() as u64;
    let mut head = Head {
        magic: MAGIC,
        kind: entry.kind.to_wire(),
        place: match entry.place {
            Place::Inline { .. } => INLINE,
            Place::OwnFile => OWN_FILE,
        },
        volume: entry.volume,
        length: entry.length,
        block: block.to_wire(),
        stamp: entry.stamp,
        offset,
        write_offset,
        ..Head::default()
    };
    head.checksum = checksum_of(&head);
    buffer.extend_from_slice(bytemuck::bytes_of(&head));
    buffer.extend_from_slice(content);
    buffer.resize(buffer.len().next_multiple_of(ALIGNMENT as usize), 0);
}

fn checksum_of(head: &Head) -> u32 {
    let bytes = bytemuck::bytes_of(head);
    crc32c::crc32c(&bytes[..bytes.len() - size_of::<u32>()])
}

/// A head that was read and is what it should be at that place.
struct Found {
    block: BlockId,
    entry: Entry,
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
    let place = match head.place {
        INLINE => Place::Inline { offset: u32::try_from(offset / ALIGNMENT).ok()? },
        OWN_FILE => Place::OwnFile,
        _ => return None,
    };
    let entry = Entry {
        kind: BlockKind::from_wire(head.kind)?,
        volume,
        place,
        length: head.length,
        stamp: head.stamp,
    };
    Some(Found { block: BlockId::from(head.block), entry, write_offset })
}

/// Whether a later volume exists, so that everything in this one was synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// It was cut to its end and synced: whatever is bad there is damage.
    Sealed,
    /// The last write may be torn.
    Tail,
}

/// What a volume holds.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Blocks whose head is good and, where it lies in the volume, whose content is.
    pub(crate) good: Vec<(BlockId, Entry)>,
    /// Where the next record goes. What lies behind was never acknowledged.
    pub(crate) end: u64,
    /// Bad records in front of good ones of a later write: they had been synced.
    pub(crate) damaged: u64,
}

/// Reads a volume from its beginning and checks every record and the digest of every block in it.
///
/// # Errors
/// Where it cannot be read.
pub(crate) fn scan(file: &dyn File, volume: u32, extent: Extent) -> io::Result<Scan> {
    let length = file.len()?;
    let mut good: Vec<(u64, BlockId, Entry)> = Vec::new();
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
        let next = at.saturating_add(record_bytes(&found.entry));
        if is_content_good(file, &found, at, &mut content)? {
            good.push((at, found.block, found.entry));
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
        good.retain(|&(offset, ..)| offset < cut);
        end = cut;
    }
    let damaged = bad.iter().filter(|&&offset| offset < synced).count() as u64;
    let good = good.into_iter().map(|(_, block, entry)| (block, entry)).collect();
    Ok(Scan { good, end, damaged })
}

fn is_content_good(
    file: &dyn File,
    found: &Found,
    at: u64,
    content: &mut Vec<u8>,
) -> io::Result<bool> {
    if found.entry.place == Place::OwnFile {
        return Ok(true);
    }
    if found.entry.length as usize > proto::limits::WHOLE_FILE_BYTES {
        return Ok(false);
    }
    content.resize(found.entry.length as usize, 0);
    let read = file.read_at(content, at + HEAD_BYTES)?;
    Ok(read == content.len() && verify(found.entry.kind, found.block, content).is_ok())
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
