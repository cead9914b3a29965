//! The cluster that figures are taken of: started for them in a folder of its own, and gone with
//! its folder when they are taken.

use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use client::Client;
use node::stop::Stop;
use rustix::process::{Pid, Signal, kill_process};

use super::disk;
use crate::dev;
use crate::failure::{During, Failure};
use crate::flags::Bench;

/// Where the cluster's folder is made unless told otherwise: by custom on a disk, as /tmp is not
/// everywhere.
const ROOM: &str = "/var/tmp";

/// A cluster of its own. Dropping it ends it.
pub(super) struct BenchCluster {
    client: Client,
    running: Arc<Mutex<Option<Running>>>,
    folder: PathBuf,
}

struct Running {
    supervisor: Child,
    folder: PathBuf,
}

impl BenchCluster {
    /// Starts a cluster as the flags ask, in a new folder on a real disk.
    pub(super) fn start(flags: &Bench) -> Result<BenchCluster, Failure> {
        let room = flags.dir.clone().unwrap_or_else(|| PathBuf::from(ROOM));
        disk::refuse_memory(&room)?;
        let stop = Stop::on_signals().during(|| "watch for signals".into())?;
        let bits = node::random::bits().during(|| "draw a name".into())?;
        let folder = room.join(format!("remuda-bench-{:016x}", bits as u64));
        std::fs::create_dir(&folder).during(|| format!("make {}", folder.display()))?;
        let running = Arc::new(Mutex::new(None));
        let interrupted = Arc::clone(&running);
        stop.on_request(move || {
            // The folder goes before this process does; 130 is what a shell reports of a Ctrl-C.
            drop(take(&interrupted));
            std::process::exit(130);
        });
        let supervisor = spawn(flags, &folder);
        let mut supervisor = match supervisor {
            Ok(supervisor) => supervisor,
            Err(failure) => {
                let _ = std::fs::remove_dir_all(&folder);
                return Err(failure);
            }
        };
        let stdout = supervisor.stdout.take();
        *running.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Running { supervisor, folder: folder.clone() });
        let mut addresses = String::new();
        if let Some(stdout) = stdout {
            let mut stdout = BufReader::new(stdout);
            stdout.read_line(&mut addresses).during(|| "hear from the cluster".into())?;
        }
        if addresses.trim().is_empty() {
            drop(take(&running));
            return Err(Failure::failed("the cluster for the figures does not come up"));
        }
        let addresses = addresses.trim().split(',').map(str::to_owned).collect();
        let client = Client::connect(addresses).during(|| "start a client".into())?;
        Ok(BenchCluster { client, running, folder })
    }

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

    /// Ends it and removes its folder.
    pub(super) fn end(self) -> io::Result<()> {
        match take(&self.running) {
            Some(running) => running.end(),
            None => Ok(()),
        }
    }
}

impl Drop for BenchCluster {
    fn drop(&mut self) {
        drop(take(&self.running));
    }
}

fn take(running: &Mutex<Option<Running>>) -> Option<Running> {
    running.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl Running {
    fn end(mut self) -> io::Result<()> {
        self.stop()
    }

    fn stop(&mut self) -> io::Result<()> {
        // It has not been waited for, so the number is still its own.
        if self.supervisor.try_wait()?.is_none() {
            kill_process(Pid::from_child(&self.supervisor), Signal::TERM)?;
            self.supervisor.wait()?;
        }
        match std::fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // What fails here was tried before, or follows an error that is told already.
        let _ = self.stop();
    }
}

fn spawn(flags: &Bench, folder: &Path) -> Result<Child, Failure> {
    let executable = std::env::current_exe().during(|| "find this program".into())?;
    let mut command = Command::new(executable);
    command.args(["dev", "--dir"]).arg(folder);
    command.args(["--masters", &flags.masters.to_string()]);
    command.args(["--workers", &flags.workers.to_string()]);
    if let Some(slots) = flags.slots {
        command.args(["--slots", &slots.to_string()]);
    }
    command
        .args(["--parent", &std::process::id().to_string()])
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
