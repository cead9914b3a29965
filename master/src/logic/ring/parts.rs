//! The parts of the registers: by which version each goes, and when it goes by another one.
//!
//! Part of `apply`. Storage nodes move a part: they seal a majority of its replicas under the
//! version that is active, store what those have on a majority of the next one's replicas, and have
//! that one activated here. An activation applies only where the version that it leaves is still
//! the active one, so that of two that move the same part one has no effect.

use std::collections::{BTreeMap, BTreeSet};

use proto::ids::{NodeId, RingVersion, StoreId};
use proto::messages::node::RegisterMove;
use proto::register::{self, Part};
use proto::ring::Ring;
use serde::{Deserialize, Serialize};

use super::{Place, Rings, placement};

/// Consecutive parts that go by the same version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PartRun {
    /// How many.
    pub(super) count: u32,
    /// The version that is active for them.
    pub(super) version: RingVersion,
}

/// A part whose registers a majority of another version's replicas have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartMove {
    /// Number of the part.
    pub part: u32,
    /// The version that it leaves.
    pub from: RingVersion,
    /// The version that it goes by from now on.
    pub to: RingVersion,
}

impl From<&RegisterMove> for PartMove {
    fn from(item: &RegisterMove) -> PartMove {
        PartMove {
            part: item.part,
            from: RingVersion(item.from_version),
            to: RingVersion(item.to_version),
        }
    }
}

/// Who keeps a part: a node that came back with another store has nothing of it.
type Replicas = BTreeSet<(NodeId, StoreId)>;

impl Rings {
    /// The first version is active for all parts: nothing has been written yet.
    pub(super) fn begin_parts(&mut self) {
        let first = self.ring(self.newest);
        let count = first.map_or(0, |ring| register::part_count(&ring));
        self.parts = vec![PartRun { count, version: self.newest }];
    }

    /// Parts that do not go by the newest version yet.
    #[must_use]
    pub fn part_count_elsewhere(&self) -> u64 {
        let elsewhere = self.parts.iter().filter(|run| run.version != self.newest);
        elsewhere.map(|run| u64::from(run.count)).sum()
    }

    /// Parts have been moved. What leaves another version than the active one, or goes to one that
    /// is older or not there, has no effect.
    pub(in super::super) fn activate(&mut self, moves: &[PartMove]) {
        let mut active = self.active();
        for it in moves {
            let Some(version) = active.get_mut(it.part as usize) else { continue };
            if *version == it.from && it.from < it.to && self.versions.contains_key(&it.to) {
                *version = it.to;
            }
        }
        self.set_active(&active);
        self.activate_same_sets();
        self.settle();
    }

    /// Parts that the same replicas keep under the newest version go by it at once: a majority of
    /// them then has a node in common with every one of before.
    pub(super) fn activate_same_sets(&mut self) {
        let mut active = self.active();
        let elsewhere: BTreeSet<RingVersion> =
            active.iter().copied().filter(|version| *version != self.newest).collect();
        if elsewhere.is_empty() {
            return;
        }
        let Some(newest) = self.ring(self.newest) else { return };
        let rings: BTreeMap<RingVersion, Ring> =
            elsewhere.into_iter().filter_map(|it| Some((it, self.ring(it)?))).collect();
        for (part, version) in (0..).map(Part).zip(&mut active) {
            let Some(ring) = rings.get(version) else { continue };
            let before = self.replicas(ring, part);
            if before == self.replicas(&newest, part) {
                *version = self.newest;
            }
        }
        self.set_active(&active);
    }

    fn ring(&self, version: RingVersion) -> Option<Ring> {
        placement(version, self.versions.get(&version)?, &self.zones())
    }

    fn replicas(&self, ring: &Ring, part: Part) -> Replicas {
        let members = self.members(ring.version());
        let store = |node: NodeId| {
            let at = members.binary_search_by_key(&node, |place: &Place| place.node).ok()?;
            Some((node, members.get(at)?.store))
        };
        register::replicas(ring, part).into_iter().filter_map(store).collect()
    }

    /// The active version of each part.
    pub(super) fn active(&self) -> Vec<RingVersion> {
        let versions = |run: &PartRun| std::iter::repeat_n(run.version, run.count as usize);
        self.parts.iter().flat_map(versions).collect()
    }

    fn set_active(&mut self, active: &[RingVersion]) {
        let runs = active.chunk_by(|one, other| one == other);
        let run = |same: &[RingVersion]| {
            let count = u32::try_from(same.len()).ok()?;
            same.first().map(|&version| PartRun { count, version })
        };
        self.parts = runs.filter_map(run).collect();
    }

    /// Walks the parts and panics on a broken invariant.
    pub(super) fn check_parts(&self) {
        let count: u32 = self.parts.iter().map(|run| run.count).sum();
        let all = self.ring(self.newest).map_or(0, |ring| register::part_count(&ring));
        assert_eq!(count, all, "every part goes by a version");
        let is_merged =
            |pair: &[PartRun]| matches!(pair, [one, other] if one.version != other.version);
        assert!(self.parts.windows(2).all(is_merged), "runs are as long as they can be");
    }
}
