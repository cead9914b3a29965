//! Workers that die with their tasks: evidence is counted, and only so often.

use client::Client;
use client::logic::jobs::{JobSelector, Submission};
use proto::description::{JobDescription, Program, Runtime};
use proto::ids::JobId;
use proto::status::{JobState, TaskState};

use crate::cluster::Cluster;

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
