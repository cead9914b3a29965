//! Several balancer groups: who is granted what, and what becomes of it when a group is lost.

use std::collections::BTreeMap;

use consensus::StateMachine;
use proto::ids::Epoch;

use super::*;
use crate::logic::commands::JobChange;
use crate::logic::grants::GRANT_TASKS;

const JOB: JobId = JobId(5);

impl Driven {
    /// So many groups of one balancer and an auxiliary, each with workers of these slots.
    fn with_groups(count: u64, slots: &[u32]) -> Driven {
        let mut driven = Driven::new();
        for balancer in 0..2 * count {
            driven.add_balancer(u128::from(balancer) + 1, 1);
        }
        for (number, &slot_count) in (100..).zip(slots) {
            driven.add_worker(number, slot_count);
        }
        driven
    }

    fn add_balancer(&mut self, node: u128, incarnation: u64) {
        let bare = Registration::bare(NodeId(node), Role::Balancer);
        let incarnation = Incarnation(incarnation);
        self.apply(Command::Register(Registration { incarnation, ..bare }));
    }

    fn add_worker(&mut self, node: u128, slot_count: u32) {
        let bare = Registration::bare(NodeId(node), Role::Worker);
        self.apply(Command::Register(Registration { slot_count, ..bare }));
    }

    fn lose(&mut self, group: u64, heir: u64) {
        let epoch = self.cluster.nodes.groups.get(&group).map_or(Epoch(0), |group| group.epoch);
        self.apply(Command::GroupLost { group, epoch, heir });
    }

    fn submit_tasks(&mut self, id: JobId, count: u64) {
        let request = self.index + 1;
        let record = job_record(id, count, |job| job.retries = 9);
        let output = self.submit(1, request, id, record);
        assert!(matches!(output, Output::Accepted { .. }), "{output:?}");
    }

    fn outstanding(&self, group: u64) -> u64 {
        self.cluster.grants.outstanding(group)
    }

    /// What a group deals of a job, by its complete feed: first task, number, move number.
    fn has(&self, group: u64, id: JobId) -> Vec<(u64, u64, u64)> {
        let (entries, next) = self.cluster.complete_feed(group, (JobId(0), 0), 100_000);
        assert_eq!(next, None);
        let of_job = entries.into_iter().filter_map(|entry| match entry {
            FeedEntry::Grant { job, first_task, task_count, move_number, .. } if job == id => {
                Some((first_task, task_count, move_number.0))
            }
            _ => None,
        });
        of_job.collect()
    }
}

#[test]
fn a_job_is_granted_to_all_groups_at_once_and_one_task_to_the_lightest() {
    let mut driven = Driven::with_groups(3, &[8, 8, 8]);
    driven.submit_tasks(JOB, 600);
    assert_eq!(driven.has(1, JOB), [(0, 100, 0)]);
    assert_eq!(driven.has(2, JOB), [(100, 83, 0)]);
    assert_eq!(driven.has(3, JOB), [(183, 69, 0)]);
    driven.submit_tasks(JobId(6), 1);
    assert_eq!(driven.has(3, JobId(6)), [(0, 1, 0)], "it has the fewest");
    assert_eq!([1, 2, 3].map(|group| driven.outstanding(group)), [100, 83, 70]);
    // A job that fits into the slots of one group is one group's.
    driven.submit_tasks(JobId(7), 5);
    assert_eq!(driven.has(3, JobId(7)), [(0, 5, 0)]);
}

#[test]
fn groups_without_workers_are_granted_nothing_until_they_have_some() {
    let mut driven = Driven::with_groups(2, &[]);
    driven.submit_tasks(JobId(4), 10);
    assert_eq!(driven.has(1, JobId(4)), [(0, 10, 0)], "nobody has any: the first");
    driven.add_worker(100, 4);
    driven.submit_tasks(JOB, 4 * GRANT_TASKS);
    assert_eq!((driven.outstanding(1), driven.outstanding(2)), (GRANT_TASKS + 10, 0));
    assert!(driven.cluster.grants.has_ungranted());
    // A worker joins the other group: it begins at once with what nobody has yet.
    driven.add_worker(101, 4);
    assert!(driven.outstanding(2) > GRANT_TASKS / 2);
    let before = driven.outstanding(2);
    driven.apply(Command::WorkersMoved { moves: vec![(NodeId(101), 1)] });
    driven.submit_tasks(JobId(6), 10);
    assert_eq!(driven.outstanding(2), before, "it has no worker any more");
}

