//! A storage node dies or hangs amid a read and amid a write: both go on without it.

use std::io::Read;
use std::process::Stdio;

use cluster_tests::wait::until;

use crate::cluster::{Cluster, Frozen, LONG, Listed, kill};

/// Twelve blocks: every node has some of them.
const BYTES: usize = 48 << 20;

/// Bytes that do not repeat from block to block.
fn content(seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; BYTES];
    random.fill(&mut bytes);
    bytes
}

/// What is done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Killed,
    Frozen,
}

#[track_caller]
fn strike(node: &Listed, fate: Fate) -> Option<Frozen> {
    let pid = node.pid.expect("it runs");
    match fate {
        Fate::Frozen => Some(Frozen::freeze(pid)),
        Fate::Killed => {
            kill(pid);
            None
        }
    }
}

/// Reads a file, of which a node dies when the first bytes are there.
#[track_caller]
fn read_amid(
    cluster: &Cluster,
    source: &str,
    node: &Listed,
    fate: Fate,
) -> (Vec<u8>, Option<Frozen>) {
    let mut reader = cluster
        .command(&["cat", source])
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the program");
    let mut stdout = reader.stdout.take().expect("a pipe");
    // The pipe takes no more before somebody reads, so most of the file is still to be fetched.
    let mut bytes = vec![0; 1 << 20];
    stdout.read_exact(&mut bytes).expect("read the beginning");
    let frozen = strike(node, fate);
    stdout.read_to_end(&mut bytes).expect("read the rest");
    assert!(reader.wait().expect("it ends").success());
    (bytes, frozen)
}

/// Writes a file, of which a node dies when it has got the first bytes of it; what it is called.
#[track_caller]
fn write_amid(
    cluster: &Cluster,
    file: &str,
    node: &Listed,
    fate: Fate,
) -> (String, Option<Frozen>) {
    let folder = cluster.folder().join(&node.name);
    let before = size(&folder);
    let mut writer =
        cluster.command(&["put", file]).stdout(Stdio::piped()).spawn().expect("start the program");
    until("the first bytes of the file", LONG, || {
        (size(&folder) > before || writer.try_wait().expect("it ends").is_some()).then_some(())
    });
    let frozen = strike(node, fate);
    let mut source = String::new();
    writer.stdout.take().expect("a pipe").read_to_string(&mut source).expect("a pipe");
    assert!(writer.wait().expect("it ends").success());
    (source.trim().to_owned(), frozen)
}

/// Bytes of a folder's files, as far as they are written.
pub(crate) fn size(folder: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size_of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(it) if it.is_dir() => size(&entry.path()),
        Ok(it) => it.blocks() * 512,
        Err(_) => 0,
    };
    entries.map(size_of).sum()
}

#[test]
fn reads_and_writes_go_on_without_a_storage_node() {
    let cluster = Cluster::start(&["--masters", "1", "--workers", "0", "--no-restart"]);
    let first = content(1);
    std::fs::write(cluster.place().join("first"), &first).unwrap();
    let source = cluster.run(&["put", "first"]).ok();
    for (seed, fate) in [(2, Fate::Killed), (3, Fate::Frozen)] {
        let nodes = cluster.tier("storage");
        let (read, frozen) = read_amid(&cluster, source.trim(), &nodes[0], fate);
        assert!(read == first, "{fate:?}");
        drop(frozen);
        if fate == Fate::Killed {
            cluster.start_again(&nodes[0].name);
        }
        let file = format!("file-{seed}");
        let written = content(seed);
        std::fs::write(cluster.place().join(&file), &written).unwrap();
        let (source, frozen) = write_amid(&cluster, &file, &nodes[1], fate);
        // Still without that node.
        cluster.run(&["get", &source, "copy"]).ok();
        assert!(std::fs::read(cluster.place().join("copy")).unwrap() == written, "{fate:?}");
        std::fs::remove_file(cluster.place().join("copy")).unwrap();
        drop(frozen);
        if fate == Fate::Killed {
            cluster.start_again(&nodes[1].name);
        }
    }
}
