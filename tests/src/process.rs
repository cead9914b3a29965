//! The processes of a simulated cluster: shipped logic and, around it, what its service does.
//!
//! A process is handed events and asks the world for things; both are the same for every tier. The
//! glue of a tier (its file below this one) performs effects in the order in which the logic gave
//! them and decides nothing.

mod balancer;
pub(crate) mod client;
mod edge;
pub(crate) mod files;
mod folding;
mod foreign;
mod gather;
pub(crate) mod jobs;
pub(crate) mod keys;
mod marks;
pub(crate) mod master;
pub(crate) mod member;
mod mistakes;
pub(crate) mod rings;
pub(crate) mod storage;
mod witness;
mod worker;

use std::collections::BTreeSet;
use std::ops::Range;

use ::client::logic::answers::JobSummary;
use ::master::logic::cluster::Cluster;
use ::storage::logic::StorageLimits;
use node::logic::network::NetworkLimits;
use proto::ids::{BlockId, FileId, JobId, NodeId, RingVersion, TaskIndex};
use proto::time::{Duration, Instant};

use crate::bank::{Answer, Transfer};
use crate::checkers::Violation;
use crate::checkers::deals::Deal;
use crate::checkers::history::Applied;
use crate::disk::SimFiles;
use crate::network::Source;
use crate::planted::Planted;
use crate::process::balancer::BalancerProcess;
use crate::process::client::{ClientProcess, Plan};
use crate::process::edge::Edge;
use crate::process::files::{FileClient, FileWish};
use crate::process::foreign::ForeignClient;
use crate::process::jobs::{JobClient, JobPlan};
use crate::process::keys::KeyClient;
use crate::process::master::MasterProcess;
use crate::process::member::{MemberProcess, Tuning};
use crate::process::rings::{Order, RingClient};
use crate::process::storage::StorageProcess;
use crate::process::worker::WorkerProcess;
use crate::report::{Happening, Report};

/// Which machine of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ProcessId(pub(crate) usize);

/// How a process is started, each time anew.
#[derive(Clone, Debug)]
pub(crate) enum Recipe {
    /// A member of the replicated bank: its place among the members.
    Member {
        /// From 0.
        place: usize,
    },
    /// A client of the bank.
    Client {
        /// From 0.
        place: usize,
        /// What it does.
        plan: Plan,
    },
    /// A master.
    Master {
        /// From 0.
        place: usize,
    },
    /// A balancer.
    Balancer {
        /// From 0.
        place: usize,
    },
    /// A worker.
    Worker {
        /// From 0.
        place: usize,
        /// Tasks that it executes at a time.
        slot_count: u32,
        /// Whether something is wrong with it, so that every task fails there.
        is_ill: bool,
    },
    /// A storage node.
    Storage {
        /// From 0.
        place: usize,
        /// When it is started for the first time.
        after: Duration,
    },
    /// A client that changes the ring of storage nodes.
    RingClient {
        /// From 0.
        place: usize,
        /// What it orders, one after the other.
        orders: Vec<Order>,
    },
    /// A client that submits jobs and waits for them.
    JobClient {
        /// From 0.
        place: usize,
        /// Its jobs.
        jobs: Vec<JobPlan>,
        /// Whether it asks the masters everything else, too.
        is_curious: bool,
    },
    /// A client that puts files and reads them.
    FileClient {
        /// From 0.
        place: usize,
        /// Its files.
        files: Vec<FileWish>,
    },
    /// A client that writes one key again and again.
    KeyClient {
        /// From 0.
        place: usize,
        /// When it begins after its start.
        after: Duration,
        /// How long it rests between two writes.
        pause: Duration,
        /// How often.
        count: u64,
        /// So many segments are to be folded, which it sets first; 0 for the default.
        fold_at: u64,
    },
    /// A client that reads the same files without the client library.
    ForeignClient {
        /// From 0.
        place: usize,
        /// Files that somebody else puts.
        files: Vec<FileWish>,
        /// Number of storage nodes.
        node_count: usize,
    },
}

