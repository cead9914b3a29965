//! Folds, entry by entry: when one begins, what takes effect, and what becomes of it where workers
//! or jobs go away.

use proto::description::Noop;
use proto::ids::{Incarnation, NodeId, RequestId};
use proto::record::Records;
use proto::status::{Cause, JobState, Role, TaskState};
use proto::time::{Duration, Instant};

use super::patience::Patience;
use super::*;
use crate::logic::cluster::FeedEntry;
use crate::logic::commands::{Asker, ClientChange, Command, JobChange, ReportedSegment, Write};
use crate::logic::jobs::ReportedRun;
use crate::logic::nodes::Registration;

const WORKER: NodeId = NodeId(7);
const JOB: JobId = JobId(1);
const GROUP: u64 = 1;

struct Driven {
    cluster: Cluster,
    index: u64,
    log_time_us: u64,
    frame: u64,
    request: u64,
}

impl Driven {
    /// A cluster that folds four segments, with a worker and a job of many tasks.
    fn new() -> Driven {
        let cluster = Cluster::default();
        let mut driven = Driven { cluster, index: 0, log_time_us: 0, frame: 0, request: 0 };
        driven.apply(&Command::Register(Registration {
            slot_count: 1,
            cpu_milli: 1_000,
            ..Registration::bare(WORKER, Role::Worker)
        }));
        driven.set(FOLD_AT_KEY, "4");
        driven.submit(JOB);
        driven
    }

    fn apply(&mut self, command: &Command) -> Output {
        self.index += 1;
        self.log_time_us += 1_000;
        let command = Command::decode(&command.encode()).expect("what was encoded is read");
        let output = self.cluster.apply(LogIndex(self.index), self.log_time_us, command);
        self.cluster.check_invariants();
        output
    }

    fn change(&mut self, change: ClientChange) -> Output {
        self.request += 1;
        let request = RequestId(self.request);
        let asker = Asker { client: NodeId(9), request, session_index: LogIndex(0) };
        self.apply(&Command::Client(asker, change))
    }

    fn set(&mut self, key: &[u8], value: &str) {
        let writes = vec![Write { key: key.to_vec(), value: Some(value.into()) }];
        self.change(ClientChange::Transaction { compares: Vec::new(), writes });
    }

    fn submit(&mut self, job: JobId) {
        let description = JobDescription::new(Runtime::Noop(Noop::default())).encode().unwrap();
        let submit = JobSubmit {
            job_uuid: job.to_wire(),
            task_count: 10_000,
            program_kind: ProgramKind::Described.to_wire(),
            ..JobSubmit::default()
        };
        let record = encode(&submit, &[b"", b"", &description]);
        let output = self.change(ClientChange::Submit { job, record });
        assert!(matches!(output, Output::Accepted { .. }), "{output:?}");
    }

    fn complete(&mut self, runs: Vec<ReportedRun>, segments: Vec<ReportedSegment>) {
        self.frame += 1;
        let (frame, incarnation) = (self.frame, Incarnation(1));
        self.apply(&Command::Complete { worker: WORKER, incarnation, frame, runs, segments });
    }

    /// Ten tasks of a job are done, and what they wrote is in a segment with the same number.
    fn segment(&mut self, job: JobId, number: u64) {
        let segment = FileId(u128::from(number) + 1);
        let tasks = number * 10..number * 10 + 10;
        self.complete(vec![ReportedRun { segment, ..run(job, tasks, TaskState::Done) }], vec![]);
    }

    fn fold(&mut self, job: JobId, fold: u64, file: u128, segment_count: u64) -> Output {
        self.fold_as((WORKER, Incarnation(1)), job, fold, file, segment_count)
    }

    /// The same in the name of some node.
    fn fold_as(
        &mut self,
        (worker, incarnation): (NodeId, Incarnation),
        job: JobId,
        fold: u64,
        file: u128,
        segment_count: u64,
    ) -> Output {
        let file = FileId(file);
        self.change(ClientChange::Fold { job, fold, file, segment_count, worker, incarnation })
    }

