//! Placement: balance, movement, zones, weights, and values that never change.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

mod large;

/// A UUID that looks random, so that no test leans on neighbouring numbers.
fn node(number: u64) -> NodeId {
    let digest =
        crate::digest::Digest::of(crate::status::BlockKind::Content, &number.to_le_bytes());
    NodeId(digest.to_uuid())
}

fn member(number: u64, weight: u32, zone: u32) -> Member {
    Member { node: node(number), store: StoreId(number.into()), weight, zone }
}

/// As many members of weight 1,000 as told, spread over so many zones.
fn ring(members: u64, zones: u64, partitions: u64) -> Ring {
    let members = (0..members).map(|n| member(n, 1000, (n % zones) as u32)).collect();
    Ring::new(RingVersion(1), partitions, members).unwrap()
}

fn all(ring: &Ring, replicas: usize) -> Vec<Vec<NodeId>> {
    (0..ring.partition_count() as u32).map(|at| ring.nodes(Partition(at), replicas)).collect()
}

fn shares(placements: &[Vec<NodeId>]) -> BTreeMap<NodeId, usize> {
    let mut shares = BTreeMap::new();
    placements.iter().flatten().for_each(|node| *shares.entry(*node).or_default() += 1);
    shares
}

fn moved(before: &[Vec<NodeId>], after: &[Vec<NodeId>]) -> usize {
    let pairs = before.iter().zip(after);
    pairs.map(|(before, after)| after.iter().filter(|node| !before.contains(node)).count()).sum()
}

#[test]
fn a_hundred_nodes_are_in_balance() {
    let placements = all(&ring(100, 100, PARTITION_COUNT), 2);
    let shares = shares(&placements);
    let mean = placements.len() as f64 * 2.0 / 100.0;
    let max = *shares.values().max().unwrap() as f64 / mean;
    let min = *shares.values().min().unwrap() as f64 / mean;
    println!("100 nodes, 2^16 partitions, 2 replicas: max/mean {max:.3}, min/mean {min:.3}");
    assert_eq!(shares.len(), 100);
    assert!(max <= 1.1 && min >= 0.9, "max/mean {max}, min/mean {min}");
}

#[test]
fn joining_and_leaving_move_what_they_must() {
    let partitions = 1 << 14;
    for (zones, replicas) in [(1, 2), (3, 2), (3, 3), (50, 3)] {
        let small = all(&ring(49, zones, partitions), replicas);
        let large = all(&ring(50, zones, partitions), replicas);
        let joined = moved(&small, &large);
        let left = moved(&large, &small);
        let share = shares(&large)[&node(49)];
        println!("{zones} zones, {replicas} replicas: joining moves {joined}, leaving {left}");
        // Nothing moves but what the new member owns: no less would do.
        assert_eq!((joined, left), (share, share));
        let ideal = partitions as f64 * replicas as f64 / 50.0;
        assert!((joined as f64) < ideal * 1.1, "{joined} moved where {ideal} are the minimum");
    }
}

#[test]
fn zones_are_distinct_as_long_as_there_are_any() {
    for (zones, replicas) in [(2, 3), (3, 3), (5, 3), (4, 6)] {
        let ring = ring(20, zones, 1 << 10);
        let zone_of: BTreeMap<NodeId, u32> =
            ring.members().iter().map(|member| (member.node, member.zone)).collect();
        for placement in all(&ring, replicas) {
            let distinct: BTreeSet<NodeId> = placement.iter().copied().collect();
            assert_eq!(distinct.len(), replicas);
            let first = &placement[..replicas.min(zones as usize)];
            let first: BTreeSet<u32> = first.iter().map(|node| zone_of[node]).collect();
            assert_eq!(first.len(), replicas.min(zones as usize), "{placement:?}");
        }
    }
}

