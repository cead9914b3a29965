//! The roster: nodes of the other tiers, and where they belong.

use imbl::OrdMap;
use proto::ids::{Epoch, Incarnation, LogIndex, NodeId, StoreId};
use proto::status::Role;
use serde::{Deserialize, Serialize};

use super::commands::Output;
pub use super::groups::Group;

/// What a node says of itself when it registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The node.
    pub node: NodeId,
    /// Its tier.
    pub role: Role,
    /// How often its data folder was started.
    pub incarnation: Incarnation,
    /// Where others reach it.
    pub address: String,
    /// Where its PUB socket is bound.
    pub telemetry_address: String,
    /// Its failure zone.
    pub zone: String,
    /// Slots of a worker.
    pub slot_count: u32,
    /// Thousandths of a CPU of a worker.
    pub cpu_milli: u64,
    /// Bytes of memory of a worker, of disk of a storage node.
    pub capacity_bytes: u64,
    /// A storage node's data folder.
    pub store: StoreId,
    /// A storage node's weight on the ring.
    pub weight: u32,
    /// A master's number among the masters; 0 for others.
    pub member: u64,
}

#[cfg(test)]
impl Registration {
    /// What a node says at its first start that has nothing to say beside its role.
    pub(crate) fn bare(node: NodeId, role: Role) -> Registration {
        Registration {
            node,
            role,
            incarnation: Incarnation(1),
            address: String::new(),
            telemetry_address: String::new(),
            zone: String::new(),
            slot_count: 0,
            cpu_milli: 0,
            capacity_bytes: 0,
            store: StoreId(0),
            weight: 0,
            member: 0,
        }
    }
}

/// A node of the roster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// What it said when this incarnation registered.
    pub registration: Registration,
    /// Log index of that entry; for a worker the number of its assignment.
    pub index: LogIndex,
    /// Its balancer group; 0 for none.
    pub group: u64,
    /// Number of the last status frame of this incarnation, and the reply that it got.
    pub last_frame: u64,
    /// See `last_frame`.
    pub frame_reply: Option<Output>,
    /// A worker of which its primary has not heard for long, nor the masters since.
    pub is_silent: bool,
}

impl Node {
    /// True for a balancer whose group was given up, or whose seat another one may take.
    #[must_use]
    pub fn has_lost_seat(&self) -> bool {
        self.registration.role == Role::Balancer && self.group == 0
    }

    /// Slots that the node adds to its group.
    #[must_use]
    pub fn slot_count(&self) -> u64 {
        match self.registration.role {
            Role::Worker if !self.is_silent => u64::from(self.registration.slot_count),
            _ => 0,
        }
    }
}

/// The roster. Part of the replicated state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Nodes {
    /// Every node that registered.
    pub nodes: OrdMap<NodeId, Node>,
    /// The balancer groups, by number from 1.
    pub groups: OrdMap<u64, Group>,
    /// The last number that a group was given. None is given twice: whoever comes back with the number
    /// of a group that is gone must not be taken for one of another.
    pub last_group: u64,
    /// The last epoch that was given; one counter for the whole cluster.
    pub last_epoch: Epoch,
    /// Log index of the last entry that gave workers to another group.
    pub last_move: LogIndex,
}

impl Nodes {
    /// Puts a node into the roster and gives it its place. Registering the same incarnation again
    /// changes nothing, but for a balancer that lost its seat and a worker that was silent.
    pub fn register(&mut self, registration: Registration, index: LogIndex) -> Output {
        let known = self.nodes.get(&registration.node).cloned();
        if let Some(node) = &known
            && registration.role != node.registration.role
        {
            return Output::refused(
                proto::status::ErrorCode::NotAllowed,
                format!(
                    "node {} is a {}, and stays one: start a {} on a folder of its own",
                    registration.node, node.registration.role, registration.role
                ),
            );
        }
        if let Some(node) = &known
            && registration.incarnation < node.registration.incarnation
        {
            return Output::refused(
                proto::status::ErrorCode::OldEpoch,
                format!(
                    "incarnation {} of node {} is over: incarnation {} has registered",
                    registration.incarnation, registration.node, node.registration.incarnation
                ),
            );
        }
        if let Some(node) = &known
            && registration.incarnation == node.registration.incarnation
            && !node.has_lost_seat()
        {
            self.end_silence(registration.node);
            return Output::Registered { index: node.index };
        }
        let role = registration.role;
        let id = registration.node;
        let group = match role {
            Role::Balancer => self.seat_balancer(id, index),
            Role::Worker => {
                let before = known.as_ref().map(|node| node.group);
                let group = before.filter(|group| self.groups.contains_key(group));
                group.unwrap_or_else(|| self.lightest_group())
            }
            _ => 0,
        };
        let node =
            Node { registration, index, group, last_frame: 0, frame_reply: None, is_silent: false };
        if let Some(before) = &known {
            self.leave_group(before);
        }
        self.join_group(&node);
        self.nodes.insert(id, node);
        Output::Registered { index }
    }

    /// All workers.
    pub fn workers(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| node.registration.role == Role::Worker)
    }

    /// All storage nodes, by UUID.
    pub fn storage(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| node.registration.role == Role::Storage)
    }

    /// The master that has this number among the masters.
    #[must_use]
    pub fn master(&self, member: u64) -> Option<NodeId> {
        let mut masters = self.nodes.values().filter(|node| node.registration.role == Role::Master);
        masters.find(|node| node.registration.member == member).map(|node| node.registration.node)
    }

    /// Addresses of a group's balancers, the primary first, separated by a comma.
    #[must_use]
    pub fn balancer_addresses(&self, group: u64) -> String {
        let Some(group) = self.groups.get(&group) else {
            return String::new();
        };
        let seats = [group.primary, group.auxiliary];
        let nodes = seats.iter().flatten().filter_map(|id| self.nodes.get(id));
        nodes.map(|node| node.registration.address.as_str()).collect::<Vec<_>>().join(",")
    }

    /// Panics on a broken invariant.
    pub fn check_invariants(&self) {
        self.check_groups();
    }
}
