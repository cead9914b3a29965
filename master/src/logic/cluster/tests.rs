//! `apply` against a plain model: one task, one entry in an array.

use std::ops::Range;

use proptest::prelude::*;
use proto::description::{Input, InputSource, JobDescription, Noop, Runtime};
use proto::ids::{FileId, Incarnation, NodeId, RequestId};
use proto::messages::job::JobSubmit;
use proto::name::{self, Pointer};
use proto::record::{Records, encode};
use proto::status::{Cause, ProgramKind, Role, TaskState};
use proto::wire::{WireUuid, bytes_of, items_of};

use super::*;
use crate::logic::commands::Write;
use crate::logic::nodes::Registration;

mod changes;
mod departures;
mod explaining;
mod groups;
mod rings;

fn job_record(id: JobId, task_count: u64, change: impl FnOnce(&mut JobDescription)) -> Vec<u8> {
    let mut description = JobDescription::new(Runtime::Noop(Noop::default()));
    change(&mut description);
    let description = description.encode().expect("a short description");
    let submit = JobSubmit {
        job_uuid: id.to_wire(),
        task_count,
        program_kind: ProgramKind::Described.to_wire(),
        ..JobSubmit::default()
    };
    encode(&submit, &[b"", b"", &description])
}

/// A cluster that is driven entry by entry.
struct Driven {
    cluster: Cluster,
    index: u64,
}

impl Driven {
    fn new() -> Driven {
        Driven { cluster: Cluster::default(), index: 0 }
    }

    fn apply(&mut self, command: Command) -> Output {
        self.index += 1;
        let bytes = command.encode();
        drop(command);
        let command = Command::decode(&bytes).expect("what was encoded is read");
        let output = self.cluster.apply(LogIndex(self.index), self.index * 1000, command);
        self.cluster.check_invariants();
        output
    }

    fn submit(&mut self, client: u128, request: u64, id: JobId, record: Vec<u8>) -> Output {
        let asker = Asker {
            client: NodeId(client),
            request: RequestId(request),
            session_index: LogIndex(0),
        };
        self.apply(Command::Client(asker, ClientChange::Submit { job: id, record }))
    }

    fn report(&mut self, run: ReportedRun) -> Vec<AnsweredRun> {
        match self.apply(Command::RunsLost { runs: vec![run] }) {
            Output::Runs { again, .. } => again,
            other => panic!("runs are answered by runs, not {other:?}"),
        }
    }
}

fn run(job: JobId, tasks: Range<u64>, attempt: u64, state: TaskState) -> ReportedRun {
    let exit_code = i32::from(state == TaskState::Failed);
    ReportedRun { job, tasks, attempt, state, exit_code, cause: Cause::None, segment: FileId(0) }
}

/// What a plain program would remember of one task.
#[derive(Clone, Default)]
struct PlainTask {
    outcome: Option<TaskState>,
    failed: u32,
    crashed: u32,
    lost: Vec<u64>,
    newest: u64,
}

impl PlainTask {
    /// Applies one report; returns true where the task must be dealt again.
    fn report(&mut self, attempt: u64, state: TaskState, retries: u32, max_crashes: u32) -> bool {
        if self.outcome.is_some() {
            return false;
        }
        match state {
            TaskState::Done => self.outcome = Some(TaskState::Done),
            TaskState::Failed if attempt > self.newest => {
                self.newest = attempt;
                self.failed += 1;
                if self.failed > retries {
                    self.outcome = Some(TaskState::Failed);
                }
            }
            TaskState::Crashed if self.lost.contains(&attempt) || attempt > self.newest => {
                self.lost.retain(|&lost| lost != attempt);
                self.newest = self.newest.max(attempt);
                self.crashed += 1;
                if self.crashed >= max_crashes {
                    self.outcome = Some(TaskState::Failed);
                }
            }
            TaskState::Lost if attempt > self.newest => {
                self.newest = attempt;
                self.lost.push(attempt);
            }
            _ => {}
        }
        self.outcome.is_none()
    }
}

const TASKS: u64 = 40;

fn reports() -> impl Strategy<Value = Vec<(u64, u64, u64, usize)>> {
    prop::collection::vec((0..TASKS, 1u64..15, 1u64..12, 0usize..5), 1..60)
}

