//! One simulated cluster in one thread: the agenda, the machines and what joins them.
//!
//! The world hands each process its events and does what it asks for, as the real edges would: it
//! moves frames, runs disk jobs after a while, wakes it at its deadline. It decides nothing about
//! the order of persisting, sending and applying; that is the shipped logic's. A run has two
//! phases: in the first everything goes wrong and nothing false may be promised; then all is
//! mended but a minority, and everything that was asked for must finish.

use std::collections::VecDeque;

use fastrand::Rng;
use proto::time::{Duration, Instant};

use crate::agenda::Agenda;
use crate::bank::Effect;
use crate::checkers::history::{History, Seen};
use crate::checkers::leaders::{Change, Leaders};
use crate::checkers::transfers::Transfers;
use crate::checkers::{Violation, check};
use crate::disk::SimFiles;
use crate::faults::{Death, Fault, Swarm};
use crate::network::{Arrival, Network, SILENCE, Source, Step};
use crate::process::{Event, Note, Process, ProcessId, Recipe, Request, Start};
use crate::random::{Stream, chance, span, stream};
use crate::report::{Happening, Report};
use crate::runs::Outcome;
use crate::trace::{Print, Trace, digest};

/// How long things go wrong.
const SAFETY: Duration = Duration::from_secs(60);

/// How long a mended cluster may take until everything is done.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often it is looked whether everything is done.
const LOOK: Duration = Duration::from_millis(100);

/// Wakes of one process at one instant that are taken for a loop without progress.
const WAKES_AT_ONCE: u32 = 10_000;

/// Something that happens at an instant.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// A process's deadline may have come.
    Wake { process: ProcessId, life: u64 },
    /// The network has something to do.
    Network(Step),
    /// A process's disk thread does its next job.
    Work { process: ProcessId, life: u64 },
    /// A process's disk thread is done with a job.
    Worked { process: ProcessId, life: u64, done: crate::process::Done },
    /// The next fault is drawn.
    Trouble,
    /// A given fault begins.
    Fault(Fault),
    /// A fault ends.
    Mend(Mend),
    /// The faults end for good.
    Heal,
    /// It is looked whether everything is done.
    Look,
}

/// The end of a fault.
#[derive(Clone, Debug)]
pub(crate) enum Mend {
    /// A machine that is down starts its process.
    Start(ProcessId),
    /// A process goes on, if it still is in that pause.
    Continue { process: ProcessId, pause: u64 },
    /// Connections of a process that stood still for too long end, if it still does.
    CutOff { process: ProcessId, pause: u64 },
    /// Bytes flow again.
    Unblock(Vec<(ProcessId, ProcessId)>),
    /// A direction has its ordinary latency again.
    Link(ProcessId, ProcessId),
    /// A disk has its ordinary speed again.
    DiskSpeed(ProcessId),
    /// A disk has room again.
    DiskRoom(ProcessId),
}

/// A process's monotonic clock: its own origin and its own speed.
#[derive(Clone, Copy, Debug)]
struct LocalClock {
    origin: u64,
    drift: i64,
}

impl LocalClock {
    fn local(self, now: Instant) -> Instant {
        let skew = now.0 as i128 * i128::from(self.drift) / 1_000_000;
        Instant((i128::from(self.origin) + i128::from(now.0) + skew) as u64)
    }

    /// The first virtual instant at which the process reads `local` or more.
    fn virtual_at(self, local: Instant) -> Instant {
        let span = i128::from(local.0.saturating_sub(self.origin));
        let guess = span * 1_000_000 / (1_000_000 + i128::from(self.drift));
        let mut at = Instant(u64::try_from(guess).unwrap_or(0).saturating_sub(2));
        while self.local(at) < local {
            at = Instant(at.0 + 1);
        }
        at
    }
}

/// A process's disk thread: jobs one after the other.
#[derive(Debug, Default)]
struct DiskThread {
    jobs: VecDeque<crate::process::Job>,
    free_at: Instant,
}

/// One process and the machine on which it lives.
struct Machine {
    name: String,
    recipe: Recipe,
    files: SimFiles,
    clock: LocalClock,
    starts: u64,
    life: u64,
    process: Option<Process>,
    pause: Option<u64>,
    held: VecDeque<Delivery>,
    alarm: Option<Instant>,
    wakes: u32,
    disk: DiskThread,
    slow_disk: Duration,
    is_full: bool,
}

/// A simulated cluster.
pub(crate) struct World {
    seed: u64,
    agenda: Agenda<Delivery>,
    network: Network,
    machines: Vec<Machine>,
    members: Vec<ProcessId>,
    clients: Vec<ProcessId>,
    swarm: Swarm,
    disk_rng: Rng,
    faults_rng: Rng,
    process_rng: Rng,
    healed: bool,
    done: bool,
    pauses: u64,
    history: History,
    leaders: Leaders,
    transfers: Transfers,
    report: Report,
    trace: Trace,
    requests: Vec<Request>,
}

impl World {
    /// The cluster and the faults of a seed.
    pub(crate) fn of_seed(seed: u64, print: Print) -> World {
        let mut faults_rng = stream(seed, Stream::Faults);
        let swarm = Swarm::draw(&mut faults_rng);
        let mut world = World::with(seed, swarm, print);
        world.agenda.after(Duration::from_secs(1), Delivery::Trouble);
        world
    }

