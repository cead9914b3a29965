//! What nodes say about themselves over PUB/SUB. The topic is the `message_type` byte.

use crate::macros::message;

message! {
    /// A node's state, published when it changes and at least every two seconds. `sequence` of the
    /// envelope numbers all publications of one incarnation, so that a subscriber sees a gap.
    TelemetryStatus {
        /// The node's tier.
        role: u8,
        /// How often its data folder was started.
        incarnation: u64,
        /// Bytes of `status`.
        status_length: u64,
    }
    parts {
        /// What the node says of itself, as a JSON object.
        status: [u8; "UTF-8 JSON"] by status_length,
    }
}

message! {
    /// Something that a person should know.
    TelemetryAlert {
        /// The node's tier.
        role: u8,
        /// How often its data folder was started.
        incarnation: u64,
        /// 1 a change of state, 2 unexpected but handled, 3 a person must act.
        level: u8,
        /// Bytes of `text`.
        text_length: u64,
    }
    parts {
        /// One sentence.
        text: [u8; "UTF-8"] by text_length,
    }
}

message! {
    /// Asks a node (on its ordinary port) for what a subscriber missed.
    TelemetrySnapshotRequest {}
}

message! {
    /// The publisher's present state: the newest status, then the alerts still kept, as complete
    /// records. Publications up to `last_sequence` are contained in it.
    TelemetrySnapshot {
        /// How often the publisher's data folder was started.
        incarnation: u64,
        /// Sequence of the newest publication that is contained.
        last_sequence: u64,
        /// Bytes of `records`.
        records_length: u64,
    }
    parts {
        /// Records back to back.
        records: [u8; "records"] by records_length,
    }
}
