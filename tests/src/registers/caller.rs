//! A client: the shipped coordinator, one operation at a time, and the edge at which mistakes are
//! made.

use std::collections::BTreeMap;

use client::logic::registers::{Ask, AskKey, RegisterError, RegisterRequest, Registers};
use client::logic::ring_view::RingView;
use client::logic::rings::RingAnswer;
use proto::ids::NodeId;
use proto::messages::register::{RegisterValue, RegisterWrite, RegisterWritten};
use proto::record::{Message, Records, encode};
use proto::time::{Duration, Instant};
use proto::wire::WireUuid;

use super::{Mistake, replicas_of};
use crate::linear::Action;

const PATIENCE: Duration = Duration::from_millis(400);

/// Who has not answered for so long is not on the list of who is alive.
const SILENCE: Duration = Duration::from_millis(5);

/// What a client is doing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    pub(super) register: u64,
    pub(super) action: Action,
    pub(super) begin: Instant,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// What was found.
    Done(Option<u64>),
    /// It did not take place.
    Failed,
    /// Nobody knows.
    Unknown,
}

#[derive(Debug)]
pub(super) struct ClientProcess {
    writer: u128,
    pub(super) life: u64,
    registers: Registers,
    view: RingView,
    pub(super) wish: Option<Wish>,
    /// What each node was asked first of what it has not answered, and when.
    silent: BTreeMap<NodeId, (AskKey, Instant)>,
}

impl ClientProcess {
    pub(super) fn new(writer: u128, ring: &RingAnswer) -> ClientProcess {
        let mut view = RingView::new();
        view.answered(Some(ring.clone()));
        let (registers, silent) = (Registers::default(), BTreeMap::new());
        ClientProcess { writer, life: 0, registers, view, wish: None, silent }
    }

    pub(super) fn begin(&mut self, now: Instant, wish: Wish) {
        let request = match wish.action {
            Action::Read(_) => RegisterRequest::Read,
            Action::Write(value) => {
                RegisterRequest::Write { writer: self.writer, value: value.to_le_bytes().to_vec() }
            }
        };
        self.wish = Some(wish);
        let begun = self.registers.begin(now, &mut self.view, wish.register, request, PATIENCE);
        begun.expect("one operation at a time");
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.registers.next_deadline()
    }

    pub(super) fn tick(&mut self, now: Instant) {
        if self.registers.next_deadline().is_some_and(|due| due <= now) {
            self.registers.tick(now, &mut self.view);
        }
        self.registers.check_invariants();
    }

    /// What leaves the client, after the mistake has had its turn.
    pub(super) fn next_ask(&mut self, now: Instant, mistake: Option<Mistake>) -> Option<Ask> {
        loop {
            let mut ask = self.registers.next_ask()?;
            self.silent.entry(ask.to).or_insert((ask.key, now));
            let record = Records::of(&ask.record).next()?.ok()?;
            if record.message_type() != RegisterWrite::TYPE {
                return Some(ask);
            }
            let (mut write, [value]) = record.open::<RegisterWrite, 1>().ok()?;
            let is_read = matches!(self.wish?.action, Action::Read(_));
            match mistake {
                Some(Mistake::NoWriteBack) if is_read => {
                    let (register_address, ring_version) =
                        (write.register_address, write.ring_version);
                    let written =
                        RegisterWritten { register_address, ring_version, ..Default::default() };
                    self.registers.take_written(now, &mut self.view, (ask.to, ask.key), &written);
                }
                Some(Mistake::ReusedTag) if !is_read => {
                    write.writer_uuid = WireUuid::new(1);
                    write.operation = 1;
                    ask.record = encode(&write, &[value]);
                    return Some(ask);
                }
                _ => return Some(ask),
            }
        }
    }

    /// What reaches the client.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        mistake: Option<Mistake>,
        from: NodeId,
        key: AskKey,
        frame: &[u8],
    ) {
        self.silent.remove(&from);
        let record = Records::of(frame).next().expect("a record").expect("it can be read");
        if record.message_type() == RegisterWritten::TYPE {
            let written: RegisterWritten = record.read().expect("it was written");
            self.registers.take_written(now, &mut self.view, (from, key), &written);
        } else {
            let (answer, [value]) = record.open::<RegisterValue, 1>().expect("a value");
            self.registers.take_value(now, &mut self.view, (from, key), &answer, value);
            let is_read = self.wish.is_some_and(|wish| matches!(wish.action, Action::Read(_)));
            if mistake == Some(Mistake::ListOfTheLiving) && is_read {
                for dead in self.believed_dead(now, answer.register_address) {
                    self.registers.take_value(now, &mut self.view, (dead, key), &answer, value);
                }
            }
        }
        self.registers.check_invariants();
    }

    /// Replicas that are not on the list of who is alive.
    fn believed_dead(&self, now: Instant, register: u64) -> Vec<NodeId> {
        let Some(known) = self.view.known() else { return Vec::new() };
        let is_silent =
            |node: &NodeId| self.silent.get(node).is_some_and(|(_, since)| now >= *since + SILENCE);
        replicas_of(&known.ring, register).into_iter().filter(is_silent).collect()
    }

    /// What became of the operation, once it ended.
    pub(super) fn take_ended(&mut self) -> Option<(Wish, Outcome)> {
        let ended = self.registers.next_ended()?;
        let outcome = match ended.result {
            Ok(found) if found.is_written() => {
                let value = found.value.try_into().map(u64::from_le_bytes);
                Outcome::Done(Some(value.expect("eight bytes")))
            }
            Ok(_) => Outcome::Done(None),
            Err(RegisterError::OutcomeUnknown { .. }) => Outcome::Unknown,
            Err(_) => Outcome::Failed,
        };
        Some((self.wish.take()?, outcome))
    }
}
