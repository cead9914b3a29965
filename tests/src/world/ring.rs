//! The ring of storage nodes as the checkers follow it, and where blocks are in the end.

use ::master::logic::cluster::Cluster;
use ::master::logic::ring::{Membership, REPLICAS, Rings};
use proto::ids::{BlockId, NodeId, RingVersion};
use proto::ring::{Member, PARTITION_COUNT, Ring};

use crate::process::{Process, node_id};
use crate::report::Happening;
use crate::world::World;

impl World {
    /// Counts how the ring changed since the newest state that a master showed.
    pub(super) fn follow_rings(&mut self, cluster: &Cluster) {
        if cluster.applied <= self.newest {
            return;
        }
        let rings = &cluster.rings;
        let (newest, oldest) = self.rings;
        self.report.add(Happening::RingVersions, rings.newest().0.saturating_sub(newest.0));
        let is_drained = oldest < newest && rings.oldest() == rings.newest();
        self.report.add(Happening::RingsDrained, u64::from(is_drained));
        self.rings = (rings.newest(), rings.oldest());
        let silent = rings.standings().filter(|it| it.membership == Membership::Silent);
        let silent = silent.map(|standing| standing.place.node).collect();
        let before = std::mem::replace(&mut self.silent, silent);
        let removed = self.silent.difference(&before).count();
        self.report.add(Happening::NodesRemoved, removed as u64);
    }

    /// What of the ring and of the blocks is not as it has to be once everything is mended, in
    /// words: all older versions are dropped, all passes are full, and every block is with its
    /// owners by the newest version and nowhere else.
    pub(super) fn misplaced(&self) -> Option<String> {
        let processes = self.machines.iter().filter_map(|machine| machine.process.as_ref());
        let cluster = processes.filter_map(Process::cluster).max_by_key(|it| it.applied)?;
        let rings = &cluster.rings;
        let newest = rings.newest();
        if self.storage.is_empty() || newest == RingVersion(0) {
            return None;
        }
        if rings.oldest() < newest {
            return Some(format!("blocks still lie by ring {}, of {newest}", rings.oldest()));
        }
        let ring = ring_of(rings, newest)?;
        let mut nodes = Vec::new();
        for (place, &process) in self.storage.iter().enumerate() {
            let machine = &self.machines[process.0];
            let node = node_id(b's', place, machine.lost_disks);
            let is_member = ring.members().iter().any(|member| member.node == node);
            match &machine.process {
                Some(running) => {
                    if is_member && running.passed() != Some(newest) {
                        return Some(format!("{}: its pass by ring {newest}", machine.name));
                    }
                    let is_bad = self.blocks.is_bad(self.disk_of(process));
                    nodes.push((node, running, is_bad));
                }
                None if is_member => return Some(format!("{}: dead and a member", machine.name)),
                None => {}
            }
        }
        let kept = self.blocks.kept();
        kept.into_iter().find_map(|block| wrong_place(&ring, &nodes, block))
    }
}

/// Where a block is missing, or lies though it does not belong there. What rotten bits made of a
/// disk is not known.
fn wrong_place(ring: &Ring, nodes: &[(NodeId, &Process, bool)], block: BlockId) -> Option<String> {
    let owners = ring.owners(block, REPLICAS as usize);
    nodes.iter().filter(|(.., is_bad)| !is_bad).find_map(|(node, process, _)| {
        let is_there = process.missing(&[block]).is_none();
        let is_owner = owners.contains(node);
        (is_there != is_owner).then(|| {
            let what = if is_owner { "lacks" } else { "still has" };
            format!("node {node} {what} block {block} of {owners:?}")
        })
    })
}

/// A version of the ring; simulated nodes are in one zone.
fn ring_of(rings: &Rings, version: RingVersion) -> Option<Ring> {
    let members = rings.members(version).iter().map(|place| Member {
        node: place.node,
        store: place.store,
        weight: place.weight,
        zone: 0,
    });
    Ring::new(version, PARTITION_COUNT, members.collect()).ok()
}
