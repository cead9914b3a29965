//! Files and blocks, between anybody and the storage nodes.

use crate::macros::message;
use crate::wire::WireUuid;

message! {
    /// Asks for a whole file of at most 32 MiB.
    FileRequest {
        given {
            /// The file.
            file_uuid: WireUuid,
        }
        /// Version of the ring that the asker goes by; 0 for one that knows none.
        ring_version: u64,
    }
}

message! {
    /// A file's content.
    FileResponse {
        given {
            /// The file.
            file_uuid: WireUuid,
            /// Bytes of `content`.
            file_length: u64,
        }
        /// Version of the ring that the answering node goes by.
        ring_version: u64,
    }
    parts {
        /// The file's bytes.
        content: [u8; "bytes"] by file_length,
    }
}
