//! The log of the registers and what it says: changes become durable in groups with one sync each,
//! and the log is rewritten in small steps where most of it is superseded.
//!
//! Synchronous and without threads: the thread of [`super::thread`] and the simulator call the same.

use std::collections::BTreeMap;
use std::io;
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use node::files::{Files, Open, is_full};
use proto::ids::RingVersion;
use proto::limits;
use proto::register::{Part, Tag};

use super::log::{AppendError, Log, name_of, number_of, scan};
use super::record::{Batch, Entry, record_bytes};
use super::rewrite::Rewrite;
use super::{Change, ChangeError, Job, JobDone, Recovered, Register};

/// Bytes that are written with one sync at most: what a crash may leave to be cut.
const GROUP_BYTES: usize = 8 << 20;

/// What is kept, and when the log is rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// Registers.
    pub registers: usize,
    /// Bytes of their values.
    pub value_bytes: usize,
    /// Zeros are written ahead of small writes by this much.
    pub prepared_bytes: usize,
    /// A log is rewritten when it has this many bytes more than twice those that count.
    pub slack_bytes: u64,
    /// Bytes that one step of rewriting copies.
    pub step_bytes: usize,
}

impl Default for StoreLimits {
    fn default() -> StoreLimits {
        StoreLimits {
            registers: limits::REGISTERS_PER_NODE,
            value_bytes: limits::REGISTER_BYTES_PER_NODE,
            // As for volumes: a sync that has no room to allocate takes a third less.
            prepared_bytes: 1 << 20,
            // Rewriting less often than it takes to fill this is not noticed (eyeballed).
            slack_bytes: 4 << 20,
            // A step delays the writes that wait for it by one more sync of this much.
            step_bytes: 256 << 10,
        }
    }
}

/// Why the registers cannot be used at all.
#[derive(Debug, thiserror::Error)]
#[error("{operation} in {}", folder.display())]
pub struct StoreError {
    operation: &'static str,
    folder: PathBuf,
    source: io::Error,
}

/// The registers of a data folder. There is one for each.
pub struct Store {
    files: Arc<dyn Files>,
    folder: PathBuf,
    limits: StoreLimits,
    live: Live,
    log: Log,
    rewrite: Option<Rewrite>,
    /// The log is not rewritten before it is longer than this: the last attempt failed.
    rewrite_above: u64,
    /// Why nothing more is stored.
    trouble: Option<ChangeError>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("folder", &self.folder)
            .field("log", &self.log.number)
            .field("end", &self.log.end)
            .field("trouble", &self.trouble)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the folder `registers` of a data folder, which must exist, and recovers it: afterwards
    /// every change that was ever acknowledged is there, and everything there is durable. Where
    /// synced records are bad, [`Recovered::is_damaged`] is set and no change is made.
    ///
    /// # Errors
    /// Where the folder cannot be read or written.
    pub fn open(
        files: Arc<dyn Files>,
        data_folder: &Path,
        limits: StoreLimits,
    ) -> Result<(Store, Recovered), StoreError> {
        let folder = data_folder.join("registers");
        let failed = |operation| {
            let folder = folder.clone();
            move |source| StoreError { operation, folder, source }
        };
        files.create_dir_all(&folder).map_err(failed("make the folder of registers"))?;
        files.sync_dir(data_folder).map_err(failed("sync the data folder"))?;
        let numbers = list(&*files, &folder).map_err(failed("list the logs of registers"))?;
        let number = numbers.last().copied().unwrap_or(0);
        let file = files.open(&folder.join(name_of(number)), Open::Either);
        let file = file.map_err(failed("open the log of registers"))?;
        let mut live = Live::default();
        let scanned = scan(&*file, number, &mut |entry| live.read(&entry));
        let found = scanned.map_err(failed("read the log of registers"))?;
        let mut recovered = Recovered { is_damaged: found.is_damaged, ..Recovered::default() };
        let mut trouble = None;
        if found.is_damaged {
            tracing::error!(offset = found.end, "{}", ChangeError::Damaged);
            trouble = Some(ChangeError::Damaged);
        } else {
            // A process that was killed leaves records that were written and never synced.
            let cut = file.set_len(found.end).and_then(|()| file.sync_data());
            cut.map_err(failed("cut the log of registers"))?;
            for older in numbers.iter().filter(|&&older| older != number) {
                let removed = files.remove(&folder.join(name_of(*older)));
                removed.map_err(failed("remove an older log of registers"))?;
            }
            files.sync_dir(&folder).map_err(failed("sync the folder of registers"))?;
            recovered.registers = live.registers.values().cloned().collect();
            recovered.seals = live.seals.iter().map(|(&part, &version)| (part, version)).collect();
            recovered.cut_bytes = found.cut_bytes;
        }
        let log = Log::new(number, file, found.end);
        let rewrite_above = 0;
        let store =
            Store { files, folder, limits, live, log, rewrite: None, rewrite_above, trouble };
        Ok((store, recovered))
    }

