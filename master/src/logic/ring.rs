//! The ring of storage nodes as it changes: its versions, what each node is to it, and when an
//! older version is dropped.
//!
//! Part of the replicated state and of `apply`. A *version* is announced by an entry; the nodes
//! move blocks; when all that may hold blocks by an older version reported a full pass under the
//! newest one, the older ones are dropped. What the members shall be stands in `standings`; where
//! the newest version says otherwise and there is no room for another one, it is announced when a
//! version is dropped, with all that came together until then. Deliberately not here: who is silent
//! (`storage_watch.rs`), and where a block lies (`proto::ring`).

mod changes;
mod parts;
mod records;

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdMap;
use proto::ids::{NodeId, RingVersion, StoreId};
use proto::limits;
use proto::ring::{self, PARTITION_COUNT};
use proto::status::RingState;
use serde::{Deserialize, Serialize};

pub use self::parts::PartMove;
use self::parts::PartRun;
pub use self::records::REPLICAS;
use super::nodes::Registration;

/// Versions that are not drained, above which nodes that join wait for each other: a hundred that
/// are started together are announced in nine entries, not in a hundred (eyeballed).
const JOIN_VERSIONS: u64 = 8;

/// Versions that are not drained, above which users' changes are refused even by force.
const CHANGE_VERSIONS: u64 = 12;

/// Versions that are not drained at most. Those beyond [`CHANGE_VERSIONS`] are kept for the dead:
/// while one is an owner no pass is full, so that it has to be left out of a version before any is
/// dropped.
const VERSIONS: u64 = limits::RING_VERSIONS as u64;

const _: () = assert!(JOIN_VERSIONS < CHANGE_VERSIONS && CHANGE_VERSIONS < VERSIONS);

/// A member's place in a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The node.
    pub node: NodeId,
    /// Its data folder.
    pub store: StoreId,
    /// Its share relative to the others'; 0 for one that owns nothing.
    pub weight: u32,
    /// Its failure zone.
    pub zone: String,
}

/// What a storage node is to the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Membership {
    /// It registered without a weight, or there was no room for it.
    Spare,
    /// It belongs to the members; until a version has it, it waits.
    Member,
    /// It hands over what it has: a member that owns nothing.
    Draining,
    /// It has handed over all that it had.
    Drained,
    /// A user removed it.
    Removed,
    /// It was removed because it was silent, and comes back when it is heard.
    Silent,
}

/// How a storage node stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The place that it has, or would have.
    pub place: Place,
    /// What it is.
    pub membership: Membership,
    /// The newest version under which this store reported a full pass.
    pub passed: RingVersion,
}

impl Standing {
    /// The place that it shall have in the next version.
    fn wanted(&self) -> Option<Place> {
        match self.membership {
            Membership::Member => Some(self.place.clone()),
            Membership::Draining => Some(Place { weight: 0, ..self.place.clone() }),
            _ => None,
        }
    }

    /// True where a version may count on it.
    fn is_member(&self) -> bool {
        matches!(self.membership, Membership::Member | Membership::Draining)
    }
}

/// The ring in all its versions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rings {
    /// The newest version; 0 while no storage node has been there.
    newest: RingVersion,
    /// The oldest one by which blocks may still lie.
    oldest: RingVersion,
    /// From `oldest` to `newest`, and before those the ones by which registers go; each with its
    /// members by UUID.
    versions: OrdMap<RingVersion, Arc<Vec<Place>>>,
    /// Every storage node of the roster.
    standings: OrdMap<NodeId, Standing>,
    /// By which version the parts of the registers go; empty while there is none.
    parts: Vec<PartRun>,
    /// The round of passes that was asked for last.
    pass_round: u64,
    /// The round of checking digests that was asked for last.
    scrub_round: u64,
}

impl Rings {
    /// The newest version; 0 while no storage node has been there.
    #[must_use]
    pub fn newest(&self) -> RingVersion {
        self.newest
    }

    /// The oldest version by which blocks may still lie; the newest one where nothing moves.
    #[must_use]
    pub fn oldest(&self) -> RingVersion {
        self.oldest
    }

