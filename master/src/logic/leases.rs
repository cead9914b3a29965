//! When the lease of a balancer group is over, a seat free, or a group lost: the leader's soft
//! state, on its own clock.
//!
//! Renewals are no log entries, so a new leader knows none: it gives every lease a full term. What
//! becomes of a group whose lease is over is a log entry (`groups.rs`); from the moment when it is
//! proposed no renewal of that epoch is answered. A renewal that is answered was waited for: the
//! leader does not end a lease before its holder takes it for over. To whom a lost group goes, and
//! which workers are moved, stands in `losing.rs`.

mod losing;

use std::collections::BTreeMap;

use consensus::Term;
use proto::ids::{Epoch, Incarnation, NodeId};
use proto::status::{AuxiliaryState, Role};
use proto::time::{Duration, Instant};

use self::losing::BackOff;
use super::commands::Command;
use super::grants::Grants;
use super::nodes::{Group, Nodes};

/// How long a balancer's lease lasts from the moment when it asked.
pub const LEASE: Duration = Duration::from_millis(900);

/// Only a balancer that was heard of within this is promoted: four renewals.
const LATELY: Duration = Duration::from_secs(1);

/// How long a primary may reach no worker while its auxiliary reaches some. Whom it reaches is
/// known to it only after the worker timeout, so this is short.
const UNREACHABLE: Duration = Duration::from_secs(2);

/// How long a group may have nobody who holds its lease, or nobody who reaches a worker, before it
/// is given up, and an auxiliary be silent before its seat is free. Longer than a restart.
const GROUP_TIMEOUT: Duration = Duration::from_secs(5);

/// The number under which what concerns all groups is proposed.
const ALL_GROUPS: u64 = 0;

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
    /// Since when it was renewed again and again; `None` while nobody holds it.
    held_since: Option<Instant>,
    /// Since when the primary reaches no worker and its auxiliary some.
    alone_since: Option<Instant>,
    /// Since when neither reaches one, and another group would.
    stranded_since: Option<Instant>,
    /// The auxiliary, and when it was first seen in this seat.
    auxiliary: Option<(NodeId, Incarnation, Instant)>,
    /// Its end, once it is proposed: that another one is promoted, or that the group is lost.
    ending: Option<Proposed>,
    /// How the auxiliary stands, where that is proposed.
    noting: Option<Proposed>,
    /// That the auxiliary's seat is free, where that is proposed.
    vacating: Option<Proposed>,
}

impl Lease {
    fn begun(now: Instant, epoch: Epoch) -> Lease {
        Lease {
            epoch,
            until: now + LEASE,
            held_since: None,
            alone_since: None,
            stranded_since: None,
            auxiliary: None,
            ending: None,
            noting: None,
            vacating: None,
        }
    }

    /// True where somebody holds it, for as long as `span`.
    fn is_held(&self, now: Instant, span: Duration) -> bool {
        self.ending.is_none() && self.held_since.is_some_and(|since| now >= since + span)
    }

    /// False where no renewal is answered any more.
    fn may_be_renewed(&self, now: Instant) -> bool {
        let is_long = |since: Option<Instant>, span| since.is_some_and(|at| now >= at + span);
        let is_alone = is_long(self.alone_since, UNREACHABLE);
        self.ending.is_none() && !is_alone && !is_long(self.stranded_since, GROUP_TIMEOUT)
    }
}

/// What a leader proposes: of which group, under which number.
pub(super) type Proposal = (u64, Serial, Command);

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
    /// Workers that go to other groups, where that is proposed.
    moving: Option<Proposed>,
    /// Workers are not moved before this time.
    move_due: Instant,
    /// Workers that nobody of their group reached when it was given up, in which incarnation: they
    /// are not moved again, so that no group is made of the dead.
    suspects: BTreeMap<NodeId, Incarnation>,
    /// Balancers whose group was given up because they reached no worker.
    back_offs: BTreeMap<NodeId, BackOff>,
}

