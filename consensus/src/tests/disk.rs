//! The folder: making it, opening it, and the threads around it.

use std::path::Path;
use std::sync::{Arc, mpsc};

use node::files::{Files, RealFiles};
use raft::eraftpb::Entry;

use super::cluster::{folder, id, identity};
use super::ledger::Ledger;
use super::memory_files::MemoryFiles;
use crate::disk::{Disk, DiskError};
use crate::disk_thread::DiskThread;
use crate::ids::BatchId;
use crate::job::{Batch, Done, HardState, Job};

fn batch(number: u64, index: u64) -> Batch {
    let data = vec![index as u8; 1_000].into();
    let entry = Entry { index, term: 1, data, ..Entry::default() };
    let hard = HardState { term: 1, vote: 1, commit: index - 1 };
    Batch { id: BatchId(number), reset: None, hard, entries: vec![entry] }
}

#[test]
fn a_folder_is_made_once_and_an_interrupted_attempt_can_be_repeated() {
    let memory = MemoryFiles::default();
    let files: Arc<dyn Files> = Arc::new(memory.clone());
    let first = Ledger::default();
    Disk::join(&files, folder(), &identity(id(1))).unwrap();
    memory.crash();
    let again = Disk::bootstrap(&files, folder(), &identity(id(1)), "address", &first);
    assert!(matches!(again, Err(DiskError::AlreadyMade(_))));
    files.remove(&folder().join("identity")).unwrap();
    assert!(matches!(Disk::open(&files, folder()), Err(DiskError::NotMade(_))));
    Disk::bootstrap(&files, folder(), &identity(id(1)), "address", &first).unwrap();
    let (_, recovered) = Disk::open(&files, folder()).unwrap();
    assert_eq!(recovered.identity(), identity(id(1)));
    assert!(recovered.damaged_snapshots().is_empty());
}

#[test]
fn batches_given_together_share_a_sync() {
    let memory = MemoryFiles::default();
    let files: Arc<dyn Files> = Arc::new(memory.clone());
    Disk::bootstrap(&files, folder(), &identity(id(1)), "address", &Ledger::default()).unwrap();
    let (mut disk, _) = Disk::open(&files, folder()).unwrap();
    let before = memory.sync_count();
    let jobs = (0..5).map(|at| Job::Persist(batch(at + 1, at + 2))).collect();
    let done = disk.perform::<Ledger>(jobs);
    assert_eq!(memory.sync_count(), before + 1);
    let expected: Vec<Done> = (1..6).map(|at| Done::Persisted { batch: BatchId(at) }).collect();
    assert_eq!(done, expected);
    memory.crash();
    let (_, recovered) = Disk::open(&files, folder()).unwrap();
    assert_eq!(recovered.entries.len(), 5);
    assert_eq!(recovered.hard.commit, 5);
}

#[test]
fn a_log_without_its_snapshot_is_refused() {
    let memory = MemoryFiles::default();
    let files: Arc<dyn Files> = Arc::new(memory.clone());
    Disk::bootstrap(&files, folder(), &identity(id(1)), "address", &Ledger::default()).unwrap();
    let (mut disk, _) = Disk::open(&files, folder()).unwrap();
    disk.perform::<Ledger>(vec![Job::Persist(batch(1, 2))]);
    let is_snapshot = |path: &&std::path::PathBuf| path.to_string_lossy().contains("/snapshot-");
    let path = memory.paths().into_iter().find(|path| is_snapshot(&path)).unwrap();
    memory.change(&path, |content| content[9] ^= 1);
    let error = Disk::open(&files, folder()).err().unwrap();
    assert!(matches!(&error, DiskError::Snapshot { path: named, .. } if *named == path), "{error}");
}

#[test]
fn threads_do_what_they_are_given_in_order_on_a_real_disk() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("member");
    let files: Arc<dyn Files> = Arc::new(RealFiles);
    Disk::bootstrap(&files, &folder, &identity(id(1)), "address", &Ledger::default()).unwrap();
    let (disk, _) = Disk::open(&files, &folder).unwrap();
    let (tell, told) = mpsc::channel();
    let thread = DiskThread::start::<Ledger>(disk, move |done| tell.send(done).unwrap()).unwrap();
    for at in 0..100 {
        thread.give(Job::Persist(batch(at + 1, at + 2)));
    }
    let done: Vec<Done> = told.iter().take(100).collect();
    let expected: Vec<Done> = (1..101).map(|at| Done::Persisted { batch: BatchId(at) }).collect();
    assert_eq!(done, expected);
    drop(thread);
    let (_, recovered) = Disk::open(&files, &folder).unwrap();
    assert_eq!(recovered.entries.len(), 100);
    assert!(Path::new(&folder).join("log").exists());
}
