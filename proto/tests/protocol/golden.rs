//! Golden bytes of the five given structs: written by hand of another language, never changed. The
//! same file is read by a C program and by a Python script (see `conformance.rs` in `tests/`).

use std::collections::BTreeMap;

use proto::ids::NodeId;
use proto::messages::file::{FileRequest, FileResponse};
use proto::messages::task::{WorkerRequest, WorkerStatus};
use proto::record::{GENERIC_LENGTH, GenericMessage, Message, Records, encode_given, stamp};
use proto::wire::WireUuid;

struct Golden {
    name: String,
    fields: BTreeMap<String, u64>,
    body: Vec<u8>,
    bytes: Vec<u8>,
}

impl Golden {
    fn field(&self, name: &str) -> u64 {
        self.fields[name]
    }

    fn uuid(&self, name: &str) -> WireUuid {
        let half = |half| u128::from(self.field(&format!("{name}_{half}")));
        WireUuid::new(half("upper") << 64 | half("lower"))
    }

    /// Encodes as given, decodes again, and compares both with the golden bytes.
    fn check<T: Message + PartialEq + std::fmt::Debug>(&self, message: T, parts: &[&[u8]]) {
        let mut encoded = encode_given(&message, parts);
        stamp(&mut encoded, NodeId(self.uuid("node_uuid").value()), 7, 8);
        assert_eq!(encoded, self.bytes, "{}", self.name);
        assert_eq!(self.fields.len(), 4 + c_fields::<T>(), "{}", self.name);

        let mut records = Records::of(&self.bytes);
        let record = records.next().unwrap().unwrap();
        assert!(records.next().is_none());
        assert!(record.is_given_form());
        assert_eq!(record.body(), self.body);
        let mut read: T = record.read().unwrap();
        // The header is filled in by the encoder.
        bytemuck::bytes_of_mut(&mut read)[..GENERIC_LENGTH].fill(0);
        let mut wanted = message;
        bytemuck::bytes_of_mut(&mut wanted)[..GENERIC_LENGTH].fill(0);
        assert_eq!(read, wanted);
    }
}

/// Given fields of a message as C counts them: a UUID is two.
fn c_fields<T: Message>() -> usize {
    let given = T::FIELDS.iter().filter(|field| field.offset < T::GIVEN_LENGTH);
    given.map(|field| field.size.div_ceil(8)).sum()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

fn golden() -> Vec<Golden> {
    let mut all: Vec<Golden> = Vec::new();
    for line in include_str!("../golden.txt").lines() {
        let mut words = line.split(' ');
        let (word, value) = (words.next().unwrap(), words.next().unwrap_or_default());
        if word == "record" {
            let name = value.to_owned();
            all.push(Golden { name, fields: BTreeMap::new(), body: vec![], bytes: vec![] });
        }
        let Some(last) = all.last_mut() else { continue };
        match word {
            "field" => {
                let number = words.next().unwrap().strip_prefix("0x").unwrap();
                let number = u64::from_str_radix(number, 16).unwrap();
                last.fields.insert(value.to_owned(), number);
            }
            "body" => last.body = unhex(value),
            "bytes" => last.bytes = unhex(value),
            "record" | "" => {}
            other => panic!("{other}"),
        }
    }
    all
}

#[test]
fn golden_bytes_are_kept() {
    let mut names = Vec::new();
    for golden in golden() {
        match golden.name.as_str() {
            "generic_message" => {
                let header = GenericMessage {
                    message_type: golden.field("message_type") as u8,
                    node_uuid: golden.uuid("node_uuid"),
                    header_length: golden.field("header_length"),
                };
                assert_eq!(bytemuck::bytes_of(&header), golden.bytes);
            }
            "worker_request" => {
                let length = golden.field("program_length") as usize;
                let (program, input_files) = golden.body.split_at(length);
                let message = WorkerRequest {
                    job_uuid: golden.uuid("job_uuid"),
                    program_length: golden.field("program_length"),
                    num_input_files: golden.field("num_input_files"),
                    ..WorkerRequest::defaults()
                };
                golden.check(message, &[program, input_files, &[]]);
            }
            "worker_status" => {
                let state = golden.field("state") as u8;
                let job_uuid = golden.uuid("job_uuid");
                golden.check(WorkerStatus { job_uuid, state, ..WorkerStatus::defaults() }, &[]);
            }
            "file_request" => {
                let file_uuid = golden.uuid("file_uuid");
                golden.check(FileRequest { file_uuid, ..FileRequest::defaults() }, &[]);
            }
            "file_response" => {
                let file_uuid = golden.uuid("file_uuid");
                let file_length = golden.field("file_length");
                let message = FileResponse { file_uuid, file_length, ..FileResponse::defaults() };
                golden.check(message, &[&golden.body]);
            }
            other => panic!("no test for {other}"),
        }
        names.push(golden.name);
    }
    let given =
        ["generic_message", "worker_request", "worker_status", "file_request", "file_response"];
    assert_eq!(names, given);
}
