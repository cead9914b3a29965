//! What the folder of a task was like before anything ran in it, and whether it still is: then the
//! next task gets it, and nothing has to be made or removed.
//!
//! Making and removing eight files and folders takes longer than starting a process. Whoever asks
//! must know that no process of the task is left: such a one may have any of them open. Deliberately
//! not here: clearing what is not as it was.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, RawDir, SeekFrom, Stat, fstat, lstat, openat, seek};
use rustix::fs::{flistxattr, ftruncate};
use rustix::io::Errno;

use crate::spawn::processes::{MARK, mark_bytes, unmark};

/// Room for the entries that there should be; more are not wanted.
const LIST_BYTES: usize = 512;

/// More names of attributes than a file is made with.
const ATTRIBUTES_BYTES: usize = 256;

/// More room on a disk than any file system gives to a mark (in blocks of [`Room`]).
const MARK_BLOCKS: u64 = 2048;

/// A file or folder that is held open, and what it was like.
#[derive(Debug)]
struct Known {
    open: OwnedFd,
    was: Picture,
    made: Room,
}

/// What of a file or folder must not have changed.
#[derive(Debug, PartialEq, Eq)]
struct Picture {
    inode: u64,
    mode: u32,
    owner: (u32, u32),
    links: u64,
    /// Of a folder only: it stays large when its files are gone. Files are written to.
    room: Option<Room>,
    /// Names of its extended attributes, access lists among them.
    attributes: Vec<u8>,
}

/// What something takes. A file may have room on the disk behind its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    bytes: u64,
    /// Of 512 bytes.
    blocks: u64,
}

impl Room {
    fn of(found: &Stat) -> Room {
        let number = |it: i64| u64::try_from(it).unwrap_or(u64::MAX);
        Room { bytes: number(found.st_size), blocks: number(found.st_blocks) }
    }
}

impl Picture {
    fn of(open: &OwnedFd, found: &Stat) -> io::Result<Picture> {
        let mut names = [0; ATTRIBUTES_BYTES];
        let length = match flistxattr(open, &mut names[..]) {
            Ok(length) => length,
            // The file system has none.
            Err(Errno::OPNOTSUPP) => 0,
            Err(error) => return Err(error.into()),
        };
        Ok(Picture {
            inode: found.st_ino,
            mode: found.st_mode,
            owner: (found.st_uid, found.st_gid),
            links: found.st_nlink,
            room: FileType::from_raw_mode(found.st_mode).is_dir().then(|| Room::of(found)),
            attributes: names.get(..length).unwrap_or_default().to_vec(),
        })
    }
}

impl Known {
    fn open(path: &Path, flags: OFlags) -> io::Result<Known> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = openat(CWD, path, flags, Mode::empty())?;
        let found = fstat(&open)?;
        let was = Picture::of(&open, &found)?;
        Ok(Known { open, was, made: Room::of(&found) })
    }

    fn folder(path: &Path) -> io::Result<Known> {
        Known::open(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    fn file(path: &Path) -> io::Result<Known> {
        Known::open(path, OFlags::WRONLY | OFlags::NONBLOCK)
    }

    /// What it takes; nothing where it changed otherwise than a file that is written to.
    fn same(&self) -> io::Result<Option<Room>> {
        let found = fstat(&self.open)?;
        let is_same = Picture::of(&self.open, &found)? == self.was;
        Ok(is_same.then(|| Room::of(&found)))
    }

    /// Whether a file has as little as it was made with, once it is cut off.
    fn empty(&self) -> io::Result<bool> {
        match self.same()? {
            None => Ok(false),
            Some(room) if room == self.made => Ok(true),
            Some(_) => {
                ftruncate(&self.open, 0)?;
                // Not every file system gives back what is behind the end.
                Ok(Room::of(&fstat(&self.open)?) == self.made)
            }
        }
    }

    /// Whether a folder has exactly these entries, and is what it was.
    fn has_only(&self, wanted: &[(&str, &Known)]) -> io::Result<bool> {
        if self.same()?.is_none() {
            return Ok(false);
        }
        seek(&self.open, SeekFrom::Start(0))?;
        let mut left: BTreeMap<&[u8], u64> =
            wanted.iter().map(|(name, known)| (name.as_bytes(), known.was.inode)).collect();
        let mut room = [MaybeUninit::uninit(); LIST_BYTES];
        let mut list = RawDir::new(self.open.as_fd(), &mut room);
        while let Some(entry) = list.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") && left.remove(name) != Some(entry.ino()) {
                return Ok(false);
            }
        }
        Ok(left.is_empty())
    }
}

