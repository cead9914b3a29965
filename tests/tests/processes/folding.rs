//! Folding of segments on a real cluster: few are listed, and nothing that tasks wrote or used is
//! another afterwards, also where a worker is killed in the middle of a fold.

use client::Client;
use client::logic::jobs::{JobSelector, Submission, Write};
use cluster_tests::wait::until;
use proto::description::{JobDescription, Noop, Runtime};
use proto::ids::{FileId, JobId, TaskIndex};
use proto::segment::OutputContent;
use proto::time::Duration;

use crate::cluster::{Cluster, Frozen, LONG, Listed, kill};

const SHAPE: &[&str] =
    &["--masters", "3", "--balancers", "1", "--storage", "2", "--workers", "2", "--slots", "2"];

const TASKS: u64 = 4_000;

/// What tasks print: a hundred of them make a segment, and four hundred fill it.
const NOOP: Noop = Noop {
    seed: 11,
    shortest: Duration::ZERO,
    longest: Duration::ZERO,
    failed_per_million: 10_000,
    output_bytes: 10_000,
};

fn segments(client: &Client, job: JobId) -> Vec<FileId> {
    let (mut segments, mut after) = (Vec::new(), Some(0));
    while let Some(from) = after {
        let page = client.segments(job, from).expect("a page of segments");
        segments.extend(page.items.into_iter().map(|item| item.segment));
        after = page.next;
    }
    segments.dedup();
    segments
}

/// How many folds a worker has begun and not ended, by its log.
fn open_folds(cluster: &Cluster, worker: &Listed) -> usize {
    let log = cluster.log(&worker.name);
    let count = |words: &str| log.matches(words).count();
    count("segments are being folded") - count("segments were folded")
}

#[test]
fn folded_segments_tell_the_same_although_a_worker_is_killed_in_a_fold() {
    let cluster = Cluster::start(SHAPE);
    let addresses = cluster.tier("master").into_iter().map(|it| it.address).collect();
    let client = Client::connect(addresses).expect("connect to the cluster");
    // So few that workers have to wait for folds now and then.
    let settings = [("setting/fold_segments", "2"), ("setting/listed_segments", "6")];
    let settings = settings.map(|(key, value)| Write {
        key: key.as_bytes().to_vec(),
        value: Some(value.as_bytes().to_vec()),
    });
    client.transact(Vec::new(), settings.to_vec()).unwrap().expect("nothing is in the way");
    let job = JobId(0xf01d << 64 | 1);
    let description = JobDescription::new(Runtime::Noop(NOOP));
    let submission = Submission::new(job, &description, TASKS, Vec::new()).unwrap();
    client.submit(submission).unwrap();

    let workers = cluster.tier("worker");
    until("a worker in the middle of a fold", LONG, || {
        let worker = workers.iter().find(|worker| open_folds(&cluster, worker) > 0)?;
        let pid = worker.pid.expect("it runs");
        let _frozen = Frozen::freeze(pid);
        // It may have ended the fold before it was stopped.
        let is_folding = open_folds(&cluster, worker) > 0;
        is_folding.then(|| kill(pid))
    });
    client.wait(JobSelector::Id(job)).unwrap();

    // In the end one of each level, each of half a dozen.
    until("few segments, and a large one", LONG, || {
        let listed = segments(&client, job);
        let is_large = |it: &FileId| client.file_length(*it).unwrap() > 16 << 20;
        (listed.len() <= 6 && listed.iter().any(is_large)).then_some(())
    });

    // All outputs, each once.
    let mut found = vec![false; TASKS as usize];
    let mut outputs = client.outputs(job, 0..TASKS);
    while let Some(task) = outputs.next_task().unwrap() {
        let [output] = &task.outputs[..] else { panic!("task {} printed once", task.task_index) };
        let wanted = OutputContent::Packed(NOOP.printed(TaskIndex(task.task_index)));
        assert!(output.content == wanted, "what task {} printed", task.task_index);
        let before = std::mem::replace(&mut found[task.task_index as usize], true);
        assert!(!before, "task {} has two results", task.task_index);
    }
    assert!(found.iter().all(|&is_found| is_found));
    // One task of a large segment.
    for task in [0, TASKS / 2, TASKS - 1].map(TaskIndex) {
        let outputs = client.task_outputs(job, task).unwrap();
        assert_eq!(client.read_output(&outputs[0]).unwrap(), NOOP.printed(task));
    }

    // What they used.
    let mut accounting = client.accounting(job).unwrap();
    for task in 0..TASKS {
        let entry = accounting.next_entry().unwrap().expect("every task has an entry");
        assert_eq!({ entry.task_index }, task);
        assert!(entry.attempt > 0 && entry.start_unix_us > 0);
    }
    assert_eq!(accounting.next_entry().unwrap(), None);

    // And as users read it.
    let name = job.to_string();
    let logs = cluster.run(&["logs", &name]).ok();
    let wanted: Vec<u8> = (0..TASKS).flat_map(|task| NOOP.printed(TaskIndex(task))).collect();
    assert!(logs.as_bytes() == wanted, "{} bytes of logs", logs.len());
    cluster.run(&["get", &format!("job:{name}"), "all"]).ok();
    for task in 0..TASKS {
        let path = cluster.place().join("all").join(task.to_string()).join("stdout");
        assert!(std::fs::read(path).unwrap() == NOOP.printed(TaskIndex(task)), "task {task}");
    }
    // The masters' own jobs are nobody's.
    let jobs = cluster.run(&["jobs", "--json"]).json();
    assert_eq!(jobs.as_array().map(Vec::len), Some(1), "{jobs}");
}
