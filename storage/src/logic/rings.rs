//! The versions of the ring that this node knows, with what is needed to reach their nodes.
//!
//! What a master's `ring_reply` says, checked and taken apart. When to ask for it is
//! `membership.rs`'s matter.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proto::ids::{BlockId, NodeId, RingVersion};
use proto::limits;
use proto::messages::node::{OlderRing, RegisterRun, RingMember, RingReply};
use proto::record::Record;
use proto::register;
use proto::ring::{Member, Partition, Ring};
use proto::wire::items_of;

/// A version before the newest.
#[derive(Debug)]
struct Older {
    ring: Ring,
    /// Whether blocks may lie where only this version says.
    holds_blocks: bool,
}

/// All versions of the ring that are not left yet.
#[derive(Debug)]
pub(super) struct Rings {
    newest: Ring,
    older: Vec<Older>,
    replica_count: usize,
    addresses: BTreeMap<NodeId, String>,
    /// The active version of each part of the registers.
    registers: Vec<RingVersion>,
}

impl Rings {
    /// Reads a `ring_reply`; `None` where it makes no sense.
    pub(super) fn read(record: &Record<'_>) -> Option<Rings> {
        let (reply, parts) = record.open::<RingReply, 5>().ok()?;
        let [members, addresses, older, older_members, registers] = parts;
        let members = items_of::<RingMember>(members)?;
        let mut older_members = items_of::<RingMember>(older_members)?;
        let mut rest = std::str::from_utf8(addresses).ok()?;
        let mut by_node = BTreeMap::new();
        for item in members.iter().chain(older_members) {
            let length = usize::try_from(item.address_length).ok()?;
            let (address, behind) = rest.split_at_checked(length)?;
            // The newest version's members come first: what they say counts.
            by_node.entry(NodeId::from(item.node_uuid)).or_insert_with(|| address.to_owned());
            rest = behind;
        }
        let ring = |version, members: &[RingMember]| {
            let members = members.iter().map(Member::from).collect();
            Ring::new(RingVersion(version), reply.partition_count, members).ok()
        };
        let newest = ring(reply.ring_version, members)?;
        let mut before = Vec::new();
        for item in items_of::<OlderRing>(older)? {
            let count = usize::try_from(item.member_count).ok()?;
            let (its, behind) = older_members.split_at_checked(count)?;
            older_members = behind;
            let holds_blocks = item.holds_blocks != 0;
            before.push(Older { ring: ring(item.ring_version, its)?, holds_blocks });
        }
        let registers = read_registers(&newest, items_of::<RegisterRun>(registers)?)?;
        // More replicas than nodes changes nothing; this only bounds what a wrong number costs.
        let replica_count = (reply.replica_count as usize).clamp(1, limits::REPLICAS);
        Some(Rings { newest, older: before, replica_count, addresses: by_node, registers })
    }

    /// The newest version.
    pub(super) fn newest(&self) -> &Ring {
        &self.newest
    }

    /// All versions, the newest first.
    pub(super) fn all(&self) -> impl Iterator<Item = &Ring> {
        std::iter::once(&self.newest).chain(self.older.iter().map(|older| &older.ring))
    }

    /// The active version of each part of the registers, in order.
    pub(super) fn registers(&self) -> &[RingVersion] {
        &self.registers
    }

    /// True while blocks or registers go by a version before the newest.
    pub(super) fn is_moving(&self) -> bool {
        !self.older.is_empty()
    }

    /// Where a node is reached; `None` where nobody says.
    pub(super) fn address(&self, node: NodeId) -> Option<&str> {
        self.addresses.get(&node).map(String::as_str).filter(|address| !address.is_empty())
    }

    /// How many replicas a block has that asks for `replica_count`; 0 asks for the default.
    pub(super) fn replicas(&self, replica_count: u8) -> usize {
        match usize::from(replica_count) {
            0 => self.replica_count,
            count => count.min(limits::REPLICAS),
        }
    }

    /// The owners of a partition by the newest version, for a block that asks for most replicas:
    /// one that asks for fewer has the first of them.
    pub(super) fn owners_of_most(&self, partition: Partition) -> Vec<NodeId> {
        self.newest.nodes(partition, limits::REPLICAS)
    }

    /// The owners of a block by the newest version.
    pub(super) fn owners(&self, block: BlockId, replica_count: u8) -> Vec<NodeId> {
        self.newest.owners(block, self.replicas(replica_count))
    }

    /// Where a block may be: its owners and candidates by the newest version, then its owners by
    /// the older ones, without `except`. The answer is false where one of them cannot be reached.
    pub(super) fn holders(
        &self,
        block: BlockId,
        except: NodeId,
    ) -> (VecDeque<(NodeId, String)>, bool) {
        let partition = self.newest.partition_of(block);
        let newest = self.newest.placement(partition, self.replica_count);
        let holding = self.older.iter().filter(|older| older.holds_blocks);
        let older = holding.flat_map(|older| older.ring.owners(block, self.replica_count));
        let nodes = newest.owners.into_iter().chain(newest.candidates).chain(older);
        let mut seen = BTreeSet::from([except]);
        let (mut reached, mut is_complete) = (VecDeque::new(), true);
        for node in nodes.filter(|&node| seen.insert(node)) {
            match self.address(node) {
                Some(address) => reached.push_back((node, address.to_owned())),
                None => is_complete = false,
            }
        }
        (reached, is_complete)
    }
}

/// The active version of each part; that of `newest` where the masters know no registers.
fn read_registers(newest: &Ring, runs: &[RegisterRun]) -> Option<Vec<RingVersion>> {
    let part_count = register::part_count(newest) as usize;
    if runs.is_empty() {
        return Some(vec![newest.version(); part_count]);
    }
    let mut versions = Vec::with_capacity(part_count);
    for run in runs {
        let count = run.part_count as usize;
        if count > part_count - versions.len() {
            return None;
        }
        versions.extend(std::iter::repeat_n(RingVersion(run.ring_version), count));
    }
    (versions.len() == part_count).then_some(versions)
}
