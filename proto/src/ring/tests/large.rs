//! Placement at size: 100 and 1,000 nodes of equal weight in one zone, with 10^8 blocks by
//! sampling. The figures of `docs/performance.md` are what these print.

use super::*;

const BLOCKS: f64 = 1e8;

/// Even numbers between 0 and 1, the same in each run (splitmix64).
struct Even(u64);

impl Even {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((word ^ (word >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// How many of the blocks a partition gets: the sum of twelve even numbers stands for the
    /// normal law that a binomial one with so many trials is.
    fn blocks_of(&mut self, partitions: u64) -> f64 {
        let mean = BLOCKS / partitions as f64;
        let normal: f64 = (0..12).map(|_| self.next()).sum::<f64>() - 6.0;
        (mean + normal * mean.sqrt()).max(0.0)
    }
}

/// Blocks of the fullest and of the emptiest node, in parts of the mean.
fn spread(placements: &[Vec<NodeId>], members: u64) -> (f64, f64) {
    let mut even = Even(1);
    let mut blocks: BTreeMap<NodeId, f64> = BTreeMap::new();
    let mut total = 0.0;
    for nodes in placements {
        let count = even.blocks_of(placements.len() as u64);
        for node in nodes {
            *blocks.entry(*node).or_default() += count;
            total += count;
        }
    }
    assert_eq!(blocks.len() as u64, members);
    let mean = total / members as f64;
    let of_mean = |blocks: f64| blocks / mean;
    let max = blocks.values().copied().fold(0.0, f64::max);
    let min = blocks.values().copied().fold(f64::MAX, f64::min);
    (of_mean(max), of_mean(min))
}

fn print_spread(members: u64, partitions: u64, spread: (f64, f64)) {
    println!(
        "{members} nodes, 2^{} partitions: max/mean {:.3}, min/mean {:.3}",
        partitions.trailing_zeros(),
        spread.0,
        spread.1
    );
}

/// What moves, as a part of what must at least.
fn moved_of_minimum(few: &[Vec<NodeId>], many: &[Vec<NodeId>], joined: NodeId) -> (f64, f64) {
    let held = many.iter().filter(|nodes| nodes.contains(&joined)).count();
    // What a join must move is the share of the new one; a death what the dead one held.
    (moved(few, many) as f64 / held as f64, moved(many, few) as f64 / held as f64)
}

#[test]
fn a_hundred_nodes_share_many_blocks_evenly_and_move_what_they_must() {
    let before = all(&ring(100, 1, PARTITION_COUNT), 2);
    let spread = spread(&before, 100);
    print_spread(100, PARTITION_COUNT, spread);
    assert!(spread.0 <= 1.1, "max/mean {}", spread.0);
    let after = all(&ring(101, 1, PARTITION_COUNT), 2);
    let (join, death) = moved_of_minimum(&before, &after, node(100));
    let even = after.iter().filter(|nodes| nodes.contains(&node(100))).count() as f64;
    let even = even / (after.len() as f64 * 2.0 / 101.0);
    println!("a join moves {join:.3}, a death {death:.3} of the minimum; share {even:.3} of even");
    assert!((1.0..=1.1).contains(&join) && (1.0..=1.1).contains(&death), "{join} {death}");
    assert!((0.9..=1.1).contains(&even), "{even}");
}

#[test]
fn a_thousand_nodes_share_many_blocks_and_move_what_they_must() {
    let before = all(&ring(1000, 1, PARTITION_COUNT), 2);
    let spread = spread(&before, 1000);
    print_spread(1000, PARTITION_COUNT, spread);
    // With 131 places on average the fullest of 1,000 nodes has a third more.
    assert!(spread.0 <= 1.4, "max/mean {}", spread.0);
    let after = all(&ring(1001, 1, PARTITION_COUNT), 2);
    let (join, death) = moved_of_minimum(&before, &after, node(1000));
    println!("a join moves {join:.3}, a death {death:.3} of the minimum");
    assert!((1.0..=1.1).contains(&join) && (1.0..=1.1).contains(&death), "{join} {death}");
    let ring = ring(1000, 1, PARTITION_COUNT);
    println!(
        "a ring of 1,000 nodes: {} bytes in memory, {} encoded; owners and candidates of all \
         partitions as numbers of two bytes: {} bytes",
        size_of_val(ring.members()),
        ring.encode().len(),
        PARTITION_COUNT as usize * (2 + CANDIDATE_COUNT) * size_of::<u16>(),
    );
}

/// Takes a minute. Its time by 2^20 is what one lookup without a table costs.
#[test]
#[ignore = "a billion draws; run it for the figures of docs/performance.md"]
fn a_thousand_nodes_with_a_million_partitions() {
    let partitions = 1 << 20;
    let placements = all(&ring(1000, 1, partitions), 2);
    let spread = spread(&placements, 1000);
    print_spread(1000, partitions, spread);
    assert!(spread.0 <= 1.1, "max/mean {}", spread.0);
}
