//! What tasks write, on a real cluster: all of it comes back as it was written, of every task once,
//! also while a worker is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use client::Client;
use client::logic::jobs::{JobSelector, Submission};
use cluster_tests::wait::until;
use proto::description::{JobDescription, Noop, Program, Runtime};
use proto::ids::{JobId, TaskIndex};
use proto::segment::{Output, OutputContent};
use proto::status::{Cause, JobState, OutputKind};

use crate::cluster::{Cluster, LONG, kill};

const SHAPE: &[&str] =
    &["--masters", "1", "--balancers", "1", "--storage", "3", "--workers", "2", "--slots", "2"];

/// An output without where its bytes are.
type Wrote = (OutputKind, String, u16, bool, Vec<u8>);

fn connect(cluster: &Cluster) -> Client {
    let addresses = cluster.tier("master").into_iter().map(|it| it.address).collect();
    Client::connect(addresses).expect("connect to the cluster")
}

/// A job of a shell script.
fn shell(script: &str) -> JobDescription {
    let arguments = vec![b"-c".to_vec(), script.as_bytes().to_vec()];
    let program = Program::Path(b"/bin/sh".to_vec());
    JobDescription::new(Runtime::Command { program, arguments })
}

fn submit(client: &Client, description: &JobDescription, task_count: u64) -> JobId {
    let job = JobId(u128::from(task_count) << 64 | 0x0e7a);
    let submission = Submission::new(job, description, task_count, Vec::new())
        .expect("a job that can be submitted");
    client.submit(submission).expect("submit the job");
    job
}

/// Everything that tasks wrote, fetched from wherever it is.
#[track_caller]
fn collect(client: &Client, job: JobId, tasks: Range<u64>) -> BTreeMap<u64, Vec<Wrote>> {
    let mut all = BTreeMap::new();
    let mut outputs = client.outputs(job, tasks);
    while let Some(of_task) = outputs.next_task().expect("read the outputs") {
        let wrote = |output: &Output| {
            let bytes = client.read_output(output).expect("read an output");
            let name = String::from_utf8_lossy(&output.name).into_owned();
            (output.kind, name, output.mode, output.is_cut, bytes)
        };
        let wrote = of_task.outputs.iter().map(wrote).collect();
        let before = all.insert(of_task.task_index, wrote);
        assert_eq!(before, None, "task {} has two results", of_task.task_index);
    }
    all
}

fn printed(kind: OutputKind, text: impl Into<Vec<u8>>) -> Wrote {
    (kind, String::new(), 0, false, text.into())
}

fn file(name: &str, mode: u16, bytes: impl Into<Vec<u8>>) -> Wrote {
    (OutputKind::File, name.to_owned(), mode, false, bytes.into())
}

#[test]
fn all_outputs_of_all_tasks_come_back_although_a_worker_is_killed() {
    const TASKS: u64 = 240;
    let cluster = Cluster::start(SHAPE);
    let client = connect(&cluster);
    // Task 3 is asked for again once, and only what its second attempt wrote counts.
    let script = r#"
        umask 022; i=$REMUDA_TASK
        if [ $i = 3 ] && mkdir PLACE/once 2>/dev/null; then echo first; exit 9; fi
        echo "out $i"; [ $((i % 3)) = 0 ] && echo "err $i" >&2
        sleep 0.02
        cd $REMUDA_OUTPUTS; mkdir -p in/side empty; echo "file $i" > in/side/f; ln -s in/side/f link
        [ $i = 5 ] && head -c 9500000 /dev/zero | tr '\0' 'z' > large
        [ $i = 6 ] && for n in $(seq 100 129); do head -c 60000 /dev/zero > many$n; done
        echo left > ../left.txt; echo other > ../left.log
        [ $((i % 10)) != 7 ]"#;
    let mut description = shell(&script.replace("PLACE", &cluster.place().display().to_string()));
    description.outputs = vec!["*.txt".into()];
    description.retries = 1;
    let job = submit(&client, &description, TASKS);
    until("the first outcomes", LONG, || {
        let it = client.status(JobSelector::Id(job)).unwrap();
        assert!(it.done_count * 5 < TASKS * 4, "the kill comes too late: {it:?}");
        (it.done_count > 0).then_some(())
    });
    kill(cluster.tier("worker")[0].pid.unwrap());
    let ended = client.wait(JobSelector::Id(job)).unwrap();
    assert_eq!((ended.state, ended.failed_count), (JobState::Failed, TASKS / 10));
    let all = collect(&client, job, 0..TASKS);
    assert_eq!(all.len() as u64, TASKS);
    for (task, found) in all {
        let mut wanted = vec![printed(OutputKind::Stdout, format!("out {task}\n"))];
        if task % 3 == 0 {
            wanted.push(printed(OutputKind::Stderr, format!("err {task}\n")));
        }
        wanted.push((OutputKind::Folder, "empty".into(), 0o755, false, Vec::new()));
        wanted.push(file("in/side/f", 0o644, format!("file {task}\n")));
        if task == 5 {
            wanted.push(file("large", 0o644, vec![b'z'; 9_500_000]));
        }
        wanted.push(file("left.txt", 0o644, "left\n"));
        wanted.push((OutputKind::Link, "link".into(), 0o777, false, b"in/side/f".to_vec()));
        if task == 6 {
            let many = (100..130).map(|n| file(&format!("many{n}"), 0o644, vec![0; 60_000]));
            wanted.extend(many);
        }
        assert!(found == wanted, "task {task}: {found:?}");
    }
}

