/* Remuda's wire protocol, version 1. Made from the catalogue in proto/: do not edit.
 *
 * Packed little-endian structs, framed as docs/protocol.md says. A struct that was given has two
 * forms: as given, and `_extended` with the fields appended since; both are valid on the wire.
 * Needs C11 on a little-endian machine. */
#ifndef REMUDA_H
#define REMUDA_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define REMUDA_PROTOCOL_1 1

#pragma pack(push, 1)

/* The head of every record. */
struct generic_message {
    uint8_t message_type;
    uint64_t node_uuid_upper;
    uint64_t node_uuid_lower;
    uint64_t header_length;
};

/* The first appended fields of every message. */
struct envelope {
    uint64_t body_length;
    uint64_t request_id;
    uint64_t generation;
    uint64_t sequence;
};

/* A UUID where many follow each other. */
struct uuid {
    uint64_t upper;
    uint64_t lower;
};

/* How far the tasks of a granted range may have been dealt. */
struct deal_bound {
    uint64_t job_uuid_upper;
    uint64_t job_uuid_lower;
    uint64_t first_task;
    uint64_t dealt_below;
};

/* Why tasks of a job are where they are; they need not be consecutive. */
struct explanation {
    uint8_t reason;
    uint64_t first_task;
    uint64_t task_count;
    uint64_t subject_uuid_upper;
    uint64_t subject_uuid_lower;
    uint64_t number;
    uint32_t text_length;
};

/* One thing that a balancer group must know. */
struct feed_item {
    uint64_t index;
    uint8_t kind;
    uint64_t job_uuid_upper;
    uint64_t job_uuid_lower;
    uint64_t first_task;
    uint64_t task_count;
    int32_t priority;
    uint64_t job_offset;
    uint8_t is_held;
    uint64_t move_number;
};

/* A condition of a transaction. */
struct key_compare {
    uint64_t key_length;
    uint64_t version;
};

/* A write of a transaction. */
struct key_write {
    uint64_t key_length;
    uint64_t value_length;
    uint8_t is_delete;
};

/* A block that one node offers to another. */
struct offered_block {
    uint64_t block_uuid_upper;
    uint64_t block_uuid_lower;
    uint64_t stamp;
    uint32_t length;
    uint8_t kind;
    uint8_t replica_count;
};

/* A version of the ring before the newest one. */
struct older_ring {
    uint64_t ring_version;
    uint64_t member_count;
    uint8_t holds_blocks;
};

/* A register in a page of a part. */
struct register_entry {
    uint64_t register_address;
    uint64_t sequence;
    uint64_t writer_uuid_upper;
    uint64_t writer_uuid_lower;
    uint64_t operation;
    uint64_t value_length;
};

/* A part of the registers whose highest tags a majority of another version's replicas have. */
struct register_move {
    uint32_t part;
    uint64_t from_version;
    uint64_t to_version;
};

/* Consecutive parts of the registers that go by the same version of the ring. */
struct register_run {
    uint32_t part_count;
    uint64_t ring_version;
};

/* A storage node of the ring. */
struct ring_member {
    uint64_t node_uuid_upper;
    uint64_t node_uuid_lower;
    uint64_t store_uuid_upper;
    uint64_t store_uuid_lower;
    uint32_t weight;
    uint32_t zone;
    uint64_t address_length;
};

/* A storage node as the leader sees it. */
struct ring_node {
    uint64_t node_uuid_upper;
    uint64_t node_uuid_lower;
    uint32_t weight;
    uint32_t zone;
    uint8_t state;
    uint64_t silent_ms;
    uint64_t removal_ms;
};

/* Consecutive tasks whose recorded result is in one segment. */
struct segment_range {
    uint64_t segment_uuid_upper;
    uint64_t segment_uuid_lower;
    uint64_t first_task;
    uint64_t task_count;
};

/* A worker that was not heard of for long. */
struct silent_worker {
    uint64_t worker_uuid_upper;
    uint64_t worker_uuid_lower;
    uint64_t incarnation;
};

/* Counters of a storage node since it started. */
struct storage_counters {
    uint64_t block_count;
    uint64_t block_bytes;
    uint64_t put_count;
    uint64_t put_bytes;
    uint64_t get_count;
    uint64_t get_bytes;
    uint64_t damaged_count;
};

/* What a storage node last reported of its work, zero where it has not reported. */
struct storage_progress {
    uint64_t ring_version;
    uint64_t passed_version;
    uint64_t pass_round;
    uint64_t scrub_round;
    uint64_t block_count;
    uint64_t block_bytes;
    uint64_t pass_done;
    uint64_t pass_total;
    uint64_t lacking_count;
    uint64_t foreign_count;
    uint64_t moved_count;
    uint64_t moved_bytes;
    uint64_t scrub_done;
    uint64_t scrub_total;
    uint64_t damaged_count;
    uint64_t mended_count;
    uint64_t total_bytes;
    uint64_t free_bytes;
};

/* A task that is being executed. */
struct task_activity {
    uint64_t job_uuid_upper;
    uint64_t job_uuid_lower;
    uint64_t task_index;
    uint64_t attempt;
    uint64_t start_unix_us;
    uint16_t progress;
    uint16_t text_length;
};

/* Consecutive tasks with the same outcome. */
struct task_outcome {
    uint64_t first_task;
    uint64_t task_count;
    uint8_t state;
    uint8_t cause;
    int32_t exit_code;
    uint32_t earlier_attempts;
};

/* Consecutive tasks of one job handled together. */
struct task_run {
    uint64_t job_uuid_upper;
    uint64_t job_uuid_lower;
    uint64_t first_task;
    uint64_t task_count;
    uint64_t attempt;
    uint8_t state;
};

/* As given. Deals a run of consecutive tasks of one job to a worker. */
struct worker_request {
    struct generic_message header;
    uint64_t job_uuid_upper;
    uint64_t job_uuid_lower;
    uint64_t program_length;
    uint64_t num_input_files;
};

/* `worker_request` with what was appended to it. */
struct worker_request_extended {
    struct generic_message header;
    uint64_t job_uuid_upper;
    uint64_t job_uuid_lower;
    uint64_t program_length;
    uint64_t num_input_files;
    struct envelope envelope;
    uint64_t first_task;
    uint64_t task_count;
    uint64_t job_task_count;
    uint64_t attempt;
    uint64_t epoch;
    uint64_t deal;
    uint64_t worker_incarnation;
    uint64_t assignment;
    uint64_t group;
    uint8_t program_kind;
    uint64_t description_length;
};

/* As given. Reports the outcome of a run of tasks. Reports are numbered in *status frames*: the
 * worker sends one, waits for `worker_status_reply`, and sends the same records again to
 * whichever master leads until it comes. */
struct worker_status {
    struct generic_message header;
    uint64_t job_uuid_upper;
    uint64_t job_uuid_lower;
    uint8_t state;
};

/* `worker_status` with what was appended to it. */
struct worker_status_extended {
    struct generic_message header;
    uint64_t job_uuid_upper;
    uint64_t job_uuid_lower;
    uint8_t state;
    struct envelope envelope;
    uint64_t first_task;
    uint64_t task_count;
    uint64_t attempt;
    int32_t exit_code;
    uint8_t cause;
    uint64_t worker_incarnation;
    uint64_t frame;
    uint32_t frame_position;
    uint32_t frame_count;
    uint64_t segment_uuid_upper;
    uint64_t segment_uuid_lower;
};

/* As given. Asks for a whole file of at most 32 MiB. A larger one is answered `too_large`, which
 * names `block_get` as the way. */
struct file_request {
    struct generic_message header;
    uint64_t file_uuid_upper;
    uint64_t file_uuid_lower;
};

/* `file_request` with what was appended to it. */
struct file_request_extended {
    struct generic_message header;
    uint64_t file_uuid_upper;
    uint64_t file_uuid_lower;
    struct envelope envelope;
    uint64_t ring_version;
};

