//! What masters answer is read as it was written, and nothing that they could send panics.

use proptest::prelude::*;
use proto::catalogue::MESSAGES;
use proto::ids::RequestId;
use proto::messages::job::{SegmentQuery, TaskQuery};
use proto::record::{Records, encode};
use proto::status::RingAction;
use proto::wire::{WireUuid, bytes_of};

use super::*;
use crate::logic::jobs::{
    Change, Compare, JobSelector, NotSendable, RingOrder, Submission, Until, Write,
};
use crate::logic::rings::tests::{ring_record, status_record};

const JOB: JobId = JobId(7);

fn read(reader: &mut AnswerReader, record: &[u8]) -> Result<Option<(Answer, LogIndex)>, BadAnswer> {
    reader.take(&Records::of(record).next().unwrap().unwrap())
}

fn requests() -> Vec<Request> {
    let submission = Submission {
        job: JOB,
        task_count: 3,
        program: b"#!/bin/sh\n".to_vec(),
        program_kind: proto::status::ProgramKind::Inline,
        inputs: vec![FileId(5)],
        description: Vec::new(),
        pin: 0,
    };
    vec![
        Request::Submit(submission),
        Request::Job { job: JobSelector::Id(JOB), until: Until::Now },
        Request::Jobs { before: LogIndex(0), limit: 10 },
        Request::Cancel(JOB),
        Request::Outcomes { job: JOB, first_task: 5, limit: 10 },
        Request::Segments { job: JOB, after: 0, fold: 0 },
        Request::Fold {
            job: JOB,
            fold: 3,
            segment: FileId(9),
            segment_count: 2,
            worker: NodeId(8),
            incarnation: Incarnation(4),
        },
        Request::Nodes,
        Request::ForgetNode { node: NodeId(8), incarnation: Incarnation(4) },
        Request::Transaction {
            compares: vec![Compare { key: b"name/a".to_vec(), version: LogIndex(0) }],
            writes: vec![
                Write { key: b"name/a".to_vec(), value: Some(b"1".to_vec()) },
                Write { key: b"name/b".to_vec(), value: None },
            ],
            pin: 0,
        },
        Request::Keys { prefix: b"name/".to_vec(), after: Vec::new(), limit: 10 },
        Request::Ring,
        Request::RingStatus,
        Request::ChangeRing(RingOrder::new(RingAction::Drain, Some(NodeId(8)))),
        Request::Describe(JobSelector::Text("last".to_owned())),
        Request::Change { job: JOB, change: Change::Priority(-2) },
    ]
}

fn status(name: &[u8], state: u8) -> Vec<u8> {
    let status = JobStatus {
        job_uuid: JOB.to_wire(),
        state,
        index: 40,
        task_count: 10,
        done_count: 3,
        failed_count: 1,
        finished_us: 0,
        age_us: 7,
        is_held: 1,
        priority: -2,
        crashed_attempts: 6,
        retry_of_uuid: WireUuid::new(9),
        ..Default::default()
    };
    encode(&status, &[name, b"ann@field"])
}

#[test]
fn a_jobs_state_is_read_and_its_values_are_checked() {
    let request = Request::Job { job: JobSelector::Id(JOB), until: Until::Now };
    let mut reader = AnswerReader::of(&request);
    let record = status(b"name", JobState::Running.to_wire());
    let Ok(Some((Answer::Job(job), index))) = read(&mut reader, &record) else {
        panic!("no job");
    };
    assert_eq!((job.job, job.name.as_str(), job.state), (JOB, "name", JobState::Running));
    assert_eq!((job.owner.as_str(), job.retry_of), ("ann@field", Some(JobId(9))));
    assert_eq!((job.is_held, job.priority, job.crashed_attempts), (true, -2, 6));
    assert_eq!(job.age, Duration::from_micros(7));
    assert_eq!((job.done_count, job.failed_count, job.finished, index), (3, 1, None, LogIndex(40)));
    for wrong in [status(b"name", 200), status(b"\xff", 0)] {
        assert!(matches!(read(&mut reader, &wrong), Err(BadAnswer::Record(_))));
    }
    let other = encode(&KeyResult::default(), &[]);
    assert!(read(&mut reader, &other).is_err());
}

