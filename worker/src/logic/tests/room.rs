//! A worker whose disk is full.

use super::*;

#[test]
fn a_worker_without_room_begins_nothing_and_tells_what_it_has() {
    let mut bench = Bench::registered();
    bench.hear(PRIMARY, &deal(0..10).record());
    assert_eq!(bench.started(), [(0, 0..1), (1, 1..2)]);
    bench.sent::<WorkerHeartbeat>(PRIMARY);
    bench.handle(Event::Room { is_short: true });
    assert!(
        bench.effects.iter().any(|it| matches!(it, Effect::Warn(text) if text.contains("full")))
    );
    let beats = heartbeats(&bench.sent::<WorkerHeartbeat>(PRIMARY));
    assert_eq!(beats.iter().map(|beat| beat.refusing).collect::<Vec<_>>(), [1], "at once");
    assert_eq!(bench.runs::<TaskReturned>(PRIMARY), [(2..10, EPOCH << 32 | 1, 0)], "for others");
    // What runs goes on, and its outcome goes out; nothing follows it.
    bench.end(0, 1, TaskState::Done);
    let (number, told) = bench.frame();
    assert_eq!(told, [(0..1, TaskState::Done.to_wire())]);
    bench.acknowledge(number, &[]);
    bench.pass(Duration::from_secs(2));
    assert!(bench.started().is_empty());
    assert!(bench.worker.explain().contains("the disk"), "{}", bench.worker.explain());
    bench.handle(Event::Room { is_short: false });
    bench.pass(Duration::from_secs(1));
    let beats = heartbeats(&bench.sent::<WorkerHeartbeat>(PRIMARY));
    assert_eq!(beats.last().map(|beat| beat.refusing), Some(0));
}
