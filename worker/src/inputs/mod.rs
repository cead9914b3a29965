//! What the tasks of a job need from storage before they start: inputs, the program, the lines of
//! `--each-line`, a description that was too long to travel.
//!
//! It is prepared once for each job, by a thread of its own, while the slots that need it wait; it is
//! shared by all tasks of the job, bounded on disk, and removed when the job had no task here for a
//! while. What a predecessor left is removed at the start. Inputs are shown through a mount, of which
//! only what is read is fetched, or, where that is not to be had, materialised: fetched as a whole.
//! Materialised files and folders lose their write permission, because other tasks read them too; a
//! task that runs as root could write all the same. Deliberately not here: what a task is started
//! with.

mod fetch;
mod lines;
mod mounted;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration as StdDuration;

use client::Client;
use node::clock::Clock;
use proto::description::{Program, Runtime};
use proto::ids::{Incarnation, JobId, TaskIndex};
use proto::status::Cause;
use proto::time::{Duration, Instant};

use crate::config::{InputsWay, MountWay, WorkerConfig};
use crate::logic::job::JobSpec;
use crate::runtime::{Cancel, remove_folder};
use crate::spawn::TaskUser;
use fetch::Fetch;
use lines::LineReader;
use mounted::Mounted;
pub use mounted::{IMAGES, MOUNT, TREES};

/// How long what a job needs stays after its last task here (eyeballed: longer than the pause
/// between two deals of a job, shorter than anybody waits for room on a disk).
const KEPT: Duration = Duration::from_secs(60);

/// How long a job whose inputs do not exist is not looked for again.
const MISSING_KNOWN: Duration = Duration::from_secs(10);

/// As above where storage or this machine had the trouble.
const TROUBLE_KNOWN: Duration = Duration::from_secs(1);

/// Jobs that are fetched at a time. More than slots only where jobs were cancelled meanwhile.
const FETCHES: usize = 64;

/// How often a waiting slot looks whether its task was cancelled.
const LOOK: StdDuration = StdDuration::from_millis(100);

/// How often it is looked for what may be removed.
const SWEEP: StdDuration = StdDuration::from_secs(5);

/// Permissions of folders that tasks pass through, whoever they run as.
const PASSABLE: u32 = 0o711;

/// Of what is free at the start, the part that inputs may take unless told otherwise, in percent.
const FREE_PERCENT: u64 = 80;

/// Why a task does not have what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// The job's fault: it would be the same everywhere. A sentence for its author.
    Job(Cause, String),
    /// The trouble is storage's or this machine's, and another attempt may succeed.
    Trouble(String),
    /// The task was cancelled meanwhile.
    Cancelled,
}

/// What the tasks of a job share.
#[derive(Debug)]
pub(crate) struct View {
    /// The job; where its description is a file, with what stands in that.
    pub(crate) spec: JobSpec,
    /// What its tasks see as `$REMUDA_INPUTS`.
    pub(crate) inputs: PathBuf,
    /// The program that the job brought.
    pub(crate) program: Option<PathBuf>,
    lines: Option<LineReader>,
}

/// How much there is, for the telemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InputsStatus {
    /// How tasks see them: `erofs`, `mounted` or `materialised`.
    pub(crate) way: &'static str,
    /// Jobs whose inputs are here or on their way.
    pub(crate) jobs: usize,
    /// Bytes of them on disk.
    pub(crate) bytes: u64,
    /// The most that they may be.
    pub(crate) limit: u64,
}

/// The inputs of all jobs of a worker. Copies share them; with the last one the work on them ends.
#[derive(Clone, Debug)]
pub struct Inputs {
    owner: Arc<Owner>,
}

#[derive(Debug)]
struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        // Threads that are fetching or removing end at their next look, or with the process.
        self.0.state().is_closed = true;
        self.0.changed.notify_all();
        self.0.mounted.iter().for_each(Mounted::end);
    }
}

#[derive(Debug)]
struct Shared {
    clock: Clock,
    client: Arc<Client>,
    /// Shows the inputs; `None` where they are materialised.
    mounted: Option<Mounted>,
    /// The folder of this incarnation.
    folder: PathBuf,
    limit: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    jobs: BTreeMap<JobId, Job>,
    fetch_count: usize,
    /// Bytes on disk, those that are being fetched or removed included.
    used: u64,
    last_number: u64,
    is_closed: bool,
}

#[derive(Debug)]
struct Job {
    /// Names its folder: a job that comes back while it is being removed gets another one.
    number: u64,
    bytes: u64,
    /// Slots that wait for it or use it.
    user_count: usize,
    /// When the last of them went.
    idle_since: Instant,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Fetching,
    Here(Arc<View>),
    Missing { why: Missing, until: Instant },
}

