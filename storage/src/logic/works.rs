//! What the edges are working on, by ticket.

use std::collections::{BTreeMap, BTreeSet};

use proto::ids::{BlockId, NodeId, RingVersion};

use super::fetches::Sources;
use super::{Asker, Ticket};
use crate::disk::Held;

/// A piece of work, and what its end leads to.
#[derive(Debug)]
pub(super) enum Pending {
    /// A block is stored for somebody.
    Put { asker: Asker, held: Held, bytes: usize },
    /// A block is read for somebody.
    Get { asker: Asker, version: RingVersion, block: BlockId },
    /// Somebody asks which blocks are here.
    Query { asker: Asker, version: RingVersion },
    /// Another node offers blocks, with the number of their replicas.
    Offer { asker: Asker, version: RingVersion, blocks: Vec<(BlockId, u8)> },
    /// Somebody asks for room and counters.
    Measure { asker: Asker },
    /// The leader is told them with the next report.
    MeasureForReport,
    /// A block of a file that is gathered.
    Piece { assembly: u64 },
    /// A block is read for a node that wants it.
    Hand { node: NodeId, block: BlockId },
    /// A damaged block is fetched from another node.
    Mend { block: BlockId },
    /// It is stored again; where it came wrong, these have it too.
    MendPut { block: BlockId, rest: Sources },
    /// The next blocks of the pass.
    ListPass,
    /// The next blocks whose digest is checked.
    ListScrub,
    /// A digest is checked.
    Verify,
    /// Blocks that do not belong here are deleted.
    Delete,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Works {
    pending: BTreeMap<Ticket, Pending>,
    next: u64,
}

impl Works {
    /// A ticket for new work.
    pub(super) fn begin(&mut self, pending: Pending) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.pending.insert(ticket, pending);
        ticket
    }

    pub(super) fn get(&self, ticket: Ticket) -> Option<&Pending> {
        self.pending.get(&ticket)
    }

    /// The work is done, or nobody waits for it any more.
    pub(super) fn end(&mut self, ticket: Ticket) -> Option<Pending> {
        self.pending.remove(&ticket)
    }

    /// Blocks that are being stored.
    pub(super) fn puts(&self) -> BTreeSet<Ticket> {
        let is_put = |it: &Pending| matches!(it, Pending::Put { .. } | Pending::MendPut { .. });
        self.pending.iter().filter(|(_, it)| is_put(it)).map(|(&ticket, _)| ticket).collect()
    }

    fn count(&self, is: fn(&Pending) -> bool) -> usize {
        self.pending.values().filter(|it| is(it)).count()
    }

    /// Puts that are admitted.
    pub(super) fn put_count(&self) -> usize {
        self.count(|it| matches!(it, Pending::Put { .. }))
    }

    /// Other work that is admitted.
    pub(super) fn read_count(&self) -> usize {
        self.count(|it| {
            matches!(
                it,
                Pending::Get { .. }
                    | Pending::Query { .. }
                    | Pending::Offer { .. }
                    | Pending::Measure { .. }
            )
        })
    }
}
