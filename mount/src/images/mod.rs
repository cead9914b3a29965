//! Trees as the kernel's own file system: images that nobody stores (`logic/image`), served by a
//! hidden connection and mounted from there as EROFS.
//!
//! Beside the plain mount, with which it shares all blocks, and quicker where the kernel has read
//! something once: folders, opens and cached reads never leave it. There is one mount for each set
//! of inputs, whoever holds it. Deliberately not here: for whom inputs are shown and how long, and
//! what is done where this way is not to be had.

mod reading;
mod server;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::digest::Digest;
use proto::ids::FileId;
use proto::status::BlockKind;

use crate::erofs;
use crate::files::Files;
use crate::logic::image::{
    Device, Gathering, GatheringError, Image, ImageError, Node, NodeKind, build,
};
use crate::logic::inputs::InputShown;
use crate::logic::tree::Tree;
use crate::mount::{Mount, MountError};
use crate::mounting;
use crate::refusal::Refusal;
use crate::serving::Serving;
use server::{Served, Server, Table};

/// Trees that are mounted at a time.
pub const TREES: usize = 256;

/// Threads that hear the kernel: a read that is under way holds none of them.
const THREADS: usize = 4;

/// What the kernel reads ahead in an image's first file, in KiB: what it reads too much is fetched
/// from storage, and what it reads at a time comes at the same time.
const READ_AHEAD_KIB: u32 = 128;

/// Tree files that are asked for at a time while an image is made.
const TREES_AT_A_TIME: usize = 16;

