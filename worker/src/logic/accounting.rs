//! What finished tasks used that wrote nothing, on its way into segments.
//!
//! Entries arrive here once the masters recorded the outcome of their task, so that only a task's
//! winner is kept. A segment is made within two seconds or at 64 KiB, and of all there is behind one
//! that is being stored. Deliberately not here: storing it, and tasks that wrote something
//! (`packing.rs`).

use std::collections::{BTreeMap, VecDeque};

use proto::digest::Digest;
use proto::ids::JobId;
use proto::messages::task::TaskRun;
use proto::segment::{self, AccountingEntry, ENTRY_BYTES, NewSection};
use proto::status::BlockKind;
use proto::time::{Duration, Instant};

use super::results::StoredSegment;
use super::storing::NewSegment;

/// How long an entry waits for others.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Entries that make a segment at once: 64 KiB.
const ENOUGH: usize = (64 << 10) / ENTRY_BYTES;

/// Most entries of one segment: 3 MiB. Larger ones cost the storage nodes less and there are fewer of
/// them; making and hashing this much takes the loop a few milliseconds.
const MOST: usize = (3 << 20) / ENTRY_BYTES;

/// Most runs of one segment, so that its report fits a status frame.
const MOST_RUNS: usize = 1_000;

/// Entries that wait, and the segment that is being stored.
#[derive(Clone, Debug, Default)]
pub struct Accounting {
    /// In the order in which they came. There may be a million of them: nothing looks at all.
    waiting: BTreeMap<JobId, VecDeque<AccountingEntry>>,
    waiting_count: usize,
    /// When the oldest of them must go.
    due: Option<Instant>,
    /// What the masters are told of the segment that is being stored.
    storing: Option<StoredSegment>,
    is_urgent: bool,
}

impl Accounting {
    /// Adds entries of tasks whose outcome is recorded.
    pub fn add(&mut self, now: Instant, job: JobId, entries: Vec<AccountingEntry>) {
        if entries.is_empty() {
            return;
        }
        self.due.get_or_insert(now + LONGEST_WAIT);
        self.waiting_count += entries.len();
        self.waiting.entry(job).or_default().extend(entries);
    }

    /// From now on nothing waits for more: the worker stops.
    pub fn hurry(&mut self) {
        self.is_urgent = true;
    }

    /// Bytes of what waits.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.waiting_count * ENTRY_BYTES
    }

    /// True where everything is stored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting_count == 0 && self.storing.is_none()
    }

    /// The segment to store now, if it is time for one; answered by [`Accounting::stored`].
    pub fn next_segment(&mut self, now: Instant) -> Option<NewSegment> {
        let is_time = self.waiting_count >= ENOUGH
            || self.is_urgent
            || self.due.is_some_and(|due| now >= due);
        if self.storing.is_some() || !is_time || self.waiting_count == 0 {
            return None;
        }
        let (stored, segment) = self.make_segment(now);
        self.storing = Some(stored);
        Some(segment)
    }

    fn make_segment(&mut self, now: Instant) -> (StoredSegment, NewSegment) {
        let mut sections: Vec<(JobId, Vec<AccountingEntry>)> = Vec::new();
        let mut runs: Vec<TaskRun> = Vec::new();
        let mut room = MOST;
        while room > 0
            && runs.len() < MOST_RUNS
            && let Some(mut job) = self.waiting.first_entry()
        {
            let id = *job.key();
            let of_job = job.get_mut();
            let mut entries: Vec<_> = of_job.drain(..room.min(of_job.len())).collect();
            entries.sort_unstable_by_key(|entry| (entry.task_index, entry.attempt));
            let mut fits = |entry: &AccountingEntry| extend(&mut runs, id, entry.task_index);
            let taken = entries.iter().map_while(|entry| fits(entry).then_some(())).count();
            for entry in entries.drain(taken..).rev() {
                of_job.push_front(entry);
            }
            if of_job.is_empty() {
                job.remove();
            }
            room -= taken;
            self.waiting_count -= taken;
            if taken == 0 {
                break;
            }
            sections.push((id, entries));
        }
        self.due = (self.waiting_count > 0).then_some(now + LONGEST_WAIT);
        let parts: Vec<NewSection<'_>> = sections
            .iter()
            .map(|(job, entries)| NewSection { job: *job, entries, outputs: &[] })
            .collect();
        let content = segment::encode(&parts);
        let file = Digest::of(BlockKind::Content, &content).file_id();
        (StoredSegment { file, runs }, NewSegment { file, content })
    }

    /// The segment is durable. Returns what the masters are to be told.
    pub fn stored(&mut self) -> Option<StoredSegment> {
        self.storing.take()
    }

    /// When [`Accounting::next_segment`] has something.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.due.filter(|_| self.storing.is_none())
    }

    /// Walks everything and panics on a broken invariant.
    pub fn check_invariants(&self) {
        let waiting: usize = self.waiting.values().map(VecDeque::len).sum();
        assert_eq!(waiting, self.waiting_count, "the count of entries");
        assert!(self.waiting.values().all(|entries| !entries.is_empty()), "a job without entries");
        assert_eq!(self.due.is_some(), waiting > 0, "entries that wait have a time to go");
    }
}

