//! Reads and writes of registers: atomic shared memory on the storage nodes (Attiya, Bar-Noy and
//! Dolev, "Sharing memory robustly in message-passing systems", 1995, with several writers).
//!
//! Responsible for what replicas are asked and what follows from the answers. A majority decides,
//! never a list of who is alive. Deliberately not for links and requests in flight: whoever embeds
//! this sends [`Registers::next_ask`] and says what came of it; nor for asking the masters for the
//! ring.

mod operation;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use node::logic::refusal::Refusal;
use proto::ids::{NodeId, RingVersion};
use proto::limits::REGISTER_VALUE_BYTES;
use proto::messages::register::{RegisterValue, RegisterWritten};
use proto::register::{Tag, part_count, part_of, replicas};
use proto::status::ErrorCode;
use proto::time::{Duration, Instant};

use super::ring_view::RingView;
use super::rings::RingAnswer;
use operation::{Kind, Operation};

/// Operations that are under way together; beyond it they are refused.
const OPERATIONS: usize = 4096;

/// Pause before a replica is asked for which there was no room.
const ROOM_PAUSE: Duration = Duration::from_millis(5);

/// Pause before a replica is asked again that is not reached at present.
const REST: Duration = Duration::from_millis(100);

/// Names an operation within its [`Registers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u64);

/// What is wanted of a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterRequest {
    /// What is in it.
    Read,
    /// To put a value into it.
    Write {
        /// The writer's UUID. It must be a new one at each start of the program, because writes are
        /// counted from 1 on.
        writer: u128,
        /// At most [`REGISTER_VALUE_BYTES`].
        value: Vec<u8>,
    },
    /// What one node has of it, whatever the others have: for looking, not for deciding.
    Local(NodeId),
}

/// What was found, or stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The write that it comes from; the default where there was none.
    pub tag: Tag,
    /// The value.
    pub value: Vec<u8>,
}

impl Found {
    /// False where nobody wrote it.
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.tag != Tag::default()
    }
}

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterError {
    /// The value is longer than a register holds.
    TooLong {
        /// Its bytes.
        length: usize,
    },
    /// The ring does not have the node that was to be looked at.
    NoNode {
        /// The node.
        node: NodeId,
    },
    /// No master told in the time given where registers are. A write has not taken effect.
    NoRing,
    /// No majority of its replicas answered in the time given. A write has not taken effect.
    Unavailable {
        /// The register.
        address: u64,
        /// What went wrong last.
        why: String,
    },
    /// Some replicas may have the new value, but no majority said so in the time given: others may
    /// read it or not.
    OutcomeUnknown {
        /// The register.
        address: u64,
        /// What went wrong last.
        why: String,
    },
    /// Too many operations are under way already.
    TooMany,
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RegisterError::TooLong { length } => write!(
                f,
                "the value has {length} bytes where a register holds at most {REGISTER_VALUE_BYTES}"
            ),
            RegisterError::NoNode { node } => {
                write!(f, "the ring has no storage node {node}")
            }
            RegisterError::NoRing => f.write_str("no master tells where registers are"),
            RegisterError::Unavailable { address, why } => {
                write!(f, "register {address} is unavailable at present: {why}")
            }
            RegisterError::OutcomeUnknown { address, why } => {
                write!(f, "whether register {address} was written is not known: {why}")
            }
            RegisterError::TooMany => {
                write!(f, "more than {OPERATIONS} operations on registers are under way")
            }
        }
    }
}

impl std::error::Error for RegisterError {}

/// A question to a replica, as its answer names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AskKey {
    operation: OperationId,
    round: u32,
}

/// A question that is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// To this storage node.
    pub to: NodeId,
    /// Which question it is.
    pub key: AskKey,
    /// The record, without a request id.
    pub record: Vec<u8>,
}

/// An operation that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The operation.
    pub operation: OperationId,
    /// What it found or stored, or why it failed.
    pub result: Result<Found, RegisterError>,
}

/// Where a register is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    version: RingVersion,
    replicas: Vec<NodeId>,
}

