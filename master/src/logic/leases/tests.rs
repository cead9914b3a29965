//! Leases on a clock of the test: who is renewed, who is replaced, and what is proposed.

use proto::ids::LogIndex;

use super::super::nodes::{Node, Registration};
use super::*;

const PRIMARY: NodeId = NodeId(1);
const AUXILIARY: NodeId = NodeId(2);
const TERM: Option<Term> = Some(Term(3));

mod losing;

/// A leader with one group, and what it proposed.
struct Scene {
    now: Instant,
    nodes: Nodes,
    grants: Grants,
    leases: Leases,
    proposed: Vec<Command>,
    serials: Vec<Serial>,
}

impl Scene {
    fn new() -> Scene {
        let mut nodes = Nodes::default();
        for node in [PRIMARY, AUXILIARY] {
            nodes.register(Registration::bare(node, Role::Balancer), LogIndex(5));
        }
        let mut scene = Scene {
            now: Instant(1_000_000_000),
            nodes,
            grants: Grants::default(),
            leases: Leases::default(),
            proposed: Vec::new(),
            serials: Vec::new(),
        };
        scene.wait(0);
        scene
    }

    /// Time passes, as a leader sees it that looks every 50 ms.
    fn wait(&mut self, span_ms: u64) {
        let until = self.now + Duration::from_millis(span_ms);
        loop {
            let commands = self.leases.tick(self.now, TERM, &self.nodes, &self.grants);
            for (_, serial, command) in commands {
                self.serials.push(serial);
                self.proposed.push(command);
            }
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
        let (serials, commands): (Vec<_>, Vec<_>) = command.into_iter().unzip();
        self.serials.extend(serials);
        self.proposed.extend(commands);
    }

    /// The proposal that was made last ends.
    fn settle(&mut self, fate: Fate) {
        let serial = *self.serials.last().unwrap();
        self.leases.settled(1, serial, fate);
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
    scene.settle(Fate::Applied);
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
    scene.wait(4_000);
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
fn a_renewal_that_was_not_counted_is_not_granted_when_the_state_was_read() {
    let mut scene = Scene::new();
    for _ in 0..9 {
        scene.renew(PRIMARY, 1, 0);
        scene.renew(AUXILIARY, 0, 2);
        scene.wait(250);
    }
    let (asked_at, epoch) = (scene.now, Epoch(1));
    scene.renew(PRIMARY, 1, 1);
    scene.wait(10);
    assert!(scene.may_answer(), "it reaches workers again");
    assert!(!scene.leases.may_grant(scene.now, 1, epoch, asked_at), "the lease was not longer");
    let asked_at = scene.now;
    scene.renew(PRIMARY, 1, 1);
    scene.wait(10);
    assert!(scene.leases.may_grant(scene.now, 1, epoch, asked_at));
    // Whoever asked before it was promoted has a lease that began later.
    let successor = (AUXILIARY, Incarnation(1));
    assert!(scene.nodes.expire_lease(1, epoch, successor, LogIndex(9)));
    assert!(scene.leases.may_grant(scene.now, 1, Epoch(2), asked_at), "not looked at yet");
    scene.wait(10);
    assert!(scene.leases.may_grant(scene.now, 1, Epoch(2), asked_at));
}

#[test]
fn an_end_that_may_still_come_is_proposed_again_and_nothing_is_renewed_before_it_came() {
    let mut scene = Scene::new();
    scene.wait(800);
    scene.renew(AUXILIARY, 0, 2);
    scene.wait(100);
    assert_eq!(scene.proposed.len(), 1);
    scene.settle(Fate::Unknown);
    let first = scene.serials[0];
    // The auxiliary was restarted meanwhile, and nobody else would be promoted.
    let mut node: Node = scene.nodes.nodes[&AUXILIARY].clone();
    node.registration.incarnation = Incarnation(2);
    scene.nodes.nodes.insert(AUXILIARY, node);
    assert!(!scene.may_answer());
    scene.wait(0);
    assert_eq!(scene.proposed.len(), 2);
    assert_eq!(scene.proposed[0], scene.proposed[1]);
    // That the second came to nothing says nothing of the first.
    scene.settle(Fate::Nothing);
    scene.renew(PRIMARY, 1, 2);
    assert!(!scene.may_answer());
    scene.wait(0);
    scene.leases.settled(1, first, Fate::Applied);
    assert!(!scene.may_answer(), "that was another proposal");
    assert_eq!(scene.proposed.len(), 3);
    scene.settle(Fate::Applied);
    assert!(scene.may_answer(), "it was void");
    scene.renew(PRIMARY, 1, 2);
    scene.wait(500);
    assert_eq!(scene.proposed.len(), 3);
}

#[test]
fn an_end_that_had_no_effect_is_over_and_is_proposed_anew() {
    let mut scene = Scene::new();
    scene.wait(800);
    scene.renew(AUXILIARY, 0, 2);
    scene.wait(100);
    scene.settle(Fate::Nothing);
    assert!(scene.may_answer());
    scene.wait(0);
    assert_eq!(scene.proposed.len(), 2);
    assert!(!scene.may_answer());
}

#[test]
fn only_a_balancer_of_the_roster_is_in_a_group() {
    let mut scene = Scene::new();
    let group =
        |scene: &Scene, node, incarnation| group_of(&scene.nodes, node, Incarnation(incarnation));
    assert_eq!(group(&scene, PRIMARY, 1), Some(1));
    assert_eq!(group(&scene, PRIMARY, 2), None, "not in this incarnation");
    assert_eq!(group(&scene, NodeId(7), 1), None);
    let mut worker: Node = scene.nodes.nodes[&PRIMARY].clone();
    worker.registration.role = Role::Worker;
    scene.nodes.nodes.insert(NodeId(7), worker);
    assert_eq!(group(&scene, NodeId(7), 1), None);
}

#[test]
fn a_new_leader_and_one_that_stood_still_give_every_lease_a_full_term() {
    let mut scene = Scene::new();
    scene.renew(AUXILIARY, 0, 2);
    scene.now += Duration::from_secs(60);
    scene.renew(AUXILIARY, 0, 2);
    scene.wait(850);
    assert!(scene.proposed.is_empty(), "renewals may lie before it");
    assert!(scene.leases.tick(scene.now, None, &scene.nodes, &scene.grants).is_empty());
    assert!(scene.leases.tick(scene.now, Some(Term(4)), &scene.nodes, &scene.grants).is_empty());
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
    scene.settle(Fate::Applied);
    assert!(!scene.leases.is_noting(1));
    scene.says(PRIMARY, 1, 2, of(AuxiliaryState::InStep));
    assert_eq!(scene.proposed.len(), 1);
}
