//! Stories of a ring that changes: what moves, what is deleted, what a death does to it, and what
//! keeps a node from taking blocks on.

use std::collections::BTreeSet;

use proto::digest::Digest;
use proto::ids::{BlockId, FileId, RequestId, StoreId};
use proto::messages::file::{BlockPresence, BlockPut, BlockQuery, BlockStored, FileRequest};
use proto::record::{Message, encode, set_request_id};
use proto::status::{BlockKind, ErrorCode};
use proto::time::Duration;
use proto::wire::bytes_of;
use storage::logic::{StorageLimits, Upkeep};

use crate::world::{CLIENT, Node, World, bytes, put_record};

const SMALL: usize = 2_000;

fn members(range: std::ops::Range<usize>) -> Vec<(usize, u32)> {
    range.map(|at| (at, 100)).collect()
}

/// A world in which the first nodes are members, the others wait.
fn world(count: usize, member_count: usize) -> World {
    World::with_members(count, members(0..member_count), StorageLimits::default())
}

fn fill(world: &mut World, count: u64, length: usize) -> Vec<BlockId> {
    let put = |seed| world.put_replicas(BlockKind::Content, &bytes(length, seed));
    (0..count).map(put).collect()
}

/// Every block lies with its owners and nowhere else.
fn assert_in_place(world: &World, blocks: &[BlockId]) {
    for &block in blocks {
        let mut owners = world.owners(block);
        owners.sort_unstable();
        assert_eq!(world.holders(block), owners, "block {block}");
    }
}

#[test]
fn a_join_moves_what_it_must_and_nothing_else() {
    let mut world = world(4, 3);
    let blocks = fill(&mut world, 200, SMALL);
    let before: Vec<Vec<usize>> = blocks.iter().map(|&block| world.holders(block)).collect();
    world.announce(&members(0..4));
    world.drain();
    assert_in_place(&world, &blocks);
    let mut wanted = BTreeSet::new();
    for (&block, before) in blocks.iter().zip(before) {
        let new = world.owners(block).into_iter().filter(|at| !before.contains(at));
        wanted.extend(new.map(|at| (at, block)));
    }
    // Two owners offered each of them, one sent it.
    let moved: BTreeSet<_> = world.moved.iter().map(|&(_, to, block)| (to, block)).collect();
    assert_eq!(moved, wanted);
    assert_eq!(world.moved.len(), wanted.len());
    assert!((60..140).contains(&wanted.len()), "half of the blocks: {}", wanted.len());
    let told: u64 = world.reports.values().map(|it| it.moved_count).sum();
    assert_eq!(told, wanted.len() as u64);
    world.assert_idle();
}

#[test]
fn a_drain_ends_with_an_empty_node() {
    let mut world = world(4, 4);
    let blocks = fill(&mut world, 100, SMALL);
    world.announce(&[(0, 0), (1, 100), (2, 100), (3, 100)]);
    world.drain();
    world.pass(Duration::from_secs(3));
    assert_eq!(world.nodes[0].block_count(), 0);
    assert_in_place(&world, &blocks);
    assert_eq!({ world.reports[&0].foreign_count }, 0);
}

#[test]
fn two_nodes_alone_agree_that_nothing_is_to_be_done() {
    let mut world = world(2, 2);
    let blocks = fill(&mut world, 20, SMALL);
    world.announce(&members(0..2));
    world.drain();
    assert_in_place(&world, &blocks);
    assert!(world.moved.is_empty());
}

#[test]
fn a_put_under_an_older_version_does_not_slip_in_behind_the_scan() {
    let mut world = world(6, 3);
    let block = |seed| Digest::of(BlockKind::Content, &bytes(SMALL, seed)).block_id();
    let seed = (0..1000).find(|&seed| world.owners(block(seed))[0] == 0).unwrap();
    let content = bytes(SMALL, seed);
    let (block, mut record) = put_record(BlockKind::Content, &content, 3);
    world.nodes[0].held = Some(Vec::new());
    set_request_id(&mut record, RequestId(42));
    world.deliver(0, CLIENT, &record);
    // The old nodes stay members until they have handed over what they have.
    let all = [(0, 0), (1, 0), (2, 0), (3, 100), (4, 100), (5, 100)];
    world.announce(&all);
    world.pass(Duration::from_secs(20));
    assert_eq!(world.version_count(), 2, "the version waits for the put");
    world.release(0);
    assert_eq!(world.answer(0).record().message_type(), BlockStored::TYPE);
    world.drain();
    world.pass(Duration::from_secs(3));
    assert_in_place(&world, &[block]);
}

