//! Which processes a local cluster has and where they listen: chosen once, kept in its folder.
//!
//! Ports lie below those that the system gives to outgoing connections, so that a cluster which
//! starts again finds its own free. What the folder already has decides what may still change:
//! workers and slots may, the tiers that hold state may not.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use node::clock::Clock;
use node::logic::network::Identity;
use node::network::{Exposure, Network};
use proto::ids::{ClusterId, Incarnation, NodeId};
use proto::status::Role;
use serde::{Deserialize, Serialize};

use crate::failure::{During, Failure};
use crate::flags::DevStart;

const FILE: &str = "dev.toml";

/// Below the registered ports that databases and the like use by habit (eyeballed).
const FIRST_PORT: u16 = 20_000;

/// Where Linux begins to give ports to outgoing connections unless told otherwise.
const USUAL_LAST_PORT: u16 = 32_767;

/// Ports that are tried before the search is given up.
const DRAWS: u32 = 1_000;

/// The processes of a local cluster, in the order in which they are started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    /// Slots of each worker.
    pub(crate) slots: u32,
    /// How workers show inputs, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) inputs: Option<String>,
    /// The processes.
    #[serde(rename = "process")]
    pub(crate) processes: Vec<Planned>,
}

/// One process of a local cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Planned {
    /// Its tier.
    pub(crate) tier: Role,
    /// Which of its tier, from 1.
    pub(crate) number: u32,
    /// Where it listens.
    pub(crate) listen: String,
    /// Where it publishes.
    pub(crate) telemetry: String,
}

impl Planned {
    /// `worker-2`: its name, and that of its folder.
    pub(crate) fn name(&self) -> String {
        format!("{}-{}", self.tier, self.number)
    }
}

impl Plan {
    /// The plan of a folder, where it has one.
    pub(crate) fn read(folder: &Path) -> Result<Option<Plan>, Failure> {
        let path = folder.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).during(|| format!("read {}", path.display())),
        };
        let plan = toml::from_str(&text).during(|| format!("read {}", path.display()))?;
        Ok(Some(plan))
    }

    /// Writes the plan into a folder.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), Failure> {
        let text = toml::to_string(self).during(|| "write the plan".into())?;
        let head = "# The processes of this local cluster. Written by `remuda dev`\n";
        super::replace(&folder.join(FILE), &format!("{head}{text}"))
    }

    /// The plan that holds from now on: what the folder has, with what the flags ask for.
    pub(crate) fn settle(before: Option<Plan>, flags: &DevStart) -> Result<Plan, Failure> {
        if let Some(before) = &before {
            before.check(flags)?;
        }
        let had = |role| before.as_ref().map(|plan| plan.count(role));
        let count = |role, asked: Option<u32>, default| asked.or(had(role)).unwrap_or(default);
        let workers = count(Role::Worker, flags.workers, 2);
        let slots = flags.slots.or(before.as_ref().map(|plan| plan.slots));
        let slots = slots.unwrap_or_else(|| (cores() / workers.max(1)).max(1));
        let inputs = before.as_ref().and_then(|plan| plan.inputs.clone());
        let inputs = flags.inputs.clone().or(inputs);
        let wanted = [
            (Role::Master, count(Role::Master, flags.masters, 3)),
            (Role::Storage, count(Role::Storage, flags.storage, 3)),
            (Role::Balancer, count(Role::Balancer, flags.balancers, 2)),
            (Role::Worker, workers),
        ];
        let known = before.map(|plan| plan.processes).unwrap_or_default();
        let mut ports = Ports::beside(&known)?;
        let mut processes = Vec::new();
        for (tier, count) in wanted {
            for number in 1..=count {
                let same = |it: &&Planned| it.tier == tier && it.number == number;
                processes.push(match known.iter().find(same) {
                    Some(planned) => planned.clone(),
                    None => {
                        Planned { tier, number, listen: ports.draw()?, telemetry: ports.draw()? }
                    }
                });
            }
        }
        Ok(Plan { slots, inputs, processes })
    }

    /// The processes of a tier.
    pub(crate) fn of(&self, tier: Role) -> impl Iterator<Item = &Planned> {
        self.processes.iter().filter(move |planned| planned.tier == tier)
    }

    /// Addresses of the masters.
    pub(crate) fn masters(&self) -> Vec<String> {
        self.of(Role::Master).map(|planned| planned.listen.clone()).collect()
    }

    fn count(&self, tier: Role) -> u32 {
        u32::try_from(self.of(tier).count()).unwrap_or(u32::MAX)
    }

    fn check(&self, flags: &DevStart) -> Result<(), Failure> {
        let fixed = [
            (Role::Master, flags.masters),
            (Role::Storage, flags.storage),
            (Role::Balancer, flags.balancers),
        ];
        for (tier, asked) in fixed {
            let has = self.count(tier);
            if asked.is_some_and(|asked| asked != has) {
                let text = format!("the cluster in this folder was made with {has} x {tier}");
                return Err(Failure::usage(text).hint(format!(
                    "leave --{} out, or make another cluster with --dir",
                    if tier == Role::Storage { "storage".to_owned() } else { format!("{tier}s") }
                )));
            }
        }
        Ok(())
    }

    /// The folder of a process.
    pub(crate) fn folder_of(folder: &Path, planned: &Planned) -> PathBuf {
        folder.join(planned.name())
    }
}

