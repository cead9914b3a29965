//! Seats that become free, groups that are given up, workers that are moved.

use super::super::losing::FIRST_REST;
use super::*;

const TIMEOUT_MS: u64 = 5_000;

/// The step in which balancers renew.
const STEP_MS: u64 = 250;

impl Scene {
    /// So many balancers, and workers of four slots each.
    fn with(balancers: u128, workers: u128) -> Scene {
        let mut scene = Scene::new();
        for node in 3..=balancers {
            scene.nodes.register(Registration::bare(NodeId(node), Role::Balancer), LogIndex(6));
        }
        for worker in 0..workers {
            let bare = Registration::bare(NodeId(100 + worker), Role::Worker);
            scene.nodes.register(Registration { slot_count: 4, ..bare }, LogIndex(7));
        }
        scene.nodes.check_invariants();
        scene
    }

    /// A balancer renews in its seat.
    fn speak(&mut self, node: u128, reachable_count: u32) {
        let node = NodeId(node);
        let known = &self.nodes.nodes[&node];
        let (number, incarnation) = (known.group, known.registration.incarnation);
        let Some(group) = self.nodes.groups.get(&number) else { return };
        let epoch = if group.primary == Some(node) { group.epoch } else { Epoch(0) };
        let renewal = Renewal { node, incarnation, epoch, reachable_count, auxiliary: None };
        let proposed = self.leases.renewed(self.now, number, &renewal, &self.nodes);
        assert!(proposed.is_none());
    }

    /// Time passes in which these balancers renew, each with the number of workers it reaches.
    fn pass(&mut self, span_ms: u64, balancers: &[(u128, u32)]) {
        for _ in 0..span_ms / STEP_MS {
            for &(node, reachable_count) in balancers {
                self.speak(node, reachable_count);
            }
            self.wait(STEP_MS);
        }
    }

    /// The last proposal is applied.
    fn carry_out(&mut self) {
        let command = self.proposed.last().expect("something was proposed").clone();
        let number = match command {
            Command::LeaseExpired { group, epoch, successor, incarnation } => {
                self.nodes.expire_lease(group, epoch, (successor, incarnation), LogIndex(50));
                group
            }
            Command::SeatVacated { group, epoch, node, incarnation } => {
                self.nodes.vacate_seat(group, epoch, (node, incarnation));
                group
            }
            Command::GroupLost { group, epoch, heir } => {
                assert!(self.nodes.lose_group(group, epoch, heir, LogIndex(50)).is_some());
                group
            }
            Command::WorkersMoved { moves } => {
                self.nodes.move_workers(&moves, LogIndex(50));
                ALL_GROUPS
            }
            other => panic!("not a matter of groups: {other:?}"),
        };
        let serial = *self.serials.last().expect("it has a serial");
        self.leases.settled(number, serial, Fate::Applied);
        self.nodes.check_invariants();
    }

    fn may_renew(&self, number: u64) -> bool {
        self.leases.may_answer(self.now, number, self.nodes.groups[&number].epoch)
    }
}

fn lost(group: u64, epoch: u64, heir: u64) -> Command {
    Command::GroupLost { group, epoch: Epoch(epoch), heir }
}

fn vacated(group: u64, epoch: u64, node: u128) -> Command {
    let (epoch, node) = (Epoch(epoch), NodeId(node));
    Command::SeatVacated { group, epoch, node, incarnation: Incarnation(1) }
}

#[test]
fn a_group_that_nobody_leads_is_lost_after_five_seconds_and_not_before() {
    let mut scene = Scene::with(3, 4);
    scene.pass(2_000, &[(1, 2), (2, 2), (3, 2)]);
    assert!(scene.proposed.is_empty(), "{:?}", scene.proposed);
    scene.pass(TIMEOUT_MS, &[(1, 2), (2, 2)]);
    assert!(scene.proposed.is_empty() && scene.may_renew(2) && !scene.leases.is_led(2));
    scene.pass(1_000, &[(1, 2), (2, 2)]);
    assert_eq!(scene.proposed, [lost(2, 2, 1)]);
    // Whoever comes now is too late, also while it is unknown what became of the entry.
    scene.pass(1_000, &[(1, 2), (2, 2), (3, 2)]);
    assert!(!scene.may_renew(2) && scene.proposed.len() == 1);
    let serial = *scene.serials.last().unwrap();
    scene.leases.settled(2, serial, Fate::Unknown);
    scene.pass(STEP_MS, &[(1, 2), (2, 2), (3, 2)]);
    assert_eq!(scene.proposed, [lost(2, 2, 1), lost(2, 2, 1)], "it is proposed again");
    assert!(!scene.may_renew(2));
    scene.carry_out();
    scene.pass(2_000, &[(1, 4), (2, 4)]);
    assert_eq!(scene.proposed.len(), 2);
    assert_eq!(scene.nodes.groups[&1].slot_count, 16);
}

