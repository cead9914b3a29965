//! A snapshot as bytes: the file's content, and what is sent to a member that lags too far behind.
//!
//! Responsible for the encoding with its checksum. Not for the state inside, which the state
//! machine encodes, nor for files.

use std::collections::BTreeMap;
use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use proto::ids::LogIndex;
use raft::eraftpb::{ConfState, SnapshotMetadata};

use super::membership::MemberInfo;
use crate::ids::{LogTime, MemberId, Term};

const MAGIC: [u8; 8] = *b"remusnap";
const FORMAT: u32 = 1;
const CHECKSUM: usize = 4;

/// More members than any cluster has (eyeballed); bounds what is allocated for a damaged count.
const MEMBERS_MAX: u32 = 1024;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, packed)]
struct Head {
    magic: [u8; 8],
    format: u32,
    index: u64,
    term: u64,
    log_time: u64,
    auto_leave: u8,
    voters: u32,
    learners: u32,
    outgoing: u32,
    next: u32,
    members: u32,
    state_length: u64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, packed)]
struct MemberHead {
    id: u64,
    voter: u8,
    address_length: u32,
}

/// Who votes and who only listens, as Raft keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Configuration {
    pub(crate) voters: Vec<u64>,
    pub(crate) learners: Vec<u64>,
    pub(crate) outgoing: Vec<u64>,
    pub(crate) next: Vec<u64>,
    pub(crate) auto_leave: bool,
}

impl From<&ConfState> for Configuration {
    fn from(state: &ConfState) -> Configuration {
        let sorted = |ids: &[u64]| {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids
        };
        Configuration {
            voters: sorted(&state.voters),
            learners: sorted(&state.learners),
            outgoing: sorted(&state.voters_outgoing),
            next: sorted(&state.learners_next),
            auto_leave: state.auto_leave,
        }
    }
}

impl Configuration {
    pub(crate) fn to_raft(&self) -> ConfState {
        ConfState {
            voters: self.voters.clone(),
            learners: self.learners.clone(),
            voters_outgoing: self.outgoing.clone(),
            learners_next: self.next.clone(),
            auto_leave: self.auto_leave,
            ..ConfState::default()
        }
    }

    /// Between two configurations: both must agree.
    pub(crate) fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Everybody in it.
    pub(crate) fn ids(&self) -> impl Iterator<Item = u64> {
        let both = self.voters.iter().chain(&self.learners);
        both.chain(&self.outgoing).chain(&self.next).copied()
    }
}

/// What a snapshot says beside the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotHead {
    /// The last entry that it contains.
    pub index: LogIndex,
    /// That entry's term.
    pub term: Term,
    /// The log's time there.
    pub log_time: LogTime,
    /// Everybody in the cluster there.
    pub members: BTreeMap<MemberId, MemberInfo>,
    pub(crate) configuration: Configuration,
}

impl SnapshotHead {
    pub(crate) fn metadata(&self) -> SnapshotMetadata {
        let (index, term) = (self.index.0, self.term.0);
        let mut metadata = SnapshotMetadata { index, term, ..SnapshotMetadata::default() };
        metadata.set_conf_state(self.configuration.to_raft());
        metadata
    }
}

/// The bytes of a snapshot.
pub(crate) fn encode(head: &SnapshotHead, state: &[u8]) -> Vec<u8> {
    let count = |ids: &[u64]| u32::try_from(ids.len()).expect("few members");
    let configuration = &head.configuration;
    let fixed = Head {
        magic: MAGIC,
        format: FORMAT,
        index: head.index.0,
        term: head.term.0,
        log_time: head.log_time.0,
        auto_leave: configuration.auto_leave.into(),
        voters: count(&configuration.voters),
        learners: count(&configuration.learners),
        outgoing: count(&configuration.outgoing),
        next: count(&configuration.next),
        members: u32::try_from(head.members.len()).expect("few members"),
        state_length: state.len() as u64,
    };
    let mut bytes = Vec::with_capacity(state.len() + 1024);
    bytes.extend_from_slice(bytemuck::bytes_of(&fixed));
    for id in configuration.ids() {
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    for (id, info) in &head.members {
        let address_length = u32::try_from(info.address.len()).expect("a short address");
        let member = MemberHead { id: id.0, voter: info.voter.into(), address_length };
        bytes.extend_from_slice(bytemuck::bytes_of(&member));
        bytes.extend_from_slice(info.address.as_bytes());
    }
    bytes.extend_from_slice(state);
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

/// Reads its way through bytes that may end anywhere.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(length).ok_or("a length is absurd")?;
        let piece = self.bytes.get(self.at..end).ok_or("it ends too early")?;
        self.at = end;
        Ok(piece)
    }

    fn read<T: Pod>(&mut self) -> Result<T, String> {
        self.take(size_of::<T>()).map(bytemuck::pod_read_unaligned)
    }

    fn ids(&mut self, count: u32) -> Result<Vec<u64>, String> {
        if count > MEMBERS_MAX {
            return Err("it names too many members".to_owned());
        }
        (0..count).map(|_| self.read()).collect()
    }
}

/// What a snapshot says, and where in the bytes the state is.
pub(crate) fn decode(bytes: &[u8]) -> Result<(SnapshotHead, Range<usize>), String> {
    let body = bytes.len().checked_sub(CHECKSUM).ok_or("it ends too early")?;
    let (body, check) = bytes.split_at(body);
    if check != crc32c::crc32c(body).to_le_bytes() {
        return Err("the checksum does not match".to_owned());
    }
    let mut reader = Reader { bytes: body, at: 0 };
    let head: Head = reader.read()?;
    if head.magic != MAGIC || head.format != FORMAT {
        return Err("it is not a snapshot of this version".to_owned());
    }
    let configuration = Configuration {
        voters: reader.ids(head.voters)?,
        learners: reader.ids(head.learners)?,
        outgoing: reader.ids(head.outgoing)?,
        next: reader.ids(head.next)?,
        auto_leave: head.auto_leave != 0,
    };
    let mut members = BTreeMap::new();
    for _ in 0..head.members.min(MEMBERS_MAX) {
        let member: MemberHead = reader.read()?;
        let address = std::str::from_utf8(reader.take(member.address_length as usize)?)
            .map_err(|_| "an address is not text")?
            .to_owned();
        members.insert(MemberId(member.id), MemberInfo { address, voter: member.voter != 0 });
    }
    let start = reader.at;
    let length = usize::try_from(head.state_length).map_err(|_| "a length is absurd")?;
    reader.take(length)?;
    if reader.at != body.len() {
        return Err("something follows the state".to_owned());
    }
    let head = SnapshotHead {
        index: LogIndex(head.index),
        term: Term(head.term),
        log_time: LogTime(head.log_time),
        members,
        configuration,
    };
    Ok((head, start..reader.at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_survives_its_encoding_and_a_changed_one_is_refused() {
        let address = "tcp://a:1".to_owned();
        let head = SnapshotHead {
            index: LogIndex(9),
            term: Term(2),
            log_time: LogTime(5),
            members: [(MemberId(3), MemberInfo { address, voter: true })].into(),
            configuration: Configuration {
                voters: vec![3],
                learners: vec![4, 5],
                auto_leave: true,
                ..Configuration::default()
            },
        };
        let bytes = encode(&head, b"the state");
        let (decoded, state) = decode(&bytes).unwrap();
        assert_eq!((&decoded, &bytes[state]), (&head, &b"the state"[..]));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 4;
            assert!(decode(&changed).is_err(), "byte {at}");
            assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }
}