    /// Makes changes durable and says what became of each; those of 8 MiB share a sync.
    pub fn store(&mut self, jobs: Vec<Job>) -> Vec<JobDone> {
        let mut done = Vec::with_capacity(jobs.len());
        let mut rest = jobs.into_iter().peekable();
        while rest.peek().is_some() {
            self.store_group(&mut rest, &mut done);
        }
        done
    }

    fn store_group(
        &mut self,
        rest: &mut Peekable<std::vec::IntoIter<Job>>,
        done: &mut Vec<JobDone>,
    ) {
        let mut batch = self.log.batch();
        let mut group = Vec::new();
        let mut added = Added::default();
        while let Some(job) = rest.next_if(|_| batch.bytes.len() < GROUP_BYTES) {
            match self.admit(&job.change, &mut added) {
                Ok(()) => {
                    self.live.write(&job.change, &mut batch);
                    group.push(job);
                }
                Err(error) => done.push(JobDone { ticket: job.ticket, result: Err(error) }),
            }
        }
        let result = if batch.bytes.is_empty() { Ok(()) } else { self.append(&batch) };
        if result.is_ok() {
            self.mirror(&group);
            group.iter().for_each(|job| self.live.apply(&job.change));
        }
        done.extend(group.iter().map(|job| JobDone { ticket: job.ticket, result }));
    }

    /// Whether a change may be made. Counts each new copy in full, so that it errs on the safe
    /// side within a group.
    fn admit(&self, change: &Change, added: &mut Added) -> Result<(), ChangeError> {
        if let Some(trouble) = self.trouble {
            return Err(trouble);
        }
        let Change::Keep(registers) = change else { return Ok(()) };
        let mut sum = *added;
        for register in registers.iter().filter(|register| self.live.wants(register)) {
            let there = self.live.registers.get(&register.address);
            sum.registers += usize::from(there.is_none());
            sum.bytes += register.value.len();
        }
        let registers = self.live.registers.len() + sum.registers;
        let bytes = self.live.value_bytes + sum.bytes;
        if sum != *added && (registers > self.limits.registers || bytes > self.limits.value_bytes) {
            return Err(ChangeError::Full);
        }
        *added = sum;
        Ok(())
    }

    fn append(&mut self, batch: &Batch) -> Result<(), ChangeError> {
        match self.log.append(&batch.bytes, self.limits.prepared_bytes) {
            Ok(()) => Ok(()),
            Err(AppendError::Write(error)) if is_full(&error) => {
                tracing::warn!(%error, "the disk is full");
                Err(ChangeError::DiskFull)
            }
            Err(AppendError::Write(error)) => {
                tracing::error!(%error, "a change of registers cannot be written");
                Err(ChangeError::Failed)
            }
            Err(AppendError::Sync(error)) => Err(self.fail(&error)),
        }
    }

    fn fail(&mut self, error: &io::Error) -> ChangeError {
        tracing::error!(%error, "a sync failed; no register is stored until the next start");
        self.trouble = Some(ChangeError::Failed);
        ChangeError::Failed
    }

    /// Writes what became durable into the log that is being rewritten, too.
    fn mirror(&mut self, group: &[Job]) {
        let Some(rewrite) = &mut self.rewrite else { return };
        let mut batch = rewrite.batch();
        group.iter().for_each(|job| self.live.write(&job.change, &mut batch));
        if let Err(error) = rewrite.write(&batch) {
            self.give_up(&error);
        }
    }

    fn give_up(&mut self, error: &io::Error) {
        tracing::warn!(%error, "the log of registers cannot be rewritten; it grows until it can");
        if let Some(rewrite) = self.rewrite.take() {
            rewrite.abandon(&*self.files);
        }
        self.rewrite_above = self.log.end + self.limits.slack_bytes;
    }

    /// One step of rewriting the log, where that is due: copies [`StoreLimits::step_bytes`] and
    /// syncs them. True where there is more to do.
    pub fn tidy(&mut self) -> bool {
        if self.trouble.is_some() {
            return false;
        }
        if self.rewrite.is_none() && !self.begin_rewrite() {
            return false;
        }
        let is_complete = match self.copy_step() {
            Ok(is_complete) => is_complete,
            Err(error) => {
                self.give_up(&error);
                return false;
            }
        };
        if is_complete {
            self.finish_rewrite();
        }
        !is_complete
    }

    fn begin_rewrite(&mut self) -> bool {
        let most = (2 * self.live.log_bytes + self.limits.slack_bytes).max(self.rewrite_above);
        let Some(number) = self.log.number.checked_add(1).filter(|_| self.log.end > most) else {
            return false;
        };
        match Rewrite::begin(&*self.files, &self.folder, number) {
            Ok(rewrite) => self.rewrite = Some(rewrite),
            Err(error) => self.give_up(&error),
        }
        self.rewrite.is_some()
    }

