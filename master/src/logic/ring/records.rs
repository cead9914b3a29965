//! What is told of the ring: `ring_reply` from any master's state, `ring_status` with what the
//! leader heard.

use std::collections::BTreeMap;

use proto::ids::NodeId;
use proto::messages::node::{
    OlderRing, RegisterRun, RingMember, RingNode, RingReply, RingStatus, StorageProgress,
};
use proto::record::encode;
use proto::ring::PARTITION_COUNT;
use proto::status::Role;
use proto::time::Duration;
use proto::wire::bytes_of;

use super::super::nodes::{Node, Nodes};
use super::super::storage_watch::StorageWatch;
use super::{Place, Rings};

/// Replicas of a file where there are storage nodes enough.
pub const REPLICAS: u32 = 2;

/// "Never" among milliseconds.
const NEVER: u64 = u64::MAX;

impl Rings {
    /// Default number of replicas of a file: as many as the newest version has owners for.
    fn replica_count(&self) -> u32 {
        let owners = self.members(self.newest).iter().filter(|place| place.weight > 0).count();
        REPLICAS.min(u32::try_from(owners).unwrap_or(REPLICAS)).max(1)
    }

    /// The ring in all its versions as a `ring_reply`.
    pub(in super::super) fn reply(&self, nodes: &Nodes) -> Vec<u8> {
        let zones = self.zones();
        let reached = reached(nodes);
        let mut addresses = String::new();
        let mut items = |members: &[Place]| -> Vec<RingMember> {
            members.iter().map(|place| member(place, &zones, &reached, &mut addresses)).collect()
        };
        let members = items(self.members(self.newest));
        let (mut older, mut older_members) = (Vec::new(), Vec::new());
        for (version, places) in self.versions.range(..self.newest).rev() {
            older_members.extend(items(places));
            older.push(OlderRing {
                ring_version: version.0,
                member_count: places.len() as u64,
                holds_blocks: u8::from(*version >= self.oldest),
            });
        }
        let run = |run: &super::PartRun| RegisterRun {
            part_count: run.count,
            ring_version: run.version.0,
        };
        let runs: Vec<RegisterRun> = self.parts.iter().map(run).collect();
        let reply = RingReply {
            ring_version: self.newest.0,
            partition_count: PARTITION_COUNT,
            // Not as many as there are nodes for at present: a file that is stored meanwhile gets its
            // replicas when there are more.
            replica_count: REPLICAS,
            ..RingReply::default()
        };
        let parts = [
            bytes_of(&members),
            addresses.as_bytes(),
            bytes_of(&older),
            bytes_of(&older_members),
            bytes_of(&runs),
        ];
        encode(&reply, &parts)
    }

    /// How the ring stands, with what the leader heard, as a `ring_status`.
    pub(in super::super) fn status(&self, watch: &StorageWatch) -> Vec<u8> {
        let zones = self.zones();
        let mut nodes = Vec::with_capacity(self.standings.len());
        let mut progress: Vec<StorageProgress> = Vec::with_capacity(self.standings.len());
        for standing in self.standings.values() {
            let node = standing.place.node;
            let place = self.place(node);
            let is_removable = self.may_remove(node, standing.place.store);
            let removal = place.filter(|_| is_removable).and_then(|_| watch.removal(node));
            nodes.push(RingNode {
                node_uuid: node.to_wire(),
                weight: place.map_or(0, |place| place.weight),
                zone: place.map_or(0, |place| zone_number(place, &zones)),
                state: self.state(node).to_wire(),
                silent_ms: milliseconds(watch.silence(node)),
                removal_ms: milliseconds(removal),
            });
            progress.push(watch.progress(node, standing.place.store));
        }
        let status = RingStatus {
            ring_version: self.newest.0,
            oldest_version: self.oldest.0,
            register_part_count: self.part_count_elsewhere(),
            replica_count: self.replica_count(),
            partition_count: PARTITION_COUNT,
            pass_round: self.pass_round,
            scrub_round: self.scrub_round,
            ..RingStatus::default()
        };
        encode(&status, &[bytes_of(&nodes), bytes_of(&progress)])
    }
}

fn milliseconds(span: Option<Duration>) -> u64 {
    span.map_or(NEVER, Duration::as_millis)
}

fn zone_number(place: &Place, zones: &[&str]) -> u32 {
    let at = zones.binary_search(&place.zone.as_str()).unwrap_or(0);
    u32::try_from(at).unwrap_or(0)
}

fn member(
    place: &Place,
    zones: &[&str],
    reached: &BTreeMap<NodeId, &str>,
    addresses: &mut String,
) -> RingMember {
    let address = reached.get(&place.node).copied().unwrap_or_default();
    addresses.push_str(address);
    RingMember {
        node_uuid: place.node.to_wire(),
        store_uuid: place.store.to_wire(),
        weight: place.weight,
        zone: zone_number(place, zones),
        address_length: address.len() as u64,
    }
}

/// Where storage nodes are reached. Of several with the same address it is the one that registered
/// last: the folder of the others was lost, and what answers there must not be taken for them.
fn reached(nodes: &Nodes) -> BTreeMap<NodeId, &str> {
    let mut last: BTreeMap<&str, &Node> = BTreeMap::new();
    for node in nodes.nodes.values().filter(|node| node.registration.role == Role::Storage) {
        let known = last.entry(node.registration.address.as_str()).or_insert(node);
        if known.index < node.index {
            *known = node;
        }
    }
    last.into_iter().map(|(address, node)| (node.registration.node, address)).collect()
}
