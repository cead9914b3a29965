//! What a replica answers to reads, writes, seals and copies.

use std::sync::Arc;

use node::logic::refusal::Refusal;
use proto::ids::RingVersion;
use proto::limits;
use proto::messages::register::{
    RegisterCopied, RegisterCopy, RegisterRead, RegisterSeal, RegisterSealed, RegisterValue,
    RegisterWrite, RegisterWritten,
};
use proto::record::{self, Message, Record, RecordError};
use proto::register::{Part, Tag};
use proto::status::ErrorCode;
use proto::time::{Duration, Instant};
use proto::wire::{WireUuid, bytes_of};

use super::super::Asker;
use super::{Act, Origin, Purpose, Registers, frames};
use crate::registers::{Change, ChangeError, Register};

/// Longest delay that is told with a refusal; each draws its own, so that the refused do not come
/// back together.
const DELAY_MS: u64 = 50;

impl Registers {
    /// Whether a message is a request to a replica.
    pub(in crate::logic) fn is_request(message_type: u8) -> bool {
        let requests =
            [RegisterRead::TYPE, RegisterWrite::TYPE, RegisterSeal::TYPE, RegisterCopy::TYPE];
        requests.contains(&message_type)
    }

    /// Somebody asks this replica.
    pub(in crate::logic) fn asked(
        &mut self,
        now: Instant,
        asker: Asker,
        record: &Record<'_>,
        acts: &mut Vec<Act>,
    ) {
        let result = match record.message_type() {
            RegisterRead::TYPE => self.read(asker, record, acts),
            RegisterWrite::TYPE => self.write(asker, record, acts),
            RegisterSeal::TYPE => self.asked_to_seal(now, asker, record, acts),
            _ => self.asked_to_copy(now, asker, record, acts),
        };
        if let Err(refusal) = result {
            acts.push(Act::Refuse(asker, refusal));
        }
    }

    fn read(
        &mut self,
        asker: Asker,
        record: &Record<'_>,
        acts: &mut Vec<Act>,
    ) -> Result<(), Refusal> {
        let read: RegisterRead = record.read().map_err(|error| malformed(&error))?;
        let part = self.parts.of(read.register_address);
        if read.is_local == 0 {
            self.check_served(part, RingVersion(read.ring_version), acts)?;
        } else if self.is_damaged {
            return Err(damaged());
        }
        let there = self.copies.get(read.register_address);
        let tag = there.map(|register| register.tag).unwrap_or_default();
        let value: &[u8] = match there {
            Some(register) if read.wants_value != 0 => &register.value,
            _ => &[],
        };
        let answer = RegisterValue {
            register_address: read.register_address,
            ring_version: self.parts.active(part).unwrap_or_default().0,
            sequence: tag.sequence,
            writer_uuid: WireUuid::new(tag.writer),
            operation: tag.operation,
            ..RegisterValue::default()
        };
        answer_with(asker, record::encode(&answer, &[value]), acts);
        Ok(())
    }

    fn write(
        &mut self,
        asker: Asker,
        record: &Record<'_>,
        acts: &mut Vec<Act>,
    ) -> Result<(), Refusal> {
        let (write, [value]) =
            record.open::<RegisterWrite, 1>().map_err(|error| malformed(&error))?;
        if value.len() > limits::REGISTER_VALUE_BYTES {
            let text = format!("a register holds {} bytes at most", limits::REGISTER_VALUE_BYTES);
            return Err(Refusal::new(ErrorCode::TooLarge, 0, text));
        }
        let address = write.register_address;
        let (sequence, operation) = (write.sequence, write.operation);
        let tag = Tag { sequence, writer: write.writer_uuid.value(), operation };
        if sequence == 0 {
            let text = "sequence 0 is that of a register that was never written";
            return Err(Refusal::new(ErrorCode::Invalid, 0, text));
        }
        self.check_served(self.parts.of(address), RingVersion(write.ring_version), acts)?;
        let register = Register { address, tag, value: Arc::from(value) };
        if !self.copies.wants(&register) {
            self.written(asker, address, acts);
            return Ok(());
        }
        self.admit(asker, value.len())?;
        let admitted = Some((asker.peer, value.len()));
        let purpose = Purpose::Write { asker, address };
        self.change(purpose, Change::Keep(vec![register]), admitted, acts);
        Ok(())
    }

