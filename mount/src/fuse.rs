//! What the kernel asks, as calls of [`View`]: a thin layer that decides nothing but what is refused.
//!
//! Answers go out from whichever thread has them. There are no opens: the kernel is told so at the
//! first one, and from then on opens, reads and closes what it has cached without asking.
//! Everything that would change something is refused here as well as by the kernel, which is told
//! that the mount is read-only.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use proto::limits::NAME_BYTES;

use crate::logic::inodes::Inode;
use crate::refusal::Refusal;
use crate::view::{Entry, Found, Sink, UNCHANGING, View};

/// Requests that the kernel may have open for what it reads ahead.
const BACKGROUND: u16 = 64;

/// The largest request: what Linux sends at most, a mebibyte.
const REQUEST_BYTES: u32 = 1 << 20;

/// What makes the connection quick, as far as the kernel knows it. The last one lets it see that a
/// folder's list changed.
const WANTED: [InitFlags; 7] = [
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_NO_OPEN_SUPPORT,
    InitFlags::FUSE_NO_OPENDIR_SUPPORT,
    InitFlags::FUSE_AUTO_INVAL_DATA,
];

/// Numbers are never used again, so each has one generation.
const GENERATION: Generation = Generation(0);

/// The kernel's counterpart.
pub(crate) struct Connection {
    view: Arc<View>,
}

impl Connection {
    pub(crate) fn new(view: Arc<View>) -> Connection {
        Connection { view }
    }
}

fn inode(number: INodeNo) -> Inode {
    Inode(number.0)
}

struct List(ReplyDirectory);

impl Sink for List {
    const LOOKS_UP: bool = false;

    fn add(&mut self, next: u64, name: &[u8], entry: &Entry) -> bool {
        let attributes = &entry.attributes;
        self.0.add(attributes.ino, next, attributes.kind, OsStr::from_bytes(name))
    }

    fn end(self, refused: Result<(), Refusal>) {
        match refused {
            Ok(()) => self.0.ok(),
            Err(refusal) => self.0.error(refusal.errno()),
        }
    }
}

struct ListPlus(ReplyDirectoryPlus);

impl Sink for ListPlus {
    const LOOKS_UP: bool = true;

    fn add(&mut self, next: u64, name: &[u8], entry: &Entry) -> bool {
        let (attributes, name) = (&entry.attributes, OsStr::from_bytes(name));
        self.0.add(attributes.ino, next, name, &entry.lives, attributes, GENERATION)
    }

    fn end(self, refused: Result<(), Refusal>) {
        match refused {
            Ok(()) => self.0.ok(),
            Err(refusal) => self.0.error(refusal.errno()),
        }
    }
}

/// What stands for "nothing has this name, and nothing ever will".
fn nothing() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

impl Filesystem for Connection {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for flag in WANTED {
            // An older kernel goes without.
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_background(BACKGROUND);
        let _ = config.set_max_write(REQUEST_BYTES);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.view.lookup(inode(parent), name.as_bytes(), move |found| match found {
            Ok(Found::Entry(entry)) => {
                let holds = attributes_live(&entry);
                reply.entry_with_ttls(&holds, &entry.lives, &entry.attributes, GENERATION);
            }
            Ok(Found::Nothing) => reply.entry(&UNCHANGING, &nothing(), GENERATION),
            Err(refusal) => reply.error(refusal.errno()),
        });
    }

    fn forget(&self, _: &Request, number: INodeNo, times: u64) {
        self.view.forget(inode(number), times);
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.view.getattr(inode(number), move |known| match known {
            Ok((attributes, lives)) => reply.attr(&lives, &attributes),
            Err(refusal) => reply.error(refusal.errno()),
        });
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        self.view.readlink(inode(number), move |target| match target {
            Ok(target) => reply.data(target),
            Err(refusal) => reply.error(refusal.errno()),
        });
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
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
        self.view.read(inode(number), offset, size, move |bytes| match bytes {
            Ok(bytes) => reply.data(&bytes),
            Err(refusal) => reply.error(refusal.errno()),
        });
    }

    fn readdir(&self, _: &Request, n: INodeNo, _: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.view.list(inode(n), offset, List(reply));
    }

    fn readdirplus(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.view.list(inode(number), offset, ListPlus(reply));
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        // Nobody can say what a cluster holds, nor can anything be written: no blocks at all, as
        // other file systems without a disk say.
        reply.statfs(0, 0, 0, 0, 0, 4_096, NAME_BYTES as u32, 4_096);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, size: u32, reply: ReplyXattr) {
        // An empty list has two forms, and programs trip over the wrong one.
        if size == 0 {
            reply.size(0);
        } else {
            reply.data(&[]);
        }
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        // The kernel does not ask again and says that there are none.
        reply.error(Errno::ENOSYS);
    }

    fn access(&self, _: &Request, number: INodeNo, asked: AccessFlags, reply: ReplyEmpty) {
        // Asked by access(2) and chdir(2) only. Everybody may read; what is no program is none for
        // root either, as elsewhere.
        if asked.contains(AccessFlags::W_OK) {
            return reply.error(Errno::EROFS);
        }
        if !asked.contains(AccessFlags::X_OK) {
            return reply.ok();
        }
        self.view.getattr(inode(number), move |known| match known {
            Ok((it, _)) if it.kind == FileType::RegularFile && it.perm & 0o111 == 0 => {
                reply.error(Errno::EACCES);
            }
            Ok(_) => reply.ok(),
            Err(refusal) => reply.error(refusal.errno()),
        });
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        // The kernel then finds data everywhere, which is what it would get.
        reply.error(Errno::ENOSYS);
    }

    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(Refusal::ReadOnly.errno());
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Refusal::ReadOnly.errno());
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Refusal::ReadOnly.errno());
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Refusal::ReadOnly.errno());
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Refusal::ReadOnly.errno());
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(Refusal::ReadOnly.errno());
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: INodeNo,
        _: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Refusal::ReadOnly.errno());
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Refusal::ReadOnly.errno());
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Refusal::ReadOnly.errno());
    }

    fn create(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        reply.error(Refusal::ReadOnly.errno());
    }

    fn setxattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: &[u8],
        _: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(Refusal::ReadOnly.errno());
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Refusal::ReadOnly.errno());
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(Refusal::ReadOnly.errno());
    }
}

/// How long what is said of an inode holds: without end, but for folders whose lists change.
fn attributes_live(entry: &Entry) -> Duration {
    match inode(entry.attributes.ino) {
        Inode::NAMES | Inode::JOBS => entry.lives,
        _ => UNCHANGING,
    }
}
