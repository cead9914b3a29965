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
use rustix::time::{ClockId, clock_gettime};

use crate::spawn::processes::{MARK, mark_bytes, unmark};

/// Room for the entries that there should be; more are not wanted.
const LIST_BYTES: usize = 512;

/// More names of attributes than a file is made with.
const ATTRIBUTES_BYTES: usize = 256;

/// More room on a disk than any file system gives to a mark (in blocks of [`Room`]).
const MARK_BLOCKS: u64 = 2048;

/// How old a time of change is at which whatever comes later gets another one, in nanoseconds: the
/// kernel stamps files by a clock that stands still for up to 10 ms.
const SETTLED_NS: i128 = 100_000_000;

/// A file or folder that is held open, and what it was like.
#[derive(Debug)]
struct Known {
    open: OwnedFd,
    was: Picture,
    made: Room,
    /// When it was changed last, where it was as it should be then and any later change would show.
    settled: Option<Changed>,
}

/// When something was changed last: its content, its entries, its attributes or what is said of it.
/// Seconds and nanoseconds, which programs cannot set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Changed(i64, u64);

impl Changed {
    fn of(found: &Stat) -> Changed {
        Changed(found.st_ctime, found.st_ctime_nsec)
    }

    /// Itself, where it lies far enough before `now`. Some file systems keep whole seconds: there a
    /// later change may have the same time.
    fn settled(self, now: i128) -> Option<Changed> {
        let at = i128::from(self.0) * 1_000_000_000 + i128::from(self.1);
        (self.1 != 0 && now - at >= SETTLED_NS).then_some(self)
    }
}

/// The time of day in nanoseconds, by the clock that files are stamped with.
fn now_ns() -> i128 {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
}

