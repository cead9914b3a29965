//! The log on disk: checksummed records in preallocated files that are used again.
//!
//! Responsible for appending a record durably with one sync, for giving all records back after a
//! crash, and for telling a torn end from damage. Not for what a record means: see `record`.
//!
//! A folder holds `log-N` with rising N. Each is filled with zeros and synced before it gets its
//! name, so that a sync never waits for the file system to find room, and an old one is renamed to
//! be a later one. A record is a head and its content, at a multiple of 8 bytes. Its checksum is
//! seeded by the log's seed and N and covers a sequence number that contains N, so what an earlier
//! use of the file left behind never validates. It also names the checksum of the record before
//! it, so a missing record is seen even where a file ends.
//!
//! Every record is synced before the next is written. Hence only the last one can be torn, and a
//! bad record that any good one follows is damage: the log then refuses to open and says where. A
//! file shorter than the others was cut by something else than a crash and is refused too. (That
//! the bytes of a good record survive a torn write beside them is asked of the disk.)

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use node::files::{File, Files, Open, is_full as is_no_room};
use proto::ids::LogIndex;

/// Zeros are written in pieces of this size.
const ZEROS: usize = 1 << 20;

/// Room on the disk that a new file of the log leaves to others: to snapshots and to the small
/// files that a process needs to start.
const ROOM_LEFT: u64 = 1 << 20;

/// Old files that are kept for later use instead of being removed, beside the one in use.
const SPARE_FILES: usize = 2;

/// Records begin at multiples of this, so that looking for one after damage tries fewer places.
const ALIGNMENT: usize = 8;

const HEAD: usize = size_of::<Head>();
const PREFIX: &str = "log-";
const UNNAMED: &str = "new-log";

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, packed)]
struct Head {
    /// Number of the file in the upper half, number of the record in it in the lower.
    sequence: u64,
    /// Bytes of content.
    length: u32,
    /// Checksum of the record before; 0 for the first of all.
    previous: u32,
    /// CRC32C, seeded per file, of the fields above and the content.
    check: u32,
    zero: u32,
}

/// What does not change in a log's life; kept in the identity file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogShape {
    /// Random; makes the records of this log valid in no other.
    pub seed: u32,
    /// Bytes of each file. A larger record makes its file longer.
    pub file_bytes: u32,
}

/// Why a log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk said no.
    #[error("{operation} in {}", folder.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The log's folder.
        folder: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// There is no room for another file. Nothing was changed.
    #[error("no room in {}: {source}", folder.display())]
    NoRoom {
        /// The log's folder.
        folder: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// A record is damaged, and it is not the last one: what was durable once is not there.
    #[error(
        "{} is damaged at byte {offset}: {text}. Restore the folder from a copy, or remove this \
         member from the cluster and let it join again with an empty folder", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        text: String,
    },
}

/// A file that is full.
#[derive(Debug)]
struct Older {
    number: u32,
    /// Highest entry in it; 0 for none.
    highest: u64,
}

/// An open log. Everything here blocks.
pub struct Log {
    files: Arc<dyn Files>,
    folder: PathBuf,
    shape: LogShape,
    older: VecDeque<Older>,
    current: Box<dyn File>,
    number: u32,
    offset: u64,
    count: u32,
    /// Checksum of the last record.
    previous: u32,
    /// Highest entry in the current file.
    highest: u64,
    /// Files after the current one that are ready for use.
    ready: VecDeque<u32>,
    buffer: Vec<u8>,
    failed: bool,
}

/// Records found in one file.
struct Found {
    end: u64,
    count: u32,
    previous: u32,
    highest: u64,
}

fn padded(length: usize) -> usize {
    length.next_multiple_of(ALIGNMENT)
}

fn check(shape: LogShape, number: u32, head: &Head, content: &[u8]) -> u32 {
    let seed = shape.seed ^ number;
    let covered = &bytemuck::bytes_of(head)[..16];
    crc32c::crc32c_append(crc32c::crc32c_append(seed, covered), content)
}

/// The record at an offset, if there is a good one with at least this number.
fn record_at(
    shape: LogShape,
    number: u32,
    at_least: u32,
    bytes: &[u8],
    offset: usize,
) -> Option<(Head, &[u8])> {
    let rest = bytes.get(offset..)?;
    let head: Head = bytemuck::try_pod_read_unaligned(rest.get(..HEAD)?).ok()?;
    let (of, count) = ((head.sequence >> 32) as u32, head.sequence as u32);
    let most = at_least as usize + bytes.len() / HEAD;
    if of != number || count < at_least || count as usize > most || head.zero != 0 {
        return None;
    }
    let content = rest.get(HEAD..)?.get(..head.length as usize)?;
    (check(shape, number, &head, content) == head.check).then_some((head, content))
}

