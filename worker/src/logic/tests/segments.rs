//! What tasks leave, on its way to storage and then to the masters.

use proto::ids::BlockId;
use proto::messages::file::{BlockPresence, BlockPut, BlockQuery, BlockStored};
use proto::messages::node::{RingMember, RingQuery};
use proto::messages::task::WorkerSegment;
use proto::record::set_request_id;

use super::*;

/// The link to the only storage node.
const STORAGE: Link = Link(balancers::LINKS_END);

/// A block that a storage node was sent.
struct Put {
    request: RequestId,
    block: BlockId,
    content: Vec<u8>,
}

impl Put {
    /// Job, task and length of what is printed of everything in it.
    fn tasks(&self) -> Vec<(JobId, u64, usize)> {
        let segment = Segment::open(&self.content).unwrap();
        let of_section = segment.sections().iter().map(|section| {
            let lengths = section.entries.iter().map(|entry| {
                let outputs = section.outputs_of(TaskIndex(entry.task_index));
                let printed: usize = outputs.map(|output| output.content.unwrap().len()).sum();
                (section.job, entry.task_index, printed)
            });
            lengths.collect::<Vec<_>>()
        });
        of_section.flatten().collect()
    }
}

impl Bench {
    /// Answers the question about the ring, if it was asked: one storage node, which answers.
    fn tell_ring(&mut self) {
        if self.sent::<RingQuery>(MASTER_LINK).is_empty() {
            return;
        }
        let member = RingMember {
            node_uuid: NodeId(1).to_wire(),
            store_uuid: NodeId(1).to_wire(),
            weight: 1,
            address_length: 2,
            ..RingMember::default()
        };
        let reply = RingReply {
            ring_version: 4,
            partition_count: 16,
            replica_count: 1,
            ..RingReply::default()
        };
        let members = [member];
        let parts: [&[u8]; 5] = [bytes_of(&members), b"s1", &[], &[], &[]];
        self.hear(MASTER_LINK, &encode(&reply, &parts));
        self.connect(STORAGE, "");
    }

    fn hear_storage(&mut self, mut record: Vec<u8>, request: RequestId) {
        set_request_id(&mut record, request);
        let record = Records::of(&record).next().unwrap().unwrap();
        let sender = Sender { node: NodeId(1), ..Bench::sender(STORAGE) };
        self.handle(Event::Network(NetworkEvent::Record { sender, record }));
    }

    /// Says that nothing is there of what was asked; what is sent then.
    fn puts(&mut self) -> Vec<Put> {
        self.tell_ring();
        for query in self.sent::<BlockQuery>(STORAGE) {
            let query = Records::of(&query).next().unwrap().unwrap();
            let [blocks] = query.parts::<1>().unwrap();
            let presence = BlockPresence { ring_version: 4, ..BlockPresence::default() };
            let presence = encode(&presence, &[&vec![0u8; blocks.len() / 16]]);
            self.hear_storage(presence, query.request_id());
        }
        let puts = self.sent::<BlockPut>(STORAGE);
        let put = |record: &Vec<u8>| {
            let record = Records::of(record).next().unwrap().unwrap();
            let (put, [content]) = record.open::<BlockPut, 1>().unwrap();
            let (request, block) = (record.request_id(), put.block_uuid.into());
            Put { request, block, content: content.to_vec() }
        };
        puts.iter().map(put).collect()
    }

    fn stored(&mut self, put: &Put) {
        let stored = BlockStored { block_uuid: put.block.to_wire(), ..BlockStored::default() };
        self.hear_storage(encode(&stored, &[]), put.request);
    }

    /// Stores what there is.
    pub(super) fn serve_storage(&mut self) {
        for put in self.puts() {
            self.stored(&put);
        }
    }

    /// What the last status frame says: its number, and the tasks with their segment.
    fn reported(&mut self) -> (u64, Vec<(Range<u64>, FileId)>) {
        let (mut number, mut runs) = (0, Vec::new());
        for record in self.sent::<WorkerStatus>(MASTER_LINK) {
            let status: WorkerStatus =
                Records::of(&record).next().unwrap().unwrap().read().unwrap();
            let tasks = status.first_task..status.first_task + status.task_count;
            number = status.frame;
            runs.push((tasks, status.segment_uuid.into()));
        }
        (number, runs)
    }

