//! Blocks and files on their way to and from the storage nodes.
//!
//! Responsible for where blocks go and come from, for asking before sending, for what is in flight,
//! for dead, busy, full and refusing nodes, and for proving every byte that comes back. Contents
//! pass through: what is to be sent is asked of the owner block by block ([`Output::ReadSource`]),
//! what arrives is handed over ([`Output::Piece`]); neither is kept. Deliberately not for reading
//! the source, for hashing it ([`super::files`]), nor for asking the masters for the ring
//! ([`Output::FetchRing`]): whoever embeds this has links to them already.
//! Operations on registers ([`super::registers`]) share its links.

mod gets;
mod nodes;
mod puts;
mod registers;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;

use node::logic::network::{NetworkEffect, NetworkEvent, Peer, Sender};
use node::logic::refusal::Refusal;
use proto::digest::WrongDigest;
use proto::ids::{BlockId, FileId, NodeId, RequestId};
use proto::messages::file::{BlockContent, BlockPresence, BlockStored};
use proto::messages::register::{RegisterValue, RegisterWritten};
use proto::messages::session::ErrorReply;
use proto::record::{Message, Record, RecordError};
use proto::status::{BlockKind, ErrorCode};
use proto::time::{Duration, Instant};

use super::registers::Registers;
use super::ring_view::RingView;
use super::rings::RingAnswer;
use gets::Gets;
use nodes::{Asked, Nodes, Overdue};
use puts::Puts;

/// How long a block is tried again and again, from its first failure on, before it is given up,
/// where the caller says nothing else.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(30);

/// Pause before a block is tried again on nodes that all failed.
const REST: Duration = Duration::from_millis(300);

/// Puts and gets that are under way together; beyond it they are refused.
const TRANSFERS: usize = 65_536;

/// Names a put within its [`Transfer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PutId(pub u64);

/// Names a get within its [`Transfer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GetId(pub u64);

/// A block of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct BlockKey {
    put: PutId,
    index: usize,
}

/// A block of a get; `index` is [`gets::HEAD`] for a file's first, which tells what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct FetchKey {
    get: GetId,
    index: usize,
}

/// A block that is to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceBlock {
    /// Its id, made from the digest of its bytes.
    pub block: BlockId,
    /// What it holds.
    pub kind: BlockKind,
    /// Its bytes.
    pub length: u64,
}

/// The pin under which blocks are stored or asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pin {
    /// Its UUID; 0 for none.
    pub uuid: u128,
    /// Round in which it began.
    pub round: u64,
}

/// Under which terms blocks are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PutTerms {
    /// The pin.
    pub pin: Pin,
    /// Replicas that each block is to have, 1 to [`proto::limits::REPLICAS`], or one on each node
    /// where there are fewer nodes; 0 for the cluster's default.
    pub replica_count: u8,
}

/// What a put did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PutReport {
    /// Blocks in all.
    pub block_count: u64,
    /// Their bytes.
    pub block_bytes: u64,
    /// Blocks that were durable on enough nodes before, or are the same as another one of the put.
    pub present_count: u64,
    /// Their bytes.
    pub present_bytes: u64,
    /// Bytes that were sent, replicas counted each.
    pub sent_bytes: u64,
    /// Nodes on which every block is durable, at least; 0 where nothing was stored.
    pub replica_count: usize,
}

impl PutReport {
    /// Takes account of a block that is durable on so many nodes.
    fn note_replicas(&mut self, count: usize) {
        self.replica_count = match self.replica_count {
            0 => count,
            least => least.min(count),
        };
    }

    /// Adds what another put did.
    pub fn add(&mut self, other: PutReport) {
        self.block_count += other.block_count;
        self.block_bytes += other.block_bytes;
        self.present_count += other.present_count;
        self.present_bytes += other.present_bytes;
        self.sent_bytes += other.sent_bytes;
        if other.replica_count > 0 {
            self.note_replicas(other.replica_count);
        }
    }
}