    /// True where everything is copied.
    fn copy_step(&mut self) -> io::Result<bool> {
        let Some(rewrite) = &mut self.rewrite else { return Ok(false) };
        let mut batch = rewrite.batch();
        if rewrite.cursor == 0 {
            for (&part, &version) in &self.live.seals {
                batch.push(&Entry::Seal { part, version });
            }
        }
        let mut next = None;
        for (&address, register) in self.live.registers.range(rewrite.cursor..) {
            if batch.bytes.len() >= self.limits.step_bytes {
                next = Some(address);
                break;
            }
            batch.push(&keep(register));
        }
        rewrite.write(&batch)?;
        rewrite.sync()?;
        if let Some(next) = next {
            rewrite.cursor = next;
        }
        Ok(next.is_none())
    }

    fn finish_rewrite(&mut self) {
        let Some(rewrite) = self.rewrite.take() else { return };
        match rewrite.finish(&*self.files, &self.folder) {
            Ok(log) => {
                let old = std::mem::replace(&mut self.log, log);
                tracing::info!(
                    from = old.end,
                    to = self.log.end,
                    "the log of registers is rewritten"
                );
                self.rewrite_above = 0;
                let removed = self.files.remove(&self.folder.join(name_of(old.number)));
                if let Err(error) = removed.and_then(|()| self.files.sync_dir(&self.folder)) {
                    // The next start removes it.
                    tracing::warn!(%error, "the old log of registers cannot be removed");
                }
            }
            // Nobody knows which of the two a crash would leave.
            Err(error) => {
                self.fail(&error);
            }
        }
    }
}

/// The numbers of the logs in order. Removes what an interrupted rewriting left.
fn list(files: &dyn Files, folder: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for name in files.list(folder)? {
        if let Some(number) = number_of(&name) {
            numbers.push(number);
        } else if name.extension().is_some_and(|extension| extension == "new") {
            files.remove(&folder.join(&name))?;
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// What a group adds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Added {
    registers: usize,
    bytes: usize,
}

/// What the log says, without what is superseded.
#[derive(Debug, Default)]
struct Live {
    registers: BTreeMap<u64, Register>,
    seals: BTreeMap<Part, RingVersion>,
    value_bytes: usize,
    /// Bytes that a log of this takes.
    log_bytes: u64,
}

fn keep(register: &Register) -> Entry<'_> {
    Entry::Keep { address: register.address, tag: register.tag, value: &register.value }
}

impl Live {
    fn is_new(&self, address: u64, tag: Tag) -> bool {
        self.registers.get(&address).is_none_or(|there| there.tag < tag)
    }

    fn wants(&self, register: &Register) -> bool {
        self.is_new(register.address, register.tag)
    }

    /// Adds the records that make a change, none where it is made already.
    fn write(&self, change: &Change, batch: &mut Batch) {
        match change {
            Change::Keep(registers) => {
                let wanted = registers.iter().filter(|register| self.wants(register));
                wanted.for_each(|register| batch.push(&keep(register)));
            }
            Change::Seal { part, version } => self.write_seal(*part, *version, batch),
            Change::Forget { part, version, addresses } => {
                // The seal first: a torn write must not leave a copy with less and without it.
                self.write_seal(*part, *version, batch);
                for &address in addresses.iter().filter(|it| self.registers.contains_key(it)) {
                    batch.push(&Entry::Forget { address });
                }
            }
        }
    }

    fn write_seal(&self, part: Part, version: RingVersion, batch: &mut Batch) {
        if self.seals.get(&part).is_none_or(|&sealed| sealed < version) {
            batch.push(&Entry::Seal { part, version });
        }
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Keep(registers) => {
                registers.iter().for_each(|register| self.keep(register.clone()));
            }
            Change::Seal { part, version } => self.seal(*part, *version),
            Change::Forget { part, version, addresses } => {
                self.seal(*part, *version);
                addresses.iter().for_each(|&address| self.forget(address));
            }
        }
    }

    fn read(&mut self, entry: &Entry<'_>) {
        match *entry {
            Entry::Keep { address, tag, value } => {
                if self.is_new(address, tag) {
                    self.keep(Register { address, tag, value: Arc::from(value) });
                }
            }
            Entry::Seal { part, version } => self.seal(part, version),
            Entry::Forget { address } => self.forget(address),
        }
    }

    fn keep(&mut self, register: Register) {
        if !self.wants(&register) {
            return;
        }
        self.forget(register.address);
        self.value_bytes += register.value.len();
        self.log_bytes += record_bytes(register.value.len());
        self.registers.insert(register.address, register);
    }

    fn seal(&mut self, part: Part, version: RingVersion) {
        let sealed = self.seals.entry(part).or_insert_with(|| {
            self.log_bytes += record_bytes(0);
            version
        });
        *sealed = version.max(*sealed);
    }

    fn forget(&mut self, address: u64) {
        if let Some(old) = self.registers.remove(&address) {
            self.value_bytes -= old.value.len();
            self.log_bytes -= record_bytes(old.value.len());
        }
    }
}
