//! How long the leader has workers wait until a fold makes room for what they report.
//!
//! Known to one process only: a new leader begins anew. A fold may be long about it, wait for a slot
//! itself or never succeed, and no result may depend on that. Deliberately not here: where there is
//! room, which is a matter of the replicated state.

use proto::time::{Duration, Instant};

use crate::logic::cluster::Cluster;

/// How long workers are refused while nothing makes the list shorter. A fold of a thousand segments
/// of usual size takes less; beyond that the list grows until one succeeds.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Whether workers are still to wait.
#[derive(Debug, Default)]
pub struct Patience {
    /// While there is no room: the segments that were listed when somebody last asked, and since
    /// when the list has not become shorter.
    refused: Option<(u64, Instant)>,
}

impl Patience {
    /// True where a worker that has segments to list is to ask again later.
    pub fn must_wait(&mut self, now: Instant, cluster: &Cluster) -> bool {
        if cluster.has_room_for_segments() {
            self.refused = None;
            return false;
        }
        let listed = cluster.folds.listed();
        let since = match self.refused {
            Some((before, since)) if listed >= before => since,
            _ => now,
        };
        self.refused = Some((listed, since));
        now.since(since) < LONGEST_WAIT
    }
}
