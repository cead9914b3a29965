//! Which balancer group deals which tasks: grants, their sums, and the feeds that tell of them.
//!
//! Part of the replicated state and of `apply`. One group is granted a job in large parts. Where
//! several have workers, a job is shared out by guided self-scheduling: its parts get smaller
//! towards its end, and each goes to whichever group has the fewest tasks for its slots. Deliberately
//! not here: which worker a task goes to, and when a group counts as lost (`leases.rs`).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use imbl::OrdMap;
use proto::ids::{Epoch, JobId, LogIndex};
use serde::{Deserialize, Serialize};

use super::cluster::Cluster;
use super::jobs::Job;
use super::nodes::Nodes;

/// Tasks of one job that are granted at once at most, and to a group that is alone always; the next
/// part is granted when half of them have an outcome. Large enough that a grant is rare.
pub const GRANT_TASKS: u64 = 1 << 20;

/// Ended jobs that the feed still names; a balancer that is further behind reads the feed anew.
const ENDED_IN_FEED: usize = 4096;

/// A range of a job's tasks that a balancer group deals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The tasks.
    pub tasks: Range<u64>,
    /// The group.
    pub group: u64,
    /// Log index of the entry that granted it, or gave it to this group.
    pub index: LogIndex,
    /// Attempts are numbered from here on; 0 for a range that was never another group's.
    pub move_number: Epoch,
}

/// What one group has of one job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Tasks granted to it without an outcome.
    pub outstanding: u64,
    /// How many tasks it was granted last.
    last: u64,
}

impl Job {
    /// What a group has of the job.
    #[must_use]
    pub fn share(&self, group: u64) -> Share {
        self.shares.get(&group).copied().unwrap_or_default()
    }

    /// True where tasks of the job are not granted yet.
    #[must_use]
    pub fn has_ungranted(&self) -> bool {
        !self.state.is_final() && self.next_grant < self.task_count
    }

    fn unfinished_count(&self, range: Range<u64>) -> u64 {
        self.unfinished(range).iter().map(|piece| piece.end - piece.start).sum()
    }

    /// Grants the next `count` tasks to a group. Returns how many of them have no outcome.
    fn grant(&mut self, group: u64, count: u64, index: LogIndex) -> u64 {
        let tasks = self.next_grant..self.task_count.min(self.next_grant + count);
        self.next_grant = tasks.end;
        let added = self.unfinished_count(tasks.clone());
        let share = self.shares.entry(group).or_default();
        share.outstanding += added;
        share.last = tasks.end - tasks.start;
        self.grants.push(Grant { tasks, group, index, move_number: Epoch(0) });
        added
    }

    /// Tasks have their outcome now. Returns how many of them each group had.
    pub(super) fn leave_shares(&mut self, finished: &[Range<u64>]) -> Vec<(u64, u64)> {
        let mut counts: Vec<(u64, u64)> = Vec::new();
        for tasks in finished {
            // Grants are in the order of their tasks, none twice.
            let from = self.grants.partition_point(|grant| grant.tasks.end <= tasks.start);
            let over = self.grants[from..].iter().take_while(|it| it.tasks.start < tasks.end);
            for grant in over {
                let end = grant.tasks.end.min(tasks.end);
                let count = end - grant.tasks.start.max(tasks.start);
                match counts.iter_mut().find(|(group, _)| *group == grant.group) {
                    Some((_, known)) => *known += count,
                    None => counts.push((grant.group, count)),
                }
            }
        }
        for &(group, count) in &counts {
            let share = self.shares.entry(group).or_default();
            share.outstanding = share.outstanding.saturating_sub(count);
        }
        counts
    }

    /// Gives the grants of one group away: each that has unfinished tasks to the heir, the others
    /// are over. Returns what was given away, with the number of its unfinished tasks.
    fn hand_over(
        &mut self,
        from: u64,
        heir: u64,
        index: LogIndex,
        move_number: Epoch,
    ) -> Vec<(Grant, u64)> {
        let mut moved = Vec::new();
        for mut grant in std::mem::take(&mut self.grants) {
            if grant.group == from {
                let count = self.unfinished_count(grant.tasks.clone());
                if count == 0 {
                    continue;
                }
                grant.group = heir;
                (grant.index, grant.move_number) = (index, move_number);
                self.shares.entry(grant.group).or_default().outstanding += count;
                moved.push((grant.clone(), count));
            }
            self.grants.push(grant);
        }
        self.shares.remove(&from);
        moved
    }

