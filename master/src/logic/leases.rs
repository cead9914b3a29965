//! When the lease of a balancer group is over: the leader's soft state, on its own clock.
//!
//! Renewals are no log entries, so a new leader knows none: it gives every lease a full term. What
//! becomes of a group whose lease is over is a log entry (`groups.rs`); from the moment when it is
//! proposed no renewal of that epoch is answered.

use std::collections::BTreeMap;

use consensus::Term;
use proto::ids::{Epoch, Incarnation, NodeId};
use proto::status::AuxiliaryState;
use proto::time::{Duration, Instant};

use super::commands::Command;
use super::nodes::Nodes;

/// How long a balancer's lease lasts from the moment when it asked.
pub(super) const LEASE: Duration = Duration::from_millis(900);

/// Only a balancer that was heard of within this is promoted: four renewals.
const LATELY: Duration = Duration::from_secs(1);

/// How long a primary may reach no worker while its auxiliary reaches some. Whom it reaches is
/// known to it only after the worker timeout, so this is short.
const UNREACHABLE: Duration = Duration::from_secs(2);

/// A leader that did not look for so long may have renewals lying before it: it begins anew.
const STALL: Duration = Duration::from_millis(400);

/// What a leader proposes of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proposal {
    /// The end of a lease.
    End,
    /// How an auxiliary stands.
    Note,
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
#[derive(Clone, Copy, Debug)]
struct Lease {
    epoch: Epoch,
    until: Instant,
    /// Since when the primary reaches no worker and its auxiliary some.
    alone_since: Option<Instant>,
    /// Its end is proposed.
    is_ending: bool,
    /// How the auxiliary stands is proposed.
    is_noting: bool,
}

/// All leases, at the leader.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases {
    /// The term in which they are counted; none where this master does not lead.
    term: Option<Term>,
    looked_at: Instant,
    leases: BTreeMap<u64, Lease>,
    heard: BTreeMap<NodeId, Heard>,
}