/* As given. A file's content. */
struct file_response {
    struct generic_message header;
    uint64_t file_uuid_upper;
    uint64_t file_uuid_lower;
    uint64_t file_length;
};

/* `file_response` with what was appended to it. */
struct file_response_extended {
    struct generic_message header;
    uint64_t file_uuid_upper;
    uint64_t file_uuid_lower;
    uint64_t file_length;
    struct envelope envelope;
    uint64_t ring_version;
};

/* Opens a connection. The receiver refuses a peer of another protocol version or cluster. */
struct hello {
    struct generic_message header;
    struct envelope envelope;
    uint32_t protocol_version;
    uint8_t role;
    uint64_t cluster_uuid_upper;
    uint64_t cluster_uuid_lower;
    uint64_t incarnation;
    uint64_t binary_version_length;
    uint64_t address_length;
};

/* Accepts a connection. */
struct hello_reply {
    struct generic_message header;
    struct envelope envelope;
    uint32_t protocol_version;
    uint8_t role;
    uint64_t cluster_uuid_upper;
    uint64_t cluster_uuid_lower;
    uint64_t incarnation;
    uint64_t applied_index;
    uint32_t window;
    uint64_t binary_version_length;
    uint64_t masters_length;
};

/* Refuses a record, or says that a request failed. */
struct error_reply {
    struct generic_message header;
    struct envelope envelope;
    uint16_t code;
    uint8_t refused_type;
    uint32_t retry_after_ms;
    uint64_t text_length;
    uint64_t instead_length;
};

/* Asks whether a node's event loop is alive. */
struct ping {
    struct generic_message header;
    struct envelope envelope;
};

/* Answers `ping`. */
struct pong {
    struct generic_message header;
    struct envelope envelope;
};

/* Submits a job. Submitting the same job again is answered as the first time; another content
 * under the same UUID is refused. */
struct job_submit {
    struct generic_message header;
    struct envelope envelope;
    uint64_t job_uuid_upper;
    uint64_t job_uuid_lower;
    uint64_t session_index;
    uint64_t pin_uuid_upper;
    uint64_t pin_uuid_lower;
    uint64_t task_count;
    uint8_t program_kind;
    uint64_t program_length;
    uint64_t num_input_files;
    uint64_t description_length;
};

/* The job is committed: it survives whatever a majority of the masters survives. */
struct job_accepted {
    struct generic_message header;
    struct envelope envelope;
    uint64_t job_uuid_upper;
    uint64_t job_uuid_lower;
    uint64_t index;
};

/* Asks for a job's state, at once or when it is final. */
struct job_query {
    struct generic_message header;
    struct envelope envelope;
    uint64_t job_uuid_upper;
    uint64_t job_uuid_lower;
    uint64_t seen_index;
    uint8_t until_final;
    uint64_t selector_length;
};

/* A job's state. */
struct job_status {
    struct generic_message header;
    struct envelope envelope;
    uint64_t job_uuid_upper;
    uint64_t job_uuid_lower;
    uint8_t state;
    uint64_t index;
    uint64_t task_count;
    uint64_t done_count;
    uint64_t failed_count;
    uint64_t running_count;
    uint64_t lost_attempts;
    uint64_t submitted_us;
    uint64_t finished_us;
    int32_t exit_code;
    uint64_t segment_count;
    uint64_t name_length;
    int32_t priority;
    uint8_t is_held;
    uint64_t crashed_attempts;
    uint64_t retry_of_uuid_upper;
    uint64_t retry_of_uuid_lower;
    uint64_t age_us;
    uint64_t owner_length;
};

/* Asks for the jobs, newest first. Answered by `job_status` records under the same request id,
 * then `list_end`. */
struct job_list {
    struct generic_message header;
    struct envelope envelope;
    uint64_t before_index;
    uint32_t limit;
    uint64_t seen_index;
};

/* Ends a listing. */
struct list_end {
    struct generic_message header;
    struct envelope envelope;
    uint64_t count;
    uint64_t next;
    uint64_t index;
};

/* Cancels a job. Its tasks that have no outcome by then are cancelled; a job in a final state
 * stays as it is. Answered by `job_status`. */
struct job_cancel {
    struct generic_message header;
    struct envelope envelope;
    uint64_t job_uuid_upper;
    uint64_t job_uuid_lower;
    uint64_t session_index;
};

/* Asks for the outcomes of a job's tasks. Answered by `task_outcomes`. */
struct task_query {
    struct generic_message header;
    struct envelope envelope;
    uint64_t job_uuid_upper;
    uint64_t job_uuid_lower;
    uint64_t first_task;
    uint32_t limit;
    uint64_t seen_index;
};

/* Outcomes of a job's tasks, in the order of their index, without gap. */
struct task_outcomes {
    struct generic_message header;
    struct envelope envelope;
    uint64_t job_uuid_upper;
    uint64_t job_uuid_lower;
    uint64_t index;
    uint64_t next_task;
    uint64_t outcome_count;
};

/* Asks for the segments that hold outputs and accounting of a job's tasks. Answered by
 * `segment_list`. */
struct segment_query {
    struct generic_message header;
    struct envelope envelope;
    uint64_t job_uuid_upper;
    uint64_t job_uuid_lower;
    uint64_t after;
    uint64_t seen_index;
    uint64_t fold;
};

/* The segments of a job with the ranges accepted from each. */
struct segment_list {
    struct generic_message header;
    struct envelope envelope;
    uint64_t job_uuid_upper;
    uint64_t job_uuid_lower;
    uint64_t index;
    uint64_t next;
    uint64_t range_count;
};

/* Asks what a job is. Answered by `job_described`. */
struct job_describe {
    struct generic_message header;
    struct envelope envelope;
    uint64_t job_uuid_upper;
    uint64_t job_uuid_lower;
    uint64_t seen_index;
    uint64_t selector_length;
};

/* What a job is: what was submitted, with names replaced by what they pointed to then. */
struct job_described {
    struct generic_message header;
    struct envelope envelope;
    uint64_t job_uuid_upper;
    uint64_t job_uuid_lower;
    uint64_t index;
    uint64_t task_count;
    uint8_t program_kind;
    uint64_t program_length;
    uint64_t num_input_files;
    uint64_t description_length;
};

/* Changes how a job is treated from now on. Answered by `job_status`: the state after the
 * change, for *forget* the last one. */
struct job_change {
    struct generic_message header;
    struct envelope envelope;
    uint64_t job_uuid_upper;
    uint64_t job_uuid_lower;
    uint64_t session_index;
    uint8_t change;
    int32_t priority;
};

/* Asks a node why tasks are where they are, as far as that node can tell. Answered by
 * `explain_reply`. */
struct explain_query {
    struct generic_message header;
    struct envelope envelope;
    uint64_t job_uuid_upper;
    uint64_t job_uuid_lower;
    uint64_t task_index;
    uint64_t seen_index;
};

/* What one node knows about why tasks are where they are. */
struct explain_reply {
    struct generic_message header;
    struct envelope envelope;
    uint64_t index;
    uint64_t group;
    uint64_t explanation_count;
    uint64_t texts_length;
};

/* Writes keys if all conditions hold, in one log entry. Answered by `key_result`. */
struct key_transaction {
    struct generic_message header;
    struct envelope envelope;
    uint64_t session_index;
    uint64_t pin_uuid_upper;
    uint64_t pin_uuid_lower;
    uint64_t compare_count;
    uint64_t write_count;
    uint64_t bytes_length;
};

/* Answers `key_transaction`. */
struct key_result {
    struct generic_message header;
    struct envelope envelope;
    uint8_t is_applied;
    uint64_t index;
};

/* Asks for keys in order. Answered by `key_entry` records under the same request id, then
 * `list_end`. */
struct key_range {
    struct generic_message header;
    struct envelope envelope;
    uint32_t limit;
    uint64_t seen_index;
    uint64_t prefix_length;
    uint64_t after_length;
};

