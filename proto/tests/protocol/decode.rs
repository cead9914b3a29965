//! Decoding of anything: nothing panics, what is refused is refused with a reason, what is longer
//! than this version is read, and one record does not spoil the next.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use proto::catalogue::MESSAGES;
use proto::ids::{JobId, RequestId};
use proto::limits;
use proto::messages::file::FileRequest;
use proto::messages::session::Ping;
use proto::messages::task::{WorkerRequest, WorkerStatus};
use proto::record::{
    ENVELOPE_LENGTH, Envelope, GENERIC_LENGTH, GenericMessage, Layout, Message, RecordError,
    Records, encode, encode_given, set_request_id,
};

/// A valid record of any message, its fields and parts filled from `filling`; `extra` bytes are
/// appended to the fixed part, as a newer version would.
fn valid(layout: &Layout, counts: &[u8], filling: u8, extra: usize) -> Vec<u8> {
    let mut fixed = vec![filling; layout.length + extra];
    let mut body = Vec::new();
    for (part, count) in layout.parts.iter().zip(counts.iter().chain(std::iter::repeat(&1))) {
        let count = u64::from(*count % 4);
        fixed[part.length_offset..part.length_offset + 8].copy_from_slice(&count.to_le_bytes());
        body.resize(body.len() + count as usize * part.element_size, filling);
    }
    fixed[0] = layout.message_type;
    put(&mut fixed, GENERIC_LENGTH - 8, (layout.length + extra) as u64);
    put(&mut fixed, layout.envelope_offset, body.len() as u64);
    [fixed, body].concat()
}

fn put(bytes: &mut [u8], offset: usize, value: u64) {
    bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
}

/// Reads a frame to its end as a receiver would; how many records were accepted and refused.
fn drain(frame: &[u8]) -> (u64, u64) {
    let (mut accepted, mut refused) = (0, 0);
    for record in Records::of(frame) {
        match record.and_then(|record| read_any(&record).map(|()| record)) {
            Ok(record) => {
                accepted += 1;
                assert!(record.body().len() <= frame.len());
            }
            Err(error) => {
                refused += 1;
                assert!(!error.to_string().is_empty());
            }
        }
    }
    (accepted, refused)
}

/// Splits the parts of a record of any type.
fn read_any(record: &proto::record::Record<'_>) -> Result<(), RecordError> {
    match record.layout().parts.len() {
        0 => record.parts::<0>().map(drop),
        1 => record.parts::<1>().map(drop),
        2 => record.parts::<2>().map(drop),
        3 => record.parts::<3>().map(drop),
        4 => record.parts::<4>().map(drop),
        5 => record.parts::<5>().map(drop),
        count => panic!("{count} parts: add a line here"),
    }
}

fn any_valid() -> impl Strategy<Value = Vec<u8>> {
    let message = prop::sample::select(MESSAGES);
    let counts = prop::collection::vec(any::<u8>(), 4);
    (message, counts, any::<u8>(), prop_oneof![3 => Just(0), 1 => 1..40usize])
        .prop_map(|(layout, counts, filling, extra)| valid(&layout, &counts, filling, extra))
}

#[test]
fn every_message_is_accepted_in_its_own_form() {
    for layout in MESSAGES {
        for extra in [0, 1, 100] {
            let record = valid(layout, &[3, 2, 1, 0], 0x5a, extra);
            assert_eq!(drain(&record), (1, 0), "{} with {extra} bytes more", layout.name);
        }
    }
}

