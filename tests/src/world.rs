//! One simulated cluster in one thread: the agenda, the machines and what joins them.
//!
//! The world hands each process its events and does what it asks for, as the real edges would: it
//! moves frames, runs disk jobs after a while, wakes it at its deadline. It decides nothing about
//! the order of persisting, sending and applying; that is the shipped logic's. A run has two
//! phases: in the first everything goes wrong and nothing false may be promised; then all is
//! mended but a minority, and everything that was asked for must finish. The faults themselves
//! are carried out in `trouble.rs`; what processes say and what a story sees is in `seen.rs`.

mod ring;
mod seen;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};

use ::master::logic::cluster::Cluster;
use fastrand::Rng;
use node::logic::sessions::Route;
use proto::ids::{Epoch, LogIndex, NodeId, RingVersion};
use proto::record::Records;
use proto::time::{Duration, Instant};

use crate::agenda::Agenda;
use crate::checkers::blocks::{Blocks, DiskId};
use crate::checkers::deals::Deals;
use crate::checkers::history::History;
use crate::checkers::jobs::Jobs;
use crate::checkers::leaders::Leaders;
use crate::checkers::transfers::Transfers;
use crate::checkers::{Violation, check};
use crate::disk::SimFiles;
use crate::faults::{Fault, Swarm};
use crate::machine::Machine;
use crate::network::{Arrival, Network, NotSent, Room, Source, Step};
use crate::pipeline::Loss;
use crate::planted::Planted;
use crate::process::{Done, Event, Job, Process, ProcessId, Queue, Recipe, Request, name_of};
use crate::random::{Stream, span, stream};
use crate::report::{Happening, Report};
use crate::runs::Outcome;
use crate::story::{Notes, Plot};
use crate::trace::{Print, Trace, digest};

/// How long things go wrong.
pub(crate) const SAFETY: Duration = Duration::from_secs(60);

/// How long a mended cluster may go without getting any further. More than a client tries to read
/// what is gone for good.
const QUIET: Duration = Duration::from_secs(75);

/// How long a mended cluster may take until everything is done, however steadily it goes on.
const PATIENCE: Duration = Duration::from_secs(900);

/// How long a change of members is given to be finished everywhere before a disk is lost.
const SETTLING: Duration = Duration::from_secs(3);

/// How often it is looked whether everything is done.
const LOOK: Duration = Duration::from_millis(100);

/// Wakes of one process at one instant that are taken for a loop without progress.
const WAKES_AT_ONCE: u32 = 1_000;

/// Something that happens at an instant.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// A process's deadline may have come.
    Wake { process: ProcessId, life: u64 },
    /// The network has something to do.
    Network(Step),
    /// A frame came while the process stood still.
    Arrived(Arrival),
    /// A socket had room for more while the process stood still.
    Room(Room),
    /// A process's disk thread does its next job.
    Work { process: ProcessId, life: u64 },
    /// A process's disk thread is done with a job.
    Worked { process: ProcessId, life: u64, done: Done },
    /// The next fault is drawn.
    Trouble,
    /// A fault begins.
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
    Link((ProcessId, ProcessId)),
    /// Nothing is lost in a direction any more.
    Wire((ProcessId, ProcessId)),
    /// A disk has its ordinary speed again.
    DiskSpeed(ProcessId),
    /// A disk has room again.
    DiskRoom(ProcessId),
}

/// How far a mended cluster has come: only what grows where something is done for the first time.
#[derive(Clone, Copy, Debug, Default)]
struct Reached {
    /// Requests of the bank that are answered, outcomes that are recorded, files and results that
    /// are stored or read back, processes that have nothing left to do: the most of each.
    most: [u64; 4],
    /// When one of them grew last.
    at: Instant,
}

impl Reached {
    fn look(&mut self, now: Instant, counts: [u64; 4]) {
        for (most, count) in self.most.iter_mut().zip(counts) {
            if count > *most {
                (*most, self.at) = (count, now);
            }
        }
    }
}