    /// Walks the grants and panics on a broken invariant.
    pub(super) fn check_grants(&self) {
        let mut end = 0;
        let mut sums: BTreeMap<u64, u64> = BTreeMap::new();
        for grant in &self.grants {
            assert!(grant.tasks.start >= end, "grants are in order, and no task is in two");
            end = grant.tasks.end;
            *sums.entry(grant.group).or_default() += self.unfinished_count(grant.tasks.clone());
        }
        assert!(end <= self.next_grant, "what is granted lies below the next grant");
        let groups = self.shares.keys().chain(sums.keys());
        for group in groups {
            let counted = sums.get(group).copied().unwrap_or(0);
            assert_eq!(self.share(*group).outstanding, counted, "what group {group} has");
        }
    }
}

/// Where an active grant stands: its group, its place in the feed, its job and first task.
type Place = (u64, LogIndex, JobId, u64);

/// The grants of jobs that have no final state, and their sums. Part of the replicated state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Grants {
    /// In the order of the log, with the task behind the last one and the number from which
    /// attempts count.
    active: OrdMap<Place, (u64, Epoch)>,
    /// Tasks granted to each group without an outcome; none where there is no task.
    outstanding: OrdMap<u64, u64>,
    /// Those of them whose job is held.
    held: OrdMap<u64, u64>,
    /// Jobs of which some tasks are not granted yet, but for those that are held.
    unfinished: OrdMap<JobId, ()>,
}

impl Grants {
    /// Tasks that a group was granted, that have no outcome, and that it may deal: none of a job that
    /// is held.
    #[must_use]
    pub fn outstanding(&self, group: u64) -> u64 {
        self.granted(group).saturating_sub(self.held.get(&group).copied().unwrap_or(0))
    }

    /// Tasks that a group was granted and that have no outcome.
    fn granted(&self, group: u64) -> u64 {
        self.outstanding.get(&group).copied().unwrap_or(0)
    }

    /// True where tasks of some job wait to be granted, and the job is not held.
    #[must_use]
    pub fn has_ungranted(&self) -> bool {
        !self.unfinished.is_empty()
    }

    fn add(&mut self, id: JobId, grant: &Grant, count: u64, is_held: bool) {
        let place = (grant.group, grant.index, id, grant.tasks.start);
        self.active.insert(place, (grant.tasks.end, grant.move_number));
        count_in(&mut self.outstanding, grant.group, count);
        if is_held {
            count_in(&mut self.held, grant.group, count);
        }
    }

    /// So many tasks of a group are no longer its matter; their job was held, or not.
    pub(super) fn subtract(&mut self, group: u64, count: u64, is_held: bool) {
        count_out(&mut self.outstanding, group, count);
        if is_held {
            count_out(&mut self.held, group, count);
        }
    }

    /// A job is held from now on, and was not, or the other way round.
    pub(super) fn note_held(&mut self, id: JobId, job: &Job) {
        let count = if job.is_held { count_in } else { count_out };
        for (&group, share) in &job.shares {
            count(&mut self.held, group, share.outstanding);
        }
        self.note_ungranted(id, job);
    }

    /// Notes whether tasks of a job wait to be granted.
    fn note_ungranted(&mut self, id: JobId, job: &Job) {
        match job.has_ungranted() && !job.is_held {
            true => self.unfinished.insert(id, ()),
            false => self.unfinished.remove(&id),
        };
    }

    /// The receiver that has the fewest tasks for its slots: of those that it may deal; for a part
    /// of a job that is held, of all, so that what is held for long is not one group's.
    fn lightest(&self, receivers: &[(u64, u64)], is_held: bool) -> u64 {
        let count = |group| if is_held { self.granted(group) } else { self.outstanding(group) };
        let load = |&&(group, slots): &&(u64, u64)| (count(group), slots.max(1));
        let lightest = receivers.iter().min_by(|one, other| {
            let ((some, of), (more, than)) = (load(one), load(other));
            (u128::from(some) * u128::from(than)).cmp(&(u128::from(more) * u128::from(of)))
        });
        lightest.map_or(FIRST_GROUP, |(group, _)| *group)
    }