#[test]
fn listings_are_put_together_and_lost_records_are_noticed() {
    let mut reader = AnswerReader::of(&Request::Jobs { before: LogIndex(0), limit: 10 });
    let end = |count, next| encode(&ListEnd { count, next, index: 50, ..Default::default() }, &[]);
    assert_eq!(read(&mut reader, &status(b"a", 0)), Ok(None));
    assert_eq!(read(&mut reader, &status(b"b", 0)), Ok(None));
    let Ok(Some((Answer::Jobs { jobs, next }, index))) = read(&mut reader, &end(2, 30)) else {
        panic!("no list");
    };
    assert_eq!((jobs.len(), next, index), (2, Some(LogIndex(30)), LogIndex(50)));
    assert_eq!(read(&mut reader, &status(b"c", 0)), Ok(None));
    assert_eq!(read(&mut reader, &end(2, 0)), Err(BadAnswer::Incomplete));
    // The next attempt begins anew.
    assert_eq!(read(&mut reader, &status(b"c", 0)), Ok(None));
    assert!(matches!(read(&mut reader, &end(1, 0)), Ok(Some(_))));
}

#[test]
fn outcomes_have_neither_gaps_nor_unknown_values() {
    let request = Request::Outcomes { job: JOB, first_task: 5, limit: 10 };
    let page = |items: &[TaskOutcome], next_task| {
        let page = TaskOutcomes { job_uuid: JOB.to_wire(), next_task, ..Default::default() };
        encode(&page, &[bytes_of(items)])
    };
    let item = |first_task, task_count, state| TaskOutcome {
        first_task,
        task_count,
        state,
        ..Default::default()
    };
    let mut reader = AnswerReader::of(&request);
    let good = page(&[item(5, 2, 2), item(7, 3, 3)], 10);
    let Ok(Some((Answer::Outcomes { runs, next }, _))) = read(&mut reader, &good) else {
        panic!("no outcomes");
    };
    assert_eq!((runs[1].tasks.clone(), runs[1].state, next), (7..10, TaskState::Failed, Some(10)));
    for (items, next) in [
        (vec![item(6, 1, 2)], 0),
        (vec![item(5, 1, 2), item(7, 1, 2)], 0),
        (vec![item(5, 0, 2)], 0),
        (vec![item(5, u64::MAX, 2)], 0),
        (vec![item(5, 1, 99)], 0),
        (vec![item(5, 1, 2)], 5),
    ] {
        assert!(read(&mut reader, &page(&items, next)).is_err(), "{items:?} {next}");
    }
}

#[test]
fn what_no_master_would_take_is_not_sent() {
    let submission = |change: fn(&mut Submission)| {
        let Request::Submit(mut submission) = requests().remove(0) else { panic!() };
        change(&mut submission);
        Request::Submit(submission).encode(LogIndex(0), LogIndex(0))
    };
    assert!(submission(|_| {}).is_ok());
    for (change, what) in [
        ((|it| it.task_count = 0) as fn(&mut Submission), "the number of tasks"),
        (|it| it.task_count = (1 << 32) + 1, "the number of tasks"),
        (|it| it.inputs = vec![FileId(0); 1025], "the list of input files"),
        (|it| it.description = vec![0; 4097], "the job's description"),
        (|it| it.program = vec![0; 40 << 10], "the script of the job"),
    ] {
        assert_eq!(submission(change), Err(NotSendable { what }));
    }
    let empty = Request::Job { job: JobSelector::Text(String::new()), until: Until::Now };
    assert!(empty.encode(LogIndex(0), LogIndex(0)).is_err());
}

#[test]
fn requests_carry_the_session_or_what_was_seen() {
    let (session, seen) = (LogIndex(11), LogIndex(22));
    for request in requests() {
        let record = request.encode(session, seen).unwrap();
        let record = Records::of(&record).next().unwrap().unwrap();
        let carries = |index: u64| {
            let bytes = index.to_le_bytes();
            record.layout().fields.iter().any(|field| {
                let wanted = if index == 11 { "session_index" } else { "seen_index" };
                field.name == wanted && record_field(&request, field.offset) == bytes
            })
        };
        assert_eq!(carries(11), request.is_changing(), "{request:?}");
        if !matches!(request, Request::Ring | Request::RingStatus) {
            assert_eq!(carries(22), !request.is_changing(), "{request:?}");
        }
        assert_eq!(record.request_id(), RequestId(0));
    }
    let query: TaskQuery = opened(&requests()[4]);
    assert_eq!({ query.first_task }, 5);
    let query: SegmentQuery = opened(&requests()[5]);
    assert_eq!({ query.after }, 0);
}

fn record_field(request: &Request, offset: usize) -> [u8; 8] {
    let record = request.encode(LogIndex(11), LogIndex(22)).unwrap();
    record[offset..offset + 8].try_into().unwrap()
}