#[test]
fn one_group_is_granted_a_large_job_as_if_there_were_no_groups() {
    let mut driven = Driven::with_groups(1, &[4]);
    driven.submit_tasks(JOB, 3 * GRANT_TASKS);
    assert_eq!(driven.has(1, JOB), [(0, GRANT_TASKS, 0)]);
    driven.report(run(JOB, 0..GRANT_TASKS / 2 - 1, 1, TaskState::Done));
    assert_eq!(driven.outstanding(1), GRANT_TASKS / 2 + 1);
    driven.report(run(JOB, GRANT_TASKS / 2 - 1..GRANT_TASKS / 2, 1, TaskState::Done));
    assert_eq!(driven.outstanding(1), GRANT_TASKS / 2 + GRANT_TASKS);
}

#[test]
fn parts_get_smaller_and_no_group_runs_dry_before_the_end() {
    let slots = [4u32, 16];
    let mut driven = Driven::with_groups(2, &slots);
    driven.submit_tasks(JOB, 5_000);
    // The second group is faster: its tasks end three at a time.
    let mut round = 0;
    while driven.cluster.jobs[&JOB].state != JobState::Done {
        round += 1;
        for (group, count) in [(1, 1), (2, 3)] {
            let Some(&(first, left, _)) = driven.has(group, JOB).first() else { continue };
            driven.report(run(JOB, first..first + left.min(count), 1, TaskState::Done));
            let job = &driven.cluster.jobs[&JOB];
            let slots = u64::from(slots[group as usize - 1]);
            let is_dry = job.share(group).outstanding < slots;
            assert!(!is_dry || !job.has_ungranted(), "group {group} in round {round}");
        }
    }
    // 5,000 tasks at four in a round. Parts go by slots, so the slower group has some to the end.
    assert!((1_250..1_350).contains(&round), "{round} rounds");
}

#[test]
fn what_a_lost_group_has_goes_to_the_others_under_a_newer_number() {
    let mut driven = Driven::with_groups(3, &[8, 8, 8]);
    driven.submit_tasks(JOB, 600);
    driven.submit_tasks(JobId(6), 50);
    driven.report(run(JOB, 100..150, 2 << 32, TaskState::Done));
    let before: u64 = [1, 2, 3].map(|group| driven.outstanding(group)).iter().sum();
    let last_epoch = driven.cluster.nodes.last_epoch;
    let index = driven.index + 1;
    driven.lose(2, 3);
    assert_eq!(driven.outstanding(2), 0);
    let after: u64 = [1, 3].map(|group| driven.outstanding(group)).iter().sum();
    assert!(after >= before, "nothing is lost: {before} before, {after} after");
    let moved = last_epoch.next().0;
    assert!(driven.has(3, JOB).contains(&(150, 33, moved)), "what is unfinished of the range");
    // The heir's feed goes on from where it was with the whole range, at the entry's index.
    let feed = driven.cluster.feed(3, LogIndex(index - 1));
    let grant = FeedEntry::Grant {
        index: LogIndex(index),
        job: JOB,
        first_task: 100,
        task_count: 83,
        move_number: Epoch(moved),
    };
    assert!(feed.contains(&grant), "{feed:?}");
    assert!(driven.cluster.nodes.last_epoch.0 == moved, "later leases have higher ones still");
    // A late entry of the same leader changes nothing but the index.
    let mut same = driven.cluster.clone();
    driven.apply(Command::GroupLost { group: 2, epoch: Epoch(2), heir: 3 });
    same.applied = driven.cluster.applied;
    assert_eq!(driven.cluster, same);
    // An outcome of before is recorded all the same.
    driven.report(run(JOB, 150..151, 2 << 32, TaskState::Done));
    assert!(driven.cluster.jobs[&JOB].done.contains(150));
}

