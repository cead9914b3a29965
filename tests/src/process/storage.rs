//! A storage node of the pipeline: the shipped logic, its volumes on a simulated disk, and what its
//! service does around them. One simulated thread stores, reads and hashes.

use std::path::Path;
use std::sync::Arc;

use ::storage::disk::{Disk, DiskLimits, Put, PutDone};
use ::storage::edge::{self, Begun, Finished, Kept, Performer, Work};
use ::storage::logic::{Effect, Event as LogicEvent, Registration, Storage, StorageLimits};
use fastrand::Rng;
use node::files::Files;
use node::logic::network::{Identity, NetworkEffect};
use proto::ids::{Incarnation, JobId, StoreId, TaskIndex};
use proto::status::Role;
use proto::time::Instant;

use super::member::explain;
use super::{Edge, Event, Recipe, Request, Start, Tier, node_id};
use crate::pipeline::{cluster_of, masters};

/// Where the volumes are on its machine.
const FOLDER: &str = "/data/storage";

/// Bytes that a simulated machine has for blocks.
const ROOM: u64 = 1 << 30;

/// What the node's threads are given.
#[derive(Debug)]
pub(crate) enum Job {
    /// To store a block.
    Put(Put),
    /// To read or hash.
    Work(Work),
}

/// What they did.
#[derive(Debug)]
pub(crate) struct Done {
    puts: Vec<PutDone>,
    works: Vec<edge::Done>,
}

/// A running storage node.
pub(crate) struct StorageProcess {
    edge: Edge,
    logic: Storage,
    disk: Disk,
    performer: Performer,
    kept: Kept,
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
        let (node, incarnation) = (node_id(b's', place, 0), Incarnation(start.life));
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
            logic: Storage::new(registration, StorageLimits::default(), rng),
            performer: Performer::new(disk.reader(), Arc::new(|| (ROOM, ROOM))),
            disk,
            kept: Kept::default(),
        };
        process.handle(start.now, Event::Tick, requests);
        Ok(process)
    }

    fn perform(&mut self, now: Instant, effects: Vec<Effect>, requests: &mut Vec<Request>) {
        for effect in effects {
            match self.kept.begin(effect) {
                Begun::Network(effect) => self.edge.perform(now, effect, requests),
                Begun::Put(put) => requests.push(work(Job::Put(put))),
                Begun::Work(it) => requests.push(work(Job::Work(it))),
                Begun::Join(cluster) => self.edge.set_cluster(cluster),
                Begun::Nothing => {}
            }
        }
    }
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
        match event {
            Event::Tick => {
                self.edge.tick(now, |event| {
                    logic.handle(now, LogicEvent::Network(event), &mut effects);
                });
                logic.handle(now, LogicEvent::Tick, &mut effects);
            }
            Event::Arrived { source, frame } => {
                self.edge.receive(now, &source, frame, |event| {
                    logic.handle(now, LogicEvent::Network(event), &mut effects);
                });
            }
            Event::Worked(super::Done::Storage(Done { puts, works })) => {
                for done in puts {
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
            Event::Finish => {}
        }
        for answer in answers {
            self.edge.perform(now, answer, requests);
        }
        self.perform(now, effects, requests);
    }

    fn work(&mut self, jobs: Vec<super::Job>) -> super::Done {
        let (mut puts, mut works) = (Vec::new(), Vec::new());
        for job in jobs {
            match job {
                super::Job::Storage(Job::Put(put)) => puts.push(put),
                super::Job::Storage(Job::Work(work)) => works.push(self.performer.perform(work)),
                _ => unreachable!("a storage node's jobs are its own"),
            }
        }
        super::Done::Storage(Done { puts: self.disk.store(puts), works })
    }

    fn next_deadline(&self) -> Option<Instant> {
        [self.logic.next_deadline(), self.edge.next_deadline()].into_iter().flatten().min()
    }

    fn check_invariants(&self) {
        self.logic.check_invariants();
        self.edge.check_invariants();
    }

    fn describe(&self) -> String {
        format!("ring {}", self.logic.ring_version().0)
    }

    fn explain(&self, _job: JobId, _task: TaskIndex) -> String {
        self.logic.explain()
    }
}
