//! What an image says of itself, read by a reader of its own; whether the kernel and its tools agree
//! is tested in `tests/tests/image.rs`.

mod reader;

use proptest::prelude::*;
use proto::ids::FileId;

use super::*;
use reader::{Seen, What, walk};

const OWNER: (u32, u32) = (1_000, 1_001);

fn folder(parent: u32, name: &[u8]) -> Node {
    Node { parent, name: name.to_vec(), mode: 0o750, mtime: (7, 8), kind: NodeKind::Folder }
}

fn root() -> Node {
    folder(0, b"")
}

fn file(parent: u32, name: &[u8], id: u128, length: u64) -> Node {
    let kind = NodeKind::File { file: FileId(id), length };
    Node { parent, name: name.to_vec(), mode: 0o644, mtime: (-5, 999_999_999), kind }
}

fn link(parent: u32, name: &[u8], target: &[u8]) -> Node {
    let kind = NodeKind::Link { target: target.to_vec() };
    Node { parent, name: name.to_vec(), mode: 0o777, mtime: (0, 0), kind }
}

fn image(nodes: &[Node]) -> Image {
    build(nodes, OWNER, [7; 16]).unwrap()
}

/// What a reader of the image has to see.
fn expected(nodes: &[Node], image: &Image) -> Vec<Seen> {
    let path = |mut index: usize| {
        let mut path = Vec::new();
        while index > 0 {
            path.push(nodes[index].name.clone());
            index = nodes[index].parent as usize;
        }
        path.reverse();
        path
    };
    let place = |file: FileId, length: u64| {
        let device = if length < BIG_FILE_BYTES { Device::Primary } else { Device::Big };
        let mut placed = image.files(device);
        placed.find(|it| (it.file, it.length) == (file, length)).map_or(0, |it| it.at)
    };
    let mut all: Vec<Seen> = nodes
        .iter()
        .enumerate()
        .map(|(index, node)| {
            let folders = nodes.iter().enumerate().skip(1).filter(|(_, child)| {
                child.parent as usize == index && child.kind == NodeKind::Folder
            });
            let (links, what) = match &node.kind {
                NodeKind::Folder => (2 + folders.count(), What::Folder),
                NodeKind::File { file, length } => {
                    let (length, at) = (*length, place(*file, *length));
                    (1, What::File { length, at, is_big: length >= BIG_FILE_BYTES })
                }
                NodeKind::Link { target } => (1, What::Link { target: target.clone() }),
            };
            let (mode, mtime) = (node.mode, node.mtime);
            Seen { path: path(index), mode, mtime, links: links as u32, owner: OWNER, what }
        })
        .collect();
    all.sort();
    all
}

#[track_caller]
fn agrees(nodes: &[Node]) -> Image {
    let image = image(nodes);
    assert_eq!(walk(&image, nodes.len()), expected(nodes, &image));
    check_content(nodes, &image);
    image
}

/// Content lies behind the metadata, in order, aligned, without overlaps, each once, and is found.
fn check_content(nodes: &[Node], image: &Image) {
    let page = BIG_FILE_BYTES;
    let mut count = 0;
    for (device, align, first) in [
        (Device::Primary, BLOCK_BYTES, (image.metadata().len() as u64).next_multiple_of(page)),
        (Device::Big, page, 0),
    ] {
        let mut free = first;
        for placed in image.files(device) {
            count += 1;
            let Placed { at, file, length } = placed;
            assert!(at >= free && at.is_multiple_of(align) && length > 0);
            assert_eq!(length >= BIG_FILE_BYTES, device == Device::Big);
            for within in [0, length / 2, length - 1] {
                let piece = Piece { at: at + within, file, length, within: within..length };
                assert_eq!(image.at(device, at + within), Some(piece));
            }
            if length % BLOCK_BYTES != 0 {
                assert_eq!(image.at(device, at + length), None, "the rest of a block is zero");
            }
            free = at + length.next_multiple_of(BLOCK_BYTES);
        }
        let bytes = if device == Device::Big { image.big_bytes() } else { image.primary_bytes() };
        assert!(bytes >= free || free == first);
        assert!(bytes.is_multiple_of(BLOCK_BYTES) && image.at(device, bytes).is_none());
        let found = image.pieces(device, 0..u64::MAX).map(|piece| (piece.at, piece.file));
        assert!(found.eq(image.files(device).map(|placed| (placed.at, placed.file))));
    }
    let contents = nodes.iter().filter_map(|node| match node.kind {
        NodeKind::File { file, length } if length > 0 => Some((file, length)),
        _ => None,
    });
    assert_eq!(contents.collect::<std::collections::BTreeSet<_>>().len(), count);
}

