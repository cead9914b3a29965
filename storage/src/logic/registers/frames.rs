//! The messages between replicas, as records and back.

use std::sync::Arc;

use proto::ids::RingVersion;
use proto::limits;
use proto::messages::register::{RegisterCopy, RegisterEntry, RegisterSeal};
use proto::record;
use proto::register::{Part, Tag, part_of};
use proto::wire::{WireUuid, bytes_of, items_of};

use crate::registers::Register;

/// A `register_seal`.
pub(super) fn encode_seal(part: Part, version: RingVersion, first_address: u64) -> Vec<u8> {
    let seal = RegisterSeal {
        part: part.0,
        ring_version: version.0,
        first_address,
        ..RegisterSeal::default()
    };
    record::encode(&seal, &[])
}

/// A `register_copy`.
pub(super) fn encode_copy(part: Part, version: RingVersion, registers: &[Register]) -> Vec<u8> {
    let copy = RegisterCopy { part: part.0, ring_version: version.0, ..RegisterCopy::default() };
    let (entries, values) = encode_registers(registers);
    record::encode(&copy, &[bytes_of(&entries), &values])
}

/// Registers as they travel: entries, and the values one after the other.
pub(super) fn encode_registers(registers: &[Register]) -> (Vec<RegisterEntry>, Vec<u8>) {
    let entry = |register: &Register| RegisterEntry {
        register_address: register.address,
        sequence: register.tag.sequence,
        writer_uuid: WireUuid::new(register.tag.writer),
        operation: register.tag.operation,
        value_length: register.value.len() as u64,
    };
    let values: Vec<&[u8]> = registers.iter().map(|register| &*register.value).collect();
    (registers.iter().map(entry).collect(), values.concat())
}

/// Reads registers of a part. `None` where they are of another part, not in order, or their
/// lengths do not fit.
pub(super) fn read_registers(
    part: Part,
    part_count: u32,
    entries: &[u8],
    mut values: &[u8],
) -> Option<Vec<Register>> {
    let entries = items_of::<RegisterEntry>(entries)?;
    let mut registers: Vec<Register> = Vec::with_capacity(entries.len());
    for entry in entries {
        let address = entry.register_address;
        let length = usize::try_from(entry.value_length).ok()?;
        let (value, rest) = values.split_at_checked(length)?;
        let is_behind = registers.last().is_none_or(|before| before.address < address);
        if length > limits::REGISTER_VALUE_BYTES
            || part_of(address, part_count) != part
            || !is_behind
        {
            return None;
        }
        let (sequence, operation) = (entry.sequence, entry.operation);
        let tag = Tag { sequence, writer: entry.writer_uuid.value(), operation };
        registers.push(Register { address, tag, value: Arc::from(value) });
        values = rest;
    }
    values.is_empty().then_some(registers)
}