impl Leases {
    /// Takes note of the groups as the log has them, and of who leads. Returns what is to be
    /// proposed.
    pub(super) fn tick(
        &mut self,
        now: Instant,
        term: Option<Term>,
        nodes: &Nodes,
    ) -> Vec<(u64, Command)> {
        if term != self.term {
            *self = Leases { term, looked_at: now, ..Leases::default() };
        }
        if term.is_none() {
            return Vec::new();
        }
        let is_late = now.since(self.looked_at) >= STALL;
        self.looked_at = now;
        let mut commands = Vec::new();
        for (&number, group) in &nodes.groups {
            let Some(primary) = group.primary else { continue };
            let fresh = Lease {
                epoch: group.epoch,
                until: now + LEASE,
                alone_since: None,
                is_ending: false,
                is_noting: false,
            };
            let lease = self.leases.entry(number).or_insert(fresh);
            if lease.epoch != group.epoch {
                *lease = fresh;
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
            if now >= lease.until && !lease.is_ending {
                lease.is_ending = true;
                let command = Command::LeaseExpired {
                    group: number,
                    epoch: group.epoch,
                    successor,
                    incarnation: heard.incarnation,
                };
                commands.push((number, command));
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
    ) -> Option<Command> {
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
        let (said, of) = renewal.auxiliary.filter(|_| !lease.is_noting)?;
        let (_, known, is_in_step) = nodes.auxiliary_of(group)?;
        let is_said = said == AuxiliaryState::InStep;
        if said == AuxiliaryState::Unknown || known != of || is_said == is_in_step {
            return None;
        }
        lease.is_noting = true;
        Some(Command::AuxiliaryNoted {
            group: number,
            epoch: group.epoch,
            incarnation: of,
            is_in_step: is_said,
        })
    }

    /// False where no renewal of this epoch of the group is answered any more.
    pub(super) fn may_answer(&self, now: Instant, number: u64, epoch: Epoch) -> bool {
        let is_over = |lease: &Lease| {
            let is_alone = lease.alone_since.is_some_and(|at| now >= at + UNREACHABLE);
            lease.epoch == epoch && (lease.is_ending || is_alone)
        };
        !self.leases.get(&number).is_some_and(is_over)
    }

    /// True where the log may have another word of the auxiliary in a moment.
    pub(super) fn is_noting(&self, number: u64) -> bool {
        self.leases.get(&number).is_some_and(|lease| lease.is_noting)
    }

    /// What was proposed for a group was carried out, or came to nothing.
    pub(super) fn settled(&mut self, number: u64, proposal: Proposal) {
        if let Some(lease) = self.leases.get_mut(&number) {
            match proposal {
                Proposal::End => lease.is_ending = false,
                Proposal::Note => lease.is_noting = false,
            }
        }
    }

    /// When the next lease may be over.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let ends = self.leases.values().map(|lease| lease.until);
        ends.filter(|&until| until > self.looked_at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::super::nodes::{Node, Registration};
    use super::*;
    use proto::ids::{LogIndex, StoreId};
    use proto::status::Role;

    const PRIMARY: NodeId = NodeId(1);
    const AUXILIARY: NodeId = NodeId(2);
    const TERM: Option<Term> = Some(Term(3));

    /// A leader with one group, and what it proposed.
    struct Scene {
        now: Instant,
        nodes: Nodes,
        leases: Leases,
        proposed: Vec<Command>,
    }

    impl Scene {
        fn new() -> Scene {
            let mut nodes = Nodes::default();
            for node in [PRIMARY, AUXILIARY] {
                let registration = Registration {
                    node,
                    role: Role::Balancer,
                    incarnation: Incarnation(1),
                    address: String::new(),
                    telemetry_address: String::new(),
                    zone: String::new(),
                    slot_count: 0,
                    cpu_milli: 0,
                    capacity_bytes: 0,
                    member: 0,
                    store: StoreId(0),
                    weight: 0,
                };
                nodes.register(registration, LogIndex(5));
            }
            let mut scene = Scene {
                now: Instant(1_000_000_000),
                nodes,
                leases: Leases::default(),
                proposed: Vec::new(),
            };
            scene.wait(0);
            scene
        }

        /// Time passes, as a leader sees it that looks every 50 ms.
        fn wait(&mut self, span_ms: u64) {
            let until = self.now + Duration::from_millis(span_ms);
            loop {
                let commands = self.leases.tick(self.now, TERM, &self.nodes);
                self.proposed.extend(commands.into_iter().map(|(_, command)| command));
                if self.now >= until {
                    break;
                }
                self.now = until.min(self.now + Duration::from_millis(50));
            }
        }

        fn renew(&mut self, node: NodeId, epoch: u64, reachable_count: u32) {
            self.says(node, epoch, reachable_count, None);
        }

        fn says(
            &mut self,
            node: NodeId,
            epoch: u64,
            reachable_count: u32,
            auxiliary: Option<(AuxiliaryState, Incarnation)>,
        ) {
            let renewal = Renewal {
                node,
                incarnation: Incarnation(1),
                epoch: Epoch(epoch),
                reachable_count,
                auxiliary,
            };
            let command = self.leases.renewed(self.now, 1, &renewal, &self.nodes);
            self.proposed.extend(command);
        }

        fn may_answer(&self) -> bool {
            self.leases.may_answer(self.now, 1, self.nodes.groups[&1].epoch)
        }

        fn promotes(&self) -> bool {
            let is_it = |command: &Command| {
                *command
                    == Command::LeaseExpired {
                        group: 1,
                        epoch: Epoch(1),
                        successor: AUXILIARY,
                        incarnation: Incarnation(1),
                    }
            };
            self.proposed.iter().filter(|command| is_it(command)).count() == 1
        }
    }

    #[test]
    fn a_lease_that_is_not_renewed_is_ended_once_and_its_renewals_count_for_nothing() {
        let mut scene = Scene::new();
        scene.renew(PRIMARY, 1, 2);
        for _ in 0..3 {
            scene.renew(AUXILIARY, 0, 2);
            scene.wait(250);
            assert!(scene.may_answer());
        }
        scene.renew(AUXILIARY, 0, 2);
        scene.wait(200);
        assert!(scene.promotes(), "{:?}", scene.proposed);
        scene.renew(PRIMARY, 1, 2);
        scene.wait(500);
        assert!(!scene.may_answer() && scene.promotes());
        // The entry is applied: the next epoch has a full term.
        let successor = (AUXILIARY, Incarnation(1));
        assert!(scene.nodes.expire_lease(1, Epoch(1), successor, LogIndex(9)));
        scene.leases.settled(1, Proposal::End);
        scene.wait(800);
        assert!(scene.may_answer() && scene.proposed.len() == 1);
    }

    #[test]
    fn a_primary_that_renews_keeps_its_lease() {
        let mut scene = Scene::new();
        for _ in 0..20 {
            scene.renew(PRIMARY, 1, 2);
            scene.renew(AUXILIARY, 0, 2);
            scene.wait(850);
        }
        assert!(scene.proposed.is_empty());
    }

    #[test]
    fn without_an_auxiliary_that_was_heard_of_lately_the_first_that_asks_is_taken() {
        let mut scene = Scene::new();
        scene.wait(5_000);
        assert!(scene.proposed.is_empty() && scene.may_answer());
        // The primary comes first: its lease goes on.
        scene.renew(PRIMARY, 1, 2);
        scene.wait(100);
        scene.renew(AUXILIARY, 0, 2);
        scene.wait(100);
        assert!(scene.proposed.is_empty());
        scene.wait(2_000);
        scene.renew(AUXILIARY, 0, 2);
        scene.wait(0);
        assert!(scene.promotes());
    }

    #[test]
    fn an_auxiliary_of_an_earlier_incarnation_is_not_promoted() {
        let mut scene = Scene::new();
        scene.renew(AUXILIARY, 0, 2);
        let mut node: Node = scene.nodes.nodes[&AUXILIARY].clone();
        node.registration.incarnation = Incarnation(2);
        scene.nodes.nodes.insert(AUXILIARY, node);
        scene.wait(950);
        assert!(scene.proposed.is_empty());
    }

    #[test]
    fn a_primary_that_reaches_no_worker_is_replaced_by_one_that_does() {
        let mut scene = Scene::new();
        for _ in 0..9 {
            scene.renew(PRIMARY, 1, 0);
            scene.renew(AUXILIARY, 0, 2);
            scene.wait(250);
        }
        assert!(!scene.may_answer(), "its lease is not renewed any more");
        assert!(scene.proposed.is_empty(), "and lasts until it is over");
        for _ in 0..4 {
            scene.renew(PRIMARY, 1, 0);
            scene.renew(AUXILIARY, 0, 2);
            scene.wait(250);
        }
        assert!(scene.promotes());
        // Where the auxiliary reaches none either, nothing would be better.
        let mut scene = Scene::new();
        for _ in 0..40 {
            scene.renew(PRIMARY, 1, 0);
            scene.renew(AUXILIARY, 0, 0);
            scene.wait(250);
        }
        assert!(scene.proposed.is_empty() && scene.may_answer());
    }

    #[test]
    fn a_new_leader_and_one_that_stood_still_give_every_lease_a_full_term() {
        let mut scene = Scene::new();
        scene.renew(AUXILIARY, 0, 2);
        scene.now += Duration::from_secs(60);
        scene.renew(AUXILIARY, 0, 2);
        scene.wait(850);
        assert!(scene.proposed.is_empty(), "renewals may lie before it");
        assert!(scene.leases.tick(scene.now, None, &scene.nodes).is_empty());
        assert!(scene.leases.tick(scene.now, Some(Term(4)), &scene.nodes).is_empty());
        assert!(scene.leases.heard.is_empty(), "another term knows nobody");
    }

    #[test]
    fn the_word_of_a_primary_about_its_auxiliary_is_proposed_where_it_is_news() {
        let mut scene = Scene::new();
        let of = |state| Some((state, Incarnation(1)));
        scene.says(PRIMARY, 1, 2, of(AuxiliaryState::Unknown));
        scene.says(PRIMARY, 1, 2, of(AuxiliaryState::Absent));
        scene.says(AUXILIARY, 0, 2, of(AuxiliaryState::InStep));
        scene.says(PRIMARY, 1, 2, Some((AuxiliaryState::InStep, Incarnation(7))));
        assert!(scene.proposed.is_empty());
        scene.says(PRIMARY, 1, 2, of(AuxiliaryState::InStep));
        scene.says(PRIMARY, 1, 2, of(AuxiliaryState::InStep));
        let noted = Command::AuxiliaryNoted {
            group: 1,
            epoch: Epoch(1),
            incarnation: Incarnation(1),
            is_in_step: true,
        };
        assert_eq!(scene.proposed, [noted], "one at a time");
        assert!(scene.leases.is_noting(1));
        scene.nodes.note_auxiliary(1, Epoch(1), Incarnation(1), true);
        scene.leases.settled(1, Proposal::Note);
        assert!(!scene.leases.is_noting(1));
        scene.says(PRIMARY, 1, 2, of(AuxiliaryState::InStep));
        assert_eq!(scene.proposed.len(), 1);
    }
}