/* A key and its value. */
struct key_entry {
    struct generic_message header;
    struct envelope envelope;
    uint64_t version;
    uint64_t key_length;
    uint64_t value_length;
};

/* Replaces the segments of a fold by one durable segment that holds what was accepted from them.
 * Answered by `segment_folded`; sending it again is harmless. */
struct segment_fold {
    struct generic_message header;
    struct envelope envelope;
    uint64_t job_uuid_upper;
    uint64_t job_uuid_lower;
    uint64_t fold;
    uint64_t session_index;
    uint64_t segment_uuid_upper;
    uint64_t segment_uuid_lower;
    uint64_t segment_count;
    uint64_t worker_uuid_upper;
    uint64_t worker_uuid_lower;
    uint64_t worker_incarnation;
};

/* Answers `segment_fold`. */
struct segment_folded {
    struct generic_message header;
    struct envelope envelope;
    uint64_t index;
    uint8_t is_listed;
};

/* Takes a node that left for good out of the roster. Answered by `node_forgotten`; one that
 * comes back registers as a new one. */
struct node_forget {
    struct generic_message header;
    struct envelope envelope;
    uint64_t entry_uuid_upper;
    uint64_t entry_uuid_lower;
    uint64_t incarnation;
    uint64_t session_index;
};

/* The node is no longer in the roster. */
struct node_forgotten {
    struct generic_message header;
    struct envelope envelope;
    uint64_t index;
};

/* Changes the ring. Answered by `ring_changed`; refused `not_allowed` while an earlier change is
 * under way, unless it is forced. */
struct ring_change {
    struct generic_message header;
    struct envelope envelope;
    uint8_t action;
    uint64_t node_uuid_upper;
    uint64_t node_uuid_lower;
    uint32_t weight;
    uint8_t is_forced;
    uint64_t session_index;
    uint8_t sets_zone;
    uint64_t zone_length;
};

/* The change is in the log. */
struct ring_changed {
    struct generic_message header;
    struct envelope envelope;
    uint64_t ring_version;
    uint64_t index;
};

/* Asks the leader how the ring stands. Answered by `ring_status`. */
struct ring_status_query {
    struct generic_message header;
    struct envelope envelope;
};

/* How the ring stands. */
struct ring_status {
    struct generic_message header;
    struct envelope envelope;
    uint64_t ring_version;
    uint64_t oldest_version;
    uint64_t register_part_count;
    uint32_t replica_count;
    uint64_t partition_count;
    uint64_t pass_round;
    uint64_t scrub_round;
    uint64_t node_count;
    uint64_t progress_count;
};

/* A node of another tier says that it is there. Committed to the log once for each incarnation
 * and answered by `node_registered`. */
struct node_register {
    struct generic_message header;
    struct envelope envelope;
    uint8_t role;
    uint64_t incarnation;
    uint32_t slot_count;
    uint64_t cpu_milli;
    uint64_t capacity_bytes;
    uint64_t store_uuid_upper;
    uint64_t store_uuid_lower;
    uint32_t weight;
    uint64_t address_length;
    uint64_t telemetry_address_length;
    uint64_t zone_length;
};

/* The node is in the roster. A worker whose group changed is told so unasked, with request id 0,
 * by every master with which it has a session; it takes that for its assignment where `index` is
 * higher than what it knows. */
struct node_registered {
    struct generic_message header;
    struct envelope envelope;
    uint64_t index;
    uint64_t group;
    uint64_t epoch;
    uint8_t is_primary;
    uint64_t ring_version;
    uint64_t balancers_length;
};

/* Asks for the roster. Answered by `node_entry` records under the same request id, then
 * `list_end`. */
struct node_list {
    struct generic_message header;
    struct envelope envelope;
    uint64_t seen_index;
};

/* One node of the roster. */
struct node_entry {
    struct generic_message header;
    struct envelope envelope;
    uint64_t entry_uuid_upper;
    uint64_t entry_uuid_lower;
    uint8_t role;
    uint64_t incarnation;
    uint8_t leads;
    uint64_t group;
    uint32_t slot_count;
    uint64_t index;
    uint64_t address_length;
    uint64_t telemetry_address_length;
    uint64_t zone_length;
};

/* Asks for the ring and the addresses of its storage nodes. */
struct ring_query {
    struct generic_message header;
    struct envelope envelope;
    uint64_t ring_version;
};

/* The ring: placement is a pure function of what stands here. */
struct ring_reply {
    struct generic_message header;
    struct envelope envelope;
    uint64_t ring_version;
    uint64_t partition_count;
    uint32_t replica_count;
    uint64_t member_count;
    uint64_t addresses_length;
    uint64_t older_count;
    uint64_t older_member_count;
    uint64_t register_run_count;
};

/* A primary has not heard of workers of its group for a minute: their slots do not count until
 * they register again. Not answered; the primary says so again every ten seconds. */
struct workers_silent {
    struct generic_message header;
    struct envelope envelope;
    uint64_t group;
    uint64_t epoch;
    uint64_t worker_count;
};

/* A balancer renews its lease, every 0.25 s. */
struct lease_renew {
    struct generic_message header;
    struct envelope envelope;
    uint64_t group;
    uint64_t incarnation;
    uint64_t epoch;
    uint32_t worker_count;
    uint32_t reachable_count;
    uint32_t slot_count;
    uint64_t dealt_count;
    uint64_t running_count;
    uint8_t auxiliary;
    uint64_t auxiliary_incarnation;
};

/* Answers `lease_renew`. */
struct lease_reply {
    struct generic_message header;
    struct envelope envelope;
    uint64_t epoch;
    uint8_t is_primary;
    uint32_t lease_ms;
    uint64_t feed_index;
    uint8_t is_all_dealt;
    uint8_t auxiliary;
    uint64_t auxiliary_uuid_upper;
    uint64_t auxiliary_uuid_lower;
    uint64_t auxiliary_incarnation;
    uint64_t auxiliary_address_length;
    uint64_t group_worker_count;
};

/* Asks the leader for what a balancer group must know. Parked until there is something newer
 * than `after_index`; acknowledges everything up to it. */
struct feed_pull {
    struct generic_message header;
    struct envelope envelope;
    uint64_t group;
    uint64_t incarnation;
    uint64_t after_index;
    uint64_t resume_job_uuid_upper;
    uint64_t resume_job_uuid_lower;
    uint64_t resume_task;
};

/* What a balancer group must know, in the order of the log. */
struct feed_batch {
    struct generic_message header;
    struct envelope envelope;
    uint64_t group;
    uint64_t up_to_index;
    uint8_t is_complete;
    uint64_t next_job_uuid_upper;
    uint64_t next_job_uuid_lower;
    uint64_t next_task;
    uint64_t item_count;
    uint64_t jobs_length;
};

/* A balancer cannot tell what became of these runs (their worker is silent, or a deal was lost
 * on its way): the leader counts them as lost where `state` says so, and answers
 * `runs_unfinished`. */
struct runs_lost {
    struct generic_message header;
    struct envelope envelope;
    uint64_t group;
    uint64_t epoch;
    uint64_t worker_uuid_upper;
    uint64_t worker_uuid_lower;
    uint64_t run_count;
};

/* Which of the runs of `runs_lost` have no outcome yet and are to be dealt again. */
struct runs_unfinished {
    struct generic_message header;
    struct envelope envelope;
    uint64_t index;
    uint64_t run_count;
};

/* A primary tells its auxiliary how far it will have dealt, before it deals so far. */
struct deal_mark {
    struct generic_message header;
    struct envelope envelope;
    uint64_t group;
    uint64_t epoch;
    uint64_t auxiliary_incarnation;
    uint64_t mark;
    uint64_t feed_index;
    uint8_t is_complete;
    uint64_t bound_count;
};

/* The auxiliary knows the marks. */
struct deal_mark_reply {
    struct generic_message header;
    struct envelope envelope;
    uint64_t group;
    uint64_t epoch;
    uint64_t auxiliary_incarnation;
    uint64_t mark;
};

