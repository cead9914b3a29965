//! Hold, release, priority, forget, and what is forgotten by itself.

use super::*;
use crate::logic::commands::JobChange;
use crate::logic::retention::{FINISHED_JOBS, RETENTION_US, YOUNGEST_US};

fn ask(driven: &mut Driven, request: u64, change: ClientChange) -> Output {
    let asker =
        Asker { client: NodeId(8), request: RequestId(request), session_index: LogIndex(0) };
    driven.apply(Command::Client(asker, change))
}

/// Asks under a number of its own.
fn change(driven: &mut Driven, job: JobId, change: JobChange) -> Output {
    let request = driven.index + 1;
    ask(driven, request, ClientChange::Change { job, change })
}

fn cancel(driven: &mut Driven, job: JobId) -> Output {
    let request = driven.index + 1;
    ask(driven, request, ClientChange::Cancel { job })
}

#[track_caller]
fn refused(output: Output, code: ErrorCode, part: &str) {
    let Output::Refused { code: found, text } = output else { panic!("{output:?}") };
    assert!(found == code && text.contains(part), "{found}: {text}");
}

/// What the feed says of changes behind an index.
fn changed(cluster: &Cluster, after: u64) -> Vec<(u64, JobId)> {
    let entries = cluster.feed(1, LogIndex(after)).into_iter();
    entries
        .filter_map(|entry| match entry {
            FeedEntry::Changed { index, job } => Some((index.0, job)),
            FeedEntry::Grant { .. } | FeedEntry::Ended { .. } => None,
        })
        .collect()
}

#[test]
fn a_change_is_in_the_feed_once_until_the_job_ends() {
    let id = JobId(5);
    let mut driven = Driven::new();
    driven.submit(1, 1, id, job_record(id, 10, |_| {}));
    assert_eq!(change(&mut driven, id, JobChange::Hold), Output::Changed { job: id });
    assert_eq!(changed(&driven.cluster, 1), [(2, id)]);
    assert_eq!(driven.cluster.feed_index(), LogIndex(2));
    change(&mut driven, id, JobChange::Hold);
    assert_eq!(driven.cluster.feed_index(), LogIndex(2), "holding what is held changes nothing");
    change(&mut driven, id, JobChange::Priority(-3));
    assert_eq!(changed(&driven.cluster, 1), [(4, id)], "the newest change stands for all");
    let job = &driven.cluster.jobs[&id];
    assert_eq!((job.is_held, job.priority), (true, -3));
    change(&mut driven, id, JobChange::Release);
    assert_eq!(changed(&driven.cluster, 1), [(5, id)]);
    assert!(!driven.cluster.jobs[&id].is_held);
    cancel(&mut driven, id);
    assert_eq!(changed(&driven.cluster, 1), []);
}

#[test]
fn a_job_can_be_submitted_on_hold_and_what_runs_of_it_counts() {
    let id = JobId(5);
    let mut driven = Driven::new();
    driven.submit(1, 1, id, job_record(id, 2, |job| job.is_held = true));
    assert!(driven.cluster.jobs[&id].is_held);
    driven.report(run(id, 0..2, 1, TaskState::Done));
    let job = &driven.cluster.jobs[&id];
    assert_eq!((job.state, job.is_held), (JobState::Done, false));
    refused(change(&mut driven, id, JobChange::Hold), ErrorCode::Invalid, "is done");
    refused(change(&mut driven, id, JobChange::Release), ErrorCode::Invalid, "is done");
    refused(change(&mut driven, JobId(6), JobChange::Hold), ErrorCode::NotFound, "no job");
}

#[test]
fn a_change_that_is_repeated_has_the_effect_of_one() {
    let id = JobId(5);
    let mut driven = Driven::new();
    driven.submit(1, 1, id, job_record(id, 10, |_| {}));
    let hold = || ClientChange::Change { job: id, change: JobChange::Hold };
    let first = ask(&mut driven, 1, hold());
    ask(&mut driven, 2, ClientChange::Change { job: id, change: JobChange::Release });
    assert_eq!(ask(&mut driven, 1, hold()), first, "the first reply again");
    assert!(!driven.cluster.jobs[&id].is_held, "and not the first effect");
}

