//! Reads an image as the kernel does, as plainly as can be, and checks what the kernel relies on.

use super::{BLOCK_BYTES, Image};

/// What stands at one place of an image.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seen {
    pub(super) path: Vec<Vec<u8>>,
    pub(super) mode: u16,
    pub(super) mtime: (i64, u32),
    pub(super) links: u32,
    pub(super) owner: (u32, u32),
    pub(super) what: What,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    Folder,
    File { length: u64, at: u64, is_big: bool },
    Link { target: Vec<u8> },
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let mut all = [0; 8];
    all[..N].copy_from_slice(&bytes[at..at + N]);
    u64::from_le_bytes(all)
}

/// Where the root's inode is, in bytes.
pub(super) fn root_at(image: &Image) -> usize {
    32 * number::<2>(image.metadata(), 1_024 + 14) as usize
}

/// Everything in the image, sorted.
pub(super) fn walk(image: &Image, count: usize) -> Vec<Seen> {
    let bytes = image.metadata();
    let superblock = &bytes[1_024..1_152];
    assert_eq!(number::<4>(superblock, 0), 0xE0F5_E1E2);
    assert_eq!(number::<4>(superblock, 8), 2);
    assert_eq!((superblock[12], number::<8>(superblock, 16)), (12, count as u64));
    assert_eq!(number::<4>(superblock, 36) * BLOCK_BYTES, image.primary_bytes());
    let slot = &bytes[1_152..1_280];
    if image.big_bytes() == 0 {
        assert_eq!((number::<4>(superblock, 80), number::<4>(superblock, 86)), (0, 0));
        assert!(slot.iter().all(|byte| *byte == 0));
    } else {
        assert_eq!((number::<4>(superblock, 80), number::<2>(superblock, 86)), (12, 1));
        assert_eq!(number::<2>(superblock, 88) * 128, 1_152);
        assert_eq!(number::<4>(slot, 64) * BLOCK_BYTES, image.big_bytes());
        let first = number::<4>(slot, 68) * BLOCK_BYTES;
        assert!(first >= image.primary_bytes() && first.is_multiple_of(2 << 20));
    }
    let mut all = Vec::new();
    let mut serials = std::collections::BTreeSet::new();
    let root = root_at(image);
    let mut open = vec![(Vec::new(), root, root)];
    while let Some((path, at, parent)) = open.pop() {
        let inode = Inode::read(bytes, at);
        assert!(serials.insert(inode.serial), "each has a number of its own");
        if inode.kind == 0o040_000 {
            for (name, target, kind) in inode.entries(bytes, at, parent) {
                let mode = Inode::read(bytes, target).kind;
                assert_eq!(
                    kind,
                    [(0o100_000, 1), (0o040_000, 2), (0o120_000, 7)][..]
                        .iter()
                        .find(|it| it.0 == mode)
                        .unwrap()
                        .1
                );
                let mut path: Vec<Vec<u8>> = path.clone();
                path.push(name);
                open.push((path, target, at));
            }
        }
        all.push(inode.seen(bytes, path));
    }
    all.sort();
    all
}

struct Inode {
    at: usize,
    layout: u64,
    kind: u16,
    mode: u16,
    size: u64,
    place: u64,
    serial: u64,
    seen: (u64, u64, u64, u64, u64),
}

impl Inode {
    fn read(bytes: &[u8], at: usize) -> Inode {
        assert!(at >= 1_280 && at.is_multiple_of(64));
        let inode = &bytes[at..at + 64];
        let format = number::<2>(inode, 0);
        assert_eq!(format & 1, 1);
        let mode = number::<2>(inode, 4) as u16;
        let field = |at| number::<4>(inode, at);
        Inode {
            at,
            layout: format >> 1,
            kind: mode & 0o170_000,
            mode: mode & 0o7_777,
            size: number::<8>(inode, 8),
            place: field(16),
            serial: field(20),
            seen: (number::<8>(inode, 32), field(40), field(44), field(24), field(28)),
        }
    }

    /// Content of a folder or link.
    fn content(&self, bytes: &[u8]) -> Vec<u8> {
        let tail = if self.layout == 2 { self.size % BLOCK_BYTES } else { 0 };
        let from = (self.place * BLOCK_BYTES) as usize;
        let mut content = bytes[from..from + (self.size - tail) as usize].to_vec();
        if tail > 0 {
            let block = |at: usize| at / BLOCK_BYTES as usize;
            assert_eq!(block(self.at), block(self.at + 63 + tail as usize), "it shares a block");
            content.extend_from_slice(&bytes[self.at + 64..][..tail as usize]);
        } else {
            assert_eq!(self.layout, 0);
        }
        content
    }

    fn entries(&self, bytes: &[u8], own: usize, parent: usize) -> Vec<(Vec<u8>, usize, u8)> {
        let mut entries = Vec::new();
        for block in self.content(bytes).chunks(BLOCK_BYTES as usize) {
            let count = number::<2>(block, 8) as usize / 12;
            for index in 0..count {
                let record = &block[12 * index..];
                let from = number::<2>(record, 8) as usize;
                let end = if index + 1 < count {
                    number::<2>(record, 20) as usize
                } else {
                    let rest = &block[from..];
                    from + rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len())
                };
                let target = 32 * number::<8>(record, 0) as usize;
                entries.push((block[from..end].to_vec(), target, record[10]));
            }
        }
        assert!(entries.windows(2).all(|pair| pair[0].0 < pair[1].0), "names are in order");
        let dot = entries.remove(entries.iter().position(|it| it.0 == b".").unwrap());
        let dots = entries.remove(entries.iter().position(|it| it.0 == b"..").unwrap());
        assert_eq!(((dot.1, dot.2), (dots.1, dots.2)), ((own, 2), (parent, 2)));
        entries
    }

    fn seen(&self, bytes: &[u8], path: Vec<Vec<u8>>) -> Seen {
        let length = self.size;
        let what = match (self.kind, self.layout) {
            (0o040_000, _) => What::Folder,
            (0o120_000, _) => What::Link { target: self.content(bytes) },
            (0o100_000, 4) => {
                let index = &bytes[self.at + 64..self.at + 72];
                assert_eq!((number::<2>(index, 0), number::<2>(index, 2)), (0, 1));
                assert_eq!(self.place & !0x1f, 0x20);
                assert!(length <= BLOCK_BYTES << (self.place & 0x1f), "one chunk is enough");
                What::File { length, at: number::<4>(index, 4) * BLOCK_BYTES, is_big: true }
            }
            (0o100_000, 0) => What::File { length, at: self.place * BLOCK_BYTES, is_big: false },
            other => panic!("an inode of kind and layout {other:?}"),
        };
        let (seconds, nanoseconds, links, user, group) = self.seen;
        Seen {
            path,
            mode: self.mode,
            mtime: (seconds as i64, nanoseconds as u32),
            links: links as u32,
            owner: (user as u32, group as u32),
            what,
        }
    }
}
