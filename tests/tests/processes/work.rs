//! Jobs of short tasks some of which fail, for tests that do something to a cluster meanwhile:
//! every outcome is known before.

use cluster_tests::wait::until;
use proto::description::Noop;
use proto::time::Duration;

use crate::cluster::{Cluster, LONG, Said};
use crate::islands::Islands;
use crate::jobs::assert_runs;

/// Tasks of 2 to 6 ms, of which some fail.
const NOOP: Noop = Noop {
    seed: 11,
    shortest: Duration::from_micros(2_000),
    longest: Duration::from_micros(6_000),
    failed_per_million: 50_000,
    output_bytes: 0,
};

const FLAGS: &[&str] = &[
    "--noop",
    "11",
    "--noop-shortest",
    "2000",
    "--noop-longest",
    "6000",
    "--noop-failed",
    "50000",
];

/// A cluster whose user runs commands.
pub(crate) trait Commands {
    /// Runs a command to its end.
    fn said(&self, arguments: &[&str]) -> Said;
}

impl Commands for Cluster {
    #[track_caller]
    fn said(&self, arguments: &[&str]) -> Said {
        self.run(arguments)
    }
}

impl Commands for Islands {
    #[track_caller]
    fn said(&self, arguments: &[&str]) -> Said {
        self.run(arguments)
    }
}

/// Submits a job of such tasks.
#[track_caller]
pub(crate) fn submit(cluster: &impl Commands, task_count: u64) -> String {
    let array = format!("0-{}", task_count - 1);
    let submit = ["submit", "--array", &array];
    cluster.said(&[&submit, FLAGS].concat()).ok().trim().to_owned()
}

/// Tasks of a job that have an outcome, and all.
#[track_caller]
fn counts(cluster: &impl Commands, job: &str) -> (u64, u64) {
    let it = cluster.said(&["status", job, "--json"]).json();
    let count = |key: &str| it[key].as_u64().unwrap_or_default();
    (count("done") + count("failed"), count("tasks"))
}

/// Tasks of a job that have an outcome.
#[track_caller]
pub(crate) fn ended(cluster: &impl Commands, job: &str) -> u64 {
    counts(cluster, job).0
}

/// Waits until some of the tasks of a job have an outcome, but not nearly all.
#[track_caller]
pub(crate) fn until_it_works(cluster: &impl Commands, job: &str) {
    until("the first outcomes", LONG, || {
        let (ended, all) = counts(cluster, job);
        assert!(ended * 5 < all * 4, "what is done to it comes too late: {ended} of {all}");
        (ended > 0).then_some(())
    });
}

/// Waits until a job has more outcomes than so many, or its last.
#[track_caller]
pub(crate) fn until_it_goes_on(cluster: &impl Commands, job: &str, before: u64, longest: Duration) {
    until("more outcomes", longest, || {
        let (ended, all) = counts(cluster, job);
        (ended > before || ended == all).then_some(())
    });
}

/// Waits for the end of a job, and compares all outcomes.
#[track_caller]
pub(crate) fn assert_ends(cluster: &impl Commands, job: &str, task_count: u64) {
    let waited = cluster.said(&["wait", job]);
    assert_eq!(waited.exit, 1, "{waited:?}");
    assert_runs(&cluster.said(&["tasks", job, "--json"]).json(), &NOOP, task_count);
}
