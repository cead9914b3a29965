//! What a client knows of the ring: the newest version that the masters told, and when it has to
//! be fetched again.
//!
//! Deliberately does not ask: whoever owns it does, because a worker asks the masters over links
//! that it has anyway.

use proto::ids::{BlockId, NodeId, RingVersion};
use proto::ring::{CANDIDATE_COUNT, Placement};
use proto::time::{Duration, Instant};

use super::rings::RingAnswer;

/// Shortest time to the fetch after one that brought nothing new: a node that refuses may know a
/// version that the asked master has not applied yet.
const FETCH_INTERVAL: Duration = Duration::from_millis(100);

/// Shortest time between two looks for a newer version that nobody's refusal asked for.
const REFRESH_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fetch {
    /// What is known is good enough.
    No,
    /// To be asked as soon as the interval allows.
    Wanted,
    /// Asked; the answer is on its way.
    Asked,
}

/// The ring as a client knows it.
#[derive(Clone, Debug)]
pub struct RingView {
    known: Option<RingAnswer>,
    /// A node refused what is known.
    is_refused: bool,
    fetch: Fetch,
    last_fetch: Instant,
    was_fruitless: bool,
}

impl Default for RingView {
    fn default() -> RingView {
        RingView::new()
    }
}

impl RingView {
    /// A view that knows nothing yet.
    #[must_use]
    pub fn new() -> RingView {
        RingView {
            known: None,
            is_refused: false,
            fetch: Fetch::No,
            last_fetch: Instant::default(),
            was_fruitless: false,
        }
    }

    /// What is known, while it may be gone by: `None` before the first answer and while a newer
    /// one is awaited.
    #[must_use]
    pub fn usable(&self) -> Option<&RingAnswer> {
        self.known.as_ref().filter(|_| !self.is_refused)
    }

    /// What is known, also where blocks do not go by it any more.
    #[must_use]
    pub fn known(&self) -> Option<&RingAnswer> {
        self.known.as_ref()
    }

    /// Version of what is known; 0 where nothing is.
    #[must_use]
    pub fn version(&self) -> RingVersion {
        self.known.as_ref().map_or(RingVersion(0), |known| known.ring.version())
    }

    /// Where a node is reached; `None` where no version of the ring has it.
    #[must_use]
    pub fn address(&self, node: NodeId) -> Option<&str> {
        let address = self.known.as_ref()?.addresses.get(&node)?;
        (!address.is_empty()).then_some(address.as_str())
    }

    /// Owners and candidates of a block by the newest version, and how many replicas it gets;
    /// `None` while there is no usable ring. `wanted` is how many it is to have: 0 for the
    /// cluster's default, else as many as that or as there are nodes.
    #[must_use]
    pub fn placement(&self, block: BlockId, wanted: u8) -> Option<(Placement, usize)> {
        let known = self.usable()?;
        let replicas = match wanted {
            0 => known.replica_count.max(1),
            wanted => {
                let members = known.ring.members().iter();
                usize::from(wanted).min(members.filter(|it| it.weight > 0).count()).max(1)
            }
        };
        let partition = known.ring.partition_of(block);
        Some((known.ring.placement(partition, replicas), replicas))
    }

    /// Where a block may lie, and how many of the first of these nodes own it by the newest
    /// version; `None` while there is no usable ring.
    ///
    /// Behind the owners stand the candidates, and then owners and candidates of the versions that
    /// are not drained: what took a dead owner's place under one of these may be there alone.
    #[must_use]
    pub fn places(&self, block: BlockId) -> Option<(Vec<NodeId>, usize)> {
        let (newest, replicas) = self.placement(block, 0)?;
        let owner_count = newest.owners.len();
        let mut nodes = [newest.owners, newest.candidates].concat();
        let older = self.usable()?.older.iter().filter(|older| older.holds_blocks);
        for ring in older.map(|older| &older.ring) {
            for node in ring.owners(block, replicas + CANDIDATE_COUNT) {
                if !nodes.contains(&node) {
                    nodes.push(node);
                }
            }
        }
        Some((nodes, owner_count))
    }

    /// Says that a ring is needed and that none newer than `refused` is known.
    pub fn want_newer_than(&mut self, refused: RingVersion) {
        if self.version() <= refused {
            self.is_refused = true;
            if self.fetch == Fetch::No {
                self.fetch = Fetch::Wanted;
            }
        }
    }