#[test]
fn a_primary_that_comes_back_in_time_keeps_its_group() {
    let mut scene = Scene::with(3, 4);
    for _ in 0..3 {
        scene.pass(TIMEOUT_MS - 500, &[(1, 2), (2, 2)]);
        scene.pass(1_000, &[(1, 2), (2, 2), (3, 2)]);
    }
    assert!(scene.proposed.is_empty(), "{:?}", scene.proposed);
}

#[test]
fn nobody_inherits_where_no_other_group_is_led() {
    let mut scene = Scene::with(1, 4);
    scene.nodes.vacate_seat(1, Epoch(1), (AUXILIARY, Incarnation(1)));
    scene.pass(20_000, &[]);
    assert!(scene.proposed.is_empty(), "there is one group");
    let mut scene = Scene::with(3, 4);
    scene.pass(2_000, &[(1, 2), (3, 2)]);
    scene.pass(20_000, &[]);
    assert_eq!(scene.proposed, [vacated(1, 1, 2)], "all are silent");
    // The first that comes back inherits.
    scene.carry_out();
    scene.pass(1_000, &[(3, 2)]);
    assert_eq!(scene.proposed[1..], [lost(1, 1, 2)]);
}

#[test]
fn a_pair_that_is_gone_goes_to_a_new_balancer_that_has_no_worker_yet() {
    let mut scene = Scene::with(2, 4);
    scene.pass(1_000, &[(1, 4), (2, 4)]);
    scene.nodes.register(Registration::bare(NodeId(3), Role::Balancer), LogIndex(8));
    scene.pass(1_000, &[(3, 0)]);
    // Both died at once: the auxiliary was heard of lately.
    assert!(scene.promotes(), "{:?}", scene.proposed);
    scene.carry_out();
    scene.pass(TIMEOUT_MS + 1_000, &[(3, 0)]);
    assert!(scene.proposed.contains(&lost(1, 3, 2)), "{:?}", scene.proposed);
}

#[test]
fn an_auxiliary_is_promoted_before_a_group_is_lost_and_the_dead_primary_loses_its_seat() {
    let mut scene = Scene::with(3, 4);
    scene.pass(1_000, &[(1, 2), (2, 2), (3, 2)]);
    scene.pass(1_000, &[(2, 2), (3, 2)]);
    assert!(scene.promotes(), "{:?}", scene.proposed);
    scene.carry_out();
    scene.pass(TIMEOUT_MS + 500, &[(2, 2), (3, 2)]);
    assert_eq!(scene.proposed[1..], [vacated(1, 3, 1)]);
    scene.carry_out();
    scene.pass(TIMEOUT_MS, &[(2, 2), (3, 2)]);
    assert_eq!(scene.proposed.len(), 2, "that is all");
}

#[test]
fn a_group_that_reaches_no_worker_is_lost_where_it_has_work_and_another_would_do_it() {
    let everybody = [(1, 2), (2, 2), (3, 0)];
    let mut scene = Scene::with(3, 4);
    scene.pass(10_000, &everybody);
    assert!(scene.proposed.is_empty(), "it has nothing to do");
    scene.grants = Grants::of(&[(2, 5)]);
    scene.pass(10_000, &[(1, 0), (2, 0), (3, 0)]);
    assert!(scene.proposed.is_empty(), "nobody would do better");
    scene.pass(TIMEOUT_MS - STEP_MS, &everybody);
    assert!(scene.may_renew(2));
    scene.pass(STEP_MS * 2, &everybody);
    assert!(!scene.may_renew(2), "its lease is not renewed any more");
    assert!(scene.proposed.is_empty(), "and lasts until it is over");
    scene.pass(1_000, &everybody);
    assert_eq!(scene.proposed, [lost(2, 2, 1)]);
    scene.carry_out();
    // Its balancer begins a new group, which is not made of the workers that nobody reached.
    scene.grants = Grants::default();
    scene.nodes.register(Registration::bare(NodeId(3), Role::Balancer), LogIndex(60));
    let dead: Vec<NodeId> = scene.leases.suspects.keys().copied().collect();
    assert_eq!(dead.len(), 2);
    scene.pass(FIRST_REST.as_millis() + 3_000, &everybody);
    let Some(Command::WorkersMoved { moves }) = scene.proposed.last().cloned() else {
        panic!("{:?}", scene.proposed);
    };
    assert_eq!(moves.len(), 1);
    assert!(moves.iter().all(|(worker, group)| !dead.contains(worker) && *group == 3));
    scene.carry_out();
    scene.pass(3_000, &[(1, 1), (2, 1), (3, 1)]);
    assert_eq!(scene.proposed.len(), 2, "it stays so while they are not reached");
    scene.pass(3_000, &[(1, 3), (2, 3), (3, 1)]);
    let Some(Command::WorkersMoved { moves }) = scene.proposed.last() else {
        panic!("{:?}", scene.proposed);
    };
    assert_eq!((scene.proposed.len(), moves.len()), (3, 1), "now they are");
}

