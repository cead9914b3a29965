//! Jobs, between clients and masters.

use crate::macros::{item, message};
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

message! {
    /// Asks for a job's state, at once or when it is final.
    JobQuery {
        /// The job; zero where `selector` names it.
        job_uuid: WireUuid,
        /// The reply must come from a state at least as new as this log index.
        seen_index: u64,
        /// 0: answer at once. 1: answer when the job's state is final.
        until_final: u8,
        /// Bytes of `selector`.
        selector_length: u64,
    }
    parts {
        /// A job's name, an unambiguous beginning of its UUID, or `last`.
        selector: [u8; "UTF-8"] by selector_length,
    }
}

message! {
    /// A job's state.
    JobStatus {
        /// The job.
        job_uuid: WireUuid,
        /// See the list of job states.
        state: u8,
        /// Log index of the state that this is read from.
        index: u64,
        /// Number of tasks.
        task_count: u64,
        /// Tasks that ended with exit code 0.
        done_count: u64,
        /// Tasks that ended otherwise, for good.
        failed_count: u64,
        /// Tasks that are dealt to a worker, as far as the balancers told.
        running_count: u64,
        /// Attempts that were lost and are not counted against the tasks.
        lost_attempts: u64,
        /// Log time of the submission in microseconds.
        submitted_us: u64,
        /// Log time of the last outcome in microseconds; 0 while it is not final.
        finished_us: u64,
        /// The lowest exit code that is not 0 of a failed task; 0 where none failed.
        exit_code: i32,
        /// Segments that are listed for the job.
        segment_count: u64,
        /// Bytes of `name`.
        name_length: u64,
        /// Higher is dealt first.
        priority: i32,
        /// 1 where none of its tasks is dealt until it is released.
        is_held: u8,
        /// Attempts that took their worker with them.
        crashed_attempts: u64,
        /// The job whose failed tasks this one tries again; zero for none.
        retry_of_uuid: WireUuid,
        /// How long ago it was submitted in microseconds, as far as this master can tell: time
        /// without a leading master is not counted.
        age_us: u64,
        /// Bytes of `owner`.
        owner_length: u64,
    }
    parts {
        /// The job's name.
        name: [u8; "UTF-8"] by name_length,
        /// Who submitted it, as that client said.
        owner: [u8; "UTF-8"] by owner_length,
    }
}

message! {
    /// Asks what a job is. Answered by `job_described`.
    JobDescribe {
        /// The job; zero where `selector` names it.
        job_uuid: WireUuid,
        /// The reply must come from a state at least as new as this log index.
        seen_index: u64,
        /// Bytes of `selector`.
        selector_length: u64,
    }
    parts {
        /// A job's name, an unambiguous beginning of its UUID, or `last`.
        selector: [u8; "UTF-8"] by selector_length,
    }
}

message! {
    /// What a job is: what was submitted, with names replaced by what they pointed to then.
    JobDescribed {
        /// The job.
        job_uuid: WireUuid,
        /// Log index of the state that this is read from.
        index: u64,
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
        /// Input files that the submission named beside the description's.
        input_files: [WireUuid; "uuid"] by num_input_files,
        /// Everything else; empty for the defaults.
        description: [u8; "description"] by description_length,
    }
}

message! {
    /// Asks for the jobs, newest first. Answered by `job_status` records under the same request id,
    /// then `list_end`.
    JobList {
        /// Only jobs submitted before this log index; 0 for the newest.
        before_index: u64,
        /// At most this many; limited by the master.
        limit: u32,
        /// The reply must come from a state at least as new as this log index.
        seen_index: u64,
    }
}

message! {
    /// Ends a listing.
    ListEnd {
        /// How many records came before.
        count: u64,
        /// Where to go on: `before_index` or `first_task` of the next request; 0 where this was
        /// all.
        next: u64,
        /// Log index of the state that it was read from.
        index: u64,
    }
}

message! {
    /// Cancels a job. Its tasks that have no outcome by then are cancelled; a job in a final state
    /// stays as it is. Answered by `job_status`.
    JobCancel {
        /// The job.
        job_uuid: WireUuid,
        /// `applied_index` of the session's `hello_reply`.
        session_index: u64,
    }
}

message! {
    /// Changes how a job is treated from now on. Answered by `job_status`: the state after the
    /// change, for *forget* the last one.
    JobChange {
        /// The job.
        job_uuid: WireUuid,
        /// `applied_index` of the session's `hello_reply`.
        session_index: u64,
        /// What is changed; see the list of job changes.
        change: u8,
        /// The new priority, where that is changed.
        priority: i32,
    }
}

message! {
    /// Asks a node why tasks are where they are, as far as that node can tell. Answered by
    /// `explain_reply`.
    ExplainQuery {
        /// The job.
        job_uuid: WireUuid,
        /// The task; 2^64 - 1 for the job as a whole.
        task_index: u64,
        /// A master's reply must come from a state at least as new as this log index.
        seen_index: u64,
    }
}

