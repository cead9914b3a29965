//! What other commands ask of the supervisor of a folder: names of processes to start, one a line,
//! in a FIFO.
//!
//! A FIFO because its path may be as long as any, and because it can be written to only while
//! somebody reads. It carries nothing back: what came of it stands in `record`.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use node::clock::Clock;
use proto::time::Duration;
use rustix::fs::{CWD, FileType, Mode, OFlags};

use super::lock;
use super::plan::Planned;
use super::record::{self, Process};
use crate::failure::{During, Failure};

const FILE: &str = "control";

/// How long the supervisor may take to start a process.
const PATIENCE: Duration = Duration::from_secs(15);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// The supervisor's end.
#[derive(Debug)]
pub(crate) struct Requests {
    lines: BufReader<File>,
}

impl Requests {
    /// Begins to accept requests; what a predecessor left unread is gone.
    pub(crate) fn open(folder: &Path) -> Result<Requests, Failure> {
        let path = folder.join(FILE);
        let failed = || format!("make {}", path.display());
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).during(failed)?,
            _ => {}
        }
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, mode, 0).during(failed)?;
        // Its own writer keeps it open between two others.
        let file = OpenOptions::new().read(true).write(true).open(&path).during(failed)?;
        Ok(Requests { lines: BufReader::new(file) })
    }

    /// The name of the next process that is to be started; waits for it.
    pub(crate) fn next(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }
}

/// `remuda dev start`: starts a process of a running cluster that is dead.
pub(crate) fn start_again(folder: &Path, name: &str) -> Result<(), Failure> {
    let plan = super::plan_of(folder)?;
    if !plan.processes.iter().any(|planned| planned.name() == name) {
        let names: Vec<String> = plan.processes.iter().map(Planned::name).collect();
        let text = format!("{} has no process {name}", folder.display());
        return Err(Failure::usage(text).hint(format!("it has {}", names.join(", "))));
    }
    if !lock::is_held(folder) {
        let folder = folder.display();
        let text = format!("the cluster in {folder} does not run");
        return Err(Failure::unreachable(text).hint(format!("start it: remuda dev --dir {folder}")));
    }
    let find = || record::read(folder).into_iter().find(|process| process.name == name);
    let before = find();
    if let Some(Process { pid: Some(pid), .. }) = before {
        eprintln!("{name} runs already, as process {pid}");
        return Ok(());
    }
    let starts = before.map_or(0, |process| process.starts);
    ask(folder, name).during(|| "ask the cluster's supervisor".into())?;
    let clock = Clock::start();
    loop {
        if find().is_some_and(|process| process.starts > starts) {
            return Ok(());
        }
        if clock.now().0 > PATIENCE.0 {
            let ended = find().and_then(|process| process.ended).unwrap_or_default();
            return Err(Failure::failed(format!(
                "{name} is not started within {PATIENCE}: {ended}"
            )));
        }
        std::thread::park_timeout(PAUSE.to_std());
    }
}

fn ask(folder: &Path, name: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    // Where nobody reads, opening it fails instead of waiting.
    options.write(true).custom_flags(OFlags::NONBLOCK.bits() as i32);
    // Shorter than what a pipe takes as a whole, so two requests never mix.
    options.open(folder.join(FILE))?.write_all(format!("{name}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_in_their_order_and_none_where_nobody_reads() {
        let folder = tempfile::tempdir().unwrap();
        assert!(ask(folder.path(), "worker-1").is_err());
        let mut requests = Requests::open(folder.path()).unwrap();
        ask(folder.path(), "worker-1").unwrap();
        ask(folder.path(), "master-2").unwrap();
        assert_eq!(requests.next().unwrap(), "worker-1");
        assert_eq!(requests.next().unwrap(), "master-2");
        drop(requests);
        assert!(ask(folder.path(), "worker-1").is_err());
        Requests::open(folder.path()).unwrap();
    }
}
