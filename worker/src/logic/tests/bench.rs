//! The scene of the tests: a worker, and what its masters and balancers say and hear.
//!
//! What storage nodes say to it stands in `segments.rs`.

use proto::ids::LogIndex;
use proto::segment::{AccountingEntry, OutputContent};
use proto::status::{OutputKind, ProgramKind, Role};

use super::*;
use crate::logic::results::Outcome;

pub(super) const JOB: JobId = JobId(0x70);
pub(super) const PRIMARY: Link = Link(1);
pub(super) const AUXILIARY: Link = Link(2);
pub(super) const ASSIGNMENT: u64 = 40;
pub(super) const EPOCH: u64 = 3;

/// A deal, with what a good one says.
#[derive(Clone, Debug)]
pub(super) struct Deal {
    pub(super) tasks: Range<u64>,
    pub(super) attempt: u64,
    pub(super) epoch: u64,
    pub(super) assignment: u64,
    pub(super) group: u64,
    pub(super) incarnation: u64,
    pub(super) cpu_milli: u32,
}

pub(super) fn deal(tasks: Range<u64>) -> Deal {
    let (attempt, epoch, assignment) = (EPOCH << 32 | 1, EPOCH, ASSIGNMENT);
    Deal { tasks, attempt, epoch, assignment, group: 1, incarnation: 7, cpu_milli: 1_000 }
}

impl Deal {
    pub(super) fn record(&self) -> Vec<u8> {
        let mut description = JobDescription::new(Runtime::Noop(Noop::default()));
        description.cpu_milli = self.cpu_milli;
        let request = WorkerRequest {
            job_uuid: JOB.to_wire(),
            first_task: self.tasks.start,
            task_count: self.tasks.end - self.tasks.start,
            job_task_count: 1_000_000,
            attempt: self.attempt,
            epoch: self.epoch,
            worker_incarnation: self.incarnation,
            assignment: self.assignment,
            group: self.group,
            program_kind: ProgramKind::Described.to_wire(),
            ..WorkerRequest::default()
        };
        encode(&request, &[b"", b"", &description.encode().unwrap()])
    }
}

/// A worker with two slots, and everything that it wanted so far.
pub(super) struct Bench {
    pub(super) worker: Worker,
    pub(super) now: Instant,
    pub(super) effects: Vec<Effect>,
}

impl Bench {
    /// Gives the worker as many results without acknowledgement as it may have.
    pub(super) fn fill_results(&mut self) {
        let count = (RESULT_BYTES / size_of::<AccountingEntry>()) as u64;
        let entry = |task_index| AccountingEntry { task_index, ..AccountingEntry::default() };
        self.worker.results.add(Outcome {
            job: JOB,
            tasks: 0..count,
            attempt: 1,
            state: TaskState::Done,
            exit_code: 0,
            cause: Cause::None,
            segment: FileId(0),
            entries: (0..count).map(entry).collect(),
        });
    }

    pub(super) fn new() -> Bench {
        let setting = Setting {
            node: NodeId(0xa),
            incarnation: Incarnation(7),
            cluster: ClusterId(0),
            masters: vec!["m1".into(), "m2".into()],
            address: "w".into(),
            telemetry_address: String::new(),
            zone: String::new(),
            slot_count: 2,
            cpu_milli: 2_000,
            memory_bytes: 1 << 30,
        };
        let worker = Worker::new(setting, fastrand::Rng::with_seed(5));
        Bench { worker, now: Instant(1_000), effects: Vec::new() }
    }

    /// Registered in a group of two balancers that know it.
    pub(super) fn registered() -> Bench {
        let mut bench = Bench::new();
        bench.tick();
        bench.connect(MASTER_LINK, "m1,m2");
        let registered = NodeRegistered {
            index: ASSIGNMENT,
            group: 1,
            epoch: EPOCH,
            ..NodeRegistered::default()
        };
        bench.hear(MASTER_LINK, &encode(&registered, &[b"b1,b2"]));
        bench.connect(PRIMARY, "");
        bench.connect(AUXILIARY, "");
        bench
    }

    pub(super) fn handle(&mut self, event: Event<'_>) {
        self.worker.handle(self.now, event, &mut self.effects);
        self.worker.check_invariants();
        let deadline = self.worker.next_deadline(self.now);
        assert!(deadline.is_none_or(|due| due > self.now), "a deadline that is over");
    }

    pub(super) fn tick(&mut self) {
        self.handle(Event::Tick);
    }

