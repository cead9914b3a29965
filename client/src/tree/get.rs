//! A tree to a local folder.
//!
//! Everything is made inside one new folder that gets its name when it is complete. A tree's names
//! lead nowhere else (decoding refuses those that would), and no link is followed, since each name
//! is there once and what is written into is made here.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use proto::ids::FileId;
use proto::tree::{Entry, Folder, ModificationTime, Node};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};

use super::{IN_FLIGHT, SMALL_BYTES, TreeProgress, Window, deeper};
use crate::blocking::Client;
use crate::error::ClientError;

impl Client {
    /// Recreates a tree as the folder `to`, which is absent or an empty folder; see
    /// [`Client::get_folder`].
    ///
    /// # Errors
    /// As [`Client::get_folder`].
    pub fn get_tree(
        &self,
        tree: FileId,
        to: &Path,
        progress: &mut dyn FnMut(TreeProgress),
    ) -> Result<TreeProgress, ClientError> {
        self.get_folder(&self.read_tree(tree)?, to, progress)
    }

    /// Recreates a folder of a tree as the folder `to`, which is absent or an empty folder: files
    /// with content and mode, links, empty folders, times where the tree has them.
    ///
    /// # Errors
    /// [`ClientError`], with the path of what could not be made; nothing of it is left then.
    pub fn get_folder(
        &self,
        folder: &Folder,
        to: &Path,
        progress: &mut dyn FnMut(TreeProgress),
    ) -> Result<TreeProgress, ClientError> {
        fill_new_folder(to, |part| {
            let mut fetching = Fetching::new(self, progress);
            fetching.folder(folder, part, 1)?;
            fetching.finish()
        })
    }
}

/// Fills a new folder beside `to`, which is absent or an empty folder, and gives it that name when
/// it is complete. Nothing of it is left after an error.
pub(crate) fn fill_new_folder<T>(
    to: &Path,
    fill: impl FnOnce(&Path) -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    refuse_used(to)?;
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = to.with_file_name(name);
    std::fs::create_dir(&part).map_err(|it| ClientError::file("make", &part, it))?;
    let filled = fill(&part).and_then(|filled| {
        std::fs::rename(&part, to).map_err(|it| ClientError::file("make", to, it))?;
        Ok(filled)
    });
    if filled.is_err() {
        // The error that led here is the one to tell.
        let _ = std::fs::remove_dir_all(&part);
    }
    filled
}

/// A rename replaces an empty folder and fails for anything else, but only at the end.
fn refuse_used(to: &Path) -> Result<(), ClientError> {
    let is_free = match std::fs::read_dir(to) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    if is_free {
        return Ok(());
    }
    let there = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
    Err(ClientError::file("make", to, there))
}

/// How a file or folder is to be left.
pub(crate) struct Finish {
    pub(crate) path: PathBuf,
    pub(crate) mode: u16,
    pub(crate) modified: Option<ModificationTime>,
}

impl Finish {
    fn of(path: PathBuf, entry: &Entry) -> Finish {
        Finish { path, mode: entry.mode, modified: entry.modified }
    }

    fn apply(&self) -> Result<(), ClientError> {
        let mode = Permissions::from_mode(u32::from(self.mode));
        std::fs::set_permissions(&self.path, mode)
            .map_err(|it| ClientError::file("set the mode of", &self.path, it))?;
        set_time(&self.path, self.modified)
    }
}

/// Files and folders on their way into a new folder.
pub(crate) struct Fetching<'a> {
    client: &'a Client,
    progress: &'a mut dyn FnMut(TreeProgress),
    so_far: TreeProgress,
    /// Small files with their lengths.
    window: Window<Vec<u8>, (Finish, u64)>,
    /// Folders keep their owner's rights until all is inside; outer ones stand first.
    folders: Vec<Finish>,
}

