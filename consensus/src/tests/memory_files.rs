//! Files in memory that lose what was not synced.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use node::files::{File, Files, Open};

#[derive(Clone, Default)]
struct Content {
    present: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Default)]
struct State {
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    contents: Vec<Content>,
    sync_count: usize,
    fails: bool,
    /// Bytes of all files that there is room for; `None` for any number.
    capacity: Option<usize>,
}

impl State {
    fn used(&self) -> usize {
        self.names.values().map(|&it| self.contents[it].present.len()).sum()
    }

    fn free(&self) -> usize {
        self.capacity.map_or(usize::MAX, |capacity| capacity.saturating_sub(self.used()))
    }
}

/// A disk. Clones are the same disk.
#[derive(Clone, Default)]
pub(super) struct MemoryFiles(Arc<Mutex<State>>);

struct MemoryFile {
    disk: MemoryFiles,
    number: usize,
}

impl MemoryFiles {
    /// Takes back all that was not synced.
    pub(super) fn crash(&self) {
        let mut state = self.0.lock().unwrap();
        state.names = state.durable_names.clone();
        for content in &mut state.contents {
            content.present = content.durable.clone();
        }
    }

    /// From now on syncs fail.
    pub(super) fn fail(&self) {
        self.0.lock().unwrap().fails = true;
    }

    /// From now on they succeed again.
    pub(super) fn mend(&self) {
        self.0.lock().unwrap().fails = false;
    }

    /// From now on so many bytes are free.
    pub(super) fn leave_free(&self, free: Option<usize>) {
        let mut state = self.0.lock().unwrap();
        state.capacity = free.map(|free| state.used() + free);
    }

    /// Syncs of files so far.
    pub(super) fn sync_count(&self) -> usize {
        self.0.lock().unwrap().sync_count
    }

    /// Paths of all files.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.0.lock().unwrap().names.keys().cloned().collect()
    }

    /// Changes a file's content durably.
    pub(super) fn change(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.0.lock().unwrap();
        let number = state.names[path];
        let content = &mut state.contents[number];
        change(&mut content.present);
        content.durable = content.present.clone();
    }

    /// A disk with the same content.
    pub(super) fn copy(&self) -> MemoryFiles {
        let state = self.0.lock().unwrap();
        MemoryFiles(Arc::new(Mutex::new(State {
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            contents: state.contents.clone(),
            ..State::default()
        })))
    }
}

impl Files for MemoryFiles {
    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.0.lock().unwrap();
        let inside = state.names.keys().filter(|name| name.parent() == Some(path));
        Ok(inside.map(|name| name.file_name().unwrap().into()).collect())
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn File>> {
        let mut state = self.0.lock().unwrap();
        let number = match (state.names.get(path), how) {
            (Some(_), Open::New) => return Err(ErrorKind::AlreadyExists.into()),
            (None, Open::Existing) => return Err(ErrorKind::NotFound.into()),
            (Some(&number), _) => number,
            (None, _) => {
                state.contents.push(Content::default());
                let number = state.contents.len() - 1;
                state.names.insert(path.to_owned(), number);
                number
            }
        };
        Ok(Box::new(MemoryFile { disk: self.clone(), number }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        let number = state.names.remove(from).ok_or(ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), number);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.lock().unwrap().names.remove(path).ok_or(ErrorKind::NotFound)?;
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        let State { names, durable_names, .. } = &mut *state;
        durable_names.retain(|name, _| name.parent() != Some(path));
        let inside = names.iter().filter(|(name, _)| name.parent() == Some(path));
        durable_names.extend(inside.map(|(name, &number)| (name.clone(), number)));
        Ok(())
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().free() as u64)
    }
}

impl File for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.0.lock().unwrap();
        let content = &state.contents[self.number].present;
        let rest = content.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock().unwrap();
        let end = offset as usize + bytes.len();
        let grows = end.saturating_sub(state.contents[self.number].present.len());
        if grows > state.free() {
            return Err(ErrorKind::StorageFull.into());
        }
        let content = &mut state.contents[self.number].present;
        content.resize(content.len().max(end), 0);
        content[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.0.lock().unwrap();
        if state.fails {
            return Err(io::Error::other("the disk is broken"));
        }
        state.sync_count += 1;
        let content = &mut state.contents[self.number];
        content.durable = content.present.clone();
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().unwrap().contents[self.number].present.len() as u64)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock().unwrap();
        state.contents[self.number].present.resize(length as usize, 0);
        Ok(())
    }
}
