//! How much work is taken on: bounded in number and bytes, for each peer and in all.
//!
//! What exceeds a bound is refused with a delay, and nothing is queued for it, so that a flood of
//! requests costs its sender time and this node no memory.

use std::collections::BTreeMap;

use node::logic::network::Peer;
use proto::limits;
use proto::time::Duration;

/// Bounds of one kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Requests of one peer.
    pub peer_count: usize,
    /// Bytes of one peer's requests.
    pub peer_bytes: usize,
    /// Requests of all peers.
    pub count: usize,
    /// Bytes of all requests.
    pub bytes: usize,
}

/// Bounds of a storage node's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageLimits {
    /// Blocks that are being stored.
    pub puts: Bounds,
    /// Blocks that are being read, and questions which of them are there.
    pub reads: Bounds,
    /// Whole files that are being gathered, each counted as 32 MiB.
    pub files: Bounds,
    /// How fast it looks after what it holds.
    pub upkeep: Upkeep,
}

impl Default for StorageLimits {
    fn default() -> StorageLimits {
        const BLOCK: usize = limits::BLOCK_BYTES;
        StorageLimits {
            // A peer fills the disk's pipe alone; four of them wait for it together.
            puts: Bounds {
                peer_count: 1024,
                peer_bytes: 8 * BLOCK,
                count: 4096,
                bytes: 32 * BLOCK,
            },
            // The bytes of a read are known only when it is done: its count bounds it.
            reads: Bounds { peer_count: 64, peer_bytes: 0, count: 256, bytes: 0 },
            files: Bounds {
                peer_count: 2,
                peer_bytes: 2 * limits::WHOLE_FILE_BYTES,
                count: 8,
                bytes: 8 * limits::WHOLE_FILE_BYTES,
            },
            upkeep: Upkeep::default(),
        }
    }
}

/// How fast a node looks after what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upkeep {
    /// Bytes of blocks that it sends to other nodes in a second; 0 for as fast as it goes.
    pub move_bytes_per_s: u64,
    /// Time from the end of a pass to the next where nothing asks for one.
    pub pass_period: Duration,
    /// Time in which the digest of every block is checked once.
    pub scrub_period: Duration,
    /// Blocks that a pass waits for at the same time; at least 2048.
    pub pass_blocks: usize,
}

impl Default for Upkeep {
    fn default() -> Upkeep {
        Upkeep {
            move_bytes_per_s: 200 << 20,
            pass_period: Duration::from_secs(600),
            scrub_period: Duration::from_secs(7 * 24 * 3600),
            // Below 10 MB.
            pass_blocks: 1 << 16,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    count: usize,
    bytes: usize,
}

/// The work of one kind that is going on.
#[derive(Debug)]
pub(super) struct Admission {
    bounds: Bounds,
    all: Load,
    peers: BTreeMap<Peer, Load>,
}

impl Admission {
    pub(super) fn new(bounds: Bounds) -> Admission {
        Admission { bounds, all: Load::default(), peers: BTreeMap::new() }
    }

    /// Takes on a request of `bytes`, or says no. A peer with nothing in flight is refused only
    /// where the whole node is full, however large its request.
    pub(super) fn admit(&mut self, peer: Peer, bytes: usize) -> bool {
        let own = self.peers.get(&peer).copied().unwrap_or_default();
        let is_own_full = own.count > 0
            && (own.count >= self.bounds.peer_count
                || own.bytes.saturating_add(bytes) > self.bounds.peer_bytes);
        let is_full = self.all.count > 0
            && (self.all.count >= self.bounds.count
                || self.all.bytes.saturating_add(bytes) > self.bounds.bytes);
        if is_own_full || is_full {
            return false;
        }
        let own = self.peers.entry(peer).or_default();
        for load in [own, &mut self.all] {
            load.count += 1;
            load.bytes += bytes;
        }
        true
    }

    /// The request is done.
    pub(super) fn release(&mut self, peer: Peer, bytes: usize) {
        let own = self.peers.get_mut(&peer).expect("what is released was admitted");
        own.count -= 1;
        own.bytes -= bytes;
        if own.count == 0 {
            self.peers.remove(&peer);
        }
        self.all.count -= 1;
        self.all.bytes -= bytes;
    }

    /// Requests that are going on.
    pub(super) fn count(&self) -> usize {
        self.all.count
    }

    pub(super) fn check_invariants(&self) {
        let mut sum = Load::default();
        for load in self.peers.values() {
            assert!(load.count > 0, "a peer without requests is kept");
            sum.count += load.count;
            sum.bytes += load.bytes;
        }
        assert_eq!(sum, self.all, "the peers' loads add up");
        assert!(self.all.count <= self.bounds.count.max(1), "more requests than the bound");
    }
}

#[cfg(test)]
mod tests {
    use node::logic::network::Link;

    use super::*;

    fn peer(number: u32) -> Peer {
        Peer::Link(Link(number))
    }

    #[test]
    fn each_bound_refuses_and_releasing_makes_room() {
        let bounds = Bounds { peer_count: 2, peer_bytes: 100, count: 3, bytes: 150 };
        let mut admission = Admission::new(bounds);
        assert!(admission.admit(peer(1), 60));
        assert!(!admission.admit(peer(1), 60), "the peer's bytes");
        assert!(admission.admit(peer(1), 10));
        assert!(!admission.admit(peer(1), 1), "the peer's requests");
        assert!(!admission.admit(peer(2), 100), "the bytes of all");
        assert!(admission.admit(peer(2), 10));
        assert!(!admission.admit(peer(3), 1), "the requests of all");
        admission.check_invariants();
        admission.release(peer(1), 60);
        assert!(admission.admit(peer(3), 90));
        admission.check_invariants();
        for (number, bytes) in [(1, 10), (2, 10), (3, 90)] {
            admission.release(peer(number), bytes);
        }
        assert_eq!(admission.count(), 0);
        assert!(admission.admit(peer(4), 1_000), "a single request is never too large");
        admission.check_invariants();
    }
}
