//! A storage node of the pipeline: the shipped logic, its volumes on a simulated disk, and what its
//! service does around them. One simulated thread stores, reads and hashes.

use std::path::Path;
use std::sync::Arc;

use ::storage::disk::{Disk, DiskLimits, Put, PutDone, PutError, Stored};
use ::storage::disk_thread::{DiskDone, Job as DiskJob};
use ::storage::edge::{self, Begun, Finished, Kept, Performer, Work};
use ::storage::logic::{Effect, Event as LogicEvent, Registration, Storage, StorageLimits, Ticket};
use ::storage::registers;
use ::storage::registers::store::{Store, StoreLimits};
use fastrand::Rng;
use node::files::Files;
use node::logic::network::{Identity, NetworkEffect, NetworkEvent};
use proto::ids::{BlockId, Incarnation, JobId, RingVersion, StoreId, TaskIndex};
use proto::limits;
use proto::messages::file::BlockOffered;
use proto::messages::session::ErrorReply;
use proto::record::{Message, Records, encode, set_request_id};
use proto::status::{ErrorCode, OfferState, Role};
use proto::time::Instant;

use super::member::explain;
use super::{Edge, Event, Note, Queue, Request, Start, Tier, node_id, storage_address};
use crate::disk::SimFiles;
use crate::pipeline::{cluster_of, masters};
use crate::planted::Planted;
use crate::report::{Happening, Report};

/// Where the volumes are on its machine.
const FOLDER: &str = "/data/storage";

/// Bytes that a simulated machine has for blocks.
const ROOM: u64 = 1 << 30;

/// Blocks that are read to be handed over, to all nodes of a simulated cluster.
const HANDED_BLOCKS: usize = 64;

/// What the node's threads are given.
#[derive(Debug)]
pub(crate) enum Job {
    /// For the disk thread, taken on by this version of the ring.
    Disk(DiskJob, RingVersion),
    /// To change registers.
    Registers(registers::Job),
    /// To read or hash.
    Work(Work),
}

impl Job {
    /// Blocks that are deleted.
    pub(crate) fn deleted(&self) -> Vec<BlockId> {
        match self {
            Job::Disk(DiskJob::Delete { blocks, .. }, _) => blocks.clone(),
            _ => Vec::new(),
        }
    }
}

/// What they did.
#[derive(Debug)]
pub(crate) struct Done {
    disk: Vec<DiskDone>,
    registers: Vec<registers::JobDone>,
    works: Vec<edge::Done>,
    /// Blocks that a power loss would leave, with the ring by which they were taken on; version 0
    /// for those that were there before.
    pub(crate) durable: Vec<(BlockId, RingVersion)>,
    /// Blocks that the disk durably forgot, and the ring by which that was decided.
    pub(crate) deleted: Vec<(BlockId, RingVersion)>,
}

