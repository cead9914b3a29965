//! How long a cluster needs after a process was killed: from the kill until work goes on that the
//! dead process stood in the way of. The dead one stays dead until then, and is started again
//! before the next one is killed.
//!
//! The load is tasks of 10 ms that write down each of their executions, so that those which ran
//! again are counted by what happened and not by what anybody says of it.

mod load;

use std::collections::BTreeMap;

use client::Client;
use node::clock::Clock;
use proto::ids::{BlockId, FileId, NodeId};
use proto::status::Role;
use proto::time::{Duration, Instant};
use rustix::process::{Pid, Signal, kill_process};

use super::cluster::BenchCluster;
use super::{Line, Printer, ms, quantile};
use crate::commands::connect::Asked;
use crate::dev;
use crate::failure::{During, Failure};
use crate::flags::Bench;
use load::{Load, Moment};

/// No recovery takes as long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at what is recorded.
const LOOK: Duration = Duration::from_millis(2);

/// How long a cluster is left alone with a process that is back: time for a balancer to learn what
/// its partner knows, and for a worker to have tasks again.
const REST: Duration = Duration::from_millis(1_500);

/// How long what goes on without a leader or primary is looked at: longer than workers live on
/// what they were dealt, and than any target.
const LOOKED_AT: Duration = Duration::from_secs(3);

/// An answer that took longer came from another master than the one that was asked first. What is
/// new in it may have been recorded before.
const ANSWER: Duration = Duration::from_millis(100);

/// Outcomes after a silence before it counts as over.
const STEADY: usize = 10;

/// A result that its worker sent before it died is recorded by then.
const ON_THE_WAY: Duration = Duration::from_millis(100);

/// How often a worker is killed until it is amid a task.
const DRAWS: u32 = 10;

/// Files of one block, so that each node is the first owner of some.
const FILES: u64 = 120;

const FILE_BYTES: usize = 4_096;

/// Takes the figures.
pub(super) fn run(cluster: &BenchCluster, flags: &Bench, printer: Printer) -> Result<(), Failure> {
    let mut bench = Recover {
        cluster,
        clock: Clock::start(),
        load: Load::begin(cluster)?,
        moments: Vec::new(),
    };
    let kills = flags.kills;
    let workers = bench.each(kills, Recover::worker)?;
    printer.line(&line("worker_ms", workers))?;
    let balancers = bench.each(kills, Recover::balancer)?;
    printer.line(&line("balancer_ms", balancers))?;
    let leaders = bench.each(kills, Recover::leader)?;
    printer.line(&line("leader_ms", leaders))?;
    let files = Files::put(cluster.client())?;
    let reads = bench.each(kills, |bench, round| bench.storage(round, &files))?;
    printer.line(&line("storage_read_ms", reads))?;
    let mut again = bench.load.end(cluster, &bench.moments)?;
    again.sort_unstable();
    // Counted as times are, to have one notion of a quantile.
    let again: Vec<Duration> = again.into_iter().map(Duration).collect();
    let share = |share| quantile(&again, share).unwrap_or_default().as_micros() as f64;
    let line = Line::new("recover", "rerun_tasks", share(0.5), "tasks");
    printer.line(&line.up_to(share(0.95), share(1.0)))
}

fn line(metric: &'static str, mut times: Vec<Duration>) -> Line {
    times.sort_unstable();
    let share = |share| ms(quantile(&times, share).unwrap_or_default());
    Line::new("recover", metric, share(0.5), "ms").up_to(share(0.95), share(1.0))
}

struct Recover<'a> {
    cluster: &'a BenchCluster,
    clock: Clock,
    load: Load,
    /// How far the load was at each kill.
    moments: Vec<Moment>,
}