/// Why a transfer failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransferError {
    /// All candidates answered that they do not have it.
    NotFound {
        /// The block.
        block: BlockId,
    },
    /// Not all could be asked, or not enough took it, in the time given.
    Unavailable {
        /// The block.
        block: BlockId,
        /// What the last of them said.
        why: String,
    },
    /// Enough nodes are there, but their disks are full.
    DiskFull {
        /// The block.
        block: BlockId,
    },
    /// The source could not be read.
    Source {
        /// What the reader said.
        why: String,
    },
    /// The source changed after it was named: its bytes are those of another block.
    SourceChanged {
        /// The block.
        block: BlockId,
    },
    /// The pin lapsed; everything is to be stored again under a new one.
    PinLapsed,
    /// A storage node refused for good.
    Refused {
        /// Its code.
        code: ErrorCode,
        /// Its sentence.
        text: String,
    },
    /// What the file's UUID names is no file of this version.
    NotAFile {
        /// The file.
        file: FileId,
        /// Why.
        why: String,
    },
    /// Too many transfers are under way already.
    TooMany,
}

impl fmt::Display for TransferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TransferError::NotFound { block } => {
                write!(f, "no storage node has block {block}")
            }
            TransferError::Unavailable { block, why } => {
                write!(f, "block {block} is unavailable at present: {why}")
            }
            TransferError::DiskFull { block } => {
                write!(f, "the disks of the storage nodes have no room for block {block}")
            }
            TransferError::Source { why } => write!(f, "the source cannot be read: {why}"),
            TransferError::SourceChanged { block } => {
                write!(f, "the source changed while it was being stored (block {block})")
            }
            TransferError::PinLapsed => f.write_str("the pin lapsed: upload again"),
            TransferError::Refused { code, text } => {
                write!(f, "a storage node refused ({code}): {text}")
            }
            TransferError::NotAFile { file, why } => {
                write!(f, "{file} cannot be read as a file: {why}")
            }
            TransferError::TooMany => {
                write!(f, "more than {TRANSFERS} transfers are under way")
            }
        }
    }
}

impl std::error::Error for TransferError {}

/// What a transfer needs or has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask the masters for the ring and hand the answer to [`Transfer::ring_answered`].
    FetchRing,
    /// Read a block of a put's source and hand it to [`Transfer::source_read`]. Asked again where
    /// a node failed meanwhile.
    ReadSource {
        /// The put.
        put: PutId,
        /// Position of the block in the list that the put was begun with.
        index: usize,
    },
    /// A put ended: every block is durable on as many nodes as there are replicas, or an error.
    Stored {
        /// The put.
        put: PutId,
        /// What it did.
        result: Result<PutReport, TransferError>,
    },
    /// A file was found.
    Opened {
        /// The get.
        get: GetId,
        /// Bytes of the whole file.
        length: u64,
    },
    /// Bytes of a file or block, verified. Pieces come in any order, without overlap.
    Piece {
        /// The get.
        get: GetId,
        /// Where in the file they belong.
        offset: u64,
        /// The bytes.
        content: Vec<u8>,
    },
    /// A get ended: all of its pieces were handed over, or an error.
    Fetched {
        /// The get.
        get: GetId,
        /// Bytes that were handed over.
        result: Result<u64, TransferError>,
    },
}

/// Stores and fetches blocks and files.
///
/// The embedding loop's contract: hand every [`NetworkEvent`] to [`Transfer::handle`], perform the
/// effects, call [`Transfer::tick`] at [`Transfer::next_deadline`], and take
/// [`Transfer::next_output`] until there is none after each of these.
#[derive(Debug)]
pub struct Transfer {
    view: RingView,
    nodes: Nodes,
    puts: Puts,
    gets: Gets,
    registers: Registers,
    outputs: VecDeque<Output>,
    give_up_after: Duration,
    last_id: u64,
    /// Records that could not be read, or that nobody waits for.
    pub unexpected_records: u64,
}