/// A running storage node.
pub(crate) struct StorageProcess {
    edge: Edge,
    logic: Storage,
    disk: Disk,
    registers: Store,
    performer: Performer,
    kept: Kept,
    files: SimFiles,
    limits: StorageLimits,
    /// Whether puts are answered before they are done.
    is_early: bool,
    /// Whether every answer to an offer is taken for a confirmation.
    is_hasty: bool,
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
            reserve_bytes: 1 << 20,
            step_bytes: 128 << 10,
            ..DiskLimits::default()
        };
        let disk =
            Disk::open(Arc::clone(&files), folder, limits).map_err(|error| explain(&error))?;
        let limits = StoreLimits { slack_bytes: 16 << 10, ..StoreLimits::default() };
        let registers = Store::open(files, folder, limits).map_err(|error| explain(&error))?;
        let (registers, recovered) = registers;
        let (node, incarnation) = (node_id(b's', place, start.disk), Incarnation(start.life));
        let address = storage_address(place);
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
        let mut logic = Storage::new(registration, start.storage, rng);
        logic.recover_registers(recovered);
        let mut process = StorageProcess {
            edge: Edge::new(identity, start.limits),
            logic,
            performer: Performer::new(disk.reader(), Arc::new(|| (ROOM, ROOM))),
            disk,
            registers,
            kept: Kept::default(),
            files: start.files.clone(),
            limits: start.storage,
            is_early: start.planted == Some(Planted::EarlyAcknowledgement),
            is_hasty: start.planted == Some(Planted::HastyDeletion),
        };
        process.handle(start.now, Event::Tick, requests);
        Ok(process)
    }

    fn perform(&mut self, now: Instant, effects: Vec<Effect>, requests: &mut Vec<Request>) {
        let mut early = Vec::new();
        for effect in effects {
            match self.kept.begin(effect) {
                Begun::Network(effect) => {
                    for (happening, count) in told(&effect) {
                        requests.push(Request::Note(Note::Count(happening, count)));
                    }
                    self.edge.perform(now, effect, requests);
                }
                Begun::Disk(job) => {
                    if self.is_early
                        && let DiskJob::Put(put) = &job
                    {
                        let result = Ok(Stored { was_present: false });
                        let done = PutDone { ticket: put.ticket, result };
                        self.logic.handle(now, LogicEvent::PutDone(done), &mut early);
                    }
                    requests.push(work(Job::Disk(job, self.logic.ring_version())));
                }
                Begun::Registers(job) => requests.push(work(Job::Registers(job))),
                Begun::Work(it) => requests.push(work(Job::Work(it))),
                Begun::Join(cluster) => self.edge.set_cluster(cluster),
                Begun::Nothing => {}
            }
        }
        if !early.is_empty() {
            self.perform(now, early, requests);
        }
    }

    /// Stores blocks together, as the disk thread does.
    fn store(&mut self, puts: Vec<(Put, RingVersion)>, done: &mut Done) {
        let stored: Vec<(Ticket, BlockId, RingVersion)> =
            puts.iter().map(|(put, version)| (put.ticket, put.block, *version)).collect();
        let results = self.disk.store(puts.into_iter().map(|(put, _)| put).collect());
        for (ticket, block, version) in stored {
            let outcome = results.iter().find(|done| done.ticket == ticket);
            if outcome.is_some_and(|done| done.result.is_ok()) && self.is_durable(block) {
                done.durable.push((block, version));
            }
        }
        done.disk.extend(results.into_iter().map(DiskDone::Put));
    }

    /// Whether a power loss would leave a block, which its reader finds.
    fn is_durable(&self, block: BlockId) -> bool {
        let read = self.disk.reader().read(block);
        read.is_ok_and(|read| self.files.is_durable(&read.content))
    }
}

/// The answer to offers as if all of them were confirmed.
fn confirmed(event: &NetworkEvent<'_>) -> Option<Vec<u8>> {
    let NetworkEvent::Record { record, .. } = event else { return None };
    if record.message_type() != BlockOffered::TYPE {
        return None;
    }
    let (head, [states]) = record.open::<BlockOffered, 1>().ok()?;
    let mut altered = encode(&head, &[&vec![OfferState::Durable.to_wire(); states.len()]]);
    set_request_id(&mut altered, record.request_id());
    Some(altered)
}