proptest! {
    #[test]
    fn outcomes_agree_with_a_plain_model(reports in reports(), retries in 0u32..3) {
        const STATES: [TaskState; 5] = [
            TaskState::Done, TaskState::Failed, TaskState::Crashed, TaskState::Lost,
            TaskState::Returned,
        ];
        let id = JobId(9);
        let mut driven = Driven::new();
        driven.submit(1, 1, id, job_record(id, TASKS, |job| {
            job.retries = retries;
            job.max_crashes = 2;
        }));
        let mut plain = vec![PlainTask::default(); TASKS as usize];
        for (first, count, attempt, state) in reports {
            let tasks = first..(first + count).min(TASKS);
            let state = STATES[state];
            let mut again: Vec<u64> = Vec::new();
            for piece in driven.report(run(id, tasks.clone(), attempt, state)) {
                again.extend(piece.tasks);
            }
            let mut expected = Vec::new();
            for task in tasks {
                let known = &mut plain[task as usize];
                if known.report(attempt, state, retries, 2) {
                    expected.push(task);
                }
            }
            prop_assert_eq!(again, expected);
        }
        let job = &driven.cluster.jobs[&id];
        for (task, known) in plain.iter().enumerate() {
            let is_done = job.done.contains(task as u64);
            let is_failed = job.failed.values().any(|set| set.contains(task as u64));
            let state = (is_done, is_failed);
            let expected = match known.outcome {
                Some(TaskState::Done) => (true, false),
                Some(_) => (false, true),
                None => (false, false),
            };
            prop_assert_eq!(state, expected, "task {}", task);
        }
        let is_over = plain.iter().all(|task| task.outcome.is_some());
        prop_assert_eq!(job.state.is_final(), is_over);
    }
}

#[test]
fn a_submission_is_accepted_once_and_refused_with_another_content() {
    let id = JobId(5);
    let mut driven = Driven::new();
    let record = job_record(id, 10, |_| {});
    let first = driven.submit(1, 1, id, record.clone());
    assert_eq!(first, Output::Accepted { job: id, index: LogIndex(1) });
    assert_eq!(driven.submit(1, 1, id, record.clone()), first, "the same request");
    assert_eq!(driven.submit(2, 1, id, record), first, "the same job from another client");
    let other = driven.submit(2, 2, id, job_record(id, 11, |_| {}));
    assert!(matches!(other, Output::Refused { code: ErrorCode::JobDiffers, .. }));
    assert_eq!(driven.cluster.jobs.len(), 1);
}

#[test]
fn a_submission_without_tasks_is_refused() {
    let id = JobId(5);
    let mut driven = Driven::new();
    let refused = driven.submit(1, 1, id, job_record(id, 0, |_| {}));
    assert!(matches!(refused, Output::Refused { code: ErrorCode::Invalid, .. }), "{refused:?}");
    let garbage = driven.submit(1, 2, id, vec![0x10; 40]);
    assert!(matches!(garbage, Output::Refused { code: ErrorCode::Malformed, .. }), "{garbage:?}");
    assert!(driven.cluster.jobs.is_empty());
}

fn set_name(driven: &mut Driven, name: &str, value: Option<Vec<u8>>) {
    let asker = Asker {
        client: NodeId(3),
        request: RequestId(driven.index + 1),
        session_index: LogIndex(0),
    };
    let writes = vec![Write { key: name::key(name).expect("a name"), value }];
    let change = ClientChange::Transaction { compares: Vec::new(), writes };
    let output = driven.apply(Command::Client(asker, change));
    assert!(matches!(output, Output::Transaction { is_applied: true, .. }));
}

fn pointer(is_tree: bool, file: u128) -> Option<Vec<u8>> {
    Some(Pointer { is_tree, file: FileId(file), length: 7 }.encode())
}

/// A job one of whose two inputs is given by name.
fn named_record(id: JobId, name: &str, files: &[u128]) -> Vec<u8> {
    let mut description = JobDescription::new(Runtime::Noop(Noop::default()));
    let plain = InputSource::File { file: FileId(5), length: 1, is_executable: true };
    for (input, source) in [("plain", plain), ("named", InputSource::Name(name.into()))] {
        description.inputs.push(Input { name: input.into(), source });
    }
    let submit = JobSubmit {
        job_uuid: id.to_wire(),
        task_count: 1,
        program_kind: ProgramKind::Described.to_wire(),
        ..JobSubmit::default()
    };
    let files: Vec<WireUuid> = files.iter().map(|&file| WireUuid::new(file)).collect();
    let description = description.encode().expect("a short description");
    encode(&submit, &[b"", bytes_of(&files), &description])
}

