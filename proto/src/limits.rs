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

const _: () = assert!(WHOLE_FILE_BYTES + FIXED_PART_BYTES < FRAME_BYTES);
const _: () = assert!(BLOCK_BYTES + FIXED_PART_BYTES < FRAME_BYTES);
const _: () = assert!(PACKED_FRAME_BYTES < FRAME_BYTES);
const _: () = assert!(DESCRIPTION_BYTES < PACKED_FRAME_BYTES);
const _: () = assert!(WHOLE_FILE_BYTES.is_multiple_of(BLOCK_BYTES));
