//! Reconcile: the one loop that moves blocks when the ring changes, repairs after a death, hands
//! back what a dead owner's place was taken for, and deletes what lies where it should not.
//!
//! A *pass* walks over all own blocks in the order of their ids and offers each to its other owners
//! by the newest version. One that lacks it is sent it. An owner's word counts only between two
//! nodes at the same version and in the pass in which it was given: a newer version begins the
//! pass anew. A block of which this node is no owner is deleted when all owners confirmed it. Why a
//! pass is all that joining, draining and repair need: `docs/decisions/ring-changes.md`.
//! What others offer to this node is `offers.rs`'s matter.

mod driving;
mod peers;
mod throttle;

use std::collections::{BTreeMap, BTreeSet};

use node::logic::network::Link;
use proto::ids::{BlockId, NodeId, RingVersion};
use proto::ring::Partition;
use proto::time::{Duration, Instant};

use self::peers::{LONGEST_PAUSE, Offer, Peers};
use self::throttle::Throttle;
use super::rings::Rings;
use super::{Effect, Pending, Ticket, Upkeep, Works};
use crate::disk::{Held, PutError};

/// Blocks that are listed at once.
const LIST_COUNT: usize = 1024;

/// Blocks that are deleted at once.
const DELETE_COUNT: usize = 1024;

/// Confirmations of a block that is to be deleted are given anew when the first is older than this:
/// its owners may have lost it meanwhile.
const FRESH: Duration = Duration::from_millis(10_000);

/// After which time a block that came to the wrong node is offered to its owners: most have just
/// been thought dead.
const STRAY_PAUSE: Duration = Duration::from_millis(2_000);

/// What reconcile needs of the rest of the node.
pub(super) struct Scene<'a> {
    pub(super) now: Instant,
    pub(super) own: NodeId,
    pub(super) rings: &'a Rings,
    pub(super) works: &'a mut Works,
    pub(super) effects: &'a mut Vec<Effect>,
}

/// A block that is looked after.
#[derive(Debug)]
struct Item {
    held: Held,
    /// Owners that have not confirmed it, in order.
    missing: Vec<NodeId>,
    /// How many of them, the first, are owners before this node.
    ahead: usize,
    /// An owner before this node has it, and counts it where it lacks replicas.
    is_counted_elsewhere: bool,
    /// True where this node is no owner.
    is_foreign: bool,
    /// True where the pass waits for it.
    is_in_pass: bool,
    /// An owner said that it lacks it.
    is_lacking: bool,
    /// When its owners began to be asked.
    since: Instant,
    is_deleted: bool,
}

impl Item {
    fn new(held: Held, owners: &[NodeId], own: NodeId, since: Instant) -> Item {
        let place = owners.iter().position(|&node| node == own);
        Item {
            held,
            missing: owners.iter().copied().filter(|&node| node != own).collect(),
            // What is foreign is counted wherever it is: an owner that got it since its own pass
            // does not look after it.
            ahead: place.unwrap_or(0),
            is_counted_elsewhere: false,
            is_foreign: place.is_none(),
            is_in_pass: false,
            is_lacking: false,
            since,
            is_deleted: false,
        }
    }
}

/// One walk over all blocks.
#[derive(Debug)]
struct Pass {
    /// The round of passes that it is for.
    round: u64,
    /// Listed up to here.
    cursor: Option<BlockId>,
    is_listed: bool,
    done: u64,
    total: u64,
    /// Blocks that it waits for.
    item_count: usize,
    /// The first block that was let go because its owners are silent; listed again later.
    dropped_from: Option<BlockId>,
    /// Those of them that this node counts as lacking replicas.
    dropped_count: u64,
}

/// How far passes are, for the leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PassProgress {
    pub(super) passed_version: u64,
    pub(super) pass_round: u64,
    pub(super) pass_done: u64,
    pub(super) pass_total: u64,
    pub(super) lacking_count: u64,
    pub(super) foreign_count: u64,
    pub(super) moved_count: u64,
    pub(super) moved_bytes: u64,
}

/// The loop's state.
#[derive(Debug)]
pub(super) struct Reconcile {
    pass_period: Duration,
    /// Blocks that are looked after at the same time; half of them may be strays, which do not
    /// belong here and came since the pass.
    item_limit: usize,
    /// The version that everything here goes by.
    version: RingVersion,
    /// Puts that were taken on under an older version; a pass does not begin before they are
    /// durable, so that none slips in behind it.
    barrier: BTreeSet<Ticket>,
    pass: Option<Pass>,
    passed_version: RingVersion,
    round_done: u64,
    next_pass: Option<Instant>,
    items: BTreeMap<BlockId, Item>,
    stray_count: usize,
    peers: Peers,
    throttle: Throttle,
    listing: Option<Ticket>,
    to_delete: BTreeSet<BlockId>,
    deleting: Option<(Ticket, Vec<BlockId>)>,
    moved_count: u64,
    moved_bytes: u64,
    /// The owners of the partition that was looked at last: blocks come in its order.
    owners: Option<(Partition, Vec<NodeId>)>,
    /// Something to tell the leader at once.
    has_news: bool,
}

