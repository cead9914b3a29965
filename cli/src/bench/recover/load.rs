//! The work of a cluster whose processes are killed: tasks of 10 ms, each of whose executions adds
//! a line to a file.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use client::Client;
use client::logic::jobs::{JobSelector, Submission};
use node::clock::Clock;
use proto::description::{JobDescription, Program, Runtime};
use proto::ids::JobId;
use proto::status::TaskState;

use crate::bench::cluster::BenchCluster;
use crate::bench::noop::new_job;
use crate::commands::connect::Asked;
use crate::failure::{During, Failure};

/// More than are executed in the hours that any number of kills takes.
const TASKS: u64 = 10_000_000;

/// One task: it says which it is and, by its working folder, on which worker. A line this short is
/// written as a whole.
const SCRIPT: &str = "echo $REMUDA_TASK $PWD >> \"$LOAD\"; exec sleep 0.01";

/// Bytes at the end of the file in which the newest tasks of a worker are looked for.
const TAIL: u64 = 32 << 10;

/// Runs of outcomes that are fetched at a time.
const PAGE: u32 = 4_096;

/// A job that runs.
pub(super) struct Load {
    job: JobId,
    log: PathBuf,
    /// All below have an outcome, for good.
    settled: u64,
}

/// How far the load was at a time.
pub(super) struct Moment {
    /// Bytes of its file.
    log_bytes: u64,
    /// All tasks below it have an outcome, but for those that are open.
    end: u64,
    open: BTreeSet<u64>,
}

impl Moment {
    fn is_recorded(&self, task: u64) -> bool {
        task < self.end && !self.open.contains(&task)
    }
}

impl Load {
    /// Submits it and waits until it works.
    pub(super) fn begin(cluster: &BenchCluster) -> Result<Load, Failure> {
        let log = cluster.folder().join("load");
        std::fs::write(&log, "").during(|| format!("write {}", log.display()))?;
        let runtime = Runtime::Command {
            program: Program::Path("/bin/sh".into()),
            arguments: ["-c", SCRIPT].map(|it| it.as_bytes().to_vec()).to_vec(),
        };
        let mut description = JobDescription::new(runtime);
        description.environment = vec![("LOAD".into(), log.display().to_string())];
        let job = new_job()?;
        let submission =
            Submission::new(job, &description, TASKS, Vec::new()).during(|| "submit".into())?;
        cluster.client().submit(submission).asked()?;
        let load = Load { job, log, settled: 0 };
        while load.ended(cluster.client())? == 0 {
            std::thread::park_timeout(super::LOOK.to_std());
        }
        Ok(load)
    }

    /// Tasks that have an outcome.
    pub(super) fn ended(&self, client: &Client) -> Result<u64, Failure> {
        let it = client.status(JobSelector::Id(self.job)).asked()?;
        if it.failed_count > 0 {
            return Err(Failure::failed("a task of the load failed"));
        }
        Ok(it.done_count)
    }

    /// How far it is.
    pub(super) fn moment(&mut self, client: &Client) -> Result<Moment, Failure> {
        let log_bytes = self.log.metadata().during(|| "look at the load".into())?.len();
        let (open, end) = self.look(client, self.settled)?;
        self.settled = open.first().copied().unwrap_or(end);
        Ok(Moment { log_bytes, end, open })
    }

    /// Waits until a worker begins one more task.
    pub(super) fn until_begun(&self, worker: &str) -> Result<(), Failure> {
        let clock = Clock::start();
        let newest = || Ok::<_, Failure>(self.begun(worker)?.last().copied());
        let before = newest()?;
        while newest()? == before {
            if clock.now().0 > super::PATIENCE.0 {
                return Err(Failure::failed(format!("{worker} begins no more tasks")));
            }
            std::thread::park_timeout(super::LOOK.to_std());
        }
        Ok(())
    }

    /// The newest tasks that a worker began.
    fn begun(&self, worker: &str) -> Result<Vec<u64>, Failure> {
        let failed = || format!("read {}", self.log.display());
        let file = std::fs::File::open(&self.log).during(failed)?;
        let length = file.metadata().during(failed)?.len();
        let mut tail = vec![0; length.min(TAIL) as usize];
        file.read_exact_at(&mut tail, length.saturating_sub(TAIL)).during(failed)?;
        let text = String::from_utf8_lossy(&tail);
        // The first line may have lost its beginning.
        let lines = text.lines().skip(usize::from(length > TAIL));
        let folder = format!("/{worker}/");
        let of_it = lines.filter(|line| line.contains(&folder));
        Ok(of_it.filter_map(task_of).collect())
    }

