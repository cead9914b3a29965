//! What a storage node refuses, what it answers, and files that are gathered from several nodes.

use node::logic::refusal::Refusal;
use proto::digest::Digest;
use proto::ids::{BlockId, FileId, RequestId};
use proto::limits::BLOCK_BYTES;
use proto::manifest::{Manifest, name_file};
use proto::messages::file::{
    BlockContent, BlockGet, BlockPresence, BlockPut, BlockQuery, BlockStored, FileRequest,
    StorageCounters, StorageQuery, StorageSpace,
};
use proto::messages::job::JobList;
use proto::record::{self, Message, encode, encode_given, set_request_id};
use proto::status::{BlockKind, ErrorCode};
use proto::time::Duration;
use proto::wire::bytes_of;
use storage::logic::{Bounds, Event, StorageLimits};

use crate::world::{CLIENT, Node, World, bytes, put_record};

fn get_record(block: BlockId, ring_version: u64, offset: u64, length: u64) -> Vec<u8> {
    let block_uuid = block.to_wire();
    encode(&BlockGet { block_uuid, ring_version, offset, length, ..BlockGet::default() }, &[])
}

fn file_record(file: FileId) -> Vec<u8> {
    encode(&FileRequest { file_uuid: file.to_wire(), ..FileRequest::default() }, &[])
}

#[test]
fn a_node_registers_once_and_refuses_puts_until_it_knows_the_ring() {
    let mut world = World::new(1);
    world.master_is_silent = true;
    world.nodes[0] = Node::new(0, StorageLimits::default());
    world.registrations = 0;
    world.handle(0, Event::Tick);
    let (_, record) = put_record(BlockKind::Content, b"early", 3);
    assert_eq!(world.ask(0, record.clone()).code(), ErrorCode::Unavailable);
    assert!(world.nodes[0].logic.explain().contains("refusing puts"));
    // Nor does it know who else may have a file.
    assert_eq!(world.ask(0, file_record(FileId(9))).code(), ErrorCode::Unavailable);
    world.master_is_silent = false;
    world.pass(Duration::from_secs(10));
    assert_eq!(world.registrations, 1);
    assert_eq!(world.nodes[0].logic.ring_version().0, 3);
    assert_eq!(world.ask(0, record).record().message_type(), BlockStored::TYPE);
    assert!((1..=2).contains(&world.ring_queries), "{}", world.ring_queries);
}

#[test]
fn a_stored_block_is_found_and_read_whole_or_in_pieces() {
    let mut world = World::new(1);
    let content = bytes(100_000, 1);
    let block = world.put(0, BlockKind::Content, &content);
    let again = world.ask(0, put_record(BlockKind::Content, &content, 3).1);
    assert_eq!({ again.record().read::<BlockStored>().unwrap().was_present }, 1);
    for (offset, length, wanted) in [
        (0, 0, &content[..]),
        (10, 0, &content[10..]),
        (99_999, 50, &content[99_999..]),
        (500, 7, &content[500..507]),
        (100_000, 0, &[]),
    ] {
        let answer = world.ask(0, get_record(block, 3, offset, length));
        let record = answer.record();
        let (head, [piece]) = record.open::<BlockContent, 1>().unwrap();
        assert_eq!(piece, wanted);
        assert_eq!({ head.block_length }, 100_000);
        assert_eq!({ head.offset }, offset);
        assert_eq!(head.kind, BlockKind::Content.to_wire());
    }
    assert_eq!(world.ask(0, get_record(block, 3, 100_001, 0)).code(), ErrorCode::Invalid);
    assert_eq!(world.ask(0, get_record(BlockId(5), 3, 0, 0)).code(), ErrorCode::NotFound);
    assert_eq!(world.ask(0, get_record(BlockId(5), 0, 0, 0)).code(), ErrorCode::NotFound);
    let query = BlockQuery { ring_version: 3, ..BlockQuery::default() };
    let blocks = [BlockId(5).to_wire(), block.to_wire()];
    let answer = world.ask(0, encode(&query, &[bytes_of(&blocks)]));
    assert_eq!(answer.record().open::<BlockPresence, 1>().unwrap().1[0], [0, 1]);

    let answer = world.ask(0, encode(&StorageQuery::default(), &[]));
    let record = answer.record();
    let (space, [counters]) = record.open::<StorageSpace, 1>().unwrap();
    assert_eq!(({ space.total_bytes }, { space.free_bytes }), (1000, 400));
    let wanted = StorageCounters {
        block_count: 1,
        block_bytes: 100_000,
        put_count: 1,
        put_bytes: 100_000,
        get_count: 5,
        get_bytes: 100_000 + 99_990 + 1 + 7,
        damaged_count: 0,
    };
    assert_eq!(counters, bytes_of(&[wanted]));
    world.assert_idle();
}

