//! Every bound of the protocol in one place, with the relations between them asserted.

/// Bytes of a file's pieces: the unit of placement and verification.
pub const BLOCK_BYTES: usize = 4 << 20;

/// Largest frame that is accepted; also ZeroMQ's MAXMSGSIZE on every socket. Fits a whole file
/// of [`WHOLE_FILE_BYTES`] with room for its head.
pub const FRAME_BYTES: usize = 64 << 20;

/// Largest file that a plain `file_request` is answered with as a whole.
pub const WHOLE_FILE_BYTES: usize = 32 << 20;

/// Largest fixed part of a record: today's largest is below 300 bytes; the rest is room to grow.
pub const FIXED_PART_BYTES: usize = 4096;

/// Small records are packed into frames up to this size (measured: larger ones gain nothing over
/// loopback, see tech-notes on message rates).
pub const PACKED_FRAME_BYTES: usize = 64 << 10;

/// Longest description of a job that travels inside messages and log entries; a larger one is a
/// file.
pub const DESCRIPTION_BYTES: usize = 4096;

/// Longest `job_submit` record: it travels whole in the log and in every deal. Room for a
/// description, a script of a few screens and [`INPUTS_PER_JOB`] inputs.
pub const JOB_RECORD_BYTES: usize = 32 << 10;

/// Tasks of one job.
pub const TASKS_PER_JOB: u64 = 1 << 32;

/// Input files of one job; more belong into a tree.
pub const INPUTS_PER_JOB: usize = 1024;

/// Requests that a client may have in flight, told at `hello`.
pub const CLIENT_WINDOW: u32 = 64;

/// Longest name of a file or tree, and of a job, in bytes.
pub const NAME_BYTES: usize = 255;

/// Longest text of an error reply in bytes; longer ones are cut.
pub const ERROR_TEXT_BYTES: usize = 1024;

/// Blocks of one file: as many as a manifest has room for (24 bytes of head, 32 for each block).
pub const BLOCKS_PER_FILE: usize = (WHOLE_FILE_BYTES - 24) / 32;

/// Largest file: just under 4 TiB, so that its manifest can be fetched as a whole.
pub const FILE_BYTES: u64 = BLOCKS_PER_FILE as u64 * BLOCK_BYTES as u64;

/// Largest encoding of one tree file, its inline folders included: about four million entries
/// (eyeballed). A folder below it that is larger is refused.
pub const TREE_BYTES: usize = 256 << 20;

/// A sub-folder whose encoding is longer than this is a tree file of its own (eyeballed: 1 MiB is
/// 15,000 to 25,000 entries, so 100,000 files are a handful of requests).
pub const INLINE_FOLDER_BYTES: usize = 1 << 20;

/// Folders inside each other, the outermost included. Linux allows no longer path than 4,096 bytes.
pub const TREE_DEPTH: usize = 256;

/// Target of a symbolic link in bytes; Linux and EROFS allow no more.
pub const LINK_TARGET_BYTES: usize = 4095;

/// Standard output, and standard error, that is kept of a task: the first bytes.
pub const STREAM_BYTES: u64 = 16 << 20;

/// Largest output of a task that is packed into a segment; a larger one is a file of its own.
pub const PACKED_OUTPUT_BYTES: usize = 64 << 10;

/// Most bytes that one task's outputs take in a segment, names and entries included; what exceeds
/// it are files of their own.
pub const PACKED_TASK_BYTES: usize = 1 << 20;

/// Outputs of one task: files, links and empty folders. More belong into an archive.
pub const OUTPUTS_PER_TASK: usize = 4096;

/// Largest segment that a worker makes: one block.
pub const SEGMENT_BYTES: usize = BLOCK_BYTES;

/// Largest segment into which others are folded.
pub const FOLDED_SEGMENT_BYTES: u64 = 1 << 30;

/// Bytes that fill a section of a folded segment: whoever wants one task reads one section, and its
/// writer keeps one in memory. A task's outputs are never split, so that it may be longer by
/// [`PACKED_TASK_BYTES`].
pub const FOLDED_SECTION_BYTES: usize = 1 << 20;

/// Longest index of a segment: of a thousand full sections it is below 100 KiB (eyeballed).
pub const SEGMENT_INDEX_BYTES: usize = 4 << 20;

/// Bytes of one answer about what a running task prints.
pub const OUTPUT_CHUNK_BYTES: usize = 64 << 10;

/// Longest text of a task's progress in bytes; longer ones are cut.
pub const PROGRESS_TEXT_BYTES: usize = 200;

/// Largest description of a job, which is then a file of one block.
pub const DESCRIPTION_FILE_BYTES: usize = BLOCK_BYTES;

/// Members of the ring of storage nodes.
pub const RING_MEMBERS: usize = 4096;

/// Versions of the ring that are not drained: more changes have to wait.
pub const RING_VERSIONS: usize = 16;

/// Replicas that a file or name may ask for.
pub const REPLICAS: usize = 5;

/// Blocks that one `block_offer` or `block_query` may name.
pub const BLOCKS_PER_QUERY: usize = 1 << 16;

/// Longest value of a register.
pub const REGISTER_VALUE_BYTES: usize = 64 << 10;

/// Parts into which the registers are divided by their address; each moves by itself when the ring
/// changes. A ring with fewer partitions has as many as that.
pub const REGISTER_PARTITIONS: u32 = 256;

/// Bytes of entries and values after which a page of registers ends.
pub const REGISTER_PAGE_BYTES: usize = 1 << 20;

/// Registers of which one node keeps a copy: what bounds their number in its memory.
pub const REGISTERS_PER_NODE: usize = 1 << 20;

/// Bytes of values of the registers on one node, which it has in memory too.
pub const REGISTER_BYTES_PER_NODE: usize = 512 << 20;

const _: () = assert!(INLINE_FOLDER_BYTES < TREE_BYTES);
const _: () = assert!(REGISTER_PAGE_BYTES + 2 * REGISTER_VALUE_BYTES < FRAME_BYTES);
const _: () = assert!(TREE_BYTES as u64 <= FILE_BYTES);
const _: () = assert!(DESCRIPTION_BYTES < DESCRIPTION_FILE_BYTES);
const _: () = assert!(WHOLE_FILE_BYTES + FIXED_PART_BYTES < FRAME_BYTES);
const _: () = assert!(BLOCK_BYTES + FIXED_PART_BYTES < FRAME_BYTES);
const _: () = assert!(PACKED_FRAME_BYTES < FRAME_BYTES);
const _: () = assert!(DESCRIPTION_BYTES + 16 * INPUTS_PER_JOB < JOB_RECORD_BYTES);
// The names of all outputs that one task may have fit beside what is packed.
const _: () = assert!(PACKED_OUTPUT_BYTES < PACKED_TASK_BYTES);
const _: () = assert!(2 * PACKED_TASK_BYTES < SEGMENT_BYTES);
const _: () = assert!(FOLDED_SECTION_BYTES + 2 * PACKED_TASK_BYTES <= SEGMENT_BYTES);
const _: () = assert!(FOLDED_SEGMENT_BYTES <= FILE_BYTES);
const _: () = assert!(JOB_RECORD_BYTES < PACKED_FRAME_BYTES);
const _: () = assert!(WHOLE_FILE_BYTES.is_multiple_of(BLOCK_BYTES));
