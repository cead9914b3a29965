//! The folder of a member, and who carries out its jobs.
//!
//! Responsible for making the folder, for opening it after a crash, and for doing jobs one after
//! the other in the calling thread. Batches that are given together share one record and one sync.
//! Not responsible for threads: see `disk_thread`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use node::files::Files;
use proto::ids::LogIndex;
use raft::eraftpb::Entry;

use crate::identity::{self, Identity};
use crate::ids::{BatchId, Term};
use crate::job::{Batch, Done, HardState, Job};
use crate::log::{Log, LogError};
use crate::logic::{Configuration, MemberInfo, SnapshotHead, image};
use crate::record::{self, Replay};
use crate::snapshot::{SnapshotId, Snapshots};
use crate::state_machine::StateMachine;

/// Batches are put into one record up to this size; a batch that is larger gets its own.
const RECORD_BYTES: usize = 16 << 20;

/// The first snapshot's index and term: the state from which a cluster begins.
const FIRST: (u64, u64) = (1, 1);

/// Why a member's folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Nobody made the folder a member's.
    #[error(
        "{} is not a member's folder: bootstrap a new cluster in it, or join one", .0.display()
    )]
    NotMade(PathBuf),
    /// The folder is a member's already.
    #[error("{} is a member's folder already", .0.display())]
    AlreadyMade(PathBuf),
    /// The identity file does not say what it should.
    #[error("the identity file is damaged: {0}")]
    Identity(String),
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The snapshots that are there do not go with the log.
    #[error("{}: {text}", path.display())]
    Snapshot {
        /// The snapshot or the folder of snapshots.
        path: PathBuf,
        /// What is wrong.
        text: String,
    },
    /// The disk said no.
    #[error("{operation} {}", folder.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The member's folder.
        folder: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
}

/// What a member's folder held when it was opened. Handed to [`crate::Member::new`].
#[derive(Clone, Debug)]
pub struct Recovered {
    pub(crate) identity: Identity,
    pub(crate) hard: HardState,
    pub(crate) snapshot: Option<(SnapshotHead, Vec<u8>, std::ops::Range<usize>)>,
    pub(crate) entries: Vec<Entry>,
    damaged: Vec<PathBuf>,
}

impl Recovered {
    /// Whose folder it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Snapshots that are damaged and were passed over for an older one and more of the log.
    #[must_use]
    pub fn damaged_snapshots(&self) -> &[PathBuf] {
        &self.damaged
    }
}

/// The part of the folder that must be written in order.
pub(crate) struct LogDisk {
    pub(crate) log: Log,
    record: Vec<u8>,
}

/// The part of the folder that may be written beside the log.
#[derive(Clone)]
pub(crate) struct SnapshotDisk {
    snapshots: Snapshots,
}

/// A member's folder, open. Everything here blocks.
pub struct Disk {
    pub(crate) log: LogDisk,
    pub(crate) snapshots: SnapshotDisk,
}

fn log_folder(folder: &Path) -> PathBuf {
    folder.join("log")
}

fn snapshots_of(files: &Arc<dyn Files>, folder: &Path) -> Snapshots {
    Snapshots::new(files.clone(), folder.join("snapshots"))
}

impl Disk {
    /// Makes the folder of a new cluster's first and only voter, which begins with `state`. Only
    /// this creates a cluster; every other member joins with [`Disk::join`].
    ///
    /// # Errors
    /// [`DiskError::AlreadyMade`] where the folder is a member's; else what the disk says. An
    /// attempt that failed can be repeated.
    pub fn bootstrap<S: StateMachine>(
        files: &Arc<dyn Files>,
        folder: &Path,
        identity: &Identity,
        address: &str,
        state: &S,
    ) -> Result<(), DiskError> {
        let info = MemberInfo { address: address.to_owned(), voter: true };
        let head = SnapshotHead {
            index: LogIndex(FIRST.0),
            term: Term(FIRST.1),
            log_time: Default::default(),
            members: [(identity.member, info)].into(),
            configuration: Configuration {
                voters: vec![identity.member.0],
                ..Configuration::default()
            },
        };
        let content = image::encode(&head, &S::encode(&state.snapshot()));
        make(files, folder, identity, Some((SnapshotId::from(&head), content)))
    }

    /// Makes the folder of a member that will join a cluster: it knows nothing, votes for nobody,
    /// and waits to be added as a learner.
    ///
    /// # Errors
    /// As [`Disk::bootstrap`].
    pub fn join(
        files: &Arc<dyn Files>,
        folder: &Path,
        identity: &Identity,
    ) -> Result<(), DiskError> {
        make(files, folder, identity, None)
    }