impl Driven {
    fn submit_held(&mut self, id: JobId, count: u64) {
        let request = self.index + 1;
        self.submit(1, request, id, job_record(id, count, |job| job.is_held = true));
    }
}

#[test]
fn what_is_held_is_no_load_of_its_group() {
    let mut driven = Driven::with_groups(2, &[4, 4]);
    driven.submit_held(JOB, 4);
    assert_eq!(driven.has(1, JOB), [(0, 4, 0)], "it is granted all the same");
    assert_eq!([1, 2].map(|group| driven.outstanding(group)), [0, 0]);
    driven.submit_tasks(JobId(6), 4);
    assert_eq!(driven.has(1, JobId(6)), [(0, 4, 0)], "nothing else keeps the first group busy");
    // What is held is shared by what is granted at all, so that it is not all one group's.
    driven.submit_held(JobId(7), 4);
    driven.submit_held(JobId(8), 4);
    assert_eq!([7, 8].map(|id| driven.has(2, JobId(id)).len()), [1, 1]);
    assert_eq!([1, 2].map(|group| driven.outstanding(group)), [4, 0]);
    // It counts when it is released, and no more when it is held again.
    driven.ask(ClientChange::Change { job: JOB, change: JobChange::Release });
    assert_eq!(driven.outstanding(1), 8);
    driven.report(run(JOB, 0..1, 1, TaskState::Done));
    driven.ask(ClientChange::Change { job: JOB, change: JobChange::Hold });
    driven.ask(ClientChange::Change { job: JOB, change: JobChange::Hold });
    assert_eq!(driven.outstanding(1), 4);
    // What runs of it ends; then it is cancelled.
    driven.report(run(JOB, 1..2, 1, TaskState::Done));
    assert_eq!(driven.outstanding(1), 4);
    driven.ask(ClientChange::Cancel { job: JOB });
    assert_eq!(driven.outstanding(1), 4);
    // A lost group's is the heir's, held as before.
    driven.lose(2, 1);
    assert_eq!(driven.outstanding(1), 4);
    driven.ask(ClientChange::Change { job: JobId(7), change: JobChange::Release });
    assert_eq!(driven.outstanding(1), 8);
}

#[test]
fn of_a_job_that_is_held_nothing_waits_to_be_granted() {
    let mut driven = Driven::with_groups(2, &[4]);
    driven.submit_tasks(JOB, 3 * GRANT_TASKS);
    assert!(driven.cluster.grants.has_ungranted());
    driven.ask(ClientChange::Change { job: JOB, change: JobChange::Hold });
    assert!(!driven.cluster.grants.has_ungranted());
    // A group that has workers meanwhile gets its part when it is released.
    driven.add_worker(101, 4);
    assert_eq!(driven.has(2, JOB), []);
    driven.ask(ClientChange::Change { job: JOB, change: JobChange::Release });
    assert!(driven.cluster.grants.has_ungranted());
    assert!(driven.outstanding(2) > 0);
}

#[test]
fn a_snapshot_has_groups_grants_and_their_sums() {
    let mut driven = Driven::with_groups(3, &[8, 8, 8]);
    driven.submit_tasks(JOB, 100_000);
    driven.report(run(JOB, 3..9, 1, TaskState::Done));
    driven.lose(3, 1);
    let bytes = Cluster::encode(&driven.cluster.snapshot());
    let restored = Cluster::restore(&bytes).expect("what was encoded is read");
    assert_eq!(restored, driven.cluster);
    restored.check_invariants();
}

/// One step of a random walk, by kind and three numbers.
type Step = (u8, u64, u64, u64);

const JOBS: u64 = 4;

