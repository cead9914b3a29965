//! The cluster that figures are taken of: started for them in a folder of its own, and gone with
//! its folder when they are taken.

use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use client::Client;
use node::clock::Clock;
use node::stop::Stop;
use proto::time::Duration;
use rustix::process::{Pid, Signal, kill_process};

use super::disk;
use crate::dev;
use crate::failure::{During, Failure};
use crate::flags::Bench;

/// Where the cluster's folder is made unless told otherwise: by custom on a disk, as /tmp is not
/// everywhere.
const ROOM: &str = "/var/tmp";

/// The file system type of FUSE, by what `statfs` says.
const FUSE: u64 = 0x6573_5546;

/// How long a mount may take to be there.
const PATIENCE: Duration = Duration::from_secs(30);

/// Masters of a cluster, unless told otherwise.
pub(super) const MASTERS: u32 = 3;

/// Between two looks for it.
const PAUSE: Duration = Duration::from_millis(20);

/// What becomes of a process of a cluster that dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TheDead {
    /// It is started again after a second.
    ComeBack,
    /// It is started again when that is asked for.
    StayDead,
}

/// How many masters and workers a cluster has, and how many slots each worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) masters: u32,
    pub(super) workers: u32,
    pub(super) slots: u32,
}

impl Shape {
    /// As the flags ask; else the cores are shared among the workers, as `remuda dev` does it.
    pub(super) fn of(flags: &Bench) -> Shape {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let cores = u32::try_from(cores).unwrap_or(u32::MAX);
        let slots = flags.slots.unwrap_or_else(|| (cores / flags.workers.max(1)).max(1));
        Shape { masters: flags.masters.unwrap_or(MASTERS), workers: flags.workers, slots }
    }

    /// Slots in all.
    pub(super) fn slot_count(self) -> u32 {
        self.workers.saturating_mul(self.slots)
    }
}

/// Where clusters are started, one after the other. A signal ends the one that runs.
pub(super) struct Room {
    folder: PathBuf,
    running: Arc<Mutex<Option<Running>>>,
}

impl Room {
    /// The folder that the flags ask for, which must be on a real disk.
    pub(super) fn open(flags: &Bench) -> Result<Room, Failure> {
        let folder = flags.dir.clone().unwrap_or_else(|| PathBuf::from(ROOM));
        disk::refuse_memory(&folder)?;
        let stop = Stop::on_signals().during(|| "watch for signals".into())?;
        let running = Arc::new(Mutex::new(None));
        let interrupted = Arc::clone(&running);
        stop.on_request(move || {
            // The folder goes before this process does; 130 is what a shell reports of a Ctrl-C.
            let _ = end(&interrupted);
            std::process::exit(130);
        });
        Ok(Room { folder, running })
    }

    /// Starts a cluster in a new folder.
    pub(super) fn start(&self, shape: Shape, dead: TheDead) -> Result<BenchCluster, Failure> {
        let bits = node::random::bits().during(|| "draw a name".into())?;
        let folder = self.folder.join(format!("remuda-bench-{:016x}", bits as u64));
        std::fs::create_dir(&folder).during(|| format!("make {}", folder.display()))?;
        let mut supervisor = match spawn(shape, dead, &folder) {
            Ok(supervisor) => supervisor,
            Err(failure) => {
                let _ = std::fs::remove_dir_all(&folder);
                return Err(failure);
            }
        };
        let stdout = supervisor.stdout.take();
        let running = Arc::clone(&self.running);
        *running.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Running { mount: None, supervisor, folder: folder.clone() });
        let mut addresses = String::new();
        if let Some(stdout) = stdout {
            let mut stdout = BufReader::new(stdout);
            stdout.read_line(&mut addresses).during(|| "hear from the cluster".into())?;
        }
        if addresses.trim().is_empty() {
            let _ = end(&running);
            return Err(Failure::failed("the cluster for the figures does not come up"));
        }
        let addresses = addresses.trim().split(',').map(str::to_owned).collect();
        let client = Client::connect(addresses).during(|| "start a client".into())?;
        Ok(BenchCluster { client, running, folder })
    }
}

