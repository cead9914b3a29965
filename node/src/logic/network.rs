//! What a tier's logic says to the network and hears from it: links, peers, effects, events.
//!
//! Responsible for the vocabulary that logic, real sockets and simulator share. How connections
//! begin, how records are packed and what is refused is [`super::sessions`]'s matter.

use std::sync::Arc;

use proto::ids::{ClusterId, Incarnation, LogIndex, NodeId};
use proto::record::Record;
use proto::status::{ErrorCode, Role};

/// A connection that this node opens; the tier's logic chooses the number and may open it again
/// after it was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link(pub u32);

/// A peer that connected to this node. Each connection gets a number of its own, never used again,
/// so that what was meant for an earlier connection cannot reach a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Inbound(pub(super) u64);

/// Whom records go to and come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// The node at the other end of a link.
    Link(Link),
    /// A node or client that connected to this one.
    Inbound(Inbound),
}

/// Who sent a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Where an answer goes.
    pub peer: Peer,
    /// The node as its `hello` (or `hello_reply`) said; for a foreign client without `hello`, as
    /// the record says.
    pub node: NodeId,
    /// Its tier; [`Role::Client`] for a foreign client without `hello`.
    pub role: Role,
    /// How often its data folder was started; 0 for clients.
    pub incarnation: Incarnation,
}

/// What a logic wants from the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkEffect {
    /// Open a link. One that is open is closed first and what was queued on it is lost. Records
    /// may be sent at once; they queue behind the `hello`.
    Open {
        /// The number under which it is known from now on.
        link: Link,
        /// Where to: `tcp://HOST:PORT`.
        address: String,
    },
    /// Close a link; its queued records are given a moment to leave.
    Close {
        /// The link; nothing happens where it is not open.
        link: Link,
    },
    /// Send an encoded record; it is stamped on the way. To a peer that is gone it is dropped and
    /// counted.
    Send {
        /// Whom to.
        to: Peer,
        /// One record as [`proto::record::encode`] makes it.
        record: Vec<u8>,
    },
}

/// What the network tells a logic.
#[derive(Clone, Debug)]
pub enum NetworkEvent<'a> {
    /// The node at the other end of a link accepted the `hello`.
    Connected {
        /// The link.
        link: Link,
        /// Who answers there.
        sender: Sender,
        /// Its cluster.
        cluster: ClusterId,
        /// Log index that a master has applied; 0 from other tiers.
        applied_index: LogIndex,
        /// How many requests may be in flight.
        window: u32,
        /// Addresses of the masters, separated by commas.
        masters: String,
        /// True where the link was connected before: the other end forgot this node (it was
        /// restarted), and requests that it has not answered are lost.
        again: bool,
    },
    /// The node at the other end of a link, which is connected already, names the masters again:
    /// one more is known.
    Masters {
        /// The link.
        link: Link,
        /// Addresses of the masters, separated by commas.
        masters: String,
    },
    /// The node at the other end of a link refused the `hello`. The link stays open and mute until
    /// it is opened again.
    Refused {
        /// The link.
        link: Link,
        /// Why.
        code: ErrorCode,
        /// A sentence for people: why, and which side to change.
        text: String,
    },
    /// A peer said `hello` and was accepted.
    Joined {
        /// The peer, by a handle that it did not have before.
        sender: Sender,
        /// Where it can be reached; empty for a client.
        address: String,
        /// Version of its program, for people.
        version: String,
    },
    /// A peer's session ended: it connected anew (its next `Joined` follows), or was forgotten
    /// because too many others came. Records to its handle are dropped from now on. A peer that
    /// merely falls silent is not reported: whoever needs to know uses heartbeats.
    Gone {
        /// The peer as it was known.
        sender: Sender,
    },
    /// Records to a peer were dropped because its queue is full. Reported once until it drains.
    Overflowing {
        /// The peer.
        peer: Peer,
    },
    /// A record.
    Record {
        /// Who sent it.
        sender: Sender,
        /// The record; it borrows the frame in which it came.
        record: Record<'a>,
    },
}

/// Who this node is to its peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its UUID; a node has one bound socket at most, and at most one link to any other.
    pub node: NodeId,
    /// Its tier.
    pub role: Role,
    /// The cluster that it belongs to; nil while it does not know it.
    pub cluster: ClusterId,
    /// How often its data folder was started; 0 for a client.
    pub incarnation: Incarnation,
    /// Version of its program.
    pub version: String,
    /// Where it can be reached; empty for a client.
    pub address: String,
}

/// What a tier tells each peer that says `hello`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Greeting {
    /// Log index that a master has applied; 0 from other tiers.
    pub applied_index: LogIndex,
    /// Requests that the peer may have in flight.
    pub window: u32,
    /// Addresses of the masters, separated by commas, the leader first where it is known.
    pub masters: String,
}

/// A peer's name on the bound socket: 1 to 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoutingId(Arc<[u8]>);

impl RoutingId {
    /// The name that a node of ours takes: `R` and its UUID, most significant byte first.
    #[must_use]
    pub fn of(node: NodeId) -> RoutingId {
        let mut bytes = [b'R'; 17];
        for (slot, byte) in bytes.iter_mut().skip(1).zip(node.0.to_be_bytes()) {
            *slot = byte;
        }
        RoutingId(Arc::from(bytes))
    }

    /// The name under which the socket delivered a frame.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> RoutingId {
        RoutingId(Arc::from(bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::borrow::Borrow<[u8]> for RoutingId {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// The bounds of a node's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkLimits {
    /// Peers that are remembered; beyond it the client that was silent longest is forgotten.
    pub peers: usize,
    /// Bytes queued for one peer; beyond it records to it are dropped.
    pub queued_bytes: usize,
}

impl NetworkLimits {
    /// For a daemon: ten thousand workers and as many clients (about 500 bytes each), and queues
    /// that hold a few of the largest records.
    pub const NODE: NetworkLimits = NetworkLimits { peers: 20_000, queued_bytes: 64 << 20 };
}
