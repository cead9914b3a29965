//! Mending: a block that is damaged here is fetched from another node and stored again.
//!
//! The disk has forgotten it by then, durably. Whoever owns it as well would offer it in a pass;
//! this only makes it quick.

use std::collections::BTreeMap;

use proto::ids::BlockId;
use proto::status::BlockKind;
use proto::time::{Duration, Instant};

use super::fetches::{FetchError, Sources};
use super::{Effect, Pending, Storage, Ticket};
use crate::disk::{Held, Put, PutError, Stored};

/// Blocks that are remembered as damaged; those above are found by the passes of others.
const DAMAGED: usize = 4096;

/// Blocks that are fetched at the same time.
const MENDS: usize = 4;

/// First pause after no node gave the block; doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(1_000);

/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(60_000);

/// A damaged block.
#[derive(Clone, Copy, Debug)]
struct Damage {
    stamp: u64,
    replica_count: u8,
    due: Instant,
    pause: Duration,
    is_fetched: bool,
}

/// The damaged blocks.
#[derive(Debug, Default)]
pub(super) struct Mends {
    damaged: BTreeMap<BlockId, Damage>,
    /// Blocks that were mended since the start.
    pub(super) mended_count: u64,
}

impl Mends {
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let fetched = self.damaged.values().filter(|damage| damage.is_fetched).count();
        let waiting = self.damaged.values().filter(|damage| !damage.is_fetched);
        waiting.map(|damage| damage.due).min().filter(|_| fetched < MENDS)
    }

    fn due(&self, now: Instant) -> Option<BlockId> {
        let fetched = self.damaged.values().filter(|damage| damage.is_fetched).count();
        let mut due = self.damaged.iter().filter(|(_, it)| !it.is_fetched && it.due <= now);
        due.next().map(|(&block, _)| block).filter(|_| fetched < MENDS)
    }

    pub(super) fn check_invariants(&self) {
        assert!(self.damaged.len() <= DAMAGED, "more damaged blocks than the bound");
        let fetched = self.damaged.values().filter(|damage| damage.is_fetched).count();
        assert!(fetched <= MENDS, "more blocks mended at the same time than the bound");
    }
}

impl Storage {
    /// A block turned out to be damaged; `held` where it is known what it was.
    pub(super) fn damaged(&mut self, now: Instant, block: BlockId, held: Option<Held>) {
        self.reconcile.lost(block);
        if self.mends.damaged.len() >= DAMAGED {
            return;
        }
        let (stamp, replica_count) = held.map_or((0, 0), |it| (it.stamp, it.replica_count));
        let pause = FIRST_PAUSE;
        let damage = Damage { stamp, replica_count, due: now, pause, is_fetched: false };
        self.mends.damaged.entry(block).or_insert(damage);
    }

    /// Fetches what is due.
    pub(super) fn mend(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        while let Some(rings) = self.membership.rings()
            && let Some(block) = self.mends.due(now)
            && let Some(damage) = self.mends.damaged.get_mut(&block)
        {
            let owners = rings.owners(block, damage.replica_count);
            if !owners.contains(&self.membership.node()) {
                self.mends.damaged.remove(&block);
                continue;
            }
            damage.is_fetched = true;
            let (nodes, is_complete) = self.membership.others_with(block);
            let sources = Sources { nodes, has_silent: !is_complete };
            self.fetch_to_mend(now, block, sources, effects);
        }
    }

    fn fetch_to_mend(
        &mut self,
        now: Instant,
        block: BlockId,
        sources: Sources,
        effects: &mut Vec<Effect>,
    ) {
        let ticket = self.works.begin(Pending::Mend { block });
        let version = self.membership.version();
        let failed = self.fetches.begin(now, ticket, block, sources, version, effects);
        if let Some(failed) = failed {
            self.works.end(ticket);
            self.mend_failed(now, block, failed.error);
        }
    }

    /// Another node sent a damaged block.
    pub(super) fn mend_came(
        &mut self,
        ticket: Ticket,
        block: BlockId,
        rest: Sources,
        (kind, content): (BlockKind, &[u8]),
        effects: &mut Vec<Effect>,
    ) {
        self.works.end(ticket);
        let Some(damage) = self.mends.damaged.get(&block) else { return };
        let stamp = damage.stamp;
        let replica_count = self.wanted_replicas(damage.replica_count);
        let ticket = self.works.begin(Pending::MendPut { block, rest });
        let content = content.to_vec();
        effects.push(Effect::Put(Put { ticket, block, kind, stamp, replica_count, content }));
    }

    /// It is stored again, or what came was wrong as well.
    pub(super) fn mend_stored(
        &mut self,
        now: Instant,
        block: BlockId,
        rest: Sources,
        result: Result<Stored, PutError>,
        effects: &mut Vec<Effect>,
    ) {
        match result {
            Ok(_) => {
                tracing::info!(%block, "a damaged block is mended");
                self.mends.damaged.remove(&block);
                self.mends.mended_count += 1;
                self.expectations.settle(block);
                self.membership.report_soon(now);
            }
            Err(PutError::WrongDigest | PutError::TooLarge) => {
                self.fetch_to_mend(now, block, rest, effects);
            }
            Err(PutError::DiskFull | PutError::Failed) => {
                self.mend_failed(now, block, FetchError::Unavailable);
            }
        }
    }

    /// No node gave the block: tried again later.
    pub(super) fn mend_failed(&mut self, now: Instant, block: BlockId, error: FetchError) {
        let Some(damage) = self.mends.damaged.get_mut(&block) else { return };
        if error == FetchError::NotFound {
            tracing::error!(%block, "a block is damaged here and no other node has it");
        }
        damage.is_fetched = false;
        damage.due = now + damage.pause;
        damage.pause = Duration(damage.pause.times(2).0.min(LONGEST_PAUSE.0));
    }
}
