//! Dealing tasks and reporting what became of them.

use crate::macros::message;
use crate::wire::WireUuid;

message! {
    /// Deals a run of consecutive tasks of one job to a worker.
    WorkerRequest {
        given {
            /// The job.
            job_uuid: WireUuid,
            /// Bytes of `program`.
            program_length: u64,
            /// Number of `input_files`.
            num_input_files: u64,
        }
        /// Index of the first task of the run.
        first_task: u64,
        /// Number of tasks of the run.
        task_count: u64,
        /// Number of tasks of the whole job.
        job_task_count: u64,
        /// The attempt that this deal is, for every task of the run.
        attempt: u64,
        /// Epoch of the dealing balancer's lease; 0 gets a typed refusal where a higher one is
        /// known.
        epoch: u64,
        /// Number of this deal within the connection, from 1.
        deal: u64,
        /// The worker's incarnation that is meant.
        worker_incarnation: u64,
        /// Number of the log entry that gave the worker to the group.
        assignment: u64,
        /// What `program` is; see the list of program kinds.
        program_kind: u8,
        /// Bytes of `description`.
        description_length: u64,
    }
    parts {
        /// A script that begins with `#!`, or an executable; empty where `program_kind` says that
        /// the description names it.
        program: [u8; "bytes"] by program_length,
        /// Input files, seen by the task under their index where the description names none.
        input_files: [WireUuid; "uuid"] by num_input_files,
        /// The job's description.
        description: [u8; "description"] by description_length,
    }
    absent {
        task_count: 1,
        job_task_count: 1,
    }
}

message! {
    /// Reports the outcome of a run of tasks. A frame holds many; the first of a frame carries the
    /// frame's number.
    WorkerStatus {
        given {
            /// The job.
            job_uuid: WireUuid,
            /// What became of the tasks; see the list of states.
            state: u8,
        }
        /// Index of the first task of the run.
        first_task: u64,
        /// Number of tasks of the run.
        task_count: u64,
        /// The attempt that ran.
        attempt: u64,
        /// Exit code of each task of the run, minus the signal's number where one ended it.
        exit_code: i32,
        /// Why, where the state alone does not say it; see the list of causes.
        cause: u8,
        /// The reporting worker's incarnation.
        worker_incarnation: u64,
        /// Number of the frame within the incarnation, from 1.
        frame: u64,
        /// Segment that holds outputs and accounting of these tasks; zero where there is none.
        segment_uuid: WireUuid,
    }
    absent {
        task_count: 1,
    }
}
