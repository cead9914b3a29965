//! A local folder to a tree: its files are stored while it is walked, its tree files behind them.
//!
//! In memory are the lists of the folders on the way down, as far as they are not tree files yet,
//! and a bounded number of files. Links are kept and not followed.

use std::fs::{FileType, Metadata};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use proto::ids::FileId;
use proto::limits::INLINE_FOLDER_BYTES;
use proto::name::Pointer;
use proto::tree::{EncodedTree, Entry, Folder, MAGIC, ModificationTime, Node, TreeFile};

use super::{IN_FLIGHT, SMALL_BYTES, Times, TreeProgress, Window, deeper};
use crate::blocking::Client;
use crate::error::ClientError;
use crate::local::Stored;
use crate::logic::transfer::PutReport;

/// Entries of a flat folder from which on its encoding is looked at.
const MANY_ENTRIES: usize = 2_048;

impl Client {
    /// Stores a folder of this machine as a tree. When this returns, as many nodes as there are
    /// replicas have all of it durably. The folder must not change meanwhile.
    ///
    /// # Errors
    /// [`ClientError`], with the path of what could not be stored: also for sockets, devices and
    /// pipes, which a tree does not hold.
    pub fn put_tree(
        &self,
        path: &Path,
        times: Times,
        progress: &mut dyn FnMut(TreeProgress),
    ) -> Result<Stored, ClientError> {
        let mut storing = Storing {
            client: self,
            times,
            progress,
            so_far: TreeProgress::default(),
            report: PutReport::default(),
            window: Window::new(),
        };
        let root = storing.folder(path, 1)?;
        let encoded = root.encode().map_err(|it| ClientError::from(it).at(path))?;
        let (file, length) = storing.tree_files(path, encoded)?;
        storing.wait(0)?;
        let report = storing.report;
        Ok(Stored { pointer: Pointer { is_tree: true, file, length }, report })
    }
}

/// What is under way: `length` bytes of the file at a path, `None` for a tree file.
struct UnderWay {
    path: PathBuf,
    length: Option<u64>,
}

struct Storing<'a> {
    client: &'a Client,
    times: Times,
    progress: &'a mut dyn FnMut(TreeProgress),
    so_far: TreeProgress,
    report: PutReport,
    window: Window<PutReport, UnderWay>,
}

impl Storing<'_> {
    fn folder(&mut self, path: &Path, depth: usize) -> Result<Folder, ClientError> {
        let failed = |source| ClientError::file("list", path, source);
        let mut entries = Vec::new();
        for found in std::fs::read_dir(path).map_err(failed)? {
            let found = found.map_err(failed)?;
            let path = found.path();
            let metadata =
                found.metadata().map_err(|it| ClientError::file("look at", &path, it))?;
            let node = self.node(&path, &metadata, depth)?;
            let modified = match self.times {
                Times::Without => None,
                Times::Keep => Some(modification_time(&metadata)),
            };
            let mode = (metadata.mode() & 0o777) as u16;
            entries.push(Entry { name: found.file_name().into_vec(), mode, modified, node });
        }
        Folder::new(entries).map_err(|it| ClientError::from(it).at(path))
    }

    fn node(
        &mut self,
        path: &Path,
        metadata: &Metadata,
        depth: usize,
    ) -> Result<Node, ClientError> {
        let kind = metadata.file_type();
        if kind.is_dir() {
            let depth = deeper(depth).map_err(|it| ClientError::from(it).at(path))?;
            let folder = self.folder(path, depth)?;
            return self.outer_node(path, folder);
        }
        if kind.is_symlink() {
            let target = std::fs::read_link(path);
            let target = target.map_err(|it| ClientError::file("read the link", path, it))?;
            return Ok(Node::Link { target: target.as_os_str().as_bytes().to_vec() });
        }
        if kind.is_file() {
            let (file, length) = self.file(path, metadata.len())?;
            return Ok(Node::File { file, length });
        }
        Err(ClientError::NotStorable { path: path.to_owned(), what: kind_name(kind) })
    }

    /// A large sub-folder becomes its tree files at once, so that its list need not stay in memory.
    /// Where that is not worth a look, encoding the outer folder cuts it in the same way.
    fn outer_node(&mut self, path: &Path, folder: Folder) -> Result<Node, ClientError> {
        if folder.depth() == 1 && folder.entries().len() < MANY_ENTRIES {
            return Ok(Node::Folder(folder));
        }
        let encoded = folder.encode().map_err(|it| ClientError::from(it).at(path))?;
        if encoded.root.bytes.len() - MAGIC.len() <= INLINE_FOLDER_BYTES {
            return Ok(Node::Folder(folder));
        }
        let (tree, length) = self.tree_files(path, encoded)?;
        Ok(Node::Tree { tree, length })
    }

    fn tree_files(
        &mut self,
        path: &Path,
        encoded: EncodedTree,
    ) -> Result<(FileId, u64), ClientError> {
        for inner in encoded.folders {
            self.tree_file(path, inner)?;
        }
        let root = (encoded.root.file, encoded.root.bytes.len() as u64);
        self.tree_file(path, encoded.root)?;
        Ok(root)
    }

    fn tree_file(&mut self, path: &Path, tree: TreeFile) -> Result<(), ClientError> {
        let (_, begun) = self.client.begin_put_bytes(tree.bytes)?;
        self.window.push(UnderWay { path: path.to_owned(), length: None }, begun);
        self.wait(IN_FLIGHT)
    }

    fn file(&mut self, path: &Path, length: u64) -> Result<(FileId, u64), ClientError> {
        let (file, length, begun) = if length <= SMALL_BYTES {
            let content = std::fs::read(path);
            let content = content.map_err(|it| ClientError::file("read", path, it))?;
            let length = content.len() as u64;
            let begun = self.client.begin_put_bytes(content);
            let (file, begun) = begun.map_err(|it| it.at(path))?;
            (file, length, begun)
        } else {
            self.client.begin_put_file(path).map_err(|it| it.at(path))?
        };
        self.window.push(UnderWay { path: path.to_owned(), length: Some(length) }, begun);
        self.wait(IN_FLIGHT)?;
        Ok((file, length))
    }

    /// Waits until no more than `left` are under way.
    fn wait(&mut self, left: usize) -> Result<(), ClientError> {
        while let Some((about, begun)) = self.window.pop_above(left) {
            self.report.add(begun.wait()?.map_err(|it| it.at(&about.path))?);
            if let Some(length) = about.length {
                self.so_far.files += 1;
                self.so_far.bytes += length;
                (self.progress)(self.so_far);
            }
        }
        Ok(())
    }
}

fn modification_time(metadata: &Metadata) -> ModificationTime {
    // The kernel tells nanoseconds below a second.
    let nanoseconds = u32::try_from(metadata.mtime_nsec()).unwrap_or(0);
    ModificationTime { seconds: metadata.mtime(), nanoseconds }
}

/// What something is that no tree holds, with its article.
pub(crate) fn kind_name(kind: FileType) -> &'static str {
    if kind.is_socket() {
        "a socket"
    } else if kind.is_fifo() {
        "a pipe"
    } else {
        "a device"
    }
}