item! {
    /// Why tasks of a job are where they are; they need not be consecutive.
    "explanation" Explanation {
        /// See the list of reasons.
        reason: u8,
        /// The first of the tasks.
        first_task: u64,
        /// Number of the tasks.
        task_count: u64,
        /// The node that the reason speaks of; zero for none.
        subject_uuid: WireUuid,
        /// A number that belongs to the reason, as the list of reasons says.
        number: u64,
        /// Bytes of what is said beside, in `texts`, behind those of the explanations before.
        text_length: u32,
    }
}

message! {
    /// What one node knows about why tasks are where they are.
    ExplainReply {
        /// Log index of a master's state; 0 from others.
        index: u64,
        /// The balancer group that has the tasks; 0 where that is not known.
        group: u64,
        /// Number of `explanations`.
        explanation_count: u64,
        /// Bytes of `texts`.
        texts_length: u64,
    }
    parts {
        /// The explanations, the most pressing one first, at most 64.
        explanations: [Explanation; "explanation"] by explanation_count,
        /// What is said beside, one text behind the other.
        texts: [u8; "UTF-8"] by texts_length,
    }
}

message! {
    /// Asks for the outcomes of a job's tasks. Answered by `task_outcomes`.
    TaskQuery {
        /// The job.
        job_uuid: WireUuid,
        /// From this task on.
        first_task: u64,
        /// At most this many runs; limited by the master.
        limit: u32,
        /// The reply must come from a state at least as new as this log index.
        seen_index: u64,
    }
}

item! {
    /// Consecutive tasks with the same outcome.
    "task_outcome" TaskOutcome {
        /// First task.
        first_task: u64,
        /// Number of tasks.
        task_count: u64,
        /// See the list of task states.
        state: u8,
        /// See the list of causes.
        cause: u8,
        /// Exit code, minus the signal's number where one ended it.
        exit_code: i32,
        /// Attempts that ended without an outcome: failed, crashed and lost ones that were tried
        /// again.
        earlier_attempts: u32,
    }
}

message! {
    /// Outcomes of a job's tasks, in the order of their index, without gap.
    TaskOutcomes {
        /// The job.
        job_uuid: WireUuid,
        /// Log index of the state that this is read from.
        index: u64,
        /// Where to go on; 0 where this was all.
        next_task: u64,
        /// Number of `outcomes`.
        outcome_count: u64,
    }
    parts {
        /// The runs.
        outcomes: [TaskOutcome; "task_outcome"] by outcome_count,
    }
}

message! {
    /// Asks for the segments that hold outputs and accounting of a job's tasks. Answered by
    /// `segment_list`.
    SegmentQuery {
        /// The job.
        job_uuid: WireUuid,
        /// Go on after this position in the list; 0 for the first. Positions never change: what is
        /// listed later has a higher one.
        after: u64,
        /// The reply must come from a state at least as new as this log index.
        seen_index: u64,
        /// Only the segments that this fold replaces; 0 for all.
        fold: u64,
    }
}

message! {
    /// Replaces the segments of a fold by one durable segment that holds what was accepted from
    /// them. Answered by `segment_folded`; sending it again is harmless.
    SegmentFold {
        /// The job whose segments are folded.
        job_uuid: WireUuid,
        /// Number of the fold.
        fold: u64,
        /// `applied_index` of the session's `hello_reply`.
        session_index: u64,
        /// The new segment, a file on storage; zero where the old ones hold nothing that was
        /// accepted.
        segment_uuid: WireUuid,
        /// How many of the fold's segments it holds, the first ones in the order of the list. Where
        /// that is not all of them, the next one would have made it too large; those behind stay
        /// listed. 0, with no segment, where the fold came to nothing: it is tried again later.
        segment_count: u64,
        /// The worker whose task it is. Only one of the roster folds segments.
        worker_uuid: WireUuid,
        /// Its incarnation.
        worker_incarnation: u64,
    }
}

message! {
    /// Answers `segment_fold`.
    SegmentFolded {
        /// Log index of the entry.
        index: u64,
        /// 1 where the new segment is listed instead of the old ones; 0 where it is not: the old
        /// ones were no longer listed, or the fold came to nothing.
        is_listed: u8,
    }
}

item! {
    /// Consecutive tasks whose recorded result is in one segment.
    "segment_range" SegmentRange {
        /// The segment, a file on storage.
        segment_uuid: WireUuid,
        /// First task.
        first_task: u64,
        /// Number of tasks.
        task_count: u64,
    }
}

message! {
    /// The segments of a job with the ranges accepted from each.
    SegmentList {
        /// The job.
        job_uuid: WireUuid,
        /// Log index of the state that this is read from.
        index: u64,
        /// Position to go on after; 0 where this was all.
        next: u64,
        /// Number of `ranges`.
        range_count: u64,
    }
    parts {
        /// The ranges.
        ranges: [SegmentRange; "segment_range"] by range_count,
    }
}
