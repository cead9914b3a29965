//! Images of trees against those who know: `fsck.erofs` and the kernel.
//!
//! The image is written out as nobody else does (metadata, and the content at its places), checked,
//! taken apart again by `fsck.erofs --extract` and mounted by the kernel from loop devices; what is
//! seen there is compared with the tree.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use cluster_tests::{Need, has};
use mount::logic::image::{BIG_FILE_BYTES, Device, Image, Node, NodeKind, build};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use proto::ids::FileId;

/// Bytes at both ends of a file that are not zero; the rest of long ones is.
const PATTERN: u64 = 64 << 10;

/// What is compared of a place: mode with its type, time, hard links of what is no folder or folders
/// inside of what is one, and what is there.
type Seen = (u32, (i64, i64), u64, What);

#[derive(PartialEq, Eq)]
enum What {
    Folder,
    File { length: u64, ends: [Vec<u8>; 2] },
    Link(Vec<u8>),
}

impl fmt::Debug for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Folder => f.write_str("a folder"),
            What::File { length, .. } => write!(f, "a file of {length} bytes with its content"),
            What::Link(target) => write!(f, "a link with a target of {} bytes", target.len()),
        }
    }
}

/// The bytes of a file at its beginning or end.
fn pattern(file: FileId, length: u64, from: u64) -> Vec<u8> {
    let mut bytes = vec![0; PATTERN.min(length - from) as usize];
    fastrand::Rng::with_seed(file.0 as u64 ^ from.rotate_right(20)).fill(&mut bytes);
    bytes
}

/// Where both ends of a file begin.
fn ends(length: u64) -> [u64; 2] {
    [0, length.saturating_sub(PATTERN).next_multiple_of(PATTERN).min(length)]
}

/// An image on this machine's disk.
struct Written {
    folder: tempfile::TempDir,
    has_big: bool,
}

impl Written {
    fn new(image: &Image) -> Written {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, device: Device, length: u64, head: &[u8]| {
            let file = File::create(folder.path().join(name)).expect("a file");
            file.set_len(length).expect("room");
            file.write_all_at(head, 0).expect("written");
            for placed in image.files(device) {
                for from in ends(placed.length) {
                    let bytes = pattern(placed.file, placed.length, from);
                    file.write_all_at(&bytes, placed.at + from).expect("written");
                }
            }
        };
        write("image", Device::Primary, image.primary_bytes(), image.metadata());
        let has_big = image.big_bytes() > 0;
        if has_big {
            write("big", Device::Big, image.big_bytes(), &[]);
        }
        Written { folder, has_big }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs `fsck.erofs`; what it said where it is not content.
    fn check(&self, arguments: &[&OsStr]) -> Result<(), String> {
        let mut command = Command::new("timeout");
        command.args(["60", "fsck.erofs"]).args(arguments);
        if self.has_big {
            command.arg(format!("--device={}", self.path("big").display()));
        }
        let output = command.arg(self.path("image")).output().expect("it runs");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        let is_clean = output.status.success() && !said.contains("<E>") && !said.contains("<W>");
        if is_clean { Ok(()) } else { Err(format!("{}: {said}", output.status)) }
    }
}

/// What the tree of these nodes has.
fn expected(nodes: &[Node]) -> BTreeMap<PathBuf, Seen> {
    let mut paths: Vec<PathBuf> = Vec::new();
    let mut folders = vec![0; nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        if index == 0 {
            paths.push(PathBuf::new());
            continue;
        }
        paths.push(paths[node.parent as usize].join(OsStr::from_bytes(&node.name)));
        folders[node.parent as usize] += u64::from(node.kind == NodeKind::Folder);
    }
    let places = nodes.iter().zip(paths).zip(folders).map(|((node, path), folders)| {
        let (bits, links, what) = match &node.kind {
            NodeKind::Folder => (0o040_000, folders, What::Folder),
            NodeKind::File { file, length } => {
                let (file, length) = (*file, *length);
                let ends = ends(length).map(|from| pattern(file, length, from));
                (0o100_000, 1, What::File { length, ends })
            }
            NodeKind::Link { target } => (0o120_000, 1, What::Link(target.clone())),
        };
        let (seconds, nanoseconds) = node.mtime;
        let time = (seconds, i64::from(nanoseconds));
        (path, (bits | u32::from(node.mode), time, links, what))
    });
    places.collect()
}

/// What a folder has.
fn found(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut all = BTreeMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(path) = open.pop() {
        let at = root.join(&path);
        let metadata = fs::symlink_metadata(&at).expect("it is there");
        let (links, what) = if metadata.is_dir() {
            let mut folders = 0;
            for entry in fs::read_dir(&at).expect("a list") {
                let entry = entry.expect("an entry");
                folders += u64::from(entry.file_type().expect("a kind").is_dir());
                open.push(path.join(entry.file_name()));
            }
            (folders, What::Folder)
        } else if metadata.is_symlink() {
            let target = fs::read_link(&at).expect("a target");
            (metadata.nlink(), What::Link(target.as_os_str().as_bytes().to_vec()))
        } else {
            let length = metadata.len();
            let file = File::open(&at).expect("a file");
            let ends = ends(length).map(|from| {
                let mut bytes = vec![0; PATTERN.min(length - from) as usize];
                file.read_exact_at(&mut bytes, from).expect("its bytes");
                bytes
            });
            (metadata.nlink(), What::File { length, ends })
        };
        let time = (metadata.mtime(), metadata.mtime_nsec());
        all.insert(path, (metadata.mode(), time, links, what));
    }
    all
}

/// A mount of an image. It is gone when this goes out of scope, whatever happened.
struct Mounted {
    at: PathBuf,
    loops: Vec<String>,
}

impl Mounted {
    fn new(written: &Written) -> Mounted {
        let mut mounted = Mounted { at: written.path("mount"), loops: Vec::new() };
        fs::create_dir(&mounted.at).expect("a folder");
        let mut options = "ro".to_owned();
        mounted.attach(&written.path("image"));
        if written.has_big {
            let device = mounted.attach(&written.path("big"));
            options.push_str(&format!(",device={device}"));
        }
        let device = mounted.loops.first().expect("attached").clone();
        let at = mounted.at.clone();
        run(Command::new("mount").args(["-t", "erofs", "-o", &options, &device]).arg(at));
        mounted
    }

