//! When the lease of a balancer group is over: the leader's soft state, on its own clock.
//!
//! Renewals are no log entries, so a new leader knows none: it gives every lease a full term. What
//! becomes of a group whose lease is over is a log entry (`groups.rs`); from the moment when it is
//! proposed no renewal of that epoch is answered. A renewal that is answered was waited for: the
//! leader does not end a lease before its holder takes it for over.

use std::collections::BTreeMap;

use consensus::Term;
use proto::ids::{Epoch, Incarnation, NodeId};
use proto::status::{AuxiliaryState, Role};
use proto::time::{Duration, Instant};

use super::commands::Command;
use super::nodes::Nodes;

/// How long a balancer's lease lasts from the moment when it asked.
pub const LEASE: Duration = Duration::from_millis(900);

/// Only a balancer that was heard of within this is promoted: four renewals.
const LATELY: Duration = Duration::from_secs(1);

/// How long a primary may reach no worker while its auxiliary reaches some. Whom it reaches is
/// known to it only after the worker timeout, so this is short.
const UNREACHABLE: Duration = Duration::from_secs(2);

/// A leader that did not look for so long may have renewals lying before it: it begins anew.
const STALL: Duration = Duration::from_millis(400);

/// One proposal of a leader's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Serial(u64);

/// How a proposal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was carried out.
    Applied,
    /// It had no effect and never will.
    Nothing,
    /// It may still be carried out.
    Unknown,
}

/// An entry that the leader proposed of itself, and that may be carried out at any time.
#[derive(Clone, Debug)]
struct Proposed {
    command: Command,
    /// The proposal under way. Where none is, the last one ended, the entry may still come, and it
    /// is proposed again: when that is applied, the first one was, or is void.
    under_way: Option<Serial>,
    /// An earlier proposal may still be carried out.
    is_doubtful: bool,
}

impl Proposed {
    fn new(command: Command, serial: Serial) -> Proposed {
        Proposed { command, under_way: Some(serial), is_doubtful: false }
    }

    /// What is left of it when one proposal ended.
    fn after(mut self, fate: Fate) -> Option<Proposed> {
        self.under_way = None;
        self.is_doubtful |= fate == Fate::Unknown;
        (self.is_doubtful && fate != Fate::Applied).then_some(self)
    }
}

/// What a balancer says with a renewal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Renewal {
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
    /// The epoch that it holds; 0 from an auxiliary.
    pub(super) epoch: Epoch,
    pub(super) reachable_count: u32,
    /// How a primary's auxiliary stands, and which incarnation of it that is.
    pub(super) auxiliary: Option<(AuxiliaryState, Incarnation)>,
}

/// When and in which incarnation a balancer was heard of last.
#[derive(Clone, Copy, Debug)]
struct Heard {
    incarnation: Incarnation,
    at: Instant,
    reachable_count: u32,
}

/// The lease of one group's epoch.
#[derive(Clone, Debug)]
struct Lease {
    epoch: Epoch,
    until: Instant,
    /// Since when the primary reaches no worker and its auxiliary some.
    alone_since: Option<Instant>,
    /// Its end, once it is proposed.
    ending: Option<Proposed>,
    /// How the auxiliary stands, where that is proposed.
    noting: Option<Proposed>,
}

impl Lease {
    fn begun(now: Instant, epoch: Epoch) -> Lease {
        Lease { epoch, until: now + LEASE, alone_since: None, ending: None, noting: None }
    }
}

/// All leases, at the leader.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases {
    /// The term in which they are counted; none where this master does not lead.
    term: Option<Term>,
    looked_at: Instant,
    leases: BTreeMap<u64, Lease>,
    /// Of balancers of the roster only.
    heard: BTreeMap<NodeId, Heard>,
    /// The last proposal's; never given twice by this process.
    last_serial: Serial,
}

impl Leases {
    /// Takes note of the groups as the log has them, and of who leads. Returns what is to be
    /// proposed.
    pub(super) fn tick(
        &mut self,
        now: Instant,
        term: Option<Term>,
        nodes: &Nodes,
    ) -> Vec<(u64, Serial, Command)> {
        if term != self.term {
            let last_serial = self.last_serial;
            *self = Leases { term, looked_at: now, last_serial, ..Leases::default() };
        }
        if term.is_none() {
            return Vec::new();
        }
        let is_late = now.since(self.looked_at) >= STALL;
        self.looked_at = now;
        let mut commands = Vec::new();
        for (&number, group) in &nodes.groups {
            let Some(primary) = group.primary else { continue };
            let fresh = || Lease::begun(now, group.epoch);
            let lease = self.leases.entry(number).or_insert_with(fresh);
            if lease.epoch != group.epoch {
                *lease = fresh();
            }
            for proposed in [&mut lease.ending, &mut lease.noting].into_iter().flatten() {
                if proposed.under_way.is_none() {
                    let serial = self.last_serial.give_next();
                    proposed.under_way = Some(serial);
                    commands.push((number, serial, proposed.command.clone()));
                }
            }
            if is_late {
                lease.until = lease.until.max(now + LEASE);
            }
            let auxiliary = nodes.auxiliary_of(group).and_then(|(node, incarnation, _)| {
                let heard = self.heard.get(&node)?;
                let is_there = heard.incarnation == incarnation && now < heard.at + LATELY;
                is_there.then_some((node, *heard))
            });
            let Some((successor, heard)) = auxiliary else {
                lease.alone_since = None;
                continue;
            };
            let reached = self.heard.get(&primary).map(|heard| heard.reachable_count);
            if reached != Some(0) || heard.reachable_count == 0 {
                lease.alone_since = None;
            } else if lease.alone_since.is_none() {
                lease.alone_since = Some(now);
            }
            if now >= lease.until && lease.ending.is_none() {
                let command = Command::LeaseExpired {
                    group: number,
                    epoch: group.epoch,
                    successor,
                    incarnation: heard.incarnation,
                };
                let serial = self.last_serial.give_next();
                lease.ending = Some(Proposed::new(command.clone(), serial));
                commands.push((number, serial, command));
            }
        }
        commands
    }