#[test]
fn a_death_in_the_middle_of_a_move_loses_nothing() {
    for dead in 0..5 {
        let mut world = world(5, 4);
        let blocks = fill(&mut world, 30, 300_000);
        world.announce(&members(0..5));
        world.pass_to("some blocks have moved", |world| world.moved.len() >= 5);
        world.nodes[dead].is_dead = true;
        world.pass(Duration::from_secs(10));
        assert_eq!(world.version_count(), 2, "a member that does not answer is waited for");
        // The masters' grace period is over.
        let rest: Vec<(usize, u32)> = members(0..5).into_iter().filter(|it| it.0 != dead).collect();
        world.announce(&rest);
        world.drain();
        for &block in &blocks {
            let alive = world.holders(block).into_iter().filter(|&at| at != dead);
            let mut owners = world.owners(block);
            owners.sort_unstable();
            assert_eq!(alive.collect::<Vec<_>>(), owners, "node {dead} died");
        }
    }
}

#[test]
fn a_node_that_is_back_with_an_empty_disk_is_filled_again() {
    let mut world = world(3, 3);
    let blocks = fill(&mut world, 60, SMALL);
    world.nodes[1] = Node::with_store(1, StorageLimits::default(), StoreId(999));
    world.announce(&members(0..3));
    world.drain();
    assert_in_place(&world, &blocks);
}

#[test]
fn owners_that_change_twice_do_not_count_what_was_confirmed_before() {
    let mut world = world(5, 2);
    let blocks = fill(&mut world, 60, SMALL);
    // The first change cannot end: one of the new owners is not there.
    world.nodes[3].is_dead = true;
    world.announce(&[(0, 0), (1, 0), (2, 100), (3, 100)]);
    world.pass(Duration::from_secs(5));
    assert!(world.nodes[2].block_count() == 60 && world.version_count() == 2);
    // Node 2 has confirmed to the old owners all that they have, and is then no owner itself.
    world.announce(&[(0, 0), (1, 0), (2, 0), (3, 100), (4, 100)]);
    world.pass(Duration::from_secs(5));
    for &block in &blocks {
        assert!(world.holders(block).len() >= 3, "nothing is deleted on an old word");
    }
    world.nodes[3].is_dead = false;
    world.drain();
    world.pass(Duration::from_secs(3));
    assert_in_place(&world, &blocks);
}

#[test]
fn a_hand_off_copy_goes_home_and_is_deleted_only_then() {
    let mut world = world(4, 4);
    let content = bytes(SMALL, 1);
    let block = Digest::of(BlockKind::Content, &content).block_id();
    let order = world.owners_of(block, 3);
    let (first, dead, candidate) = (order[0], order[1], order[2]);
    world.nodes[dead].is_dead = true;
    world.put(first, BlockKind::Content, &content);
    world.put(candidate, BlockKind::Content, &content);
    world.pass(Duration::from_secs(60));
    assert!(world.nodes[candidate].has(block), "the owner has not confirmed it");
    assert_eq!({ world.reports[&candidate].foreign_count }, 1);
    world.nodes[dead].is_dead = false;
    world.pass(Duration::from_secs(10));
    assert_in_place(&world, &[block]);
    assert_eq!({ world.reports[&candidate].foreign_count }, 0);
    assert_eq!(world.moved.len(), 1);
}