/// A cluster of its own. Dropping it ends it.
pub(super) struct BenchCluster {
    client: Client,
    running: Arc<Mutex<Option<Running>>>,
    folder: PathBuf,
}

struct Running {
    mount: Option<Child>,
    supervisor: Child,
    folder: PathBuf,
}

impl BenchCluster {
    /// A client of it.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Its folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The process of the leading master.
    pub(super) fn leader(&self) -> Result<u32, Failure> {
        dev::leader_pid(&self.folder)
    }

    /// Mounts its files, by a process that ends with it: the folder where they are. `None` where
    /// that cannot be; standard error says why.
    pub(super) fn mount(&self) -> Result<Option<PathBuf>, Failure> {
        let (at, cache) = (self.folder.join("mount"), self.folder.join("mount-cache"));
        for folder in [&at, &cache] {
            std::fs::create_dir(folder).during(|| format!("make {}", folder.display()))?;
        }
        let mut daemon = this_program()?
            .arg("mount")
            .arg(&at)
            .arg("--cluster")
            .arg(&self.folder)
            .arg("--cache")
            .arg(&cache)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .during(|| "start a mount".into())?;
        let clock = Clock::start();
        let is_there = loop {
            let told = rustix::fs::statfs(&at).during(|| format!("look at {}", at.display()))?;
            if told.f_type as u64 & 0xffff_ffff == FUSE {
                break true;
            }
            if daemon.try_wait().during(|| "wait for a mount".into())?.is_some()
                || clock.now().0 > PATIENCE.0
            {
                break false;
            }
            std::thread::park_timeout(PAUSE.to_std());
        };
        if !is_there {
            eprintln!("nothing can be mounted here: the figures of a mount are left out");
        }
        if let Some(running) = &mut *self.running.lock().unwrap_or_else(PoisonError::into_inner) {
            running.mount = Some(daemon);
        }
        Ok(is_there.then_some(at))
    }

    /// Ends it and removes its folder.
    pub(super) fn end(self) -> io::Result<()> {
        end(&self.running)
    }
}

impl Drop for BenchCluster {
    fn drop(&mut self) {
        // What fails here was tried before, or follows an error that is told already.
        let _ = end(&self.running);
    }
}

/// Ends what runs, if anything does. Whoever comes second waits until it is done, so that a signal
/// at the end does not leave half of a folder behind.
fn end(running: &Mutex<Option<Running>>) -> io::Result<()> {
    let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
    running.take().map_or(Ok(()), Running::end)
}

impl Running {
    fn end(mut self) -> io::Result<()> {
        // What is mounted in the folder goes before the folder.
        for child in self.mount.iter_mut().chain([&mut self.supervisor]) {
            // It has not been waited for, so the number is still its own.
            if child.try_wait()?.is_none() {
                kill_process(Pid::from_child(child), Signal::TERM)?;
                child.wait()?;
            }
        }
        match std::fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn this_program() -> Result<Command, Failure> {
    Ok(Command::new(std::env::current_exe().during(|| "find this program".into())?))
}

fn spawn(shape: Shape, dead: TheDead, folder: &Path) -> Result<Child, Failure> {
    let mut command = this_program()?;
    command.args(["dev", "--dir"]).arg(folder);
    command
        .args(["--masters", &shape.masters.to_string()])
        .args(["--workers", &shape.workers.to_string()])
        .args(["--slots", &shape.slots.to_string()])
        .args(["--parent", &std::process::id().to_string()])
        .args((dead == TheDead::StayDead).then_some("--no-restart"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // A Ctrl-C is this process's matter, which ends the cluster in order.
        .process_group(0)
        .spawn()
        .during(|| "start a cluster".into())
}

/// Resident memory of a process, in bytes.
pub(super) fn resident_memory(pid: u32) -> Result<u64, Failure> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).during(|| format!("read {path}"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = resident.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok());
    let kib: u64 = kib.ok_or_else(|| Failure::failed(format!("{path} has no VmRSS")))?;
    Ok(kib << 10)
}
