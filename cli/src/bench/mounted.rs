//! Stored files as a task sees them among its inputs: read for the first time, and then again from
//! what the kernel kept, beside the file system of this machine.
//!
//! A task of a worker that tells where its inputs stand keeps them mounted meanwhile. The plain way
//! is measured at `remuda mount`, which has no other.

use std::path::{Path, PathBuf};

use client::logic::jobs::Submission;
use node::clock::Clock;
use proto::description::{Input, InputSource, JobDescription, Program, Runtime};
use proto::ids::JobId;
use proto::time::Duration;

use super::cluster::BenchCluster;
use super::files::{LARGE_BYTES, small_paths};
use super::native;
use super::noop::new_job;
use super::{Line, Printer, mib, quantile};
use crate::commands::connect::Asked;
use crate::failure::{During, Failure};

const COLD: &str = "the file system, nothing cached";

const WARM: &str = "the file system, all cached";

/// Random pages that are read.
const PAGES: u32 = 200_000;

/// Rounds of what is read from a cache.
const ROUNDS: u32 = 5;

/// How long a task may take until it tells where its inputs are.
const PATIENCE: Duration = Duration::from_secs(120);

/// Between two looks for that.
const PAUSE: Duration = Duration::from_millis(20);

/// What `statfs` says of inputs that are mounted: EROFS, and a file system in user space.
const MOUNTED: [u64; 2] = [0xe0f5_e1e2, 0x6573_5546];

/// The median of some rounds of what is over in a moment.
fn median(mut round: impl FnMut() -> Result<Duration, Failure>) -> Result<Duration, Failure> {
    let times: Result<Vec<Duration>, Failure> = (0..ROUNDS).map(|_| round()).collect();
    let mut times = times?;
    times.sort_unstable();
    quantile(&times, 0.5).ok_or_else(|| Failure::failed("nothing was measured"))
}

/// A task that holds its inputs where they are.
struct Holding<'a> {
    cluster: &'a BenchCluster,
    job: JobId,
    inputs: PathBuf,
}

impl Holding<'_> {
    /// Submits a task that does nothing but see these inputs; `None` where they are not mounted.
    fn begin<'a>(
        cluster: &'a BenchCluster,
        inputs: [(&str, InputSource); 2],
    ) -> Result<Option<Holding<'a>>, Failure> {
        let told = cluster.folder().join("inputs-are-at");
        let told = std::path::absolute(told).during(|| "find the folder".into())?;
        let script =
            r#"printf %s "$REMUDA_INPUTS" > "$1.part"; mv "$1.part" "$1"; exec sleep 86400"#;
        let path = told.display().to_string();
        let arguments = ["-c", script, "sh", &path].map(|it| it.as_bytes().to_vec()).to_vec();
        let program = Program::Path("sh".into());
        let mut description = JobDescription::new(Runtime::Command { program, arguments });
        let input = |(name, source): (&str, _)| Input { name: name.to_owned(), source };
        description.inputs = inputs.map(input).to_vec();
        let job = new_job()?;
        let submission = Submission::new(job, &description, 1, Vec::new());
        let submission = submission.during(|| "submit a job".into())?;
        cluster.client().submit(submission).asked()?;
        let clock = Clock::start();
        while !told.exists() {
            if clock.now().0 > PATIENCE.0 {
                return Err(Failure::failed("no task sees the files for the figures"));
            }
            std::thread::park_timeout(PAUSE.to_std());
        }
        let inputs = std::fs::read_to_string(&told).during(|| "read where inputs are".into())?;
        let inputs = PathBuf::from(inputs);
        let kind =
            rustix::fs::statfs(&inputs).during(|| format!("look at {}", inputs.display()))?;
        let is_mounted = MOUNTED.contains(&(kind.f_type as u64 & 0xffff_ffff));
        let holding = Holding { cluster, job, inputs };
        if is_mounted {
            return Ok(Some(holding));
        }
        eprintln!("inputs are not mounted here: the figures of a mount are left out");
        holding.end().map(|()| None)
    }

    fn end(self) -> Result<(), Failure> {
        self.cluster.client().cancel(self.job).asked().map(drop)
    }
}