impl Reconcile {
    pub(super) fn new(upkeep: Upkeep) -> Reconcile {
        Reconcile {
            pass_period: upkeep.pass_period,
            item_limit: upkeep.pass_blocks.max(2 * LIST_COUNT),
            version: RingVersion(0),
            barrier: BTreeSet::new(),
            pass: None,
            passed_version: RingVersion(0),
            round_done: 0,
            next_pass: None,
            items: BTreeMap::new(),
            stray_count: 0,
            peers: Peers::default(),
            throttle: Throttle::new(upkeep.move_bytes_per_s),
            listing: None,
            to_delete: BTreeSet::new(),
            deleting: None,
            moved_count: 0,
            moved_bytes: 0,
            owners: None,
            has_news: false,
        }
    }

    /// A newer version is known: what was confirmed counts no more, and a pass begins as soon as
    /// the puts that are under way are done.
    pub(super) fn restart(&mut self, now: Instant, version: RingVersion, puts: BTreeSet<Ticket>) {
        self.version = version;
        self.barrier = puts;
        self.pass = None;
        self.next_pass = Some(now);
        self.items.clear();
        self.stray_count = 0;
        self.peers.restart();
        self.listing = None;
        self.to_delete.clear();
        self.deleting = None;
        self.owners = None;
        self.has_news = true;
    }

    /// A put is done, well or not.
    pub(super) fn put_done(&mut self, ticket: Ticket) {
        self.barrier.remove(&ticket);
    }

    /// A block was stored or touched that may not belong here: it is taken home.
    pub(super) fn stored(&mut self, scene: &mut Scene<'_>, held: Held) {
        let owners = scene.rings.owners(held.block, held.replica_count);
        if owners.contains(&scene.own) || owners.is_empty() {
            return;
        }
        if self.items.contains_key(&held.block) {
            return;
        }
        if self.stray_count >= self.item_limit / 2 || self.items.len() >= self.item_limit {
            // Too many to remember: a pass finds them.
            self.next_pass = Some(scene.now);
            return;
        }
        self.stray_count += 1;
        for &node in &owners {
            self.peers.offer_later(node, held.block, scene.now + STRAY_PAUSE);
        }
        let mut item = Item::new(held, &owners, scene.own, scene.now + STRAY_PAUSE);
        item.is_lacking = true;
        self.items.insert(held.block, item);
    }

    /// A block that is here is stored or touched again: what its owners confirmed was a lower stamp,
    /// or fewer replicas, and it is not deleted for it.
    pub(super) fn raised(
        &mut self,
        scene: &mut Scene<'_>,
        block: BlockId,
        stamp: u64,
        replica_count: u8,
    ) {
        let Some(item) = self.items.get_mut(&block) else { return };
        let held = &mut item.held;
        if stamp <= held.stamp && replica_count <= held.replica_count && !item.is_deleted {
            return;
        }
        held.stamp = held.stamp.max(stamp);
        held.replica_count = held.replica_count.max(replica_count);
        self.ask_anew(scene, block, Duration::ZERO);
    }

    /// All owners are asked again.
    fn ask_anew(&mut self, scene: &mut Scene<'_>, block: BlockId, pause: Duration) {
        let Some(item) = self.items.get_mut(&block) else { return };
        let owners = scene.rings.owners(block, item.held.replica_count);
        let is_in_pass = item.is_in_pass;
        *item = Item::new(item.held, &owners, scene.own, scene.now + pause);
        item.is_in_pass = is_in_pass;
        self.to_delete.remove(&block);
        for &node in &item.missing {
            self.peers.offer_later(node, block, scene.now + pause);
        }
    }

    /// Begins a pass where one is due and nothing is in its way.
    fn begin_pass(&mut self, scene: &mut Scene<'_>, round: u64) {
        let is_due = self.next_pass.is_some_and(|due| due <= scene.now) || round > self.round_done;
        let has_owners = scene.rings.newest().members().iter().any(|member| member.weight > 0);
        if self.pass.is_some() || !is_due || !self.barrier.is_empty() {
            return;
        }
        self.next_pass = None;
        if !has_owners {
            // Nobody is left to own anything: all stays where it is until there is a newer version.
            return;
        }
        self.pass = Some(Pass {
            round,
            cursor: None,
            is_listed: false,
            done: 0,
            total: 0,
            item_count: 0,
            dropped_from: None,
            dropped_count: 0,
        });
    }

