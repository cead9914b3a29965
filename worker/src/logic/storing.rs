//! Segments on their way to the storage nodes, by the client library's transfers.
//!
//! Responsible for the segments that are under way, one of each kind, until they are durable, and
//! for the question about the ring. How many replicas, which nodes and what to do about dead ones is
//! the transfer's matter; what is in a segment, and when one is made, that of those who fill it.

use client::logic::rings::RingAnswer;
use client::logic::transfer::{Output, PutId, PutTerms, SourceBlock, Transfer};
use node::logic::network::{NetworkEffect, NetworkEvent};
use proto::ids::{BlockId, FileId};
use proto::messages::node::RingQuery;
use proto::status::BlockKind;
use proto::time::{Duration, Instant};

use super::balancers::LINKS_END;

/// Links to storage nodes: one for each member that a ring may have.
const LINKS: std::ops::Range<u32> = LINKS_END..LINKS_END + proto::limits::RING_MEMBERS as u32;

/// How long the question about the ring may stay unanswered before it is asked again.
const RING_TIMEOUT: Duration = Duration::from_millis(1_000);

/// How long to wait after a segment could not be stored, which the transfer tried for long.
const REST: Duration = Duration::from_secs(1);

/// A segment to be stored: a file of one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSegment {
    /// Its name, made from its bytes.
    pub file: FileId,
    /// Its bytes.
    pub content: Vec<u8>,
}

/// What a segment holds. One of each kind is under way at a time, so that outcomes never wait for
/// accounting that is in no hurry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SegmentKind {
    /// What tasks used that wrote nothing.
    Accounting,
    /// What tasks wrote and used.
    Outputs,
}

/// A segment that is not durable yet.
#[derive(Debug)]
struct Pending {
    kind: SegmentKind,
    segment: NewSegment,
    /// The transfer that tries it; `None` while it rests.
    put: Option<PutId>,
    /// When it is tried again.
    again_at: Instant,
}

/// What became of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// It is durable on as many nodes as there are replicas.
    Durable(SegmentKind),
    /// It could not be stored, as a sentence; it is tried again.
    Failed(String),
}

/// The segments that are under way, and the links to the storage nodes.
#[derive(Debug)]
pub(super) struct Storing {
    transfer: Transfer,
    /// At most one of each kind.
    pending: Vec<Pending>,
    /// Why the last attempt failed, for people; `None` since one succeeded.
    trouble: Option<String>,
    /// When to ask a master for the ring; `None` while that is not wanted.
    ask_at: Option<Instant>,
}

impl Storing {
    pub(super) fn new() -> Storing {
        let transfer = Transfer::new(LINKS);
        Storing { transfer, pending: Vec::new(), trouble: None, ask_at: None }
    }

    /// Begins to store a segment, of a kind of which none is under way.
    pub(super) fn store(
        &mut self,
        now: Instant,
        kind: SegmentKind,
        segment: NewSegment,
        network: &mut Vec<NetworkEffect>,
    ) {
        self.pending.push(Pending { kind, segment, put: None, again_at: now });
        self.begin(now, network);
    }

    /// Begins the transfers that are due.
    fn begin(&mut self, now: Instant, network: &mut Vec<NetworkEffect>) {
        for pending in &mut self.pending {
            if pending.put.is_some() || now < pending.again_at {
                continue;
            }
            // A file of one block is named as its block is.
            let source = SourceBlock {
                block: BlockId(pending.segment.file.0),
                kind: BlockKind::Content,
                length: pending.segment.content.len() as u64,
            };
            match self.transfer.put(now, vec![source], PutTerms::default(), network) {
                Ok(put) => pending.put = Some(put),
                Err(_) => pending.again_at = now + REST,
            }
        }
    }

    /// Bytes of the segments that are not durable.
    pub(super) fn bytes(&self) -> usize {
        self.pending.iter().map(|pending| pending.segment.content.len()).sum()
    }

