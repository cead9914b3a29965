//! Between masters: consensus messages travel as opaque bytes.

use crate::macros::message;
use crate::wire::WireUuid;

message! {
    /// One message of the consensus library, from member to member.
    RaftMessage {
        /// The sending member's number in the Raft configuration.
        from_member: u64,
        /// The receiving member's.
        to_member: u64,
        /// Bytes of `content`.
        content_length: u64,
    }
    parts {
        /// What the consensus library said; its own encoding.
        content: [u8; "consensus"] by content_length,
    }
}

message! {
    /// Asks to be added to the masters as a learner, then as a voter.
    MemberJoin {
        /// The number that the new member drew for itself.
        member: u64,
        /// Its data folder's cluster; must be the receiver's.
        cluster_uuid: WireUuid,
        /// Bytes of `address`.
        address_length: u64,
    }
    parts {
        /// Where the other masters reach it.
        address: [u8; "UTF-8"] by address_length,
    }
}

message! {
    /// The member is in the configuration (as learner; it becomes a voter by itself).
    MemberJoined {
        /// The cluster that it now belongs to.
        cluster_uuid: WireUuid,
        /// Log index of the configuration that contains it.
        index: u64,
    }
}
