//! Transfers while the ring changes: older versions that are not drained, blocks that move, nodes
//! that lag behind or are reached elsewhere.

use proto::ids::NodeId;
use proto::limits::BLOCK_BYTES;
use proto::status::{BlockKind, ErrorCode};
use proto::time::Duration;

use super::super::{PutTerms, Transfer, TransferError};
use super::cluster::{Cluster, Mood, id};
use super::{block_of, bytes, places};

fn ids(numbers: &[u128]) -> Vec<NodeId> {
    numbers.iter().copied().map(id).collect()
}

/// Lays a block down on one node, as whoever stored it long ago.
fn lay(cluster: &mut Cluster, number: u128, content: &[u8]) -> proto::ids::FileId {
    let block = block_of(content);
    cluster.node(number).blocks.insert(block, (BlockKind::Content, content.to_vec()));
    proto::ids::FileId(block.0)
}

#[test]
fn a_block_that_moves_between_the_looks_is_found() {
    let mut cluster = Cluster::new(4, 2);
    let content = bytes(500, 1);
    let places = places(&cluster, &content);
    let file = lay(&mut cluster, places[3], &content);
    let get = cluster.get(file, 0..u64::MAX);
    // Its owners have said that they do not have it; then the last candidate hands it back.
    while places[..2].iter().any(|owner| cluster.nodes[&id(*owner)].gets == 0) {
        assert!(cluster.step());
    }
    cluster.node(places[3]).blocks.clear();
    lay(&mut cluster, places[0], &content);
    let time = cluster.run();
    assert_eq!(cluster.content(get), content);
    assert!(time < Duration::from_millis(10), "{time}");
}

#[test]
fn a_second_look_without_an_answer_is_no_certainty() {
    let mut cluster = Cluster::new(4, 2);
    let content = bytes(500, 2);
    let places = places(&cluster, &content);
    let file = proto::ids::FileId(block_of(&content).0);
    cluster.transfer.set_give_up_after(Duration::from_secs(3));
    let get = cluster.get(file, 0..u64::MAX);
    while cluster.nodes[&id(places[3])].gets == 0 {
        assert!(cluster.step());
    }
    cluster.node(places[0]).mood = Mood::Silent;
    cluster.run();
    let result = &cluster.fetched[&get];
    assert!(matches!(result, Err(TransferError::Unavailable { .. })), "{result:?}");
}

#[test]
fn blocks_are_read_while_two_older_versions_are_not_drained() {
    let mut cluster = Cluster::new(9, 1);
    cluster.members = ids(&[7, 8, 9]);
    cluster.version = 3;
    for node in cluster.nodes.values_mut() {
        node.ring_version = 3;
    }
    cluster.older = vec![(2, ids(&[4, 5, 6]), true), (1, ids(&[1, 2, 3]), true)];
    // Whichever node of whichever version has it: an owner, or who stood in for it.
    for number in 1..=9 {
        let content = bytes(300, number as u8);
        let file = lay(&mut cluster, number, &content);
        let get = cluster.get(file, 0..u64::MAX);
        cluster.run();
        assert_eq!(cluster.content(get), content, "on node {number}");
    }
    // Only registers go by the oldest one now: nobody looks there, and nobody waits for it.
    cluster.transfer = Transfer::new(1000..2000);
    cluster.fetched.clear();
    cluster.older[1].2 = false;
    cluster.node(1).mood = Mood::Silent;
    let asked: Vec<u32> = (1..=3).map(|number| cluster.nodes[&id(number)].gets).collect();
    let absent = block_of(b"never stored");
    let get = cluster.get(proto::ids::FileId(absent.0), 0..u64::MAX);
    cluster.run();
    assert_eq!(cluster.fetched[&get], Err(TransferError::NotFound { block: absent }));
    assert_eq!(asked, (1..=3).map(|it| cluster.nodes[&id(it)].gets).collect::<Vec<_>>());
}

#[test]
fn an_older_version_that_does_not_answer_leaves_it_open_whether_a_block_is_there() {
    let mut cluster = Cluster::new(4, 1);
    cluster.members = ids(&[3, 4]);
    cluster.older = vec![(0, ids(&[1, 2]), true)];
    cluster.node(1).mood = Mood::Silent;
    cluster.transfer.set_give_up_after(Duration::from_secs(3));
    let get = cluster.get(proto::ids::FileId(block_of(b"never stored").0), 0..u64::MAX);
    cluster.run();
    let result = &cluster.fetched[&get];
    assert!(matches!(result, Err(TransferError::Unavailable { .. })), "{result:?}");
}

