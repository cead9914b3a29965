//! What other nodes offer to this one: what it has it confirms, what it lacks it wants from one of
//! them.

use std::collections::BTreeMap;

use proto::ids::{BlockId, NodeId, RingVersion};
use proto::limits;
use proto::messages::file::{BlockOffer, BlockOffered, OfferedBlock};
use proto::record::{self, Record};
use proto::status::OfferState;
use proto::time::{Duration, Instant};
use proto::wire::items_of;

use super::{Asker, Effect, Pending, Storage, envelope};
use crate::disk::Touch;

/// How long a node may take to send what was wanted of it, before it is wanted of another.
const EXPECTATION: Duration = Duration::from_millis(10_000);

/// Blocks that are expected at the same time.
const EXPECTATIONS: usize = 1 << 16;

/// After the disk was full, nothing is wanted for as long.
const FULL_PAUSE: Duration = Duration::from_millis(5_000);

/// Blocks that other nodes are about to send.
#[derive(Debug, Default)]
pub(super) struct Expectations {
    by_block: BTreeMap<BlockId, (NodeId, Instant)>,
    full_until: Instant,
}

impl Expectations {
    /// What to answer to the offer of a block that is not here.
    fn answer(&mut self, now: Instant, from: NodeId, block: BlockId) -> OfferState {
        if now < self.full_until {
            return OfferState::Refused;
        }
        match self.by_block.get(&block) {
            Some(&(node, until)) if node != from && now < until => return OfferState::Expected,
            _ => {}
        }
        if self.by_block.len() >= EXPECTATIONS {
            self.by_block.retain(|_, (_, until)| now < *until);
            if self.by_block.len() >= EXPECTATIONS {
                return OfferState::Expected;
            }
        }
        self.by_block.insert(block, (from, now + EXPECTATION));
        OfferState::Wanted
    }

    /// The block is here, or it turned out that it cannot be.
    pub(super) fn settle(&mut self, block: BlockId) {
        self.by_block.remove(&block);
    }

    /// The disk has no room.
    pub(super) fn full(&mut self, now: Instant) {
        self.full_until = now + FULL_PAUSE;
    }

    /// Another version of the ring: others will send.
    pub(super) fn clear(&mut self) {
        self.by_block.clear();
    }

    pub(super) fn check_invariants(&self) {
        assert!(self.by_block.len() <= EXPECTATIONS, "more blocks expected than the bound");
    }
}

impl Storage {
    pub(super) fn block_offer(
        &mut self,
        now: Instant,
        asker: Asker,
        record: &Record<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let (offer, [blocks]) = match record.open::<BlockOffer, 1>() {
            Ok(opened) => opened,
            Err(error) => return self.malformed(asker, &error, effects),
        };
        let version = RingVersion(offer.ring_version);
        if !self.takes_blocks(now, asker, version, effects) {
            return;
        }
        let blocks = items_of::<OfferedBlock>(blocks).unwrap_or_default();
        if blocks.len() > limits::BLOCKS_PER_QUERY {
            return self.too_many_blocks(asker, effects);
        }
        if !self.reads.admit(asker.peer, 0) {
            return self.busy(asker, "as many blocks as the disk is asked for at once", effects);
        }
        let items: Vec<Touch> = blocks.iter().map(|item| self.touch(item)).collect();
        for item in &items {
            self.raised(now, *item, effects);
        }
        let blocks = items.iter().map(|item| (item.block, item.replica_count)).collect();
        let ticket = self.works.begin(Pending::Offer { asker, version, blocks });
        effects.push(Effect::Touch { ticket, items });
    }

    fn touch(&self, item: &OfferedBlock) -> Touch {
        Touch {
            block: BlockId::from(item.block_uuid),
            stamp: item.stamp,
            replica_count: self.wanted_replicas(item.replica_count),
        }
    }

    /// Offered blocks that are here are durable with what they were raised to.
    pub(super) fn offer_touched(
        &mut self,
        now: Instant,
        (asker, version): (Asker, RingVersion),
        blocks: &[(BlockId, u8)],
        present: &[bool],
        effects: &mut Vec<Effect>,
    ) {
        self.reads.release(asker.peer, 0);
        // A confirmation counts only between two nodes at the same version, at its end as well.
        if !self.takes_blocks(now, asker, version, effects) {
            return;
        }
        let own = self.membership.node();
        let Some(rings) = self.membership.rings() else { return };
        let mut states = Vec::with_capacity(blocks.len());
        for (at, &(block, replica_count)) in blocks.iter().enumerate() {
            let state = if !rings.owners(block, replica_count).contains(&own) {
                // It would only be sent on.
                OfferState::Refused
            } else if present.get(at).copied().unwrap_or(false) {
                OfferState::Durable
            } else {
                self.expectations.answer(now, asker.node, block)
            };
            states.push(state.to_wire());
        }
        let offered = BlockOffered {
            envelope: envelope(asker),
            ring_version: version.0,
            ..BlockOffered::default()
        };
        self.send(asker, record::encode(&offered, &[&states]), effects);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_wanted_of_one_node_until_that_one_takes_too_long() {
        let mut expectations = Expectations::default();
        let (now, block) = (Instant(1), BlockId(7));
        let later = now + EXPECTATION;
        assert_eq!(expectations.answer(now, NodeId(1), block), OfferState::Wanted);
        assert_eq!(expectations.answer(now, NodeId(2), block), OfferState::Expected);
        // Its first answer was lost.
        assert_eq!(expectations.answer(now, NodeId(1), block), OfferState::Wanted);
        assert_eq!(expectations.answer(later, NodeId(2), block), OfferState::Wanted);
        assert_eq!(expectations.answer(later, NodeId(1), block), OfferState::Expected);
        expectations.settle(block);
        assert_eq!(expectations.answer(later, NodeId(1), block), OfferState::Wanted);
    }

    #[test]
    fn a_full_disk_wants_nothing_for_a_while() {
        let mut expectations = Expectations::default();
        expectations.full(Instant(5));
        assert_eq!(expectations.answer(Instant(6), NodeId(1), BlockId(7)), OfferState::Refused);
        let later = Instant(5) + FULL_PAUSE;
        assert_eq!(expectations.answer(later, NodeId(1), BlockId(7)), OfferState::Wanted);
    }
}