    /// Asks for the next blocks, where there is room to look after them.
    fn list(&mut self, scene: &mut Scene<'_>) {
        let Some(pass) = &self.pass else { return };
        if pass.is_listed || self.listing.is_some() {
            return;
        }
        if self.items.len() + LIST_COUNT > self.item_limit {
            self.let_go();
        }
        let Some(pass) = &self.pass else { return };
        if self.items.len() + LIST_COUNT <= self.item_limit {
            let ticket = scene.works.begin(Pending::ListPass);
            self.listing = Some(ticket);
            let after = pass.cursor;
            scene.effects.push(Effect::List { ticket, after, limit: LIST_COUNT });
        }
    }

    /// Lets blocks go whose owners are silent, the last first, so that the others are not held up.
    fn let_go(&mut self) {
        let Some(pass) = &mut self.pass else { return };
        let peers = &mut self.peers;
        let waits = |item: &Item, peers: &Peers| {
            item.is_in_pass
                && !item.missing.is_empty()
                && item.missing.iter().all(|&node| peers.is_silent(node))
        };
        let waiting = self.items.iter().rev().filter(|(_, item)| waits(item, peers));
        let blocks: Vec<BlockId> = waiting.map(|(&block, _)| block).take(LIST_COUNT).collect();
        for block in blocks {
            let Some(item) = self.items.get(&block) else { continue };
            if item.missing.iter().all(|&node| peers.withdraw(node, block)) {
                pass.item_count -= 1;
                pass.dropped_count += u64::from(!item.is_counted_elsewhere);
                self.items.remove(&block);
                pass.dropped_from = Some(pass.dropped_from.map_or(block, |it| it.min(block)));
            }
        }
    }

    /// The next blocks of the pass.
    pub(super) fn listed(
        &mut self,
        scene: &mut Scene<'_>,
        ticket: Ticket,
        held: &[Held],
        total: u64,
    ) {
        if self.listing != Some(ticket) {
            return;
        }
        self.listing = None;
        let Some(pass) = &mut self.pass else { return };
        pass.total = pass.total.max(total);
        pass.is_listed = held.len() < LIST_COUNT;
        pass.cursor = held.last().map(|held| held.block).or(pass.cursor);
        for &held in held {
            self.look_after(scene, held);
        }
    }

    fn look_after(&mut self, scene: &mut Scene<'_>, held: Held) {
        let partition = scene.rings.newest().partition_of(held.block);
        if self.owners.as_ref().is_none_or(|(known, _)| *known != partition) {
            self.owners = Some((partition, scene.rings.owners_of_most(partition)));
        }
        let Some((_, nodes)) = &self.owners else { return };
        let owners = &nodes[..nodes.len().min(scene.rings.replicas(held.replica_count))];
        let mut item = Item::new(held, owners, scene.own, scene.now);
        item.is_in_pass = true;
        let Some(pass) = &mut self.pass else { return };
        if item.missing.is_empty() {
            pass.done += 1;
            return;
        }
        for &node in &item.missing {
            self.peers.offer(node, held.block);
        }
        pass.item_count += 1;
        let before = self.items.insert(held.block, item);
        match before {
            Some(before) if before.is_in_pass => pass.item_count -= 1,
            Some(_) => self.stray_count -= 1,
            None => {}
        }
        self.to_delete.remove(&held.block);
    }

    /// An owner has a block durably, as it was offered.
    fn confirm(&mut self, scene: &mut Scene<'_>, node: NodeId, offer: Offer) {
        let Some(item) = self.items.get_mut(&offer.block) else { return };
        let held = item.held;
        if (held.stamp, held.replica_count) != (offer.stamp, offer.replica_count) {
            // Less than is here by now: asked again.
            self.peers.offer(node, offer.block);
            return;
        }
        if let Some(at) = item.missing.iter().position(|&owner| owner == node) {
            item.missing.remove(at);
            item.is_counted_elsewhere |= at < item.ahead;
            item.ahead -= usize::from(at < item.ahead);
        }
        if !item.missing.is_empty() || item.is_deleted {
            return;
        }
        if !item.is_foreign {
            self.finish(offer.block);
        } else if item.since + FRESH < scene.now {
            self.ask_anew(scene, offer.block, Duration::ZERO);
        } else {
            item.is_deleted = true;
            self.to_delete.insert(offer.block);
        }
    }