/// What became of the folder of a task whose processes have all ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trace {
    /// Nothing: it is as it was made.
    Nothing,
    /// The task printed something, and did nothing else.
    Printed,
    /// Something else changed, or nobody knows.
    Changed,
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
        Ok(Known { open, was, made: Room::of(&found), settled: None })
    }

    fn folder(path: &Path) -> io::Result<Known> {
        Known::open(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    fn file(path: &Path) -> io::Result<Known> {
        Known::open(path, OFlags::WRONLY | OFlags::NONBLOCK)
    }

    /// Whether it is what it was, but for what is in a file.
    fn is_same(&self, found: &Stat) -> io::Result<bool> {
        Ok(Picture::of(&self.open, found)? == self.was)
    }

    /// What a file takes; `None` where it changed otherwise than by being written to.
    fn room(&self) -> io::Result<Option<Room>> {
        let found = fstat(&self.open)?;
        Ok(self.is_same(&found)?.then(|| Room::of(&found)))
    }

    /// What became of a file that was made empty. What was not changed at all since it was found in
    /// order needs no closer look.
    fn look(&mut self) -> io::Result<Trace> {
        let now = now_ns();
        let found = fstat(&self.open)?;
        let changed = Changed::of(&found);
        if self.settled == Some(changed) {
            return Ok(Trace::Nothing);
        }
        if !self.is_same(&found)? {
            return Ok(Trace::Changed);
        }
        if Room::of(&found) != self.made {
            return Ok(Trace::Printed);
        }
        self.settled = changed.settled(now);
        Ok(Trace::Nothing)
    }

    /// Cuts off what is in a file. False where that does not leave as little as it was made with:
    /// not every file system gives back what is behind the end.
    fn clear(&self) -> io::Result<bool> {
        if Room::of(&fstat(&self.open)?) == self.made {
            return Ok(true);
        }
        ftruncate(&self.open, 0)?;
        Ok(Room::of(&fstat(&self.open)?) == self.made)
    }

    /// Whether a folder is what it was and has exactly these entries. What was not changed at all
    /// since it was found in order needs no closer look.
    fn has_only(&mut self, wanted: &[(&str, u64)]) -> io::Result<bool> {
        let now = now_ns();
        let found = fstat(&self.open)?;
        let changed = Changed::of(&found);
        if self.settled == Some(changed) {
            return Ok(true);
        }
        let is_in_order = self.is_same(&found)? && self.lists_only(wanted)?;
        self.settled = changed.settled(now).filter(|_| is_in_order);
        Ok(is_in_order)
    }

    fn lists_only(&self, wanted: &[(&str, u64)]) -> io::Result<bool> {
        seek(&self.open, SeekFrom::Start(0))?;
        let mut left: BTreeMap<&[u8], u64> =
            wanted.iter().map(|(name, inode)| (name.as_bytes(), *inode)).collect();
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
    /// Of the file system that it is on.
    device: u64,
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
        let root = Known::folder(path)?;
        Ok(Untouched {
            device: fstat(&root.open)?.st_dev,
            root,
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

    /// What is left of a task at this path.
    ///
    /// # Errors
    /// Where the system does not tell, so that nobody knows.
    pub(super) fn look(&mut self, path: &Path) -> io::Result<Trace> {
        let here = lstat(path)?;
        if here.st_ino != self.root.was.inode || here.st_dev != self.device {
            // Tasks of the worker's own user may move their folder, and put another one here.
            return Ok(Trace::Changed);
        }
        let root = [
            ("inputs", self.inputs.was.inode),
            ("scratch", self.scratch.was.inode),
            ("told", self.told.was.inode),
            ("stdout", self.stdout.was.inode),
            ("stderr", self.stderr.was.inode),
            (MARK, self.mark.was.inode),
        ];
        // The next mark is written over this one, and has to reach its end.
        let is_short = |room: Room| room.bytes <= mark_bytes() && room.blocks <= MARK_BLOCKS;
        let is_as_it_was = self.root.has_only(&root)?
            && self.scratch.has_only(&[("outputs", self.outputs.was.inode)])?
            && self.outputs.has_only(&[])?
            && self.inputs.has_only(&[])?
            && self.told.has_only(&[])?
            && self.mark.room()?.is_some_and(is_short);
        if !is_as_it_was {
            return Ok(Trace::Changed);
        }
        Ok(match (self.stdout.look()?, self.stderr.look()?) {
            (Trace::Nothing, Trace::Nothing) => Trace::Nothing,
            (Trace::Changed, _) | (_, Trace::Changed) => Trace::Changed,
            _ => Trace::Printed,
        })
    }

    /// Cuts off what was printed. False where that does not leave the folder as it was made.
    ///
    /// # Errors
    /// Where the system does not do it.
    pub(super) fn clear_streams(&self) -> io::Result<bool> {
        Ok(self.stdout.clear()? && self.stderr.clear()?)
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

    /// Whether another task may have it.
    fn renew(untouched: &mut Untouched, path: &Path) -> bool {
        untouched.look(path).unwrap() != Trace::Changed && untouched.clear_streams().unwrap()
    }

    /// Waits until the last changes are old enough to be told from later ones.
    fn settle() {
        let begin = now_ns();
        while now_ns() - begin < 2 * SETTLED_NS {
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_was_printed_is_cut_off_and_nothing_else_may_have_changed() {
        let (folder, mut untouched) = made();
        for _ in 0..3 {
            assert_eq!(untouched.look(folder.path()).unwrap(), Trace::Nothing);
            fs::write(folder.path().join("stdout"), "printed").unwrap();
            assert_eq!(untouched.look(folder.path()).unwrap(), Trace::Printed);
            assert!(untouched.clear_streams().unwrap());
            assert_eq!(fs::read(folder.path().join("stdout")).unwrap(), b"");
            fs::write(folder.path().join(MARK), "1 2 3").unwrap();
        }
    }

    #[test]
    fn a_time_of_change_is_trusted_when_it_is_old_and_no_whole_second() {
        assert_eq!(Changed(5, 1).settled(5_000_000_000 + SETTLED_NS), None);
        assert_eq!(Changed(5, 1).settled(5_000_000_001 + SETTLED_NS), Some(Changed(5, 1)));
        assert_eq!(Changed(5, 0).settled(i128::MAX), None);
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
            // At once, and when all was found in order and no closer look was needed.
            for is_settled in [false, true] {
                let (folder, mut untouched) = made();
                if is_settled {
                    settle();
                    assert_eq!(untouched.look(folder.path()).unwrap(), Trace::Nothing);
                    assert!(
                        untouched.outputs.settled.is_some() && untouched.stdout.settled.is_some()
                    );
                    assert_eq!(untouched.look(folder.path()).unwrap(), Trace::Nothing);
                }
                change(folder.path());
                assert!(!renew(&mut untouched, folder.path()), "{what}");
            }
        }
    }

    #[test]
    fn room_that_a_task_took_is_given_back_or_the_folder_is_not_handed_on() {
        let (folder, mut untouched) = made();
        for name in ["stdout", "stderr"] {
            let file = fs::File::options().write(true).open(folder.path().join(name)).unwrap();
            fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1 << 20).unwrap();
            assert_eq!(file.metadata().unwrap().len(), 0);
            let is_handed_on = renew(&mut untouched, folder.path());
            assert!(!is_handed_on || file.metadata().unwrap().blocks() == 0, "{name}");
        }
        let (folder, mut untouched) = made();
        let mark = fs::File::options().write(true).open(folder.path().join(MARK)).unwrap();
        fallocate(&mark, FallocateFlags::KEEP_SIZE, 0, 16 << 20).unwrap();
        assert!(!renew(&mut untouched, folder.path()));
        let (folder, mut untouched) = made();
        let told = folder.path().join("told");
        let room = || fs::metadata(&told).map(|it| (it.len(), it.blocks())).unwrap();
        let before = room();
        let files = || (0..2_000).map(|it| told.join(format!("{it:0100}")));
        files().for_each(|it| fs::write(it, "").unwrap());
        files().for_each(|it| fs::remove_file(it).unwrap());
        // Not every file system leaves it as large.
        assert_eq!(renew(&mut untouched, folder.path()), room() == before);
    }

    #[test]
    fn a_mark_that_a_task_made_longer_does_not_reach_the_next_one() {
        let (folder, mut untouched) = made();
        let mut text = vec![b'1'; usize::try_from(mark_bytes()).unwrap()];
        fs::write(folder.path().join(MARK), &text).unwrap();
        assert!(renew(&mut untouched, folder.path()));
        text.push(b'1');
        fs::write(folder.path().join(MARK), &text).unwrap();
        assert!(!renew(&mut untouched, folder.path()));
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
        let mut untouched = Untouched::of(&path).unwrap();
        assert!(renew(&mut untouched, &path));
        fs::rename(&path, other).unwrap();
        made();
        assert!(!renew(&mut untouched, &path));
    }
}
