//! Workers that have been silent for long: the masters are told of them, so that their slots do not
//! count as the group's. Deliberately not here: their tasks, which were dealt again long before.

use proto::ids::NodeId;
use proto::messages::node::SilentWorker;
use proto::time::{Duration, Instant};

use super::{Standing, Worker, Workers};

/// A worker is gone when it was silent for so long: longer than a machine takes to start again.
const GONE: Duration = Duration::from_secs(60);

/// How often the masters are told.
const INTERVAL: Duration = Duration::from_secs(10);

/// How many they are told of at a time; the others' turn comes the next time.
const AT_ONCE: usize = 64;

/// When the masters are told next, and how many workers that are gone they were told of in this
/// round.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Telling {
    due: Instant,
    told: usize,
}

impl Workers {
    /// The workers of the group that are not gone, silent ones among them.
    pub(in crate::logic) fn heard_lately(&self, now: Instant) -> impl Iterator<Item = NodeId> {
        let is_lately = move |worker: &Worker| now < worker.heard_at + GONE;
        self.of_group().filter(move |(_, worker)| is_lately(worker)).map(|(node, _)| node)
    }

    /// The workers of the group that are gone, some at a time; none where the masters are not to be
    /// told now.
    pub(in crate::logic) fn take_gone(&mut self, now: Instant) -> Vec<SilentWorker> {
        if now < self.telling.due {
            return Vec::new();
        }
        let is_gone = |(_, worker): &(NodeId, &Worker)| {
            worker.standing == Standing::Silent && now >= worker.heard_at + GONE
        };
        let gone = self.of_group().filter(is_gone).skip(self.telling.told).take(AT_ONCE);
        let gone: Vec<SilentWorker> = gone
            .map(|(node, worker)| SilentWorker {
                worker_uuid: node.to_wire(),
                incarnation: worker.incarnation.0,
            })
            .collect();
        let told = if gone.len() == AT_ONCE { self.telling.told + AT_ONCE } else { 0 };
        self.telling = Telling { due: now + INTERVAL, told };
        gone
    }
}

#[cfg(test)]
mod tests {
    use proto::messages::task::WorkerHeartbeat;

    use super::super::tests::inbound;
    use super::*;

    const START: Instant = Instant(1_000_000);

    fn hear(workers: &mut Workers, now: Instant, worker: u128, group: u64) {
        let heartbeat = WorkerHeartbeat { group, worker_incarnation: 4, ..Default::default() };
        workers.take_heartbeat(now, NodeId(worker), inbound(), &heartbeat);
    }

    /// Whom the masters are told of, after everybody who is silent was found to be.
    fn gone(workers: &mut Workers, now: Instant) -> Vec<u128> {
        while !workers.fall_silent(now).is_empty() {}
        let gone = workers.take_gone(now);
        assert!(gone.iter().all(|it| { it.incarnation } == 4));
        gone.iter().map(|it| NodeId::from(it.worker_uuid).0).collect()
    }

    #[test]
    fn a_worker_of_the_group_that_was_silent_for_long_is_told_of_again_and_again() {
        let mut workers = Workers::default();
        workers.set_group(1, true);
        for (worker, group) in [(7, 1), (8, 1), (9, 2)] {
            hear(&mut workers, START, worker, group);
        }
        let before = START + (GONE - Duration::from_millis(1));
        assert!(gone(&mut workers, before).is_empty(), "it may come back");
        hear(&mut workers, before, 8, 1);
        assert!(gone(&mut workers, START + GONE).is_empty(), "the masters were asked just now");
        assert_eq!(gone(&mut workers, before + INTERVAL), [7]);
        assert_eq!(gone(&mut workers, before + INTERVAL + INTERVAL), [7]);
        let later = before + INTERVAL + INTERVAL + INTERVAL;
        hear(&mut workers, later, 7, 1);
        assert!(gone(&mut workers, later).is_empty(), "it is heard of again");
    }

    #[test]
    fn of_many_that_are_gone_each_has_its_turn() {
        let mut workers = Workers::default();
        workers.set_group(1, true);
        let all: Vec<u128> = (1..=2 * AT_ONCE as u128 + 5).collect();
        all.iter().for_each(|&worker| hear(&mut workers, START, worker, 1));
        let mut now = START + GONE;
        let mut rounds = Vec::new();
        for count in [AT_ONCE, AT_ONCE, 5, AT_ONCE] {
            let told = gone(&mut workers, now);
            assert_eq!(told.len(), count);
            rounds.push(told);
            now += INTERVAL;
        }
        assert_eq!(rounds[..3].concat(), all);
        assert_eq!(rounds[3], rounds[0], "another round");
    }
}
