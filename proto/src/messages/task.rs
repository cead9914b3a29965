//! Dealing tasks, between balancer and worker, and reporting what became of them, between worker
//! and masters.

use crate::macros::{item, message};
use crate::wire::WireUuid;

item! {
    /// Consecutive tasks of one job handled together.
    "task_run" TaskRun {
        /// The job.
        job_uuid: WireUuid,
        /// First task.
        first_task: u64,
        /// Number of tasks.
        task_count: u64,
        /// The attempt under which they were dealt.
        attempt: u64,
        /// What is said of them; each message names the list that it is from.
        state: u8,
    }
}

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
        /// The group that deals.
        group: u64,
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
    /// Reports the outcome of a run of tasks. Reports are numbered in *status frames*: the worker
    /// sends one, waits for `worker_status_reply`, and sends the same records again to whichever
    /// master leads until it comes.
    WorkerStatus {
        given {
            /// The job.
            job_uuid: WireUuid,
            /// What became of the tasks; see the list of task states.
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
        /// Number of the status frame within the incarnation, from 1.
        frame: u64,
        /// Number of this record within the status frame, from 0.
        frame_position: u32,
        /// Number of records of the status frame.
        frame_count: u32,
        /// Segment that holds outputs and accounting of these tasks; zero where there is none yet.
        segment_uuid: WireUuid,
    }
    absent {
        task_count: 1,
        frame_count: 1,
    }
}

message! {
    /// Names a durable segment that holds accounting (and outputs) of tasks of one job whose
    /// outcome was reported before. Rides in a status frame beside `worker_status` records.
    WorkerSegment {
        /// The reporting worker's incarnation.
        worker_incarnation: u64,
        /// Number of the status frame within the incarnation, from 1.
        frame: u64,
        /// Number of this record within the status frame, from 0.
        frame_position: u32,
        /// Number of records of the status frame.
        frame_count: u32,
        /// The segment, a file on storage.
        segment_uuid: WireUuid,
        /// Number of `runs`.
        run_count: u64,
    }
    parts {
        /// The tasks whose entries the segment holds; `state` is 0.
        runs: [TaskRun; "task_run"] by run_count,
    }
}

message! {
    /// The status frame is committed. Runs that are not listed are final: recorded, or finished
    /// otherwise before.
    WorkerStatusReply {
        /// The worker's incarnation.
        worker_incarnation: u64,
        /// Number of the status frame.
        frame: u64,
        /// Log index of its entry.
        index: u64,
        /// Number of `runs`.
        run_count: u64,
    }
    parts {
        /// Runs that are not recorded as reported; `state` is from the list of verdicts.
        runs: [TaskRun; "task_run"] by run_count,
    }
}

message! {
    /// Says every 0.5 s, and when something of it changed, that a worker lives and what it holds.
    /// Sent to the primary and the auxiliary of its group.
    WorkerHeartbeat {
        /// The worker's incarnation.
        worker_incarnation: u64,
        /// Number of the log entry that gave the worker to the group.
        assignment: u64,
        /// Highest epoch that the worker has seen under this assignment.
        epoch: u64,
        /// `last_deal` of the newest heartbeat reply; every deal up to it is listed or was lost.
        deal_echo: u64,
        /// Slots in all.
        slot_count: u32,
        /// Slots without a task.
        free_slot_count: u32,
        /// Thousandths of a CPU that tasks may use.
        cpu_milli: u64,
        /// Bytes of memory that tasks may use.
        memory_bytes: u64,
        /// 0: takes tasks. 1: its unacknowledged results reached their bound. 2: shutting down. 3: it
        /// belongs to another group, and takes no more tasks from this one's balancers.
        refusing: u8,
        /// Number of `runs`.
        run_count: u64,
        /// The group that `assignment` gave the worker to.
        group: u64,
        /// The last so many of `runs` were dealt under another assignment.
        foreign_count: u64,
        /// How long the answer to a heartbeat takes on this link in the mean, in microseconds; 0 where
        /// it was not measured.
        round_trip_us: u64,
    }
    parts {
        /// What it holds: queued, running, or ended and not settled; `state` is from the list of
        /// task states.
        runs: [TaskRun; "task_run"] by run_count,
    }
}