/// The third balancer's group is given up because it reaches no worker, and the balancer begins
/// another one. Returns after how many steps that one is given workers.
fn rest_of_the_third(scene: &mut Scene, everybody: &[(u128, u32)]) -> u64 {
    let number = scene.nodes.nodes[&NodeId(3)].group;
    scene.grants = Grants::of(&[(number, 5)]);
    scene.proposed.clear();
    scene.pass(TIMEOUT_MS + 2_000, everybody);
    let epoch = scene.nodes.groups[&number].epoch;
    assert_eq!(scene.proposed, [lost(number, epoch.0, 1)]);
    scene.carry_out();
    scene.nodes.register(Registration::bare(NodeId(3), Role::Balancer), LogIndex(60));
    scene.grants = Grants::default();
    scene.proposed.clear();
    let mut steps = 0;
    while scene.proposed.is_empty() {
        scene.pass(STEP_MS, everybody);
        steps += 1;
        assert!(steps < 10_000, "it is never given workers again");
    }
    assert!(matches!(&scene.proposed[..], [Command::WorkersMoved { .. }]));
    scene.carry_out();
    steps
}

#[test]
fn a_balancer_that_no_worker_reaches_is_left_out_for_longer_each_time() {
    // The others reach all workers again as soon as these are theirs.
    let everybody = [(1, 4), (2, 4), (3, 0)];
    let mut scene = Scene::with(3, 4);
    scene.pass(1_000, &everybody);
    let first = FIRST_REST.as_millis() / STEP_MS;
    for times in 0..8u32 {
        let rest = rest_of_the_third(&mut scene, &everybody);
        let expected = first << times.min(6);
        assert!((expected - 8..expected + 8).contains(&rest), "{rest} steps after {times} times");
    }
    // A worker reaches it, if only for a moment: that is over.
    scene.pass(STEP_MS, &[(1, 4), (2, 4), (3, 1)]);
    let rest = rest_of_the_third(&mut scene, &everybody);
    assert!((first - 8..first + 8).contains(&rest), "{rest} steps");
}

#[test]
fn a_balancer_is_left_out_only_while_another_one_reaches_workers() {
    let mut scene = Scene::with(3, 4);
    scene.grants = Grants::of(&[(2, 5)]);
    scene.pass(TIMEOUT_MS + 2_000, &[(1, 4), (2, 4), (3, 0)]);
    assert_eq!(scene.proposed, [lost(2, 2, 1)]);
    scene.carry_out();
    scene.nodes.register(Registration::bare(NodeId(3), Role::Balancer), LogIndex(60));
    scene.pass(3_000, &[(1, 4), (2, 4), (3, 0)]);
    assert_eq!(scene.proposed.len(), 1, "there is another");
    scene.pass(2_000, &[(1, 0), (2, 0), (3, 0)]);
    let Some(Command::WorkersMoved { moves }) = scene.proposed.get(1) else {
        panic!("{:?}", scene.proposed);
    };
    assert!(moves.iter().all(|(_, group)| *group == 3));
}

#[test]
fn an_idle_group_that_lost_sight_of_its_workers_gets_none_of_another() {
    let moves = |reached: u32| {
        let mut scene = Scene::with(3, 6);
        let moved: Vec<_> = (101..106).map(|worker| (NodeId(worker), 2)).collect();
        scene.nodes.move_workers(&moved, LogIndex(8));
        scene.pass(4_000, &[(1, reached), (2, reached), (3, 5)]);
        scene.proposed.len()
    };
    assert_eq!(moves(0), 0);
    assert!(moves(1) > 0, "one that reaches its worker gets more of them");
}