#[test]
fn an_empty_folder_is_an_image_of_one_block() {
    let image = agrees(&[root()]);
    assert_eq!(
        (image.metadata().len(), image.primary_bytes(), image.big_bytes()),
        (4_096, 4_096, 0)
    );
    assert_eq!((image.files(Device::Primary).len(), image.files(Device::Big).len()), (0, 0));
}

#[test]
fn all_kinds_are_where_they_belong() {
    let long = vec![b'x'; 4_095];
    let nodes = [
        root(),
        folder(0, b"sub"),
        file(0, b"empty", 1, 0),
        file(1, b"one", 2, 1),
        file(1, b"block", 3, 4_096),
        file(1, b"below", 4, BIG_FILE_BYTES - 1),
        file(1, b"from", 5, BIG_FILE_BYTES),
        file(0, b"sparse", 6, 10 << 30),
        link(0, b"short", b"sub/one"),
        link(0, b"long", &long),
        link(1, b"fits", &long[..4_032]),
        link(1, b"fits not", &long[..4_033]),
        folder(1, &[0xff; 255]),
        file(1, b"new\nline", 2, 1),
    ];
    let image = agrees(&nodes);
    let big: Vec<_> = image.files(Device::Big).map(|it| (it.at, it.file.0)).collect();
    assert_eq!(big, [(0, 6), (10 << 30, 5)], "what stands above comes first");
    assert_eq!(image.big_bytes(), (10 << 30) + BIG_FILE_BYTES);
    let small: Vec<_> = image.files(Device::Primary).map(|it| (it.at, it.file.0)).collect();
    let first = BIG_FILE_BYTES;
    let next = first + BIG_FILE_BYTES;
    assert_eq!(small, [(first, 4), (next, 3), (next + 4_096, 2)], "a folder's files by name");
    assert_eq!(image.at(Device::Primary, 0), None);
}

#[test]
fn a_range_is_cut_into_pieces() {
    let nodes = [root(), file(0, b"a", 1, 5_000), file(0, b"b", 2, 10), file(0, b"c", 3, 4_096)];
    let image = agrees(&nodes);
    let first = BIG_FILE_BYTES;
    let pieces = |range: Range<u64>| -> Vec<_> {
        let range = first + range.start..first + range.end;
        let found = image.pieces(Device::Primary, range);
        found.map(|it| (it.at - first, it.file.0, it.within)).collect()
    };
    assert_eq!(pieces(0..4_096), [(0, 1, 0..4_096)]);
    assert_eq!(
        pieces(4_096..16_384),
        [(4_096, 1, 4_096..5_000), (8_192, 2, 0..10), (12_288, 3, 0..4_096)]
    );
    assert_eq!(pieces(5_000..8_192), []);
    assert_eq!(pieces(8_195..8_200), [(8_195, 2, 3..8)]);
    assert_eq!(pieces(8_300..12_289), [(12_288, 3, 0..1)]);
    assert_eq!(pieces(16_384..20_000), []);
    assert!(image.pieces(Device::Primary, 0..first).next().is_none());
    assert!(image.pieces(Device::Big, 0..u64::MAX).next().is_none());
}

