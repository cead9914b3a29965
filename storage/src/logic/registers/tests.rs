//! Stories of registers while replicas die, lag and the ring changes.

mod world;

use std::sync::Arc;

use fastrand::Rng;
use proto::ids::{RingVersion, StoreId};
use proto::limits;
use proto::messages::register::{RegisterCopy, RegisterSeal};
use proto::record;
use proto::register::{Part, Tag, replicas};
use proto::status::ErrorCode;
use proto::time::Duration;

use self::world::{Got, World};
use super::frames;
use crate::registers::{Recovered, Register};

const SECOND: Duration = Duration::from_millis(1_000);

fn tag(sequence: u64, writer: u128) -> Tag {
    Tag { sequence, writer, operation: 1 }
}

fn register(address: u64, tag: Tag, value: &str) -> Register {
    Register { address, tag, value: Arc::from(value.as_bytes()) }
}

fn value(tag: Tag, value: &str) -> Got {
    Got::Value(tag, value.as_bytes().to_vec())
}

/// Three replicas of everything, one part.
fn three() -> World {
    let mut world = World::new(1, 1);
    world.announce(&[1, 2, 3]);
    world.settle();
    world
}

#[test]
fn an_interrupted_write_is_written_back_overwritten_and_its_retry_changes_nothing() {
    let mut world = three();
    let first = register(5, tag(1, 1), "first");
    assert_eq!(world.write_at(1, 1, &first), Got::Written, "and there the writer is interrupted");
    // A reader meets it, and so has to see to it that later readers do.
    assert_eq!(world.read(5), Some((first.tag, b"first".to_vec())));
    assert_eq!(world.read_at(3, 1, 5), value(first.tag, "first"));
    let second = register(5, tag(2, 2), "second");
    assert_eq!(world.write_at(2, 1, &second), Got::Written);
    assert_eq!(world.write_at(3, 1, &second), Got::Written);
    for to in 1..=3 {
        assert_eq!(world.write_at(to, 1, &first), Got::Written, "the retry under the old tag");
    }
    assert_eq!(world.read(5), Some((second.tag, b"second".to_vec())));
}

#[test]
fn what_is_not_synced_is_not_shown_and_a_crash_takes_it_away() {
    let mut world = three();
    assert_eq!(world.write_at(1, 1, &register(5, tag(1, 1), "old")), Got::Written);
    world.replica(1).is_held = true;
    let request = world.begin_write(1, 1, &register(5, tag(2, 1), "new"));
    assert_eq!(world.outcome(1, request), Got::Nothing);
    assert_eq!(world.read_at(1, 1, 5), value(tag(1, 1), "old"));
    assert_eq!(world.read_at(1, 0, 5), value(tag(1, 1), "old"), "nor as its own copy");
    world.restart(1, StoreId(1));
    assert_eq!(world.read_at(1, 1, 5), value(tag(1, 1), "old"));
    assert_eq!(world.write_at(1, 1, &register(5, tag(2, 1), "new")), Got::Written);
    assert_eq!(world.read_at(1, 1, 5), value(tag(2, 1), "new"));
}

#[test]
fn a_register_that_was_never_written_has_the_lowest_tag() {
    let mut world = three();
    assert_eq!(world.read(9), Some((Tag::default(), Vec::new())));
    let zero = register(9, Tag::default(), "?");
    assert_eq!(world.write_at(1, 1, &zero), Got::Refused(ErrorCode::Invalid));
}

#[test]
fn a_value_over_the_limit_is_refused() {
    let mut world = three();
    let largest = "x".repeat(limits::REGISTER_VALUE_BYTES);
    assert_eq!(world.write_at(1, 1, &register(1, tag(1, 1), &largest)), Got::Written);
    let longer = register(1, tag(2, 1), &(largest + "x"));
    assert_eq!(world.write_at(1, 1, &longer), Got::Refused(ErrorCode::TooLarge));
}

