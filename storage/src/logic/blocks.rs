//! Single blocks: stored, read, asked after; and what this node says of its disk.

use node::logic::refusal::Refusal;
use proto::ids::{BlockId, RingVersion};
use proto::limits;
use proto::messages::file::{
    BlockGet, BlockPresence, BlockPut, BlockQuery, BlockStored, StorageSpace,
};
use proto::record::{self, Message, Record};
use proto::status::{BlockKind, ErrorCode};
use proto::time::Instant;
use proto::wire::{WireUuid, bytes_of, items_of};

use super::{Asker, Effect, Form, Found, Pending, Space, Storage, Ticket, envelope};
use crate::disk::{Held, Put, PutDone, PutError, ReadError, Touch};

impl Storage {
    pub(super) fn block_put(
        &mut self,
        now: Instant,
        asker: Asker,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let (put, [content]) = match record.open::<BlockPut, 1>() {
            Ok(opened) => opened,
            Err(error) => return self.malformed(asker, &error, effects),
        };
        if !self.takes_blocks(now, asker, RingVersion(put.ring_version), effects) {
            return;
        }
        let Some(kind) = BlockKind::from_wire(put.kind) else {
            let text = format!("there is no kind {} of blocks", put.kind);
            let refusal = Refusal::new(ErrorCode::Invalid, BlockPut::TYPE, text);
            return self.refuse(asker, refusal, effects);
        };
        let bytes = content.len();
        if !self.puts.admit(asker.peer, bytes) {
            return self.busy(asker, "as many blocks as the disk is given at once", effects);
        }
        let held = Held {
            block: BlockId::from(put.block_uuid),
            kind,
            length: u32::try_from(bytes).unwrap_or(u32::MAX),
            stamp: put.stamp.max(put.pin_round),
            replica_count: self.wanted_replicas(put.replica_count),
        };
        let Held { block, stamp, replica_count, .. } = held;
        self.raised(now, Touch { block, stamp, replica_count }, effects);
        let ticket = self.works.begin(Pending::Put { asker, held, bytes });
        let content = content.to_vec();
        effects.push(Effect::Put(Put { ticket, block, kind, stamp, replica_count, content }));
    }

    pub(super) fn put_done(&mut self, now: Instant, done: PutDone, effects: &mut Vec<Effect>) {
        self.reconcile.put_done(done.ticket);
        let (asker, held, bytes) = match self.works.end(done.ticket) {
            Some(Pending::Put { asker, held, bytes }) => (asker, held, bytes),
            Some(Pending::MendPut { block, rest }) => {
                return self.mend_stored(now, block, rest, done.result, effects);
            }
            _ => panic!("the disk stored a block under a ticket that no put has"),
        };
        self.puts.release(asker.peer, bytes);
        self.expectations.settle(held.block);
        let code = match done.result {
            Ok(stored) => {
                self.with_reconcile(now, effects, |it, scene| it.stored(scene, held));
                let stored = BlockStored {
                    envelope: envelope(asker),
                    block_uuid: held.block.to_wire(),
                    ring_version: self.membership.version().0,
                    was_present: u8::from(stored.was_present),
                    ..BlockStored::default()
                };
                return self.send(asker, record::encode(&stored, &[]), effects);
            }
            Err(PutError::WrongDigest) => ErrorCode::WrongDigest,
            Err(PutError::TooLarge) => ErrorCode::TooLarge,
            Err(PutError::DiskFull) => {
                self.expectations.full(now);
                ErrorCode::DiskFull
            }
            Err(PutError::Failed) => ErrorCode::Unavailable,
        };
        let text = done.result.err().map(|error| error.to_string()).unwrap_or_default();
        self.refuse(asker, Refusal::new(code, BlockPut::TYPE, text), effects);
    }

    /// Replicas that a block is kept with: one that is told 0 wants the cluster's default, and the
    /// highest that was told counts.
    pub(super) fn wanted_replicas(&self, told: u8) -> u8 {
        let count = self.membership.rings().map_or(0, |rings| rings.replicas(told));
        u8::try_from(count).unwrap_or(told)
    }

    /// A block that may be here is stored or touched again.
    pub(super) fn raised(&mut self, now: Instant, touch: Touch, effects: &mut Vec<Effect>) {
        let Touch { block, stamp, replica_count } = touch;
        self.with_reconcile(now, effects, |it, scene| {
            it.raised(scene, block, stamp, replica_count);
        });
    }

    pub(super) fn block_get(
        &mut self,
        now: Instant,
        asker: Asker,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let get: BlockGet = match record.read() {
            Ok(get) => get,
            Err(error) => return self.malformed(asker, &error, effects),
        };
        let version = RingVersion(get.ring_version);
        self.membership.saw(now, version);
        if !self.reads.admit(asker.peer, 0) {
            return self.busy(asker, "as many blocks as the disk is asked for at once", effects);
        }
        let block = BlockId::from(get.block_uuid);
        let ticket = self.works.begin(Pending::Get { asker, version, block });
        let form = Form::Record { offset: get.offset, length: get.length };
        effects.push(Effect::Read { ticket, block, form });
    }