    /// The internal jobs that balancers have been told of, with the fold of each.
    fn tasks(&self) -> Vec<(JobId, JobId, u64)> {
        let feed = self.cluster.complete_feed(GROUP, (JobId(0), 0), 100).0;
        let told = feed.iter().filter_map(|entry| match entry {
            FeedEntry::Grant { job, task_count: 1, .. } => Some(*job),
            _ => None,
        });
        let told = told.filter_map(|task| {
            let record = Records::of(&self.cluster.jobs[&task].record).next()?.ok()?;
            let (_, [_, _, description]) = record.open::<JobSubmit, 3>().ok()?;
            match JobDescription::decode(description).ok()?.runtime {
                Runtime::Fold { job, fold } => Some((task, job, fold)),
                _ => None,
            }
        });
        told.collect()
    }

    fn numbers(&self, job: JobId) -> Vec<u64> {
        self.cluster.jobs[&job].segments.iter().map(|segment| segment.number).collect()
    }
}

fn run(job: JobId, tasks: std::ops::Range<u64>, state: TaskState) -> ReportedRun {
    let (attempt, cause) = (1, Cause::None);
    ReportedRun { job, tasks, attempt, state, exit_code: 0, cause, segment: FileId(0) }
}

fn is_listed(output: &Output) -> bool {
    match output {
        Output::Folded { is_listed, .. } => *is_listed,
        other => panic!("a fold is answered by what became of it, not {other:?}"),
    }
}

#[test]
fn segments_are_folded_by_a_worker_of_the_roster_and_nobody_else() {
    let mut driven = Driven::new();
    let balancer = NodeId(11);
    driven.apply(&Command::Register(Registration::bare(balancer, Role::Balancer)));
    for number in 0..4 {
        driven.segment(JOB, number);
    }
    let [(_, _, fold)] = driven.tasks()[..] else { panic!("one fold has begun") };
    let before = driven.numbers(JOB);
    let strangers = [(NodeId(0), 0), (NodeId(9), 1), (balancer, 1), (WORKER, 0), (WORKER, 2)];
    for (node, incarnation) in strangers {
        for (file, segment_count) in [(99, 4), (0, 0)] {
            let who = (node, Incarnation(incarnation));
            let refused = driven.fold_as(who, JOB, fold, file, segment_count);
            let code = ErrorCode::NotAllowed;
            assert!(matches!(refused, Output::Refused { code: it, .. } if it == code), "{who:?}");
        }
    }
    assert_eq!(driven.numbers(JOB), before);
    assert!(driven.cluster.folds.get(JOB, fold).is_some_and(|it| it.task.is_some()));
    assert!(is_listed(&driven.fold(JOB, fold, 99, 4)));
    assert_ne!(driven.numbers(JOB), before);
}

#[test]
fn enough_segments_of_one_level_are_folded_into_one_of_the_next() {
    let mut driven = Driven::new();
    for number in 0..3 {
        driven.segment(JOB, number);
    }
    assert!(driven.tasks().is_empty());
    driven.segment(JOB, 3);
    let [(task, of, fold)] = driven.tasks()[..] else { panic!("one fold has begun") };
    assert_eq!((of, driven.cluster.jobs[&task].priority), (JOB, i32::MAX));
    // Segments that come meanwhile stay.
    driven.segment(JOB, 4);
    assert!(is_listed(&driven.fold(JOB, fold, 1_000, 4)));
    assert_eq!(driven.numbers(JOB), [5, 6]);
    let folded = driven.cluster.jobs[&JOB].segments.behind(5, 0).next().unwrap().clone();
    assert_eq!((folded.file, folded.level), (FileId(1_000), 1));
    assert!(folded.tasks.into_iter().flatten().eq(0..40));
    driven.complete(vec![run(task, 0..1, TaskState::Done)], vec![]);
    assert!(driven.tasks().is_empty() && !driven.cluster.jobs.contains_key(&task));

    // Four of level 1 make one of level 2; those of level 0 are counted on their own.
    for number in 5..17 {
        driven.segment(JOB, number);
        if let Some(&(task, _, fold)) = driven.tasks().last() {
            assert!(is_listed(&driven.fold(JOB, fold, 1_000 + u128::from(number), 4)));
            driven.complete(vec![run(task, 0..1, TaskState::Done)], vec![]);
        }
    }
    let left: Vec<_> =
        driven.cluster.jobs[&JOB].segments.iter().map(|it| (it.level, it.tasks.clone())).collect();
    let [(0, first), (2, folded)] = &left[..] else { panic!("{left:?}") };
    assert!(first.iter().cloned().flatten().eq(160..170));
    assert!(folded.iter().cloned().flatten().eq(0..160));
    assert_eq!(driven.cluster.folds.listed(), 2);
}