    /// Opens a member's folder and reads what it holds.
    ///
    /// # Errors
    /// [`DiskError::NotMade`] where it is not a member's; an error that names file and place where
    /// something that was durable is not there any more; else what the disk says.
    pub fn open(files: &Arc<dyn Files>, folder: &Path) -> Result<(Disk, Recovered), DiskError> {
        let io = |operation| {
            move |source| DiskError::Io { operation, folder: folder.to_owned(), source }
        };
        let path = folder.join(identity::FILE);
        let identity = match node::files::read_all(files.as_ref(), &path) {
            Ok(bytes) => Identity::decode(&bytes, &path).map_err(DiskError::Identity)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(DiskError::NotMade(folder.to_owned()));
            }
            Err(error) => return Err(io("read the identity of")(error)),
        };
        let mut replay = Replay::default();
        let log = Log::open(files.clone(), &log_folder(folder), identity.shape, &mut |record| {
            replay.add(record).map(LogIndex)
        })?;
        let mut log = LogDisk { log, record: Vec::new() };
        let snapshots = snapshots_of(files, folder);
        files.sync_dir(folder).map_err(io("sync"))?;
        snapshots.settle().map_err(io("sync the snapshots of"))?;
        let mut damaged = Vec::new();
        let mut snapshot = None;
        for id in snapshots.list().map_err(io("list the snapshots of"))? {
            let content = snapshots.read(id).map_err(io("read a snapshot of"))?;
            match image::decode(&content) {
                Ok((head, state)) if SnapshotId::from(&head) == id => {
                    snapshot = Some((head, content, state));
                    break;
                }
                Ok(_) | Err(_) => damaged.push(snapshots.path(id)),
            }
        }
        let base = snapshot.as_ref().map_or((0, 0), |(head, ..)| (head.index.0, head.term.0));
        let joined = join_log(base, replay).map_err(|text| DiskError::Snapshot {
            path: damaged.first().cloned().unwrap_or_else(|| folder.join("snapshots")),
            text,
        })?;
        if joined.begins_anew {
            let id = BatchId(0);
            let reset = Some(base);
            let batch = Batch { id, reset, hard: joined.hard, entries: Vec::new() };
            log.persist(&[batch]).1?;
        }
        let (hard, entries) = (joined.hard, joined.entries);
        let recovered = Recovered { identity, hard, snapshot, entries, damaged };
        Ok((Disk { log, snapshots: SnapshotDisk { snapshots } }, recovered))
    }

    /// Carries out jobs in order and answers what was done. Batches next to each other share a
    /// sync. After [`Done::Failed`] nothing more is done; that there is no room is a failure here,
    /// because nobody is there to wait for some.
    ///
    /// # Panics
    /// If it is used after [`Done::Failed`].
    pub fn perform<S: StateMachine>(&mut self, jobs: Vec<Job<S::Snapshot>>) -> Vec<Done> {
        let mut done = Vec::new();
        let mut batches = Vec::new();
        for job in jobs {
            match job {
                Job::Persist(batch) => {
                    batches.push(batch);
                    continue;
                }
                other => {
                    if !self.log.perform_at_once(&mut batches, &mut done) {
                        return done;
                    }
                    match other {
                        Job::Compact { through } => {
                            if !self.log.compact(through, &mut done) {
                                return done;
                            }
                        }
                        other => done.extend(self.snapshots.perform::<S>(other)),
                    }
                }
            }
        }
        self.log.perform_at_once(&mut batches, &mut done);
        done
    }
}

impl From<&SnapshotHead> for SnapshotId {
    fn from(head: &SnapshotHead) -> SnapshotId {
        SnapshotId { index: head.index, term: head.term }
    }
}

/// Makes a folder; the identity comes last, so that a folder has one only when it is whole.
fn make(
    files: &Arc<dyn Files>,
    folder: &Path,
    identity: &Identity,
    first: Option<(SnapshotId, Vec<u8>)>,
) -> Result<(), DiskError> {
    let io =
        |operation| move |source| DiskError::Io { operation, folder: folder.to_owned(), source };
    files.create_dir_all(folder).map_err(io("create"))?;
    if files.list(folder).map_err(io("list"))?.iter().any(|name| name.as_os_str() == identity::FILE)
    {
        return Err(DiskError::AlreadyMade(folder.to_owned()));
    }
    Log::create(files.as_ref(), &log_folder(folder), identity.shape)?;
    let snapshots = snapshots_of(files, folder);
    snapshots.create().map_err(io("make the snapshots of"))?;
    if let Some((id, content)) = first {
        snapshots.write(id, &content).map_err(io("write the first snapshot of"))?;
    }
    files.sync_dir(folder).map_err(io("sync"))?;
    let path = folder.join(identity::FILE);
    node::files::replace(files.as_ref(), &path, &identity.encode())
        .map_err(io("write the identity of"))?;
    if let Some(above) = folder.parent().filter(|above| !above.as_os_str().is_empty()) {
        files.sync_dir(above).map_err(io("sync the folder above"))?;
    }
    Ok(())
}

/// A log made to fit a snapshot.
struct Joined {
    hard: HardState,
    entries: Vec<Entry>,
    /// The log on disk has entries that do not count and must not come back.
    begins_anew: bool,
}