    fn asked_to_seal(
        &mut self,
        now: Instant,
        asker: Asker,
        record: &Record<'_>,
        acts: &mut Vec<Act>,
    ) -> Result<(), Refusal> {
        let seal: RegisterSeal = record.read().map_err(|error| malformed(&error))?;
        let (part, version) = (Part(seal.part), RingVersion(seal.ring_version));
        self.seal(now, Origin::Asker(asker), part, version, seal.first_address, acts);
        Ok(())
    }

    fn asked_to_copy(
        &mut self,
        now: Instant,
        asker: Asker,
        record: &Record<'_>,
        acts: &mut Vec<Act>,
    ) -> Result<(), Refusal> {
        let (copy, [entries, values]) =
            record.open::<RegisterCopy, 2>().map_err(|error| malformed(&error))?;
        let (part, version) = (Part(copy.part), RingVersion(copy.ring_version));
        self.check_part(part, acts)?;
        let read = frames::read_registers(part, self.parts.count(), entries, values);
        let Some(registers) = read else {
            let text = "the registers are not of this part, not in order, or their lengths differ";
            return Err(Refusal::new(ErrorCode::Invalid, 0, text));
        };
        self.copy(now, Origin::Asker(asker), part, version, registers, acts);
        Ok(())
    }

    /// Seals a part and answers with a page of it.
    pub(super) fn seal(
        &mut self,
        now: Instant,
        origin: Origin,
        part: Part,
        version: RingVersion,
        first_address: u64,
        acts: &mut Vec<Act>,
    ) {
        let purpose = Purpose::Seal { origin, part, version, first_address };
        if let Err(refusal) = self.check_sealable(part, version, acts) {
            return self.refuse(now, origin, refusal, acts);
        }
        // From here on, and not only when it is durable: what is admitted later would be
        // acknowledged and not be in the page.
        self.leave(part, version);
        if self.copies.sealed(part).is_some_and(|sealed| sealed >= version) {
            return self.finish(now, purpose, Ok(()), acts);
        }
        match self.admit_of(origin, 0) {
            Ok(admitted) => self.change(purpose, Change::Seal { part, version }, admitted, acts),
            Err(refusal) => self.refuse(now, origin, refusal, acts),
        }
    }

    /// Keeps copies of a part that is moved here.
    pub(super) fn copy(
        &mut self,
        now: Instant,
        origin: Origin,
        part: Part,
        version: RingVersion,
        registers: Vec<Register>,
        acts: &mut Vec<Act>,
    ) {
        let purpose = Purpose::Copy { origin, part, version };
        if let Err(refusal) = self.check_copied(part, version, acts) {
            return self.refuse(now, origin, refusal, acts);
        }
        let wanted = registers.into_iter().filter(|register| self.copies.wants(register));
        let wanted: Vec<Register> = wanted.collect();
        if wanted.is_empty() {
            return self.finish(now, purpose, Ok(()), acts);
        }
        let bytes = wanted.iter().map(|register| register.value.len()).sum();
        match self.admit_of(origin, bytes) {
            Ok(admitted) => self.change(purpose, Change::Keep(wanted), admitted, acts),
            Err(refusal) => self.refuse(now, origin, refusal, acts),
        }
    }

