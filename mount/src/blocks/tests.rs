//! Blocks against an origin that counts: one fetch for many readers, what is trusted, what goes.

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender};

use client::Named;
use proto::digest::Digest;
use proto::ids::{FileId, JobId};
use proto::status::BlockKind;

use super::*;
use crate::logic::inputs::InputShown;

/// Blocks by name; hands them out when it is told to.
struct Shelf {
    blocks: BTreeMap<BlockName, Bytes>,
    asked: AtomicU64,
    /// One message lets one fetch go on, where there is a gate.
    gate: Option<Mutex<Receiver<()>>>,
    is_closed: AtomicBool,
}

impl Shelf {
    fn new(contents: &[&[u8]]) -> (Arc<Shelf>, Vec<BlockName>) {
        Shelf::with_gate(contents, None)
    }

    fn with_gate(contents: &[&[u8]], gate: Option<Receiver<()>>) -> (Arc<Shelf>, Vec<BlockName>) {
        let name = |content: &&[u8]| {
            BlockName::content(Digest::of(BlockKind::Content, content).block_id())
        };
        let names: Vec<BlockName> = contents.iter().map(name).collect();
        let bytes = contents.iter().map(|content| Bytes::copy_from_slice(content));
        let blocks = names.iter().copied().zip(bytes).collect();
        let gate = gate.map(Mutex::new);
        let (asked, is_closed) = (AtomicU64::new(0), AtomicBool::new(false));
        (Arc::new(Shelf { blocks, asked, gate, is_closed }), names)
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Origin for Shelf {
    fn block(&self, name: BlockName) -> Result<Bytes, OriginError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if let Some(gate) = &self.gate {
            gate.lock().unwrap().recv().unwrap();
        }
        if self.is_closed.load(Ordering::SeqCst) {
            return Err(OriginError::Failed("closed".to_owned()));
        }
        self.blocks.get(&name).cloned().ok_or(OriginError::Absent)
    }

    fn length(&self, _: FileId) -> Result<u64, OriginError> {
        Err(OriginError::Absent)
    }

    fn name(&self, _: &str) -> Result<Named, OriginError> {
        Err(OriginError::Absent)
    }

    fn names(&self, _: &str) -> Result<(Vec<Named>, bool), OriginError> {
        Ok((Vec::new(), false))
    }

    fn inputs(&self, _: JobId) -> Result<Vec<(String, InputShown)>, OriginError> {
        Err(OriginError::Absent)
    }
}

fn open(folder: &std::path::Path, limit: u64, shelf: &Arc<Shelf>) -> Arc<Blocks> {
    let (cache, _, found) = Cache::open(folder).unwrap();
    let origin: Arc<dyn Origin> = Arc::<Shelf>::clone(shelf);
    let workers = Workers::start("test-fetch", 2, 100).unwrap();
    Arc::new(Blocks::new(cache, found, limit, origin, workers))
}

/// Waits until what was fetched is on the disk: that happens after its readers were answered.
fn settle(blocks: &Blocks, count: usize) {
    while blocks.state().on_disk.len() < count {
        std::thread::yield_now();
    }
}

#[test]
fn many_readers_share_one_fetch() {
    let place = tempfile::tempdir().unwrap();
    let (go_on, gate): (Sender<()>, _) = channel();
    let (shelf, names) = Shelf::with_gate(&[b"content"], Some(gate));
    let blocks = open(place.path(), 1 << 20, &shelf);
    let (sender, answers) = channel();
    blocks.fetch_ahead(names[0]);
    for _ in 0..50 {
        let sender = sender.clone();
        blocks.fetch(names[0], move |fetched| sender.send(fetched.unwrap()).unwrap());
    }
    go_on.send(()).unwrap();
    for _ in 0..50 {
        assert_eq!(*answers.recv().unwrap(), *b"content");
    }
    assert_eq!(shelf.asked(), 1);
    assert_eq!(blocks.try_read(names[0], &(3..7)).unwrap(), "tent");
    assert_eq!(blocks.try_read(names[0], &(3..8)), None, "behind its end");
    assert_eq!(blocks.counters().fetched, 1);
}

#[test]
fn a_failure_is_told_to_all_and_is_not_remembered() {
    let place = tempfile::tempdir().unwrap();
    let (shelf, names) = Shelf::new(&[b"content"]);
    let blocks = open(place.path(), 1 << 20, &shelf);
    shelf.is_closed.store(true, Ordering::SeqCst);
    assert_eq!(blocks.fetch_and_wait(names[0]), Err(Refusal::Unavailable));
    shelf.is_closed.store(false, Ordering::SeqCst);
    assert_eq!(*blocks.fetch_and_wait(names[0]).unwrap(), *b"content");
    let unknown = BlockName::content(proto::ids::BlockId(1));
    assert_eq!(blocks.fetch_and_wait(unknown), Err(Refusal::NoEntry));
}

#[test]
fn after_a_restart_only_what_verifies_is_used() {
    let place = tempfile::tempdir().unwrap();
    let (shelf, names) = Shelf::new(&[b"good content", b"bad content"]);
    let blocks = open(place.path(), 1 << 20, &shelf);
    for name in &names {
        blocks.fetch_and_wait(*name).unwrap();
    }
    settle(&blocks, 2);
    drop(blocks);

    let damage = |name: BlockName| {
        let file = format!("{:032x}.content", name.block.0);
        let path = place.path().join("blocks-1").join(&file[..2]).join(file);
        std::fs::write(path, "evil content").unwrap();
    };
    damage(names[1]);
    let blocks = open(place.path(), 1 << 20, &shelf);
    assert_eq!(blocks.try_read(names[0], &(0..4)), None, "nobody has checked it yet");
    assert_eq!(blocks.try_read(names[1], &(0..4)), None);
    assert_eq!(*blocks.fetch_and_wait(names[0]).unwrap(), *b"good content");
    assert_eq!(shelf.asked(), 2, "it was still on the disk");
    assert_eq!(*blocks.fetch_and_wait(names[1]).unwrap(), *b"bad content");
    assert_eq!((shelf.asked(), blocks.counters().damaged), (3, 1));
}

#[test]
fn the_disk_takes_no_more_than_its_limit() {
    let place = tempfile::tempdir().unwrap();
    let contents: Vec<Vec<u8>> = (0..8u8).map(|n| vec![n; 4_000]).collect();
    let contents: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
    let (shelf, names) = Shelf::new(&contents);
    let blocks = open(place.path(), 4 * 4_096, &shelf);
    for name in &names {
        blocks.fetch_and_wait(*name).unwrap();
        // It may still be on its way to the disk.
        while !blocks.state().on_disk.contains(name) {
            std::thread::yield_now();
        }
    }
    assert_eq!(blocks.counters().disk_bytes, 4 * 4_096);
    let files = || {
        let folders = std::fs::read_dir(place.path().join("blocks-1")).unwrap();
        let files = folders.flat_map(|it| std::fs::read_dir(it.unwrap().path()).unwrap());
        files.count()
    };
    // What went for the last one is removed behind it.
    while files() > 4 {
        std::thread::yield_now();
    }
    drop(blocks);
    assert_eq!(files(), 4);
    let blocks = open(place.path(), 2 * 4_096, &shelf);
    assert_eq!((blocks.counters().disk_bytes, files()), (2 * 4_096, 2), "a smaller limit holds");
    drop(blocks);
    let blocks = open(place.path(), 4_095, &shelf);
    blocks.fetch_and_wait(names[0]).unwrap();
    assert_eq!((blocks.counters().disk_bytes, files()), (0, 0), "what does not fit is not kept");
}

#[test]
fn who_left_the_disk_touches_nothing_there() {
    let place = tempfile::tempdir().unwrap();
    let (shelf, names) = Shelf::new(&[b"kept", b"not kept"]);
    let blocks = open(place.path(), 1 << 20, &shelf);
    blocks.fetch_and_wait(names[0]).unwrap();
    settle(&blocks, 1);
    blocks.leave_disk();
    assert_eq!(*blocks.fetch_and_wait(names[1]).unwrap(), *b"not kept");
    assert_eq!(blocks.counters().disk_bytes, 0);
    let next = open(place.path(), 1 << 20, &shelf);
    assert_eq!(*next.fetch_and_wait(names[0]).unwrap(), *b"kept");
    assert_eq!((shelf.asked(), next.counters().from_disk), (2, 1));
}