#[test]
fn a_silent_owner_does_not_hold_up_what_goes_to_others() {
    let upkeep = Upkeep { pass_blocks: 2048, ..Upkeep::default() };
    let limits = StorageLimits { upkeep, ..StorageLimits::default() };
    let mut world = World::with_members(4, members(0..2), limits);
    let blocks = fill(&mut world, 4000, 10);
    world.nodes[3].is_dead = true;
    world.announce(&members(0..4));
    // Of those that a silent node owns too, fewer are remembered than there are.
    world.pass(Duration::from_secs(60));
    let owned = blocks.iter().filter(|&&block| world.owners(block).contains(&2));
    let owned: Vec<BlockId> = owned.copied().collect();
    assert!(owned.iter().all(|&block| world.nodes[2].has(block)), "node 2 has its share");
    let lacking: u64 = world.reports.values().map(|report| report.lacking_count).sum();
    let wanted = blocks.iter().filter(|&&block| world.owners(block).contains(&3)).count() as u64;
    assert!(lacking >= wanted, "{lacking} of {wanted}");
    world.nodes[3].is_dead = false;
    world.drain();
    world.pass(Duration::from_secs(3));
    assert_in_place(&world, &blocks);
    assert!(world.reports.values().all(|report| { report.lacking_count } == 0));
    // Where nothing is on its way, each block that lacks a replica is counted once.
    world.nodes[3].is_dead = true;
    world.pass_round = 1;
    world.pass(Duration::from_secs(30));
    let lacking: u64 = world.reports.values().map(|report| report.lacking_count).sum();
    assert_eq!(lacking, wanted);
}

#[test]
fn moving_is_no_faster_than_the_throttle() {
    let upkeep = Upkeep { move_bytes_per_s: 1 << 20, ..Upkeep::default() };
    let limits = StorageLimits { upkeep, ..StorageLimits::default() };
    let mut world = World::with_members(2, members(0..1), limits);
    let blocks: Vec<_> =
        (0..40).map(|seed| world.put(0, BlockKind::Content, &bytes(256 << 10, seed))).collect();
    world.announce(&members(0..2));
    let begin = world.now;
    world.drain();
    // Ten MiB with what the bucket gathers for the first tenth of a second.
    let span = world.now.since(begin).as_millis();
    assert!((9_000..12_000).contains(&span), "{span} ms");
    assert_in_place(&world, &blocks);
}

#[test]
fn a_node_without_a_lease_takes_nothing_on_and_stays_readable() {
    let mut world = world(1, 1);
    let block = world.put(0, BlockKind::Content, b"before");
    world.master_is_silent = true;
    world.pass(Duration::from_secs(8));
    world.put(0, BlockKind::Content, b"the lease holds");
    world.pass(Duration::from_secs(2));
    let (_, record) = put_record(BlockKind::Content, b"too late", 3);
    assert_eq!(world.ask(0, record.clone()).code(), ErrorCode::Unavailable);
    let query = BlockQuery { ring_version: 3, ..BlockQuery::default() };
    let query = encode(&query, &[bytes_of(&[block.to_wire()])]);
    assert_eq!(world.ask(0, query.clone()).code(), ErrorCode::Unavailable);
    let file = FileRequest { file_uuid: FileId(block.0).to_wire(), ..FileRequest::default() };
    assert_eq!(world.ask(0, encode(&file, &[])).file().1, b"before");
    world.master_is_silent = false;
    world.pass(Duration::from_secs(10));
    assert_eq!(world.ask(0, record).record().message_type(), BlockStored::TYPE);
    let present = world.ask(0, query);
    assert_eq!(present.record().open::<BlockPresence, 1>().unwrap().1[0], [1]);
    // One that is no member has none.
    world.lease_ms = 0;
    world.pass(Duration::from_secs(2));
    let (_, record) = put_record(BlockKind::Content, b"no member", 3);
    assert_eq!(world.ask(0, record).code(), ErrorCode::Unavailable);
}

#[test]
fn a_scrub_finds_what_is_damaged_and_mends_it() {
    let mut world = world(3, 3);
    let content = bytes(400_000, 1);
    let block = world.put_replicas(BlockKind::Content, &content);
    fill(&mut world, 10, SMALL);
    let victim = world.owners(block)[0];
    let name = format!("{:032x}", block.0);
    let path = world.nodes[victim].files.names().into_iter().find(|path| path.ends_with(&name));
    world.nodes[victim].files.flip_bit(&path.unwrap(), 12_345, 2);
    world.scrub_round = 1;
    world.pass(Duration::from_secs(5));
    assert_eq!(world.nodes[victim].disk.reader().read(block).unwrap().content, content);
    let report = world.reports[&victim];
    assert_eq!(({ report.damaged_count }, { report.mended_count }), (1, 1));
    assert!(world.reports.values().all(|report| { report.scrub_round } == 1));
    assert_in_place(&world, &[block]);
}

