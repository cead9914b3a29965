//! A storage node of the pipeline: the shipped logic, its volumes on a simulated disk, and what its
//! service does around them. One simulated thread stores, reads and hashes.

use std::path::Path;
use std::sync::Arc;

use ::storage::disk::{Disk, DiskLimits, Put, PutDone, PutError, Stored};
use ::storage::edge::{self, Begun, Finished, Kept, Performer, Work};
use ::storage::logic::{Effect, Event as LogicEvent, Registration, Storage, StorageLimits};
use fastrand::Rng;
use node::files::Files;
use node::logic::network::{Identity, NetworkEffect};
use proto::ids::{BlockId, Incarnation, JobId, RingVersion, StoreId, TaskIndex};
use proto::limits;
use proto::messages::session::ErrorReply;
use proto::record::{Message, Records};
use proto::status::{ErrorCode, Role};
use proto::time::Instant;

use super::member::explain;
use super::{Edge, Event, Note, Queue, Recipe, Request, Start, Tier, node_id};
use crate::disk::SimFiles;
use crate::pipeline::{cluster_of, masters};
use crate::planted::Planted;
use crate::report::{Happening, Report};

/// Where the volumes are on its machine.
const FOLDER: &str = "/data/storage";

/// Bytes that a simulated machine has for blocks.
const ROOM: u64 = 1 << 30;

/// What the node's threads are given.
#[derive(Debug)]
pub(crate) enum Job {
    /// To store a block, taken on by this version of the ring.
    Put(Put, RingVersion),
    /// To read or hash.
    Work(Work),
}

/// What they did.
#[derive(Debug)]
pub(crate) struct Done {
    puts: Vec<PutDone>,
    works: Vec<edge::Done>,
    /// Blocks that a power loss would leave, with the ring by which they were taken on; version 0
    /// for those that were there before.
    pub(crate) durable: Vec<(BlockId, RingVersion)>,
}

/// A running storage node.
pub(crate) struct StorageProcess {
    edge: Edge,
    logic: Storage,
    disk: Disk,
    performer: Performer,
    kept: Kept,
    files: SimFiles,
    limits: StorageLimits,
    /// Whether puts are answered before they are done.
    is_early: bool,
}

impl StorageProcess {
    pub(crate) fn start(
        place: usize,
        start: &Start<'_>,
        requests: &mut Vec<Request>,
    ) -> Result<StorageProcess, String> {
        let files: Arc<dyn Files> = Arc::new(start.files.clone());
        let folder = Path::new(FOLDER);
        files.create_dir_all(folder).map_err(|error| explain(&error))?;
        let limits = DiskLimits {
            prepared_bytes: 64 << 10,
            file_threads: 1,
            volume_bytes: 1 << 20,
            ..DiskLimits::default()
        };
        let disk = Disk::open(files, folder, limits).map_err(|error| explain(&error))?;
        let (node, incarnation) = (node_id(b's', place, start.disk), Incarnation(start.life));
        let address = Recipe::Storage { place }.address();
        let cluster = cluster_of(start);
        let identity = Identity {
            node,
            role: Role::Storage,
            cluster,
            incarnation,
            version: "simulated".to_owned(),
            address: address.clone(),
        };
        let registration = Registration {
            node,
            incarnation,
            store: StoreId(node.0),
            cluster,
            weight: 1,
            capacity_bytes: ROOM,
            zone: String::new(),
            address,
            telemetry_address: String::new(),
            masters: masters(start.member_count),
        };
        let rng = Rng::with_seed(start.seed);
        let mut process = StorageProcess {
            edge: Edge::new(identity, start.limits),
            logic: Storage::new(registration, start.storage, rng),
            performer: Performer::new(disk.reader(), Arc::new(|| (ROOM, ROOM))),
            disk,
            kept: Kept::default(),
            files: start.files.clone(),
            limits: start.storage,
            is_early: start.planted == Some(Planted::EarlyAcknowledgement),
        };
        process.handle(start.now, Event::Tick, requests);
        Ok(process)
    }

    fn perform(&mut self, now: Instant, effects: Vec<Effect>, requests: &mut Vec<Request>) {
        let mut early = Vec::new();
        for effect in effects {
            match self.kept.begin(effect) {
                Begun::Network(effect) => {
                    if is_busy(&effect) {
                        requests.push(Request::Note(Note::Count(Happening::Busy, 1)));
                    }
                    self.edge.perform(now, effect, requests);
                }
                Begun::Put(put) => {
                    if self.is_early {
                        let result = Ok(Stored { was_present: false });
                        let done = PutDone { ticket: put.ticket, result };
                        self.logic.handle(now, LogicEvent::PutDone(done), &mut early);
                    }
                    requests.push(work(Job::Put(put, self.logic.ring_version())));
                }
                Begun::Work(it) => requests.push(work(Job::Work(it))),
                Begun::Join(cluster) => self.edge.set_cluster(cluster),
                Begun::Nothing => {}
            }
        }
        if !early.is_empty() {
            self.perform(now, early, requests);
        }
    }

