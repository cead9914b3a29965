//! Membership, leases and grants, between the masters and the nodes of the other tiers.

use crate::macros::{item, message};
use crate::messages::task::TaskRun;
use crate::wire::WireUuid;

message! {
    /// A node of another tier says that it is there. Committed to the log once for each incarnation
    /// and answered by `node_registered`.
    NodeRegister {
        /// See the list of roles.
        role: u8,
        /// The node's incarnation.
        incarnation: u64,
        /// Slots of a worker; 0 from others.
        slot_count: u32,
        /// Thousandths of a CPU that a worker's tasks may use.
        cpu_milli: u64,
        /// Bytes of memory that a worker's tasks may use, or of disk that a storage node may use.
        capacity_bytes: u64,
        /// A storage node's data folder.
        store_uuid: WireUuid,
        /// A storage node's weight on the ring.
        weight: u32,
        /// Bytes of `address`.
        address_length: u64,
        /// Bytes of `telemetry_address`.
        telemetry_address_length: u64,
        /// Bytes of `zone`.
        zone_length: u64,
    }
    parts {
        /// Where others reach it (`tcp://HOST:PORT`).
        address: [u8; "UTF-8"] by address_length,
        /// Where its PUB socket is bound.
        telemetry_address: [u8; "UTF-8"] by telemetry_address_length,
        /// Its failure zone; empty where there is only one.
        zone: [u8; "UTF-8"] by zone_length,
    }
}

message! {
    /// The node is in the roster. A worker whose group changed is told so unasked, with request id
    /// 0, by every master with which it has a session; it takes that for its assignment where `index`
    /// is higher than what it knows.
    NodeRegistered {
        /// Log index of the entry; for a worker the number of its assignment to the group.
        index: u64,
        /// The balancer group of a worker or a balancer.
        group: u64,
        /// The group's epoch at that moment.
        epoch: u64,
        /// 1 where the node is the group's primary.
        is_primary: u8,
        /// Version of the ring.
        ring_version: u64,
        /// Bytes of `balancers`.
        balancers_length: u64,
    }
    parts {
        /// Addresses of the group's primary and auxiliary, separated by a comma.
        balancers: [u8; "UTF-8"] by balancers_length,
    }
}

message! {
    /// A balancer renews its lease, every 0.25 s.
    LeaseRenew {
        /// The group.
        group: u64,
        /// The balancer's incarnation.
        incarnation: u64,
        /// The epoch that it holds; 0 from an auxiliary.
        epoch: u64,
        /// Workers of the group that it knows.
        worker_count: u32,
        /// Workers that answered within the worker timeout.
        reachable_count: u32,
        /// Slots of those.
        slot_count: u32,
        /// Tasks that are dealt and not settled, of all jobs.
        dealt_count: u64,
        /// Number of `running`.
        running_count: u64,
        /// What a primary says of its auxiliary; see the list of auxiliary states.
        auxiliary: u8,
        /// The auxiliary's incarnation that is meant.
        auxiliary_incarnation: u64,
    }
    parts {
        /// Tasks dealt and not settled by job, the largest first, at most 64; `first_task` and
        /// `attempt` are 0.
        running: [TaskRun; "task_run"] by running_count,
    }
}

message! {
    /// Answers `lease_renew`.
    LeaseReply {
        /// The group's epoch.
        epoch: u64,
        /// 1 where the asker is the group's primary under that epoch.
        is_primary: u8,
        /// The lease lasts this long from the moment when the asker sent `lease_renew`, in
        /// milliseconds.
        lease_ms: u32,
        /// Log index of the newest item of the group's feed.
        feed_index: u64,
        /// 1 where a new primary must take everything that was granted up to `feed_index` for
        /// dealt, because it was not in step when it was promoted.
        is_all_dealt: u8,
        /// The auxiliary as the log has it; see the list of auxiliary states.
        auxiliary: u8,
        /// The auxiliary; zero for none.
        auxiliary_uuid: WireUuid,
        /// Its incarnation.
        auxiliary_incarnation: u64,
        /// Bytes of `auxiliary_address`.
        auxiliary_address_length: u64,
        /// Workers of the group that have slots, as the log has them.
        group_worker_count: u64,
    }
    parts {
        /// Where the auxiliary is reached.
        auxiliary_address: [u8; "UTF-8"] by auxiliary_address_length,
    }
}

