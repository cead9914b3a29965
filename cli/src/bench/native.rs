//! The file system of this machine doing what Remuda's files are measured at: the same bytes, the
//! same calls, one thread.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use node::clock::Clock;
use proto::time::Duration;

use crate::failure::{During, Failure};

/// Bytes of one read or write of a large file.
const PIECE: usize = 1 << 20;

/// Bytes of one read where nothing is written: what `cp` and `cat` take.
const READ: usize = 128 << 10;

const PAGE: usize = 4 << 10;

/// What a copy waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// The kernel has it.
    Written,
    /// The disk has each file.
    Synced,
    /// The disk has all that was written to the file system.
    SyncedAtOnce,
}

/// Makes a file of bytes that occur nowhere else, so that no block of it is stored already.
pub(super) fn make(path: &Path, length: u64, random: &mut fastrand::Rng) -> Result<(), Failure> {
    let failed = || format!("make {}", path.display());
    let mut file = File::create_new(path).during(failed)?;
    let mut piece = vec![0; PIECE];
    let mut left = length;
    while left > 0 {
        let count = PIECE.min(usize::try_from(left).unwrap_or(PIECE));
        random.fill(&mut piece[..count]);
        file.write_all(&piece[..count]).during(failed)?;
        left -= count as u64;
    }
    file.sync_all().during(failed)
}

/// Copies files to paths where nothing is; how long that took. What is to be synced is synced when
/// all is written: many small files at once, as one sync for each would cost many times as much.
pub(super) fn copy(files: &[(PathBuf, PathBuf)], until: Until) -> Result<Duration, Failure> {
    let clock = Clock::start();
    let begin = clock.now();
    let mut piece = vec![0; PIECE];
    for (from, to) in files {
        copy_file(from, to, &mut piece).during(|| format!("copy to {}", to.display()))?;
    }
    sync(files, until)?;
    Ok(clock.now().since(begin))
}

fn sync(files: &[(PathBuf, PathBuf)], until: Until) -> Result<(), Failure> {
    let mut copies = files.iter().map(|(_, to)| to);
    let sync = |to: &PathBuf, of: fn(&File) -> io::Result<()>| {
        let synced = File::open(to).and_then(|file| of(&file));
        synced.during(|| format!("sync {}", to.display()))
    };
    match until {
        Until::Written => Ok(()),
        Until::Synced => copies.try_for_each(|to| sync(to, File::sync_all)),
        // Any file leads to the file system.
        Until::SyncedAtOnce => {
            copies.take(1).try_for_each(|to| sync(to, |file| Ok(rustix::fs::syncfs(file)?)))
        }
    }
}

fn copy_file(from: &Path, to: &Path, piece: &mut [u8]) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mut target = OpenOptions::new().write(true).create_new(true).open(to)?;
    loop {
        match source.read(piece)? {
            0 => return Ok(()),
            count => target.write_all(&piece[..count])?,
        }
    }
}

/// Lets the kernel forget what it has of a file, which must be synced.
pub(super) fn forget(path: &Path) -> Result<(), Failure> {
    let forgotten = File::open(path)
        .and_then(|file| Ok(rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?));
    forgotten.during(|| format!("forget {}", path.display()))
}

/// Reads a file from its beginning to its end; how long that took.
pub(super) fn read(path: &Path) -> Result<Duration, Failure> {
    let clock = Clock::start();
    let begin = clock.now();
    let mut piece = vec![0; READ];
    let mut file = File::open(path).during(|| format!("open {}", path.display()))?;
    while file.read(&mut piece).during(|| format!("read {}", path.display()))? > 0 {}
    Ok(clock.now().since(begin))
}

/// Reads so many random pages of a file; how long that took.
pub(super) fn read_pages(
    path: &Path,
    count: u32,
    random: &mut fastrand::Rng,
) -> Result<Duration, Failure> {
    let failed = || format!("read {}", path.display());
    let file = File::open(path).during(failed)?;
    let pages = file.metadata().during(failed)?.len() / PAGE as u64;
    let clock = Clock::start();
    let begin = clock.now();
    let mut page = [0; PAGE];
    for _ in 0..count {
        let at = random.u64(0..pages.max(1)) * PAGE as u64;
        file.read_exact_at(&mut page, at).during(failed)?;
    }
    Ok(clock.now().since(begin))
}

/// Opens, reads and closes each of some small files; how long that took.
pub(super) fn read_each(paths: &[PathBuf]) -> Result<Duration, Failure> {
    let clock = Clock::start();
    let begin = clock.now();
    let mut content = [0; 2 * PAGE];
    for path in paths {
        let read = File::open(path).and_then(|mut file| file.read(&mut content));
        if read.during(|| format!("read {}", path.display()))? == 0 {
            return Err(Failure::failed(format!("{} is empty", path.display())));
        }
    }
    Ok(clock.now().since(begin))
}

/// Fails where two files differ.
pub(super) fn compare(one: &Path, other: &Path) -> Result<(), Failure> {
    let is_same = is_same(one, other).during(|| format!("compare {}", other.display()))?;
    if is_same {
        return Ok(());
    }
    Err(Failure::failed(format!("{} is not what was stored", other.display())))
}

fn is_same(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let mut left = one.metadata()?.len();
    if other.metadata()?.len() != left {
        return Ok(false);
    }
    let (mut wanted, mut found) = (vec![0; PIECE], vec![0; PIECE]);
    while left > 0 {
        let count = PIECE.min(usize::try_from(left).unwrap_or(PIECE));
        one.read_exact(&mut wanted[..count])?;
        other.read_exact(&mut found[..count])?;
        if wanted[..count] != found[..count] {
            return Ok(false);
        }
        left -= count as u64;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_equal_and_differences_are_seen() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        let mut random = fastrand::Rng::with_seed(1);
        make(&path("one"), 2_500_000, &mut random).unwrap();
        make(&path("other"), 2_500_000, &mut random).unwrap();
        assert!(compare(&path("one"), &path("other")).is_err());
        let copies = [(path("one"), path("copy"))];
        assert!(copy(&copies, Until::Synced).unwrap() > Duration::ZERO);
        compare(&path("one"), &path("copy")).unwrap();
        assert!(copy(&copies, Until::Written).is_err(), "what is there is not replaced");
        let longer = OpenOptions::new().append(true).open(path("copy"));
        longer.unwrap().write_all(b"x").unwrap();
        assert!(compare(&path("one"), &path("copy")).is_err());
    }
}