impl Recover<'_> {
    /// Kills so often, and mends what was killed each time; the times.
    fn each(
        &mut self,
        kills: u32,
        mut kill: impl FnMut(&mut Self, u32) -> Result<(String, Duration), Failure>,
    ) -> Result<Vec<Duration>, Failure> {
        let mut times = Vec::new();
        for round in 0..kills {
            let (dead, time) = kill(self, round)?;
            times.push(time);
            self.mend(&dead)?;
        }
        Ok(times)
    }

    /// Starts a dead process again, and waits until all are there and had time to find each other.
    fn mend(&self, dead: &str) -> Result<(), Failure> {
        let begin = self.clock.now();
        // Its parent may not have noticed yet.
        while dev::is_running(self.cluster.folder(), dead) {
            self.check_patience(begin, self.clock.now(), dead)?;
            std::thread::park_timeout(LOOK.to_std());
        }
        dev::start_again(self.cluster.folder(), dead)?;
        loop {
            let lacks = dev::lacks(self.cluster.folder(), self.cluster.client())?;
            if lacks.is_empty() {
                break;
            }
            if self.clock.now().since(begin) > PATIENCE {
                let text = format!("the cluster lacks {} for {PATIENCE}", lacks.join(", "));
                return Err(Failure::failed(text));
            }
            std::thread::park_timeout(LOOK.to_std());
        }
        self.pause(REST);
        Ok(())
    }

    fn pause(&self, span: Duration) {
        let end = self.clock.now() + span;
        while self.clock.now() < end {
            std::thread::park_timeout(end.since(self.clock.now()).to_std());
        }
    }

    /// Kills a process, having noted how far the load is.
    fn kill(&mut self, pid: u32) -> Result<Instant, Failure> {
        let moment = self.load.moment(self.cluster.client())?;
        self.moments.push(moment);
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let process = raw.ok_or_else(|| Failure::failed(format!("{pid} is no process")))?;
        kill_process(process, Signal::KILL).during(|| format!("kill process {pid}"))?;
        Ok(self.clock.now())
    }

    /// One worker after the other: until a task is recorded that it had begun and not ended.
    fn worker(&mut self, round: u32) -> Result<(String, Duration), Failure> {
        for _ in 0..DRAWS {
            let processes = dev::running(self.cluster.folder(), Role::Worker)?;
            let (name, pid) = chosen(&processes, round)?;
            // Its task sleeps just now.
            self.load.until_begun(&name)?;
            let killed = self.kill(pid)?;
            if let Some(time) = self.held(&name, killed)? {
                return Ok((name, time));
            }
            self.mend(&name)?;
        }
        Err(Failure::failed("no worker was killed amid a task"))
    }

    /// From a kill until a task is recorded that was held then; `None` where there was none.
    fn held(&self, name: &str, killed: Instant) -> Result<Option<Duration>, Failure> {
        let client = self.cluster.client();
        let mut open = self.load.begun_and_open(client, name)?;
        while !open.is_empty() {
            let before = open.len();
            self.load.close(client, &mut open)?;
            let now = self.clock.now();
            // Before that, it had ended, and its result was on its way.
            if open.len() < before && now.since(killed) > ON_THE_WAY {
                return Ok(Some(now.since(killed)));
            }
            self.check_patience(killed, now, name)?;
            std::thread::park_timeout(LOOK.to_std());
        }
        Ok(None)
    }

    /// The primary of the only group: until a task is recorded that it did not deal.
    fn balancer(&mut self, _: u32) -> Result<(String, Duration), Failure> {
        let (name, pid) = dev::leading(self.cluster.folder(), Role::Balancer)?;
        let killed = self.kill(pid)?;
        let time = self.silence(&name, killed)?;
        Ok((name, time))
    }

    /// The leading master: until any task is recorded.
    fn leader(&mut self, _: u32) -> Result<(String, Duration), Failure> {
        let (name, pid) = dev::leading(self.cluster.folder(), Role::Master)?;
        let killed = self.kill(pid)?;
        let time = self.silence(&name, killed)?;
        Ok((name, time))
    }

    /// From a kill to the end of the longest time after it in which no outcome was recorded.
    fn silence(&self, name: &str, killed: Instant) -> Result<Duration, Failure> {
        let client = self.cluster.client();
        let mut silence = Silence::since(killed);
        let mut known = None;
        loop {
            let asked = self.clock.now();
            let count = self.load.ended(client)?;
            let now = self.clock.now();
            if now.since(asked) <= ANSWER && known.is_some_and(|known| count > known) {
                silence.ended(now);
            }
            known = Some(count);
            let is_over = now.since(killed) > LOOKED_AT && silence.after >= STEADY;
            if is_over {
                return Ok(silence.longest_until(killed));
            }
            self.check_patience(killed, now, name)?;
            std::thread::park_timeout(LOOK.to_std());
        }
    }

    fn check_patience(&self, killed: Instant, now: Instant, name: &str) -> Result<(), Failure> {
        if now.since(killed) <= PATIENCE {
            return Ok(());
        }
        Err(Failure::failed(format!("nothing goes on {PATIENCE} after {name} was killed")))
    }

    /// One storage node after the other: until a file is read of which it was asked first.
    fn storage(&mut self, round: u32, files: &Files) -> Result<(String, Duration), Failure> {
        let processes = dev::running(self.cluster.folder(), Role::Storage)?;
        let (name, pid) = chosen(&processes, round)?;
        let node = dev::node(self.cluster.folder(), &name)?;
        let mut mine = files.by_owner.get(&node).into_iter().flatten().cycle().skip(round as usize);
        let none = || Failure::failed(format!("{name} is the first owner of no file"));
        let (first, second) = (mine.next().ok_or_else(none)?, mine.next().ok_or_else(none)?);
        let client = self.cluster.client();
        client.get_bytes(*first).asked()?;
        let killed = self.kill(pid)?;
        client.get_bytes(*second).asked()?;
        let time = self.clock.now().since(killed);
        Ok((name, time))
    }
}