    /// Whether a power loss would leave a block, which its reader finds.
    fn is_durable(&self, block: BlockId) -> bool {
        let read = self.disk.reader().read(block);
        read.is_ok_and(|read| self.files.is_durable(&read.content))
    }
}

/// Whether it is a refusal because too much is going on.
fn is_busy(effect: &NetworkEffect) -> bool {
    let NetworkEffect::Send { record, .. } = effect else { return false };
    record.first() == Some(&ErrorReply::TYPE)
        && Records::of(record).any(|record| {
            let reply = record.and_then(|record| record.open::<ErrorReply, 2>());
            reply.is_ok_and(|(head, _)| ErrorCode::from_wire(head.code) == Some(ErrorCode::Busy))
        })
}

fn work(job: Job) -> Request {
    Request::Work(super::Job::Storage(job))
}

impl Tier for StorageProcess {
    fn edge(&mut self) -> &mut Edge {
        &mut self.edge
    }

    fn handle(&mut self, now: Instant, event: Event<'_>, requests: &mut Vec<Request>) {
        let mut effects = Vec::new();
        let mut answers: Vec<NetworkEffect> = Vec::new();
        let logic = &mut self.logic;
        self.edge.hear(now, &event, |event| {
            logic.handle(now, LogicEvent::Network(event), &mut effects);
        });
        match event {
            Event::Tick => logic.handle(now, LogicEvent::Tick, &mut effects),
            Event::Worked(super::Done::Storage(Done { puts, works, .. })) => {
                for done in puts {
                    if done.result == Err(PutError::DiskFull) {
                        requests.push(Request::Note(Note::Count(Happening::PutsRefused, 1)));
                    }
                    if self.is_early {
                        continue;
                    }
                    logic.handle(now, LogicEvent::PutDone(done), &mut effects);
                }
                for done in works {
                    match self.kept.finish(done) {
                        Finished::Event(event) => logic.handle(now, event, &mut effects),
                        Finished::Network(effect) => answers.push(effect),
                    }
                }
            }
            Event::Worked(super::Done::Member(_)) => unreachable!("a storage node has no log"),
            Event::Arrived { .. } | Event::Finish => {}
        }
        for answer in answers {
            self.edge.perform(now, answer, requests);
        }
        self.perform(now, effects, requests);
    }

    fn work(&mut self, jobs: Vec<super::Job>) -> super::Done {
        let (mut puts, mut works) = (Vec::new(), Vec::new());
        let (mut stored, mut durable) = (Vec::new(), Vec::new());
        for job in jobs {
            match job {
                super::Job::Storage(Job::Put(put, version)) => {
                    stored.push((put.ticket, put.block, version));
                    puts.push(put);
                }
                super::Job::Storage(Job::Work(work)) => {
                    let asked = match &work {
                        Work::Query { blocks, .. } => blocks.clone(),
                        _ => Vec::new(),
                    };
                    works.push(self.performer.perform(work));
                    let there = asked.into_iter().filter(|&block| self.is_durable(block));
                    durable.extend(there.map(|block| (block, RingVersion(0))));
                }
                _ => unreachable!("a storage node's jobs are its own"),
            }
        }
        let puts = self.disk.store(puts);
        for (ticket, block, version) in stored {
            let done = puts.iter().find(|done| done.ticket == ticket);
            if done.is_some_and(|done| done.result.is_ok()) && self.is_durable(block) {
                durable.push((block, version));
            }
        }
        super::Done::Storage(Done { puts, works, durable })
    }

    fn next_deadline(&self) -> Option<Instant> {
        [self.logic.next_deadline(), self.edge.next_deadline()].into_iter().flatten().min()
    }

    fn check_invariants(&self) {
        self.logic.check_invariants();
        self.edge.check_invariants();
    }

    fn queues(&self, each: &mut dyn FnMut(Queue)) {
        // A whole file waits in the blocks that it consists of.
        let pieces = limits::WHOLE_FILE_BYTES / limits::BLOCK_BYTES;
        let bound = self.limits.reads.count.max(1) + self.limits.files.count.max(1) * pieces;
        each(Queue { name: "blocks that wait to be answered", length: self.kept.count(), bound });
        self.edge.queues(each);
    }

    fn report(&self, report: &mut Report) {
        report.add(Happening::DamagedBlocks, self.disk.reader().counters().damaged_count);
    }

    fn missing(&self, blocks: &[BlockId]) -> Option<BlockId> {
        let present = self.disk.reader().presence(blocks);
        blocks.iter().zip(present).find(|(_, is_there)| *is_there == 0).map(|(&block, _)| block)
    }

    fn describe(&self) -> String {
        format!("ring {}", self.logic.ring_version().0)
    }

    fn explain(&self, _job: JobId, _task: TaskIndex) -> String {
        self.logic.explain()
    }
}