#[test]
fn accounting_that_comes_later_is_folded_as_well() {
    let mut driven = Driven::new();
    for number in 0..4u64 {
        let tasks = number * 10..number * 10 + 10;
        driven.complete(vec![run(JOB, tasks.clone(), TaskState::Done)], vec![]);
        let file = FileId(u128::from(number) + 1);
        let runs = vec![(JOB, tasks.start..tasks.start + 4), (JOB, tasks.start + 4..tasks.end)];
        driven.complete(vec![], vec![ReportedSegment { file, runs }]);
    }
    assert_eq!(driven.tasks().len(), 1);
}

#[test]
fn only_the_first_of_two_workers_with_one_fold_has_an_effect() {
    let mut driven = Driven::new();
    (0..4).for_each(|number| driven.segment(JOB, number));
    let fold = driven.tasks()[0].2;
    assert!(is_listed(&driven.fold(JOB, fold, 1_000, 4)));
    let before = driven.numbers(JOB);
    // The same again, and another one that is too late.
    assert!(is_listed(&driven.fold(JOB, fold, 1_000, 4)));
    assert!(!is_listed(&driven.fold(JOB, fold, 1_001, 4)));
    assert!(!is_listed(&driven.fold(JOB, fold + 1, 1_002, 4)));
    assert_eq!(driven.numbers(JOB), before);
}

#[test]
fn a_fold_takes_effect_for_its_own_segments_only() {
    let mut driven = Driven::new();
    (0..4).for_each(|number| driven.segment(JOB, number));
    let fold = driven.tasks()[0].2;
    for count in [0, 5] {
        let output = driven.fold(JOB, fold, 1_000, count);
        assert!(matches!(output, Output::Refused { code: ErrorCode::Invalid, .. }), "{output:?}");
    }
    let output = driven.fold(JobId(55), fold, 1_000, 4);
    assert!(matches!(output, Output::Refused { code: ErrorCode::NotFound, .. }), "{output:?}");
    assert_eq!(driven.numbers(JOB), [1, 2, 3, 4]);
    // What did not fit is free again, and what it made is as large as one may be.
    assert!(is_listed(&driven.fold(JOB, fold, 1_000, 3)));
    let left: Vec<_> =
        driven.cluster.jobs[&JOB].segments.iter().map(|it| (it.number, it.level)).collect();
    assert_eq!(left, [(4, 0), (5, FULL)]);
}

#[test]
fn a_fold_whose_task_fails_rests_and_is_tried_again() {
    let mut driven = Driven::new();
    (0..4).for_each(|number| driven.segment(JOB, number));
    let (first, _, fold) = driven.tasks()[0];
    driven.complete(vec![run(first, 0..1, TaskState::Failed)], vec![]);
    assert!(driven.tasks().is_empty());
    driven.segment(JOB, 4);
    assert!(driven.tasks().is_empty(), "it rests");
    driven.log_time_us += FIRST_REST_US;
    driven.segment(JOB, 5);
    let [(second, _, again)] = driven.tasks()[..] else { panic!("it is tried again") };
    assert!(second != first && again == fold);
    // A worker that was cut off delivers while the fold rests once more.
    driven.complete(vec![run(second, 0..1, TaskState::Failed)], vec![]);
    assert!(is_listed(&driven.fold(JOB, fold, 1_000, 4)));
    driven.log_time_us += LONGEST_REST_US;
    driven.segment(JOB, 6);
    assert!(driven.tasks().is_empty());
    assert_eq!(driven.numbers(JOB), [5, 6, 7, 8]);
}