/// Takes the figures of a file and a folder of small ones, whose originals stand in `place`.
pub(super) fn run(
    cluster: &BenchCluster,
    place: &Path,
    (large, small): (InputSource, InputSource),
    random: &mut fastrand::Rng,
    printer: Printer,
) -> Result<(), Failure> {
    let sources: Vec<PathBuf> = small_paths(&place.join("small")).collect();
    let tree = match small {
        InputSource::Tree { tree, .. } => Some(tree),
        InputSource::File { .. } | InputSource::Name(_) => None,
    };
    if let Some(held) = Holding::begin(cluster, [("large", large), ("small", small)])? {
        let shown: Vec<PathBuf> = small_paths(&held.inputs.join("small")).collect();
        one_file(&place.join("large"), &held.inputs.join("large"), random, printer)?;
        many_files(&sources, &shown, printer)?;
        held.end()?;
    }
    if let (Some(tree), Some(mount)) = (tree, cluster.mount()?) {
        let shown = mount.join("files").join(tree.to_string());
        let shown: Vec<PathBuf> = small_paths(&shown).collect();
        native::read_each(&shown)?;
        again(&sources, &shown, "small_read_plain_per_s", printer)?;
    }
    Ok(())
}

fn one_file(
    source: &Path,
    shown: &Path,
    random: &mut fastrand::Rng,
    printer: Printer,
) -> Result<(), Failure> {
    let per_second = |time: Duration| mib(LARGE_BYTES) / time.as_secs_f64();
    native::forget(source)?;
    let limit = per_second(native::read(source)?);
    let rate = per_second(native::read(shown)?);
    let line = Line::new("files", "mount_first_mib_per_s", rate, "MiB/s");
    printer.line(&line.beside(limit, COLD))?;
    let limit = per_second(median(|| native::read(source))?);
    let rate = per_second(median(|| native::read(shown))?);
    let line = Line::new("files", "mount_repeat_mib_per_s", rate, "MiB/s");
    printer.line(&line.beside(limit, WARM))?;
    native::compare(source, shown)?;
    let per_second = |time: Duration| f64::from(PAGES) / time.as_secs_f64();
    let limit = per_second(median(|| native::read_pages(source, PAGES, random))?);
    let rate = per_second(median(|| native::read_pages(shown, PAGES, random))?);
    let line = Line::new("files", "rand4k_repeat_iops", rate, "reads/s");
    printer.line(&line.beside(limit, WARM))
}

fn many_files(sources: &[PathBuf], shown: &[PathBuf], printer: Printer) -> Result<(), Failure> {
    sources.iter().try_for_each(|source| native::forget(source))?;
    let per_second = |time: Duration| shown.len() as f64 / time.as_secs_f64();
    let limit = per_second(native::read_each(sources)?);
    let rate = per_second(native::read_each(shown)?);
    let line = Line::new("files", "small_first_per_s", rate, "files/s");
    printer.line(&line.beside(limit, COLD))?;
    for (stored, found) in sources.iter().zip(shown) {
        native::compare(stored, found)?;
    }
    again(sources, shown, "small_read_per_s", printer)
}

/// Small files of which the kernel has everything.
fn again(
    sources: &[PathBuf],
    shown: &[PathBuf],
    metric: &'static str,
    printer: Printer,
) -> Result<(), Failure> {
    let per_second = |time: Duration| shown.len() as f64 / time.as_secs_f64();
    let limit = per_second(median(|| native::read_each(sources))?);
    let rate = per_second(median(|| native::read_each(shown))?);
    printer.line(&Line::new("files", metric, rate, "files/s").beside(limit, WARM))
}