    /// To which group the next part of a job goes, and how many tasks; `None` where no group has so
    /// little left of the job that it is due.
    fn next_part(
        &self,
        job: &Job,
        receivers: &[(u64, u64)],
        is_one_group: bool,
    ) -> Option<(u64, u64)> {
        let left = job.task_count - job.next_grant;
        if left == 0 {
            return None;
        }
        // Where others only lost sight of their workers, they will have slots again, and what is
        // granted is not taken back.
        if let [(group, slots)] = *receivers
            && (is_one_group || slots == 0)
        {
            let is_due = job.share(group).outstanding <= GRANT_TASKS / 2;
            return is_due.then_some((group, GRANT_TASKS));
        }
        let is_due = |&&(group, slots): &&(u64, u64)| {
            let share = job.share(group);
            share.outstanding <= (share.last / 2).max(slots)
        };
        let due: Vec<(u64, u64)> = receivers.iter().filter(is_due).copied().collect();
        let group = (!due.is_empty()).then(|| self.lightest(&due, job.is_held))?;
        let slots = due.iter().find(|(it, _)| *it == group).map_or(1, |(_, slots)| *slots);
        let all: u64 = receivers.iter().map(|(_, slots)| slots).sum();
        let part = left.saturating_mul(slots) / (2 * all).max(1);
        Some((group, part.max(slots).clamp(1, GRANT_TASKS)))
    }
}

/// Adds to the count of a group; none is kept where there is nothing to count.
fn count_in(counts: &mut OrdMap<u64, u64>, group: u64, count: u64) {
    if count > 0 {
        *counts.entry(group).or_insert(0) += count;
    }
}

/// Takes from the count of a group.
fn count_out(counts: &mut OrdMap<u64, u64>, group: u64, count: u64) {
    if let Some(known) = counts.get_mut(&group) {
        *known = known.saturating_sub(count);
        if *known == 0 {
            counts.remove(&group);
        }
    }
}

/// The group that is granted tasks while none has workers.
pub(super) const FIRST_GROUP: u64 = 1;

/// The groups that may be granted tasks, with their slots: those that have workers; where none
/// has, the first one.
fn receivers(nodes: &Nodes) -> Vec<(u64, u64)> {
    let groups = nodes.groups.iter().map(|(&number, group)| (number, group.slot_count));
    let mut receivers: Vec<(u64, u64)> = groups.filter(|(_, slots)| *slots > 0).collect();
    if receivers.is_empty() {
        let first = nodes.groups.keys().next().copied().unwrap_or(FIRST_GROUP);
        receivers.push((first, 0));
    }
    receivers
}

/// One thing in a group's feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedEntry {
    /// A range of a job is granted to the group.
    Grant {
        /// Log index of the grant.
        index: LogIndex,
        /// The job.
        job: JobId,
        /// First task.
        first_task: u64,
        /// Number of tasks.
        task_count: u64,
        /// Attempts are numbered from here on; 0 for a range that was never another group's.
        move_number: Epoch,
    },
    /// A job has another priority, or is held, or no longer.
    Changed {
        /// Log index of the entry that changed it last.
        index: LogIndex,
        /// The job.
        job: JobId,
    },
    /// A job ended.
    Ended {
        /// Log index of the entry that ended it.
        index: LogIndex,
        /// The job.
        job: JobId,
    },
}

impl FeedEntry {
    /// Log index of the entry that made it.
    #[must_use]
    pub fn index(&self) -> LogIndex {
        match self {
            FeedEntry::Grant { index, .. }
            | FeedEntry::Changed { index, .. }
            | FeedEntry::Ended { index, .. } => *index,
        }
    }
}