/* The status frame is committed. Runs that are not listed are final: recorded, or finished
 * otherwise before. */
struct worker_status_reply {
    struct generic_message header;
    struct envelope envelope;
    uint64_t worker_incarnation;
    uint64_t frame;
    uint64_t index;
    uint64_t run_count;
};

/* Says every 0.5 s, and when something of it changed, that a worker lives and what it holds.
 * Sent to the primary and the auxiliary of its group. */
struct worker_heartbeat {
    struct generic_message header;
    struct envelope envelope;
    uint64_t worker_incarnation;
    uint64_t assignment;
    uint64_t epoch;
    uint64_t deal_echo;
    uint32_t slot_count;
    uint32_t free_slot_count;
    uint64_t cpu_milli;
    uint64_t memory_bytes;
    uint8_t refusing;
    uint64_t run_count;
    uint64_t group;
    uint64_t foreign_count;
    uint64_t round_trip_us;
};

/* Answers `worker_heartbeat`. */
struct worker_heartbeat_reply {
    struct generic_message header;
    struct envelope envelope;
    uint64_t epoch;
    uint64_t last_deal;
    uint64_t run_count;
    uint64_t assignment;
};

/* The tasks ended and their slots are free; their outcome is on its way to the masters. */
struct task_free {
    struct generic_message header;
    struct envelope envelope;
    uint64_t worker_incarnation;
    uint64_t busy_us;
    uint64_t run_count;
};

/* The masters acknowledged the outcome of these tasks. */
struct task_settled {
    struct generic_message header;
    struct envelope envelope;
    uint64_t worker_incarnation;
    uint64_t run_count;
};

/* Asks a worker to give back what it has not begun of these runs. */
struct task_recall {
    struct generic_message header;
    struct envelope envelope;
    uint64_t epoch;
    uint64_t run_count;
};

/* These tasks were not begun and will not be: answer to `task_recall`, or a worker that shuts
 * down or refuses a deal. */
struct task_returned {
    struct generic_message header;
    struct envelope envelope;
    uint64_t worker_incarnation;
    uint64_t run_count;
};

/* Names a durable segment that holds accounting (and outputs) of tasks of one job whose outcome
 * was reported before. Rides in a status frame beside `worker_status` records. */
struct worker_segment {
    struct generic_message header;
    struct envelope envelope;
    uint64_t worker_incarnation;
    uint64_t frame;
    uint32_t frame_position;
    uint32_t frame_count;
    uint64_t segment_uuid_upper;
    uint64_t segment_uuid_lower;
    uint64_t run_count;
};

/* Asks a worker what it executes. Answered by `activity_list`. */
struct activity_query {
    struct generic_message header;
    struct envelope envelope;
    uint64_t job_uuid_upper;
    uint64_t job_uuid_lower;
};

/* What a worker executes at present. */
struct activity_list {
    struct generic_message header;
    struct envelope envelope;
    uint64_t activity_count;
    uint64_t texts_length;
};

/* Asks a worker for what a running task printed. Answered by `output_chunk`, or by an error
 * where the worker does not execute it. */
struct output_pull {
    struct generic_message header;
    struct envelope envelope;
    uint64_t job_uuid_upper;
    uint64_t job_uuid_lower;
    uint64_t task_index;
    uint8_t kind;
    uint64_t offset;
};

/* What a running task printed, from the byte that was asked for on. */
struct output_chunk {
    struct generic_message header;
    struct envelope envelope;
    uint64_t job_uuid_upper;
    uint64_t job_uuid_lower;
    uint64_t task_index;
    uint64_t attempt;
    uint8_t kind;
    uint64_t offset;
    uint64_t content_length;
};

/* A storage node tells the leader once a second how far it is; this keeps its membership lease.
 * Answered by `storage_told`. */
struct storage_report {
    struct generic_message header;
    struct envelope envelope;
    uint64_t incarnation;
    uint64_t store_uuid_upper;
    uint64_t store_uuid_lower;
    uint64_t progress_count;
};

/* The leader has heard a storage node. */
struct storage_told {
    struct generic_message header;
    struct envelope envelope;
    uint64_t ring_version;
    uint64_t lease_ms;
    uint64_t pass_round;
    uint64_t scrub_round;
};

/* Asks the masters to activate a ring version for parts of the registers. Answered by
 * `register_activated`, also where nothing applied. */
struct register_activate {
    struct generic_message header;
    struct envelope envelope;
    uint64_t move_count;
};

/* The entry is applied; what is active now is in the ring. */
struct register_activated {
    struct generic_message header;
    struct envelope envelope;
    uint64_t index;
};

/* Stores a block. Answered by `block_stored` when it is durable on the receiving node. */
struct block_put {
    struct generic_message header;
    struct envelope envelope;
    uint64_t block_uuid_upper;
    uint64_t block_uuid_lower;
    uint8_t kind;
    uint64_t ring_version;
    uint64_t pin_uuid_upper;
    uint64_t pin_uuid_lower;
    uint64_t pin_round;
    uint64_t hand_off_uuid_upper;
    uint64_t hand_off_uuid_lower;
    uint64_t content_length;
    uint8_t replica_count;
    uint64_t stamp;
};

/* The block is durable on this node. */
struct block_stored {
    struct generic_message header;
    struct envelope envelope;
    uint64_t block_uuid_upper;
    uint64_t block_uuid_lower;
    uint64_t ring_version;
    uint8_t was_present;
};

/* Asks for a block, or for a piece of one. */
struct block_get {
    struct generic_message header;
    struct envelope envelope;
    uint64_t block_uuid_upper;
    uint64_t block_uuid_lower;
    uint64_t ring_version;
    uint64_t offset;
    uint64_t length;
};

/* A block's bytes. */
struct block_content {
    struct generic_message header;
    struct envelope envelope;
    uint64_t block_uuid_upper;
    uint64_t block_uuid_lower;
    uint8_t kind;
    uint64_t block_length;
    uint64_t offset;
    uint64_t content_length;
};

/* Asks which blocks a node holds durably. Answered by `block_presence`. */
struct block_query {
    struct generic_message header;
    struct envelope envelope;
    uint64_t ring_version;
    uint64_t pin_uuid_upper;
    uint64_t pin_uuid_lower;
    uint64_t pin_round;
    uint64_t block_count;
    uint8_t replica_count;
};

/* Which of the asked blocks the node holds durably. */
struct block_presence {
    struct generic_message header;
    struct envelope envelope;
    uint64_t ring_version;
    uint64_t present_count;
};

/* Asks a storage node for its counters and space. Answered by `storage_space`. */
struct storage_query {
    struct generic_message header;
    struct envelope envelope;
};

/* A storage node's counters and space. */
struct storage_space {
    struct generic_message header;
    struct envelope envelope;
    uint64_t total_bytes;
    uint64_t free_bytes;
    uint64_t counters_count;
};

/* Offers blocks to a node that owns them by the newest ring. Answered by `block_offered`.
 * Refused `stale_ring` by a node that knows a newer ring, `unavailable` by one that does not
 * know this one yet: a confirmation counts only between two nodes at the same version. */
struct block_offer {
    struct generic_message header;
    struct envelope envelope;
    uint64_t ring_version;
    uint64_t block_count;
};

/* What becomes of offered blocks. What is wanted is then sent with `block_put`. */
struct block_offered {
    struct generic_message header;
    struct envelope envelope;
    uint64_t ring_version;
    uint64_t state_count;
};

/* Asks a replica for a register. Answered by `register_value`. Refused `stale_ring` where the
 * version is not the active one of the register's part, or the part is sealed. */
struct register_read {
    struct generic_message header;
    struct envelope envelope;
    uint64_t register_address;
    uint64_t ring_version;
    uint8_t wants_value;
    uint8_t is_local;
};

