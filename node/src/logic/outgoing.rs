//! The queue of one connection: stamps records, packs them into frames, bounds their bytes.
//!
//! Nothing waits here for more to come: a frame grows only while it has not been handed out. To
//! whom frames go and when they are handed out is decided outside.

use std::collections::VecDeque;

use proto::ids::{Generation, NodeId};
use proto::limits;
use proto::record;

/// Records from here on are not copied into a shared frame (eyeballed: the copy costs more than a
/// message of their own).
const OWN_FRAME_BYTES: usize = 16 << 10;

/// What a queue did with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queued {
    Yes,
    /// It was dropped; the first time since the queue last had room.
    BeganOverflowing,
    /// It was dropped, as others before it.
    Overflowing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// Many records in one frame.
    Packed,
    /// A frame for each, for foreign clients that expect no more.
    Single,
}

#[derive(Debug)]
pub(super) struct Outgoing {
    node: NodeId,
    generation: Generation,
    sequence: u64,
    packing: Packing,
    frames: VecDeque<Vec<u8>>,
    /// The last frame holds small records and may grow.
    open: bool,
    bytes: usize,
    limit: usize,
    overflowing: bool,
    /// The socket took no more; nothing is handed out until it does.
    pub(super) blocked: bool,
    /// Stands in the list of those that have frames to hand out.
    pub(super) listed: bool,
}

impl Outgoing {
    /// A queue whose records are stamped with a generation and numbered from 1.
    pub(super) fn new(
        node: NodeId,
        generation: Generation,
        packing: Packing,
        limit: usize,
    ) -> Outgoing {
        Outgoing {
            node,
            generation,
            sequence: 0,
            packing,
            frames: VecDeque::new(),
            open: false,
            bytes: 0,
            limit,
            overflowing: false,
            blocked: false,
            listed: false,
        }
    }

    /// Goes on as the queue of a session: what waits stays, what comes is stamped anew.
    pub(super) fn begin_session(&mut self, generation: Generation, packing: Packing, limit: usize) {
        self.generation = generation;
        self.sequence = 0;
        self.packing = packing;
        self.limit = limit;
    }

    pub(super) fn generation(&self) -> Generation {
        self.generation
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Stamps and queues a record. A queue that is empty takes any record, so that the largest one
    /// is never refused for ever.
    pub(super) fn push(&mut self, mut record: Vec<u8>) -> Queued {
        let length = record.len();
        if !self.frames.is_empty() && self.bytes.saturating_add(length) > self.limit {
            let began = !std::mem::replace(&mut self.overflowing, true);
            return if began { Queued::BeganOverflowing } else { Queued::Overflowing };
        }
        // Without a generation (answers to strangers) nothing is counted.
        if self.generation.0 != 0 {
            self.sequence += 1;
        }
        record::stamp(&mut record, self.node, self.generation.0, self.sequence);
        self.bytes += length;
        let small = self.packing == Packing::Packed && length < OWN_FRAME_BYTES;
        if small
            && self.open
            && let Some(open) = self.frames.back_mut()
            && open.len() + length <= limits::PACKED_FRAME_BYTES
        {
            open.extend_from_slice(&record);
        } else {
            self.frames.push_back(record);
            self.open = small;
        }
        Queued::Yes
    }

    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.len();
        if self.bytes <= self.limit / 2 {
            self.overflowing = false;
        }
        Some(frame)
    }

    /// Takes back a frame that could not be sent; it is the next one again.
    pub(super) fn put_back(&mut self, frame: Vec<u8>) {
        self.bytes += frame.len();
        self.frames.push_front(frame);
    }

    /// Drops everything that waits; returns how many frames that were.
    pub(super) fn clear(&mut self) -> usize {
        let dropped = self.frames.len();
        self.frames.clear();
        self.bytes = 0;
        self.overflowing = false;
        dropped
    }

    pub(super) fn check_invariants(&self) {
        let bytes: usize = self.frames.iter().map(Vec::len).sum();
        assert_eq!(self.bytes, bytes, "bytes of the queued frames");
        assert!(self.frames.iter().all(|frame| !frame.is_empty()), "an empty frame is queued");
    }
}

