//! The ring: which storage nodes keep which block.
//!
//! A fixed number of partitions by the first bits of a block's UUID, each with an ordered list of
//! nodes by weighted rendezvous hashing (Ceph's straw2: each member draws `-log2(u) / weight`, the
//! lowest draw wins), distinct zones first. A pure function in integers, so that client, worker
//! and storage agree on every platform; changing any of it moves every block. How the ring changes
//! while it serves is the masters' and the storage nodes' matter.

mod draw;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::ids::{BlockId, NodeId, RingVersion, StoreId};
use crate::limits;

/// Number of partitions unless told otherwise at `cluster init`.
pub const PARTITION_COUNT: u64 = 1 << 16;

/// Most partitions: 2^20 balance some thousand nodes, the rest is room.
pub const PARTITION_COUNT_MAX: u64 = 1 << 24;

/// Nodes behind the owners that take a dead owner's place.
pub const CANDIDATE_COUNT: usize = 2;

/// The first byte of an encoded ring.
const ENCODING_VERSION: u8 = 1;
const HEAD_BYTES: usize = 1 + 8 + 1 + 4;
const MEMBER_BYTES: usize = 16 + 16 + 4 + 4;

/// A storage node of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The node; placement goes by it.
    pub node: NodeId,
    /// Its data folder; does not influence placement.
    pub store: StoreId,
    /// Its share relative to the others; 0 for a member that owns nothing.
    pub weight: u32,
    /// Number of its failure zone.
    pub zone: u32,
}

impl From<&crate::messages::node::RingMember> for Member {
    fn from(item: &crate::messages::node::RingMember) -> Member {
        Member {
            node: item.node_uuid.into(),
            store: item.store_uuid.into(),
            weight: item.weight,
            zone: item.zone,
        }
    }
}

/// One of the ring's parts: blocks whose UUIDs begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(pub u32);

/// The nodes of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// As many as there are replicas, or all members where there are fewer; the first is asked
    /// first.
    pub owners: Vec<NodeId>,
    /// The next two: each takes the place of a dead owner.
    pub candidates: Vec<NodeId>,
}

/// One version of the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    version: RingVersion,
    partition_bits: u32,
    members: Vec<Member>,
    /// For each member, what its draws are made from.
    seeds: Vec<u64>,
}

/// Why something is not a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingError {
    /// The number of partitions is no power of two, or above [`PARTITION_COUNT_MAX`].
    PartitionCount {
        /// What it says.
        count: u64,
    },
    /// More than [`limits::RING_MEMBERS`].
    TooManyMembers {
        /// How many.
        count: usize,
    },
    /// A node that is a member twice, or in an encoding not behind the one before it.
    Order {
        /// The node.
        node: NodeId,
    },
    /// Bytes of another version, or of another length than the members take.
    Encoding,
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RingError::PartitionCount { count } => write!(
                f,
                "{count} is no number of partitions: it takes a power of two up to \
                 {PARTITION_COUNT_MAX}"
            ),
            RingError::TooManyMembers { count } => {
                write!(f, "{count} members are above the limit of {}", limits::RING_MEMBERS)
            }
            RingError::Order { node } => {
                write!(f, "node {node} is a member of the ring twice or not in order")
            }
            RingError::Encoding => f.write_str("not an encoded ring of this version"),
        }
    }
}

impl std::error::Error for RingError {}

impl Ring {
    /// A ring of members in any order.
    ///
    /// # Errors
    /// All of [`RingError`] but [`RingError::Encoding`].
    pub fn new(
        version: RingVersion,
        partition_count: u64,
        mut members: Vec<Member>,
    ) -> Result<Ring, RingError> {
        members.sort_unstable_by_key(|member| member.node);
        Ring::from_sorted(version, partition_count, members)
    }

    fn from_sorted(
        version: RingVersion,
        partition_count: u64,
        members: Vec<Member>,
    ) -> Result<Ring, RingError> {
        if !partition_count.is_power_of_two() || partition_count > PARTITION_COUNT_MAX {
            return Err(RingError::PartitionCount { count: partition_count });
        }
        if members.len() > limits::RING_MEMBERS {
            return Err(RingError::TooManyMembers { count: members.len() });
        }
        let mut before = None;
        for member in &members {
            if before.is_some_and(|before| before >= member.node) {
                return Err(RingError::Order { node: member.node });
            }
            before = Some(member.node);
        }
        let seeds = members.iter().map(|member| draw::seed(member.node)).collect();
        Ok(Ring { version, partition_bits: partition_count.ilog2(), members, seeds })
    }

    /// Its version. It labels the ring and does not influence placement.
    #[must_use]
    pub fn version(&self) -> RingVersion {
        self.version
    }