/// Puts the snapshot (index and term) and the log together. A snapshot may be newer than the log:
/// it was received, and the crash came before the log began anew after it. What it contains is
/// committed, so it wins over entries that differ.
fn join_log(snapshot: (u64, u64), replay: Replay) -> Result<Joined, String> {
    let (index, term) = snapshot;
    let Replay { mut hard, base, mut entries } = replay;
    if base.0 > index {
        return Err(format!(
            "the log begins after a snapshot at {}, but the newest good snapshot is at {index}",
            base.0
        ));
    }
    let mut begins_anew = false;
    if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
        if first.index > index + 1 {
            return Err(format!(
                "the log begins at {}, but the newest good snapshot ends at {index}",
                first.index
            ));
        }
        let at = (index + 1 - first.index) as usize;
        let fits = last.index >= index && (at == 0 || entries[at - 1].term == term);
        begins_anew = !fits;
        entries.drain(..if fits { at } else { entries.len() });
    }
    let last = entries.last().map_or(snapshot, |last| (last.index, last.term));
    if last.1 > hard.term {
        // Only where a snapshot came from a newer leader: a member that knows a term by hearsay
        // has not voted in it.
        hard = HardState { term: last.1, vote: 0, ..hard };
    }
    hard.commit = hard.commit.max(index);
    if hard.commit > last.0 {
        let known = hard.commit;
        return Err(format!(
            "entries up to {known} were committed, but the log ends at {}",
            last.0
        ));
    }
    Ok(Joined { hard, entries, begins_anew })
}

/// How writing to the log went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Went {
    Well,
    /// Some of it waits for room; why.
    NoRoom(String),
    Badly,
}

impl LogDisk {
    /// Writes batches as few records, each with one sync; answers how many are durable, too.
    pub(crate) fn persist(&mut self, batches: &[Batch]) -> (usize, Result<(), LogError>) {
        let mut highest = 0;
        let mut durable = 0;
        self.record.clear();
        for (at, batch) in batches.iter().enumerate() {
            highest = record::encode(batch, &mut self.record).max(highest);
            let next = batches.get(at + 1).map(Batch::size);
            if next.is_none_or(|next| self.record.len() + next > RECORD_BYTES) {
                if let Err(error) = self.log.append(&self.record, LogIndex(highest)) {
                    return (durable, Err(error));
                }
                durable = at + 1;
                self.record.clear();
                self.record.shrink_to(RECORD_BYTES);
                highest = 0;
            }
        }
        (durable, Ok(()))
    }

    /// Writes batches and forgets those that are durable.
    pub(crate) fn perform(&mut self, batches: &mut Vec<Batch>, done: &mut Vec<Done>) -> Went {
        let (durable, result) = self.persist(batches);
        done.extend(batches.drain(..durable).map(|batch| Done::Persisted { batch: batch.id }));
        match result {
            Ok(()) => Went::Well,
            Err(error @ LogError::NoRoom { .. }) => Went::NoRoom(explain(&error)),
            Err(error) => {
                done.push(Done::Failed { error: explain(&error) });
                Went::Badly
            }
        }
    }

    /// The same where nobody waits for room; answers whether all is well.
    fn perform_at_once(&mut self, batches: &mut Vec<Batch>, done: &mut Vec<Done>) -> bool {
        let went = self.perform(batches, done);
        if let Went::NoRoom(error) = &went {
            done.push(Done::Failed { error: error.clone() });
        }
        went == Went::Well
    }

    /// Gives up what is not needed; answers whether all is well.
    pub(crate) fn compact(&mut self, through: LogIndex, done: &mut Vec<Done>) -> bool {
        let result = self.log.compact(through);
        if let Err(error) = &result {
            done.push(Done::Failed { error: explain(error) });
        }
        result.is_ok()
    }
}

/// An error with its causes in one line.
pub(crate) fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

impl SnapshotDisk {
    /// Carries out a job that concerns snapshots.
    ///
    /// # Panics
    /// If the job concerns the log.
    pub(crate) fn perform<S: StateMachine>(&self, job: Job<S::Snapshot>) -> Option<Done> {
        match job {
            Job::WriteSnapshot { head, state } => {
                let content = image::encode(&head, &S::encode(&state));
                let (index, length) = (head.index, content.len() as u64);
                Some(self.write(&head, &content, Done::SnapshotWritten { index, length }))
            }
            Job::StoreSnapshot { index, term, content } => {
                let id = SnapshotId { index, term };
                Some(self.write(id, &content, Done::SnapshotStored { index }))
            }
            Job::ReadSnapshot { transfer, index, term, offset, length } => {
                let id = SnapshotId { index, term };
                let bytes = self.snapshots.read_piece(id, offset, length).ok();
                Some(Done::SnapshotRead { transfer, offset, bytes })
            }
            Job::Persist(_) | Job::Compact { .. } => panic!("a job of the log's"),
        }
    }

    fn write(&self, id: impl Into<SnapshotId>, content: &[u8], done: Done) -> Done {
        let id = id.into();
        match self.snapshots.write(id, content) {
            Ok(()) => done,
            Err(error) => Done::SnapshotFailed {
                index: id.index,
                error: format!("write a snapshot: {error}"),
            },
        }
    }
}
