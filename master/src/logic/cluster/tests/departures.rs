//! Nodes that left for good: who may be forgotten, and what becomes of those that come back.

use proto::ids::Epoch;

use super::*;

const WORKER: NodeId = NodeId(100);
const OTHER: NodeId = NodeId(101);
const PRIMARY: NodeId = NodeId(1);
const AUXILIARY: NodeId = NodeId(2);
const JOB: JobId = JobId(5);

impl Driven {
    /// A group with two balancers and two workers.
    fn with_pair() -> Driven {
        let mut driven = Driven::new();
        for balancer in [PRIMARY, AUXILIARY] {
            driven.apply(Command::Register(Registration::bare(balancer, Role::Balancer)));
        }
        driven.worker(WORKER, 1);
        driven.worker(OTHER, 1);
        driven
    }

    /// A worker of four slots.
    fn worker(&mut self, node: NodeId, incarnation: u64) -> Output {
        let incarnation = Incarnation(incarnation);
        let bare = Registration::bare(node, Role::Worker);
        self.apply(Command::Register(Registration { slot_count: 4, incarnation, ..bare }))
    }

    fn forget_node(&mut self, node: NodeId, incarnation: u64) -> Output {
        let request = RequestId(self.index + 1);
        let asker = Asker { client: NodeId(3), request, session_index: LogIndex(0) };
        let incarnation = Incarnation(incarnation);
        self.apply(Command::Client(asker, ClientChange::ForgetNode { node, incarnation }))
    }

    /// What a forgetting is refused with, which then changes nothing.
    #[track_caller]
    fn refusal(&mut self, node: NodeId, incarnation: u64) -> (ErrorCode, String) {
        let before = self.cluster.nodes.clone();
        let output = self.forget_node(node, incarnation);
        assert_eq!(self.cluster.nodes, before);
        match output {
            Output::Refused { code, text } => (code, text),
            other => panic!("{node} is forgotten: {other:?}"),
        }
    }

    fn slot_count(&self) -> u64 {
        self.cluster.nodes.groups[&1].slot_count
    }
}

#[test]
fn a_worker_that_left_counts_for_nothing_and_is_a_new_one_when_it_comes_back() {
    let mut driven = Driven::with_pair();
    let Output::Registered { index: before } = driven.worker(WORKER, 1) else { panic!() };
    assert_eq!(driven.slot_count(), 8);
    let forgotten = driven.forget_node(WORKER, 1);
    assert_eq!(forgotten, Output::NodeForgotten { index: LogIndex(driven.index) });
    assert_eq!(driven.slot_count(), 4);
    assert_eq!(driven.refusal(WORKER, 1).0, ErrorCode::NotFound);
    // Also one that was forgotten by mistake: its place has a newer number, so that it is told.
    let Output::Registered { index } = driven.worker(WORKER, 1) else { panic!() };
    assert!(index > before);
    assert_eq!(driven.slot_count(), 8);
    assert_eq!(driven.refusal(WORKER, 2).0, ErrorCode::OldEpoch);
    driven.worker(WORKER, 2);
    let (code, text) = driven.refusal(WORKER, 1);
    assert_eq!(code, ErrorCode::OldEpoch);
    assert!(text.contains("incarnation 2 has registered"), "{text}");
}

#[test]
fn a_retried_forgetting_has_the_effect_of_one() {
    let mut driven = Driven::with_pair();
    let asker = Asker { client: NodeId(3), request: RequestId(1), session_index: LogIndex(0) };
    let change = ClientChange::ForgetNode { node: WORKER, incarnation: Incarnation(1) };
    let first = driven.apply(Command::Client(asker, change.clone()));
    assert!(matches!(first, Output::NodeForgotten { .. }), "{first:?}");
    driven.worker(WORKER, 1);
    assert_eq!(driven.apply(Command::Client(asker, change)), first);
    assert!(driven.cluster.nodes.is_worker(WORKER, Incarnation(1)), "it came back meanwhile");
}

#[test]
fn what_a_forgotten_worker_still_reports_is_recorded_once() {
    let mut driven = Driven::with_pair();
    driven.submit(1, 1, JOB, job_record(JOB, 10, |_| {}));
    driven.forget_node(WORKER, 1);
    for _ in 0..2 {
        driven.apply(Command::Complete {
            worker: WORKER,
            incarnation: Incarnation(1),
            frame: 7,
            runs: vec![run(JOB, 0..6, 1, TaskState::Done)],
            segments: Vec::new(),
        });
    }
    assert_eq!(driven.cluster.jobs[&JOB].done.len(), 6);
    driven.apply(Command::RunsLost { runs: vec![run(JOB, 6..10, 2, TaskState::Done)] });
    assert_eq!(driven.cluster.jobs[&JOB].state, JobState::Done);
}

