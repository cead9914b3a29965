//! Named stories: what a test wants to see once, exactly so, in an otherwise calm cluster.

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
