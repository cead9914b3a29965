//! What enumerations on the wire mean: roles, error codes, states, causes, program kinds.
//!
//! On the wire they are integers; an unknown value is refused at the door, never a panic.

/// Declares an enumeration whose integer values are part of the protocol.
macro_rules! wire_enum {
    (
        $(#[$doc:meta])*
        $name:ident: $repr:ident {
            $($(#[doc = $meaning:literal])+ $variant:ident = $value:literal $text:literal,)+
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[derive(serde::Serialize, serde::Deserialize)]
        #[repr($repr)]
        pub enum $name {
            $($(#[doc = $meaning])+ $variant = $value,)+
        }

        impl $name {
            /// Every value with its name and meaning, for the documentation.
            pub const ALL: &'static [($name, &'static str, &'static str)] =
                &[$(($name::$variant, $text, concat!($($meaning),+)),)+];

            /// The value as it travels.
            #[must_use]
            pub const fn to_wire(self) -> $repr {
                self as $repr
            }

            /// The value of an integer from outside; `None` where there is none.
            #[must_use]
            pub const fn from_wire(value: $repr) -> Option<$name> {
                match value {
                    $($value => Some($name::$variant),)+
                    _ => None,
                }
            }

            /// Its name in messages, logs and listings.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

wire_enum! {
    /// What kind of process a node is.
    Role: u8 {
        /// Submits jobs, stores and reads files.
        Client = 0 "client",
        /// Owns jobs, results, names, membership, leases.
        Master = 1 "master",
        /// Deals tasks to workers.
        Balancer = 2 "balancer",
        /// Executes tasks.
        Worker = 3 "worker",
        /// Keeps blocks.
        Storage = 4 "storage",
        /// HTTP front; a client of the cluster.
        Gateway = 5 "gateway",
    }
}

wire_enum! {
    /// Why a request was refused or failed. From 1 to 99, the same request may succeed later or
    /// elsewhere; from 100, it never will.
    ErrorCode: u16 {
        /// Too much is in flight or queued; wait as long as the reply says.
        Busy = 1 "busy",
        /// The masters have no leader at present, or this one does not know it.
        NoLeader = 2 "no_leader",
        /// The request may or may not have had its effect; repeat it under the same request id.
        OutcomeUnknown = 3 "outcome_unknown",
        /// The node cannot serve at present (not all candidates answered, lease lapsed, starting).
        Unavailable = 4 "unavailable",
        /// The request goes by an older ring version; fetch the ring again.
        StaleRing = 5 "stale_ring",
        /// The disk has no room for it.
        DiskFull = 6 "disk_full",
        /// The pin named by the request has lapsed; upload again.
        PinLapsed = 7 "pin_lapsed",
        /// This node has no session with the sender, or lost it in a restart: say `hello` again.
        HelloFirst = 8 "hello_first",
        /// This master does not lead; ask the one that the reply names.
        NotLeader = 9 "not_leader",
        /// The record is not one that this node can read.
        Malformed = 100 "malformed",
        /// The node does not know this type of message, or it does not belong to its tier.
        UnknownType = 101 "unknown_type",
        /// The peer speaks another version of the protocol.
        OtherVersion = 102 "other_version",
        /// The peer belongs to another cluster.
        OtherCluster = 103 "other_cluster",
        /// A length, count or size is beyond its limit.
        TooLarge = 104 "too_large",
        /// What is asked for does not exist.
        NotFound = 105 "not_found",
        /// The job's UUID belongs to a job with another content.
        JobDiffers = 106 "job_differs",
        /// The job was forgotten after its retention time.
        Forgotten = 107 "forgotten",
        /// The request carries an epoch older than the newest one seen.
        OldEpoch = 108 "old_epoch",
        /// The request is older than what the masters remember of this client; look before
        /// repeating it.
        TooOld = 109 "too_old",
        /// A value of the request makes no sense.
        Invalid = 110 "invalid",
        /// Bytes do not have the digest that they should have.
        WrongDigest = 111 "wrong_digest",
        /// The sender may not ask for this.
        NotAllowed = 112 "not_allowed",
    }
}

impl ErrorCode {
    /// True where the same request may succeed later or elsewhere.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        self.to_wire() < 100
    }
}

wire_enum! {
    /// State of a task, and `state` of `worker_status`.
    TaskState: u8 {
        /// Waits for a slot.
        Queued = 0 "queued",
        /// A worker executes it.
        Running = 1 "running",
        /// Ended with exit code 0; final.
        Done = 2 "done",
        /// Ended otherwise; counts against `--retries`.
        Failed = 3 "failed",
        /// Its worker died with it; counts against `--max-crashes`.
        Crashed = 4 "crashed",
        /// Cut off or shut down while it ran; not the task's fault.
        Lost = 5 "lost",
        /// Given back before it started; counts nothing.
        Returned = 6 "returned",
        /// Its job was cancelled before it ended.
        Cancelled = 7 "cancelled",
    }
}

wire_enum! {
    /// State of a job; never goes back.
    JobState: u8 {
        /// No task has an outcome or is known to have started.
        Queued = 0 "queued",
        /// At least one task was dealt.
        Running = 1 "running",
        /// Every task is done.
        Done = 2 "done",
        /// Every task has an outcome and at least one failed, or too many failed.
        Failed = 3 "failed",
        /// Cancelled before every task had an outcome.
        Cancelled = 4 "cancelled",
    }
}

impl JobState {
    /// True for a state that is never left.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, JobState::Done | JobState::Failed | JobState::Cancelled)
    }
}

wire_enum! {
    /// Why a task ended as it did, where its state alone does not say it.
    Cause: u8 {
        /// The program ended by itself.
        None = 0 "none",
        /// The time limit was reached and its process group killed.
        TimeLimit = 1 "time_limit",
        /// The memory limit was reached and its process group killed.
        MemoryLimit = 2 "memory_limit",
        /// It was cancelled.
        Cancelled = 3 "cancelled",
        /// The program could not be started.
        NotStarted = 4 "not_started",
        /// An input could not be read (the mount or storage failed).
        InputFailed = 5 "input_failed",
        /// The worker was shut down.
        Shutdown = 6 "shutdown",
        /// The worker was not heard of for too long.
        CutOff = 7 "cut_off",
        /// The outputs could not be collected.
        OutputFailed = 8 "output_failed",
        /// A signal that Remuda did not send ended it.
        Signal = 9 "signal",
        /// The limit of processes was reached and all of them killed.
        ProcessLimit = 10 "process_limit",
        /// It failed, or was not begun, when its worker's disk was full.
        DiskFull = 11 "disk_full",
    }
}

wire_enum! {
    /// What the `program` bytes of a job are.
    ProgramKind: u8 {
        /// As given: a script with a shebang line, or an executable.
        Inline = 0 "inline",
        /// None: the description names the program.
        Described = 1 "described",
    }
}

wire_enum! {
    /// What something that a task wrote is.
    OutputKind: u8 {
        /// Standard output.
        Stdout = 1 "stdout",
        /// Standard error.
        Stderr = 2 "stderr",
        /// A file in its folder of outputs.
        File = 3 "file",
        /// A symbolic link there.
        Link = 4 "link",
        /// An empty folder there.
        Folder = 5 "folder",
    }
}

wire_enum! {
    /// What the masters decided about a reported or asked run.
    Verdict: u8 {
        /// Recorded, or finished otherwise before: nothing more is to be done with it.
        Final = 0 "final",
        /// Unfinished: it goes back to the queue as a new attempt.
        Again = 1 "again",
    }
}

wire_enum! {
    /// What a worker must do with a run that it holds.
    Order: u8 {
        /// Keep it and go on.
        Keep = 0 "keep",
        /// Kill what runs of it and forget it: cancelled, finished elsewhere, or superseded.
        Kill = 1 "kill",
    }
}

wire_enum! {
    /// What an item of a balancer group's feed is.
    FeedKind: u8 {
        /// A range of a job's tasks is granted to the group.
        Grant = 0 "grant",
        /// A job is in a final state: its tasks are neither dealt nor kept.
        JobEnded = 1 "job_ended",
        /// A job has another priority, or is held, or no longer.
        JobChanged = 2 "job_changed",
    }
}

wire_enum! {
    /// What is changed of a job.
    JobChangeKind: u8 {
        /// None of its tasks is dealt any more; those that run go on.
        Hold = 0 "hold",
        /// Its tasks are dealt again.
        Release = 1 "release",
        /// Its priority.
        Priority = 2 "priority",
        /// A job in a final state is no longer listed, and what it wrote no longer kept.
        Forget = 3 "forget",
    }
}

wire_enum! {
    /// How a group's auxiliary stands.
    AuxiliaryState: u8 {
        /// Nothing is known of it, or there is none.
        Unknown = 0 "unknown",
        /// It knows how far the primary may have dealt.
        InStep = 1 "in_step",
        /// It does not answer; the primary deals without it.
        Absent = 2 "absent",
    }
}

wire_enum! {
    /// Why tasks are where they are, and what the number beside it counts.
    Reason: u8 {
        /// They have their outcome.
        Finished = 0 "finished",
        /// The job was cancelled.
        Cancelled = 1 "cancelled",
        /// The job is held until it is released.
        Held = 2 "held",
        /// They are executed; the number is the attempt.
        Running = 3 "running",
        /// They ended, and their outcome is on its way to the masters; the number is the attempt.
        Reporting = 4 "reporting",
        /// They wait at a worker; the number counts those before them there.
        AtWorker = 5 "at_worker",
        /// They wait for inputs to arrive at a worker.
        Inputs = 6 "inputs",
        /// Nobody deals for their group at present; the number is the group.
        NoBalancer = 7 "no_balancer",
        /// They are granted later, when earlier tasks of the job have their outcome; the number is
        /// the first such task.
        NotGranted = 8 "not_granted",
        /// A new primary waits for what the workers hold; the number is the milliseconds left.
        TakingOver = 9 "taking_over",
        /// The masters are asked what became of them.
        Asked = 10 "asked",
        /// No worker is known to the balancer.
        NoWorker = 11 "no_worker",
        /// No worker is large enough; the number is the largest one's thousandths of a CPU.
        TooLarge = 12 "too_large",
        /// All slots are busy; the number counts the tasks that are dealt.
        SlotsBusy = 13 "slots_busy",
        /// Jobs that come first have tasks waiting; the number counts these tasks.
        Behind = 14 "behind",
        /// Workers take no tasks, because their results are not stored or acknowledged yet; the
        /// number counts these workers.
        WorkersFull = 15 "workers_full",
        /// Earlier attempts ended without an outcome; the number counts them.
        Retried = 16 "retried",
        /// They wait, and nothing holds them up: they are dealt next.
        Next = 17 "next",
        /// No majority of the masters is there.
        NoLeader = 18 "no_leader",
    }
}

wire_enum! {
    /// What a block holds, and so under which context its digest is made.
    BlockKind: u8 {
        /// A piece of a file's content, or the whole of a small file.
        Content = 0 "content",
        /// The manifest of a file of several blocks.
        Manifest = 1 "manifest",
    }
}

wire_enum! {
    /// What is changed of the ring.
    RingAction: u8 {
        /// A node becomes a member, or gets another weight or zone.
        Add = 0 "add",
        /// A node hands over what it has and owns nothing any more.
        Drain = 1 "drain",
        /// A node that is gone is no longer waited for; what it had is copied from the others.
        Remove = 2 "remove",
        /// Every node looks at once whether all that it has lies where it belongs.
        Rebalance = 3 "rebalance",
        /// Every node checks the digests of all that it has at once.
        Scrub = 4 "scrub",
    }
}

wire_enum! {
    /// How a storage node stands on the ring.
    RingState: u8 {
        /// Registered, and no member.
        Spare = 0 "spare",
        /// A member.
        Member = 1 "member",
        /// It hands over what it has.
        Draining = 2 "draining",
        /// It has handed over all that it had, and may be stopped.
        Drained = 3 "drained",
        /// It was removed; what it still has does not count.
        Removed = 4 "removed",
    }
}

wire_enum! {
    /// What a node answers to the offer of a block.
    OfferState: u8 {
        /// It would delete the block in this round, so it does not take it.
        Refused = 0 "refused",
        /// It has the block durably, with a stamp and a number of replicas that are not lower than
        /// the offered ones.
        Durable = 1 "durable",
        /// It lacks the block and expects it now.
        Wanted = 2 "wanted",
        /// It lacks the block and expects it from another node; ask again later.
        Expected = 3 "expected",
    }
}