#[test]
fn a_write_that_waits_for_the_disk_when_the_seal_comes_is_in_the_page() {
    let mut world = three();
    (1..=3).for_each(|number| world.replica(number).is_held = true);
    let early = register(5, tag(1, 1), "early");
    let requests: Vec<_> = (1..=3).map(|to| (to, world.begin_write(to, 1, &early))).collect();
    world.settle();
    world.announce(&[2, 3, 4]);
    world.settle();
    let late = register(5, tag(2, 1), "late");
    let refused = world.write_at(2, 1, &late);
    assert_eq!(refused, Got::Refused(ErrorCode::StaleRing), "the seal is not durable yet");
    (1..=3).for_each(|number| world.replica(number).is_held = false);
    for (to, request) in requests {
        assert_eq!(world.outcome(to, request), Got::Written);
    }
    world.run(SECOND);
    assert!(world.is_moved());
    assert_eq!(world.read(5), Some((early.tag, b"early".to_vec())));
}

#[test]
fn a_seal_that_reaches_a_minority_stops_nothing_and_loses_nothing() {
    let mut world = three();
    // The new replica asks all three to seal, and only the first one hears it.
    [2, 3].iter().for_each(|&number| world.replica(number).is_cut = true);
    world.announce(&[1, 2, 4]);
    world.run(SECOND.times(5));
    assert_eq!(world.read_at(1, 1, 5), Got::Refused(ErrorCode::StaleRing));
    world.replica(1).is_cut = true;
    world.replica(4).is_cut = true;
    [2, 3].iter().for_each(|&number| world.replica(number).is_cut = false);
    let it = register(5, tag(1, 1), "by the other two");
    assert!(world.write(&it), "two are a majority");
    [1, 4].iter().for_each(|&number| world.replica(number).is_cut = false);
    world.run(SECOND.times(10));
    assert!(world.is_moved());
    assert_eq!(world.read(5), Some((it.tag, it.value.to_vec())));
}

#[test]
fn a_version_becomes_active_when_a_majority_of_its_replicas_has_everything() {
    let mut world = three();
    let it = register(5, tag(1, 1), "kept");
    assert!(world.write(&it));
    world.announce(&[4, 5, 6]);
    [5, 6].iter().for_each(|&number| world.replica(number).is_cut = true);
    world.run(SECOND.times(20));
    assert!(!world.is_moved(), "one has it");
    world.replica(5).is_cut = false;
    world.run(SECOND.times(20));
    assert!(world.is_moved());
    world.replica(4).is_cut = true;
    world.replica(6).is_cut = false;
    assert_eq!(world.read(5), Some((it.tag, b"kept".to_vec())));
}

#[test]
fn parts_that_cannot_be_moved_hold_no_others_up() {
    let mut world = World::new(1 << 16, 1);
    world.announce(&[1, 2, 3, 4, 5]);
    world.announce(&[3, 4, 5, 6, 7]);
    [1, 2].iter().for_each(|&number| world.replica(number).is_cut = true);
    world.run(SECOND.times(90));
    let lost = |world: &World, part: usize| {
        let nodes = replicas(world.ring(RingVersion(1)), Part(part as u32));
        nodes.iter().filter(|node| node.0 <= 2).count() == 2
    };
    for part in 0..world.active.len() {
        let is_moved = world.active[part] == world.newest();
        assert_eq!(is_moved, !lost(&world, part), "part {part}");
    }
    assert!((0..world.active.len()).filter(|&part| lost(&world, part)).count() > 20);
}

#[test]
fn a_replica_that_lags_cannot_be_a_majority_alone() {
    let mut world = three();
    let it = register(5, tag(1, 1), "old");
    assert!(world.write(&it));
    // The third one hears neither of the ring nor of the seal.
    world.replica(3).is_deaf = true;
    world.replica(3).is_cut = true;
    world.announce(&[1, 2, 4]);
    world.run(SECOND.times(10));
    assert!(world.is_moved());
    world.replica(3).is_cut = false;
    let new = register(5, tag(2, 1), "new");
    assert!(world.write(&new));
    let stale: Vec<Got> = (1..=3).map(|to| world.read_at(to, 1, 5)).collect();
    let refused = Got::Refused(ErrorCode::StaleRing);
    assert_eq!(stale, [refused.clone(), refused, value(it.tag, "old")], "one of three");
    let refused = Got::Refused(ErrorCode::Unavailable);
    assert_eq!(world.read_at(3, 2, 5), refused, "it does not know that version");
    world.replica(3).is_deaf = false;
    assert_eq!(world.read_at(3, 2, 5), refused);
    world.run(SECOND.times(2));
    assert_eq!(world.read_at(3, 1, 5), Got::Refused(ErrorCode::StaleRing), "it asked for the ring");
}