/* What a replica has durably of a register. */
struct register_value {
    struct generic_message header;
    struct envelope envelope;
    uint64_t register_address;
    uint64_t ring_version;
    uint64_t sequence;
    uint64_t writer_uuid_upper;
    uint64_t writer_uuid_lower;
    uint64_t operation;
    uint64_t value_length;
};

/* Asks a replica to keep a value if its tag is higher than the one it has. Answered by
 * `register_written` when that, or a higher one, is durable. Refused as `register_read` is. */
struct register_write {
    struct generic_message header;
    struct envelope envelope;
    uint64_t register_address;
    uint64_t ring_version;
    uint64_t sequence;
    uint64_t writer_uuid_upper;
    uint64_t writer_uuid_lower;
    uint64_t operation;
    uint64_t value_length;
};

/* The tag, or a higher one, is durable on this node. */
struct register_written {
    struct generic_message header;
    struct envelope envelope;
    uint64_t register_address;
    uint64_t ring_version;
};

/* Asks a replica never again to serve a part of the registers under a version of the ring, and
 * for what it has of that part. Answered by `register_sealed`, page by page. */
struct register_seal {
    struct generic_message header;
    struct envelope envelope;
    uint32_t part;
    uint64_t ring_version;
    uint64_t first_address;
};

/* The part is durably sealed; a page of what the replica has of it. */
struct register_sealed {
    struct generic_message header;
    struct envelope envelope;
    uint32_t part;
    uint64_t ring_version;
    uint8_t has_more;
    uint64_t entry_count;
    uint64_t values_length;
};

/* Asks a replica of a version that is not active yet to keep registers, each if its tag is
 * higher. Answered by `register_copied` when all of them, or higher ones, are durable. */
struct register_copy {
    struct generic_message header;
    struct envelope envelope;
    uint32_t part;
    uint64_t ring_version;
    uint64_t entry_count;
    uint64_t values_length;
};

/* The registers are durable on this node. */
struct register_copied {
    struct generic_message header;
    struct envelope envelope;
    uint32_t part;
    uint64_t ring_version;
};

/* One message of the consensus library, from member to member. */
struct raft_message {
    struct generic_message header;
    struct envelope envelope;
    uint64_t from_member;
    uint64_t to_member;
    uint64_t content_length;
};

/* Asks to be added to the masters as a learner, then as a voter. */
struct member_join {
    struct generic_message header;
    struct envelope envelope;
    uint64_t member;
    uint64_t cluster_uuid_upper;
    uint64_t cluster_uuid_lower;
    uint64_t address_length;
};

/* The member is in the configuration (as learner; it becomes a voter by itself). */
struct member_joined {
    struct generic_message header;
    struct envelope envelope;
    uint64_t cluster_uuid_upper;
    uint64_t cluster_uuid_lower;
    uint64_t index;
};

/* A node's state, published when it changes and at least every two seconds. `sequence` of the
 * envelope numbers all publications of one incarnation, so that a subscriber sees a gap. */
struct telemetry_status {
    struct generic_message header;
    struct envelope envelope;
    uint8_t role;
    uint64_t incarnation;
    uint64_t status_length;
};

/* Something that a person should know. */
struct telemetry_alert {
    struct generic_message header;
    struct envelope envelope;
    uint8_t role;
    uint64_t incarnation;
    uint8_t level;
    uint64_t text_length;
};

/* Asks a node (on its ordinary port) for what a subscriber missed. */
struct telemetry_snapshot_request {
    struct generic_message header;
    struct envelope envelope;
};

/* The publisher's present state: the newest status, then the alerts still kept, as complete
 * records. Publications up to `last_sequence` are contained in it. */
struct telemetry_snapshot {
    struct generic_message header;
    struct envelope envelope;
    uint64_t incarnation;
    uint64_t last_sequence;
    uint64_t records_length;
};

#pragma pack(pop)

/* What byte 0 of a record says. */
enum remuda_message_type {
    REMUDA_WORKER_REQUEST = 0x01,
    REMUDA_WORKER_STATUS = 0x02,
    REMUDA_FILE_REQUEST = 0x03,
    REMUDA_FILE_RESPONSE = 0x04,
    REMUDA_HELLO = 0x08,
    REMUDA_HELLO_REPLY = 0x09,
    REMUDA_ERROR_REPLY = 0x0a,
    REMUDA_PING = 0x0b,
    REMUDA_PONG = 0x0c,
    REMUDA_JOB_SUBMIT = 0x10,
    REMUDA_JOB_ACCEPTED = 0x11,
    REMUDA_JOB_QUERY = 0x12,
    REMUDA_JOB_STATUS = 0x13,
    REMUDA_JOB_LIST = 0x14,
    REMUDA_LIST_END = 0x15,
    REMUDA_JOB_CANCEL = 0x16,
    REMUDA_TASK_QUERY = 0x17,
    REMUDA_TASK_OUTCOMES = 0x18,
    REMUDA_SEGMENT_QUERY = 0x19,
    REMUDA_SEGMENT_LIST = 0x1a,
    REMUDA_JOB_DESCRIBE = 0x1b,
    REMUDA_JOB_DESCRIBED = 0x1c,
    REMUDA_JOB_CHANGE = 0x1d,
    REMUDA_EXPLAIN_QUERY = 0x1e,
    REMUDA_EXPLAIN_REPLY = 0x1f,
    REMUDA_KEY_TRANSACTION = 0x20,
    REMUDA_KEY_RESULT = 0x21,
    REMUDA_KEY_RANGE = 0x22,
    REMUDA_KEY_ENTRY = 0x23,
    REMUDA_SEGMENT_FOLD = 0x24,
    REMUDA_SEGMENT_FOLDED = 0x25,
    REMUDA_NODE_FORGET = 0x26,
    REMUDA_NODE_FORGOTTEN = 0x27,
    REMUDA_RING_CHANGE = 0x28,
    REMUDA_RING_CHANGED = 0x29,
    REMUDA_RING_STATUS_QUERY = 0x2a,
    REMUDA_RING_STATUS = 0x2b,
    REMUDA_NODE_REGISTER = 0x30,
    REMUDA_NODE_REGISTERED = 0x31,
    REMUDA_NODE_LIST = 0x32,
    REMUDA_NODE_ENTRY = 0x33,
    REMUDA_RING_QUERY = 0x34,
    REMUDA_RING_REPLY = 0x35,
    REMUDA_WORKERS_SILENT = 0x36,
    REMUDA_LEASE_RENEW = 0x38,
    REMUDA_LEASE_REPLY = 0x39,
    REMUDA_FEED_PULL = 0x3a,
    REMUDA_FEED_BATCH = 0x3b,
    REMUDA_RUNS_LOST = 0x3c,
    REMUDA_RUNS_UNFINISHED = 0x3d,
    REMUDA_DEAL_MARK = 0x3e,
    REMUDA_DEAL_MARK_REPLY = 0x3f,
    REMUDA_WORKER_STATUS_REPLY = 0x40,
    REMUDA_WORKER_HEARTBEAT = 0x41,
    REMUDA_WORKER_HEARTBEAT_REPLY = 0x42,
    REMUDA_TASK_FREE = 0x43,
    REMUDA_TASK_SETTLED = 0x44,
    REMUDA_TASK_RECALL = 0x45,
    REMUDA_TASK_RETURNED = 0x46,
    REMUDA_WORKER_SEGMENT = 0x47,
    REMUDA_ACTIVITY_QUERY = 0x48,
    REMUDA_ACTIVITY_LIST = 0x49,
    REMUDA_OUTPUT_PULL = 0x4a,
    REMUDA_OUTPUT_CHUNK = 0x4b,
    REMUDA_STORAGE_REPORT = 0x50,
    REMUDA_STORAGE_TOLD = 0x51,
    REMUDA_REGISTER_ACTIVATE = 0x52,
    REMUDA_REGISTER_ACTIVATED = 0x53,
    REMUDA_BLOCK_PUT = 0x60,
    REMUDA_BLOCK_STORED = 0x61,
    REMUDA_BLOCK_GET = 0x62,
    REMUDA_BLOCK_CONTENT = 0x63,
    REMUDA_BLOCK_QUERY = 0x64,
    REMUDA_BLOCK_PRESENCE = 0x65,
    REMUDA_STORAGE_QUERY = 0x66,
    REMUDA_STORAGE_SPACE = 0x67,
    REMUDA_BLOCK_OFFER = 0x68,
    REMUDA_BLOCK_OFFERED = 0x69,
    REMUDA_REGISTER_READ = 0x70,
    REMUDA_REGISTER_VALUE = 0x71,
    REMUDA_REGISTER_WRITE = 0x72,
    REMUDA_REGISTER_WRITTEN = 0x73,
    REMUDA_REGISTER_SEAL = 0x74,
    REMUDA_REGISTER_SEALED = 0x75,
    REMUDA_REGISTER_COPY = 0x76,
    REMUDA_REGISTER_COPIED = 0x77,
    REMUDA_RAFT_MESSAGE = 0x80,
    REMUDA_MEMBER_JOIN = 0x81,
    REMUDA_MEMBER_JOINED = 0x82,
    REMUDA_TELEMETRY_STATUS = 0x90,
    REMUDA_TELEMETRY_ALERT = 0x91,
    REMUDA_TELEMETRY_SNAPSHOT_REQUEST = 0x92,
    REMUDA_TELEMETRY_SNAPSHOT = 0x93,
};