impl Driven {
    fn step(&mut self, (kind, a, b, c): Step) {
        let groups: Vec<u64> = self.cluster.nodes.groups.keys().copied().collect();
        let group = |it: u64| groups.get(it as usize % groups.len().max(1)).copied().unwrap_or(1);
        let epoch = |it: u64| self.cluster.nodes.groups.get(&it).map_or(Epoch(0), |it| it.epoch);
        let id = JobId(u128::from(a % JOBS) + 1);
        match kind {
            0 => self.add_balancer(u128::from(a % 7) + 1, b % 3 + 1),
            1 => self.add_worker(u128::from(a % 9) + 100, (b % 5) as u32),
            2 if !self.cluster.jobs.contains_key(&id) => self.submit_tasks(id, b % 300 + 1),
            2..=5 => {
                let states = [TaskState::Done, TaskState::Failed, TaskState::Lost];
                let state = states[c as usize % states.len()];
                let first = b % 300;
                self.report(run(id, first..first + c % 40 + 1, self.index, state));
            }
            6 => {
                let number = group(a);
                let command = Command::GroupLost {
                    group: number,
                    epoch: epoch(number),
                    heir: if c % 8 == 0 { 77 } else { group(b) },
                };
                self.twice(command);
            }
            7 => {
                let worker = NodeId(u128::from(a % 9) + 100);
                self.twice(Command::WorkersMoved { moves: vec![(worker, group(b))] });
            }
            8 => {
                let number = group(a);
                let seat = self.cluster.nodes.groups.get(&number).and_then(|it| it.auxiliary);
                let node = seat.unwrap_or(NodeId(1));
                let incarnation = Incarnation(b % 3 + 1);
                let epoch = epoch(number);
                self.twice(Command::SeatVacated { group: number, epoch, node, incarnation });
            }
            9 => {
                let number = group(a);
                let seat = self.cluster.nodes.groups.get(&number).and_then(|it| it.auxiliary);
                let successor = seat.unwrap_or(NodeId(1));
                let incarnation = Incarnation(b % 3 + 1);
                let epoch = epoch(number);
                self.twice(Command::LeaseExpired { group: number, epoch, successor, incarnation });
            }
            10 => {
                let change = if b % 3 > 0 { JobChange::Hold } else { JobChange::Release };
                self.ask(ClientChange::Change { job: id, change });
            }
            _ => self.ask(ClientChange::Cancel { job: id }),
        }
    }

    fn ask(&mut self, change: ClientChange) {
        let request = RequestId(self.index + 1);
        let asker = Asker { client: NodeId(2), request, session_index: LogIndex(0) };
        self.apply(Command::Client(asker, change));
    }

    /// What a leader proposes of itself may come twice, and then does nothing more.
    fn twice(&mut self, command: Command) {
        self.apply(command.clone());
        let mut same = self.cluster.clone();
        self.apply(command);
        same.applied = self.cluster.applied;
        assert_eq!(self.cluster, same);
    }

    /// Every unfinished task is one group's that exists, or is granted later.
    fn check_that_all_is_dealt(&self) {
        for (&id, job) in self.cluster.jobs.iter().filter(|(_, job)| !job.state.is_final()) {
            let mut owners: BTreeMap<u64, u64> = BTreeMap::new();
            let first = [1].into_iter().filter(|_| self.cluster.nodes.groups.is_empty());
            for group in self.cluster.nodes.groups.keys().copied().chain(first) {
                for (first, count, _) in self.has(group, id) {
                    for task in first..first + count {
                        assert_eq!(owners.insert(task, group), None, "task {task} of job {id}");
                    }
                }
            }
            let unfinished = job.unfinished(0..job.next_grant);
            let unfinished: Vec<u64> = unfinished.into_iter().flatten().collect();
            assert_eq!(owners.keys().copied().collect::<Vec<u64>>(), unfinished, "job {id}");
            if job.has_ungranted() && !job.is_held {
                let is_empty =
                    self.cluster.nodes.groups.keys().all(|&it| self.outstanding(it) == 0);
                assert!(!is_empty || self.cluster.nodes.groups.is_empty(), "job {id} stands still");
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_to_groups_every_task_is_somebodys(
        steps in prop::collection::vec((0u8..12, 0u64..1000, 0u64..1000, 0u64..1000), 1..60),
    ) {
        let mut driven = Driven::new();
        for step in steps {
            driven.step(step);
            driven.check_that_all_is_dealt();
        }
        let restored = Cluster::restore(&Cluster::encode(&driven.cluster)).expect("it is read");
        prop_assert_eq!(restored, driven.cluster);
    }
}