#[test]
fn an_older_ring_is_refused_and_a_newer_one_fetched() {
    let mut world = World::new(1);
    let block = world.put(0, BlockKind::Content, b"present");
    let old = |kind| put_record(kind, b"old", 2).1;
    assert_eq!(world.ask(0, old(BlockKind::Content)).code(), ErrorCode::StaleRing);
    let query = BlockQuery { ring_version: 2, ..BlockQuery::default() };
    assert_eq!(world.ask(0, encode(&query, &[&[]])).code(), ErrorCode::StaleRing);
    // What is there is right under any ring; what is not may be elsewhere under the newer one.
    assert_eq!(
        world.ask(0, get_record(block, 2, 0, 0)).record().message_type(),
        BlockContent::TYPE
    );
    assert_eq!(world.ask(0, get_record(BlockId(5), 2, 0, 0)).code(), ErrorCode::StaleRing);
    world.announce(&[(0, 50)]);
    world.pass(Duration::from_millis(60));
    assert_eq!(world.nodes[0].logic.ring_version().0, 3);
    let early = world.ask(0, put_record(BlockKind::Content, b"new", 4).1).refusal();
    assert_eq!(early.code, ErrorCode::Unavailable);
    assert!(early.retry_after > Duration::ZERO);
    let stored = world.ask(0, put_record(BlockKind::Content, b"new", 4).1);
    assert_eq!(stored.record().message_type(), BlockStored::TYPE);
    assert_eq!(world.nodes[0].logic.ring_version().0, 4);
}

#[test]
fn what_makes_no_sense_is_refused_with_its_reason() {
    let mut world = World::new(1);
    let (_, mut wrong) = put_record(BlockKind::Content, b"bytes", 3);
    *wrong.last_mut().unwrap() ^= 1;
    assert_eq!(world.ask(0, wrong).code(), ErrorCode::WrongDigest);
    let large = vec![0; BLOCK_BYTES + 1];
    let (_, large) = put_record(BlockKind::Content, &large, 3);
    assert_eq!(world.ask(0, large).code(), ErrorCode::TooLarge);
    let put = BlockPut { kind: 9, ring_version: 3, ..BlockPut::default() };
    assert_eq!(world.ask(0, encode(&put, &[b""])).code(), ErrorCode::Invalid);
    assert_eq!(world.ask(0, encode(&JobList::default(), &[])).code(), ErrorCode::UnknownType);
    let refused = world.ask(0, encode(&JobList::default(), &[])).refusal();
    assert_eq!(refused.refused_type, JobList::TYPE);
    // Nothing is answered to an answer.
    let error = Refusal::new(ErrorCode::Invalid, 0, "no").to_record(RequestId(7));
    world.deliver(0, CLIENT, &error);
    assert!(world.nodes[0].answers.is_empty());
    world.assert_idle();
}

