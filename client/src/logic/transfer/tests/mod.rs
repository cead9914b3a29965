//! Transfers against storage nodes that die, refuse, lie, fill up and learn new rings.

mod cluster;
mod rings;

use proto::digest::Digest;
use proto::ids::{BlockId, NodeId};
use proto::limits::BLOCK_BYTES;
use proto::status::{BlockKind, ErrorCode};
use proto::time::Duration;

use super::{PutReport, TransferError};
use cluster::{Cluster, Mood, id};

fn bytes(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at / 7) as u8 ^ (at >> 13) as u8 ^ seed).collect()
}

fn block_of(content: &[u8]) -> BlockId {
    Digest::of(BlockKind::Content, content).block_id()
}

/// Owners of a file of one block, in order, then the candidates.
fn places(cluster: &Cluster, content: &[u8]) -> Vec<u128> {
    let ring = cluster.ring();
    let partition = ring.ring.partition_of(block_of(content));
    let placement = ring.ring.placement(partition, cluster.replicas);
    placement.owners.iter().chain(&placement.candidates).map(|node| node.0).collect()
}

#[test]
fn a_file_is_stored_on_its_owners_and_read_back() {
    for length in [0, 1, 4096, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 5] {
        let mut cluster = Cluster::new(4, 2);
        let content = bytes(length, 1);
        let (file, put) = cluster.put(&content);
        cluster.run();
        let report = cluster.stored[&put].clone().unwrap();
        let blocks = length.div_ceil(BLOCK_BYTES).max(1);
        let manifest = if blocks > 1 { 24 + 32 * blocks } else { 0 };
        assert_eq!(report.block_count, (blocks + usize::from(blocks > 1)) as u64);
        assert_eq!(report.sent_bytes, 2 * (length + manifest) as u64);
        assert_eq!(report.present_count, 0);
        if blocks == 1 {
            let owners = &places(&cluster, &content)[..2];
            for owner in owners {
                assert!(cluster.node(*owner).blocks.contains_key(&block_of(&content)));
            }
            assert_eq!(cluster.replicas_of(block_of(&content)), 2);
        }
        let get = cluster.get(file, 0..u64::MAX);
        cluster.run();
        assert_eq!(cluster.content(get), content, "{length} bytes");
        // A second time nothing is sent.
        let (_, again) = cluster.put(&content);
        cluster.run();
        let report = cluster.stored[&again].clone().unwrap();
        assert_eq!((report.present_count, report.sent_bytes), (report.block_count, 0));
    }
}

#[test]
fn ranges_of_a_large_file_fetch_only_their_blocks() {
    let mut cluster = Cluster::new(3, 2);
    let content = bytes(4 * BLOCK_BYTES + 100, 2);
    let (file, _) = cluster.put(&content);
    cluster.run();
    let block = BLOCK_BYTES as u64;
    let length = content.len() as u64;
    for (range, blocks) in [
        (0..1, 1),
        (block - 1..block + 1, 2),
        (block..2 * block, 1),
        (4 * block + 10..4 * block + 20, 1),
        (4 * block + 50..u64::MAX, 1),
        (length..u64::MAX, 0),
        (length + 5..length + 9, 0),
        (5..5, 0),
    ] {
        let before: u32 = cluster.nodes.values().map(|node| node.gets).sum();
        let get = cluster.get(file, range.clone());
        cluster.run();
        let end = range.end.min(length).max(range.start.min(length));
        let wanted = &content[range.start.min(length) as usize..end as usize];
        assert_eq!(cluster.content(get), wanted, "{range:?}");
        let after: u32 = cluster.nodes.values().map(|node| node.gets).sum();
        assert_eq!(after - before, blocks + 1, "{range:?}: its blocks and the manifest");
    }
}

#[test]
fn equal_blocks_of_a_file_are_sent_once() {
    let mut cluster = Cluster::new(3, 2);
    let mut content = vec![0; 6 * BLOCK_BYTES];
    content[4 * BLOCK_BYTES + 3] = 1;
    let (file, put) = cluster.put(&content);
    cluster.run();
    let report = cluster.stored[&put].clone().unwrap();
    // Zeros, the one that is not, and the manifest.
    assert_eq!((report.block_count, report.present_count), (7, 4));
    let manifest = (24 + 6 * 32) as u64;
    assert_eq!(report.sent_bytes, 2 * (2 * BLOCK_BYTES as u64 + manifest));
    let get = cluster.get(file, 0..u64::MAX);
    cluster.run();
    assert!(cluster.content(get) == content);
}

