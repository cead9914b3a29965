//! Named stories: what a test wants to see once, exactly so, in an otherwise calm cluster.
//!
//! Those of the bank, of lost records and of disks stand here, the others by what they are about.

pub mod changes;
pub mod groups;
pub mod results;
pub mod stage;
pub mod takeover;

use proto::time::{Duration, Instant};

use crate::faults::{Death, Fault, Swarm};
use crate::pipeline::{self, Loss};
use crate::process::ProcessId;
use crate::random::{Stream, stream};
use crate::runs::Outcome;
use crate::trace::Print;
use crate::world::World;

fn second(second: u64) -> Instant {
    Instant(second * 1_000_000)
}

fn told(seed: u64, faults: impl Fn(&[ProcessId]) -> Vec<(Instant, Fault)>) -> Outcome {
    let mut world = World::with(seed, Swarm::calm(), Print::Nothing);
    for (at, fault) in faults(&world.members()) {
        world.enter(at, fault);
    }
    world.run()
}

/// Nothing goes wrong.
#[must_use]
pub fn calm(seed: u64) -> Outcome {
    told(seed, |_| Vec::new())
}

/// A small cluster of all tiers in which exactly one record of a type is lost, the one that arrives
/// `nth`. A worker dies in the middle of the jobs and a balancer later, so that what is said only
/// after a death is said, too. Fails also where no such record came.
#[must_use]
pub fn one_record_is_lost(seed: u64, message_type: u8, nth: u64) -> Outcome {
    let recipes = pipeline::small(&mut stream(seed, Stream::Workload), 300);
    let mut world = World::of(seed, Swarm::calm(), Print::Nothing, recipes);
    world.lose(Loss::of(message_type, nth));
    let crashes = [("w1", 9, 1), ("b1", 12, 1), ("w2", 14, 6)];
    for (name, at, down) in crashes {
        let process = world.named(name).expect("the small cluster has it");
        let (death, down) = (Death::Killed, Duration::from_secs(down));
        world.enter(second(at), Fault::Crash { process, death, down });
    }
    world.run()
}

fn stored(
    seed: u64,
    storage_count: usize,
    faults: impl Fn(&[ProcessId]) -> Vec<(u64, Fault)>,
) -> Outcome {
    let recipes = pipeline::storing(&mut stream(seed, Stream::Workload), storage_count);
    let mut world = World::of(seed, Swarm::calm(), Print::Nothing, recipes);
    for (at, fault) in faults(&world.storage()) {
        world.enter(second(at), fault);
    }
    world.run()
}

/// The disks of both storage nodes have no room while the second of two files is to be stored.
#[must_use]
pub fn all_disks_are_full(seed: u64) -> Outcome {
    let lasts = Duration::from_secs(20);
    let full = |&process: &ProcessId| (10, Fault::FullDisk { process, room: 0, lasts });
    stored(seed, 2, |nodes| nodes.iter().map(full).collect())
}

/// Between two files the disk of the storage node that may lose it is lost, and an empty one put in
/// its place.
#[must_use]
pub fn a_storage_disk_is_lost(seed: u64) -> Outcome {
    // Which of them may be lost is the seed's; the others ignore it.
    let (death, down) = (Death::DiskLoss, Duration::from_secs(2));
    let lost = |&process: &ProcessId| (10, Fault::Crash { process, death, down });
    stored(seed, 2, |nodes| nodes.iter().map(lost).collect())
}

/// Between two files a storage node is gone for good.
#[must_use]
pub fn a_storage_node_is_gone(seed: u64) -> Outcome {
    let (death, down) = (Death::Gone, Duration::ZERO);
    let gone = |&process: &ProcessId| (10, Fault::Crash { process, death, down });
    stored(seed, 3, |nodes| nodes.iter().map(gone).collect())
}

/// Many bits of one storage node's disk flip after both files were stored, once before and once
/// after it was started again.
#[must_use]
pub fn a_storage_disk_rots(seed: u64) -> Outcome {
    stored(seed, 2, |nodes| {
        let (process, folder) = (nodes[0], "/data/storage");
        let (death, down) = (Death::Killed, Duration::from_secs(1));
        let flips = [20, 40].into_iter().flat_map(|at| std::iter::repeat_n(at, 60));
        let mut faults: Vec<_> = flips.map(|at| (at, Fault::Rot { process, folder })).collect();
        faults.push((30, Fault::Crash { process, death, down }));
        faults
    })
}

/// One member after the other dies and is started again only when the next one died; the last one
/// stays dead until the end. So each of them led or followed a leader that stayed dead.
#[must_use]
pub fn each_member_dies_in_turn(seed: u64) -> Outcome {
    told(seed, |members| {
        let deaths = members.iter().zip([10, 25, 40]);
        let crash = |(&process, at): (&ProcessId, u64)| {
            let down = Duration::from_secs(14);
            (second(at), Fault::Crash { process, death: Death::PowerLoss, down })
        };
        deaths.map(crash).collect()
    })
}

/// The first member, which began the cluster, loses its disk and is replaced.
#[must_use]
pub fn the_founder_loses_its_disk(seed: u64) -> Outcome {
    told(seed, |members| {
        let (death, down) = (Death::DiskLoss, Duration::from_secs(2));
        vec![(second(20), Fault::Crash { process: members[0], death, down })]
    })
}

/// While a member is down, a bit of its log flips. It must not start from that.
#[must_use]
pub fn a_bit_of_the_log_flips(seed: u64) -> Outcome {
    told(seed, |members| {
        let (process, down) = (members[1], Duration::from_secs(2));
        vec![
            (second(20), Fault::Crash { process, death: Death::Killed, down }),
            (second(21), Fault::BitRot { process, file: "/log-", offset: 100 }),
        ]
    })
}
