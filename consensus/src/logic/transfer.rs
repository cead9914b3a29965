//! Snapshots on their way to members that lag too far behind.
//!
//! Responsible for pieces and credits: a sender has a few pieces under way per receiver, each
//! answered, so that a slow receiver holds nothing up and memory stays bounded. Not for what a
//! snapshot says, nor for Raft's part, which gets its message once the content is durable.

use std::sync::Arc;

use proto::ids::LogIndex;
use proto::time::{Duration, Instant};

use crate::ids::{Term, TransferId};

/// Bytes of a piece.
pub(super) const PIECE_BYTES: usize = 1 << 20;

/// Pieces under way to one receiver: enough to keep a disk and a network busy (eyeballed).
const PIECES_UNDER_WAY: u64 = 4;

/// After this without progress a transfer is given up. Long, because the receiver writes and syncs
/// the whole snapshot at the end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Largest snapshot that is received.
const SNAPSHOT_BYTES_MAX: u64 = 64 << 30;

/// Memory that is set aside at once on the word of the sender.
const TRUSTED_BYTES: u64 = 64 << 20;

/// Which snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SnapshotPlace {
    pub(super) index: LogIndex,
    pub(super) term: Term,
    pub(super) length: u64,
}

/// A snapshot on its way out.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) transfer: TransferId,
    pub(super) place: SnapshotPlace,
    /// Up to here the disk was asked.
    asked: u64,
    progress: Instant,
}

impl Sending {
    pub(super) fn new(transfer: TransferId, place: SnapshotPlace, now: Instant) -> Sending {
        Sending { transfer, place, asked: 0, progress: now }
    }

    /// The receiver has this much: answers which pieces to read now, as offset and length.
    pub(super) fn credit(&mut self, received: u64, now: Instant) -> Vec<(u64, usize)> {
        self.progress = now;
        let window = PIECES_UNDER_WAY * PIECE_BYTES as u64;
        let end = self.place.length.min(received.saturating_add(window));
        let mut pieces = Vec::new();
        while self.asked < end {
            let length = (self.place.length - self.asked).min(PIECE_BYTES as u64);
            pieces.push((self.asked, length as usize));
            self.asked += length;
        }
        pieces
    }

    pub(super) fn is_stuck(&self, now: Instant) -> bool {
        now.since(self.progress) >= PATIENCE
    }
}

/// A snapshot on its way in.
#[derive(Debug)]
pub(super) struct Receiving {
    pub(super) transfer: TransferId,
    /// The snapshot's last entry, as Raft's message says.
    pub(super) index: LogIndex,
    /// Raft's message, which comes into force at the end.
    pub(super) raft: Vec<u8>,
    length: u64,
    content: Vec<u8>,
    /// The content once it is complete and being written.
    pub(super) complete: Option<Arc<Vec<u8>>>,
    progress: Instant,
}

impl Receiving {
    /// Prepares for a snapshot; `None` for one that is too large.
    pub(super) fn new(
        transfer: TransferId,
        index: LogIndex,
        length: u64,
        raft: &[u8],
        now: Instant,
    ) -> Option<Receiving> {
        let trusted = usize::try_from(length.min(TRUSTED_BYTES)).ok()?;
        (length <= SNAPSHOT_BYTES_MAX).then(|| Receiving {
            transfer,
            index,
            raft: raft.to_vec(),
            length,
            content: Vec::with_capacity(trusted),
            complete: None,
            progress: now,
        })
    }

    /// Takes a piece; `false` where it is not the next one.
    pub(super) fn add(&mut self, offset: u64, bytes: &[u8], now: Instant) -> bool {
        let have = self.content.len() as u64;
        if offset != have || have + bytes.len() as u64 > self.length || self.complete.is_some() {
            return false;
        }
        self.content.extend_from_slice(bytes);
        self.progress = now;
        true
    }

    /// Bytes received so far.
    pub(super) fn received(&self) -> u64 {
        self.complete.as_ref().map_or(self.content.len(), |content| content.len()) as u64
    }

    /// The content, once, when all of it is there.
    pub(super) fn finish(&mut self) -> Option<Arc<Vec<u8>>> {
        if self.complete.is_some() || self.content.len() as u64 != self.length {
            return None;
        }
        let content = Arc::new(std::mem::take(&mut self.content));
        self.complete = Some(content.clone());
        Some(content)
    }

    pub(super) fn is_stuck(&self, now: Instant) -> bool {
        now.since(self.progress) >= PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_asked_for_as_credit_allows() {
        let piece = PIECE_BYTES as u64;
        let place = SnapshotPlace { index: LogIndex(1), term: Term(1), length: 6 * piece + 10 };
        let mut sending = Sending::new(TransferId(1), place, Instant(0));
        assert_eq!(sending.credit(0, Instant(0)).len(), 4);
        assert_eq!(sending.credit(0, Instant(0)), vec![]);
        assert_eq!(sending.credit(piece, Instant(0)), vec![(4 * piece, PIECE_BYTES)]);
        assert_eq!(
            sending.credit(6 * piece, Instant(0)),
            vec![(5 * piece, PIECE_BYTES), (6 * piece, 10)]
        );
        assert_eq!(sending.credit(u64::MAX, Instant(0)), vec![]);
    }

    #[test]
    fn a_piece_out_of_place_is_not_taken() {
        let mut receiving = Receiving::new(TransferId(1), LogIndex(1), 6, b"", Instant(0)).unwrap();
        assert!(receiving.add(0, b"abc", Instant(0)));
        assert!(!receiving.add(4, b"ef", Instant(0)));
        assert!(!receiving.add(3, b"defg", Instant(0)));
        assert_eq!(receiving.finish(), None);
        assert!(receiving.add(3, b"def", Instant(0)));
        assert_eq!(receiving.finish().unwrap().as_slice(), b"abcdef");
        assert_eq!(receiving.finish(), None);
        assert!(Receiving::new(TransferId(1), LogIndex(1), u64::MAX, b"", Instant(0)).is_none());
    }
}