fn cores() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(cores).unwrap_or(u32::MAX)
}

/// Draws free ports, none twice.
struct Ports {
    random: fastrand::Rng,
    last: u16,
    taken: BTreeSet<String>,
}

impl Ports {
    fn beside(known: &[Planned]) -> Result<Ports, Failure> {
        let random = node::random::generator().during(|| "draw a port".into())?;
        let taken = known.iter().flat_map(|it| [it.listen.clone(), it.telemetry.clone()]).collect();
        Ok(Ports { random, last: last_port(), taken })
    }

    fn draw(&mut self) -> Result<String, Failure> {
        for _ in 0..DRAWS {
            let address = format!("tcp://127.0.0.1:{}", self.random.u16(FIRST_PORT..=self.last));
            if !self.taken.contains(&address) && is_free(&address) {
                self.taken.insert(address.clone());
                return Ok(address);
            }
        }
        Err(Failure::failed(format!("no free port between {FIRST_PORT} and {}", self.last)))
    }
}

/// The last port that the system does not give to outgoing connections.
fn last_port() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let first = range.ok().and_then(|range| range.split_whitespace().next()?.parse::<u16>().ok());
    match first {
        Some(first) if first > FIRST_PORT + 1_000 => first - 1,
        // The system gives out nearly all ports: then any is as good.
        Some(_) => u16::MAX,
        None => USUAL_LAST_PORT,
    }
}

/// True where a daemon could bind the address now.
fn is_free(address: &str) -> bool {
    let identity = Identity {
        node: NodeId(0),
        role: Role::Client,
        cluster: ClusterId(0),
        incarnation: Incarnation(0),
        version: String::new(),
        address: String::new(),
    };
    Network::bind(identity, address, Exposure::Loopback, Clock::start()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> DevStart {
        DevStart {
            masters: Some(1),
            balancers: Some(1),
            storage: Some(1),
            workers: Some(1),
            slots: Some(3),
            ..DevStart::default()
        }
    }

    #[test]
    fn a_plan_is_kept_and_workers_may_be_added() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Plan::read(folder.path()).unwrap(), None);
        let plan = Plan::settle(None, &small()).unwrap();
        plan.write(folder.path()).unwrap();
        let before = Plan::read(folder.path()).unwrap();
        assert_eq!(before.as_ref(), Some(&plan));
        let same = Plan::settle(before.clone(), &DevStart::default()).unwrap();
        assert_eq!(same, plan);
        let more = DevStart { workers: Some(3), ..DevStart::default() };
        let more = Plan::settle(before, &more).unwrap();
        assert_eq!(more.count(Role::Worker), 3);
        assert_eq!(more.processes[..plan.processes.len()], plan.processes);
    }

    #[test]
    fn tiers_that_hold_state_stay_as_they_are() {
        let plan = Plan::settle(None, &small()).unwrap();
        let other = DevStart { masters: Some(3), ..DevStart::default() };
        let refused = Plan::settle(Some(plan), &other).unwrap_err();
        assert!(format!("{refused:?}").contains("made with 1 x master"), "{refused:?}");
    }

    #[test]
    fn all_addresses_differ_and_the_defaults_are_those_of_the_manual() {
        let plan = Plan::settle(None, &DevStart::default()).unwrap();
        let counts = [Role::Master, Role::Storage, Role::Balancer, Role::Worker]
            .map(|tier| plan.count(tier));
        assert_eq!(counts, [3, 3, 2, 2]);
        let all: BTreeSet<&String> =
            plan.processes.iter().flat_map(|it| [&it.listen, &it.telemetry]).collect();
        assert_eq!(all.len(), 20);
    }

    #[test]
    fn a_port_in_use_is_not_free() {
        let mut ports = Ports::beside(&[]).unwrap();
        let address = ports.draw().unwrap();
        let identity = Identity {
            node: NodeId(1),
            role: Role::Worker,
            cluster: ClusterId(0),
            incarnation: Incarnation(1),
            version: String::new(),
            address: String::new(),
        };
        let bound = Network::bind(identity, &address, Exposure::Loopback, Clock::start()).unwrap();
        assert!(!is_free(&address));
        drop(bound);
        // The socket is closed by another thread.
        for _ in 0..1_000 {
            if is_free(&address) {
                return;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
        panic!("{address} is still in use");
    }
}
