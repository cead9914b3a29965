//! The one event loop of a storage node: network, disk thread and pool in, logic, effects out.
//!
//! Nothing here decides anything, and nothing here waits for a disk: storing is the disk thread's,
//! reading and hashing the pool's.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;

use node::daemon::{self, Daemon, DaemonError, system};
use node::files::RealFiles;
use node::logic::network::Greeting;
use node::pool::Pool;
use node::stop::Stop;
use proto::limits;
use proto::status::Role;
use proto::time::{Duration, Instant};

use crate::config::Config;
use crate::disk::{Disk, DiskError, DiskLimits, Reader};
use crate::disk_thread::DiskThread;
use crate::edge::{Begun, Done, Finished, Kept, Performer, Work, disk_event};
use crate::logic::{Effect, Event, Registration, Storage, StorageLimits};
use crate::registers::store::{Store, StoreError, StoreLimits};
use crate::registers::thread::RegisterThread;

/// Work that the pool holds; what exceeds it waits in the loop. The logic's admission bounds both.
const POOL_CAPACITY: usize = 512;

/// How often the state is published.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Why a storage node cannot run.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// What every daemon needs cannot be had.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// What the data folder holds cannot be recovered.
    #[error("recover the blocks")]
    Disk(#[source] DiskError),
    /// Nor can its registers.
    #[error("recover the registers")]
    Registers(#[source] StoreError),
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
    let folder = daemon::open_folder_below_masters(&settings, Role::Storage)?;
    let path = folder.path().to_owned();
    let disk = Disk::open(Arc::new(RealFiles), &path, DiskLimits::default());
    let disk = disk.map_err(StorageError::Disk)?;
    tracing::info!(
        store = %folder.store(),
        recovery = ?disk.recovery(),
        "the blocks are recovered"
    );
    let registers = Store::open(Arc::new(RealFiles), &path, StoreLimits::default());
    let (registers, recovered) = registers.map_err(StorageError::Registers)?;
    tracing::info!(
        count = recovered.registers.len(),
        cut_bytes = recovered.cut_bytes,
        "the registers are recovered"
    );
    let (total_bytes, _) = room(&path).map_err(system("ask the file system for its room"))?;
    let daemon = Daemon::listen(&settings, Role::Storage, folder, &stop)?;
    let folder = &daemon.folder;
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
        zone: storage.zone.clone(),
        address: daemon.address().to_owned(),
        telemetry_address: daemon.publisher.address().to_owned(),
        masters: settings.masters,
    };
    let limits = StorageLimits { upkeep: storage.upkeep(), ..StorageLimits::default() };
    let mut logic = Storage::new(registration, limits, daemon::generator()?);
    logic.recover_registers(recovered);
    let measure = move || {
        room(&path).unwrap_or_else(|error| {
            tracing::warn!(%error, "the file system does not tell its room");
            (0, 0)
        })
    };
    let reader = disk.reader();
    let performer = Performer::new(reader.clone(), Arc::new(measure));
    let waker = daemon.network.waker();
    let disk = DiskThread::start(disk, move || waker.wake()).map_err(system("start a thread"))?;
    let waker = daemon.network.waker();
    let registers = RegisterThread::start(registers, move || waker.wake());
    let registers = registers.map_err(system("start a thread"))?;
    let waker = daemon.network.waker();
    let pool = Pool::start("blocks", storage.read_threads.max(1), POOL_CAPACITY, move || {
        waker.wake();
    });
    let pool = pool.map_err(system("start a thread"))?;
    let service = Service {
        stop,
        status_due: daemon.clock.now(),
        daemon,
        logic,
        disk,
        registers,
        pool,
        reader,
        performer,
        kept: Kept::default(),
        waiting: VecDeque::new(),
    };
    service.run()
}

struct Service {
    stop: Stop,
    status_due: Instant,
    logic: Storage,
    disk: DiskThread,
    registers: RegisterThread,
    pool: Pool<Done>,
    reader: Reader,
    performer: Performer,
    kept: Kept,
    /// Work that the pool had no room for.
    waiting: VecDeque<Work>,
    // Last: the folder stays locked until the threads that write in it have ended.
    daemon: Daemon,
}

impl Service {
    fn run(mut self) -> Result<(), StorageError> {
        let mut effects = Vec::new();
        while !self.stop.is_requested() {
            self.take_done(&mut effects)?;
            self.publish();
            let deadline = self.logic.next_deadline();
            let until = deadline.map_or(self.status_due, |deadline| deadline.min(self.status_due));
            let Daemon { clock, publisher, network, .. } = &mut self.daemon;
            let logic = &mut self.logic;
            let delivered =
                network.poll(Some(until), &mut |event| match publisher.answer(&event) {
                    Some(answer) => effects.push(Effect::Network(answer)),
                    None => logic.handle(clock.now(), Event::Network(event), &mut effects),
                });
            let now = clock.now();
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
        let now = self.daemon.clock.now();
        if now < self.status_due {
            return;
        }
        self.status_due = now + STATUS_INTERVAL;
        // Whoever asks here for the cluster is led to the masters.
        self.daemon.network.set_greeting(Greeting {
            window: limits::CLIENT_WINDOW,
            masters: self.logic.masters().join(","),
            ..Greeting::default()
        });
        let counters = self.reader.counters();
        let (get_count, get_bytes) = self.logic.answered();
        let status = format!(
            r#"{{"ring_version":{},"blocks":{},"block_bytes":{},"puts":{},"gets":{},"get_bytes":{},"damaged":{}}}"#,
            self.logic.ring_version(),
            { counters.block_count },
            { counters.block_bytes },
            { counters.put_count },
            get_count,
            get_bytes,
            { counters.damaged_count },
        );
        self.daemon.publisher.status(status.as_bytes());
    }

    /// Hands what the threads have done to the logic.
    fn take_done(&mut self, effects: &mut Vec<Effect>) -> Result<(), StorageError> {
        while let Some(done) = self.disk.take() {
            self.logic.handle(self.daemon.clock.now(), disk_event(done), effects);
        }
        while let Some(done) = self.registers.take() {
            self.logic.handle(self.daemon.clock.now(), Event::RegistersDone(done), effects);
        }
        while let Some(done) = self.pool.take() {
            match self.kept.finish(done) {
                Finished::Event(event) => {
                    self.logic.handle(self.daemon.clock.now(), event, effects)
                }
                Finished::Network(effect) => self.daemon.network.perform(effect),
            }
        }
        self.perform(effects)
    }

    fn perform(&mut self, effects: &mut Vec<Effect>) -> Result<(), StorageError> {
        for effect in effects.drain(..) {
            match self.kept.begin(effect) {
                Begun::Network(effect) => self.daemon.network.perform(effect),
                Begun::Disk(job) => self.disk.submit(job),
                Begun::Registers(job) => self.registers.change(job),
                Begun::Work(work) => self.waiting.push_back(work),
                Begun::Join(cluster) => self.daemon.join(cluster)?,
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
