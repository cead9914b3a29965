//! Trees: round trips, one encoding for equal folders, refusal of everything else.

use proptest::prelude::*;

use super::*;
use crate::limits::{INLINE_FOLDER_BYTES, TREE_DEPTH};

fn file(name: &str, number: u128) -> Entry {
    let node = Node::File { file: FileId(number), length: number as u64 };
    Entry { name: name.into(), mode: 0o644, modified: None, node }
}

fn folder(name: &str, entries: Vec<Entry>) -> Entry {
    let node = Node::Folder(Folder::new(entries).unwrap());
    Entry { name: name.into(), mode: 0o755, modified: None, node }
}

fn link(name: &str, target: &str) -> Entry {
    let node = Node::Link { target: target.into() };
    Entry { name: name.into(), mode: 0o777, modified: None, node }
}

fn example() -> Folder {
    let mut program = file("run.sh", 7);
    program.mode = 0o755;
    program.modified = Some(ModificationTime { seconds: -1, nanoseconds: 999_999_999 });
    let inner = vec![link("up", "../../etc/passwd"), link("root", "/"), folder("empty", vec![])];
    Folder::new(vec![program, folder("sub", inner), file("!x", 1)]).unwrap()
}

fn names() -> impl Strategy<Value = Vec<u8>> {
    let any = prop::collection::vec(any::<u8>(), 1..=limits::NAME_BYTES);
    let short = prop::collection::vec(b'a'..=b'c', 1..4);
    prop_oneof![any, short].prop_filter("a name", |name| {
        !name.contains(&b'/') && !name.contains(&0) && name != b"." && name != b".."
    })
}

fn times() -> impl Strategy<Value = Option<ModificationTime>> {
    let time = (any::<i64>(), 0..1_000_000_000u32);
    prop::option::of(
        time.prop_map(|(seconds, nanoseconds)| ModificationTime { seconds, nanoseconds }),
    )
}

fn folders() -> impl Strategy<Value = Folder> {
    let file = (any::<u128>(), 0..=limits::FILE_BYTES)
        .prop_map(|(file, length)| Node::File { file: FileId(file), length });
    let tree = (any::<u128>(), INLINE_FOLDER_BYTES as u64 + 9..=limits::TREE_BYTES as u64)
        .prop_map(|(tree, length)| Node::Tree { tree: FileId(tree), length });
    let link = prop::collection::vec(1..=u8::MAX, 1..=limits::LINK_TARGET_BYTES)
        .prop_map(|target| Node::Link { target });
    let leaf = prop_oneof![4 => file, 1 => tree, 1 => link];
    let node = leaf.prop_recursive(4, 40, 8, |node| {
        let entry = (names(), 0..=0o777u16, times(), node);
        prop::collection::vec(entry, 0..8).prop_map(|entries| Node::Folder(build(entries)))
    });
    prop::collection::vec((names(), 0..=0o777u16, times(), node), 0..8).prop_map(build)
}

fn build(entries: Vec<(Vec<u8>, u16, Option<ModificationTime>, Node)>) -> Folder {
    let mut entries: Vec<Entry> = entries
        .into_iter()
        .map(|(name, mode, modified, node)| Entry { name, mode, modified, node })
        .collect();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries.dedup_by(|a, b| a.name == b.name);
    Folder::new(entries).unwrap()
}