#[test]
fn many_small_files_share_their_round_trips() {
    let mut cluster = Cluster::new(3, 2);
    let puts: Vec<_> = (0..10_000u32)
        .map(|at| cluster.put(&[&at.to_le_bytes()[..], &[7; 4092]].concat()))
        .collect();
    let time = cluster.run();
    assert!(puts.iter().all(|(_, put)| cluster.stored[put].is_ok()));
    let queries: u32 = cluster.nodes.values().map(|node| node.queries).sum();
    // One round trip each would be 10,000 times 0.4 ms.
    assert!(time < Duration::from_millis(20), "{time}");
    assert!(queries < 60, "{queries} questions");
    let files: Vec<_> = puts.iter().map(|(file, _)| cluster.get(*file, 0..u64::MAX)).collect();
    let time = cluster.run();
    assert!(time < Duration::from_millis(100), "{time}");
    assert!(files.iter().all(|get| cluster.fetched[get] == Ok(4096)));
}

#[test]
fn a_dead_owners_place_is_taken_by_the_next() {
    let mut cluster = Cluster::new(5, 2);
    let content = bytes(1000, 3);
    let places = places(&cluster, &content);
    cluster.node(places[1]).mood = Mood::Silent;
    let (file, put) = cluster.put(&content);
    let time = cluster.run();
    assert!(cluster.stored[&put].is_ok());
    assert!(time < Duration::from_secs(4), "{time}");
    let block = block_of(&content);
    assert_eq!(cluster.node(places[2]).hand_offs.get(&block), Some(&id(places[1])));
    assert_eq!(cluster.replicas_of(block), 2);
    // It is known to be dead: what follows does not wait for it.
    let other = bytes(1000, 4);
    let (_, put) = cluster.put(&other);
    let time = cluster.run();
    assert!(cluster.stored[&put].is_ok());
    assert!(time < Duration::from_millis(10), "{time}");
    // The first owner dies too: the candidate has the block.
    cluster.node(places[0]).mood = Mood::Silent;
    let get = cluster.get(file, 0..u64::MAX);
    let time = cluster.run();
    assert_eq!(cluster.content(get), content);
    assert!(time <= Duration::from_millis(1_100), "{time}");
}

#[test]
fn many_files_go_past_a_frozen_node() {
    let mut cluster = Cluster::new(3, 2);
    cluster.node(2).mood = Mood::Silent;
    let puts: Vec<_> = (0..2_000u32).map(|at| cluster.put(&at.to_le_bytes())).collect();
    let time = cluster.run();
    assert!(time < Duration::from_secs(5), "{time}");
    assert!(puts.iter().all(|(_, put)| cluster.stored[put].is_ok()));
    let gets: Vec<_> = puts.iter().map(|(file, _)| cluster.get(*file, 0..u64::MAX)).collect();
    let time = cluster.run();
    assert!(time < Duration::from_secs(3), "{time}");
    assert!(gets.iter().all(|get| cluster.fetched[get] == Ok(4)));
}

#[test]
fn a_node_that_dies_while_blocks_are_on_their_way_is_replaced() {
    let mut cluster = Cluster::new(4, 2);
    let content = bytes(3 * BLOCK_BYTES, 5);
    let (file, put) = cluster.put(&content);
    // The questions are answered; then one node falls silent.
    while cluster.nodes.values().all(|node| node.puts == 0) {
        assert!(cluster.step());
    }
    cluster.node(2).mood = Mood::Silent;
    cluster.run();
    assert!(cluster.stored[&put].is_ok());
    let get = cluster.get(file, 0..u64::MAX);
    cluster.run();
    assert_eq!(cluster.content(get), content);
}

#[test]
fn a_restarted_node_is_asked_again_at_once() {
    let mut cluster = Cluster::new(2, 2);
    let content = bytes(2 * BLOCK_BYTES, 6);
    let (file, put) = cluster.put(&content);
    while cluster.nodes.values().all(|node| node.puts == 0) {
        assert!(cluster.step());
    }
    cluster.restart(1);
    let time = cluster.run();
    assert!(cluster.stored[&put].is_ok());
    assert!(time < Duration::from_millis(100), "{time}");
    let get = cluster.get(file, 0..u64::MAX);
    while cluster.nodes.values().all(|node| node.gets == 0) {
        assert!(cluster.step());
    }
    cluster.restart(1);
    cluster.restart(2);
    let time = cluster.run();
    assert_eq!(cluster.content(get), content);
    assert!(time < Duration::from_millis(100), "{time}");
}