fn opened<T: Message>(request: &Request) -> T {
    let record = request.encode(LogIndex(11), LogIndex(22)).unwrap();
    Records::of(&record).next().unwrap().unwrap().read().unwrap()
}

/// Valid records of every type that answers something, for mutation.
fn examples() -> Vec<Vec<u8>> {
    let outcome = TaskOutcome { first_task: 5, task_count: 1, state: 2, ..Default::default() };
    let outcomes = TaskOutcomes { job_uuid: JOB.to_wire(), ..Default::default() };
    let range = SegmentRange { first_task: 0, task_count: 4, ..Default::default() };
    let segments = SegmentList { job_uuid: JOB.to_wire(), ..Default::default() };
    let accepted = JobAccepted { job_uuid: JOB.to_wire(), index: 4, ..Default::default() };
    vec![
        encode(&accepted, &[]),
        status(b"name", 1),
        encode(&ListEnd::default(), &[]),
        encode(&outcomes, &[bytes_of(&[outcome])]),
        encode(&segments, &[bytes_of(&[range])]),
        encode(&NodeEntry { role: 3, ..Default::default() }, &[b"tcp://a:1", b"", b"zone"]),
        encode(&KeyResult { is_applied: 1, ..Default::default() }, &[]),
        encode(&KeyEntry::default(), &[b"key", b"value"]),
        ring_record(),
        encode(&RingChanged { ring_version: 4, ..Default::default() }, &[]),
        status_record(),
        described(&[FileId(5)], b""),
    ]
}

fn described(files: &[FileId], description: &[u8]) -> Vec<u8> {
    let described =
        JobDescribed { job_uuid: JOB.to_wire(), index: 40, task_count: 10, ..Default::default() };
    let files: Vec<WireUuid> = files.iter().map(|file| file.to_wire()).collect();
    encode(&described, &[b"#!/bin/sh\n", bytes_of(&files), description])
}

#[test]
fn what_a_job_is_is_read_and_checked() {
    use proto::description::{Input, InputSource, Noop, Runtime};
    let mut description = JobDescription::new(Runtime::Noop(Noop::default()));
    let source = InputSource::Tree { tree: FileId(5), length: 9 };
    description.inputs.push(Input { name: "data".to_owned(), source });
    let record = described(&[FileId(5)], &description.encode().unwrap());
    let mut reader = AnswerReader::of(&Request::Describe(JobSelector::Id(JOB)));
    let Ok(Some((Answer::Description(read_back), index))) = read(&mut reader, &record) else {
        panic!("no description");
    };
    assert_eq!((read_back.job, read_back.task_count, index), (JOB, 10, LogIndex(40)));
    assert_eq!(read_back.program, b"#!/bin/sh\n");
    assert_eq!(read_back.input_files, [FileId(5)]);
    assert_eq!(read_back.description, description);

    let mut other = AnswerReader::of(&Request::Describe(JobSelector::Id(JobId(8))));
    assert!(read(&mut other, &record).is_err(), "of another job");
    description.inputs[0].name = "../data".to_owned();
    let climbing = described(&[FileId(5)], &description.encode().unwrap());
    assert!(read(&mut reader, &climbing).is_err(), "a path that climbs");
    assert!(read(&mut reader, &described(&[], b"\x09")).is_err(), "another version");
}

#[test]
fn every_example_is_an_answer_to_something() {
    for example in examples() {
        let is_read = requests().iter().any(|it| read(&mut AnswerReader::of(it), &example).is_ok());
        assert!(is_read, "{}", proto::catalogue::name(example[0]));
    }
}

proptest! {
    #[test]
    fn no_mutation_of_an_answer_panics(
        example in 0..12usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let mut bytes = examples().swap_remove(example);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        for record in Records::of(&bytes).flatten() {
            for request in requests() {
                let _ = AnswerReader::of(&request).take(&record);
            }
        }
    }

    #[test]
    fn no_noise_panics(
        message_type in 0..MESSAGES.len(),
        fixed in prop::collection::vec(any::<u8>(), 0..300),
        body in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let layout = &MESSAGES[message_type];
        let mut bytes = fixed;
        bytes.resize(layout.length, 0);
        bytes[0] = layout.message_type;
        bytes[17..25].copy_from_slice(&(layout.length as u64).to_le_bytes());
        let length = layout.envelope_offset..layout.envelope_offset + 8;
        bytes[length].copy_from_slice(&(body.len() as u64).to_le_bytes());
        bytes.extend(body);
        for record in Records::of(&bytes).flatten() {
            for request in requests() {
                let _ = AnswerReader::of(&request).take(&record);
            }
        }
    }
}
