//! Members compare digests of their states, so that one that went another way stops.
//!
//! At a mark in the log every member computes its digest and sends it to the leader, which puts the
//! majority's into the log as a verdict. Responsible for the bookkeeping only: what a mark and a
//! verdict look like in the log is `entry`'s.

use std::collections::BTreeMap;

use proto::time::{Duration, Instant};

use crate::ids::MemberId;

/// A digest of the state after an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) index: u64,
    pub(super) digest: [u8; 32],
}

/// What a member remembers of marks.
#[derive(Debug)]
pub(super) struct Digests {
    every: Duration,
    /// When the last mark was applied or proposed.
    since: Instant,
    /// Whether a command was applied since the last mark: an idle cluster writes nothing.
    stale: bool,
    last: Option<Mark>,
    /// At the leader: what others have at the last mark. Bounded by the number of members.
    others: BTreeMap<MemberId, [u8; 32]>,
    judged: bool,
}

impl Digests {
    pub(super) fn new(every: Duration, now: Instant) -> Digests {
        let others = BTreeMap::new();
        Digests { every, since: now, stale: false, last: None, others, judged: false }
    }

    /// A command was applied.
    pub(super) fn command_applied(&mut self) {
        self.stale = true;
    }

    /// Whether the leader should propose a mark now; counts as proposed then.
    pub(super) fn is_mark_due(&mut self, now: Instant) -> bool {
        let due = self.stale && now.since(self.since) >= self.every;
        if due {
            self.since = now;
        }
        due
    }

    /// A mark was applied.
    pub(super) fn marked(&mut self, mark: Mark, now: Instant) {
        self.last = Some(mark);
        self.since = now;
        self.stale = false;
        self.others.clear();
        self.judged = false;
    }

    /// At the leader: another member's digest arrived.
    pub(super) fn told(&mut self, from: MemberId, mark: Mark) {
        if self.last.is_some_and(|last| last.index == mark.index) {
            self.others.insert(from, mark.digest);
        }
    }

    /// At the leader: the verdict, once more than half of the voters agree; answered once.
    pub(super) fn judge(&mut self, me: MemberId, voters: &[u64]) -> Option<Mark> {
        let mine = self.last.filter(|_| !self.judged)?;
        let mut counts: BTreeMap<[u8; 32], usize> = BTreeMap::new();
        for &voter in voters {
            let digest =
                if voter == me.0 { Some(&mine.digest) } else { self.others.get(&MemberId(voter)) };
            if let Some(&digest) = digest {
                *counts.entry(digest).or_default() += 1;
            }
        }
        let (digest, _) = counts.into_iter().find(|(_, count)| *count > voters.len() / 2)?;
        self.judged = true;
        Some(Mark { index: mine.index, digest })
    }

    /// Whether a verdict contradicts what this member had. One about a mark that it has not seen,
    /// because a snapshot carried it past, does not.
    pub(super) fn contradicts(&self, verdict: Mark) -> bool {
        self.last.is_some_and(|last| last.index == verdict.index && last.digest != verdict.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_majority_decides_also_against_the_leader() {
        let mut digests = Digests::new(Duration(10), Instant(0));
        assert!(!digests.is_mark_due(Instant(20)), "nothing was applied");
        digests.command_applied();
        assert!(digests.is_mark_due(Instant(20)));
        let mine = Mark { index: 5, digest: [1; 32] };
        digests.marked(mine, Instant(20));
        assert_eq!(digests.judge(MemberId(1), &[1, 2, 3]), None);
        digests.told(MemberId(2), Mark { index: 5, digest: [2; 32] });
        digests.told(MemberId(3), Mark { index: 4, digest: [2; 32] });
        assert_eq!(digests.judge(MemberId(1), &[1, 2, 3]), None);
        digests.told(MemberId(3), Mark { index: 5, digest: [2; 32] });
        let verdict = digests.judge(MemberId(1), &[1, 2, 3]).unwrap();
        assert_eq!(verdict, Mark { index: 5, digest: [2; 32] });
        assert!(digests.contradicts(verdict));
        assert!(!digests.contradicts(mine));
        assert_eq!(digests.judge(MemberId(1), &[1, 2, 3]), None);
    }
}