#[test]
fn too_few_nodes_are_an_error_and_never_a_success() {
    let mut cluster = Cluster::new(3, 2);
    for node in [1, 2] {
        cluster.node(node).mood = Mood::Silent;
    }
    let (_, put) = cluster.put(b"lonely");
    let time = cluster.run();
    assert!(matches!(cluster.stored[&put], Err(TransferError::Unavailable { .. })));
    assert!(time >= super::GIVE_UP_AFTER && time < Duration::from_secs(45), "{time}");
    // They come back: it goes on by itself.
    let (_, put) = cluster.put(b"patient");
    for _ in 0..50 {
        cluster.step();
    }
    cluster.node(1).mood = Mood::Well;
    cluster.node(2).mood = Mood::Well;
    cluster.run();
    assert!(cluster.stored[&put].is_ok());
}

#[test]
fn a_ring_with_fewer_nodes_than_replicas_stores_nothing() {
    let mut cluster = Cluster::new(1, 2);
    let (_, put) = cluster.put(b"x");
    cluster.run();
    let Err(TransferError::Unavailable { why, .. }) = &cluster.stored[&put] else {
        panic!("stored on one node");
    };
    assert!(why.contains("1 storage nodes where 2 replicas"), "{why}");
}

#[test]
fn full_disks_are_passed_over_and_in_the_end_told() {
    let mut cluster = Cluster::new(5, 2);
    let content = bytes(5000, 7);
    let places = places(&cluster, &content);
    cluster.node(places[0]).mood = Mood::Refuses(ErrorCode::DiskFull);
    let (_, put) = cluster.put(&content);
    let time = cluster.run();
    assert!(cluster.stored[&put].is_ok());
    assert!(time < Duration::from_millis(10), "{time}");
    for node in 1..=5 {
        cluster.node(node).mood = Mood::Refuses(ErrorCode::DiskFull);
    }
    let (_, put) = cluster.put(b"no room");
    cluster.run();
    let block = block_of(b"no room");
    assert_eq!(cluster.stored[&put], Err(TransferError::DiskFull { block }));
}

#[test]
fn busy_nodes_are_waited_for() {
    let mut cluster = Cluster::new(2, 2);
    for node in [1, 2] {
        cluster.node(node).mood = Mood::Busy(3);
    }
    let content = bytes(100, 8);
    let (file, put) = cluster.put(&content);
    let time = cluster.run();
    assert!(cluster.stored[&put].is_ok());
    assert!(time >= Duration::from_millis(60) && time < Duration::from_millis(100), "{time}");
    cluster.node(1).mood = Mood::Busy(2);
    cluster.node(2).mood = Mood::Busy(2);
    let get = cluster.get(file, 0..u64::MAX);
    cluster.run();
    assert_eq!(cluster.content(get), content);
}

#[test]
fn a_time_of_patience_that_was_slept_through_is_over() {
    let mut cluster = Cluster::new(2, 2);
    for node in [1, 2] {
        cluster.node(node).mood = Mood::Busy(1);
    }
    let (_, put) = cluster.put(b"x");
    while cluster.nodes.values().any(|node| node.mood != Mood::Busy(0)) {
        assert!(cluster.step());
    }
    assert!(cluster.step() && cluster.step());
    // The loop was kept from running: what is due is due now, not never.
    cluster.now += Duration::from_secs(1);
    assert_eq!(cluster.transfer.next_deadline(cluster.now), Some(cluster.now));
    cluster.run();
    assert!(cluster.stored[&put].is_ok());
}

#[test]
fn nodes_that_stay_busy_and_masters_that_stay_silent_are_given_up() {
    let mut cluster = Cluster::new(2, 2);
    let (file, put) = cluster.put(b"x");
    cluster.run();
    assert!(cluster.stored[&put].is_ok());
    for node in [1, 2] {
        cluster.node(node).mood = Mood::Busy(u32::MAX);
    }
    let (_, put) = cluster.put(b"y");
    let get = cluster.get(file, 0..u64::MAX);
    let time = cluster.run();
    assert!(matches!(cluster.stored[&put], Err(TransferError::Unavailable { .. })));
    assert!(matches!(cluster.fetched[&get], Err(TransferError::Unavailable { .. })));
    assert!(time < Duration::from_secs(40), "{time}");
    let mut cluster = Cluster::new(2, 2);
    cluster.masters_are_silent = true;
    let (file, put) = cluster.put(b"x");
    let get = cluster.get(file, 0..u64::MAX);
    let time = cluster.run();
    assert!(matches!(cluster.stored[&put], Err(TransferError::Unavailable { .. })));
    assert!(matches!(cluster.fetched[&get], Err(TransferError::Unavailable { .. })));
    assert!(time < Duration::from_secs(40), "{time}");
}

