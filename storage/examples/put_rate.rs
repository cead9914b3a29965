//! How fast blocks become durable: 10,000 blocks of 4 KiB through the disk of a storage node, with
//! the syncs that it took, beside the bare system calls on the same disk.
//!
//! `cargo run --release -p storage --example put_rate -- FOLDER` makes its files in a folder of
//! its own inside FOLDER, which must be on a real disk, and removes them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use node::clock::Clock;
use node::files::{File, Files, Open, RealFiles};
use proto::digest::Digest;
use proto::status::BlockKind;
use storage::disk::{Disk, DiskLimits, Put};
use storage::disk_thread::{DiskDone, DiskThread, Job};
use storage::logic::Ticket;

const COUNT: usize = 10_000;
const BYTES: usize = 4096;

/// The real disk with its syncs counted.
struct Counted {
    syncs: Arc<AtomicU64>,
}

struct CountedFile {
    file: Box<dyn File>,
    syncs: Arc<AtomicU64>,
}

impl Files for Counted {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        RealFiles.create_dir_all(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        RealFiles.list(path)
    }
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn File>> {
        let file = RealFiles.open(path, how)?;
        Ok(Box::new(CountedFile { file, syncs: Arc::clone(&self.syncs) }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFiles.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealFiles.remove(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        RealFiles.sync_dir(path)
    }
}

impl File for CountedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.file.sync_data()
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }
}

fn print(what: &str, count: usize, micros: u64, syncs: u64) {
    let seconds = Duration::from_micros(micros).as_secs_f64();
    let rate = count as f64 / seconds;
    println!("{what:34} {rate:9.0} blocks/s  {syncs:6} syncs  {seconds:7.3} s");
}

fn put(number: usize, bytes: usize) -> Put {
    let mut content = vec![0; bytes];
    fastrand::Rng::with_seed(number as u64).fill(&mut content);
    let kind = BlockKind::Content;
    let block = Digest::of(kind, &content).block_id();
    Put { ticket: Ticket(number as u64), block, kind, stamp: 0, replica_count: 0, content }
}

/// Stores blocks with at most `window` in flight, as clients do.
fn through_disk(
    folder: &Path,
    what: &str,
    count: usize,
    bytes: usize,
    window: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    let folder = folder.join(format!("{bytes}-{window}"));
    RealFiles.create_dir_all(&folder)?;
    let syncs = Arc::new(AtomicU64::new(0));
    let files = Arc::new(Counted { syncs: Arc::clone(&syncs) });
    let disk = Disk::open(files, &folder, DiskLimits::default())?;
    let puts: Vec<Put> = (0..count).map(|number| put(number, bytes)).collect();
    let (woken, wakes) = std::sync::mpsc::channel();
    let thread = DiskThread::start(disk, move || {
        // The receiver lives as long as the thread.
        let _ = woken.send(());
    })?;
    let clock = Clock::start();
    let before = syncs.load(Ordering::Relaxed);
    let (mut in_flight, mut done) = (0, 0);
    let mut puts = puts.into_iter();
    while done < count {
        while in_flight < window
            && let Some(put) = puts.next()
        {
            thread.submit(Job::Put(put));
            in_flight += 1;
        }
        wakes.recv()?;
        while let Some(outcome) = thread.take() {
            if let DiskDone::Put(outcome) = outcome {
                outcome.result?;
            }
            in_flight -= 1;
            done += 1;
        }
    }
    let micros = clock.now().0;
    print(what, count, micros, syncs.load(Ordering::Relaxed) - before);
    Ok(())
}

fn bare(folder: &Path, count: usize) -> Result<(), Box<dyn std::error::Error>> {
    let content = vec![7; BYTES];
    let file = RealFiles.open(&folder.join("bare"), Open::New)?;
    let clock = Clock::start();
    let mut took = Vec::with_capacity(count);
    for number in 0..count {
        let began = clock.now();
        file.write_all_at(&content, (number * BYTES) as u64)?;
        file.sync_data()?;
        took.push(clock.now().since(began).as_micros());
    }
    print("bare append + fdatasync, each", count, clock.now().0, count as u64);
    took.sort_unstable();
    println!("{:34} p50 {} µs, p99 {} µs", "", took[count / 2], took[count * 99 / 100]);
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: put_rate FOLDER (on a real disk)")?;
    let folder = PathBuf::from(folder).join(format!("put_rate-{}", std::process::id()));
    RealFiles.create_dir_all(&folder)?;
    let outcome = bare(&folder, COUNT / 5)
        .and_then(|()| through_disk(&folder, "4 KiB, one in flight", COUNT / 5, BYTES, 1))
        .and_then(|()| through_disk(&folder, "4 KiB, 64 in flight", COUNT, BYTES, 64))
        .and_then(|()| through_disk(&folder, "4 KiB, all in flight", COUNT, BYTES, COUNT))
        .and_then(|()| through_disk(&folder, "4 MiB, 8 in flight", 200, 4 << 20, 8));
    std::fs::remove_dir_all(&folder)?;
    outcome
}
