//! The message catalogue: one table from which numbers, names, layouts, the C header and
//! `docs/protocol.md` are derived. A number is never used again.

use crate::messages::file::{
    BlockContent, BlockGet, BlockOffer, BlockOffered, BlockPresence, BlockPut, BlockQuery,
    BlockStored, FileRequest, FileResponse, StorageQuery, StorageSpace,
};
use crate::messages::job::{
    ExplainQuery, ExplainReply, JobAccepted, JobCancel, JobChange, JobDescribe, JobDescribed,
    JobList, JobQuery, JobStatus, JobSubmit, ListEnd, SegmentFold, SegmentFolded, SegmentList,
    SegmentQuery, TaskOutcomes, TaskQuery,
};
use crate::messages::keyspace::{KeyEntry, KeyRange, KeyResult, KeyTransaction};
use crate::messages::node::{
    DealMark, DealMarkReply, FeedBatch, FeedPull, LeaseRenew, LeaseReply, NodeEntry, NodeForget,
    NodeForgotten, NodeList, NodeRegister, NodeRegistered, RegisterActivate, RegisterActivated,
    RingChange, RingChanged, RingQuery, RingReply, RingStatus, RingStatusQuery, RunsLost,
    RunsUnfinished, StorageReport, StorageTold, WorkersSilent,
};
use crate::messages::raft::{MemberJoin, MemberJoined, RaftMessage};
use crate::messages::register::{
    RegisterCopied, RegisterCopy, RegisterRead, RegisterSeal, RegisterSealed, RegisterValue,
    RegisterWrite, RegisterWritten,
};
use crate::messages::session::{ErrorReply, Hello, HelloReply, Ping, Pong};
use crate::messages::task::{
    ActivityList, ActivityQuery, OutputChunk, OutputPull, TaskFree, TaskRecall, TaskReturned,
    TaskSettled, WorkerHeartbeat, WorkerHeartbeatReply, WorkerRequest, WorkerSegment, WorkerStatus,
    WorkerStatusReply,
};
use crate::messages::telemetry::{
    TelemetryAlert, TelemetrySnapshot, TelemetrySnapshotRequest, TelemetryStatus,
};
use crate::record::{Layout, Message};

/// Version of the protocol that this program speaks. A peer of another one is refused at `hello`.
pub const PROTOCOL_VERSION: u32 = 1;

/// Number and name of a message; implemented by the table below and nowhere else.
pub trait Numbered {
    /// Byte 0 of the record.
    const NUMBER: u8;
    /// Its name in C.
    const NAME: &'static str;
}

macro_rules! catalogue {
    ($($number:literal $name:ident $type:ident $from:ident -> $to:ident;)*) => {
        $(impl Numbered for $type {
            const NUMBER: u8 = $number;
            const NAME: &'static str = stringify!($name);
        })*

        /// Every message, in the order of the numbers.
        pub const MESSAGES: &[Layout] = &[$(Layout {
            message_type: $number,
            name: stringify!($name),
            meaning: <$type as Message>::MEANING,
            from: stringify!($from),
            to: stringify!($to),
            length: size_of::<$type>(),
            given_length: <$type as Message>::GIVEN_LENGTH,
            envelope_offset: <$type as Message>::ENVELOPE_OFFSET,
            fields: <$type as Message>::FIELDS,
            parts: <$type as Message>::PARTS,
        },)*];
    };
}

