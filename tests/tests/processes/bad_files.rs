//! Files that are wrong, unusual or cut off in the middle: each gets a clear error or comes back as
//! it was, and nothing is lost or half there.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Stdio;

use cluster_tests::needs::{Need, has};
use cluster_tests::wait::until;
use proto::digest::Digest;
use proto::ids::{BlockId, FileId, NodeId};
use proto::limits::BLOCK_BYTES;
use proto::manifest::Manifest;
use proto::messages::file::{BlockPut, BlockStored};
use proto::messages::node::{RingQuery, RingReply};
use proto::messages::session::ErrorReply;
use proto::record::{Message, Records, encode};
use proto::status::{BlockKind, ErrorCode};
use proto::tree::{Entry, Folder, Node};

use crate::cluster::{Cluster, LONG};
use crate::small_disk::SmallDisk;
use crate::strangers::Stranger;

const STORES: &[&str] = &["--masters", "1", "--balancers", "1", "--storage", "2", "--workers", "0"];

/// Puts blocks as a client does that does not look at what it sends.
struct Forger {
    nodes: Vec<Stranger>,
    ring_version: u64,
    requests: u64,
}

/// What a node answers to the request of this number, read by `read`.
#[track_caller]
fn answer<T>(node: &Stranger, request: u64, read: impl Fn(&proto::record::Record<'_>) -> T) -> T {
    until("a node answers", LONG, || {
        let frame = node.receive()?;
        let of = |record: &proto::record::Record<'_>| record.request_id().0 == request;
        Records::of(&frame).flatten().find(of).map(|record| read(&record))
    })
}

impl Forger {
    fn at(cluster: &Cluster) -> Forger {
        let context = zmq::Context::new();
        let connect = |address: &str| Stranger::connect(&context, address, NodeId(0xf0_4e));
        let mut master = connect(&cluster.leader("master").address);
        master.send(encode(&RingQuery::default(), &[]), 2);
        let ring_version = answer(&master, 2, |record| {
            let reply: RingReply = record.read().expect("the ring");
            reply.ring_version
        });
        let nodes = cluster.tier("storage").iter().map(|it| connect(&it.address)).collect();
        Forger { nodes, ring_version, requests: 2 }
    }

    /// Puts a block on every node; the code of a refusal, or `None` where all stored it.
    fn put(&mut self, block: BlockId, kind: BlockKind, content: &[u8]) -> Option<ErrorCode> {
        let put = BlockPut {
            block_uuid: block.to_wire(),
            kind: kind.to_wire(),
            ring_version: self.ring_version,
            ..BlockPut::default()
        };
        self.requests += 1;
        let request = self.requests;
        let mut refused = None;
        for node in &mut self.nodes {
            node.send(encode(&put, &[content]), request);
            refused = refused.or(answer(node, request, |record| match record.message_type() {
                BlockStored::TYPE => None,
                _ => {
                    let error: ErrorReply = record.read().expect("a refusal");
                    Some(ErrorCode::from_wire(error.code).expect("a code"))
                }
            }));
        }
        refused
    }

    fn content(&mut self, content: &[u8]) -> Digest {
        let digest = Digest::of(BlockKind::Content, content);
        assert_eq!(self.put(digest.block_id(), BlockKind::Content, content), None);
        digest
    }
}

#[test]
fn forged_blocks_manifests_and_trees_are_refused_with_a_sentence() {
    let cluster = Cluster::start(STORES);
    let mut forger = Forger::at(&cluster);

    // The bytes of another block, and a block that was cut.
    let block = vec![7; 100_000];
    let name = Digest::of(BlockKind::Content, &block).block_id();
    for wrong in [&vec![8; 100_000][..], &block[..99_999]] {
        let told = forger.put(name, BlockKind::Content, wrong);
        assert_eq!(told, Some(ErrorCode::WrongDigest));
    }

    // A manifest whose second block is shorter than it says, and one whose block nobody has.
    let (first, second) = (forger.content(&vec![1; BLOCK_BYTES]), forger.content(&[2; 100]));
    let absent = Digest::of(BlockKind::Content, b"nobody stored this");
    for (blocks, said) in
        [([first, second], "its manifest says"), ([first, absent], "no storage node has")]
    {
        let manifest =
            Manifest::new(2 * BLOCK_BYTES as u64, blocks.to_vec()).expect("it looks well");
        let file = manifest.file_id();
        let bytes = manifest.encode();
        assert_eq!(forger.put(BlockId(file.0), BlockKind::Manifest, &bytes), None);
        let source = format!("file:{file}");
        let found = cluster.run(&["get", &source, "lie"]);
        assert_eq!(found.exit, 1, "{found:?}");
        assert!(found.stderr.starts_with("error: "), "{found:?}");
        assert!(found.stderr.contains(said), "{said}: {found:?}");
        assert!(!cluster.place().join("lie").exists(), "nothing is left of it");
    }

    // A tree that climbs out of itself.
    let inner = Node::Link { target: b"target".to_vec() };
    let tree =
        Folder::new(vec![Entry { name: b"xx".to_vec(), mode: 0o777, node: inner, modified: None }]);
    let encoded = tree.expect("a tree").encode().expect("short");
    let mut bytes = encoded.root.bytes.clone();
    let at = bytes.windows(2).position(|two| two == b"xx").expect("its name is there");
    bytes[at..at + 2].copy_from_slice(b"..");
    let file = FileId(forger.content(&bytes).block_id().0);
    // What only begins like a tree is a file of these bytes, and nobody can look into it.
    cluster.run(&["get", &format!("file:{file}"), "climb"]).ok();
    assert_eq!(fs::read(cluster.place().join("climb")).unwrap(), bytes);
    for inside in ["/..", "/target"] {
        let found = cluster.run(&["get", &format!("file:{file}{inside}"), "inside"]);
        assert_ne!(found.exit, 0, "{found:?}");
    }

    // What was never stored at all.
    let found = cluster.run(&["cat", &format!("file:{}", absent.file_id())]);
    assert_eq!(found.exit, 1, "{found:?}");
    assert!(found.stderr.contains("no storage node has"), "{found:?}");
}

/// Bytes of the blocks that the storage nodes keep.
fn used_bytes(cluster: &Cluster) -> u64 {
    let space = cluster.run(&["df", "--json"]).json();
    let nodes = space["nodes"].as_array().expect("nodes");
    nodes.iter().map(|it| it["used_bytes"].as_u64().expect("bytes")).sum()
}

#[test]
fn a_put_that_is_killed_leaves_nothing_that_can_be_seen() {
    let cluster = Cluster::start(STORES);
    let path = cluster.place().join("large");
    let mut random = fastrand::Rng::with_seed(7);
    let content: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(96 << 20).collect();
    fs::write(&path, &content).unwrap();
    let stored = || used_bytes(&cluster);
    let mut put = cluster.command(&["put", "large", "name"]).stdout(Stdio::null()).spawn().unwrap();
    until("some of it is stored", LONG, || (stored() > 8 << 20).then_some(()));
    let ended = put.try_wait().unwrap();
    put.kill().unwrap();
    put.wait().unwrap();
    assert!(ended.is_none(), "it was killed in the middle");
    let found = cluster.run(&["cat", "name:name"]);
    assert_eq!(found.exit, 1);
    assert!(found.stderr.contains("there is no name"), "{found:?}");

    cluster.run(&["put", "large", "name"]).ok();
    cluster.run(&["get", "name:name", "copy"]).ok();
    assert!(fs::read(cluster.place().join("copy")).unwrap() == content);
}

#[test]
fn empty_and_sparse_files_come_back_and_cost_what_is_in_them() {
    let cluster = Cluster::start(STORES);
    let place = cluster.place();
    fs::write(place.join("empty"), "").unwrap();
    cluster.run(&["put", "empty", "empty"]).ok();
    assert_eq!(cluster.run(&["cat", "name:empty"]).ok(), "");

    // 64 GiB of which 10 bytes are written.
    let path = place.join("sparse");
    let sparse = File::create(&path).unwrap();
    let (length, at) = (64u64 << 30, (63u64 << 30) + 5);
    sparse.set_len(length).unwrap();
    sparse.write_all_at(b"ten bytes!", at).unwrap();
    cluster.run(&["put", "sparse", "sparse"]).ok();
    let list = cluster.run(&["ls", "sparse", "--json"]).json();
    assert_eq!(list[0]["bytes"].as_u64(), Some(length), "{list}");
    let used = used_bytes(&cluster);
    assert!(used < 20 << 20, "a hole is one block: {used} bytes");
}

#[test]
fn a_disk_that_fills_during_a_put_loses_nothing_that_was_stored() {
    if !has(Need::Root) {
        return;
    }
    let cluster = Cluster::home_in(&std::env::temp_dir());
    let shape = ["--masters", "1", "--balancers", "1", "--storage", "1", "--workers", "0"];
    cluster.dev(&shape).ok();
    cluster.stop();
    let _disk = SmallDisk::under(&cluster.folder().join("storage-1"), "64m");
    cluster.dev(&[]).ok();
    cluster.provokes("the disk is full");
    let mut random = fastrand::Rng::with_seed(8);
    let mut write = |name: &str, length: usize| {
        let content: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
        fs::write(cluster.place().join(name), &content).unwrap();
        content
    };
    let small = write("small", 10 << 20);
    write("large", 100 << 20);
    cluster.run(&["put", "small", "small"]).ok();
    let found = cluster.run(&["put", "large", "large"]);
    assert_eq!(found.exit, 1, "{found:?}");
    assert!(found.stderr.contains("no room"), "{found:?}");
    cluster.run(&["get", "name:small", "copy"]).ok();
    assert!(fs::read(cluster.place().join("copy")).unwrap() == small);
    let found = cluster.run(&["cat", "name:large"]);
    assert!(found.stderr.contains("there is no name"), "{found:?}");
    cluster.stop();
}