    /// Lets time pass until a moment, deadline by deadline.
    pub(super) fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        while let Some(due) = self.worker.next_deadline(self.now).filter(|&due| due <= until) {
            self.now = due;
            self.tick();
        }
        self.now = until;
        self.tick();
    }

    pub(super) fn sender(link: Link) -> Sender {
        let node = NodeId(0x100 + u128::from(link.0));
        Sender { peer: Peer::Link(link), node, role: Role::Master, incarnation: Incarnation(1) }
    }

    pub(super) fn connect(&mut self, link: Link, masters: &str) {
        let sender = match link.0 {
            number if number >= balancers::LINKS_END => {
                Sender { node: NodeId(1), ..Bench::sender(link) }
            }
            _ => Bench::sender(link),
        };
        self.handle(Event::Network(NetworkEvent::Connected {
            link,
            sender,
            cluster: ClusterId(9),
            applied_index: LogIndex(1),
            window: 64,
            masters: masters.into(),
            again: false,
        }));
    }

    pub(super) fn hear(&mut self, link: Link, record: &[u8]) {
        let record = Records::of(record).next().unwrap().unwrap();
        let sender = Bench::sender(link);
        self.handle(Event::Network(NetworkEvent::Record { sender, record }));
    }

    pub(super) fn end(&mut self, slot: u32, count: u64, state: TaskState) {
        self.end_with(slot, count, state, 0);
    }

    /// Ends tasks of a slot that printed so many bytes each.
    pub(super) fn end_with(&mut self, slot: u32, count: u64, state: TaskState, printed: usize) {
        let content = OutputContent::Packed(vec![b'x'; printed]);
        let kind = OutputKind::Stdout;
        let output = Output { kind, name: Vec::new(), mode: 0, is_cut: false, content };
        let outputs = if printed == 0 { Vec::new() } else { vec![output] };
        let first = self.worker.held.started(slot).unwrap().tasks.start;
        let end = |task| TaskEnd {
            slot,
            task: TaskIndex(task),
            state,
            exit_code: i32::from(state == TaskState::Failed),
            cause: Cause::None,
            start_unix_us: 1,
            wall: Duration(10),
            cpu: Duration(3),
            peak_memory_bytes: 0,
            outputs: outputs.clone(),
        };
        let ends = (first..first + count).map(end).collect();
        self.handle(Event::Ended { ends, given_up: Vec::new() });
    }

    /// The records that were sent over a link since the last call, of one type.
    pub(super) fn sent<T: Message>(&mut self, link: Link) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        self.effects.retain(|effect| match effect {
            Effect::Network(NetworkEffect::Send { to: Peer::Link(to), record })
                if *to == link && record.first() == Some(&T::TYPE) =>
            {
                sent.push(record.clone());
                false
            }
            _ => true,
        });
        sent
    }

    /// Runs of all records of one type that were sent over a link since the last call.
    pub(super) fn runs<T: Message>(&mut self, link: Link) -> Vec<(Range<u64>, u64, u8)> {
        let records = self.sent::<T>(link);
        let parts = records.iter().flat_map(|record| {
            let record = Records::of(record).next().unwrap().unwrap();
            let [runs] = record.parts::<1>().unwrap();
            items_of::<TaskRun>(runs).unwrap().to_vec()
        });
        parts.map(|run| (tasks_of(&run), run.attempt, run.state)).collect()
    }

    /// The status frame that was sent last: its number and what became of which tasks.
    pub(super) fn frame(&mut self) -> (u64, Vec<(Range<u64>, u8)>) {
        let records = self.sent::<WorkerStatus>(MASTER_LINK);
        let mut number = 0;
        let mut runs = Vec::new();
        for record in &records {
            let record = Records::of(record).next().unwrap().unwrap();
            let status: WorkerStatus = record.read().unwrap();
            if status.frame_position == 0 {
                runs.clear();
            }
            number = status.frame;
            runs.push((status.first_task..status.first_task + status.task_count, status.state));
        }
        (number, runs)
    }

    pub(super) fn acknowledge(&mut self, frame: u64, refused: &[TaskRun]) {
        let reply =
            WorkerStatusReply { worker_incarnation: 7, frame, ..WorkerStatusReply::default() };
        self.hear(MASTER_LINK, &encode(&reply, &[bytes_of(refused)]));
    }

    pub(super) fn heartbeat_reply(
        &mut self,
        link: Link,
        epoch: u64,
        last_deal: u64,
        orders: &[TaskRun],
    ) {
        let reply = WorkerHeartbeatReply {
            epoch,
            last_deal,
            assignment: ASSIGNMENT,
            ..WorkerHeartbeatReply::default()
        };
        self.hear(link, &encode(&reply, &[bytes_of(orders)]));
    }

    pub(super) fn started(&mut self) -> Vec<(u32, Range<u64>)> {
        let mut started = Vec::new();
        self.effects.retain(|effect| match effect {
            Effect::Start { slot, tasks, .. } => {
                started.push((*slot, tasks.clone()));
                false
            }
            _ => true,
        });
        started
    }

    pub(super) fn cancelled(&self) -> Vec<u32> {
        let slot = |effect: &Effect| match effect {
            Effect::Cancel { slot } => Some(*slot),
            _ => None,
        };
        self.effects.iter().filter_map(slot).collect()
    }
}

pub(super) fn heartbeats(records: &[Vec<u8>]) -> Vec<WorkerHeartbeat> {
    records.iter().map(|it| Records::of(it).next().unwrap().unwrap().read().unwrap()).collect()
}
