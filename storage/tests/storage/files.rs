//! A disk in memory that forgets what was not synced, in any subset: harsher than a real one,
//! which at least keeps the order of names.
//!
//! Each write that no sync covered survives a power loss or not, independently of those before it,
//! and a survivor may be torn at any multiple of 64 bytes. Names survive as a prefix of what
//! happened to them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use fastrand::Rng;
use node::files::{File, Files, Open};

#[derive(Clone, Debug)]
enum Write {
    Bytes(usize, Vec<u8>),
    Length(usize),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    present: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Write>,
}

fn apply(content: &mut Vec<u8>, write: &Write) {
    match write {
        Write::Bytes(offset, bytes) => {
            content.resize(content.len().max(offset + bytes.len()), 0);
            content[*offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        Write::Length(length) => content.resize(*length, 0),
    }
}

/// Changes of names that a power loss may undo.
const HISTORY: usize = 32;

type Names = BTreeMap<PathBuf, Option<u64>>;

#[derive(Clone, Debug, Default)]
struct State {
    present: Names,
    durable: Names,
    /// The names as they were after each change since the last sync of a folder.
    history: Vec<Names>,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    operations_left: Option<u64>,
    room: Option<usize>,
    fails_syncs: bool,
    syncs: u64,
    torn: u64,
    lost: u64,
}

impl State {
    fn step(&mut self) -> io::Result<()> {
        match &mut self.operations_left {
            None => Ok(()),
            Some(0) => Err(io::Error::other("the power is gone")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    fn name(&mut self, path: &Path, inode: Option<Option<u64>>) {
        match inode {
            Some(inode) => self.present.insert(path.to_owned(), inode),
            None => self.present.remove(path),
        };
        self.history.push(self.present.clone());
        if self.history.len() > HISTORY {
            self.history.remove(0);
        }
    }

    fn used(&self) -> usize {
        let named = self.present.values().flatten().filter_map(|inode| self.inodes.get(inode));
        named.map(|inode| inode.present.len()).sum()
    }
}

/// What power losses took so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Losses {
    pub(crate) torn: u64,
    pub(crate) lost: u64,
}

/// Which syncs fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fails {
    All,
    None,
}

/// Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeFiles(Arc<Mutex<State>>);

impl FakeFiles {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Another disk with the same content.
    pub(crate) fn copy(&self) -> FakeFiles {
        FakeFiles(Arc::new(Mutex::new(self.lock().clone())))
    }

    pub(crate) fn lose_power(&self, rng: &mut Rng) {
        let mut state = self.lock();
        let state = &mut *state;
        for inode in state.inodes.values_mut() {
            for mut write in std::mem::take(&mut inode.unsynced) {
                if rng.bool() {
                    state.lost += 1;
                    continue;
                }
                if let Write::Bytes(_, bytes) = &mut write
                    && bytes.len() > 64
                    && rng.bool()
                {
                    state.torn += 1;
                    bytes.truncate(rng.usize(0..bytes.len() / 64) * 64);
                }
                apply(&mut inode.durable, &write);
            }
            inode.present = inode.durable.clone();
        }
        let history = std::mem::take(&mut state.history);
        if !history.is_empty() && rng.bool() {
            state.durable = history[rng.usize(0..history.len())].clone();
        }
        state.present = state.durable.clone();
        state.operations_left = None;
    }

    pub(crate) fn fail_after(&self, operations: u64) {
        self.lock().operations_left = Some(operations);
    }

    /// From now on, or no longer, syncs fail and everything else works.
    pub(crate) fn fail_syncs(&self, fails: Fails) {
        self.lock().fails_syncs = fails == Fails::All;
    }

    pub(crate) fn stop_failing(&self) {
        self.lock().operations_left = None;
    }

    pub(crate) fn limit_room(&self, more: Option<usize>) {
        let mut state = self.lock();
        state.room = more.map(|more| state.used() + more);
    }

    /// Bytes of all files.
    pub(crate) fn used(&self) -> usize {
        self.lock().used()
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    pub(crate) fn losses(&self) -> Losses {
        let state = self.lock();
        Losses { torn: state.torn, lost: state.lost }
    }

    pub(crate) fn names(&self) -> Vec<PathBuf> {
        let state = self.lock();
        state.present.iter().filter(|(_, inode)| inode.is_some()).map(|(p, _)| p.clone()).collect()
    }

    pub(crate) fn length(&self, path: &Path) -> usize {
        let state = self.lock();
        let inode = state.present[path].unwrap();
        state.inodes[&inode].present.len()
    }

    pub(crate) fn flip_bit(&self, path: &Path, offset: usize, bit: u8) {
        let mut state = self.lock();
        let inode = state.present[path].unwrap();
        let inode = state.inodes.get_mut(&inode).unwrap();
        inode.present[offset] ^= 1 << bit;
        if let Some(byte) = inode.durable.get_mut(offset) {
            *byte ^= 1 << bit;
        }
    }
}

impl Files for FakeFiles {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.step()?;
        let mut folders: Vec<&Path> = path.ancestors().collect();
        folders.reverse();
        for folder in folders {
            if !state.present.contains_key(folder) {
                state.name(folder, Some(None));
            }
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let mut state = self.lock();
        state.step()?;
        if state.present.get(path) != Some(&None) {
            return Err(ErrorKind::NotFound.into());
        }
        let inside = state.present.keys().filter(|name| name.parent() == Some(path));
        let names: BTreeSet<_> = inside.map(|name| name.file_name().unwrap().into()).collect();
        Ok(names.into_iter().collect())
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn File>> {
        let mut state = self.lock();
        state.step()?;
        let inode = match (state.present.get(path).copied().flatten(), how) {
            (Some(_), Open::New) => return Err(ErrorKind::AlreadyExists.into()),
            (Some(inode), _) => inode,
            (None, Open::Existing) => return Err(ErrorKind::NotFound.into()),
            (None, _) => {
                if state.present.get(path.parent().unwrap()) != Some(&None) {
                    return Err(ErrorKind::NotFound.into());
                }
                let inode = state.next_inode;
                state.next_inode += 1;
                state.inodes.insert(inode, Inode::default());
                state.name(path, Some(Some(inode)));
                inode
            }
        };
        Ok(Box::new(FakeFile { files: self.clone(), inode }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.step()?;
        let inode = state.present.remove(from).ok_or(ErrorKind::NotFound)?;
        state.name(to, Some(inode));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.step()?;
        if !matches!(state.present.get(path), Some(Some(_))) {
            return Err(ErrorKind::NotFound.into());
        }
        state.name(path, None);
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.step()?;
        if state.fails_syncs {
            return Err(io::Error::other("the sync failed"));
        }
        state.syncs += 1;
        let state = &mut *state;
        // Only the names in this folder become durable; what the others look like after a power
        // loss is still open.
        state.durable.retain(|name, _| name.parent() != Some(path));
        let here = state.present.iter().filter(|(name, _)| name.parent() == Some(path));
        let here: Vec<_> = here.map(|(name, inode)| (name.clone(), *inode)).collect();
        for names in state.history.iter_mut().chain([&mut state.durable]) {
            names.retain(|name, _| name.parent() != Some(path));
            names.extend(here.iter().cloned());
        }
        if state.durable == state.present {
            state.history.clear();
        }
        Ok(())
    }
}

#[derive(Debug)]
struct FakeFile {
    files: FakeFiles,
    inode: u64,
}

impl FakeFile {
    fn change(&self, write: Write) -> io::Result<()> {
        let mut state = self.files.lock();
        state.step()?;
        let mut write = write;
        let left = state.room.map(|room| room.saturating_sub(state.used()));
        let inode = state.inodes.get_mut(&self.inode).unwrap();
        let mut result = Ok(());
        if let Write::Bytes(offset, bytes) = &mut write
            && let Some(left) = left
            && offset.saturating_add(bytes.len()) > inode.present.len() + left
        {
            bytes.truncate((inode.present.len() + left).saturating_sub(*offset));
            result = Err(ErrorKind::StorageFull.into());
        }
        apply(&mut inode.present, &write);
        inode.unsynced.push(write);
        result
    }
}

impl File for FakeFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.files.lock();
        state.step()?;
        let content = &state.inodes[&self.inode].present;
        let content = content.get(offset as usize..).unwrap_or_default();
        let count = content.len().min(buffer.len());
        buffer[..count].copy_from_slice(&content[..count]);
        Ok(count)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(Write::Bytes(offset as usize, bytes.to_vec()))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.files.lock();
        state.step()?;
        if state.fails_syncs {
            return Err(io::Error::other("the sync failed"));
        }
        state.syncs += 1;
        let inode = state.inodes.get_mut(&self.inode).unwrap();
        let Inode { durable, unsynced, .. } = inode;
        unsynced.drain(..).for_each(|write| apply(durable, &write));
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let mut state = self.files.lock();
        state.step()?;
        Ok(state.inodes[&self.inode].present.len() as u64)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.change(Write::Length(length as usize))
    }
}