#[test]
fn a_balancer_is_forgotten_when_its_seat_is_free() {
    let mut driven = Driven::with_pair();
    for balancer in [PRIMARY, AUXILIARY] {
        let (code, text) = driven.refusal(balancer, 1);
        assert_eq!(code, ErrorCode::NotAllowed);
        assert!(text.contains("has a seat in group 1"), "{text}");
    }
    let (node, incarnation) = (AUXILIARY, Incarnation(1));
    driven.apply(Command::SeatVacated { group: 1, epoch: Epoch(1), node, incarnation });
    assert!(matches!(driven.forget_node(AUXILIARY, 1), Output::NodeForgotten { .. }));
    assert_eq!(driven.cluster.nodes.nodes.len(), 3);
    let back = driven.apply(Command::Register(Registration::bare(AUXILIARY, Role::Balancer)));
    assert!(matches!(back, Output::Registered { .. }), "{back:?}");
    assert_eq!(driven.cluster.nodes.groups[&1].auxiliary, Some(AUXILIARY));
}

#[test]
fn what_keeps_data_or_a_vote_is_not_forgotten() {
    let mut driven = Driven::new();
    let storage =
        |node, weight| Registration { weight, ..Registration::bare(NodeId(node), Role::Storage) };
    driven.apply(Command::Register(storage(7, 100)));
    driven.apply(Command::Register(storage(8, 0)));
    driven.apply(Command::Register(Registration::bare(NodeId(9), Role::Master)));
    let (code, text) = driven.refusal(NodeId(7), 1);
    assert_eq!(code, ErrorCode::NotAllowed);
    assert!(text.contains("would be lost"), "{text}");
    assert!(driven.refusal(NodeId(9), 1).1.contains("is a master"));
    // One that is no member of the ring keeps nothing.
    assert!(matches!(driven.forget_node(NodeId(8), 1), Output::NodeForgotten { .. }));
}

#[test]
fn slots_of_a_silent_worker_count_again_when_it_registers() {
    let mut driven = Driven::with_pair();
    let Output::Registered { index } = driven.worker(WORKER, 1) else { panic!() };
    driven.submit(1, 1, JOB, job_record(JOB, 10, |_| {}));
    driven.apply(Command::Complete {
        worker: WORKER,
        incarnation: Incarnation(1),
        frame: 7,
        runs: vec![run(JOB, 0..6, 1, TaskState::Done)],
        segments: Vec::new(),
    });
    let silent = |group, epoch, node, incarnation| Command::WorkersSilent {
        group,
        epoch: Epoch(epoch),
        workers: vec![(node, Incarnation(incarnation))],
    };
    let meant_for_others = [(2, 1, WORKER, 1), (1, 0, WORKER, 1), (1, 1, WORKER, 2)];
    let nobody = [(1, 1, NodeId(7), 1), (1, 1, PRIMARY, 1)];
    for (group, epoch, node, incarnation) in meant_for_others.into_iter().chain(nobody) {
        driven.apply(silent(group, epoch, node, incarnation));
        assert_eq!(driven.slot_count(), 8);
    }
    for _ in 0..2 {
        driven.apply(silent(1, 1, WORKER, 1));
        assert_eq!(driven.slot_count(), 4);
    }
    // It was cut off, and is the same as before: what it reported is known.
    assert_eq!(driven.worker(WORKER, 1), Output::Registered { index });
    assert_eq!(driven.slot_count(), 8);
    assert_eq!(driven.cluster.nodes.nodes[&WORKER].last_frame, 7);
    driven.apply(silent(1, 1, WORKER, 1));
    driven.worker(WORKER, 2);
    assert_eq!(driven.slot_count(), 8, "it was started again");
    driven.apply(silent(1, 1, WORKER, 2));
    driven.forget_node(WORKER, 2);
    assert_eq!(driven.slot_count(), 4);
}

#[test]
fn a_group_whose_workers_are_all_silent_is_granted_nothing() {
    let mut driven = Driven::with_pair();
    for balancer in [3, 4] {
        driven.apply(Command::Register(Registration::bare(NodeId(balancer), Role::Balancer)));
    }
    let group = |driven: &Driven, node: NodeId| driven.cluster.nodes.nodes[&node].group;
    let third = NodeId(102);
    driven.worker(third, 1);
    assert_eq!((group(&driven, WORKER), group(&driven, third)), (1, 2));
    let shares = |driven: &Driven| {
        [1, 2].map(|group| driven.cluster.grants.outstanding(group)).map(|count| count > 0)
    };
    driven.submit(1, 1, JOB, job_record(JOB, 1_000, |_| {}));
    assert_eq!(shares(&driven), [true, true]);
    let asker = Asker { client: NodeId(3), request: RequestId(9), session_index: LogIndex(0) };
    driven.apply(Command::Client(asker, ClientChange::Cancel { job: JOB }));
    let epoch = driven.cluster.nodes.groups[&2].epoch;
    let workers = vec![(third, Incarnation(1))];
    driven.apply(Command::WorkersSilent { group: 2, epoch, workers });
    let other = JobId(6);
    driven.submit(1, 2, other, job_record(other, 1_000, |_| {}));
    assert_eq!(shares(&driven), [true, false]);
    // Not all of it: its primary may reach it again, and what is granted is not taken back.
    assert!(driven.cluster.grants.outstanding(1) < 1_000);
    // One more job is shared as soon as the worker is back.
    driven.worker(third, 1);
    let last = JobId(7);
    driven.submit(1, 3, last, job_record(last, 1_000, |_| {}));
    assert_eq!(shares(&driven), [true, true]);
}
