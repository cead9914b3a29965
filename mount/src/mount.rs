//! A mount from its start to its end, as `remuda mount` and a worker have it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use client::Client;
use fuser::{INodeNo, Notifier};
use proto::ids::JobId;

use crate::blocks::Blocks;
use crate::cache::{Cache, CacheError, CacheLock};
use crate::files::Files;
use crate::fuse::Connection;
use crate::logic::inodes::Inode;
use crate::logic::inputs::{INPUTS, InputShown, NotShowable};
use crate::mounting::{self, MountingError, Visible};
use crate::origin::Origin;
use crate::serving::Serving;
use crate::view::View;
use crate::workers::Workers;

/// Threads that hear the kernel, where nothing else is said.
pub const THREADS: usize = 4;

/// Threads that fetch blocks (eyeballed: as many as keep several storage nodes busy; each holds at
/// most one block).
const FETCHERS: usize = 16;

/// Threads that look things up.
const RESOLVERS: usize = 8;

/// Fetches, and lookups, that wait for a thread. The kernel has at most one request for each thread
/// that is blocked, so this bounds what a broken one could do.
const QUEUED: usize = 16_384;

/// What the kernel reads ahead of one who reads on, in KiB: its largest request.
const READ_AHEAD_KIB: u32 = 1_024;

/// How a mount is to be.
#[derive(Clone, Copy, Debug)]
pub struct MountConfig<'a> {
    /// Where: an empty folder. What a dead mount of ours left there is cleaned away.
    pub at: &'a Path,
    /// Folder for blocks that were fetched, which no other process uses; it is made where it is not
    /// there, and not inside the mount.
    pub cache: &'a Path,
    /// Bytes that they may take there.
    pub cache_bytes: u64,
    /// Threads that hear the kernel; see [`THREADS`].
    pub threads: usize,
}

/// Why nothing is mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The folder, the kernel or the user's rights.
    #[error(transparent)]
    Mounting(#[from] MountingError),
    /// The cache's folder.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The cache would be hidden by the mount.
    #[error("the cache folder {} lies inside the mount", path.display())]
    CacheInside {
        /// The folder.
        path: PathBuf,
    },
    /// The kernel does not begin to talk.
    #[error("begin to talk to the kernel")]
    Session(#[source] io::Error),
    /// No thread is to be had.
    #[error("start a thread")]
    Thread(#[source] io::Error),
}

/// A mounted tree of files. Dropped, it is unmounted: whoever is in it stays in it, and gets errors
/// for what is not cached when this process ends.
pub struct Mount {
    view: Arc<View>,
    serving: Serving,
    _cache_lock: CacheLock,
}

impl std::fmt::Debug for Mount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mount").field("serving", &self.serving).finish_non_exhaustive()
    }
}

/// What a mount has done since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountCounters {
    /// Blocks that came from storage.
    pub fetched: u64,
    /// Bytes of those.
    pub fetched_bytes: u64,
    /// Blocks that came from this machine's disk as a whole.
    pub from_disk: u64,
    /// Blocks on this machine's disk that turned out to be damaged.
    pub damaged: u64,
    /// Blocks that storage could not give: it did not answer in time.
    pub failed: u64,
    /// Bytes that blocks take on this machine's disk now.
    pub disk_bytes: u64,
}

