//! A replica of registers in a few lines: what it was told becomes durable after a while, and a
//! crash takes what is not.

use std::collections::BTreeMap;

use proto::messages::register::{RegisterRead, RegisterValue, RegisterWrite, RegisterWritten};
use proto::record::{Message, Records, encode};
use proto::register::Tag;
use proto::wire::WireUuid;

/// A write that is on its way to the disk.
#[derive(Clone, Debug)]
pub(super) struct Written {
    register: u64,
    tag: Tag,
    value: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Replica {
    durable: BTreeMap<u64, (Tag, Vec<u8>)>,
    /// Counts its starts: what an earlier life had begun to write is lost.
    pub(super) life: u64,
    pub(super) is_up: bool,
}

impl Default for Replica {
    fn default() -> Replica {
        Replica { durable: BTreeMap::new(), life: 0, is_up: true }
    }
}

impl Replica {
    pub(super) fn crash(&mut self) {
        self.is_up = false;
        self.life += 1;
    }

    pub(super) fn start(&mut self) {
        self.is_up = true;
    }

    /// The answer to a request, and what has to be durable before it is given.
    pub(super) fn handle(&mut self, frame: &[u8]) -> (Vec<u8>, Option<Written>) {
        let record = Records::of(frame).next().expect("a record").expect("it can be read");
        if record.message_type() == RegisterRead::TYPE {
            let read: RegisterRead = record.read().expect("a read");
            let register = read.register_address;
            let (tag, value) = self.durable.get(&register).cloned().unwrap_or_default();
            let answer = RegisterValue {
                register_address: register,
                ring_version: read.ring_version,
                sequence: tag.sequence,
                writer_uuid: WireUuid::new(tag.writer),
                operation: tag.operation,
                ..Default::default()
            };
            return (encode(&answer, &[&value]), None);
        }
        let (write, [value]) = record.open::<RegisterWrite, 1>().expect("a write");
        let (register, value) = (write.register_address, value.to_vec());
        let writer = write.writer_uuid.value();
        let tag = Tag { sequence: write.sequence, writer, operation: write.operation };
        let answer = RegisterWritten {
            register_address: register,
            ring_version: write.ring_version,
            ..Default::default()
        };
        let is_higher = self.durable.get(&register).is_none_or(|(there, _)| *there < tag);
        (encode(&answer, &[]), is_higher.then_some(Written { register, tag, value }))
    }

    pub(super) fn synced(&mut self, written: Written) {
        let Written { register, tag, value } = written;
        if self.durable.get(&register).is_none_or(|(there, _)| *there < tag) {
            self.durable.insert(register, (tag, value));
        }
    }
}
