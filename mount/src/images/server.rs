//! The hidden file system whose files are images, and which of them there are.
//!
//! An image is one file, or two where it has large files (`logic/image`). Its number is used for no
//! other one, because the kernel keeps what it read of a file. It stays until nobody has it open
//! any more: who sits in a mounted tree keeps the tree when it is taken away.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen,
    Request,
};
use proto::ids::BlockId;

use super::reading;
use crate::cache::BlockName;
use crate::files::Files;
use crate::logic::image::{BLOCK_BYTES, Device, Image};
use crate::logic::read_ahead::ReadAhead;
use crate::refusal::Refusal;
use crate::view::UNCHANGING;

/// Memory of all images together, in bytes: those that are shown, and those that were taken away
/// and still have somebody in them (eyeballed: four million files).
const IMAGES_BYTES: u64 = 512 << 20;

/// Times that images are open, together: the kernel opens each file of an image once.
const OPENS: u64 = 4_096;

/// Requests that the kernel may have open for what it reads ahead.
const BACKGROUND: u16 = 64;

/// The largest request: what Linux sends at most, a mebibyte.
const REQUEST_BYTES: u32 = 1 << 20;

/// Blocks of an image in front of one who begins there whose files are fetched ahead: small files
/// of a folder lie beside each other, and mostly are read one after the other.
const AHEAD_FIRST: u32 = 16;

/// The same for one who reads on.
const AHEAD_BLOCKS: u32 = 64;

const ROOT: u64 = 1;

const GENERATION: Generation = Generation(0);

/// An image that is served.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) image: Image,
    /// How often a reader did not get what another attempt may get.
    failures: AtomicU64,
    ahead: Mutex<ReadAhead<()>>,
}

impl Served {
    pub(super) fn failure_count(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    fn bytes(&self, device: Device) -> u64 {
        match device {
            Device::Primary => self.image.primary_bytes(),
            Device::Big => self.image.big_bytes(),
        }
    }
}

struct Slot {
    served: Arc<Served>,
    open_count: u64,
    /// False once it was taken away.
    is_listed: bool,
}

#[derive(Default)]
struct State {
    slots: BTreeMap<u64, Slot>,
    last_number: u64,
    bytes: u64,
    open_count: u64,
}

/// All images.
pub(super) struct Table {
    files: Arc<Files>,
    state: Mutex<State>,
}

// Each change under this lock is whole before anything that could panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Table {
    pub(super) fn new(files: Arc<Files>) -> Table {
        Table { files, state: Mutex::default() }
    }

    pub(super) fn files(&self) -> &Arc<Files> {
        &self.files
    }

    /// Lists an image under a number; `None` where all of them take as much memory as they may.
    pub(super) fn list(&self, image: Image) -> Option<(u64, Arc<Served>)> {
        let mut state = lock(&self.state);
        let bytes = state.bytes.saturating_add(image.memory_bytes());
        if bytes > IMAGES_BYTES {
            return None;
        }
        state.bytes = bytes;
        state.last_number += 1;
        let number = state.last_number;
        let ahead = Mutex::new(ReadAhead::new(AHEAD_FIRST, AHEAD_BLOCKS, 1));
        let served = Arc::new(Served { image, failures: AtomicU64::new(0), ahead });
        let slot = Slot { served: Arc::clone(&served), open_count: 0, is_listed: true };
        state.slots.insert(number, slot);
        Some((number, served))
    }

    /// Takes an image away, as soon as nobody has it open.
    pub(super) fn unlist(&self, number: u64) {
        let mut state = lock(&self.state);
        if let Some(slot) = state.slots.get_mut(&number) {
            slot.is_listed = false;
        }
        state.forget_unused(number);
    }

    /// Bytes of memory that all images take, also those that were taken away and are still open.
    pub(super) fn memory_bytes(&self) -> u64 {
        lock(&self.state).bytes
    }

    pub(super) fn find(&self, inode: u64) -> Option<(Arc<Served>, Device)> {
        let (number, device) = place(inode);
        let state = lock(&self.state);
        let served = state.slots.get(&number).map(|slot| Arc::clone(&slot.served))?;
        (served.bytes(device) > 0).then_some((served, device))
    }

    pub(super) fn look_up(&self, name: &OsStr) -> Option<u64> {
        let name = name.to_str()?;
        let (digits, device) = match name.strip_suffix(BIG) {
            Some(digits) => (digits, Device::Big),
            None => (name, Device::Primary),
        };
        let number = digits.parse().ok().filter(|number: &u64| number.to_string() == digits)?;
        let is_listed = lock(&self.state).slots.get(&number).is_some_and(|slot| slot.is_listed);
        is_listed.then(|| inode(number, device))
    }

    pub(super) fn open(&self, inode: u64) -> Result<Device, Errno> {
        let (number, device) = place(inode);
        let mut state = lock(&self.state);
        if state.open_count >= OPENS {
            return Err(Errno::ENFILE);
        }
        let slot = state.slots.get_mut(&number).ok_or(Errno::ESTALE)?;
        slot.open_count += 1;
        state.open_count += 1;
        Ok(device)
    }

