//! Files and blocks, between anybody and the storage nodes.

use crate::macros::{item, message};
use crate::wire::WireUuid;

message! {
    /// Asks for a whole file of at most 32 MiB. A larger one is answered `too_large`, which names
    /// `block_get` as the way.
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

message! {
    /// Stores a block. Answered by `block_stored` when it is durable on the receiving node.
    BlockPut {
        /// The block: made from the digest of `content` under the context that `kind` names.
        block_uuid: WireUuid,
        /// See the list of block kinds.
        kind: u8,
        /// Version of the ring that the sender goes by.
        ring_version: u64,
        /// The sender's pin and its starting round; zero for none.
        pin_uuid: WireUuid,
        /// Round in which the pin began.
        pin_round: u64,
        /// Node for which a dead owner's place is taken; zero where the receiver owns it.
        hand_off_uuid: WireUuid,
        /// Bytes of `content`.
        content_length: u64,
        /// Replicas that the file wants; 0 for the cluster's default. The node keeps the highest
        /// that it was told.
        replica_count: u8,
        /// Round that the block is stamped with at another node, which hands it over; 0 where a
        /// client stores it.
        stamp: u64,
    }
    parts {
        /// The block's bytes.
        content: [u8; "bytes"] by content_length,
    }
}

message! {
    /// The block is durable on this node.
    BlockStored {
        /// The block.
        block_uuid: WireUuid,
        /// Version of the ring that the node goes by.
        ring_version: u64,
        /// 1 where the node had it before.
        was_present: u8,
    }
}

message! {
    /// Asks for a block, or for a piece of one.
    BlockGet {
        /// The block.
        block_uuid: WireUuid,
        /// Version of the ring that the asker goes by; 0 for one that knows none.
        ring_version: u64,
        /// First byte that is wanted.
        offset: u64,
        /// Bytes that are wanted; 0 for all from `offset` on. Only a whole block can be verified
        /// by the asker; the node verified it when it read it from disk.
        length: u64,
    }
}

message! {
    /// A block's bytes.
    BlockContent {
        /// The block.
        block_uuid: WireUuid,
        /// See the list of block kinds.
        kind: u8,
        /// Bytes of the whole block.
        block_length: u64,
        /// First byte that follows.
        offset: u64,
        /// Bytes of `content`.
        content_length: u64,
    }
    parts {
        /// The bytes.
        content: [u8; "bytes"] by content_length,
    }
}

message! {
    /// Asks which blocks a node holds durably. Answered by `block_presence`.
    BlockQuery {
        /// Version of the ring that the asker goes by.
        ring_version: u64,
        /// The asker's pin and its starting round; zero for none.
        pin_uuid: WireUuid,
        /// Round in which the pin began.
        pin_round: u64,
        /// Number of `blocks`.
        block_count: u64,
        /// Replicas that the blocks' file wants; 0 for the cluster's default.
        replica_count: u8,
    }
    parts {
        /// The blocks.
        blocks: [WireUuid; "uuid"] by block_count,
    }
}

message! {
    /// Which of the asked blocks the node holds durably.
    BlockPresence {
        /// Version of the ring that the node goes by.
        ring_version: u64,
        /// Number of `present`.
        present_count: u64,
    }
    parts {
        /// For each asked block in order: 1 durable here, 0 not.
        present: [u8; "flags"] by present_count,
    }
}

item! {
    /// A block that one node offers to another.
    "offered_block" OfferedBlock {
        /// The block.
        block_uuid: WireUuid,
        /// Round that it is stamped with.
        stamp: u64,
        /// Its bytes.
        length: u32,
        /// See the list of block kinds.
        kind: u8,
        /// Replicas that it wants; 0 for the cluster's default.
        replica_count: u8,
    }
}

message! {
    /// Offers blocks to a node that owns them by the newest ring. Answered by `block_offered`.
    /// Refused `stale_ring` by a node that knows a newer ring, `unavailable` by one that does not
    /// know this one yet: a confirmation counts only between two nodes at the same version.
    BlockOffer {
        /// Version of the ring that the sender goes by.
        ring_version: u64,
        /// Number of `blocks`.
        block_count: u64,
    }
    parts {
        /// The blocks.
        blocks: [OfferedBlock; "offered_block"] by block_count,
    }
}

message! {
    /// What becomes of offered blocks. What is wanted is then sent with `block_put`.
    BlockOffered {
        /// Version of the ring that the node goes by.
        ring_version: u64,
        /// Number of `states`.
        state_count: u64,
    }
    parts {
        /// For each offered block in order, see the list of offer states.
        states: [u8; "offer states"] by state_count,
    }
}

message! {
    /// Asks a storage node for its counters and space. Answered by `storage_space`.
    StorageQuery {}
}

item! {
    /// Counters of a storage node since it started.
    "storage_counters" StorageCounters {
        /// Blocks held.
        block_count: u64,
        /// Bytes of the blocks held.
        block_bytes: u64,
        /// Blocks stored since the start.
        put_count: u64,
        /// Bytes of those.
        put_bytes: u64,
        /// Blocks, or pieces of them, answered since the start.
        get_count: u64,
        /// Bytes of those.
        get_bytes: u64,
        /// Blocks found to have another digest than they should.
        damaged_count: u64,
    }
}

message! {
    /// A storage node's counters and space.
    StorageSpace {
        /// Bytes of the file system that holds its data folder.
        total_bytes: u64,
        /// Bytes that are free there.
        free_bytes: u64,
        /// Number of `counters`: 1.
        counters_count: u64,
    }
    parts {
        /// The counters.
        counters: [StorageCounters; "storage_counters"] by counters_count,
    }
}