#[test]
fn two_changes_before_the_first_is_activated_end_at_the_last() {
    let mut world = three();
    let it = register(5, tag(1, 1), "kept");
    assert!(world.write(&it));
    world.are_masters_silent = true;
    world.announce(&[2, 3, 4]);
    world.run(SECOND);
    assert!(!world.held_activations.is_empty(), "everything is copied to the second version");
    world.announce(&[3, 4, 5]);
    world.run(SECOND.times(10));
    let mut held = std::mem::take(&mut world.held_activations);
    // The masters hear them in another order than they were sent in.
    held.reverse();
    held.iter().for_each(|record| world.activate(record));
    world.are_masters_silent = false;
    world.run(SECOND.times(20));
    assert!(world.is_moved());
    assert_eq!(world.read(5), Some((it.tag, b"kept".to_vec())));
    for gone in [1, 2] {
        let empty = Got::Value(Tag::default(), Vec::new());
        assert_eq!(world.read_at(gone, 0, 5), empty, "{gone} keeps nothing any more");
    }
}

#[test]
fn a_write_between_two_activations_is_not_lost() {
    let mut world = three();
    world.are_masters_silent = true;
    world.announce(&[2, 3, 4]);
    world.run(SECOND);
    let held = std::mem::take(&mut world.held_activations);
    world.announce(&[3, 4, 5]);
    // The second version becomes active although a third one is known and being copied to.
    world.run(SECOND);
    world.activate(&held[0]);
    world.tell_all();
    let it = register(5, tag(1, 1), "between");
    let written = (2..=4).filter(|&to| world.write_at(to, 2, &it) == Got::Written).count();
    world.are_masters_silent = false;
    world.run(SECOND.times(20));
    assert!(world.is_moved());
    let expected = if written >= 2 { Some((it.tag, b"between".to_vec())) } else { world.read(5) };
    assert_eq!(world.read(5), expected);
}

#[test]
fn two_movers_at_once_do_no_harm() {
    let mut world = three();
    let it = register(5, tag(3, 1), "once");
    assert!(world.write(&it));
    world.are_masters_silent = true;
    world.announce(&[2, 3, 4, 5]);
    world.run(SECOND.times(8));
    let held = std::mem::take(&mut world.held_activations);
    assert!(held.len() > 8, "all three replicas asked: {}", held.len());
    world.are_masters_silent = false;
    world.activate(&held[0]);
    world.tell_all();
    let later = register(5, tag(4, 1), "later");
    assert!(world.write(&later));
    held.iter().for_each(|record| world.activate(record));
    world.run(SECOND.times(8));
    assert_eq!(world.read(5), Some((later.tag, b"later".to_vec())));
}

#[test]
fn a_mover_that_dies_at_any_step_is_replaced() {
    for steps in 0..40 {
        let mut world = World::new(1, steps);
        world.announce(&[1, 2, 3]);
        let it = register(5, tag(1, 1), "kept");
        assert!(world.write(&it));
        world.announce(&[2, 3, 4, 5, 6]);
        let first = replicas(world.ring(RingVersion(2)), Part(0))[0].0 as u32;
        world.step(steps);
        world.replica(first).is_cut = true;
        world.run(SECOND.times(30));
        assert!(world.is_moved(), "after {steps} steps");
        assert_eq!(world.read(5), Some((it.tag, b"kept".to_vec())));
    }
}

