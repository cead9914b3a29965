//! Registers: their tags, the parts that they are divided into, and which nodes keep a part.
//!
//! Pure, and the same in client, worker, storage and masters. The protocol is Attiya, Bar-Noy and
//! Dolev's ("Sharing memory robustly in message-passing systems", 1995) with several writers.

use crate::ids::NodeId;
use crate::limits;
use crate::ring::{Partition, Ring};

/// Replicas of a register; all storage nodes where there are fewer. Odd, because a majority of four
/// bears no more than one of three.
pub const REGISTER_REPLICAS: usize = 3;

/// What orders the writes of a register. The default is the tag of one that was never written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag {
    /// One more than the highest that the writer saw.
    pub sequence: u64,
    /// The writer: new at each of its starts.
    pub writer: u128,
    /// Number of the write at this writer.
    pub operation: u64,
}

/// One of the parts of the registers, which moves as a whole when the ring changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Part(pub u32);

/// Number of parts: [`limits::REGISTER_PARTITIONS`], or the ring's partitions where those are fewer.
#[must_use]
pub fn part_count(ring: &Ring) -> u32 {
    u32::try_from(ring.partition_count()).unwrap_or(u32::MAX).min(limits::REGISTER_PARTITIONS)
}

/// The part of a register, the same on every ring with this number of parts. Addresses that follow
/// each other lie in different parts (the finalizer of SplitMix64 spreads them).
#[must_use]
pub fn part_of(address: u64, part_count: u32) -> Part {
    let mut mixed = address;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    let part = (u128::from(mixed) * u128::from(part_count)) >> 64;
    Part(part as u32)
}

/// The nodes that keep a part under a version of the ring, in order.
#[must_use]
pub fn replicas(ring: &Ring, part: Part) -> Vec<NodeId> {
    let step = ring.partition_count() / u64::from(part_count(ring));
    let first = u64::from(part.0) * step;
    ring.nodes(Partition(u32::try_from(first).unwrap_or(u32::MAX)), REGISTER_REPLICAS)
}

/// How many of these replicas are a majority.
#[must_use]
pub fn majority(replica_count: usize) -> usize {
    replica_count / 2 + 1
}

#[cfg(test)]
mod tests {
    use crate::ids::{RingVersion, StoreId};
    use crate::ring::Member;

    use super::*;

    fn ring(partition_count: u64, node_count: u128) -> Ring {
        let member = |n| Member { node: NodeId(n), store: StoreId(n), weight: 1, zone: 0 };
        let members = (1..=node_count).map(member).collect();
        Ring::new(RingVersion(1), partition_count, members).expect("a ring")
    }

    #[test]
    fn every_part_has_registers_and_replicas() {
        let ring = ring(1 << 16, 5);
        let count = part_count(&ring);
        let mut registers = vec![0u32; count as usize];
        for address in 0..25_600 {
            registers[part_of(address, count).0 as usize] += 1;
        }
        assert!(registers.iter().all(|&of_part| (50..200).contains(&of_part)), "{registers:?}");
        for part in 0..count {
            let nodes = replicas(&ring, Part(part));
            assert_eq!((nodes.len(), majority(nodes.len())), (REGISTER_REPLICAS, 2));
        }
    }

    #[test]
    fn few_partitions_and_few_nodes_are_enough() {
        let ring = ring(1, 2);
        assert_eq!(part_count(&ring), 1);
        assert_eq!(part_of(u64::MAX, 1), Part(0));
        assert_eq!(replicas(&ring, Part(0)).len(), 2);
    }
}