/// What the balancers get of a job: its input files, and the description's inputs.
fn kept(cluster: &Cluster, id: JobId) -> (Vec<u128>, Vec<InputSource>) {
    let record = &cluster.jobs[&id].record;
    let record = Records::of(record).next().expect("one").expect("a record");
    let (_, [_, files, description]) = record.open::<JobSubmit, 3>().expect("a job");
    let files = items_of::<WireUuid>(files).expect("files").iter().map(|file| file.value());
    let files = files.collect();
    let description = JobDescription::decode(description).expect("a description");
    description.validate().expect("it makes sense");
    (files, description.inputs.into_iter().map(|input| input.source).collect())
}

#[test]
fn a_name_is_resolved_once_for_each_job() {
    let mut driven = Driven::new();
    let plain = InputSource::File { file: FileId(5), length: 1, is_executable: true };
    let record = named_record(JobId(1), "data", &[5, 0]);
    set_name(&mut driven, "data", pointer(true, 40));
    let first = driven.submit(1, 1, JobId(1), record.clone());
    assert!(matches!(first, Output::Accepted { .. }), "{first:?}");
    let tree = InputSource::Tree { tree: FileId(40), length: 7 };
    let expected = (vec![5, 40], vec![plain.clone(), tree]);
    assert_eq!(kept(&driven.cluster, JobId(1)), expected);

    set_name(&mut driven, "data", pointer(false, 41));
    assert_eq!(driven.submit(2, 1, JobId(1), record.clone()), first, "the same, although it moved");
    assert_eq!(kept(&driven.cluster, JobId(1)), expected);
    driven.submit(2, 2, JobId(2), named_record(JobId(2), "data", &[5, 0]));
    let file = InputSource::File { file: FileId(41), length: 7, is_executable: false };
    assert_eq!(kept(&driven.cluster, JobId(2)), (vec![5, 41], vec![plain, file]));

    // What the first job became is not what was submitted: the same files, but not the name.
    let resolved = driven.cluster.jobs[&JobId(1)].record.to_vec();
    let other = driven.submit(2, 3, JobId(1), resolved);
    assert!(matches!(other, Output::Refused { code: ErrorCode::JobDiffers, .. }), "{other:?}");

    set_name(&mut driven, "data", None);
    assert_eq!(driven.submit(4, 1, JobId(1), record), first, "the same, although it is gone");
}

#[test]
fn a_name_that_is_not_there_refuses_the_submission() {
    let mut driven = Driven::new();
    let unknown = driven.submit(1, 1, JobId(1), named_record(JobId(1), "data", &[5, 0]));
    let Output::Refused { code: ErrorCode::NotFound, text } = unknown else {
        panic!("{unknown:?}");
    };
    assert!(text.contains("\"data\"") && text.contains("remuda put PATH data"), "{text}");
    assert!(driven.cluster.jobs.is_empty());
    // Once it is there, the same job is accepted under another number.
    set_name(&mut driven, "data", pointer(false, 41));
    let accepted = driven.submit(1, 2, JobId(1), named_record(JobId(1), "data", &[5, 0]));
    assert!(matches!(accepted, Output::Accepted { .. }), "{accepted:?}");

    let short = driven.submit(1, 3, JobId(2), named_record(JobId(2), "data", &[5]));
    assert!(matches!(short, Output::Refused { code: ErrorCode::Invalid, .. }), "{short:?}");
    let newer = Some(vec![99]);
    set_name(&mut driven, "newer", newer);
    let newer = driven.submit(1, 4, JobId(2), named_record(JobId(2), "newer", &[5, 0]));
    assert!(matches!(newer, Output::Refused { code: ErrorCode::Invalid, .. }), "{newer:?}");
}

#[test]
fn names_that_resolve_to_too_much_are_refused() {
    let mut driven = Driven::new();
    set_name(&mut driven, "n", pointer(false, u128::MAX));
    let inputs: Vec<Input> = (0..200)
        .map(|at| Input { name: format!("{at}"), source: InputSource::Name("n".into()) })
        .collect();
    let mut description = JobDescription::new(Runtime::Noop(Noop::default()));
    description.inputs = inputs;
    let submit = JobSubmit {
        job_uuid: JobId(1).to_wire(),
        task_count: 1,
        program_kind: ProgramKind::Described.to_wire(),
        ..JobSubmit::default()
    };
    let files = vec![WireUuid::default(); 200];
    let description = description.encode().expect("a short description");
    let record = encode(&submit, &[b"", bytes_of(&files), &description]);
    let refused = driven.submit(1, 1, JobId(1), record);
    assert!(matches!(refused, Output::Refused { code: ErrorCode::TooLarge, .. }), "{refused:?}");
}