/// Why trees are not shown in this way here.
#[derive(Debug, thiserror::Error)]
pub enum ImagesError {
    /// A folder cannot be used.
    #[error("{operation} {}", path.display())]
    Folder {
        /// What was tried.
        operation: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The hidden connection.
    #[error(transparent)]
    Connection(#[from] MountError),
    /// An image was mounted for a try.
    #[error(transparent)]
    Probe(NotShown),
}

/// Why some inputs are not shown in this way.
#[derive(Debug, thiserror::Error)]
pub enum NotShown {
    /// [`TREES`] are mounted, or what they take in memory is at its limit.
    #[error("as many trees are mounted as may be")]
    Full,
    /// What stands in the inputs.
    #[error(transparent)]
    Gathering(#[from] GatheringError),
    /// A tree file cannot be had at present.
    #[error("the tree {tree} cannot be read; the log says why")]
    Tree {
        /// Which.
        tree: FileId,
    },
    /// It is no image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The kernel refuses it.
    #[error("{0}")]
    Kernel(String),
    /// The folder to mount at cannot be used.
    #[error("use {}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A tree that is mounted.
#[derive(Debug)]
struct Shown {
    number: u64,
    device: (u32, u32),
    served: Arc<Served>,
    /// Who holds it, and how often reading failed before.
    holders: BTreeMap<u64, u64>,
}

/// Trees that are mounted, below one folder. Dropped, all of them are unmounted.
pub struct Images {
    folder: PathBuf,
    owner: (u32, u32),
    table: Arc<Table>,
    /// Mounted images by the name of their folder.
    trees: Mutex<BTreeMap<String, Shown>>,
    serving: Serving,
}

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Images").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Images {
    /// Begins to show trees below `folder`, with the blocks of a mount. `hidden` is a folder for the
    /// images, which nobody but this process looks into. Both are made where they are not there, and
    /// what a dead predecessor left in them is taken away. `readers` are the user and group to whom
    /// everything in the trees belongs, where that is not this process's own: the kernel lets others
    /// than root and them read only what the modes of the files allow.
    ///
    /// # Errors
    /// [`ImagesError`] where it is not possible here: the system, its kernel or the rights of this
    /// process; one image was mounted for a try.
    pub fn start(
        mount: &Mount,
        hidden: &Path,
        folder: &Path,
        readers: Option<(u32, u32)>,
    ) -> Result<Images, ImagesError> {
        clean_trees(folder);
        let folder = made(folder, 0o711)?;
        let hidden = match made(hidden, 0o700) {
            Ok(hidden) => hidden,
            // A dead mount is no folder; what cannot be mounted at is told next.
            Err(_) => hidden.to_owned(),
        };
        let hidden = mounting::prepare(&hidden).map_err(MountError::from)?;
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let owner = readers.unwrap_or(own);
        let table = Arc::new(Table::new(Arc::clone(mount.files())));
        let server = Server::new(Arc::clone(&table), own);
        let serving = Serving::start(server, hidden, THREADS, READ_AHEAD_KIB)?;
        let images = Images { folder, owner, table, trees: Mutex::default(), serving };
        images.probe().map_err(ImagesError::Probe)?;
        Ok(images)
    }

    /// Mounts an image with one link in it.
    fn probe(&self) -> Result<(), NotShown> {
        let node = |name: &str, kind| Node {
            parent: 0,
            name: name.into(),
            mode: 0o755,
            mtime: (0, 0),
            kind,
        };
        let link = NodeKind::Link { target: b"target".to_vec() };
        let nodes = [node("", NodeKind::Folder), node("link", link)];
        let mut trees = self.trees();
        self.mount(&mut trees, "probe", build(&nodes, self.owner, [1; 16])?)?;
        let path = self.folder.join("probe").join("link");
        let read = fs::read_link(&path);
        self.take_away(&mut trees, "probe");
        let read = read.map_err(|source| NotShown::Folder { path: path.clone(), source })?;
        if read == Path::new("target") {
            return Ok(());
        }
        let source = io::ErrorKind::InvalidData.into();
        Err(NotShown::Folder { path, source })
    }

    /// Shows inputs for a holder until [`Images::hide`]; where they stand then. Equal inputs of
    /// several holders stand at one place. It waits until all tree files of the inputs are here.
    ///
    /// # Errors
    /// [`NotShown`].
    pub fn show(&self, holder: u64, inputs: &[(String, InputShown)]) -> Result<PathBuf, NotShown> {
        let digest = digest(inputs);
        let name = digest.file_id().to_string();
        if let Some(path) = self.hold(&mut self.trees(), &name, holder) {
            return Ok(path);
        }
        let nodes = self.gather(Gathering::of_inputs(inputs)?)?;
        let image = build(&nodes, self.owner, digest.to_uuid().to_be_bytes())?;
        drop(nodes);
        let mut trees = self.trees();
        // Somebody else may have been quicker.
        if let Some(path) = self.hold(&mut trees, &name, holder) {
            return Ok(path);
        }
        if trees.len() >= TREES {
            return Err(NotShown::Full);
        }
        self.mount(&mut trees, &name, image)?;
        let path = self.hold(&mut trees, &name, holder);
        path.ok_or_else(|| NotShown::Kernel("the mount is gone again".to_owned()))
    }

    /// Ends [`Images::show`]. The last holder's end unmounts the tree; whoever is in it stays in it.
    pub fn hide(&self, holder: u64) {
        let mut trees = self.trees();
        let held = trees.iter_mut().find_map(|(name, shown)| {
            shown.holders.remove(&holder)?;
            shown.holders.is_empty().then(|| name.clone())
        });
        if let Some(name) = held {
            self.take_away(&mut trees, &name);
        }
    }

    /// How often a reader of a holder's tree got an error that was no fault of his, since
    /// [`Images::show`].
    #[must_use]
    pub fn failure_count(&self, holder: u64) -> u64 {
        let trees = self.trees();
        let counted = trees.values().find_map(|shown| {
            let before = shown.holders.get(&holder)?;
            Some(shown.served.failure_count().saturating_sub(*before))
        });
        counted.unwrap_or(0)
    }

    /// False once nobody answers the kernel any more, or the hidden connection was taken away.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.serving.is_alive()
    }

    /// Trees that are mounted.
    #[must_use]
    pub fn tree_count(&self) -> usize {
        self.trees().len()
    }

    /// Bytes of memory that images take, those included that somebody still sits in.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.table.memory_bytes()
    }

    fn trees(&self) -> MutexGuard<'_, BTreeMap<String, Shown>> {
        // Each change under this lock is whole before anything that could panic.
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(
        &self,
        trees: &mut BTreeMap<String, Shown>,
        name: &str,
        holder: u64,
    ) -> Option<PathBuf> {
        let shown = trees.get_mut(name)?;
        let failures = shown.served.failure_count();
        shown.holders.entry(holder).or_insert(failures);
        Some(self.folder.join(name))
    }

    /// Reads the tree files that the nodes are told in.
    fn gather(&self, mut gathering: Gathering) -> Result<Vec<Node>, NotShown> {
        loop {
            let missing: Vec<_> = gathering.missing().take(TREES_AT_A_TIME).collect();
            if missing.is_empty() {
                return Ok(gathering.finish().unwrap_or_default());
            }
            for (tree, read) in read_trees(self.table.files(), &missing) {
                let read = read.map_err(|_| NotShown::Tree { tree })?;
                gathering.give(tree, &read)?;
            }
        }
    }

    fn mount(
        &self,
        trees: &mut BTreeMap<String, Shown>,
        name: &str,
        image: Image,
    ) -> Result<(), NotShown> {
        let has_big = image.big_bytes() > 0;
        let (number, served) = self.table.list(image).ok_or(NotShown::Full)?;
        let path = |device| self.serving.at().join(server::name(number, device));
        let big = has_big.then(|| path(Device::Big));
        let at = self.folder.join(name);
        let mounted = make_folder(&at, 0o700)
            .map_err(|source| NotShown::Folder { path: at.clone(), source })
            .and_then(|()| {
                let mounted = erofs::mount(&path(Device::Primary), big.as_deref(), &at);
                mounted.map_err(|refused| NotShown::Kernel(refused.to_string()))
            });
        match mounted {
            Ok(device) => {
                let holders = BTreeMap::new();
                trees.insert(name.to_owned(), Shown { number, device, served, holders });
                Ok(())
            }
            Err(refused) => {
                let _ = fs::remove_dir(&at);
                self.table.unlist(number);
                Err(refused)
            }
        }
    }

    fn take_away(&self, trees: &mut BTreeMap<String, Shown>, name: &str) {
        let Some(shown) = trees.remove(name) else {
            return;
        };
        let at = self.folder.join(name);
        mounting::unmount_own(&at, shown.device);
        if let Err(error) = fs::remove_dir(&at) {
            tracing::warn!(at = %at.display(), %error, "the folder of a tree stays behind");
        }
        self.table.unlist(shown.number);
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        let mut trees = self.trees();
        let names: Vec<String> = trees.keys().cloned().collect();
        names.iter().for_each(|name| self.take_away(&mut trees, name));
    }
}

type TreeRead = (FileId, Result<Arc<Tree>, Refusal>);

/// Asks for tree files, and waits for all of them.
fn read_trees(files: &Arc<Files>, wanted: &[(FileId, Option<u64>)]) -> Vec<TreeRead> {
    let (sender, read) = channel();
    for (tree, length) in wanted.iter().copied() {
        let sender = sender.clone();
        files.with_tree(tree, length, move |found| {
            // Who waits is here until all have answered.
            let _ = sender.send((tree, found));
        });
    }
    drop(sender);
    read.iter().collect()
}

/// What names a set of inputs: equal ones have equal names.
fn digest(inputs: &[(String, InputShown)]) -> Digest {
    let mut bytes = Vec::new();
    for (name, input) in inputs {
        bytes.extend_from_slice(&(name.len() as u64).to_le_bytes());
        bytes.extend_from_slice(name.as_bytes());
        let (kind, file, length) = match input {
            InputShown::File { file, length, is_executable: false } => (0, file, length),
            InputShown::File { file, length, is_executable: true } => (1, file, length),
            InputShown::Tree { tree, length } => (2, tree, length),
        };
        bytes.push(kind);
        bytes.extend_from_slice(&file.0.to_le_bytes());
        bytes.extend_from_slice(&length.to_le_bytes());
    }
    Digest::of(BlockKind::Content, &bytes)
}

/// Makes a folder where it is not there; its absolute path without links.
fn made(folder: &Path, mode: u32) -> Result<PathBuf, ImagesError> {
    let failed = |operation| {
        let path = folder.to_owned();
        move |source| ImagesError::Folder { operation, path, source }
    };
    make_folder(folder, mode).map_err(failed("make"))?;
    folder.canonicalize().map_err(failed("look at"))
}

fn make_folder(folder: &Path, mode: u32) -> io::Result<()> {
    match fs::DirBuilder::new().mode(mode).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Takes away the trees that a dead predecessor left mounted below a folder, if it is there.
pub fn clean_trees(folder: &Path) {
    let Ok(folder) = folder.canonicalize() else {
        return;
    };
    erofs::unmount_all(&folder);
    // What is not empty is not ours.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let _ = fs::remove_dir(entry.path());
    }
}

#[cfg(test)]
mod tests;
