//! What stands in an entry of the log: a stamp, then a body.
//!
//! Responsible for the encoding. The stamp says who asked (so that the answer finds its way), in
//! which term it was proposed (so that a deposed leader's proposal is recognised) and the log's
//! time. Entries that Raft makes itself are empty and have none.

use bytemuck::{Pod, Zeroable};

use crate::ids::{LogTime, MemberId, Ticket};

/// The request that an entry carries out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) member: MemberId,
    pub(super) incarnation: u64,
    pub(super) ticket: Ticket,
}

/// What kind of body follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A command for the state machine.
    Command = 1,
    /// Every member computes the digest of its state here.
    DigestMark = 2,
    /// The majority's digest at an earlier mark: [`Verdict`].
    DigestVerdict = 3,
    /// A change of members; the body has the addresses of new ones.
    Change = 4,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, packed)]
struct Head {
    kind: u8,
    origin_member: u64,
    origin_incarnation: u64,
    ticket: u64,
    proposer_term: u64,
    log_time: u64,
    length: u64,
}

/// Body of a [`Kind::DigestVerdict`].
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, packed)]
pub(super) struct Verdict {
    pub(super) index: u64,
    pub(super) digest: [u8; 32],
}

/// An entry of ours, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamped<'a> {
    pub(super) kind: Kind,
    pub(super) origin: Origin,
    pub(super) proposer_term: u64,
    pub(super) log_time: LogTime,
    pub(super) body: &'a [u8],
}

/// Bytes that an entry has beside its body.
pub(super) const HEAD: usize = size_of::<Head>();

impl<'a> Stamped<'a> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let head = Head {
            kind: self.kind as u8,
            origin_member: self.origin.member.0,
            origin_incarnation: self.origin.incarnation,
            ticket: self.origin.ticket.0,
            proposer_term: self.proposer_term,
            log_time: self.log_time.0,
            length: self.body.len() as u64,
        };
        let mut bytes = Vec::with_capacity(HEAD + self.body.len());
        bytes.extend_from_slice(bytemuck::bytes_of(&head));
        bytes.extend_from_slice(self.body);
        bytes
    }

    /// The entry that bytes are, or `None` for bytes that are not one of ours.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Stamped<'a>> {
        let (head, body) = bytes.split_at_checked(HEAD)?;
        let head: Head = bytemuck::pod_read_unaligned(head);
        let kind = match head.kind {
            1 => Kind::Command,
            2 => Kind::DigestMark,
            3 => Kind::DigestVerdict,
            4 => Kind::Change,
            _ => return None,
        };
        let origin = Origin {
            member: MemberId(head.origin_member),
            incarnation: head.origin_incarnation,
            ticket: Ticket(head.ticket),
        };
        (head.length == body.len() as u64).then_some(Stamped {
            kind,
            origin,
            proposer_term: head.proposer_term,
            log_time: LogTime(head.log_time),
            body,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_survives_its_encoding_and_a_cut_one_is_none() {
        let origin = Origin { member: MemberId(1), incarnation: 2, ticket: Ticket(3) };
        let kind = Kind::Command;
        let (log_time, body) = (LogTime(5), &b"body"[..]);
        let entry = Stamped { kind, origin, proposer_term: 4, log_time, body };
        let bytes = entry.encode();
        assert_eq!(Stamped::decode(&bytes), Some(entry));
        for length in 0..bytes.len() {
            assert_eq!(Stamped::decode(&bytes[..length]), None);
        }
    }
}
