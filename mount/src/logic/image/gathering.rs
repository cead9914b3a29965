//! From a job's inputs to the nodes of an image: tree file after tree file, as they are read.
//!
//! Which tree files are needed is said here, reading them is others' matter. Modes and times are
//! those that the mount shows, so that a task sees the same either way.

use std::collections::BTreeMap;

use proto::ids::FileId;
use proto::tree::ModificationTime;

use super::{NODES, Node, NodeKind};
use crate::logic::inputs::{INPUTS, InputShown, NotShowable, tree_of};
use crate::logic::tree::{FOLDER_MODE, Item, LINK_MODE, NO_TIME, Tree, What};

/// Why inputs do not become nodes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GatheringError {
    /// The inputs cannot stand beside each other.
    #[error(transparent)]
    NotShowable(#[from] NotShowable),
    /// A file that is no folder stands where one should.
    #[error("the file {0} is no tree")]
    NotATree(FileId),
    /// There are more than [`NODES`].
    #[error("there are more than {NODES} entries")]
    TooManyNodes,
}

/// A tree file that is needed.
#[derive(Debug)]
struct Missing {
    /// Its bytes, where they are known.
    length: Option<u64>,
    /// Positions of the folders of which it tells the entries.
    folders: Vec<u32>,
}

/// Nodes that become whole as tree files are given.
#[derive(Debug)]
pub struct Gathering {
    nodes: Vec<Node>,
    missing: BTreeMap<FileId, Missing>,
}

impl Gathering {
    /// The inputs of a job: the root is the folder that they stand in.
    ///
    /// # Errors
    /// [`GatheringError`] where the inputs cannot stand beside each other.
    pub fn of_inputs(inputs: &[(String, InputShown)]) -> Result<Gathering, GatheringError> {
        let job = tree_of(inputs)?;
        let mut gathering = Gathering::empty();
        if let Some(inputs) = job.child(0, INPUTS.as_bytes()) {
            gathering.enter(&job, inputs, &[0])?;
        }
        Ok(gathering)
    }

    /// One tree, shown as it is by its UUID or by a name.
    #[must_use]
    pub fn of_tree(tree: FileId, length: Option<u64>) -> Gathering {
        let mut gathering = Gathering::empty();
        gathering.missing.insert(tree, Missing { length, folders: vec![0] });
        gathering
    }

    fn empty() -> Gathering {
        let mtime = (NO_TIME.seconds, NO_TIME.nanoseconds);
        let kind = NodeKind::Folder;
        let root = Node { parent: 0, name: Vec::new(), mode: FOLDER_MODE, mtime, kind };
        Gathering { nodes: vec![root], missing: BTreeMap::new() }
    }

    /// Tree files that are needed next, each once, with their bytes where these are known. Those
    /// that are named in them follow when they were given.
    pub fn missing(&self) -> impl Iterator<Item = (FileId, Option<u64>)> {
        self.missing.iter().map(|(tree, missing)| (*tree, missing.length))
    }

    /// Takes a tree file that is missing; another one is ignored.
    ///
    /// # Errors
    /// [`GatheringError`] for what is no tree, and for more than can be shown.
    pub fn give(&mut self, file: FileId, tree: &Tree) -> Result<(), GatheringError> {
        let Some(missing) = self.missing.remove(&file) else {
            return Ok(());
        };
        if tree.children(0).is_none() {
            return Err(GatheringError::NotATree(file));
        }
        self.enter(tree, 0, &missing.folders)
    }

    /// All nodes, a folder before what stands in it; `None` while tree files are missing.
    #[must_use]
    pub fn finish(self) -> Option<Vec<Node>> {
        self.missing.is_empty().then_some(self.nodes)
    }

    /// Puts what stands in a folder of a tree into each of these folders.
    fn enter(&mut self, tree: &Tree, from: u32, folders: &[u32]) -> Result<(), GatheringError> {
        for folder in folders {
            let mut open = vec![(from, *folder)];
            while let Some((from, to)) = open.pop() {
                let children = tree.children(from).unwrap_or_default();
                if self.nodes.len() + children.len() > NODES {
                    return Err(GatheringError::TooManyNodes);
                }
                for child in children {
                    let Some(item) = tree.item(child) else {
                        continue;
                    };
                    // There are at most NODES.
                    let node = self.nodes.len() as u32;
                    self.nodes.push(shown(item, to));
                    match &item.what {
                        What::Folder { .. } => open.push((child, node)),
                        What::Tree { tree, length } => self.need(*tree, *length, node),
                        What::File { .. } | What::Link { .. } => {}
                    }
                }
            }
        }
        Ok(())
    }