impl Recipe {
    pub(crate) fn name(&self) -> String {
        match self {
            Recipe::Member { place } | Recipe::Master { place } => format!("m{}", place + 1),
            Recipe::Client { place, .. } | Recipe::JobClient { place, .. } => {
                format!("c{}", place + 1)
            }
            Recipe::FileClient { place, .. } => format!("f{}", place + 1),
            Recipe::KeyClient { place, .. } => format!("k{}", place + 1),
            Recipe::ForeignClient { place, .. } => format!("x{}", place + 1),
            Recipe::Balancer { place } => format!("b{}", place + 1),
            Recipe::Worker { place, .. } => format!("w{}", place + 1),
            Recipe::Storage { place, .. } => format!("s{}", place + 1),
            Recipe::RingClient { place, .. } => format!("r{}", place + 1),
        }
    }

    /// Where others reach it; empty for one that nobody connects to.
    pub(crate) fn address(&self) -> String {
        match self {
            Recipe::Client { .. }
            | Recipe::JobClient { .. }
            | Recipe::FileClient { .. }
            | Recipe::KeyClient { .. }
            | Recipe::RingClient { .. }
            | Recipe::ForeignClient { .. } => String::new(),
            _ => format!("sim://{}", self.name()),
        }
    }

    /// Whether what the process promises stands on its disk.
    pub(crate) fn has_disk(&self) -> bool {
        matches!(self, Recipe::Member { .. } | Recipe::Master { .. } | Recipe::Storage { .. })
    }
}

/// Where the storage node of a place is reached.
pub(crate) fn storage_address(place: usize) -> String {
    Recipe::Storage { place, after: Duration::ZERO }.address()
}

/// Number of a process within the run: its kind's letter, its place from 1, its life. People read
/// it in the trace.
pub(crate) fn node_id(kind: u8, place: usize, life: u64) -> NodeId {
    NodeId(u128::from(kind) << 64 | (place as u128 + 1) << 32 | u128::from(life))
}

/// The place of a node of such a number.
pub(crate) fn place_of(node: NodeId) -> usize {
    ((node.0 >> 32) as u32 as usize).saturating_sub(1)
}

/// The process that a routing id means, as `m2.1` for the first life of the second member.
pub(crate) fn name_of(routing_id: &[u8]) -> String {
    let id = routing_id.iter().skip(1).fold(0_u128, |id, &byte| id << 8 | u128::from(byte));
    let kind = char::from((id >> 64) as u8);
    format!("{kind}{}.{}", (id >> 32) as u32, id as u32)
}

/// What a starting process finds.
pub(crate) struct Start<'a> {
    /// Its own clock.
    pub(crate) now: Instant,
    /// Its machine's disk.
    pub(crate) files: &'a SimFiles,
    /// How often it was started, this time included.
    pub(crate) life: u64,
    /// For its generator.
    pub(crate) seed: u64,
    /// How many members the cluster has.
    pub(crate) member_count: usize,
    /// Bounds of its connections.
    pub(crate) limits: NetworkLimits,
    /// How members behave.
    pub(crate) tuning: Tuning,
    /// Whether a process of this machine made its folder before.
    pub(crate) has_folder: bool,
    /// Whether it begins the cluster where it has no folder.
    pub(crate) is_founder: bool,
    /// Disks that its machine lost before this one.
    pub(crate) disk: u64,
    /// Bounds of a storage node's work.
    pub(crate) storage: StorageLimits,
    /// How long masters wait for a silent member of the ring.
    pub(crate) grace: Duration,
    /// Files that a client was told are stored.
    pub(crate) stored_files: &'a BTreeSet<FileId>,
    /// The mistake that is built in.
    pub(crate) planted: Option<Planted>,
}

/// Something that a process keeps waiting, against the bound that is stated for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queue {
    /// What waits.
    pub(crate) name: &'static str,
    /// How much.
    pub(crate) length: usize,
    /// How much at most.
    pub(crate) bound: usize,
}

