//! A full disk: what is refused, what goes on, and that nothing is lost by it.

use std::sync::{Arc, mpsc};

use node::files::Files;
use proto::ids::LogIndex;
use proto::time::Duration;
use raft::eraftpb::Entry;

use super::cluster::{Cluster, Outcome, folder, id, identity};
use super::ledger::Ledger;
use super::memory_files::MemoryFiles;
use crate::disk::Disk;
use crate::disk_thread::DiskThread;
use crate::ids::{BatchId, MemberId, Term};
use crate::job::{Batch, Done, HardState, Job, Room};
use crate::logic::{Config, Event, Failure, MemberChange, Role};
use crate::snapshot::{SnapshotId, Snapshots};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// A batch with one entry of so many bytes.
fn batch(number: u64, length: usize) -> Batch {
    let index = number + 1;
    let entry = Entry { index, term: 1, data: vec![7; length].into(), ..Entry::default() };
    let hard = HardState { term: 1, vote: 1, commit: index - 1 };
    Batch { id: BatchId(number), reset: None, hard, entries: vec![entry] }
}

fn no_room(cluster: &mut Cluster, member: MemberId, room: Room) {
    cluster.give(member, Event::Disk(Done::Room { room, text: "no room".to_owned() }));
}

#[test]
fn what_finds_no_room_waits_for_it_and_is_durable_then() {
    let memory = MemoryFiles::default();
    let files: Arc<dyn Files> = Arc::new(memory.clone());
    Disk::bootstrap(&files, folder(), &identity(id(1)), "address", &Ledger::default()).unwrap();
    memory.leave_free(Some(MIB));
    let (disk, _) = Disk::open(&files, folder()).unwrap();
    let (tell, told) = mpsc::channel();
    let thread = DiskThread::start::<Ledger>(disk, move |done| tell.send(done).unwrap()).unwrap();
    thread.give(Job::Persist(batch(1, 9 * KIB)));
    assert_eq!(told.recv().unwrap(), Done::Persisted { batch: BatchId(1) });
    assert!(matches!(told.recv().unwrap(), Done::Room { room: Room::Short, .. }));
    thread.give(Job::Persist(batch(2, KIB)));
    assert_eq!(told.recv().unwrap(), Done::Persisted { batch: BatchId(2) }, "the reserve");
    thread.give(Job::Persist(batch(3, 9 * KIB)));
    assert!(matches!(told.recv().unwrap(), Done::Room { room: Room::Gone, .. }));
    assert!(memory.paths().iter().all(|path| !path.ends_with("new-log")), "nothing is half made");
    memory.leave_free(None);
    assert_eq!(told.recv().unwrap(), Done::Persisted { batch: BatchId(3) });
    assert!(matches!(told.recv().unwrap(), Done::Room { room: Room::Enough, .. }));
    drop(thread);
    memory.crash();
    let (_, recovered) = Disk::open(&files, folder()).unwrap();
    assert_eq!(recovered.entries.len(), 3);
}

#[test]
fn a_snapshot_finds_room_in_its_reserve() {
    let memory = MemoryFiles::default();
    let snapshots = Snapshots::new(Arc::new(memory.clone()), folder().join("snapshots"));
    let snapshot = |index| SnapshotId { index: LogIndex(index), term: Term(1) };
    snapshots.write(snapshot(1), &vec![1; 3 * MIB]).unwrap();
    memory.leave_free(Some(MIB));
    snapshots.write(snapshot(2), &vec![2; 3 * MIB]).unwrap();
    memory.crash();
    assert_eq!(snapshots.read(snapshot(2)).unwrap(), vec![2; 3 * MIB]);
    // The reserve is used up and does not come back by itself.
    memory.leave_free(Some(MIB));
    assert!(snapshots.write(snapshot(3), &vec![3; 3 * MIB]).is_err());
    assert_eq!(snapshots.list().unwrap(), [snapshot(2), snapshot(1)]);
    memory.leave_free(None);
    snapshots.write(snapshot(4), &vec![4; 3 * MIB]).unwrap();
    memory.leave_free(Some(MIB));
    snapshots.write(snapshot(5), &vec![5; 3 * MIB]).unwrap();
}

