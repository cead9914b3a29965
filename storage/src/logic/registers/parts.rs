//! Which nodes keep which part of the registers under which version of the ring, and which version
//! each part goes by.

use std::collections::BTreeMap;

use proto::ids::{NodeId, RingVersion, StoreId};
use proto::limits;
use proto::register::{self, Part};
use proto::ring::Ring;

/// The replicas under one version.
#[derive(Debug)]
struct Version {
    /// By part.
    replicas: Vec<Vec<NodeId>>,
    /// Whether the member with this node's UUID has this node's data folder. With another one it
    /// is a replica that lost what it had, and must not stand in for it.
    has_own_store: bool,
}

/// What this node knows of the parts.
#[derive(Debug)]
pub(super) struct Parts {
    node: NodeId,
    store: StoreId,
    part_count: u32,
    newest: RingVersion,
    /// By part; empty before a ring is known.
    active: Vec<RingVersion>,
    versions: BTreeMap<RingVersion, Version>,
}

impl Parts {
    pub(super) fn new(node: NodeId, store: StoreId) -> Parts {
        Parts {
            node,
            store,
            part_count: limits::REGISTER_PARTITIONS,
            newest: RingVersion(0),
            active: Vec::new(),
            versions: BTreeMap::new(),
        }
    }

    /// Takes in all versions of the ring that are not left and the active one of each part.
    /// Answers late or twice change nothing: no part goes back.
    pub(super) fn learn(&mut self, rings: &[&Ring], active: &[RingVersion]) {
        let Some(newest) = rings.iter().max_by_key(|ring| ring.version()) else { return };
        let part_count = register::part_count(newest);
        if newest.version() < self.newest || active.len() != part_count as usize {
            return;
        }
        (self.newest, self.part_count) = (newest.version(), part_count);
        self.active.resize(active.len(), RingVersion(0));
        for (known, &told) in self.active.iter_mut().zip(active) {
            *known = told.max(*known);
        }
        let is_listed = |version| rings.iter().any(|ring| ring.version() == version);
        self.versions.retain(|&version, _| is_listed(version));
        for ring in rings {
            self.versions.entry(ring.version()).or_insert_with(|| Version {
                replicas: (0..part_count)
                    .map(|part| register::replicas(ring, Part(part)))
                    .collect(),
                has_own_store: ring
                    .members()
                    .iter()
                    .any(|member| member.node == self.node && member.store == self.store),
            });
        }
    }

    /// This node.
    pub(super) fn node(&self) -> NodeId {
        self.node
    }

    /// Number of parts.
    pub(super) fn count(&self) -> u32 {
        self.part_count
    }

    /// All parts.
    pub(super) fn all(&self) -> impl Iterator<Item = Part> + use<> {
        (0..self.part_count).map(Part)
    }

    /// The part of a register.
    pub(super) fn of(&self, address: u64) -> Part {
        register::part_of(address, self.part_count)
    }

    /// The newest version; 0 before one is known.
    pub(super) fn newest(&self) -> RingVersion {
        self.newest
    }

    /// The version that a part goes by; `None` before a ring is known, and for what is no part.
    pub(super) fn active(&self, part: Part) -> Option<RingVersion> {
        self.active.get(part.0 as usize).copied()
    }

    /// Whether a version is known.
    pub(super) fn knows(&self, version: RingVersion) -> bool {
        self.versions.contains_key(&version)
    }

    /// The replicas of a part under a version; none where that is not known.
    pub(super) fn replicas(&self, version: RingVersion, part: Part) -> &[NodeId] {
        let known = self.versions.get(&version);
        let replicas = known.and_then(|known| known.replicas.get(part.0 as usize));
        replicas.map(Vec::as_slice).unwrap_or_default()
    }

    /// This node's place among the replicas of a part under a version; `None` where it is none.
    pub(super) fn rank(&self, version: RingVersion, part: Part) -> Option<usize> {
        self.versions.get(&version).filter(|known| known.has_own_store)?;
        self.replicas(version, part).iter().position(|&node| node == self.node)
    }

    /// Whether this node's copies of a part are of use: under the active version or a later one.
    pub(super) fn is_kept(&self, part: Part) -> bool {
        let Some(active) = self.active(part) else { return true };
        // What the masters do not list is not left: something is known wrongly, so keep it.
        !self.knows(active)
            || self.versions.range(active..).any(|(&version, _)| self.rank(version, part).is_some())
    }
}