item! {
    /// How far the tasks of a granted range may have been dealt.
    "deal_bound" DealBound {
        /// The job.
        job_uuid: WireUuid,
        /// First task of the range as it was granted.
        first_task: u64,
        /// Every task of the range from this one on has not been dealt.
        dealt_below: u64,
    }
}

message! {
    /// A primary tells its auxiliary how far it will have dealt, before it deals so far.
    DealMark {
        /// The group.
        group: u64,
        /// The primary's epoch.
        epoch: u64,
        /// The auxiliary's incarnation that is meant.
        auxiliary_incarnation: u64,
        /// Number of this message within the epoch, from 1.
        mark: u64,
        /// The primary's feed goes this far: what was granted later has the mark of its grant.
        feed_index: u64,
        /// 1 where what is not named here has the mark of its grant; 0 where earlier marks of the
        /// epoch hold beside these.
        is_complete: u8,
        /// Number of `bounds`.
        bound_count: u64,
    }
    parts {
        /// The marks.
        bounds: [DealBound; "deal_bound"] by bound_count,
    }
}

message! {
    /// The auxiliary knows the marks.
    DealMarkReply {
        /// The group.
        group: u64,
        /// The epoch of `deal_mark`.
        epoch: u64,
        /// The auxiliary's incarnation.
        auxiliary_incarnation: u64,
        /// Every mark up to this number is known.
        mark: u64,
    }
}

impl DealMarkReply {
    /// What the auxiliary answers that a message is meant for, when it knows all in it.
    #[must_use]
    pub fn to(known: &DealMark) -> DealMarkReply {
        DealMarkReply {
            group: known.group,
            epoch: known.epoch,
            auxiliary_incarnation: known.auxiliary_incarnation,
            mark: known.mark,
            ..DealMarkReply::default()
        }
    }
}

message! {
    /// Asks the leader for what a balancer group must know. Parked until there is something newer
    /// than `after_index`; acknowledges everything up to it.
    FeedPull {
        /// The group.
        group: u64,
        /// The balancer's incarnation.
        incarnation: u64,
        /// Log index of the newest item that the balancer has; 0 for none.
        after_index: u64,
        /// `next_job_uuid` of the batch before, to go on with a complete feed; else zero.
        resume_job_uuid: WireUuid,
        /// `next_task` of the batch before.
        resume_task: u64,
    }
}

item! {
    /// One thing that a balancer group must know.
    "feed_item" FeedItem {
        /// Log index of the entry that made it.
        index: u64,
        /// See the list of feed kinds.
        kind: u8,
        /// The job.
        job_uuid: WireUuid,
        /// First task of a granted range.
        first_task: u64,
        /// Number of tasks of a granted range.
        task_count: u64,
        /// Priority of the job.
        priority: i32,
        /// Where in `jobs` the record of the job begins, for a grant.
        job_offset: u64,
        /// 1 where the job is held: none of its tasks is dealt.
        is_held: u8,
        /// Attempts of a granted range are numbered from here on, where this is higher than the
        /// epoch of the lease: the range was another group's before.
        move_number: u64,
    }
}