#[test]
fn what_was_read_as_cancelled_stays_so() {
    let id = JobId(5);
    let mut driven = Driven::new();
    driven.submit(1, 1, id, job_record(id, 10, |_| {}));
    driven.report(run(id, 0..4, 1, TaskState::Done));
    let asker = Asker { client: NodeId(1), request: RequestId(2), session_index: LogIndex(0) };
    driven.apply(Command::Client(asker, ClientChange::Cancel { job: id }));
    assert!(driven.report(run(id, 4..10, 1, TaskState::Done)).is_empty());
    let job = &driven.cluster.jobs[&id];
    assert_eq!((job.state, job.done.len()), (JobState::Cancelled, 4));
    assert!(driven.cluster.feed(1, LogIndex(1)).iter().any(|entry| matches!(
        entry, FeedEntry::Ended { job, .. } if *job == id
    )));
}

#[test]
fn a_large_job_is_granted_in_parts() {
    let id = JobId(5);
    let mut driven = Driven::new();
    driven.submit(1, 1, id, job_record(id, 100_000_000, |_| {}));
    let granted = |cluster: &Cluster| -> u64 {
        let entries = cluster.feed(1, LogIndex(0));
        let counts = entries.iter().map(|entry| match entry {
            FeedEntry::Grant { task_count, .. } => *task_count,
            FeedEntry::Changed { .. } | FeedEntry::Ended { .. } => 0,
        });
        counts.sum()
    };
    let part = crate::logic::grants::GRANT_TASKS;
    assert_eq!(granted(&driven.cluster), part);
    driven.report(run(id, 0..part / 2, 1, TaskState::Done));
    assert_eq!(granted(&driven.cluster), 2 * part);
    let (unfinished, next) = driven.cluster.complete_feed(1, (JobId(0), 0), 100);
    let first = unfinished.first().map(|entry| match entry {
        FeedEntry::Grant { first_task, .. } => *first_task,
        FeedEntry::Changed { .. } | FeedEntry::Ended { .. } => 0,
    });
    assert_eq!((first, next), (Some(part / 2), None));
}

#[test]
fn ranges_of_a_segment_are_joined_also_behind_other_segments() {
    let mut driven = Driven::new();
    let id = JobId(1);
    driven.submit(1, 1, id, job_record(id, 10, |_| {}));
    // Two workers report one task at a time, in turns.
    for task in 0..10u64 {
        let segment = FileId(7 + u128::from(task % 2));
        let tasks = task / 2 + 5 * (task % 2);
        let run = run(id, tasks..tasks + 1, 1, TaskState::Done);
        driven.report(ReportedRun { segment, ..run });
    }
    let segments = &driven.cluster.jobs[&id].segments;
    let ranges = segments.iter().flat_map(|it| it.tasks.iter().map(|tasks| (it.file.0, tasks)));
    let ranges: Vec<_> = ranges.map(|(file, tasks)| (file, tasks.start, tasks.end)).collect();
    assert_eq!(ranges, [(7, 0, 5), (8, 5, 10)]);
}

#[test]
fn a_status_frame_sent_twice_is_recorded_once() {
    let id = JobId(5);
    let mut driven = Driven::new();
    driven.submit(1, 1, id, job_record(id, 10, |job| job.retries = 3));
    driven.apply(Command::Register(worker(1)));
    let frame = |attempt| Command::Complete {
        worker: NodeId(77),
        incarnation: Incarnation(1),
        frame: 1,
        runs: vec![run(id, 0..3, attempt, TaskState::Failed)],
        segments: Vec::new(),
    };
    let first = driven.apply(frame(1));
    assert!(matches!(&first, Output::Runs { again, .. } if again.len() == 1), "{first:?}");
    assert_eq!(driven.apply(frame(1)), first, "the reply is kept");
    let counted = driven.cluster.jobs[&id].attempts.iter().next().map(|(_, kept)| kept.failed);
    assert_eq!(counted, Some(1));
}

fn worker(incarnation: u64) -> Registration {
    Registration {
        incarnation: Incarnation(incarnation),
        address: "tcp://127.0.0.1:1".into(),
        slot_count: 2,
        cpu_milli: 2000,
        ..Registration::bare(NodeId(77), Role::Worker)
    }
}
