//! Operations against replicas that answer when they are told to.

use std::collections::BTreeMap;

use node::logic::refusal::Refusal;
use proto::ids::{NodeId, RingVersion, StoreId};
use proto::messages::register::{RegisterRead, RegisterValue, RegisterWrite, RegisterWritten};
use proto::record::{Message, Records};
use proto::ring::{Member, Ring};
use proto::status::ErrorCode;
use proto::wire::WireUuid;

use super::*;
use crate::logic::rings::OlderVersion;

const REGISTER: u64 = 7;

const PATIENCE: Duration = Duration::from_secs(10);

fn ring(version: u64, nodes: std::ops::RangeInclusive<u128>) -> Ring {
    let member = |n| Member { node: NodeId(n), store: StoreId(n), weight: 1, zone: 0 };
    Ring::new(RingVersion(version), 16, nodes.map(member).collect()).unwrap()
}

/// What the masters tell where all registers go by `active`, one of these versions.
fn told(rings: &[Ring], active: u64) -> RingAnswer {
    let (newest, older) = rings.split_last().unwrap();
    let older =
        older.iter().rev().map(|ring| OlderVersion { ring: ring.clone(), holds_blocks: true });
    let members = rings.iter().flat_map(Ring::members);
    RingAnswer {
        ring: newest.clone(),
        older: older.collect(),
        replica_count: 2,
        addresses: members.map(|it| (it.node, "tcp://node".to_owned())).collect(),
        register_versions: vec![RingVersion(active); 16],
    }
}

struct Table {
    registers: Registers,
    view: RingView,
    now: Instant,
    /// What the replicas have.
    durable: BTreeMap<NodeId, Found>,
    /// Questions that nobody answered yet.
    asked: Vec<Ask>,
}

impl Table {
    fn new() -> Table {
        Table::of(Some(told(&[ring(1, 1..=3)], 1)))
    }

    fn of(answer: Option<RingAnswer>) -> Table {
        let mut view = RingView::new();
        if answer.is_some() {
            view.answered(answer);
        }
        Table {
            registers: Registers::default(),
            view,
            now: Instant(5_000_000),
            durable: BTreeMap::new(),
            asked: Vec::new(),
        }
    }

    fn begin(&mut self, request: RegisterRequest) -> OperationId {
        let begun =
            self.registers.begin(self.now, &mut self.view, REGISTER, request, PATIENCE).unwrap();
        self.collect();
        begun
    }

    fn read(&mut self) -> OperationId {
        self.begin(RegisterRequest::Read)
    }

    fn write(&mut self, value: &str) -> OperationId {
        self.begin(RegisterRequest::Write { writer: 9, value: value.into() })
    }

    fn collect(&mut self) {
        self.registers.check_invariants();
        self.asked.extend(std::iter::from_fn(|| self.registers.next_ask()));
    }

    fn tell(&mut self, answer: RingAnswer) {
        self.view.answered(Some(answer));
        self.registers.ring_answered(self.now, &mut self.view);
        self.collect();
    }

    fn wait(&mut self, span: Duration) {
        self.now += span;
        self.registers.tick(self.now, &mut self.view);
        self.collect();
    }

    /// The first question to a node that is not answered, which is taken off the table.
    fn take(&mut self, node: u128) -> Ask {
        let is_it = |ask: &Ask| ask.to == NodeId(node);
        let at = self.asked.iter().position(is_it).expect("the node was asked");
        self.asked.remove(at)
    }

    fn is_asked(&self, node: u128) -> bool {
        self.asked.iter().any(|ask| ask.to == NodeId(node))
    }

    /// A node answers the first question that it has, with what it has.
    fn answer(&mut self, node: u128) {
        let ask = self.take(node);
        self.answer_to(&ask);
    }

    fn answer_to(&mut self, ask: &Ask) {
        let from = (ask.to, ask.key);
        let record = Records::of(&ask.record).next().unwrap().unwrap();
        let there = self.durable.entry(ask.to).or_default();
        if record.message_type() == RegisterRead::TYPE {
            let read: RegisterRead = record.read().unwrap();
            let value = RegisterValue {
                register_address: read.register_address,
                ring_version: read.ring_version,
                sequence: there.tag.sequence,
                writer_uuid: WireUuid::new(there.tag.writer),
                operation: there.tag.operation,
                ..Default::default()
            };
            let content = if read.wants_value == 1 { there.value.clone() } else { Vec::new() };
            self.registers.take_value(self.now, &mut self.view, from, &value, &content);
        } else {
            let (write, [value]) = record.open::<RegisterWrite, 1>().unwrap();
            let writer = write.writer_uuid.value();
            let tag = Tag { sequence: write.sequence, writer, operation: write.operation };
            if tag > there.tag {
                *there = Found { tag, value: value.to_vec() };
            }
            let written = RegisterWritten {
                register_address: write.register_address,
                ring_version: write.ring_version,
                ..Default::default()
            };
            self.registers.take_written(self.now, &mut self.view, from, &written);
        }
        self.collect();
    }