#[test]
fn equal_content_lies_there_once_and_of_two_lengths_one_is_wrong() {
    let nodes = [
        root(),
        file(0, b"a", 1, 100),
        file(0, b"b", 1, 100),
        file(0, b"c", 1, 101),
        file(0, b"d", 2, BIG_FILE_BYTES),
        file(0, b"e", 2, BIG_FILE_BYTES),
    ];
    let image = agrees(&nodes);
    assert_eq!((image.files(Device::Primary).len(), image.files(Device::Big).len()), (2, 1));
}

#[test]
fn names_are_in_the_order_of_their_bytes_with_the_dots_among_them() {
    let mut nodes = vec![root()];
    for name in [&b"!x"[..], b"-", b".!", b"...", b".a", b"..a", b"\x80"] {
        nodes.push(file(0, name, 1, 1));
    }
    agrees(&nodes);
}

/// Roots whose last block is filled by every number of bytes near the limits.
#[test]
fn a_root_whose_rest_fits_not_behind_it_moves_on() {
    let mut places = std::collections::BTreeSet::new();
    for length in 1..=255 {
        for count in 9..16 {
            let mut nodes = vec![root()];
            for index in 0..count {
                nodes.push(file(0, &[b'a' + index; 255], 0, 0));
            }
            nodes.push(file(0, &vec![b'z'; length], 0, 0));
            places.insert(reader::root_at(&agrees(&nodes)));
        }
    }
    assert_eq!(places.into_iter().collect::<Vec<_>>(), [1_280, 4_096]);
}

#[test]
fn a_folder_may_have_many_entries() {
    let mut nodes = vec![root(), folder(0, b"many")];
    nodes.extend((0..20_000_u32).map(|index| file(1, format!("{index}").as_bytes(), 1, 1)));
    agrees(&nodes);
}

#[test]
fn a_hundred_thousand_files_take_little() {
    let mut nodes = vec![root()];
    for number in 0..1_000_u32 {
        let parent = nodes.len() as u32;
        nodes.push(folder(0, format!("folder-{number:04}").as_bytes()));
        for index in 0..100 {
            let name = format!("file-{index:03}.txt");
            let id = u128::from(number * 100 + index);
            nodes.push(file(parent, name.as_bytes(), id, 1_000));
        }
    }
    let image = image(&nodes);
    assert_eq!(image.files(Device::Primary).len(), 100_000);
    let metadata = image.metadata().len() / 100_000;
    let all = image.memory_bytes() / 100_000;
    assert!(metadata <= 110 && all <= 140, "{metadata} and {all} bytes for each file");
}

#[test]
fn what_is_no_tree_is_refused() {
    let refused = |nodes: &[Node]| build(nodes, OWNER, [0; 16]).unwrap_err();
    for nodes in [&[][..], &[file(0, b"", 1, 1)], &[link(0, b"", b"x")]] {
        assert_eq!(refused(nodes), ImageError::Root);
    }
    let bad_mode = Node { mode: 0o1777, ..file(0, b"a", 1, 1) };
    let bad_time = Node { mtime: (0, 1_000_000_000), ..file(0, b"a", 1, 1) };
    for node in [
        file(0, b"", 1, 1),
        file(0, b".", 1, 1),
        file(0, b"..", 1, 1),
        file(0, b"a/b", 1, 1),
        file(0, b"a\0", 1, 1),
        file(0, &[b'n'; 256], 1, 1),
        file(1, b"itself", 1, 1),
        folder(1, b"itself"),
        file(9, b"nowhere", 1, 1),
        link(0, b"a", b""),
        link(0, b"a", b"b\0"),
        link(0, b"a", &[b'x'; 4_096]),
        bad_mode,
        bad_time,
    ] {
        let said = refused(&[root(), node]).to_string();
        assert!(said.starts_with("the entry "), "{said}");
    }
    let inside_a_file = [root(), file(0, b"a", 1, 1), file(1, b"b", 1, 1)];
    assert!(refused(&inside_a_file).to_string().contains("stands in no folder"));
    let twice = [root(), file(0, b"a", 1, 1), folder(0, b"b"), link(0, b"a", b"b")];
    assert_eq!(refused(&twice).to_string(), "the entry \"a\" is there twice");
    let named = [folder(0, b"root")];
    assert!(refused(&named).to_string().contains("is no root"));
}