#[test]
fn noise_and_mutations_never_panic() {
    let [accepted, refused] = [Cell::new(0), Cell::new(0)];
    let count = |frame: &[u8]| {
        let (good, bad) = drain(frame);
        accepted.set(accepted.get() + good);
        refused.set(refused.get() + bad);
    };
    // A runner counts its cases over all its runs, so each run gets its own.
    let runner =
        || TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(3000) });
    let noise = prop::collection::vec(any::<u8>(), 0..400);
    runner()
        .run(&noise, |noise| {
            drain(&noise);
            Ok(())
        })
        .unwrap();
    let frames = prop::collection::vec(any_valid(), 1..6);
    // Bytes, and whole 64-bit numbers with the values at which lengths overflow.
    let number = prop_oneof![
        Just(u64::MAX),
        Just(1 << 63),
        Just(limits::FRAME_BYTES as u64 + 1),
        0..100u64,
        any::<u64>()
    ];
    let bytes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let numbers = prop::collection::vec((any::<prop::sample::Index>(), number), 0..2);
    let cut = prop::option::of(any::<prop::sample::Index>());
    runner()
        .run(&(frames, bytes, numbers, cut), |(records, bytes, numbers, cut)| {
            let mut frame = records.concat();
            for (at, value) in bytes {
                let at = at.index(frame.len());
                frame[at] = value;
            }
            for (at, value) in numbers {
                let at = at.index(frame.len() - 8);
                put(&mut frame, at, value);
            }
            if let Some(cut) = cut {
                frame.truncate(cut.index(frame.len()));
            }
            count(&frame);
            Ok(())
        })
        .unwrap();
    println!("mutated frames: {} records accepted, {} refused", accepted.get(), refused.get());
    assert!(accepted.get() > 0 && refused.get() > 0);
}

proptest! {
    #[test]
    fn many_records_in_one_frame_are_all_read(records in prop::collection::vec(any_valid(), 0..40)) {
        let frame = records.concat();
        prop_assert_eq!(drain(&frame), (records.len() as u64, 0));
        let lengths: Vec<usize> = Records::of(&frame)
            .map(|record| record.map(|it| it.body().len()).unwrap())
            .collect();
        let wanted: Vec<usize> = records
            .iter()
            .map(|record| Records::of(record).next().unwrap().unwrap().body().len())
            .collect();
        prop_assert_eq!(lengths, wanted);
    }

    #[test]
    fn a_frame_may_lie_anywhere_in_memory(record in any_valid(), shift in 0..16usize) {
        let shifted = [&vec![0; shift][..], &record].concat();
        prop_assert_eq!(drain(&shifted[shift..]), (1, 0));
    }

    #[test]
    fn shorter_lengths_are_refused(
        layout in prop::sample::select(MESSAGES),
        length in any::<prop::sample::Index>(),
    ) {
        let mut record = valid(&layout, &[], 0, 0);
        let length = length.index(layout.length);
        put(&mut record, GENERIC_LENGTH - 8, length as u64);
        let first = Records::of(&record).next().unwrap();
        if length == layout.given_length && length != 0 {
            prop_assert!(first.is_ok());
        } else {
            let message_type = layout.message_type;
            let error = RecordError::HeaderLength { message_type, header_length: length as u64 };
            prop_assert_eq!(first.map(drop), Err(error));
        }
    }
}

/// The bytes of a type that is not in the catalogue.
fn unknown_type() -> u8 {
    (1..=u8::MAX).find(|number| MESSAGES.iter().all(|it| it.message_type != *number)).unwrap()
}

#[test]
fn an_unknown_type_is_skipped_where_that_is_possible() {
    let message_type = unknown_type();
    let unknown = |header_length: u64| {
        let header = GenericMessage { message_type, header_length, ..Default::default() };
        bytemuck::bytes_of(&header).to_vec()
    };
    let envelope = Envelope { body_length: 5, ..Default::default() };
    let length = GENERIC_LENGTH + ENVELOPE_LENGTH + 3;
    let with_envelope =
        [&unknown(length as u64)[..], bytemuck::bytes_of(&envelope), &[9; 3], &[9; 5]].concat();
    let ping = encode(&Ping::default(), &[]);

    let frame = [&with_envelope[..], &ping, &with_envelope, &ping].concat();
    assert_eq!(drain(&frame), (2, 2));
    let refusal = Records::of(&frame).next().unwrap().map(drop);
    assert_eq!(refusal, Err(RecordError::UnknownType { message_type }));
    // Without an envelope nobody knows where the next record begins.
    let frame = [&unknown(GENERIC_LENGTH as u64)[..], &ping, &ping].concat();
    assert_eq!(drain(&frame), (0, 1));
}