impl Inputs {
    /// Keeps inputs below the folder `inputs` of a worker's data folder, and mounts them at `mount`
    /// in it, with its cache in `cache`, in the way and within the limit that the settings say.
    ///
    /// # Errors
    /// Where a folder cannot be made, a thread not started, or nothing mounted although the settings
    /// demand it.
    pub fn open(
        data: &Path,
        incarnation: Incarnation,
        settings: &WorkerConfig,
        clock: Clock,
        client: Arc<Client>,
    ) -> io::Result<Inputs> {
        let all = data.join("inputs");
        fs::create_dir_all(&all)?;
        let all = all.canonicalize()?;
        let folder = all.join(incarnation.0.to_string());
        // An incarnation is never used twice: nothing is there.
        fs::create_dir_all(&folder)?;
        for folder in [&all, &folder] {
            fs::set_permissions(folder, Permissions::from_mode(PASSABLE))?;
        }
        let limit = match settings.inputs_bytes {
            0 => free_bytes(&folder)? / 100 * FREE_PERCENT,
            limit => limit,
        };
        let readers = TaskUser::of_setting(&settings.user)?.map(|user| (user.uid, user.gid));
        let mount = || Mounted::start(data, limit, client.clone(), settings.mount_way, readers);
        let mounted = match settings.inputs {
            InputsWay::Materialise if settings.mount_way == MountWay::Erofs => {
                return Err(io::Error::other(
                    "mount_way = \"erofs\" demands a mount and inputs = \"materialise\" none: \
                     change one of the two",
                ));
            }
            InputsWay::Materialise => None,
            InputsWay::Auto if settings.mount_way != MountWay::Erofs => mount()
                .inspect_err(|error| {
                    let error = node::log::chain(error);
                    tracing::info!(error, "inputs are materialised: they cannot be mounted here");
                })
                .ok(),
            InputsWay::Auto | InputsWay::Mount => Some(mount()?),
        };
        let (state, changed) = (Mutex::default(), Condvar::new());
        let shared = Shared { clock, client, mounted, folder, limit, state, changed };
        let shared = Arc::new(shared);
        let sweeper = std::thread::Builder::new().name("inputs".to_owned());
        let swept = shared.clone();
        sweeper.spawn(move || swept.sweep(&all))?;
        Ok(Inputs { owner: Arc::new(Owner(shared)) })
    }

    /// Waits until what the tasks of a job need is here.
    pub(crate) fn prepare(&self, spec: &JobSpec, cancel: &Cancel) -> Result<Prepared, Missing> {
        if !needs_anything(spec) {
            return Ok(Prepared { used: None, view: None });
        }
        self.owner.0.prepare(spec, cancel)
    }

    /// Mends a broken mount, which counts as a failure of all jobs then.
    pub(crate) fn mend(&self) {
        self.owner.0.mounted.iter().for_each(Mounted::mend);
    }

    pub(crate) fn status(&self) -> InputsStatus {
        let shared = &self.owner.0;
        let state = shared.state();
        let way = shared.mounted.as_ref().map_or("materialised", Mounted::way);
        InputsStatus { way, jobs: state.jobs.len(), bytes: state.used, limit: shared.limit }
    }
}

/// What was prepared for a task; it stays at least as long as this lives.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// `None` where the job needs nothing.
    view: Option<Arc<View>>,
    /// Dropped behind the view.
    used: Option<Use>,
}

impl Prepared {
    /// What was fetched; `None` where the job needs nothing.
    pub(crate) fn view(&self) -> Option<&View> {
        self.view.as_deref()
    }

    /// How often a task of the job got an error from the mount that was not its fault, since the
    /// job's inputs were brought here.
    pub(crate) fn failure_count(&self) -> u64 {
        let Some(used) = &self.used else { return 0 };
        used.shared.mounted.as_ref().map_or(0, |mounted| mounted.failure_count(used.job))
    }

    /// What `{line}` stands for; `None` where the job has no lines.
    pub(crate) fn line(
        &self,
        task: TaskIndex,
        cancel: &Cancel,
    ) -> Result<Option<Vec<u8>>, Missing> {
        let reader = self.view.as_ref().and_then(|view| view.lines.as_ref());
        reader.map(|lines| lines.line(task, cancel)).transpose()
    }
}

/// A slot that waits for a job's inputs or uses them.
#[derive(Debug)]
struct Use {
    shared: Arc<Shared>,
    job: JobId,
    number: u64,
}

impl Drop for Use {
    fn drop(&mut self) {
        let now = self.shared.clock.now();
        let mut state = self.shared.state();
        let found = state.jobs.get_mut(&self.job).filter(|job| job.number == self.number);
        if let Some(job) = found {
            job.user_count -= 1;
            job.idle_since = now;
        }
    }
}