#[test]
fn a_node_back_with_an_empty_folder_stands_in_for_nobody() {
    let mut world = three();
    let it = register(5, tag(1, 1), "kept");
    // Acknowledged by two, one of which loses its disk.
    assert_eq!(world.write_at(1, 1, &it), Got::Written);
    assert_eq!(world.write_at(2, 1, &it), Got::Written);
    world.replica(1).is_cut = true;
    world.restart(2, StoreId(99));
    assert_eq!(world.read_at(2, 1, 5), Got::Refused(ErrorCode::Unavailable));
    assert_eq!(world.read(5), None, "two with nothing are no majority");
    world.announce_stores(&[(1, 1), (2, 99), (3, 3)]);
    world.run(SECOND.times(20));
    assert!(!world.is_moved(), "the part waits for a majority of those that had it");
    world.replica(1).is_cut = false;
    world.run(SECOND.times(20));
    assert!(world.is_moved());
    assert_eq!(world.read(5), Some((it.tag, b"kept".to_vec())));
}

#[test]
fn a_damaged_log_takes_part_in_nothing() {
    let mut world = three();
    assert!(world.write(&register(5, tag(1, 1), "kept")));
    let damaged = Recovered { is_damaged: true, ..Recovered::default() };
    world.replica(2).registers.recover(damaged);
    let refused = Got::Refused(ErrorCode::Unavailable);
    assert_eq!(world.read_at(2, 1, 5), refused);
    assert_eq!(world.read_at(2, 0, 5), refused);
    assert_eq!(world.write_at(2, 1, &register(5, tag(2, 1), "new")), refused);
    assert!(world.read(5).is_some(), "the other two are a majority");
}

#[test]
fn a_part_of_many_pages_is_moved_whole() {
    let mut world = three();
    let large = "y".repeat(limits::REGISTER_VALUE_BYTES);
    for address in 0..50 {
        let it = register(address * 7, tag(address + 1, 1), &large[..30_000 + address as usize]);
        assert!(world.write(&it));
        // Pages of different replicas end at different addresses.
        let lone = register(1000 + address, tag(1, 2), &large[..(address as usize % 3) * 20_000]);
        assert_eq!(world.write_at(address as u32 % 3 + 1, 1, &lone), Got::Written);
    }
    world.announce(&[4, 5, 6]);
    world.run(SECOND.times(5));
    assert!(world.is_moved());
    for address in 0..50 {
        let (found, value) = world.read(address * 7).expect("a majority");
        assert_eq!((found, value.len()), (tag(address + 1, 1), 30_000 + address as usize));
    }
    let empty = Got::Value(Tag::default(), Vec::new());
    assert_eq!(world.read_at(1, 0, 7), empty, "who keeps it no longer has forgotten it");
}

#[test]
fn all_parts_move_within_a_second_and_take_few_entries() {
    let mut world = World::new(1 << 16, 1);
    world.announce(&[1, 2, 3]);
    for address in 0..600 {
        assert!(world.write(&register(address, tag(1, 1), "kept")));
    }
    (world.activations, world.sent) = (0, 0);
    world.announce(&[1, 2, 3, 4]);
    world.run(SECOND);
    assert!(world.is_moved());
    assert!(world.activations <= 256, "{} entries of the masters' log", world.activations);
    assert!(world.sent < 256 * 16, "{} messages", world.sent);
    for address in 0..600 {
        assert_eq!(world.read(address), Some((tag(1, 1), b"kept".to_vec())));
    }
}

#[test]
fn nobody_seals_the_newest_version_or_copies_to_one_that_is_left() {
    let mut world = three();
    world.announce(&[1, 2, 4]);
    world.run(SECOND.times(5));
    let newest = frames::encode_seal(Part(0), RingVersion(2), 0);
    assert_eq!(world.ask_raw(1, newest), Got::Refused(ErrorCode::Unavailable));
    let left = frames::encode_seal(Part(0), RingVersion(1), 0);
    assert_eq!(world.ask_raw(1, left), Got::Refused(ErrorCode::StaleRing));
    let copies = [register(5, tag(1, 1), "?")];
    for (version, code) in [(2, ErrorCode::StaleRing), (3, ErrorCode::Unavailable)] {
        let copy = frames::encode_copy(Part(0), RingVersion(version), &copies);
        assert_eq!(world.ask_raw(1, copy), Got::Refused(code));
    }
}