#[test]
fn scrubbing_without_being_asked_comes_to_every_block_in_its_period() {
    let upkeep = Upkeep { scrub_period: Duration::from_secs(3600), ..Upkeep::default() };
    let limits = StorageLimits { upkeep, ..StorageLimits::default() };
    let mut world = World::with_limits(2, limits);
    let blocks: Vec<BlockId> =
        (0..8).map(|seed| world.put_replicas(BlockKind::Content, &bytes(300_000, seed))).collect();
    for block in &blocks {
        let name = format!("{:032x}", block.0);
        let mut names = world.nodes[0].files.names().into_iter();
        let path = names.find(|path| path.ends_with(&name));
        world.nodes[0].files.flip_bit(&path.unwrap(), 99, 1);
    }
    world.pass(Duration::from_secs(2 * 3600));
    assert_eq!({ world.reports[&0].mended_count }, 8);
    assert_in_place(&world, &blocks);
}

#[test]
fn a_block_has_as_many_replicas_as_the_highest_that_was_asked_for() {
    let mut world = world(5, 5);
    let put = |world: &mut World, at: usize, content: &[u8], replica_count: u8| {
        let block = Digest::of(BlockKind::Content, content).block_id();
        let put = BlockPut {
            block_uuid: block.to_wire(),
            ring_version: world.ring_version(),
            replica_count,
            ..BlockPut::default()
        };
        let answer = world.ask(at, encode(&put, &[content]));
        assert_eq!(answer.record().message_type(), BlockStored::TYPE);
        block
    };
    let content = bytes(SMALL, 1);
    let block = Digest::of(BlockKind::Content, &content).block_id();
    let owners = world.owners_of(block, 5);
    put(&mut world, owners[0], &content, 1);
    world.pass_round = 1;
    world.pass(Duration::from_secs(3));
    assert_eq!(world.holders(block), [owners[0]], "one replica is enough where one was asked for");
    put(&mut world, owners[0], &content, 4);
    // Who wants the default changes nothing, neither here nor where it is sent.
    put(&mut world, owners[0], &content, 0);
    world.pass_round = 2;
    world.pass(Duration::from_secs(3));
    let mut four = owners[..4].to_vec();
    four.sort_unstable();
    assert_eq!(world.holders(block), four);
    for at in four {
        assert_eq!(world.nodes[at].disk.reader().held(block).unwrap().replica_count, 4);
    }
    assert!(world.reports.values().all(|report| { report.pass_round } == 2));
}

#[test]
fn a_file_is_found_while_it_still_lies_where_two_older_versions_say() {
    let upkeep = Upkeep { move_bytes_per_s: 1, ..Upkeep::default() };
    let limits = StorageLimits { upkeep, ..StorageLimits::default() };
    let mut world = World::with_members(6, members(0..2), limits);
    let content = bytes(SMALL, 3);
    let file = world.put_file(&content);
    world.nodes[2].is_dead = true;
    world.nodes[3].is_dead = true;
    world.announce(&[(0, 0), (1, 0), (2, 100), (3, 100)]);
    world.pass(Duration::from_secs(1));
    world.announce(&[(0, 0), (1, 0), (2, 0), (3, 0), (4, 100), (5, 100)]);
    world.nodes[2].is_dead = false;
    world.nodes[3].is_dead = false;
    world.nodes[0].is_dead = true;
    world.pass(Duration::from_millis(1_300));
    let request = FileRequest { file_uuid: file.to_wire(), ..FileRequest::default() };
    let mut record = encode(&request, &[]);
    set_request_id(&mut record, RequestId(42));
    world.deliver(5, CLIENT, &record);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.answer(5).file().1, content);
}

#[test]
fn a_node_that_is_alone_with_all_it_has_keeps_it() {
    let mut world = world(2, 2);
    let blocks = fill(&mut world, 10, SMALL);
    // Nobody is left to own anything.
    world.announce(&[(0, 0), (1, 0)]);
    world.pass(Duration::from_secs(30));
    assert!(blocks.iter().all(|&block| world.holders(block) == [0, 1]));
}

#[test]
fn a_node_that_the_masters_forgot_registers_again() {
    let mut world = world(1, 1);
    world.pass(Duration::from_secs(3));
    assert_eq!(world.registrations, 1);
    world.forgotten.insert(0);
    world.pass(Duration::from_secs(3));
    assert_eq!(world.registrations, 2);
    world.put(0, BlockKind::Content, b"it goes on");
}