message! {
    /// Answers `worker_heartbeat`.
    WorkerHeartbeatReply {
        /// Epoch of the answering balancer's lease; 0 from an auxiliary.
        epoch: u64,
        /// Number of the last deal sent on this connection.
        last_deal: u64,
        /// Number of `runs`.
        run_count: u64,
        /// The assignment that this is about; epochs of others, and what they order, say nothing.
        assignment: u64,
    }
    parts {
        /// What the worker must do with runs that it holds; `state` is from the list of orders.
        runs: [TaskRun; "task_run"] by run_count,
    }
}

message! {
    /// The tasks ended and their slots are free; their outcome is on its way to the masters.
    TaskFree {
        /// The worker's incarnation.
        worker_incarnation: u64,
        /// Microseconds that the slots were busy with these tasks, added up.
        busy_us: u64,
        /// Number of `runs`.
        run_count: u64,
    }
    parts {
        /// The runs; `state` is from the list of task states.
        runs: [TaskRun; "task_run"] by run_count,
    }
}

message! {
    /// The masters acknowledged the outcome of these tasks.
    TaskSettled {
        /// The worker's incarnation.
        worker_incarnation: u64,
        /// Number of `runs`.
        run_count: u64,
    }
    parts {
        /// The runs; `state` is from the list of verdicts.
        runs: [TaskRun; "task_run"] by run_count,
    }
}

message! {
    /// Asks a worker to give back what it has not begun of these runs.
    TaskRecall {
        /// Epoch of the balancer's lease.
        epoch: u64,
        /// Number of `runs`.
        run_count: u64,
    }
    parts {
        /// The runs; `state` is 0.
        runs: [TaskRun; "task_run"] by run_count,
    }
}

message! {
    /// These tasks were not begun and will not be: answer to `task_recall`, or a worker that shuts
    /// down or refuses a deal.
    TaskReturned {
        /// The worker's incarnation.
        worker_incarnation: u64,
        /// Number of `runs`.
        run_count: u64,
    }
    parts {
        /// The runs; `state` is 0.
        runs: [TaskRun; "task_run"] by run_count,
    }
}

message! {
    /// Asks a worker what it executes. Answered by `activity_list`.
    ActivityQuery {
        /// Only tasks of this job; zero for those of all jobs.
        job_uuid: WireUuid,
    }
}

item! {
    /// A task that is being executed.
    "task_activity" TaskActivity {
        /// Its job.
        job_uuid: WireUuid,
        /// The task.
        task_index: u64,
        /// The attempt.
        attempt: u64,
        /// When it began by the worker's clock, microseconds since 1970.
        start_unix_us: u64,
        /// Thousandths of it that are done, as it says itself; 65535 where it said nothing.
        progress: u16,
        /// Bytes of what it says beside, in `texts`, behind those of the activities before.
        text_length: u16,
    }
}

message! {
    /// What a worker executes at present.
    ActivityList {
        /// Number of `activities`.
        activity_count: u64,
        /// Bytes of `texts`.
        texts_length: u64,
    }
    parts {
        /// The tasks, at most one for each slot.
        activities: [TaskActivity; "task_activity"] by activity_count,
        /// What they say of their progress, one text behind the other.
        texts: [u8; "UTF-8"] by texts_length,
    }
}

message! {
    /// Asks a worker for what a running task printed. Answered by `output_chunk`, or by an error
    /// where the worker does not execute it.
    OutputPull {
        /// Its job.
        job_uuid: WireUuid,
        /// The task.
        task_index: u64,
        /// Standard output or standard error; see the list of output kinds.
        kind: u8,
        /// From which byte on.
        offset: u64,
    }
}

message! {
    /// What a running task printed, from the byte that was asked for on.
    OutputChunk {
        /// Its job.
        job_uuid: WireUuid,
        /// The task.
        task_index: u64,
        /// The attempt that printed it.
        attempt: u64,
        /// See the list of output kinds.
        kind: u8,
        /// Where the content begins.
        offset: u64,
        /// Bytes of `content`, at most 65536; 0 where it printed no more yet.
        content_length: u64,
    }
    parts {
        /// What it printed.
        content: [u8; "bytes"] by content_length,
    }
}