fn chosen(processes: &[(String, u32)], round: u32) -> Result<(String, u32), Failure> {
    let found = processes.iter().cycle().nth(round as usize % processes.len().max(1));
    found.cloned().ok_or_else(|| Failure::failed("there is no process to kill"))
}

/// The longest time in which nothing happened.
struct Silence {
    last: Instant,
    longest: Duration,
    /// When the longest one was over.
    end: Instant,
    /// What happened after it.
    after: usize,
}

impl Silence {
    fn since(begin: Instant) -> Silence {
        Silence { last: begin, longest: Duration::ZERO, end: begin, after: 0 }
    }

    fn ended(&mut self, now: Instant) {
        self.after += 1;
        if now.since(self.last) > self.longest {
            self.longest = now.since(self.last);
            self.end = now;
            self.after = 0;
        }
        self.last = now;
    }

    /// From a moment to the end of the longest silence.
    fn longest_until(&self, begin: Instant) -> Duration {
        self.end.since(begin)
    }
}

/// Small files by the node that is asked for them first.
struct Files {
    by_owner: BTreeMap<NodeId, Vec<FileId>>,
}

impl Files {
    fn put(client: &Client) -> Result<Files, Failure> {
        let mut by_owner: BTreeMap<NodeId, Vec<FileId>> = BTreeMap::new();
        let ring = client.ring().asked()?;
        for number in 0..FILES {
            let mut content = vec![0; FILE_BYTES];
            content.splice(..8, number.to_le_bytes());
            let file = client.put_bytes(content).asked()?;
            // A file of one block has its name.
            if let Some(owner) = ring.ring.owners(BlockId(file.0), ring.replica_count).first() {
                by_owner.entry(*owner).or_default().push(file);
            }
        }
        Ok(Files { by_owner })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_ends_with_what_comes_after_the_longest_pause() {
        let mut silence = Silence::since(Instant(1_000));
        for now in [1_010, 1_020, 5_000, 5_010, 5_500] {
            silence.ended(Instant(now));
        }
        assert_eq!(silence.longest_until(Instant(1_000)), Duration(4_000));
        assert_eq!(silence.after, 2);
    }

    #[test]
    fn victims_take_turns() {
        let processes = [("worker-1".to_owned(), 7), ("worker-2".to_owned(), 8)];
        let pids = [0, 1, 2].map(|round| chosen(&processes, round).unwrap().1);
        assert_eq!(pids, [7, 8, 7]);
        assert!(chosen(&[], 0).is_err());
    }
}
