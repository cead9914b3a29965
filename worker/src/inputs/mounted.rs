//! The inputs of all jobs as mounted file systems, of which only what is read is fetched.
//!
//! There is one plain mount with all jobs in it, and where the kernel allows it each set of inputs
//! is mounted as an image beside that. A mount whose connection broke is made again, with the same
//! jobs at the same places; what a dead predecessor left there is cleaned away by whoever mounts.
//! Deliberately not here: what a file system is (the package `mount`), and when a job is shown.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use client::Client;
use mount::{Images, InputShown, Mount, MountConfig, MountError, NotShown, THREADS};
use proto::ids::JobId;

use crate::config::MountWay;

/// The inputs of a job, each with its name.
pub(super) type Shown = Vec<(String, InputShown)>;

/// Name of the folder below a worker's data folder at which it mounts inputs.
pub const MOUNT: &str = "mount";

/// As above for inputs that are mounted as images.
pub const TREES: &str = "trees";

/// Name of the folder in which the images themselves are.
pub const IMAGES: &str = "images";

/// Mounts that last as long as their worker.
#[derive(Debug)]
pub(super) struct Mounted {
    /// The worker's data folder.
    data: PathBuf,
    cache_bytes: u64,
    client: Arc<Client>,
    /// User and group of the tasks where these are another user's, to whom images belong.
    readers: Option<(u32, u32)>,
    /// Whether inputs are shown as images.
    has_images: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Dropped first, as it uses the other. `None` where inputs are not shown so, where it could not
    /// be made again, and at the end.
    images: Option<Arc<Images>>,
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
    /// Whether its tasks see an image.
    is_image: bool,
}

impl Mounted {
    /// Mounts below a worker's data folder, with a cache of at most so many bytes in it.
    pub(super) fn start(
        data: &Path,
        cache_bytes: u64,
        client: Arc<Client>,
        way: MountWay,
        readers: Option<(u32, u32)>,
    ) -> io::Result<Mounted> {
        let data = data.canonicalize()?;
        // A dead mount that a predecessor left there is no folder, and cannot be made one.
        match std::fs::create_dir(data.join(MOUNT)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // Also where there will be no images: a predecessor may have had them.
        mount::clean_trees(&data.join(TREES));
        let jobs = BTreeMap::new();
        let state = Mutex::new(State { images: None, mount: None, jobs, has_ended: false });
        let has_images = way != MountWay::Plain;
        let mut mounted = Mounted { data, cache_bytes, client, readers, has_images, state };
        let mount = mounted.mount().map_err(io::Error::other)?;
        if has_images {
            match mounted.images(&mount) {
                Ok(images) => mounted.state().images = Some(images),
                Err(error) if way == MountWay::Erofs => {
                    let error = node::log::chain(&error);
                    return Err(io::Error::other(format!(
                        "mount_way = \"erofs\" is not possible here: {error}"
                    )));
                }
                Err(error) => {
                    let error = node::log::chain(&error);
                    tracing::info!(error, "inputs are not mounted as EROFS");
                    mounted.has_images = false;
                }
            }
        }
        let at = mounted.data.join(if mounted.has_images { TREES } else { MOUNT });
        let way = mounted.way();
        tracing::info!(at = %at.display(), way, "inputs are shown through a mount");
        mounted.state().mount = Some(mount);
        Ok(mounted)
    }

    /// How tasks see inputs.
    pub(super) fn way(&self) -> &'static str {
        if self.has_images { "erofs" } else { "mounted" }
    }

    fn mount(&self) -> Result<Mount, MountError> {
        let (at, cache) = (self.data.join(MOUNT), self.data.join("cache"));
        let (at, cache, cache_bytes) = (&*at, &*cache, self.cache_bytes);
        Mount::start(MountConfig { at, cache, cache_bytes, threads: THREADS }, self.client.clone())
    }

    fn images(&self, mount: &Mount) -> Result<Arc<Images>, mount::ImagesError> {
        let (hidden, folder) = (self.data.join(IMAGES), self.data.join(TREES));
        Images::start(mount, &hidden, &folder, self.readers).map(Arc::new)
    }

