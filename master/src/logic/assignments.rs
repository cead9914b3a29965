//! What a master tells workers and users of the groups as they are now: workers that were given to
//! another group hear of it at once, and a group's count of running tasks ends with the group.
//!
//! Soft state: a worker that does not hear of it asks when its balancers fall silent.

use std::collections::BTreeMap;

use node::logic::network::{Peer, Sender};
use proto::ids::{JobId, LogIndex, NodeId, RequestId};
use proto::status::Role;

use super::nodes::Nodes;
use super::{Effect, Master};

/// The workers that have a session with this master.
#[derive(Clone, Debug, Default)]
pub(super) struct Assignments {
    workers: BTreeMap<NodeId, Peer>,
    /// What was logged up to this index was told.
    told: LogIndex,
}

impl Assignments {
    /// A session began.
    pub(super) fn joined(&mut self, sender: &Sender) {
        if sender.role == Role::Worker {
            self.workers.insert(sender.node, sender.peer);
        }
    }

    /// A session ended.
    pub(super) fn left(&mut self, sender: &Sender) {
        if self.workers.get(&sender.node) == Some(&sender.peer) {
            self.workers.remove(&sender.node);
        }
    }

    /// The workers here that were given to another group and were not told so.
    fn news(&mut self, nodes: &Nodes) -> Vec<(Peer, NodeId)> {
        if nodes.last_move <= self.told {
            return Vec::new();
        }
        let told = std::mem::replace(&mut self.told, nodes.last_move);
        let is_new =
            |worker: &NodeId| nodes.nodes.get(worker).is_some_and(|node| node.index > told);
        let workers = self.workers.iter().filter(|(worker, _)| is_new(worker));
        workers.map(|(&worker, &peer)| (peer, worker)).collect()
    }
}

/// Tasks dealt by job, as the primary of each group last told the leader.
#[derive(Clone, Debug, Default)]
pub(super) struct Running {
    groups: BTreeMap<u64, BTreeMap<JobId, u64>>,
}

impl Running {
    /// What the primary of a group told.
    pub(super) fn told(&mut self, number: u64, nodes: &Nodes, counts: BTreeMap<JobId, u64>) {
        self.groups.insert(number, counts);
        self.groups.retain(|number, _| nodes.groups.contains_key(number));
    }

    /// Tasks of a job that are dealt.
    pub(super) fn count(&self, job: JobId, nodes: &Nodes) -> u64 {
        let groups = self.groups.iter().filter(|(number, _)| nodes.groups.contains_key(*number));
        groups.filter_map(|(_, counts)| counts.get(&job)).sum()
    }
}

impl Master {
    /// Tells workers their new group, unasked.
    pub(super) fn tell_assignments(&mut self, effects: &mut Vec<Effect>) {
        for (peer, worker) in self.assignments.news(&self.member.state().nodes) {
            self.reply_registered(peer, RequestId(0), worker, effects);
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::ids::Incarnation;

    use super::super::nodes::Registration;
    use super::*;

    fn with_two_groups() -> Nodes {
        let mut nodes = Nodes::default();
        for (node, role) in [(1, Role::Balancer), (2, Role::Balancer), (3, Role::Balancer)] {
            nodes.register(Registration::bare(NodeId(node), role), LogIndex(node as u64));
        }
        for worker in 10..14 {
            let bare = Registration::bare(NodeId(worker), Role::Worker);
            let registration = Registration { slot_count: 1, ..bare };
            nodes.register(registration, LogIndex(worker as u64));
        }
        nodes
    }

    #[test]
    fn the_count_of_a_group_that_is_gone_counts_for_nothing() {
        let mut nodes = with_two_groups();
        let mut running = Running::default();
        let counts = |count| BTreeMap::from([(JobId(5), count)]);
        running.told(1, &nodes, counts(3));
        running.told(2, &nodes, counts(4));
        assert_eq!(running.count(JobId(5), &nodes), 7);
        let epoch = nodes.groups[&1].epoch;
        assert!(nodes.lose_group(1, epoch, 2, LogIndex(20)).is_some());
        assert_eq!(running.count(JobId(5), &nodes), 4);
    }

    #[test]
    fn a_worker_is_told_of_a_move_once() {
        let mut nodes = with_two_groups();
        let mut assignments = Assignments::default();
        let peer = |number| Peer::Link(node::logic::network::Link(number));
        for worker in [10, 11] {
            let sender = Sender {
                peer: peer(worker as u32),
                node: NodeId(worker),
                role: Role::Worker,
                incarnation: Incarnation(1),
            };
            assignments.joined(&sender);
        }
        assert!(assignments.news(&nodes).is_empty(), "nobody was moved");
        let other = |nodes: &Nodes, worker| 3 - nodes.nodes[&NodeId(worker)].group;
        assignments.told = LogIndex(15);
        let moves = [(NodeId(10), other(&nodes, 10)), (NodeId(13), other(&nodes, 13))];
        nodes.move_workers(&moves, LogIndex(20));
        assert_eq!(assignments.news(&nodes), [(peer(10), NodeId(10))]);
        assert!(assignments.news(&nodes).is_empty());
    }
}