/// What happens to a process.
pub(crate) enum Event<'a> {
    /// Its deadline has come.
    Tick,
    /// A frame came.
    Arrived {
        /// From whom.
        source: Source,
        /// Its bytes.
        frame: &'a [u8],
    },
    /// Its disk thread is done with a job.
    Worked(Done),
    /// Users want nothing more.
    Finish,
}

/// What a process asks of the world.
#[derive(Debug)]
pub(crate) enum Request {
    /// Open a link's socket.
    Open { link: u32, generation: u64, routing_id: Vec<u8>, address: String },
    /// Close a link's socket.
    Close { link: u32, last_frames: Vec<Vec<u8>> },
    /// Hand a job to the disk thread.
    Work(Job),
    /// Tell the checkers.
    Note(Note),
    /// The process ends itself.
    GiveUp {
        /// Why.
        reason: String,
        /// Whether its disk failed it.
        is_disk: bool,
    },
}

/// What the checkers are told.
#[derive(Debug)]
pub(crate) enum Note {
    /// A member applied an entry.
    Applied(Applied),
    /// A member took over a state from a snapshot.
    Restored {
        /// Index of the snapshot.
        index: u64,
        /// Digest of the state.
        state: u64,
    },
    /// A member leads.
    Leads {
        /// In this term.
        term: u64,
    },
    /// A member is in the configuration as a voter.
    Votes,
    /// A client sends a request for the first time.
    Sent(Transfer),
    /// A client got an answer.
    Acknowledged {
        /// Which request.
        transfer: Transfer,
        /// The answer.
        answer: Answer,
    },
    /// A client asks for the sum.
    AuditSent {
        /// The client.
        client: u64,
    },
    /// A client was told the sum.
    Audited {
        /// The client.
        client: u64,
        /// Newest command that the sum contains.
        index: u64,
        /// The sum.
        sum: u64,
    },
    /// A master has applied more of the log.
    State(Box<Cluster>),
    /// A client was told that its job is committed.
    Accepted {
        /// The job.
        job: JobId,
        /// Log index of its entry.
        index: u64,
    },
    /// A client was told a job's state.
    Told {
        /// The client: a new one with each life.
        client: NodeId,
        /// The state.
        summary: Box<JobSummary>,
    },
    /// A client was told that a file is stored.
    Stored {
        /// The file.
        file: FileId,
        /// All of its blocks.
        blocks: Vec<BlockId>,
    },
    /// The process saw a promise broken.
    Broken(Violation),
    /// A file that is stored was not found, or could not be read although everything is mended.
    Unreadable {
        /// The file.
        file: FileId,
        /// What the client was told.
        why: String,
    },
    /// A client asks one storage node for a file.
    Asked {
        /// The file.
        file: FileId,
    },
    /// That node answered that there is no such file.
    NotFound {
        /// The file.
        file: FileId,
    },
    /// A master's state names segments that it did not name before.
    Segments(Vec<FileId>),
    /// A balancer deals.
    Dealt(Deal),
    /// A worker begins tasks.
    Begins {
        /// Their job.
        job: JobId,
        /// The tasks.
        tasks: Range<u64>,
        /// The attempt.
        attempt: u64,
    },
    /// Something to count.
    Count(Happening, u64),
}

/// A job of a disk thread.
#[derive(Debug)]
pub(crate) enum Job {
    /// Of a member.
    Member(member::Job),
    /// Of a master.
    Master(master::Job),
    /// Of a storage node.
    Storage(storage::Job),
}

impl Job {
    /// Blocks that a storage node deletes with it.
    pub(crate) fn deleted(&self) -> Vec<BlockId> {
        match self {
            Job::Storage(job) => job.deleted(),
            Job::Member(_) | Job::Master(_) => Vec::new(),
        }
    }
}

/// What came of the jobs that a disk thread did together.
#[derive(Debug)]
pub(crate) enum Done {
    /// Of a member or master.
    Member(Vec<member::Done>),
    /// Of a storage node.
    Storage(storage::Done),
}