message! {
    /// What a balancer group must know, in the order of the log.
    FeedBatch {
        /// The group.
        group: u64,
        /// Everything up to this log index is contained in this and earlier batches.
        up_to_index: u64,
        /// 1 where this batch belongs to a complete feed: what it and the batches that it goes on
        /// from do not name does not exist. Its grants name unfinished tasks only.
        is_complete: u8,
        /// Where a complete feed goes on; zero where it ends with this batch.
        next_job_uuid: WireUuid,
        /// Where a complete feed goes on.
        next_task: u64,
        /// Number of `items`.
        item_count: u64,
        /// Bytes of `jobs`.
        jobs_length: u64,
    }
    parts {
        /// The items.
        items: [FeedItem; "feed_item"] by item_count,
        /// `job_submit` records of the granted jobs, back to back.
        jobs: [u8; "records"] by jobs_length,
    }
}

message! {
    /// A balancer cannot tell what became of these runs (their worker is silent, or a deal was lost
    /// on its way): the leader counts them as lost where `state` says so, and answers
    /// `runs_unfinished`.
    RunsLost {
        /// The group.
        group: u64,
        /// The balancer's epoch.
        epoch: u64,
        /// The worker that held them.
        worker_uuid: WireUuid,
        /// Number of `runs`.
        run_count: u64,
    }
    parts {
        /// The runs; `state` is *lost* or *returned* from the list of task states.
        runs: [TaskRun; "task_run"] by run_count,
    }
}

item! {
    /// A worker that was not heard of for long.
    "silent_worker" SilentWorker {
        /// The worker.
        worker_uuid: WireUuid,
        /// Its incarnation that was heard of last.
        incarnation: u64,
    }
}

message! {
    /// A primary has not heard of workers of its group for a minute: their slots do not count until
    /// they register again. Not answered; the primary says so again every ten seconds.
    WorkersSilent {
        /// The group.
        group: u64,
        /// The primary's epoch.
        epoch: u64,
        /// Number of `workers`.
        worker_count: u64,
    }
    parts {
        /// The workers, at most 64.
        workers: [SilentWorker; "silent_worker"] by worker_count,
    }
}

message! {
    /// Which of the runs of `runs_lost` have no outcome yet and are to be dealt again.
    RunsUnfinished {
        /// Log index of the entry.
        index: u64,
        /// Number of `runs`.
        run_count: u64,
    }
    parts {
        /// The unfinished runs; `state` is from the list of verdicts.
        runs: [TaskRun; "task_run"] by run_count,
    }
}

message! {
    /// Asks for the roster. Answered by `node_entry` records under the same request id, then
    /// `list_end`.
    NodeList {
        /// The reply must come from a state at least as new as this log index.
        seen_index: u64,
    }
}

message! {
    /// One node of the roster.
    NodeEntry {
        /// The node.
        entry_uuid: WireUuid,
        /// See the list of roles.
        role: u8,
        /// Its incarnation.
        incarnation: u64,
        /// 1 for the leading master or a primary balancer.
        leads: u8,
        /// Balancer group of a worker or balancer; member number of a master.
        group: u64,
        /// Slots of a worker.
        slot_count: u32,
        /// Log index of its registration.
        index: u64,
        /// Bytes of `address`.
        address_length: u64,
        /// Bytes of `telemetry_address`.
        telemetry_address_length: u64,
        /// Bytes of `zone`.
        zone_length: u64,
    }
    parts {
        /// Where others reach it.
        address: [u8; "UTF-8"] by address_length,
        /// Where its PUB socket is bound.
        telemetry_address: [u8; "UTF-8"] by telemetry_address_length,
        /// Its failure zone.
        zone: [u8; "UTF-8"] by zone_length,
    }
}

message! {
    /// Takes a node that left for good out of the roster. Answered by `node_forgotten`; one that
    /// comes back registers as a new one.
    NodeForget {
        /// The node.
        entry_uuid: WireUuid,
        /// The incarnation that is gone, as `node_entry` named it.
        incarnation: u64,
        /// `applied_index` of the session's `hello_reply`.
        session_index: u64,
    }
}

message! {
    /// The node is no longer in the roster.
    NodeForgotten {
        /// Log index of the entry.
        index: u64,
    }
}

message! {
    /// Asks for the ring and the addresses of its storage nodes.
    RingQuery {
        /// The version that the asker has; 0 for none.
        ring_version: u64,
    }
}