    /// Number of partitions.
    #[must_use]
    pub fn partition_count(&self) -> u64 {
        1 << self.partition_bits
    }

    /// The members in the order of their node UUIDs.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The partition of a block: the first bits of its UUID.
    #[must_use]
    pub fn partition_of(&self, block: BlockId) -> Partition {
        let first_bits = (block.0 >> 96) as u32;
        Partition(first_bits.checked_shr(32 - self.partition_bits).unwrap_or(0))
    }

    /// The first `count` nodes of a partition: each is the member with the lowest draw among those
    /// of the zones that were taken least often so far. Fewer where the ring has fewer members of
    /// a weight above 0. Takes about 10 ns for each member, so whoever asks often keeps the answer.
    #[must_use]
    pub fn nodes(&self, partition: Partition, count: usize) -> Vec<NodeId> {
        let salt = draw::salt(partition);
        let mut open: Vec<(u64, &Member)> = Vec::with_capacity(self.members.len());
        for (member, seed) in self.members.iter().zip(&self.seeds) {
            open.extend(draw::weighted(seed ^ salt, member.weight).map(|draw| (draw, member)));
        }
        let mut chosen: Vec<&Member> = Vec::with_capacity(count.min(open.len()));
        while chosen.len() < count {
            let uses = |zone| chosen.iter().filter(|member| member.zone == zone).count();
            let order = |(_, (draw, member)): &(usize, &(u64, &Member))| {
                (uses(member.zone), *draw, member.node)
            };
            let Some((at, _)) = open.iter().enumerate().min_by_key(order) else {
                break;
            };
            chosen.push(open.swap_remove(at).1);
        }
        chosen.iter().map(|member| member.node).collect()
    }

    /// Owners and candidates of a partition.
    #[must_use]
    pub fn placement(&self, partition: Partition, replica_count: usize) -> Placement {
        let mut owners = self.nodes(partition, replica_count.saturating_add(CANDIDATE_COUNT));
        let candidates = owners.split_off(replica_count.min(owners.len()));
        Placement { owners, candidates }
    }

    /// Owners of a block, in order.
    #[must_use]
    pub fn owners(&self, block: BlockId, replica_count: usize) -> Vec<NodeId> {
        self.nodes(self.partition_of(block), replica_count)
    }

    /// The ring as bytes; equal rings have equal bytes. Little-endian: version of the encoding
    /// (u8), version of the ring (u64), log2 of the number of partitions (u8), number of members
    /// (u32), then for each node and store UUID, weight and zone (u32).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + self.members.len() * MEMBER_BYTES);
        bytes.push(ENCODING_VERSION);
        bytes.extend_from_slice(&self.version.0.to_le_bytes());
        bytes.push(self.partition_bits as u8);
        bytes.extend_from_slice(&(self.members.len() as u32).to_le_bytes());
        for member in &self.members {
            bytes.extend_from_slice(bytemuck::bytes_of(&member.node.to_wire()));
            bytes.extend_from_slice(bytemuck::bytes_of(&member.store.to_wire()));
            bytes.extend_from_slice(&member.weight.to_le_bytes());
            bytes.extend_from_slice(&member.zone.to_le_bytes());
        }
        bytes
    }

    /// Reads what [`Ring::encode`] wrote.
    ///
    /// # Errors
    /// [`RingError`]; nothing else than that is accepted.
    pub fn decode(bytes: &[u8]) -> Result<Ring, RingError> {
        let (head, members) = bytes.split_first_chunk().ok_or(RingError::Encoding)?;
        let [encoding, v0, v1, v2, v3, v4, v5, v6, v7, bits, c0, c1, c2, c3]: [u8; HEAD_BYTES] =
            *head;
        let count = u32::from_le_bytes([c0, c1, c2, c3]) as usize;
        let (members, rest) = members.as_chunks::<MEMBER_BYTES>();
        if encoding != ENCODING_VERSION || members.len() != count || !rest.is_empty() {
            return Err(RingError::Encoding);
        }
        let version = RingVersion(u64::from_le_bytes([v0, v1, v2, v3, v4, v5, v6, v7]));
        let partition_count = 1u64.checked_shl(bits.into()).unwrap_or(0);
        let members = members.iter().map(decode_member).collect();
        Ring::from_sorted(version, partition_count, members)
    }
}

fn decode_member(bytes: &[u8; MEMBER_BYTES]) -> Member {
    let uuid = |at: usize| bytemuck::pod_read_unaligned(&bytes[at..at + 16]);
    let number = |at: usize| bytemuck::pod_read_unaligned(&bytes[at..at + 4]);
    let (node, store): (crate::wire::WireUuid, crate::wire::WireUuid) = (uuid(0), uuid(16));
    Member { node: node.into(), store: store.into(), weight: number(32), zone: number(36) }
}