#[test]
fn what_is_too_large_is_refused() {
    let refused = |nodes: &[Node]| build(nodes, OWNER, [0; 16]).unwrap_err();
    for length in [u64::MAX, 1 << 44, (1 << 44) - BLOCK_BYTES] {
        assert_eq!(refused(&[root(), file(0, b"a", 1, length)]), ImageError::TooMuchContent);
    }
    let four_tib = proto::limits::FILE_BYTES;
    let mut nodes = vec![root()];
    for (index, id) in (b'a'..).zip(0..5) {
        nodes.push(file(0, &[index], id, four_tib));
    }
    assert_eq!(refused(&nodes), ImageError::TooMuchContent);
    nodes.pop();
    agrees(&nodes);
    let links = (0..70_000_u32).map(|it| link(0, format!("{it}").as_bytes(), &[b'x'; 4_095]));
    let nodes: Vec<Node> = std::iter::once(root()).chain(links).collect();
    assert_eq!(refused(&nodes), ImageError::TooMuchMetadata);
}

/// Anything, most of which is no tree.
fn any_node() -> impl Strategy<Value = Node> {
    let name = proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'.'), any::<u8>()], 0..4);
    let length = prop_oneof![0..10_000_u64, any::<u64>()];
    let kind = prop_oneof![
        Just(NodeKind::Folder),
        (0..4_u128, length).prop_map(|(id, length)| NodeKind::File { file: FileId(id), length }),
        proptest::collection::vec(any::<u8>(), 0..5_000)
            .prop_map(|target| NodeKind::Link { target }),
    ];
    (prop_oneof![0..8_u32, any::<u32>()], name, any::<u16>(), any::<(i64, u32)>(), kind)
        .prop_map(|(parent, name, mode, mtime, kind)| Node { parent, name, mode, mtime, kind })
}

/// Nodes that are a tree: what would not fit is put right.
fn any_tree() -> impl Strategy<Value = Vec<Node>> {
    proptest::collection::vec((any::<prop::sample::Index>(), any_node(), 0..300_usize), 0..60)
        .prop_map(|raw| {
            let mut nodes = vec![root()];
            for (parent, mut node, padding) in raw {
                let folders: Vec<u32> = nodes
                    .iter()
                    .zip(0..)
                    .filter(|(node, _)| node.kind == NodeKind::Folder)
                    .map(|(_, index)| index)
                    .collect();
                node.parent = folders[parent.index(folders.len())];
                node.mode &= 0o777;
                node.mtime.1 %= 1_000_000_000;
                node.name.retain(|byte| !matches!(byte, b'/' | 0));
                // So every name is another one, wherever it begins in the alphabet.
                node.name.extend_from_slice(nodes.len().to_string().as_bytes());
                node.name.resize((node.name.len() + padding).min(255), b'~');
                match &mut node.kind {
                    NodeKind::File { length, .. } => *length %= 1 << 36,
                    NodeKind::Link { target } => {
                        target.retain(|byte| *byte != 0);
                        target.truncate(4_095);
                        target.insert(0, b'x');
                        target.truncate(4_095);
                    }
                    NodeKind::Folder => {}
                }
                nodes.push(node);
            }
            nodes
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_the_tree_is_the_image_shows_it(nodes in any_tree()) {
        agrees(&nodes);
    }

    /// Noise is mostly refused at once, a tree with one wrong node only where that is.
    #[test]
    fn no_list_of_nodes_does_harm(
        noise in proptest::collection::vec(any_node(), 0..20),
        mut nodes in any_tree(),
        at in any::<prop::sample::Index>(),
    ) {
        drop(build(&noise, OWNER, [0; 16]));
        if let Some(wrong) = noise.first() {
            let at = at.index(nodes.len());
            nodes[at] = wrong.clone();
        }
        if let Ok(image) = build(&nodes, OWNER, [0; 16]) {
            prop_assert_eq!(walk(&image, nodes.len()), expected(&nodes, &image));
        }
    }
}
