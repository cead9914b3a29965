//! Joining, promotion, removal.

use proto::time::Duration;

use super::cluster::{Cluster, Outcome, id};
use crate::logic::{Failure, MemberChange, Role};

fn promote(voters: &[u64], removed: &[u64]) -> MemberChange {
    let ids = |numbers: &[u64]| numbers.iter().map(|&number| id(number)).collect();
    MemberChange::Promote { voters: ids(voters), removed: ids(removed) }
}

#[test]
fn the_second_and_third_become_voters_together() {
    let cluster = Cluster::of_three();
    for member in 1..=3 {
        let members = cluster.member(id(member)).members();
        assert_eq!(members.len(), 3);
        assert!(members.values().all(|info| info.voter));
        assert_eq!(members[&id(3)].address, "address 3");
    }
}

#[test]
fn a_learner_has_no_vote_and_does_not_lead() {
    let mut cluster = Cluster::of_one();
    cluster.join(id(2));
    assert_eq!(cluster.member(id(2)).role(), Role::Learner);
    cluster.commit(id(2), b"through a learner");
    cluster.kill(id(2));
    cluster.commit(id(1), b"alone");
    cluster.start(id(2));
    cluster.agree();
    cluster.kill(id(1));
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.leader(), None);
}

#[test]
fn a_new_folder_does_nothing_until_it_is_added() {
    let mut cluster = Cluster::of_one();
    cluster.prepare(id(2));
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.member(id(2)).role(), Role::Learner);
    assert_eq!(cluster.member(id(2)).term().0, 0);
    assert_eq!(cluster.invoke(id(2), b"one"), Outcome::Failed(Failure::NoLeader));
}

#[test]
fn a_member_is_replaced_in_one_step() {
    let mut cluster = Cluster::of_three();
    cluster.commit(id(1), b"one");
    cluster.kill(id(3));
    cluster.join(id(4));
    let outcome = cluster.change_until_taken(id(2), &promote(&[4], &[3]));
    assert!(matches!(outcome, Outcome::Changed(_)), "{outcome:?}");
    cluster.run(Duration::from_secs(1));
    let members: Vec<u64> = cluster.member(id(4)).members().keys().map(|id| id.0).collect();
    assert_eq!(members, vec![1, 2, 4]);
    cluster.kill(id(1));
    cluster.run_until("another leads", |cluster| cluster.leader().is_some());
    let leader = cluster.leader().unwrap();
    cluster.commit(leader, b"two");
    assert_eq!(cluster.commands(leader), vec![b"one".to_vec(), b"two".to_vec()]);
}

#[test]
fn a_leader_can_be_removed() {
    let mut cluster = Cluster::of_three();
    let outcome = cluster.change_until_taken(id(2), &MemberChange::Remove { member: id(1) });
    assert!(matches!(outcome, Outcome::Changed(_)), "{outcome:?}");
    cluster.run_until("another leads", |cluster| {
        [2, 3].iter().any(|&one| cluster.member(id(one)).role() == Role::Leader)
    });
    let leader = [2, 3].into_iter().find(|&one| cluster.member(id(one)).role() == Role::Leader);
    cluster.commit(id(leader.unwrap()), b"one");
    assert_eq!(cluster.member(id(2)).members().len(), 2);
}

#[test]
fn changes_that_make_no_sense_are_refused_and_repeated_ones_are_answered() {
    let mut cluster = Cluster::of_one();
    let refused = Outcome::Failed(Failure::Refused);
    cluster.run(Duration::from_millis(10));
    assert_eq!(cluster.change(id(1), &MemberChange::Remove { member: id(1) }), refused);
    assert_eq!(cluster.change(id(1), &promote(&[9], &[])), refused);
    let add = MemberChange::AddLearner { member: id(2), address: "address 2".to_owned() };
    assert!(matches!(cluster.change(id(1), &add), Outcome::Changed(_)));
    assert!(matches!(cluster.change(id(1), &add), Outcome::Changed(_)));
    // It is not even running, so it must not get a vote.
    assert_eq!(cluster.change(id(1), &promote(&[2], &[])), Outcome::Failed(Failure::Behind));
}

#[test]
fn a_change_survives_the_restart_of_everybody() {
    let mut cluster = Cluster::of_three();
    for member in 1..=3 {
        cluster.kill(id(member));
    }
    cluster.start(id(1));
    // Alone it must not lead: it knows from its log that it is one of three.
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.leader(), None);
    cluster.start(id(3));
    cluster.run_until("somebody leads", |cluster| cluster.leader().is_some());
}

/// Found by the simulator: nothing but the change itself was ever written, all members stop, and
/// the one that the configuration before it needs is gone for good.
#[test]
fn a_change_that_was_answered_does_not_need_the_members_before_it() {
    let mut cluster = Cluster::of_three();
    cluster.run(Duration::from_millis(5));
    for member in 1..=3 {
        cluster.kill(id(member));
    }
    cluster.start(id(2));
    cluster.start(id(3));
    cluster.run_until("somebody leads", |cluster| cluster.leader().is_some());
}