item! {
    /// A storage node of the ring.
    "ring_member" RingMember {
        /// The node.
        node_uuid: WireUuid,
        /// Its data folder.
        store_uuid: WireUuid,
        /// Its weight.
        weight: u32,
        /// Number of its zone.
        zone: u32,
        /// Bytes of its address; the addresses stand one after the other in `addresses`.
        address_length: u64,
    }
}

message! {
    /// The ring: placement is a pure function of what stands here.
    RingReply {
        /// Its version.
        ring_version: u64,
        /// Number of partitions, a power of two.
        partition_count: u64,
        /// Default number of replicas of a file.
        replica_count: u32,
        /// Number of `members`.
        member_count: u64,
        /// Bytes of `addresses`.
        addresses_length: u64,
        /// Number of `older`.
        older_count: u64,
        /// Number of `older_members`.
        older_member_count: u64,
        /// Number of `registers`.
        register_run_count: u64,
    }
    parts {
        /// The storage nodes, by UUID.
        members: [RingMember; "ring_member"] by member_count,
        /// Their addresses without separator, then those of `older_members`.
        addresses: [u8; "UTF-8"] by addresses_length,
        /// The versions before this one that are not drained or not yet left by all registers, the
        /// newest first.
        older: [OlderRing; "older_ring"] by older_count,
        /// Their members, one version after the other.
        older_members: [RingMember; "ring_member"] by older_member_count,
        /// By which version each part of the registers goes at present; together all parts in order.
        registers: [RegisterRun; "register_run"] by register_run_count,
    }
}

item! {
    /// A version of the ring before the newest one.
    "older_ring" OlderRing {
        /// Its version.
        ring_version: u64,
        /// Members that it has in `older_members`.
        member_count: u64,
        /// 1 while blocks may lie where only this version says; 0 where only registers go by it.
        holds_blocks: u8,
    }
}

item! {
    /// Consecutive parts of the registers that go by the same version of the ring.
    "register_run" RegisterRun {
        /// Number of parts.
        part_count: u32,
        /// The version that is active for them.
        ring_version: u64,
    }
}

message! {
    /// Changes the ring. Answered by `ring_changed`; refused `not_allowed` while an earlier change is
    /// under way, unless it is forced.
    RingChange {
        /// See the list of ring actions.
        action: u8,
        /// The node; zero for all where the action is meant for all.
        node_uuid: WireUuid,
        /// Its weight; 0 for the one that it has, or that it registered with.
        weight: u32,
        /// 1 to do it although a change is under way, or although the node that is removed answers.
        is_forced: u8,
        /// `applied_index` of the session's `hello_reply`.
        session_index: u64,
        /// 1 where `zone` is to be set.
        sets_zone: u8,
        /// Bytes of `zone`.
        zone_length: u64,
    }
    parts {
        /// Its failure zone.
        zone: [u8; "UTF-8"] by zone_length,
    }
}

message! {
    /// The change is in the log.
    RingChanged {
        /// Version of the ring after it.
        ring_version: u64,
        /// Log index of the entry.
        index: u64,
    }
}

message! {
    /// Asks the leader how the ring stands. Answered by `ring_status`.
    RingStatusQuery {}
}