    fn need(&mut self, tree: FileId, length: u64, folder: u32) {
        let length = Some(length);
        let missing = self.missing.entry(tree);
        missing.or_insert(Missing { length, folders: Vec::new() }).folders.push(folder);
    }
}

/// An entry as it is shown.
fn shown(item: &Item, parent: u32) -> Node {
    let ModificationTime { seconds, nanoseconds } = item.modified.unwrap_or(NO_TIME);
    let (mode, kind) = match &item.what {
        What::Folder { .. } | What::Tree { .. } => (item.mode, NodeKind::Folder),
        What::File { file, length } => (item.mode, NodeKind::File { file: *file, length: *length }),
        What::Link { target } => (LINK_MODE, NodeKind::Link { target: target.to_vec() }),
    };
    Node { parent, name: item.name.to_vec(), mode, mtime: (seconds, nanoseconds), kind }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::tree::{Entry, Folder, Node as Stored};

    use super::*;

    fn entry(name: &str, node: Stored) -> Entry {
        Entry { name: name.into(), mode: 0o750, modified: None, node }
    }

    fn file(name: &str, id: u128) -> Entry {
        entry(name, Stored::File { file: FileId(id), length: 3 })
    }

    fn tree_file(name: &str, id: u128) -> Entry {
        entry(name, Stored::Tree { tree: FileId(id), length: 2 << 20 })
    }

    fn tree(entries: Vec<Entry>) -> Tree {
        Tree::of_folder(&Folder::new(entries).unwrap())
    }

    /// A path with its mode, time and file.
    type Listed = (String, u16, (i64, u32), Option<u128>);

    /// All paths in order.
    fn listed(nodes: &[Node]) -> Vec<Listed> {
        let mut paths: Vec<String> = vec![String::new()];
        let mut all = Vec::new();
        for node in nodes.iter().skip(1) {
            let name = String::from_utf8_lossy(&node.name);
            let path = format!("{}/{name}", paths[node.parent as usize]);
            let file = match node.kind {
                NodeKind::File { file, .. } => Some(file.0),
                NodeKind::Folder | NodeKind::Link { .. } => None,
            };
            all.push((path.clone(), node.mode, node.mtime, file));
            paths.push(path);
        }
        all.sort();
        all
    }

    fn paths(nodes: &[Node]) -> Vec<String> {
        listed(nodes).into_iter().map(|(path, ..)| path).collect()
    }

    #[test]
    fn inputs_stand_under_their_names_as_the_mount_shows_them() {
        let data = InputShown::Tree { tree: FileId(9), length: 70 };
        let program = InputShown::File { file: FileId(1), length: 5, is_executable: true };
        let plain = InputShown::File { file: FileId(2), length: 6, is_executable: false };
        let inputs = [("bin/run".into(), program), ("bin/data".into(), data), ("a".into(), plain)];
        let mut gathering = Gathering::of_inputs(&inputs).unwrap();
        assert_eq!(gathering.missing().collect::<Vec<_>>(), [(FileId(9), Some(70))]);
        let modified = ModificationTime { seconds: -3, nanoseconds: 7 };
        let link = Stored::Link { target: b"../a".to_vec() };
        let dated = Entry { mode: 0o700, modified: Some(modified), ..entry("link", link) };
        gathering.give(FileId(9), &tree(vec![file("x", 3), dated])).unwrap();
        let nodes = gathering.finish().unwrap();
        let none = (1_000_000_000, 0);
        let shown = [
            ("/a", 0o644, none, Some(2)),
            ("/bin", 0o755, none, None),
            ("/bin/data", 0o755, none, None),
            ("/bin/data/link", 0o777, (-3, 7), None),
            ("/bin/data/x", 0o750, none, Some(3)),
            ("/bin/run", 0o755, none, Some(1)),
        ];
        let shown = shown.map(|(path, mode, time, file)| (path.to_owned(), mode, time, file));
        assert_eq!(listed(&nodes), shown);
        assert_eq!((nodes[0].mode, nodes[0].mtime), (0o755, none));
        assert!(super::super::build(&nodes, (0, 0), [0; 16]).is_ok());
    }

    #[test]
    fn tree_files_are_asked_for_once_and_fill_every_place() {
        let mut gathering = Gathering::of_tree(FileId(1), None);
        assert_eq!(gathering.missing().collect::<Vec<_>>(), [(FileId(1), None)]);
        let first = vec![tree_file("a", 2), tree_file("b", 2), tree_file("c", 3)];
        gathering.give(FileId(1), &tree(first)).unwrap();
        gathering.give(FileId(7), &tree(vec![file("ignored", 1)])).unwrap();
        let missing: Vec<_> = gathering.missing().map(|(tree, _)| tree.0).collect();
        assert_eq!(missing, [2, 3]);
        gathering.give(FileId(3), &tree(vec![tree_file("a", 2)])).unwrap();
        gathering.give(FileId(2), &tree(vec![file("x", 5)])).unwrap();
        let nodes = gathering.finish().unwrap();
        assert_eq!(paths(&nodes), ["/a", "/a/x", "/b", "/b/x", "/c", "/c/a", "/c/a/x"]);
    }

    #[test]
    fn what_is_missing_or_no_tree_gives_no_nodes() {
        assert!(Gathering::of_tree(FileId(1), None).finish().is_none());
        let mut gathering = Gathering::of_tree(FileId(1), None);
        let refused = gathering.give(FileId(1), &Tree::of_file(FileId(1), 4, 0o644)).unwrap_err();
        assert_eq!(refused, GatheringError::NotATree(FileId(1)));
        let plain = InputShown::File { file: FileId(2), length: 6, is_executable: false };
        let twice = [("a".into(), plain), ("a".into(), plain)];
        assert!(matches!(Gathering::of_inputs(&twice), Err(GatheringError::NotShowable(_))));
    }

    /// Each tree file names the next one twice, so that a few of them are more than all memory.
    #[test]
    fn trees_that_multiply_are_refused() {
        let mut gathering = Gathering::of_tree(FileId(0), None);
        let refused = (0..64).find_map(|id| {
            let next = tree(vec![tree_file("a", id + 1), tree_file("b", id + 1)]);
            gathering.give(FileId(id), &next).err()
        });
        assert_eq!(refused, Some(GatheringError::TooManyNodes));
    }

    /// A folder and where it is cut into tree files.
    fn any_folder() -> impl Strategy<Value = Folder> {
        let leaf = any::<u128>().prop_map(|id| Stored::File { file: FileId(id), length: 3 });
        let node = leaf.prop_recursive(4, 40, 6, |inner| {
            proptest::collection::btree_map("[a-e]{1,2}", inner, 0..6).prop_map(|entries| {
                let entries = entries.into_iter().map(|(name, node)| entry(&name, node));
                Stored::Folder(Folder::new(entries.collect()).unwrap())
            })
        });
        proptest::collection::btree_map("[a-e]{1,2}", node, 0..6).prop_map(|entries| {
            let entries = entries.into_iter().map(|(name, node)| entry(&name, node));
            Folder::new(entries.collect()).unwrap()
        })
    }

    /// Makes tree files of sub-folders, drawn by a number.
    fn cut(folder: &Folder, draw: &mut u64, files: &mut BTreeMap<FileId, Folder>) -> Folder {
        let entries = folder.entries().iter().map(|it| {
            let Stored::Folder(inner) = &it.node else {
                return it.clone();
            };
            let inner = cut(inner, draw, files);
            let is_file = *draw & 1 == 1;
            *draw = draw.rotate_right(1);
            if !is_file {
                return Entry { node: Stored::Folder(inner), ..it.clone() };
            }
            let tree = FileId(1_000 + files.len() as u128);
            files.insert(tree, inner);
            Entry { node: Stored::Tree { tree, length: 2 << 20 }, ..it.clone() }
        });
        Folder::new(entries.collect()).unwrap()
    }

    proptest! {
        #[test]
        fn however_a_tree_is_cut_into_files_it_is_the_same(
            folder in any_folder(),
            draw in any::<u64>(),
        ) {
            let mut whole = Gathering::of_tree(FileId(1), None);
            whole.give(FileId(1), &Tree::of_folder(&folder)).unwrap();
            let mut files = BTreeMap::new();
            let root = cut(&folder, &mut { draw }, &mut files);
            files.insert(FileId(1), root);
            let mut pieces = Gathering::of_tree(FileId(1), None);
            loop {
                let next = pieces.missing().next();
                let Some((tree, _)) = next else {
                    break;
                };
                pieces.give(tree, &Tree::of_folder(&files[&tree])).unwrap();
            }
            prop_assert_eq!(listed(&whole.finish().unwrap()), listed(&pieces.finish().unwrap()));
        }
    }
}