fn name(number: u32) -> String {
    format!("{PREFIX}{number:010}")
}

fn number_of(name: &Path) -> Option<u32> {
    let digits = name.to_str()?.strip_prefix(PREFIX)?;
    (digits.len() == 10).then(|| digits.parse().ok())?
}

impl Log {
    /// Makes an empty log in a folder, removing what an interrupted attempt left there.
    ///
    /// # Errors
    /// What the disk says.
    pub fn create(files: &dyn Files, folder: &Path, shape: LogShape) -> Result<(), LogError> {
        let failed =
            |operation| move |source| LogError::Io { operation, folder: folder.to_owned(), source };
        files.create_dir_all(folder).map_err(failed("create"))?;
        for found in files.list(folder).map_err(failed("list"))? {
            files.remove(&folder.join(found)).map_err(failed("remove"))?;
        }
        make_file(files, folder, shape, 1).map_err(failed("create the first file"))
    }

    /// Opens the log of a folder and hands over the content of each record, oldest first. `each`
    /// answers the highest entry in it (0 for none), or what is wrong with it.
    ///
    /// # Errors
    /// [`LogError::Damaged`] where something durable is not there any more or `each` refuses;
    /// else what the disk says.
    pub fn open(
        files: Arc<dyn Files>,
        folder: &Path,
        shape: LogShape,
        each: &mut dyn FnMut(&[u8]) -> Result<LogIndex, String>,
    ) -> Result<Log, LogError> {
        let failed =
            |operation| move |source| LogError::Io { operation, folder: folder.to_owned(), source };
        let numbers = take_stock(files.as_ref(), folder).map_err(failed("list"))?;
        let Some(&first) = numbers.first() else {
            let text = "there is no log file".to_owned();
            return Err(LogError::Damaged { path: folder.to_owned(), offset: 0, text });
        };
        if let Some(pair) = numbers.windows(2).find(|pair| pair[1] - pair[0] != 1) {
            let path = folder.join(name(pair[0] + 1));
            let text = "the file is missing".to_owned();
            return Err(LogError::Damaged { path, offset: 0, text });
        }
        let mut older = VecDeque::new();
        let mut previous = None;
        let mut ended: Option<(u32, Found)> = None;
        let mut ready = VecDeque::new();
        for &number in &numbers {
            let path = folder.join(name(number));
            let bytes = node::files::read_all(files.as_ref(), &path).map_err(failed("read"))?;
            if bytes.len() < shape.file_bytes as usize {
                let text = format!("the file ends there, not at {}", shape.file_bytes);
                return Err(LogError::Damaged { path, offset: bytes.len() as u64, text });
            }
            let found = read_file(shape, &path, number, previous, &bytes, each)?;
            if found.count == 0 && number != first {
                ready.push_back(number);
                continue;
            }
            if let Some((number, found)) = ended.take() {
                if let Some(&unused) = ready.front() {
                    let text = "it holds no record, but the file after it does".to_owned();
                    let path = folder.join(name(unused));
                    return Err(LogError::Damaged { path, offset: 0, text });
                }
                older.push_back(Older { number, highest: found.highest });
            }
            previous = Some(found.previous);
            ended = Some((number, found));
        }
        let (number, found) = ended.expect("the first file always counts");
        let path = folder.join(name(number));
        let current = files.open(&path, Open::Existing).map_err(failed("open"))?;
        // A process that was killed may have left a record and names that only the system's memory
        // holds. What was read here counts as durable from now on, so it must be.
        current.sync_data().map_err(failed("sync the last file"))?;
        files.sync_dir(folder).map_err(failed("sync the folder"))?;
        Ok(Log {
            files,
            folder: folder.to_owned(),
            shape,
            older,
            current,
            number,
            offset: found.end,
            count: found.count,
            previous: found.previous,
            highest: found.highest,
            ready,
            buffer: Vec::new(),
            failed: false,
        })
    }

