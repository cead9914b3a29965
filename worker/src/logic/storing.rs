//! Segments on their way to the storage nodes, by the client library's transfers.
//!
//! Responsible for the one segment that is under way and for the question about the ring. How many
//! replicas, which nodes and what to do about dead ones is the transfer's matter.

use client::logic::answers::RingAnswer;
use client::logic::transfer::{Output, Pin, PutId, SourceBlock, Transfer};
use node::logic::network::{NetworkEffect, NetworkEvent};
use proto::ids::BlockId;
use proto::messages::node::RingQuery;
use proto::status::BlockKind;
use proto::time::{Duration, Instant};

use super::accounting::NewSegment;
use super::balancers::LINKS_END;

/// Links to storage nodes: one for each member that a ring may have.
const LINKS: std::ops::Range<u32> = LINKS_END..LINKS_END + proto::limits::RING_MEMBERS as u32;

/// How long the question about the ring may stay unanswered before it is asked again.
const RING_TIMEOUT: Duration = Duration::from_millis(1_000);

/// What became of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) ticket: u64,
    pub(super) is_durable: bool,
}

/// The segment that is under way, and the links to the storage nodes.
#[derive(Debug)]
pub(super) struct Storing {
    transfer: Transfer,
    under_way: Option<(PutId, NewSegment)>,
    /// When to ask a master for the ring; `None` while that is not wanted.
    ask_at: Option<Instant>,
}

impl Storing {
    pub(super) fn new() -> Storing {
        Storing { transfer: Transfer::new(LINKS), under_way: None, ask_at: None }
    }

    /// Begins to store a segment.
    pub(super) fn store(
        &mut self,
        now: Instant,
        segment: NewSegment,
        network: &mut Vec<NetworkEffect>,
    ) {
        // A file of one block is named as its block is.
        let source = SourceBlock {
            block: BlockId(segment.file.0),
            kind: BlockKind::Content,
            length: segment.content.len() as u64,
        };
        let put = self.transfer.put(now, vec![source], Pin::default(), network);
        let put = put.expect("nothing else is under way");
        self.under_way = Some((put, segment));
    }

    /// Hands over what the transfer asks for, until there is nothing more or the segment is done.
    pub(super) fn take_stored(
        &mut self,
        now: Instant,
        network: &mut Vec<NetworkEffect>,
    ) -> Option<Stored> {
        while let Some(output) = self.transfer.next_output() {
            match output {
                Output::FetchRing => self.ask_at = Some(now),
                Output::ReadSource { put, index } => {
                    let content = match &self.under_way {
                        Some((under_way, segment)) if *under_way == put => {
                            Ok(segment.content.as_slice())
                        }
                        _ => Err("the segment is gone".into()),
                    };
                    self.transfer.source_read(now, put, index, content, network);
                }
                Output::Stored { put, result } => {
                    let done = self.under_way.take_if(|(under_way, _)| *under_way == put);
                    if let Some((_, segment)) = done {
                        return Some(Stored { ticket: segment.ticket, is_durable: result.is_ok() });
                    }
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
        // Without a segment nothing is asked of any node, and a tick looks at all of them.
        if self.under_way.is_some() {
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
        let transfer = self.under_way.as_ref().and_then(|_| self.transfer.next_deadline(now));
        transfer.into_iter().chain(ask_at).min()
    }

    pub(super) fn check_invariants(&self) {
        self.transfer.check_invariants();
        assert_eq!(self.transfer.is_idle(), self.under_way.is_none(), "one segment at a time");
    }
}
