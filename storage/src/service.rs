//! The one event loop of a storage node: network, disk thread and pool in, logic, effects out.
//!
//! Nothing here decides anything, and nothing here waits for a disk: storing is the disk thread's,
//! reading and hashing the pool's.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;

use node::clock::Clock;
use node::data_folder::{DataFolder, DataFolderError};
use node::files::RealFiles;
use node::logic::network::{Identity, NetworkEffect, NetworkEvent};
use node::logic::updates::Publications;
use node::network::{Network, NetworkError};
use node::pool::Pool;
use node::pubsub::{PubSubError, Publisher};
use node::stop::Stop;
use proto::ids::{ClusterId, StoreId};
use proto::messages::telemetry::TelemetrySnapshotRequest;
use proto::record::Message;
use proto::status::Role;
use proto::time::{Duration, Instant};

use crate::config::Config;
use crate::disk::{Disk, DiskError, DiskLimits, Reader};
use crate::disk_thread::DiskThread;
use crate::edge::{Begun, Done, Finished, Kept, Performer, Work};
use crate::logic::{Effect, Event, Registration, Storage, StorageLimits};

/// Work that the pool holds; what exceeds it waits in the loop. The logic's admission bounds both.
const POOL_CAPACITY: usize = 512;

/// How often the state is published.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Why a storage node cannot run.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// No address of a master is configured.
    #[error("a storage node needs the address of a master: set masters in table [node]")]
    NoMaster,
    /// The data folder is another's, in use, or unreadable.
    #[error("open the data folder")]
    DataFolder(#[source] DataFolderError),
    /// What it holds cannot be recovered.
    #[error("recover the blocks")]
    Disk(#[source] DiskError),
    /// The address cannot be bound.
    #[error("begin to listen")]
    Network(#[source] NetworkError),
    /// Telemetry cannot be published.
    #[error("publish telemetry")]
    Telemetry(#[source] PubSubError),
    /// No room can be told of the file system, no thread started, no randomness drawn.
    #[error("{operation}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

fn system(operation: &'static str) -> impl FnOnce(io::Error) -> StorageError {
    move |source| StorageError::System { operation, source }
}

/// Bytes of the file system that holds `path`, in all and free.
fn room(path: &Path) -> io::Result<(u64, u64)> {
    let told = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(told.f_frsize);
    Ok((bytes(told.f_blocks), bytes(told.f_bavail)))
}

/// Runs a storage node until `stop` is requested.
///
/// # Errors
/// [`StorageError`], at the start; or when the first master that it meets belongs to another
/// cluster than its folder.
pub fn run(config: Config, stop: Stop) -> Result<(), StorageError> {
    let Config { node: settings, storage } = config;
    if settings.masters.is_empty() {
        return Err(StorageError::NoMaster);
    }
    let opened = DataFolder::open(&settings.data, Role::Storage, settings.cluster);
    let folder = opened.map_err(StorageError::DataFolder)?;
    let path = folder.path().to_owned();
    let disk = Disk::open(Arc::new(RealFiles), &path, DiskLimits::default());
    let disk = disk.map_err(StorageError::Disk)?;
    tracing::info!(recovery = ?disk.recovery(), "the blocks are recovered");
    let (total_bytes, _) = room(&path).map_err(system("ask the file system for its room"))?;
    let clock = Clock::start();
    let identity = Identity {
        node: folder.node(),
        role: Role::Storage,
        cluster: folder.cluster().unwrap_or_default(),
        incarnation: folder.incarnation(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        address: settings.reachable.clone().unwrap_or_default(),
    };
    let network = Network::bind(identity, &settings.listen, settings.exposure(), clock);
    let network = network.map_err(StorageError::Network)?;
    let publications = Publications::new(folder.node(), Role::Storage, folder.incarnation());
    let (context, exposure) = (network.context(), settings.exposure());
    let publisher = Publisher::bind(context, &settings.telemetry, exposure, publications);
    let publisher = publisher.map_err(StorageError::Telemetry)?;
    let bound = network.bound_address().unwrap_or_default().to_owned();
    let registration = Registration {
        node: folder.node(),
        incarnation: folder.incarnation(),
        store: folder.store(),
        cluster: folder.cluster().unwrap_or_default(),
        weight: storage.weight,
        capacity_bytes: match storage.capacity_bytes {
            0 => total_bytes,
            bytes => bytes,
        },
        zone: storage.zone,
        address: settings.reachable.unwrap_or_else(|| bound.clone()),
        telemetry_address: publisher.address().to_owned(),
        masters: settings.masters,
    };
    announce(&registration, registration.store, &bound);
    let rng = node::random::generator().map_err(system("draw randomness"))?;
    let logic = Storage::new(registration, StorageLimits::default(), rng);
    let measure = move || {
        room(&path).unwrap_or_else(|error| {
            tracing::warn!(%error, "the file system does not tell its room");
            (0, 0)
        })
    };
    let reader = disk.reader();
    let performer = Performer::new(reader.clone(), Arc::new(measure));
    let waker = network.waker();
    let disk = DiskThread::start(disk, move || waker.wake()).map_err(system("start a thread"))?;
    let waker = network.waker();
    let pool = Pool::start("blocks", storage.read_threads.max(1), POOL_CAPACITY, move || {
        waker.wake();
    });
    let pool = pool.map_err(system("start a thread"))?;
    let waker = network.waker();
    stop.on_request(move || waker.wake());
    let service = Service {
        stop,
        clock,
        folder,
        network,
        publisher,
        status_due: clock.now(),
        logic,
        disk,
        pool,
        reader,
        performer,
        kept: Kept::default(),
        waiting: VecDeque::new(),
    };
    service.run()
}

fn announce(registration: &Registration, store: StoreId, bound: &str) {
    tracing::info!(
        node = %registration.node,
        %store,
        incarnation = %registration.incarnation,
        address = bound,
        "the storage node listens"
    );
}

struct Service {
    stop: Stop,
    clock: Clock,
    folder: DataFolder,
    network: Network,
    publisher: Publisher,
    status_due: Instant,
    logic: Storage,
    disk: DiskThread,
    pool: Pool<Done>,
    reader: Reader,
    performer: Performer,
    kept: Kept,
    /// Work that the pool had no room for.
    waiting: VecDeque<Work>,
}

impl Service {
    fn run(mut self) -> Result<(), StorageError> {
        let mut effects = Vec::new();
        while !self.stop.is_requested() {
            self.take_done(&mut effects)?;
            self.publish();
            let deadline = self.logic.next_deadline();
            let until = deadline.map_or(self.status_due, |deadline| deadline.min(self.status_due));
            let (logic, clock, publisher) = (&mut self.logic, self.clock, &self.publisher);
            let delivered = self.network.poll(Some(until), &mut |event| match event {
                NetworkEvent::Record { sender, record }
                    if record.message_type() == TelemetrySnapshotRequest::TYPE =>
                {
                    let record = publisher.snapshot(&record);
                    let reply = NetworkEffect::Send { to: sender.peer, record };
                    effects.push(Effect::Network(reply));
                }
                event => logic.handle(clock.now(), Event::Network(event), &mut effects),
            });
            let now = self.clock.now();
            if delivered == 0 && deadline.is_some_and(|deadline| deadline <= now) {
                self.logic.handle(now, Event::Tick, &mut effects);
            }
            self.perform(&mut effects)?;
        }
        tracing::info!("the storage node stops");
        Ok(())
    }

    /// Says once a second what this node holds and has done.
    fn publish(&mut self) {
        let now = self.clock.now();
        if now < self.status_due {
            return;
        }
        self.status_due = now + STATUS_INTERVAL;
        let counters = self.reader.counters();
        let status = format!(
            r#"{{"ring_version":{},"blocks":{},"block_bytes":{},"puts":{},"gets":{},"damaged":{}}}"#,
            self.logic.ring_version(),
            { counters.block_count },
            { counters.block_bytes },
            { counters.put_count },
            { counters.get_count },
            { counters.damaged_count },
        );
        self.publisher.status(status.as_bytes());
    }

    /// Hands what the threads have done to the logic.
    fn take_done(&mut self, effects: &mut Vec<Effect>) -> Result<(), StorageError> {
        while let Some(done) = self.disk.take() {
            self.logic.handle(self.clock.now(), Event::PutDone(done), effects);
        }
        while let Some(done) = self.pool.take() {
            match self.kept.finish(done) {
                Finished::Event(event) => self.logic.handle(self.clock.now(), event, effects),
                Finished::Network(effect) => self.network.perform(effect),
            }
        }
        self.perform(effects)
    }

    fn perform(&mut self, effects: &mut Vec<Effect>) -> Result<(), StorageError> {
        for effect in effects.drain(..) {
            match self.kept.begin(effect) {
                Begun::Network(effect) => self.network.perform(effect),
                Begun::Put(put) => self.disk.put(put),
                Begun::Work(work) => self.waiting.push_back(work),
                Begun::Join(cluster) => join(&mut self.folder, &mut self.network, cluster)?,
                Begun::Nothing => {}
            }
        }
        while self.pool.outstanding() < POOL_CAPACITY
            && let Some(work) = self.waiting.pop_front()
        {
            let performer = self.performer.clone();
            if self.pool.submit(move || performer.perform(work)).is_err() {
                unreachable!("the pool has room for what is not outstanding");
            }
        }
        Ok(())
    }
}

fn join(
    folder: &mut DataFolder,
    network: &mut Network,
    cluster: ClusterId,
) -> Result<(), StorageError> {
    folder.join(cluster).map_err(StorageError::DataFolder)?;
    network.set_cluster(cluster);
    tracing::info!(%cluster, "the storage node joined the cluster");
    Ok(())
}