#[test]
fn a_fold_whose_worker_is_lost_is_dealt_again() {
    let mut driven = Driven::new();
    (0..4).for_each(|number| driven.segment(JOB, number));
    let (task, ..) = driven.tasks()[0];
    let lost = ReportedRun { cause: Cause::CutOff, ..run(task, 0..1, TaskState::Lost) };
    let Output::Runs { again, .. } = driven.apply(&Command::RunsLost { runs: vec![lost] }) else {
        panic!("runs are answered by runs");
    };
    assert_eq!(again.len(), 1);
    assert_eq!(driven.tasks().len(), 1);
}

#[test]
fn a_fold_goes_on_where_its_job_ended_and_ends_where_it_is_forgotten() {
    let mut driven = Driven::new();
    (0..4).for_each(|number| driven.segment(JOB, number));
    let (task, _, fold) = driven.tasks()[0];
    driven.change(ClientChange::Cancel { job: JOB });
    assert_eq!(driven.cluster.jobs[&JOB].state, JobState::Cancelled);
    assert_eq!(driven.tasks().len(), 1);
    driven.change(ClientChange::Change { job: JOB, change: JobChange::Forget });
    assert!(driven.tasks().is_empty() && driven.cluster.jobs.is_empty());
    assert_eq!(driven.cluster.folds, Folds { last_number: 1, ..Folds::default() });
    let output = driven.fold(JOB, fold, 1_000, 4);
    assert!(matches!(output, Output::Refused { .. }), "{output:?}");
    // Its balancer hears that it ended.
    let feed = driven.cluster.feed(GROUP, LogIndex(1));
    assert!(feed.iter().any(|it| matches!(it, FeedEntry::Ended { job, .. } if *job == task)));
}

#[test]
fn users_neither_see_nor_touch_the_masters_own_jobs() {
    let mut driven = Driven::new();
    (0..4).for_each(|number| driven.segment(JOB, number));
    let (task, ..) = driven.tasks()[0];
    assert!(driven.cluster.jobs_by_index.values().eq([&JOB]));
    for change in [
        ClientChange::Cancel { job: task },
        ClientChange::Change { job: task, change: JobChange::Hold },
        ClientChange::Change { job: task, change: JobChange::Forget },
    ] {
        let output = driven.change(change);
        assert!(matches!(output, Output::Refused { code: ErrorCode::NotFound, .. }), "{output:?}");
    }
    assert_eq!(driven.tasks().len(), 1);
}

#[test]
fn where_much_is_listed_less_is_worth_a_fold_and_the_rest_has_to_wait() {
    let mut driven = Driven::new();
    driven.set(FOLD_AT_KEY, "1024");
    driven.set(LISTED_KEY, "60");
    driven.submit(JobId(2));
    // Below half of the bound nothing is hurried.
    (0..29).for_each(|number| driven.segment(JOB, number));
    assert!(driven.tasks().is_empty());
    // At half of it the job that has the most is folded.
    driven.segment(JobId(2), 0);
    let [(task, of, fold)] = driven.tasks()[..] else { panic!("one fold has begun") };
    assert_eq!(of, JOB);
    for number in 1..31 {
        assert!(driven.cluster.has_room_for_segments(), "{number}");
        driven.segment(JobId(2), number);
    }
    assert_eq!(driven.cluster.folds.listed(), 60);
    assert!(!driven.cluster.has_room_for_segments());
    assert!(is_listed(&driven.fold(JOB, fold, 1_000, 29)));
    assert!(driven.cluster.has_room_for_segments());
    driven.complete(vec![run(task, 0..1, TaskState::Done)], vec![]);

    // Where no fold is under way, waiting helps nobody.
    driven.set(LISTED_KEY, "2");
    for (task, ..) in driven.tasks() {
        driven.complete(vec![run(task, 0..1, TaskState::Failed)], vec![]);
    }
    assert!(driven.tasks().is_empty() && driven.cluster.has_room_for_segments());
}

/// A cluster that lists as much as it may while a fold is under way.
fn full() -> (Driven, JobId, u64) {
    let mut driven = Driven::new();
    driven.set(LISTED_KEY, "4");
    (0..4).for_each(|number| driven.segment(JOB, number));
    let (task, _, fold) = driven.tasks()[0];
    assert!(!driven.cluster.has_room_for_segments());
    (driven, task, fold)
}