    pub(super) fn release(&self, inode: u64) {
        let (number, _) = place(inode);
        let mut state = lock(&self.state);
        if let Some(slot) = state.slots.get_mut(&number) {
            slot.open_count = slot.open_count.saturating_sub(1);
            state.open_count = state.open_count.saturating_sub(1);
        }
        state.forget_unused(number);
    }

    fn read(
        &self,
        inode: u64,
        offset: u64,
        size: u32,
        then: impl FnOnce(Result<Bytes, Refusal>) + Send + 'static,
    ) {
        let Some((served, device)) = self.find(inode) else {
            return then(Err(Refusal::Unknown));
        };
        let size = u64::from(size);
        let reader = Arc::clone(&served);
        reading::read(&self.files, &served.image, device, (offset, size), move |bytes| {
            if matches!(bytes, Err(Refusal::Unavailable)) {
                reader.failures.fetch_add(1, Ordering::Relaxed);
            }
            then(bytes);
        });
        if device == Device::Primary {
            self.read_neighbours(&served, offset.saturating_add(size));
        }
    }

    /// Small files up to a place are read: who reads one after the other soon wants the next.
    fn read_neighbours(&self, served: &Served, end: u64) {
        let all = served.image.primary_bytes();
        let metadata = served.image.metadata().len() as u64;
        if end <= metadata {
            return;
        }
        let block = |at: u64| u32::try_from(at / BLOCK_BYTES).unwrap_or(u32::MAX);
        let ahead = lock(&served.ahead).read(&(), block(end.min(all) - 1), block(all));
        let at = |block: u32| u64::from(block) * BLOCK_BYTES;
        let range = at(ahead.start)..at(ahead.end);
        for piece in served.image.pieces(Device::Primary, range) {
            if piece.within.start == 0 {
                self.files.blocks().fetch_ahead(BlockName::content(BlockId(piece.file.0)));
            }
        }
    }
}

impl State {
    fn forget_unused(&mut self, number: u64) {
        let is_unused = |slot: &Slot| !slot.is_listed && slot.open_count == 0;
        if self.slots.get(&number).is_some_and(is_unused)
            && let Some(slot) = self.slots.remove(&number)
        {
            self.bytes = self.bytes.saturating_sub(slot.served.image.memory_bytes());
        }
    }
}

/// What the name of an image's second file ends with.
const BIG: &str = ".big";

/// The name of one of an image's files.
pub(super) fn name(number: u64, device: Device) -> String {
    match device {
        Device::Primary => number.to_string(),
        Device::Big => format!("{number}{BIG}"),
    }
}

/// Numbers begin with 1, so that the root is none of them.
fn inode(number: u64, device: Device) -> u64 {
    number.saturating_mul(2).saturating_add(u64::from(device == Device::Big))
}

fn place(inode: u64) -> (u64, Device) {
    (inode / 2, if inode.is_multiple_of(2) { Device::Primary } else { Device::Big })
}

/// The kernel's counterpart.
pub(super) struct Server {
    table: Arc<Table>,
    owner: (u32, u32),
}

impl Server {
    pub(super) fn new(table: Arc<Table>, owner: (u32, u32)) -> Server {
        Server { table, owner }
    }

    fn attributes(&self, inode: u64) -> Option<FileAttr> {
        let (kind, mode, size) = match inode {
            ROOT => (FileType::Directory, 0o500, 0),
            _ => {
                let (served, device) = self.table.find(inode)?;
                (FileType::RegularFile, 0o400, served.bytes(device))
            }
        };
        Some(FileAttr {
            ino: INodeNo(inode),
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: mode,
            nlink: 1,
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            blksize: BLOCK_BYTES as u32,
            flags: 0,
        })
    }
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // An older kernel goes without.
        let _ = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
        let _ = config.set_max_background(BACKGROUND);
        let _ = config.set_max_write(REQUEST_BYTES);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = Some(name).filter(|_| parent.0 == ROOT);
        let found = found.and_then(|name| self.table.look_up(name));
        match found.and_then(|inode| self.attributes(inode)) {
            // What has gone is not to be found by a name that the kernel kept.
            Some(attributes) => {
                reply.entry_with_ttls(&UNCHANGING, &Duration::ZERO, &attributes, GENERATION);
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(number.0) {
            Some(attributes) => reply.attr(&UNCHANGING, &attributes),
            None => reply.error(Errno::ESTALE),
        }
    }

    fn open(&self, _: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.0 & libc::O_ACCMODE != libc::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        // Never passed through to a file of this machine: EROFS refuses stacked file systems.
        match self.table.open(number.0) {
            Ok(Device::Primary) => {
                let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
                reply.opened(FileHandle(0), flags);
            }
            // Large files are cached once, as pages of the tree that is mounted.
            Ok(Device::Big) => {
                let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH;
                reply.opened(FileHandle(0), flags);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.table.read(number.0, offset, size, move |bytes| match bytes {
            Ok(bytes) => reply.data(&bytes),
            Err(refusal) => reply.error(refusal.errno()),
        });
    }

    fn release(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.table.release(number.0);
        reply.ok();
    }
}