#[test]
fn more_than_the_disk_is_given_at_once_is_busy() {
    let bounds = Bounds { peer_count: 3, peer_bytes: 1000, count: 10, bytes: 10_000 };
    let mut world =
        World::with_limits(1, StorageLimits { puts: bounds, ..StorageLimits::default() });
    world.nodes[0].held = Some(Vec::new());
    let send = |world: &mut World, length: usize, seed| {
        let (_, mut record) = put_record(BlockKind::Content, &bytes(length, seed), 3);
        set_request_id(&mut record, RequestId(42));
        world.deliver(0, CLIENT, &record);
    };
    send(&mut world, 400, 1);
    send(&mut world, 400, 2);
    assert!(world.nodes[0].answers.is_empty(), "nothing is acknowledged before it is durable");
    send(&mut world, 400, 3);
    let busy = world.answer(0).refusal();
    assert_eq!(busy.code, ErrorCode::Busy);
    assert!(busy.retry_after > Duration::ZERO);
    send(&mut world, 10, 4);
    send(&mut world, 10, 5);
    assert_eq!(world.answer(0).code(), ErrorCode::Busy);
    let held = world.nodes[0].held.replace(Vec::new()).unwrap();
    assert_eq!(held.len(), 3);
    for done in world.nodes[0].disk.store(held) {
        world.handle(0, Event::PutDone(done));
    }
    assert_eq!(world.nodes[0].answers.len(), 3);
    world.nodes[0].held = None;
    world.nodes[0].answers.clear();
    world.put(0, BlockKind::Content, &bytes(400, 3));
    world.assert_idle();
}

#[test]
fn a_full_disk_is_said_so_and_stays_readable() {
    let mut world = World::new(1);
    let content = bytes(5000, 1);
    let block = world.put(0, BlockKind::Content, &content);
    world.nodes[0].files.limit_room(Some(0));
    let answer = world.ask(0, put_record(BlockKind::Content, &bytes(300_000, 2), 3).1);
    assert_eq!(answer.code(), ErrorCode::DiskFull);
    let answer = world.ask(0, get_record(block, 3, 0, 0));
    assert_eq!(answer.record().open::<BlockContent, 1>().unwrap().1[0], content);
    world.nodes[0].files.limit_room(None);
    world.put(0, BlockKind::Content, &bytes(300_000, 2));
}

#[test]
fn any_node_answers_with_a_whole_file() {
    let mut world = World::new(5);
    for (length, seed) in [(0, 1), (1000, 2), (BLOCK_BYTES, 3), (3 * BLOCK_BYTES + 17, 4)] {
        let content = bytes(length, seed);
        let file = world.put_file(&content);
        for at in 0..5 {
            let answer = world.ask(at, file_record(file));
            let (response, got) = answer.file();
            assert!(got == content, "{length} bytes from node {at}");
            assert_eq!(FileId::from(response.file_uuid), file);
            assert_eq!({ response.ring_version }, 3);
            // As given: 41 bytes in, 49 bytes and the content out.
            let request = FileRequest { file_uuid: file.to_wire(), ..FileRequest::default() };
            let request = encode_given(&request, &[]);
            assert_eq!(request.len(), 41);
            world.deliver(at, CLIENT, &request);
            let answer = world.answer(at);
            assert!(answer.record().is_given_form());
            assert_eq!(answer.0.len(), 49 + length);
            assert!(answer.file().1 == content);
        }
    }
    world.assert_idle();
}