    fn refuse(&mut self, node: u128, code: ErrorCode) {
        let ask = self.take(node);
        let refusal = Refusal::new(code, 0, "not now");
        self.registers.refused(self.now, &mut self.view, (ask.to, ask.key), &refusal);
        self.collect();
    }

    /// What became of an operation; `None` while it is under way.
    fn ended(&mut self, operation: OperationId) -> Option<Result<Found, RegisterError>> {
        let ended = self.registers.next_ended()?;
        assert_eq!(ended.operation, operation);
        Some(ended.result)
    }

    #[track_caller]
    fn value(&mut self, operation: OperationId) -> String {
        let found = self.ended(operation).expect("it has ended").expect("it went well");
        String::from_utf8(found.value).unwrap()
    }
}

#[test]
fn a_write_takes_two_rounds_and_a_read_one() {
    let mut table = Table::new();
    let write = table.write("one");
    table.answer(1);
    assert!(!table.asked.iter().any(|ask| ask.key.round > 1), "one of three is no majority");
    table.answer(2);
    let late = table.take(3);
    table.answer(1);
    assert_eq!(table.ended(write), None);
    table.answer(3);
    assert_eq!(table.value(write), "one");
    table.answer_to(&late);
    // The third of the second round is still on its way.
    table.asked.clear();

    let read = table.read();
    table.answer(1);
    assert_eq!(table.ended(read), None);
    table.answer(3);
    assert_eq!(table.value(read), "one");
    assert!(table.registers.is_idle());
}

#[test]
fn what_nobody_wrote_is_told_without_a_write_back() {
    let mut table = Table::new();
    let read = table.read();
    table.answer(2);
    table.answer(3);
    assert!(!table.ended(read).unwrap().unwrap().is_written());
    assert!(table.durable.values().all(|there| !there.is_written()));
}

#[test]
fn a_read_writes_back_what_no_majority_has_before_it_tells_it() {
    let mut table = Table::new();
    let tag = Tag { sequence: 4, writer: 1, operation: 1 };
    let interrupted = Found { tag, value: b"half".to_vec() };
    table.durable.insert(NodeId(2), interrupted.clone());
    let read = table.read();
    table.answer(1);
    table.answer(2);
    assert_eq!(table.ended(read), None, "one of three has it");
    table.take(3);
    assert!(!table.is_asked(2), "who has it needs not be told");
    table.answer(3);
    assert_eq!(table.value(read), "half");
    assert_eq!(table.durable.get(&NodeId(3)), Some(&interrupted), "under its own tag");
}

#[test]
fn a_write_goes_above_the_highest_tag_and_keeps_its_tag_when_it_is_tried_again() {
    let mut table = Table::new();
    let tag = Tag { sequence: 4, writer: u128::MAX, operation: 1 };
    table.durable.insert(NodeId(2), Found { tag, value: b"old".to_vec() });
    table.write("first");
    table.answer(1);
    table.answer(3);
    table.asked.clear();
    let write = table.write("new");
    table.answer(1);
    table.answer(2);
    table.take(3);
    table.answer(1);
    let chosen = Tag { sequence: 5, writer: 9, operation: 2 };
    assert_eq!(table.durable[&NodeId(1)].tag, chosen);
    // The second is asked until it answers, under the same tag.
    table.asked.clear();
    table.wait(Duration::from_secs(2));
    table.refuse(2, ErrorCode::Unavailable);
    table.wait(Duration::from_secs(2));
    while table.ended(write).is_none() {
        table.answer(2);
    }
    assert_eq!(table.durable[&NodeId(2)].tag, chosen);
}

#[test]
fn a_write_goes_on_with_its_tag_by_a_newer_version() {
    let (old, new) = (ring(1, 1..=3), ring(2, 4..=6));
    let mut table = Table::of(Some(told(std::slice::from_ref(&old), 1)));
    let write = table.write("moved");
    table.answer(1);
    table.answer(2);
    table.take(3);
    table.answer(1);
    let chosen = table.durable[&NodeId(1)].tag;
    table.refuse(2, ErrorCode::StaleRing);
    table.refuse(3, ErrorCode::StaleRing);
    assert!(table.view.take_fetch(table.now), "the masters are asked");

    // The part is not activated yet: who refused is asked again, and refuses again.
    table.tell(told(&[old.clone(), new.clone()], 1));
    table.wait(Duration::from_millis(100));
    table.refuse(2, ErrorCode::StaleRing);
    table.refuse(3, ErrorCode::StaleRing);
    table.tell(told(&[old, new], 2));
    table.answer(5);
    assert_eq!(table.ended(write), None, "what the old replicas have counts for nothing");
    table.answer(6);
    assert_eq!(table.value(write), "moved");
    assert_eq!(table.durable[&NodeId(5)].tag, chosen);
}

