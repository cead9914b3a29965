//! From nodes to an image: each inode gets its place, then the blocks of folders and links, then the
//! content, and all but the content is written.

use super::content::{Content, Device, Placing};
use super::folder;
use super::format::{
    BLOCK_BYTES, BLOCKS_PER_LARGE_PAGE, INDEX_BYTES, INODE_BYTES, Inode, Kind, Place, ROOT_AT,
    SLOT_AT, SUPERBLOCK_AT, Superblock, index, number, slot, split,
};
use super::outline::Outline;
use super::{BIG_FILE_BYTES, Image, ImageError, METADATA_BYTES, Node, NodeKind};

/// Builds the image of nodes: the first is the root, and each comes behind the folder that it stands
/// in. Everything belongs to `owner` (user, group).
///
/// # Errors
/// [`ImageError`] for nodes that cannot be an image, or that are too many or too large for one.
pub fn build(nodes: &[Node], owner: (u32, u32), uuid: [u8; 16]) -> Result<Image, ImageError> {
    let outline = Outline::new(nodes)?;
    let layout = Layout::new(&outline)?;
    let mut writer = Writer {
        bytes: vec![0; layout.end as usize],
        outline: &outline,
        layout: &layout,
        placing: Placing::new((layout.end / BLOCK_BYTES).next_multiple_of(BLOCKS_PER_LARGE_PAGE)),
        owner,
    };
    for (node, serial) in layout.order.iter().zip(1..) {
        writer.node(*node, serial)?;
    }
    let Writer { bytes: metadata, placing, .. } = writer;
    let mut image = Image { metadata, content: placing.finish() };
    describe(&mut image, &layout, nodes.len() as u64, uuid);
    Ok(image)
}

/// Where the metadata of a node is.
#[derive(Clone, Copy, Default)]
struct Spot {
    /// Its inode, in bytes.
    at: u32,
    /// Bytes of a folder.
    size: u32,
    /// The first whole block of a folder or link; 0 where it has none.
    block: u32,
}

/// Where all metadata is.
struct Layout {
    order: Vec<u32>,
    /// For each node.
    spots: Vec<Spot>,
    /// Bytes of all metadata, in whole blocks.
    end: u64,
}

impl Layout {
    fn new(outline: &Outline<'_>) -> Result<Layout, ImageError> {
        let order = outline.order();
        let mut spots = vec![Spot::default(); outline.nodes().len()];
        let mut end = ROOT_AT;
        for node in &order {
            let Some(NodeAt { kind, spot }) = find(outline, &mut spots, *node) else {
                continue;
            };
            let tail = match kind {
                NodeKind::Folder => {
                    let size = folder::size(&outline.entries(*node));
                    spot.size = narrow(size)?;
                    split(size).tail
                }
                NodeKind::Link { target } => split(target.len() as u64).tail,
                NodeKind::File { length, .. } if *length < BIG_FILE_BYTES => 0,
                NodeKind::File { .. } => INDEX_BYTES,
            };
            let mut at = end.next_multiple_of(INODE_BYTES);
            // What follows an inode shares its block.
            if at % BLOCK_BYTES + INODE_BYTES + tail > BLOCK_BYTES {
                at = at.next_multiple_of(BLOCK_BYTES);
            }
            spot.at = narrow(at)?;
            end = at + INODE_BYTES + tail;
        }
        let mut next = end.div_ceil(BLOCK_BYTES);
        for node in &order {
            let Some(NodeAt { kind, spot }) = find(outline, &mut spots, *node) else {
                continue;
            };
            let size = match kind {
                NodeKind::Folder => u64::from(spot.size),
                NodeKind::Link { target } => target.len() as u64,
                NodeKind::File { .. } => continue,
            };
            let blocks = split(size).blocks;
            if blocks > 0 {
                spot.block = narrow(next)?;
                next += blocks;
            }
        }
        let end = next * BLOCK_BYTES;
        if end > METADATA_BYTES {
            return Err(ImageError::TooMuchMetadata);
        }
        Ok(Layout { order, spots, end })
    }

    fn spot(&self, node: u32) -> Spot {
        self.spots.get(node as usize).copied().unwrap_or_default()
    }
}

struct NodeAt<'n, 's> {
    kind: &'n NodeKind,
    spot: &'s mut Spot,
}

fn find<'n, 's>(outline: &Outline<'n>, spots: &'s mut [Spot], node: u32) -> Option<NodeAt<'n, 's>> {
    let kind = &outline.nodes().get(node as usize)?.kind;
    Some(NodeAt { kind, spot: spots.get_mut(node as usize)? })
}

