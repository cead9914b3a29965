//! What the hidden files hold, byte for byte, and which of them there are. That the kernel makes
//! the same tree of them is tested with a real cluster.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use bytes::Bytes;
use client::Named;
use proto::ids::{BlockId, JobId};

use super::*;
use crate::blocks::Blocks;
use crate::cache::{BlockName, Cache};
use crate::logic::image::{BLOCK_BYTES, Image};
use crate::origin::{Origin, OriginError};
use crate::workers::Workers;

/// Has some blocks of content.
#[derive(Default)]
struct Shelf(BTreeMap<BlockName, Bytes>);

impl Shelf {
    /// Puts bytes that are one block, and differ from all others.
    fn put(&mut self, number: u8, length: usize) -> (FileId, Bytes) {
        let content: Vec<u8> = (0..length).map(|at| (at % 250) as u8 ^ number).collect();
        let content = Bytes::from(content);
        let file = Digest::of(BlockKind::Content, &content).file_id();
        self.0.insert(BlockName::content(BlockId(file.0)), content.clone());
        (file, content)
    }

    fn files(self, folder: &Path) -> Arc<Files> {
        let origin: Arc<dyn Origin> = Arc::new(self);
        let (cache, _, found) = Cache::open(folder).unwrap();
        let workers = |name| Workers::start(name, 4, 1_000).unwrap();
        let fetch = workers("test-fetch");
        let blocks = Blocks::new(cache, found, 1 << 30, Arc::clone(&origin), fetch);
        Arc::new(Files::new(Arc::new(blocks), origin, workers("test-lookup")))
    }
}

impl Origin for Shelf {
    fn block(&self, name: BlockName) -> Result<Bytes, OriginError> {
        let gone = || OriginError::Failed("no answer".to_owned());
        self.0.get(&name).cloned().ok_or_else(gone)
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

fn file(file: FileId, length: usize) -> InputShown {
    InputShown::File { file, length: length as u64, is_executable: false }
}

fn image(inputs: &[(String, InputShown)]) -> Image {
    let nodes = Gathering::of_inputs(inputs).unwrap().finish().unwrap();
    build(&nodes, (0, 0), [7; 16]).unwrap()
}

fn read(
    files: &Arc<Files>,
    image: &Image,
    device: Device,
    range: (u64, u64),
) -> Result<Bytes, Refusal> {
    let (sender, bytes) = channel();
    reading::read(files, image, device, range, move |read| sender.send(read).unwrap());
    bytes.recv().unwrap()
}

#[test]
fn every_range_of_an_image_is_metadata_content_or_zero() {
    let place = tempfile::tempdir().unwrap();
    let mut shelf = Shelf::default();
    let lengths = [1, 4_095, 4_096, 4_097, 50_000, 2 << 20, (2 << 20) + 5, 0];
    let stored: Vec<(FileId, Bytes)> =
        (0..).zip(lengths).map(|(number, length)| shelf.put(number, length)).collect();
    let inputs: Vec<(String, InputShown)> = stored
        .iter()
        .enumerate()
        .map(|(number, (id, content))| (format!("{number}"), file(*id, content.len())))
        .collect();
    let image = image(&inputs);
    let files = shelf.files(place.path());
    for (device, length) in
        [(Device::Primary, image.primary_bytes()), (Device::Big, image.big_bytes())]
    {
        let mut wanted = vec![0; length as usize];
        if device == Device::Primary {
            wanted[..image.metadata().len()].copy_from_slice(image.metadata());
        }
        for placed in image.files(device) {
            let (_, content) = stored.iter().find(|(id, _)| *id == placed.file).unwrap();
            wanted[placed.at as usize..][..content.len()].copy_from_slice(content);
        }
        for size in [BLOCK_BYTES, 32 * BLOCK_BYTES, 1 << 20, 12_345] {
            let mut found = Vec::new();
            while (found.len() as u64) < length {
                let at = found.len() as u64;
                let bytes = read(&files, &image, device, (at, size)).unwrap();
                assert_eq!(bytes.len() as u64, size.min(length - at));
                found.extend_from_slice(&bytes);
            }
            assert!(found == wanted, "{device:?} in pieces of {size}");
        }
        let behind = read(&files, &image, device, (length, 4_096)).unwrap();
        assert!(behind.is_empty());
        assert!(read(&files, &image, device, (u64::MAX, u64::MAX)).unwrap().is_empty());
    }
}

#[test]
fn a_block_that_is_gone_is_an_error_of_its_own_file() {
    let place = tempfile::tempdir().unwrap();
    let mut shelf = Shelf::default();
    let (here, content) = shelf.put(1, 5_000);
    let gone = Shelf::default().put(2, 5_000).0;
    let inputs = [("a".to_owned(), file(here, 5_000)), ("b".to_owned(), file(gone, 5_000))];
    let (image, files) = (image(&inputs), shelf.files(place.path()));
    let placed: Vec<_> = image.files(Device::Primary).collect();
    assert_eq!(placed.len(), 2);
    let first = placed.iter().map(|it| it.at).min().unwrap();
    for placed in placed {
        let read = read(&files, &image, Device::Primary, (placed.at, 8_192));
        if placed.file == here {
            assert_eq!(read.unwrap()[..5_000], content[..]);
        } else {
            assert_eq!(read.err(), Some(Refusal::Unavailable));
        }
    }
    let both = read(&files, &image, Device::Primary, (first, 1 << 20));
    assert_eq!(both.err(), Some(Refusal::Unavailable));
}

#[test]
fn an_image_stays_until_nobody_has_it_open() {
    let place = tempfile::tempdir().unwrap();
    let table = Table::new(Shelf::default().files(place.path()));
    let (number, _) = table.list(image(&[])).unwrap();
    let name = server::name(number, Device::Primary);
    let inode = table.look_up(OsStr::new(&name)).unwrap();
    assert_eq!(table.look_up(OsStr::new(&format!("0{name}"))), None);
    assert_eq!(table.look_up(OsStr::new("2")), None);
    assert_eq!(table.open(inode), Ok(Device::Primary));
    table.unlist(number);
    assert_eq!(table.look_up(OsStr::new(&name)), None, "it is taken away");
    assert!(table.find(inode).is_some(), "and who has it keeps it");
    table.release(inode);
    assert!(table.find(inode).is_none());
    assert_eq!(table.memory_bytes(), 0);
    let (next, _) = table.list(image(&[])).unwrap();
    assert!(next > number, "the kernel may know what it had under that number");
}

#[test]
fn equal_inputs_have_one_name() {
    let inputs = |name: &str, id, length| vec![(name.to_owned(), file(FileId(id), length))];
    let one = digest(&inputs("a", 1, 5));
    assert_eq!(one, digest(&inputs("a", 1, 5)));
    let program = InputShown::File { file: FileId(1), length: 5, is_executable: true };
    let tree = InputShown::Tree { tree: FileId(1), length: 5 };
    let others = [
        inputs("b", 1, 5),
        inputs("a", 2, 5),
        inputs("a", 1, 6),
        vec![("a".to_owned(), program)],
        vec![("a".to_owned(), tree)],
        Vec::new(),
    ];
    for other in others {
        assert_ne!(one, digest(&other), "{other:?}");
    }
}
