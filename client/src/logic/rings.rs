//! What the masters tell of the ring: its versions with their members, and how they stand.
//!
//! Deliberately not for what follows from it: where blocks are looked for is
//! [`super::ring_view`]'s matter.

use std::collections::BTreeMap;

use proto::ids::{NodeId, RingVersion};
use proto::limits;
use proto::messages::node::{
    OlderRing, RegisterRun, RingMember, RingNode, RingReply, RingStatus, StorageProgress,
};
use proto::record::{Record, RecordError};
use proto::register::{Part, part_count};
use proto::ring::{Member, Ring};
use proto::status::RingState;
use proto::time::Duration;
use proto::wire::items_of;

use super::answers::{text, value};

/// Versions of one answer: those that are not drained, and as many more as parts of the registers
/// may go by.
const VERSIONS: usize = limits::RING_VERSIONS + limits::REGISTER_PARTITIONS as usize;

/// The ring and where its nodes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingAnswer {
    /// The newest version: where blocks belong.
    pub ring: Ring,
    /// The versions before it that something still goes by, the newest first.
    pub older: Vec<OlderVersion>,
    /// Default number of replicas of a file, or of nodes that may own one where these are fewer.
    pub replica_count: usize,
    /// Addresses of the members of all these versions.
    pub addresses: BTreeMap<NodeId, String>,
    /// The version that is active for each part of the registers; each of them is here.
    pub register_versions: Vec<RingVersion>,
}

/// A version of the ring before the newest one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OlderVersion {
    /// Placement.
    pub ring: Ring,
    /// False where only registers go by it: all blocks have left.
    pub holds_blocks: bool,
}

impl RingAnswer {
    /// The ring of a version; `None` where nothing goes by it.
    #[must_use]
    pub fn of_version(&self, version: RingVersion) -> Option<&Ring> {
        let older = self.older.iter().map(|older| &older.ring);
        std::iter::once(&self.ring).chain(older).find(|ring| ring.version() == version)
    }

    /// The ring by which a part of the registers goes at present; `None` for a part that there is
    /// not.
    #[must_use]
    pub fn of_part(&self, part: Part) -> Option<&Ring> {
        self.of_version(*self.register_versions.get(part.0 as usize)?)
    }
}

/// A storage node as the leading master sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStanding {
    /// The node.
    pub node: NodeId,
    /// Its weight on the newest ring.
    pub weight: u32,
    /// Number of its zone there.
    pub zone: u32,
    /// What it is to the ring.
    pub state: RingState,
    /// How long the leader has not heard it; `None` where it never did.
    pub silent: Option<Duration>,
    /// How long until it is removed for its silence; `None` where it is not to be.
    pub removal: Option<Duration>,
    /// What it reported last; all zero where it has not reported.
    pub progress: StorageProgress,
}

/// How the ring stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingStanding {
    /// The newest version.
    pub version: RingVersion,
    /// The oldest one by which blocks may still lie; the newest where nothing moves.
    pub oldest: RingVersion,
    /// Parts of the registers that do not go by the newest version yet.
    pub register_parts: u64,
    /// Default number of replicas of a file.
    pub replica_count: u32,
    /// Number of partitions.
    pub partition_count: u64,
    /// The round of passes that was asked for last.
    pub pass_round: u64,
    /// The round of checking digests that was asked for last.
    pub scrub_round: u64,
    /// The storage nodes, by UUID.
    pub nodes: Vec<NodeStanding>,
}

