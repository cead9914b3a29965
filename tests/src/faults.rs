//! What goes wrong in a run: swarm options drawn from the seed, and single faults drawn from them.
//!
//! Each run has its own selection of kinds, its own rate and its own weather, so that rare
//! combinations come up: a run with nothing but pauses finds other mistakes than one with
//! everything at once. Only faults that the failure model (design section 5) permits are drawn.

use fastrand::Rng;
use node::logic::network::NetworkLimits;
use proto::time::Duration;
use storage::logic::{Bounds, StorageLimits, Upkeep};

use crate::network::Weather;
use crate::process::ProcessId;
use crate::process::member::Tuning;
use crate::random::{chance, interval, span};

/// How long a silent member of the ring is waited for: longer than most faults last, and short
/// beside the time after the last of them.
const GRACE: Duration = Duration::from_secs(8);

/// A kind of fault that a run may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Kill,
    KillThenPowerLoss,
    PowerLoss,
    Blackout,
    Pause,
    Partition,
    OneWay,
    Cut,
    SlowLink,
    SlowDisk,
    FullDisk,
    EmptyDisk,
    /// Of the pipeline's storage nodes only.
    BitRot,
    /// Of the pipeline only: what a balancer dealt reaches the workers when its epoch is over.
    LateDeals,
    /// A process dies and stays dead, of each tier at most one.
    StaysDead,
    /// All masters are down for a while; everybody else goes on.
    NoMasters,
    /// Everything is killed at one moment.
    KillAll,
    /// A process is cut off from one tier.
    CutOff,
    /// A process stands still for longer than any timeout.
    Freeze,
    /// Frames between two processes are lost on the wire and sent again.
    Lossy,
    /// A master's data folder is lost; it joins anew and takes its own place.
    EmptyMaster,
    /// All balancers of a group die, stand still, or reach nobody, for long or for good.
    WholeGroup,
}

/// Those that only a cluster of all tiers has.
const OF_PIPELINES: [Kind; 9] = [
    Kind::BitRot,
    Kind::LateDeals,
    Kind::StaysDead,
    Kind::NoMasters,
    Kind::KillAll,
    Kind::CutOff,
    Kind::Freeze,
    Kind::Lossy,
    Kind::WholeGroup,
];

/// Those of the bank.
const KINDS: [Kind; 12] = [
    Kind::Kill,
    Kind::KillThenPowerLoss,
    Kind::PowerLoss,
    Kind::Blackout,
    Kind::Pause,
    Kind::Partition,
    Kind::OneWay,
    Kind::Cut,
    Kind::SlowLink,
    Kind::SlowDisk,
    Kind::FullDisk,
    Kind::EmptyDisk,
];

/// How a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// kill -9: the machine keeps what it wrote.
    Killed,
    /// The machine loses power and with it what was not synced.
    PowerLoss,
    /// The disk is lost as a whole; the process comes back with an empty one.
    DiskLoss,
    /// The machine is gone for good.
    Gone,
    /// kill -9, and nobody starts it again.
    ForGood,
}

/// One fault. Those that end by themselves carry how long they last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A process dies and is started again after a while.
    Crash { process: ProcessId, death: Death, down: Duration },
    /// A process stands still (SIGSTOP) while its clock goes on.
    Pause { process: ProcessId, lasts: Duration },
    /// No bytes flow in these directions.
    Block { ways: Vec<(ProcessId, ProcessId)>, lasts: Duration },
    /// All connections between two processes break.
    Cut { between: (ProcessId, ProcessId) },
    /// Bytes in one direction take longer.
    SlowLink { way: (ProcessId, ProcessId), by: Duration, lasts: Duration },
    /// So many of a thousand frames in one direction are lost on the wire and sent again, later
    /// and later.
    Lossy { way: (ProcessId, ProcessId), per_mille: u32, lasts: Duration },
    /// A disk takes longer.
    SlowDisk { process: ProcessId, by: Duration, lasts: Duration },
    /// A bit of a file is not what was written; the file is the first one whose name contains
    /// `file`.
    BitRot { process: ProcessId, file: &'static str, offset: u64 },
    /// Some bit below a folder is not what was written.
    Rot { process: ProcessId, folder: &'static str },
    /// A disk has room for so many bytes more.
    FullDisk { process: ProcessId, room: u64, lasts: Duration },
}

/// What may go wrong in a run, and how things are when nothing does.
#[derive(Clone, Debug)]
pub(crate) struct Swarm {
    kinds: Vec<Kind>,
    mean: Duration,
    /// Whether connections between processes without disks break, too.
    is_anywhere: bool,
    /// How the network is.
    pub(crate) weather: Weather,
    /// Bounds of each process's connections.
    pub(crate) limits: NetworkLimits,
    /// How members behave.
    pub(crate) tuning: Tuning,
    /// Bounds of a storage node's work.
    pub(crate) storage: StorageLimits,
    /// How long masters wait for a silent member of the ring.
    pub(crate) grace: Duration,
    /// How long a disk takes for one batch, at least and at most.
    pub(crate) disk: (Duration, Duration),
    /// How much of what was not synced survives a power loss, per mille of each write.
    pub(crate) survival: u32,
    /// How far clocks drift apart, in parts per million.
    pub(crate) drift: u64,
    /// How often a process that starts dies again while it reads its disk, per mille.
    pub(crate) recovery_crashes: u32,
}

/// Whom faults may strike.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Targets<'a> {
    /// Those whose promises stand on their disks.
    pub(crate) members: &'a [ProcessId],
    /// All others.
    pub(crate) others: &'a [ProcessId],
    /// Masters, or members of the bank.
    pub(crate) masters: &'a [ProcessId],
    /// Balancers.
    pub(crate) balancers: &'a [ProcessId],
    /// The balancers of each group.
    pub(crate) groups: &'a [Vec<ProcessId>],
    /// Workers.
    pub(crate) workers: &'a [ProcessId],
    /// Storage nodes, whose disks alone may be full, lost or rotten; `None` where it is the
    /// members' disks.
    pub(crate) storage: Option<&'a [ProcessId]>,
    /// Of the storage nodes the one whose disk may be lost or rot.
    pub(crate) weak: Option<ProcessId>,
}