    /// A cluster of a seed under given conditions; faults are entered with [`World::at`].
    pub(crate) fn with(seed: u64, swarm: Swarm, print: Print) -> World {
        let mut workload_rng = stream(seed, Stream::Workload);
        let mut world = World {
            seed,
            agenda: Agenda::new(),
            network: Network::new(stream(seed, Stream::Network), swarm.weather),
            machines: Vec::new(),
            members: Vec::new(),
            clients: Vec::new(),
            swarm,
            disk_rng: stream(seed, Stream::Disk),
            faults_rng: stream(seed ^ u64::MAX, Stream::Faults),
            process_rng: stream(seed, Stream::Process),
            healed: false,
            done: false,
            pauses: 0,
            history: History::default(),
            leaders: Leaders::default(),
            transfers: Transfers::default(),
            report: Report::default(),
            trace: Trace::new(print),
            requests: Vec::new(),
        };
        for recipe in crate::workload::cluster(&mut workload_rng) {
            world.place(recipe);
        }
        for process in 0..world.machines.len() {
            world.agenda.at(Instant(0), Delivery::Mend(Mend::Start(ProcessId(process))));
        }
        world.agenda.after(SAFETY, Delivery::Heal);
        world
    }

    fn place(&mut self, recipe: Recipe) {
        let id = ProcessId(self.machines.len());
        match recipe {
            Recipe::Member { .. } => self.members.push(id),
            Recipe::Client { .. } => self.clients.push(id),
        }
        self.machines.push(Machine {
            name: recipe.name(),
            recipe,
            files: SimFiles::default(),
            clock: LocalClock { origin: 0, drift: 0 },
            starts: 0,
            life: 0,
            process: None,
            pause: None,
            held: VecDeque::new(),
            alarm: None,
            wakes: 0,
            disk: DiskThread::default(),
            slow_disk: Duration::ZERO,
            is_full: false,
        });
    }

    /// Enters a fault.
    pub(crate) fn at(&mut self, at: Instant, fault: Fault) {
        self.agenda.at(at, Delivery::Fault(fault));
    }

    /// The members' processes, in the order of their names.
    pub(crate) fn members(&self) -> &[ProcessId] {
        &self.members
    }

    /// The files of a process's machine.
    pub(crate) fn files(&self, process: ProcessId) -> &SimFiles {
        &self.machines[process.0].files
    }

    /// Runs to the end: until everything is done, or a promise is broken.
    pub(crate) fn run(mut self) -> Outcome {
        let mut failure = None;
        while !self.done
            && let Some(delivery) = self.agenda.next()
        {
            if let Err(violation) = self.deliver(delivery) {
                failure = Some(format!("at {} s: {violation}", self.agenda.now()));
                break;
            }
        }
        let Outcome { trace, events, .. } = Outcome {
            trace: self.trace.hash(),
            events: self.trace.events(),
            report: Report::default(),
            failure: None,
        };
        Outcome { trace, events, report: self.report, failure }
    }

    fn note(&mut self, process: Option<ProcessId>, what: &'static str, text: impl FnOnce() -> String) {
        let now = self.agenda.now();
        let who = process.map_or("", |process| self.machines[process.0].name.as_str());
        self.trace.event(now, who, what, &[], text);
    }

    fn deliver(&mut self, delivery: Delivery) -> Result<(), Violation> {
        match delivery {
            Delivery::Network(step) => {
                match self.network.step(&mut self.agenda, &mut self.report, step) {
                    Some(arrival) => self.arrive(arrival),
                    None => Ok(()),
                }
            }
            Delivery::Wake { process, life } => self.wake(process, life),
            Delivery::Work { process, life } => self.work(process, life),
            Delivery::Worked { process, life, done } => {
                if !self.is_at(process, life) {
                    return Ok(());
                }
                if self.is_paused(process) {
                    self.hold(process, Delivery::Worked { process, life, done });
                    return Ok(());
                }
                self.trace_event(process, "disk", &[]);
                self.handle(process, Event::Worked(done))
            }
            Delivery::Trouble => self.trouble(),
            Delivery::Fault(fault) => self.begin(fault),
            Delivery::Mend(mend) => self.mend(mend),
            Delivery::Heal => self.heal(),
            Delivery::Look => self.look(),
        }
    }

    fn trace_event(&mut self, process: ProcessId, what: &'static str, numbers: &[u64]) {
        let machine = &self.machines[process.0];
        let process = machine.process.as_ref();
        self.trace.event(self.agenda.now(), &machine.name, what, numbers, || {
            let state = process.map(Process::describe).unwrap_or_default();
            let numbers: Vec<String> = numbers.iter().map(|n| format!("{n:x}")).collect();
            format!("{state:<24} {}", numbers.join(" "))
        });
    }

    fn is_at(&self, process: ProcessId, life: u64) -> bool {
        let machine = &self.machines[process.0];
        machine.life == life && machine.process.is_some()
    }

    fn is_paused(&self, process: ProcessId) -> bool {
        self.machines[process.0].pause.is_some()
    }

    fn hold(&mut self, process: ProcessId, delivery: Delivery) {
        self.machines[process.0].held.push_back(delivery);
    }

    fn arrive(&mut self, arrival: Arrival) -> Result<(), Violation> {
        let Arrival { to, source, frame } = arrival;
        let machine = &mut self.machines[to.0];
        if machine.process.is_none() {
            self.report.add(Happening::FramesLost, 1);
            return Ok(());
        }
        if machine.pause.is_some() {
            machine.disk.arrived.push_back((source, frame));
            return Ok(());
        }
        self.take_in(to, source, &frame)
    }

    fn take_in(&mut self, to: ProcessId, source: Source, frame: &[u8]) -> Result<(), Violation> {
        let from = match &source {
            Source::Link { link, .. } => u64::from(*link),
            Source::Inbound { routing_id } => digest(routing_id),
        };
        self.trace_event(to, "frame", &[from, frame.len() as u64, digest(frame)]);
        self.handle(to, Event::Arrived { source, frame })
    }
}
