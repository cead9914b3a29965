//! What balancers deal: at most one of a group deals in an epoch (invariant 6), and a task that is
//! dealt again is dealt under a higher attempt, whichever group it belongs to by then.

use std::collections::BTreeMap;
use std::ops::Range;

use proto::ids::{Epoch, Incarnation, JobId, NodeId};

use super::{Violation, check};

/// A deal on its way.
#[derive(Clone, Debug)]
pub(crate) struct Deal {
    /// The group and the epoch under which it is dealt.
    pub(crate) under: (u64, Epoch),
    /// The balancer and its incarnation.
    pub(crate) by: (NodeId, Incarnation),
    /// The job.
    pub(crate) job: JobId,
    /// The tasks.
    pub(crate) tasks: Range<u64>,
    /// The attempt.
    pub(crate) attempt: u64,
}

/// The deals of a run.
#[derive(Debug, Default)]
pub(crate) struct Deals {
    /// Which balancer, and which incarnation of it, dealt under which group and epoch.
    dealers: BTreeMap<(u64, Epoch), (NodeId, Incarnation)>,
    /// The highest attempt under which each task was dealt, and by which group.
    attempts: BTreeMap<JobId, Vec<(u64, u64)>>,
}

impl Deals {
    /// A balancer deals. Returns how many of the tasks another group dealt before.
    pub(crate) fn dealt(&mut self, deal: &Deal) -> Result<u64, Violation> {
        let Deal { under, by, job, ref tasks, attempt } = *deal;
        let known = *self.dealers.entry(under).or_insert(by);
        let promise = "invariant 6: at most one balancer of a group acts in an epoch";
        check(known == by, promise, || {
            format!("{known:?} and {by:?} deal under group and epoch {under:?}")
        })?;
        let attempts = self.attempts.entry(job).or_default();
        let length = attempts.len().max(tasks.end as usize);
        attempts.resize(length, (0, 0));
        let mut moved_count = 0;
        for task in tasks.clone() {
            let before = std::mem::replace(&mut attempts[task as usize], (attempt, under.0));
            moved_count += u64::from(before.0 != 0 && before.1 != under.0);
            check(before.0 < attempt, "a later attempt is always the higher one", || {
                let (number, group) = before;
                format!("task {task} of job {job}: group {group} dealt {number:x}, then {deal:x?}")
            })?;
        }
        Ok(moved_count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deal(group: u64, epoch: u64, node: u128, attempt: u64) -> Deal {
        Deal {
            under: (group, Epoch(epoch)),
            by: (NodeId(node), Incarnation(1)),
            job: JobId(1),
            tasks: 3..5,
            attempt,
        }
    }

    #[test]
    fn a_second_dealer_of_an_epoch_and_a_lower_attempt_are_found() {
        let mut deals = Deals::default();
        assert_eq!(deals.dealt(&deal(2, 5, 1, 5 << 32)), Ok(0));
        assert_eq!(deals.dealt(&deal(1, 4, 2, 6 << 32)), Ok(2));
        assert!(deals.dealt(&deal(1, 4, 3, 7 << 32)).is_err());
        assert!(deals.dealt(&deal(3, 8, 3, 6 << 32)).is_err());
    }
}