impl Swarm {
    /// The options of a seed.
    pub(crate) fn draw(rng: &mut Rng) -> Swarm {
        let mut kinds: Vec<Kind> = KINDS.into_iter().filter(|_| chance(rng, 600)).collect();
        if kinds.is_empty() {
            kinds.push(KINDS[rng.usize(0..KINDS.len())]);
        }
        let latency = Duration([60, 200, 1_000, 5_000][rng.usize(0..4)]);
        let disk = Duration([100, 200, 1_000, 5_000][rng.usize(0..4)]);
        Swarm {
            kinds,
            is_anywhere: false,
            mean: span(rng, Duration::from_millis(800), Duration::from_millis(5_000)),
            weather: Weather {
                latency,
                jitter: latency.times([0, 1, 10][rng.usize(0..3)]),
                high_water_mark: [4, 64, 1_000][rng.usize(0..3)],
            },
            limits: NetworkLimits {
                queued_bytes: [2_000, 64 << 10, 64 << 20][rng.usize(0..3)],
                ..NetworkLimits::NODE
            },
            tuning: Tuning {
                log_file_bytes: [4 << 10, 32 << 10, 1 << 20][rng.usize(0..3)],
                snapshot_after: [2_000, 20_000, 200_000][rng.usize(0..3)],
                trailing: [0, 1_000, 20_000][rng.usize(0..3)],
            },
            storage: restless(),
            grace: GRACE,
            disk: (disk, disk.times([1, 4, 30][rng.usize(0..3)])),
            survival: [0, 300, 500, 900][rng.usize(0..4)],
            drift: [0, 100, 20_000][rng.usize(0..3)],
            recovery_crashes: [0, 100, 400][rng.usize(0..3)],
        }
    }

    /// The options of a seed for a cluster of all tiers. Only storage nodes have full and rotten
    /// disks.
    pub(crate) fn draw_pipeline(rng: &mut Rng) -> Swarm {
        let mut swarm = Swarm::draw(rng);
        swarm.kinds.retain(|kind| !matches!(kind, Kind::FullDisk | Kind::EmptyDisk));
        let own = [Kind::FullDisk, Kind::EmptyDisk, Kind::EmptyMaster].into_iter();
        swarm.kinds.extend(own.chain(OF_PIPELINES).filter(|_| chance(rng, 300)));
        if swarm.kinds.is_empty() {
            swarm.kinds.push(Kind::Kill);
        }
        swarm.is_anywhere = true;
        // Frames of results and snapshots fit; the smallest bounds are the bank's.
        swarm.limits.queued_bytes = swarm.limits.queued_bytes.max(1 << 20);
        swarm.tuning.log_file_bytes = swarm.tuning.log_file_bytes.max(256 << 10);
        if chance(rng, 500) {
            // So little that ordinary work is too much.
            let few = |count| Bounds { peer_count: 1, count, ..StorageLimits::default().puts };
            let files = Bounds { count: 1, ..StorageLimits::default().files };
            swarm.storage = StorageLimits { puts: few(2), reads: few(2), files, ..swarm.storage };
        }
        swarm.storage.upkeep.move_bytes_per_s = [0, 100_000, 10_000_000][rng.usize(0..3)];
        swarm
    }