#[test]
fn what_is_too_much_is_cut_or_stored_beside_or_refused_with_a_reason() {
    let cluster = Cluster::start(SHAPE);
    let client = connect(&cluster);
    let script = r#"
        case $REMUDA_TASK in
        0) head -c 20000000 /dev/zero; echo end >&2 ;;
        1) truncate -s 200M $REMUDA_OUTPUTS/sparse; printf x >> $REMUDA_OUTPUTS/sparse ;;
        2) mkfifo $REMUDA_OUTPUTS/pipe ;;
        3) head -c 30000000 /dev/zero >&2; mkfifo $REMUDA_OUTPUTS/pipe ;;
        esac"#;
    let job = submit(&client, &shell(script), 4);
    let ended = client.wait(JobSelector::Id(job)).unwrap();
    assert_eq!((ended.done_count, ended.failed_count), (2, 2));
    let runs = client.outcomes(job, 2, 10).unwrap().items;
    assert!(runs.iter().all(|run| (run.exit_code, run.cause) == (0, Cause::OutputFailed)));

    let of = |task| client.task_outputs(job, TaskIndex(task)).unwrap();
    let cut = of(0);
    let kinds: Vec<_> = cut.iter().map(|output| (output.kind, output.is_cut)).collect();
    assert_eq!(kinds, [(OutputKind::Stdout, true), (OutputKind::Stderr, false)]);
    assert!(client.read_output(&cut[0]).unwrap() == vec![0; 16 << 20]);
    let OutputContent::File { file, length } = of(1)[0].content else { panic!("it is packed") };
    assert_eq!(length, (200 << 20) + 1);
    assert_eq!(client.get_range(file, length - 3..length).unwrap(), b"\0\0x");
    let reason = "remuda: the output pipe is a named pipe: files, folders and links are kept\n";
    assert_eq!(client.read_output(&of(2)[0]).unwrap(), reason.as_bytes());
    // Where there is no room for the reason, it takes that of the last that was printed.
    let stderr = of(3).remove(0);
    let bytes = client.read_output(&stderr).unwrap();
    assert!(stderr.is_cut && bytes.len() == 16 << 20 && bytes.ends_with(reason.as_bytes()));
}

#[test]
fn a_hundred_thousand_tasks_that_print_a_line_share_a_few_hundred_segments() {
    const TASKS: u64 = 100_000;
    let cluster = Cluster::start(SHAPE);
    let client = connect(&cluster);
    let noop = Noop { seed: 5, output_bytes: 20, failed_per_million: 1_000, ..Noop::default() };
    let job = submit(&client, &JobDescription::new(Runtime::Noop(noop)), TASKS);
    client.wait(JobSelector::Id(job)).unwrap();
    let all = collect(&client, job, 0..TASKS);
    assert_eq!(all.len() as u64, TASKS);
    for (task, found) in all {
        assert_eq!(found, [printed(OutputKind::Stdout, noop.printed(TaskIndex(task)))]);
    }
    let (mut segments, mut after) = (BTreeSet::new(), Some(0));
    while let Some(from) = after {
        let page = client.segments(job, from).unwrap();
        segments.extend(page.items.into_iter().map(|item| item.segment));
        after = page.next;
    }
    assert!(segments.len() < 1_000, "{} segments", segments.len());
}