impl Leases {
    /// Takes note of the groups as the log has them, and of who leads. Returns what is to be
    /// proposed.
    pub(super) fn tick(
        &mut self,
        now: Instant,
        term: Option<Term>,
        nodes: &Nodes,
        grants: &Grants,
    ) -> Vec<Proposal> {
        if term != self.term {
            let last_serial = self.last_serial;
            *self = Leases { term, looked_at: now, last_serial, ..Leases::default() };
        }
        if term.is_none() {
            return Vec::new();
        }
        let is_late = now.since(self.looked_at) >= STALL;
        self.looked_at = now;
        self.leases.retain(|number, _| nodes.groups.contains_key(number));
        for (&number, group) in &nodes.groups {
            let fresh = || Lease::begun(now, group.epoch);
            let lease = self.leases.entry(number).or_insert_with(fresh);
            if lease.epoch != group.epoch {
                *lease = fresh();
            }
            if is_late {
                lease.until = lease.until.max(now + LEASE);
                (lease.auxiliary, lease.stranded_since) = (None, None);
            }
            if now >= lease.until {
                lease.held_since = None;
            }
        }
        let mut proposals = self.again();
        for (&number, group) in &nodes.groups {
            proposals.extend(self.vacate(now, number, group, nodes));
            proposals.extend(self.end(now, number, group, nodes, grants));
        }
        proposals.extend(self.balance(now, nodes, grants));
        proposals
    }

    /// What may still be carried out, and is not under way, is proposed again.
    fn again(&mut self) -> Vec<Proposal> {
        let Leases { leases, moving, last_serial, .. } = self;
        let of_groups = leases.iter_mut().flat_map(|(&number, lease)| {
            let proposed = [&mut lease.ending, &mut lease.noting, &mut lease.vacating];
            proposed.into_iter().flatten().map(move |proposed| (number, proposed))
        });
        let of_all = moving.iter_mut().map(|proposed| (ALL_GROUPS, proposed));
        let mut proposals = Vec::new();
        for (number, proposed) in of_groups.chain(of_all) {
            if proposed.under_way.is_none() {
                let serial = last_serial.give_next();
                proposed.under_way = Some(serial);
                proposals.push((number, serial, proposed.command.clone()));
            }
        }
        proposals
    }

    /// What was heard of a balancer in this incarnation.
    fn heard_of(&self, node: NodeId, incarnation: Incarnation) -> Option<Heard> {
        let heard = self.heard.get(&node).copied();
        heard.filter(|heard| heard.incarnation == incarnation)
    }

    /// Frees the seat of an auxiliary that is silent.
    fn vacate(
        &mut self,
        now: Instant,
        number: u64,
        group: &Group,
        nodes: &Nodes,
    ) -> Option<Proposal> {
        let auxiliary = nodes.auxiliary_of(group);
        let heard = auxiliary.and_then(|(node, incarnation, _)| self.heard_of(node, incarnation));
        let lease = self.leases.get_mut(&number)?;
        let Some((node, incarnation, _)) = auxiliary else {
            lease.auxiliary = None;
            return None;
        };
        let seat = lease.auxiliary.filter(|&(who, which, _)| (who, which) == (node, incarnation));
        let (_, _, seen) = *lease.auxiliary.insert(seat.unwrap_or((node, incarnation, now)));
        let last = heard.map_or(seen, |heard| heard.at.max(seen));
        if now < last + GROUP_TIMEOUT || lease.vacating.is_some() || lease.ending.is_some() {
            return None;
        }
        let command = Command::SeatVacated { group: number, epoch: group.epoch, node, incarnation };
        let serial = self.last_serial.give_next();
        lease.vacating = Some(Proposed::new(command.clone(), serial));
        Some((number, serial, command))
    }