#[test]
fn a_dead_and_a_damaged_replica_are_passed_over() {
    let mut world = World::new(6);
    // A file of which the asked node holds nothing, whose first block is looked for on a dead node
    // first, and whose second on one that has it damaged.
    let found = (0..100).find_map(|seed| {
        let content = bytes(2 * BLOCK_BYTES, seed);
        let block = |at: usize| {
            let start = at * BLOCK_BYTES;
            Digest::of(BlockKind::Content, &content[start..start + BLOCK_BYTES]).block_id()
        };
        let blocks = [block(0), block(1)];
        let manifest = BlockId(name_file(&content).unwrap().0.0);
        let [dead, victim] = blocks.map(|block| world.owners(block)[0]);
        let holders = [blocks[0], blocks[1], manifest].map(|block| world.owners(block)).concat();
        let asked = (0..6).find(|at| !holders.contains(at))?;
        let is_apart = !world.owners(blocks[1]).contains(&dead) && dead != victim;
        is_apart.then_some((content, blocks[1], dead, victim, asked))
    });
    let (content, damaged, dead, victim, asked) = found.unwrap();
    let file = world.put_file(&content);
    world.nodes[dead].is_dead = true;
    let name = format!("{:032x}", damaged.0);
    let path = world.nodes[victim].files.names().into_iter().find(|path| path.ends_with(&name));
    world.nodes[victim].files.flip_bit(&path.unwrap(), 12_345, 2);
    set_request_id_and_send(&mut world, asked, file);
    assert!(world.nodes[asked].answers.is_empty(), "the dead node has not answered yet");
    world.pass(Duration::from_millis(500));
    assert!(world.answer(asked).file().1 == content);
    let reader = world.nodes[victim].disk.reader();
    assert!(reader.contains(damaged), "it is fetched from the other owner at once");
    assert_eq!({ reader.counters().damaged_count }, 1);
    world.assert_idle();
}

fn set_request_id_and_send(world: &mut World, at: usize, file: FileId) {
    let mut record = file_record(file);
    record::set_request_id(&mut record, RequestId(42));
    world.deliver(at, CLIENT, &record);
}

#[test]
fn not_found_needs_the_answers_of_all_candidates() {
    let mut world = World::new(3);
    let file = FileId(Digest::of(BlockKind::Content, b"nowhere").to_uuid());
    assert_eq!(world.ask(0, file_record(file)).code(), ErrorCode::NotFound);
    world.nodes[1].is_dead = true;
    set_request_id_and_send(&mut world, 0, file);
    assert!(world.nodes[0].answers.is_empty());
    world.pass(Duration::from_millis(500));
    assert_eq!(world.answer(0).code(), ErrorCode::Unavailable);
    world.assert_idle();
}

#[test]
fn a_file_that_is_too_large_is_refused_with_the_way_to_get_it() {
    let mut world = World::new(3);
    let blocks = (0..9).map(|n| Digest([n; 32])).collect();
    let manifest = Manifest::new(8 * BLOCK_BYTES as u64 + 1, blocks).unwrap();
    world.put_replicas(BlockKind::Manifest, &manifest.encode());
    for at in 0..3 {
        let refusal = world.ask(at, file_record(manifest.file_id())).refusal();
        assert_eq!(refusal.code, ErrorCode::TooLarge);
        assert!(refusal.text.contains("block_get"), "{}", refusal.text);
    }
    // Its manifest is a block like others.
    let block = BlockId(manifest.file_id().0);
    let at = world.owners(block)[0];
    let answer = world.ask(at, get_record(block, 3, 0, 0));
    let record = answer.record();
    let (head, [content]) = record.open::<BlockContent, 1>().unwrap();
    assert_eq!(head.kind, BlockKind::Manifest.to_wire());
    assert_eq!(content, manifest.encode());
    world.assert_idle();
}

#[test]
fn a_manifest_without_its_blocks_ends_in_an_error() {
    let mut world = World::new(3);
    let blocks = (0..8).map(|n| Digest([n; 32])).collect();
    let manifest = Manifest::new(8 * BLOCK_BYTES as u64, blocks).unwrap();
    world.put_replicas(BlockKind::Manifest, &manifest.encode());
    assert_eq!(world.ask(0, file_record(manifest.file_id())).code(), ErrorCode::NotFound);
    let nonsense = world.put(0, BlockKind::Manifest, b"not a manifest");
    assert_eq!(world.ask(0, file_record(FileId(nonsense.0))).code(), ErrorCode::Invalid);
    world.assert_idle();
}