#[test]
fn a_ring_that_changes_in_the_middle_of_a_put_loses_nothing_and_sends_nothing_twice() {
    let mut cluster = Cluster::new(5, 2);
    cluster.members.truncate(3);
    let content: Vec<u8> = (0..40 * BLOCK_BYTES).map(|at| (at / BLOCK_BYTES) as u8).collect();
    let (file, put) = cluster.put(&content);
    while cluster.nodes.values().map(|node| node.taken.len()).sum::<usize>() < 20 {
        assert!(cluster.step());
    }
    let before = cluster.ring().ring;
    cluster.older = vec![(1, cluster.members.clone(), true)];
    cluster.next_ring(ids(&[1, 2, 3, 4, 5]));
    let time = cluster.run();
    let report = cluster.stored[&put].clone().unwrap();
    assert_eq!((report.block_count, report.replica_count), (41, 2));
    assert!(time < Duration::from_millis(20), "a refusal is not a death: {time}");
    assert_eq!(cluster.ring_fetches, 2, "late refusals of the older version ask for no other");
    for node in cluster.nodes.values() {
        assert!(node.taken.values().all(|times| *times == 1), "{:?}", node.taken);
    }
    // What was stored before the change lies where it belonged then, all else where it belongs now.
    let after = cluster.ring().ring;
    let plan = crate::logic::files::FilePlanner::plan(&content).unwrap();
    let (mut early, mut late) = (0, 0);
    for block in plan.blocks.iter().map(|it| it.block) {
        let has = |owner: &NodeId| cluster.nodes[owner].blocks.contains_key(&block);
        let is_late = after.owners(block, 2).iter().all(has);
        assert!(is_late || before.owners(block, 2).iter().all(has));
        late += u32::from(is_late);
        early += u32::from(!is_late);
    }
    assert!(early > 2 && late > 10, "{early} before, {late} after");
    let get = cluster.get(file, 0..u64::MAX);
    cluster.run();
    assert!(cluster.content(get) == content);
}

#[test]
fn a_node_that_does_not_know_the_newest_ring_yet_is_waited_for() {
    let mut cluster = Cluster::new(4, 2);
    cluster.version = 2;
    for number in 1..=3 {
        cluster.node(number).ring_version = 2;
    }
    let puts: Vec<_> = (0..50).map(|seed| cluster.put(&bytes(200, seed))).collect();
    let began = cluster.now;
    while cluster.now < began + Duration::from_millis(200) {
        assert!(cluster.step(), "node 4 was not waited for");
    }
    cluster.node(4).ring_version = 2;
    let time = cluster.run();
    assert!(time < Duration::from_millis(300), "{time}");
    assert!(puts.iter().all(|(_, put)| cluster.stored[put].is_ok()));
    assert!(cluster.nodes.values().all(|node| node.hand_offs.is_empty()));
    assert!(!cluster.node(4).blocks.is_empty());
}

#[test]
fn a_node_that_is_cut_off_from_the_masters_is_replaced() {
    let mut cluster = Cluster::new(4, 2);
    let content = bytes(700, 3);
    let places = places(&cluster, &content);
    cluster.node(places[0]).mood = Mood::Refuses(ErrorCode::Unavailable);
    let (file, put) = cluster.put(&content);
    let time = cluster.run();
    assert!(cluster.stored[&put].is_ok());
    assert!(time > Duration::from_millis(900) && time < Duration::from_secs(2), "{time}");
    let hand_off = cluster.node(places[2]).hand_offs.get(&block_of(&content)).copied();
    assert_eq!(hand_off, Some(id(places[0])));
    // It is known by now: what follows does not wait for it, and reads have not waited at all.
    let (_, put) = cluster.put(&bytes(700, 4));
    let get = cluster.get(file, 0..u64::MAX);
    let time = cluster.run();
    assert!(cluster.stored[&put].is_ok());
    assert_eq!(cluster.content(get), content);
    assert!(time < Duration::from_millis(100), "{time}");
}

#[test]
fn nodes_are_followed_to_other_addresses_without_a_newer_ring() {
    let mut cluster = Cluster::new(2, 2);
    let content = bytes(2 * BLOCK_BYTES, 5);
    let (file, put) = cluster.put(&content);
    cluster.run();
    assert!(cluster.stored[&put].is_ok());
    cluster.move_node(1);
    cluster.move_node(2);
    let get = cluster.get(file, 0..u64::MAX);
    let (_, put) = cluster.put(&bytes(300, 6));
    let time = cluster.run();
    assert_eq!(cluster.content(get), content);
    assert!(cluster.stored[&put].is_ok());
    assert_eq!(cluster.transfer.ring().version().0, 1);
    assert!(time < Duration::from_secs(8), "{time}");
    // One that counts as dead is reached as soon as it is known where it is.
    cluster.node(1).mood = Mood::Silent;
    let (_, put) = cluster.put(&bytes(300, 7));
    let began = cluster.now;
    while cluster.now < began + Duration::from_secs(4) {
        assert!(cluster.step());
    }
    cluster.node(1).mood = Mood::Well;
    cluster.move_node(1);
    let time = cluster.run();
    assert!(cluster.stored[&put].is_ok());
    assert!(time < Duration::from_secs(4), "{time}");
}

#[test]
fn a_file_gets_as_many_replicas_as_it_asks_for_or_as_there_are_nodes() {
    let mut cluster = Cluster::new(4, 2);
    for (asked, stored) in [(0, 2), (1, 1), (3, 3), (4, 4), (5, 4)] {
        let content = bytes(900, 10 + asked);
        let terms = PutTerms { replica_count: asked, ..PutTerms::default() };
        let (_, put) = cluster.put_with(&content, terms);
        cluster.run();
        let report = cluster.stored[&put].clone().unwrap();
        let block = block_of(&content);
        assert_eq!((report.replica_count, cluster.replicas_of(block)), (stored, stored));
        let told = |node: &super::cluster::FakeNode| node.wanted.get(&block).copied();
        let told: Vec<u8> = cluster.nodes.values().filter_map(told).collect();
        assert!(told.len() == stored && told.iter().all(|it| *it == asked), "{told:?}");
    }
    // What is there already is asked for more.
    let terms = PutTerms { replica_count: 3, ..PutTerms::default() };
    let (_, put) = cluster.put_with(&bytes(900, 10), terms);
    cluster.run();
    let report = cluster.stored[&put].clone().unwrap();
    assert_eq!((report.sent_bytes, report.replica_count), (900, 3));
}