    /// Ends a lease that is over: the auxiliary is promoted, or the group given up.
    fn end(
        &mut self,
        now: Instant,
        number: u64,
        group: &Group,
        nodes: &Nodes,
        grants: &Grants,
    ) -> Option<Proposal> {
        let is_lately = |heard: &Heard| now < heard.at + LATELY;
        let auxiliary = nodes.auxiliary_of(group).and_then(|(node, incarnation, _)| {
            let heard = self.heard_of(node, incarnation).filter(is_lately)?;
            Some((node, heard))
        });
        let primary = group.primary?;
        let reached = self.heard.get(&primary).map(|heard| heard.reachable_count);
        let reached_beside = auxiliary.map_or(0, |(_, heard)| heard.reachable_count);
        let is_alone = reached == Some(0) && reached_beside > 0;
        // A primary that is silent is no matter of whom it reaches.
        let is_there = self.heard.get(&primary).is_some_and(is_lately);
        let is_stranded = reached == Some(0)
            && is_there
            && reached_beside == 0
            && grants.outstanding(number) > 0
            && self.is_other_reaching(now, number, nodes);
        let lease = self.leases.get_mut(&number)?;
        let since = |is_so: bool, since: Option<Instant>| is_so.then(|| since.unwrap_or(now));
        lease.alone_since = since(is_alone, lease.alone_since);
        lease.stranded_since = since(is_stranded, lease.stranded_since);
        if now < lease.until || lease.ending.is_some() {
            return None;
        }
        let is_given_up = lease.stranded_since.is_some_and(|at| now >= at + GROUP_TIMEOUT);
        let is_left = auxiliary.is_none() && now >= lease.until + GROUP_TIMEOUT;
        let epoch = group.epoch;
        let command = if is_given_up || is_left {
            let heir = self.heir(now, number, is_left, nodes)?;
            if is_given_up {
                self.suspect(number, nodes);
                let balancers = [Some(primary), auxiliary.map(|(node, _)| node)];
                self.leave_out(now, balancers.into_iter().flatten(), nodes);
            }
            Command::GroupLost { group: number, epoch, heir }
        } else {
            let (successor, heard) = auxiliary?;
            let incarnation = heard.incarnation;
            Command::LeaseExpired { group: number, epoch, successor, incarnation }
        };
        let serial = self.last_serial.give_next();
        let lease = self.leases.get_mut(&number)?;
        lease.ending = Some(Proposed::new(command.clone(), serial));
        Some((number, serial, command))
    }

    /// False where this master leads and knows that nobody holds a group's lease.
    pub(super) fn is_led(&self, number: u64) -> bool {
        let is_over = |lease: &Lease| lease.held_since.is_none() && self.looked_at >= lease.until;
        self.term.is_none() || !self.leases.get(&number).is_some_and(is_over)
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
        if reachable_count > 0 {
            self.back_offs.remove(&node);
        }
        let group = nodes.groups.get(&number)?;
        let is_primary = group.primary == Some(node)
            && nodes.incarnation_of(node) == Some(incarnation)
            && (renewal.epoch == group.epoch || renewal.epoch == Epoch(0));
        if !is_primary || !self.may_answer(now, number, group.epoch) {
            return None;
        }
        let lease = self.leases.get_mut(&number).filter(|lease| lease.epoch == group.epoch)?;
        lease.until = lease.until.max(now + LEASE);
        lease.held_since.get_or_insert(now);
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
        let lease = self.leases.get(&number).filter(|lease| lease.epoch == epoch);
        lease.is_none_or(|lease| lease.may_be_renewed(now))
    }

    /// True where the log may have another word of the auxiliary in a moment.
    pub(super) fn is_noting(&self, number: u64) -> bool {
        self.leases.get(&number).is_some_and(|lease| lease.noting.is_some())
    }

    /// What was proposed ended. What may still be carried out goes on to count as proposed.
    pub(super) fn settled(&mut self, number: u64, serial: Serial, fate: Fate) {
        let lease = self.leases.get_mut(&number);
        let of_group = lease.map(|it| [&mut it.ending, &mut it.noting, &mut it.vacating]);
        for proposed in of_group.into_iter().flatten().chain([&mut self.moving]) {
            let is_it = |proposed: &mut Proposed| proposed.under_way == Some(serial);
            if let Some(ended) = proposed.take_if(is_it) {
                *proposed = ended.after(fate);
            }
        }
    }

    /// When the next lease may be over, or a group be given up.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let ends = self.leases.values().flat_map(|it| [it.until, it.until + GROUP_TIMEOUT]);
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