    pub(super) fn read_done(
        &mut self,
        now: Instant,
        ticket: Ticket,
        result: Result<Found, ReadError>,
        effects: &mut Vec<Effect>,
    ) {
        let (asker, version, block) = match self.works.get(ticket) {
            Some(&Pending::Piece { assembly }) => {
                return self.piece_done(now, ticket, assembly, result, effects);
            }
            Some(&Pending::Hand { node, block }) => {
                return self.hand_read(now, ticket, (node, block), &result, effects);
            }
            Some(&Pending::Get { asker, version, block }) => (asker, version, block),
            _ => panic!("the disk read a block under a ticket that no read has"),
        };
        self.works.end(ticket);
        if result == Err(ReadError::Damaged) {
            self.damaged(now, block, None);
        }
        self.reads.release(asker.peer, 0);
        match result {
            Ok(found) if asker.wants_answer() => {
                self.get_count += 1;
                self.get_bytes += found.answer_length;
                let (to, request_id) = (asker.peer, asker.request_id);
                effects.push(Effect::Answer { to, request_id, ticket });
            }
            Ok(_) => effects.push(Effect::Discard { ticket }),
            // By an older ring the asker may ask the wrong nodes: that is no "not found".
            Err(ReadError::NotFound) if version.0 != 0 && version < self.ring_version() => {
                self.stale_ring(asker, version, effects);
            }
            Err(error) => {
                let code = match error {
                    ReadError::NotFound => ErrorCode::NotFound,
                    ReadError::Range => ErrorCode::Invalid,
                    ReadError::Damaged | ReadError::Failed => ErrorCode::Unavailable,
                };
                let refusal = Refusal::new(code, asker.message_type, error.to_string());
                self.refuse(asker, refusal, effects);
            }
        }
    }

    pub(super) fn block_query(
        &mut self,
        now: Instant,
        asker: Asker,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let (query, [blocks]) = match record.open::<BlockQuery, 1>() {
            Ok(opened) => opened,
            Err(error) => return self.malformed(asker, &error, effects),
        };
        if !self.takes_blocks(now, asker, RingVersion(query.ring_version), effects) {
            return;
        }
        let blocks = items_of::<WireUuid>(blocks).unwrap_or_default();
        if blocks.len() > limits::BLOCKS_PER_QUERY {
            return self.too_many_blocks(asker, effects);
        }
        if !self.reads.admit(asker.peer, 0) {
            return self.busy(asker, "as many blocks as the disk is asked for at once", effects);
        }
        // "Present" promises as much as a put does.
        let (stamp, replica_count) = (query.pin_round, self.wanted_replicas(query.replica_count));
        let blocks = blocks.iter().map(|&block| BlockId::from(block));
        let items: Vec<Touch> = blocks.map(|block| Touch { block, stamp, replica_count }).collect();
        for item in &items {
            self.raised(now, *item, effects);
        }
        let version = RingVersion(query.ring_version);
        let ticket = self.works.begin(Pending::Query { asker, version });
        effects.push(Effect::Touch { ticket, items });
    }

    pub(super) fn too_many_blocks(&self, asker: Asker, effects: &mut Vec<Effect>) {
        let text = format!("one request names {} blocks at most", limits::BLOCKS_PER_QUERY);
        let refusal = Refusal::new(ErrorCode::TooLarge, asker.message_type, text);
        self.refuse(asker, refusal, effects);
    }

    pub(super) fn touched(
        &mut self,
        now: Instant,
        ticket: Ticket,
        present: &[bool],
        effects: &mut Vec<Effect>,
    ) {
        let (asker, version) = match self.works.end(ticket) {
            Some(Pending::Query { asker, version }) => (asker, version),
            Some(Pending::Offer { asker, version, blocks }) => {
                return self.offer_touched(now, (asker, version), &blocks, present, effects);
            }
            _ => panic!("the disk touched blocks that nobody asked for"),
        };
        self.reads.release(asker.peer, 0);
        // As a put under an older version: by now the block may have been moved away.
        if !self.takes_blocks(now, asker, version, effects) {
            return;
        }
        let presence = BlockPresence {
            envelope: envelope(asker),
            ring_version: version.0,
            ..BlockPresence::default()
        };
        let present: Vec<u8> = present.iter().map(|&is_here| u8::from(is_here)).collect();
        self.send(asker, record::encode(&presence, &[&present]), effects);
    }

    pub(super) fn storage_query(&mut self, asker: Asker, effects: &mut Vec<Effect>) {
        if !self.reads.admit(asker.peer, 0) {
            return self.busy(asker, "as much as the disk is asked for at once", effects);
        }
        let ticket = self.works.begin(Pending::Measure { asker });
        effects.push(Effect::Measure { ticket });
    }

    pub(super) fn measured(
        &mut self,
        now: Instant,
        ticket: Ticket,
        space: Space,
        effects: &mut Vec<Effect>,
    ) {
        let asker = match self.works.end(ticket) {
            Some(Pending::Measure { asker }) => asker,
            Some(Pending::MeasureForReport) => return self.measured_for_report(now, space),
            _ => panic!("the edge measured what nobody asked for"),
        };
        self.reads.release(asker.peer, 0);
        let mut counters = space.counters;
        counters.get_count = self.get_count;
        counters.get_bytes = self.get_bytes;
        let answer = StorageSpace {
            envelope: envelope(asker),
            total_bytes: space.total_bytes,
            free_bytes: space.free_bytes,
            ..StorageSpace::default()
        };
        self.send(asker, record::encode(&answer, &[bytes_of(&[counters])]), effects);
    }
}
