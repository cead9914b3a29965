//! A disk that forgets: `node::files::Files` in memory with the durability of a real one.
//!
//! Responsible for what a power loss leaves behind. Each file has a durable content and a present
//! one; writes are durable after their own `sync_data`, names after `sync_dir` of their folder. A
//! power loss keeps, of what was not synced, a prefix per file (the last write of it perhaps torn
//! at any byte) and a prefix of the changes per folder. Not responsible for time: how long a write
//! takes is the world's affair.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fastrand::Rng;
use node::files::{File, Files, Open};

use crate::random::chance;

/// Bytes of a page, the unit in which content is kept and room is counted.
const PAGE: usize = 4096;

/// Content as pages. One that is absent takes no room, one without bytes does; both read as
/// zeros, so that preallocated files cost nothing here.
#[derive(Clone, Debug, Default)]
struct Content {
    length: u64,
    pages: BTreeMap<u64, Option<Box<[u8]>>>,
}

impl Content {
    fn read(&self, buffer: &mut [u8], offset: u64) -> usize {
        let left = usize::try_from(self.length.saturating_sub(offset)).unwrap_or(usize::MAX);
        let count = buffer.len().min(left);
        let mut done = 0;
        while done < count {
            let at = offset + done as u64;
            let within = (at % PAGE as u64) as usize;
            let step = (PAGE - within).min(count - done);
            match self.pages.get(&(at / PAGE as u64)) {
                Some(Some(page)) => {
                    buffer[done..done + step].copy_from_slice(&page[within..within + step]);
                }
                Some(None) | None => buffer[done..done + step].fill(0),
            }
            done += step;
        }
        count
    }

    fn write(&mut self, bytes: &[u8], offset: u64) {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let within = (at % PAGE as u64) as usize;
            let step = (PAGE - within).min(bytes.len() - done);
            let piece = &bytes[done..done + step];
            let page = self.pages.entry(at / PAGE as u64).or_default();
            if let Some(page) = page {
                page[within..within + step].copy_from_slice(piece);
            } else if piece.iter().any(|&byte| byte != 0) {
                let mut fresh = vec![0; PAGE];
                fresh[within..within + step].copy_from_slice(piece);
                *page = Some(fresh.into());
            }
            done += step;
        }
        self.length = self.length.max(offset + bytes.len() as u64);
    }

    fn set_length(&mut self, length: u64) {
        if length < self.length {
            let kept = length / PAGE as u64;
            let kept_pages = length.div_ceil(PAGE as u64);
            self.pages.split_off(&kept_pages);
            if let Some(Some(page)) = self.pages.get_mut(&kept) {
                page[(length % PAGE as u64) as usize..].fill(0);
            }
        }
        self.length = length;
    }
}

/// A change of a file's content that no sync covered yet.
#[derive(Clone, Debug)]
enum Write {
    Bytes { offset: u64, bytes: Vec<u8> },
    Length(u64),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    present: Content,
    durable: Content,
    unsynced: Vec<Write>,
}

impl Inode {
    fn settle(&mut self, writes: impl IntoIterator<Item = Write>) {
        for write in writes {
            match write {
                Write::Bytes { offset, bytes } => self.durable.write(&bytes, offset),
                Write::Length(length) => self.durable.set_length(length),
            }
        }
    }
}

