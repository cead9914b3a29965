//! What the masters of a local cluster say of its nodes, and who each data folder says it is.

use std::path::Path;

use node::clock::Clock;
use node::logic::backoff::Backoff;
use node::logic::calls::CallPolicy;
use node::logic::network::Identity;
use node::rpc::RpcClient;
use proto::ids::{ClusterId, Incarnation, NodeId};
use proto::messages::job::ListEnd;
use proto::messages::node::{NodeEntry, NodeList};
use proto::record::{Message, Record, RecordError, encode};
use proto::status::Role;
use proto::time::Duration;

use super::plan::Plan;
use crate::failure::{During, Failure, chain};

/// One attempt at one master; on loopback an answer takes a millisecond.
const TIMEOUT: Duration = Duration::from_millis(500);

const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(20), longest: Duration::from_millis(200) };

/// Asks the masters of a local cluster.
#[derive(Debug)]
pub(crate) struct Roster {
    rpc: RpcClient,
}

impl Roster {
    /// A client of these masters that gives up after `patience`.
    pub(crate) fn of(masters: Vec<String>, patience: Duration) -> Result<Roster, Failure> {
        let drawn = || "draw a node UUID".into();
        let identity = Identity {
            node: NodeId::from_random(node::random::bits().during(drawn)?),
            role: Role::Client,
            cluster: ClusterId(0),
            incarnation: Incarnation(0),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            address: String::new(),
        };
        let policy = CallPolicy { timeout: TIMEOUT, attempts: u32::MAX, patience };
        let rpc = RpcClient::new(identity, Clock::start(), masters, policy, BACKOFF)
            .during(|| "connect to the masters".into())?;
        Ok(Roster { rpc })
    }

    /// The nodes that the masters know; an explanation where none answers.
    pub(crate) fn nodes(&mut self) -> Result<Vec<Listed>, String> {
        let mut listed = Vec::new();
        let record = encode(&NodeList::default(), &[]);
        let whole = self.rpc.call(record, |record| read(record, &mut listed));
        match whole {
            Ok(true) => Ok(listed),
            Ok(false) => Err("part of the list of nodes was lost on the way".into()),
            Err(error) => Err(chain(&error)),
        }
    }
}

/// A node as the masters list it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// The node.
    pub(crate) node: NodeId,
    /// Its tier.
    pub(crate) role: Role,
    /// How often its data folder was started when it registered last.
    pub(crate) incarnation: Incarnation,
    /// True for the leading master and for a primary balancer.
    pub(crate) leads: bool,
}

/// Takes one record of a listing; at its end, whether all came.
fn read(record: &Record<'_>, listed: &mut Vec<Listed>) -> Result<Option<bool>, RecordError> {
    if record.message_type() == ListEnd::TYPE {
        let end: ListEnd = record.read()?;
        return Ok(Some(end.count == listed.len() as u64));
    }
    let entry: NodeEntry = record.read()?;
    let role = Role::from_wire(entry.role)
        .ok_or(RecordError::Value { message_type: NodeEntry::TYPE, field: "role" })?;
    listed.push(Listed {
        node: entry.entry_uuid.into(),
        role,
        incarnation: Incarnation(entry.incarnation),
        leads: entry.leads != 0,
    });
    Ok(None)
}

/// Who a data folder says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FolderIdentity {
    /// Its node.
    pub(crate) node: NodeId,
    /// Its cluster; `None` before it joined one.
    pub(crate) cluster: Option<ClusterId>,
    /// How often it was started.
    pub(crate) incarnation: Incarnation,
}

/// Reads who a data folder is; `None` where it was not made yet, or is being made.
pub(crate) fn identity_of(folder: &Path) -> Option<FolderIdentity> {
    let text = std::fs::read_to_string(folder.join("identity")).ok()?;
    let table: toml::Table = text.parse().ok()?;
    let text = |key: &str| table.get(key)?.as_str();
    Some(FolderIdentity {
        node: text("node")?.parse().ok()?,
        cluster: text("cluster").and_then(|cluster| cluster.parse().ok()),
        incarnation: Incarnation(u64::try_from(table.get("incarnation")?.as_integer()?).ok()?),
    })
}

/// What the cluster still lacks before it answers: every node of the plan registered since its last
/// start, a leading master and a primary balancer. Empty where nothing does.
pub(crate) fn lacks(plan: &Plan, folder: &Path, nodes: &[Listed]) -> Vec<String> {
    let mut lacks = Vec::new();
    for planned in &plan.processes {
        let known = identity_of(&Plan::folder_of(folder, planned)).is_some_and(|identity| {
            let same = |it: &&Listed| it.node == identity.node;
            let found = nodes.iter().find(same);
            found.is_some_and(|it| it.incarnation == identity.incarnation)
        });
        if !known {
            lacks.push(planned.name());
        }
    }
    for (role, what) in [(Role::Master, "a leader"), (Role::Balancer, "a primary balancer")] {
        if !nodes.iter().any(|it| it.role == role && it.leads) {
            lacks.push(what.into());
        }
    }
    lacks
}

#[cfg(test)]
mod tests {
    use node::data_folder::DataFolder;

    use super::*;
    use crate::flags::DevStart;

    #[test]
    fn a_folder_says_who_it_is() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(identity_of(folder.path()), None);
        let open = DataFolder::open(folder.path(), Role::Worker, Some(ClusterId(7))).unwrap();
        let expected = FolderIdentity {
            node: open.node(),
            cluster: Some(ClusterId(7)),
            incarnation: Incarnation(1),
        };
        assert_eq!(identity_of(folder.path()), Some(expected));
    }

    #[test]
    fn a_cluster_answers_when_all_are_there_since_their_last_start_and_both_lead() {
        let outer = tempfile::tempdir().unwrap();
        let flags = DevStart {
            masters: Some(1),
            balancers: Some(1),
            storage: Some(1),
            workers: Some(1),
            ..DevStart::default()
        };
        let plan = Plan::settle(None, &flags).unwrap();
        let mut nodes = Vec::new();
        for planned in &plan.processes {
            let folder = Plan::folder_of(outer.path(), planned);
            let open = DataFolder::open(&folder, planned.tier, None).unwrap();
            nodes.push(Listed {
                node: open.node(),
                role: planned.tier,
                incarnation: open.incarnation(),
                leads: false,
            });
        }
        let lacking = |nodes: &[Listed]| lacks(&plan, outer.path(), nodes);
        assert_eq!(lacking(&nodes), ["a leader", "a primary balancer"]);
        nodes.iter_mut().for_each(|it| it.leads = it.role != Role::Worker);
        assert!(lacking(&nodes).is_empty());
        let worker = plan.of(Role::Worker).next().unwrap();
        let folder = Plan::folder_of(outer.path(), worker);
        drop(DataFolder::open(&folder, Role::Worker, None).unwrap());
        assert_eq!(lacking(&nodes), ["worker-1"]);
    }
}