    /// A slot that executes something, and how many tasks it has.
    fn first_busy(&self) -> Option<(u32, u64)> {
        let mut slots = self.worker.held.slots();
        slots.next().map(|(slot, started)| (slot, started.tasks.end - started.tasks.start))
    }

    fn warnings(&self) -> usize {
        self.effects.iter().filter(|effect| matches!(effect, Effect::Warn(_))).count()
    }
}

#[test]
fn accounting_is_stored_on_the_ring_and_then_reported() {
    let mut bench = Bench::registered();
    bench.hear(PRIMARY, &deal(0..1).record());
    bench.end(0, 1, TaskState::Done);
    bench.acknowledge(1, &[]);
    assert!(bench.puts().is_empty());
    bench.pass(Duration::from_secs(2));
    let puts = bench.puts();
    assert_eq!(puts[0].tasks(), [(JOB, 0, 0)]);
    let segment = Segment::open(&puts[0].content).unwrap();
    assert_eq!({ segment.sections()[0].entries[0].node_uuid }, NodeId(0xa).to_wire());
    assert!(bench.sent::<WorkerSegment>(MASTER_LINK).is_empty(), "not before it is durable");
    bench.stored(&puts[0]);
    let reports = bench.sent::<WorkerSegment>(MASTER_LINK);
    let (report, [runs]) =
        Records::of(&reports[0]).next().unwrap().unwrap().open::<WorkerSegment, 1>().unwrap();
    assert_eq!(FileId::from(report.segment_uuid).0, puts[0].block.0);
    assert_eq!(items_of::<TaskRun>(runs).unwrap(), [task_run(JOB, &(0..1), 0, 0)]);
    bench.acknowledge(2, &[]);
    assert!(bench.worker.results.is_empty() && bench.worker.accounting.is_empty());
}

#[test]
fn what_wrote_something_is_reported_when_it_is_durable_and_accounted_for_once() {
    let mut bench = Bench::registered();
    bench.hear(PRIMARY, &deal(0..2).record());
    bench.runs::<TaskFree>(PRIMARY);
    bench.end_with(0, 1, TaskState::Failed, 20);
    assert_eq!(bench.runs::<TaskFree>(PRIMARY).len(), 1, "the slot is free at once");
    bench.end(1, 1, TaskState::Done);
    let (number, runs) = bench.reported();
    assert_eq!(runs, [(1..2, FileId(0))], "what wrote nothing waits for nothing");
    bench.acknowledge(number, &[]);
    let puts = bench.puts();
    assert_eq!(puts[0].tasks(), [(JOB, 0, 20)]);
    assert_eq!(bench.reported().1, [], "not before it is durable");
    assert_eq!(bench.worker.held.run_count(), 1);
    bench.stored(&puts[0]);
    let (number, runs) = bench.reported();
    assert_eq!(runs, [(0..1, FileId(puts[0].block.0))]);
    bench.acknowledge(number, &[]);
    assert_eq!(bench.worker.held.run_count(), 0);
    bench.pass(Duration::from_secs(3));
    let puts = bench.puts();
    assert_eq!(puts[0].tasks(), [(JOB, 1, 0)], "the other one's accounting alone");
}

#[test]
fn a_busy_worker_fills_its_segments_and_an_idle_one_does_not_wait() {
    let mut bench = Bench::registered();
    bench.hear(PRIMARY, &deal(0..40).record());
    let started = bench.now;
    bench.end_with(0, 1, TaskState::Done, 20);
    let puts = bench.puts();
    assert_eq!(puts[0].tasks(), [(JOB, 0, 20)], "the first one waits for nothing");
    bench.stored(&puts[0]);
    bench.end_with(0, 5, TaskState::Done, 20);
    bench.pass(Duration::from_millis(999));
    assert!(bench.puts().is_empty());
    bench.end_with(1, 1, TaskState::Done, 20);
    bench.pass((started + Duration::from_millis(1_000)).since(bench.now));
    let puts = bench.puts();
    let mut tasks: Vec<u64> = puts[0].tasks().iter().map(|(_, task, _)| *task).collect();
    assert_eq!((puts.len(), tasks.len()), (1, 6), "all that there is, in one");
    bench.stored(&puts[0]);
    while let Some((slot, left)) = bench.first_busy() {
        assert!(bench.puts().is_empty());
        bench.end_with(slot, left, TaskState::Done, 20);
    }
    // Nothing is left to do, nor comes for a moment.
    assert!(bench.puts().is_empty());
    bench.pass(Duration::from_millis(50));
    tasks.push(0);
    let puts = bench.puts();
    tasks.extend(puts[0].tasks().iter().map(|(_, task, _)| *task));
    tasks.sort_unstable();
    assert!(tasks.into_iter().eq(0..40));
}