#[test]
fn a_fold_that_came_to_nothing_keeps_nobody_waiting_for_the_outcome_of_its_task() {
    let (mut driven, task, fold) = full();
    assert!(!is_listed(&driven.fold(JOB, fold, 0, 0)));
    assert!(driven.cluster.has_room_for_segments());
    assert_eq!(driven.numbers(JOB), [1, 2, 3, 4]);
    let rests = driven.cluster.folds.get(JOB, fold).unwrap().clone();
    assert_eq!((rests.failures, rests.task), (1, None));
    // Once more, and its outcome: it rests as long as it did.
    assert!(!is_listed(&driven.fold(JOB, fold, 0, 0)));
    driven.complete(vec![run(task, 0..1, TaskState::Failed)], vec![]);
    assert_eq!(driven.cluster.folds.get(JOB, fold), Some(&rests));
    assert!(driven.tasks().is_empty() && !driven.cluster.jobs.contains_key(&task));

    driven.log_time_us += FIRST_REST_US;
    driven.segment(JOB, 4);
    let (second, _, again) = driven.tasks()[0];
    assert!(second != task && again == fold);
    assert!(is_listed(&driven.fold(JOB, fold, 1_000, 4)));
}

#[test]
fn a_late_outcome_of_a_fold_does_not_end_the_task_that_came_after_it() {
    let (mut driven, task, fold) = full();
    driven.fold(JOB, fold, 0, 0);
    driven.log_time_us += FIRST_REST_US;
    driven.segment(JOB, 4);
    let told = driven.tasks();
    let second = told.iter().map(|it| it.0).find(|it| *it != task).expect("it is tried again");
    driven.complete(vec![run(task, 0..1, TaskState::Failed)], vec![]);
    let left = driven.cluster.folds.get(JOB, fold).unwrap();
    assert_eq!((left.failures, left.task), (1, Some(second)));
    driven.complete(vec![run(second, 0..1, TaskState::Failed)], vec![]);
    let left = driven.cluster.folds.get(JOB, fold).unwrap();
    assert_eq!((left.failures, left.task), (2, None));
}

#[test]
fn nobody_waits_for_ever_for_a_fold_that_is_under_way() {
    let (mut driven, _, fold) = full();
    let mut patience = Patience::default();
    let at = |seconds| Instant(0) + Duration::from_secs(seconds);
    assert!(patience.must_wait(at(100), &driven.cluster));
    assert!(patience.must_wait(at(129), &driven.cluster));
    assert!(!patience.must_wait(at(130), &driven.cluster), "it was long enough");
    driven.segment(JOB, 4);
    assert!(!patience.must_wait(at(131), &driven.cluster), "it goes on");
    (5..8).for_each(|number| driven.segment(JOB, number));
    // One of two folds succeeds: waiting helps again, for as long.
    assert!(!patience.must_wait(at(140), &driven.cluster));
    assert!(is_listed(&driven.fold(JOB, fold, 1_000, 4)));
    assert!(patience.must_wait(at(141), &driven.cluster));
    assert!(patience.must_wait(at(170), &driven.cluster));
    assert!(!patience.must_wait(at(171), &driven.cluster));
    // Where there was room between, it begins anew.
    driven.set(LISTED_KEY, "100");
    assert!(!patience.must_wait(at(172), &driven.cluster));
    driven.set(LISTED_KEY, "4");
    assert!(patience.must_wait(at(173), &driven.cluster));
}

#[test]
fn masters_that_applied_the_same_have_the_same_folds() {
    let (mut one, mut other) = (Driven::new(), Driven::new());
    for driven in [&mut one, &mut other] {
        (0..9).for_each(|number| driven.segment(JOB, number));
        driven.fold(JOB, 1, 1_000, 4);
    }
    assert_eq!(one.tasks(), other.tasks());
    assert_eq!(one.cluster, other.cluster);
    let bytes = postcard::to_stdvec(&one.cluster).unwrap();
    assert_eq!(postcard::from_bytes::<Cluster>(&bytes).unwrap(), one.cluster);
}