/// A running process.
pub(crate) enum Process {
    /// A member of the replicated bank.
    Member(Box<MemberProcess>),
    /// A client of it.
    Client(Box<ClientProcess>),
    /// A process of the pipeline.
    Tier(Box<dyn Tier>),
}

/// A process of the pipeline: a tier's shipped logic and what its service does around it.
pub(crate) trait Tier {
    /// Its connections.
    fn edge(&mut self) -> &mut Edge;

    /// Those of a client that is part of the process.
    fn second_edge(&mut self) -> Option<&mut Edge> {
        None
    }

    /// Hands an event to the logic and carries out what it wants.
    fn handle(&mut self, now: Instant, event: Event<'_>, requests: &mut Vec<Request>);

    /// What its disk thread does with the jobs that wait.
    fn work(&mut self, _jobs: Vec<Job>) -> Done {
        unreachable!("a process without a disk thread gives it no jobs")
    }

    fn next_deadline(&self) -> Option<Instant>;

    fn check_invariants(&self);

    /// Shows each of its queues that may have grown in the last step.
    fn queues(&self, each: &mut dyn FnMut(Queue));

    /// Adds what the logic counted in this life.
    fn report(&self, _report: &mut Report) {}

    /// The first of these blocks that is not on its disk.
    fn missing(&self, _blocks: &[BlockId]) -> Option<BlockId> {
        None
    }

    /// The version of the ring under which a storage node has ended a pass and nothing is left to
    /// be done.
    fn passed(&self) -> Option<RingVersion> {
        None
    }

    /// Whether it has nothing left to do.
    fn is_settled(&self) -> bool {
        true
    }

    /// What a master has applied.
    fn cluster(&self) -> Option<&Cluster> {
        None
    }

    /// True for a master that leads, as it believes itself.
    fn leads(&self) -> bool {
        false
    }

    /// What it is at present, in a few words.
    fn describe(&self) -> String;

    /// Why a task is where it is, as far as this process knows.
    fn explain(&self, job: JobId, task: TaskIndex) -> String;
}

impl Process {
    /// Starts a process from its disk. An error is what a real one would say before it ends.
    pub(crate) fn start(
        recipe: &Recipe,
        start: &Start<'_>,
        requests: &mut Vec<Request>,
    ) -> Result<Process, String> {
        Ok(match recipe {
            Recipe::Member { place } => {
                Process::Member(Box::new(MemberProcess::start(*place, start, requests)?))
            }
            Recipe::Client { place, plan } => {
                Process::Client(Box::new(ClientProcess::start(*place, plan, start, requests)))
            }
            Recipe::Master { place } => {
                Process::Tier(Box::new(MasterProcess::start(*place, start, requests)?))
            }
            Recipe::Balancer { place } => {
                Process::Tier(Box::new(BalancerProcess::start(*place, start, requests)))
            }
            Recipe::Worker { place, slot_count, is_ill } => {
                let about = (*place, *slot_count, *is_ill);
                Process::Tier(Box::new(WorkerProcess::start(about, start, requests)))
            }
            Recipe::Storage { place, .. } => {
                Process::Tier(Box::new(StorageProcess::start(*place, start, requests)?))
            }
            Recipe::JobClient { place, jobs, is_curious } => {
                let client = JobClient::start(*place, jobs, *is_curious, start, requests);
                Process::Tier(Box::new(client))
            }
            Recipe::RingClient { place, orders } => {
                Process::Tier(Box::new(RingClient::start(*place, orders, start, requests)))
            }
            Recipe::FileClient { place, files } => {
                Process::Tier(Box::new(FileClient::start(*place, files, start, requests)))
            }
            Recipe::KeyClient { place, after, pause, count, fold_at } => {
                let about = (*place, *after, *pause, *count, *fold_at);
                Process::Tier(Box::new(KeyClient::start(about, start, requests)))
            }
            Recipe::ForeignClient { place, files, node_count } => {
                Process::Tier(Box::new(ForeignClient::start((*place, *node_count), files, start)))
            }
        })
    }

