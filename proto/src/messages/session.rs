//! How a connection begins, and what any node may answer.

use crate::macros::message;
use crate::wire::WireUuid;

message! {
    /// Opens a connection. The receiver refuses a peer of another protocol version or cluster.
    Hello {
        /// Version of this protocol that the sender speaks.
        protocol_version: u32,
        /// The sender's tier; see the list of roles.
        role: u8,
        /// The cluster that the sender belongs to; zero for a client that does not know it yet.
        cluster_uuid: WireUuid,
        /// How often the sender's data folder was started; 0 for a client.
        incarnation: u64,
        /// Bytes of `binary_version`.
        binary_version_length: u64,
        /// Bytes of `address`.
        address_length: u64,
    }
    parts {
        /// Version of the sender's program, for people.
        binary_version: [u8; "UTF-8"] by binary_version_length,
        /// Where the sender can be reached (`tcp://HOST:PORT`); empty for a client.
        address: [u8; "UTF-8"] by address_length,
    }
}

message! {
    /// Accepts a connection.
    HelloReply {
        /// Version of this protocol that the answering node speaks.
        protocol_version: u32,
        /// The answering node's tier.
        role: u8,
        /// The answering node's cluster.
        cluster_uuid: WireUuid,
        /// How often the answering node's data folder was started.
        incarnation: u64,
        /// Log index that the answering master has applied (0 from other tiers). Changing requests
        /// carry the one of the `hello` that opened the client's session.
        applied_index: u64,
        /// How many requests the client may have in flight.
        window: u32,
        /// Bytes of `binary_version`.
        binary_version_length: u64,
        /// Bytes of `masters`.
        masters_length: u64,
    }
    parts {
        /// Version of the answering node's program, for people.
        binary_version: [u8; "UTF-8"] by binary_version_length,
        /// Addresses of the masters, separated by commas, the leader first where it is known.
        masters: [u8; "UTF-8"] by masters_length,
    }
}

message! {
    /// Refuses a record, or says that a request failed.
    ErrorReply {
        /// What is wrong; see the list of error codes, which says where trying again can help.
        code: u16,
        /// `message_type` of the record that is refused; 0 where it cannot be told.
        refused_type: u8,
        /// How long to wait before trying again, in milliseconds; 0 where it does not matter.
        retry_after_ms: u32,
        /// Bytes of `text`.
        text_length: u64,
        /// Bytes of `instead`.
        instead_length: u64,
    }
    parts {
        /// One sentence for people: what is wrong and what to do.
        text: [u8; "UTF-8"] by text_length,
        /// Address of the node to ask instead (the leading master), where the sender knows it.
        instead: [u8; "UTF-8"] by instead_length,
    }
}

message! {
    /// Asks whether a node's event loop is alive.
    Ping {}
}

message! {
    /// Answers `ping`.
    Pong {}
}