/// Metadata is smaller than what 32 bits can count.
fn narrow(value: u64) -> Result<u32, ImageError> {
    let is_fine = value <= METADATA_BYTES;
    u32::try_from(value).ok().filter(|_| is_fine).ok_or(ImageError::TooMuchMetadata)
}

struct Writer<'a> {
    bytes: Vec<u8>,
    outline: &'a Outline<'a>,
    layout: &'a Layout,
    placing: Placing,
    owner: (u32, u32),
}

impl Writer<'_> {
    /// Writes an inode and what belongs to it, or gives its content a place.
    fn node(&mut self, index_of_node: u32, serial: u32) -> Result<(), ImageError> {
        let Some(node) = self.outline.nodes().get(index_of_node as usize) else {
            return Ok(());
        };
        let spot = self.layout.spot(index_of_node);
        let mut inode = Inode {
            kind: kind(&node.kind),
            mode: node.mode,
            size: 0,
            place: Place::Plain { block: 0 },
            serial,
            owner: self.owner,
            mtime: node.mtime,
            link_count: 1,
        };
        match &node.kind {
            NodeKind::Folder => {
                let entries = self.outline.entries(index_of_node);
                let content = folder::encode(&entries, |node| {
                    let found = self.outline.nodes().get(node as usize);
                    let kind = found.map_or(Kind::File, |node| kind(&node.kind));
                    (number(u64::from(self.layout.spot(node).at)), kind)
                });
                inode.link_count = 2 + self.outline.folder_count(index_of_node);
                self.content(&mut inode, spot, &content);
            }
            NodeKind::Link { target } => self.content(&mut inode, spot, target),
            NodeKind::File { length: 0, .. } => {}
            NodeKind::File { file, length } => {
                let block = self.placing.place(*file, *length)?;
                inode.size = *length;
                inode.place = if *length < BIG_FILE_BYTES {
                    Place::Plain { block }
                } else {
                    self.put(u64::from(spot.at) + INODE_BYTES, &index(block));
                    Place::Chunk { blocks: length.div_ceil(BLOCK_BYTES) }
                };
            }
        }
        self.put(u64::from(spot.at), &inode.encode());
        Ok(())
    }

    /// Writes the content of a folder or link: whole blocks where they are, the rest behind the
    /// inode.
    fn content(&mut self, inode: &mut Inode, spot: Spot, content: &[u8]) {
        inode.size = content.len() as u64;
        let block = spot.block;
        let tail = split(inode.size).tail as usize;
        let (whole, rest) = content.split_at(content.len().saturating_sub(tail));
        self.put(u64::from(block) * BLOCK_BYTES, whole);
        self.put(u64::from(spot.at) + INODE_BYTES, rest);
        inode.place = if tail == 0 { Place::Plain { block } } else { Place::Inline { block } };
    }

    fn put(&mut self, at: u64, part: &[u8]) {
        put(&mut self.bytes, at, part);
    }
}

/// Copies a part to its place, which the layout made room for.
fn put(bytes: &mut [u8], at: u64, part: &[u8]) {
    let place = bytes.get_mut(at as usize..).and_then(|rest| rest.get_mut(..part.len()));
    debug_assert!(place.is_some(), "{} bytes at {at} lie outside of the metadata", part.len());
    if let Some(place) = place {
        place.copy_from_slice(part);
    }
}

/// Writes what is said of the image as a whole.
fn describe(image: &mut Image, layout: &Layout, inode_count: u64, uuid: [u8; 16]) {
    let blocks = |bytes: u64| u32::try_from(bytes / BLOCK_BYTES).unwrap_or(u32::MAX);
    let primary_blocks = blocks(image.primary_bytes());
    let has_big = Content::end(&image.content, Device::Big) > 0;
    let root_at = u64::from(layout.spot(0).at);
    let superblock = Superblock { root_at, inode_count, primary_blocks, uuid, has_big };
    if has_big {
        let first = primary_blocks.next_multiple_of(BLOCKS_PER_LARGE_PAGE as u32);
        let slot = slot(blocks(image.big_bytes()), first);
        put(&mut image.metadata, SLOT_AT, &slot);
    }
    put(&mut image.metadata, SUPERBLOCK_AT, &superblock.encode());
}

fn kind(kind: &NodeKind) -> Kind {
    match kind {
        NodeKind::Folder => Kind::Folder,
        NodeKind::File { .. } => Kind::File,
        NodeKind::Link { .. } => Kind::Link,
    }
}