#[test]
fn final_refusals_end_a_put_with_their_code() {
    for (code, is_expected) in [
        (ErrorCode::PinLapsed, (|it| matches!(it, TransferError::PinLapsed)) as fn(&_) -> bool),
        (ErrorCode::WrongDigest, |it| matches!(it, TransferError::SourceChanged { .. })),
        (ErrorCode::NotAllowed, |it| {
            matches!(it, TransferError::Refused { code: ErrorCode::NotAllowed, .. })
        }),
    ] {
        let mut cluster = Cluster::new(2, 2);
        cluster.node(1).mood = Mood::Refuses(code);
        let (_, put) = cluster.put(b"x");
        cluster.run();
        let error = cluster.stored[&put].clone().unwrap_err();
        assert!(is_expected(&error), "{code}: {error}");
    }
}

#[test]
fn a_newer_ring_is_fetched_and_gone_by() {
    let mut cluster = Cluster::new(6, 2);
    cluster.members.truncate(3);
    let old: Vec<Vec<u8>> = (0..40).map(|at| bytes(200, at)).collect();
    let puts: Vec<_> = old.iter().map(|content| cluster.put(content)).collect();
    cluster.run();
    assert_eq!(cluster.ring_fetches, 1);
    assert!(puts.iter().all(|(_, put)| cluster.stored[put].is_ok()));
    cluster.next_ring((1..=6).map(id).collect());
    let new: Vec<Vec<u8>> = (100..140).map(|at| bytes(200, at)).collect();
    let puts: Vec<_> = new.iter().map(|content| cluster.put(content)).collect();
    let time = cluster.run();
    assert!(time < Duration::from_millis(20), "a refusal is not a death: {time}");
    assert!(cluster.ring_fetches <= 3, "{} fetches", cluster.ring_fetches);
    for (content, (_, put)) in new.iter().zip(&puts) {
        assert!(cluster.stored[put].is_ok());
        for owner in &places(&cluster, content)[..2] {
            assert!(cluster.node(*owner).blocks.contains_key(&block_of(content)));
        }
    }
    // Reading what is refused under the old ring leads to the new one, too.
    cluster.next_ring((1..=5).map(id).collect());
    let (file, _) = puts[0];
    let get = cluster.get(file, 0..u64::MAX);
    cluster.run();
    assert!(cluster.fetched.contains_key(&get));
    assert_eq!(cluster.transfer.ring().version().0, 3);
}

#[test]
fn reads_pass_over_silent_damaged_and_empty_nodes() {
    let mut cluster = Cluster::new(5, 3);
    let content = bytes(BLOCK_BYTES, 9);
    let (file, _) = cluster.put(&content);
    cluster.run();
    let places = places(&cluster, &content);
    cluster.node(places[0]).mood = Mood::Damaged;
    cluster.node(places[1]).blocks.clear();
    let get = cluster.get(file, 0..u64::MAX);
    let time = cluster.run();
    assert_eq!(cluster.content(get), content);
    assert!(time < Duration::from_millis(10), "{time}");
    cluster.node(places[0]).mood = Mood::Silent;
    let get = cluster.get(file, 0..u64::MAX);
    let time = cluster.run();
    assert_eq!(cluster.content(get), content);
    assert!(time < Duration::from_millis(600), "{time}");
}

#[test]
fn not_found_needs_the_answers_of_all_candidates() {
    let mut cluster = Cluster::new(4, 2);
    let block = block_of(b"never stored");
    let file = proto::ids::FileId(block.0);
    let get = cluster.get(file, 0..u64::MAX);
    cluster.run();
    assert_eq!(cluster.fetched[&get], Err(TransferError::NotFound { block }));
    let asked: u32 = cluster.nodes.values().map(|node| node.gets).sum();
    assert_eq!(asked, 4 + 2, "the owners are asked once more");
    let places = places(&cluster, b"never stored");
    cluster.node(places[3]).mood = Mood::Silent;
    cluster.transfer.set_give_up_after(Duration::from_secs(5));
    let get = cluster.get(file, 0..u64::MAX);
    cluster.run();
    assert!(matches!(cluster.fetched[&get], Err(TransferError::Unavailable { .. })));
}

#[test]
fn wrong_bytes_everywhere_are_never_handed_over() {
    let mut cluster = Cluster::new(2, 2);
    let content = bytes(2 * BLOCK_BYTES, 10);
    let (file, _) = cluster.put(&content);
    cluster.run();
    for node in [1, 2] {
        cluster.node(node).mood = Mood::Damaged;
    }
    cluster.transfer.set_give_up_after(Duration::from_secs(2));
    let get = cluster.get(file, 0..u64::MAX);
    cluster.run();
    let Err(TransferError::Unavailable { why, .. }) = &cluster.fetched[&get] else {
        panic!("wrong bytes were taken");
    };
    assert!(why.contains("wrong bytes"), "{why}");
    assert!(!cluster.pieces.contains_key(&get));
}