#[test]
fn what_cannot_be_stored_is_warned_of_and_stored_later_unchanged() {
    let mut bench = Bench::registered();
    bench.hear(PRIMARY, &deal(0..1).record());
    bench.end_with(0, 1, TaskState::Done, 20);
    let first = bench.puts();
    assert_eq!(first.len(), 1);
    let refusal = Refusal::new(ErrorCode::PinLapsed, BlockPut::TYPE, "upload again");
    bench.hear_storage(refusal.to_record(first[0].request), first[0].request);
    assert_eq!(bench.warnings(), 1);
    assert!(bench.worker.result_bytes() > 0);
    bench.pass(Duration::from_millis(999));
    assert!(bench.puts().is_empty());
    bench.pass(Duration::from_millis(1));
    let again = bench.puts().remove(0);
    assert_eq!(bench.reported().1, []);
    assert_eq!((again.block, &again.content), (first[0].block, &first[0].content));
    bench.stored(&again);
    let (number, runs) = bench.reported();
    assert_eq!(runs, [(0..1, FileId(again.block.0))]);
    bench.acknowledge(number, &[]);
    assert_eq!(bench.worker.result_bytes(), 0);
}

#[test]
fn where_outputs_fill_their_room_no_task_is_started_or_taken() {
    const LARGE: usize = 1_000_000;
    let mut bench = Bench::registered();
    bench.hear(PRIMARY, &deal(0..200).record());
    let mut printed = 0;
    while let Some((slot, count)) = bench.first_busy() {
        assert!(count <= 2, "a piece is bounded by what it is expected to write");
        bench.end_with(slot, count, TaskState::Done, LARGE);
        printed += count as usize * LARGE;
    }
    assert!((OUTPUT_BYTES..OUTPUT_BYTES + (8 << 20)).contains(&printed), "{printed}");
    assert!(bench.worker.held.waiting_count() > 100);
    bench.sent::<WorkerHeartbeat>(PRIMARY);
    bench.pass(Duration::from_millis(500));
    assert_eq!(heartbeats(&bench.sent::<WorkerHeartbeat>(PRIMARY))[0].refusing, 1);
    assert!(bench.worker.explain().contains("not on storage"), "{}", bench.worker.explain());
    let puts = bench.puts();
    assert_eq!(puts.len(), 1);
    bench.stored(&puts[0]);
    assert_eq!(bench.worker.held.slots().count(), 2, "there is room again");
}

#[test]
fn a_stopping_worker_delivers_what_was_written_and_drops_what_lost_attempts_wrote() {
    let mut bench = Bench::registered();
    bench.hear(PRIMARY, &deal(0..2).record());
    bench.end_with(0, 1, TaskState::Done, 20);
    let first = bench.puts();
    bench.hear(PRIMARY, &Deal { attempt: 9, ..deal(2..3) }.record());
    bench.end_with(0, 1, TaskState::Done, 20);
    bench.handle(Event::Stop);
    bench.end_with(1, 1, TaskState::Lost, 20);
    let (number, runs) = bench.reported();
    assert_eq!(runs, [(1..2, FileId(0))]);
    bench.acknowledge(number, &[]);
    assert!(!bench.worker.is_finished(bench.now));
    bench.stored(&first[0]);
    // Behind it at once, without a timer.
    let second = bench.puts();
    assert_eq!(second[0].tasks(), [(JOB, 2, 20)]);
    bench.stored(&second[0]);
    for number in [2, 3] {
        assert!(!bench.worker.is_finished(bench.now));
        bench.acknowledge(number, &[]);
    }
    assert!(bench.worker.is_finished(bench.now));
}