impl Transfer {
    /// Nothing under way. Links to storage nodes get numbers out of `links`, which the embedding
    /// loop uses for nothing else; there should be one for each storage node.
    #[must_use]
    pub fn new(links: Range<u32>) -> Transfer {
        Transfer {
            view: RingView::new(),
            nodes: Nodes::new(links),
            puts: Puts::default(),
            gets: Gets::default(),
            registers: Registers::default(),
            outputs: VecDeque::new(),
            give_up_after: GIVE_UP_AFTER,
            last_id: 0,
            unexpected_records: 0,
        }
    }

    /// How long a block is tried again and again, from its first failure on, before it is given up.
    pub fn set_give_up_after(&mut self, span: Duration) {
        self.give_up_after = span;
    }

    /// The ring as far as it is known.
    #[must_use]
    pub fn ring(&self) -> &RingView {
        &self.view
    }

    /// True where nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.puts.is_empty() && self.gets.is_empty() && self.registers.is_idle()
    }

    /// Begins to store blocks; ends with [`Output::Stored`].
    ///
    /// # Errors
    /// [`TransferError::TooMany`].
    pub fn put<E: From<NetworkEffect>>(
        &mut self,
        now: Instant,
        blocks: Vec<SourceBlock>,
        terms: PutTerms,
        effects: &mut Vec<E>,
    ) -> Result<PutId, TransferError> {
        if self.puts.len() + self.gets.len() >= TRANSFERS {
            return Err(TransferError::TooMany);
        }
        self.last_id += 1;
        let put = PutId(self.last_id);
        self.begin_put(put, blocks, terms);
        self.go_on(now, effects);
        Ok(put)
    }

    /// Takes a block that [`Output::ReadSource`] asked for.
    pub fn source_read<E: From<NetworkEffect>>(
        &mut self,
        now: Instant,
        put: PutId,
        index: usize,
        content: Result<&[u8], String>,
        effects: &mut Vec<E>,
    ) {
        self.take_source(now, BlockKey { put, index }, content);
        self.go_on(now, effects);
    }

    /// Begins to fetch one block of a known kind as a whole; ends with [`Output::Fetched`].
    /// `length` is how many bytes are expected, where that is known.
    ///
    /// # Errors
    /// [`TransferError::TooMany`].
    pub fn get_block<E: From<NetworkEffect>>(
        &mut self,
        now: Instant,
        block: BlockId,
        kind: BlockKind,
        length: Option<u64>,
        effects: &mut Vec<E>,
    ) -> Result<GetId, TransferError> {
        let get = self.next_get()?;
        self.begin_block(now, get, block, kind, length);
        self.go_on(now, effects);
        Ok(get)
    }

    /// Begins to fetch a part of a file, as much of it as there is; ends with [`Output::Fetched`].
    /// The whole file is `0..u64::MAX`. `length` is how long the file is, where that is known.
    ///
    /// # Errors
    /// [`TransferError::TooMany`].
    pub fn get_file<E: From<NetworkEffect>>(
        &mut self,
        now: Instant,
        file: FileId,
        range: Range<u64>,
        length: Option<u64>,
        effects: &mut Vec<E>,
    ) -> Result<GetId, TransferError> {
        let get = self.next_get()?;
        self.begin_file(now, get, file, range, length);
        self.go_on(now, effects);
        Ok(get)
    }

    fn next_get(&mut self) -> Result<GetId, TransferError> {
        if self.puts.len() + self.gets.len() >= TRANSFERS {
            return Err(TransferError::TooMany);
        }
        self.last_id += 1;
        Ok(GetId(self.last_id))
    }

    /// Says that so many bytes of pieces were used up, so that more may be fetched: a slow disk
    /// slows the network down.
    pub fn consumed<E: From<NetworkEffect>>(
        &mut self,
        now: Instant,
        get: GetId,
        bytes: u64,
        effects: &mut Vec<E>,
    ) {
        self.take_consumed(now, get, bytes);
        self.go_on(now, effects);
    }

    /// Ends a get without further output.
    pub fn cancel_get(&mut self, get: GetId) {
        self.forget_get(get);
    }

    /// Ends a put without further output; what was stored stays stored.
    pub fn cancel_put(&mut self, put: PutId) {
        self.forget_put(put);
    }

    /// Takes the answer to [`Output::FetchRing`]; `None` where it failed, which asks again.
    pub fn ring_answered<E: From<NetworkEffect>>(
        &mut self,
        now: Instant,
        answer: Option<RingAnswer>,
        effects: &mut Vec<E>,
    ) {
        let is_answered = answer.is_some();
        if self.view.answered(answer) {
            self.nodes.set_version(self.view.version());
            self.place_puts_anew();
            self.place_gets_anew();
        }
        for node in self.nodes.known() {
            let address = self.view.address(node);
            if address.is_some_and(|address| self.nodes.has_moved(node, address)) {
                // A new address is a new chance.
                self.nodes.heard(now, node);
                self.reach_again(now, node);
            }
        }
        if !is_answered {
            self.puts_miss_the_ring(now);
            self.gets_miss_the_ring(now);
        }
        self.wake_puts(now);
        self.wake_gets(now);
        self.registers.ring_answered(now, &mut self.view);
        self.go_on(now, effects);
    }

    /// Handles what the network says. False where it is about a link of somebody else.
    pub fn handle<E: From<NetworkEffect>>(
        &mut self,
        now: Instant,
        event: &NetworkEvent<'_>,
        effects: &mut Vec<E>,
    ) -> bool {
        let link = match event {
            NetworkEvent::Connected { link, .. } | NetworkEvent::Refused { link, .. } => *link,
            NetworkEvent::Record { sender: Sender { peer: Peer::Link(link), .. }, .. }
            | NetworkEvent::Overflowing { peer: Peer::Link(link) } => *link,
            _ => return false,
        };
        if !self.nodes.owns(link) {
            return false;
        }
        // A link that was closed meanwhile has nothing more to say.
        let Some(node) = self.nodes.node_of(link) else {
            return true;
        };
        match event {
            NetworkEvent::Connected { sender, again, .. } => {
                if sender.node != node {
                    let why = "another node answers at its address";
                    self.node_died(now, node, why);
                } else {
                    self.nodes.heard(now, node);
                    if *again {
                        // It was restarted and knows nothing of what is in flight.
                        for asked in self.nodes.take_all(node) {
                            self.ask_again(now, node, asked);
                        }
                    }
                }
            }
            NetworkEvent::Refused { text, .. } => self.node_died(now, node, text),
            NetworkEvent::Record { record, .. } => {
                let taken = self.take_record(now, node, record);
                if taken.is_err() {
                    self.unexpected_records += 1;
                    self.answer_failed(now, node, record.request_id(), "an answer is malformed");
                }
            }
            // What was dropped is missed in time.
            _ => {}
        }
        self.go_on(now, effects);
        true
    }

    /// Does what time asks for.
    pub fn tick<E: From<NetworkEffect>>(&mut self, now: Instant, effects: &mut Vec<E>) {
        for overdue in self.nodes.take_overdue(now) {
            let (node, all, why) = match overdue {
                Overdue::Dead(node, all) => (node, all, "it does not answer"),
                Overdue::Late(node, all) => (node, all, "it answers late"),
            };
            for asked in all {
                self.asked_failed(now, node, asked, why);
            }
        }
        self.nodes.release(now);
        self.wake_puts(now);
        self.wake_gets(now);
        self.registers.tick(now, &mut self.view);
        self.go_on(now, effects);
    }

    /// When to call [`Transfer::tick`] if nothing else happens; `now` where that is overdue.
    #[must_use]
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let all = [
            self.nodes.next_deadline(),
            self.view.next_deadline(),
            self.puts.next_deadline(),
            self.gets.next_deadline(),
            self.registers.next_deadline(),
        ];
        all.into_iter().flatten().min().map(|deadline| deadline.max(now))
    }

    /// Goes on under another node UUID, with none of the old links open: what was in flight is
    /// asked again.
    pub fn begin_as_new_node<E: From<NetworkEffect>>(
        &mut self,
        now: Instant,
        effects: &mut Vec<E>,
    ) {
        for node in self.nodes.lose_links() {
            self.reach_again(now, node);
        }
        self.go_on(now, effects);
    }

    /// Opens a link to a node anew; what was in flight is asked again.
    fn reach_again(&mut self, now: Instant, node: NodeId) {
        let all = self.nodes.take_all(node);
        let address = self.view.address(node).map(str::to_owned);
        let is_reached = address.is_some_and(|address| self.nodes.reach(node, &address).is_some());
        for asked in all {
            if is_reached {
                self.ask_again(now, node, asked);
            } else {
                self.asked_failed(now, node, asked, "its address is not known any more");
            }
        }
    }

    /// The next thing that is needed or done.
    pub fn next_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Panics on a broken invariant.
    pub fn check_invariants(&self) {
        self.nodes.check_invariants();
        self.puts.check_invariants();
        self.gets.check_invariants();
        self.registers.check_invariants();
    }

    /// Starts whatever can be started, and hands out what is to be sent.
    fn go_on<E: From<NetworkEffect>>(&mut self, now: Instant, effects: &mut Vec<E>) {
        self.start_puts(now);
        self.start_gets(now);
        self.send_registers(now);
        for node in self.nodes.take_waiting() {
            self.send_query(now, node);
            self.send_gets(now, node);
            let is_waiting = |it: &nodes::Node| !it.to_query.is_empty() || !it.to_get.is_empty();
            if self.nodes.get(node).is_some_and(is_waiting) {
                self.nodes.wait_on(node);
            }
        }
        self.read_sources(now);
        if self.view.take_fetch(now) {
            self.outputs.push_back(Output::FetchRing);
        }
        effects.extend(self.nodes.take_effects().map(E::from));
    }

    fn take_record(
        &mut self,
        now: Instant,
        node: NodeId,
        record: &Record<'_>,
    ) -> Result<(), RecordError> {
        let request = record.request_id();
        match record.message_type() {
            BlockPresence::TYPE => {
                let (_, [present]) = record.open::<BlockPresence, 1>()?;
                match self.nodes.answered(now, node, request) {
                    Some(Asked::Query(keys)) => {
                        self.nodes.took_on(node);
                        self.take_presence(now, node, &keys, present);
                    }
                    other => self.unexpected(now, node, other),
                }
            }
            BlockStored::TYPE => {
                let stored: BlockStored = record.read()?;
                match self.nodes.answered(now, node, request) {
                    Some(Asked::Put(key)) => {
                        self.nodes.took_on(node);
                        self.take_stored(now, node, key, request, &stored);
                    }
                    other => self.unexpected(now, node, other),
                }
            }
            BlockContent::TYPE => {
                let (head, [content]) = record.open::<BlockContent, 1>()?;
                match self.nodes.answered(now, node, request) {
                    Some(Asked::Get(key)) => self.take_content(now, node, key, &head, content),
                    other => self.unexpected(now, node, other),
                }
            }
            RegisterValue::TYPE => {
                let (answer, [value]) = record.open::<RegisterValue, 1>()?;
                match self.nodes.answered(now, node, request) {
                    Some(Asked::Register(key)) => {
                        let view = &mut self.view;
                        self.registers.take_value(now, view, (node, key), &answer, value);
                    }
                    other => self.unexpected(now, node, other),
                }
            }
            RegisterWritten::TYPE => {
                let answer: RegisterWritten = record.read()?;
                match self.nodes.answered(now, node, request) {
                    Some(Asked::Register(key)) => {
                        self.registers.take_written(now, &mut self.view, (node, key), &answer);
                    }
                    other => self.unexpected(now, node, other),
                }
            }
            ErrorReply::TYPE => {
                let refusal = Refusal::from_record(record)?;
                self.take_refusal(now, node, request, refusal);
            }
            _ => self.unexpected_records += 1,
        }
        Ok(())
    }

    /// A record that does not answer what was asked under its number; late answers to what was
    /// given up are the usual case.
    fn unexpected(&mut self, now: Instant, node: NodeId, asked: Option<Asked>) {
        self.unexpected_records += 1;
        if let Some(asked) = asked {
            self.asked_failed(now, node, asked, "it answered something else");
        }
    }

    fn answer_failed(&mut self, now: Instant, node: NodeId, request: RequestId, why: &str) {
        if let Some(asked) = self.nodes.answered(now, node, request) {
            self.asked_failed(now, node, asked, why);
        }
    }

    fn take_refusal(&mut self, now: Instant, node: NodeId, request: RequestId, refusal: Refusal) {
        let is_outdated = self.nodes.is_outdated(node, request);
        let Some(asked) = self.nodes.answered(now, node, request) else {
            self.unexpected_records += 1;
            return;
        };
        match (refusal.code, asked) {
            (_, Asked::Register(key)) => {
                self.registers.refused(now, &mut self.view, (node, key), &refusal);
            }
            (ErrorCode::Busy, asked) => {
                let wait = refusal.retry_after;
                let wait = wait.clamp(Duration::from_millis(1), Duration::from_secs(5));
                self.nodes.hold(now, node, &asked, now + wait);
                self.ask_again(now, node, asked);
            }
            // It may merely not know the newest ring yet.
            (ErrorCode::Unavailable, asked @ (Asked::Put(_) | Asked::Query(_)))
                if self.nodes.has_patience(now, node) =>
            {
                let wait = refusal.retry_after;
                let wait = wait.clamp(Duration::from_millis(10), Duration::from_millis(250));
                self.nodes.pause(node, now + wait);
                self.view.want_refresh(now);
                self.ask_again(now, node, asked);
            }
            // What it is about was placed by a newer ring meanwhile, and is asked for by that.
            (ErrorCode::StaleRing, _) if is_outdated => {}
            (ErrorCode::StaleRing, asked) => self.ring_refused(asked),
            (code, Asked::Get(key)) => self.get_refused(now, node, key, code, &refusal.text),
            (code, Asked::Put(key)) => self.put_refused(now, node, key, code, refusal.text),
            (code, Asked::Query(keys)) => {
                for key in keys {
                    self.put_refused(now, node, key, code, refusal.text.clone());
                }
            }
        }
    }

    /// A refusal is not a death: the blocks are placed again by a newer ring.
    fn ring_refused(&mut self, asked: Asked) {
        self.view.want_newer_than(self.view.version());
        match asked {
            Asked::Get(key) => self.get_waits_for_ring(key),
            Asked::Put(key) => self.put_waits_for_ring(key),
            Asked::Query(keys) => keys.into_iter().for_each(|key| self.put_waits_for_ring(key)),
            // Registers have versions of their own.
            Asked::Register(_) => {}
        }
    }

    fn node_died(&mut self, now: Instant, node: NodeId, why: &str) {
        for asked in self.nodes.declare_down(now, node) {
            self.asked_failed(now, node, asked, why);
        }
    }

    /// What was asked of a node is asked of it once more.
    fn ask_again(&mut self, now: Instant, node: NodeId, asked: Asked) {
        match asked {
            Asked::Get(key) => self.get_again(now, node, key),
            Asked::Put(key) => self.put_again(now, node, key),
            Asked::Query(keys) => keys.into_iter().for_each(|key| self.query_again(now, node, key)),
            Asked::Register(key) => self.registers.ask_again(now, node, key),
        }
    }

    /// What was asked of a node has to come from, or go to, another one.
    fn asked_failed(&mut self, now: Instant, node: NodeId, asked: Asked, why: &str) {
        match asked {
            Asked::Get(key) => self.get_failed(now, node, key, why),
            Asked::Put(key) => self.put_failed(now, node, key, why),
            Asked::Query(keys) => {
                keys.into_iter().for_each(|key| self.put_failed(now, node, key, why));
            }
            Asked::Register(key) => self.registers.failed(now, node, key, why),
        }
    }
}

/// Says in words that bytes are other ones than those that were asked for.
fn wrong_bytes(wrong: WrongDigest) -> String {
    format!("it sent wrong bytes: {wrong}")
}