#[test]
fn answers_by_two_versions_make_no_majority() {
    let (old, new) = (ring(1, 1..=3), ring(2, 1..=3));
    let mut table = Table::of(Some(told(std::slice::from_ref(&old), 1)));
    let read = table.read();
    table.answer(1);
    let late = table.take(2);
    table.take(3);
    table.tell(told(&[old, new], 2));
    // It was asked by the old version.
    table.answer_to(&late);
    table.answer(1);
    assert_eq!(table.ended(read), None);
    table.answer(2);
    assert!(table.ended(read).is_some());
}

#[test]
fn an_interrupted_write_that_was_written_back_and_overwritten_does_no_harm_when_retried() {
    let mut table = Table::new();
    let slow = table.write("slow");
    table.answer(1);
    table.answer(2);
    table.take(3);
    table.answer(1);
    let kept = table.take(2);
    table.asked.clear();
    // Somebody reads it, writes it back, and overwrites it.
    let read = table.read();
    table.answer(1);
    table.answer(3);
    table.take(2);
    table.answer(3);
    assert_eq!(table.value(read), "slow");
    table.asked.clear();
    let write = table.write("newer");
    table.answer(1);
    table.answer(3);
    table.take(2);
    table.answer(1);
    table.answer(3);
    assert_eq!(table.value(write), "newer");
    table.asked.clear();
    // The first one's question arrives at last.
    table.answer_to(&kept);
    assert_eq!(table.value(slow), "slow");
    let read = table.read();
    table.answer(1);
    table.answer(2);
    while table.is_asked(2) {
        table.answer(2);
    }
    assert_eq!(table.value(read), "newer");
}

#[test]
fn the_copy_of_one_node_is_what_it_has() {
    let mut table = Table::new();
    let tag = Tag { sequence: 1, writer: 1, operation: 1 };
    table.durable.insert(NodeId(2), Found { tag, value: b"here".to_vec() });
    let there = table.begin(RegisterRequest::Local(NodeId(2)));
    assert_eq!(table.asked.len(), 1);
    table.answer(2);
    assert_eq!(table.value(there), "here");
    let empty = table.begin(RegisterRequest::Local(NodeId(3)));
    table.answer(3);
    assert!(!table.ended(empty).unwrap().unwrap().is_written());
    let stranger = table.begin(RegisterRequest::Local(NodeId(8)));
    let node = NodeId(8);
    assert_eq!(table.ended(stranger), Some(Err(RegisterError::NoNode { node })));
}

#[test]
fn what_cannot_be_done_in_time_says_what_became_of_it() {
    let mut table = Table::new();
    let read = table.read();
    let before = table.write("before");
    let after = table.write("after");
    let second: Vec<Ask> =
        table.asked.iter().filter(|ask| ask.key.operation == after).cloned().collect();
    table.answer_to(&second[0]);
    table.answer_to(&second[1]);
    table.wait(PATIENCE);
    let ends: Vec<Ended> = std::iter::from_fn(|| table.registers.next_ended()).collect();
    let end = |id| ends.iter().find(|it| it.operation == id).unwrap().result.clone().unwrap_err();
    assert!(matches!(end(read), RegisterError::Unavailable { address: REGISTER, .. }));
    assert!(
        matches!(end(before), RegisterError::Unavailable { .. }),
        "nobody was told to store it"
    );
    assert!(matches!(end(after), RegisterError::OutcomeUnknown { .. }));

    let mut alone = Table::of(None);
    let read = alone.read();
    assert!(alone.view.take_fetch(alone.now));
    alone.wait(PATIENCE);
    assert_eq!(alone.ended(read), Some(Err(RegisterError::NoRing)));
}

#[test]
fn a_majority_that_refuses_for_good_ends_it_at_once() {
    let mut table = Table::new();
    let read = table.read();
    table.refuse(1, ErrorCode::UnknownType);
    assert_eq!(table.ended(read), None);
    table.refuse(2, ErrorCode::UnknownType);
    let Some(Err(RegisterError::Unavailable { why, .. })) = table.ended(read) else {
        panic!("it has not failed")
    };
    assert!(why.contains("not now"), "{why}");
    table.asked.clear();

    let write = table.write("full");
    table.answer(1);
    table.answer(2);
    table.take(3);
    table.refuse(1, ErrorCode::DiskFull);
    table.refuse(2, ErrorCode::DiskFull);
    assert!(matches!(table.ended(write), Some(Err(RegisterError::OutcomeUnknown { .. }))));
}

#[test]
fn values_over_the_limit_are_refused() {
    let mut table = Table::new();
    let mut begin = |length: usize| {
        let request = RegisterRequest::Write { writer: 9, value: vec![0; length] };
        table.registers.begin(table.now, &mut table.view, REGISTER, request, PATIENCE)
    };
    assert!(begin(REGISTER_VALUE_BYTES).is_ok());
    let length = REGISTER_VALUE_BYTES + 1;
    assert_eq!(begin(length), Err(RegisterError::TooLong { length }));
}