proptest! {
    #[test]
    fn trees_are_read_as_they_were_written(folder in folders()) {
        let encoded = folder.encode().unwrap();
        prop_assert_eq!(&encoded.folders, &vec![]);
        prop_assert_eq!(Folder::decode(&encoded.root.bytes).unwrap(), folder);
    }

    #[test]
    fn what_is_accepted_has_one_encoding(
        folder in folders(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut bytes = folder.encode().unwrap().root.bytes;
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(read) = Folder::decode(&bytes) {
            prop_assert_eq!(read.encode().unwrap().root.bytes, bytes);
        }
    }

    #[test]
    fn noise_is_no_tree(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let bytes = [&MAGIC[..], &noise].concat();
        if let Ok(read) = Folder::decode(&bytes) {
            prop_assert_eq!(read.encode().unwrap().root.bytes, bytes);
        }
    }
}

#[test]
fn the_encoding_never_changes() {
    let encoded = example().encode().unwrap();
    assert_eq!(encoded.root.file.to_string(), "ead14771-c240-80d8-816d-449994476832");
    assert_eq!(Folder::default().encode().unwrap().root.bytes, b"RmdTree\x01\0\0\0\0");
}

#[test]
fn equal_folders_have_one_uuid() {
    let mut entries = example().entries().to_vec();
    entries.reverse();
    let shuffled = Folder::new(entries).unwrap();
    assert_eq!(shuffled, example());
    assert_eq!(shuffled.encode(), example().encode());
    assert_eq!(example().entry(b"!x"), Some(&file("!x", 1)));
    assert_eq!(example().entry(b"!y"), None);
}

#[test]
fn names_and_values_that_may_not_be_are_refused() {
    let long = "n".repeat(256);
    for name in ["", ".", "..", "a/b", "a\0b", &long] {
        let refused = Folder::new(vec![file(name, 1)]).unwrap_err();
        assert!(matches!(refused, TreeError::Name { .. }), "{name:?}: {refused}");
    }
    let twice = Folder::new(vec![file("a", 1), file("a", 2)]).unwrap_err();
    assert_eq!(twice.to_string(), "the entry \"a\" is there twice or not in order");
    let mut setuid = file("a", 1);
    setuid.mode = 0o4755;
    let long_target = "t".repeat(limits::LINK_TARGET_BYTES + 1);
    let links = ["", "a\0", &long_target].map(|target| link("a", target));
    let mut late = file("a", 1);
    late.modified = Some(ModificationTime { seconds: 0, nanoseconds: 1_000_000_000 });
    let mut large = file("a", 1);
    large.node = Node::File { file: FileId(1), length: limits::FILE_BYTES + 1 };
    for entry in links.into_iter().chain([setuid, late, large]) {
        assert!(matches!(Folder::new(vec![entry]), Err(TreeError::Entry { .. })));
    }
}

/// Entries one after the other as the encoder writes them, without its order and its checks.
fn written(entries: &[Entry]) -> Vec<u8> {
    let folder = Folder { entries: entries.to_vec(), depth: 1 };
    folder.encode().unwrap().root.bytes
}

#[test]
fn a_forged_encoding_is_refused() {
    for entries in [
        vec![file("b", 1), file("a", 2)],
        vec![file("a", 1), file("a", 1)],
        vec![file("..", 1)],
        vec![file("a/b", 1)],
    ] {
        assert!(Folder::decode(&written(&entries)).is_err(), "{entries:?}");
    }
    let good = example().encode().unwrap().root.bytes;
    assert!(Folder::decode(&good).is_ok());
    let longer = [&good[..], &[0]].concat();
    assert!(matches!(Folder::decode(&longer), Err(TreeError::Length { .. })));
    for length in 0..good.len() {
        assert!(Folder::decode(&good[..length]).is_err(), "{length} bytes");
    }
    let many = [&MAGIC[..], &u32::MAX.to_le_bytes(), &[0; 64]].concat();
    assert_eq!(Folder::decode(&many), Err(TreeError::Length { offset: 12 }));
}

#[test]
fn folders_are_bounded_in_depth() {
    let nest = |depth| {
        (1..depth).try_fold(Folder::default(), |inner, _| {
            let node = Node::Folder(inner);
            Folder::new(vec![Entry { name: b"d".into(), mode: 0o755, modified: None, node }])
        })
    };
    let deepest = nest(TREE_DEPTH).unwrap();
    assert_eq!(deepest.depth(), TREE_DEPTH);
    assert_eq!(Folder::decode(&deepest.encode().unwrap().root.bytes), Ok(deepest.clone()));
    assert_eq!(nest(TREE_DEPTH + 1), Err(TreeError::Depth));
    let forged = written(&[Entry {
        name: b"d".into(),
        mode: 0o755,
        modified: None,
        node: Node::Folder(deepest),
    }]);
    assert_eq!(Folder::decode(&forged), Err(TreeError::Depth));
}

#[test]
fn a_large_folder_is_a_file_of_its_own() {
    let files: Vec<Entry> = (0..40_000).map(|n| file(&format!("{n:08}"), n)).collect();
    let small = folder("small", files[..20_000].to_vec());
    let large = folder("large", vec![folder("inner", files), small.clone()]);
    let tree = Folder::new(vec![large.clone(), small]).unwrap();
    let encoded = tree.encode().unwrap();
    // `inner` (1.4 MB) is one file; `large`, which names it, fits into the root with both `small`.
    assert_eq!(encoded.folders.len(), 1);
    let read = Folder::decode(&encoded.root.bytes).unwrap();
    assert_eq!(read.encode().unwrap().root, encoded.root);
    let inner = &encoded.folders[0];
    let trees: Vec<Reference> = read.references().into_iter().filter(|it| it.is_tree).collect();
    let length = inner.bytes.len() as u64;
    assert_eq!(trees, [Reference { file: inner.file, length, is_tree: true }]);
    assert_eq!(read.references().len(), 40_001);
    let Node::Folder(large) = &large.node else { unreachable!() };
    let Node::Folder(inner_folder) = &large.entry(b"inner").unwrap().node else { unreachable!() };
    assert_eq!(Folder::decode(&inner.bytes).as_ref(), Ok(inner_folder));

    let Node::Folder(inner_folder) = large.entry(b"inner").unwrap().node.clone() else {
        unreachable!()
    };
    let forged = [&1u32.to_le_bytes()[..], &[2, 0, 0, 1, b'd'], &(length as u32 - 8).to_le_bytes()];
    let body = inner_folder.encode().unwrap().root.bytes;
    let forged = [&MAGIC[..], &forged.concat(), &body[8..]].concat();
    assert!(matches!(Folder::decode(&forged), Err(TreeError::Entry { .. })));
}