    /// A balancer asks for a renewal. Returns what its word of its auxiliary makes the leader
    /// propose.
    pub(super) fn renewed(
        &mut self,
        now: Instant,
        number: u64,
        renewal: &Renewal,
        nodes: &Nodes,
    ) -> Option<(Serial, Command)> {
        let Renewal { node, incarnation, reachable_count, .. } = *renewal;
        self.heard.insert(node, Heard { incarnation, at: now, reachable_count });
        let group = nodes.groups.get(&number)?;
        let is_primary = group.primary == Some(node)
            && nodes.incarnation_of(node) == Some(incarnation)
            && (renewal.epoch == group.epoch || renewal.epoch == Epoch(0));
        if !is_primary || !self.may_answer(now, number, group.epoch) {
            return None;
        }
        let lease = self.leases.get_mut(&number).filter(|lease| lease.epoch == group.epoch)?;
        lease.until = lease.until.max(now + LEASE);
        let (said, of) = renewal.auxiliary.filter(|_| lease.noting.is_none())?;
        let (_, known, is_in_step) = nodes.auxiliary_of(group)?;
        let is_said = said == AuxiliaryState::InStep;
        if said == AuxiliaryState::Unknown || known != of || is_said == is_in_step {
            return None;
        }
        let command = Command::AuxiliaryNoted {
            group: number,
            epoch: group.epoch,
            incarnation: of,
            is_in_step: is_said,
        };
        let serial = self.last_serial.give_next();
        lease.noting = Some(Proposed::new(command.clone(), serial));
        Some((serial, command))
    }

    /// True where a renewal that came at `asked_at`, in this term, may be granted now: this leader
    /// waits for as long as the lease lasts then. One that was not counted when it came is granted
    /// only where the lease began later, or was lengthened by another.
    pub(super) fn may_grant(
        &self,
        now: Instant,
        number: u64,
        epoch: Epoch,
        asked_at: Instant,
    ) -> bool {
        // Where the epoch is news, its lease begins with the next look at the groups.
        let lasts = |lease: &Lease| lease.epoch != epoch || lease.until >= asked_at + LEASE;
        self.may_answer(now, number, epoch) && self.leases.get(&number).is_none_or(lasts)
    }

    /// False where no renewal of this epoch of the group is answered any more.
    fn may_answer(&self, now: Instant, number: u64, epoch: Epoch) -> bool {
        let is_over = |lease: &Lease| {
            let is_alone = lease.alone_since.is_some_and(|at| now >= at + UNREACHABLE);
            lease.epoch == epoch && (lease.ending.is_some() || is_alone)
        };
        !self.leases.get(&number).is_some_and(is_over)
    }

    /// True where the log may have another word of the auxiliary in a moment.
    pub(super) fn is_noting(&self, number: u64) -> bool {
        self.leases.get(&number).is_some_and(|lease| lease.noting.is_some())
    }

    /// What was proposed for a group ended. What may still be carried out goes on to count as
    /// proposed.
    pub(super) fn settled(&mut self, number: u64, serial: Serial, fate: Fate) {
        let Some(lease) = self.leases.get_mut(&number) else { return };
        for proposed in [&mut lease.ending, &mut lease.noting] {
            let is_it = |proposed: &mut Proposed| proposed.under_way == Some(serial);
            if let Some(ended) = proposed.take_if(is_it) {
                *proposed = ended.after(fate);
            }
        }
    }

    /// When the next lease may be over.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let ends = self.leases.values().map(|lease| lease.until);
        ends.filter(|&until| until > self.looked_at).min()
    }
}

impl Serial {
    fn give_next(&mut self) -> Serial {
        self.0 += 1;
        *self
    }
}

/// The group in which a balancer has registered in this incarnation.
pub(super) fn group_of(nodes: &Nodes, node: NodeId, incarnation: Incarnation) -> Option<u64> {
    let known = nodes.nodes.get(&node)?;
    let registration = &known.registration;
    let is_it = registration.role == Role::Balancer && registration.incarnation == incarnation;
    (is_it && known.group != 0).then_some(known.group)
}

#[cfg(test)]
mod tests;