    /// The rounds that were asked for last: of passes, and of checking digests.
    #[must_use]
    pub fn rounds(&self) -> (u64, u64) {
        (self.pass_round, self.scrub_round)
    }

    /// The members of a version by UUID; none where nothing goes by it.
    #[must_use]
    pub fn members(&self, version: RingVersion) -> &[Place] {
        self.versions.get(&version).map_or(&[], |members| members.as_slice())
    }

    /// Every storage node of the roster, by UUID.
    pub fn standings(&self) -> impl Iterator<Item = &Standing> {
        self.standings.values()
    }

    /// How a node stands; `None` for one that is no storage node of the roster.
    #[must_use]
    pub fn standing(&self, node: NodeId) -> Option<&Standing> {
        self.standings.get(&node)
    }

    /// Its place in the newest version.
    #[must_use]
    pub fn place(&self, node: NodeId) -> Option<&Place> {
        let members = self.members(self.newest);
        let at = members.binary_search_by_key(&node, |place| place.node).ok()?;
        members.get(at)
    }

    /// What users are told that a node is; one that waits for a version is not a member yet.
    #[must_use]
    pub fn state(&self, node: NodeId) -> RingState {
        match self.standing(node).map(|standing| standing.membership) {
            Some(Membership::Member) if self.place(node).is_some() => RingState::Member,
            Some(Membership::Member | Membership::Spare) | None => RingState::Spare,
            Some(Membership::Draining) => RingState::Draining,
            Some(Membership::Drained) => RingState::Drained,
            Some(Membership::Removed | Membership::Silent) => RingState::Removed,
        }
    }

    /// True where a pass of this store under this version brings the ring on.
    #[must_use]
    pub fn wants_pass(&self, node: NodeId, store: StoreId, version: RingVersion) -> bool {
        let is_news =
            |it: &Standing| it.is_member() && it.place.store == store && it.passed < version;
        let is_moving = self.oldest < self.newest && version == self.newest;
        is_moving && self.standing(node).is_some_and(is_news)
    }

    /// True for a member that is removed when this store of it is silent for too long: there is room
    /// for a version without it, and it is not the last one that has a weight.
    #[must_use]
    pub fn may_remove(&self, node: NodeId, store: StoreId) -> bool {
        let is_it = |it: &Standing| it.is_member() && it.place.store == store;
        let is_member = self.standing(node).is_some_and(is_it);
        is_member && self.undrained_count() < VERSIONS && !self.is_last(node)
    }

    /// True for a node that comes back when this store of it is heard.
    #[must_use]
    pub fn wants_back(&self, node: NodeId, store: StoreId) -> bool {
        let is_it = |it: &Standing| it.membership == Membership::Silent && it.place.store == store;
        self.standing(node).is_some_and(is_it)
    }

    /// A storage node registers; before it, the roster said `before` of it. The first time, one
    /// with a weight joins; one that was silent comes back; another store of it is another member.
    /// A weight or zone that changed in its configuration counts.
    pub(super) fn register(&mut self, new: &Registration, before: Option<&Registration>) {
        let place =
            Place { node: new.node, store: new.store, weight: new.weight, zone: new.zone.clone() };
        let Some(known) = self.standings.get(&new.node).cloned() else {
            let has_room = self.wanted_members().len() < limits::RING_MEMBERS;
            let membership = match new.weight {
                1.. if has_room => Membership::Member,
                _ => Membership::Spare,
            };
            let standing = Standing { place, membership, passed: RingVersion(0) };
            self.standings.insert(new.node, standing);
            return self.settle();
        };
        let mut standing = known;
        if standing.membership == Membership::Silent {
            standing.membership = Membership::Member;
        }
        if standing.place.store != new.store {
            (standing.place.store, standing.passed) = (new.store, RingVersion(0));
        }
        if before.is_some_and(|before| before.zone != new.zone) {
            standing.place.zone = place.zone;
        }
        if before.is_some_and(|before| before.weight != new.weight) {
            self.reweigh(&mut standing, new.weight);
        }
        let is_replaced = self.place(new.node).is_some_and(|place| place.store != new.store);
        self.standings.insert(new.node, standing);
        if is_replaced {
            self.announce(VERSIONS);
        }
        self.settle();
    }