impl<'a> Fetching<'a> {
    pub(crate) fn new(
        client: &'a Client,
        progress: &'a mut dyn FnMut(TreeProgress),
    ) -> Fetching<'a> {
        let (so_far, window, folders) = (TreeProgress::default(), Window::new(), Vec::new());
        Fetching { client, progress, so_far, window, folders }
    }

    /// Waits for everything that is under way; how much it was.
    pub(crate) fn finish(mut self) -> Result<TreeProgress, ClientError> {
        self.wait(0)?;
        self.folders.iter().rev().try_for_each(Finish::apply)?;
        Ok(self.so_far)
    }

    fn folder(&mut self, folder: &Folder, to: &Path, depth: usize) -> Result<(), ClientError> {
        for entry in folder.entries() {
            let path = to.join(OsStr::from_bytes(&entry.name));
            match &entry.node {
                Node::File { file, length } => {
                    self.file(*file, *length, Finish::of(path, entry))?;
                }
                Node::Folder(inner) => self.inner_folder(inner, &path, entry, depth)?,
                Node::Tree { tree, .. } => {
                    let inner = self.client.read_tree(*tree).map_err(|it| it.at(&path))?;
                    self.inner_folder(&inner, &path, entry, depth)?;
                }
                Node::Link { target } => {
                    std::os::unix::fs::symlink(OsStr::from_bytes(target), &path)
                        .map_err(|it| ClientError::file("make the link", &path, it))?;
                    set_time(&path, entry.modified)?;
                }
            }
        }
        Ok(())
    }

    fn inner_folder(
        &mut self,
        folder: &Folder,
        path: &Path,
        entry: &Entry,
        depth: usize,
    ) -> Result<(), ClientError> {
        let depth = deeper(depth).map_err(|it| ClientError::from(it).at(path))?;
        self.make_folder(Finish::of(path.to_owned(), entry))?;
        self.folder(folder, path, depth)
    }

    /// Makes an empty folder.
    pub(crate) fn make_folder(&mut self, finish: Finish) -> Result<(), ClientError> {
        std::fs::create_dir(&finish.path)
            .map_err(|it| ClientError::file("make", &finish.path, it))?;
        self.folders.push(finish);
        Ok(())
    }

    /// Makes a file of bytes that are here.
    pub(crate) fn packed(&mut self, bytes: &[u8], finish: &Finish) -> Result<(), ClientError> {
        let written = new_file(&finish.path)?.write_all(bytes);
        written.map_err(|it| ClientError::file("write", &finish.path, it))?;
        self.finish_file(finish, bytes.len() as u64, bytes.len() as u64)
    }

    /// Fetches a file.
    pub(crate) fn file(
        &mut self,
        file: FileId,
        length: u64,
        finish: Finish,
    ) -> Result<(), ClientError> {
        if length <= SMALL_BYTES {
            // One byte more, so that a file that is longer than the tree says is noticed.
            let begun = self.client.begin_get(file, 0..length + 1, length + 1);
            self.window.push((finish, length), begun);
            return self.wait(IN_FLIGHT);
        }
        let target = new_file(&finish.path)?;
        let written = self.client.write_pieces(file, &target, &finish.path, &mut |_| {});
        let found = written.map_err(|it| it.at(&finish.path))?;
        self.finish_file(&finish, length, found)
    }

    /// Waits until no more than `left` are under way, and writes what came.
    fn wait(&mut self, left: usize) -> Result<(), ClientError> {
        while let Some(((finish, length), begun)) = self.window.pop_above(left) {
            let content = begun.wait()?.map_err(|it| it.at(&finish.path))?;
            if length != content.len() as u64 {
                let found = content.len() as u64;
                return Err(ClientError::OtherLength { wanted: length, found }.at(&finish.path));
            }
            self.packed(&content, &finish)?;
        }
        Ok(())
    }

    fn finish_file(&mut self, finish: &Finish, wanted: u64, found: u64) -> Result<(), ClientError> {
        if wanted != found {
            return Err(ClientError::OtherLength { wanted, found }.at(&finish.path));
        }
        finish.apply()?;
        self.so_far.files += 1;
        self.so_far.bytes += found;
        (self.progress)(self.so_far);
        Ok(())
    }
}

fn new_file(path: &Path) -> Result<File, ClientError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.map_err(|it| ClientError::file("make", path, it))
}

fn set_time(path: &Path, modified: Option<ModificationTime>) -> Result<(), ClientError> {
    let Some(modified) = modified else {
        return Ok(());
    };
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec {
            tv_sec: modified.seconds,
            tv_nsec: i64::from(modified.nanoseconds),
        },
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|it| ClientError::file("set the time of", path, it.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_absent_or_empty_folder_is_written_to() {
        let place = tempfile::tempdir().unwrap();
        assert!(refuse_used(&place.path().join("absent")).is_ok());
        assert!(refuse_used(place.path()).is_ok());
        std::fs::write(place.path().join("file"), "").unwrap();
        assert!(refuse_used(place.path()).is_err());
        assert!(refuse_used(&place.path().join("file")).is_err());
    }

    #[test]
    fn links_get_their_own_time() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("target");
        let link = place.path().join("link");
        std::fs::write(&target, "").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let modified = ModificationTime { seconds: -5, nanoseconds: 7 };
        set_time(&link, Some(modified)).unwrap();
        let time = |metadata: std::fs::Metadata| {
            use std::os::unix::fs::MetadataExt;
            (metadata.mtime(), metadata.mtime_nsec())
        };
        assert_eq!(time(std::fs::symlink_metadata(&link).unwrap()), (-5, 7));
        assert!(time(std::fs::metadata(&target).unwrap()).0 > 0);
    }
}