    fn attach(&mut self, file: &Path) -> String {
        let said = run(Command::new("losetup").args(["--find", "--show", "--read-only"]).arg(file));
        let device = said.trim().to_owned();
        self.loops.push(device.clone());
        device
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).output();
        for device in &self.loops {
            let _ = Command::new("losetup").args(["--detach", device]).output();
        }
    }
}

/// Runs a command that has to succeed; what it said.
#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().expect("it runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn image(nodes: &[Node]) -> Image {
    build(nodes, (0, 0), [9; 16]).expect("an image")
}

fn node(parent: u32, name: &[u8], kind: NodeKind) -> Node {
    // Links of another mode exist in no other file system.
    let mode = if matches!(kind, NodeKind::Link { .. }) { 0o777 } else { 0o755 };
    Node { parent, name: name.to_vec(), mode, mtime: (1_000_000_000, 5), kind }
}

fn file(id: u128, length: u64) -> NodeKind {
    NodeKind::File { file: FileId(id), length }
}

fn link(target: &[u8]) -> NodeKind {
    NodeKind::Link { target: target.to_vec() }
}

/// A tree with all that is at a limit.
fn limits() -> Vec<Node> {
    let mut nodes = vec![
        node(0, b"", NodeKind::Folder),
        node(0, b"folder", NodeKind::Folder),
        node(0, b"many", NodeKind::Folder),
        node(0, b"!before the dots", file(1, 0)),
        node(0, b"with\nline\nbreaks", file(2, 1)),
        node(0, b"not \xff\xfe UTF-8", file(3, 4_095)),
        node(0, &[b'n'; 255], file(4, 4_096)),
        node(1, b"below", file(5, BIG_FILE_BYTES - 1)),
        node(1, b"from", file(6, BIG_FILE_BYTES)),
        node(1, b"above", file(7, 5 << 20 | 1)),
        node(1, b"equal", file(6, BIG_FILE_BYTES)),
        node(1, b"equal small", file(3, 4_095)),
        node(1, b"short", link(b"..")),
        node(1, b"fits", link(&[b'x'; 4_032])),
        node(1, b"fits not", link(&[b'x'; 4_033])),
        node(1, b"long", link(&[b'x'; 4_095])),
    ];
    nodes.extend((0..20_000_u32).map(|index| {
        let name = format!("{index:x}");
        node(2, name.as_bytes(), file(u128::from(index % 300), 3 + u64::from(index % 300)))
    }));
    nodes
}