    pub(crate) fn handle(&mut self, now: Instant, event: Event<'_>, requests: &mut Vec<Request>) {
        match self {
            Process::Member(member) => member.handle(now, event, requests),
            Process::Client(client) => client.handle(now, &event, requests),
            Process::Tier(tier) => tier.handle(now, event, requests),
        }
    }

    /// Does something with each of its groups of connections, most processes have one.
    pub(crate) fn with_edges(&mut self, mut each: impl FnMut(&mut Edge)) {
        match self {
            Process::Member(member) => each(member.edge()),
            Process::Client(client) => each(client.edge()),
            Process::Tier(tier) => {
                each(tier.edge());
                tier.second_edge().into_iter().for_each(each);
            }
        }
    }

    /// What the disk thread does with the jobs that wait; blocks in real life.
    pub(crate) fn work(&mut self, jobs: impl Iterator<Item = Job>) -> Done {
        match self {
            Process::Member(member) => {
                let own = |job| match job {
                    Job::Member(job) => job,
                    _ => unreachable!("a member's jobs are its own"),
                };
                Done::Member(member.work(jobs.map(own).collect()))
            }
            Process::Tier(tier) => tier.work(jobs.collect()),
            Process::Client(_) => unreachable!("a client has no disk thread"),
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        match self {
            Process::Member(member) => member.next_deadline(),
            Process::Client(client) => client.next_deadline(),
            Process::Tier(tier) => tier.next_deadline(),
        }
    }

    pub(crate) fn check_invariants(&self) {
        match self {
            Process::Member(member) => member.check_invariants(),
            Process::Client(client) => client.check_invariants(),
            Process::Tier(tier) => tier.check_invariants(),
        }
    }

    /// Shows each of its queues that may have grown in the last step.
    pub(crate) fn queues(&self, each: &mut dyn FnMut(Queue)) {
        match self {
            Process::Member(member) => member.queues(each),
            Process::Client(client) => client.queues(each),
            Process::Tier(tier) => tier.queues(each),
        }
    }

    /// Adds what was counted in this life.
    pub(crate) fn report(&mut self, report: &mut Report) {
        self.with_edges(|edge| edge.report(report));
        if let Process::Tier(tier) = self {
            tier.report(report);
        }
    }

    /// The first of these blocks that is not on its disk.
    pub(crate) fn missing(&self, blocks: &[BlockId]) -> Option<BlockId> {
        match self {
            Process::Tier(tier) => tier.missing(blocks),
            Process::Member(_) | Process::Client(_) => None,
        }
    }

    /// The version of the ring under which a storage node has nothing left to do.
    pub(crate) fn passed(&self) -> Option<RingVersion> {
        match self {
            Process::Tier(tier) => tier.passed(),
            Process::Member(_) | Process::Client(_) => None,
        }
    }

    /// True for a process that has nothing left to do: a client without open requests, a member
    /// that applied up to the given index and has that state.
    pub(crate) fn is_settled(&self, wanted: (u64, u64)) -> bool {
        match self {
            Process::Member(member) => member.has_reached(wanted),
            Process::Client(client) => client.is_idle(),
            Process::Tier(tier) => tier.is_settled(),
        }
    }

    /// What a master has applied.
    pub(crate) fn cluster(&self) -> Option<&Cluster> {
        match self {
            Process::Tier(tier) => tier.cluster(),
            Process::Member(_) | Process::Client(_) => None,
        }
    }

    /// True for a master that leads, as it believes itself.
    pub(crate) fn leads(&self) -> bool {
        matches!(self, Process::Tier(tier) if tier.leads())
    }

    /// Role and epoch for the trace, and what it waits for.
    pub(crate) fn describe(&self) -> String {
        match self {
            Process::Member(member) => member.describe(),
            Process::Client(client) => client.describe(),
            Process::Tier(tier) => tier.describe(),
        }
    }

    /// Why a task is where it is, for who reads a failed run.
    pub(crate) fn explain(&self, job: JobId, task: TaskIndex) -> String {
        match self {
            Process::Tier(tier) => tier.explain(job, task),
            Process::Member(_) | Process::Client(_) => String::new(),
        }
    }
}