    /// Shows a job under a number; where its inputs stand then. `make_room` ends what some job has
    /// that is not used, or returns false.
    pub(super) fn show(
        &self,
        job: JobId,
        number: u64,
        inputs: Shown,
        make_room: &dyn Fn() -> bool,
    ) -> Result<PathBuf, String> {
        self.mend();
        let images = self.state().images.clone();
        // Storage may be asked for trees meanwhile, and others need the state.
        let image = images.as_ref().and_then(|images| {
            let shown = show_image(images, number, &inputs, make_room);
            let told = |error| {
                let error = node::log::chain(&error);
                tracing::warn!(%job, error, "a job's inputs are not mounted as EROFS");
            };
            shown.map_err(told).ok()
        });
        let mut state = self.state();
        let Some(mount) = &state.mount else {
            return Err("the mount that shows inputs is gone".to_owned());
        };
        mount.add_job(job, &inputs).map_err(|error| error.to_string())?;
        let is_current = || match (&images, &state.images) {
            (Some(images), Some(current)) => Arc::ptr_eq(images, current),
            _ => false,
        };
        // Where the connection broke just now, the place is shown no more.
        let image = image.filter(|_| is_current());
        let is_image = image.is_some();
        let path = image.unwrap_or_else(|| mount.path_of_inputs(job));
        state.jobs.insert(job, ShownJob { number, inputs, failed_before: 0, is_image });
        Ok(path)
    }

    /// Ends that. The job stays where it was shown under another number since.
    pub(super) fn hide(&self, job: JobId, number: u64) {
        let mut state = self.state();
        if state.jobs.get(&job).is_some_and(|shown| shown.number == number) {
            state.jobs.remove(&job);
            if let Some(mount) = &state.mount {
                mount.remove_job(job);
            }
        }
        if let Some(images) = &state.images {
            images.hide(number);
        }
    }

    /// Mounts again where a connection broke. Tasks that were reading got errors; those that come
    /// find it as it was.
    pub(super) fn mend(&self) {
        let mut state = self.state();
        if state.has_ended {
            return;
        }
        let is_mounted = state.mount.as_ref().is_some_and(Mount::is_alive);
        if !is_mounted {
            state.break_off(|_| true);
            // Dropped first, so that the place is free.
            state.images = None;
            state.mount = None;
            match self.mount() {
                Ok(mount) => {
                    tracing::warn!(at = %mount.at().display(), "the mount was gone and is made again");
                    for (job, shown) in &state.jobs {
                        if let Err(error) = mount.add_job(*job, &shown.inputs) {
                            tracing::warn!(%job, %error, "inputs are not shown any more");
                        }
                    }
                    state.mount = Some(mount);
                }
                Err(error) => {
                    let error = node::log::chain(&error);
                    tracing::warn!(error, "the mount cannot be made again");
                }
            }
        }
        self.mend_images(&mut state);
    }

    /// The same for images, on a mount that stands.
    fn mend_images(&self, state: &mut State) {
        let is_whole = state.images.as_ref().is_some_and(|images| images.is_alive());
        if is_whole || !self.has_images {
            return;
        }
        state.break_off(|shown| shown.is_image);
        state.images = None;
        let Some(mount) = &state.mount else { return };
        let images = match self.images(mount) {
            Ok(images) => images,
            Err(error) => {
                let error = node::log::chain(&error);
                return tracing::warn!(error, "images of inputs cannot be mounted again");
            }
        };
        tracing::warn!("the connection with images was gone and is made again");
        for (job, shown) in state.jobs.iter().filter(|(_, shown)| shown.is_image) {
            if let Err(error) = images.show(shown.number, &shown.inputs) {
                let error = node::log::chain(&error);
                tracing::warn!(%job, error, "inputs are not shown any more");
            }
        }
        state.images = Some(images);
    }

    /// How often a reader of a job's inputs got an error that was no fault of his, since it was
    /// shown. A connection that broke counts for all jobs, once it was mended.
    pub(super) fn failure_count(&self, job: JobId) -> u64 {
        let state = self.state();
        state
            .jobs
            .get(&job)
            .map_or(0, |shown| shown.failed_before + state.failure_count(job, shown))
    }

    /// Unmounts.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.has_ended = true;
        state.images = None;
        state.mount = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is half done where a holder panics, so the state is good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// As [`Mounted::failure_count`], of the mounts that stand.
    fn failure_count(&self, job: JobId, shown: &ShownJob) -> u64 {
        let plain = self.mount.as_ref().map_or(0, |mount| mount.failure_count(job));
        let images = self.images.as_ref().filter(|_| shown.is_image);
        plain + images.map_or(0, |images| images.failure_count(shown.number))
    }

    /// Counts a connection that broke for the jobs that are concerned.
    fn break_off(&mut self, is_concerned: impl Fn(&ShownJob) -> bool) {
        let mut jobs = std::mem::take(&mut self.jobs);
        for (job, shown) in &mut jobs {
            if is_concerned(shown) {
                shown.failed_before += 1 + self.failure_count(*job, shown);
            }
        }
        self.jobs = jobs;
    }
}

/// Shows inputs as an image, where need be in the place of others that nobody uses.
fn show_image(
    images: &Images,
    number: u64,
    inputs: &Shown,
    make_room: &dyn Fn() -> bool,
) -> Result<PathBuf, NotShown> {
    loop {
        match images.show(number, inputs) {
            Err(NotShown::Full) if make_room() => {}
            shown => return shown,
        }
    }
}
