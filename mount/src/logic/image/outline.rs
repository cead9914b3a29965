//! Nodes that were checked, with the entries of each folder in order, and the order of all inodes.

use proto::limits::{LINK_TARGET_BYTES, NAME_BYTES};

use super::folder::{self, Entry};
use super::{ImageError, NODES, Node, NodeKind};

/// Nodes of an image and how they stand to each other.
pub(super) struct Outline<'a> {
    nodes: &'a [Node],
    /// The entries of all folders, folder by folder, each folder's in order of their names.
    entries: Vec<u32>,
    /// Where the entries of each node begin among those, and a last number where they end.
    starts: Vec<u32>,
}

impl<'a> Outline<'a> {
    /// # Errors
    /// [`ImageError`] for nodes that cannot be an image.
    pub(super) fn new(nodes: &'a [Node]) -> Result<Outline<'a>, ImageError> {
        if nodes.len() > NODES {
            return Err(ImageError::TooManyNodes { count: nodes.len() });
        }
        if !nodes.first().is_some_and(|root| root.kind == NodeKind::Folder) {
            return Err(ImageError::Root);
        }
        for (index, node) in nodes.iter().enumerate() {
            check(nodes, index, node)
                .map_err(|problem| ImageError::Node { name: printable(&node.name), problem })?;
        }
        let mut outline = Outline { nodes, entries: Vec::new(), starts: starts(nodes) };
        outline.enter()?;
        Ok(outline)
    }

    /// Sorts the entries of every folder.
    fn enter(&mut self) -> Result<(), ImageError> {
        let nodes = self.nodes;
        let mut next = self.starts.clone();
        self.entries = vec![0; nodes.len() - 1];
        for (node, index) in nodes.iter().zip(0..).skip(1) {
            if let Some(next) = next.get_mut(node.parent as usize) {
                if let Some(entry) = self.entries.get_mut(*next as usize) {
                    *entry = index;
                }
                *next += 1;
            }
        }
        let name = |node: &u32| nodes.get(*node as usize).map(|node| node.name.as_slice());
        let bounds = self.starts.windows(2).filter_map(|pair| match pair {
            [start, end] => Some(*start as usize..*end as usize),
            _ => None,
        });
        for range in bounds {
            let Some(entries) = self.entries.get_mut(range) else {
                continue;
            };
            entries.sort_unstable_by_key(name);
            let mut pairs = entries.iter().zip(entries.iter().skip(1));
            if let Some((twice, _)) = pairs.find(|(a, b)| name(a) == name(b)) {
                let name = printable(name(twice).unwrap_or_default());
                return Err(ImageError::Node { name, problem: "is there twice" });
            }
        }
        Ok(())
    }

    pub(super) fn nodes(&self) -> &'a [Node] {
        self.nodes
    }

    /// Positions of what stands in a folder, in order of the names; none for what is no folder.
    pub(super) fn children(&self, folder: u32) -> &[u32] {
        let start = self.starts.get(folder as usize).copied().unwrap_or(0) as usize;
        let end = self.starts.get(folder as usize + 1).copied().unwrap_or(0) as usize;
        self.entries.get(start..end).unwrap_or_default()
    }

    /// How many of a folder's entries are folders.
    pub(super) fn folder_count(&self, folder: u32) -> u32 {
        let folders = self.children(folder).iter().filter(|child| self.is_folder(**child));
        u32::try_from(folders.count()).unwrap_or(u32::MAX)
    }

    fn is_folder(&self, node: u32) -> bool {
        self.nodes.get(node as usize).is_some_and(|node| node.kind == NodeKind::Folder)
    }

    /// All entries of a folder as the image has them.
    pub(super) fn entries(&self, folder: u32) -> Vec<Entry<'a>> {
        let parent = self.nodes.get(folder as usize).map_or(0, |node| node.parent);
        let nodes = self.nodes;
        let entries = self.children(folder).iter().filter_map(|child| {
            Some(Entry { name: nodes.get(*child as usize)?.name.as_slice(), node: *child })
        });
        folder::with_dots(folder, parent, entries)
    }

    /// All nodes, the root first: what stands in a folder comes at once, and then what stands in the
    /// folders among it, in order. Who walks through a tree walks through the image.
    pub(super) fn order(&self) -> Vec<u32> {
        let mut order = Vec::with_capacity(self.nodes.len());
        order.push(0);
        let mut open = vec![0];
        while let Some(folder) = open.pop() {
            let children = self.children(folder);
            order.extend_from_slice(children);
            open.extend(children.iter().rev().filter(|child| self.is_folder(**child)));
        }
        order
    }
}

/// Where the entries of each node begin when they are put one behind the other.
fn starts(nodes: &[Node]) -> Vec<u32> {
    let mut starts = vec![0_u32; nodes.len() + 1];
    for node in nodes.iter().skip(1) {
        if let Some(count) = starts.get_mut(node.parent as usize + 1) {
            *count += 1;
        }
    }
    let mut sum = 0;
    for start in &mut starts {
        sum += *start;
        *start = sum;
    }
    starts
}

/// What holds for one node.
fn check(nodes: &[Node], index: usize, node: &Node) -> Result<(), &'static str> {
    if node.mode > 0o777 {
        return Err("has a mode above 0777");
    }
    if node.mtime.1 >= 1_000_000_000 {
        return Err("has a modification time with a second or more of nanoseconds");
    }
    if let NodeKind::Link { target } = &node.kind
        && (!(1..=LINK_TARGET_BYTES).contains(&target.len()) || target.contains(&0))
    {
        return Err("is a link whose target is empty, too long or contains NUL");
    }
    if index == 0 {
        let is_root = node.parent == 0 && node.name.is_empty();
        return if is_root { Ok(()) } else { Err("is no root: it has a name or stands elsewhere") };
    }
    let is_name = (1..=NAME_BYTES).contains(&node.name.len())
        && !node.name.iter().any(|byte| matches!(byte, b'/' | 0))
        && node.name != b"."
        && node.name != b"..";
    if !is_name {
        return Err("has a name that no entry may have");
    }
    let parent = nodes.get(node.parent as usize);
    let is_inside = (node.parent as usize) < index
        && parent.is_some_and(|parent| parent.kind == NodeKind::Folder);
    if is_inside { Ok(()) } else { Err("stands in no folder that comes before it") }
}

/// A name for an error message: what is not UTF-8 replaced, not longer than a name.
fn printable(name: &[u8]) -> String {
    String::from_utf8_lossy(name.get(..NAME_BYTES).unwrap_or(name)).into_owned()
}