fn needs_anything(spec: &JobSpec) -> bool {
    let description = &spec.description;
    let is_program_here = matches!(
        description.runtime,
        Runtime::Command { program: Program::Path(_), .. } | Runtime::Noop(_)
    );
    let are_inputs_here = description.inputs.is_empty() && spec.input_files.is_empty();
    !(is_program_here && are_inputs_here && description.lines.is_none())
}

fn free_bytes(folder: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(folder)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is half done where a holder panics, so the state is good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prepare(self: &Arc<Shared>, spec: &JobSpec, cancel: &Cancel) -> Result<Prepared, Missing> {
        let mut used: Option<Use> = None;
        let mut state = self.state();
        loop {
            let now = self.clock.now();
            if cancel.is_cancelled() || state.is_closed {
                drop(state);
                return Err(Missing::Cancelled);
            }
            let is_full = state.fetch_count >= FETCHES;
            match state.jobs.get_mut(&spec.job) {
                Some(job) if used.as_ref().is_none_or(|used| used.number != job.number) => {
                    if let Phase::Missing { until, .. } = &job.phase
                        && *until <= now
                    {
                        state.jobs.remove(&spec.job);
                        continue;
                    }
                    job.user_count += 1;
                    let (shared, job, number) = (self.clone(), spec.job, job.number);
                    // The one before, if any, looks at the state when it is dropped.
                    drop(state);
                    used = Some(Use { shared, job, number });
                    state = self.state();
                    continue;
                }
                Some(Job { phase: Phase::Here(view), .. }) => {
                    let view = Some(view.clone());
                    return Ok(Prepared { view, used });
                }
                Some(Job { phase: Phase::Missing { why, .. }, .. }) => {
                    let why = why.clone();
                    drop(state);
                    return Err(why);
                }
                None if !is_full => {
                    let ended = self.begin(&mut state, spec.job);
                    drop(state);
                    used = Some(ended.used());
                    let thread = std::thread::Builder::new().name("inputs fetch".to_owned());
                    let spec = spec.clone();
                    // Where there is no thread, what it was to do is dropped and says so.
                    let _ = thread.spawn(move || ended.fetch(&spec));
                    state = self.state();
                    continue;
                }
                Some(Job { phase: Phase::Fetching, .. }) | None => {}
            }
            let waited = self.changed.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Lists a job that is about to be fetched, and whoever begins it as its first user.
    fn begin(self: &Arc<Shared>, state: &mut State, job: JobId) -> Ended {
        state.last_number += 1;
        let number = state.last_number;
        state.fetch_count += 1;
        let (idle_since, phase) = (self.clock.now(), Phase::Fetching);
        state.jobs.insert(job, Job { number, bytes: 0, user_count: 1, idle_since, phase });
        let trouble = "this machine gave no thread to fetch the inputs, or the thread died";
        let result = Err(Missing::Trouble(trouble.to_owned()));
        Ended { shared: self.clone(), job, number, result }
    }

    fn folder_of(&self, job: JobId, number: u64) -> PathBuf {
        self.folder.join(format!("{job}-{number}"))
    }

    /// Whether anybody waits for a job that is being fetched.
    fn is_wanted(&self, job: JobId, number: u64) -> bool {
        let state = self.state();
        let job = state.jobs.get(&job).filter(|job| job.number == number);
        !state.is_closed && job.is_some_and(|job| job.user_count > 0)
    }

    /// Takes room for bytes that are about to be fetched, where need be that of jobs that are not
    /// used at present.
    fn reserve(&self, job: JobId, number: u64, bytes: u64) -> Result<(), Missing> {
        loop {
            let mut state = self.state();
            if state.used.saturating_add(bytes) <= self.limit {
                state.used += bytes;
                if let Some(job) = state.jobs.get_mut(&job).filter(|job| job.number == number) {
                    job.bytes += bytes;
                }
                return Ok(());
            }
            let Some((oldest, removed)) = state.take_idle() else {
                return Err(Missing::Trouble(format!(
                    "inputs of {bytes} bytes more have no room: {} of {} bytes are in use, see \
                     inputs_bytes in the worker's settings",
                    state.used, self.limit
                )));
            };
            drop(state);
            self.remove(oldest, &removed);
        }
    }

    /// Removes what the job has that was not used for the longest time; false where all are used.
    fn make_room(&self) -> bool {
        let idle = self.state().take_idle();
        idle.is_some_and(|(id, job)| {
            self.remove(id, &job);
            true
        })
    }

    /// Removes the folder of a job that is not listed any more.
    fn remove(&self, id: JobId, job: &Job) {
        self.mounted.iter().for_each(|mounted| mounted.hide(id, job.number));
        let folder = self.folder_of(id, job.number);
        if let Err(error) = remove_if_there(&folder) {
            tracing::warn!(folder = %folder.display(), %error, "inputs cannot be removed");
        }
        self.state().used -= job.bytes;
    }

    /// Removes what predecessors left, and from then on what was not used for a while.
    fn sweep(&self, all: &Path) {
        if let Err(error) = remove_others(all, &self.folder) {
            tracing::warn!(folder = %all.display(), %error,
                "inputs that an earlier start left cannot be removed");
        }
        let mut state = self.state();
        while !state.is_closed {
            let now = self.clock.now();
            let old: Vec<(JobId, Job)> =
                state.jobs.extract_if(.., |_, job| job.is_over(now)).collect();
            drop(state);
            old.iter().for_each(|(id, job)| self.remove(*id, job));
            self.mounted.iter().for_each(Mounted::mend);
            let waited = self.changed.wait_timeout(self.state(), SWEEP);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl State {
    /// Takes the job out of the list that was not used for the longest time.
    fn take_idle(&mut self) -> Option<(JobId, Job)> {
        let idle = self.jobs.iter().filter(|(_, it)| it.user_count == 0 && it.is_here());
        let (&oldest, _) = idle.min_by_key(|(_, it)| it.idle_since)?;
        self.jobs.remove_entry(&oldest)
    }
}

impl Job {
    fn is_here(&self) -> bool {
        matches!(self.phase, Phase::Here(_))
    }

    fn is_over(&self, now: Instant) -> bool {
        match &self.phase {
            Phase::Fetching => false,
            Phase::Here(_) => self.user_count == 0 && self.idle_since + KEPT <= now,
            Phase::Missing { until, .. } => *until <= now,
        }
    }
}

/// A fetch; dropped, it has ended and the slots that wait learn how.
struct Ended {
    shared: Arc<Shared>,
    job: JobId,
    number: u64,
    result: Result<View, Missing>,
}

impl Ended {
    fn used(&self) -> Use {
        Use { shared: self.shared.clone(), job: self.job, number: self.number }
    }

    fn fetch(mut self, spec: &JobSpec) {
        let (shared, job, number) = (&*self.shared, self.job, self.number);
        let folder = shared.folder_of(job, number);
        tracing::debug!(%job, "the job's inputs are being fetched");
        let reserve = |bytes| shared.reserve(job, number, bytes);
        let is_wanted = || shared.is_wanted(job, number);
        let make_room = || shared.make_room();
        let show = shared.mounted.as_ref();
        let show = show.map(|mounted| |inputs| mounted.show(job, number, inputs, &make_room));
        let fetch = Fetch {
            client: &shared.client,
            folder,
            reserve: &reserve,
            is_wanted: &is_wanted,
            show: show.as_ref().map(|show| show as _),
        };
        self.result = fetch.whole(spec);
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let phase = match std::mem::replace(&mut self.result, Err(Missing::Cancelled)) {
            Ok(view) => Phase::Here(Arc::new(view)),
            Err(why) => {
                let known = match why {
                    Missing::Job(..) => MISSING_KNOWN,
                    Missing::Trouble(_) => TROUBLE_KNOWN,
                    Missing::Cancelled => Duration::ZERO,
                };
                Phase::Missing { why, until: self.shared.clock.now() + known }
            }
        };
        let is_here = matches!(phase, Phase::Here(_));
        let mut is_known = true;
        if let Phase::Missing { why, .. } = &phase {
            self.shared.mounted.iter().for_each(|mounted| mounted.hide(self.job, self.number));
            // Whoever joined after it was given up begins again.
            is_known = *why != Missing::Cancelled;
            let folder = self.shared.folder_of(self.job, self.number);
            if let Err(error) = remove_if_there(&folder) {
                tracing::warn!(folder = %folder.display(), %error, "inputs cannot be removed");
            }
            tracing::debug!(job = %self.job, ?why, "the job's inputs are not here");
        }
        let mut state = self.shared.state();
        state.fetch_count -= 1;
        let found = state.jobs.get_mut(&self.job).filter(|job| job.number == self.number);
        if let Some(job) = found {
            job.phase = phase;
            job.idle_since = self.shared.clock.now();
            let bytes = if is_here { 0 } else { std::mem::take(&mut job.bytes) };
            if !is_known {
                state.jobs.remove(&self.job);
            }
            state.used -= bytes;
        }
        drop(state);
        self.shared.changed.notify_all();
    }
}

/// Removes every folder in `all` but one.
fn remove_others(all: &Path, own: &Path) -> io::Result<()> {
    for entry in fs::read_dir(all)? {
        let path = entry?.path();
        if path != own {
            remove_if_there(&path)?;
        }
    }
    Ok(())
}

fn remove_if_there(folder: &Path) -> io::Result<()> {
    match remove_folder(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
