//! Workers that their primaries have not heard of for long: whom the leader logs as silent, and
//! that one that says otherwise is not logged again and again.
//!
//! Soft state: a new leader may log one of them once more. What becomes of silent workers stands in
//! `departures`.

use std::collections::BTreeMap;

use proto::ids::{Incarnation, NodeId};
use proto::messages::node::SilentWorker;
use proto::time::{Duration, Instant};

use super::nodes::Nodes;

/// A worker that cannot reach its primary registers with the masters every ten seconds, and counts
/// again then: it is logged as silent no more often than this.
const INTERVAL: Duration = Duration::from_secs(60);

/// The workers that were logged as silent lately.
#[derive(Clone, Debug, Default)]
pub(super) struct Silences {
    logged: BTreeMap<NodeId, Instant>,
}

impl Silences {
    /// The workers of what a group's primary said that are to be logged as silent now.
    pub(super) fn news(
        &mut self,
        now: Instant,
        group: u64,
        said: &[SilentWorker],
        nodes: &Nodes,
    ) -> Vec<(NodeId, Incarnation)> {
        self.logged.retain(|_, at| now < *at + INTERVAL);
        let worker =
            |it: &SilentWorker| (NodeId::from(it.worker_uuid), Incarnation(it.incarnation));
        let mut news: Vec<(NodeId, Incarnation)> = said.iter().map(worker).collect();
        news.retain(|it| nodes.counts(group, *it) && !self.logged.contains_key(&it.0));
        self.logged.extend(news.iter().map(|&(worker, _)| (worker, now)));
        news
    }
}

#[cfg(test)]
mod tests {
    use proto::ids::LogIndex;
    use proto::status::Role;
    use proto::wire::WireUuid;

    use super::super::nodes::Registration;
    use super::*;

    #[test]
    fn a_worker_that_says_otherwise_is_logged_once_in_a_while() {
        let mut nodes = Nodes::default();
        nodes.register(Registration::bare(NodeId(1), Role::Balancer), LogIndex(1));
        for worker in [10, 11] {
            nodes.register(Registration::bare(NodeId(worker), Role::Worker), LogIndex(2));
        }
        let silent =
            |worker, incarnation| SilentWorker { worker_uuid: WireUuid::new(worker), incarnation };
        let mut silences = Silences::default();
        let said = [silent(10, 1), silent(11, 2), silent(12, 1), silent(1, 1)];
        let worker = (NodeId(10), Incarnation(1));
        let start = Instant(0);
        assert!(silences.news(start, 2, &said, &nodes).is_empty(), "of another group");
        assert_eq!(silences.news(start, 1, &said, &nodes), [worker]);
        let epoch = nodes.groups[&1].epoch;
        nodes.silence(1, epoch, &[worker]);
        assert!(silences.news(start + INTERVAL, 1, &said, &nodes).is_empty(), "it is logged");
        assert_eq!(silences.news(start, 1, &[silent(11, 1)], &nodes).len(), 1);
        for (after, count) in [(Duration::from_secs(10), 0), (INTERVAL, 1)] {
            assert_eq!(silences.news(start + after, 1, &[silent(11, 1)], &nodes).len(), count);
        }
    }
}
