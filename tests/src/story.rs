//! A story: what a named scenario does when it sees something happen, and what it notes of it.
//!
//! The world shows every record that arrives and every task that begins. The story may lose the
//! record, begin faults, and note facts, so that its test can tell whether what it is about really
//! happened. It changes nothing else, and in runs of seeds there is none.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use ::master::logic::cluster::Cluster;
use proto::ids::JobId;
use proto::record::Record;
use proto::time::{Duration, Instant};

use crate::faults::{Death, Fault};
use crate::machine::Machine;
use crate::process::{Process, ProcessId};

/// What happens.
#[derive(Clone, Debug)]
pub(crate) enum What<'a> {
    /// A record arrives, from the machine of this name.
    Arrives(&'a str, &'a Record<'a>),
    /// A worker begins tasks of a job under this attempt.
    Begins(JobId, &'a Range<u64>, u64),
}

/// Something that happens, and the world around it.
pub(crate) struct Scene<'a> {
    /// When.
    pub(crate) now: Instant,
    /// At which machine.
    pub(crate) at: &'a str,
    /// What.
    pub(crate) what: What<'a>,
    pub(super) machines: &'a [Machine],
}

impl Scene<'_> {
    /// The process of a name.
    ///
    /// # Panics
    /// Where the story names one that it does not have.
    pub(crate) fn named(&self, name: &str) -> ProcessId {
        let place = self.machines.iter().position(|machine| machine.name == name);
        ProcessId(place.unwrap_or_else(|| panic!("the story has no {name}")))
    }

    /// The names that begin so.
    pub(crate) fn names(&self, kind: &str) -> Vec<String> {
        let names = self.machines.iter().map(|machine| machine.name.clone());
        names.filter(|name| name.starts_with(kind)).collect()
    }

    /// What a master has applied; `None` for one that is down and for others.
    pub(crate) fn cluster(&self, name: &str) -> Option<&Cluster> {
        self.machines[self.named(name).0].process.as_ref().and_then(Process::cluster)
    }

    /// True where this machine is the master that leads, as it believes itself.
    pub(crate) fn leads(&self, name: &str) -> bool {
        let process = self.machines[self.named(name).0].process.as_ref();
        process.is_some_and(Process::leads)
    }
}

/// What a story does about it.
#[derive(Default)]
pub(crate) struct Turn {
    /// The record that arrives gets lost.
    pub(crate) is_lost: bool,
    pub(super) faults: Vec<(Duration, Fault)>,
    pub(super) facts: Vec<&'static str>,
}

impl Turn {
    /// Notes that something of the story happened.
    pub(crate) fn fact(&mut self, fact: &'static str) {
        self.facts.push(fact);
    }

    /// The record gets lost, which is noted.
    pub(crate) fn lose(&mut self, fact: &'static str) {
        self.is_lost = true;
        self.fact(fact);
    }

    /// A fault begins at once.
    pub(crate) fn begin(&mut self, fault: Fault) {
        self.faults.push((Duration::ZERO, fault));
    }

    /// A fault begins after a while.
    pub(crate) fn begin_after(&mut self, after: Duration, fault: Fault) {
        self.faults.push((after, fault));
    }

    /// A process is killed and started again after a while.
    pub(crate) fn kill(&mut self, scene: &Scene<'_>, name: &str, down: Duration) {
        let (process, death) = (scene.named(name), Death::Killed);
        self.begin(Fault::Crash { process, death, down });
    }

    /// No bytes flow between these and those, in either direction.
    pub(crate) fn part(
        &mut self,
        scene: &Scene<'_>,
        these: &[String],
        those: &[String],
        lasts: Duration,
    ) {
        let pairs = these.iter().flat_map(|a| those.iter().map(move |b| (a, b)));
        let ways = pairs.filter(|(a, b)| a != b).flat_map(|(a, b)| {
            let (a, b) = (scene.named(a), scene.named(b));
            [(a, b), (b, a)]
        });
        self.begin(Fault::Block { ways: ways.collect(), lasts });
    }
}

/// What a story does when it sees something.
pub(crate) type Plot = Box<dyn FnMut(&Scene<'_>, &mut Turn)>;

/// What was noted of a story.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    facts: BTreeMap<&'static str, u64>,
    /// Attempts under which each task began, in the order of time.
    begun: BTreeMap<(JobId, u64), Vec<u64>>,
}

impl Notes {
    pub(crate) fn fact(&mut self, fact: &'static str) {
        *self.facts.entry(fact).or_default() += 1;
    }

    pub(crate) fn begins(&mut self, job: JobId, tasks: &Range<u64>, attempt: u64) {
        for task in tasks.clone() {
            self.begun.entry((job, task)).or_default().push(attempt);
        }
    }

    /// How often something happened.
    #[must_use]
    pub fn count(&self, fact: &str) -> u64 {
        self.facts.get(fact).copied().unwrap_or(0)
    }

    /// How often each task of a job began, in the order of the tasks.
    #[must_use]
    pub fn attempts(&self, job: JobId) -> Vec<usize> {
        let of_job = self.begun.iter().filter(|((begun, _), _)| *begun == job);
        of_job.map(|(_, attempts)| attempts.len()).collect()
    }
}

impl fmt::Display for Notes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (fact, count) in &self.facts {
            writeln!(f, "{count:>5} {fact}")?;
        }
        for ((job, task), attempts) in &self.begun {
            if attempts.len() > 1 {
                writeln!(f, "      task {task} of job {job} began as {attempts:x?}")?;
            }
        }
        Ok(())
    }
}