#[cfg(test)]
mod tests {
    use proto::messages::file::{FileRequest, FileResponse};
    use proto::messages::session::Ping;
    use proto::record::{Records, encode};

    use super::*;

    fn queue(packing: Packing, limit: usize) -> Outgoing {
        Outgoing::new(NodeId(7), Generation(3), packing, limit)
    }

    fn ping() -> Vec<u8> {
        encode(&Ping::default(), &[])
    }

    fn sequences(frame: &[u8]) -> Vec<u64> {
        Records::of(frame).map(|record| record.unwrap().envelope().sequence).collect()
    }

    #[test]
    fn small_records_share_a_frame_in_order_and_large_ones_are_not_moved() {
        let mut queue = queue(Packing::Packed, usize::MAX);
        let content = vec![1; OWN_FRAME_BYTES];
        let large = encode(&FileResponse::default(), &[&content]);
        let address = large.as_ptr();
        for record in [ping(), ping(), large, ping()] {
            assert_eq!(queue.push(record), Queued::Yes);
        }
        queue.check_invariants();
        assert_eq!(sequences(&queue.pop().unwrap()), [1, 2]);
        let large = queue.pop().unwrap();
        assert_eq!(large.as_ptr(), address);
        assert_eq!(sequences(&large), [3]);
        assert_eq!(sequences(&queue.pop().unwrap()), [4]);
        assert!(queue.is_empty());
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn a_frame_is_closed_at_its_limit() {
        let mut queue = queue(Packing::Packed, usize::MAX);
        let count = 3 * limits::PACKED_FRAME_BYTES / ping().len();
        for _ in 0..count {
            queue.push(ping());
        }
        let mut seen = Vec::new();
        while let Some(frame) = queue.pop() {
            assert!(frame.len() <= limits::PACKED_FRAME_BYTES);
            seen.extend(sequences(&frame));
        }
        assert_eq!(seen, (1..=count as u64).collect::<Vec<_>>());
    }

    #[test]
    fn a_foreign_client_gets_a_frame_for_each_record() {
        let mut queue = queue(Packing::Single, usize::MAX);
        queue.push(ping());
        queue.push(encode(&FileRequest::default(), &[]));
        assert_eq!(sequences(&queue.pop().unwrap()), [1]);
        assert_eq!(sequences(&queue.pop().unwrap()), [2]);
    }

    #[test]
    fn overflow_is_told_once_until_the_queue_has_room() {
        let mut queue = queue(Packing::Single, 2 * ping().len());
        assert_eq!(queue.push(ping()), Queued::Yes);
        assert_eq!(queue.push(ping()), Queued::Yes);
        assert_eq!(queue.push(ping()), Queued::BeganOverflowing);
        assert_eq!(queue.push(ping()), Queued::Overflowing);
        queue.pop();
        assert_eq!(queue.push(ping()), Queued::Yes);
        assert_eq!(queue.push(ping()), Queued::BeganOverflowing);
        // A dropped record takes no number: only what was lost after it left is a gap.
        queue.pop();
        assert_eq!(sequences(&queue.pop().unwrap()), [3]);
    }

    #[test]
    fn an_empty_queue_takes_a_record_above_its_limit() {
        let mut queue = queue(Packing::Packed, 10);
        assert_eq!(queue.push(ping()), Queued::Yes);
        assert_eq!(queue.push(ping()), Queued::BeganOverflowing);
    }

    #[test]
    fn a_frame_that_was_put_back_is_the_next_one() {
        let mut queue = queue(Packing::Single, usize::MAX);
        queue.push(ping());
        queue.push(ping());
        let frame = queue.pop().unwrap();
        queue.put_back(frame);
        queue.check_invariants();
        assert_eq!(sequences(&queue.pop().unwrap()), [1]);
        assert_eq!(sequences(&queue.pop().unwrap()), [2]);
    }
}