    /// Options with which nothing goes wrong by itself: for scenarios that bring their own faults.
    pub(crate) fn calm() -> Swarm {
        Swarm {
            kinds: Vec::new(),
            is_anywhere: false,
            mean: Duration::from_secs(1),
            weather: Weather {
                latency: Duration(200),
                jitter: Duration(200),
                high_water_mark: 1_000,
            },
            limits: NetworkLimits::NODE,
            tuning: Tuning { log_file_bytes: 32 << 10, snapshot_after: 20_000, trailing: 1_000 },
            storage: restless(),
            grace: GRACE,
            disk: (Duration(200), Duration(400)),
            survival: 500,
            drift: 0,
            recovery_crashes: 0,
        }
    }

    /// Time until the next fault.
    pub(crate) fn pause(&self, rng: &mut Rng) -> Duration {
        interval(rng, self.mean)
    }

    /// Draws faults that belong together, each with how long after now it begins.
    pub(crate) fn faults(&self, rng: &mut Rng, targets: Targets<'_>) -> Vec<(Duration, Fault)> {
        let Targets { members, others, masters, balancers, groups, workers, storage, weak } =
            targets;
        let Some(&kind) = self.kinds.get(rng.usize(0..self.kinds.len().max(1))) else {
            return Vec::new();
        };
        let all: Vec<ProcessId> = members.iter().chain(others).copied().collect();
        let member = members[rng.usize(0..members.len())];
        let end = if self.is_anywhere { all[rng.usize(0..all.len())] } else { member };
        // Short ones interrupt, long ones let leases, heartbeats and elections run out.
        let longest = if chance(rng, 700) { 1_500 } else { 12_000 };
        let lasts = span(rng, Duration::from_millis(20), Duration::from_millis(longest));
        let crash = |&process, death| Fault::Crash { process, death, down: lasts };
        let fault = match kind {
            Kind::Kill => crash(&all[rng.usize(0..all.len())], Death::Killed),
            Kind::KillThenPowerLoss => {
                // What the next life read from the page cache must not be taken for durable.
                let after = lasts + span(rng, Duration::ZERO, Duration::from_millis(400));
                let power = crash(&member, Death::PowerLoss);
                return vec![(Duration::ZERO, crash(&member, Death::Killed)), (after, power)];
            }
            Kind::PowerLoss => crash(&member, Death::PowerLoss),
            Kind::Blackout => {
                let crash = |process| (Duration::ZERO, crash(process, Death::PowerLoss));
                return members.iter().map(crash).collect();
            }
            Kind::Pause => Fault::Pause { process: all[rng.usize(0..all.len())], lasts },
            Kind::Partition => {
                let (here, there): (Vec<ProcessId>, Vec<ProcessId>) =
                    all.iter().partition(|_| rng.bool());
                let pairs = here.iter().flat_map(|&a| there.iter().map(move |&b| [(a, b), (b, a)]));
                Fault::Block { ways: pairs.flatten().collect(), lasts }
            }
            Kind::OneWay => Fault::Block { ways: vec![way(rng, end, &all)], lasts },
            Kind::Cut => Fault::Cut { between: way(rng, end, &all) },
            Kind::SlowLink => {
                let by = span(rng, Duration::from_millis(1), Duration::from_millis(400));
                Fault::SlowLink { way: way(rng, end, &all), by, lasts }
            }
            Kind::SlowDisk => {
                let by = span(rng, Duration::from_millis(1), Duration::from_millis(600));
                Fault::SlowDisk { process: member, by, lasts }
            }
            Kind::LateDeals => return late_deals(masters, balancers, workers),
            Kind::WholeGroup => return whole_group(rng, groups, masters, workers),
            Kind::StaysDead => {
                let tiers = [masters, balancers, workers, storage.unwrap_or_default()];
                let tier: Vec<ProcessId> = tiers[rng.usize(0..tiers.len())].to_vec();
                let Some(process) = rng.choice(&tier) else { return Vec::new() };
                crash(process, Death::ForGood)
            }
            Kind::NoMasters => return killed_together(rng, masters, lasts),
            Kind::KillAll => return killed_together(rng, &all, Duration::ZERO),
            Kind::CutOff => {
                let tiers = [masters, balancers, workers, storage.unwrap_or_default()];
                let tier: Vec<ProcessId> = tiers[rng.usize(0..tiers.len())].to_vec();
                let pairs = tier.into_iter().filter(|&other| other != end);
                let ways = pairs.flat_map(|other| [(end, other), (other, end)]).collect();
                Fault::Block { ways, lasts }
            }
            Kind::Freeze => {
                let lasts = span(rng, Duration::from_secs(3), Duration::from_secs(12));
                Fault::Pause { process: end, lasts }
            }
            Kind::Lossy => {
                let per_mille = [50, 300, 700][rng.usize(0..3)];
                Fault::Lossy { way: way(rng, end, &all), per_mille, lasts }
            }
            Kind::EmptyMaster => crash(&masters[rng.usize(0..masters.len())], Death::DiskLoss),
            Kind::EmptyDisk | Kind::FullDisk | Kind::BitRot => {
                let process = match storage {
                    None => Some(member),
                    Some(storage) if kind == Kind::FullDisk => rng.choice(storage).copied(),
                    Some(_) => weak,
                };
                let Some(process) = process else { return Vec::new() };
                match kind {
                    // Of two storage nodes no single one can keep two replicas.
                    Kind::EmptyDisk if storage.is_some_and(|all| all.len() > 2) && rng.bool() => {
                        crash(&process, Death::Gone)
                    }
                    Kind::EmptyDisk => crash(&process, Death::DiskLoss),
                    Kind::FullDisk => Fault::FullDisk { process, room: rng.u64(0..200_000), lasts },
                    _ => Fault::Rot { process, folder: "/data/storage" },
                }
            }
        };
        vec![(Duration::ZERO, fault)]
    }
}