    /// The configuration of a node has another weight than before.
    fn reweigh(&self, standing: &mut Standing, weight: u32) {
        match (standing.membership, weight) {
            (Membership::Member, 0) if self.is_last(standing.place.node) => {}
            (Membership::Member, 0) => standing.membership = Membership::Draining,
            (Membership::Spare, 1..) if self.wanted_members().len() < limits::RING_MEMBERS => {
                standing.membership = Membership::Member;
                standing.place.weight = weight;
            }
            _ => standing.place.weight = weight,
        }
    }

    /// True where no other node has a weight.
    fn is_last(&self, node: NodeId) -> bool {
        let mut others = self.standings.values().filter(|it| it.place.node != node);
        !others.any(|it| it.membership == Membership::Member && it.place.weight > 0)
    }

    /// Nodes reported a full pass, each with its store and the version of the pass.
    pub(super) fn pass(&mut self, passes: &[(NodeId, StoreId, RingVersion)]) {
        for &(node, store, version) in passes {
            if version <= self.newest
                && let Some(standing) = self.standings.get_mut(&node)
                && standing.place.store == store
            {
                standing.passed = standing.passed.max(version);
            }
        }
        self.settle();
    }

    /// The leader has not heard these nodes for as long as dead ones are waited for: they are
    /// members no longer, where they may be removed.
    pub(super) fn remove_silent(&mut self, nodes: &[(NodeId, StoreId)]) {
        for &(node, store) in nodes {
            if self.may_remove(node, store)
                && let Some(standing) = self.standings.get_mut(&node)
            {
                standing.membership = Membership::Silent;
            }
        }
        self.announce(VERSIONS);
        self.settle();
    }

    /// The leader hears nodes again that were removed because they were silent.
    pub(super) fn take_back(&mut self, nodes: &[(NodeId, StoreId)]) {
        for &(node, store) in nodes {
            if self.wants_back(node, store)
                && let Some(standing) = self.standings.get_mut(&node)
            {
                standing.membership = Membership::Member;
            }
        }
        self.settle();
    }

    /// Why a node has to stay in the roster, in words; `None` where it may go.
    pub(super) fn bond(&self, node: NodeId) -> Option<String> {
        if self.place(node).is_some() {
            return Some(format!(
                "storage node {node} has a place in the ring: what it alone keeps would be lost. \
                 Have it hand over what it has, `remuda ring drain {node}`; one that is gone for \
                 good is taken out with `remuda ring remove {node}`"
            ));
        }
        let is_in = |members: &Arc<Vec<Place>>| members.iter().any(|place| place.node == node);
        self.versions.values().any(is_in).then(|| {
            format!(
                "what storage node {node} had is still being moved: wait until `remuda ring \
                 status` shows that nothing moves"
            )
        })
    }