/// Adds a task behind the last run, or to it. False where there is no room for another run.
fn extend(runs: &mut Vec<TaskRun>, job: JobId, task: u64) -> bool {
    let job_uuid = job.to_wire();
    if let Some(run) = runs.last_mut()
        && run.job_uuid == job_uuid
        && run.first_task + run.task_count == task
    {
        run.task_count += 1;
        return true;
    }
    let has_room = runs.len() < MOST_RUNS;
    if has_room {
        runs.push(TaskRun { job_uuid, first_task: task, task_count: 1, ..TaskRun::default() });
    }
    has_room
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use proto::segment::Segment;

    use super::*;

    fn entries(tasks: Range<u64>) -> Vec<AccountingEntry> {
        let entry = |task_index| AccountingEntry { task_index, ..Default::default() };
        tasks.map(entry).collect()
    }

    fn tasks(stored: &StoredSegment) -> Vec<(u64, u64)> {
        stored.runs.iter().map(|run| (run.first_task, run.task_count)).collect()
    }

    #[test]
    fn few_entries_wait_two_seconds_and_many_do_not() {
        let mut accounting = Accounting::default();
        accounting.add(Instant(5), JobId(2), entries(0..10));
        assert_eq!(accounting.next_segment(Instant(5)), None);
        let due = accounting.next_deadline().unwrap();
        assert_eq!(due.since(Instant(5)), LONGEST_WAIT);
        let segment = accounting.next_segment(due).unwrap();
        assert_eq!(Segment::open(&segment.content).unwrap().sections().len(), 1);

        // Behind one that is being stored everything is collected, however much.
        accounting.add(due, JobId(2), entries(100..1_500));
        accounting.add(due, JobId(1), entries(7..8));
        assert_eq!(accounting.next_segment(due + LONGEST_WAIT), None);
        let stored = accounting.stored().unwrap();
        assert_eq!((stored.file, tasks(&stored)), (segment.file, vec![(0, 10)]));
        assert!(accounting.next_segment(due).is_some());
        let stored = accounting.stored().unwrap();
        assert_eq!(tasks(&stored), [(7, 1), (100, 1_400)]);
        assert!(accounting.is_empty());
        assert_eq!((accounting.bytes(), accounting.next_deadline()), (0, None));
    }

    #[test]
    fn segments_are_bounded_in_entries_and_runs_and_nothing_is_left_out() {
        let mut accounting = Accounting::default();
        let now = Instant(5);
        for job in 0..3 {
            accounting.add(now, JobId(job), entries(0..20_000));
        }
        let scattered = (0..5_000).flat_map(|n| entries(3 * n..3 * n + 1)).rev().collect();
        accounting.add(now, JobId(9), scattered);
        accounting.hurry();
        let mut seen = 0;
        while let Some(segment) = accounting.next_segment(now) {
            let read = Segment::open(&segment.content).unwrap();
            let count: usize = read.sections().iter().map(|section| section.entries.len()).sum();
            let stored = accounting.stored().unwrap();
            let named: u64 = stored.runs.iter().map(|run| run.task_count).sum();
            assert_eq!(named, count as u64);
            assert!(count <= MOST && stored.runs.len() <= MOST_RUNS);
            seen += count;
            accounting.check_invariants();
        }
        assert_eq!(seen, 65_000);
    }
}
