//! Storing and fetching: one large file and many small ones, each beside the file system of this
//! machine doing the same in the same run.
//!
//! What is stored is on the disks of as many nodes as there are replicas when it counts as stored,
//! so the file system has to sync too. What is fetched or shown by a mount is compared with what
//! was stored.

use std::path::{Path, PathBuf};

use client::{Client, Times};
use node::clock::Clock;
use proto::description::InputSource;
use proto::ids::FileId;
use proto::name::Pointer;
use proto::time::Duration;

use super::cluster::BenchCluster;
use super::native::{self, Until};
use super::{Line, Printer, mib, mounted};
use crate::commands::connect::Asked;
use crate::failure::{During, Failure};

/// Bytes of the large file.
pub(super) const LARGE_BYTES: u64 = 1 << 30;

const SMALL_BYTES: u64 = 4 << 10;

/// Folders of small files, and files in each.
const SMALL: (usize, usize) = (100, 100);

const SYNCED: &str = "the file system: copy, then fsync";

const SYNCED_AT_ONCE: &str = "the file system: copy all, then one syncfs";

const WRITTEN: &str = "the file system: copy";

/// Takes the figures.
pub(super) fn run(cluster: &BenchCluster, printer: Printer) -> Result<(), Failure> {
    let place = cluster.folder().join("files");
    make_folder(&place)?;
    let mut random = node::random::generator().during(|| "draw bytes".into())?;
    let file = large(cluster.client(), &place, &mut random, printer)?;
    let tree = small(cluster.client(), &place, &mut random, printer)?;
    let large = InputSource::File { file, length: LARGE_BYTES, is_executable: false };
    let small = InputSource::Tree { tree: tree.file, length: tree.length };
    mounted::run(cluster, &place, (large, small), &mut random, printer)
}

fn make_folder(path: &Path) -> Result<(), Failure> {
    std::fs::create_dir(path).during(|| format!("make {}", path.display()))
}

fn timed<T>(
    clock: Clock,
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<(T, Duration), Failure> {
    let begin = clock.now();
    let done = work()?;
    Ok((done, clock.now().since(begin)))
}

fn large(
    client: &Client,
    place: &Path,
    random: &mut fastrand::Rng,
    printer: Printer,
) -> Result<FileId, Failure> {
    let [source, copy, got] = ["large", "large-copy", "large-got"].map(|name| place.join(name));
    native::make(&source, LARGE_BYTES, random)?;
    let files = [(source.clone(), copy.clone())];
    let per_second = |time: Duration| mib(LARGE_BYTES) / time.as_secs_f64();
    let clock = Clock::start();

    let limit = native::copy(&files, Until::Synced)?;
    let (file, put) = timed(clock, || client.put_file(&source).asked())?;
    let line = Line::new("files", "put_mib_per_s", per_second(put), "MiB/s");
    printer.line(&line.beside(per_second(limit), SYNCED))?;

    remove_file(&copy)?;
    let limit = native::copy(&files, Until::Written)?;
    let (_, get) = timed(clock, || client.get_file(file, &got).asked())?;
    native::compare(&source, &got)?;
    let line = Line::new("files", "get_mib_per_s", per_second(get), "MiB/s");
    printer.line(&line.beside(per_second(limit), WRITTEN))?;
    [copy, got].iter().try_for_each(|path| remove_file(path))?;
    Ok(file)
}

fn remove_file(path: &Path) -> Result<(), Failure> {
    std::fs::remove_file(path).during(|| format!("remove {}", path.display()))
}

/// The small files' paths inside a folder of them.
pub(super) fn small_paths(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let (folders, files) = SMALL;
    (0..folders)
        .flat_map(move |outer| (0..files).map(move |inner| format!("{outer:02}/{inner:02}")))
        .map(|inner| folder.join(inner))
}

/// A new folder with the folders of small files, without the files.
fn make_small_folders(folder: &Path) -> Result<(), Failure> {
    make_folder(folder)?;
    (0..SMALL.0).try_for_each(|outer| make_folder(&folder.join(format!("{outer:02}"))))
}

fn small(
    client: &Client,
    place: &Path,
    random: &mut fastrand::Rng,
    printer: Printer,
) -> Result<Pointer, Failure> {
    let [source, synced, written, got] =
        ["small", "small-synced", "small-written", "small-got"].map(|name| place.join(name));
    make_small_folders(&source)?;
    small_paths(&source).try_for_each(|path| native::make(&path, SMALL_BYTES, random))?;
    let copies = |to: &Path| -> Result<Vec<(PathBuf, PathBuf)>, Failure> {
        make_small_folders(to)?;
        Ok(small_paths(&source).zip(small_paths(to)).collect())
    };
    let per_second = |time: Duration| (SMALL.0 * SMALL.1) as f64 / time.as_secs_f64();
    let clock = Clock::start();

    let limit = native::copy(&copies(&synced)?, Until::SyncedAtOnce)?;
    let put = || client.put_tree(&source, Times::Without, &mut |_| ()).asked();
    let (stored, put) = timed(clock, put)?;
    let tree = stored.pointer;
    let line = Line::new("files", "small_put_per_s", per_second(put), "files/s");
    printer.line(&line.beside(per_second(limit), SYNCED_AT_ONCE))?;

    let limit = native::copy(&copies(&written)?, Until::Written)?;
    let get = || client.get_tree(tree.file, &got, &mut |_| ()).asked();
    let (_, get) = timed(clock, get)?;
    for (stored, found) in small_paths(&source).zip(small_paths(&got)) {
        native::compare(&stored, &found)?;
    }
    let line = Line::new("files", "small_get_per_s", per_second(get), "files/s");
    printer.line(&line.beside(per_second(limit), WRITTEN))?;
    Ok(tree)
}