    /// Says that nodes do not answer, so that the ring may have changed; what is known stays
    /// usable meanwhile.
    pub fn want_refresh(&mut self, now: Instant) {
        if self.fetch == Fetch::No && now >= self.last_fetch + REFRESH_INTERVAL {
            self.fetch = Fetch::Wanted;
        }
    }

    /// Says that the masters are to be asked again: a part of the registers goes by another version
    /// than what is known says, which may change without a newer version of the ring.
    pub fn want_again(&mut self) {
        if self.fetch == Fetch::No {
            self.fetch = Fetch::Wanted;
        }
    }

    /// True once where the masters have to be asked now.
    pub fn take_fetch(&mut self, now: Instant) -> bool {
        let is_due = self.next_deadline().is_some_and(|due| now >= due);
        if is_due {
            self.fetch = Fetch::Asked;
            self.last_fetch = now;
        }
        is_due
    }

    /// When [`RingView::take_fetch`] may become true.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let pause = if self.was_fruitless { FETCH_INTERVAL } else { Duration::ZERO };
        (self.fetch == Fetch::Wanted).then_some(self.last_fetch + pause)
    }

    /// Takes what the masters answered; `None` where asking failed, which is then done again. True
    /// where the version is a newer one. An older one is ignored, but ends the waiting: a node
    /// that refuses again leads to another fetch.
    pub fn answered(&mut self, answer: Option<RingAnswer>) -> bool {
        self.was_fruitless = true;
        let Some(answer) = answer else {
            self.fetch = Fetch::Wanted;
            return false;
        };
        self.fetch = Fetch::No;
        self.is_refused = false;
        let is_newer = self.known.is_none() || answer.ring.version() > self.version();
        if is_newer {
            self.known = Some(answer);
            self.was_fruitless = false;
        } else if answer.ring.version() == self.version() {
            // Addresses and the versions of registers change without a newer version.
            self.known = Some(answer);
        }
        is_newer
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proto::ids::StoreId;
    use proto::ring::{Member, Ring};

    use super::*;

    fn ring(version: u64) -> RingAnswer {
        let member = |n: u128| Member { node: NodeId(n), store: StoreId(n), weight: 1, zone: 0 };
        let members = (1..=4).map(member).collect();
        let ring = Ring::new(RingVersion(version), 16, members).unwrap();
        let addresses = BTreeMap::from([(NodeId(1), "tcp://one".to_owned())]);
        let register_versions = vec![RingVersion(version); 16];
        RingAnswer { ring, older: Vec::new(), replica_count: 2, addresses, register_versions }
    }

    #[test]
    fn a_ring_is_fetched_once_and_again_when_it_is_refused() {
        let mut view = RingView::new();
        assert!(view.placement(BlockId(0), 0).is_none());
        view.want_newer_than(RingVersion(0));
        assert!(view.take_fetch(Instant(0)));
        assert!(!view.take_fetch(Instant(0)));
        assert!(view.answered(Some(ring(5))));
        let (placement, replicas) = view.placement(BlockId(0), 0).unwrap();
        assert_eq!((placement.owners.len(), placement.candidates.len(), replicas), (2, 2, 2));
        assert_eq!(view.address(NodeId(1)), Some("tcp://one"));

        // A refusal of an older version than the known one needs no fetch.
        view.want_newer_than(RingVersion(4));
        assert!(view.usable().is_some());
        view.want_newer_than(RingVersion(5));
        assert!(view.usable().is_none());
        assert!(view.take_fetch(Instant(10)), "at once");
        assert!(!view.answered(None));
        assert!(!view.take_fetch(Instant(20)), "not within the interval of a fruitless one");
        assert!(view.take_fetch(view.next_deadline().unwrap()), "a failed fetch is done again");
        assert!(!view.answered(Some(ring(4))));
        assert_eq!(view.version(), RingVersion(5));
    }

    #[test]
    fn a_refresh_leaves_what_is_known_usable() {
        let mut view = RingView::new();
        view.want_newer_than(RingVersion(0));
        assert!(view.take_fetch(Instant(0)));
        view.answered(Some(ring(5)));
        view.want_refresh(Instant(0));
        assert_eq!(view.next_deadline(), None, "not that soon");
        let later = Instant(0) + REFRESH_INTERVAL;
        view.want_refresh(later);
        assert!(view.take_fetch(later));
        assert!(view.usable().is_some());
        assert!(!view.answered(Some(ring(5))), "the same is nothing newer");
        assert!(view.answered(Some(ring(6))));
    }
}
