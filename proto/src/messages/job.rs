//! Jobs, between clients and masters.

use crate::macros::message;
use crate::wire::WireUuid;

message! {
    /// Submits a job. Submitting the same job again is answered as the first time; another content
    /// under the same UUID is refused.
    JobSubmit {
        /// The job, chosen by the client.
        job_uuid: WireUuid,
        /// `applied_index` of the session's `hello_reply`.
        session_index: u64,
        /// Pin under which the client stored the inputs; zero for none.
        pin_uuid: WireUuid,
        /// Number of tasks.
        task_count: u64,
        /// What `program` is; see the list of program kinds.
        program_kind: u8,
        /// Bytes of `program`.
        program_length: u64,
        /// Number of `input_files`.
        num_input_files: u64,
        /// Bytes of `description`.
        description_length: u64,
    }
    parts {
        /// A script that begins with `#!`; empty where the description names the program.
        program: [u8; "bytes"] by program_length,
        /// Input files in the order of the description's names.
        input_files: [WireUuid; "uuid"] by num_input_files,
        /// Everything else; empty for the defaults.
        description: [u8; "description"] by description_length,
    }
}

message! {
    /// The job is committed: it survives whatever a majority of the masters survives.
    JobAccepted {
        /// The job.
        job_uuid: WireUuid,
        /// Log index of its entry.
        index: u64,
    }
}
