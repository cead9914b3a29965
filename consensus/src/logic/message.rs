//! What members say to each other: a kind byte, a packed head, and bytes.
//!
//! Responsible for the encoding and for never panicking on what arrives. Raft's own messages are
//! opaque bytes in one of the kinds.

use bytemuck::{Pod, Zeroable};

use super::effect::Failure;
use super::membership::MemberChange;
use crate::ids::{Ticket, TransferId};

const RAFT: u8 = 1;
const FORWARD: u8 = 2;
const FORWARD_CHANGE: u8 = 3;
const ANSWER: u8 = 4;
const OFFER: u8 = 5;
const PIECE: u8 = 6;
const CREDIT: u8 = 7;
const DIGEST: u8 = 8;

/// A request that a member passes on to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, packed)]
pub(super) struct Forwarded {
    /// Start of the sender.
    pub(super) incarnation: u64,
    pub(super) ticket: u64,
    /// The term in which the receiver is thought to lead. It accepts in no other, so that a term's
    /// end also ends all requests that were passed on in it.
    pub(super) term: u64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, packed)]
struct AnswerHead {
    incarnation: u64,
    ticket: u64,
    verdict: u8,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, packed)]
struct OfferHead {
    transfer: u64,
    length: u64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, packed)]
struct PieceHead {
    transfer: u64,
    offset: u64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, packed)]
struct CreditHead {
    transfer: u64,
    received: u64,
    state: u8,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, packed)]
struct DigestHead {
    index: u64,
    digest: [u8; 32],
}

/// What the leader says about a forwarded request that it does not put into the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The members are already as asked for.
    AlreadySo,
    /// It does not accept the request.
    No(Failure),
}

/// How far the receiver of a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reception {
    /// It wants more.
    Going,
    /// It has all, durably, or needs it no more.
    Done,
    /// It gave up; the sender must begin anew.
    Stopped,
}