#[test]
fn a_leader_without_room_hands_over_and_work_goes_on() {
    let mut cluster = Cluster::of_three();
    cluster.commit(id(1), b"one");
    no_room(&mut cluster, id(1), Room::Short);
    cluster.run_until("another leads", |cluster| {
        cluster.leader().is_some_and(|leader| leader != id(1))
    });
    cluster.run(Duration::from_secs(1));
    cluster.commit(id(1), b"two");
    no_room(&mut cluster, id(2), Room::Short);
    cluster.run_until("the one with room leads", |cluster| cluster.leader() == Some(id(3)));
    cluster.run(Duration::from_secs(1));
    cluster.commit(id(2), b"three");
    cluster.run(Duration::from_secs(20));
    assert_eq!(cluster.leader(), Some(id(3)), "nobody without room takes it away");
    cluster.agree();
}

#[test]
fn a_leader_that_waits_for_room_asks_all_others_in_turn() {
    let mut cluster = Cluster::of_three();
    no_room(&mut cluster, id(3), Room::Short);
    cluster.nodes.get_mut(&id(1)).unwrap().disk_stands = true;
    cluster.ask(id(1), b"one");
    // Long enough for a leader to give up on its disk.
    cluster.run(Duration::from_secs(3));
    no_room(&mut cluster, id(1), Room::Gone);
    cluster.run_until("the one with room leads", |cluster| cluster.leader() == Some(id(2)));
}

#[test]
fn several_members_without_room_do_not_hide_the_one_that_has_some() {
    let mut cluster = Cluster::of_three();
    cluster.join(id(4));
    let promote = MemberChange::Promote { voters: vec![id(4)], removed: vec![] };
    assert!(matches!(cluster.change_until_taken(id(1), &promote), Outcome::Changed(_)));
    cluster.agree();
    // Of equals the last is asked first.
    for member in [3, 4, 1] {
        no_room(&mut cluster, id(member), Room::Short);
    }
    cluster.run_until("the one with room leads", |cluster| cluster.leader() == Some(id(2)));
}

#[test]
fn a_follower_that_waits_long_for_room_goes_on_answering() {
    let config = Config { tick: Duration::from_millis(5), ..Config::default() };
    let mut cluster = Cluster::three_with(config);
    cluster.nodes.get_mut(&id(2)).unwrap().disk_stands = true;
    cluster.commit(id(1), b"it waits for room");
    cluster.run(Duration::from_millis(20));
    no_room(&mut cluster, id(2), Room::Gone);
    cluster.run(Duration::from_secs(30));
    assert_eq!(cluster.leader(), Some(id(1)));
    let term = cluster.member(id(1)).term();
    cluster.cut.insert(id(3));
    cluster.run(Duration::from_secs(1));
    let leader = cluster.member(id(1));
    let still = (leader.role(), leader.term());
    assert_eq!(still, (Role::Leader, term), "a majority answers");
}

#[test]
fn without_room_anywhere_only_what_makes_room_is_taken() {
    let mut cluster = Cluster::of_three();
    for member in 1..=3 {
        no_room(&mut cluster, id(member), Room::Short);
    }
    cluster.run(Duration::from_secs(20));
    let mut taken = 0;
    for _ in 0..20 {
        assert!(matches!(
            cluster.invoke(id(1), b"more"),
            Outcome::Failed(Failure::NoRoom | Failure::Busy | Failure::NoLeader)
        ));
        taken += usize::from(matches!(cluster.invoke(id(1), b"make room"), Outcome::Completed(..)));
        cluster.run(Duration::from_millis(700));
    }
    assert!(taken >= 15, "{taken} of 20 were taken");
    for member in 1..=3 {
        no_room(&mut cluster, id(member), Room::Enough);
    }
    cluster.run(Duration::from_secs(2));
    cluster.commit(id(1), b"more");
    cluster.agree();
}

#[test]
fn a_follower_without_room_keeps_no_entries_in_memory_and_catches_up() {
    let mut cluster = Cluster::of_three();
    no_room(&mut cluster, id(2), Room::Gone);
    let before = cluster.member(id(2)).last_index();
    for number in 0..50 {
        cluster.commit(id(1), &[number]);
    }
    assert_eq!(cluster.member(id(2)).last_index(), before);
    assert_eq!(cluster.member(id(2)).role(), Role::Follower);
    no_room(&mut cluster, id(2), Room::Enough);
    cluster.agree();
    assert!(cluster.member(id(2)).last_index() > before);
}