enum remuda_role {
    /* Submits jobs, stores and reads files. */
    REMUDA_ROLE_CLIENT = 0,
    /* Owns jobs, results, names, membership, leases. */
    REMUDA_ROLE_MASTER = 1,
    /* Deals tasks to workers. */
    REMUDA_ROLE_BALANCER = 2,
    /* Executes tasks. */
    REMUDA_ROLE_WORKER = 3,
    /* Keeps blocks. */
    REMUDA_ROLE_STORAGE = 4,
    /* HTTP front; a client of the cluster. */
    REMUDA_ROLE_GATEWAY = 5,
};

enum remuda_error_code {
    /* Too much is in flight or queued; wait as long as the reply says. */
    REMUDA_ERROR_CODE_BUSY = 1,
    /* The masters have no leader at present, or this one does not know it. */
    REMUDA_ERROR_CODE_NO_LEADER = 2,
    /* The request may or may not have had its effect; repeat it under the same request id. */
    REMUDA_ERROR_CODE_OUTCOME_UNKNOWN = 3,
    /* The node cannot serve at present (not all candidates answered, lease lapsed, starting). */
    REMUDA_ERROR_CODE_UNAVAILABLE = 4,
    /* The request goes by an older ring version; fetch the ring again. */
    REMUDA_ERROR_CODE_STALE_RING = 5,
    /* The disk has no room for it. */
    REMUDA_ERROR_CODE_DISK_FULL = 6,
    /* The pin named by the request has lapsed; upload again. */
    REMUDA_ERROR_CODE_PIN_LAPSED = 7,
    /* This node has no session with the sender, or lost it in a restart: say `hello` again. */
    REMUDA_ERROR_CODE_HELLO_FIRST = 8,
    /* This master does not lead; ask the one that the reply names. */
    REMUDA_ERROR_CODE_NOT_LEADER = 9,
    /* The record is not one that this node can read. */
    REMUDA_ERROR_CODE_MALFORMED = 100,
    /* The node does not know this type of message, or it does not belong to its tier. */
    REMUDA_ERROR_CODE_UNKNOWN_TYPE = 101,
    /* The peer speaks another version of the protocol. */
    REMUDA_ERROR_CODE_OTHER_VERSION = 102,
    /* The peer belongs to another cluster. */
    REMUDA_ERROR_CODE_OTHER_CLUSTER = 103,
    /* A length, count or size is beyond its limit. */
    REMUDA_ERROR_CODE_TOO_LARGE = 104,
    /* What is asked for does not exist. */
    REMUDA_ERROR_CODE_NOT_FOUND = 105,
    /* The job's UUID belongs to a job with another content. */
    REMUDA_ERROR_CODE_JOB_DIFFERS = 106,
    /* The job was forgotten after its retention time. */
    REMUDA_ERROR_CODE_FORGOTTEN = 107,
    /* The request carries an epoch older than the newest one seen. */
    REMUDA_ERROR_CODE_OLD_EPOCH = 108,
    /* The request is older than what the masters remember of this client; look before repeating
     * it. */
    REMUDA_ERROR_CODE_TOO_OLD = 109,
    /* A value of the request makes no sense. */
    REMUDA_ERROR_CODE_INVALID = 110,
    /* Bytes do not have the digest that they should have. */
    REMUDA_ERROR_CODE_WRONG_DIGEST = 111,
    /* The sender may not ask for this. */
    REMUDA_ERROR_CODE_NOT_ALLOWED = 112,
};

enum remuda_task_state {
    /* Waits for a slot. */
    REMUDA_TASK_STATE_QUEUED = 0,
    /* A worker executes it. */
    REMUDA_TASK_STATE_RUNNING = 1,
    /* Ended with exit code 0; final. */
    REMUDA_TASK_STATE_DONE = 2,
    /* Ended otherwise; counts against `--retries`. */
    REMUDA_TASK_STATE_FAILED = 3,
    /* Its worker died with it; counts against `--max-crashes`. */
    REMUDA_TASK_STATE_CRASHED = 4,
    /* Cut off or shut down while it ran; not the task's fault. */
    REMUDA_TASK_STATE_LOST = 5,
    /* Given back before it started; counts nothing. */
    REMUDA_TASK_STATE_RETURNED = 6,
    /* Its job was cancelled before it ended. */
    REMUDA_TASK_STATE_CANCELLED = 7,
};

enum remuda_job_state {
    /* No task has an outcome or is known to have started. */
    REMUDA_JOB_STATE_QUEUED = 0,
    /* At least one task was dealt. */
    REMUDA_JOB_STATE_RUNNING = 1,
    /* Every task is done. */
    REMUDA_JOB_STATE_DONE = 2,
    /* Every task has an outcome and at least one failed, or too many failed. */
    REMUDA_JOB_STATE_FAILED = 3,
    /* Cancelled before every task had an outcome. */
    REMUDA_JOB_STATE_CANCELLED = 4,
};

enum remuda_cause {
    /* The program ended by itself. */
    REMUDA_CAUSE_NONE = 0,
    /* The time limit was reached and its process group killed. */
    REMUDA_CAUSE_TIME_LIMIT = 1,
    /* The memory limit was reached and its process group killed. */
    REMUDA_CAUSE_MEMORY_LIMIT = 2,
    /* It was cancelled. */
    REMUDA_CAUSE_CANCELLED = 3,
    /* The program could not be started. */
    REMUDA_CAUSE_NOT_STARTED = 4,
    /* An input could not be read (the mount or storage failed). */
    REMUDA_CAUSE_INPUT_FAILED = 5,
    /* The worker was shut down. */
    REMUDA_CAUSE_SHUTDOWN = 6,
    /* The worker was not heard of for too long. */
    REMUDA_CAUSE_CUT_OFF = 7,
    /* The outputs could not be collected. */
    REMUDA_CAUSE_OUTPUT_FAILED = 8,
    /* A signal that Remuda did not send ended it. */
    REMUDA_CAUSE_SIGNAL = 9,
    /* The limit of processes was reached and all of them killed. */
    REMUDA_CAUSE_PROCESS_LIMIT = 10,
    /* It failed, or was not begun, when its worker's disk was full. */
    REMUDA_CAUSE_DISK_FULL = 11,
};

enum remuda_program_kind {
    /* As given: a script with a shebang line, or an executable. */
    REMUDA_PROGRAM_KIND_INLINE = 0,
    /* None: the description names the program. */
    REMUDA_PROGRAM_KIND_DESCRIBED = 1,
};

