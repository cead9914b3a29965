//! The masters' ordered keyspace: names of files, limits, small values of users.

use crate::macros::{item, message};
use crate::wire::WireUuid;

item! {
    /// A condition of a transaction.
    "key_compare" KeyCompare {
        /// Bytes of the key, which stands in `bytes`.
        key_length: u64,
        /// Log index of the key's last change; 0 where it must not exist.
        version: u64,
    }
}

item! {
    /// A write of a transaction.
    "key_write" KeyWrite {
        /// Bytes of the key, which stands in `bytes`.
        key_length: u64,
        /// Bytes of the value, which stands behind it.
        value_length: u64,
        /// 0: put. 1: delete.
        is_delete: u8,
    }
}

message! {
    /// Writes keys if all conditions hold, in one log entry. Answered by `key_result`.
    KeyTransaction {
        /// `applied_index` of the session's `hello_reply`.
        session_index: u64,
        /// Pin under which files named by the values were stored; zero for none.
        pin_uuid: WireUuid,
        /// Number of `compares`.
        compare_count: u64,
        /// Number of `writes`.
        write_count: u64,
        /// Bytes of `bytes`.
        bytes_length: u64,
    }
    parts {
        /// The conditions.
        compares: [KeyCompare; "key_compare"] by compare_count,
        /// The writes.
        writes: [KeyWrite; "key_write"] by write_count,
        /// Keys of the conditions, then keys and values of the writes, without separator.
        bytes: [u8; "bytes"] by bytes_length,
    }
}

message! {
    /// Answers `key_transaction`.
    KeyResult {
        /// 1 where the conditions held and the writes are committed.
        is_applied: u8,
        /// Log index of the entry.
        index: u64,
    }
}

message! {
    /// Asks for keys in order. Answered by `key_entry` records under the same request id, then
    /// `list_end`.
    KeyRange {
        /// At most this many; limited by the master.
        limit: u32,
        /// The reply must come from a state at least as new as this log index.
        seen_index: u64,
        /// Bytes of `prefix`.
        prefix_length: u64,
        /// Bytes of `after`.
        after_length: u64,
    }
    parts {
        /// Keys that begin so.
        prefix: [u8; "bytes"] by prefix_length,
        /// Only keys behind this one.
        after: [u8; "bytes"] by after_length,
    }
}

message! {
    /// A key and its value.
    KeyEntry {
        /// Log index of its last change.
        version: u64,
        /// Bytes of `key`.
        key_length: u64,
        /// Bytes of `value`.
        value_length: u64,
    }
    parts {
        /// The key.
        key: [u8; "bytes"] by key_length,
        /// The value.
        value: [u8; "bytes"] by value_length,
    }
}