#[test]
fn longer_fixed_parts_and_further_parts_are_passed_over() {
    let (first, second) = (valid(MESSAGES.first().unwrap(), &[2, 2, 2], 1, 24), [7; 11]);
    let mut record = [&first[..], &second].concat();
    let envelope = MESSAGES[0].envelope_offset;
    let body_length = Records::of(&first).next().unwrap().unwrap().body().len() + second.len();
    put(&mut record, envelope, body_length as u64);
    let frame = [&record[..], &encode(&Ping::default(), &[])].concat();
    assert_eq!(drain(&frame), (2, 0));
}

#[test]
fn given_lengths_are_accepted_with_defaults() {
    let request = WorkerRequest { job_uuid: JobId(5).to_wire(), ..WorkerRequest::defaults() };
    let files = [1u8; 32];
    let deal = encode_given(&request, &[b"#!/bin/sh", &files, &[]]);
    let status = encode_given(&WorkerStatus { state: 2, ..Default::default() }, &[]);
    let asked = encode_given(&FileRequest::default(), &[]);
    assert_eq!([deal.len(), status.len(), asked.len()], [57 + 9 + 32, 42, 41]);
    let frame = [deal, status, asked].concat();
    let records: Vec<_> = Records::of(&frame).collect::<Result<_, _>>().unwrap();
    let (read, [program, inputs, description]) = records[0].open::<WorkerRequest, 3>().unwrap();
    let (first_task, task_count, job_task_count, epoch, program_kind) =
        (read.first_task, read.task_count, read.job_task_count, read.epoch, read.program_kind);
    assert_eq!((first_task, task_count, job_task_count, epoch, program_kind), (0, 1, 1, 0, 0));
    assert_eq!((program, inputs, description), (&b"#!/bin/sh"[..], &files[..], &[][..]));
    let status: WorkerStatus = records[1].read().unwrap();
    let (state, task_count, attempt, frame_count) =
        (status.state, status.task_count, status.attempt, status.frame_count);
    assert_eq!((state, task_count, attempt, frame_count), (2, 1, 0, 1));
    assert!(records.iter().all(|record| record.is_given_form()));
    assert_eq!(records[2].request_id(), RequestId(0));
    let wrong = records[2].read::<WorkerStatus>();
    let message_type = FileRequest::TYPE;
    assert_eq!(wrong, Err(RecordError::OtherType { wanted: WorkerStatus::TYPE, message_type }));
}

#[test]
fn a_part_beyond_its_record_does_not_spoil_the_next() {
    let layout = MESSAGES.iter().find(|it| it.name == "worker_heartbeat").unwrap();
    let mut record = valid(layout, &[2], 0, 0);
    let part = &layout.parts[0];
    put(&mut record, part.length_offset, 3);
    let frame = [&record[..], &encode(&Ping::default(), &[])].concat();
    assert_eq!(drain(&frame), (1, 1));
    put(&mut record, part.length_offset, u64::MAX);
    let frame = [&record[..], &encode(&Ping::default(), &[])].concat();
    assert_eq!(drain(&frame), (1, 1));
}

#[test]
fn a_request_id_is_set_where_there_is_an_envelope() {
    let mut ping = encode(&Ping::default(), &[]);
    set_request_id(&mut ping, RequestId(77));
    assert_eq!(Records::of(&ping).next().unwrap().unwrap().request_id(), RequestId(77));
    let mut given = encode_given(&FileRequest::default(), &[]);
    let before = given.clone();
    set_request_id(&mut given, RequestId(77));
    assert_eq!(given, before);
}