    /// Tasks that a worker began lately and that have no outcome.
    pub(super) fn begun_and_open(
        &self,
        client: &Client,
        worker: &str,
    ) -> Result<BTreeSet<u64>, Failure> {
        let mut begun = self.begun(worker)?.into_iter().collect();
        self.close(client, &mut begun)?;
        Ok(begun)
    }

    /// Takes away those that have an outcome by now.
    pub(super) fn close(&self, client: &Client, open: &mut BTreeSet<u64>) -> Result<(), Failure> {
        let Some(first) = open.first().copied() else {
            return Ok(());
        };
        let (still, end) = self.look(client, first)?;
        open.retain(|task| still.contains(task) || *task >= end);
        Ok(())
    }

    /// The open tasks from one on, and the end of the last run that has an outcome.
    fn look(&self, client: &Client, from: u64) -> Result<(BTreeSet<u64>, u64), Failure> {
        let (mut open, mut waiting) = (BTreeSet::new(), Vec::new());
        let (mut end, mut next) = (from, Some(from));
        while let Some(first) = next {
            let page = client.outcomes(self.job, first, PAGE).asked()?;
            for run in page.items {
                if run.state == TaskState::Done {
                    end = run.tasks.end;
                    open.extend(waiting.drain(..).flatten());
                } else if run.tasks.end < TASKS {
                    waiting.push(run.tasks);
                }
            }
            next = page.next;
        }
        Ok((open, end))
    }

    /// Ends the load. How many tasks ran again after each of these moments; one of them that had
    /// its outcome before is an error.
    pub(super) fn end(
        self,
        cluster: &BenchCluster,
        moments: &[Moment],
    ) -> Result<Vec<u64>, Failure> {
        cluster.client().cancel(self.job).asked()?;
        let text = std::fs::read(&self.log).during(|| format!("read {}", self.log.display()))?;
        reruns(&text, moments)
    }
}

/// Which task a line is of.
fn task_of(line: &str) -> Option<u64> {
    line.split_whitespace().next()?.parse().ok()
}

/// Tasks that were executed before and again after each moment, up to the next one.
fn reruns(log: &[u8], moments: &[Moment]) -> Result<Vec<u64>, Failure> {
    let mut seen = BTreeSet::new();
    let mut counts = vec![0; moments.len()];
    let mut at = 0;
    for line in log.split_inclusive(|byte| *byte == b'\n') {
        let begin = at;
        at += line.len() as u64;
        let task = std::str::from_utf8(line).ok().and_then(task_of);
        let task = task.ok_or_else(|| Failure::failed("a line of the load cannot be read"))?;
        if seen.insert(task) {
            continue;
        }
        let behind = moments.partition_point(|moment| moment.log_bytes <= begin);
        let Some(behind) = behind.checked_sub(1) else {
            return Err(Failure::failed(format!("task {task} ran twice before any kill")));
        };
        let (Some(moment), Some(count)) = (moments.get(behind), counts.get_mut(behind)) else {
            continue;
        };
        if moment.is_recorded(task) {
            return Err(Failure::failed(format!("task {task} ran again after it was recorded")));
        }
        *count += 1;
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(log_bytes: u64, end: u64, open: &[u64]) -> Moment {
        Moment { log_bytes, end, open: open.iter().copied().collect() }
    }

    #[test]
    fn what_ran_again_is_counted_for_the_kill_before_it() {
        let log = b"0\n1\n2\n3\n2\n4\n4\n3\n";
        let moments = [moment(6, 2, &[]), moment(10, 5, &[3, 4]), moment(14, 5, &[3])];
        assert_eq!(reruns(log, &moments).unwrap(), [1, 1, 1]);
        assert_eq!(reruns(b"0\n1\n", &moments[..1]).unwrap(), [0]);
    }

    #[test]
    fn a_recorded_task_must_not_run_again() {
        let refused = reruns(b"0\n1\n0\n", &[moment(4, 2, &[1])]).unwrap_err();
        assert!(format!("{refused:?}").contains("task 0 ran again"), "{refused:?}");
        assert!(reruns(b"0\n0\n", &[moment(4, 2, &[])]).is_err());
    }
}