#[test]
fn the_heir_is_the_lightest_of_those_that_reach_workers() {
    let mut scene = Scene::with(7, 0);
    for (number, slot_count) in [(1, 8), (2, 4), (3, 6), (4, 4)] {
        let worker = NodeId(100 + u128::from(number));
        let bare = Registration::bare(worker, Role::Worker);
        scene.nodes.register(Registration { slot_count, ..bare }, LogIndex(7));
        scene.nodes.move_workers(&[(worker, number)], LogIndex(8));
    }
    let pairs: Vec<(u64, u128)> =
        scene.nodes.groups.iter().map(|(&it, group)| (it, group.primary.unwrap().0)).collect();
    assert_eq!(pairs, [(1, 1), (2, 3), (3, 5), (4, 7)]);
    let heir = |scene: &Scene, is_left| scene.leases.heir(scene.now, 4, is_left, &scene.nodes);
    scene.pass(1_000, &[(1, 1), (3, 0), (5, 1), (7, 1)]);
    assert_eq!(heir(&scene, true), Some(3), "the second reaches none");
    scene.pass(1_000, &[(1, 0), (3, 0), (5, 0), (7, 1)]);
    assert_eq!((heir(&scene, false), heir(&scene, true)), (None, Some(2)));
}

#[test]
fn a_primary_that_reaches_workers_again_in_time_is_renewed_again() {
    let mut scene = Scene::with(3, 4);
    scene.grants = Grants::of(&[(2, 5)]);
    scene.pass(TIMEOUT_MS + STEP_MS, &[(1, 2), (2, 2), (3, 0)]);
    assert!(!scene.may_renew(2));
    scene.pass(STEP_MS, &[(1, 2), (2, 2), (3, 1)]);
    scene.pass(2_000, &[(1, 2), (2, 2), (3, 1)]);
    assert!(scene.may_renew(2) && scene.proposed.is_empty());
}

#[test]
fn a_silent_auxiliary_loses_its_seat_once() {
    let mut scene = Scene::with(2, 4);
    scene.pass(1_000, &[(1, 2), (2, 2)]);
    scene.pass(TIMEOUT_MS - 2 * STEP_MS, &[(1, 2)]);
    assert!(scene.proposed.is_empty());
    scene.pass(1_000, &[(1, 2)]);
    assert_eq!(scene.proposed, [vacated(1, 1, 2)]);
    scene.carry_out();
    scene.pass(20_000, &[(1, 2)]);
    assert_eq!(scene.proposed.len(), 1);
    // It comes back, and has its time again.
    scene.nodes.register(Registration::bare(AUXILIARY, Role::Balancer), LogIndex(60));
    scene.pass(TIMEOUT_MS - 2 * STEP_MS, &[(1, 2)]);
    assert_eq!(scene.proposed.len(), 1);
    scene.pass(1_000, &[(1, 2)]);
    assert_eq!(scene.proposed.len(), 2);
}

#[test]
fn workers_are_balanced_once_all_groups_are_led() {
    let mut scene = Scene::with(3, 0);
    for worker in 0..4 {
        let bare = Registration::bare(NodeId(100 + worker), Role::Worker);
        scene.nodes.register(Registration { slot_count: 4, ..bare }, LogIndex(7));
        scene.nodes.move_workers(&[(NodeId(100 + worker), 1)], LogIndex(8));
    }
    scene.pass(4_000, &[(1, 4), (2, 4)]);
    assert!(scene.proposed.is_empty(), "nobody leads the second group");
    scene.pass(750, &[(1, 4), (2, 4), (3, 0)]);
    assert!(scene.proposed.is_empty(), "it was led for a moment only");
    scene.pass(1_000, &[(1, 4), (2, 4), (3, 0)]);
    assert!(matches!(&scene.proposed[..], [Command::WorkersMoved { moves }] if moves.len() == 2));
    scene.pass(3_000, &[(1, 4), (2, 4), (3, 0)]);
    assert_eq!(scene.proposed.len(), 1, "one at a time");
    scene.carry_out();
    scene.pass(20_000, &[(1, 2), (2, 2), (3, 2)]);
    assert_eq!(scene.proposed.len(), 1, "and none once they are even");
}