/// Everything in the folder of a task as it was made.
#[derive(Debug)]
pub(super) struct Untouched {
    root: Known,
    inputs: Known,
    scratch: Known,
    outputs: Known,
    told: Known,
    stdout: Known,
    stderr: Known,
    mark: Known,
}

impl Untouched {
    /// Of a folder that was made just now, and in which nothing ran.
    pub(super) fn of(path: &Path) -> io::Result<Untouched> {
        Ok(Untouched {
            root: Known::folder(path)?,
            inputs: Known::folder(&path.join("inputs"))?,
            scratch: Known::folder(&path.join("scratch"))?,
            outputs: Known::folder(&path.join("scratch/outputs"))?,
            told: Known::folder(&path.join("told"))?,
            stdout: Known::file(&path.join("stdout"))?,
            stderr: Known::file(&path.join("stderr"))?,
            mark: Known::file(&path.join(MARK))?,
        })
    }

    /// Makes the mark one that tells nothing.
    pub(super) fn unmark(&self) -> io::Result<()> {
        unmark(&self.mark.open)
    }

    /// Whether all is as it was but for what was printed, which is cut off, and still at this path.
    ///
    /// # Errors
    /// Where the system does not tell, so that nobody knows.
    pub(super) fn renew(&self, path: &Path) -> io::Result<bool> {
        let (here, own) = (lstat(path)?, fstat(&self.root.open)?);
        if (here.st_dev, here.st_ino) != (own.st_dev, own.st_ino) {
            // Tasks of the worker's own user may move their folder, and put another one here.
            return Ok(false);
        }
        let root = [
            ("inputs", &self.inputs),
            ("scratch", &self.scratch),
            ("told", &self.told),
            ("stdout", &self.stdout),
            ("stderr", &self.stderr),
            (MARK, &self.mark),
        ];
        let is_as_it_was = self.root.has_only(&root)?
            && self.scratch.has_only(&[("outputs", &self.outputs)])?
            && self.outputs.has_only(&[])?
            && self.inputs.has_only(&[])?
            && self.told.has_only(&[])?
            // The next one is written over it, and has to reach its end.
            && self.mark.same()?.is_some_and(|room| {
                room.bytes <= mark_bytes() && room.blocks <= MARK_BLOCKS
            });
        Ok(is_as_it_was && self.stdout.empty()? && self.stderr.empty()?)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use rustix::fs::{FallocateFlags, fallocate};

    use super::*;

    fn made() -> (tempfile::TempDir, Untouched) {
        let folder = tempfile::tempdir().unwrap();
        for name in ["inputs", "scratch", "scratch/outputs", "told"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        for name in ["stdout", "stderr", MARK] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let untouched = Untouched::of(folder.path()).unwrap();
        (folder, untouched)
    }

    #[test]
    fn what_was_printed_is_cut_off_and_nothing_else_may_have_changed() {
        let (folder, untouched) = made();
        for _ in 0..3 {
            assert!(untouched.renew(folder.path()).unwrap());
            assert_eq!(fs::read(folder.path().join("stdout")).unwrap(), b"");
            fs::write(folder.path().join("stdout"), "printed").unwrap();
            fs::write(folder.path().join(MARK), "1 2 3").unwrap();
        }
    }

    #[test]
    fn a_folder_that_a_task_changed_is_not_handed_on() {
        type Change = fn(&Path);
        fn closed(path: &Path) {
            fs::set_permissions(path, fs::Permissions::from_mode(0o500)).unwrap();
        }
        let changes: [(&str, Change); 10] = [
            ("a file", |it| fs::write(it.join("scratch/a"), "").unwrap()),
            ("an output", |it| fs::create_dir(it.join("scratch/outputs/a")).unwrap()),
            ("an input", |it| symlink("/", it.join("inputs/a")).unwrap()),
            ("progress", |it| fs::write(it.join("told/progress"), "1/2").unwrap()),
            ("something beside", |it| fs::write(it.join("a"), "").unwrap()),
            ("no outputs", |it| fs::remove_dir(it.join("scratch/outputs")).unwrap()),
            ("a closed folder", |it| closed(&it.join("scratch"))),
            ("a closed file", |it| closed(&it.join("stderr"))),
            ("a second name", |it| fs::hard_link(it.join("stdout"), it.join("told/a")).unwrap()),
            ("another file in its place", |it| {
                fs::rename(it.join("stdout"), it.join("stdin")).unwrap();
                fs::write(it.join("stdout"), "").unwrap();
                fs::remove_file(it.join("stdin")).unwrap();
            }),
        ];
        for (what, change) in changes {
            let (folder, untouched) = made();
            change(folder.path());
            assert!(!untouched.renew(folder.path()).unwrap(), "{what}");
        }
    }

    #[test]
    fn room_that_a_task_took_is_given_back_or_the_folder_is_not_handed_on() {
        let (folder, untouched) = made();
        for name in ["stdout", "stderr"] {
            let file = fs::File::options().write(true).open(folder.path().join(name)).unwrap();
            fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1 << 20).unwrap();
            assert_eq!(file.metadata().unwrap().len(), 0);
            let is_handed_on = untouched.renew(folder.path()).unwrap();
            assert!(!is_handed_on || file.metadata().unwrap().blocks() == 0, "{name}");
        }
        let (folder, untouched) = made();
        let mark = fs::File::options().write(true).open(folder.path().join(MARK)).unwrap();
        fallocate(&mark, FallocateFlags::KEEP_SIZE, 0, 16 << 20).unwrap();
        assert!(!untouched.renew(folder.path()).unwrap());
        let (folder, untouched) = made();
        let told = folder.path().join("told");
        let room = || fs::metadata(&told).map(|it| (it.len(), it.blocks())).unwrap();
        let before = room();
        let files = || (0..2_000).map(|it| told.join(format!("{it:0100}")));
        files().for_each(|it| fs::write(it, "").unwrap());
        files().for_each(|it| fs::remove_file(it).unwrap());
        // Not every file system leaves it as large.
        assert_eq!(untouched.renew(folder.path()).unwrap(), room() == before);
    }

    #[test]
    fn a_mark_that_a_task_made_longer_does_not_reach_the_next_one() {
        let (folder, untouched) = made();
        let mut text = vec![b'1'; usize::try_from(mark_bytes()).unwrap()];
        fs::write(folder.path().join(MARK), &text).unwrap();
        assert!(untouched.renew(folder.path()).unwrap());
        text.push(b'1');
        fs::write(folder.path().join(MARK), &text).unwrap();
        assert!(!untouched.renew(folder.path()).unwrap());
    }

    #[test]
    fn a_folder_that_was_moved_is_not_handed_on_with_what_stands_in_its_place() {
        let (folder, _untouched) = made();
        let (path, other) = (folder.path().join("scratch/a"), folder.path().join("scratch/b"));
        let made = || {
            for name in ["", "inputs", "scratch", "scratch/outputs", "told"] {
                fs::create_dir(path.join(name)).unwrap();
            }
            for name in ["stdout", "stderr", MARK] {
                fs::write(path.join(name), "").unwrap();
            }
        };
        made();
        let untouched = Untouched::of(&path).unwrap();
        assert!(untouched.renew(&path).unwrap());
        fs::rename(&path, other).unwrap();
        made();
        assert!(!untouched.renew(&path).unwrap());
    }
}