    /// What was asked for is durable, or cannot be.
    pub(super) fn finish(
        &mut self,
        now: Instant,
        purpose: Purpose,
        result: Result<(), ChangeError>,
        acts: &mut Vec<Act>,
    ) {
        let origin = match purpose {
            Purpose::Write { asker, .. } => Origin::Asker(asker),
            Purpose::Seal { origin, .. } | Purpose::Copy { origin, .. } => origin,
            Purpose::Forget => return,
        };
        if let Err(error) = result {
            let code = match error {
                ChangeError::Full | ChangeError::DiskFull => ErrorCode::DiskFull,
                ChangeError::Failed | ChangeError::Damaged => ErrorCode::Unavailable,
            };
            let refusal = Refusal::new(code, 0, error.to_string());
            return self.refuse(now, origin, refusal, acts);
        }
        match purpose {
            Purpose::Write { asker, address } => self.written(asker, address, acts),
            Purpose::Seal { origin, part, version, first_address } => {
                let page = self.copies.page(part, first_address);
                match origin {
                    Origin::Mover(request_id) => {
                        self.mover.sealed(now, request_id, page, &self.parts);
                    }
                    Origin::Asker(asker) => {
                        let answer = RegisterSealed {
                            part: part.0,
                            ring_version: version.0,
                            has_more: u8::from(page.has_more),
                            ..RegisterSealed::default()
                        };
                        let (entries, values) = frames::encode_registers(&page.registers);
                        let parts: [&[u8]; 2] = [bytes_of(&entries), &values];
                        answer_with(asker, record::encode(&answer, &parts), acts);
                    }
                }
            }
            Purpose::Copy { origin, part, version } => match origin {
                Origin::Mover(request_id) => self.mover.copied(now, request_id, &self.parts),
                Origin::Asker(asker) => {
                    let (part, ring_version) = (part.0, version.0);
                    let answer = RegisterCopied { part, ring_version, ..RegisterCopied::default() };
                    answer_with(asker, record::encode(&answer, &[]), acts);
                }
            },
            Purpose::Forget => {}
        }
    }

    fn written(&self, asker: Asker, address: u64, acts: &mut Vec<Act>) {
        let active = self.parts.active(self.parts.of(address)).unwrap_or_default();
        let answer = RegisterWritten {
            register_address: address,
            ring_version: active.0,
            ..RegisterWritten::default()
        };
        answer_with(asker, record::encode(&answer, &[]), acts);
    }

    fn refuse(&mut self, now: Instant, origin: Origin, refusal: Refusal, acts: &mut Vec<Act>) {
        match origin {
            Origin::Asker(asker) => acts.push(Act::Refuse(asker, refusal)),
            Origin::Mover(request_id) => {
                if self.mover.refused(now, request_id, &refusal) {
                    acts.push(Act::AskRing);
                }
            }
        }
    }

    /// Serves a part no longer under this version, nor under an older one.
    pub(super) fn leave(&mut self, part: Part, version: RingVersion) {
        let refused = self.refused.entry(part).or_insert(version);
        *refused = version.max(*refused);
    }

    fn admit_of(
        &mut self,
        origin: Origin,
        bytes: usize,
    ) -> Result<Option<(node::logic::network::Peer, usize)>, Refusal> {
        // The mover bounds what it asks of its own node.
        let Origin::Asker(asker) = origin else { return Ok(None) };
        self.admit(asker, bytes)?;
        Ok(Some((asker.peer, bytes)))
    }

    fn admit(&mut self, asker: Asker, bytes: usize) -> Result<(), Refusal> {
        if self.changes.admit(asker.peer, bytes) {
            return Ok(());
        }
        let text = "as many changes of registers as the disk is given at once are in flight";
        let mut refusal = self.later(text);
        refusal.code = ErrorCode::Busy;
        Err(refusal)
    }