fn any_tree() -> impl Strategy<Value = Vec<Node>> {
    let byte = prop_oneof![1..b'/', b'0'..=255_u8];
    let name = prop_oneof![
        proptest::collection::vec(byte.clone(), 1..8),
        proptest::collection::vec(byte.clone(), 1..256),
    ];
    let length = prop_oneof![
        Just(0),
        0..3 * 4_096_u64,
        0..BIG_FILE_BYTES,
        BIG_FILE_BYTES - 2..BIG_FILE_BYTES + 3,
        BIG_FILE_BYTES..6 << 20,
    ];
    let kind = prop_oneof![
        2 => Just(NodeKind::Folder),
        // The identity of content says its length.
        4 => (0..4_u128, length).prop_map(|(id, length)| file(u128::from(length) << 8 | id, length)),
        1 => proptest::collection::vec(byte, 1..4_096).prop_map(|target| link(&target)),
    ];
    // What the file system has room for into which trees are taken out.
    let mtime = (-(1_i64 << 31)..1 << 33, 0..1_000_000_000_u32);
    let any_node = (any::<prop::sample::Index>(), name, 0..0o1000_u16, mtime, kind);
    proptest::collection::vec(any_node, 0..40).prop_map(|raw| {
        let root = node(0, b"", NodeKind::Folder);
        let mut nodes = vec![root];
        let mut taken = std::collections::BTreeSet::new();
        for (parent, name, mode, mtime, kind) in raw {
            let folders = nodes.iter().zip(0..).filter(|(node, _)| node.kind == NodeKind::Folder);
            let folders: Vec<u32> = folders.map(|(_, index)| index).collect();
            let parent = folders[parent.index(folders.len())];
            let mode = if matches!(kind, NodeKind::Link { .. }) { 0o777 } else { mode };
            let is_name = !matches!(name.as_slice(), b"." | b"..");
            if is_name && taken.insert((parent, name.clone())) {
                nodes.push(Node { parent, name, mode, mtime, kind });
            }
        }
        nodes
    })
}

fn check_extracted(nodes: &[Node]) -> Result<(), String> {
    let written = Written::new(&image(nodes));
    written.check(&[])?;
    let at = written.path("extracted");
    let extract = format!("--extract={}", at.display());
    written.check(&[OsStr::new(&extract), OsStr::new("--preserve")])?;
    compare(&expected(nodes), &found(&at))
}

fn check_mounted(nodes: &[Node]) -> Result<(), String> {
    let written = Written::new(&image(nodes));
    let mounted = Mounted::new(&written);
    compare(&expected(nodes), &found(&mounted.at))
}

fn compare(
    expected: &BTreeMap<PathBuf, Seen>,
    found: &BTreeMap<PathBuf, Seen>,
) -> Result<(), String> {
    let paths = |it: &BTreeMap<PathBuf, Seen>| it.keys().cloned().collect::<Vec<_>>();
    if paths(expected) != paths(found) {
        return Err(format!("other names: {:?} and {:?}", paths(expected), paths(found)));
    }
    for (path, expected) in expected {
        let found = &found[path];
        if expected != found {
            return Err(format!("{}: {expected:?}, found {found:?}", path.display()));
        }
    }
    Ok(())
}

/// Runs a check over trees.
#[track_caller]
fn for_any_tree(check: impl Fn(&[Node]) -> Result<(), String>) {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) };
    let checked = TestRunner::new(config)
        .run(&any_tree(), |nodes| check(&nodes).map_err(TestCaseError::fail));
    if let Err(error) = checked {
        panic!("{error}");
    }
}

#[test]
fn fsck_finds_every_image_clean_and_takes_the_tree_out_of_it() {
    if has(Need::FsckErofs) {
        for_any_tree(check_extracted);
        check_extracted(&limits()).unwrap();
    }
}

#[test]
fn the_kernel_shows_the_tree_of_every_image() {
    if has(Need::Root) && has(Need::Erofs) && has(Need::Loop) {
        for_any_tree(check_mounted);
        check_mounted(&limits()).unwrap();
    }
}

#[test]
fn the_kernel_shows_what_few_disks_could_hold() {
    if has(Need::Root) && has(Need::Erofs) && has(Need::Loop) {
        let root = node(0, b"", NodeKind::Folder);
        let sparse = node(0, b"sparse", file(1, 10 << 30));
        let old = Node { mtime: (-(1 << 36), 999_999_999), ..node(0, b"old", file(2, 1)) };
        let late = Node { mtime: (1 << 36, 1), ..node(0, b"late", NodeKind::Folder) };
        check_mounted(&[root, sparse, old, late]).unwrap();
    }
}

#[test]
fn a_damaged_image_is_found() {
    if has(Need::FsckErofs) {
        let nodes = [node(0, b"", NodeKind::Folder), node(0, b"a", file(1, 1))];
        let written = Written::new(&image(&nodes));
        written.check(&[]).unwrap();
        let file = File::options().write(true).open(written.path("image")).unwrap();
        // The root's inode is at 1,280; behind it are its records, whose names begin here.
        file.write_all_at(&[0xff, 0xff], 1_280 + 64 + 8).unwrap();
        assert!(written.check(&[]).is_err());
        let other = [node(0, b"", NodeKind::Folder), node(0, b"b", self::file(1, 1))];
        assert!(compare(&expected(&nodes), &expected(&other)).is_err());
    }
}