impl Place {
    fn of(known: &RingAnswer, address: u64) -> Place {
        let part = part_of(address, part_count(&known.ring));
        match known.of_part(part) {
            Some(ring) => Place { version: ring.version(), replicas: replicas(ring, part) },
            None => Place { version: known.ring.version(), replicas: Vec::new() },
        }
    }
}

/// All operations that are under way.
///
/// The contract: after each call, send what [`Registers::next_ask`] hands out until there is none,
/// take [`Registers::next_ended`], and call [`Registers::tick`] at [`Registers::next_deadline`].
#[derive(Debug, Default)]
pub struct Registers {
    operations: BTreeMap<OperationId, (Operation, Option<NodeId>)>,
    last_operation: u64,
    last_write: u64,
    asks: VecDeque<Ask>,
    ended: VecDeque<Ended>,
}

impl Registers {
    /// True where nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.operations.is_empty()
    }

    /// Begins an operation, which ends within `patience`.
    ///
    /// # Errors
    /// [`RegisterError::TooLong`] and [`RegisterError::TooMany`].
    pub fn begin(
        &mut self,
        now: Instant,
        view: &mut RingView,
        address: u64,
        request: RegisterRequest,
        patience: Duration,
    ) -> Result<OperationId, RegisterError> {
        if self.operations.len() >= OPERATIONS {
            return Err(RegisterError::TooMany);
        }
        let (kind, only) = match request {
            RegisterRequest::Read => (Kind::Read, None),
            RegisterRequest::Local(node) => (Kind::Local, Some(node)),
            RegisterRequest::Write { value, .. } if value.len() > REGISTER_VALUE_BYTES => {
                return Err(RegisterError::TooLong { length: value.len() });
            }
            RegisterRequest::Write { writer, value } => {
                self.last_write += 1;
                (Kind::Write { writer, number: self.last_write, value }, None)
            }
        };
        self.last_operation += 1;
        let id = OperationId(self.last_operation);
        self.operations.insert(id, (Operation::new(address, kind, now + patience), only));
        self.place(now, view, id);
        Ok(id)
    }

    /// Says who has to be asked by what is known of the ring.
    fn place(&mut self, now: Instant, view: &mut RingView, id: OperationId) {
        let Some((operation, only)) = self.operations.get_mut(&id) else { return };
        let Some(known) = view.known() else {
            view.want_again();
            return;
        };
        let mut place = Place::of(known, operation.address);
        if let Some(node) = *only {
            if !known.addresses.contains_key(&node) {
                return self.end(id, Err(RegisterError::NoNode { node }));
            }
            place.replicas = vec![node];
        }
        operation.place(now, place);
        if operation.is_lost() {
            view.want_refresh(now);
        }
        self.go_on(now, id);
    }

    /// Goes by what the masters answered, which may be nothing new.
    pub fn ring_answered(&mut self, now: Instant, view: &mut RingView) {
        let all: Vec<OperationId> = self.operations.keys().copied().collect();
        for id in all {
            self.place(now, view, id);
        }
    }

    /// Ends an operation that can be ended, else asks whom it has to ask now.
    fn go_on(&mut self, now: Instant, id: OperationId) {
        let Some((operation, _)) = self.operations.get_mut(&id) else { return };
        if let Some(result) = operation.decide(now) {
            return self.end(id, result);
        }
        let asks = operation.asks(now);
        let key = AskKey { operation: id, round: operation.round };
        self.asks.extend(asks.into_iter().map(|(to, record)| Ask { to, key, record }));
    }

    fn end(&mut self, operation: OperationId, result: Result<Found, RegisterError>) {
        self.operations.remove(&operation);
        self.ended.push_back(Ended { operation, result });
    }

    /// The next question to send.
    pub fn next_ask(&mut self) -> Option<Ask> {
        self.asks.pop_front()
    }

    /// The next operation that ended.
    pub fn next_ended(&mut self) -> Option<Ended> {
        self.ended.pop_front()
    }

    fn of(&mut self, key: AskKey) -> Option<&mut Operation> {
        let (operation, _) = self.operations.get_mut(&key.operation)?;
        (operation.round == key.round).then_some(operation)
    }

    /// A replica tells what it has.
    pub fn take_value(
        &mut self,
        now: Instant,
        view: &mut RingView,
        (node, key): (NodeId, AskKey),
        answer: &RegisterValue,
        value: &[u8],
    ) {
        let tag = Tag {
            sequence: answer.sequence,
            writer: answer.writer_uuid.value(),
            operation: answer.operation,
        };
        let answers = (answer.register_address, RingVersion(answer.ring_version));
        if let Some(operation) = self.answered(now, view, (node, key), answers) {
            operation.take_value(node, Found { tag, value: value.to_vec() });
            self.go_on(now, key.operation);
        }
    }

    /// A replica has what it was to keep.
    pub fn take_written(
        &mut self,
        now: Instant,
        view: &mut RingView,
        (node, key): (NodeId, AskKey),
        answer: &RegisterWritten,
    ) {
        let answers = (answer.register_address, RingVersion(answer.ring_version));
        if let Some(operation) = self.answered(now, view, (node, key), answers) {
            operation.take_written(node);
            self.go_on(now, key.operation);
        }
    }

    /// The operation that an answer is about. One about another register, or by another version,
    /// counts as a refusal.
    fn answered(
        &mut self,
        now: Instant,
        view: &mut RingView,
        (node, key): (NodeId, AskKey),
        (address, version): (u64, RingVersion),
    ) -> Option<&mut Operation> {
        let operation = self.of(key)?;
        if operation.address != address || !operation.goes_by(version) {
            let text = "it answers by another version of the ring";
            let refusal = Refusal::new(ErrorCode::StaleRing, 0, text);
            self.refused(now, view, (node, key), &refusal);
            return None;
        }
        self.of(key)
    }

    /// A replica refused. Where it goes by another version, the masters are asked for the ring;
    /// the others may be enough meanwhile.
    pub fn refused(
        &mut self,
        now: Instant,
        view: &mut RingView,
        (node, key): (NodeId, AskKey),
        refusal: &Refusal,
    ) {
        if self.of(key).is_some_and(|operation| operation.refused(now, node, refusal)) {
            view.want_again();
        }
        self.go_on(now, key.operation);
    }

    /// A question could not be sent for want of room: it is asked again in a moment.
    pub fn not_sent(&mut self, now: Instant, node: NodeId, key: AskKey) {
        if let Some(operation) = self.of(key) {
            operation.failed(node, now + ROOM_PAUSE, "");
        }
    }

    /// A question is not going to be answered.
    pub fn failed(&mut self, now: Instant, node: NodeId, key: AskKey, why: &str) {
        if let Some(operation) = self.of(key) {
            operation.failed(node, now + REST, why);
        }
    }

    /// A question was lost with its connection, which is there again.
    pub fn ask_again(&mut self, now: Instant, node: NodeId, key: AskKey) {
        if let Some(operation) = self.of(key) {
            operation.failed(node, now, "");
        }
        self.go_on(now, key.operation);
    }

    /// Asks again what was not answered, and gives up what took too long.
    pub fn tick(&mut self, now: Instant, view: &mut RingView) {
        let is_due = |it: &(&OperationId, &(Operation, _))| it.1.0.deadline() <= now;
        let due: Vec<OperationId> =
            self.operations.iter().filter(is_due).map(|(id, _)| *id).collect();
        if !due.is_empty() {
            // Replicas that say nothing may be gone, and their register elsewhere.
            view.want_refresh(now);
        }
        for id in due {
            match self.operations.get(&id) {
                Some((operation, _)) if operation.until <= now => {
                    let failure = match view.known() {
                        None => RegisterError::NoRing,
                        Some(_) => operation.failure(),
                    };
                    self.end(id, Err(failure));
                }
                _ => self.go_on(now, id),
            }
        }
    }

    /// When to call [`Registers::tick`].
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.operations.values().map(|(operation, _)| operation.deadline()).min()
    }

    /// Panics on a broken invariant.
    pub fn check_invariants(&self) {
        assert!(self.operations.len() <= OPERATIONS, "operations are bounded");
        for (operation, _) in self.operations.values() {
            operation.check_invariants();
        }
    }
}