#[test]
fn nonsense_from_outside_is_refused() {
    let mut world = World::new(4, 1);
    world.announce(&[1, 2, 3]);
    world.announce(&[1, 2, 4]);
    let seal = RegisterSeal { part: 9, ring_version: 1, ..RegisterSeal::default() };
    let got = world.ask_raw(1, record::encode(&seal, &[]));
    assert_eq!(got, Got::Refused(ErrorCode::Invalid));
    let (entries, values) = frames::encode_registers(&[register(1, tag(1, 1), "abc")]);
    let other = (0..4).find(|&part| Part(part) != world.part(1)).unwrap();
    for (part, values) in [(world.part(1).0, &values[..2]), (other, &values[..])] {
        let copy = RegisterCopy { part, ring_version: 2, ..RegisterCopy::default() };
        let copy = record::encode(&copy, &[proto::wire::bytes_of(&entries), values]);
        assert_eq!(world.ask_raw(1, copy), Got::Refused(ErrorCode::Invalid));
    }
}

#[test]
fn no_acknowledged_write_is_lost_whatever_dies_or_changes() {
    let (mut acknowledged, mut changes, mut moved) = (0, 0, 0);
    for seed in 0..60 {
        let mut rng = Rng::with_seed(seed);
        let mut world = World::new(2, seed);
        world.announce(&[1, 2, 3]);
        world.loss = 12;
        let mut highest = [Tag::default(); 6];
        let mut operation = 0;
        for _ in 0..120 {
            match rng.u8(0..20) {
                0 if world.is_moved() || rng.bool() => {
                    let mut nodes: Vec<u32> = (1..=6).collect();
                    rng.shuffle(&mut nodes);
                    nodes.truncate(rng.usize(2..=5));
                    world.announce(&nodes);
                    changes += 1;
                }
                1 => {
                    let number = rng.u32(1..=6);
                    if world.replicas.contains_key(&number) {
                        world.restart(number, StoreId(number.into()));
                    }
                }
                2 => {
                    for replica in world.replicas.values_mut() {
                        replica.is_cut = false;
                        replica.is_deaf = rng.u8(0..6) == 0;
                    }
                    let number = rng.u32(1..=6);
                    if let Some(replica) = world.replicas.get_mut(&number) {
                        replica.is_cut = true;
                    }
                }
                3..=6 => world.run(Duration::from_millis(rng.u64(1..4_000))),
                7..=12 => {
                    operation += 1;
                    let address = rng.u64(0..6);
                    let Some((seen, _)) = world.read(address) else { continue };
                    let tag = Tag { sequence: seen.sequence + 1, writer: 1, operation };
                    let it = register(address, tag, &format!("{tag:?}"));
                    if world.write(&it) {
                        acknowledged += 1;
                        highest[address as usize] = tag;
                    }
                }
                _ => {
                    let address = rng.u64(0..6);
                    let Some((seen, value)) = world.read(address) else { continue };
                    let least = highest[address as usize];
                    assert!(seen >= least, "seed {seed}: {seen:?} after {least:?} at {address}");
                    highest[address as usize] = seen;
                    if seen != Tag::default() {
                        assert_eq!(value, format!("{seen:?}").into_bytes());
                    }
                }
            }
        }
        world.replicas.values_mut().for_each(|it| (it.is_cut, it.is_deaf) = (false, false));
        world.loss = 0;
        world.run(SECOND.times(60));
        assert!(world.is_moved(), "seed {seed}: {:?} of {:?}", world.active, world.newest());
        moved += 1;
        for address in 0..6 {
            let (seen, _) = world.read(address).expect("all are there");
            assert!(seen >= highest[address as usize], "seed {seed}");
        }
    }
    assert!(acknowledged > 400 && changes > 100 && moved == 60, "{acknowledged}, {changes}");
}