#[test]
fn a_slow_reader_slows_the_network_down() {
    let mut cluster = Cluster::new(3, 1);
    let content = bytes(40 * BLOCK_BYTES, 11);
    let (file, _) = cluster.put(&content);
    cluster.run();
    cluster.uses_up = false;
    let get = cluster.get(file, 0..u64::MAX);
    while cluster.step() {}
    let handed_over = cluster.pieces[&get].len();
    assert_eq!(handed_over, 8, "a window of blocks");
    assert!(!cluster.transfer.is_idle());
    cluster.uses_up = true;
    let used = 8 * BLOCK_BYTES as u64;
    let mut effects: Vec<node::logic::network::NetworkEffect> = Vec::new();
    cluster.transfer.consumed(cluster.now, get, used, &mut effects);
    assert!(!effects.is_empty(), "more is asked for");
    cluster.transfer.cancel_get(get);
    assert!(cluster.transfer.is_idle());
}

#[test]
fn nothing_to_store_is_stored_at_once() {
    let mut cluster = Cluster::new(1, 1);
    let mut effects: Vec<node::logic::network::NetworkEffect> = Vec::new();
    let terms = super::PutTerms::default();
    let put = cluster.transfer.put(cluster.now, Vec::new(), terms, &mut effects).unwrap();
    cluster.run();
    assert_eq!(cluster.stored[&put], Ok(PutReport::default()));
}

#[test]
fn cancelled_transfers_leave_nothing_behind() {
    let mut cluster = Cluster::new(3, 2);
    let (_, put) = cluster.put(&bytes(9 * BLOCK_BYTES, 12));
    for _ in 0..20 {
        cluster.step();
    }
    cluster.transfer.cancel_put(put);
    cluster.transfer.check_invariants();
    assert!(cluster.transfer.is_idle());
    let (_, put) = cluster.put(b"after it");
    cluster.run();
    assert!(cluster.stored[&put].is_ok());
}

#[test]
fn under_all_kinds_of_trouble_what_is_stored_is_stored() {
    let (mut stored, mut failed) = (0, 0);
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let replicas = random.usize(1..=3);
        let nodes = replicas as u128 + random.u128(0..=4);
        let mut cluster = Cluster::new(nodes, replicas);
        cluster.transfer.set_give_up_after(Duration::from_secs(8));
        let contents: Vec<Vec<u8>> =
            (0..30).map(|at| bytes(random.usize(0..3000), at ^ seed as u8)).collect();
        let puts: Vec<_> = contents.iter().map(|content| cluster.put(content)).collect();
        for _ in 0..random.usize(0..400) {
            if !cluster.step() {
                break;
            }
            let number = random.u128(1..=nodes);
            match random.u32(0..60) {
                0 => cluster.node(number).mood = Mood::Silent,
                1 => cluster.node(number).mood = Mood::Busy(2),
                2 => cluster.node(number).mood = Mood::Refuses(ErrorCode::DiskFull),
                3 => cluster.node(number).mood = Mood::Refuses(ErrorCode::Unavailable),
                4 => cluster.restart(number),
                5 => {
                    let all: Vec<NodeId> = (1..=nodes).map(id).collect();
                    cluster.next_ring(all);
                }
                6..=12 => cluster.node(number).mood = Mood::Well,
                _ => {}
            }
        }
        cluster.run();
        for (content, (_, put)) in contents.iter().zip(&puts) {
            match &cluster.stored[put] {
                Ok(_) => {
                    stored += 1;
                    assert!(cluster.replicas_of(block_of(content)) >= replicas, "seed {seed}");
                }
                Err(_) => failed += 1,
            }
        }
        // All are well again: whatever was acknowledged can be read.
        for node in 1..=nodes {
            cluster.node(node).mood = Mood::Well;
        }
        let acknowledged = contents.iter().zip(&puts);
        let acknowledged = acknowledged.filter(|(_, (_, put))| cluster.stored[put].is_ok());
        let acknowledged: Vec<_> =
            acknowledged.map(|(it, (file, _))| (it.clone(), *file)).collect();
        for (content, file) in acknowledged {
            let get = cluster.get(file, 0..u64::MAX);
            cluster.run();
            assert_eq!(cluster.content(get), content, "seed {seed}");
        }
    }
    assert!(stored > 1000 && failed > 10, "{stored} stored, {failed} failed");
}