impl Cluster {
    /// Grants more of a job to groups that have little left of it.
    pub(super) fn grant_more(&mut self, id: JobId, index: LogIndex) {
        if !self.jobs.get(&id).is_some_and(|job| job.has_ungranted()) {
            return;
        }
        let receivers = receivers(&self.nodes);
        let is_one_group = self.nodes.groups.len() <= 1
            || matches!(*receivers, [(group, _)] if !self.nodes.workers().any(|it| it.group != group));
        let Some(job) = self.jobs.get_mut(&id) else { return };
        while let Some((group, count)) = self.grants.next_part(job, &receivers, is_one_group) {
            let job = Arc::make_mut(job);
            let added = job.grant(group, count, index);
            if let Some(grant) = job.grants.last() {
                self.grants.add(id, grant, added, job.is_held);
            }
            self.feed_index = index;
        }
        self.grants.note_ungranted(id, job);
    }

    /// Grants more of all jobs: groups have other slots than before.
    pub(super) fn grant_more_of_all(&mut self, index: LogIndex) {
        let waiting: Vec<JobId> = self.grants.unfinished.keys().copied().collect();
        waiting.into_iter().for_each(|id| self.grant_more(id, index));
    }

    /// A group that has nobody to deal, or nobody to deal to, is given up: its workers and its
    /// unfinished ranges go to one other group. Changes nothing where the epoch is over, or the heir
    /// is gone.
    pub(super) fn lose_group(&mut self, group: u64, epoch: Epoch, heir: u64, index: LogIndex) {
        let lost = self.nodes.lose_group(group, epoch, heir, index);
        let Some(move_number) = lost else { return };
        let first = (group, LogIndex(0), JobId(0), 0);
        let last = (group, LogIndex(u64::MAX), JobId(u128::MAX), u64::MAX);
        let of_group = self.grants.active.range(first..=last);
        let places: Vec<Place> = of_group.map(|(place, _)| *place).collect();
        let mut jobs: Vec<JobId> = places.iter().map(|place| place.2).collect();
        jobs.sort_unstable();
        jobs.dedup();
        for place in &places {
            self.grants.active.remove(place);
        }
        self.grants.outstanding.remove(&group);
        self.grants.held.remove(&group);
        for id in jobs {
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            let is_held = job.is_held;
            for (grant, count) in Arc::make_mut(job).hand_over(group, heir, index, move_number) {
                self.grants.add(id, &grant, count, is_held);
            }
        }
        self.feed_index = index;
        self.grant_more_of_all(index);
    }

    /// Replaces a job's grants and changes in the feed by the news that it ended. It is held no more.
    pub(super) fn leave_feed(&mut self, id: JobId, index: LogIndex) {
        if let Some(job) = self.jobs.get_mut(&id) {
            let job = Arc::make_mut(job);
            for grant in std::mem::take(&mut job.grants) {
                let place = (grant.group, grant.index, id, grant.tasks.start);
                self.grants.active.remove(&place);
            }
            let was_held = std::mem::take(&mut job.is_held);
            for (group, share) in std::mem::take(&mut job.shares) {
                self.grants.subtract(group, share.outstanding, was_held);
            }
            self.grants.unfinished.remove(&id);
            self.changed.remove(&(job.changed, id));
            if !self.folds.is_task(id) {
                self.retention.finish(id, job.finished_us);
            }
        }
        self.ended.insert((index, id), ());
        self.feed_index = index;
        while self.ended.len() > ENDED_IN_FEED {
            let Some(&(oldest, ())) = self.ended.get_min() else {
                break;
            };
            self.ended.remove(&oldest);
            self.feed_floor = oldest.0;
        }
    }

    /// Newest log index of anything in a feed.
    #[must_use]
    pub fn feed_index(&self) -> LogIndex {
        self.feed_index
    }

    /// True where a reader that has everything up to `after` can go on from there.
    #[must_use]
    pub fn feed_reaches(&self, after: LogIndex) -> bool {
        after >= self.feed_floor && after.0 > 0
    }

