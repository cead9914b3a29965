//! Storage nodes as the leader hears them: who is silent and for how long, how far each is, and
//! what of that goes into the log.
//!
//! Soft state. Reports come every second and are no log entries; of all that they say only three
//! things are proposed: that nodes passed the newest version of the ring, that members were silent
//! for longer than the dead are waited for, and that one which was removed for that is heard again.
//! A new leader has heard nobody and gives everybody the full time.

use std::collections::{BTreeMap, BTreeSet};

use consensus::Term;
use proto::ids::{NodeId, RingVersion, StoreId};
use proto::messages::node::StorageProgress;
use proto::time::{Duration, Instant};

use super::commands::Command;
use super::ring::Rings;

/// How long a storage node may take on blocks after it reported: some missed reports do no harm.
const LEASE: Duration = Duration::from_secs(10);

/// A node that reported within this answers: three reports.
const LATELY: Duration = Duration::from_secs(3);

/// How often the leader looks who is silent.
const LOOK: Duration = Duration::from_secs(1);

/// A leader that did not look for so long may have reports lying before it: it begins anew.
const STALL: Duration = Duration::from_secs(5);

/// What a leader proposes of storage nodes; one of each is under way at a time. What became of one
/// need not be known: all of them may be applied twice, and too late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Matter {
    /// Full passes.
    Passes,
    /// Members that are silent.
    Removal,
    /// Nodes that are heard again.
    Return,
}

/// What was heard of a node.
#[derive(Clone, Copy, Debug)]
struct Heard {
    /// When it reported last, or was first seen among the members.
    at: Instant,
    /// What it reported, and of which store.
    report: Option<(StoreId, StorageProgress)>,
}

/// All storage nodes, at the leader.
#[derive(Clone, Debug)]
pub(super) struct StorageWatch {
    /// How long a silent member is waited for.
    grace: Duration,
    /// The term in which this is heard; none where this master does not lead.
    term: Option<Term>,
    began: Instant,
    now: Instant,
    looked_at: Instant,
    look_due: Option<Instant>,
    /// Of nodes of the roster only.
    heard: BTreeMap<NodeId, Heard>,
    passes: BTreeMap<NodeId, (StoreId, RingVersion)>,
    returns: BTreeMap<NodeId, StoreId>,
    under_way: BTreeSet<Matter>,
    /// Members whose removal is under way.
    removing: BTreeSet<NodeId>,
}

impl StorageWatch {
    /// A watch that waits for silent members as long as told.
    pub(super) fn new(grace: Duration) -> StorageWatch {
        let zero = Instant(0);
        StorageWatch {
            grace,
            term: None,
            began: zero,
            now: zero,
            looked_at: zero,
            look_due: None,
            heard: BTreeMap::new(),
            passes: BTreeMap::new(),
            returns: BTreeMap::new(),
            under_way: BTreeSet::new(),
            removing: BTreeSet::new(),
        }
    }

    /// How long a report allows its node to take on blocks: it is over before the node is removed.
    fn lease(&self) -> Duration {
        LEASE.min(Duration::from_micros(self.grace.as_micros() / 2))
    }

    /// The lease of a node of this store: none for one that is no member, or is just being removed.
    pub(super) fn lease_of(&self, node: NodeId, store: StoreId, rings: &Rings) -> Duration {
        let is_member = rings.place(node).is_some_and(|place| place.store == store);
        if is_member && !self.removing.contains(&node) { self.lease() } else { Duration::ZERO }
    }

    /// A node reported how far it is.
    pub(super) fn reported(
        &mut self,
        now: Instant,
        (node, store): (NodeId, StoreId),
        progress: StorageProgress,
        rings: &Rings,
    ) {
        if rings.standing(node).is_none_or(|standing| standing.place.store != store) {
            return;
        }
        self.heard.insert(node, Heard { at: now, report: Some((store, progress)) });
        let passed = RingVersion(progress.passed_version);
        if rings.wants_pass(node, store, passed) {
            self.passes.insert(node, (store, passed));
        }
        if rings.wants_back(node, store) {
            self.returns.insert(node, store);
        }
    }