enum remuda_output_kind {
    /* Standard output. */
    REMUDA_OUTPUT_KIND_STDOUT = 1,
    /* Standard error. */
    REMUDA_OUTPUT_KIND_STDERR = 2,
    /* A file in its folder of outputs. */
    REMUDA_OUTPUT_KIND_FILE = 3,
    /* A symbolic link there. */
    REMUDA_OUTPUT_KIND_LINK = 4,
    /* An empty folder there. */
    REMUDA_OUTPUT_KIND_FOLDER = 5,
};

enum remuda_verdict {
    /* Recorded, or finished otherwise before: nothing more is to be done with it. */
    REMUDA_VERDICT_FINAL = 0,
    /* Unfinished: it goes back to the queue as a new attempt. */
    REMUDA_VERDICT_AGAIN = 1,
};

enum remuda_order {
    /* Keep it and go on. */
    REMUDA_ORDER_KEEP = 0,
    /* Kill what runs of it and forget it: cancelled, finished elsewhere, or superseded. */
    REMUDA_ORDER_KILL = 1,
};

enum remuda_feed_kind {
    /* A range of a job's tasks is granted to the group. */
    REMUDA_FEED_KIND_GRANT = 0,
    /* A job is in a final state: its tasks are neither dealt nor kept. */
    REMUDA_FEED_KIND_JOB_ENDED = 1,
    /* A job has another priority, or is held, or no longer. */
    REMUDA_FEED_KIND_JOB_CHANGED = 2,
};

enum remuda_job_change_kind {
    /* None of its tasks is dealt any more; those that run go on. */
    REMUDA_JOB_CHANGE_KIND_HOLD = 0,
    /* Its tasks are dealt again. */
    REMUDA_JOB_CHANGE_KIND_RELEASE = 1,
    /* Its priority. */
    REMUDA_JOB_CHANGE_KIND_PRIORITY = 2,
    /* A job in a final state is no longer listed, and what it wrote no longer kept. */
    REMUDA_JOB_CHANGE_KIND_FORGET = 3,
};

enum remuda_auxiliary_state {
    /* Nothing is known of it, or there is none. */
    REMUDA_AUXILIARY_STATE_UNKNOWN = 0,
    /* It knows how far the primary may have dealt. */
    REMUDA_AUXILIARY_STATE_IN_STEP = 1,
    /* It does not answer; the primary deals without it. */
    REMUDA_AUXILIARY_STATE_ABSENT = 2,
};

enum remuda_reason {
    /* They have their outcome. */
    REMUDA_REASON_FINISHED = 0,
    /* The job was cancelled. */
    REMUDA_REASON_CANCELLED = 1,
    /* The job is held until it is released. */
    REMUDA_REASON_HELD = 2,
    /* They are executed; the number is the attempt. */
    REMUDA_REASON_RUNNING = 3,
    /* They ended, and their outcome is on its way to the masters; the number is the attempt. */
    REMUDA_REASON_REPORTING = 4,
    /* They wait at a worker; the number counts those before them there. */
    REMUDA_REASON_AT_WORKER = 5,
    /* They wait for inputs to arrive at a worker. */
    REMUDA_REASON_INPUTS = 6,
    /* Nobody deals for their group at present; the number is the group. */
    REMUDA_REASON_NO_BALANCER = 7,
    /* They are granted later, when earlier tasks of the job have their outcome; the number is
     * the first such task. */
    REMUDA_REASON_NOT_GRANTED = 8,
    /* A new primary waits for what the workers hold; the number is the milliseconds left. */
    REMUDA_REASON_TAKING_OVER = 9,
    /* The masters are asked what became of them. */
    REMUDA_REASON_ASKED = 10,
    /* No worker is known to the balancer. */
    REMUDA_REASON_NO_WORKER = 11,
    /* No worker is large enough; the number is the largest one's thousandths of a CPU. */
    REMUDA_REASON_TOO_LARGE = 12,
    /* All slots are busy; the number counts the tasks that are dealt. */
    REMUDA_REASON_SLOTS_BUSY = 13,
    /* Jobs that come first have tasks waiting; the number counts these tasks. */
    REMUDA_REASON_BEHIND = 14,
    /* Workers take no tasks, because their results are not stored or acknowledged yet; the
     * number counts these workers. */
    REMUDA_REASON_WORKERS_FULL = 15,
    /* Earlier attempts ended without an outcome; the number counts them. */
    REMUDA_REASON_RETRIED = 16,
    /* They wait, and nothing holds them up: they are dealt next. */
    REMUDA_REASON_NEXT = 17,
    /* No majority of the masters is there. */
    REMUDA_REASON_NO_LEADER = 18,
};

enum remuda_block_kind {
    /* A piece of a file's content, or the whole of a small file. */
    REMUDA_BLOCK_KIND_CONTENT = 0,
    /* The manifest of a file of several blocks. */
    REMUDA_BLOCK_KIND_MANIFEST = 1,
};

enum remuda_ring_action {
    /* A node becomes a member, or gets another weight or zone. */
    REMUDA_RING_ACTION_ADD = 0,
    /* A node hands over what it has and owns nothing any more. */
    REMUDA_RING_ACTION_DRAIN = 1,
    /* A node that is gone is no longer waited for; what it had is copied from the others. */
    REMUDA_RING_ACTION_REMOVE = 2,
    /* Every node looks at once whether all that it has lies where it belongs. */
    REMUDA_RING_ACTION_REBALANCE = 3,
    /* Every node checks the digests of all that it has at once. */
    REMUDA_RING_ACTION_SCRUB = 4,
};

enum remuda_ring_state {
    /* Registered, and no member. */
    REMUDA_RING_STATE_SPARE = 0,
    /* A member. */
    REMUDA_RING_STATE_MEMBER = 1,
    /* It hands over what it has. */
    REMUDA_RING_STATE_DRAINING = 2,
    /* It has handed over all that it had, and may be stopped. */
    REMUDA_RING_STATE_DRAINED = 3,
    /* It was removed; what it still has does not count. */
    REMUDA_RING_STATE_REMOVED = 4,
};

enum remuda_offer_state {
    /* It would delete the block in this round, so it does not take it. */
    REMUDA_OFFER_STATE_REFUSED = 0,
    /* It has the block durably, with a stamp and a number of replicas that are not lower than
     * the offered ones. */
    REMUDA_OFFER_STATE_DURABLE = 1,
    /* It lacks the block and expects it now. */
    REMUDA_OFFER_STATE_WANTED = 2,
    /* It lacks the block and expects it from another node; ask again later. */
    REMUDA_OFFER_STATE_EXPECTED = 3,
};

/* Limits. */
#define REMUDA_BLOCK_BYTES UINT64_C(4194304) /* bytes of a file's blocks but the last */
#define REMUDA_FRAME_BYTES UINT64_C(67108864) /* largest frame */
#define REMUDA_FIXED_PART_BYTES UINT64_C(4096) /* largest fixed part of a record */
#define REMUDA_WHOLE_FILE_BYTES UINT64_C(33554432) /* largest answer to `file_request` */
#define REMUDA_DESCRIPTION_BYTES UINT64_C(4096) /* largest inline job description */
#define REMUDA_JOB_RECORD_BYTES UINT64_C(32768) /* largest `job_submit` record */
#define REMUDA_TASKS_PER_JOB UINT64_C(4294967296) /* tasks of a job */
#define REMUDA_INPUTS_PER_JOB UINT64_C(1024) /* input files of a job */
#define REMUDA_CLIENT_WINDOW UINT64_C(64) /* requests in flight, unless `hello_reply` differs */
#define REMUDA_NAME_BYTES UINT64_C(255) /* bytes of a name */
#define REMUDA_BLOCKS_PER_FILE UINT64_C(1048575) /* blocks of a file */
#define REMUDA_TREE_BYTES UINT64_C(268435456) /* largest tree file */
#define REMUDA_INLINE_FOLDER_BYTES UINT64_C(1048576) /* longer folders are tree files of their own */
#define REMUDA_TREE_DEPTH UINT64_C(256) /* folders inside each other */
#define REMUDA_LINK_TARGET_BYTES UINT64_C(4095) /* bytes of a symbolic link's target */