item! {
    /// What a storage node last reported of its work, zero where it has not reported.
    "storage_progress" StorageProgress {
        /// Version of the ring that it knows.
        ring_version: u64,
        /// The newest version that it knew when a full pass began that has ended since: each of its
        /// blocks was confirmed durable by all the block's owners at that version.
        passed_version: u64,
        /// The last round of passes that was asked for and that it has done.
        pass_round: u64,
        /// The last round of checking digests that was asked for and that it has done.
        scrub_round: u64,
        /// Blocks held.
        block_count: u64,
        /// Bytes of them.
        block_bytes: u64,
        /// Blocks of the running pass that are done.
        pass_done: u64,
        /// Blocks of the running pass; 0 where none runs.
        pass_total: u64,
        /// Blocks that had fewer durable replicas than they want when they were last looked at.
        lacking_count: u64,
        /// Blocks held of which the node is no owner.
        foreign_count: u64,
        /// Blocks sent to other nodes by passes since the start.
        moved_count: u64,
        /// Bytes of those.
        moved_bytes: u64,
        /// Blocks whose digest was checked by the running scrub.
        scrub_done: u64,
        /// Blocks that it has to check; 0 where none runs.
        scrub_total: u64,
        /// Blocks found damaged since the start.
        damaged_count: u64,
        /// Damaged blocks that were fetched again from others since the start.
        mended_count: u64,
        /// Bytes of the node's file system.
        total_bytes: u64,
        /// Bytes that are free there.
        free_bytes: u64,
    }
}

message! {
    /// A storage node tells the leader once a second how far it is; this keeps its membership lease.
    /// Answered by `storage_told`.
    StorageReport {
        /// How often its data folder was started.
        incarnation: u64,
        /// Its data folder.
        store_uuid: WireUuid,
        /// Number of `progress`: 1.
        progress_count: u64,
    }
    parts {
        /// How far it is.
        progress: [StorageProgress; "storage_progress"] by progress_count,
    }
}

message! {
    /// The leader has heard a storage node.
    StorageTold {
        /// The newest version of the ring; a node that does not know it asks for it.
        ring_version: u64,
        /// Milliseconds from the sending of the report on for which the node may take on blocks; 0
        /// for a node that is no member.
        lease_ms: u64,
        /// The round of passes that was asked for last.
        pass_round: u64,
        /// The round of checking digests that was asked for last.
        scrub_round: u64,
    }
}

item! {
    /// A storage node as the leader sees it.
    "ring_node" RingNode {
        /// The node.
        node_uuid: WireUuid,
        /// Its weight on the newest ring.
        weight: u32,
        /// Number of its zone there.
        zone: u32,
        /// See the list of ring states.
        state: u8,
        /// Milliseconds since the leader last heard it; 2^64-1 for never.
        silent_ms: u64,
        /// Milliseconds after which it is removed for its silence; 2^64-1 where it is not silent.
        removal_ms: u64,
    }
}

message! {
    /// How the ring stands.
    RingStatus {
        /// The newest version.
        ring_version: u64,
        /// The oldest one by which blocks may still lie; equal to the newest where nothing moves.
        oldest_version: u64,
        /// Parts of the registers that do not go by the newest version yet.
        register_part_count: u64,
        /// Default number of replicas of a file.
        replica_count: u32,
        /// Number of partitions.
        partition_count: u64,
        /// The round of passes that was asked for last.
        pass_round: u64,
        /// The round of checking digests that was asked for last.
        scrub_round: u64,
        /// Number of `nodes`.
        node_count: u64,
        /// Number of `progress`: as many.
        progress_count: u64,
    }
    parts {
        /// The storage nodes, by UUID.
        nodes: [RingNode; "ring_node"] by node_count,
        /// What each of them reported last.
        progress: [StorageProgress; "storage_progress"] by progress_count,
    }
}

item! {
    /// A part of the registers whose highest tags a majority of another version's replicas have.
    "register_move" RegisterMove {
        /// Number of the part.
        part: u32,
        /// The version that it leaves: applies only if it is still the active one.
        from_version: u64,
        /// The version that it goes by from now on.
        to_version: u64,
    }
}

message! {
    /// Asks the masters to activate a ring version for parts of the registers. Answered by
    /// `register_activated`, also where nothing applied.
    RegisterActivate {
        /// Number of `moves`.
        move_count: u64,
    }
    parts {
        /// The parts.
        moves: [RegisterMove; "register_move"] by move_count,
    }
}

message! {
    /// The entry is applied; what is active now is in the ring.
    RegisterActivated {
        /// Log index of the entry.
        index: u64,
    }
}