#[test]
fn only_what_ended_is_forgotten_and_its_uuid_is_remembered() {
    let id = JobId(5);
    let record = job_record(id, 10, |_| {});
    let mut driven = Driven::new();
    driven.submit(1, 1, id, record.clone());
    refused(change(&mut driven, id, JobChange::Forget), ErrorCode::Invalid, "cancel it first");
    cancel(&mut driven, id);
    let forget = || ClientChange::Change { job: id, change: JobChange::Forget };
    let first = ask(&mut driven, 77, forget());
    assert!(matches!(&first, Output::Forgotten { record } if !record.is_empty()), "{first:?}");
    assert_eq!(ask(&mut driven, 77, forget()), first, "a repetition gets the same reply");
    assert!(driven.cluster.jobs.is_empty() && driven.cluster.jobs_by_index.is_empty());
    // Whoever asks anew learns why, and nothing runs a second time.
    refused(change(&mut driven, id, JobChange::Forget), ErrorCode::Forgotten, "was forgotten");
    refused(cancel(&mut driven, id), ErrorCode::Forgotten, "was forgotten");
    refused(driven.submit(1, 3, id, record), ErrorCode::Forgotten, "was forgotten");
    refused(driven.cluster.no_job(JobId(6)), ErrorCode::NotFound, "no job");
    assert!(driven.report(run(id, 0..1, 1, TaskState::Done)).is_empty(), "and reports are dropped");
}

#[test]
fn finished_jobs_are_forgotten_by_log_time_and_others_never() {
    let mut driven = Driven::new();
    for id in [1, 2, 3] {
        driven.submit(1, id, JobId(id.into()), job_record(JobId(id.into()), 1, |_| {}));
    }
    driven.report(run(JobId(1), 0..1, 1, TaskState::Done));
    driven.report(run(JobId(2), 0..1, 1, TaskState::Failed));
    let finished_us = driven.cluster.jobs[&JobId(1)].finished_us;
    let due = finished_us + RETENTION_US;
    assert_eq!(driven.cluster.retention.due_us(), Some(due));
    let retain = |cluster: &mut Cluster, log_time_us| {
        let index = cluster.applied.next();
        let output = cluster.apply(index, log_time_us, Command::Retain);
        assert_eq!(output, Output::Retained { is_more: false });
        cluster.check_invariants();
        cluster.jobs.keys().map(|id| id.0).collect::<Vec<u128>>()
    };
    assert_eq!(retain(&mut driven.cluster, due - 1), [1, 2, 3]);
    assert_eq!(retain(&mut driven.cluster, due), [2, 3]);
    assert_eq!(retain(&mut driven.cluster, due + RETENTION_US), [3], "which never ended");
}

#[test]
fn ten_thousand_finished_jobs_stay_listed_and_young_ones_in_any_number() {
    let mut cluster = Cluster::default();
    let apply = |cluster: &mut Cluster, log_time_us, command| {
        let index = cluster.applied.next();
        cluster.apply(index, log_time_us, command)
    };
    let count = FINISHED_JOBS as u128 + 5;
    for id in (1..=count).map(JobId) {
        let asker = Asker { client: NodeId(1), request: RequestId(1), session_index: LogIndex(0) };
        let asker = Asker { request: RequestId(id.0 as u64), ..asker };
        let change = ClientChange::Submit { job: id, record: job_record(id, 1, |_| {}) };
        apply(&mut cluster, 10, Command::Client(asker, change));
        let runs = vec![run(id, 0..1, 1, TaskState::Done)];
        apply(&mut cluster, 20, Command::RunsLost { runs });
    }
    apply(&mut cluster, 20 + YOUNGEST_US - 1, Command::Retain);
    assert_eq!(cluster.jobs.len() as u128, count);
    apply(&mut cluster, 20 + YOUNGEST_US, Command::Retain);
    assert_eq!(cluster.jobs.len(), FINISHED_JOBS);
    assert_eq!(cluster.jobs.get_min().map(|(id, _)| id.0), Some(6), "the oldest are gone");
    cluster.check_invariants();
}

#[test]
fn a_frame_that_comes_again_after_a_leader_change_counts_nothing_twice() {
    let id = JobId(5);
    let mut driven = Driven::new();
    driven.submit(1, 1, id, job_record(id, 10, |job| job.retries = 3));
    driven.apply(Command::Register(worker(1)));
    let frame = |incarnation| Command::Complete {
        worker: NodeId(77),
        incarnation: Incarnation(incarnation),
        frame: 1,
        runs: vec![run(id, 0..3, 1, TaskState::Failed)],
        segments: Vec::new(),
    };
    let first = driven.apply(frame(1));
    // The next leader knows what the log said, from a snapshot or entry by entry.
    let bytes = <Cluster as consensus::StateMachine>::encode(&driven.cluster);
    let restored = <Cluster as consensus::StateMachine>::restore(&bytes).expect("it is read");
    assert_eq!(restored, driven.cluster);
    driven.cluster = restored;
    assert_eq!(driven.apply(frame(1)), first);
    // A worker that was restarted meanwhile tells it under its new incarnation's first number.
    driven.apply(Command::Register(worker(2)));
    driven.apply(frame(2));
    let counted = driven.cluster.jobs[&id].attempts.iter().next().map(|(_, kept)| kept.failed);
    assert_eq!(counted, Some(1));
}