    /// Whether reads and writes under this version are served.
    fn check_served(
        &mut self,
        part: Part,
        version: RingVersion,
        acts: &mut Vec<Act>,
    ) -> Result<(), Refusal> {
        let active = self.check_part(part, acts)?;
        if version < active {
            return Err(self.stale(part, version));
        }
        if version > active {
            acts.push(Act::AskRing);
            let text = format!("this node knows version {active} of the ring, not {version} yet");
            return Err(self.later(text));
        }
        if self.refused.get(&part).is_some_and(|&refused| refused >= version) {
            acts.push(Act::AskRing);
            let text = "the registers of this part are being moved to a newer version of the ring";
            let mut refusal = self.later(text);
            refusal.code = ErrorCode::StaleRing;
            return Err(refusal);
        }
        self.check_replica(part, version)
    }

    /// Whether a part may be sealed under this version: never under the newest.
    fn check_sealable(
        &mut self,
        part: Part,
        version: RingVersion,
        acts: &mut Vec<Act>,
    ) -> Result<(), Refusal> {
        let active = self.check_part(part, acts)?;
        if version < active {
            return Err(self.stale(part, version));
        }
        let is_known = version < self.parts.newest() && self.parts.knows(version);
        self.check_moved(part, version, is_known, acts)
    }

    /// Whether copies may be kept for this version.
    fn check_copied(
        &mut self,
        part: Part,
        version: RingVersion,
        acts: &mut Vec<Act>,
    ) -> Result<(), Refusal> {
        let active = self.check_part(part, acts)?;
        let is_left = self.refused.get(&part).is_some_and(|&refused| refused >= version);
        if version <= active || is_left {
            return Err(self.stale(part, version));
        }
        let is_known = self.parts.knows(version);
        self.check_moved(part, version, is_known, acts)
    }

    /// Whether this node knows what it needs of a move, and is a replica by this version.
    fn check_moved(
        &mut self,
        part: Part,
        version: RingVersion,
        is_known: bool,
        acts: &mut Vec<Act>,
    ) -> Result<(), Refusal> {
        if !is_known {
            acts.push(Act::AskRing);
            return Err(self.later("this node does not know the version yet that is moved to"));
        }
        self.check_replica(part, version)
    }

    /// The version that is active for a part.
    fn check_part(&mut self, part: Part, acts: &mut Vec<Act>) -> Result<RingVersion, Refusal> {
        if self.is_damaged {
            return Err(damaged());
        }
        if let Some(active) = self.parts.active(part) {
            return Ok(active);
        }
        if self.parts.newest().0 != 0 {
            let text = format!("the registers have {} parts", self.parts.count());
            return Err(Refusal::new(ErrorCode::Invalid, 0, text));
        }
        acts.push(Act::AskRing);
        Err(self.later("this node does not know the ring yet"))
    }

    fn check_replica(&mut self, part: Part, version: RingVersion) -> Result<(), Refusal> {
        if self.forgetting == Some(part) {
            return Err(self.later("this node forgets what it had of these registers before"));
        }
        if self.parts.rank(version, part).is_some() {
            return Ok(());
        }
        let text = format!("this node, as it is now, keeps no such registers by version {version}");
        Err(self.later(text))
    }

    fn stale(&self, part: Part, version: RingVersion) -> Refusal {
        let active = self.parts.active(part).unwrap_or_default();
        let text = format!("these registers go by version {active} of the ring, not by {version}");
        Refusal::new(ErrorCode::StaleRing, 0, text)
    }

    fn later(&mut self, text: impl Into<String>) -> Refusal {
        let mut refusal = Refusal::new(ErrorCode::Unavailable, 0, text);
        refusal.retry_after = Duration::from_millis(1 + self.rng.u64(0..DELAY_MS));
        refusal
    }
}

fn answer_with(asker: Asker, mut record: Vec<u8>, acts: &mut Vec<Act>) {
    record::set_request_id(&mut record, asker.request_id);
    acts.push(Act::Answer(asker, record));
}

fn damaged() -> Refusal {
    Refusal::new(ErrorCode::Unavailable, 0, ChangeError::Damaged.to_string())
}

fn malformed(error: &RecordError) -> Refusal {
    Refusal::new(ErrorCode::Malformed, 0, error.to_string())
}