#[test]
fn shares_go_by_weight() {
    let weights = [1, 2, 4, 8, 0];
    let members = weights.iter().zip(0..).map(|(weight, n)| member(n, *weight, 0)).collect();
    let ring = Ring::new(RingVersion(1), 1 << 15, members).unwrap();
    let shares = shares(&all(&ring, 1));
    for (weight, n) in weights.iter().zip(0..) {
        let share = shares.get(&node(n)).copied().unwrap_or(0) as f64 / f64::from(1 << 15);
        let ideal = f64::from(*weight) / 15.0;
        assert!((share - ideal).abs() <= ideal * 0.05, "weight {weight}: {share}, not {ideal}");
    }
    let weights = [u32::MAX, u32::MAX, u32::MAX / 2];
    let members = weights.iter().zip(0..).map(|(weight, n)| member(n, *weight, 0)).collect();
    let ring = Ring::new(RingVersion(1), 1 << 13, members).unwrap();
    let half = self::shares(&all(&ring, 1))[&node(2)] as f64 / f64::from(1 << 13);
    assert!((half - 0.2).abs() < 0.02, "{half}");
}

#[test]
fn placement_never_changes() {
    let members = (0..7).map(|n| member(n, 100 + 50 * n as u32, n as u32 % 3)).collect();
    let ring = Ring::new(RingVersion(3), PARTITION_COUNT, members).unwrap();
    let numbers: BTreeMap<NodeId, u64> = (0..7).map(|n| (node(n), n)).collect();
    let golden = [0, 1, 2, 255, 4096, 65_535].map(|partition| {
        let nodes = ring.nodes(Partition(partition), 5);
        nodes.iter().map(|node| numbers[node].to_string()).collect::<String>()
    });
    assert_eq!(golden, ["45632", "34562", "56401", "34561", "46531", "54621"]);
}

#[test]
fn a_blocks_first_bits_are_its_partition() {
    let block = BlockId(0x1234_5678_9abc_8def_8000_0000_0000_0000);
    for (partitions, partition) in [(1, 0), (2, 0), (16, 1), (1 << 16, 0x1234), (1 << 20, 0x12345)]
    {
        let ring = ring(3, 3, partitions);
        assert_eq!(ring.partition_of(block), Partition(partition));
        assert_eq!(ring.owners(block, 2), ring.nodes(Partition(partition), 2));
    }
}

#[test]
fn candidates_stand_behind_the_owners() {
    let large = ring(6, 6, 16);
    let placement = large.placement(Partition(5), 3);
    assert_eq!([placement.owners, placement.candidates].concat(), large.nodes(Partition(5), 5));
    let small = ring(3, 3, 16).placement(Partition(5), 2);
    assert_eq!((small.owners.len(), small.candidates.len()), (2, 1));
    let alone = ring(1, 1, 16).placement(Partition(5), usize::MAX);
    assert_eq!((alone.owners.len(), alone.candidates.len()), (1, 0));
    let none = Ring::new(RingVersion(0), 16, vec![]).unwrap().placement(Partition(5), 2);
    assert_eq!((none.owners.len(), none.candidates.len()), (0, 0));
}

#[test]
fn what_is_no_ring_is_refused() {
    let twice = vec![member(1, 1, 1), member(1, 2, 2)];
    let refused = Ring::new(RingVersion(1), 16, twice);
    assert_eq!(refused, Err(RingError::Order { node: node(1) }));
    for count in [0, 3, PARTITION_COUNT_MAX * 2] {
        let refused = Ring::new(RingVersion(1), count, vec![]);
        assert_eq!(refused, Err(RingError::PartitionCount { count }));
    }
    let count = limits::RING_MEMBERS + 1;
    let many = (0..count as u64).map(|n| member(n, 1, 0)).collect();
    let refused = Ring::new(RingVersion(1), 16, many);
    assert_eq!(refused, Err(RingError::TooManyMembers { count }));
}

proptest! {
    #[test]
    fn rings_are_read_as_they_were_written(
        version: u64,
        bits in 0..=24u32,
        members in prop::collection::btree_map(any::<u128>(), any::<(u128, u32, u32)>(), 0..20),
    ) {
        let members = members.into_iter().map(|(node, (store, weight, zone))| Member {
            node: NodeId(node), store: StoreId(store), weight, zone,
        });
        let ring = Ring::new(RingVersion(version), 1 << bits, members.collect()).unwrap();
        prop_assert_eq!(Ring::decode(&ring.encode()), Ok(ring));
    }

    #[test]
    fn what_is_accepted_has_one_encoding(
        members in 0..5u64,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = ring(members, 2, 64).encode();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(bytes.len() - cut.index(bytes.len()) / 8);
        if let Ok(read) = Ring::decode(&bytes) {
            prop_assert_eq!(read.encode(), bytes);
        }
    }
}
