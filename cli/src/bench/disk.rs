//! What the disk under the cluster does: refusing one that is none, and the time of a sync.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use node::clock::Clock;
use proto::time::Duration;

use super::quantile;
use crate::failure::{During, Failure};

/// File systems that lie in memory, by what `statfs` says: tmpfs and ramfs.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// A log record with one small entry, as a single task makes two of.
const WRITE_BYTES: usize = 256;

const SYNCS: usize = 300;

/// Refuses a folder that is in memory: a sync there costs nothing, and every figure would lie.
pub(super) fn refuse_memory(folder: &Path) -> Result<(), Failure> {
    let told = rustix::fs::statfs(folder).during(|| format!("look at {}", folder.display()))?;
    if IN_MEMORY.contains(&(told.f_type as u64 & 0xffff_ffff)) {
        let text = format!("{} is in memory (tmpfs), where a sync costs nothing", folder.display());
        return Err(Failure::usage(text).hint("name a folder on a real disk with --dir"));
    }
    Ok(())
}

/// The median time of writing a small record into preallocated space and fdatasync, as a log does
/// it.
pub(super) fn sync_p50(folder: &Path) -> Result<Duration, Failure> {
    let path = folder.join("sync");
    let failed = || format!("measure the disk in {}", path.display());
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).open(&path).during(failed)?;
    let zeros = vec![0; WRITE_BYTES * SYNCS];
    file.write_all_at(&zeros, 0).and_then(|()| file.sync_all()).during(failed)?;
    let clock = Clock::start();
    let content = [7; WRITE_BYTES];
    let mut times = Vec::with_capacity(SYNCS);
    for at in 0..SYNCS {
        let begin = clock.now();
        file.write_all_at(&content, (at * WRITE_BYTES) as u64).during(failed)?;
        file.sync_data().during(failed)?;
        times.push(clock.now().since(begin));
    }
    std::fs::remove_file(&path).during(failed)?;
    times.sort_unstable();
    quantile(&times, 0.5).ok_or_else(|| Failure::failed("the disk was not measured"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_memory_is_refused() {
        let shared = Path::new("/dev/shm");
        if shared.is_dir() {
            let refused = refuse_memory(shared).unwrap_err();
            assert!(format!("{refused:?}").contains("in memory"), "{refused:?}");
        }
        assert!(refuse_memory(Path::new("/proc/self/nothing")).is_err());
    }

    #[test]
    fn a_sync_takes_time_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        assert!(sync_p50(folder.path()).unwrap() > Duration::ZERO);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