    /// A group's feed behind `after`, in the order of the log.
    #[must_use]
    pub fn feed(&self, group: u64, after: LogIndex) -> Vec<FeedEntry> {
        let from = (group, after.next(), JobId(0), 0);
        let to = (group, LogIndex(u64::MAX), JobId(u128::MAX), u64::MAX);
        let grants = self.grants.active.range(from..=to).map(|(place, &(end, move_number))| {
            let &(_, index, job, first_task) = place;
            FeedEntry::Grant { index, job, first_task, task_count: end - first_task, move_number }
        });
        let ended = self
            .ended
            .range((after.next(), JobId(0))..)
            .map(|(&(index, job), ())| FeedEntry::Ended { index, job });
        let changed = self
            .changed
            .range((after.next(), JobId(0))..)
            .map(|(&(index, job), ())| FeedEntry::Changed { index, job });
        let mut entries: Vec<FeedEntry> = grants.chain(changed).chain(ended).collect();
        entries.sort_by_key(FeedEntry::index);
        entries
    }

    /// The unfinished tasks granted to a group, from a position on, at most `limit` runs; and where
    /// to go on.
    #[must_use]
    pub fn complete_feed(
        &self,
        group: u64,
        from: (JobId, u64),
        limit: usize,
    ) -> (Vec<FeedEntry>, Option<(JobId, u64)>) {
        let mut entries = Vec::new();
        for (&id, job) in self.jobs.range(from.0..) {
            let start = if id == from.0 { from.1 } else { 0 };
            for grant in job.grants.iter().filter(|grant| grant.group == group) {
                let range = grant.tasks.start.max(start)..grant.tasks.end;
                for tasks in job.unfinished(range) {
                    if entries.len() >= limit {
                        return (entries, Some((id, tasks.start)));
                    }
                    entries.push(FeedEntry::Grant {
                        index: grant.index,
                        job: id,
                        first_task: tasks.start,
                        task_count: tasks.end - tasks.start,
                        move_number: grant.move_number,
                    });
                }
            }
        }
        (entries, None)
    }

    /// The jobs that ended behind a log index; `None` where not all of them are remembered.
    #[must_use]
    pub fn ended_since(&self, index: LogIndex) -> Option<Vec<JobId>> {
        let behind = self.ended.range((index.next(), JobId(0))..);
        (index >= self.feed_floor).then(|| behind.map(|((_, job), ())| *job).collect())
    }

    /// Walks the grants and panics on a broken invariant.
    pub(super) fn check_grants(&self) {
        let grants = &self.grants;
        let (mut active, mut waiting) = (0, 0);
        let mut sums: BTreeMap<u64, u64> = BTreeMap::new();
        let mut held: BTreeMap<u64, u64> = BTreeMap::new();
        for (id, job) in &self.jobs {
            job.check_grants();
            active += job.grants.len();
            let waits = job.has_ungranted() && !job.is_held;
            waiting += usize::from(waits);
            assert_eq!(waits, grants.unfinished.contains_key(id), "job {id} waits");
            for grant in &job.grants {
                let place = (grant.group, grant.index, *id, grant.tasks.start);
                let kept = (grant.tasks.end, grant.move_number);
                assert_eq!(grants.active.get(&place), Some(&kept), "every grant is in the feed");
                let has_group = self.nodes.groups.contains_key(&grant.group);
                let is_early = self.nodes.groups.is_empty() && grant.group == FIRST_GROUP;
                assert!(has_group || is_early, "a grant of a group that is gone");
            }
            for (&group, share) in &job.shares {
                *sums.entry(group).or_default() += share.outstanding;
                *held.entry(group).or_default() += if job.is_held { share.outstanding } else { 0 };
            }
        }
        assert_eq!(active, grants.active.len(), "no grant in the feed without its job");
        assert_eq!(waiting, grants.unfinished.len(), "no job waits for grants that is not there");
        let kept = |counts: &OrdMap<u64, u64>| -> BTreeMap<u64, u64> {
            counts.iter().map(|(&group, &count)| (group, count)).collect()
        };
        for (mut counted, kept) in [(sums, kept(&grants.outstanding)), (held, kept(&grants.held))] {
            counted.retain(|_, sum| *sum > 0);
            assert_eq!(counted, kept, "the sums of unfinished tasks, and of those that are held");
        }
    }
}

#[cfg(test)]
impl Grants {
    /// So many unfinished tasks of these groups, of no job.
    pub(super) fn of(outstanding: &[(u64, u64)]) -> Grants {
        Grants { outstanding: outstanding.iter().copied().collect(), ..Grants::default() }
    }
}