/// A message, decoded in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// Raft's own.
    Raft(&'a [u8]),
    /// A command for the leader.
    Forward(Forwarded, &'a [u8]),
    /// A change of members for the leader.
    ForwardChange(Forwarded, MemberChange),
    /// The leader does not put it into the log.
    Answer { incarnation: u64, ticket: Ticket, answer: Answer },
    /// A snapshot of so many bytes follows in pieces; when all are there, Raft gets this message.
    Offer { transfer: TransferId, length: u64, raft: &'a [u8] },
    /// A piece of it.
    Piece { transfer: TransferId, offset: u64, bytes: &'a [u8] },
    /// How far the receiver is; allows more pieces.
    Credit { transfer: TransferId, received: u64, reception: Reception },
    /// Digest of the sender's state at a mark.
    Digest { index: u64, digest: [u8; 32] },
}

fn failure_number(answer: Answer) -> u8 {
    match answer {
        Answer::AlreadySo => 0,
        Answer::No(Failure::NoLeader) => 1,
        Answer::No(Failure::Busy) => 2,
        Answer::No(Failure::Dropped) => 3,
        Answer::No(Failure::TooLarge) => 4,
        Answer::No(Failure::Refused) => 5,
        Answer::No(Failure::Behind) => 6,
        Answer::No(Failure::Unknown) => 7,
        Answer::No(Failure::NoRoom) => 8,
    }
}

fn answer_of(number: u8) -> Option<Answer> {
    Some(match number {
        0 => Answer::AlreadySo,
        1 => Answer::No(Failure::NoLeader),
        2 => Answer::No(Failure::Busy),
        3 => Answer::No(Failure::Dropped),
        4 => Answer::No(Failure::TooLarge),
        5 => Answer::No(Failure::Refused),
        6 => Answer::No(Failure::Behind),
        7 => Answer::No(Failure::Unknown),
        8 => Answer::No(Failure::NoRoom),
        _ => return None,
    })
}

fn join(kind: u8, head: &[u8], body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + head.len() + body.len());
    bytes.push(kind);
    bytes.extend_from_slice(head);
    bytes.extend_from_slice(body);
    bytes
}

fn split<T: Pod>(bytes: &[u8]) -> Option<(T, &[u8])> {
    let (head, body) = bytes.split_at_checked(size_of::<T>())?;
    Some((bytemuck::pod_read_unaligned(head), body))
}

fn whole<T: Pod>(bytes: &[u8]) -> Option<T> {
    split(bytes).and_then(|(head, rest)| rest.is_empty().then_some(head))
}

impl<'a> Message<'a> {
    pub(super) fn encode(&self) -> Vec<u8> {
        match *self {
            Message::Raft(bytes) => join(RAFT, &[], bytes),
            Message::Forward(ref head, command) => join(FORWARD, bytemuck::bytes_of(head), command),
            Message::ForwardChange(ref head, ref change) => {
                join(FORWARD_CHANGE, bytemuck::bytes_of(head), &change.encode())
            }
            Message::Answer { incarnation, ticket, answer } => {
                let verdict = failure_number(answer);
                let head = AnswerHead { incarnation, ticket: ticket.0, verdict };
                join(ANSWER, bytemuck::bytes_of(&head), &[])
            }
            Message::Offer { transfer, length, raft } => {
                join(OFFER, bytemuck::bytes_of(&OfferHead { transfer: transfer.0, length }), raft)
            }
            Message::Piece { transfer, offset, bytes } => {
                join(PIECE, bytemuck::bytes_of(&PieceHead { transfer: transfer.0, offset }), bytes)
            }
            Message::Credit { transfer, received, reception } => {
                let state = reception as u8;
                let head = CreditHead { transfer: transfer.0, received, state };
                join(CREDIT, bytemuck::bytes_of(&head), &[])
            }
            Message::Digest { index, digest } => {
                join(DIGEST, bytemuck::bytes_of(&DigestHead { index, digest }), &[])
            }
        }
    }

    /// The message that bytes are, or `None` for bytes that are none.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Message<'a>> {
        let (&kind, rest) = bytes.split_first()?;
        Some(match kind {
            RAFT => Message::Raft(rest),
            FORWARD => {
                let (head, command) = split(rest)?;
                Message::Forward(head, command)
            }
            FORWARD_CHANGE => {
                let (head, change) = split(rest)?;
                Message::ForwardChange(head, MemberChange::decode(change)?)
            }
            ANSWER => {
                let head: AnswerHead = whole(rest)?;
                let answer = answer_of(head.verdict)?;
                Message::Answer {
                    incarnation: head.incarnation,
                    ticket: Ticket(head.ticket),
                    answer,
                }
            }
            OFFER => {
                let (head, raft): (OfferHead, _) = split(rest)?;
                Message::Offer { transfer: TransferId(head.transfer), length: head.length, raft }
            }
            PIECE => {
                let (head, bytes): (PieceHead, _) = split(rest)?;
                Message::Piece { transfer: TransferId(head.transfer), offset: head.offset, bytes }
            }
            CREDIT => {
                let head: CreditHead = whole(rest)?;
                let reception = match head.state {
                    0 => Reception::Going,
                    1 => Reception::Done,
                    2 => Reception::Stopped,
                    _ => return None,
                };
                let (transfer, received) = (TransferId(head.transfer), head.received);
                Message::Credit { transfer, received, reception }
            }
            DIGEST => {
                let head: DigestHead = whole(rest)?;
                Message::Digest { index: head.index, digest: head.digest }
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::MemberId;

    #[test]
    fn messages_survive_their_encoding() {
        let forwarded = Forwarded { incarnation: 1, ticket: 2, term: 3 };
        let change = MemberChange::Promote {
            voters: vec![MemberId(4), MemberId(5)],
            removed: vec![MemberId(6)],
        };
        let transfer = TransferId(9);
        let reception = Reception::Stopped;
        for message in [
            Message::Raft(b"opaque"),
            Message::Forward(forwarded, b"command"),
            Message::ForwardChange(forwarded, change),
            Message::Answer {
                incarnation: 1,
                ticket: Ticket(2),
                answer: Answer::No(Failure::Behind),
            },
            Message::Offer { transfer, length: 10, raft: b"raft" },
            Message::Piece { transfer, offset: 5, bytes: b"bytes" },
            Message::Credit { transfer, received: 7, reception },
            Message::Digest { index: 8, digest: [7; 32] },
        ] {
            assert_eq!(Message::decode(&message.encode()), Some(message));
        }
    }

    proptest! {
        #[test]
        fn noise_does_not_panic(kind in 0_u8..10, noise in prop::collection::vec(any::<u8>(), 0..90)) {
            let mut bytes = vec![kind];
            bytes.extend(noise);
            if let Some(message) = Message::decode(&bytes) {
                prop_assert_eq!(message.encode(), bytes);
            }
        }
    }
}