/// Storage nodes that look after their blocks so often that a run sees it.
fn restless() -> StorageLimits {
    let upkeep = Upkeep {
        pass_period: Duration::from_secs(10),
        scrub_period: Duration::from_secs(30),
        ..Upkeep::default()
    };
    StorageLimits { upkeep, ..StorageLimits::default() }
}

/// These are killed at one moment, and each is back some time after `least`.
fn killed_together(
    rng: &mut Rng,
    processes: &[ProcessId],
    least: Duration,
) -> Vec<(Duration, Fault)> {
    let (low, high) = (Duration::from_millis(20), Duration::from_secs(2));
    let mut crash = |&process| {
        let down = least + span(rng, low, high);
        (Duration::ZERO, Fault::Crash { process, death: Death::Killed, down })
    };
    processes.iter().map(&mut crash).collect()
}

/// All balancers of one group are gone, or as good as gone, for longer than a group is waited for.
fn whole_group(
    rng: &mut Rng,
    groups: &[Vec<ProcessId>],
    masters: &[ProcessId],
    workers: &[ProcessId],
) -> Vec<(Duration, Fault)> {
    let Some(group) = rng.choice(groups) else { return Vec::new() };
    let long = span(rng, Duration::from_secs(6), Duration::from_secs(15));
    let all = |fault: &dyn Fn(ProcessId) -> Fault| {
        group.iter().map(|&process| (Duration::ZERO, fault(process))).collect()
    };
    let crash = |process, death| Fault::Crash { process, death, down: long };
    let parted = |others: &[ProcessId]| {
        let pairs = group.iter().flat_map(|&a| others.iter().map(move |&b| [(a, b), (b, a)]));
        vec![(Duration::ZERO, Fault::Block { ways: pairs.flatten().collect(), lasts: long })]
    };
    match rng.usize(0..5) {
        0 => all(&|process| crash(process, Death::ForGood)),
        1 => all(&|process| crash(process, Death::Killed)),
        2 => all(&|process| Fault::Pause { process, lasts: long }),
        3 => parted(masters),
        _ => parted(workers),
    }
}

/// What the balancers deal is on its way for long, meanwhile they are started again and so get a
/// higher epoch, of which the workers hear from masters that were started again, too.
fn late_deals(
    masters: &[ProcessId],
    balancers: &[ProcessId],
    workers: &[ProcessId],
) -> Vec<(Duration, Fault)> {
    let (by, lasts) = (Duration::from_millis(2_500), Duration::from_millis(320));
    let ways = balancers.iter().flat_map(|&from| workers.iter().map(move |&to| (from, to)));
    let mut faults: Vec<(Duration, Fault)> =
        ways.map(|way| (Duration::ZERO, Fault::SlowLink { way, by, lasts })).collect();
    for (processes, after) in [(balancers, 300), (masters, 700)] {
        let (death, down) = (Death::Killed, Duration::from_millis(20));
        let crash = |&process| Fault::Crash { process, death, down };
        let after = Duration::from_millis(after);
        faults.extend(processes.iter().map(|process| (after, crash(process))));
    }
    faults
}

/// A direction between a process and another one.
fn way(rng: &mut Rng, end: ProcessId, all: &[ProcessId]) -> (ProcessId, ProcessId) {
    let others: Vec<ProcessId> = all.iter().copied().filter(|&other| other != end).collect();
    let other = others[rng.usize(0..others.len())];
    if rng.bool() { (end, other) } else { (other, end) }
}