    /// Why nothing could be stored lately.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Hands over what the transfer asks for, until there is nothing more or something became of a
    /// segment.
    pub(super) fn take_stored(
        &mut self,
        now: Instant,
        network: &mut Vec<NetworkEffect>,
    ) -> Option<Stored> {
        while let Some(output) = self.transfer.next_output() {
            match output {
                Output::FetchRing => self.ask_at = Some(now),
                Output::ReadSource { put, index } => {
                    let pending = self.pending.iter().find(|pending| pending.put == Some(put));
                    let content = match pending {
                        Some(pending) => Ok(pending.segment.content.as_slice()),
                        None => Err("the segment is gone".into()),
                    };
                    self.transfer.source_read(now, put, index, content, network);
                }
                Output::Stored { put, result } => {
                    let at = self.pending.iter().position(|pending| pending.put == Some(put));
                    let Some(at) = at else { continue };
                    if let Err(error) = result {
                        let pending = &mut self.pending[at];
                        (pending.put, pending.again_at) = (None, now + REST);
                        self.trouble = Some(error.to_string());
                        return Some(Stored::Failed(error.to_string()));
                    }
                    self.trouble = None;
                    return Some(Stored::Durable(self.pending.remove(at).kind));
                }
                // Nothing is fetched.
                Output::Opened { .. } | Output::Piece { .. } | Output::Fetched { .. } => {}
            }
        }
        None
    }

    /// Handles what the network says. False where it is not about a storage node.
    pub(super) fn handle(
        &mut self,
        now: Instant,
        event: &NetworkEvent<'_>,
        network: &mut Vec<NetworkEffect>,
    ) -> bool {
        self.transfer.handle(now, event, network)
    }

    pub(super) fn tick(&mut self, now: Instant, network: &mut Vec<NetworkEffect>) {
        self.begin(now, network);
        // Without a transfer nothing is asked of any node, and a tick looks at all of them.
        if !self.transfer.is_idle() {
            self.transfer.tick(now, network);
        }
    }

    /// The question to a master, where it is time for it.
    pub(super) fn ring_query(&mut self, now: Instant) -> Option<RingQuery> {
        if self.ask_at.is_none_or(|at| now < at) {
            return None;
        }
        self.ask_at = Some(now + RING_TIMEOUT);
        let ring_version = self.transfer.ring().version().0;
        Some(RingQuery { ring_version, ..RingQuery::default() })
    }

    /// Another master is there: what the one before was asked is lost.
    pub(super) fn master_changed(&mut self, now: Instant) {
        self.ask_at = self.ask_at.map(|_| now);
    }

    /// A master answered; `None` where the answer cannot be read.
    pub(super) fn ring_answered(
        &mut self,
        now: Instant,
        answer: Option<RingAnswer>,
        network: &mut Vec<NetworkEffect>,
    ) {
        if self.ask_at.take().is_some() {
            self.transfer.ring_answered(now, answer, network);
        }
    }

    /// A master does not tell the ring at present.
    pub(super) fn ring_refused(&mut self, again_at: Instant) {
        self.ask_at = self.ask_at.map(|_| again_at);
    }

    /// When to tick; without a master nothing is asked.
    pub(super) fn next_deadline(&self, now: Instant, has_master: bool) -> Option<Instant> {
        let ask_at = self.ask_at.filter(|_| has_master);
        let transfer = match self.transfer.is_idle() {
            true => None,
            false => self.transfer.next_deadline(now),
        };
        let resting = self.pending.iter().filter(|pending| pending.put.is_none());
        let again_at = resting.map(|pending| pending.again_at).min();
        [ask_at, transfer, again_at].into_iter().flatten().min()
    }

    pub(super) fn check_invariants(&self) {
        self.transfer.check_invariants();
        let is_idle = self.pending.iter().all(|pending| pending.put.is_none());
        assert_eq!(self.transfer.is_idle(), is_idle, "transfers of segments only");
        let kinds: Vec<SegmentKind> = self.pending.iter().map(|pending| pending.kind).collect();
        let is_once = |kind| kinds.iter().filter(|&&other| other == kind).count() <= 1;
        assert!(kinds.iter().all(|&kind| is_once(kind)), "two segments of one kind");
    }
}