impl Mount {
    /// Mounts, and answers the kernel from now on.
    ///
    /// # Errors
    /// [`MountError`]; nothing is mounted then.
    pub fn start(config: MountConfig<'_>, client: Arc<Client>) -> Result<Mount, MountError> {
        let at = mounting::prepare(config.at)?;
        if lies_inside(config.cache, &at) {
            return Err(MountError::CacheInside { path: config.cache.to_owned() });
        }
        let (cache, cache_lock, found) = Cache::open(config.cache)?;
        let origin: Arc<dyn Origin> = client;
        let workers =
            |name, threads| Workers::start(name, threads, QUEUED).map_err(MountError::Thread);
        let fetchers = workers("mount-fetch", FETCHERS)?;
        let limit = config.cache_bytes;
        let blocks = Blocks::new(cache, found, limit, Arc::clone(&origin), fetchers);
        let files = Files::new(Arc::new(blocks), origin, workers("mount-lookup", RESOLVERS)?);
        let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let view = Arc::new(View::new(Arc::new(files), owner));
        let connection = Connection::new(Arc::clone(&view));
        let serving = Serving::start(connection, at, config.threads, READ_AHEAD_KIB)?;
        Ok(Mount { view, serving, _cache_lock: cache_lock })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn at(&self) -> &Path {
        self.serving.at()
    }

    /// Shows `jobs/<job>/inputs` until [`Mount::remove_job`]. Again with the same inputs it changes
    /// nothing; with others, the folder is another one. Of a job that was not added, the inputs that
    /// the masters tell are shown.
    ///
    /// # Errors
    /// [`NotShowable`].
    pub fn add_job(&self, job: JobId, inputs: &[(String, InputShown)]) -> Result<(), NotShowable> {
        if self.view.add_job(job, inputs)? {
            forget_job(self.serving.notifier(), job);
        }
        Ok(())
    }

    /// Ends [`Mount::add_job`]. Whoever is in the folder can stay.
    pub fn remove_job(&self, job: JobId) {
        if self.view.remove_job(job) {
            // The kernel may be in the midst of asking for something in that folder.
            let notifier = self.serving.notifier().clone();
            self.view.files().resolve(move || forget_job(&notifier, job));
        }
    }

    /// How often a reader of a job's inputs got an error that was no fault of his, since
    /// [`Mount::add_job`]. What storage does not have, or what does not fit what names it, does not
    /// count: another attempt would get the same.
    #[must_use]
    pub fn failure_count(&self, job: JobId) -> u64 {
        self.view.failure_count(job)
    }

    /// Where a job's inputs are shown.
    #[must_use]
    pub fn path_of_inputs(&self, job: JobId) -> PathBuf {
        self.at().join("jobs").join(job.to_string()).join(INPUTS)
    }

    /// False once nobody answers the kernel any more, or the mount was taken away.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.serving.is_alive()
    }

    /// Runs something when the kernel ends the connection: after somebody unmounted it, and nobody
    /// is in it any more.
    pub fn on_end(&self, run: impl FnOnce() + Send + 'static) {
        self.serving.on_end(run);
    }

    pub(crate) fn files(&self) -> &Arc<Files> {
        self.view.files()
    }

    /// What was done since the start.
    #[must_use]
    pub fn counters(&self) -> MountCounters {
        self.view.files().blocks().counters()
    }
}

/// What the kernel knows of a job's folder is not to outlive a change of it.
fn forget_job(notifier: &Notifier, job: JobId) {
    let name = job.to_string();
    if let Err(error) = notifier.inval_entry(INodeNo(Inode::JOBS.0), name.as_ref()) {
        // It forgets by itself in a second.
        tracing::debug!(%job, %error, "the kernel does not forget a job's folder");
    }
}

/// Whether a path, which need not be there yet, lies inside a folder that has no links in its own.
fn lies_inside(path: &Path, folder: &Path) -> bool {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = absolute.ancestors().find_map(|it| it.canonicalize().ok());
    there.is_some_and(|it| it.starts_with(folder))
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Whoever is still in it keeps the rest alive, while another mount may use the folder.
        self.view.files().blocks().leave_disk();
    }
}

/// Whether this process can mount: it tries, in a folder of its own.
///
/// # Errors
/// Why it cannot, for people.
pub fn can_mount() -> Result<(), String> {
    let bits = node::random::bits().map_err(|error| node::log::chain(&error))?;
    let folder = std::env::temp_dir().join(format!("remuda-mount-{bits:032x}"));
    std::fs::create_dir(&folder).map_err(|error| node::log::chain(&error))?;
    let mounted = mounting::mount(&folder, Visible::by_rights());
    let tried = match mounted {
        Ok(_kernel) => mounting::unmount(&folder).map_err(|error| node::log::chain(&error)),
        Err(error) => Err(node::log::chain(&error)),
    };
    // Empty again, or somebody else's matter.
    let _ = std::fs::remove_dir(&folder);
    tried
}
