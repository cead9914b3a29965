//! The entries of a folder as an image has them: in order, cut into blocks that stand for
//! themselves, so that the kernel finds a name by bisection.

use super::format::{BLOCK_BYTES, Kind};

/// Bytes of an entry's record, its name not counted.
const RECORD_BYTES: usize = 12;

/// A name in a folder.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    pub(super) name: &'a [u8],
    /// Position of what it leads to among the nodes.
    pub(super) node: u32,
}

/// Puts `.` and `..` where they belong among names in order. They are no longer the first ones where
/// a name begins with a byte below the dot's.
pub(super) fn with_dots<'a>(
    own: u32,
    parent: u32,
    entries: impl Iterator<Item = Entry<'a>>,
) -> Vec<Entry<'a>> {
    let mut all: Vec<Entry<'a>> = Vec::with_capacity(entries.size_hint().0 + 2);
    all.extend(entries);
    for (name, node) in [(&b"."[..], own), (b"..", parent)] {
        let place = all.partition_point(|entry| entry.name < name);
        all.insert(place, Entry { name, node });
    }
    all
}

fn taken(entry: &Entry<'_>) -> u64 {
    (RECORD_BYTES + entry.name.len()) as u64
}

/// Calls `block` with the entries of each block: as many as fit.
fn cut<'a, 'b>(entries: &'b [Entry<'a>], mut block: impl FnMut(&'b [Entry<'a>], u64)) {
    let (mut first, mut used) = (0, 0);
    for (at, entry) in entries.iter().enumerate() {
        if used + taken(entry) > BLOCK_BYTES {
            block(entries.get(first..at).unwrap_or_default(), used);
            (first, used) = (at, 0);
        }
        used += taken(entry);
    }
    block(entries.get(first..).unwrap_or_default(), used);
}

/// Bytes of a folder with these entries.
pub(super) fn size(entries: &[Entry<'_>]) -> u64 {
    let (mut blocks, mut last) = (0_u64, 0);
    cut(entries, |_, used| {
        blocks += 1;
        last = used;
    });
    blocks.saturating_sub(1) * BLOCK_BYTES + last
}

/// The content of a folder with these entries. `target` tells the number and kind of a node.
pub(super) fn encode(entries: &[Entry<'_>], target: impl Fn(u32) -> (u64, Kind)) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size(entries) as usize);
    cut(entries, |entries, _| {
        // What is left of the block before is zero.
        bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES as usize), 0);
        let mut name_at = RECORD_BYTES * entries.len();
        for entry in entries {
            let (number, kind) = target(entry.node);
            bytes.extend_from_slice(&number.to_le_bytes());
            // Within a block, so it has 16 bits.
            bytes.extend_from_slice(&(name_at as u16).to_le_bytes());
            bytes.extend_from_slice(&[kind.in_folder(), 0]);
            name_at += entry.name.len();
        }
        for entry in entries {
            bytes.extend_from_slice(entry.name);
        }
    });
    bytes
}
