//! Who belongs to the cluster, and how that changes.
//!
//! Responsible for the changes that may be asked for, their encoding, and what they mean for Raft's
//! configuration. Raft decides when a change takes effect; a member's address travels with the
//! change that brings it in.

use std::collections::BTreeMap;

use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2};

use crate::ids::MemberId;

/// Members named by one change; a bound for what arrives from outside (eyeballed).
const NAMED_MAX: usize = 64;

/// Longest address in bytes.
const ADDRESS_BYTES: usize = 1024;

const ADD_LEARNER: u8 = 1;
const PROMOTE: u8 = 2;
const REMOVE: u8 = 3;

/// What is known of a member from the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// Where it is reached, as it was told when the member was added.
    pub address: String,
    /// Whether it votes.
    pub voter: bool,
}

/// A change of members. Each is one log entry, which has no effect on who is already as it asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// A new member that receives the log and does not vote.
    AddLearner {
        /// Its number, which no member ever had.
        member: MemberId,
        /// Where it is reached; at most 1,024 bytes.
        address: String,
    },
    /// Learners become voters, and others leave, in one step: there is no moment in which only some
    /// of it holds. So the second and third member of a new cluster become voters together, and a
    /// member is replaced without an even number of voters between.
    Promote {
        /// Who becomes a voter.
        voters: Vec<MemberId>,
        /// Who leaves.
        removed: Vec<MemberId>,
    },
    /// A member leaves for good.
    Remove {
        /// Which.
        member: MemberId,
    },
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (piece, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(piece)
}

fn take_id(rest: &mut &[u8]) -> Option<MemberId> {
    let bytes = take(rest, 8)?.try_into().ok()?;
    Some(MemberId(u64::from_le_bytes(bytes))).filter(|id| id.0 != 0)
}

fn take_ids(rest: &mut &[u8]) -> Option<Vec<MemberId>> {
    let count = usize::from(*take(rest, 1)?.first()?);
    if count > NAMED_MAX {
        return None;
    }
    (0..count).map(|_| take_id(rest)).collect()
}

fn push_ids(ids: &[MemberId], bytes: &mut Vec<u8>) {
    bytes.push(u8::try_from(ids.len()).expect("a change was checked for its bounds"));
    bytes.extend(ids.iter().flat_map(|id| id.0.to_le_bytes()));
}

impl MemberChange {
    /// Whether it is within bounds and does not contradict itself.
    pub(super) fn is_well_formed(&self) -> bool {
        match self {
            MemberChange::AddLearner { member, address } => {
                member.0 != 0 && address.len() <= ADDRESS_BYTES
            }
            MemberChange::Promote { voters, removed } => {
                voters.len() <= NAMED_MAX
                    && removed.len() <= NAMED_MAX
                    && voters.iter().chain(removed).all(|id| id.0 != 0)
                    && !voters.iter().any(|id| removed.contains(id))
            }
            MemberChange::Remove { member } => member.0 != 0,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            MemberChange::AddLearner { member, address } => {
                bytes.push(ADD_LEARNER);
                bytes.extend(member.0.to_le_bytes());
                bytes.extend_from_slice(address.as_bytes());
            }
            MemberChange::Promote { voters, removed } => {
                bytes.push(PROMOTE);
                push_ids(voters, &mut bytes);
                push_ids(removed, &mut bytes);
            }
            MemberChange::Remove { member } => {
                bytes.push(REMOVE);
                bytes.extend(member.0.to_le_bytes());
            }
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<MemberChange> {
        let (&kind, mut rest) = bytes.split_first()?;
        let rest = &mut rest;
        let change = match kind {
            ADD_LEARNER => {
                let member = take_id(rest)?;
                let address = std::str::from_utf8(rest).ok()?.to_owned();
                *rest = &[];
                MemberChange::AddLearner { member, address }
            }
            PROMOTE => MemberChange::Promote { voters: take_ids(rest)?, removed: take_ids(rest)? },
            REMOVE => MemberChange::Remove { member: take_id(rest)? },
            _ => return None,
        };
        (rest.is_empty() && change.is_well_formed()).then_some(change)
    }

    /// The same for Raft, without what is already so; `None` where nothing is left.
    pub(super) fn to_raft(&self, members: &BTreeMap<MemberId, MemberInfo>) -> Option<ConfChangeV2> {
        let is_voter = |id: &MemberId| members.get(id).is_some_and(|info| info.voter);
        let mut change = ConfChangeV2::default();
        let mut push = |kind, id: MemberId| {
            let mut single = ConfChangeSingle::default();
            single.set_change_type(kind);
            single.node_id = id.0;
            change.mut_changes().push(single);
        };
        match self {
            MemberChange::AddLearner { member, .. } => {
                if !members.contains_key(member) {
                    push(ConfChangeType::AddLearnerNode, *member);
                }
            }
            MemberChange::Promote { voters, removed } => {
                for &id in voters.iter().filter(|id| !is_voter(id)) {
                    push(ConfChangeType::AddNode, id);
                }
                for &id in removed.iter().filter(|id| members.contains_key(id)) {
                    push(ConfChangeType::RemoveNode, id);
                }
            }
            MemberChange::Remove { member } => {
                if members.contains_key(member) {
                    push(ConfChangeType::RemoveNode, *member);
                }
            }
        }
        (!change.changes.is_empty()).then_some(change)
    }

    /// Whether a member leaves by it.
    pub(super) fn removes(&self, member: MemberId) -> bool {
        match self {
            MemberChange::AddLearner { .. } => false,
            MemberChange::Promote { removed, .. } => removed.contains(&member),
            MemberChange::Remove { member: removed } => *removed == member,
        }
    }

    /// Whether voters would remain.
    pub(super) fn leaves_a_voter(&self, members: &BTreeMap<MemberId, MemberInfo>) -> bool {
        let (added, removed): (&[MemberId], &[MemberId]) = match self {
            MemberChange::AddLearner { .. } => return true,
            MemberChange::Promote { voters, removed } => (voters, removed),
            MemberChange::Remove { member } => (&[], std::slice::from_ref(member)),
        };
        let stays = members.iter().any(|(id, info)| info.voter && !removed.contains(id));
        stays || !added.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_already_so_is_left_out() {
        let info = |voter| MemberInfo { address: String::new(), voter };
        let members = [(MemberId(1), info(true)), (MemberId(2), info(false))].into();
        let add = MemberChange::AddLearner { member: MemberId(2), address: String::new() };
        assert_eq!(add.to_raft(&members), None);
        let promote =
            MemberChange::Promote { voters: vec![MemberId(1)], removed: vec![MemberId(3)] };
        assert_eq!(promote.to_raft(&members), None);
        let promote =
            MemberChange::Promote { voters: vec![MemberId(2)], removed: vec![MemberId(1)] };
        assert_eq!(promote.to_raft(&members).unwrap().changes.len(), 2);
        assert!(promote.leaves_a_voter(&members));
        assert!(!MemberChange::Remove { member: MemberId(1) }.leaves_a_voter(&members));
        assert!(MemberChange::Remove { member: MemberId(2) }.leaves_a_voter(&members));
    }
}
