//! Registers: what they hold, and how their replicas are moved when the ring changes.
//!
//! The writes of a register are ordered by their *tags*: (sequence, writer, operation), compared in
//! this order. A tag is all zero where nothing was written. The writer's UUID is new at each of its
//! starts, and the operation counts its writes.

use crate::macros::{item, message};
use crate::wire::WireUuid;

message! {
    /// Asks a replica for a register. Answered by `register_value`. Refused `stale_ring` where the
    /// version is not the active one of the register's part, or the part is sealed.
    RegisterRead {
        /// The register.
        register_address: u64,
        /// The version of the ring that is active for the register's part.
        ring_version: u64,
        /// 1 where the value is wanted; 0 for the tag alone.
        wants_value: u8,
        /// 1 to look at this node's own copy, whatever the ring says.
        is_local: u8,
    }
}

message! {
    /// What a replica has durably of a register.
    RegisterValue {
        /// The register.
        register_address: u64,
        /// The version of the ring that is active here for the register's part.
        ring_version: u64,
        /// Sequence of its tag.
        sequence: u64,
        /// Writer of its tag.
        writer_uuid: WireUuid,
        /// Operation of its tag.
        operation: u64,
        /// Bytes of `value`.
        value_length: u64,
    }
    parts {
        /// The value, where it was wanted.
        value: [u8; "bytes"] by value_length,
    }
}

message! {
    /// Asks a replica to keep a value if its tag is higher than the one it has. Answered by
    /// `register_written` when that, or a higher one, is durable. Refused as `register_read` is.
    RegisterWrite {
        /// The register.
        register_address: u64,
        /// The version of the ring that is active for the register's part.
        ring_version: u64,
        /// Sequence of its tag.
        sequence: u64,
        /// Writer of its tag.
        writer_uuid: WireUuid,
        /// Operation of its tag.
        operation: u64,
        /// Bytes of `value`.
        value_length: u64,
    }
    parts {
        /// The value.
        value: [u8; "bytes"] by value_length,
    }
}

message! {
    /// The tag, or a higher one, is durable on this node.
    RegisterWritten {
        /// The register.
        register_address: u64,
        /// The version of the ring that is active here for the register's part.
        ring_version: u64,
    }
}

item! {
    /// A register in a page of a part.
    "register_entry" RegisterEntry {
        /// The register.
        register_address: u64,
        /// Sequence of its tag.
        sequence: u64,
        /// Writer of its tag.
        writer_uuid: WireUuid,
        /// Operation of its tag.
        operation: u64,
        /// Bytes of its value; the values stand one after the other.
        value_length: u64,
    }
}

message! {
    /// Asks a replica never again to serve a part of the registers under a version of the ring, and
    /// for what it has of that part. Answered by `register_sealed`, page by page.
    RegisterSeal {
        /// Number of the part.
        part: u32,
        /// The version that is left.
        ring_version: u64,
        /// The page begins with the first register at or above this address.
        first_address: u64,
    }
}

message! {
    /// The part is durably sealed; a page of what the replica has of it.
    RegisterSealed {
        /// Number of the part.
        part: u32,
        /// The version that is left.
        ring_version: u64,
        /// 1 where there is more behind the last register of this page.
        has_more: u8,
        /// Number of `entries`.
        entry_count: u64,
        /// Bytes of `values`.
        values_length: u64,
    }
    parts {
        /// Registers by address.
        entries: [RegisterEntry; "register_entry"] by entry_count,
        /// Their values.
        values: [u8; "bytes"] by values_length,
    }
}

message! {
    /// Asks a replica of a version that is not active yet to keep registers, each if its tag is
    /// higher. Answered by `register_copied` when all of them, or higher ones, are durable.
    RegisterCopy {
        /// Number of the part.
        part: u32,
        /// The version that they are moved to.
        ring_version: u64,
        /// Number of `entries`.
        entry_count: u64,
        /// Bytes of `values`.
        values_length: u64,
    }
    parts {
        /// Registers by address.
        entries: [RegisterEntry; "register_entry"] by entry_count,
        /// Their values.
        values: [u8; "bytes"] by values_length,
    }
}

message! {
    /// The registers are durable on this node.
    RegisterCopied {
        /// Number of the part.
        part: u32,
        /// The version that they are moved to.
        ring_version: u64,
    }
}
