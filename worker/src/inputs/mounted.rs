//! The inputs of all jobs as one mounted file system, of which only what is read is fetched.
//!
//! A mount whose connection broke is made again, with the same jobs in it; what a dead predecessor
//! left at its place is cleaned away by whoever mounts. Deliberately not here: what a file system
//! is (the package `mount`), and when a job is shown.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use client::Client;
use mount::{InputShown, Mount, MountConfig, MountError, THREADS};
use proto::ids::JobId;

/// The inputs of a job, each with its name.
pub(super) type Shown = Vec<(String, InputShown)>;

/// A mount that lasts as long as its worker.
#[derive(Debug)]
pub(super) struct Mounted {
    at: PathBuf,
    cache: PathBuf,
    cache_bytes: u64,
    client: Arc<Client>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// `None` where it could not be made again, and at the end.
    mount: Option<Mount>,
    /// The jobs in it.
    jobs: BTreeMap<JobId, ShownJob>,
    has_ended: bool,
}

/// A job in the mount.
#[derive(Debug)]
struct ShownJob {
    /// The number under which it was shown last.
    number: u64,
    inputs: Shown,
    /// How often the connection broke, and what mounts before this one could not give of it.
    failed_before: u64,
}

impl Mounted {
    /// Mounts at a folder, with a cache of at most so many bytes in another one.
    pub(super) fn start(
        at: PathBuf,
        cache: PathBuf,
        cache_bytes: u64,
        client: Arc<Client>,
    ) -> Result<Mounted, MountError> {
        let jobs = BTreeMap::new();
        let state = Mutex::new(State { mount: None, jobs, has_ended: false });
        let mounted = Mounted { at, cache, cache_bytes, client, state };
        let mount = mounted.mount()?;
        mounted.state().mount = Some(mount);
        Ok(mounted)
    }

    fn mount(&self) -> Result<Mount, MountError> {
        let (at, cache, cache_bytes) = (self.at.as_path(), self.cache.as_path(), self.cache_bytes);
        let config = MountConfig { at, cache, cache_bytes, threads: THREADS };
        Mount::start(config, self.client.clone())
    }

    /// Shows a job under a number; where its inputs stand then.
    pub(super) fn show(&self, job: JobId, number: u64, inputs: Shown) -> Result<PathBuf, String> {
        self.mend();
        let mut state = self.state();
        let Some(mount) = &state.mount else {
            return Err("the mount that shows inputs is gone".to_owned());
        };
        mount.add_job(job, &inputs).map_err(|error| error.to_string())?;
        let path = mount.path_of_inputs(job);
        state.jobs.insert(job, ShownJob { number, inputs, failed_before: 0 });
        Ok(path)
    }

    /// Ends that, unless the job was shown under another number since.
    pub(super) fn hide(&self, job: JobId, number: u64) {
        let mut state = self.state();
        if state.jobs.get(&job).is_some_and(|shown| shown.number == number) {
            state.jobs.remove(&job);
            if let Some(mount) = &state.mount {
                mount.remove_job(job);
            }
        }
    }

    /// Mounts again where the connection broke. Tasks that were reading got errors; those that come
    /// find it as it was.
    pub(super) fn mend(&self) {
        let mut state = self.state();
        if state.has_ended || state.mount.as_ref().is_some_and(Mount::is_alive) {
            return;
        }
        let broken = state.mount.take();
        for (job, shown) in &mut state.jobs {
            shown.failed_before += 1 + broken.as_ref().map_or(0, |it| it.failure_count(*job));
        }
        // Dropped first, so that the place is free.
        drop(broken);
        match self.mount() {
            Ok(mount) => {
                tracing::warn!(at = %self.at.display(), "the mount was gone and is made again");
                for (job, shown) in &state.jobs {
                    if let Err(error) = mount.add_job(*job, &shown.inputs) {
                        tracing::warn!(%job, %error, "inputs are not shown any more");
                    }
                }
                state.mount = Some(mount);
            }
            Err(error) => {
                let error = node::log::chain(&error);
                tracing::warn!(at = %self.at.display(), error, "the mount cannot be made again");
            }
        }
    }

    /// How often a reader of a job's inputs got an error that was no fault of his, since it was
    /// shown. A connection that broke counts for all jobs, once it was mended.
    pub(super) fn failure_count(&self, job: JobId) -> u64 {
        let state = self.state();
        let Some(shown) = state.jobs.get(&job) else { return 0 };
        shown.failed_before + state.mount.as_ref().map_or(0, |mount| mount.failure_count(job))
    }

    /// Unmounts.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.has_ended = true;
        state.mount = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is half done where a holder panics, so the state is good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