catalogue! {
    // The given structs.
    0x01 worker_request             WorkerRequest            balancer -> worker;
    0x02 worker_status              WorkerStatus             worker   -> master;
    0x03 file_request               FileRequest              any      -> storage;
    0x04 file_response              FileResponse             storage  -> any;
    // Any connection.
    0x08 hello                      Hello                    any      -> any;
    0x09 hello_reply                HelloReply               any      -> any;
    0x0a error_reply                ErrorReply               any      -> any;
    0x0b ping                       Ping                     any      -> any;
    0x0c pong                       Pong                     any      -> any;
    // Client and masters.
    0x10 job_submit                 JobSubmit                client   -> master;
    0x11 job_accepted               JobAccepted              master   -> client;
    0x12 job_query                  JobQuery                 client   -> master;
    0x13 job_status                 JobStatus                master   -> client;
    0x14 job_list                   JobList                  client   -> master;
    0x15 list_end                   ListEnd                  master   -> any;
    0x16 job_cancel                 JobCancel                client   -> master;
    0x17 task_query                 TaskQuery                client   -> master;
    0x18 task_outcomes              TaskOutcomes             master   -> client;
    0x19 segment_query              SegmentQuery             client   -> master;
    0x1a segment_list               SegmentList              master   -> client;
    0x1b job_describe               JobDescribe              client   -> master;
    0x1c job_described              JobDescribed             master   -> client;
    0x1d job_change                 JobChange                client   -> master;
    0x1e explain_query              ExplainQuery             any      -> any;
    0x1f explain_reply              ExplainReply             any      -> any;
    0x20 key_transaction            KeyTransaction           client   -> master;
    0x21 key_result                 KeyResult                master   -> client;
    0x22 key_range                  KeyRange                 client   -> master;
    0x23 key_entry                  KeyEntry                 master   -> client;
    0x24 segment_fold               SegmentFold              worker   -> master;
    0x25 segment_folded             SegmentFolded            master   -> worker;
    0x26 node_forget                NodeForget               client   -> master;
    0x27 node_forgotten             NodeForgotten            master   -> client;
    0x28 ring_change                RingChange               client   -> master;
    0x29 ring_changed               RingChanged              master   -> client;
    0x2a ring_status_query          RingStatusQuery          client   -> master;
    0x2b ring_status                RingStatus               master   -> client;
    // Membership, leases and grants.
    0x30 node_register              NodeRegister             any      -> master;
    0x31 node_registered            NodeRegistered           master   -> any;
    0x32 node_list                  NodeList                 any      -> master;
    0x33 node_entry                 NodeEntry                master   -> any;
    0x34 ring_query                 RingQuery                any      -> master;
    0x35 ring_reply                 RingReply                master   -> any;
    0x36 workers_silent             WorkersSilent            balancer -> master;
    0x38 lease_renew                LeaseRenew               balancer -> master;
    0x39 lease_reply                LeaseReply               master   -> balancer;
    0x3a feed_pull                  FeedPull                 balancer -> master;
    0x3b feed_batch                 FeedBatch                master   -> balancer;
    0x3c runs_lost                  RunsLost                 balancer -> master;
    0x3d runs_unfinished            RunsUnfinished           master   -> balancer;
    0x3e deal_mark                  DealMark                 balancer -> balancer;
    0x3f deal_mark_reply            DealMarkReply            balancer -> balancer;
    // Workers.
    0x40 worker_status_reply        WorkerStatusReply        master   -> worker;
    0x41 worker_heartbeat           WorkerHeartbeat          worker   -> balancer;
    0x42 worker_heartbeat_reply     WorkerHeartbeatReply     balancer -> worker;
    0x43 task_free                  TaskFree                 worker   -> balancer;
    0x44 task_settled               TaskSettled              worker   -> balancer;
    0x45 task_recall                TaskRecall               balancer -> worker;
    0x46 task_returned              TaskReturned             worker   -> balancer;
    0x47 worker_segment             WorkerSegment            worker   -> master;
    0x48 activity_query             ActivityQuery            any      -> worker;
    0x49 activity_list              ActivityList             worker   -> any;
    0x4a output_pull                OutputPull               any      -> worker;
    0x4b output_chunk               OutputChunk              worker   -> any;
    // Storage nodes and the leader.
    0x50 storage_report             StorageReport            storage  -> master;
    0x51 storage_told               StorageTold              master   -> storage;
    0x52 register_activate          RegisterActivate         storage  -> master;
    0x53 register_activated         RegisterActivated        master   -> storage;
    // Storage.
    0x60 block_put                  BlockPut                 any      -> storage;
    0x61 block_stored               BlockStored              storage  -> any;
    0x62 block_get                  BlockGet                 any      -> storage;
    0x63 block_content              BlockContent             storage  -> any;
    0x64 block_query                BlockQuery               any      -> storage;
    0x65 block_presence             BlockPresence            storage  -> any;
    0x66 storage_query              StorageQuery             any      -> storage;
    0x67 storage_space              StorageSpace             storage  -> any;
    0x68 block_offer                BlockOffer               storage  -> storage;
    0x69 block_offered              BlockOffered             storage  -> storage;
    // Registers.
    0x70 register_read              RegisterRead             any      -> storage;
    0x71 register_value             RegisterValue            storage  -> any;
    0x72 register_write             RegisterWrite            any      -> storage;
    0x73 register_written           RegisterWritten          storage  -> any;
    0x74 register_seal              RegisterSeal             storage  -> storage;
    0x75 register_sealed            RegisterSealed           storage  -> storage;
    0x76 register_copy              RegisterCopy             storage  -> storage;
    0x77 register_copied            RegisterCopied           storage  -> storage;
    // Between masters.
    0x80 raft_message               RaftMessage              master   -> master;
    0x81 member_join                MemberJoin               master   -> master;
    0x82 member_joined              MemberJoined             master   -> master;
    // Telemetry.
    0x90 telemetry_status           TelemetryStatus          any      -> subscriber;
    0x91 telemetry_alert            TelemetryAlert           any      -> subscriber;
    0x92 telemetry_snapshot_request TelemetrySnapshotRequest any      -> any;
    0x93 telemetry_snapshot         TelemetrySnapshot        any      -> any;
}

/// Position of each number in [`MESSAGES`], for a look-up without search.
const POSITIONS: [u8; 256] = {
    let mut positions = [u8::MAX; 256];
    let mut at = 0;
    while at < MESSAGES.len() {
        let number = MESSAGES[at].message_type as usize;
        assert!(positions[number] == u8::MAX, "a message number is used twice");
        positions[number] = at as u8;
        at += 1;
    }
    positions
};

const _: () = assert!(MESSAGES.len() < u8::MAX as usize);

/// What the catalogue says of a number; `None` for one that it does not have.
#[must_use]
pub fn layout(message_type: u8) -> Option<&'static Layout> {
    MESSAGES.get(POSITIONS[message_type as usize] as usize)
}

/// The name of a number, for people.
#[must_use]
pub fn name(message_type: u8) -> &'static str {
    layout(message_type).map_or("unknown message", |layout| layout.name)
}