/// A change of a folder that no `sync_dir` covered yet.
#[derive(Clone, Debug)]
enum Change {
    Folder(PathBuf),
    Link(PathBuf, u64),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl Change {
    fn folder(&self) -> Option<&Path> {
        match self {
            Change::Folder(path)
            | Change::Link(path, _)
            | Change::Unlink(path)
            | Change::Rename(path, _) => path.parent(),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Names {
    folders: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, u64>,
}

impl Names {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Folder(path) => {
                self.folders.insert(path.clone());
            }
            Change::Link(path, inode) => {
                self.files.insert(path.clone(), *inode);
            }
            Change::Unlink(path) => {
                self.files.remove(path);
            }
            Change::Rename(from, to) => {
                if let Some(inode) = self.files.remove(from) {
                    self.files.insert(to.clone(), inode);
                }
            }
        }
    }
}

#[derive(Debug, Default)]
struct State {
    present: Names,
    durable: Names,
    unsynced: Vec<Change>,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    /// Operations left before every further one fails because the power is gone.
    fuse: Option<u64>,
    /// Room in bytes; beyond it writes fail.
    room: Option<u64>,
    /// A disk that says "synced" and has not: a planted bug which the checkers must find.
    lies: bool,
}

impl State {
    fn step(&mut self) -> io::Result<()> {
        match &mut self.fuse {
            None => Ok(()),
            Some(0) => Err(io::Error::other("the power is gone")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    fn change(&mut self, change: Change) {
        self.present.apply(&change);
        self.unsynced.push(change);
    }

    fn inode(&mut self, inode: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&inode).ok_or_else(|| error(ErrorKind::NotFound, Path::new("inode")))
    }

    fn used(&self) -> u64 {
        self.inodes.values().map(|inode| (inode.present.pages.len() * PAGE) as u64).sum()
    }
}

fn error(kind: ErrorKind, path: &Path) -> io::Error {
    io::Error::new(kind, format!("{}: {kind}", path.display()))
}

/// What a power loss took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    /// Writes of which nothing was left.
    pub(crate) writes: u64,
    /// Writes of which a part was left.
    pub(crate) torn: u64,
    /// Changes of folders that never happened.
    pub(crate) names: u64,
}

/// The files of one simulated machine. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimFiles {
    state: Arc<Mutex<State>>,
}

impl SimFiles {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The power fails: what was not synced survives as far as `survival` (per mille, for each
    /// write and change in order) lets it. Open files of the old life must not be used again.
    pub(crate) fn lose_power(&self, rng: &mut Rng, survival: u32) -> Lost {
        let mut state = self.lock();
        let state = &mut *state;
        let mut lost = Lost::default();
        for inode in state.inodes.values_mut() {
            let mut writes = std::mem::take(&mut inode.unsynced);
            let kept = writes.iter().take_while(|_| chance(rng, survival)).count();
            let mut behind = writes.split_off(kept).into_iter();
            inode.settle(writes);
            lost.writes += behind.len() as u64;
            if let Some(Write::Bytes { offset, mut bytes }) = behind.next()
                && !bytes.is_empty()
                && chance(rng, 700)
            {
                bytes.truncate(rng.usize(0..bytes.len()));
                if !bytes.is_empty() {
                    lost.torn += 1;
                    lost.writes -= 1;
                    inode.settle([Write::Bytes { offset, bytes }]);
                }
            }
            inode.present = inode.durable.clone();
        }
        let mut stopped = BTreeSet::new();
        for change in std::mem::take(&mut state.unsynced) {
            let folder = change.folder().map(Path::to_owned);
            if stopped.contains(&folder) || !chance(rng, survival) {
                stopped.insert(folder);
                lost.names += 1;
            } else {
                state.durable.apply(&change);
            }
        }
        state.present = state.durable.clone();
        let named: BTreeSet<u64> = state.present.files.values().copied().collect();
        state.inodes.retain(|inode, _| named.contains(inode));
        state.fuse = None;
        lost
    }

    /// Lets `operations` more operations happen, then fails every further one until the power is
    /// lost for good with [`SimFiles::lose_power`].
    pub(crate) fn fail_after(&self, operations: u64) {
        self.lock().fuse = Some(operations);
    }

    /// The process that [`SimFiles::fail_after`] stopped is dead; the next one may go on.
    pub(crate) fn stop_failing(&self) {
        self.lock().fuse = None;
    }

    /// Limits the room to what is used now and `more` bytes; `None` lifts the limit.
    pub(crate) fn limit_room(&self, more: Option<u64>) {
        let mut state = self.lock();
        let used = state.used();
        state.room = more.map(|more| used + more);
    }

    /// From now on syncs of files return without having synced.
    pub(crate) fn lie_about_syncs(&self) {
        self.lock().lies = true;
    }

    /// Flips one bit of a file, as rot does: at rest, seen by every later read.
    pub(crate) fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> io::Result<()> {
        let mut state = self.lock();
        let inode = *state.present.files.get(path).ok_or(error(ErrorKind::NotFound, path))?;
        let inode = state.inode(inode)?;
        for content in [&mut inode.present, &mut inode.durable] {
            let mut byte = [0];
            if content.read(&mut byte, offset) == 1 {
                content.write(&[byte[0] ^ (1 << (bit % 8))], offset);
            }
        }
        Ok(())
    }

    /// Flips some bit of some file below a folder, where there is one.
    pub(crate) fn rot(&self, rng: &mut Rng, folder: &Path) {
        let state = self.lock();
        let files = state.present.files.iter().filter(|(path, _)| path.starts_with(folder));
        let lengths = files.filter_map(|(path, inode)| {
            let length = state.inodes.get(inode)?.present.length;
            (length > 0).then(|| (path.clone(), length))
        });
        let lengths: Vec<(PathBuf, u64)> = lengths.collect();
        drop(state);
        if lengths.is_empty() {
            return;
        }
        let (path, length) = &lengths[rng.usize(0..lengths.len())];
        let (offset, bit) = (rng.u64(0..*length), rng.u8(0..8));
        self.flip_bit(path, offset, bit).expect("the file was listed");
    }

    /// Whether a power loss would leave `content`, which some file holds: neither was it written
    /// without a sync of its file, nor lies it in a file whose name was not synced. What is too
    /// short to be told from anything else counts as durable.
    pub(crate) fn is_durable(&self, content: &[u8]) -> bool {
        const TOO_SHORT: usize = 32;
        let state = self.lock();
        if content.len() < TOO_SHORT {
            return true;
        }
        let holds = |bytes: &[u8]| bytes.windows(content.len()).any(|window| window == content);
        let is_unsynced = state.inodes.values().any(|inode| {
            inode.unsynced.iter().any(|write| match write {
                Write::Bytes { bytes, .. } => holds(bytes),
                Write::Length(_) => false,
            })
        });
        let is_unnamed = state.present.files.iter().any(|(path, number)| {
            state.durable.files.get(path) != Some(number)
                && state.inodes.get(number).is_some_and(|inode| {
                    let length = usize::try_from(inode.present.length).unwrap_or(usize::MAX);
                    let mut bytes = vec![0; length];
                    inode.present.read(&mut bytes, 0);
                    holds(&bytes)
                })
        });
        !is_unsynced && !is_unnamed
    }

    /// Every file that is there at present.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        self.lock().present.files.keys().cloned().collect()
    }

    /// The machine gets a new, empty disk.
    pub(crate) fn wipe(&self) {
        let mut state = self.lock();
        *state = State { lies: state.lies, next_inode: state.next_inode, ..State::default() };
    }
}

impl Files for SimFiles {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.step()?;
        let mut folders: Vec<&Path> = path.ancestors().collect();
        folders.reverse();
        for folder in folders {
            if folder.parent().is_some()
                && !folder.as_os_str().is_empty()
                && !state.present.folders.contains(folder)
            {
                state.change(Change::Folder(folder.to_owned()));
            }
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let mut state = self.lock();
        state.step()?;
        if !state.present.folders.contains(path) {
            return Err(error(ErrorKind::NotFound, path));
        }
        let names = state.present.folders.iter().chain(state.present.files.keys());
        let mut names: Vec<PathBuf> = names
            .filter(|name| name.parent() == Some(path))
            .filter_map(|name| name.file_name().map(PathBuf::from))
            .collect();
        names.sort();
        Ok(names)
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn File>> {
        let mut state = self.lock();
        state.step()?;
        let inode = match (state.present.files.get(path), how) {
            (Some(_), Open::New) => return Err(error(ErrorKind::AlreadyExists, path)),
            (Some(&inode), _) => inode,
            (None, Open::Existing) => return Err(error(ErrorKind::NotFound, path)),
            (None, _) => {
                if !path.parent().is_some_and(|folder| state.present.folders.contains(folder)) {
                    return Err(error(ErrorKind::NotFound, path));
                }
                let inode = state.next_inode;
                state.next_inode += 1;
                state.inodes.insert(inode, Inode::default());
                state.change(Change::Link(path.to_owned(), inode));
                inode
            }
        };
        Ok(Box::new(SimFile { files: self.clone(), inode, path: path.to_owned() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.step()?;
        if from.parent() != to.parent() {
            return Err(error(ErrorKind::Unsupported, to));
        }
        if !state.present.files.contains_key(from) {
            return Err(error(ErrorKind::NotFound, from));
        }
        state.change(Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.step()?;
        if !state.present.files.contains_key(path) {
            return Err(error(ErrorKind::NotFound, path));
        }
        state.change(Change::Unlink(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.step()?;
        let state = &mut *state;
        state.unsynced.retain(|change| {
            let here = change.folder() == Some(path);
            if here {
                state.durable.apply(change);
            }
            !here
        });
        Ok(())
    }
}

#[derive(Debug)]
struct SimFile {
    files: SimFiles,
    inode: u64,
    path: PathBuf,
}

impl File for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.files.lock();
        state.step()?;
        Ok(state.inode(self.inode)?.present.read(buffer, offset))
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.files.lock();
        state.step()?;
        let mut bytes = bytes.to_vec();
        let wanted = bytes.len();
        if let Some(room) = state.room {
            // Pages that are there already cost nothing.
            let mut left = room.saturating_sub(state.used()) / PAGE as u64;
            let pages = &state.inode(self.inode)?.present.pages;
            let mut fits = 0;
            while fits < wanted {
                let at = offset + fits as u64;
                if !pages.contains_key(&(at / PAGE as u64)) {
                    if left == 0 {
                        break;
                    }
                    left -= 1;
                }
                fits += PAGE - (at % PAGE as u64) as usize;
            }
            bytes.truncate(fits);
        }
        let written = bytes.len();
        let inode = state.inode(self.inode)?;
        inode.present.write(&bytes, offset);
        inode.unsynced.push(Write::Bytes { offset, bytes });
        if written < wanted { Err(error(ErrorKind::StorageFull, &self.path)) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.files.lock();
        state.step()?;
        if state.lies {
            return Ok(());
        }
        let inode = state.inode(self.inode)?;
        let writes = std::mem::take(&mut inode.unsynced);
        inode.settle(writes);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let mut state = self.files.lock();
        state.step()?;
        Ok(state.inode(self.inode)?.present.length)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut state = self.files.lock();
        state.step()?;
        let inode = state.inode(self.inode)?;
        inode.present.set_length(length);
        inode.unsynced.push(Write::Length(length));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use node::files::{read_all, replace};

    use super::*;

    fn folder(files: &SimFiles) -> PathBuf {
        let path = PathBuf::from("/data");
        files.create_dir_all(&path).unwrap();
        files.sync_dir(Path::new("/")).unwrap();
        path
    }

    #[test]
    fn what_was_synced_survives_and_the_rest_is_a_prefix() {
        let mut torn = 0;
        for seed in 0..200 {
            let files = SimFiles::default();
            let path = folder(&files).join("log");
            let file = files.open(&path, Open::New).unwrap();
            files.sync_dir(Path::new("/data")).unwrap();
            file.write_all_at(b"synced", 0).unwrap();
            file.sync_data().unwrap();
            file.write_all_at(b" first", 6).unwrap();
            file.write_all_at(b" second", 12).unwrap();
            let lost = files.lose_power(&mut Rng::with_seed(seed), 500);
            let content = read_all(&files, &path).unwrap();
            assert!(b"synced first second".starts_with(&content), "{content:?}");
            assert!(content.len() >= 6);
            torn += lost.torn;
        }
        assert!(torn > 20);
    }

    #[test]
    fn a_name_needs_the_sync_of_its_folder() {
        let files = SimFiles::default();
        let path = folder(&files).join("log");
        let file = files.open(&path, Open::New).unwrap();
        file.write_all_at(b"x", 0).unwrap();
        file.sync_data().unwrap();
        files.lose_power(&mut Rng::with_seed(1), 0);
        assert_eq!(files.open(&path, Open::Existing).err().unwrap().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn replacing_a_file_leaves_the_old_or_the_new_content_wherever_the_power_fails() {
        let (mut old, mut new) = (0, 0);
        for seed in 0..300 {
            let mut rng = Rng::with_seed(seed);
            let files = SimFiles::default();
            let path = folder(&files).join("state");
            replace(&files, &path, b"old").unwrap();
            files.fail_after(rng.u64(0..8));
            let done = replace(&files, &path, b"new content").is_ok();
            files.lose_power(&mut rng, 500);
            match read_all(&files, &path).unwrap().as_slice() {
                b"old" => {
                    assert!(!done);
                    old += 1;
                }
                b"new content" => new += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(old > 50 && new > 50, "{old} {new}");
    }

    #[test]
    fn a_lying_disk_loses_what_it_called_synced() {
        let files = SimFiles::default();
        let path = folder(&files).join("state");
        replace(&files, &path, b"old").unwrap();
        files.lie_about_syncs();
        replace(&files, &path, b"new").unwrap();
        files.lose_power(&mut Rng::with_seed(1), 0);
        assert_eq!(read_all(&files, &path).unwrap(), b"");
    }

    #[test]
    fn durable_is_what_was_synced_with_its_name() {
        let files = SimFiles::default();
        let path = folder(&files).join("log");
        let file = files.open(&path, Open::New).unwrap();
        file.write_all_at(&[7; 100], 50).unwrap();
        assert!(!files.is_durable(&[7; 100]));
        file.sync_data().unwrap();
        assert!(!files.is_durable(&[7; 100]), "the name is not");
        files.sync_dir(Path::new("/data")).unwrap();
        assert!(files.is_durable(&[7; 100]));
        file.write_all_at(&[8; 100], 150).unwrap();
        assert!(files.is_durable(&[7; 100]) && !files.is_durable(&[8; 100]));
    }

    #[test]
    fn rot_changes_one_bit_below_the_folder() {
        let files = SimFiles::default();
        let path = folder(&files).join("state");
        replace(&files, &path, &[0; 9]).unwrap();
        files.rot(&mut Rng::with_seed(1), Path::new("/elsewhere"));
        assert_eq!(read_all(&files, &path).unwrap(), [0; 9]);
        files.rot(&mut Rng::with_seed(1), Path::new("/data"));
        let bits: u32 = read_all(&files, &path).unwrap().iter().map(|byte| byte.count_ones()).sum();
        assert_eq!(bits, 1);
    }

    #[test]
    fn a_full_disk_refuses_and_keeps_what_it_has() {
        let files = SimFiles::default();
        let path = folder(&files).join("state");
        replace(&files, &path, b"old").unwrap();
        files.limit_room(Some(10));
        let error = replace(&files, &path, &[7; 9000]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        assert_eq!(read_all(&files, &path).unwrap(), b"old");
        files.limit_room(None);
        replace(&files, &path, &[7; 9000]).unwrap();
        assert_eq!(read_all(&files, &path).unwrap(), [7; 9000]);
    }

    #[test]
    fn a_flipped_bit_is_read() {
        let files = SimFiles::default();
        let path = folder(&files).join("state");
        replace(&files, &path, b"a").unwrap();
        files.flip_bit(&path, 0, 1).unwrap();
        assert_eq!(read_all(&files, &path).unwrap(), b"c");
    }

    #[test]
    fn shortening_and_extending_leaves_zeros() {
        let files = SimFiles::default();
        let path = folder(&files).join("log");
        let file = files.open(&path, Open::New).unwrap();
        file.write_all_at(&[1; 10_000], 0).unwrap();
        file.set_len(5_000).unwrap();
        file.set_len(10_000).unwrap();
        let content = read_all(&files, &path).unwrap();
        assert!(content[..5_000].iter().all(|&b| b == 1));
        assert!(content[5_000..].iter().all(|&b| b == 0));
        assert_eq!(content.len(), 10_000);
    }
}