    /// Nothing is left to be done for a block.
    fn finish(&mut self, block: BlockId) {
        let Some(item) = self.items.remove(&block) else { return };
        self.to_delete.remove(&block);
        match &mut self.pass {
            Some(pass) if item.is_in_pass => {
                pass.item_count -= 1;
                pass.done += 1;
            }
            _ => self.stray_count = self.stray_count.saturating_sub(usize::from(!item.is_in_pass)),
        }
    }

    fn delete(&mut self, scene: &mut Scene<'_>) {
        if self.deleting.is_some() || self.to_delete.is_empty() {
            return;
        }
        let mut blocks = Vec::new();
        while blocks.len() < DELETE_COUNT
            && let Some(block) = self.to_delete.pop_first()
        {
            blocks.push(block);
        }
        let ticket = scene.works.begin(Pending::Delete);
        self.deleting = Some((ticket, blocks.clone()));
        scene.effects.push(Effect::Delete { ticket, blocks });
    }

    /// Blocks that do not belong here are gone.
    pub(super) fn deleted(
        &mut self,
        scene: &mut Scene<'_>,
        ticket: Ticket,
        result: Result<u64, PutError>,
    ) {
        let Some((_, blocks)) = self.deleting.take_if(|(deleting, _)| *deleting == ticket) else {
            return;
        };
        for block in blocks {
            // What was stored again meanwhile is looked after anew.
            if self.items.get(&block).is_none_or(|item| !item.is_deleted) {
                continue;
            }
            match result {
                Ok(_) => self.finish(block),
                Err(_) => self.ask_anew(scene, block, LONGEST_PAUSE),
            }
        }
    }

    fn end_pass(&mut self, scene: &Scene<'_>) {
        let Some(pass) = &mut self.pass else { return };
        if !pass.is_listed || pass.item_count > 0 || self.listing.is_some() {
            return;
        }
        if let Some(from) = pass.dropped_from.take() {
            // Its owners are heard again.
            pass.cursor = from.0.checked_sub(1).map(BlockId);
            pass.is_listed = false;
            pass.dropped_count = 0;
            return;
        }
        tracing::debug!(version = %self.version, blocks = pass.done, "a full pass has ended");
        self.passed_version = self.version;
        self.round_done = self.round_done.max(pass.round);
        let periodic = scene.now + self.pass_period;
        self.next_pass = Some(self.next_pass.map_or(periodic, |due| due.min(periodic)));
        self.pass = None;
        self.has_news = true;
    }

    /// True once after something happened that the leader should hear soon.
    pub(super) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.has_news)
    }

    /// How far it is.
    pub(super) fn progress(&self) -> PassProgress {
        let pass = self.pass.as_ref();
        let mut progress = PassProgress {
            passed_version: self.passed_version.0,
            pass_round: self.round_done,
            pass_done: pass.map_or(0, |pass| pass.done.min(pass.total)),
            pass_total: pass.map_or(0, |pass| pass.total),
            lacking_count: pass.map_or(0, |pass| pass.dropped_count),
            foreign_count: 0,
            moved_count: self.moved_count,
            moved_bytes: self.moved_bytes,
        };
        for item in self.items.values() {
            progress.foreign_count += u64::from(item.is_foreign);
            let is_silent = || item.missing.iter().any(|&node| self.peers.is_silent(node));
            let is_lacking = !item.is_counted_elsewhere && (item.is_lacking || is_silent());
            progress.lacking_count += u64::from(is_lacking && !item.missing.is_empty());
        }
        progress
    }

    /// Blocks that wait for something, for people.
    pub(super) fn open_count(&self) -> usize {
        self.items.len()
    }

    /// Whether a link is one of those that blocks are offered on.
    pub(super) fn owns(&self, link: Link) -> bool {
        self.peers.node_at(link).is_some()
    }

    /// Whether it is the node that a link is for which answers there: another one may have its
    /// address by now, and confirms nothing for it.
    pub(super) fn is_from(&self, link: Link, node: NodeId) -> bool {
        self.peers.node_at(link) == Some(node)
    }

    pub(super) fn check_invariants(&self) {
        let in_pass = self.items.values().filter(|item| item.is_in_pass).count();
        assert_eq!(in_pass, self.pass.as_ref().map_or(0, |pass| pass.item_count), "of the pass");
        assert_eq!(self.items.len() - in_pass, self.stray_count, "strays");
        assert!(self.items.len() <= self.item_limit, "more blocks looked after than the bound");
        for block in &self.to_delete {
            let item = self.items.get(block);
            let is_confirmed = item
                .is_some_and(|item| item.is_foreign && item.is_deleted && item.missing.is_empty());
            assert!(is_confirmed, "a block is deleted that its owners have not confirmed");
        }
        self.peers.check_invariants();
    }
}
