//! Workers that die with their tasks: evidence is counted, and only so often.

use std::path::Path;

use client::Client;
use client::logic::jobs::{JobSelector, Submission};
use cluster_tests::wait::until;
use proto::description::{JobDescription, Program, Runtime};
use proto::ids::JobId;
use proto::status::{JobState, TaskState};

use crate::cluster::{Cluster, Frozen, LONG, kill};

/// Tells that it runs, waits until the spawn helper noted that, and kills the worker, which is the
/// parent of its parent.
pub(crate) const DEADLY: &str = "echo attempt >> $TOLD
                      until test -s ../process; do sleep 0.01; done
                      kill -9 $(cut -d ' ' -f 4 /proc/$PPID/stat)
                      sleep 3600";

#[test]
fn a_task_that_kills_its_workers_fails_in_the_end() {
    let shape = ["--masters", "1", "--balancers", "1", "--storage", "1", "--workers", "1"];
    let cluster = Cluster::start(&[&shape[..], &["--slots", "1"]].concat());
    let client = Client::connect(vec![cluster.tier("master").remove(0).address]).unwrap();
    let told = cluster.place().join("told");
    let arguments = ["-euc", DEADLY].map(|it| it.as_bytes().to_vec()).to_vec();
    let program = Program::Path("sh".into());
    let mut description = JobDescription::new(Runtime::Command { program, arguments });
    description.environment = vec![("TOLD".to_owned(), told.to_str().unwrap().to_owned())];
    description.max_crashes = 2;
    let job = JobId(1);
    client.submit(Submission::new(job, &description, 1, Vec::new()).unwrap()).unwrap();
    assert_eq!(client.wait(JobSelector::Id(job)).unwrap().state, JobState::Failed);
    let outcomes = client.outcomes(job, 0, 10).unwrap().items;
    assert_eq!(outcomes.len(), 1);
    assert_eq!((&outcomes[0].tasks, outcomes[0].state), (&(0..1), TaskState::Failed));
    assert_eq!(std::fs::read_to_string(&told).unwrap(), "attempt\nattempt\n");
    assert!(cluster.tier("worker")[0].starts >= 3);
    // The worker that came back last works on.
    cluster.submit(&["--noop", "--array", "0-9", "--wait"]);
}

/// Whether a worker noted that a process of a task runs, in the folder of that task.
fn has_noted_a_process(tasks: &Path) -> bool {
    let folders = std::fs::read_dir(tasks).into_iter().flatten().flatten();
    let marks = folders.map(|folder| folder.path().join("process"));
    marks.filter_map(|mark| std::fs::metadata(mark).ok()).any(|mark| mark.len() > 0)
}

#[test]
fn evidence_outlives_a_worker_that_is_killed_again_before_a_master_heard_it() {
    let shape = ["--masters", "1", "--balancers", "1", "--storage", "1", "--workers", "1"];
    let cluster = Cluster::start(&[&shape[..], &["--slots", "1"]].concat());
    // The first crash is one too many; an attempt behind it would not end.
    let job = cluster.submit(&["--max-crashes", "1", "--", "sleep", "3600"]);
    let data = cluster.folder().join("worker-1");
    until("a task that runs", LONG, || has_noted_a_process(&data.join("tasks")).then_some(()));
    let worker = || cluster.tier("worker").remove(0);
    let master = Frozen::freeze(cluster.tier("master")[0].pid.expect("it runs"));
    kill(worker().pid.expect("it runs"));
    for start in 2..=3 {
        // What the task left is removed, so nothing but the note tells of it now.
        until("the worker's next start", LONG, || {
            let is_over = !has_noted_a_process(&data.join("tasks"));
            (is_over && data.join("crashed").exists() && worker().starts == start).then_some(())
        });
        until("what it found", LONG, || {
            let told = cluster.log("worker-1").matches("the worker died with tasks").count();
            (told + 1 >= start as usize).then_some(())
        });
        if start == 2 {
            kill(worker().pid.expect("it runs"));
        }
    }
    drop(master);
    let waited = cluster.run(&["wait", &job]);
    assert_eq!(waited.exit, 1, "{waited:?}");
    let it = cluster.job(&job);
    assert_eq!((&it["state"], &it["crashed_attempts"]), (&"failed".into(), &1.into()), "{it}");
    // It is told no more once it was heard.
    until("no evidence", LONG, || (!data.join("crashed").exists()).then_some(()));
    cluster.submit(&["--noop", "--array", "0-9", "--wait"]);
}
