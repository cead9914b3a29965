//! The one trait through which durable state is reached, and the real disk behind it.
//!
//! The Raft log, the storage index and the volumes use nothing else, so that the simulator's disk
//! (which forgets what was not synced and tears what was being written) runs under the shipped
//! code. Everything here blocks: it belongs on a disk thread, never on an event loop.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// How a file is opened. All are opened for reading and writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// It must be there.
    Existing,
    /// It must not be there.
    New,
    /// Whichever it is; its content is kept.
    Either,
}

/// A folder tree that keeps files.
pub trait Files: Send + Sync {
    /// Makes a folder and those above it; does nothing where it is there. Not yet durable: the
    /// folder above needs [`Files::sync_dir`].
    ///
    /// # Errors
    /// As the operating system says, with operation and path in the text.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Names (files and folders) in a folder, sorted bytewise.
    ///
    /// # Errors
    /// As the operating system says.
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>>;

    /// Opens a file.
    ///
    /// # Errors
    /// As the operating system says; `AlreadyExists` and `NotFound` as [`Open`] asks.
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn File>>;

    /// Gives a file another name in one step, replacing what had it. Durable after
    /// [`Files::sync_dir`] of the folder.
    ///
    /// # Errors
    /// As the operating system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Durable after [`Files::sync_dir`] of the folder.
    ///
    /// # Errors
    /// As the operating system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes additions, renames and removals in a folder durable.
    ///
    /// # Errors
    /// As the operating system says. After an error nothing about the folder may be assumed.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Bytes that may still be written to the file system of a folder; `u64::MAX` where that is
    /// not known.
    ///
    /// # Errors
    /// As the operating system says.
    fn free_bytes(&self, _folder: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

/// An open file.
#[expect(clippy::len_without_is_empty, reason = "a length in bytes, not a collection")]
pub trait File: Send + Sync {
    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    ///
    /// # Errors
    /// As the operating system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Reads up to `length` bytes to the end of `buffer`; fewer only at the end of the file.
    ///
    /// # Errors
    /// As the operating system says; `buffer` may have grown.
    fn append_at(&self, buffer: &mut Vec<u8>, length: usize, offset: u64) -> io::Result<()> {
        let begin = buffer.len();
        buffer.resize(begin + length, 0);
        let read = self.read_at(&mut buffer[begin..], offset)?;
        buffer.truncate(begin + read);
        Ok(())
    }

    /// Writes all of `bytes`; visible to readers at once, durable after [`File::sync_data`].
    ///
    /// # Errors
    /// As the operating system says; part may have been written.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// fdatasync: when this returns, what was written before it survives a power loss.
    ///
    /// # Errors
    /// As the operating system says. The caller must give up: a second call may succeed without
    /// having written anything.
    fn sync_data(&self) -> io::Result<()>;

    /// Length in bytes.
    ///
    /// # Errors
    /// As the operating system says.
    fn len(&self) -> io::Result<u64>;

    /// Cuts the file or extends it with zeros.
    ///
    /// # Errors
    /// As the operating system says.
    fn set_len(&self, length: u64) -> io::Result<()>;
}

/// Reads a whole file.
///
/// # Errors
/// As [`Files::open`] and [`File::read_at`].
pub fn read_all(files: &dyn Files, path: &Path) -> io::Result<Vec<u8>> {
    let file = files.open(path, Open::Existing)?;
    let length = usize::try_from(file.len()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut content = vec![0; length];
    let read = file.read_at(&mut content, 0)?;
    content.truncate(read);
    Ok(content)
}

/// True where an operation failed because there is no room: what was there before is unharmed.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Replaces a file so that after a crash it has the old content or the new, never a mixture:
/// temporary file beside it, sync, rename, sync of the folder.
///
/// # Errors
/// As the steps; the old content is still there then.
pub fn replace(files: &dyn Files, path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let file = files.open(&temporary, Open::Either)?;
    file.set_len(0)?;
    file.write_all_at(content, 0)?;
    file.sync_data()?;
    drop(file);
    files.rename(&temporary, path)?;
    files.sync_dir(folder)
}

/// The operating system's files. Relative paths are taken from the working folder.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFiles;

/// Adds operation and path to an error and keeps its kind.
fn named(operation: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{operation} {}: {error}", path.display()))
}

impl Files for RealFiles {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path).map_err(|error| named("create folder", path, &error))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path).map_err(|error| named("list", path, &error))? {
            let entry = entry.map_err(|error| named("list", path, &error))?;
            names.push(PathBuf::from(entry.file_name()));
        }
        names.sort();
        Ok(names)
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true);
        match how {
            Open::Existing => {}
            Open::New => {
                options.create_new(true);
            }
            Open::Either => {
                options.create(true).truncate(false);
            }
        }
        let file = options.open(path).map_err(|error| named("open", path, &error))?;
        Ok(Box::new(RealFile { file, path: path.to_owned() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to).map_err(|error| named("rename", from, &error))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path).map_err(|error| named("remove", path, &error))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| named("sync folder", path, &error))
    }

    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        let told = rustix::fs::statvfs(folder)
            .map_err(|error| named("ask for the room of", folder, &error.into()))?;
        Ok(told.f_bavail.saturating_mul(told.f_frsize))
    }
}

#[derive(Debug)]
struct RealFile {
    file: fs::File,
    path: PathBuf,
}

impl File for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut read = 0;
        while read < buffer.len() {
            match self.file.read_at(&mut buffer[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(n) => read += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(named("read", &self.path, &error)),
            }
        }
        Ok(read)
    }

    // Into memory that nobody filled with zeros before.
    fn append_at(&self, buffer: &mut Vec<u8>, length: usize, offset: u64) -> io::Result<()> {
        let begin = buffer.len();
        buffer.reserve_exact(length);
        while buffer.len() < begin + length {
            let at = offset + (buffer.len() - begin) as u64;
            match rustix::io::pread(&self.file, rustix::buffer::spare_capacity(buffer), at) {
                Ok(0) => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(named("read", &self.path, &error.into())),
            }
        }
        // There may have been more room than was asked for.
        buffer.truncate(begin + length);
        Ok(())
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset).map_err(|error| named("write", &self.path, &error))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data().map_err(|error| named("sync", &self.path, &error))
    }

    fn len(&self) -> io::Result<u64> {
        let metadata = self.file.metadata().map_err(|error| named("stat", &self.path, &error))?;
        Ok(metadata.len())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length).map_err(|error| named("set length of", &self.path, &error))
    }
}
