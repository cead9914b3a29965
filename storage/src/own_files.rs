//! Files of large blocks: written and named before their records are.
//!
//! Deliberately not here: what makes them count (`disk.rs`), and where they are after their record
//! was moved: they stay in the folder that they were made in.

use std::io;
use std::path::PathBuf;

use node::files::{Files, Open};

use crate::disk::{Disk, Put, PutError};

impl Disk {
    /// Writes the files of large blocks and makes them and their names durable. They do not count
    /// before their records are in the volume.
    pub(crate) fn write_own_files(&mut self, puts: &[Put], results: &mut [Result<(), PutError>]) {
        let is_own = |(_, put): &(usize, &Put)| self.is_own(put);
        let own: Vec<(usize, &Put)> = puts.iter().enumerate().filter(is_own).collect();
        if own.is_empty() {
            return;
        }
        let folder = self.shared.own_files(self.tail.volume);
        if self.tail.file_count == 0 {
            let made = self.shared.files.create_dir_all(&folder);
            let made = made.map_err(|error| self.put_error(&error, "make a folder"));
            let made = made.and_then(|()| {
                let synced = self.shared.files.sync_dir(&self.shared.folder);
                synced.map_err(|error| self.sync_failed(&error))
            });
            if let Err(error) = made {
                own.iter().for_each(|&(at, _)| results[at] = Err(error));
                return;
            }
        }
        let own = own.into_iter().map(|(at, put)| {
            let path = self.shared.own_path(self.tail.volume, put.block);
            OwnFile { at, content: &put.content, temporary: path.with_extension("new"), path }
        });
        let own: Vec<OwnFile<'_>> = own.collect();
        let written = write_files(&*self.shared.files, &own, self.limits.file_threads);
        for (own, written) in own.iter().zip(written) {
            results[own.at] = match written {
                Ok(()) => {
                    let renamed = self.shared.files.rename(&own.temporary, &own.path);
                    renamed.map_err(|error| self.put_error(&error, "rename a large block"))
                }
                Err(WriteError::Write(error)) => {
                    let _ = self.shared.files.remove(&own.temporary);
                    Err(self.put_error(&error, "write a large block"))
                }
                Err(WriteError::Sync(error)) => Err(self.sync_failed(&error)),
            };
        }
        if let Err(error) = self.shared.files.sync_dir(&folder) {
            let error = self.sync_failed(&error);
            own.iter().for_each(|own| results[own.at] = Err(error));
        }
    }
}

/// The file of a large block while it is being written.
struct OwnFile<'a> {
    /// Position of its put.
    at: usize,
    content: &'a [u8],
    temporary: PathBuf,
    path: PathBuf,
}

enum WriteError {
    Write(io::Error),
    Sync(io::Error),
}

impl OwnFile<'_> {
    fn write(&self, files: &dyn Files) -> Result<(), WriteError> {
        let file = files.open(&self.temporary, Open::Either).map_err(WriteError::Write)?;
        file.set_len(0).map_err(WriteError::Write)?;
        file.write_all_at(self.content, 0).map_err(WriteError::Write)?;
        file.sync_data().map_err(WriteError::Sync)
    }
}

/// Writes and syncs files, several at the same time: a disk is faster with more to do, and copying
/// megabytes into the page cache takes a processor longer than the sync takes the disk (measured).
fn write_files(
    files: &dyn Files,
    own: &[OwnFile<'_>],
    threads: usize,
) -> Vec<Result<(), WriteError>> {
    let write = |part: &[OwnFile<'_>]| part.iter().map(|own| own.write(files)).collect::<Vec<_>>();
    if threads <= 1 || own.len() <= 1 {
        return write(own);
    }
    std::thread::scope(|scope| {
        let parts = own.chunks(own.len().div_ceil(threads));
        let started = parts.map(|part| {
            let thread = std::thread::Builder::new().name("large blocks".into());
            // Where there is no further thread, this one does it.
            thread.spawn_scoped(scope, move || write(part)).map_err(|_| part)
        });
        let started: Vec<_> = started.collect();
        let ended = started.into_iter().map(|part| match part {
            Ok(thread) => thread.join().expect("writing a file does not panic"),
            Err(part) => write(part),
        });
        ended.flatten().collect()
    })
}