static_assert(sizeof(struct generic_message) == 25, "packed");
static_assert(sizeof(struct deal_bound) == 32, "packed");
static_assert(sizeof(struct explanation) == 45, "packed");
static_assert(sizeof(struct feed_item) == 62, "packed");
static_assert(sizeof(struct key_compare) == 16, "packed");
static_assert(sizeof(struct key_write) == 17, "packed");
static_assert(sizeof(struct offered_block) == 30, "packed");
static_assert(sizeof(struct older_ring) == 17, "packed");
static_assert(sizeof(struct register_entry) == 48, "packed");
static_assert(sizeof(struct register_move) == 20, "packed");
static_assert(sizeof(struct register_run) == 12, "packed");
static_assert(sizeof(struct ring_member) == 48, "packed");
static_assert(sizeof(struct ring_node) == 41, "packed");
static_assert(sizeof(struct segment_range) == 32, "packed");
static_assert(sizeof(struct silent_worker) == 24, "packed");
static_assert(sizeof(struct storage_counters) == 56, "packed");
static_assert(sizeof(struct storage_progress) == 144, "packed");
static_assert(sizeof(struct task_activity) == 44, "packed");
static_assert(sizeof(struct task_outcome) == 26, "packed");
static_assert(sizeof(struct task_run) == 41, "packed");
static_assert(sizeof(struct worker_request) == 57, "packed");
static_assert(sizeof(struct worker_request_extended) == 170, "packed");
static_assert(sizeof(struct worker_status) == 42, "packed");
static_assert(sizeof(struct worker_status_extended) == 143, "packed");
static_assert(sizeof(struct file_request) == 41, "packed");
static_assert(sizeof(struct file_request_extended) == 81, "packed");
static_assert(sizeof(struct file_response) == 49, "packed");
static_assert(sizeof(struct file_response_extended) == 89, "packed");
static_assert(sizeof(struct hello) == 102, "packed");
static_assert(sizeof(struct hello_reply) == 114, "packed");
static_assert(sizeof(struct error_reply) == 80, "packed");
static_assert(sizeof(struct ping) == 57, "packed");
static_assert(sizeof(struct pong) == 57, "packed");
static_assert(sizeof(struct job_submit) == 130, "packed");
static_assert(sizeof(struct job_accepted) == 81, "packed");
static_assert(sizeof(struct job_query) == 90, "packed");
static_assert(sizeof(struct job_status) == 203, "packed");
static_assert(sizeof(struct job_list) == 77, "packed");
static_assert(sizeof(struct list_end) == 81, "packed");
static_assert(sizeof(struct job_cancel) == 81, "packed");
static_assert(sizeof(struct task_query) == 93, "packed");
static_assert(sizeof(struct task_outcomes) == 97, "packed");
static_assert(sizeof(struct segment_query) == 97, "packed");
static_assert(sizeof(struct segment_list) == 97, "packed");
static_assert(sizeof(struct job_describe) == 89, "packed");
static_assert(sizeof(struct job_described) == 114, "packed");
static_assert(sizeof(struct job_change) == 86, "packed");
static_assert(sizeof(struct explain_query) == 89, "packed");
static_assert(sizeof(struct explain_reply) == 89, "packed");
static_assert(sizeof(struct key_transaction) == 105, "packed");
static_assert(sizeof(struct key_result) == 66, "packed");
static_assert(sizeof(struct key_range) == 85, "packed");
static_assert(sizeof(struct key_entry) == 81, "packed");
static_assert(sizeof(struct segment_fold) == 137, "packed");
static_assert(sizeof(struct segment_folded) == 66, "packed");
static_assert(sizeof(struct node_forget) == 89, "packed");
static_assert(sizeof(struct node_forgotten) == 65, "packed");
static_assert(sizeof(struct ring_change) == 96, "packed");
static_assert(sizeof(struct ring_changed) == 73, "packed");
static_assert(sizeof(struct ring_status_query) == 57, "packed");
static_assert(sizeof(struct ring_status) == 125, "packed");
static_assert(sizeof(struct node_register) == 130, "packed");
static_assert(sizeof(struct node_registered) == 98, "packed");
static_assert(sizeof(struct node_list) == 65, "packed");
static_assert(sizeof(struct node_entry) == 127, "packed");
static_assert(sizeof(struct ring_query) == 65, "packed");
static_assert(sizeof(struct ring_reply) == 117, "packed");
static_assert(sizeof(struct workers_silent) == 81, "packed");
static_assert(sizeof(struct lease_renew) == 118, "packed");
static_assert(sizeof(struct lease_reply) == 120, "packed");
static_assert(sizeof(struct feed_pull) == 105, "packed");
static_assert(sizeof(struct feed_batch) == 114, "packed");
static_assert(sizeof(struct runs_lost) == 97, "packed");
static_assert(sizeof(struct runs_unfinished) == 73, "packed");
static_assert(sizeof(struct deal_mark) == 106, "packed");
static_assert(sizeof(struct deal_mark_reply) == 89, "packed");
static_assert(sizeof(struct worker_status_reply) == 89, "packed");
static_assert(sizeof(struct worker_heartbeat) == 146, "packed");
static_assert(sizeof(struct worker_heartbeat_reply) == 89, "packed");
static_assert(sizeof(struct task_free) == 81, "packed");
static_assert(sizeof(struct task_settled) == 73, "packed");
static_assert(sizeof(struct task_recall) == 73, "packed");
static_assert(sizeof(struct task_returned) == 73, "packed");
static_assert(sizeof(struct worker_segment) == 105, "packed");
static_assert(sizeof(struct activity_query) == 73, "packed");
static_assert(sizeof(struct activity_list) == 73, "packed");
static_assert(sizeof(struct output_pull) == 90, "packed");
static_assert(sizeof(struct output_chunk) == 106, "packed");
static_assert(sizeof(struct storage_report) == 89, "packed");
static_assert(sizeof(struct storage_told) == 89, "packed");
static_assert(sizeof(struct register_activate) == 65, "packed");
static_assert(sizeof(struct register_activated) == 65, "packed");
static_assert(sizeof(struct block_put) == 139, "packed");
static_assert(sizeof(struct block_stored) == 82, "packed");
static_assert(sizeof(struct block_get) == 97, "packed");
static_assert(sizeof(struct block_content) == 98, "packed");
static_assert(sizeof(struct block_query) == 98, "packed");
static_assert(sizeof(struct block_presence) == 73, "packed");
static_assert(sizeof(struct storage_query) == 57, "packed");
static_assert(sizeof(struct storage_space) == 81, "packed");
static_assert(sizeof(struct block_offer) == 73, "packed");
static_assert(sizeof(struct block_offered) == 73, "packed");
static_assert(sizeof(struct register_read) == 75, "packed");
static_assert(sizeof(struct register_value) == 113, "packed");
static_assert(sizeof(struct register_write) == 113, "packed");
static_assert(sizeof(struct register_written) == 73, "packed");
static_assert(sizeof(struct register_seal) == 77, "packed");
static_assert(sizeof(struct register_sealed) == 86, "packed");
static_assert(sizeof(struct register_copy) == 85, "packed");
static_assert(sizeof(struct register_copied) == 69, "packed");
static_assert(sizeof(struct raft_message) == 81, "packed");
static_assert(sizeof(struct member_join) == 89, "packed");
static_assert(sizeof(struct member_joined) == 81, "packed");
static_assert(sizeof(struct telemetry_status) == 74, "packed");
static_assert(sizeof(struct telemetry_alert) == 75, "packed");
static_assert(sizeof(struct telemetry_snapshot_request) == 57, "packed");
static_assert(sizeof(struct telemetry_snapshot) == 81, "packed");

#endif