    /// A node was taken out of the roster.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.standings.remove(&node);
    }

    fn undrained_count(&self) -> u64 {
        match self.newest {
            RingVersion(0) => 0,
            newest => newest.0 - self.oldest.0 + 1,
        }
    }

    /// The members that the next version shall have.
    fn wanted_members(&self) -> Vec<Place> {
        self.standings.values().filter_map(Standing::wanted).collect()
    }

    /// Announces a version where the newest is not what is wanted and fewer than so many are not
    /// drained.
    fn announce(&mut self, most: u64) {
        let wanted = self.wanted_members();
        let has_weight = wanted.iter().any(|place| place.weight > 0);
        if self.undrained_count() >= most || wanted == self.members(self.newest) || !has_weight {
            return;
        }
        self.newest = self.newest.next();
        self.versions.insert(self.newest, Arc::new(wanted));
        if self.oldest == RingVersion(0) {
            self.oldest = self.newest;
            self.begin_parts();
        }
        self.activate_same_sets();
    }

    /// True while somebody who may hold blocks by an older version has not reported a full pass
    /// under the newest.
    fn is_waiting(&self) -> bool {
        let mut undrained = self.versions.range(self.oldest..).flat_map(|(_, members)| &**members);
        undrained.any(|place| {
            let standing = self.standings.get(&place.node);
            standing.is_some_and(|it| {
                it.is_member() && it.place.store == place.store && it.passed < self.newest
            })
        })
    }

    /// Draws the consequences of a change: drops what is drained, and announces what waits.
    fn settle(&mut self) {
        self.drop_drained();
        self.announce(JOIN_VERSIONS);
        // A version without anybody to wait for, because only those that are gone were members.
        self.drop_drained();
    }

    fn drop_drained(&mut self) {
        if self.oldest < self.newest && !self.is_waiting() {
            self.oldest = self.newest;
        }
        let active: BTreeSet<RingVersion> = self.parts.iter().map(|run| run.version).collect();
        let older = self.versions.range(..self.oldest).map(|(version, _)| *version);
        let left: Vec<RingVersion> = older.filter(|version| !active.contains(version)).collect();
        for version in left {
            self.versions.remove(&version);
        }
        if self.oldest == self.newest {
            self.end_draining();
        }
    }

    /// Nodes that owned nothing and have nothing any more are members no longer. A member without
    /// weight changes no placement, so that the version stays what it is.
    fn end_draining(&mut self) {
        let is_drained = |it: &&Standing| {
            let owns = |place: &Place| place.node == it.place.node && place.weight > 0;
            let mut places = self.versions.values().flat_map(|members| &**members);
            it.membership == Membership::Draining && !places.any(owns)
        };
        let drained: Vec<NodeId> =
            self.standings.values().filter(is_drained).map(|it| it.place.node).collect();
        for node in drained {
            if let Some(standing) = self.standings.get_mut(&node) {
                standing.membership = Membership::Drained;
            }
            if let Some(members) = self.versions.get_mut(&self.newest) {
                Arc::make_mut(members).retain(|place| place.node != node);
            }
        }
    }

    /// Numbers of the zones of all versions: equal names have equal numbers in all of them.
    fn zones(&self) -> Vec<&str> {
        let places = self.versions.values().flat_map(|members| &**members);
        let zones: BTreeSet<&str> = places.map(|place| place.zone.as_str()).collect();
        zones.into_iter().collect()
    }

    /// Walks the ring and panics on a broken invariant.
    pub fn check_invariants(&self) {
        assert!(self.oldest <= self.newest, "the oldest version is not after the newest");
        assert!(self.undrained_count() <= VERSIONS, "versions that are not drained are bounded");
        assert!(self.oldest == self.newest || self.is_waiting(), "what is drained is dropped");
        let active: BTreeSet<RingVersion> = self.parts.iter().map(|run| run.version).collect();
        assert!(active.iter().all(|version| self.versions.contains_key(version)), "registers");
        for version in self.oldest.0.max(1)..=self.newest.0 {
            assert!(self.versions.contains_key(&RingVersion(version)), "version {version} is kept");
        }
        for (version, members) in &self.versions {
            let is_needed = *version >= self.oldest || active.contains(version);
            assert!(is_needed && *version <= self.newest, "version {version} is needed");
            assert!(members.iter().any(|place| place.weight > 0), "somebody owns the blocks");
            assert!(members.len() <= limits::RING_MEMBERS, "members are bounded");
            assert!(members.is_sorted_by(|one, other| one.node < other.node), "by UUID");
        }
        for (node, standing) in &self.standings {
            assert_eq!(*node, standing.place.node, "a standing is that of its node");
            assert!(standing.passed <= self.newest, "a pass under a version that is not there");
        }
        self.check_parts();
    }
}

/// The ring of a version, with the zones numbered by a list of all names.
fn placement(version: RingVersion, members: &[Place], zones: &[&str]) -> Option<ring::Ring> {
    let member = |place: &Place| {
        let zone = zones.binary_search(&place.zone.as_str()).unwrap_or(0);
        ring::Member {
            node: place.node,
            store: place.store,
            weight: place.weight,
            zone: u32::try_from(zone).unwrap_or(0),
        }
    };
    ring::Ring::new(version, PARTITION_COUNT, members.iter().map(member).collect()).ok()
}