    /// Appends one record; when this returns it survives a power loss. `highest` is the highest
    /// entry in it, 0 for none. Costs one write and one sync, except where a file is full and none
    /// is ready.
    ///
    /// # Errors
    /// [`LogError::NoRoom`], after which the same record can be tried again; else what the disk
    /// says, and the log must not be used any more then.
    ///
    /// # Panics
    /// If it is used after such an error, or with 4 GiB of content.
    pub fn append(&mut self, content: &[u8], highest: LogIndex) -> Result<(), LogError> {
        assert!(!self.failed, "a log is not used after an error");
        let size = padded(HEAD + content.len()) as u64;
        let is_full = self.offset > 0 && self.offset + size > u64::from(self.shape.file_bytes);
        if is_full && self.ready.is_empty() {
            self.prepare()?;
        }
        let appended = self.try_append(content, highest, is_full);
        match appended {
            Ok(true) => Ok(()),
            // Nothing of it counts, and what comes next is written over it.
            Ok(false) => Err(self.no_room(io::ErrorKind::StorageFull.into())),
            Err(source) => {
                self.failed = true;
                Err(self.error("append", source))
            }
        }
    }

    /// Answers false where a record that is longer than a file finds no room.
    fn try_append(&mut self, content: &[u8], highest: LogIndex, is_full: bool) -> io::Result<bool> {
        let length = u32::try_from(content.len()).expect("a record below 4 GiB");
        let size = padded(HEAD + content.len()) as u64;
        if is_full {
            self.next_file()?;
        }
        let sequence = u64::from(self.number) << 32 | u64::from(self.count);
        let mut head = Head { sequence, length, previous: self.previous, check: 0, zero: 0 };
        head.check = check(self.shape, self.number, &head, content);
        self.buffer.clear();
        self.buffer.extend_from_slice(bytemuck::bytes_of(&head));
        self.buffer.extend_from_slice(content);
        self.buffer.resize(size as usize, 0);
        match self.current.write_all_at(&self.buffer, self.offset) {
            Err(error) if is_no_room(&error) => return Ok(false),
            written => written?,
        }
        self.current.sync_data()?;
        // One huge record does not keep its memory.
        self.buffer.shrink_to(4 * ZEROS);
        self.offset += size;
        self.count += 1;
        self.previous = head.check;
        self.highest = self.highest.max(highest.0);
        Ok(true)
    }

    /// True where the next file should be made ready now, so that filling this one costs nothing.
    #[must_use]
    pub fn wants_preparing(&self) -> bool {
        !self.failed && self.ready.is_empty() && self.offset > u64::from(self.shape.file_bytes) / 2
    }

    /// True where the next file must be made ready now, however much there is to do: what is left
    /// of this one is the reserve of a disk without room.
    #[must_use]
    pub fn needs_preparing(&self) -> bool {
        self.wants_preparing() && self.offset > u64::from(self.shape.file_bytes) / 4 * 3
    }

    /// Makes the next file ready; for moments without other work.
    ///
    /// # Errors
    /// [`LogError::NoRoom`], or what the disk says; the log stays usable.
    pub fn prepare(&mut self) -> Result<(), LogError> {
        if self.ready.is_empty() {
            let number = self.number + 1;
            let made = make_file(self.files.as_ref(), &self.folder, self.shape, number);
            made.map_err(|source| match is_no_room(&source) {
                true => self.no_room(source),
                false => self.error("prepare a file", source),
            })?;
            self.ready.push_back(number);
        }
        Ok(())
    }

    /// Goes on in the next file, which is ready.
    fn next_file(&mut self) -> io::Result<()> {
        let number = self.number + 1;
        self.ready.pop_front();
        let current = self.files.open(&self.folder.join(name(number)), Open::Existing)?;
        self.older.push_back(Older { number: self.number, highest: self.highest });
        self.current = current;
        self.number = number;
        self.offset = 0;
        self.count = 0;
        self.highest = 0;
        Ok(())
    }

    /// Gives up the oldest files as far as they hold no entry above `through`. Some are kept for
    /// later use. The file with the last record is never given up: where the current one is empty,
    /// because its first record found no room, that is the one before it.
    ///
    /// # Errors
    /// What the disk says. The log must not be used any more then.
    pub fn compact(&mut self, through: LogIndex) -> Result<(), LogError> {
        let kept = usize::from(self.count == 0);
        while self.older.len() > kept
            && let Some(oldest) = self.older.front().filter(|oldest| oldest.highest <= through.0)
        {
            let number = oldest.number;
            if let Err(source) = self.retire(number) {
                self.failed = true;
                return Err(self.error("compact", source));
            }
            self.older.pop_front();
        }
        Ok(())
    }