    /// Takes note of who leads, and returns what is to be proposed.
    pub(super) fn tick(
        &mut self,
        now: Instant,
        term: Option<Term>,
        rings: &Rings,
    ) -> Vec<(Matter, Command)> {
        self.now = now;
        if term != self.term {
            *self = StorageWatch { term, began: now, now, looked_at: now, ..Self::new(self.grace) };
            self.look_due = term.map(|_| now);
        }
        if term.is_none() {
            return Vec::new();
        }
        let mut proposals = Vec::new();
        if !self.passes.is_empty() && self.under_way.insert(Matter::Passes) {
            let passes = std::mem::take(&mut self.passes).into_iter();
            let passes = passes.map(|(node, (store, version))| (node, store, version)).collect();
            proposals.push((Matter::Passes, Command::RingPassed { passes }));
        }
        if !self.returns.is_empty() && self.under_way.insert(Matter::Return) {
            let nodes = std::mem::take(&mut self.returns).into_iter().collect();
            proposals.push((Matter::Return, Command::RingReturned { nodes }));
        }
        if self.look_due.is_some_and(|due| now >= due) {
            self.look_due = Some(now + LOOK);
            proposals.extend(self.look(now, rings).map(|command| (Matter::Removal, command)));
        }
        proposals
    }

    /// Looks who has been silent for too long.
    fn look(&mut self, now: Instant, rings: &Rings) -> Option<Command> {
        if now.since(self.looked_at) >= STALL {
            self.heard.values_mut().for_each(|heard| heard.at = now);
        }
        self.looked_at = now;
        self.heard.retain(|node, _| rings.standing(*node).is_some());
        let members = rings.members(rings.newest());
        let mut silent_count = 0;
        let mut nodes = Vec::new();
        for place in members {
            let fresh = Heard { at: now, report: None };
            let silence = now.since(self.heard.entry(place.node).or_insert(fresh).at);
            silent_count += usize::from(silence >= self.lease());
            if silence >= self.grace && rings.may_remove(place.node, place.store) {
                nodes.push((place.node, place.store));
            }
        }
        // Where most are silent it is rather this master that is cut off, or the power that is
        // gone: what is left could not hold everything.
        let is_most = silent_count * 2 > members.len();
        if nodes.is_empty() || is_most || !self.under_way.insert(Matter::Removal) {
            return None;
        }
        self.removing = nodes.iter().map(|(node, _)| *node).collect();
        Some(Command::RingRemoved { nodes })
    }

    /// A proposal ended. One that failed is made again when there is reason to.
    pub(super) fn settled(&mut self, matter: Matter) {
        self.under_way.remove(&matter);
        if matter == Matter::Removal {
            self.removing.clear();
        }
    }

    /// When to look again.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.look_due
    }

    /// True where this master has led for long enough to have heard everybody who answers.
    pub(super) fn has_listened(&self) -> bool {
        self.term.is_some() && self.now.since(self.began) >= LATELY
    }

    /// True for a node that reported lately.
    pub(super) fn answers(&self, node: NodeId) -> bool {
        self.silence(node).is_some_and(|silence| silence < LATELY)
    }

    /// How long a node has not reported; `None` where it never did to this leader.
    pub(super) fn silence(&self, node: NodeId) -> Option<Duration> {
        let heard = self.heard.get(&node).filter(|heard| heard.report.is_some())?;
        Some(self.now.since(heard.at))
    }

    /// How long a member that is silent is still waited for; `None` where it is not silent.
    pub(super) fn removal(&self, node: NodeId) -> Option<Duration> {
        let silence = self.now.since(self.heard.get(&node)?.at);
        let left = self.grace.as_micros().saturating_sub(silence.as_micros());
        (silence >= self.lease()).then(|| Duration::from_micros(left))
    }

    /// What a node last reported of this store; zero where it did not.
    pub(super) fn progress(&self, node: NodeId, store: StoreId) -> StorageProgress {
        let report = self.heard.get(&node).and_then(|heard| heard.report);
        report.filter(|(of, _)| *of == store).map(|(_, progress)| progress).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