/// What is worth counting of what it tells others.
fn told(effect: &NetworkEffect) -> Vec<(Happening, u64)> {
    let NetworkEffect::Send { record, .. } = effect else { return Vec::new() };
    let Some(Ok(record)) = Records::of(record).next() else { return Vec::new() };
    if record.message_type() == ErrorReply::TYPE {
        let code = record.open::<ErrorReply, 2>().map(|(head, _)| ErrorCode::from_wire(head.code));
        return match code.ok().flatten() {
            Some(ErrorCode::Busy) => vec![(Happening::Busy, 1)],
            Some(ErrorCode::StaleRing) => vec![(Happening::StaleRings, 1)],
            _ => Vec::new(),
        };
    }
    if record.message_type() != BlockOffered::TYPE {
        return Vec::new();
    }
    let Ok((_, [states])) = record.open::<BlockOffered, 1>() else { return Vec::new() };
    let of = |wanted: OfferState| {
        states.iter().filter(|&&state| OfferState::from_wire(state) == Some(wanted)).count() as u64
    };
    vec![
        (Happening::OffersExpected, of(OfferState::Expected)),
        (Happening::OffersRefused, of(OfferState::Refused)),
    ]
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
        let is_hasty = self.is_hasty;
        self.edge.hear(now, &event, |event| {
            let altered = if is_hasty { confirmed(&event) } else { None };
            let altered = altered.as_deref().and_then(|bytes| Records::of(bytes).next());
            let event = match (event, altered) {
                (NetworkEvent::Record { sender, .. }, Some(Ok(record))) => {
                    NetworkEvent::Record { sender, record }
                }
                (event, _) => event,
            };
            logic.handle(now, LogicEvent::Network(event), &mut effects);
        });
        match event {
            Event::Tick => logic.handle(now, LogicEvent::Tick, &mut effects),
            Event::Worked(super::Done::Storage(Done { disk, registers, works, .. })) => {
                for done in registers {
                    logic.handle(now, LogicEvent::RegistersDone(done), &mut effects);
                }
                for done in disk {
                    if let DiskDone::Put(done) = &done {
                        if done.result == Err(PutError::DiskFull) {
                            requests.push(Request::Note(Note::Count(Happening::PutsRefused, 1)));
                        }
                        if self.is_early {
                            continue;
                        }
                    }
                    logic.handle(now, edge::disk_event(done), &mut effects);
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
        let mut done = Done {
            disk: Vec::new(),
            registers: Vec::new(),
            works: Vec::new(),
            durable: Vec::new(),
            deleted: Vec::new(),
        };
        let (mut puts, mut changes) = (Vec::new(), Vec::new());
        for job in jobs {
            match job {
                super::Job::Storage(Job::Disk(DiskJob::Put(put), version)) => {
                    puts.push((put, version));
                }
                super::Job::Storage(Job::Disk(DiskJob::Touch { ticket, items }, _)) => {
                    self.store(std::mem::take(&mut puts), &mut done);
                    let asked: Vec<BlockId> = items.iter().map(|item| item.block).collect();
                    let present = self.disk.touch(items);
                    let there = asked.into_iter().filter(|&block| self.is_durable(block));
                    done.durable.extend(there.map(|block| (block, RingVersion(0))));
                    done.disk.push(DiskDone::Touched { ticket, present });
                }
                super::Job::Storage(Job::Disk(DiskJob::Delete { ticket, blocks }, version)) => {
                    self.store(std::mem::take(&mut puts), &mut done);
                    let result = self.disk.delete(&blocks);
                    if result.is_ok() {
                        done.deleted.extend(blocks.iter().map(|&block| (block, version)));
                    }
                    done.disk.push(DiskDone::Deleted { ticket, result });
                }
                super::Job::Storage(Job::Registers(job)) => changes.push(job),
                super::Job::Storage(Job::Work(work)) => {
                    done.works.push(self.performer.perform(work));
                }
                _ => unreachable!("a storage node's jobs are its own"),
            }
        }
        self.store(puts, &mut done);
        // What was deleted behind it is there no more.
        let mut durable = std::mem::take(&mut done.durable);
        durable.retain(|&(block, _)| self.is_durable(block));
        done.durable = durable;
        self.disk.upkeep();
        if !changes.is_empty() {
            done.registers = self.registers.store(changes);
            self.registers.tidy();
        }
        super::Done::Storage(done)
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
        let bound = bound + HANDED_BLOCKS;
        each(Queue { name: "blocks that wait to be answered", length: self.kept.count(), bound });
        self.edge.queues(each);
    }

    fn report(&self, report: &mut Report) {
        report.add(Happening::DamagedBlocks, self.disk.reader().counters().damaged_count);
        let progress = self.logic.progress();
        report.add(Happening::BlocksMoved, progress.moved_count);
        report.add(Happening::BlocksMended, progress.mended_count);
    }

    fn passed(&self) -> Option<RingVersion> {
        let progress = self.logic.progress();
        let is_at_rest = progress.foreign_count == 0 && progress.lacking_count == 0;
        is_at_rest.then_some(RingVersion(progress.passed_version))
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