/// A simulated cluster.
pub(crate) struct World {
    agenda: Agenda<Delivery>,
    network: Network,
    machines: Vec<Machine>,
    members: Vec<ProcessId>,
    /// Those whose promises stand on their disks: the members, and storage nodes.
    disks: Vec<ProcessId>,
    /// All others.
    others: Vec<ProcessId>,
    balancers: Vec<ProcessId>,
    workers: Vec<ProcessId>,
    storage: Vec<ProcessId>,
    /// The storage node whose disk may be lost or rot: no other one, so that a second replica is
    /// always good.
    weak: Option<ProcessId>,
    clients: Vec<ProcessId>,
    swarm: Swarm,
    disk_rng: Rng,
    faults_rng: Rng,
    process_rng: Rng,
    is_healed: bool,
    /// When the faults ended.
    healed_at: Instant,
    is_done: bool,
    /// How far it came since the faults ended.
    reached: Reached,
    /// Whether the cluster was begun; nobody does it a second time.
    is_founded: bool,
    pauses: u64,
    history: History,
    leaders: Leaders,
    transfers: Transfers,
    /// What is known of jobs; `None` for a bank.
    jobs: Option<Jobs>,
    blocks: Blocks,
    deals: Deals,
    /// The newest primary of each group, and its epoch.
    primaries: BTreeMap<u64, (Epoch, NodeId)>,
    /// The balancers of each group, as of the newest state that a master showed.
    groups: BTreeMap<u64, Vec<ProcessId>>,
    /// Index of that state.
    newest: LogIndex,
    /// The newest and the oldest version of the ring in it.
    rings: (RingVersion, RingVersion),
    /// Nodes that were out of the ring in it, because they were silent.
    silent: BTreeSet<NodeId>,
    /// When a master's state was looked through last.
    looked_at: Instant,
    loss: Option<Loss>,
    planted: Option<Planted>,
    plot: Option<Plot>,
    /// What was noted of the story.
    notes: Notes,
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
        world.faults_rng = faults_rng;
        world.agenda.after(Duration::from_secs(1), Delivery::Trouble);
        world
    }

    /// The cluster of all tiers and the faults of a seed.
    pub(crate) fn pipeline_of_seed(seed: u64, print: Print) -> World {
        let mut faults_rng = stream(seed, Stream::Faults);
        let swarm = Swarm::draw_pipeline(&mut faults_rng);
        let recipes = crate::pipeline::cluster(&mut stream(seed, Stream::Workload));
        let mut world = World::of(seed, swarm, print, recipes);
        world.faults_rng = faults_rng;
        world.agenda.after(Duration::from_secs(1), Delivery::Trouble);
        world
    }

    /// A cluster of a seed under given conditions; faults are entered with [`World::enter`].
    pub(crate) fn with(seed: u64, swarm: Swarm, print: Print) -> World {
        let recipes = crate::workload::cluster(&mut stream(seed, Stream::Workload));
        World::of(seed, swarm, print, recipes)
    }

    /// A cluster of these processes.
    pub(crate) fn of(seed: u64, swarm: Swarm, print: Print, recipes: Vec<Recipe>) -> World {
        let is_bank = recipes.iter().any(|it| matches!(it, Recipe::Member { .. }));
        let mut world = World {
            agenda: Agenda::new(),
            network: Network::new(stream(seed, Stream::Network), swarm.weather),
            machines: Vec::new(),
            members: Vec::new(),
            disks: Vec::new(),
            others: Vec::new(),
            balancers: Vec::new(),
            workers: Vec::new(),
            storage: Vec::new(),
            weak: None,
            clients: Vec::new(),
            swarm,
            disk_rng: stream(seed, Stream::Disk),
            faults_rng: stream(seed, Stream::Faults),
            process_rng: stream(seed, Stream::Process),
            is_healed: false,
            healed_at: Instant(0),
            is_done: false,
            reached: Reached::default(),
            is_founded: false,
            pauses: 0,
            history: History::default(),
            leaders: Leaders::default(),
            transfers: Transfers::default(),
            jobs: (!is_bank).then(Jobs::default),
            blocks: Blocks::default(),
            deals: Deals::default(),
            primaries: BTreeMap::new(),
            groups: BTreeMap::new(),
            newest: LogIndex(0),
            rings: <(RingVersion, RingVersion)>::default(),
            silent: BTreeSet::new(),
            looked_at: Instant(0),
            loss: None,
            planted: None,
            plot: None,
            notes: Notes::default(),
            report: Report::default(),
            trace: Trace::new(print),
            requests: Vec::new(),
        };
        for recipe in recipes {
            world.place(recipe);
        }
        // Of a single replica nothing is left when its disk is lost.
        if world.storage.len() > 1 {
            let weak = world.faults_rng.usize(0..world.storage.len());
            world.weak = Some(world.storage[weak]);
        }
        world.agenda.after(SAFETY, Delivery::Heal);
        world
    }

    /// Lets the faults end sooner than they would.
    pub(crate) fn heal_at(&mut self, at: Instant) {
        self.agenda.at(at, Delivery::Heal);
    }

    /// Sets what the clock of a process reads at the beginning.
    pub(crate) fn set_clock(&mut self, process: ProcessId, origin: u64) {
        self.machines[process.0].origin = Some(origin);
    }

    fn place(&mut self, recipe: Recipe) {
        let id = ProcessId(self.machines.len());
        match &recipe {
            Recipe::Member { .. } | Recipe::Master { .. } => self.members.push(id),
            Recipe::Client { .. }
            | Recipe::FileClient { .. }
            | Recipe::KeyClient { .. }
            | Recipe::RingClient { .. }
            | Recipe::ForeignClient { .. } => self.clients.push(id),
            Recipe::Storage { .. } => self.storage.push(id),
            Recipe::JobClient { jobs, .. } => {
                self.clients.push(id);
                for plan in jobs {
                    self.jobs.get_or_insert_default().planned(plan);
                }
            }
            Recipe::Balancer { .. } => self.balancers.push(id),
            Recipe::Worker { .. } => self.workers.push(id),
        }
        if recipe.has_disk() {
            self.disks.push(id)
        } else {
            self.others.push(id)
        }
        let after = match recipe {
            Recipe::Storage { after, .. } => after,
            _ => Duration::ZERO,
        };
        self.machines.push(Machine::new(recipe));
        self.agenda.at(Instant(0) + after, Delivery::Mend(Mend::Start(id)));
    }

    /// Enters a fault.
    pub(crate) fn enter(&mut self, at: Instant, fault: Fault) {
        self.agenda.at(at, Delivery::Fault(fault));
    }

    /// Loses one record.
    pub(crate) fn lose(&mut self, loss: Loss) {
        self.loss = Some(loss);
    }

    /// Builds a mistake into the processes.
    pub(crate) fn plant(&mut self, mistake: Planted) {
        self.planted = Some(mistake);
        if matches!(mistake, Planted::LyingSync | Planted::LyingLog) {
            self.members.iter().for_each(|member| self.files(*member).lie_about_syncs());
        }
    }

    /// The process of a name.
    pub(crate) fn named(&self, name: &str) -> Option<ProcessId> {
        self.machines.iter().position(|machine| machine.name == name).map(ProcessId)
    }

    /// The members' processes, in the order of their names.
    pub(crate) fn members(&self) -> Vec<ProcessId> {
        self.members.clone()
    }

    /// The storage nodes' processes, in the order of their names.
    pub(crate) fn storage(&self) -> Vec<ProcessId> {
        self.storage.clone()
    }

    /// The files of a process's machine.
    pub(crate) fn files(&self, process: ProcessId) -> &SimFiles {
        &self.machines[process.0].files
    }

    /// Runs to the end and returns also what was noted of the story, and what the master that
    /// applied most has at the end.
    pub(crate) fn run_told(mut self) -> (Outcome, Notes, Option<Cluster>) {
        let failure = self.run_through();
        let notes = std::mem::take(&mut self.notes);
        let processes = self.machines.iter().filter_map(|machine| machine.process.as_ref());
        let clusters = processes.filter_map(Process::cluster);
        let newest = clusters.max_by_key(|cluster| cluster.applied).cloned();
        (self.outcome(failure), notes, newest)
    }

    /// Runs to the end: until everything is done, or a promise is broken.
    pub(crate) fn run(mut self) -> Outcome {
        let failure = self.run_through();
        self.outcome(failure)
    }

    fn run_through(&mut self) -> Option<String> {
        let mut failure = None;
        while !self.is_done
            && let Some(delivery) = self.agenda.next()
        {
            if let Err(violation) = self.deliver(delivery) {
                failure = Some(format!("at {} s: {violation}", self.agenda.now()));
                break;
            }
        }
        if failure.is_none() && self.loss.is_some_and(|loss| !loss.is_over) {
            failure = Some("the record that was to be lost never came".to_owned());
        }
        failure
    }

    fn outcome(mut self, failure: Option<String>) -> Outcome {
        for machine in &mut self.machines {
            if let Some(process) = &mut machine.process {
                process.report(&mut self.report);
            }
        }
        let (trace, events) = (self.trace.hash(), self.trace.events());
        Outcome { trace, events, report: self.report, failure }
    }

    fn deliver(&mut self, delivery: Delivery) -> Result<(), Violation> {
        match delivery {
            Delivery::Network(step) => {
                let brought = self.network.step(&mut self.agenda, &mut self.report, step);
                if let Some(room) = brought.room {
                    self.make_room(room);
                }
                brought.arrival.map_or(Ok(()), |arrival| self.arrive(arrival))
            }
            Delivery::Arrived(arrival) => self.arrive(arrival),
            Delivery::Room(room) => {
                self.make_room(room);
                Ok(())
            }
            Delivery::Wake { process, life } => self.wake(process, life),
            Delivery::Work { process, life } => self.work(process, life),
            Delivery::Worked { process, life, done } => self.worked(process, life, done),
            Delivery::Trouble => self.trouble(),
            Delivery::Fault(fault) => self.begin(fault),
            Delivery::Mend(mend) => self.mend(mend),
            Delivery::Heal => self.heal(),
            Delivery::Look => self.look(),
        }
    }

    /// One line of the trace about a process: what it is at present, then `text`.
    fn trace(
        &mut self,
        process: ProcessId,
        what: &'static str,
        numbers: &[u64],
        text: impl FnOnce() -> String,
    ) {
        let machine = &self.machines[process.0];
        self.trace.event(self.agenda.now(), &machine.name, what, numbers, || {
            let state = machine.process.as_ref().map(Process::describe).unwrap_or_default();
            format!("{state:<36} {}", text())
        });
    }

    fn arrive(&mut self, arrival: Arrival) -> Result<(), Violation> {
        let machine = &mut self.machines[arrival.to.0];
        if machine.process.is_none() {
            self.report.add(Happening::FramesLost, 1);
            return Ok(());
        }
        if machine.pause.is_some() {
            machine.held.push_back(Delivery::Arrived(arrival));
            return Ok(());
        }
        let Arrival { to, source, mut frame } = arrival;
        if let Some(loss) = &mut self.loss {
            frame = loss.filter(frame);
        }
        let frame = self.told(to, &source, frame);
        if frame.is_empty() {
            return Ok(());
        }
        let from = match &source {
            Source::Link { link, .. } => u64::from(*link),
            Source::Inbound { routing_id } => digest(routing_id),
        };
        self.trace(to, "frame", &[from, digest(&frame)], || records_in(&source, &frame));
        self.handle(to, Event::Arrived { source, frame: &frame })
    }

    fn wake(&mut self, process: ProcessId, life: u64) -> Result<(), Violation> {
        let now = self.agenda.now();
        let machine = &mut self.machines[process.0];
        if machine.life != life || machine.alarm != Some(now) {
            return Ok(());
        }
        machine.alarm = None;
        if !machine.is_awake() {
            return Ok(());
        }
        machine.wakes = if machine.wakes.0 == now { (now, machine.wakes.1 + 1) } else { (now, 1) };
        assert!(machine.wakes.1 < WAKES_AT_ONCE, "{} wakes again and again", machine.name);
        let local = machine.clock.local(now);
        let deadline = machine.process.as_ref().and_then(Process::next_deadline);
        if deadline.is_some_and(|deadline| deadline <= local) {
            self.trace(process, "tick", &[], String::new);
            self.handle(process, Event::Tick)
        } else {
            self.set_alarm(process);
            Ok(())
        }
    }

    /// Hands an event to a process that is awake and does what it asks for.
    fn handle(&mut self, process: ProcessId, event: Event<'_>) -> Result<(), Violation> {
        let now = self.agenda.now();
        let machine = &mut self.machines[process.0];
        let local = machine.clock.local(now);
        let mut requests = std::mem::take(&mut self.requests);
        if let Some(process) = &mut machine.process {
            process.handle(local, event, &mut requests);
            process.check_invariants();
        }
        let result = self.check_queues(process).and_then(|()| self.perform(process, &mut requests));
        requests.clear();
        self.requests = requests;
        result
    }

    /// Whatever waits in a process stays within its bound.
    fn check_queues(&mut self, process: ProcessId) -> Result<(), Violation> {
        let Some(running) = &self.machines[process.0].process else { return Ok(()) };
        let (mut worst, report) = (None, &mut self.report);
        running.queues(&mut |queue: Queue| {
            report.fill(queue.name, queue.length, queue.bound);
            if queue.length > queue.bound {
                worst = Some(queue);
            }
        });
        let name = &self.machines[process.0].name;
        check(worst.is_none(), "invariant 9: every queue is bounded", || {
            format!("{name}: {worst:?}")
        })
    }

    /// The disk that a machine has at present.
    fn disk_of(&self, process: ProcessId) -> DiskId {
        DiskId { process: process.0, number: self.machines[process.0].lost_disks }
    }

    fn perform(
        &mut self,
        process: ProcessId,
        requests: &mut Vec<Request>,
    ) -> Result<(), Violation> {
        for request in requests.drain(..) {
            match request {
                Request::Open { link, generation, routing_id, address } => {
                    let socket = (link, generation);
                    self.network.open(&mut self.agenda, process, socket, routing_id, &address);
                }
                Request::Close { link, last_frames } => {
                    self.network.close(&mut self.agenda, process, link, last_frames);
                }
                Request::Work(job) => {
                    self.machines[process.0].disk.jobs.push(job);
                    self.set_to_work(process);
                }
                Request::Note(note) => self.observe(process, note)?,
                Request::GiveUp { reason, is_disk } => {
                    return self.gave_up(process, &reason, is_disk);
                }
            }
        }
        self.send_frames(process);
        self.set_alarm(process);
        Ok(())
    }

    /// Moves what a process has to send into its sockets, as far as they take it.
    fn send_frames(&mut self, process: ProcessId) {
        let Some(running) = &mut self.machines[process.0].process else { return };
        let (network, agenda, report) = (&mut self.network, &mut self.agenda, &mut self.report);
        running.with_edges(|edge| {
            while let Some((route, frame)) = edge.take_frame() {
                let sent = match &route {
                    Route::Link(link, generation) => {
                        network.send(agenda, process, (link.0, generation.0), frame)
                    }
                    Route::Bound(_, id) => network.answer(agenda, process, id.as_bytes(), frame),
                };
                match sent {
                    Ok(()) => {}
                    Err(NotSent::Full(frame)) => edge.put_back(&route, frame),
                    Err(NotSent::Unreachable) => {
                        report.add(Happening::FramesLost, 1);
                        edge.unreachable(&route);
                    }
                }
            }
        });
    }

    fn make_room(&mut self, room: Room) {
        let process = room.to;
        let machine = &mut self.machines[process.0];
        if machine.pause.is_some() {
            machine.held.push_back(Delivery::Room(room));
        } else if let Some(running) = &mut machine.process {
            running.with_edges(|edge| edge.unblock(&room.socket));
            self.send_frames(process);
        }
    }

    /// Enters the wake for a process's deadline, unless an earlier one is entered.
    fn set_alarm(&mut self, process: ProcessId) {
        let machine = &mut self.machines[process.0];
        let Some(deadline) = machine.process.as_ref().and_then(Process::next_deadline) else {
            return;
        };
        let at = machine.clock.virtual_at(deadline).max(self.agenda.now());
        if machine.alarm.is_none_or(|alarm| at < alarm) {
            machine.alarm = Some(at);
            self.agenda.at(at, Delivery::Wake { process, life: machine.life });
        }
    }

    /// Begins to work at what waits for a disk thread, unless it is at work.
    fn set_to_work(&mut self, process: ProcessId) {
        let (low, high) = self.swarm.disk;
        let machine = &mut self.machines[process.0];
        if machine.disk.is_busy || machine.disk.jobs.is_empty() {
            return;
        }
        machine.disk.is_busy = true;
        let before = span(&mut self.disk_rng, low, high) + machine.slow_disk;
        self.agenda.after(before, Delivery::Work { process, life: machine.life });
    }

    fn work(&mut self, process: ProcessId, life: u64) -> Result<(), Violation> {
        let machine = &mut self.machines[process.0];
        if machine.life != life {
            return Ok(());
        }
        if machine.pause.is_some() {
            machine.held.push_back(Delivery::Work { process, life });
            return Ok(());
        }
        self.let_go(process);
        let machine = &mut self.machines[process.0];
        if let Some(doom) = machine.doom.take() {
            self.meet_doom(process, doom);
            return Ok(());
        }
        let Some(running) = &mut machine.process else { return Ok(()) };
        let done = running.work(machine.disk.jobs.drain(..));
        if let Done::Storage(done) = &done {
            let disk = self.disk_of(process);
            // As they were done: what was deleted behind a put is not among what is durable.
            for &(block, version) in &done.deleted {
                let was_there = self.blocks.deleted(disk, block, version)?;
                self.report.add(Happening::BlocksDeleted, u64::from(was_there));
            }
            for &(block, version) in &done.durable {
                self.blocks.durable(disk, block, version);
            }
        }
        let (low, _) = self.swarm.disk;
        self.agenda.after(low, Delivery::Worked { process, life, done });
        Ok(())
    }

    /// What a process's disk thread is about to delete may be there or not from now on.
    fn let_go(&mut self, process: ProcessId) {
        let disk = self.disk_of(process);
        for block in self.machines[process.0].disk.jobs.iter().flat_map(Job::deleted) {
            self.blocks.let_go(disk, block);
        }
    }

    fn worked(&mut self, process: ProcessId, life: u64, done: Done) -> Result<(), Violation> {
        let machine = &mut self.machines[process.0];
        if machine.life != life || machine.process.is_none() {
            return Ok(());
        }
        if machine.pause.is_some() {
            machine.held.push_back(Delivery::Worked { process, life, done });
            return Ok(());
        }
        machine.disk.is_busy = false;
        self.set_to_work(process);
        self.trace(process, "disk", &[], || format!("{done:?}"));
        self.handle(process, Event::Worked(done))
    }

    /// Whether every member has had a vote for a while, so that one of them may lose its disk: the
    /// failure model permits no second lost disk before the first one is replaced.
    fn is_complete(&self) -> bool {
        let now = self.agenda.now();
        self.members.iter().all(|member| {
            let since = self.machines[member.0].votes_since;
            since.is_some_and(|since| now.since(since) > SETTLING)
        })
    }

    /// Why jobs are not final, as each process sees it.
    fn explain(&self) -> String {
        let mut text = String::new();
        let jobs = self.jobs.as_ref().map(Jobs::unfinished).unwrap_or_default();
        for (job, task) in jobs {
            text.push_str(&format!("\njob {job}, task {task}:"));
            for machine in &self.machines {
                let process = machine.process.as_ref();
                let said = process.map_or("down".to_owned(), |it| it.explain(job, task));
                text.push_str(&format!("\n  {:<3} {said}", machine.name));
            }
        }
        text
    }

    /// Ends the run where everything is done, fails it where that takes too long.
    fn look(&mut self) -> Result<(), Violation> {
        let alive = |process: &&ProcessId| !self.machines[process.0].is_broken;
        let wanted = (self.history.newest(), self.transfers.state());
        let mut waiting: Vec<String> = self
            .members
            .iter()
            .chain(&self.clients)
            .filter(alive)
            .map(|process| &self.machines[process.0])
            .filter(|machine| !machine.process.as_ref().is_some_and(|it| it.is_settled(wanted)))
            .map(|machine| {
                let state = machine.process.as_ref().map_or("down".to_owned(), Process::describe);
                format!("{}: {state}", machine.name)
            })
            .collect();
        if waiting.is_empty() {
            waiting.extend(self.misplaced());
        }
        if waiting.is_empty() {
            self.is_done = true;
            let took = self.agenda.now().since(self.healed_at);
            self.report.add(Happening::Recovery, took.0.div_ceil(1_000_000));
            return Ok(());
        }
        let now = self.agenda.now();
        let (sent, answered) = self.transfers.progress();
        let stored = [Happening::FilesStored, Happening::Results];
        self.reached.look(
            now,
            [
                answered as u64,
                self.jobs.as_ref().map_or(0, Jobs::recorded),
                stored.iter().map(|&it| self.report.count(it)).sum(),
                (self.machines.len() - waiting.len()) as u64,
            ],
        );
        let is_quiet = now.since(self.reached.at.max(self.healed_at)) > QUIET;
        let is_late = now > self.healed_at + PATIENCE;
        check(!is_quiet && !is_late, "everything finishes once a majority is well", || {
            format!(
                "nothing new since {} s, {sent} requests, {answered} answered, newest entry {}, \
                 not done: {}{}",
                self.reached.at,
                wanted.0,
                waiting.join("; "),
                self.explain()
            )
        })?;
        self.agenda.after(LOOK, Delivery::Look);
        Ok(())
    }
}

/// What a frame holds and where it came from, for people.
fn records_in(source: &Source, frame: &[u8]) -> String {
    let names: Vec<String> = Records::of(frame)
        .map(|record| match record {
            Ok(record) => format!("{} {}", record.layout().name, record.request_id()),
            Err(error) => error.to_string(),
        })
        .collect();
    match source {
        Source::Link { link, .. } => format!("link {link}: {}", names.join(", ")),
        Source::Inbound { routing_id } => {
            format!("from {}: {}", name_of(routing_id), names.join(", "))
        }
    }
}