/// Reads a `ring_reply`. For whoever asks the masters by calls of its own.
///
/// # Errors
/// [`RecordError`].
pub fn read_ring(record: &Record<'_>) -> Result<RingAnswer, RecordError> {
    let (reply, [members, texts, older, older_members, runs]) = record.open::<RingReply, 5>()?;
    let wrong = value::<RingReply>;
    let members = items_of::<RingMember>(members).ok_or(wrong("members"))?;
    let older = items_of::<OlderRing>(older).ok_or(wrong("older"))?;
    let older_members = items_of::<RingMember>(older_members).ok_or(wrong("older_members"))?;
    let runs = items_of::<RegisterRun>(runs).ok_or(wrong("registers"))?;
    let replica_count = reply.replica_count as usize;
    if replica_count > limits::RING_MEMBERS {
        return Err(wrong("replica_count"));
    }
    let addresses = read_addresses(members.iter().chain(older_members), texts)?;
    let ring = ring_of(reply.partition_count, reply.ring_version, members)?;
    let owners = ring.members().iter().filter(|member| member.weight > 0).count();
    let replica_count = replica_count.min(owners).max(1);
    let older = read_older(&ring, older, older_members)?;
    let register_versions = Vec::new();
    let mut answer = RingAnswer { ring, older, replica_count, addresses, register_versions };
    answer.register_versions = register_versions_of(&answer, runs).ok_or(wrong("registers"))?;
    Ok(answer)
}

fn ring_of(
    partition_count: u64,
    version: u64,
    members: &[RingMember],
) -> Result<Ring, RecordError> {
    let members = members.iter().map(Member::from).collect();
    let ring = Ring::new(RingVersion(version), partition_count, members);
    ring.map_err(|_| value::<RingReply>("members"))
}

/// The addresses of members, the newest version's first: what it says of a node holds.
fn read_addresses<'a>(
    members: impl Iterator<Item = &'a RingMember>,
    mut texts: &[u8],
) -> Result<BTreeMap<NodeId, String>, RecordError> {
    let wrong = value::<RingReply>;
    let mut addresses = BTreeMap::new();
    for item in members {
        let length = usize::try_from(item.address_length).map_err(|_| wrong("address_length"))?;
        let (address, rest) = texts.split_at_checked(length).ok_or(wrong("address_length"))?;
        texts = rest;
        let known: &mut String = addresses.entry(item.node_uuid.into()).or_default();
        if known.is_empty() {
            *known = text::<RingReply>(address, "addresses")?;
        }
    }
    if texts.is_empty() { Ok(addresses) } else { Err(wrong("addresses_length")) }
}

/// The versions before the newest one, which goes down from each to the next.
fn read_older(
    newest: &Ring,
    older: &[OlderRing],
    mut members: &[RingMember],
) -> Result<Vec<OlderVersion>, RecordError> {
    let wrong = value::<RingReply>;
    if older.len() > VERSIONS {
        return Err(wrong("older_count"));
    }
    let mut before = newest.version().0;
    let mut versions = Vec::with_capacity(older.len());
    for item in older {
        if item.ring_version >= before {
            return Err(wrong("older"));
        }
        before = item.ring_version;
        let count = usize::try_from(item.member_count).map_err(|_| wrong("older"))?;
        let (own, rest) = members.split_at_checked(count).ok_or(wrong("older_members"))?;
        members = rest;
        let ring = ring_of(newest.partition_count(), item.ring_version, own)?;
        versions.push(OlderVersion { ring, holds_blocks: item.holds_blocks == 1 });
    }
    if members.is_empty() { Ok(versions) } else { Err(wrong("older_member_count")) }
}

/// The version of each part; `None` where the runs are not those of all parts, or name a version
/// that is not there. Without runs all parts go by the newest.
fn register_versions_of(answer: &RingAnswer, runs: &[RegisterRun]) -> Option<Vec<RingVersion>> {
    let count = part_count(&answer.ring) as usize;
    if runs.is_empty() {
        return Some(vec![answer.ring.version(); count]);
    }
    let mut versions = Vec::with_capacity(count);
    for run in runs {
        let version = RingVersion(run.ring_version);
        answer.of_version(version)?;
        let end = versions.len().checked_add(usize::try_from(run.part_count).ok()?)?;
        if end > count {
            return None;
        }
        versions.resize(end, version);
    }
    (versions.len() == count).then_some(versions)
}