    /// Each change of a name is durable before the next, so that a crash never leaves a gap.
    fn retire(&mut self, number: u32) -> io::Result<()> {
        let path = self.folder.join(name(number));
        if self.ready.len() >= SPARE_FILES {
            self.files.remove(&path)?;
            return self.files.sync_dir(&self.folder);
        }
        let next = self.ready.back().copied().unwrap_or(self.number) + 1;
        let file = self.files.open(&path, Open::Existing)?;
        if file.len()? > u64::from(self.shape.file_bytes) {
            file.set_len(u64::from(self.shape.file_bytes))?;
            file.sync_data()?;
        }
        self.files.rename(&path, &self.folder.join(name(next)))?;
        self.files.sync_dir(&self.folder)?;
        self.ready.push_back(next);
        Ok(())
    }

    /// Number of files with records.
    #[must_use]
    pub fn file_count(&self) -> usize {
        self.older.len() + 1
    }

    fn no_room(&self, source: io::Error) -> LogError {
        LogError::NoRoom { folder: self.folder.clone(), source }
    }

    fn error(&self, operation: &'static str, source: io::Error) -> LogError {
        LogError::Io { operation, folder: self.folder.clone(), source }
    }
}

/// The numbers of a folder's files, sorted. Removes a file that was being made.
fn take_stock(files: &dyn Files, folder: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for found in files.list(folder)? {
        if found.as_os_str() == UNNAMED {
            files.remove(&folder.join(found))?;
        } else if let Some(number) = number_of(&found) {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Makes a file of zeros that is durable, as is its name. Where there is no room for it, no room is
/// taken.
fn make_file(files: &dyn Files, folder: &Path, shape: LogShape, number: u32) -> io::Result<()> {
    let (free, needed) = (files.free_bytes(folder)?, u64::from(shape.file_bytes) + ROOM_LEFT);
    if free < needed {
        let text = format!("{free} bytes are free, {needed} are needed for a file of the log");
        return Err(io::Error::new(io::ErrorKind::StorageFull, text));
    }
    let unnamed = folder.join(UNNAMED);
    let made = fill_file(files, &unnamed, shape);
    if made.is_err() {
        // What is left of it would only make the disk fuller; it is removed at the next start else.
        let _ = files.remove(&unnamed);
    }
    made?;
    files.rename(&unnamed, &folder.join(name(number)))?;
    files.sync_dir(folder)
}

fn fill_file(files: &dyn Files, unnamed: &Path, shape: LogShape) -> io::Result<()> {
    let file = files.open(unnamed, Open::Either)?;
    file.set_len(0)?;
    let zeros = vec![0; ZEROS.min(shape.file_bytes as usize)];
    let mut written = 0;
    while written < shape.file_bytes as usize {
        let piece = zeros.len().min(shape.file_bytes as usize - written);
        file.write_all_at(&zeros[..piece], written as u64)?;
        written += piece;
    }
    file.sync_data()
}

/// Reads the records of one file up to the first place without a good one, and makes sure that no
/// good one follows. `previous` is the checksum that the first one must name, if known.
fn read_file(
    shape: LogShape,
    path: &Path,
    number: u32,
    mut previous: Option<u32>,
    bytes: &[u8],
    each: &mut dyn FnMut(&[u8]) -> Result<LogIndex, String>,
) -> Result<Found, LogError> {
    let damaged = |offset: usize, text: String| LogError::Damaged {
        path: path.to_owned(),
        offset: offset as u64,
        text,
    };
    let (mut offset, mut count, mut highest) = (0, 0, 0);
    while let Some((head, content)) = record_at(shape, number, count, bytes, offset) {
        if head.sequence as u32 != count {
            return Err(damaged(offset, "records before this one are missing".to_owned()));
        }
        if previous.is_some_and(|previous| previous != { head.previous }) {
            return Err(damaged(offset, "the record before this one is missing".to_owned()));
        }
        previous = Some(head.check);
        let last = each(content).map_err(|text| damaged(offset, text))?;
        highest = last.0.max(highest);
        offset += padded(HEAD + content.len());
        count += 1;
    }
    let mut later = offset + ALIGNMENT;
    while later + HEAD <= bytes.len() {
        if record_at(shape, number, count, bytes, later).is_some() {
            let text = format!("a good record follows at byte {later}");
            return Err(damaged(offset, text));
        }
        later += ALIGNMENT;
    }
    Ok(Found { end: offset as u64, count, previous: previous.unwrap_or(0), highest })
}