/// Reads a `ring_status`.
///
/// # Errors
/// [`RecordError`].
pub fn read_ring_status(record: &Record<'_>) -> Result<RingStanding, RecordError> {
    let (status, [nodes, progress]) = record.open::<RingStatus, 2>()?;
    let wrong = value::<RingStatus>;
    let nodes = items_of::<RingNode>(nodes).ok_or(wrong("nodes"))?;
    let progress = items_of::<StorageProgress>(progress).ok_or(wrong("progress"))?;
    if nodes.len() != progress.len() {
        return Err(wrong("progress_count"));
    }
    if status.oldest_version > status.ring_version {
        return Err(wrong("oldest_version"));
    }
    let span = |milliseconds: u64| {
        (milliseconds != u64::MAX)
            .then(|| Duration::from_micros(milliseconds.saturating_mul(1_000)))
    };
    let standing = |(node, progress): (&RingNode, &StorageProgress)| {
        Ok(NodeStanding {
            node: node.node_uuid.into(),
            weight: node.weight,
            zone: node.zone,
            state: RingState::from_wire(node.state).ok_or(wrong("state"))?,
            silent: span(node.silent_ms),
            removal: span(node.removal_ms),
            progress: *progress,
        })
    };
    Ok(RingStanding {
        version: RingVersion(status.ring_version),
        oldest: RingVersion(status.oldest_version),
        register_parts: status.register_part_count,
        replica_count: status.replica_count,
        partition_count: status.partition_count,
        pass_round: status.pass_round,
        scrub_round: status.scrub_round,
        nodes: nodes.iter().zip(progress).map(standing).collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use proto::ids::StoreId;
    use proto::record::{Records, encode};
    use proto::wire::{WireUuid, bytes_of};

    use super::*;

    fn member(node: u128, address: &str) -> RingMember {
        RingMember {
            node_uuid: WireUuid::new(node),
            store_uuid: StoreId(9).to_wire(),
            weight: 1,
            zone: 0,
            address_length: address.len() as u64,
        }
    }

    fn older(ring_version: u64, member_count: u64, holds_blocks: u8) -> OlderRing {
        OlderRing { ring_version, member_count, holds_blocks }
    }

    fn run(part_count: u32, ring_version: u64) -> RegisterRun {
        RegisterRun { part_count, ring_version }
    }

    /// Version 7 of two nodes, of which the second was not in version 6, and a third one left.
    pub(in crate::logic) fn ring_record() -> Vec<u8> {
        record(16, "", &[older(6, 2, 1), older(4, 1, 0)], &[run(10, 7), run(6, 4)])
    }

    fn record(partitions: u64, rest: &str, older: &[OlderRing], runs: &[RegisterRun]) -> Vec<u8> {
        let members = [member(1, "tcp://one:1"), member(2, "tcp://second:2")];
        let left = [member(1, "tcp://old:1"), member(3, "tcp://left:3"), member(3, "")];
        let reply = RingReply {
            ring_version: 7,
            partition_count: partitions,
            replica_count: 2,
            ..RingReply::default()
        };
        let texts = format!("tcp://one:1tcp://second:2tcp://old:1tcp://left:3{rest}");
        let parts = [
            bytes_of(&members),
            texts.as_bytes(),
            bytes_of(older),
            bytes_of(&left),
            bytes_of(runs),
        ];
        encode(&reply, &parts)
    }

    fn read(record: &[u8]) -> Result<RingAnswer, RecordError> {
        read_ring(&Records::of(record).next().unwrap().unwrap())
    }

    #[test]
    fn a_ring_is_read_with_its_older_versions_addresses_and_parts() {
        let answer = read(&ring_record()).unwrap();
        assert_eq!((answer.ring.version(), answer.replica_count), (RingVersion(7), 2));
        let older = |it: &OlderVersion| (it.ring.version().0, it.holds_blocks);
        assert_eq!(answer.older.iter().map(older).collect::<Vec<_>>(), [(6, true), (4, false)]);
        let nodes = |ring: &Ring| ring.members().iter().map(|it| it.node.0).collect::<Vec<_>>();
        assert_eq!(nodes(&answer.older[0].ring), [1, 3]);
        assert_eq!(nodes(answer.of_version(RingVersion(4)).unwrap()), [3]);
        assert_eq!(answer.of_version(RingVersion(5)), None);
        // What the newest version says of a node holds; one that left is still reached.
        assert_eq!(answer.addresses[&NodeId(1)], "tcp://one:1");
        assert_eq!(answer.addresses[&NodeId(3)], "tcp://left:3");
        assert_eq!(answer.register_versions.len(), 16);
        let active = |part| answer.of_part(Part(part)).map(|ring| ring.version().0);
        assert_eq!(
            [active(9), active(10), active(15), active(16)],
            [Some(7), Some(4), Some(4), None]
        );
    }

    #[test]
    fn without_runs_all_parts_go_by_the_newest_version() {
        let answer = read(&record(16, "", &[older(6, 3, 1)], &[])).unwrap_err();
        assert_eq!(answer, value::<RingReply>("members"), "a node twice");
        let answer = read(&record(16, "", &[older(6, 2, 1), older(5, 1, 1)], &[])).unwrap();
        assert_eq!(answer.register_versions, [RingVersion(7); 16]);
    }

    #[test]
    fn a_ring_that_does_not_fit_together_is_refused() {
        let all = [older(6, 2, 1), older(4, 1, 0)];
        for (what, wrong) in [
            ("partitions", record(15, "", &all, &[])),
            ("an address too much", record(16, "x", &all, &[])),
            ("a version twice", record(16, "", &[older(6, 2, 1), older(6, 1, 0)], &[])),
            ("a version that is newer", record(16, "", &[older(8, 3, 1)], &[])),
            ("members of nobody", record(16, "", &[older(6, 2, 1)], &[])),
            ("too few members", record(16, "", &[older(6, 2, 1), older(4, 2, 0)], &[])),
            ("too many parts", record(16, "", &all, &[run(10, 7), run(7, 6)])),
            ("too few parts", record(16, "", &all, &[run(15, 7)])),
            ("an unknown version of a part", record(16, "", &all, &[run(16, 5)])),
            ("parts beyond counting", record(16, "", &all, &[run(u32::MAX, 7), run(17, 7)])),
        ] {
            assert!(read(&wrong).is_err(), "{what}");
        }
    }

    /// A status of two nodes, one of which is gone for good in a minute.
    pub(in crate::logic) fn status_record() -> Vec<u8> {
        let node = |node, state, silent_ms, removal_ms| RingNode {
            node_uuid: WireUuid::new(node),
            weight: 1,
            zone: 0,
            state,
            silent_ms,
            removal_ms,
        };
        let nodes = [node(1, 1, 20, u64::MAX), node(2, 2, 240_000, 60_000)];
        let progress = [StorageProgress { block_count: 5, ..Default::default() }; 2];
        let status = RingStatus { ring_version: 7, oldest_version: 6, ..Default::default() };
        encode(&status, &[bytes_of(&nodes), bytes_of(&progress)])
    }

    #[test]
    fn how_the_ring_stands_is_read_and_checked() {
        let record = status_record();
        let record = Records::of(&record).next().unwrap().unwrap();
        let standing = read_ring_status(&record).unwrap();
        assert_eq!((standing.version, standing.oldest), (RingVersion(7), RingVersion(6)));
        let [one, other] = &standing.nodes[..] else { panic!("two nodes") };
        assert_eq!((one.state, one.removal), (RingState::Member, None));
        assert_eq!(
            (other.state, other.removal),
            (RingState::Draining, Some(Duration::from_secs(60)))
        );
        assert_eq!({ other.progress.block_count }, 5);

        let node = RingNode { state: 99, ..Default::default() };
        let progress = StorageProgress::default();
        let newer = RingStatus { oldest_version: 1, ..Default::default() };
        for wrong in [
            encode(&RingStatus::default(), &[bytes_of(&[node]), bytes_of(&[progress])]),
            encode(&RingStatus::default(), &[bytes_of(&[RingNode::default()]), &[]]),
            encode(&newer, &[&[], &[]]),
        ] {
            let record = Records::of(&wrong).next().unwrap().unwrap();
            assert!(read_ring_status(&record).is_err());
        }
    }
}
